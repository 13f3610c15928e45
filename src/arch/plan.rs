//! How the forward pass of a family runs: read from GGUF metadata by [`super::Architecture::plan`], executed by the engine.
//!
//! What shows in the tensors is not repeated here: biases, query-key norms, post-norms, an untied output, fused
//! query-key-value or gate-up matrices and learned positions are there if their tensors are.

use qconv_kernels::{Activation, Norm, RopeStyle};

/// The forward pass of one model.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Number of blocks.
    pub layers: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Width of a query or key head.
    pub key_dim: usize,
    /// Width of a value head.
    pub value_dim: usize,
    /// Positions the model was trained on.
    pub context: usize,
    /// Kind of all norms.
    pub norm: Norm,
    /// Added to the variance.
    pub eps: f32,
    /// Rotary embedding; `None` with learned positions.
    pub rope: Option<RopePlan>,
    /// Attention scores are multiplied with it.
    pub attention_scale: f32,
    /// Soft-capping of attention scores.
    pub attention_soft_cap: Option<f32>,
    /// Sliding windows.
    pub window: Option<Window>,
    /// The feed-forward part.
    pub feed: Feed,
    /// Norms stand before attention and before feed-forward; OLMo 2 has none there.
    pub pre_norms: bool,
    /// Norms of queries and keys, where there are any, run over all heads at once (OLMo 2), not over each.
    pub joint_head_norms: bool,
    /// Embeddings are multiplied with it (Gemma, Granite).
    pub embedding_scale: Option<f32>,
    /// What attention and feed-forward add to the residual stream is multiplied with it (Granite).
    pub residual_scale: Option<f32>,
    /// Logits are multiplied with it (Granite).
    pub logit_scale: Option<f32>,
    /// Soft-capping of logits.
    pub logit_soft_cap: Option<f32>,
}

/// Rotary embedding. A tensor `rope_freqs.weight` divides the frequencies where it exists;
/// `rope_factors_long.weight` and `rope_factors_short.weight` likewise, by context.
#[derive(Debug, Clone)]
pub struct RopePlan {
    /// Pairing of dimensions.
    pub style: RopeStyle,
    /// Dimensions of a head that are rotated.
    pub dims: usize,
    /// Base of the frequencies.
    pub base: f32,
    /// Scaling over all frequencies.
    pub scaling: RopeScaling,
    /// Base for the layers with a sliding window, where it differs (Gemma 3); those layers are not scaled.
    pub window_base: Option<f32>,
    /// Per layer whether it is rotated at all; all are where it is missing (SmolLM 3).
    pub rotated: Option<Vec<bool>>,
}

/// Context extension.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// None.
    None,
    /// Positions divided by the factor.
    Linear {
        /// Factor.
        factor: f32,
    },
    /// YaRN (Peng et al. 2023).
    Yarn {
        /// Factor.
        factor: f32,
        /// Context before extension.
        original: usize,
        /// Attention factor; computed from the factor where the file has none.
        attention: Option<f32>,
        /// Rotations above which frequencies stay (32).
        beta_fast: f32,
        /// Rotations below which frequencies are interpolated (1).
        beta_slow: f32,
    },
    /// LongRoPE (Ding et al. 2024): factors in tensors, chosen by context.
    Long {
        /// Context before extension.
        original: usize,
        /// Attention factor; computed where the file has none.
        attention: Option<f32>,
    },
}

/// Which layers see only a window of positions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Positions seen, the own one included.
    pub positions: usize,
    /// Per layer: has the window, or sees everything.
    pub windowed: Vec<bool>,
}

/// The feed-forward part.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Feed {
    /// Activation function.
    pub activation: Activation,
    /// `down(act(gate(x)) * up(x))` or `down(act(up(x)))`.
    pub gated: bool,
    /// Mixture of experts.
    pub experts: Option<Experts>,
}

/// A mixture of experts with softmax routing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Experts {
    /// Experts.
    pub count: usize,
    /// Experts used per token.
    pub used: usize,
    /// The weights of the chosen ones are scaled to sum to 1.
    pub normalize: bool,
}

impl Plan {
    /// Length of a norm of queries or keys of this many heads.
    pub fn head_norm(&self, heads: usize) -> usize {
        if self.joint_head_norms { heads * self.key_dim } else { self.key_dim }
    }

    /// The window of a layer, if it has one.
    pub fn window_of(&self, layer: usize) -> Option<usize> {
        let window = self.window.as_ref()?;
        window.windowed.get(layer).copied().unwrap_or(false).then_some(window.positions)
    }
}
