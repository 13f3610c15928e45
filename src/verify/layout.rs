//! What the reader lets pass, but llama.cpp does not, or nobody would write.

use super::Findings;
use qconv_formats::gguf::Gguf;

/// Tensors have to follow one another in the order of the table, each at the next multiple of the alignment: llama.cpp
/// refuses gaps and other orders. Bytes between and behind tensors belong to nobody.
pub fn check(gguf: &Gguf, findings: &mut Findings) {
    let bytes = gguf.map().bytes();
    let align = |at: usize| at.next_multiple_of(gguf.alignment());
    let mut end = gguf.data_start();
    for t in gguf.tensors() {
        if t.range.start != align(end) {
            let problem = format!(
                "begins at byte {} where {} is expected: llama.cpp wants tensors in the order of the table and without gaps",
                t.range.start,
                align(end)
            );
            // One is enough: those behind it are as far off.
            return findings.problem(format!("tensor {}", t.name), problem);
        }
        if bytes[end..t.range.start].iter().any(|&b| b != 0) {
            findings.note(format!("tensor {}", t.name), "the padding before it is not zero");
        }
        end = t.range.end;
    }
    if bytes.len() > align(end) {
        findings
            .note("end of file", format!("{} bytes behind the last tensor belong to none", bytes.len() - align(end)));
    } else if bytes[end.min(bytes.len())..].iter().any(|&b| b != 0) {
        findings.note("end of file", "the padding behind the last tensor is not zero");
    }
}
