//! Importance matrices: the bytes of llama-quantize with them, and what is said about odd ones.

#![allow(clippy::unwrap_used)] // a test

mod common;

use common::{TestCheckpoint, arg, experts, fails, fixture, ok, run, tensors};
use qconv_formats::gguf::{Gguf, Value};
use qconv_formats::imatrix::{Entry, Imatrix};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

#[test]
fn bytes_and_keys_are_those_of_llama_quantize() {
    let golden = std::fs::read(fixture("imatrix/llama-quantize.json")).unwrap();
    let cases: Vec<Json> = serde_json::from_slice(&golden).unwrap();
    assert!(cases.len() > 40);
    let dir = tempfile::tempdir().unwrap();
    for case in cases {
        let text = |key: &str| case[key].as_str().unwrap().to_owned();
        let (model, mix) = (fixture("models").join(text("model")), text("type"));
        let out = dir.path().join("x.gguf");
        let matrix = text("imatrix");
        let mut args =
            vec!["convert", arg(&model), "-o", arg(&out), "--type", &mix, "-q", "--force", "--imatrix", &matrix];
        args.extend(case["options"].as_array().unwrap().iter().map(|o| o.as_str().unwrap()));
        let done = common::qconv(&args).current_dir(fixture("imatrix")).output().unwrap();
        let label = format!("{} {mix} {}", text("model"), case["options"]);
        assert!(done.status.success(), "{label}: {}", String::from_utf8_lossy(&done.stderr));
        let file = Gguf::open(&out).unwrap();
        assert_eq!(tensors(&file), case["tensors"], "{label}");
        let keys: serde_json::Map<String, Json> = file
            .metadata()
            .iter()
            .filter(|(key, _)| key.starts_with("quantize."))
            .map(|(key, value)| match value {
                Value::String(s) => (key.to_owned(), s.as_str().into()),
                Value::U32(n) => (key.to_owned(), (*n).into()),
                other => panic!("{key}: {other:?}"),
            })
            .collect();
        assert_eq!(Json::from(keys), case["keys"], "{label}");
    }
}

/// A matrix for a [`TestCheckpoint::llama`] of layer 0; sums by column.
fn matrix(change: impl Fn(&str, &mut Vec<f32>)) -> Imatrix {
    let mut matrix = Imatrix { chunk_count: 1, chunk_size: 64, datasets: vec!["text".into()], ..Imatrix::default() };
    for (part, cols) in [
        ("attn_q", 64),
        ("attn_k", 64),
        ("attn_v", 64),
        ("attn_output", 64),
        ("ffn_gate", 64),
        ("ffn_up", 64),
        ("ffn_down", 96),
    ] {
        let name = format!("blk.0.{part}.weight");
        let mut sums = (0..cols).map(|i| ((i * 37 + 11) % 64) as f32 + 0.5).collect();
        change(&name, &mut sums);
        if !sums.is_empty() {
            matrix.entries.insert(name, Entry::new(sums, vec![64]).unwrap());
        }
    }
    matrix
}

fn saved(matrix: &Imatrix, folder: &Path) -> PathBuf {
    let path = folder.join("imatrix.gguf");
    std::fs::write(&path, matrix.to_gguf().unwrap()).unwrap();
    path
}

/// Converts a small llama with a matrix and returns the summary.
fn convert(matrix: &Imatrix, rest: &[&str]) -> (tempfile::TempDir, std::process::Output) {
    let dir = tempfile::tempdir().unwrap();
    let model = TestCheckpoint::llama(&dir.path().join("m"));
    model.write();
    let (file, out) = (saved(matrix, dir.path()), dir.path().join("x.gguf"));
    let mut args = vec!["convert", arg(&model.folder), "-o", arg(&out), "--json", "--imatrix", arg(&file)];
    args.extend(rest);
    let done = run(&args);
    (dir, done)
}

#[track_caller]
fn refused(matrix: &Imatrix, rest: &[&str], code: i32, words: &[&str]) {
    let (dir, done) = convert(matrix, rest);
    let err = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(code), "{err}");
    words.iter().for_each(|w| assert!(err.contains(w), "{w:?} is not in: {err}"));
    assert!(!dir.path().join("x.gguf").exists());
}

#[track_caller]
fn counted(matrix: &Imatrix, rest: &[&str], words: &[&str]) -> Json {
    let (_dir, done) = convert(matrix, rest);
    let err = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{err}");
    words.iter().for_each(|w| assert!(err.contains(w), "{w:?} is not in: {err}"));
    refused(matrix, &[rest, &["--strict"]].concat(), 1, &["--strict"]);
    serde_json::from_slice::<Json>(&done.stdout).unwrap()["importance"].clone()
}

#[test]
fn what_is_missing_is_named_and_counted() {
    let holes = matrix(|name, sums| {
        if name.contains("attn_k") {
            sums.clear();
        }
    });
    let found = counted(&holes, &["--type", "q4_0"], &["1 tensor has no entry", "blk.0.attn_k.weight"]);
    assert_eq!(found["tensors"], 6);
    assert_eq!(found["missing"], serde_json::json!(["blk.0.attn_k.weight"]));
    // Types that use no importance miss nothing.
    let (_dir, done) = convert(&holes, &["--type", "q8_0", "--strict"]);
    assert!(done.status.success());
}

#[test]
fn columns_that_were_never_active_are_counted_and_give_no_nan() {
    for mix in ["q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl"] {
        for from in [0, 32, 63] {
            let zeros = matrix(|name, sums| {
                if name.contains("ffn_up") {
                    sums[from..].fill(0.0);
                }
            });
            let found = counted(&zeros, &["--type", mix], &["never active", "blk.0.ffn_up.weight"]);
            assert_eq!(found["inactive_columns"]["blk.0.ffn_up.weight"], 64 - from, "{mix}");
        }
    }
}

#[test]
fn a_matrix_of_another_model_is_refused() {
    let wide = matrix(|name, sums| {
        if name.contains("ffn_down") {
            sums.push(1.0);
        }
    });
    refused(&wide, &["--type", "q4_0"], 2, &["blk.0.ffn_down.weight", "97 columns", "has 96", "another model"]);
    refused(&wide, &["--type", "q8_0"], 2, &["blk.0.ffn_down.weight"]);
    let mut other = Imatrix { chunk_size: 64, ..Imatrix::default() };
    other.entries.insert("blk.7.attn_q.weight".into(), Entry::new(vec![1.0; 64], vec![1]).unwrap());
    refused(&other, &["--type", "q4_0"], 2, &["none of its 1 entries names a tensor"]);
    let mut more = matrix(|_, _| {});
    more.entries.extend(other.entries);
    let found = counted(&more, &["--type", "q4_0"], &["1 of 8 entries name no tensor", "blk.7.attn_q.weight"]);
    assert_eq!(found["unknown"], serde_json::json!(["blk.7.attn_q.weight"]));
}

#[test]
fn names_that_fit_nothing_are_refused() {
    let all = matrix(|_, _| {});
    refused(&all, &["--type", "q4_0", "--include-weights", "attn_x"], 2, &["--include-weights attn_x"]);
    refused(&all, &["--type", "q4_0", "--exclude-weights", "attn_x"], 2, &["--exclude-weights attn_x"]);
    let both = ["--type", "q4_0", "--exclude-weights", "attn_q", "--include-weights", "attn_k"];
    refused(&all, &both, 2, &["--include-weights"]);
    let source = fixture("models/stories260k");
    fails(&["convert", arg(&source), "--type", "q4_0", "--imatrix", "no/such.gguf"], 2, &["no/such.gguf"]);
    let text = fixture("texts/prose.txt");
    fails(&["convert", arg(&source), "--type", "q4_0", "--imatrix", arg(&text)], 1, &["no importance matrix"]);
}

#[test]
fn types_that_need_importance_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let (model, out) = (fixture("models/prose-4m"), dir.path().join("x.gguf"));
    let matrix = fixture("imatrix/prose-4m.gguf");
    for mix in ["iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "q2_k_s", "iq3_xxs"] {
        let args = ["convert", arg(&model), "-o", arg(&out), "--type", mix];
        fails(&args, 2, &["--imatrix"]);
        let args = [&args[..], &["--imatrix", arg(&matrix), "--exclude-weights", "blk.2.ffn_up"]].concat();
        fails(&args, 2, &["there is no entry blk.2.ffn_up.weight", "garbage"]);
    }
    assert!(!out.exists());
}

/// Expert 1 was never visited, columns 32 .. 64 of expert 2 were never active.
fn experts_matrix() -> Imatrix {
    let mut matrix = Imatrix { chunk_count: 2, chunk_size: 64, datasets: vec!["a text".into()], ..Imatrix::default() };
    let mut state = 1u32;
    let mut sum = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 65536.0 + 0.01
    };
    for (part, cols, n) in [
        ("attn_q", 256, 1),
        ("attn_k", 256, 1),
        ("attn_v", 256, 1),
        ("attn_output", 256, 1),
        ("ffn_gate_exps", 256, 4),
        ("ffn_up_exps", 256, 4),
        ("ffn_down_exps", 512, 4),
    ] {
        let mut sums: Vec<f32> = (0..n * cols).map(|_| sum()).collect();
        let counts = if n == 1 { vec![128] } else { vec![100, 0, 77, 79] };
        if n > 1 {
            sums[cols..2 * cols].fill(0.0);
            sums[2 * cols + 32..2 * cols + 64].fill(0.0);
        }
        matrix.entries.insert(format!("blk.0.{part}.weight"), Entry::new(sums, counts).unwrap());
    }
    matrix
}

#[test]
fn experts_have_importance_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    // To make the golden again: `QCONV_TEST_KEEP=FOLDER` keeps the model as F32 and the matrix.
    let keep = std::env::var_os("QCONV_TEST_KEEP").map(PathBuf::from);
    let folder = keep.as_deref().unwrap_or(dir.path());
    let model = experts(&dir.path().join("four-experts"));
    model.write();
    let matrix = saved(&experts_matrix(), folder);
    if let Some(folder) = &keep {
        ok(&["convert", arg(&model.folder), "-o", arg(&folder.join("four-experts.gguf")), "--type", "f32"]);
        return;
    }
    let golden = std::fs::read(fixture("imatrix/experts.json")).unwrap();
    let golden: serde_json::Map<String, Json> = serde_json::from_slice(&golden).unwrap();
    assert!(golden.len() > 10);
    for (mix, want) in golden {
        let out = dir.path().join(format!("{mix}.gguf"));
        let args = ["convert", arg(&model.folder), "-o", arg(&out), "--type", &mix, "--imatrix", arg(&matrix)];
        let done = run(&[&args[..], &["--json"]].concat());
        let err = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{mix}: {err}");
        let found = &serde_json::from_slice::<Json>(&done.stdout).unwrap()["importance"];
        if mix == "TQ1_0" {
            assert_eq!(found["tensors"], 0, "the only one of these types that uses no importance");
        } else {
            assert_eq!(found["unvisited_experts"]["blk.0.ffn_down_exps.weight"], 1, "{mix}");
            assert_eq!(found["inactive_columns"]["blk.0.ffn_down_exps.weight"], 32, "{mix}");
            assert!(err.contains("3 matrices were never used"), "{mix}: {err}");
        }
        assert_eq!(tensors(&Gguf::open(&out).unwrap()), want, "{mix}");
    }
}

#[test]
fn sums_of_several_files_are_those_of_llama_imatrix() {
    // `llama-imatrix --in-file A,B -c 128 -o OUT`, the beginning of the output's SHA-256.
    let cases: &[(&[&str], &str, &str)] = &[
        (&["prose-4m.gguf", "prose-4m.gguf"], "x.gguf", "06c2e51a21623d16"),
        (&["prose-4m.gguf", "prose-4m.dat"], "x.gguf", "06c2e51a21623d16"),
        (&["prose-4m.dat"], "x.gguf", "b125a6ddc33cf830"),
        (&["prose-4m.gguf", "prose-4m.gguf"], "x.dat", "eaafe466dfa6c1a6"),
    ];
    for (files, name, want) in cases {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join(name);
        let args = [&["imatrix"], *files, &["-o", arg(&out), "--chunk-size", "128", "-q"]].concat();
        let done = common::qconv(&args).current_dir(fixture("imatrix")).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let hash: String =
            Sha256::digest(std::fs::read(&out).unwrap()).iter().take(8).map(|b| format!("{b:02x}")).collect();
        assert_eq!(hash, *want, "{files:?}");
    }
}

#[test]
fn statistics_are_shown_for_either_form() {
    let (gguf, legacy) = (fixture("imatrix/prose-4m.gguf"), fixture("imatrix/prose-4m.dat"));
    let json = |path: &Path| serde_json::from_str::<Json>(&ok(&["imatrix", arg(path), "--json", "--strict"])).unwrap();
    let (a, b) = (json(&gguf), json(&legacy));
    assert_eq!((&a["chunk_count"], &a["chunk_size"], &b["chunk_size"]), (&32.into(), &128.into(), &Json::Null));
    let number = |v: &Json, key: &str| v[key].as_f64().unwrap();
    for (x, y) in a["tensors"].as_array().unwrap().iter().zip(b["tensors"].as_array().unwrap()) {
        assert_eq!(x["tensor"], y["tensor"]);
        for key in ["sum", "min", "max", "mean", "std", "active", "entropy", "entropy_share", "zd"] {
            assert!((number(x, key) - number(y, key)).abs() <= 1e-5 * number(x, key), "{key}");
        }
    }
    let table = ok(&["imatrix", arg(&gguf)]);
    assert!(table.contains("blk.3.ffn_down.weight") && table.contains("texts: prose.txt"), "{table}");
    // Matrices of different models.
    let other = fixture("imatrix/stories260k.gguf");
    fails(&["imatrix", arg(&gguf), arg(&other)], 2, &["stories260k.gguf", "different models"]);
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("x.gguf");
    fails(&["imatrix", arg(&legacy), "-o", arg(&out), "--strict"], 1, &["512 are assumed"]);
    assert!(!out.exists());
}

#[test]
fn a_file_is_proved_with_the_matrix_that_it_was_made_with() {
    let dir = tempfile::tempdir().unwrap();
    let model = experts(&dir.path().join("m"));
    model.write();
    let (matrix, out) = (saved(&experts_matrix(), dir.path()), dir.path().join("x.gguf"));
    ok(&["convert", arg(&model.folder), "-o", arg(&out), "-t", "q4_k_m", "--imatrix", arg(&matrix)]);
    let verify = |rest: &[&str]| -> Json {
        let args = [&["verify", arg(&out), "--against", arg(&model.folder), "--json"], rest].concat();
        serde_json::from_slice(&run(&args).stdout).unwrap()
    };
    let (with, without) = (verify(&["--imatrix", arg(&matrix)]), verify(&[]));
    assert_eq!(
        (with["ok"].as_bool(), with["plausible"].as_u64(), with["wrong"].as_u64()),
        (Some(true), Some(0), Some(0))
    );
    // A group of columns that never counted is no better than damage to who does not know why; so it is said.
    let note = |report: &Json| report["notes"].to_string().contains("made with importance, which is not known here");
    assert!(note(&without) && !note(&with), "{}", without["notes"]);
    assert_eq!(
        without["exact"].as_u64(),
        with["exact"].as_u64().map(|n| n - 7),
        "all with an entry are others without"
    );
    let part = verify(&["--imatrix", arg(&matrix), "--exclude-weights", "ffn_down"]);
    assert_eq!(part["exact"].as_u64(), with["exact"].as_u64().map(|n| n - 1));
    let other = fixture("imatrix/prose-4m.gguf");
    fails(&["verify", arg(&out), "--imatrix", arg(&other)], 2, &["--against"]);
    let mut foreign = Imatrix { chunk_size: 64, ..Imatrix::default() };
    foreign.entries.insert("blk.7.attn_q.weight".into(), Entry::new(vec![1.0; 64], vec![1]).unwrap());
    let foreign = saved(&foreign, dir.path());
    let args = ["verify", arg(&out), "--against", arg(&model.folder), "--imatrix", arg(&foreign)];
    fails(&args, 2, &["none of its 1 entries"]);
}
