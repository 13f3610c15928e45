//! Whether a GGUF file is right: its structure, the tensor set and vocabulary that its family asks for, finite numbers,
//! and, against the source, every tensor.

mod against;
mod architecture;
mod finite;
mod guess;
mod judge;
mod layout;
mod measure;
mod vocabulary;

pub use against::{TensorReport, against, mover};
pub use finite::nonfinite;
pub use judge::Verdict;

use anyhow::Result;
use qconv_formats::gguf::Gguf;
use qconv_formats::{Error, Fault};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Something wrong, or worth knowing, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The tensor, key or section: `tensor blk.0.attn_q.weight`.
    pub place: String,
    /// What is wrong, as the rest of a sentence that begins with the place.
    pub problem: String,
}

/// What a check found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Findings {
    /// The file is wrong: a reader refuses it, or computes nonsense.
    pub problems: Vec<Finding>,
    /// Unusual, but no error.
    pub notes: Vec<Finding>,
}

impl Findings {
    /// Adds a problem.
    pub fn problem(&mut self, place: impl Into<String>, problem: impl Into<String>) {
        self.problems.push(Finding { place: place.into(), problem: problem.into() });
    }

    /// Adds a note.
    pub fn note(&mut self, place: impl Into<String>, problem: impl Into<String>) {
        self.notes.push(Finding { place: place.into(), problem: problem.into() });
    }

    /// Adds what an error says; errors that are not about the file's content are returned.
    fn absorb(&mut self, e: anyhow::Error) -> Result<()> {
        match e.downcast::<Error>() {
            Ok(Error::Malformed { place, problem, .. }) => {
                self.problem(place, problem);
                Ok(())
            }
            Ok(e) => Err(e.into()),
            Err(e) => Err(e),
        }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.place, self.problem)
    }
}

/// Opens a file and checks all that needs no tensor data: layout, keys, tensor set, shapes, vocabulary.
///
/// A file that cannot be opened at all is a problem like others, and there is no [`Gguf`]. Errors: no such file, no
/// permission.
pub fn structure(path: &Path) -> Result<(Option<Gguf>, Findings)> {
    check(Gguf::open(path))
}

fn check(opened: qconv_formats::Result<Gguf>) -> Result<(Option<Gguf>, Findings)> {
    let mut findings = Findings::default();
    match opened {
        Ok(gguf) => {
            layout::check(&gguf, &mut findings);
            let vocabulary = vocabulary::check(gguf.metadata(), &mut findings);
            architecture::check(&gguf, vocabulary, &mut findings)?;
            Ok((Some(gguf), findings))
        }
        Err(e) if e.fault() == Fault::File => {
            findings.absorb(e.into())?;
            Ok((None, findings))
        }
        Err(e) => Err(e.into()),
    }
}

/// The check behind every conversion: [`structure`] of a file or the parts of a split one, as an error that lists what is
/// wrong. Where only some parts of a model were written, each of them is checked for itself.
pub fn written(files: &[PathBuf], complete: bool) -> Result<()> {
    let mut findings = Findings::default();
    if complete {
        findings = check(Gguf::open_parts(files))?.1;
    } else {
        for path in files {
            layout::check(&Gguf::open_alone(path)?, &mut findings);
        }
    }
    let path = files.first().map_or(Path::new(""), PathBuf::as_path);
    match findings.problems.as_slice() {
        [] => Ok(()),
        [one] => Err(crate::error::malformed(path, &one.place, &one.problem)),
        all => {
            let list: Vec<String> = all.iter().map(|p| format!("\n  {p}")).collect();
            Err(crate::error::malformed(path, format!("{} problems", all.len()), list.concat()))
        }
    }
}

#[cfg(test)]
mod tests;
