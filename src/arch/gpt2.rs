//! GPT-2, distilgpt2, DialoGPT: learned positions, layer norms, one fused query-key-value matrix, plain GELU.

use super::common::{self, IGNORE, MOST_LAYERS};
use super::{Architecture, Feed, Fix, Plan, TensorRule, folds};
use qconv_kernels::{Activation, Norm};
use serde_json::json;

/// The family.
pub static GPT2: Architecture = Architecture {
    name: "gpt2",
    hf_classes: &["GPT2LMHeadModel", "GPT2Model"],
    prefixes: &["transformer.", ""],
    tensors: &[
        TensorRule::new("transformer.wte.weight", "token_embd.weight"),
        TensorRule::new("transformer.wpe.weight", "position_embd.weight"),
        TensorRule::new("transformer.ln_f.weight", "output_norm.weight"),
        TensorRule::new("transformer.ln_f.bias", "output_norm.bias"),
        TensorRule::new("lm_head.weight", "output.weight").optional(),
        TensorRule::new("transformer.h.{i}.ln_1.weight", "blk.{i}.attn_norm.weight"),
        TensorRule::new("transformer.h.{i}.ln_1.bias", "blk.{i}.attn_norm.bias"),
        TensorRule::new("transformer.h.{i}.attn.c_attn.weight", "blk.{i}.attn_qkv.weight").fix(Fix::Transpose),
        TensorRule::new("transformer.h.{i}.attn.c_attn.bias", "blk.{i}.attn_qkv.bias"),
        TensorRule::new("transformer.h.{i}.attn.c_proj.weight", "blk.{i}.attn_output.weight").fix(Fix::Transpose),
        TensorRule::new("transformer.h.{i}.attn.c_proj.bias", "blk.{i}.attn_output.bias"),
        TensorRule::new("transformer.h.{i}.ln_2.weight", "blk.{i}.ffn_norm.weight"),
        TensorRule::new("transformer.h.{i}.ln_2.bias", "blk.{i}.ffn_norm.bias"),
        TensorRule::new("transformer.h.{i}.mlp.c_fc.weight", "blk.{i}.ffn_up.weight").fix(Fix::Transpose),
        TensorRule::new("transformer.h.{i}.mlp.c_fc.bias", "blk.{i}.ffn_up.bias"),
        TensorRule::new("transformer.h.{i}.mlp.c_proj.weight", "blk.{i}.ffn_down.weight").fix(Fix::Transpose),
        TensorRule::new("transformer.h.{i}.mlp.c_proj.bias", "blk.{i}.ffn_down.bias"),
    ],
    ignore: IGNORE,
    defaults: |_| json!({ "tie_word_embeddings": true }),
    metadata: |config, out| {
        config.require_activation(&["activation_function"], &common::TANH_GELU)?;
        if config.flag("scale_attn_by_inverse_layer_idx")? {
            return Err(config.error("scale_attn_by_inverse_layer_idx", "is true, which gpt2's GGUF cannot say"));
        }
        if config.get("scale_attn_weights").is_some() && !config.flag("scale_attn_weights")? {
            return Err(config.error("scale_attn_weights", "is false, which gpt2's GGUF cannot say"));
        }
        let width = config.size(&["n_embd", "hidden_size"])?;
        out.set("gpt2.block_count", config.layers()? as u32);
        out.set("gpt2.context_length", config.size(&["n_positions", "n_ctx", "max_position_embeddings"])? as u32);
        out.set("gpt2.embedding_length", width as u32);
        out.set("gpt2.feed_forward_length", config.maybe_size(&["n_inner"])?.unwrap_or(4 * width) as u32);
        out.set("gpt2.attention.head_count", config.size(&["n_head", "num_attention_heads"])? as u32);
        out.set("gpt2.attention.layer_norm_epsilon", config.float_or(&["layer_norm_epsilon"], 1e-5)?);
        Ok(())
    },
    computed: common::none,
    folds: folds::UNGATED,
    plan: |keys| {
        let width = keys.size("embedding_length")?;
        let heads = keys.bounded("attention.head_count", width)?;
        let head_dim = width / heads;
        Ok(Plan {
            layers: keys.bounded("block_count", MOST_LAYERS)?,
            width,
            heads,
            kv_heads: heads,
            key_dim: head_dim,
            value_dim: head_dim,
            context: keys.size("context_length")?,
            norm: Norm::Layer,
            eps: keys.float("attention.layer_norm_epsilon")?,
            rope: None,
            attention_scale: 1.0 / (head_dim as f32).sqrt(),
            attention_soft_cap: None,
            window: None,
            feed: Feed { activation: Activation::GeluTanh, gated: false, experts: None },
            pre_norms: true,
            joint_head_norms: false,
            embedding_scale: None,
            residual_scale: None,
            logit_scale: None,
            logit_soft_cap: None,
        })
    },
};
