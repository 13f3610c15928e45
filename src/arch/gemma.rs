//! What Gemma 2 and 3 share: norms stored minus one, norms behind attention and feed-forward, scaled embeddings, GELU.

use super::common::{self, Sizes};
use super::{Config, Fix, Keys, Plan, TensorRule};
use anyhow::Result;
use qconv_formats::gguf::Metadata;
use qconv_kernels::{Activation, RopeStyle};

/// Tensors of both.
pub const TENSORS: [TensorRule; 13] = [
    TensorRule::new("model.embed_tokens.weight", "token_embd.weight"),
    TensorRule::new("model.norm.weight", "output_norm.weight").fix(Fix::AddOne),
    TensorRule::new("model.layers.{i}.input_layernorm.weight", "blk.{i}.attn_norm.weight").fix(Fix::AddOne),
    TensorRule::new("model.layers.{i}.self_attn.q_proj.weight", "blk.{i}.attn_q.weight"),
    TensorRule::new("model.layers.{i}.self_attn.k_proj.weight", "blk.{i}.attn_k.weight"),
    TensorRule::new("model.layers.{i}.self_attn.v_proj.weight", "blk.{i}.attn_v.weight"),
    TensorRule::new("model.layers.{i}.self_attn.o_proj.weight", "blk.{i}.attn_output.weight"),
    TensorRule::new("model.layers.{i}.post_attention_layernorm.weight", "blk.{i}.post_attention_norm.weight")
        .fix(Fix::AddOne),
    TensorRule::new("model.layers.{i}.pre_feedforward_layernorm.weight", "blk.{i}.ffn_norm.weight").fix(Fix::AddOne),
    TensorRule::new("model.layers.{i}.post_feedforward_layernorm.weight", "blk.{i}.post_ffw_norm.weight")
        .fix(Fix::AddOne),
    TensorRule::new("model.layers.{i}.mlp.gate_proj.weight", "blk.{i}.ffn_gate.weight"),
    TensorRule::new("model.layers.{i}.mlp.up_proj.weight", "blk.{i}.ffn_up.weight"),
    TensorRule::new("model.layers.{i}.mlp.down_proj.weight", "blk.{i}.ffn_down.weight"),
];

/// Writes the keys of both. `attention.scale` is qconv's addition for models whose `query_pre_attn_scalar` is not what
/// llama.cpp derives from the sizes.
pub fn write(arch: &str, config: &Config, out: &mut Metadata, period: usize) -> Result<()> {
    config.require_activation(&["hidden_activation", "hidden_act"], &["gelu_pytorch_tanh", "gelu_new", "gelu"])?;
    let sizes = common::write_llama_like(arch, config, out)?;
    if sizes.head_dim.is_none() {
        // transformers' default for the class, not width / heads.
        out.set(format!("{arch}.attention.key_length"), 256u32);
        out.set(format!("{arch}.attention.value_length"), 256u32);
    }
    if let Some(cap) = config.maybe_float(&["attn_logit_softcapping"])? {
        out.set(format!("{arch}.attn_logit_softcapping"), cap);
    }
    if let Some(cap) = config.maybe_float(&["final_logit_softcapping"])? {
        out.set(format!("{arch}.final_logit_softcapping"), cap);
    }
    if let Some(window) = config.maybe_size(&["sliding_window"])? {
        out.set(format!("{arch}.attention.sliding_window"), window as u32);
        let layers = config.layers()?;
        let usual: Vec<bool> = (0..layers).map(|i| i % period < period - 1).collect();
        let kinds = config.get("layer_types").and_then(|v| v.as_array());
        let actual: Vec<bool> =
            match (kinds, config.maybe_size(&["sliding_window_pattern", "_sliding_window_pattern"])?) {
                (Some(kinds), _) => kinds.iter().map(|k| k.as_str() == Some("sliding_attention")).collect(),
                (None, Some(n)) => (0..layers).map(|i| (i + 1) % n != 0).collect(),
                (None, None) => usual.clone(),
            };
        if actual.len() != layers {
            return Err(config.error("layer_types", format!("has {} entries for {layers} layers", actual.len())));
        }
        if actual != usual {
            out.set(format!("{arch}.attention.sliding_window_pattern"), qconv_formats::gguf::Array::Bool(actual));
        }
    }
    let head_dim = sizes.head_dim.unwrap_or(256);
    if let Some(scalar) = config.maybe_float(&["query_pre_attn_scalar"])? {
        if scalar <= 0.0 {
            return Err(config.error("query_pre_attn_scalar", "is not positive"));
        }
        if scalar != derived_scalar(config.layers()?, &sizes, head_dim) {
            out.set(format!("{arch}.attention.scale"), 1.0 / scalar.sqrt());
        }
    }
    Ok(())
}

/// llama.cpp takes the scale of attention from the head, but for the 27B models from width / heads.
fn derived_scalar(layers: usize, sizes: &Sizes, head_dim: usize) -> f32 {
    if is_27b(layers) { (sizes.width / sizes.heads) as f32 } else { head_dim as f32 }
}

fn is_27b(layers: usize) -> bool {
    layers == 46 || layers == 62
}

/// Reads what [`write`] wrote.
pub fn plan(keys: &Keys, period: usize) -> Result<Plan> {
    let mut plan = common::read_llama_like(keys, RopeStyle::Neox)?;
    plan.feed.activation = Activation::GeluTanh;
    plan.embedding_scale = Some((plan.width as f32).sqrt());
    plan.attention_soft_cap = keys.maybe_float("attn_logit_softcapping")?.filter(|&x| x > 0.0);
    plan.logit_soft_cap = keys.maybe_float("final_logit_softcapping")?.filter(|&x| x > 0.0);
    plan.window = common::read_window(keys, plan.layers, Some(period))?;
    let scalar = if is_27b(plan.layers) { plan.width / plan.heads } else { plan.key_dim };
    plan.attention_scale = keys.maybe_float("attention.scale")?.unwrap_or(1.0 / (scalar as f32).sqrt());
    Ok(plan)
}
