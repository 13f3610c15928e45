//! Causal attention over a key-value cache.
//!
//! An item of the parallel loop is a tile of neighbouring queries, with all query heads that share a key-value head, and a
//! part of the positions. It walks over the cache block by block: scores, softmax with a running maximum (Milakov &
//! Gimelshein 2018; Dao et al. 2022), weighted sum of values. Every block is read once for all rows of the tile.
//!
//! Few queries (generation) make few items: then positions are cut into [`PART`]s as well, whose results are put together
//! in order. Cuts depend on positions alone, never on the number of threads.

use super::Isa;
use super::cache::{BLOCK, Cache, Data, GROUP, Kept, Multiplied, Parts};
use super::memory::{Scratch, Split, Workspace};
use super::pool::Pool;
use super::simd::{Op, Simd, dispatch, math};
use super::tile::{PACKED, Panel, Sums, WIDTH, group};
use crate::{Attention, CacheShape, Result};

/// Rows of a tile: queries times the heads of a group. A multiple of every tile's rows; queries, scores and sums of so
/// many stay in the second-level cache.
const TILE: usize = 48;

/// Positions of an item where there is one tile of queries.
const PART: usize = 512;

/// See [`crate::Backend::attention`].
#[allow(clippy::too_many_arguments)] // as in the trait
pub(super) fn attention(
    pool: &Pool,
    isa: Isa,
    workspace: &Workspace,
    shape: &Attention,
    q: &[f32],
    cache: &Cache,
    layer: usize,
    start: usize,
    n: usize,
    out: &mut [f32],
) -> Result<()> {
    let &Attention { heads, kv_heads, key_dim, value_dim, .. } = shape;
    let CacheShape { layers, positions, key_width, value_width, kv_heads: cached } = cache.shape;
    assert!(kv_heads > 0 && heads % kv_heads == 0, "key-value heads divide the heads");
    let same = cached == kv_heads && key_width == kv_heads * key_dim && value_width == kv_heads * value_dim;
    assert!(same, "the cache has other heads");
    assert!(layer < layers && start + n <= positions, "positions outside the cache");
    assert!(q.len() >= n * heads * key_dim && out.len() >= n * heads * value_dim, "queries or output too short");
    let job = Job { shape, cache: &cache.shape, q, layer, start, n };
    match &cache.data {
        Data::F32(parts) => job.all(pool, isa, workspace, parts, out),
        Data::F16(parts) => job.all(pool, isa, workspace, parts, out),
        Data::Q8(parts) => job.all(pool, isa, workspace, parts, out),
    }
}

/// What all items share.
#[derive(Clone, Copy)]
struct Job<'a> {
    shape: &'a Attention,
    cache: &'a CacheShape,
    q: &'a [f32],
    layer: usize,
    start: usize,
    n: usize,
}

/// A tile's part: queries `first .. first + count`, a key-value head, and positions.
#[derive(Clone, Copy)]
struct Item {
    first: usize,
    count: usize,
    head: usize,
    from: usize,
    to: usize,
}

impl Job<'_> {
    /// Query heads that share a key-value head.
    fn group(&self) -> usize {
        self.shape.heads / self.shape.kv_heads
    }

    /// The first position that the query at `position` sees.
    fn sees_from(&self, position: usize) -> usize {
        self.shape.window.map_or(0, |w| (position + 1).saturating_sub(w))
    }

    fn all<T: Kept>(
        self,
        pool: &Pool,
        isa: Isa,
        workspace: &Workspace,
        parts: &Parts<T>,
        out: &mut [f32],
    ) -> Result<()> {
        let (n, kv_heads) = (self.n, self.shape.kv_heads);
        let queries = (TILE / self.group()).max(1);
        let tiles = n.div_ceil(queries);
        let out = Split::new(out);
        let item = |tile: usize, head: usize| {
            let first = tile * queries;
            let count = queries.min(n - first);
            let from = self.sees_from(self.start + first);
            Item { first, count, head, from, to: self.start + first + count }
        };
        let whole = item(0, 0);
        let cuts = if tiles == 1 { whole.to.div_ceil(PART) - whole.from / PART } else { 1 };
        if cuts == 1 {
            pool.run(tiles * kv_heads, |i| {
                // The last queries see most, so they begin.
                let item = item(tiles - 1 - i / kv_heads, i % kv_heads);
                dispatch(isa, Walk { job: &self, item, parts, target: Target::Whole(&out) });
            });
            return Ok(());
        }
        let rows = n * self.group();
        let size = rows * (self.shape.value_dim + 2);
        workspace.with(kv_heads * cuts * size, |partial| {
            let results = Split::new(partial);
            pool.run(kv_heads * cuts, |i| {
                let (head, cut) = (i / cuts, i % cuts);
                let at = (whole.from / PART + cut) * PART;
                let item = Item { head, from: whole.from.max(at), to: whole.to.min(at + PART), ..whole };
                // SAFETY: this part of the workspace belongs to this item alone.
                let result = unsafe { results.slice(i * size, size) };
                dispatch(isa, Walk { job: &self, item, parts, target: Target::Part(result) });
            });
            let partial = &*partial;
            pool.run(kv_heads, |head| {
                let parts = &partial[head * cuts * size..][..cuts * size];
                for row in 0..rows {
                    // SAFETY: this row's output belongs to this item alone.
                    self.combine(parts, size, row, unsafe { self.output(&out, head, 0, row) });
                }
            });
        })
    }

    /// Where the result of a tile's row goes.
    ///
    /// # Safety
    /// No other slice of it may be alive.
    #[allow(clippy::mut_from_ref)] // as in `Split`
    unsafe fn output<'o>(&self, out: &'o Split<'_, f32>, head: usize, first: usize, row: usize) -> &'o mut [f32] {
        let (group, dim) = (self.group(), self.shape.value_dim);
        let at = (first + row / group) * self.shape.heads + head * group + row % group;
        // SAFETY: by the caller's promise.
        unsafe { out.slice(at * dim, dim) }
    }

    /// Puts the parts of a row together. A part: `(rows, value_dim)` sums, `rows` maxima, `rows` totals.
    fn combine(&self, parts: &[f32], size: usize, row: usize, out: &mut [f32]) {
        let dim = self.shape.value_dim;
        let rows = size / (dim + 2);
        let max_of = |part: &[f32]| part[rows * dim + row];
        // A part that this row does not see has a maximum of -infinity and a total of 0.
        let max = parts.chunks_exact(size).map(max_of).fold(f32::NEG_INFINITY, f32::max);
        let mut total = 0.0;
        out.fill(0.0);
        for part in parts.chunks_exact(size) {
            let factor = (max_of(part) - max).exp();
            total += factor * part[rows * dim + rows + row];
            out.iter_mut().zip(&part[row * dim..]).for_each(|(o, x)| *o += factor * x);
        }
        out.iter_mut().for_each(|o| *o /= total);
    }
}

/// Where an item's result goes.
enum Target<'a> {
    /// To the output, divided by the totals.
    Whole(&'a Split<'a, f32>),
    /// Sums, maxima and totals, see [`Job::combine`].
    Part(&'a mut [f32]),
}

/// One item.
struct Walk<'a, T: Kept> {
    job: &'a Job<'a>,
    item: Item,
    parts: &'a Parts<T>,
    target: Target<'a>,
}

impl<T: Kept> Op for Walk<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Walk { job, item, parts, target } = self;
        let &Attention { key_dim, value_dim, scale, soft_cap, .. } = job.shape;
        let rows = item.count * job.group();
        let width = value_dim.next_multiple_of(WIDTH * S::LANES);
        let decoded = if T::SCALED == 0 { (0, 0) } else { (BLOCK * key_dim, BLOCK * value_dim + width - value_dim) };
        let mut scratch = Scratch::of(rows * (key_dim + BLOCK + width + 2) + decoded.0 + decoded.1);
        {
            let scratch = scratch.floats();
            let (queries, scratch) = scratch.split_at_mut(rows * key_dim);
            let (scores, scratch) = scratch.split_at_mut(rows * BLOCK);
            let (sums, scratch) = scratch.split_at_mut(rows * width);
            let (maxima, scratch) = scratch.split_at_mut(rows);
            let (totals, scratch) = scratch.split_at_mut(rows);
            let (decoded_keys, decoded_values) = scratch.split_at_mut(decoded.0);
            job.pack::<S>(&item, scale, queries);
            sums.fill(0.0);
            maxima.fill(f32::NEG_INFINITY);
            totals.fill(0.0);
            for block in item.from / BLOCK..item.to.div_ceil(BLOCK) {
                let begin = block * BLOCK;
                let count = BLOCK.min(item.to - begin);
                let (keys, values) = Parts::<T>::at(job.cache, job.layer, block, item.head);
                let keys = &parts.keys[keys..][..BLOCK * key_dim];
                let values = &parts.values[values..][..BLOCK * value_dim + width - value_dim];
                let (key_scales, value_scales) = parts.scales(job.cache, job.layer, block, item.head);
                let keys = T::keys(s, keys, key_scales, count, decoded_keys);
                let values = T::values(s, values, value_scales, value_dim, count, decoded_values);
                // SAFETY: `keys` is a whole block, `scores` has BLOCK columns, and `queries` was packed for these rows.
                unsafe { all_scores(s, key_dim, count, rows, keys, queries, scores) };
                for row in 0..rows {
                    let position = job.start + item.first + row / job.group();
                    // What the row sees of this block, and of this item's positions.
                    let seen = Seen {
                        from: job.sees_from(position).max(item.from).saturating_sub(begin).min(count),
                        to: (position + 1).saturating_sub(begin).min(count),
                    };
                    let scores = &mut scores[row * BLOCK..][..BLOCK];
                    let sums = &mut sums[row * width..][..width];
                    softmax(s, seen, soft_cap, scores, &mut maxima[row], &mut totals[row], sums);
                }
                for column in (0..value_dim).step_by(WIDTH * S::LANES) {
                    // SAFETY: both vectors of the last position end inside `values`, which is longer than the block by
                    // what `width` is longer than a value.
                    unsafe {
                        let panel = Panel { at: values.as_ptr().add(column), step: value_dim, vector: S::LANES };
                        let to = Sums { at: sums.as_mut_ptr().add(column), stride: width, add: true };
                        T::Read::multiply::<S, BLOCK>(s, count, panel, rows, scores.as_ptr(), to);
                    }
                }
            }
            match target {
                Target::Whole(out) => {
                    for row in 0..rows {
                        let factor = 1.0 / totals[row];
                        // SAFETY: this row's output belongs to this item alone.
                        let out = unsafe { job.output(out, item.head, item.first, row) };
                        out.iter_mut().zip(&sums[row * width..]).for_each(|(o, x)| *o = x * factor);
                    }
                }
                Target::Part(out) => {
                    let (values, rest) = out.split_at_mut(rows * value_dim);
                    for (to, from) in values.chunks_exact_mut(value_dim).zip(sums.chunks_exact(width)) {
                        to.copy_from_slice(&from[..value_dim]);
                    }
                    rest[..rows].copy_from_slice(maxima);
                    rest[rows..].copy_from_slice(totals);
                }
            }
        }
    }
}

impl Job<'_> {
    /// The tile's queries, scaled, [`PACKED`].
    #[inline(always)]
    fn pack<S: Simd>(&self, item: &Item, scale: f32, to: &mut [f32]) {
        let (group_heads, dim) = (self.group(), self.shape.key_dim);
        let rows = item.count * group_heads;
        let mut first = 0;
        while first < rows {
            let count = group(S::ROWS, rows - first);
            for r in 0..count {
                let row = first + r;
                let at =
                    (item.first + row / group_heads) * self.shape.heads + item.head * group_heads + row % group_heads;
                let q = &self.q[at * dim..][..dim];
                let to = to[first * dim + r..].iter_mut().step_by(count);
                to.zip(q).for_each(|(to, q)| *to = q * scale);
            }
            first += count;
        }
    }
}

/// Scores of all rows for the first `count` positions of a block (and some behind): `(rows, BLOCK)`.
///
/// # Safety
/// Slices are as large as their names say; `queries` are packed.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // what a tile needs
unsafe fn all_scores<S: Simd, T: Multiplied>(
    s: S,
    key_dim: usize,
    count: usize,
    rows: usize,
    keys: &[T],
    queries: &[f32],
    scores: &mut [f32],
) {
    // Two vectors of 16 lie in two groups, two of 8 in one.
    let vector = if S::LANES == GROUP { GROUP * key_dim } else { S::LANES };
    for position in (0..count).step_by(WIDTH * S::LANES) {
        // SAFETY: WIDTH * LANES divides BLOCK, so that all vectors lie in the block.
        unsafe {
            let panel = Panel { at: keys.as_ptr().add(position / GROUP * GROUP * key_dim), step: GROUP, vector };
            let to = Sums { at: scores.as_mut_ptr().add(position), stride: BLOCK, add: false };
            T::multiply::<S, PACKED>(s, key_dim, panel, rows, queries.as_ptr(), to);
        }
    }
}

/// What a row sees of a block.
#[derive(Clone, Copy)]
struct Seen {
    from: usize,
    to: usize,
}

/// Turns a row's scores into weights relative to the running maximum; scales what was summed before if that rose.
#[inline(always)]
fn softmax<S: Simd>(
    s: S,
    seen: Seen,
    soft_cap: Option<f32>,
    scores: &mut [f32],
    max: &mut f32,
    total: &mut f32,
    sums: &mut [f32],
) {
    if seen.from >= seen.to {
        return scores.fill(0.0);
    }
    if let Some(cap) = soft_cap {
        for x in scores.chunks_exact_mut(S::LANES) {
            // SAFETY: the chunk is one vector, here and below.
            unsafe {
                let capped = math::tanh(s, s.div(s.load(x.as_ptr()), s.splat(cap)));
                s.store(x.as_mut_ptr(), s.mul(s.splat(cap), capped));
            }
        }
    }
    scores[..seen.from].fill(f32::NEG_INFINITY);
    scores[seen.to..].fill(f32::NEG_INFINITY);
    let mut largest = s.splat(*max);
    for x in scores.chunks_exact(S::LANES) {
        // SAFETY: as above.
        largest = s.max(largest, unsafe { s.load(x.as_ptr()) });
    }
    let new = s.largest(largest);
    let mut sum = s.zero();
    for x in scores.chunks_exact_mut(S::LANES) {
        // SAFETY: as above.
        unsafe {
            let weight = math::exp(s, s.sub(s.load(x.as_ptr()), s.splat(new)));
            s.store(x.as_mut_ptr(), weight);
            sum = s.add(sum, weight);
        }
    }
    if new != *max {
        let keep = (*max - new).exp();
        *total *= keep;
        for sums in sums.chunks_exact_mut(S::LANES) {
            // SAFETY: the chunk is one vector.
            unsafe { s.store(sums.as_mut_ptr(), s.mul(s.load(sums.as_ptr()), s.splat(keep))) };
        }
        *max = new;
    }
    *total += s.sum(sum);
}
