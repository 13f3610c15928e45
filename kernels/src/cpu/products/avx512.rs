//! [`Simd`] with AVX-512: one register, and a dot product of unsigned with signed bytes in one instruction (VNNI).

use super::simd::{Kernel, Registers, Simd, array};
use super::tile::{Tile, Work, many};
use crate::cpu::{Avx512, Avx512Vbmi};
use std::arch::x86_64::*;

/// Runs intrinsics.
macro_rules! now {
    ($x:expr) => {
        // SAFETY: `Wide` exists only where the CPU has the instructions; memory that is touched is behind
        // references to arrays of the size of the access.
        unsafe { $x }
    };
}

/// Sixteen 32-bit numbers, four of each.
#[inline(always)]
fn by_quarter(a: u32, b: u32, c: u32, d: u32) -> __m512i {
    let [a, b, c, d] = [a as i32, b as i32, c as i32, d as i32];
    // SAFETY: used by the methods of `Wide` alone.
    unsafe { _mm512_setr_epi32(a, a, a, a, b, b, b, b, c, c, c, c, d, d, d, d) }
}

/// Four times eight neighbouring 16-bit numbers that begin so.
#[inline(always)]
fn words_from(first: [i16; 4]) -> __m512i {
    let eight = |i: usize| std::array::from_fn(|j| first[i] + j as i16);
    four_times_eight([eight(0), eight(1), eight(2), eight(3)])
}

/// 32 numbers of 16 bits.
#[inline(always)]
fn four_times_eight(x: [[i16; 8]; 4]) -> __m512i {
    // SAFETY: used by the methods of `Wide` alone; 64 bytes.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

/// Where the 64 bytes from the start of the unit, or its last 64, begin that hold the one at `at`.
#[inline(always)]
fn line(unit: &[u8], at: usize) -> usize {
    (at / 64 * 64).min(unit.len() - 64)
}

/// Eight half-precision numbers.
#[inline(always)]
fn halves(x: [u16; 8]) -> __m128i {
    let [a, b, c, d, e, f, g, h] = x;
    // SAFETY: used by the methods of `Wide` alone.
    unsafe { _mm_setr_epi16(a as i16, b as i16, c as i16, d as i16, e as i16, f as i16, g as i16, h as i16) }
}

/// Proof of AVX-512, and of VBMI if that is to be used.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Wide<const VBMI: bool>(());

impl From<Avx512> for Wide<false> {
    fn from(_: Avx512) -> Self {
        Wide(())
    }
}

impl From<Avx512Vbmi> for Wide<true> {
    fn from(_: Avx512Vbmi) -> Self {
        Wide(())
    }
}

mod books;
mod permutes;

impl<const VBMI: bool> Registers for Wide<VBMI> {
    type Bytes = __m512i;
    type Ints = __m512i;
    type Floats = __m512;
    type Scales = __m512;
    /// Eight signs of a point twice.
    type Signs = __m512i;
}

impl<const VBMI: bool> Simd for Wide<VBMI> {
    const WHOLE_BYTES: bool = true;

    #[inline(always)]
    fn enter<K: Kernel>(self, kernel: K) {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
        fn go<K: Kernel>(kernel: K) {
            kernel.run(Wide::<false>(()));
        }
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c")]
        fn go_vbmi<K: Kernel>(kernel: K) {
            kernel.run(Wide::<true>(()));
        }
        if VBMI { now!(go_vbmi(kernel)) } else { now!(go(kernel)) }
    }

    #[inline(always)]
    fn tile<const GROUP: usize, const PLUS: bool, const EIGHT: bool>(self, tile: &Tile, work: Work<'_>) {
        // 12 integer and 12 float sums, 2 registers of codes.
        many::<Self, GROUP, PLUS, EIGHT, 2, 6>(self, tile, work);
    }

    #[inline(always)]
    fn load(self, bytes: &[u8], at: usize) -> __m512i {
        let bytes: &[u8; 64] = array(bytes, at);
        now!(_mm512_loadu_si512(bytes.as_ptr().cast()))
    }

    #[inline(always)]
    fn pair(self, bytes: &[u8], a: usize, b: usize) -> __m512i {
        let (a, b): (&[u8; 32], &[u8; 32]) = (array(bytes, a), array(bytes, b));
        now!(_mm512_inserti64x4::<1>(
            _mm512_castsi256_si512(_mm256_loadu_si256(a.as_ptr().cast())),
            _mm256_loadu_si256(b.as_ptr().cast())
        ))
    }

    /// One load and one permutation where a register holds both.
    #[inline(always)]
    fn quads(self, bytes: &[u8], a: usize, b: usize) -> __m512i {
        if bytes.len() > 64 && a < b && b + 16 - a <= 64 && (b - a).is_multiple_of(2) {
            let window = a.min(bytes.len() - 64 - (bytes.len() - a) % 2);
            let place = |at: usize| ((at - window) / 2) as i16;
            let places = words_from([place(a), place(a), place(b), place(b)]);
            return now!(_mm512_permutexvar_epi16(places, self.load(bytes, window)));
        }
        let (a, b): (&[u8; 16], &[u8; 16]) = (array(bytes, a), array(bytes, b));
        now!(_mm512_mask_broadcast_i32x4(
            _mm512_broadcast_i32x4(_mm_loadu_si128(a.as_ptr().cast())),
            0xff00,
            _mm_loadu_si128(b.as_ptr().cast())
        ))
    }

    /// Loads of whole lines from the start of the unit, which other parts and the scales are taken from as well, and a
    /// permutation. Loads of each block are more, and half of them reach into two lines.
    #[inline(always)]
    fn blocks(self, unit: &[u8], block: usize, at: usize, part: usize) -> __m512i {
        let (a, b) = (2 * part * block + at, (2 * part + 1) * block + at);
        let (first, second) = (line(unit, a), line(unit, b + 30));
        let [a, b, c, d] = [a, a + 16, b, b + 16];
        // A place in the second register counts on from the first.
        let places = |at: usize| {
            let step = |i: usize| {
                let at = at + 2 * i;
                (if at < first + 64 { (at - first) / 2 } else { 32 + (at - second) / 2 }) as i16
            };
            [step(0), step(1), step(2), step(3), step(4), step(5), step(6), step(7)]
        };
        let places = four_times_eight([places(a), places(b), places(c), places(d)]);
        now!(_mm512_permutex2var_epi16(self.load(unit, first), places, self.load(unit, second)))
    }

    #[inline(always)]
    fn heads(self, a: &[u8], b: &[u8]) -> __m512i {
        let (a, b): (&[u8; 16], &[u8; 16]) = (array(a, 0), array(b, 0));
        let both = now!(_mm256_loadu2_m128i(b.as_ptr().cast(), a.as_ptr().cast()));
        let places = now!(_mm512_setr_epi64(0, 1, 0, 1, 2, 3, 2, 3));
        now!(_mm512_permutexvar_epi64(places, _mm512_castsi256_si512(both)))
    }

    #[inline(always)]
    fn pick(self, b: __m512i, table: &[u8; 64]) -> __m512i {
        now!(_mm512_shuffle_epi8(b, self.load(table, 0)))
    }

    #[inline(always)]
    fn and_quarters(self, b: __m512i, masks: [u8; 4]) -> __m512i {
        let [p, q, r, s] = masks.map(|mask| u32::from(mask) * 0x0101_0101);
        now!(_mm512_and_si512(b, by_quarter(p, q, r, s)))
    }

    #[inline(always)]
    fn and_all(self, b: __m512i, mask: &[u8; 64]) -> __m512i {
        now!(_mm512_and_si512(b, self.load(mask, 0)))
    }

    #[inline(always)]
    fn words(self, w: [u64; 8]) -> __m512i {
        let [a, b, c, d, e, f, g, h] = w;
        now!(_mm512_setr_epi64(a as i64, b as i64, c as i64, d as i64, e as i64, f as i64, g as i64, h as i64))
    }

    #[inline(always)]
    fn quarters(self, bytes: &[u8], at: [usize; 4]) -> __m512i {
        let (a, b): (&[u8; 16], &[u8; 16]) = (array(bytes, at[0]), array(bytes, at[1]));
        let (c, d): (&[u8; 16], &[u8; 16]) = (array(bytes, at[2]), array(bytes, at[3]));
        now!(_mm512_inserti64x4::<1>(
            _mm512_castsi256_si512(_mm256_loadu2_m128i(b.as_ptr().cast(), a.as_ptr().cast())),
            _mm256_loadu2_m128i(d.as_ptr().cast(), c.as_ptr().cast())
        ))
    }

    #[inline(always)]
    fn widen(self, bytes: &[u8], at: usize) -> __m512i {
        let bytes: &[u8; 32] = array(bytes, at);
        now!(_mm512_cvtepu8_epi16(_mm256_loadu_si256(bytes.as_ptr().cast())))
    }

    #[inline(always)]
    fn multiply_bytes(self, a: __m512i, b: &[u8; 64]) -> __m512i {
        let b = self.load(b, 0);
        let even = now!(_mm512_mullo_epi16(a, b));
        let high = now!(_mm512_and_si512(a, _mm512_set1_epi16(0xff00u16 as i16)));
        let odd = now!(_mm512_mullo_epi16(high, _mm512_srli_epi16::<8>(b)));
        now!(_mm512_mask_blend_epi8(0xaaaa_aaaa_aaaa_aaaa, even, odd))
    }

    #[inline(always)]
    fn reached(self, b: __m512i, low: u8, high: u8) -> __m512i {
        let low = now!(_mm512_cmpge_epu8_mask(b, _mm512_set1_epi8(low as i8)));
        let high = now!(_mm512_cmpge_epu8_mask(b, _mm512_set1_epi8(high as i8)));
        let one = now!(_mm512_set1_epi8(1));
        let ones = now!(_mm512_maskz_mov_epi8(low, one));
        now!(_mm512_mask_add_epi8(ones, high, ones, one))
    }

    #[inline(always)]
    fn xor_all(self, a: __m512i, b: __m512i) -> __m512i {
        now!(_mm512_xor_si512(a, b))
    }

    #[inline(always)]
    fn and_words(self, b: __m512i, mask: u32) -> __m512i {
        now!(_mm512_and_si512(b, _mm512_set1_epi32(mask as i32)))
    }

    #[inline(always)]
    fn words_left<const N: u32>(self, b: __m512i) -> __m512i {
        now!(_mm512_slli_epi32::<N>(b))
    }

    #[inline(always)]
    fn words_right<const N: u32>(self, b: __m512i) -> __m512i {
        now!(_mm512_srli_epi32::<N>(b))
    }

    #[inline(always)]
    fn where_set(self, mask: u64, value: u8) -> __m512i {
        now!(_mm512_maskz_set1_epi8(mask, value as i8))
    }

    #[inline(always)]
    fn shift(self, counts: [u32; 4], b: __m512i) -> __m512i {
        now!(_mm512_srlv_epi32(b, by_quarter(counts[0], counts[1], counts[2], counts[3])))
    }

    #[inline(always)]
    fn shift_up(self, counts: [u32; 4], b: __m512i) -> __m512i {
        now!(_mm512_sllv_epi32(b, by_quarter(counts[0], counts[1], counts[2], counts[3])))
    }

    #[inline(always)]
    fn nibbles_of_longs(self, bytes: &[u8], at: usize) -> __m512i {
        let bytes: &[u8; 32] = array(bytes, at);
        let longs = now!(_mm512_castsi256_si512(_mm256_loadu_si256(bytes.as_ptr().cast())));
        let twice = now!(_mm512_permutexvar_epi64(_mm512_setr_epi64(0, 0, 1, 1, 2, 2, 3, 3), longs));
        self.and(now!(_mm512_srlv_epi64(twice, _mm512_setr_epi64(0, 4, 0, 4, 0, 4, 0, 4))), 15)
    }

    #[inline(always)]
    fn and(self, b: __m512i, mask: u8) -> __m512i {
        now!(_mm512_and_si512(b, _mm512_set1_epi8(mask as i8)))
    }

    #[inline(always)]
    fn xor(self, b: __m512i, mask: u8) -> __m512i {
        now!(_mm512_xor_si512(b, _mm512_set1_epi8(mask as i8)))
    }

    #[inline(always)]
    fn add(self, b: __m512i, value: u8) -> __m512i {
        now!(_mm512_add_epi8(b, _mm512_set1_epi8(value as i8)))
    }

    #[inline(always)]
    fn add_all(self, a: __m512i, b: __m512i) -> __m512i {
        now!(_mm512_add_epi8(a, b))
    }

    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        now!(_mm512_or_si512(a, b))
    }

    #[inline(always)]
    fn lookup(self, table: &[u8; 16], b: __m512i) -> __m512i {
        now!(_mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), b))
    }

    #[inline(always)]
    fn load_words(self, from: &[u32; 16]) -> __m512i {
        now!(_mm512_loadu_si512(from.as_ptr().cast()))
    }

    #[inline(always)]
    fn store(self, b: __m512i, to: &mut [u32; 16]) {
        now!(_mm512_storeu_si512(to.as_mut_ptr().cast(), b))
    }

    #[inline(always)]
    fn start(self, _: bool, offset: [u8; 4], minus_fours: &[i32; 16]) -> __m512i {
        if offset[0] == 0 {
            return self.zero();
        }
        let [a, b, c, d] = offset.map(u8::ilog2);
        now!(_mm512_sllv_epi32(_mm512_loadu_si512(minus_fours.as_ptr().cast()), by_quarter(a, b, c, d)))
    }

    #[inline(always)]
    fn dot(self, _: bool, sum: __m512i, codes: __m512i, x: __m512i) -> __m512i {
        now!(_mm512_dpbusd_epi32(sum, codes, x))
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
    fn words_to_floats(self, b: __m512i) -> __m512 {
        self.to_floats(b)
    }

    #[inline(always)]
    fn odd(self, x: __m512) -> __m512 {
        now!(_mm512_maskz_permutexvar_ps(0xff, _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 0, 0, 0, 0, 0, 0, 0, 0), x))
    }

    #[inline(always)]
    fn store_ints(self, i: __m512i, to: &mut [i32; 16]) {
        now!(_mm512_storeu_si512(to.as_mut_ptr().cast(), i))
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
    fn eights(self, a: &[f32; 8], b: &[f32; 8]) -> __m512 {
        now!(_mm512_insertf32x8::<1>(_mm512_castps256_ps512(_mm256_loadu_ps(a.as_ptr())), _mm256_loadu_ps(b.as_ptr())))
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
    fn two_halves(self, a: u16, b: u16) -> __m512 {
        now!(_mm512_cvtph_ps(_mm256_set_m128i(_mm_set1_epi16(b as i16), _mm_set1_epi16(a as i16))))
    }

    /// From memory this is a broadcast. (One number alone is inserted into a register, and so waits for what was there: a row's
    /// first scale for the sum of the row before.)
    #[inline(always)]
    fn half(self, x: u16) -> __m512 {
        now!(_mm512_cvtph_ps(_mm256_set1_epi16(x as i16)))
    }

    #[inline(always)]
    fn unsigned(self, x: [u8; 16]) -> __m512 {
        now!(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(x.as_ptr().cast()))))
    }

    #[inline(always)]
    fn signed(self, x: [u8; 16]) -> __m512 {
        now!(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast()))))
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
    fn spread(self, group: usize, part: usize, x: &__m512) -> __m512 {
        let first = (64 * part / group) as u32;
        let step = |quarter: u32| first + 16 * quarter / group as u32;
        now!(_mm512_permutexvar_ps(by_quarter(step(0), step(1), step(2), step(3)), *x))
    }

    #[inline(always)]
    fn sum(self, x: __m512) -> f32 {
        now!(_mm512_reduce_add_ps(x))
    }

    #[inline(always)]
    fn transpose(self, from: &[[u32; 16]; 16], to: &mut [[u32; 32]], half: usize) {
        // Four rounds of interleaving: numbers, pairs, quarters, halves.
        let mut a = [self.zero(); 16];
        for (a, from) in a.iter_mut().zip(from) {
            *a = now!(_mm512_loadu_si512(from.as_ptr().cast()));
        }
        let mut b = a;
        for i in (0..16).step_by(2) {
            b[i] = now!(_mm512_unpacklo_epi32(a[i], a[i + 1]));
            b[i + 1] = now!(_mm512_unpackhi_epi32(a[i], a[i + 1]));
        }
        // a[4 i + j] then holds columns j, j + 4, j + 8, j + 12 of rows 4 i .. 4 i + 4.
        for i in (0..16).step_by(4) {
            a[i] = now!(_mm512_unpacklo_epi64(b[i], b[i + 2]));
            a[i + 1] = now!(_mm512_unpackhi_epi64(b[i], b[i + 2]));
            a[i + 2] = now!(_mm512_unpacklo_epi64(b[i + 1], b[i + 3]));
            a[i + 3] = now!(_mm512_unpackhi_epi64(b[i + 1], b[i + 3]));
        }
        for j in 0..4 {
            let low = now!(_mm512_shuffle_i32x4::<0x88>(a[j], a[4 + j])); // columns j, j + 8 of rows 0 .. 8
            let high = now!(_mm512_shuffle_i32x4::<0xdd>(a[j], a[4 + j])); // j + 4, j + 12
            let low2 = now!(_mm512_shuffle_i32x4::<0x88>(a[8 + j], a[12 + j]));
            let high2 = now!(_mm512_shuffle_i32x4::<0xdd>(a[8 + j], a[12 + j]));
            let columns = [
                (j, now!(_mm512_shuffle_i32x4::<0x88>(low, low2))),
                (j + 4, now!(_mm512_shuffle_i32x4::<0x88>(high, high2))),
                (j + 8, now!(_mm512_shuffle_i32x4::<0xdd>(low, low2))),
                (j + 12, now!(_mm512_shuffle_i32x4::<0xdd>(high, high2))),
            ];
            for (at, column) in columns {
                if at < to.len() {
                    let to = &mut to[at].as_chunks_mut::<16>().0[half];
                    now!(_mm512_storeu_si512(to.as_mut_ptr().cast(), column));
                }
            }
        }
    }

    #[inline(always)]
    fn prefetch(self, bytes: &[u8], at: usize) {
        now!(_mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(at).cast()))
    }
}

impl<const VBMI: bool> Wide<VBMI> {
    /// As [`Simd::strided_halves`], as they are stored.
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

    #[inline(always)]
    fn zero(self) -> __m512i {
        now!(_mm512_setzero_si512())
    }
}
