//! What all formats with one small code per weight share: bit planes, the row quantizer, the row dequantizer.
//!
//! A format implements [`Codes`] (layout, header, search); [`ScalarCodes`] and the row functions follow from it, so
//! the default quantizer and the methods that pick codes themselves run through the same header and the same packing.

use super::search::nearest;
use super::{BlockFormat, Grid, Header, Importance, ScalarCodes, Steps};
use half::f16;

/// Some bits of every code, gathered in a range of a block's bytes.
///
/// A byte holds `8 / bits` codes that lie `stride` codes apart; bytes come in chunks of `stride`.
pub(super) struct Plane {
    pub(super) bits: usize,
    pub(super) stride: usize,
    /// Lowest bit of the code that is kept here.
    pub(super) shift: usize,
    /// First byte and number of bytes in the block.
    pub(super) at: (usize, usize),
}

impl Plane {
    pub(super) fn pack(&self, codes: &[u8], block: &mut [u8]) {
        let (per_byte, mask) = (8 / self.bits, (1u16 << self.bits) as u8 - 1);
        let bytes = &mut block[self.at.0..self.at.0 + self.at.1];
        for (bytes, codes) in bytes.chunks_exact_mut(self.stride).zip(codes.chunks_exact(self.stride * per_byte)) {
            for (j, byte) in bytes.iter_mut().enumerate() {
                *byte = 0;
                for k in 0..per_byte {
                    *byte |= ((codes[j + k * self.stride] >> self.shift) & mask) << (k * self.bits);
                }
            }
        }
    }

    /// Adds this plane's bits to codes that hold none of them yet.
    pub(super) fn unpack(&self, block: &[u8], codes: &mut [u8]) {
        let (per_byte, mask) = (8 / self.bits, (1u16 << self.bits) as u8 - 1);
        let bytes = &block[self.at.0..self.at.0 + self.at.1];
        for (bytes, codes) in bytes.chunks_exact(self.stride).zip(codes.chunks_exact_mut(self.stride * per_byte)) {
            for (k, codes) in codes.chunks_exact_mut(self.stride).enumerate() {
                for (code, byte) in codes.iter_mut().zip(bytes) {
                    *code |= ((byte >> (k * self.bits)) & mask) << self.shift;
                }
            }
        }
    }
}

/// The levels `lowest, lowest + 1, ...`.
pub(super) const fn consecutive<const N: usize>(lowest: i32) -> [f32; N] {
    let mut levels = [0.0; N];
    let mut i = 0;
    while i < N {
        levels[i] = (lowest + i as i32) as f32;
        i += 1;
    }
    levels
}

/// One scalar-code format: its layout, its header, its search.
pub(super) trait Codes: Sync + Sized + 'static {
    /// The format's only value.
    const THIS: &'static Self;
    /// Weights in a block.
    const WEIGHTS: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// Weights in a group, which share scale and minimum.
    const GROUP: usize;
    /// What codes stand for, before scale and minimum.
    const LEVELS: &'static [f32];
    /// `LEVELS` is [`consecutive`].
    const CONSECUTIVE: bool = true;
    /// First byte and number of bytes of the block's parts that make up the header.
    const HEADER: &'static [(usize, usize)];
    /// Where in the header half-precision scales lie.
    const HALVES: &'static [usize];
    /// Where the codes' bits lie.
    const PLANES: &'static [Plane];

    /// What a reader sees in a header.
    fn read(header: Header) -> Grid;

    /// The header for these scales and minimums, one per group; `importance` per group decides between roundings.
    fn header(scale: &[f32], minimum: &[f32], importance: Option<&[f32]>) -> Header;

    /// What stands in a header, in whole numbers; see [`ScalarCodes::steps`].
    fn steps(_: &Header) -> Option<Steps> {
        None
    }

    /// The header of whole numbers that [`Codes::steps`] gave.
    fn put(_: &Steps) -> Option<Header> {
        None
    }

    /// The default quantizer's grid and codes; see [`ScalarCodes::fit`].
    fn fit(weights: &[f32], importance: Option<&[f32]>, mean_square: f32, codes: &mut [u8]) -> Grid;

    /// The lowest and the highest code that quantizers use; readers understand all of `LEVELS`.
    const USED: (usize, usize) = (0, Self::LEVELS.len() - 1);

    /// Nothing in the header makes weights infinite or NaN, as far as `ggml_validate_row_data` looks.
    fn finite(header: &Header) -> bool {
        Self::HALVES.iter().all(|&at| half_at(header, at).is_finite())
    }

    /// Writes the codes' bits into a block.
    fn pack_codes(codes: &[u8], block: &mut [u8]) {
        for plane in Self::PLANES {
            plane.pack(codes, block);
        }
    }

    /// Reads the codes' bits from a block.
    fn unpack_codes(block: &[u8], codes: &mut [u8]) {
        codes.fill(0);
        for plane in Self::PLANES {
            plane.unpack(block, codes);
        }
    }
}

/// The code whose level is nearest to `position = (weight + minimum) / scale`, as K-quants round it: not saturating
/// where a position is absurdly far outside (see [`nearest`]).
fn consecutive_code<T: Codes>(position: f32) -> u8 {
    let lowest = T::LEVELS[0] as i32;
    let (first, last) = (lowest + T::USED.0 as i32, lowest + T::USED.1 as i32);
    (nearest(position).min(last).max(first) - lowest) as u8
}

/// K-quants choose codes again when the scales have been rounded. Groups whose scale was rounded to zero keep what the
/// search gave them: their codes mean nothing, yet the reference bytes hold them.
pub(super) fn choose_again<T: Codes>(grid: &Grid, weights: &[f32], codes: &mut [u8]) {
    for (g, (weights, codes)) in weights.chunks_exact(T::GROUP).zip(codes.chunks_exact_mut(T::GROUP)).enumerate() {
        let (scale, minimum) = (grid.scale[g], grid.min[g]);
        if scale == 0.0 {
            continue;
        }
        for (code, w) in codes.iter_mut().zip(weights) {
            *code = consecutive_code::<T>((w + minimum) / scale);
        }
    }
}

impl<T: Codes> ScalarCodes for T {
    fn group(&self) -> usize {
        T::GROUP
    }

    fn levels(&self) -> &'static [f32] {
        T::LEVELS
    }

    fn fit(&self, weights: &[f32], importance: Option<&[f32]>, mean_square: f32, codes: &mut [u8]) -> Grid {
        T::fit(weights, importance, mean_square, codes)
    }

    fn grid(&self, scale: &[f32], min: &[f32], importance: Option<&[f32]>) -> Grid {
        T::read(T::header(scale, min, importance))
    }

    fn code(&self, grid: &Grid, i: usize, weight: f32) -> u8 {
        let (scale, minimum) = (grid.scale[i / T::GROUP], grid.min[i / T::GROUP]);
        if T::CONSECUTIVE {
            let position = if scale == 0.0 { 0.0 } else { (weight + minimum) / scale };
            return consecutive_code::<T>(position.clamp(-4_194_303.0, 4_194_303.0));
        }
        let error = |level: f32| (scale * level - minimum - weight).abs();
        let mut best = T::USED.0;
        for code in T::USED.0..=T::USED.1 {
            if error(T::LEVELS[code]) < error(T::LEVELS[best]) {
                best = code;
            }
        }
        best as u8
    }

    fn nearest(&self, grid: &Grid, group: usize, weights: &[f32], codes: &mut [u8], values: &mut [f32]) {
        let at = group * T::GROUP;
        for ((weight, code), value) in weights.iter().zip(codes).zip(values) {
            *code = self.code(grid, at, *weight);
            *value = self.value(grid, at, *code);
        }
    }

    fn value(&self, grid: &Grid, i: usize, code: u8) -> f32 {
        grid.scale[i / T::GROUP] * T::LEVELS[code as usize] - grid.min[i / T::GROUP]
    }

    fn steps(&self, grid: &Grid) -> Option<Steps> {
        T::steps(&grid.header)
    }

    fn stepped(&self, steps: &Steps) -> Option<Grid> {
        T::put(steps).map(T::read)
    }

    fn pack(&self, grid: &Grid, codes: &[u8], out: &mut [u8]) {
        assert!(codes.len() == T::WEIGHTS && out.len() == T::BYTES, "one block of codes into one block of bytes");
        let mut from = 0;
        for &(at, len) in T::HEADER {
            out[at..at + len].copy_from_slice(&grid.header[from..from + len]);
            from += len;
        }
        T::pack_codes(codes, out);
    }

    fn unpack(&self, block: &[u8], codes: &mut [u8]) -> Grid {
        assert!(codes.len() == T::WEIGHTS && block.len() == T::BYTES, "one block of bytes into one block of codes");
        T::unpack_codes(block, codes);
        T::read(header_of::<T>(block))
    }
}

fn header_of<T: Codes>(block: &[u8]) -> Header {
    let mut header = Header::default();
    let mut to = 0;
    for &(at, len) in T::HEADER {
        header[to..to + len].copy_from_slice(&block[at..at + len]);
        to += len;
    }
    header
}

/// Most weights in a block.
const MOST: usize = 256;

fn quantize<T: Codes>(weights: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let mean_square = if importance.is_some() { super::mean_square(weights) } else { 0.0 };
    let mut codes = [0u8; MOST];
    let codes = &mut codes[..T::WEIGHTS];
    for (b, (weights, block)) in weights.chunks_exact(T::WEIGHTS).zip(out.chunks_exact_mut(T::BYTES)).enumerate() {
        let importance = importance.map(|i| &i[b * T::WEIGHTS..][..T::WEIGHTS]);
        let grid = T::fit(weights, importance, mean_square, codes);
        T::THIS.pack(&grid, codes, block);
    }
}

fn dequantize<T: Codes>(bytes: &[u8], out: &mut [f32]) {
    let mut codes = [0u8; MOST];
    let codes = &mut codes[..T::WEIGHTS];
    let lowest = T::LEVELS[0];
    for (block, out) in bytes.chunks_exact(T::BYTES).zip(out.chunks_exact_mut(T::WEIGHTS)) {
        T::unpack_codes(block, codes);
        let grid = T::read(header_of::<T>(block));
        for (g, (out, codes)) in out.chunks_exact_mut(T::GROUP).zip(codes.chunks_exact(T::GROUP)).enumerate() {
            let (scale, minimum) = (grid.scale[g], grid.min[g]);
            for (o, &c) in out.iter_mut().zip(codes) {
                let level = if T::CONSECUTIVE { c as f32 + lowest } else { T::LEVELS[c as usize] };
                *o = scale * level - minimum;
            }
        }
    }
}

fn first_nonfinite<T: Codes>(bytes: &[u8]) -> Option<usize> {
    bytes.chunks_exact(T::BYTES).position(|block| !T::finite(&header_of::<T>(block)))
}

/// The block format of a scalar-code family's member.
pub(super) const fn format<T: Codes>(
    name: &'static str,
    ggml_id: u32,
    importance: Importance,
    expected_error: f32,
) -> BlockFormat {
    assert!(T::WEIGHTS <= MOST && T::WEIGHTS / T::GROUP <= 16);
    BlockFormat {
        name,
        ggml_id,
        block_weights: T::WEIGHTS,
        block_bytes: T::BYTES,
        quantize: Some(quantize::<T>),
        dequantize: Some(dequantize::<T>),
        importance,
        scalar: Some(T::THIS),
        expected_error,
        find_nonfinite: first_nonfinite::<T>,
    }
}

/// Reads a little-endian half.
pub(super) fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Writes a little-endian half, rounded to nearest even.
pub(super) fn put_half(bytes: &mut [u8], at: usize, x: f32) {
    bytes[at..at + 2].copy_from_slice(&f16::from_f32(x).to_le_bytes());
}

/// What a header with nothing but half-precision numbers holds: one group, whose scale (and minimum) is the unit itself.
pub(super) fn one_step(unit: f32, min_unit: Option<f32>) -> Steps {
    let (mut scale, mut min) = ([0; 16], [0; 16]);
    scale[0] = 1;
    min[0] = i16::from(min_unit.is_some());
    Steps { unit, min_unit: min_unit.unwrap_or(0.0), scale, min, scales: (1, 1), mins: (min[0], min[0]) }
}

/// A grid with one scale and one minimum.
pub(super) fn one_group(header: Header, scale: f32, minimum: f32) -> Grid {
    let mut grid = Grid { scale: [0.0; 16], min: [0.0; 16], header };
    grid.scale[0] = scale;
    grid.min[0] = minimum;
    grid
}
