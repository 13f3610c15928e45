//! Perplexity against llama-perplexity's figures (see `fixtures/texts/HOW-MADE.md`), and the command around it.

#![allow(clippy::unwrap_used)] // a test

use qconv::engine::Engine;
use qconv::eval::{self, Options, Perplexity};
use qconv::model::Model;
use qconv::tokenizer::Tokenizer;
use qconv_kernels::cpu::{self, Cpu};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn fixture(what: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(what)
}

fn evaluate(model: &str, base: Option<&str>, text: &str, options: Options) -> anyhow::Result<Perplexity> {
    let open = |name: &str| Model::open(&fixture("models").join(name), &mut Vec::new());
    let backend = Cpu::new(cpu::Options::default())?;
    let model = open(model)?;
    let engine = Engine::load(&backend, &model, &mut Vec::new())?;
    let base = base.map(open).transpose()?;
    let base = base.as_ref().map(|m| Engine::load(&backend, m, &mut Vec::new())).transpose()?;
    let tokenizer = Tokenizer::from_metadata(model.metadata(), model.path())?;
    let text = eval::read_text(&fixture("texts").join(text))?;
    let options = Options { bos: eval::bos(&tokenizer), ..options };
    eval::perplexity(
        &engine,
        base.as_ref().map_or(eval::Base::Nothing, eval::Base::Beside),
        &eval::tokens(&tokenizer, &text),
        &options,
        |_, _, _| {},
    )
}

fn plain(ctx: usize, chunks: usize) -> Options {
    Options { ctx, stride: None, chunks: Some(chunks), bos: None }
}

#[test]
fn perplexity_is_llama_cpp_s() {
    // Model, text, context, windows; perplexity and its error as llama-perplexity printed them.
    let cases = [
        ("stories260k", "stories.txt", 256, 16, 3.9004, 0.15866),
        ("stories260k", "stories.txt", 512, 4, 4.4596, 0.29231),
        ("prose-4m", "prose.txt", 128, 8, 17.7900, 2.08795),
    ];
    for (model, text, ctx, chunks, want, error) in cases {
        let got = evaluate(model, None, text, plain(ctx, chunks)).unwrap();
        assert!((got.perplexity / want - 1.0).abs() < 0.001, "{model} {ctx}: {} not {want}", got.perplexity);
        assert!(
            (got.perplexity_error / error - 1.0).abs() < 0.002,
            "{model} {ctx}: {} not {error}",
            got.perplexity_error
        );
        assert_eq!((got.chunks, got.tokens), (chunks, chunks * (ctx / 2 - 1)));
    }
}

#[test]
fn a_stride_scores_more_tokens_with_more_before_them() {
    let halves = evaluate("stories260k", None, "stories.txt", plain(128, 8)).unwrap();
    let strided = Options { stride: Some(32), ..plain(128, 29) };
    let strided = evaluate("stories260k", None, "stories.txt", strided).unwrap();
    assert_eq!(strided.tokens, 29 * 32);
    // The same text, but at least 96 tokens before every scored one instead of 64.
    assert!(strided.perplexity < 1.05 * halves.perplexity, "{} {}", strided.perplexity, halves.perplexity);
}

#[test]
fn a_model_does_not_diverge_from_itself() {
    let got = evaluate("stories260k", Some("stories260k"), "stories.txt", plain(128, 2)).unwrap();
    let d = got.divergence.unwrap();
    assert_eq!((d.kl_divergence, d.top1_agreement, d.rms_probability_change), (0.0, 1.0, 0.0));
    assert_eq!(d.base_perplexity, got.perplexity);
    assert_eq!((d.perplexity_ratio, d.perplexity_ratio_error), (1.0, 0.0));
}

#[test]
fn a_text_that_is_too_short_says_how_long_it_must_be() {
    let mut options = plain(512, 1);
    options.ctx = 1 << 20;
    let error = evaluate("stories260k", None, "stories.txt", options).unwrap_err();
    assert!(error.to_string().contains("one window needs 1048576"), "{error}");
    assert_eq!(qconv::error::exit_code(&error), 2);
}

fn command(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_qconv")).arg("perplexity").args(args).output().unwrap()
}

fn path(what: &str) -> String {
    fixture(what).display().to_string()
}

#[test]
fn the_command_reports_every_key() {
    let model = path("models/stories260k");
    let text = path("texts/stories.txt");
    let args = [&model, "--file", &text, "--ctx", "64", "--chunks", "2", "--json", "--against", &model];
    let out = command(&args);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    for key in [
        "perplexity",
        "perplexity_error",
        "tokens",
        "chunks",
        "kl_divergence",
        "kl_divergence_error",
        "top1_agreement",
        "top1_agreement_error",
        "mean_probability_change",
        "mean_probability_change_error",
        "rms_probability_change",
        "rms_probability_change_error",
        "base_perplexity",
        "ctx",
        "seconds",
        "tokens_per_second",
    ] {
        assert!(json[key].is_number(), "{key}: {}", json[key]);
    }
    assert_eq!((json["model"].as_str(), json["file"].as_str()), (Some(model.as_str()), Some(text.as_str())));
    assert!(json["backend"].as_str().unwrap().starts_with("cpu"));
}

#[test]
fn models_of_different_vocabularies_are_not_compared() {
    let (a, b) = (path("models/stories260k"), path("models/prose-4m"));
    let out = command(&[&a, "--file", &path("texts/stories.txt"), "--against", &b]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(2), "{said}");
    assert!(said.contains("vocabularies differ"), "{said}");
}

#[test]
fn files_that_are_no_text_are_refused() {
    let model = path("models/stories260k");
    let out = command(&[&model, "--file", &path("models/stories260k/model.safetensors")]);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("is not UTF-8"));
    let out = command(&[&model, "--file", &path("texts/missing.txt")]);
    assert_eq!(out.status.code(), Some(2));
}
