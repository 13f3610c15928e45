//! One block at a time, over the hidden states of many sequences: what layer-wise quantization runs.
//!
//! Only one block's weights are held, in halves that may be loaded anew as their matrices are replaced. Hidden states lie on
//! the host, and go through the same functions as in [`super::Session`].

use super::forward::{self, Scratch};
use super::load::{self, Replaced};
use super::observe::{Observer, Watch};
use super::rope::Ropes;
use super::weights::{Block, Engine};
use crate::arch::Plan;
use crate::model::Model;
use qconv_kernels::{Backend, CacheShape};

/// Half of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// Norm, attention, residual.
    Attention,
    /// Norm, feed-forward network or experts, residual.
    Feed,
}

/// A model without its blocks, of which one at a time is loaded.
pub struct Blockwise<'m, 'b, B: Backend> {
    model: &'m Model,
    engine: Engine<'b, B>, // without blocks
    block: Option<(usize, Block<B>)>,
    scratch: Scratch<B>,
    cache: [B::Cache; 1],
    ropes: Option<Ropes>,
    ctx: usize,
    used: load::Used<'m>,
}

impl<'m, 'b, B: Backend> Blockwise<'m, 'b, B> {
    /// For sequences of `ctx` tokens. `replaced` stands in place of some of the model's tensors.
    pub fn new(backend: &'b B, model: &'m Model, ctx: usize, replaced: &Replaced) -> anyhow::Result<Self> {
        let mut used = load::Used::new();
        let engine = load::skeleton(backend, model, replaced, &mut used)?;
        let plan = &engine.plan;
        let cache = backend.cache(CacheShape {
            layers: 1,
            positions: ctx,
            kv_heads: plan.kv_heads,
            key_width: plan.kv_heads * plan.key_dim,
            value_width: plan.kv_heads * plan.value_dim,
        })?;
        let hidden = load::widest(model, plan)?;
        let scratch = Scratch::for_blocks(&engine, ctx, hidden)?;
        let ropes = Ropes::new(plan, &engine.rope_factors, ctx);
        Ok(Blockwise { model, engine, block: None, scratch, cache: [cache], ropes, ctx, used })
    }

    /// How the model runs.
    pub fn plan(&self) -> &Plan {
        &self.engine.plan
    }

    /// Hidden states before the first block: `out` is `(tokens.len(), width)`.
    pub fn embed(&mut self, tokens: &[u32], out: &mut [f32]) -> anyhow::Result<()> {
        forward::embed(&self.engine, &mut self.scratch, tokens, 1, 0)?;
        Ok(self.engine.backend.read(&self.scratch.x, out)?)
    }

    /// Takes a block's weights, `replaced` in place of some of the model's.
    pub fn load(&mut self, layer: usize, replaced: &Replaced) -> anyhow::Result<()> {
        self.block = None; // never two at a time
        let Engine { backend, plan, .. } = &self.engine;
        let block = load::block(*backend, self.model, plan, layer, replaced, &mut self.used)?;
        self.block = Some((layer, block));
        Ok(())
    }

    /// After all blocks were loaded: a sentence for a user, if there are tensors that none of them uses.
    pub fn unused(&self) -> Option<String> {
        load::unused(self.model, &self.used)
    }

    /// Runs half of the loaded block over one sequence's hidden states, `(n, width)`, and shows what goes into its matrices.
    /// The states are replaced by those behind it.
    ///
    /// # Panics
    /// If no block is loaded, or the sequence is longer than `ctx`.
    pub fn run(&mut self, half: Half, states: &mut [f32], observer: Option<&mut dyn Observer>) -> anyhow::Result<()> {
        let (layer, block) = self.block.as_ref().expect("a block is loaded");
        let b = self.engine.backend;
        let n = states.len() / self.engine.plan.width;
        assert!(n <= self.ctx, "sequences of at most the length that was asked for");
        let mut watch = observer.map_or_else(Watch::nobody, Watch::by);
        b.write(states, &mut self.scratch.x)?;
        let (plan, s) = (&self.engine.plan, &mut self.scratch);
        match half {
            Half::Attention => {
                let rope = self.ropes.as_ref().map(|r| r.of(plan, *layer));
                let place = forward::Place { layer: *layer, slot: 0, start: 0 };
                forward::attention_half(b, plan, block, rope, place, &mut self.cache, s, n, &mut watch)?;
            }
            Half::Feed => forward::feed_half(b, plan, block, s, n, &mut watch)?,
        }
        Ok(b.read(&self.scratch.x, states)?)
    }

    /// Shows what the output matrix would be multiplied with, as inputs of `output.weight`.
    pub fn show_output(&mut self, states: &[f32], observer: &mut dyn Observer) -> anyhow::Result<()> {
        let n = states.len() / self.engine.plan.width;
        self.engine.backend.write(states, &mut self.scratch.x)?;
        Ok(forward::show_output(&self.engine, &mut self.scratch, n, &mut Watch::by(observer))?)
    }
}
