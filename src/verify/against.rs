//! Every tensor of a file against the source that it was made from.

use super::Findings;
use super::architecture::without_ones;
use super::judge::{Habits, Pair, Verdict, judge};
use super::measure::{Made, Measure};
use crate::convert::Importance;
use crate::method::{Methods, QuantizeRows};
use crate::model::{Model, ModelTensor};
use crate::provenance;
use anyhow::Result;
use qconv_formats::block;
use qconv_formats::gguf::{Gguf, TensorInfo, Value};
use serde::Serialize;
use std::collections::HashSet;

/// A tensor next to its source.
#[derive(Debug, Clone, Serialize)]
pub struct TensorReport {
    /// GGUF name.
    pub name: String,
    /// The file's type.
    #[serde(rename = "type")]
    pub format: &'static str,
    /// The source's type.
    pub source_type: &'static str,
    /// Shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// RMS error over RMS of the source.
    pub relative_error: f64,
    /// The same for plain quantization of this very tensor.
    pub plain_relative_error: f64,
    /// What the type gives for normally distributed weights.
    pub expected_error: f32,
    /// Largest difference of a weight.
    pub max_error: f32,
    /// Signal over noise in decibels; infinite (JSON: null) without any error.
    pub snr_db: f64,
    /// Cosine of the angle between the tensor and its source.
    pub cosine: f64,
    /// Blocks (floats: weights) in the tensor.
    pub blocks: u64,
    /// Blocks whose bytes are those of plain quantization. All of them: the tensor is proved right.
    pub exact_blocks: u64,
    /// Largest error of a block that differs, over plain quantization's in the same block.
    pub worst_block: f32,
    /// `exact`, `plausible` or `wrong`.
    pub verdict: Verdict,
}

/// Compares all tensors, and the metadata as far as the source has it. Findings name what is wrong; the reports are in
/// the file's order. `importance` is what the file was made with, if that is known: then its bytes are expected. `progress` is
/// told the bytes of the file that were checked.
pub fn against(
    gguf: &Gguf,
    source: &Model,
    importance: Option<&Importance>,
    findings: &mut Findings,
    progress: impl Fn(u64),
) -> Result<Vec<TensorReport>> {
    metadata(gguf, source, findings);
    let names: HashSet<&str> = gguf.tensors().iter().map(|t| t.name.as_str()).collect();
    for t in source.tensors().iter().filter(|t| !names.contains(t.name.as_str())) {
        findings.problem(format!("tensor {}", t.name), "is in the source, but not in the file");
    }
    let mut measured = Vec::new();
    let method = quantizer_of_rows(gguf);
    for info in gguf.tensors() {
        if let Some(tensor) = comparable(source, info, findings) {
            // What is copied was not weighed, nor is a format whose own search would not use it, whatever the method.
            let weighed = info.format != tensor.format && info.format.importance != block::Importance::Unused;
            let importance = importance.filter(|_| weighed);
            let importance = importance.and_then(|i| i.of(&info.name, &info.shape));
            measured.push((info, tensor, Measure::of(source, tensor, gguf, info, Made { importance, method })?));
        }
        progress(info.range.len() as u64);
    }
    if importance.is_none() {
        unknown_importance(gguf, source, findings);
    }
    let habits = Habits::new(measured.iter().map(|(info, _, m)| (info.format, m)), mover(gguf).is_some());
    let mut reports = Vec::new();
    for (info, tensor, m) in &measured {
        let verdict = judge(m, &habits, &Pair { source, tensor, file: gguf, info }, findings)?;
        reports.push(TensorReport::new(info, tensor, m, verdict));
    }
    Ok(reports)
}

/// The method of a file's recipe, if it moves weights on purpose: to make up for errors elsewhere. Of its matrices only the error of
/// the whole can be compared.
pub fn mover(gguf: &Gguf) -> Option<String> {
    let methods = Methods::parse(provenance::method_of(gguf.metadata())?).ok()?;
    methods.matrix().map(|_| methods.name())
}

/// How the file's recipe quantizes rows, where it does so row by row: its bytes can be made again.
fn quantizer_of_rows(gguf: &Gguf) -> Option<QuantizeRows> {
    let methods = Methods::parse(provenance::method_of(gguf.metadata())?).ok()?;
    methods.matrix().is_none().then(|| methods.rows())
}

/// A note on files that say that an importance matrix was used where none is given. A group of columns that were never active
/// may have any scale then; who does not know which columns those are cannot tell it from damage.
fn unknown_importance(gguf: &Gguf, source: &Model, findings: &mut Findings) {
    let file = ["quantize.imatrix.file", "quantize.imatrix.dataset"].into_iter().find_map(|key| {
        let value = gguf.metadata().str(key)?;
        (source.metadata().str(key) != Some(value)).then_some((key, value))
    });
    if let Some((key, value)) = file {
        let what = format!(
            "is {value:?}: the file was made with importance, which is not known here; what looks damaged below may be columns that were never active. Give the matrix by --imatrix to have every byte compared"
        );
        findings.note(format!("key {key}"), what);
    }
}

/// The source of a tensor, if the two can be compared weight by weight; else a finding.
fn comparable<'a>(source: &'a Model, info: &TensorInfo, findings: &mut Findings) -> Option<&'a ModelTensor> {
    let place = format!("tensor {}", info.name);
    // A tied output may be stored once more in the file.
    let tied = || if info.name == "output.weight" { source.tensor("token_embd.weight") } else { None };
    let Some(tensor) = source.tensor(&info.name).or_else(tied) else {
        findings.problem(place, "is not in the source");
        return None;
    };
    if without_ones(info.shape.dims()) != without_ones(tensor.shape.dims()) {
        findings.problem(place, format!("has the shape {}, its source {}", info.shape, tensor.shape));
        return None;
    }
    if info.format.dequantize.is_none() || tensor.format.dequantize.is_none() {
        findings.note(place, format!("holds {}, no weights; it is not compared", info.format.name));
        return None;
    }
    Some(tensor)
}

impl TensorReport {
    fn new(info: &TensorInfo, tensor: &ModelTensor, m: &Measure, verdict: Verdict) -> Self {
        TensorReport {
            name: info.name.clone(),
            format: info.format.name,
            source_type: tensor.format.name,
            shape: info.shape.dims().to_vec(),
            relative_error: m.relative_error(),
            plain_relative_error: m.plain_relative_error(),
            expected_error: info.format.expected_error,
            max_error: m.max_error,
            snr_db: -20.0 * m.relative_error().log10(),
            cosine: m.cosine(),
            blocks: m.blocks,
            exact_blocks: m.exact,
            worst_block: m.worst().first().map_or(0.0, |w| w.score),
            verdict,
        }
    }
}

/// Keys that may differ: names, types and authors change, importance too, files are split and merged, and qconv says how each
/// was made.
const OTHERS: &[&str] = &["general.", "split.", "quantize.", crate::provenance::PREFIX];

/// Hyper-parameters and tokenizer: what both have must agree.
fn metadata(gguf: &Gguf, source: &Model, findings: &mut Findings) {
    let ours = gguf.metadata();
    if let (Some(a), Some(b)) = (ours.str("general.architecture"), source.metadata().str("general.architecture"))
        && a != b
    {
        findings.problem("key general.architecture", format!("is {a:?}, the source is {b:?}"));
        return;
    }
    for (key, theirs) in source.metadata().iter().filter(|(key, _)| !OTHERS.iter().any(|o| key.starts_with(o))) {
        let Some(value) = ours.get(key) else { continue };
        if same(value, theirs) {
            continue;
        }
        let place = format!("key {key}");
        match (value, theirs) {
            // Templates are mended by hand often enough.
            _ if key == "tokenizer.chat_template" => findings.note(place, "is not the source's"),
            (Value::Array(a), Value::Array(b)) => {
                let what = format!("differs from the source's ({} and {} elements)", a.len(), b.len());
                findings.problem(place, what);
            }
            _ => findings.problem(place, format!("is {value:?}, the source gives {theirs:?}")),
        }
    }
}

/// Equal, whatever the width of integers and floats.
fn same(a: &Value, b: &Value) -> bool {
    let floats = || Some((a.as_f32()?, b.as_f32()?));
    a == b
        || a.as_u64().is_some_and(|n| b.as_u64() == Some(n))
        || floats().is_some_and(|(x, y)| (x - y).abs() <= 1e-6 * x.abs().max(y.abs()))
}
