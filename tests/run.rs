//! `qconv run` as people call it.

#![allow(clippy::unwrap_used)] // a test

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn fixture(what: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(what).display().to_string()
}

fn run(args: &[&str]) -> Output {
    run_with(args, "")
}

fn run_with(args: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_qconv"))
        .arg("run")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A run that needs no input may be gone already.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

fn text(out: &Output) -> String {
    assert!(out.status.success(), "{}", stderr(out));
    String::from_utf8(out.stdout.clone()).unwrap()
}

fn fails(args: &[&str], code: i32, because: &str) {
    let out = run(args);
    assert_eq!(out.status.code(), Some(code), "{args:?}: {}", stderr(&out));
    assert!(stderr(&out).contains(because), "{args:?}: {}", stderr(&out));
}

#[test]
fn a_story_goes_on_and_the_figures_follow() {
    let model = fixture("models/stories260k");
    let out = run(&[&model, "-p", "Once upon a time", "-n", "24", "--temp", "0"]);
    assert_eq!(text(&out).trim_end(), ", there was a little girl named Lily. She loved to play outside in the p");
    for figure in ["memory:", "first token", "prompt      ", "generation  24 tokens", "peak memory", "backend     cpu"]
    {
        assert!(stderr(&out).contains(figure), "{figure}: {}", stderr(&out));
    }
    assert!(run(&[&model, "-p", "Once", "-n", "4", "--quiet"]).stderr.is_empty());
}

/// Nobody reads what goes to standard error (`2>&1 | head`), or standard output: no panic, and no exit code that looks like one.
#[test]
fn readers_may_go_away() {
    let run = |errors: bool| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_qconv"));
        command.args(["run", &fixture("models/stories260k"), "-p", "Once", "-n", "4"]);
        if errors {
            command.stderr(writer)
        } else {
            command.stdout(writer)
        };
        command.output().unwrap()
    };
    assert_eq!(run(true).status.code(), Some(0));
    let out = run(false);
    assert!(matches!(out.status.code(), Some(0 | 1)) && !stderr(&out).contains("panicked"), "{}", stderr(&out));
}

#[test]
fn the_seed_decides_whatever_the_threads() {
    let model = fixture("models/stories260k");
    let story = |seed: &str, threads: &str| {
        text(&run(&[&model, "-p", "One day", "-n", "40", "--temp", "1", "--seed", seed, "--threads", threads]))
    };
    let first = story("7", "1");
    assert_eq!(first, story("7", "3"));
    assert_ne!(first, story("8", "1"));
}

#[test]
fn a_seed_that_nobody_chose_is_told_and_works_again() {
    let model = fixture("models/stories260k");
    let json = |more: &[&str]| -> serde_json::Value {
        let mut args = vec![model.as_str(), "-p", "One day", "-n", "30", "--temp", "1", "--json"];
        args.extend(more);
        serde_json::from_str(&text(&run(&args))).unwrap()
    };
    let first = json(&[]);
    let again = json(&["--seed", &first["seed"].to_string()]);
    assert_eq!(first["tokens"], again["tokens"]);
    assert_eq!(first["text"], again["text"]);
    assert_eq!(first["stopped"], "length");
    for key in ["model_bytes", "load_seconds", "time_to_first_token_seconds", "prompt_tokens_per_second"] {
        assert!(first[key].is_number(), "{key}");
    }
    assert_eq!(first["generated_tokens"], 30);
}

#[test]
fn prompts_come_from_files_and_pipes_too() {
    let model = fixture("models/stories260k");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompt.txt");
    std::fs::write(&file, "Tom and his cat\n").unwrap();
    let options = ["-n", "16", "--temp", "0"];
    let with = |source: [&str; 2], stdin: &str| {
        text(&run_with(&[&[model.as_str()], &source[..], &options[..]].concat(), stdin))
    };
    let want = with(["-p", "Tom and his cat"], "");
    assert_eq!(want, with(["-f", file.to_str().unwrap()], ""));
    assert_eq!(want, with(["-f", "-"], "Tom and his cat\n"));
}

#[test]
fn a_full_context_ends_the_text() {
    let model = fixture("models/stories260k");
    let args = [model.as_str(), "-p", "Once upon a time", "-n", "500", "--ctx", "12", "--json", "--temp", "0"];
    let json: serde_json::Value = serde_json::from_str(&text(&run(&args))).unwrap();
    assert_eq!(json["stopped"], "context");
    let (prompt, generated) = (json["prompt_tokens"].as_u64().unwrap(), json["generated_tokens"].as_u64().unwrap());
    assert_eq!(prompt + generated, 12 + 1, "the last token needs no position");
    fails(&[&model, "-p", "Once upon a time there was", "--ctx", "3"], 2, "do not fit");
}

#[test]
fn logits_are_written_as_transformers_gives_them() {
    let folder = fixture("architectures/llama");
    let expected: serde_json::Value =
        serde_json::from_slice(&std::fs::read(Path::new(&folder).join("expected.json")).unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let ids = dir.path().join("ids.json");
    let out = dir.path().join("out.f32");
    std::fs::write(&ids, expected["tokens"].to_string()).unwrap();
    let args = [folder.as_str(), "--tokens", ids.to_str().unwrap(), "--logits", out.to_str().unwrap()];
    text(&run(&args));
    let floats = |path: &Path| -> Vec<f32> {
        let bytes = std::fs::read(path).unwrap();
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let (got, want) = (floats(&out), floats(&Path::new(&folder).join("expected_logits.f32")));
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 2e-5 * largest));
    std::fs::write(&out, "something older").unwrap();
    text(&run(&args));
    assert_eq!(floats(&out), got, "an older file is replaced");
}

#[test]
fn token_files_that_are_none_are_refused() {
    let folder = fixture("architectures/llama");
    let dir = tempfile::tempdir().unwrap();
    let ids = dir.path().join("ids.json");
    let out = dir.path().join("out.f32");
    for (content, code, because) in [
        ("[1, 2, 320]", 2, "320 is not in the model's vocabulary of 320 tokens"),
        ("[1, -2]", 1, "a JSON array of ids is needed"),
        ("[1, 2", 1, "a JSON array of ids is needed"),
        ("{}", 1, "a JSON array of ids is needed"),
        ("[]", 1, "the array is empty"),
    ] {
        std::fs::write(&ids, content).unwrap();
        fails(&[&folder, "--tokens", ids.to_str().unwrap(), "--logits", out.to_str().unwrap()], code, because);
    }
    assert!(!out.exists());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left behind");
}

#[test]
fn what_cannot_be_done_says_what_can() {
    let model = fixture("models/stories260k");
    fails(&[&model, "-p", "x", "--temp", "-1"], 2, "--temp");
    fails(&[&model, "-p", "x", "--top-p", "1.5"], 2, "--top-p");
    fails(&[&model], 2, "-p TEXT");
    fails(&[&model, "-p", "x", "--chat"], 1, "tokenizer.chat_template");
    fails(&["/nowhere/model.gguf", "-p", "x"], 2, "/nowhere/model.gguf");
    fails(&[&model, "-p", "x", "--ctx", "4000000000"], 1, "memory");
}

/// `--backend cuda` computes where there is a card, and says why where there is none.
#[test]
fn a_card_is_used_where_there_is_one() {
    let model = fixture("models/stories260k");
    let args = [model.as_str(), "-p", "Once upon a time", "-n", "8", "--temp", "0", "--backend"];
    let cuda = [&args[..], &["cuda"]].concat();
    match qconv_kernels::cuda::Cuda::new(Default::default()) {
        Ok(card) => {
            let out = run(&cuda);
            assert_eq!(text(&out), text(&run(&[&args[..], &["cpu"]].concat())));
            let name = qconv_kernels::Backend::name(&card);
            assert!(stderr(&out).contains(&format!("backend     {name}")), "{}", stderr(&out));
        }
        Err(why) => {
            assert!(matches!(why, qconv_kernels::Error::Unavailable(_)), "{why}");
            fails(&cuda, 2, &why.to_string());
            fails(&cuda, 2, "--backend cpu");
        }
    }
}

/// A copy of stories260k with a chat template.
fn talking(template: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixture("models/stories260k")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let config = folder.path().join("tokenizer_config.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    json["chat_template"] = template.into();
    std::fs::write(&config, json.to_string()).unwrap();
    folder
}

#[test]
fn a_single_turn_goes_through_the_template() {
    let folder = talking(
        "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}\
         {% if add_generation_prompt %}assistant:{% endif %}",
    );
    let path = folder.path().to_str().unwrap();
    let options = ["-n", "12", "--temp", "0", "--json"];
    let json = |args: &[&str], stdin: &str| -> serde_json::Value {
        serde_json::from_str(&text(&run_with(&[&[path], args, &options[..]].concat(), stdin))).unwrap()
    };
    let chat = json(&["--chat", "--system", "Be kind.", "-p", "Tell me a story"], "");
    let by_hand = json(&["-p", "system: Be kind.\nuser: Tell me a story\nassistant:"], "");
    assert_eq!(chat["text"], by_hand["text"]);
    assert_eq!(chat["prompt_tokens"], by_hand["prompt_tokens"], "one BOS");
    assert_eq!(chat["text"], json(&["--chat", "--system", "Be kind."], "Tell me a story\n")["text"], "from a pipe");
}

#[test]
fn templates_that_refuse_or_say_nothing_are_told() {
    let folder = talking("{{ raise_exception('System role not supported') }}");
    fails(&[folder.path().to_str().unwrap(), "--chat", "-p", "x"], 1, "System role not supported");
    let folder = talking("{% if false %}x{% endif %}");
    fails(&[folder.path().to_str().unwrap(), "--chat", "-p", "x"], 2, "makes nothing of this conversation");
    let folder = talking("{% if %}");
    fails(&[folder.path().to_str().unwrap(), "--chat", "-p", "x"], 1, "does not parse");
}
