//! Outliers of activations, planted into a checkpoint that goes on computing what it did. Trained models of a few million weights
//! have no channels far larger than the others, as models of billions have; methods that are made for such channels are tried
//! on these.

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorInfo};
use std::path::Path;

/// A norm of a layer, and the linears that read what it gives, under their Hugging Face names.
const PLACES: [(&str, &[&str]); 2] = [
    ("input_layernorm", &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    ("post_attention_layernorm", &["mlp.gate_proj", "mlp.up_proj"]),
];

/// Copies the Llama checkpoint `from` to the new folder `to`, with `count` channels behind every norm of a layer `factor` times
/// as large, and the columns that read them divided by it. A power of two leaves the function as it is, to the last bit.
pub fn outliers(from: &Path, to: &Path, factor: f32, count: usize) -> Result<(), Box<dyn std::error::Error>> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        std::fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    let config: serde_json::Value = serde_json::from_slice(&std::fs::read(from.join("config.json"))?)?;
    let layers = config["num_hidden_layers"].as_u64().ok_or("config.json has no num_hidden_layers")? as usize;
    let mut file = std::fs::read(from.join("model.safetensors"))?;
    let (header, metadata) = SafeTensors::read_metadata(&file)?;
    let data = &mut file[8 + header..];
    let find = |name: String| metadata.info(&name).ok_or(format!("the checkpoint has no {name}"));
    for layer in 0..layers {
        for (number, (norm, readers)) in PLACES.iter().enumerate() {
            let norm = find(format!("model.layers.{layer}.{norm}.weight"))?;
            let width = norm.shape[0];
            for i in 0..count {
                // Other channels in each place, far from each other.
                let channel = (layer * 37 + number * 11 + i * (width / count)) % width;
                scale(data, norm, channel, factor)?;
                for reader in *readers {
                    scale(data, find(format!("model.layers.{layer}.{reader}.weight"))?, channel, 1.0 / factor)?;
                }
            }
        }
    }
    std::fs::write(to.join("model.safetensors"), file)?;
    Ok(())
}

/// Multiplies a column; a norm is one row.
fn scale(data: &mut [u8], tensor: &TensorInfo, column: usize, factor: f32) -> Result<(), String> {
    let zeros = match tensor.dtype {
        Dtype::F32 => 0,
        Dtype::BF16 => 2, // the upper half of an F32
        other => return Err(format!("weights of {other:?} are not planted into")),
    };
    let (size, (first, last)) = (4 - zeros, tensor.data_offsets);
    for row in data[first..last].chunks_exact_mut(tensor.shape[tensor.shape.len() - 1] * size) {
        let weight = &mut row[column * size..][..size];
        let mut bytes = [0u8; 4];
        bytes[zeros..].copy_from_slice(weight);
        weight.copy_from_slice(&(f32::from_le_bytes(bytes) * factor).to_le_bytes()[zeros..]);
    }
    Ok(())
}
