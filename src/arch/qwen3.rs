//! Qwen3: Qwen2's block without biases, with RMS norms on queries and keys.

use super::common::{self, IGNORE, PREFIXES, Windowed};
use super::{Architecture, TensorRule, folds, rope};
use qconv_kernels::RopeStyle;
use serde_json::json;

/// The family.
pub static QWEN3: Architecture = Architecture {
    name: "qwen3",
    hf_classes: &["Qwen3ForCausalLM", "Qwen3Model"],
    prefixes: PREFIXES,
    tensors: &[
        TensorRule::new("model.embed_tokens.weight", "token_embd.weight"),
        TensorRule::new("model.norm.weight", "output_norm.weight"),
        TensorRule::new("lm_head.weight", "output.weight").optional(),
        TensorRule::new("model.layers.{i}.input_layernorm.weight", "blk.{i}.attn_norm.weight"),
        TensorRule::new("model.layers.{i}.self_attn.q_proj.weight", "blk.{i}.attn_q.weight"),
        TensorRule::new("model.layers.{i}.self_attn.q_proj.bias", "blk.{i}.attn_q.bias").optional(),
        TensorRule::new("model.layers.{i}.self_attn.q_norm.weight", "blk.{i}.attn_q_norm.weight"),
        TensorRule::new("model.layers.{i}.self_attn.k_proj.weight", "blk.{i}.attn_k.weight"),
        TensorRule::new("model.layers.{i}.self_attn.k_proj.bias", "blk.{i}.attn_k.bias").optional(),
        TensorRule::new("model.layers.{i}.self_attn.k_norm.weight", "blk.{i}.attn_k_norm.weight"),
        TensorRule::new("model.layers.{i}.self_attn.v_proj.weight", "blk.{i}.attn_v.weight"),
        TensorRule::new("model.layers.{i}.self_attn.v_proj.bias", "blk.{i}.attn_v.bias").optional(),
        TensorRule::new("model.layers.{i}.self_attn.o_proj.weight", "blk.{i}.attn_output.weight"),
        TensorRule::new("model.layers.{i}.self_attn.o_proj.bias", "blk.{i}.attn_output.bias").optional(),
        TensorRule::new("model.layers.{i}.post_attention_layernorm.weight", "blk.{i}.ffn_norm.weight"),
        TensorRule::new("model.layers.{i}.mlp.gate_proj.weight", "blk.{i}.ffn_gate.weight"),
        TensorRule::new("model.layers.{i}.mlp.up_proj.weight", "blk.{i}.ffn_up.weight"),
        TensorRule::new("model.layers.{i}.mlp.down_proj.weight", "blk.{i}.ffn_down.weight"),
    ],
    ignore: IGNORE,
    defaults: |_| {
        json!({
            "num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 32_768,
            "sliding_window": 4096, "max_window_layers": 28, "rms_norm_eps": 1e-6, "rope_theta": 1e4,
            "tie_word_embeddings": false,
        })
    },
    metadata: |config, out| {
        config.require_activation(&["hidden_act"], &["silu", "swish"])?;
        common::write_llama_like("qwen3", config, out)?;
        common::write_window("qwen3", config, out, Windowed::TypesIfUsed)
    },
    computed: rope::factors,
    folds: folds::GATED,
    plan: |keys| common::read_llama_like(keys, RopeStyle::Neox),
};
