//! Rotary position embedding.

use super::memory::Split;
use super::simd::{Op, Simd, dispatch};
use super::{Isa, Pool};
use crate::{Rope, RopeStyle};
use std::sync::{Arc, Mutex, PoisonError};

/// Sines and cosines of the last positions asked for: all layers of a batch, queries and keys, share them. Some models
/// have two rotations, of layers with a window and of those without.
#[derive(Default)]
pub(super) struct Angles(Mutex<Vec<Arc<Table>>>);

const KEPT: usize = 2;

struct Table {
    style: RopeStyle,
    frequencies: Vec<f32>,
    magnitude: f32,
    start: usize,
    n: usize,
    /// Times the magnitude, `(n, width)`: `width` is the number of pairs for [`RopeStyle::Neox`]; for
    /// [`RopeStyle::Interleaved`] both numbers of a pair have an entry, and the first one's sine is negated.
    cos: Vec<f32>,
    sin: Vec<f32>,
    width: usize,
}

impl Table {
    /// The angle is the f32 product of position and frequency, as the models were trained with (transformers computes it
    /// so); sine and cosine of it are exact to f32.
    fn new(rope: &Rope, start: usize, n: usize) -> Self {
        let each = match rope.style {
            RopeStyle::Neox => 1,
            RopeStyle::Interleaved => 2,
        };
        let width = each * rope.frequencies.len();
        let (mut cosines, mut sines) = (Vec::with_capacity(n * width), Vec::with_capacity(n * width));
        for position in start..start + n {
            for frequency in &rope.frequencies {
                let (sin, cos) = f64::from(position as f32 * frequency).sin_cos();
                let magnitude = f64::from(rope.magnitude);
                let (cos, sin) = ((cos * magnitude) as f32, (sin * magnitude) as f32);
                if each == 2 {
                    cosines.push(cos);
                    sines.push(-sin);
                }
                cosines.push(cos);
                sines.push(sin);
            }
        }
        let Rope { style, ref frequencies, magnitude } = *rope;
        Table { style, frequencies: frequencies.clone(), magnitude, start, n, cos: cosines, sin: sines, width }
    }

    fn fits(&self, rope: &Rope, start: usize, n: usize) -> bool {
        self.start == start
            && self.n == n
            && self.style == rope.style
            && self.magnitude == rope.magnitude
            && self.frequencies == rope.frequencies
    }
}

impl Angles {
    fn table(&self, rope: &Rope, start: usize, n: usize) -> Arc<Table> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = kept.iter().find(|t| t.fits(rope, start, n)) {
            return table.clone();
        }
        let table = Arc::new(Table::new(rope, start, n));
        if kept.len() == KEPT {
            kept.remove(0);
        }
        kept.push(table.clone());
        table
    }

    /// See [`crate::Backend::rope`]; of several sequences of `n` rows each.
    #[allow(clippy::too_many_arguments)] // as in the trait
    pub(super) fn rotate(
        &self,
        pool: &Pool,
        isa: Isa,
        rope: &Rope,
        x: &mut [f32],
        sequences: usize,
        n: usize,
        heads: usize,
        head_dim: usize,
        start: usize,
    ) {
        assert!(2 * rope.frequencies.len() <= head_dim, "more frequencies than pairs of a head's dimensions");
        assert!(x.len() >= sequences * n * heads * head_dim, "activations are shorter than n rows of heads");
        let table = self.table(rope, start, n);
        let x = Split::new(x);
        pool.run(sequences * n, |i| {
            // SAFETY: row i belongs to this item alone.
            let row = unsafe { x.slice(i * heads * head_dim, heads * head_dim) };
            let at = i % n * table.width;
            let (cos, sin) = (&table.cos[at..][..table.width], &table.sin[at..][..table.width]);
            dispatch(isa, Rotate { style: rope.style, head_dim, row, cos, sin });
        });
    }
}

/// All heads of one position.
struct Rotate<'a> {
    style: RopeStyle,
    head_dim: usize,
    row: &'a mut [f32],
    cos: &'a [f32],
    sin: &'a [f32],
}

impl Op for Rotate<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Rotate { style, head_dim, row, cos, sin } = self;
        for head in row.chunks_exact_mut(head_dim) {
            match style {
                RopeStyle::Interleaved => interleaved(s, &mut head[..cos.len()], cos, sin),
                RopeStyle::Neox => {
                    let (a, b) = head[..2 * cos.len()].split_at_mut(cos.len());
                    halves(s, a, b, cos, sin);
                }
            }
        }
    }
}

/// `(x0, x1) -> (x0 cos - x1 sin, x1 cos + x0 sin)`
#[inline(always)]
fn interleaved<S: Simd>(s: S, x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let chunks = x.chunks_mut(S::LANES).zip(cos.chunks(S::LANES)).zip(sin.chunks(S::LANES));
    for ((x, cos), sin) in chunks {
        // SAFETY: the chunks have the same length, of a vector or less.
        unsafe {
            if x.len() == S::LANES {
                let v = s.load(x.as_ptr());
                let turned = s.mul(s.swap_pairs(v), s.load(sin.as_ptr()));
                s.store(x.as_mut_ptr(), s.fma(v, s.load(cos.as_ptr()), turned));
            } else {
                let n = x.len();
                let v = s.load_part(x.as_ptr(), n);
                let turned = s.mul(s.swap_pairs(v), s.load_part(sin.as_ptr(), n));
                s.store_part(x.as_mut_ptr(), s.fma(v, s.load_part(cos.as_ptr(), n), turned), n);
            }
        }
    }
}

/// `(a, b) -> (a cos - b sin, b cos + a sin)`
#[inline(always)]
fn halves<S: Simd>(s: S, a: &mut [f32], b: &mut [f32], cos: &[f32], sin: &[f32]) {
    let angles = cos.chunks(S::LANES).zip(sin.chunks(S::LANES));
    for ((a, b), (cos, sin)) in a.chunks_mut(S::LANES).zip(b.chunks_mut(S::LANES)).zip(angles) {
        // SAFETY: the chunks have the same length, of a vector or less.
        unsafe {
            if a.len() == S::LANES {
                let (x, y) = (s.load(a.as_ptr()), s.load(b.as_ptr()));
                let (cos, sin) = (s.load(cos.as_ptr()), s.load(sin.as_ptr()));
                s.store(a.as_mut_ptr(), s.fnma(y, sin, s.mul(x, cos)));
                s.store(b.as_mut_ptr(), s.fma(x, sin, s.mul(y, cos)));
            } else {
                let n = a.len();
                let (x, y) = (s.load_part(a.as_ptr(), n), s.load_part(b.as_ptr(), n));
                let (cos, sin) = (s.load_part(cos.as_ptr(), n), s.load_part(sin.as_ptr(), n));
                s.store_part(a.as_mut_ptr(), s.fnma(y, sin, s.mul(x, cos)), n);
                s.store_part(b.as_mut_ptr(), s.fma(x, sin, s.mul(y, cos)), n);
            }
        }
    }
}
