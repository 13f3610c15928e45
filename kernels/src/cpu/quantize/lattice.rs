//! IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S: groups side by side, and candidates side by side where a point must be looked for.
//!
//! The steps are those of the reference (`formats/src/block/lattice.rs`). A group that needs nothing more, or is all zero,
//! goes along idly: no points are looked for in its lane.

use super::lanes::{Lanes, MOST_LANES, Mask};
use super::near::{Costs, Near};
use super::rows::{BLOCK, MOST, Piece, side_by_side};
use super::search::ALL_ZERO;
use qconv_formats::block::codebooks::{Again, Fitted, Group, Lattice, Start};
use qconv_formats::block::{iq2, iq3};
use std::sync::LazyLock;

/// A format's rule, and its codebook to search in.
pub(super) type Rule = LazyLock<(Lattice, Near)>;

pub(super) static IQ2_XXS: Rule = LazyLock::new(|| with_near(iq2::XXS));
pub(super) static IQ2_XS: Rule = LazyLock::new(|| with_near(iq2::XS));
pub(super) static IQ2_S: Rule = LazyLock::new(|| with_near(iq2::S));
pub(super) static IQ3_XXS: Rule = LazyLock::new(|| with_near(iq3::XXS));
pub(super) static IQ3_S: Rule = LazyLock::new(|| with_near(iq3::S));

fn with_near(rule: Lattice) -> (Lattice, Near) {
    let near = Near::new(rule.book);
    (rule, near)
}

/// Quantizes blocks with groups of `N` weights and points of `DIMS` digits of `BITS` bits.
#[inline(always)]
pub(super) fn lattice<F: Lanes, const N: usize, const DIMS: usize, const BITS: u32>(
    piece: &Piece<F>,
    out: &mut [u8],
    rule: &Rule,
) -> Option<()> {
    let (rule, near) = &**rule;
    let mut groups = [[Group::default(); 16]; MOST / BLOCK];
    let (mut weighting, mut magnitudes, mut roots) = ([0.0; MOST], [0.0; MOST], [0.0; MOST]);
    for (b, x) in piece.weights.chunks_exact(BLOCK).enumerate() {
        let at = b * BLOCK..(b + 1) * BLOCK;
        let w = rule.weighting(x, piece.importance.map(|i| &i[at.clone()]));
        for (i, ((x, w), m)) in
            x.chunks_exact(8).zip(w.chunks_exact(8)).zip(magnitudes[at.clone()].chunks_exact_mut(8)).enumerate()
        {
            groups[b][i * 8 / N].signs[i % (N / 8)] = rule.signs(x, w, m);
        }
        weighting[at].copy_from_slice(&w);
    }
    roots.iter_mut().zip(&weighting).for_each(|(r, w)| *r = w.sqrt());
    for part in 0..32 / N {
        let of = part * N * F::LANES..(part + 1) * N * F::LANES;
        let search: Search<F, N, DIMS, BITS> = Search {
            isa: piece.isa,
            rule,
            near,
            natural: (&magnitudes[of.clone()], &roots[of]),
            levels: levels::<F, BITS>(piece.isa),
            x: side_by_side(piece.isa, &magnitudes, part),
            w: side_by_side(piece.isa, &weighting, part),
        };
        let Some(found) = search.fit() else { continue };
        let (scale, points) = (found.scale.array(), found.points.map(|p| p.array()));
        for lane in (0..F::LANES).filter(|lane| found.coded >> lane & 1 == 1) {
            let g = part * F::LANES + lane;
            let group = &mut groups[g * N / BLOCK][g % (BLOCK / N)];
            group.coded = true;
            group.scale = scale[lane];
            for (index, point) in group.points.iter_mut().zip(&points[..N / DIMS]) {
                *index = near.index(point[lane]);
            }
            if group.scale < 0.0 {
                group.scale = -group.scale;
                let mask = if rule.even_signs { 127 } else { 255 };
                group.signs[..N / 8].iter_mut().for_each(|s| *s = !*s & mask);
            }
        }
    }
    for (groups, out) in groups.iter_mut().zip(out.chunks_exact_mut(piece.format.block_bytes)) {
        for group in groups.iter_mut().filter(|g| !g.coded) {
            *group = Group::default();
        }
        out.fill(0);
        (rule.pack)(&Fitted::new(*groups), out);
    }
    Some(())
}

/// What digits stand for: `2 * digit + 1`, again and again.
#[inline(always)]
fn levels<F: Lanes, const BITS: u32>(isa: F::Isa) -> F {
    let mut levels = [0.0; MOST_LANES];
    for (i, level) in levels.iter_mut().enumerate() {
        *level = (2 * (i % (1 << BITS)) + 1) as f32;
    }
    F::load(isa, &levels)
}

/// The search of as many groups as there are lanes.
struct Search<'a, F: Lanes, const N: usize, const DIMS: usize, const BITS: u32> {
    isa: F::Isa,
    rule: &'a Lattice,
    near: &'a Near,
    /// Magnitudes and roots of the weighting, group after group.
    natural: (&'a [f32], &'a [f32]),
    levels: F,
    /// Magnitudes.
    x: [F; N],
    /// Weighting.
    w: [F; N],
}

struct Found<F> {
    scale: F,
    /// Packed digits of each `DIMS` weights, as floats.
    points: [F; 8],
    /// Groups that are not all zero.
    coded: u32,
}

impl<F: Lanes, const N: usize, const DIMS: usize, const BITS: u32> Search<'_, F, N, DIMS, BITS> {
    const PARTS: usize = N / DIMS;

    /// `None` if no group is coded.
    #[inline(always)]
    fn fit(&self) -> Option<Found<F>> {
        let (isa, rule) = (self.isa, self.rule);
        let (zero, one) = (F::all(isa, 0.0), F::all(isa, 1.0));
        let most = (2 * rule.digits - 1) as f32;
        let mut high = self.x[0];
        for &v in &self.x[1..] {
            high = high.max(v);
        }
        let mut coded = !high.less(F::all(isa, rule.zero));
        let mut scale = high / F::all(isa, most);
        if rule.start == Start::LeastSquares {
            scale = self.positive((rule.digits + 1) as f32);
            high = scale * F::all(isa, rule.digits as f32);
            coded = coded & !zero.at_least(high);
        }
        let coded = coded.bits();
        if coded == 0 {
            return None;
        }
        let mut points = [zero; 8];
        let mut exact = [if rule.again == Again::Displaced { coded } else { 0 }; 8];
        let mut best = zero;
        for step in -rule.tries..=rule.tries {
            let inverse = F::all(isa, most + step as f32 * rule.step) / high;
            let this_scale = (one / inverse).array();
            let (mut here, mut exact_here) = ([zero; 8], [0; 8]);
            for k in 0..Self::PARTS {
                (here[k], exact_here[k]) = self.snap(k, coded, inverse, &this_scale);
            }
            let (qx, q2) = self.sums(&here);
            let better = q2.greater(zero) & (qx * qx).greater(best * q2);
            let this_scale = qx / q2;
            scale = this_scale.or_else(better, scale);
            best = (this_scale * qx).or_else(better, best);
            let bits = better.bits();
            for k in 0..Self::PARTS {
                points[k] = here[k].or_else(better, points[k]);
                exact[k] = exact_here[k] & bits | exact[k] & !bits;
            }
        }
        let displaced = exact[..Self::PARTS].iter().fold(0, |all, exact| all | !exact);
        let mut again = scale.greater(zero).bits() & coded;
        if rule.again != Again::All {
            again &= displaced;
        }
        if again != 0 {
            let inverse = one / scale;
            let this_scale = scale.array();
            for k in 0..Self::PARTS {
                let lanes = if rule.again == Again::Displaced { again & !exact[k] } else { again };
                if lanes != 0 {
                    let (here, _) = self.snap(k, lanes, inverse, &this_scale);
                    points[k] = here.or_else(F::mask(isa, lanes), points[k]);
                }
            }
            let (qx, q2) = self.sums(&points);
            scale = (qx / q2).or_else(q2.greater(zero) & F::mask(isa, again), scale);
        }
        Some(Found { scale, points, coded })
    }

    /// The points for the `k`-th `DIMS` weights of each group at a scale, as [`Near::points`].
    #[inline(always)]
    fn snap(&self, k: usize, lanes: u32, inverse: F, scale: &[f32; MOST_LANES]) -> (F, u32) {
        let all = |x: f32| F::all(self.isa, x);
        let (top, half) = (all((self.rule.digits - 1) as f32), all(0.5));
        let mut place = all(0.0);
        for i in 0..DIMS {
            let digit = (half * (inverse * self.x[k * DIMS + i] - all(1.0))).nearest_anyhow().min(top).max(all(0.0));
            place = place + digit * all((1u32 << (BITS as usize * i)) as f32);
        }
        let (weights, weighting) = self.natural;
        let base = &[0.0; MOST_LANES];
        let costs = Costs { scale, base, levels: self.levels, weights, weighting, group: N, first: k * DIMS };
        self.near.points::<F, DIMS, BITS>(self.isa, place, lanes, &costs)
    }

    /// Least squares for points: (sum of w x q, sum of w q^2).
    #[inline(always)]
    fn sums(&self, points: &[F; 8]) -> (F, F) {
        let (mut qx, mut q2) = (F::all(self.isa, 0.0), F::all(self.isa, 0.0));
        for k in 0..Self::PARTS {
            let mut digits = points[k].integers();
            for i in k * DIMS..(k + 1) * DIMS {
                let q = self.levels.at::<BITS>(digits);
                digits = F::without_low::<BITS>(digits);
                qx = qx + self.w[i] * self.x[i] * q;
                q2 = q2 + self.w[i] * q * q;
            }
        }
        (qx, q2)
    }

    /// Scale of `x ~ scale * code`, codes in `0 ..= top`, where `x` should not be negative: the reference's `positive`. Codes of
    /// negative numbers wrap in a byte at the same steps.
    #[inline(always)]
    fn positive(&self, top: f32) -> F {
        let (isa, x, w) = (self.isa, &self.x, &self.w);
        let (zero, one, top_code) = (F::all(isa, 0.0), F::all(isa, 1.0), F::all(isa, top));
        let mut high = zero;
        for &v in x {
            high = high.max(v);
        }
        let flat = high.less(F::all(isa, ALL_ZERO));
        let mut inverse = top_code / high;
        let scale = one / inverse;
        let mut best = zero;
        for i in 0..N {
            let difference = x[i] - scale * (inverse * x[i]).nearest_anyhow().low_byte();
            best = best + w[i] * difference * difference;
        }
        for step in (-4..=4).filter(|&s| s != 0) {
            let candidate = F::all(isa, 0.1 * step as f32 + top) / high;
            let scale = one / candidate;
            let mut error = zero;
            for i in 0..N {
                let difference = x[i] - scale * (candidate * x[i]).nearest_anyhow().min(top_code);
                error = error + w[i] * difference * difference;
            }
            let better = error.less(best);
            best = error.or_else(better, best);
            inverse = candidate.or_else(better, inverse);
        }
        let (mut lx, mut l2) = (zero, zero);
        let mut codes = [zero; N];
        for i in 0..N {
            let l = (inverse * x[i]).nearest_anyhow().min(top_code);
            codes[i] = l.low_byte();
            lx = lx + w[i] * x[i] * l;
            l2 = l2 + w[i] * l * l;
        }
        for _ in 0..5 {
            let mut changed = false;
            for i in 0..N {
                let (wx, old) = (w[i] * x[i], codes[i]);
                let without_lx = lx - wx * old;
                let without_l2 = l2 - w[i] * old * old;
                let new = (x[i] * without_l2 / without_lx).nearest_anyhow().min(top_code);
                let with_lx = without_lx + wx * new;
                let with_l2 = without_l2 + w[i] * new * new;
                let better = without_lx.greater(zero)
                    & without_l2.greater(zero)
                    & new.differs(old)
                    & (with_lx * with_lx * l2).greater(lx * lx * with_l2);
                codes[i] = new.low_byte().or_else(better, old);
                lx = with_lx.or_else(better, lx);
                l2 = with_l2.or_else(better, l2);
                changed |= better.any();
            }
            if !changed {
                break;
            }
        }
        (lx / l2).or_else(l2.greater(zero) & !flat, zero)
    }
}
