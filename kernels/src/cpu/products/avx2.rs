//! [`Simd`] with AVX2: pairs of registers. Dot products of bytes go through 16-bit sums of two, which hold what codes
//! below 128 give; eight-bit codes give their sign to the activation first. AVX-VNNI has them in one instruction, for codes
//! of eight bits as well.

use super::simd::{Kernel, Lines, Registers, Simd, array};
use super::tile::{Tile, Work, many};
use crate::cpu::{Avx2, AvxVnni};
use std::arch::x86_64::*;

/// Runs intrinsics.
macro_rules! now {
    ($x:expr) => {
        // SAFETY: `Pairs` exist only where the CPU has the instructions (FMA and F16C as well); memory that is
        // touched is behind references to arrays of the size of the access.
        unsafe { $x }
    };
}

/// 64 bytes, or 16 integers.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Two(__m256i, __m256i);

/// 16 floats.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct TwoFloats(__m256, __m256);

/// [`Simd::Scales`](Registers::Scales).
#[repr(align(32))]
#[derive(Clone, Copy)]
pub(in crate::cpu) struct InMemory([f32; 16]);

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

/// The same operation on both halves.
macro_rules! both {
    ($type:ident, |$($a:ident),+| $x:expr) => {{
        let first = { $(let $a = $a.0;)+ now!($x) };
        $type(first, { $(let $a = $a.1;)+ now!($x) })
    }};
}

/// Eight 32-bit numbers, four of each.
#[inline(always)]
fn by_half(a: u32, b: u32) -> __m256i {
    let [a, b] = [a as i32, b as i32];
    // SAFETY: used by the methods of `Pairs` alone.
    unsafe { _mm256_setr_epi32(a, a, a, a, b, b, b, b) }
}

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

#[inline(always)]
fn halves_of<T>(x: &[T; 16]) -> (&[T; 8], &[T; 8]) {
    let (a, b) = x.split_at(8);
    (a.first_chunk().expect("eight of sixteen"), b.first_chunk().expect("eight of sixteen"))
}

/// A byte-wise product.
#[inline(always)]
fn byte_products(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: used by the methods of `Pairs` alone.
    unsafe {
        let low = _mm256_set1_epi16(0xff);
        let even = _mm256_and_si256(_mm256_mullo_epi16(a, b), low);
        let odd = _mm256_mullo_epi16(_mm256_andnot_si256(low, a), _mm256_srli_epi16::<8>(b));
        _mm256_or_si256(even, odd)
    }
}

/// Proof of AVX2, and of AVX-VNNI if that is to be used.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Pairs<const VNNI: bool>(());

impl From<Avx2> for Pairs<false> {
    fn from(_: Avx2) -> Self {
        Pairs(())
    }
}

impl From<AvxVnni> for Pairs<true> {
    fn from(_: AvxVnni) -> Self {
        Pairs(())
    }
}

mod books;
pub(super) use books::{Numbers, four_points, nibbles_as_bytes};

impl<const VNNI: bool> Registers for Pairs<VNNI> {
    type Bytes = Two;
    type Ints = Two;
    type Floats = TwoFloats;
    /// A scale for all lanes is one load from memory, and two shuffles from a register; four scales for all quarters are
    /// one load as well. (Where the array is moved, the compiler stores its floats one by one.)
    type Scales = InMemory;
    /// The first 16 bytes twice, the others twice.
    type Signs = Two;
}

impl<const VNNI: bool> Simd for Pairs<VNNI> {
    /// Pairs of products are summed in 16 bits without AVX-VNNI.
    const WHOLE_BYTES: bool = VNNI;
    const IN_PAIRS: bool = true;

    #[inline(always)]
    fn enter<K: Kernel>(self, kernel: K) {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn go<K: Kernel>(kernel: K) {
            kernel.run(Pairs::<false>(()));
        }
        #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
        fn go_vnni<K: Kernel>(kernel: K) {
            kernel.run(Pairs::<true>(()));
        }
        if VNNI { now!(go_vnni(kernel)) } else { now!(go(kernel)) }
    }

    #[inline(always)]
    fn tile<const GROUP: usize, const PLUS: bool, const EIGHT: bool>(self, tile: &Tile, work: Work<'_>) {
        // 8 integer sums stay in registers; the 8 float sums are needed once in a group.
        many::<Self, GROUP, PLUS, EIGHT, 1, 4>(self, tile, work);
    }

    #[inline(always)]
    fn load(self, bytes: &[u8], at: usize) -> Two {
        self.pair(bytes, at, at + 32)
    }

    #[inline(always)]
    fn pair(self, bytes: &[u8], a: usize, b: usize) -> Two {
        let (a, b): (&[u8; 32], &[u8; 32]) = (array(bytes, a), array(bytes, b));
        Two(now!(_mm256_loadu_si256(a.as_ptr().cast())), now!(_mm256_loadu_si256(b.as_ptr().cast())))
    }

    #[inline(always)]
    fn quads(self, bytes: &[u8], a: usize, b: usize) -> Two {
        let (a, b): (&[u8; 16], &[u8; 16]) = (array(bytes, a), array(bytes, b));
        Two(
            now!(_mm256_broadcastsi128_si256(_mm_loadu_si128(a.as_ptr().cast()))),
            now!(_mm256_broadcastsi128_si256(_mm_loadu_si128(b.as_ptr().cast()))),
        )
    }

    #[inline(always)]
    fn heads(self, a: &[u8], b: &[u8]) -> Two {
        let (a, b): (&[u8; 16], &[u8; 16]) = (array(a, 0), array(b, 0));
        Two(
            now!(_mm256_broadcastsi128_si256(_mm_loadu_si128(a.as_ptr().cast()))),
            now!(_mm256_broadcastsi128_si256(_mm_loadu_si128(b.as_ptr().cast()))),
        )
    }

    #[inline(always)]
    fn pick(self, b: Two, table: &[u8; 64]) -> Two {
        let table = self.load(table, 0);
        both!(Two, |b, table| _mm256_shuffle_epi8(b, table))
    }

    #[inline(always)]
    fn and_quarters(self, b: Two, masks: [u8; 4]) -> Two {
        let [p, q, r, s] = masks.map(|mask| u32::from(mask) * 0x0101_0101);
        Two(now!(_mm256_and_si256(b.0, by_half(p, q))), now!(_mm256_and_si256(b.1, by_half(r, s))))
    }

    #[inline(always)]
    fn and_all(self, b: Two, mask: &[u8; 64]) -> Two {
        let mask = self.load(mask, 0);
        both!(Two, |b, mask| _mm256_and_si256(b, mask))
    }

    #[inline(always)]
    fn words(self, w: [u64; 8]) -> Two {
        let [a, b, c, d, e, f, g, h] = w;
        Two(
            now!(_mm256_setr_epi64x(a as i64, b as i64, c as i64, d as i64)),
            now!(_mm256_setr_epi64x(e as i64, f as i64, g as i64, h as i64)),
        )
    }

    #[inline(always)]
    fn quarters(self, bytes: &[u8], at: [usize; 4]) -> Two {
        let (a, b): (&[u8; 16], &[u8; 16]) = (array(bytes, at[0]), array(bytes, at[1]));
        let (c, d): (&[u8; 16], &[u8; 16]) = (array(bytes, at[2]), array(bytes, at[3]));
        Two(
            now!(_mm256_loadu2_m128i(b.as_ptr().cast(), a.as_ptr().cast())),
            now!(_mm256_loadu2_m128i(d.as_ptr().cast(), c.as_ptr().cast())),
        )
    }

    #[inline(always)]
    fn widen(self, bytes: &[u8], at: usize) -> Two {
        let (a, b): (&[u8; 16], &[u8; 16]) = (array(bytes, at), array(bytes, at + 16));
        Two(
            now!(_mm256_cvtepu8_epi16(_mm_loadu_si128(a.as_ptr().cast()))),
            now!(_mm256_cvtepu8_epi16(_mm_loadu_si128(b.as_ptr().cast()))),
        )
    }

    #[inline(always)]
    fn multiply_bytes(self, a: Two, b: &[u8; 64]) -> Two {
        let b = self.load(b, 0);
        Two(byte_products(a.0, b.0), byte_products(a.1, b.1))
    }

    #[inline(always)]
    fn reached(self, b: Two, low: u8, high: u8) -> Two {
        let (low, high) = (now!(_mm256_set1_epi8(low as i8)), now!(_mm256_set1_epi8(high as i8)));
        both!(Two, |b| {
            let low = _mm256_cmpeq_epi8(_mm256_max_epu8(b, low), b);
            let high = _mm256_cmpeq_epi8(_mm256_max_epu8(b, high), b);
            _mm256_sub_epi8(_mm256_setzero_si256(), _mm256_add_epi8(low, high))
        })
    }

    #[inline(always)]
    fn xor_all(self, a: Two, b: Two) -> Two {
        both!(Two, |a, b| _mm256_xor_si256(a, b))
    }

    #[inline(always)]
    fn and_words(self, b: Two, mask: u32) -> Two {
        both!(Two, |b| _mm256_and_si256(b, _mm256_set1_epi32(mask as i32)))
    }

    #[inline(always)]
    fn words_left<const N: u32>(self, b: Two) -> Two {
        both!(Two, |b| _mm256_sll_epi32(b, _mm_cvtsi32_si128(N as i32)))
    }

    #[inline(always)]
    fn words_right<const N: u32>(self, b: Two) -> Two {
        both!(Two, |b| _mm256_srl_epi32(b, _mm_cvtsi32_si128(N as i32)))
    }

    #[inline(always)]
    fn where_set(self, mask: u64, value: u8) -> Two {
        let m = all_ones(mask);
        both!(Two, |m| _mm256_and_si256(m, _mm256_set1_epi8(value as i8)))
    }

    #[inline(always)]
    fn shift(self, counts: [u32; 4], b: Two) -> Two {
        Two(
            now!(_mm256_srlv_epi32(b.0, by_half(counts[0], counts[1]))),
            now!(_mm256_srlv_epi32(b.1, by_half(counts[2], counts[3]))),
        )
    }

    #[inline(always)]
    fn shift_up(self, counts: [u32; 4], b: Two) -> Two {
        Two(
            now!(_mm256_sllv_epi32(b.0, by_half(counts[0], counts[1]))),
            now!(_mm256_sllv_epi32(b.1, by_half(counts[2], counts[3]))),
        )
    }

    #[inline(always)]
    fn nibbles_of_longs(self, bytes: &[u8], at: usize) -> Two {
        let half = |at: usize| {
            let bytes: &[u8; 16] = array(bytes, at);
            let longs = now!(_mm256_castsi128_si256(_mm_loadu_si128(bytes.as_ptr().cast())));
            let twice = now!(_mm256_permute4x64_epi64::<0x50>(longs));
            now!(_mm256_srlv_epi64(twice, _mm256_setr_epi64x(0, 4, 0, 4)))
        };
        self.and(Two(half(at), half(at + 16)), 15)
    }

    #[inline(always)]
    fn and(self, b: Two, mask: u8) -> Two {
        both!(Two, |b| _mm256_and_si256(b, _mm256_set1_epi8(mask as i8)))
    }

    #[inline(always)]
    fn xor(self, b: Two, mask: u8) -> Two {
        both!(Two, |b| _mm256_xor_si256(b, _mm256_set1_epi8(mask as i8)))
    }

    #[inline(always)]
    fn add(self, b: Two, value: u8) -> Two {
        both!(Two, |b| _mm256_add_epi8(b, _mm256_set1_epi8(value as i8)))
    }

    #[inline(always)]
    fn add_all(self, a: Two, b: Two) -> Two {
        both!(Two, |a, b| _mm256_add_epi8(a, b))
    }

    #[inline(always)]
    fn or(self, a: Two, b: Two) -> Two {
        both!(Two, |a, b| _mm256_or_si256(a, b))
    }

    #[inline(always)]
    fn lookup(self, table: &[u8; 16], b: Two) -> Two {
        let table = now!(_mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())));
        both!(Two, |b| _mm256_shuffle_epi8(table, b))
    }

    #[inline(always)]
    fn load_words(self, from: &[u32; 16]) -> Two {
        let (a, b) = halves_of(from);
        Two(now!(_mm256_loadu_si256(a.as_ptr().cast())), now!(_mm256_loadu_si256(b.as_ptr().cast())))
    }

    #[inline(always)]
    fn store(self, b: Two, to: &mut [u32; 16]) {
        let (first, second) = to.split_at_mut(8);
        now!(_mm256_storeu_si256(first.as_mut_ptr().cast(), b.0));
        now!(_mm256_storeu_si256(second.as_mut_ptr().cast(), b.1));
    }

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
    fn store_ints(self, i: Two, to: &mut [i32; 16]) {
        let (first, second) = to.split_at_mut(8);
        now!(_mm256_storeu_si256(first.as_mut_ptr().cast(), i.0));
        now!(_mm256_storeu_si256(second.as_mut_ptr().cast(), i.1));
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
    fn eights(self, a: &[f32; 8], b: &[f32; 8]) -> TwoFloats {
        TwoFloats(now!(_mm256_loadu_ps(a.as_ptr())), now!(_mm256_loadu_ps(b.as_ptr())))
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
    fn two_halves(self, a: u16, b: u16) -> TwoFloats {
        TwoFloats(now!(_mm256_cvtph_ps(_mm_set1_epi16(a as i16))), now!(_mm256_cvtph_ps(_mm_set1_epi16(b as i16))))
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
    fn spread(self, group: usize, part: usize, scales: &InMemory) -> TwoFloats {
        // SAFETY: the place of floats that are borrowed here.
        let floats = unsafe { &*hidden(&raw const scales.0) };
        if group == 32 {
            let [a, b] = [floats[2 * part], floats[2 * part + 1]];
            return TwoFloats(now!(_mm256_set1_ps(a)), now!(_mm256_set1_ps(b)));
        }
        let four: &[f32; 4] = floats[4 * part..].first_chunk().expect("four of sixteen");
        let four = now!(_mm256_broadcast_ps(&*four.as_ptr().cast::<__m128>()));
        // SAFETY: the place of a static.
        let places = self.load_words(unsafe { &*hidden(&raw const BY_QUARTER.0) });
        both!(TwoFloats, |places| _mm256_permutevar_ps(four, places))
    }

    #[inline(always)]
    fn sum(self, x: TwoFloats) -> f32 {
        let x = now!(_mm256_add_ps(x.0, x.1));
        let x = now!(_mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x)));
        let x = now!(_mm_add_ps(x, _mm_movehl_ps(x, x)));
        now!(_mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x))))
    }

    #[inline(always)]
    fn transpose(self, from: &[[u32; 16]; 16], to: &mut [[u32; 32]], half: usize) {
        // Four by four; the stores are what it costs.
        for r in (0..16).step_by(4) {
            for j in (0..to.len().min(16)).step_by(4) {
                let mut a = [now!(_mm_setzero_ps()); 4];
                for (a, from) in a.iter_mut().zip(&from[r..r + 4]) {
                    let from: &[u32; 4] = from[j..].first_chunk().expect("four of sixteen");
                    *a = now!(_mm_loadu_ps(from.as_ptr().cast()));
                }
                let low = (now!(_mm_unpacklo_ps(a[0], a[1])), now!(_mm_unpacklo_ps(a[2], a[3])));
                let high = (now!(_mm_unpackhi_ps(a[0], a[1])), now!(_mm_unpackhi_ps(a[2], a[3])));
                let columns = [
                    now!(_mm_movelh_ps(low.0, low.1)),
                    now!(_mm_movehl_ps(low.1, low.0)),
                    now!(_mm_movelh_ps(high.0, high.1)),
                    now!(_mm_movehl_ps(high.1, high.0)),
                ];
                for (to, column) in to[j..].iter_mut().zip(columns) {
                    let to: &mut [u32; 4] = to[16 * half + r..].first_chunk_mut().expect("four of thirty-two");
                    now!(_mm_storeu_ps(to.as_mut_ptr().cast(), column));
                }
            }
        }
    }

    #[inline(always)]
    fn prefetch(self, bytes: &[u8], at: usize) {
        now!(_mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(at).cast()))
    }
}

/// Which of four floats each quarter takes. (Where the compiler knows the places, it takes two shuffles instead of one: Q6_K and Q2_K
/// lost a tenth.)
static BY_QUARTER: Lines<[u32; 16]> = Lines([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]);

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

/// Bytes of ones where the mask has a one.
#[inline(always)]
fn all_ones(mask: u64) -> Two {
    Two(all_ones_of_half(mask as u32), all_ones_of_half((mask >> 32) as u32))
}

#[inline(always)]
fn all_ones_of_half(mask: u32) -> __m256i {
    ones_where(now!(_mm256_set1_epi32(mask as i32)), 0)
}

/// The same where the 32 bits from byte `at` of either half have a one.
#[inline(always)]
fn ones_where(bits: __m256i, at: usize) -> __m256i {
    // SAFETY: used by the methods of `Pairs` alone.
    unsafe {
        let byte = |i: usize| (0x0101_0101_0101_0101 * (at + i) as u64) as i64;
        let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201u64 as i64);
        let bytes = _mm256_shuffle_epi8(bits, _mm256_setr_epi64x(byte(0), byte(1), byte(2), byte(3)));
        _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit)
    }
}
