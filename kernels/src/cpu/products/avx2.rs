//! [`Simd`] with AVX2: pairs of registers. Dot products of bytes go through 16-bit sums of two, which hold what codes
//! below 128 give; eight-bit codes give their sign to the activation first. AVX-VNNI has them in one instruction, for codes
//! of eight bits as well.

use super::simd::{Kernel, Registers, Simd};
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

#[inline(always)]
fn halves_of<T>(x: &[T; 16]) -> (&[T; 8], &[T; 8]) {
    let (a, b) = x.split_at(8);
    (a.first_chunk().expect("eight of sixteen"), b.first_chunk().expect("eight of sixteen"))
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
mod bytes;
mod floats;
mod sums;
pub(super) use books::{Numbers, four_points, nibbles_as_bytes};

impl<const VNNI: bool> Registers for Pairs<VNNI> {
    type Bytes = Two;
    type Ints = Two;
    type Floats = TwoFloats;
    /// A scale for all lanes is one load from memory, and two shuffles from a register. (Where the array is moved, the compiler stores its floats one by one.)
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
    fn tile<const GROUP: usize, const PLUS: bool, const BITS: u32>(self, tile: &Tile, work: Work<'_>) {
        // 8 integer sums stay in registers; the 8 float sums are needed once in a group.
        many::<Self, GROUP, PLUS, BITS, 1, 4>(self, tile, work);
    }

    #[inline(always)]
    fn transpose(self, from: &[[u32; 16]; 16], to: &mut [[u32; 32]], places: [usize; 4], half: usize) {
        // Four by four; the stores are what it costs.
        for r in (0..16).step_by(4) {
            for (j, place) in (0..16).step_by(4).zip(places) {
                let Some(to) = to.get_mut(place..place + 4) else { continue };
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
                for (to, column) in to.iter_mut().zip(columns) {
                    let to: &mut [u32; 4] = to[16 * half + r..].first_chunk_mut().expect("four of thirty-two");
                    now!(_mm_storeu_ps(to.as_mut_ptr().cast(), column));
                }
            }
        }
    }
}
