//! Conversions that are repeated.

use super::{Choices, ImportanceArgs};
use crate::backend::BackendArgs;
use crate::command::splitting::Splitting;
use crate::convert::{self, Importance, Setting};
use crate::error::{caller, malformed};
use crate::method::Needs;
use crate::model::Model;
use crate::provenance::{self, Record};
use crate::ui::Ui;
use anyhow::Result;
use clap::Parser;
use qconv_formats::gguf::Gguf;
use std::path::Path;

/// What importance was made from, a matrix or a text.
const IMATRIX_FILE: &str = "quantize.imatrix.file";
const IMATRIX_TEXT: &str = "quantize.imatrix.dataset";

/// What a recipe says.
#[derive(Parser)]
#[command(no_binary_name = true)]
pub struct Again {
    #[command(flatten)]
    pub choices: Choices,
    #[command(flatten)]
    pub splitting: Splitting,
}

/// Beside a recipe there are no other choices, but where the importance matrix or the text for it lies. An error names the first.
pub fn nothing_else(choices: &Choices, splitting: &Splitting) -> Result<()> {
    let mut given = choices.recipe()?;
    given.extend(splitting.recipe(None));
    given.retain(|arg| !arg.starts_with("--imatrix=") && !arg.starts_with("--calibration="));
    let default = ["--method".to_owned(), crate::method::ALL[0].name.to_owned()];
    match given.iter().find(|arg| arg.starts_with("--") && !default.contains(arg)) {
        Some(arg) => Err(caller(format!("{arg} contradicts --recipe-from, which says how to convert"))),
        None => Ok(()),
    }
}

/// Reads a file's recipe. What importance is made from may lie elsewhere now (`importance`), but has to be the same.
pub fn read(file: &Path, importance: &ImportanceArgs, ui: &Ui) -> Result<(Again, Record)> {
    let mut record = provenance::recipe_of(file)?;
    let metadata = Gguf::open_alone(file)?.metadata().clone();
    let (ours, theirs) = (env!("CARGO_PKG_VERSION"), provenance::version_of(&metadata).unwrap_or("unknown"));
    if ours != theirs {
        ui.warn(format!("{}: was written by version {theirs}, this is {ours}; bytes may differ", file.display()));
    }
    let mut again = Again::try_parse_from(&record.recipe).map_err(|e| {
        let what = e.to_string().lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        malformed(file, "key qconv.recipe", format!("is not understood: {what}"))
    })?;
    let then = &mut again.choices.importance;
    for (flag, now, then) in [
        ("--imatrix", &importance.imatrix, &mut then.imatrix),
        ("--calibration", &importance.calibration, &mut then.calibration),
    ] {
        if now.is_some() && then.is_none() {
            return Err(caller(format!("{flag}: {} was made without it", file.display())));
        }
        *then = now.clone().or(then.take());
    }
    let key = if then.imatrix.is_some() { IMATRIX_FILE } else { IMATRIX_TEXT };
    if let (Some(path), Some(recorded)) = (then.data(), provenance::calibration_of(&metadata)) {
        let found = provenance::hex(&provenance::hash_file(path, &|| false)?);
        if !recorded.starts_with(&found) {
            return Err(caller(format!(
                "{}: is not what gave {} its importance ({recorded}); name the right file by --imatrix or --calibration",
                path.display(),
                file.display()
            )));
        }
        record.calibrated = Some(recorded.to_owned());
        record.calibration = Some(path.clone());
        // What the file was called then is in the metadata.
        let then = metadata.str(key).filter(|&then| then != path.display().to_string());
        let renamed = then.map(|then| Setting { key: key.into(), value: then.into() });
        again.choices.also_set.extend(renamed);
    }
    Ok((again, record))
}

/// Makes of a source what the transforms of a file's recipe made of it. `None` if there were none, or the file has no recipe;
/// else what importance its weights were then quantized with, if any.
pub fn transform(
    file: &Path,
    source: &mut Model,
    importance: &ImportanceArgs,
    ui: &Ui,
) -> Result<Option<Option<Importance>>> {
    let Ok(recorded) = provenance::recipe_of(file) else { return Ok(None) };
    let parsed = Again::try_parse_from(&recorded.recipe).ok();
    if parsed.is_none_or(|again| again.choices.method.transforms().is_empty()) {
        return Ok(None);
    }
    let choices = read(file, importance, ui)?.0.choices;
    let methods = &choices.method;
    if let Some(text) = choices.importance.calibration.as_ref().filter(|text| !text.exists()) {
        return Err(caller(format!(
            "{}: was made by --method {} from the text {}, which is not there; say where it is by --calibration",
            file.display(),
            methods.name(),
            text.display()
        )));
    }
    ui.note(format!("{}: by --method {}; the source is transformed again", file.display(), methods.name()));
    let text = choices.importance.text(source, BackendArgs::default(), ui)?;
    let (mut options, edits) = (choices.options()?, choices.edits(recorded.folder));
    options.has_imatrix = text.is_some();
    convert::transform(source, methods, (choices.mix()?, &options, &edits), text.as_ref(), ui)?;
    match methods.quantizer().needs {
        Needs::Nothing => Ok(Some(choices.importance.open(source, text.as_ref(), ui)?)),
        Needs::Hessian | Needs::Activations => Ok(Some(None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// Everything that can be chosen is in the recipe, and the recipe gives the same choices again.
    #[test]
    fn recipes_hold_every_choice() {
        let all = [
            &["--type", "q4_k_m", "--method", "rtn", "--pure", "--tensor-type", "a.b=q8_0"][..],
            &["--output-tensor-type", "q6_k", "--token-embedding-type", "q8_0", "--leave-output-tensor"],
            &["--prune-layers", "1,3-4", "--allow-requantize", "--metadata", r#"{"general.tags": ["x", "y"]}"#],
            &["--model-name=-n", "--author", "a b", "--model-version", "v", "--organization", "o"],
            &["--description", "d", "--license", "l", "--override-kv", "k=i64:-3", "--imatrix", "i.gguf"],
            &["--include-weights", "w", "--split-parts", "3"],
        ];
        let text = [
            "--calibration",
            "t.txt",
            "--calibration-ctx",
            "7",
            "--calibration-chunks",
            "3",
            "--calibration-from",
            "quantized",
        ];
        let parse = |args: &[&str]| Again::try_parse_from(args).unwrap_or_else(|e| panic!("{e}"));
        let calibrated = parse(&text).choices.importance.recipe();
        assert_eq!(
            calibrated,
            ["--calibration=t.txt", "--calibration-ctx=7", "--calibration-chunks=3", "--calibration-from=quantized"]
        );
        let again = parse(&all.concat());
        let recipe = |a: &Again| [a.choices.recipe().unwrap(), a.splitting.recipe(None)].concat();
        let first = recipe(&again);
        assert_eq!(first, recipe(&Again::try_parse_from(&first).unwrap_or_else(|e| panic!("{e}"))));
        // Rules of files become rules; the rest exclude one another.
        let mut elsewhere = vec!["tensor-type-file", "exclude-weights", "split-max-size", "split-max-tensors", "help"];
        elsewhere.extend(text.iter().filter_map(|t| t.strip_prefix("--")));
        for arg in Again::command().get_arguments() {
            let Some(flag) = arg.get_long().filter(|f| !elsewhere.contains(f)) else { continue };
            let there = |a: &String| a.split('=').next() == Some(&format!("--{flag}"));
            assert!(first.iter().any(there), "--{flag} is not in {first:?}");
        }
    }
}
