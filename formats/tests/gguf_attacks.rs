//! Broken GGUF files: each is refused in words that name the place, none makes the reader panic or allocate by its numbers.
#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::{Raw, Scratch, array, in_little_memory, key, mutations, sound, string, tensor};
use qconv_formats::gguf::Gguf;
use qconv_formats::{Fault, Result};

fn open(bytes: &[u8]) -> Result<Gguf> {
    Gguf::open(Scratch::new().file("x.gguf", bytes))
}

/// Opening fails, the file is at fault, and the sentence holds all of `words`.
#[track_caller]
fn refused(raw: &Raw, words: &[&str]) {
    let e = open(&raw.bytes()).expect_err("must be refused");
    assert_eq!(e.fault(), Fault::File);
    let sentence = e.to_string();
    for word in words {
        assert!(sentence.contains(word), "{word:?} is not in: {sentence}");
    }
}

/// Everything that can be asked of an opened file.
fn use_all(gguf: &Gguf) {
    for t in gguf.tensors() {
        let packed = gguf.packed(t).unwrap();
        assert_eq!(packed.bytes().len(), gguf.bytes(t).len());
        (t.format.find_nonfinite)(packed.bytes());
        if let Some(dequantize) = t.format.dequantize {
            dequantize(packed.bytes(), &mut vec![0.0; t.shape.len()]);
        }
    }
}

#[test]
fn the_sound_file_opens() {
    let gguf = open(&sound().bytes()).unwrap();
    assert_eq!(gguf.version(), 3);
    assert_eq!(gguf.metadata().len(), 4);
    assert_eq!(gguf.tensors()[0].shape.dims(), [2, 3]);
    assert_eq!(gguf.bytes(&gguf.tensors()[1]), &(32..42).collect::<Vec<u8>>()[..]);
    use_all(&gguf);
}

#[test]
fn truncated_anywhere() {
    let bytes = sound().bytes();
    let padding = 64 - 42; // behind the last tensor; files from the wild lack it
    for n in 0..bytes.len() {
        let result = open(&bytes[..n]);
        if n < bytes.len() - padding {
            let e = result.expect_err("must be refused");
            assert!(e.to_string().contains("truncated"), "{n}: {e}");
        } else {
            use_all(&result.unwrap());
        }
    }
}

#[test]
fn mutated_anywhere() {
    if !in_little_memory("mutated_anywhere") {
        return;
    }
    let dir = Scratch::new();
    let (mut good, mut bad) = (0, 0);
    mutations(&sound().bytes(), |bytes| match Gguf::open(dir.file("x.gguf", bytes)) {
        Ok(gguf) => {
            good += 1;
            use_all(&gguf);
        }
        Err(e) => {
            bad += 1;
            assert_eq!(e.fault(), Fault::File, "{e}");
        }
    });
    assert!(good > 100 && bad > 1000, "{good} {bad}");
}

#[test]
fn huge_counts_everywhere() {
    if !in_little_memory("huge_counts_everywhere") {
        return;
    }
    // Small enough to pass the limits, large enough to be seen in 1 GB; and absurd.
    for n in [1 << 20, 1 << 32, 1 << 60, u64::MAX] {
        refused(&Raw { tensor_count: Some(n), ..sound() }, &[]);
        refused(&Raw { key_count: Some(n), ..sound() }, &[]);
        for kind in 0..=12 {
            let keys = vec![key("k", 9, &array(kind, n, &[0; 16]))];
            refused(&Raw { keys, ..Raw::default() }, &["key k", "elements"]);
        }
        let keys = vec![[&n.to_le_bytes()[..], b"k"].concat()];
        refused(&Raw { keys, ..Raw::default() }, &["key 0", "more bytes"]);
        let keys = vec![key("k", 8, &[&n.to_le_bytes()[..], b"value"].concat())];
        refused(&Raw { keys, ..Raw::default() }, &["key k", "more bytes"]);
        for dims in [&[n][..], &[n, n], &[1, n, n, 2]] {
            refused(&Raw { tensors: vec![tensor("t", dims, 0, 0)], ..Raw::default() }, &["tensor t"]);
        }
        refused(&Raw { tensors: vec![tensor("t", &[1], 0, n)], ..Raw::default() }, &["tensor t"]);
    }
}

#[test]
fn no_gguf_at_all() {
    refused(&Raw { magic: *b"GGML", ..sound() }, &["magic", "GGML", "no GGUF file"]);
    refused(&Raw { magic: [0x1b, b'[', b'2', b'J'], ..sound() }, &["\\x1b"]);
    for (version, words) in
        [(0, "2 and 3 are supported"), (1, "2 and 3"), (4, "2 and 3"), (3 << 24, "big-endian"), (2 << 24, "big-endian")]
    {
        refused(&Raw { version, ..sound() }, &["version", words]);
    }
    assert!(open(&[]).unwrap_err().to_string().contains("truncated"));
    assert_eq!(Gguf::open("no/such.gguf").unwrap_err().fault(), Fault::Caller);
    assert_eq!(Gguf::open(".").unwrap_err().fault(), Fault::Caller);
}

#[cfg(unix)]
#[test]
fn a_pipe_does_not_hang() {
    let dir = Scratch::new();
    let pipe = dir.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert!(!Gguf::is_gguf(&pipe));
    assert!(Gguf::open(&pipe).unwrap_err().to_string().contains("no regular file"));
}

#[test]
fn version_2_opens() {
    assert_eq!(open(&Raw { version: 2, ..sound() }.bytes()).unwrap().version(), 2);
}

#[test]
fn a_vocabulary_without_tensors_opens() {
    let raw = Raw { tensors: vec![], data: vec![], ..sound() };
    use_all(&open(&raw.bytes()).unwrap());
    let bytes = Raw { alignment: 1, ..raw }.bytes(); // ends right behind the last key
    assert!(!bytes.len().is_multiple_of(32));
    assert_eq!(open(&bytes).unwrap().metadata().len(), 4);
}

#[test]
fn bad_keys() {
    let with = |k: Vec<u8>| Raw { keys: vec![k], ..Raw::default() };
    refused(&with(key("", 0, &[0])), &["key 0", "0 bytes"]);
    refused(&with(key(vec![b'k'; 70_000], 0, &[0])), &["key 0", "70000 bytes"]);
    refused(&with(key(b"\xff", 0, &[0])), &["key 0", "UTF-8"]);
    refused(&with(key("k", 13, &[0; 8])), &["key k at byte 33", "unknown value type 13"]);
    refused(&with(key("k", 7, &[2])), &["key k", "boolean"]);
    refused(&with(key("k", 8, &string(b"ab\xc3"))), &["key k at byte 47", "UTF-8"]);
    refused(&with(key("k", 9, &array(13, 1, &[0; 8]))), &["key k", "unknown type 13"]);
    refused(&with(key("k", 9, &array(8, 2, &[string("a"), string(b"\xff")].concat()))), &["key k[1] at byte", "UTF-8"]);
    refused(&Raw { keys: vec![key("k", 0, &[0]), key("k", 1, &[1])], ..Raw::default() }, &["key k", "twice"]);
    refused(&with(key("\u{1b}[31m", 99, &[0; 8])), &["\\u{1b}[31m"]);

    let mut deep = array(0, 1, &[1]);
    for _ in 0..4 {
        deep = array(9, 1, &deep);
    }
    assert!(open(&with(key("k", 9, &deep)).bytes()).is_ok());
    refused(&with(key("k", 9, &array(9, 1, &deep))), &["key k", "too deeply"]);
}

#[test]
fn bad_alignments() {
    for n in [0u32, 1, 3, 24, 1 << 21, u32::MAX] {
        let keys = vec![key("general.alignment", 4, &n.to_le_bytes())];
        refused(&Raw { keys, ..sound() }, &["general.alignment", "power of two"]);
    }
    refused(&Raw { keys: vec![key("general.alignment", 10, &32u64.to_le_bytes())], ..sound() }, &["general.alignment"]);
    let keys = vec![key("general.alignment", 4, &64u32.to_le_bytes())];
    refused(&Raw { keys, alignment: 64, ..sound() }, &["tensor b", "offset 32", "alignment 64"]);
}

#[test]
fn bad_tensors() {
    let with = |t: Vec<u8>| Raw { tensors: vec![t], data: vec![0; 64], ..Raw::default() };
    refused(&with(tensor("", &[1], 0, 0)), &["tensor 0", "0 bytes"]);
    refused(&with(tensor(vec![b'n'; 64], &[1], 0, 0)), &["tensor 0", "64 bytes"]);
    refused(&with(tensor(b"a\xff", &[1], 0, 0)), &["tensor 0", "UTF-8"]);
    refused(&with(tensor("t", &[], 0, 0)), &["tensor t", "0 dimensions"]);
    refused(&with(tensor("t", &[1; 5], 0, 0)), &["tensor t", "5 dimensions"]);
    refused(&with(tensor("t", &[4, 0], 0, 0)), &["tensor t", "size 0"]);
    refused(&with(tensor("t", &[4], 999, 0)), &["tensor t", "type 999"]);
    refused(&with(tensor("t", &[4], u32::MAX, 0)), &["tensor t", "type 4294967295"]);
    refused(&with(tensor("t", &[4], 0, 1)), &["tensor t", "offset 1 is no multiple"]);
    refused(&with(tensor("t", &[4], 0, 64)), &["tensor t", "offset 64", "truncated"]);
    refused(&with(tensor("t", &[4], 0, 1 << 40)), &["tensor t", "behind the file"]);
    refused(&with(tensor("t", &[1 << 31, 1 << 31], 0, 0)), &["tensor t", "more elements than memory"]);
    refused(&with(tensor("t", &[1 << 20], 0, 0)), &["tensor t", "4194304 bytes", "truncated"]);
}

#[test]
fn tensors_that_share_bytes_or_names() {
    let two = |a, b| Raw { tensors: vec![a, b], data: vec![0; 96], ..Raw::default() };
    refused(&two(tensor("a", &[9], 0, 0), tensor("b", &[4], 0, 32)), &["tensor b", "overlap a"]);
    refused(&two(tensor("a", &[4], 0, 32), tensor("b", &[4], 0, 32)), &["tensor b", "overlap a"]);
    refused(&two(tensor("a", &[4], 0, 0), tensor("a", &[4], 0, 32)), &["tensor a", "twice"]);
    // In any order and with gaps: unusual, not wrong.
    assert!(open(&two(tensor("a", &[4], 0, 64), tensor("b", &[4], 0, 0)).bytes()).is_ok());
}
