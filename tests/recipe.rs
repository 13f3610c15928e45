//! Every choice of formats against llama-quantize's own, as `fixtures/recipe` holds them (see HOW-MADE.md there).
//!
//! `QCONV_RECIPE_CASES=FOLDER` compares with the files of a folder instead: thousands of models can be checked by hand.

#![allow(clippy::unwrap_used)] // a test

use qconv::recipe::{Choice, Mix, ModelFacts, Options, Override, TensorDesc, checkpoint_format, choose};
use qconv_formats::Shape;
use qconv_formats::block::BlockFormat;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A model, and what llama-quantize made of it.
#[derive(Deserialize)]
struct Case {
    arch: String,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    experts: usize,
    source: String,
    /// Name with `{}` for every layer, logical shape.
    tensors: Vec<(String, Vec<usize>)>,
    runs: Vec<Run>,
}

#[derive(Deserialize)]
struct Run {
    #[serde(rename = "type")]
    mix: String,
    #[serde(default)]
    options: RunOptions,
    /// llama-quantize refused.
    #[serde(default)]
    error: bool,
    /// Format, layer by layer (`N*` for N in a row, `WANTED>FORMAT` where rows did not fit) -> tensors that have it, by place
    /// in the list above. Tensors that stay as stored are left out.
    #[serde(default)]
    formats: BTreeMap<String, Vec<usize>>,
    /// llama-quantize would ask for an importance matrix.
    #[serde(default)]
    importance: bool,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct RunOptions {
    pure: bool,
    leave_output: bool,
    output: Option<String>,
    embedding: Option<String>,
    imatrix: bool,
    overrides: Vec<String>,
}

impl RunOptions {
    /// Names of the formats in the options.
    fn formats(&self) -> impl Iterator<Item = &str> {
        let overrides = self.overrides.iter().filter_map(|o| Some(o.split_once('=')?.1));
        self.output.iter().chain(&self.embedding).map(String::as_str).chain(overrides)
    }

    fn build(&self) -> Options {
        let by_name = |name: &Option<String>| name.as_ref().map(|n| BlockFormat::by_name(n).unwrap());
        Options {
            pure: self.pure,
            output_tensor: by_name(&self.output),
            token_embedding: by_name(&self.embedding),
            leave_output: self.leave_output,
            has_imatrix: self.imatrix,
            overrides: self.overrides.iter().map(|o| Override::parse(o).unwrap()).collect(),
        }
    }
}

/// The formats of a tensor, layer by layer.
fn unroll(row: &str) -> Vec<&str> {
    row.split(' ')
        .flat_map(|part| match part.split_once('*') {
            Some((n, what)) => vec![what; n.parse().unwrap()],
            None => vec![part],
        })
        .collect()
}

fn show(choice: &Choice) -> String {
    assert_eq!(choice.fallback, choice.wanted != choice.format);
    if choice.fallback { format!("{}>{}", choice.wanted.name, choice.format.name) } else { choice.format.name.into() }
}

struct Tensor {
    /// Place in [`Case::tensors`].
    row: usize,
    layer: usize,
    name: String,
    shape: Shape,
}

impl Tensor {
    fn describe(&self, source: &'static BlockFormat) -> TensorDesc<'_> {
        TensorDesc { name: &self.name, shape: &self.shape, format: checkpoint_format(&self.name, &self.shape, source) }
    }
}

#[derive(Default)]
struct Tally {
    runs: usize,
    tensors: usize,
    skipped: usize,
    missing: BTreeSet<String>,
    wrong: Vec<String>,
}

fn check(path: &Path, tally: &mut Tally) {
    let case: Case = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let source = BlockFormat::by_name(&case.source).unwrap();
    let facts = ModelFacts {
        arch: case.arch,
        layers: case.layers,
        heads: case.heads,
        kv_heads: case.kv_heads,
        experts: case.experts,
    };
    let mut tensors = Vec::new();
    for (row, (pattern, dims)) in case.tensors.iter().enumerate() {
        let shape = Shape::new(dims).unwrap();
        let layers = if pattern.contains("{}") { case.layers } else { 1 };
        for layer in 0..layers {
            tensors.push(Tensor { row, layer, name: pattern.replace("{}", &layer.to_string()), shape: shape.clone() });
        }
    }
    for run in &case.runs {
        let mix = Mix::by_name(&run.mix).unwrap_or_else(|| panic!("no type {}", run.mix));
        let names = run.formats.keys().flat_map(|row| unroll(row)).flat_map(|w| w.split('>'));
        let names = names.chain(run.options.formats()).chain([mix.default]);
        let lacks: Vec<_> = names.filter(|name| BlockFormat::by_name(name).is_none()).collect();
        if !lacks.is_empty() {
            tally.skipped += 1;
            tally.missing.extend(lacks.into_iter().map(str::to_owned));
            continue;
        }
        let options = run.options.build();
        tally.runs += 1;
        let descs: Vec<TensorDesc> = tensors.iter().map(|t| t.describe(source)).collect();
        let place =
            format!("{} {} {}", path.display(), run.mix, serde_json::to_string(&run.options.overrides).unwrap());
        let choices = match choose(mix, &facts, &descs, &options) {
            Ok(choices) if !run.error => choices,
            Ok(_) => {
                tally.wrong.push(format!("{place}: should be refused"));
                continue;
            }
            Err(_) if run.error => continue,
            Err(e) => {
                tally.wrong.push(format!("{place}: {e:#}"));
                continue;
            }
        };
        // the caller's order does not matter
        let backwards: Vec<TensorDesc> = descs.iter().rev().copied().collect();
        let mut again = choose(mix, &facts, &backwards, &options).unwrap();
        again.reverse();
        assert_eq!(choices, again, "{place}");

        let importance = choices.iter().any(|c| c.requires_importance);
        if importance != run.importance && !options.has_imatrix {
            tally.wrong.push(format!("{place}: asks for importance: {importance}, llama-quantize: {}", run.importance));
        }
        let mut want: Vec<Option<Vec<&str>>> = vec![None; case.tensors.len()];
        for (format, rows) in &run.formats {
            for &row in rows {
                want[row] = Some(unroll(format));
            }
        }
        for ((tensor, desc), choice) in tensors.iter().zip(&descs).zip(&choices) {
            let want = want[tensor.row].as_ref().map_or(desc.format.name, |formats| formats[tensor.layer]);
            tally.tensors += 1;
            if show(choice) != want {
                tally.wrong.push(format!("{place}: {} is {}, llama-quantize has {want}", tensor.name, show(choice)));
            }
        }
    }
}

#[test]
fn every_choice_is_llama_quantizes() {
    let by_hand = std::env::var_os("QCONV_RECIPE_CASES").map(PathBuf::from);
    let folder = by_hand.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/recipe"));
    let mut tally = Tally::default();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "json") {
            check(&path, &mut tally);
        }
    }
    let Tally { runs, tensors, skipped, missing, wrong } = tally;
    println!("{runs} runs, {tensors} tensors; {skipped} runs skipped for want of {missing:?}");
    assert!(wrong.is_empty(), "{} of {tensors} wrong:\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
    assert!(runs > 0, "nothing compared in {}", folder.display());
}
