//! The examples for make and Slurm, run by the real programs where they are there.

#![allow(clippy::unwrap_used)] // tests may panic

mod common;

use common::{TestCheckpoint, arg, copy_folder, fixture, listing, ok};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::SystemTime;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

/// Whether a program is there; if not, a line says so past the test harness.
fn there(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success());
    if !there {
        let _ = writeln!(std::io::stderr(), "skipped: there is no {program} here");
    }
    there
}

fn make(folder: &Path, file: &str, variables: &[&str]) -> Output {
    let mut command = Command::new("make");
    command.args(["-s", "-j2", "-f", arg(&example(file))]).args(variables).current_dir(folder);
    command.arg(format!("QCONV={}", env!("CARGO_BIN_EXE_qconv"))).env_remove("MAKEFLAGS").env_remove("MAKELEVEL");
    command.output().expect("make starts")
}

/// What it says on standard output, line by line; it must succeed.
fn said(out: &Output) -> Vec<String> {
    let err = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{err}");
    let mut lines: Vec<String> = String::from_utf8_lossy(&out.stdout).lines().map(str::to_owned).collect();
    lines.retain(|l| !l.starts_with("make"));
    lines.sort();
    lines
}

/// Makes a file newer than everything written so far.
fn touch(path: &Path) {
    let file = std::fs::File::options().append(true).open(path).unwrap();
    file.set_modified(SystemTime::now()).unwrap();
}

#[test]
fn make_converts_what_has_changed_and_nothing_else() {
    if !there("make") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let models = dir.path().join("models");
    copy_folder(&fixture("models/stories260k"), &models.join("a"));
    let mut b = TestCheckpoint::llama(&models.join("b"));
    b.write();
    let run = |types: &str| make(dir.path(), "Makefile", &["MODELS=models/a models/b", types]);
    let types = "TYPES=q8_0 q4_0";

    let lines = said(&run(types));
    let names = ["a-q4_0", "a-q8_0", "b-q4_0", "b-q8_0"];
    assert_eq!(lines.len(), 4, "{lines:?}");
    for (line, name) in lines.iter().zip(names) {
        assert!(line.starts_with(&format!("gguf/{name}.gguf: ")), "{line}");
    }
    let gguf = dir.path().join("gguf");
    let before: Vec<_> = names.map(|n| gguf.join(format!("{n}.gguf")).metadata().unwrap().modified().unwrap()).into();
    assert_eq!(said(&run(types)), [""; 0], "nothing is done twice");
    let after: Vec<_> = names.map(|n| gguf.join(format!("{n}.gguf")).metadata().unwrap().modified().unwrap()).into();
    assert_eq!(before, after);

    // A file that is only newer: its model is looked at, and nothing is converted.
    let bytes = std::fs::read(gguf.join("a-q8_0.gguf")).unwrap();
    touch(&models.join("a/config.json"));
    assert_eq!(said(&run(types)), ["gguf/a-q4_0.gguf: unchanged", "gguf/a-q8_0.gguf: unchanged"]);
    assert!(std::fs::read(gguf.join("a-q8_0.gguf")).unwrap() == bytes);
    assert_eq!(said(&run(types)), [""; 0]);

    // Another content: only its own files are converted.
    b.tensors.get_mut("model.norm.weight").unwrap().1[0] = 3.0;
    b.write();
    let lines = said(&run(types));
    assert!(
        lines.len() == 2 && lines.iter().all(|l| l.starts_with("gguf/b-") && l.contains("bits per weight")),
        "{lines:?}"
    );

    // A failure leaves no target, and its lines say which it was.
    b.tensors.get_mut("model.norm.weight").unwrap().1[0] = f32::NAN;
    b.write();
    let out = run("TYPES=q5_0");
    let err = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && err.contains("b-q5_0.gguf: error: "), "{err}");
    assert!(!gguf.join("b-q5_0.gguf").exists());
}

#[test]
fn make_converts_parts_side_by_side() {
    if !there("make") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("m");
    copy_folder(&fixture("models/prose-4m"), &model);
    let variables = ["MODEL=m", "TYPE=q4_0", "PARTS=3", "OUT=x"];
    said(&make(dir.path(), "parts.mk", &[&variables[..], &["verify"]].concat()));
    assert_eq!(said(&make(dir.path(), "parts.mk", &variables)), [""; 0]);
    let together = dir.path().join("together");
    std::fs::create_dir(&together).unwrap();
    let out = together.join("x.gguf");
    ok(&["convert", arg(&model), "-t", "q4_0", "-o", arg(&out), "--split-parts", "3"]);
    for name in listing(&together) {
        assert!(
            std::fs::read(together.join(&name)).unwrap() == std::fs::read(dir.path().join(&name)).unwrap(),
            "{name}"
        );
    }
}

#[test]
fn the_slurm_script_makes_the_parts_of_its_tasks() {
    if !there("bash") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let model = fixture("models/stories260k");
    for task in ["2", "1", "2"] {
        let mut command = Command::new("bash");
        command.args([arg(&example("slurm-array.sh")), arg(&model), "q4_0", "x.gguf"]).current_dir(dir.path());
        command.env("QCONV", env!("CARGO_BIN_EXE_qconv"));
        command.env("SLURM_ARRAY_TASK_ID", task).env("SLURM_ARRAY_TASK_COUNT", "2").env("SLURM_CPUS_PER_TASK", "1");
        let out = command.output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
    let first = dir.path().join("x-00001-of-00002.gguf");
    assert!(ok(&["verify", arg(&first)]).contains("every tensor has the SHA-256"));
}

#[test]
fn what_is_there_is_only_kept_if_it_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (fixture("models/stories260k"), dir.path().join("x.gguf"));
    let run = |options: &[&str]| ok(&[&["convert", arg(&source), "-o", arg(&out), "--if-changed"], options].concat());
    assert!(!run(&["-t", "q8_0"]).contains("unchanged"));
    assert!(run(&["-t", "q8_0"]).contains("unchanged"));
    assert!(!run(&["-t", "q8_0", "--author", "x"]).contains("unchanged"));
    assert!(!run(&["-t", "q4_0"]).contains("unchanged"));
    // What is not as it was written is written again: a byte of its head, and of its length.
    let whole = std::fs::read(&out).unwrap();
    let at = whole.windows(7).position(|w| w == b"general").unwrap();
    let flipped = [&whole[..at], b"G", &whole[at + 1..]].concat();
    let longer = [&whole[..], b"x"].concat();
    for damaged in [flipped, longer] {
        std::fs::write(&out, damaged).unwrap();
        assert!(!run(&["-t", "q4_0"]).contains("unchanged"));
        assert!(std::fs::read(&out).unwrap() == whole);
    }
    // What qconv did not write is no output to be replaced.
    std::fs::write(&out, "precious").unwrap();
    common::fails(&["convert", arg(&source), "-t", "q8_0", "-o", arg(&out), "--if-changed"], 2, &["x.gguf", "--force"]);
    assert_eq!(std::fs::read(&out).unwrap(), b"precious");
}
