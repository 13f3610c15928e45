//! The methods against small references that were written straight from the papers: `fixtures/methods`.

use super::descent::Rows;
use super::{adaround, hqq, int8, nf4};
use crate::calibrate::Hessian;
use qconv_formats::block::{BlockFormat, Grid, ScalarCodes};
use safetensors::SafeTensors;

const ROWS: usize = 16;
const COLS: usize = 128;
const INPUTS: usize = 400;

/// `reference.py`'s numbers.
fn lcg(seed: u64, n: usize) -> Vec<f64> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / f64::from(1 << 24) - 0.5
    };
    (0..n).map(|_| next()).collect()
}

fn layer() -> (Vec<f32>, Hessian) {
    let weights = lcg(1, ROWS * COLS).into_iter().map(|x| x as f32).collect();
    let x = lcg(2, INPUTS * COLS);
    let input = |i: usize| {
        let (row, c) = (&x[i / COLS * COLS..][..COLS], i % COLS);
        let mixed = row[c] + 0.8 * row[(c + COLS - 1) % COLS] + 0.4 * row[(c + COLS - 5) % COLS];
        (mixed * (0.25 + (c * 37 % 64) as f64 / 16.0)) as f32
    };
    let mut hessian = Hessian::new(COLS);
    hessian.add(&(0..INPUTS * COLS).map(input).collect::<Vec<_>>());
    (weights, hessian)
}

struct Reference(serde_json::Value);

impl Reference {
    fn read() -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/methods/reference.json");
        Reference(serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap())
    }

    fn number(&self, key: &str) -> f64 {
        self.0[key].as_f64().unwrap()
    }

    fn list(&self, key: &str) -> Vec<f64> {
        self.0[key].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
    }

    fn grids(&self, scalar: &dyn ScalarCodes) -> Vec<Grid> {
        self.list("scales").iter().map(|s| scalar.grid(&[*s as f32], &[], None)).collect()
    }
}

fn q4_0() -> (&'static BlockFormat, &'static dyn ScalarCodes) {
    let format = BlockFormat::by_name("Q4_0").unwrap();
    (format, format.scalar.unwrap())
}

#[test]
fn gptq_picks_the_reference_s_codes() {
    let (reference, (weights, hessian), (format, scalar)) = (Reference::read(), layer(), q4_0());
    let problem = hessian.quadratic().unwrap();
    let grids = reference.grids(scalar);
    let mut rows = Rows::with(problem, format, scalar, &weights, grids, vec![0; weights.len()]);
    rows.feed_back();
    let want: Vec<u8> = reference.list("gptq").iter().map(|c| *c as u8).collect();
    assert_eq!(rows.codes, want);
    rows.evaluate();
    let loss: f64 = rows.losses().sum();
    assert!((loss / reference.number("loss_gptq") - 1.0).abs() < 1e-4, "{loss}");
}

#[test]
fn descent_only_improves() {
    let (reference, (weights, hessian), (format, scalar)) = (Reference::read(), layer(), q4_0());
    let problem = hessian.quadratic().unwrap();
    let mut rows = Rows::with(problem, format, scalar, &weights, reference.grids(scalar), vec![0; weights.len()]);
    rows.feed_back();
    rows.evaluate();
    let mut before: Vec<f64> = rows.losses().collect();
    for grids in [false, true, true] {
        rows.improve(grids);
        let after: Vec<f64> = rows.losses().collect();
        assert!(after.iter().zip(&before).all(|(a, b)| *a <= b * (1.0 + 1e-4)), "{after:?} {before:?}");
        before = after;
        // What it believes is what is there.
        let believed: f64 = rows.losses().sum();
        rows.evaluate();
        assert!((rows.losses().sum::<f64>() / believed - 1.0).abs() < 1e-3);
    }
    let loss: f64 = before.iter().sum();
    assert!(loss < 0.9 * reference.number("loss_gptq"), "{loss}");
}

#[test]
fn adaround_loses_no_more_than_the_reference() {
    let (reference, (weights, hessian), (format, scalar)) = (Reference::read(), layer(), q4_0());
    let problem = hessian.quadratic().unwrap();
    let mut rows = Rows::with(problem, format, scalar, &weights, reference.grids(scalar), vec![0; weights.len()]);
    adaround::learn(problem, &weights, &mut rows);
    rows.evaluate();
    let loss: f64 = rows.losses().sum();
    let (learned, plain) = (reference.number("loss_adaround"), reference.number("loss_plain"));
    assert!(loss <= 1.02 * learned && learned < plain, "{loss} {learned} {plain}");
    rows.improve(false);
    let loss: f64 = rows.losses().sum();
    assert!(loss <= learned, "{loss} {learned}");
}

#[test]
fn hqq_loses_no_more_than_the_reference() {
    let (weights, _) = layer();
    let format = BlockFormat::by_name("Q4_1").unwrap();
    let mut packed = vec![0; ROWS * format.row_bytes(COLS).unwrap()];
    hqq::rows(format, COLS, &weights, None, &mut packed);
    let mut back = vec![0f32; weights.len()];
    (format.dequantize.unwrap())(&packed, &mut back);
    let norm: f64 = weights.iter().zip(&back).map(|(x, y)| f64::from((x - y).abs()).powf(0.75)).sum();
    let reference = Reference::read().number("norm_hqq");
    assert!(norm <= reference, "{norm} {reference}");
}

/// What a library made of its own codes: `fixtures/packed`.
fn decoded_by_library(folder: &str) -> (Vec<f32>, usize) {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/packed");
    let bytes = std::fs::read(root.join(folder).join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let expected = tensors.tensor("expected").unwrap();
    let floats = expected.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    (floats, expected.shape()[1])
}

/// What bitsandbytes gave back for its own codes is on the grid, so that rounding changes nothing.
fn stays(folder: &str, round: fn(&mut [f32]), most: f32) {
    let (weights, cols) = decoded_by_library(folder);
    for row in weights.chunks_exact(cols) {
        let mut rounded = row.to_vec();
        round(&mut rounded);
        let largest = row.iter().fold(0f32, |m, w| m.max(w.abs()));
        let worst = rounded.iter().zip(row).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < most * largest, "{folder}: {worst:e} of {largest}");
    }
}

#[test]
fn what_bitsandbytes_decoded_stays() {
    stays("bitsandbytes-nf4", nf4::round, 1e-6);
    stays("bitsandbytes-int8", int8::round, 1e-3);
}

/// Feedback from block to block, with a quantizer that rounds to whole numbers, against all choices within one of the weights.
#[test]
fn blocks_make_up_for_the_blocks_before() {
    let (weights, hessian) = layer();
    let row: Vec<f32> = weights[..COLS].iter().map(|w| 8.0 * w).collect();
    let problem = hessian.quadratic().unwrap();
    let round = |targets: &[f32], values: &mut [f32]| values.iter_mut().zip(targets).for_each(|(v, t)| *v = t.round());
    let loss = |values: &[f32]| {
        let errors: Vec<f32> = row.iter().zip(values).map(|(w, v)| w - v).collect();
        problem.loss(&errors)
    };
    let mut plain = vec![0f32; COLS];
    round(&row, &mut plain);
    // Here columns depend on near ones: blocks of 32 gain little, single columns much.
    for (block, most) in [(32, 1.0), (1, 0.9)] {
        let (mut values, mut seen) = (vec![0f32; COLS], Vec::new());
        problem.in_blocks(block).unwrap().feed_back_blocks(block, &row, |b, targets, costs, out| {
            assert!(costs.iter().all(|c| *c > 0.0));
            round(targets, out);
            values[b * block..(b + 1) * block].copy_from_slice(out);
            seen.push(b);
        });
        seen.sort_unstable();
        assert_eq!(seen, (0..COLS / block).collect::<Vec<_>>());
        assert!(loss(&values) < most * loss(&plain), "{block}: {} {}", loss(&values), loss(&plain));
    }
    // A quantizer without errors leaves nothing to make up for.
    problem.in_blocks(32).unwrap().feed_back_blocks(32, &row, |b, targets, _, out| {
        let off = targets.iter().zip(&row[b * 32..]).map(|(t, w)| (t - w).abs()).fold(0.0, f32::max);
        assert!(off < 1e-6, "{off}");
        out.copy_from_slice(targets);
    });
}
