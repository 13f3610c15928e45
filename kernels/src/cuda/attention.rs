//! Attention and the key-value cache.

use super::device::Device;
use super::memory::{Buffer, Memory};
use crate::{Attention, CacheShape, Error, Result};

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
    pub(super) fn store(
        &mut self,
        device: &Device,
        layer: usize,
        k: &Buffer,
        v: &Buffer,
        start: usize,
        n: usize,
    ) -> Result<()> {
        let shape = self.shape;
        assert!(layer < shape.layers && start + n <= shape.positions, "positions outside the cache");
        let (key_bytes, value_bytes) = self.layer_bytes();
        for (x, width, cache, bytes) in
            [(k, shape.key_width, &mut self.keys, key_bytes), (v, shape.value_width, &mut self.values, value_bytes)]
        {
            device.at_position(start, |position| {
                device
                    .launch("store")
                    .floats(x, n * width)
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
}

/// See [`crate::Backend::attention`].
#[allow(clippy::too_many_arguments)] // as in the trait
pub(super) fn attention(
    device: &Device,
    shape: &Attention,
    q: &Buffer,
    cache: &Cache,
    layer: usize,
    start: usize,
    n: usize,
    out: &mut Buffer,
) -> Result<()> {
    let &Attention { heads, kv_heads, key_dim, value_dim, .. } = shape;
    let CacheShape { layers, positions, key_width, value_width, .. } = cache.shape;
    assert!(key_width == kv_heads * key_dim && value_width == kv_heads * value_dim, "the cache has other heads");
    assert!(layer < layers && start + n <= positions, "positions outside the cache");
    let (key_bytes, value_bytes) = cache.layer_bytes();
    device.at_position(start, |position| {
        device
            .launch("plain_attention")
            .floats(q, n * heads * key_dim)
            .bytes(&cache.keys, layer * key_bytes, key_bytes)
            .bytes(&cache.values, layer * value_bytes, value_bytes)
            .bytes(position, 0, 4)
            .floats_mut(out, n * heads * value_dim)
            .int(kv_heads)
            .int(key_dim)
            .int(value_dim)
            .int(positions)
            .int(shape.window.unwrap_or(positions))
            .float(shape.scale)
            .float(shape.soft_cap.unwrap_or(0.0))
            .run((value_dim.div_ceil(128), heads, n), (128, 1, 1), 0)
    })
}
