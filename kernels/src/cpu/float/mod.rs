//! Products with float weights (F32, F16, BF16) and f32 activations.
//!
//! Few tokens ([`FEW`], generation): every row of the weight is read once, in the order it lies in memory, and multiplied
//! with all tokens: bound by memory. More: activations are copied into pieces that suit the caches, and an item of the
//! parallel loop takes so many rows of the weight as a [`tile`](super::tile) is wide, piece by piece as f32 panels, with all
//! tokens: bound by arithmetic.
//!
//! Sums are f32: pieces of [`PIECE`] products each, added up. The order depends on neither the number of threads nor that
//! of tokens, except that few tokens have another one than many.
//!
//! [`ALL`] holds one line per format.
//!
//! Not found to pay: rows read in several streams at once (half as fast for few tokens; see [`few`]).

#[cfg(target_arch = "x86_64")]
mod bf16;
mod few;
mod many;
#[cfg(test)]
mod tests;

use super::memory::Split;
use super::simd::dispatch;
use super::{Activations, Cpu, Isa, Weight};
use crate::{Product, Result};
use std::marker::PhantomData;

/// Tokens up to which rows are multiplied as they are read.
pub(super) const FEW: usize = 4;

/// Products that are summed in registers: a piece of a panel and of a tile's activations lie in the first-level cache.
const PIECE: usize = 256;

/// Most tokens of an item: their pieces and sums stay in the second-level cache. A multiple of every tile's rows.
const MOST_TOKENS: usize = 576;

/// Items that each thread should find at least, so that none waits long for the last one.
const ITEMS_PER_THREAD: usize = 4;

/// Every format of floats, and how many brain floats a weight is.
static ALL: &[Float] = &[
    float::<few::F32>("F32", None),
    float::<few::F16>("F16", Some(Brains::Two)),
    float::<few::Bf16>("BF16", Some(Brains::One)),
];

/// As how many brain floats a weight can be written without loss, where that is of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Brains {
    /// It is one.
    One,
    Two,
}

/// The products of a format.
struct Float {
    name: &'static str,
    few: fn(Isa, few::Rows<'_, '_>),
    many: fn(Isa, many::Tiles<'_, '_>),
    brains: Option<Brains>,
}

const fn float<F: few::Stored>(name: &'static str, brains: Option<Brains>) -> Float {
    Float {
        name,
        few: |isa, rows| dispatch(isa, few::Each::<F>(rows, PhantomData)),
        many: |isa, tiles| dispatch(isa, many::Converted::<F>(tiles, PhantomData)),
        brains,
    }
}

impl Float {
    fn of(weight: &Weight) -> Option<&'static Float> {
        let name = weight.tensor().format().name;
        ALL.iter().find(|f| f.name == name)
    }
}

/// Whether the products here take the weight.
pub(super) fn takes(weight: &Weight) -> bool {
    Float::of(weight).is_some()
}

/// How many brain floats a number of the weight is; `None` where it is no float, or none that they can hold.
pub(super) fn brains(weight: &Weight) -> Option<Brains> {
    Float::of(weight)?.brains
}

/// One product with its output open to several threads.
struct Part<'a> {
    float: &'static Float,
    bytes: &'a [u8],
    rows: usize,
    cols: usize,
    bias: Option<&'a [f32]>,
    out: Split<'a, f32>, // (n, rows)
}

impl<'a> Part<'a> {
    fn new(p: &'a mut Product<'_, Cpu>, x: &[f32], n: usize) -> Self {
        let (rows, cols) = (p.weight.rows(), p.weight.cols());
        let bias = p.bias.map(Weight::vector);
        assert!(bias.is_none_or(|b| b.len() == rows), "a bias has one float per row");
        assert!(p.out.len() >= n * rows, "the output is shorter than n rows");
        assert!(n * cols <= x.len(), "activations are shorter than n rows of the weight's columns");
        let float = Float::of(p.weight).expect("callers asked whether the weight is taken");
        Part { float, bytes: p.weight.tensor().bytes(), rows, cols, bias, out: Split::new(p.out) }
    }

    fn row_bytes(&self) -> usize {
        self.bytes.len() / self.rows.max(1)
    }

    /// Writes sums of rows `first ..` for a token, with the bias.
    ///
    /// # Safety
    /// No other thread may write these elements.
    unsafe fn put(&self, token: usize, first: usize, sums: &[f32]) {
        // SAFETY: by the caller's promise.
        let out = unsafe { self.out.slice(token * self.rows + first, sums.len()) };
        match self.bias {
            Some(bias) => out.iter_mut().zip(sums).zip(&bias[first..]).for_each(|((o, s), b)| *o = s + b),
            None => out.copy_from_slice(sums),
        }
    }
}

/// [`crate::Backend::matmul`] for weights that [`takes`] accepts.
pub(super) fn matmul(cpu: &Cpu, x: &[f32], n: usize, products: &mut [Product<'_, Cpu>]) -> Result<()> {
    let parts: Vec<Part<'_>> = products.iter_mut().map(|p| Part::new(p, x, n)).filter(|p| p.rows > 0).collect();
    if n == 0 {
        return Ok(());
    }
    if n <= FEW {
        few::matmul(cpu, x, n, &parts);
        return Ok(());
    }
    // Weights that share activations have as many columns; others would have been packed for nothing.
    for parts in parts.chunk_by(|a, b| a.cols == b.cols && std::ptr::eq(a.float, b.float)) {
        #[cfg(target_arch = "x86_64")]
        if parts[0].float.brains == Some(Brains::One)
            && cpu.options().activations == Activations::Int8
            && let Some(proof) = bf16::Proof::new(cpu.isa())
        {
            bf16::matmul(cpu, proof, x, n, parts)?;
            continue;
        }
        many::matmul(cpu, x, n, parts)?;
    }
    Ok(())
}

/// How a product of many tokens is cut: items of `width` rows and `tokens` tokens.
struct Cut {
    tokens: usize,
    blocks: usize,
    items: usize,
}

impl Cut {
    /// Tokens are cut where there are too many for the cache, or too few rows for the threads.
    fn new(cpu: &Cpu, parts: &[Part<'_>], n: usize, width: usize, tile: usize) -> Self {
        let panels: usize = parts.iter().map(|p| p.rows.div_ceil(width)).sum();
        let wanted = (cpu.threads() * ITEMS_PER_THREAD).div_ceil(panels).max(n.div_ceil(MOST_TOKENS));
        let tokens = n.div_ceil(wanted).next_multiple_of(tile).max(4 * tile);
        let blocks = n.div_ceil(tokens);
        Cut { tokens, blocks, items: panels * blocks }
    }

    /// The part, its first row, and the first and last token of an item.
    fn item<'p, 'a>(&self, parts: &'p [Part<'a>], n: usize, width: usize, item: usize) -> Place<'p, 'a> {
        let (mut panel, block) = (item / self.blocks, item % self.blocks);
        let first = block * self.tokens;
        let mut at = 0;
        while panel >= parts[at].rows.div_ceil(width) {
            panel -= parts[at].rows.div_ceil(width);
            at += 1;
        }
        Place { part: &parts[at], row: panel * width, first, tokens: self.tokens.min(n - first) }
    }
}

/// Where an item lies.
struct Place<'p, 'a> {
    part: &'p Part<'a>,
    row: usize,
    first: usize,
    tokens: usize,
}

/// Number `row * cols + k` cut into pieces: piece, then row, then place; pieces are [`PIECE`] wide whatever `cols`.
fn piece_start(n: usize, piece: usize) -> usize {
    piece * n * PIECE
}
