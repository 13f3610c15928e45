//! Recognising a pre-tokenizer by its structure.
//!
//! llama.cpp knows pre-tokenizers by the hash of what a tokenizer makes of a test text, and so only those somebody added.
//! What `tokenizer.json` says about cutting words is the thing itself: its steps are written as short strings and looked up
//! in the [`Sign`]s of [`super::pre::ALL`].

use super::pre::{ALL, Cut, Pre, Sign};
use serde_json::Value as Json;

/// The name for `tokenizer.ggml.pre`. The error shows the structure and says what to do.
pub fn recognise(steps: &[String], ignore_merges: bool, exists: impl Fn(&str) -> bool) -> Result<&'static str, String> {
    let holds = |pre: &Pre, sign: &Sign| {
        same_steps(pre, sign, steps)
            && sign.ignore_merges.is_none_or(|v| v == ignore_merges)
            && sign.tokens.iter().all(|t| exists(t))
    };
    let signs = ALL.iter().flat_map(|pre| pre.signs.iter().map(move |sign| (*pre, sign)));
    let best = signs.filter(|(pre, sign)| holds(pre, sign)).max_by_key(|(_, sign)| sign.conditions());
    best.map(|(_, sign)| sign.name).ok_or_else(|| {
        let shown = if steps.is_empty() { "nothing".to_owned() } else { steps.join("  then  ") };
        format!(
            "cuts words by a structure that qconv does not know: {shown}. A row in formats/src/vocab/pre/rows.rs adds it; \
             guessing would give wrong tokens"
        )
    })
}

fn same_steps(pre: &Pre, sign: &Sign, steps: &[String]) -> bool {
    if !sign.steps.is_empty() {
        return sign.steps.len() == steps.len() && sign.steps.iter().zip(steps).all(|(a, b)| canonical(a) == *b);
    }
    let own = pre.cuts.iter().map(|cut| match cut {
        Cut::Pattern(pattern) => Some(canonical(pattern)),
        Cut::DigitGroups | Cut::Thousands => None,
    });
    let own: Option<Vec<String>> = own.collect();
    own.is_some_and(|mut own| {
        own.push("<bytes>".to_owned());
        own == steps
    })
}

/// A pattern with line ends and contractions spelled in one way.
fn canonical(pattern: &str) -> String {
    const SPELLED_OUT: &str = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])";
    const ANY_CASE: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
    pattern.replace(SPELLED_OUT, ANY_CASE).replace('\r', r"\r").replace('\n', r"\n").replace('\t', r"\t")
}

/// llama.cpp normalizes nothing before byte-level BPE. NFC hardly ever changes a text and is passed over there, too; other
/// forms are warned about; steps that change every text are refused.
pub fn check_normalizer(normalizer: &Json, warnings: &mut Vec<String>) -> Result<(), String> {
    match normalizer["type"].as_str() {
        None | Some("NFC") => Ok(()),
        Some("Sequence") => {
            let steps = normalizer["normalizers"].as_array();
            steps.into_iter().flatten().try_for_each(|step| check_normalizer(step, warnings))
        }
        Some(form @ ("NFD" | "NFKC" | "NFKD")) => {
            warnings.push(format!("tokenizer.json brings texts into the form {form}; readers of GGUF do not"));
            Ok(())
        }
        Some(other) => Err(format!("has the step {other}, which GGUF's `gpt2` tokenizer cannot express")),
    }
}

/// Each step of a pre-tokenizer in a word: a pattern for an isolating split, `<...>` for the others. Steps that change
/// nothing are left out.
pub fn steps(pre_tokenizer: &Json) -> Vec<String> {
    match pre_tokenizer["type"].as_str() {
        None => Vec::new(),
        Some("Sequence") => pre_tokenizer["pretokenizers"].as_array().into_iter().flatten().flat_map(steps).collect(),
        Some(_) => vec![step(pre_tokenizer)],
    }
}

fn step(v: &Json) -> String {
    let kind = v["type"].as_str().unwrap_or_default();
    let prefix = if v["add_prefix_space"] == true { " with a space before" } else { "" };
    match kind {
        // `use_regex` came later than the first files; it is GPT-2's pattern unless switched off.
        "ByteLevel" if v["use_regex"] == false => format!("<bytes{prefix}>"),
        "ByteLevel" => format!("<gpt-2{prefix}>"),
        "Digits" if v["individual_digits"] == true => "<digits>".to_owned(),
        "Digits" => "<digit runs>".to_owned(),
        "Punctuation" => match v["behavior"].as_str() {
            Some("Contiguous") => "<punctuation runs>".to_owned(),
            Some("Isolated") | None => "<punctuation>".to_owned(),
            Some(other) => format!("<punctuation {other}>"),
        },
        "Split" => {
            let pattern = v["pattern"]["Regex"].as_str().map(str::to_owned);
            let pattern = pattern.or_else(|| v["pattern"]["String"].as_str().map(escape)).unwrap_or_default();
            match (v["behavior"].as_str(), v["invert"] == true) {
                // Isolating what does not match, or removing what lies between matches, cuts in the same places.
                (Some("Isolated"), _) | (Some("Removed"), true) => canonical(&pattern),
                (Some("MergedWithNext"), false) => format!("<with what follows: {}>", canonical(&pattern)),
                (Some("MergedWithPrevious"), false) => format!("<with what precedes: {pattern}>"),
                (behavior, invert) => {
                    format!("<{} {}: {pattern}>", behavior.unwrap_or("?"), if invert { "inverted" } else { "" })
                }
            }
        }
        other => format!("<{other}>"),
    }
}

/// A text as a pattern for itself.
fn escape(text: &str) -> String {
    text.chars().flat_map(|c| (!c.is_alphanumeric() && c != ' ').then_some('\\').into_iter().chain([c])).collect()
}
