//! Permutations of bytes with AVX-512 VBMI.

use super::super::permutes::{Halves, Permutes};
use super::super::simd::Lines;
use super::Wide;
use std::arch::x86_64::*;

/// `b` where the mask has a one, `a` elsewhere.
#[inline(always)]
unsafe fn choose(mask: __mmask64, a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: used by the methods of `Wide` alone.
    unsafe { _mm512_mask_blend_epi8(mask, a, b) }
}

/// One of 128 entries by the low seven bits of each byte.
///
/// # Safety
/// 128 entries can be read there; used by the methods of `Wide<true>` alone.
#[inline(always)]
unsafe fn of_128(table: *const u8, low: __m512i) -> __m512i {
    // SAFETY: by the caller's promise.
    unsafe { _mm512_permutex2var_epi8(_mm512_loadu_si512(table.cast()), low, _mm512_loadu_si512(table.add(64).cast())) }
}

/// The same with the eighth bits in a mask, and of larger tables with further bits in further masks.
///
/// # Safety
/// As [`of_128`], with as many entries.
#[inline(always)]
unsafe fn of_256(table: *const u8, low: __m512i, masks: [__mmask64; 4]) -> __m512i {
    // SAFETY: by the caller's promise, here and below.
    unsafe { choose(masks[0], of_128(table, low), of_128(table.add(128), low)) }
}

#[inline(always)]
unsafe fn of_512(table: *const u8, low: __m512i, masks: [__mmask64; 4]) -> __m512i {
    // SAFETY: as above.
    unsafe { choose(masks[1], of_256(table, low, masks), of_256(table.add(256), low, masks)) }
}

#[inline(always)]
unsafe fn of_1024(table: *const u8, low: __m512i, masks: [__mmask64; 4]) -> __m512i {
    // SAFETY: as above.
    unsafe { choose(masks[2], of_512(table, low, masks), of_512(table.add(512), low, masks)) }
}

#[inline(always)]
unsafe fn of_2048(table: *const u8, low: __m512i, masks: [__mmask64; 4]) -> __m512i {
    // SAFETY: as above.
    unsafe { choose(masks[3], of_1024(table, low, masks), of_1024(table.add(1024), low, masks)) }
}

/// One of `N` entries.
#[inline(always)]
fn of_all<const N: usize>(table: &[u8; N], low: __m512i, masks: [__mmask64; 4]) -> __m512i {
    let table = table.as_ptr();
    // SAFETY: of each size all entries are there; used by the methods of `Wide<true>` alone.
    unsafe {
        match N {
            256 => of_256(table, low, masks),
            512 => of_512(table, low, masks),
            1024 => of_1024(table, low, masks),
            2048 => of_2048(table, low, masks),
            _ => unreachable!("no codebook has another size"),
        }
    }
}

/// Bytes `first ..` of one register, each before the same of another, whose places are 64 more.
const fn interleaved(first: u8) -> [u8; 64] {
    let mut at = [0; 64];
    let mut i = 0;
    while i < 64 {
        at[i] = first + (i / 2) as u8 + (i % 2) as u8 * 64;
        i += 1;
    }
    at
}
static INTERLEAVED: Lines<[[u8; 64]; 2]> = Lines([interleaved(0), interleaved(32)]);

impl<const VBMI: bool> Permutes for Wide<VBMI> {
    const PERMUTES: bool = VBMI;

    #[inline(always)]
    fn to_array(self, b: __m512i) -> [u8; 64] {
        let mut to = [0; 64];
        now!(_mm512_storeu_si512(to.as_mut_ptr().cast(), b));
        to
    }

    #[inline(always)]
    fn of_array(self, bytes: &[u8; 64]) -> __m512i {
        now!(_mm512_loadu_si512(bytes.as_ptr().cast()))
    }

    #[inline(always)]
    fn window(self, unit: &[u8], at: usize) -> __m512i {
        let rest = &unit[at..];
        match rest.first_chunk() {
            Some(all) => self.of_array(all),
            None => now!(_mm512_maskz_loadu_epi8((1 << rest.len()) - 1, rest.as_ptr().cast())),
        }
    }

    #[inline(always)]
    fn bytes_from(self, a: __m512i, b: __m512i, places: &[u8; 64]) -> __m512i {
        now!(_mm512_permutex2var_epi8(a, self.of_array(places), b))
    }

    #[inline(always)]
    fn bits_from(self, b: __m512i, from: &[u8; 64]) -> __m512i {
        now!(_mm512_multishift_epi64_epi8(self.of_array(from), b))
    }

    #[inline(always)]
    fn by_seven_bits(self, table: &[u8; 128], b: __m512i) -> __m512i {
        now!(of_128(table.as_ptr(), b))
    }

    #[inline(always)]
    fn entries<const N: usize>(self, table: &Halves<N>, low: __m512i, high: __m512i) -> [__m512i; 2] {
        let further = |bit: i8| now!(_mm512_test_epi8_mask(high, _mm512_set1_epi8(bit)));
        let masks = [now!(_mm512_movepi8_mask(low)), further(1), further(2), further(4)];
        [of_all(&table[0], low, masks), of_all(&table[1], low, masks)]
    }

    #[inline(always)]
    fn zip(self, [a, b]: [__m512i; 2]) -> [__m512i; 2] {
        [self.bytes_from(a, b, &INTERLEAVED[0]), self.bytes_from(a, b, &INTERLEAVED[1])]
    }

    #[inline(always)]
    fn signs_of_two(self, b: __m512i) -> [__m512i; 2] {
        self.zip([b; 2])
    }
}
