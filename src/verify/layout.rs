//! What the reader lets pass, but llama.cpp does not, or nobody would write.

use super::Findings;
use qconv_formats::gguf::Gguf;

/// Tensors have to follow one another in the order of the table, each at the next multiple of the alignment: llama.cpp
/// refuses gaps and other orders. Bytes between and behind tensors belong to nobody.
pub fn check(gguf: &Gguf, findings: &mut Findings) {
    for i in 0..gguf.files().len() {
        check_file(gguf, i, findings);
    }
}

fn check_file(gguf: &Gguf, i: usize, findings: &mut Findings) {
    let file = &gguf.files()[i];
    let bytes = file.map().bytes();
    let align = |at: usize| at.next_multiple_of(file.alignment());
    let end_of_file = if gguf.files().len() == 1 { "end of file".to_owned() } else { format!("end of part {}", i + 1) };
    let mut end = file.data_start();
    for t in &gguf.tensors()[file.tensors()] {
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
        findings.note(end_of_file, format!("{} bytes behind the last tensor belong to none", bytes.len() - align(end)));
    } else if bytes[end.min(bytes.len())..].iter().any(|&b| b != 0) {
        findings.note(end_of_file, "the padding behind the last tensor is not zero");
    }
}
