//! Special tokens, the flags that say which are added to texts, and chat templates.

use super::files::Files;
use crate::gguf::{Array, Metadata};
use serde_json::Value as Json;

/// Kinds of special tokens with their keys in GGUF, in llama.cpp's order.
const KINDS: [(&str, &str); 7] = [
    ("bos", "bos_token_id"),
    ("eos", "eos_token_id"),
    ("unk", "unknown_token_id"),
    ("sep", "seperator_token_id"), // the format's own spelling
    ("pad", "padding_token_id"),
    ("cls", "cls_token_id"),
    ("mask", "mask_token_id"),
];

/// Writes ids, flags and templates.
pub fn write(files: &Files, vocab_size: usize, out: &mut Metadata, warnings: &mut Vec<String>) {
    let template = Template::read(files.tokenizer.as_ref());
    let first = template.first.as_deref().filter(|_| files.special("bos").is_none());
    let last = template.last.as_deref().filter(|_| files.special("eos").is_none());
    for (kind, key) in KINDS {
        let named = match kind {
            "bos" => files.special("bos").or(first).or_else(|| files.special("cls")),
            "eos" => files.special("eos").or(last).or_else(|| files.special("sep")),
            other => files.special(other),
        };
        let by_name = named.and_then(|text| id_of(files, text));
        let config_key = format!("{kind}_token_id");
        let by_id = [&files.config[&config_key], &files.config["text_config"][&config_key]]
            .into_iter()
            .find_map(|v| v.as_u64().or_else(|| v.as_array()?.first()?.as_u64()));
        match by_name.or(by_id) {
            Some(id) if (id as usize) < vocab_size => out.set(format!("tokenizer.ggml.{key}"), id as u32),
            Some(id) => {
                warnings.push(format!("the {kind} token {id} is beyond the model's {vocab_size} embeddings; left out"))
            }
            None => {}
        }
    }
    let flag = |kind: &str| files.tokenizer_config[format!("add_{kind}_token")].as_bool();
    for (kind, from_template) in [("bos", template.adds_first(files)), ("eos", template.adds_last(files))] {
        if let Some(value) = flag(kind).or(from_template) {
            out.set(format!("tokenizer.ggml.add_{kind}_token"), value);
        }
    }
    chat_template(files, out, warnings);
}

/// What the post-processor puts before and behind a text.
#[derive(Default)]
struct Template {
    known: bool,
    first: Option<String>,
    last: Option<String>,
}

impl Template {
    fn read(tokenizer: Option<&Json>) -> Self {
        let mut out = Template::default();
        let Some(processor) = tokenizer.map(|t| &t["post_processor"]).filter(|p| !p.is_null()) else { return out };
        let single = [processor.clone()];
        let list = processor["processors"].as_array().map_or(&single[..], |l| l);
        for p in list {
            match p["type"].as_str() {
                Some("ByteLevel") => out.known = true,
                Some("TemplateProcessing") => {
                    out.known = true;
                    let parts = p["single"].as_array().map_or(&[][..], |l| l);
                    let special = |v: Option<&Json>| v?["SpecialToken"]["id"].as_str().map(str::to_owned);
                    if parts.len() > 1 {
                        out.first = special(parts.first());
                        out.last = special(parts.last());
                    }
                }
                _ => {}
            }
        }
        out
    }

    fn adds_first(&self, files: &Files) -> Option<bool> {
        let bos = [files.special("bos"), files.special("cls")];
        self.known.then(|| self.first.as_deref().is_some_and(|f| bos == [None, None] || bos.contains(&Some(f))))
    }

    fn adds_last(&self, files: &Files) -> Option<bool> {
        self.known.then(|| self.last.as_deref().is_some_and(|l| files.special("eos").is_none_or(|e| e == l)))
    }
}

/// The id of a token's text.
fn id_of(files: &Files, text: &str) -> Option<u64> {
    let added = files.added_in_tokenizer().into_iter().chain(files.added_in_config()).find(|t| t.text == text);
    let in_vocab = || files.tokenizer.as_ref().and_then(|t| t["model"]["vocab"][text].as_u64());
    added.map(|t| t.id as u64).or_else(in_vocab).or_else(|| files.added[text].as_u64())
}

/// `chat_template.jinja`, `chat_template.json`, or `chat_template` of `tokenizer_config.json`: one template, or several with
/// names.
fn chat_template(files: &Files, out: &mut Metadata, warnings: &mut Vec<String>) {
    let jinja = std::fs::read_to_string(files.path("chat_template.jinja")).ok().map(Json::String);
    let json = || match crate::checkpoint::read_json(&files.path("chat_template.json")) {
        Ok(v) => v.map(|v| v["chat_template"].clone()),
        Err(e) => {
            warnings.push(format!("{e}; its chat template is left out"));
            None
        }
    };
    let template = jinja.or_else(json).unwrap_or_else(|| files.tokenizer_config["chat_template"].clone());
    match template {
        Json::String(text) => out.set("tokenizer.chat_template", text),
        Json::Array(list) => {
            let mut names = Vec::new();
            let mut default = None;
            for entry in &list {
                let (Some(name), Some(text)) = (entry["name"].as_str(), entry["template"].as_str()) else { continue };
                let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
                if name == "default" {
                    default = Some(text.to_owned());
                } else if !name.is_empty() {
                    out.set(format!("tokenizer.chat_template.{name}"), text);
                    names.push(name);
                }
            }
            if !names.is_empty() {
                out.set("tokenizer.chat_templates", Array::String(names));
            }
            if let Some(text) = default {
                out.set("tokenizer.chat_template", text);
            }
        }
        _ => {}
    }
}
