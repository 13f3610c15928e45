//! Operations that are neither products nor attention.

use super::attention::Rows;
use super::device::Device;
use super::memory::{Buffer, floats_as_bytes, ints_as_bytes};
use super::weight::Weight;
use crate::{ARGMAX_LIMIT, Activation, Norm, Result, Rope, RopeStyle};

/// Threads of a block in norm.cu, elements.cu, experts.cu, rows.cu and position.cu.
pub(super) const THREADS: usize = 256;

/// As `Function` in elements.cu numbers them.
fn number(activation: Activation) -> usize {
    match activation {
        Activation::Silu => 0,
        Activation::GeluTanh => 1,
        Activation::GeluErf => 2,
        Activation::Relu => 3,
    }
}

/// See [`crate::Backend::norm`] and, with a branch, [`crate::Backend::add_norm`].
pub(super) struct Normalize<'a> {
    pub norm: Norm,
    pub eps: f32,
    pub weight: &'a Weight,
    pub bias: Option<&'a Weight>,
    pub rows: usize,
    pub cols: usize,
}

/// What is normalized.
pub(super) enum Input<'a> {
    Floats(&'a Buffer),
    /// The first, after the second was added to it.
    Sum(&'a mut Buffer, &'a Buffer),
}

impl Normalize<'_> {
    pub fn run(&self, device: &Device, input: Input<'_>, out: &mut Buffer) -> Result<()> {
        let (rows, cols) = (self.rows, self.cols);
        let launch = device.launch(match self.norm {
            Norm::Rms => "norm_rms",
            Norm::Layer => "norm_layer",
        });
        let launch = match input {
            Input::Floats(x) => launch.floats(x, rows * cols).none(),
            Input::Sum(x, y) => launch.floats_mut(x, rows * cols).floats(y, rows * cols),
        };
        let launch = launch.bytes(&self.weight.memory, 0, cols * 4);
        let launch = match self.bias {
            Some(bias) => launch.bytes(&bias.memory, 0, cols * 4),
            None => launch.none(),
        };
        let launch = launch.floats_mut(out, rows * cols);
        let mut codes = out.codes();
        let rounds = codes.are_wanted() && cols.is_multiple_of(32);
        let launch = if rounds { codes.give(launch, rows * cols, out.len()) } else { launch.none().none() };
        // A thread takes four floats at a time.
        let threads = cols.div_ceil(4).next_multiple_of(32).min(1024);
        launch.int(cols).float(self.eps).run((rows, 1, 1), (threads, 1, 1), 0)?;
        if rounds {
            codes.set_fresh(device, rows * cols);
        }
        Ok(())
    }
}

pub(super) fn rope(
    device: &Device,
    rope: &Rope,
    x: &mut Buffer,
    rows: Rows,
    heads: usize,
    head_dim: usize,
) -> Result<()> {
    let Rows { first, start, n } = rows;
    let pairs = rope.frequencies.len();
    device.constant(&rope.frequencies, |frequencies| {
        device.at_position(start, |position| {
            device
                .launch("rope")
                .floats_mut_from(x, first * heads * head_dim, n * heads * head_dim)
                .bytes(frequencies, 0, pairs * 4)
                .bytes(position, 0, 4)
                .float(rope.magnitude)
                .int(heads)
                .int(head_dim)
                .int(pairs)
                .int(usize::from(rope.style == RopeStyle::Interleaved))
                .run(((heads * pairs).div_ceil(THREADS), n, 1), (THREADS, 1, 1), 0)
        })
    })
}

pub(super) fn gate(device: &Device, activation: Activation, gate: &mut Buffer, up: &Buffer, len: usize) -> Result<()> {
    let launch = device.launch(if gate.codes().are_wanted() && len.is_multiple_of(32) { "gate_codes" } else { "gate" });
    let launch = launch.floats_mut(gate, len).floats(up, len);
    let mut codes = gate.codes();
    if codes.are_wanted() && len.is_multiple_of(32) {
        let launch = codes.give(launch, len, gate.len()).int(len).int(number(activation));
        launch.run_over(len / 4, THREADS)?;
        codes.set_fresh(device, len);
        return Ok(());
    }
    launch.int(len).int(number(activation)).run_over(len, THREADS)
}

pub(super) fn activate(device: &Device, activation: Activation, x: &mut Buffer, len: usize) -> Result<()> {
    device.launch("activate").floats_mut(x, len).int(len).int(number(activation)).run_over(len, THREADS)
}

pub(super) fn add(device: &Device, x: &mut Buffer, y: &Buffer, len: usize) -> Result<()> {
    device.launch("add").floats_mut(x, len).floats(y, len).int(len).run_over(len, THREADS)
}

pub(super) fn scale(device: &Device, x: &mut Buffer, factor: f32, len: usize) -> Result<()> {
    device.launch("scale").floats_mut(x, len).float(factor).int(len).run_over(len, THREADS)
}

pub(super) fn soft_cap(device: &Device, x: &mut Buffer, cap: f32, len: usize) -> Result<()> {
    device.launch("soft_cap").floats_mut(x, len).float(cap).int(len).run_over(len, THREADS)
}

pub(super) fn argmax(device: &Device, x: &Buffer, len: usize, out: &mut Buffer) -> Result<()> {
    assert!(len < ARGMAX_LIMIT, "places among {len} floats are not exact as floats");
    device.launch("argmax").floats(x, len).floats_mut(out, 1).int(len).run((1, 1, 1), (1024, 1, 1), 0)
}

pub(super) fn gather(device: &Device, x: &Buffer, rows: &[u32], cols: usize, out: &mut Buffer) -> Result<()> {
    let Some((&first, &last)) = rows.iter().min().zip(rows.iter().max()) else { return Ok(()) };
    let needed = (last as usize + 1) * cols;
    let run = |launch: super::launch::Launch<'_>, out: &mut Buffer| {
        let launch = launch.floats_mut(out, rows.len() * cols).int(first as usize).int(cols);
        launch.run((cols.div_ceil(THREADS), rows.len(), 1), (THREADS, 1, 1), 0)
    };
    let launch = device.launch("gather").floats(x, needed);
    if rows.iter().zip(first..).all(|(row, next)| *row == next) {
        // Neighbours need no list: nothing has to be copied, and the launch can be recorded.
        return run(launch.none(), out);
    }
    device.staged(ints_as_bytes(rows), |memory| run(launch.bytes(memory, 0, rows.len() * 4), out))
}

pub(super) fn scatter_add(
    device: &Device,
    x: &Buffer,
    rows: &[u32],
    factors: &[f32],
    cols: usize,
    out: &mut Buffer,
) -> Result<()> {
    let Some(&last) = rows.iter().max() else { return Ok(()) };
    let count = rows.len();
    assert_eq!(count, factors.len(), "a factor for each row");
    device.staged(&[ints_as_bytes(rows), floats_as_bytes(factors)].concat(), |memory| {
        device
            .launch("scatter_add")
            .floats(x, count * cols)
            .bytes(memory, 0, count * 4)
            .bytes(memory, count * 4, count * 4)
            .floats_mut(out, (last as usize + 1) * cols)
            .int(count)
            .int(cols)
            .run((cols.div_ceil(THREADS), 1, 1), (THREADS, 1, 1), 0)
    })
}
