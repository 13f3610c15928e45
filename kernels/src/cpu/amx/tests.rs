//! Against sums in f64 over the same numbers, rounded to brain floats (weights of half precision: not rounded). (Nothing is tested where there is no AMX; `cpu::tests` and
//! `products::tests` go through all instruction sets of the machine as well.)

use super::super::products::tests::{activations, any_weight, formats};
use super::super::tests::{Random, random_weight};
use super::*;
use crate::Backend;
use crate::cpu::Options;
use half::bf16;
use qconv_formats::QTensor;
use qconv_formats::block::BlockFormat;

fn backend(threads: usize) -> Option<Cpu> {
    if Amx::new().is_none() {
        eprintln!("skipped: this machine has no AMX");
        return None;
    }
    Some(Cpu::new(Options { threads: Some(threads), isa: Some(Isa::Amx), ..Options::default() }).unwrap())
}

fn rounded(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| bf16::from_f32(*x).to_f64()).collect()
}

fn exact(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

/// However few tokens.
fn product(cpu: &Cpu, weight: &QTensor, x: &[f32], n: usize) -> Vec<f32> {
    let weight = cpu.weight(weight.clone()).unwrap();
    let mut out = cpu.buffer(n * weight.rows()).unwrap();
    matmul(cpu, proof(cpu).unwrap(), x, n, &mut [Product { weight: &weight, bias: None, out: &mut out }]).unwrap();
    out.to_vec()
}

#[test]
fn products_agree_with_sums_over_brain_floats() {
    let Some(cpu) = backend(1) else { return };
    let mut random = Random::new(41);
    for format in formats().chain(["BF16", "F16"].map(|name| BlockFormat::by_name(name).unwrap())) {
        let unit = format.block_weights;
        for (n, rows, blocks) in
            [(1, 33, 1), (16, 70, 9), (17, 1, 8), (31, 64, 3), (33, 47, 2), (64, 100, 10), (97, 5, 17)]
        {
            let cols = blocks * if unit == 1 { 37 } else { unit };
            for strange in [false, true] {
                let (weight, weights) = if strange {
                    any_weight(&mut random, format, rows, cols)
                } else {
                    random_weight(&mut random, format, &[rows, cols])
                };
                let x = activations(&mut random, n, cols);
                let got = product(&cpu, &weight, &x, n);
                for (i, got) in got.iter().enumerate() {
                    let (x, w) = (&x[i / rows * cols..][..cols], &weights[i % rows * cols..][..cols]);
                    let halves = format.name == "F16";
                    let (x, rounded_w) = if halves { (exact(x), exact(w)) } else { (rounded(x), rounded(w)) };
                    let terms = || x.iter().zip(&rounded_w).map(|(x, w)| x * w);
                    let (want, size): (f64, f64) = (terms().sum(), terms().map(f64::abs).sum());
                    // Weights are worked out in f32, by a fused multiplication: those that lie between two brain floats may become the other one.
                    let largest = |x: &mut dyn Iterator<Item = f64>| x.fold(0.0, |m: f64, x| m.max(x.abs()));
                    let off = largest(&mut x.iter().copied()) * largest(&mut w.iter().map(|w| f64::from(*w))) / 128.0;
                    let precision = if halves { 2f64.powi(-15) } else { 4e-7 }; // two brain floats leave 2^-16, and one product of four is left out
                    let allowed = precision * size + 1e-36 + if unit == 1 { 0.0 } else { off };
                    assert!(
                        (f64::from(*got) - want).abs() <= allowed,
                        "{format:?} n {n} rows {rows} cols {cols} strange {strange} at {i}: {got} instead of {want} +- {allowed}"
                    );
                }
            }
        }
    }
}

#[test]
fn results_depend_on_neither_threads_nor_other_tokens() {
    let (Some(one), Some(five)) = (backend(1), backend(5)) else { return };
    let mut random = Random::new(42);
    let (n, rows, cols) = (MOST_TOKENS + 29, 300, 768);
    let x = random.floats(n * cols);
    for name in ["Q4_K", "Q6_K", "IQ2_XS", "BF16", "F16"] {
        let (weight, _) = random_weight(&mut random, BlockFormat::by_name(name).unwrap(), &[rows, cols]);
        let all = product(&one, &weight, &x, n);
        assert_eq!(all, product(&five, &weight, &x, n), "{name}: threads");
        for n in [1, 5, 16, 40] {
            assert_eq!(all[..n * rows], product(&five, &weight, &x, n), "{name}: {n} tokens");
        }
    }
}
