//! The simple operations.

use super::*;
use crate::RopeStyle;

/// Runs the same operation on both backends and compares what it leaves.
fn both(
    allowed: f32,
    what: &str,
    cuda: impl FnOnce(&Cuda, &mut Vec<f32>),
    cpu: impl FnOnce(&Cpu, &mut Vec<f32>),
) -> bool {
    let Some(device) = super::cuda() else { return false };
    let (mut got, mut want) = (Vec::new(), Vec::new());
    cuda(&device, &mut got);
    cpu(&oracle(), &mut want);
    agree(&got, &want, allowed, what);
    true
}

/// The same block for each backend: closures are generic over nothing, macros are.
macro_rules! both {
    ($allowed:expr, $what:expr, |$backend:ident| $body:expr) => {
        both($allowed, $what, |$backend, out| *out = $body, |$backend, out| *out = $body)
    };
}

#[test]
fn more_rows_than_a_grid_has_blocks_are_refused() {
    let Some(cuda) = cuda() else { return };
    let (x, rows) = (filled(&cuda, &[1.0], 0), vec![0; cuda.most_rows(1) + 1]);
    let said = cuda.gather(&x, &rows, 1, &mut filled(&cuda, &vec![0.0; rows.len()], 0)).unwrap_err().to_string();
    assert!(said.contains("launching gather: CUDA_ERROR_INVALID_VALUE"), "{said}");
    // Sizes are ints.
    assert_eq!(cuda.most_rows(1 << 20), 2047);
}

#[test]
fn norms() {
    let mut random = Random::new(1);
    for (rows, cols) in [(1, 1), (3, 37), (2, 256), (5, 1000)] {
        let (x, w, b) = (random.floats(rows * cols), random.floats(cols), random.floats(cols));
        for norm in [Norm::Rms, Norm::Layer] {
            for bias in [false, true] {
                both!(2e-6, &format!("{norm:?} ({rows}, {cols}) bias {bias}"), |backend| {
                    let (w, b) = (vector(backend, &w), vector(backend, &b));
                    let mut out = filled(backend, &vec![7.0; rows * cols + 3], 0);
                    let x = filled(backend, &x, 1);
                    backend.norm(norm, 1e-5, &w, bias.then_some(&b), &x, &mut out, rows, cols).unwrap();
                    contents(backend, &out, rows * cols + 3)
                });
            }
        }
    }
}

/// A branch is added before, and the product behind takes what the norm rounded: twice, since it does so only once a product
/// has asked for it.
#[test]
fn norms_between_products() {
    let mut random = Random::new(9);
    let format = block::BlockFormat::by_name("Q8_0").unwrap();
    for (n, cols) in [(1, 32), (3, 1056), (2, 4128)] {
        let mut bytes = vec![0; 5 * format.row_bytes(cols).unwrap()];
        let row_bytes = bytes.len() / 5;
        bytes.chunks_mut(row_bytes).for_each(|row| format.quantize.unwrap()(&random.floats(cols), None, row));
        let tensor = QTensor::new(format, Shape::new(&[5, cols]).unwrap(), bytes).unwrap();
        let (x, y, w, b) = (random.floats(n * cols), random.floats(n * cols), random.floats(cols), random.floats(cols));
        for norm in [Norm::Rms, Norm::Layer] {
            fn run<B: Backend>(backend: &B, tensor: &QTensor, [x, y, w, b]: [&[f32]; 4], norm: Norm) -> Vec<f32> {
                let (cols, n) = (w.len(), x.len() / w.len());
                let product = backend.weight(tensor.clone()).unwrap();
                let (w, b) = (vector(backend, w), vector(backend, b));
                let (mut x, y) = (filled(backend, x, 0), filled(backend, y, 0));
                let mut out = filled(backend, &vec![7.0; n * cols], 3);
                let mut all = Vec::new();
                for _ in 0..3 {
                    backend.add_norm(&mut x, &y, norm, 1e-5, &w, Some(&b), &mut out, n, cols).unwrap();
                    let mut result = backend.buffer(n * 5).unwrap();
                    backend.matmul(&out, n, &mut [Product { weight: &product, bias: None, out: &mut result }]).unwrap();
                    all.extend(contents(backend, &result, n * 5));
                    backend.gate(Activation::Silu, &mut out, &x, n * cols).unwrap();
                    backend.matmul(&out, n, &mut [Product { weight: &product, bias: None, out: &mut result }]).unwrap();
                    all.extend(contents(backend, &result, n * 5));
                    // What was rounded is not what is there any more.
                    backend.scale(&mut out, -3.0, n * cols).unwrap();
                    backend.matmul(&out, n, &mut [Product { weight: &product, bias: None, out: &mut result }]).unwrap();
                    all.extend(contents(backend, &result, n * 5));
                }
                all.extend(contents(backend, &x, n * cols));
                all.extend(contents(backend, &out, n * cols + 3));
                all
            }
            let Some(device) = super::cuda() else { return };
            let eight = Cpu::new(cpu::Options { threads: Some(1), ..cpu::Options::default() }).unwrap();
            let parts = [&x[..], &y, &w, &b];
            let (got, want) = (run(&device, &tensor, parts, norm), run(&eight, &tensor, parts, norm));
            // A float that lies between two codes may fall to either side: a code's worth of one weight.
            agree(&got, &want, 1e-3, &format!("{norm:?} ({n}, {cols})"));
        }
    }
}

#[test]
fn the_largest_and_the_first_of_equals() {
    let Some(cuda) = cuda() else { return };
    let mut random = Random::new(11);
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let mut cases: Vec<(Vec<f32>, f32)> = vec![
        (vec![-3.0], 0.0),
        (vec![-0.0, 0.0, -1.0], 0.0),
        (vec![-inf, -2.0, -2.0], 1.0),
        (vec![-inf; 40], nan),
        (vec![1.0, nan, 2.0], nan),
        (vec![1.0, inf, 2.0], nan),
        (vec![], nan),
    ];
    for len in [31, 1024, 1025, 5000] {
        let x = random.floats(len);
        let at = random.next() as usize % len;
        for (first, second) in [(at, len - 1), (at / 2, at)] {
            let mut x = x.clone();
            (x[first], x[second]) = (1.5, 1.5);
            cases.push((x.clone(), first.min(second) as f32));
            x[at] = nan;
            cases.push((x, nan));
        }
    }
    for (x, want) in cases {
        fn largest<B: Backend>(backend: &B, x: &[f32]) -> Vec<f32> {
            let mut out = filled(backend, &[7.0; 3], 0);
            backend.argmax(&filled(backend, x, 1), x.len(), &mut out).unwrap();
            contents(backend, &out, 3)
        }
        for (got, who) in [(largest(&cuda, &x), "cuda"), (largest(&oracle(), &x), "cpu")] {
            assert!(got[0] == want || (got[0].is_nan() && want.is_nan()), "{who}, {}: {got:?}, not {want}", x.len());
            assert_eq!(got[1..], [7.0; 2], "{who}");
        }
    }
}

#[test]
fn rope_into_the_cache() {
    let mut random = Random::new(10);
    for style in [RopeStyle::Interleaved, RopeStyle::Neox] {
        for (n, heads, kv_heads, key_dim, value_dim, pairs, start) in
            [(1, 3, 1, 8, 8, 4, 5), (4, 4, 2, 10, 6, 3, 0), (2, 2, 2, 5, 4, 2, 3)]
        {
            let frequencies = (0..pairs).map(|i| 10000f32.powf(-(i as f32) / pairs as f32)).collect();
            let rope = Rope { style, frequencies, magnitude: 1.25 };
            let shape = Attention { heads, kv_heads, key_dim, value_dim, scale: 0.5, window: None, soft_cap: None };
            let (q, k) = (random.floats(n * heads * key_dim), random.floats(n * kv_heads * key_dim));
            let v = random.floats(n * kv_heads * value_dim);
            both!(1e-4, &format!("{style:?} {n} {shape:?} {start}"), |backend| {
                let (key_width, value_width) = (kv_heads * key_dim, kv_heads * value_dim);
                let cache = CacheShape { layers: 2, positions: start + n + 2, kv_heads, key_width, value_width };
                let mut cache = backend.cache(cache).unwrap();
                let before = |width: usize| filled(backend, &vec![0.5; start * width], 1);
                backend.store(&mut cache, 1, &before(key_width), &before(value_width), 0, start).unwrap();
                let (mut q, mut k, v) = (filled(backend, &q, 0), filled(backend, &k, 0), filled(backend, &v, 0));
                backend
                    .rope_store(&rope, heads, kv_heads, key_dim, &mut q, &mut k, &v, &mut cache, 1, start, n)
                    .unwrap();
                let mut out = backend.buffer(n * heads * value_dim).unwrap();
                backend.attention(&shape, &q, &cache, 1, start, n, &mut out).unwrap();
                [contents(backend, &q, n * heads * key_dim), contents(backend, &out, n * heads * value_dim)].concat()
            });
        }
    }
}

#[test]
fn rope() {
    let mut random = Random::new(2);
    for style in [RopeStyle::Interleaved, RopeStyle::Neox] {
        for (n, heads, dim, pairs, start) in [(1, 3, 8, 4, 0), (5, 2, 10, 3, 131_000), (3, 7, 64, 32, 1000)] {
            let frequencies = (0..pairs).map(|i| 10000f32.powf(-(i as f32) / pairs as f32)).collect();
            let rope = Rope { style, frequencies, magnitude: 1.25 };
            let x = random.floats(n * heads * dim);
            both!(2e-6, &format!("{style:?} {n} {heads} {dim} {pairs} {start}"), |backend| {
                let mut x = filled(backend, &x, 0);
                backend.rope(&rope, &mut x, n, heads, dim, start).unwrap();
                contents(backend, &x, n * heads * dim)
            });
        }
    }
}

#[test]
fn elements() {
    let mut random = Random::new(3);
    for len in [1, 255, 1025] {
        let x: Vec<f32> = random.floats(len).iter().map(|v| v * 12.0).collect();
        let y = random.floats(len);
        for activation in [Activation::Silu, Activation::GeluTanh, Activation::GeluErf, Activation::Relu] {
            both!(2e-6, &format!("gate {activation:?} {len}"), |backend| {
                let (mut x, y) = (filled(backend, &x, 2), filled(backend, &y, 0));
                backend.gate(activation, &mut x, &y, len).unwrap();
                contents(backend, &x, len + 2)
            });
            both!(2e-6, &format!("{activation:?} {len}"), |backend| {
                let mut x = filled(backend, &x, 2);
                backend.activate(activation, &mut x, len).unwrap();
                contents(backend, &x, len + 2)
            });
        }
        both!(1e-6, &format!("add, scale, cap {len}"), |backend| {
            let (mut x, y) = (filled(backend, &x, 2), filled(backend, &y, 0));
            backend.add(&mut x, &y, len).unwrap();
            backend.scale(&mut x, -1.5, len).unwrap();
            backend.soft_cap(&mut x, 7.0, len).unwrap();
            contents(backend, &x, len + 2)
        });
    }
}

#[test]
fn rows() {
    let mut random = Random::new(4);
    for cols in [1, 37, 600] {
        let (x, y) = (random.floats(9 * cols), random.floats(4 * cols));
        for rows in [[3, 4, 5, 6], [8, 0, 3, 3]] {
            both!(1e-6, &format!("gather and scatter {rows:?} {cols}"), |backend| {
                let x = filled(backend, &x, 0);
                let mut picked = backend.buffer(4 * cols).unwrap();
                backend.gather(&x, &rows, cols, &mut picked).unwrap();
                let mut out = filled(backend, &vec![0.5; 9 * cols], 0);
                let y = filled(backend, &y, 0);
                backend.scatter_add(&y, &rows, &[0.5, -1.0, 2.0, 0.25], cols, &mut out).unwrap();
                [contents(backend, &picked, 4 * cols), contents(backend, &out, 9 * cols)].concat()
            });
        }
    }
}
