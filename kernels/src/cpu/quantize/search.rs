//! The searches for scales and minimums, groups of weights side by side.
//!
//! `x[i]` holds element `i` of as many groups, one per lane; every lane goes through the additions of the scalar reference
//! (`formats/src/block/search.rs`) in its order, so that each rounding falls the same way. Branches became masks.
//!
//! Codes are floats here: integers below 2^22 are exact. Where a position on the grid could leave that range a search
//! gives up (`None`), and its caller takes the scalar path.

use super::lanes::{Lanes, Mask, Table};

/// Below this magnitude a group counts as all zero.
pub(super) const ALL_ZERO: f32 = 1e-15;
/// Positions up to here are rounded right by [`Lanes::nearest`].
const SAFE: f32 = 4e6;

/// The first weight of largest magnitude in each lane, with its sign; 0 if there is none above 0.
#[inline(always)]
pub(super) fn extreme<F: Lanes, const N: usize>(isa: F::Isa, x: &[F; N]) -> F {
    let mut magnitude = F::all(isa, 0.0);
    let mut signed = magnitude;
    for &v in x {
        let larger = v.abs().greater(magnitude);
        magnitude = v.abs().or_else(larger, magnitude);
        signed = v.or_else(larger, signed);
    }
    signed
}

/// Sum in each lane, in the elements' order, from zero.
#[inline(always)]
pub(super) fn sum<F: Lanes, const N: usize>(isa: F::Isa, x: &[F; N]) -> F {
    let mut sum = F::all(isa, 0.0);
    for &v in x {
        sum = sum + v;
    }
    sum
}

/// What the symmetric searches find.
pub(super) struct Symmetric<F: Lanes> {
    /// Least-squares scale.
    pub(super) scale: F,
    /// Codes are `nearest(inverse * x)`, clamped, plus half; see `flat`.
    pub(super) inverse: F,
    /// All (nearly) zero: all codes are 0.
    pub(super) flat: F::Mask,
}

/// `x ~ scale * (code - half)`, codes in `0 .. 2 * half`: 19 candidates.
#[inline(always)]
pub(super) fn symmetric<F: Lanes, const N: usize>(isa: F::Isa, x: &[F; N], w: &[F; N], half: f32) -> Symmetric<F> {
    let zero = F::all(isa, 0.0);
    let extreme = extreme(isa, x);
    let flat = extreme.abs().less(F::all(isa, ALL_ZERO));
    let (lowest, highest) = (F::all(isa, -half), F::all(isa, half - 1.0));
    let mut wx = [zero; N];
    for i in 0..N {
        wx[i] = w[i] * x[i];
    }
    let mut found = Symmetric { scale: zero, inverse: zero, flat };
    let mut best = zero;
    for step in std::iter::once(0).chain((-9..=9).filter(|&s| s != 0)) {
        let factor = if step == 0 { -half } else { -(half + 0.1 * step as f32) };
        let inverse = zero.or_else(flat, F::all(isa, factor) / extreme);
        let (mut lx, mut l2) = (zero, zero);
        for i in 0..N {
            let l = (inverse * x[i]).nearest().min(highest).max(lowest);
            lx = lx + wx[i] * l;
            l2 = l2 + w[i] * l * l;
        }
        if step == 0 {
            found.inverse = inverse;
            found.scale = (lx / l2).or_else(l2.differs(zero), zero);
            best = found.scale * lx;
        } else {
            let better = l2.greater(zero) & (lx * lx).greater(best * l2);
            let scale = lx / l2;
            found.inverse = inverse.or_else(better, found.inverse);
            found.scale = scale.or_else(better, found.scale);
            best = (scale * lx).or_else(better, best);
        }
    }
    found.scale = zero.or_else(flat, found.scale);
    found
}

/// As [`symmetric`] with weights `x^2`, improving one code after the other; 16 weights, `half` 4. Also returns the codes.
///
/// Each step waits for the last, through a division: so two sets of groups go through them together.
#[inline(always)]
pub(super) fn symmetric_by_descent<F: Lanes>(isa: F::Isa, x: &[[F; 16]; 2]) -> ([F; 2], [[F; 16]; 2]) {
    let zero = F::all(isa, 0.0);
    let (lowest, highest) = (F::all(isa, -4.0), F::all(isa, 3.0));
    let mut levels = [[zero; 16]; 2];
    let (mut lx, mut l2) = ([zero; 2], [zero; 2]);
    let (mut flat, mut inverse) = ([zero.differs(zero); 2], [zero; 2]);
    for c in 0..2 {
        let extreme = extreme(isa, &x[c]);
        flat[c] = extreme.abs().less(F::all(isa, ALL_ZERO));
        inverse[c] = zero.or_else(flat[c], lowest / extreme);
    }
    for i in 0..16 {
        for c in 0..2 {
            let v = x[c][i];
            let l = (inverse[c] * v).nearest().min(highest).max(lowest);
            let w = v * v;
            levels[c][i] = l;
            lx[c] = lx[c] + w * v * l;
            l2[c] = l2[c] + w * l * l;
        }
    }
    // A lane that no longer changes stays as it is in further rounds.
    for _ in 0..5 {
        let mut changed = false;
        for i in 0..16 {
            for c in 0..2 {
                let (v, old) = (x[c][i], levels[c][i]);
                let w = v * v;
                let without_lx = lx[c] - w * v * old;
                let without_l2 = l2[c] - w * old * old;
                let new = (v * without_l2 / without_lx).nearest_anyhow().min(highest).max(lowest);
                let with_lx = without_lx + w * v * new;
                let with_l2 = without_l2 + w * new * new;
                let better = without_lx.greater(zero)
                    & new.differs(old)
                    & with_l2.greater(zero)
                    & (with_lx * with_lx * l2[c]).greater(lx[c] * lx[c] * with_l2);
                levels[c][i] = new.or_else(better, old);
                lx[c] = with_lx.or_else(better, lx[c]);
                l2[c] = with_l2.or_else(better, l2[c]);
                changed |= better.any();
            }
        }
        if !changed {
            break;
        }
    }
    let mut scale = [zero; 2];
    for c in 0..2 {
        scale[c] = (lx[c] / l2[c]).or_else(l2[c].greater(zero) & !flat[c], zero);
        for level in &mut levels[c] {
            *level = zero.or_else(flat[c], *level - lowest);
        }
    }
    (scale, levels)
}

/// Which scales [`affine`] tries: `(highest - minimum) / (top + from + step * i)` for `i` in `0 ..= last`.
pub(super) struct Sweep {
    pub(super) from: f32,
    pub(super) step: f32,
    pub(super) last: i32,
}

impl Sweep {
    /// The sweep of all affine formats when importance is given.
    pub(super) const FINE: Sweep = Sweep { from: -0.9, step: 0.05, last: 36 };
}

/// What [`affine`] finds.
pub(super) struct Affine<F> {
    /// Scale.
    pub(super) scale: F,
    /// Minimum, to be subtracted.
    pub(super) minimum: F,
    /// Codes are `nearest(inverse * (x - start))`, clamped; zero where all weights are alike.
    pub(super) inverse: F,
    /// See `inverse`.
    pub(super) start: F,
}

/// `x ~ scale * code - minimum`, codes in `0 ..= top`. `ABSOLUTE`: errors count by magnitude instead of square.
#[inline(always)]
pub(super) fn affine<F: Lanes, const N: usize, const ABSOLUTE: bool>(
    isa: F::Isa,
    x: &[F; N],
    w: &[F; N],
    top: f32,
    sweep: &Sweep,
) -> Option<Affine<F>> {
    let zero = F::all(isa, 0.0);
    let highest = F::all(isa, top);
    let (mut low, mut high) = (x[0], x[0]);
    let mut sum_w = w[0];
    let mut sum_x = sum_w * x[0];
    for i in 1..N {
        low = x[i].min(low);
        high = x[i].max(high);
        sum_w = sum_w + w[i];
        sum_x = sum_x + w[i] * x[i];
    }
    let lowest_weight = low;
    low = zero.or_else(low.greater(zero), low);
    let flat = high.equals(low);

    // The first candidate, whose codes nobody sums up.
    let inverse = zero.or_else(flat, highest / (high - low));
    safe(isa, inverse, low, lowest_weight, high)?;
    let mut found = Affine { scale: F::all(isa, 1.0) / inverse, minimum: low, inverse, start: low };
    let mut trial = [zero; N];
    for i in 0..N {
        trial[i] = (inverse * (x[i] - low)).nearest().min(highest).max(zero);
    }
    let mut best = error::<F, N, ABSOLUTE>(zero, x, w, &trial, found.scale, low);

    for i in 0..=sweep.last {
        let start = found.minimum;
        let factor = sweep.from + sweep.step * i as f32 + top;
        let inverse = zero.or_else(flat, F::all(isa, factor) / (high - start));
        safe(isa, inverse, start, lowest_weight, high)?;
        // The highest weight lies at `factor`: below half a step over the top, nothing needs clamping there.
        let [sum_l, sum_l2, sum_xl] = if factor < top + 0.45 {
            sums::<F, N, false>(zero, x, w, inverse, start, highest, &mut trial)
        } else {
            sums::<F, N, true>(zero, x, w, inverse, start, highest, &mut trial)
        };
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        let mut scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
        let mut minimum = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
        let positive = minimum.greater(zero);
        minimum = zero.or_else(positive, minimum);
        scale = (sum_xl / sum_l2).or_else(positive, scale);
        let this = error::<F, N, ABSOLUTE>(zero, x, w, &trial, scale, minimum);
        let better = determinant.greater(zero) & this.less(best) & !flat;
        best = this.or_else(better, best);
        found.scale = scale.or_else(better, found.scale);
        found.minimum = minimum.or_else(better, found.minimum);
        found.inverse = inverse.or_else(better, found.inverse);
        found.start = start.or_else(better, found.start);
    }
    found.scale = zero.or_else(flat, found.scale);
    found.minimum = found.minimum.negate();
    Some(found)
}

/// The codes of one candidate, and their sums: of `w l`, `w l^2`, `w l x`.
#[inline(always)]
fn sums<F: Lanes, const N: usize, const CLAMP: bool>(
    zero: F,
    x: &[F; N],
    w: &[F; N],
    inverse: F,
    start: F,
    highest: F,
    trial: &mut [F; N],
) -> [F; 3] {
    let mut sums = [zero; 3];
    for i in 0..N {
        let mut l = (inverse * (x[i] - start)).nearest();
        if CLAMP {
            l = l.min(highest);
        }
        l = l.max(zero); // and no -0
        trial[i] = l;
        let wl = w[i] * l;
        sums = [sums[0] + wl, sums[1] + wl * l, sums[2] + wl * x[i]];
    }
    sums
}

/// Whether the positions `inverse * (x - start)` stay in the range of the float rounding: they are monotone in `x`.
#[inline(always)]
fn safe<F: Lanes>(isa: F::Isa, inverse: F, start: F, low: F, high: F) -> Option<()> {
    let limit = F::all(isa, SAFE);
    let inside = (inverse * (low - start)).abs().less(limit) & (inverse * (high - start)).abs().less(limit);
    (!(!inside).any()).then_some(())
}

#[inline(always)]
fn error<F: Lanes, const N: usize, const ABSOLUTE: bool>(
    zero: F,
    x: &[F; N],
    w: &[F; N],
    levels: &[F; N],
    scale: F,
    minimum: F,
) -> F {
    let mut sum = zero;
    for i in 0..N {
        let difference = scale * levels[i] + minimum - x[i];
        sum = sum + w[i] * if ABSOLUTE { difference.abs() } else { difference * difference };
    }
    sum
}

/// Levels of the 4-bit codebook (a fact of IQ4_NL and IQ4_XS).
pub(super) const LEVELS: Table =
    Table([-127., -104., -83., -65., -49., -35., -22., -10., 1., 13., 25., 38., 53., 69., 89., 113.]);

/// Half-way between neighbouring levels; numbers there go up. Levels are small integers, so that comparing with these
/// is the same as comparing the rounded distances to both levels (tested around every edge).
pub(super) const EDGES: Table = {
    let mut edges = [f32::INFINITY; 16];
    let mut i = 0;
    while i < 15 {
        edges[i] = (LEVELS.0[i] + LEVELS.0[i + 1]) / 2.0;
        i += 1;
    }
    Table(edges)
};

/// Least-squares scale of `x ~ scale * LEVELS[code]`: 16 candidates.
#[inline(always)]
pub(super) fn codebook<F: Lanes>(isa: F::Isa, x: &[F; 32], w: &[F; 32]) -> F {
    let zero = F::all(isa, 0.0);
    let lowest = F::all(isa, LEVELS.0[0]);
    let extreme = extreme(isa, x);
    let flat = extreme.abs().less(F::all(isa, ALL_ZERO));

    // The first candidate lies on the other side of zero.
    let inverse = zero.or_else(flat, F::all(isa, 1.0) / (extreme.negate() / lowest));
    let (mut qx, mut q2) = (zero, zero);
    // For the others, which differ by a ninth while edges differ by a fifth, each weight meets at most one edge:
    // it is on one level or on the next.
    let small = zero.or_else(flat, F::all(isa, 7.0 + LEVELS.0[0]) / extreme);
    let large = zero.or_else(flat, F::all(isa, -7.0 + LEVELS.0[0]) / extreme);
    let half = F::all(isa, 0.5);
    let (mut below, mut above, mut edge) = ([zero; 32], [zero; 32], [zero; 32]);
    for i in 0..32 {
        let (_, q) = (inverse * x[i]).on_grid(&EDGES, &LEVELS);
        let wq = w[i] * q;
        qx = qx + wq * x[i];
        q2 = q2 + wq * q;
        let (_, a) = (small * x[i]).on_grid(&EDGES, &LEVELS);
        let (_, b) = (large * x[i]).on_grid(&EDGES, &LEVELS);
        (below[i], above[i], edge[i]) = (a.min(b), a.max(b), (a + b) * half);
    }
    let mut scale = (qx / q2).or_else(q2.greater(zero), zero);
    let mut best = scale * qx;
    for step in -7..=7 {
        let inverse = zero.or_else(flat, F::all(isa, step as f32 + LEVELS.0[0]) / extreme);
        let (mut qx, mut q2) = (zero, zero);
        for i in 0..32 {
            let q = above[i].or_else((inverse * x[i]).at_least(edge[i]), below[i]);
            let wq = w[i] * q;
            qx = qx + wq * x[i];
            q2 = q2 + wq * q;
        }
        let better = q2.greater(zero) & (qx * qx).greater(best * q2);
        let this = qx / q2;
        scale = this.or_else(better, scale);
        best = (this * qx).or_else(better, best);
    }
    zero.or_else(flat, scale)
}
