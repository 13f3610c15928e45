//! Plain loops, compiled for the instruction sets that a CPU has.

use super::isa::Isa;
use super::simd::{Op, Simd, dispatch};

/// Work written in plain Rust that compilers turn into vectors by themselves. Every operation rounds as it stands there (nothing is
/// fused), so that results do not depend on the instruction set, only the time does.
pub trait Work {
    /// What comes out.
    type Out;

    /// Does it. `#[inline(always)]`, and so is all on the way down that has to be fast: what stays a call of its own is compiled
    /// for the slowest CPU.
    fn run(self) -> Self::Out;
}

/// Does some work with an instruction set, or with the best one below it that this CPU has.
#[inline]
pub fn compiled<W: Work>(isa: Isa, work: W) -> W::Out {
    dispatch(isa, Wrapped(work))
}

struct Wrapped<W>(W);

impl<W: Work> Op for Wrapped<W> {
    type Out = W::Out;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> W::Out {
        self.0.run()
    }
}
