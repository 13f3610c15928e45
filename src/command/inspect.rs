//! `qconv inspect`

use super::Run;
use crate::inspect::{Stats, Subject, Tensor, escaped};
use crate::report::{self, Table};
use crate::ui::{self, Ui};
use anyhow::Result;
use serde_json::{Value as Json, json};
use std::io::Write;
use std::path::PathBuf;

/// Arguments of `qconv inspect`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  qconv inspect model.gguf
  qconv inspect model.gguf --tensors | less -S
  qconv inspect models/TinyLlama --stats
  qconv inspect model.gguf --json | jq '.metadata[\"llama.block_count\"]'

JSON: file, format (gguf, safetensors, huggingface), version, alignment, architecture, name, parameters, tensor_count,
file_size, bits_per_weight, types (an array of type, tensors, weights, bytes, bits_per_weight), metadata (an object; arrays
of more than 1024 elements are {length, type, first}), and with --tensors or --stats tensors (an array of name, shape with
the outermost dimension first, type, offset, bytes, file where there are several; stats: min, max, mean, std, zeros, nan,
inf, of finite weights where that matters; null for types that hold no weights).")]
pub struct Inspect {
    /// A GGUF file, a safetensors file, or a Hugging Face model folder
    file: PathBuf,

    /// One row per tensor: name, shape, type, offset, bytes
    #[arg(long)]
    tensors: bool,

    /// Read all weights, and show minimum, maximum, mean, standard deviation, zeros, NaN and infinities of each tensor
    #[arg(long)]
    stats: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Run for Inspect {
    fn run(self, ui: &Ui) -> Result<()> {
        let subject = Subject::open(&self.file)?;
        let stats = if self.stats { read_all(&subject, ui) } else { Vec::new() };
        if self.json {
            return report::print_json(&to_json(&subject, self.tensors, self.stats.then_some(&stats)));
        }
        let mut text = summary(&subject);
        if !subject.tensors.is_empty() {
            text += &format!("\n{}\n", types(&subject).to_string_as(report::Style::Plain));
        }
        if !subject.metadata.is_empty() {
            text += &format!("\n{}\n", metadata(&subject).to_string_as(report::Style::Plain));
        }
        if self.tensors || self.stats {
            text += &format!("\n{}\n", tensors(&subject, &stats).to_string_as(report::Style::Plain));
        }
        match std::io::stdout().write_all(text.as_bytes()) {
            // `| head` has seen enough.
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            other => Ok(other?),
        }
    }
}

fn read_all(subject: &Subject, ui: &Ui) -> Vec<Option<Stats>> {
    let bar = ui.bytes_bar(subject.tensors.iter().map(|t| t.range.len() as u64).sum());
    let stats = subject.tensors.iter().map(|t| {
        let stats = subject.stats(t);
        bar.inc(t.range.len() as u64);
        stats
    });
    let stats = stats.collect();
    bar.finish_and_clear();
    stats
}

/// The head of the report: one fact per line.
fn summary(subject: &Subject) -> String {
    let mut lines: Vec<(&str, String)> = vec![("file", escaped(&subject.path.display().to_string()))];
    let format = match (subject.format, subject.version, subject.alignment) {
        (_, Some(version), Some(alignment)) => format!("GGUF version {version}, alignment {alignment}"),
        ("huggingface", ..) => "Hugging Face folder".to_owned(),
        (other, ..) => other.to_owned(),
    };
    lines.push(("format", format));
    lines.extend(subject.architecture.as_ref().map(|a| ("architecture", escaped(a))));
    lines.extend(subject.name.as_ref().map(|n| ("name", escaped(n))));
    lines.push(("parameters", grouped(subject.parameters())));
    lines.push(("size", format!("{} ({} bytes)", ui::bytes(subject.bytes), grouped(subject.bytes))));
    if !subject.tensors.is_empty() {
        lines.push(("bits per weight", format!("{:.3}", subject.bits_per_weight())));
    }
    lines.push(("tensors", subject.tensors.len().to_string()));
    lines.into_iter().map(|(label, value)| format!(" {label:<16}  {value}\n")).collect()
}

fn types(subject: &Subject) -> Table {
    let mut table = Table::new(&["type", "tensors", "weights", "bytes", "bits per weight"]);
    for (name, s) in subject.types() {
        let bits = format!("{:.4}", s.bits_per_weight());
        table.row([name.to_owned(), s.tensors.to_string(), grouped(s.weights), grouped(s.bytes), bits]);
    }
    table
}

fn metadata(subject: &Subject) -> Table {
    let key = subject.metadata.iter().map(|(k, _)| k.chars().count()).max().unwrap_or(0);
    // Piped output does not depend on any terminal.
    let columns = console_width().unwrap_or(120);
    let width = columns.saturating_sub(key + 18).max(24);
    let mut table = Table::new(&["key", "type", "value"]).texts(&["key", "value"]);
    for (key, value) in &subject.metadata {
        table.row([escaped(key), value.kind.clone(), value.cut(width)]);
    }
    table
}

fn tensors(subject: &Subject, stats: &[Option<Stats>]) -> Table {
    let mut head = vec!["tensor", "shape", "type", "offset", "bytes"];
    if !stats.is_empty() {
        head.extend(["min", "max", "mean", "std", "zeros", "nan", "inf"]);
    }
    let mut table = Table::new(&head);
    for (i, t) in subject.tensors.iter().enumerate() {
        let mut row =
            vec![escaped(&t.name), shape(t), t.kind.clone(), t.range.start.to_string(), t.range.len().to_string()];
        match stats.get(i) {
            None => {}
            Some(None) => row.extend(["-"; 7].map(str::to_owned)),
            Some(Some(s)) => {
                row.extend([digits(s.min.into()), digits(s.max.into()), digits(s.mean), digits(s.std)]);
                row.extend([s.zeros, s.nan, s.inf].map(|n| n.to_string()));
            }
        }
        table.row(row);
    }
    table
}

fn to_json(subject: &Subject, tensors: bool, stats: Option<&Vec<Option<Stats>>>) -> Json {
    let types: Vec<Json> = subject.types().into_iter().map(|(name, s)| {
        json!({ "type": name, "tensors": s.tensors, "weights": s.weights, "bytes": s.bytes, "bits_per_weight": s.bits_per_weight() })
    }).collect();
    let metadata: serde_json::Map<String, Json> =
        subject.metadata.iter().map(|(k, v)| (k.clone(), v.json.clone())).collect();
    let mut out = json!({
        "file": subject.path,
        "format": subject.format,
        "version": subject.version,
        "alignment": subject.alignment,
        "architecture": subject.architecture,
        "name": subject.name,
        "parameters": subject.parameters(),
        "tensor_count": subject.tensors.len(),
        "file_size": subject.bytes,
        "bits_per_weight": subject.bits_per_weight(),
        "types": types,
        "metadata": metadata,
    });
    if tensors || stats.is_some() {
        let several = subject.tensors.iter().any(|t| t.file > 0);
        let row = |(i, t): (usize, &Tensor)| {
            let mut row = json!({
                "name": t.name, "shape": t.dims, "type": t.kind, "offset": t.range.start, "bytes": t.range.len(),
            });
            if several {
                row["file"] = json!(subject.file_name(t));
            }
            if let Some(stats) = stats {
                row["stats"] = json!(stats[i]);
            }
            row
        };
        out["tensors"] = subject.tensors.iter().enumerate().map(row).collect();
    }
    out
}

fn shape(t: &Tensor) -> String {
    if t.dims.is_empty() {
        return "scalar".to_owned();
    }
    t.dims.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ")
}

/// `1,234,567`
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// Four significant digits.
fn digits(x: f64) -> String {
    let size = x.abs();
    if x == 0.0 || !x.is_finite() {
        format!("{x}")
    } else if (1e-3..1e4).contains(&size) {
        let places = (3 - size.log10().floor() as i32).clamp(0, 6) as usize;
        format!("{x:.places$}")
    } else {
        format!("{x:.3e}")
    }
}

/// Columns of the terminal that standard output is; `None` if it is none.
fn console_width() -> Option<usize> {
    comfy_table::Table::new().width().map(usize::from)
}
