//! Where time goes: the operations of the backend by name, as the caller waits for them.

use crate::KernelTime;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Times that are taken between [`Profile::start`] and [`Profile::take`].
#[derive(Default)]
pub(super) struct Profile {
    on: AtomicBool,
    times: Mutex<BTreeMap<String, (usize, Duration)>>,
}

impl Profile {
    /// Begins anew.
    pub fn start(&self) {
        self.times.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.on.store(true, Ordering::Relaxed);
    }

    /// Before an operation. Costs nothing while no times are taken.
    pub fn begin(&self) -> Option<Instant> {
        self.on.load(Ordering::Relaxed).then(Instant::now)
    }

    /// After it: its time is added to that of the name.
    pub fn end(&self, begun: Option<Instant>, name: impl FnOnce() -> String) {
        let Some(begun) = begun else { return };
        let time = begun.elapsed();
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let (launches, sum) = times.entry(name()).or_default();
        *launches += 1;
        *sum += time;
    }

    /// The times, longest first, and ends taking them.
    pub fn take(&self) -> Vec<KernelTime> {
        self.on.store(false, Ordering::Relaxed);
        let times = std::mem::take(&mut *self.times.lock().unwrap_or_else(PoisonError::into_inner));
        let mut all: Vec<KernelTime> = times
            .into_iter()
            .map(|(kernel, (launches, time))| KernelTime { kernel, launches, seconds: time.as_secs_f64() })
            .collect();
        all.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        all
    }
}

/// What products with weights of these formats are called: each format once.
pub(super) fn products<'a>(formats: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<&str> = formats.collect();
    names.sort_unstable();
    names.dedup();
    format!("products {}", names.join(" and "))
}

#[cfg(test)]
mod tests {
    use crate::cpu::tests::{Random, random_weight};
    use crate::cpu::{Cpu, Options};
    use crate::{Backend, Product};
    use qconv_formats::block::BlockFormat;

    #[test]
    fn operations_are_timed_only_when_asked_for() {
        let cpu = Cpu::new(Options { threads: Some(2), ..Options::default() }).unwrap();
        let weight = |name| {
            let (tensor, _) = random_weight(&mut Random::new(1), BlockFormat::by_name(name).unwrap(), &[64, 256]);
            cpu.weight(tensor).unwrap()
        };
        let (a, b) = (weight("Q8_0"), weight("Q4_K"));
        let x = cpu.buffer(256).unwrap();
        let (mut y, mut z) = (cpu.buffer(64).unwrap(), cpu.buffer(64).unwrap());
        let mut multiply = || {
            let first = Product { weight: &a, bias: None, out: &mut y };
            cpu.matmul(&x, 1, &mut [first, Product { weight: &b, bias: None, out: &mut z }]).unwrap();
        };
        multiply();
        cpu.start_profile();
        multiply();
        multiply();
        let mut times: Vec<_> = cpu.kernel_times().unwrap().into_iter().map(|t| (t.kernel, t.launches)).collect();
        times.sort();
        assert_eq!(times, [("products Q4_K and Q8_0".into(), 2), ("rounding of activations".into(), 2)]);
        multiply();
        assert!(cpu.kernel_times().unwrap().is_empty());
    }
}
