//! The bounds of this machine: how fast it reads memory (generation), and how many products it does (prompts).

use super::ahead::Ahead;
#[cfg(target_arch = "x86_64")]
use super::amx;
use super::memory::{Aligned, Pages};
use super::simd::{Op, Simd, dispatch};
use super::{Cpu, Isa, Split, products};
use crate::Result;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Read bandwidth in GB/s, with all threads of the backend.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bandwidth {
    /// From pages of the usual size (4 KiB), as a mapped file has.
    pub small_pages: f64,
    /// From memory for which huge pages were asked (the system may not have given them).
    pub huge_pages: f64,
}

impl Bandwidth {
    /// The better of both.
    pub fn best(self) -> f64 {
        self.small_pages.max(self.huge_pages)
    }
}

/// How long is read from either kind of pages.
const TIME: Duration = Duration::from_millis(150);

/// Floats that a thread reads at a time.
const ITEM: usize = 64 * 1024;

impl Cpu {
    /// Measures the bandwidth now; half a second to one. Errors: not enough memory (a buffer of eight times the last-level
    /// cache, 128 to 512 MiB).
    pub fn bandwidth(&self) -> Result<Bandwidth> {
        let bytes = (8 * last_level_cache().unwrap_or(32 << 20)).clamp(128 << 20, 512 << 20);
        Ok(Bandwidth {
            small_pages: self.read_rate(bytes / 4, Pages::Small)?,
            huge_pages: self.read_rate(bytes / 4, Pages::Huge)?,
        })
    }

    /// Multiply-adds per second, in billions, that all threads do with the instruction for quantized weights and many tokens alone (dot products
    /// of 8-bit integers, or products of matrices of brain floats): the median over some tens of milliseconds.
    pub fn product_peak(&self) -> f64 {
        const ROUNDS: usize = 20_000;
        let mut rates = Vec::new();
        for _ in 0..15 {
            let start = Instant::now();
            let done = self.products_alone(4 * self.threads(), ROUNDS);
            rates.push(done as f64 / start.elapsed().as_secs_f64() / 1e9);
        }
        rates.sort_unstable_by(f64::total_cmp);
        rates[rates.len() / 2]
    }

    /// Returns how many multiply-adds were done.
    fn products_alone(&self, items: usize, rounds: usize) -> usize {
        #[cfg(target_arch = "x86_64")]
        if let Some(amx) = amx::proof(self) {
            self.pool.run(items, |_| amx::products(amx, rounds / 16)); // a round takes as long as 16 of the others
            return items * (rounds / 16) * amx::ROUND;
        }
        self.pool.run(items, |_| products::dots(self.isa, rounds));
        items * rounds * products::ROUND
    }

    /// The best of reading as the hardware looks ahead and of asking as products do ([`Ahead`]), each with registers of all widths: an Intel server read
    /// 15.4 GB/s with 512 bits and 19.2 with 256. Each is the median over several passes, so that neither a pause nor a lucky moment counts.
    fn read_rate(&self, floats: usize, pages: Pages) -> Result<f64> {
        let items = floats / ITEM;
        let mut data = Aligned::<f32>::with_pages(items * ITEM, "the buffer for measuring bandwidth", pages)?;
        {
            // Pages that were never written are all the same one.
            let data = Split::new(&mut data);
            // SAFETY: each part belongs to one item.
            self.pool.run(items, |i| unsafe { data.slice(i * ITEM, ITEM) }.fill(1.0));
        }
        let narrow = self.isa.min(Isa::Avx2);
        let ways = [(self.isa, false), (self.isa, true), (narrow, false), (narrow, true)];
        let mut rates = [const { Vec::new() }; 4];
        let begin = Instant::now();
        while begin.elapsed() < TIME || rates[3].len() < 3 {
            for (rates, (isa, asks)) in rates.iter_mut().zip(ways) {
                let start = Instant::now();
                self.pool.run(items, |i| {
                    black_box(dispatch(isa, Read { data: &data[i * ITEM..][..ITEM], asks }));
                });
                rates.push((items * ITEM * 4) as f64 / start.elapsed().as_secs_f64() / 1e9);
            }
        }
        let medians = rates.map(|mut rates: Vec<f64>| {
            rates.sort_unstable_by(f64::total_cmp);
            rates[rates.len() / 2]
        });
        Ok(medians.into_iter().fold(0.0, f64::max))
    }
}

/// Adds everything up, which is less work than any product.
struct Read<'a> {
    data: &'a [f32],
    /// For memory in advance.
    asks: bool,
}

impl Op for Read<'_> {
    type Out = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        const SUMS: usize = 8;
        let mut sums = [s.zero(); SUMS];
        let ahead = Ahead::here();
        for chunk in self.data.chunks_exact(SUMS * S::LANES) {
            if self.asks {
                ahead.ask(chunk.as_ptr().cast::<u8>().wrapping_add(ahead.by), size_of_val(chunk));
            }
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: the chunk holds so many vectors.
                *sum = s.add(*sum, unsafe { s.load(chunk.as_ptr().add(i * S::LANES)) });
            }
        }
        sums.iter().map(|sum| s.sum(*sum)).sum()
    }
}

/// Bytes of the largest cache; `None` where the system does not tell.
fn last_level_cache() -> Option<usize> {
    let sizes = (0..8).filter_map(|i| {
        let text = std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{i}/size")).ok()?;
        let text = text.trim();
        let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
        let unit = match unit {
            "K" => 1 << 10,
            "M" => 1 << 20,
            _ => 1,
        };
        number.parse::<usize>().ok()?.checked_mul(unit)
    });
    sizes.max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Backend;
    use crate::cpu::Options;

    #[test]
    fn bandwidth_is_a_number_that_memory_can_have() {
        let cpu = Cpu::new(Options { threads: Some(2), ..Options::default() }).unwrap();
        let Bandwidth { small_pages, huge_pages } = cpu.bandwidth().unwrap();
        for rate in [small_pages, huge_pages, cpu.read_bandwidth().unwrap()] {
            assert!((0.05..20_000.0).contains(&rate), "{rate} GB/s");
        }
        let peak = cpu.product_peak();
        assert!((0.05..1e6).contains(&peak), "{peak} billion multiply-adds per second");
    }
}
