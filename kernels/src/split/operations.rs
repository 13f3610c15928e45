//! The operations, each on the side where its weights are.

use super::sides::{Buffer, Cache, First, Floats, Mixture, Placed, Second, Weight, on};
use super::{Side, Split, Step};
use crate::{
    Activation, Attention, Backend, CacheShape, DeviceUse, ExpertWeights, KernelTime, MixBuffers, Mixing, Norm,
    Product, Result, Rope, Stopwatch,
};
use qconv_formats::QTensor;
use std::cell::RefCell;
use std::time::Instant;

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

    fn most_rows(&self, width: usize) -> usize {
        self.first.most_rows(width).min(self.second.most_rows(width))
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

    fn mixes(&self, mixture: &Self::Mixture, n: usize) -> bool {
        on!(self, mixture.side(), |half| half.backend().mixes(half.mixture(mixture), n))
    }

    fn mix(
        &self,
        mixture: &Self::Mixture,
        scores: &Self::Buffer,
        x: &Self::Buffer,
        n: usize,
        work: MixBuffers<'_, Self>,
        out: &mut Self::Buffer,
    ) -> Result<()> {
        let &Mixture { used, hidden, width, .. } = mixture;
        on!(self, mixture.side(), |half| {
            // Scores as far as they were written: by the router, on the same side.
            let (scores, x) = (half.floats(scores, 0)?, half.floats(x, n * width)?);
            let work = MixBuffers {
                picks: half.write(work.picks, n * 2 * used),
                gate: half.write(work.gate, n * used * hidden),
                up: half.write(work.up, n * used * hidden),
                each: half.write(work.each, n * used * width),
            };
            let out = half.write(out, n * width);
            half.run(|b| b.mix(half.mixture(mixture), &scores, &x, n, work, out))
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
