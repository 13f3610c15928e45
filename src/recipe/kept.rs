//! Tensors that are never quantized, and those that a 16-bit file keeps in F32.

use qconv_formats::Shape;
use qconv_formats::block::{BlockFormat, F32};

/// Whole names that stay as stored: learned positions and token types.
const NAMES: &[&str] = &["position_embd.weight", "token_types.weight"];

/// Parts of names that stay as stored, whatever the architecture.
#[rustfmt::skip]
const PARTS: &[&str] = &[
    // norms, routers and routing tables
    "_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight",
    // tiny matrices of Gemma 3n
    "altup", "laurel", "per_layer_model_proj",
    // convolutions of state space models
    "ssm_conv1d", "shortconv.conv.weight",
    // sparse attention's indexer
    "indexer.k_proj.weight", "indexer.q_proj.weight",
    // small matrices of RWKV
    "time_mix_first.weight", "time_mix_w0.weight", "time_mix_w1.weight", "time_mix_w2.weight", "time_mix_v0.weight",
    "time_mix_v1.weight", "time_mix_v2.weight", "time_mix_a0.weight", "time_mix_a1.weight", "time_mix_a2.weight",
    "time_mix_g1.weight", "time_mix_g2.weight", "time_mix_decay_w1.weight", "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    // relative positions of T5
    "attn_rel_b.weight",
    // vision and audio
    ".position_embd", "sam.pos_embd", "sam.neck.", "sam.net_", ".rel_pos", ".patch_embd", ".patch_merger",
    "a.rvq.codebook", "mm.a.code_embd",
];

/// Parts of names that stay as stored in one architecture.
#[rustfmt::skip]
const PARTS_BY_ARCH: &[(&str, &[&str])] = &[
    ("glm5-next", &[
        "hc_", "indexer.attn_q_b", "indexer.attn_k", "indexer.proj", "indexer_compressor_gate", "indexer_compressor_ape",
        "ssm_f_a.weight", "ssm_f_b.weight", "ssm_g_a.weight", "ssm_g_b.weight", "ssm_beta.weight", "attn_kv_a_mqa.weight",
        "attn_k_b.weight", "attn_v_b.weight",
    ]),
];

/// The tensor stays as stored: llama-quantize never touches its kind. A matrix of one row counts as a vector.
pub(super) fn is_kept(arch: &str, name: &str, shape: &Shape, leave_output: bool) -> bool {
    let has = |parts: &[&str]| parts.iter().any(|p| name.contains(p));
    shape.rows() == 1
        || !name.ends_with("weight")
        || NAMES.contains(&name)
        || leave_output && name == "output.weight"
        || has(PARTS)
        || PARTS_BY_ARCH.iter().any(|(a, parts)| *a == arch && has(parts))
}

/// Names behind `blk.N.` and before `.weight` that are F32 in any file made from a checkpoint.
#[rustfmt::skip]
const ALWAYS_F32: &[&str] = &[
    "ffn_gate_inp", "ffn_gate_inp_shexp", "position_embd", "v.position_embd", "a.position_embd", "token_types",
    "ssm_conv1d", "ssm_conv1d_q", "ssm_conv1d_k", "ssm_conv1d_v", "shortconv.conv",
    "time_mix_first", "time_mix_w1", "time_mix_w2", "time_mix_decay_w1", "time_mix_decay_w2", "time_mix_lerp_fused",
    "altup_correct_coef", "altup_predict_coef", "indexer.proj",
];

/// The format in which convert_hf_to_gguf stores a tensor of a checkpoint when asked for `float` (F32, F16 or BF16):
/// vectors, norms, routers, learned positions and everything but weights are F32.
pub fn checkpoint_format(name: &str, shape: &Shape, float: &'static BlockFormat) -> &'static BlockFormat {
    let Some(stem) = name.strip_suffix(".weight") else { return &F32 };
    let inner = stem.strip_prefix("blk.").and_then(|s| s.split_once('.')).map_or(stem, |(_, inner)| inner);
    if shape.dims().len() < 2 || stem.ends_with("_norm") || ALWAYS_F32.contains(&inner) { &F32 } else { float }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qconv_formats::block::F16;

    #[test]
    fn vectors_norms_and_routers_of_a_checkpoint_are_f32() {
        let matrix = Shape::new(&[4, 8]).unwrap();
        let vector = Shape::new(&[8]).unwrap();
        for (name, shape, want) in [
            ("token_embd.weight", &matrix, &F16),
            ("blk.0.attn_q.weight", &matrix, &F16),
            ("blk.0.attn_q.bias", &vector, &F32),
            ("blk.0.attn_norm.weight", &vector, &F32),
            ("blk.0.attn_q_norm.weight", &matrix, &F32),
            ("blk.11.ffn_gate_inp.weight", &matrix, &F32),
            ("position_embd.weight", &matrix, &F32),
            ("rope_freqs.weight", &vector, &F32),
            ("blk.0.ffn_gate_exps.weight", &matrix, &F16),
        ] {
            assert_eq!(checkpoint_format(name, shape, &F16), want, "{name}");
        }
    }

    #[test]
    fn a_single_row_is_a_vector() {
        let row = Shape::new(&[1, 256]).unwrap();
        let column = Shape::new(&[256, 1]).unwrap();
        assert!(is_kept("llama", "blk.0.ffn_gate_inp_shexp.weight", &row, false));
        assert!(!is_kept("llama", "blk.0.attn_q.weight", &column, false));
    }
}
