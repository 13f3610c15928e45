//! The text's hidden states on their way through the blocks.

use super::super::Request;
use super::watch::{Hessians, Order};
use crate::calibrate::{Activations, Calibration, Passage};
use crate::engine::{Half, Replaced};
use anyhow::Result;
use qconv_kernels::Backend;

/// The text on its way through the blocks: behind quantized ones, and beside it, where that is wanted, behind the originals.
pub(super) struct Walk<'m, 'b, B: Backend> {
    pub(super) quantized: Passage<'m, 'b, B>,
    originals: Option<Passage<'m, 'b, B>>,
    /// The originals' states are behind this half already.
    ahead: bool,
}

impl<'m, 'b, B: Backend> Walk<'m, 'b, B> {
    pub(super) fn new(backend: &'b B, request: &Request<'m>, text: &Calibration, replaced: &Replaced) -> Result<Self> {
        let quantized = Passage::new(backend, request.model, text, replaced)?;
        let originals = match text.from {
            Activations::Both => Some(Passage::new(backend, request.model, text, &Replaced::new())?),
            Activations::Quantized | Activations::Original => None,
        };
        Ok(Walk { quantized, originals, ahead: false })
    }

    pub(super) fn load(&mut self, layer: usize, replaced: &Replaced) -> Result<()> {
        if let Some(originals) = &mut self.originals {
            originals.load(layer, &Replaced::new())?;
        }
        self.quantized.load(layer, replaced)
    }

    /// Which weights of half the loaded block share their inputs, in the order of their use.
    pub(super) fn order(&mut self, half: Half) -> Result<Vec<Vec<String>>> {
        let mut order = Order::default();
        if let Some(first) = self.quantized.chunks().next() {
            self.quantized.show(half, first, &mut order)?;
        }
        Ok(order.0)
    }

    /// Shows the inputs of half the loaded block; the states stay, but for the originals' if this is the `last` time.
    pub(super) fn show(&mut self, half: Half, hessians: &mut Hessians, last: bool) -> Result<()> {
        for chunk in self.quantized.chunks() {
            self.quantized.show(half, chunk, hessians)?;
            let Some(originals) = &mut self.originals else { continue };
            hessians.originals = true;
            hessians.through = last;
            match last {
                true => originals.advance(half, chunk, Some(hessians))?,
                false => originals.show(half, chunk, hessians)?,
            }
            (hessians.originals, hessians.through) = (false, false);
        }
        self.ahead = last && self.originals.is_some();
        Ok(())
    }

    pub(super) fn show_output(&mut self, hessians: &mut Hessians) -> Result<()> {
        for chunk in self.quantized.chunks() {
            self.quantized.show_output(chunk, hessians)?;
            let Some(originals) = &mut self.originals else { continue };
            hessians.originals = true;
            originals.show_output(chunk, hessians)?;
            hessians.originals = false;
        }
        Ok(())
    }

    /// Takes the states through half the loaded block.
    pub(super) fn advance(&mut self, half: Half) -> Result<()> {
        let originals = self.originals.as_mut().filter(|_| !self.ahead);
        for passage in originals.into_iter().chain([&mut self.quantized]) {
            passage.chunks().try_for_each(|chunk| passage.advance(half, chunk, None))?;
        }
        self.ahead = false;
        Ok(())
    }
}
