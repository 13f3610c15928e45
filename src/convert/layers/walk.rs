//! The text's hidden states on their way through the blocks.

use super::super::Request;
use super::watch::{Hessians, Order};
use crate::calibrate::{Activations, Calibration, States};
use crate::engine::{Blockwise, Half, Replaced};
use anyhow::Result;
use qconv_kernels::Backend;

/// The text on its way through the blocks: behind quantized ones, and beside it, where that is wanted, behind the originals.
pub(super) struct Walk<'m, 'b, B: Backend> {
    pub(super) blocks: Blockwise<'m, 'b, B>,
    states: States,
    originals: Option<(Blockwise<'m, 'b, B>, States)>,
    /// The originals' states are behind this half already.
    ahead: bool,
}

impl<'m, 'b, B: Backend> Walk<'m, 'b, B> {
    pub(super) fn new(backend: &'b B, request: &Request<'m>, text: &Calibration, replaced: &Replaced) -> Result<Self> {
        let start = |replaced: &Replaced| -> Result<_> {
            let mut blocks = Blockwise::new(backend, request.model, text.ctx, replaced)?;
            let mut states = States::new(blocks.plan().width, text);
            for (chunk, states) in text.chunks.iter().zip(states.chunks()) {
                blocks.embed(chunk, states)?;
            }
            Ok((blocks, states))
        };
        let (blocks, states) = start(replaced)?;
        let originals = match text.from {
            Activations::Both => Some(start(&Replaced::new())?),
            Activations::Quantized | Activations::Original => None,
        };
        Ok(Walk { blocks, states, originals, ahead: false })
    }

    pub(super) fn load(&mut self, layer: usize, replaced: &Replaced) -> Result<()> {
        if let Some((blocks, _)) = &mut self.originals {
            blocks.load(layer, &Replaced::new())?;
        }
        self.blocks.load(layer, replaced)
    }

    /// Which weights of half the loaded block share their inputs, in the order of their use.
    pub(super) fn order(&mut self, half: Half) -> Result<Vec<Vec<String>>> {
        let mut order = Order::default();
        if let Some(first) = self.states.chunks().next() {
            self.blocks.run(half, &mut first.to_vec(), Some(&mut order))?;
        }
        Ok(order.0)
    }

    /// Shows the inputs of half the loaded block; the states stay, but for the originals' if this is the `last` time.
    pub(super) fn show(&mut self, half: Half, hessians: &mut Hessians, last: bool) -> Result<()> {
        let Walk { blocks, states, originals, ahead } = self;
        let Some((original, there)) = originals else {
            return states.chunks().try_for_each(|chunk| blocks.run(half, &mut chunk.to_vec(), Some(hessians)));
        };
        for (chunk, original_chunk) in states.chunks().zip(there.chunks()) {
            blocks.run(half, &mut chunk.to_vec(), Some(hessians))?;
            hessians.originals = true;
            hessians.through = last;
            match last {
                true => original.run(half, original_chunk, Some(hessians))?,
                false => original.run(half, &mut original_chunk.to_vec(), Some(hessians))?,
            }
            (hessians.originals, hessians.through) = (false, false);
        }
        *ahead = last;
        Ok(())
    }

    pub(super) fn show_output(&mut self, hessians: &mut Hessians) -> Result<()> {
        let Walk { blocks, states, originals, .. } = self;
        let Some((original, there)) = originals else {
            return states.chunks().try_for_each(|chunk| blocks.show_output(chunk, hessians));
        };
        for (chunk, original_chunk) in states.chunks().zip(there.chunks()) {
            blocks.show_output(chunk, hessians)?;
            hessians.originals = true;
            original.show_output(original_chunk, hessians)?;
            hessians.originals = false;
        }
        Ok(())
    }

    /// Takes the states through half the loaded block.
    pub(super) fn advance(&mut self, half: Half) -> Result<()> {
        if let Some((blocks, states)) = self.originals.as_mut().filter(|_| !self.ahead) {
            states.chunks().try_for_each(|chunk| blocks.run(half, chunk, None))?;
        }
        self.ahead = false;
        self.states.chunks().try_for_each(|chunk| self.blocks.run(half, chunk, None))
    }
}
