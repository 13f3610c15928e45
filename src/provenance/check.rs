//! Whether a file is what was written.

use super::{Digest, FINGERPRINT, HEAD, TENSORS, hex, parse};
use crate::verify::Findings;
use qconv_formats::gguf::{Gguf, GgufFile, Value};
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;

/// Compares every tensor and the head of every file with the digests that were recorded; returns how many tensors have
/// theirs, or `None` where nothing is recorded. `progress` is told the bytes read.
pub fn check(gguf: &Gguf, findings: &mut Findings, progress: impl Fn(u64) + Sync) -> Option<usize> {
    let recorded = |f: &GgufFile| f.metadata().get(TENSORS).is_some();
    if !gguf.files().iter().any(recorded) {
        return None;
    }
    let mut proved = 0;
    let several = gguf.files().len() > 1;
    let fingerprint = gguf.metadata().str(FINGERPRINT);
    for (i, file) in gguf.files().iter().enumerate() {
        let part = if several { format!("part {}: ", i + 1) } else { String::new() };
        if file.metadata().str(FINGERPRINT) != fingerprint {
            let what = "is not the first part's: this part is of another conversion";
            findings.problem(format!("{part}key {FINGERPRINT}"), what);
        }
        let before = findings.problems.len();
        head(file, &part, findings);
        // Another program that merges or adds tensors leaves what was recorded about the others.
        let whole = findings.problems.len() == before;
        proved += tensors(gguf, file, &part, whole, findings, &progress);
    }
    Some(proved)
}

/// All bytes before the first tensor. A problem if they are not what was written.
fn head(file: &GgufFile, part: &str, findings: &mut Findings) {
    if let Err(what) = whole_head(file) {
        findings.problem(format!("{part}key {HEAD}"), what);
    }
}

/// Compares the bytes before the first tensor with their recorded digest. The error is the end of a sentence.
pub fn whole_head(file: &GgufFile) -> Result<(), String> {
    let Some(recorded) = file.metadata().str(HEAD) else { return Err("is missing".into()) };
    let bytes = &file.map().bytes()[..file.data_start().min(file.map().bytes().len())];
    let zeros = hex(&[0; 32]);
    let at = bytes.windows(recorded.len().max(1)).rposition(|w| w == recorded.as_bytes());
    let Some(at) = at.filter(|_| recorded.len() == zeros.len()) else {
        return Err(format!("is {recorded:?}, no digest"));
    };
    let mut hash = Sha256::new();
    hash.update(&bytes[..at]);
    hash.update(&zeros);
    hash.update(&bytes[at + zeros.len()..]);
    if hex(&hash.finalize().into()) != recorded {
        return Err("is not that of the metadata and the tensor table: they were changed after qconv wrote them, by damage or by another program".into());
    }
    Ok(())
}

fn tensors(
    gguf: &Gguf,
    file: &GgufFile,
    part: &str,
    whole: bool,
    findings: &mut Findings,
    progress: &(impl Fn(u64) + Sync),
) -> usize {
    let lines = file.metadata().get(TENSORS).and_then(Value::as_strings).unwrap_or_default();
    let digests: HashMap<&str, Digest> = lines.iter().filter_map(|l| parse(l)).map(|(d, name)| (name, d)).collect();
    let list = &gguf.tensors()[file.tensors()];
    if digests.len() != lines.len() || whole && digests.len() != list.len() {
        let what = format!("holds {} digests for {} tensors", digests.len(), list.len());
        findings.problem(format!("{part}key {TENSORS}"), what);
    }
    let checked: Vec<Option<bool>> = list
        .par_iter()
        .map(|t| {
            let found: Digest = Sha256::digest(gguf.bytes(t)).into();
            progress(t.range.len() as u64);
            digests.get(t.name.as_str()).map(|recorded| *recorded == found)
        })
        .collect();
    for (t, checked) in list.iter().zip(&checked) {
        let what = match checked {
            Some(true) => continue,
            Some(false) => "its data are damaged: they have not the SHA-256 that was recorded when they were written",
            None if whole => "has no recorded SHA-256",
            None => continue,
        };
        findings.problem(format!("tensor {}", t.name), what);
    }
    checked.iter().filter(|c| **c == Some(true)).count()
}
