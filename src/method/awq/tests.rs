//! The search against an independent one, and clipping against its purpose.

use super::*;
use qconv_formats::block::{self, BlockFormat};
use std::path::Path;

fn fixture(name: &str) -> Vec<f32> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/awq").join(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

const COLS: usize = 64;

/// Q4_0 without importance, as the reference has it.
fn plain(format: &'static BlockFormat, cols: usize, weights: &[f32], _: Option<&[f32]>, out: &mut [u8]) {
    (crate::method::rtn::rows)(format, cols, weights, None, out);
}

#[test]
fn scales_are_those_of_an_independent_search() {
    let (inputs, weights, want) = (fixture("inputs.f32"), fixture("weights.f32"), fixture("expected.f32"));
    let mut sums = crate::calibrate::ChannelSums::new(COLS, true);
    sums.add(&inputs);
    let format = BlockFormat::by_name("Q4_0").unwrap();
    let half = weights.len() / 2;
    let reader = |rows: &[f32], name| Sample { name, format, quantize: plain, cols: COLS, rows: rows.to_vec() };
    let readers = [reader(&weights[..half], "first"), reader(&weights[half..], "second")];
    let found = best(&readers, sums.hessian.as_ref().unwrap(), &sums.mean_absolute(), <[f32]>::to_vec);
    // Step, error with the scales, error without, then the scales.
    assert_eq!(found.step, want[0] as usize);
    assert!(found.step > 0, "a search that finds nothing shows nothing");
    for (ours, theirs) in [(found.errors.0, want[1]), (found.errors.1, want[2])] {
        assert!((ours / f64::from(theirs) - 1.0).abs() < 1e-4, "{ours} and {theirs}");
    }
    for (ours, theirs) in found.factors.iter().zip(&want[3..]) {
        assert!((ours / theirs - 1.0).abs() < 1e-5, "{ours} and {theirs}");
    }
    assert_eq!(found.factors.len(), COLS);
}

#[test]
fn dead_channels_stay_as_they_are() {
    assert_eq!(factors(&[0.0, 4.0, 1.0], 0.5), [1.0, 2f32.sqrt(), 0.5f32.sqrt()]);
    assert_eq!(factors(&[0.0, 0.0], 0.5), [1.0, 1.0]);
    assert_eq!(factors(&[3.0, 5.0], 0.0), [1.0, 1.0]);
}

/// Clipped rows are never worse for the inputs that were seen, and some are better.
#[test]
fn clipping_makes_outputs_better() {
    let (inputs, weights) = (fixture("inputs.f32"), fixture("weights.f32"));
    // A row of 256, of which formats with large blocks make one: four channels that see the same.
    let mut hessian = Hessian::new(4 * COLS);
    for x in inputs.chunks_exact(4 * COLS) {
        hessian.add(x);
    }
    let columns = vec![1.0; 4 * COLS];
    for format in block::ALL.iter().copied().filter(|f| f.is_quantized() && f.quantize.is_some()) {
        let clip = clip::Clip::new(format, plain, &hessian, &columns);
        assert_eq!(clip.is_some(), format.scalar.is_some(), "{}", format.name);
        let (Some(clip), Some(scalar)) = (clip, format.scalar) else { continue };
        let (mut changed, mut better) = (0, 0);
        for row in weights.chunks_exact(4 * COLS) {
            let mut clipped = row.to_vec();
            clip.row(&mut clipped);
            let error = |w: &[f32]| {
                let mut packed = vec![0u8; format.row_bytes(w.len()).unwrap()];
                plain(format, w.len(), w, None, &mut packed);
                let mut back = vec![0f32; w.len()];
                (format.dequantize.unwrap())(&packed, &mut back);
                back.iter_mut().zip(row).for_each(|(x, w)| *x -= w);
                let group = scalar.group();
                let part = |g: usize| {
                    let mut e = vec![0f32; back.len()];
                    e[g * group..(g + 1) * group].copy_from_slice(&back[g * group..(g + 1) * group]);
                    let mut sum = Hessian::new(e.len());
                    sum.add(&e);
                    sum.dot(&hessian)
                };
                (0..back.len() / group).map(part).sum::<f64>()
            };
            if clipped != row {
                changed += 1;
                let (with, without) = (error(&clipped), error(row));
                assert!(with <= without * (1.0 + 1e-5), "{}: {with} after {without}", format.name);
                better += usize::from(with < 0.999 * without);
            }
        }
        if ["Q4_0", "Q4_K", "Q2_K", "Q3_K"].contains(&format.name) {
            assert!(better > 0, "{}: {changed} rows were clipped", format.name);
        }
    }
}
