//! [`IntegerSums`] with AVX-512.

use super::super::simd::IntegerSums;
use super::Wide;
use std::arch::x86_64::*;

impl<const VBMI: bool> IntegerSums for Wide<VBMI> {
    #[inline(always)]
    fn start(self, minus_128: &[i32; 16]) -> __m512i {
        now!(_mm512_loadu_si512(minus_128.as_ptr().cast()))
    }

    #[inline(always)]
    fn dot(self, _: bool, sum: __m512i, codes: __m512i, x: __m512i) -> __m512i {
        now!(_mm512_dpbusd_epi32(sum, codes, x))
    }

    #[inline(always)]
    fn products(self, codes: __m512i, x: __m512i) -> __m512i {
        self.dot(false, now!(_mm512_setzero_si512()), codes, x)
    }

    #[inline(always)]
    fn of_two_parts(self, a: __m512i, b: __m512i) -> __m512i {
        // Sums of four products of at most 64 and 127 fit 16 bits.
        now!(_mm512_madd_epi16(_mm512_packs_epi32(a, b), _mm512_set1_epi16(1)))
    }

    #[inline(always)]
    fn sixteens(self, ab: __m512i, cd: __m512i) -> __m512i {
        let (ab, cd) = (now!(_mm512_castsi512_ps(ab)), now!(_mm512_castsi512_ps(cd)));
        let even = now!(_mm512_castps_si512(_mm512_shuffle_ps::<0x88>(ab, cd)));
        let odd = now!(_mm512_castps_si512(_mm512_shuffle_ps::<0xdd>(ab, cd)));
        let sums = now!(_mm512_add_epi32(even, odd)); // of each quarter of a part, then of the next parts
        let places = now!(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
        now!(_mm512_permutexvar_epi32(places, sums))
    }

    #[inline(always)]
    fn dot_two(self, sum: __m512i, [[codes, x], [more, y]]: [[__m512i; 2]; 2]) -> __m512i {
        now!(_mm512_dpbusd_epi32(_mm512_dpbusd_epi32(sum, codes, x), more, y))
    }

    #[inline(always)]
    fn start_group(self, _: bool, offset_log2: u32, minus_sum: i32) -> __m512i {
        now!(_mm512_sll_epi32(_mm512_set1_epi32(minus_sum), _mm_cvtsi32_si128(offset_log2 as i32)))
    }

    #[inline(always)]
    fn dot_four(self, _: bool, sum: __m512i, codes: __m512i, x: [u8; 4]) -> __m512i {
        now!(_mm512_dpbusd_epi32(sum, codes, _mm512_set1_epi32(i32::from_le_bytes(x))))
    }

    #[inline(always)]
    fn stored(self, _: bool, codes: __m512i) -> __m512i {
        codes
    }

    #[inline(always)]
    fn to_floats(self, i: __m512i) -> __m512 {
        now!(_mm512_cvtepi32_ps(i))
    }

    #[inline(always)]
    fn store_ints(self, i: __m512i, to: &mut [i32; 16]) {
        now!(_mm512_storeu_si512(to.as_mut_ptr().cast(), i))
    }
}
