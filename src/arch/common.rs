//! What most families share: hyper-parameters of decoder-only transformers as GGUF keys, and back.

use super::{Config, Keys, Window, rope};
use anyhow::Result;
use qconv_formats::gguf::{Array, Metadata};
use qconv_kernels::RopeStyle;

/// Endings of tensors that hold nothing: cached frequencies and masks.
pub const IGNORE: &[&str] =
    &[".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias"];

/// Prefixes of Llama-like checkpoints.
pub const PREFIXES: &[&str] = &["model.", "", "language_model.model.", "model.language_model."];

/// Most layers, heads, ... that a file may claim.
pub const MOST_LAYERS: usize = 4096;

/// Sizes that every Llama-like family writes.
pub struct Sizes {
    /// Width of the residual stream.
    pub width: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Width of a head, where the configuration says so.
    pub head_dim: Option<usize>,
}

impl Sizes {
    /// Reads them, with what transformers assumes where they are missing.
    pub fn read(config: &Config) -> Result<Self> {
        let width = config.size(&["hidden_size", "n_embd", "dim"])?;
        let heads = config.size(&["num_attention_heads", "n_head", "n_heads"])?;
        let kv_heads = config.maybe_size(&["num_key_value_heads", "n_kv_heads"])?.unwrap_or(heads);
        let head_dim = config.maybe_size(&["head_dim"])?;
        if !heads.is_multiple_of(kv_heads) {
            return Err(
                config.error("num_key_value_heads", format!("is {kv_heads}, which does not divide {heads} heads"))
            );
        }
        if head_dim.is_none() && !width.is_multiple_of(heads) {
            return Err(
                config.error("num_attention_heads", format!("is {heads}, which does not divide the width {width}"))
            );
        }
        Ok(Sizes { width, heads, kv_heads, head_dim })
    }

    /// Width of a head.
    pub fn key_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.width / self.heads)
    }
}

/// Writes the keys that Llama-like families have in common, in the order of llama.cpp's converter.
pub fn write_llama_like(arch: &str, config: &Config, out: &mut Metadata) -> Result<Sizes> {
    let sizes = Sizes::read(config)?;
    let mut set = |key: &str, n: usize| out.set(format!("{arch}.{key}"), n as u32);
    set("block_count", config.layers()?);
    set("context_length", config.size(&["max_position_embeddings", "n_ctx", "n_positions"])?);
    set("embedding_length", sizes.width);
    set("feed_forward_length", config.size(&["intermediate_size"])?);
    set("attention.head_count", sizes.heads);
    set("attention.head_count_kv", sizes.kv_heads);
    rope::write(arch, config, out)?;
    match config.maybe_float(&["norm_epsilon", "layer_norm_eps"])? {
        Some(eps) => out.set(format!("{arch}.attention.layer_norm_epsilon"), eps),
        None => {
            let eps = config.float_or(&["rms_norm_eps", "norm_eps"], 1e-6)?;
            out.set(format!("{arch}.attention.layer_norm_rms_epsilon"), eps);
        }
    }
    if let Some(n) = config.maybe_size(&["num_local_experts", "num_experts"])? {
        out.set(format!("{arch}.expert_count"), n as u32);
    }
    if let Some(n) = config.maybe_size(&["num_experts_per_tok"])? {
        out.set(format!("{arch}.expert_used_count"), n as u32);
    }
    if let Some(n) = sizes.head_dim {
        out.set(format!("{arch}.attention.key_length"), n as u32);
        out.set(format!("{arch}.attention.value_length"), n as u32);
    }
    Ok(sizes)
}

/// Names of the approximation of GELU by a hyperbolic tangent.
pub const TANH_GELU: [&str; 3] = ["gelu_pytorch_tanh", "gelu_new", "gelu_fast"];

/// No computed tensors.
pub fn none(_: &Config) -> Result<Vec<super::Computed>> {
    Ok(Vec::new())
}

/// Reads what [`write_llama_like`] wrote: a plan with RMS norms (layer norms if their epsilon is there), gated SiLU and rotary
/// positions.
pub fn read_llama_like(keys: &Keys, style: RopeStyle) -> Result<super::Plan> {
    use qconv_kernels::{Activation, Norm};
    let layers = keys.bounded("block_count", MOST_LAYERS)?;
    let width = keys.size("embedding_length")?;
    let heads = keys.bounded("attention.head_count", 1 << 16)?;
    let kv_heads = keys.maybe_size("attention.head_count_kv")?.unwrap_or(heads);
    let key_dim = keys.maybe_size("attention.key_length")?.unwrap_or(width / heads);
    let value_dim = keys.maybe_size("attention.value_length")?.unwrap_or(key_dim);
    if key_dim == 0 || !heads.is_multiple_of(kv_heads) {
        let what = format!("{heads} heads, {kv_heads} key-value heads and a width of {width} do not fit together");
        return Err(crate::error::malformed(keys.file, format!("key {}.attention.head_count", keys.arch), what));
    }
    let experts = match keys.maybe_size("expert_count")? {
        None => None,
        Some(count) => {
            let used = keys.bounded("expert_used_count", count)?;
            Some(super::Experts { count, used, normalize: true })
        }
    };
    let (norm, eps) = match keys.maybe_float("attention.layer_norm_epsilon")? {
        Some(eps) => (Norm::Layer, eps),
        None => (Norm::Rms, keys.float("attention.layer_norm_rms_epsilon")?),
    };
    Ok(super::Plan {
        layers,
        width,
        heads,
        kv_heads,
        key_dim,
        value_dim,
        context: keys.size("context_length")?,
        norm,
        eps,
        rope: Some(rope::read(keys, style, key_dim)?),
        attention_scale: 1.0 / (key_dim as f32).sqrt(),
        attention_soft_cap: None,
        window: read_window(keys, layers, None)?,
        feed: super::Feed { activation: Activation::Silu, gated: true, experts },
        pre_norms: true,
        joint_head_norms: false,
        embedding_scale: None,
        residual_scale: None,
        logit_scale: None,
        logit_soft_cap: None,
    })
}

/// `attention.sliding_window` with `attention.sliding_window_pattern`: per layer whether it has the window, or a period of
/// which the last layer has none. Without a pattern the family's period counts; `None`: every layer has the window.
pub fn read_window(keys: &Keys, layers: usize, period: Option<usize>) -> Result<Option<Window>> {
    let Some(positions) = keys.maybe_size_or_zero("attention.sliding_window")? else { return Ok(None) };
    let key = "attention.sliding_window_pattern";
    let given = keys.metadata.u64(&format!("{}.{key}", keys.arch)).map(|n| n as usize);
    let listed = if given.is_none() { keys.maybe_flags(key, layers)? } else { None };
    let windowed = match (listed, given.or(period)) {
        (Some(listed), _) => listed,
        (None, Some(n)) if n > 0 => (0..layers).map(|i| i % n < n - 1).collect(),
        _ => vec![true; layers],
    };
    Ok(Some(Window { positions, windowed }))
}

/// Which layers of a class have the window, where its configuration has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Windowed {
    /// All.
    All,
    /// All, if `use_sliding_window` says so.
    AllIfUsed,
    /// If `use_sliding_window` says so: those that `layer_types` names, else those from `max_window_layers` on.
    TypesIfUsed,
}

/// Writes a window for families whose llama.cpp forward pass has none: the engine here honours it, other readers ignore
/// the keys (and see all positions).
pub fn write_window(arch: &str, config: &Config, out: &mut Metadata, which: Windowed) -> Result<()> {
    if which != Windowed::All && !config.flag("use_sliding_window")? {
        return Ok(());
    }
    let Some(positions) = config.maybe_size(&["sliding_window"])? else { return Ok(()) };
    let layers = config.layers()?;
    let windowed = match config.windowed_layers()?.filter(|_| which == Windowed::TypesIfUsed) {
        Some(listed) => listed,
        None if which == Windowed::TypesIfUsed => {
            let first = config.maybe_size_or_zero("max_window_layers")?.unwrap_or(0);
            (0..layers).map(|i| i >= first).collect()
        }
        None => vec![true; layers],
    };
    write_windowed(arch, config, out, positions, windowed)
}

/// Writes a window of some layers as [`write_window`] does: nothing if no layer has it, or if it is as wide as the context.
pub fn write_windowed(
    arch: &str,
    config: &Config,
    out: &mut Metadata,
    positions: usize,
    windowed: Vec<bool>,
) -> Result<()> {
    if windowed.contains(&true) && positions < config.size(&["max_position_embeddings"])? {
        out.set(format!("{arch}.attention.sliding_window"), positions as u32);
        out.set(format!("{arch}.attention.sliding_window_pattern"), Array::Bool(windowed));
    }
    Ok(())
}

impl Config {
    /// Per layer whether `layer_types` gives it a window. Errors: another number of layers, other kinds.
    pub fn windowed_layers(&self) -> Result<Option<Vec<bool>>> {
        let Some(kinds) = self.get("layer_types") else { return Ok(None) };
        let layers = self.layers()?;
        let kinds = kinds.as_array().filter(|kinds| kinds.len() == layers);
        let kinds = kinds.ok_or_else(|| self.error("layer_types", format!("is no list of {layers} layers' kinds")))?;
        let windowed = |kind: &serde_json::Value| match kind.as_str() {
            Some("sliding_attention") => Ok(true),
            Some("full_attention") => Ok(false),
            _ => Err(self.error("layer_types", format!("names {kind}, which qconv does not know"))),
        };
        kinds.iter().map(windowed).collect::<Result<_>>().map(Some)
    }
}
