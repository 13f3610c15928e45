//! StarCoder2: layer norms, biases everywhere, rotary positions, plain GELU.

use super::common::{self, IGNORE, PREFIXES, Windowed};
use super::{Architecture, TensorRule, folds, rope};
use qconv_kernels::{Activation, RopeStyle};
use serde_json::json;

/// The family.
pub static STARCODER2: Architecture = Architecture {
    name: "starcoder2",
    hf_classes: &["Starcoder2ForCausalLM"],
    prefixes: PREFIXES,
    tensors: &[
        TensorRule::new("model.embed_tokens.weight", "token_embd.weight"),
        TensorRule::new("model.norm.weight", "output_norm.weight"),
        TensorRule::new("model.norm.bias", "output_norm.bias"),
        TensorRule::new("lm_head.weight", "output.weight").optional(),
        TensorRule::new("model.layers.{i}.input_layernorm.weight", "blk.{i}.attn_norm.weight"),
        TensorRule::new("model.layers.{i}.input_layernorm.bias", "blk.{i}.attn_norm.bias"),
        TensorRule::new("model.layers.{i}.self_attn.q_proj.weight", "blk.{i}.attn_q.weight"),
        TensorRule::new("model.layers.{i}.self_attn.q_proj.bias", "blk.{i}.attn_q.bias").optional(),
        TensorRule::new("model.layers.{i}.self_attn.k_proj.weight", "blk.{i}.attn_k.weight"),
        TensorRule::new("model.layers.{i}.self_attn.k_proj.bias", "blk.{i}.attn_k.bias").optional(),
        TensorRule::new("model.layers.{i}.self_attn.v_proj.weight", "blk.{i}.attn_v.weight"),
        TensorRule::new("model.layers.{i}.self_attn.v_proj.bias", "blk.{i}.attn_v.bias").optional(),
        TensorRule::new("model.layers.{i}.self_attn.o_proj.weight", "blk.{i}.attn_output.weight"),
        TensorRule::new("model.layers.{i}.self_attn.o_proj.bias", "blk.{i}.attn_output.bias").optional(),
        TensorRule::new("model.layers.{i}.post_attention_layernorm.weight", "blk.{i}.ffn_norm.weight"),
        TensorRule::new("model.layers.{i}.post_attention_layernorm.bias", "blk.{i}.ffn_norm.bias"),
        TensorRule::new("model.layers.{i}.mlp.c_fc.weight", "blk.{i}.ffn_up.weight"),
        TensorRule::new("model.layers.{i}.mlp.c_fc.bias", "blk.{i}.ffn_up.bias").optional(),
        TensorRule::new("model.layers.{i}.mlp.c_proj.weight", "blk.{i}.ffn_down.weight"),
        TensorRule::new("model.layers.{i}.mlp.c_proj.bias", "blk.{i}.ffn_down.bias").optional(),
    ],
    ignore: IGNORE,
    defaults: |_| {
        json!({
            "num_attention_heads": 24, "num_key_value_heads": 2, "max_position_embeddings": 4096, "norm_epsilon": 1e-5,
            "rope_theta": 1e4, "tie_word_embeddings": true,
        })
    },
    metadata: |config, out| {
        config.require_activation(&["hidden_act"], &common::TANH_GELU)?;
        common::write_llama_like("starcoder2", config, out)?;
        common::write_window("starcoder2", config, out, Windowed::All)
    },
    computed: rope::factors,
    folds: folds::UNGATED,
    plan: |keys| {
        let mut plan = common::read_llama_like(keys, RopeStyle::Neox)?;
        plan.feed.activation = Activation::GeluTanh;
        plan.feed.gated = false;
        Ok(plan)
    },
};
