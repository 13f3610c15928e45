//! Gemma 2: every other layer sees a window; attention scores and logits are soft-capped.

use super::common::{self, IGNORE, PREFIXES};
use super::{Architecture, folds, gemma};

/// Of this many layers the last sees everything.
const PERIOD: usize = 2;

/// The family.
pub static GEMMA2: Architecture = Architecture {
    name: "gemma2",
    hf_classes: &["Gemma2ForCausalLM"],
    prefixes: PREFIXES,
    tensors: &gemma::TENSORS,
    ignore: IGNORE,
    metadata: |config, out| gemma::write("gemma2", config, out, PERIOD),
    computed: common::none,
    folds: folds::GATED,
    plan: |keys| gemma::plan(keys, PERIOD),
};
