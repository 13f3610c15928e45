//! A model in two places: its first layers on one backend, the rest on another, for cards whose memory does not hold all of it.
//!
//! Weights and layers of the cache are on one side, and an operation runs where they are; operations without either run where
//! their numbers are. A buffer exists on both sides and knows on which its floats count. Where an operation needs them on the
//! other side they are copied through the host: once behind the first side's last layer, and once behind the second's.
//!
//! What belongs to no layer (embeddings, the output) is on the first side.
//!
//! Of a token that is repeated ([`Backend::repeat`]) the second side's layers are its step: they come last, and all of them are
//! called one after the other. The step begins with the first of their operations, behind the copy of what it needs, and ends
//! with the token. Where the second side replays it, the first one computes as ever, and the second one's operations are only
//! told which floats count where.

use crate::{
    Activation, Attention, Backend, CacheShape, DeviceUse, Error, ExpertWeights, KernelTime, MixBuffers, Mixing, Norm,
    Product, Result, Rope, Stopwatch,
};
use qconv_formats::QTensor;
use std::cell::{Ref, RefCell};
use std::time::Instant;

/// Two backends as one.
pub struct Split<A, B: Backend> {
    first: A,
    second: B,
    /// Layers on the first side.
    layers: usize,
    /// What is being computed, if it is a token that is repeated, or one of each of several sequences.
    step: RefCell<Option<Step<B>>>,
}

/// The second side's part of a token.
struct Step<B: Backend> {
    recording: B::Recording,
    tokens: Vec<u32>,
    start: usize,
    /// Whether it is replayed. `None`: none of its operations has come yet.
    replayed: Option<bool>,
}

impl<A: Backend, B: Backend> Split<A, B> {
    /// The first `layers` layers on `first`, with all that belongs to no layer, and the others on `second`.
    pub fn new(first: A, second: B, layers: usize) -> Self {
        Split { first, second, layers, step: RefCell::new(None) }
    }

    /// The side of a layer.
    fn side_of(&self, layer: usize) -> Side {
        if layer < self.layers { Side::First } else { Side::Second }
    }

    /// Whether an operation of the second side, whose floats are there, is part of what was replayed. The first one of a step asks
    /// for that.
    fn replays(&self) -> Result<bool> {
        let mut step = self.step.borrow_mut();
        let Some(step) = &mut *step else { return Ok(false) };
        let replayed = match step.replayed {
            Some(replayed) => replayed,
            None => self.second.begin_step(&mut step.recording, Some((&step.tokens, step.start)))?,
        };
        step.replayed = Some(replayed);
        Ok(replayed)
    }

    /// Errors: the second side has replayed its operations already, and gets floats for one of them only now. What was recorded
    /// had them before, so that this is the program's fault.
    fn refuse_to_be_late(&self) -> Result<()> {
        match &*self.step.borrow() {
            Some(Step { replayed: Some(true), .. }) => {
                Err(Error::Device("layers of the second side were replayed before their activations were there".into()))
            }
            _ => Ok(()),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    First,
    Second,
}

/// A weight on its side.
pub struct Weight<A: Backend, B: Backend> {
    place: Placed<A, B>,
    rows: usize,
    cols: usize,
}

enum Placed<A: Backend, B: Backend> {
    First(A::Weight),
    Second(B::Weight),
}

impl<A: Backend, B: Backend> Weight<A, B> {
    fn side(&self) -> Side {
        match self.place {
            Placed::First(_) => Side::First,
            Placed::Second(_) => Side::Second,
        }
    }
}

/// Activations: floats on both sides.
pub struct Buffer<A: Backend, B: Backend>(RefCell<Floats<A, B>>);

struct Floats<A: Backend, B: Backend> {
    first: A::Buffer,
    second: B::Buffer,
    /// Where they count; `None`: on both sides, which agree.
    side: Option<Side>,
    /// How many of them count: as far as they were written last.
    len: usize,
}

impl<A: Backend, B: Backend> Floats<A, B> {
    /// Sees to it that the first `len` floats, and all that count, are on a side.
    fn bring(&mut self, split: &Split<A, B>, side: Side, len: usize) -> Result<()> {
        let Some(from) = self.side.filter(|from| *from != side) else { return Ok(()) };
        let mut host = vec![0.0; self.len.max(len)];
        match from {
            Side::First => {
                split.refuse_to_be_late()?;
                split.first.read(&self.first, &mut host)?;
                split.second.write(&host, &mut self.second)?;
            }
            Side::Second => {
                split.second.read(&self.second, &mut host)?;
                split.first.write(&host, &mut self.first)?;
            }
        }
        self.side = None;
        Ok(())
    }
}

impl<A: Backend, B: Backend> Buffer<A, B> {
    /// Where its floats can be had for nothing; the first side if on both.
    fn side(&self) -> Side {
        self.0.borrow().side.unwrap_or(Side::First)
    }
}

/// A layer's experts on their side, and how many there are, and how wide.
pub struct Mixture<A: Backend, B: Backend> {
    place: Mixed<A, B>,
    used: usize,
    hidden: usize,
    width: usize,
}

enum Mixed<A: Backend, B: Backend> {
    First(A::Mixture),
    Second(B::Mixture),
}

impl<A: Backend, B: Backend> Mixture<A, B> {
    fn side(&self) -> Side {
        match self.place {
            Mixed::First(_) => Side::First,
            Mixed::Second(_) => Side::Second,
        }
    }
}

/// Keys and values: each layer's on its side.
pub struct Cache<A: Backend, B: Backend> {
    first: A::Cache,
    second: B::Cache,
    shape: CacheShape,
}

/// The two sides, each with the same functions.
macro_rules! half {
    ($half:ident, $backend:ident, $field:ident, $variant:ident, $layer:expr, $replays:expr) => {
        struct $half<'s, A: Backend, B: Backend>(&'s Split<A, B>);

        impl<A: Backend, B: Backend> $half<'_, A, B> {
            fn backend(&self) -> &$backend {
                &self.0.$field
            }

            /// Runs an operation of the forward pass, unless it was replayed. What it reads and writes is told before, by the functions
            /// below, in either case.
            fn run(&self, operation: impl FnOnce(&$backend) -> Result<()>) -> Result<()> {
                let replays: fn(&Split<A, B>) -> Result<bool> = $replays;
                if replays(self.0)? { Ok(()) } else { operation(self.backend()) }
            }

            /// A weight of this side.
            fn weight<'w>(&self, weight: &'w Weight<A, B>) -> &'w $backend::Weight {
                match &weight.place {
                    Placed::$variant(weight) => weight,
                    _ => panic!("weights that are used together belong to one layer"),
                }
            }

            fn weights<'w>(&self, weights: &[&'w Weight<A, B>]) -> Vec<&'w $backend::Weight> {
                weights.iter().map(|weight| self.weight(weight)).collect()
            }

            /// The first `len` floats of a buffer, to be read.
            fn floats<'b>(&self, buffer: &'b Buffer<A, B>, len: usize) -> Result<Ref<'b, $backend::Buffer>> {
                buffer.0.borrow_mut().bring(self.0, Side::$variant, len)?;
                Ok(Ref::map(buffer.0.borrow(), |floats| &floats.$field))
            }

            /// The first `len` floats, all of which will be written.
            fn write<'b>(&self, buffer: &'b mut Buffer<A, B>, len: usize) -> &'b mut $backend::Buffer {
                let floats = buffer.0.get_mut();
                (floats.side, floats.len) = (Some(Side::$variant), len);
                &mut floats.$field
            }

            /// The first `len` floats, which will be changed.
            fn change<'b>(&self, buffer: &'b mut Buffer<A, B>, len: usize) -> Result<&'b mut $backend::Buffer> {
                let floats = buffer.0.get_mut();
                floats.bring(self.0, Side::$variant, len)?;
                (floats.side, floats.len) = (Some(Side::$variant), floats.len.max(len));
                Ok(&mut floats.$field)
            }

            fn cache<'c>(&self, cache: &'c Cache<A, B>) -> &'c $backend::Cache {
                &cache.$field
            }

            fn cache_mut<'c>(&self, cache: &'c mut Cache<A, B>) -> &'c mut $backend::Cache {
                &mut cache.$field
            }

            fn mixture<'m>(&self, mixture: &'m Mixture<A, B>) -> &'m $backend::Mixture {
                match &mixture.place {
                    Mixed::$variant(mixture) => mixture,
                    _ => unreachable!("it was asked for its side"),
                }
            }

            /// A layer's experts, if this side picks them itself.
            fn new_mixture(
                &self,
                mixing: Mixing,
                experts: &ExpertWeights<'_, Split<A, B>>,
            ) -> Result<Option<Mixed<A, B>>> {
                let ExpertWeights { gate, up, down } = experts;
                let experts = ExpertWeights {
                    gate: gate.as_deref().map(|gate| self.weights(gate)),
                    up: self.weights(up),
                    down: self.weights(down),
                };
                Ok(self.backend().mixture(mixing, &experts)?.map(Mixed::$variant))
            }

            /// The number of a layer in this side's cache.
            fn layer(&self, layer: usize) -> usize {
                let before: fn(usize) -> usize = $layer;
                layer - before(self.0.layers)
            }
        }
    };
}
half!(First, A, first, First, |_| 0, |_| Ok(false));
half!(Second, B, second, Second, |layers| layers, Split::replays);

/// The same for either side.
macro_rules! on {
    ($split:expr, $side:expr, |$half:ident| $body:expr) => {
        match $side {
            Side::First => {
                let $half = First($split);
                $body
            }
            Side::Second => {
                let $half = Second($split);
                $body
            }
        }
    };
}

impl<A: Backend, B: Backend> Backend for Split<A, B> {
    type Weight = Weight<A, B>;
    type Buffer = Buffer<A, B>;
    type Cache = Cache<A, B>;
    type Recording = B::Recording;
    type Mixture = Mixture<A, B>;

    /// Only a token's: what comes behind the layers is the first side's.
    fn begin_step(&self, recording: &mut Self::Recording, at: Option<(&[u32], usize)>) -> Result<bool> {
        let step = at.map(|(tokens, start)| {
            let recording = std::mem::take(recording);
            Step { recording, tokens: tokens.to_vec(), start, replayed: None }
        });
        self.step.replace(step);
        Ok(false)
    }

    fn end_step(&self, recording: &mut Self::Recording, outcome: Result<()>) -> Result<bool> {
        let Some(step) = self.step.take() else { return outcome.map(|()| true) };
        *recording = step.recording;
        match step.replayed {
            Some(false) => self.second.end_step(recording, outcome),
            _ => outcome.map(|()| true),
        }
    }

    fn name(&self) -> String {
        format!("{} for {} layers and the output, {} for the rest", self.first.name(), self.layers, self.second.name())
    }

    fn start_profile(&self) {
        self.first.start_profile();
        self.second.start_profile();
    }

    fn kernel_times(&self) -> Result<Vec<KernelTime>> {
        let mut all = self.first.kernel_times()?;
        all.extend(self.second.kernel_times()?);
        all.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        Ok(all)
    }

    fn watch_device(&self) {
        self.first.watch_device();
        self.second.watch_device();
    }

    fn device_use(&self) -> Option<DeviceUse> {
        self.second.device_use().or_else(|| self.first.device_use())
    }

    fn stopwatch(&self) -> Result<Stopwatch<'_>> {
        let start = Instant::now();
        Ok(Box::new(move || {
            // A device may be behind; its own stopwatch waits for it.
            self.first.stopwatch()?()?;
            self.second.stopwatch()?()?;
            Ok(start.elapsed().as_secs_f64())
        }))
    }

    fn weight(&self, tensor: QTensor) -> Result<Self::Weight> {
        self.weight_of(None, tensor)
    }

    fn weight_of(&self, layer: Option<usize>, tensor: QTensor) -> Result<Self::Weight> {
        let (rows, cols) = (tensor.shape().rows(), tensor.shape().cols());
        let place = match layer.map_or(Side::First, |layer| self.side_of(layer)) {
            Side::First => Placed::First(self.first.weight_of(layer, tensor)?),
            Side::Second => Placed::Second(self.second.weight_of(layer, tensor)?),
        };
        Ok(Weight { place, rows, cols })
    }

    fn buffer(&self, len: usize) -> Result<Self::Buffer> {
        let (first, second) = (self.first.buffer(len)?, self.second.buffer(len)?);
        Ok(Buffer(RefCell::new(Floats { first, second, side: None, len })))
    }

    fn cache_float_bytes(&self) -> usize {
        self.first.cache_float_bytes().max(self.second.cache_float_bytes())
    }

    fn cache_head_bytes(&self, dim: usize) -> usize {
        self.first.cache_head_bytes(dim).max(self.second.cache_head_bytes(dim))
    }

    fn cache_block(&self) -> usize {
        self.first.cache_block().max(self.second.cache_block())
    }

    fn cache(&self, shape: CacheShape) -> Result<Self::Cache> {
        let layers = shape.layers.min(self.layers);
        let first = self.first.cache(CacheShape { layers, ..shape })?;
        let second = self.second.cache(CacheShape { layers: shape.layers - layers, ..shape })?;
        Ok(Cache { first, second, shape })
    }

    fn read(&self, from: &Self::Buffer, out: &mut [f32]) -> Result<()> {
        on!(self, from.side(), |half| half.backend().read(&*half.floats(from, out.len())?, out))
    }

    fn write(&self, from: &[f32], to: &mut Self::Buffer) -> Result<()> {
        let half = First(self);
        half.backend().write(from, half.change(to, from.len())?)
    }

    fn embed(&self, table: &Self::Weight, rows: &[u32], out: &mut Self::Buffer) -> Result<()> {
        on!(self, table.side(), |half| {
            let out = half.write(out, rows.len() * table.cols);
            half.run(|b| b.embed(half.weight(table), rows, out))
        })
    }

    fn norm(
        &self,
        norm: Norm,
        eps: f32,
        weight: &Self::Weight,
        bias: Option<&Self::Weight>,
        x: &Self::Buffer,
        out: &mut Self::Buffer,
        rows: usize,
        cols: usize,
    ) -> Result<()> {
        on!(self, weight.side(), |half| {
            let (bias, x) = (bias.map(|b| half.weight(b)), half.floats(x, rows * cols)?);
            let out = half.write(out, rows * cols);
            half.run(|b| b.norm(norm, eps, half.weight(weight), bias, &x, out, rows, cols))
        })
    }

    fn add_norm(
        &self,
        x: &mut Self::Buffer,
        y: &Self::Buffer,
        norm: Norm,
        eps: f32,
        weight: &Self::Weight,
        bias: Option<&Self::Weight>,
        out: &mut Self::Buffer,
        rows: usize,
        cols: usize,
    ) -> Result<()> {
        on!(self, weight.side(), |half| {
            let (bias, y) = (bias.map(|b| half.weight(b)), half.floats(y, rows * cols)?);
            let x = half.change(x, rows * cols)?;
            let out = half.write(out, rows * cols);
            half.run(|b| b.add_norm(x, &y, norm, eps, half.weight(weight), bias, out, rows, cols))
        })
    }

    fn matmul(&self, x: &Self::Buffer, n: usize, outs: &mut [Product<'_, Self>]) -> Result<()> {
        let Some(first) = outs.first() else { return Ok(()) };
        let (side, cols) = (first.weight.side(), first.weight.cols);
        on!(self, side, |half| {
            let x = half.floats(x, n * cols)?;
            let products = outs.iter_mut().map(|p| Product {
                weight: half.weight(p.weight),
                bias: p.bias.map(|b| half.weight(b)),
                out: half.write(p.out, n * p.weight.rows),
            });
            let mut products: Vec<_> = products.collect();
            half.run(|b| b.matmul(&x, n, &mut products))
        })
    }

    fn rope(
        &self,
        rope: &Rope,
        x: &mut Self::Buffer,
        n: usize,
        heads: usize,
        head_dim: usize,
        start: usize,
    ) -> Result<()> {
        on!(self, x.side(), |half| {
            let x = half.change(x, n * heads * head_dim)?;
            half.run(|b| b.rope(rope, x, n, heads, head_dim, start))
        })
    }

    fn store(
        &self,
        cache: &mut Self::Cache,
        layer: usize,
        k: &Self::Buffer,
        v: &Self::Buffer,
        start: usize,
        n: usize,
    ) -> Result<()> {
        let CacheShape { key_width, value_width, .. } = cache.shape;
        on!(self, self.side_of(layer), |half| {
            let (k, v) = (half.floats(k, n * key_width)?, half.floats(v, n * value_width)?);
            half.run(|b| b.store(half.cache_mut(cache), half.layer(layer), &k, &v, start, n))
        })
    }

    fn rope_store(
        &self,
        rope: &Rope,
        heads: usize,
        kv_heads: usize,
        key_dim: usize,
        q: &mut Self::Buffer,
        k: &mut Self::Buffer,
        v: &Self::Buffer,
        cache: &mut Self::Cache,
        layer: usize,
        start: usize,
        n: usize,
    ) -> Result<()> {
        let CacheShape { key_width, value_width, .. } = cache.shape;
        on!(self, self.side_of(layer), |half| {
            let (q, k) = (half.change(q, n * heads * key_dim)?, half.change(k, n * key_width)?);
            let (v, cache, layer) = (half.floats(v, n * value_width)?, half.cache_mut(cache), half.layer(layer));
            half.run(|b| b.rope_store(rope, heads, kv_heads, key_dim, q, k, &v, cache, layer, start, n))
        })
    }

    fn attention(
        &self,
        shape: &Attention,
        q: &Self::Buffer,
        cache: &Self::Cache,
        layer: usize,
        start: usize,
        n: usize,
        out: &mut Self::Buffer,
    ) -> Result<()> {
        on!(self, self.side_of(layer), |half| {
            let q = half.floats(q, n * shape.heads * shape.key_dim)?;
            let out = half.write(out, n * shape.heads * shape.value_dim);
            half.run(|b| b.attention(shape, &q, half.cache(cache), half.layer(layer), start, n, out))
        })
    }

    fn takes_several(&self) -> bool {
        self.first.takes_several() && self.second.takes_several()
    }

    fn attend_each(
        &self,
        rope: Option<&Rope>,
        shape: &Attention,
        q: &mut Self::Buffer,
        k: &mut Self::Buffer,
        v: &Self::Buffer,
        caches: &mut [&mut Self::Cache],
        layer: usize,
        start: usize,
        n: usize,
        out: &mut Self::Buffer,
    ) -> Result<()> {
        let rows = caches.len() * n;
        let &Attention { heads, kv_heads, key_dim, value_dim, .. } = shape;
        on!(self, self.side_of(layer), |half| {
            let (q, k) = (half.change(q, rows * heads * key_dim)?, half.change(k, rows * kv_heads * key_dim)?);
            let v = half.floats(v, rows * kv_heads * value_dim)?;
            let mut caches: Vec<_> = caches.iter_mut().map(|cache| half.cache_mut(cache)).collect();
            let out = half.write(out, rows * heads * value_dim);
            half.run(|b| b.attend_each(rope, shape, q, k, &v, &mut caches, half.layer(layer), start, n, out))
        })
    }

    fn mixture(&self, mixing: Mixing, experts: &ExpertWeights<'_, Self>) -> Result<Option<Self::Mixture>> {
        let Some(&up) = experts.up.first() else { return Ok(None) };
        let place = on!(self, up.side(), |half| half.new_mixture(mixing, experts))?;
        Ok(place.map(|place| Mixture { place, used: mixing.used, hidden: up.rows, width: up.cols }))
    }

    fn mix(
        &self,
        mixture: &Self::Mixture,
        scores: &Self::Buffer,
        x: &Self::Buffer,
        work: MixBuffers<'_, Self>,
        out: &mut Self::Buffer,
    ) -> Result<()> {
        let &Mixture { used, hidden, width, .. } = mixture;
        on!(self, mixture.side(), |half| {
            // As far as they were written: a token's.
            let (scores, x) = (half.floats(scores, 0)?, half.floats(x, 0)?);
            let work = MixBuffers {
                picks: half.write(work.picks, 2 * used),
                gate: half.write(work.gate, used * hidden),
                up: half.write(work.up, used * hidden),
                each: half.write(work.each, used * width),
            };
            let out = half.write(out, width);
            half.run(|b| b.mix(half.mixture(mixture), &scores, &x, work, out))
        })
    }

    fn gate(&self, activation: Activation, gate: &mut Self::Buffer, up: &Self::Buffer, len: usize) -> Result<()> {
        on!(self, gate.side(), |half| {
            let (gate, up) = (half.change(gate, len)?, half.floats(up, len)?);
            half.run(|b| b.gate(activation, gate, &up, len))
        })
    }

    fn activate(&self, activation: Activation, x: &mut Self::Buffer, len: usize) -> Result<()> {
        on!(self, x.side(), |half| {
            let x = half.change(x, len)?;
            half.run(|b| b.activate(activation, x, len))
        })
    }

    fn add(&self, x: &mut Self::Buffer, y: &Self::Buffer, len: usize) -> Result<()> {
        on!(self, y.side(), |half| {
            let (x, y) = (half.change(x, len)?, half.floats(y, len)?);
            half.run(|b| b.add(x, &y, len))
        })
    }

    fn scale(&self, x: &mut Self::Buffer, factor: f32, len: usize) -> Result<()> {
        on!(self, x.side(), |half| {
            let x = half.change(x, len)?;
            half.run(|b| b.scale(x, factor, len))
        })
    }

    fn soft_cap(&self, x: &mut Self::Buffer, cap: f32, len: usize) -> Result<()> {
        on!(self, x.side(), |half| {
            let x = half.change(x, len)?;
            half.run(|b| b.soft_cap(x, cap, len))
        })
    }

    fn argmax(&self, x: &Self::Buffer, len: usize, out: &mut Self::Buffer) -> Result<()> {
        on!(self, x.side(), |half| {
            let (x, out) = (half.floats(x, len)?, half.write(out, 1));
            half.run(|b| b.argmax(&x, len, out))
        })
    }

    fn gather(&self, x: &Self::Buffer, rows: &[u32], cols: usize, out: &mut Self::Buffer) -> Result<()> {
        on!(self, x.side(), |half| {
            let x = half.floats(x, reach(rows) * cols)?;
            let out = half.write(out, rows.len() * cols);
            half.run(|b| b.gather(&x, rows, cols, out))
        })
    }

    fn scatter_add(
        &self,
        x: &Self::Buffer,
        rows: &[u32],
        factors: &[f32],
        cols: usize,
        out: &mut Self::Buffer,
    ) -> Result<()> {
        on!(self, x.side(), |half| {
            let (x, out) = (half.floats(x, rows.len() * cols)?, half.change(out, reach(rows) * cols)?);
            half.run(|b| b.scatter_add(&x, rows, factors, cols, out))
        })
    }
}

/// Rows up to the last of these.
fn reach(rows: &[u32]) -> usize {
    rows.iter().max().map_or(0, |last| *last as usize + 1)
}
