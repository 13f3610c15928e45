//! [`IntegerSums`] with AVX2.

use super::super::panel::UNIT;
use super::super::simd::{ByteLanes, IntegerSums};
use super::{Pairs, Two, TwoFloats, halves_of};
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

/// What the compiler has to know before it goes on to read memory.
#[inline(always)]
pub(super) fn known(x: Two) {
    let (a, b) = (now!(_mm256_castsi256_si128(x.0)), now!(_mm256_castsi256_si128(x.1)));
    // SAFETY: no instruction at all. (Registers of 32 bytes could be named only where AVX2 is known.)
    unsafe { std::arch::asm!("/* {0} {1} */", in(xmm_reg) a, in(xmm_reg) b, options(nostack, preserves_flags)) };
}

/// From sums of products of 32 weights each, as [`IntegerSums::products`] gives them, two sums of eight for each half of both: of the first
/// `s` and `-t`, of the second `-s` and `t`.
#[inline(always)]
fn sums_of_eight<const VNNI: bool>(a: __m256i, b: __m256i) -> __m256i {
    // Sums of four products of at most 64 and 127 fit 16 bits.
    let of_four = if VNNI {
        now!(_mm256_packs_epi32(a, b))
    } else {
        now!(_mm256_add_epi16(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b)))
    };
    let signs = [0xffff_ffff_0001_0001, 0x0001_0001_ffff_ffff].map(|x: u64| x as i64);
    now!(_mm256_madd_epi16(of_four, _mm256_setr_epi64x(signs[0], signs[1], signs[0], signs[1])))
}

/// Sums of 16 from [`sums_of_eight`], those of the first halves of 32 weights in the first half of the register.
///
/// Differences of what has opposite signs: of plain sums the compiler would make one `vphaddd`, which takes two cycles on Zen 5 (these
/// three instructions take less than one).
#[inline(always)]
fn sums_of_sixteen(a: __m256i, b: __m256i) -> __m256i {
    let (a, b) = (now!(_mm256_castsi256_ps(a)), now!(_mm256_castsi256_ps(b)));
    let plus = now!(_mm256_castps_si256(_mm256_shuffle_ps::<0b11_00_11_00>(a, b)));
    let minus = now!(_mm256_castps_si256(_mm256_shuffle_ps::<0b10_01_10_01>(a, b)));
    now!(_mm256_sub_epi32(plus, minus))
}

impl<const VNNI: bool> IntegerSums for Pairs<VNNI> {
    #[inline(always)]
    fn start(self, minus_128: &[i32; 16]) -> Two {
        if !VNNI {
            let zero = now!(_mm256_setzero_si256());
            return Two(zero, zero); // `dot` takes codes of eight bits for signed numbers
        }
        let (first, second) = halves_of(minus_128);
        Two(now!(_mm256_loadu_si256(first.as_ptr().cast())), now!(_mm256_loadu_si256(second.as_ptr().cast())))
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

    /// Magnitudes.
    #[inline(always)]
    fn once_more(self, x: &[u8; UNIT], to: &mut [u8; UNIT]) {
        for (x, to) in x.iter().zip(to) {
            *to = (*x as i8).unsigned_abs();
        }
    }

    /// The level takes the sign, which has no place in -128, and its own magnitude need not be worked out. (IQ4_NL 7%, IQ4_XS 10%.)
    #[inline(always)]
    fn dot_levels(self, sum: Two, codes: Two, x: Two, magnitudes: Two) -> Two {
        if VNNI {
            return self.dot(true, sum, codes, x);
        }
        let levels = self.xor(codes, 0x80);
        both!(Two, |sum, levels, x, magnitudes| {
            _mm256_add_epi32(sum, sums_of_four(magnitudes, _mm256_sign_epi8(levels, x)))
        })
    }

    /// Without AVX-VNNI, sums of two in 16 bits: shuffles and additions sum them up, for which there are more ports than for
    /// multiplications by one.
    #[inline(always)]
    fn products(self, codes: Two, x: Two) -> Two {
        if VNNI {
            return self.dot(false, self.start_group(false, 32, 0), codes, x);
        }
        both!(Two, |codes, x| _mm256_maddubs_epi16(codes, x))
    }

    #[inline(always)]
    fn of_two_parts(self, a: Two, b: Two) -> Two {
        let sums = sums_of_sixteen(sums_of_eight::<VNNI>(a.0, a.1), sums_of_eight::<VNNI>(b.0, b.1));
        Two(sums, sums)
    }

    #[inline(always)]
    fn sixteens(self, first: Two, second: Two) -> Two {
        let (sums, places) = (Two(first.0, second.0), now!(_mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
        both!(Two, |sums| _mm256_permutevar8x32_epi32(sums, places))
    }

    /// (It would load the points and activations of a whole unit before all else, and put them into memory until they are needed.)
    #[inline(always)]
    fn in_turn(self, sums: Two) {
        known(sums);
    }

    #[inline(always)]
    fn dot_two(self, sum: Two, [[codes, x], [more, y]]: [[Two; 2]; 2]) -> Two {
        if VNNI {
            return self.dot(false, self.dot(false, sum, codes, x), more, y);
        }
        // Four products fit 16 bits.
        let first = both!(Two, |codes, x| _mm256_maddubs_epi16(codes, x));
        let second = both!(Two, |more, y| _mm256_maddubs_epi16(more, y));
        both!(Two, |sum, first, second| {
            _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_add_epi16(first, second), _mm256_set1_epi16(1)))
        })
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

    /// Four sums of two products of codes below 32 fit 16 bits, so that one multiplication by one does for four. (Prompts of Q2_K, Q3_K,
    /// Q4_K, Q5_K, Q4_0 and TQ2_0 22 to 28% faster, of MXFP4 12%.)
    #[inline(always)]
    fn begin_small(self, sum: Two) -> Two {
        if VNNI { sum } else { self.start_group(true, 0, 0) }
    }

    #[inline(always)]
    fn dot_small(self, sum: Two, codes: Two, x: [u8; 4]) -> Two {
        if VNNI {
            return self.dot_four(false, sum, codes, x);
        }
        let x = now!(_mm256_set1_epi32(i32::from_le_bytes(x)));
        both!(Two, |sum, codes| _mm256_add_epi16(sum, _mm256_maddubs_epi16(codes, x)))
    }

    #[inline(always)]
    fn end_small(self, sum: Two, small: Two) -> Two {
        if VNNI {
            return small;
        }
        both!(Two, |sum, small| _mm256_add_epi32(sum, _mm256_madd_epi16(small, _mm256_set1_epi16(1))))
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
