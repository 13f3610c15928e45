//! What the integration tests share: running the binary, and making small checkpoints.
#![allow(dead_code, clippy::unwrap_used)] // each test file uses a part; tests may panic

use qconv_formats::gguf::Gguf;
use safetensors::tensor::{Dtype, TensorView};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The binary under test, ready for arguments.
pub fn qconv(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qconv"));
    command.args(args);
    command
}

/// Runs it.
pub fn run(args: &[&str]) -> Output {
    qconv(args).output().expect("the binary starts")
}

/// Runs it; it must succeed. Returns standard output.
pub fn ok(args: &[&str]) -> String {
    let out = run(args);
    assert!(out.status.success(), "{args:?} failed:\n{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("output is UTF-8")
}

/// Runs it; it must fail with `code`, say everything in `words`, and not panic. Returns standard error.
pub fn fails(args: &[&str], code: i32, words: &[&str]) -> String {
    let out = run(args);
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(code), "{args:?}:\n{err}");
    for word in words {
        assert!(err.contains(word), "{args:?} should say {word:?}:\n{err}");
    }
    assert!(!err.contains("panicked"), "{err}");
    err
}

/// A file or folder of `fixtures/`.
pub fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(path)
}

/// The path as an argument.
pub fn arg(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}

/// Everything in a folder, hidden files too.
pub fn listing(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Copies the files of a folder.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// A checkpoint folder that tests build and damage.
pub struct TestCheckpoint {
    /// Where it is.
    pub folder: PathBuf,
    /// `config.json`.
    pub config: serde_json::Value,
    /// Name -> shape and values; written as F32.
    pub tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl TestCheckpoint {
    /// A llama of one layer, width 64, with the tokenizer of stories260k (512 entries).
    pub fn llama(folder: &Path) -> Self {
        let config = serde_json::json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512,
            "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true,
            "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32",
        });
        let mut c = TestCheckpoint { folder: folder.to_owned(), config, tensors: BTreeMap::new() };
        c.add("model.embed_tokens.weight", &[512, 64]);
        c.add("model.norm.weight", &[64]);
        for (name, shape) in [
            ("input_layernorm.weight", &[64][..]),
            ("self_attn.q_proj.weight", &[64, 64]),
            ("self_attn.k_proj.weight", &[32, 64]),
            ("self_attn.v_proj.weight", &[32, 64]),
            ("self_attn.o_proj.weight", &[64, 64]),
            ("post_attention_layernorm.weight", &[64]),
            ("mlp.gate_proj.weight", &[96, 64]),
            ("mlp.up_proj.weight", &[96, 64]),
            ("mlp.down_proj.weight", &[64, 96]),
        ] {
            c.add(&format!("model.layers.0.{name}"), shape);
        }
        c
    }

    /// Adds a tensor of reproducible noise.
    pub fn add(&mut self, name: &str, shape: &[usize]) {
        let mut state =
            name.bytes().fold(0x9E37_79B9_7F4A_7C15u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01B3));
        let values = (0..shape.iter().product()).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 0.2
        });
        self.tensors.insert(name.to_owned(), (shape.to_vec(), values.collect()));
    }

    /// Writes config.json, model.safetensors and the tokenizer.
    pub fn write(&self) {
        std::fs::create_dir_all(&self.folder).unwrap();
        std::fs::write(self.folder.join("config.json"), self.config.to_string()).unwrap();
        let bytes: BTreeMap<&String, (Vec<usize>, Vec<u8>)> = self
            .tensors
            .iter()
            .map(|(name, (shape, values))| {
                (name, (shape.clone(), values.iter().flat_map(|x| x.to_le_bytes()).collect()))
            })
            .collect();
        let views =
            bytes.iter().map(|(name, (shape, data))| (name, TensorView::new(Dtype::F32, shape.clone(), data).unwrap()));
        std::fs::write(self.folder.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
        for file in ["tokenizer.json", "tokenizer.model", "tokenizer_config.json"] {
            let from = fixture("models/stories260k").join(file);
            if from.exists() {
                std::fs::copy(from, self.folder.join(file)).unwrap();
            }
        }
    }
}

/// Name, type and hash of every tensor, as the goldens have them.
pub fn tensors(file: &Gguf) -> serde_json::Value {
    let hash = |bytes: &[u8]| -> String { Sha256::digest(bytes).iter().take(8).map(|b| format!("{b:02x}")).collect() };
    file.tensors().iter().map(|t| serde_json::json!([t.name, t.format.name, hash(file.bytes(t))])).collect()
}

/// A mixture of four experts with rows of 256 weights.
pub fn experts(folder: &Path) -> TestCheckpoint {
    experts_of(folder, 256)
}

/// A mixture of four experts of this width, and twice that within.
pub fn experts_of(folder: &Path, width: usize) -> TestCheckpoint {
    let mut c = TestCheckpoint::llama(folder);
    c.config["architectures"] = serde_json::json!(["MixtralForCausalLM"]);
    c.config["model_type"] = "mixtral".into();
    for (key, value) in
        [("hidden_size", width), ("intermediate_size", 2 * width), ("num_local_experts", 4), ("num_experts_per_tok", 2)]
    {
        c.config[key] = value.into();
    }
    c.tensors.clear();
    c.add("model.embed_tokens.weight", &[512, width]);
    c.add("model.norm.weight", &[width]);
    for (name, shape) in [
        ("input_layernorm.weight", &[width][..]),
        ("self_attn.q_proj.weight", &[width, width]),
        ("self_attn.k_proj.weight", &[width / 2, width]),
        ("self_attn.v_proj.weight", &[width / 2, width]),
        ("self_attn.o_proj.weight", &[width, width]),
        ("post_attention_layernorm.weight", &[width]),
        ("block_sparse_moe.gate.weight", &[4, width]),
    ] {
        c.add(&format!("model.layers.0.{name}"), shape);
    }
    for e in 0..4 {
        for (name, shape) in [("w1", [2 * width, width]), ("w2", [width, 2 * width]), ("w3", [2 * width, width])] {
            c.add(&format!("model.layers.0.block_sparse_moe.experts.{e}.{name}.weight"), &shape);
        }
    }
    c
}
