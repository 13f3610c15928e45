//! The engine on the fixtures: logits against transformers', and what must not change them.

#![allow(clippy::unwrap_used)] // a test

use qconv::engine::{Engine, Inputs, Observer, Sampler, Sampling, Session, SessionOptions, Tests, speed};
use qconv::model::Model;
use qconv_kernels::Backend;
use qconv_kernels::cpu::{Activations, Cpu, Kv, Options};
use qconv_kernels::split::Split;
use std::path::{Path, PathBuf};

/// Everything in f32.
fn exact(threads: usize) -> Cpu {
    let options =
        Options { threads: Some(threads), activations: Activations::Exact, kv: Kv::F32, ..Options::default() };
    Cpu::new(options).unwrap()
}

fn fixtures(what: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(what)
}

fn open(path: &Path) -> Model {
    Model::open(path, &mut Vec::new()).unwrap()
}

fn load<'b>(backend: &'b Cpu, path: &Path) -> Engine<'b, Cpu> {
    Engine::load(backend, &open(path), &mut Vec::new()).unwrap()
}

/// All logits of a text that is fed in pieces of `step` tokens.
fn logits(session: &mut Session<'_, Cpu>, tokens: &[u32], step: usize) -> Vec<f32> {
    session.truncate(0);
    let mut out = Vec::new();
    for piece in tokens.chunks(step) {
        session.feed(piece).unwrap();
        for row in 0..piece.len() {
            out.extend_from_slice(session.logits(row..row + 1).unwrap());
        }
    }
    out
}

/// The largest difference over the largest value.
fn difference(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let worst = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    // `max` passes over NaN.
    assert!(got.iter().all(|x| x.is_finite()));
    worst / want.iter().fold(0.0f32, |m, x| m.max(x.abs()))
}

/// Token ids and logits that lie beside a tiny model.
fn expected(folder: &Path) -> (Vec<u32>, Vec<f32>) {
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
    let tokens = serde_json::from_value(json["tokens"].clone()).unwrap();
    let bytes = std::fs::read(folder.join("expected_logits.f32")).unwrap();
    (tokens, bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect())
}

fn families() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(fixtures("architectures")).unwrap();
    let mut all: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    all.sort();
    assert!(all.len() >= 5, "the fixtures are not there");
    all
}

#[test]
fn every_family_gives_the_logits_of_transformers() {
    let backend = exact(2);
    for folder in families() {
        let (tokens, want) = expected(&folder);
        let engine = load(&backend, &folder);
        let mut session = engine.session(SessionOptions::new(tokens.len())).unwrap();
        let got = logits(&mut session, &tokens, tokens.len());
        let off = difference(&got, &want);
        assert!(off < 2e-5, "{}: {off:e}", folder.display());
    }
}

#[test]
fn the_cache_gives_what_one_batch_gives_however_tokens_are_fed() {
    let backend = exact(2);
    for folder in families() {
        let (tokens, want) = expected(&folder);
        let engine = load(&backend, &folder);
        let mut session = engine.session(SessionOptions { batch: 16, ..SessionOptions::new(64).all_logits() }).unwrap();
        for step in [1, 7, 48] {
            let got = if step == 48 {
                // Split by the session itself: only the last batch's logits are left.
                session.truncate(0);
                session.feed(&tokens).unwrap();
                session.logits(0..16).unwrap().to_vec()
            } else {
                logits(&mut session, &tokens, step)
            };
            let off = difference(&got, &want[want.len() - got.len()..]);
            assert!(off < 2e-5, "{} in pieces of {step}: {off:e}", folder.display());
        }
    }
}

/// Counts the rows that each weight sees, and remembers the first inputs of each.
#[derive(Default)]
struct Counter(std::collections::BTreeMap<String, (usize, usize)>);

impl Observer for Counter {
    fn wants(&self, weight: &str) -> bool {
        weight != "blk.0.attn_output.weight"
    }

    fn inputs(&mut self, inputs: &Inputs<'_>) {
        assert!(inputs.expert.is_none() && inputs.rows.iter().all(|x| x.is_finite()));
        for name in inputs.weights {
            let seen = self.0.entry((*name).to_owned()).or_insert((0, inputs.cols));
            assert_eq!(seen.1, inputs.cols);
            seen.0 += inputs.rows.len() / inputs.cols;
        }
    }
}

#[test]
fn an_observer_sees_the_inputs_of_every_linear_once() {
    let backend = exact(2);
    for folder in families() {
        let (tokens, _) = expected(&folder);
        let model = open(&folder);
        let engine = Engine::load(&backend, &model, &mut Vec::new()).unwrap();
        let mut session = engine.session(SessionOptions { batch: 20, ..SessionOptions::new(64) }).unwrap();
        let mut counter = Counter::default();
        session.feed_observed(&tokens, 1, &mut counter, false).unwrap();
        let watched = session.last_logits().unwrap().to_vec();
        let linear = |name: &str| name.starts_with("blk.") && name != "blk.0.attn_output.weight";
        let want: Vec<(String, (usize, usize))> = model
            .tensors()
            .iter()
            .filter(|t| linear(&t.name) && t.shape.dims().len() > 1)
            .map(|t| (t.name.clone(), (tokens.len(), t.shape.cols())))
            .collect();
        let want: std::collections::BTreeMap<_, _> = want.into_iter().collect();
        assert_eq!(counter.0, want, "{}", folder.display());
        session.truncate(0);
        session.feed(&tokens).unwrap();
        assert_eq!(session.last_logits().unwrap(), watched, "watching changes nothing");
        session.truncate(0);
        session.feed_observed(&tokens[..8], 1, &mut counter, true).unwrap();
        assert_eq!(counter.0["output.weight"], (8, engine.plan().width));
    }
}

#[test]
fn going_back_and_on_gives_the_same_logits() {
    let backend = exact(1);
    let folder = fixtures("architectures/llama");
    let (tokens, want) = expected(&folder);
    let engine = load(&backend, &folder);
    let mut session = engine.session(SessionOptions::new(64)).unwrap();
    session.feed(&tokens[..20]).unwrap();
    session.feed(&[1, 2, 3]).unwrap();
    session.truncate(20);
    session.feed(&tokens[20..]).unwrap();
    let vocabulary = engine.vocabulary();
    assert!(difference(session.last_logits().unwrap(), &want[want.len() - vocabulary..]) < 2e-5);
}

/// The last logits of each piece, and the best token, which is what a greedy sampler takes.
fn last_logits<B: Backend>(backend: &B, folder: &Path, pieces: &[&[u32]]) -> Vec<f32> {
    let engine = Engine::load(backend, &open(folder), &mut Vec::new()).unwrap();
    let mut session = engine.session(SessionOptions { batch: 16, ..SessionOptions::new(64) }).unwrap();
    let mut out = Vec::new();
    let mut greedy = Sampler::new(Sampling { temperature: 0.0, ..Sampling::default() }, 1);
    assert!(greedy.is_greedy());
    for piece in pieces {
        session.feed(piece).unwrap();
        let best = session.best_token().unwrap();
        out.extend_from_slice(session.last_logits().unwrap());
        assert_eq!(best, greedy.sample(&out[out.len() - engine.vocabulary()..]), "{}", folder.display());
    }
    out
}

#[test]
fn layers_in_two_places_change_no_bit() {
    for folder in families() {
        let (tokens, _) = expected(&folder);
        let pieces = [&tokens[..18], &tokens[18..19], &tokens[19..20], &tokens[20..25]];
        let want = last_logits(&exact(1), &folder, &pieces);
        let layers = open(&folder).plan().unwrap().layers;
        for first in 0..=layers {
            let split = Split::new(exact(1), exact(1), first);
            let got = last_logits(&split, &folder, &pieces);
            assert!(got == want, "{}: {first} of {layers} layers in the first place", folder.display());
        }
    }
}

#[test]
fn threads_change_no_bit() {
    let folder = fixtures("models/stories260k");
    let tokens: Vec<u32> = (0..100).map(|i| (i * 37 + 5) % 512).collect();
    let run = |threads| {
        let backend = Cpu::new(Options { threads: Some(threads), ..Options::default() }).unwrap();
        let engine = load(&backend, &folder);
        let mut session = engine.session(SessionOptions::new(128)).unwrap();
        let mut all = logits(&mut session, &tokens, 100);
        all.extend(logits(&mut session, &tokens[..10], 1));
        all.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
    };
    assert!(run(1) == run(3), "logits differ between 1 and 3 threads");
}

/// With scales of their own, and a head that is no multiple of 32, in prompts and token by token.
#[test]
fn a_cache_of_8_bits_changes_little() {
    let exact = exact(2);
    let options = Options { activations: Activations::Exact, kv: Kv::Q8, ..Options::default() };
    let small = Cpu::new(options).unwrap();
    for folder in families() {
        let (tokens, _) = expected(&folder);
        let (engine, original) = (load(&small, &folder), load(&exact, &folder));
        for step in [48, 1] {
            let of = |engine: &Engine<'_, Cpu>| {
                let mut session = engine.session(SessionOptions::new(tokens.len()).all_logits()).unwrap();
                logits(&mut session, &tokens, step)
            };
            let off = difference(&of(&engine), &of(&original));
            assert!(off > 0.0 && off < 2e-2, "{} in pieces of {step}: {off:e}", folder.display());
        }
    }
}

#[test]
fn a_full_context_and_foreign_tokens_are_refused() {
    let backend = exact(1);
    let engine = load(&backend, &fixtures("architectures/qwen2"));
    let mut session = engine.session(SessionOptions::new(8)).unwrap();
    session.feed(&[1, 2, 3, 4, 5]).unwrap();
    let error = session.feed(&[1, 2, 3, 4]).unwrap_err();
    assert!(error.to_string().contains("4 more tokens do not fit behind 5 in a context of 8"), "{error}");
    assert_eq!(qconv::error::exit_code(&error), 2);
    let error = session.feed(&[1, 320]).unwrap_err().to_string();
    assert!(error.contains("token 320 at index 1") && error.contains("320 tokens"), "{error}");
    assert_eq!(session.length(), 5, "nothing was computed");
    session.feed(&[1, 2, 3]).unwrap();
    assert_eq!(session.room(), 0);
}

#[test]
fn learned_positions_end_where_they_were_learned() {
    let backend = exact(1);
    let engine = load(&backend, &fixtures("architectures/gpt2"));
    let error = engine.session(SessionOptions::new(513)).err().unwrap().to_string();
    assert!(error.contains("512 positions") && error.contains("--ctx 512"), "{error}");
    assert!(engine.session(SessionOptions::new(usize::MAX)).is_err());
}

#[test]
fn memory_is_known_beforehand() {
    let backend = exact(1);
    let engine = load(&backend, &fixtures("models/stories260k"));
    let plan = engine.memory(SessionOptions { batch: 64, ..SessionOptions::new(512) }).unwrap();
    // 5 layers, 4 key-value heads of 8, keys and values in f32.
    assert_eq!(plan.cache, 5 * 512 * 2 * 4 * 8 * 4);
    assert!(plan.weights > 1_000_000 && plan.weights < 1_100_000, "{plan}");
    // 8 bits, and a half-precision scale for each head of 8.
    let small = Cpu::new(Options { kv: Kv::Q8, ..Options::default() }).unwrap();
    let plan = load(&small, &fixtures("models/stories260k")).memory(SessionOptions::new(512)).unwrap();
    assert_eq!(plan.cache, 5 * 512 * 2 * 4 * (8 + 2));
    let huge = engine.memory(SessionOptions::new(usize::MAX / 2)).unwrap_err().to_string();
    assert!(huge.contains("beyond all memory"), "{huge}");
}

#[test]
fn speed_counts_what_was_asked_for() {
    let backend = exact(1);
    let engine = load(&backend, &fixtures("models/stories260k"));
    let tests = Tests { prompt: 20, generate: 5, depth: 30, sequences: 3, repetitions: 2 };
    let result = speed(&engine, &tests).unwrap();
    let (prompt, generation) = (result.prompt.unwrap(), result.generation.unwrap());
    assert_eq!((prompt.tokens, prompt.samples.len()), (20, 2));
    assert_eq!((generation.tokens, generation.samples.len()), (5, 2));
    assert!(prompt.mean() > 0.0 && generation.mean() > 0.0);
    assert!(speed(&engine, &Tests { generate: 1, ..Tests::default() }).unwrap().prompt.is_none());
}

/// A copy of a fixture with another `config.json`.
fn changed(name: &str, from: &str, to: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixtures("architectures").join(name)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let config = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
    assert!(config.contains(from));
    std::fs::write(folder.path().join("config.json"), config.replace(from, to)).unwrap();
    folder
}

#[test]
fn hyper_parameters_that_contradict_the_tensors_name_the_tensor() {
    let backend = exact(1);
    let cases = [
        ("llama", "\"head_dim\": 16", "\"head_dim\": 8", "blk.0.attn_q.weight"),
        ("llama", "\"hidden_size\": 64", "\"hidden_size\": 32", "token_embd.weight"),
        ("gpt2", "\"n_embd\": 64", "\"n_embd\": 32", "token_embd.weight"),
        ("qwen2", "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 4", "blk.0.attn_k"),
    ];
    for (name, from, to, tensor) in cases {
        let folder = changed(name, from, to);
        let mut warnings = Vec::new();
        let error = match Model::open(folder.path(), &mut warnings) {
            Ok(model) => Engine::load(&backend, &model, &mut warnings).err().unwrap(),
            Err(e) => e,
        };
        let text = format!("{error:#}");
        assert!(text.contains(tensor), "{name} with {to}: {text}");
        assert_eq!(qconv::error::exit_code(&error), 1, "{text}");
    }
}
