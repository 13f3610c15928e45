//! Products of many tokens with AMX: registers that hold matrices, and an instruction that multiplies two of them.
//!
//! Weights and activations are rounded to brain floats (8 bits of precision), sums are f32. That is more exact than activations of 8-bit
//! integers with a scale for 32, and faster: integer products would have to become floats for every group of weights that has a scale of its
//! own, which takes longer than to multiply them (16 x 16 sums of 32 products: 16 cycles to multiply, 24 to scale).
//!
//! Weights of half precision are two brain floats each, without loss, and meet activations of two each: three products, of 16 bits of precision, and
//! more than twice as fast as products of f32. F32 weights would take six, which is no faster.
//!
//! - activations become [`Block`]s, once for all rows of weights;
//! - an item of the parallel loop takes some times [`ROWS`] rows, and unit after unit (256 columns): weights are unpacked as for other
//!   instruction sets, become a [`Panel`], and meet all tokens;
//! - four registers hold sums of 32 tokens and 32 rows; see [`tiles`].
//!
//! An element's sum runs over the columns in their order, whatever the number of tokens, rows or threads.
//!
//! Other instruction sets compute products of fewer tokens than [`FEWEST_PACKED`], [`FEWEST_HALVES`] or [`FEWEST`].

mod brain;
#[cfg(test)]
mod tests;
mod tiles;

use super::float::{self, Brains};
use super::memory::{Scratch, Split};
use super::products::{Fast, ROWS, Rest, Tile, UNIT};
use super::{Activations, Amx, Cpu, Isa, Weight, profile};
use crate::{Product, Result};
use std::cell::RefCell;
use std::ops::Range;
use tiles::{BLOCK, PANEL, TOKENS, Tiles};

pub(super) use tiles::ROUND;

/// Fewest tokens with packed weights: for fewer it is not worth while to unpack them and make brain floats of them. (1.24 B on an Intel server,
/// sequences side by side, tokens/s here and with integers: 8 Q4_K_M 45 and 65 to 71, Q8_0 38 and 64; 16, 87 and 100 to 105, 73 and 97; 32, 157 and 138 to
/// 143, 140 and 138.)
const FEWEST_PACKED: usize = 32;

/// The same with half-precision floats, which take three products and twice the memory. (1.24 B: 32 sequences, 55 tokens/s here and 65 with f32; prompts of 48 tokens,
/// 91 and 78 to 82; of 512, 278 to 294 and 126.)
const FEWEST_HALVES: usize = 48;

/// The same with brain floats: as many as are not few (8 sequences, 38 and 26 tokens/s).
const FEWEST: usize = super::products::MOST_FEW + 1;

/// Most panels of [`ROWS`] rows that an item takes: a unit of its activations stays in the second-level cache for all of them. (With two,
/// activations came from the third-level cache half of the time, and products were half as fast.)
const MOST_PANELS: usize = 8;

/// Most tokens of an item: their sums stay in the second-level cache.
const MOST_TOKENS: usize = 512;

/// Items that each thread should find, so that none waits long for the last.
const ITEMS_PER_THREAD: usize = 4;

thread_local! {
    /// What a thread unpacks weights into, kept from one product to the next.
    static TILE: RefCell<Option<Box<Tile>>> = const { RefCell::new(None) };
}

/// The proof, where products are to be computed here.
pub(super) fn proof(cpu: &Cpu) -> Option<Amx> {
    (cpu.isa >= Isa::Amx && cpu.options.activations == Activations::Int8).then(Amx::new)?
}

/// Rounds of products and nothing else; [`ROUND`] multiply-adds each.
pub(super) fn products(amx: Amx, rounds: usize) {
    Tiles::new(amx).products(rounds);
}

/// Whether the products here take the weight with so many tokens.
pub(super) fn takes(weight: &Weight, n: usize) -> bool {
    match Source::of(weight) {
        Some(Source::Packed(_)) => n >= FEWEST_PACKED,
        Some(Source::Floats(Brains::One)) => n >= FEWEST,
        Some(Source::Floats(Brains::Two)) => n >= FEWEST_HALVES,
        None => false,
    }
}

/// How weights become a panel.
#[derive(Clone, Copy)]
enum Source {
    Packed(&'static Fast),
    Floats(Brains),
}

impl Source {
    fn of(weight: &Weight) -> Option<Self> {
        weight.fast().map(Source::Packed).or_else(|| float::brains(weight).map(Source::Floats))
    }

    /// Whether what rounding left counts as well.
    fn has_rest(self) -> bool {
        matches!(self, Source::Floats(Brains::Two))
    }
}

/// `out = x * w^T + bias` for several weights that [`takes`] accepts: `x`: `(n, cols)`, each `out`: `(n, rows)`.
pub(super) fn matmul(cpu: &Cpu, amx: Amx, x: &[f32], n: usize, products: &mut [Product<'_, Cpu>]) -> Result<()> {
    let Some(cols) = products.first().map(|p| p.weight.cols()) else { return Ok(()) };
    let (blocks, units) = (n.div_ceil(TOKENS), cols.div_ceil(UNIT));
    let parts: Vec<Part<'_>> = products.iter_mut().map(|p| Part::new(cpu, p, n)).collect();
    for part in &parts {
        assert_eq!(part.weight.cols(), cols, "weights that share activations have as many columns");
    }
    assert!(n * cols <= x.len(), "activations are shorter than n rows of the weights' columns");
    let (len, has_rest) = (units * blocks * BLOCK, parts.iter().any(|p| p.source.has_rest()));
    cpu.workspace.with(if has_rest { 2 * len } else { len }, |rounded| {
        let begun = cpu.profile.begin();
        let (to, rest) = rounded.split_at_mut(len);
        {
            let (to, rest) = (Split::new(to), Split::new(rest));
            cpu.pool.run(units * blocks, |i| {
                // SAFETY: each block belongs to one item.
                let to = unsafe { to.slice(i * BLOCK, BLOCK) };
                // SAFETY: the same; there are as many where they are asked for.
                let rest = has_rest.then(|| unsafe { rest.slice(i * BLOCK, BLOCK) });
                brain::round(amx, &x[..n * cols], cols, i % blocks * TOKENS, i / blocks * UNIT, to, rest);
            });
        }
        cpu.profile.end(begun, || "rounding of activations".into());
        let x = Blocks { blocks: to, rest, count: blocks };
        let begun = cpu.profile.begin();
        let items: usize = parts.iter().map(|p| p.items).sum();
        cpu.pool.run(items, |mut item| {
            for part in &parts {
                if item < part.items {
                    return TILE.with_borrow_mut(|tile| {
                        part.compute(amx, cpu.isa, x, item, tile.get_or_insert_with(Tile::new))
                    });
                }
                item -= part.items;
            }
        });
        cpu.profile.end(begun, || profile::products(parts.iter().map(|p| p.weight.tensor().format().name)));
    })
}

/// Rounded activations, `(units, blocks of tokens)`.
#[derive(Clone, Copy)]
struct Blocks<'a> {
    blocks: &'a [f32],
    /// What rounding left, in the same order; empty where it counts for no weight.
    rest: &'a [f32],
    count: usize,
}

/// One product with its output open to several threads.
struct Part<'a> {
    weight: &'a Weight,
    source: Source,
    bias: Option<&'a [f32]>,
    out: Split<'a, f32>,
    n: usize,
    /// Rows of an item, whole panels.
    rows: usize,
    /// Tokens of an item, whole blocks.
    tokens: usize,
    items: usize,
}

impl<'a> Part<'a> {
    fn new(cpu: &Cpu, p: &'a mut Product<'_, Cpu>, n: usize) -> Self {
        let rows = p.weight.rows();
        let bias = p.bias.map(Weight::vector);
        assert!(bias.is_none_or(|b| b.len() == rows), "a bias has one float per row");
        assert!(p.out.len() >= n * rows, "the output is shorter than n rows");
        let source = Source::of(p.weight).expect("callers asked whether the weight is taken");
        let wanted = cpu.pool.at_work() * ITEMS_PER_THREAD;
        let panels = rows.div_ceil(ROWS).div_ceil(wanted).min(MOST_PANELS);
        let of_rows = rows.div_ceil(panels * ROWS);
        let splits = wanted.div_ceil(of_rows).max(n.div_ceil(MOST_TOKENS));
        let tokens = n.div_ceil(splits).next_multiple_of(2 * TOKENS).max(4 * TOKENS);
        let items = of_rows * n.div_ceil(tokens);
        Part { weight: p.weight, source, bias, out: Split::new(p.out), n, rows: panels * ROWS, tokens, items }
    }

    fn compute(&self, amx: Amx, isa: Isa, x: Blocks<'_>, item: usize, tile: &mut Tile) {
        let per_rows = self.n.div_ceil(self.tokens);
        let first = item / per_rows * self.rows;
        let rows = first..self.weight.rows().min(first + self.rows);
        let start = item % per_rows * self.tokens;
        let tokens = start..self.n.min(start + self.tokens);
        let blocks = tokens.start / TOKENS..tokens.end.div_ceil(TOKENS);
        let len = blocks.len() * TOKENS * ROWS;
        let panels = rows.len().div_ceil(ROWS);
        // On cache lines, as `tiles` likes them.
        let of_panel = if self.source.has_rest() { 2 * PANEL } else { PANEL };
        let mut scratch = Scratch::of(of_panel + panels * len);
        let (panels_of_unit, sums) = scratch.floats().split_at_mut(of_panel);
        sums.fill(0.0);
        let tiles = Tiles::new(amx);
        for unit in 0..self.weight.cols().div_ceil(UNIT) {
            let here = (unit * x.count + blocks.start) * BLOCK..(unit * x.count + blocks.end) * BLOCK;
            for (i, sums) in sums.chunks_exact_mut(len).enumerate() {
                let rows = rows.start + i * ROWS..rows.end.min(rows.start + (i + 1) * ROWS);
                self.fill(amx, isa, rows, unit, tile, panels_of_unit);
                let (panel, rest) = panels_of_unit.split_at(PANEL);
                tiles.multiply(&x.blocks[here.clone()], panel, sums);
                if self.source.has_rest() {
                    tiles.multiply(&x.rest[here.clone()], panel, sums);
                    tiles.multiply(&x.blocks[here.clone()], rest, sums);
                }
            }
        }
        self.put(rows, tokens, sums, len);
    }

    /// One unit of some rows. `panels`: a second one where what rounding left counts.
    fn fill(&self, amx: Amx, isa: Isa, rows: Range<usize>, unit: usize, tile: &mut Tile, panels: &mut [f32]) {
        let (bytes, cols) = (self.weight.bytes_of(rows.clone()), self.weight.cols());
        let row_bytes = bytes.len() / rows.len();
        match self.source {
            Source::Packed(fast) => {
                fast.unpack(isa, Rest { bytes, row_bytes, cols, unit, tile });
                brain::of_tile(amx, &tile.unpacked(), panels);
            }
            Source::Floats(Brains::One) => brain::of_rows(amx, bytes, row_bytes, unit, panels),
            Source::Floats(Brains::Two) => {
                let (panel, rest) = panels.split_at_mut(PANEL);
                brain::of_halves(amx, bytes, row_bytes, unit, panel, rest);
            }
        }
    }

    /// Writes results. `sums`: `(panels, tokens, ROWS)`, `len` for each panel, which may be those of more tokens.
    fn put(&self, rows: Range<usize>, tokens: Range<usize>, sums: &[f32], len: usize) {
        let width = self.weight.rows();
        for (i, token) in tokens.enumerate() {
            // SAFETY: these elements of the output belong to this item alone.
            let out = unsafe { self.out.slice(token * width + rows.start, rows.len()) };
            for (out, sums) in out.chunks_mut(ROWS).zip(sums.chunks_exact(len)) {
                out.copy_from_slice(&sums[i * ROWS..][..out.len()]);
            }
            if let Some(bias) = self.bias {
                out.iter_mut().zip(&bias[rows.clone()]).for_each(|(o, b)| *o += b);
            }
        }
    }
}
