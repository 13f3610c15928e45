//! Lookups with AVX2: points are loaded one by one.

use super::super::books::{Books, Eights, Fours};
use super::super::permutes::Permutes;
use super::super::simd::{ByteLanes, IntegerSums, array};
use super::bytes::ones_where;
use super::sums::known;
use super::{Pairs, Two, TwoFloats};
use std::arch::x86_64::*;

/// Eight numbers of 16 bits, which the compiler has to take apart as integers. (By itself it moves them out of the register one by one, two
/// instructions each, of which one is for the ports that shuffles need. Through memory a load of two bytes for each had to
/// wait for the store: on Zen 5 a quarter to a third of the time of IQ2_XXS and IQ3_XXS.)
#[derive(Clone, Copy)]
pub(in crate::cpu::products) struct Numbers([u64; 2]);

impl Numbers {
    /// The low bits of 16-bit numbers, `most` being a power of two less one.
    #[inline(always)]
    pub(in crate::cpu::products) fn new(x: __m128i, most: usize) -> Self {
        let x = now!(_mm_and_si128(x, _mm_set1_epi16(most as i16)));
        Numbers([now!(_mm_cvtsi128_si64(x)), now!(_mm_extract_epi64::<1>(x))].map(|x| unknown(x as u64)))
    }

    /// `table[number i]`.
    ///
    /// # Safety
    /// The table is as long as numbers may be large.
    #[inline(always)]
    unsafe fn entry<T>(self, table: *const T, i: usize) -> *const T {
        // SAFETY: the caller's promise.
        unsafe { table.add(usize::from((self.0[i / 4] >> (16 * (i % 4))) as u16)) }
    }
}

/// The same number, of which the compiler does not know where it comes from.
#[inline(always)]
fn unknown(mut x: u64) -> u64 {
    // SAFETY: no instruction at all.
    unsafe { std::arch::asm!("/* {0} */", inout(reg) x, options(pure, nomem, nostack, preserves_flags)) };
    x
}

/// Numbers that are bytes in memory: a load for each, of which the compiler is not to make larger ones.
#[inline(always)]
fn entry_at<T>(table: &[T; 256], unit: &[u8], at: usize) -> *const T {
    // SAFETY: a borrowed byte.
    let number = unsafe { (&raw const unit[at]).read_volatile() };
    &raw const table[usize::from(number)]
}

/// Four points of eight bytes, each by a load of its own.
#[inline(always)]
fn four_of(at: [*const u64; 4]) -> __m256i {
    let [a, b, c, d] = at.map(|at| at.cast::<f64>());
    // SAFETY: elements of books; used by the methods of `Pairs` and `Avx512` alone.
    unsafe {
        let (low, high) = (_mm_loadh_pd(_mm_load_sd(a), b), _mm_loadh_pd(_mm_load_sd(c), d));
        _mm256_castpd_si256(_mm256_set_m128d(high, low))
    }
}

/// Those of numbers `i ..`.
#[inline(always)]
pub(in crate::cpu::products) fn four_points<const N: usize>(book: &Eights<N>, at: Numbers, i: usize) -> __m256i {
    let table = book.points.as_ptr();
    // SAFETY: numbers are below `N`.
    unsafe { four_of([at.entry(table, i), at.entry(table, i + 1), at.entry(table, i + 2), at.entry(table, i + 3)]) }
}

/// Four points of four bytes. (The compiler would gather them: half as fast.)
#[inline(always)]
fn four_short_of([a, b, c, d]: [*const u32; 4]) -> __m128i {
    // SAFETY: elements of books; used by the methods of `Pairs` alone.
    unsafe {
        let (a, b, c, d) = (a.read_volatile(), b.read_volatile(), c.read_volatile(), d.read_volatile());
        _mm_setr_epi32(a as i32, b as i32, c as i32, d as i32)
    }
}

/// Those of numbers `i ..`.
#[inline(always)]
fn four_short_points<const N: usize>(book: &Fours<N>, at: Numbers, i: usize) -> __m128i {
    let table = book.points.as_ptr();
    // SAFETY: numbers are below `N`.
    unsafe {
        four_short_of([at.entry(table, i), at.entry(table, i + 1), at.entry(table, i + 2), at.entry(table, i + 3)])
    }
}

/// Those of numbers in memory.
#[inline(always)]
fn four_short_at(book: &Fours<256>, unit: &[u8], at: usize) -> __m128i {
    let table = &book.points;
    four_short_of([
        entry_at(table, unit, at),
        entry_at(table, unit, at + 1),
        entry_at(table, unit, at + 2),
        entry_at(table, unit, at + 3),
    ])
}

/// The same of points of eight bytes.
#[inline(always)]
fn four_at(book: &Eights<256>, unit: &[u8], at: usize) -> __m256i {
    let table = &book.points;
    four_of([
        entry_at(table, unit, at),
        entry_at(table, unit, at + 1),
        entry_at(table, unit, at + 2),
        entry_at(table, unit, at + 3),
    ])
}

/// 16 numbers of four bits as bytes.
#[inline(always)]
pub(in crate::cpu::products) fn nibbles_as_bytes(bytes: &[u8; 8]) -> __m128i {
    // SAFETY: used by the methods of `Pairs` and `Wide` alone; eight bytes.
    unsafe {
        let x = _mm_cvtepu8_epi16(_mm_loadl_epi64(bytes.as_ptr().cast()));
        _mm_and_si128(_mm_or_si128(x, _mm_slli_epi16::<4>(x)), _mm_set1_epi8(15))
    }
}

/// The numbers of one of four parts.
#[inline(always)]
fn numbers_of<const N: usize>(x: Two, part: usize) -> Numbers {
    const { assert!(N.is_power_of_two()) };
    let half = if part < 2 { x.0 } else { x.1 };
    if part.is_multiple_of(2) {
        Numbers::new(now!(_mm256_castsi256_si128(half)), N - 1)
    } else {
        Numbers::new(now!(_mm256_extracti128_si256::<1>(half)), N - 1)
    }
}

/// For 16 numbers: number `i / 4` of 16 bytes, from `first`, `each` bytes long.
#[inline(always)]
fn field_places(each: usize, first: usize) -> __m256i {
    let at: [u8; 32] = std::array::from_fn(|i| match (each, i % 2) {
        (1, 1) => 0x80,
        _ => (first + i / 8 * each + i % 2) as u8,
    });
    now!(_mm256_loadu_si256(at.as_ptr().cast()))
}

impl<const VNNI: bool> Books for Pairs<VNNI> {
    /// None: what is here for parts in fourths is not fast.
    const MOST_BY_DIGITS: usize = 0;

    #[inline(always)]
    fn widen_half(self, b: Two) -> Two {
        Two(
            now!(_mm256_cvtepu8_epi16(_mm256_castsi256_si128(b.0))),
            now!(_mm256_cvtepu8_epi16(_mm256_extracti128_si256::<1>(b.0))),
        )
    }

    #[inline(always)]
    fn even_odd(self, b: Two) -> Two {
        let places = now!(_mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7));
        let b = both!(Two, |b| _mm256_permutevar8x32_epi32(b, places));
        Two(now!(_mm256_permute2x128_si256::<0x20>(b.0, b.1)), now!(_mm256_permute2x128_si256::<0x31>(b.0, b.1)))
    }

    #[inline(always)]
    fn fields<const EACH: usize>(self, unit: &[u8], at: usize, times: [u16; 4]) -> Two {
        let source = if EACH == 1 {
            now!(_mm256_set1_epi64x(i64::from_le_bytes(*array(unit, at))))
        } else {
            let all: &[u8; 16] = array(unit, at);
            now!(_mm256_broadcastsi128_si256(_mm_loadu_si128(all.as_ptr().cast())))
        };
        let [a, b, c, d] = times.map(u64::from);
        let times = now!(_mm256_set1_epi64x((a | b << 16 | c << 32 | d << 48) as i64));
        let places = Two(field_places(EACH, 0), field_places(EACH, 4 * EACH));
        both!(Two, |places| _mm256_mullo_epi16(_mm256_shuffle_epi8(source, places), times))
    }

    #[inline(always)]
    fn with_ninth_bits(self, numbers: Two, bits: u32) -> Two {
        let each =
            now!(_mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, -32768));
        let bits = Two(now!(_mm256_set1_epi16(bits as i16)), now!(_mm256_set1_epi16((bits >> 16) as i16)));
        both!(Two, |numbers, bits| {
            let ones = _mm256_cmpeq_epi16(_mm256_and_si256(bits, each), each);
            _mm256_or_si256(numbers, _mm256_and_si256(ones, _mm256_set1_epi16(256)))
        })
    }

    #[inline(always)]
    fn signs(self, bytes: &[u8], at: usize) -> Two {
        self.quarters(bytes, [at, at, at + 16, at + 16])
    }

    #[inline(always)]
    fn half_as_signs(self, b: Two, half: usize) -> Two {
        each_half_twice(if half == 0 { b.0 } else { b.1 })
    }

    #[inline(always)]
    fn low_bytes_as_signs(self, b: Two) -> Two {
        let b = both!(Two, |b| _mm256_and_si256(b, _mm256_set1_epi16(0xff)));
        // Packing works in halves of registers.
        each_half_twice(now!(_mm256_permute4x64_epi64::<0xd8>(_mm256_packus_epi16(b.0, b.1))))
    }

    #[inline(always)]
    fn negate(self, signs: Two, part: usize, b: Two) -> Two {
        let signs = if part < 2 { signs.0 } else { signs.1 };
        let m = Two(ones_where(signs, 8 * (part % 2)), ones_where(signs, 8 * (part % 2) + 4));
        both!(Two, |b, m| _mm256_sign_epi8(b, _mm256_or_si256(m, _mm256_set1_epi8(1))))
    }

    #[inline(always)]
    fn find<const N: usize>(self, _: &Eights<N>, points: Two) -> Two {
        points
    }

    #[inline(always)]
    fn negate_fourths(self, signs: Two, part: usize, b: Two) -> Two {
        let signs = [signs.0, signs.1].map(|half| self.to_array(Two(half, half)));
        let places = std::array::from_fn(|i| {
            let weight = 4 * i + part;
            if signs[weight / 128][weight % 128 / 8] >> (weight % 8) & 1 == 1 { 0xff } else { 1 }
        });
        let signs = self.of_array(&places);
        both!(Two, |b, signs| _mm256_sign_epi8(b, signs))
    }

    #[inline(always)]
    fn points<const N: usize>(self, book: &Eights<N>, found: Two, part: usize) -> Two {
        let at = numbers_of::<N>(found, part);
        Two(four_points(book, at, 0), four_points(book, at, 4))
    }

    #[inline(always)]
    fn points_at(self, book: &Eights<256>, unit: &[u8], at: usize) -> Two {
        Two(four_at(book, unit, at), four_at(book, unit, at + 8))
    }

    #[inline(always)]
    fn short_points_at(self, book: &Fours<256>, unit: &[u8], at: usize) -> Two {
        let first = (four_short_at(book, unit, at), four_short_at(book, unit, at + 4));
        let second = (four_short_at(book, unit, at + 8), four_short_at(book, unit, at + 12));
        Two(now!(_mm256_set_m128i(first.1, first.0)), now!(_mm256_set_m128i(second.1, second.0)))
    }

    #[inline(always)]
    fn find_short<const N: usize>(self, _: &Fours<N>, points: [Two; 2]) -> [Two; 2] {
        points
    }

    #[inline(always)]
    fn short_points<const N: usize>(self, book: &Fours<N>, found: Two, half: usize) -> Two {
        let (a, b) = (numbers_of::<N>(found, 2 * half), numbers_of::<N>(found, 2 * half + 1));
        let first = (four_short_points(book, a, 0), four_short_points(book, a, 4));
        let second = (four_short_points(book, b, 0), four_short_points(book, b, 4));
        Two(now!(_mm256_set_m128i(first.1, first.0)), now!(_mm256_set_m128i(second.1, second.0)))
    }

    #[inline(always)]
    fn level(self, digits: Two, from: usize, by_digit: &[u8; 64], levels: u8) -> Two {
        let digits = both!(Two, |digits| _mm256_srl_epi16(digits, _mm_cvtsi32_si128(from as i32)));
        self.lookup(array(by_digit, 0), self.and(digits, levels - 1))
    }

    #[inline(always)]
    fn interleave(self, fourths: [Two; 4]) -> [Two; 4] {
        let fourths = fourths.map(|b| self.to_array(b));
        [0, 1, 2, 3].map(|part| self.of_array(&std::array::from_fn(|i| fourths[i % 4][16 * part + i / 4])))
    }

    #[inline(always)]
    fn signs_in_turn(self, a: Two, b: Two) {
        known(a);
        known(b);
    }

    #[inline(always)]
    fn nibbles(self, bytes: &[u8; 8]) -> TwoFloats {
        let x = nibbles_as_bytes(bytes);
        self.to_floats(Two(now!(_mm256_cvtepu8_epi32(x)), now!(_mm256_cvtepu8_epi32(_mm_srli_si128::<8>(x)))))
    }

    #[inline(always)]
    fn twice(self, x: TwoFloats) -> TwoFloats {
        TwoFloats(
            now!(_mm256_permutevar8x32_ps(x.0, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3))),
            now!(_mm256_permutevar8x32_ps(x.0, _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7))),
        )
    }
}

/// The first half twice, and the second.
#[inline(always)]
fn each_half_twice(b: __m256i) -> Two {
    Two(now!(_mm256_permute2x128_si256::<0x00>(b, b)), now!(_mm256_permute2x128_si256::<0x11>(b, b)))
}

/// There are none: the scalar twin's.
impl<const VNNI: bool> Permutes for Pairs<VNNI> {
    fn to_array(self, b: Two) -> [u8; 64] {
        let mut words = [0; 16];
        self.store(b, &mut words);
        std::array::from_fn(|i| words[i / 4].to_le_bytes()[i % 4])
    }

    fn of_array(self, bytes: &[u8; 64]) -> Two {
        self.load(bytes, 0)
    }

    fn signs_of_two(self, b: Two) -> [Two; 2] {
        let bytes = self.to_array(b);
        [0, 32].map(|at| self.signs(array::<64>(&bytes, 0), at))
    }
}
