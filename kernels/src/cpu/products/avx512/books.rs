//! Lookups with AVX-512: with VBMI as [`permuted`](super::super::permuted) prepares them, otherwise small codebooks by permutations of
//! digits, large ones by single loads.

use super::super::avx2::{Numbers, four_points, hidden};
use super::super::books::{Books, Eights, Fours};
use super::super::permutes::Permutes;
use super::super::simd::{Lines, Simd, array};
use super::Wide;
use std::arch::x86_64::*;

/// Most points of eight weights whose digits are permuted; more are loaded one by one, which takes as long for any number.
const MOST_PERMUTED: usize = 512;

/// `table[at]` for 16-bit numbers: 64 entries by one permutation, of which the numbers' upper bits choose.
#[inline(always)]
fn permuted<const N: usize>(table: &[u16; N], at: __m512i) -> __m512i {
    let table = table.as_ptr();
    // SAFETY: of each size all entries are there; used by the methods of `Wide` alone.
    unsafe {
        match N {
            256 => of_256(table, at),
            512 => of_512(table, at),
            _ => unreachable!("books of other sizes are not permuted"),
        }
    }
}

/// `b` where a number has this bit, `a` elsewhere.
#[inline(always)]
unsafe fn blend(bit: i16, at: __m512i, a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: used by the methods of `Wide` alone.
    unsafe { _mm512_mask_blend_epi16(_mm512_test_epi16_mask(at, _mm512_set1_epi16(bit)), a, b) }
}

/// # Safety
/// As [`sixty_four`], for all these functions with as many entries.
#[inline(always)]
unsafe fn of_512(table: *const u16, at: __m512i) -> __m512i {
    // SAFETY: by the caller's promise, here and below.
    unsafe { blend(256, at, of_256(table, at), of_256(table.add(256), at)) }
}

#[inline(always)]
unsafe fn of_256(table: *const u16, at: __m512i) -> __m512i {
    // SAFETY: as above.
    unsafe {
        let a = blend(64, at, sixty_four(table, at), sixty_four(table.add(64), at));
        let b = blend(64, at, sixty_four(table.add(128), at), sixty_four(table.add(192), at));
        blend(128, at, a, b)
    }
}

/// One of 64 entries by the low six bits of 16-bit numbers.
///
/// # Safety
/// 64 entries can be read there; used by the methods of `Wide` alone.
#[inline(always)]
unsafe fn sixty_four(table: *const u16, at: __m512i) -> __m512i {
    // SAFETY: by the caller's promise.
    unsafe { _mm512_permutex2var_epi16(_mm512_loadu_si512(table.cast()), at, _mm512_loadu_si512(table.add(32).cast())) }
}

/// Four masks by a store and loads. (What the compiler makes of it otherwise are two instructions for each number and one
/// for each quarter, all for the ports that lookups need.)
#[inline(always)]
fn through_memory(x: __m256i) -> [u64; 4] {
    let mut to = [0u64; 4];
    // SAFETY: 32 bytes; used by the methods of `Wide` alone.
    unsafe {
        _mm256_storeu_si256(to.as_mut_ptr().cast(), x);
        *hidden(&raw const to)
    }
}

/// Word `first + i / EACH` in place `i`.
const fn repeated<const EACH: usize>(first: usize) -> [u16; 32] {
    let mut at = [0; 32];
    let mut i = 0;
    while i < 32 {
        at[i] = (first + i / EACH) as u16;
        i += 1;
    }
    at
}
static EACH_FOUR_TIMES: Lines<[[u16; 32]; 4]> =
    Lines([repeated::<4>(0), repeated::<4>(8), repeated::<4>(16), repeated::<4>(24)]);
static EACH_TWICE: Lines<[[u16; 32]; 2]> = Lines([repeated::<2>(0), repeated::<2>(16)]);

/// Where digits of two bits of a point begin, in a 64-bit number that holds it four times; of three bits, of two points, each twice.
static TWOS: Lines<[u8; 64]> = Lines(digits_at(2, 0));
static THREES: Lines<[u8; 64]> = Lines(digits_at(3, 20));

const fn digits_at(bits: usize, gap: usize) -> [u8; 64] {
    let mut at = [0; 64];
    let mut i = 0;
    while i < 64 {
        at[i] = (bits * (i % 8) + gap * (i % 8 / 4)) as u8;
        i += 1;
    }
    at
}

/// Enough for digits alone.
#[inline(always)]
fn sixteen(levels: &[u8; 64]) -> &[u8; 16] {
    array(levels, 0)
}

impl<const VBMI: bool> Books for Wide<VBMI> {
    #[inline(always)]
    fn widen_half(self, b: __m512i) -> __m512i {
        now!(_mm512_cvtepu8_epi16(_mm512_castsi512_si256(b)))
    }

    #[inline(always)]
    fn even_odd(self, b: __m512i) -> __m512i {
        let places = now!(_mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
        now!(_mm512_permutexvar_epi32(places, b))
    }

    #[inline(always)]
    fn signs(self, bytes: &[u8], at: usize) -> [u64; 4] {
        let long = |i: usize| u64::from_le_bytes(*array(bytes, at + 8 * i));
        [long(0), long(1), long(2), long(3)]
    }

    #[inline(always)]
    fn half_as_signs(self, b: __m512i, half: usize) -> [u64; 4] {
        through_memory(if half == 0 {
            now!(_mm512_castsi512_si256(b))
        } else {
            now!(_mm512_extracti64x4_epi64::<1>(b))
        })
    }

    #[inline(always)]
    fn low_bytes_as_signs(self, b: __m512i) -> [u64; 4] {
        through_memory(now!(_mm512_cvtepi16_epi8(b)))
    }

    #[inline(always)]
    fn negate(self, signs: [u64; 4], part: usize, b: __m512i) -> __m512i {
        now!(_mm512_mask_sub_epi8(b, signs[part], _mm512_setzero_si512(), b))
    }

    #[inline(always)]
    fn find<const N: usize>(self, book: &Eights<N>, points: __m512i) -> __m512i {
        if N > MOST_PERMUTED { points } else { permuted(&book.digits, points) }
    }

    #[inline(always)]
    fn points<const N: usize>(self, book: &Eights<N>, found: __m512i, part: usize) -> __m512i {
        if VBMI {
            return self.levels(found, &EACH_FOUR_TIMES[part], &TWOS, &book.levels);
        }
        if N > MOST_PERMUTED {
            let eight = match part {
                0 => now!(_mm512_castsi512_si128(found)),
                1 => now!(_mm512_extracti32x4_epi32::<1>(found)),
                2 => now!(_mm512_extracti32x4_epi32::<2>(found)),
                _ => now!(_mm512_extracti32x4_epi32::<3>(found)),
            };
            const { assert!(N.is_power_of_two()) };
            let mut at = Numbers::zeros();
            at.put(eight, N - 1);
            let (low, high) = (four_points(book, &at, 0), four_points(book, &at, 4));
            return now!(_mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high));
        }
        self.lookup(sixteen(&book.levels), self.digits(found, part))
    }

    #[inline(always)]
    fn find_short<const N: usize>(self, book: &Fours<N>, points: __m512i) -> __m512i {
        permuted(&book.digits, points)
    }

    #[inline(always)]
    fn short_points<const N: usize>(self, book: &Fours<N>, found: __m512i, half: usize) -> __m512i {
        if VBMI {
            return self.levels(found, &EACH_TWICE[half], &THREES, &book.levels);
        }
        let shifts = now!(_mm512_set1_epi32(0x0006_0000));
        let words = now!(_mm512_permutexvar_epi16(self.numbers(&EACH_TWICE[half]), found));
        let pairs = now!(_mm512_srlv_epi16(words, shifts));
        self.lookup(sixteen(&book.levels), self.one_a_byte(pairs, now!(_mm512_slli_epi16::<5>(pairs)), 7))
    }
}

impl<const VBMI: bool> Wide<VBMI> {
    /// 64 levels by the digits of points, which are spread first. (Bits above a digit do not matter: levels are repeated.)
    #[inline(always)]
    fn levels(self, found: __m512i, each: &[u16; 32], at: &[u8; 64], levels: &[u8; 64]) -> __m512i {
        let digits = self.bits_from(now!(_mm512_permutexvar_epi16(self.numbers(each), found)), at);
        now!(_mm512_permutexvar_epi8(digits, self.of_array(levels)))
    }

    /// The digits of two bits of eight points.
    #[inline(always)]
    fn digits(self, found: __m512i, part: usize) -> __m512i {
        // Digits 0 and 1, 2 and 3, ... of each point, then each in a byte of its own.
        let shifts = now!(_mm512_set1_epi64(0x000c_0008_0004_0000));
        let words = now!(_mm512_permutexvar_epi16(self.numbers(&EACH_FOUR_TIMES[part]), found));
        let pairs = now!(_mm512_srlv_epi16(words, shifts));
        self.one_a_byte(pairs, now!(_mm512_slli_epi16::<6>(pairs)), 3)
    }

    /// Low bytes of 16-bit numbers, and high bytes of others, as far as the mask says.
    #[inline(always)]
    fn one_a_byte(self, low: __m512i, high: __m512i, mask: i16) -> __m512i {
        now!(_mm512_or_si512(
            _mm512_and_si512(low, _mm512_set1_epi16(mask)),
            _mm512_and_si512(high, _mm512_set1_epi16(mask << 8))
        ))
    }

    /// 32 of them.
    #[inline(always)]
    fn numbers(self, x: &[u16; 32]) -> __m512i {
        now!(_mm512_loadu_si512(x.as_ptr().cast()))
    }
}
