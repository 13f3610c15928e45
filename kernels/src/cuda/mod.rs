//! The CUDA backend: packed weights and everything else in the memory of an NVIDIA device, Turing (7.5) or newer.
//!
//! Kernels are in `kernels/cuda/*.cu` (its README has the conventions). They are compiled ahead and embedded (`images.rs`), so
//! that a user's machine needs the NVIDIA driver and nothing else; the driver's library is looked for when [`Cuda::new`] is
//! called. All launches go through `launch.rs`.
//!
//! Without a GPU the same host code and the same kernels run on a stand-in for the driver: see `kernels/cuda/cpu`.

mod activations;
mod attention;
mod bandwidth;
mod device;
mod driver;
mod elements;
mod experts;
mod images;
mod launch;
mod layout;
mod matmul;
mod memory;
mod nvml;
mod profile;
mod record;
#[cfg(test)]
mod tests;
mod tuning;
mod weight;
mod workspace;

pub use experts::Mixture;
pub use memory::Buffer;
pub use record::Recording;
pub use weight::Weight;

use crate::{
    Activation, Attention, Backend, CacheShape, DeviceUse, ExpertWeights, KernelTime, MixBuffers, Mixing, Norm,
    Product, Result, Rope, Stopwatch,
};
use attention::Rows;
use device::Device;
use elements::{Input, Normalize};
use qconv_formats::QTensor;
use std::sync::{Mutex, PoisonError};

pub use attention::Cache;

/// What the caller may choose.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Which of the machine's devices, counted as the driver does.
    pub device: usize,
}

/// The CUDA backend; see the module.
pub struct Cuda {
    device: Device,
    watch: Mutex<Option<Result<nvml::Watch, String>>>,
}

/// What a device is called that is no card but the stand-in of the tests: its times say nothing of any card.
pub const STAND_IN: &str = "stand-in on the CPU";

impl Cuda {
    /// Opens a device. Errors, each a sentence: no driver, no device, one that is too old, a driver that is too old.
    pub fn new(options: Options) -> Result<Self> {
        Ok(Cuda { device: Device::open(options.device)?, watch: Mutex::default() })
    }

    /// Bytes of the device's memory that are free, and all of them.
    pub fn memory(&self) -> Result<(u64, u64)> {
        self.device.memory()
    }
}

impl Backend for Cuda {
    type Weight = Weight;
    type Buffer = Buffer;
    type Cache = Cache;
    type Recording = Recording;
    type Mixture = Mixture;

    fn read_bandwidth(&self) -> Option<f64> {
        bandwidth::copy(&self.device).ok()
    }

    fn begin_step(&self, recording: &mut Recording, at: Option<(&[u32], usize)>) -> Result<bool> {
        record::begin(&self.device, recording, at)
    }

    fn end_step(&self, recording: &mut Recording, outcome: Result<()>) -> Result<bool> {
        record::end(&self.device, recording, outcome)
    }

    fn stopwatch(&self) -> Result<Stopwatch<'_>> {
        self.device.stopwatch()
    }

    fn watch_device(&self) {
        *self.watch.lock().unwrap_or_else(PoisonError::into_inner) = Some(nvml::Watch::start(&self.device));
    }

    fn device_use(&self) -> Option<DeviceUse> {
        match &*self.watch.lock().unwrap_or_else(PoisonError::into_inner) {
            None => None,
            Some(Ok(watch)) => Some(watch.seen()),
            Some(Err(why)) => Some(DeviceUse::Unknown(why.clone())),
        }
    }

    fn start_profile(&self) {
        self.device.start_profile();
    }

    fn kernel_times(&self) -> Result<Vec<KernelTime>> {
        self.device.kernel_times()
    }

    fn name(&self) -> String {
        self.device.name()
    }

    fn weight(&self, tensor: QTensor) -> Result<Weight> {
        Weight::upload(&self.device, &tensor)
    }

    fn most_rows(&self, width: usize) -> usize {
        launch::MOST_BLOCKS.min(launch::MOST_INT / width.max(1))
    }

    fn buffer(&self, len: usize) -> Result<Buffer> {
        Buffer::zeroed(&self.device, len)
    }

    fn cache_float_bytes(&self) -> usize {
        attention::FLOAT_BYTES
    }

    fn cache(&self, shape: CacheShape) -> Result<Cache> {
        Cache::new(&self.device, shape)
    }

    fn read(&self, from: &Buffer, out: &mut [f32]) -> Result<()> {
        from.read(&self.device, out)
    }

    fn write(&self, from: &[f32], to: &mut Buffer) -> Result<()> {
        to.write(&self.device, from)
    }

    fn embed(&self, table: &Weight, rows: &[u32], out: &mut Buffer) -> Result<()> {
        matmul::embed(&self.device, table, rows, out)
    }

    fn embed_position(&self, table: &Weight, position: usize, out: &mut Buffer) -> Result<()> {
        matmul::embed_position(&self.device, table, position, out)
    }

    fn norm(
        &self,
        norm: Norm,
        eps: f32,
        weight: &Weight,
        bias: Option<&Weight>,
        x: &Buffer,
        out: &mut Buffer,
        rows: usize,
        cols: usize,
    ) -> Result<()> {
        let normalize = Normalize { norm, eps, weight, bias, rows, cols };
        normalize.run(&self.device, Input::Floats(x), out)
    }

    fn add_norm(
        &self,
        x: &mut Buffer,
        y: &Buffer,
        norm: Norm,
        eps: f32,
        weight: &Weight,
        bias: Option<&Weight>,
        out: &mut Buffer,
        rows: usize,
        cols: usize,
    ) -> Result<()> {
        let normalize = Normalize { norm, eps, weight, bias, rows, cols };
        normalize.run(&self.device, Input::Sum(x, y), out)
    }

    fn matmul(&self, x: &Buffer, n: usize, outs: &mut [Product<'_, Self>]) -> Result<()> {
        matmul::matmul(&self.device, x, n, outs)
    }

    fn rope(&self, rope: &Rope, x: &mut Buffer, n: usize, heads: usize, head_dim: usize, start: usize) -> Result<()> {
        elements::rope(&self.device, rope, x, Rows::all(start, n), heads, head_dim)
    }

    fn store(&self, cache: &mut Cache, layer: usize, k: &Buffer, v: &Buffer, start: usize, n: usize) -> Result<()> {
        cache.store(&self.device, layer, k, v, Rows::all(start, n))
    }

    fn rope_store(
        &self,
        rope: &Rope,
        heads: usize,
        kv_heads: usize,
        key_dim: usize,
        q: &mut Buffer,
        k: &mut Buffer,
        v: &Buffer,
        cache: &mut Cache,
        layer: usize,
        start: usize,
        n: usize,
    ) -> Result<()> {
        if cache.is_even() {
            return cache.rope_store(&self.device, layer, rope, heads, q, k, v, Rows::all(start, n));
        }
        self.rope(rope, q, n, heads, key_dim, start)?;
        self.rope(rope, k, n, kv_heads, key_dim, start)?;
        self.store(cache, layer, k, v, start, n)
    }

    fn attention(
        &self,
        shape: &Attention,
        q: &Buffer,
        cache: &Cache,
        layer: usize,
        start: usize,
        n: usize,
        out: &mut Buffer,
    ) -> Result<()> {
        attention::attention(&self.device, shape, q, cache, layer, Rows::all(start, n), out)
    }

    fn takes_several(&self) -> bool {
        true
    }

    // One sequence after the other: what is shared is the products, which read weights once for all of them.
    fn attend_each(
        &self,
        rope: Option<&Rope>,
        shape: &Attention,
        q: &mut Buffer,
        k: &mut Buffer,
        v: &Buffer,
        caches: &mut [&mut Cache],
        layer: usize,
        start: usize,
        n: usize,
        out: &mut Buffer,
    ) -> Result<()> {
        for (i, cache) in caches.iter_mut().enumerate() {
            let rows = Rows { first: i * n, start, n };
            match rope {
                Some(rope) if cache.is_even() => {
                    cache.rope_store(&self.device, layer, rope, shape.heads, q, k, v, rows)?;
                }
                rope => {
                    if let Some(rope) = rope {
                        elements::rope(&self.device, rope, q, rows, shape.heads, shape.key_dim)?;
                        elements::rope(&self.device, rope, k, rows, shape.kv_heads, shape.key_dim)?;
                    }
                    cache.store(&self.device, layer, k, v, rows)?;
                }
            }
            attention::attention(&self.device, shape, q, cache, layer, rows, out)?;
        }
        Ok(())
    }

    fn mixture(&self, mixing: Mixing, experts: &ExpertWeights<'_, Self>) -> Result<Option<Mixture>> {
        Mixture::new(&self.device, mixing, experts)
    }

    fn mixes(&self, mixture: &Mixture, n: usize) -> bool {
        mixture.mixes(n)
    }

    fn mix(
        &self,
        mixture: &Mixture,
        scores: &Buffer,
        x: &Buffer,
        n: usize,
        work: MixBuffers<'_, Self>,
        out: &mut Buffer,
    ) -> Result<()> {
        mixture.run(&self.device, scores, x, n, work, out)
    }

    fn gate(&self, activation: Activation, gate: &mut Buffer, up: &Buffer, len: usize) -> Result<()> {
        elements::gate(&self.device, activation, gate, up, len)
    }

    fn activate(&self, activation: Activation, x: &mut Buffer, len: usize) -> Result<()> {
        elements::activate(&self.device, activation, x, len)
    }

    fn add(&self, x: &mut Buffer, y: &Buffer, len: usize) -> Result<()> {
        elements::add(&self.device, x, y, len)
    }

    fn scale(&self, x: &mut Buffer, factor: f32, len: usize) -> Result<()> {
        elements::scale(&self.device, x, factor, len)
    }

    fn soft_cap(&self, x: &mut Buffer, cap: f32, len: usize) -> Result<()> {
        elements::soft_cap(&self.device, x, cap, len)
    }

    fn argmax(&self, x: &Buffer, len: usize, out: &mut Buffer) -> Result<()> {
        elements::argmax(&self.device, x, len, out)
    }

    fn gather(&self, x: &Buffer, rows: &[u32], cols: usize, out: &mut Buffer) -> Result<()> {
        elements::gather(&self.device, x, rows, cols, out)
    }

    fn scatter_add(&self, x: &Buffer, rows: &[u32], factors: &[f32], cols: usize, out: &mut Buffer) -> Result<()> {
        elements::scatter_add(&self.device, x, rows, factors, cols, out)
    }
}
