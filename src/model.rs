//! A model in GGUF's terms, wherever it comes from.
