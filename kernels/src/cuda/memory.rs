//! Memory of the device.

use super::device::{Device, failed};
use super::launch::Launch;
use crate::{Error, Result};
use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaSlice, DevicePtr, DriverError};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of the device, aligned to at least 256.
pub(super) struct Memory {
    slice: CudaSlice<u8>,
    pointer: u64,
    len: usize,
}

/// f32 activations, and their 8-bit form where products with quantized weights have asked for it.
pub struct Buffer {
    memory: Memory,
    len: usize,
    codes: Mutex<Codes>,
}

/// Activations rounded to 8 bits (activations.cuh). Groups of 32 follow each other through the rows, so that what was rounded
/// knows of no shape.
#[derive(Default)]
pub(super) struct Codes {
    /// A byte for each of the buffer's floats, and from [`Codes::scales_at`] on 8 for each 32 of them. `None`: nobody has asked.
    memory: Option<Memory>,
    /// How many of the buffer's floats are rounded as they are now, and in which [`Device::epoch`] that was seen.
    fresh: (u64, usize),
}

/// Bytes that the driver takes along with the call. What is longer it copies aside before it returns, if it has to; where the
/// device reads the host's pages itself (Grace) nothing says that it does, and the host's memory may be gone or written
/// anew soon after. Source: CUDA driver API, "API synchronization behavior".
const TAKEN_ALONG: usize = 64 << 10;

/// An allocation that failed.
fn refused(what: &str, bytes: usize, error: DriverError) -> Error {
    match error.0 {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
            Error::OutOfMemory { what: what.to_owned(), bytes: bytes as u64, backend: "CUDA".to_owned() }
        }
        _ => failed(&format!("making room for {what}"), error),
    }
}

impl Memory {
    /// Zeroed bytes.
    pub fn zeroed(device: &Device, len: usize, what: &str) -> Result<Self> {
        device.refuse_to_record("an allocation")?;
        // Nothing at all is no allocation to the driver.
        let slice = device.stream.alloc_zeros::<u8>(len.max(1)).map_err(|e| refused(what, len, e))?;
        Ok(Self::of(device, slice, len))
    }

    /// A copy of the host's bytes.
    pub fn upload(device: &Device, bytes: &[u8], what: &str) -> Result<Self> {
        device.refuse_to_record("an allocation")?;
        // SAFETY: written before anything reads it: copies and kernels follow each other on the stream.
        let mut slice =
            unsafe { device.stream.alloc::<u8>(bytes.len().max(1)) }.map_err(|e| refused(what, bytes.len(), e))?;
        if !bytes.is_empty() {
            device.stream.memcpy_htod(bytes, &mut slice).map_err(|e| failed(&format!("copying {what}"), e))?;
            Self::taken(device, bytes)?;
        }
        Ok(Self::of(device, slice, bytes.len()))
    }

    /// Waits until a copy has read the host's bytes.
    fn taken(device: &Device, bytes: &[u8]) -> Result<()> {
        if bytes.len() > TAKEN_ALONG { device.synchronize() } else { Ok(()) }
    }

    fn of(device: &Device, slice: CudaSlice<u8>, len: usize) -> Self {
        // The address stays for as long as the slice lives; nothing is ordered by the guard, since there is one stream.
        let pointer = slice.device_ptr(&device.stream).0;
        Memory { slice, pointer, len }
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Address on the device.
    pub fn pointer(&self) -> u64 {
        self.pointer
    }

    /// Copies the host's bytes to byte `start` on. Panics if they do not fit.
    pub fn write(&mut self, device: &Device, start: usize, bytes: &[u8]) -> Result<()> {
        device.refuse_to_record("a copy to the device")?;
        let mut view = self.slice.slice_mut(start..start + bytes.len());
        device.stream.memcpy_htod(bytes, &mut view).map_err(|e| failed("copying to the device", e))?;
        Self::taken(device, bytes)
    }

    /// Copies all of another memory of the same length.
    pub fn copy_from(&mut self, device: &Device, from: &Memory) -> Result<()> {
        device.stream.memcpy_dtod(&from.slice, &mut self.slice).map_err(|e| failed("copying on the device", e))
    }

    /// Copies bytes from `start` on to the host, after everything before is done. Panics if there are fewer.
    pub fn read(&self, device: &Device, start: usize, out: &mut [u8]) -> Result<()> {
        device.refuse_to_record("a copy from the device")?;
        let view = self.slice.slice(start..start + out.len());
        device.stream.memcpy_dtoh(&view, out).map_err(|e| failed("copying from the device", e))?;
        device.synchronize()
    }
}

impl Buffer {
    pub(super) fn zeroed(device: &Device, len: usize) -> Result<Self> {
        let bytes = len.checked_mul(4).filter(|&n| n <= isize::MAX as usize).ok_or_else(|| Error::OutOfMemory {
            what: "a buffer of activations".into(),
            bytes: u64::MAX,
            backend: "CUDA".into(),
        })?;
        let memory = Memory::zeroed(device, bytes, "a buffer of activations")?;
        Ok(Buffer { memory, len, codes: Mutex::default() })
    }

    /// Floats.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The 8-bit form.
    pub(super) fn codes(&self) -> MutexGuard<'_, Codes> {
        // A poisoned lock guards what is rounded anew unless it is known to be fresh.
        self.codes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The floats are about to change.
    pub(super) fn changes(&mut self) {
        self.codes.get_mut().unwrap_or_else(PoisonError::into_inner).fresh = (0, 0);
    }

    pub(super) fn read(&self, device: &Device, out: &mut [f32]) -> Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        // SAFETY: every pattern of bits is a float, and floats are aligned for bytes.
        let bytes = unsafe { std::slice::from_raw_parts_mut(out.as_mut_ptr().cast::<u8>(), size_of_val(out)) };
        self.memory.read(device, 0, bytes)
    }

    pub(super) fn write(&mut self, device: &Device, from: &[f32]) -> Result<()> {
        if from.is_empty() {
            return Ok(());
        }
        self.changes();
        self.memory.write(device, 0, floats_as_bytes(from))
    }
}

impl Codes {
    /// Makes room for the 8-bit form of a buffer of `len` floats, once.
    pub fn make_room(&mut self, device: &Device, len: usize) -> Result<()> {
        if self.memory.is_none() {
            let bytes = Self::scales_at(len) + len.div_ceil(32) * 8;
            self.memory = Some(Memory::zeroed(device, bytes, "activations rounded to 8 bits")?);
        }
        Ok(())
    }

    /// Where scales begin: behind the codes of all `len` floats of the buffer.
    fn scales_at(len: usize) -> usize {
        len.next_multiple_of(256)
    }

    /// Whether the first `len` floats are rounded as they are now.
    pub fn are_fresh(&self, device: &Device, len: usize) -> bool {
        self.fresh.0 == device.epoch() && self.fresh.1 >= len
    }

    /// The first `len` floats are rounded as they are now.
    pub fn set_fresh(&mut self, device: &Device, len: usize) {
        self.fresh = (device.epoch(), len);
    }

    /// Whether there is room: somebody multiplies these activations with quantized weights.
    pub fn are_wanted(&self) -> bool {
        self.memory.is_some()
    }

    /// Adds codes and scales of the first `len` floats of a buffer of `all` to a launch; null pointers where there is no room.
    pub fn give<'a>(&self, launch: Launch<'a>, len: usize, all: usize) -> Launch<'a> {
        self.give_from(launch, 0, len, all)
    }

    /// [`Codes::give`] from float `start` on, a multiple of 32.
    pub fn give_from<'a>(&self, launch: Launch<'a>, start: usize, len: usize, all: usize) -> Launch<'a> {
        match &self.memory {
            Some(memory) => {
                let scales = Self::scales_at(all) + start / 32 * 8;
                launch.bytes(memory, start, len).bytes(memory, scales, len / 32 * 8)
            }
            None => launch.none().none(),
        }
    }
}

/// The bytes of some floats, in the host's order: little-endian, as is every device.
pub(super) fn floats_as_bytes(floats: &[f32]) -> &[u8] {
    // SAFETY: floats have no padding, and are aligned for bytes.
    unsafe { std::slice::from_raw_parts(floats.as_ptr().cast::<u8>(), size_of_val(floats)) }
}

/// The bytes of some integers, likewise.
pub(super) fn ints_as_bytes(ints: &[u32]) -> &[u8] {
    // SAFETY: integers have no padding, and are aligned for bytes.
    unsafe { std::slice::from_raw_parts(ints.as_ptr().cast::<u8>(), size_of_val(ints)) }
}
