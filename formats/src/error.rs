//! One error type for everything that can be wrong with a file.

use std::path::{Path, PathBuf};

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whose fault an error is; it decides the exit code of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The caller asked for something impossible (exit code 2).
    Caller,
    /// A file holds something that it must not (exit code 1).
    File,
    /// The system refused: no space, no permission, an I/O error (exit code 1).
    System,
}

/// What went wrong, where, and in which file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file's bytes break its format. `place` names the tensor, key or section, with the offset where one is known.
    #[error("{}: {place}: {problem}", file.display())]
    Malformed {
        /// The file at fault.
        file: PathBuf,
        /// The tensor, key or section, such as `tensor blk.0.attn_q.weight` or `header at byte 8`.
        place: String,
        /// What is wrong, and what to do where that is known.
        problem: String,
    },
    /// The operating system refused an operation on a file.
    #[error("{}: {cause}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// The system's own error. Part of the sentence, hence not its `source()`: a chain would print it twice.
        cause: std::io::Error,
    },
    /// The caller asked for something that cannot be done; the sentence says what to ask instead.
    #[error("{0}")]
    Caller(String),
}

impl Error {
    /// A [`Error::Malformed`] in one line.
    pub fn malformed(file: impl AsRef<Path>, place: impl Into<String>, problem: impl Into<String>) -> Self {
        Error::Malformed { file: file.as_ref().to_owned(), place: shown(place.into()), problem: shown(problem.into()) }
    }

    /// For `map_err` on file operations.
    pub fn io(file: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let file = file.as_ref().to_owned();
        move |cause| Error::Io { file, cause }
    }

    /// A [`Error::Caller`] in one line.
    pub fn caller(sentence: impl Into<String>) -> Self {
        Error::Caller(sentence.into())
    }

    /// Whose fault it is. A path that does not exist is the caller's.
    pub fn fault(&self) -> Fault {
        match self {
            Error::Malformed { .. } => Fault::File,
            Error::Io { cause, .. } if cause.kind() == std::io::ErrorKind::NotFound => Fault::Caller,
            Error::Io { .. } => Fault::System,
            Error::Caller(_) => Fault::Caller,
        }
    }
}

/// A file's own words (names of tensors and keys) on a terminal: control characters are escaped, and what is endless is cut.
fn shown(words: String) -> String {
    const MOST: usize = 2000;
    if words.len() <= MOST && !words.contains(char::is_control) {
        return words;
    }
    let cut: String = words.chars().take(MOST).collect();
    cut.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}
