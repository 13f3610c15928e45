//! Chat templates: one, or several with names.

use super::files::Files;
use crate::checkpoint::read_json;
use crate::gguf::{Array, Metadata};
use crate::{Error, Result};
use serde_json::{Value as Json, json};

/// Writes the templates. `tokenizer_config.json` counts most, then `chat_template.jinja` with
/// `additional_chat_templates/`, then `chat_template.json`, as in gguf-py.
///
/// Errors: a template file that cannot be read.
pub fn write(files: &Files, out: &mut Metadata, warnings: &mut Vec<String>) -> Result<()> {
    let template = match &files.tokenizer_config["chat_template"] {
        Json::Null => own_files(files)?,
        template => template.clone(),
    };
    match template {
        Json::Null => {}
        Json::String(text) => out.set("tokenizer.chat_template", text),
        Json::Array(list) => write_list(&list, out),
        _ => warnings.push("chat_template is neither a text nor a list of named texts: it is left out".into()),
    }
    Ok(())
}

/// Templates in files of their own; null where there are none.
fn own_files(files: &Files) -> Result<Json> {
    let read = |name: &std::path::Path| match std::fs::read(name) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(name)(e)),
        Ok(bytes) => String::from_utf8(bytes).map(Some).map_err(|e| {
            Error::malformed(name, format!("byte {}", e.utf8_error().valid_up_to()), "is not valid UTF-8")
        }),
    };
    let Some(default) = read(&files.path("chat_template.jinja"))? else {
        let file = read_json(&files.path("chat_template.json"))?.unwrap_or_default();
        return Ok(file["chat_template"].clone());
    };
    let folder = files.path("additional_chat_templates");
    let mut others: Vec<_> = match std::fs::read_dir(&folder) {
        Err(_) => Vec::new(),
        Ok(entries) => entries.filter_map(|e| Some(e.ok()?.path())).collect(),
    };
    others.retain(|path| path.extension().is_some_and(|e| e == "jinja"));
    others.sort();
    if others.is_empty() {
        return Ok(default.into());
    }
    let mut list = vec![json!({ "name": "default", "template": default })];
    for path in others {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        list.push(json!({ "name": name, "template": read(&path)? }));
    }
    Ok(list.into())
}

/// Each under its name, then the names, then the default one.
fn write_list(list: &[Json], out: &mut Metadata) {
    let mut names: Vec<String> = Vec::new();
    let mut default = None;
    for entry in list {
        let (Some(name), Some(text)) = (entry["name"].as_str(), entry["template"].as_str()) else { continue };
        let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        if name == "default" {
            default = Some(text);
        } else if !name.is_empty() {
            out.set(format!("tokenizer.chat_template.{name}"), text);
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    if !names.is_empty() {
        out.set("tokenizer.chat_templates", Array::String(names));
    }
    if let Some(text) = default {
        out.set("tokenizer.chat_template", text);
    }
}
