//! A model's weights in a backend's memory, in the shape of the forward pass.

use super::load::{self, Replaced};
use crate::arch::Plan;
use crate::model::Model;
use qconv_kernels::Backend;

/// A model that is ready to run.
pub struct Engine<'b, B: Backend> {
    pub(super) backend: &'b B,
    pub(super) plan: Plan,
    pub(super) vocabulary: usize,
    pub(super) embedding: B::Weight,         // (vocabulary, width)
    pub(super) positions: Option<B::Weight>, // (learned positions, width)
    pub(super) learned_positions: Option<usize>,
    pub(super) blocks: Vec<Block<B>>,
    pub(super) output_norm: NormWeights<B>, // width
    pub(super) output: Option<B::Weight>,   // (vocabulary, width); tied to the embedding where missing
    pub(super) output_bias: Option<B::Weight>,
    pub(super) rope_factors: RopeFactors,
    pub(super) weight_bytes: u64,
}

/// Divisors of the rotary frequencies that came as tensors, each `rope.dims / 2` long.
#[derive(Debug, Default)]
pub(super) struct RopeFactors {
    pub always: Option<Vec<f32>>,
    pub long: Option<Vec<f32>>,
    pub short: Option<Vec<f32>>,
}

/// A matrix and what is added to its product.
pub(super) struct Linear<B: Backend> {
    pub weight: B::Weight,       // (rows, cols)
    pub bias: Option<B::Weight>, // rows
    pub name: Box<str>,          // in GGUF; parts of a fused matrix and the experts of a stack share theirs
    pub expert: Option<usize>,
    pub cols: usize,
}

/// The weights of a norm.
pub(super) struct NormWeights<B: Backend> {
    pub weight: B::Weight,
    pub bias: Option<B::Weight>,
}

/// A norm over queries or keys: over each head (`cols` is the head's width) or over all of them at once.
pub(super) struct HeadNorm<B: Backend> {
    pub norm: NormWeights<B>,
    pub cols: usize,
}

/// One transformer block.
pub(super) struct Block<B: Backend> {
    pub attn_norm: Option<NormWeights<B>>,           // width
    pub q: Linear<B>,                                // (heads * key_dim, width)
    pub k: Linear<B>,                                // (kv_heads * key_dim, width)
    pub v: Linear<B>,                                // (kv_heads * value_dim, width)
    pub qk_norm: Option<(HeadNorm<B>, HeadNorm<B>)>, // of queries and of keys
    pub attn_output: Linear<B>,                      // (width, heads * value_dim)
    pub post_attention_norm: Option<NormWeights<B>>, // width
    pub ffn_norm: Option<NormWeights<B>>,            // width
    pub feed: FeedWeights<B>,
    pub post_ffw_norm: Option<NormWeights<B>>, // width
}

/// The feed-forward part of a block.
pub(super) enum FeedWeights<B: Backend> {
    /// One network for all tokens.
    Dense(Mlp<B>),
    /// Several, of which a router picks a few per token.
    Experts {
        router: Linear<B>, // (experts, width)
        experts: Vec<Mlp<B>>,
        mixture: Option<B::Mixture>, // where the backend picks them itself
    },
}

/// `down(act(gate(x)) * up(x))`, or `down(act(up(x)))` without a gate.
pub(super) struct Mlp<B: Backend> {
    pub gate: Option<Linear<B>>, // (hidden, width)
    pub up: Linear<B>,           // (hidden, width)
    pub down: Linear<B>,         // (width, hidden)
    pub hidden: usize,
}

impl<'b, B: Backend> Engine<'b, B> {
    /// Takes a model's weights over, after checking every shape against the plan. Errors name the tensor. Tensors that the
    /// forward pass does not use are told in `warnings`.
    pub fn load(backend: &'b B, model: &Model, warnings: &mut Vec<String>) -> anyhow::Result<Self> {
        load::load(backend, model, &Replaced::new(), warnings)
    }

    /// [`Engine::load`], with other tensors in place of the model's, by name; of the same shapes, or there is an error.
    pub fn load_replaced(backend: &'b B, model: &Model, replaced: &Replaced) -> anyhow::Result<Self> {
        load::load(backend, model, replaced, &mut Vec::new())
    }

    /// The backend it runs on.
    pub fn backend(&self) -> &'b B {
        self.backend
    }

    /// How it runs.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Rows of the embedding: the number of logits.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Bytes of all weights as they are stored in the model.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    /// Whether a token of each of so many sequences can be a step that is repeated. Learned positions of several are looked up as
    /// their tokens are, of which such a step has one list.
    pub(super) fn repeats(&self, sequences: usize) -> bool {
        sequences == 1 || self.positions.is_none()
    }

    /// Whether the backend picks the experts of some layer itself.
    pub(super) fn picks(&self) -> bool {
        self.blocks.iter().any(|block| matches!(&block.feed, FeedWeights::Experts { mixture: Some(_), .. }))
    }

    /// The matrix that gives logits.
    pub(super) fn head(&self) -> &B::Weight {
        self.output.as_ref().unwrap_or(&self.embedding)
    }

    /// The widest hidden layer of all blocks, experts included.
    pub(super) fn hidden(&self) -> usize {
        let of = |block: &Block<B>| match &block.feed {
            FeedWeights::Dense(mlp) => mlp.hidden,
            FeedWeights::Experts { experts, .. } => experts.iter().map(|e| e.hidden).max().unwrap_or(0),
        };
        self.blocks.iter().map(of).max().unwrap_or(0)
    }
}
