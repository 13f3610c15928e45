//! Recording a token: all its launches become one CUDA graph, so that the device never waits for the host between them.
//!
//! A step runs plainly the first time: kernels are looked up, workspaces grow. The second time its launches are captured instead
//! of run, and from then on the graph is launched. It may be a token of each of several sequences, too. What changes from step to
//! step (numbers of tokens, their position) lies in device memory and is written before. What decides how launches are cut (how
//! many positions there are) is allowed to change within one recording only as far as kernels can do with it: a recording is
//! good up to the next power of two of positions.

use super::device::{Device, failed};
use crate::Result;
use cudarc::driver::CudaGraph;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};

/// What is kept of a step that is repeated, token after token.
#[derive(Default)]
pub struct Recording(State);

#[derive(Default)]
enum State {
    /// Nothing has run yet.
    #[default]
    New,
    /// It has run, and could not be recorded so many times: a workspace had to grow, or it does what cannot be recorded.
    Warm { failures: usize },
    /// Launches are being captured, to be good up to so many positions.
    Capturing { failures: usize, positions: usize },
    /// It is recorded.
    Recorded { graph: CudaGraph, positions: usize },
}

/// Positions from which on recordings are told apart.
const FIRST: usize = 128;

/// Failures after which it is not tried again.
const MOST_FAILURES: usize = 3;

/// See [`crate::Backend::begin_step`].
pub(super) fn begin(device: &Device, recording: &mut Recording, at: Option<(&[u32], usize)>) -> Result<bool> {
    let Recording(state) = recording;
    let many = at.is_some_and(|(tokens, _)| tokens.len() > Device::FEW_TOKENS);
    if !device.tuning().graphs || device.is_profiled() || many {
        return Ok(false);
    }
    let failures = match state {
        State::New => {
            *state = State::Warm { failures: 0 };
            return Ok(false);
        }
        State::Warm { failures } if *failures >= MOST_FAILURES => return Ok(false),
        State::Warm { failures } | State::Capturing { failures, .. } => *failures,
        State::Recorded { .. } => 0,
    };
    let mut now = FIRST;
    if let Some((tokens, start)) = at {
        // Where the recorded launches will look for them.
        device.at_tokens(tokens, |_| Ok(()))?;
        device.at_position(start, |_| Ok(()))?;
        now = (start + 1).next_power_of_two().max(FIRST);
    }
    if let State::Recorded { graph, positions } = state
        && *positions == now
    {
        launch(device, graph)?;
        return Ok(true);
    }
    // A graph that is gone must not be launched again, whatever happens below.
    *state = State::Warm { failures: failures + 1 };
    let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    device.stream.begin_capture(mode).map_err(|e| failed("beginning to record", e))?;
    device.set_recording(true);
    *state = State::Capturing { failures: failures + 1, positions: now };
    Ok(false)
}

/// See [`crate::Backend::end_step`].
pub(super) fn end(device: &Device, recording: &mut Recording, outcome: Result<()>) -> Result<bool> {
    let Recording(state) = recording;
    let State::Capturing { failures, positions } = *state else { return outcome.map(|()| true) };
    *state = State::Warm { failures };
    device.set_recording(false);
    let graph = device.stream.end_capture(CUgraphInstantiate_flags(0));
    match (outcome, graph) {
        (Ok(()), Ok(Some(graph))) => {
            launch(device, &graph)?;
            *state = State::Recorded { graph, positions };
            Ok(true)
        }
        // The stream is usable again in any case; an error of the step comes back when it runs plainly.
        _ => Ok(false),
    }
}

fn launch(device: &Device, graph: &CudaGraph) -> Result<()> {
    device.next_epoch(); // it changes buffers that no launch of ours names
    graph.launch().map_err(|e| failed("replaying a token", e))
}
