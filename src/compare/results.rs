//! A study's results for people and for programs.

use super::{Outcome, Row, advice, page};
use crate::output;
use crate::report::{Style, Table};
use crate::ui;
use anyhow::Result;
use qconv_formats::Error;
use serde_json::{Map, Value, json};
use std::path::Path;

fn or_dash(x: Option<String>) -> String {
    x.unwrap_or_else(|| "-".into())
}

/// A table of all rows, with a column for the model where there are several.
fn tabled(outcomes: &[Outcome], head: &[&str], cells: impl Fn(&Row) -> Vec<String>) -> Table {
    let several = outcomes.len() > 1;
    let models: &[&str] = if several { &["model"] } else { &[] };
    let mut table = Table::new(&[models, head].concat()).texts(models);
    for outcome in outcomes {
        for row in &outcome.rows {
            table.row(several.then(|| outcome.title.clone()).into_iter().chain(cells(row)));
        }
    }
    table
}

/// The table that people read.
pub fn table(outcomes: &[Outcome]) -> Table {
    let head = [
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
    ];
    tabled(outcomes, &head, |r| {
        let q = r.quality.as_ref();
        let d = q.and_then(|q| q.divergence.as_ref());
        vec![
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
        ]
    })
}

/// Every figure, without rounding.
fn figures(outcomes: &[Outcome]) -> Table {
    let head = [
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
    ];
    let number = |x: Option<f64>| x.map_or(String::new(), |x| x.to_string());
    let whole = |x: Option<u64>| x.map_or(String::new(), |x| x.to_string());
    tabled(outcomes, &head, |r| {
        let q = r.quality.as_ref();
        let d = q.and_then(|q| q.divergence.as_ref());
        vec![
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
        ]
    })
}

/// Every row as JSON, with its model where there are several.
pub fn rows(outcomes: &[Outcome]) -> Result<Value> {
    let mut all = Vec::new();
    for outcome in outcomes {
        for row in &outcome.rows {
            let row = serde_json::to_value(row)?;
            let mut named = Map::new();
            if outcomes.len() > 1 {
                named.insert("model".into(), outcome.title.clone().into());
            }
            named.extend(row.as_object().cloned().unwrap_or_default());
            all.push(Value::Object(named));
        }
    }
    Ok(all.into())
}

/// Flags and advice as lists, for each model.
pub fn remarks(outcomes: &[Outcome], sizes: &[u64]) -> String {
    let each = |outcome: &Outcome| {
        let title = if outcomes.len() > 1 { format!("## {}\n\n", outcome.title) } else { String::new() };
        title + &remarks_on(&outcome.rows, sizes)
    };
    outcomes.iter().map(each).collect::<Vec<_>>().join("\n")
}

fn remarks_on(rows: &[Row], sizes: &[u64]) -> String {
    let mut out = String::new();
    let flagged: Vec<&Row> = rows.iter().filter(|r| !r.flags.is_empty()).collect();
    if !flagged.is_empty() {
        out += "Flagged:\n\n";
        flagged.iter().for_each(|r| out += &format!("- {}: {}\n", r.label(), r.flags.join("; ")));
        out += "\n";
    }
    if rows.iter().skip(1).any(|r| r.failure.is_none() && r.verified.is_none()) {
        out += "Verified \"-\": transforms made other tensors than the source's, and only the file's structure was checked; \
                `qconv verify --against` repeats them.\n\n";
    }
    out += "Recommended:\n\n";
    for a in advice(rows, sizes) {
        match &a.variant {
            Some(variant) => out += &format!("- {}: **{variant}** ({})\n", a.purpose, a.reason),
            None => out += &format!("- {}: none; {}\n", a.purpose, a.reason),
        }
    }
    out
}

/// What the study is called.
pub fn title(outcomes: &[Outcome]) -> String {
    outcomes.iter().map(|o| o.title.as_str()).collect::<Vec<_>>().join(", ")
}

/// Divergences side by side, a column for each model: whether what is good for one is good for the others.
pub fn side_by_side(outcomes: &[Outcome]) -> Table {
    let models: Vec<&str> = outcomes.iter().map(|o| o.title.as_str()).collect();
    let mut table = Table::new(&[&["type"], &models[..]].concat()).texts(&["type"]);
    // All have the same variants in the same order, behind the original.
    for (i, row) in outcomes[0].rows.iter().enumerate().skip(1) {
        let figure = |o: &Outcome| or_dash(o.rows.get(i).and_then(Row::divergence).map(|d| format!("{d:.5}")));
        table.row(std::iter::once(row.label()).chain(outcomes.iter().map(figure)));
    }
    table
}

/// The study as a Markdown page.
fn markdown(outcomes: &[Outcome], sizes: &[u64]) -> String {
    let table = table(outcomes).to_string_as(Style::Markdown);
    let conditions = |outcome: &Outcome| -> String {
        page::conditions(outcome).into_iter().map(|(k, v)| format!("- {k}: {v}\n")).collect()
    };
    let title = title(outcomes);
    let [outcome] = outcomes else {
        let divergences = side_by_side(outcomes).to_string_as(Style::Markdown);
        let each =
            |o: &Outcome| format!("## {}\n\n{}\nConditions:\n\n{}", o.title, remarks_on(&o.rows, sizes), conditions(o));
        let sections = outcomes.iter().map(each).collect::<Vec<_>>().join("\n");
        return format!("# {title}\n\n{table}\n\nDivergence, nats:\n\n{divergences}\n\n{sections}");
    };
    let remarks = remarks_on(&outcome.rows, sizes);
    format!("# {title}\n\n{table}\n\n{remarks}\nConditions:\n\n{}", conditions(outcome))
}

/// Writes `results.json`, `results.csv`, `results.md` and `index.html`, each whole or not at all.
pub fn write(folder: &Path, outcomes: &[Outcome], sizes: &[u64]) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let whole = |o: &Outcome| {
        let advice = advice(&o.rows, sizes);
        json!({ "title": o.title, "made_from": o.made_from, "rows": o.rows, "recommendations": advice })
    };
    let json = match outcomes {
        [outcome] => whole(outcome),
        _ => json!({ "models": outcomes.iter().map(whole).collect::<Vec<_>>() }),
    };
    for (name, text) in [
        ("results.json", serde_json::to_string_pretty(&json)? + "\n"),
        ("results.csv", figures(outcomes).to_string_as(Style::Csv) + "\n"),
        ("results.md", markdown(outcomes, sizes)),
        ("index.html", page::html(outcomes, sizes)?),
    ] {
        output::write_whole(folder.join(name), text.as_bytes(), true)?;
    }
    Ok(())
}
