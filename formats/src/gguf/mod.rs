//! GGUF v3: header, metadata, tensor table, aligned tensor data.
//!
//! Specification: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod metadata;
mod read;
pub mod split;
mod write;

pub use metadata::{Array, Metadata, Value, ValueType};
pub use read::{Gguf, GgufFile, TensorInfo};
pub use write::{DEFAULT_ALIGNMENT, TensorEntry, Writer};

/// The four bytes every GGUF file begins with.
pub const MAGIC: [u8; 4] = *b"GGUF";
/// The version written; 2 and 3 are read (2 differs in nothing that matters here).
pub const VERSION: u32 = 3;
