//! The options of `qconv convert` that decide what the new file is: rules, layers, keys.

mod common;

use common::{arg, fails, fixture, listing, ok, run};
use qconv_formats::gguf::{Gguf, Value};
use serde_json::Value as Json;
use std::path::Path;

fn converted(source: &str, out: &Path, rest: &[&str]) -> Gguf {
    let source = fixture(source);
    let mut args = vec!["convert", arg(&source), "-o", arg(out), "-q", "--force"];
    args.extend(rest);
    ok(&args);
    Gguf::open(out).expect("what was written can be read")
}

#[test]
fn options_do_what_those_of_llama_quantize_do() {
    use sha2::{Digest, Sha256};
    let golden: Vec<Json> = serde_json::from_slice(&std::fs::read(fixture("quantized/options.json")).unwrap()).unwrap();
    assert!(golden.len() > 8);
    let dir = tempfile::tempdir().unwrap();
    for case in &golden {
        let options: Vec<&str> = case["options"].as_array().unwrap().iter().map(|o| o.as_str().unwrap()).collect();
        // One case makes the keys contradict the tensors.
        let args = [&["--no-verify", "-t", case["type"].as_str().unwrap()], &options[..]].concat();
        let file = converted(case["model"].as_str().unwrap(), &dir.path().join("x.gguf"), &args);
        let ours: Vec<Json> = file
            .tensors()
            .iter()
            .map(|t| {
                let hash: String = Sha256::digest(file.bytes(t)).iter().take(8).map(|b| format!("{b:02x}")).collect();
                serde_json::json!([t.name, t.format.name, hash])
            })
            .collect();
        assert_eq!(Json::from(ours), case["tensors"], "{args:?}");
        for (key, value) in case["keys"].as_object().unwrap() {
            let ours = match file.metadata().get(key).unwrap() {
                Value::U32(n) => Json::from(*n),
                Value::F32(x) => Json::from(f64::from(*x)),
                Value::Bool(b) => Json::from(*b),
                Value::String(s) => Json::from(s.as_str()),
                other => panic!("{key}: {other:?}"),
            };
            assert_eq!(&ours, value, "{args:?} {key}");
        }
    }
}

#[test]
fn rules_come_from_a_file_too() {
    let dir = tempfile::tempdir().unwrap();
    let rules = dir.path().join("rules.txt");
    std::fs::write(&rules, "# values first\nattn_v=q8_0 attn_k=q5_k # two\n\nffn_down=F16\n").unwrap();
    let (a, b) = (dir.path().join("a.gguf"), dir.path().join("b.gguf"));
    converted("models/prose-4m", &a, &["-t", "q4_k_m", "--tensor-type-file", arg(&rules)]);
    let list = ["--tensor-type", "attn_v=q8_0", "--tensor-type", "attn_k=q5_k", "--tensor-type", "ffn_down=F16"];
    converted("models/prose-4m", &b, &[&["-t", "q4_k_m"], &list[..]].concat());
    let (a, b) = (Gguf::open(a).unwrap(), Gguf::open(b).unwrap());
    for (x, y) in a.tensors().iter().zip(b.tensors()) {
        assert!(x.format == y.format && a.bytes(x) == b.bytes(y), "{}", x.name);
    }
    std::fs::write(&rules, "attn_v=q8_0\nattn_k=q5_9\n").unwrap();
    let source = fixture("models/prose-4m");
    let args = ["convert", arg(&source), "-t", "q4_k_m", "--dry-run", "--tensor-type-file", arg(&rules)];
    fails(&args, 2, &["rules.txt", "line 2", "q5_9"]);
}

#[test]
fn metadata_is_the_callers_to_say() {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("meta.json");
    std::fs::write(&json, r#"{"general.author": "A", "general.license": "mit", "general.tags": ["x", "y"]}"#).unwrap();
    let args =
        ["-t", "q8_0", "--metadata", arg(&json), "--author", "B", "--model-name", "My model", "--model-version", "v2"];
    let more = ["--override-kv", "general.description=str:a=b:c", "--override-kv", "x.y=i64:-3"];
    let file = converted("models/prose-4m", &dir.path().join("x.gguf"), &[&args[..], &more[..]].concat());
    let m = file.metadata();
    let text = |key: &str| m.str(key).unwrap_or_default().to_owned();
    let texts = ["name", "author", "version", "license", "description"].map(|key| text(&format!("general.{key}")));
    assert_eq!(texts, ["My model", "B", "v2", "mit", "a=b:c"]);
    assert_eq!(m.get("general.tags").unwrap().as_strings().unwrap(), ["x", "y"]);
    assert_eq!(m.get("x.y"), Some(&Value::I64(-3)));
}

#[test]
fn what_finds_nothing_is_the_callers_fault() {
    let source = fixture("models/prose-4m");
    let cases: &[(&[&str], &[&str])] = &[
        (&["--tensor-type", "no_such=q8_0"], &["--tensor-type", "no_such"]),
        (&["--tensor-type", "(=q8_0"], &["--tensor-type", "("]),
        (&["--tensor-type", "attn_v=q8_9"], &["--tensor-type", "q8_9"]),
        (&["--tensor-type", "attn_v"], &["--tensor-type", "attn_v"]),
        (&["--tensor-type-file", "no/such.txt"], &["no/such.txt"]),
        (&["--leave-output-tensor"], &["--leave-output-tensor", "output.weight"]),
        (&["--output-tensor-type", "q9"], &["--output-tensor-type", "q9"]),
        (&["--prune-layers", "4"], &["--prune-layers", "4", "4 layers"]),
        (&["--prune-layers", "0-3"], &["--prune-layers", "no layer"]),
        (&["--prune-layers", "x"], &["--prune-layers", "x"]),
        (&["--override-kv", "a=b"], &["--override-kv", "KEY=TYPE:VALUE"]),
        (&["--override-kv", "a=int:-1"], &["--override-kv", "i32"]),
        (&["--override-kv", "split.no=int:1"], &["--override-kv", "split."]),
        (&["--metadata", "no/such.json"], &["--metadata", "no/such.json"]),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (args, words) in cases {
        let out = dir.path().join("x.gguf");
        fails(&[&["convert", arg(&source), "-o", arg(&out), "-t", "q4_k_m"], *args].concat(), 2, words);
        assert!(listing(dir.path()).is_empty());
    }
}

#[test]
fn a_rule_without_effect_is_told() {
    let source = fixture("models/prose-4m");
    for rule in
        [&["--tensor-type", "attn_norm=q8_0"][..], &["--tensor-type", "attn_v=q8_0", "--tensor-type", "attn_v=q6_k"]]
    {
        let args = [&["convert", arg(&source), "-t", "q4_k_m", "--dry-run"], rule].concat();
        let done = run(&args);
        assert!(done.status.success());
        assert!(String::from_utf8_lossy(&done.stderr).contains("no effect"), "{rule:?}");
        fails(&[&args[..], &["--strict"]].concat(), 1, &["no effect"]);
    }
}

#[test]
fn an_override_of_another_type_is_told() {
    let source = fixture("models/prose-4m");
    let args = [
        "convert",
        arg(&source),
        "-t",
        "q4_k_m",
        "--dry-run",
        "--strict",
        "--override-kv",
        "llama.rope.freq_base=int:1",
    ];
    fails(&args, 1, &["llama.rope.freq_base", "F32", "U32"]);
}

#[test]
fn a_closed_pipe_is_no_error() {
    use std::process::Stdio;
    let source = fixture("models/prose-4m");
    let plan = ["convert", arg(&source), "-t", "q4_k_m", "--dry-run", "--tensors"];
    for args in [&["types"][..], &["types", "--json"], &plan] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let done = common::qconv(args).stdout(Stdio::from(writer)).stderr(Stdio::piped()).output().unwrap();
        let err = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() && !err.contains("panicked"), "{args:?}: {err}");
    }
}
