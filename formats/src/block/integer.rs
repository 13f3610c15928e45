//! Integers: known so that files which hold them can be read and copied. They are no weights, so nothing quantizes to them
//! and nothing dequantizes them.

use super::{BlockFormat, Importance, always_finite};

/// 8 bits.
pub static I8: BlockFormat = integer("I8", 24, 1);
/// 16 bits.
pub static I16: BlockFormat = integer("I16", 25, 2);
/// 32 bits.
pub static I32: BlockFormat = integer("I32", 26, 4);
/// 64 bits.
pub static I64: BlockFormat = integer("I64", 27, 8);

const fn integer(name: &'static str, ggml_id: u32, bytes: usize) -> BlockFormat {
    BlockFormat {
        name,
        ggml_id,
        block_weights: 1,
        block_bytes: bytes,
        quantize: None,
        dequantize: None,
        importance: Importance::Unused,
        scalar: None,
        expected_error: 0.0,
        find_nonfinite: always_finite,
    }
}
