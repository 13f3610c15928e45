//! What bounds generation besides memory: how fast the products themselves are.

use crate::arch::Plan;
use crate::model::{Model, ModelTensor};
use qconv_kernels::{Backend, Product, Result as KernelResult};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Weights that stay in a cache.
const BYTES: usize = 4 << 20;

/// How long is measured.
const TIME: Duration = Duration::from_millis(60);

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

/// GB/s at which the products of one token read weights that lie in a cache: of the format that most bytes of the layers
/// are in, so many rows of its largest matrix as 4 MiB hold. Below the bandwidth of memory, arithmetic is what bounds
/// generation. `None` for a model without matrices in its layers.
pub fn cached_rate<B: Backend>(backend: &B, model: &Model) -> anyhow::Result<Option<(&'static str, f64)>> {
    let mut bytes: BTreeMap<&str, u64> = BTreeMap::new();
    model.layer_matrices().for_each(|t| *bytes.entry(t.format.name).or_default() += t.stored_bytes());
    let Some((format, _)) = bytes.into_iter().max_by_key(|(_, bytes)| *bytes) else { return Ok(None) };
    let of_format = model.layer_matrices().filter(|t| t.format.name == format);
    let Some(tensor) = of_format.max_by_key(|t| t.stored_bytes()) else { return Ok(None) };
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
    while begin.elapsed() < TIME {
        times.push(once()?);
    }
    times.sort_unstable_by(f64::total_cmp);
    Ok(Some((tensor.format.name, size as f64 / times[times.len() / 2] / 1e9)))
}
