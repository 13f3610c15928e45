//! Transforms leave what a model computes as it was, and make quantized files better.

#![allow(clippy::unwrap_used)] // a test

mod common;

use qconv::calibrate::Calibration;
use qconv::engine::{Engine, SessionOptions};
use qconv::method::{self, Methods, Tools};
use qconv::model::Model;
use qconv::ui::Ui;
use qconv_formats::block;
use qconv_kernels::cpu::{Activations, Cpu, Kv, Options};
use std::path::{Path, PathBuf};

/// Everything in f32.
fn exact() -> Cpu {
    Cpu::new(Options { activations: Activations::Exact, kv: Kv::F32, ..Options::default() }).unwrap()
}

fn open(path: &Path) -> Model {
    Model::open(path, &mut Vec::new()).unwrap()
}

/// One model per family, and trained ones. `QCONV_FAMILIES` may name a folder with more.
fn models() -> Vec<PathBuf> {
    let folders = [Some(common::fixture("architectures")), std::env::var_os("QCONV_FAMILIES").map(PathBuf::from)];
    let entries = folders.into_iter().flatten().flat_map(|folder| std::fs::read_dir(folder).unwrap());
    let mut all: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).filter(|p| p.join("config.json").exists()).collect();
    assert!(all.len() >= 5, "the fixtures are not there");
    all.sort();
    all.extend([common::fixture("models/stories260k"), common::fixture("models/prose-4m")]);
    all
}

fn tokens(model: &Model) -> Vec<u32> {
    let vocabulary = model.tensor("token_embd.weight").unwrap().shape.rows() as u32;
    (0..32u32).map(|i| (i * i * 31 + 7 * i + 3) % vocabulary).collect()
}

/// `(tokens, vocabulary)`
fn logits(backend: &Cpu, model: &Model) -> Vec<f32> {
    let engine = Engine::load(backend, model, &mut Vec::new()).unwrap();
    let tokens = tokens(model);
    let mut session = engine.session(SessionOptions::new(tokens.len()).all_logits()).unwrap();
    session.feed(&tokens).unwrap();
    session.logits(0..tokens.len()).unwrap().to_vec()
}

/// The largest difference over the largest value.
fn difference(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    assert!(got.iter().all(|x| x.is_finite()));
    let worst = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    worst / want.iter().fold(0.0f32, |m, x| m.max(x.abs()))
}

/// Weights become what `format` says, and the model's own tokens are the text.
fn transform(model: &mut Model, methods: &Methods) -> anyhow::Result<()> {
    let formats = model.tensors().iter().map(|t| (t.name.clone(), &block::F32)).collect();
    let chunks = vec![tokens(model)];
    let calibration =
        Calibration { file: "tokens".into(), ctx: 32, chunks, computing: Default::default(), from: Default::default() };
    let ui = Ui::new(true, false);
    let quantizer = methods.quantizer();
    methods.transform(
        model,
        &Tools { calibration: Some(&calibration), formats: &formats, quantizer, setting: 0.0, ui: &ui },
    )
}

#[test]
fn every_transform_keeps_the_logits_of_every_family_or_says_why_not() {
    let backend = exact();
    let mut refused = Vec::new();
    for path in models() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let want = logits(&backend, &open(&path));
        for method in method::ALL.iter().filter(|m| m.is_transform()) {
            let mut model = open(&path);
            if let Err(e) = transform(&mut model, &Methods::parse(method.name).unwrap()) {
                assert_eq!(qconv::error::exit_code(&e), 2, "{e:#}");
                refused.push(format!("{} {name}: {e:#}", method.name));
                continue;
            }
            let off = difference(&logits(&backend, &model), &want);
            assert!(off < 1e-4, "{} on {name}: {off:e}", method.name);
        }
    }
    for line in refused {
        let reasons = [("quarot gpt2", "subtract the mean"), ("quarot gemma", "blk.0.post_attention_norm")];
        assert!(reasons.iter().any(|(who, why)| line.starts_with(who) && line.contains(why)), "{line}");
    }
}

/// Every place where channels can be scaled, by factors that differ a lot.
#[test]
fn scaled_channels_keep_the_logits_of_every_family() {
    let backend = exact();
    for path in models() {
        let mut model = open(&path);
        let want = logits(&backend, &model);
        let sites = model.sites().unwrap();
        let layers = model.plan().unwrap().layers;
        assert!(sites.len() >= 3 * layers, "{}: {} places", path.display(), sites.len());
        for site in &sites {
            let factors: Vec<f32> = (0..site.count).map(|c| 0.25 + ((c * 37 + 11) % 64) as f32 / 8.0).collect();
            model.scale(site, &factors).unwrap();
        }
        let off = difference(&logits(&backend, &model), &want);
        assert!(off < 1e-4, "{}: {off:e}", path.display());
    }
}

#[test]
fn quantized_weights_are_not_transformed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("q8.gguf");
    let model = common::fixture("models/prose-4m");
    common::ok(&["convert", common::arg(&model), "-t", "q8_0", "-o", common::arg(&file)]);
    let again = folder.path().join("q4.gguf");
    let args = ["convert", common::arg(&file), "-t", "q4_0", "--method", "quarot", "--allow-requantize", "-o"];
    common::fails(&[&args[..], &[common::arg(&again)]].concat(), 2, &["already Q8_0", "start from the original"]);
    assert!(!again.exists());
}

/// The output's own weights are told, the seed is in the recipe, and the file can be made again.
#[test]
fn a_rotated_file_tells_its_seed_and_is_repeated_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second, other] = ["a.gguf", "b.gguf", "c.gguf"].map(|name| folder.path().join(name));
    let model = common::fixture("models/stories260k");
    let convert = |method: &str, file: &Path| {
        let args = ["convert", common::arg(&model), "-t", "q8_0", "--method", method, "-o", common::arg(file)];
        let out = common::run(&args);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stderr).into_owned()
    };
    let said = convert("quarot:seed=5", &first);
    assert!(said.contains("shares the embeddings"), "{said}");
    common::ok(&["convert", common::arg(&model), "--recipe-from", common::arg(&first), "-o", common::arg(&second)]);
    assert!(std::fs::read(&first).unwrap() == std::fs::read(&second).unwrap());
    convert("quarot", &other);
    let of = |path: &Path| open(path).tensors().iter().map(|t| t.name.clone()).collect::<Vec<_>>();
    assert_eq!(of(&first), of(&other));
    assert!(of(&first).contains(&"output.weight".to_owned()));
    assert!(std::fs::read(&first).unwrap() != std::fs::read(&other).unwrap());
}

/// Every transform, with every kind of importance that goes with it: quantizing the transformed source gives the file.
#[test]
fn transformed_files_are_proved_against_the_source() {
    let folder = tempfile::tempdir().unwrap();
    let (model, text) = (common::fixture("models/stories260k"), common::fixture("texts/stories.txt"));
    for (method, format) in
        [("quarot", "q4_0"), ("awq", "q4_0"), ("smoothquant:alpha=0.7", "q8_0"), ("quarot+awq", "q5_1")]
    {
        let file = folder.path().join("file.gguf");
        let source = common::arg(&model);
        let mut args = vec!["convert", source, "-t", format, "--method", method, "-f"];
        if method != "quarot" {
            args.extend(["--calibration", common::arg(&text), "--calibration-ctx", "64", "--calibration-chunks", "8"]);
        }
        common::ok(&[&args[..], &["-o", common::arg(&file)]].concat());
        let said = common::ok(&["verify", common::arg(&file), "--against", source]);
        assert!(said.contains("all byte for byte"), "{method}: {said}");
        // Without the change the weights are others, which nobody takes for rounding.
        let plain = folder.path().join("plain.gguf");
        common::ok(&[&args[..], &["--plain", "-o", common::arg(&plain)]].concat());
        common::fails(&["verify", common::arg(&plain), "--against", source], 1, &["problem"]);
    }
}

#[test]
fn methods_that_see_a_text_ask_for_it() {
    let model = common::fixture("models/stories260k");
    for method in ["awq", "smoothquant", "quarot+awq"] {
        let args = ["convert", common::arg(&model), "-t", "q4_0", "--method", method, "-o", "/nonexistent/x.gguf"];
        common::fails(&args, 2, &["--calibration TEXT"]);
    }
    let args = ["convert", common::arg(&model), "-t", "q4_0", "--method", "nf4", "-o", "/nonexistent/x.gguf"];
    common::fails(&args, 2, &["hold no NF4"]);
}

/// One half of a block at a time: eight more layers take far less memory than their moments would.
#[test]
fn awq_holds_the_moments_of_one_layer() {
    const HIDDEN: usize = 1024;
    let (dir, text) = (tempfile::tempdir().unwrap(), common::fixture("texts/stories.txt"));
    let peak = |layers: usize| {
        let mut c = common::TestCheckpoint::llama(&dir.path().join(format!("{layers}")));
        c.config["intermediate_size"] = HIDDEN.into();
        c.config["num_hidden_layers"] = layers.into();
        for (name, shape) in [("gate", [HIDDEN, 64]), ("up", [HIDDEN, 64]), ("down", [64, HIDDEN])] {
            c.tensors.remove(&format!("model.layers.0.mlp.{name}_proj.weight"));
            c.add(&format!("model.layers.0.mlp.{name}_proj.weight"), &shape);
        }
        let first: Vec<_> = c.tensors.iter().filter(|(name, _)| name.contains(".layers.0.")).collect();
        let first: Vec<_> = first.into_iter().map(|(name, tensor)| (name.clone(), tensor.clone())).collect();
        for layer in 1..layers {
            let name = |name: &str| name.replace(".layers.0.", &format!(".layers.{layer}."));
            c.tensors.extend(first.iter().map(|(n, tensor)| (name(n), tensor.clone())));
        }
        c.write();
        let file = dir.path().join("file.gguf");
        let args = ["convert", common::arg(&c.folder), "-t", "q4_0", "--method", "awq", "--json", "-q", "-f"];
        let seen = ["--calibration", common::arg(&text), "--calibration-ctx", "64", "--calibration-chunks", "4"];
        let told = common::ok(&[&args[..], &seen, &["-o", common::arg(&file)]].concat());
        serde_json::from_str::<serde_json::Value>(&told).unwrap()["peak_memory"].as_u64()
    };
    let (Some(two), Some(ten)) = (peak(2), peak(10)) else { return }; // the system does not tell
    let moments = 8 * 2 * (HIDDEN * HIDDEN * 8) as u64; // of `down`, of both parts of the text
    assert!(ten < two + moments / 4, "{two} bytes with two layers, {ten} with ten, whose moments are {moments} more");
}
