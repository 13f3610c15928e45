//! Changes of a model's weights that are made as they are read: what transforms leave behind.
//!
//! An edit belongs to one tensor. Most work on a row at a time; a rotation of a matrix's outputs mixes all its rows, and such a
//! tensor is made once, as a whole, and kept until it is forgotten: one at a time in a conversion.

use super::{Model, ModelTensor, Rotation};
use crate::error::caller;
use anyhow::Result;
use qconv_formats::block;
use std::sync::{Arc, Mutex, PoisonError};

/// One change of one tensor.
#[derive(Debug, Clone)]
pub struct Edit {
    /// Which of its channels.
    pub axis: Axis,
    /// What is done to them.
    pub change: Change,
}

/// Channels of a linear (of each one, in a stack of experts).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    /// What it reads: columns.
    Inputs,
    /// What it makes: the last rows, from this one on. Elements of a vector.
    Outputs(usize),
}

/// What is done to one row, whatever the others are.
pub type RowChange = Arc<dyn Fn(&mut [f32]) + Send + Sync>;

/// What is done to channels.
#[derive(Clone)]
pub enum Change {
    /// Times one factor each.
    Scale(Arc<[f32]>),
    /// Every run of as many channels rotated.
    Rotate(Arc<Rotation>),
    /// All weights are 1, for a norm whose weights went elsewhere.
    Ones,
    /// Anything, to one row at a time.
    Rows(RowChange),
}

impl std::fmt::Debug for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Change::Scale(_) => "Scale",
            Change::Rotate(_) => "Rotate",
            Change::Ones => "Ones",
            Change::Rows(_) => "Rows",
        })
    }
}

/// A tensor's edits, and the whole tensor where they need it.
#[derive(Debug, Default)]
pub(super) struct Edits {
    list: Vec<Edit>,
    made: Mutex<Made>,
}

#[derive(Debug, Default)]
struct Made {
    floats: Option<Arc<[f32]>>,
    forgotten: usize, // rows
}

impl Edit {
    /// Works on rows of a tensor, from row `first` on.
    fn rows(&self, tensor: &ModelTensor, first: usize, out: &mut [f32], scratch: &mut Vec<f32>) {
        let cols = tensor.shape.cols();
        let vector = tensor.shape.dims().len() == 1;
        match (&self.change, self.axis) {
            (Change::Ones, _) => out.fill(1.0),
            (Change::Rows(change), _) => out.chunks_exact_mut(cols).for_each(|row| change(row)),
            (Change::Scale(factors), Axis::Inputs) => {
                for row in out.chunks_exact_mut(cols) {
                    row.iter_mut().zip(&**factors).for_each(|(x, f)| *x *= f);
                }
            }
            (Change::Scale(factors), Axis::Outputs(from)) if vector => {
                out[from..].iter_mut().zip(&**factors).for_each(|(x, f)| *x *= f);
            }
            (Change::Scale(factors), Axis::Outputs(from)) => {
                let matrix = matrix_rows(tensor);
                for (r, row) in (first..).zip(out.chunks_exact_mut(cols)) {
                    if let Some(f) = (r % matrix).checked_sub(from).map(|r| factors[r]) {
                        row.iter_mut().for_each(|x| *x *= f);
                    }
                }
            }
            (Change::Rotate(rotation), Axis::Inputs) => {
                out.chunks_exact_mut(cols).for_each(|row| rotation.row(row, scratch));
            }
            (Change::Rotate(rotation), Axis::Outputs(from)) if vector => rotation.row(&mut out[from..], scratch),
            (Change::Rotate(rotation), Axis::Outputs(from)) => {
                debug_assert!(first == 0 && out.len() == tensor.shape.len(), "rows are mixed only as a whole");
                for matrix in out.chunks_exact_mut(matrix_rows(tensor) * cols) {
                    for run in matrix[from * cols..].chunks_exact_mut(rotation.channels() * cols) {
                        rotation.columns(run, cols);
                    }
                }
            }
        }
    }

    /// It mixes rows of a matrix.
    fn mixes_rows(&self) -> bool {
        matches!((&self.change, self.axis), (Change::Rotate(_), Axis::Outputs(_)))
    }
}

/// Rows of one matrix of a stack.
fn matrix_rows(tensor: &ModelTensor) -> usize {
    let dims = tensor.shape.dims();
    if dims.len() < 2 { 1 } else { dims[dims.len() - 2] }
}

impl ModelTensor {
    /// Its weights are not the source's any more.
    pub fn is_edited(&self) -> bool {
        !self.edits.list.is_empty()
    }

    fn needs_all(&self) -> bool {
        self.shape.dims().len() > 1 && self.edits.list.iter().any(Edit::mixes_rows)
    }
}

impl Model {
    /// Adds a change to a tensor: from now on that is what every reader sees, in F32. Panics if there is no such tensor or its
    /// sizes do not fit: transforms take them from this model.
    ///
    /// Errors, the caller's: a tensor that is already quantized.
    pub fn edit(&mut self, name: &str, edit: Edit) -> Result<()> {
        let path = self.path.display();
        let tensor = self.tensors.iter_mut().find(|t| t.name == name);
        let tensor = tensor.unwrap_or_else(|| panic!("{path}: there is no tensor {name} to edit (a fault of qconv)"));
        if tensor.format.is_quantized() || tensor.format.dequantize.is_none() {
            return Err(caller(format!(
                "{path}: tensor {name} is already {}; weights are transformed before they are quantized: start from the original model",
                tensor.format.name
            )));
        }
        let channels = match edit.axis {
            Axis::Inputs => tensor.shape.cols(),
            Axis::Outputs(from) if tensor.shape.dims().len() == 1 => tensor.shape.cols() - from,
            Axis::Outputs(from) => matrix_rows(tensor) - from,
        };
        let fits = match &edit.change {
            Change::Scale(factors) => factors.len() == channels,
            Change::Rotate(rotation) => channels.is_multiple_of(rotation.channels()),
            Change::Ones | Change::Rows(_) => true,
        };
        assert!(fits, "tensor {name}: {channels} channels do not fit an edit (a fault of qconv)");
        tensor.format = &block::F32;
        tensor.edits.list.push(edit);
        Ok(())
    }

    /// Gives the output matrix weights of its own where it shares the embeddings'. Whether it did.
    pub fn untie(&mut self) -> bool {
        if self.tensor("output.weight").is_some() {
            return false;
        }
        let Some(table) = self.tensor("token_embd.weight") else { return false };
        let output = ModelTensor {
            name: "output.weight".into(),
            shape: table.shape.clone(),
            format: table.format,
            source_bytes: table.source_bytes,
            source: table.source.clone(),
            edits: Edits { list: table.edits.list.clone(), made: Mutex::default() },
        };
        self.tensors.push(output);
        true
    }

    /// The output matrix got weights of its own by [`Model::untie`].
    pub fn is_untied(&self) -> bool {
        let source = |name: &str| self.tensor(name).map(|t| &t.source);
        match (source("output.weight"), source("token_embd.weight")) {
            (Some(output), Some(table)) => Arc::ptr_eq(output, table),
            _ => false,
        }
    }

    /// Rows with all edits, from row `first` on.
    pub(super) fn edited_rows(&self, tensor: &ModelTensor, first: usize, out: &mut [f32]) -> Result<()> {
        let mut scratch = Vec::new();
        if !tensor.needs_all() {
            self.source_rows(tensor, first, out)?;
            tensor.edits.list.iter().for_each(|edit| edit.rows(tensor, first, out, &mut scratch));
            return Ok(());
        }
        // No other thread can do anything for this one while it holds the lock, and it must not wait for them.
        let mut made = tensor.edits.made.lock().unwrap_or_else(PoisonError::into_inner);
        let floats = match &made.floats {
            Some(floats) => floats.clone(),
            None => {
                let mut all = vec![0f32; tensor.shape.len()];
                self.source_rows(tensor, 0, &mut all)?;
                tensor.edits.list.iter().for_each(|edit| edit.rows(tensor, 0, &mut all, &mut scratch));
                let floats: Arc<[f32]> = all.into();
                *made = Made { floats: Some(floats.clone()), forgotten: 0 };
                floats
            }
        };
        drop(made);
        let at = first * tensor.shape.cols();
        out.copy_from_slice(&floats[at..at + out.len()]);
        Ok(())
    }
}

impl Edits {
    /// Lets go of the whole tensor once as many rows as it has were forgotten.
    pub fn forget_rows(&self, rows: usize, total: usize) {
        if self.list.iter().any(Edit::mixes_rows) {
            let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
            made.forgotten += rows;
            if made.forgotten >= total {
                *made = Made::default();
            }
        }
    }
}
