//! What bounds generation besides memory: how fast the products themselves are.

use crate::arch::Plan;
use crate::model::{Model, ModelTensor};
use qconv_kernels::{Backend, Product, Result as KernelResult};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Weights that stay in a cache.
const BYTES: usize = 4 << 20;

/// How long is measured, all formats together.
const TIME: Duration = Duration::from_millis(120);

/// Part of a tensor that one generated token reads: all, but for tables of which it takes one row (embeddings that are not the
/// output too, learned positions), and of experts those that it visits.
pub fn share_read(model: &Model, plan: &Plan, tensor: &ModelTensor) -> f64 {
    match tensor.name.as_str() {
        "token_embd.weight" if model.tensor("output.weight").is_some() => 0.0,
        "position_embd.weight" => 0.0,
        name if name.contains("_exps.") => plan.feed.experts.map_or(1.0, |e| e.used as f64 / e.count as f64),
        _ => 1.0,
    }
}

/// How fast the products of one token are when no weight has to come from memory. Below the bandwidth of memory, arithmetic is
/// what bounds generation.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Cached {
    /// GB/s over all weights that a token reads, as the formats share them.
    pub rate: f64,
    /// Each format, the one with most bytes first.
    pub formats: Vec<CachedFormat>,
}

/// One format's part of [`Cached`].
#[derive(Debug, Clone, serde::Serialize)]
pub struct CachedFormat {
    /// Its name.
    pub format: &'static str,
    /// Bytes that a token reads in this format.
    pub bytes: f64,
    /// GB/s.
    pub rate: f64,
}

/// Measures [`Cached`], in about an eighth of a second: of each format so many rows of its largest matrix as 4 MiB hold. `None` for a model
/// without matrices.
pub fn cached<B: Backend>(backend: &B, model: &Model, plan: &Plan) -> anyhow::Result<Option<Cached>> {
    let mut formats: BTreeMap<&'static str, (f64, &ModelTensor)> = BTreeMap::new();
    for tensor in model.tensors().iter().filter(|t| t.shape.dims().len() >= 2) {
        let bytes = share_read(model, plan, tensor) * tensor.stored_bytes() as f64;
        if bytes > 0.0 {
            let (sum, largest) = formats.entry(tensor.format.name).or_insert((0.0, tensor));
            *sum += bytes;
            if tensor.stored_bytes() > largest.stored_bytes() {
                *largest = tensor;
            }
        }
    }
    let time = TIME / formats.len().max(1) as u32;
    let measure = |(format, (bytes, tensor))| -> anyhow::Result<CachedFormat> {
        Ok(CachedFormat { format, bytes, rate: rate(backend, model, tensor, time)? })
    };
    let mut formats = formats.into_iter().map(measure).collect::<anyhow::Result<Vec<_>>>()?;
    formats.sort_by(|a, b| b.bytes.total_cmp(&a.bytes));
    let (bytes, seconds) = formats.iter().fold((0.0, 0.0), |(b, s), f| (b + f.bytes, s + f.bytes / f.rate));
    Ok((bytes > 0.0).then_some(Cached { rate: bytes / seconds, formats }))
}

/// GB/s of one token's product with some rows of a matrix, again and again: the median.
fn rate<B: Backend>(backend: &B, model: &Model, tensor: &ModelTensor, time: Duration) -> anyhow::Result<f64> {
    let packed = model.packed(tensor)?;
    let rows = (BYTES / packed.row_bytes().max(1)).clamp(1, packed.shape().rows());
    let (part, cols) = (packed.rows(0..rows), packed.shape().cols());
    let size = part.bytes().len();
    let weight = backend.weight(part)?;
    let mut x = backend.buffer(cols)?;
    backend.write(&vec![0.5; cols], &mut x)?;
    let mut out = backend.buffer(rows)?;
    let mut once = || -> KernelResult<f64> {
        let start = Instant::now();
        backend.matmul(&x, 1, &mut [Product { weight: &weight, bias: None, out: &mut out }])?;
        Ok(start.elapsed().as_secs_f64())
    };
    let mut times = vec![once()?];
    let begin = Instant::now();
    while begin.elapsed() < time {
        times.push(once()?);
    }
    times.sort_unstable_by(f64::total_cmp);
    Ok(size as f64 / times[times.len() / 2] / 1e9)
}
