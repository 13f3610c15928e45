//! The whole study of a model: convert it to several types by several methods, prove each file, run each, and put the
//! figures side by side.

mod advice;
mod chart;
mod page;
mod record;
mod results;
mod row;
mod variant;

pub use advice::{Advice, advice, front};
pub use results::{remarks, rows, table, write};
pub use row::{DEGRADED, Row};

use crate::backend::{self, BackendArgs, Sizes, Task};
use crate::calibrate;
use crate::convert::ImportanceArgs;
use crate::engine::Engine;
use crate::eval::{self, Base, Recorded};
use crate::method::{Methods, Needs};
use crate::model::Model;
use crate::output::{self, ScratchFolder};
use crate::recipe::Mix;
use crate::tokenizer::Tokenizer;
use crate::ui::Ui;
use crate::verify;
use anyhow::Result;
use qconv_formats::Error;
use qconv_kernels::Backend;
use record::Records;
use serde_json::Value;
use std::path::Path;

/// What is to be compared, of one model. A study of several models is one of these after the other.
pub struct Study<'a> {
    /// What the model is called.
    pub title: &'a str,
    /// The original.
    pub source: &'a Path,
    /// The types.
    pub mixes: &'a [&'static Mix],
    /// How weights are quantized.
    pub methods: &'a [Methods],
    /// Where importance comes from.
    pub importance: &'a ImportanceArgs,
    /// The text on which perplexity is measured.
    pub file: &'a Path,
    /// Tokens of a window.
    pub ctx: usize,
    /// Only the first windows.
    pub chunks: Option<usize>,
    /// Prompt and generated tokens of the speed test.
    pub speed: (usize, usize),
    /// Where the files are kept; nowhere otherwise.
    pub keep: Option<&'a Path>,
    /// Where results are kept, and taken from.
    pub out: Option<&'a Path>,
    /// Where to compute.
    pub computing: BackendArgs,
}

/// What came out for one model.
pub struct Outcome {
    /// What the model is called.
    pub title: String,
    /// Prompt and generated tokens of the speed test.
    pub speed: (usize, usize),
    /// The first is the original.
    pub rows: Vec<Row>,
    /// All that the figures depend on; null where nothing is kept.
    pub made_from: Value,
}

impl Study<'_> {
    fn outcome(&self, rows: Vec<Row>, records: &Records) -> Outcome {
        Outcome { title: self.title.to_owned(), speed: self.speed, rows, made_from: records.common().clone() }
    }
}

/// Does the study of one model. A variant that fails has a row that says why. `done` is called with every row.
pub fn study(study: &Study, ui: &Ui, done: impl FnMut(&Row)) -> Result<Outcome> {
    let sizes = Sizes::of(&Model::open(study.source, &mut Vec::new())?);
    backend::with(study.computing, &sizes, ui, Job { study, ui, done })
}

struct Job<'a, F> {
    study: &'a Study<'a>,
    ui: &'a Ui,
    done: F,
}

/// What all variants are measured against.
struct Original<'m, 'b, B: Backend> {
    model: &'m Model,
    engine: Engine<'b, B>,
    /// Its logits, unless they are too many for the disk: then it runs beside each variant.
    recorded: Option<Recorded>,
    tokens: Vec<u32>,
    options: eval::Options,
}

impl<F: FnMut(&Row)> Task for Job<'_, F> {
    type Output = Outcome;

    fn run<B: Backend>(mut self, backend: &B) -> Result<Outcome> {
        let (study, ui) = (self.study, self.ui);
        let mut warnings = Vec::new();
        let model = Model::open(study.source, &mut warnings)?;
        warnings.into_iter().for_each(|w| ui.warn(w));
        let text = eval::read_text(study.file)?;
        let records = Records::open(study, &model, &backend.name())?;
        let precision = model.tensor("token_embd.weight").map_or("original", |t| t.format.name);
        let first = format!("{precision} (original)");
        let wanted: Vec<(&str, &Methods)> =
            study.mixes.iter().flat_map(|mix| study.methods.iter().map(|m| (mix.name, m))).collect();
        let mut known: Vec<Option<Row>> = vec![records.take(&first, None, ui)];
        let whole = |row: &Row| study.keep.is_none() || row.file.is_file();
        known.extend(wanted.iter().map(|(mix, methods)| records.take(mix, Some(&methods.name()), ui).filter(whole)));
        let mut rows: Vec<Row> = Vec::new();
        if known.iter().all(Option::is_some) {
            rows = known.into_iter().flatten().collect();
            judge(&mut rows);
            rows.iter().for_each(&mut self.done);
            return Ok(study.outcome(rows, &records));
        }

        let scratch = ScratchFolder::new("qconv-compare")?;
        let (mut row, mut original) = self.original(&model, backend, &text, scratch.path())?;
        row.mix = first;
        match known[0].take() {
            Some(then) => row = then,
            None => {
                variant::bench(study, &mut row)?;
                records.keep(&mut row)?;
            }
        }
        (self.done)(&row);
        rows.push(row);
        let importance = self.importance(&model, scratch.path())?;
        for ((mix, methods), known) in wanted.into_iter().zip(known.into_iter().skip(1)) {
            let known = known.map(Ok);
            let mut row = known.unwrap_or_else(|| {
                let mut row = Row {
                    mix: mix.to_owned(),
                    method: Some(methods.name()),
                    backend: backend.name(),
                    ..Row::default()
                };
                let folder = study.keep.unwrap_or(scratch.path());
                if let Err(e) = self.variant(&mut row, methods, &mut original, backend, folder, &importance) {
                    row.failure = Some(format!("{e:#}"));
                }
                row.warnings.iter().for_each(|w| ui.warn(format!("{}: {w}", row.label())));
                ui.refuse_warnings()?;
                row.judge(&rows[0]);
                let file = row.file.clone();
                records.keep(&mut row)?;
                if study.keep.is_none() {
                    // What cannot be removed now goes with the scratch folder.
                    let _ = std::fs::remove_file(file);
                }
                Ok::<_, anyhow::Error>(row)
            })?;
            row.judge(&rows[0]);
            (self.done)(&row);
            rows.push(row);
        }
        // The original once more: what differs between its own measurements says nothing about a variant.
        let mut again = rows[0].clone();
        if again.failure.is_none() && variant::bench(study, &mut again).is_ok() {
            rows[0].widen(&again);
            records.keep(&mut rows[0])?;
            judge(&mut rows);
        }
        Ok(study.outcome(rows, &records))
    }
}

impl<F> Job<'_, F> {
    /// Loads the original, and measures it on the text once.
    fn original<'m, 'b, B: Backend>(
        &self,
        model: &'m Model,
        backend: &'b B,
        text: &str,
        scratch: &Path,
    ) -> Result<(Row, Original<'m, 'b, B>)> {
        model.require_tokenizer()?;
        let tokenizer = Tokenizer::from_metadata(model.metadata(), model.path())?;
        let (tokens, bos) = (eval::tokens(&tokenizer, text), eval::bos(&tokenizer));
        let mut warnings = Vec::new();
        let engine = Engine::load(backend, model, &mut warnings)?;
        warnings.into_iter().for_each(|w| self.ui.warn(w));
        let options = eval::Options { ctx: self.study.ctx, stride: None, chunks: self.study.chunks, bos };
        let scored: usize = eval::windows(tokens.len(), &options)?.iter().map(|w| w.predicting.len()).sum();
        let (quality, recorded) = if eval::can_record(scratch, scored, engine.vocabulary()) {
            let path = scratch.join("logits");
            let (quality, recorded) =
                self.with_bar("original", |progress| eval::record(&engine, &path, &tokens, &options, progress))?;
            (quality, Some(recorded))
        } else {
            self.ui.note("the disk has no room for the original's logits: it runs again beside each variant");
            let quality = self.with_bar("original", |progress| {
                eval::perplexity(&engine, Base::Nothing, &tokens, &options, progress)
            })?;
            (quality, None)
        };
        let row = Row {
            file: model.path().to_owned(),
            bits_per_weight: Some(engine.weight_bytes() as f64 * 8.0 / model.parameters().max(1) as f64),
            bytes: Some(engine.weight_bytes()),
            quality: Some(quality),
            backend: backend.name(),
            ..Row::default()
        };
        Ok((row, Original { model, engine, recorded, tokens, options }))
    }

    /// Options that give variants their importance: a matrix that lies in a file, collected here where a text is asked for.
    fn importance(&self, model: &Model, scratch: &Path) -> Result<ImportanceArgs> {
        let mut args = self.study.importance.clone();
        let Some(text) = args.text(model, self.study.computing, self.ui)? else { return Ok(args) };
        if self.study.methods.iter().all(sees_text) {
            return Ok(args);
        }
        let found = calibrate::collect(model, &text, false, self.ui)?;
        let path = scratch.join("imatrix.gguf");
        output::write_whole(&path, &found.matrix.to_gguf()?, false)?;
        args.imatrix = Some(path);
        (args.calibration, args.calibration_ctx, args.calibration_chunks) = (None, None, None);
        Ok(args)
    }

    /// Converts, verifies, measures one variant; whatever is known when an error comes is in the row.
    fn variant<B: Backend>(
        &self,
        row: &mut Row,
        methods: &Methods,
        original: &mut Original<B>,
        backend: &B,
        folder: &Path,
        importance: &ImportanceArgs,
    ) -> Result<()> {
        // Files of several methods have the same name.
        let name = if self.study.methods.len() > 1 { methods.name() } else { String::new() };
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        let importance = if sees_text(methods) { self.study.importance } else { importance };
        variant::convert(self.study, row, &folder, &importance.recipe())?;
        let (gguf, mut findings) = verify::structure(&row.file)?;
        row.verified = (!findings.problems.is_empty()).then_some(false);
        // What transforms change is not in the source: of such files only the structure is checked.
        if let Some(gguf) = gguf.as_ref().filter(|_| methods.transforms().is_empty()) {
            let importance = if sees_text(methods) { None } else { importance.open(original.model, None, self.ui)? };
            verify::against(gguf, original.model, importance.as_ref(), &mut findings, |_| {})?;
            row.verified = Some(findings.problems.is_empty());
        }

        let mut warnings = Vec::new();
        let quantized = Model::open(&row.file, &mut warnings)?;
        let engine = Engine::load(backend, &quantized, &mut warnings)?;
        row.warnings.extend(warnings);
        let Original { engine: base, recorded, tokens, options, .. } = original;
        let quality = self.with_bar(&row.label(), |progress| {
            let base = recorded.as_mut().map_or(Base::Beside(base), Base::Recorded);
            eval::perplexity(&engine, base, tokens, options, progress)
        })?;
        row.perplexity_change = quality.divergence.as_ref().map(|d| (d.perplexity_ratio - 1.0) * 100.0);
        row.quality = Some(quality);
        drop(engine);
        variant::bench(self.study, row)
    }

    fn with_bar<T>(&self, label: &str, work: impl FnOnce(&mut dyn FnMut(usize, usize, f64)) -> Result<T>) -> Result<T> {
        let bar = self.ui.steps_bar(1);
        bar.set_message(label.to_owned());
        let result = work(&mut |done, of, _| {
            bar.set_length(of as u64);
            bar.set_position(done as u64);
        });
        bar.finish_and_clear();
        result
    }
}

/// Changes and flags of all variants, from the original's row, which comes first.
fn judge(rows: &mut [Row]) {
    if let Some((original, variants)) = rows.split_first_mut() {
        variants.iter_mut().for_each(|row| row.judge(original));
    }
}

/// These methods need the text itself, where others are content with the importance matrix that was made from it.
fn sees_text(methods: &Methods) -> bool {
    methods.needs() > Needs::Nothing || !methods.transforms().is_empty()
}
