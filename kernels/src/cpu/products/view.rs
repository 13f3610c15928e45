//! What a product of few tokens reads of its activations, in its format's order, and nothing else: they are read again for every row. (With
//! all that any format needs side by side, 1472 bytes for 256 activations instead of 384, rows of 8192 weights in the cache took 3 to 12%
//! longer with AVX-512.)
//!
//! Each thread makes its own, which costs as much as a row or two.

use super::order::Order;
use super::panel::{UNIT, Unit};
use super::simd::Lines;

/// Two units of one token.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(super) struct Pair {
    /// Both units' activations.
    pub(super) q: [[u8; UNIT]; 2],
    /// Scales of 16 groups of 16 in each unit, or of eight groups of 32 in both, one after the other.
    pub(super) scale: [[f32; 16]; 2],
    /// The same of what formats add to all weights of a group: `scale` times the sum of `q`.
    pub(super) sum: [[f32; 16]; 2],
}

/// For codes that stand for `code - 128`: minus 128 times the activations that each lane adds up, `(unit, sums)`; sums of parts
/// [together](Order::together) are one.
pub(super) type Minus = Lines<[[[i32; 16]; 4]; 2]>;

/// The same for products that take the magnitudes of activations and give the signs to the codes, `(unit, activation)`.
pub(super) type Magnitudes = Lines<[[u8; UNIT]; 2]>;

/// What a format reads.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    pub(super) order: Order,
    /// Weights that share a scale here: 16 or 32.
    pub(super) scales: usize,
    /// The same of sums.
    pub(super) sums: usize,
    /// Whether there is a [`Minus`].
    pub(super) minus: bool,
    /// Whether there are [`Magnitudes`].
    pub(super) magnitudes: bool,
}

/// The activations of a product, `(pairs of units, tokens)`.
#[derive(Default)]
pub(in crate::cpu) struct View {
    pub(super) pairs: Vec<Pair>,
    /// Empty where the format needs none.
    pub(super) minus: Vec<Minus>,
    /// The same.
    pub(super) magnitudes: Vec<Magnitudes>,
}

impl View {
    /// From `(units, tokens)`, an even number of units.
    pub(super) fn fill(&mut self, units: &[Unit], tokens: usize, kind: Kind) {
        self.pairs.clear();
        self.minus.clear();
        self.magnitudes.clear();
        for pair in units.chunks_exact(2 * tokens) {
            for (a, b) in pair[..tokens].iter().zip(&pair[tokens..]) {
                self.pairs.push(Pair {
                    q: [a, b].map(|unit| match kind.order {
                        Order::Fourths => unit.more,
                        order => ordered(&unit.q, order),
                    }),
                    scale: by_groups(kind.scales, [&a.scale, &b.scale], [&a.scale16, &b.scale16]),
                    sum: by_groups(kind.sums, [&a.sum, &b.sum], [&a.sum16, &b.sum16]),
                });
                if kind.minus {
                    self.minus.push(Lines([minus(a, kind.order), minus(b, kind.order)]));
                }
                if kind.magnitudes {
                    self.magnitudes.push(Lines([ordered(&a.more, kind.order), ordered(&b.more, kind.order)]));
                }
            }
        }
    }
}

fn ordered(q: &[u8; UNIT], order: Order) -> [u8; UNIT] {
    if order == Order::Neighbours {
        return *q;
    }
    let (pieces, mut out) = (q.as_chunks::<16>().0, [0; UNIT]);
    for (i, to) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        *to = pieces[order.piece(i / 4, i % 4)];
    }
    out
}

fn by_groups(group: usize, [a, b]: [&[f32; 8]; 2], by_16: [&[f32; 16]; 2]) -> [[f32; 16]; 2] {
    if group == 16 {
        return [*by_16[0], *by_16[1]];
    }
    let mut both = [0.0; 16];
    both[..8].copy_from_slice(a);
    both[8..].copy_from_slice(b);
    [both, [0.0; 16]]
}

fn minus(unit: &Unit, order: Order) -> [[i32; 16]; 4] {
    let (fours, mut out) = (unit.minus_fours.as_chunks::<4>().0, [[0; 16]; 4]);
    for part in 0..4 {
        let out = out[part / order.together()].as_chunks_mut::<4>().0;
        for (quarter, out) in out.iter_mut().enumerate() {
            for (out, four) in out.iter_mut().zip(&fours[order.piece(part, quarter)]) {
                *out += 128 * four;
            }
        }
    }
    out
}
