//! Three bits and a little: magnitudes of four weights as points of a codebook, signs apart.
//!
//! | format | points | signs of eight | block |
//! |---|---|---|---|
//! | IQ3_XXS | 256 | 7 bits | d, 64 point bytes, 8 x (4 x 7 signs + 4 scale bits) |
//! | IQ3_S | 512 | 8 bits | d, 64 low point bytes, high point bits, signs, 8 x 4 scale bits |
//!
//! Groups of 32 weights share a scale. A weight is, with its sign, `d * (scale + 0.5) / 2 * MAGNITUDES[digit]` in IQ3_XXS and
//! `d * (2 * scale + 1) * (2 * digit + 1)` in IQ3_S.

use super::codebook::{Codebook, GroupCodes, format};
use super::codebook_tables as tables;
use super::lattice::{Again, Fitted, Lattice, Start, all_signs};
use super::scalar::{half_at, put_half};
use super::{BlockFormat, Importance};
use std::sync::LazyLock;

/// 3.0625 bits in all.
pub static IQ3_XXS: BlockFormat = format::<OfXxs>("IQ3_XXS", 18, Importance::Required, 2.1e-1);
/// 3.4375 bits in all.
pub static IQ3_S: BlockFormat = format::<OfS>("IQ3_S", 21, Importance::Used, 1.7e-1);

const MAGNITUDES: [f32; 8] = [4., 12., 20., 28., 36., 44., 52., 62.];
const ODD: [f32; 8] = [1., 3., 5., 7., 9., 11., 13., 15.];

static XXS_BOOK: LazyLock<Codebook> = LazyLock::new(|| Codebook::new(&tables::IQ3_XXS, 4, 3, 7, 2));
static S_BOOK: LazyLock<Codebook> = LazyLock::new(|| Codebook::new(&tables::IQ3_S, 4, 3, 7, 3));

/// The search of IQ3_XXS.
pub const XXS: Lattice = Lattice {
    book: &XXS_BOOK,
    group: 32,
    digits: 8,
    tries: 15,
    step: 0.2,
    even_signs: true,
    zero: 1e-8,
    start: Start::Largest,
    again: Again::Displaced,
    factor: 2.0,
    without: |_, x| x * x,
    pack: pack_xxs,
};

/// The search of IQ3_S.
pub const S: Lattice = Lattice {
    book: &S_BOOK,
    tries: 9,
    even_signs: false,
    zero: f32::from_bits(1), // only true zeros
    again: Again::AllIfAny,
    pack: pack_s,
    ..XXS
};

/// `out[j] = scale * magnitude`, with signs, for the four digits of a packed point.
fn write_point(point: u16, signs: u8, scale: f32, magnitudes: &[f32; 8], out: &mut [f32]) {
    for (j, o) in out.iter_mut().enumerate() {
        let magnitude = scale * magnitudes[(point >> (3 * j) & 7) as usize];
        *o = if signs >> j & 1 == 1 { -magnitude } else { magnitude };
    }
}

fn pack_xxs(block: &Fitted, out: &mut [u8]) {
    if block.scale == 0.0 {
        return;
    }
    put_half(out, 0, block.scale * 1.0125);
    for (g, group) in block.groups[..8].iter().enumerate() {
        for (o, p) in out[2 + 8 * g..].iter_mut().zip(&group.points) {
            *o = *p as u8;
        }
        let signs = group.signs.iter().enumerate().fold(0, |all, (k, &s)| all | (s as u32) << (7 * k));
        out[66 + 4 * g..][..4].copy_from_slice(&(signs | (block.integers[g] as u32) << 28).to_le_bytes());
    }
}

fn pack_s(block: &Fitted, out: &mut [u8]) {
    put_half(out, 0, block.scale * 1.033);
    // Low bytes and signs of a group of zeros are left out, and those of later groups move up: ggml does not advance
    // over them. Readers see other weights than were meant, but these are the reference bytes.
    let mut coded = 0;
    for (g, group) in block.groups[..8].iter().enumerate() {
        if group.coded {
            for (k, point) in group.points.iter().enumerate() {
                out[2 + 8 * coded + k] = *point as u8;
                out[66 + g] |= ((point >> 8) as u8) << k;
            }
            out[74 + 4 * coded..][..4].copy_from_slice(&group.signs);
            coded += 1;
        }
        out[106 + g / 2] |= block.integers[g] << (4 * (g % 2));
    }
}

struct OfXxs;

impl GroupCodes for OfXxs {
    const BYTES: usize = 98;

    fn quantize(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        XXS.quantize(x, importance, out);
    }

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = half_at(block, 0);
        for (g, (word, out)) in block[66..].as_chunks::<4>().0.iter().zip(out.chunks_exact_mut(32)).enumerate() {
            let word = u32::from_le_bytes(*word);
            let scale = d * (0.5 + (word >> 28) as f32) * 0.5;
            for (k, out) in out.chunks_exact_mut(4).enumerate() {
                let signs = all_signs((word >> (7 * (k / 2))) as u8 & 127) >> (4 * (k % 2));
                write_point(tables::IQ3_XXS[block[2 + 8 * g + k] as usize], signs, scale, &MAGNITUDES, out);
            }
        }
    }

    fn scale(block: &[u8]) -> f32 {
        half_at(block, 0)
    }
}

struct OfS;

impl GroupCodes for OfS {
    const BYTES: usize = 110;

    fn quantize(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        S.quantize(x, importance, out);
    }

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = half_at(block, 0);
        for (g, out) in out.chunks_exact_mut(32).enumerate() {
            let scale = d * (1 + 2 * (block[106 + g / 2] >> (4 * (g % 2)) & 15)) as f32;
            for (k, out) in out.chunks_exact_mut(4).enumerate() {
                let high = (block[66 + g] >> k & 1) as usize;
                let signs = block[74 + 4 * g + k / 2] >> (4 * (k % 2));
                write_point(tables::IQ3_S[block[2 + 8 * g + k] as usize | high << 8], signs, scale, &ODD, out);
            }
        }
    }

    fn scale(block: &[u8]) -> f32 {
        half_at(block, 0)
    }
}
