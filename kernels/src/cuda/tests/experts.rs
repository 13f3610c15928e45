//! Tokens through the experts that the device picks, against the same on the CPU, picked here.

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

/// What the device gives for some tokens, with what was there behind it.
fn mixed(cuda: &Cuda, mixing: Mixing, layer: &Layer, scores: &[f32], x: &[f32]) -> Vec<f32> {
    let gate = layer.gate.as_ref().map(|gate| upload(cuda, gate));
    let (up, down) = (upload(cuda, &layer.up), upload(cuda, &layer.down));
    let (width, hidden, n) = (down[0].rows, up[0].rows, scores.len() / up.len());
    let weights = ExpertWeights {
        gate: gate.as_ref().map(|gate| gate.iter().collect()),
        up: up.iter().collect(),
        down: down.iter().collect(),
    };
    let mixture = cuda.mixture(mixing, &weights).unwrap().expect("kernels for these");
    let buffer = |len| cuda.buffer(n * mixing.used * len).unwrap();
    let (scores, x, mut out) =
        (filled(cuda, scores, 0), filled(cuda, x, 1), filled(cuda, &vec![7.0; n * width + 3], 0));
    let work = MixBuffers {
        picks: &mut buffer(2),
        gate: &mut buffer(hidden),
        up: &mut buffer(hidden),
        each: &mut buffer(width),
    };
    cuda.mix(&mixture, &scores, &x, n, work, &mut out).unwrap();
    contents(cuda, &out, n * width + 3)
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

/// The same on the CPU, one token after the other.
fn wanted(cpu: &Cpu, mixing: Mixing, layer: &Layer, scores: &[f32], x: &[f32]) -> Vec<f32> {
    let (count, width) = (layer.up.len(), layer.up[0].shape().cols());
    let rows = scores.chunks(count).zip(x.chunks(width));
    rows.flat_map(|(scores, x)| wanted_of_one(cpu, mixing, layer, scores, x)).collect()
}

fn wanted_of_one(cpu: &Cpu, mixing: Mixing, layer: &Layer, scores: &[f32], x: &[f32]) -> Vec<f32> {
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

/// The same with many tokens, whose activations are rounded to the 11 or 8 bits of 16-bit weights, twice.
fn allowed(format: &block::BlockFormat, n: usize) -> f32 {
    match format.name {
        "BF16" if n > 1 => 3e-2,
        _ => ALLOWED,
    }
}

/// Random weights of `count` experts.
fn stack(
    random: &mut Random,
    format: &'static block::BlockFormat,
    count: usize,
    rows: usize,
    cols: usize,
) -> Vec<QTensor> {
    // Three kinds are enough to tell experts apart; quantizing is slow.
    let kinds = [(); 3].map(|()| random_weight(random, format, &[rows, cols]));
    (0..count).map(|e| kinds[e % 3].clone()).collect()
}

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
            let layer = Layer {
                gate: gate.map(|format| stack(&mut random, format, count, hidden, width)),
                up: stack(&mut random, format, count, hidden, width),
                down: stack(&mut random, format, count, width, hidden),
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

/// Several tokens: pair by pair, and sorted by expert in narrow and wide tiles, with experts that nobody picks and with one that all do.
#[test]
fn prompts_in_every_format() {
    let Some(cuda) = cuda() else { return };
    let mut random = Random::new(23);
    let q8 = block::BlockFormat::by_name("Q8_0").unwrap();
    each(formats(), named, |format| {
        let unit = if format.block_weights == 1 { 40 } else { format.block_weights };
        let other = if format.is_quantized() { q8 } else { &block::F16 };
        for (gate, count, used, n, loved) in [
            (Some(format), 12, 3, 3, 0.0), // nine pairs of twelve experts
            (Some(format), 3, 2, 19, 0.0),
            (Some(other), 5, 3, 7, 9.0), // expert 1 is picked by all, and others by few
            (None, 6, 1, 21, 9.0),       // nobody but expert 1 is picked
            (Some(format), 2, 1, 69, 1.0),
        ] {
            let (width, hidden) = (unit, if gate.is_none() { 2 * unit } else { unit });
            let layer = Layer {
                gate: gate.map(|format| stack(&mut random, format, count, hidden, width)),
                up: stack(&mut random, format, count, hidden, width),
                down: stack(&mut random, format, count, width, hidden),
            };
            let mixing = Mixing { used, normalize: used != 1, activation: Activation::Silu };
            let (mut scores, x) = (random.floats(n * count), random.floats(n * width));
            scores.chunks_mut(count).for_each(|scores| scores[1] += loved);
            let got = mixed(&cuda, mixing, &layer, &scores, &x);
            let want = wanted(&oracle_for(format), mixing, &layer, &scores, &x);
            let what = format!("{}, {n} tokens, {used} of {count} experts", format.name);
            for (row, (got, want)) in got.chunks(width).zip(want.chunks(width)).enumerate() {
                agree(got, want, allowed(format, n), &format!("{what}, row {row}"));
            }
            assert_eq!(got[n * width..], [7.0; 3], "{what}: wrote behind the result");
        }
    });
}

/// As many launches whoever is picked, and the same bits every time.
#[test]
fn a_prompts_launches_do_not_depend_on_who_is_picked() {
    let Some(cuda) = cuda() else { return };
    let mut random = Random::new(24);
    let format = block::BlockFormat::by_name("Q4_K").unwrap();
    let (count, used, n, unit) = (9, 2, 23, 256);
    let layer = Layer {
        gate: Some(stack(&mut random, format, count, unit, unit)),
        up: stack(&mut random, format, count, unit, unit),
        down: stack(&mut random, format, count, unit, unit),
    };
    let mixing = Mixing { used, normalize: true, activation: Activation::Silu };
    let x = random.floats(n * unit);
    for scores in [random.floats(n * count), vec![0.0; n * count]] {
        cuda.start_profile();
        let first = mixed(&cuda, mixing, &layer, &scores, &x);
        let times = cuda.kernel_times().unwrap();
        let launches: usize = times.iter().map(|k| k.launches).sum();
        let names: Vec<_> = times.into_iter().map(|k| k.kernel).collect();
        // Rounding, twice: nothing else has done it here. Sorting, one product of gate and up, one of down, and what is between.
        assert_eq!(launches, 9, "{names:?}");
        assert!(names.iter().any(|k| k == "matmul16_Q4_K"), "{names:?}");
        let again = mixed(&cuda, mixing, &layer, &scores, &x);
        assert!(first.iter().zip(&again).all(|(a, b)| a.to_bits() == b.to_bits()));
    }
}

/// Any picks: every pair in a tile of its expert, once, in order; and no tile but those that there is room for.
#[test]
fn pairs_are_shared_out_in_order() {
    let Some(cuda) = cuda() else { return };
    let mut random = Random::new(25);
    for (pairs, experts, tile) in [
        (1, 1, 16),
        (16, 1, 16),
        (17, 2, 16),
        (300, 7, 16),
        (513, 129, 64),
        (640, 5, 128),
        (2000, 3, 64),
        (255, 1024, 16),
    ] {
        for crowd in [1, experts] {
            let picks: Vec<usize> = (0..pairs).map(|_| random.next() as usize % crowd * (experts / crowd)).collect();
            let slots = pairs / tile + experts;
            let bits: Vec<f32> = picks.iter().map(|p| f32::from_bits(*p as u32)).collect();
            let given = filled(&cuda, &bits, 0);
            let [mut order, mut places, mut tiles] =
                [pairs, pairs, 3 * slots].map(|len| filled(&cuda, &vec![-1.0; len], 0));
            let launch = cuda.device.launch("share_out").floats(&given, pairs).floats_mut(&mut order, pairs);
            let launch = launch.floats_mut(&mut places, pairs).floats_mut(&mut tiles, 3 * slots);
            launch.int(pairs).int(tile).run((experts, 1, 1), (256, 1, 1), 0).unwrap();
            let ints = |buffer, len| -> Vec<usize> {
                contents(&cuda, buffer, len).into_iter().map(|x| x.to_bits() as usize).collect()
            };
            let mut sorted: Vec<usize> = (0..pairs).collect();
            sorted.sort_by_key(|p| picks[*p]); // stable
            let order = ints(&order, pairs);
            let what = format!("{pairs} pairs, {experts} experts, tiles of {tile}");
            assert_eq!(order, sorted, "{what}");
            assert!(ints(&places, pairs).iter().enumerate().all(|(pair, place)| order[*place] == pair), "{what}");
            let mut next = 0;
            for of in ints(&tiles, 3 * slots).chunks(3) {
                let (expert, first, end) = (of[0], of[1], of[2]);
                if first == end {
                    continue;
                }
                assert!(first == next && end - first <= tile && end <= pairs, "{what}: {first} .. {end} behind {next}");
                assert!(order[first..end].iter().all(|p| picks[*p] == expert), "{what}");
                next = end;
            }
            assert_eq!(next, pairs, "{what}");
        }
    }
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
