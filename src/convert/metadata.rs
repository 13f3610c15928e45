//! The metadata of the output, and its conventional name.

use super::{Edits, Plan};
use crate::general;
use crate::model::{Model, Origin};
use crate::naming::{self, ParameterCounts};
use crate::ui::Ui;
use anyhow::Result;
use qconv_formats::gguf::Metadata;

/// For a checkpoint: `general.*`, the family's hyper-parameters, the tokenizer. For a GGUF file: its own keys, with type and
/// quantization version replaced and split keys left out. Then the importance matrix, and what `edits` change.
pub fn output_metadata(model: &Model, plan: &Plan, edits: &Edits, ui: &Ui) -> Result<Metadata> {
    let mut metadata = unedited(model, plan, edits, ui)?;
    edits.set(&mut metadata, ui);
    if let Some(importance) = &plan.importance {
        importance.describe(&mut metadata, edits);
    }
    edits.prune_keys(&mut metadata, ui)?;
    Ok(metadata)
}

fn unedited(model: &Model, plan: &Plan, edits: &Edits, ui: &Ui) -> Result<Metadata> {
    let Origin::Checkpoint(checkpoint) = model.origin() else {
        return Ok(general::requantized(model.metadata(), plan.mix));
    };
    model.require_tokenizer()?;
    let mut warnings = Vec::new();
    let counts = ParameterCounts::of(plan.tensors.iter().map(|p| (p.name.as_str(), &p.tensor.shape)));
    let general = general::general(checkpoint, edits.folder.as_deref(), &counts, plan.mix, &mut warnings)?;
    warnings.into_iter().for_each(|w| ui.warn(w));
    let mut out = Metadata::new();
    out.set("general.architecture", model.metadata().str("general.architecture").unwrap_or_default());
    for (key, value) in general.iter().chain(model.metadata().iter()) {
        out.set(key, value.clone());
    }
    Ok(out)
}

/// The name by the GGUF naming convention, such as `TinyLlama-1.1B-Chat-v1.0-Q4_K_M.gguf`.
pub fn output_name(model: &Model, plan: &Plan, metadata: &Metadata) -> String {
    match model.origin() {
        Origin::Checkpoint(_) => naming::default_name(metadata, plan.mix),
        Origin::Gguf(_) => naming::default_name_from_gguf(model.path(), metadata, plan.mix),
    }
}
