//! Rules that do nothing are mistakes.

use super::Plan;
use crate::error::caller;
use crate::recipe;
use crate::ui::Ui;
use anyhow::Result;

/// Every `--tensor-type` has to fit some tensor's name, and everything else that names a tensor has to find it: an error,
/// the caller's. A rule that fits, but decides nothing, is a warning.
pub fn check(plan: &Plan, options: &recipe::Options, ui: &Ui) -> Result<()> {
    let rules = &options.overrides;
    let (mut fits, mut decides) = (vec![false; rules.len()], vec![false; rules.len()]);
    for p in &plan.tensors {
        let mut first = true;
        for (i, rule) in rules.iter().enumerate() {
            if rule.fits(&p.name)? {
                fits[i] = true;
                decides[i] |= first && !p.kept;
                first = false;
            }
        }
    }
    for (i, rule) in rules.iter().enumerate() {
        let text = format!("--tensor-type {}={}", rule.pattern.as_str(), rule.format.name);
        if !fits[i] {
            return Err(caller(format!("{text}: no tensor's name matches")));
        }
        if !decides[i] {
            let why = "every tensor that it matches is never quantized or decided by a rule before it";
            ui.warn(format!("{text} has no effect: {why}"));
        }
    }
    let there = |name: &str| plan.tensors.iter().any(|p| p.name == name);
    if options.leave_output && !there("output.weight") {
        let why = "there is no output.weight (the embeddings serve as output; see --token-embedding-type)";
        return Err(caller(format!("--leave-output-tensor: {why}")));
    }
    if options.output_tensor.is_some() && options.leave_output {
        return Err(caller("--output-tensor-type and --leave-output-tensor contradict each other"));
    }
    if options.token_embedding.is_some() && !there("token_embd.weight") {
        return Err(caller("--token-embedding-type: there is no token_embd.weight"));
    }
    Ok(())
}
