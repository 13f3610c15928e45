//! `qconv convert`

use super::Run;
use crate::engine::memory;
use crate::convert::{self, Plan, Request, Summary};
use crate::error::caller;
use crate::method::{self, Method};
use crate::model::Model;
use crate::recipe::{self, Mix, Override};
use crate::report::{self, Table};
use crate::ui::{self, Ui};
use anyhow::Result;
use qconv_formats::block::BlockFormat;
use std::path::PathBuf;

/// Arguments of `qconv convert`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  qconv convert TinyLlama-1.1B-Chat-v1.0 --type q4_k_m
  qconv convert models/prose-4m -o prose.gguf --type q6_k --json
  qconv convert model-f16.gguf --type q5_k_m --dry-run --tensors
  qconv convert model --type q4_k_m --tensor-type 'ffn_down=q6_k' --output-tensor-type q8_0

The conversion is one pass: no 16-bit file in between, and memory does not grow with the model.
Types and what llama.cpp calls them: see `qconv types`.")]
pub struct Convert {
    /// A Hugging Face model folder, or a GGUF file
    source: PathBuf,

    /// The new file, or a folder for it [default: the conventional name in the current folder, such as
    /// Llama-3.2-1B-Instruct-Q4_K_M.gguf]
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,

    /// Type of the new file: q4_k_m, q8_0, iq4_xs, bf16, ... (see `qconv types`)
    #[arg(short, long = "type", value_name = "TYPE", value_parser = parse_mix)]
    mix: &'static Mix,

    /// How weights are quantized
    #[arg(long, default_value = "rtn", value_parser = parse_method)]
    method: &'static Method,

    /// One block format for all matrices, without the mix's exceptions
    #[arg(long)]
    pure: bool,

    /// Format of tensors whose name matches: 'REGEX=FORMAT' (repeatable, the first match counts)
    #[arg(long, value_name = "REGEX=FORMAT", value_parser = Override::parse)]
    tensor_type: Vec<Override>,

    /// Format of output.weight
    #[arg(long, value_name = "FORMAT", value_parser = parse_format)]
    output_tensor_type: Option<&'static BlockFormat>,

    /// Format of token_embd.weight
    #[arg(long, value_name = "FORMAT", value_parser = parse_format)]
    token_embedding_type: Option<&'static BlockFormat>,

    /// Leave output.weight as it is stored
    #[arg(long)]
    leave_output_tensor: bool,

    /// Quantize tensors that are already quantized (loses quality)
    #[arg(long)]
    allow_requantize: bool,

    /// Print what would be done, write nothing
    #[arg(long)]
    dry_run: bool,

    /// With --dry-run: one line per tensor
    #[arg(long, requires = "dry_run")]
    tensors: bool,

    /// Replace an existing file
    #[arg(short, long)]
    force: bool,

    /// Do not check the file's structure before it appears
    #[arg(long)]
    no_verify: bool,

    /// Threads [default: all that the process may use]
    #[arg(long, value_name = "N")]
    threads: Option<std::num::NonZero<usize>>,

    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

/// A type by its name, with a hint where there is none.
pub fn parse_mix(name: &str) -> Result<&'static Mix, String> {
    Mix::by_name(name).ok_or_else(|| {
        let names: Vec<&str> = recipe::ALL.iter().map(|m| m.name).collect();
        format!("there is no type {name}; the types are {}", names.join(", "))
    })
}

fn parse_method(name: &str) -> Result<&'static Method, String> {
    Method::by_name(name).ok_or_else(|| {
        let names: Vec<&str> = method::ALL.iter().map(|m| m.name).collect();
        format!("there is no method {name}; the methods are {}", names.join(", "))
    })
}

fn parse_format(name: &str) -> Result<&'static BlockFormat, String> {
    BlockFormat::by_name(name).ok_or_else(|| format!("there is no block format {name}"))
}

impl Run for Convert {
    fn run(self, ui: &Ui) -> Result<()> {
        crate::ui::use_threads(self.threads)?;
        let mut warnings = Vec::new();
        let model = Model::open(&self.source, &mut warnings)?;
        warnings.into_iter().for_each(|w| ui.warn(w));
        let options = recipe::Options {
            pure: self.pure,
            output_tensor: self.output_tensor_type,
            token_embedding: self.token_embedding_type,
            leave_output: self.leave_output_tensor,
            has_imatrix: false,
            overrides: self.tensor_type,
        };
        if let Some(idle) = unmatched(&options.overrides, &model)? {
            return Err(caller(format!("--tensor-type {idle}: no tensor's name matches")));
        }
        let plan = Plan::new(&model, self.mix, &options, self.allow_requantize, ui)?;
        if self.dry_run {
            let metadata = convert::output_metadata(&model, &plan, ui)?;
            ui.refuse_warnings()?;
            let name = convert::output_name(&model, &plan, &metadata);
            return print_plan(&plan, &model, &name, self.tensors, self.json);
        }
        let output = self.output.unwrap_or_else(|| PathBuf::from("./"));
        let request = Request {
            model: &model,
            plan: &plan,
            method: self.method,
            output: &output,
            force: self.force,
            verify: !self.no_verify,
        };
        let summary = convert::convert(&request, ui)?;
        if self.json {
            let mut json = serde_json::to_value(&summary)?;
            json["warnings"] = ui.warnings().into();
            json["peak_memory"] = memory::peak().into();
            return report::print_json(&json);
        }
        print_summary(&summary, &plan, ui)
    }
}

/// The first pattern that no tensor's name fits.
fn unmatched(overrides: &[Override], model: &Model) -> Result<Option<String>> {
    for o in overrides {
        let mut any = false;
        for t in model.tensors() {
            any |= o.fits(&t.name)?;
        }
        if !any {
            return Ok(Some(format!("{}={}", o.pattern.as_str(), o.format.name)));
        }
    }
    Ok(None)
}

fn print_summary(summary: &Summary, plan: &Plan, ui: &Ui) -> Result<()> {
    let per_second = summary.parameters as f64 / summary.seconds / 1e6;
    println!(
        "{}: {} -> {} {} ({:.2} bits per weight) in {}, {per_second:.0} Mweights/s, peak memory {}",
        summary.output.display(),
        ui::bytes(summary.source_bytes),
        summary.mix,
        ui::bytes(summary.bytes),
        summary.bits_per_weight,
        ui::seconds(summary.seconds),
        memory::peak().map_or("unknown".into(), ui::bytes),
    );
    let mut notes = vec![format!("{} tensors", summary.tensors)];
    if summary.fallbacks > 0 {
        let cost = plan.fallback_cost();
        notes.push(format!("{} in another type than the mix asks for ({cost:+.3} bits per weight)", summary.fallbacks));
    }
    notes.push(if summary.verified { "structure verified".into() } else { "structure not verified (--no-verify)".to_owned() });
    let warnings = ui.warnings().len();
    notes.push(format!("{warnings} warning{}", if warnings == 1 { "" } else { "s" }));
    ui.note(format!("  {}", notes.join("; ")));
    Ok(())
}

fn print_plan(plan: &Plan, model: &Model, name: &str, tensors: bool, json: bool) -> Result<()> {
    if json {
        let list = plan.tensors.iter().map(|p| {
            serde_json::json!({
                "name": p.tensor.name, "shape": p.tensor.shape.dims(), "from": p.tensor.format.name, "to": p.format.name,
                "wanted": p.wanted.map(|w| w.name), "bytes": p.bytes(),
            })
        });
        return report::print_json(&serde_json::json!({
            "output": name, "type": plan.mix.name, "parameters": model.parameters(), "source_bytes": plan.source_bytes(),
            "bytes": plan.bytes(), "bits_per_weight": plan.bits_per_weight(), "fallbacks": plan.fallbacks().count(),
            "fallback_bits_per_weight": plan.fallback_cost(), "tensors": list.collect::<Vec<_>>(),
        }));
    }
    if tensors {
        let mut table = Table::new(&["tensor", "shape", "from", "to", "size"]);
        for p in &plan.tensors {
            let to = match p.wanted {
                Some(w) => format!("{} (not {})", p.format.name, w.name),
                None => p.format.name.to_owned(),
            };
            table.row([p.tensor.name.clone(), p.tensor.shape.to_string(), p.tensor.format.name.into(), to, ui::bytes(p.bytes())]);
        }
        table.print();
        println!();
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
    println!(
        "\nwould write {name}: {} -> {} {}, {:.2} bits per weight, {} fallbacks ({:+.3} bits per weight); nothing was written",
        ui::bytes(plan.source_bytes()),
        plan.mix.name,
        ui::bytes(plan.bytes()),
        plan.bits_per_weight(),
        plan.fallbacks().count(),
        plan.fallback_cost(),
    );
    Ok(())
}
