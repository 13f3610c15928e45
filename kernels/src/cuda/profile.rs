//! Times of single kernels, by events around every launch. Launches are further apart than without, so that the sum is more
//! than a token takes; what it tells is where the time goes.

use super::device::{Device, failed};
use crate::{KernelTime, Result};
use cudarc::driver::CudaEvent;
use cudarc::driver::sys::CUevent_flags;
use std::collections::BTreeMap;

/// Launches with the events before and after each.
#[derive(Default)]
pub(super) struct Profile(Vec<(String, CudaEvent, CudaEvent)>);

impl Profile {
    /// Runs a launch between two events.
    pub fn around(&mut self, device: &Device, kernel: &str, launch: impl FnOnce() -> Result<()>) -> Result<()> {
        let event = || device.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
        let before = event().map_err(|e| failed("recording an event", e))?;
        launch()?;
        let after = event().map_err(|e| failed("recording an event", e))?;
        self.0.push((kernel.to_owned(), before, after));
        Ok(())
    }

    /// The times of all kernels, longest first.
    pub fn times(self, device: &Device) -> Result<Vec<KernelTime>> {
        device.synchronize()?;
        let mut all: BTreeMap<String, KernelTime> = BTreeMap::new();
        for (kernel, before, after) in self.0 {
            let ms = before.elapsed_ms(&after).map_err(|e| failed("reading an event", e))?;
            let time = all.entry(kernel.clone()).or_insert(KernelTime { kernel, launches: 0, seconds: 0.0 });
            time.launches += 1;
            time.seconds += f64::from(ms) / 1e3;
        }
        let mut all: Vec<KernelTime> = all.into_values().collect();
        all.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        Ok(all)
    }
}
