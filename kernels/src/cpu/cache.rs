//! Keys and values of one sequence.
//!
//! Positions come in blocks of [`BLOCK`], and within a layer and block each head's numbers lie together, so that attention
//! reads whole pages. Values lie position by position. Keys lie in groups of [`GROUP`] positions, dimension by dimension,
//! the group's positions side by side: the panels of a [`tile`](super::tile), which give the scores of a whole vector of
//! positions without a sum across lanes.

use super::memory::{Aligned, Split};
use super::pool::Pool;
use super::simd::{MOST_LANES, Op, Simd, dispatch};
use super::tile::{Half, Panel, Single, Sums, WIDTH, multiply};
use super::{Isa, Kv, Options};
use crate::{CacheShape, Result};

/// Positions that lie together.
pub(super) const BLOCK: usize = 64;

/// Positions side by side: the widest vector.
pub(super) const GROUP: usize = MOST_LANES;

/// Keys and values of one sequence, all layers, in F32 or F16.
pub struct Cache {
    pub(super) shape: CacheShape,
    pub(super) data: Data,
}

/// In a precision.
pub(super) enum Data {
    F32(Parts<f32>),
    F16(Parts<u16>),
}

/// `keys`: `(layers, blocks, kv_heads, BLOCK / GROUP, key_dim, GROUP)`, `values`: `(layers, blocks, kv_heads, BLOCK,
/// value_dim)` and room to read the last vector whole.
pub(super) struct Parts<T: Kept> {
    pub keys: Aligned<T>,
    pub values: Aligned<T>,
}

/// A number as the cache keeps it.
pub(super) trait Kept: super::memory::Plain + Default {
    /// Rounds. Slices are of equal length.
    fn convert<S: Simd>(s: S, from: &[f32], to: &mut [Self]);

    /// [`multiply`] with panels of such numbers.
    ///
    /// # Safety
    /// As there.
    unsafe fn multiply<S: Simd, const STRIDE: usize>(
        s: S,
        steps: usize,
        panel: Panel<Self>,
        rows: usize,
        x: *const f32,
        sums: Sums,
    );
}

impl Kept for f32 {
    #[inline(always)]
    unsafe fn multiply<S: Simd, const STRIDE: usize>(
        s: S,
        steps: usize,
        panel: Panel<f32>,
        rows: usize,
        x: *const f32,
        sums: Sums,
    ) {
        // SAFETY: by the caller's promise.
        unsafe { multiply::<S, Single, STRIDE>(s, Single, steps, panel, rows, x, sums) }
    }

    #[inline(always)]
    fn convert<S: Simd>(_: S, from: &[f32], to: &mut [f32]) {
        to.copy_from_slice(from);
    }
}

impl Kept for u16 {
    #[inline(always)]
    unsafe fn multiply<S: Simd, const STRIDE: usize>(
        s: S,
        steps: usize,
        panel: Panel<u16>,
        rows: usize,
        x: *const f32,
        sums: Sums,
    ) {
        // SAFETY: by the caller's promise.
        unsafe { multiply::<S, Half, STRIDE>(s, Half, steps, panel, rows, x, sums) }
    }

    #[inline(always)]
    fn convert<S: Simd>(s: S, from: &[f32], to: &mut [u16]) {
        assert!(from.len() == to.len(), "slices of equal length");
        let whole = from.len() / S::LANES * S::LANES;
        for i in (0..whole).step_by(S::LANES) {
            // SAFETY: the vector lies inside both.
            unsafe { s.store_f16(to.as_mut_ptr().add(i), s.load(from.as_ptr().add(i))) };
        }
        let mut rest = [0; MOST_LANES];
        // SAFETY: fewer than a vector are left, and the array has room for one.
        unsafe { s.store_f16(rest.as_mut_ptr(), s.load_part(from.as_ptr().add(whole), from.len() - whole)) };
        let left = to.len() - whole;
        to[whole..].copy_from_slice(&rest[..left]);
    }
}

impl Cache {
    /// Errors: not enough memory.
    pub(super) fn new(options: &Options, shape: CacheShape) -> Result<Self> {
        let data = match options.kv {
            Kv::F32 => Data::F32(Parts::new(&shape)?),
            Kv::F16 => Data::F16(Parts::new(&shape)?),
        };
        Ok(Cache { shape, data })
    }

    /// See [`crate::Backend::store`].
    #[allow(clippy::too_many_arguments)] // as in the trait
    pub(super) fn store(&mut self, pool: &Pool, isa: Isa, layer: usize, k: &[f32], v: &[f32], start: usize, n: usize) {
        assert!(layer < self.shape.layers && start + n <= self.shape.positions, "positions outside the cache");
        assert!(k.len() >= n * self.shape.key_width && v.len() >= n * self.shape.value_width, "keys or values missing");
        match &mut self.data {
            Data::F32(parts) => parts.store(pool, isa, &self.shape, layer, k, v, start, n),
            Data::F16(parts) => parts.store(pool, isa, &self.shape, layer, k, v, start, n),
        }
    }
}

/// Blocks of a layer.
fn blocks(shape: &CacheShape) -> usize {
    shape.positions.div_ceil(BLOCK)
}

impl<T: Kept> Parts<T> {
    fn new(shape: &CacheShape) -> Result<Self> {
        assert!(
            shape.key_width.is_multiple_of(shape.kv_heads) && shape.value_width.is_multiple_of(shape.kv_heads),
            "a whole number of heads"
        );
        let what = "the key-value cache";
        // Sizes that do not fit a usize saturate, and then are refused as too much memory.
        let rows = shape.layers.saturating_mul(blocks(shape)).saturating_mul(BLOCK);
        let keys = Aligned::zeroed(rows.saturating_mul(shape.key_width), what)?;
        let values = rows.saturating_mul(shape.value_width).saturating_add(WIDTH * MOST_LANES);
        Ok(Parts { keys, values: Aligned::zeroed(values, what)? })
    }

    /// Where a head's part of a block begins in `keys` and in `values`.
    #[inline(always)]
    pub(super) fn at(shape: &CacheShape, layer: usize, block: usize, head: usize) -> (usize, usize) {
        let row = (layer * blocks(shape) + block) * BLOCK;
        let (key_dim, value_dim) = (shape.key_width / shape.kv_heads, shape.value_width / shape.kv_heads);
        (row * shape.key_width + head * BLOCK * key_dim, row * shape.value_width + head * BLOCK * value_dim)
    }

    #[allow(clippy::too_many_arguments)] // as in the trait
    fn store(
        &mut self,
        pool: &Pool,
        isa: Isa,
        shape: &CacheShape,
        layer: usize,
        k: &[f32],
        v: &[f32],
        start: usize,
        n: usize,
    ) {
        let (first, last) = (start / BLOCK, (start + n).div_ceil(BLOCK));
        let (keys, values) = (Split::new(&mut self.keys), Split::new(&mut self.values));
        pool.run(last - first, |item| {
            let block = first + item;
            let (key_at, value_at) = Self::at(shape, layer, block, 0);
            // SAFETY: this block belongs to this item alone.
            let (keys, values) = unsafe {
                (keys.slice(key_at, BLOCK * shape.key_width), values.slice(value_at, BLOCK * shape.value_width))
            };
            let positions = start.max(block * BLOCK)..(start + n).min((block + 1) * BLOCK);
            for position in positions {
                let row = position - start;
                let k = &k[row * shape.key_width..][..shape.key_width];
                let v = &v[row * shape.value_width..][..shape.value_width];
                let (heads, place) = (shape.kv_heads, position % BLOCK);
                dispatch(isa, StoreRow { heads, place, k, v, keys: &mut *keys, values: &mut *values });
            }
        });
    }
}

/// Keys and values of one position into its block.
struct StoreRow<'a, T> {
    heads: usize,
    place: usize,
    k: &'a [f32],
    v: &'a [f32],
    keys: &'a mut [T],
    values: &'a mut [T],
}

impl<T: Kept> Op for StoreRow<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        const PIECE: usize = 64;
        let StoreRow { heads, place, k, v, keys, values } = self;
        let (key_dim, value_dim) = (k.len() / heads, v.len() / heads);
        for head in 0..heads {
            let k = &k[head * key_dim..][..key_dim];
            let keys = &mut keys[head * BLOCK * key_dim + place / GROUP * key_dim * GROUP..][..key_dim * GROUP];
            let mut converted = [T::default(); PIECE];
            for (k, keys) in k.chunks(PIECE).zip(keys.chunks_mut(PIECE * GROUP)) {
                T::convert(s, k, &mut converted[..k.len()]);
                for (positions, k) in keys.chunks_exact_mut(GROUP).zip(&converted) {
                    positions[place % GROUP] = *k;
                }
            }
            let values = &mut values[head * BLOCK * value_dim + place * value_dim..][..value_dim];
            T::convert(s, &v[head * value_dim..][..value_dim], values);
        }
    }
}
