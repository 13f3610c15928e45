//! Who made a model and what it is called, as the caller says.

use crate::convert::Setting;
use crate::error::caller;
use crate::general;
use anyhow::Result;
use qconv_formats::Error;
use qconv_formats::gguf::{Array, Value};
use serde_json::Value as Json;
use std::path::PathBuf;

/// Metadata files beyond this size are a mistake.
const MOST: u64 = 1 << 20;

/// Options for `general.*`.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct Naming {
    /// Texts of general.* from a JSON file: {"general.name": "...", "general.tags": ["..."], ...}
    #[arg(long, help_heading = "Metadata", value_name = "FILE.json", value_parser = Given::read)]
    metadata: Option<Given>,

    /// The model's name (general.name)
    #[arg(long, help_heading = "Metadata", value_name = "NAME")]
    model_name: Option<String>,

    /// general.author
    #[arg(long, help_heading = "Metadata", value_name = "NAME")]
    author: Option<String>,

    /// general.version
    #[arg(long, help_heading = "Metadata", value_name = "VERSION")]
    model_version: Option<String>,

    /// general.organization
    #[arg(long, help_heading = "Metadata", value_name = "NAME")]
    organization: Option<String>,

    /// general.description
    #[arg(long, help_heading = "Metadata", value_name = "TEXT")]
    description: Option<String>,

    /// general.license, such as apache-2.0
    #[arg(long, help_heading = "Metadata", value_name = "SPDX")]
    license: Option<String>,

    /// Any key: llama.context_length=int:4096 (repeatable; types int, float, bool, str, or GGUF's own such as u64)
    #[arg(long, help_heading = "Metadata", value_name = "KEY=TYPE:VALUE", value_parser = Setting::parse)]
    override_kv: Vec<Setting>,
}

impl Naming {
    /// The file of --metadata.
    pub fn file(&self) -> Option<PathBuf> {
        self.metadata.as_ref().and_then(|given| given.file.clone())
    }

    /// These options as arguments.
    pub fn recipe(&self) -> Vec<String> {
        let options = [
            ("--metadata", self.metadata.as_ref().map(|given| &given.text)),
            ("--model-name", self.model_name.as_ref()),
            ("--author", self.author.as_ref()),
            ("--model-version", self.model_version.as_ref()),
            ("--organization", self.organization.as_ref()),
            ("--description", self.description.as_ref()),
            ("--license", self.license.as_ref()),
        ];
        // `=`: values may begin with a dash.
        let mut args: Vec<String> =
            options.into_iter().filter_map(|(flag, value)| Some(format!("{flag}={}", value?))).collect();
        args.extend(self.override_kv.iter().map(|setting| format!("--override-kv={setting}")));
        args
    }

    /// What is to be set, in order: the file, the named options, --override-kv.
    pub fn settings(&self) -> Vec<Setting> {
        let mut all = self.metadata.iter().flat_map(|given| given.settings.clone()).collect::<Vec<_>>();
        let named = [
            ("name", &self.model_name),
            ("author", &self.author),
            ("version", &self.model_version),
            ("organization", &self.organization),
            ("description", &self.description),
            ("license", &self.license),
        ];
        for (key, value) in named {
            let value = value.as_deref().map(Value::from);
            all.extend(value.map(|value| Setting { key: format!("general.{key}"), value }));
        }
        all.extend(self.override_kv.iter().cloned());
        all
    }
}

/// Texts of `general.*`.
#[derive(Debug, Clone)]
struct Given {
    settings: Vec<Setting>,
    /// The JSON.
    text: String,
    file: Option<PathBuf>,
}

impl Given {
    /// From a file, or from the JSON itself, as recipes have it. Errors name the key.
    fn read(path: &str) -> Result<Self> {
        if path.starts_with('{') {
            return Self::parse(path).map_err(caller);
        }
        let size = std::fs::metadata(path).map_err(Error::io(path))?.len();
        if size > MOST {
            return Err(caller(format!("{path}: has {size} bytes, more than any metadata")));
        }
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let given = Self::parse(&text).map_err(|what| caller(format!("{path}: {what}")))?;
        Ok(Given { file: Some(path.into()), ..given })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let json: serde_json::Map<String, Json> =
            serde_json::from_str(text).map_err(|e| format!("is no JSON object: {e}"))?;
        let text = Json::Object(json.clone()).to_string();
        let mut settings = Vec::new();
        for (key, json) in json {
            let known = general::keys().find(|(k, _)| *k == key);
            let Some((_, list)) = known else {
                let keys: Vec<String> = general::keys().map(|(k, _)| k).collect();
                return Err(format!("there is no key {key:?} here; the keys are {}", keys.join(", ")));
            };
            let value = if list {
                let items = json.as_array().map(|a| a.iter().map(|v| v.as_str().map(str::to_owned)).collect());
                items.flatten().map(|v: Vec<String>| Value::Array(Array::String(v)))
            } else {
                json.as_str().map(Value::from)
            };
            let kind = if list { "a list of texts" } else { "a text" };
            let value = value.ok_or_else(|| format!("{key} is {json}, and {kind} is needed"))?;
            settings.push(Setting { key, value });
        }
        Ok(Given { settings, text, file: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_kinds_are_checked() {
        let given = Given::parse(r#"{"general.name": "A b", "general.tags": ["x", "y"]}"#).unwrap();
        assert_eq!(given.settings[1].value, Value::Array(Array::String(vec!["x".into(), "y".into()])));
        for (text, word) in [
            ("[]", "object"),
            (r#"{"general.nam": "x"}"#, "general.name"),
            (r#"{"general.name": 1}"#, "general.name"),
            (r#"{"general.tags": "x"}"#, "list"),
            (r#"{"general.tags": [1]}"#, "list"),
        ] {
            assert!(Given::parse(text).unwrap_err().contains(word), "{text}");
        }
    }
}
