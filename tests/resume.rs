//! Conversions that are killed, and go on.
#![cfg(unix)]
#![allow(clippy::unwrap_used)] // tests may panic

mod common;

use common::{TestCheckpoint, arg, fails, listing, ok, qconv};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

/// A checkpoint that takes a while: 56 tensors, 14 million weights.
fn large(folder: &Path) -> TestCheckpoint {
    let mut c = TestCheckpoint::llama(folder);
    c.tensors.clear();
    for (key, value) in [
        ("hidden_size", 512),
        ("intermediate_size", 1024),
        ("num_hidden_layers", 6),
        ("num_attention_heads", 8),
        ("num_key_value_heads", 4),
    ] {
        c.config[key] = value.into();
    }
    c.add("model.embed_tokens.weight", &[512, 512]);
    c.add("model.norm.weight", &[512]);
    for layer in 0..6 {
        for (name, shape) in [
            ("input_layernorm", &[512][..]),
            ("self_attn.q_proj", &[512, 512]),
            ("self_attn.k_proj", &[256, 512]),
            ("self_attn.v_proj", &[256, 512]),
            ("self_attn.o_proj", &[512, 512]),
            ("post_attention_layernorm", &[512]),
            ("mlp.gate_proj", &[1024, 512]),
            ("mlp.up_proj", &[1024, 512]),
            ("mlp.down_proj", &[512, 1024]),
        ] {
            c.add(&format!("model.layers.{layer}.{name}.weight"), shape);
        }
    }
    c.write();
    c
}

/// Starts a conversion and ends it by `kill` when its journal has some lines; returns how many.
fn stop(args: &[&str], journal: &Path, kill: fn(&mut Child)) -> usize {
    for _ in 0..5 {
        let mut child = qconv(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        loop {
            let lines = std::fs::read_to_string(journal).unwrap_or_default().lines().count();
            if lines > 8 {
                kill(&mut child);
                child.wait().unwrap();
                break;
            }
            if child.try_wait().unwrap().is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        if let Ok(text) = std::fs::read_to_string(journal) {
            return text.lines().count() - 1;
        }
    }
    panic!("the conversion is too fast to be stopped");
}

fn sigkill(child: &mut Child) {
    child.kill().unwrap();
}

fn sigterm(child: &mut Child) {
    std::process::Command::new("kill").arg(child.id().to_string()).status().unwrap();
}

struct Case {
    dir: tempfile::TempDir,
    model: PathBuf,
    out: PathBuf,
    journal: PathBuf,
    whole: Vec<u8>,
}

impl Case {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let model = large(&dir.path().join("m")).folder;
        let reference = dir.path().join("reference.gguf");
        ok(&["convert", arg(&model), "-t", "iq4_xs", "-o", arg(&reference), "-q"]);
        let whole = std::fs::read(&reference).unwrap();
        std::fs::remove_file(reference).unwrap();
        let (out, journal) = (dir.path().join("x.gguf"), dir.path().join(".x.gguf.part.journal"));
        Case { model, out, journal, whole, dir }
    }

    fn args(&self) -> Vec<&str> {
        vec!["convert", arg(&self.model), "-t", "iq4_xs", "-o", arg(&self.out), "--threads", "1", "--json"]
    }

    /// Goes on; the bytes have to be right. Returns how many tensors were there already.
    fn resume(&self) -> usize {
        let json: serde_json::Value = serde_json::from_str(&ok(&[&self.args()[..], &["--resume"]].concat())).unwrap();
        assert!(std::fs::read(&self.out).unwrap() == self.whole);
        assert_eq!(listing(self.dir.path()), ["m", "x.gguf"]);
        std::fs::remove_file(&self.out).unwrap();
        json["resumed"].as_u64().unwrap() as usize
    }
}

#[test]
fn a_killed_conversion_goes_on_to_the_same_bytes() {
    let case = Case::new();
    let done = stop(&case.args(), &case.journal, sigkill);
    assert_eq!(listing(case.dir.path()), [".x.gguf.part", ".x.gguf.part.journal", "m"]);
    let resumed = case.resume();
    assert!(done >= 8 && resumed == done, "{resumed} of {done}");

    // Without --resume it begins again.
    stop(&case.args(), &case.journal, sigkill);
    ok(&case.args());
    assert!(std::fs::read(&case.out).unwrap() == case.whole);
    std::fs::remove_file(&case.out).unwrap();

    // What did not reach the disk is made again, whatever the journal says; so is a line that was not written to its end.
    let done = stop(&case.args(), &case.journal, sigkill);
    let part = case.dir.path().join(".x.gguf.part");
    let mut bytes = std::fs::read(&part).unwrap();
    let tensors = qconv_formats::gguf::Gguf::open_alone(&part).unwrap().tensors().to_vec();
    bytes[tensors[1].range.start + 100] ^= 1;
    std::fs::write(&part, bytes).unwrap();
    let journal = std::fs::read_to_string(&case.journal).unwrap();
    std::fs::write(&case.journal, &journal[..journal.len() - 1]).unwrap();
    assert_eq!(case.resume(), done - 2);

    // SIGTERM removes what is unfinished, unless it is to be gone on with.
    let resumable = [&case.args()[..], &["--resume"]].concat();
    let done = stop(&resumable, &case.journal, sigterm);
    assert_eq!(case.resume(), done);
}

#[test]
fn other_work_is_not_gone_on_with() {
    let case = Case::new();
    stop(&case.args(), &case.journal, sigkill);
    let other = [&case.args()[..], &["--author", "somebody", "--resume"]].concat();
    fails(&[&other[..], &["--strict"]].concat(), 1, &["--resume", "another source, recipe"]);
    ok(&other);
    std::fs::remove_file(&case.out).unwrap();

    stop(&case.args(), &case.journal, sigkill);
    let config = case.model.join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{text} ")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&ok(&[&case.args()[..], &["--resume"]].concat())).unwrap();
    assert_eq!(json["resumed"], 0);
}

#[test]
fn a_killed_split_conversion_goes_on_too() {
    let case = Case::new();
    let parts = [&case.args()[..], &["--split-parts", "3"]].concat();
    ok(&parts);
    let names = [1, 2, 3].map(|k| format!("x-0000{k}-of-00003.gguf"));
    let whole = names.clone().map(|n| std::fs::read(case.dir.path().join(n)).unwrap());
    names.iter().for_each(|n| std::fs::remove_file(case.dir.path().join(n)).unwrap());
    let journal = case.dir.path().join(".x-00001-of-00003.gguf.part.journal");
    let done = stop(&parts, &journal, sigkill);
    assert!(names.iter().all(|n| !case.dir.path().join(n).exists()));
    let json: serde_json::Value = serde_json::from_str(&ok(&[&parts[..], &["--resume"]].concat())).unwrap();
    assert_eq!(json["resumed"], done);
    for (name, bytes) in names.iter().zip(&whole) {
        assert!(std::fs::read(case.dir.path().join(name)).unwrap() == *bytes, "{name}");
    }
    assert_eq!(listing(case.dir.path()), [&["m".to_owned()][..], &names].concat());
}

#[test]
fn a_set_that_was_killed_between_two_renames_is_finished() {
    let case = Case::new();
    let parts = [&case.args()[..], &["--split-parts", "3"]].concat();
    let resumable = [&parts[..], &["--resume"]].concat();
    let folder = case.dir.path();
    let name = |k: usize| folder.join(format!("x-0000{k}-of-00003.gguf"));
    let part = |k: usize| folder.join(format!(".x-0000{k}-of-00003.gguf.part"));
    let journal = folder.join(".x-00001-of-00003.gguf.part.journal");
    let done = stop(&parts, &journal, sigkill);
    let noted = std::fs::read(&journal).unwrap();
    ok(&resumable);
    let whole = [1, 2, 3].map(|k| std::fs::read(name(k)).unwrap());

    // The last file is in its place, and the others are not: the order in which they are moved.
    for moved in [1, 2, 3] {
        (1..moved).for_each(|k| std::fs::rename(name(k), part(k)).unwrap());
        std::fs::write(&journal, &noted).unwrap();
        fails(&parts, 2, &["exists already"]);
        std::fs::write(&journal, &noted).unwrap();
        (1..moved).filter(|k| !part(*k).exists()).for_each(|k| std::fs::write(part(k), &whole[k - 1]).unwrap());
        let json: serde_json::Value = serde_json::from_str(&ok(&resumable)).unwrap();
        assert_eq!(json["resumed"], done, "{moved}");
        assert!([1, 2, 3].iter().all(|k| std::fs::read(name(*k)).unwrap() == whole[k - 1]), "{moved}");
        assert_eq!(listing(folder).len(), 4, "{:?}", listing(folder));
    }

    // What another put there is not ours to move, were it as long.
    (1..3).for_each(|k| std::fs::rename(name(k), part(k)).unwrap());
    std::fs::write(&journal, &noted).unwrap();
    let foreign = vec![b'x'; whole[2].len()];
    std::fs::write(name(3), &foreign).unwrap();
    fails(&resumable, 2, &["x-00003-of-00003.gguf", "exists already"]);
    assert!(std::fs::read(name(3)).unwrap() == foreign);
}
