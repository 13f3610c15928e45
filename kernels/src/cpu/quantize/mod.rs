//! Fast quantizers: the bytes of the formats' scalar references, sooner.
//!
//! The reference is plain IEEE single precision in a fixed order, so nothing may be summed in another order or fused.
//! What can go side by side is independent work: groups of weights, each in its own lane, each with the scalar
//! code's additions one after the other; and points of a codebook that are tried for the same weights. [`ALL`] holds one line
//! per format and instruction set; the searches are written once, over `lanes::Lanes`.
//!
//! | format | side by side | AVX2 | AVX-512 |
//! |---|---|---|---|
//! | Q4_0, Q5_0, Q4_1, Q5_1, IQ4_NL | blocks of 32 | 8 | 16 |
//! | Q2_K, Q3_K, Q6_K | groups of 16 | 8 | 16 |
//! | Q4_K, Q5_K, IQ4_XS | groups of 32 | 8 | 16, of two super-blocks |
//! | IQ2_XXS, IQ3_XXS, IQ3_S, IQ1_S | groups of 32, then candidates | 8 | 16, of two super-blocks |
//! | IQ2_XS, IQ2_S, IQ1_M | groups of 16, then candidates | 8 | 16 |
//! | Q8_0, TQ1_0, TQ2_0, Q2_0, MXFP4, NVFP4 | weights | 8 | 16 |
//!
//! Q1_0 has its reference only, which is a running sum. Pieces of 256 or 512 weights in which a position on the grid leaves
//! the range where float rounding is exact, or an inverse scale overflows, are given to the reference too: weights around
//! 1e-38, and nothing else that was met in models.
//!
//! Sixteen lanes were faster than eight in every format that searches, by 1.1 to 2 times on Zen 5 (`benches/records`).

#![allow(clippy::redundant_closure)] // see `lines`
#![allow(clippy::needless_range_loop)] // one index goes through several arrays, here and in what is found there

use super::Isa;
use qconv_formats::block::{BlockFormat, QuantizeRow};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod fp4;
#[cfg(target_arch = "x86_64")]
mod k_quants;
#[cfg(target_arch = "x86_64")]
mod lanes;
#[cfg(target_arch = "x86_64")]
mod lattice;
#[cfg(target_arch = "x86_64")]
mod near;
#[cfg(target_arch = "x86_64")]
mod rows;
#[cfg(target_arch = "x86_64")]
mod search;
#[cfg(target_arch = "x86_64")]
mod shifted;
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

/// Writes [`ALL`]: for each format the function that quantizes a piece of a row, compiled for each instruction set.
macro_rules! lines {
    ($($name:literal => $piece:expr;)*) => {
        /// Every fast quantizer.
        #[cfg(target_arch = "x86_64")]
        pub static ALL: &[Fast] = &[$(
            line!($name, $piece, Avx2, avx2::Eight, "avx2"),
            line!($name, $piece, Avx512, avx512::Sixteen, "avx2,avx512f,avx512bw,avx512vl,avx512dq"),
        )*];
    };
}

/// A line of [`ALL`].
macro_rules! line {
    ($name:literal, $piece:expr, $isa:ident, $lanes:ty, $features:literal) => {
        Fast {
            format: $name,
            isa: Isa::$isa,
            quantize: |weights, importance, out| {
                #[target_feature(enable = $features)]
                fn row(
                    isa: super::$isa,
                    format: &'static BlockFormat,
                    weights: &[f32],
                    importance: Option<&[f32]>,
                    out: &mut [u8],
                ) {
                    rows::row::<$lanes>(isa, format, weights, importance, out, $piece);
                }
                let format = BlockFormat::by_name($name).expect("the name of a format, as a test checks");
                match super::$isa::new() {
                    // SAFETY: the proof type exists only where the CPU has all features named.
                    Some(isa) => unsafe { row(isa, format, weights, importance, out) },
                    None => (format.quantize.expect("a format that can be quantized to"))(weights, importance, out),
                }
            },
        }
    };
}

// Closures even where a function's name would do: a closure is compiled for the instruction set of the function that it stands in,
// a name goes through a shim that is not, and then the quantizer is slower than its reference.
lines! {
    "Q4_0" => |piece, out| small::symmetric(piece, out, 8.0);
    "Q5_0" => |piece, out| small::symmetric(piece, out, 16.0);
    "Q4_1" => |piece, out| small::affine(piece, out, 15.0);
    "Q5_1" => |piece, out| small::affine(piece, out, 31.0);
    "Q8_0" => |piece, out| small::q8_0(piece, out);
    "Q2_K" => |piece, out| k_quants::two(piece, out);
    "Q3_K" => |piece, out| k_quants::three(piece, out);
    "Q4_K" => |piece, out| k_quants::four_five(piece, out, 15.0, &search::Sweep { from: -1.0, step: 0.1, last: 20 });
    "Q5_K" => |piece, out| k_quants::four_five(piece, out, 31.0, &search::Sweep { from: -0.5, step: 0.1, last: 15 });
    "Q6_K" => |piece, out| k_quants::six(piece, out);
    "IQ4_NL" => |piece, out| small::iq4_nl(piece, out);
    "IQ4_XS" => |piece, out| small::iq4_xs(piece, out);
    "TQ1_0" => |piece, out| small::few_bits(piece, out, 1.0);
    "TQ2_0" => |piece, out| small::few_bits(piece, out, 1.0);
    "Q2_0" => |piece, out| small::few_bits(piece, out, 2.0);
    "MXFP4" => |piece, out| fp4::mx(piece, out);
    "NVFP4" => |piece, out| fp4::nv(piece, out);
    "IQ2_XXS" => |piece, out| lattice::lattice::<_, 32, 8, 2>(piece, out, &lattice::IQ2_XXS);
    "IQ2_XS" => |piece, out| lattice::lattice::<_, 16, 8, 2>(piece, out, &lattice::IQ2_XS);
    "IQ2_S" => |piece, out| lattice::lattice::<_, 16, 8, 2>(piece, out, &lattice::IQ2_S);
    "IQ3_XXS" => |piece, out| lattice::lattice::<_, 32, 4, 3>(piece, out, &lattice::IQ3_XXS);
    "IQ3_S" => |piece, out| lattice::lattice::<_, 32, 4, 3>(piece, out, &lattice::IQ3_S);
    "IQ1_S" => |piece, out| shifted::iq1_s(piece, out);
    "IQ1_M" => |piece, out| shifted::iq1_m(piece, out);
}

/// Every fast quantizer: none for this processor.
#[cfg(not(target_arch = "x86_64"))]
pub static ALL: &[Fast] = &[];

/// The fastest row quantizer of a format that `isa` allows: the reference where there is no faster one, `None` where
/// nothing quantizes to the format.
pub fn best(format: &BlockFormat, isa: Isa) -> Option<QuantizeRow> {
    let fast = ALL.iter().filter(|f| f.format == format.name && f.isa <= isa && f.isa.is_here());
    fast.max_by_key(|f| f.isa).map(|f| f.quantize).or(format.quantize)
}
