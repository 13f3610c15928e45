//! Block formats: how rows of weights are packed, one file per family, one line per format in [`ALL`].
//!
//! A [`BlockFormat`] is data: its name, its number in ggml, its sizes, and plain functions over rows. The default
//! quantizers give ggml's reference bytes *exactly* (same IEEE f32 operations in the same order, no FMA contraction);
//! `fixtures/blocks` holds those bytes.

mod codebook;
pub mod codebook_tables;
mod few_bits;
mod float;
pub mod fp4;
mod integer;
pub mod iq1;
pub mod iq2;
pub mod iq3;
mod iq4;
mod k_affine;
mod k_symmetric;
mod lattice;
mod legacy;
mod scalar;
mod search;

/// Every tensor type that qconv knows, in the order of their ggml numbers.
pub static ALL: &[&BlockFormat] = &[
    &float::F32,
    &float::F16,
    &legacy::Q4_0,
    &legacy::Q4_1,
    &legacy::Q5_0,
    &legacy::Q5_1,
    &legacy::Q8_0,
    &k_affine::Q2_K,
    &k_symmetric::Q3_K,
    &k_affine::Q4_K,
    &k_affine::Q5_K,
    &k_symmetric::Q6_K,
    &iq2::IQ2_XXS,
    &iq2::IQ2_XS,
    &iq3::IQ3_XXS,
    &iq1::IQ1_S,
    &iq4::IQ4_NL,
    &iq3::IQ3_S,
    &iq2::IQ2_S,
    &iq4::IQ4_XS,
    &integer::I8,
    &integer::I16,
    &integer::I32,
    &integer::I64,
    &float::F64,
    &iq1::IQ1_M,
    &float::BF16,
    &few_bits::TQ1_0,
    &few_bits::TQ2_0,
    &fp4::MXFP4,
    &fp4::NVFP4,
    &few_bits::Q1_0,
    &few_bits::Q2_0,
];

pub use float::{BF16, F16, F32};

/// The quantizers of the codebook formats in their steps, for faster searches that give the same bytes.
pub mod codebooks {
    pub use super::codebook::{BLOCK, Codebook};
    pub use super::lattice::{Again, Fitted, Group, Lattice, Start};
}

/// Quantizes one row: weights, optional importance (one non-negative number per column), packed bytes out.
///
/// `out.len()` is exactly [`BlockFormat::row_bytes`] of `weights.len()`.
pub type QuantizeRow = fn(weights: &[f32], importance: Option<&[f32]>, out: &mut [u8]);

/// Dequantizes one row: packed bytes in, weights out. Lengths agree as for [`QuantizeRow`].
pub type DequantizeRow = fn(bytes: &[u8], out: &mut [f32]);

/// One ggml tensor type.
pub struct BlockFormat {
    /// ggml's name, as llama.cpp prints it in upper case: `Q4_K`, `IQ4_NL`, `F16`.
    pub name: &'static str,
    /// Number of the type in GGUF files (`enum ggml_type`).
    pub ggml_id: u32,
    /// Weights in a block; rows must be whole blocks.
    pub block_weights: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
    /// `None` for types that hold no weights (integers) or that nothing quantizes to.
    pub quantize: Option<QuantizeRow>,
    /// `None` for integer types.
    pub dequantize: Option<DequantizeRow>,
    /// Whether the format takes importance into account.
    pub importance: Importance,
    /// The steps of the default quantizer for formats whose codes are scalars on a grid; lets GPTQ, HQQ and AdaRound pick
    /// the codes. `None` for floats and for codebooks of groups.
    pub scalar: Option<&'static dyn ScalarCodes>,
    /// What plain round-to-nearest quantization of normally distributed weights gives, as RMS error over RMS value.
    /// `verify --against` judges tensors by it. Measured, see the test `expected_error_is_what_is_measured`.
    pub expected_error: f32,
    /// First block of packed bytes with a number that makes weights NaN or infinite (a scale, a float), as
    /// `ggml_validate_row_data` looks for them: the index of the block.
    pub find_nonfinite: fn(bytes: &[u8]) -> Option<usize>,
}

/// How a quantizer uses importance (an importance matrix).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Importance {
    /// Ignored.
    Unused,
    /// Used where given.
    Used,
    /// Used where given, and llama-quantize refuses this type without it, except for token embeddings and the output
    /// matrix.
    Required,
}

/// The default quantizer in its steps, for formats where every weight has its own small integer code.
///
/// A weight is `scale * levels[code] - min`, with one scale and one minimum per group of neighbouring weights. Round-to-nearest,
/// GPTQ, HQQ and AdaRound differ only in who picks the codes:
/// - the default quantizer is `fit`, then `pack` of the codes that came with the grid. That gives exactly the bytes of
///   [`BlockFormat::quantize`], which is the same code;
/// - a method takes its grid from `fit` (or from scales and minimums of its own through `grid`), picks codes by `code` and
///   `value`, and packs them.
///
/// The codes of `fit` are mostly, but not always, what `code` gives on the final grid: in some formats ggml chooses codes
/// first and refits the scale to them, or rounds the scale to half precision afterwards.
///
/// Slices are one block: [`BlockFormat::block_weights`] weights, importances or codes, [`BlockFormat::block_bytes`] bytes.
/// Functions panic where lengths do not fit or a code has no level.
pub trait ScalarCodes: Sync {
    /// Weights in a group; position `i` of a block belongs to group `i / group()`.
    fn group(&self) -> usize;
    /// What each code stands for, in units of the group's scale. Ascending, except in the 4-bit floats.
    fn levels(&self) -> &'static [f32];
    /// Searches scales and minimums for one block and writes the default codes into `codes`. `mean_square` is the whole
    /// row's [`mean_square`]: ggml mixes it into the importance. It plays no role without importance.
    fn fit(&self, weights: &[f32], importance: Option<&[f32]>, mean_square: f32, codes: &mut [u8]) -> Grid;
    /// The grid that the format can express for the scales and minimums asked for, one per group: rounded to half
    /// precision and to the header's small integers. `min` may be empty in formats without minimums.
    /// `importance`, one number per group, decides whose rounding errors count more.
    fn grid(&self, scale: &[f32], min: &[f32], importance: Option<&[f32]>) -> Grid;
    /// The code whose value is nearest to a weight at position `i` of the block.
    fn code(&self, grid: &Grid, i: usize, weight: f32) -> u8;
    /// [`ScalarCodes::code`] and [`ScalarCodes::value`] of a whole group: its weights, and as many codes and values.
    fn nearest(&self, grid: &Grid, group: usize, weights: &[f32], codes: &mut [u8], values: &mut [f32]);
    /// The weight that a code stands for at position `i`: bit for bit what [`BlockFormat::dequantize`] gives.
    fn value(&self, grid: &Grid, i: usize, code: u8) -> f32;
    /// The whole numbers behind a grid; `None` where scales are no multiples of a number in the header.
    fn steps(&self, grid: &Grid) -> Option<Steps>;
    /// The grid of whole numbers that [`ScalarCodes::steps`] gave, changed within their ranges. `None` where that gives none.
    fn stepped(&self, steps: &Steps) -> Option<Grid>;
    /// Writes one block.
    fn pack(&self, grid: &Grid, codes: &[u8], out: &mut [u8]);
    /// Reads one block.
    fn unpack(&self, block: &[u8], codes: &mut [u8]) -> Grid;
}

/// The grid of one block: what [`ScalarCodes::fit`] found.
#[derive(Debug, Clone)]
pub struct Grid {
    /// Effective scale per group, as a reader will see it. Entries beyond the block's groups are zero.
    pub scale: [f32; 16],
    /// Effective minimum per group (subtracted), as a reader will see it. Zero in formats without minimums.
    pub min: [f32; 16],
    /// The block's header fields as they will be packed; private to each format.
    header: Header,
}

/// A grid in whole numbers: group `g` has scale `unit * scale[g]` and minimum `min_unit * min[g]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Steps {
    /// Of the scales; held in half precision.
    pub unit: f32,
    /// Of the minimums; held in half precision. 0 in formats without.
    pub min_unit: f32,
    /// Per group.
    pub scale: [i16; 16],
    /// Per group.
    pub min: [i16; 16],
    /// Lowest and highest of `scale`; the same where there is no choice.
    pub scales: (i16, i16),
    /// Lowest and highest of `min`.
    pub mins: (i16, i16),
}

/// A block without its codes: half-precision numbers and small integers, in the order of their bytes.
type Header = [u8; 32];

/// Mean of the squares of a row, as [`ScalarCodes::fit`] wants it.
pub fn mean_square(row: &[f32]) -> f32 {
    search::sum_of_squares(row) / row.len() as f32
}

impl BlockFormat {
    /// Bytes of a row of `cols` weights; `None` if `cols` is no multiple of the block or the size overflows.
    pub fn row_bytes(&self, cols: usize) -> Option<usize> {
        if cols.is_multiple_of(self.block_weights) {
            (cols / self.block_weights).checked_mul(self.block_bytes)
        } else {
            None
        }
    }

    /// Bits per weight, block headers included.
    pub fn bits_per_weight(&self) -> f64 {
        self.block_bytes as f64 * 8.0 / self.block_weights as f64
    }

    /// Packed in blocks of codes (neither float nor integer).
    pub fn is_quantized(&self) -> bool {
        self.block_weights > 1
    }

    /// By ggml's number.
    pub fn by_id(id: u32) -> Option<&'static BlockFormat> {
        ALL.iter().copied().find(|f| f.ggml_id == id)
    }

    /// By name, case-insensitive.
    pub fn by_name(name: &str) -> Option<&'static BlockFormat> {
        ALL.iter().copied().find(|f| f.name.eq_ignore_ascii_case(name))
    }
}

impl PartialEq for BlockFormat {
    fn eq(&self, other: &Self) -> bool {
        self.ggml_id == other.ggml_id
    }
}

impl Eq for BlockFormat {}

impl std::fmt::Debug for BlockFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// For formats in which no packed value can be NaN or infinite.
fn always_finite(_: &[u8]) -> Option<usize> {
    None
}
