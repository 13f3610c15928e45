//! Block formats: how rows of weights are packed, one file per family, one line per format in [`ALL`].
//!
//! A [`BlockFormat`] is data: its name, its number in ggml, its sizes, and plain functions over rows. The default
//! quantizers give ggml's reference bytes *exactly* (same IEEE f32 operations in the same order, no FMA contraction);
//! `fixtures/blocks` holds those bytes.

mod float;

/// Every tensor type that qconv knows, in the order of their ggml numbers.
pub static ALL: &[&BlockFormat] = &[&float::F32, &float::F16, &float::BF16];

pub use float::{BF16, F16, F32};

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
    /// The format takes importance into account; `NeedsImportance` where ggml gives garbage without.
    pub importance: Importance,
    /// The four steps of the default quantizer for formats whose codes are scalars on a grid; lets GPTQ, HQQ and
    /// AdaRound pick the codes. `None` for floats and for codebooks of groups.
    pub scalar: Option<&'static dyn ScalarCodes>,
    /// What plain round-to-nearest quantization of normally distributed weights gives, as RMS error over RMS value.
    /// `verify --against` judges tensors by it. Measured, see the test `expected_error_is_what_is_measured`.
    pub expected_error: f32,
    /// First problem in packed bytes that make weights NaN or infinite (a scale, a float): the index of the block.
    pub find_nonfinite: fn(bytes: &[u8]) -> Option<usize>,
}

/// How a quantizer uses importance (an importance matrix).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Importance {
    /// Ignored.
    Unused,
    /// Used where given.
    Used,
    /// llama-quantize refuses this type without it.
    Required,
}

/// The default quantizer in four steps, for formats where every weight has its own small integer code.
///
/// Round-to-nearest, GPTQ, HQQ and AdaRound differ only in who picks the codes. `fit`, then `code` for every weight, then
/// `pack` gives exactly the bytes of [`BlockFormat::quantize`].
pub trait ScalarCodes: Sync {
    /// Searches scales and minimums for one block. `sigma2` is the row's mean square (ggml mixes it into the importance).
    fn fit(&self, weights: &[f32], importance: Option<&[f32]>, sigma2: f32) -> Grid;
    /// The code that the default quantizer gives to a weight at position `i` of the block.
    fn code(&self, grid: &Grid, i: usize, weight: f32) -> u8;
    /// The weight that a code stands for at position `i`.
    fn value(&self, grid: &Grid, i: usize, code: u8) -> f32;
    /// Number of codes.
    fn levels(&self) -> usize;
    /// Writes one block.
    fn pack(&self, grid: &Grid, codes: &[u8], out: &mut [u8]);
}

/// The fitted grid of one block: what [`ScalarCodes::fit`] found. Sub-blocks that do not exist are zero.
#[derive(Debug, Clone)]
pub struct Grid {
    /// Effective scale per sub-block, as a reader will see it.
    pub scale: [f32; 16],
    /// Effective minimum per sub-block (subtracted), as a reader will see it.
    pub min: [f32; 16],
    /// What weights are multiplied with to find their code; differs from `1 / scale` where ggml rounds the scale after
    /// choosing codes.
    pub inverse: [f32; 16],
    /// The block's header fields (scales, minimums) as they will be packed; private to each format.
    pub header: [u8; 32],
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
#[allow(dead_code)] // until the first such format is here
fn always_finite(_: &[u8]) -> Option<usize> {
    None
}
