//! Every kernel against the CPU backend's operations, on odd shapes. On a machine with a GPU they run there; elsewhere the same
//! sources run on the CPU, behind a stand-in for the driver (`kernels/cuda/cpu`).

mod codebooks;
mod engine;
mod experts;
mod operations;
mod record;
mod refusals;

use super::*;
use crate::cpu::{self, Cpu};
use qconv_formats::{Shape, block};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

/// The device that the tests run on: a GPU, unless `QCONV_CUDA_TESTS` is `stand-in` or there is none; then the stand-in, unless it
/// is `device`: then it is an error that there is none. `None`: neither, which a line on standard error has told.
pub(super) fn cuda() -> Option<Cuda> {
    // Kept to the end: a context that its last user gives back is destroyed, and takes long to make again.
    static FIRST: OnceLock<Option<Cuda>> = OnceLock::new();
    let first = FIRST.get_or_init(|| {
        let wanted = std::env::var("QCONV_CUDA_TESTS").unwrap_or_default();
        if wanted != "stand-in" {
            match Cuda::new(Options::default()) {
                Ok(cuda) => return Some(cuda),
                Err(why) => assert!(wanted != "device", "QCONV_CUDA_TESTS is `device`, and {why}"),
            }
        }
        let folder = qconv_stand_in::folder()?;
        let path = std::ffi::CString::new(folder.join("libcuda.so").into_os_string().into_encoded_bytes()).unwrap();
        // SAFETY: the library was just built for this; it is never closed. When the driver's library is looked for afterwards,
        // the loader finds this one by its name.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
        if handle.is_null() {
            // SAFETY: an error is pending, and its text ends with a zero.
            let why = unsafe { std::ffi::CStr::from_ptr(libc::dlerror()) };
            panic!("the stand-in was not loaded: {}", why.to_string_lossy());
        }
        let opened = Cuda::new(Options::default());
        Some(opened.expect("a driver without a device is in the way: set QCONV_CUDA_TESTS=stand-in, or fix it"))
    });
    first.as_ref().map(|_| Cuda::new(Options::default()).unwrap())
}

/// Runs a test on each of several things to its end, whatever fails on the way: on new hardware one wants to know of all. Panics
/// with the names of those that failed.
pub(super) fn each<T>(all: impl IntoIterator<Item = T>, name: impl Fn(&T) -> String, mut test: impl FnMut(T)) {
    let mut failed = Vec::new();
    for one in all {
        let name = name(&one);
        if catch_unwind(AssertUnwindSafe(|| test(one))).is_err() {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "failed: {}", failed.join(", "));
}

/// The oracle: the CPU backend with f32 activations.
pub(super) fn oracle() -> Cpu {
    let options = cpu::Options { threads: Some(1), activations: cpu::Activations::Exact, ..cpu::Options::default() };
    Cpu::new(options).unwrap()
}

/// Pseudo-random numbers (xorshift64*), so that failures come again.
pub(super) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// `n` floats between -1 and 1.
    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
    }
}

/// A buffer with these floats and `spare` zeroes behind them.
pub(super) fn filled<B: Backend>(backend: &B, floats: &[f32], spare: usize) -> B::Buffer {
    let mut buffer = backend.buffer(floats.len() + spare).unwrap();
    backend.write(floats, &mut buffer).unwrap();
    buffer
}

/// The first `len` floats of a buffer.
pub(super) fn contents<B: Backend>(backend: &B, buffer: &B::Buffer, len: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; len];
    backend.read(buffer, &mut out).unwrap();
    out
}

/// A weight of one dimension.
pub(super) fn vector<B: Backend>(backend: &B, floats: &[f32]) -> B::Weight {
    let bytes: Vec<u8> = floats.iter().flat_map(|x| x.to_le_bytes()).collect();
    backend.weight(QTensor::new(&block::F32, Shape::new(&[floats.len()]).unwrap(), bytes).unwrap()).unwrap()
}

/// Both results agree within `allowed` times the largest magnitude (0.01 at least: below that, what is left of tails of exponentials
/// is noise).
#[track_caller]
pub(super) fn agree(got: &[f32], want: &[f32], allowed: f32, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    let largest = want.iter().fold(1e-2f32, |m, w| m.max(w.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= allowed * largest, "{what}: {g} instead of {w} at {i} (largest {largest})");
    }
}
