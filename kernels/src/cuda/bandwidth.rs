//! The device's memory bandwidth, measured: a copy within the device, as large as eight times its second-level cache.

use super::device::{Device, failed};
use super::memory::Memory;
use crate::Result;
use cudarc::driver::sys::{CUdevice_attribute, CUevent_flags};

/// Copies that are timed together, and how often: the best counts.
const COPIES: usize = 8;
const TRIES: usize = 3;

/// GB/s, bytes read and bytes written together.
pub(super) fn copy(device: &Device) -> Result<f64> {
    let cache = device.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE).max(1 << 20);
    let bytes = 8 * cache;
    let (from, mut to) =
        (Memory::zeroed(device, bytes, "a measurement")?, Memory::zeroed(device, bytes, "a measurement")?);
    let event = || device.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
    let mut best = 0.0f64;
    for _ in 0..TRIES {
        let start = event().map_err(|e| failed("recording an event", e))?;
        for _ in 0..COPIES {
            to.copy_from(device, &from)?;
        }
        let end = event().map_err(|e| failed("recording an event", e))?;
        device.synchronize()?;
        let ms = start.elapsed_ms(&end).map_err(|e| failed("reading an event", e))?;
        best = best.max((2 * COPIES * bytes) as f64 / (f64::from(ms).max(1e-6) / 1e3) / 1e9);
    }
    Ok(best)
}
