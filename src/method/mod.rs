//! Quantization methods: one file and one line in [`ALL`] each.
//!
//! A run is any number of transforms, which change the model's weights without changing what it computes, and then one
//! quantizer, which decides which bytes of a block format the weights become. Formats know how to fit, code and pack
//! ([`qconv_formats::block::ScalarCodes`]); quantizers differ in who picks the codes, so that each works with every format.

mod adaround;
mod awq;
mod descent;
mod gptq;
mod hqq;
mod int8;
mod nf4;
mod pipeline;
mod quadratic;
mod quarot;
mod rtn;
mod sample;
mod smoothquant;
#[cfg(test)]
mod tests;

pub use pipeline::Methods;
pub use quadratic::Quadratic;

use crate::calibrate::{Calibration, Hessian};
use crate::error::caller;
use crate::model::Model;
use crate::ui::Ui;
use qconv_formats::block::BlockFormat;
use std::collections::BTreeMap;

/// Every method; the first is the default.
pub static ALL: &[&Method] = &[
    &rtn::RTN,
    &hqq::HQQ,
    &gptq::GPTQ,
    &adaround::ADAROUND,
    &awq::AWQ,
    &smoothquant::SMOOTHQUANT,
    &quarot::QUAROT,
    &nf4::NF4,
    &int8::INT8,
];

/// A method.
pub struct Method {
    /// Its name on the command line.
    pub name: &'static str,
    /// One line of help.
    pub help: &'static str,
    /// What it has to know about the model's data.
    pub needs: Needs,
    /// What it does.
    pub work: Work,
    /// Whether it makes sense for a format that is quantized to; the error is the reason, as the end of a sentence.
    pub suits: fn(&BlockFormat) -> Result<(), &'static str>,
}

/// What a method has to know about the activations of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// Nothing. Importance is used where it is given.
    Nothing,
    /// The products of the inputs of every matrix: [`Hessian`].
    Hessian,
    /// The inputs themselves, through [`Calibration::observe`].
    Activations,
}

/// What a method does.
#[derive(Clone, Copy)]
pub enum Work {
    /// Changes the model before it is quantized.
    Transform(Transform),
    /// Quantizes rows, one as well as many: they stream through.
    Rows(QuantizeRows),
    /// Quantizes a whole matrix with its Hessian. Matrices are taken in the order in which the model uses them; those that
    /// nothing is known about, such as embeddings, are rounded.
    Matrix(QuantizeMatrix),
}

/// A change of weights, so that the model computes what it did.
#[derive(Clone, Copy)]
pub struct Transform {
    /// Makes it. Errors, the caller's: a model that it cannot be done to, with the reason.
    pub apply: fn(model: &mut Model, tools: &Tools<'_>) -> anyhow::Result<()>,
    /// A number that may be chosen: `NAME:SETTING=NUMBER` on the command line.
    pub setting: Option<Setting>,
}

/// A number that a transform depends on.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its name on the command line.
    pub name: &'static str,
    /// A few words of help.
    pub help: &'static str,
    /// Where nothing is said.
    pub default: f64,
    /// The least and the most.
    pub range: (f64, f64),
    /// Only whole numbers.
    pub whole: bool,
}

/// What a transform works with.
pub struct Tools<'a> {
    /// The text; there for those who need it.
    pub calibration: Option<&'a Calibration>,
    /// What each tensor will become, by name.
    pub formats: &'a BTreeMap<String, &'static BlockFormat>,
    /// Who picks the codes afterwards.
    pub quantizer: &'static Method,
    /// The transform's own [`Setting`]; 0 if it has none.
    pub setting: f64,
    /// For notes, warnings and progress.
    pub ui: &'a Ui,
}

/// Quantizes whole rows: `weights` is `(rows, cols)`, `importance` one number per column, `out` the packed rows.
pub type QuantizeRows =
    fn(format: &'static BlockFormat, cols: usize, weights: &[f32], importance: Option<&[f32]>, out: &mut [u8]);

/// Quantizes a whole matrix into `out`, its packed rows. May use all threads; the bytes do not depend on their number. Errors need
/// not name the tensor.
pub type QuantizeMatrix = fn(matrix: &Matrix<'_>, out: &mut [u8]) -> anyhow::Result<()>;

/// A matrix and what is known about it.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    /// What it becomes.
    pub format: &'static BlockFormat,
    /// Length of a row.
    pub cols: usize,
    /// `(rows, cols)`
    pub weights: &'a [f32],
    /// Products of its inputs.
    pub hessian: &'a Hessian,
}

impl Tools<'_> {
    /// The text. An error, the caller's, if there is none.
    pub fn text(&self) -> anyhow::Result<&Calibration> {
        self.calibration.ok_or_else(|| caller("a text has to be given by --calibration TEXT"))
    }
}

impl Method {
    /// By name, case-insensitive.
    pub fn by_name(name: &str) -> Option<&'static Method> {
        ALL.iter().copied().find(|m| m.name.eq_ignore_ascii_case(name))
    }

    /// How it quantizes rows that nothing more is known about.
    pub fn rows(&self) -> QuantizeRows {
        match self.work {
            Work::Rows(rows) => rows,
            Work::Matrix(_) | Work::Transform(_) => rtn::rows,
        }
    }

    /// The number that may be chosen, if there is one.
    pub fn setting(&self) -> Option<Setting> {
        match self.work {
            Work::Transform(transform) => transform.setting,
            Work::Rows(_) | Work::Matrix(_) => None,
        }
    }

    /// Changes the model instead of picking codes.
    pub fn is_transform(&self) -> bool {
        matches!(self.work, Work::Transform(_))
    }
}

impl std::fmt::Debug for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for Method {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Method {}

/// Rounds weights to another library's grid and then stores them as the format can; F32 is only copied.
fn simulated(
    round: fn(&mut [f32]),
    format: &'static BlockFormat,
    cols: usize,
    weights: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
) {
    if *format == qconv_formats::block::F32 {
        return rtn::rows(format, cols, weights, importance, out);
    }
    let mut rounded = weights.to_vec();
    rounded.chunks_exact_mut(cols).for_each(round);
    rtn::rows(format, cols, &rounded, importance, out);
}
