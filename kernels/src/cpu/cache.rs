//! Keys and values of one sequence.
//!
//! Positions come in blocks of [`BLOCK`], and within a layer and block each head's numbers lie together, so that attention
//! reads whole pages. Values lie position by position. Keys lie in groups of [`GROUP`] positions, dimension by dimension,
//! the group's positions side by side: the panels of a [`tile`](super::tile), which give the scores of a whole vector of
//! positions without a sum across lanes.
//!
//! As Q8_0, 32 neighbouring dimensions of a position share a half-precision scale; scales lie apart. Attention decodes a
//! block to f32 before it multiplies: that costs little where many queries meet it, and is what a single one pays for half
//! the memory.

use super::memory::{Aligned, Split};
use super::pool::Pool;
use super::simd::{MOST_LANES, Op, Simd, dispatch};
use super::tile::{Half, Panel, Single, Sums, WIDTH, multiply};
use super::{Isa, Kv, Options};
use crate::{CacheShape, Result};
use half::f16;

/// Positions that lie together.
pub(super) const BLOCK: usize = 64;

/// Positions side by side: the widest vector.
pub(super) const GROUP: usize = MOST_LANES;

/// Keys and values of one sequence, all layers.
pub struct Cache {
    pub(super) shape: CacheShape,
    pub(super) data: Data,
}

/// In a precision.
pub(super) enum Data {
    F32(Parts<f32>),
    F16(Parts<u16>),
    Q8(Parts<i8>),
}

/// `keys`: `(layers, blocks, kv_heads, BLOCK / GROUP, key_dim, GROUP)`, `values`: `(layers, blocks, kv_heads, BLOCK,
/// value_dim)` and room to read the last vector whole.
pub(super) struct Parts<T: Kept> {
    pub keys: Aligned<T>,
    pub values: Aligned<T>,
    /// `(layers, blocks, kv_heads, scales of a key, BLOCK)`
    key_scales: Aligned<u16>,
    /// `(layers, blocks, kv_heads, BLOCK, scales of a value)`
    value_scales: Aligned<u16>,
}

/// A number as the cache keeps it.
pub(super) trait Kept: super::memory::Plain + Default {
    /// Neighbouring dimensions that share a scale; 0 where there are no scales.
    const SCALED: usize = 0;

    /// A number as attention multiplies with it.
    type Read: Multiplied;

    /// Rounds. Slices are of equal length, with as many scales as [`scales_of`] says.
    fn convert<S: Simd>(s: S, from: &[f32], to: &mut [Self], scales: &mut [u16]);

    /// The first `count` keys (or some more) of a head's block of them, decoded to `to` if need be. `scales`: `(scales of
    /// a key, BLOCK)`.
    fn keys<'a, S: Simd>(s: S, keys: &'a [Self], scales: &[u16], count: usize, to: &'a mut [f32]) -> &'a [Self::Read];

    /// As [`Kept::keys`]. `scales`: `(BLOCK, scales of a value)`.
    fn values<'a, S: Simd>(
        s: S,
        values: &'a [Self],
        scales: &[u16],
        dim: usize,
        count: usize,
        to: &'a mut [f32],
    ) -> &'a [Self::Read];
}

/// How many scales a vector of `dim` numbers has.
pub(super) fn scales_of<T: Kept>(dim: usize) -> usize {
    if T::SCALED == 0 { 0 } else { dim.div_ceil(T::SCALED) }
}

/// Bytes that a cache takes for one head's key or value of `dim` numbers.
pub(super) fn head_bytes(kv: Kv, dim: usize) -> usize {
    fn bytes<T: Kept>(dim: usize) -> usize {
        dim * size_of::<T>() + 2 * scales_of::<T>(dim)
    }
    match kv {
        Kv::F32 => bytes::<f32>(dim),
        Kv::F16 => bytes::<u16>(dim),
        Kv::Q8 => bytes::<i8>(dim),
    }
}

/// A number that a [`tile`](super::tile) takes for its panels.
pub(super) trait Multiplied: Sized {
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

/// What those without scales share: they are read as they lie.
macro_rules! as_they_lie {
    () => {
        type Read = Self;

        #[inline(always)]
        fn keys<'a, S: Simd>(_: S, keys: &'a [Self], _: &[u16], _: usize, _: &'a mut [f32]) -> &'a [Self] {
            keys
        }

        #[inline(always)]
        fn values<'a, S: Simd>(
            _: S,
            values: &'a [Self],
            _: &[u16],
            _: usize,
            _: usize,
            _: &'a mut [f32],
        ) -> &'a [Self] {
            values
        }
    };
}

impl Multiplied for f32 {
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
}

impl Kept for f32 {
    as_they_lie!();

    #[inline(always)]
    fn convert<S: Simd>(_: S, from: &[f32], to: &mut [f32], _: &mut [u16]) {
        to.copy_from_slice(from);
    }
}

impl Multiplied for u16 {
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
}

impl Kept for u16 {
    as_they_lie!();

    #[inline(always)]
    fn convert<S: Simd>(s: S, from: &[f32], to: &mut [u16], _: &mut [u16]) {
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

impl Kept for i8 {
    const SCALED: usize = 32;
    type Read = f32;

    /// As Q8_0: the largest magnitude becomes 127. What is not finite makes its group NaN.
    #[inline(always)]
    fn convert<S: Simd>(_: S, from: &[f32], to: &mut [i8], scales: &mut [u16]) {
        for ((from, to), scale) in from.chunks(Self::SCALED).zip(to.chunks_mut(Self::SCALED)).zip(scales) {
            let largest = from.iter().fold(0.0, |m: f32, x| m.max(x.abs()));
            let step = if from.iter().all(|x| x.is_finite()) { largest / 127.0 } else { f32::NAN };
            let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
            *scale = f16::from_f32(step).to_bits();
            to.iter_mut().zip(from).for_each(|(to, x)| *to = (x * inverse).round_ties_even() as i8);
        }
    }

    #[inline(always)]
    fn keys<'a, S: Simd>(s: S, keys: &'a [i8], scales: &[u16], count: usize, to: &'a mut [f32]) -> &'a [f32] {
        let dim = keys.len() / BLOCK;
        assert!(to.len() >= keys.len() && count <= BLOCK && scales.len() == scales_of::<i8>(dim) * BLOCK);
        for group in 0..count.div_ceil(GROUP) {
            for (i, scales) in scales.chunks_exact(BLOCK).enumerate() {
                for d in i * Self::SCALED..dim.min((i + 1) * Self::SCALED) {
                    for lane in (0..GROUP).step_by(S::LANES) {
                        let at = (group * dim + d) * GROUP + lane;
                        // SAFETY: a vector of a group's positions, inside the block and its scales (asserted).
                        unsafe {
                            let scale = s.load_f16(scales.as_ptr().add(group * GROUP + lane));
                            s.store(to.as_mut_ptr().add(at), s.mul(s.load_i8(keys.as_ptr().add(at)), scale));
                        }
                    }
                }
            }
        }
        &to[..keys.len()]
    }

    #[inline(always)]
    fn values<'a, S: Simd>(
        s: S,
        values: &'a [i8],
        scales: &[u16],
        dim: usize,
        count: usize,
        to: &'a mut [f32],
    ) -> &'a [f32] {
        assert!(to.len() >= values.len() && values.len() >= count * dim);
        let of_one = scales_of::<i8>(dim);
        for position in 0..count {
            let (from, to) = (&values[position * dim..][..dim], &mut to[position * dim..][..dim]);
            let groups = from.chunks(Self::SCALED).zip(to.chunks_mut(Self::SCALED));
            for ((from, to), scale) in groups.zip(&scales[position * of_one..][..of_one]) {
                let scale = f16::from_bits(*scale).to_f32();
                let whole = from.len() / S::LANES * S::LANES;
                for i in (0..whole).step_by(S::LANES) {
                    // SAFETY: the vector lies inside both.
                    unsafe {
                        let v = s.mul(s.load_i8(from.as_ptr().add(i)), s.splat(scale));
                        s.store(to.as_mut_ptr().add(i), v);
                    }
                }
                to[whole..].iter_mut().zip(&from[whole..]).for_each(|(to, x)| *to = f32::from(*x) * scale);
            }
        }
        &to[..values.len()]
    }
}

impl Cache {
    /// Errors: not enough memory.
    pub(super) fn new(options: &Options, shape: CacheShape) -> Result<Self> {
        let data = match options.kv {
            Kv::F32 => Data::F32(Parts::new(&shape)?),
            Kv::F16 => Data::F16(Parts::new(&shape)?),
            Kv::Q8 => Data::Q8(Parts::new(&shape)?),
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
            Data::Q8(parts) => parts.store(pool, isa, &self.shape, layer, k, v, start, n),
        }
    }
}

/// Blocks of a layer.
fn blocks(shape: &CacheShape) -> usize {
    shape.positions.div_ceil(BLOCK)
}

/// Numbers of a head's key and value.
#[inline(always)]
fn dims(shape: &CacheShape) -> (usize, usize) {
    (shape.key_width / shape.kv_heads, shape.value_width / shape.kv_heads)
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
        let scales = |dim: usize| rows.saturating_mul(shape.kv_heads).saturating_mul(scales_of::<T>(dim));
        let (key_dim, value_dim) = dims(shape);
        Ok(Parts {
            keys,
            values: Aligned::zeroed(values, what)?,
            key_scales: Aligned::zeroed(scales(key_dim), what)?,
            value_scales: Aligned::zeroed(scales(value_dim), what)?,
        })
    }

    /// A head's scales of a block of keys and of values.
    #[inline(always)]
    pub(super) fn scales(&self, shape: &CacheShape, layer: usize, block: usize, head: usize) -> (&[u16], &[u16]) {
        let (key_dim, value_dim) = dims(shape);
        let (keys, values) = (BLOCK * scales_of::<T>(key_dim), BLOCK * scales_of::<T>(value_dim));
        let at = (layer * blocks(shape) + block) * shape.kv_heads + head;
        (&self.key_scales[at * keys..][..keys], &self.value_scales[at * values..][..values])
    }

    /// Where a head's part of a block begins in `keys` and in `values`.
    #[inline(always)]
    pub(super) fn at(shape: &CacheShape, layer: usize, block: usize, head: usize) -> (usize, usize) {
        let row = (layer * blocks(shape) + block) * BLOCK;
        let (key_dim, value_dim) = dims(shape);
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
        let (key_scales, value_scales) = (Split::new(&mut self.key_scales), Split::new(&mut self.value_scales));
        let (key_dim, value_dim) = dims(shape);
        let of_block = |dim: usize| BLOCK * shape.kv_heads * scales_of::<T>(dim);
        pool.run(last - first, |item| {
            let block = first + item;
            let (key_at, value_at) = Self::at(shape, layer, block, 0);
            // SAFETY: this block belongs to this item alone.
            let (keys, values) = unsafe {
                (keys.slice(key_at, BLOCK * shape.key_width), values.slice(value_at, BLOCK * shape.value_width))
            };
            let at = layer * blocks(shape) + block;
            let (of_keys, of_values) = (of_block(key_dim), of_block(value_dim));
            // SAFETY: as above.
            let (key_scales, value_scales) =
                unsafe { (key_scales.slice(at * of_keys, of_keys), value_scales.slice(at * of_values, of_values)) };
            let positions = start.max(block * BLOCK)..(start + n).min((block + 1) * BLOCK);
            for position in positions {
                let row = position - start;
                let k = &k[row * shape.key_width..][..shape.key_width];
                let v = &v[row * shape.value_width..][..shape.value_width];
                let (heads, place) = (shape.kv_heads, position % BLOCK);
                let (keys, values) = (&mut *keys, &mut *values);
                let (key_scales, value_scales) = (&mut *key_scales, &mut *value_scales);
                dispatch(isa, StoreRow { heads, place, k, v, keys, values, key_scales, value_scales });
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
    key_scales: &'a mut [u16],
    value_scales: &'a mut [u16],
}

impl<T: Kept> Op for StoreRow<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        const PIECE: usize = 64; // a whole number of groups with a scale
        let StoreRow { heads, place, k, v, keys, values, key_scales, value_scales } = self;
        let (key_dim, value_dim) = (k.len() / heads, v.len() / heads);
        let (of_key, of_value) = (scales_of::<T>(key_dim), scales_of::<T>(value_dim));
        for head in 0..heads {
            let k = &k[head * key_dim..][..key_dim];
            let keys = &mut keys[head * BLOCK * key_dim + place / GROUP * key_dim * GROUP..][..key_dim * GROUP];
            let key_scales = &mut key_scales[head * BLOCK * of_key..][..BLOCK * of_key];
            let mut converted = [T::default(); PIECE];
            for (piece, (k, keys)) in k.chunks(PIECE).zip(keys.chunks_mut(PIECE * GROUP)).enumerate() {
                let mut scales = [0; PIECE];
                let scales = &mut scales[..scales_of::<T>(k.len())];
                T::convert(s, k, &mut converted[..k.len()], scales);
                for (positions, k) in keys.chunks_exact_mut(GROUP).zip(&converted) {
                    positions[place % GROUP] = *k;
                }
                let first = piece * scales_of::<T>(PIECE);
                for (positions, scale) in key_scales.chunks_exact_mut(BLOCK).skip(first).zip(scales) {
                    positions[place] = *scale;
                }
            }
            let values = &mut values[head * BLOCK * value_dim + place * value_dim..][..value_dim];
            let scales = &mut value_scales[(head * BLOCK + place) * of_value..][..of_value];
            T::convert(s, &v[head * value_dim..][..value_dim], values, scales);
        }
    }
}
