//! What becomes of each tensor, decided before the first byte is read.

use super::{Edits, Weighing, rules};
use crate::error::{caller, malformed};
use crate::model::{Model, ModelTensor};
use crate::recipe::{self, Mix, ModelFacts, TensorDesc};
use crate::ui::Ui;
use anyhow::Result;
use qconv_formats::block::BlockFormat;
use qconv_formats::gguf::{Metadata, TensorEntry};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A whole conversion, tensor by tensor, in the order of the output.
pub struct Plan<'a> {
    /// The mix that was asked for.
    pub mix: &'static Mix,
    /// The tensors.
    pub tensors: Vec<Planned<'a>>,
    /// Tensors that are left out with their layers.
    pub pruned: usize,
    /// What became of the importance matrix, if [`Plan::weigh`] was given one.
    pub importance: Option<Weighing>,
}

/// One tensor's fate.
pub struct Planned<'a> {
    /// The source.
    pub tensor: &'a ModelTensor,
    /// Its name in the new file; another than the source's where layers before it are left out.
    pub name: String,
    /// What it becomes.
    pub format: &'static BlockFormat,
    /// What it should have become, where its rows do not fit that.
    pub wanted: Option<&'static BlockFormat>,
    /// Of a kind that is never quantized.
    pub kept: bool,
    /// llama-quantize refuses this format without importance.
    pub requires_importance: bool,
    /// How much columns count, matrix after matrix; see [`Planned::runs`].
    pub importance: Option<Arc<[f32]>>,
}

impl<'a> Plan<'a> {
    /// Decides. Warns about fallbacks; errors name tensors that cannot be converted at all.
    pub fn new(
        model: &'a Model,
        mix: &'static Mix,
        options: &recipe::Options,
        edits: &Edits,
        allow_requantize: bool,
        ui: &Ui,
    ) -> Result<Self> {
        let chosen = choose(model, mix, options, edits)?;
        let mut tensors = Vec::with_capacity(chosen.len());
        for (tensor, name, choice) in chosen {
            let format = choice.format;
            if format != tensor.format {
                check(model, tensor, format, allow_requantize)?;
                if choice.requires_importance && !options.has_imatrix {
                    return Err(caller(format!(
                        "tensor {}: {} is garbage without an importance matrix; make one with `qconv calibrate` and give it by --imatrix, or choose another --type",
                        tensor.name, format.name
                    )));
                }
            }
            let wanted = choice.fallback.then_some(choice.wanted);
            let (kept, requires_importance) = (choice.kept, choice.requires_importance);
            tensors.push(Planned { tensor, name, format, wanted, kept, requires_importance, importance: None });
        }
        let pruned = model.tensors().len() - tensors.len();
        let plan = Plan { mix, tensors, pruned, importance: None };
        rules::check(&plan, options, ui)?;
        plan.warn_of_fallbacks(ui);
        Ok(plan)
    }

    /// What each tensor of a model would become, by its name there.
    pub fn formats(
        model: &Model,
        mix: &'static Mix,
        options: &recipe::Options,
        edits: &Edits,
    ) -> Result<BTreeMap<String, &'static BlockFormat>> {
        let chosen = choose(model, mix, options, edits)?;
        Ok(chosen.into_iter().map(|(tensor, _, choice)| (tensor.name.clone(), choice.format)).collect())
    }

    /// What the writer lays out.
    pub fn entries(&self) -> Vec<TensorEntry> {
        let entry = |p: &Planned| TensorEntry { name: p.name.clone(), shape: p.tensor.shape.clone(), format: p.format };
        self.tensors.iter().map(entry).collect()
    }

    /// Weights of the new file; what is computed from the configuration counts for none.
    pub fn parameters(&self) -> u64 {
        self.tensors.iter().filter(|p| p.tensor.source_bytes > 0).map(|p| p.tensor.shape.len() as u64).sum()
    }

    /// Bytes of tensor data that will be read.
    pub fn source_bytes(&self) -> u64 {
        self.tensors.iter().map(|p| p.tensor.source_bytes as u64).sum()
    }

    /// Bytes of tensor data that will be written.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(Planned::bytes).sum()
    }

    /// Bits of tensor data per weight.
    pub fn bits_per_weight(&self) -> f64 {
        let weights: u64 = self.tensors.iter().map(|p| p.tensor.shape.len() as u64).sum();
        self.bytes() as f64 * 8.0 / weights.max(1) as f64
    }

    /// Tensors that do not get the format they should have.
    pub fn fallbacks(&self) -> impl Iterator<Item = &Planned<'a>> {
        self.tensors.iter().filter(|p| p.wanted.is_some())
    }

    /// Bits per weight (of the whole model) that the fallbacks cost.
    pub fn fallback_cost(&self) -> f64 {
        let weights: u64 = self.tensors.iter().map(|p| p.tensor.shape.len() as u64).sum();
        let cost = |p: &Planned| match p.wanted {
            Some(w) => (p.format.bits_per_weight() - w.bits_per_weight()) * p.tensor.shape.len() as f64,
            None => 0.0,
        };
        self.tensors.iter().map(cost).sum::<f64>() / weights.max(1) as f64
    }

    fn warn_of_fallbacks(&self, ui: &Ui) {
        let mut kinds: Vec<(&str, usize, &str, usize)> = Vec::new();
        for p in self.fallbacks() {
            let (wanted, got, cols) = (p.wanted.map_or("", |w| w.name), p.format.name, p.tensor.shape.cols());
            match kinds.iter_mut().find(|k| (k.0, k.1, k.2) == (wanted, cols, got)) {
                Some(kind) => kind.3 += 1,
                None => kinds.push((wanted, cols, got, 1)),
            }
        }
        for (wanted, cols, got, n) in kinds {
            let tensors = if n == 1 { "tensor becomes" } else { "tensors become" };
            ui.warn(format!(
                "{n} {tensors} {got} instead of {wanted}: rows of {cols} weights are no multiple of its block"
            ));
        }
    }
}

impl Planned<'_> {
    /// Bytes of the packed tensor.
    pub fn bytes(&self) -> u64 {
        self.row_bytes() as u64 * self.tensor.shape.rows() as u64
    }

    /// Bytes of one packed row.
    pub fn row_bytes(&self) -> usize {
        self.format.row_bytes(self.tensor.shape.cols()).expect("the recipe checked that rows are whole blocks")
    }
}

/// The tensors in the order of the output, their names there, and what the mix wants of them.
fn choose<'a>(
    model: &'a Model,
    mix: &'static Mix,
    options: &recipe::Options,
    edits: &Edits,
) -> Result<Vec<(&'a ModelTensor, String, recipe::Choice)>> {
    let renamed = |t: &'a ModelTensor| edits.prune.rename(&t.name).map(|name| (t, name.into_owned()));
    let mut order: Vec<(&ModelTensor, String)> = model.tensors().iter().filter_map(renamed).collect();
    order.sort_by(|a, b| recipe::canonical_order(&a.1, &b.1));
    let descriptions: Vec<TensorDesc> =
        order.iter().map(|(t, name)| TensorDesc { name, shape: &t.shape, format: t.format }).collect();
    // As llama-quantize does: keys that are set count, layers that are left out do so still.
    let mut metadata = Metadata::new();
    let known = model.metadata().iter().filter(|(key, _)| !key.starts_with("tokenizer."));
    known.for_each(|(key, value)| metadata.set(key, value.clone()));
    edits.settings.iter().for_each(|s| metadata.set(s.key.as_str(), s.value.clone()));
    let facts = ModelFacts::from_metadata(&metadata)?;
    edits.prune.check(facts.layers)?;
    let mut choices = recipe::choose(mix, &facts, &descriptions, options)?;
    if model.is_untied() {
        // What served as output too keeps the type that it had for that: its error was worth those bits before.
        let place = |list: &[TensorDesc]| list.iter().position(|t| t.name == "token_embd.weight");
        let tied: Vec<TensorDesc> = order
            .iter()
            .filter(|(t, _)| t.name != "output.weight")
            .map(|(t, name)| TensorDesc { name, shape: &t.shape, format: t.format })
            .collect();
        let tied_choices = recipe::choose(mix, &facts, &tied, options)?;
        if let (Some(here), Some(there)) = (place(&descriptions), place(&tied))
            && let Some(choice) = tied_choices.into_iter().nth(there)
        {
            choices[here] = choice;
        }
    }
    Ok(order.into_iter().zip(choices).map(|((tensor, name), choice)| (tensor, name, choice)).collect())
}

/// Whether a tensor can become `format` at all.
fn check(model: &Model, tensor: &ModelTensor, format: &'static BlockFormat, allow_requantize: bool) -> Result<()> {
    let place = || format!("tensor {}", tensor.name);
    if tensor.format.dequantize.is_none() {
        return Err(malformed(
            model.path(),
            place(),
            format!("is {} and cannot become {}", tensor.format.name, format.name),
        ));
    }
    if tensor.format.is_quantized() && !allow_requantize {
        return Err(caller(format!(
            "{}: tensor {} is already {}; quantizing it again loses quality: start from the original model, or say --allow-requantize",
            model.path().display(),
            tensor.name,
            tensor.format.name
        )));
    }
    if format.quantize.is_none() {
        return Err(caller(format!("tensor {}: nothing can be quantized to {}", tensor.name, format.name)));
    }
    if format.row_bytes(tensor.shape.cols()).is_none() {
        let what = format!("has rows of {} weights, no multiple of {}'s block", tensor.shape.cols(), format.name);
        return Err(malformed(model.path(), place(), what));
    }
    Ok(())
}
