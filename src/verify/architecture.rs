//! The tensors and keys that a file's family asks for, and shapes that fit the hyper-parameters.

use super::Findings;
use crate::arch::{Architecture, Keys, Plan, Required};
use anyhow::Result;
use qconv_formats::Shape;
use qconv_formats::gguf::{Gguf, split};
use std::collections::HashSet;

/// Tensors that hold factors of rotary frequencies; they are computed, so no rule names them.
const COMPUTED: &[&str] = &["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"];

/// Checks a file against its family, as far as qconv knows it. `vocabulary` is the number of tokens.
pub fn check(gguf: &Gguf, vocabulary: Option<usize>, findings: &mut Findings) -> Result<()> {
    let metadata = gguf.metadata();
    let Some(name) = metadata.str("general.architecture") else {
        findings
            .problem("key general.architecture", "is missing or no string: no reader knows what to do with the file");
        return Ok(());
    };
    if gguf.tensors().is_empty() {
        findings.note("tensors", "there are none: the file is only a vocabulary");
        return Ok(());
    }
    if metadata.u64(split::COUNT).is_some_and(|n| n > gguf.files().len() as u64) {
        findings.note("key split.count", "the file is one of several; its tensor set is not checked");
        return Ok(());
    }
    let quantized = gguf.tensors().iter().any(|t| t.format.is_quantized());
    if quantized && metadata.u64("general.quantization_version").is_none() {
        findings.note("key general.quantization_version", "is missing, which a file of quantized tensors should have");
    }
    let Some(arch) = Architecture::by_name(name) else {
        let problem = format!("is {name:?}, which qconv does not know: keys, tensor set and shapes are not checked");
        findings.note("key general.architecture", problem);
        return Ok(());
    };
    match (arch.plan)(&Keys { arch: name, metadata, file: gguf.path() }) {
        Ok(plan) => {
            tensor_set(gguf, arch, &plan, findings);
            shapes(gguf, &Sizes::new(&plan, gguf, name, vocabulary), findings);
            Ok(())
        }
        Err(e) => findings.absorb(e),
    }
}

/// All that the family's rules require is there; what they do not know is told.
fn tensor_set(gguf: &Gguf, arch: &Architecture, plan: &Plan, findings: &mut Findings) {
    let present: HashSet<&str> = gguf.tensors().iter().map(|t| t.name.as_str()).collect();
    let mut known: HashSet<String> = COMPUTED.iter().map(|&n| n.to_owned()).collect();
    let blocks = |rule: &str| if rule.contains("{i}") { plan.layers } else { 1 };
    let mut missing = Vec::new();
    for rule in arch.tensors {
        let experts = rule.gguf.contains("_exps.");
        let required = match rule.required {
            Required::Yes => true,
            Required::UnlessExperts => plan.feed.experts.is_none(),
            // Checkpoints have several names for experts, GGUF has one.
            Required::No => experts && plan.feed.experts.is_some(),
        };
        for i in 0..blocks(rule.gguf) {
            let name = rule.gguf.replace("{i}", &i.to_string());
            let new = known.insert(name.clone());
            if required && new && !present.contains(name.as_str()) {
                missing.push(name);
            }
        }
    }
    for name in missing {
        findings.problem(format!("tensor {name}"), format!("is missing; the family {} needs it", arch.name));
    }
    for t in gguf.tensors().iter().filter(|t| !known.contains(&t.name)) {
        findings
            .note(format!("tensor {}", t.name), format!("is unknown to the family {} as qconv knows it", arch.name));
    }
}

/// What the shapes of a model follow from.
struct Sizes {
    width: usize,
    query: usize,
    key: usize,
    value: usize,
    head_out: usize,
    query_norm: usize,
    key_norm: usize,
    feed: Option<usize>,
    expert_feed: Option<usize>,
    experts: usize,
    vocabulary: Option<usize>,
    context: usize,
    /// Gate and up-projection are one matrix.
    fused_gate: bool,
}

impl Sizes {
    fn new(plan: &Plan, gguf: &Gguf, arch: &str, vocabulary: Option<usize>) -> Self {
        // Per-layer numbers (an array) are left alone.
        let number = |key: &str| gguf.metadata().u64(&format!("{arch}.{key}")).map(|n| n as usize);
        Sizes {
            width: plan.width,
            query: plan.heads * plan.key_dim,
            key: plan.kv_heads * plan.key_dim,
            value: plan.kv_heads * plan.value_dim,
            head_out: plan.heads * plan.value_dim,
            query_norm: plan.head_norm(plan.heads),
            key_norm: plan.head_norm(plan.kv_heads),
            feed: number("feed_forward_length"),
            expert_feed: number("expert_feed_forward_length").or(number("feed_forward_length")),
            experts: plan.feed.experts.map_or(0, |e| e.count),
            vocabulary,
            context: plan.context,
            fused_gate: plan.feed.gated && gguf.tensor("blk.0.ffn_gate.weight").is_none(),
        }
    }

    /// The shape of a tensor by the part of its name behind the block; `None` where nothing is known.
    fn expect(&self, part: &str) -> Option<Vec<usize>> {
        let w = self.width;
        Some(match part {
            "token_embd.weight" | "output.weight" => vec![self.vocabulary?, w],
            "position_embd.weight" => vec![self.context, w],
            "attn_q.weight" => vec![self.query, w],
            "attn_k.weight" => vec![self.key, w],
            "attn_v.weight" => vec![self.value, w],
            "attn_qkv.weight" => vec![self.query + self.key + self.value, w],
            "attn_q.bias" => vec![self.query],
            "attn_k.bias" => vec![self.key],
            "attn_v.bias" => vec![self.value],
            "attn_qkv.bias" => vec![self.query + self.key + self.value],
            "attn_output.weight" => vec![w, self.head_out],
            "attn_q_norm.weight" => vec![self.query_norm],
            "attn_k_norm.weight" => vec![self.key_norm],
            "ffn_up.weight" if self.fused_gate => vec![2 * self.feed?, w],
            "ffn_gate.weight" | "ffn_up.weight" => vec![self.feed?, w],
            "ffn_up.bias" | "ffn_gate.bias" if !self.fused_gate => vec![self.feed?],
            "ffn_down.weight" => vec![w, self.feed?],
            "ffn_gate_inp.weight" => vec![self.experts, w],
            "ffn_gate_exps.weight" | "ffn_up_exps.weight" => vec![self.experts, self.expert_feed?, w],
            "ffn_down_exps.weight" => vec![self.experts, w, self.expert_feed?],
            "attn_output.bias" | "ffn_down.bias" => vec![w],
            _ if part.ends_with("_norm.weight") || part.ends_with("_norm.bias") => vec![w],
            _ => return None,
        })
    }
}

fn shapes(gguf: &Gguf, sizes: &Sizes, findings: &mut Findings) {
    for t in gguf.tensors() {
        let part = match t.name.strip_prefix("blk.") {
            Some(rest) => rest.split_once('.').map_or(rest, |(_, part)| part),
            None => t.name.as_str(),
        };
        let Some(expected) = sizes.expect(part) else { continue };
        if without_ones(t.shape.dims()) != without_ones(&expected) {
            let expected = Shape::new(&expected).map_or_else(|_| format!("{expected:?}"), |s| s.to_string());
            let from = if part == "token_embd.weight" || part == "output.weight" { "vocabulary and " } else { "" };
            let problem = format!("has the shape {} where {from}hyper-parameters give {expected}", t.shape);
            findings.problem(format!("tensor {}", t.name), problem);
        }
    }
}

/// Dimensions without outer ones, which GGUF may leave out.
pub fn without_ones(dims: &[usize]) -> &[usize] {
    let ones = dims.iter().take_while(|&&d| d == 1).count();
    &dims[ones.min(dims.len().saturating_sub(1))..]
}
