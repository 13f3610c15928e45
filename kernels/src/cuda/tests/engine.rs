//! Products, embeddings, attention.

use super::*;

/// A random weight of a format. No more than seven rows are different: quantizing to some formats is slow.
pub(super) fn random_weight(random: &mut Random, format: &'static block::BlockFormat, dims: &[usize]) -> QTensor {
    let shape = Shape::new(dims).unwrap();
    let row_bytes = format.row_bytes(shape.cols()).unwrap();
    let mut bytes = vec![0; row_bytes * shape.rows().min(7)];
    let importance = vec![1.0; shape.cols()];
    for out in bytes.chunks_mut(row_bytes) {
        format.quantize.unwrap()(&random.floats(shape.cols()), Some(&importance), out);
    }
    let bytes: Vec<u8> = bytes.iter().copied().cycle().take(row_bytes * shape.rows()).collect();
    QTensor::new(format, shape, bytes).unwrap()
}

pub(super) fn formats() -> impl Iterator<Item = &'static block::BlockFormat> {
    block::ALL.iter().copied().filter(|f| f.quantize.is_some() && f.dequantize.is_some())
}

pub(super) fn named(format: &&block::BlockFormat) -> String {
    format.name.to_owned()
}

/// How far results may be from the oracle's, relative to the largest.
///
/// - Quantized weights: both backends round activations to the same 8 bits and sum integers exactly; what differs is the order
///   in which some hundred floats are added.
/// - F16, BF16 with many tokens: activations are rounded to 11 or 8 significant bits, the oracle's are not: half a unit of the
///   last place (2^-12, 2^-9) for each of them, of which sums of many have about that, relative to their terms.
fn allowed(format: &block::BlockFormat, n: usize) -> f32 {
    match format.name {
        "F16" if n > 8 => 1e-3,
        "BF16" if n > 8 => 8e-3,
        _ => 4e-6,
    }
}

/// The CPU backend with activations as the kernels have them: 8 bits for quantized formats, so not with AMX.
pub(super) fn oracle_for(format: &block::BlockFormat) -> Cpu {
    if !format.is_quantized() {
        return oracle();
    }
    let isa = Some(cpu::Isa::best(cpu::Isa::Avx512Vbmi));
    Cpu::new(cpu::Options { threads: Some(1), isa, ..cpu::Options::default() }).unwrap()
}

#[test]
fn products_in_every_format() {
    let Some(cuda) = cuda() else { return };
    let mut random = Random::new(5);
    each(formats(), named, |format| {
        let unit = format.block_weights;
        // Every kernel of a format, tiles with rows, tokens and groups to spare, and without.
        for (n, rows, blocks) in [(1, 67, 3), (2, 5, 9), (8, 33, 1), (9, 70, 1), (17, 18, 2), (33, 130, 1), (65, 7, 1)]
        {
            let cols = if unit == 1 { blocks * 37 + 27 * (n % 2) } else { blocks * unit };
            let tensors = [
                random_weight(&mut random, format, &[rows, cols]),
                random_weight(&mut random, &block::F32, &[3, cols]),
                random_weight(&mut random, format, &[3, cols]), // in one launch with the first
            ];
            let mut x = random.floats(n * cols);
            x[cols * (n - 1)..].iter_mut().for_each(|v| *v *= 1e5); // beyond halves
            let bias = random.floats(rows);
            fn run<B: Backend>(b: &B, tensors: &[QTensor; 3], x: &[f32], bias: &[f32], n: usize) -> [Vec<f32>; 3] {
                let [w, w2, w3] = tensors.each_ref().map(|t| b.weight(t.clone()).unwrap());
                let rows = bias.len();
                let (bias, x) = (vector(b, bias), filled(b, x, 3));
                let mut out = [rows, 3, 3].map(|rows| filled(b, &vec![7.0; n * rows + 5], 0));
                let [out1, out2, out3] = &mut out;
                let products = &mut [
                    Product { weight: &w, bias: Some(&bias), out: out1 },
                    Product { weight: &w2, bias: None, out: out2 },
                    Product { weight: &w3, bias: None, out: out3 },
                ];
                b.matmul(&x, n, products).unwrap();
                let [a, b_, c] = &out;
                [contents(b, a, n * rows + 5), contents(b, b_, n * 3 + 5), contents(b, c, n * 3 + 5)]
            }
            let got = run(&cuda, &tensors, &x, &bias, n);
            let want = run(&oracle_for(format), &tensors, &x, &bias, n);
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                let what = format!("{} n {n} ({rows}, {cols}), product {i}", format.name);
                let allowed = if i == 1 { 4e-6 } else { allowed(format, n) };
                // The last token's numbers are large: compared apart, they do not hide the others' errors.
                let (last, end) = ((n - 1) * (got.len() - 5) / n, got.len() - 5);
                agree(&got[..last], &want[..last], allowed, &what);
                agree(&got[last..end], &want[last..end], allowed, &format!("{what}, the last token"));
                assert_eq!(got[end..], [7.0; 5], "{what}: wrote behind the result");
            }
        }
    });
}

/// Products of launches with very many rows: one warp takes all columns, group after group.
#[test]
fn one_warp_takes_several_groups() {
    let Some(mut cuda) = cuda() else { return };
    cuda.device.tune().matvec_warps = 1;
    let mut random = Random::new(13);
    each(formats(), named, |format| {
        let cols = if format.block_weights == 1 { 1096 } else { 2304 };
        for n in [1, 3] {
            let (weight, x) = (random_weight(&mut random, format, &[6, cols]), random.floats(n * cols));
            fn run<B: Backend>(b: &B, weight: &QTensor, x: &[f32], n: usize) -> Vec<f32> {
                let (weight, x, mut out) =
                    (b.weight(weight.clone()).unwrap(), filled(b, x, 0), filled(b, &vec![7.0; n * 6], 0));
                b.matmul(&x, n, &mut [Product { weight: &weight, bias: None, out: &mut out }]).unwrap();
                contents(b, &out, n * 6)
            }
            let want = run(&oracle_for(format), &weight, &x, n);
            agree(&run(&cuda, &weight, &x, n), &want, 4e-6, &format!("{}, {n} tokens", format.name));
        }
    });
}

/// Queries, keys and values of one token in two formats: in one launch where there is a kernel for the pair.
#[test]
fn two_formats_in_one_launch() {
    let Some(cuda) = cuda() else { return };
    let mut random = Random::new(12);
    let formats: Vec<_> = formats().filter(|f| f.is_quantized()).collect();
    let mut pairs = 0;
    for a in &formats {
        for b in formats.iter().filter(|b| a.ggml_id < b.ggml_id) {
            if !cuda.device.has(&format!("matvec1_{}_{}", a.name, b.name)).unwrap() {
                continue;
            }
            pairs += 1;
            // Two of the first and one of the second, the reverse, one each; mixed up.
            for [f1, f2, f3] in [[a, a, b], [b, a, b], [a, b, a]] {
                let cols = 512;
                let (x, bias) = (random.floats(cols), random.floats(6));
                let tensors =
                    [(f1, 13), (f2, 6), (f3, 9)].map(|(f, rows)| random_weight(&mut random, f, &[rows, cols]));
                fn run<B: Backend>(b: &B, tensors: &[QTensor; 3], x: &[f32], bias: &[f32]) -> Vec<f32> {
                    let weights = tensors.each_ref().map(|t| b.weight(t.clone()).unwrap());
                    let (bias, x) = (vector(b, bias), filled(b, x, 0));
                    let mut outs = tensors.each_ref().map(|t| filled(b, &vec![7.0; t.shape().rows() + 2], 0));
                    let biases = [None, Some(&bias), None];
                    let products = outs.iter_mut().zip(&weights).zip(biases);
                    let mut products: Vec<_> =
                        products.map(|((out, weight), bias)| Product { weight, bias, out }).collect();
                    b.matmul(&x, 1, &mut products).unwrap();
                    outs.iter().zip(tensors).flat_map(|(o, t)| contents(b, o, t.shape().rows() + 2)).collect()
                }
                cuda.start_profile();
                let got = run(&cuda, &tensors, &x, &bias);
                let launches: usize = cuda.kernel_times().unwrap().iter().map(|k| k.launches).sum();
                assert_eq!(launches, 2, "rounding and one product of {} and {}", a.name, b.name);
                agree(&got, &run(&oracle_for(a), &tensors, &x, &bias), 4e-6, &format!("{} {}", a.name, b.name));
            }
        }
    }
    assert_eq!(pairs, 8, "all of FOR_ALL_PAIRS");
}

#[test]
fn what_is_no_number_stays_none() {
    let Some(cuda) = cuda() else { return };
    let mut random = Random::new(7);
    for name in ["Q4_K", "Q6_K", "Q8_0", "F16", "F32"] {
        let format = block::BlockFormat::by_name(name).unwrap();
        let w = cuda.weight(random_weight(&mut random, format, &[3, 256])).unwrap();
        for (n, bad) in [(1, f32::NAN), (4, f32::INFINITY), (20, f32::NAN), (40, f32::NEG_INFINITY)] {
            let mut x = random.floats(n * 256);
            x[256 * (n - 1) + 77] = bad;
            let mut out = cuda.buffer(n * 3).unwrap();
            cuda.matmul(&filled(&cuda, &x, 0), n, &mut [Product { weight: &w, bias: None, out: &mut out }]).unwrap();
            let out = contents(&cuda, &out, n * 3);
            assert!(out[..3 * n - 3].iter().all(|v| v.is_finite()), "{name}: other tokens");
            assert!(out[3 * n - 3..].iter().all(|v| !v.is_finite()), "{name}: {bad} was lost");
        }
    }
}

#[test]
fn embeddings_in_every_format() {
    let Some(cuda) = cuda() else { return };
    let mut random = Random::new(8);
    each(formats(), named, |format| {
        for blocks in [1, 3] {
            let cols = if format.block_weights == 1 { 37 * blocks } else { format.block_weights * blocks };
            let tensor = random_weight(&mut random, format, &[5, cols]);
            fn run<B: Backend>(b: &B, tensor: &QTensor, cols: usize) -> Vec<f32> {
                let table = b.weight(tensor.clone()).unwrap();
                let mut picked = filled(b, &vec![7.0; 4 * cols + 3], 0);
                b.embed(&table, &[4, 0, 3, 3], &mut picked).unwrap();
                contents(b, &picked, 4 * cols + 3)
            }
            assert_eq!(run(&cuda, &tensor, cols), run(&oracle(), &tensor, cols), "{} {cols}", format.name);
        }
    });
}

/// A product behind attention takes what attention rounded, once the first has asked for it: bit for bit what a launch of its own
/// would have rounded.
#[test]
fn attention_rounds_for_the_product_behind_it() {
    let Some(cuda) = cuda() else { return };
    let mut random = Random::new(13);
    let format = block::BlockFormat::by_name("Q8_0").unwrap();
    for (heads, kv_heads, dim, start, n) in [
        (4, 2, 64, 5, 1),    // one part
        (4, 2, 128, 300, 1), // several, put together
        (4, 4, 128, 0, 21),  // a prompt: rows beyond the last
        (2, 1, 256, 3, 2),
        (2, 2, 80, 3, 2), // heads that groups of 32 cross
    ] {
        let (width, positions) = (kv_heads * dim, start + n);
        let shape =
            Attention { heads, kv_heads, key_dim: dim, value_dim: dim, scale: 0.3, window: None, soft_cap: None };
        let cache = CacheShape { layers: 1, positions, kv_heads, key_width: width, value_width: width };
        let mut cache = cuda.cache(cache).unwrap();
        let mut states = |width: usize, n: usize| filled(&cuda, &random.floats(n * width), 0);
        let (k, v, q) = (states(width, positions), states(width, positions), states(heads * dim, n));
        cuda.store(&mut cache, 0, &k, &v, 0, positions).unwrap();
        let weight = cuda.weight(random_weight(&mut random, format, &[5, heads * dim])).unwrap();
        let mut out = cuda.buffer(n * heads * dim + 64).unwrap();
        let mut run = || {
            cuda.start_profile();
            cuda.attention(&shape, &q, &cache, 0, start, n, &mut out).unwrap();
            let mut result = cuda.buffer(n * 5).unwrap();
            cuda.matmul(&out, n, &mut [Product { weight: &weight, bias: None, out: &mut result }]).unwrap();
            let roundings = cuda.kernel_times().unwrap().iter().any(|k| k.kernel == "quantize");
            (contents(&cuda, &result, n * 5), roundings)
        };
        let (first, second) = (run(), run());
        assert_eq!(first.0, second.0, "{shape:?} {start} {n}");
        assert_eq!((first.1, second.1), (true, dim % 32 != 0), "{shape:?}");
    }
}

/// Several sequences in one batch are each what it is alone, bit for bit; with 8-bit results, too.
#[test]
fn sequences_side_by_side_are_each_as_alone() {
    let Some(cuda) = cuda() else { return };
    let mut random = Random::new(14);
    let format = block::BlockFormat::by_name("Q8_0").unwrap();
    for (heads, kv_heads, dim, start, n, rotated) in [
        (4, 2, 64, 3, 1, true),
        (4, 2, 128, 300, 2, true),
        (2, 2, 64, 0, 19, false),
        (8, 8, 8, 3, 2, true),
        (32, 32, 5, 2, 3, true),
    ] {
        const SEQUENCES: usize = 3;
        let (width, kv_width, positions) = (heads * dim, kv_heads * dim, start + n + 1);
        let shape =
            Attention { heads, kv_heads, key_dim: dim, value_dim: dim, scale: 0.3, window: None, soft_cap: None };
        let frequencies = (0..dim / 2).map(|i| 0.5f32.powi(i as i32)).collect();
        let rope = Rope { style: crate::RopeStyle::Neox, frequencies, magnitude: 1.0 };
        let rope = rotated.then_some(&rope);
        let weight = cuda.weight(random_weight(&mut random, format, &[5, width])).unwrap();
        let [q, k, v, before] = [(width, n), (kv_width, n), (kv_width, n), (kv_width, start)]
            .map(|(width, n)| random.floats(SEQUENCES * n * width));
        // Sequences `from .. to`: results, and a product with them.
        let run = |from: usize, to: usize| {
            let of = |all: &[f32], width: usize| filled(&cuda, &all[from * width..to * width], 0);
            let cache = CacheShape { layers: 1, positions, kv_heads, key_width: kv_width, value_width: kv_width };
            let mut caches: Vec<_> = (from..to)
                .map(|i| {
                    let mut cache = cuda.cache(cache).unwrap();
                    let old = filled(&cuda, &before[i * start * kv_width..][..start * kv_width], 1);
                    cuda.store(&mut cache, 0, &old, &old, 0, start).unwrap();
                    cache
                })
                .collect();
            let count = (to - from) * n;
            let (mut out, mut result) = (cuda.buffer(count * width).unwrap(), cuda.buffer(count * 5).unwrap());
            let mut all = Vec::new();
            // The second time attention rounds for the product.
            for _ in 0..2 {
                let (mut q, mut k, v) = (of(&q, n * width), of(&k, n * kv_width), of(&v, n * kv_width));
                let mut caches: Vec<_> = caches.iter_mut().collect();
                cuda.attend_each(rope, &shape, &mut q, &mut k, &v, &mut caches, 0, start, n, &mut out).unwrap();
                cuda.matmul(&out, count, &mut [Product { weight: &weight, bias: None, out: &mut result }]).unwrap();
                all.push((contents(&cuda, &out, count * width), contents(&cuda, &result, count * 5)));
            }
            all
        };
        let together = run(0, SEQUENCES);
        for i in 0..SEQUENCES {
            let alone = run(i, i + 1);
            for (together, alone) in together.iter().zip(&alone) {
                let what = format!("{shape:?}, sequence {i}");
                assert_eq!(together.0[i * n * width..][..n * width], alone.0[..], "{what}");
                agree(&together.1[i * n * 5..][..n * 5], &alone.1, 4e-6, &what);
            }
        }
    }
}

/// `(heads, kv_heads, key_dim, value_dim, window, soft_cap, start, n)`.
type Case = (usize, usize, usize, usize, Option<usize>, Option<f32>, usize, usize);

#[test]
fn attention() {
    let Some(cuda) = cuda() else { return };
    let mut random = Random::new(6);
    let cases: &[Case] = &[
        (1, 1, 8, 8, None, None, 0, 1),
        (4, 2, 16, 16, None, None, 0, 5),
        (6, 2, 64, 32, None, None, 7, 3),
        (3, 3, 20, 12, Some(4), None, 0, 37),
        (8, 1, 64, 64, Some(9), Some(3.0), 300, 1),
        (2, 2, 80, 80, None, Some(1.5), 60, 2),
        // In parts: single tokens with few heads, and a prompt.
        (8, 2, 128, 128, None, None, 300, 1),
        (4, 4, 128, 128, Some(5), None, 200, 3),
        (6, 2, 96, 96, Some(40), None, 277, 5),
        (2, 1, 256, 256, None, Some(3.0), 250, 9),
        (2, 1, 256, 256, Some(7), None, 3, 2),
        (7, 1, 64, 64, None, None, 0, 33),
        (3, 3, 80, 80, Some(9), Some(2.0), 0, 37),
    ];
    let name = |case: &&Case| format!("{case:?}");
    each(cases, name, |&(heads, kv_heads, key_dim, value_dim, window, soft_cap, start, n)| {
        let shape = Attention { heads, kv_heads, key_dim, value_dim, scale: 0.7, window, soft_cap };
        let positions = start + n;
        let (key_width, value_width) = (kv_heads * key_dim, kv_heads * value_dim);
        let (k, v) = (random.floats(positions * key_width), random.floats(positions * value_width));
        let q = random.floats(n * heads * key_dim);
        let run = |b: &dyn Fn(CacheShape) -> Vec<f32>| {
            b(CacheShape { layers: 2, positions: positions + 3, kv_heads, key_width, value_width })
        };
        macro_rules! compute {
            ($b:expr) => {
                run(&|cache_shape| {
                    let b = $b;
                    let mut cache = b.cache(cache_shape).unwrap();
                    let (k, v, q) = (filled(b, &k, 0), filled(b, &v, 0), filled(b, &q, 0));
                    b.store(&mut cache, 1, &k, &v, 0, positions).unwrap();
                    let mut out = b.buffer(n * heads * value_dim + 2).unwrap();
                    b.attention(&shape, &q, &cache, 1, start, n, &mut out).unwrap();
                    contents(b, &out, n * heads * value_dim + 2)
                })
            };
        }
        // On tensor cores queries and probabilities are halves, 2^-12 off each: a score of 10 by 0.002 at worst.
        let allowed = if key_dim < 64 || key_dim != value_dim { 1e-5 } else { 2e-3 };
        agree(&compute!(&cuda), &compute!(&oracle()), allowed, &format!("{shape:?} start {start} n {n}"));
    });
}
