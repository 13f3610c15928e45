//! Rotary position embedding.

use super::Pool;
use super::memory::Split;
use crate::{Rope, RopeStyle};
use std::sync::{Arc, Mutex, PoisonError};

/// Sines and cosines of the last positions asked for; all layers of a batch, queries and keys, share them.
#[derive(Default)]
pub(super) struct Angles(Mutex<Option<Arc<Table>>>);

struct Table {
    frequencies: Vec<f32>,
    magnitude: f32,
    start: usize,
    n: usize,
    /// `(n, frequencies)` cosine and sine, times the magnitude.
    cos_sin: Vec<(f32, f32)>,
}

impl Angles {
    /// The angle is the f32 product of position and frequency, as the models were trained with (transformers computes it
    /// so); sine and cosine of it are exact to f32.
    fn table(&self, rope: &Rope, start: usize, n: usize) -> Arc<Table> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |t: &&Arc<Table>| {
            t.start == start && t.n == n && t.magnitude == rope.magnitude && t.frequencies == rope.frequencies
        };
        if let Some(table) = last.as_ref().filter(fits) {
            return table.clone();
        }
        let mut cos_sin = Vec::with_capacity(n * rope.frequencies.len());
        for position in start..start + n {
            for frequency in &rope.frequencies {
                let (sin, cos) = f64::from(position as f32 * frequency).sin_cos();
                let magnitude = f64::from(rope.magnitude);
                cos_sin.push(((cos * magnitude) as f32, (sin * magnitude) as f32));
            }
        }
        let (frequencies, magnitude) = (rope.frequencies.clone(), rope.magnitude);
        let table = Arc::new(Table { frequencies, magnitude, start, n, cos_sin });
        *last = Some(table.clone());
        table
    }

    /// See [`crate::Backend::rope`].
    #[allow(clippy::too_many_arguments)] // as in the trait
    pub(super) fn rotate(
        &self,
        pool: &Pool,
        rope: &Rope,
        x: &mut [f32],
        n: usize,
        heads: usize,
        head_dim: usize,
        start: usize,
    ) {
        let pairs = rope.frequencies.len();
        assert!(2 * pairs <= head_dim, "more frequencies than pairs of a head's dimensions");
        assert!(x.len() >= n * heads * head_dim, "activations are shorter than n rows of heads");
        let table = self.table(rope, start, n);
        let x = Split::new(x);
        pool.run(n, |i| {
            // SAFETY: row i belongs to this item alone.
            let row = unsafe { x.slice(i * heads * head_dim, heads * head_dim) };
            let angles = &table.cos_sin[i * pairs..][..pairs];
            for head in row.chunks_exact_mut(head_dim) {
                match rope.style {
                    RopeStyle::Interleaved => {
                        for ([a, b], (cos, sin)) in head.as_chunks_mut::<2>().0.iter_mut().zip(angles) {
                            (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
                        }
                    }
                    RopeStyle::Neox => {
                        let (a, b) = head[..2 * pairs].split_at_mut(pairs);
                        for ((a, b), (cos, sin)) in a.iter_mut().zip(b).zip(angles) {
                            (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
                        }
                    }
                }
            }
        });
    }
}
