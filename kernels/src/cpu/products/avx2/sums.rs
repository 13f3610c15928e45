//! [`IntegerSums`] with AVX2.

use super::super::simd::{ByteLanes, IntegerSums};
use super::{Pairs, Two, TwoFloats, by_half, halves_of};
use std::arch::x86_64::*;

/// Sums of four products of an unsigned and a signed byte; pairs of them fit 16 bits.
#[inline(always)]
fn sums_of_four(unsigned: __m256i, signed: __m256i) -> __m256i {
    // SAFETY: used by the methods of `Pairs` alone.
    unsafe { _mm256_madd_epi16(_mm256_maddubs_epi16(unsigned, signed), _mm256_set1_epi16(1)) }
}

/// As [`sums_of_four`] for signed bytes; those of `b` are not -128.
#[inline(always)]
fn signed_sums_of_four(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: used by the methods of `Pairs` alone.
    unsafe { sums_of_four(_mm256_abs_epi8(a), _mm256_sign_epi8(b, a)) }
}

impl<const VNNI: bool> IntegerSums for Pairs<VNNI> {
    #[inline(always)]
    fn start(self, eight: bool, offset: [u8; 4], minus_fours: &[i32; 16]) -> Two {
        if eight && !VNNI || offset[0] == 0 {
            let zero = now!(_mm256_setzero_si256());
            return Two(zero, zero); // with `eight`, `dot` takes the codes for signed numbers without AVX-VNNI
        }
        let (first, second) = halves_of(minus_fours);
        let [a, b, c, d] = offset.map(u8::ilog2);
        Two(
            now!(_mm256_sllv_epi32(_mm256_loadu_si256(first.as_ptr().cast()), by_half(a, b))),
            now!(_mm256_sllv_epi32(_mm256_loadu_si256(second.as_ptr().cast()), by_half(c, d))),
        )
    }

    #[inline(always)]
    fn dot(self, eight: bool, sum: Two, codes: Two, x: Two) -> Two {
        if VNNI {
            return both!(Two, |sum, codes, x| _mm256_dpbusd_avx_epi32(sum, codes, x));
        }
        if eight {
            let codes = self.xor(codes, 0x80);
            return both!(Two, |sum, codes, x| _mm256_add_epi32(sum, signed_sums_of_four(codes, x)));
        }
        both!(Two, |sum, codes, x| _mm256_add_epi32(sum, sums_of_four(codes, x)))
    }

    #[inline(always)]
    fn start_group(self, eight: bool, offset_log2: u32, minus_sum: i32) -> Two {
        if eight && !VNNI {
            let zero = now!(_mm256_setzero_si256());
            return Two(zero, zero);
        }
        let start = now!(_mm256_sll_epi32(_mm256_set1_epi32(minus_sum), _mm_cvtsi32_si128(offset_log2 as i32)));
        Two(start, start)
    }

    #[inline(always)]
    fn dot_four(self, eight: bool, sum: Two, codes: Two, x: [u8; 4]) -> Two {
        let x = now!(_mm256_set1_epi32(i32::from_le_bytes(x)));
        if VNNI {
            return both!(Two, |sum, codes| _mm256_dpbusd_avx_epi32(sum, codes, x));
        }
        if eight {
            return both!(Two, |sum, codes| _mm256_add_epi32(sum, signed_sums_of_four(codes, x)));
        }
        both!(Two, |sum, codes| _mm256_add_epi32(sum, sums_of_four(codes, x)))
    }

    #[inline(always)]
    fn stored(self, eight: bool, codes: Two) -> Two {
        if eight && !VNNI { self.xor(codes, 0x80) } else { codes }
    }

    #[inline(always)]
    fn to_floats(self, i: Two) -> TwoFloats {
        both!(TwoFloats, |i| _mm256_cvtepi32_ps(i))
    }

    #[inline(always)]
    fn store_ints(self, i: Two, to: &mut [i32; 16]) {
        let (first, second) = to.split_at_mut(8);
        now!(_mm256_storeu_si256(first.as_mut_ptr().cast(), i.0));
        now!(_mm256_storeu_si256(second.as_mut_ptr().cast(), i.1));
    }
}
