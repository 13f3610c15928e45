//! The CPU backend.
//!
//! [`Cpu`] computes on packed weights where they lie (in the mapped file), on its own threads ([`Options::threads`])
//! and with the instruction set that it finds ([`Options::isa`]). Results do not depend on the number of threads: every
//! output element is summed by one thread in a fixed order.

mod ahead;
#[cfg(target_arch = "x86_64")]
mod amx;
mod attention;
mod bandwidth;
mod cache;
mod compiled;
mod cores;
mod elements;
mod float;
mod isa;
mod matmul;
mod memory;
pub mod moments;
mod placing;
mod pool;
mod products;
mod profile;
pub mod quantize;
mod rope;
mod rounding;
mod shares;
mod simd;
#[cfg(test)]
mod tests;
mod tile;
mod vendor;
mod way;
mod weight;

pub use bandwidth::Bandwidth;
pub use cache::Cache;
pub use compiled::{Work, compiled};
pub use cores::physical_cores;
pub use isa::{Amx, Avx2, Avx512, Avx512Bf16, Avx512Vbmi, AvxVnni, Isa};
pub use weight::Weight;

use crate::{Activation, Attention, Backend, CacheShape, Error, KernelTime, Norm, Product, Result, Rope};
use elements::{Apply, Function, NormRow};
use memory::{Aligned, Split, Workspace};
use placing::Placing;
use pool::Pool;
use profile::Profile;
use qconv_formats::{QTensor, SharedBytes};
use simd::dispatch;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::{Mutex, PoisonError};
use way::Way;

/// Elements below which a loop is not worth waking other threads for.
const SMALL: usize = 16 * 1024;

/// What the caller may choose; the default is the fastest on this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Threads, the caller's included; `None` for the physical cores that the process may use.
    pub threads: Option<usize>,
    /// The best instruction set to use; `None` for the best there is. The environment variable `QCONV_ISA` caps it too.
    pub isa: Option<Isa>,
    /// Precision of activations in products with block-quantized weights.
    pub activations: Activations,
    /// Precision of the key-value cache.
    pub kv: Kv,
    /// Where weights are read from.
    pub weights: Weights,
}

/// Where weights are read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Weights {
    /// The mapped file: no load time, and pages that all processes share and the system may drop.
    #[default]
    Mapped,
    /// A copy in memory with huge pages, where the system gives them: faster to read, for as much memory again and the time
    /// to copy.
    Copied,
    /// A copy where that pays: huge pages were just measured to be read a tenth faster at least, and a quarter of the
    /// machine's memory stays free. [`Backend::name`] tells what came of it.
    Auto,
}

/// Precision of activations in products with block-quantized and with BF16 weights. F32 and F16 weights always meet f32
/// activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activations {
    /// For block-quantized weights rounded to 8 bits with one f32 scale for 32 neighbours. llama.cpp does the same, with
    /// one scale for 256 in K-quants.
    ///
    /// For BF16 weights rounded to BF16 (as llama.cpp does) where more than a few tokens are multiplied together and the
    /// CPU has a BF16 dot product; otherwise f32.
    ///
    /// With AMX and many tokens both, and the weights, are rounded to BF16.
    #[default]
    Int8,
    /// f32 throughout.
    Exact,
    /// For all weights simulated in f32: rounded to 8 bits with one scale for each token.
    Int8Token,
    /// The same with one scale for all tokens that are computed together.
    Int8Tensor,
    /// The same with one scale for each token, and columns in which any activation reaches 6 left as they are (LLM.int8,
    /// Dettmers et al. 2022).
    LlmInt8,
}

/// Precision of the key-value cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kv {
    /// Half precision, as llama.cpp's default.
    #[default]
    F16,
    /// 8 bits and a half-precision scale for 32 numbers: a little more than half the memory of half precision.
    Q8,
    /// f32, for parity checks.
    F32,
}

/// The CPU backend; see the module.
pub struct Cpu {
    options: Options,
    isa: Isa,
    pool: Pool,
    angles: rope::Angles,
    workspace: Workspace,
    /// Activations of the product being computed, rounded; kept so that memory is asked for once.
    panel: Mutex<products::Panel>,
    placing: Placing,
    /// The same, where rounding is only simulated.
    rounded: Mutex<Vec<f32>>,
    profile: Profile,
}

/// f32 activations.
pub struct Buffer(Aligned<f32>);

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}

impl Cpu {
    /// Starts the threads. Errors: an instruction set that is not here, no thread to be had, zero threads asked for.
    pub fn new(options: Options) -> Result<Self> {
        let isa = Isa::pick(options.isa)?;
        let threads = options.threads.unwrap_or_else(physical_cores);
        if !(1..=1024).contains(&threads) {
            return Err(Error::Unavailable(format!("{threads} threads were asked for; 1 to 1024 are possible")));
        }
        let pool = Pool::new(threads)
            .map_err(|e| Error::Unavailable(format!("the system did not start {threads} threads: {e}")))?;
        let (panel, rounded) = (Mutex::new(products::Panel::new()?), Mutex::default());
        let (angles, workspace, placing) =
            (rope::Angles::default(), Workspace::default(), Placing::new(options.weights));
        let mut cpu =
            Cpu { options, isa, pool, angles, workspace, panel, rounded, placing, profile: Profile::default() };
        if options.weights == Weights::Auto {
            cpu.placing.measured(cpu.bandwidth()?);
        }
        Ok(cpu)
    }

    /// Threads in use, the caller's included.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The choices made.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The same tensor in memory of its own, copied by all threads.
    fn copy(&self, tensor: QTensor) -> Result<QTensor> {
        const PIECE: usize = 1 << 20;
        let from = tensor.bytes();
        let mut bytes = Aligned::<u8>::zeroed(from.len(), "a copy of the weights (see --weights)")?;
        let to = Split::new(&mut bytes);
        self.pool.run(from.len().div_ceil(PIECE), |i| {
            let from = &from[i * PIECE..from.len().min((i + 1) * PIECE)];
            // SAFETY: each piece belongs to one item.
            unsafe { to.slice(i * PIECE, from.len()) }.copy_from_slice(from);
        });
        let range = 0..from.len();
        let bytes = SharedBytes::new(Arc::new(bytes), range);
        let copied = QTensor::new(tensor.format(), tensor.shape().clone(), bytes);
        Ok(copied.expect("the shape and the size are those of the original"))
    }

    /// See [`Backend::matmul`].
    fn multiply(&self, x: &[f32], n: usize, outs: &mut [Product<'_, Cpu>]) -> Result<()> {
        let Some(cols) = outs.first().map(|p| p.weight.cols()) else { return Ok(()) };
        let mut rounded = self.rounded.lock().unwrap_or_else(PoisonError::into_inner);
        let simulated = rounding::round(self.options.activations, x, n, cols, &mut rounded);
        let x: &[f32] = if simulated { &rounded } else { x };
        for outs in outs.chunk_by_mut(|a, b| Way::of(self, n, a.weight) == Way::of(self, n, b.weight)) {
            match Way::of(self, n, outs[0].weight) {
                #[cfg(target_arch = "x86_64")]
                Way::Matrices(amx) => amx::matmul(self, amx, x, n, outs)?,
                Way::Floats => {
                    let begun = self.profile.begin();
                    float::matmul(self, x, n, outs)?;
                    let formats = outs.iter().map(|p| p.weight.tensor().format().name);
                    self.profile.end(begun, || profile::products(formats));
                }
                Way::Packed => matmul::matmul(self, x, n, outs)?,
            }
        }
        Ok(())
    }

    /// Runs `f` over rows of `width` floats of `x`, in parallel where that pays.
    fn rows(&self, x: &mut [f32], rows: usize, width: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
        let x = Split::new(&mut x[..rows * width]);
        let grain = (SMALL / 4 / width.max(1)).max(1);
        let each = |item: usize| {
            for row in item * grain..rows.min((item + 1) * grain) {
                // SAFETY: each row belongs to one item.
                f(row, unsafe { x.slice(row * width, width) });
            }
        };
        if rows * width < SMALL {
            (0..rows.div_ceil(grain)).for_each(each);
        } else {
            self.pool.run(rows.div_ceil(grain), each);
        }
    }

    /// Runs `f` over pieces of the first `len` floats of `x`; `f` is given the piece's start.
    fn pieces(&self, x: &mut [f32], len: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
        const PIECE: usize = SMALL / 4;
        let whole = len / PIECE;
        let (head, tail) = x[..len].split_at_mut(whole * PIECE);
        self.rows(head, whole, PIECE, |row, piece| f(row * PIECE, piece));
        f(whole * PIECE, tail);
    }

    /// `x = f(x, y)` over the first `len` elements; `y` is empty where `f` does not need it.
    fn apply(&self, f: impl Function + Sync, x: &mut [f32], y: &[f32], len: usize) {
        assert!(y.is_empty() || y.len() >= len, "the second operand is shorter");
        let begun = self.profile.begin();
        self.pieces(x, len, |start, x| {
            let y = if y.is_empty() { y } else { &y[start..start + x.len()] };
            dispatch(self.isa, Apply { f, x, y });
        });
        self.profile.end(begun, || "element by element".into());
    }
}

impl Backend for Cpu {
    type Weight = Weight;
    type Buffer = Buffer;
    type Cache = Cache;
    type Recording = ();
    type Mixture = std::convert::Infallible; // the host picks

    fn name(&self) -> String {
        let threads = self.threads();
        let plural = if threads == 1 { "" } else { "s" };
        format!("cpu ({}, {threads} thread{plural}{})", self.isa.name(), self.placing)
    }

    fn start_profile(&self) {
        self.profile.start();
    }

    fn kernel_times(&self) -> Result<Vec<KernelTime>> {
        Ok(self.profile.take())
    }

    fn read_bandwidth(&self) -> Option<f64> {
        self.bandwidth().ok().map(Bandwidth::best)
    }

    fn product_peak(&self) -> Option<f64> {
        Some(Cpu::product_peak(self))
    }

    fn weight(&self, tensor: QTensor) -> Result<Weight> {
        if self.placing.copies(tensor.bytes().len()) { Weight::new(self.copy(tensor)?) } else { Weight::new(tensor) }
    }

    fn buffer(&self, len: usize) -> Result<Buffer> {
        Aligned::zeroed(len, "a buffer of activations").map(Buffer)
    }

    fn cache_head_bytes(&self, dim: usize) -> usize {
        cache::head_bytes(self.options.kv, dim)
    }

    fn cache_block(&self) -> usize {
        cache::BLOCK
    }

    fn cache(&self, shape: CacheShape) -> Result<Cache> {
        Cache::new(&self.options, shape)
    }

    fn read(&self, from: &Buffer, out: &mut [f32]) -> Result<()> {
        out.copy_from_slice(&from[..out.len()]);
        Ok(())
    }

    fn write(&self, from: &[f32], to: &mut Buffer) -> Result<()> {
        to[..from.len()].copy_from_slice(from);
        Ok(())
    }

    fn embed(&self, table: &Weight, rows: &[u32], out: &mut Buffer) -> Result<()> {
        let each = |i: usize, out: &mut [f32]| table.dequantize(rows[i] as usize, 0, out);
        let begun = self.profile.begin();
        self.rows(out, rows.len(), table.cols(), each);
        self.profile.end(begun, || "embeddings".into());
        Ok(())
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
        let weight = &weight.vector()[..cols];
        let bias = bias.map(|b| &b.vector()[..cols]);
        let each = |row: usize, out: &mut [f32]| {
            let x = &x[row * cols..][..cols];
            dispatch(self.isa, NormRow { norm, eps, weight, bias, x, out });
        };
        let begun = self.profile.begin();
        self.rows(out, rows, cols, each);
        self.profile.end(begun, || "norm".into());
        Ok(())
    }

    fn matmul(&self, x: &Buffer, n: usize, outs: &mut [Product<'_, Self>]) -> Result<()> {
        self.multiply(x, n, outs)
    }

    fn rope(&self, rope: &Rope, x: &mut Buffer, n: usize, heads: usize, head_dim: usize, start: usize) -> Result<()> {
        let begun = self.profile.begin();
        self.angles.rotate(&self.pool, self.isa, rope, x, 1, n, heads, head_dim, start);
        self.profile.end(begun, || "rope".into());
        Ok(())
    }

    fn store(&self, cache: &mut Cache, layer: usize, k: &Buffer, v: &Buffer, start: usize, n: usize) -> Result<()> {
        let begun = self.profile.begin();
        cache.store(&self.pool, self.isa, layer, k, v, start, n);
        self.profile.end(begun, || "keys and values".into());
        Ok(())
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
        let begun = self.profile.begin();
        let done = attention::attention(&self.pool, self.isa, &self.workspace, shape, q, cache, layer, start, n, out);
        self.profile.end(begun, || "attention".into());
        done
    }

    /// One scale for all rows would make them depend on each other.
    fn takes_several(&self) -> bool {
        self.options.activations != Activations::Int8Tensor
    }

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
        let begun = self.profile.begin();
        let (pool, isa, sequences) = (&self.pool, self.isa, caches.len());
        let &Attention { heads, kv_heads, key_dim, value_dim, .. } = shape;
        if let Some(rope) = rope {
            self.angles.rotate(pool, isa, rope, q, sequences, n, heads, key_dim, start);
            self.angles.rotate(pool, isa, rope, k, sequences, n, kv_heads, key_dim, start);
        }
        // Sequence after sequence: a loop over all of them at once would gain little, since each has items for many threads.
        for (i, cache) in caches.iter_mut().enumerate() {
            let row = i * n;
            let (k, v) = (&k[row * kv_heads * key_dim..], &v[row * kv_heads * value_dim..]);
            cache.store(pool, isa, layer, k, v, start, n);
            let (q, out) = (&q[row * heads * key_dim..], &mut out[row * heads * value_dim..]);
            attention::attention(pool, isa, &self.workspace, shape, q, cache, layer, start, n, out)?;
        }
        self.profile.end(begun, || "rope, keys and values, attention".into());
        Ok(())
    }

    fn gate(&self, activation: Activation, gate: &mut Buffer, up: &Buffer, len: usize) -> Result<()> {
        match activation {
            Activation::Silu => self.apply(elements::Gate(elements::Silu), gate, up, len),
            Activation::GeluTanh => self.apply(elements::Gate(elements::GeluTanh), gate, up, len),
            Activation::GeluErf => self.apply(elements::Gate(elements::GeluErf), gate, up, len),
            Activation::Relu => self.apply(elements::Gate(elements::Relu), gate, up, len),
        }
        Ok(())
    }

    fn activate(&self, activation: Activation, x: &mut Buffer, len: usize) -> Result<()> {
        match activation {
            Activation::Silu => self.apply(elements::Silu, x, &[], len),
            Activation::GeluTanh => self.apply(elements::GeluTanh, x, &[], len),
            Activation::GeluErf => self.apply(elements::GeluErf, x, &[], len),
            Activation::Relu => self.apply(elements::Relu, x, &[], len),
        }
        Ok(())
    }

    fn add(&self, x: &mut Buffer, y: &Buffer, len: usize) -> Result<()> {
        self.apply(elements::Add, x, y, len);
        Ok(())
    }

    fn scale(&self, x: &mut Buffer, factor: f32, len: usize) -> Result<()> {
        self.apply(elements::Scale(factor), x, &[], len);
        Ok(())
    }

    fn soft_cap(&self, x: &mut Buffer, cap: f32, len: usize) -> Result<()> {
        self.apply(elements::SoftCap(cap), x, &[], len);
        Ok(())
    }

    fn argmax(&self, x: &Buffer, len: usize, out: &mut Buffer) -> Result<()> {
        out[0] = elements::argmax(&x[..len]);
        Ok(())
    }

    fn gather(&self, x: &Buffer, rows: &[u32], cols: usize, out: &mut Buffer) -> Result<()> {
        self.rows(out, rows.len(), cols, |i, out| out.copy_from_slice(&x[rows[i] as usize * cols..][..cols]));
        Ok(())
    }

    fn scatter_add(&self, x: &Buffer, rows: &[u32], factors: &[f32], cols: usize, out: &mut Buffer) -> Result<()> {
        // In order: the same row may come twice, and additions must not change places.
        for (i, (row, factor)) in rows.iter().zip(factors).enumerate() {
            let out = &mut out[*row as usize * cols..][..cols];
            out.iter_mut().zip(&x[i * cols..]).for_each(|(o, x)| *o += factor * x);
        }
        Ok(())
    }
}
