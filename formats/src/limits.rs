//! Named bounds on numbers that come from files, so that a corrupted count can never become an allocation.
//!
//! They are far above every model that exists (in 2026: about 2e12 weights, 2e5 vocabulary entries) and only separate
//! "large" from "nonsense".

/// Dimensions of a tensor (ggml's own bound).
pub const MAX_DIMS: usize = 4;
/// Bytes of a tensor's name. llama.cpp refuses names of 64 bytes and more (`GGML_MAX_NAME`).
pub const MAX_NAME: usize = 63;
/// Tensors in one file.
pub const MAX_TENSORS: u64 = 1 << 20;
/// Metadata keys in one file.
pub const MAX_KEYS: u64 = 1 << 16;
/// Bytes of a metadata key (the GGUF specification's bound).
pub const MAX_KEY: usize = 65_535;
/// Nesting of arrays within metadata arrays.
pub const MAX_ARRAY_DEPTH: usize = 4;
/// `general.alignment`.
pub const MAX_ALIGNMENT: u32 = 1 << 20;
/// Bytes of a JSON side file (`config.json`, `tokenizer.json`, ...). The largest tokenizers have about 40 MB.
pub const MAX_JSON: u64 = 1 << 30;
/// Bytes of a safetensors header (the reference implementation's bound).
pub const MAX_SAFETENSORS_HEADER: u64 = 100_000_000;
/// Strings, or arrays, in a metadata array: each takes several times its bytes in memory. The largest vocabularies have
/// some 300,000 entries.
pub const MAX_STRINGS: u64 = 1 << 24;
