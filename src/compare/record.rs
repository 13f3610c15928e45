//! What a study knows already: one file of JSON per variant, written whole or not at all.

use super::{Row, Study};
use crate::model::Model;
use crate::output;
use crate::provenance;
use crate::ui::Ui;
use anyhow::Result;
use qconv_formats::Error;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// One variant's file.
#[derive(Serialize, Deserialize)]
pub struct Metadata {
    /// Everything on which the figures depend.
    pub made_from: Value,
    /// When they were measured, in UTC.
    pub measured: String,
    /// SHA-256 of the file that was measured; it may be gone.
    pub output_sha256: Option<String>,
    /// The figures.
    pub row: Row,
}

/// The folder of a study's results, and what all its variants have in common.
pub struct Records {
    folder: Option<PathBuf>,
    common: Value,
    /// The files that were measured stay.
    files_stay: bool,
}

impl Records {
    /// Where `--out` says, or nowhere.
    pub fn open(study: &Study, model: &Model, backend: &str) -> Result<Self> {
        let files_stay = study.keep.is_some();
        let Some(out) = study.out else { return Ok(Records { folder: None, common: Value::Null, files_stay }) };
        let folder = out.join("variants");
        std::fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        let hash = |path: &Path| Ok::<_, anyhow::Error>(provenance::hex(&provenance::hash_file(path, &|| false)?));
        let mut source = Vec::new();
        for file in provenance::files_of(model, false) {
            source.push(format!("{}  {}", hash(&file.path)?, file.shown));
        }
        let calibration = match study.importance.data() {
            Some(path) => json!({ "options": study.importance.recipe(), "sha256": hash(path)? }),
            None => Value::Null,
        };
        let program = std::env::current_exe().ok();
        let common = json!({
            "qconv": { "version": env!("CARGO_PKG_VERSION"), "sha256": program.map(|p| hash(&p)).transpose()? },
            "source": source,
            "text": { "file": study.file, "sha256": hash(study.file)?, "ctx": study.ctx, "chunks": study.chunks },
            "calibration": calibration,
            "speed": { "prompt": study.speed.0, "generate": study.speed.1 },
            "computing": { "options": study.computing.to_args(), "backend": backend },
            "machine": machine(),
        });
        Ok(Records { folder: Some(folder), common, files_stay })
    }

    /// All that the figures depend on.
    pub fn common(&self) -> &Value {
        &self.common
    }

    fn path(&self, mix: &str, method: Option<&str>) -> Option<PathBuf> {
        let name = method.map_or("original".into(), |method| format!("{}-{method}", mix.to_lowercase()));
        // Settings of methods stand behind a colon, which not every file system takes.
        Some(self.folder.as_ref()?.join(name.replace(':', "_") + ".json"))
    }

    fn made_from(&self, mix: &str, method: Option<&str>) -> Value {
        let mut all = self.common.clone();
        all["type"] = mix.into();
        all["method"] = method.into();
        all
    }

    /// A variant's figures, if they are there and would be measured the same way again. Failures are tried again.
    pub fn take(&self, mix: &str, method: Option<&str>, ui: &Ui) -> Option<Row> {
        let path = self.path(mix, method)?;
        let text = std::fs::read_to_string(&path).ok()?;
        let again = |why: String| ui.note(format!("{}: {why}; measured again", path.display()));
        let Some(content) = unseal(&text) else {
            again("is not what was written then".into());
            return None;
        };
        let found: Metadata = match serde_json::from_str(&content) {
            Ok(found) => found,
            Err(e) => {
                again(format!("is not understood ({e})"));
                return None;
            }
        };
        let (then, now) = (&found.made_from, self.made_from(mix, method));
        if let Some(key) = now.as_object()?.keys().find(|key| then.get(key) != now.get(key)) {
            again(format!("another {key}"));
            return None;
        }
        if found.row.failure.is_some() {
            again("it failed then".into());
            return None;
        }
        // Of a file that stayed nothing holds if it is another one now.
        let file = &found.row.file;
        if self.files_stay && method.is_some() && file.is_file() {
            let digest = provenance::hash_file(file, &|| false).ok().map(|d| provenance::hex(&d));
            if digest != found.output_sha256 {
                again(format!("{} is another file now", file.display()));
                return None;
            }
        }
        ui.note(format!("{}: taken from {}", found.row.label(), path.display()));
        Some(found.row)
    }

    /// Keeps a variant's figures. Of a file that goes afterwards the name is left.
    pub fn keep(&self, row: &mut Row) -> Result<()> {
        let method = row.method.as_deref();
        let path = self.path(&row.mix, method);
        let there = method.is_some() && path.is_some() && row.file.is_file();
        let digest = there.then(|| provenance::hash_file(&row.file, &|| false)).transpose()?;
        if let Some(name) = row.file.file_name().filter(|_| method.is_some() && !self.files_stay) {
            row.file = name.into();
        }
        let Some(path) = path else { return Ok(()) };
        let metadata = Metadata {
            made_from: self.made_from(&row.mix, row.method.as_deref()),
            measured: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
            output_sha256: digest.map(|d| provenance::hex(&d)),
            row: row.clone(),
        };
        output::write_whole(&path, seal(&serde_json::to_string_pretty(&metadata)?).as_bytes(), true)
    }
}

/// Between a variant's JSON and the SHA-256 of all that stands before it.
const SEAL: &str = ",\n  \"sha256_of_the_above\": \"";

/// Adds a digest of the text to it, as a last key: figures that were changed by hand, or by a damaged disk, are nobody's measurements.
fn seal(json: &str) -> String {
    let body = json.trim_end().trim_end_matches('}').trim_end();
    format!("{body}{SEAL}{}\"\n}}\n", provenance::hex(&provenance::hash_bytes(body.as_bytes())))
}

/// The text without its digest; `None` if that is missing or another's.
fn unseal(text: &str) -> Option<String> {
    let (body, digest) = text.rsplit_once(SEAL)?;
    let right = provenance::hex(&provenance::hash_bytes(body.as_bytes()));
    (digest.strip_suffix("\"\n}\n")? == right).then(|| format!("{body}\n}}"))
}

/// The machine, as far as the system tells.
fn machine() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let cpu = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':')).map(|(_, name)| name.trim());
    let memory = read("/proc/meminfo");
    let kilobytes = memory.lines().find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix("kB"));
    json!({
        "system": format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        "cpu": cpu,
        "threads": std::thread::available_parallelism().map(std::num::NonZero::get).ok(),
        "memory_bytes": kilobytes.and_then(|k| k.trim().parse::<u64>().ok()).map(|k| k * 1024),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_figures_are_noticed() {
        let json =
            serde_json::to_string_pretty(&json!({ "row": { "kl": 0.004_370_123_456_789 }, "more": {} })).unwrap();
        let sealed = seal(&json);
        assert!(serde_json::from_str::<Value>(&sealed).unwrap()["sha256_of_the_above"].is_string());
        assert_eq!(unseal(&sealed).as_deref(), Some(&*json));
        for wrong in
            [sealed.replace("0.00437", "0.00436"), sealed.replace(" \"more\"", "\"more\""), json, String::new()]
        {
            assert_eq!(unseal(&wrong), None, "{wrong}");
        }
    }
}
