//! `tokenizer.json` alone, of a sentencepiece kind: BPE over characters with `▁` for spaces and `<0xE2>` for unknown bytes
//! (Llama 2, TinyLlama, Mistral).
//!
//! Such a file has merges where sentencepiece has scores. A piece's score is taken from its first merge, so that better
//! pieces score higher in the same order; what no merge yields comes last. (llama.cpp's converter gives every piece the same
//! score here, which changes how texts are cut.)

use super::byte_bpe::{check_merge, pair};
use super::files::Files;
use super::{TokenType, Tokens, warn_of_ids_beyond};
use crate::{Error, Result};
use serde_json::{Map, Value as Json};
use std::collections::{HashMap, HashSet};

/// The vocabulary, with scores out of merges.
pub fn tokens(json: &Json, files: &Files, vocab_size: usize, warnings: &mut Vec<String>) -> Result<Tokens> {
    let fail = |place: &str, what: String| Error::malformed(files.path("tokenizer.json"), place.to_owned(), what);
    let vocab = json["model"]["vocab"].as_object().ok_or_else(|| fail("key model.vocab", "is missing".into()))?;
    let merges = merges(&json["model"]["merges"], vocab).map_err(|what| fail("key model.merges", what))?;
    let mut ranks = HashMap::with_capacity(merges.len());
    for (rank, (left, right)) in merges.iter().enumerate() {
        ranks.entry(format!("{left}{right}")).or_insert(rank);
    }
    let last = ranks.len() as f32 + 1.0;
    let unknown = json["model"]["unk_token"].as_str();
    check_words(&json["pre_tokenizer"]).map_err(|what| fail("key pre_tokenizer", what))?;

    let added = files.added();
    let new = added.iter().filter(|t| !vocab.contains_key(t.text)).map(|t| t.id).collect::<HashSet<_>>();
    let size = if vocab_size > 0 { vocab_size } else { vocab.len() + new.len() };
    let mut out = Tokens::empty("llama", "default", size);
    out.add_space_prefix = prepends_space(json, warnings).map_err(|what| fail("key normalizer", what))?;
    let mut beyond = 0;
    for (text, id) in vocab {
        let id = id.as_u64().ok_or_else(|| fail("key model.vocab", format!("gives {text:?} the id {id}")))?;
        let id = usize::try_from(id).unwrap_or(usize::MAX);
        let kind = match text {
            t if is_byte(t) => TokenType::Byte,
            t if Some(t.as_str()) == unknown => TokenType::Unknown,
            _ => TokenType::Normal,
        };
        let score = match (kind, ranks.get(text)) {
            (TokenType::Byte | TokenType::Unknown, _) => 0.0,
            (_, Some(&rank)) => -(rank as f32),
            (_, None) => -last,
        };
        beyond += usize::from(!out.set_new(id, text, kind, score).map_err(|what| fail("key model.vocab", what))?);
    }
    for token in &added {
        beyond += usize::from(!out.set_added(token, token.text, -1000.0, warnings));
    }
    warn_of_ids_beyond(beyond, size, warnings);
    let ambiguous = unlisted_joins(vocab, &merges, |text| is_byte(text) || new_or_special(text, &added));
    if ambiguous > 0 {
        warnings.push(format!(
            "{ambiguous} tokens have parts that the merges do not join, but readers of GGUF may: some words can be cut differently there"
        ));
    }
    Ok(out)
}

fn new_or_special(text: &str, added: &[super::files::Added]) -> bool {
    added.iter().any(|t| t.text == text)
}

/// Tokens with two parts in the vocabulary that no merge joins. Sentencepiece joins any two parts that make a token.
fn unlisted_joins(vocab: &Map<String, Json>, merges: &[(&str, &str)], skip: impl Fn(&str) -> bool) -> usize {
    let listed: HashSet<&(&str, &str)> = merges.iter().collect();
    let unlisted = |text: &str| {
        text.char_indices().skip(1).any(|(at, _)| {
            let (left, right) = text.split_at(at);
            vocab.contains_key(left) && vocab.contains_key(right) && !listed.contains(&(left, right))
        })
    };
    vocab.keys().filter(|text| unlisted(text) && !skip(text)).count()
}

/// `<0xE2>`.
fn is_byte(text: &str) -> bool {
    let hex = text.strip_prefix("<0x").and_then(|t| t.strip_suffix('>'));
    hex.is_some_and(|h| h.len() == 2 && h.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The merges, best first.
fn merges<'a>(list: &'a Json, vocab: &Map<String, Json>) -> Result<Vec<(&'a str, &'a str)>, String> {
    let list = list.as_array().ok_or("is missing or no list")?;
    let one = |(i, merge)| {
        let pair = pair(merge).ok_or_else(|| format!("entry {i} is {merge}, no pair"))?;
        check_merge(pair, vocab).map_err(|what| format!("entry {i}, {merge}, {what}"))?;
        Ok(pair)
    };
    list.iter().enumerate().map(one).collect()
}

/// Words must end at spaces or nowhere: sentencepiece cuts nothing else.
fn check_words(pre_tokenizer: &Json) -> Result<(), String> {
    match pre_tokenizer["type"].as_str() {
        None | Some("Metaspace") => Ok(()),
        Some("Sequence") => pre_tokenizer["pretokenizers"].as_array().into_iter().flatten().try_for_each(check_words),
        Some("Split") if pre_tokenizer["pattern"]["String"] == " " => Ok(()),
        Some(_) => Err(format!("has the step {pre_tokenizer}, which GGUF's `llama` tokenizer cannot express")),
    }
}

/// Whether the normalizer or pre-tokenizer puts a `▁` before texts: `Some(false)` if not, `None` for the usual yes.
fn prepends_space(json: &Json, warnings: &mut Vec<String>) -> Result<Option<bool>, String> {
    let steps = |v: &Json, list: &str| -> Vec<Json> {
        if v.is_null() { Vec::new() } else { v[list].as_array().cloned().unwrap_or_else(|| vec![v.clone()]) }
    };
    let mut prepends = false;
    for step in steps(&json["normalizer"], "normalizers") {
        match step["type"].as_str() {
            Some("Prepend") if step["prepend"] == "▁" => prepends = true,
            Some("Replace") if step["pattern"]["String"] == " " && step["content"] == "▁" => {}
            Some("NFC" | "NFKC" | "NFD" | "NFKD") => {
                warnings.push(format!(
                    "tokenizer.json brings texts into the form {}; readers of GGUF do not",
                    step["type"].as_str().unwrap_or_default()
                ));
            }
            _ => return Err(format!("has the step {step}, which GGUF's `llama` tokenizer cannot express")),
        }
    }
    for step in steps(&json["pre_tokenizer"], "pretokenizers") {
        if step["type"] == "Metaspace" {
            let scheme = step["prepend_scheme"].as_str();
            if scheme.map_or(step["add_prefix_space"] == true, |s| s != "never") {
                if !prepends {
                    warnings.push("tokenizer.json puts a space before texts that begin with none; readers of GGUF put one before every text".into());
                }
                prepends = true;
            }
        }
    }
    Ok((!prepends).then_some(false))
}
