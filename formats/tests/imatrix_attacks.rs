//! Importance matrices of either form: what llama-imatrix wrote comes back byte for byte, broken files are refused in words
//! that name the place, none makes the reader panic or allocate by its numbers.
#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::{Raw, Scratch, array, in_little_memory, key, mutations, string, tensor};
use qconv_formats::imatrix::{Entry, Imatrix};
use qconv_formats::{Fault, Result};

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/../fixtures/imatrix/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn open(bytes: &[u8]) -> Result<Imatrix> {
    Imatrix::open(Scratch::new().file("x", bytes))
}

#[track_caller]
fn refused(bytes: &[u8], words: &[&str]) {
    let e = open(bytes).expect_err("must be refused");
    assert_eq!(e.fault(), Fault::File, "{e}");
    let sentence = e.to_string();
    words.iter().for_each(|word| assert!(sentence.contains(word), "{word:?} is not in: {sentence}"));
}

/// Everything that can be asked of a matrix.
fn use_all(matrix: &Imatrix) {
    for entry in matrix.entries.values() {
        assert_eq!(entry.columns() * entry.counts().len(), entry.sums().len());
        assert!(entry.means().iter().all(|x| x.is_finite() && *x >= 0.0));
    }
    let mut counted = matrix.clone();
    if counted.count_tokens(512).is_ok() {
        counted.clone().add(&counted).map(|()| drop(counted.to_gguf())).unwrap_or_default();
    }
    drop(matrix.to_legacy(&mut Vec::new()));
}

/// Two entries, one of them a stack of two.
fn sound_gguf() -> Raw {
    let numbers = |values: &[f32]| {
        let mut bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        bytes.resize(32, 0);
        bytes
    };
    Raw {
        keys: vec![
            key("general.type", 8, &string("imatrix")),
            key("imatrix.datasets", 9, &array(8, 1, &string("t"))),
            key("imatrix.chunk_count", 4, &3u32.to_le_bytes()),
            key("imatrix.chunk_size", 4, &8u32.to_le_bytes()),
        ],
        tensors: vec![
            tensor("a.in_sum2", &[3], 0, 0),
            tensor("a.counts", &[1], 0, 32),
            tensor("b.in_sum2", &[2, 2], 0, 64),
            tensor("b.counts", &[1, 2], 0, 96),
        ],
        data: [numbers(&[1.0, 2.0, 3.0]), numbers(&[24.0]), numbers(&[4.0, 0.5, 0.0, 0.0]), numbers(&[8.0, 0.0])]
            .concat(),
        ..Raw::default()
    }
}

fn legacy_entry(name: &str, chunks: i32, sums: &[f32]) -> Vec<u8> {
    let mut out = (name.len() as i32).to_le_bytes().to_vec();
    out.extend(name.as_bytes());
    out.extend(chunks.to_le_bytes());
    out.extend((sums.len() as i32).to_le_bytes());
    sums.iter().for_each(|x| out.extend(x.to_le_bytes()));
    out
}

fn sound_legacy() -> Vec<u8> {
    let mut out = 2i32.to_le_bytes().to_vec();
    out.extend(legacy_entry("a", 3, &[3.0, 6.0]));
    out.extend(legacy_entry("b", 2, &[1.0, 0.0, 5.0]));
    out.extend(3i32.to_le_bytes());
    out.extend(1i32.to_le_bytes());
    out.push(b't');
    out
}

#[test]
fn what_llama_imatrix_wrote_comes_back_byte_for_byte() {
    for name in ["prose-4m.gguf", "stories260k.gguf"] {
        let bytes = fixture(name);
        assert!(open(&bytes).unwrap().to_gguf().unwrap() == bytes, "{name}");
    }
    // The same run in both forms: one becomes the other.
    let (gguf, legacy) = (open(&fixture("prose-4m.gguf")).unwrap(), fixture("prose-4m.dat"));
    let mut lost = Vec::new();
    assert!(gguf.to_legacy(&mut lost).unwrap() == legacy);
    assert!(lost.is_empty(), "{lost:?}");
    let mut back = open(&legacy).unwrap();
    assert!(back.is_legacy() && back.datasets == ["prose.txt"] && back.chunk_count == 32);
    assert!(back.to_gguf().is_err());
    back.count_tokens(128).unwrap();
    assert_eq!((back.chunk_count, back.chunk_size), (32, 128));
    for (name, entry) in &gguf.entries {
        let other = &back.entries[name];
        assert_eq!(entry.counts(), other.counts());
        assert!(entry.sums().iter().zip(other.sums()).all(|(a, b)| (a - b).abs() <= 1e-6 * a), "{name}");
    }
}

#[test]
fn means_of_experts_have_their_own_counts() {
    let matrix = open(&sound_gguf().bytes()).unwrap();
    let b = &matrix.entries["b"];
    assert_eq!(b.means(), [0.5, 0.0625, 1.0, 1.0], "the second expert was never visited");
    assert_eq!(b.unvisited().collect::<Vec<_>>(), [1]);
    let mut lost = Vec::new();
    let legacy = open(&matrix.to_legacy(&mut lost).unwrap()).unwrap();
    assert_eq!(legacy.entries["b"].means(), b.means());
    assert!(lost[0].contains("1 of 2 experts"), "{lost:?}");
    assert_eq!(open(&sound_legacy()).unwrap().entries["a"].means(), [1.0, 2.0]);
}

#[test]
fn sums_add_up() {
    let a = open(&sound_gguf().bytes()).unwrap();
    let mut sum = a.clone();
    sum.add(&a).unwrap();
    assert_eq!(sum.entries["b"].sums(), [8.0, 1.0, 0.0, 0.0]);
    assert_eq!((sum.entries["a"].counts(), sum.chunk_count), (&[48u64][..], 6));
    assert_eq!(sum.datasets, ["t", "t"]);
    // A count for all, as older files have it, stands for each.
    let mut old = a.clone();
    old.entries.insert("b".into(), Entry::new(vec![1.0; 4], vec![5]).unwrap());
    sum.add(&old).unwrap();
    assert_eq!(sum.entries["b"].counts(), [21, 5]);
    let mut other = a.clone();
    other.entries.insert("a".into(), Entry::new(vec![1.0; 4], vec![5]).unwrap());
    let e = sum.add(&other).unwrap_err();
    assert!(e.fault() == Fault::Caller && e.to_string().contains("entry a has 3 sums here and 4 there"), "{e}");
    assert!(sum.add(&open(&sound_legacy()).unwrap()).is_err());
    // Beyond single precision.
    let mut huge = a.clone();
    huge.entries.insert("a".into(), Entry::new(vec![f32::MAX; 3], vec![1]).unwrap());
    let e = huge.clone().add(&huge).unwrap_err().to_string();
    assert!(e.contains("entry a holds inf"), "{e}");
}

#[test]
fn truncated_anywhere() {
    for bytes in [sound_gguf().bytes(), sound_legacy()] {
        for n in 0..bytes.len() {
            if let Ok(matrix) = open(&bytes[..n]) {
                // Legacy files may end behind the entries, and names of texts may be missing; GGUF files need no padding
                // behind their last two floats.
                let ends =
                    if matrix.is_legacy() { [9, 5].map(|k| bytes.len() - k).to_vec() } else { (488..512).collect() };
                assert!(matrix.entries.len() == 2 && ends.contains(&n), "{n} of {}", bytes.len());
            }
        }
    }
}

#[test]
fn mutated_anywhere() {
    if !in_little_memory("mutated_anywhere") {
        return;
    }
    let dir = Scratch::new();
    for (bytes, least) in [(sound_gguf().bytes(), 1000), (sound_legacy(), 200)] {
        let (mut good, mut bad) = (0, 0);
        mutations(&bytes, |bytes| match Imatrix::open(dir.file("x", bytes)) {
            Ok(matrix) => {
                good += 1;
                use_all(&matrix);
            }
            Err(e) => {
                bad += 1;
                assert_eq!(e.fault(), Fault::File, "{e}");
            }
        });
        assert!(good > least / 10 && bad > least, "{good} {bad}");
    }
}

#[test]
fn huge_counts_everywhere() {
    if !in_little_memory("huge_counts_everywhere") {
        return;
    }
    let with = |at: usize, n: i32| {
        let mut bytes = sound_legacy();
        bytes[at..at + 4].copy_from_slice(&n.to_le_bytes());
        bytes
    };
    for n in [i32::MIN, -1, 1 << 20, i32::MAX] {
        refused(&with(0, n), &["number of entries"]);
        refused(&with(4, n), &["entry 0"]);
        refused(&with(13, n), &["entry a"]);
        let end = sound_legacy().len() - 5;
        refused(&with(end, n), &["name of the text"]);
    }
    // A number of chunks below 1 stands for 1.
    assert_eq!(open(&with(9, -7)).unwrap().entries["a"].means(), [3.0, 6.0]);
}

#[test]
fn no_matrix_at_all() {
    refused(b"", &["number of entries", "truncated"]);
    refused(b"A text that was meant for calibration.", &["number of entries", "no importance matrix"]);
    refused(&common::sound().bytes(), &["general.type", "no importance matrix"]);
    let raw = Raw { tensors: vec![], data: vec![], ..sound_gguf() };
    refused(&raw.bytes(), &["imatrix", "no importance matrix"]);
    assert_eq!(Imatrix::open("no/such.dat").unwrap_err().fault(), Fault::Caller);
    assert_eq!(Imatrix::open(".").unwrap_err().fault(), Fault::Caller);
}

#[test]
fn wrong_keys() {
    for (i, name) in [(1, "imatrix.datasets"), (2, "imatrix.chunk_count"), (3, "imatrix.chunk_size")] {
        let mut raw = sound_gguf();
        raw.keys.remove(i);
        refused(&raw.bytes(), &[name, "missing"]);
        raw.keys.push(key(name, 8, &string("many")));
        assert!(open(&raw.bytes()).unwrap_err().to_string().contains(name));
    }
    let mut raw = sound_gguf();
    raw.keys[3] = key("imatrix.chunk_size", 4, &0u32.to_le_bytes());
    refused(&raw.bytes(), &["imatrix.chunk_size", "is 0"]);
    raw.keys[3] = key("imatrix.chunk_size", 10, &(1u64 << 40).to_le_bytes());
    refused(&raw.bytes(), &["imatrix.chunk_size"]);
}

#[test]
fn wrong_tensors() {
    let with = |change: fn(&mut Raw)| {
        let mut raw = sound_gguf();
        change(&mut raw);
        raw.bytes()
    };
    refused(&with(|r| drop(r.tensors.remove(1))), &["entry a", "no tensor a.counts"]);
    refused(&with(|r| drop(r.tensors.remove(2))), &["entry b", "no tensor b.in_sum2"]);
    refused(&with(|r| r.tensors[0] = tensor("a.in_sum2", &[3], 1, 0)), &["tensor a.in_sum2", "F16"]);
    refused(&with(|r| r.tensors[1] = tensor("a.counts", &[2], 0, 32)), &["entry a", "3 sums for 2 counts"]);
    for bad in [f32::NAN, f32::INFINITY, -1.0] {
        let mut raw = sound_gguf();
        raw.data[4..8].copy_from_slice(&bad.to_le_bytes());
        refused(&raw.bytes(), &["entry a", "at index 1"]);
        let mut raw = sound_gguf();
        raw.data[32..36].copy_from_slice(&bad.to_le_bytes());
        refused(&raw.bytes(), &["entry a", "number of tokens"]);
        let mut bytes = sound_legacy();
        bytes[17..21].copy_from_slice(&bad.to_le_bytes());
        refused(&bytes, &["entry a", "at index 0"]);
    }
    let extra = with(|r| r.tensors.push(tensor("c.in_sum", &[3], 0, 128)));
    refused(&extra, &["tensor c.in_sum"]); // its data is not there
    let mut raw = sound_gguf();
    raw.tensors.push(tensor("c.in_sum", &[3], 0, 128));
    raw.data.extend([0; 32]);
    assert_eq!(open(&raw.bytes()).unwrap().ignored, ["c.in_sum"]);
}

#[test]
fn wrong_legacy_entries() {
    let with = |entries: &[Vec<u8>], rest: &[u8]| {
        [&(entries.len() as i32).to_le_bytes()[..], &entries.concat(), rest].concat()
    };
    let good = legacy_entry("a", 1, &[1.0]);
    assert_eq!(open(&with(std::slice::from_ref(&good), &[])).unwrap().entries.len(), 1);
    refused(&with(&[good.clone(), good.clone()], &[]), &["entry a", "twice"]);
    refused(&with(&[legacy_entry("", 1, &[1.0; 9])], &[]), &["entry 0", "0 bytes"]);
    refused(&with(&[legacy_entry(&"n".repeat(64), 1, &[1.0])], &[]), &["entry 0", "64 bytes"]);
    refused(&with(&[legacy_entry("abcde", 1, &[])], &[]), &["entry abcde", "0 sums"]);
    refused(&with(&[good], &[1, 0, 0, 0, 0, 0, 0, 0, 9]), &["end at byte", "1 bytes behind the end"]);
}
