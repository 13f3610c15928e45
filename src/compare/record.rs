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
        let found: Metadata = match serde_json::from_str(&text) {
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
        let text = serde_json::to_string_pretty(&metadata)? + "\n";
        output::write_whole(&path, text.as_bytes(), true)
    }
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
