//! Tokenizers of Hugging Face folders against the ids of the package `tokenizers`, and `qconv tokenize`.
#![allow(clippy::unwrap_used)] // tests may panic

mod common;

use common::{arg, fails, fixture, ok, run};
use qconv::tokenizer::{EncodeOptions, Tokenizer};
use qconv_formats::checkpoint::{Checkpoint, read_json};
use qconv_formats::gguf::{Metadata, Writer};
use qconv_formats::vocab;
use serde_json::Value as Json;
use std::path::{Path, PathBuf};

/// A model folder around a tokenizer.json.
fn folder_of(tokenizer: &Path, folder: &Path) {
    std::fs::copy(tokenizer, folder.join("tokenizer.json")).unwrap();
    std::fs::copy(fixture("models/stories260k/model.safetensors"), folder.join("model.safetensors")).unwrap();
    std::fs::write(folder.join("config.json"), r#"{"vocab_size": 400}"#).unwrap();
}

/// A GGUF file of nothing but the tokenizer of a fixture model.
fn vocabulary(model: &str, folder: &Path) -> PathBuf {
    let checkpoint = Checkpoint::open(fixture(model)).unwrap();
    let size = checkpoint.config()["vocab_size"].as_u64().unwrap() as usize;
    let tokenizer = vocab::from_checkpoint(&checkpoint, size, &mut Vec::new()).unwrap();
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", "llama");
    tokenizer.iter().for_each(|(key, value)| metadata.set(key, value.clone()));
    let path = folder.join("vocabulary.gguf");
    std::fs::write(&path, Writer::new(&metadata, &[]).unwrap().head()).unwrap();
    path
}

#[test]
fn a_folder_of_nothing_but_a_tokenizer_will_do() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(fixture("tokenizers/qwen2.json"), folder.path().join("tokenizer.json")).unwrap();
    let ids: Json = serde_json::from_str(&ok(&["tokenize", arg(folder.path()), "--text", "Hello", "--json"])).unwrap();
    assert!(!ids["ids"].as_array().unwrap().is_empty(), "{ids}");
    fails(&["tokenize", arg(tempfile::tempdir().unwrap().path()), "--text", "x"], 1, &["tokenizer.json"]);
}

#[test]
fn ids_are_those_of_the_package_tokenizers() {
    let cases = read_json(&fixture("tokenizers/cases.json")).unwrap().unwrap();
    let texts: Vec<&str> = cases["texts"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    for (name, expected) in cases["ids"].as_object().unwrap() {
        let temporary = tempfile::tempdir().unwrap();
        let json = fixture(&format!("tokenizers/{name}.json"));
        let folder = if json.exists() {
            folder_of(&json, temporary.path());
            let checkpoint = Checkpoint::open(temporary.path()).unwrap();
            let metadata = vocab::from_checkpoint(&checkpoint, 400, &mut Vec::new()).unwrap();
            assert_eq!(metadata.str("tokenizer.ggml.pre"), Some(name.as_str()));
            temporary.path().to_owned()
        } else {
            fixture(&format!("models/{name}"))
        };
        let tokenizer = Tokenizer::open(&folder, &mut Vec::new()).unwrap();
        for (text, ids) in texts.iter().zip(expected.as_array().unwrap()) {
            let ids: Vec<u32> = ids.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
            let got = tokenizer.encode(text, EncodeOptions { add_special: false, parse_special: true });
            assert_eq!(got, ids, "{name}: {text:?}");
            if json.exists() {
                assert_eq!(tokenizer.decode(&got).unwrap(), *text, "{name}");
            }
        }
    }
}

#[test]
fn a_vocabulary_alone_is_enough() {
    let folder = tempfile::tempdir().unwrap();
    let file = vocabulary("models/stories260k", folder.path());
    let json: Json =
        serde_json::from_str(&ok(&["tokenize", arg(&file), "--text", "Once upon a 🚀", "--json"])).unwrap();
    let model = fixture("models/stories260k");
    let same: Json =
        serde_json::from_str(&ok(&["tokenize", arg(&model), "--text", "Once upon a 🚀", "--json"])).unwrap();
    assert_eq!(json, same);
    let ids: Vec<u64> = json["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
    let pieces: Vec<&str> = json["pieces"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
    assert_eq!((ids[0], pieces[0], ids.len()), (1, "<s>", pieces.len()));
    assert_eq!(pieces[1..].concat(), " Once upon a <0xF0><0x9F><0x9A><0x80>");
}

#[test]
fn options_and_inputs_do_what_they_say() {
    let model = fixture("models/prose-4m");
    let count = |more: &[&str]| {
        let args = [&["tokenize", arg(&model), "--json"], more].concat();
        let json: Json = serde_json::from_str(&ok(&args)).unwrap();
        json["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect::<Vec<_>>()
    };
    let plain = count(&["--text", "</s>", "--no-bos"]);
    assert!(plain.len() > 1 && !plain.contains(&2));
    assert_eq!(count(&["--text", "</s>", "--parse-special"]), [1, 2]);
    assert_eq!(count(&["--text", ""]), [1]);
    assert_eq!(count(&["--text", "-n", "--no-bos"]).len(), 2);

    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.txt");
    std::fs::write(&text, "Hello\nworld").unwrap();
    assert_eq!(count(&["--file", arg(&text)]), count(&["--text", "Hello\nworld"]));
    let shown = ok(&["tokenize", arg(&model), "--file", arg(&text)]);
    assert!(shown.contains("     1  '<s>'") && shown.contains("'\\n'"), "{shown}");
    assert!(shown.trim_end().ends_with(&format!("{} tokens", shown.lines().count() - 1)), "{shown}");
}

#[test]
fn errors_name_the_place() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixture("models/prose-4m");
    let text = folder.path().join("latin1.txt");
    std::fs::write(&text, b"caf\xE9 au lait").unwrap();
    fails(&["tokenize", arg(&model), "--file", arg(&text)], 1, &["latin1.txt", "byte 3", "UTF-8"]);
    let gone = folder.path().join("gone");
    fails(&["tokenize", arg(&model), "--file", arg(&gone)], 2, &["gone"]);
    fails(&["tokenize", arg(&gone), "--text", "x"], 2, &["gone"]);
    fails(&["tokenize", arg(&model)], 2, &["--text"]);
    fails(&["tokenize", arg(&model), "--text", "x", "--file", arg(&text)], 2, &["--file"]);
    // A folder without a tokenizer says what is looked for.
    folder_of(&model.join("tokenizer.json"), folder.path());
    std::fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    fails(
        &["tokenize", arg(folder.path()), "--text", "x"],
        1,
        &["none of tokenizer.model, tokenizer.json, or vocab.json"],
    );
    let help = run(&["tokenize", "--help"]);
    assert!(String::from_utf8(help.stdout).unwrap().contains("Examples:"));
}
