//! Phi-3 and Phi-4: Llama's block with query-key-value and gate-up fused into one matrix each; LongRoPE.

use super::common::{self, IGNORE, PREFIXES, Sizes};
use super::{Architecture, Config, TensorRule, folds, rope};
use anyhow::Result;
use qconv_kernels::RopeStyle;
use serde_json::json;

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
    defaults: |_| {
        json!({
            "num_attention_heads": 32, "max_position_embeddings": 4096, "original_max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5, "rope_theta": 1e4, "tie_word_embeddings": false,
        })
    },
    metadata: |config, out| {
        config.require_activation(&["hidden_act"], &["silu", "swish"])?;
        let sizes = common::write_llama_like("phi3", config, out)?;
        out.set("phi3.rope.dimension_count", rotated(config, &sizes)? as u32);
        let original = config.rope("full_attention")?.original_context()?;
        out.set("phi3.rope.scaling.original_context_length", original as u32);
        out.set("phi3.attention.sliding_window", config.maybe_size(&["sliding_window"])?.unwrap_or(0) as u32);
        Ok(())
    },
    computed: |config| rope::factors_of(config, rotated(config, &Sizes::read(config)?)?),
    folds: folds::GATED,
    plan: |keys| common::read_llama_like(keys, RopeStyle::Neox),
};

/// Dimensions of a head that are rotated.
fn rotated(config: &Config, sizes: &Sizes) -> Result<usize> {
    let part = match config.rope("full_attention")?.maybe_float("partial_rotary_factor")? {
        Some(x) => x,
        None => config.float_or(&["partial_rotary_factor"], 1.0)?,
    };
    let dims = (part * sizes.key_dim() as f32) as usize;
    if part > 0.0 && dims.is_multiple_of(2) && (1..=sizes.key_dim()).contains(&dims) {
        return Ok(dims);
    }
    Err(config.error("partial_rotary_factor", format!("is {part}, of heads of {}", sizes.key_dim())))
}
