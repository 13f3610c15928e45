//! Byte-level BPE: `tokenizer.json`, or `vocab.json` with `merges.txt`.

use super::files::{Files, added_text, added_type};
use super::{TokenType, Tokens, structure, warn_of_ids_beyond};
use crate::checkpoint::read_json;
use crate::{Error, Result};
use serde_json::{Map, Value as Json};

/// From `tokenizer.json`.
pub fn tokens(json: &Json, files: &Files, vocab_size: usize, warnings: &mut Vec<String>) -> Result<Tokens> {
    let fail = |place: &str, what: String| Error::malformed(files.path("tokenizer.json"), place.to_owned(), what);
    let vocab = json["model"]["vocab"].as_object().ok_or_else(|| fail("key model.vocab", "is missing".into()))?;
    let added = files.added_in_tokenizer();
    let exists = |token: &str| vocab.contains_key(token) || added.iter().any(|a| a.text == token);
    let pre = structure::recognise(json, exists).map_err(|what| fail("key pre_tokenizer", what))?;
    let list =
        json["model"]["merges"].as_array().ok_or_else(|| fail("key model.merges", "is missing or no list".into()))?;
    let mut merges = Vec::with_capacity(list.len());
    for (i, merge) in list.iter().enumerate() {
        let (left, right) =
            pair(merge).ok_or_else(|| fail("key model.merges", format!("entry {i} is {merge}, no pair")))?;
        // A space inside a part would look like the separator; it stands as its byte-level sign.
        merges.push(format!("{} {}", left.replace(' ', "Ġ"), right.replace(' ', "Ġ")));
    }
    build(vocab, merges, pre, files, vocab_size, warnings).map_err(|(place, what)| fail(&place, what))
}

/// From `vocab.json`, `merges.txt` and `added_tokens.json`; that is GPT-2's layout, with GPT-2's pre-tokenizer.
pub fn tokens_from_text_files(files: &Files, vocab_size: usize, warnings: &mut Vec<String>) -> Result<Tokens> {
    const CLASSES: [&str; 2] = ["GPT2Tokenizer", "GPT2TokenizerFast"];
    let class = files.tokenizer_config["tokenizer_class"].as_str();
    let kind = files.config["model_type"].as_str();
    if !class.map_or(kind == Some("gpt2"), |c| CLASSES.contains(&c)) {
        let what = format!(
            "is {class:?}: without tokenizer.json only GPT-2's own tokenizer is known; write one with transformers' save_pretrained"
        );
        return Err(Error::malformed(files.path("tokenizer_config.json"), "key tokenizer_class", what));
    }
    let path = files.path("vocab.json");
    let vocab = read_json(&path)?.and_then(|v| v.as_object().cloned());
    let vocab = vocab.ok_or_else(|| Error::malformed(&path, "top level", "is no JSON object"))?;
    let path = files.path("merges.txt");
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    let mut merges = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || (i == 0 && line.starts_with('#')) {
            continue;
        }
        if line.split(' ').count() != 2 {
            return Err(Error::malformed(&path, format!("line {}", i + 1), "is no pair"));
        }
        merges.push(line.to_owned());
    }
    build(&vocab, merges, "gpt-2", files, vocab_size, warnings)
        .map_err(|(place, what)| Error::malformed(files.path("vocab.json"), place, what))
}

/// A merge as `"left right"` or `["left", "right"]`.
pub fn pair(merge: &Json) -> Option<(&str, &str)> {
    match merge {
        Json::String(s) => s.split_once(' '),
        Json::Array(a) if a.len() == 2 => Some((a[0].as_str()?, a[1].as_str()?)),
        _ => None,
    }
}

fn build(
    vocab: &Map<String, Json>,
    merges: Vec<String>,
    pre: &str,
    files: &Files,
    vocab_size: usize,
    warnings: &mut Vec<String>,
) -> Result<Tokens, (String, String)> {
    let mut out = Tokens::empty("gpt2", pre, vocab_size);
    out.merges = merges;
    let mut beyond = 0;
    for (text, id) in vocab {
        let id = id.as_u64().ok_or_else(|| ("key model.vocab".to_owned(), format!("{text:?} has the id {id}")))?;
        beyond += usize::from(!out.set(id as usize, text, TokenType::Normal, 0.0));
    }
    let mut added = files.added_in_tokenizer();
    added.extend(files.added_in_config());
    if added.is_empty() {
        for (text, id) in files.added.as_object().into_iter().flatten() {
            let id = id.as_u64().map_or(usize::MAX, |id| id as usize);
            beyond += usize::from(!out.set(id, text, added_type(text, false), 0.0));
        }
        // Without a list of added tokens, the ones that are named special are.
        for kind in ["bos", "eos", "unk", "pad", "sep", "cls", "mask"] {
            if let Some(id) = files.special(kind).and_then(|text| vocab.get(text)).and_then(Json::as_u64)
                && let Some(slot) = out.types.get_mut(id as usize)
            {
                *slot = TokenType::Control;
            }
        }
    }
    for token in added {
        let kind = added_type(token.text, token.special);
        beyond += usize::from(!out.set(token.id, &added_text(token.text, kind), kind, 0.0));
    }
    warn_of_ids_beyond(beyond, vocab_size, warnings);
    Ok(out)
}
