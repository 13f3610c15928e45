//! `qconv verify`

use super::Run;
use super::convert::ImportanceArgs;
use crate::backend::BackendArgs;
use crate::error::caller;
use crate::model::Model;
use crate::provenance;
use crate::report::{self, Style, Table};
use crate::ui::{self, Ui};
use crate::verify::{self, Findings, TensorReport, Verdict};
use anyhow::Result;
use qconv_formats::gguf::Gguf;
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;

/// Arguments of `qconv verify`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  qconv verify model-Q4_K_M.gguf
  qconv verify model-Q4_K_M.gguf --against models/TinyLlama
  qconv verify model-IQ2_XS.gguf --against model-F16.gguf --imatrix imatrix.gguf
  qconv verify model-Q4_K_M.gguf --against model-F16.gguf --json | jq '.tensors[] | select(.verdict == \"wrong\")'

Without a source: layout, keys, the tensor set and shapes of the model's family, the vocabulary against itself and the
embeddings, NaN and infinity in all weights; and, where qconv wrote the file, the SHA-256 of each tensor and of the head. The
first part of a split model stands for all of them.
With --against: hyper-parameters and vocabulary have to agree, and every tensor is quantized again. Tensors with the same
bytes are proved exact; for files made with importance, if --imatrix names the same matrix. Others (GPTQ, another quantizer) are plausible if their errors, over the whole tensor and
in each block, are such as quantizers make; a change within that, such as the lowest bit of one weight, is not seen. Where the
recipe names a method that moves weights on purpose, only the errors of whole tensors are judged: the recorded SHA-256 tell damage, and
`qconv convert SRC --recipe-from FILE` makes the same bytes again.
Where qconv's recipe says that weights were transformed before quantization, the source is transformed again first. Transforms that
need a text run it again (--calibration says where it is now); on a processor with other instructions its activations may
differ in the last digits, and then bytes do. Transforms by other tools are not known, and count as wrong.

Exit code: 0, or 1 if anything is wrong.
JSON: file, ok, problems and notes (arrays of place, problem), tensor_count, bytes,
recorded_digests (tensors that have theirs; null if none are recorded); with --against also source, exact,
plausible, wrong (numbers of tensors), worst_relative_error and tensors (name, type, source_type, shape, relative_error,
plain_relative_error, expected_error, max_error, snr_db, cosine, blocks, exact_blocks, worst_block, verdict).")]
pub struct Verify {
    /// The GGUF file
    file: PathBuf,

    /// What it was made from: a Hugging Face folder or a GGUF file
    #[arg(long, value_name = "SRC")]
    against: Option<PathBuf>,

    #[command(flatten)]
    importance: ImportanceArgs,

    /// With --against: one row per tensor
    #[arg(long, requires = "against")]
    tensors: bool,

    /// Threads [default: all that the process may use]
    #[arg(long, value_name = "N")]
    threads: Option<std::num::NonZero<usize>>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Run for Verify {
    fn run(self, ui: &Ui) -> Result<()> {
        ui::use_threads(self.threads)?;
        let mut source = self.against.as_ref().map(|path| Model::open(path, &mut Vec::new())).transpose()?;
        let importance = match &mut source {
            Some(source) => match super::convert::transform(&self.file, source, &self.importance, ui)? {
                Some(importance) => importance,
                None => {
                    let text = self.importance.text(source, BackendArgs::default(), ui)?;
                    self.importance.open(source, text.as_ref(), ui)?
                }
            },
            None if self.importance.data().is_some() => {
                return Err(caller("--imatrix and --calibration go with --against, which quantizes again"));
            }
            None => None,
        };
        if let (Some(importance), Some(source)) = (&importance, &source) {
            importance.unknown(source)?;
        }
        let (gguf, mut findings) = verify::structure(&self.file)?;
        let (mut reports, mut proved) = (Vec::new(), None);
        if let Some(gguf) = &gguf {
            let total: u64 = gguf.tensors().iter().map(|t| t.range.len() as u64).sum();
            let bar = ui.bytes_bar(total * if source.is_some() { 3 } else { 2 });
            proved = provenance::check(gguf, &mut findings, |n| bar.inc(n));
            verify::nonfinite(gguf, &mut findings, |n| bar.inc(n));
            if let Some(source) = &source {
                reports = verify::against(gguf, source, importance.as_ref(), &mut findings, |n| bar.inc(n))?;
            }
            bar.finish_and_clear();
        }
        if self.json {
            report::print_json(&self.to_json(gguf.as_ref(), &findings, &reports, proved))?;
        } else {
            self.print(gguf.as_ref(), &findings, &reports, proved)?;
        }
        findings.notes.iter().for_each(|n| ui.warn(n.to_string()));
        match findings.problems.len() {
            0 => ui.refuse_warnings(),
            1 => anyhow::bail!("{}: 1 problem", self.file.display()),
            n => anyhow::bail!("{}: {n} problems", self.file.display()),
        }
    }
}

impl Verify {
    fn print(
        &self,
        gguf: Option<&Gguf>,
        findings: &Findings,
        reports: &[TensorReport],
        proved: Option<usize>,
    ) -> Result<()> {
        let mut out = String::new();
        if self.tensors {
            out += &format!("{}\n\n", tensors(reports).to_string_as(Style::Plain));
        }
        if !findings.problems.is_empty() {
            let mut table = Table::new(&["place", "problem"]).texts(&["place", "problem"]);
            findings.problems.iter().for_each(|p| table.row([&p.place, &p.problem]));
            out += &format!("{}\n\n", table.to_string_as(Style::Plain));
        }
        if let Some(gguf) = gguf {
            let verdict = if findings.problems.is_empty() { "ok" } else { "wrong" };
            let size = ui::bytes(gguf.size());
            let n = gguf.tensors().len();
            let sealed = match proved {
                Some(proved) if proved == n => "; every tensor has the SHA-256 that was recorded".to_owned(),
                Some(proved) => format!("; {proved} tensors have the SHA-256 that was recorded"),
                None => "; no SHA-256 is recorded".to_owned(),
            };
            let s = if n == 1 { "" } else { "s" };
            let moved = match verify::mover(gguf).filter(|_| !reports.is_empty()) {
                Some(method) => format!("; {method} moves weights on purpose: only whole tensors are compared"),
                None => String::new(),
            };
            out += &format!("{verdict}: {n} tensor{s}, {size}{sealed}{}{moved}\n", compared(reports));
        }
        match std::io::stdout().write_all(out.as_bytes()) {
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            other => Ok(other?),
        }
    }

    fn to_json(
        &self,
        gguf: Option<&Gguf>,
        findings: &Findings,
        reports: &[TensorReport],
        proved: Option<usize>,
    ) -> serde_json::Value {
        let mut out = json!({
            "file": self.file,
            "ok": findings.problems.is_empty(),
            "problems": findings.problems,
            "notes": findings.notes,
            "tensor_count": gguf.map(|g| g.tensors().len()),
            "bytes": gguf.map(Gguf::size),
            "recorded_digests": proved,
        });
        if let Some(source) = &self.against {
            out["source"] = json!(source);
            for (key, verdict) in
                [("exact", Verdict::Exact), ("plausible", Verdict::Plausible), ("wrong", Verdict::Wrong)]
            {
                out[key] = json!(reports.iter().filter(|r| r.verdict == verdict).count());
            }
            out["worst_relative_error"] = json!(worst(reports).map(|r| r.relative_error));
            out["tensors"] = json!(reports);
        }
        out
    }
}

/// `; all exactly what quantizing the source gives; worst relative error 0.071 (blk.3.ffn_down.weight, Q4_K)`
fn compared(reports: &[TensorReport]) -> String {
    let Some(worst) = worst(reports) else { return String::new() };
    let exact = reports.iter().filter(|r| r.verdict == Verdict::Exact).count();
    if worst.relative_error == 0.0 {
        return "; every weight equals the source's".to_owned();
    }
    let exact = match exact {
        n if n == reports.len() => "all byte for byte what quantizing the source gives".to_owned(),
        n => format!("{n} byte for byte what quantizing the source gives"),
    };
    let digits = if worst.relative_error < 0.001 { 6 } else { 4 };
    format!("; {exact}; worst relative error {:.digits$} ({}, {})", worst.relative_error, worst.name, worst.format)
}

fn worst(reports: &[TensorReport]) -> Option<&TensorReport> {
    reports.iter().max_by(|a, b| a.relative_error.total_cmp(&b.relative_error))
}

fn tensors(reports: &[TensorReport]) -> Table {
    let mut table = Table::new(&[
        "tensor",
        "type",
        "relative error",
        "plain",
        "max error",
        "SNR dB",
        "cosine",
        "exact blocks",
        "worst block",
        "verdict",
    ]);
    for r in reports {
        table.row([
            r.name.clone(),
            r.format.to_owned(),
            format!("{:.3e}", r.relative_error),
            format!("{:.3e}", r.plain_relative_error),
            format!("{:.2e}", r.max_error),
            if r.snr_db.is_finite() { format!("{:.1}", r.snr_db) } else { "-".to_owned() },
            format!("{:.6}", r.cosine),
            format!("{:.2}%", 100.0 * r.exact_blocks as f64 / r.blocks.max(1) as f64),
            format!("{:.2}", r.worst_block),
            format!("{:?}", r.verdict).to_lowercase(),
        ]);
    }
    table
}
