//! SmolLM 3: Llama's block; every fourth layer is not rotated.

use super::common::{self, IGNORE, PREFIXES};
use super::{Architecture, Config, folds, llama, rope};
use anyhow::Result;
use qconv_formats::gguf::Array;
use qconv_kernels::RopeStyle;
use serde_json::json;

/// Of this many layers the last is not rotated, where the file does not say otherwise; the only way that llama.cpp knows.
const PERIOD: usize = 4;
/// Per layer whether it is rotated. Written only where a model differs from the period.
const PATTERN: &str = "attention.rope_pattern";

/// The family.
pub static SMOLLM3: Architecture = Architecture {
    name: "smollm3",
    hf_classes: &["SmolLM3ForCausalLM", "SmolLM3Model"],
    prefixes: PREFIXES,
    tensors: &llama::DENSE,
    ignore: IGNORE,
    defaults: |_| {
        json!({
            "num_attention_heads": 16, "num_key_value_heads": 4, "max_position_embeddings": 32_768, "rms_norm_eps": 1e-6,
            "rope_theta": 2e6, "no_rope_layer_interval": PERIOD, "tie_word_embeddings": true,
        })
    },
    metadata: |config, out| {
        llama::write("smollm3", config, out)?;
        let rotated = rotated(config)?;
        // The kinds of layers count, if they are listed, whether `use_sliding_window` or not.
        if let Some(positions) = config.maybe_size(&["sliding_window"])? {
            let windowed = match config.windowed_layers()? {
                Some(listed) => listed,
                None if config.flag("use_sliding_window")? => rotated.iter().map(|r| !r).collect(),
                None => Vec::new(),
            };
            common::write_windowed("smollm3", config, out, positions, windowed)?;
        }
        if rotated != every(PERIOD, rotated.len()) {
            out.set(format!("smollm3.{PATTERN}"), Array::Bool(rotated));
        }
        Ok(())
    },
    computed: rope::factors,
    folds: folds::GATED,
    plan: |keys| {
        let mut plan = common::read_llama_like(keys, RopeStyle::Interleaved)?;
        let rotated = keys.maybe_flags(PATTERN, plan.layers)?.unwrap_or_else(|| every(PERIOD, plan.layers));
        if let Some(rope) = &mut plan.rope {
            rope.rotated = Some(rotated);
        }
        Ok(plan)
    },
};

/// All but the last of every `period` layers.
fn every(period: usize, layers: usize) -> Vec<bool> {
    (0..layers).map(|i| (i + 1) % period != 0).collect()
}

/// Per layer whether `no_rope_layers` (1: rotated) or the interval says that it is rotated.
fn rotated(config: &Config) -> Result<Vec<bool>> {
    let (key, layers) = ("no_rope_layers", config.layers()?);
    let Some(listed) = config.get(key) else {
        return Ok(every(config.size(&["no_rope_layer_interval"])?, layers));
    };
    let numbers = listed.as_array().filter(|list| list.len() >= layers);
    let numbers = numbers.and_then(|list| list[..layers].iter().map(|v| v.as_u64()).collect::<Option<Vec<_>>>());
    let numbers = numbers.ok_or_else(|| config.error(key, format!("is no list of numbers for {layers} layers")))?;
    Ok(numbers.into_iter().map(|n| n != 0).collect())
}
