//! How fast rows are quantized: Mweights/s, GB/s of floats read, and the ratio to the scalar reference.
//!
//! `cargo bench -p qconv-kernels --bench quantize [-- FORMAT]`. The bytes are checked first. One thread, and each instruction
//! set that this CPU has.

mod common;

use common::{floats, seconds};
use criterion::{Criterion, Throughput};
use qconv_formats::block::{self, BlockFormat, QuantizeRow};
use qconv_kernels::cpu::{Isa, quantize};
use std::hint::black_box;

const COLS: usize = 2048;
const ROWS: usize = 8;

fn rows(quantize: QuantizeRow, weights: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let row_bytes = out.len() / ROWS;
    for (row, out) in weights.chunks_exact(COLS).zip(out.chunks_exact_mut(row_bytes)) {
        quantize(black_box(row), importance, out);
    }
}

fn main() {
    let mut criterion = common::criterion();
    let weights: Vec<f32> = floats(ROWS * COLS, 1).iter().map(|x| 0.03 * x).collect();
    let importance: Vec<f32> = weights[..COLS].iter().map(|x| x * x).collect();
    // Criterion's options may have values: what names a format is the filter.
    let asked = std::env::args().skip(1).find(|a| BlockFormat::by_name(a).is_some());
    println!("{:<8} {:>10} {:>10} {:>8} {:>9} {:>7}", "format", "importance", "isa", "Mw/s", "GB/s", "x scalar");
    for format in block::ALL.iter().filter(|f| f.block_weights > 1) {
        let Some(scalar) = format.quantize else { continue };
        if asked.as_ref().is_some_and(|a| !format.name.eq_ignore_ascii_case(a)) {
            continue;
        }
        // Where nothing is faster than the reference, the reference is measured: the ratio is about 1.
        let fast = quantize::ALL.iter().filter(|f| f.format == format.name && f.isa.is_here());
        let mut ours: Vec<(&str, QuantizeRow)> = fast.map(|f| (f.isa.name(), f.quantize)).collect();
        if ours.is_empty() {
            ours.push((Isa::Scalar.name(), scalar));
        }
        for (isa, quantize) in ours {
            measure(&mut criterion, format, isa, quantize, scalar, &weights, &importance);
        }
    }
    criterion.final_summary();
}

/// Prints a line without and one with importance, and lets criterion measure once more.
fn measure(
    criterion: &mut Criterion,
    format: &BlockFormat,
    isa: &str,
    quantize: QuantizeRow,
    scalar: QuantizeRow,
    weights: &[f32],
    importance: &[f32],
) {
    let size = ROWS * format.row_bytes(COLS).expect("2048 is a whole number of blocks");
    let (mut ours, mut reference) = (vec![0; size], vec![0; size]);
    for importance in [None, Some(importance)] {
        rows(quantize, weights, importance, &mut ours);
        rows(scalar, weights, importance, &mut reference);
        assert!(ours == reference, "{}: the bytes differ from the reference", format.name);
        let time = seconds(|| rows(quantize, weights, importance, &mut ours));
        let slow = seconds(|| rows(scalar, weights, importance, &mut reference));
        println!(
            "{:<8} {:>10} {isa:>10} {:>8.1} {:>9.2} {:>7.1}",
            format.name,
            if importance.is_some() { "yes" } else { "no" },
            weights.len() as f64 / time / 1e6,
            weights.len() as f64 * 4.0 / time / 1e9,
            slow / time,
        );
    }
    let mut group = criterion.benchmark_group("quantize");
    group.throughput(Throughput::Elements(weights.len() as u64));
    group.bench_function(format!("{}/{isa}", format.name), |b| {
        b.iter(|| rows(quantize, weights, None, &mut ours));
    });
    group.finish();
}
