//! What is written is what is read.
#![allow(clippy::unwrap_used)] // helpers of tests

use qconv_formats::block::{self, ALL};
use qconv_formats::gguf::{Array, Gguf, Metadata, TensorEntry, Value, Writer};
use qconv_formats::{Fault, Shape};

fn metadata() -> Metadata {
    let mut m = Metadata::new();
    m.set("general.architecture", "llama");
    let values = [
        Value::U8(255),
        Value::I8(-128),
        Value::U16(u16::MAX),
        Value::I16(i16::MIN),
        Value::U32(u32::MAX),
        Value::I32(i32::MIN),
        Value::F32(-0.1),
        Value::Bool(true),
        Value::String("gr\u{fc}n\0\u{1f600}".into()),
        Value::U64(u64::MAX),
        Value::I64(i64::MIN),
        Value::F64(f64::MIN_POSITIVE),
    ];
    for v in values {
        m.set(format!("one.{:?}", v.value_type()), v);
    }
    let arrays = [
        Array::U8(vec![0, 255]),
        Array::I8(vec![-1]),
        Array::U16(vec![1, 2, 3]),
        Array::I16(vec![]),
        Array::U32(vec![7; 5]),
        Array::I32(vec![-7]),
        Array::F32(vec![f32::INFINITY, 0.5]),
        Array::Bool(vec![true, false]),
        Array::String(vec![String::new(), "x".into()]),
        Array::U64(vec![1 << 60]),
        Array::I64(vec![-1]),
        Array::F64(vec![1e300]),
        Array::Array(vec![Array::U8(vec![1]), Array::String(vec!["y".into()]), Array::Array(vec![])]),
    ];
    for a in arrays {
        m.set(format!("many.{:?}", a.element_type()), a);
    }
    m
}

/// Writes a file in which every byte of every tensor is its own number modulo 251.
fn write(path: &std::path::Path, metadata: &Metadata, tensors: &[TensorEntry]) -> Vec<u8> {
    let writer = Writer::new(metadata, tensors).unwrap();
    let mut bytes = writer.head().to_vec();
    bytes.resize(writer.file_size() as usize, 0);
    for i in 0..tensors.len() {
        let range = writer.range(i);
        bytes[range.start as usize..range.end as usize].iter_mut().enumerate().for_each(|(j, b)| *b = (j % 251) as u8);
    }
    std::fs::write(path, &bytes).unwrap();
    bytes
}

#[test]
fn every_value_format_and_alignment() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    let mut tensors = Vec::new();
    for format in ALL {
        let cols = format.block_weights;
        for dims in [vec![cols], vec![3, cols], vec![2, 3, 2 * cols], vec![2, 1, 5, cols]] {
            let name = format!("{}.{}", format.name, dims.len());
            tensors.push(TensorEntry { name, shape: Shape::new(&dims).unwrap(), format });
        }
    }
    for alignment in [None, Some(8u32), Some(32), Some(64), Some(4096)] {
        let mut m = metadata();
        if let Some(n) = alignment {
            m.set("general.alignment", n);
        }
        let bytes = write(&path, &m, &tensors);
        assert!(bytes.len().is_multiple_of(alignment.unwrap_or(32) as usize), "the end is padded, as llama-quantize's");
        let read = Gguf::open(&path).unwrap();
        assert_eq!(read.metadata(), &m);
        assert_eq!(read.files()[0].alignment(), alignment.unwrap_or(32) as usize);
        assert_eq!(read.tensors().len(), tensors.len());
        for (r, w) in read.tensors().iter().zip(&tensors) {
            assert_eq!((&r.name, &r.shape, r.format), (&w.name, &w.shape, w.format));
            assert!(read.bytes(r).iter().enumerate().all(|(j, &b)| b == (j % 251) as u8));
        }
        assert_eq!(write(&path, read.metadata(), &tensors), bytes);
    }
}

#[test]
fn outer_ones_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    let entry = |name: &str, dims: &[usize]| TensorEntry {
        name: name.into(),
        shape: Shape::new(dims).unwrap(),
        format: &block::F32,
    };
    write(&path, &Metadata::new(), &[entry("a", &[1, 1, 3]), entry("b", &[1, 2, 1]), entry("c", &[1, 1])]);
    let read = Gguf::open(&path).unwrap();
    let dims: Vec<_> = read.tensors().iter().map(|t| t.shape.dims()).collect();
    assert_eq!(dims, [&[3][..], &[2, 1], &[1]]);
}

#[test]
fn nothing_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    write(&path, &Metadata::new(), &[]);
    let read = Gguf::open(&path).unwrap();
    assert!(read.metadata().is_empty() && read.tensors().is_empty());
}

#[test]
fn what_could_not_be_read_is_not_written() {
    let entry = |name: &str| TensorEntry { name: name.into(), shape: Shape::new(&[4]).unwrap(), format: &block::F32 };
    let refused = |m: &Metadata, tensors: &[TensorEntry], word: &str| {
        let e = Writer::new(m, tensors).unwrap_err();
        assert_eq!(e.fault(), Fault::Caller);
        assert!(e.to_string().contains(word), "{e}");
    };
    let with = |key: &str, value: Value| {
        let mut m = Metadata::new();
        m.set(key, value);
        m
    };
    let empty = Metadata::new();
    refused(&empty, &[entry("")], "0 bytes");
    refused(&empty, &[entry(&"n".repeat(64))], "64 bytes");
    refused(&empty, &[entry("a"), entry("a")], "twice");
    refused(&with("", Value::U8(0)), &[], "name");
    refused(&with(&"k".repeat(70_000), Value::U8(0)), &[], "name");
    refused(&with("general.alignment", Value::U32(20)), &[], "power of two");
    refused(&with("general.alignment", Value::U64(32)), &[], "general.alignment");
    let deep = (0..5).fold(Array::U8(vec![1]), |a, _| Array::Array(vec![a]));
    refused(&with("k", deep.into()), &[], "too deeply");
    let huge = TensorEntry { shape: Shape::new(&[1 << 30, 1 << 29]).unwrap(), ..entry("h") };
    refused(
        &empty,
        &[huge.clone(), TensorEntry { name: "i".into(), ..huge.clone() }, TensorEntry { name: "j".into(), ..huge }],
        "too large",
    );
    if let Some(format) = ALL.iter().find(|f| f.block_weights > 1) {
        refused(
            &empty,
            &[TensorEntry { shape: Shape::new(&[2, format.block_weights + 1]).unwrap(), format, name: "q".into() }],
            "no multiple",
        );
    }
}
