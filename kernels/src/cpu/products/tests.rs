//! Every format and instruction set against sums in f64 over the same rounded activations.

use super::*;
use crate::cpu::tests::{Random, filled, random_weight};
use crate::cpu::way::Way;
use crate::cpu::{Activations, Cpu, Options};
use crate::{Backend, Product};
use qconv_formats::block::BlockFormat;
use qconv_formats::{QTensor, Shape, SharedBytes};
use std::sync::Arc;

pub(in crate::cpu) fn formats() -> impl Iterator<Item = &'static BlockFormat> {
    ALL.iter().map(|fast| BlockFormat::by_name(fast.format).unwrap())
}

fn backends(threads: usize) -> Vec<Cpu> {
    let options = |name| Options { threads: Some(threads), isa: Isa::by_name(name), ..Options::default() };
    Cpu::isa_names().into_iter().map(|name| Cpu::new(options(name)).unwrap()).collect()
}

/// Activations of very different sizes, some groups all zero, all equal or huge.
pub(in crate::cpu) fn activations(random: &mut Random, n: usize, cols: usize) -> Vec<f32> {
    let mut x = random.floats(n * cols);
    for x in x.chunks_mut(cols).flat_map(|row| row.chunks_mut(32)) {
        match random.next() % 8 {
            0 => x.fill(0.0),
            1 => x.fill(-3.0),
            2 => x.iter_mut().for_each(|x| *x *= 1e-20),
            3 => x.iter_mut().for_each(|x| *x = x.signum() * 4.0),
            _ => {}
        }
    }
    x
}

/// What [`panel`] is documented to do: 8 bits, one scale for 32 neighbours.
fn rounded(x: &[f32], cols: usize) -> Vec<f64> {
    let mut out = Vec::new();
    for x in x.chunks(cols).flat_map(|row| row.chunks(32)) {
        let largest = x.iter().fold(0.0, |m: f32, x| m.max(x.abs()));
        let inverse = if largest == 0.0 { 0.0 } else { 127.0 / largest };
        out.extend(x.iter().map(|x| f64::from((x * inverse).round_ties_even()) * f64::from(largest / 127.0)));
    }
    out
}

fn product(cpu: &Cpu, weight: &QTensor, x: &[f32], n: usize) -> Vec<f32> {
    let rows = weight.shape().rows();
    let weight = cpu.weight(weight.clone()).unwrap();
    let mut out = cpu.buffer(n * rows + 3).unwrap();
    let x = filled(cpu, x, 0);
    cpu.matmul(&x, n, &mut [Product { weight: &weight, bias: None, out: &mut out }]).unwrap();
    assert_eq!(&out[n * rows..], &[0.0; 3], "wrote behind the result");
    out[..n * rows].to_vec()
}

/// Any bytes at all, as long as they stand for finite weights.
pub(in crate::cpu) fn any_weight(
    random: &mut Random,
    format: &'static BlockFormat,
    rows: usize,
    cols: usize,
) -> (QTensor, Vec<f32>) {
    let mut bytes = Vec::new();
    for _ in 0..rows * cols / format.block_weights {
        let mut block = vec![0xff; format.block_bytes];
        loop {
            block.iter_mut().for_each(|b| *b = (random.next() >> 32) as u8);
            let mut weights = vec![0.0; format.block_weights];
            format.dequantize.unwrap()(&block, &mut weights);
            // Some formats have scales up to 2^127, with which no sum is finite.
            if weights.iter().all(|w| w.is_finite() && w.abs() < 1e30) {
                break;
            }
        }
        bytes.extend(block);
    }
    let mut weights = vec![0.0; rows * cols];
    format.dequantize.unwrap()(&bytes, &mut weights);
    (QTensor::new(format, Shape::new(&[rows, cols]).unwrap(), bytes).unwrap(), weights)
}

#[test]
fn products_agree_with_sums_over_rounded_activations() {
    let mut random = Random::new(11);
    let all = backends(1);
    for format in formats() {
        let unit = format.block_weights;
        for (case, n) in [1, 1, 2, 3, 4, 5, 8, 13, 17, 64].into_iter().enumerate() {
            let blocks = [1, 9, 3, 8, 17, 2, 5, 1, 10, 11][case];
            let rows = [1, 70, 5, 6, 3, 33, 64, 16, 47, 32][case];
            let cols = blocks * if unit == 256 { 256 } else { unit };
            for strange in [false, true] {
                let (weight, weights) = if strange {
                    any_weight(&mut random, format, rows, cols)
                } else {
                    random_weight(&mut random, format, &[rows, cols])
                };
                let x = activations(&mut random, n, cols);
                let exact = rounded(&x, cols);
                let mut want = Vec::new();
                for x in exact.chunks(cols) {
                    for w in weights.chunks(cols) {
                        let sum: f64 = x.iter().zip(w).map(|(x, w)| x * f64::from(*w)).sum();
                        let largest = w.iter().fold(0.0, |m: f64, w| m.max(f64::from(w.abs())));
                        // Offsets and minimums cancel: terms may be as large as the largest weight.
                        let size: f64 = x.iter().map(|x| x.abs() * largest).sum();
                        want.push((sum, size));
                    }
                }
                let mut vectors: Option<Vec<f32>> = None;
                for cpu in &all {
                    if Way::of(cpu, n, &cpu.weight(weight.clone()).unwrap()) != Way::Packed {
                        continue; // AMX rounds otherwise: see its own tests
                    }
                    let got = product(cpu, &weight, &x, n);
                    for (i, (got, (want, size))) in got.iter().zip(&want).enumerate() {
                        let (token, row) = (i / rows, i % rows);
                        assert!(
                            (f64::from(*got) - want).abs() <= 4e-7 * size + 1e-37, // below, floats end
                            "{format:?} {} n {n} rows {rows} cols {cols} strange {strange}: token {token} row {row}: \
                             {got} instead of {want} (terms sum to {size})",
                            cpu.name(),
                        );
                    }
                    // All that fuse and sum in the same order give the same bits.
                    if cpu.isa() > Isa::Scalar {
                        match &vectors {
                            Some(first) => assert_eq!(first, &got, "{format:?} {} n {n}", cpu.name()),
                            None => vectors = Some(got),
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn threads_do_not_change_results() {
    let mut random = Random::new(12);
    for format in formats() {
        for (n, rows, blocks) in [(1, 777, 3), (3, 130, 2), (150, 70, 4)] {
            let cols = blocks * format.block_weights;
            let (weight, _) = random_weight(&mut random, format, &[rows, cols]);
            let x = random.floats(n * cols);
            let best = Isa::by_name(Cpu::isa_names().last().unwrap());
            let with = |threads| {
                let cpu = Cpu::new(Options { threads: Some(threads), isa: best, ..Options::default() }).unwrap();
                product(&cpu, &weight, &x, n)
            };
            let one = with(1);
            for threads in [2, 3, 16] {
                assert_eq!(one, with(threads), "{format:?} n {n}, {threads} threads");
            }
        }
    }
}

#[test]
fn exact_activations_are_not_rounded() {
    let mut random = Random::new(13);
    let format = BlockFormat::by_name("Q4_K").unwrap();
    let (weight, weights) = random_weight(&mut random, format, &[19, 512]);
    let x = random.floats(6 * 512);
    for name in Cpu::isa_names() {
        let options = Options { isa: Isa::by_name(name), activations: Activations::Exact, ..Options::default() };
        let got = product(&Cpu::new(options).unwrap(), &weight, &x, 6);
        for (i, got) in got.iter().enumerate() {
            let (x, w) = (&x[i / 19 * 512..][..512], &weights[i % 19 * 512..][..512]);
            let want: f64 = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
            assert!((f64::from(*got) - want).abs() < 1e-5, "{name}: {got} instead of {want}");
        }
    }
}

/// Whichever suits this machine's CPU is tested with all other formats, the other one only here.
#[test]
fn either_way_of_reading_q8_0_gives_the_same() {
    use crate::cpu::pool::Pool;
    let mut random = Random::new(18);
    let format = BlockFormat::by_name("Q8_0").unwrap();
    let (pool, ways) =
        (Pool::new(1).unwrap(), [fast::<legacy::Q8_0<false>>("Q8_0"), fast::<legacy::Q8_0<true>>("Q8_0")]);
    for cols in [32, 256, 512, 1184] {
        let (weight, _) = random_weight(&mut random, format, &[7, cols]);
        let (bytes, x) = (weight.bytes(), random.floats(cols));
        for cpu in backends(1) {
            let mut panel = Panel::new().unwrap();
            fill(&mut panel, cpu.isa(), &pool, &x, 1, cols).unwrap();
            let [a, b] = ways.each_ref().map(|way| {
                let few = Few { bytes, row_bytes: bytes.len() / 7, cols, x: panel.units(cols, 1) };
                let (mut view, mut out) = (View::default(), vec![0.0; 8]);
                way.few(cpu.isa(), few, &mut view, &mut out);
                out
            });
            assert!(a[..7] == b[..7] && a[0] != 0.0, "{} {cols}: {a:?} and {b:?}", cpu.name());
        }
    }
}

#[test]
fn activations_that_are_no_numbers_are_seen_in_the_result() {
    let mut random = Random::new(14);
    let format = BlockFormat::by_name("Q8_0").unwrap();
    let (weight, _) = random_weight(&mut random, format, &[3, 64]);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for n in [1, 6] {
            let mut x = random.floats(n * 64);
            x[40] = bad;
            for cpu in backends(1) {
                let got = product(&cpu, &weight, &x, n);
                assert!(got[..3].iter().all(|y| !y.is_finite()), "{} {bad}: {got:?}", cpu.name());
                assert!(got[3..].iter().all(|y| y.is_finite()), "{} {bad}: other tokens", cpu.name());
            }
        }
    }
}

/// A block of which some weights are infinite or no numbers; `None` for formats that have none such.
fn spoiled_block(random: &mut Random, format: &BlockFormat) -> Option<Vec<u8>> {
    let mut weights = vec![0.0; format.block_weights];
    (0..2000).find_map(|_| {
        let block: Vec<u8> = (0..format.block_bytes).map(|_| (random.next() >> 32) as u8).collect();
        format.dequantize.unwrap()(&block, &mut weights);
        weights.iter().any(|w| !w.is_finite()).then_some(block)
    })
}

#[test]
fn a_scale_that_is_no_number_spoils_its_own_row_alone() {
    let mut random = Random::new(16);
    let (all, mut seen) = (backends(1), 0);
    for format in formats() {
        let Some(bad) = spoiled_block(&mut random, format) else { continue };
        seen += 1;
        for blocks in [1, 3, 7, 9] {
            let cols = blocks * format.block_weights;
            let (weight, _) = random_weight(&mut random, format, &[5, cols]);
            let mut bytes = weight.bytes().to_vec();
            let row = 2 * bytes.len() / 5;
            bytes[row..row + bad.len()].copy_from_slice(&bad);
            let spoiled = QTensor::new(format, weight.shape().clone(), bytes).unwrap();
            for n in [1, 2, 3, 7] {
                let x = random.floats(n * cols);
                for cpu in &all {
                    let (want, got) = (product(cpu, &weight, &x, n), product(cpu, &spoiled, &x, n));
                    for (i, (want, got)) in want.iter().zip(&got).enumerate() {
                        let what = || format!("{format:?} {} cols {cols} n {n} row {}", cpu.name(), i % 5);
                        if i % 5 == 2 {
                            assert!(!got.is_finite(), "{}: {got}", what());
                        } else {
                            assert_eq!(want.to_bits(), got.to_bits(), "{}: {got} instead of {want}", what());
                        }
                    }
                }
            }
        }
    }
    assert!(seen > 20, "{seen} formats have infinite weights");
}

/// Bytes that end where the memory behind them may not be touched.
#[cfg(unix)]
pub(in crate::cpu) struct Guarded {
    map: *mut u8,
    mapped: usize,
    start: usize,
    len: usize,
}

#[cfg(unix)]
impl Guarded {
    pub(in crate::cpu) fn new(bytes: &[u8]) -> Self {
        // SAFETY: a question to the system.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        let mapped = bytes.len().next_multiple_of(page) + page;
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANON);
        // SAFETY: fresh memory of this size; its last page is taken away, and the bytes are copied before that page.
        unsafe {
            let map = libc::mmap(std::ptr::null_mut(), mapped, access, kind, -1, 0).cast::<u8>();
            assert_ne!(map.cast(), libc::MAP_FAILED);
            assert_eq!(libc::mprotect(map.add(mapped - page).cast(), page, libc::PROT_NONE), 0);
            let start = mapped - page - bytes.len();
            map.add(start).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            Guarded { map, mapped, start, len: bytes.len() }
        }
    }
}

#[cfg(unix)]
impl Guarded {
    /// Activations that end there.
    pub(in crate::cpu) fn floats(x: &[f32]) -> Self {
        Guarded::new(&x.iter().flat_map(|x| x.to_ne_bytes()).collect::<Vec<_>>())
    }

    pub(in crate::cpu) fn as_floats(&self) -> &[f32] {
        // SAFETY: as many floats as were written; pages end at multiples of four.
        unsafe { std::slice::from_raw_parts(self.map.add(self.start).cast(), self.len / 4) }
    }
}

#[cfg(unix)]
impl AsRef<[u8]> for Guarded {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: written in the constructor, never again, and mapped as long as this lives.
        unsafe { std::slice::from_raw_parts(self.map.add(self.start), self.len) }
    }
}

#[cfg(unix)]
impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the mapping of the constructor.
        unsafe { libc::munmap(self.map.cast(), self.mapped) };
    }
}

// SAFETY: only read after construction.
#[cfg(unix)]
unsafe impl Send for Guarded {}
// SAFETY: as above.
#[cfg(unix)]
unsafe impl Sync for Guarded {}

#[cfg(unix)]
#[test]
fn nothing_behind_the_last_weight_or_activation_is_read() {
    let mut random = Random::new(15);
    let all = backends(1);
    for format in formats() {
        for (rows, blocks) in [(1, 1), (3, 2), (7, 9), (33, 1)] {
            let cols = blocks * format.block_weights;
            let (weight, _) = random_weight(&mut random, format, &[rows, cols]);
            let guarded = Guarded::new(weight.bytes());
            let len = guarded.len;
            let bytes = SharedBytes::new(Arc::new(guarded), 0..len);
            let tensor = QTensor::new(format, weight.shape().clone(), bytes).unwrap();
            for n in [1, 3, 6] {
                let x = random.floats(n * cols);
                let guarded = Guarded::floats(&x);
                for cpu in &all {
                    let weights = cpu.weight(tensor.clone()).unwrap();
                    let mut out = cpu.buffer(n * rows).unwrap();
                    let products = &mut [Product { weight: &weights, bias: None, out: &mut out }];
                    cpu.multiply(guarded.as_floats(), n, products).unwrap();
                    assert_eq!(out.to_vec(), product(cpu, &weight, &x, n), "{format:?} {}", cpu.name());
                }
            }
        }
    }
}
