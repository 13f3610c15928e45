//! Checkpoints that some library quantized already: the whole way into GGUF. Each library's layout has its own tests beside
//! its reader.

#![allow(clippy::unwrap_used)] // tests may panic

mod common;

use common::{TestCheckpoint, arg, fails, ok, run};
use qconv_formats::gguf::Gguf;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;
use std::path::Path;

/// Writes a checkpoint twice: with linear layers of int8 codes and a scale per row, and with the floats that those mean.
fn twins(packed: &Path, plain: &Path) {
    let mut floats = TestCheckpoint::llama(plain);
    let mut codes = Vec::new();
    for (name, (shape, values)) in &mut floats.tensors {
        if !name.ends_with("_proj.weight") {
            continue;
        }
        let (rows, cols) = (shape[0], shape[1]);
        let scales: Vec<f32> = (0..rows).map(|row| 0.001 * (1.0 + row as f32 / 7.0)).collect();
        let ints: Vec<i8> = values.iter().map(|x| (x * 1000.0).round().clamp(-127.0, 127.0) as i8).collect();
        values.iter_mut().enumerate().for_each(|(i, x)| *x = f32::from(ints[i]) * scales[i / cols]);
        codes.push((name.clone(), rows, cols, ints, scales));
    }
    floats.write();

    let mut mixed = TestCheckpoint::llama(packed);
    mixed.config["quantization_config"] = json!({
        "quant_method": "compressed-tensors", "format": "int-quantized", "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "int", "strategy": "channel"}}},
    });
    mixed.write();
    let bytes = |floats: &[f32]| -> Vec<u8> { floats.iter().flat_map(|x| x.to_le_bytes()).collect() };
    let mut stored: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    for (name, (shape, values)) in mixed.tensors.iter().filter(|(name, _)| !name.ends_with("_proj.weight")) {
        stored.push((name.clone(), Dtype::F32, shape.clone(), bytes(values)));
    }
    for (name, rows, cols, ints, scales) in codes {
        stored.push((format!("{name}_scale"), Dtype::F32, vec![rows, 1], bytes(&scales)));
        stored.push((name, Dtype::I8, vec![rows, cols], ints.iter().map(|c| *c as u8).collect()));
    }
    let views: Vec<_> = stored.iter().map(|(n, d, s, b)| (n, TensorView::new(*d, s.clone(), b).unwrap())).collect();
    safetensors::serialize_to_file(views, None, &packed.join("model.safetensors")).unwrap();
}

#[test]
fn a_quantized_checkpoint_becomes_what_its_floats_become() {
    let dir = tempfile::tempdir().unwrap();
    let (packed, plain) = (dir.path().join("packed"), dir.path().join("plain"));
    twins(&packed, &plain);
    for mix in ["f32", "q8_0", "q4_k_m"] {
        let (a, b) = (dir.path().join("a.gguf"), dir.path().join("b.gguf"));
        let out = run(&["convert", arg(&packed), "-o", arg(&a), "--type", mix, "--force"]);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{said}");
        assert!(said.contains("already quantized (compressed-tensors, int-quantized): 7 tensors"), "{said}");
        assert!(!said.contains("left out"), "scales are part of their layers: {said}");
        ok(&["convert", arg(&plain), "-o", arg(&b), "--type", mix, "--force"]);
        let (x, y) = (Gguf::open(&a).unwrap(), Gguf::open(&b).unwrap());
        assert_eq!(x.tensors().len(), y.tensors().len());
        for (t, u) in x.tensors().iter().zip(y.tensors()) {
            assert_eq!((&t.name, &t.shape, t.format), (&u.name, &u.shape, u.format), "{mix}");
            assert!(x.bytes(t) == y.bytes(u), "{mix}: {}", t.name);
        }
        ok(&["verify", arg(&a), "--against", arg(&packed)]);
    }
    let out = dir.path().join("strict.gguf");
    fails(&["convert", arg(&packed), "-o", arg(&out), "--type", "f32", "--strict"], 1, &["already quantized"]);
    assert!(!out.exists());
}

#[test]
fn a_broken_layer_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (packed, plain) = (dir.path().join("packed"), dir.path().join("plain"));
    twins(&packed, &plain);
    let config = packed.join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("int-quantized", "marlin-24")).unwrap();
    let out = dir.path().join("x.gguf");
    let args = ["convert", arg(&packed), "-o", arg(&out), "--type", "f32"];
    fails(&args, 1, &["quantization_config.format", "marlin-24"]);
    std::fs::write(&config, text.replace("compressed-tensors", "quip")).unwrap();
    fails(&args, 1, &["quantization_config.quant_method", "quip", "gptq"]);
    assert!(!out.exists());
}
