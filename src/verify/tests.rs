use super::*;
use qconv_formats::Shape;
use qconv_formats::block::{self, BlockFormat};
use qconv_formats::gguf::{Array, Metadata, TensorEntry, Writer};

/// A llama of one block, width 32, 4 heads, 2 for keys, 64 in the feed-forward part, 8 tokens.
#[derive(Clone)]
struct Tiny {
    metadata: Metadata,
    tensors: Vec<(String, Vec<usize>, &'static BlockFormat)>,
}

fn tiny() -> Tiny {
    let mut m = Metadata::new();
    m.set("general.architecture", "llama");
    for (key, n) in [
        ("block_count", 1u32),
        ("context_length", 64),
        ("embedding_length", 32),
        ("feed_forward_length", 64),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("rope.dimension_count", 8),
    ] {
        m.set(format!("llama.{key}"), n);
    }
    m.set("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
    m.set("tokenizer.ggml.model", "llama");
    m.set("tokenizer.ggml.tokens", Array::String((0..8).map(|i| format!("t{i}")).collect()));
    m.set("tokenizer.ggml.scores", Array::F32(vec![0.0; 8]));
    m.set("tokenizer.ggml.token_type", Array::I32(vec![1; 8]));
    m.set("tokenizer.ggml.bos_token_id", 1u32);
    let shapes: [(&str, &[usize]); 11] = [
        ("token_embd.weight", &[8, 32]),
        ("output_norm.weight", &[32]),
        ("blk.0.attn_norm.weight", &[32]),
        ("blk.0.attn_q.weight", &[32, 32]),
        ("blk.0.attn_k.weight", &[16, 32]),
        ("blk.0.attn_v.weight", &[16, 32]),
        ("blk.0.attn_output.weight", &[32, 32]),
        ("blk.0.ffn_norm.weight", &[32]),
        ("blk.0.ffn_gate.weight", &[64, 32]),
        ("blk.0.ffn_up.weight", &[64, 32]),
        ("blk.0.ffn_down.weight", &[32, 64]),
    ];
    let tensors = shapes.map(|(name, dims)| (name.to_owned(), dims.to_vec(), &block::F32)).to_vec();
    Tiny { metadata: m, tensors }
}

impl Tiny {
    fn writer(&self) -> Writer {
        let entry = |(name, dims, format): &(String, Vec<usize>, &'static BlockFormat)| TensorEntry {
            name: name.clone(),
            shape: Shape::new(dims).unwrap(),
            format,
        };
        Writer::new(&self.metadata, &self.tensors.iter().map(entry).collect::<Vec<_>>()).unwrap()
    }

    /// The file, every byte of data zero.
    fn bytes(&self) -> Vec<u8> {
        let writer = self.writer();
        let mut bytes = writer.head().to_vec();
        bytes.resize(writer.file_size() as usize, 0);
        bytes
    }

    fn findings(&self) -> Findings {
        check_bytes(&self.bytes())
    }

    fn tensor(&mut self, name: &str) -> &mut (String, Vec<usize>, &'static BlockFormat) {
        self.tensors.iter_mut().find(|t| t.0 == name).unwrap()
    }
}

fn check_bytes(bytes: &[u8]) -> Findings {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    std::fs::write(&path, bytes).unwrap();
    let (gguf, mut findings) = structure(&path).unwrap();
    if let Some(gguf) = gguf {
        nonfinite(&gguf, &mut findings, |_| ());
    }
    assert_eq!(written(std::slice::from_ref(&path), true).is_ok(), structure(&path).unwrap().1.problems.is_empty());
    findings
}

/// The one problem, with all of `words` in it.
#[track_caller]
fn one_problem(findings: &Findings, words: &[&str]) {
    assert_eq!(findings.problems.len(), 1, "{findings:?}");
    let sentence = findings.problems[0].to_string();
    for word in words {
        assert!(sentence.contains(word), "{word:?} is not in: {sentence}");
    }
}

#[track_caller]
fn one_note(findings: &Findings, words: &[&str]) {
    assert!(findings.problems.is_empty(), "{findings:?}");
    assert_eq!(findings.notes.len(), 1, "{findings:?}");
    let sentence = findings.notes[0].to_string();
    for word in words {
        assert!(sentence.contains(word), "{word:?} is not in: {sentence}");
    }
}

#[test]
fn a_sound_file_has_nothing_to_be_said() {
    let findings = tiny().findings();
    assert!(findings.problems.is_empty() && findings.notes.is_empty(), "{findings:?}");
}

#[test]
fn a_file_that_cannot_be_opened_is_a_problem_and_none_at_all_an_error() {
    one_problem(&check_bytes(b"GGML"), &["magic", "no GGUF file"]);
    let bytes = tiny().bytes();
    one_problem(&check_bytes(&bytes[..bytes.len() / 2]), &["truncated"]);
    let e = structure(Path::new("no/such.gguf")).unwrap_err();
    assert_eq!(crate::error::exit_code(&e), 2);
}

#[test]
fn tensors_missing_unknown_or_of_wrong_shape_are_named() {
    let mut t = tiny();
    t.tensors.retain(|t| t.0 != "blk.0.ffn_up.weight");
    one_problem(&t.findings(), &["tensor blk.0.ffn_up.weight", "missing"]);
    let mut t = tiny();
    t.tensor("blk.0.attn_k.weight").1 = vec![32, 32];
    one_problem(&t.findings(), &["tensor blk.0.attn_k.weight", "32 x 32", "16 x 32"]);
    let mut t = tiny();
    t.tensor("token_embd.weight").1 = vec![9, 32];
    one_problem(&t.findings(), &["tensor token_embd.weight", "vocabulary", "9 x 32", "8 x 32"]);
    let mut t = tiny();
    t.tensors.push(("blk.1.attn_q.weight".into(), vec![32, 32], &block::F32));
    one_note(&t.findings(), &["tensor blk.1.attn_q.weight", "unknown"]);
    let mut t = tiny();
    t.tensors.push(("output.weight".into(), vec![8, 32], &block::F16));
    assert!(t.findings().notes.is_empty());
}

#[test]
fn keys_missing_or_wrong_are_named() {
    let without = |key: &str| {
        let mut t = tiny();
        t.metadata.remove(key).unwrap();
        t.findings()
    };
    one_problem(&without("general.architecture"), &["key general.architecture"]);
    one_problem(&without("llama.block_count"), &["key llama.block_count", "missing"]);
    one_problem(&without("llama.attention.layer_norm_rms_epsilon"), &["key llama.attention.layer_norm_rms_epsilon"]);
    one_problem(&without("tokenizer.ggml.model"), &["key tokenizer.ggml.model"]);
    one_problem(&without("tokenizer.ggml.tokens"), &["key tokenizer.ggml.tokens"]);
    let with = |key: &str, value: qconv_formats::gguf::Value| {
        let mut t = tiny();
        t.metadata.set(key, value);
        t.findings()
    };
    one_note(&with("general.architecture", "martian".into()), &["martian"]);
    one_problem(&with("llama.embedding_length", "wide".into()), &["key llama.embedding_length"]);
    one_problem(&with("tokenizer.ggml.scores", Array::F32(vec![0.0; 7]).into()), &["scores", "7", "8"]);
    one_problem(&with("tokenizer.ggml.scores", Array::F32(vec![f32::NAN; 8]).into()), &["scores", "token 0"]);
    one_problem(&with("tokenizer.ggml.token_type", Array::I32(vec![9; 8]).into()), &["token_type", "unknown type 9"]);
    one_problem(&with("tokenizer.ggml.eos_token_id", 8u32.into()), &["eos_token_id", "none of the 8"]);
    one_problem(&with("tokenizer.ggml.model", "gpt2".into()), &["merges", "missing"]);
    let twice = Array::String((0..8).map(|i| format!("t{}", i % 7)).collect());
    one_note(&with("tokenizer.ggml.tokens", twice.into()), &["tokens", "\"t0\""]);
    one_note(&with("tokenizer.ggml.merges", Array::String(vec!["t0 t1".into()]).into()), &["merges", "\"t0 t1\""]);
}

#[test]
fn gaps_and_strange_bytes_are_told() {
    let bytes = tiny().bytes();
    one_note(&check_bytes(&[&bytes[..], &[0; 64]].concat()), &["end of file", "64 bytes"]);
    // Where the fifth tensor begins is the last field of its row in the table.
    let name = b"blk.0.attn_k.weight";
    let at = bytes.windows(name.len()).position(|w| w == name).unwrap() + name.len() + 4 + 16 + 4;
    let mut moved = bytes.clone();
    let offset = u64::from_le_bytes(moved[at..at + 8].try_into().unwrap());
    moved[at..at + 8].copy_from_slice(&(offset + 64 * 1024).to_le_bytes());
    moved.resize(moved.len() + 128 * 1024, 0);
    one_problem(&check_bytes(&moved), &["tensor blk.0.attn_k.weight", "without gaps"]);
}

#[test]
fn nan_and_infinity_are_found_in_every_format() {
    for format in block::ALL.iter().filter(|f| f.dequantize.is_some()) {
        let mut t = tiny();
        let cols = 256;
        t.tensors.push(("extra".into(), vec![3, cols], format));
        let range = t.writer().range(t.tensors.len() - 1);
        let bytes = t.bytes();
        // All ones is NaN in every float that a scale or weight may be; where it is not, nothing can be.
        let mut bad = bytes.clone();
        let row = (range.end - range.start) as usize / 3;
        let at = range.start as usize + 2 * row;
        let block = &mut bad[at..at + format.block_bytes];
        block.fill(0xff);
        let mut weights = vec![0.0; format.block_weights];
        format.dequantize.unwrap()(block, &mut weights);
        let findings = check_bytes(&bad);
        if weights.iter().all(|w| w.is_finite()) {
            assert!(findings.problems.is_empty(), "{}: {findings:?}", format.name);
        } else {
            one_problem(
                &findings,
                &["tensor extra", "NaN", "row 2", if format.block_weights == 1 { "column 0" } else { "block 0 of" }],
            );
        }
    }
}
