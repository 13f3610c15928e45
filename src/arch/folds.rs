//! Where a family's channels can be scaled or rotated without changing what the model computes: what is done to the one who makes
//! them is undone in those who read them.
//!
//! Names are GGUF's without `.weight`, `{i}` is the layer. A list names what any member of the family may have; what a model
//! lacks does not count.

/// All that transforms need to know about a family.
#[derive(Debug, Clone, Copy)]
pub struct Folds {
    /// Channels that can be scaled.
    pub places: &'static [Fold],
    /// Tables whose rows are added to the residual stream.
    pub tables: &'static [&'static str],
    /// Linears that write to the residual stream.
    pub writers: &'static [&'static str],
    /// Norms between those and the stream: where a model has one, the stream cannot be rotated.
    pub writer_norms: &'static [&'static str],
    /// Linears whose outputs are multiplied with each other, so that single large weights count more than elsewhere.
    pub scores: &'static [&'static str],
}

/// Channels, who makes them and who reads them.
#[derive(Debug, Clone, Copy)]
pub struct Fold {
    /// What the channels are.
    pub channels: Channels,
    /// A norm or a linear: the first of these that a model has. Of a fused matrix the last rows make the channels.
    pub from: &'static [&'static str],
    /// The linears that read them, all that a model has.
    pub to: &'static [&'static str],
}

/// What is scaled or rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channels {
    /// The residual stream behind a norm.
    Stream,
    /// Values of attention, head by head; several query heads may read the same.
    Values,
    /// The hidden layer of a gated feed-forward part, by way of `up`, in which it is linear.
    Hidden,
}

const fn fold(channels: Channels, from: &'static [&'static str], to: &'static [&'static str]) -> Fold {
    Fold { channels, from, to }
}

const ATTENTION: Fold = fold(
    Channels::Stream,
    &["blk.{i}.attn_norm"],
    &["blk.{i}.attn_q", "blk.{i}.attn_k", "blk.{i}.attn_v", "blk.{i}.attn_qkv"],
);
const VALUES: Fold = fold(Channels::Values, &["blk.{i}.attn_v", "blk.{i}.attn_qkv"], &["blk.{i}.attn_output"]);
const FEED: Fold = fold(
    Channels::Stream,
    &["blk.{i}.ffn_norm"],
    &["blk.{i}.ffn_gate", "blk.{i}.ffn_up", "blk.{i}.ffn_gate_inp", "blk.{i}.ffn_gate_exps", "blk.{i}.ffn_up_exps"],
);
const OUTPUT: Fold = fold(Channels::Stream, &["output_norm"], &["output"]);

/// Llama's block and its relatives: gated feed-forward, fused matrices or not, experts or not. Hidden layers of experts have no
/// fold: each would need statistics of its own few tokens.
pub const GATED: Folds = Folds {
    places: &[ATTENTION, VALUES, FEED, fold(Channels::Hidden, &["blk.{i}.ffn_up"], &["blk.{i}.ffn_down"]), OUTPUT],
    tables: &["token_embd"],
    writers: &["blk.{i}.attn_output", "blk.{i}.ffn_down", "blk.{i}.ffn_down_exps"],
    writer_norms: &["blk.{i}.post_attention_norm", "blk.{i}.post_ffw_norm"],
    scores: &["blk.{i}.attn_q", "blk.{i}.attn_k", "blk.{i}.attn_qkv"],
};

/// GPT-2's block: the activation stands between `up` and `down`, so that hidden channels cannot be scaled.
pub const UNGATED: Folds =
    Folds { places: &[ATTENTION, VALUES, FEED, OUTPUT], tables: &["token_embd", "position_embd"], ..GATED };
