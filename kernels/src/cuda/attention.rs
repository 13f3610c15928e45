//! Attention and the key-value cache.

use super::device::Device;
use super::launch::Launch;
use super::memory::{Buffer, Memory};
use crate::{Attention, CacheShape, Error, Result, Rope, RopeStyle};

/// Bytes of a number in the cache: half precision.
pub(super) const FLOAT_BYTES: usize = 2;

/// Keys and values of one sequence, all layers, in half precision.
pub struct Cache {
    keys: Memory,   // (layers, kv_heads, positions, key_dim)
    values: Memory, // (layers, kv_heads, positions, value_dim)
    shape: CacheShape,
}

impl Cache {
    pub(super) fn new(device: &Device, shape: CacheShape) -> Result<Self> {
        let bytes = |width: usize| {
            let floats = shape.layers.checked_mul(shape.positions).and_then(|n| n.checked_mul(width));
            floats.and_then(|n| n.checked_mul(FLOAT_BYTES)).ok_or_else(|| Error::OutOfMemory {
                what: "the key-value cache".into(),
                bytes: u64::MAX,
                backend: "CUDA".into(),
            })
        };
        let keys = Memory::zeroed(device, bytes(shape.key_width)?, "the key-value cache")?;
        let values = Memory::zeroed(device, bytes(shape.value_width)?, "the key-value cache")?;
        Ok(Cache { keys, values, shape })
    }

    /// Bytes of a layer's keys and of its values.
    fn layer_bytes(&self) -> (usize, usize) {
        let rows = self.shape.positions * FLOAT_BYTES;
        (rows * self.shape.key_width, rows * self.shape.value_width)
    }

    /// See [`crate::Backend::store`].
    pub(super) fn store(&mut self, device: &Device, layer: usize, k: &Buffer, v: &Buffer, rows: Rows) -> Result<()> {
        let (shape, Rows { first, start, n }) = (self.shape, rows);
        assert!(layer < shape.layers && start + n <= shape.positions, "positions outside the cache");
        let (key_bytes, value_bytes) = self.layer_bytes();
        for (x, width, cache, bytes) in
            [(k, shape.key_width, &mut self.keys, key_bytes), (v, shape.value_width, &mut self.values, value_bytes)]
        {
            device.at_position(start, |position| {
                device
                    .launch("store")
                    .floats_from(x, first * width, n * width)
                    .bytes_mut(cache, layer * bytes, bytes)
                    .bytes(position, 0, 4)
                    .int(shape.kv_heads)
                    .int(width / shape.kv_heads)
                    .int(shape.positions)
                    .run((width.div_ceil(256), n, 1), (256, 1, 1), 0)
            })?;
        }
        Ok(())
    }

    /// See [`crate::Backend::rope_store`]. Only for even widths.
    #[allow(clippy::too_many_arguments)] // as in the trait
    pub(super) fn rope_store(
        &mut self,
        device: &Device,
        layer: usize,
        rope: &Rope,
        heads: usize,
        q: &mut Buffer,
        k: &Buffer,
        v: &Buffer,
        rows: Rows,
    ) -> Result<()> {
        let Rows { first, start, n } = rows;
        let CacheShape { layers, positions, kv_heads, key_width, value_width } = self.shape;
        assert!(layer < layers && start + n <= positions, "positions outside the cache");
        let (key_bytes, value_bytes) = self.layer_bytes();
        let (key_dim, value_dim, pairs) = (key_width / kv_heads, value_width / kv_heads, rope.frequencies.len());
        let twos = (heads * key_dim + key_width + value_width) / 2;
        device.constant(&rope.frequencies, |frequencies| {
            device.at_position(start, |position| {
                let launch = device
                    .launch("rope_store")
                    .floats_mut_from(q, first * heads * key_dim, n * heads * key_dim)
                    .floats_from(k, first * key_width, n * key_width)
                    .floats_from(v, first * value_width, n * value_width)
                    .bytes_mut(&mut self.keys, layer * key_bytes, key_bytes)
                    .bytes_mut(&mut self.values, layer * value_bytes, value_bytes)
                    .bytes(frequencies, 0, pairs * 4)
                    .bytes(position, 0, 4)
                    .float(rope.magnitude);
                let launch = launch.int(heads).int(kv_heads).int(key_dim).int(value_dim).int(pairs);
                let interleaved = usize::from(rope.style == RopeStyle::Interleaved);
                launch.int(interleaved).int(positions).run((twos.div_ceil(256), n, 1), (256, 1, 1), 0)
            })
        })
    }

    /// Whether two neighbouring floats always belong to one head.
    pub(super) fn is_even(&self) -> bool {
        let CacheShape { kv_heads, key_width, value_width, .. } = self.shape;
        (key_width / kv_heads).is_multiple_of(2) && (value_width / kv_heads).is_multiple_of(2)
    }
}

/// Rows of a batch that belong to one sequence.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    /// The first in the buffers.
    pub first: usize,
    /// Its position.
    pub start: usize,
    pub n: usize,
}

impl Rows {
    /// All rows of a batch of one sequence.
    pub fn all(start: usize, n: usize) -> Self {
        Rows { first: 0, start, n }
    }
}

/// See [`crate::Backend::attention`].
#[allow(clippy::too_many_arguments)] // as in the trait
pub(super) fn attention(
    device: &Device,
    shape: &Attention,
    q: &Buffer,
    cache: &Cache,
    layer: usize,
    rows: Rows,
    out: &mut Buffer,
) -> Result<()> {
    let Rows { first, start, n } = rows;
    let &Attention { heads, kv_heads, key_dim, value_dim, .. } = shape;
    let CacheShape { layers, positions, key_width, value_width, .. } = cache.shape;
    assert!(key_width == kv_heads * key_dim && value_width == kv_heads * value_dim, "the cache has other heads");
    assert!(layer < layers && start + n <= positions, "positions outside the cache");
    let (key_bytes, value_bytes) = cache.layer_bytes();
    let (keys, values) = (layer * key_bytes, layer * value_bytes);
    let window = shape.window.unwrap_or(positions);
    if key_dim != value_dim || !HEAD_DIMS.contains(&key_dim) {
        return device.at_position(start, |position| {
            device
                .launch("plain_attention")
                .floats_from(q, first * heads * key_dim, n * heads * key_dim)
                .bytes(&cache.keys, keys, key_bytes)
                .bytes(&cache.values, values, value_bytes)
                .bytes(position, 0, 4)
                .floats_mut_from(out, first * heads * value_dim, n * heads * value_dim)
                .int(kv_heads)
                .int(key_dim)
                .int(value_dim)
                .int(positions)
                .int(window)
                .float(shape.scale)
                .float(shape.soft_cap.unwrap_or(0.0))
                .run((value_dim.div_ceil(128), heads, n), (128, 1, 1), 0)
        });
    }
    let queries = n * heads / kv_heads; // of each key-value head
    let warps = if queries <= 16 { 1 } else { 4 };
    let tiles = queries.div_ceil(16 * warps);
    let count = parts(device, tiles * kv_heads, warps, (start + n).min(window + n));
    let room = if count == 1 { 0 } else { count * kv_heads * queries * (value_dim + 2) * 4 };
    let (from, len) = (first * heads * value_dim, n * heads * value_dim);
    // Rounded for the product that follows, where one has asked for it; groups of 32 must not cross heads.
    let rounds = out.codes().are_wanted() && value_dim.is_multiple_of(32);
    device.workspace().with(device, room, |workspace| {
        device.at_position(start, |position| {
            let launch = device
                .launch(&format!("attention{warps}_{key_dim}"))
                .floats_from(q, first * heads * key_dim, n * heads * key_dim)
                .bytes(&cache.keys, keys, key_bytes)
                .bytes(&cache.values, values, value_bytes)
                .bytes(position, 0, 4)
                .floats_mut_from(out, from, len);
            let launch = if count == 1 { launch.none() } else { launch.bytes_mut(workspace, 0, room) };
            let launch = give(launch, out, (from, len), rounds && count == 1);
            let launch = launch.int(n).int(heads).int(kv_heads).int(positions).int(window).float(shape.scale);
            launch.float(shape.soft_cap.unwrap_or(0.0)).run((tiles, kv_heads, count), (32 * warps, 1, 1), 0)
        })?;
        if count == 1 {
            return Ok(());
        }
        let launch = device.launch("combine").bytes(workspace, 0, room).floats_mut_from(out, from, len);
        let launch = give(launch, out, (from, len), rounds);
        let threads = (value_dim / 4).next_multiple_of(32);
        launch.int(count).int(heads).int(kv_heads).int(value_dim).run((n * heads, 1, 1), (threads, 1, 1), 0)
    })?;
    if rounds {
        // Rows are written one sequence after the other: with the last of them, all before are there too.
        out.codes().set_fresh(device, from + len);
    }
    Ok(())
}

/// Adds the 8-bit form of `len` floats to a launch, or null pointers.
fn give<'a>(launch: Launch<'a>, out: &Buffer, (from, len): (usize, usize), wanted: bool) -> Launch<'a> {
    if wanted { out.codes().give_from(launch, from, len, out.len()) } else { launch.none().none() }
}

/// Widths of heads that attention.cu is made for; others take the plain kernel.
const HEAD_DIMS: [usize; 5] = [64, 80, 96, 128, 256];

/// Positions that are worth a block of their own.
const PART: usize = 128;

/// Parts that positions are split into, so that `blocks` blocks of `warps` warps become enough for the device: eight warps on
/// each multiprocessor.
fn parts(device: &Device, blocks: usize, warps: usize, positions: usize) -> usize {
    let wanted = (8 * device.multiprocessors() / warps).div_ceil(blocks);
    wanted.min(positions.div_ceil(PART)).max(1)
}
