//! Granite 3 (dense): Llama's block with factors on embeddings, attention, what each half adds, and logits.

use super::common::{self, IGNORE, PREFIXES};
use super::{Architecture, folds, llama, rope};
use qconv_kernels::RopeStyle;
use serde_json::json;

/// The family.
pub static GRANITE: Architecture = Architecture {
    name: "granite",
    hf_classes: &["GraniteForCausalLM", "GraniteModel"],
    prefixes: PREFIXES,
    tensors: &llama::DENSE,
    ignore: IGNORE,
    defaults: |_| {
        json!({
            "num_attention_heads": 32, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 1e4,
            "tie_word_embeddings": false, "attention_multiplier": 1.0, "embedding_multiplier": 1.0,
            "residual_multiplier": 1.0, "logits_scaling": 1.0,
        })
    },
    metadata: |config, out| {
        llama::write("granite", config, out)?;
        for (from, to) in FACTORS {
            match config.maybe_float(&[from])? {
                // Zero means "none" to readers.
                Some(x) if x > 0.0 => out.set(format!("granite.{to}"), x),
                Some(x) => return Err(config.error(from, format!("is {x}, which is not positive"))),
                None => {}
            }
        }
        Ok(())
    },
    computed: rope::factors,
    folds: folds::GATED,
    plan: |keys| {
        let mut plan = common::read_llama_like(keys, RopeStyle::Interleaved)?;
        let factor = |key: &str| Ok::<_, anyhow::Error>(keys.maybe_float(key)?.filter(|&x| x != 0.0));
        plan.attention_scale = factor("attention.scale")?.unwrap_or(plan.attention_scale);
        plan.embedding_scale = factor("embedding_scale")?.filter(|&x| x != 1.0);
        plan.residual_scale = factor("residual_scale")?.filter(|&x| x != 1.0);
        plan.logit_scale = factor("logit_scale")?.filter(|&x| x != 1.0).map(|x| 1.0 / x);
        Ok(plan)
    },
};

/// Where llama.cpp keeps the configuration's factors.
const FACTORS: [(&str, &str); 4] = [
    ("attention_multiplier", "attention.scale"),
    ("embedding_multiplier", "embedding_scale"),
    ("residual_multiplier", "residual_scale"),
    ("logits_scaling", "logit_scale"),
];
