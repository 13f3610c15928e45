//! How many multiply-adds of small integers the dot product of an instruction set does: the bound of prompts.

use super::simd::{Kernel, Simd};
use std::hint::black_box;

/// Multiply-adds of a round.
pub(in crate::cpu) const ROUND: usize = SUMS * 64;

/// Sums that do not wait for each other: more than a dot product takes cycles.
const SUMS: usize = 12;

/// So many rounds of nothing but dot products.
pub(super) struct Dots {
    pub(super) rounds: usize,
}

impl Kernel for Dots {
    #[inline(always)]
    fn run<V: Simd>(self, v: V) {
        let (codes, x) = (black_box([0x0705_0301_0604_0200; 8]), black_box([0x0102_fefd_0403_fcfe; 8]));
        let (codes, x) = (v.words(codes), v.words(x));
        let mut sums = [v.start_group(false, 32, 0); SUMS];
        for _ in 0..self.rounds {
            for sum in &mut sums {
                *sum = v.dot(false, *sum, codes, x);
            }
        }
        for sum in sums {
            let mut out = [0; 16];
            v.store_ints(sum, &mut out);
            black_box(out);
        }
    }
}
