//! Products of activations with packed weights: who computes what, and how it is split among threads.
//!
//! - Quantized weights of a format with an integer product meet activations of 8 bits: [`products`].
//!   Where tokens are few, threads take [`shares`] of the rows.
//! - All others, and all with [`Activations::Exact`], are dequantized piece by piece and meet f32 activations.

use super::memory::Split;
use super::products::{self, FEW_ROWS, Fast, Few, MOST_FEW, Panel, ROWS, Rest, Tile, UNIT, View, Work};
use super::{Activations, Cpu, Isa, Weight, profile, shares};
use crate::{Product, Result};
use std::cell::RefCell;
use std::sync::PoisonError;

/// Weights that are dequantized at a time: fits the first-level cache and is a whole number of blocks of every format.
const PIECE: usize = 1024;

/// Most tokens of one item: their sums stay in the second-level cache.
const MOST_TOKENS: usize = 512;

/// Items that each thread should find, so that none waits long for the last.
const ITEMS_PER_THREAD: usize = 4;

thread_local! {
    /// What a thread computes in, kept from one product to the next.
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
}

#[derive(Default)]
struct Scratch {
    tile: Option<Box<Tile>>,
    sums: Vec<[f32; ROWS]>,
    few: Vec<f32>,
    view: View,
}

/// `out = x * w^T + bias` for several weights: `x`: `(n, cols)`, each `out`: `(n, rows)`.
pub(super) fn matmul(cpu: &Cpu, x: &[f32], n: usize, products: &mut [Product<'_, Cpu>]) -> Result<()> {
    if n == 0 || products.is_empty() {
        return Ok(());
    }
    let cols = products[0].weight.cols();
    let threads = cpu.pool.at_work();
    let int8 = cpu.options.activations == Activations::Int8;
    let parts: Vec<Part<'_>> = products.iter_mut().map(|p| Part::new(p, n, int8, threads)).collect();
    for part in &parts {
        assert!(n * part.weight.cols() <= x.len(), "activations are shorter than n rows of the weight's columns");
        assert_eq!(part.weight.cols(), cols, "weights that share activations have as many columns");
    }
    let mut panel = cpu.panel.lock().unwrap_or_else(PoisonError::into_inner);
    if parts.iter().any(|p| p.fast.is_some()) {
        let begun = cpu.profile.begin();
        products::fill(&mut panel, cpu.isa, &cpu.pool, x, n, cols)?;
        cpu.profile.end(begun, || "rounding of activations".into());
    }
    let panel = &*panel;
    let begun = cpu.profile.begin();
    if n <= MOST_FEW && parts.iter().all(|p| p.fast.is_some()) {
        let rows = parts.iter().map(|p| (p.weight.rows(), p.weight.tensor().row_bytes()));
        let shares = shares::cut(rows, threads, FEW_ROWS);
        cpu.pool.run(shares.len(), |i| parts[shares[i].weight].compute_few(cpu.isa, panel, shares[i].rows.clone()));
    } else {
        let items: usize = parts.iter().map(|p| p.items).sum();
        cpu.pool.run(items, |mut item| {
            for part in &parts {
                if item < part.items {
                    return part.compute(cpu.isa, x, panel, item);
                }
                item -= part.items;
            }
        });
    }
    cpu.profile.end(begun, || profile::products(parts.iter().map(|p| p.weight.tensor().format().name)));
    Ok(())
}

/// One product with its output open to several threads.
struct Part<'a> {
    weight: &'a Weight,
    bias: Option<&'a [f32]>,
    out: Split<'a, f32>,
    fast: Option<&'static Fast>,
    n: usize,
    /// Rows and tokens of an item.
    rows: usize,
    tokens: usize,
    items: usize,
}

impl<'a> Part<'a> {
    fn new(p: &'a mut Product<'_, Cpu>, n: usize, int8: bool, threads: usize) -> Self {
        let rows = p.weight.rows();
        let bias = p.bias.map(Weight::vector);
        assert!(bias.is_none_or(|b| b.len() == rows), "a bias has one float per row");
        assert!(p.out.len() >= n * rows, "the output is shorter than n rows");
        let fast = p.weight.fast().filter(|_| int8);
        let wanted = threads * ITEMS_PER_THREAD;
        let (rows_of_item, tokens) = match fast {
            Some(_) if n <= MOST_FEW => ((rows / wanted).next_multiple_of(FEW_ROWS).max(FEW_ROWS), n),
            Some(_) => {
                // Whole tiles; tokens are only split where there are too few of them for the threads.
                let splits = wanted.div_ceil(rows.div_ceil(ROWS)).max(n.div_ceil(MOST_TOKENS));
                (ROWS, n.div_ceil(splits).next_multiple_of(12).max(48))
            }
            None => (16, n),
        };
        let items = rows.div_ceil(rows_of_item) * n.div_ceil(tokens);
        Part { weight: p.weight, bias, out: Split::new(p.out), fast, n, rows: rows_of_item, tokens, items }
    }

    fn compute(&self, isa: Isa, x: &[f32], panel: &Panel, item: usize) {
        let blocks = self.n.div_ceil(self.tokens);
        let first = item / blocks * self.rows;
        let rows = first..self.weight.rows().min(first + self.rows);
        let start = item % blocks * self.tokens;
        let tokens = start..self.n.min(start + self.tokens);
        match self.fast {
            Some(_) if self.n <= MOST_FEW => self.compute_few(isa, panel, rows),
            Some(fast) => {
                SCRATCH.with_borrow_mut(|scratch| self.many(fast, isa, panel, rows, tokens, scratch));
            }
            None => self.plain(isa, x, rows),
        }
    }

    /// Some rows, where tokens are few and the format has a fast product.
    fn compute_few(&self, isa: Isa, panel: &Panel, rows: std::ops::Range<usize>) {
        let fast = self.fast.expect("callers looked for it");
        SCRATCH.with_borrow_mut(|scratch| self.few(fast, isa, panel, rows, scratch));
    }

    /// Writes one element of the result.
    fn put(&self, token: usize, row: usize, sum: f32) {
        // SAFETY: element (token, row) of the output belongs to one item alone.
        unsafe { self.out.slice(token * self.weight.rows() + row, 1)[0] = sum + self.bias.map_or(0.0, |b| b[row]) };
    }

    fn few(&self, fast: &Fast, isa: Isa, panel: &Panel, rows: std::ops::Range<usize>, scratch: &mut Scratch) {
        let (cols, padded) = (self.weight.cols(), products::padded(self.n));
        let Scratch { few: out, view, .. } = scratch;
        out.resize(rows.len().next_multiple_of(FEW_ROWS) * padded, 0.0);
        let bytes = self.weight.bytes_of(rows.clone());
        let few = Few { bytes, row_bytes: bytes.len() / rows.len(), cols, x: panel.units(cols, padded) };
        fast.few(isa, few, view, out);
        for (row, sums) in rows.zip(out.chunks_exact(padded)) {
            for (token, sum) in sums[..self.n].iter().enumerate() {
                self.put(token, row, *sum);
            }
        }
    }

    fn many(
        &self,
        fast: &Fast,
        isa: Isa,
        panel: &Panel,
        rows: std::ops::Range<usize>,
        tokens: std::ops::Range<usize>,
        scratch: &mut Scratch,
    ) {
        let (cols, padded) = (self.weight.cols(), products::padded(self.n));
        let bytes = self.weight.bytes_of(rows.clone());
        let tile = scratch.tile.get_or_insert_with(Tile::new);
        let even = tokens.start..tokens.end.next_multiple_of(2); // the panel has a token of zeros at the end if need be
        scratch.sums.clear();
        scratch.sums.resize(even.len(), [0.0; ROWS]);
        for unit in 0..cols.div_ceil(UNIT) {
            fast.unpack(isa, Rest { bytes, row_bytes: bytes.len() / rows.len(), cols, unit, tile });
            let x = &panel.unit(unit, padded)[even.clone()];
            fast.multiply(isa, tile, Work { x, sums: &mut scratch.sums });
        }
        for (token, sums) in tokens.zip(&scratch.sums) {
            // SAFETY: these elements of the output belong to this item alone.
            let out = unsafe { self.out.slice(token * self.weight.rows() + rows.start, rows.len()) };
            out.copy_from_slice(&sums[..rows.len()]);
            if let Some(bias) = self.bias {
                out.iter_mut().zip(&bias[rows.clone()]).for_each(|(o, b)| *o += b);
            }
        }
    }

    /// Dequantizes, then multiplies with f32 activations.
    fn plain(&self, isa: Isa, x: &[f32], rows: std::ops::Range<usize>) {
        let cols = self.weight.cols();
        let mut piece = [0.0; PIECE];
        let mut sums = vec![0.0; self.n];
        for row in rows {
            sums.fill(0.0);
            for start in (0..cols).step_by(PIECE) {
                let piece = &mut piece[..PIECE.min(cols - start)];
                self.weight.dequantize(row, start, piece);
                products::dot_floats(isa, piece, &x[start..], cols, &mut sums);
            }
            for (token, sum) in sums.iter().enumerate() {
                self.put(token, row, *sum);
            }
        }
    }
}
