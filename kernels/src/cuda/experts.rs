//! Mixtures of experts: tokens through those that the device itself picks (experts.cu).
//!
//! What is computed are pairs of a token and one of its experts. Up to as many pairs as there are experts hardly share weights: each
//! is multiplied by itself, with the kernels for single tokens. More are sorted by expert and multiplied in tiles, with the kernels
//! for prompts. Of formats that have none (F32, BF16 on Turing) the host picks a prompt's experts: pair by pair weights would be read
//! eight times as often as by products of eight tokens.

use super::Cuda;
use super::activations::{Activations, Order, room};
use super::device::Device;
use super::elements;
use super::matmul::{Part, Plan, WIDE, give_parts};
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
    /// Whether all of them have kernels for prompts.
    in_tiles: bool,
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
        let mut in_tiles = true;
        for table in gate.iter().chain([&up, &down]) {
            in_tiles &= Plan::has_many(device, table.format)?;
        }
        Ok((up.weights.len() <= MOST).then_some(Mixture { mixing, gate, up, down, in_tiles }))
    }

    /// See [`crate::Backend::mixes`].
    pub(super) fn mixes(&self, n: usize) -> bool {
        self.in_tiles || n * self.mixing.used <= self.up.weights.len()
    }

    /// See [`crate::Backend::mix`].
    pub(super) fn run(
        &self,
        device: &Device,
        scores: &Buffer,
        x: &Buffer,
        n: usize,
        work: MixBuffers<'_, Cuda>,
        out: &mut Buffer,
    ) -> Result<()> {
        let Mixing { used, normalize, .. } = self.mixing;
        let (count, all) = (self.up.weights.len(), n * used);
        let pick = device.launch("pick").floats(scores, n * count);
        let pick = pick.floats_mut(work.picks, all).floats_mut_from(work.picks, all, all);
        pick.int(count).int(used).int(usize::from(normalize)).run((n, 1, 1), (32, 1, 1), 0)?;

        let tiles = (all > count && self.in_tiles).then(|| Tiles::new(self, all));
        let room = tiles.as_ref().map_or(0, |tiles| tiles.activations + self.room(all, tiles.wide));
        device.workspace().with(device, room, |workspace| {
            if let Some(tiles) = &tiles {
                let launch = device.launch("share_out").floats(work.picks, all);
                let launch = launch.bytes_mut(workspace, ORDER, 4 * all).bytes_mut(workspace, tiles.places, 4 * all);
                let launch = launch.bytes_mut(workspace, tiles.table, TILE * tiles.count);
                launch.int(all).int(tiles.tokens).run((count, 1, 1), (elements::THREADS, 1, 1), 0)?;
            }
            self.compute(x, Pairs { device, n, used, tiles, workspace }, work, out)
        })
    }

    /// Bytes that activations of so many pairs take of a workspace at most.
    fn room(&self, all: usize, wide: bool) -> usize {
        let of = |table: &Table, own: bool| room(Plan::many(table.format, wide).form, all, table.cols, !own);
        let gate = self.gate.as_ref().map_or(0, |gate| of(gate, false));
        gate.max(of(&self.up, false)).max(of(&self.down, true))
    }

    /// All but the picking.
    fn compute(&self, x: &Buffer, mut pairs: Pairs<'_>, work: MixBuffers<'_, Cuda>, out: &mut Buffer) -> Result<()> {
        let MixBuffers { picks, gate, up, each } = work;
        let (device, n, used, activation) = (pairs.device, pairs.n, pairs.used, self.mixing.activation);
        let len = n * used * self.up.rows;
        let hidden = match &self.gate {
            Some(table) => {
                if table.format == self.up.format {
                    pairs.multiply(picks, x, false, &mut [(table, &mut *gate), (&self.up, &mut *up)])?;
                } else {
                    pairs.multiply(picks, x, false, &mut [(table, &mut *gate)])?;
                    pairs.multiply(picks, x, false, &mut [(&self.up, &mut *up)])?;
                }
                elements::gate(device, activation, gate, up, len)?;
                gate
            }
            None => {
                pairs.multiply(picks, x, false, &mut [(&self.up, &mut *up)])?;
                elements::activate(device, activation, up, len)?;
                up
            }
        };
        pairs.multiply(picks, hidden, true, &mut [(&self.down, &mut *each)])?;
        let (cols, all) = (self.down.rows, n * used);
        let sum = device.launch("sum_picked").floats(each, all * cols).floats_from(picks, all, all);
        let sum = match &pairs.tiles {
            Some(tiles) => sum.bytes(pairs.workspace, tiles.places, 4 * all),
            None => sum.none(),
        };
        let grid = (cols.div_ceil(elements::THREADS), n, 1);
        sum.floats_mut(out, n * cols).int(used).int(cols).run(grid, (elements::THREADS, 1, 1), 0)
    }
}

/// Pairs of `n` tokens and `used` experts of each.
struct Pairs<'a> {
    device: &'a Device,
    n: usize,
    used: usize,
    /// `None`: each is multiplied by itself.
    tiles: Option<Tiles>,
    workspace: &'a mut Memory,
}

/// Pairs sorted by expert and cut into tiles, and where the lists of that lie in the workspace.
struct Tiles {
    wide: bool,
    /// Pairs of a tile.
    tokens: usize,
    /// Tiles that there may be.
    count: usize,
    places: usize,
    table: usize,
    /// What is free.
    activations: usize,
}

/// Where pairs in their order begin in the workspace.
const ORDER: usize = 0;

/// Bytes of a tile, as in parts.cuh.
const TILE: usize = 12;

impl Tiles {
    /// Wide ones where they pay if all experts have as many pairs, and all formats have the same.
    fn new(mixture: &Mixture, all: usize) -> Self {
        let experts = mixture.up.weights.len();
        let tokens = |table: &Table, wide: bool| Plan::many(table.format, wide).tile.1;
        let mut tables = mixture.gate.iter().chain([&mixture.up, &mixture.down]);
        let wide = all / experts >= WIDE && tables.all(|table| tokens(table, true) == tokens(&mixture.up, true));
        let tokens = tokens(&mixture.up, wide);
        let (count, table) = (all / tokens + experts, 8 * all);
        let activations = (table + TILE * count).next_multiple_of(256);
        Tiles { wide, tokens, count, places: 4 * all, table, activations }
    }
}

impl Pairs<'_> {
    /// `out = x * w^T` for each pair with its expert's weight, of one table or of two of the same kind. `own`: each has a row of `x` to
    /// itself, where its row of `out` is.
    fn multiply(
        &mut self,
        picks: &Buffer,
        x: &Buffer,
        own: bool,
        products: &mut [(&Table, &mut Buffer)],
    ) -> Result<()> {
        let Pairs { device, n, used, tiles, workspace } = self;
        let (device, n, used, all) = (*device, *n, *used, *n * *used);
        let Some(&mut (&Table { format, rows, cols, .. }, _)) = products.first_mut() else { return Ok(()) };
        let Some(tiles) = tiles else {
            let plan = Plan::few(kernel(format), format, cols, 1);
            let n = if own { all } else { n };
            let activations = Activations { x, n, cols, order: None };
            activations.prepare(device, plan.form, format, workspace, 0)?;
            let mut launch = device.launch(&plan.kernel);
            for i in 0..2 {
                launch = match products.get_mut(i) {
                    Some((table, out)) => {
                        launch.bytes(&table.addresses, 0, table.addresses.len()).floats_mut(out, all * rows)
                    }
                    None => launch.none().none(),
                };
            }
            let launch = activations.give(launch.floats(picks, all), plan.form, workspace, 0);
            let launch = launch.int(rows).int(cols).int(usize::from(own));
            return plan.run(device, launch, products.len() * rows.div_ceil(plan.tile.0), used, all / used);
        };
        let plan = Plan::many(format, tiles.wide);
        let order = (!own).then_some(Order { at: ORDER, used });
        let activations = Activations { x, n: all, cols, order };
        activations.prepare(device, plan.form, format, workspace, tiles.activations)?;
        let parts = products.iter_mut().map(|(table, out)| Part { weight: &table.addresses, bias: None, out, rows });
        let mut parts: Vec<_> = parts.collect();
        let launch = give_parts(device.launch(&plan.kernel), &mut parts, all);
        let launch = activations.give(launch, plan.form, workspace, tiles.activations).int(cols).int(all);
        let launch = launch.bytes(workspace, tiles.table, TILE * tiles.count);
        plan.run(device, launch, parts.len() * rows.div_ceil(plan.tile.0), tiles.count, 1)
    }
}
