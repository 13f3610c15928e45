//! How fast activations meet quantized weights, by format and instruction set, on one thread:
//! - one token: GB/s of weights read, beside what reading alone reaches, and GB/s of weights that lie in the cache: where
//!   that is little more, arithmetic is the bound and not memory;
//! - 512 tokens: multiply-adds per cycle. AVX-512 VNNI does 64 an instruction, 128 a cycle where there are two ports.
//!
//! `cargo bench -p qconv-kernels --bench products [-- FORMAT]`. Some elements of each result are checked first.
//! `-- --cached` shows one token and weights in the cache alone, which takes seconds and hardly depends on what else the
//! machine does; also for rows as short as those of small models.

mod common;

use common::{floats, seconds};
use criterion::Throughput;
use qconv_formats::block::{self, BlockFormat};
use qconv_formats::{QTensor, Shape};
use qconv_kernels::cpu::{Cpu, Isa, Options, Weight};
use qconv_kernels::{Backend, Product};
use std::hint::black_box;

const COLS: usize = 2048;
/// Weights that the second-level cache holds.
const CACHED: usize = 512 << 10;
/// Enough weights for no cache.
const BYTES: usize = 96 << 20;
const TOKENS: usize = 512;
const TOKENS_ROWS: usize = 512;

/// Sixteen rows, again and again.
fn weight(format: &'static BlockFormat, rows: usize, cols: usize) -> (QTensor, Vec<f32>) {
    let importance = vec![1.0; cols];
    let row_bytes = format.row_bytes(cols).expect("a whole number of blocks");
    let mut bytes = vec![0; 16 * row_bytes];
    for (row, out) in floats(16 * cols, 1).chunks_exact(cols).zip(bytes.chunks_exact_mut(row_bytes)) {
        (format.quantize.expect("a format that can be quantized to"))(row, Some(&importance), out);
    }
    let mut weights = vec![0.0; 16 * cols];
    (format.dequantize.expect("a format that can be computed with"))(&bytes, &mut weights);
    let shape = Shape::new(&[rows, cols]).expect("a small shape");
    (QTensor::new(format, shape, bytes.repeat(rows / 16)).expect("as many bytes as the shape says"), weights)
}

/// Cycles per second, from steps that wait for each other: a shift, an exclusive or, a multiplication of three cycles.
fn clock() -> f64 {
    const N: u64 = 3_000_000;
    let time = seconds(|| {
        let mut x = black_box(3u64);
        for _ in 0..N {
            x = (x ^ x >> 31).wrapping_mul(0x5851_f42d_4c95_7f2d);
        }
        black_box(x);
    });
    5.0 * N as f64 / time
}

/// GB/s of adding up memory.
fn reading(bytes: &[u8]) -> f64 {
    let time = seconds(|| {
        let mut sums = [0u64; 16];
        for chunk in bytes.as_chunks::<128>().0 {
            for (sum, word) in sums.iter_mut().zip(chunk.as_chunks::<8>().0) {
                *sum = sum.wrapping_add(u64::from_le_bytes(*word));
            }
        }
        black_box(sums);
    });
    bytes.len() as f64 / time / 1e9
}

fn multiply(cpu: &Cpu, weight: &Weight, x: &<Cpu as Backend>::Buffer, n: usize, out: &mut <Cpu as Backend>::Buffer) {
    let mut products = [Product { weight, bias: None, out }];
    cpu.matmul(x, n, &mut products).expect("products on the CPU cannot fail");
}

/// Panics unless elements spread over the result agree with sums in f64 (activations are rounded to 8 bits).
fn check(what: &str, out: &[f32], rows: usize, x: &[f32], weights: &[f32]) {
    let size = (weights.iter().map(|w| f64::from(w * w)).sum::<f64>() / 16.0).sqrt();
    for i in (0..out.len()).step_by(out.len() / 97) {
        let (x, w) = (&x[i / rows * COLS..][..COLS], &weights[i % rows % 16 * COLS..][..COLS]);
        let want: f64 = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
        let off = (f64::from(out[i]) - want).abs();
        assert!(off < 0.03 * size, "{what}: element {i} is {} instead of {want}", out[i]);
    }
}

/// GB/s with one token and weights in the cache, in rows of `cols`: the best of many short runs.
fn cached(cpu: &Cpu, format: &'static BlockFormat, x: &<Cpu as Backend>::Buffer, cols: usize) -> f64 {
    let row_bytes = format.row_bytes(cols).expect("a whole number of blocks");
    let rows = (CACHED / row_bytes).next_multiple_of(16);
    let (tensor, _) = weight(format, rows, cols);
    let size = tensor.bytes().len();
    let weight = cpu.weight(tensor).expect("a format that can be computed with");
    let mut out = cpu.buffer(rows).expect("a few KB");
    let time = (0..60).map(|_| seconds(|| multiply(cpu, &weight, x, 1, &mut out))).fold(f64::INFINITY, f64::min);
    size as f64 / time / 1e9
}

/// All formats and instruction sets with weights in the cache.
fn cached_alone() {
    let x = floats(COLS, 2);
    println!("{:<8} {:>7} {:>14} {:>8} {:>8} {:>8}", "format", "isa", "G weights/s", "GB/s", "of 768", "of 256");
    for format in block::ALL.iter().filter(|f| f.is_quantized()) {
        for name in Cpu::isa_names().into_iter().filter(|name| *name != "scalar") {
            let isa = Isa::by_name(name);
            let cpu = Cpu::new(Options { threads: Some(1), isa, ..Options::default() }).expect("one thread");
            let mut input = cpu.buffer(x.len()).expect("a few KB");
            cpu.write(&x, &mut input).expect("host memory");
            let [rate, medium, short] = [COLS, 768, 256].map(|cols| cached(&cpu, format, &input, cols));
            let weights = rate * format.block_weights as f64 / format.block_bytes as f64;
            println!("{:<8} {name:>7} {weights:>14.1} {rate:>8.1} {medium:>8.1} {short:>8.1}", format.name);
        }
    }
}

fn main() {
    if std::env::args().any(|a| a == "--cached") {
        return cached_alone();
    }
    let mut criterion = common::criterion();
    let asked = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    let x = floats(TOKENS * COLS, 2);
    println!(
        "{:<8} {:>7} {:>8} {:>10} {:>8} {:>12} {:>10}",
        "format", "isa", "GB/s", "of reading", "cached", "MACs/cycle", "4 tokens"
    );
    for format in block::ALL.iter().filter(|f| f.is_quantized()) {
        if asked.as_ref().is_some_and(|a| !format.name.eq_ignore_ascii_case(a)) {
            continue;
        }
        let row_bytes = format.row_bytes(COLS).expect("2048 is a whole number of blocks");
        let rows = (BYTES / row_bytes).next_multiple_of(16);
        let (large, weights) = weight(format, rows, COLS);
        let (small, _) = weight(format, TOKENS_ROWS, COLS);
        for name in Cpu::isa_names() {
            let isa = Isa::by_name(name);
            if isa == Some(Isa::Scalar) {
                continue; // an oracle, not meant to be fast
            }
            let cpu = Cpu::new(Options { threads: Some(1), isa, ..Options::default() }).expect("one thread");
            let what = format!("{} {name}", format.name);
            let mut input = cpu.buffer(x.len()).expect("a few MB");
            cpu.write(&x, &mut input).expect("host memory");
            let mut out = cpu.buffer(rows * 4).expect("a few MB");
            let one = cpu.weight(large.clone()).expect("a format that can be computed with");
            multiply(&cpu, &one, &input, 1, &mut out);
            check(&what, &out[..rows], rows, &x, &weights);
            let time = seconds(|| multiply(&cpu, &one, &input, 1, &mut out));
            let rate = large.bytes().len() as f64 / time / 1e9;
            let read = reading(large.bytes());
            let time4 = seconds(|| multiply(&cpu, &one, &input, 4, &mut out));

            let many = cpu.weight(small.clone()).expect("a format that can be computed with");
            let mut out = cpu.buffer(TOKENS * TOKENS_ROWS).expect("a few MB");
            multiply(&cpu, &many, &input, TOKENS, &mut out);
            check(&what, &out, TOKENS_ROWS, &x, &weights);
            let (macs, clock) = ((TOKENS * TOKENS_ROWS * COLS) as f64, clock());
            let time512 = seconds(|| multiply(&cpu, &many, &input, TOKENS, &mut out));
            println!(
                "{:<8} {name:>7} {rate:>8.1} {:>9.0}% {:>8.1} {:>12.1} {:>9.2}x",
                format.name,
                100.0 * rate / read,
                cached(&cpu, format, &input, COLS),
                macs / time512 / clock,
                time4 / time,
            );
            let mut group = criterion.benchmark_group("products");
            group.throughput(Throughput::Elements(macs as u64));
            group.bench_function(format!("{}/{name}/{TOKENS}", format.name), |b| {
                b.iter(|| multiply(&cpu, &many, &input, TOKENS, &mut out));
            });
            group.finish();
        }
    }
    criterion.final_summary();
}
