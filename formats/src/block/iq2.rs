//! Two bits and a little: magnitudes of eight weights as points of a codebook, signs apart.
//!
//! | format | points | signs of eight | scale for | block |
//! |---|---|---|---|---|
//! | IQ2_XXS | 256 | 7 bits | 32 weights | d, 8 x (4 point bytes, 4 x 7 signs + 4 scale bits) |
//! | IQ2_XS | 512 | 7 bits | 16 | d, 32 x (9 point bits + 7 signs), 16 x 4 scale bits |
//! | IQ2_S | 1024 | 8 bits | 16 | d, low point bytes, signs, high point bits, scales |
//!
//! A weight is `d * (scale + 0.5) / 4 * MAGNITUDES[digit]`, with its sign. The first two need importance: ggml has
//! no rule without and refuses; called without, they take all columns as equally important.

use super::codebook::{Codebook, GroupCodes, format};
use super::codebook_tables as tables;
use super::lattice::{Again, Fitted, Lattice, Start, all_signs};
use super::scalar::{half_at, put_half};
use super::{BlockFormat, Importance};
use std::sync::LazyLock;

/// 2.0625 bits in all.
pub static IQ2_XXS: BlockFormat = format::<OfXxs>("IQ2_XXS", 16, Importance::Required, 3.4e-1);
/// 2.3125 bits in all.
pub static IQ2_XS: BlockFormat = format::<OfXs>("IQ2_XS", 17, Importance::Required, 3.0e-1);
/// 2.5625 bits in all.
pub static IQ2_S: BlockFormat = format::<OfS>("IQ2_S", 22, Importance::Required, 2.6e-1);

const MAGNITUDES: [f32; 4] = [8., 25., 43., 0.]; // digit 3 occurs in no point

static XXS_BOOK: LazyLock<Codebook> = LazyLock::new(|| Codebook::new(&tables::IQ2_XXS, 8, 2, 2, 2));
static XS_BOOK: LazyLock<Codebook> = LazyLock::new(|| Codebook::new(&tables::IQ2_XS, 8, 2, 2, 2));
static S_BOOK: LazyLock<Codebook> = LazyLock::new(|| Codebook::new(&tables::IQ2_S, 8, 2, 2, 1));

/// The search of IQ2_XXS.
pub const XXS: Lattice = Lattice {
    book: &XXS_BOOK,
    group: 32,
    digits: 3,
    tries: 6,
    step: 0.1,
    even_signs: true,
    zero: 1e-15,
    start: Start::LeastSquares,
    again: Again::All,
    factor: 1.0,
    without: |sigma2, x| (sigma2 + x * x).sqrt(),
    pack: pack_xxs,
};

/// The search of IQ2_XS.
pub const XS: Lattice = Lattice {
    book: &XS_BOOK,
    group: 16,
    tries: 9,
    start: Start::Largest,
    again: Again::Displaced,
    pack: pack_xs,
    ..XXS
};

/// The search of IQ2_S.
pub const S: Lattice = Lattice {
    book: &S_BOOK,
    even_signs: false,
    zero: 1e-8,
    factor: 2.0,
    without: |sigma2, x| 0.25 * sigma2 + x * x,
    pack: pack_s,
    ..XS
};

/// `out[j] = scale * magnitude`, with signs, for the eight digits of a packed point.
fn write_point(point: u16, signs: u8, scale: f32, out: &mut [f32]) {
    for (j, o) in out.iter_mut().enumerate() {
        let magnitude = scale * MAGNITUDES[(point >> (2 * j) & 3) as usize];
        *o = if signs >> j & 1 == 1 { -magnitude } else { magnitude };
    }
}

/// A group's scale from its four bits.
fn group_scale(d: f32, bits: u8) -> f32 {
    d * (0.5 + bits as f32) * 0.25
}

fn pack_xxs(block: &Fitted, out: &mut [u8]) {
    if block.scale == 0.0 {
        return;
    }
    put_half(out, 0, block.scale);
    for (g, (group, out)) in block.groups[..8].iter().zip(out[2..].chunks_exact_mut(8)).enumerate() {
        for (o, p) in out.iter_mut().zip(&group.points[..4]) {
            *o = *p as u8;
        }
        let signs = group.signs.iter().enumerate().fold(0, |all, (k, &s)| all | (s as u32) << (7 * k));
        out[4..].copy_from_slice(&(signs | (block.integers[g] as u32) << 28).to_le_bytes());
    }
}

fn pack_xs(block: &Fitted, out: &mut [u8]) {
    if block.scale == 0.0 {
        return;
    }
    put_half(out, 0, block.scale);
    for (g, group) in block.groups.iter().enumerate() {
        for k in 0..2 {
            let code = group.points[k] | (group.signs[k] as u16) << 9;
            out[2 + 4 * g + 2 * k..][..2].copy_from_slice(&code.to_le_bytes());
        }
        out[66 + g / 2] |= block.integers[g] << (4 * (g % 2));
    }
}

fn pack_s(block: &Fitted, out: &mut [u8]) {
    put_half(out, 0, block.scale * 0.9875);
    for (g, group) in block.groups.iter().enumerate() {
        for k in 0..2 {
            let i = 2 * g + k;
            out[2 + i] = group.points[k] as u8;
            out[34 + i] = group.signs[k];
            out[66 + i / 4] |= ((group.points[k] >> 8) as u8) << (2 * (i % 4));
        }
        out[74 + g / 2] |= block.integers[g] << (4 * (g % 2));
    }
}

struct OfXxs;

impl GroupCodes for OfXxs {
    const BYTES: usize = 66;

    fn quantize(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        XXS.quantize(x, importance, out);
    }

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = half_at(block, 0);
        for (bytes, out) in block[2..].chunks_exact(8).zip(out.chunks_exact_mut(32)) {
            let word = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
            let scale = group_scale(d, (word >> 28) as u8);
            for (k, out) in out.chunks_exact_mut(8).enumerate() {
                let signs = all_signs((word >> (7 * k)) as u8 & 127);
                write_point(tables::IQ2_XXS[bytes[k] as usize], signs, scale, out);
            }
        }
    }

    fn scale(block: &[u8]) -> f32 {
        half_at(block, 0)
    }
}

struct OfXs;

impl GroupCodes for OfXs {
    const BYTES: usize = 74;

    fn quantize(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        XS.quantize(x, importance, out);
    }

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = half_at(block, 0);
        for (k, (code, out)) in block[2..66].as_chunks::<2>().0.iter().zip(out.chunks_exact_mut(8)).enumerate() {
            let code = u16::from_le_bytes(*code);
            let scale = group_scale(d, block[66 + k / 4] >> (4 * (k / 2 % 2)) & 15);
            write_point(tables::IQ2_XS[(code & 511) as usize], all_signs((code >> 9) as u8), scale, out);
        }
    }

    fn scale(block: &[u8]) -> f32 {
        half_at(block, 0)
    }
}

struct OfS;

impl GroupCodes for OfS {
    const BYTES: usize = 82;

    fn quantize(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        S.quantize(x, importance, out);
    }

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = half_at(block, 0);
        for (i, out) in out.chunks_exact_mut(8).enumerate() {
            let high = (block[66 + i / 4] >> (2 * (i % 4)) & 3) as usize;
            let scale = group_scale(d, block[74 + i / 4] >> (4 * (i / 2 % 2)) & 15);
            write_point(tables::IQ2_S[block[2 + i] as usize | high << 8], block[34 + i], scale, out);
        }
    }

    fn scale(block: &[u8]) -> f32 {
        half_at(block, 0)
    }
}
