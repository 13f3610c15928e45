//! What a device refuses, the stand-in refuses, and the host side lives through it. Those that are said of every driver run on a
//! GPU too.

use super::*;
use crate::Error;
use cudarc::driver::sys::{self, CUresult, CUstreamCaptureMode};
use std::ffi::{CStr, CString, c_char};
use std::io::Write;

/// The backend, if it is the stand-in. A card is told of, past the test harness, which captures what print macros write.
fn stand_in() -> Option<Cuda> {
    let cuda = cuda()?;
    if !cuda.name().contains(STAND_IN) {
        let _ = std::io::stderr().write_all(b"SKIPPED: this is about the stand-in, not about a card\n");
        return None;
    }
    Some(cuda)
}

#[test]
fn kernels_that_break_rules_are_stopped() {
    let Some(_cuda) = stand_in() else { return };
    type Refusal = unsafe extern "C" fn(*const c_char, u32) -> *const c_char;
    // SAFETY: the type is that of driver.cpp.
    let refusal = unsafe { sys::culib().get::<Refusal>(b"stand_in_refusal\0") }.unwrap();
    let refusal = |kernel: &str, threads| {
        let name = CString::new(kernel).unwrap();
        // SAFETY: the name ends with a zero; the answer is text that stays until the next call, or null.
        unsafe {
            let answer = refusal(name.as_ptr(), threads);
            (!answer.is_null()).then(|| CStr::from_ptr(answer).to_string_lossy().into_owned())
        }
    };
    let mut cases = vec![
        ("refused_barriers_apart", 64, "while others wait at"),
        ("refused_ended_lane", 64, "which is not there"),
        ("refused_own_lane_not_in_mask", 64, "is not in its own mask"),
        ("refused_lane_outside_mask", 64, "which is not there"),
        ("refused_two_places", 64, "while other lanes of mask"),
        ("refused_lane_at_a_barrier", 64, "is stuck"),
        ("refused_product_without_a_lane", 64, "which is not there"),
        ("refused_part_of_a_warp", 40, "which is not there"),
        ("refused_load", 64, "16 bytes are loaded from where they are not aligned"),
        ("refused_narrow_load", 64, "8 bytes are loaded from where they are not aligned"),
        ("refused_copy", 64, "an asynchronous copy of 16 bytes is not aligned"),
        ("refused_matrix", 64, "is not aligned to 16 bytes"),
        ("allowed_all", 64, ""),
        ("allowed_all", 65, "no device has"),
    ];
    // The sanitizer stops the whole program there.
    if std::env::var_os("QCONV_CUDA_SANITIZE").is_none() {
        cases.push(("refused_overrun", 64, "behind its 256 bytes"));
    }
    for (kernel, threads, want) in cases {
        match refusal(kernel, threads) {
            Some(told) => assert!(!want.is_empty() && told.contains(want), "{kernel}: {told}"),
            None => assert!(want.is_empty(), "{kernel} with {threads} threads was let through"),
        }
    }
}

#[test]
fn launches_beyond_the_device_are_errors_and_break_nothing() {
    let Some(cuda) = cuda() else { return };
    let mut x = filled(&cuda, &[1.0, 2.0], 0);
    for (blocks, threads, shared) in [
        ((1, 65536, 1), 256, 0),
        ((1, 1, 65536), 256, 0),
        ((1, 1, 1), 1025, 0),
        ((1, 1, 1), 512, 0), // more than the kernel is compiled for
        ((1, 1, 1), 256, 300 << 10),
    ] {
        let launch = cuda.device.launch("scale").floats_mut(&mut x, 2).float(3.0).int(2);
        let told = launch.run(blocks, (threads, 1, 1), shared);
        assert!(matches!(told, Err(Error::Device(_))), "{blocks:?} of {threads} with {shared}: {told:?}");
    }
    cuda.scale(&mut x, 3.0, 2).unwrap();
    assert_eq!(contents(&cuda, &x, 2), [3.0, 6.0]);
}

#[test]
fn threads_without_a_context_take_it() {
    let Some(cuda) = cuda() else { return };
    let doubled = std::thread::scope(|scope| {
        let there = scope.spawn(|| {
            let mut x = filled(&cuda, &[1.0, 2.0], 0);
            cuda.scale(&mut x, 2.0, 2).unwrap();
            let got = contents(&cuda, &x, 2);
            (x, got)
        });
        let (x, got) = there.join().unwrap();
        drop(x); // on another thread than it was made
        got
    });
    assert_eq!(doubled, [2.0, 4.0]);
    assert!(cuda.memory().is_ok(), "nothing went wrong in letting go");
}

/// A table that is not on the device yet: its copy must not become part of a recording, nor its address.
#[test]
fn what_a_recording_needs_is_brought_before() {
    let Some(cuda) = cuda() else { return };
    let (mut recording, mut x) = (Recording::default(), filled(&cuda, &[1.0; 8], 0));
    for i in 0..6 {
        let rope =
            Rope { style: crate::RopeStyle::Neox, frequencies: vec![0.0; 1 + usize::div_ceil(i, 2)], magnitude: 2.0 };
        cuda.repeat(&mut recording, None, &mut || cuda.rope(&rope, &mut x, 1, 1, 8, 0)).unwrap();
    }
    // Plain; recorded and refused, so plain (two pairs); recorded with two pairs, then replayed whatever the step says.
    let mut want = [1.0f32; 8];
    for pairs in [1, 2, 2, 2, 2, 2] {
        for i in 0..pairs {
            (want[i], want[i + pairs]) = (want[i] * 2.0, want[i + pairs] * 2.0);
        }
    }
    assert_eq!(contents(&cuda, &x, 8), want);
}

#[test]
fn recordings_take_launches_only() {
    let Some(cuda) = stand_in() else { return };
    let stream = &cuda.device.stream;
    let mut x = cuda.buffer(4).unwrap();
    cuda.scale(&mut x, 2.0, 4).unwrap(); // a kernel that is not there yet would have to be loaded
    let mut host = [0u8; 16];
    let mut memory = memory::Memory::upload(&cuda.device, &host, "a test").unwrap();
    let other = memory::Memory::upload(&cuda.device, &host, "a test").unwrap();
    type Call<'a> = (&'a str, Box<dyn FnMut() -> CUresult + 'a>);
    let raw = stream.cu_stream();
    let (mut at, to) = (0, memory.pointer());
    // SAFETY: the handles are alive, and addresses have the room that the calls would use.
    let mut calls: Vec<Call<'_>> = unsafe {
        vec![
            ("cuMemAllocAsync", Box::new(move || sys::cuMemAllocAsync(&mut at, 16, raw))),
            ("cuMemAlloc", Box::new(move || sys::cuMemAlloc_v2(&mut at, 16))),
            ("cuMemcpyHtoDAsync", Box::new(|| sys::cuMemcpyHtoDAsync_v2(to, host.as_mut_ptr().cast(), 16, raw))),
            ("cuStreamSynchronize", Box::new(move || sys::cuStreamSynchronize(raw))),
        ]
    };
    for (name, call) in &mut calls {
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        cuda.scale(&mut x, 2.0, 4).unwrap();
        assert_eq!(call(), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "{name}");
        let later = cuda.scale(&mut x, 2.0, 4).unwrap_err().to_string();
        assert!(later.contains("previous error during capture"), "{name}: {later}");
        assert!(stream.end_capture(sys::CUgraphInstantiate_flags(0)).is_err(), "{name}");
    }
    drop(calls);
    // Copies on the device may be recorded, and the stream is usable.
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    memory.copy_from(&cuda.device, &other).unwrap();
    stream.end_capture(sys::CUgraphInstantiate_flags(0)).unwrap().unwrap().launch().unwrap();
    assert_eq!(contents(&cuda, &x, 4), [0.0; 4]);
}

/// A device does what it is asked for when it gets to it: whoever does not wait sees old bytes, or takes memory away from a copy.
#[test]
fn nothing_happens_before_somebody_waits() {
    let Some(cuda) = stand_in() else { return };
    let stream = &cuda.device.stream;
    for (len, taken_along) in [(64 << 10, true), ((64 << 10) + 1, false)] {
        let memory = memory::Memory::zeroed(&cuda.device, len, "a test").unwrap();
        let (mut from, mut to) = (vec![1u8; len], [7u8; 2]);
        cuda.device.synchronize().unwrap();
        // SAFETY: host and device memory are as long as the copies, and live until the stream was waited for.
        unsafe {
            let (device, raw) = (memory.pointer(), stream.cu_stream());
            assert_eq!(sys::cuMemcpyHtoDAsync_v2(device, from.as_ptr().cast(), len, raw), CUresult::CUDA_SUCCESS);
            assert_eq!(sys::cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), device, 2, raw), CUresult::CUDA_SUCCESS);
        }
        from.fill(2);
        assert_eq!(to, [7, 7]);
        cuda.device.synchronize().unwrap();
        assert_eq!(to, if taken_along { [1, 1] } else { [2, 2] }, "{len} bytes");
    }
    let event = || stream.record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
    let (start, end, mut milliseconds) = (event(), event(), 0.0);
    // SAFETY: writes a float.
    let mut elapsed = || unsafe { sys::cuEventElapsedTime(&mut milliseconds, start.cu_event(), end.cu_event()) };
    assert_eq!(elapsed(), CUresult::CUDA_ERROR_NOT_READY);
    assert!(!end.try_is_complete().unwrap());
    cuda.device.synchronize().unwrap();
    assert_eq!(elapsed(), CUresult::CUDA_SUCCESS);
    assert!(end.try_is_complete().unwrap());
}

/// What breaks a context breaks it for good: each case in a process of its own, this test again.
#[test]
fn addresses_that_lead_nowhere_break_the_context() {
    const CASE: &str = "QCONV_CUDA_TESTS_CASE";
    let Some(cuda) = stand_in() else { return };
    let Ok(case) = std::env::var(CASE) else {
        for case in ["unknown", "freed", "freed and recorded", "freed twice"] {
            let test = "cuda::tests::refusals::addresses_that_lead_nowhere_break_the_context";
            let mut again = std::process::Command::new(std::env::current_exe().unwrap());
            let out = again.args(["--exact", test, "--nocapture"]).env(CASE, case).output().unwrap();
            let told = String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success() && told.contains("told of it"), "{case}: {told}");
        }
        return;
    };
    let Device { stream, .. } = &cuda.device;
    let mut x = filled(&cuda, &[1.0; 4], 0);
    cuda.scale(&mut x, 2.0, 4).unwrap();
    let place = x.memory().pointer();
    let launch = || {
        let launch = cuda.device.launch("scale").structure(&[place]).float(2.0).int(4);
        launch.run((1, 1, 1), (256, 1, 1), 0)
    };
    match &*case {
        "unknown" => {
            let launch = cuda.device.launch("scale").structure(&[0x1000]).float(2.0).int(4);
            launch.run((1, 1, 1), (256, 1, 1), 0).unwrap();
        }
        "freed" => {
            drop(x);
            launch().unwrap();
        }
        "freed and recorded" => {
            stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
            launch().unwrap();
            let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0)).unwrap().unwrap();
            graph.launch().unwrap();
            cuda.device.synchronize().unwrap();
            drop(x);
            let _elsewhere = filled(&cuda, &[1.0; 4], 0); // perhaps at the same address
            graph.launch().unwrap();
        }
        _ => {
            drop(x);
            cuda.device.synchronize().unwrap();
            // SAFETY: the stand-in knows its allocations, and refuses the rest.
            let status = unsafe { sys::cuMemFreeAsync(place, stream.cu_stream()) };
            assert_eq!(status, CUresult::CUDA_ERROR_INVALID_VALUE);
            return eprintln!("told of it");
        }
    }
    for _ in 0..2 {
        let told = cuda.device.synchronize().unwrap_err().to_string();
        assert!(told.contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{told}");
    }
    eprintln!("told of it");
}
