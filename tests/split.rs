//! Models in several files: the same tensors, all there or none, and every command reads them.

mod common;

use common::{TestCheckpoint, arg, fails, fixture, listing, ok};
use qconv_formats::gguf::Gguf;
use std::path::{Path, PathBuf};

fn convert(out: &Path, rest: &[&str]) {
    let source = fixture("models/prose-4m");
    ok(&[&["convert", arg(&source), "-t", "q4_k_m", "-q", "--plain", "-o", arg(out)], rest].concat());
}

fn bytes(path: PathBuf) -> Vec<u8> {
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Numbers of tensors per file as llama.cpp's gguf-split (of llama-cpp-python 0.3.36) distributes the BF16 file.
const DISTRIBUTIONS: &[(&[&str], &[usize])] = &[
    (&["--split-max-size", "1M"], &[1, 1, 6, 6, 5, 6, 3, 6, 3, 1]),
    (&["--split-max-size", "2M"], &[8, 11, 10, 9]),
    (&["--split-max-tensors", "10"], &[10, 10, 10, 8]),
];

#[test]
fn tensors_are_distributed_as_by_gguf_split() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("w.gguf");
    let source = fixture("models/prose-4m");
    ok(&["convert", arg(&source), "-t", "bf16", "-q", "-o", arg(&whole)]);
    for (i, (options, want)) in DISTRIBUTIONS.iter().enumerate() {
        let out = dir.path().join(i.to_string());
        std::fs::create_dir(&out).unwrap();
        ok(&[&["split", arg(&whole), "-o", arg(&out)], *options].concat());
        let names = listing(&out);
        let tensors: Vec<usize> =
            names.iter().map(|n| Gguf::open_alone(out.join(n)).unwrap().tensors().len()).collect();
        assert_eq!(&tensors, want, "{options:?}");
        assert_eq!(names[0], format!("w-00001-of-{:05}.gguf", want.len()));
    }
}

#[test]
fn a_conversion_to_parts_is_the_split_of_a_conversion() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    for options in [["--split-max-size", "500k"], ["--split-max-tensors", "7"], ["--split-parts", "3"]] {
        for folder in [&a, &b] {
            let _ = std::fs::remove_dir_all(folder);
            std::fs::create_dir(folder).unwrap();
        }
        let whole = dir.path().join("m.gguf");
        convert(&whole, &["--force"]);
        ok(&[&["split", arg(&whole), "-o", arg(&a)], &options[..]].concat());
        convert(&b.join("m.gguf"), &options);
        let names = listing(&a);
        assert!(names.len() > 2 && names == listing(&b), "{names:?}");
        for name in &names {
            assert!(bytes(a.join(name)) == bytes(b.join(name)), "{name}");
        }
        let merged = dir.path().join("merged.gguf");
        ok(&["merge", arg(&a.join(&names[0])), "-o", arg(&merged), "--force"]);
        assert!(bytes(merged) == bytes(whole));
    }
}

#[test]
fn parts_made_alone_are_those_made_together() {
    let dir = tempfile::tempdir().unwrap();
    let (alone, together) = (dir.path().join("alone"), dir.path().join("together"));
    std::fs::create_dir(&alone).unwrap();
    std::fs::create_dir(&together).unwrap();
    convert(&together.join("m.gguf"), &["--split-parts", "4"]);
    for part in ["3/4", "1/4", "4/4", "2/4"] {
        convert(&alone.join("m.gguf"), &["--part", part]);
    }
    assert_eq!(listing(&alone), listing(&together));
    for name in listing(&alone) {
        assert!(bytes(alone.join(&name)) == bytes(together.join(&name)), "{name}");
    }
    let source = fixture("models/prose-4m");
    let args = ["convert", arg(&source), "-t", "q8_0", "-o", arg(&alone), "--part"];
    fails(&[&args[..], &["5/4"]].concat(), 2, &["--part", "5/4"]);
    fails(&[&args[..], &["0/4"]].concat(), 2, &["--part", "0/4"]);
    fails(&[&args[..], &["1/4", "--split-parts", "3"]].concat(), 2, &["--part"]);
    fails(&[&args[..], &["1/9999"]].concat(), 2, &["9999"]);
}

#[test]
fn a_part_is_made_without_the_tensors_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let mut c = TestCheckpoint::llama(&dir.path().join("m"));
    // The last tensor of the last part is damaged; nobody who does not need it sees that.
    c.tensors.get_mut("model.layers.0.mlp.up_proj.weight").unwrap().1[5] = f32::NAN;
    c.write();
    let out = dir.path().join("x.gguf");
    ok(&["convert", arg(&c.folder), "-t", "q8_0", "-o", arg(&out), "--part", "1/3"]);
    fails(&["convert", arg(&c.folder), "-t", "q8_0", "-o", arg(&out), "--part", "3/3"], 1, &["blk.0.ffn_up.weight"]);
    assert_eq!(listing(dir.path()), ["m", "x-00001-of-00003.gguf"]);
}

#[test]
fn all_parts_appear_or_none() {
    let dir = tempfile::tempdir().unwrap();
    let mut c = TestCheckpoint::llama(&dir.path().join("m"));
    c.tensors.get_mut("model.layers.0.mlp.up_proj.weight").unwrap().1[5] = f32::NAN;
    c.write();
    let out = dir.path().join("x.gguf");
    let args = ["convert", arg(&c.folder), "-t", "q8_0", "-o", arg(&out), "--split-parts", "3"];
    fails(&args, 1, &["blk.0.ffn_up.weight"]);
    assert_eq!(listing(dir.path()), ["m"]);
    // A part that exists is kept unless forced.
    std::fs::write(dir.path().join("x-00002-of-00003.gguf"), "precious").unwrap();
    fails(&args, 2, &["x-00002-of-00003.gguf", "--force"]);
    assert_eq!(listing(dir.path()), ["m", "x-00002-of-00003.gguf"]);
}

#[test]
fn every_command_reads_the_set_by_its_first_part() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("m.gguf");
    convert(&whole, &[]);
    convert(&whole, &["--split-parts", "3"]);
    let first = dir.path().join("m-00001-of-00003.gguf");
    let source = fixture("models/prose-4m");
    let text = fixture("texts/prose.txt");
    let both = |args: &[&str]| [&whole, &first].map(|file| ok(&[&[args[0], arg(file)], &args[1..]].concat()));
    let [a, b] = both(&["run", "-p", "The", "-n", "8", "--temp", "0"]);
    assert_eq!(a, b);
    let [a, b] = both(&["tokenize", "--text", "Hello world"]);
    assert_eq!(a, b);
    let [a, b] = both(&["perplexity", "--file", arg(&text), "--chunks", "1", "--json"]);
    let nll = |json: &str| serde_json::from_str::<serde_json::Value>(json).unwrap()["perplexity"].clone();
    assert_eq!(nll(&a), nll(&b));
    let json: serde_json::Value =
        serde_json::from_str(&ok(&["inspect", arg(&first), "--json", "--tensors", "--stats"])).unwrap();
    assert_eq!(json["tensor_count"], Gguf::open(&whole).unwrap().tensors().len());
    assert_eq!(json["tensors"].as_array().unwrap().last().unwrap()["file"], "m-00003-of-00003.gguf");
    // --strict: the first part stands for the whole set, of which everything is checked.
    ok(&["verify", arg(&first), "--against", arg(&source), "--strict"]);
    let (x, y) = (dir.path().join("x.gguf"), dir.path().join("y.gguf"));
    for (file, out) in [(&whole, &x), (&first, &y)] {
        ok(&["convert", arg(file), "-t", "q4_0", "--plain", "--allow-requantize", "-o", arg(out)]);
    }
    assert!(bytes(x) == bytes(y));
    // Any part can be looked at.
    ok(&["inspect", arg(&dir.path().join("m-00002-of-00003.gguf"))]);
}

#[test]
fn broken_sets_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let [first, second, third] = [1, 2, 3].map(|k| dir.path().join(format!("m-0000{k}-of-00003.gguf")));
    convert(&dir.path().join("m.gguf"), &["--split-parts", "3"]);
    let whole = [&first, &second, &third].map(|p| std::fs::read(p).unwrap());

    fails(&["verify", arg(&second)], 2, &["part 2 of 3", "m-00001-of-00003.gguf"]);
    std::fs::remove_file(&second).unwrap();
    for command in [&["inspect", arg(&first)][..], &["verify", arg(&first)], &["merge", arg(&first), "-o", "x.gguf"]] {
        let out = common::run(command);
        let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
        assert!(out.status.code() == Some(1) && text.contains("m-00002-of-00003.gguf"), "{command:?} {text}");
    }
    // The third under the second's name, the second twice, a truncated part, a part of another model.
    std::fs::write(&second, &whole[2]).unwrap();
    fails(&["inspect", arg(&first)], 1, &["m-00002-of-00003.gguf", "part 3 of 3"]);
    std::fs::write(&second, &whole[1][..whole[1].len() / 2]).unwrap();
    fails(&["inspect", arg(&first)], 1, &["m-00002-of-00003.gguf", "truncated"]);
    std::fs::write(&second, "nonsense").unwrap();
    fails(&["inspect", arg(&first)], 1, &["m-00002-of-00003.gguf"]);
    std::fs::write(&second, &whole[1]).unwrap();
    ok(&["inspect", arg(&first)]);
    // Without its name nobody knows where the others are.
    let renamed = dir.path().join("renamed.gguf");
    std::fs::rename(&first, &renamed).unwrap();
    fails(&["inspect", arg(&renamed)], 1, &["split.no", "-00001-of-00003.gguf"]);
}

#[test]
fn wrong_splits_are_the_callers_fault() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("m.gguf");
    convert(&whole, &[]);
    fails(&["split", arg(&whole)], 2, &["--split-max-size"]);
    for (option, value) in [
        ("--split-max-size", "2X"),
        ("--split-max-size", "0"),
        ("--split-max-tensors", "0"),
        ("--split-parts", "70000"),
    ] {
        fails(&["split", arg(&whole), option, value], 2, &[option]);
    }
    fails(&["split", arg(&whole), "--split-parts", "60000"], 2, &["60000"]);
    fails(&["split", arg(&whole), "--split-parts", "2", "--split-max-size", "2G"], 2, &["--split-max-size"]);
    fails(&["merge", arg(&whole), "-o", "x.gguf"], 2, &["m.gguf"]);
    // A tensor larger than a file may be gets one of its own, and is told.
    let args = ["split", arg(&whole), "-o", arg(dir.path()), "--split-max-size", "1k"];
    fails(&[&args[..], &["--strict"]].concat(), 1, &["output_norm.weight", "--split-max-size"]);
    assert_eq!(listing(dir.path()), ["m.gguf"]);
}

#[test]
fn a_dry_run_tells_the_files() {
    let source = fixture("models/prose-4m");
    let args = ["convert", arg(&source), "-t", "q4_k_m", "--plain", "--dry-run", "--split-parts", "3", "-o", "x.gguf"];
    assert!(ok(&args).contains("x-00003-of-00003.gguf"));
    let json: serde_json::Value = serde_json::from_str(&ok(&[&args[..], &["--json"]].concat())).unwrap();
    let dir = tempfile::tempdir().unwrap();
    convert(&dir.path().join("x.gguf"), &["--split-parts", "3"]);
    for file in json["files"].as_array().unwrap() {
        let path = dir.path().join(file["name"].as_str().unwrap());
        assert_eq!(file["bytes"], path.metadata().unwrap().len());
    }
}
