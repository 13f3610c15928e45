//! Every block format against ggml's own bytes (`fixtures/blocks`), by a loop over the list of formats.
#![allow(clippy::unwrap_used)] // helpers of tests are not recognised as tests

use qconv_formats::block::{self, BlockFormat, Importance};
use std::path::PathBuf;

/// Columns of the reference input.
const COLS: usize = 512;
/// What row `r` of the reference input is, by `r % 12`.
const KINDS: usize = 12;

fn fixture(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "fixtures", "blocks", name].iter().collect()
}

fn floats(name: &str) -> Vec<f32> {
    let bytes = std::fs::read(fixture(name)).unwrap();
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn quantize(format: &BlockFormat, weights: &[f32], importance: Option<&[f32]>, cols: usize) -> Vec<u8> {
    let row = format.row_bytes(cols).unwrap();
    let mut out = vec![0xaa; weights.len() / cols * row]; // not zero: quantizers must write every byte
    for (weights, out) in weights.chunks_exact(cols).zip(out.chunks_exact_mut(row)) {
        (format.quantize.unwrap())(weights, importance, out);
    }
    out
}

/// Panics at the first block that differs, naming its row's kind.
fn assert_same(format: &BlockFormat, what: &str, ours: &[u8], reference: &[u8]) {
    assert_eq!(ours.len(), reference.len(), "{format:?} {what}: length");
    let differ: Vec<usize> = (0..ours.len() / format.block_bytes)
        .filter(|b| {
            ours[b * format.block_bytes..][..format.block_bytes]
                != reference[b * format.block_bytes..][..format.block_bytes]
        })
        .collect();
    if let Some(&b) = differ.first() {
        let range = b * format.block_bytes..(b + 1) * format.block_bytes;
        let row = b / (COLS / format.block_weights);
        panic!(
            "{format:?} {what}: {} of {} blocks differ, first block {b} in row {row} (kind {})\n ours {:02x?}\n ggml {:02x?}",
            differ.len(),
            ours.len() / format.block_bytes,
            row % KINDS,
            &ours[range.clone()],
            &reference[range]
        );
    }
}

#[test]
fn quantizers_give_the_reference_bytes() {
    let input = floats("input.f32");
    let importance = floats("importance.f32");
    for format in block::ALL.iter().filter(|f| f.quantize.is_some() && **f != &block::F32) {
        let plain = quantize(format, &input, None, COLS);
        let weighted = quantize(format, &input, Some(&importance), COLS);
        let read = |suffix: &str| std::fs::read(fixture(&format!("{}{suffix}", format.name)));
        match read(".bin") {
            Ok(reference) => assert_same(format, "without importance", &plain, &reference),
            Err(_) => assert_eq!(format.importance, Importance::Required, "{format:?} has no reference bytes"),
        }
        match read(".importance.bin") {
            Ok(reference) => assert_same(format, "with importance", &weighted, &reference),
            Err(_) => assert_eq!(format.importance, Importance::Unused, "{format:?} has no bytes with importance"),
        }
        if format.importance == Importance::Unused {
            assert_same(format, "importance is unused", &weighted, &plain);
        }
    }
}

#[test]
fn f32_is_a_copy() {
    let input = floats("input.f32");
    assert_eq!(quantize(&block::F32, &input, None, COLS), std::fs::read(fixture("input.f32")).unwrap());
}

/// Standard normal numbers, always the same: SplitMix64 and Box-Muller.
fn normals(n: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    };
    (0..n)
        .map(|_| ((-2.0 * (1.0 - uniform()).ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()) as f32)
        .collect()
}

fn dequantize(format: &BlockFormat, bytes: &[u8], cols: usize) -> Vec<f32> {
    let row = format.row_bytes(cols).unwrap();
    let mut out = vec![f32::NAN; bytes.len() / row * cols];
    for (bytes, out) in bytes.chunks_exact(row).zip(out.chunks_exact_mut(cols)) {
        (format.dequantize.unwrap())(bytes, out);
    }
    out
}

#[test]
fn dequantizers_give_the_reference_floats() {
    let goldens = std::fs::read_to_string(fixture("dequantized.fnv")).unwrap();
    let mut seen = Vec::new();
    for line in goldens.lines() {
        let (file, golden) = line.split_once(' ').unwrap();
        let name = file.split('.').next().unwrap();
        let Some(format) = BlockFormat::by_name(name) else { panic!("{name} is in the goldens, not in the list") };
        let floats = dequantize(format, &std::fs::read(fixture(file)).unwrap(), COLS);
        let digest = floats.iter().flat_map(|x| x.to_le_bytes()).fold(0xcbf2_9ce4_8422_2325, |digest: u64, byte| {
            (digest ^ byte as u64).wrapping_mul(0x0100_0000_01b3) // FNV-1a
        });
        assert_eq!(format!("{digest:016x}"), golden, "{file}");
        seen.push(format);
    }
    for format in block::ALL.iter().filter(|f| f.dequantize.is_some()) {
        assert!(seen.contains(format) || format.name == "F32" || format.name == "F64", "{format:?} has no golden");
    }
}

#[test]
fn list_is_sorted_and_names_are_found() {
    assert!(block::ALL.is_sorted_by(|a, b| a.ggml_id < b.ggml_id));
    for format in block::ALL {
        assert_eq!(BlockFormat::by_id(format.ggml_id), Some(*format));
        assert_eq!(BlockFormat::by_name(&format.name.to_lowercase()), Some(*format));
    }
}

#[test]
fn rows_are_whole_blocks() {
    for format in block::ALL {
        assert_eq!(format.row_bytes(format.block_weights * 3), Some(format.block_bytes * 3), "{format:?}");
        if format.is_quantized() {
            for cols in [1, format.block_weights - 1, format.block_weights + 1] {
                assert_eq!(format.row_bytes(cols), None, "{format:?}");
            }
        }
    }
    assert_eq!(block::F32.row_bytes(usize::MAX), None, "more bytes than can be counted");
}

/// Blocks of all reference files, and of random bytes.
fn blocks_of(format: &BlockFormat) -> Vec<u8> {
    let mut bytes: Vec<u8> = normals(400 * format.block_bytes).iter().map(|x| (x * 1000.0) as i32 as u8).collect();
    for suffix in [".bin", ".importance.bin"] {
        bytes.extend(std::fs::read(fixture(&format!("{}{suffix}", format.name))).unwrap_or_default());
    }
    bytes
}

fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

#[test]
fn values_are_what_readers_see() {
    for format in block::ALL {
        let Some(scalar) = format.scalar else { continue };
        let mut codes = vec![0; format.block_weights];
        for block in blocks_of(format).chunks_exact(format.block_bytes) {
            let floats = dequantize(format, block, format.block_weights);
            let grid = scalar.unpack(block, &mut codes);
            for (i, (&code, &float)) in codes.iter().zip(&floats).enumerate() {
                let value = scalar.value(&grid, i, code);
                assert!(same(value, float), "{format:?}: {value} at {i}, read as {float}");
                // The nearest code to a value stands for that value. Some formats have codes at the ends that are read
                // and never chosen.
                if value.is_finite() && grid.scale[i / scalar.group()].is_normal() {
                    let again = scalar.value(&grid, i, scalar.code(&grid, i, value));
                    let end = code == 0 || code as usize == scalar.levels().len() - 1;
                    let step = grid.scale[i / scalar.group()].abs() * if end { 1.0 } else { 0.01 };
                    assert!((again - value).abs() <= step, "{format:?}: {again} for {value}");
                }
            }
            // Packing what was unpacked gives a block that reads the same.
            let mut packed = vec![0xaa; format.block_bytes];
            scalar.pack(&grid, &codes, &mut packed);
            let again = dequantize(format, &packed, format.block_weights);
            assert!(again.iter().zip(&floats).all(|(&a, &b)| same(a, b)), "{format:?}");
        }
    }
}

#[test]
fn nonfinite_scales_are_found() {
    for format in block::ALL.iter().filter(|f| f.dequantize.is_some()) {
        if format.name == "MXFP4" {
            continue; // has finite scales near the end of the range, whose products are not finite; ggml lets them pass
        }
        let mut found = 0;
        for block in blocks_of(format).chunks_exact(format.block_bytes) {
            let finite = dequantize(format, block, format.block_weights).iter().all(|x| x.is_finite());
            assert_eq!((format.find_nonfinite)(block).is_none(), finite, "{format:?}: {block:02x?}");
            if !finite {
                found += 1;
                let good = vec![0; format.block_bytes];
                assert_eq!((format.find_nonfinite)(&[&good, &good, block, &good].concat()), Some(2), "{format:?}");
            }
        }
        assert!(found > 0 || format.name == "NVFP4", "{format:?}: no bad block among random ones");
    }
}

#[test]
fn quantizers_are_fit_and_pack() {
    let (input, importance) = (floats("input.f32"), floats("importance.f32"));
    for format in block::ALL {
        let Some(scalar) = format.scalar else { continue };
        for importance in [None, Some(&importance[..])] {
            let reference = quantize(format, &input, importance, COLS);
            let (mut codes, mut packed) = (vec![0; format.block_weights], Vec::new());
            for row in input.chunks_exact(COLS) {
                let mean_square = block::mean_square(row);
                for (b, weights) in row.chunks_exact(format.block_weights).enumerate() {
                    let importance = importance.map(|i| &i[b * format.block_weights..][..format.block_weights]);
                    let grid = scalar.fit(weights, importance, mean_square, &mut codes);
                    let mut block = vec![0xaa; format.block_bytes];
                    scalar.pack(&grid, &codes, &mut block);
                    packed.extend(block);
                }
            }
            assert_same(format, "in steps", &packed, &reference);
        }
    }
}

/// A grid asked for with the scales of a fitted grid is that grid, or nearly: scales move by at most a rounding step.
#[test]
fn grids_can_be_asked_for() {
    let weights = normals(256 * 20);
    for format in block::ALL {
        let Some(scalar) = format.scalar else { continue };
        let groups = format.block_weights / scalar.group();
        let mut codes = vec![0; format.block_weights];
        for weights in weights.chunks_exact(format.block_weights) {
            let fitted = scalar.fit(weights, None, 1.0, &mut codes);
            for importance in [None, Some(&[1.0; 16][..groups])] {
                let asked = scalar.grid(&fitted.scale[..groups], &fitted.min[..groups], importance);
                let largest = |x: &[f32]| x.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                for (ours, theirs) in [(asked.scale, fitted.scale), (asked.min, fitted.min)] {
                    for (a, b) in ours.iter().zip(&theirs) {
                        assert!((a - b).abs() <= 0.04 * largest(&theirs), "{format:?}: {a} for {b}");
                    }
                }
            }
        }
    }
}

/// The converter refuses such weights; whoever calls the quantizers all the same gets arbitrary bytes, not a panic.
#[test]
fn nothing_panics_on_strange_weights() {
    let strange = [f32::NAN, f32::INFINITY, -f32::INFINITY, f32::MAX, -f32::MAX, f32::MIN_POSITIVE, 1e-45, -0.0, 1.0];
    let mut rows: Vec<Vec<f32>> = strange.iter().map(|&x| vec![x; COLS]).collect();
    for (k, &x) in strange.iter().enumerate() {
        let mut row = normals(COLS);
        row.iter_mut().skip(k).step_by(7 + k).for_each(|w| *w = x);
        rows.push(row);
        rows.push((0..COLS).map(|i| strange[i * (k + 1) / 3 % strange.len()]).collect());
    }
    for format in block::ALL.iter().filter(|f| f.quantize.is_some()) {
        for weights in &rows {
            dequantize(format, &quantize(format, weights, None, COLS), COLS);
            for importance in rows.iter().step_by(4) {
                dequantize(format, &quantize(format, weights, Some(importance), COLS), COLS);
            }
            if let Some(scalar) = format.scalar {
                let grid = scalar.grid(&weights[..16], &weights[16..32], None);
                scalar.code(&grid, 0, weights[0]);
            }
        }
    }
}

/// Columns that calibration never activated have importance 0: some, whole groups, a whole row.
#[test]
fn importance_of_zero_gives_no_nan() {
    let weights = normals(COLS);
    let plain = floats("importance.f32");
    for format in block::ALL.iter().filter(|f| f.quantize.is_some()) {
        for zeros in [0..1, 0..COLS, 1..COLS, 16..32, 32..64, 0..256, 255..300, COLS - 8..COLS] {
            let mut importance = plain.clone();
            importance[zeros.clone()].fill(0.0);
            let packed = quantize(format, &weights, Some(&importance), COLS);
            assert_eq!((format.find_nonfinite)(&packed), None, "{format:?} {zeros:?}");
            let back = dequantize(format, &packed, COLS);
            assert!(back.iter().all(|x| x.is_finite()), "{format:?} {zeros:?}");
        }
    }
}

#[test]
fn expected_error_is_what_is_measured() {
    let weights = normals(256 * 1024);
    let power: f64 = weights.iter().map(|&w| (w as f64).powi(2)).sum();
    let mut wrong = Vec::new();
    for format in block::ALL.iter().filter(|f| f.quantize.is_some()) {
        let back = dequantize(format, &quantize(format, &weights, None, 1024), 1024);
        let error: f64 = weights.iter().zip(back).map(|(&w, b)| (w as f64 - b as f64).powi(2)).sum();
        let measured = (error / power).sqrt();
        if (measured - format.expected_error as f64).abs() > 0.05 * measured {
            wrong.push(format!("{format:?}: measured {measured:.1e}, written {:.1e}", format.expected_error));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn whole_numbers_behind_a_grid_come_back() {
    let mut with = 0;
    for format in block::ALL.iter().filter(|f| f.scalar.is_some() && f.quantize.is_some()) {
        let scalar = format.scalar.unwrap();
        let row = normals(format.block_weights);
        let mut bytes = vec![0; format.block_bytes];
        (format.quantize.unwrap())(&row, None, &mut bytes);
        let mut codes = vec![0; format.block_weights];
        let grid = scalar.unpack(&bytes, &mut codes);
        let Some(mut steps) = scalar.steps(&grid) else { continue };
        with += 1;
        let mut back = vec![0; format.block_bytes];
        scalar.pack(&scalar.stepped(&steps).unwrap(), &codes, &mut back);
        assert_eq!(back, bytes, "{}", format.name);
        let groups = format.block_weights / scalar.group();
        for g in 0..groups {
            assert_eq!(grid.scale[g], steps.unit * f32::from(steps.scale[g]), "{} {g}", format.name);
            assert_eq!(grid.min[g], steps.min_unit * f32::from(steps.min[g]), "{} {g}", format.name);
            assert!((steps.scales.0..=steps.scales.1).contains(&steps.scale[g]), "{}", format.name);
            assert!((steps.mins.0..=steps.mins.1).contains(&steps.min[g]), "{}", format.name);
            // The ends of the ranges fit, too.
            (steps.scale[g], steps.min[g]) =
                if g % 2 == 0 { (steps.scales.0, steps.mins.1) } else { (steps.scales.1, steps.mins.0) };
        }
        assert_eq!(scalar.steps(&scalar.stepped(&steps).unwrap()), Some(steps), "{}", format.name);
    }
    assert!(with > 10, "{with} formats");
}
