use super::*;
use crate::naming::default_name;
use serde::Deserialize;

/// A line of `fixtures/naming/cards.json`.
#[derive(Deserialize)]
struct Case {
    folder: String,
    readme: Option<String>,
    config: Json,
    generation: Option<Json>,
    /// Total, shared, per expert, experts.
    counts: [u64; 4],
    #[serde(rename = "type")]
    mix: String,
    /// Key, type, value.
    metadata: Vec<(String, String, Json)>,
    file: String,
}

fn counts([total, shared, expert, experts]: [u64; 4]) -> ParameterCounts {
    ParameterCounts { total, shared, expert, experts }
}

fn fixture<T: serde::de::DeserializeOwned>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/naming").join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn show(value: &Value) -> (&'static str, Json) {
    match value {
        Value::String(s) => ("str", s.as_str().into()),
        Value::U32(n) => ("u32", (*n).into()),
        Value::I32(n) => ("i32", (*n).into()),
        // as short as it was written
        Value::F32(x) => ("f32", serde_json::from_str(&x.to_string()).unwrap()),
        Value::Array(Array::String(v)) => ("strs", v.clone().into()),
        other => panic!("no such value in general.*: {other:?}"),
    }
}

#[test]
fn metadata_and_names_are_gguf_pys() {
    let cases: Vec<Case> = fixture("cards.json");
    assert!(cases.len() > 30);
    for case in cases {
        let mut warnings = Vec::new();
        let card = Card::parse(case.readme.as_deref().unwrap_or("")).unwrap_or_default();
        let sources =
            Sources { card, config: &case.config, generation: case.generation.as_ref(), folder: &case.folder };
        let mix = Mix::by_name(&case.mix).unwrap();
        let meta = sources.metadata(&counts(case.counts), mix, &mut warnings);
        let got: Vec<(String, &str, Json)> = meta
            .iter()
            .map(|(k, v)| {
                let (kind, json) = show(v);
                (k.to_owned(), kind, json)
            })
            .collect();
        let (ours, last) = got.split_at(got.len() - 2);
        let want: Vec<(String, &str, Json)> = case
            .metadata
            .into_iter()
            .map(|(key, kind, json)| {
                let kind = ["str", "u32", "i32", "f32", "strs"].into_iter().find(|k| *k == kind).unwrap();
                // 1 and 1.0 are one number
                let json = if kind == "f32" {
                    serde_json::from_str(&(json.as_f64().unwrap() as f32).to_string()).unwrap()
                } else {
                    json
                };
                (key, kind, json)
            })
            .collect();
        assert_eq!(ours, want, "{}", case.folder);
        assert_eq!(last[0], ("general.quantization_version".into(), "u32", 2.into()));
        assert_eq!(last[1], ("general.file_type".into(), "u32", mix.file_type.into()));
        assert_eq!(default_name(&meta, mix), case.file, "{}", case.folder);
        assert!(warnings.is_empty(), "{}: {warnings:?}", case.folder);
    }
}

#[test]
fn ids_are_taken_apart_as_by_gguf_py() {
    /// Id, weights, the six parts, title.
    type Row = (String, u64, [Option<String>; 6], String);
    let rows: Vec<Row> = fixture("ids.json");
    assert!(rows.len() > 100);
    for (id, total, [full, organization, basename, finetune, version, size_label], name) in rows {
        let parts = NameParts::of(&id, total);
        assert_eq!(title(parts.full.as_deref().unwrap()), name, "{id}");
        assert_eq!(parts, NameParts { full, organization, basename, finetune, version, size_label }, "{id}");
    }
}

#[test]
fn size_labels_are_gguf_pys() {
    let rows: Vec<(u64, u64, u64, u64, String)> = fixture("sizes.json");
    assert!(rows.len() > 100);
    for (total, shared, expert, experts, label) in rows {
        assert_eq!(counts([total, shared, expert, experts]).size_label(), label, "{total} {shared} {expert} {experts}");
    }
}

#[test]
fn weights_are_counted_with_experts_apart() {
    let shape = |dims: &[usize]| qconv_formats::Shape::new(dims).unwrap();
    let (embd, up, bias) = (shape(&[100, 10]), shape(&[8, 20, 10]), shape(&[8, 20]));
    let tensors = [("token_embd.weight", &embd), ("blk.0.ffn_up_exps.weight", &up), ("blk.0.ffn_up_exps.bias", &bias)];
    // a bias of two dimensions is no stack to gguf-py either
    let got = ParameterCounts::of(tensors);
    assert_eq!(got, counts([1000 + 1600 + 160, 1000 + 160, 200, 8]));
}

fn from_card(readme: &str, warnings: &mut Vec<String>) -> Metadata {
    let sources = Sources {
        card: Card::parse(readme).unwrap(),
        config: &serde_json::json!({"_name_or_path": 7}),
        generation: Some(&serde_json::json!({"top_k": "many", "top_p": 1e300, "temperature": true, "mirostat": 2.0})),
        folder: "tiny-2b",
    };
    sources.metadata(&counts([2_000_000_000; 4]), Mix::by_name("F16").unwrap(), warnings)
}

#[test]
fn what_makes_no_sense_is_left_out_with_a_warning() {
    let mut warnings = Vec::new();
    let meta = from_card(
        "---\nauthor: {a: b}\nversion: 1.10\nlicense_name: ''\ntags: [2024, {a: b}, x]\nbase_model: {name: x}\ndatasets: [[a], b/c]\n---\n",
        &mut warnings,
    );
    assert_eq!(meta.get("general.author"), None);
    assert_eq!(meta.str("general.version"), Some("1.10"));
    assert_eq!(meta.get("general.license.name"), None);
    assert_eq!(meta.get("general.tags"), Some(&Value::Array(Array::String(vec!["2024".into(), "x".into()]))));
    assert_eq!(meta.get("general.base_model.count"), None);
    assert_eq!(meta.get("general.dataset.count"), Some(&Value::U32(1)));
    assert_eq!(meta.str("general.dataset.0.name"), Some("C"));
    assert_eq!(meta.get("general.sampling.mirostat"), Some(&Value::I32(2)));
    for key in ["author", "tags", "base_model", "dataset", "top_k", "top_p", "temperature"] {
        assert!(warnings.iter().any(|w| w.contains(key)), "{key}: {warnings:?}");
    }
    assert_eq!(warnings.len(), 7, "{warnings:?}");
}

#[test]
fn unreadable_cards_are_warnings() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("README.md");
    for content in [&b"---\nlicense: [mit\n---\n"[..], b"---\n\xff\xfe\n---\n", b"---\n- a\n---\n"] {
        std::fs::write(&path, content).unwrap();
        let mut warnings = Vec::new();
        assert_eq!(read_card(&path, &mut warnings), Card::default());
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("README.md"), "{warnings:?}");
    }
    std::fs::remove_file(&path).unwrap();
    let mut warnings = Vec::new();
    assert_eq!(read_card(&path, &mut warnings), Card::default());
    assert!(warnings.is_empty());
}

#[test]
fn a_checkpoint_gives_its_metadata() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("Tiny-5M-Chat-v2");
    std::fs::create_dir(&path).unwrap();
    let header = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header);
    file.extend_from_slice(&[0; 4]);
    std::fs::write(path.join("model.safetensors"), file).unwrap();
    std::fs::write(path.join("config.json"), "{}").unwrap();
    std::fs::write(path.join("generation_config.json"), "{").unwrap();
    std::fs::write(path.join("README.md"), "---\nlicense: mit\n---\n").unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let mut warnings = Vec::new();
    let mix = Mix::by_name("q8_0").unwrap();
    let meta = general(&checkpoint, None, &counts([5_000_000; 4]), mix, &mut warnings).unwrap();
    assert_eq!(meta.str("general.license"), Some("mit"));
    assert_eq!(default_name(&meta, mix), "Tiny-5M-Chat-v2-Q8_0.gguf");
    assert!(warnings.len() == 1 && warnings[0].contains("generation_config.json"), "{warnings:?}");
}

#[test]
fn requantizing_replaces_the_type_and_nothing_else() {
    let mut source = Metadata::new();
    source.set("general.architecture", "llama");
    source.set("general.file_type", 1u32);
    source.set("general.name", "X");
    source.set("split.count", 3u32);
    source.set("llama.block_count", 2u32);
    let meta = requantized(&source, Mix::by_name("Q6_K").unwrap());
    let keys: Vec<_> = meta.iter().map(|(k, _)| k).collect();
    let want = [
        "general.architecture",
        "general.name",
        "llama.block_count",
        "general.quantization_version",
        "general.file_type",
    ];
    assert_eq!(keys, want);
    assert_eq!(meta.u64("general.file_type"), Some(18));
}

#[test]
fn empty_names_do_not_count() {
    let mut warnings = Vec::new();
    for id in ["./", ""] {
        let config = serde_json::json!({ "_name_or_path": id });
        let sources = Sources { card: Card::default(), config: &config, generation: None, folder: "stories260k" };
        let mix = Mix::by_name("F16").unwrap();
        let meta = sources.metadata(&counts([260_032; 4]), mix, &mut warnings);
        assert_eq!(meta.str("general.name"), Some("Stories260K"));
    }
}

/// Damaged cards give an error or a card, never a panic. `QCONV_FUZZ=N` damages each N times.
#[test]
fn damaged_cards_never_panic() {
    let times = std::env::var("QCONV_FUZZ").map_or(100, |n| n.parse().unwrap());
    let cases: Vec<Case> = fixture("cards.json");
    let mut seed = 1u64;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) as usize % below
    };
    let odd: Vec<char> = "-:[]{}&*!|>'\"#%@`,?\n\t \\0~é\u{0}\u{feff}".chars().collect();
    let mut parsed = 0;
    for readme in cases.iter().filter_map(|c| c.readme.as_ref()) {
        for _ in 0..times {
            let mut chars: Vec<char> = readme.chars().collect();
            for _ in 0..1 + random(4) {
                let at = 4 + random(chars.len().max(5));
                match random(3) {
                    0 => chars.insert(at.min(chars.len()), odd[random(odd.len())]),
                    1 => drop(chars.drain(at.min(chars.len())..(at + random(9)).min(chars.len()))),
                    _ => chars.extend_from_within(chars.len().saturating_sub(random(40))..),
                }
            }
            parsed += usize::from(Card::parse(&chars.iter().collect::<String>()).is_ok());
        }
    }
    assert!(parsed > 0);
}
