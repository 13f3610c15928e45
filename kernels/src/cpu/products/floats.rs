//! Dot products of floats, for weights that were dequantized.

use super::simd::{Kernel, Simd};
use crate::cpu::Isa;

/// Adds the products of a piece of a row with several tokens to `sums`; token `i` lies at `x[i * stride ..]`.
pub(in crate::cpu) fn dot_floats(isa: Isa, piece: &[f32], x: &[f32], stride: usize, sums: &mut [f32]) {
    super::run(isa, Dots { piece, x, stride, sums });
}

struct Dots<'a> {
    piece: &'a [f32],
    x: &'a [f32],
    stride: usize,
    sums: &'a mut [f32],
}

impl Kernel for Dots<'_> {
    #[inline(always)]
    fn run<V: Simd>(self, v: V) {
        let Dots { piece, x, stride, sums } = self;
        let mut from = x;
        let (fours, rest) = sums.as_chunks_mut::<4>();
        for sums in fours {
            dots::<V, 4>(v, piece, from, stride, sums);
            from = from.get(4 * stride..).unwrap_or(&[]);
        }
        for sum in rest.as_chunks_mut::<1>().0 {
            dots::<V, 1>(v, piece, from, stride, sum);
            from = from.get(stride..).unwrap_or(&[]);
        }
    }
}

#[inline(always)]
fn dots<V: Simd, const T: usize>(v: V, piece: &[f32], x: &[f32], stride: usize, out: &mut [f32; T]) {
    let mut tokens: [(&[[f32; 16]], &[f32]); T] = [(&[], &[]); T];
    for (t, token) in tokens.iter_mut().enumerate() {
        *token = x[t * stride..][..piece.len()].as_chunks();
    }
    let (chunks, rest) = piece.as_chunks::<16>();
    // Two sums for each token, or the additions would wait for each other.
    let mut sums = [[v.splat(0.0); 2]; T];
    for (i, chunk) in chunks.iter().enumerate() {
        let weights = v.floats(chunk);
        for t in 0..T {
            sums[t] = [sums[t][1], v.fma(weights, v.floats(&tokens[t].0[i]), sums[t][0])];
        }
    }
    for t in 0..T {
        let tail: f32 = rest.iter().zip(tokens[t].1).map(|(a, b)| a * b).sum();
        out[t] += v.sum(v.add_floats(sums[t][0], sums[t][1])) + tail;
    }
}
