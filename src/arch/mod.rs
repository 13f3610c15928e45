//! Model families: data that says how a checkpoint's tensors and configuration become GGUF, and how the forward pass runs.
//!
//! One file and one line in [`ALL`] per family. Converter, verifier and engine read the same value.

mod common;
mod config;
mod folds;
mod gemma;
mod keys;
mod plan;
mod rope;

mod gemma1;
mod gemma2;
mod gemma3;
mod gpt2;
mod granite;
mod llama;
mod olmo2;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3moe;
mod smollm3;
mod starcoder2;

pub use config::Config;
pub use folds::{Channels, Fold, Folds};
pub use keys::Keys;
pub use plan::{Experts, Feed, Plan, RopePlan, RopeScaling, Window};

use qconv_formats::gguf::Metadata;

/// Every model family.
pub static ALL: &[&Architecture] = &[
    &llama::LLAMA,
    &qwen2::QWEN2,
    &gpt2::GPT2,
    &qwen3::QWEN3,
    &qwen3moe::QWEN3MOE,
    &gemma2::GEMMA2,
    &gemma3::GEMMA3,
    &phi3::PHI3,
    &gemma1::GEMMA,
    &starcoder2::STARCODER2,
    &granite::GRANITE,
    &smollm3::SMOLLM3,
    &olmo2::OLMO2,
];

/// A model family.
pub struct Architecture {
    /// GGUF's `general.architecture`.
    pub name: &'static str,
    /// `architectures` of `config.json` that belong to it.
    pub hf_classes: &'static [&'static str],
    /// Prefixes under which a checkpoint may keep its tensors. Rules are written with the first; the others may stand
    /// in its place.
    pub prefixes: &'static [&'static str],
    /// What becomes of each tensor.
    pub tensors: &'static [TensorRule],
    /// Ends of names of tensors that hold nothing (masks, cached frequencies) and are left out.
    pub ignore: &'static [&'static str],
    /// What transformers assumes for a class where `config.json` lacks a key; only keys that change what is computed.
    pub defaults: fn(class: &str) -> serde_json::Value,
    /// Writes the family's hyper-parameters (`llama.block_count`, ...).
    pub metadata: fn(&Config, &mut Metadata) -> anyhow::Result<()>,
    /// Tensors that are computed from the configuration (`rope_freqs.weight`).
    pub computed: fn(&Config) -> anyhow::Result<Vec<Computed>>,
    /// Where transforms can scale and rotate.
    pub folds: Folds,
    /// Reads the hyper-parameters back and says how to run.
    pub plan: fn(&Keys) -> anyhow::Result<Plan>,
}

/// A computed tensor: its GGUF name and its values (a vector).
pub type Computed = (String, Vec<f32>);

/// What becomes of one kind of tensor.
#[derive(Debug, Clone, Copy)]
pub struct TensorRule {
    /// Name in the checkpoint; `{i}` is the layer, `{e}` an expert (stacked in order).
    pub hf: &'static str,
    /// Name in GGUF; `{i}` is the layer.
    pub gguf: &'static str,
    /// How the numbers change.
    pub fix: Fix,
    /// When a checkpoint without it is broken.
    pub required: Required,
}

/// Whether a tensor must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Required {
    /// Always.
    Yes,
    /// In models without experts.
    UnlessExperts,
    /// Never: biases, an untied output, alternatives.
    No,
}

/// How a tensor's numbers change on the way into GGUF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fix {
    /// Not at all.
    None,
    /// Query rows from Hugging Face's half-split order to GGUF's interleaved RoPE order.
    RopeQuery,
    /// Key rows likewise.
    RopeKey,
    /// Rows and columns swapped (GPT-2's Conv1D).
    Transpose,
    /// 1 is added (Gemma's norms).
    AddOne,
    /// The first half of the rows of every matrix (a fused gate-up).
    FirstHalf,
    /// The second half.
    SecondHalf,
}

impl Architecture {
    /// By `general.architecture`.
    pub fn by_name(name: &str) -> Option<&'static Architecture> {
        ALL.iter().copied().find(|a| a.name == name)
    }

    /// By a class of `config.json`'s `architectures`.
    pub fn by_hf_class(class: &str) -> Option<&'static Architecture> {
        ALL.iter().copied().find(|a| a.hf_classes.contains(&class))
    }
}

/// Two lists as one; `N` is the length of both.
const fn joined<const N: usize>(first: &[TensorRule], second: &[TensorRule]) -> [TensorRule; N] {
    assert!(first.len() + second.len() == N);
    let mut all = [first[0]; N];
    let mut i = 0;
    while i < N {
        all[i] = if i < first.len() { first[i] } else { second[i - first.len()] };
        i += 1;
    }
    all
}

impl TensorRule {
    /// A tensor that must be there.
    pub const fn new(hf: &'static str, gguf: &'static str) -> Self {
        TensorRule { hf, gguf, fix: Fix::None, required: Required::Yes }
    }

    /// A tensor that may be missing (biases, an untied output).
    pub const fn optional(mut self) -> Self {
        self.required = Required::No;
        self
    }

    /// A tensor that only models without experts have.
    pub const fn unless_experts(mut self) -> Self {
        self.required = Required::UnlessExperts;
        self
    }

    /// With a fix-up.
    pub const fn fix(mut self, fix: Fix) -> Self {
        self.fix = fix;
        self
    }
}

impl std::fmt::Debug for Architecture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}
