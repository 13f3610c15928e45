//! How fast rows are quantized: Mweights/s, GB/s of floats read, and the ratio to the scalar reference.
//!
//! `cargo bench -p qconv-kernels --bench quantize [-- FORMAT]`. The bytes are checked first. One thread.

use criterion::{Criterion, Throughput};
use qconv_formats::block::{BlockFormat, QuantizeRow};
use qconv_kernels::cpu::quantize;
use std::hint::black_box;
use std::time::{Duration, Instant};

const COLS: usize = 2048;
const ROWS: usize = 8;

/// About normal numbers, always the same.
fn weights() -> Vec<f32> {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..ROWS * COLS).map(|_| 0.03 * (0..8).map(|_| uniform()).sum::<f32>()).collect()
}

fn rows(quantize: QuantizeRow, weights: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let row_bytes = out.len() / ROWS;
    for (row, out) in weights.chunks_exact(COLS).zip(out.chunks_exact_mut(row_bytes)) {
        quantize(black_box(row), importance, out);
    }
}

/// Seconds for all rows: the best of some runs.
fn seconds(mut f: impl FnMut()) -> f64 {
    let once = |f: &mut dyn FnMut()| {
        let start = Instant::now();
        f();
        start.elapsed().as_secs_f64()
    };
    (0..9).map(|_| once(&mut f)).fold(f64::INFINITY, f64::min)
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(500))
        .configure_from_args();
    let weights = weights();
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
