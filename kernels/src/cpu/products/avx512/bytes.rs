//! [`ByteLanes`] with AVX-512.

use super::super::simd::{ByteLanes, array};
use super::{Wide, by_quarter, four_times_eight, line};
use std::arch::x86_64::*;

/// Four times eight neighbouring 16-bit numbers that begin so.
#[inline(always)]
fn words_from(first: [i16; 4]) -> __m512i {
    let eight = |i: usize| std::array::from_fn(|j| first[i] + j as i16);
    four_times_eight([eight(0), eight(1), eight(2), eight(3)])
}

/// Where `size` of `len` bytes begin that hold 16 at each of four places, all of them even: the same for as many as possible.
#[inline(always)]
const fn window(size: usize, len: usize, at: [usize; 4]) -> Option<usize> {
    let [first, q, r, last] = at;
    let end = last + 16;
    if len < size || end - first > size || (len | first | q | r | last) % 2 == 1 {
        None
    } else if end <= size {
        Some(0)
    } else if first >= len - size {
        Some(len - size)
    } else {
        Some(end - size)
    }
}

impl<const VBMI: bool> ByteLanes for Wide<VBMI> {
    #[inline(always)]
    fn load(self, bytes: &[u8], at: usize) -> __m512i {
        let bytes: &[u8; 64] = array(bytes, at);
        now!(_mm512_loadu_si512(bytes.as_ptr().cast()))
    }

    #[inline(always)]
    fn pair(self, bytes: &[u8], a: usize, b: usize) -> __m512i {
        let (a, b): (&[u8; 32], &[u8; 32]) = (array(bytes, a), array(bytes, b));
        now!(_mm512_inserti64x4::<1>(
            _mm512_castsi256_si512(_mm256_loadu_si256(a.as_ptr().cast())),
            _mm256_loadu_si256(b.as_ptr().cast())
        ))
    }

    /// Loads of whole lines from the start of the unit, which other parts and the scales are taken from as well, and a
    /// permutation. Loads of each block are more, and half of them reach into two lines.
    #[inline(always)]
    fn blocks(self, unit: &[u8], block: usize, at: usize, part: usize) -> __m512i {
        let (a, b) = (2 * part * block + at, (2 * part + 1) * block + at);
        let (first, second) = (line(unit, a), line(unit, b + 30));
        let [a, b, c, d] = [a, a + 16, b, b + 16];
        // A place in the second register counts on from the first.
        let places = |at: usize| {
            let step = |i: usize| {
                let at = at + 2 * i;
                (if at < first + 64 { (at - first) / 2 } else { 32 + (at - second) / 2 }) as i16
            };
            [step(0), step(1), step(2), step(3), step(4), step(5), step(6), step(7)]
        };
        let places = four_times_eight([places(a), places(b), places(c), places(d)]);
        now!(_mm512_permutex2var_epi16(self.load(unit, first), places, self.load(unit, second)))
    }

    /// (Where the compiler sees that blocks and scales lie side by side it makes other loads and permutations of these, which take twice as
    /// long: so the address is hidden from it.)
    #[inline(always)]
    #[allow(clippy::pointers_in_nomem_asm_block)] // nothing is read there
    fn blocks_apart(self, unit: &[u8], block: usize, at: usize, part: usize) -> __m512i {
        let mut start = unit.as_ptr();
        now!(std::arch::asm!("/* {0} */", inout(reg) start, options(pure, nomem, nostack, preserves_flags)));
        // SAFETY: what went in came out.
        let unit = unsafe { std::slice::from_raw_parts(start, unit.len()) };
        self.pair(unit, 2 * part * block + at, (2 * part + 1) * block + at)
    }

    #[inline(always)]
    fn heads(self, a: &[u8], b: &[u8]) -> __m512i {
        let (a, b): (&[u8; 16], &[u8; 16]) = (array(a, 0), array(b, 0));
        now!(_mm512_mask_broadcast_i32x4(
            _mm512_broadcast_i32x4(_mm_loadu_si128(a.as_ptr().cast())),
            0xff00,
            _mm_loadu_si128(b.as_ptr().cast())
        ))
    }

    #[inline(always)]
    fn pick(self, b: __m512i, table: &[u8; 64]) -> __m512i {
        now!(_mm512_shuffle_epi8(b, self.load(table, 0)))
    }

    #[inline(always)]
    fn and_quarters(self, b: __m512i, masks: [u8; 4]) -> __m512i {
        let [p, q, r, s] = masks.map(|mask| u32::from(mask) * 0x0101_0101);
        now!(_mm512_and_si512(b, by_quarter(p, q, r, s)))
    }

    #[inline(always)]
    fn and_all(self, b: __m512i, mask: &[u8; 64]) -> __m512i {
        now!(_mm512_and_si512(b, self.load(mask, 0)))
    }

    #[inline(always)]
    fn words(self, w: [u64; 8]) -> __m512i {
        let [a, b, c, d, e, f, g, h] = w;
        now!(_mm512_setr_epi64(a as i64, b as i64, c as i64, d as i64, e as i64, f as i64, g as i64, h as i64))
    }

    /// One load where they are neighbours or the same; else one or two and a permutation, where 64 or 128 bytes hold them. Loads of each are
    /// more, and half of them reach into two lines.
    #[inline(always)]
    fn quarters(self, bytes: &[u8], at: [usize; 4]) -> __m512i {
        let [p, q, r, s] = at;
        if p == s {
            let bytes: &[u8; 16] = array(bytes, p);
            return now!(_mm512_broadcast_i32x4(_mm_loadu_si128(bytes.as_ptr().cast())));
        }
        if q == p + 16 && r == p + 32 && s == p + 48 {
            return self.load(bytes, p);
        }
        if let Some(start) = window(64, bytes.len(), at) {
            let place = |at: usize| ((at - start) / 2) as i16;
            let places = words_from([place(p), place(q), place(r), place(s)]);
            return now!(_mm512_permutexvar_epi16(places, self.load(bytes, start)));
        }
        if let Some(start) = window(128, bytes.len(), at) {
            let place = |at: usize| ((at - start) / 2) as i16;
            let places = words_from([place(p), place(q), place(r), place(s)]);
            return now!(_mm512_permutex2var_epi16(self.load(bytes, start), places, self.load(bytes, start + 64)));
        }
        let (a, b): (&[u8; 16], &[u8; 16]) = (array(bytes, p), array(bytes, q));
        let (c, d): (&[u8; 16], &[u8; 16]) = (array(bytes, r), array(bytes, s));
        now!(_mm512_inserti64x4::<1>(
            _mm512_castsi256_si512(_mm256_loadu2_m128i(b.as_ptr().cast(), a.as_ptr().cast())),
            _mm256_loadu2_m128i(d.as_ptr().cast(), c.as_ptr().cast())
        ))
    }

    #[inline(always)]
    fn widen(self, bytes: &[u8], at: usize) -> __m512i {
        let bytes: &[u8; 32] = array(bytes, at);
        now!(_mm512_cvtepu8_epi16(_mm256_loadu_si256(bytes.as_ptr().cast())))
    }

    #[inline(always)]
    fn multiply_bytes(self, a: __m512i, b: &[u8; 64]) -> __m512i {
        let b = self.load(b, 0);
        let even = now!(_mm512_mullo_epi16(a, b));
        let high = now!(_mm512_and_si512(a, _mm512_set1_epi16(0xff00u16 as i16)));
        let odd = now!(_mm512_mullo_epi16(high, _mm512_srli_epi16::<8>(b)));
        now!(_mm512_mask_blend_epi8(0xaaaa_aaaa_aaaa_aaaa, even, odd))
    }

    #[inline(always)]
    fn reached(self, b: __m512i, low: u8, high: u8) -> __m512i {
        let low = now!(_mm512_cmpge_epu8_mask(b, _mm512_set1_epi8(low as i8)));
        let high = now!(_mm512_cmpge_epu8_mask(b, _mm512_set1_epi8(high as i8)));
        let one = now!(_mm512_set1_epi8(1));
        let ones = now!(_mm512_maskz_mov_epi8(low, one));
        now!(_mm512_mask_add_epi8(ones, high, ones, one))
    }

    #[inline(always)]
    fn xor_all(self, a: __m512i, b: __m512i) -> __m512i {
        now!(_mm512_xor_si512(a, b))
    }

    #[inline(always)]
    fn and_words(self, b: __m512i, mask: u32) -> __m512i {
        now!(_mm512_and_si512(b, _mm512_set1_epi32(mask as i32)))
    }

    #[inline(always)]
    fn bits_to(self, from: [u32; 4], to: u32, b: __m512i) -> __m512i {
        let [p, q, r, s] = from;
        let by = |from: u32| (32 + to - from) % 32;
        now!(_mm512_rolv_epi32(b, by_quarter(by(p), by(q), by(r), by(s))))
    }

    #[inline(always)]
    fn words_left<const N: u32>(self, b: __m512i) -> __m512i {
        now!(_mm512_slli_epi32::<N>(b))
    }

    #[inline(always)]
    fn words_right<const N: u32>(self, b: __m512i) -> __m512i {
        now!(_mm512_srli_epi32::<N>(b))
    }

    #[inline(always)]
    fn where_set(self, mask: u64, value: u8) -> __m512i {
        now!(_mm512_maskz_set1_epi8(mask, value as i8))
    }

    #[inline(always)]
    fn shift(self, counts: [u32; 4], b: __m512i) -> __m512i {
        now!(_mm512_srlv_epi32(b, by_quarter(counts[0], counts[1], counts[2], counts[3])))
    }

    #[inline(always)]
    fn shift_up(self, counts: [u32; 4], b: __m512i) -> __m512i {
        now!(_mm512_sllv_epi32(b, by_quarter(counts[0], counts[1], counts[2], counts[3])))
    }

    #[inline(always)]
    fn nibbles_of_longs(self, bytes: &[u8], at: usize) -> __m512i {
        let bytes: &[u8; 32] = array(bytes, at);
        let longs = now!(_mm512_castsi256_si512(_mm256_loadu_si256(bytes.as_ptr().cast())));
        let twice = now!(_mm512_permutexvar_epi64(_mm512_setr_epi64(0, 0, 1, 1, 2, 2, 3, 3), longs));
        self.and(now!(_mm512_srlv_epi64(twice, _mm512_setr_epi64(0, 4, 0, 4, 0, 4, 0, 4))), 15)
    }

    #[inline(always)]
    fn and(self, b: __m512i, mask: u8) -> __m512i {
        now!(_mm512_and_si512(b, _mm512_set1_epi8(mask as i8)))
    }

    #[inline(always)]
    fn xor(self, b: __m512i, mask: u8) -> __m512i {
        now!(_mm512_xor_si512(b, _mm512_set1_epi8(mask as i8)))
    }

    #[inline(always)]
    fn add(self, b: __m512i, value: u8) -> __m512i {
        now!(_mm512_add_epi8(b, _mm512_set1_epi8(value as i8)))
    }

    #[inline(always)]
    fn add_all(self, a: __m512i, b: __m512i) -> __m512i {
        now!(_mm512_add_epi8(a, b))
    }

    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        now!(_mm512_or_si512(a, b))
    }

    #[inline(always)]
    fn lookup(self, table: &[u8; 16], b: __m512i) -> __m512i {
        now!(_mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), b))
    }

    #[inline(always)]
    fn load_words(self, from: &[u32; 16]) -> __m512i {
        now!(_mm512_loadu_si512(from.as_ptr().cast()))
    }

    #[inline(always)]
    fn store(self, b: __m512i, to: &mut [u32; 16]) {
        now!(_mm512_storeu_si512(to.as_mut_ptr().cast(), b))
    }
}
