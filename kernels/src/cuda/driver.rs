//! What the driver's library has to have.

use cudarc::driver::sys;

/// The functions that are called, here and by cudarc. It looks each up at the first call, and panics if the library has none of that
/// name. All of them are older than [`super::device`]'s oldest driver; what is not a whole driver (an emulation, a broken
/// installation) may lack some all the same.
const NEEDED: &[&str] = &[
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuCtxSynchronize",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDeviceGetPCIBusId",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDeviceTotalMem_v2",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventElapsedTime",
    "cuEventQuery",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuFuncGetAttribute",
    "cuFuncSetAttribute",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphUpload",
    "cuInit",
    "cuLaunchKernel",
    "cuMemAllocAsync",
    "cuMemAlloc_v2",
    "cuMemFreeAsync",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuStreamBeginCapture_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
    "cuStreamIsCapturing",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
];

/// The first needed function that the library lacks. The library must be there: [`sys::is_culib_present`].
pub(super) fn missing() -> Option<&'static str> {
    first_missing(|name| {
        // SAFETY: the address is not used, only whether there is one.
        unsafe { sys::culib().get::<unsafe extern "C" fn()>(name.as_bytes()) }.is_ok()
    })
}

fn first_missing(has: impl Fn(&str) -> bool) -> Option<&'static str> {
    NEEDED.iter().copied().find(|name| !has(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The stand-in has what is called and no more: a call of anything else would fail the tests that run on it.
    #[test]
    fn the_list_is_what_the_stand_in_has() {
        // Of 12.4; without them less is checked.
        const OPTIONAL: [&str; 2] = ["cuFuncGetParamInfo", "cuFuncLoad"];
        let source = include_str!("../../cuda/cpu/driver.cpp");
        let mut there: Vec<&str> = source
            .lines()
            .filter_map(|line| line.strip_prefix("CUDA_API ")?.split('(').next())
            .filter(|name| name.starts_with("cu") && !OPTIONAL.contains(name))
            .collect();
        there.sort_unstable();
        assert_eq!(NEEDED, there);
    }

    #[test]
    fn the_first_that_is_missing_is_named() {
        assert_eq!(first_missing(|_| true), None);
        assert_eq!(first_missing(|name| !name.starts_with("cuStream")), Some("cuStreamBeginCapture_v2"));
    }
}
