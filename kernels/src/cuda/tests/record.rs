//! A recorded token does at other positions what the plain one does.

use super::*;
use crate::RopeStyle;
use crate::split::Split;

/// Feeds tokens one by one through embedding, rotation, cache and attention; the last result of each, and how often the step ran.
/// `table` holds a row for each token, `learned` one for each position.
fn feed<B: Backend>(b: &B, table: &QTensor, learned: &QTensor, tokens: &[u32]) -> (Vec<f32>, usize) {
    let (heads, dim, cols) = (2, 8, 16);
    let (table, learned) = (b.weight(table.clone()).unwrap(), b.weight(learned.clone()).unwrap());
    let shape = CacheShape { layers: 1, positions: tokens.len(), kv_heads: heads, key_width: cols, value_width: cols };
    let mut cache = b.cache(shape).unwrap();
    let rope = Rope { style: RopeStyle::Neox, frequencies: vec![1.0, 0.1, 0.01], magnitude: 1.0 };
    let shape =
        Attention { heads, kv_heads: heads, key_dim: dim, value_dim: dim, scale: 0.5, window: None, soft_cap: None };
    let buffer = || b.buffer(cols).unwrap();
    let (mut x, mut place, mut out) = (buffer(), buffer(), buffer());
    let mut recording = B::Recording::default();
    let (mut results, mut runs) = (Vec::new(), 0);
    for (start, &token) in tokens.iter().enumerate() {
        let mut step = || {
            runs += 1;
            b.embed(&table, &[token], &mut x)?;
            b.embed_position(&learned, start, &mut place)?;
            b.add(&mut x, &place, cols)?;
            b.rope(&rope, &mut x, 1, heads, dim, start)?;
            b.store(&mut cache, 0, &x, &x, start, 1)?;
            b.attention(&shape, &x, &cache, 0, start, 1, &mut out)
        };
        b.repeat(&mut recording, Some((&[token], start)), &mut step).unwrap();
        results.extend(contents(b, &out, cols));
    }
    (results, runs)
}

/// A table of rows of 16 floats.
fn rows_of_floats(random: &mut Random, rows: usize) -> QTensor {
    let bytes: Vec<u8> = random.floats(rows * 16).iter().flat_map(|x| x.to_le_bytes()).collect();
    QTensor::new(&block::F32, Shape::new(&[rows, 16]).unwrap(), bytes).unwrap()
}

#[test]
fn recorded_tokens_are_the_plain_ones() {
    let Some(cuda) = cuda() else { return };
    let mut random = Random::new(7);
    let (table, learned) = (rows_of_floats(&mut random, 11), rows_of_floats(&mut random, 140));
    let tokens: Vec<u32> = (0..140).map(|i| i * 7 % 11).collect();
    let (got, runs) = feed(&cuda, &table, &learned, &tokens);
    let (want, all) = feed(&oracle(), &table, &learned, &tokens);
    agree(&got, &want, 2e-3, "recorded tokens"); // the cache is in half precision in both, rounded from different sines
    // Plainly, recorded, and recorded anew for more than 128 positions; elsewhere replayed.
    assert_eq!((runs, all), (3, 140));
}

#[test]
fn what_cannot_be_recorded_runs_every_time() {
    let Some(cuda) = cuda() else { return };
    let mut buffer = cuda.buffer(4).unwrap();
    let mut recording = Recording::default();
    for i in 0..8 {
        let value = [i as f32; 4];
        cuda.repeat(&mut recording, None, &mut || cuda.write(&value, &mut buffer)).unwrap();
        assert_eq!(contents(&cuda, &buffer, 4), value);
    }
}

/// A token in two places, in norms of a layer on each: what comes out, token by token, and whether that is all there is. `back`: the
/// first place goes on with what the second has made, and the second with that.
fn in_two_places(split: &Split<Cpu, Cuda>, tokens: &[f32], back: bool) -> Vec<Result<Vec<f32>>> {
    let ones = |layer| {
        let bytes: Vec<u8> = [1.5f32; 32].iter().flat_map(|x| x.to_le_bytes()).collect();
        split.weight_of(Some(layer), QTensor::new(&block::F32, Shape::new(&[32]).unwrap(), bytes).unwrap()).unwrap()
    };
    let (here, there) = (ones(0), ones(1));
    let buffer = || split.buffer(32).unwrap();
    let (mut x, mut y, mut z, mut recording) = (buffer(), buffer(), buffer(), Default::default());
    let norm = |weight, x: &_, out: &mut _| split.norm(Norm::Rms, 1e-5, weight, None, x, out, 1, 32);
    let token = |&token: &f32| {
        let numbers: Vec<f32> = (0..32).map(|i| (i as f32 * token).sin()).collect();
        split.repeat(&mut recording, Some((&[0], 0)), &mut || {
            split.write(&numbers, &mut x)?;
            norm(&here, &x, &mut y)?;
            norm(&there, &y, &mut z)?;
            split.scale(&mut z, 3.0, 32)?;
            if back && token != 0.5 {
                norm(&here, &z, &mut y)?;
                norm(&there, &y, &mut z)?;
            }
            Ok(())
        })?;
        Ok(contents(split, &z, 32))
    };
    tokens.iter().map(token).collect()
}

#[test]
fn what_is_recorded_of_two_places_is_the_second() {
    let (Some(cuda), Some(mut plain)) = (cuda(), cuda()) else { return };
    plain.device.tune().graphs = false;
    let [cuda, plain] = [cuda, plain].map(|cuda| Split::new(oracle(), cuda, 1));
    let all = |split: &_, tokens: &[f32], back| -> Vec<Vec<f32>> {
        in_two_places(split, tokens, back).into_iter().map(Result::unwrap).collect()
    };
    let tokens: Vec<f32> = (1..8).map(|i| i as f32).collect();
    // Replayed behind the first two, and never: copies on the way cannot be recorded.
    for back in [false, true] {
        assert_eq!(all(&cuda, &tokens, back), all(&plain, &tokens, back), "back: {back}");
    }
    // Another step than was recorded: said, not computed from what was there before.
    let other = in_two_places(&cuda, &[0.5, 0.5, 0.5, 1.0, 0.5], true);
    assert_eq!(other.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, true, false, true]);
    assert!(other[3].as_ref().unwrap_err().to_string().contains("before their activations were there"));
}

/// Three sequences, a token of each at a time: what attention gives at every position, and how often the step ran.
fn side_by_side(cuda: &Cuda, table: &QTensor) -> (Vec<f32>, usize) {
    let (heads, dim, cols, count, steps) = (2, 8, 16, 3, 9);
    let table = cuda.weight(table.clone()).unwrap();
    let shape = CacheShape { layers: 1, positions: steps, kv_heads: heads, key_width: cols, value_width: cols };
    let mut caches: Vec<_> = (0..count).map(|_| cuda.cache(shape).unwrap()).collect();
    let rope = Rope { style: RopeStyle::Neox, frequencies: vec![1.0, 0.1, 0.01], magnitude: 1.0 };
    let shape =
        Attention { heads, kv_heads: heads, key_dim: dim, value_dim: dim, scale: 0.5, window: None, soft_cap: None };
    let [mut q, mut k, mut v, mut out] = [(); 4].map(|()| cuda.buffer(count * cols).unwrap());
    let (mut recording, mut results, mut runs) = (Recording::default(), Vec::new(), 0);
    for start in 0..steps {
        let tokens: Vec<u32> = (0..count).map(|i| ((start * 7 + i * 3) % 11) as u32).collect();
        let mut step = || {
            runs += 1;
            for x in [&mut q, &mut k, &mut v] {
                cuda.embed(&table, &tokens, x)?;
            }
            let mut caches: Vec<_> = caches.iter_mut().collect();
            cuda.attend_each(Some(&rope), &shape, &mut q, &mut k, &v, &mut caches, 0, start, 1, &mut out)
        };
        cuda.repeat(&mut recording, Some((&tokens, start)), &mut step).unwrap();
        results.extend(contents(cuda, &out, count * cols));
    }
    (results, runs)
}

#[test]
fn tokens_of_several_sequences_are_recorded() {
    let (Some(cuda), Some(mut plain)) = (cuda(), cuda()) else { return };
    plain.device.tune().graphs = false;
    let table = rows_of_floats(&mut Random::new(11), 11);
    let (got, runs) = side_by_side(&cuda, &table);
    let (want, all) = side_by_side(&plain, &table);
    assert_eq!(got, want);
    assert_eq!((runs, all), (2, 9));
}

#[test]
fn kernels_are_timed_when_asked() {
    let Some(cuda) = cuda() else { return };
    let mut x = cuda.buffer(1000).unwrap();
    cuda.scale(&mut x, 2.0, 1000).unwrap();
    assert_eq!(cuda.kernel_times().unwrap(), []);
    cuda.start_profile();
    for _ in 0..3 {
        cuda.scale(&mut x, 2.0, 1000).unwrap();
    }
    cuda.soft_cap(&mut x, 2.0, 10).unwrap();
    let mut times = cuda.kernel_times().unwrap();
    times.sort_by_key(|t| t.launches);
    assert_eq!(times.iter().map(|t| (&*t.kernel, t.launches)).collect::<Vec<_>>(), [("soft_cap", 1), ("scale", 3)]);
    assert!(times.iter().all(|t| t.seconds > 0.0));
    assert!(cuda.read_bandwidth().unwrap() > 0.1);
}
