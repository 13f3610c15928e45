//! `qconv convert`

mod choices;
mod depfile;
mod naming;
mod pace;
mod recipe;
mod report;
mod target;
mod tensor_rules;

pub use crate::convert::ImportanceArgs;
pub use choices::{Choices, parse_format, parse_mix};
pub use recipe::transform;

use super::Run;
use super::splitting::{Splitting, parse_part};
use crate::backend::BackendArgs;
use crate::convert::{self, Layout, Plan, Request};
use crate::engine::memory;
use crate::error::caller;
use crate::method::Needs;
use crate::model::Model;
use crate::output;
use crate::provenance::{self, Record};
use crate::ui::Ui;
use anyhow::Result;
use std::path::{Path, PathBuf};
use target::{Case, TargetArgs};

/// Arguments of `qconv convert`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  qconv convert TinyLlama-1.1B-Chat-v1.0 -t q4_k_m
  qconv convert TinyLlama/TinyLlama-1.1B-Chat-v1.0 -t q4_k_m    # after `hf download`
  qconv convert models/prose-4m -o prose.gguf -t q6_k --json
  qconv convert model-f16.gguf -t q5_k_m --dry-run --tensors
  qconv convert model -t q4_k_m --tensor-type 'ffn_down=q6_k' --output-tensor-type q8_0
  qconv convert model -t q8_0 --prune-layers 20-27 --override-kv llama.context_length=int:4096
  qconv convert model -t iq2_xs --imatrix imatrix.gguf
  qconv convert model -t q3_k_m --calibration text.txt --calibration-chunks 100
  qconv convert model --target-size 700MB --calibration text.txt --measure
  qconv convert model --target-bpw 4.25 --imatrix imatrix.gguf --dry-run --tensors
  qconv convert model --recipe-from model-Q4_K_M.gguf -o again.gguf
  qconv convert model -t q6_k -o out/ --resume --if-changed     # may be run again and again

The conversion is one pass: no 16-bit file in between, and memory does not grow with the model.
Types and what llama.cpp calls them: see `qconv types`.")]
pub struct Convert {
    /// A Hugging Face model folder, a GGUF file, or the name of a model that `hf download` left in the cache (ORG/NAME)
    source: PathBuf,

    /// The new file, or a folder for it [default: the conventional name in the current folder, such as
    /// Llama-3.2-1B-Instruct-Q4_K_M.gguf]
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,

    #[command(flatten)]
    choices: Choices,

    #[command(flatten)]
    target: TargetArgs,

    #[command(flatten)]
    splitting: Splitting,

    /// Only the K-th file of those that --split-parts N makes, from the tensors that it needs alone: K/N (K from 1)
    #[arg(long, value_name = "K/N", value_parser = parse_part, conflicts_with = "splitting", help_heading = "Several files")]
    part: Option<(usize, usize)>,

    /// Print what would be done, write nothing
    #[arg(long)]
    dry_run: bool,

    /// With --dry-run: one line per tensor
    #[arg(long, requires = "dry_run")]
    tensors: bool,

    /// Replace an existing file
    #[arg(short, long)]
    force: bool,

    /// Repeat the conversion that FILE says it is from: its options, and the same source or none
    #[arg(long, value_name = "FILE", conflicts_with = "decided", help_heading = "Provenance")]
    recipe_from: Option<PathBuf>,

    /// Write no qconv.* keys: nothing about how the file was made, and no SHA-256 of source and tensors
    #[arg(long, help_heading = "Provenance")]
    plain: bool,

    /// Go on with the work of an interrupted run, and leave what is done behind if this one is interrupted
    #[arg(long, conflicts_with = "plain", help_heading = "Repeated runs")]
    resume: bool,

    /// Do nothing if the file is there, made in the same way from the same source (by SHA-256); replace it otherwise. Its size
    /// and head are checked, its weights are not: see `qconv verify`
    #[arg(long, conflicts_with = "plain", help_heading = "Repeated runs")]
    if_changed: bool,

    /// Write what the output depends on, as a rule for make
    #[arg(long, value_name = "FILE", help_heading = "Repeated runs")]
    depfile: Option<PathBuf>,

    /// Do not check the file's structure before it appears
    #[arg(long)]
    no_verify: bool,

    /// Threads [default: all that the process may use]
    #[arg(long, value_name = "N")]
    threads: Option<std::num::NonZero<usize>>,

    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

impl Run for Convert {
    fn run(mut self, ui: &Ui) -> Result<()> {
        let started = std::time::Instant::now();
        crate::ui::use_threads(self.threads)?;
        let named = self.output.as_deref().filter(|o| !o.is_dir()).unwrap_or(&self.source);
        ui.set_prefix(&named.file_name().unwrap_or(named.as_os_str()).to_string_lossy());
        let mut record = match &self.recipe_from {
            Some(file) => {
                recipe::nothing_else(&self.choices, &self.splitting)?;
                let (again, record) = recipe::read(file, &self.choices.importance, ui)?;
                self.choices = again.choices;
                self.splitting = again.splitting;
                record
            }
            None => Record {
                recipe: [self.choices.recipe()?, self.splitting.recipe(self.part)].concat(),
                calibration: self.choices.importance.data().cloned(),
                ..Record::default()
            },
        };

        let (mut options, edits) = (self.choices.options()?, self.choices.edits(record.folder.clone()));
        let mut warnings = Vec::new();
        let mut model = Model::open(&self.source, &mut warnings)?;
        warnings.into_iter().for_each(|w| ui.warn(w));
        let methods = &self.choices.method;
        let calibrate = self.choices.importance.calibration.is_some();
        if calibrate && self.part.is_some() {
            let how = "collect the importance matrix once with `qconv calibrate` and give it to all by --imatrix";
            return Err(caller(format!("--part does not go with --calibration: {how}")));
        }
        methods.check_text(calibrate)?;
        if self.target.is_given() {
            self.target.check(&self.choices)?;
        }
        if self.target.is_given() && self.part.is_some() {
            let how = "decide once (--dry-run --json), and give all parts the same --tensor-type rules";
            return Err(caller(format!("--part does not go with a budget: {how}")));
        }
        // What is only planned is not calibrated unless the plan depends on it, and changed only by what needs no text.
        let computing =
            BackendArgs { threads: self.threads.map(|n| n.get().min(1024) as u16), ..BackendArgs::default() };
        let text = if self.dry_run && !self.target.is_given() {
            None
        } else {
            self.choices.importance.text(&model, computing, ui)?
        };
        options.has_imatrix = calibrate || self.choices.importance.imatrix.is_some();
        if !methods.transforms().is_empty() {
            if let Some(file) = &self.choices.importance.imatrix {
                let what = "weighs columns of the model as it was, and transforms change them: use --calibration TEXT";
                return Err(caller(format!("--method {}: {} {what}", methods.name(), file.display())));
            }
            convert::transform(&mut model, methods, (self.choices.mix()?, &options, &edits), text.as_ref(), ui)?;
        }
        // Who sees whole Hessians needs no diagonal of them.
        let weigh = methods.quantizer().needs == Needs::Nothing && (text.is_some() || !calibrate);
        let importance = if weigh { self.choices.importance.open(&model, text.as_ref(), ui)? } else { None };
        options.has_imatrix = importance.is_some() || calibrate && (self.dry_run || !weigh);
        let decided = match self.target.is_given() {
            true => Some(self.decide(
                &model,
                &mut options,
                &edits,
                (importance.as_ref(), text.as_ref(), computing),
                &mut record,
                ui,
            )?),
            false => None,
        };
        let methods = &self.choices.method;
        let mut plan = Plan::new(&model, self.choices.mix()?, &options, &edits, self.choices.allow_requantize, ui)?;
        if let Some(importance) = &importance {
            plan.weigh(&model, importance, ui)?;
        }
        if self.dry_run {
            let metadata = convert::output_metadata(&model, &plan, &edits, ui)?;
            let name = convert::output_name(&model, &plan, &metadata);
            let path = output::or_in_folder(self.output.as_deref().unwrap_or(Path::new("./")), name);
            // Digests would add to the heads; sizes here are those of --plain.
            let layout = Layout::new(&metadata, plan.entries(), self.splitting.extent(self.part), &path, None, ui)?;
            ui.refuse_warnings()?;
            return report::plan(&plan, &layout, self.tensors, self.json, decided.as_ref());
        }
        let output = self.output.clone().unwrap_or_else(|| PathBuf::from("./"));
        let request = Request {
            calibration: text.as_ref(),
            extent: self.splitting.extent(self.part),
            record: (!self.plain).then_some(record),
            force: self.force,
            verify: !self.no_verify,
            resume: self.resume,
            if_changed: self.if_changed,
            ..Request::new(&model, &plan, &edits, methods, &output)
        };
        let summary = convert::convert(&request, ui)?;
        if let Some(path) = &self.depfile {
            let mut inputs: Vec<PathBuf> = provenance::files_of(&model, false).into_iter().map(|f| f.path).collect();
            inputs.extend(self.choices.files());
            inputs.extend(self.recipe_from.clone());
            depfile::write(path, &summary.files, &inputs)?;
        }
        if self.json {
            let mut json = serde_json::to_value(&summary)?;
            json["warnings"] = ui.warnings().into();
            json["peak_memory"] = memory::peak().into();
            // What came before the conversion itself too: calibration, the search of transforms and budgets.
            json["total_seconds"] = started.elapsed().as_secs_f64().into();
            if let Some(decided) = &decided {
                json["allocation"] = serde_json::to_value(decided)?;
            }
            return crate::report::print_json(&json);
        }
        report::summary(&summary, ui)
    }
}

impl Convert {
    /// Lets the budget choose formats; from here on they are choices like any others, and in the recipe.
    fn decide(
        &mut self,
        model: &Model,
        options: &mut crate::recipe::Options,
        edits: &convert::Edits,
        (importance, text, computing): (
            Option<&convert::Importance>,
            Option<&crate::calibrate::Calibration>,
            BackendArgs,
        ),
        record: &mut Record,
        ui: &Ui,
    ) -> Result<target::Decided> {
        let started = std::time::Instant::now();
        // Who sees Hessians is given no diagonal of them, but sensitivities need it.
        let own = if importance.is_none() { self.choices.importance.open(model, text, ui)? } else { None };
        let importance = importance.or(own.as_ref());
        let has_imatrix = options.has_imatrix;
        let extent = self.splitting.extent(None);
        let splitting = self.splitting.recipe(None);
        let as_recorded = |choices: &Choices, record: &Record| -> Result<Record> {
            Ok(Record { recipe: [choices.recipe()?, splitting.clone()].concat(), ..record.clone() })
        };
        let size = |choices: &Choices| -> Result<u64> {
            let mut options = choices.options()?;
            options.has_imatrix = has_imatrix;
            let muted = Ui::muted();
            let mut plan = Plan::new(model, choices.mix()?, &options, edits, choices.allow_requantize, &muted)?;
            if let Some(importance) = importance.filter(|_| choices.method.quantizer().needs == Needs::Nothing) {
                plan.weigh(model, importance, &muted)?;
            }
            let record = if self.plain { None } else { Some(as_recorded(choices, record)?) };
            let output = PathBuf::from("./");
            let request = Request { extent, record, ..Request::new(model, &plan, edits, &choices.method, &output) };
            convert::file_size(&request)
        };
        let mut choices = self.choices.clone();
        let case = Case { model, edits, importance, text, computing, size: &size, ui };
        let decided = self.target.decide(&mut choices, &case)?;
        *options = choices.options()?;
        options.has_imatrix = has_imatrix;
        *record = as_recorded(&choices, record)?;
        self.choices = choices;
        report::decided(&decided, started.elapsed().as_secs_f64(), ui);
        Ok(decided)
    }
}
