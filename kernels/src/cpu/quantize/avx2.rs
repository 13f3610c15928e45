//! Eight lanes with AVX2.

use super::lanes::{Lanes, MOST_LANES, Mask, Table};
use crate::cpu::Avx2;
use std::arch::x86_64::*;
use std::ops::{Add, BitAnd, Div, Mul, Not, Sub};

/// Eight floats.
#[derive(Clone, Copy)]
pub(super) struct Eight(__m256);

/// Eight answers: all bits or none.
#[derive(Clone, Copy)]
pub(super) struct Mask8(__m256);

macro_rules! operator {
    ($($trait:ident $name:ident $intrinsic:ident)*) => {$(
        impl $trait for Eight {
            type Output = Eight;
            #[inline(always)]
            fn $name(self, other: Eight) -> Eight {
                // SAFETY: vectors exist only where AVX2 does.
                Eight(unsafe { $intrinsic(self.0, other.0) })
            }
        }
    )*};
}
operator! { Add add _mm256_add_ps Sub sub _mm256_sub_ps Mul mul _mm256_mul_ps Div div _mm256_div_ps }

macro_rules! comparison {
    ($($name:ident $predicate:ident)*) => {$(
        #[inline(always)]
        fn $name(self, other: Eight) -> Mask8 {
            // SAFETY: vectors exist only where AVX2 does.
            Mask8(unsafe { _mm256_cmp_ps::<$predicate>(self.0, other.0) })
        }
    )*};
}

impl Lanes for Eight {
    type Isa = Avx2;
    type Mask = Mask8;
    type Integers = __m256i;
    const LANES: usize = 8;

    comparison! { less _CMP_LT_OQ greater _CMP_GT_OQ at_least _CMP_GE_OQ equals _CMP_EQ_OQ differs _CMP_NEQ_UQ }

    #[inline(always)]
    fn all(_: Avx2, x: f32) -> Eight {
        // SAFETY: there is a proof.
        Eight(unsafe { _mm256_set1_ps(x) })
    }

    #[inline(always)]
    fn load(_: Avx2, x: &[f32]) -> Eight {
        // SAFETY: there is a proof, and the slice is of eight floats.
        Eight(unsafe { _mm256_loadu_ps(x[..8].as_ptr()) })
    }

    #[inline(always)]
    fn array(self) -> [f32; MOST_LANES] {
        let mut out = [0.0; MOST_LANES];
        // SAFETY: vectors exist only where AVX2 does; there is room for sixteen.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), self.0) };
        out
    }

    #[inline(always)]
    fn largest(self) -> f32 {
        // SAFETY: vectors exist only where AVX2 does.
        unsafe {
            let four = _mm_max_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    fn mask(_: Avx2, bits: u32) -> Mask8 {
        // SAFETY: there is a proof.
        unsafe {
            let lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
            let set = _mm256_and_si256(_mm256_set1_epi32(bits as i32), lane);
            Mask8(_mm256_castsi256_ps(_mm256_cmpeq_epi32(set, lane)))
        }
    }

    #[inline(always)]
    fn or_else(self, mask: Mask8, other: Eight) -> Eight {
        // SAFETY: vectors exist only where AVX2 does.
        Eight(unsafe { _mm256_blendv_ps(other.0, self.0, mask.0) })
    }

    #[inline(always)]
    fn min(self, other: Eight) -> Eight {
        // SAFETY: vectors exist only where AVX2 does.
        Eight(unsafe { _mm256_min_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn max(self, other: Eight) -> Eight {
        // SAFETY: vectors exist only where AVX2 does.
        Eight(unsafe { _mm256_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn sqrt(self) -> Eight {
        // SAFETY: vectors exist only where AVX2 does.
        Eight(unsafe { _mm256_sqrt_ps(self.0) })
    }

    #[inline(always)]
    fn abs(self) -> Eight {
        // SAFETY: vectors exist only where AVX2 does.
        Eight(unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), self.0) })
    }

    #[inline(always)]
    fn negate(self) -> Eight {
        // SAFETY: vectors exist only where AVX2 does.
        Eight(unsafe { _mm256_xor_ps(_mm256_set1_ps(-0.0), self.0) })
    }

    #[inline(always)]
    fn half_of_sign(self) -> Eight {
        // SAFETY: vectors exist only where AVX2 does.
        Eight(unsafe { _mm256_or_ps(_mm256_and_ps(_mm256_set1_ps(-0.0), self.0), _mm256_set1_ps(0.5)) })
    }

    #[inline(always)]
    fn nearest(self) -> Eight {
        // SAFETY: vectors exist only where AVX2 does.
        Eight(unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0) })
    }

    #[inline(always)]
    fn nearest_anyhow(self) -> Eight {
        // SAFETY: vectors exist only where AVX2 does.
        unsafe {
            let shifted = _mm256_castps_si256(_mm256_add_ps(self.0, _mm256_set1_ps(12_582_912.0)));
            let low = _mm256_and_si256(shifted, _mm256_set1_epi32(0x007f_ffff));
            Eight(_mm256_cvtepi32_ps(_mm256_sub_epi32(low, _mm256_set1_epi32(0x0040_0000))))
        }
    }

    #[inline(always)]
    fn truncate(self) -> Eight {
        // SAFETY: vectors exist only where AVX2 does.
        Eight(unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC }>(self.0) })
    }

    #[inline(always)]
    fn low_byte(self) -> Eight {
        // SAFETY: vectors exist only where AVX2 does.
        unsafe {
            let low = _mm256_and_si256(_mm256_cvttps_epi32(self.0), _mm256_set1_epi32(0xff));
            Eight(_mm256_cvtepi32_ps(low))
        }
    }

    #[inline(always)]
    fn transpose(isa: Avx2, from: &[f32], stride: usize, to: &mut [Eight]) {
        let mut r = [Eight::all(isa, 0.0); 8];
        for (i, row) in r.iter_mut().enumerate() {
            *row = Eight::load(isa, &from[i * stride..]);
        }
        // SAFETY: there is a proof.
        unsafe {
            let (mut l, mut h) = (r, r);
            for i in [0, 2, 4, 6] {
                l[i].0 = _mm256_unpacklo_ps(r[i].0, r[i + 1].0);
                h[i].0 = _mm256_unpackhi_ps(r[i].0, r[i + 1].0);
            }
            let ([a0, b0, c0, d0], [a1, b1, c1, d1]) =
                ([l[0].0, l[2].0, l[4].0, l[6].0], [h[0].0, h[2].0, h[4].0, h[6].0]);
            let low = [
                _mm256_shuffle_ps::<0x44>(a0, b0),
                _mm256_shuffle_ps::<0xee>(a0, b0),
                _mm256_shuffle_ps::<0x44>(a1, b1),
                _mm256_shuffle_ps::<0xee>(a1, b1),
            ];
            let high = [
                _mm256_shuffle_ps::<0x44>(c0, d0),
                _mm256_shuffle_ps::<0xee>(c0, d0),
                _mm256_shuffle_ps::<0x44>(c1, d1),
                _mm256_shuffle_ps::<0xee>(c1, d1),
            ];
            for i in 0..4 {
                to[i] = Eight(_mm256_permute2f128_ps::<0x20>(low[i], high[i]));
                to[i + 4] = Eight(_mm256_permute2f128_ps::<0x31>(low[i], high[i]));
            }
        }
    }

    #[inline(always)]
    fn bytes(self, to: &mut [u8]) {
        // SAFETY: vectors exist only where AVX2 does; the slice is of eight bytes.
        unsafe {
            let low = _mm256_and_si256(_mm256_cvttps_epi32(self.0), _mm256_set1_epi32(0xff));
            let words = _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256::<1>(low));
            _mm_storel_epi64(to[..8].as_mut_ptr().cast(), _mm_packus_epi16(words, words));
        }
    }

    #[inline(always)]
    fn on_grid(self, edges: &Table, levels: &Table) -> (Eight, Eight) {
        // SAFETY: vectors exist only where AVX2 does; tables are 16 floats.
        unsafe {
            let e = &edges.0;
            let quarters = _mm256_setr_ps(e[1], e[5], e[9], e[13], e[1], e[5], e[9], e[13]);
            let eighths = _mm256_setr_ps(e[0], e[2], e[4], e[6], e[8], e[10], e[12], e[14]);
            // Binary search: the bits of the code from the upper to the lower. A true mask is -1.
            let upper = self.at_least(Eight(_mm256_set1_ps(e[7]))).0;
            let mut code = _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_castps_si256(upper));
            let second = _mm256_blendv_ps(_mm256_set1_ps(e[3]), _mm256_set1_ps(e[11]), upper);
            code = twice_and(code, self.at_least(Eight(second)));
            code = twice_and(code, self.at_least(Eight(_mm256_permutevar8x32_ps(quarters, code))));
            code = twice_and(code, self.at_least(Eight(_mm256_permutevar8x32_ps(eighths, code))));
            let below = _mm256_permutevar8x32_ps(_mm256_loadu_ps(levels.0.as_ptr()), code);
            let above = _mm256_permutevar8x32_ps(_mm256_loadu_ps(levels.0.as_ptr().add(8)), code);
            (Eight(_mm256_cvtepi32_ps(code)), Eight(_mm256_blendv_ps(below, above, upper)))
        }
    }

    #[inline(always)]
    fn load_integers(_: Avx2, x: &[u16]) -> __m256i {
        // SAFETY: there is a proof, and the slice is of eight integers.
        unsafe { _mm256_cvtepu16_epi32(_mm_loadu_si128(x[..8].as_ptr().cast())) }
    }

    #[inline(always)]
    fn integers(self) -> __m256i {
        // SAFETY: vectors exist only where AVX2 does.
        unsafe { _mm256_cvttps_epi32(self.0) }
    }

    #[inline(always)]
    fn integer_array(x: __m256i) -> [u32; MOST_LANES] {
        let mut out = [0; MOST_LANES];
        // SAFETY: vectors exist only where AVX2 does; there is room for sixteen.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), x) };
        out
    }

    #[inline(always)]
    fn without_low<const BITS: u32>(x: __m256i) -> __m256i {
        // SAFETY: vectors exist only where AVX2 does.
        unsafe { _mm256_srl_epi32(x, _mm_cvtsi32_si128(BITS as i32)) }
    }

    #[inline(always)]
    fn low<const BITS: u32>(x: __m256i) -> Eight {
        // SAFETY: vectors exist only where AVX2 does.
        Eight(unsafe { _mm256_cvtepi32_ps(_mm256_and_si256(x, _mm256_set1_epi32((1 << BITS) - 1))) })
    }

    #[inline(always)]
    fn at<const BITS: u32>(self, at: __m256i) -> Eight {
        // SAFETY: vectors exist only where AVX2 does. The instructions look at two and at three bits.
        Eight(unsafe {
            if BITS == 2 { _mm256_permutevar_ps(self.0, at) } else { _mm256_permutevar8x32_ps(self.0, at) }
        })
    }
}

/// `2 * code`, and one more where `reached`.
#[inline(always)]
fn twice_and(code: __m256i, reached: Mask8) -> __m256i {
    // SAFETY: masks come from vectors, which exist only where AVX2 does.
    unsafe { _mm256_sub_epi32(_mm256_add_epi32(code, code), _mm256_castps_si256(reached.0)) }
}

impl BitAnd for Mask8 {
    type Output = Mask8;
    #[inline(always)]
    fn bitand(self, other: Mask8) -> Mask8 {
        // SAFETY: masks come from vectors, which exist only where AVX2 does.
        Mask8(unsafe { _mm256_and_ps(self.0, other.0) })
    }
}

impl Not for Mask8 {
    type Output = Mask8;
    #[inline(always)]
    fn not(self) -> Mask8 {
        // SAFETY: masks come from vectors, which exist only where AVX2 does.
        Mask8(unsafe { _mm256_xor_ps(self.0, _mm256_castsi256_ps(_mm256_set1_epi32(-1))) })
    }
}

impl Mask for Mask8 {
    #[inline(always)]
    fn bits(self) -> u32 {
        // SAFETY: masks come from vectors, which exist only where AVX2 does.
        unsafe { _mm256_movemask_ps(self.0) as u32 }
    }
}
