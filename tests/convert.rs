//! `qconv convert` as its users see it: the same bytes always, nothing lost, errors that say what to do.

mod common;

use common::{TestCheckpoint, arg, fails, fixture, listing, ok};
use std::path::Path;

fn convert(source: &Path, out: &Path, rest: &[&str]) -> String {
    let mut args = vec!["convert", arg(source), "-o", arg(out)];
    args.extend(rest);
    ok(&args)
}

#[test]
fn the_same_bytes_for_any_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let source = fixture("models/prose-4m");
    let mut files = Vec::new();
    for threads in ["1", "2", "5"] {
        let out = dir.path().join(format!("{threads}.gguf"));
        convert(&source, &out, &["--type", "q4_k_m", "--threads", threads]);
        files.push(std::fs::read(out).unwrap());
    }
    assert!(files.iter().all(|f| *f == files[0]));
}

#[test]
fn two_passes_give_the_bytes_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let (full, two, one) = (dir.path().join("bf16.gguf"), dir.path().join("two.gguf"), dir.path().join("one.gguf"));
    let source = fixture("models/prose-4m");
    convert(&source, &full, &["--type", "bf16"]);
    convert(&full, &two, &["--type", "q4_k_m"]);
    convert(&source, &one, &["--type", "q4_k_m"]);
    let (two, one) = (qconv_formats::gguf::Gguf::open(two).unwrap(), qconv_formats::gguf::Gguf::open(one).unwrap());
    assert_eq!(one.tensors().len(), two.tensors().len());
    for (a, b) in one.tensors().iter().zip(two.tensors()) {
        assert_eq!((&a.name, &a.shape, a.format), (&b.name, &b.shape, b.format));
        assert!(one.bytes(a) == two.bytes(b), "{}", a.name);
    }
}

#[test]
fn bytes_are_those_of_llama_quantize() {
    use sha2::{Digest, Sha256};
    let golden = std::fs::read(fixture("quantized/llama-quantize.json")).unwrap();
    let golden: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&golden).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut compared = 0;
    for (model, types) in &golden {
        for (mix, tensors) in types.as_object().unwrap() {
            let out = dir.path().join(format!("{model}-{mix}.gguf"));
            convert(&fixture("models").join(model), &out, &["--type", mix, "-q"]);
            let file = qconv_formats::gguf::Gguf::open(&out).unwrap();
            let expected = tensors.as_array().unwrap();
            assert_eq!(file.tensors().len(), expected.len(), "{model} {mix}");
            for (tensor, golden) in file.tensors().iter().zip(expected) {
                let hash: String =
                    Sha256::digest(file.bytes(tensor)).iter().take(8).map(|b| format!("{b:02x}")).collect();
                let ours = serde_json::json!([tensor.name, tensor.format.name, hash]);
                assert_eq!(&ours, golden, "{model} {mix}");
                compared += 1;
            }
        }
    }
    assert!(compared > 1000, "{compared} tensors");
}

#[test]
fn shards_give_the_bytes_of_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut whole = TestCheckpoint::llama(&dir.path().join("whole"));
    whole.write();
    let mut shards = TestCheckpoint::llama(&dir.path().join("shards"));
    let all = std::mem::take(&mut shards.tensors);
    let mut map = serde_json::Map::new();
    for k in 0..3 {
        shards.tensors =
            all.iter().enumerate().filter(|(i, _)| i % 3 == k).map(|(_, (n, t))| (n.clone(), t.clone())).collect();
        shards.write();
        let name = format!("model-0000{}-of-00003.safetensors", k + 1);
        std::fs::rename(shards.folder.join("model.safetensors"), shards.folder.join(&name)).unwrap();
        map.extend(shards.tensors.keys().map(|n| (n.clone(), name.clone().into())));
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": map}).to_string();
    std::fs::write(shards.folder.join("model.safetensors.index.json"), &index).unwrap();
    let (a, b) = (dir.path().join("a.gguf"), dir.path().join("b.gguf"));
    // The same name, so that general.name is the same.
    let renamed = dir.path().join("x/whole");
    std::fs::create_dir(dir.path().join("x")).unwrap();
    std::fs::rename(&shards.folder, &renamed).unwrap();
    convert(&whole.folder, &a, &["--type", "q8_0", "--plain"]);
    convert(&renamed, &b, &["--type", "q8_0", "--plain"]);
    assert!(std::fs::read(&a).unwrap() == std::fs::read(&b).unwrap());

    std::fs::remove_file(renamed.join("model-00002-of-00003.safetensors")).unwrap();
    let words = ["model.safetensors.index.json", "model-00002-of-00003.safetensors"];
    fails(&["convert", arg(&renamed), "-o", arg(&b), "--force", "--type", "q8_0"], 1, &words);
    whole.tensors.clear();
}

#[test]
fn the_default_name_follows_the_convention() {
    let dir = tempfile::tempdir().unwrap();
    let source = fixture("models/stories260k").canonicalize().unwrap();
    let out = common::qconv(&["convert", arg(&source), "--type", "q8_0"]).current_dir(dir.path()).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let names = listing(dir.path());
    assert_eq!(names.len(), 1);
    assert!(names[0].ends_with("-Q8_0.gguf"), "{names:?}");
}

#[test]
fn a_dry_run_writes_nothing_and_tells_the_size() {
    let dir = tempfile::tempdir().unwrap();
    let source = fixture("models/prose-4m");
    let out = dir.path().join("x.gguf");
    let plan = ok(&["convert", arg(&source), "-o", arg(&out), "--type", "q4_k_m", "--dry-run", "--json"]);
    assert!(listing(dir.path()).is_empty());
    let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
    convert(&source, &out, &["--type", "q4_k_m"]);
    let file = qconv_formats::gguf::Gguf::open(&out).unwrap();
    let bytes: usize = file.tensors().iter().map(|t| t.range.len()).sum();
    assert_eq!(plan["bytes"], bytes);
}

#[test]
fn fallbacks_are_counted_and_refused_when_strict() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (fixture("models/stories260k"), dir.path().join("x.gguf"));
    let json = convert(&source, &out, &["--type", "q4_k_m", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(json["fallbacks"].as_u64().unwrap() > 0);
    assert!(!json["warnings"].as_array().unwrap().is_empty());
    let strict = dir.path().join("strict.gguf");
    fails(&["convert", arg(&source), "-o", arg(&strict), "--type", "q4_k_m", "--strict"], 1, &["--strict"]);
    assert!(!strict.exists());
}

#[test]
fn an_existing_file_is_kept_unless_forced() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (fixture("models/stories260k"), dir.path().join("x.gguf"));
    std::fs::write(&out, "precious").unwrap();
    fails(&["convert", arg(&source), "-o", arg(&out), "--type", "q8_0"], 2, &["x.gguf", "--force"]);
    assert_eq!(std::fs::read(&out).unwrap(), b"precious");
    convert(&source, &out, &["--type", "q8_0", "--force"]);
    assert_ne!(std::fs::read(&out).unwrap(), b"precious");
    // The output may not be the input, forced or not.
    let before = std::fs::read(&out).unwrap();
    fails(&["convert", arg(&out), "-o", arg(&out), "--type", "q4_0", "--force", "--allow-requantize"], 2, &["x.gguf"]);
    assert!(std::fs::read(&out).unwrap() == before);
    assert_eq!(listing(dir.path()), ["x.gguf"]);
}

#[test]
fn quantized_input_needs_a_word() {
    let dir = tempfile::tempdir().unwrap();
    let (q8, q4) = (dir.path().join("q8.gguf"), dir.path().join("q4.gguf"));
    convert(&fixture("models/prose-4m"), &q8, &["--type", "q8_0"]);
    fails(&["convert", arg(&q8), "-o", arg(&q4), "--type", "q4_0"], 2, &["--allow-requantize", "Q8_0"]);
    assert!(!q4.exists());
    convert(&q8, &q4, &["--type", "q4_0", "--allow-requantize"]);
}

#[test]
fn damaged_weights_are_named() {
    for (value, word) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
        let dir = tempfile::tempdir().unwrap();
        let mut c = TestCheckpoint::llama(&dir.path().join("m"));
        c.tensors.get_mut("model.layers.0.mlp.up_proj.weight").unwrap().1[64 * 5 + 7] = value;
        c.write();
        let out = dir.path().join("x.gguf");
        let args = ["convert", arg(&c.folder), "-o", arg(&out), "--type", "q8_0"];
        fails(&args, 1, &["blk.0.ffn_up.weight", "row 5, column 7", word]);
        assert_eq!(listing(dir.path()), ["m"]);
    }
}

#[test]
fn weights_beyond_half_precision_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut c = TestCheckpoint::llama(&dir.path().join("m"));
    c.tensors.get_mut("model.layers.0.mlp.up_proj.weight").unwrap().1[3] = 1e6;
    c.write();
    let out = dir.path().join("x.gguf");
    fails(&["convert", arg(&c.folder), "-o", arg(&out), "--type", "f16"], 2, &["blk.0.ffn_up.weight", "F16", "BF16"]);
    assert!(!out.exists());
    convert(&c.folder, &out, &["--type", "bf16"]);
}

#[test]
fn broken_checkpoints_are_errors_that_name_the_place() {
    type Damage = fn(&mut TestCheckpoint);
    let cases: &[(Damage, i32, &[&str])] = &[
        (|c| drop(c.tensors.remove("model.norm.weight")), 1, &["model.norm.weight", "missing"]),
        (|c| c.add("model.layers.0.self_attn.q_proj.weight", &[63, 64]), 1, &["q_proj.weight", "63 x 64"]),
        (
            |c| c.config["architectures"] = serde_json::json!(["NoSuchForCausalLM"]),
            1,
            &["config.json", "NoSuchForCausalLM"],
        ),
        (|c| drop(c.config.as_object_mut().unwrap().remove("hidden_size")), 1, &["config.json", "hidden_size"]),
        (|c| c.config["num_hidden_layers"] = (1u64 << 40).into(), 1, &["num_hidden_layers"]),
        (|c| c.config["num_key_value_heads"] = 3.into(), 1, &["num_key_value_heads"]),
        (|c| c.config["hidden_act"] = "relu".into(), 1, &["hidden_act", "relu"]),
        (|c| c.config["tie_word_embeddings"] = false.into(), 1, &["lm_head.weight", "tie_word_embeddings"]),
        (
            |c| c.config["quantization_config"] = serde_json::json!({"quant_method": "gptq"}),
            1,
            &["quantization_config"],
        ),
        (|c| c.config["rope_scaling"] = serde_json::json!({"type": "magic"}), 1, &["rope_type", "magic"]),
    ];
    for (damage, code, words) in cases {
        let dir = tempfile::tempdir().unwrap();
        let mut c = TestCheckpoint::llama(&dir.path().join("m"));
        damage(&mut c);
        c.write();
        let out = dir.path().join("x.gguf");
        fails(&["convert", arg(&c.folder), "-o", arg(&out), "--type", "q8_0"], *code, words);
        assert_eq!(listing(dir.path()), ["m"], "{words:?}");
    }
}

#[test]
fn missing_files_are_errors_that_name_them() {
    let cases: &[(&[&str], &[&str])] = &[
        (&["config.json"], &["config.json"]),
        (&["model.safetensors"], &["safetensors"]),
        (&["tokenizer.json", "tokenizer.model"], &["tokenizer"]),
    ];
    for (gone, words) in cases {
        let dir = tempfile::tempdir().unwrap();
        let c = TestCheckpoint::llama(&dir.path().join("m"));
        c.write();
        gone.iter().for_each(|f| drop(std::fs::remove_file(c.folder.join(f))));
        let out = dir.path().join("x.gguf");
        fails(&["convert", arg(&c.folder), "-o", arg(&out), "--type", "q8_0"], 1, words);
        assert!(!out.exists());
    }
    fails(&["convert", "no/such/folder", "--type", "q8_0"], 2, &["no/such/folder"]);
}

#[test]
fn unknown_tensors_are_told_and_refused_when_strict() {
    let dir = tempfile::tempdir().unwrap();
    let mut c = TestCheckpoint::llama(&dir.path().join("m"));
    c.add("vision.layers.0.surprise.weight", &[8, 8]);
    c.write();
    let (folder, out) = (c.folder.clone(), dir.path().join("x.gguf"));
    let args = ["convert", arg(&folder), "-o", arg(&out), "--type", "q8_0"];
    fails(&[&args[..], &["--strict"]].concat(), 1, &["vision.layers.0.surprise.weight"]);
    assert!(!out.exists());
    let done = common::run(&args);
    assert!(done.status.success());
    assert!(String::from_utf8_lossy(&done.stderr).contains("vision.layers.0.surprise.weight"));
    // In one of the model's own blocks it would have changed the result.
    std::fs::remove_file(&out).unwrap();
    c.add("model.layers.0.surprise.weight", &[8, 8]);
    c.write();
    fails(&args, 1, &["model.layers.0.surprise.weight", "unknown to the family llama"]);
    assert!(!out.exists());
}

#[test]
fn wrong_arguments_are_the_callers_fault() {
    let source = fixture("models/stories260k");
    let source = arg(&source);
    fails(&["convert", source, "--type", "q9_k"], 2, &["q9_k", "Q4_K_M"]);
    fails(&["convert", source], 2, &["--type"]);
    let rule = ["convert", source, "--type", "q8_0", "--dry-run", "--tensor-type", "no_such_tensor=q8_0"];
    fails(&rule, 2, &["no_such_tensor"]);
    fails(&["convert", source, "--type", "q8_0", "--dry-run", "--tensor-type", "[=q8_0"], 2, &["["]);
    fails(&["convert", source, "-o", "no/such/folder/x.gguf", "--type", "q8_0"], 2, &["no/such/folder"]);
}

#[test]
fn a_copied_output_matrix_of_a_tied_model_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut c = TestCheckpoint::llama(&dir.path().join("m"));
    let embeddings = c.tensors["model.embed_tokens.weight"].clone();
    c.tensors.insert("lm_head.weight".into(), embeddings);
    c.write();
    let out = dir.path().join("x.gguf");
    convert(&c.folder, &out, &["--type", "q8_0"]);
    assert!(qconv_formats::gguf::Gguf::open(&out).unwrap().tensor("output.weight").is_none());
}

/// Hugging Face's tools keep models in folders that are called after a commit.
#[test]
#[cfg(unix)]
fn models_in_the_hubs_cache_are_found_by_their_names() {
    let dir = tempfile::tempdir().unwrap();
    let (hub, work) = (dir.path().join("hub"), dir.path().join("work"));
    let repository = hub.join("models--acme--Prose-4M-Chat");
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let snapshot = repository.join("snapshots").join(commit);
    common::copy_folder(&fixture("models/prose-4m"), &repository.join("blobs"));
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir(&work).unwrap();
    for name in listing(&repository.join("blobs")) {
        std::os::unix::fs::symlink(Path::new("../../blobs").join(&name), snapshot.join(&name)).unwrap();
    }
    let convert = |source: &str, out: &str| {
        let mut command = common::qconv(&["convert", source, "-t", "q8_0", "-o", out]);
        command.current_dir(&work).env("HF_HUB_CACHE", &hub).output().unwrap()
    };
    for (source, out) in [
        ("acme/Prose-4M-Chat", "a/"),
        (arg(&repository), "b/"),
        (arg(&snapshot), "c/"),
        ("../hub/models--acme--Prose-4M-Chat", "d/"),
    ] {
        std::fs::create_dir(work.join(out)).unwrap();
        let done = convert(source, out);
        assert!(done.status.success(), "{source}: {}", String::from_utf8_lossy(&done.stderr));
        assert_eq!(listing(&work.join(out)), ["Prose-4M-Chat-Q8_0.gguf"], "{source}");
    }
    let file = |out: &str| std::fs::read(work.join(out).join("Prose-4M-Chat-Q8_0.gguf")).unwrap();
    assert!(["b", "c", "d"].iter().all(|out| file(out) == file("a")), "one model has one file");
    ok(&["verify", arg(&work.join("a/Prose-4M-Chat-Q8_0.gguf")), "--against", arg(&repository)]);

    let refused = convert("acme/Prose-7B", "x.gguf");
    assert_eq!(refused.status.code(), Some(2));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("`hf download acme/Prose-7B`"), "{said}");
}

#[test]
fn an_adapter_is_no_model() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("adapter_config.json"), "{}").unwrap();
    fails(&["convert", arg(dir.path()), "-o", arg(&dir.path().join("x.gguf"))], 1, &["LoRA", "merge"]);
}

#[test]
fn a_folders_name_may_have_dots() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("Prose-v1.0");
    common::copy_folder(&fixture("models/prose-4m"), &folder);
    let shown = ok(&["bench", arg(&folder), "-p", "2", "-n", "1", "-r", "1", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert!(shown.to_string().contains(r#""Prose-v1.0""#), "{shown}");
}
