//! Sixteen lanes with AVX-512.

use super::lanes::{Lanes, MOST_LANES, Mask, Table};
use crate::cpu::Avx512;
use std::arch::x86_64::*;
use std::ops::{Add, BitAnd, Div, Mul, Not, Sub};

/// Sixteen floats.
#[derive(Clone, Copy)]
pub(super) struct Sixteen(__m512);

/// Sixteen answers.
#[derive(Clone, Copy)]
pub(super) struct Mask16(__mmask16);

macro_rules! operator {
    ($($trait:ident $name:ident $intrinsic:ident)*) => {$(
        impl $trait for Sixteen {
            type Output = Sixteen;
            #[inline(always)]
            fn $name(self, other: Sixteen) -> Sixteen {
                // SAFETY: vectors exist only where AVX-512 does.
                Sixteen(unsafe { $intrinsic(self.0, other.0) })
            }
        }
    )*};
}
operator! { Add add _mm512_add_ps Sub sub _mm512_sub_ps Mul mul _mm512_mul_ps Div div _mm512_div_ps }

macro_rules! comparison {
    ($($name:ident $predicate:ident)*) => {$(
        #[inline(always)]
        fn $name(self, other: Sixteen) -> Mask16 {
            // SAFETY: vectors exist only where AVX-512 does.
            Mask16(unsafe { _mm512_cmp_ps_mask::<$predicate>(self.0, other.0) })
        }
    )*};
}

impl Lanes for Sixteen {
    type Isa = Avx512;
    type Mask = Mask16;
    type Integers = __m512i;
    const LANES: usize = 16;

    comparison! { less _CMP_LT_OQ greater _CMP_GT_OQ at_least _CMP_GE_OQ equals _CMP_EQ_OQ differs _CMP_NEQ_UQ }

    #[inline(always)]
    fn all(_: Avx512, x: f32) -> Sixteen {
        // SAFETY: there is a proof.
        Sixteen(unsafe { _mm512_set1_ps(x) })
    }

    #[inline(always)]
    fn load(_: Avx512, x: &[f32]) -> Sixteen {
        // SAFETY: there is a proof, and the slice is of sixteen floats.
        Sixteen(unsafe { _mm512_loadu_ps(x[..16].as_ptr()) })
    }

    #[inline(always)]
    fn array(self) -> [f32; MOST_LANES] {
        let mut out = [0.0; MOST_LANES];
        // SAFETY: vectors exist only where AVX-512 does; there is room for sixteen.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), self.0) };
        out
    }

    #[inline(always)]
    fn largest(self) -> f32 {
        // SAFETY: vectors exist only where AVX-512 does.
        unsafe { _mm512_reduce_max_ps(self.0) }
    }

    #[inline(always)]
    fn mask(_: Avx512, bits: u32) -> Mask16 {
        Mask16(bits as __mmask16)
    }

    #[inline(always)]
    fn or_else(self, mask: Mask16, other: Sixteen) -> Sixteen {
        // SAFETY: vectors exist only where AVX-512 does.
        Sixteen(unsafe { _mm512_mask_blend_ps(mask.0, other.0, self.0) })
    }

    #[inline(always)]
    fn min(self, other: Sixteen) -> Sixteen {
        // SAFETY: vectors exist only where AVX-512 does.
        Sixteen(unsafe { _mm512_min_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn max(self, other: Sixteen) -> Sixteen {
        // SAFETY: vectors exist only where AVX-512 does.
        Sixteen(unsafe { _mm512_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn sqrt(self) -> Sixteen {
        // SAFETY: vectors exist only where AVX-512 does.
        Sixteen(unsafe { _mm512_sqrt_ps(self.0) })
    }

    #[inline(always)]
    fn abs(self) -> Sixteen {
        // SAFETY: vectors exist only where AVX-512 does.
        Sixteen(unsafe { _mm512_abs_ps(self.0) })
    }

    #[inline(always)]
    fn negate(self) -> Sixteen {
        // SAFETY: vectors exist only where AVX-512 does.
        Sixteen(unsafe { _mm512_xor_ps(_mm512_set1_ps(-0.0), self.0) })
    }

    #[inline(always)]
    fn half_of_sign(self) -> Sixteen {
        // SAFETY: vectors exist only where AVX-512 does.
        Sixteen(unsafe { _mm512_or_ps(_mm512_and_ps(_mm512_set1_ps(-0.0), self.0), _mm512_set1_ps(0.5)) })
    }

    #[inline(always)]
    fn nearest(self) -> Sixteen {
        // SAFETY: vectors exist only where AVX-512 does.
        Sixteen(unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0) })
    }

    #[inline(always)]
    fn nearest_anyhow(self) -> Sixteen {
        // SAFETY: vectors exist only where AVX-512 does.
        unsafe {
            let shifted = _mm512_castps_si512(_mm512_add_ps(self.0, _mm512_set1_ps(12_582_912.0)));
            let low = _mm512_and_si512(shifted, _mm512_set1_epi32(0x007f_ffff));
            Sixteen(_mm512_cvtepi32_ps(_mm512_sub_epi32(low, _mm512_set1_epi32(0x0040_0000))))
        }
    }

    #[inline(always)]
    fn truncate(self) -> Sixteen {
        // SAFETY: vectors exist only where AVX-512 does.
        Sixteen(unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC }>(self.0) })
    }

    #[inline(always)]
    fn low_byte(self) -> Sixteen {
        // SAFETY: vectors exist only where AVX-512 does.
        unsafe {
            let low = _mm512_and_si512(_mm512_cvttps_epi32(self.0), _mm512_set1_epi32(0xff));
            Sixteen(_mm512_cvtepi32_ps(low))
        }
    }

    #[inline(always)]
    fn transpose(isa: Avx512, from: &[f32], stride: usize, to: &mut [Sixteen]) {
        let mut r = [Sixteen::all(isa, 0.0); 16];
        for (i, row) in r.iter_mut().enumerate() {
            *row = Sixteen::load(isa, &from[i * stride..]);
        }
        // SAFETY: there is a proof.
        unsafe {
            // Squares of four by four within the quarters: `s[4 * k + j]` has columns j, j + 4, j + 8, j + 12 of the rows 4k to
            // 4k + 3.
            let mut s = r;
            for k in [0, 4, 8, 12] {
                let (a, b) = (_mm512_unpacklo_ps(r[k].0, r[k + 1].0), _mm512_unpackhi_ps(r[k].0, r[k + 1].0));
                let (c, d) = (_mm512_unpacklo_ps(r[k + 2].0, r[k + 3].0), _mm512_unpackhi_ps(r[k + 2].0, r[k + 3].0));
                s[k] = Sixteen(_mm512_shuffle_ps::<0x44>(a, c));
                s[k + 1] = Sixteen(_mm512_shuffle_ps::<0xee>(a, c));
                s[k + 2] = Sixteen(_mm512_shuffle_ps::<0x44>(b, d));
                s[k + 3] = Sixteen(_mm512_shuffle_ps::<0xee>(b, d));
            }
            // Then squares of quarters.
            for j in 0..4 {
                let [a, b, c, d] = [s[j].0, s[j + 4].0, s[j + 8].0, s[j + 12].0];
                let (ab, cd) = (_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0x44>(c, d));
                to[j] = Sixteen(_mm512_shuffle_f32x4::<0x88>(ab, cd));
                to[j + 4] = Sixteen(_mm512_shuffle_f32x4::<0xdd>(ab, cd));
                let (ab, cd) = (_mm512_shuffle_f32x4::<0xee>(a, b), _mm512_shuffle_f32x4::<0xee>(c, d));
                to[j + 8] = Sixteen(_mm512_shuffle_f32x4::<0x88>(ab, cd));
                to[j + 12] = Sixteen(_mm512_shuffle_f32x4::<0xdd>(ab, cd));
            }
        }
    }

    #[inline(always)]
    fn bytes(self, to: &mut [u8]) {
        // SAFETY: vectors exist only where AVX-512 does; the slice is of sixteen bytes.
        unsafe {
            let low = _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(self.0));
            _mm_storeu_si128(to[..16].as_mut_ptr().cast(), low);
        }
    }

    #[inline(always)]
    fn on_grid(self, edges: &Table, levels: &Table) -> (Sixteen, Sixteen) {
        // SAFETY: vectors exist only where AVX-512 does; tables are 16 floats.
        unsafe {
            let (edges, levels) = (_mm512_loadu_ps(edges.0.as_ptr()), _mm512_loadu_ps(levels.0.as_ptr()));
            // Binary search: each step looks at the edge below the code with one more bit.
            let mut code = _mm512_setzero_si512();
            for bit in [8, 4, 2, 1] {
                let next = _mm512_add_epi32(code, _mm512_set1_epi32(bit));
                let edge = _mm512_permutexvar_ps(_mm512_sub_epi32(next, _mm512_set1_epi32(1)), edges);
                code = _mm512_mask_mov_epi32(code, _mm512_cmp_ps_mask::<_CMP_GE_OQ>(self.0, edge), next);
            }
            (Sixteen(_mm512_cvtepi32_ps(code)), Sixteen(_mm512_permutexvar_ps(code, levels)))
        }
    }

    #[inline(always)]
    fn load_integers(_: Avx512, x: &[u16]) -> __m512i {
        // SAFETY: there is a proof, and the slice is of sixteen integers.
        unsafe { _mm512_cvtepu16_epi32(_mm256_loadu_si256(x[..16].as_ptr().cast())) }
    }

    #[inline(always)]
    fn integers(self) -> __m512i {
        // SAFETY: vectors exist only where AVX-512 does.
        unsafe { _mm512_cvttps_epi32(self.0) }
    }

    #[inline(always)]
    fn integer_array(x: __m512i) -> [u32; MOST_LANES] {
        let mut out = [0; MOST_LANES];
        // SAFETY: vectors exist only where AVX-512 does; there is room for sixteen.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), x) };
        out
    }

    #[inline(always)]
    fn without_low<const BITS: u32>(x: __m512i) -> __m512i {
        // SAFETY: vectors exist only where AVX-512 does.
        unsafe { _mm512_srli_epi32::<BITS>(x) }
    }

    #[inline(always)]
    fn low<const BITS: u32>(x: __m512i) -> Sixteen {
        // SAFETY: vectors exist only where AVX-512 does.
        Sixteen(unsafe { _mm512_cvtepi32_ps(_mm512_and_si512(x, _mm512_set1_epi32((1 << BITS) - 1))) })
    }

    #[inline(always)]
    fn at<const BITS: u32>(self, at: __m512i) -> Sixteen {
        // SAFETY: vectors exist only where AVX-512 does. The instructions look at two bits, and at four: the fourth makes no
        // difference where lanes repeat.
        Sixteen(unsafe { if BITS == 2 { _mm512_permutevar_ps(self.0, at) } else { _mm512_permutexvar_ps(at, self.0) } })
    }
}

impl BitAnd for Mask16 {
    type Output = Mask16;
    #[inline(always)]
    fn bitand(self, other: Mask16) -> Mask16 {
        Mask16(self.0 & other.0)
    }
}

impl Not for Mask16 {
    type Output = Mask16;
    #[inline(always)]
    fn not(self) -> Mask16 {
        Mask16(!self.0)
    }
}

impl Mask for Mask16 {
    #[inline(always)]
    fn bits(self) -> u32 {
        self.0.into()
    }
}
