//! Broken safetensors files and model folders: each is refused in words that name the place.
#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::{Scratch, in_little_memory, mutations, safetensors};
use qconv_formats::checkpoint::{Checkpoint, SafetensorsFile};
use qconv_formats::{Fault, Result};

const SOUND: &str = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}}"#;

fn open(bytes: &[u8]) -> Result<SafetensorsFile> {
    SafetensorsFile::open(Scratch::new().file("model.safetensors", bytes))
}

#[track_caller]
fn says<T: std::fmt::Debug>(result: Result<T>, words: &[&str]) {
    let e = result.expect_err("must be refused");
    assert_eq!(e.fault(), Fault::File);
    let sentence = e.to_string();
    for word in words {
        assert!(sentence.contains(word), "{word:?} is not in: {sentence}");
    }
}

#[track_caller]
fn refused(header: &str, words: &[&str]) {
    says(open(&safetensors(header, &[0; 32])), words);
}

#[test]
fn the_sound_file_opens() {
    let data: Vec<u8> = (0..32).collect();
    let file = open(&safetensors(SOUND, &data)).unwrap();
    assert_eq!(file.tensors().len(), 2);
    assert_eq!(file.notes()["format"], "pt");
    assert_eq!(file.tensors()[0].shape.as_ref().unwrap().dims(), [2, 3]);
    assert_eq!(file.bytes(&file.tensors()[1]), &data[24..]);
    // Spaces behind the header, as the reference writer pads it; scalars; empty tensors.
    open(&safetensors(&format!("{SOUND}   "), &data)).unwrap();
    let odd = r#"{"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"e":{"dtype":"F32","shape":[0,9],"data_offsets":[0,0]}}"#;
    assert!(open(&safetensors(odd, &[0; 4])).unwrap().tensors().iter().all(|t| t.shape.is_none()));
    open(&safetensors("{}", &[])).unwrap();
}

#[test]
fn truncated_or_longer() {
    let bytes = safetensors(SOUND, &[0; 32]);
    for n in 0..bytes.len() {
        says(open(&bytes[..n]), &["truncated"]);
    }
    says(open(&[&bytes[..], &[0]].concat()), &["1 bytes behind the last tensor"]);
}

#[test]
fn mutated_anywhere() {
    if !in_little_memory("mutated_anywhere") {
        return;
    }
    let dir = Scratch::new();
    let (mut good, mut bad) = (0, 0);
    mutations(&safetensors(SOUND, &[0; 32]), |bytes| {
        match SafetensorsFile::open(dir.file("model.safetensors", bytes)) {
            Ok(file) => {
                good += 1;
                file.tensors().iter().for_each(|t| assert!(!file.bytes(t).is_empty() || t.shape.is_none()));
            }
            Err(e) => {
                bad += 1;
                assert_eq!(e.fault(), Fault::File, "{e}");
            }
        }
    });
    assert!(good > 100 && bad > 1000, "{good} {bad}");
}

#[test]
fn header_lengths_that_lie() {
    if !in_little_memory("header_lengths_that_lie") {
        return;
    }
    for n in [0u64, 1, SOUND.len() as u64 - 1, SOUND.len() as u64 + 1, 100_000_001, 1 << 32, 1 << 60, u64::MAX] {
        let mut bytes = safetensors(SOUND, &[0; 32]);
        bytes[..8].copy_from_slice(&n.to_le_bytes());
        says(open(&bytes), &["safetensors header"]);
    }
}

#[test]
fn headers_that_lie() {
    let one = |entry: &str| format!("{{\"t\":{entry}}}");
    refused("", &["safetensors header"]);
    refused("[]", &["object of tensors"]);
    refused("{\"t\":", &["no JSON"]);
    refused("\u{0}", &["no JSON"]);
    refused(&one("7"), &["tensor t"]);
    refused(&one(r#"{"dtype":"F32","shape":[8]}"#), &["tensor t", "data_offsets"]);
    refused(&one(r#"{"dtype":"F32","shape":[-8],"data_offsets":[0,32]}"#), &["tensor t", "-8"]);
    refused(&one(r#"{"dtype":"F32","shape":[8],"data_offsets":[0,32,64]}"#), &["tensor t"]);
    refused(&one(r#"{"dtype":"F31","shape":[8],"data_offsets":[0,32]}"#), &["tensor t", "\"F31\""]);
    refused(&one(r#"{"dtype":"F32","shape":[7],"data_offsets":[0,32]}"#), &["tensor t", "0..32 are not the 28"]);
    refused(&one(r#"{"dtype":"F32","shape":[8],"data_offsets":[32,0]}"#), &["tensor t", "32..0"]);
    refused(&one(r#"{"dtype":"F32","shape":[8],"data_offsets":[1,33]}"#), &["tensor t", "truncated"]);
    refused(&one(r#"{"dtype":"F32","shape":[4],"data_offsets":[16,32]}"#), &["tensor t", "gap"]);
    refused(&one(r#"{"dtype":"F32","shape":[4],"data_offsets":[0,16]}"#), &["16 bytes behind"]);
    refused(&one(r#"{"dtype":"F4","shape":[3],"data_offsets":[0,1]}"#), &["tensor t"]);
    refused(&one(r#"{"dtype":"U8","shape":[1,1,1,1,32],"data_offsets":[0,32]}"#), &["tensor t", "5 dimensions"]);
    let max = u64::MAX;
    refused(&one(&format!(r#"{{"dtype":"F32","shape":[{max},{max}],"data_offsets":[0,32]}}"#)), &["more elements"]);
    refused(&one(&format!(r#"{{"dtype":"F32","shape":[{}],"data_offsets":[0,32]}}"#, 1u64 << 62)), &["more elements"]);
    let end = 1u64 << 61;
    refused(&one(&format!(r#"{{"dtype":"U8","shape":[{end}],"data_offsets":[0,{end}]}}"#)), &["tensor t"]);
    refused(
        &one(&format!(r#"{{"dtype":"U8","shape":[1],"data_offsets":[{},{max}]}}"#, max - 1)),
        &["tensor t", "beyond any file"],
    );
    let entry = r#"{"dtype":"F32","shape":[8],"data_offsets":[0,32]}"#;
    refused(&format!(r#"{{"t":{entry},"t":{entry}}}"#), &["tensor t", "twice"]);
    refused(&format!(r#"{{"t":{entry},"u":{entry}}}"#), &["tensor u", "overlaps"]);
    refused(&format!(r#"{{"__metadata__":{{"a":1}},"t":{entry}}}"#), &["safetensors header"]);
    refused(&"[".repeat(1000), &["safetensors header"]);
}

/// Offsets whose sum passes the largest number: each size is right, the end wraps around to the file's own length.
#[test]
fn offsets_that_wrap_around() {
    let step = 1u64 << 60;
    let entry = |i: u64| {
        format!(
            r#""t{i:02}":{{"dtype":"U8","shape":[{step}],"data_offsets":[{},{}]}}"#,
            i * step,
            (i + 1).wrapping_mul(step)
        )
    };
    let header = format!("{{{}}}", (0..15).map(entry).collect::<Vec<_>>().join(","));
    refused(&header, &["tensor t"]);
}

/// A folder with `files`, opened as a checkpoint.
fn folder(files: &[(&str, &[u8])]) -> Result<Checkpoint> {
    let dir = Scratch::new();
    for (name, bytes) in files {
        dir.file(name, bytes);
    }
    Checkpoint::open(dir.path())
}

fn shard(name: &str) -> Vec<u8> {
    safetensors(&format!(r#"{{"{name}":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}}}"#), &[7])
}

#[test]
fn sound_folders_open() {
    let (a, b) = (shard("a"), shard("b"));
    let whole = folder(&[("config.json", b"{}"), ("model.safetensors", &a)]).unwrap();
    assert_eq!(whole.names().collect::<Vec<_>>(), ["a"]);
    let index = br#"{"weight_map":{"a":"x-1.safetensors","b":"x-2.safetensors"}}"#;
    let indexed = [
        ("config.json", &b"{}"[..]),
        ("x-1.safetensors", &a),
        ("x-2.safetensors", &b),
        ("model.safetensors.index.json", index),
    ];
    assert_eq!(folder(&indexed).unwrap().names().count(), 2);
    let bare = [
        ("config.json", &b"{}"[..]),
        ("model-00001-of-00002.safetensors", &a),
        ("model-00002-of-00002.safetensors", &b),
    ];
    assert_eq!(folder(&bare).unwrap().files().len(), 2);
}

#[test]
fn broken_folders() {
    let (a, b) = (shard("a"), shard("b"));
    let config = ("config.json", &b"{}"[..]);
    let index = |text: &'static str| ("model.safetensors.index.json", text.as_bytes());
    says(folder(&[]), &["config.json", "is missing"]);
    says(folder(&[config]), &["model.safetensors", "is missing", "safe_serialization"]);
    says(folder(&[("config.json", b"[]"), ("model.safetensors", &a)]), &["config.json", "no JSON object"]);
    says(folder(&[("config.json", b"{\n \"a\": tru}"), ("model.safetensors", &a)]), &["config.json", "line 2"]);
    says(folder(&[("config.json", b"\xff\xfe"), ("model.safetensors", &a)]), &["config.json", "line 1"]);
    says(folder(&[config, ("model.safetensors", b"<html>404")]), &["model.safetensors", "no safetensors file"]);
    says(
        folder(&[config, ("model-1.safetensors", &a), ("model-2.safetensors", &a)]),
        &["model-2", "tensor a", "two shards"],
    );
    says(
        folder(&[config, ("model-00001-of-00003.safetensors", &a), ("model-00003-of-00003.safetensors", &b)]),
        &["model-00002-of-00003", "missing"],
    );
    says(folder(&[config, ("model-00001-of-4294967295.safetensors", &a)]), &["model-00002-of-4294967295", "missing"]);

    let text = r#"{"weight_map":{"a":"x-1.safetensors","b":"x-2.safetensors"}}"#;
    says(folder(&[config, index("{}"), ("x-1.safetensors", &a)]), &["weight_map"]);
    says(folder(&[config, index("{"), ("x-1.safetensors", &a)]), &["index.json", "line 1"]);
    says(folder(&[config, index(text), ("x-1.safetensors", &a)]), &["shard x-2.safetensors", "not in the folder"]);
    says(
        folder(&[config, index(text), ("x-1.safetensors", &a), ("x-2.safetensors", &shard("c"))]),
        &["tensor b", "x-2.safetensors"],
    );
    says(
        folder(&[config, index(text), ("x-1.safetensors", &b), ("x-2.safetensors", &a)]),
        &["tensor a", "is said to be in x-1.safetensors"],
    );
    says(folder(&[config, index(text), ("model.safetensors", &a)]), &["remove one"]);
    for outside in ["../x", "/etc/passwd", "..", "", "a\\\\b"] {
        let text = format!(r#"{{"weight_map":{{"a":"{outside}"}}}}"#);
        says(
            folder(&[config, ("model.safetensors.index.json", text.as_bytes())]),
            &["tensor a", "no file of this folder"],
        );
    }
    assert_eq!(Checkpoint::open("no/such").unwrap_err().fault(), Fault::Caller);
}
