//! Opening a device, and its modules of kernels.

use super::driver;
use super::images;
use super::launch::{Kernel, Launch};
use super::memory::{Memory, floats_as_bytes, ints_as_bytes};
use super::profile::Profile;
use super::tuning::Tuning;
use super::workspace::Workspace;
use crate::{Error, KernelTime, Result, Stopwatch};
use cudarc::driver::sys::{self, CUdevice_attribute, CUevent_flags, CUresult};
use cudarc::driver::{CudaContext, CudaModule, CudaStream, DriverError, result};
use std::collections::HashMap;
use std::ffi::CString;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The oldest compute capability that kernels are compiled for: Turing.
const OLDEST: (i32, i32) = (7, 5);

/// The oldest driver that loads images of a CUDA 12 compiler, as it tells its version: CUDA 12.0, driver 525.
const OLDEST_DRIVER: i32 = 12_000;

/// A device, its one stream, and its kernels.
pub(super) struct Device {
    pub context: Arc<CudaContext>,
    pub stream: Arc<CudaStream>,
    name: String,
    capability: (i32, i32),
    modules: Vec<Arc<CudaModule>>,
    kernels: Mutex<HashMap<String, Option<Arc<Kernel>>>>,
    staging: Mutex<Option<Memory>>,
    position: Mutex<Option<(Vec<u32>, Memory)>>,
    tokens: Mutex<Option<(Vec<u32>, Memory)>>,
    recording: AtomicBool,
    profile: Mutex<Option<Profile>>,
    constants: Mutex<Vec<(Vec<f32>, Memory)>>,
    workspace: Workspace,
    multiprocessors: usize,
    tuning: Tuning,
    epoch: AtomicU64,
}

/// What a failed call of the driver means, in words.
pub(super) fn failed(what: &str, error: DriverError) -> Error {
    let name = error.error_name();
    let name = name.map_or_else(|_| format!("error {}", error.0 as u32), |n| n.to_string_lossy().into_owned());
    let said = error.error_string().map_or(String::new(), |s| format!(" ({})", s.to_string_lossy()));
    Error::Device(format!("the CUDA driver failed while {what}: {name}{said}"))
}

fn unavailable<T>(sentence: impl Into<String>) -> Result<T> {
    Err(Error::Unavailable(sentence.into()))
}

/// A poisoned lock guards memory that is written anew before it is read.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Device {
    /// Errors: see [`super::Cuda::new`].
    pub fn open(ordinal: usize) -> Result<Self> {
        // SAFETY: loads the driver's library and lets go of it again; its initializers are the driver's own.
        if !unsafe { sys::is_culib_present() } {
            return unavailable("there is no NVIDIA driver here (libcuda.so was not found); use --backend cpu");
        }
        match result::init() {
            Ok(()) => {}
            Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => {
                return unavailable("the NVIDIA driver finds no device; use --backend cpu");
            }
            Err(DriverError(CUresult::CUDA_ERROR_STUB_LIBRARY)) => {
                return unavailable(
                    "the libcuda.so that was found is the stub of a CUDA toolkit, not the NVIDIA driver's: take its folder off \
                     LD_LIBRARY_PATH, or use --backend cpu",
                );
            }
            Err(e) => return unavailable(format!("{}; use --backend cpu", failed("starting", e))),
        }
        let mut version = 0;
        // SAFETY: writes one integer.
        let status = unsafe { sys::cuDriverGetVersion(&mut version) };
        if status != CUresult::CUDA_SUCCESS || version < OLDEST_DRIVER {
            return unavailable(format!(
                "the NVIDIA driver knows CUDA {}.{}; version 12.0 (driver 525) or newer is needed",
                version / 1000,
                version % 1000 / 10
            ));
        }
        if let Some(name) = driver::missing() {
            return unavailable(format!(
                "the NVIDIA driver's libcuda.so has no {name}: install it anew, or use --backend cpu"
            ));
        }
        let starting = |e| Error::Unavailable(format!("{}; use --backend cpu", failed("opening the device", e)));
        let count = CudaContext::device_count().map_err(starting)?;
        if ordinal >= usize::try_from(count).unwrap_or(0) {
            return unavailable(match count {
                0 => "the NVIDIA driver finds no device; use --backend cpu".to_owned(),
                _ => format!("there is no CUDA device {ordinal}; the machine has {count}, counted from 0"),
            });
        }
        let context = CudaContext::new(ordinal).map_err(starting)?;
        // SAFETY: everything happens on one stream, so that no events are needed to order it.
        unsafe { context.disable_event_tracking() };
        let name = context.name().map_err(starting)?;
        let capability = context.compute_capability().map_err(starting)?;
        if capability < OLDEST {
            return unavailable(format!(
                "{name} has compute capability {}.{}; {}.{} (Turing) or newer is needed",
                capability.0, capability.1, OLDEST.0, OLDEST.1
            ));
        }
        let stream = context.new_stream().map_err(starting)?;
        let count = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let count = context.attribute(count).map_err(starting)?;
        let multiprocessors = usize::try_from(count).unwrap_or(0).max(1);
        let tuning = Tuning::from_environment()?;
        let modules = images::load(&context, capability, &tuning)?;
        Ok(Device {
            context,
            stream,
            name,
            capability,
            modules,
            kernels: Mutex::default(),
            staging: Mutex::default(),
            position: Mutex::default(),
            tokens: Mutex::default(),
            recording: AtomicBool::new(false),
            profile: Mutex::default(),
            constants: Mutex::default(),
            workspace: Workspace::default(),
            multiprocessors,
            tuning,
            epoch: AtomicU64::new(1),
        })
    }

    /// For reports: `cuda (NVIDIA H200, 9.0)`, and what was set to other values.
    pub fn name(&self) -> String {
        let set: String = self.tuning.set.iter().map(|s| format!("; {s}")).collect();
        format!("cuda ({}, {}.{}{set})", self.name, self.capability.0, self.capability.1)
    }

    /// What may be varied.
    pub fn tuning(&self) -> &Tuning {
        &self.tuning
    }

    /// Other values than the environment's.
    #[cfg(test)]
    pub fn tune(&mut self) -> &mut Tuning {
        &mut self.tuning
    }

    /// Multiprocessors: how many blocks it takes to fill the device.
    pub fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    /// Changes when recording begins or ends, and when what was recorded is launched: what was seen of buffers before is not what
    /// they hold after.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// See [`Device::epoch`].
    pub fn next_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether there is a kernel of this name. Errors: the driver's.
    pub fn has(&self, kernel: &str) -> Result<bool> {
        Ok(self.look_up(kernel)?.is_some())
    }

    /// Memory for what lives no longer than one operation.
    pub fn workspace(&self) -> &Workspace {
        &self.workspace
    }

    /// An attribute of the device; 0 where the driver does not tell.
    pub fn attribute(&self, attribute: CUdevice_attribute) -> usize {
        self.context.attribute(attribute).ok().and_then(|v| usize::try_from(v).ok()).unwrap_or(0)
    }

    /// Bytes of memory that are free, and all of them.
    pub fn memory(&self) -> Result<(u64, u64)> {
        let (free, total) = self.context.mem_get_info().map_err(|e| failed("asking for memory", e))?;
        Ok((free as u64, total as u64))
    }

    /// Begins a launch of the kernel of this name.
    pub fn launch(&self, kernel: &str) -> Launch<'_> {
        Launch::new(self, self.kernel(kernel))
    }

    /// A kernel, looked for in all modules once. Errors: there is none of this name, which is the program's fault.
    fn kernel(&self, name: &str) -> Result<Arc<Kernel>> {
        let found = self.look_up(name)?;
        found.ok_or_else(|| Error::Device(format!("there is no CUDA kernel {name} in this program")))
    }

    /// A kernel, if there is one of this name. What is remembered is an answer; an error of the driver is none, and may be gone
    /// the next time (while recording there are calls that it refuses).
    fn look_up(&self, name: &str) -> Result<Option<Arc<Kernel>>> {
        let mut kernels = lock(&self.kernels);
        if let Some(known) = kernels.get(name) {
            return Ok(known.clone());
        }
        let mut kernel = None;
        for module in &self.modules {
            match module.load_function(name) {
                Ok(function) => {
                    kernel = Some(Arc::new(Kernel::new(name, function)));
                    break;
                }
                Err(DriverError(CUresult::CUDA_ERROR_NOT_FOUND)) => {}
                Err(e) => return Err(failed(&format!("looking for kernel {name}"), e)),
            }
        }
        kernels.insert(name.to_owned(), kernel.clone());
        Ok(kernel)
    }

    /// Gives `with` these bytes in device memory, which is used again by the next call.
    pub fn staged(&self, bytes: &[u8], with: impl FnOnce(&Memory) -> Result<()>) -> Result<()> {
        let mut staging = lock(&self.staging);
        let memory = match &mut *staging {
            Some(memory) if memory.len() >= bytes.len() => memory,
            _ => {
                // Old memory is freed behind the kernels that use it, on the same stream.
                let room = bytes.len().next_power_of_two().max(4096);
                staging.insert(Memory::zeroed(self, room, "numbers of rows")?)
            }
        };
        memory.write(self, 0, bytes)?;
        with(memory)
    }

    /// Gives `with` the position of a batch's first row in device memory, `(1)` int. Kernels read it there, so that a recorded
    /// token can be replayed at another position.
    pub fn at_position(&self, start: usize, with: impl FnOnce(&Memory) -> Result<()>) -> Result<()> {
        self.at(&self.position, 1, &[u32::try_from(start).expect("positions fit an int")], with)
    }

    /// Gives `with` the numbers of a few tokens that are computed (up to [`Device::FEW_TOKENS`]), likewise.
    pub fn at_tokens(&self, tokens: &[u32], with: impl FnOnce(&Memory) -> Result<()>) -> Result<()> {
        self.at(&self.tokens, Self::FEW_TOKENS, tokens, with)
    }

    /// Tokens whose numbers have a place that stays where it is.
    pub const FEW_TOKENS: usize = 256;

    /// `place` has room for `room` numbers. What lies there already is not copied again.
    fn at(
        &self,
        place: &Mutex<Option<(Vec<u32>, Memory)>>,
        room: usize,
        numbers: &[u32],
        with: impl FnOnce(&Memory) -> Result<()>,
    ) -> Result<()> {
        let mut place = lock(place);
        let (now, memory) = match &mut *place {
            Some(place) => place,
            None => place.insert((Vec::with_capacity(room), Memory::zeroed(self, 4 * room, "numbers of tokens")?)),
        };
        if now != numbers {
            now.clear();
            memory.write(self, 0, ints_as_bytes(numbers))?;
            now.extend_from_slice(numbers);
        }
        with(memory)
    }

    /// From now on launches are recorded, or no longer.
    pub fn set_recording(&self, recording: bool) {
        self.recording.store(recording, Ordering::Relaxed);
        self.next_epoch();
    }

    /// Errors: launches are being recorded, and `what` cannot be.
    pub fn refuse_to_record(&self, what: &str) -> Result<()> {
        match self.recording.load(Ordering::Relaxed) {
            true => Err(Error::Device(format!("{what} cannot be recorded"))),
            false => Ok(()),
        }
    }

    /// Where the device is plugged in, as the driver's other libraries name it. Errors: the driver does not tell.
    pub fn bus(&self) -> Result<CString, String> {
        let mut text = [0; 32];
        // SAFETY: writes at most as many bytes, the last of them 0.
        let status =
            unsafe { sys::cuDeviceGetPCIBusId(text.as_mut_ptr(), text.len() as i32, self.context.cu_device()) };
        if status != CUresult::CUDA_SUCCESS {
            return Err("the driver does not tell where the device is".to_owned());
        }
        let bytes: Vec<u8> = text.iter().map(|c| c.to_ne_bytes()[0]).take_while(|b| *b != 0).collect();
        CString::new(bytes).map_err(|e| e.to_string())
    }

    /// See [`crate::Backend::stopwatch`]: between two events of the stream.
    pub fn stopwatch(&self) -> Result<Stopwatch<'_>> {
        let event = || {
            let event = self.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
            event.map_err(|e| failed("recording an event", e))
        };
        let start = event()?;
        Ok(Box::new(move || {
            let end = event()?;
            self.synchronize()?;
            let milliseconds = start.elapsed_ms(&end).map_err(|e| failed("reading an event", e))?;
            Ok(f64::from(milliseconds) / 1e3)
        }))
    }

    /// Begins to take the time of every launch.
    pub fn start_profile(&self) {
        *lock(&self.profile) = Some(Profile::default());
    }

    /// Whether launches are timed: then they are not recorded.
    pub fn is_profiled(&self) -> bool {
        lock(&self.profile).is_some()
    }

    /// The times since [`Device::start_profile`]; none if that was not called.
    pub fn kernel_times(&self) -> Result<Vec<KernelTime>> {
        let profile = lock(&self.profile).take();
        profile.map_or(Ok(Vec::new()), |profile| profile.times(self))
    }

    /// Launches, timed if that was asked for.
    pub fn timed(&self, kernel: &str, launch: impl FnOnce() -> Result<()>) -> Result<()> {
        match &mut *lock(&self.profile) {
            Some(profile) => profile.around(self, kernel, launch),
            None => launch(),
        }
    }

    /// Gives `with` floats that hardly ever change, in device memory: copied there once.
    pub fn constant(&self, floats: &[f32], with: impl FnOnce(&Memory) -> Result<()>) -> Result<()> {
        let mut constants = lock(&self.constants);
        let at = match constants.iter().position(|(known, _)| known == floats) {
            Some(at) => at,
            None => {
                let memory = Memory::upload(self, floats_as_bytes(floats), "a table of constants")?;
                constants.push((floats.to_vec(), memory));
                constants.len() - 1
            }
        };
        with(&constants[at].1)
    }

    /// Waits until everything that was asked for is done.
    pub fn synchronize(&self) -> Result<()> {
        self.stream.synchronize().map_err(|e| failed("computing", e))
    }
}
