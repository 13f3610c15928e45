//! How packed weights lie in GPU memory: blocks taken apart into planes, so that threads load what they need together and
//! aligned. The other side is `kernels/cuda/decode.cuh`.
//!
//! ```text
//! row of the file: | block 0: d, codes | block 1: d, codes | ...
//! row on the GPU:  | codes of all blocks | d of all blocks | zeros up to a multiple of 16 bytes |
//! ```
//!
//! Not a byte is added but a row's last few, and nothing is lost: a test gets the file's bytes back. Codes come
//! in one order whatever the format: byte `j` of a plane of B-bit codes holds, at shift `B * s`, code `j + 4 * B * s` of 32. Nibbles
//! that are looked up in a table have one of their own, and so have scales of six bits.

use qconv_formats::block::BlockFormat;
use std::ops::Range;

/// What becomes one plane: a range of a block's bytes.
struct Plane {
    from: Range<usize>,
    order: Order,
}

/// What of a plane goes where.
#[derive(Clone, Copy)]
enum Order {
    /// Bytes as they are.
    Bytes,
    /// Codes of so many bits, and how far apart the codes of a byte are in the file.
    Codes(usize, usize),
    /// Nibbles to be looked up, and how far apart those of a byte are in the file: word `k` of a group of 32 gets codes
    /// `4 k .. 4 k + 3`, then `16 + 4 k ..`, each in the next four bits.
    LookedUp(usize),
    /// The last 12 bytes are 16 numbers of six bits, two for each group of 32, and this tells where they are in the file; as
    /// `six_bits` of `decode.cuh` takes them.
    SixBits(fn(usize, usize) -> SixBits),
}

/// Where a number of six bits lies in a file's 12 bytes: byte and shift of its lower four, and of its upper two.
struct SixBits {
    low: (u8, u8),
    top: (u8, u8),
}

/// Scale (`which` = 0) or minimum (1) of group `g` in Q4_K and Q5_K: those of the first four groups lie whole in a byte, above
/// them the upper two bits of the last four's.
fn scales_and_minimums(which: usize, g: usize) -> SixBits {
    let (which, at) = (which as u8, (g % 4) as u8);
    if g < 4 {
        SixBits { low: (4 * which + at, 0), top: (4 * which + at, 4) }
    } else {
        SixBits { low: (8 + at, 4 * which), top: (4 * which + at, 6) }
    }
}

/// The scale of half `which` of group `g` in Q3_K: lower nibbles of the first eight and of the last share bytes, upper bits follow.
fn scales_of_halves(which: usize, g: usize) -> SixBits {
    let s = (2 * g + which) as u8;
    SixBits { low: (s % 8, s / 8 * 4), top: (8 + s % 4, s / 4 * 2) }
}

/// Bytes as they are.
const fn bytes(from: Range<usize>) -> Plane {
    Plane { from, order: Order::Bytes }
}

/// Codes of `bits` bits; codes `i` and `i + stride` share a byte in the file.
const fn codes(bits: usize, stride: usize, from: Range<usize>) -> Plane {
    Plane { from, order: Order::Codes(bits, stride) }
}

/// Nibbles that are looked up; codes `i` and `i + stride` share a byte in the file.
const fn looked_up(stride: usize, from: Range<usize>) -> Plane {
    Plane { from, order: Order::LookedUp(stride) }
}

/// 12 bytes of numbers of six bits, behind bytes as they are.
const fn six_bits(from: Range<usize>, order: fn(usize, usize) -> SixBits) -> Plane {
    Plane { from, order: Order::SixBits(order) }
}

/// How a format's rows lie in GPU memory.
pub(super) struct Layout {
    format: &'static str,
    /// In the order of the format's `Planes` in `kernels/cuda/blocks`: what is loaded in larger pieces comes first, so
    /// that every plane begins aligned.
    planes: &'static [Plane],
}

const fn layout(format: &'static str, planes: &'static [Plane]) -> Layout {
    Layout { format, planes }
}

/// Every format with a decoder in `kernels/cuda/blocks`.
pub(super) static ALL: &[Layout] = &[
    layout("F32", &[bytes(0..4)]),
    layout("F16", &[bytes(0..2)]),
    layout("BF16", &[bytes(0..2)]),
    layout("Q4_0", &[codes(4, 16, 2..18), bytes(0..2)]),
    layout("Q4_1", &[codes(4, 16, 4..20), bytes(0..4)]),
    layout("Q5_0", &[codes(4, 16, 6..22), codes(1, 1, 2..6), bytes(0..2)]),
    layout("Q5_1", &[codes(4, 16, 8..24), codes(1, 1, 4..8), bytes(0..4)]),
    layout("Q8_0", &[bytes(2..18), bytes(18..34), bytes(0..2)]),
    layout("Q2_K", &[codes(2, 32, 16..80), bytes(0..16), bytes(80..84)]),
    layout("Q3_K", &[codes(2, 32, 32..96), codes(1, 32, 0..32), six_bits(96..108, scales_of_halves), bytes(108..110)]),
    layout("Q4_K", &[codes(4, 32, 16..144), six_bits(0..16, scales_and_minimums)]),
    layout("Q5_K", &[codes(4, 32, 48..176), codes(1, 32, 16..48), six_bits(0..16, scales_and_minimums)]),
    layout("Q6_K", &[codes(4, 64, 0..128), codes(2, 32, 128..192), bytes(192..208), bytes(208..210)]),
    layout("IQ1_S", &[bytes(2..34), bytes(34..50), bytes(0..2)]),
    layout("IQ1_M", &[bytes(0..32), bytes(32..48), bytes(48..56)]),
    layout("IQ2_XXS", &[bytes(2..66), bytes(0..2)]),
    layout("IQ2_XS", &[bytes(2..66), bytes(66..74), bytes(0..2)]),
    layout("IQ2_S", &[bytes(2..34), bytes(34..66), bytes(66..74), bytes(74..82), bytes(0..2)]),
    layout("IQ3_XXS", &[bytes(2..66), bytes(66..98), bytes(0..2)]),
    layout("IQ3_S", &[bytes(2..66), bytes(74..106), bytes(66..74), bytes(106..110), bytes(0..2)]),
    layout("IQ4_NL", &[looked_up(16, 2..18), bytes(0..2)]),
    layout("IQ4_XS", &[looked_up(16, 8..136), bytes(0..8)]),
    layout("TQ1_0", &[bytes(0..32), bytes(32..48), bytes(48..52), bytes(52..54)]),
    layout("TQ2_0", &[codes(2, 32, 0..64), bytes(64..66)]),
    layout("MXFP4", &[looked_up(16, 1..17), bytes(0..1)]),
    layout("NVFP4", &[looked_up(8, 4..36), bytes(0..4)]),
    layout("Q1_0", &[codes(1, 1, 2..18), bytes(0..2)]),
    layout("Q2_0", &[codes(2, 1, 2..18), bytes(0..2)]),
];

/// Rows begin at multiples of this.
const ALIGNMENT: usize = 16;

impl Layout {
    /// The layout of a format, if kernels can decode it.
    pub fn of(format: &BlockFormat) -> Option<&'static Layout> {
        ALL.iter().find(|l| l.format == format.name)
    }

    /// Bytes of a row of `blocks` blocks.
    pub fn row_bytes(&self, blocks: usize) -> usize {
        (blocks * self.planes.iter().map(|p| p.from.len()).sum::<usize>()).next_multiple_of(ALIGNMENT)
    }

    /// Lays rows of `blocks` blocks out: `rows` as in the file, `out`: as many times [`Layout::row_bytes`].
    pub fn pack(&self, blocks: usize, rows: &[u8], out: &mut [u8]) {
        let tables = self.tables(false);
        let (from, to) = (rows.len().max(1) / (out.len() / self.row_bytes(blocks)).max(1), self.row_bytes(blocks));
        for (row, out) in rows.chunks_exact(from).zip(out.chunks_exact_mut(to)) {
            let mut planes = out;
            for (plane, table) in self.planes.iter().zip(&tables) {
                let (here, rest) = planes.split_at_mut(plane.from.len() * blocks);
                for (block, to) in row.chunks_exact(from / blocks).zip(here.chunks_exact_mut(plane.from.len())) {
                    rearrange(&block[plane.from.clone()], table.as_deref(), to);
                }
                planes = rest;
            }
            planes.fill(0);
        }
    }

    /// The inverse of [`Layout::pack`].
    #[cfg(test)]
    pub fn unpack(&self, blocks: usize, packed: &[u8], rows: &mut [u8]) {
        let tables = self.tables(true);
        let block_bytes: usize = self.planes.iter().map(|p| p.from.len()).sum();
        for (packed, row) in
            packed.chunks_exact(self.row_bytes(blocks)).zip(rows.chunks_exact_mut(block_bytes * blocks))
        {
            let mut planes = packed;
            for (plane, table) in self.planes.iter().zip(&tables) {
                let (here, rest) = planes.split_at(plane.from.len() * blocks);
                for (from, block) in here.chunks_exact(plane.from.len()).zip(row.chunks_exact_mut(block_bytes)) {
                    rearrange(from, table.as_deref(), &mut block[plane.from.clone()]);
                }
                planes = rest;
            }
        }
    }

    /// For each plane whose codes change their order: where they go. `back`: from the GPU's order to the file's.
    fn tables(&self, back: bool) -> Vec<Option<Vec<Move>>> {
        let table = |plane: &Plane| -> Option<Vec<Move>> {
            let len = plane.from.len();
            let moves = |bits: usize, to: &dyn Fn(usize) -> ((u8, u8), (u8, u8))| {
                (0..len * 8 / bits).map(|code| Move::new(to(code), bits, back)).collect()
            };
            match plane.order {
                Order::Bytes => None,
                Order::Codes(bits, stride) if stride == 4 * bits => None,
                Order::Codes(bits, stride) => {
                    Some(moves(bits, &|code| (place(bits, stride, code), place(bits, 4 * bits, code))))
                }
                Order::LookedUp(stride) => Some(moves(4, &|code| (place(4, stride, code), place_looked_up(code)))),
                Order::SixBits(file) => {
                    let before = len - 12;
                    let whole = (0..before).map(|i| Move::new(((i as u8, 0), (i as u8, 0)), 8, back));
                    let behind = |(byte, shift): (u8, u8)| (before as u8 + byte, shift);
                    let numbers = (0..16).flat_map(|i| {
                        let (which, g) = (i / 8, i % 8);
                        let (file, gpu) = (file(which, g), place_six_bits(which, g));
                        [(file.low, gpu.low, 4), (file.top, gpu.top, 2)]
                    });
                    let numbers = numbers.map(|(file, gpu, bits)| Move::new((behind(file), behind(gpu)), bits, back));
                    Some(whole.chain(numbers).collect())
                }
            }
        };
        self.planes.iter().map(table).collect()
    }
}

/// Where one code of a plane goes.
struct Move {
    from: u8,
    from_shift: u8,
    to: u8,
    to_shift: u8,
    mask: u8,
}

impl Move {
    /// Of so many bits, between a place in the file and one on the GPU.
    fn new((file, gpu): ((u8, u8), (u8, u8)), bits: usize, back: bool) -> Self {
        let (from, to) = if back { (gpu, file) } else { (file, gpu) };
        Move { from: from.0, from_shift: from.1, to: to.0, to_shift: to.1, mask: u8::MAX >> (8 - bits) }
    }
}

/// Byte and shift of a code that is to be looked up, on the GPU.
fn place_looked_up(code: usize) -> (u8, u8) {
    let (group, half, within) = (code / 32, code / 16 % 2, code % 16);
    let (word, nibble) = (within / 4, within % 4 + 4 * half);
    ((16 * group + 4 * word + nibble / 2) as u8, (nibble % 2 * 4) as u8)
}

/// Where number `which` of group `g` lies on the GPU: two words of lower nibbles, four groups each, half a word for each `which`; then
/// the upper bits, rotated up by four.
fn place_six_bits(which: usize, g: usize) -> SixBits {
    let low = 16 * which + 4 * (g % 4);
    let top = (16 * which + 2 * g + 4) % 32;
    let at = |word: usize, bit: usize| ((4 * word + bit / 8) as u8, (bit % 8) as u8);
    SixBits { low: at(g / 4, low), top: at(2, top) }
}

/// Byte and shift of a code where a byte's codes lie `stride` apart.
fn place(bits: usize, stride: usize, code: usize) -> (u8, u8) {
    let chunk = stride * 8 / bits;
    let (first, within) = (code / chunk * stride, code % chunk);
    ((first + within % stride) as u8, (within / stride * bits) as u8)
}

fn rearrange(from: &[u8], table: Option<&[Move]>, to: &mut [u8]) {
    let Some(table) = table else { return to.copy_from_slice(from) };
    to.fill(0);
    for m in table {
        to[usize::from(m.to)] |= (from[usize::from(m.from)] >> m.from_shift & m.mask) << m.to_shift;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qconv_formats::block;

    /// Bytes without a pattern.
    fn noise(len: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn nothing_is_lost_in_any_format() {
        for layout in ALL {
            let format = block::BlockFormat::by_name(layout.format).expect("layouts have formats' names");
            for blocks in [1, 3, 8] {
                let rows = noise(5 * blocks * format.block_bytes);
                let mut packed = vec![0xaa; 5 * layout.row_bytes(blocks)];
                layout.pack(blocks, &rows, &mut packed);
                let used = blocks * format.block_bytes;
                for row in packed.chunks_exact(layout.row_bytes(blocks)) {
                    assert!(row.len() - used < ALIGNMENT && row[used..].iter().all(|b| *b == 0), "{format:?}");
                }
                let mut back = vec![0; rows.len()];
                layout.unpack(blocks, &packed, &mut back);
                assert!(back == rows, "{format:?} with {blocks} blocks");
            }
        }
    }

    #[test]
    fn planes_cover_blocks_and_begin_aligned() {
        for layout in ALL {
            let format = block::BlockFormat::by_name(layout.format).expect("layouts have formats' names");
            let mut bytes: Vec<usize> = layout.planes.iter().flat_map(|p| p.from.clone()).collect();
            bytes.sort_unstable();
            assert!(bytes.into_iter().eq(0..format.block_bytes), "{format:?}");
            // Loads of 16 bytes where there are so many, else of the largest power of two that divides the plane.
            let mut before = 0;
            for plane in layout.planes {
                let wide = (1 << plane.from.len().trailing_zeros()).min(16);
                assert_eq!(before % wide, 0, "{format:?}: plane {:?}", plane.from);
                before += plane.from.len();
            }
        }
    }

    #[test]
    fn codes_come_in_one_order() {
        // Q4_K's first 32 bytes of codes hold 64 weights: those of weights 0 and 32 share a byte in the file, and on the
        // GPU those of 0 and 16.
        let mut block = vec![0; 144];
        block[16] = 0x21;
        block[32] = 0x43;
        let layout = Layout::of(BlockFormat::by_name("Q4_K").expect("a format")).expect("has a layout");
        let mut packed = vec![0; layout.row_bytes(1)];
        layout.pack(1, &block, &mut packed);
        assert_eq!((packed[0], packed[16]), (0x31, 0x42));
    }

    #[test]
    fn six_bits_of_both_numbers_lie_side_by_side() {
        // Group 5 of a Q4_K block: scale 0x2b, minimum 0x1e; in the file lower four bits in byte 9 of 12, upper in bytes 1 and 5.
        let mut block = vec![0; 144];
        (block[4 + 9], block[4 + 1], block[4 + 5]) = (0xeb, 0x2 << 6, 0x1 << 6);
        let layout = Layout::of(BlockFormat::by_name("Q4_K").expect("a format")).expect("has a layout");
        let mut packed = vec![0; layout.row_bytes(1)];
        layout.pack(1, &block, &mut packed);
        let word = |at: usize| u32::from_le_bytes([packed[at], packed[at + 1], packed[at + 2], packed[at + 3]]);
        let (low, tops) = (word(128 + 4 + 4) >> 4, word(128 + 4 + 8).rotate_right(10));
        assert_eq!((low & 0x000f_000f) | (tops & 0x0030_0030), 0x001e_002b);
    }
}
