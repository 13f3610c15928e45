//! Memory of the device.

use super::device::{Device, failed};
use crate::{Error, Result};
use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaSlice, DevicePtr, DriverError};

/// Bytes of the device, aligned to at least 256.
pub(super) struct Memory {
    slice: CudaSlice<u8>,
    pointer: u64,
    len: usize,
}

/// f32 activations.
pub struct Buffer {
    memory: Memory,
    len: usize,
}

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
        // SAFETY: written before anything reads it: copies and kernels follow each other on the stream.
        let mut slice =
            unsafe { device.stream.alloc::<u8>(bytes.len().max(1)) }.map_err(|e| refused(what, bytes.len(), e))?;
        if !bytes.is_empty() {
            device.stream.memcpy_htod(bytes, &mut slice).map_err(|e| failed(&format!("copying {what}"), e))?;
        }
        Ok(Self::of(device, slice, bytes.len()))
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
        device.stream.memcpy_htod(bytes, &mut view).map_err(|e| failed("copying to the device", e))
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
        Ok(Buffer { memory: Memory::zeroed(device, bytes, "a buffer of activations")?, len })
    }

    /// Floats.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn memory(&self) -> &Memory {
        &self.memory
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
        self.memory.write(device, 0, floats_as_bytes(from))
    }
}

/// The bytes of some floats, in the host's order: little-endian, as is every device.
pub(super) fn floats_as_bytes(floats: &[f32]) -> &[u8] {
    // SAFETY: floats have no padding, and are aligned for bytes.
    unsafe { std::slice::from_raw_parts(floats.as_ptr().cast::<u8>(), size_of_val(floats)) }
}
