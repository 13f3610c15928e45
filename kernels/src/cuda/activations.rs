//! Activations as products take them: which form, and who brings them into it.

use super::device::Device;
use super::launch::Launch;
use super::memory::{Buffer, Memory};
use crate::Result;
use qconv_formats::block::BlockFormat;

/// How activations are prepared.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Form {
    /// As they are.
    Floats,
    /// 8 bits, with a scale for 32: beside the buffer.
    Codes,
    /// 16-bit floats in rows of whole 16 bytes, then a power of two for each token: in a workspace.
    Rounded,
}

/// The first rows of a buffer, or rows for pairs of a row and one of a few experts.
pub(super) struct Activations<'a> {
    pub x: &'a Buffer,
    /// As many rows come out.
    pub n: usize,
    pub cols: usize,
    pub order: Option<Order>,
}

/// In which order pairs come, as experts.cu lists them.
#[derive(Clone, Copy)]
pub(super) struct Order {
    /// Where in the workspace the list of all `n` pairs begins.
    pub at: usize,
    /// Pairs of each row of the buffer.
    pub used: usize,
}

/// Bytes that `n` rows take of a workspace, and where among them the second part begins: scales, or powers of two. `gathered`: an
/// order is given.
fn parts(form: Form, n: usize, cols: usize, gathered: bool) -> (usize, usize) {
    let (first, second) = match form {
        Form::Codes if gathered => (n * cols, n * cols / 4),
        Form::Floats | Form::Codes => (0, 0),
        Form::Rounded => (n * 2 * cols.next_multiple_of(8), n * 4),
    };
    let second_at = first.next_multiple_of(256);
    (second_at + second, second_at)
}

/// Bytes that `n` rows take of a workspace, likewise.
pub(super) fn room(form: Form, n: usize, cols: usize, gathered: bool) -> usize {
    parts(form, n, cols, gathered).0
}

impl Activations<'_> {
    /// Brings them into a form, beside their buffer or into a workspace from byte `at` on, for weights of this format.
    pub fn prepare(
        &self,
        device: &Device,
        form: Form,
        format: &BlockFormat,
        workspace: &mut Memory,
        at: usize,
    ) -> Result<()> {
        let &Activations { x, n, cols, order } = self;
        let rows = order.map_or(n, |order| n / order.used);
        let (end, second_at) = parts(form, self.n, self.cols, self.order.is_some());
        let used = order.map_or(1, |order| order.used);
        match form {
            Form::Floats => Ok(()),
            Form::Codes => {
                round_codes(device, x, rows * cols)?;
                let Some(order) = order else { return Ok(()) };
                let launch = x.codes().give(device.launch("gather_codes"), rows * cols, x.len());
                let launch = launch.bytes(workspace, order.at, n * 4).bytes_mut(workspace, at, n * cols);
                let launch = launch.bytes_mut(workspace, at + second_at, end - second_at);
                launch.int(used).int(cols).run((n, 1, 1), (128, 1, 1), 0)
            }
            Form::Rounded => {
                let launch = device.launch(&format!("round_{}", format.name)).floats(x, rows * cols);
                let launch = match order {
                    Some(order) => launch.bytes(workspace, order.at, n * 4),
                    None => launch.none(),
                };
                let launch = launch.bytes_mut(workspace, at, n * 2 * cols.next_multiple_of(8));
                let launch = launch.bytes_mut(workspace, at + second_at, end - second_at);
                launch.int(used).int(cols).run((n, 1, 1), (256, 1, 1), 0)
            }
        }
    }

    /// Adds what was prepared to a launch of a product: codes and scales, then floats, of which it takes what it is for; or rounded
    /// floats and powers of two.
    pub fn give<'l>(&self, launch: Launch<'l>, form: Form, workspace: &Memory, at: usize) -> Launch<'l> {
        let len = self.n * self.cols;
        let (end, second_at) = parts(form, self.n, self.cols, self.order.is_some());
        let in_workspace = |launch: Launch<'l>| {
            launch.bytes(workspace, at, second_at).bytes(workspace, at + second_at, end - second_at)
        };
        match form {
            Form::Floats => launch.none().none().floats(self.x, len),
            Form::Codes if self.order.is_some() => in_workspace(launch).none(),
            Form::Codes => self.x.codes().give(launch, len, self.x.len()).none(),
            Form::Rounded => in_workspace(launch),
        }
    }
}

/// Rounds the first `len` floats to 8 bits, unless what made them has done it.
pub(super) fn round_codes(device: &Device, x: &Buffer, len: usize) -> Result<()> {
    let mut codes = x.codes();
    if codes.are_fresh(device, len) {
        return Ok(());
    }
    codes.make_room(device, x.len())?;
    let launch = codes.give(device.launch("quantize").floats(x, len), len, x.len());
    launch.int(len).run_over(len / 4, 256)?;
    codes.set_fresh(device, len);
    Ok(())
}
