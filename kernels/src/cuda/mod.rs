//! The CUDA backend: not there yet. The seam says so clearly instead of pretending.

use crate::{Error, Result};

/// Tells why CUDA cannot be used: this version has no CUDA engine.
pub fn unavailable<T>() -> Result<T> {
    Err(Error::Unavailable("this version of qconv has no CUDA engine yet; use --backend cpu (or auto)".into()))
}
