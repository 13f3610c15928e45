//! Lookups with AVX2: points are loaded one by one.

use super::super::books::{Books, Eights, Fours};
use super::super::permutes::Permutes;
use super::super::simd::{Simd, array};
use super::{Pairs, Two, ones_where};
use std::arch::x86_64::*;

/// Eight numbers, in memory, whatever the compiler knows of them: it would move numbers out of a register one by one, which takes two
/// instructions each, of which one is for the ports that shuffles need. (So it does where this is moved: it must stay where it was made.)
pub(in crate::cpu::products) struct Numbers([u16; 8]);

impl Numbers {
    #[inline(always)]
    pub(in crate::cpu::products) fn zeros() -> Self {
        Numbers([0; 8])
    }

    /// The low bits of 16-bit numbers, `most` being a power of two less one.
    #[inline(always)]
    pub(in crate::cpu::products) fn put(&mut self, x: __m128i, most: usize) {
        now!(_mm_storeu_si128(self.0.as_mut_ptr().cast(), _mm_and_si128(x, _mm_set1_epi16(most as i16))));
    }

    /// `table[number i]`.
    ///
    /// # Safety
    /// The table is as long as numbers may be large.
    #[inline(always)]
    unsafe fn entry<T>(&self, table: *const T, i: usize) -> *const T {
        // SAFETY: an element of an array; the caller's promise.
        unsafe { table.add((&raw const self.0[i]).read_volatile().into()) }
    }
}

/// Four points of eight bytes, each by a load of its own: those of numbers `i ..`.
#[inline(always)]
pub(in crate::cpu::products) fn four_points<const N: usize>(book: &Eights<N>, at: &Numbers, i: usize) -> __m256i {
    let table = book.points.as_ptr();
    // SAFETY: elements of the book, since numbers are below `N`; used by the methods of `Pairs` and `Avx512` alone.
    unsafe {
        let two = |a: *const u64, b: *const u64| (a.cast::<f64>(), b.cast::<f64>());
        let (a, b) = two(at.entry(table, i), at.entry(table, i + 1));
        let low = _mm_loadh_pd(_mm_load_sd(a), b);
        let (a, b) = two(at.entry(table, i + 2), at.entry(table, i + 3));
        let high = _mm_loadh_pd(_mm_load_sd(a), b);
        _mm256_castpd_si256(_mm256_set_m128d(high, low))
    }
}

/// Four points of four bytes: those of numbers `i ..`.
#[inline(always)]
fn four_short_points<const N: usize>(book: &Fours<N>, at: &Numbers, i: usize) -> __m128i {
    let table = book.points.as_ptr();
    // SAFETY: elements of the book, since numbers are below `N`; used by the methods of `Pairs` alone.
    unsafe {
        let (a, b) = (at.entry(table, i).read_volatile(), at.entry(table, i + 1).read_volatile());
        let (c, d) = (at.entry(table, i + 2).read_volatile(), at.entry(table, i + 3).read_volatile());
        _mm_setr_epi32(a as i32, b as i32, c as i32, d as i32)
    }
}

/// The numbers of one of four parts.
#[inline(always)]
fn put_numbers<const N: usize>(at: &mut Numbers, x: Two, part: usize) {
    const { assert!(N.is_power_of_two()) };
    let half = if part < 2 { x.0 } else { x.1 };
    if part.is_multiple_of(2) {
        at.put(now!(_mm256_castsi256_si128(half)), N - 1);
    } else {
        at.put(now!(_mm256_extracti128_si256::<1>(half)), N - 1);
    }
}

impl<const VNNI: bool> Books for Pairs<VNNI> {
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
    fn signs(self, bytes: &[u8], at: usize) -> Two {
        self.quads(bytes, at, at + 16)
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
    fn points<const N: usize>(self, book: &Eights<N>, found: Two, part: usize) -> Two {
        let mut at = Numbers::zeros();
        put_numbers::<N>(&mut at, found, part);
        Two(four_points(book, &at, 0), four_points(book, &at, 4))
    }

    #[inline(always)]
    fn find_short<const N: usize>(self, _: &Fours<N>, points: Two) -> Two {
        points
    }

    #[inline(always)]
    fn short_points<const N: usize>(self, book: &Fours<N>, found: Two, half: usize) -> Two {
        let (mut a, mut b) = (Numbers::zeros(), Numbers::zeros());
        put_numbers::<N>(&mut a, found, 2 * half);
        put_numbers::<N>(&mut b, found, 2 * half + 1);
        let first = (four_short_points(book, &a, 0), four_short_points(book, &a, 4));
        let second = (four_short_points(book, &b, 0), four_short_points(book, &b, 4));
        Two(now!(_mm256_set_m128i(first.1, first.0)), now!(_mm256_set_m128i(second.1, second.0)))
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
