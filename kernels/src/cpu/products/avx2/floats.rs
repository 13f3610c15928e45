//! [`FloatLanes`] with AVX2.

use super::super::simd::{ByteLanes, FloatLanes, IntegerSums, Lines, array};
use super::{InMemory, Pairs, Two, TwoFloats, halves_of};
use std::arch::x86_64::*;

/// The same place, which the compiler does not recognize: it would take what it stored there from the registers that it stored.
///
/// (A volatile load has the same effect, and keeps its order among all other loads, so that the compiler loads what comes between
/// early and spills it: Q8_0 took 1.4 times as long.)
#[inline(always)]
#[allow(clippy::pointers_in_nomem_asm_block)] // nothing is read there: the place comes back, as one that might be any
pub(super) fn hidden<T>(mut place: *const T) -> *const T {
    // SAFETY: no instruction at all.
    unsafe { std::arch::asm!("/* {0} */", inout(reg) place, options(pure, nomem, nostack, preserves_flags)) };
    place
}

/// Float `p` four times, then float `q`: both from the same four.
#[inline(always)]
fn of_two(floats: &[f32; 16], p: usize, q: usize) -> __m256 {
    if p == q {
        return now!(_mm256_set1_ps(floats[p]));
    }
    let four: &[f32; 4] = floats[p / 4 * 4..].first_chunk().expect("four of sixteen");
    let four = now!(_mm256_broadcast_ps(&*four.as_ptr().cast::<__m128>()));
    let places = &OF_FOUR[if q == p + 1 { p % 4 / 2 } else { 2 + p % 4 }];
    // SAFETY: the place of a static.
    let places = unsafe { &*hidden(&raw const *places) };
    now!(_mm256_permutevar_ps(four, _mm256_loadu_si256(places.as_ptr().cast())))
}

/// Two of four floats, four times each. (Where the compiler knows the places, it takes two shuffles instead of one: Q6_K and Q2_K lost a
/// tenth.)
static OF_FOUR: Lines<[[u32; 8]; 4]> =
    Lines([[0, 0, 0, 0, 1, 1, 1, 1], [2, 2, 2, 2, 3, 3, 3, 3], [0, 0, 0, 0, 2, 2, 2, 2], [1, 1, 1, 1, 3, 3, 3, 3]]);

impl<const VNNI: bool> FloatLanes for Pairs<VNNI> {
    #[inline(always)]
    fn words_to_floats(self, b: Two) -> TwoFloats {
        self.to_floats(b)
    }

    #[inline(always)]
    fn odd(self, x: TwoFloats) -> TwoFloats {
        let x = now!(_mm256_shuffle_ps::<0xdd>(x.0, x.1)); // 1, 3, 9, 11, 5, 7, 13, 15
        let x = now!(_mm256_permute4x64_pd::<0xd8>(_mm256_castps_pd(x)));
        TwoFloats(now!(_mm256_castpd_ps(x)), now!(_mm256_setzero_ps()))
    }

    #[inline(always)]
    fn splat(self, x: f32) -> TwoFloats {
        let x = now!(_mm256_set1_ps(x));
        TwoFloats(x, x)
    }

    #[inline(always)]
    fn floats(self, x: &[f32; 16]) -> TwoFloats {
        let (a, b) = halves_of(x);
        TwoFloats(now!(_mm256_loadu_ps(a.as_ptr())), now!(_mm256_loadu_ps(b.as_ptr())))
    }

    #[inline(always)]
    fn float_bits(self, x: &[u32; 16]) -> TwoFloats {
        let (a, b) = halves_of(x);
        TwoFloats(now!(_mm256_loadu_ps(a.as_ptr().cast())), now!(_mm256_loadu_ps(b.as_ptr().cast())))
    }

    #[inline(always)]
    fn eight(self, x: &[f32; 8]) -> TwoFloats {
        TwoFloats(now!(_mm256_loadu_ps(x.as_ptr())), now!(_mm256_setzero_ps()))
    }

    #[inline(always)]
    fn join(self, a: TwoFloats, b: TwoFloats) -> TwoFloats {
        TwoFloats(a.0, b.0)
    }

    #[inline(always)]
    fn first(self, n: usize, x: TwoFloats) -> TwoFloats {
        let mask = self.load_words(ONES_THEN_ZEROS[16 - n.min(16)..].first_chunk().expect("sixteen are left"));
        both!(TwoFloats, |x, mask| _mm256_and_ps(x, _mm256_castsi256_ps(mask)))
    }

    #[inline(always)]
    fn store_floats(self, x: TwoFloats, to: &mut [f32; 16]) {
        let (first, second) = to.split_at_mut(8);
        now!(_mm256_storeu_ps(first.as_mut_ptr(), x.0));
        now!(_mm256_storeu_ps(second.as_mut_ptr(), x.1));
    }

    #[inline(always)]
    fn store_float_bits(self, x: TwoFloats, to: &mut [u32; 16]) {
        let (first, second) = to.split_at_mut(8);
        now!(_mm256_storeu_ps(first.as_mut_ptr().cast(), x.0));
        now!(_mm256_storeu_ps(second.as_mut_ptr().cast(), x.1));
    }

    #[inline(always)]
    fn largest(self, a: TwoFloats, b: TwoFloats) -> f32 {
        // As integers, magnitudes are ordered as they are as floats.
        let magnitude = now!(_mm256_set1_epi32(0x7fff_ffff));
        let a = both!(Two, |a| _mm256_and_si256(_mm256_castps_si256(a), magnitude));
        let b = both!(Two, |b| _mm256_and_si256(_mm256_castps_si256(b), magnitude));
        let most = both!(Two, |a, b| _mm256_max_epu32(a, b));
        let most = now!(_mm256_max_epu32(most.0, most.1));
        let most = now!(_mm_max_epu32(_mm256_castsi256_si128(most), _mm256_extracti128_si256::<1>(most)));
        let most = now!(_mm_max_epu32(most, _mm_shuffle_epi32::<0x4e>(most)));
        f32::from_bits(now!(_mm_cvtsi128_si32(_mm_max_epu32(most, _mm_shuffle_epi32::<0xb1>(most)))) as u32)
    }

    #[inline(always)]
    fn round(self, x: TwoFloats, to: &mut [u8; 16]) {
        let (a, b) = (now!(_mm256_cvtps_epi32(x.0)), now!(_mm256_cvtps_epi32(x.1)));
        // Packing works in halves of registers; the quarters are put in order afterwards.
        let packed = now!(_mm256_permute4x64_epi64::<0xd8>(_mm256_packs_epi32(a, b)));
        let packed = now!(_mm_packs_epi16(_mm256_castsi256_si128(packed), _mm256_extracti128_si256::<1>(packed)));
        now!(_mm_storeu_si128(to.as_mut_ptr().cast(), packed))
    }

    #[inline(always)]
    fn halves(self, x: [u16; 8]) -> TwoFloats {
        let [a, b, c, d, e, f, g, h] = x;
        let x = now!(_mm_setr_epi16(a as i16, b as i16, c as i16, d as i16, e as i16, f as i16, g as i16, h as i16));
        let x = now!(_mm256_cvtph_ps(x));
        TwoFloats(x, now!(_mm256_setzero_ps()))
    }

    /// Sixteen bytes that begin two bytes earlier for each block hold number `b` in place `b`, and blends have more ports than
    /// insertions.
    #[inline(always)]
    fn strided_halves(self, unit: &[u8], block: usize, at: usize) -> TwoFloats {
        let from = |b: usize| {
            let bytes: &[u8; 16] = array(unit, b * (block - 2) + at);
            now!(_mm_loadu_si128(bytes.as_ptr().cast()))
        };
        let (mut a, mut b) = (from(0), from(4));
        a = now!(_mm_blend_epi16::<2>(a, from(1)));
        b = now!(_mm_blend_epi16::<32>(b, from(5)));
        a = now!(_mm_blend_epi16::<4>(a, from(2)));
        b = now!(_mm_blend_epi16::<64>(b, from(6)));
        a = now!(_mm_blend_epi16::<8>(a, from(3)));
        b = now!(_mm_blend_epi16::<128>(b, from(7)));
        TwoFloats(now!(_mm256_cvtph_ps(_mm_blend_epi16::<0xf0>(a, b))), now!(_mm256_setzero_ps()))
    }

    #[inline(always)]
    fn half(self, x: u16) -> TwoFloats {
        let x = now!(_mm256_cvtph_ps(_mm_set1_epi16(x as i16)));
        TwoFloats(x, x)
    }

    #[inline(always)]
    fn halves_of_heads(self, heads: Two, at: usize) -> TwoFloats {
        let places = now!(_mm256_set1_epi16((at | (at + 1) << 8) as i16));
        both!(TwoFloats, |heads| _mm256_cvtph_ps(_mm256_castsi256_si128(_mm256_shuffle_epi8(heads, places))))
    }

    #[inline(always)]
    fn low_and_high(self, x: &[u8; 16]) -> [TwoFloats; 2] {
        let (a, b): (&[u8; 8], &[u8; 8]) = (array(x, 0), array(x, 8));
        let a = now!(_mm256_cvtepu8_epi32(_mm_loadl_epi64(a.as_ptr().cast())));
        let x = Two(a, now!(_mm256_cvtepu8_epi32(_mm_loadl_epi64(b.as_ptr().cast()))));
        let low = both!(Two, |x| _mm256_and_si256(x, _mm256_set1_epi32(15)));
        [low, both!(Two, |x| _mm256_srli_epi32::<4>(x))].map(|x| self.to_floats(x))
    }

    #[inline(always)]
    fn unsigned(self, x: [u8; 16]) -> TwoFloats {
        let x = now!(_mm_loadu_si128(x.as_ptr().cast()));
        let x = Two(now!(_mm256_cvtepu8_epi32(x)), now!(_mm256_cvtepu8_epi32(_mm_srli_si128::<8>(x))));
        self.to_floats(x)
    }

    #[inline(always)]
    fn signed(self, x: [u8; 16]) -> TwoFloats {
        let x = now!(_mm_loadu_si128(x.as_ptr().cast()));
        let x = Two(now!(_mm256_cvtepi8_epi32(x)), now!(_mm256_cvtepi8_epi32(_mm_srli_si128::<8>(x))));
        self.to_floats(x)
    }

    /// The two lowest are subnormal: (e + 1) << 21 is more than (e - 1) << 23 for them alone.
    #[inline(always)]
    fn half_powers(self, e: [u8; 16]) -> TwoFloats {
        let e = now!(_mm_loadu_si128(e.as_ptr().cast()));
        let e = Two(now!(_mm256_cvtepu8_epi32(e)), now!(_mm256_cvtepu8_epi32(_mm_srli_si128::<8>(e))));
        both!(TwoFloats, |e| {
            let normal = _mm256_slli_epi32::<23>(_mm256_sub_epi32(e, _mm256_set1_epi32(1)));
            let subnormal = _mm256_slli_epi32::<21>(_mm256_add_epi32(e, _mm256_set1_epi32(1)));
            _mm256_castsi256_ps(_mm256_max_epi32(normal, subnormal))
        })
    }

    #[inline(always)]
    fn add_floats(self, a: TwoFloats, b: TwoFloats) -> TwoFloats {
        both!(TwoFloats, |a, b| _mm256_add_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: TwoFloats, b: TwoFloats) -> TwoFloats {
        both!(TwoFloats, |a, b| _mm256_mul_ps(a, b))
    }

    #[inline(always)]
    fn fma(self, a: TwoFloats, b: TwoFloats, c: TwoFloats) -> TwoFloats {
        both!(TwoFloats, |a, b, c| _mm256_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn put_scales(self, x: TwoFloats, to: &mut InMemory) {
        self.store_floats(x, &mut to.0);
    }

    #[inline(always)]
    fn no_scales(self) -> InMemory {
        InMemory([0.0; 16])
    }

    #[inline(always)]
    fn spread(self, groups: [usize; 4], scales: &InMemory) -> TwoFloats {
        // SAFETY: the place of floats that are borrowed here.
        let floats = unsafe { &*hidden(&raw const scales.0) };
        let [p, q, r, s] = groups;
        TwoFloats(of_two(floats, p, q), of_two(floats, r, s))
    }

    #[inline(always)]
    fn sum(self, x: TwoFloats) -> f32 {
        let x = now!(_mm256_add_ps(x.0, x.1));
        let x = now!(_mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x)));
        let x = now!(_mm_add_ps(x, _mm_movehl_ps(x, x)));
        now!(_mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x))))
    }
}

/// Sixteen of them begin with as many numbers of ones as are wanted.
static ONES_THEN_ZEROS: [u32; 32] = {
    let mut x = [0; 32];
    let mut i = 0;
    while i < 16 {
        x[i] = u32::MAX;
        i += 1;
    }
    x
};
