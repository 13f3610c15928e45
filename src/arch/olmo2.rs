//! OLMo 2 and 3: norms behind attention and feed-forward instead of before, and on all queries and all keys at once; OLMo 3 has windows.

use super::common::{self, IGNORE, PREFIXES};
use super::{Architecture, Config, TensorRule, folds, rope};
use anyhow::Result;
use qconv_formats::gguf::{Array, Metadata};
use qconv_kernels::RopeStyle;
use serde_json::json;

/// Of this many layers the last sees everything, where the others have a window and the file does not say which.
const PERIOD: usize = 4;

/// The family.
pub static OLMO2: Architecture = Architecture {
    name: "olmo2",
    hf_classes: &["Olmo2ForCausalLM", "Olmo3ForCausalLM", "Olmo2Model", "Olmo3Model"],
    prefixes: PREFIXES,
    tensors: &[
        TensorRule::new("model.embed_tokens.weight", "token_embd.weight"),
        TensorRule::new("model.norm.weight", "output_norm.weight"),
        TensorRule::new("lm_head.weight", "output.weight").optional(),
        TensorRule::new("model.layers.{i}.self_attn.q_proj.weight", "blk.{i}.attn_q.weight"),
        TensorRule::new("model.layers.{i}.self_attn.q_proj.bias", "blk.{i}.attn_q.bias").optional(),
        TensorRule::new("model.layers.{i}.self_attn.q_norm.weight", "blk.{i}.attn_q_norm.weight"),
        TensorRule::new("model.layers.{i}.self_attn.k_proj.weight", "blk.{i}.attn_k.weight"),
        TensorRule::new("model.layers.{i}.self_attn.k_proj.bias", "blk.{i}.attn_k.bias").optional(),
        TensorRule::new("model.layers.{i}.self_attn.k_norm.weight", "blk.{i}.attn_k_norm.weight"),
        TensorRule::new("model.layers.{i}.self_attn.v_proj.weight", "blk.{i}.attn_v.weight"),
        TensorRule::new("model.layers.{i}.self_attn.v_proj.bias", "blk.{i}.attn_v.bias").optional(),
        TensorRule::new("model.layers.{i}.self_attn.o_proj.weight", "blk.{i}.attn_output.weight"),
        TensorRule::new("model.layers.{i}.self_attn.o_proj.bias", "blk.{i}.attn_output.bias").optional(),
        TensorRule::new("model.layers.{i}.post_attention_layernorm.weight", "blk.{i}.post_attention_norm.weight"),
        TensorRule::new("model.layers.{i}.mlp.gate_proj.weight", "blk.{i}.ffn_gate.weight"),
        TensorRule::new("model.layers.{i}.mlp.up_proj.weight", "blk.{i}.ffn_up.weight"),
        TensorRule::new("model.layers.{i}.mlp.down_proj.weight", "blk.{i}.ffn_down.weight"),
        TensorRule::new("model.layers.{i}.post_feedforward_layernorm.weight", "blk.{i}.post_ffw_norm.weight"),
    ],
    ignore: IGNORE,
    defaults: |class| {
        let mut all = json!({
            "num_attention_heads": 32, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
            "tie_word_embeddings": false,
        });
        if class.starts_with("Olmo3") {
            all["rope_theta"] = json!(5e5);
            all["sliding_window"] = json!(4096);
        }
        all
    },
    metadata: |config, out| {
        config.require_activation(&["hidden_act"], &["silu", "swish"])?;
        common::write_llama_like("olmo2", config, out)?;
        if config.class()?.starts_with("Olmo3") { write_window(config, out) } else { Ok(()) }
    },
    computed: rope::factors,
    folds: folds::GATED,
    plan: |keys| {
        let mut plan = common::read_llama_like(keys, RopeStyle::Neox)?;
        plan.pre_norms = false;
        plan.joint_head_norms = true;
        plan.window = common::read_window(keys, plan.layers, Some(PERIOD))?;
        if let Some(rope) = &mut plan.rope
            && plan.window.is_some()
        {
            rope.window_base.get_or_insert(rope.base);
        }
        Ok(plan)
    },
};

/// Writes OLMo 3's window and which layers have it.
fn write_window(config: &Config, out: &mut Metadata) -> Result<()> {
    let Some(positions) = config.maybe_size(&["sliding_window"])? else { return Ok(()) };
    let usual = || Ok((0..config.layers()?).map(|i| (i + 1) % PERIOD != 0).collect());
    let windowed = config.windowed_layers()?.map_or_else(usual, Ok::<_, anyhow::Error>)?;
    out.set("olmo2.attention.sliding_window", positions as u32);
    out.set("olmo2.attention.sliding_window_pattern", Array::Bool(windowed));
    Ok(())
}
