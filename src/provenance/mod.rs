//! Where a file comes from, and that it is still what was written: the keys `qconv.*`, which other readers ignore.
//!
//! | key | what it holds |
//! |---|---|
//! | `qconv.version` | the version that wrote the file |
//! | `qconv.recipe` | the options that decide about bytes, as they are given to `qconv convert` |
//! | `qconv.source.folder` | the name of a source folder, from which a model's name may come |
//! | `qconv.source.sha256` | `DIGEST  NAME` of each source file; `NAME#header` where only the header was read |
//! | `qconv.calibration.sha256` | `DIGEST  NAME` of the importance matrix, or of the text that gave it |
//! | `qconv.fingerprint` | digest of all that, with headers for weights: the same in all parts of a model |
//! | `qconv.tensors.sha256` | `DIGEST  NAME` of each tensor's data in this file, without padding |
//! | `qconv.head.sha256` | digest of all bytes before the first tensor, with 64 zeros in its own place |
//!
//! Digests are SHA-256 in hexadecimal. Of a split model, the first part has all keys, the others the last three.
//! Digests are known last and stand in the head: it is laid out with zeros in their places and written again at the end.

mod check;
mod hashes;
mod sources;

pub use check::{check, whole_head};
pub use hashes::{Failed, TensorHashes};
pub use sources::{SourceFile, files_of, hash_bytes, hash_file};

use crate::convert::Setting;
use crate::error::malformed;
use anyhow::Result;
use qconv_formats::gguf::{Array, Gguf, Metadata, TensorEntry, Value, Writer};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// What all keys begin with.
pub const PREFIX: &str = "qconv.";
const VERSION: &str = "qconv.version";
const RECIPE: &str = "qconv.recipe";
const FOLDER: &str = "qconv.source.folder";
const SOURCE: &str = "qconv.source.sha256";
const CALIBRATION: &str = "qconv.calibration.sha256";
const FINGERPRINT: &str = "qconv.fingerprint";
const TENSORS: &str = "qconv.tensors.sha256";
const HEAD: &str = "qconv.head.sha256";

/// A SHA-256.
pub type Digest = [u8; 32];

/// `e3b0c442...`
pub fn hex(digest: &Digest) -> String {
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

/// A line of sha256sum.
pub fn line(digest: &Digest, name: &str) -> String {
    format!("{}  {name}", hex(digest))
}

/// What is recorded about a conversion, besides the digests of tensors.
#[derive(Debug, Clone)]
pub struct Stamp {
    /// The keys of the first file, without the last three; source digests may still be zeros.
    about: Vec<Setting>,
    fingerprint: String,
}

/// What a conversion is to record.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// The options that decide about bytes.
    pub recipe: Vec<String>,
    /// The importance matrix.
    pub calibration: Option<PathBuf>,
    /// Its digest and name, where they are known already.
    pub calibrated: Option<String>,
    /// Source digests that are expected, and the file that says so.
    pub expected: Option<(PathBuf, Vec<String>)>,
    /// The source's folder name where the recipe was first used.
    pub folder: Option<String>,
}

impl Stamp {
    /// What is known before the conversion.
    pub fn new(record: &Record, folder: Option<&str>, sources: &[SourceFile]) -> Result<Self> {
        let mut about = vec![Setting { key: VERSION.into(), value: env!("CARGO_PKG_VERSION").into() }];
        about.push(Setting { key: RECIPE.into(), value: Value::Array(Array::String(record.recipe.clone())) });
        if let Some(folder) = record.folder.as_deref().or(folder) {
            about.push(Setting { key: FOLDER.into(), value: folder.into() });
        }
        if let Some(path) = &record.calibration {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let line = match &record.calibrated {
                Some(line) => line.clone(),
                None => line(&hash_file(path, &|| false)?, &name),
            };
            about.push(Setting { key: CALIBRATION.into(), value: Value::String(line) });
        }
        let mut all = Sha256::new();
        for Setting { key, value } in &about {
            all.update(format!("{key}\0{value:?}\0"));
        }
        for source in sources {
            all.update(source.identity()?);
        }
        let places = sources.iter().map(|s| line(&[0; 32], &s.shown)).collect();
        about.push(Setting { key: SOURCE.into(), value: Value::Array(Array::String(places)) });
        Ok(Stamp { about, fingerprint: hex(&all.finalize().into()) })
    }

    /// That of a file, with the digests of all its tensors by name; `None` where they are not recorded.
    pub fn of(gguf: &Gguf) -> Result<Option<(Self, HashMap<String, Digest>)>> {
        let metadata = gguf.metadata();
        let Some(fingerprint) = metadata.str(FINGERPRINT).map(str::to_owned) else { return Ok(None) };
        let last = [FINGERPRINT, TENSORS, HEAD];
        let about = metadata.iter().filter(|(key, _)| key.starts_with(PREFIX) && !last.contains(key));
        let about = about.map(|(key, value)| Setting { key: key.into(), value: value.clone() }).collect();
        let mut digests = HashMap::new();
        for file in gguf.files() {
            let metadata = file.metadata();
            let lines = metadata.get(TENSORS).and_then(Value::as_strings).unwrap_or_default();
            for line in lines {
                let (digest, name) = parse(line).ok_or_else(|| {
                    malformed(
                        file.map().path(),
                        format!("key {TENSORS}"),
                        format!("holds {line:?}, no digest and name"),
                    )
                })?;
                digests.insert(name.to_owned(), digest);
            }
        }
        let whole = gguf.tensors().iter().all(|t| digests.contains_key(&t.name));
        Ok(whole.then_some((Stamp { about, fingerprint }, digests)))
    }

    /// Joins parts of one conversion to each other and to nothing else.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Fills in the digests of the source files.
    pub fn set_sources(&mut self, lines: Vec<String>) {
        if let Some(source) = self.about.iter_mut().find(|s| s.key == SOURCE) {
            source.value = Value::Array(Array::String(lines));
        }
    }

    /// The head of a file with all digests in their places. `keys` are its others.
    pub fn seal(
        &self,
        keys: &Metadata,
        first: bool,
        tensors: &[TensorEntry],
        digest: impl Fn(usize) -> Digest,
    ) -> Result<Writer> {
        let mut all = Metadata::new();
        // Keys that number parts come last, as gguf-split writes them.
        let (split, others): (Vec<_>, Vec<_>) = keys.iter().partition(|(key, _)| key.starts_with("split."));
        others.into_iter().for_each(|(key, value)| all.set(key, value.clone()));
        if first {
            self.about.iter().for_each(|s| all.set(s.key.as_str(), s.value.clone()));
        }
        let lines = tensors.iter().enumerate().map(|(i, t)| line(&digest(i), &t.name)).collect();
        all.set(FINGERPRINT, self.fingerprint.as_str());
        all.set(TENSORS, Array::String(lines));
        all.set(HEAD, hex(&[0; 32]));
        split.into_iter().for_each(|(key, value)| all.set(key, value.clone()));
        let open = Writer::new(&all, tensors)?;
        all.set(HEAD, hex(&Sha256::digest(open.head()).into()));
        Ok(Writer::new(&all, tensors)?)
    }
}

/// The recipe of a file: options, source digests, the source folder's name.
pub fn recipe_of(path: &Path) -> Result<Record> {
    let gguf = Gguf::open_alone(path)?;
    let metadata = gguf.metadata();
    let strings = |key: &str| metadata.get(key).and_then(Value::as_strings).map(<[String]>::to_vec);
    let recipe = strings(RECIPE).ok_or_else(|| {
        let what = "is missing: the file does not say how it was made (qconv writes it unless --plain is given)";
        malformed(path, format!("key {RECIPE}"), what)
    })?;
    Ok(Record {
        recipe,
        calibration: None,
        calibrated: None,
        expected: strings(SOURCE).map(|lines| (path.to_owned(), lines)),
        folder: metadata.str(FOLDER).map(str::to_owned),
    })
}

/// The methods that a file was quantized by, as its recipe names them.
pub fn method_of(metadata: &Metadata) -> Option<&str> {
    let recipe = metadata.get(RECIPE).and_then(Value::as_strings)?;
    let named = recipe.iter().position(|arg| arg == "--method")?;
    recipe.get(named + 1).map(String::as_str)
}

/// What a file says about itself.
pub fn lines_of(metadata: &Metadata) -> Vec<String> {
    let mut lines = metadata.get(SOURCE).and_then(Value::as_strings).unwrap_or_default().to_vec();
    lines.extend(metadata.str(CALIBRATION).map(str::to_owned));
    lines
}

/// The version that wrote a file, and the digest of its calibration data.
pub fn version_of(metadata: &Metadata) -> Option<&str> {
    metadata.str(VERSION)
}

/// The fingerprint of a file.
pub fn fingerprint_of(metadata: &Metadata) -> Option<&str> {
    metadata.str(FINGERPRINT)
}

/// `DIGEST  NAME` of the importance matrix that a file was made with.
pub fn calibration_of(metadata: &Metadata) -> Option<&str> {
    metadata.str(CALIBRATION)
}

/// Digest and name of a line.
fn parse(line: &str) -> Option<(Digest, &str)> {
    let (digits, name) = line.split_once("  ").filter(|(digits, _)| digits.len() == 64 && digits.is_ascii())?;
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(digits.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some((digest, name))
}
