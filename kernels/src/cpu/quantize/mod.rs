//! Fast quantizers: the bytes of the formats' scalar references, sooner.
//!
//! The reference is plain IEEE single precision in a fixed order, so nothing may be summed in another order or fused.
//! What can go side by side is independent work: eight groups of weights, each in its own lane, each with the scalar
//! code's additions one after the other. [`ALL`] holds one line per format and instruction set.
//!
//! | format | side by side | with importance |
//! |---|---|---|
//! | Q4_0, Q5_0, Q4_1, Q5_1, Q8_0, IQ4_NL | 8 blocks of 32 | yes |
//! | Q2_K, Q3_K, Q6_K | 8 groups of 16, twice | yes |
//! | Q4_K, Q5_K, IQ4_XS | 8 groups of 32 | yes |
//!
//! Other formats have their reference only. Pieces of 256 weights in which a position on the grid leaves the range where
//! float rounding is exact, or an inverse scale overflows, are given to the reference too: weights around 1e-38, and
//! nothing else that was met in models.

use super::Isa;
use qconv_formats::block::{BlockFormat, QuantizeRow};

#[cfg(target_arch = "x86_64")]
mod k_quants;
#[cfg(target_arch = "x86_64")]
mod lanes;
#[cfg(target_arch = "x86_64")]
mod rows;
#[cfg(target_arch = "x86_64")]
mod search;
#[cfg(target_arch = "x86_64")]
mod small;
#[cfg(test)]
mod tests;

/// A fast quantizer of a format.
pub struct Fast {
    /// Name of the block format.
    pub format: &'static str,
    /// The instruction set that it needs.
    pub isa: Isa,
    /// Quantizes a row. Safe everywhere: without the instruction set it is the reference.
    pub quantize: QuantizeRow,
}

/// A line of [`ALL`]: the row function with AVX2 around a function that quantizes 256 weights.
macro_rules! avx2 {
    ($name:literal, $piece:expr) => {
        Fast {
            format: $name,
            isa: Isa::Avx2,
            quantize: |weights, importance, out| {
                #[target_feature(enable = "avx2")]
                fn row(
                    isa: super::Avx2,
                    format: &'static BlockFormat,
                    weights: &[f32],
                    importance: Option<&[f32]>,
                    out: &mut [u8],
                ) {
                    rows::row(isa, format, weights, importance, out, $piece);
                }
                let format = BlockFormat::by_name($name).expect("the name of a format, as a test checks");
                match super::Avx2::new() {
                    // SAFETY: the proof type exists only where the CPU has AVX2.
                    Some(isa) => unsafe { row(isa, format, weights, importance, out) },
                    None => (format.quantize.expect("a format that can be quantized to"))(weights, importance, out),
                }
            },
        }
    };
}

/// Every fast quantizer.
#[cfg(target_arch = "x86_64")]
pub static ALL: &[Fast] = &[
    avx2!("Q4_0", |piece, out| small::symmetric(piece, out, 8.0)),
    avx2!("Q5_0", |piece, out| small::symmetric(piece, out, 16.0)),
    avx2!("Q4_1", |piece, out| small::affine(piece, out, 15.0)),
    avx2!("Q5_1", |piece, out| small::affine(piece, out, 31.0)),
    avx2!("Q8_0", |piece, out| small::q8_0(piece, out)),
    avx2!("Q2_K", |piece, out| k_quants::two(piece, out)),
    avx2!("Q3_K", |piece, out| k_quants::three(piece, out)),
    avx2!("Q4_K", |piece, out| {
        k_quants::four_five(piece, out, 15.0, &search::Sweep { from: -1.0, step: 0.1, last: 20 })
    }),
    avx2!("Q5_K", |piece, out| {
        k_quants::four_five(piece, out, 31.0, &search::Sweep { from: -0.5, step: 0.1, last: 15 })
    }),
    avx2!("Q6_K", |piece, out| k_quants::six(piece, out)),
    avx2!("IQ4_NL", |piece, out| small::iq4_nl(piece, out)),
    avx2!("IQ4_XS", |piece, out| small::iq4_xs(piece, out)),
];

/// Every fast quantizer: none for this processor.
#[cfg(not(target_arch = "x86_64"))]
pub static ALL: &[Fast] = &[];

/// The fastest row quantizer of a format that `isa` allows: the reference where there is no faster one, `None` where
/// nothing quantizes to the format.
pub fn best(format: &BlockFormat, isa: Isa) -> Option<QuantizeRow> {
    let fast = ALL.iter().filter(|f| f.format == format.name && f.isa <= isa && f.isa.is_here());
    fast.max_by_key(|f| f.isa).map(|f| f.quantize).or(format.quantize)
}
