//! How fast everything but products with quantized weights is, by instruction set, on one thread, in the shapes of a model
//! of a billion weights (width 2048, 32 heads of 64 that share 8 key-value heads).
//!
//! `cargo bench -p qconv-kernels --bench operations [-- NAME]`. Every result is checked against sums in f64 first.

mod common;

use common::floats;
use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use qconv_formats::block::{self, BlockFormat};
use qconv_formats::{QTensor, Shape};
use qconv_kernels::cpu::{Cpu, Isa, Options, Weight};
use qconv_kernels::{Activation, Attention, Backend, CacheShape, Norm, Product, Rope, RopeStyle};

type Buffer = <Cpu as Backend>::Buffer;

const WIDTH: usize = 2048;
const HEADS: usize = 32;
const KV_HEADS: usize = 8;
const DIM: usize = 64;

fn filled(cpu: &Cpu, from: &[f32]) -> Buffer {
    let mut buffer = cpu.buffer(from.len()).expect("memory");
    cpu.write(from, &mut buffer).expect("writing on the CPU cannot fail");
    buffer
}

/// Panics unless some elements, spread over the result, are what `want` says.
fn check(what: &str, got: &[f32], allowed: f64, want: impl Fn(usize) -> f64) {
    let picked: Vec<usize> = (0..got.len()).step_by(got.len().div_ceil(61)).collect();
    let size = picked.iter().map(|&i| want(i).abs()).fold(1e-30, f64::max);
    for i in picked {
        let off = (f64::from(got[i]) - want(i)).abs() / size;
        assert!(off <= allowed, "{what}: element {i} is {} instead of {}", got[i], want(i));
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn products(cpu: &Cpu, group: &mut BenchmarkGroup<'_, WallTime>, isa: &str, format: &'static BlockFormat) {
    // More than the caches hold for one token, less for many.
    for (n, rows) in [(1, 16 * 1024), (512, 1024)] {
        let weights = floats(64 * WIDTH, 1);
        let mut bytes = vec![0; format.row_bytes(64 * WIDTH).expect("any number of floats is a row")];
        format.quantize.expect("floats can be stored")(&weights, None, &mut bytes);
        let shape = Shape::new(&[rows, WIDTH]).expect("a small shape");
        let tensor = QTensor::new(format, shape, bytes.repeat(rows / 64)).expect("as many bytes as the shape says");
        let mut stored = vec![0.0; weights.len()];
        format.dequantize.expect("floats can be read")(&bytes, &mut stored);
        let weight: Weight = cpu.weight(tensor).expect("a weight");
        let x = floats(n * WIDTH, 2);
        let (x_buffer, mut out) = (filled(cpu, &x), cpu.buffer(n * rows).expect("memory"));
        let mut multiply = || {
            let mut products = [Product { weight: &weight, bias: None, out: &mut out }];
            cpu.matmul(&x_buffer, n, &mut products).expect("a product");
        };
        multiply();
        let bytes = rows * format.row_bytes(WIDTH).expect("a row");
        group.throughput(if n == 1 {
            Throughput::Bytes(bytes as u64)
        } else {
            Throughput::Elements((n * rows * WIDTH) as u64)
        });
        group.bench_function(format!("{} {n} tokens/{isa}", format.name), |b| b.iter(&mut multiply));
        let allowed = if format.name == "BF16" { 5e-3 } else { 2e-6 };
        check(&format!("{} {n} {isa}", format.name), &out, allowed, |i| {
            dot(&x[i / rows * WIDTH..][..WIDTH], &stored[i % rows % 64 * WIDTH..][..WIDTH])
        });
    }
}

fn attention(cpu: &Cpu, group: &mut BenchmarkGroup<'_, WallTime>, isa: &str) {
    let shape = Attention {
        heads: HEADS,
        kv_heads: KV_HEADS,
        key_dim: DIM,
        value_dim: DIM,
        scale: 0.125,
        window: None,
        soft_cap: None,
    };
    for (n, positions) in [(1, 512), (1, 8192), (512, 2048)] {
        let width = KV_HEADS * DIM;
        let cache = CacheShape { layers: 1, positions, kv_heads: KV_HEADS, key_width: width, value_width: width };
        let (k, v, q) = (floats(positions * width, 3), floats(positions * width, 4), floats(n * HEADS * DIM, 5));
        let mut cache = cpu.cache(cache).expect("memory");
        cpu.store(&mut cache, 0, &filled(cpu, &k), &filled(cpu, &v), 0, positions).expect("stored");
        let (q_buffer, mut out) = (filled(cpu, &q), cpu.buffer(n * HEADS * DIM).expect("memory"));
        let start = positions - n;
        let mut attend = || cpu.attention(&shape, &q_buffer, &cache, 0, start, n, &mut out).expect("attention");
        attend();
        // Multiply-adds of scores and of values.
        let pairs: usize = (start + 1..=positions).sum();
        group.throughput(Throughput::Elements((2 * pairs * HEADS * DIM) as u64));
        group.bench_function(format!("{n} queries, {positions} positions/{isa}"), |b| b.iter(&mut attend));
        check(&format!("attention {isa}"), &out, 2e-3, |i| {
            let (row, head, d) = (i / (HEADS * DIM), i / DIM % HEADS, i % DIM);
            let shared = head / (HEADS / KV_HEADS) * DIM;
            let q = &q[row * HEADS * DIM + head * DIM..][..DIM];
            let score = |p: usize| 0.125 * dot(q, &k[p * width + shared..][..DIM]);
            let scores: Vec<f64> = (0..=start + row).map(score).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
            let value = |p: usize| f64::from(v[p * width + shared + d]);
            scores.iter().enumerate().map(|(p, s)| (s - max).exp() * value(p)).sum::<f64>() / total
        });
    }
}

fn elements(cpu: &Cpu, criterion: &mut Criterion, isa: &str) {
    const N: usize = 64;
    let (x, y) = (floats(N * WIDTH, 6), floats(N * WIDTH, 7));
    let mut group = criterion.benchmark_group("elements");
    group.throughput(Throughput::Elements((N * WIDTH) as u64));

    let ones: Vec<u8> = y[..WIDTH].iter().flat_map(|x| x.to_le_bytes()).collect();
    let shape = Shape::new(&[WIDTH]).expect("a small shape");
    let weight = cpu.weight(QTensor::new(&block::F32, shape, ones).expect("a vector")).expect("a weight");
    let (from, mut out) = (filled(cpu, &x), cpu.buffer(N * WIDTH).expect("memory"));
    let mut norm = || cpu.norm(Norm::Rms, 1e-5, &weight, None, &from, &mut out, N, WIDTH).expect("a norm");
    norm();
    group.bench_function(format!("norm/{isa}"), |b| b.iter(&mut norm));
    check(&format!("norm {isa}"), &out, 1e-6, |i| {
        let row = &x[i / WIDTH * WIDTH..][..WIDTH];
        f64::from(x[i]) / (dot(row, row) / WIDTH as f64 + 1e-5).sqrt() * f64::from(y[i % WIDTH])
    });

    for style in [RopeStyle::Interleaved, RopeStyle::Neox] {
        let frequencies: Vec<f32> = (0..DIM / 2).map(|i| 10000f32.powf(-(i as f32) / (DIM / 2) as f32)).collect();
        let rope = Rope { style, frequencies, magnitude: 1.0 };
        let mut turned = filled(cpu, &x);
        cpu.rope(&rope, &mut turned, N, HEADS, DIM, 1000).expect("a rotation");
        check(&format!("rope {isa}"), &turned, 1e-6, |i| {
            let (row, d) = (i / WIDTH, i % DIM);
            let (pair, other, sign) = match style {
                RopeStyle::Interleaved => (d / 2, i ^ 1, if d % 2 == 0 { -1.0 } else { 1.0 }),
                RopeStyle::Neox if d < DIM / 2 => (d, i + DIM / 2, -1.0),
                RopeStyle::Neox => (d - DIM / 2, i - DIM / 2, 1.0),
            };
            let angle = f64::from((1000 + row) as f32 * rope.frequencies[pair]);
            f64::from(x[i]) * angle.cos() + sign * f64::from(x[other]) * angle.sin()
        });
        group.bench_function(format!("rope {style:?}/{isa}"), |b| {
            b.iter(|| cpu.rope(&rope, &mut turned, N, HEADS, DIM, 1000).expect("a rotation"));
        });
    }

    let up = filled(cpu, &y);
    let mut gate = filled(cpu, &x);
    cpu.gate(Activation::Silu, &mut gate, &up, N * WIDTH).expect("a gate");
    check(&format!("silu {isa}"), &gate, 1e-6, |i| {
        let x = f64::from(x[i]);
        x / (1.0 + (-x).exp()) * f64::from(y[i])
    });
    group.bench_function(format!("silu gate/{isa}"), |b| {
        b.iter(|| cpu.gate(Activation::Silu, &mut gate, &up, N * WIDTH).expect("a gate"));
    });
    group.finish();
}

fn main() {
    let mut criterion = common::criterion();
    for isa in Cpu::isa_names() {
        let options = Options { threads: Some(1), isa: Isa::by_name(isa), ..Options::default() };
        let cpu = Cpu::new(options).expect("one thread");
        let mut group = criterion.benchmark_group("products");
        for format in [&block::F32, &block::F16, &block::BF16] {
            products(&cpu, &mut group, isa, format);
        }
        group.finish();
        let mut group = criterion.benchmark_group("attention");
        attention(&cpu, &mut group, isa);
        group.finish();
        elements(&cpu, &mut criterion, isa);
    }
    criterion.final_summary();
}
