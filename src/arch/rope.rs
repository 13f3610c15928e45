//! Rotary embedding between `config.json` and GGUF: base, scaling, and the tensors that divide frequencies.
//!
//! What the settings mean is what transformers makes of them (`modeling_rope_utils.py`); what GGUF has no word for is refused.

use super::common::Sizes;
use super::{Computed, Config, Keys, RopePlan, RopeScaling};
use crate::error::malformed;
use anyhow::Result;
use qconv_formats::gguf::Metadata;
use qconv_kernels::RopeStyle;

/// Writes `rope.*`: base and scaling. `llama3` scaling and LongRoPE's factors become tensors, see [`factors`].
pub fn write(arch: &str, config: &Config, out: &mut Metadata) -> Result<()> {
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
            let (original, factor) = (rope.original_context()?, rope.factor()?);
            out.set(key("scaling.type"), "yarn");
            out.set(key("scaling.factor"), factor);
            out.set(key("scaling.original_context_length"), original as u32);
            if let Some(x) = rope.maybe_float("extrapolation_factor")? {
                out.set(key("scaling.yarn_ext_factor"), x);
            }
            if rope.is("truncate", false) {
                let what = "is false: GGUF cannot say that the bounds of YaRN's ramp are not rounded";
                return Err(config.error("rope_parameters.truncate", what));
            }
            if let Some(whole) = yarn_attention(&rope, factor)? {
                out.set(key("scaling.yarn_attn_factor"), whole);
                // llama.cpp overwrites that key's value by the usual one and multiplies it with this.
                out.set(key("scaling.attn_factor"), whole / usual_attention(factor));
            }
            for (from, to) in [("beta_fast", "scaling.yarn_beta_fast"), ("beta_slow", "scaling.yarn_beta_slow")] {
                // As in transformers, zero means the default.
                if let Some(x) = rope.maybe_float(from)?.filter(|&x| x != 0.0) {
                    out.set(key(to), x);
                }
            }
        }
        "su" | "longrope" => {
            out.set(key("scaling.type"), "longrope");
            let original = rope.original_context()?;
            out.set(key("scaling.original_context_length"), original as u32);
            let given = rope.maybe_float("attention_factor")?;
            let factor = f64::from(rope.factor()?);
            let derived = if factor > 1.0 { (1.0 + factor.ln() / (original as f64).ln()).sqrt() as f32 } else { 1.0 };
            out.set(key("scaling.attn_factor"), given.unwrap_or(derived));
        }
        other => {
            return Err(config.error("rope_parameters.rope_type", format!("is {other:?}, which qconv does not know")));
        }
    }
    if let Some(theta) = rope.theta {
        out.set(key("freq_base"), theta);
    }
    if config.rope_differs_by_layer() {
        let window = config.rope("sliding_attention")?;
        if window.scaling != "default" {
            let what = format!("is {:?}; GGUF scales layers without a window only", window.scaling);
            return Err(config.error("rope_parameters.sliding_attention.rope_type", what));
        }
        if let Some(theta) = window.theta {
            out.set(key("freq_base_swa"), theta);
        }
    }
    Ok(())
}

impl Config {
    /// The configuration has one set of rotary parameters per kind of layer.
    fn rope_differs_by_layer(&self) -> bool {
        self.get("rope_parameters").is_some_and(|v| v.get("sliding_attention").is_some())
    }
}

/// The attention factor that YaRN's authors derive from the factor.
fn usual_attention(factor: f32) -> f32 {
    mscale(factor, 1.0)
}

fn mscale(factor: f32, times: f32) -> f32 {
    if factor <= 1.0 { 1.0 } else { 0.1 * times * factor.ln() + 1.0 }
}

/// YaRN's attention factor where it is not the usual one.
fn yarn_attention(rope: &super::config::RopeConfig, factor: f32) -> Result<Option<f32>> {
    if let Some(whole) = rope.maybe_float("attention_factor")? {
        return Ok(Some(whole));
    }
    let times = |key: &str| Ok::<_, anyhow::Error>(rope.maybe_float(key)?.filter(|&x| x != 0.0));
    Ok(match (times("mscale")?, times("mscale_all_dim")?) {
        (Some(one), Some(all)) => Some(mscale(factor, one) / mscale(factor, all)),
        _ => None,
    })
}

/// Tensors that divide frequencies, for heads that are rotated as a whole: `rope_freqs.weight` for Llama 3.1's scaling,
/// `rope_factors_long.weight` and `rope_factors_short.weight` for LongRoPE.
pub fn factors(config: &Config) -> Result<Vec<Computed>> {
    let key = "partial_rotary_factor";
    let part = config.rope("full_attention")?.maybe_float(key)?;
    if let Some(part) = part.or(config.maybe_float(&[key])?).filter(|&part| part != 1.0) {
        return Err(config.error(key, format!("is {part}; this family rotates whole heads")));
    }
    factors_of(config, Sizes::read(config)?.key_dim())
}

/// Likewise where only the first `dims` of a head are rotated.
pub fn factors_of(config: &Config, dims: usize) -> Result<Vec<Computed>> {
    let rope = config.rope("full_attention")?;
    match rope.scaling.as_str() {
        "llama3" => Ok(vec![("rope_freqs.weight".into(), llama3_factors(&rope, dims)?)]),
        "su" | "longrope" => {
            let named = [("long_factor", "rope_factors_long.weight"), ("short_factor", "rope_factors_short.weight")];
            let one = |(key, name): (&str, &str)| {
                let key_name = format!("rope_parameters.{key}");
                let factors = rope.floats(key)?.ok_or_else(|| config.error(&key_name, "is missing"))?;
                if factors.len() != dims / 2 {
                    let what = format!("has {} factors where {dims} dimensions of heads are rotated", factors.len());
                    return Err(config.error(&key_name, what));
                }
                Ok((name.to_owned(), factors))
            };
            named.into_iter().map(one).collect()
        }
        _ => Ok(Vec::new()),
    }
}

/// Llama 3.1's scaling (`rope_type: llama3`), one divisor per frequency: long wavelengths are slowed by `factor`, short ones kept,
/// those between interpolated.
fn llama3_factors(rope: &super::config::RopeConfig, dim: usize) -> Result<Vec<f32>> {
    let base = rope.theta.unwrap_or(10_000.0);
    let factor = rope.maybe_float("factor")?.unwrap_or(8.0);
    let low = rope.maybe_float("low_freq_factor")?.unwrap_or(1.0);
    let high = rope.maybe_float("high_freq_factor")?.unwrap_or(4.0);
    let original = rope.original_context()? as f32;
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
    Ok(factors.collect())
}

/// Reads what [`write`] wrote.
pub fn read(keys: &Keys, style: RopeStyle, key_dim: usize) -> Result<RopePlan> {
    let dims = keys.maybe_size("rope.dimension_count")?.unwrap_or(key_dim);
    if dims > key_dim || !dims.is_multiple_of(2) {
        let what = format!("rotates {dims} of {key_dim} dimensions");
        return Err(malformed(keys.file, format!("key {}.rope.dimension_count", keys.arch), what));
    }
    let factor = || -> Result<f32> {
        let f = keys.float("rope.scaling.factor")?;
        if f > 0.0 {
            Ok(f)
        } else {
            Err(malformed(keys.file, format!("key {}.rope.scaling.factor", keys.arch), "is not positive"))
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
                    let usual = usual_attention(factor()?);
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
            return Err(malformed(keys.file, place, format!("is {other:?}, which qconv does not know")));
        }
    };
    Ok(RopePlan {
        style,
        dims,
        base: keys.maybe_float("rope.freq_base")?.unwrap_or(10_000.0),
        scaling,
        window_base: keys.maybe_float("rope.freq_base_swa")?,
        rotated: None,
    })
}
