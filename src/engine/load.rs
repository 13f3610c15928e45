//! From named tensors to [`Engine`]: every name, shape and count is checked here, so that the forward pass can trust them.

use super::feed;
use super::weights::{Block, Engine, FeedWeights, HeadNorm, Linear, Mlp, NormWeights, RopeFactors};
use crate::arch::{Experts, Plan};
use crate::error::malformed;
use crate::model::{Model, ModelTensor};
use anyhow::Context;
use qconv_formats::{QTensor, Shape};
use qconv_kernels::{ARGMAX_LIMIT, Backend, ExpertWeights};
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// See [`Engine::load`] and [`Engine::load_replaced`].
pub(super) fn load<'b, B: Backend>(
    backend: &'b B,
    model: &Model,
    replaced: &Replaced,
    warnings: &mut Vec<String>,
) -> anyhow::Result<Engine<'b, B>> {
    let mut used = Used::new();
    let mut load = Loader { backend, model, layer: None, used: &mut used, replaced };
    let mut engine = load.skeleton()?;
    engine.blocks = (0..engine.plan.layers).map(|i| load.block(i, &engine.plan)).collect::<anyhow::Result<Vec<_>>>()?;

    warnings.extend(unused(model, &used));
    engine.weight_bytes = model.tensors().iter().filter(|t| used.contains(t.name.as_str())).map(bytes).sum();
    Ok(engine)
}

/// Names of the tensors that were taken.
pub(super) type Used<'a> = HashSet<&'a str>;

/// A sentence for a user, if the forward pass left tensors out.
pub(super) fn unused(model: &Model, used: &Used<'_>) -> Option<String> {
    let mut unused = model.tensors().iter().map(|t| t.name.as_str()).filter(|&n| !used.contains(n));
    let first = unused.next()?;
    let more = match unused.count() {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    Some(format!("the forward pass uses neither tensor {first}{more} of {}", model.path().display()))
}

/// Tensors that stand in place of a model's, by name.
pub type Replaced = HashMap<String, QTensor>;

/// All but the blocks, some tensors replaced.
pub(super) fn skeleton<'m, 'b, B: Backend>(
    backend: &'b B,
    model: &'m Model,
    replaced: &Replaced,
    used: &mut Used<'m>,
) -> anyhow::Result<Engine<'b, B>> {
    Loader { backend, model, layer: None, used, replaced }.skeleton()
}

/// One block, some tensors replaced; its experts are the host's to pick, since buffers were made before any block was known.
pub(super) fn block<'m, B: Backend>(
    backend: &B,
    model: &'m Model,
    plan: &Plan,
    layer: usize,
    replaced: &Replaced,
    used: &mut Used<'m>,
) -> anyhow::Result<Block<B>> {
    let mut block = Loader { backend, model, layer: None, used, replaced }.block(layer, plan)?;
    if let FeedWeights::Experts { mixture, .. } = &mut block.feed {
        *mixture = None;
    }
    Ok(block)
}

/// The widest hidden layer of all blocks, from the shapes of what leads out of it.
pub(super) fn widest(model: &Model, plan: &Plan) -> anyhow::Result<usize> {
    let down = |i: usize| {
        let names = [format!("blk.{i}.ffn_down.weight"), format!("blk.{i}.ffn_down_exps.weight")];
        names.iter().find_map(|n| model.tensor(n)).map(|t| t.shape.cols())
    };
    (0..plan.layers)
        .filter_map(down)
        .max()
        .ok_or_else(|| malformed(model.path(), "tensor blk.0.ffn_down.weight", "is missing; the forward pass needs it"))
}

/// Bytes of a tensor in its format.
fn bytes(t: &ModelTensor) -> u64 {
    (t.format.row_bytes(t.shape.cols()).unwrap_or(0) as u64).saturating_mul(t.shape.rows() as u64)
}

/// What the forward pass divides by or relies on.
fn check(plan: &Plan, model: &Model) -> anyhow::Result<()> {
    let wrong = |what: String| Err(malformed(model.path(), "hyper-parameters", what));
    let sizes = [plan.layers, plan.width, plan.heads, plan.kv_heads, plan.key_dim, plan.value_dim, plan.context];
    if sizes.contains(&0) {
        return wrong("a size is 0".into());
    }
    // Widths are compared with tensors that exist, so that only their products must not overflow.
    let dims = plan.key_dim.max(plan.value_dim);
    if plan.heads.checked_mul(dims).is_none_or(|n| n > u32::MAX as usize) {
        return wrong(format!("{} heads of {dims} are beyond every model", plan.heads));
    }
    if !plan.heads.is_multiple_of(plan.kv_heads) {
        return wrong(format!("{} query heads cannot share {} key-value heads", plan.heads, plan.kv_heads));
    }
    if let Some(rope) = &plan.rope
        && (rope.dims == 0 || rope.dims % 2 != 0 || rope.dims > plan.key_dim)
    {
        return wrong(format!("{} rotated dimensions do not fit a head of {}", rope.dims, plan.key_dim));
    }
    if let Some(Experts { count, used, .. }) = plan.feed.experts
        && (used == 0 || used > count)
    {
        return wrong(format!("{used} of {count} experts per token are impossible"));
    }
    if !plan.pre_norms && plan.feed.experts.is_some() {
        return wrong("experts without a norm in front of them are computed by nothing here".into());
    }
    Ok(())
}

/// Takes tensors by name and remembers which.
struct Loader<'a, 'b, 'r, B> {
    backend: &'b B,
    model: &'a Model,
    layer: Option<usize>, // that weights belong to
    used: &'r mut Used<'a>,
    replaced: &'r Replaced,
}

impl<'a, 'b, B: Backend> Loader<'a, 'b, '_, B> {
    /// Everything but the blocks; the bytes of all are not counted yet.
    fn skeleton(&mut self) -> anyhow::Result<Engine<'b, B>> {
        let plan = self.model.plan()?;
        check(&plan, self.model)?;
        let embedding = self.required("token_embd.weight")?;
        let [vocabulary, width] = *embedding.shape.dims() else {
            return Err(self.shape_error(embedding, &[0, plan.width], "(vocabulary, width)"));
        };
        if width != plan.width {
            return Err(self.shape_error(embedding, &[vocabulary, plan.width], "(vocabulary, width)"));
        }
        if vocabulary >= ARGMAX_LIMIT {
            let what = format!("has {vocabulary} rows; fewer than {ARGMAX_LIMIT} tokens are possible");
            return Err(malformed(self.model.path(), "tensor token_embd.weight", what));
        }
        let embedding = self.take(embedding)?;
        let (positions, learned_positions) = match (plan.rope.is_some(), self.find("position_embd.weight")) {
            (_, None) if plan.rope.is_some() => (None, None),
            (_, None) => return Err(self.missing("position_embd.weight")),
            (_, Some(t)) => match *t.shape.dims() {
                [n, cols] if cols == plan.width => (Some(self.take(t)?), Some(n)),
                _ => return Err(self.shape_error(t, &[plan.context, plan.width], "(positions, width)")),
            },
        };
        let output_norm = self.norm("output_norm", plan.width)?;
        let output = self.maybe_matrix("output.weight", vocabulary, plan.width)?;
        let output_bias = self.maybe_vector("output.bias", vocabulary)?;
        let pairs = plan.rope.as_ref().map_or(0, |r| r.dims / 2);
        let rope_factors = RopeFactors {
            always: self.maybe_floats("rope_freqs.weight", pairs)?,
            long: self.maybe_floats("rope_factors_long.weight", pairs)?,
            short: self.maybe_floats("rope_factors_short.weight", pairs)?,
        };

        Ok(Engine {
            backend: self.backend,
            plan,
            vocabulary,
            embedding,
            positions,
            learned_positions,
            blocks: Vec::new(),
            output_norm,
            output,
            output_bias,
            rope_factors,
            weight_bytes: 0,
        })
    }

    fn find(&mut self, name: &str) -> Option<&'a ModelTensor> {
        let tensor = self.model.tensor(name)?;
        self.used.insert(&tensor.name);
        Some(tensor)
    }

    fn required(&mut self, name: &str) -> anyhow::Result<&'a ModelTensor> {
        self.find(name).ok_or_else(|| self.missing(name))
    }

    fn missing(&self, name: &str) -> anyhow::Error {
        malformed(self.model.path(), format!("tensor {name}"), "is missing; the forward pass needs it")
    }

    fn shape_error(&self, t: &ModelTensor, want: &[usize], meaning: &str) -> anyhow::Error {
        let what = format!("has shape {:?} where {want:?} {meaning} follows from the hyper-parameters", t.shape.dims());
        malformed(self.model.path(), format!("tensor {}", t.name), what)
    }

    fn expect(&self, t: &ModelTensor, want: &[usize]) -> anyhow::Result<()> {
        if t.shape.dims() == want { Ok(()) } else { Err(self.shape_error(t, want, "(outermost first)")) }
    }

    fn packed(&self, t: &ModelTensor) -> anyhow::Result<QTensor> {
        if t.format.dequantize.is_none() {
            let what = format!("holds integers ({}) where weights are needed", t.format.name);
            return Err(malformed(self.model.path(), format!("tensor {}", t.name), what));
        }
        match self.replaced.get(&t.name) {
            Some(tensor) => Ok(tensor.clone()),
            None => self.model.packed(t),
        }
    }

    fn hand_over(&self, name: &str, tensor: QTensor) -> anyhow::Result<B::Weight> {
        self.backend.weight_of(self.layer, tensor).with_context(|| format!("tensor {name}"))
    }

    fn take(&self, t: &ModelTensor) -> anyhow::Result<B::Weight> {
        self.hand_over(&t.name, self.packed(t)?)
    }

    fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> anyhow::Result<B::Weight> {
        let t = self.required(name)?;
        self.expect(t, &[rows, cols])?;
        self.take(t)
    }

    fn maybe_matrix(&mut self, name: &str, rows: usize, cols: usize) -> anyhow::Result<Option<B::Weight>> {
        let Some(t) = self.find(name) else { return Ok(None) };
        self.expect(t, &[rows, cols])?;
        self.take(t).map(Some)
    }

    fn maybe_vector(&mut self, name: &str, len: usize) -> anyhow::Result<Option<B::Weight>> {
        let Some(t) = self.find(name) else { return Ok(None) };
        self.expect(t, &[len])?;
        self.take(t).map(Some)
    }

    /// A small tensor on the host.
    fn maybe_floats(&mut self, name: &str, len: usize) -> anyhow::Result<Option<Vec<f32>>> {
        let Some(t) = self.find(name) else { return Ok(None) };
        self.expect(t, &[len])?;
        let packed = self.packed(t)?;
        let dequantize = packed.format().dequantize.expect("`packed` refuses integers");
        let mut out = vec![0.0; len];
        dequantize(packed.bytes(), &mut out);
        match out.iter().find(|x| !x.is_finite() || **x <= 0.0) {
            Some(x) => Err(malformed(self.model.path(), format!("tensor {name}"), format!("holds the factor {x}"))),
            None => Ok(Some(out)),
        }
    }

    /// `NAME.weight` and, where it exists, `NAME.bias`.
    fn linear(&mut self, name: &str, rows: usize, cols: usize) -> anyhow::Result<Linear<B>> {
        let weight_name = format!("{name}.weight");
        Ok(Linear {
            weight: self.matrix(&weight_name, rows, cols)?,
            bias: self.maybe_vector(&format!("{name}.bias"), rows)?,
            name: weight_name.into(),
            expert: None,
            cols,
        })
    }

    fn norm(&mut self, name: &str, len: usize) -> anyhow::Result<NormWeights<B>> {
        match self.maybe_norm(name, len)? {
            Some(norm) => Ok(norm),
            None => Err(self.missing(&format!("{name}.weight"))),
        }
    }

    fn maybe_norm(&mut self, name: &str, len: usize) -> anyhow::Result<Option<NormWeights<B>>> {
        let Some(weight) = self.maybe_vector(&format!("{name}.weight"), len)? else { return Ok(None) };
        Ok(Some(NormWeights { weight, bias: self.maybe_vector(&format!("{name}.bias"), len)? }))
    }

    /// A norm before attention or feed-forward, where the family has them.
    fn pre_norm(&mut self, name: &str, plan: &Plan) -> anyhow::Result<Option<NormWeights<B>>> {
        if plan.pre_norms { self.norm(name, plan.width).map(Some) } else { Ok(None) }
    }

    /// Both norms or none.
    fn qk_norm(&mut self, i: usize, plan: &Plan) -> anyhow::Result<Option<(HeadNorm<B>, HeadNorm<B>)>> {
        let (q, k) = (format!("blk.{i}.attn_q_norm"), format!("blk.{i}.attn_k_norm"));
        let mut norm = |name: &str, heads: usize| -> anyhow::Result<Option<HeadNorm<B>>> {
            let cols = plan.head_norm(heads);
            Ok(self.maybe_norm(name, cols)?.map(|norm| HeadNorm { norm, cols }))
        };
        let norms = (norm(&q, plan.heads)?, norm(&k, plan.kv_heads)?);
        match norms {
            (Some(q), Some(k)) => Ok(Some((q, k))),
            (None, None) => Ok(None),
            (None, Some(_)) => Err(self.missing(&format!("{q}.weight"))),
            (Some(_), None) => Err(self.missing(&format!("{k}.weight"))),
        }
    }

    fn block(&mut self, i: usize, plan: &Plan) -> anyhow::Result<Block<B>> {
        self.layer = Some(i);
        let width = plan.width;
        let name = |part: &str| format!("blk.{i}.{part}");
        let [q, k, v] = self.qkv(i, plan)?;
        Ok(Block {
            attn_norm: self.pre_norm(&name("attn_norm"), plan)?,
            q,
            k,
            v,
            qk_norm: self.qk_norm(i, plan)?,
            attn_output: self.linear(&name("attn_output"), width, plan.heads * plan.value_dim)?,
            post_attention_norm: self.maybe_norm(&name("post_attention_norm"), width)?,
            ffn_norm: self.pre_norm(&name("ffn_norm"), plan)?,
            feed: self.feed(i, plan)?,
            post_ffw_norm: self.maybe_norm(&name("post_ffw_norm"), width)?,
        })
    }

    /// Three matrices, or one that holds their rows in the order query, key, value.
    fn qkv(&mut self, i: usize, plan: &Plan) -> anyhow::Result<[Linear<B>; 3]> {
        let (q, k, v) = (plan.heads * plan.key_dim, plan.kv_heads * plan.key_dim, plan.kv_heads * plan.value_dim);
        let fused = format!("blk.{i}.attn_qkv");
        if self.model.tensor(&format!("{fused}.weight")).is_some() {
            let parts = [0..q, q..q + k, q + k..q + k + v];
            return self.split(&fused, plan.width, parts);
        }
        Ok([
            self.linear(&format!("blk.{i}.attn_q"), q, plan.width)?,
            self.linear(&format!("blk.{i}.attn_k"), k, plan.width)?,
            self.linear(&format!("blk.{i}.attn_v"), v, plan.width)?,
        ])
    }

    /// A fused matrix and bias in parts that cover all rows.
    fn split<const N: usize>(
        &mut self,
        name: &str,
        cols: usize,
        parts: [Range<usize>; N],
    ) -> anyhow::Result<[Linear<B>; N]> {
        let rows = parts[N - 1].end;
        let weight_name = format!("{name}.weight");
        let weight = self.required(&weight_name)?;
        self.expect(weight, &[rows, cols])?;
        let weight = self.packed(weight)?;
        let bias_name = format!("{name}.bias");
        let bias = match self.find(&bias_name) {
            Some(t) => {
                self.expect(t, &[rows])?;
                Some(self.packed(t)?)
            }
            None => None,
        };
        let mut out = Vec::with_capacity(N);
        for part in parts {
            let bias = match &bias {
                Some(b) => Some(self.hand_over(&bias_name, self.elements(&bias_name, b, part.clone())?)?),
                None => None,
            };
            let part = self.hand_over(&weight_name, weight.rows(part))?;
            out.push(Linear { weight: part, bias, name: weight_name.as_str().into(), expert: None, cols });
        }
        Ok(out.try_into().unwrap_or_else(|_| unreachable!("one linear per part")))
    }

    /// Elements of a vector as a vector of their own.
    fn elements(&self, name: &str, vector: &QTensor, range: Range<usize>) -> anyhow::Result<QTensor> {
        let format = vector.format();
        if format.block_weights != 1 {
            let what = format!("is packed as {} and cannot be split; biases must be floats", format.name);
            return Err(malformed(self.model.path(), format!("tensor {name}"), what));
        }
        let shape = Shape::new(&[range.len()]).map_err(|e| malformed(self.model.path(), name, e))?;
        let bytes = vector.bytes()[range.start * format.block_bytes..range.end * format.block_bytes].to_vec();
        Ok(QTensor::new(format, shape, bytes)?)
    }

    fn feed(&mut self, i: usize, plan: &Plan) -> anyhow::Result<FeedWeights<B>> {
        match plan.feed.experts {
            None => self.dense(i, plan).map(FeedWeights::Dense),
            Some(experts) => self.experts(i, plan, experts),
        }
    }

    fn dense(&mut self, i: usize, plan: &Plan) -> anyhow::Result<Mlp<B>> {
        let (up_name, gate_name) = (format!("blk.{i}.ffn_up"), format!("blk.{i}.ffn_gate"));
        let up = self.required(&format!("{up_name}.weight"))?;
        let [rows, _] = *up.shape.dims() else {
            return Err(self.shape_error(up, &[0, plan.width], "(hidden, width)"));
        };
        let separate = self.model.tensor(&format!("{gate_name}.weight")).is_some();
        let (gate, up, hidden) = match (plan.feed.gated, separate) {
            (false, _) => (None, self.linear(&up_name, rows, plan.width)?, rows),
            (true, true) => {
                let gate = self.linear(&gate_name, rows, plan.width)?;
                (Some(gate), self.linear(&up_name, rows, plan.width)?, rows)
            }
            // Phi-3 keeps the gate in the first half of the rows.
            (true, false) if rows % 2 == 0 => {
                let [gate, up] = self.split(&up_name, plan.width, [0..rows / 2, rows / 2..rows])?;
                (Some(gate), up, rows / 2)
            }
            (true, false) => return Err(self.missing(&format!("{gate_name}.weight"))),
        };
        let down_name = format!("blk.{i}.ffn_down");
        if gate.is_some()
            && !separate
            && self.model.tensor(&format!("{down_name}.weight")).is_some_and(|t| t.shape.cols() != hidden)
        {
            // Not a fused matrix after all: the gate is what is missing.
            return Err(self.missing(&format!("{gate_name}.weight")));
        }
        Ok(Mlp { gate, up, down: self.linear(&down_name, plan.width, hidden)?, hidden })
    }

    fn experts(&mut self, i: usize, plan: &Plan, wanted: Experts) -> anyhow::Result<FeedWeights<B>> {
        let name = |part: &str| format!("blk.{i}.ffn_{part}_exps.weight");
        let router = self.linear(&format!("blk.{i}.ffn_gate_inp"), wanted.count, plan.width)?;
        let up = self.required(&name("up"))?;
        let [_, hidden, _] = *up.shape.dims() else {
            return Err(self.shape_error(up, &[wanted.count, 0, plan.width], "(experts, hidden, width)"));
        };
        let mut stack = |part: &str, rows: usize, cols: usize| -> anyhow::Result<Vec<Linear<B>>> {
            let t = self.required(&name(part))?;
            self.expect(t, &[wanted.count, rows, cols])?;
            let all = self.packed(t)?;
            let one = |e: usize| {
                let weight = self.hand_over(&t.name, all.rows(e * rows..(e + 1) * rows))?;
                Ok(Linear { weight, bias: None, name: t.name.as_str().into(), expert: Some(e), cols })
            };
            (0..wanted.count).map(one).collect()
        };
        let gate = if plan.feed.gated { stack("gate", hidden, plan.width)? } else { Vec::new() };
        let up = stack("up", hidden, plan.width)?;
        let down = stack("down", plan.width, hidden)?;
        let mut gate = gate.into_iter();
        let experts: Vec<Mlp<B>> =
            up.into_iter().zip(down).map(|(up, down)| Mlp { gate: gate.next(), up, down, hidden }).collect();
        let weights = ExpertWeights {
            gate: experts.iter().map(|e| e.gate.as_ref().map(|l| &l.weight)).collect(),
            up: experts.iter().map(|e| &e.up.weight).collect(),
            down: experts.iter().map(|e| &e.down.weight).collect(),
        };
        let mixture = self.backend.mixture(feed::mixing(plan, wanted), &weights)?;
        Ok(FeedWeights::Experts { router, experts, mixture })
    }
}
