//! Gemma 2: every other layer sees a window; attention scores and logits are soft-capped.

use super::common::{IGNORE, PREFIXES};
use super::{Architecture, folds, gemma, rope};
use serde_json::json;

/// Of this many layers the last sees everything.
const PERIOD: usize = 2;

/// The family.
pub static GEMMA2: Architecture = Architecture {
    name: "gemma2",
    hf_classes: &["Gemma2ForCausalLM"],
    prefixes: PREFIXES,
    tensors: &gemma::TENSORS,
    ignore: IGNORE,
    defaults: |_| {
        json!({
            "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-6, "rope_theta": 1e4, "sliding_window": 4096, "query_pre_attn_scalar": 256,
            "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "tie_word_embeddings": true,
        })
    },
    metadata: |config, out| {
        gemma::write("gemma2", config, out, PERIOD)?;
        gemma::write_cap("gemma2", config, out, "attn_logit_softcapping", true)?;
        gemma::write_cap("gemma2", config, out, "final_logit_softcapping", true)
    },
    computed: rope::factors,
    folds: folds::GATED,
    plan: |keys| {
        let mut plan = gemma::plan(keys, PERIOD)?;
        // llama.cpp's defaults.
        plan.attention_soft_cap = gemma::read_cap(keys, "attn_logit_softcapping", Some(50.0))?;
        plan.logit_soft_cap = gemma::read_cap(keys, "final_logit_softcapping", Some(30.0))?;
        Ok(plan)
    },
};
