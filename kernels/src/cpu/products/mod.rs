//! Fast products of activations with block-quantized weights.
//!
//! Activations are rounded to 8 bits ([`panel`]), and products are sums of small integers. A format says how its codes
//! and scales are read ([`Codes`], one file per family); an instruction set names its instructions ([`simd`]); the two
//! algorithms are written once: [`few`] tokens read rows where they lie, [`many`](tile) tokens have them unpacked first.
//! [`ALL`] holds one line per format.
//!
//! Tried on Zen 5, and left out:
//! - half-precision scales put into a register one by one: a quarter of the time of Q4_0 with one token. AVX-512 picks
//!   eight of them out of four registers by permutation;
//! - closures around intrinsics: they are not compiled with the instruction set, and every intrinsic becomes a call (ten
//!   times slower);
//! - gathers of sixteen points of four weights (what the compiler makes of plain indexing in IQ3): half as fast as
//!   single loads;
//! - single loads of points with AVX-512 for books of up to 512 where there is no VBMI: 57 cycles for 256 weights of IQ2_XXS, against 44
//!   with permutations of digits, and with gathers 50 (a busy machine). AVX2 has no such permutations, and loads. Larger books are
//!   loaded as well: permutations of 16-bit numbers read the whole table for every block, and IQ1_S took 75 cycles instead of 44. Permutations
//!   of bytes ([`permutes`]) look up two blocks at once: IQ1_S 46 instead of 56;
//! - a group's scale for all lanes by two loads with AVX-512, as with AVX2: Q4_0 and Q8_0 took one and a half times as long;
//! - offsets of codes at the start of integer sums: for AVX2 5 to 15% slower in every format than with what is added to all weights of a
//!   group. With AVX-512 TQ1_0, MXFP4 and Q1_0 would gain 4, 7 and 12%, and Q4_0 and Q5_0 lose 4 and 6%; all instruction sets shall give
//!   the same bits, so all do the same;
//! - with AVX2, six-bit scales of two units in one register, as with AVX-512: words of 32 bits in general registers take work from the
//!   vector ports, which bound it (Q4_K and Q5_K gained 8%);
//! - indices or signs through arrays on the stack, element by element: loads that are wider than the stores before them
//!   wait until these have left for the cache (IQ2_XS: 200 cycles instead of 50).
//!
//! What bounds a tile: 96 dot products of 32 rows, 6 tokens and a group of 32 take 48 cycles at two a cycle, and the 36
//! conversions, multiplications and additions of floats behind them share two of their ports. A loop of just that
//! reached 70 to 79 percent of the dot product's peak, and dot products with their loads alone 100 percent.
//!
//! Every element of a result is computed by one thread in an order that depends on the shapes alone. Integer sums are
//! exact, hence the same on every instruction set.

use super::Isa;
use super::{Avx2, Avx512, Avx512Vbmi, AvxVnni};
use crate::Result;
use crate::cpu::pool::Pool;
use crate::cpu::vendor::intel;
use few::Rows;
use order::Order;
use panel::Unit;
use scalar::Scalar;
use simd::{Kernel, Simd};
use std::marker::PhantomData;
use tile::{Multiply, Unpack};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod books;
mod digits;
mod few;
mod few_bits;
mod floats;
mod fp4;
mod iq1;
mod iq2;
mod iq3;
mod iq4;
mod k_quants;
mod legacy;
mod order;
mod panel;
mod peak;
mod permutes;
mod scalar;
mod simd;
mod sixteens;
#[cfg(test)]
pub(super) mod tests;
mod tile;
mod view;

pub(super) use few::Few;
pub(super) use floats::dot_floats;
pub(super) use panel::{Panel, UNIT};
pub(super) use peak::ROUND;
pub(super) use tile::{ROWS, Tile, Unpacked, Work};
pub(super) use view::View;

/// Every format with a fast product.
static ALL: &[Fast] = &[
    fast::<legacy::Q4_0>("Q4_0"),
    fast::<legacy::Q4_1>("Q4_1"),
    fast::<legacy::Q5_0>("Q5_0"),
    fast::<legacy::Q5_1>("Q5_1"),
    by_vendor::<legacy::Q8_0<true>, legacy::Q8_0<false>>("Q8_0"),
    fast::<k_quants::Two>("Q2_K"),
    fast::<k_quants::Three>("Q3_K"),
    fast::<k_quants::Four>("Q4_K"),
    fast::<k_quants::Five>("Q5_K"),
    fast::<k_quants::Six>("Q6_K"),
    looked_up::<iq2::Xxs>("IQ2_XXS"),
    looked_up::<iq2::Xs>("IQ2_XS"),
    looked_up::<iq3::Xxs>("IQ3_XXS"),
    looked_up::<iq1::S>("IQ1_S"),
    fast::<iq4::Nl>("IQ4_NL"),
    looked_up::<iq3::S>("IQ3_S"),
    looked_up::<iq2::S>("IQ2_S"),
    fast::<iq4::Xs>("IQ4_XS"),
    looked_up::<iq1::M>("IQ1_M"),
    fast::<few_bits::Digits>("TQ1_0"),
    fast::<few_bits::Ternary>("TQ2_0"),
    fast::<fp4::Mx>("MXFP4"),
    fast::<fp4::Nv>("NVFP4"),
    fast::<few_bits::One>("Q1_0"),
    fast::<few_bits::Two>("Q2_0"),
];

/// How a format is read, 256 weights (a unit) at a time: a weight is `scale * (code - OFFSET) + plus`, with one scale and
/// one `plus` for each group.
///
/// Functions must be `#[inline(always)]`; `part` is a constant then.
trait Codes: 'static {
    /// Bytes of a unit: a block, or several.
    const BYTES: usize;
    /// Weights that share a scale: 16 or 32.
    const GROUP: usize;
    /// 0 or a power of two. Only with 128 may codes be above 127, and only from 32 on above 31.
    const OFFSET: u8 = 0;
    /// Whether codes, with an [`Codes::OFFSET`] of 128, are never 0.
    const LEVELS: bool = false;
    /// Whether there is a `plus`.
    const PLUS: bool = false;

    /// What is best worked out for all codes of a unit at once.
    #[inline(always)]
    fn ready<V: Simd>(v: V, _: &[u8]) -> Ready<V> {
        Ready::nothing(v)
    }

    /// The same of two units where [`Permutes::PERMUTES`](permutes::Permutes::PERMUTES).
    #[inline(always)]
    fn permuted<V: Simd>(v: V, a: &[u8], b: &[u8]) -> [Ready<V>; 2] {
        [Self::ready(v, a), Self::ready(v, b)]
    }

    /// [`Codes::ready`] in the way that suits the instruction set.
    #[inline(always)]
    fn ready_of_one<V: Simd>(v: V, unit: &[u8]) -> Ready<V> {
        if V::PERMUTES { Self::permuted(v, unit, unit)[0] } else { Self::ready(v, unit) }
    }

    /// The same of two units.
    #[inline(always)]
    fn ready_of_two<V: Simd>(v: V, a: &[u8], b: &[u8]) -> [Ready<V>; 2] {
        if V::PERMUTES { Self::permuted(v, a, b) } else { [Self::ready(v, a), Self::ready(v, b)] }
    }

    /// In which order parts hold the weights of a unit.
    const ORDER: Order = Order::Neighbours;

    /// 64 codes of a unit, those of part `part` in the format's order; of formats with a [`Codes::BOOK`] in the order that suits the instruction
    /// set (see [`books`]), and where there are [`Codes::SIGNS`] without them and without the offset.
    fn codes<V: Simd>(v: V, unit: &[u8], ready: &Ready<V>, part: usize) -> V::Bytes;

    /// Points of the codebook where codes are looked up; see [`books`].
    const BOOK: usize = 0;

    /// Whether weights have signs, in [`Ready`]. Few activations take the signs, so that no offset has to be made up for.
    const SIGNS: bool = false;

    /// What [`Codes::multiples`] multiplies the codes in each quarter of a register with: powers of two.
    const TIMES: [u8; 4] = [1; 4];

    /// Whether those multiples are below 128, so that instruction sets without [`Simd::WHOLE_BYTES`] take them as well.
    const SMALL_MULTIPLES: bool = false;

    /// Codes, or multiples of them that are easier to get at, where eight bits are not too many. (Upper halves of bytes need not
    /// be shifted down: a row's sum is divided by 16 in the end.)
    #[inline(always)]
    fn multiples<V: Simd>(v: V, unit: &[u8], ready: &Ready<V>, part: usize) -> V::Bytes {
        Self::codes(v, unit, ready, part)
    }

    /// `scale` and `plus` of all groups. With groups of 32, lanes from 8 on are 0 times something in `plus`, and do not
    /// matter in `scale`.
    fn scales<V: Simd>(v: V, unit: &[u8]) -> (V::Floats, V::Floats);

    /// The same of two units with groups of 32: eight lanes of the one, eight of the other.
    #[inline(always)]
    fn scales_of_two<V: Simd>(v: V, a: &[u8], b: &[u8]) -> (V::Floats, V::Floats) {
        let (a, b) = (Self::scales(v, a), Self::scales(v, b));
        (v.join(a.0, b.0), v.join(a.1, b.1))
    }
}

/// See [`Codes::ready`]. What a format does not use costs nothing.
#[derive(Clone, Copy)]
struct Ready<V: Simd> {
    /// A bit for each code.
    signs: V::Signs,
    /// What [`Simd::find`](books::Books::find) and [`Simd::find_short`](books::Books::find_short) gave.
    found: [V::Bytes; 2],
}

impl<V: Simd> Ready<V> {
    #[inline(always)]
    fn nothing(v: V) -> Self {
        Ready { signs: v.signs(&[0; 32], 0), found: [v.words([0; 8]); 2] }
    }
}

/// The fast product of a format.
pub(super) struct Fast {
    format: &'static str,
    one: fn(Isa, Few<'_>, &mut View, &mut [f32]),
    two: fn(Isa, Few<'_>, &mut View, &mut [f32]),
    four: fn(Isa, Few<'_>, &mut View, &mut [f32]),
    unpack: fn(Isa, Rest<'_>),
    multiply: fn(Isa, &Tile, Work<'_>),
}

/// What [`Unpack`] needs.
pub(super) struct Rest<'a> {
    /// At most 32 whole rows.
    pub(super) bytes: &'a [u8],
    /// Bytes of a row.
    pub(super) row_bytes: usize,
    /// Weights of a row.
    pub(super) cols: usize,
    /// Which unit of the rows.
    pub(super) unit: usize,
    /// Written.
    pub(super) tile: &'a mut Tile,
}

const fn fast<F: Codes>(format: &'static str) -> Fast {
    Fast {
        format,
        one: |isa, few, view, out| run(isa, Rows::<F, 1, 1>(few, view, out, PhantomData)),
        two: several::<F, 1, 2>,
        four: several::<F, 2, 4>,
        unpack: |isa, rest| run(isa, unpack_of::<F>(rest)),
        multiply: multiply_of::<F>(),
    }
}

/// Formats of which Intel's CPUs with AVX-512 read one token's weights in a way of their own.
const fn by_vendor<I: Codes, F: Codes>(format: &'static str) -> Fast {
    Fast {
        one: |isa, few, view, out| {
            let rows = Rows::<I, 1, 1>(few, view, out, PhantomData);
            if let Some(Rows(few, view, out, _)) = if intel() { with_avx512(isa, rows) } else { Some(rows) } {
                run(isa, Rows::<F, 1, 1>(few, view, out, PhantomData));
            }
        },
        ..fast::<F>(format)
    }
}

/// Formats that look points up, which AVX-512 VBMI does best. To keep the code small, AVX-512 without it computes several tokens with
/// AVX2, and AVX-VNNI has no code of its own (IQ1_M gains a twentieth, IQ1_S nothing).
const fn looked_up<F: Codes>(format: &'static str) -> Fast {
    Fast {
        format,
        one: |isa, few, view, out| look_up(fastest::<F>(isa), Rows::<F, 1, 1>(few, view, out, PhantomData)),
        two: several_looked_up::<F, 1, 2>,
        four: several_looked_up::<F, 2, 4>,
        unpack: |isa, rest| look_up(fastest::<F>(isa), unpack_of::<F>(rest)),
        multiply: multiply_of::<F>(),
    }
}

fn unpack_of<F: Codes>(Rest { bytes, row_bytes, cols, unit, tile }: Rest<'_>) -> Unpack<'_, F> {
    Unpack { bytes, row_bytes, cols, unit, tile, format: PhantomData }
}

const fn multiply_of<F: Codes>() -> fn(Isa, &Tile, Work<'_>) {
    match (F::GROUP, F::PLUS, F::OFFSET) {
        (16, true, 0..32) => multiply::<16, true, 5>,
        (16, false, 0..32) => multiply::<16, false, 5>,
        (16, false, 32..128) => multiply::<16, false, 7>,
        (32, true, 0..32) => multiply::<32, true, 5>,
        (32, false, 0..32) => multiply::<32, false, 5>,
        (32, false, 32..128) => multiply::<32, false, 7>,
        (32, false, 128) => multiply::<32, false, 8>,
        _ => panic!("no format is like that yet"),
    }
}

/// Several tokens at once. Without vector instructions they come one after the other: unrolled arrays of several tokens, for
/// machines that hardly anybody has, were half of all products' code and of the time to compile it.
fn several<F: Codes, const R: usize, const T: usize>(isa: Isa, few: Few<'_>, view: &mut View, out: &mut [f32]) {
    let Some(Rows(few, view, out, _)) = with_vectors(isa, Rows::<F, R, T>(few, view, out, PhantomData)) else { return };
    one_by_one::<T>(few, out, |few, out| Scalar.enter(Rows::<F, 1, 1>(few, view, out, PhantomData)));
}

/// The same; see [`looked_up`].
fn several_looked_up<F: Codes, const R: usize, const T: usize>(
    isa: Isa,
    few: Few<'_>,
    view: &mut View,
    out: &mut [f32],
) {
    let rest = with_vbmi(isa, Rows::<F, R, T>(few, view, out, PhantomData)).and_then(|k| with_avx2(isa, k));
    let Some(Rows(few, view, out, _)) = rest else { return };
    one_by_one::<T>(few, out, |few, out| Scalar.enter(Rows::<F, 1, 1>(few, view, out, PhantomData)));
}

fn one_by_one<const T: usize>(few: Few<'_>, out: &mut [f32], mut one: impl FnMut(Few<'_>, &mut [f32])) {
    let mut of_one = vec![0.0; few.bytes.len() / few.row_bytes];
    for t in 0..T {
        let x: Vec<Unit> = few.x.iter().skip(t).step_by(T).copied().collect();
        one(Few { x: &x, ..few }, &mut of_one);
        out.iter_mut().skip(t).step_by(T).zip(&of_one).for_each(|(out, y)| *out = *y);
    }
}

fn multiply<const GROUP: usize, const PLUS: bool, const BITS: u32>(isa: Isa, tile: &Tile, work: Work<'_>) {
    run(isa, Multiply::<GROUP, PLUS, BITS> { tile, work });
}

/// Runs a kernel with the best instructions that `isa` allows.
fn run<K: Kernel>(isa: Isa, kernel: K) {
    if let Some(kernel) = with_vectors(isa, kernel) {
        Scalar.enter(kernel);
    }
}

/// What looks points up fastest, for one token and for many. On Intel's CPUs a permutation of two registers is three operations, and 2048 points take 32
/// of them: with one token IQ1_S does 2.3 GB/s a core with them and 3.3 without, IQ1_M 2.5 and 2.7; with 64 tokens 111 and 131, 104 and 118
/// thousand million weights a second. (Fewer points are faster with them there too, and so are 2 to 4 tokens, since AVX2 is the other choice.)
fn fastest<F: Codes>(isa: Isa) -> Isa {
    if F::BOOK > 1024 && intel() { isa.min(Isa::Avx512) } else { isa }
}

/// The same for kernels that look points up.
fn look_up<K: Kernel>(isa: Isa, kernel: K) {
    let rest = with_vbmi(isa, kernel).and_then(|k| with_avx512(isa, k)).and_then(|k| with_avx2(isa, k));
    if let Some(kernel) = rest {
        Scalar.enter(kernel);
    }
}

/// The same, or the kernel once more where `isa` allows no vectors.
fn with_vectors<K: Kernel>(isa: Isa, kernel: K) -> Option<K> {
    with_avx512(isa, kernel).and_then(|k| with_vnni(isa, k)).and_then(|k| with_avx2(isa, k))
}

/// One function for each kind of registers: runs the kernel, or gives it back where `isa` does not allow them.
macro_rules! registers {
    ($name:ident, $isa:ident, $registers:ty) => {
        fn $name<K: Kernel>(isa: Isa, kernel: K) -> Option<K> {
            #[cfg(target_arch = "x86_64")]
            if isa >= Isa::$isa
                && let Some(proof) = $isa::new()
            {
                <$registers>::from(proof).enter(kernel);
                return None;
            }
            let _ = isa;
            Some(kernel)
        }
    };
}
registers!(with_vbmi, Avx512Vbmi, avx512::Wide<true>);
registers!(with_avx512, Avx512, avx512::Wide<false>);
registers!(with_vnni, AvxVnni, avx2::Pairs<true>);
registers!(with_avx2, Avx2, avx2::Pairs<false>);

/// Most tokens that are few.
pub(super) const MOST_FEW: usize = 4;

/// What results of few tokens are padded to.
pub(super) const FEW_ROWS: usize = 2;

/// Tokens that are stored for `n`: what kernels compute, the rest being zeros.
pub(super) fn padded(n: usize) -> usize {
    match n {
        0..=2 => n,
        3..=MOST_FEW => MOST_FEW,
        _ => n.next_multiple_of(2),
    }
}

impl Fast {
    /// The fast product of a format, if it has one.
    pub(super) fn find(format: &str) -> Option<&'static Fast> {
        ALL.iter().find(|f| f.format == format)
    }

    /// Whole rows `bytes` with `padded(n)` tokens, at most [`MOST_FEW`]; `out`: `(rows, padded tokens)` with room for a
    /// multiple of [`FEW_ROWS`] rows.
    pub(super) fn few(&self, isa: Isa, few: Few<'_>, view: &mut View, out: &mut [f32]) {
        let units = few.cols.div_ceil(UNIT).next_multiple_of(2);
        match few.x.len() / units {
            1 => (self.one)(isa, few, view, out),
            2 => (self.two)(isa, few, view, out),
            _ => (self.four)(isa, few, view, out),
        }
    }

    /// At most 32 whole rows into a tile.
    pub(super) fn unpack(&self, isa: Isa, rows: Rest<'_>) {
        (self.unpack)(isa, rows);
    }

    /// A tile of this format with many tokens.
    pub(super) fn multiply(&self, isa: Isa, tile: &Tile, work: Work<'_>) {
        (self.multiply)(isa, tile, work);
    }
}

/// Rounds activations to 8 bits; see [`Panel::fill`].
pub(super) fn fill(panel: &mut Panel, isa: Isa, pool: &Pool, x: &[f32], n: usize, cols: usize) -> Result<()> {
    panel.fill(isa, pool, x, n, padded(n), cols)
}

/// Rounds of dot products and nothing else; [`ROUND`] multiply-adds each.
pub(super) fn dots(isa: Isa, rounds: usize) {
    run(isa, peak::Dots { rounds });
}
