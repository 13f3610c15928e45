//! Importance in a conversion: which column of which matrix counts how much.
//!
//! The rules are llama-quantize's: an entry goes with the tensor of its name; experts have a part of it each; a matrix of
//! another size is refused, except for token embeddings, which go without; types that are garbage without importance are
//! refused where it is missing. What llama-quantize passes over in silence is named and counted here.

use super::{Edits, Plan, Planned};
use crate::error::caller;
use crate::model::Model;
use crate::ui::Ui;
use anyhow::Result;
use qconv_formats::Shape;
use qconv_formats::block;
use qconv_formats::gguf::{Metadata, Value};
use qconv_formats::imatrix::Imatrix;
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Importance by the name of the tensor, ready to be used.
#[derive(Debug)]
pub struct Importance {
    file: String,
    collected: bool,
    dataset: Option<String>,
    chunks: u32,
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    means: Arc<[f32]>,
    unvisited: usize,
    matrices: usize,
}

/// What became of the importance in a plan.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Weighing {
    /// The file, as it was named: the matrix, or the text if it was collected in this run.
    pub file: String,
    /// It was collected in this run.
    pub collected: bool,
    /// The text that it was made from.
    pub dataset: Option<String>,
    /// Chunks of that text.
    pub chunks: u32,
    /// Entries in use or not.
    pub entries: usize,
    /// Tensors that are quantized with importance.
    pub tensors: usize,
    /// Tensors without an entry although their type could use one; not the embeddings and the output matrix, which seldom
    /// have any.
    pub missing: Vec<String>,
    /// Entries that name no tensor of the model.
    pub unknown: Vec<String>,
    /// Columns of used entries that were never active, by tensor.
    pub inactive_columns: BTreeMap<String, usize>,
    /// Experts that were never visited, by tensor; their columns count the same.
    pub unvisited_experts: BTreeMap<String, usize>,
    /// Token embeddings with an entry of another size, which is not used.
    pub ignored: Vec<String>,
}

impl Importance {
    /// Takes the entries whose names contain one of `include` (all if that is empty) and none of `exclude`.
    /// Errors, the caller's: a part of a name that fits no entry.
    pub fn new(matrix: &Imatrix, file: &Path, include: &[String], exclude: &[String]) -> Result<Self> {
        for (option, parts) in [("--include-weights", include), ("--exclude-weights", exclude)] {
            if let Some(idle) = parts.iter().find(|p| !matrix.entries.keys().any(|name| name.contains(p.as_str()))) {
                return Err(caller(format!("{option} {idle}: no entry of {} has such a name", file.display())));
            }
        }
        let any = |parts: &[String], name: &str| parts.iter().any(|p| name.contains(p.as_str()));
        let wanted = |name: &str| (include.is_empty() || any(include, name)) && !any(exclude, name);
        let entries = matrix.entries.iter().filter(|(name, _)| wanted(name)).map(|(name, e)| {
            let (means, unvisited, matrices) = (e.means().into(), e.unvisited().count(), e.counts().len());
            (name.clone(), Entry { means, unvisited, matrices })
        });
        Ok(Importance {
            file: file.display().to_string(),
            collected: false,
            dataset: matrix.datasets.first().cloned(),
            chunks: matrix.chunk_count,
            entries: entries.collect(),
        })
    }

    /// Of a matrix that was collected from `text` in this run, and lies in no file.
    pub fn collected(matrix: &Imatrix, text: &Path, include: &[String], exclude: &[String]) -> Result<Self> {
        Ok(Importance { collected: true, ..Self::new(matrix, text, include, exclude)? })
    }

    /// Entries that name no tensor of the source (those of layers that a plan leaves out do). An error, the caller's, if that
    /// is true of all.
    pub fn unknown(&self, source: &Model) -> Result<Vec<String>> {
        let unknown: Vec<String> = self.entries.keys().filter(|n| source.tensor(n).is_none()).cloned().collect();
        if unknown.len() == self.entries.len() {
            return Err(caller(format!(
                "{}: none of its {} entries names a tensor of the model: it was made with another one",
                self.file,
                unknown.len()
            )));
        }
        Ok(unknown)
    }

    /// Importance of a tensor's columns, matrix after matrix. `None` without an entry of that size.
    pub fn of(&self, name: &str, shape: &Shape) -> Option<&[f32]> {
        let entry = self.entries.get(name)?;
        (entry.means.len() == columns(shape)).then_some(&*entry.means)
    }

    /// No entry is left: as if there were no matrix at all.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl Plan<'_> {
    /// Gives every tensor that is quantized its importance. Warns of what has none, or has an odd one.
    ///
    /// Errors, the caller's: an entry of another size, no entry that fits any tensor (the matrix is another model's), a type
    /// that needs importance for a tensor without.
    pub fn weigh(&mut self, model: &Model, importance: &Importance, ui: &Ui) -> Result<()> {
        let mut found = Weighing {
            file: importance.file.clone(),
            collected: importance.collected,
            dataset: importance.dataset.clone(),
            chunks: importance.chunks,
            entries: importance.entries.len(),
            ..Weighing::default()
        };
        found.unknown = importance.unknown(model)?;
        for planned in self.tensors.iter_mut().filter(|p| p.format != p.tensor.format) {
            planned.weigh(importance, &mut found)?;
        }
        found.warn(ui);
        self.importance = Some(found);
        Ok(())
    }
}

impl Planned<'_> {
    fn weigh(&mut self, importance: &Importance, found: &mut Weighing) -> Result<()> {
        let tensor = self.tensor;
        let name = &tensor.name;
        // the two large tables are only looked at if asked for, and embeddings never multiply
        let table = ["token_embd.weight", "per_layer_token_embd.weight"].contains(&name.as_str());
        let useful = self.format.importance != block::Importance::Unused;
        let entry = importance.entries.get(name);
        let need = columns(&tensor.shape);
        let entry = match entry {
            Some(e) if e.means.len() == need => Some(e),
            Some(_) if table => {
                found.ignored.push(name.clone());
                None
            }
            Some(e) => {
                return Err(caller(format!(
                    "{}: entry {name} has {} columns, the tensor has {need}: it was made with another model",
                    found.file,
                    e.means.len()
                )));
            }
            None => None,
        };
        match entry {
            Some(entry) if useful => {
                found.tensors += 1;
                let inactive = entry.means.iter().filter(|x| **x == 0.0).count();
                if inactive > 0 {
                    found.inactive_columns.insert(name.clone(), inactive);
                }
                // A single matrix without data says nothing at all, which is the same.
                if entry.unvisited > 0 {
                    found.unvisited_experts.insert(name.clone(), entry.unvisited.min(entry.matrices));
                }
                self.importance = Some(entry.means.clone());
            }
            Some(_) => {}
            None if self.requires_importance => {
                return Err(caller(format!(
                    "{}: there is no entry {name}, and {} is garbage without; choose another --type, or another --tensor-type for it",
                    found.file, self.format.name
                )));
            }
            None if useful && !table && name != "output.weight" => found.missing.push(name.clone()),
            None => {}
        }
        Ok(())
    }

    /// Cuts a range of rows where importance changes: at the end of each matrix of a stack. Importance of the columns, and
    /// the number of rows.
    pub fn runs(&self, rows: Range<usize>) -> impl Iterator<Item = (Option<&[f32]>, usize)> {
        let (dims, cols) = (self.tensor.shape.dims(), self.tensor.shape.cols());
        let matrix = match &self.importance {
            Some(_) if dims.len() > 1 => dims[dims.len() - 2],
            _ => rows.end.max(1),
        };
        (rows.start / matrix..rows.end.div_ceil(matrix)).map(move |i| {
            let part = self.importance.as_ref().map(|all| &all[i * cols..(i + 1) * cols]);
            (part, rows.end.min((i + 1) * matrix) - rows.start.max(i * matrix))
        })
    }
}

impl Weighing {
    /// The keys that llama-quantize writes; what the caller sets himself stays. A matrix of this run has no file.
    pub fn describe(&self, metadata: &mut Metadata, edits: &Edits) {
        let mut set = |key: &str, value: Value| {
            if !edits.settings.iter().any(|s| s.key == key) {
                metadata.set(key, value);
            }
        };
        if !self.collected {
            set("quantize.imatrix.file", self.file.as_str().into());
        }
        if let Some(dataset) = &self.dataset {
            set("quantize.imatrix.dataset", dataset.as_str().into());
        }
        set("quantize.imatrix.entries_count", (self.entries as u32).into());
        if self.chunks > 0 {
            set("quantize.imatrix.chunks_count", self.chunks.into());
        }
    }

    /// For a summary in one line.
    pub fn note(&self) -> String {
        let mut note = format!("{} with importance", self.tensors);
        for (n, what) in [
            (self.missing.len(), "without although their type could use it"),
            (self.inactive_columns.len(), "with columns that were never active"),
            (self.unvisited_experts.len(), "with experts that were never visited"),
        ] {
            if n > 0 {
                note += &format!(", {n} {what}");
            }
        }
        note
    }

    fn warn(&self, ui: &Ui) {
        let file = &self.file;
        if !self.unknown.is_empty() {
            ui.warn(format!(
                "{file}: {} of {} entries name no tensor of the model: {}",
                self.unknown.len(),
                self.entries,
                some(&self.unknown)
            ));
        }
        if !self.missing.is_empty() {
            let n = self.missing.len();
            let tensors = if n == 1 { "tensor has" } else { "tensors have" };
            ui.warn(format!(
                "{file}: {n} {tensors} no entry and {} quantized without: {}",
                if n == 1 { "is" } else { "are" },
                some(&self.missing)
            ));
        }
        for name in &self.ignored {
            ui.warn(format!("{file}: entry {name} has another size than the tensor, which is quantized without"));
        }
        if !self.inactive_columns.is_empty() {
            let n: usize = self.inactive_columns.values().sum();
            let list = some(self.inactive_columns.iter().map(|(name, n)| format!("{name} {n}")));
            ui.warn(format!("{file}: {n} columns were never active, their weights do not count: {list}"));
        }
        if !self.unvisited_experts.is_empty() {
            let n: usize = self.unvisited_experts.values().sum();
            let list = some(self.unvisited_experts.iter().map(|(name, n)| format!("{name} {n}")));
            ui.warn(format!("{file}: {n} matrices were never used, all their columns count the same: {list}"));
        }
    }
}

/// Columns of all matrices of a stack together.
fn columns(shape: &Shape) -> usize {
    let dims = shape.dims();
    shape.cols() * dims[..dims.len().saturating_sub(2)].iter().product::<usize>()
}

/// The first of a list.
fn some<S: AsRef<str>>(all: impl IntoIterator<Item = S>) -> String {
    const SHOWN: usize = 4;
    let all: Vec<S> = all.into_iter().collect();
    let list: Vec<&str> = all.iter().take(SHOWN).map(S::as_ref).collect();
    let more = if all.len() > SHOWN { ", ..." } else { "" };
    format!("{}{more}", list.join(", "))
}
