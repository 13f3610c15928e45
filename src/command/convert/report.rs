//! What `qconv convert` tells.

use super::target::Decided;
use crate::convert::{Layout, Part, Plan, Summary};
use crate::engine::memory;
use crate::outln;
use crate::report::{self, Table};
use crate::ui::{self, Ui};
use anyhow::Result;
use qconv_formats::block::BlockFormat;

/// What was done.
pub fn summary(summary: &Summary, ui: &Ui) -> Result<()> {
    if summary.unchanged {
        outln!("{}: unchanged", summary.output.display());
        return Ok(());
    }
    let per_second = summary.parameters as f64 / summary.seconds / 1e6;
    let digits = if per_second < 10.0 { 2 } else { 0 };
    outln!(
        "{}: {} -> {} {} ({:.2} bits per weight) in {}, {per_second:.digits$} Mweights/s, peak memory {}",
        shown(summary),
        ui::bytes(summary.source_bytes),
        summary.mix,
        ui::bytes(summary.bytes),
        summary.bits_per_weight,
        ui::seconds(summary.seconds),
        memory::peak().map_or("unknown".into(), ui::bytes),
    );
    let mut notes = vec![format!("{} tensors", summary.tensors)];
    if summary.fallbacks > 0 {
        notes.push(format!(
            "{} in another type than the mix asks for ({:+.3} bits per weight)",
            summary.fallbacks, summary.fallback_bits_per_weight
        ));
    }
    notes.extend(summary.importance.as_ref().map(|i| i.note()));
    if summary.resumed > 0 {
        notes.push(format!("{} of them from an interrupted run", summary.resumed));
    }
    notes.push(if summary.verified {
        "structure verified".into()
    } else {
        "structure not verified (--no-verify)".to_owned()
    });
    let warnings = ui.warnings().len();
    notes.push(format!("{warnings} warning{}", if warnings == 1 { "" } else { "s" }));
    ui.note(format!("  {}", notes.join("; ")));
    if let Some(cpu) = &summary.cpu_seconds {
        let stages = [
            ("reading", cpu.reading),
            ("quantizing", cpu.quantizing),
            ("hashing", cpu.hashing),
            ("writing", cpu.writing),
        ];
        let stages = stages.map(|(name, time)| format!("{name} {}", ui::seconds(time)));
        ui.note(format!("  CPU time: {}", stages.join(", ")));
    }
    Ok(())
}

/// What a budget led to.
pub fn decided(decided: &Decided, seconds: f64, ui: &Ui) {
    let gap = if decided.bound > 0.0 { (decided.predicted / decided.bound - 1.0) * 100.0 } else { 0.0 };
    let quality = match decided.measured {
        Some(measured) => format!(
            "divergence on the calibration text {measured:.5} nats, {:.5} as the sum of all tensors'; ",
            decided.predicted
        ),
        None => String::new(),
    };
    let exact = if gap < 0.005 {
        "no other plan has a smaller sum".into()
    } else {
        format!("no other plan has a sum smaller by more than {gap:.2}%")
    };
    let speed = decided.predicted_tokens_per_second.map_or(String::new(), |pace| {
        let (low, median, high) = (pace.low, pace.median, pace.high);
        format!("a model of these formats generated {low:.0} to {high:.0}, mostly {median:.0} tokens/s just now; ")
    });
    ui.note(format!(
        "budget: files of {} ({} bytes); {speed}{quality}{exact}; decided in {}",
        ui::bytes(decided.bytes),
        decided.bytes,
        ui::seconds(seconds)
    ));
}

/// What would be done.
pub fn plan(plan: &Plan, layout: &Layout, tensors: bool, json: bool, decided: Option<&Decided>) -> Result<()> {
    let name = |part: &Part| part.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let first = layout.written().first().map(&name).unwrap_or_default();
    if json {
        let list = plan.tensors.iter().map(|p| {
            serde_json::json!({
                "name": p.name, "shape": p.tensor.shape.dims(), "from": p.tensor.format.name, "to": p.format.name,
                "wanted": p.wanted.map(|w| w.name), "bytes": p.bytes(),
            })
        });
        let files = layout.written().iter().map(|part| {
            let (tensors, bytes) = (part.tensors.len(), part.writer.file_size());
            serde_json::json!({ "name": name(part), "tensors": tensors, "bytes": bytes })
        });
        return report::print_json(&serde_json::json!({
            "output": first, "files": files.collect::<Vec<_>>(), "type": plan.mix.name, "parameters": plan.parameters(), "source_bytes": plan.source_bytes(),
            "bytes": plan.bytes(), "bits_per_weight": plan.bits_per_weight(), "fallbacks": plan.fallbacks().count(),
            "fallback_bits_per_weight": plan.fallback_cost(), "importance": plan.importance,
            "tensors": list.collect::<Vec<_>>(), "allocation": decided,
        }));
    }
    if tensors {
        let mut table = Table::new(&["tensor", "shape", "from", "to", "size", "bits/weight"]);
        for p in &plan.tensors {
            let to = match p.wanted {
                Some(w) => format!("{} (not {})", p.format.name, w.name),
                None => p.format.name.to_owned(),
            };
            table.row([
                p.name.clone(),
                p.tensor.shape.to_string(),
                p.tensor.format.name.into(),
                to,
                ui::bytes(p.bytes()),
                format!("{:.4}", p.format.bits_per_weight()),
            ]);
        }
        table.print();
        outln!();
    }
    let mut table = Table::new(&["type", "tensors", "weights", "size", "bits/weight"]);
    let mut formats: Vec<&BlockFormat> = Vec::new();
    for p in &plan.tensors {
        if !formats.contains(&p.format) {
            formats.push(p.format);
        }
    }
    for format in formats {
        let group: Vec<_> = plan.tensors.iter().filter(|p| p.format == format).collect();
        let weights: u64 = group.iter().map(|p| p.tensor.shape.len() as u64).sum();
        let size: u64 = group.iter().map(|p| p.bytes()).sum();
        table.row([
            format.name.to_owned(),
            group.len().to_string(),
            ui::count(weights),
            ui::bytes(size),
            format!("{:.4}", format.bits_per_weight()),
        ]);
    }
    table.print();
    if layout.is_split() {
        outln!();
        let mut table = Table::new(&["file", "tensors", "size"]).texts(&["file"]);
        for part in layout.written() {
            table.row([name(part), part.tensors.len().to_string(), ui::bytes(part.writer.file_size())]);
        }
        table.print();
    }
    outln!(
        "\nwould write {first}: {} -> {} {}, {:.2} bits per weight, {} fallbacks ({:+.3} bits per weight); nothing was written",
        ui::bytes(plan.source_bytes()),
        plan.mix.name,
        ui::bytes(plan.bytes()),
        plan.bits_per_weight(),
        plan.fallbacks().count(),
        plan.fallback_cost(),
    );
    Ok(())
}

/// The file, or how many there are.
fn shown(summary: &Summary) -> String {
    match summary.files.len() {
        0 | 1 => summary.output.display().to_string(),
        n => format!("{} and {} more", summary.output.display(), n - 1),
    }
}
