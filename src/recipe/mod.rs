//! Recipes: which tensor gets which block format, as llama-quantize decides.
//!
//! A [`Mix`] is data ([`ALL`]); [`choose()`] applies it to a model's tensors. The choice depends on a tensor's name, shape
//! and place among its kind, and on a few facts about the model ([`ModelFacts`]).

mod choose;
mod kept;
mod mixes;
mod rule;

pub use choose::choose;
pub use kept::checkpoint_format;
pub use mixes::{ALL, Mix};

use crate::error;
use anyhow::{Context, anyhow};
use fancy_regex::{Regex, RegexBuilder};
use qconv_formats::Shape;
use qconv_formats::block::BlockFormat;
use qconv_formats::gguf::Metadata;
use std::cmp::Ordering;

/// A tensor to choose for.
#[derive(Debug, Clone, Copy)]
pub struct TensorDesc<'a> {
    /// Name in GGUF.
    pub name: &'a str,
    /// Logical shape.
    pub shape: &'a Shape,
    /// As stored in the source; for a checkpoint, what [`checkpoint_format`] says. Tensors that are not quantized keep it.
    pub format: &'static BlockFormat,
}

/// What mixes ask about a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFacts {
    /// `general.architecture`.
    pub arch: String,
    /// Number of blocks.
    pub layers: usize,
    /// Query heads of the first layer; 0 in models without attention.
    pub heads: usize,
    /// Key-value heads of the first layer.
    pub kv_heads: usize,
    /// Experts; 0 in dense models.
    pub experts: usize,
}

/// Architectures whose models of so many layers llama.cpp takes for 70B models, and whether they must share key-value heads.
const SIZE_70B: &[(&str, usize, bool)] = &[
    ("llama", 80, true),
    ("llama-embed", 80, true),
    ("qwen2", 80, false),
    ("deci", 80, false),
    ("olmo", 80, false),
    ("jais2", 68, false),
];

impl ModelFacts {
    /// From the keys `general.architecture`, `ARCH.block_count`, `ARCH.attention.head_count`, `ARCH.attention.head_count_kv`
    /// and `ARCH.expert_count`. Fails if one of the first two is missing or one has the wrong type.
    pub fn from_metadata(metadata: &Metadata) -> anyhow::Result<Self> {
        let arch = metadata.str("general.architecture").context("key general.architecture is missing or no string")?;
        let number = |key: &str| -> anyhow::Result<Option<usize>> {
            let key = format!("{arch}.{key}");
            let Some(value) = metadata.get(&key) else { return Ok(None) };
            let first = || value.as_array()?.to_u64s()?.first().copied();
            let number = value.as_u64().or_else(first).and_then(|n| usize::try_from(n).ok());
            number.map(Some).ok_or_else(|| anyhow!("key {key} holds {value:?} where a number is needed"))
        };
        let heads = number("attention.head_count")?.unwrap_or(0);
        Ok(ModelFacts {
            layers: number("block_count")?.with_context(|| format!("key {arch}.block_count is missing"))?,
            heads,
            kv_heads: number("attention.head_count_kv")?.unwrap_or(heads),
            experts: number("expert_count")?.unwrap_or(0),
            arch: arch.to_owned(),
        })
    }

    /// Query heads per key-value head; 0 without attention.
    pub(crate) fn queries_per_key(&self) -> usize {
        self.heads.checked_div(self.kv_heads).unwrap_or(0)
    }

    /// llama.cpp takes the model for one of the 70B size.
    pub(crate) fn is_70b(&self) -> bool {
        let here = |&&(arch, layers, _): &&(&str, usize, bool)| self.arch == arch && self.layers == layers;
        // the only eight-expert models among them are llama's, which have sizes of their own
        let eight = self.arch.starts_with("llama") && self.experts == 8;
        SIZE_70B.iter().find(here).is_some_and(|&(_, _, shared)| !eight && (!shared || self.heads != self.kv_heads))
    }
}

/// What the caller wants otherwise than the mix.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The default format for every tensor that is quantized at all.
    pub pure: bool,
    /// For `output.weight`, and for embeddings that serve as output.
    pub output_tensor: Option<&'static BlockFormat>,
    /// For `token_embd.weight`.
    pub token_embedding: Option<&'static BlockFormat>,
    /// `output.weight` stays as stored.
    pub leave_output: bool,
    /// An importance matrix is at hand.
    pub has_imatrix: bool,
    /// Formats by name pattern; the first that fits decides. They go before the mix and before `pure`, behind the two above.
    pub overrides: Vec<Override>,
}

/// Tensors whose name holds a match of `pattern` get `format`.
#[derive(Debug, Clone)]
pub struct Override {
    /// Searched in names, case-insensitive.
    pub pattern: Regex,
    /// The format.
    pub format: &'static BlockFormat,
}

impl Override {
    /// Parses `PATTERN=FORMAT`, such as `attn_v=q8_0` or `blk\.[0-3]\.ffn_down=Q6_K`. Errors are the caller's.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let (pattern, format) = text
            .split_once('=')
            .filter(|(p, f)| !p.is_empty() && !f.is_empty())
            .ok_or_else(|| error::caller(format!("`{text}`: PATTERN=FORMAT is needed, such as attn_v=q8_0")))?;
        let format = BlockFormat::by_name(format)
            .ok_or_else(|| error::caller(format!("`{text}`: there is no block format {format}")))?;
        let pattern = RegexBuilder::new(pattern)
            .case_insensitive(true)
            .build()
            .map_err(|e| error::caller(format!("`{text}`: the pattern is no regular expression: {e}")))?;
        Ok(Override { pattern, format })
    }

    /// The pattern occurs in the name. Fails where matching takes too many steps.
    pub fn fits(&self, name: &str) -> anyhow::Result<bool> {
        let found = self.pattern.is_match(name);
        found.map_err(|e| error::caller(format!("pattern `{}` on tensor {name}: {e}", self.pattern.as_str())))
    }
}

/// What a tensor becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The format to write.
    pub format: &'static BlockFormat,
    /// The format before rows that are no multiple of its block made another one necessary.
    pub wanted: &'static BlockFormat,
    /// `format` is not `wanted`. llama-quantize counts and warns.
    pub fallback: bool,
    /// llama-quantize refuses this without an importance matrix.
    pub requires_importance: bool,
    /// Of a kind that is never quantized: stays as stored.
    pub kept: bool,
}

/// llama-quantize's order of tensors: those outside layers first, then by layer, then by name.
///
/// `blk.2.x` comes before `blk.10.a`. The converter writes in this order, and mixes count in it.
pub fn canonical_order(a: &str, b: &str) -> Ordering {
    layer_of(a).cmp(&layer_of(b)).then_with(|| a.cmp(b))
}

/// N of `blk.N.`.
pub(crate) fn layer_of(name: &str) -> Option<usize> {
    let rest = name.strip_prefix("blk.")?;
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    rest[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found_in_any_case() {
        for mix in ALL {
            for name in std::iter::once(&mix.name).chain(mix.aliases) {
                let found = Mix::by_name(&name.to_lowercase()).unwrap();
                assert!(std::ptr::eq(found, mix), "{name} finds {}", found.name);
            }
            assert!(std::ptr::eq(Mix::by_file_type(mix.file_type).unwrap(), mix), "{}", mix.name);
        }
        assert!(Mix::by_name("q4").is_none());
    }

    #[test]
    fn layers_are_ordered_by_number() {
        let mut names =
            ["blk.10.a.weight", "output.weight", "blk.2.z.weight", "blk.2.b.weight", "blk.x", "rope.blk.1."];
        names.sort_by(|a, b| canonical_order(a, b));
        assert_eq!(
            names,
            ["blk.x", "output.weight", "rope.blk.1.", "blk.2.b.weight", "blk.2.z.weight", "blk.10.a.weight"]
        );
    }

    #[test]
    fn overrides_that_make_no_sense_are_refused() {
        for text in ["attn_v", "=q8_0", "attn_v=", "attn_v=q9_9", "(=f16"] {
            let e = Override::parse(text).unwrap_err();
            assert_eq!(error::exit_code(&e), 2, "{e}");
        }
        assert!(Override::parse("ATTN_v=f16").unwrap().fits("blk.0.attn_v.weight").unwrap());
    }

    #[test]
    fn facts_come_from_metadata() {
        let mut m = Metadata::new();
        m.set("general.architecture", "llama");
        assert!(ModelFacts::from_metadata(&m).unwrap_err().to_string().contains("llama.block_count"));
        m.set("llama.block_count", 80u32);
        m.set("llama.attention.head_count", qconv_formats::gguf::Array::U32(vec![64; 80]));
        let facts = ModelFacts::from_metadata(&m).unwrap();
        assert_eq!((facts.heads, facts.kv_heads, facts.experts), (64, 64, 0));
        assert!(!facts.is_70b(), "65B: no shared heads");
        m.set("llama.attention.head_count_kv", 8u32);
        let facts = ModelFacts::from_metadata(&m).unwrap();
        assert!(facts.is_70b() && facts.queries_per_key() == 8);
        m.set("llama.expert_count", "many");
        assert!(ModelFacts::from_metadata(&m).unwrap_err().to_string().contains("llama.expert_count"));
    }
}
