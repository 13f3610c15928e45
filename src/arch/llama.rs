//! Llama 2/3/3.x, TinyLlama, SmolLM2, Mistral, and Mixtral's experts.

use super::common::{self, IGNORE, PREFIXES, Windowed};
use super::{Architecture, Config, Fix, Required, TensorRule, folds, joined, rope};
use anyhow::Result;
use qconv_formats::gguf::Metadata;
use qconv_kernels::RopeStyle;
use serde_json::json;

/// The family.
pub static LLAMA: Architecture = Architecture {
    name: "llama",
    hf_classes: &[
        "LlamaForCausalLM",
        "LLaMAForCausalLM",
        "MistralForCausalLM",
        "MixtralForCausalLM",
        "LlamaModel",
        "MistralModel",
    ],
    prefixes: PREFIXES,
    tensors: &joined::<{ DENSE.len() + EXPERTS.len() + STACKED_EXPERTS.len() }>(
        &joined::<{ DENSE.len() }>(&BLOCK, &unless_experts(FEED)),
        &joined::<{ EXPERTS.len() + STACKED_EXPERTS.len() }>(&EXPERTS, &STACKED_EXPERTS),
    ),
    ignore: IGNORE,
    defaults: |class| match class {
        "MistralForCausalLM" | "MistralModel" => json!({
            "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131_072, "sliding_window": 4096,
            "rms_norm_eps": 1e-6, "rope_theta": 1e4, "tie_word_embeddings": false,
        }),
        "MixtralForCausalLM" => json!({
            "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131_072, "rms_norm_eps": 1e-5,
            "rope_theta": 1e6, "num_local_experts": 8, "num_experts_per_tok": 2, "tie_word_embeddings": false,
        }),
        _ => json!({
            "num_attention_heads": 32, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 1e4,
            "tie_word_embeddings": false,
        }),
    },
    metadata: |config, out| {
        write("llama", config, out)?;
        // Llama's own classes know no window.
        let windows = config.class()?.starts_with("Mi"); // Mistral, Mixtral
        if windows { common::write_window("llama", config, out, Windowed::All) } else { Ok(()) }
    },
    computed: rope::factors,
    folds: folds::GATED,
    plan: |keys| common::read_llama_like(keys, RopeStyle::Interleaved),
};

/// Tensors of Llama's block without experts, for its relatives as well.
pub const DENSE: [TensorRule; 19] = joined(&BLOCK, &FEED);

const BLOCK: [TensorRule; 13] = [
    TensorRule::new("model.embed_tokens.weight", "token_embd.weight"),
    TensorRule::new("model.norm.weight", "output_norm.weight"),
    TensorRule::new("lm_head.weight", "output.weight").optional(),
    TensorRule::new("model.layers.{i}.input_layernorm.weight", "blk.{i}.attn_norm.weight"),
    TensorRule::new("model.layers.{i}.self_attn.q_proj.weight", "blk.{i}.attn_q.weight").fix(Fix::RopeQuery),
    TensorRule::new("model.layers.{i}.self_attn.q_proj.bias", "blk.{i}.attn_q.bias").fix(Fix::RopeQuery).optional(),
    TensorRule::new("model.layers.{i}.self_attn.k_proj.weight", "blk.{i}.attn_k.weight").fix(Fix::RopeKey),
    TensorRule::new("model.layers.{i}.self_attn.k_proj.bias", "blk.{i}.attn_k.bias").fix(Fix::RopeKey).optional(),
    TensorRule::new("model.layers.{i}.self_attn.v_proj.weight", "blk.{i}.attn_v.weight"),
    TensorRule::new("model.layers.{i}.self_attn.v_proj.bias", "blk.{i}.attn_v.bias").optional(),
    TensorRule::new("model.layers.{i}.self_attn.o_proj.weight", "blk.{i}.attn_output.weight"),
    TensorRule::new("model.layers.{i}.self_attn.o_proj.bias", "blk.{i}.attn_output.bias").optional(),
    TensorRule::new("model.layers.{i}.post_attention_layernorm.weight", "blk.{i}.ffn_norm.weight"),
];

const FEED: [TensorRule; 6] = [
    TensorRule::new("model.layers.{i}.mlp.gate_proj.weight", "blk.{i}.ffn_gate.weight"),
    TensorRule::new("model.layers.{i}.mlp.gate_proj.bias", "blk.{i}.ffn_gate.bias").optional(),
    TensorRule::new("model.layers.{i}.mlp.up_proj.weight", "blk.{i}.ffn_up.weight"),
    TensorRule::new("model.layers.{i}.mlp.up_proj.bias", "blk.{i}.ffn_up.bias").optional(),
    TensorRule::new("model.layers.{i}.mlp.down_proj.weight", "blk.{i}.ffn_down.weight"),
    TensorRule::new("model.layers.{i}.mlp.down_proj.bias", "blk.{i}.ffn_down.bias").optional(),
];

/// The same, needed only where there are no experts.
const fn unless_experts(mut rules: [TensorRule; 6]) -> [TensorRule; 6] {
    let mut i = 0;
    while i < rules.len() {
        if matches!(rules[i].required, Required::Yes) {
            rules[i] = rules[i].unless_experts();
        }
        i += 1;
    }
    rules
}

const EXPERTS: [TensorRule; 5] = [
    // Mixtral: w1 is the gate, w3 up, w2 down.
    TensorRule::new("model.layers.{i}.block_sparse_moe.gate.weight", "blk.{i}.ffn_gate_inp.weight").optional(),
    TensorRule::new("model.layers.{i}.mlp.gate.weight", "blk.{i}.ffn_gate_inp.weight").optional(),
    TensorRule::new("model.layers.{i}.block_sparse_moe.experts.{e}.w1.weight", "blk.{i}.ffn_gate_exps.weight")
        .optional(),
    TensorRule::new("model.layers.{i}.block_sparse_moe.experts.{e}.w2.weight", "blk.{i}.ffn_down_exps.weight")
        .optional(),
    TensorRule::new("model.layers.{i}.block_sparse_moe.experts.{e}.w3.weight", "blk.{i}.ffn_up_exps.weight").optional(),
];

/// Experts of newer checkpoints, all of a layer in one tensor, gate and up fused; for relatives as well.
pub const STACKED_EXPERTS: [TensorRule; 3] = [
    TensorRule::new("model.layers.{i}.mlp.experts.gate_up_proj", "blk.{i}.ffn_gate_exps.weight")
        .fix(Fix::FirstHalf)
        .optional(),
    TensorRule::new("model.layers.{i}.mlp.experts.gate_up_proj", "blk.{i}.ffn_up_exps.weight")
        .fix(Fix::SecondHalf)
        .optional(),
    TensorRule::new("model.layers.{i}.mlp.experts.down_proj", "blk.{i}.ffn_down_exps.weight").optional(),
];

/// Writes the keys that llama.cpp has for this block, under the name of a family.
pub fn write(arch: &str, config: &Config, out: &mut Metadata) -> Result<()> {
    config.require_activation(&["hidden_act"], &["silu", "swish"])?;
    let sizes = common::write_llama_like(arch, config, out)?;
    out.set(format!("{arch}.vocab_size"), config.size(&["vocab_size"])? as u32);
    out.set(format!("{arch}.rope.dimension_count"), sizes.key_dim() as u32);
    Ok(())
}
