//! Causal attention over a key-value cache.

use super::matmul::dot;
use super::memory::{Aligned, Split};
use super::pool::Pool;
use super::{Kv, Options};
use crate::{Attention, CacheShape, Result};
use half::f16;

/// Keys and values of one sequence, all layers: `(layers, positions, width)` each, in F32 or F16.
pub struct Cache {
    shape: CacheShape,
    keys: Store,
    values: Store,
}

enum Store {
    F32(Aligned<f32>),
    F16(Aligned<u16>),
}

impl Store {
    fn new(kv: Kv, len: usize) -> Result<Self> {
        let what = "the key-value cache";
        Ok(match kv {
            Kv::F32 => Store::F32(Aligned::zeroed(len, what)?),
            Kv::F16 => Store::F16(Aligned::zeroed(len, what)?),
        })
    }

    fn write(&mut self, at: usize, from: &[f32]) {
        match self {
            Store::F32(to) => to[at..at + from.len()].copy_from_slice(from),
            Store::F16(to) => {
                for (to, x) in to[at..at + from.len()].iter_mut().zip(from) {
                    *to = f16::from_f32(*x).to_bits();
                }
            }
        }
    }

    fn read(&self, at: usize, to: &mut [f32]) {
        match self {
            Store::F32(from) => to.copy_from_slice(&from[at..at + to.len()]),
            Store::F16(from) => {
                for (to, x) in to.iter_mut().zip(&from[at..]) {
                    *to = f16::from_bits(*x).to_f32();
                }
            }
        }
    }
}

impl Cache {
    pub(super) fn new(options: &Options, shape: CacheShape) -> Result<Self> {
        // Sizes that do not fit a usize saturate, and then are refused as too much memory.
        let rows = shape.layers.saturating_mul(shape.positions);
        let keys = Store::new(options.kv, rows.saturating_mul(shape.key_width))?;
        let values = Store::new(options.kv, rows.saturating_mul(shape.value_width))?;
        Ok(Cache { shape, keys, values })
    }

    pub(super) fn store(&mut self, layer: usize, k: &[f32], v: &[f32], start: usize, n: usize) {
        let CacheShape { layers, positions, key_width, value_width } = self.shape;
        assert!(layer < layers && start + n <= positions, "positions outside the cache");
        let row = layer * positions + start;
        self.keys.write(row * key_width, &k[..n * key_width]);
        self.values.write(row * value_width, &v[..n * value_width]);
    }
}

/// See [`crate::Backend::attention`]. One pass over the positions with a running maximum (Milakov & Gimelshein 2018).
#[allow(clippy::too_many_arguments)] // as in the trait
pub(super) fn attention(
    pool: &Pool,
    shape: &Attention,
    q: &[f32],
    cache: &Cache,
    layer: usize,
    start: usize,
    n: usize,
    out: &mut [f32],
) {
    let &Attention { heads, kv_heads, key_dim, value_dim, scale, window, soft_cap } = shape;
    let CacheShape { layers, positions, key_width, value_width } = cache.shape;
    assert!(kv_heads > 0 && heads % kv_heads == 0, "key-value heads divide the heads");
    assert!(key_width == kv_heads * key_dim && value_width == kv_heads * value_dim, "the cache has other heads");
    assert!(layer < layers && start + n <= positions, "positions outside the cache");
    assert!(q.len() >= n * heads * key_dim && out.len() >= n * heads * value_dim, "queries or output too short");
    let out = Split::new(out);
    pool.run(n * heads, |item| {
        let (i, head) = (item / heads, item % heads);
        let kv_head = head / (heads / kv_heads);
        // SAFETY: this head of this row belongs to this item alone.
        let out = unsafe { out.slice(item * value_dim, value_dim) };
        out.fill(0.0);
        let q = &q[item * key_dim..][..key_dim];
        let (mut key, mut value) = (vec![0.0; key_dim], vec![0.0; value_dim]);
        let (mut max, mut total) = (f32::NEG_INFINITY, 0.0);
        let last = start + i;
        let first = window.map_or(0, |w| (last + 1).saturating_sub(w));
        for position in first..=last {
            let row = layer * positions + position;
            cache.keys.read(row * key_width + kv_head * key_dim, &mut key);
            cache.values.read(row * value_width + kv_head * value_dim, &mut value);
            let mut score = dot(q, &key) * scale;
            if let Some(cap) = soft_cap {
                score = cap * (score / cap).tanh();
            }
            let new = max.max(score);
            let (keep, weight) = ((max - new).exp(), (score - new).exp());
            max = new;
            total = total * keep + weight;
            for (o, v) in out.iter_mut().zip(&value) {
                *o = *o * keep + v * weight;
            }
        }
        out.iter_mut().for_each(|o| *o /= total);
    });
}
