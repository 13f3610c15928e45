//! Byte-level BPE: `tokenizer.json`, or `vocab.json` with `merges.txt`.

use super::files::{Added, Files};
use super::{TokenType, Tokens, byte_level, pre, structure, warn_of_ids_beyond};
use crate::{Error, Result};
use serde_json::{Map, Value as Json};

/// From `tokenizer.json`. Errors: a normalizer or pre-tokenizer that `gpt2` cannot express, a broken vocabulary.
pub fn tokens(json: &Json, files: &Files, vocab_size: usize, warnings: &mut Vec<String>) -> Result<Tokens> {
    let fail = |place: &str, what: String| Error::malformed(files.path("tokenizer.json"), place.to_owned(), what);
    let model = &json["model"];
    let vocab = model["vocab"].as_object().ok_or_else(|| fail("key model.vocab", "is missing".into()))?;
    for key in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if model[key].as_str().is_some_and(|s| !s.is_empty()) {
            let what = format!("is {}, which GGUF's `gpt2` tokenizer cannot express", model[key]);
            return Err(fail(&format!("key model.{key}"), what));
        }
    }
    structure::check_normalizer(&json["normalizer"], warnings).map_err(|what| fail("key normalizer", what))?;
    let added = files.added_in_tokenizer();
    let exists = |token: &str| vocab.contains_key(token) || added.iter().any(|a| a.text == token);
    let steps = structure::steps(&json["pre_tokenizer"]);
    let pre = structure::recognise(&steps, model["ignore_merges"] == true, exists)
        .map_err(|what| fail("key pre_tokenizer", what))?;
    let list = model["merges"].as_array().ok_or_else(|| fail("key model.merges", "is missing or no list".into()))?;
    let mut merges = Vec::with_capacity(list.len());
    for (i, merge) in list.iter().enumerate() {
        let pair = pair(merge).ok_or_else(|| fail("key model.merges", format!("entry {i} is {merge}, no pair")))?;
        check_merge(pair, vocab).map_err(|what| fail("key model.merges", format!("entry {i}, {merge}, {what}")))?;
        // A space inside a part would look like the separator; it stands as its byte-level sign.
        merges.push(format!("{} {}", pair.0.replace(' ', "Ġ"), pair.1.replace(' ', "Ġ")));
    }
    build(vocab, merges, pre, files, vocab_size, warnings).map_err(|what| fail("key model.vocab", what))
}

/// From `vocab.json`, `merges.txt` and `added_tokens.json`. Such files do not say how words are cut; the tokenizer's class
/// does, for those of [`pre::CLASSES`].
pub fn tokens_from_text_files(files: &Files, vocab_size: usize, warnings: &mut Vec<String>) -> Result<Tokens> {
    let path = files.path("vocab.json");
    let vocab = files.vocab.as_object();
    let vocab = vocab.ok_or_else(|| Error::malformed(&path, "top level", "is no JSON object"))?;
    let by_model = if files.config["model_type"] == "gpt2" { "GPT2Tokenizer" } else { "" };
    let class = files.tokenizer_config["tokenizer_class"].as_str().unwrap_or(by_model);
    let plain = class.strip_suffix("Fast").unwrap_or(class);
    let steps = pre::CLASSES.iter().find(|(name, _)| *name == plain).map(|(_, steps)| *steps);
    let steps = steps.ok_or_else(|| {
        let known: Vec<&str> = pre::CLASSES.iter().map(|(name, _)| *name).collect();
        let what = format!(
            "is {class:?}: without tokenizer.json the way in which words are cut is known for {} only; write a tokenizer.json with transformers' save_pretrained",
            known.join(", ")
        );
        Error::malformed(files.path("tokenizer_config.json"), "key tokenizer_class", what)
    })?;
    let steps: Vec<String> = steps.iter().map(|s| s.to_string()).collect();
    let exists = |token: &str| vocab.contains_key(token) || files.added_json[token].is_u64();
    let pre = structure::recognise(&steps, false, exists)
        .map_err(|what| Error::malformed(files.path("tokenizer_config.json"), "key tokenizer_class", what))?;

    let path = files.path("merges.txt");
    let text = std::fs::read(&path).map_err(Error::io(&path))?;
    let text = String::from_utf8(text)
        .map_err(|e| Error::malformed(&path, format!("byte {}", e.utf8_error().valid_up_to()), "is not valid UTF-8"))?;
    let mut merges = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || (i == 0 && line.starts_with('#')) {
            continue;
        }
        let fail = |what: &str| Error::malformed(&path, format!("line {}", i + 1), format!("{line:?} {what}"));
        let pair = line.split_once(' ').filter(|(_, right)| !right.contains(' ')).ok_or_else(|| fail("is no pair"))?;
        check_merge(pair, vocab).map_err(|what| fail(&what))?;
        merges.push(line.to_owned());
    }
    build(vocab, merges, pre, files, vocab_size, warnings)
        .map_err(|what| Error::malformed(files.path("vocab.json"), "top level", what))
}

/// A merge as `"left right"` or `["left", "right"]`.
pub fn pair(merge: &Json) -> Option<(&str, &str)> {
    match merge {
        Json::String(s) => s.split_once(' ').filter(|(left, right)| !left.is_empty() && !right.is_empty()),
        Json::Array(a) if a.len() == 2 => Some((a[0].as_str()?, a[1].as_str()?)),
        _ => None,
    }
}

/// Both parts and what they make must be tokens.
pub fn check_merge((left, right): (&str, &str), vocab: &Map<String, Json>) -> Result<(), String> {
    let joined = format!("{left}{right}");
    match [left, right, &joined].into_iter().find(|part| !vocab.contains_key(*part)) {
        Some(part) => Err(format!("names {part:?}, which is no token of the vocabulary")),
        None => Ok(()),
    }
}

fn build(
    vocab: &Map<String, Json>,
    merges: Vec<String>,
    pre: &str,
    files: &Files,
    vocab_size: usize,
    warnings: &mut Vec<String>,
) -> Result<Tokens, String> {
    let mut added = all_added(files, vocab);
    let size = if vocab_size > 0 { vocab_size } else { own_size(vocab, &added) };
    add_new(files, vocab, size, &mut added);
    let mut out = Tokens::empty("gpt2", pre, size);
    out.merges = merges;
    let mut beyond = 0;
    for (text, id) in vocab {
        let id = id.as_u64().ok_or_else(|| format!("gives {text:?} the id {id}"))?;
        let id = usize::try_from(id).unwrap_or(usize::MAX);
        beyond += usize::from(!out.set_new(id, text, TokenType::Normal, 0.0)?);
    }
    let decoded = |token: &Added| match byte_level::decode(token.text) {
        Some(bytes) if !token.normalized => String::from_utf8_lossy(&bytes).into_owned(),
        _ => token.text.to_owned(),
    };
    for token in &added {
        beyond += usize::from(!out.set_added(token, &decoded(token), 0.0, warnings));
    }
    warn_of_ids_beyond(beyond, size, warnings);
    Ok(out)
}

/// All added tokens: those of `tokenizer.json`, changed or completed by `tokenizer_config.json`; those of
/// `added_tokens.json` where there is no `tokenizer.json`; tokens of the vocabulary that the configuration calls special.
fn all_added<'a>(files: &'a Files, vocab: &Map<String, Json>) -> Vec<Added<'a>> {
    let mut all = files.added();
    let special = files.named_special();
    if files.tokenizer.is_none() {
        for (text, id) in files.added_json.as_object().into_iter().flatten() {
            if let Some(id) = id.as_u64().filter(|_| !all.iter().any(|t| t.text == text)) {
                let special = special.contains(&text.as_str());
                all.push(Added { id: id as usize, text, special, normalized: !special });
            }
        }
    }
    for text in special {
        if let Some(id) = vocab.get(text).and_then(Json::as_u64)
            && !all.iter().any(|t| t.text == text)
        {
            all.push(Added { id: id as usize, text, special: true, normalized: false });
        }
    }
    all
}

/// Special tokens that the configuration names and nothing else knows: transformers gives them the ids behind all others,
/// and so do we as far as the model has room.
fn add_new<'a>(files: &'a Files, vocab: &Map<String, Json>, size: usize, added: &mut Vec<Added<'a>>) {
    let ids = vocab.values().filter_map(|id| usize::try_from(id.as_u64()?).ok());
    let last = ids.chain(added.iter().map(|t| t.id)).max();
    let mut next = last.map_or(0, |id| id.saturating_add(1));
    for text in files.named_special() {
        if next < size && !vocab.contains_key(text) && !added.iter().any(|t| t.text == text) {
            added.push(Added { id: next, text, special: true, normalized: false });
            next += 1;
        }
    }
}

/// Room for every token, if ids leave no gaps; never more than there are tokens.
fn own_size(vocab: &Map<String, Json>, added: &[Added]) -> usize {
    vocab.len() + added.iter().filter(|t| !vocab.contains_key(t.text)).count()
}
