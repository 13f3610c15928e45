//! Lookups with AVX-512: with VBMI as [`Codes::permuted`](super::super::Codes::permuted) prepares them, otherwise small codebooks by
//! permutations of digits, large ones by single loads.

use super::super::avx2::{Numbers, four_points, nibbles_as_bytes};
use super::super::books::{Books, Eights, Fours};
use super::super::permutes::Permutes;
use super::super::simd::{ByteLanes, IntegerSums, Lines, array};
use super::Wide;
use std::arch::x86_64::*;

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

/// For 16-bit numbers in quarters of a register, number `i / 4` of 16 bytes, `each` bytes long.
#[inline(always)]
fn field_places(each: usize) -> __m512i {
    let at: [u8; 64] = std::array::from_fn(|i| match (each, i % 2) {
        (1, 1) => 0x80,
        _ => (i / 8 * each + i % 2) as u8,
    });
    now!(_mm512_loadu_si512(at.as_ptr().cast()))
}

/// Each byte of 32 twice.
static EACH_TWICE: Lines<[u8; 64]> = {
    let mut at = [0; 64];
    let mut i = 0;
    while i < 64 {
        at[i] = (i / 2) as u8;
        i += 1;
    }
    Lines(at)
};

/// Of signs that are there twice, those of eight points, eight times each: places in quarters that are all the same.
static EIGHT_TIMES: Lines<[u8; 64]> = {
    let mut at = [0; 64];
    let mut i = 0;
    while i < 64 {
        at[i] = (2 * (i / 8)) as u8;
        i += 1;
    }
    Lines(at)
};

impl<const VBMI: bool> Books for Wide<VBMI> {
    /// Without permutations of bytes, larger books are loaded point by point, which takes as long for any number.
    const MOST_BY_DIGITS: usize = if VBMI { usize::MAX } else { 512 };

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
    fn fields<const EACH: usize>(self, unit: &[u8], at: usize, times: [u16; 4]) -> __m512i {
        let source = if EACH == 1 {
            now!(_mm512_set1_epi64(i64::from_le_bytes(*array(unit, at))))
        } else {
            let all: &[u8; 16] = array(unit, at);
            now!(_mm512_broadcast_i32x4(_mm_loadu_si128(all.as_ptr().cast())))
        };
        let [a, b, c, d] = times.map(u64::from);
        let times = now!(_mm512_set1_epi64((a | b << 16 | c << 32 | d << 48) as i64));
        now!(_mm512_mullo_epi16(_mm512_shuffle_epi8(source, field_places(EACH)), times))
    }

    #[inline(always)]
    fn with_ninth_bits(self, numbers: __m512i, bits: u32) -> __m512i {
        now!(_mm512_mask_add_epi16(numbers, bits, numbers, _mm512_set1_epi16(256)))
    }

    #[inline(always)]
    fn signs(self, bytes: &[u8], at: usize) -> __m512i {
        let bytes: &[u8; 32] = array(bytes, at);
        self.each_twice(now!(_mm256_loadu_si256(bytes.as_ptr().cast())))
    }

    #[inline(always)]
    fn half_as_signs(self, b: __m512i, half: usize) -> __m512i {
        self.each_twice(if half == 0 {
            now!(_mm512_castsi512_si256(b))
        } else {
            now!(_mm512_extracti64x4_epi64::<1>(b))
        })
    }

    #[inline(always)]
    fn low_bytes_as_signs(self, b: __m512i) -> __m512i {
        let low = now!(_mm512_and_si512(b, _mm512_set1_epi16(0xff)));
        now!(_mm512_or_si512(low, _mm512_slli_epi16::<8>(low)))
    }

    #[inline(always)]
    fn negate(self, signs: __m512i, part: usize, b: __m512i) -> __m512i {
        let quarter = match part {
            0 => now!(_mm512_shuffle_i64x2::<0x00>(signs, signs)),
            1 => now!(_mm512_shuffle_i64x2::<0x55>(signs, signs)),
            2 => now!(_mm512_shuffle_i64x2::<0xaa>(signs, signs)),
            _ => now!(_mm512_shuffle_i64x2::<0xff>(signs, signs)),
        };
        let signs = now!(_mm512_shuffle_epi8(quarter, self.of_array(&EIGHT_TIMES)));
        let mask = now!(_mm512_test_epi8_mask(signs, _mm512_set1_epi64(0x8040_2010_0804_0201u64 as i64)));
        now!(_mm512_mask_sub_epi8(b, mask, _mm512_setzero_si512(), b))
    }

    /// Eight signs are there twice: the bits of the lower four weights, then those of the upper four.
    #[inline(always)]
    fn negate_fourths(self, signs: __m512i, part: usize, b: __m512i) -> __m512i {
        let bits = (0x1001u16 << part) as i16;
        let mask = now!(_mm512_test_epi8_mask(signs, _mm512_set1_epi16(bits)));
        now!(_mm512_mask_sub_epi8(b, mask, _mm512_setzero_si512(), b))
    }

    #[inline(always)]
    fn find<const N: usize>(self, book: &Eights<N>, points: __m512i) -> __m512i {
        if N > Self::MOST_BY_DIGITS { points } else { permuted(&book.digits, points) }
    }

    #[inline(always)]
    fn points<const N: usize>(self, book: &Eights<N>, found: __m512i, part: usize) -> __m512i {
        let eight = match part {
            0 => now!(_mm512_castsi512_si128(found)),
            1 => now!(_mm512_extracti32x4_epi32::<1>(found)),
            2 => now!(_mm512_extracti32x4_epi32::<2>(found)),
            _ => now!(_mm512_extracti32x4_epi32::<3>(found)),
        };
        const { assert!(N.is_power_of_two()) };
        let at = Numbers::new(eight, N - 1);
        let (low, high) = (four_points(book, at, 0), four_points(book, at, 4));
        now!(_mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high))
    }

    /// Small books are looked up by digits.
    fn points_at(self, _: &Eights<256>, unit: &[u8], at: usize) -> __m512i {
        const { assert!(256 <= Self::MOST_BY_DIGITS) };
        self.load(unit, at)
    }

    /// As above.
    fn short_points_at(self, _: &Fours<256>, unit: &[u8], at: usize) -> __m512i {
        const { assert!(256 <= Self::MOST_BY_DIGITS) };
        self.load(unit, at)
    }

    #[inline(always)]
    fn find_short<const N: usize>(self, book: &Fours<N>, points: [__m512i; 2]) -> [__m512i; 2] {
        let (a, b) = (permuted(&book.digits, points[0]), permuted(&book.digits, points[1]));
        [
            self.join_halves(now!(_mm512_cvtepi16_epi8(a)), now!(_mm512_cvtepi16_epi8(b))),
            self.join_halves(
                now!(_mm512_cvtepi16_epi8(_mm512_srli_epi16::<8>(a))),
                now!(_mm512_cvtepi16_epi8(_mm512_srli_epi16::<8>(b))),
            ),
        ]
    }

    /// All books of four weights are small.
    #[inline(always)]
    fn short_points<const N: usize>(self, _: &Fours<N>, found: __m512i, _: usize) -> __m512i {
        const { assert!(N <= Self::MOST_BY_DIGITS) };
        found
    }

    #[inline(always)]
    fn level(self, digits: __m512i, from: usize, by_digit: &[u8; 64], levels: u8) -> __m512i {
        let digits = now!(_mm512_srl_epi16(digits, _mm_cvtsi32_si128(from as i32)));
        if VBMI {
            // Bits above a digit do not matter, since levels are repeated.
            now!(_mm512_permutexvar_epi8(digits, self.of_array(by_digit)))
        } else {
            self.lookup(array(by_digit, 0), self.and(digits, levels - 1))
        }
    }

    #[inline(always)]
    fn interleave(self, [a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
        let (ab, ab2) = (now!(_mm512_unpacklo_epi8(a, b)), now!(_mm512_unpackhi_epi8(a, b)));
        let (cd, cd2) = (now!(_mm512_unpacklo_epi8(c, d)), now!(_mm512_unpackhi_epi8(c, d)));
        // Each holds 16 weights of every 64.
        let first = now!(_mm512_unpacklo_epi16(ab, cd));
        let second = now!(_mm512_unpackhi_epi16(ab, cd));
        let third = now!(_mm512_unpacklo_epi16(ab2, cd2));
        let fourth = now!(_mm512_unpackhi_epi16(ab2, cd2));
        let low = now!(_mm512_shuffle_i64x2::<0x44>(first, second)); // quarters 0, 1 of both
        let high = now!(_mm512_shuffle_i64x2::<0xee>(first, second));
        let low2 = now!(_mm512_shuffle_i64x2::<0x44>(third, fourth));
        let high2 = now!(_mm512_shuffle_i64x2::<0xee>(third, fourth));
        [
            now!(_mm512_shuffle_i64x2::<0x88>(low, low2)),
            now!(_mm512_shuffle_i64x2::<0xdd>(low, low2)),
            now!(_mm512_shuffle_i64x2::<0x88>(high, high2)),
            now!(_mm512_shuffle_i64x2::<0xdd>(high, high2)),
        ]
    }

    #[inline(always)]
    fn nibbles(self, bytes: &[u8; 8]) -> __m512 {
        self.to_floats(now!(_mm512_cvtepu8_epi32(nibbles_as_bytes(bytes))))
    }

    #[inline(always)]
    fn twice(self, x: __m512) -> __m512 {
        now!(_mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7), x))
    }
}

impl<const VBMI: bool> Wide<VBMI> {
    /// 32 bytes, each twice.
    #[inline(always)]
    fn each_twice(self, b: __m256i) -> __m512i {
        if VBMI {
            now!(_mm512_permutexvar_epi8(self.of_array(&EACH_TWICE), _mm512_castsi256_si512(b)))
        } else {
            self.low_bytes_as_signs(now!(_mm512_cvtepu8_epi16(b)))
        }
    }

    #[inline(always)]
    fn join_halves(self, a: __m256i, b: __m256i) -> __m512i {
        now!(_mm512_inserti64x4::<1>(_mm512_castsi256_si512(a), b))
    }
}
