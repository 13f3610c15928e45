//! Several sequences in one batch give what each gives alone, bit for bit.

#![allow(clippy::unwrap_used)] // a test

mod common;

use common::{arg, fixture};
use qconv::calibrate::{self, Calibration, Collector};
use qconv::engine::{Engine, SessionOptions};
use qconv::eval::{self, Base, Options};
use qconv::model::Model;
use qconv_kernels::Backend;
use qconv_kernels::cpu::{self, Activations, Cpu, Isa, Kv};
use qconv_kernels::split::Split;
use std::path::Path;

fn open(path: &Path) -> Model {
    Model::open(path, &mut Vec::new()).unwrap()
}

/// Without AMX, which rounds otherwise from some number of tokens on: what it gives alone differs where that is short.
fn cpu(activations: Activations, kv: Kv) -> Cpu {
    let isa = Some(Isa::best(Isa::Avx512Vbmi));
    Cpu::new(cpu::Options { threads: Some(2), isa, activations, kv, ..cpu::Options::default() }).unwrap()
}

/// `count` sequences of `length` tokens.
fn texts(count: usize, length: usize, vocabulary: usize) -> Vec<Vec<u32>> {
    let token = |i: usize, j: usize| ((i * 31 + j * j * 7 + j * 3 + 1) % vocabulary) as u32;
    (0..count).map(|i| (0..length).map(|j| token(i, j)).collect()).collect()
}

/// Logits of every token of every sequence, in two steps of some tokens.
fn together<B: Backend>(engine: &Engine<'_, B>, texts: &[Vec<u32>]) -> Vec<Vec<u32>> {
    let length = texts[0].len();
    let options = SessionOptions { sequences: texts.len(), ..SessionOptions::new(length).all_logits() };
    let mut session = engine.session(options).unwrap();
    assert_eq!(session.sequences(), texts.len());
    let mut out = vec![Vec::new(); texts.len()];
    for part in [0..length / 3, length / 3..length] {
        let tokens: Vec<u32> = texts.iter().flat_map(|t| t[part.clone()].to_vec()).collect();
        session.feed_each(&tokens, texts.len()).unwrap();
        for (i, out) in out.iter_mut().enumerate() {
            let rows: Vec<usize> = (i * part.len()..(i + 1) * part.len()).collect();
            out.extend(session.logits_of(&rows).unwrap().iter().map(|x| x.to_bits()));
        }
    }
    assert_eq!(session.length(), length);
    out
}

#[test]
fn side_by_side_as_alone() {
    let folder = tempfile::tempdir().unwrap();
    let quantized = folder.path().join("q4_k_m.gguf");
    common::ok(&["convert", arg(&fixture("models/prose-4m")), "-t", "q4_k_m", "-o", arg(&quantized)]);
    let mut models = vec![fixture("models/prose-4m"), quantized];
    models.extend(std::fs::read_dir(fixture("architectures")).unwrap().map(|e| e.unwrap().path()));
    for path in models.iter().filter(|p| p.is_dir() || p.extension().is_some_and(|e| e == "gguf")) {
        let model = open(path);
        for backend in [cpu(Activations::Int8, Kv::F16), cpu(Activations::Exact, Kv::Q8)] {
            let engine = Engine::load(&backend, &model, &mut Vec::new()).unwrap();
            let texts = texts(3, 48, engine.vocabulary());
            let all = together(&engine, &texts);
            for (text, got) in texts.iter().zip(&all) {
                let alone = together(&engine, std::slice::from_ref(text));
                assert!(&alone[0] == got, "{} on {}", path.display(), backend.name());
            }
        }
    }
}

#[test]
fn side_by_side_in_two_places() {
    let model = open(&fixture("models/prose-4m"));
    let backend = cpu(Activations::Int8, Kv::F16);
    let engine = Engine::load(&backend, &model, &mut Vec::new()).unwrap();
    let texts = texts(3, 48, engine.vocabulary());
    let split = Split::new(cpu(Activations::Int8, Kv::F16), cpu(Activations::Int8, Kv::F16), 1);
    let in_two = Engine::load(&split, &model, &mut Vec::new()).unwrap();
    assert!(together(&in_two, &texts) == together(&engine, &texts));
    let one_at_a_time = cpu(Activations::Int8Tensor, Kv::F16);
    assert!(!Split::new(cpu(Activations::Int8, Kv::F16), one_at_a_time, 1).takes_several());
}

/// Kernels depend on how many tokens visit an expert, and may sum in another order: nearly the same.
#[test]
fn experts_side_by_side_nearly_as_alone() {
    let folder = tempfile::tempdir().unwrap();
    common::experts(folder.path()).write();
    let model = open(folder.path());
    let backend = cpu(Activations::Exact, Kv::F32);
    let engine = Engine::load(&backend, &model, &mut Vec::new()).unwrap();
    let texts = texts(3, 48, engine.vocabulary());
    let floats = |bits: &[u32]| bits.iter().map(|&b| f32::from_bits(b)).collect::<Vec<_>>();
    for (text, got) in texts.iter().zip(together(&engine, &texts)) {
        let (got, alone) = (floats(&got), floats(&together(&engine, std::slice::from_ref(text))[0]));
        let largest = alone.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let off = got.iter().zip(&alone).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(largest.is_finite() && largest > 0.0 && off <= 1e-5 * largest, "{off} of {largest}");
    }
}

/// Windows of 128 come four at a time, and the last one alone.
#[test]
fn perplexity_is_that_of_windows_one_by_one() {
    let (model, original) = (open(&fixture("models/prose-4m")), open(&fixture("models/prose-4m")));
    let (backend, exact) = (cpu(Activations::Int8, Kv::F16), cpu(Activations::Int8Tensor, Kv::F16));
    let (ctx, count) = (128, 5);
    assert_eq!(backend.takes_several().then(|| eval::session_options(ctx).sequences), Some(4));
    let engine = Engine::load(&backend, &model, &mut Vec::new()).unwrap();
    let tokens = texts(1, ctx * count, engine.vocabulary()).remove(0);
    let options = Options { ctx, stride: None, chunks: None, bos: Some(1) };
    let mut seen = Vec::new();
    let got =
        eval::perplexity(&engine, Base::Nothing, &tokens, &options, |done, all, _| seen.push((done, all))).unwrap();
    assert_eq!(seen, [(4, 5), (5, 5)]);

    let mut session = engine.session(SessionOptions::new(ctx).all_logits()).unwrap();
    let mut sum = 0.0;
    for window in tokens.chunks_exact(ctx) {
        let mut window = window.to_vec();
        window[0] = 1;
        session.truncate(0);
        session.feed(&window).unwrap();
        // All at once: kernels for a few rows round differently.
        let rows = ctx / 2..ctx - 1;
        let logits = session.logits(rows.clone()).unwrap();
        for (row, logits) in rows.zip(logits.chunks_exact(engine.vocabulary())) {
            sum -= eval::log_softmax(logits, window[row + 1] as usize);
        }
    }
    let scored = count * (ctx / 2 - 1);
    assert_eq!(got.tokens, scored);
    assert_eq!(got.perplexity.to_bits(), (sum / scored as f64).exp().to_bits());

    // Beside an original; and where sequences must not meet, each comes alone.
    let base = Engine::load(&backend, &original, &mut Vec::new()).unwrap();
    let compared = eval::perplexity(&engine, Base::Beside(&base), &tokens, &options, |_, _, _| {}).unwrap();
    assert_eq!(compared.perplexity, got.perplexity);
    let divergence = compared.divergence.unwrap();
    assert_eq!((divergence.kl_divergence_max, divergence.top1_agreement), (0.0, 1.0));
    assert!(!exact.takes_several());
    let engine = Engine::load(&exact, &model, &mut Vec::new()).unwrap();
    let session = engine.session(eval::session_options(ctx)).unwrap();
    assert_eq!(session.sequences(), 1);
    let mut seen = Vec::new();
    eval::perplexity(&engine, Base::Nothing, &tokens, &options, |done, _, _| seen.push(done)).unwrap();
    assert_eq!(seen, [1, 2, 3, 4, 5]);
}

#[test]
fn importance_is_that_of_chunks_one_by_one() {
    let model = open(&fixture("models/prose-4m"));
    let backend = cpu(Activations::Int8, Kv::F16);
    let engine = Engine::load(&backend, &model, &mut Vec::new()).unwrap();
    let ctx = 100;
    let chunks = texts(7, ctx, engine.vocabulary());
    let matrix = |run: &dyn Fn(&mut Collector)| {
        let mut collector = Collector::new(engine.plan(), true);
        run(&mut collector);
        collector.finish("text", ctx, &model).unwrap()
    };
    let calibration = Calibration {
        file: "text".into(),
        ctx,
        chunks: chunks.clone(),
        from: calibrate::Activations::Original,
        computing: qconv::backend::BackendArgs::default(),
    };
    let side_by_side = matrix(&|collector| calibrate::run(&engine, &calibration, collector, true, |_| {}).unwrap());
    let alone = matrix(&|collector| {
        let mut session = engine.session(SessionOptions::new(ctx)).unwrap();
        for chunk in &chunks {
            session.truncate(0);
            session.feed_observed(chunk, 1, collector, true).unwrap();
        }
    });
    assert_eq!(side_by_side.entries.len(), alone.entries.len());
    for (name, entry) in &alone.entries {
        let other = &side_by_side.entries[name];
        assert_eq!(entry.counts(), other.counts());
        assert_eq!(entry.sums(), other.sums(), "{name}");
    }
}

#[test]
fn caches_of_all_sequences_are_counted_beforehand() {
    let model = open(&fixture("models/stories260k"));
    let backend = cpu(Activations::Int8, Kv::F32);
    let engine = Engine::load(&backend, &model, &mut Vec::new()).unwrap();
    let plan = engine.memory(SessionOptions::new(128).side_by_side()).unwrap();
    assert_eq!(plan.cache, 4 * 5 * 128 * 2 * 4 * 8 * 4); // 4 sequences, 5 layers, 4 heads of 8, in f32
    let one = engine.memory(SessionOptions::new(512)).unwrap();
    assert_eq!(plan.cache, one.cache);
    assert_eq!(plan.scratch, one.scratch);
}
