//! Whether a conversion would write what is there already.

use super::Layout;
use crate::error::caller;
use crate::provenance::{self, SourceFile, Stamp};
use anyhow::Result;
use qconv_formats::Error;
use qconv_formats::gguf::Gguf;
use std::fs::File;
use std::path::Path;
use std::time::SystemTime;

/// All files of an output are there, made by the same version with the same options from the same source: compared by
/// content, not by date. Weights of which only the header is recorded have to be older than the output, too. Of the output
/// itself, the size has to be right, and the head to have its recorded digest; what lies behind it is not read, since that
/// takes as long as half a conversion: `qconv verify` does.
///
/// An error, the caller's: a file is there that qconv did not write, and must not be replaced.
pub fn unchanged(layout: &Layout, stamp: &Stamp, sources: &[SourceFile], force: bool) -> Result<bool> {
    for part in layout.written() {
        if !part.path.exists() {
            return Ok(false);
        }
        let recorded = Gguf::open_alone(&part.path).ok().and_then(|gguf| {
            let sources = provenance::lines_of(gguf.metadata());
            let whole = gguf.size() == part.writer.file_size() && provenance::whole_head(&gguf.files()[0]).is_ok();
            Some((provenance::fingerprint_of(gguf.metadata())?.to_owned(), sources, whole))
        });
        let Some((fingerprint, lines, whole)) = recorded else {
            if force {
                return Ok(false);
            }
            let what = "exists and does not say how it was made; --force replaces it";
            return Err(caller(format!("--if-changed: {} {what}", part.path.display())));
        };
        if fingerprint != stamp.fingerprint() || !whole {
            return Ok(false);
        }
        let written = modified(&part.path)?;
        for source in sources {
            // The fingerprint has the header; of later parts, it has all that there is.
            if source.is_header_only() || part.tensors.start > 0 {
                if modified(&source.path)? > written {
                    return Ok(false);
                }
            } else if !lines.contains(&provenance::line(&source.hash(&|| false)?, &source.shown)) {
                return Ok(false);
            }
        }
    }
    // Whoever goes by dates is to see that the output is up to date.
    for part in layout.written() {
        let file = File::options().append(true).open(&part.path).map_err(Error::io(&part.path))?;
        file.set_modified(SystemTime::now()).map_err(Error::io(&part.path))?;
    }
    Ok(true)
}

fn modified(path: &Path) -> Result<SystemTime> {
    Ok(path.metadata().and_then(|m| m.modified()).map_err(Error::io(path))?)
}
