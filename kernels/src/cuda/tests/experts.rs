//! A token through the experts that the device picks, against the same on the CPU, picked here.

use super::engine::{formats, named, oracle_for, random_weight};
use super::*;

/// Weights of all experts.
struct Layer {
    gate: Option<Vec<QTensor>>,
    up: Vec<QTensor>,
    down: Vec<QTensor>,
}

fn upload<B: Backend>(b: &B, tensors: &[QTensor]) -> Vec<B::Weight> {
    tensors.iter().map(|t| b.weight(t.clone()).unwrap()).collect()
}

/// What the device gives, with what was there behind it.
fn mixed(cuda: &Cuda, mixing: Mixing, layer: &Layer, scores: &[f32], x: &[f32]) -> Vec<f32> {
    let gate = layer.gate.as_ref().map(|gate| upload(cuda, gate));
    let (up, down) = (upload(cuda, &layer.up), upload(cuda, &layer.down));
    let (width, hidden) = (down[0].rows, up[0].rows);
    let weights = ExpertWeights {
        gate: gate.as_ref().map(|gate| gate.iter().collect()),
        up: up.iter().collect(),
        down: down.iter().collect(),
    };
    let mixture = cuda.mixture(mixing, &weights).unwrap().expect("kernels for these");
    let buffer = |len| cuda.buffer(len).unwrap();
    let (scores, x, mut out) = (filled(cuda, scores, 0), filled(cuda, x, 1), filled(cuda, &vec![7.0; width + 3], 0));
    let work = MixBuffers {
        picks: &mut buffer(2 * mixing.used),
        gate: &mut buffer(mixing.used * hidden),
        up: &mut buffer(mixing.used * hidden),
        each: &mut buffer(mixing.used * width),
    };
    cuda.mix(&mixture, &scores, &x, work, &mut out).unwrap();
    contents(cuda, &out, width + 3)
}

/// The experts of the largest scores and their factors.
fn picked(mixing: Mixing, scores: &[f32]) -> Vec<(usize, f32)> {
    let exponentials: Vec<f32> = scores.iter().map(|s| s.exp()).collect();
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a])); // stable: of equals the lower number
    order.truncate(mixing.used);
    let among: f32 =
        if mixing.normalize { order.iter().map(|e| exponentials[*e]).sum() } else { exponentials.iter().sum() };
    order.into_iter().map(|e| (e, exponentials[e] / among)).collect()
}

/// The same on the CPU.
fn wanted(cpu: &Cpu, mixing: Mixing, layer: &Layer, scores: &[f32], x: &[f32]) -> Vec<f32> {
    let product = |w: &QTensor, x: &[f32]| {
        let (weight, x, mut out) =
            (cpu.weight(w.clone()).unwrap(), filled(cpu, x, 0), cpu.buffer(w.shape().rows()).unwrap());
        cpu.matmul(&x, 1, &mut [Product { weight: &weight, bias: None, out: &mut out }]).unwrap();
        out
    };
    let (width, hidden) = (layer.down[0].shape().rows(), layer.up[0].shape().rows());
    let mut sum = vec![0.0; width];
    for (e, factor) in picked(mixing, scores) {
        let mut up = product(&layer.up[e], x);
        let hidden_state = match &layer.gate {
            Some(gate) => {
                let mut gate = product(&gate[e], x);
                cpu.gate(mixing.activation, &mut gate, &up, hidden).unwrap();
                gate
            }
            None => {
                cpu.activate(mixing.activation, &mut up, hidden).unwrap();
                up
            }
        };
        let given = contents(cpu, &product(&layer.down[e], &contents(cpu, &hidden_state, hidden)), width);
        sum.iter_mut().zip(given).for_each(|(s, g)| *s += factor * g);
    }
    sum
}

/// Between the products there are exponentials, whose last bits decide how a number halfway between two codes is rounded: one
/// step of 127 of the largest, for single terms of the sum.
const ALLOWED: f32 = 4e-3;

#[test]
fn experts_in_every_format() {
    let Some(cuda) = cuda() else { return };
    let mut random = Random::new(21);
    let q8 = block::BlockFormat::by_name("Q8_0").unwrap();
    each(formats(), named, |format| {
        let unit = if format.block_weights == 1 { 40 } else { format.block_weights };
        // A format that goes with it: activations are rounded for both or for neither.
        let other = if format.is_quantized() { q8 } else { &block::F32 };
        // Gate and up in one launch, in two, no gate; some of the experts, all of them, one of more than there are lanes.
        for (gate, count, used, width, hidden) in
            [(Some(format), 5, 2, unit, unit), (Some(other), 2, 2, unit, unit), (None, 37, 1, unit, 2 * unit)]
        {
            let mut stack = |format, rows, cols| -> Vec<QTensor> {
                // Two kinds are enough to tell experts apart; quantizing is slow.
                let kinds = [(); 2].map(|()| random_weight(&mut random, format, &[rows, cols]));
                (0..count).map(|e| kinds[e % 2].clone()).collect()
            };
            let layer = Layer {
                gate: gate.map(|format| stack(format, hidden, width)),
                up: stack(format, hidden, width),
                down: stack(format, width, hidden),
            };
            let mixing = Mixing { used, normalize: used != 1, activation: Activation::Silu };
            let (scores, x) = (random.floats(count), random.floats(width));
            let got = mixed(&cuda, mixing, &layer, &scores, &x);
            let want = wanted(&oracle_for(format), mixing, &layer, &scores, &x);
            agree(&got[..width], &want, ALLOWED, &format!("{}, {used} of {count} experts", format.name));
            assert_eq!(got[width..], [7.0; 3], "wrote behind the result");
        }
    });
}

/// Experts that multiply by their number: what comes out tells who was picked, and with what factor.
#[test]
fn the_picks_are_the_hosts() {
    let Some(cuda) = cuda() else { return };
    let one =
        |value: f32| QTensor::new(&block::F32, Shape::new(&[1, 1]).unwrap(), value.to_le_bytes().to_vec()).unwrap();
    let mut random = Random::new(22);
    for (count, used) in [(1, 1), (2, 1), (8, 2), (33, 8), (60, 4), (128, 8), (1024, 40)] {
        let layer = Layer {
            gate: None,
            up: vec![one(1.0); count],
            down: (0..count).map(|e| one((e * e % 1009) as f32 + 1.0)).collect(),
        };
        for normalize in [false, true] {
            let mixing = Mixing { used, normalize, activation: Activation::Relu };
            // Of equals the lower numbers; large ones, whose exponentials overflow unless the largest is subtracted.
            for scores in [random.floats(count), vec![0.25; count]] {
                let want = wanted(&oracle(), mixing, &layer, &scores, &[1.0]);
                agree(&mixed(&cuda, mixing, &layer, &scores, &[1.0])[..1], &want, 1e-5, &format!("{used} of {count}"));
                let larger: Vec<f32> = scores.iter().map(|s| s + 1000.0).collect();
                agree(&mixed(&cuda, mixing, &layer, &larger, &[1.0])[..1], &want, 1e-3, "larger scores");
            }
            // A broken model is told by its results, and nothing else is read or written.
            for (broken, at) in [(f32::NAN, 0), (f32::NAN, count - 1), (f32::INFINITY, count / 2)] {
                let mut scores = random.floats(count);
                scores[at] = broken;
                let got = mixed(&cuda, mixing, &layer, &scores, &[1.0]);
                assert!(got[0].is_nan() || broken.is_nan() && normalize, "{broken} at {at} of {count}: {}", got[0]);
                assert_eq!(got[1..], [7.0; 3]);
            }
        }
    }
}

#[test]
fn too_many_experts_are_the_hosts() {
    let Some(cuda) = cuda() else { return };
    let one = cuda.weight(QTensor::new(&block::F32, Shape::new(&[1, 1]).unwrap(), vec![0; 4]).unwrap()).unwrap();
    let of = |count| ExpertWeights { gate: None, up: vec![&one; count], down: vec![&one; count] };
    let mixing = Mixing { used: 1, normalize: true, activation: Activation::Silu };
    assert!(cuda.mixture(mixing, &of(1024)).unwrap().is_some());
    assert!(cuda.mixture(mixing, &of(1025)).unwrap().is_none());
}
