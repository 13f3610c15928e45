//! The tokenizer's files in a model folder.

use super::TokenType;
use crate::checkpoint::read_json;
use crate::{Error, Result, limits};
use serde_json::Value as Json;
use std::path::{Path, PathBuf};

/// Everything that a folder says about its tokenizer.
pub struct Files {
    folder: PathBuf,
    /// `config.json`.
    pub config: Json,
    /// `tokenizer.json`.
    pub tokenizer: Option<Json>,
    /// `tokenizer_config.json`; null where there is none.
    pub tokenizer_config: Json,
    /// `special_tokens_map.json`; null where there is none.
    pub special_map: Json,
    /// `added_tokens.json`; null where there is none.
    pub added: Json,
    /// `tokenizer.model`.
    pub sentencepiece: Option<Vec<u8>>,
}

/// A token that was added to a tokenizer after its training.
pub struct Added<'a> {
    /// Its id.
    pub id: usize,
    /// Its text.
    pub text: &'a str,
    /// Said to be special.
    pub special: bool,
}

impl Files {
    /// Reads what there is. Errors: a file that cannot be read or parsed.
    pub fn read(folder: &Path, config: &Json) -> Result<Self> {
        let json = |name: &str| read_json(&folder.join(name));
        let tokenizer = json("tokenizer.json")?;
        let path = folder.join("tokenizer.model");
        let mut sentencepiece = None;
        if let Ok(meta) = std::fs::metadata(&path) {
            if meta.len() > limits::MAX_JSON {
                return Err(Error::malformed(
                    &path,
                    "file",
                    format!("has {} bytes, more than any vocabulary", meta.len()),
                ));
            }
            let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
            // Llama 3's file of this name is no sentencepiece model but lines of "base64 rank" (tiktoken); its content is
            // in tokenizer.json too. A sentencepiece model begins with the tag of its first piece.
            if bytes.first() == Some(&0x0A) || tokenizer.is_none() {
                sentencepiece = Some(bytes);
            }
        }
        Ok(Files {
            folder: folder.to_owned(),
            config: config.clone(),
            tokenizer,
            tokenizer_config: json("tokenizer_config.json")?.unwrap_or_default(),
            special_map: json("special_tokens_map.json")?.unwrap_or_default(),
            added: json("added_tokens.json")?.unwrap_or_default(),
            sentencepiece,
        })
    }

    /// The path of a file of the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// `added_tokens` of `tokenizer.json`.
    pub fn added_in_tokenizer(&self) -> Vec<Added<'_>> {
        let list = self.tokenizer.as_ref().and_then(|t| t["added_tokens"].as_array());
        list.into_iter().flatten().filter_map(|t| added(t["id"].as_u64()?, t)).collect()
    }

    /// `added_tokens_decoder` of `tokenizer_config.json`.
    pub fn added_in_config(&self) -> Vec<Added<'_>> {
        let map = self.tokenizer_config["added_tokens_decoder"].as_object();
        map.into_iter().flatten().filter_map(|(id, t)| added(id.parse().ok()?, t)).collect()
    }

    /// A special token's text (`bos`, `eos`, ...) in `tokenizer_config.json`, else in `special_tokens_map.json`.
    pub fn special(&self, kind: &str) -> Option<&str> {
        let key = format!("{kind}_token");
        let text = |v: &'_ Json| -> Option<String> { v.as_str().or_else(|| v["content"].as_str()).map(str::to_owned) };
        let of = |file: &'_ Json| text(&file[&key]).is_some();
        let file = [&self.tokenizer_config, &self.special_map].into_iter().find(|f| of(f))?;
        file[&key].as_str().or_else(|| file[&key]["content"].as_str())
    }
}

fn added(id: u64, token: &Json) -> Option<Added<'_>> {
    let text = token["content"].as_str()?;
    Some(Added { id: usize::try_from(id).ok()?, text, special: token["special"] == true })
}

/// The type of an added token. Some models mark control tokens as ordinary ones; they look like it (llama.cpp's list).
pub fn added_type(text: &str, special: bool) -> TokenType {
    let between = |begin: &str, end: &str| text.starts_with(begin) && text.ends_with(end);
    let looks_special = matches!(text, "<pad>" | "<mask>" | "<2mass>" | "[@BOS@]")
        || between("<|", "|>")
        || between("<｜", "｜>")
        || between("<unused", ">");
    if special || looks_special { TokenType::Control } else { TokenType::UserDefined }
}

/// The text of an added token as GGUF keeps it: ordinary ones with spaces for `▁`.
pub fn added_text(text: &str, kind: TokenType) -> String {
    if kind == TokenType::UserDefined { text.replace('▁', " ") } else { text.to_owned() }
}
