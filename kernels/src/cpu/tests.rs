//! Every operation against a naive oracle in f64, on odd shapes, for several numbers of threads and every instruction set.

use super::*;
use crate::RopeStyle;
use qconv_formats::Shape;
use qconv_formats::block::{self, BlockFormat};

/// Pseudo-random numbers (xorshift64*), so that failures come again.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Between -1 and 1.
    pub(super) fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub(super) fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }
}

/// All instruction sets of this machine, with some numbers of threads.
fn backends(activations: Activations) -> Vec<Cpu> {
    let mut all = Vec::new();
    for name in Cpu::isa_names() {
        for threads in [1, 2, 3, 7] {
            let isa = Isa::by_name(name);
            let options = Options { threads: Some(threads), isa, activations, kv: Kv::F32, ..Options::default() };
            all.push(Cpu::new(options).unwrap());
        }
    }
    all
}

/// Formats that quantize.
fn formats() -> impl Iterator<Item = &'static BlockFormat> {
    block::ALL.iter().copied().filter(|f| f.quantize.is_some() && f.dequantize.is_some())
}

/// A random weight of a format and what it dequantizes to.
pub(super) fn random_weight(random: &mut Random, format: &'static BlockFormat, dims: &[usize]) -> (QTensor, Vec<f32>) {
    let shape = Shape::new(dims).unwrap();
    let floats = random.floats(shape.len());
    let importance = vec![1.0; shape.cols()];
    let mut bytes = vec![0; format.row_bytes(shape.cols()).unwrap() * shape.rows()];
    let row_bytes = bytes.len() / shape.rows();
    for (row, out) in floats.chunks(shape.cols()).zip(bytes.chunks_mut(row_bytes)) {
        format.quantize.unwrap()(row, Some(&importance), out);
    }
    let mut back = vec![0.0; floats.len()];
    for (row, out) in bytes.chunks(row_bytes).zip(back.chunks_mut(shape.cols())) {
        format.dequantize.unwrap()(row, out);
    }
    (QTensor::new(format, shape, bytes).unwrap(), back)
}

pub(super) fn filled(cpu: &Cpu, from: &[f32], spare: usize) -> Buffer {
    let mut buffer = cpu.buffer(from.len() + spare).unwrap();
    cpu.write(from, &mut buffer).unwrap();
    buffer
}

fn vector(cpu: &Cpu, floats: &[f32]) -> Weight {
    let bytes: Vec<u8> = floats.iter().flat_map(|x| x.to_le_bytes()).collect();
    cpu.weight(QTensor::new(&block::F32, Shape::new(&[floats.len()]).unwrap(), bytes).unwrap()).unwrap()
}

/// Largest difference over the largest magnitude.
fn difference(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(1e-30, |m: f64, w| m.max(w.abs()));
    assert!(got.iter().all(|g| g.is_finite()), "not finite");
    got.iter().zip(want).fold(0.0, |m: f64, (g, w)| m.max((f64::from(*g) - w).abs())) / largest
}

#[test]
fn products_agree_with_the_oracle_for_every_format() {
    let mut random = Random::new(1);
    for activations in [Activations::Exact, Activations::Int8] {
        for format in formats() {
            let unit = format.block_weights;
            for (n, rows, blocks) in [(1, 5, 3), (1, 67, 1), (2, 33, 2), (7, 18, 5), (13, 49, 3), (40, 16, 2)] {
                let cols = if unit == 1 { blocks * 37 } else { blocks * unit };
                let (tensor, weights) = random_weight(&mut random, format, &[rows, cols]);
                let (second, more) = random_weight(&mut random, &block::F32, &[3, cols]);
                let x = random.floats(n * cols);
                let bias = random.floats(rows);
                let product = |w: &[f32], rows: usize, bias: Option<&[f32]>| -> Vec<f64> {
                    let mut out = Vec::new();
                    for x in x.chunks(cols) {
                        for (r, w) in w.chunks(cols).enumerate().take(rows) {
                            let dot: f64 = x.iter().zip(w).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                            out.push(dot + bias.map_or(0.0, |b| f64::from(b[r])));
                        }
                    }
                    out
                };
                let (want, want2) = (product(&weights, rows, Some(&bias)), product(&more, 3, None));
                let mut first: Option<(Isa, Vec<f32>)> = None;
                for cpu in backends(activations) {
                    let (w, w2) = (cpu.weight(tensor.clone()).unwrap(), cpu.weight(second.clone()).unwrap());
                    let b = vector(&cpu, &bias);
                    let x = filled(&cpu, &x, 3);
                    let mut out = cpu.buffer(n * rows + 5).unwrap();
                    let mut out2 = cpu.buffer(n * 3).unwrap();
                    let mut products = [
                        Product { weight: &w, bias: Some(&b), out: &mut out },
                        Product { weight: &w2, bias: None, out: &mut out2 },
                    ];
                    cpu.matmul(&x, n, &mut products).unwrap();
                    let what = format!("{} {format:?} {activations:?} n {n} rows {rows} cols {cols}", cpu.name());
                    let rounded = activations == Activations::Int8 && (format.is_quantized() || format.name == "BF16");
                    let allowed = if rounded { 1e-2 } else { 1e-6 };
                    let d = difference(&out[..n * rows], &want);
                    assert!(d < allowed, "{what}: {d}");
                    assert!(difference(&out2, &want2) < 1e-6, "{what}: the second product");
                    assert_eq!(&out[n * rows..], &[0.0; 5], "{what}: wrote behind the result");
                    match &first {
                        Some((isa, bits)) if *isa == cpu.isa() => assert_eq!(bits, &out.to_vec(), "{what}: threads"),
                        _ => first = Some((cpu.isa(), out.to_vec())),
                    }
                }
            }
        }
    }
}

#[test]
fn embeddings_are_dequantized_rows() {
    let mut random = Random::new(2);
    for format in formats() {
        let cols = if format.block_weights == 1 { 37 } else { format.block_weights };
        let (tensor, weights) = random_weight(&mut random, format, &[11, cols]);
        for cpu in backends(Activations::Int8) {
            let table = cpu.weight(tensor.clone()).unwrap();
            let rows = [10, 0, 3, 3];
            let mut out = cpu.buffer(4 * cols).unwrap();
            cpu.embed(&table, &rows, &mut out).unwrap();
            let want: Vec<f32> = rows.iter().flat_map(|r| &weights[*r as usize * cols..][..cols]).copied().collect();
            assert_eq!(&*out, &want[..], "{} {format:?}", cpu.name());
        }
    }
}

#[test]
fn norms() {
    let mut random = Random::new(3);
    for (rows, cols) in [(1, 1), (3, 37), (5, 2048), (70, 512)] {
        let (x, w, b) = (random.floats(rows * cols), random.floats(cols), random.floats(cols));
        for norm in [Norm::Rms, Norm::Layer] {
            for bias in [None, Some(&b)] {
                let mut want = Vec::new();
                for x in x.chunks(cols) {
                    let x: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
                    let mean = if norm == Norm::Layer { x.iter().sum::<f64>() / cols as f64 } else { 0.0 };
                    let var = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / cols as f64;
                    want.extend((0..cols).map(|i| {
                        let b = bias.map_or(0.0, |b| f64::from(b[i]));
                        (x[i] - mean) / (var + 1e-5).sqrt() * f64::from(w[i]) + b
                    }));
                }
                for cpu in backends(Activations::Int8) {
                    let mut out = cpu.buffer(rows * cols).unwrap();
                    let (w, b) = (vector(&cpu, &w), bias.map(|b| vector(&cpu, b)));
                    let x = filled(&cpu, &x, 0);
                    cpu.norm(norm, 1e-5, &w, b.as_ref(), &x, &mut out, rows, cols).unwrap();
                    let d = difference(&out, &want);
                    assert!(d < 1e-6, "{} {norm:?} ({rows}, {cols}): {d}", cpu.name());
                }
            }
        }
    }
}

#[test]
fn rope_rotates_pairs() {
    let mut random = Random::new(4);
    for style in [RopeStyle::Interleaved, RopeStyle::Neox] {
        for (n, heads, dim, pairs, start) in [(1, 3, 8, 4, 0), (5, 2, 10, 3, 131_000), (33, 7, 64, 32, 1000)] {
            let frequencies: Vec<f32> = (0..pairs).map(|i| 10000f32.powf(-(i as f32) / pairs as f32)).collect();
            let rope = Rope { style, frequencies, magnitude: 1.25 };
            let x = random.floats(n * heads * dim);
            let mut want: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
            for (row, head) in want.chunks_mut(dim).enumerate() {
                for (p, f) in rope.frequencies.iter().enumerate() {
                    let angle = f64::from((start + row / heads) as f32 * f);
                    let (a, b) = if style == RopeStyle::Neox { (p, p + pairs) } else { (2 * p, 2 * p + 1) };
                    let (x, y) = (head[a] * 1.25, head[b] * 1.25);
                    head[a] = x * angle.cos() - y * angle.sin();
                    head[b] = x * angle.sin() + y * angle.cos();
                }
            }
            for cpu in backends(Activations::Int8) {
                for _ in 0..2 {
                    let mut got = filled(&cpu, &x, 0);
                    cpu.rope(&rope, &mut got, n, heads, dim, start).unwrap();
                    let d = difference(&got, &want);
                    assert!(d < 1e-6, "{} {style:?} n {n} start {start}: {d}", cpu.name());
                }
            }
        }
    }
}

/// `(heads, kv_heads, key_dim, value_dim, window, soft_cap, start, n)`.
type Case = (usize, usize, usize, usize, Option<usize>, Option<f32>, usize, usize);

#[test]
fn attention_agrees_with_the_oracle() {
    let mut random = Random::new(5);
    let cases: &[Case] = &[
        (1, 1, 8, 8, None, None, 0, 1),
        (4, 2, 16, 16, None, None, 0, 5),
        (6, 2, 64, 32, None, None, 7, 3),
        (3, 3, 20, 12, Some(4), None, 0, 37),
        (8, 1, 64, 64, Some(9), Some(3.0), 300, 1),
        (2, 2, 80, 80, None, Some(1.5), 600, 2),
        (4, 2, 64, 64, None, None, 1000, 1),
        (4, 4, 32, 32, None, None, 0, 130),
    ];
    for &(heads, kv_heads, key_dim, value_dim, window, soft_cap, start, n) in cases {
        let shape = Attention { heads, kv_heads, key_dim, value_dim, scale: 0.7, window, soft_cap };
        let positions = start + n;
        let k = random.floats(positions * kv_heads * key_dim);
        let v = random.floats(positions * kv_heads * value_dim);
        let q: Vec<f32> = random.floats(n * heads * key_dim).iter().map(|x| x * 2.0).collect();
        let mut want = Vec::new();
        for i in 0..n {
            for h in 0..heads {
                let g = h / (heads / kv_heads);
                let last = start + i;
                let first = window.map_or(0, |w| (last + 1).saturating_sub(w));
                let scores: Vec<f64> = (first..=last)
                    .map(|p| {
                        let dot: f64 = (0..key_dim)
                            .map(|d| {
                                f64::from(q[(i * heads + h) * key_dim + d])
                                    * f64::from(k[(p * kv_heads + g) * key_dim + d])
                            })
                            .sum();
                        let score = dot * f64::from(0.7f32);
                        soft_cap.map_or(score, |c| f64::from(c) * (score / f64::from(c)).tanh())
                    })
                    .collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
                for d in 0..value_dim {
                    let sum: f64 = scores
                        .iter()
                        .enumerate()
                        .map(|(p, s)| (s - max).exp() * f64::from(v[((first + p) * kv_heads + g) * value_dim + d]))
                        .sum();
                    want.push(sum / total);
                }
            }
        }
        for kv in [Kv::F32, Kv::F16, Kv::Q8] {
            let mut first: Option<(Isa, Vec<f32>)> = None;
            for name in Cpu::isa_names() {
                for threads in [1, 2, 3, 7] {
                    let options = Options { threads: Some(threads), isa: Isa::by_name(name), kv, ..Options::default() };
                    let cpu = Cpu::new(options).unwrap();
                    let mut cache = cpu
                        .cache(CacheShape {
                            layers: 2,
                            positions: positions + 3,
                            kv_heads,
                            key_width: kv_heads * key_dim,
                            value_width: kv_heads * value_dim,
                        })
                        .unwrap();
                    let (k, v, q) = (filled(&cpu, &k, 0), filled(&cpu, &v, 0), filled(&cpu, &q, 0));
                    cpu.store(&mut cache, 1, &k, &v, 0, positions).unwrap();
                    let mut out = cpu.buffer(n * heads * value_dim).unwrap();
                    cpu.attention(&shape, &q, &cache, 1, start, n, &mut out).unwrap();
                    let d = difference(&out, &want);
                    let allowed = match kv {
                        Kv::F32 => 3e-6,
                        Kv::F16 => 3e-3,
                        Kv::Q8 => 3e-2, // scores of heads of many dimensions are off by as much
                    };
                    assert!(d < allowed, "{} {kv:?} {shape:?} start {start} n {n}: {d}", cpu.name());
                    match &first {
                        Some((isa, bits)) if *isa == cpu.isa() => assert_eq!(bits, &out.to_vec(), "{shape:?}: threads"),
                        _ => first = Some((cpu.isa(), out.to_vec())),
                    }
                }
            }
        }
    }
}

#[test]
fn elementwise_operations() {
    let mut random = Random::new(6);
    for len in [1, 7, 4097, 50_003] {
        let x: Vec<f32> = random.floats(len).iter().map(|v| v * 12.0).collect();
        let y = random.floats(len);
        for cpu in backends(Activations::Int8) {
            let what = format!("{} len {len}", cpu.name());
            let b = filled(&cpu, &y, 2);
            let each = |f: &dyn Fn(f64, f64) -> f64| -> Vec<f64> {
                x.iter().zip(&y).map(|(x, y)| f(f64::from(*x), f64::from(*y))).collect()
            };
            let mut a = filled(&cpu, &x, 2);
            cpu.add(&mut a, &b, len).unwrap();
            assert!(difference(&a[..len], &each(&|x, y| x + y)) < 1e-7, "{what}");
            let mut a = filled(&cpu, &x, 2);
            cpu.scale(&mut a, -1.5, len).unwrap();
            assert!(difference(&a[..len], &each(&|x, _| x * -1.5)) < 1e-7, "{what}");
            let mut a = filled(&cpu, &x, 2);
            cpu.soft_cap(&mut a, 5.0, len).unwrap();
            assert!(difference(&a[..len], &each(&|x, _| 5.0 * (x / 5.0).tanh())) < 1e-6, "{what}");
            let mut a = filled(&cpu, &x, 2);
            cpu.gate(Activation::Silu, &mut a, &b, len).unwrap();
            assert!(difference(&a[..len], &each(&|x, y| x / (1.0 + (-x).exp()) * y)) < 1e-6, "{what}");
            assert_eq!(&a[len..], &[0.0; 2], "{what}: wrote behind the end");
            let mut a = filled(&cpu, &x, 2);
            cpu.activate(Activation::Relu, &mut a, len).unwrap();
            assert!(difference(&a[..len], &each(&|x, _| x.max(0.0))) == 0.0, "{what}");
        }
    }
}

#[test]
fn rows_are_gathered_and_scattered() {
    let mut random = Random::new(7);
    for cpu in backends(Activations::Int8) {
        let cols = 37;
        let x = random.floats(9 * cols);
        let rows = [8, 0, 8, 3];
        let mut picked = cpu.buffer(4 * cols).unwrap();
        cpu.gather(&filled(&cpu, &x, 0), &rows, cols, &mut picked).unwrap();
        for (i, r) in rows.iter().enumerate() {
            assert_eq!(&picked[i * cols..][..cols], &x[*r as usize * cols..][..cols]);
        }
        let factors = [0.5, -2.0, 0.25, 1.0];
        let before = random.floats(9 * cols);
        let mut sum = filled(&cpu, &before, 0);
        cpu.scatter_add(&picked, &rows, &factors, cols, &mut sum).unwrap();
        let mut want: Vec<f64> = before.iter().map(|v| f64::from(*v)).collect();
        for (i, r) in rows.iter().enumerate() {
            for c in 0..cols {
                want[*r as usize * cols + c] += f64::from(factors[i]) * f64::from(picked[i * cols + c]);
            }
        }
        assert!(difference(&sum, &want) < 1e-6);
    }
}

#[test]
fn the_impossible_is_refused_with_an_error() {
    let cpu = Cpu::new(Options { threads: Some(1), ..Options::default() }).unwrap();
    assert!(matches!(cpu.buffer(usize::MAX / 8).err(), Some(Error::OutOfMemory { .. })));
    let shape = CacheShape { layers: usize::MAX, positions: 8, kv_heads: 2, key_width: 8, value_width: 8 };
    assert!(matches!(cpu.cache(shape).err(), Some(Error::OutOfMemory { .. })));
    assert!(Cpu::new(Options { threads: Some(0), ..Options::default() }).is_err());
}

#[test]
fn copied_weights_are_the_same() {
    let mut random = Random::new(8);
    for format in formats() {
        let (tensor, weights) = random_weight(&mut random, format, &[700, 4 * format.block_weights.max(64)]);
        let options = Options { threads: Some(3), weights: Weights::Copied, ..Options::default() };
        let cpu = Cpu::new(options).unwrap();
        let copied = cpu.weight(tensor.clone()).unwrap();
        assert_ne!(copied.tensor().bytes().as_ptr(), tensor.bytes().as_ptr(), "{format:?}: not copied");
        assert_eq!(copied.tensor().bytes(), tensor.bytes(), "{format:?}");
        assert_eq!(copied.tensor().shape(), tensor.shape(), "{format:?}");
        drop(tensor);
        let mut row = vec![0.0; copied.cols()];
        copied.dequantize(699, 0, &mut row);
        assert_eq!(row, weights[weights.len() - row.len()..], "{format:?}");
    }
    let options = Options { threads: Some(1), isa: Some(Isa::Scalar), weights: Weights::Copied, ..Options::default() };
    assert_eq!(Cpu::new(options).unwrap().name(), "cpu (scalar, 1 thread, weights copied)");
}

#[test]
fn the_name_says_what_computes() {
    let options = Options { threads: Some(2), isa: Some(Isa::Scalar), ..Options::default() };
    assert_eq!(Cpu::new(options).unwrap().name(), "cpu (scalar, 2 threads)");
}
