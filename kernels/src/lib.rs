//! How to compute fast on packed weights.
//!
//! [`Backend`] is the seam: about a dozen operations on a backend's own weight, buffer and cache types. The engine is
//! generic over it and knows nothing of instruction sets or devices; backends know nothing of architectures or files.

mod backend;
pub mod cpu;
pub mod cuda;
pub mod split;

pub use backend::{
    ARGMAX_LIMIT, Activation, Attention, Backend, CacheShape, DeviceUse, Error, ExpertWeights, KernelTime, MixBuffers,
    Mixing, Norm, Product, Result, Rope, RopeStyle, Stopwatch,
};
