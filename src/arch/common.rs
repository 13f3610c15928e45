//! What most families share: hyper-parameters of decoder-only transformers as GGUF keys, and back.

use super::{Config, Keys, RopePlan, RopeScaling, Window};
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
    write_rope(arch, config, out)?;
    out.set(format!("{arch}.attention.layer_norm_rms_epsilon"), config.float_or(&["rms_norm_eps", "norm_eps"], 1e-6)?);
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

/// Writes `rope.*`: base and scaling. `llama3` scaling becomes a tensor, see [`llama3_factors`].
fn write_rope(arch: &str, config: &Config, out: &mut Metadata) -> Result<()> {
    let rope = config.rope("full_attention")?;
    let key = |k: &str| format!("{arch}.rope.{k}");
    match rope.scaling.as_str() {
        "default" | "llama3" => {}
        // Positions beyond the trained context only; within it nothing changes, and GGUF has no word for it.
        "dynamic" => {}
        "linear" => {
            out.set(key("scaling.type"), "linear");
            out.set(key("scaling.factor"), rope.float("factor")?);
        }
        "yarn" => {
            out.set(key("scaling.type"), "yarn");
            out.set(key("scaling.factor"), rope.float("factor")?);
            let original = match rope.original_context()? {
                Some(n) => n,
                None => config.size(&["max_position_embeddings"])?,
            };
            out.set(key("scaling.original_context_length"), original as u32);
            let optional = [
                ("extrapolation_factor", "scaling.yarn_ext_factor"),
                ("attention_factor", "scaling.yarn_attn_factor"),
                ("beta_fast", "scaling.yarn_beta_fast"),
                ("beta_slow", "scaling.yarn_beta_slow"),
            ];
            for (from, to) in optional {
                if let Some(x) = rope.maybe_float(from)? {
                    out.set(key(to), x);
                }
            }
        }
        "su" | "longrope" => out.set(key("scaling.type"), "longrope"),
        other => {
            return Err(config.error("rope_parameters.rope_type", format!("is {other:?}, which qconv does not know")));
        }
    }
    if let Some(theta) = rope.theta {
        out.set(key("freq_base"), theta);
    }
    if let Some(theta) = config.rope("sliding_attention")?.theta.filter(|_| config.rope_differs_by_layer()) {
        out.set(key("freq_base_swa"), theta);
    }
    Ok(())
}

impl Config {
    /// The configuration has one set of rotary parameters per kind of layer.
    fn rope_differs_by_layer(&self) -> bool {
        self.get("rope_parameters").is_some_and(|v| v.get("sliding_attention").is_some())
    }
}

/// `rope_freqs.weight` for Llama 3.1's scaling (`rope_type: llama3`): one divisor per frequency. Long wavelengths are
/// slowed by `factor`, short ones kept, those between interpolated.
pub fn llama3_factors(config: &Config) -> Result<Vec<super::Computed>> {
    let rope = config.rope("full_attention")?;
    if rope.scaling != "llama3" {
        return Ok(Vec::new());
    }
    let dim = Sizes::read(config)?.key_dim();
    let base = rope.theta.unwrap_or(10_000.0);
    let factor = rope.maybe_float("factor")?.unwrap_or(8.0);
    let low = rope.maybe_float("low_freq_factor")?.unwrap_or(1.0);
    let high = rope.maybe_float("high_freq_factor")?.unwrap_or(4.0);
    let original = rope.original_context()?.unwrap_or(8192) as f32;
    let factors = (0..dim / 2).map(|i| {
        let frequency = 1.0 / base.powf(2.0 * i as f32 / dim as f32);
        let wavelength = 2.0 * std::f64::consts::PI / f64::from(frequency);
        let turns = f64::from(original) / wavelength;
        if turns > f64::from(high) {
            1.0
        } else if turns < f64::from(low) {
            factor
        } else {
            let smooth = (turns - f64::from(low)) / (f64::from(high) - f64::from(low));
            (1.0 / ((1.0 - smooth) / f64::from(factor) + smooth)) as f32
        }
    });
    Ok(vec![("rope_freqs.weight".into(), factors.collect())])
}

/// No computed tensors.
pub fn none(_: &Config) -> Result<Vec<super::Computed>> {
    Ok(Vec::new())
}

/// Reads what [`write_llama_like`] wrote: a plan with RMS norms, gated SiLU and rotary positions.
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
    Ok(super::Plan {
        layers,
        width,
        heads,
        kv_heads,
        key_dim,
        value_dim,
        context: keys.size("context_length")?,
        norm: Norm::Rms,
        eps: keys.float("attention.layer_norm_rms_epsilon")?,
        rope: Some(read_rope(keys, style, key_dim)?),
        attention_scale: 1.0 / (key_dim as f32).sqrt(),
        attention_soft_cap: None,
        window: read_window(keys, layers, None)?,
        feed: super::Feed { activation: Activation::Silu, gated: true, experts },
        embedding_scale: None,
        logit_soft_cap: None,
    })
}

fn read_rope(keys: &Keys, style: RopeStyle, key_dim: usize) -> Result<RopePlan> {
    let dims = keys.maybe_size("rope.dimension_count")?.unwrap_or(key_dim);
    if dims > key_dim || !dims.is_multiple_of(2) {
        let what = format!("rotates {dims} of {key_dim} dimensions");
        return Err(crate::error::malformed(keys.file, format!("key {}.rope.dimension_count", keys.arch), what));
    }
    let factor = || -> Result<f32> {
        let f = keys.float("rope.scaling.factor")?;
        if f > 0.0 {
            Ok(f)
        } else {
            Err(crate::error::malformed(keys.file, format!("key {}.rope.scaling.factor", keys.arch), "is not positive"))
        }
    };
    let scaling = match keys.maybe_str("rope.scaling.type") {
        None | Some("none") => RopeScaling::None,
        Some("linear") => RopeScaling::Linear { factor: factor()? },
        Some("yarn") => RopeScaling::Yarn {
            factor: factor()?,
            original: keys.maybe_size("rope.scaling.original_context_length")?.unwrap_or(keys.size("context_length")?),
            // The first is transformers' `attention_factor`, the whole of it; the second multiplies the usual one, as
            // llama.cpp has it.
            attention: match keys.maybe_float("rope.scaling.yarn_attn_factor")? {
                Some(whole) => Some(whole),
                None => {
                    let usual = 0.1 * factor()?.max(1.0).ln() + 1.0;
                    keys.maybe_float("rope.scaling.attn_factor")?.map(|times| times * usual)
                }
            },
            beta_fast: keys.maybe_float("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
            beta_slow: keys.maybe_float("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
        },
        Some("longrope") => RopeScaling::Long {
            original: keys.maybe_size("rope.scaling.original_context_length")?.unwrap_or(keys.size("context_length")?),
            attention: keys.maybe_float("rope.scaling.attn_factor")?,
        },
        Some(other) => {
            let place = format!("key {}.rope.scaling.type", keys.arch);
            return Err(crate::error::malformed(keys.file, place, format!("is {other:?}, which qconv does not know")));
        }
    };
    Ok(RopePlan {
        style,
        dims,
        base: keys.maybe_float("rope.freq_base")?.unwrap_or(10_000.0),
        scaling,
        window_base: keys.maybe_float("rope.freq_base_swa")?,
    })
}

/// `attention.sliding_window` with `attention.sliding_window_pattern`: per layer whether it has the window, or a period of
/// which the last layer has none. Without a pattern the family's period counts; `None`: every layer has the window.
pub fn read_window(keys: &Keys, layers: usize, period: Option<usize>) -> Result<Option<Window>> {
    let Some(positions) = keys.maybe_size_or_zero("attention.sliding_window")? else { return Ok(None) };
    let pattern = keys.metadata.get(&format!("{}.attention.sliding_window_pattern", keys.arch));
    let listed = match pattern.and_then(|v| v.as_array()) {
        Some(Array::Bool(list)) => Some(list.clone()),
        Some(numbers) => numbers.to_u64s().map(|list| list.iter().map(|&x| x != 0).collect()),
        None => None,
    };
    let windowed = match (listed, pattern.and_then(|v| v.as_u64()).map(|n| n as usize).or(period)) {
        (Some(list), _) if list.len() >= layers => list[..layers].to_vec(),
        (Some(list), _) => {
            let place = format!("key {}.attention.sliding_window_pattern", keys.arch);
            return Err(crate::error::malformed(
                keys.file,
                place,
                format!("has {} entries for {layers} layers", list.len()),
            ));
        }
        (None, Some(n)) if n > 0 => (0..layers).map(|i| i % n < n - 1).collect(),
        _ => vec![true; layers],
    };
    Ok(Some(Window { positions, windowed }))
}

/// Writes a window for families whose llama.cpp forward pass has none: the engine here honours it, other readers ignore
/// the keys (and see all positions).
pub fn write_window(arch: &str, config: &Config, out: &mut Metadata) -> Result<()> {
    let Some(positions) = config.maybe_size(&["sliding_window"])? else { return Ok(()) };
    let layers = config.layers()?;
    let kinds = config.get("layer_types").and_then(|v| v.as_array());
    let windowed: Vec<bool> = match kinds {
        Some(kinds) => kinds.iter().take(layers).map(|k| k.as_str() == Some("sliding_attention")).collect(),
        None if config.get("use_sliding_window").is_some() => {
            let first = config.maybe_size(&["max_window_layers"])?.unwrap_or(0);
            (0..layers).map(|i| config.flag("use_sliding_window") && i >= first).collect()
        }
        None => vec![true; layers],
    };
    if windowed.len() == layers && windowed.contains(&true) && positions < config.size(&["max_position_embeddings"])? {
        out.set(format!("{arch}.attention.sliding_window"), positions as u32);
        out.set(format!("{arch}.attention.sliding_window_pattern"), Array::Bool(windowed));
    }
    Ok(())
}
