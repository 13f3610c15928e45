//! Vectors of floats: each algorithm is written once, over [`Simd`], and compiled once for each instruction set.
//!
//! An implementation of [`Simd`] is a proof that the CPU has the instructions. [`Op`] is a piece of work that is generic
//! over it; [`dispatch`] runs it inside a function compiled for the instruction set. Everything on the way down must be
//! `#[inline(always)]`: code that stays outside of that function is correct but slow.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(super) mod math;
mod scalar;

use super::isa::Isa;
#[cfg(target_arch = "x86_64")]
use super::isa::{Avx2, Avx512, Avx512Bf16};
pub(super) use scalar::Scalar;

/// Most lanes of any instruction set: [`Simd::LANES`] divides it.
pub(super) const MOST_LANES: usize = 16;

/// Vectors of [`Simd::LANES`] floats. Arithmetic is IEEE's in every lane; `fma` is fused where the CPU can, so that the
/// last bits differ between instruction sets.
pub(super) trait Simd: Copy + Send + Sync + 'static {
    /// A vector.
    type V: Copy;

    /// Floats in a vector: 8 or 16.
    const LANES: usize;

    /// Rows of a register tile that is two vectors wide (see `tile`): as many as leave registers for the operands.
    const ROWS: usize;

    /// The same number in all lanes.
    fn splat(self, x: f32) -> Self::V;

    /// Loads [`Simd::LANES`] neighbouring floats.
    ///
    /// # Safety
    /// So many can be read there.
    unsafe fn load(self, from: *const f32) -> Self::V;

    /// Loads halves.
    ///
    /// # Safety
    /// As [`Simd::load`].
    unsafe fn load_f16(self, from: *const u16) -> Self::V;

    /// Loads brain floats.
    ///
    /// # Safety
    /// As [`Simd::load`].
    unsafe fn load_bf16(self, from: *const u16) -> Self::V;

    /// Loads small integers.
    ///
    /// # Safety
    /// As [`Simd::load`].
    unsafe fn load_i8(self, from: *const i8) -> Self::V;

    /// Stores.
    ///
    /// # Safety
    /// [`Simd::LANES`] floats can be written there.
    unsafe fn store(self, to: *mut f32, v: Self::V);

    /// Stores halves, rounded to nearest, ties to even.
    ///
    /// # Safety
    /// As [`Simd::store`].
    unsafe fn store_f16(self, to: *mut u16, v: Self::V);

    /// `a + b`
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// The larger; `b` where one is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; `b` where one is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `c - a * b`
    fn fnma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// To the nearest whole number, ties to even.
    fn round(self, v: Self::V) -> Self::V;
    /// `v * 2^n` for whole `n` between -250 and 250; right also where `2^n` is no f32.
    fn times_power_of_two(self, v: Self::V, n: Self::V) -> Self::V;
    /// `(1, 0, 3, 2, ...)`
    fn swap_pairs(self, v: Self::V) -> Self::V;
    /// Sum of all lanes.
    fn sum(self, v: Self::V) -> f32;
    /// The largest lane; not defined where one is NaN.
    fn largest(self, v: Self::V) -> f32;

    /// Writes the transpose of a square of [`Simd::LANES`] rows of as many 32-bit numbers, whatever they mean. Strides
    /// between rows are in numbers.
    ///
    /// # Safety
    /// All rows can be read and written, and do not overlap.
    unsafe fn transpose(self, from: *const f32, stride: usize, to: *mut f32, to_stride: usize);

    /// Asks for a cache line that will be read soon. Any address is allowed.
    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        let _ = at;
    }

    /// Zeros.
    #[inline(always)]
    fn zero(self) -> Self::V {
        self.splat(0.0)
    }

    /// The first `n` of [`Simd::LANES`] floats, zeros behind.
    ///
    /// # Safety
    /// `n` floats can be read there.
    #[inline(always)]
    unsafe fn load_part(self, from: *const f32, n: usize) -> Self::V {
        let mut lanes = [0.0; MOST_LANES];
        let n = n.min(Self::LANES);
        // SAFETY: `n` floats are there by the caller's promise and here by `min`.
        unsafe {
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), n);
            self.load(lanes.as_ptr())
        }
    }

    /// Stores the first `n` lanes.
    ///
    /// # Safety
    /// `n` floats can be written there.
    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, v: Self::V, n: usize) {
        let mut lanes = [0.0; MOST_LANES];
        // SAFETY: the array has room for all lanes, and `n` floats fit there by the caller's promise.
        unsafe {
            self.store(lanes.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, n.min(Self::LANES));
        }
    }
}

/// Work that is generic over the instruction set.
pub(super) trait Op {
    /// What comes out.
    type Out;

    /// Does it; implementations are `#[inline(always)]`.
    fn run<S: Simd>(self, simd: S) -> Self::Out;
}

/// Runs an operation with an instruction set, or with the best one below it that this CPU has.
#[inline]
pub(super) fn dispatch<O: Op>(isa: Isa, op: O) -> O::Out {
    #[cfg(target_arch = "x86_64")]
    {
        if isa >= Isa::Avx512
            && let Some(proof) = Avx512::new()
        {
            // SAFETY: there is a proof of every feature named there.
            return unsafe { avx512(proof, op) };
        }
        if isa >= Isa::Avx2
            && let Some(proof) = Avx2::new()
        {
            // SAFETY: as above.
            return unsafe { avx2(proof, op) };
        }
    }
    let _ = isa;
    op.run(Scalar)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn avx2<O: Op>(proof: Avx2, op: O) -> O::Out {
    op.run(proof)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
fn avx512<O: Op>(proof: Avx512, op: O) -> O::Out {
    op.run(proof)
}

/// Work that needs the BF16 dot product; its `run` is `#[inline(always)]` as well.
#[cfg(target_arch = "x86_64")]
pub(super) trait Bf16Op {
    /// Does it.
    fn run(self, simd: Avx512, bf16: Avx512Bf16);
}

/// Runs such work.
#[cfg(target_arch = "x86_64")]
pub(super) fn dispatch_bf16<O: Bf16Op>(simd: Avx512, bf16: Avx512Bf16, op: O) {
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    fn compiled<O: Bf16Op>(simd: Avx512, bf16: Avx512Bf16, op: O) {
        op.run(simd, bf16)
    }
    // SAFETY: there are proofs of every feature.
    unsafe { compiled(simd, bf16, op) }
}
