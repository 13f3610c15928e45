//! A text on its way through a model, block by block: the weights of one block and the hidden states of the whole text are held,
//! nothing else.

use super::Calibration;
use crate::arch::Plan;
use crate::engine::{Blockwise, Half, Observer, Replaced};
use crate::model::Model;
use crate::ui::Ui;
use anyhow::Result;
use qconv_kernels::Backend;

/// An observer that is told where the text is.
pub trait Follower: Observer {
    /// What goes into the matrices from now on is of this chunk.
    fn chunk(&mut self, _number: usize) {}

    /// All chunks are through half a block.
    fn behind_half(&mut self) -> Result<()> {
        Ok(())
    }
}

/// A text's hidden states between two halves of blocks, and the block that they go through next.
pub struct Passage<'m, 'b, B: Backend> {
    blocks: Blockwise<'m, 'b, B>,
    states: Vec<f32>, // (chunks, ctx, width)
    chunk: usize,     // of states, in numbers
}

impl<'m, 'b, B: Backend> Passage<'m, 'b, B> {
    /// Before the first block. `replaced` stands in place of some of the model's tensors.
    pub fn new(backend: &'b B, model: &'m Model, text: &Calibration, replaced: &Replaced) -> Result<Self> {
        let mut blocks = Blockwise::new(backend, model, text.ctx, replaced)?;
        let chunk = text.ctx * blocks.plan().width;
        let mut states = vec![0.0; text.chunks.len() * chunk];
        for (tokens, states) in text.chunks.iter().zip(states.chunks_exact_mut(chunk)) {
            blocks.embed(tokens, states)?;
        }
        Ok(Passage { blocks, states, chunk })
    }

    /// How the model runs.
    pub fn plan(&self) -> &Plan {
        self.blocks.plan()
    }

    /// Chunks of the text.
    pub fn chunks(&self) -> std::ops::Range<usize> {
        0..self.states.len() / self.chunk
    }

    /// Takes a block's weights, `replaced` in place of some of the model's, and lets go of the block before.
    pub fn load(&mut self, layer: usize, replaced: &Replaced) -> Result<()> {
        self.blocks.load(layer, replaced)
    }

    /// Takes all chunks through all blocks, and shows what goes into their matrices. Warns of what the blocks do not use.
    pub fn run(&mut self, follower: &mut impl Follower, ui: &Ui) -> Result<()> {
        let layers = self.plan().layers;
        let bar = ui.steps_bar((2 * layers * self.chunks().len()) as u64);
        bar.set_message("calibration, block by block");
        for layer in 0..layers {
            self.load(layer, &Replaced::new())?;
            for half in [Half::Attention, Half::Feed] {
                for chunk in self.chunks() {
                    follower.chunk(chunk);
                    self.advance(half, chunk, Some(follower))?;
                    bar.inc(1);
                }
                follower.behind_half()?;
            }
        }
        bar.finish_and_clear();
        self.blocks.unused().into_iter().for_each(|w| ui.warn(w));
        ui.refuse_warnings()
    }

    /// Shows what half the loaded block makes of a chunk, whose states stay as they are.
    pub fn show(&mut self, half: Half, chunk: usize, observer: &mut dyn Observer) -> Result<()> {
        let mut states = self.states[chunk * self.chunk..][..self.chunk].to_vec();
        self.blocks.run(half, &mut states, Some(observer))
    }

    /// Takes a chunk's states through half the loaded block; an observer sees that.
    pub fn advance(&mut self, half: Half, chunk: usize, observer: Option<&mut dyn Observer>) -> Result<()> {
        self.blocks.run(half, &mut self.states[chunk * self.chunk..][..self.chunk], observer)
    }

    /// Shows what the output matrix would be multiplied with, behind the last block.
    pub fn show_output(&mut self, chunk: usize, observer: &mut dyn Observer) -> Result<()> {
        self.blocks.show_output(&self.states[chunk * self.chunk..][..self.chunk], observer)
    }
}
