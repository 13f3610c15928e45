//! The whole study of a model: convert it to several types, prove each file, run each, and put the figures side by side.

use crate::backend::{self, BackendArgs, Task};
use crate::calibrate::{self, Calibration};
use crate::convert::{self, Edits, Importance, Plan, Request};
use crate::engine::Engine;
use crate::eval;
use crate::method::{Methods, Needs};
use crate::model::Model;
use crate::recipe::{self, Mix};
use crate::tokenizer::Tokenizer;
use crate::ui::Ui;
use crate::verify;
use anyhow::{Context as _, Result};
use qconv_kernels::Backend;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is to be compared.
pub struct Study<'a> {
    /// The original.
    pub source: &'a Path,
    /// The types.
    pub mixes: &'a [&'static Mix],
    /// How weights are quantized.
    pub methods: &'a [Methods],
    /// The importance matrix.
    pub importance: Option<&'a Importance>,
    /// The text that it was collected from in this run.
    pub calibration: Option<&'a Calibration>,
    /// The text on which perplexity is measured.
    pub text: &'a str,
    /// Tokens of a window.
    pub ctx: usize,
    /// Only the first windows.
    pub chunks: Option<usize>,
    /// Prompt and generated tokens of the speed test.
    pub speed: (usize, usize),
    /// Where the files go.
    pub folder: &'a Path,
    /// Where to compute.
    pub computing: BackendArgs,
}

/// One line of the comparison. Fields that the original has no value for are `None`.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The mix; the original's own precision for the first row.
    #[serde(rename = "type")]
    pub mix: String,
    /// How its codes were picked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The file, or the original.
    pub file: PathBuf,
    /// Tensor data per weight.
    pub bits_per_weight: f64,
    /// Bytes of the file (of the tensors, for the original).
    pub bytes: u64,
    /// Wall time of the conversion.
    pub convert_seconds: Option<f64>,
    /// The file's structure and every tensor against the source were found right.
    pub verified: Option<bool>,
    /// Tensors that could not take the wanted type.
    pub fallbacks: Option<usize>,
    /// Perplexity and everything against the original.
    #[serde(flatten)]
    pub quality: eval::Perplexity,
    /// Percent by which the perplexity is higher than the original's.
    pub perplexity_change: Option<f64>,
    /// Prompt tokens per second.
    pub prompt_tokens_per_second: Option<f64>,
    /// Generated tokens per second.
    pub generation_tokens_per_second: Option<f64>,
    /// Highest resident memory of a process that runs it.
    pub peak_memory: Option<u64>,
    /// Where it ran.
    pub backend: String,
}

impl Row {
    /// The type, with the method where that is not the default.
    pub fn label(&self) -> String {
        match &self.method {
            Some(method) if *method != Methods::default().name() => format!("{} {method}", self.mix),
            _ => self.mix.clone(),
        }
    }
}

/// Does the whole study; the first row is the original. `done` is called with every row.
pub fn study(study: &Study, ui: &Ui, done: impl FnMut(&Row)) -> Result<Vec<Row>> {
    backend::with(study.computing, 0, ui, Work { study, ui, done })
}

struct Work<'a, F> {
    study: &'a Study<'a>,
    ui: &'a Ui,
    done: F,
}

impl<F: FnMut(&Row)> Task for Work<'_, F> {
    type Output = Vec<Row>;

    fn run<B: Backend>(mut self, backend: &B) -> Result<Vec<Row>> {
        let Study { source, mixes, methods, .. } = *self.study;
        let mut warnings = Vec::new();
        let model = Model::open(source, &mut warnings)?;
        warnings.drain(..).for_each(|w| self.ui.warn(w));
        model.require_tokenizer()?;
        let tokenizer = Tokenizer::from_metadata(model.metadata(), source)?;
        let (tokens, bos) = (eval::tokens(&tokenizer, self.study.text), eval::bos(&tokenizer));
        let original = Engine::load(backend, &model, &mut warnings)?;
        warnings.drain(..).for_each(|w| self.ui.warn(w));

        let mut rows = vec![self.original(&model, &original, &tokens, bos)?];
        (self.done)(&rows[0]);
        for (mix, method) in mixes.iter().flat_map(|mix| methods.iter().map(move |method| (mix, method))) {
            let row =
                self.variant(&model, &original, (mix, method), &tokens, bos, backend).with_context(|| mix.name)?;
            if let Some(row) = row {
                (self.done)(&row);
                rows.push(row);
            }
        }
        Ok(rows)
    }
}

impl<F: FnMut(&Row)> Work<'_, F> {
    fn quality<B: Backend>(
        &self,
        engine: &Engine<B>,
        base: Option<&Engine<B>>,
        tokens: &[u32],
        bos: Option<u32>,
        label: &str,
    ) -> Result<eval::Perplexity> {
        let options = eval::Options { ctx: self.study.ctx, stride: None, chunks: self.study.chunks, bos };
        let bar = self.ui.steps_bar(1);
        bar.set_message(label.to_owned());
        let result = eval::perplexity(engine, base, tokens, &options, |done, of, _| {
            bar.set_length(of as u64);
            bar.set_position(done as u64);
        });
        bar.finish_and_clear();
        result
    }

    fn original<B: Backend>(&self, model: &Model, engine: &Engine<B>, tokens: &[u32], bos: Option<u32>) -> Result<Row> {
        let precision = model.tensor("token_embd.weight").map_or("original", |t| t.format.name);
        let quality = self.quality(engine, None, tokens, bos, "original")?;
        let weights = model.parameters().max(1) as f64;
        let mut row = Row {
            mix: format!("{precision} (original)"),
            method: None,
            file: model.path().to_owned(),
            bits_per_weight: engine.weight_bytes() as f64 * 8.0 / weights,
            bytes: engine.weight_bytes(),
            convert_seconds: None,
            verified: None,
            fallbacks: None,
            quality,
            perplexity_change: None,
            prompt_tokens_per_second: None,
            generation_tokens_per_second: None,
            peak_memory: None,
            backend: engine.backend().name(),
        };
        self.measure(&mut row)?;
        Ok(row)
    }

    /// A type by a method; `None`, with a warning, where that makes no sense.
    fn variant<B: Backend>(
        &self,
        model: &Model,
        original: &Engine<B>,
        (mix, methods): (&'static Mix, &Methods),
        tokens: &[u32],
        bos: Option<u32>,
        backend: &B,
    ) -> Result<Option<Row>> {
        let Study { importance, calibration, .. } = *self.study;
        let (options, edits) =
            (recipe::Options { has_imatrix: importance.is_some(), ..recipe::Options::default() }, Edits::default());
        // Transforms change a model of their own, and what goes into its matrices.
        let (mut changed, mut anew) = (None, None);
        if !methods.transforms().is_empty() {
            let mut own = Model::open(self.study.source, &mut Vec::new())?;
            convert::transform(&mut own, methods, (mix, &options, &edits), calibration, self.ui)?;
            if let Some(text) = calibration {
                let found = calibrate::collect(&own, text, false, self.ui)?;
                anew = Some(Importance::collected(&found.matrix, &text.file, &[], &[])?);
            }
            changed = Some(own);
        }
        let model = changed.as_ref().unwrap_or(model);
        let importance = anew.as_ref().or(importance).filter(|_| methods.quantizer().needs == Needs::Nothing);
        let mut plan = Plan::new(model, mix, &options, &edits, false, self.ui)?;
        if let Some(importance) = importance {
            plan.weigh(model, importance, self.ui)?;
        }
        if let Some(why) = plan.tensors.iter().find_map(|p| methods.suits(p.format).err()) {
            self.ui.warn(format!("{} by {} is left out: {why}", mix.name, methods.name()));
            return Ok(None);
        }
        // Files of several methods have the same name.
        let several = self.study.methods.len() > 1;
        let output = self.study.folder.join(if several { methods.name() } else { String::new() }).join("");
        std::fs::create_dir_all(&output).map_err(qconv_formats::Error::io(&output))?;
        let request = Request { calibration, force: true, ..Request::new(model, &plan, &edits, methods, &output) };
        let summary = convert::convert(&request, self.ui)?;
        let (gguf, mut findings) = verify::structure(&summary.output)?;
        if let Some(gguf) = &gguf {
            verify::against(gguf, model, importance, &mut findings, |_| {})?;
        }

        let mut warnings = Vec::new();
        let quantized = Model::open(&summary.output, &mut warnings)?;
        let engine = Engine::load(backend, &quantized, &mut warnings)?;
        warnings.into_iter().for_each(|w| self.ui.warn(w));
        let quality = self.quality(&engine, Some(original), tokens, bos, mix.name)?;
        let change = quality.divergence.as_ref().map(|d| (d.perplexity_ratio - 1.0) * 100.0);
        let mut row = Row {
            mix: mix.name.to_owned(),
            method: Some(methods.name()),
            file: summary.output,
            bits_per_weight: summary.bits_per_weight,
            bytes: summary.bytes,
            convert_seconds: Some(summary.seconds),
            verified: Some(findings.problems.is_empty()),
            fallbacks: Some(summary.fallbacks),
            quality,
            perplexity_change: change,
            prompt_tokens_per_second: None,
            generation_tokens_per_second: None,
            peak_memory: None,
            backend: backend.name(),
        };
        drop(engine);
        self.measure(&mut row)?;
        Ok(Some(row))
    }

    /// Speed and memory, in a process of its own: only there is the peak of memory this model's.
    fn measure(&self, row: &mut Row) -> Result<()> {
        let (prompt, generate) = self.study.speed;
        if prompt == 0 && generate == 0 {
            return Ok(());
        }
        let program = std::env::current_exe().context("finding the program itself")?;
        let mut command = Command::new(program);
        command.arg("bench").arg(&row.file).args(["--json", "--quiet", "-r", "3"]);
        command.args(["-p", &prompt.to_string(), "-n", &generate.to_string()]).args(self.study.computing.to_args());
        let out = command.output().context("starting qconv bench")?;
        anyhow::ensure!(out.status.success(), "qconv bench: {}", String::from_utf8_lossy(&out.stderr).trim());
        let records: serde_json::Value =
            serde_json::from_slice(&out.stdout).context("reading qconv bench's figures")?;
        let record = &records[0];
        let rate = |kind: &str| {
            let tests = record["tests"].as_array()?;
            tests.iter().find(|t| t["test"].as_str().is_some_and(|n| n.starts_with(kind)))?["tokens_per_second"]
                .as_f64()
        };
        row.prompt_tokens_per_second = rate("pp");
        row.generation_tokens_per_second = rate("tg");
        row.peak_memory = record["peak_memory"].as_u64();
        Ok(())
    }
}
