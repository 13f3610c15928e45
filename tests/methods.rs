//! Methods that need a text, from the command line: better than rounding, repeatable, resumable, and loud.
#![allow(clippy::unwrap_used)] // tests may panic

mod common;

use common::{arg, experts_of, fails, fixture, listing, ok, qconv, run};
use qconv::method::{self, Work};
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// Part of one text calibrates, part of it measures.
fn texts(folder: &Path) -> (PathBuf, PathBuf) {
    let all = std::fs::read_to_string(fixture("texts/stories.txt")).unwrap();
    let (calibration, text) = (folder.join("calibration.txt"), folder.join("text.txt"));
    let at = all[..8_000].rfind(". ").unwrap();
    std::fs::write(&calibration, &all[..at]).unwrap();
    std::fs::write(&text, &all[at..at + 6_000]).unwrap();
    (calibration, text)
}

fn divergence(file: &Path, model: &Path, text: &Path) -> f64 {
    let out =
        ok(&["perplexity", arg(file), "--against", arg(model), "--file", arg(text), "-c", "128", "--json", "--exact"]);
    serde_json::from_str::<serde_json::Value>(&out).unwrap()["kl_divergence"].as_f64().unwrap()
}

/// The methods that see whole matrices.
fn second_order() -> impl Iterator<Item = &'static str> {
    method::ALL.iter().filter(|m| matches!(m.work, Work::Matrix(_))).map(|m| m.name)
}

#[test]
fn they_come_closer_to_the_original_than_rounding_and_give_the_same_file_again() {
    let dir = tempfile::tempdir().unwrap();
    let model = fixture("models/stories260k");
    let (calibration, text) = texts(dir.path());
    let convert = |name: &str, args: &[&str]| {
        let file = dir.path().join(name);
        let common = ["convert", arg(&model), "--calibration", arg(&calibration), "--calibration-ctx=128"];
        // Two layers show what the second makes of the first's errors; more only take time.
        let two = ["--tensor-type", r"blk\.[234]\.=f16", "-o", arg(&file)];
        ok(&[&common[..], &two, args].concat());
        file
    };
    let plain = divergence(&convert("plain.gguf", &["-t", "q4_0"]), &model, &text);
    for method in second_order() {
        let file = convert(&format!("{method}.gguf"), &["-t", "q4_0", "--method", method, "--threads", "1"]);
        let ours = divergence(&file, &model, &text);
        assert!(ours < 0.9 * plain, "{method}: {ours}, rounding {plain}");
        ok(&["verify", arg(&file)]);
        // Weights are moved on purpose, beyond what rounding to 8 bits would: no damage.
        let fine = convert("fine.gguf", &["-t", "q8_0", "--method", method, "-f"]);
        for file in [&file, &fine] {
            let said = ok(&["verify", arg(file), "--against", arg(&model)]);
            assert!(said.contains(&format!("{method} moves weights")), "{said}");
        }
        let again = dir.path().join("again.gguf");
        ok(&["convert", arg(&model), "--recipe-from", arg(&file), "--threads", "3", "-f", "-o", arg(&again)]);
        assert!(std::fs::read(&file).unwrap() == std::fs::read(&again).unwrap(), "{method}");
    }
}

#[test]
fn an_interrupted_run_goes_on_layer_by_layer() {
    let dir = tempfile::tempdir().unwrap();
    let model = fixture("models/stories260k");
    let (calibration, _) = texts(dir.path());
    let (whole, out) = (dir.path().join("whole.gguf"), dir.path().join("out.gguf"));
    let common = ["convert", arg(&model), "--calibration", arg(&calibration), "--calibration-ctx=128"];
    let args = [&common[..], &["-t", "q4_0", "--method", "gptq", "--resume", "--threads", "1", "-o"]].concat();
    ok(&[&args[..], &[arg(&whole)]].concat());
    let args = [&args[..], &[arg(&out)]].concat();
    let journal = dir.path().join(".out.gguf.part.journal");
    let mut child = qconv(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while std::fs::read_to_string(&journal).unwrap_or_default().lines().count() < 6 {
        assert!(child.try_wait().unwrap().is_none(), "the conversion is too fast to be stopped");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let summary: serde_json::Value = serde_json::from_str(&ok(&[&args[..], &["--json"]].concat())).unwrap();
    assert!(summary["resumed"].as_u64().unwrap() >= 5, "{summary}");
    assert!(std::fs::read(&whole).unwrap() == std::fs::read(&out).unwrap());
    assert_eq!(listing(dir.path()), ["calibration.txt", "out.gguf", "text.txt", "whole.gguf"]);
}

#[test]
fn what_cannot_be_done_is_said_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let model = fixture("models/stories260k");
    let (calibration, _) = texts(dir.path());
    let short = dir.path().join("short.txt");
    std::fs::write(&short, "Once upon a time.").unwrap();
    let out = dir.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let base = ["convert", arg(&model), "-o", arg(&out), "-t"];
    for method in second_order() {
        for (kind, args, words) in [
            ("q4_0", &[][..], &["--calibration", method][..]),
            ("q4_0", &["--calibration", arg(&short)][..], &["short.txt", "too few", "--calibration-ctx"]),
            ("q4_0", &["--calibration", arg(&calibration), "--prune-layers", "1"], &["--prune-layers", method]),
            ("q4_0", &["--imatrix", arg(&calibration)], &["--calibration", method]),
        ] {
            fails(&[&base[..], &[kind, "--method", method], args].concat(), 2, words);
            assert!(listing(&out).is_empty(), "{args:?}");
        }
    }
    // 30 inputs do not fill a Hessian of 64 columns.
    let few = ["q4_0", "--method", "gptq", "--calibration-ctx=30", "--calibration-chunks=1", "--calibration"];
    let said = run(&[&base[..], &few, &[arg(&calibration)]].concat());
    assert!(said.status.success() && String::from_utf8_lossy(&said.stderr).contains("fewer inputs than columns"));
    fails(&[&base[..], &["q4_0", "--method", "gptq+adaround"]].concat(), 2, &["both pick"]);
}

#[test]
fn codebook_formats_get_feedback_from_block_to_block() {
    let dir = tempfile::tempdir().unwrap();
    let model = fixture("models/prose-4m");
    let all = std::fs::read_to_string(fixture("texts/prose.txt")).unwrap();
    let (calibration, text) = (dir.path().join("calibration.txt"), dir.path().join("text.txt"));
    std::fs::write(&calibration, &all[..all.len() / 3]).unwrap();
    std::fs::write(&text, &all[all.len() * 4 / 5..]).unwrap();
    let convert = |method: &str| {
        let file = dir.path().join(format!("{method}.gguf"));
        let args = ["convert", arg(&model), "-t", "iq2_xs", "--method", method, "--calibration", arg(&calibration)];
        let one_layer = ["--tensor-type", r"blk\.[123]\.=f16", "--token-embedding-type", "f16"];
        let rest = ["--calibration-ctx=128", "--calibration-from=quantized", "-o", arg(&file)];
        ok(&[&args[..], &one_layer, &rest].concat());
        divergence(&file, &model, &text)
    };
    let (plain, ours) = (convert("rtn"), convert("gptq"));
    assert!(ours < 0.95 * plain, "{ours}, rounding {plain}");
    // AdaRound has nothing to choose between there, and says so.
    let args = ["convert", arg(&model), "-t", "iq2_xs", "--method", "adaround", "--calibration", arg(&calibration)];
    fails(&[&args[..], &["-o", arg(&dir.path().join("x.gguf"))]].concat(), 2, &["adaround", "codebook"]);
}

/// Experts see the tokens that are sent to them; those that see none are rounded, named and counted.
#[test]
fn experts_have_inputs_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let model = experts_of(&dir.path().join("m"), 64);
    model.write();
    let text = fixture("texts/stories.txt");
    let (_, short) = texts(dir.path());
    let convert = |name: &str, rest: &[&str]| {
        let file = dir.path().join(name);
        let args = ["convert", arg(&model.folder), "--calibration", arg(&text), "-t", "q4_0", "-o", arg(&file), "-f"];
        let out = run(&[&args[..], rest].concat());
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{said}");
        (file, said)
    };
    let much = ["--calibration-ctx=64", "--calibration-chunks=24"];
    let (plain, _) = convert("plain.gguf", &much);
    let plain = divergence(&plain, &model.folder, &short);
    for method in second_order() {
        let (file, said) = convert(&format!("{method}.gguf"), &[&much[..], &["--method", method]].concat());
        assert!(!said.contains("never used"), "{said}");
        let ours = divergence(&file, &model.folder, &short);
        assert!(ours < 0.9 * plain, "{method}: {ours}, rounding {plain}");
    }
    // Transforms in front of all experts: the file is whole, and no worse than by much.
    for method in ["awq", "smoothquant", "quarot+gptq"] {
        let (file, _) = convert("transformed.gguf", &[&much[..], &["--method", method]].concat());
        let ours = divergence(&file, &model.folder, &short);
        assert!(ours < 1.3 * plain, "{method}: {ours}, rounding {plain}");
    }
    // One token goes to two experts of four.
    let little = ["--calibration-ctx=1", "--calibration-chunks=1", "--method", "gptq"];
    let (_, said) = convert("little.gguf", &little);
    for name in ["blk.0.ffn_gate_exps.weight 2", "blk.0.ffn_down_exps.weight 2"] {
        assert!(said.contains("6 matrices were never used") && said.contains(name), "{said}");
    }
    let out = dir.path().join("strict.gguf");
    let args = ["convert", arg(&model.folder), "--calibration", arg(&text), "-t", "q4_0", "-o", arg(&out), "--strict"];
    // Rows of 64 do not take the embeddings' usual type, which would be another warning.
    fails(&[&args[..], &little, &["--token-embedding-type", "q8_0"]].concat(), 1, &["never used"]);
    assert!(!out.exists());
}

/// A norm of zeros: nothing ever reaches the matrices behind it. They are rounded, named and counted, by every method alike.
#[test]
fn matrices_whose_inputs_are_all_zero_are_rounded_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("m");
    common::copy_folder(&fixture("models/stories260k"), &model);
    let path = model.join("model.safetensors");
    let mut file = std::fs::read(&path).unwrap();
    let (header, metadata) = SafeTensors::read_metadata(&file).unwrap();
    let (first, last) = metadata.info("model.layers.1.input_layernorm.weight").unwrap().data_offsets;
    file[8 + header + first..8 + header + last].fill(0);
    std::fs::write(&path, file).unwrap();
    let (calibration, _) = texts(dir.path());
    let out = dir.path().join("x.gguf");
    // Rows of 64 and 172 do not take the usual types, which would be other warnings.
    let usual = ["--token-embedding-type", "q8_0", "--tensor-type", "ffn_down=f16"];
    let args = [&["convert", arg(&model), "-t", "q4_0", "-o", arg(&out), "-f"], &usual[..]].concat();
    let args = [&args[..], &["--calibration", arg(&calibration), "--calibration-ctx=64", "--method"]].concat();
    let known = [("rtn", "never active"), ("hqq", "never active"), ("awq", "never active")];
    for (method, words) in known.into_iter().chain(second_order().map(|m| (m, "4 matrices had nothing but zeros"))) {
        let done = run(&[&args[..], &[method]].concat());
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(
            done.status.success() && said.contains(words) && said.contains("blk.1.attn_q.weight"),
            "{method}: {said}"
        );
        ok(&["verify", arg(&out)]);
        std::fs::remove_file(&out).unwrap();
        fails(&[&args[..], &[method, "--strict"]].concat(), 1, &[words]);
        assert!(!out.exists(), "{method}");
    }
}

/// What quantizes rows is repeated: every byte is proved, of simulations of other libraries too, which round far more than their
/// format has to; with importance too, which Q8_0 is not given.
#[test]
fn what_row_methods_made_is_proved() {
    let (dir, model) = (tempfile::tempdir().unwrap(), fixture("models/stories260k"));
    let (text, matrix) = (fixture("texts/stories.txt"), dir.path().join("imatrix.gguf"));
    let seen = ["--file", arg(&text), "--ctx", "64", "--chunks", "4", "-o", arg(&matrix)];
    ok(&[&["calibrate", arg(&model)], &seen[..]].concat());
    let with = ["--imatrix", arg(&matrix)];
    for method in method::ALL.iter().filter(|m| matches!(m.work, Work::Rows(_))) {
        for (kind, rest, weighed) in [
            ("f16", &[][..], &[][..]),
            ("q4_0", &["--pure"], &[]),
            ("iq4_nl", &["--pure"], &[]),
            ("iq4_nl", &["--pure"], &with),
            ("q8_0", &["--pure"], &with),
        ] {
            let file = dir.path().join(format!("{}-{kind}.gguf", method.name));
            let args = ["convert", arg(&model), "-t", kind, "--method", method.name, "-o", arg(&file), "-f"];
            let done = run(&[&args[..], rest, weighed].concat());
            if !done.status.success() {
                assert!(String::from_utf8_lossy(&done.stderr).contains("does not go with"), "{args:?}");
                continue;
            }
            let said = ok(&[&["verify", arg(&file), "--against", arg(&model), "--json"], weighed].concat());
            let report: serde_json::Value = serde_json::from_str(&said).unwrap();
            let tensors = report["tensors"].as_array().unwrap();
            assert!(
                tensors.len() > 10 && tensors.iter().all(|t| t["verdict"] == "exact"),
                "{} {kind}: {said}",
                method.name
            );
        }
    }
}
