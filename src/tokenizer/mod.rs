//! Tokenizers at run time, from GGUF metadata: text to ids and back.
//!
//! A file's ids mean what llama.cpp says they mean, so encoding follows its `llama_tokenize`: special tokens are cut out
//! of the text first, then each piece of text goes through the family's own algorithm. A family is one file and one line
//! in `FAMILIES`; a way of cutting words of byte-pair encodings is a row of [`qconv_formats::vocab::pre::ALL`].

mod bpe;
mod cut;
mod open;
mod partition;
mod special;
mod spm;
mod stream;
mod table;
#[cfg(test)]
mod tests;

pub use stream::StreamDecoder;

use crate::error::malformed;
use partition::{Fragment, Partition};
use qconv_formats::gguf::Metadata;
use special::Special;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use table::Table;

/// Every family.
static FAMILIES: &[&Family] = &[&spm::FAMILY, &bpe::FAMILY];

/// A family of tokenizers.
struct Family {
    /// Values of `tokenizer.ggml.model`.
    models: &'static [&'static str],
    /// Reads its own keys.
    load: fn(&Source, &mut Table) -> anyhow::Result<Loaded>,
}

/// What a family makes of a file.
struct Loaded {
    algorithm: Box<dyn Algorithm>,
    /// Where the file does not say otherwise.
    defaults: special::Defaults,
    /// The first word of a text gets a space in front.
    space_prefix: bool,
}

/// How a family turns a piece of text into ids.
trait Algorithm: Send + Sync {
    /// Appends the ids of `text`. `after_special`: it stands at the beginning or behind a special token.
    fn encode(&self, table: &Table, text: &str, after_special: bool, ids: &mut Vec<u32>);
    /// The bytes that a normal token of this text stands for.
    fn piece(&self, text: &str) -> Vec<u8>;
}

/// Encodes words one by one. Words repeat: most are looked up among those already done.
fn each_word<'a>(
    words: impl Iterator<Item = &'a str>,
    ids: &mut Vec<u32>,
    mut encode: impl FnMut(&'a str, &mut Vec<u32>),
) {
    let mut seen: HashMap<&str, Range<usize>> = HashMap::new();
    for word in words {
        match seen.get(word) {
            Some(done) => ids.extend_from_within(done.clone()),
            None => {
                let start = ids.len();
                encode(word, ids);
                seen.insert(word, start..ids.len());
            }
        }
    }
}

/// The metadata and the file they came from.
struct Source<'a> {
    metadata: &'a Metadata,
    file: &'a Path,
}

/// How to encode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Add what the file wants at the beginning (BOS) and the end (EOS).
    pub add_special: bool,
    /// Control tokens written out in the text (`<|im_end|>`) become those tokens; otherwise they are plain text.
    pub parse_special: bool,
}

/// A tokenizer.
pub struct Tokenizer {
    table: Table,
    special: Special,
    partition: Partition,
    algorithm: Box<dyn Algorithm>,
    space_prefix: bool,
    /// All pieces one after another, and where each ends.
    pieces: Vec<u8>,
    ends: Vec<usize>,
}

impl Tokenizer {
    /// Reads the `tokenizer.*` keys; `file` is for errors.
    ///
    /// Errors: no tokenizer, a family or pre-tokenizer that qconv does not know, arrays of the wrong type or length,
    /// two tokens of the same text, merges that are no pairs.
    pub fn from_metadata(metadata: &Metadata, file: &Path) -> anyhow::Result<Tokenizer> {
        let source = Source { metadata, file };
        let model = source.string("tokenizer.ggml.model")?;
        let family = FAMILIES.iter().find(|f| f.models.contains(&model)).ok_or_else(|| {
            let known: Vec<&str> = FAMILIES.iter().flat_map(|f| f.models).copied().collect();
            source.error("tokenizer.ggml.model", format!("is {model:?}; qconv runs {}", known.join(", ")))
        })?;
        let mut table = Table::read(&source)?;
        let loaded = (family.load)(&source, &mut table)?;
        let special = Special::read(&source, &mut table, &loaded.defaults)?;

        let mut pieces = Vec::new();
        let mut ends = Vec::with_capacity(table.len());
        for id in 0..table.len() as u32 {
            table.append_piece(id, loaded.algorithm.as_ref(), &mut pieces);
            ends.push(pieces.len());
        }
        let partition = Partition::new(&table, metadata.str("general.name").unwrap_or_default());
        let Loaded { algorithm, space_prefix, .. } = loaded;
        Ok(Tokenizer { table, special, partition, algorithm, space_prefix, pieces, ends })
    }

    /// The ids of a text.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Vec<u32> {
        let mut ids = Vec::new();
        if options.add_special {
            ids.extend(self.bos().filter(|_| self.special.add_bos));
        }
        let mut after_special = true;
        for fragment in self.partition.split(&self.table, text, options.parse_special) {
            match fragment {
                Fragment::Text(text) => self.algorithm.encode(&self.table, text, after_special, &mut ids),
                Fragment::Token(id) => ids.push(id),
            }
            after_special = matches!(fragment, Fragment::Token(_));
        }
        if options.add_special {
            ids.extend(self.eos().filter(|_| self.special.add_eos));
        }
        ids
    }

    /// The text of ids, special tokens as they are written; bytes that are no UTF-8 become U+FFFD. The space that
    /// [`Tokenizer::encode`] puts in front of the first word is taken off again.
    ///
    /// Errors: an id outside the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> anyhow::Result<String> {
        let mut bytes = Vec::new();
        for (at, &id) in ids.iter().enumerate() {
            let piece = self.piece(id).ok_or_else(|| {
                let what = format!("{id}, at position {at}, is beyond the vocabulary of {}", self.len());
                crate::error::caller(format!("token id {what}"))
            })?;
            bytes.extend_from_slice(piece);
            let first = ids[..at].iter().all(|&id| Some(id) == self.bos());
            if first && self.space_prefix && Some(id) != self.bos() && piece.first() == Some(&b' ') {
                bytes.remove(bytes.len() - piece.len());
            }
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The bytes that a token stands for; `None` outside the vocabulary. They need not be whole characters: see
    /// [`StreamDecoder`].
    pub fn piece(&self, id: u32) -> Option<&[u8]> {
        let at = usize::try_from(id).ok()?;
        let end = *self.ends.get(at)?;
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        Some(&self.pieces[start..end])
    }

    /// Part of a character, or unknown: what text becomes that the vocabulary has no tokens for.
    pub fn is_fragment(&self, id: u32) -> bool {
        self.piece(id)
            .is_none_or(|piece| self.table.kind(id).is(table::Kind::UNKNOWN) || str::from_utf8(piece).is_err())
    }

    /// Whether generation ends with this token (end of text, of turn, of message, ...).
    pub fn is_end(&self, id: u32) -> bool {
        self.special.ends.contains(&id)
    }

    /// The tokens that end generation, in ascending order.
    pub fn ends(&self) -> impl Iterator<Item = u32> {
        self.special.ends.iter().copied()
    }

    /// Beginning of text.
    pub fn bos(&self) -> Option<u32> {
        self.special.bos
    }

    /// End of text.
    pub fn eos(&self) -> Option<u32> {
        self.special.eos
    }

    /// Whether `add_special` puts a BOS in front. False if there is none.
    pub fn adds_bos(&self) -> bool {
        self.special.add_bos && self.special.bos.is_some()
    }

    /// Whether `add_special` puts an EOS behind. False if there is none.
    pub fn adds_eos(&self) -> bool {
        self.special.add_eos && self.special.eos.is_some()
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// No tokens (never: a file without is refused).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is unusual about the file but survivable, one sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.table.warnings
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("len", &self.len())
            .field("bos", &self.bos())
            .field("eos", &self.eos())
            .finish()
    }
}

impl Source<'_> {
    fn error(&self, key: &str, problem: impl Into<String>) -> anyhow::Error {
        malformed(self.file, format!("key {key}"), problem)
    }

    /// A string that must be there.
    fn string(&self, key: &str) -> anyhow::Result<&str> {
        match self.metadata.get(key) {
            None => Err(self.error(key, "is missing: the file has no tokenizer")),
            Some(v) => v.as_str().ok_or_else(|| self.error(key, "is no string")),
        }
    }

    /// An array of strings that may be missing.
    fn strings(&self, key: &str) -> anyhow::Result<Option<&[String]>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(v) => Ok(Some(v.as_strings().ok_or_else(|| self.error(key, "is no array of strings"))?)),
        }
    }

    /// A boolean that may be missing.
    fn flag(&self, key: &str) -> anyhow::Result<Option<bool>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(v) => Ok(Some(v.as_bool().ok_or_else(|| self.error(key, "is no boolean"))?)),
        }
    }
}
