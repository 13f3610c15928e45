//! Hugging Face folders: `config.json` and its neighbours, one or many safetensors files.

use crate::{Error, Mapped, Result, Shape, limits};
use safetensors::Dtype;
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A safetensors file with its checked header.
#[derive(Debug)]
pub struct SafetensorsFile {
    map: Arc<Mapped>,
    tensors: Vec<StoredTensor>,
}

/// A tensor as a safetensors file stores it.
#[derive(Debug, Clone)]
pub struct StoredTensor {
    /// Name in the checkpoint.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Shape; scalars and empty tensors (which safetensors allows) have no [`Shape`].
    pub shape: Option<Shape>,
    /// Bytes of the file.
    pub range: Range<usize>,
}

impl SafetensorsFile {
    /// Maps a file and checks its header: offsets inside the file, no overlaps, sizes equal to shape times dtype.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let map = Mapped::open(path)?;
        let (head, meta) = safetensors::SafeTensors::read_metadata(map.bytes())
            .map_err(|e| Error::malformed(map.path(), "safetensors header", explain(&e, map.bytes())))?;
        let start = head + 8;
        let mut tensors = Vec::new();
        for (name, info) in meta.tensors() {
            let (a, b) = info.data_offsets;
            let end = start.checked_add(b).filter(|&e| e <= map.bytes().len() && a <= b);
            let end = end.ok_or_else(|| {
                Error::malformed(
                    map.path(),
                    format!("tensor {name}"),
                    format!("its bytes {a}..{b} end behind the file: it is truncated"),
                )
            })?;
            let shape = if info.shape.is_empty() || info.shape.contains(&0) {
                None
            } else {
                Some(
                    Shape::new(&info.shape)
                        .map_err(|what| Error::malformed(map.path(), format!("tensor {name}"), what))?,
                )
            };
            tensors.push(StoredTensor { name: name.clone(), dtype: info.dtype, shape, range: start + a..end });
        }
        tensors.sort_by(|x, y| x.range.start.cmp(&y.range.start).then_with(|| x.name.cmp(&y.name)));
        Ok(SafetensorsFile { map: Arc::new(map), tensors })
    }

    /// The tensors in file order.
    pub fn tensors(&self) -> &[StoredTensor] {
        &self.tensors
    }

    /// A tensor's bytes.
    pub fn bytes(&self, tensor: &StoredTensor) -> &[u8] {
        &self.map.bytes()[tensor.range.clone()]
    }

    /// The file.
    pub fn map(&self) -> &Arc<Mapped> {
        &self.map
    }
}

/// The safetensors crate's errors in words, with the numbers that are in the file.
fn explain(e: &safetensors::SafeTensorError, bytes: &[u8]) -> String {
    use safetensors::SafeTensorError as E;
    let size = bytes.len();
    let head = bytes.first_chunk::<8>().map(|b| u64::from_le_bytes(*b));
    match e {
        E::HeaderTooSmall => format!("the file has {size} bytes, a header alone takes 8 and more: it is truncated"),
        E::HeaderTooLarge | E::InvalidHeaderLength => {
            format!(
                "says that it is {} bytes long in a file of {size}: the file is truncated or no safetensors file",
                head.unwrap_or(0)
            )
        }
        E::MetadataIncompleteBuffer => {
            format!(
                "describes more or fewer bytes than the file's {size}: the file is truncated or has bytes behind its end"
            )
        }
        other => other.to_string(),
    }
}

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
    /// Opens a folder. Errors: no `config.json`, no safetensors, an index that names a missing shard or tensor, a tensor
    /// in two shards, a corrupted header.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref().to_owned();
        let config = read_json(&folder.join("config.json"))?.ok_or_else(|| {
            Error::malformed(&folder, "config.json", "is missing: this is no Hugging Face model folder")
        })?;
        if !config.is_object() {
            return Err(Error::malformed(folder.join("config.json"), "top level", "is no JSON object"));
        }
        let mut files = Vec::new();
        let mut index = BTreeMap::new();
        let shards = list_shards(&folder)?;
        for path in &shards.files {
            let file = SafetensorsFile::open(path)?;
            for (i, t) in file.tensors.iter().enumerate() {
                if index.insert(t.name.clone(), (files.len(), i)).is_some() {
                    return Err(Error::malformed(path, format!("tensor {}", t.name), "is in two shards"));
                }
            }
            files.push(file);
        }
        for (name, shard) in &shards.expected {
            if !index.contains_key(name) {
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
        Some((&self.files[file], &self.files[file].tensors[tensor]))
    }

    /// The shards.
    pub fn files(&self) -> &[SafetensorsFile] {
        &self.files
    }
}

const INDEX: &str = "model.safetensors.index.json";

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
            "model.safetensors",
            "is missing: no safetensors weights here (PyTorch .bin files are not read; save the model with safe_serialization=True)",
        ));
    }
    Ok(Shards { files, expected: Vec::new() })
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
