//! `config.json`, in the old style (`rope_theta`, `rope_scaling`) and the new (`rope_parameters`).

use crate::error::malformed;
use anyhow::Result;
use qconv_formats::checkpoint::Checkpoint;
use serde_json::{Map, Value as Json};
use std::path::PathBuf;

/// Classes that lead what they see into a language model and leave that as it is: `text_config` says which it is.
const WRAPPERS: &[&str] = &[
    "Mistral3ForConditionalGeneration",
    "LlavaForConditionalGeneration",
    "LlavaNextForConditionalGeneration",
    "InternVLForConditionalGeneration",
];

/// A parsed `config.json` with errors that name the key. The text part of a multimodal configuration is lifted to the top.
#[derive(Debug, Clone)]
pub struct Config {
    file: PathBuf,
    values: Map<String, Json>,
}

impl Config {
    /// Takes a checkpoint's configuration.
    pub fn new(checkpoint: &Checkpoint) -> Self {
        let mut values = checkpoint.config().as_object().cloned().unwrap_or_default();
        if let Some(Json::Object(text)) = values.get("text_config").cloned() {
            let class = values.get("architectures").cloned();
            let wrapped = class.as_ref().and_then(|c| c[0].as_str()).and_then(|class| language_model(class, &text));
            let tied = values.get("tie_word_embeddings").cloned().filter(|_| wrapped.is_some());
            values.extend(text);
            if let Some(class) = wrapped.map(|class| Json::from(vec![class])).or(class) {
                values.insert("architectures".into(), class);
            }
            // The output matrix is the wrapper's.
            if let Some(tied) = tied {
                values.insert("tie_word_embeddings".into(), tied);
            }
        }
        Config { file: checkpoint.folder().join("config.json"), values }
    }

    /// An error that names a key of the file.
    pub fn error(&self, key: &str, problem: impl Into<String>) -> anyhow::Error {
        malformed(&self.file, format!("key {key}"), problem)
    }

    /// A value that is there and not null.
    pub fn get(&self, key: &str) -> Option<&Json> {
        self.values.get(key).filter(|v| !v.is_null())
    }

    /// The first class of `architectures`.
    pub fn class(&self) -> Result<&str> {
        let classes = self.get("architectures").and_then(Json::as_array);
        classes.and_then(|c| c.first()).and_then(Json::as_str).ok_or_else(|| {
            self.error("architectures", "is missing: it names the model class, such as LlamaForCausalLM")
        })
    }

    /// A positive integer under the first of several names.
    pub fn maybe_size(&self, names: &[&str]) -> Result<Option<usize>> {
        let Some((name, value)) = names.iter().find_map(|n| Some((*n, self.get(n)?))) else { return Ok(None) };
        match value.as_u64() {
            Some(n) if n > 0 && n <= u64::from(u32::MAX) => Ok(Some(n as usize)),
            _ => Err(self.error(name, format!("is {value} where a positive integer is needed"))),
        }
    }

    /// A positive integer that must be there.
    pub fn size(&self, names: &[&str]) -> Result<usize> {
        self.maybe_size(names)?.ok_or_else(|| self.error(names[0], "is missing"))
    }

    /// A finite float under the first of several names.
    pub fn maybe_float(&self, names: &[&str]) -> Result<Option<f32>> {
        let Some((name, value)) = names.iter().find_map(|n| Some((*n, self.get(n)?))) else { return Ok(None) };
        self.finite(name, value).map(Some)
    }

    /// A finite float with the default that the model class has.
    pub fn float_or(&self, names: &[&str], default: f32) -> Result<f32> {
        Ok(self.maybe_float(names)?.unwrap_or(default))
    }

    /// A boolean, `false` where missing.
    pub fn flag(&self, name: &str) -> Result<bool> {
        match self.get(name) {
            None => Ok(false),
            Some(Json::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.error(name, format!("is {other} where true or false is needed"))),
        }
    }

    /// A number that may be missing; zero counts as one.
    pub fn maybe_size_or_zero(&self, name: &str) -> Result<Option<usize>> {
        if self.get(name).and_then(Json::as_u64) == Some(0) { Ok(Some(0)) } else { self.maybe_size(&[name]) }
    }

    /// Fills in what the file leaves out: keys that are missing, not those that are null.
    pub fn fill(&mut self, defaults: &Json) {
        for (key, value) in defaults.as_object().into_iter().flatten() {
            self.values.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }

    /// A string.
    pub fn str(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|n| self.get(n)?.as_str())
    }

    /// A number of layers for which no file can make us allocate nonsense.
    pub fn layers(&self) -> Result<usize> {
        const MOST: usize = 4096;
        let names = ["num_hidden_layers", "n_layer", "n_layers", "num_layers"];
        let n = self.size(&names)?;
        if n > MOST { Err(self.error(names[0], format!("is {n}, more than any model has"))) } else { Ok(n) }
    }

    /// The class's activation must be one of those that the family's forward pass computes.
    pub fn require_activation(&self, names: &[&str], known: &[&str]) -> Result<()> {
        let Some((name, act)) = names.iter().find_map(|n| Some((*n, self.get(n)?))) else { return Ok(()) };
        if act.as_str().is_some_and(|act| known.contains(&act)) {
            return Ok(());
        }
        Err(self.error(name, format!("is {act}; GGUF's forward pass for this family computes {known:?} only")))
    }

    /// Rotary embedding parameters, of either style; `kind` is `full_attention` or `sliding_attention` where a
    /// configuration has one set per kind of layer.
    pub fn rope(&self, kind: &str) -> Result<RopeConfig> {
        let empty = Map::new();
        let object = |v: Option<&Json>| v.and_then(Json::as_object).cloned();
        let shared = object(self.get("rope_parameters")).or_else(|| object(self.get("rope_scaling"))).unwrap_or(empty);
        let values = object(shared.get(kind)).unwrap_or(shared);
        let mut theta = values.get("rope_theta").filter(|v| !v.is_null());
        if theta.is_none() && kind == "full_attention" {
            theta = self.get("rope_theta");
        }
        let theta = theta.map(|v| self.finite("rope_theta", v)).transpose()?;
        let scaling = values.get("rope_type").or_else(|| values.get("type")).and_then(Json::as_str);
        let scaling = scaling.unwrap_or("default").to_lowercase();
        Ok(RopeConfig { config: self.clone(), values, theta, scaling })
    }

    fn finite(&self, name: &str, value: &Json) -> Result<f32> {
        match value.as_f64().map(|x| x as f32) {
            Some(x) if x.is_finite() => Ok(x),
            _ => Err(self.error(name, format!("is {value} where a finite number is needed"))),
        }
    }
}

/// The class of the language model inside one of [`WRAPPERS`]; the name of its type if no family here has that.
fn language_model(class: &str, text: &Map<String, Json>) -> Option<String> {
    let kind = text.get("model_type").and_then(Json::as_str).filter(|_| WRAPPERS.contains(&class))?;
    let plain = kind.replace('_', "");
    let mut known = super::ALL.iter().flat_map(|a| a.hf_classes);
    let found = known.find(|c| c.strip_suffix("ForCausalLM").is_some_and(|name| name.to_lowercase() == plain));
    Some(found.map_or_else(|| format!("{class} ({kind})"), |c| (*c).to_owned()))
}

/// Rotary embedding parameters of one kind of layer.
#[derive(Debug, Clone)]
pub struct RopeConfig {
    config: Config,
    values: Map<String, Json>,
    /// Base of the frequencies, if the configuration gives one.
    pub theta: Option<f32>,
    /// `default`, `linear`, `llama3`, `yarn`, `longrope`, `su`, `dynamic`, lower case.
    pub scaling: String,
}

impl RopeConfig {
    /// A float of the scaling.
    pub fn maybe_float(&self, key: &str) -> Result<Option<f32>> {
        let value = self.values.get(key).filter(|v| !v.is_null());
        value.map(|v| self.config.finite(&format!("rope_parameters.{key}"), v)).transpose()
    }

    /// A float of the scaling that must be there.
    pub fn float(&self, key: &str) -> Result<f32> {
        self.maybe_float(key)?.ok_or_else(|| self.config.error(&format!("rope_parameters.{key}"), "is missing"))
    }

    /// `original_max_position_embeddings`: at the top level, which goes before, or among the rotary parameters; else
    /// `max_position_embeddings`.
    pub fn original_context(&self) -> Result<usize> {
        let key = "original_max_position_embeddings";
        if let Some(n) = self.config.maybe_size(&[key])? {
            return Ok(n);
        }
        match self.maybe_float(key)? {
            Some(n) if n >= 1.0 => Ok(n as usize),
            Some(n) => Err(self.config.error(&format!("rope_parameters.{key}"), format!("is {n}"))),
            None => self.config.size(&["max_position_embeddings"]),
        }
    }

    /// By how much the context was extended: `factor`, else what follows from the lengths. It is positive.
    pub fn factor(&self) -> Result<f32> {
        let factor = match self.maybe_float("factor")? {
            Some(factor) => factor,
            None => self.config.size(&["max_position_embeddings"])? as f32 / self.original_context()? as f32,
        };
        if factor > 0.0 { Ok(factor) } else { Err(self.config.error("rope_parameters.factor", "is not positive")) }
    }

    /// A boolean is there and has this value.
    pub fn is(&self, key: &str, value: bool) -> bool {
        self.values.get(key).and_then(Json::as_bool) == Some(value)
    }

    /// A list of floats (LongRoPE's factors).
    pub fn floats(&self, key: &str) -> Result<Option<Vec<f32>>> {
        let Some(list) = self.values.get(key).and_then(Json::as_array) else { return Ok(None) };
        list.iter().map(|v| self.config.finite(&format!("rope_parameters.{key}"), v)).collect::<Result<_>>().map(Some)
    }
}
