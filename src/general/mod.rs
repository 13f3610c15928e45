//! `general.*` metadata: who made a model, what it is called, where it comes from.
//!
//! Taken from the model card (`README.md`), `config.json`, `generation_config.json` and the folder's name, with the keys, types,
//! order and guesses of llama.cpp's converter (gguf-py's `Metadata`); `fixtures/naming` holds its answers. Where that writes an empty
//! string or fails over a card, here the value is left out with a warning.

mod card;

use crate::hub;
use crate::naming::{NameParts, ParameterCounts, title};
use crate::provenance;
use crate::recipe::Mix;
use card::{Card, Yaml};
use qconv_formats::checkpoint::Checkpoint;
use qconv_formats::gguf::{Array, Metadata, Value};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::path::Path;

/// `general.quantization_version`: the block layouts that ggml has used since 2023.
pub const QUANTIZATION_VERSION: u32 = 2;

/// Model cards beyond this size are not read.
const MAX_CARD: u64 = 16 << 20;

/// Plain texts in the order in which they are written, with the keys of a model card that may hold them; the first that does counts.
#[rustfmt::skip]
const TEXTS: &[(&str, &[&str])] = &[
    ("name", &["name", "model_name"]),
    ("author", &["author", "model_author", "model_creator"]),
    ("version", &["version", "model_version"]),
    ("organization", &["organization", "model_organization"]),
    ("finetune", &["finetune", "model_finetune"]),
    ("basename", &["basename", "model_basename", "model_type"]),
    ("description", &["description", "model_description"]),
    ("size_label", &["size_label", "model_size_label"]),
    ("license", &["license"]),
    ("license.name", &["license_name"]),
    ("license.link", &["license_link"]),
    ("source.url", &["url", "model_url"]),
    ("source.doi", &["doi", "model_doi"]),
    ("source.uuid", &["uuid", "model_uuid"]),
    ("source.repo_url", &["repo_url", "model_repo_url"]),
];

/// What is written about a base model or a dataset.
const ORIGIN: &[&str] = &["name", "author", "version", "organization", "description", "url", "doi", "uuid", "repo_url"];

/// Lists of texts: all keys of a card together.
const LISTS: &[(&str, &[&str])] = &[("tags", &["tags", "pipeline_tag"]), ("languages", &["languages", "language"])];

/// The keys of `general.*` that hold a text (`false`) or a list of texts (`true`).
pub fn keys() -> impl Iterator<Item = (String, bool)> {
    let texts = TEXTS.iter().map(|(key, _)| (format!("general.{key}"), false));
    texts.chain(LISTS.iter().map(|(key, _)| (format!("general.{key}"), true)))
}

/// How a sampling parameter is stored.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    Int,
    Float,
}

/// Sampling parameters in the order in which they are written, with the keys of `generation_config.json`; the first that is there
/// counts.
const SAMPLING: &[(&str, Kind, &[&str])] = &[
    ("sequence", Kind::Text, &["sequence"]),
    ("top_k", Kind::Int, &["top_k"]),
    ("top_p", Kind::Float, &["top_p"]),
    ("min_p", Kind::Float, &["min_p"]),
    ("xtc_probability", Kind::Float, &["xtc_probability"]),
    ("xtc_threshold", Kind::Float, &["xtc_threshold"]),
    ("temp", Kind::Float, &["temperature"]),
    ("penalty_last_n", Kind::Int, &["penalty_last_n"]),
    ("penalty_repeat", Kind::Float, &["penalty_repeat", "repetition_penalty"]),
    ("mirostat", Kind::Int, &["mirostat"]),
    ("mirostat_tau", Kind::Float, &["mirostat_tau"]),
    ("mirostat_eta", Kind::Float, &["mirostat_eta"]),
];

/// All `general.*` keys of a checkpoint but `general.architecture`, which the caller writes first.
///
/// Their order is llama.cpp's converter's: type, sampling, names, licence, sources, base models, datasets, tags, languages; then
/// `general.quantization_version` and `general.file_type`, which there come behind the architecture's own keys.
/// Whatever is wrong with the card or with `generation_config.json` is a warning, never an error; errors are the system's.
/// `folder_name` stands for the folder's own.
pub fn general(
    checkpoint: &Checkpoint,
    folder_name: Option<&str>,
    counts: &ParameterCounts,
    mix: &Mix,
    warnings: &mut Vec<String>,
) -> anyhow::Result<Metadata> {
    let folder = checkpoint.folder();
    let name = match folder_name {
        Some(name) => name.to_owned(),
        None => self::folder_name(folder)?,
    };
    let generation = checkpoint.json("generation_config.json").unwrap_or_else(|e| {
        warnings.push(format!("{e}; no sampling parameters are taken from it"));
        None
    });
    let sources = Sources {
        card: read_card(&folder.join("README.md"), warnings),
        config: checkpoint.config(),
        generation: generation.as_ref(),
        folder: &name,
    };
    Ok(sources.metadata(counts, mix, warnings))
}

/// All metadata of a GGUF file for one that is made from it: everything is copied but the numbers of its parts (`split.*`) and
/// what qconv says about how it was made (`qconv.*`);
/// [`QUANTIZATION_VERSION`] and the file type stand at the end, where llama-quantize puts them.
pub fn requantized(source: &Metadata, mix: &Mix) -> Metadata {
    let mut meta = Metadata::new();
    for (key, value) in
        source.iter().filter(|(key, _)| !key.starts_with("split.") && !key.starts_with(provenance::PREFIX))
    {
        meta.set(key, value.clone());
    }
    meta.remove("general.quantization_version");
    meta.remove("general.file_type");
    finish(&mut meta, mix);
    meta
}

/// The name of a source folder, from which a model's name may come. Snapshots in the hub's cache are called as the model is,
/// and not by their commit, which is what llama.cpp's converter takes.
pub fn folder_name(folder: &Path) -> anyhow::Result<String> {
    let folder = match folder.file_name() {
        Some(_) => std::path::absolute(folder)?,
        None => folder.canonicalize()?, // ".."
    };
    let name = hub::name(&folder).map(str::to_owned);
    Ok(name.unwrap_or_else(|| folder.file_name().unwrap_or_default().to_string_lossy().into_owned()))
}

fn finish(meta: &mut Metadata, mix: &Mix) {
    meta.set("general.quantization_version", QUANTIZATION_VERSION);
    meta.set("general.file_type", mix.file_type);
}

/// The card of a README; empty where there is none or it cannot be read.
fn read_card(path: &Path, warnings: &mut Vec<String>) -> Card {
    let text = match std::fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Card::default(),
        Ok(m) if m.len() > MAX_CARD => Err(format!("has {} bytes, more than any model card", m.len())),
        _ => std::fs::read_to_string(path).map_err(|e| e.to_string()),
    };
    text.and_then(|text| Card::parse(&text).map_err(|what| format!("front matter {what}"))).unwrap_or_else(|what| {
        warnings.push(format!("{}: {what}; no metadata is taken from it", path.display()));
        Card::default()
    })
}

/// What is known about a checkpoint.
struct Sources<'a> {
    card: Card,
    config: &'a Json,
    generation: Option<&'a Json>,
    folder: &'a str,
}

impl Sources<'_> {
    fn metadata(&self, counts: &ParameterCounts, mix: &Mix, warnings: &mut Vec<String>) -> Metadata {
        let mut meta = Metadata::new();
        meta.set("general.type", "model");
        self.sampling(&mut meta, warnings);
        let texts = self.texts(counts, warnings);
        for (key, _) in TEXTS {
            if let Some(text) = texts.get(key) {
                meta.set(format!("general.{key}"), text.as_str());
            }
        }
        for (key, names) in [
            ("base_model", ["base_model", "base_models", "base_model_sources"]),
            ("dataset", ["datasets", "dataset", "dataset_sources"]),
        ] {
            if let Some(value) = names.iter().find_map(|name| self.card.get(name)) {
                origins(&mut meta, key, value, counts, warnings);
            }
        }
        for (key, names) in LISTS {
            let items: Vec<String> =
                names.iter().filter_map(|n| self.card.get(n)).flat_map(|v| strings(key, v, warnings)).collect();
            if !items.is_empty() {
                meta.set(format!("general.{key}"), Array::String(items));
            }
        }
        finish(&mut meta, mix);
        meta
    }

    fn sampling(&self, meta: &mut Metadata, warnings: &mut Vec<String>) {
        let Some(generation) = self.generation else { return };
        for (key, kind, names) in SAMPLING {
            let found = names.iter().find_map(|name| Some((name, generation.get(name)?)));
            let Some((name, json)) = found.filter(|(_, json)| !json.is_null()) else { continue };
            match sampling_value(*kind, json) {
                Some(value) => meta.set(format!("general.sampling.{key}"), value),
                None => warnings.push(format!("generation_config.json: {name} is {json} and is left out")),
            }
        }
    }

    /// The plain texts: from the card, then from the names that `config.json` and the folder give.
    fn texts(&self, counts: &ParameterCounts, warnings: &mut Vec<String>) -> BTreeMap<&'static str, String> {
        let mut texts = BTreeMap::new();
        for (key, names) in TEXTS {
            let value = names.iter().filter_map(|name| self.card.get(name)).find_map(|v| text(key, v, warnings));
            if let Some(value) = value {
                texts.insert(*key, value);
            }
        }
        // a path of someone's computer is no name
        let id = self.config.get("_name_or_path").and_then(Json::as_str).filter(|id| id.matches('/').count() <= 1);
        for id in id.into_iter().chain([self.folder]) {
            let parts = NameParts::of(id, counts.total);
            let found = [
                ("name", parts.full.map(|full| title(&full))),
                ("organization", parts.organization.map(|org| title(&org))),
                ("basename", parts.basename),
                ("finetune", parts.finetune),
                ("version", parts.version),
                ("size_label", parts.size_label),
            ];
            for (key, value) in found {
                if let Some(value) = value.filter(|v| !v.is_empty()) {
                    texts.entry(key).or_insert(value);
                }
            }
        }
        texts.entry("name").or_insert_with(|| self.folder.to_owned());
        if counts.total > 0 {
            texts.entry("size_label").or_insert_with(|| counts.size_label());
        }
        texts
    }
}

fn sampling_value(kind: Kind, json: &Json) -> Option<Value> {
    match kind {
        Kind::Text => json.as_str().map(Value::from),
        Kind::Int => {
            let whole = json.as_f64().filter(|x| x.fract() == 0.0 && x.abs() <= f64::from(i32::MAX))?;
            Some(Value::I32(whole as i32))
        }
        Kind::Float => json.as_f64().map(|x| x as f32).filter(|x| x.is_finite()).map(Value::F32),
    }
}

/// A text, or a list of texts joined by commas. Empty ones are none.
fn text(key: &str, value: &Yaml, warnings: &mut Vec<String>) -> Option<String> {
    let text = match value {
        Yaml::Null => return None,
        Yaml::Text(text) => text.clone(),
        Yaml::List(_) => strings(key, value, warnings).join(","),
        Yaml::Map(_) => {
            warnings.push(format!("README.md: {key} is a mapping where a text is needed, and is left out"));
            return None;
        }
    };
    Some(text).filter(|t| !t.is_empty())
}

/// A text or a list of texts.
fn strings(key: &str, value: &Yaml, warnings: &mut Vec<String>) -> Vec<String> {
    let items = match value {
        Yaml::List(items) => items.as_slice(),
        other => std::slice::from_ref(other),
    };
    let mut texts = Vec::new();
    for item in items {
        match item {
            Yaml::Text(text) => texts.push(text.clone()),
            Yaml::Null => {}
            _ => warnings.push(format!("README.md: an item of {key} is no text and is left out")),
        }
    }
    texts
}

/// Writes base models or datasets: a count, and what is known of each.
fn origins(meta: &mut Metadata, key: &str, value: &Yaml, counts: &ParameterCounts, warnings: &mut Vec<String>) {
    let items = match value {
        Yaml::List(items) => items.as_slice(),
        Yaml::Text(_) => std::slice::from_ref(value),
        Yaml::Null => &[],
        Yaml::Map(_) => {
            warnings.push(format!("README.md: {key} is a mapping where a name or a list is needed, and is left out"));
            return;
        }
    };
    let mut found: Vec<BTreeMap<&str, String>> = Vec::new();
    for item in items {
        match item {
            Yaml::Text(id) => found.push(origin(id, counts)),
            Yaml::Map(card) => {
                let texts = ORIGIN.iter().filter_map(|k| Some((*k, text(k, card.get(k)?, warnings)?)));
                found.push(texts.collect());
            }
            _ => warnings.push(format!("README.md: an item of {key} is no name and is left out")),
        }
    }
    meta.set(format!("general.{key}.count"), found.len() as u32);
    for (i, origin) in found.iter().enumerate() {
        for part in ORIGIN {
            if let Some(text) = origin.get(part).filter(|t| !t.is_empty()) {
                meta.set(format!("general.{key}.{i}.{part}"), text.as_str());
            }
        }
    }
}

/// What an id (`org/name`) or an address tells about a base model or a dataset.
fn origin(id: &str, counts: &ParameterCounts) -> BTreeMap<&'static str, String> {
    let mut texts = BTreeMap::new();
    let address = ["http://", "https://", "ssh://"].iter().any(|scheme| id.starts_with(scheme));
    let named = if address { hugging_face_id(id) } else { Some(id) };
    if let Some(named) = named {
        // a base model is taken to be about as large as the model
        let parts = NameParts::of(named, counts.total);
        if let (Some(org), Some(full)) = (&parts.organization, &parts.full) {
            texts.insert("repo_url", format!("https://huggingface.co/{org}/{full}"));
        }
        texts.extend(parts.full.map(|full| ("name", title(&full))));
        texts.extend(parts.organization.map(|org| ("organization", title(&org))));
        texts.extend(parts.version.map(|version| ("version", version)));
    }
    if address {
        texts.insert("repo_url", id.to_owned());
    }
    texts
}

/// `org/name` of an address on Hugging Face.
fn hugging_face_id(address: &str) -> Option<&str> {
    let path = address.strip_prefix("https://").or_else(|| address.strip_prefix("http://"))?;
    let id = path.strip_prefix("huggingface.co/")?;
    let (org, name) = id.split_once('/')?;
    let whole = !org.is_empty() && !name.is_empty() && !name.contains('/');
    whole.then_some(id)
}

#[cfg(test)]
mod tests;
