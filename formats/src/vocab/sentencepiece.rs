//! `tokenizer.model`: sentencepiece's protocol buffer, read field by field with checked lengths.
//!
//! Of `ModelProto` only `pieces` (1: text 1, score 2, type 3), `trainer_spec` (2: model_type 3, treat_whitespace_as_suffix 24,
//! unk_id 40, bos_id 41, eos_id 42, pad_id 43) and
//! `normalizer_spec` (3: precompiled_charsmap 2, add_dummy_prefix 3, remove_extra_whitespaces 4) matter. Source: `sentencepiece_model.proto`.

use super::files::{Added, Files, added_text};
use super::{TokenType, Tokens, warn_of_ids_beyond};
use crate::{Error, Result};
use std::collections::BTreeSet;

/// `ModelType.BPE`; `UNIGRAM` is 1 and the default.
const BPE: u64 = 2;
/// `SentencePiece.Type.USER_DEFINED`.
const USER_DEFINED: u64 = 4;
/// Special tokens by their fields of `TrainerSpec`, with what they are where the field is missing.
const IDS: [(u64, &str, Option<u32>); 4] = [
    (40, "tokenizer.ggml.unknown_token_id", Some(0)),
    (41, "tokenizer.ggml.bos_token_id", Some(1)),
    (42, "tokenizer.ggml.eos_token_id", Some(2)),
    (43, "tokenizer.ggml.padding_token_id", None),
];

/// The vocabulary of a sentencepiece model, with the tokens that were added to it.
pub fn tokens(model: &[u8], files: &Files, vocab_size: usize, warnings: &mut Vec<String>) -> Result<Tokens> {
    let parsed = parse(model)
        .map_err(|(at, problem)| Error::malformed(files.path("tokenizer.model"), format!("byte {at}"), problem))?;
    if parsed.model_type != BPE {
        let what = "is no BPE model (unigram and others have no place in GGUF's `llama` tokenizer)";
        return Err(Error::malformed(files.path("tokenizer.model"), "trainer_spec.model_type", what));
    }
    if parsed.spaces_behind {
        let what = "is true: spaces belong to the words before them, which GGUF's `llama` tokenizer cannot express";
        return Err(Error::malformed(files.path("tokenizer.model"), "trainer_spec.treat_whitespace_as_suffix", what));
    }
    let mut added = Vec::new();
    for (text, id) in files.added_json.as_object().into_iter().flatten() {
        let id = id.as_u64().and_then(|id| usize::try_from(id).ok()).ok_or_else(|| {
            Error::malformed(files.path("added_tokens.json"), format!("key {text}"), format!("holds {id}, no token id"))
        })?;
        added.push((id, text));
    }
    let decoder: Vec<Added> = files.added_in_config().into_iter().chain(missing_from(files, &parsed)).collect();
    let size = if vocab_size > 0 { vocab_size } else { own_size(&parsed, &added, &decoder) };
    let mut out = Tokens::empty("llama", "default", size);
    out.add_space_prefix = prefix(files, parsed.add_dummy_prefix);
    // A tokenizer.json beside it, which is what transformers runs, does as readers of GGUF do.
    if parsed.normalizes && files.tokenizer.is_none() {
        warnings.push(
            "tokenizer.model normalizes texts or drops extra spaces before it cuts them; readers of GGUF do not".into(),
        );
    }
    // Readers of GGUF put the space that goes before texts behind such symbols, too. Where there is one, symbols are left ordinary
    // pieces, as llama.cpp's converter has them: texts need not become them, but fewer come out wrong.
    let symbols = out.add_space_prefix == Some(false);
    if !symbols && parsed.pieces.iter().any(|p| p.kind == USER_DEFINED) {
        warnings.push(
            "tokenizer.model has user-defined symbols and puts a space before texts; GGUF cannot express both, and texts with such symbols may be cut differently".into(),
        );
    }
    let mut beyond = 0;
    for (id, piece) in parsed.pieces.iter().enumerate() {
        let kind = match piece.kind {
            2 => TokenType::Unknown,
            3 => TokenType::Control,
            USER_DEFINED if symbols => TokenType::UserDefined,
            5 => TokenType::Unused,
            6 => TokenType::Byte,
            _ => TokenType::Normal,
        };
        beyond += usize::from(!out.set(id, &added_text(&piece.text, kind), kind, piece.score));
    }
    for (id, text) in added {
        beyond += usize::from(!out.set(id, text, TokenType::UserDefined, -1000.0));
    }
    for token in &decoder {
        beyond += usize::from(!out.set_added(token, token.text, -1000.0, warnings));
    }
    warn_of_ids_beyond(beyond, size, warnings);
    out.own_ids = parsed.ids.into_iter().flatten().filter(|&(_, id)| (id as usize) < parsed.pieces.len()).collect();
    Ok(out)
}

/// Room for the pieces and what is added behind them without gaps.
fn own_size(parsed: &Parsed, added: &[(usize, &String)], decoder: &[Added]) -> usize {
    let ids = added.iter().map(|(id, _)| *id).chain(decoder.iter().map(|t| t.id));
    let behind: BTreeSet<usize> = ids.filter(|&id| id >= parsed.pieces.len()).collect();
    parsed.pieces.len() + behind.len()
}

/// Tokens that only `tokenizer.json` has added, behind the model's own pieces.
fn missing_from<'a>(files: &'a Files, parsed: &Parsed) -> Vec<Added<'a>> {
    let has_config = !files.added_in_config().is_empty();
    let own = parsed.pieces.len();
    files.added_in_tokenizer().into_iter().filter(|t| !has_config && t.id >= own).collect()
}

/// `add_space_prefix`: what `tokenizer_config.json` says, else the model, where that is not the usual `true`.
fn prefix(files: &Files, add_dummy_prefix: bool) -> Option<bool> {
    files.tokenizer_config["add_prefix_space"].as_bool().or((!add_dummy_prefix).then_some(false))
}

struct Parsed {
    pieces: Vec<Piece>,
    model_type: u64,
    add_dummy_prefix: bool,
    /// Texts are changed beyond that.
    normalizes: bool,
    /// `▁` stands behind words.
    spaces_behind: bool,
    /// Keys and ids of special tokens, in the order of [`IDS`].
    ids: [Option<(&'static str, u32)>; 4],
}

struct Piece {
    text: String,
    score: f32,
    kind: u64,
}

/// Where, and what is wrong.
type Problem = (usize, String);

fn parse(bytes: &[u8]) -> Result<Parsed, Problem> {
    // The format's defaults.
    let mut out = Parsed {
        pieces: Vec::new(),
        model_type: 1,
        add_dummy_prefix: true,
        normalizes: false,
        spaces_behind: false,
        ids: IDS.map(|(_, key, id)| Some((key, id?))),
    };
    let mut removes_spaces = true;
    let mut model = Fields { bytes, base: 0, pos: 0 };
    while let Some((number, field)) = model.next()? {
        match (number, field) {
            (1, Field::Bytes(bytes, base)) => {
                let mut piece = Piece { text: String::new(), score: 0.0, kind: 1 };
                let mut fields = Fields { bytes, base, pos: 0 };
                while let Some((number, field)) = fields.next()? {
                    match (number, field) {
                        (1, Field::Bytes(text, at)) => {
                            piece.text = String::from_utf8(text.to_vec())
                                .map_err(|_| (at, "holds a piece that is not valid UTF-8".to_owned()))?;
                        }
                        (2, Field::Four(bits)) => piece.score = f32::from_bits(bits),
                        (3, Field::Varint(kind)) => piece.kind = kind,
                        _ => {}
                    }
                }
                out.pieces.push(piece);
            }
            (2, Field::Bytes(bytes, base)) => {
                let mut fields = Fields { bytes, base, pos: 0 };
                while let Some((number, field)) = fields.next()? {
                    match (number, field) {
                        (3, Field::Varint(kind)) => out.model_type = kind,
                        (24, Field::Varint(flag)) => out.spaces_behind = flag != 0,
                        (number, Field::Varint(id)) => {
                            // Negative: there is none.
                            if let Some(at) = IDS.iter().position(|(field, ..)| *field == number) {
                                out.ids[at] = u32::try_from(id).ok().map(|id| (IDS[at].1, id));
                            }
                        }
                        _ => {}
                    }
                }
            }
            (3, Field::Bytes(bytes, base)) => {
                let mut fields = Fields { bytes, base, pos: 0 };
                while let Some((number, field)) = fields.next()? {
                    match (number, field) {
                        (2, Field::Bytes(map, _)) => out.normalizes |= !map.is_empty(),
                        (3, Field::Varint(flag)) => out.add_dummy_prefix = flag != 0,
                        (4, Field::Varint(flag)) => removes_spaces = flag != 0,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    out.normalizes |= removes_spaces;
    if out.pieces.is_empty() { Err((0, "holds no pieces: this is no sentencepiece model".to_owned())) } else { Ok(out) }
}

/// One field of a message.
enum Field<'a> {
    Varint(u64),
    Eight,
    /// With its place in the file.
    Bytes(&'a [u8], usize),
    Four(u32),
}

/// The fields of a message, one after another.
struct Fields<'a> {
    bytes: &'a [u8],
    /// Where the message begins in the file.
    base: usize,
    pos: usize,
}

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u64, Field<'a>)>, Problem> {
        if self.pos == self.bytes.len() {
            return Ok(None);
        }
        let at = self.base + self.pos;
        let tag = self.varint()?;
        let field = match tag & 7 {
            0 => Field::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Field::Eight
            }
            2 => {
                let n = self.varint()?;
                let n = usize::try_from(n).map_err(|_| (at, format!("has a field of {n} bytes")))?;
                let base = self.base + self.pos;
                Field::Bytes(self.take(n)?, base)
            }
            5 => {
                let four = self.take(4)?;
                Field::Four(u32::from_le_bytes([four[0], four[1], four[2], four[3]]))
            }
            other => return Err((at, format!("has a field of the unknown wire type {other}: the file is corrupted"))),
        };
        Ok(Some((tag >> 3, field)))
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], Problem> {
        let end = self.pos.checked_add(n).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or_else(|| {
            (self.base + self.pos, format!("a field of {n} bytes ends behind its message: truncated"))
        })?;
        let slice = &self.bytes[self.pos..end];
        self.pos = end;
        Ok(slice)
    }

    fn varint(&mut self) -> Result<u64, Problem> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err((self.base + self.pos, "has a number of more than 64 bits: the file is corrupted".to_owned()))
    }
}
