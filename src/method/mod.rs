//! Quantization methods: one file and one line in [`ALL`] each.
//!
//! A method decides which bytes of a block format a row of weights becomes. Formats know how to fit, code and pack
//! ([`qconv_formats::block::ScalarCodes`]); methods differ in who picks the codes, so that each works with every format.

mod hqq;
mod rtn;

use qconv_formats::block::BlockFormat;

/// Every method.
pub static ALL: &[&Method] = &[&rtn::RTN, &hqq::HQQ];

/// Quantizes whole rows: `weights` is `(rows, cols)`, `importance` one number per column, `out` the packed rows.
pub type QuantizeRows =
    fn(format: &'static BlockFormat, cols: usize, weights: &[f32], importance: Option<&[f32]>, out: &mut [u8]);

/// A quantization method.
pub struct Method {
    /// Its name on the command line.
    pub name: &'static str,
    /// One line of help.
    pub help: &'static str,
    /// Quantizes whole rows.
    pub quantize: QuantizeRows,
    /// Whether it makes sense for a format that is quantized to; the error is the reason, as the end of a sentence.
    pub suits: fn(&BlockFormat) -> Result<(), &'static str>,
}

impl Method {
    /// By name, case-insensitive.
    pub fn by_name(name: &str) -> Option<&'static Method> {
        ALL.iter().copied().find(|m| m.name.eq_ignore_ascii_case(name))
    }
}
