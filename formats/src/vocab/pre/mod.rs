//! Pre-tokenizers of byte-pair encodings: how text is cut into words before merges apply.
//!
//! `tokenizer.ggml.pre` names one of them. A row of [`ALL`] says which names there are, how text is cut, and by which
//! structure of a `tokenizer.json` the row is recognised. Adding one is adding a row.
//!
//! The cuts are those that llama.cpp makes (source: `llm_tokenizer_bpe` of its `llama-vocab.cpp`), because a GGUF file's
//! ids mean what llama.cpp says they mean. Its regex engine knows a character outside ASCII only by its general category
//! (letter, mark, number, ...), so that `\p{Lu}` and `\p{Ll}` both mean "letter" there: the patterns below write out what
//! it does. For scripts with upper and lower case outside ASCII, or with combining marks, that can differ from the
//! Hugging Face tokenizer of the rows `tekken`, `gpt-4o`, `tiny_aya` and `youtu`.

mod rows;

pub use rows::{ALL, CLASSES};

/// A pre-tokenizer.
#[derive(Debug)]
pub struct Pre {
    /// Values of `tokenizer.ggml.pre` that mean it.
    pub names: &'static [&'static str],
    /// Cuts, made one after another: each cuts the pieces that the one before left.
    pub cuts: &'static [Cut],
    /// A word that is a token as a whole is taken without looking at merges.
    pub ignore_merges: bool,
    /// Whether a BOS token is added where the file does not say.
    pub add_bos: AddBos,
    /// The family's default BOS holds where the file names none (ChatGLM has none at all).
    pub has_bos: bool,
    /// Words are written in GPT-2's byte alphabet ([`super::byte_level`]); otherwise in UTF-8 with `<0xE2>` for unknown bytes.
    pub byte_level: bool,
    /// Spaces become `▁` before anything else.
    pub escape_spaces: bool,
    /// A run of line feeds that is a token is taken as a whole (Gemma 4).
    pub newline_tokens: bool,
    /// The file may come without merges (Kimi K2).
    pub merges_optional: bool,
    /// How to recognise it in a Hugging Face folder.
    pub signs: &'static [Sign],
}

/// One cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Every match of a pattern is a piece of its own, and so is what lies between matches.
    Pattern(&'static str),
    /// Runs of digits fall into groups of three from the right. What stands before a run stays with its first group:
    /// the next cut separates them.
    DigitGroups,
    /// Runs of ASCII digits fall into groups of three from the right, cut before each whole group.
    Thousands,
}

/// Whether a BOS token is added where the file does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddBos {
    /// No.
    No,
    /// Yes.
    Yes,
    /// Yes, even where the file says no.
    Always,
}

/// What a Hugging Face tokenizer looks like that a row stands for.
///
/// Several rows may cut alike and differ in what else they imply. The sign with the most conditions that hold wins.
#[derive(Debug)]
pub struct Sign {
    /// The name to write.
    pub name: &'static str,
    /// The pre-tokenizer's steps: a pattern for an isolating split, `<digits>`, `<gpt-2>`, `<bytes>`, ... for the others;
    /// empty: the row's own cuts, then `<bytes>`.
    pub steps: &'static [&'static str],
    /// `ignore_merges` of the model has this value.
    pub ignore_merges: Option<bool>,
    /// All of these tokens exist.
    pub tokens: &'static [&'static str],
}

impl Sign {
    /// A sign with steps alone.
    pub const fn new(name: &'static str, steps: &'static [&'static str]) -> Self {
        Sign { name, steps, ignore_merges: None, tokens: &[] }
    }

    /// And `ignore_merges` has this value.
    pub const fn ignore_merges(mut self, value: bool) -> Self {
        self.ignore_merges = Some(value);
        self
    }

    /// How much it demands beyond the steps; of two signs that hold, the one with more conditions counts.
    pub fn conditions(&self) -> usize {
        self.tokens.len() + usize::from(self.ignore_merges.is_some())
    }

    /// And these tokens exist.
    pub const fn tokens(mut self, tokens: &'static [&'static str]) -> Self {
        self.tokens = tokens;
        self
    }
}

impl Pre {
    /// A byte-level row without peculiarities.
    const fn new(names: &'static [&'static str], cuts: &'static [Cut]) -> Self {
        Pre {
            names,
            cuts,
            ignore_merges: false,
            add_bos: AddBos::No,
            has_bos: true,
            byte_level: true,
            escape_spaces: false,
            newline_tokens: false,
            merges_optional: false,
            signs: &[],
        }
    }

    const fn ignore_merges(mut self) -> Self {
        self.ignore_merges = true;
        self
    }

    const fn add_bos(mut self, when: AddBos) -> Self {
        self.add_bos = when;
        self
    }

    const fn no_bos(mut self) -> Self {
        self.has_bos = false;
        self
    }

    /// Words in UTF-8.
    const fn utf8(mut self) -> Self {
        self.byte_level = false;
        self
    }

    const fn escape_spaces(mut self) -> Self {
        self.escape_spaces = true;
        self
    }

    const fn newline_tokens(mut self) -> Self {
        self.newline_tokens = true;
        self
    }

    const fn merges_optional(mut self) -> Self {
        self.merges_optional = true;
        self
    }

    const fn signs(mut self, signs: &'static [Sign]) -> Self {
        self.signs = signs;
        self
    }

    /// The row of a name.
    pub fn by_name(name: &str) -> Option<&'static Pre> {
        ALL.iter().copied().find(|p| p.names.contains(&name))
    }
}
