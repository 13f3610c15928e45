//! Eight floats side by side (AVX2): the only `unsafe` arithmetic of the quantizers.
//!
//! A [`Floats`] can only be made with an [`Avx2`], so the methods of one that exists need no proof. Every operation is the
//! IEEE operation of its scalar twin in each lane; nothing is fused. All functions must be inlined into functions with
//! `#[target_feature(enable = "avx2")]`, or they are correct but slow: so the searches have that attribute throughout, which
//! closures inherit.

use crate::cpu::Avx2;
use std::arch::x86_64::*;
use std::ops::{Add, BitAnd, Div, Mul, Not, Sub};

/// Lanes of a vector.
pub(super) const LANES: usize = 8;

/// Eight floats.
#[derive(Clone, Copy)]
pub(super) struct Floats(__m256);

/// For each lane: yes or no.
#[derive(Clone, Copy)]
pub(super) struct Mask(__m256);

macro_rules! operator {
    ($trait:ident, $name:ident, $intrinsic:ident) => {
        impl $trait for Floats {
            type Output = Floats;
            #[inline(always)]
            fn $name(self, other: Floats) -> Floats {
                // SAFETY: floats exist only where AVX2 does.
                Floats(unsafe { $intrinsic(self.0, other.0) })
            }
        }
    };
}
operator!(Add, add, _mm256_add_ps);
operator!(Sub, sub, _mm256_sub_ps);
operator!(Mul, mul, _mm256_mul_ps);
operator!(Div, div, _mm256_div_ps);

/// Comparisons, false where one side is NaN (except `differs`), as the scalar operators.
macro_rules! comparison {
    ($name:ident, $predicate:ident, $what:literal) => {
        #[doc = $what]
        #[inline(always)]
        pub(super) fn $name(self, other: Floats) -> Mask {
            // SAFETY: floats exist only where AVX2 does.
            Mask(unsafe { _mm256_cmp_ps::<$predicate>(self.0, other.0) })
        }
    };
}

impl Floats {
    /// The same number in all lanes.
    #[inline(always)]
    pub(super) fn all(_: Avx2, x: f32) -> Floats {
        // SAFETY: there is a proof.
        Floats(unsafe { _mm256_set1_ps(x) })
    }

    /// Eight neighbouring numbers.
    #[inline(always)]
    pub(super) fn load(_: Avx2, x: &[f32; LANES]) -> Floats {
        // SAFETY: there is a proof, and eight floats lie there.
        Floats(unsafe { _mm256_loadu_ps(x.as_ptr()) })
    }

    /// The lanes as an array.
    #[inline(always)]
    pub(super) fn array(self) -> [f32; LANES] {
        let mut out = [0.0; LANES];
        // SAFETY: floats exist only where AVX2 does; there is room for eight.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), self.0) };
        out
    }

    /// The largest lane; of numbers that are not NaN, in whatever order they are compared.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn largest(self) -> f32 {
        let four = _mm_max_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
        let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
    }

    comparison!(less, _CMP_LT_OQ, "`<`");
    comparison!(greater, _CMP_GT_OQ, "`>`");
    comparison!(at_least, _CMP_GE_OQ, "`>=`");
    comparison!(equals, _CMP_EQ_OQ, "`==`");
    comparison!(differs, _CMP_NEQ_UQ, "`!=`");

    /// `if self < other { self } else { other }`.
    #[inline(always)]
    pub(super) fn min(self, other: Floats) -> Floats {
        // SAFETY: floats exist only where AVX2 does.
        Floats(unsafe { _mm256_min_ps(self.0, other.0) })
    }

    /// `if self > other { self } else { other }`.
    #[inline(always)]
    pub(super) fn max(self, other: Floats) -> Floats {
        // SAFETY: floats exist only where AVX2 does.
        Floats(unsafe { _mm256_max_ps(self.0, other.0) })
    }

    /// Square root, correctly rounded.
    #[inline(always)]
    pub(super) fn sqrt(self) -> Floats {
        // SAFETY: floats exist only where AVX2 does.
        Floats(unsafe { _mm256_sqrt_ps(self.0) })
    }

    /// Magnitude.
    #[inline(always)]
    pub(super) fn abs(self) -> Floats {
        // SAFETY: floats exist only where AVX2 does.
        Floats(unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), self.0) })
    }

    /// The other sign.
    #[inline(always)]
    pub(super) fn negate(self) -> Floats {
        // SAFETY: floats exist only where AVX2 does.
        Floats(unsafe { _mm256_xor_ps(_mm256_set1_ps(-0.0), self.0) })
    }

    /// The nearest integer as a float (ties to even): where the magnitude is below 2^22 the number that ggml gets by adding
    /// `1.5 * 2^23`, except that small negative numbers become -0.
    #[inline(always)]
    pub(super) fn nearest(self) -> Floats {
        // SAFETY: floats exist only where AVX2 does.
        Floats(unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0) })
    }

    /// [`Floats::nearest`] for all numbers: what the trick's low mantissa bits say, however arbitrary. Returns
    /// integers between -2^22 and 2^22 as floats.
    #[inline(always)]
    pub(super) fn nearest_anyhow(self) -> Floats {
        // SAFETY: floats exist only where AVX2 does.
        unsafe {
            let shifted = _mm256_castps_si256(_mm256_add_ps(self.0, _mm256_set1_ps(12_582_912.0)));
            let low = _mm256_and_si256(shifted, _mm256_set1_epi32(0x007f_ffff));
            Floats(_mm256_cvtepi32_ps(_mm256_sub_epi32(low, _mm256_set1_epi32(0x0040_0000))))
        }
    }

    /// Towards zero, as an integral float; magnitudes from 2^23 stay.
    #[inline(always)]
    pub(super) fn truncate(self) -> Floats {
        // SAFETY: floats exist only where AVX2 does.
        Floats(unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC }>(self.0) })
    }

    /// Where `mask`, `self`, otherwise `other`.
    #[inline(always)]
    pub(super) fn or_else(self, mask: Mask, other: Floats) -> Floats {
        // SAFETY: floats exist only where AVX2 does.
        Floats(unsafe { _mm256_blendv_ps(other.0, self.0, mask.0) })
    }

    /// `0.5` with the number's sign.
    #[inline(always)]
    pub(super) fn half_of_sign(self) -> Floats {
        // SAFETY: floats exist only where AVX2 does.
        Floats(unsafe { _mm256_or_ps(_mm256_and_ps(_mm256_set1_ps(-0.0), self.0), _mm256_set1_ps(0.5)) })
    }

    /// From eight rows to eight columns.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn transpose(rows: [Floats; LANES]) -> [Floats; LANES] {
        let pair =
            |a: usize, b: usize| (_mm256_unpacklo_ps(rows[a].0, rows[b].0), _mm256_unpackhi_ps(rows[a].0, rows[b].0));
        let ((a0, a1), (b0, b1)) = (pair(0, 1), pair(2, 3));
        let ((c0, c1), (d0, d1)) = (pair(4, 5), pair(6, 7));
        let (low, high) = (
            [
                _mm256_shuffle_ps::<0x44>(a0, b0),
                _mm256_shuffle_ps::<0xee>(a0, b0),
                _mm256_shuffle_ps::<0x44>(a1, b1),
                _mm256_shuffle_ps::<0xee>(a1, b1),
            ],
            [
                _mm256_shuffle_ps::<0x44>(c0, d0),
                _mm256_shuffle_ps::<0xee>(c0, d0),
                _mm256_shuffle_ps::<0x44>(c1, d1),
                _mm256_shuffle_ps::<0xee>(c1, d1),
            ],
        );
        let mut out = rows;
        for i in 0..4 {
            out[i] = Floats(_mm256_permute2f128_ps::<0x20>(low[i], high[i]));
            out[i + 4] = Floats(_mm256_permute2f128_ps::<0x31>(low[i], high[i]));
        }
        out
    }

    /// 32 integral floats between -2^31 and 2^31 as bytes: the low eight bits of each. Other floats become 0.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn bytes(x: [Floats; 4], out: &mut [u8; 32]) {
        let low = |x: Floats| _mm256_and_si256(_mm256_cvttps_epi32(x.0), _mm256_set1_epi32(0xff));
        let pairs = (_mm256_packus_epi32(low(x[0]), low(x[1])), _mm256_packus_epi32(low(x[2]), low(x[3])));
        // Packing works in halves of 128 bits: put the groups of four back in order.
        let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        let bytes = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(pairs.0, pairs.1), order);
        // SAFETY: there is room for 32 bytes.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), bytes) };
    }

    /// The code on `levels`' grid that is nearest to each number, and the code's level: how many of `edges` are not above
    /// the number. Both ascend.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn on_grid(self, edges: &Table, levels: &Table) -> (Floats, Floats) {
        // SAFETY: tables are 16 floats.
        let half = |t: &Table, i: usize| unsafe { _mm256_loadu_ps(t.0.as_ptr().add(8 * i)) };
        let reached = |edge: __m256| _mm256_cmp_ps::<_CMP_GE_OQ>(self.0, edge);
        // Binary search: the bits of the code from the upper to the lower. A true mask is -1.
        let upper = reached(_mm256_set1_ps(edges.0[7]));
        let second = reached(_mm256_blendv_ps(_mm256_set1_ps(edges.0[3]), _mm256_set1_ps(edges.0[11]), upper));
        let as_int = |m: __m256| _mm256_castps_si256(m);
        let mut code = _mm256_sub_epi32(_mm256_setzero_si256(), as_int(upper));
        code = _mm256_sub_epi32(_mm256_add_epi32(code, code), as_int(second));
        let e = &edges.0;
        let quarters = _mm256_setr_ps(e[1], e[5], e[9], e[13], e[1], e[5], e[9], e[13]);
        let third = reached(_mm256_permutevar8x32_ps(quarters, code));
        code = _mm256_sub_epi32(_mm256_add_epi32(code, code), as_int(third));
        let eighths = _mm256_setr_ps(e[0], e[2], e[4], e[6], e[8], e[10], e[12], e[14]);
        let fourth = reached(_mm256_permutevar8x32_ps(eighths, code));
        code = _mm256_sub_epi32(_mm256_add_epi32(code, code), as_int(fourth));
        let below = _mm256_permutevar8x32_ps(half(levels, 0), code);
        let above = _mm256_permutevar8x32_ps(half(levels, 1), code);
        (Floats(_mm256_cvtepi32_ps(code)), Floats(_mm256_blendv_ps(below, above, upper)))
    }
}

/// Sixteen numbers to look up in.
pub(super) struct Table(pub(super) [f32; 16]);

impl BitAnd for Mask {
    type Output = Mask;
    #[inline(always)]
    fn bitand(self, other: Mask) -> Mask {
        // SAFETY: masks come from floats, which exist only where AVX2 does.
        Mask(unsafe { _mm256_and_ps(self.0, other.0) })
    }
}

impl Not for Mask {
    type Output = Mask;
    #[inline(always)]
    fn not(self) -> Mask {
        // SAFETY: masks come from floats, which exist only where AVX2 does.
        Mask(unsafe { _mm256_xor_ps(self.0, _mm256_castsi256_ps(_mm256_set1_epi32(-1))) })
    }
}

impl Mask {
    /// One bit per lane, the first lane's lowest.
    #[inline(always)]
    pub(super) fn bits(self) -> u32 {
        // SAFETY: masks come from floats, which exist only where AVX2 does.
        unsafe { _mm256_movemask_ps(self.0) as u32 }
    }

    /// Yes in some lane.
    #[inline(always)]
    pub(super) fn any(self) -> bool {
        self.bits() != 0
    }
}
