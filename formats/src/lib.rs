//! What the bytes of quantized models mean.
//!
//! - [`block`]: every ggml tensor type with its scalar reference quantizer and dequantizer.
//! - [`gguf`]: reading and writing GGUF v3 files.
//! - [`checkpoint`]: Hugging Face folders (configuration and safetensors shards).
//! - [`imatrix`]: importance matrices, in GGUF and in their legacy form.
//! - [`packed`]: matrices that a checkpoint keeps already quantized (GPTQ, AWQ, bitsandbytes, FP8, ...).
//! - [`vocab`]: tokenizer files and the metadata that GGUF keeps of them.
//!
//! No threads, no SIMD and no model knowledge live here. Every size and offset that comes from a file goes through
//! checked arithmetic and a named limit ([`limits`]); values are checked once, in a constructor, and trusted after that.

pub mod block;
pub mod checkpoint;
mod cursor;
mod error;
pub mod gguf;
pub mod imatrix;
pub mod limits;
mod map;
pub mod packed;
mod tensor;
pub mod vocab;

pub use error::{Error, Fault, Result};
pub use map::Mapped;
pub use tensor::{QTensor, Shape, SharedBytes};
