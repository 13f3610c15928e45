//! [`Simd`] with AVX-512: one register, and a dot product of unsigned with signed bytes in one instruction (VNNI).

use super::simd::{Kernel, Registers, Simd};
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
mod bytes;
mod floats;
mod permutes;
mod sums;

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
    fn tile<const GROUP: usize, const PLUS: bool, const BITS: u32>(self, tile: &Tile, work: Work<'_>) {
        // 12 integer and 12 float sums, 2 registers of codes.
        many::<Self, GROUP, PLUS, BITS, 2, 6>(self, tile, work);
    }

    #[inline(always)]
    fn transpose(self, from: &[[u32; 16]; 16], to: &mut [[u32; 32]], places: [usize; 4], half: usize) {
        // Four rounds of interleaving: numbers, pairs, quarters, halves.
        let mut a = [now!(_mm512_setzero_si512()); 16];
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
                if let Some(to) = to.get_mut(places[at / 4] + at % 4) {
                    let to = &mut to.as_chunks_mut::<16>().0[half];
                    now!(_mm512_storeu_si512(to.as_mut_ptr().cast(), column));
                }
            }
        }
    }
}
