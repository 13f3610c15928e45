//! What the device does meanwhile: memory, power and utilization, from the management library that comes with the driver (NVML,
//! API reference 12.4). It is looked for when somebody asks; without it a run goes on, and says that nothing is known.

use super::device::Device;
use crate::DeviceUse;
use libloading::Library;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The library's name. Beside a container's or a system's driver there is this one, and not always a name without the number.
const LIBRARY: &str = "libnvidia-ml.so.1";

/// Between two looks. The library itself averages power and utilization over some 20 to 1000 ms.
const INTERVAL: Duration = Duration::from_millis(50);

/// `nvmlMemory_t`: bytes.
#[repr(C)]
#[derive(Default)]
struct MemoryInfo {
    total: u64,
    free: u64,
    used: u64,
}

/// `nvmlUtilization_t`: percent of the last sampling period in which a kernel ran, or memory was read or written.
#[repr(C)]
#[derive(Default)]
struct Utilization {
    gpu: c_uint,
    memory: c_uint,
}

type Handle = *mut c_void;

/// The library's functions for one device.
struct Nvml {
    device: Handle,
    memory: unsafe extern "C" fn(Handle, *mut MemoryInfo) -> c_int,
    power: unsafe extern "C" fn(Handle, *mut c_uint) -> c_int,
    utilization: unsafe extern "C" fn(Handle, *mut Utilization) -> c_int,
    shutdown: unsafe extern "C" fn() -> c_int,
    /// Keeps the functions where they are.
    _library: Library,
}

// SAFETY: the library may be called from any thread (API reference, "thread safety"); the handle is a name, not memory of ours.
unsafe impl Send for Nvml {}
// SAFETY: as above.
unsafe impl Sync for Nvml {}

impl Nvml {
    /// Errors: why nothing will be known.
    fn open(bus: &CStr) -> Result<Self, String> {
        // SAFETY: loads the driver's own library, whose initializers are the driver's.
        let library = unsafe { Library::new(LIBRARY) }.map_err(|_| format!("{LIBRARY} is not there"))?;
        // SAFETY: the types are those of nvml.h; the pointers are used while the library is loaded.
        unsafe {
            fn missing(name: &str) -> impl Fn(libloading::Error) -> String + '_ {
                move |_| format!("{LIBRARY} has no {name}")
            }
            macro_rules! function {
                ($name:literal, $type:ty) => {
                    *library.get::<$type>(concat!($name, "\0").as_bytes()).map_err(missing($name))?
                };
            }
            let start = function!("nvmlInit_v2", unsafe extern "C" fn() -> c_int);
            let find = function!(
                "nvmlDeviceGetHandleByPciBusId_v2",
                unsafe extern "C" fn(*const c_char, *mut Handle) -> c_int
            );
            let shutdown = function!("nvmlShutdown", unsafe extern "C" fn() -> c_int);
            let memory = function!("nvmlDeviceGetMemoryInfo", unsafe extern "C" fn(Handle, *mut MemoryInfo) -> c_int);
            let power = function!("nvmlDeviceGetPowerUsage", unsafe extern "C" fn(Handle, *mut c_uint) -> c_int);
            let utilization =
                function!("nvmlDeviceGetUtilizationRates", unsafe extern "C" fn(Handle, *mut Utilization) -> c_int);
            let status = start();
            if status != 0 {
                return Err(format!("{LIBRARY} does not start (error {status})"));
            }
            let mut device = std::ptr::null_mut();
            let status = find(bus.as_ptr(), &mut device);
            if status != 0 {
                shutdown();
                return Err(format!("{LIBRARY} does not know the device {} (error {status})", bus.to_string_lossy()));
            }
            Ok(Nvml { device, memory, power, utilization, shutdown, _library: library })
        }
    }

    /// Adds what there is now.
    fn look(&self, seen: &mut Seen) {
        let (mut memory, mut milliwatts, mut busy) = (MemoryInfo::default(), 0, Utilization::default());
        // SAFETY: each writes one value of the type that nvml.h gives it, where it succeeds.
        let told = unsafe {
            [
                (self.memory)(self.device, &mut memory),
                (self.power)(self.device, &mut milliwatts),
                (self.utilization)(self.device, &mut busy),
            ]
        };
        if told[0] == 0 {
            seen.memory = seen.memory.max(memory.used);
        }
        if told[1] == 0 {
            seen.watts.add(f64::from(milliwatts) / 1e3);
        }
        if told[2] == 0 {
            seen.busy.add(f64::from(busy.gpu) / 100.0);
        }
    }
}

impl Drop for Nvml {
    fn drop(&mut self) {
        // SAFETY: it was started.
        unsafe { (self.shutdown)() };
    }
}

/// Several looks at one quantity.
#[derive(Default)]
struct Looks {
    count: usize,
    sum: f64,
    highest: f64,
}

impl Looks {
    fn add(&mut self, value: f64) {
        self.count += 1;
        self.sum += value;
        self.highest = self.highest.max(value);
    }

    /// Mean and highest. `None`: the device does not tell.
    fn summary(&self) -> Option<(f64, f64)> {
        (self.count > 0).then(|| (self.sum / self.count as f64, self.highest))
    }
}

#[derive(Default)]
struct Seen {
    memory: u64,
    watts: Looks,
    busy: Looks,
}

/// Somebody who looks every few milliseconds, until dropped.
pub(super) struct Watch {
    nvml: Arc<Nvml>,
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    // Sums are whole after every look.
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// Errors: why nothing will be known.
    pub fn start(device: &Device) -> Result<Self, String> {
        let nvml = Arc::new(Nvml::open(&device.bus()?)?);
        let (seen, stop) = (Arc::new(Mutex::new(Seen::default())), Arc::new(AtomicBool::new(false)));
        nvml.look(&mut lock(&seen));
        let theirs = (nvml.clone(), seen.clone(), stop.clone());
        let thread = thread::Builder::new().name("nvml".into()).spawn(move || {
            let (nvml, seen, stop) = theirs;
            while !stop.load(Ordering::Relaxed) {
                thread::park_timeout(INTERVAL);
                nvml.look(&mut lock(&seen));
            }
        });
        Ok(Watch { nvml, seen, stop, thread: Some(thread.map_err(|e| e.to_string())?) })
    }

    /// What was seen so far, now included.
    pub fn seen(&self) -> DeviceUse {
        let mut seen = lock(&self.seen);
        self.nvml.look(&mut seen);
        DeviceUse::Seen {
            peak_memory: seen.memory,
            watts: seen.watts.summary(),
            busy: seen.busy.summary().map(|(mean, _)| mean),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic there has lost nothing but looks.
            let _ = thread.join();
        }
    }
}
