//! The forward pass: what follows from the plan and from which tensors are there, in the order it is computed.

use super::feed;
use super::observe::{Watch, products};
use super::rope::Ropes;
use super::weights::{Block, Engine, FeedWeights, HeadNorm, NormWeights};
use crate::arch::Plan;
use qconv_kernels::{Attention, Backend, Product, Result, Rope};

/// Buffers for `n` tokens, `n` up to the batch size; made once per session.
pub(super) struct Scratch<B: Backend> {
    pub x: B::Buffer,       // (n, width): the residual stream
    pub h: B::Buffer,       // (n, width): normalized
    pub branch: B::Buffer,  // (n, width): what attention or feed-forward adds
    pub normed: B::Buffer,  // (n, max(width, heads * key_dim)): results of norms that follow a product
    pub q: B::Buffer,       // (n, heads * key_dim)
    pub k: B::Buffer,       // (n, kv_heads * key_dim)
    pub v: B::Buffer,       // (n, kv_heads * value_dim)
    pub context: B::Buffer, // (n, heads * value_dim)
    pub gate: B::Buffer,    // (n, hidden); (n, experts used, hidden) where the backend picks experts
    pub up: B::Buffer,      // the same
    pub router: B::Buffer,  // (n, experts)
    pub picks: B::Buffer,   // (2, n, experts used) where the backend picks them
    pub expert: B::Buffer,  // (n, width): what one expert gives; (n, experts used, width): what each of a token's gives
    pub zero: B::Buffer,    // (1, width), never written
    pub routes: feed::Routes,
    pub logits: B::Buffer, // (logit rows, vocabulary)
    pub best: B::Buffer,   // (1): the place of the largest logit
    pub rows: Vec<u32>,
}

/// Lengths of the buffers above.
struct Lengths {
    width: usize,
    normed: usize,
    q: usize,
    k: usize,
    v: usize,
    context: usize,
    hidden: usize,
    router: usize,
    picks: usize,
    expert: usize,
    zero: usize,
    logits: usize,
}

impl Lengths {
    fn new<B: Backend>(engine: &Engine<'_, B>, n: usize, logit_rows: usize, hidden: usize) -> Self {
        let p = &engine.plan;
        let (experts, used) = p.feed.experts.map_or((0, 0), |e| (e.count, e.used));
        let picked = if engine.picks() { n * used } else { 0 };
        Lengths {
            width: n * p.width,
            normed: n * p.width.max(p.heads * p.key_dim),
            q: n * p.heads * p.key_dim,
            k: n * p.kv_heads * p.key_dim,
            v: n * p.kv_heads * p.value_dim,
            context: n * p.heads * p.value_dim,
            hidden: n.max(picked) * hidden,
            router: n * experts,
            picks: 2 * picked,
            expert: n.max(picked) * p.width * usize::from(experts > 0),
            zero: p.width * usize::from(experts > 0),
            logits: logit_rows * engine.vocabulary,
        }
    }
}

impl<B: Backend> Scratch<B> {
    /// For batches of up to `n` tokens.
    pub fn new(engine: &Engine<'_, B>, n: usize, logit_rows: usize) -> Result<Self> {
        Self::allocate(engine, n, &Lengths::new(engine, n, logit_rows, engine.hidden()))
    }

    /// For batches of up to `n` tokens that never reach the logits, and hidden layers of up to `hidden`.
    pub fn for_blocks(engine: &Engine<'_, B>, n: usize, hidden: usize) -> Result<Self> {
        Self::allocate(engine, n, &Lengths::new(engine, n, 0, hidden))
    }

    fn allocate(engine: &Engine<'_, B>, n: usize, l: &Lengths) -> Result<Self> {
        let b = engine.backend;
        Ok(Scratch {
            x: b.buffer(l.width)?,
            h: b.buffer(l.width)?,
            branch: b.buffer(l.width)?,
            normed: b.buffer(l.normed)?,
            q: b.buffer(l.q)?,
            k: b.buffer(l.k)?,
            v: b.buffer(l.v)?,
            context: b.buffer(l.context)?,
            gate: b.buffer(l.hidden)?,
            up: b.buffer(l.hidden)?,
            router: b.buffer(l.router)?,
            picks: b.buffer(l.picks)?,
            expert: b.buffer(l.expert)?,
            zero: b.buffer(l.zero)?,
            routes: feed::Routes::new(engine.plan.feed.experts, n),
            logits: b.buffer(l.logits)?,
            best: b.buffer(1)?,
            rows: Vec::with_capacity(n),
        })
    }

    /// Floats of a token in the widest of these buffers but the logits.
    pub fn widest(engine: &Engine<'_, B>) -> usize {
        let l = Lengths::new(engine, 1, 0, engine.hidden());
        [l.normed, l.q, l.k, l.v, l.context, l.hidden, l.router, l.expert].into_iter().fold(l.width, usize::max)
    }

    /// Floats in all buffers.
    pub fn floats(engine: &Engine<'_, B>, n: usize, logit_rows: usize) -> usize {
        let l = Lengths::new(engine, n, logit_rows, engine.hidden());
        3 * l.width
            + l.normed
            + l.q
            + l.k
            + l.v
            + l.context
            + 2 * l.hidden
            + l.router
            + l.picks
            + l.expert
            + l.zero
            + l.logits
    }
}

/// Runs tokens through all blocks, as many for each cache, sequence after sequence, all from position `start` on; their hidden
/// states are left in `scratch.x`. False if `stop` said so between two blocks: then nothing is left.
#[allow(clippy::too_many_arguments)] // what a session consists of
pub(super) fn batch<B: Backend>(
    engine: &Engine<'_, B>,
    s: &mut Scratch<B>,
    caches: &mut [B::Cache],
    ropes: Option<&Ropes>,
    tokens: &[u32],
    start: usize,
    watch: &mut Watch<'_>,
    stop: &dyn Fn() -> bool,
) -> Result<bool> {
    let (b, plan, n) = (engine.backend, &engine.plan, tokens.len());
    embed(engine, s, tokens, caches.len(), start)?;
    // What the block before leaves in `branch`, and whether that is normalized before it is added.
    let mut before: Option<Option<&NormWeights<B>>> = None;
    for (layer, block) in engine.blocks.iter().enumerate() {
        if stop() {
            return Ok(false);
        }
        match before {
            None => pre_norm(b, plan, block.attn_norm.as_ref(), s, n)?,
            Some(post) => add_branch_and_norm(b, plan, post, block.attn_norm.as_ref(), s, n)?,
        }
        let rope = ropes.map(|r| r.of(plan, layer));
        attention(b, plan, block, rope, Place { layer, slot: layer, start }, caches, s, n, watch)?;
        add_branch_and_norm(b, plan, block.post_attention_norm.as_ref(), block.ffn_norm.as_ref(), s, n)?;
        feed(b, plan, block, s, n, watch)?;
        before = Some(block.post_ffw_norm.as_ref());
    }
    if let Some(post) = before {
        add_branch(b, plan, post, s, n)?;
    }
    Ok(true)
}

/// `x` = embeddings of tokens of some sequences, all from position `start` on.
pub(super) fn embed<B: Backend>(
    engine: &Engine<'_, B>,
    s: &mut Scratch<B>,
    tokens: &[u32],
    sequences: usize,
    start: usize,
) -> Result<()> {
    let (b, plan, n) = (engine.backend, &engine.plan, tokens.len());
    b.embed(&engine.embedding, tokens, &mut s.x)?;
    if let Some(scale) = plan.embedding_scale {
        b.scale(&mut s.x, scale, n * plan.width)?;
    }
    if let Some(positions) = &engine.positions {
        if n == 1 {
            b.embed_position(positions, start, &mut s.branch)?;
        } else {
            s.rows.clear();
            s.rows.extend((0..n).map(|i| (start + i % (n / sequences)) as u32));
            b.embed(positions, &s.rows, &mut s.branch)?;
        }
        b.add(&mut s.x, &s.branch, n * plan.width)?;
    }
    Ok(())
}

/// Which layer of the model, where its keys and values lie in the cache, and the first row's position.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub layer: usize,
    pub slot: usize,
    pub start: usize,
}

/// `x += attention(norm(x))`
#[allow(clippy::too_many_arguments)] // what a session consists of
pub(super) fn attention_half<B: Backend>(
    b: &B,
    plan: &Plan,
    block: &Block<B>,
    rope: Option<&Rope>,
    place: Place,
    caches: &mut [B::Cache],
    s: &mut Scratch<B>,
    n: usize,
    watch: &mut Watch<'_>,
) -> Result<()> {
    pre_norm(b, plan, block.attn_norm.as_ref(), s, n)?;
    attention(b, plan, block, rope, place, caches, s, n, watch)?;
    add_branch(b, plan, block.post_attention_norm.as_ref(), s, n)
}

/// `x += feed(norm(x))`
pub(super) fn feed_half<B: Backend>(
    b: &B,
    plan: &Plan,
    block: &Block<B>,
    s: &mut Scratch<B>,
    n: usize,
    watch: &mut Watch<'_>,
) -> Result<()> {
    pre_norm(b, plan, block.ffn_norm.as_ref(), s, n)?;
    feed(b, plan, block, s, n, watch)?;
    add_branch(b, plan, block.post_ffw_norm.as_ref(), s, n)
}

/// `branch = feed(h)`; of `x` in families without a norm before it.
fn feed<B: Backend>(
    b: &B,
    plan: &Plan,
    block: &Block<B>,
    s: &mut Scratch<B>,
    n: usize,
    watch: &mut Watch<'_>,
) -> Result<()> {
    match &block.feed {
        FeedWeights::Dense(mlp) => {
            let Scratch { x, h, gate, up, branch, .. } = s;
            let input = if block.ffn_norm.is_some() { &*h } else { &*x };
            feed::dense(b, plan, mlp, input, gate, up, branch, n, watch)
        }
        FeedWeights::Experts { router, experts, mixture } => {
            feed::experts(b, plan, router, experts, mixture.as_ref(), s, n, watch)
        }
    }
}

/// Logits of rows of the latest batch into `scratch.logits`, `(rows.len(), vocabulary)`.
pub(super) fn logits<B: Backend>(
    engine: &Engine<'_, B>,
    s: &mut Scratch<B>,
    rows: impl ExactSizeIterator<Item = usize>,
) -> Result<()> {
    let (b, plan, n) = (engine.backend, &engine.plan, rows.len());
    s.rows.clear();
    s.rows.extend(rows.map(|i| i as u32));
    b.gather(&s.x, &s.rows, plan.width, &mut s.branch)?;
    norm(b, plan, &engine.output_norm, &s.branch, &mut s.h, n)?;
    let product = Product { weight: engine.head(), bias: engine.output_bias.as_ref(), out: &mut s.logits };
    b.matmul(&s.h, n, &mut [product])?;
    if let Some(scale) = plan.logit_scale {
        b.scale(&mut s.logits, scale, n * engine.vocabulary)?;
    }
    if let Some(cap) = plan.logit_soft_cap {
        b.soft_cap(&mut s.logits, cap, n * engine.vocabulary)?;
    }
    Ok(())
}

/// The largest logit of one row of the latest batch: its place into `scratch.best`.
pub(super) fn best<B: Backend>(engine: &Engine<'_, B>, s: &mut Scratch<B>, row: usize) -> Result<()> {
    logits(engine, s, row..row + 1)?;
    engine.backend.argmax(&s.logits, engine.vocabulary, &mut s.best)
}

/// Shows what the output matrix would be multiplied with: all `n` rows of the latest batch, normalized.
pub(super) fn show_output<B: Backend>(
    engine: &Engine<'_, B>,
    s: &mut Scratch<B>,
    n: usize,
    watch: &mut Watch<'_>,
) -> Result<()> {
    let (b, plan) = (engine.backend, &engine.plan);
    norm(b, plan, &engine.output_norm, &s.x, &mut s.h, n)?;
    watch.show(b, &s.h, n, plan.width, None, ["output.weight"])
}

/// `out = norm(x)` over rows of the model's width.
fn norm<B: Backend>(
    b: &B,
    plan: &Plan,
    weights: &NormWeights<B>,
    x: &B::Buffer,
    out: &mut B::Buffer,
    n: usize,
) -> Result<()> {
    b.norm(plan.norm, plan.eps, &weights.weight, weights.bias.as_ref(), x, out, n, plan.width)
}

/// `h = norm(x)`, if there is a norm.
fn pre_norm<B: Backend>(
    b: &B,
    plan: &Plan,
    weights: Option<&NormWeights<B>>,
    s: &mut Scratch<B>,
    n: usize,
) -> Result<()> {
    weights.map_or(Ok(()), |weights| norm(b, plan, weights, &s.x, &mut s.h, n))
}

/// What a branch adds to the residual stream: normalized and scaled where the model does so.
fn finished<'s, B: Backend>(
    b: &B,
    plan: &Plan,
    post: Option<&NormWeights<B>>,
    branch: &'s mut B::Buffer,
    normed: &'s mut B::Buffer,
    n: usize,
) -> Result<&'s B::Buffer> {
    let branch = match post {
        Some(weights) => {
            norm(b, plan, weights, branch, normed, n)?;
            normed
        }
        None => branch,
    };
    if let Some(scale) = plan.residual_scale {
        b.scale(branch, scale, n * plan.width)?;
    }
    Ok(branch)
}

/// `x += branch`, finished.
fn add_branch<B: Backend>(
    b: &B,
    plan: &Plan,
    post: Option<&NormWeights<B>>,
    s: &mut Scratch<B>,
    n: usize,
) -> Result<()> {
    let branch = finished(b, plan, post, &mut s.branch, &mut s.normed, n)?;
    b.add(&mut s.x, branch, n * plan.width)
}

/// [`add_branch`], and what comes next: `h = norm(x)`, if there is a norm.
fn add_branch_and_norm<B: Backend>(
    b: &B,
    plan: &Plan,
    post: Option<&NormWeights<B>>,
    next: Option<&NormWeights<B>>,
    s: &mut Scratch<B>,
    n: usize,
) -> Result<()> {
    let Scratch { x, h, branch, normed, .. } = s;
    let branch = finished(b, plan, post, branch, normed, n)?;
    match next {
        Some(next) => b.add_norm(x, branch, plan.norm, plan.eps, &next.weight, next.bias.as_ref(), h, n, plan.width),
        None => b.add(x, branch, n * plan.width),
    }
}

/// Normalizes queries or keys.
fn head_norm<B: Backend>(
    b: &B,
    plan: &Plan,
    weights: &HeadNorm<B>,
    x: &B::Buffer,
    out: &mut B::Buffer,
    len: usize,
) -> Result<()> {
    let (norm, cols) = (&weights.norm, weights.cols);
    b.norm(plan.norm, plan.eps, &norm.weight, norm.bias.as_ref(), x, out, len / cols, cols)
}

/// `branch = output(attention(h))`, of `x` in families without a norm before it; keys and values go into the caches, as many rows into each.
#[allow(clippy::too_many_arguments)] // a step of the pass above, in a function for the eye
fn attention<B: Backend>(
    b: &B,
    plan: &Plan,
    block: &Block<B>,
    rope: Option<&Rope>,
    Place { layer, slot, start }: Place,
    caches: &mut [B::Cache],
    s: &mut Scratch<B>,
    n: usize,
    watch: &mut Watch<'_>,
) -> Result<()> {
    let Scratch { x, h, q, k, v, normed, context, branch, .. } = s;
    let input = if block.attn_norm.is_some() { &*h } else { &*x };
    products(b, watch, input, n, [(&block.q, &mut *q), (&block.k, &mut *k), (&block.v, &mut *v)])?;
    let (q, k) = match &block.qk_norm {
        None => (q, k),
        Some((q_norm, k_norm)) => {
            head_norm(b, plan, q_norm, q, normed, n * plan.heads * plan.key_dim)?;
            // The raw queries are done with, and keys are never wider.
            head_norm(b, plan, k_norm, k, q, n * plan.kv_heads * plan.key_dim)?;
            (normed, q)
        }
    };
    let shape = Attention {
        heads: plan.heads,
        kv_heads: plan.kv_heads,
        key_dim: plan.key_dim,
        value_dim: plan.value_dim,
        scale: plan.attention_scale,
        window: plan.window_of(layer),
        soft_cap: plan.attention_soft_cap,
    };
    match caches {
        [cache] => {
            match rope {
                Some(rope) => {
                    b.rope_store(rope, plan.heads, plan.kv_heads, plan.key_dim, q, k, v, cache, slot, start, n)?;
                }
                None => b.store(cache, slot, k, v, start, n)?,
            }
            b.attention(&shape, q, cache, slot, start, n, context)?;
        }
        several => {
            let each = n / several.len();
            let mut several: Vec<_> = several.iter_mut().collect();
            b.attend_each(rope, &shape, q, k, v, &mut several, slot, start, each, context)?;
        }
    }
    products(b, watch, context, n, [(&block.attn_output, branch)])
}
