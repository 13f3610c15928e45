//! Unusual configurations give transformers' logits; what a family cannot express is refused by name, and so are tensors that it does
//! not know.

#![allow(clippy::unwrap_used)] // a test

mod common;

use common::{arg, fixture, ok};
use qconv::engine::{Engine, SessionOptions};
use qconv::model::Model;
use qconv_kernels::cpu::{Activations, Cpu, Kv, Options};
use serde_json::{Value as Json, json};
use std::path::{Path, PathBuf};

/// A copy of a fixture whose configuration is changed: keys with null are removed.
fn changed(name: &str, change: &Json) -> tempfile::TempDir {
    let place = if name == "gpt2" { "architectures" } else { "configurations" };
    let (from, to) = (fixture(place).join(name), tempfile::tempdir().unwrap());
    std::fs::copy(from.join("model.safetensors"), to.path().join("model.safetensors")).unwrap();
    let mut config: Json = serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap();
    for (key, value) in change.as_object().unwrap() {
        if value.is_null() {
            config.as_object_mut().unwrap().remove(key);
        } else {
            config[key] = value.clone();
        }
    }
    std::fs::write(to.path().join("config.json"), config.to_string()).unwrap();
    to
}

/// What opening says: the error, or the warnings.
fn open(folder: &Path) -> Result<Vec<String>, String> {
    let mut warnings = Vec::new();
    Model::open(folder, &mut warnings).map(|_| warnings).map_err(|e| format!("{e:#}"))
}

#[test]
fn unusual_configurations_give_the_logits_of_transformers_from_folder_and_file() {
    let options = Options { activations: Activations::Exact, kv: Kv::F32, ..Options::default() };
    let backend = Cpu::new(options).unwrap();
    let entries = std::fs::read_dir(fixture("configurations")).unwrap().map(|e| e.unwrap().path());
    let folders: Vec<_> = entries.filter(|p| p.is_dir()).collect();
    assert!(folders.len() >= 19, "the fixtures are not there");
    let place = tempfile::tempdir().unwrap();
    for folder in folders {
        compare(&backend, &folder, &folder);
        compare(&backend, &converted(&folder, place.path()), &folder);
    }
}

/// The model's logits must be those that are expected in a fixture's folder.
fn compare(backend: &Cpu, source: &Path, expected: &Path) {
    let json: Json = serde_json::from_slice(&std::fs::read(expected.join("expected.json")).unwrap()).unwrap();
    let tokens: Vec<u32> = serde_json::from_value(json["tokens"].clone()).unwrap();
    let bytes = std::fs::read(expected.join("expected_logits.f32")).unwrap();
    let want: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    let largest = want.iter().fold(0f32, |m, x| m.max(x.abs()));
    let model = Model::open(source, &mut Vec::new()).unwrap();
    let engine = Engine::load(backend, &model, &mut Vec::new()).unwrap();
    let mut session = engine.session(SessionOptions::new(tokens.len()).all_logits()).unwrap();
    session.feed(&tokens).unwrap();
    let got = session.logits(0..tokens.len()).unwrap();
    assert_eq!(got.len(), want.len());
    for (at, (got, want)) in got.iter().zip(&want).enumerate() {
        let off = (got - want).abs() / largest;
        assert!(off < 2e-5, "{}: row {}: {got} for {want}", source.display(), at / engine.vocabulary());
    }
}

#[test]
fn language_models_inside_models_that_see_are_found() {
    let backend = Cpu::new(Options { activations: Activations::Exact, kv: Kv::F32, ..Options::default() }).unwrap();
    let original = fixture("configurations/mistral-yarn-window");
    // Names as transformers 4 and 5 write them.
    for (body, head) in [("language_model.model.", "language_model.lm_head."), ("model.language_model.", "lm_head.")] {
        let folder = changed("mistral-yarn-window", &json!({}));
        let text: Json = serde_json::from_slice(&std::fs::read(original.join("config.json")).unwrap()).unwrap();
        let wrap = |text: &Json| {
            let whole = json!({"architectures": ["Mistral3ForConditionalGeneration"], "text_config": text});
            std::fs::write(folder.path().join("config.json"), whole.to_string()).unwrap();
        };
        wrap(&text);
        let bytes = std::fs::read(original.join("model.safetensors")).unwrap();
        let n = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header = String::from_utf8(bytes[8..8 + n].to_vec()).unwrap();
        let header = header.replace("\"model.", &format!("\"{body}")).replace("\"lm_head.", &format!("\"{head}"));
        let renamed = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &bytes[8 + n..]].concat();
        std::fs::write(folder.path().join("model.safetensors"), renamed).unwrap();
        compare(&backend, folder.path(), &original);

        // Whether the output is tied is the wrapper's to say.
        let mut tied = json!({"architectures": ["Mistral3ForConditionalGeneration"], "tie_word_embeddings": true});
        tied["text_config"] = text.clone();
        tied["text_config"]["tie_word_embeddings"] = json!(false);
        std::fs::write(folder.path().join("config.json"), tied.to_string()).unwrap();
        let warnings = open(folder.path()).unwrap();
        assert!(warnings.iter().any(|w| w.contains("config.json ties them")), "{warnings:?}");

        // Another language model inside the same class is refused by its type.
        let mut other = text;
        other["model_type"] = json!("ministral9");
        wrap(&other);
        let error = open(folder.path()).unwrap_err();
        assert!(error.contains("Mistral3ForConditionalGeneration (ministral9)"), "{error}");
    }
}

/// The folder as a verified F32 file, with another model's vocabulary.
fn converted(folder: &Path, place: &Path) -> PathBuf {
    let name = folder.file_name().unwrap();
    let (model, file) = (place.join(name), place.join(name).with_extension("gguf"));
    std::fs::create_dir(&model).unwrap();
    for from in [folder, &fixture("architectures/llama")] {
        for part in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
            if from.join(part).exists() && !model.join(part).exists() {
                std::fs::copy(from.join(part), model.join(part)).unwrap();
            }
        }
    }
    ok(&["convert", arg(&model), "--type", "f32", "-o", arg(&file), "-q"]);
    ok(&["verify", arg(&file), "--against", arg(&model), "-q"]);
    file
}

#[test]
fn settings_that_a_family_cannot_express_are_refused_by_name() {
    let yarn = |more: Json| {
        let mut rope = json!({"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0});
        rope.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"rope_parameters": rope})
    };
    let by_layer = json!({"rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0},
    }});
    let short = json!({"rope_type": "longrope", "short_factor": [1.0, 1.0], "long_factor": [1.0, 1.0]});
    let cases = [
        ("mistral-yarn-window", yarn(json!({"truncate": false})), "rope_parameters.truncate"),
        ("mistral-yarn-window", yarn(json!({"factor": 0.0})), "rope_parameters.factor"),
        ("mistral-yarn-window", json!({"rope_parameters": {"rope_type": "proportional"}}), "rope_parameters.rope_type"),
        ("llama-longrope", json!({"rope_parameters": short}), "rope_parameters.long_factor"),
        ("llama-longrope", json!({"rope_parameters": {"rope_type": "longrope"}}), "rope_parameters.long_factor"),
        ("llama-longrope", json!({"hidden_act": "gelu"}), "hidden_act"),
        ("llama-longrope", json!({"hidden_act": 3}), "hidden_act"),
        ("qwen2-window", json!({"layer_types": ["sliding_attention"]}), "layer_types"),
        ("qwen2-window", json!({"layer_types": ["sliding_attention", "chunked_attention"]}), "layer_types"),
        ("qwen2-window", json!({"use_sliding_window": "yes"}), "use_sliding_window"),
        ("qwen3moe-window", json!({"norm_topk_prob": null}), "norm_topk_prob"),
        ("qwen3moe-window", json!({"mlp_only_layers": [0]}), "mlp_only_layers"),
        ("gemma2-defaults", json!({"hidden_activation": "gelu"}), "hidden_activation"),
        ("gemma2-defaults", json!({"use_bidirectional_attention": true}), "use_bidirectional_attention"),
        ("gemma2-defaults", json!({"final_logit_softcapping": -1.0}), "final_logit_softcapping"),
        ("gemma3-old-style", by_layer, "rope_parameters.sliding_attention.rope_type"),
        ("phi3-longrope", json!({"partial_rotary_factor": 1.5}), "partial_rotary_factor"),
        ("granite-factors", json!({"logits_scaling": 0.0}), "logits_scaling"),
        ("smollm3-layers", json!({"no_rope_layers": [1]}), "no_rope_layers"),
        ("smollm3-layers", json!({"no_rope_layers": [1, "no", 1]}), "no_rope_layers"),
        ("gpt2", json!({"scale_attn_weights": 0}), "scale_attn_weights"),
    ];
    for (name, mut change, key) in cases {
        if name == "phi3-longrope" {
            change["rope_parameters"] = json!({"rope_type": "default"});
        }
        let error = open(changed(name, &change).path()).expect_err(&format!("{name} with {change} must be refused"));
        assert!(error.contains(&format!("key {key}:")), "{name} with {change}: {error}");
    }
}

#[test]
fn tensors_of_a_block_that_the_family_does_not_know_are_refused_unless_they_are_zero() {
    // Llama's class has no norms of queries, and Qwen 2's no bias behind attention.
    let error =
        open(changed("qwen3-llama3-biased", &json!({"architectures": ["LlamaForCausalLM"]})).path()).unwrap_err();
    assert!(error.contains("self_attn.k_norm.weight") && error.contains("unknown to the family llama"), "{error}");
    let folder = changed("qwen3-llama3-biased", &json!({"architectures": ["Qwen2ForCausalLM"], "head_dim": 16}));
    let error = open(folder.path()).unwrap_err();
    assert!(error.contains("unknown to the family qwen2"), "{error}");

    // GPTQ's libraries store a bias of zeros for every layer.
    let folder = changed("qwen2-window", &json!({}));
    for (value, outcome) in [(0u8, true), (1, false)] {
        add_tensor(folder.path(), "model.layers.0.self_attn.o_proj.bias", value);
        match open(folder.path()) {
            Ok(warnings) => assert!(outcome && warnings.iter().any(|w| w.contains("o_proj.bias")), "{warnings:?}"),
            Err(error) => assert!(!outcome && error.contains("o_proj.bias"), "{error}"),
        }
    }
    // What lies beside the language model is left out, with a warning.
    let folder = changed("qwen2-window", &json!({}));
    add_tensor(folder.path(), "vision_tower.layers.0.norm.weight", 1);
    assert!(open(folder.path()).unwrap().iter().any(|w| w.contains("vision_tower")));
}

/// Adds a second file with one tensor, and the index of both.
fn add_tensor(folder: &Path, name: &str, byte: u8) {
    let header = json!({name: {"dtype": "BF16", "shape": [32], "data_offsets": [0, 64]}}).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend([byte; 64]);
    std::fs::write(folder.join("more.safetensors"), bytes).unwrap();
    let own = std::fs::read(folder.join("model.safetensors")).unwrap();
    let n = u64::from_le_bytes(own[..8].try_into().unwrap()) as usize;
    let own: Json = serde_json::from_slice(&own[8..8 + n]).unwrap();
    let names = own.as_object().unwrap().keys().filter(|k| *k != "__metadata__");
    let mut map: serde_json::Map<String, Json> = names.map(|k| (k.clone(), "model.safetensors".into())).collect();
    map.insert(name.into(), "more.safetensors".into());
    let index = json!({"metadata": {}, "weight_map": map}).to_string();
    std::fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
}
