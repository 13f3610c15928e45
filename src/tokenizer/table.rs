//! The tokens of a file: text, score, kind.

use super::{Algorithm, Source};
use qconv_formats::gguf::Array;
use qconv_formats::vocab::TokenType;
use std::collections::HashMap;

/// What a token is. Usually one bit; tokens whose text says that they are special get [`Kind::CONTROL`] in addition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind(u8);

impl Kind {
    pub const UNDEFINED: Kind = Kind(0);
    pub const NORMAL: Kind = Kind(1);
    pub const UNKNOWN: Kind = Kind(2);
    pub const CONTROL: Kind = Kind(4);
    pub const USER_DEFINED: Kind = Kind(8);
    pub const UNUSED: Kind = Kind(16);
    pub const BYTE: Kind = Kind(32);

    pub const fn or(self, other: Kind) -> Kind {
        Kind(self.0 | other.0)
    }

    /// Any bit of `other`.
    pub const fn is(self, other: Kind) -> bool {
        self.0 & other.0 != 0
    }

    fn of(number: u64) -> Kind {
        match TokenType::by_number(number) {
            Some(TokenType::Normal) => Kind::NORMAL,
            Some(TokenType::Unknown) => Kind::UNKNOWN,
            Some(TokenType::Control) => Kind::CONTROL,
            Some(TokenType::UserDefined) => Kind::USER_DEFINED,
            Some(TokenType::Unused) => Kind::UNUSED,
            Some(TokenType::Byte) => Kind::BYTE,
            None => Kind::UNDEFINED,
        }
    }
}

/// The tokens of a file.
pub(super) struct Table {
    texts: Vec<String>,
    kinds: Vec<Kind>,
    /// Empty where the file has none: all 0.
    scores: Vec<f32>,
    by_text: HashMap<String, u32>,
    /// Bytes of the longest text.
    longest: usize,
    pub warnings: Vec<String>,
}

const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const TYPES: &str = "tokenizer.ggml.token_type";

impl Table {
    /// Errors: no tokens, lists too short or of the wrong type, scores that are no numbers, texts that appear twice.
    pub fn read(source: &Source) -> anyhow::Result<Table> {
        let list = source.strings(TOKENS)?.ok_or_else(|| source.error(TOKENS, "is missing"))?;
        if list.is_empty() || u32::try_from(list.len()).is_err() {
            return Err(source.error(TOKENS, format!("holds {} tokens", list.len())));
        }
        let mut warnings = Vec::new();
        let empty = list.iter().filter(|t| t.is_empty()).count();
        if empty > 0 {
            warnings.push(format!("{empty} tokens have no text; text never becomes one of them"));
        }
        let text = |(id, t): (usize, &String)| if t.is_empty() { format!("[EMPTY_{id}]") } else { t.clone() };
        let texts: Vec<String> = list.iter().enumerate().map(text).collect();
        let mut by_text = HashMap::with_capacity(texts.len());
        for (id, text) in texts.iter().enumerate() {
            if let Some(other) = by_text.insert(text.clone(), id as u32) {
                let what = format!("tokens {other} and {id} are both {text:?}; llama.cpp refuses such files, too");
                return Err(source.error(TOKENS, what));
            }
        }
        let longest = texts.iter().map(String::len).max().unwrap_or(0);
        let scores = scores(source, texts.len())?;
        let kinds = kinds(source, texts.len())?;
        Ok(Table { texts, kinds, scores, by_text, longest, warnings })
    }

    pub fn len(&self) -> usize {
        self.texts.len()
    }

    pub fn text(&self, id: u32) -> &str {
        &self.texts[id as usize]
    }

    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    pub fn kind(&self, id: u32) -> Kind {
        self.kinds[id as usize]
    }

    pub fn set_kind(&mut self, id: u32, kind: Kind) {
        self.kinds[id as usize] = kind;
    }

    pub fn score(&self, id: u32) -> f32 {
        self.scores.get(id as usize).copied().unwrap_or(0.0)
    }

    /// The token of a text. Longer texts than any token's are not even hashed.
    pub fn id(&self, text: &str) -> Option<u32> {
        if text.len() > self.longest { None } else { self.by_text.get(text).copied() }
    }

    /// The token of a byte, written `<0xE2>`.
    pub fn byte(&self, byte: u8) -> Option<u32> {
        self.id(&format!("<0x{byte:02X}>"))
    }

    /// Appends the bytes that a token stands for. Unused tokens stand for nothing.
    pub fn append_piece(&self, id: u32, algorithm: &dyn Algorithm, out: &mut Vec<u8>) {
        let (text, kind) = (self.text(id), self.kind(id));
        if kind.is(Kind::UNKNOWN.or(Kind::CONTROL).or(Kind::USER_DEFINED)) {
            out.extend_from_slice(text.as_bytes());
        } else if kind.is(Kind::NORMAL) {
            out.extend(algorithm.piece(text));
        } else if kind.is(Kind::BYTE) {
            match byte_of(text) {
                Some(byte) => out.push(byte),
                None => out.extend_from_slice(text.as_bytes()),
            }
        }
    }
}

/// `<0xE2>` -> 0xE2.
fn byte_of(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let plain = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    if plain { u8::from_str_radix(digits, 16).ok() } else { None }
}

fn scores(source: &Source, tokens: usize) -> anyhow::Result<Vec<f32>> {
    let Some(value) = source.metadata.get(SCORES) else { return Ok(Vec::new()) };
    let scores: Vec<f32> = match value.as_array() {
        Some(Array::F32(v)) => v.clone(),
        Some(Array::I32(v)) => v.iter().map(|&x| x as f32).collect(),
        _ => return Err(source.error(SCORES, "is no array of floats")),
    };
    if scores.len() < tokens {
        return Err(source.error(SCORES, format!("holds {} scores for {tokens} tokens", scores.len())));
    }
    match scores.iter().position(|s| s.is_nan()) {
        Some(id) => Err(source.error(SCORES, format!("the score of token {id} is no number"))),
        None => Ok(scores),
    }
}

fn kinds(source: &Source, tokens: usize) -> anyhow::Result<Vec<Kind>> {
    let Some(value) = source.metadata.get(TYPES) else { return Ok(vec![Kind::NORMAL; tokens]) };
    let types = match value.as_array() {
        Some(Array::I32(v)) => v.iter().map(|&n| u64::try_from(n).unwrap_or(0)).collect(),
        other => other.and_then(Array::to_u64s).ok_or_else(|| source.error(TYPES, "is no array of integers"))?,
    };
    if types.len() < tokens {
        return Err(source.error(TYPES, format!("holds {} types for {tokens} tokens", types.len())));
    }
    Ok(types.iter().map(|&n| Kind::of(n)).collect())
}
