//! Mixtures of experts: one token through those that the device itself picks (experts.cu).

use super::Cuda;
use super::device::Device;
use super::elements;
use super::matmul::{Activations, Plan, round_codes};
use super::memory::{Buffer, Memory};
use super::weight::Weight;
use crate::{ExpertWeights, MixBuffers, Mixing, Result};
use qconv_formats::block::BlockFormat;
use std::sync::Arc;

/// Experts that `pick` takes at most: as in experts.cu.
const MOST: usize = 1024;

/// A layer's experts.
pub struct Mixture {
    mixing: Mixing,
    gate: Option<Table>,
    up: Table,
    down: Table,
}

/// Matrices of one shape and format, to be picked from by number.
struct Table {
    /// `(experts)` addresses.
    addresses: Memory,
    /// Where they lead: alive for as long as the table.
    weights: Vec<Arc<Memory>>,
    format: &'static BlockFormat,
    rows: usize,
    cols: usize,
}

impl Table {
    /// `None`: they are not of one kind, or there is no kernel for it.
    fn new(device: &Device, weights: &[&Weight]) -> Result<Option<Self>> {
        let Some(&&Weight { format, rows, cols, .. }) = weights.first() else { return Ok(None) };
        let alike = weights.iter().all(|w| w.format == format && (w.rows, w.cols) == (rows, cols));
        if !alike || !device.has(&kernel(format))? {
            return Ok(None);
        }
        let addresses: Vec<u8> = weights.iter().flat_map(|w| w.memory.pointer().to_le_bytes()).collect();
        let addresses = Memory::upload(device, &addresses, "addresses of experts")?;
        let weights = weights.iter().map(|w| Arc::clone(&w.memory)).collect();
        Ok(Some(Table { addresses, weights, format, rows, cols }))
    }
}

fn kernel(format: &BlockFormat) -> String {
    format!("matvec_picked_{}", format.name)
}

impl Mixture {
    /// See [`crate::Backend::mixture`].
    pub(super) fn new(device: &Device, mixing: Mixing, experts: &ExpertWeights<'_, Cuda>) -> Result<Option<Self>> {
        let gate = match &experts.gate {
            Some(gate) => match Table::new(device, gate)? {
                Some(table) => Some(table),
                None => return Ok(None),
            },
            None => None,
        };
        let (Some(up), Some(down)) = (Table::new(device, &experts.up)?, Table::new(device, &experts.down)?) else {
            return Ok(None);
        };
        Ok((up.weights.len() <= MOST).then_some(Mixture { mixing, gate, up, down }))
    }

    /// See [`crate::Backend::mix`].
    pub(super) fn run(
        &self,
        device: &Device,
        scores: &Buffer,
        x: &Buffer,
        work: MixBuffers<'_, Cuda>,
        out: &mut Buffer,
    ) -> Result<()> {
        let Mixing { used, normalize, activation } = self.mixing;
        let MixBuffers { picks, gate, up, each } = work;
        let count = self.up.weights.len();
        let pick = device.launch("pick").floats(scores, count);
        let pick = pick.floats_mut(picks, used).floats_mut_from(picks, used, used);
        pick.int(count).int(used).int(usize::from(normalize)).run((1, 1, 1), (32, 1, 1), 0)?;

        let picked = |x: &Buffer, own: bool, first: (&Table, &mut Buffer), second: Option<(&Table, &mut Buffer)>| {
            matvec(device, x, own, picks, used, first, second)
        };
        let len = used * self.up.rows;
        let hidden = match &self.gate {
            Some(table) => {
                if table.format == self.up.format {
                    picked(x, false, (table, &mut *gate), Some((&self.up, &mut *up)))?;
                } else {
                    picked(x, false, (table, &mut *gate), None)?;
                    picked(x, false, (&self.up, &mut *up), None)?;
                }
                elements::gate(device, activation, gate, up, len)?;
                gate
            }
            None => {
                picked(x, false, (&self.up, &mut *up), None)?;
                elements::activate(device, activation, up, len)?;
                up
            }
        };
        picked(hidden, true, (&self.down, &mut *each), None)?;
        let cols = self.down.rows;
        let sum =
            device.launch("sum_picked").floats(each, used * cols).floats_from(picks, used, used).floats_mut(out, cols);
        sum.int(used).int(cols).run_over(cols, elements::THREADS)
    }
}

/// `out[s] = x * w^T` with the expert that was picked as number `s`, of one table or of two of the same kind. `own`: each has a row of
/// `x` to itself.
fn matvec(
    device: &Device,
    x: &Buffer,
    own: bool,
    picks: &Buffer,
    used: usize,
    first: (&Table, &mut Buffer),
    second: Option<(&Table, &mut Buffer)>,
) -> Result<()> {
    let &Table { format, rows, cols, .. } = first.0;
    let (len, tables) = (if own { used * cols } else { cols }, 1 + usize::from(second.is_some()));
    let plan = Plan::few(kernel(format), format, cols, 1);
    if plan.activations == Activations::Codes {
        round_codes(device, x, len)?;
    }
    let mut launch = device.launch(&plan.kernel);
    for table in [Some(first), second] {
        launch = match table {
            Some((table, out)) => {
                let launch = launch.bytes(&table.addresses, 0, table.addresses.len());
                launch.floats_mut(out, used * rows)
            }
            None => launch.none().none(),
        };
    }
    let launch = plan.activations.give_few(launch.floats(picks, used), x, len);
    let launch = launch.int(rows).int(cols).int(usize::from(own));
    plan.run(device, launch, tables * rows.div_ceil(plan.tile.0), used)
}
