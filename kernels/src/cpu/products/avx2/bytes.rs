//! [`ByteLanes`] with AVX2.

use super::super::simd::{ByteLanes, array};
use super::{Pairs, Two, by_half, halves_of};
use std::arch::x86_64::*;

/// A byte-wise product.
#[inline(always)]
fn byte_products(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: used by the methods of `Pairs` alone.
    unsafe {
        let low = _mm256_set1_epi16(0xff);
        let even = _mm256_and_si256(_mm256_mullo_epi16(a, b), low);
        let odd = _mm256_mullo_epi16(_mm256_andnot_si256(low, a), _mm256_srli_epi16::<8>(b));
        _mm256_or_si256(even, odd)
    }
}

/// Bits `from` of bytes as bits `to`: both up, or both down.
#[inline(always)]
fn bits_of_half_to(from: [u32; 2], to: u32, b: __m256i) -> __m256i {
    // SAFETY: used by the methods of `Pairs` alone.
    unsafe {
        if from[1] <= to {
            return _mm256_sllv_epi32(b, by_half(to - from[0], to - from[1]));
        }
        _mm256_srlv_epi32(b, by_half(from[0] - to, from[1] - to))
    }
}

impl<const VNNI: bool> ByteLanes for Pairs<VNNI> {
    #[inline(always)]
    fn load(self, bytes: &[u8], at: usize) -> Two {
        self.pair(bytes, at, at + 32)
    }

    #[inline(always)]
    fn pair(self, bytes: &[u8], a: usize, b: usize) -> Two {
        let (a, b): (&[u8; 32], &[u8; 32]) = (array(bytes, a), array(bytes, b));
        Two(now!(_mm256_loadu_si256(a.as_ptr().cast())), now!(_mm256_loadu_si256(b.as_ptr().cast())))
    }

    #[inline(always)]
    fn heads(self, a: &[u8], b: &[u8]) -> Two {
        let (a, b): (&[u8; 16], &[u8; 16]) = (array(a, 0), array(b, 0));
        Two(
            now!(_mm256_broadcastsi128_si256(_mm_loadu_si128(a.as_ptr().cast()))),
            now!(_mm256_broadcastsi128_si256(_mm_loadu_si128(b.as_ptr().cast()))),
        )
    }

    #[inline(always)]
    fn pick(self, b: Two, table: &[u8; 64]) -> Two {
        let table = self.load(table, 0);
        both!(Two, |b, table| _mm256_shuffle_epi8(b, table))
    }

    #[inline(always)]
    fn and_quarters(self, b: Two, masks: [u8; 4]) -> Two {
        let [p, q, r, s] = masks.map(|mask| u32::from(mask) * 0x0101_0101);
        Two(now!(_mm256_and_si256(b.0, by_half(p, q))), now!(_mm256_and_si256(b.1, by_half(r, s))))
    }

    #[inline(always)]
    fn and_all(self, b: Two, mask: &[u8; 64]) -> Two {
        let mask = self.load(mask, 0);
        both!(Two, |b, mask| _mm256_and_si256(b, mask))
    }

    #[inline(always)]
    fn words(self, w: [u64; 8]) -> Two {
        let [a, b, c, d, e, f, g, h] = w;
        Two(
            now!(_mm256_setr_epi64x(a as i64, b as i64, c as i64, d as i64)),
            now!(_mm256_setr_epi64x(e as i64, f as i64, g as i64, h as i64)),
        )
    }

    #[inline(always)]
    fn quarters(self, bytes: &[u8], at: [usize; 4]) -> Two {
        let (a, b): (&[u8; 16], &[u8; 16]) = (array(bytes, at[0]), array(bytes, at[1]));
        let (c, d): (&[u8; 16], &[u8; 16]) = (array(bytes, at[2]), array(bytes, at[3]));
        Two(
            now!(_mm256_loadu2_m128i(b.as_ptr().cast(), a.as_ptr().cast())),
            now!(_mm256_loadu2_m128i(d.as_ptr().cast(), c.as_ptr().cast())),
        )
    }

    #[inline(always)]
    fn widen(self, bytes: &[u8], at: usize) -> Two {
        let (a, b): (&[u8; 16], &[u8; 16]) = (array(bytes, at), array(bytes, at + 16));
        Two(
            now!(_mm256_cvtepu8_epi16(_mm_loadu_si128(a.as_ptr().cast()))),
            now!(_mm256_cvtepu8_epi16(_mm_loadu_si128(b.as_ptr().cast()))),
        )
    }

    #[inline(always)]
    fn multiply_bytes(self, a: Two, b: &[u8; 64]) -> Two {
        let b = self.load(b, 0);
        Two(byte_products(a.0, b.0), byte_products(a.1, b.1))
    }

    #[inline(always)]
    fn reached(self, b: Two, low: u8, high: u8) -> Two {
        let (low, high) = (now!(_mm256_set1_epi8(low as i8)), now!(_mm256_set1_epi8(high as i8)));
        both!(Two, |b| {
            let low = _mm256_cmpeq_epi8(_mm256_max_epu8(b, low), b);
            let high = _mm256_cmpeq_epi8(_mm256_max_epu8(b, high), b);
            _mm256_sub_epi8(_mm256_setzero_si256(), _mm256_add_epi8(low, high))
        })
    }

    #[inline(always)]
    fn xor_all(self, a: Two, b: Two) -> Two {
        both!(Two, |a, b| _mm256_xor_si256(a, b))
    }

    #[inline(always)]
    fn and_words(self, b: Two, mask: u32) -> Two {
        both!(Two, |b| _mm256_and_si256(b, _mm256_set1_epi32(mask as i32)))
    }

    #[inline(always)]
    fn bits_to(self, from: [u32; 4], to: u32, b: Two) -> Two {
        let [p, q, r, s] = from;
        Two(bits_of_half_to([p, q], to, b.0), bits_of_half_to([r, s], to, b.1))
    }

    #[inline(always)]
    fn words_left<const N: u32>(self, b: Two) -> Two {
        both!(Two, |b| _mm256_sll_epi32(b, _mm_cvtsi32_si128(N as i32)))
    }

    #[inline(always)]
    fn words_right<const N: u32>(self, b: Two) -> Two {
        both!(Two, |b| _mm256_srl_epi32(b, _mm_cvtsi32_si128(N as i32)))
    }

    #[inline(always)]
    fn where_set(self, mask: u64, value: u8) -> Two {
        let m = all_ones(mask);
        both!(Two, |m| _mm256_and_si256(m, _mm256_set1_epi8(value as i8)))
    }

    #[inline(always)]
    fn shift(self, counts: [u32; 4], b: Two) -> Two {
        Two(
            now!(_mm256_srlv_epi32(b.0, by_half(counts[0], counts[1]))),
            now!(_mm256_srlv_epi32(b.1, by_half(counts[2], counts[3]))),
        )
    }

    #[inline(always)]
    fn shift_up(self, counts: [u32; 4], b: Two) -> Two {
        Two(
            now!(_mm256_sllv_epi32(b.0, by_half(counts[0], counts[1]))),
            now!(_mm256_sllv_epi32(b.1, by_half(counts[2], counts[3]))),
        )
    }

    #[inline(always)]
    fn nibbles_of_longs(self, bytes: &[u8], at: usize) -> Two {
        let half = |at: usize| {
            let bytes: &[u8; 16] = array(bytes, at);
            let longs = now!(_mm256_castsi128_si256(_mm_loadu_si128(bytes.as_ptr().cast())));
            let twice = now!(_mm256_permute4x64_epi64::<0x50>(longs));
            now!(_mm256_srlv_epi64(twice, _mm256_setr_epi64x(0, 4, 0, 4)))
        };
        self.and(Two(half(at), half(at + 16)), 15)
    }

    #[inline(always)]
    fn and(self, b: Two, mask: u8) -> Two {
        both!(Two, |b| _mm256_and_si256(b, _mm256_set1_epi8(mask as i8)))
    }

    #[inline(always)]
    fn xor(self, b: Two, mask: u8) -> Two {
        both!(Two, |b| _mm256_xor_si256(b, _mm256_set1_epi8(mask as i8)))
    }

    #[inline(always)]
    fn add(self, b: Two, value: u8) -> Two {
        both!(Two, |b| _mm256_add_epi8(b, _mm256_set1_epi8(value as i8)))
    }

    #[inline(always)]
    fn add_all(self, a: Two, b: Two) -> Two {
        both!(Two, |a, b| _mm256_add_epi8(a, b))
    }

    #[inline(always)]
    fn or(self, a: Two, b: Two) -> Two {
        both!(Two, |a, b| _mm256_or_si256(a, b))
    }

    #[inline(always)]
    fn lookup(self, table: &[u8; 16], b: Two) -> Two {
        let table = now!(_mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())));
        both!(Two, |b| _mm256_shuffle_epi8(table, b))
    }

    #[inline(always)]
    fn load_words(self, from: &[u32; 16]) -> Two {
        let (a, b) = halves_of(from);
        Two(now!(_mm256_loadu_si256(a.as_ptr().cast())), now!(_mm256_loadu_si256(b.as_ptr().cast())))
    }

    #[inline(always)]
    fn store(self, b: Two, to: &mut [u32; 16]) {
        let (first, second) = to.split_at_mut(8);
        now!(_mm256_storeu_si256(first.as_mut_ptr().cast(), b.0));
        now!(_mm256_storeu_si256(second.as_mut_ptr().cast(), b.1));
    }
}

/// Bytes of ones where the mask has a one.
#[inline(always)]
fn all_ones(mask: u64) -> Two {
    Two(all_ones_of_half(mask as u32), all_ones_of_half((mask >> 32) as u32))
}

#[inline(always)]
fn all_ones_of_half(mask: u32) -> __m256i {
    ones_where(now!(_mm256_set1_epi32(mask as i32)), 0)
}

/// The same where the 32 bits from byte `at` of either half have a one.
#[inline(always)]
pub(super) fn ones_where(bits: __m256i, at: usize) -> __m256i {
    // SAFETY: used by the methods of `Pairs` alone.
    unsafe {
        let byte = |i: usize| (0x0101_0101_0101_0101 * (at + i) as u64) as i64;
        let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201u64 as i64);
        let bytes = _mm256_shuffle_epi8(bits, _mm256_setr_epi64x(byte(0), byte(1), byte(2), byte(3)));
        _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit)
    }
}
