//! `qconv verify`: sound conversions pass, and damage of every kind is found and named.
#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::{arg, fails, fixture, ok, run};
use qconv_formats::block::BlockFormat;
use qconv_formats::gguf::{Gguf, TensorInfo};
use serde_json::Value as Json;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const PROSE: &str = "models/prose-4m";

/// A converted model that tests damage.
struct Converted {
    dir: TempDir,
    source: PathBuf,
    bytes: Vec<u8>,
    tensors: Vec<TensorInfo>,
}

impl Converted {
    fn new(model: &str, mix: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sound.gguf");
        ok(&["convert", arg(&fixture(model)), "-o", arg(&path), "--type", mix, "-q", "--plain"]);
        let tensors = Gguf::open(&path).unwrap().tensors().to_vec();
        Converted { source: fixture(model), bytes: std::fs::read(&path).unwrap(), tensors, dir }
    }

    fn tensor(&self, name: &str) -> &TensorInfo {
        self.tensors.iter().find(|t| t.name == name).unwrap()
    }

    /// The tensor's bytes in a copy of the file.
    fn of<'a>(&self, bytes: &'a mut [u8], name: &str) -> &'a mut [u8] {
        &mut bytes[self.tensor(name).range.clone()]
    }

    /// The report on a damaged copy, with its exit code.
    fn verify(&self, damage: impl FnOnce(&mut Vec<u8>)) -> (Json, i32) {
        let path = self.dir.path().join("damaged.gguf");
        let mut bytes = self.bytes.clone();
        damage(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        let out = run(&["verify", arg(&path), "--against", arg(&self.source), "--json", "-q"]);
        let err = String::from_utf8_lossy(&out.stderr);
        assert!(!err.contains("panicked"), "{err}");
        (serde_json::from_slice(&out.stdout).unwrap(), out.status.code().unwrap())
    }

    /// Exactly these tensors are named, and the first problem says all of `words`.
    #[track_caller]
    fn finds(&self, tensors: &[&str], words: &[&str], damage: impl FnOnce(&mut Vec<u8>)) {
        let (report, code) = self.verify(damage);
        let problems = report["problems"].as_array().unwrap();
        let places: Vec<&str> = problems.iter().map(|p| p["place"].as_str().unwrap()).collect();
        let expected: Vec<String> = tensors.iter().map(|t| format!("tensor {t}")).collect();
        assert_eq!(
            (code, &places[..]),
            (1, &expected.iter().map(String::as_str).collect::<Vec<_>>()[..]),
            "{problems:?}"
        );
        for word in words {
            assert!(problems[0]["problem"].as_str().unwrap().contains(word), "{word:?}: {}", problems[0]);
        }
    }
}

#[test]
fn every_type_passes_and_is_exact() {
    for (model, mixes) in [
        (
            PROSE,
            &["f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m", "q2_k", "iq4_xs", "iq4_nl", "q4_0"][..],
        ),
        ("models/stories260k", &["f16", "q5_1", "q4_1", "q5_0", "q4_k_m"]),
        ("architectures/gpt2", &["q8_0", "f32"]),
        ("architectures/qwen2", &["q8_0", "bf16"]),
        ("architectures/llama3-scaled-tied", &["q8_0", "f16"]),
    ] {
        for mix in mixes {
            let (report, code) = Converted::new(model, mix).verify(|_| ());
            assert_eq!(
                (code, &report["ok"], &report["problems"]),
                (0, &true.into(), &Json::Array(vec![])),
                "{model} {mix}"
            );
            assert_eq!(report["exact"], report["tensor_count"], "{model} {mix}");
        }
    }
}

#[test]
fn a_flipped_bit_is_found_in_every_type() {
    for (model, mix) in [
        ("architectures/llama", "f32"),
        ("architectures/llama", "f16"),
        ("architectures/llama", "bf16"),
        ("architectures/llama", "q8_0"),
        ("architectures/llama", "q5_1"),
        ("architectures/llama", "q4_0"),
        (PROSE, "q6_k"),
        (PROSE, "q4_k_m"),
        (PROSE, "q2_k"),
        (PROSE, "iq4_xs"),
    ] {
        let c = Converted::new(model, mix);
        let name = "blk.1.ffn_up.weight";
        let size = c.tensor(name).range.len();
        // The first byte, the last one, one in the middle; low bits and high ones.
        for (byte, bit) in [(0, 0), (size / 3, 0), (size - 1, 6)] {
            c.finds(&[name], &[], |bytes| c.of(bytes, name)[byte] ^= 1 << bit);
        }
        c.finds(&["blk.1.attn_norm.weight"], &["1 weight is not the source's", "row 0, column 7"], |bytes| {
            c.of(bytes, "blk.1.attn_norm.weight")[7 * 4] ^= 1;
        });
    }
}

#[test]
fn a_flipped_bit_is_located() {
    let c = Converted::new(PROSE, "q4_k_m");
    let t = c.tensor("blk.0.ffn_down.weight"); // 256 x 768: three blocks in a row
    let block = t.format.block_bytes;
    let place = format!("row 100, block 2 of 3 ({})", t.format.name);
    c.finds(&[&t.name], &["1 block is not", &place], |bytes| {
        bytes[t.range.start + (100 * 3 + 2) * block + block - 2] ^= 0x80;
    });
}

#[test]
fn swapped_tensors_are_found_and_recognized() {
    for mix in ["q8_0", "q2_k", "f16"] {
        let c = Converted::new(PROSE, mix);
        let (a, b) = ("blk.0.attn_q.weight", "blk.1.attn_q.weight");
        assert_eq!(c.tensor(a).range.len(), c.tensor(b).range.len());
        c.finds(&[a, b], &["holds the weights of blk.1.attn_q.weight"], |bytes| {
            let one = c.of(bytes, a).to_vec();
            let two = c.of(bytes, b).to_vec();
            c.of(bytes, a).copy_from_slice(&two);
            c.of(bytes, b).copy_from_slice(&one);
        });
    }
}

#[test]
fn wrong_row_orders_are_found_and_recognized() {
    for mix in ["q8_0", "q3_k_m"] {
        let c = Converted::new(PROSE, mix);
        let name = "blk.3.attn_k.weight";
        let row = c.tensor(name).range.len() / 128;
        // What a converter does that forgets llama's permutation: pairs (2i, 2i + 1) of a head of 64 at (i, i + 32).
        c.finds(&[name], &["rows are in another order"], |bytes| {
            let sound = c.of(bytes, name).to_vec();
            for (r, out) in c.of(bytes, name).chunks_mut(row).enumerate() {
                let (head, at) = (r / 64, r % 64);
                let from = head * 64 + (at % 32) * 2 + at / 32;
                out.copy_from_slice(&sound[from * row..(from + 1) * row]);
            }
        });
        // Two neighbours only.
        c.finds(&[name], &["blocks", "row "], |bytes| {
            let tensor = c.of(bytes, name);
            let (a, b) = tensor[8 * row..].split_at_mut(row);
            a.swap_with_slice(&mut b[..row]);
        });
        // All of them, one row on.
        c.finds(&[name], &["rows are in another order"], |bytes| c.of(bytes, name).rotate_left(row));
    }
}

#[test]
fn shifted_and_emptied_tensors_are_found() {
    let c = Converted::new(PROSE, "q6_k");
    let name = "blk.2.ffn_gate.weight";
    let block = c.tensor(name).format.block_bytes;
    c.finds(&[name], &["relative error"], |bytes| c.of(bytes, name).rotate_right(block));
    c.finds(&[name], &["relative error 1.000"], |bytes| c.of(bytes, name).fill(0));
    c.finds(&["output_norm.weight"], &["the source times 2.0"], |bytes| {
        for w in c.of(bytes, "output_norm.weight").chunks_mut(4) {
            let x = f32::from_le_bytes([w[0], w[1], w[2], w[3]]) * 2.0;
            w.copy_from_slice(&x.to_le_bytes());
        }
    });
    let (report, code) =
        c.verify(|bytes| c.of(bytes, "output_norm.weight")[..4].copy_from_slice(&f32::NAN.to_le_bytes()));
    assert_eq!(code, 1);
    assert!(report["problems"][0].to_string().contains("NaN"), "{}", report["problems"]);
}

#[test]
fn files_by_other_quantizers_are_plausible_and_still_checked() {
    // As llama-quantize with an importance matrix: nothing equals plain quantization.
    let importance: Vec<f32> = (0..768).map(|i| 0.02 + ((i * 7919 % 101) as f32 / 25.0).exp()).collect();
    for mix in ["q4_k_m", "q5_0", "iq4_xs"] {
        let c = Converted::new(PROSE, mix);
        let requantize = |bytes: &mut Vec<u8>| {
            let model = qconv::model::Model::open(&c.source, &mut Vec::new()).unwrap();
            for t in c.tensors.iter().filter(|t| t.format.is_quantized()) {
                let source = model.tensor(&t.name).unwrap();
                let cols = t.shape.cols();
                let mut row = vec![0.0; cols];
                let row_bytes = t.range.len() / t.shape.rows();
                for (r, out) in bytes[t.range.clone()].chunks_mut(row_bytes).enumerate() {
                    model.rows(source, r, &mut row).unwrap();
                    t.format.quantize.unwrap()(&row, Some(&importance[..cols]), out);
                }
            }
        };
        let (report, code) = c.verify(requantize);
        assert_eq!((code, &report["wrong"]), (0, &0.into()), "{mix}: {}", report["problems"]);
        assert!(report["plausible"].as_u64().unwrap() > 20, "{mix}");
        // The highest bit of a code, anywhere.
        let name = "blk.1.attn_output.weight";
        c.finds(&[name], &["row 30"], |bytes| {
            requantize(bytes);
            let t = c.tensor(name);
            let row = t.range.len() / t.shape.rows();
            flip_a_code(t.format, &mut bytes[t.range.start + 30 * row..][..t.format.block_bytes]);
        });
    }
}

/// Moves the code of one weight, which is not at its group's end, as far as it goes.
fn flip_a_code(format: &BlockFormat, block: &mut [u8]) {
    let scalar = format.scalar.unwrap();
    let mut codes = vec![0; format.block_weights];
    let grid = scalar.unpack(block, &mut codes);
    let last = (scalar.levels().len() - 1) as u8;
    let i = 11;
    codes[i] = if codes[i] > last / 2 { 0 } else { last };
    scalar.pack(&grid, &codes, block);
}

#[test]
fn a_gguf_is_a_source_too() {
    let c = Converted::new(PROSE, "q4_k_m");
    let full = c.dir.path().join("f32.gguf");
    ok(&["convert", arg(&c.source), "-o", arg(&full), "--type", "f32", "-q"]);
    let out = ok(&["verify", arg(&c.dir.path().join("sound.gguf")), "--against", arg(&full)]);
    assert!(out.starts_with("ok: 38 tensors") && out.contains("byte for byte"), "{out}");
    let out = ok(&["verify", arg(&full), "--against", arg(&full), "--tensors"]);
    assert!(out.contains("blk.3.ffn_down.weight"), "{out}");
}

#[test]
fn another_model_is_refused() {
    let c = Converted::new("models/stories260k", "q8_0");
    let file = c.dir.path().join("sound.gguf");
    let path = arg(&file);
    fails(&["verify", path, "--against", arg(&fixture(PROSE))], 1, &["problems"]);
    fails(&["verify", path, "--against", arg(&fixture("architectures/gpt2"))], 1, &["problems"]);
    fails(&["verify", path, "--against", "no/such/model"], 2, &["no/such/model"]);
    fails(&["verify", "no/such.gguf"], 2, &["no/such.gguf"]);
    fails(&["verify", arg(Path::new(env!("CARGO_MANIFEST_DIR")))], 2, &["is a folder"]);
    let (report, _) = c.verify(|bytes| bytes.truncate(bytes.len() - 1000));
    assert!(report["problems"][0].to_string().contains("truncated"));
}

#[test]
fn hyper_parameters_and_vocabulary_are_compared() {
    let c = Converted::new(PROSE, "q8_0");
    let change = |key: &[u8], at: usize| {
        let place = c.bytes.windows(key.len()).position(|w| w == key).unwrap() + key.len() + at;
        let (report, code) = c.verify(|bytes| bytes[place] ^= 1);
        assert_eq!(code, 1, "{report}");
        report["problems"][0]["place"].as_str().unwrap().to_owned()
    };
    assert_eq!(change(b"llama.rope.freq_base", 4 + 2), "key llama.rope.freq_base");
    assert_eq!(change(b"llama.context_length", 4), "key llama.context_length");
    // Element 700 of the scores.
    assert_eq!(change(b"tokenizer.ggml.scores", 4 + 12 + 4 * 700 + 2), "key tokenizer.ggml.scores");
}
