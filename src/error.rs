//! Whose fault an error is, and the exit code that follows.

use qconv_formats::{Error, Fault};

/// An error that the caller can mend: wrong flags, impossible wishes. Exit code 2.
pub fn caller(sentence: impl Into<String>) -> anyhow::Error {
    Error::caller(sentence).into()
}

/// An error in a file's content. Exit code 1.
pub fn malformed(
    file: impl AsRef<std::path::Path>,
    place: impl Into<String>,
    problem: impl Into<String>,
) -> anyhow::Error {
    Error::malformed(file, place, problem).into()
}

/// 2 for the caller's fault, 1 for a file's or the system's.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    let fault = error.chain().find_map(|e| e.downcast_ref::<Error>()).map(Error::fault);
    if fault == Some(Fault::Caller) { 2 } else { 1 }
}
