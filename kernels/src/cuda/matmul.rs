//! Products with weights, and embeddings.

use super::Cuda;
use super::device::Device;
use super::elements::staged_rows;
use super::memory::Buffer;
use super::weight::Weight;
use crate::{Product, Result};

const THREADS: usize = 128; // of plain.cu

/// See [`crate::Backend::matmul`].
pub(super) fn matmul(device: &Device, x: &Buffer, n: usize, outs: &mut [Product<'_, Cuda>]) -> Result<()> {
    for Product { weight: w, bias, out } in outs {
        let launch = device.launch("plain_matmul").bytes(&w.memory, 0, w.bytes());
        let launch = match bias {
            Some(bias) => launch.bytes(&bias.memory, 0, w.rows * 4),
            None => launch.none(),
        };
        launch.floats(x, n * w.cols).floats_mut(out, n * w.rows).int(w.rows).int(w.cols).run(
            (w.rows.div_ceil(THREADS), n, 1),
            (THREADS, 1, 1),
            0,
        )?;
    }
    Ok(())
}

/// See [`crate::Backend::embed`].
pub(super) fn embed(device: &Device, table: &Weight, rows: &[u32], out: &mut Buffer) -> Result<()> {
    staged_rows(device, rows, |rows, count| {
        device
            .launch("gather")
            .bytes(&table.memory, 0, table.bytes())
            .bytes(rows, 0, count * 4)
            .floats_mut(out, count * table.cols)
            .int(0)
            .int(table.cols)
            .run((table.cols.div_ceil(256), count, 1), (256, 1, 1), 0)
    })
}
