//! What Gemma 2 and 3 share: norms stored minus one, norms behind attention and feed-forward, scaled embeddings, GELU. The first
//! Gemma has fewer norms and no options, and shares [`check`] and [`scaled`].

use super::common::{self, Sizes};
use super::{Config, Fix, Keys, Plan, TensorRule};
use anyhow::Result;
use qconv_formats::gguf::Metadata;
use qconv_kernels::{Activation, RopeStyle};

/// Tensors of both.
pub const TENSORS: [TensorRule; 18] = [
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
    TensorRule::new("model.layers.{i}.post_attention_layernorm.weight", "blk.{i}.post_attention_norm.weight")
        .fix(Fix::AddOne),
    TensorRule::new("model.layers.{i}.pre_feedforward_layernorm.weight", "blk.{i}.ffn_norm.weight").fix(Fix::AddOne),
    TensorRule::new("model.layers.{i}.post_feedforward_layernorm.weight", "blk.{i}.post_ffw_norm.weight")
        .fix(Fix::AddOne),
    TensorRule::new("model.layers.{i}.mlp.gate_proj.weight", "blk.{i}.ffn_gate.weight"),
    TensorRule::new("model.layers.{i}.mlp.up_proj.weight", "blk.{i}.ffn_up.weight"),
    TensorRule::new("model.layers.{i}.mlp.down_proj.weight", "blk.{i}.ffn_down.weight"),
];

/// Refuses what the forward pass of no Gemma computes here.
pub fn check(config: &Config) -> Result<()> {
    if config.flag("use_bidirectional_attention")? {
        return Err(config.error("use_bidirectional_attention", "is true: the forward pass here is causal"));
    }
    Ok(())
}

/// A plan with scaled embeddings and GELU, as all have.
pub fn scaled(keys: &Keys) -> Result<Plan> {
    let mut plan = common::read_llama_like(keys, RopeStyle::Neox)?;
    plan.feed.activation = Activation::GeluTanh;
    plan.embedding_scale = Some((plan.width as f32).sqrt());
    Ok(plan)
}

/// Writes the keys of both. `attention.scale` is qconv's addition for models whose `query_pre_attn_scalar` is not what
/// llama.cpp derives from the sizes.
pub fn write(arch: &str, config: &Config, out: &mut Metadata, period: usize) -> Result<()> {
    config.require_activation(&["hidden_activation"], &common::TANH_GELU)?;
    check(config)?;
    let sizes = common::write_llama_like(arch, config, out)?;
    if let Some(window) = config.maybe_size(&["sliding_window"])? {
        out.set(format!("{arch}.attention.sliding_window"), window as u32);
        let layers = config.layers()?;
        let usual: Vec<bool> = (0..layers).map(|i| i % period < period - 1).collect();
        let actual = match (
            config.windowed_layers()?,
            config.maybe_size(&["sliding_window_pattern", "_sliding_window_pattern"])?,
        ) {
            (Some(listed), _) => listed,
            (None, Some(n)) => (0..layers).map(|i| (i + 1) % n != 0).collect(),
            (None, None) => usual.clone(),
        };
        if actual != usual {
            out.set(format!("{arch}.attention.sliding_window_pattern"), qconv_formats::gguf::Array::Bool(actual));
        }
    }
    let head_dim = sizes.key_dim();
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

/// Stands for no soft cap where readers take a missing key for the family's usual one: so large that nothing is capped
/// (`tanh(x)` is `x` for tiny `x`).
const NO_CAP: f32 = 1e20;

/// Writes a soft cap. `usual`: what readers assume without the key.
pub fn write_cap(arch: &str, config: &Config, out: &mut Metadata, name: &str, usual: bool) -> Result<()> {
    match config.maybe_float(&[name])? {
        Some(cap) if cap <= 0.0 => return Err(config.error(name, "is not positive")),
        Some(cap) => out.set(format!("{arch}.{name}"), cap),
        None if usual => out.set(format!("{arch}.{name}"), NO_CAP),
        None => {}
    }
    Ok(())
}

/// Reads a soft cap.
pub fn read_cap(keys: &Keys, name: &str, usual: Option<f32>) -> Result<Option<f32>> {
    Ok(keys.maybe_float(name)?.or(usual).filter(|&cap| cap > 0.0 && cap < NO_CAP))
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
    let mut plan = scaled(keys)?;
    plan.window = common::read_window(keys, plan.layers, Some(period))?;
    let scalar = if is_27b(plan.layers) { plan.width / plan.heads } else { plan.key_dim };
    plan.attention_scale = keys.maybe_float("attention.scale")?.unwrap_or(1.0 / (scalar as f32).sqrt());
    Ok(plan)
}
