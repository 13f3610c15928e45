//! Float weights: what the tests of all products do not ask.

use super::*;
use crate::Backend;
use crate::cpu::products::tests::Guarded;
use crate::cpu::tests::{Random, filled, random_weight};
use crate::cpu::way::Way;
use crate::cpu::{Isa, Options};
use qconv_formats::block::BlockFormat;
use qconv_formats::{QTensor, SharedBytes};
use std::sync::Arc;

fn formats() -> impl Iterator<Item = &'static BlockFormat> {
    ALL.iter().map(|float| BlockFormat::by_name(float.name).unwrap())
}

fn cpu(isa: &str, threads: usize, activations: Activations) -> Cpu {
    let isa = Isa::by_name(isa);
    Cpu::new(Options { threads: Some(threads), isa, activations, ..Options::default() }).unwrap()
}

fn product(cpu: &Cpu, weight: &QTensor, x: &[f32], n: usize) -> Vec<f32> {
    let weight = cpu.weight(weight.clone()).unwrap();
    let mut out = cpu.buffer(n * weight.rows()).unwrap();
    let x = filled(cpu, x, 0);
    cpu.matmul(&x, n, &mut [Product { weight: &weight, bias: None, out: &mut out }]).unwrap();
    out.to_vec()
}

#[cfg(unix)]
#[test]
fn nothing_behind_the_last_weight_or_activation_is_read() {
    let mut random = Random::new(21);
    for format in formats() {
        for (rows, cols) in [(1, 1), (3, 37), (33, 513), (7, 1040)] {
            let (weight, _) = random_weight(&mut random, format, &[rows, cols]);
            let guarded = Guarded::new(weight.bytes());
            let len = weight.bytes().len();
            let bytes = SharedBytes::new(Arc::new(guarded), 0..len);
            let tensor = QTensor::new(format, weight.shape().clone(), bytes).unwrap();
            for n in [1, 2, 3, 4, 5, 13] {
                let x = random.floats(n * cols);
                let guarded = Guarded::floats(&x);
                for isa in Cpu::isa_names() {
                    let cpu = cpu(isa, 1, Activations::Int8);
                    let weights = cpu.weight(tensor.clone()).unwrap();
                    let mut out = cpu.buffer(n * rows).unwrap();
                    let products = &mut [Product { weight: &weights, bias: None, out: &mut out }];
                    cpu.multiply(guarded.as_floats(), n, products).unwrap();
                    assert_eq!(out.to_vec(), product(&cpu, &weight, &x, n), "{format:?} {isa} {n}");
                }
            }
        }
    }
}

/// Long sums, and so many tokens that they are cut.
#[test]
fn exact_products_are_exact_and_do_not_depend_on_threads_or_other_tokens() {
    let mut random = Random::new(22);
    let (n, rows, cols) = (MOST_TOKENS + 29, 35, 1031);
    let x = random.floats(n * cols);
    for format in formats() {
        let (weight, floats) = random_weight(&mut random, format, &[rows, cols]);
        for isa in Cpu::isa_names() {
            let got = product(&cpu(isa, 1, Activations::Exact), &weight, &x, n);
            for (i, got) in got.iter().enumerate().step_by(101) {
                let (x, w) = (&x[i / rows * cols..][..cols], &floats[i % rows * cols..][..cols]);
                let want: f64 = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                // Numbers between -1 and 1: the sum's size is about sqrt(cols) / 3.
                assert!((f64::from(*got) - want).abs() < 2e-5, "{format:?} {isa}: {got} instead of {want}");
            }
            for activations in [Activations::Exact, Activations::Int8] {
                let all = product(&cpu(isa, 1, activations), &weight, &x, n);
                assert_eq!(all, product(&cpu(isa, 5, activations), &weight, &x, n), "{format:?} {isa}: threads");
                let two = cpu(isa, 2, activations);
                let w = two.weight(weight.clone()).unwrap();
                // As few as are computed in the same way as all.
                let some = (7..n).find(|some| Way::of(&two, *some, &w) == Way::of(&two, n, &w)).unwrap();
                let few = product(&two, &weight, &x, some);
                assert_eq!(all[..some * rows], few, "{format:?} {isa}: other tokens");
            }
        }
    }
}

/// A broken weight or activation must be seen, and only where it belongs.
#[test]
fn what_is_not_finite_stays_so_and_spoils_nothing_else() {
    let mut random = Random::new(23);
    let (n, rows, cols) = (50, 40, 300);
    for format in formats() {
        let (weight, _) = random_weight(&mut random, format, &[rows, cols]);
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = random.floats(n * cols);
            x[2 * cols + 299] = bad;
            for isa in Cpu::isa_names() {
                let got = product(&cpu(isa, 2, Activations::Int8), &weight, &x, n);
                for (token, got) in got.chunks(rows).enumerate() {
                    let finite = got.iter().all(|y| y.is_finite());
                    assert_eq!(finite, token != 2, "{format:?} {isa} {bad}: token {token}");
                }
            }
        }
    }
}
