//! How fast rows are quantized: Mweights/s, GB/s of floats read, and the ratio to the scalar reference.
//!
//! `cargo bench -p qconv-kernels --bench quantize [-- FORMAT]`. The bytes are checked first. One thread.

mod common;

use common::{floats, seconds};
use criterion::Throughput;
use qconv_formats::block::{BlockFormat, QuantizeRow};
use qconv_kernels::cpu::quantize;
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
    println!("{:<8} {:>10} {:>10} {:>8} {:>9} {:>7}", "format", "importance", "isa", "Mw/s", "GB/s", "x scalar");
    for fast in quantize::ALL.iter().filter(|f| f.isa.is_here()) {
        let format = BlockFormat::by_name(fast.format).expect("the list names formats");
        let scalar = format.quantize.expect("fast quantizers are for formats that can be quantized to");
        let size = ROWS * format.row_bytes(COLS).expect("2048 is a whole number of blocks");
        let (mut ours, mut reference) = (vec![0; size], vec![0; size]);
        for importance in [None, Some(&importance[..])] {
            rows(fast.quantize, &weights, importance, &mut ours);
            rows(scalar, &weights, importance, &mut reference);
            assert!(ours == reference, "{}: the bytes differ from the reference", fast.format);
            let time = seconds(|| rows(fast.quantize, &weights, importance, &mut ours));
            let slow = seconds(|| rows(scalar, &weights, importance, &mut reference));
            println!(
                "{:<8} {:>10} {:>10} {:>8.1} {:>9.2} {:>7.1}",
                fast.format,
                if importance.is_some() { "yes" } else { "no" },
                fast.isa.name(),
                weights.len() as f64 / time / 1e6,
                weights.len() as f64 * 4.0 / time / 1e9,
                slow / time,
            );
        }
        let mut group = criterion.benchmark_group("quantize");
        group.throughput(Throughput::Elements(weights.len() as u64));
        group.bench_function(format!("{}/{}", fast.format, fast.isa.name()), |b| {
            b.iter(|| rows(fast.quantize, &weights, None, &mut ours));
        });
        group.finish();
    }
    criterion.final_summary();
}
