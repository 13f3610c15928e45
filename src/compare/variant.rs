//! The steps of one variant that run in processes of their own: only there are peaks of memory its own, and only so does a
//! variant that is killed not end the study.

use super::{Row, Study};
use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs this program with other arguments; its standard output as JSON. The error is the child's own.
fn this_program(args: &[String]) -> Result<Value> {
    let program = std::env::current_exe().context("finding the program itself")?;
    let out = Command::new(program).args(args).output().context("starting qconv again")?;
    if !out.status.success() {
        let text = String::from_utf8_lossy(&out.stderr);
        let line = text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("").trim();
        let said = text.lines().find_map(|l| l.split_once("error: ").map(|(_, rest)| rest)).unwrap_or(line);
        match out.status.code() {
            Some(_) if !said.is_empty() => bail!("{said}"),
            _ => bail!("qconv {} ended with {}: {said}", args[0], out.status),
        }
    }
    serde_json::from_slice(&out.stdout).with_context(|| format!("reading what qconv {} told", args[0]))
}

/// Converts into `folder`; fills in what is known then.
pub fn convert(study: &Study, row: &mut Row, folder: &Path, importance: &[String]) -> Result<()> {
    let text = |path: &Path| path.display().to_string();
    let mut args = vec!["convert".to_owned(), text(study.source), "-o".into(), text(&folder.join(""))];
    args.extend(["-t".to_owned(), row.mix.clone(), "--force".into(), "--json".into(), "--quiet".into()]);
    args.extend(row.method.iter().flat_map(|method| ["--method".to_owned(), method.clone()]));
    args.extend(study.computing.threads.iter().flat_map(|n| ["--threads".to_owned(), n.to_string()]));
    args.extend(importance.iter().cloned());
    let told = this_program(&args)?;
    row.file = PathBuf::from(told["output"].as_str().context("the conversion named no output")?);
    row.bits_per_weight = told["bits_per_weight"].as_f64();
    row.bytes = told["bytes"].as_u64();
    row.convert_seconds = told["total_seconds"].as_f64();
    row.convert_peak_memory = told["peak_memory"].as_u64();
    row.fallbacks = told["fallbacks"].as_u64().map(|n| n as usize);
    let warnings = told["warnings"].as_array().into_iter().flatten();
    row.warnings = warnings.filter_map(|w| w.as_str().map(str::to_owned)).collect();
    Ok(())
}

/// Speed and memory of a run.
pub fn bench(study: &Study, row: &mut Row) -> Result<()> {
    let (prompt, generate) = study.speed;
    if prompt == 0 && generate == 0 {
        return Ok(());
    }
    let mut args: Vec<String> = ["bench", "--json", "--quiet", "-r", "3"].map(str::to_owned).into();
    args.extend(["-p".to_owned(), prompt.to_string(), "-n".into(), generate.to_string()]);
    args.extend(study.computing.to_args());
    args.push(row.file.display().to_string());
    let told = this_program(&args)?;
    let record = &told[0];
    let test = |kind: &str| {
        let tests = record["tests"].as_array()?;
        tests.iter().find(|t| t["test"].as_str().is_some_and(|n| n.starts_with(kind)))
    };
    let rate = |kind: &str| test(kind)?["tokens_per_second"].as_f64();
    let range = |kind: &str| {
        let samples = || test(kind)?["samples"].as_array().map(|all| all.iter().filter_map(Value::as_f64));
        Some((samples()?.reduce(f64::min)?, samples()?.reduce(f64::max)?))
    };
    row.prompt_tokens_per_second = rate("pp");
    row.generation_tokens_per_second = rate("tg");
    row.prompt_range = range("pp");
    row.generation_range = range("tg");
    row.peak_memory = record["peak_memory"].as_u64();
    Ok(())
}
