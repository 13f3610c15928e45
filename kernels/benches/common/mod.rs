//! What the benches share.
#![allow(dead_code)] // each uses a part

use criterion::Criterion;
use std::time::{Duration, Instant};

/// About normal numbers of standard deviation 0.8, always the same.
pub fn floats(n: usize, mut state: u64) -> Vec<f32> {
    let mut uniform = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..n).map(|_| (0..8).map(|_| uniform()).sum()).collect()
}

/// Seconds of the best of some runs.
pub fn seconds(mut f: impl FnMut()) -> f64 {
    let once = |f: &mut dyn FnMut()| {
        let start = Instant::now();
        f();
        start.elapsed().as_secs_f64()
    };
    (0..9).map(|_| once(&mut f)).fold(f64::INFINITY, f64::min)
}

/// Short runs: there are many to compare, and they are checked anyway.
pub fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(500))
        .configure_from_args()
}
