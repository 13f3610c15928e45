//! Sixteen lanes with AVX-512.

use super::Simd;
use crate::cpu::Avx512;
use std::arch::x86_64::*;

macro_rules! two {
    ($($name:ident $intrinsic:ident)*) => {$(
        #[inline(always)]
        fn $name(self, a: __m512, b: __m512) -> __m512 {
            // SAFETY: `self` proves that the CPU has AVX-512.
            unsafe { $intrinsic(a, b) }
        }
    )*};
}

impl Simd for Avx512 {
    type V = __m512;
    const LANES: usize = 16;
    /// 24 sums, 2 of a panel, a few spread: of 32 registers.
    const ROWS: usize = 12;

    two! { add _mm512_add_ps sub _mm512_sub_ps mul _mm512_mul_ps div _mm512_div_ps max _mm512_max_ps min _mm512_min_ps }

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: there is a proof, here and in all functions below.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m512 {
        // SAFETY: readable by the caller's promise.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> __m512 {
        // SAFETY: readable by the caller's promise.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> __m512 {
        // SAFETY: readable by the caller's promise.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }

    #[inline(always)]
    unsafe fn load_i8(self, from: *const i8) -> __m512 {
        // SAFETY: readable by the caller's promise.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: __m512) {
        // SAFETY: writable by the caller's promise.
        unsafe { _mm512_storeu_ps(to, v) }
    }

    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u16, v: __m512) {
        // SAFETY: writable by the caller's promise.
        unsafe { _mm256_storeu_si256(to.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: as in `splat`.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn fnma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: as in `splat`.
        unsafe { _mm512_fnmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn round(self, v: __m512) -> __m512 {
        // SAFETY: as in `splat`.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v) }
    }

    #[inline(always)]
    fn times_power_of_two(self, v: __m512, n: __m512) -> __m512 {
        // SAFETY: as in `splat`.
        unsafe { _mm512_scalef_ps(v, n) }
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        // SAFETY: a hint, which never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }

    #[inline(always)]
    fn swap_pairs(self, v: __m512) -> __m512 {
        // SAFETY: as in `splat`.
        unsafe { _mm512_permute_ps::<0b10_11_00_01>(v) }
    }

    #[inline(always)]
    fn sum(self, v: __m512) -> f32 {
        // SAFETY: as in `splat`.
        unsafe { _mm512_reduce_add_ps(v) }
    }

    #[inline(always)]
    fn largest(self, v: __m512) -> f32 {
        // SAFETY: as in `splat`.
        unsafe { _mm512_reduce_max_ps(v) }
    }

    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: inside the two squares by the caller's promise.
        unsafe {
            // Rows 0, 4, 8 and 12 side by side, then 1, 5, 9 and 13, ..., so that all shuffles stay within 128 bits.
            for col in [0, 4, 8, 12] {
                let at = from.add(col);
                let (a, b) = (quarters(at, stride), quarters(at.add(stride), stride));
                let (c, d) = (quarters(at.add(2 * stride), stride), quarters(at.add(3 * stride), stride));
                let (ab, ab_high) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
                let (cd, cd_high) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
                let to = to.add(col * to_stride);
                _mm512_storeu_ps(to, _mm512_shuffle_ps::<0b01_00_01_00>(ab, cd));
                _mm512_storeu_ps(to.add(to_stride), _mm512_shuffle_ps::<0b11_10_11_10>(ab, cd));
                _mm512_storeu_ps(to.add(2 * to_stride), _mm512_shuffle_ps::<0b01_00_01_00>(ab_high, cd_high));
                _mm512_storeu_ps(to.add(3 * to_stride), _mm512_shuffle_ps::<0b11_10_11_10>(ab_high, cd_high));
            }
        }
    }
}

/// Four floats each of rows 0, 4, 8 and 12 below `from`.
///
/// # Safety
/// The CPU has AVX-512, and all can be read.
#[inline(always)]
unsafe fn quarters(from: *const f32, stride: usize) -> __m512 {
    // SAFETY: by the caller's promise.
    unsafe {
        let v = _mm512_castps128_ps512(_mm_loadu_ps(from));
        let v = _mm512_insertf32x4::<1>(v, _mm_loadu_ps(from.add(4 * stride)));
        let v = _mm512_insertf32x4::<2>(v, _mm_loadu_ps(from.add(8 * stride)));
        _mm512_insertf32x4::<3>(v, _mm_loadu_ps(from.add(12 * stride)))
    }
}
