//! The tokenizer's keys against each other.

use super::Findings;
use qconv_formats::gguf::{Array, Metadata, Value};
use std::collections::HashSet;

/// Checks `tokenizer.ggml.*`; the number of tokens, if there are any.
pub fn check(metadata: &Metadata, findings: &mut Findings) -> Option<usize> {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let place = |name: &str| format!("key tokenizer.ggml.{name}");
    let model = match metadata.get(&key("model")) {
        Some(Value::String(model)) => model.as_str(),
        Some(_) => {
            findings.problem(place("model"), "is no string");
            return None;
        }
        None => {
            findings.problem(place("model"), "is missing: llama.cpp loads no file without a tokenizer");
            return None;
        }
    };
    if model == "no_vocab" {
        return None;
    }
    let tokens = match metadata.get(&key("tokens")) {
        Some(Value::Array(Array::String(tokens))) if !tokens.is_empty() => tokens,
        Some(_) => {
            findings.problem(place("tokens"), "is no array of strings, or empty");
            return None;
        }
        None => {
            findings.problem(place("tokens"), "is missing");
            return None;
        }
    };
    let n = tokens.len();
    let mut known = HashSet::with_capacity(n);
    let twice: Vec<&String> = tokens.iter().filter(|t| !known.insert(t.as_str())).collect();
    if let Some(first) = twice.first() {
        findings.note(place("tokens"), format!("{} tokens appear twice, {first:?} the first", twice.len()));
    }

    match metadata.get(&key("scores")) {
        None => {}
        Some(Value::Array(Array::F32(v))) if v.len() == n => {
            if let Some(i) = v.iter().position(|x| x.is_nan()) {
                findings.problem(place("scores"), format!("the score of token {i} is NaN"));
            }
        }
        Some(v) => findings.problem(place("scores"), format!("is {} where {n} f32 are needed", kind(v))),
    }
    match metadata.get(&key("token_type")) {
        None => {}
        Some(Value::Array(Array::I32(v))) if v.len() == n => {
            if let Some(i) = v.iter().position(|x| !(0..=6).contains(x)) {
                findings.problem(place("token_type"), format!("token {i} has the unknown type {}", v[i]));
            }
        }
        Some(v) => findings.problem(place("token_type"), format!("is {} where {n} i32 are needed", kind(v))),
    }
    match metadata.get(&key("merges")) {
        None if model == "gpt2" => findings.problem(place("merges"), "is missing: byte-level BPE is nothing without"),
        Some(Value::Array(Array::String(merges))) => merge_parts(merges, &known, findings),
        Some(v) => findings.problem(place("merges"), format!("is {} where strings are needed", kind(v))),
        None => {}
    }
    if model == "gpt2" && metadata.str(&key("pre")).is_none() {
        findings.note(place("pre"), "is missing: readers will guess how to split words");
    }
    for (name, value) in metadata.iter() {
        let special = name.starts_with("tokenizer.ggml.") && name.ends_with("token_id");
        if special && value.as_u64().is_none_or(|id| id >= n as u64) {
            findings.problem(format!("key {name}"), format!("is {value:?}, which is none of the {n} tokens"));
        }
    }
    Some(n)
}

/// Every merge is two tokens with a space between them, and makes a third.
fn merge_parts(merges: &[String], known: &HashSet<&str>, findings: &mut Findings) {
    let works = |merge: &str| {
        // The space that divides is not the first character: a token may begin with one.
        let at = merge.char_indices().skip(1).find(|&(_, c)| c == ' ').map(|(i, _)| i);
        at.is_some_and(|at| {
            let (left, right) = (&merge[..at], &merge[at + 1..]);
            known.contains(left) && known.contains(right) && known.contains(format!("{left}{right}").as_str())
        })
    };
    let idle: Vec<usize> = (0..merges.len()).filter(|&i| !works(&merges[i])).collect();
    if let Some(&i) = idle.first() {
        let what = format!("{} merges join or make what is no token, {:?} ({i}) the first", idle.len(), merges[i]);
        findings.note("key tokenizer.ggml.merges", what);
    }
}

/// `an array of 7 strings`, for errors.
fn kind(value: &Value) -> String {
    match value {
        Value::Array(a) => format!("an array of {} {:?}", a.len(), a.element_type()),
        other => format!("of type {:?}", other.value_type()),
    }
}
