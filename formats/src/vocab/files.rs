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
    pub added_json: Json,
    /// `vocab.json`, where there is no `tokenizer.json`; null otherwise.
    pub vocab: Json,
    /// `generation_config.json`; null where there is none.
    pub generation_config: Json,
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
    /// Looked for in normalized text. The others are decoded once, as llama.cpp's converter does.
    pub normalized: bool,
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
            // Llama 3's file of this name is no sentencepiece model; its content is in tokenizer.json too.
            if !is_tiktoken(&bytes) || tokenizer.is_none() {
                sentencepiece = Some(bytes);
            }
        }
        let vocab = if tokenizer.is_none() { json("vocab.json")? } else { None };
        Ok(Files {
            folder: folder.to_owned(),
            config: config.clone(),
            tokenizer,
            tokenizer_config: json("tokenizer_config.json")?.unwrap_or_default(),
            special_map: json("special_tokens_map.json")?.unwrap_or_default(),
            added_json: json("added_tokens.json")?.unwrap_or_default(),
            vocab: vocab.unwrap_or_default(),
            generation_config: json("generation_config.json")?.unwrap_or_default(),
            sentencepiece,
        })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Tells of added tokens that transformers finds in other places than readers of GGUF do, and of merges left out at random.
    pub fn warn_of_flags(&self, warnings: &mut Vec<String>) {
        let Some(tokenizer) = &self.tokenizer else { return };
        let list = || tokenizer["added_tokens"].as_array().into_iter().flatten();
        let flags = [
            ("lstrip", "take the white space before them"),
            ("rstrip", "take the white space behind them"),
            ("single_word", "stand only where no letter is beside them"),
        ];
        for (flag, what) in flags {
            let mut with = list().filter(|token| token[flag] == true).filter_map(text_of);
            if let Some(first) = with.next() {
                let more = with.count();
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                warnings.push(format!(
                    "the added token {first:?}{more}: such ({flag}) {what}; readers of GGUF do not know that"
                ));
            }
        }
        if tokenizer["model"]["dropout"].as_f64().is_some_and(|share| share > 0.0) {
            warnings.push(
                "tokenizer.json leaves merges out at random (model.dropout); readers of GGUF make all of them".into(),
            );
        }
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

    /// The tokens added in `tokenizer.json`, changed or completed by those of `tokenizer_config.json`, as transformers does.
    pub fn added(&self) -> Vec<Added<'_>> {
        let mut all = self.added_in_tokenizer();
        for token in self.added_in_config() {
            match all.iter_mut().find(|t| t.text == token.text) {
                Some(known) => *known = Added { id: known.id, ..token },
                None => all.push(token),
            }
        }
        all
    }

    /// A special token's text (`bos`, `eos`, ...) in `tokenizer_config.json`, else in `special_tokens_map.json`.
    pub fn special(&self, kind: &str) -> Option<&str> {
        let key = format!("{kind}_token");
        [&self.tokenizer_config, &self.special_map].into_iter().find_map(|file| text_of(&file[&key]))
    }

    /// All texts that the configuration calls special.
    pub fn named_special(&self) -> Vec<&str> {
        const KINDS: [&str; 7] = ["bos", "eos", "unk", "sep", "pad", "cls", "mask"];
        let mut names: Vec<&str> = KINDS.iter().filter_map(|kind| self.special(kind)).collect();
        let lists = [&self.tokenizer_config, &self.special_map]
            .into_iter()
            .flat_map(|file| ["additional_special_tokens", "extra_special_tokens"].map(|key| file[key].as_array()));
        names.extend(lists.flatten().flatten().filter_map(text_of));
        names
    }

    /// The id of a token's text, wherever the folder gives it.
    pub fn id_of(&self, text: &str) -> Option<u64> {
        let added = self.added_in_tokenizer().into_iter().chain(self.added_in_config()).find(|t| t.text == text);
        let vocab = self.tokenizer.as_ref().map_or(&self.vocab, |t| &t["model"]["vocab"]);
        added.map(|t| t.id as u64).or_else(|| vocab[text].as_u64()).or_else(|| self.added_json[text].as_u64())
    }
}

/// A token that is given as a text or as an object with its text.
fn text_of(token: &Json) -> Option<&str> {
    token.as_str().or_else(|| token["content"].as_str())
}

/// Whether a file begins with tiktoken's lines: a token in base64, a space, its rank.
fn is_tiktoken(bytes: &[u8]) -> bool {
    let line = bytes.split(|&b| b == b'\n').next().unwrap_or_default();
    let Some(space) = line.iter().position(|&b| b == b' ') else { return false };
    let (token, rank) = (&line[..space], &line[space + 1..]);
    let base64 = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=');
    !token.is_empty() && token.iter().all(base64) && !rank.is_empty() && rank.iter().all(u8::is_ascii_digit)
}

fn added(id: u64, token: &Json) -> Option<Added<'_>> {
    let text = token["content"].as_str()?;
    let special = token["special"] == true;
    let normalized = token["normalized"].as_bool().unwrap_or(!special);
    Some(Added { id: usize::try_from(id).ok()?, text, special, normalized })
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
