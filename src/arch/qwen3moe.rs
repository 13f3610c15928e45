//! Qwen3 with a mixture of experts in every block.

use super::common::{self, IGNORE, PREFIXES, Windowed};
use super::llama::STACKED_EXPERTS;
use super::{Architecture, TensorRule, folds, joined, rope};
use qconv_kernels::RopeStyle;
use serde_json::json;

/// The family.
pub static QWEN3MOE: Architecture = Architecture {
    name: "qwen3moe",
    hf_classes: &["Qwen3MoeForCausalLM"],
    prefixes: PREFIXES,
    tensors: &joined::<{ RULES.len() + STACKED_EXPERTS.len() }>(&RULES, &STACKED_EXPERTS),
    ignore: IGNORE,
    defaults: |_| {
        json!({
            "num_attention_heads": 32, "num_key_value_heads": 4, "max_position_embeddings": 32_768, "sliding_window": 4096,
            "rms_norm_eps": 1e-6, "rope_theta": 1e4, "num_experts_per_tok": 8, "norm_topk_prob": false,
            "tie_word_embeddings": false,
        })
    },
    metadata: |config, out| {
        config.require_activation(&["hidden_act"], &["silu", "swish"])?;
        if config.get("mlp_only_layers").and_then(|v| v.as_array()).is_some_and(|l| !l.is_empty())
            || config.maybe_size(&["decoder_sparse_step"])?.is_some_and(|n| n != 1)
        {
            return Err(config.error("mlp_only_layers", "makes some blocks dense, which qwen3moe's GGUF cannot say"));
        }
        if !config.flag("norm_topk_prob")? {
            return Err(
                config.error("norm_topk_prob", "is false, or missing, which transformers takes for false; GGUF's forward pass for this family always normalizes")
            );
        }
        common::write_llama_like("qwen3moe", config, out)?;
        out.set("qwen3moe.expert_feed_forward_length", config.size(&["moe_intermediate_size"])? as u32);
        common::write_window("qwen3moe", config, out, Windowed::AllIfUsed)
    },
    computed: rope::factors,
    folds: folds::GATED,
    plan: |keys| common::read_llama_like(keys, RopeStyle::Neox),
};

const RULES: [TensorRule; 19] = [
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
    TensorRule::new("model.layers.{i}.mlp.gate.weight", "blk.{i}.ffn_gate_inp.weight"),
    TensorRule::new("model.layers.{i}.mlp.experts.{e}.gate_proj.weight", "blk.{i}.ffn_gate_exps.weight").optional(),
    TensorRule::new("model.layers.{i}.mlp.experts.{e}.up_proj.weight", "blk.{i}.ffn_up_exps.weight").optional(),
    TensorRule::new("model.layers.{i}.mlp.experts.{e}.down_proj.weight", "blk.{i}.ffn_down_exps.weight").optional(),
];
