//! [`FloatLanes`] with AVX-512.

use super::super::simd::{ByteLanes, FloatLanes, IntegerSums};
use super::{Wide, by_quarter, four_times_eight, line};
use std::arch::x86_64::*;

/// Eight half-precision numbers.
#[inline(always)]
fn halves(x: [u16; 8]) -> __m128i {
    let [a, b, c, d, e, f, g, h] = x;
    // SAFETY: used by the methods of `Wide` alone.
    unsafe { _mm_setr_epi16(a as i16, b as i16, c as i16, d as i16, e as i16, f as i16, g as i16, h as i16) }
}

impl<const VBMI: bool> FloatLanes for Wide<VBMI> {
    #[inline(always)]
    fn words_to_floats(self, b: __m512i) -> __m512 {
        self.to_floats(b)
    }

    #[inline(always)]
    fn odd(self, x: __m512) -> __m512 {
        now!(_mm512_maskz_permutexvar_ps(0xff, _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 0, 0, 0, 0, 0, 0, 0, 0), x))
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        now!(_mm512_set1_ps(x))
    }

    #[inline(always)]
    fn floats(self, x: &[f32; 16]) -> __m512 {
        now!(_mm512_loadu_ps(x.as_ptr()))
    }

    #[inline(always)]
    fn float_bits(self, x: &[u32; 16]) -> __m512 {
        now!(_mm512_loadu_ps(x.as_ptr().cast()))
    }

    #[inline(always)]
    fn eight(self, x: &[f32; 8]) -> __m512 {
        now!(_mm512_zextps256_ps512(_mm256_loadu_ps(x.as_ptr())))
    }

    #[inline(always)]
    fn join(self, a: __m512, b: __m512) -> __m512 {
        now!(_mm512_insertf32x8::<1>(a, _mm512_castps512_ps256(b)))
    }

    #[inline(always)]
    fn first(self, n: usize, x: __m512) -> __m512 {
        now!(_mm512_maskz_mov_ps(((1u32 << n.min(16)) - 1) as u16, x))
    }

    #[inline(always)]
    fn store_floats(self, x: __m512, to: &mut [f32; 16]) {
        now!(_mm512_storeu_ps(to.as_mut_ptr(), x))
    }

    #[inline(always)]
    fn store_float_bits(self, x: __m512, to: &mut [u32; 16]) {
        now!(_mm512_storeu_ps(to.as_mut_ptr().cast(), x))
    }

    #[inline(always)]
    fn largest(self, a: __m512, b: __m512) -> f32 {
        // As integers, magnitudes are ordered as they are as floats.
        let magnitude = now!(_mm512_set1_epi32(0x7fff_ffff));
        let a = now!(_mm512_and_si512(_mm512_castps_si512(a), magnitude));
        let b = now!(_mm512_and_si512(_mm512_castps_si512(b), magnitude));
        f32::from_bits(now!(_mm512_reduce_max_epu32(_mm512_max_epu32(a, b))))
    }

    #[inline(always)]
    fn round(self, x: __m512, to: &mut [u8; 16]) {
        now!(_mm_storeu_si128(to.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x))))
    }

    #[inline(always)]
    fn halves(self, x: [u16; 8]) -> __m512 {
        now!(_mm512_zextps256_ps512(_mm256_cvtph_ps(halves(x))))
    }

    /// Four lines hold all. Insertions one by one took a quarter of the time.
    #[inline(always)]
    fn strided_halves(self, unit: &[u8], block: usize, at: usize) -> __m512 {
        now!(_mm512_zextps256_ps512(_mm256_cvtph_ps(self.eight_halves(unit, block, at))))
    }

    #[inline(always)]
    fn strided_halves_of_two(self, a: &[u8], b: &[u8], block: usize, at: usize) -> __m512 {
        let (a, b) = (self.eight_halves(a, block, at), self.eight_halves(b, block, at));
        now!(_mm512_cvtph_ps(_mm256_set_m128i(b, a)))
    }

    #[inline(always)]
    fn halves_of_heads(self, heads: __m512i, at: usize) -> __m512 {
        let (a, b) = ([(at / 2) as i16; 8], [(16 + at / 2) as i16; 8]);
        let halves = now!(_mm512_permutexvar_epi16(four_times_eight([a, b, a, b]), heads));
        now!(_mm512_cvtph_ps(_mm512_castsi512_si256(halves)))
    }

    /// From memory this is a broadcast. (One number alone is inserted into a register, and so waits for what was there: a row's
    /// first scale for the sum of the row before.)
    #[inline(always)]
    fn half(self, x: u16) -> __m512 {
        now!(_mm512_cvtph_ps(_mm256_set1_epi16(x as i16)))
    }

    #[inline(always)]
    fn low_and_high(self, x: &[u8; 16]) -> [__m512; 2] {
        let x = now!(_mm512_cvtepu8_epi32(_mm_loadu_si128(x.as_ptr().cast())));
        let low = now!(_mm512_and_si512(x, _mm512_set1_epi32(15)));
        [low, now!(_mm512_srli_epi32::<4>(x))].map(|x| self.to_floats(x))
    }

    #[inline(always)]
    fn unsigned(self, x: [u8; 16]) -> __m512 {
        now!(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(x.as_ptr().cast()))))
    }

    #[inline(always)]
    fn signed(self, x: [u8; 16]) -> __m512 {
        now!(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast()))))
    }

    /// The two lowest are subnormal: (e + 1) << 21 is more than (e - 1) << 23 for them alone.
    #[inline(always)]
    fn half_powers(self, e: [u8; 16]) -> __m512 {
        let (e, one) = (now!(_mm512_cvtepu8_epi32(_mm_loadu_si128(e.as_ptr().cast()))), now!(_mm512_set1_epi32(1)));
        let normal = now!(_mm512_slli_epi32::<23>(_mm512_sub_epi32(e, one)));
        let subnormal = now!(_mm512_slli_epi32::<21>(_mm512_add_epi32(e, one)));
        now!(_mm512_castsi512_ps(_mm512_max_epi32(normal, subnormal)))
    }

    #[inline(always)]
    fn add_floats(self, a: __m512, b: __m512) -> __m512 {
        now!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        now!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        now!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn put_scales(self, x: __m512, to: &mut __m512) {
        *to = x;
    }

    #[inline(always)]
    fn no_scales(self) -> __m512 {
        self.splat(0.0)
    }

    #[inline(always)]
    fn spread(self, groups: [usize; 4], x: &__m512) -> __m512 {
        let [p, q, r, s] = groups;
        now!(_mm512_permutexvar_ps(by_quarter(p as u32, q as u32, r as u32, s as u32), *x))
    }

    #[inline(always)]
    fn sum(self, x: __m512) -> f32 {
        now!(_mm512_reduce_add_ps(x))
    }
}

impl<const VBMI: bool> Wide<VBMI> {
    /// As [`FloatLanes::strided_halves`], as they are stored.
    #[inline(always)]
    fn eight_halves(self, unit: &[u8], block: usize, at: usize) -> __m128i {
        now!(_mm_unpacklo_epi64(self.four_halves(unit, block, at), self.four_halves(unit, block, 4 * block + at)))
    }

    /// Those of four blocks. (Their lines are two. No closure with intrinsics: these are not inlined into closures.)
    #[inline(always)]
    fn four_halves(self, unit: &[u8], block: usize, at: usize) -> __m128i {
        let (first, second) = (line(unit, at), line(unit, at + 3 * block));
        let place = |b: usize| {
            let at = at + b * block;
            (if at < first + 64 { (at - first) / 2 } else { 32 + (at - second) / 2 }) as i16
        };
        let places = now!(_mm512_castsi128_si512(_mm_setr_epi16(place(0), place(1), place(2), place(3), 0, 0, 0, 0)));
        now!(_mm512_castsi512_si128(_mm512_permutex2var_epi16(self.load(unit, first), places, self.load(unit, second))))
    }
}
