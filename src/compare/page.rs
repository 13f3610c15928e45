//! The page with charts: one file without any reference to the network.

use super::chart::{self, Axis, Bars, Group, Point, Scale, Scatter};
use super::{Advice, Outcome, Row, advice, advice::front, results};
use crate::report::Table;
use crate::ui;
use anyhow::Result;
use plotters::style::RGBColor;
use serde_json::Value;
use std::fmt::Write as _;

/// A text between tags or in an attribute.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The whole page: one model's, or a section for each of several.
pub fn html(outcomes: &[Outcome], sizes: &[u64]) -> Result<String> {
    let title = escaped(&results::title(outcomes));
    let body = match outcomes {
        [outcome] => {
            format!("<h1>{title}</h1>\n{lead}{section}", lead = lead(outcome), section = section(outcome, sizes, "h2")?)
        }
        _ => several(outcomes, sizes)?,
    };
    Ok(format!(
        r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}: quantizations compared</title>
<style>
{css}{roles}</style>
</head>
<body>
{body}</body>
</html>
"#,
        css = include_str!("page.css"),
        roles = roles(),
    ))
}

/// What is common to all models, and then a section for each.
fn several(outcomes: &[Outcome], sizes: &[u64]) -> Result<String> {
    let mut out = format!("<h1>{} models compared</h1>\n<p class=\"lead\">", outcomes.len());
    let links = outcomes.iter().enumerate().map(|(i, o)| format!("<a href=\"#m{i}\">{}</a>", escaped(&o.title)));
    out += &links.collect::<Vec<_>>().join(" · ");
    out += "</p>\n<h2>Divergence side by side</h2>\n<div class=\"wide\">\n";
    out += &plain_table(&results::side_by_side(outcomes));
    out += "</div>\n<p>In nats per token, from each model's own original. Perplexities of models with other vocabularies or windows \
            cannot be compared with each other; these can, with care.</p>\n";
    for (i, outcome) in outcomes.iter().enumerate() {
        let (title, lead) = (escaped(&outcome.title), lead(outcome));
        let _ = write!(out, "<section id=\"m{i}\">\n<h2>{title}</h2>\n{lead}");
        out += &section(outcome, sizes, "h3")?;
        out += "</section>\n";
    }
    Ok(out)
}

fn plain_table(table: &Table) -> String {
    let line = |tag: &str, cells: &[String]| {
        let cells: String = cells.iter().map(|c| format!("<{tag}>{}</{tag}>", escaped(c))).collect();
        format!("<tr>{cells}</tr>\n")
    };
    let rows: String = table.rows().iter().map(|row| line("td", row)).collect();
    format!("<table class=\"small\">\n<thead>{}</thead>\n<tbody>\n{rows}</tbody>\n</table>\n", line("th", table.head()))
}

fn lead(outcome: &Outcome) -> String {
    let original = &outcome.rows[0];
    let size = original.bytes.map_or(String::new(), |n| format!(", {}", ui::bytes(n)));
    let lead = format!("{} variants against {}{size}", outcome.rows.len() - 1, original.label());
    format!("<p class=\"lead\">{}</p>\n", escaped(&lead))
}

/// All about one model, under headings of one level.
fn section(outcome: &Outcome, sizes: &[u64], h: &str) -> Result<String> {
    let rows = &outcome.rows;
    let charts = charts(rows)?;
    let figures: String = charts.iter().map(|svg| format!("<figure>{svg}</figure>\n")).collect();
    let conditions: String =
        conditions(outcome).iter().map(|(k, v)| format!("<dt>{}</dt><dd>{}</dd>\n", escaped(k), escaped(v))).collect();
    Ok(format!(
        r#"<{h}>Recommended</{h}>
<div class="advice">
{cards}</div>
{flags}<{h}>Charts</{h}>
<div class="charts">
{figures}</div>
<{h}>Figures</{h}>
<div class="wide">
{table}</div>
<p>Changes in small print are against the original. Perplexities are given with their standard errors. The divergence is
Kullback and Leibler's, of the original's predictions from the variant's, in nats per token; 0 is perfect.</p>
<{h}>Conditions</{h}>
<dl>
{conditions}</dl>
"#,
        cards = cards(&advice(rows, sizes)),
        flags = flags(rows, h),
        table = table(rows),
    ))
}

/// The rules that give a chart's colours their roles.
fn roles() -> String {
    let mut out = String::new();
    let mut rule = |color: RGBColor, name: &str| {
        let hex = chart::hex(color);
        let _ = writeln!(
            out,
            "svg [fill=\"{hex}\"] {{ fill: var(--{name}); }} svg [stroke=\"{hex}\"] {{ stroke: var(--{name}); }}"
        );
    };
    rule(chart::INK, "ink");
    rule(chart::SOFT, "soft");
    rule(chart::GRID, "grid");
    chart::SERIES.iter().enumerate().for_each(|(i, color)| rule(*color, &format!("s{i}")));
    out
}

fn cards(advice: &[Advice]) -> String {
    let card = |a: &Advice| {
        let variant = a.variant.as_deref().unwrap_or("none");
        let [purpose, variant, reason] = [&a.purpose, variant, &a.reason].map(escaped);
        format!("<div><span>{purpose}</span><b>{variant}</b><span>{reason}</span></div>\n")
    };
    advice.iter().map(card).collect()
}

fn flags(rows: &[Row], h: &str) -> String {
    let line = |r: &Row| format!("<li><b>{}</b>: {}</li>\n", escaped(&r.label()), escaped(&r.flags.join("; ")));
    let lines: String = rows.iter().filter(|r| !r.flags.is_empty()).map(line).collect();
    if lines.is_empty() { lines } else { format!("<{h}>Flagged</{h}>\n<ul class=\"flags\">\n{lines}</ul>\n") }
}

fn table(rows: &[Row]) -> String {
    let mut out = String::from("<table>\n<thead><tr>");
    for head in [
        "type",
        "bits per weight",
        "size",
        "conversion",
        "its memory",
        "perplexity",
        "change",
        "divergence",
        "same top token",
        "prompt tokens/s",
        "generated tokens/s",
        "memory of a run",
    ] {
        let _ = write!(out, "<th>{head}</th>");
    }
    out += "</tr></thead>\n<tbody>\n";
    let cell = |x: Option<String>| x.unwrap_or_else(|| "–".into());
    let with = |x: Option<String>, change: Option<f64>| {
        let change = change.map_or(String::new(), |c| format!(" <small>{c:+.0}%</small>"));
        x.map_or("–".into(), |x| x + &change)
    };
    for r in rows {
        let q = r.quality.as_ref();
        let d = q.and_then(|q| q.divergence.as_ref());
        let class = if r.flags.is_empty() { "" } else { " class=\"flagged\"" };
        let _ = write!(out, "<tr{class}>");
        for text in [
            escaped(&r.label()),
            cell(r.bits_per_weight.map(|b| format!("{b:.2}"))),
            with(r.bytes.map(ui::bytes), r.bytes_change),
            cell(r.convert_seconds.map(ui::seconds)),
            cell(r.convert_peak_memory.map(ui::bytes)),
            cell(q.map(|q| format!("{:.3} <small>± {:.3}</small>", q.perplexity, q.perplexity_error))),
            cell(r.perplexity_change.map(|x| format!("{x:+.2}%"))),
            cell(d.map(|d| format!("{:.5}", d.kl_divergence))),
            cell(d.map(|d| format!("{:.1}%", d.top1_agreement * 100.0))),
            with(r.prompt_tokens_per_second.map(|x| format!("{x:.0}")), r.prompt_change),
            with(r.generation_tokens_per_second.map(|x| format!("{x:.0}")), r.generation_change),
            with(r.peak_memory.map(ui::bytes), r.memory_change),
        ] {
            let _ = write!(out, "<td>{text}</td>");
        }
        out += "</tr>\n";
    }
    out + "</tbody>\n</table>\n"
}

const DIVERGENCE: &str = "KL divergence from the original, nats (log scale)";

fn charts(rows: &[Row]) -> Result<Vec<String>> {
    let (original, variants) = (&rows[0], &rows[1..]);
    let mut series: Vec<String> = Vec::new();
    for method in variants.iter().filter_map(|r| r.method.clone()) {
        if !series.contains(&method) {
            series.push(method);
        }
    }
    let points = |x: &dyn Fn(&Row) -> Option<f64>| -> Vec<Point> {
        let point = |r: &Row| {
            let series = series.iter().position(|s| Some(s) == r.method.as_ref())?;
            let (x, y) = (x(r)?, r.divergence()?);
            (x > 0.0 && y > 0.0).then(|| Point { name: r.mix.clone(), x, y, series })
        };
        variants.iter().filter_map(point).collect()
    };
    let quality = || Axis::new(DIVERGENCE, Scale::Log);
    let mut out = Vec::new();

    let unit = size_unit(original.bytes.unwrap_or(0));
    let by_size = points(&|r| r.bytes.map(|n| n as f64 / unit.1));
    let best = front(&by_size.iter().map(|p| (p.x, p.y)).collect::<Vec<_>>());
    out.push(chart::scatter(&Scatter {
        title: "Quality against size",
        x: Axis::new(format!("file size, {}", unit.0), Scale::Linear),
        y: quality(),
        series: &series,
        points: &by_size,
        line: Some((&best, "Pareto front: nothing is smaller and better")),
        limit: None,
    })?);
    let by_speed = points(&|r| r.generation_tokens_per_second);
    if !by_speed.is_empty() {
        let limit = original.generation_tokens_per_second.map(|rate| (rate, "original"));
        out.push(chart::scatter(&Scatter {
            title: "Quality against speed",
            x: Axis::new("generated tokens per second", Scale::Linear),
            y: quality(),
            series: &series,
            points: &by_speed,
            line: None,
            limit,
        })?);
    }
    let by_time = points(&|r| r.convert_seconds);
    out.push(chart::scatter(&Scatter {
        title: "Quality against conversion time",
        x: Axis::new("conversion, seconds (log scale)", Scale::Log),
        y: quality(),
        series: &series,
        points: &by_time,
        line: None,
        limit: None,
    })?);

    let rows: Vec<&Row> = rows.iter().filter(|r| r.failure.is_none()).collect();
    let names: Vec<String> = rows.iter().map(|r| r.label()).collect();
    let latency = Group { name: "generation", figures: rows.iter().map(|r| r.token_milliseconds()).collect() };
    let milliseconds = |x: f64| if x < 10.0 { format!("{x:.3} ms") } else { format!("{x:.1} ms") };
    if latency.figures.iter().any(Option::is_some) {
        let unit = "milliseconds per token (shorter is better)";
        out.push(chart::bars(&Bars { title: "Latency", unit, names: &names, groups: &[latency], show: milliseconds })?);
    }
    let megabytes = |x: Option<u64>| x.map(|n| n as f64 / 1e6);
    let groups = [
        Group { name: "running it", figures: rows.iter().map(|r| megabytes(r.peak_memory)).collect() },
        Group { name: "converting it", figures: rows.iter().map(|r| megabytes(r.convert_peak_memory)).collect() },
    ];
    if groups.iter().any(|g| g.figures.iter().any(Option::is_some)) {
        let show = |x: f64| ui::bytes((x * 1e6) as u64);
        let unit = "highest resident memory, MB";
        out.push(chart::bars(&Bars { title: "Memory", unit, names: &names, groups: &groups, show })?);
    }
    Ok(out)
}

/// Name and bytes of the unit in which files of this size are counted.
fn size_unit(bytes: u64) -> (&'static str, f64) {
    if bytes < 1_000_000 {
        ("kB", 1e3)
    } else if bytes < 10_000_000_000 {
        ("MB", 1e6)
    } else {
        ("GB", 1e9)
    }
}

/// What the figures depend on, for people: name and value.
pub fn conditions(outcome: &Outcome) -> Vec<(String, String)> {
    let made = &outcome.made_from;
    let text = |v: &Value| match v {
        Value::String(s) => s.clone(),
        Value::Null => "unknown".into(),
        other => other.to_string(),
    };
    let short = |v: &Value| text(v).chars().take(16).collect::<String>();
    let words = |v: &Value| {
        let all = v.as_array().into_iter().flatten().map(&text).collect::<Vec<_>>().join(" ");
        if all.is_empty() { "none".into() } else { all }
    };
    let mut out = vec![("qconv".to_owned(), text(&made["qconv"]["version"]))];
    if let Some(q) = &outcome.rows[0].quality {
        let (tokens, windows, ctx) = (q.tokens, q.chunks, q.ctx);
        out.push((
            "text".into(),
            format!(
                "{} (SHA-256 {}...), {tokens} tokens scored in {windows} windows of {ctx}",
                text(&made["text"]["file"]),
                short(&made["text"]["sha256"]),
            ),
        ));
    }
    if !made["calibration"].is_null() {
        let c = &made["calibration"];
        out.push(("calibration".into(), format!("{} (SHA-256 {}...)", words(&c["options"]), short(&c["sha256"]))));
    }
    let (prompt, generate) = (&made["speed"]["prompt"], &made["speed"]["generate"]);
    out.push((
        "speed".into(),
        format!("prompt of {} tokens, {} generated; best read as ratios", text(prompt), text(generate)),
    ));
    out.push(("computed on".into(), text(&made["computing"]["backend"])));
    let m = &made["machine"];
    let memory = m["memory_bytes"].as_u64().map_or("unknown memory".into(), ui::bytes);
    out.push((
        "machine".into(),
        format!("{}, {} threads, {memory}, {}", text(&m["cpu"]), text(&m["threads"]), text(&m["system"])),
    ));
    let source: Vec<String> = made["source"].as_array().into_iter().flatten().map(&text).collect();
    out.push((
        "source".into(),
        source
            .iter()
            .map(|l| {
                l.split_once("  ")
                    .map_or(l.clone(), |(digest, name)| format!("{name} ({}...)", &digest[..16.min(digest.len())]))
            })
            .collect::<Vec<_>>()
            .join(", "),
    ));
    out
}
