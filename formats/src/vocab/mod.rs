//! Vocabularies: what GGUF keeps of a tokenizer (`tokenizer.ggml.*`), and how it is read from Hugging Face files.

pub mod byte_level;
pub mod pre;

mod byte_bpe;
mod chat;
mod fallback;
mod files;
mod habits;
mod sentencepiece;
mod special;
mod structure;
#[cfg(test)]
mod tests;

use crate::checkpoint::{Checkpoint, read_json};
use crate::gguf::{Array, Metadata};
use crate::{Error, Result, limits};
use files::{Added, Files, added_text, added_type};
use std::collections::HashMap;
use std::path::Path;

/// What kind of token an id is (`tokenizer.ggml.token_type`). The numbers are the format's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum TokenType {
    /// A piece of text.
    Normal = 1,
    /// Stands for what cannot be encoded.
    Unknown = 2,
    /// Steers the model and is no text.
    Control = 3,
    /// Added by the model's makers: text that is always one token.
    UserDefined = 4,
    /// Never meant to appear.
    Unused = 5,
    /// One byte, written `<0xE2>`.
    Byte = 6,
}

impl TokenType {
    /// By its number; `None` for numbers without a meaning.
    pub fn by_number(number: u64) -> Option<Self> {
        use TokenType::*;
        [Normal, Unknown, Control, UserDefined, Unused, Byte].into_iter().find(|&t| t as u64 == number)
    }
}

/// Reads the tokenizer of a Hugging Face folder and returns the `tokenizer.*` keys in the order in which they are to be written.
///
/// `vocab_size` is the number of embedding rows (0: as many as the tokenizer has); missing ids become `[PADn]`. What is
/// unusual but survivable is told in `warnings`, one sentence each.
///
/// The keys are those that llama.cpp's `convert_hf_to_gguf.py` writes, in its order, with three exceptions: where only
/// `tokenizer.json` of a sentencepiece kind exists, scores come from its merges (there they are all the same, which cuts
/// texts differently); `add_space_prefix` is written where a tokenizer adds none although the format's default does; BOS
/// and EOS are also looked for in `vocab.json`, `special_tokens_map.json` and `generation_config.json`.
///
/// Errors: no tokenizer file, a kind that GGUF's `llama` and `gpt2` models cannot express, a pre-tokenizer that no row of
/// [`pre::ALL`] describes, two tokens of the same id or text, merges of unknown tokens.
pub fn from_checkpoint(checkpoint: &Checkpoint, vocab_size: usize, warnings: &mut Vec<String>) -> Result<Metadata> {
    from_files(&Files::read(checkpoint.folder(), checkpoint.config())?, vocab_size, warnings)
}

/// [`from_checkpoint`] of a folder that need not hold a model: its tokenizer's files will do.
pub fn from_folder(folder: &Path, warnings: &mut Vec<String>) -> Result<Metadata> {
    let config = read_json(&folder.join("config.json"))?.unwrap_or_default();
    // Only padding ids depend on the number of embeddings, and no text becomes one of those.
    let size = config["vocab_size"].as_u64().or_else(|| config["text_config"]["vocab_size"].as_u64()).unwrap_or(0);
    if size > limits::MAX_JSON {
        return Err(Error::malformed(folder.join("config.json"), "key vocab_size", format!("is {size}")));
    }
    from_files(&Files::read(folder, &config)?, usize::try_from(size).unwrap_or(0), warnings)
}

fn from_files(files: &Files, vocab_size: usize, warnings: &mut Vec<String>) -> Result<Metadata> {
    let tokens = if let Some(model) = &files.sentencepiece {
        sentencepiece::tokens(model, files, vocab_size, warnings)?
    } else if let Some(json) = &files.tokenizer {
        match json["model"]["type"].as_str() {
            // Old files do not name the type; merges tell it.
            Some("BPE") | None if json["model"]["merges"].is_array() => {
                if json["model"]["byte_fallback"] == true {
                    fallback::tokens(json, files, vocab_size, warnings)?
                } else {
                    byte_bpe::tokens(json, files, vocab_size, warnings)?
                }
            }
            other => {
                let what = format!("is {}; BPE with merges is supported", other.unwrap_or("missing"));
                return Err(Error::malformed(files.path("tokenizer.json"), "key model.type", what));
            }
        }
    } else if files.vocab.is_object() && files.path("merges.txt").exists() {
        byte_bpe::tokens_from_text_files(files, vocab_size, warnings)?
    } else {
        let what = "none of tokenizer.model, tokenizer.json, or vocab.json with merges.txt is there";
        return Err(Error::malformed(files.folder(), "tokenizer", what));
    };
    tokens.check(files.folder())?;
    files.warn_of_flags(warnings);
    let size = tokens.text.len();
    let mut out = Metadata::new();
    // With any other file, ids that it does not name are readers' defaults, as llama.cpp's converter leaves them.
    let alone = files.tokenizer.is_none() && files.tokenizer_config.is_null();
    let own_ids = if alone { tokens.own_ids.clone() } else { Vec::new() };
    tokens.write(&mut out);
    special::write(files, size, &mut out, warnings);
    for (key, id) in own_ids {
        if out.get(key).is_none() && (id as usize) < size {
            out.set(key, id);
        }
    }
    chat::write(files, &mut out, warnings)?;
    habits::apply(files, size, &mut out);
    Ok(out)
}

/// The part of the vocabulary that both kinds of tokenizer have.
struct Tokens {
    /// `llama` or `gpt2`.
    model: &'static str,
    /// `tokenizer.ggml.pre`.
    pre: String,
    /// By id.
    text: Vec<String>,
    /// By id; sentencepiece only.
    scores: Option<Vec<f32>>,
    /// By id.
    types: Vec<TokenType>,
    /// `left right`, best first; byte-level only.
    merges: Vec<String>,
    /// A space goes before the text; `None`: the model's default.
    add_space_prefix: Option<bool>,
    /// Keys and ids of special tokens that the vocabulary itself knows, for where no other file does.
    own_ids: Vec<(&'static str, u32)>,
}

impl Tokens {
    /// `vocab_size` unused entries.
    fn empty(model: &'static str, pre: &str, vocab_size: usize) -> Self {
        Tokens {
            model,
            pre: pre.to_owned(),
            text: (0..vocab_size).map(|i| format!("[PAD{i}]")).collect(),
            scores: (model == "llama").then(|| vec![-10_000.0; vocab_size]),
            types: vec![TokenType::Unused; vocab_size],
            merges: Vec::new(),
            add_space_prefix: None,
            own_ids: Vec::new(),
        }
    }

    /// Sets an entry; ids beyond the embeddings are left out and counted by the caller.
    fn set(&mut self, id: usize, text: &str, kind: TokenType, score: f32) -> bool {
        if id >= self.text.len() {
            return false;
        }
        text.clone_into(&mut self.text[id]);
        self.types[id] = kind;
        if let Some(scores) = &mut self.scores {
            scores[id] = score;
        }
        true
    }

    /// Sets an entry of the base vocabulary: one text for each id. The error names both texts.
    fn set_new(&mut self, id: usize, text: &str, kind: TokenType, score: f32) -> Result<bool, String> {
        match self.types.get(id) {
            Some(TokenType::Unused) | None => Ok(self.set(id, text, kind, score)),
            Some(_) => Err(format!("has the id {id} for both {:?} and {text:?}", self.text[id])),
        }
    }

    /// Sets an added token under its text after decoding. It may replace one of the base vocabulary; that is told
    /// if the texts differ.
    fn set_added(&mut self, token: &Added, decoded: &str, score: f32, warnings: &mut Vec<String>) -> bool {
        if let (Some(kind), Some(before)) = (self.types.get(token.id), self.text.get(token.id))
            && *kind != TokenType::Unused
            && before != token.text
        {
            warnings.push(format!("the added token {:?} takes the id {} of {before:?}", token.text, token.id));
        }
        let kind = added_type(decoded, token.special);
        self.set(token.id, &added_text(decoded, kind), kind, score)
    }

    /// Errors: two tokens of the same text, which no reader of GGUF accepts; a score that is no number.
    fn check(&self, folder: &Path) -> Result<()> {
        let mut seen = HashMap::with_capacity(self.text.len());
        for (id, text) in self.text.iter().enumerate() {
            if let Some(other) = seen.insert(text, id) {
                let what = format!("tokens {other} and {id} are both {text:?}: no reader of GGUF accepts that");
                return Err(Error::malformed(folder, "tokenizer", what));
            }
        }
        match self.scores.iter().flatten().position(|s| s.is_nan()) {
            Some(id) => Err(Error::malformed(folder, "tokenizer", format!("the score of token {id} is no number"))),
            None => Ok(()),
        }
    }

    fn write(self, out: &mut Metadata) {
        if let Some(prefix) = self.add_space_prefix {
            out.set("tokenizer.ggml.add_space_prefix", prefix);
        }
        out.set("tokenizer.ggml.model", self.model);
        out.set("tokenizer.ggml.pre", self.pre);
        out.set("tokenizer.ggml.tokens", Array::String(self.text));
        if let Some(scores) = self.scores {
            out.set("tokenizer.ggml.scores", Array::F32(scores));
        }
        out.set("tokenizer.ggml.token_type", Array::I32(self.types.iter().map(|&t| t as i32).collect()));
        if !self.merges.is_empty() {
            out.set("tokenizer.ggml.merges", Array::String(self.merges));
        }
    }
}

/// Tells how many ids lie beyond the embeddings.
fn warn_of_ids_beyond(n: usize, vocab_size: usize, warnings: &mut Vec<String>) {
    if n > 0 {
        warnings.push(format!(
            "the tokenizer has {n} tokens beyond the model's {vocab_size} embeddings; they are left out"
        ));
    }
}
