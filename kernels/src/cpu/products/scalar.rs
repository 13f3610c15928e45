//! The scalar twin: arrays and loops, on any machine. The oracle of the other instances.

use super::books::{Books, Eights, Fours};
use super::permutes::Permutes;
use super::simd::{Kernel, Registers, Simd, array};
use super::tile::{Tile, Work, many};
use half::f16;

/// Plain Rust.
#[derive(Clone, Copy)]
pub(super) struct Scalar;

/// The 16-bit number `i`.
fn number(bytes: &[u8; 64], i: usize) -> usize {
    usize::from(u16::from_le_bytes(*array(bytes, 2 * i)))
}

impl Registers for Scalar {
    type Bytes = [u8; 64];
    type Ints = [i32; 16];
    type Floats = [f32; 16];
    type Scales = [f32; 16];
    type Signs = [u64; 4];
}

impl Simd for Scalar {
    const WHOLE_BYTES: bool = true;

    fn enter<K: Kernel>(self, kernel: K) {
        kernel.run(self);
    }

    fn tile<const GROUP: usize, const PLUS: bool, const EIGHT: bool>(self, tile: &Tile, work: Work<'_>) {
        many::<Self, GROUP, PLUS, EIGHT, 1, 2>(self, tile, work);
    }

    fn load(self, bytes: &[u8], at: usize) -> [u8; 64] {
        *array(bytes, at)
    }

    fn pair(self, bytes: &[u8], a: usize, b: usize) -> [u8; 64] {
        let (a, b): (&[u8; 32], &[u8; 32]) = (array(bytes, a), array(bytes, b));
        std::array::from_fn(|i| if i < 32 { a[i] } else { b[i - 32] })
    }

    fn quads(self, bytes: &[u8], a: usize, b: usize) -> [u8; 64] {
        let (a, b): (&[u8; 16], &[u8; 16]) = (array(bytes, a), array(bytes, b));
        std::array::from_fn(|i| if i < 32 { a[i % 16] } else { b[i % 16] })
    }

    fn heads(self, a: &[u8], b: &[u8]) -> [u8; 64] {
        std::array::from_fn(|i| if i < 32 { a[i % 16] } else { b[i % 16] })
    }

    fn pick(self, b: [u8; 64], table: &[u8; 64]) -> [u8; 64] {
        std::array::from_fn(|i| if table[i] < 16 { b[i / 16 * 16 + usize::from(table[i])] } else { 0 })
    }

    fn and_quarters(self, b: [u8; 64], masks: [u8; 4]) -> [u8; 64] {
        std::array::from_fn(|i| b[i] & masks[i / 16])
    }

    fn and_all(self, b: [u8; 64], mask: &[u8; 64]) -> [u8; 64] {
        std::array::from_fn(|i| b[i] & mask[i])
    }

    fn words(self, words: [u64; 8]) -> [u8; 64] {
        std::array::from_fn(|i| (words[i / 8] >> (8 * (i % 8))) as u8)
    }

    fn quarters(self, bytes: &[u8], at: [usize; 4]) -> [u8; 64] {
        std::array::from_fn(|i| bytes[at[i / 16] + i % 16])
    }

    fn widen(self, bytes: &[u8], at: usize) -> [u8; 64] {
        std::array::from_fn(|i| if i % 2 == 0 { bytes[at + i / 2] } else { 0 })
    }

    fn multiply_bytes(self, a: [u8; 64], b: &[u8; 64]) -> [u8; 64] {
        std::array::from_fn(|i| a[i].wrapping_mul(b[i]))
    }

    fn reached(self, b: [u8; 64], low: u8, high: u8) -> [u8; 64] {
        b.map(|b| u8::from(b >= low) + u8::from(b >= high))
    }

    fn xor_all(self, a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        std::array::from_fn(|i| a[i] ^ b[i])
    }

    fn and_words(self, b: [u8; 64], mask: u32) -> [u8; 64] {
        std::array::from_fn(|i| b[i] & mask.to_le_bytes()[i % 4])
    }

    fn words_left<const N: u32>(self, mut b: [u8; 64]) -> [u8; 64] {
        b.as_chunks_mut().0.iter_mut().for_each(|word| *word = (u32::from_le_bytes(*word) << N).to_le_bytes());
        b
    }

    fn words_right<const N: u32>(self, b: [u8; 64]) -> [u8; 64] {
        self.shift([N; 4], b)
    }

    fn where_set(self, mask: u64, value: u8) -> [u8; 64] {
        std::array::from_fn(|i| if mask >> i & 1 == 1 { value } else { 0 })
    }

    fn shift(self, counts: [u32; 4], mut b: [u8; 64]) -> [u8; 64] {
        for (quarter, count) in b.as_chunks_mut::<16>().0.iter_mut().zip(counts) {
            for word in quarter.as_chunks_mut::<4>().0 {
                *word = (u32::from_le_bytes(*word) >> count).to_le_bytes();
            }
        }
        b
    }

    fn shift_up(self, counts: [u32; 4], mut b: [u8; 64]) -> [u8; 64] {
        for (quarter, count) in b.as_chunks_mut::<16>().0.iter_mut().zip(counts) {
            for word in quarter.as_chunks_mut::<4>().0 {
                *word = (u32::from_le_bytes(*word) << count).to_le_bytes();
            }
        }
        b
    }

    fn nibbles_of_longs(self, bytes: &[u8], at: usize) -> [u8; 64] {
        std::array::from_fn(|i| bytes[at + i / 16 * 8 + i % 8] >> (i / 8 % 2 * 4) & 15)
    }

    fn and(self, b: [u8; 64], mask: u8) -> [u8; 64] {
        b.map(|b| b & mask)
    }

    fn xor(self, b: [u8; 64], mask: u8) -> [u8; 64] {
        b.map(|b| b ^ mask)
    }

    fn add(self, b: [u8; 64], value: u8) -> [u8; 64] {
        b.map(|b| b.wrapping_add(value))
    }

    fn add_all(self, a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        std::array::from_fn(|i| a[i].wrapping_add(b[i]))
    }

    fn or(self, a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        std::array::from_fn(|i| a[i] | b[i])
    }

    fn lookup(self, table: &[u8; 16], b: [u8; 64]) -> [u8; 64] {
        b.map(|b| table[(b & 15) as usize])
    }

    fn load_words(self, from: &[u32; 16]) -> [u8; 64] {
        std::array::from_fn(|i| from[i / 4].to_le_bytes()[i % 4])
    }

    fn store(self, b: [u8; 64], to: &mut [u32; 16]) {
        for (to, b) in to.iter_mut().zip(b.as_chunks().0) {
            *to = u32::from_le_bytes(*b);
        }
    }

    fn start(self, _: bool, offset: [u8; 4], minus_fours: &[i32; 16]) -> [i32; 16] {
        std::array::from_fn(|i| i32::from(offset[i / 4]) * minus_fours[i])
    }

    fn dot(self, _: bool, sum: [i32; 16], codes: [u8; 64], x: [u8; 64]) -> [i32; 16] {
        std::array::from_fn(|i| {
            sum[i] + (0..4).map(|j| i32::from(codes[4 * i + j]) * i32::from(x[4 * i + j] as i8)).sum::<i32>()
        })
    }

    fn start_group(self, _: bool, offset_log2: u32, minus_sum: i32) -> [i32; 16] {
        [minus_sum.checked_shl(offset_log2).unwrap_or(0); 16]
    }

    fn dot_four(self, _: bool, sum: [i32; 16], codes: [u8; 64], x: [u8; 4]) -> [i32; 16] {
        std::array::from_fn(|i| {
            sum[i] + (0..4).map(|j| i32::from(codes[4 * i + j]) * i32::from(x[j] as i8)).sum::<i32>()
        })
    }

    fn stored(self, _: bool, codes: [u8; 64]) -> [u8; 64] {
        codes
    }

    fn to_floats(self, i: [i32; 16]) -> [f32; 16] {
        i.map(|i| i as f32)
    }

    fn words_to_floats(self, b: [u8; 64]) -> [f32; 16] {
        std::array::from_fn(|i| i32::from_le_bytes(*array(&b, 4 * i)) as f32)
    }

    fn odd(self, x: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| if i < 8 { x[2 * i + 1] } else { 0.0 })
    }

    fn store_ints(self, i: [i32; 16], to: &mut [i32; 16]) {
        *to = i;
    }

    fn splat(self, x: f32) -> [f32; 16] {
        [x; 16]
    }

    fn floats(self, x: &[f32; 16]) -> [f32; 16] {
        *x
    }

    fn float_bits(self, x: &[u32; 16]) -> [f32; 16] {
        x.map(f32::from_bits)
    }

    fn eight(self, x: &[f32; 8]) -> [f32; 16] {
        std::array::from_fn(|i| if i < 8 { x[i] } else { 0.0 })
    }

    fn eights(self, a: &[f32; 8], b: &[f32; 8]) -> [f32; 16] {
        std::array::from_fn(|i| if i < 8 { a[i] } else { b[i - 8] })
    }

    fn join(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| if i < 8 { a[i] } else { b[i - 8] })
    }

    fn first(self, n: usize, x: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| if i < n { x[i] } else { 0.0 })
    }

    fn store_floats(self, x: [f32; 16], to: &mut [f32; 16]) {
        *to = x;
    }

    fn store_float_bits(self, x: [f32; 16], to: &mut [u32; 16]) {
        *to = x.map(f32::to_bits);
    }

    fn largest(self, a: [f32; 16], b: [f32; 16]) -> f32 {
        // As integers, magnitudes are ordered as they are as floats.
        let magnitude = |x: &f32| x.to_bits() & 0x7fff_ffff;
        f32::from_bits(a.iter().chain(&b).map(magnitude).fold(0, u32::max))
    }

    fn round(self, x: [f32; 16], to: &mut [u8; 16]) {
        // 1.5 * 2^23: adding it leaves the nearest integer in the lowest bits.
        const ROUND: f32 = 12_582_912.0;
        *to = x.map(|x| (x + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as u8);
    }

    fn halves(self, x: [u16; 8]) -> [f32; 16] {
        std::array::from_fn(|i| if i < 8 { f16::from_bits(x[i]).to_f32() } else { 0.0 })
    }

    fn half(self, x: u16) -> [f32; 16] {
        [f16::from_bits(x).to_f32(); 16]
    }

    fn two_halves(self, a: u16, b: u16) -> [f32; 16] {
        std::array::from_fn(|i| f16::from_bits(if i < 8 { a } else { b }).to_f32())
    }

    fn unsigned(self, x: [u8; 16]) -> [f32; 16] {
        x.map(f32::from)
    }

    fn signed(self, x: [u8; 16]) -> [f32; 16] {
        x.map(|x| f32::from(x as i8))
    }

    fn add_floats(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| a[i] + b[i])
    }

    fn mul(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| a[i] * b[i])
    }

    fn fma(self, a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }

    fn put_scales(self, x: [f32; 16], to: &mut [f32; 16]) {
        *to = x;
    }

    fn no_scales(self) -> [f32; 16] {
        [0.0; 16]
    }

    fn spread(self, group: usize, part: usize, x: &[f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| x[(64 * part + 4 * i) / group])
    }

    fn sum(self, x: [f32; 16]) -> f32 {
        x.iter().sum()
    }

    fn transpose(self, from: &[[u32; 16]; 16], to: &mut [[u32; 32]], half: usize) {
        for (j, to) in to.iter_mut().enumerate() {
            for (r, from) in from.iter().enumerate() {
                to[16 * half + r] = from[j];
            }
        }
    }

    fn prefetch(self, _: &[u8], _: usize) {}
}

impl Books for Scalar {
    /// None.
    const MOST_BY_DIGITS: usize = 0;

    fn widen_half(self, b: [u8; 64]) -> [u8; 64] {
        self.widen(&b, 0)
    }

    fn even_odd(self, b: [u8; 64]) -> [u8; 64] {
        std::array::from_fn(|i| b[i / 4 % 8 * 8 + i / 32 * 4 + i % 4])
    }

    fn fields<const EACH: usize>(self, unit: &[u8], at: usize, times: [u16; 4]) -> [u8; 64] {
        std::array::from_fn(|i| {
            let (number, byte) = (i / 2, |j: usize| u16::from(unit[at + i / 8 * EACH + j]));
            let field = if EACH == 1 { byte(0) } else { byte(0) | byte(1) << 8 };
            field.wrapping_mul(times[number % 4]).to_le_bytes()[i % 2]
        })
    }

    fn with_ninth_bits(self, numbers: [u8; 64], bits: u32) -> [u8; 64] {
        std::array::from_fn(|i| numbers[i] | if i % 2 == 1 { (bits >> (i / 2) & 1) as u8 } else { 0 })
    }

    fn signs(self, bytes: &[u8], at: usize) -> [u64; 4] {
        std::array::from_fn(|i| u64::from_le_bytes(*array(bytes, at + 8 * i)))
    }

    fn half_as_signs(self, b: [u8; 64], half: usize) -> [u64; 4] {
        self.signs(&b, 32 * half)
    }

    fn low_bytes_as_signs(self, b: [u8; 64]) -> [u64; 4] {
        std::array::from_fn(|i| (0..8).map(|j| u64::from(b[16 * i + 2 * j]) << (8 * j)).sum())
    }

    fn negate(self, signs: [u64; 4], part: usize, b: [u8; 64]) -> [u8; 64] {
        std::array::from_fn(|i| if signs[part] >> i & 1 == 1 { b[i].wrapping_neg() } else { b[i] })
    }

    fn negate_fourths(self, signs: [u64; 4], part: usize, b: [u8; 64]) -> [u8; 64] {
        std::array::from_fn(|i| {
            let weight = 4 * i + part;
            if signs[weight / 64] >> (weight % 64) & 1 == 1 { b[i].wrapping_neg() } else { b[i] }
        })
    }

    fn find<const N: usize>(self, _: &Eights<N>, points: [u8; 64]) -> [u8; 64] {
        points
    }

    fn points<const N: usize>(self, book: &Eights<N>, found: [u8; 64], part: usize) -> [u8; 64] {
        std::array::from_fn(|i| book.points[number(&found, 8 * part + i / 8)].to_le_bytes()[i % 8])
    }

    fn find_short<const N: usize>(self, _: &Fours<N>, points: [[u8; 64]; 2]) -> [[u8; 64]; 2] {
        points
    }

    fn points_at(self, book: &Eights<256>, unit: &[u8], at: usize) -> [u8; 64] {
        std::array::from_fn(|i| book.points[usize::from(unit[at + i / 8 % 4 + i / 32 * 8])].to_le_bytes()[i % 8])
    }

    fn short_points_at(self, book: &Fours<256>, unit: &[u8], at: usize) -> [u8; 64] {
        std::array::from_fn(|i| book.points[usize::from(unit[at + i / 4])].to_le_bytes()[i % 4])
    }

    fn short_points<const N: usize>(self, book: &Fours<N>, found: [u8; 64], half: usize) -> [u8; 64] {
        std::array::from_fn(|i| book.points[number(&found, 16 * half + i / 4)].to_le_bytes()[i % 4])
    }

    fn level(self, digits: [u8; 64], from: usize, by_digit: &[u8; 64], levels: u8) -> [u8; 64] {
        digits.map(|digits| by_digit[usize::from(digits >> from & (levels - 1))])
    }

    fn interleave(self, fourths: [[u8; 64]; 4]) -> [[u8; 64]; 4] {
        std::array::from_fn(|part| std::array::from_fn(|i| fourths[i % 4][16 * part + i / 4]))
    }

    fn sixteens(self, parts: [[i32; 16]; 4]) -> [i32; 16] {
        std::array::from_fn(|i| parts[i / 4][i % 4 * 4..][..4].iter().sum())
    }

    fn nibbles(self, bytes: &[u8; 8]) -> [f32; 16] {
        std::array::from_fn(|i| f32::from(bytes[i / 2] >> (i % 2 * 4) & 15))
    }

    fn twice(self, x: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| x[i / 2])
    }
}

impl Permutes for Scalar {
    fn to_array(self, b: [u8; 64]) -> [u8; 64] {
        b
    }

    fn of_array(self, bytes: &[u8; 64]) -> [u8; 64] {
        *bytes
    }

    fn signs_of_two(self, b: [u8; 64]) -> [[u64; 4]; 2] {
        [self.signs(&b, 0), self.signs(&b, 32)]
    }
}
