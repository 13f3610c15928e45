//! What files say about how they were made, and that they are still what was written.

mod common;

use common::{TestCheckpoint, arg, fails, fixture, listing, ok, run};
use qconv_formats::gguf::Gguf;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

fn convert(source: &Path, out: &Path, rest: &[&str]) {
    ok(&[&["convert", arg(source), "-q", "-o", arg(out)], rest].concat());
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Everything that `verify` says about a file that is wrong.
fn verdict(path: &Path) -> String {
    let out = run(&["verify", arg(path)]);
    assert_eq!(out.status.code(), Some(1), "{}", path.display());
    String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned()
}

#[test]
fn a_file_proves_itself_and_names_what_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("x.gguf");
    convert(&fixture("models/prose-4m"), &out, &["-t", "q4_k_m"]);
    assert!(ok(&["verify", arg(&out)]).contains("every tensor has the SHA-256"));
    let whole = std::fs::read(&out).unwrap();
    let gguf = Gguf::open(&out).unwrap();
    for t in [&gguf.tensors()[0], &gguf.tensors()[17], gguf.tensors().last().unwrap()] {
        let mut bytes = whole.clone();
        bytes[t.range.start + t.range.len() / 2] ^= 1;
        std::fs::write(&out, bytes).unwrap();
        let text = verdict(&out);
        assert!(text.contains(&t.name) && text.contains("SHA-256"), "{text}");
        assert!(text.contains(&format!("{} tensors have the SHA-256", gguf.tensors().len() - 1)), "{text}");
    }
    // A letter of a token, a digit of a recorded digest, the head's own digest.
    let find = |needle: &[u8]| whole.windows(needle.len()).position(|w| w == needle).unwrap();
    let end = |key: &str| find(key.as_bytes()) + key.len();
    for at in [end("general.name") + 12, end("qconv.tensors.sha256") + 30, end("qconv.head.sha256") + 20] {
        let mut bytes = whole.clone();
        bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
        std::fs::write(&out, bytes).unwrap();
        let text = verdict(&out);
        assert!(text.contains("qconv.head.sha256") || text.contains("UTF-8"), "byte {at}: {text}");
    }
    let plain = dir.path().join("plain.gguf");
    convert(&fixture("models/prose-4m"), &plain, &["-t", "q4_k_m", "--plain"]);
    assert!(!Gguf::open(&plain).unwrap().metadata().iter().any(|(key, _)| key.starts_with("qconv.")));
    assert!(ok(&["verify", arg(&plain)]).contains("no SHA-256 is recorded"));
}

#[test]
fn manifests_are_those_of_sha256sum() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (fixture("models/prose-4m"), dir.path().join("x.gguf"));
    convert(&source, &out, &["-t", "q8_0", "--split-parts", "2"]);
    let first = dir.path().join("x-00001-of-00002.gguf");
    let files: Vec<PathBuf> = listing(dir.path()).iter().map(|n| dir.path().join(n)).collect();
    let want: Vec<String> =
        files.iter().map(|f| format!("{}  {}", hex(&std::fs::read(f).unwrap()), f.display())).collect();
    assert_eq!(ok(&["hash", arg(&first)]).lines().collect::<Vec<_>>(), want);
    let gguf = Gguf::open(&first).unwrap();
    let want: Vec<String> = gguf.tensors().iter().map(|t| format!("{}  {}", hex(gguf.bytes(t)), t.name)).collect();
    assert_eq!(ok(&["hash", arg(&first), "--tensors"]).lines().collect::<Vec<_>>(), want);

    convert(&source, &out, &["-t", "q8_0"]);
    let sources = ok(&["hash", arg(&out), "--sources"]);
    let files = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer.model"];
    for file in files {
        let line = format!("{}  {file}\n", hex(&std::fs::read(source.join(file)).unwrap()));
        assert!(sources.contains(&line), "{sources}");
    }
    let folder = ok(&["hash", arg(&source)]);
    assert_eq!(folder.lines().count(), sources.lines().count());
    // The parts of a model that may be made one by one say what the header was.
    assert!(ok(&["hash", arg(&first), "--sources"]).contains("  model.safetensors#header\n"));
    fails(&["hash", "no/such.gguf"], 2, &["no/such.gguf"]);
}

#[test]
fn a_recipe_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("models/prose-4m");
    common::copy_folder(&fixture("models/prose-4m"), &source);
    let (rules, meta) = (dir.path().join("rules"), dir.path().join("meta.json"));
    std::fs::write(&rules, "attn_v=q6_k ffn_gate=q5_0").unwrap();
    std::fs::write(&meta, r#"{"general.author": "-- \"x\"", "general.tags": ["a", "b c"]}"#).unwrap();
    let cases: &[&[&str]] = &[
        &["-t", "q4_k_m"],
        &["-t", "q3_k_m", "--pure", "--token-embedding-type", "q8_0"],
        &["-t", "q4_0", "--tensor-type", "blk.1.ffn_=f16", "--tensor-type-file", arg(&rules), "--metadata", arg(&meta)],
        &["-t", "q8_0", "--prune-layers", "1-2", "--override-kv", "llama.context_length=int:99", "--license=-x"],
    ];
    for case in cases {
        let (a, b) = (dir.path().join("a.gguf"), dir.path().join("b.gguf"));
        convert(&source, &a, &[case, &["--force"][..]].concat());
        // Neither the files of rules nor the folder's name are needed again.
        let moved = dir.path().join("elsewhere");
        std::fs::rename(&source, &moved).unwrap();
        convert(&moved, &b, &["--recipe-from", arg(&a), "--force"]);
        std::fs::rename(&moved, &source).unwrap();
        assert!(std::fs::read(&a).unwrap() == std::fs::read(&b).unwrap(), "{case:?}");
    }
    // So do the parts of a split model, and one of them alone.
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    [&a, &b].iter().for_each(|d| std::fs::create_dir(d).unwrap());
    convert(&source, &a.join("m.gguf"), &["-t", "q4_0", "--split-parts", "3"]);
    let first = a.join("m-00001-of-00003.gguf");
    convert(&source, &b.join("m.gguf"), &["--recipe-from", arg(&first), "--part", "2/3"]);
    convert(&source, &b.join("m.gguf"), &["--recipe-from", arg(&first), "--force"]);
    for name in listing(&a) {
        assert!(std::fs::read(a.join(&name)).unwrap() == std::fs::read(b.join(&name)).unwrap(), "{name}");
    }
}

#[test]
fn a_recipe_goes_with_its_source() {
    let dir = tempfile::tempdir().unwrap();
    let mut c = TestCheckpoint::llama(&dir.path().join("m"));
    c.write();
    let (a, b) = (dir.path().join("a.gguf"), dir.path().join("b.gguf"));
    convert(&c.folder, &a, &["-t", "q8_0"]);
    let args = ["convert", arg(&c.folder), "-o", arg(&b), "--recipe-from", arg(&a)];
    fails(&[&args[..], &["-t", "q4_0"]].concat(), 2, &["--recipe-from", "--type"]);
    c.tensors.get_mut("model.norm.weight").unwrap().1[7] = 0.25;
    c.write();
    let err = fails(&args, 1, &["a.gguf", "model.safetensors"]);
    assert!(!err.contains("config.json"), "{err}");
    std::fs::write(c.folder.join("README.md"), "---\nlicense: mit\n---\n").unwrap();
    fails(&args, 1, &["README.md"]);
    assert_eq!(listing(dir.path()), ["a.gguf", "m"]);
    let plain = dir.path().join("plain.gguf");
    convert(&c.folder, &plain, &["-t", "q8_0", "--plain"]);
    fails(&["convert", arg(&c.folder), "--recipe-from", arg(&plain)], 1, &["plain.gguf", "qconv.recipe"]);
}

#[test]
fn digests_go_with_their_tensors_through_split_and_merge() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, again) = (dir.path().join("m.gguf"), dir.path().join("again.gguf"));
    convert(&fixture("models/prose-4m"), &whole, &["-t", "q4_k_m"]);
    ok(&["split", arg(&whole), "--split-max-tensors", "9", "-o", arg(dir.path())]);
    let first = dir.path().join("m-00001-of-00005.gguf");
    assert!(ok(&["verify", arg(&first)]).contains("every tensor has the SHA-256"));
    ok(&["merge", arg(&first), "-o", arg(&again)]);
    assert!(std::fs::read(&whole).unwrap() == std::fs::read(&again).unwrap());
    // Requantized weights are others, and so is what is said about them.
    let other = dir.path().join("q4_0.gguf");
    convert(&whole, &other, &["-t", "q4_0", "--allow-requantize"]);
    ok(&["verify", arg(&other)]);
    assert!(ok(&["hash", arg(&other), "--sources"]).ends_with("  m.gguf\n"));
}

#[test]
fn a_set_is_checked_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let source = fixture("models/prose-4m");
    let out = dir.path().join("m.gguf");
    for part in ["1/3", "2/3", "3/3"] {
        convert(&source, &out, &["-t", "q4_k_m", "--part", part]);
    }
    let [first, second, third] = [1, 2, 3].map(|k| dir.path().join(format!("m-0000{k}-of-00003.gguf")));
    assert!(ok(&["verify", arg(&first)]).contains("every tensor has the SHA-256"));
    let whole = std::fs::read(&third).unwrap();
    let t = Gguf::open_alone(&third).unwrap().tensors()[2].clone();
    let mut bytes = whole.clone();
    bytes[t.range.start] ^= 4;
    std::fs::write(&third, &bytes).unwrap();
    assert!(verdict(&first).contains(&t.name));
    std::fs::write(&third, &whole).unwrap();
    // The same part of another conversion.
    std::fs::remove_file(&second).unwrap();
    convert(&source, &out, &["-t", "q4_k_m", "--author", "X", "--part", "2/3"]);
    let text = verdict(&first);
    assert!(text.contains("part 2") && text.contains("another conversion"), "{text}");
}

#[test]
fn a_recipe_goes_with_its_importance_matrix() {
    let dir = tempfile::tempdir().unwrap();
    let source = fixture("models/prose-4m");
    let matrix = std::fs::read_dir(fixture("imatrix")).unwrap().map(|e| e.unwrap().path());
    let matrix = matrix
        .filter(|p| p.to_string_lossy().contains("prose-4m"))
        .find(|p| p.extension().is_some_and(|e| e != "json"));
    let matrix = matrix.expect("a matrix of prose-4m");
    let (a, b, moved) = (dir.path().join("a.gguf"), dir.path().join("b.gguf"), dir.path().join("moved.gguf"));
    std::fs::copy(&matrix, &moved).unwrap();
    convert(&source, &a, &["-t", "q4_k_m", "--imatrix", arg(&matrix), "--exclude-weights", "attn_q"]);
    convert(&source, &b, &["--recipe-from", arg(&a), "--imatrix", arg(&moved)]);
    assert!(std::fs::read(&a).unwrap() == std::fs::read(&b).unwrap());
    let mut bytes = std::fs::read(&moved).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&moved, bytes).unwrap();
    let args = ["convert", arg(&source), "-o", "x.gguf", "--recipe-from", arg(&a), "--imatrix", arg(&moved)];
    fails(&args, 2, &["moved.gguf", "--imatrix"]);
}
