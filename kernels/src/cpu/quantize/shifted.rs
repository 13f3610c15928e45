//! IQ1_S and IQ1_M: groups side by side through all splits of the sorted weights.
//!
//! The reference's sorting (`formats/src/block/iq1.rs`) becomes counting: a weight's rank is how many go before it.

use super::lanes::{Lanes, MOST_LANES, Mask};
use super::near::{Costs, Near};
use super::rows::{BLOCK, MOST, Piece, side_by_side};
use qconv_formats::block::codebooks::BLOCK as CODES;
use qconv_formats::block::iq1::{self, DOWN, Shifted, UP};
use std::sync::LazyLock;

static NEAR: LazyLock<Near> = LazyLock::new(|| Near::new(&iq1::BOOK));

/// Rank of each weight in its lane's ascending order, equal ones in their order.
#[inline(always)]
fn ranks<F: Lanes, const N: usize>(isa: F::Isa, x: &[F; N]) -> [F; N] {
    let (zero, one) = (F::all(isa, 0.0), F::all(isa, 1.0));
    let mut ranks = [zero; N];
    for i in 0..N {
        let mut rank = ranks[i] + F::all(isa, i as f32);
        for j in i + 1..N {
            let before = one.or_else(x[j].less(x[i]), zero);
            rank = rank + before;
            ranks[j] = ranks[j] - before;
        }
        ranks[i] = rank;
    }
    ranks
}

/// Sums of the first weights of each lane's order: entry `n` is the sum of the terms of ranks below `n`, in their order.
#[inline(always)]
fn sums<F: Lanes, const N: usize, const SUMS: usize>(isa: F::Isa, ranks: &[F; N], terms: &[F; N]) -> [F; SUMS] {
    let mut sorted = [[0.0; MOST_LANES]; N];
    for (rank, term) in ranks.iter().zip(terms) {
        let (rank, term) = (F::integer_array(rank.integers()), term.array());
        for lane in 0..F::LANES {
            sorted[rank[lane] as usize % N][lane] = term[lane];
        }
    }
    let mut sums = [F::all(isa, 0.0); SUMS];
    for n in 0..N {
        sums[n + 1] = sums[n] + F::load(isa, &sorted[n]);
    }
    sums
}

/// The best split of each lane's order into three runs.
struct Split<F: Lanes> {
    /// Rank of the first weight of the second run.
    first: F,
    /// Rank of the first weight of the third run.
    second: F,
    /// Which runs' levels are shifted down, as [`Shifted::shifts`].
    shifts: F,
    scale: F,
    best: F,
    found: u32,
}

impl<F: Lanes> Split<F> {
    #[inline(always)]
    fn new(isa: F::Isa) -> Split<F> {
        let zero = F::all(isa, 0.0);
        Split { first: zero, second: zero, shifts: zero, scale: zero, best: F::all(isa, -f32::MAX), found: 0 }
    }

    /// Takes this split where it is better than those before.
    #[inline(always)]
    fn try_this(&mut self, isa: F::Isa, [first, second, shifts]: [usize; 3], qx: F, q2: F) {
        let better = q2.greater(F::all(isa, 0.0)) & (qx * qx).greater(self.best * q2);
        let bits = better.bits();
        if bits != 0 {
            let scale = qx / q2;
            self.scale = scale.or_else(better, self.scale);
            self.best = (scale * qx).or_else(better, self.best);
            self.first = F::all(isa, first as f32).or_else(better, self.first);
            self.second = F::all(isa, second as f32).or_else(better, self.second);
            self.shifts = F::all(isa, shifts as f32).or_else(better, self.shifts);
            self.found |= bits;
        }
    }

    /// Of 32 weights that are shifted together.
    #[inline(always)]
    fn whole(isa: F::Isa, x: &[F; 33], w: &[F; 33]) -> Split<F> {
        let all = |x: f32| F::all(isa, x);
        let levels = [UP, DOWN].map(|v| v.map(all));
        // What the third run gives, by where it begins.
        let (mut last_x, mut last_w) = ([*x, *x], [*w, *w]);
        for (shift, v) in levels.iter().enumerate() {
            for second in 0..=32 {
                last_x[shift][second] = (x[32] - x[second]) * v[2];
                last_w[shift][second] = (w[32] - w[second]) * v[2] * v[2];
            }
        }
        let mut split = Split::new(isa);
        for first in 0..=32 {
            let (mut first_x, mut first_w) = ([x[0]; 2], [w[0]; 2]);
            for (s, v) in levels.iter().enumerate() {
                first_x[s] = (x[first] - x[0]) * v[0];
                first_w[s] = (w[first] - w[0]) * v[0] * v[0];
            }
            for second in first..=32 {
                let (middle_x, middle_w) = (x[second] - x[first], w[second] - w[first]);
                for (s, v) in levels.iter().enumerate() {
                    let qx = first_x[s] + middle_x * v[1] + last_x[s][second];
                    let q2 = first_w[s] + middle_w * v[1] * v[1] + last_w[s][second];
                    split.try_this(isa, [first, second, s], qx, q2);
                }
            }
        }
        split
    }

    /// Of 16 weights whose halves are shifted apart; sums are of the halves' weights alone.
    #[inline(always)]
    fn in_halves(isa: F::Isa, x: &[[F; 17]; 2], w: &[[F; 17]; 2]) -> Split<F> {
        let all = |x: f32| F::all(isa, x);
        let steps = |v: &[f32; 3]| [v[0] * v[0] - v[1] * v[1], v[1] * v[1] - v[2] * v[2]];
        let sides = [UP, DOWN].map(|v| (all(v[2]), steps(&v).map(all)));
        let mut split = Split::new(isa);
        for first in 0..=16 {
            for second in first..=16 {
                let (mut qx, mut q2) = ([[all(0.0); 2]; 2], [[all(0.0); 2]; 2]); // (half, down)
                for half in 0..2 {
                    let (x, w) = (&x[half], &w[half]);
                    let before = x[first] + x[second];
                    for (down, (top, [step1, step2])) in sides.iter().enumerate() {
                        qx[half][down] = x[16] * *top - before;
                        q2[half][down] = w[16] * *top * *top + w[first] * *step1 + w[second] * *step2;
                    }
                }
                for shifts in 0..4 {
                    let (down0, down1) = (shifts >> 1, shifts & 1);
                    split.try_this(
                        isa,
                        [first, second, shifts],
                        qx[0][down0] + qx[1][down1],
                        q2[0][down0] + q2[1][down1],
                    );
                }
            }
        }
        split
    }
}

/// The search of as many groups of `N` weights as there are lanes.
struct Search<'a, F: Lanes, const N: usize> {
    isa: F::Isa,
    near: &'a Near,
    /// Weights and weighting, group after group.
    natural: (&'a [f32], &'a [f32]),
    x: [F; N],
    w: [F; N],
}

impl<F: Lanes, const N: usize> Search<'_, F, N> {
    /// Groups with a weight from `zero` on.
    #[inline(always)]
    fn coded(&self, zero: f32) -> u32 {
        let mut high = F::all(self.isa, 0.0);
        for &v in &self.x {
            high = high.max(v.abs());
        }
        (!high.less(F::all(self.isa, zero))).bits()
    }

    /// Points for the digits of a split, and the scale refitted to them where some had to move. `down(shifts, k)` tells which way
    /// the `k`-th eight are shifted; `turned` is what shifts become where the scale's sign turns.
    #[inline(always)]
    fn finish(
        &self,
        coded: u32,
        ranks: &[F; N],
        split: Split<F>,
        turned: u8,
        down: impl Fn(u8, usize) -> bool,
        groups: &mut [Shifted],
    ) {
        let all = |x: f32| F::all(self.isa, x);
        let (zero, one, two) = (all(0.0), all(1.0), all(2.0));
        let coded = coded & split.found;
        let negative = split.scale.less(zero);
        let mut scale = split.scale.negate().or_else(negative, split.scale);
        let shifts = (all(turned.into()) - split.shifts).or_else(negative, split.shifts).array().map(|s| s as u8);
        // A digit stands for itself and this.
        let mut base = [[0.0; MOST_LANES]; 4];
        for (k, base) in base[..N / 8].iter_mut().enumerate() {
            for (base, &shifts) in base.iter_mut().zip(&shifts) {
                *base = if down(shifts, k) { DOWN[0] } else { UP[0] };
            }
        }
        let mut lanes = [0.0; MOST_LANES];
        lanes.iter_mut().enumerate().for_each(|(i, l)| *l = (i % 4) as f32);
        let digits = F::load(self.isa, &lanes);

        let scales = scale.array();
        let (mut points, mut all_exact) = ([zero; 4], coded);
        for k in 0..N / 8 {
            let mut place = zero;
            for i in 0..8 {
                let rank = ranks[8 * k + i];
                let third = two.or_else(rank.at_least(split.second), one);
                let digit = zero.or_else(rank.less(split.first), third);
                let digit = (two - digit).or_else(negative, digit);
                place = place + digit * all((1u32 << (2 * i)) as f32);
            }
            let exact;
            let (weights, weighting) = self.natural;
            let (scale, base) = (&scales, &base[k]);
            let costs = Costs { scale, base, levels: digits, weights, weighting, group: N, first: 8 * k };
            (points[k], exact) = self.near.points::<F, 8, 2>(self.isa, place, coded, &costs);
            all_exact &= exact;
        }
        if all_exact != coded {
            let (mut qx, mut q2) = (zero, zero);
            for k in 0..N / 8 {
                let (mut digits, base) = (points[k].integers(), F::load(self.isa, &base[k]));
                for i in 8 * k..8 * k + 8 {
                    let q = F::low::<2>(digits) + base;
                    digits = F::without_low::<2>(digits);
                    qx = qx + self.w[i] * q * self.x[i];
                    q2 = q2 + self.w[i] * q * q;
                }
            }
            let fitted = qx.greater(zero) & q2.greater(zero) & F::mask(self.isa, !all_exact);
            scale = (qx / q2).or_else(fitted, scale);
        }
        let (scales, points) = (scale.array(), points.map(|p| p.array()));
        for (lane, group) in groups.iter_mut().enumerate().filter(|(lane, _)| coded >> lane & 1 == 1) {
            group.coded = true;
            group.scale = scales[lane];
            group.shifts = shifts[lane];
            for (index, point) in group.points.iter_mut().zip(&points[..N / 8]) {
                *index = self.near.index(point[lane]);
            }
        }
    }
}

/// The weighting of all blocks of a piece.
#[inline(always)]
fn weighting<F: Lanes>(
    piece: &Piece<F>,
    of: impl Fn(&[f32], Option<&[f32]>) -> [f32; CODES],
) -> [[f32; CODES]; MOST / BLOCK] {
    let mut all = [[0.0; CODES]; MOST / BLOCK];
    for (b, (w, x)) in all.iter_mut().zip(piece.weights.chunks_exact(BLOCK)).enumerate() {
        *w = of(x, piece.importance.map(|i| &i[b * BLOCK..][..BLOCK]));
    }
    all
}

/// IQ1_S: groups of 32.
#[inline(always)]
pub(super) fn iq1_s<F: Lanes>(piece: &Piece<F>, out: &mut [u8]) -> Option<()> {
    let (isa, near) = (piece.isa, &*NEAR);
    let weighting = weighting(piece, iq1::weighting_s);
    let w = weighting.as_flattened();
    let natural = (piece.weights, w);
    let search: Search<F, 32> = Search { isa, near, natural, x: piece.groups(0), w: side_by_side(isa, w, 0) };
    let mut groups = [Shifted::default(); MOST / 32];
    let coded = search.coded(iq1::ZERO_S);
    if coded != 0 {
        let ranks = ranks(isa, &search.x);
        let mut wx = search.w;
        for i in 0..32 {
            wx[i] = search.w[i] * search.x[i];
        }
        let split = Split::whole(isa, &sums(isa, &ranks, &wx), &sums(isa, &ranks, &search.w));
        search.finish(coded, &ranks, split, 1, |shifts, _| shifts == 1, &mut groups[..F::LANES]);
    }
    for (groups, out) in groups.chunks_exact(8).zip(out.chunks_exact_mut(piece.format.block_bytes)) {
        iq1::pack_s(groups, out);
    }
    Some(())
}

/// IQ1_M: groups of 16, shifts for each 8.
#[inline(always)]
pub(super) fn iq1_m<F: Lanes>(piece: &Piece<F>, out: &mut [u8]) -> Option<()> {
    let (isa, near) = (piece.isa, &*NEAR);
    let weighting = weighting(piece, iq1::weighting_m);
    let w = weighting.as_flattened();
    let mut groups = [Shifted::default(); MOST / 16];
    for part in 0..2 {
        let of = part * 16 * F::LANES..(part + 1) * 16 * F::LANES;
        let natural = (&piece.weights[of.clone()], &w[of]);
        let search: Search<F, 16> = Search { isa, near, natural, x: piece.groups(part), w: side_by_side(isa, w, part) };
        let coded = search.coded(iq1::ZERO_M);
        if coded == 0 {
            continue;
        }
        let ranks = ranks(isa, &search.x);
        let zero = F::all(isa, 0.0);
        let (mut wx, mut w) = ([[zero; 16]; 2], [[zero; 16]; 2]); // (half, weight): zero in the other half
        for i in 0..16 {
            wx[i / 8][i] = search.w[i] * search.x[i];
            w[i / 8][i] = search.w[i];
        }
        let x = [sums(isa, &ranks, &wx[0]), sums(isa, &ranks, &wx[1])];
        let w = [sums(isa, &ranks, &w[0]), sums(isa, &ranks, &w[1])];
        let split = Split::in_halves(isa, &x, &w);
        let down = |shifts: u8, k: usize| shifts >> (1 - k) & 1 == 1;
        search.finish(coded, &ranks, split, 3, down, &mut groups[part * F::LANES..][..F::LANES]);
    }
    let blocks = piece.weights.chunks_exact(BLOCK).zip(&weighting).zip(groups.chunks_exact(16));
    for (((x, w), groups), out) in blocks.zip(out.chunks_exact_mut(piece.format.block_bytes)) {
        iq1::pack_m(x, w, groups, out);
    }
    Some(())
}
