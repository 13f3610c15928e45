//! Gemma 3 (text): norms on queries and keys, five windowed layers for each that sees everything, with their own RoPE base.

use super::common::{IGNORE, PREFIXES};
use super::{Architecture, Fix, TensorRule, folds, gemma, joined, rope};
use serde_json::json;

/// Of this many layers the last sees everything.
const PERIOD: usize = 6;
/// transformers' `rope_local_base_freq` where the configuration has none.
const LOCAL_BASE: f32 = 10_000.0;

/// The family.
pub static GEMMA3: Architecture = Architecture {
    name: "gemma3",
    hf_classes: &["Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"],
    prefixes: PREFIXES,
    tensors: &joined::<{ HEAD_NORMS.len() + gemma::TENSORS.len() }>(&HEAD_NORMS, &gemma::TENSORS),
    ignore: IGNORE,
    defaults: |_| {
        json!({
            "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 131_072,
            "rms_norm_eps": 1e-6, "rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window": 4096,
            "query_pre_attn_scalar": 256, "tie_word_embeddings": true,
        })
    },
    metadata: |config, out| {
        gemma::write("gemma3", config, out, PERIOD)?;
        // Attention scores are not capped, whatever the configuration says: transformers does not for this class.
        gemma::write_cap("gemma3", config, out, "final_logit_softcapping", false)?;
        if config.rope("sliding_attention")?.theta.is_none()
            && let Some(base) = config.maybe_float(&["rope_local_base_freq"])?
        {
            out.set("gemma3.rope.freq_base_swa", base);
        }
        Ok(())
    },
    computed: rope::factors,
    folds: folds::GATED,
    plan: |keys| {
        let mut plan = gemma::plan(keys, PERIOD)?;
        plan.logit_soft_cap = gemma::read_cap(keys, "final_logit_softcapping", None)?;
        if let Some(rope) = &mut plan.rope {
            rope.window_base.get_or_insert(LOCAL_BASE);
        }
        Ok(plan)
    },
};

const HEAD_NORMS: [TensorRule; 2] = [
    TensorRule::new("model.layers.{i}.self_attn.q_norm.weight", "blk.{i}.attn_q_norm.weight").fix(Fix::AddOne),
    TensorRule::new("model.layers.{i}.self_attn.k_norm.weight", "blk.{i}.attn_k_norm.weight").fix(Fix::AddOne),
];
