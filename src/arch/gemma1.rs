//! Gemma: Llama's block with norms stored minus one, scaled embeddings and GELU.

use super::common::{self, IGNORE, PREFIXES};
use super::{Architecture, Fix, TensorRule, folds, gemma, rope};
use serde_json::json;

/// The family.
pub static GEMMA: Architecture = Architecture {
    name: "gemma",
    hf_classes: &["GemmaForCausalLM"],
    prefixes: PREFIXES,
    tensors: &[
        TensorRule::new("model.embed_tokens.weight", "token_embd.weight"),
        TensorRule::new("model.norm.weight", "output_norm.weight").fix(Fix::AddOne),
        TensorRule::new("lm_head.weight", "output.weight").optional(),
        TensorRule::new("model.layers.{i}.input_layernorm.weight", "blk.{i}.attn_norm.weight").fix(Fix::AddOne),
        TensorRule::new("model.layers.{i}.self_attn.q_proj.weight", "blk.{i}.attn_q.weight"),
        TensorRule::new("model.layers.{i}.self_attn.q_proj.bias", "blk.{i}.attn_q.bias").optional(),
        TensorRule::new("model.layers.{i}.self_attn.k_proj.weight", "blk.{i}.attn_k.weight"),
        TensorRule::new("model.layers.{i}.self_attn.k_proj.bias", "blk.{i}.attn_k.bias").optional(),
        TensorRule::new("model.layers.{i}.self_attn.v_proj.weight", "blk.{i}.attn_v.weight"),
        TensorRule::new("model.layers.{i}.self_attn.v_proj.bias", "blk.{i}.attn_v.bias").optional(),
        TensorRule::new("model.layers.{i}.self_attn.o_proj.weight", "blk.{i}.attn_output.weight"),
        TensorRule::new("model.layers.{i}.self_attn.o_proj.bias", "blk.{i}.attn_output.bias").optional(),
        TensorRule::new("model.layers.{i}.post_attention_layernorm.weight", "blk.{i}.ffn_norm.weight").fix(Fix::AddOne),
        TensorRule::new("model.layers.{i}.mlp.gate_proj.weight", "blk.{i}.ffn_gate.weight"),
        TensorRule::new("model.layers.{i}.mlp.up_proj.weight", "blk.{i}.ffn_up.weight"),
        TensorRule::new("model.layers.{i}.mlp.down_proj.weight", "blk.{i}.ffn_down.weight"),
    ],
    ignore: IGNORE,
    defaults: |_| {
        json!({
            "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 256, "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-6, "rope_theta": 1e4, "tie_word_embeddings": true,
        })
    },
    metadata: |config, out| {
        // The first checkpoints say "gelu" and mean its approximation, which is what transformers computes then.
        config.require_activation(&["hidden_act"], &[&common::TANH_GELU[..], &["gelu"]].concat())?;
        gemma::check(config)?;
        common::write_llama_like("gemma", config, out).map(|_| ())
    },
    computed: rope::factors,
    folds: folds::GATED,
    plan: gemma::scaled,
};
