//! Products, embeddings, attention.

use super::*;

/// A random weight of a format.
fn random_weight(random: &mut Random, format: &'static block::BlockFormat, dims: &[usize]) -> QTensor {
    let shape = Shape::new(dims).unwrap();
    let mut bytes = vec![0; format.row_bytes(shape.cols()).unwrap() * shape.rows()];
    let row_bytes = bytes.len() / shape.rows();
    let importance = vec![1.0; shape.cols()];
    for out in bytes.chunks_mut(row_bytes) {
        format.quantize.unwrap()(&random.floats(shape.cols()), Some(&importance), out);
    }
    QTensor::new(format, shape, bytes).unwrap()
}

fn formats() -> impl Iterator<Item = &'static block::BlockFormat> {
    block::ALL.iter().copied().filter(|f| f.quantize.is_some() && f.dequantize.is_some())
}

#[test]
fn products_and_embeddings_in_every_format() {
    let Some(cuda) = cuda() else { return };
    let cpu = oracle();
    let mut random = Random::new(5);
    for format in formats() {
        let unit = format.block_weights;
        for (n, rows, blocks) in [(1, 67, 3), (3, 33, 1), (20, 18, 2)] {
            let cols = if unit == 1 { blocks * 37 } else { blocks * unit };
            let tensor = random_weight(&mut random, format, &[rows, cols]);
            let second = random_weight(&mut random, &block::F32, &[3, cols]);
            let (x, bias) = (random.floats(n * cols), random.floats(rows));
            fn run<B: Backend>(b: &B, tensors: [&QTensor; 2], x: &[f32], bias: &[f32], n: usize) -> [Vec<f32>; 3] {
                let [w, w2] = tensors.map(|t| b.weight(t.clone()).unwrap());
                let (rows, cols) = (bias.len(), tensors[0].shape().cols());
                let (bias, x) = (vector(b, bias), filled(b, x, 3));
                let (mut out, mut out2) = (b.buffer(n * rows + 5).unwrap(), b.buffer(n * 3).unwrap());
                let products = &mut [
                    Product { weight: &w, bias: Some(&bias), out: &mut out },
                    Product { weight: &w2, bias: None, out: &mut out2 },
                ];
                b.matmul(&x, n, products).unwrap();
                let mut picked = b.buffer(4 * cols).unwrap();
                b.embed(&w, &[rows as u32 - 1, 0, 3, 3], &mut picked).unwrap();
                [contents(b, &out, n * rows + 5), contents(b, &out2, n * 3), contents(b, &picked, 4 * cols)]
            }
            let got = run(&cuda, [&tensor, &second], &x, &bias, n);
            let want = run(&cpu, [&tensor, &second], &x, &bias, n);
            let what = format!("{} n {n} ({rows}, {cols})", format.name);
            agree(&got[0], &want[0], 4e-6, &what);
            agree(&got[1], &want[1], 4e-6, &format!("{what}, the second product"));
            assert_eq!(got[2], want[2], "{what}, embeddings");
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
    ];
    for &(heads, kv_heads, key_dim, value_dim, window, soft_cap, start, n) in cases {
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
        agree(&compute!(&cuda), &compute!(&oracle()), 1e-5, &format!("{shape:?} start {start} n {n}"));
    }
}
