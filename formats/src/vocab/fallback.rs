//! `tokenizer.json` alone, of a sentencepiece kind: BPE over characters with `▁` for spaces and `<0xE2>` for unknown bytes
//! (Llama 2, TinyLlama, Mistral).
//!
//! Such a file has merges where sentencepiece has scores. A piece's score is taken from its first merge, so that better
//! pieces score higher in the same order; what no merge yields comes last. (llama.cpp's converter gives every piece the same
//! score here, which changes how texts are cut.)

use super::files::{Files, added_text, added_type};
use super::{TokenType, Tokens, warn_of_ids_beyond};
use crate::{Error, Result};
use serde_json::Value as Json;
use std::collections::HashMap;

/// The vocabulary, with scores out of merges.
pub fn tokens(json: &Json, files: &Files, vocab_size: usize, warnings: &mut Vec<String>) -> Result<Tokens> {
    let fail = |place: &str, what: String| Error::malformed(files.path("tokenizer.json"), place.to_owned(), what);
    let vocab = json["model"]["vocab"].as_object().ok_or_else(|| fail("key model.vocab", "is missing".into()))?;
    let ranks = ranks(&json["model"]["merges"]).map_err(|what| fail("key model.merges", what))?;
    let last = ranks.len() as f32 + 1.0;
    let unknown = json["model"]["unk_token"].as_str();

    let mut out = Tokens::empty("llama", "default", vocab_size);
    out.add_space_prefix = prepends_space(json).map_err(|what| fail("key normalizer", what))?;
    let mut beyond = 0;
    for (text, id) in vocab {
        let id = id.as_u64().ok_or_else(|| fail("key model.vocab", format!("{text:?} has the id {id}")))? as usize;
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
        beyond += usize::from(!out.set(id, text, kind, score));
    }
    let mut added = files.added_in_tokenizer();
    added.extend(files.added_in_config());
    for token in added {
        let in_place = out.types.get(token.id) == Some(&TokenType::Unknown) && Some(token.text) == unknown;
        if in_place {
            continue;
        }
        let kind = added_type(token.text, token.special);
        beyond += usize::from(!out.set(token.id, &added_text(token.text, kind), kind, -1000.0));
    }
    warn_of_ids_beyond(beyond, vocab_size, warnings);
    Ok(out)
}

/// `<0xE2>`.
fn is_byte(text: &str) -> bool {
    let hex = text.strip_prefix("<0x").and_then(|t| t.strip_suffix('>'));
    hex.is_some_and(|h| h.len() == 2 && h.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Piece -> index of the first merge that yields it.
fn ranks(merges: &Json) -> Result<HashMap<String, usize>, String> {
    let merges = merges.as_array().ok_or("is missing or no list")?;
    let mut ranks = HashMap::with_capacity(merges.len());
    for (rank, merge) in merges.iter().enumerate() {
        let (left, right) = super::byte_bpe::pair(merge).ok_or_else(|| format!("entry {rank} is {merge}, no pair"))?;
        ranks.entry(format!("{left}{right}")).or_insert(rank);
    }
    Ok(ranks)
}

/// Whether the normalizer or pre-tokenizer puts a `▁` before texts: `Some(false)` if not, `None` for the usual yes.
fn prepends_space(json: &Json) -> Result<Option<bool>, String> {
    let steps = |v: &Json, list: &str| -> Vec<Json> {
        if v.is_null() { Vec::new() } else { v[list].as_array().cloned().unwrap_or_else(|| vec![v.clone()]) }
    };
    let mut prepends = false;
    for step in steps(&json["normalizer"], "normalizers") {
        match step["type"].as_str() {
            Some("Prepend") if step["prepend"] == "▁" => prepends = true,
            Some("Replace") if step["pattern"]["String"] == " " && step["content"] == "▁" => {}
            Some("Lowercase" | "StripAccents" | "BertNormalizer") | None => {
                return Err(format!("has the step {step}, which GGUF's `llama` tokenizer cannot express"));
            }
            _ => {}
        }
    }
    for step in steps(&json["pre_tokenizer"], "pretokenizers") {
        if step["type"] == "Metaspace" {
            let scheme = step["prepend_scheme"].as_str();
            prepends |= scheme.map_or(step["add_prefix_space"] == true, |s| s != "never");
        }
    }
    Ok((!prepends).then_some(false))
}
