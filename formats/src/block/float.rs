//! Unquantized floats: F32, F16, BF16; F64, which is only read.

use super::{BlockFormat, Importance};
use half::{bf16, f16};

/// IEEE single precision.
pub static F32: BlockFormat = BlockFormat {
    name: "F32",
    ggml_id: 0,
    block_weights: 1,
    block_bytes: 4,
    quantize: Some(|w, _, out| encode(w, out, f32::to_le_bytes)),
    dequantize: Some(|b, out| decode(b, out, f32::from_le_bytes)),
    importance: Importance::Unused,
    scalar: None,
    expected_error: 0.0,
    find_nonfinite: |b| first_nonfinite(b, f32::from_le_bytes),
};

/// IEEE half precision, round to nearest even.
pub static F16: BlockFormat = BlockFormat {
    name: "F16",
    ggml_id: 1,
    block_weights: 1,
    block_bytes: 2,
    quantize: Some(|w, _, out| encode(w, out, |x| f16::from_f32(x).to_le_bytes())),
    dequantize: Some(|b, out| decode(b, out, |x| f16::from_le_bytes(x).to_f32())),
    importance: Importance::Unused,
    scalar: None,
    expected_error: 2.1e-4,
    find_nonfinite: |b| first_nonfinite(b, |x| f16::from_le_bytes(x).to_f32()),
};

/// bfloat16: the upper half of a single, round to nearest even.
pub static BF16: BlockFormat = BlockFormat {
    name: "BF16",
    ggml_id: 30,
    block_weights: 1,
    block_bytes: 2,
    quantize: Some(|w, _, out| encode(w, out, |x| bf16::from_f32(x).to_le_bytes())),
    dequantize: Some(|b, out| decode(b, out, |x| bf16::from_le_bytes(x).to_f32())),
    importance: Importance::Unused,
    scalar: None,
    expected_error: 1.7e-3,
    find_nonfinite: |b| first_nonfinite(b, |x| bf16::from_le_bytes(x).to_f32()),
};

/// IEEE double precision. Read (rounded to single precision), never written: nothing quantizes to it.
pub static F64: BlockFormat = BlockFormat {
    name: "F64",
    ggml_id: 28,
    block_weights: 1,
    block_bytes: 8,
    quantize: None,
    dequantize: Some(|b, out| decode(b, out, |x| f64::from_le_bytes(x) as f32)),
    importance: Importance::Unused,
    scalar: None,
    expected_error: 0.0,
    find_nonfinite: |b| first_nonfinite(b, |x| f64::from_le_bytes(x) as f32),
};

fn encode<const N: usize>(weights: &[f32], out: &mut [u8], to: impl Fn(f32) -> [u8; N]) {
    for (w, o) in weights.iter().zip(out.as_chunks_mut::<N>().0) {
        *o = to(*w);
    }
}

fn decode<const N: usize>(bytes: &[u8], out: &mut [f32], from: impl Fn([u8; N]) -> f32) {
    for (o, b) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *o = from(*b);
    }
}

fn first_nonfinite<const N: usize>(bytes: &[u8], from: impl Fn([u8; N]) -> f32) -> Option<usize> {
    bytes.as_chunks::<N>().0.iter().position(|b| !from(*b).is_finite())
}
