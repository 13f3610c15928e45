use super::*;
use qconv_formats::Shape;
use qconv_formats::block;
use qconv_formats::gguf::{Array, Metadata, TensorEntry, Value, Writer};
use serde_json::json;

#[test]
fn statistics_of_known_numbers() {
    let weights = [1.0, -3.0, 0.0, f32::NAN, f32::INFINITY, -0.0, 6.0, f32::NEG_INFINITY];
    let s = Stats::of_weights(&weights);
    assert_eq!((s.min, s.max, s.zeros, s.nan, s.inf), (-3.0, 6.0, 2, 1, 2));
    assert!((s.mean - 0.8).abs() < 1e-12 && (s.std - 2.925_747_768).abs() < 1e-8, "{s:?}");
    let none = Stats::of_weights(&[f32::NAN]);
    assert_eq!((none.nan, none.mean, none.std), (1, 0.0, 0.0));
}

#[test]
fn slices_together_are_the_whole() {
    // Two and a half slices, with a mean far from zero, where adding squares would lose digits.
    let weights: Vec<f32> = (0..160_000).map(|i| 1000.0 + (i % 977) as f32 * 1e-3).collect();
    let bytes: Vec<u8> = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
    let (a, b) = (Stats::of(&block::F32, &bytes).unwrap(), Stats::of_weights(&weights));
    assert_eq!((a.min, a.max, a.zeros), (b.min, b.max, b.zeros));
    assert!((a.mean - b.mean).abs() < 1e-9 && (a.std - b.std).abs() < 1e-9, "{a:?} {b:?}");
    assert!((b.std - 0.282).abs() < 1e-3);
}

#[test]
fn integers_have_no_statistics() {
    let integers = block::ALL.iter().find(|f| f.dequantize.is_none()).unwrap();
    assert_eq!(Stats::of(integers, &[0; 64]), None);
}

#[test]
fn values_are_short_for_people_and_exact_for_programs() {
    let show = |v: Value| Shown::from_gguf(&v);
    assert_eq!(show(Value::F32(0.1)).json, json!(0.1));
    assert_eq!(show(Value::F32(f32::NAN)).json, Json::Null);
    assert_eq!(show(Value::I8(-1)).json, json!(-1));
    assert_eq!(show(Value::U64(u64::MAX)).json, json!(u64::MAX));
    let evil = show(Value::from("a\u{1b}[2J\nb"));
    assert_eq!(evil.line, "a\\u{1b}[2J\\nb");
    assert_eq!(evil.json, json!("a\u{1b}[2J\nb"));

    let short = show(Array::U32(vec![1, 2, 3]).into());
    assert_eq!((short.kind.as_str(), short.line.as_str()), ("u32[3]", "1, 2, 3"));
    assert_eq!(short.json, json!([1, 2, 3]));
    let long = show(Array::String((0..2000).map(|i| format!("t{i}")).collect()).into());
    assert_eq!(long.kind, "string[2000]");
    assert_eq!(long.json["length"], 2000);
    assert_eq!(long.json["type"], "string");
    assert_eq!(long.json["first"][15], "t15");
    assert!(long.cut(24).starts_with("\"t0\", \"t1\"") && long.cut(24).ends_with("...") && long.cut(24).len() <= 24);
    assert_eq!(show(Value::from("x".repeat(50))).cut(40), format!("{}... (50 characters)", "x".repeat(21)));
    let nested = show(Array::Array(vec![Array::U8(vec![1]), Array::Bool(vec![])]).into());
    assert_eq!(nested.json, json!([[1], []]));
}

#[test]
fn the_three_kinds_open() {
    let dir = tempfile::tempdir().unwrap();
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", "llama");
    metadata.set("general.name", "Tiny");
    let entry = |name: &str, dims: &[usize], format| TensorEntry {
        name: name.into(),
        shape: Shape::new(dims).unwrap(),
        format,
    };
    let writer = Writer::new(&metadata, &[entry("a", &[2, 8], &block::F32), entry("b", &[4], &block::F16)]).unwrap();
    let mut bytes = writer.head().to_vec();
    bytes.resize(writer.file_size() as usize, 0);
    let path = dir.path().join("x.gguf");
    std::fs::write(&path, bytes).unwrap();
    let gguf = Subject::open(&path).unwrap();
    assert_eq!((gguf.format, gguf.parameters(), gguf.name.as_deref()), ("gguf", 20, Some("Tiny")));
    assert_eq!(gguf.types()[0], ("F32", Share { tensors: 1, weights: 16, bytes: 64 }));
    assert!((gguf.bits_per_weight() - 72.0 * 8.0 / 20.0).abs() < 1e-12);
    assert_eq!(gguf.stats(&gguf.tensors[0]).unwrap().zeros, 16);

    let header = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]},"n":{"dtype":"BOOL","shape":[],"data_offsets":[8,9]}}"#;
    let data = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0x80, 0x3f].repeat(4), &[1]].concat();
    let path = dir.path().join("model.safetensors");
    std::fs::write(&path, &data).unwrap();
    let file = Subject::open(&path).unwrap();
    assert_eq!((file.format, file.parameters(), file.metadata[0].1.line.as_str()), ("safetensors", 5, "pt"));
    assert_eq!(file.stats(&file.tensors[0]).unwrap().mean, 1.0);
    assert_eq!(file.stats(&file.tensors[1]), None);

    std::fs::write(dir.path().join("config.json"), r#"{"architectures":["LlamaForCausalLM"],"rope":{"b":1}}"#).unwrap();
    let folder = Subject::open(dir.path()).unwrap();
    assert_eq!((folder.format, folder.architecture.as_deref()), ("huggingface", Some("LlamaForCausalLM")));
    assert_eq!(folder.metadata[1].1.line, r#"{"b":1}"#);

    std::fs::write(dir.path().join("bad.gguf"), "nothing").unwrap();
    assert!(Subject::open(&dir.path().join("bad.gguf")).unwrap_err().to_string().contains("magic"));
    assert!(Subject::open(&dir.path().join("config.json")).unwrap_err().to_string().contains("safetensors header"));
}
