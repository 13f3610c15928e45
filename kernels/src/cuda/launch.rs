//! The one place where kernels are launched: arguments are collected with their types, buffers are checked for the length
//! that the kernel reads or writes, and all of it is compared with what the driver knows of the kernel's parameters.

use super::device::{Device, failed};
use super::memory::{Buffer, Memory};
use crate::{Error, Result};
use cudarc::driver::sys::{self, CUfunction, CUfunction_attribute, CUresult};
use cudarc::driver::{CudaFunction, result};
use std::ffi::c_void;
use std::sync::Arc;

/// Most parameters of a kernel, and most words of eight bytes that they take together.
const MOST: usize = 24;
const MOST_WORDS: usize = 96;

/// Blocks that a grid has at most along y and z, where some kernels have a row each. Source: CUDA C++ Programming Guide, table of
/// compute capabilities.
pub(super) const MOST_BLOCKS: usize = 65535;

/// The largest size that kernels see.
pub(super) const MOST_INT: usize = i32::MAX as usize;

/// Dynamic shared memory that a block gets without asking for more, in bytes.
const SHARED_UNASKED: usize = 48 << 10;

/// A kernel that was found in a module.
pub(super) struct Kernel {
    name: String,
    function: CudaFunction,
    /// Bytes of each parameter; `None` with drivers before 12.4, which do not tell.
    parameters: Option<Vec<usize>>,
}

impl Kernel {
    pub fn new(name: &str, function: CudaFunction) -> Self {
        // SAFETY: the handle is a module's function.
        let parameters = unsafe {
            load(function.cu_function());
            parameters(function.cu_function())
        };
        Kernel { name: name.to_owned(), function, parameters }
    }
}

/// Brings a function to the device now. Drivers do that at the first launch otherwise (lazy loading), which may be one that is
/// being recorded. Before 12.4 they have no such call; what goes wrong here is told by the launch.
///
/// # Safety
/// `function` is a module's.
unsafe fn load(function: CUfunction) {
    type FuncLoad = unsafe extern "C" fn(CUfunction) -> CUresult;
    // SAFETY: the type is that of cuda.h 12.4; older drivers have no such symbol.
    if let Ok(load) = unsafe { sys::culib().get::<FuncLoad>(b"cuFuncLoad\0") } {
        // SAFETY: the function is a module's.
        unsafe { load(function) };
    }
}

/// Sizes of a kernel's parameters, where the driver tells them.
///
/// # Safety
/// `function` is a loaded function.
unsafe fn parameters(function: CUfunction) -> Option<Vec<usize>> {
    type GetParamInfo = unsafe extern "C" fn(CUfunction, usize, *mut usize, *mut usize) -> CUresult;
    // SAFETY: the type is that of cuda.h 12.4; older drivers have no such symbol.
    let ask = unsafe { sys::culib().get::<GetParamInfo>(b"cuFuncGetParamInfo\0") }.ok()?;
    let mut sizes = Vec::new();
    loop {
        let (mut offset, mut size) = (0, 0);
        // SAFETY: writes two integers; an index behind the last parameter gives an error.
        let status = unsafe { ask(function, sizes.len(), &mut offset, &mut size) };
        match status {
            CUresult::CUDA_SUCCESS => sizes.push(size),
            CUresult::CUDA_ERROR_INVALID_VALUE => return Some(sizes),
            _ => return None, // it does not tell: arguments are then not compared
        }
    }
}

/// A launch that is being put together.
#[must_use = "nothing runs before `run`"]
pub(super) struct Launch<'a> {
    device: &'a Device,
    kernel: Result<Arc<Kernel>>,
    words: [u64; MOST_WORDS],
    used: usize,
    starts: [usize; MOST],
    sizes: [usize; MOST],
    count: usize,
}

impl<'a> Launch<'a> {
    pub fn new(device: &'a Device, kernel: Result<Arc<Kernel>>) -> Self {
        Launch { device, kernel, words: [0; MOST_WORDS], used: 0, starts: [0; MOST], sizes: [0; MOST], count: 0 }
    }

    fn push(mut self, words: &[u64], size: usize) -> Self {
        assert!(self.count < MOST && self.used + words.len() <= MOST_WORDS, "too many parameters");
        (self.starts[self.count], self.sizes[self.count]) = (self.used, size);
        self.words[self.used..self.used + words.len()].copy_from_slice(words);
        self.used += words.len();
        self.count += 1;
        self
    }

    /// `const float*`: the kernel reads the first `len` floats.
    pub fn floats(self, buffer: &Buffer, len: usize) -> Self {
        self.floats_from(buffer, 0, len)
    }

    /// `const float*`: the kernel reads `len` floats from float `start` on.
    pub fn floats_from(self, buffer: &Buffer, start: usize, len: usize) -> Self {
        let end = start.checked_add(len).expect("a range of floats");
        assert!(buffer.len() >= end, "a buffer of {} floats is read to {end}", buffer.len());
        self.push(&[buffer.memory().pointer() + 4 * start as u64], 8)
    }

    /// `float*`: the kernel writes within the first `len` floats.
    pub fn floats_mut(self, buffer: &mut Buffer, len: usize) -> Self {
        self.floats_mut_from(buffer, 0, len)
    }

    /// `float*`: the kernel writes within `len` floats from float `start` on.
    pub fn floats_mut_from(self, buffer: &mut Buffer, start: usize, len: usize) -> Self {
        buffer.changes();
        self.floats_from(buffer, start, len)
    }

    /// A pointer to memory that is read from byte `start` on for `len` bytes.
    pub fn bytes(self, memory: &Memory, start: usize, len: usize) -> Self {
        let end = start.checked_add(len).expect("a range of bytes");
        assert!(memory.len() >= end, "memory of {} bytes is read to {end}", memory.len());
        self.push(&[memory.pointer() + start as u64], 8)
    }

    /// A pointer to memory that is written within `len` bytes from byte `start` on.
    pub fn bytes_mut(self, memory: &mut Memory, start: usize, len: usize) -> Self {
        self.bytes(memory, start, len)
    }

    /// A null pointer: the kernel does without.
    pub fn none(self) -> Self {
        self.push(&[0], 8)
    }

    /// `int`. Panics beyond its range: shapes were checked to be below.
    pub fn int(self, value: usize) -> Self {
        let value = i32::try_from(value).expect("sizes that kernels see fit an int");
        self.push(&[u64::from(value.cast_unsigned())], 4)
    }

    /// `float`.
    pub fn float(self, value: f32) -> Self {
        self.push(&[u64::from(value.to_bits())], 4)
    }

    /// A struct by value, `words.len() * 8` bytes: pointers (of [`Memory::pointer`], whose lengths the caller has checked), and
    /// integers in pairs.
    #[allow(dead_code)] // the next kernels to come take lists of weights
    pub fn structure(self, words: &[u64]) -> Self {
        self.push(words, words.len() * 8)
    }

    /// Launches `blocks` blocks (x, y, z) of `threads` threads (x, y, z) with `shared` bytes of dynamic shared memory each.
    /// Returns before the kernel has run. Errors: the driver's, or arguments that are not the kernel's.
    pub fn run(mut self, blocks: (usize, usize, usize), threads: (usize, usize, usize), shared: usize) -> Result<()> {
        let kernel = std::mem::replace(&mut self.kernel, Err(Error::Device(String::new())))?;
        let given = &self.sizes[..self.count];
        if let Some(known) = &kernel.parameters
            && known != given
        {
            return Err(Error::Device(format!(
                "kernel {} has parameters of {known:?} bytes and was given {given:?}",
                kernel.name
            )));
        }
        let fail = |e| failed(&format!("launching {}", kernel.name), e);
        let dim = |(x, y, z): (usize, usize, usize)| {
            let dim = |n: usize| u32::try_from(n).expect("sizes of grids fit 32 bits");
            (dim(x), dim(y), dim(z))
        };
        let (blocks, threads) = (dim(blocks), dim(threads));
        if blocks.0 == 0 || blocks.1 == 0 || blocks.2 == 0 {
            return Ok(());
        }
        self.device.context.bind_to_thread().map_err(fail)?;
        if shared > SHARED_UNASKED {
            let most = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            kernel.function.set_attribute(most, shared as i32).map_err(fail)?;
        }
        let base = self.words.as_mut_ptr();
        // A parameter of no words would start behind the last one; there are none.
        let mut pointers = self.starts.map(|start| base.wrapping_add(start).cast::<c_void>());
        let (function, stream) = (kernel.function.cu_function(), self.device.stream.cu_stream());
        // SAFETY: the function and the stream are alive and of this context; every pointer leads to as many bytes as the
        // driver copies (whole words, little-endian). That the kernel stays inside the lengths
        // checked above is the kernels' part, tested under the sanitizers.
        let mut launch = || unsafe {
            result::launch_kernel(function, blocks, threads, shared as u32, stream, &mut pointers[..self.count])
        };
        self.device.timed(&kernel.name, || launch().map_err(fail))
    }

    /// [`Launch::run`] with one thread for each of `n` elements, in blocks of `threads`.
    pub fn run_over(self, n: usize, threads: usize) -> Result<()> {
        self.run((n.div_ceil(threads), 1, 1), (threads, 1, 1), 0)
    }
}
