//! Products with weights, and embeddings: which kernel computes what.
//!
//! | weights | up to 8 tokens | more |
//! |---|---|---|
//! | quantized | `matvec1_`, `matvec8_`: 8-bit activations | `matmul16_`, `matmul64_`: 8-bit activations, tensor cores |
//! | F16, BF16 | the same names: f32 activations | `matmul16_`, `matmul128_`: activations of the same type, tensor cores |
//! | F32, BF16 where tensor cores lack it (Turing) | the same | `matvec8_`, eight tokens at a time |
//!
//! Weights of one format that share activations go in one launch; with a single token also weights of two formats, where matvec.cu
//! has a kernel for the pair (`matvec1_Q4_K_Q6_K`).

use super::Cuda;
use super::activations::{Activations, Form, room};
use super::device::Device;
use super::launch::Launch;
use super::memory::{Buffer, Memory, ints_as_bytes};
use super::weight::Weight;
use crate::{Product, Result};
use qconv_formats::block::BlockFormat;

/// Products of one launch, as in parts.cuh.
const PARTS: usize = 3;

/// Weights that share a scale of 8-bit activations.
const GROUP: usize = 32;

/// Bytes of a row in a stage in shared memory, as in tiles.cuh, and how many stages matmul_floats.cu has there.
const STAGE: usize = 64;
const STAGES: usize = 3;

/// Tokens from which on the wide tiles pay: below, most of one would be empty.
pub(super) const WIDE: usize = 33;

/// Threads of a block.
#[derive(Clone, Copy)]
enum Threads {
    Fixed(usize),
    /// That share so many steps of columns, as many as the launch's blocks leave room for.
    Sharing(usize),
}

impl Threads {
    /// Of each of so many blocks.
    ///
    /// A block begins with finding its rows and ends with summing up, some 120 instructions of a warp, where 32 weights of four rows take
    /// 130 to 340: warps that take several steps each spend less on that. But a launch of few blocks needs its warps to have enough loads
    /// under way. The number depends on shapes alone, not on the device, so that sums are the same bits on all.
    fn of(self, device: &Device, blocks: usize) -> usize {
        match self {
            Threads::Fixed(threads) => threads,
            Threads::Sharing(steps) => {
                let most = steps.div_ceil(32).clamp(1, 4);
                let wanted = device.tuning().matvec_warps.div_ceil(blocks.max(1));
                32 * [1, 2, 4].into_iter().find(|warps| *warps >= wanted).unwrap_or(4).min(most)
            }
        }
    }
}

/// One kernel's work on a weight: what it is called, and its grid.
pub(super) struct Plan {
    pub kernel: String,
    pub form: Form,
    /// Rows and tokens of a block.
    pub tile: (usize, usize),
    threads: Threads,
    shared: usize,
    /// Tokens go along the grid's first dimension, so that neighbouring blocks share weights.
    tokens_first: bool,
}

impl Plan {
    /// With the kernels of matvec.cuh.
    pub fn few(kernel: String, format: &BlockFormat, cols: usize, n: usize) -> Self {
        let quantized = format.is_quantized();
        // A thread takes 32 weights at a time, or 16 bytes of floats.
        let steps = if quantized { cols / GROUP } else { cols * format.block_bytes / 16 };
        Plan {
            kernel,
            form: if quantized { Form::Codes } else { Form::Floats },
            tile: if n == 1 { (4, 1) } else { (2, 8) }, // as ROWS_OF there
            threads: Threads::Sharing(steps),
            shared: 0,
            tokens_first: false,
        }
    }

    /// Whether a format has the kernels of matmul.cu or matmul_floats.cu: F32 has not, and BF16 not on Turing.
    pub fn has_many(device: &Device, format: &BlockFormat) -> Result<bool> {
        device.has(&format!("matmul16_{}", format.name))
    }

    /// With these kernels, many tokens at a time or few.
    pub fn many(format: &BlockFormat, wide: bool) -> Self {
        let quantized = format.is_quantized();
        let tile = match (wide, quantized) {
            (false, _) => (64, 16),
            (true, true) => (128, 64),
            (true, false) => (128, 128),
        };
        Plan {
            kernel: format!("matmul{}_{}", tile.1, format.name),
            form: if quantized { Form::Codes } else { Form::Rounded },
            tile,
            threads: Threads::Fixed(if wide && quantized { 256 } else { 128 }),
            shared: if quantized { 0 } else { STAGES * (tile.0 + tile.1) * STAGE },
            tokens_first: true,
        }
    }

    fn of(device: &Device, w: &Weight, n: usize) -> Result<Self> {
        if n <= 8 || !Self::has_many(device, w.format)? {
            let most = if n == 1 { 1 } else { 8 };
            return Ok(Plan::few(format!("matvec{most}_{}", w.format.name), w.format, w.cols, n));
        }
        Ok(Plan::many(w.format, n >= WIDE))
    }

    /// `blocks` along the rows, for so many tiles of tokens. `each`: all of it as many times, for tokens of their own.
    pub fn run(&self, device: &Device, launch: Launch<'_>, blocks: usize, tiles: usize, each: usize) -> Result<()> {
        let grid = if self.tokens_first { (tiles, blocks, each) } else { (blocks, tiles, each) };
        launch.run(grid, (self.threads.of(device, blocks), 1, 1), self.shared)
    }
}

/// See [`crate::Backend::matmul`].
pub(super) fn matmul(device: &Device, x: &Buffer, n: usize, outs: &mut [Product<'_, Cuda>]) -> Result<()> {
    let Some(cols) = outs.first().map(|p| p.weight.cols) else { return Ok(()) };
    assert!(outs.iter().all(|p| p.weight.cols == cols), "weights that share activations have as many columns");
    // Products of one format side by side; within a format they keep their order.
    let mut order: Vec<&mut Product<'_, Cuda>> = outs.iter_mut().collect();
    order.sort_by_key(|p| (p.weight.format.is_quantized(), p.weight.format.ggml_id));
    let mut rest = &mut order[..];
    while let Some(first) = rest.first() {
        let mut plan = Plan::of(device, first.weight, n)?;
        let (same, both) = runs(rest);
        let mut pair = (n == 1 && both > same && both <= PARTS)
            .then(|| format!("{}_{}", plan.kernel, rest[same].weight.format.name));
        if let Some(kernel) = &pair
            && !device.has(kernel)?
        {
            pair = None;
        }
        let (count, second) = match pair {
            Some(kernel) => {
                plan.kernel = kernel;
                (both, Some(same))
            }
            None => (same.min(PARTS), None),
        };
        let (parts, others) = std::mem::take(&mut rest).split_at_mut(count);
        let activations = Activations { x, n, cols, order: None };
        device.workspace().with(device, room(plan.form, n, cols, false), |workspace| {
            activations.prepare(device, plan.form, parts[0].weight.format, workspace, 0)?;
            launch(device, &plan, parts, second, &activations, workspace)
        })?;
        rest = others;
    }
    Ok(())
}

/// How many of the first products are of the first's format, and how many of that or the next format.
fn runs(products: &[&mut Product<'_, Cuda>]) -> (usize, usize) {
    let run = |from: usize| {
        let rest = products.get(from..).unwrap_or_default();
        let of = |p: &&&mut Product<'_, Cuda>| p.weight.format == rest[0].weight.format;
        rest.iter().take_while(of).count()
    };
    let same = run(0);
    (same, same + run(same))
}

/// One product of a launch, as in parts.cuh.
pub(super) struct Part<'a> {
    /// Packed rows, or with tiles the addresses of each expert's.
    pub weight: &'a Memory,
    pub bias: Option<&'a Weight>,
    pub out: &'a mut Buffer,
    pub rows: usize,
}

/// Begins a launch of up to three products, with `n` rows of results each.
pub(super) fn give_parts<'l>(mut launch: Launch<'l>, parts: &mut [Part<'_>], n: usize) -> Launch<'l> {
    for i in 0..PARTS {
        launch = match parts.get_mut(i) {
            Some(Part { weight, bias, out, rows }) => {
                launch = launch.bytes(weight, 0, weight.len());
                launch = match bias {
                    Some(bias) => launch.bytes(&bias.memory, 0, *rows * 4),
                    None => launch.none(),
                };
                launch.floats_mut(out, n * *rows).int(*rows)
            }
            None => launch.none().none().none().int(0),
        };
    }
    launch
}

/// `second`: the first of the parts that are of a second format, for kernels of two.
fn launch(
    device: &Device,
    plan: &Plan,
    products: &mut [&mut Product<'_, Cuda>],
    second: Option<usize>,
    activations: &Activations<'_>,
    workspace: &Memory,
) -> Result<()> {
    let blocks = products.iter().map(|p| p.weight.rows.div_ceil(plan.tile.0)).sum();
    let parts = products.iter_mut().map(|p| {
        let Product { weight, bias, out } = &mut **p;
        Part { weight: &weight.memory, bias: *bias, out, rows: weight.rows }
    });
    let mut parts: Vec<_> = parts.collect();
    let &Activations { n, cols, .. } = activations;
    let launch = give_parts(device.launch(&plan.kernel), &mut parts, n);
    let launch = activations.give(launch, plan.form, workspace, 0).int(cols).int(n);
    // Kernels for many tokens may have a table of tiles; all tokens have the same weights here.
    let launch = if plan.tokens_first { launch.none() } else { launch };
    plan.run(device, second.into_iter().fold(launch, Launch::int), blocks, n.div_ceil(plan.tile.1), 1)
}

/// See [`crate::Backend::embed`].
pub(super) fn embed(device: &Device, table: &Weight, rows: &[u32], out: &mut Buffer) -> Result<()> {
    assert!(rows.iter().all(|r| (*r as usize) < table.rows), "rows outside the table");
    let mut embed = |memory: &Memory| embed_rows(device, table, memory, rows.len(), out);
    if rows.len() <= Device::FEW_TOKENS {
        // Where a recorded step's will be looked for.
        return device.at_tokens(rows, embed);
    }
    device.staged(ints_as_bytes(rows), &mut embed)
}

/// See [`crate::Backend::embed_position`]: the row's number lies where a recorded token finds its position.
pub(super) fn embed_position(device: &Device, table: &Weight, position: usize, out: &mut Buffer) -> Result<()> {
    assert!(position < table.rows, "a position outside the table");
    device.at_position(position, |row| embed_rows(device, table, row, 1, out))
}

fn embed_rows(device: &Device, table: &Weight, rows: &Memory, count: usize, out: &mut Buffer) -> Result<()> {
    device
        .launch(&format!("embed_{}", table.format.name))
        .bytes(&table.memory, 0, table.bytes())
        .bytes(rows, 0, count * 4)
        .floats_mut(out, count * table.cols)
        .int(table.cols)
        .run(((table.cols / GROUP).div_ceil(64).max(1), count, 1), (64, 1, 1), 0)
}
