//! A study's results for people and for programs.

use super::{Advice, Outcome, Row, advice, page};
use crate::output;
use crate::report::{Style, Table};
use crate::ui;
use anyhow::Result;
use qconv_formats::Error;
use serde_json::json;
use std::path::Path;

fn or_dash(x: Option<String>) -> String {
    x.unwrap_or_else(|| "-".into())
}

/// The table that people read.
pub fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(&[
        "type",
        "bits/weight",
        "size",
        "convert",
        "verified",
        "perplexity",
        "vs original",
        "KL divergence",
        "same top",
        "prompt t/s",
        "gen t/s",
        "memory",
    ]);
    for r in rows {
        let q = r.quality.as_ref();
        let d = q.and_then(|q| q.divergence.as_ref());
        table.row([
            r.label(),
            or_dash(r.bits_per_weight.map(|b| format!("{b:.2}"))),
            or_dash(r.bytes.map(ui::bytes)),
            if r.failure.is_some() { "failed".into() } else { or_dash(r.convert_seconds.map(ui::seconds)) },
            or_dash(r.verified.map(|ok| if ok { "yes".into() } else { "NO".into() })),
            or_dash(q.map(|q| format!("{:.3} ± {:.3}", q.perplexity, q.perplexity_error))),
            or_dash(r.perplexity_change.map(|x| format!("{x:+.2}%"))),
            or_dash(d.map(|d| format!("{:.5}", d.kl_divergence))),
            or_dash(d.map(|d| format!("{:.1}%", d.top1_agreement * 100.0))),
            or_dash(r.prompt_tokens_per_second.map(|x| format!("{x:.0}"))),
            or_dash(r.generation_tokens_per_second.map(|x| format!("{x:.0}"))),
            or_dash(r.peak_memory.map(ui::bytes)),
        ]);
    }
    table
}

/// Every figure, without rounding.
fn figures(rows: &[Row]) -> Table {
    let mut table = Table::new(&[
        "type",
        "method",
        "bits_per_weight",
        "bytes",
        "bytes_change_percent",
        "convert_seconds",
        "convert_peak_memory_bytes",
        "verified",
        "fallbacks",
        "perplexity",
        "perplexity_error",
        "perplexity_change_percent",
        "kl_divergence",
        "kl_divergence_error",
        "top1_agreement",
        "prompt_tokens_per_second",
        "prompt_change_percent",
        "generation_tokens_per_second",
        "generation_change_percent",
        "peak_memory_bytes",
        "memory_change_percent",
        "flags",
    ]);
    let number = |x: Option<f64>| x.map_or(String::new(), |x| x.to_string());
    let whole = |x: Option<u64>| x.map_or(String::new(), |x| x.to_string());
    for r in rows {
        let q = r.quality.as_ref();
        let d = q.and_then(|q| q.divergence.as_ref());
        table.row([
            r.mix.clone(),
            r.method.clone().unwrap_or_default(),
            number(r.bits_per_weight),
            whole(r.bytes),
            number(r.bytes_change),
            number(r.convert_seconds),
            whole(r.convert_peak_memory),
            r.verified.map_or(String::new(), |v| v.to_string()),
            whole(r.fallbacks.map(|n| n as u64)),
            number(q.map(|q| q.perplexity)),
            number(q.map(|q| q.perplexity_error)),
            number(r.perplexity_change),
            number(d.map(|d| d.kl_divergence)),
            number(d.map(|d| d.kl_divergence_error)),
            number(d.map(|d| d.top1_agreement)),
            number(r.prompt_tokens_per_second),
            number(r.prompt_change),
            number(r.generation_tokens_per_second),
            number(r.generation_change),
            whole(r.peak_memory),
            number(r.memory_change),
            r.flags.join("; "),
        ]);
    }
    table
}

/// Flags and advice as lists.
pub fn remarks(rows: &[Row], advice: &[Advice]) -> String {
    let mut out = String::new();
    let flagged: Vec<&Row> = rows.iter().filter(|r| !r.flags.is_empty()).collect();
    if !flagged.is_empty() {
        out += "Flagged:\n\n";
        flagged.iter().for_each(|r| out += &format!("- {}: {}\n", r.label(), r.flags.join("; ")));
        out += "\n";
    }
    out += "Recommended:\n\n";
    for a in advice {
        match &a.variant {
            Some(variant) => out += &format!("- {}: **{variant}** ({})\n", a.purpose, a.reason),
            None => out += &format!("- {}: none; {}\n", a.purpose, a.reason),
        }
    }
    out
}

/// The study as a Markdown page.
fn markdown(title: &str, outcome: &Outcome, advice: &[Advice]) -> String {
    let table = table(&outcome.rows).to_string_as(Style::Markdown);
    let conditions: Vec<String> = page::conditions(outcome).into_iter().map(|(k, v)| format!("- {k}: {v}\n")).collect();
    format!("# {title}\n\n{table}\n\n{}\nConditions:\n\n{}", remarks(&outcome.rows, advice), conditions.concat())
}

/// Writes `results.json`, `results.csv`, `results.md` and `index.html`, each whole or not at all.
pub fn write(folder: &Path, title: &str, outcome: &Outcome, sizes: &[u64]) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let advice = advice(&outcome.rows, sizes);
    let json = json!({
        "title": title, "made_from": outcome.made_from, "rows": outcome.rows, "recommendations": advice,
    });
    for (name, text) in [
        ("results.json", serde_json::to_string_pretty(&json)? + "\n"),
        ("results.csv", figures(&outcome.rows).to_string_as(Style::Csv) + "\n"),
        ("results.md", markdown(title, outcome, &advice)),
        ("index.html", page::html(title, outcome, &advice)?),
    ] {
        output::write_whole(folder.join(name), text.as_bytes(), true)?;
    }
    Ok(())
}
