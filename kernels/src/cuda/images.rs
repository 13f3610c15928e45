//! The compiled kernels that are embedded in the program.

use super::device::failed;
use crate::Result;
use cudarc::driver::{CudaContext, CudaModule};
use cudarc::nvrtc::Ptx;
use std::sync::Arc;

/// Loads the images for a device of this compute capability.
pub(super) fn load(context: &Arc<CudaContext>, _capability: (i32, i32)) -> Result<Vec<Arc<CudaModule>>> {
    let module = context.load_module(Ptx::from_binary(Vec::new())).map_err(|e| failed("loading the kernels", e))?;
    Ok(vec![module])
}
