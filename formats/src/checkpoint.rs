//! Hugging Face folders: `config.json` and its neighbours, one or many safetensors files.

mod file;

pub use file::{SafetensorsFile, StoredTensor};

use crate::{Error, Result, limits};
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A Hugging Face model folder, opened: configuration parsed, all shards mapped and checked.
#[derive(Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    config: Json,
    files: Vec<SafetensorsFile>,
    /// name -> (file, tensor)
    index: BTreeMap<String, (usize, usize)>,
}

impl Checkpoint {
    /// Opens a folder. Errors: no `config.json`, no safetensors, an index that names a missing shard or tensor, a shard
    /// that is missing by the others' names, a tensor in two shards, weights twice, a corrupted header.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref().to_owned();
        folder.metadata().map_err(Error::io(&folder))?;
        let config = read_json(&folder.join("config.json"))?.ok_or_else(|| {
            let what = if folder.join("adapter_config.json").exists() {
                "is missing: this is an adapter (LoRA), and no model; merge it into its base model (peft's `merge_and_unload`) and save that"
            } else {
                "is missing: this is no Hugging Face model folder"
            };
            Error::malformed(&folder, "config.json", what)
        })?;
        if !config.is_object() {
            return Err(Error::malformed(folder.join("config.json"), "top level", "is no JSON object"));
        }
        let mut files = Vec::new();
        let mut index = BTreeMap::new();
        let shards = list_shards(&folder)?;
        for path in &shards.files {
            let file = SafetensorsFile::open(path)?;
            for (i, t) in file.tensors().iter().enumerate() {
                if index.insert(t.name.clone(), (files.len(), i)).is_some() {
                    return Err(Error::malformed(path, format!("tensor {}", t.name), "is in two shards"));
                }
            }
            files.push(file);
        }
        for (name, shard) in &shards.expected {
            let said = folder.join(shard);
            if index.get(name).is_none_or(|&(file, _)| shards.files[file] != said) {
                let place = format!("tensor {name}");
                return Err(Error::malformed(
                    folder.join(INDEX),
                    place,
                    format!("is said to be in {shard}, but is not"),
                ));
            }
        }
        Ok(Checkpoint { folder, config, files, index })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// `config.json`.
    pub fn config(&self) -> &Json {
        &self.config
    }

    /// Another JSON file of the folder, `None` where there is none.
    pub fn json(&self, name: &str) -> Result<Option<Json>> {
        read_json(&self.folder.join(name))
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.index.keys().map(String::as_str)
    }

    /// A tensor by name, with the file that holds it.
    pub fn tensor(&self, name: &str) -> Option<(&SafetensorsFile, &StoredTensor)> {
        let &(file, tensor) = self.index.get(name)?;
        Some((&self.files[file], &self.files[file].tensors()[tensor]))
    }

    /// `config.json` and the shards, for those who need no names.
    pub fn into_parts(self) -> (Json, Vec<SafetensorsFile>) {
        (self.config, self.files)
    }

    /// The shards.
    pub fn files(&self) -> &[SafetensorsFile] {
        &self.files
    }
}

const INDEX: &str = "model.safetensors.index.json";
const WHOLE: &str = "model.safetensors";

struct Shards {
    files: Vec<PathBuf>,
    /// Tensor -> shard, where an index says so.
    expected: Vec<(String, String)>,
}

fn list_shards(folder: &Path) -> Result<Shards> {
    let index_path = folder.join(INDEX);
    if let Some(index) = read_json(&index_path)? {
        let map = index.get("weight_map").and_then(Json::as_object);
        let map = map.ok_or_else(|| Error::malformed(&index_path, "weight_map", "is missing or no object"))?;
        let mut names = BTreeSet::new();
        let mut expected = Vec::new();
        for (tensor, shard) in map {
            let shard = shard.as_str().filter(|s| !s.is_empty() && !s.contains(['/', '\\']) && *s != "..");
            let shard = shard.ok_or_else(|| {
                Error::malformed(&index_path, format!("tensor {tensor}"), "names no file of this folder")
            })?;
            names.insert(shard.to_owned());
            expected.push((tensor.clone(), shard.to_owned()));
        }
        if !names.contains(WHOLE) && folder.join(WHOLE).exists() {
            let what = format!("names other shards, but the folder also holds {WHOLE}: remove one of the two");
            return Err(Error::malformed(&index_path, "weight_map", what));
        }
        let files: Vec<PathBuf> = names.iter().map(|n| folder.join(n)).collect();
        if let Some(missing) = files.iter().find(|f| !f.exists()) {
            let name = missing.file_name().unwrap_or_default().to_string_lossy();
            return Err(Error::malformed(&index_path, format!("shard {name}"), "is named but not in the folder"));
        }
        return Ok(Shards { files, expected });
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("model") && name.ends_with(".safetensors") {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(Error::malformed(
            folder,
            WHOLE,
            "is missing: no safetensors weights here (PyTorch .bin files are not read; save the model with safe_serialization=True)",
        ));
    }
    complete(folder, &files)?;
    Ok(Shards { files, expected: Vec::new() })
}

/// Without an index, names like `model-00002-of-00003.safetensors` say how many shards there have to be.
fn complete(folder: &Path, files: &[PathBuf]) -> Result<()> {
    for path in files {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let Some((front, count)) = name.trim_end_matches(".safetensors").rsplit_once("-of-") else { continue };
        let Some((front, number)) = front.rsplit_once('-') else { continue };
        let (Ok(_), Ok(shards)) = (number.parse::<u32>(), count.parse::<u32>()) else { continue };
        let shard = |i: u32| format!("{front}-{i:0width$}-of-{count}.safetensors", width = number.len());
        // The first missing one ends the search, so that a large number in a name costs nothing.
        if let Some(missing) = (1..=shards).map(shard).find(|name| !folder.join(name).exists()) {
            return Err(Error::malformed(folder, format!("shard {missing}"), "is missing from the folder"));
        }
    }
    Ok(())
}

/// Reads and parses a JSON file; `None` if it does not exist.
pub fn read_json(path: &Path) -> Result<Option<Json>> {
    let text = match std::fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(path)(e)),
        Ok(m) if m.len() > limits::MAX_JSON => {
            return Err(Error::malformed(
                path,
                "file",
                format!("has {} bytes, more than any JSON file of a model", m.len()),
            ));
        }
        Ok(_) => std::fs::read(path).map_err(Error::io(path))?,
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|e| Error::malformed(path, format!("line {}, column {}", e.line(), e.column()), e.to_string()))
}
