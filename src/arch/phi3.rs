//! Phi-3 and Phi-4: Llama's block with query-key-value and gate-up fused into one matrix each; LongRoPE.

use super::common::{self, IGNORE, PREFIXES, Sizes};
use super::{Architecture, TensorRule, folds};
use qconv_kernels::RopeStyle;

/// The family.
pub static PHI3: Architecture = Architecture {
    name: "phi3",
    hf_classes: &["Phi3ForCausalLM"],
    prefixes: PREFIXES,
    tensors: &[
        TensorRule::new("model.embed_tokens.weight", "token_embd.weight"),
        TensorRule::new("model.norm.weight", "output_norm.weight"),
        TensorRule::new("lm_head.weight", "output.weight").optional(),
        TensorRule::new("model.layers.{i}.input_layernorm.weight", "blk.{i}.attn_norm.weight"),
        TensorRule::new("model.layers.{i}.self_attn.qkv_proj.weight", "blk.{i}.attn_qkv.weight"),
        TensorRule::new("model.layers.{i}.self_attn.o_proj.weight", "blk.{i}.attn_output.weight"),
        TensorRule::new("model.layers.{i}.post_attention_layernorm.weight", "blk.{i}.ffn_norm.weight"),
        TensorRule::new("model.layers.{i}.mlp.gate_up_proj.weight", "blk.{i}.ffn_up.weight"),
        TensorRule::new("model.layers.{i}.mlp.down_proj.weight", "blk.{i}.ffn_down.weight"),
    ],
    ignore: IGNORE,
    metadata: |config, out| {
        config.require_activation(&["hidden_act"], &["silu", "swish"])?;
        let sizes = common::write_llama_like("phi3", config, out)?;
        let rope = config.rope("full_attention")?;
        let part = match rope.maybe_float("partial_rotary_factor")? {
            Some(x) => x,
            None => config.float_or(&["partial_rotary_factor"], 1.0)?,
        };
        out.set("phi3.rope.dimension_count", (part * sizes.key_dim() as f32) as u32);
        let context = config.size(&["max_position_embeddings"])?;
        let original = rope.original_context()?.unwrap_or(context);
        out.set("phi3.rope.scaling.original_context_length", original as u32);
        if rope.floats("long_factor")?.is_some() {
            let scale = context as f64 / original as f64;
            let given = rope.maybe_float("attention_factor")?;
            let derived = if scale > 1.0 { (1.0 + scale.ln() / (original as f64).ln()).sqrt() as f32 } else { 1.0 };
            out.set("phi3.rope.scaling.attn_factor", given.unwrap_or(derived));
        }
        out.set("phi3.attention.sliding_window", config.maybe_size(&["sliding_window"])?.unwrap_or(0) as u32);
        Ok(())
    },
    computed: |config| {
        let rope = config.rope("full_attention")?;
        let dims = Sizes::read(config)?.key_dim();
        let mut out = Vec::new();
        for (key, name) in [("long_factor", "rope_factors_long.weight"), ("short_factor", "rope_factors_short.weight")]
        {
            if let Some(factors) = rope.floats(key)? {
                if factors.is_empty() || factors.len() > dims / 2 {
                    let what = format!("has {} factors for heads of {dims}", factors.len());
                    return Err(config.error(&format!("rope_parameters.{key}"), what));
                }
                out.push((name.to_owned(), factors));
            }
        }
        Ok(out)
    },
    folds: folds::GATED,
    plan: |keys| common::read_llama_like(keys, RopeStyle::Neox),
};
