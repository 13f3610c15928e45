//! Every fast quantizer against its scalar reference, byte for byte, by a loop over the list.

use super::*;
use std::path::PathBuf;

const COLS: usize = 1024;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// In `-1 .. 1`.
    fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// About normal.
    fn normal(&mut self) -> f32 {
        (0..6).map(|_| self.uniform()).sum::<f32>() * 0.7
    }
}

/// Kinds of rows, the ordinary and the adversarial.
const KINDS: u64 = 20;

fn fill(kind: u64, random: &mut Random, row: &mut [f32]) {
    let anchor = random.normal();
    let tie = (random.below(40) as f32 - 20.0) / 8.0;
    for i in 0..row.len() {
        let (x, one_of) = (random.normal(), random.below(64));
        row[i] = match kind {
            0 => x * 0.02,
            1 => random.uniform(),
            2 => x * 1e-7, // half-precision scales are subnormal or zero
            3 => x * 1e-14,
            4 => x * 1e-39,                                          // subnormal
            5 => f32::from_bits(random.next() as u32 & 0x8000_00ff), // subnormals of a few units
            6 => x * 1e30,
            7 => random.uniform() * f32::MAX,
            8 => {
                if one_of == 0 {
                    x
                } else {
                    0.0
                }
            }
            9 => anchor,
            10 => {
                if random.below(2) == 0 {
                    0.0
                } else {
                    -0.0
                }
            }
            11 => {
                if i % 256 == 77 {
                    1e4 * anchor
                } else {
                    x * 1e-3
                }
            } // one outlier
            12 => f32::from_bits(anchor.to_bits().wrapping_add((one_of % 4) as u32)), // neighbours
            13 => tie * (one_of as f32 - 32.0),                                       // ties of rounding
            14 => {
                if one_of % 2 == 0 {
                    anchor
                } else {
                    -anchor
                }
            } // two largest
            15 => x.abs() + 3.0,
            16 => -x.abs() - 3.0,
            17 => x * [1.0, 1e-3, 1e-6, 1e-9][i / 16 % 4], // groups of different size
            18 => ((i % 32) as f32 - 16.0) * anchor,
            _ => f32::from_bits(random.next() as u32 & 0xbfff_ffff), // any magnitude up to 2
        };
        assert!(row[i].is_finite());
    }
}

fn importance(kind: u64, random: &mut Random, out: &mut [f32]) {
    for (i, o) in out.iter_mut().enumerate() {
        *o = match kind % 7 {
            0 => random.uniform().abs(),
            1 => {
                if random.below(4) == 0 {
                    0.0
                } else {
                    random.normal().powi(2)
                }
            }
            2 => 1.0,
            3 => {
                if i % 64 < 32 {
                    0.0
                } else {
                    1.0
                }
            }
            4 => random.normal().powi(2) * 1e6,
            5 => random.normal().powi(2) * 1e-12,
            _ => {
                if random.below(100) == 0 {
                    1e4
                } else {
                    1e-4
                }
            }
        };
    }
}

#[track_caller]
fn assert_same(fast: &Fast, what: &str, weights: &[f32], importance: Option<&[f32]>) {
    let format = BlockFormat::by_name(fast.format).unwrap();
    let mut bytes = [vec![0x55; format.row_bytes(weights.len()).unwrap()], vec![0xaa; 0]];
    bytes[1] = bytes[0].iter().map(|b| !b).collect();
    (fast.quantize)(weights, importance, &mut bytes[0]);
    (format.quantize.unwrap())(weights, importance, &mut bytes[1]);
    let [ours, scalar] = &bytes;
    if let Some(b) = (0..ours.len()).step_by(format.block_bytes).position(|b| {
        let block = b..b + format.block_bytes;
        ours[block.clone()] != scalar[block]
    }) {
        let block = b * format.block_bytes..(b + 1) * format.block_bytes;
        panic!(
            "{} {what} ({}importance): block {b} differs\n fast   {:02x?}\n scalar {:02x?}\n weights {:?}",
            fast.format,
            if importance.is_some() { "" } else { "no " },
            &ours[block.clone()],
            &scalar[block],
            &weights[b * format.block_weights..][..format.block_weights],
        );
    }
}

#[test]
fn fixtures_give_the_scalar_bytes() {
    let floats = |name: &str| -> Vec<f32> {
        let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "fixtures", "blocks", name].iter().collect();
        std::fs::read(path).unwrap().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    };
    let (input, importance) = (floats("input.f32"), floats("importance.f32"));
    for fast in ALL {
        for (r, row) in input.chunks_exact(importance.len()).enumerate() {
            assert_same(fast, &format!("row {r}"), row, None);
            assert_same(fast, &format!("row {r}"), row, Some(&importance));
        }
    }
}

#[test]
fn strange_rows_give_the_scalar_bytes() {
    for fast in ALL {
        let mut random = Random(u64::from(fast.format.as_bytes()[1]));
        let (mut row, mut weights) = (vec![0.0; COLS], vec![0.0; COLS]);
        for round in 0..KINDS * 7 {
            let kind = round % KINDS;
            // The bytes of different kinds meet in one row too.
            for part in row.chunks_exact_mut(if round % 3 == 0 { 64 } else { COLS }) {
                fill(if round % 3 == 0 { random.below(KINDS) } else { kind }, &mut random, part);
            }
            importance(round / KINDS, &mut random, &mut weights);
            assert_same(fast, &format!("kind {kind}"), &row, None);
            assert_same(fast, &format!("kind {kind}, importance {}", round / KINDS % 7), &row, Some(&weights));
        }
    }
}

#[test]
fn damaged_rows_give_the_scalar_bytes() {
    let mut random = Random(7);
    for fast in ALL {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut row = vec![0.0; 512];
            fill(0, &mut random, &mut row);
            let mut weights = vec![1.0; 512];
            row[random.below(512) as usize] = bad;
            assert_same(fast, "damaged", &row, None);
            assert_same(fast, "damaged", &row, Some(&weights));
            fill(0, &mut random, &mut row);
            weights[random.below(512) as usize] = bad;
            assert_same(fast, "damaged importance", &row, Some(&weights));
        }
    }
}

#[test]
fn all_row_lengths_work() {
    let mut random = Random(9);
    for fast in ALL {
        let block = BlockFormat::by_name(fast.format).unwrap().block_weights;
        for blocks in 0..20 {
            let mut row = vec![0.0; blocks * block];
            fill(0, &mut random, &mut row);
            let weights: Vec<f32> = row.iter().map(|x| x.abs()).collect();
            assert_same(fast, "length", &row, None);
            assert_same(fast, "length", &row, Some(&weights));
        }
    }
}

#[test]
fn the_best_quantizer_is_the_fast_one() {
    for fast in ALL {
        let format = BlockFormat::by_name(fast.format).unwrap();
        assert_eq!(best(format, Isa::Scalar).map(|f| f as usize), format.quantize.map(|f| f as usize));
        if fast.isa.is_here() {
            assert_ne!(best(format, fast.isa).map(|f| f as usize), format.quantize.map(|f| f as usize));
        }
    }
}

/// The codebook's edges against the scalar reference, one unit in the last place around each.
#[cfg(target_arch = "x86_64")]
#[test]
fn edges_of_the_codebook_lie_where_the_scalar_code_changes() {
    let format = BlockFormat::by_name("IQ4_NL").unwrap();
    let (codes, fast) = (format.scalar.unwrap(), ALL.iter().find(|f| f.format == "IQ4_NL").unwrap());
    for edge in &search::EDGES.0[..15] {
        // With -127 as the extreme and all else on levels, the least-squares scale is 1 or nearly: try scales around it.
        for ulps in -40i32..=40 {
            let mut row = [0.0; 32];
            for (i, x) in row.iter_mut().enumerate() {
                *x = codes.levels()[i % 16];
            }
            row[17] = f32::from_bits((edge.to_bits() as i32 + ulps) as u32);
            assert_same(fast, "edge", &row, None);
        }
    }
}

/// Arithmetic that is not compiled for its instruction set gives the right bytes, several times more slowly than the reference. (Where a
/// quantizer gains least, on an Intel server with other work beside it, one run of this was 3% slower than the reference.)
#[test]
fn fast_quantizers_are_no_slower_than_their_references() {
    let mut random = Random(11);
    let mut weights = vec![0.0; 4 * COLS];
    fill(0, &mut random, &mut weights);
    for fast in ALL.iter().filter(|f| f.isa.is_here()) {
        let format = BlockFormat::by_name(fast.format).unwrap();
        let mut out = vec![0; weights.len() / format.block_weights * format.block_bytes];
        // The shortest of several runs: what else the machine does only ever adds.
        let mut shortest = |quantize: QuantizeRow| {
            let run = |_| {
                let start = std::time::Instant::now();
                quantize(&weights, None, &mut out);
                start.elapsed()
            };
            (0..9).map(run).min().unwrap()
        };
        let (ours, reference) = (shortest(fast.quantize), shortest(format.quantize.unwrap()));
        assert!(ours < reference * 3 / 2, "{} {:?}: {ours:?} against {reference:?}", fast.format, fast.isa);
    }
}
