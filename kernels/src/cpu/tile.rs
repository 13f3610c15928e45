//! The register tile that products of floats and attention are made of.
//!
//! A *panel* holds two vectors of numbers for every step of the sum: neighbouring weight rows, positions or dimensions of
//! values. For each step a tile loads them once and multiplies them with one number of each of its rows (activations,
//! queries, probabilities), into `2 * rows` vectors of sums that stay in registers: with 12 rows 24 multiply-adds for 14
//! loads, so that neither loads nor the latency of the sums bound it. Nothing has to be summed across lanes.

use super::simd::Simd;

/// Vectors that a panel is wide.
pub(super) const WIDTH: usize = 2;

/// What a tile multiplies.
pub(super) trait Numbers<S: Simd>: Copy {
    /// A panel's numbers as they lie in memory.
    type Panel: Copy;
    /// A row's.
    type Row: Copy;
    /// A vector of the panel's.
    type V: Copy;
    /// One of the row's in all lanes.
    type Spread: Copy;

    /// Loads a vector.
    ///
    /// # Safety
    /// [`Simd::LANES`] numbers can be read there.
    unsafe fn load(self, s: S, from: *const Self::Panel) -> Self::V;
    /// The number in all lanes.
    fn spread(self, s: S, x: Self::Row) -> Self::Spread;
    /// `sum + a * b`
    fn multiply_add(self, s: S, a: Self::V, b: Self::Spread, sum: S::V) -> S::V;
}

/// Panels of f32.
#[derive(Debug, Clone, Copy)]
pub(super) struct Single;

/// Panels of f16, rows of f32.
#[derive(Debug, Clone, Copy)]
pub(super) struct Half;

macro_rules! floats {
    ($name:ident, $panel:ty, $load:ident) => {
        impl<S: Simd> Numbers<S> for $name {
            type Panel = $panel;
            type Row = f32;
            type V = S::V;
            type Spread = S::V;

            #[inline(always)]
            unsafe fn load(self, s: S, from: *const $panel) -> S::V {
                // SAFETY: by the caller's promise.
                unsafe { s.$load(from) }
            }

            #[inline(always)]
            fn spread(self, s: S, x: f32) -> S::V {
                s.splat(x)
            }

            #[inline(always)]
            fn multiply_add(self, s: S, a: S::V, b: S::V, sum: S::V) -> S::V {
                s.fma(a, b, sum)
            }
        }
    };
}
floats!(Single, f32, load);
floats!(Half, u16, load_f16);

/// Where a panel lies.
#[derive(Clone, Copy)]
pub(super) struct Panel<T> {
    /// The first number.
    pub at: *const T,
    /// From one step's numbers to the next one's.
    pub step: usize,
    /// From the first vector to the second.
    pub vector: usize,
}

/// Rows that lie in groups as [`group`] cuts them, within a group step by step, all rows of a step side by side: instead
/// of a distance between rows.
pub(super) const PACKED: usize = 0;

/// Where sums go: rows `stride` apart, both vectors of a row side by side.
#[derive(Clone, Copy)]
pub(super) struct Sums {
    pub at: *mut f32,
    pub stride: usize,
    /// Whether they are added to what is there.
    pub add: bool,
}

/// How many of the `left` rows the next tile takes; `most` is [`Simd::ROWS`].
#[inline(always)]
pub(super) fn group(most: usize, left: usize) -> usize {
    match left {
        _ if left >= most => most,
        8.. => 8,
        6.. if most == 6 => 6,
        4.. => 4,
        _ => left,
    }
}

/// Sums over `steps` for `rows` rows of `x`, which lie `STRIDE` apart (known when compiling, so that addresses cost
/// nothing) or [`PACKED`].
///
/// # Safety
/// Panel, rows and sums are as large as said; a panel's vectors may be read whole.
#[inline(always)]
pub(super) unsafe fn multiply<S: Simd, N: Numbers<S>, const STRIDE: usize>(
    s: S,
    numbers: N,
    steps: usize,
    panel: Panel<N::Panel>,
    rows: usize,
    x: *const N::Row,
    sums: Sums,
) {
    let mut first = 0;
    while first < rows {
        let count = group(S::ROWS, rows - first);
        // SAFETY: inside by the caller's promise. A tile of `count` rows is what `group` gave; those that an instruction
        // set never asks for are not compiled.
        unsafe {
            let sums = Sums { at: sums.at.add(first * sums.stride), ..sums };
            let x = x.add(first * if STRIDE == PACKED { steps } else { STRIDE });
            match count {
                12 if S::ROWS >= 12 => tile::<S, N, 12, STRIDE>(s, numbers, steps, panel, x, sums),
                8 if S::ROWS >= 8 => tile::<S, N, 8, STRIDE>(s, numbers, steps, panel, x, sums),
                6 if S::ROWS == 6 => tile::<S, N, 6, STRIDE>(s, numbers, steps, panel, x, sums),
                4 => tile::<S, N, 4, STRIDE>(s, numbers, steps, panel, x, sums),
                3 => tile::<S, N, 3, STRIDE>(s, numbers, steps, panel, x, sums),
                2 => tile::<S, N, 2, STRIDE>(s, numbers, steps, panel, x, sums),
                _ => tile::<S, N, 1, STRIDE>(s, numbers, steps, panel, x, sums),
            }
        }
        first += count;
    }
}

/// `R` rows.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn tile<S: Simd, N: Numbers<S>, const R: usize, const STRIDE: usize>(
    s: S,
    numbers: N,
    steps: usize,
    panel: Panel<N::Panel>,
    x: *const N::Row,
    out: Sums,
) {
    let mut sums = [[s.zero(); WIDTH]; R];
    // SAFETY: inside by the caller's promise.
    unsafe {
        for step in 0..steps {
            let at = panel.at.add(step * panel.step);
            let a = [numbers.load(s, at), numbers.load(s, at.add(panel.vector))];
            for (r, sums) in sums.iter_mut().enumerate() {
                let x = if STRIDE == PACKED { x.add(step * R + r) } else { x.add(r * STRIDE + step) };
                let b = numbers.spread(s, x.read());
                sums[0] = numbers.multiply_add(s, a[0], b, sums[0]);
                sums[1] = numbers.multiply_add(s, a[1], b, sums[1]);
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            for (v, sum) in sums.into_iter().enumerate() {
                let to = out.at.add(r * out.stride + v * S::LANES);
                s.store(to, if out.add { s.add(s.load(to), sum) } else { sum });
            }
        }
    }
}
