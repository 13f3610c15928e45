//! Llama 2/3/3.x, TinyLlama, SmolLM2, Mistral, and Mixtral's experts.

use super::common::{self, IGNORE, PREFIXES};
use super::{Architecture, Fix, TensorRule, folds};
use qconv_kernels::RopeStyle;

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
    tensors: &[
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
        TensorRule::new("model.layers.{i}.mlp.gate_proj.weight", "blk.{i}.ffn_gate.weight").unless_experts(),
        TensorRule::new("model.layers.{i}.mlp.gate_proj.bias", "blk.{i}.ffn_gate.bias").optional(),
        TensorRule::new("model.layers.{i}.mlp.up_proj.weight", "blk.{i}.ffn_up.weight").unless_experts(),
        TensorRule::new("model.layers.{i}.mlp.up_proj.bias", "blk.{i}.ffn_up.bias").optional(),
        TensorRule::new("model.layers.{i}.mlp.down_proj.weight", "blk.{i}.ffn_down.weight").unless_experts(),
        TensorRule::new("model.layers.{i}.mlp.down_proj.bias", "blk.{i}.ffn_down.bias").optional(),
        // Mixtral: w1 is the gate, w3 up, w2 down; newer checkpoints fuse gate and up.
        TensorRule::new("model.layers.{i}.block_sparse_moe.gate.weight", "blk.{i}.ffn_gate_inp.weight").optional(),
        TensorRule::new("model.layers.{i}.mlp.gate.weight", "blk.{i}.ffn_gate_inp.weight").optional(),
        TensorRule::new("model.layers.{i}.block_sparse_moe.experts.{e}.w1.weight", "blk.{i}.ffn_gate_exps.weight")
            .optional(),
        TensorRule::new("model.layers.{i}.block_sparse_moe.experts.{e}.w2.weight", "blk.{i}.ffn_down_exps.weight")
            .optional(),
        TensorRule::new("model.layers.{i}.block_sparse_moe.experts.{e}.w3.weight", "blk.{i}.ffn_up_exps.weight")
            .optional(),
        TensorRule::new("model.layers.{i}.mlp.experts.gate_up_proj", "blk.{i}.ffn_gate_exps.weight")
            .fix(Fix::FirstHalf)
            .optional(),
        TensorRule::new("model.layers.{i}.mlp.experts.gate_up_proj", "blk.{i}.ffn_up_exps.weight")
            .fix(Fix::SecondHalf)
            .optional(),
        TensorRule::new("model.layers.{i}.mlp.experts.down_proj", "blk.{i}.ffn_down_exps.weight").optional(),
    ],
    ignore: IGNORE,
    metadata: |config, out| {
        config.require_activation(&["hidden_act"], &["silu", "swish"])?;
        let sizes = common::write_llama_like("llama", config, out)?;
        out.set("llama.vocab_size", config.size(&["vocab_size"])? as u32);
        out.set("llama.rope.dimension_count", sizes.key_dim() as u32);
        common::write_window("llama", config, out)
    },
    computed: common::llama3_factors,
    folds: folds::GATED,
    plan: |keys| common::read_llama_like(keys, RopeStyle::Interleaved),
};
