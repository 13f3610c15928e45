//! Small tokenizers in temporary folders. Expected keys are those of llama.cpp's converter on the same folders.

use super::pre::{ALL, Cut};
use super::*;
use crate::gguf::Value;
use serde_json::{Value as Json, json};
use std::path::Path;

struct Folder(tempfile::TempDir);

impl Folder {
    /// With a configuration of `vocab_size` and one tensor, so that it opens.
    fn new(vocab_size: usize) -> Self {
        let folder = Folder(tempfile::tempdir().unwrap());
        let header = r#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend([0; 4]);
        folder.write("model.safetensors", &bytes);
        folder.json("config.json", &json!({"architectures": ["X"], "vocab_size": vocab_size}));
        folder
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    fn json(&self, name: &str, value: &Json) {
        self.write(name, value.to_string().as_bytes());
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn read_warning(&self, vocab_size: usize) -> Result<(Metadata, Vec<String>)> {
        let mut warnings = Vec::new();
        let checkpoint = Checkpoint::open(self.path())?;
        Ok((from_checkpoint(&checkpoint, vocab_size, &mut warnings)?, warnings))
    }

    fn read(&self, vocab_size: usize) -> Metadata {
        self.read_warning(vocab_size).unwrap().0
    }

    fn refused(&self, words: &str) {
        let error = self.read_warning(16).expect_err("must be refused").to_string();
        assert!(error.contains(words), "{error:?} should say {words:?}");
    }
}

/// Byte-level: ids 0..6 a b ab abc Ġ c, 6 <s> and 7 </s> special, 8 <tool> ordinary.
fn byte_level() -> Json {
    json!({
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel"},
        "added_tokens": [
            {"id": 6, "content": "<s>", "special": true, "normalized": false},
            {"id": 7, "content": "</s>", "special": true, "normalized": false},
            {"id": 8, "content": "<tool▁x>", "special": false, "normalized": true},
        ],
        "model": {
            "type": "BPE", "ignore_merges": false, "byte_fallback": false,
            "vocab": {"a": 0, "b": 1, "ab": 2, "abc": 3, "Ġ": 4, "c": 5},
            "merges": [["a", "b"], ["ab", "c"]],
        },
    })
}

/// Sentencepiece as tokenizer.json: 0 <unk>, 1 <s>, 2 </s>, 3 <0x0A>, then ▁ a b ▁a ab ▁ab.
fn characters() -> Json {
    json!({
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null,
        "added_tokens": [{"id": 1, "content": "<s>", "special": true}, {"id": 2, "content": "</s>", "special": true}],
        "model": {
            "type": "BPE", "byte_fallback": true, "unk_token": "<unk>",
            "vocab": {"<unk>": 0, "<s>": 1, "</s>": 2, "<0x0A>": 3, "▁": 4, "a": 5, "b": 6, "▁a": 7, "ab": 8, "▁ab": 9},
            "merges": ["▁ a", "a b", "▁ ab", "▁a b"],
        },
    })
}

fn keys(metadata: &Metadata) -> Vec<&str> {
    metadata.iter().map(|(k, _)| k.trim_start_matches("tokenizer.").trim_start_matches("ggml.")).collect()
}

fn types(metadata: &Metadata) -> Vec<i32> {
    match metadata.get("tokenizer.ggml.token_type") {
        Some(Value::Array(Array::I32(v))) => v.clone(),
        other => panic!("{other:?}"),
    }
}

fn strings<'a>(metadata: &'a Metadata, key: &str) -> Vec<&'a str> {
    metadata.get(key).unwrap().as_strings().unwrap().iter().map(String::as_str).collect()
}

#[test]
fn byte_level_tokens_come_with_types_merges_and_padding() {
    let folder = Folder::new(10);
    folder.json("tokenizer.json", &byte_level());
    folder.json(
        "tokenizer_config.json",
        &json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "add_bos_token": true, "chat_template": "T"}),
    );
    let m = folder.read(10);
    assert_eq!(
        keys(&m),
        [
            "model",
            "pre",
            "tokens",
            "token_type",
            "merges",
            "bos_token_id",
            "eos_token_id",
            "add_bos_token",
            "chat_template"
        ]
    );
    assert_eq!((m.str("tokenizer.ggml.model"), m.str("tokenizer.ggml.pre")), (Some("gpt2"), Some("gpt-2")));
    let tokens = ["a", "b", "ab", "abc", "Ġ", "c", "<s>", "</s>", "<tool x>", "[PAD9]"];
    assert_eq!(strings(&m, "tokenizer.ggml.tokens"), tokens);
    assert_eq!(types(&m), [1, 1, 1, 1, 1, 1, 3, 3, 4, 5]);
    assert_eq!(strings(&m, "tokenizer.ggml.merges"), ["a b", "ab c"]);
    assert_eq!((m.u64("tokenizer.ggml.bos_token_id"), m.u64("tokenizer.ggml.eos_token_id")), (Some(6), Some(7)));
    // Without a size, room for all tokens.
    assert_eq!(folder.read(0).get("tokenizer.ggml.tokens").unwrap().as_strings().unwrap().len(), 9);
    // Too small a model: said, not written.
    let (m, warnings) = folder.read_warning(7).unwrap();
    assert_eq!(types(&m).len(), 7);
    assert!(warnings.iter().any(|w| w.contains("2 tokens beyond")), "{warnings:?}");
    assert!(warnings.iter().any(|w| w.contains("eos token 7 is beyond")), "{warnings:?}");
}

#[test]
fn tokens_that_look_special_are() {
    let folder = Folder::new(12);
    let mut json = byte_level();
    for (id, text) in [(9, "<|x|>"), (10, "<unused3>"), (11, "<y>")] {
        json["added_tokens"].as_array_mut().unwrap().push(json!({"id": id, "content": text, "special": false}));
    }
    folder.json("tokenizer.json", &json);
    assert_eq!(types(&folder.read(12))[9..], [3, 3, 4]);
    // What only the configuration calls special takes the next free id; what it declares counts more.
    let decoder = json!({"11": {"content": "<y>", "special": true}});
    folder.json("tokenizer_config.json", &json!({"pad_token": "<pad>", "added_tokens_decoder": decoder}));
    let m = folder.read(13);
    assert_eq!((types(&m)[11..].to_vec(), strings(&m, "tokenizer.ggml.tokens")[12]), (vec![3, 3], "<pad>"));
}

#[test]
fn the_post_processor_decides_what_is_added() {
    let part = |id: &str| json!({"SpecialToken": {"id": id, "type_id": 0}});
    let a = json!({"Sequence": {"id": "A", "type_id": 0}});
    let template = |single: Vec<Json>| json!({"type": "TemplateProcessing", "single": single, "pair": []});
    let both = json!({"bos_token": "<s>", "eos_token": "</s>"});
    let cases = [
        (template(vec![part("<s>"), a.clone()]), both.clone(), "bos_token_id eos_token_id add_bos_token"),
        (
            template(vec![part("<s>"), a.clone(), part("</s>")]),
            both.clone(),
            "bos_token_id eos_token_id add_bos_token add_eos_token",
        ),
        (json!({"type": "ByteLevel"}), both.clone(), "bos_token_id eos_token_id add_bos_token add_eos_token"),
        (
            json!({"type": "RobertaProcessing", "cls": ["<s>", 6], "sep": ["</s>", 7]}),
            both.clone(),
            "bos_token_id eos_token_id seperator_token_id add_bos_token add_eos_token add_sep_token",
        ),
        (template(vec![part("<s>"), a.clone()]), json!({}), "bos_token_id add_bos_token"),
        // The configured end becomes the end of a turn.
        (
            template(vec![a.clone(), part("<s>")]),
            json!({"eos_token": "</s>"}),
            "eos_token_id eot_token_id add_eos_token",
        ),
        (json!(null), json!({"cls_token": "<s>", "sep_token": "</s>"}), "bos_token_id eos_token_id seperator_token_id"),
        (json!(null), json!({"add_eos_token": true, "pad_token": "</s>"}), "padding_token_id add_eos_token"),
    ];
    for (processor, config, expected) in cases {
        let folder = Folder::new(9);
        let mut json = byte_level();
        json["post_processor"] = processor.clone();
        folder.json("tokenizer.json", &json);
        folder.json("tokenizer_config.json", &config);
        assert_eq!(keys(&folder.read(9))[5..].join(" "), expected, "{processor} {config}");
    }
    // What it puts before texts is the BOS, whoever else is called so; of several tokens one has room.
    let read = |processor: Json, config: Option<Json>, tokenizer: Json| {
        let folder = Folder::new(10);
        let mut json = tokenizer;
        json["post_processor"] = processor;
        folder.json("tokenizer.json", &json);
        if let Some(config) = config {
            folder.json("tokenizer_config.json", &config);
        }
        folder.read_warning(10).unwrap()
    };
    let (id, add) = ("tokenizer.ggml.bos_token_id", "tokenizer.ggml.add_bos_token");
    let other = json!({"bos_token": "</s>"});
    let (m, warnings) = read(template(vec![part("<s>"), a.clone()]), Some(other), byte_level());
    assert_eq!((m.u64(id), m.bool(add)), (Some(6), Some(true)));
    assert!(warnings.iter().any(|w| w.contains("names another BOS")), "{warnings:?}");
    let (m, warnings) = read(template(vec![part("<s>"), part("</s>"), a.clone()]), Some(both.clone()), byte_level());
    assert_eq!((m.u64(id), m.bool(add)), (Some(6), Some(true)));
    assert!(warnings.iter().any(|w| w.contains("left out are </s>")), "{warnings:?}");
    let dict = json!({"bos_token": {"content": "<s>"}});
    let (m, warnings) = read(template(vec![part("<s>"), a.clone()]), Some(dict), byte_level());
    assert_eq!((m.u64(id), m.bool(add), warnings.len()), (Some(6), Some(true), 0), "{warnings:?}");
    // tokenizer.json alone names it, too; and where it adds nothing, readers must not either.
    let (m, _) = read(template(vec![part("<s>"), a.clone()]), None, byte_level());
    assert_eq!((m.u64(id), m.bool(add)), (Some(6), Some(true)));
    for config in [None, Some(json!({"bos_token": "<s>", "tokenizer_class": "PreTrainedTokenizerFast"}))] {
        let (m, _) = read(template(vec![a.clone()]), config, characters());
        assert_eq!(m.bool(add), Some(false));
    }
    let (m, _) =
        read(json!(null), Some(json!({"bos_token": "<s>", "tokenizer_class": "LlamaTokenizer"})), characters());
    assert_eq!(m.bool(add), None, "the class adds one");
    // Where both speak, the post-processor is right.
    let folder = Folder::new(9);
    let mut json = byte_level();
    json["post_processor"] = json!({"type": "ByteLevel"});
    folder.json("tokenizer.json", &json);
    folder.json("tokenizer_config.json", &json!({"add_bos_token": true}));
    let (m, warnings) = folder.read_warning(9).unwrap();
    assert_eq!(m.bool("tokenizer.ggml.add_bos_token"), Some(false));
    assert!(warnings[0].contains("the latter is taken"), "{warnings:?}");
}

#[test]
fn what_readers_do_otherwise_is_told() {
    let warnings = |tokenizer: &Json| {
        let folder = Folder::new(12);
        folder.json("tokenizer.json", tokenizer);
        folder.read_warning(12).unwrap().1.join("; ")
    };
    let plain = byte_level();
    assert_eq!(warnings(&plain), "");
    for (flag, words) in
        [("lstrip", "white space before"), ("rstrip", "white space behind"), ("single_word", "no letter")]
    {
        let mut json = plain.clone();
        json["added_tokens"][2][flag] = json!(true);
        let told = warnings(&json);
        assert!(told.contains(words) && told.contains("<tool▁x>"), "{told}");
    }
    let mut json = plain.clone();
    json["model"]["dropout"] = json!(0.1);
    assert!(warnings(&json).contains("at random"));
    let mut json = characters();
    json["normalizer"] = json!(null);
    json["pre_tokenizer"] = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false});
    assert!(warnings(&json).contains("begin with none"));
    json["pre_tokenizer"]["prepend_scheme"] = json!("never");
    assert!(!warnings(&json).contains("begin with none"));
}

#[test]
fn ids_are_also_found_in_configurations() {
    let folder = Folder::new(9);
    folder.json("tokenizer.json", &byte_level());
    folder.json("config.json", &json!({"bos_token_id": 6, "eos_token_id": [7, 3], "vocab_size": 9}));
    folder.json("generation_config.json", &json!({"bos_token_id": 2}));
    let m = folder.read(9);
    assert_eq!((m.u64("tokenizer.ggml.bos_token_id"), m.u64("tokenizer.ggml.eos_token_id")), (Some(6), Some(7)));
}

#[test]
fn chat_templates_lie_in_three_places() {
    type Pairs = &'static [(&'static str, &'static str)];
    let cases: [(Pairs, Json, Pairs); 5] = [
        (&[], json!("C"), &[("chat_template", "C")]),
        (&[("chat_template.jinja", "J")], json!(null), &[("chat_template", "J")]),
        (&[("chat_template.jinja", "J")], json!("C"), &[("chat_template", "C")]),
        (&[("chat_template.json", r#"{"chat_template": "N"}"#)], json!(null), &[("chat_template", "N")]),
        (
            &[("chat_template.jinja", "J"), ("additional_chat_templates/tool-use.jinja", "T")],
            json!(null),
            &[("chat_template.tool_use", "T"), ("chat_template", "J")],
        ),
    ];
    for (files, config, expected) in cases {
        let folder = Folder::new(9);
        folder.json("tokenizer.json", &byte_level());
        folder.json("tokenizer_config.json", &json!({"chat_template": config}));
        files.iter().for_each(|(name, text)| folder.write(name, text.as_bytes()));
        let m = folder.read(9);
        for (key, text) in expected {
            assert_eq!(m.str(&format!("tokenizer.{key}")), Some(*text), "{files:?}");
        }
    }
    let folder = Folder::new(9);
    folder.json("tokenizer.json", &byte_level());
    let list = json!([{"name": "default", "template": "D"}, {"name": "rag!", "template": "R"}]);
    folder.json("tokenizer_config.json", &json!({"chat_template": list}));
    let m = folder.read(9);
    assert_eq!(keys(&m)[5..], ["chat_template.rag_", "chat_templates", "chat_template"]);
    folder.json("tokenizer_config.json", &json!({}));
    folder.write("chat_template.jinja", b"x\xFF");
    folder.refused("not valid UTF-8");
}

#[test]
fn text_files_alone_need_a_known_class() {
    let folder = Folder::new(8);
    folder.json("vocab.json", &json!({"a": 0, "b": 1, "ab": 2, "<e>": 3}));
    folder.write("merges.txt", b"#version: 0.2\na b\n");
    folder.json("added_tokens.json", &json!({"<|x|>": 4, "<y>": 5}));
    folder.json("tokenizer_config.json", &json!({"tokenizer_class": "Qwen2TokenizerFast", "eos_token": "<e>"}));
    let m = folder.read(8);
    assert_eq!((m.str("tokenizer.ggml.pre"), m.u64("tokenizer.ggml.eos_token_id")), (Some("qwen2"), Some(3)));
    assert_eq!(types(&m), [1, 1, 1, 3, 3, 4, 5, 5]);
    folder.write("merges.txt", b"a b\na b c\n");
    folder.refused("line 2: \"a b c\" is no pair");
    folder.write("merges.txt", b"a q\n");
    folder.refused("names \"q\"");
    folder.json("tokenizer_config.json", &json!({"tokenizer_class": "NovelTokenizer"}));
    folder.refused("write a tokenizer.json");
}

/// Field `number` of a message.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2, bytes.len() as u8];
    out.extend(bytes);
    out
}

/// A sentencepiece model.
fn sentencepiece(pieces: &[(&str, f32, u8)], model_type: u8) -> Vec<u8> {
    let mut out = Vec::new();
    for (text, score, kind) in pieces {
        let mut piece = field(1, text.as_bytes());
        piece.push(2 << 3 | 5);
        piece.extend(score.to_le_bytes());
        piece.extend([3 << 3, *kind]);
        out.extend(field(1, &piece));
    }
    out.extend(field(2, &[3 << 3, model_type]));
    out.extend(field(3, &[3 << 3, 1, 4 << 3, 0]));
    out
}

const PIECES: [(&str, f32, u8); 6] =
    [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("<0x0A>", 0.0, 6), ("▁a", -1.0, 1), ("a", -2.0, 4), ("z", -3.0, 5)];

#[test]
fn sentencepiece_models_are_read_field_by_field() {
    let folder = Folder::new(9);
    folder.write("tokenizer.model", &sentencepiece(&PIECES, 2));
    folder.json("added_tokens.json", &json!({"<x>": 6}));
    let decoder = json!({"7": {"content": "<|im|>", "special": false}, "8": {"content": "▁n", "special": false}});
    folder.json("tokenizer_config.json", &json!({"added_tokens_decoder": decoder}));
    let (m, warnings) = folder.read_warning(9).unwrap();
    assert_eq!(keys(&m), ["model", "pre", "tokens", "scores", "token_type"]);
    assert_eq!(types(&m), [2, 3, 6, 1, 1, 5, 4, 3, 4]);
    assert_eq!(strings(&m, "tokenizer.ggml.tokens")[6..], ["<x>", "<|im|>", " n"]);
    let scores = vec![0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -1000.0, -1000.0, -1000.0];
    assert_eq!(m.get("tokenizer.ggml.scores"), Some(&Array::F32(scores).into()));
    assert!(warnings.len() == 1 && warnings[0].contains("user-defined symbols"), "{warnings:?}");
    // Without a space before texts, user-defined symbols can be what they are.
    folder.json("tokenizer_config.json", &json!({"add_prefix_space": false}));
    assert_eq!(types(&folder.read(9))[..7], [2, 3, 6, 1, 4, 5, 4]);
    folder.write("tokenizer.model", &sentencepiece(&PIECES, 1));
    folder.refused("no BPE model");
    // Spaces behind words.
    folder.write("tokenizer.model", &[sentencepiece(&PIECES, 2), field(2, &[0xC0, 1, 1])].concat());
    folder.refused("treat_whitespace_as_suffix");
}

#[test]
fn a_sentencepiece_model_alone_says_its_special_tokens() {
    let folder = Folder::new(6);
    let ids = |m: &Metadata| {
        ["unknown", "bos", "eos", "padding"].map(|kind| m.u64(&format!("tokenizer.ggml.{kind}_token_id")))
    };
    // bos_id 4, eos_id -1, pad_id 5; unk_id is missing.
    let minus_one = [0xD0, 2, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1];
    let spec = [&[0xC8, 2, 4][..], &minus_one, &[0xD8, 2, 5]].concat();
    folder.write("tokenizer.model", &[sentencepiece(&PIECES, 2), field(2, &spec)].concat());
    assert_eq!(ids(&folder.read(6)), [Some(0), Some(4), None, Some(5)]);
    folder.json("config.json", &json!({"bos_token_id": 1, "vocab_size": 6}));
    assert_eq!(ids(&folder.read(6)), [Some(0), Some(1), None, Some(5)]);
    folder.json("tokenizer_config.json", &json!({}));
    assert_eq!(ids(&folder.read(6)), [None, Some(1), None, None]);
}

#[test]
fn damaged_sentencepiece_models_never_panic() {
    let whole = sentencepiece(&PIECES, 2);
    let folder = Folder::new(9);
    let mut refused = 0;
    for end in 0..whole.len() {
        folder.write("tokenizer.model", &whole[..end]);
        refused += usize::from(folder.read_warning(9).is_err());
    }
    // Cut between fields, the model type is missing, which means unigram; only behind it the rest may be missing.
    assert_eq!(refused, whole.len() - 1);
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            folder.write("tokenizer.model", &bytes);
            let _ = folder.read_warning(9);
        }
    }
    folder.write("tokenizer.model", &sentencepiece(&[("a", f32::NAN, 1)], 2));
    folder.refused("the score of token 0 is no number");
    folder.write("tokenizer.model", &sentencepiece(&[("a", 0.0, 1), ("a", 0.0, 1)], 2));
    folder.refused("tokens 0 and 1 are both \"a\"");
    // Damage is not hidden by a tokenizer.json beside it; Llama 3's file of the same name is something else.
    folder.json("tokenizer.json", &byte_level());
    folder.write("tokenizer.model", &[&[0xFF], &whole[1..]].concat());
    folder.refused("tokenizer.model");
    folder.write("tokenizer.model", b"IQ== 0\nIg== 1\n");
    assert_eq!(folder.read(9).str("tokenizer.ggml.model"), Some("gpt2"));
    // A length beyond the file.
    folder.write("tokenizer.model", &[0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F]);
    folder.refused("truncated");
}

#[test]
fn merges_become_scores() {
    let folder = Folder::new(10);
    folder.json("tokenizer.json", &characters());
    let (m, warnings) = folder.read_warning(10).unwrap();
    assert_eq!(types(&m), [2, 3, 3, 6, 1, 1, 1, 1, 1, 1]);
    let Some(Value::Array(Array::F32(scores))) = m.get("tokenizer.ggml.scores") else { panic!() };
    // ▁a, ab, ▁ab in the order of their first merges; what no merge makes comes last.
    assert_eq!(scores[7..], [0.0, -1.0, -2.0]);
    assert!(scores[4..7].iter().all(|&s| s < -2.0));
    assert!(warnings.is_empty() && m.get("tokenizer.ggml.add_space_prefix").is_none(), "{warnings:?}");

    let mut json = characters();
    json["normalizer"] = json!(null);
    json["model"]["merges"] = json!(["▁ a", "a b", "▁ ab"]);
    folder.json("tokenizer.json", &json);
    let (m, warnings) = folder.read_warning(10).unwrap();
    assert_eq!(m.bool("tokenizer.ggml.add_space_prefix"), Some(false));
    assert!(warnings[0].contains("1 tokens have parts that the merges do not join"), "{warnings:?}");
    json["pre_tokenizer"] = json!({"type": "Digits", "individual_digits": true});
    folder.json("tokenizer.json", &json);
    folder.refused("cannot express");
}

#[test]
fn broken_vocabularies_are_refused() {
    let change = |pointer: &str, value: Json, words: &str| {
        let folder = Folder::new(9);
        let mut json = byte_level();
        *json.pointer_mut(pointer).unwrap() = value;
        folder.json("tokenizer.json", &json);
        folder.refused(words);
    };
    change("/model/type", json!("Unigram"), "is Unigram; BPE with merges is supported");
    change("/model/vocab", json!(7), "key model.vocab: is missing");
    change("/model/vocab/a", json!("x"), "gives \"a\" the id \"x\"");
    change("/model/vocab/a", json!(-1), "gives \"a\" the id -1");
    change("/model/vocab/a", json!(1), "has the id 1 for both");
    change("/model/merges/0", json!("ab"), "entry 0 is \"ab\", no pair");
    change("/model/merges/0", json!(["a", "c"]), "names \"ac\", which is no token");
    change("/added_tokens/0/content", json!("ab"), "are both \"ab\"");
    change("/normalizer", json!({"type": "Lowercase"}), "has the step Lowercase");
    change("/pre_tokenizer", json!(null), "a structure that qconv does not know: nothing");
    change("/pre_tokenizer/add_prefix_space", json!(true), "<gpt-2 with a space before>");
    let split = json!({"type": "Split", "pattern": {"Regex": "x+"}, "behavior": "Removed", "invert": false});
    change("/pre_tokenizer", split, "x+");
    // An id that no memory could hold is left out, not allocated.
    let folder = Folder::new(9);
    let mut json = byte_level();
    json["model"]["vocab"]["c"] = json!(u64::MAX);
    folder.json("tokenizer.json", &json);
    assert!(folder.read_warning(9).unwrap().1[0].contains("1 tokens beyond"));
    folder.write("tokenizer.json", b"{\"model\": ");
    folder.refused("line 1");
    let folder = Folder::new(9);
    folder.refused("none of tokenizer.model, tokenizer.json, or vocab.json with merges.txt");
}

#[test]
fn classes_have_their_habits() {
    let folder = Folder::new(9);
    folder.json("tokenizer.json", &byte_level());
    folder.json("tokenizer_config.json", &json!({"add_prefix_space": false}));
    assert_eq!(keys(&folder.read(9))[0], "model");
    folder.json("config.json", &json!({"architectures": ["LlamaForCausalLM"]}));
    assert_eq!(keys(&folder.read(9))[0], "add_space_prefix");
    assert_eq!(folder.read(32_016).u64("tokenizer.ggml.eot_token_id"), Some(32_010));
    assert_eq!(folder.read(49_152).bool("tokenizer.ggml.add_bos_token"), Some(false));
}

/// Every sign is found by its own structure, and no two signs say the same.
#[test]
fn structures_are_told_apart() {
    let signs: Vec<_> = ALL.iter().flat_map(|pre| pre.signs.iter().map(move |sign| (*pre, sign))).collect();
    for (pre, sign) in &signs {
        let own = || {
            let patterns = pre.cuts.iter().map(|cut| match cut {
                Cut::Pattern(p) => p.to_string(),
                other => panic!("{}: {other:?} has no pattern to be recognised by", sign.name),
            });
            patterns.chain(["<bytes>".to_owned()]).collect()
        };
        let steps: Vec<String> =
            if sign.steps.is_empty() { own() } else { sign.steps.iter().map(|s| s.to_string()).collect() };
        let splits: Vec<Json> = steps.iter().map(|step| step_json(step)).collect();
        let read = structure::steps(&json!({"type": "Sequence", "pretokenizers": splits}));
        let ignore = sign.ignore_merges.unwrap_or(false);
        let name = structure::recognise(&read, ignore, |t| sign.tokens.contains(&t));
        assert_eq!(name.as_deref(), Ok(sign.name), "{steps:?}");
        assert!(pre.names.contains(&sign.name), "{} is no name of its row", sign.name);
    }
    let mut names: Vec<&str> = ALL.iter().flat_map(|p| p.names).copied().collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "a name in two rows");
}

/// A step as tokenizer.json has it.
fn step_json(step: &str) -> Json {
    let split =
        |pattern: &str, behavior: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior});
    match step {
        "<bytes>" => json!({"type": "ByteLevel", "use_regex": false}),
        "<gpt-2>" => json!({"type": "ByteLevel"}),
        "<digits>" => json!({"type": "Digits", "individual_digits": true}),
        "<digit runs>" => json!({"type": "Digits", "individual_digits": false}),
        "<punctuation>" => json!({"type": "Punctuation", "behavior": "Isolated"}),
        "<punctuation runs>" => json!({"type": "Punctuation", "behavior": "Contiguous"}),
        other => match other.strip_prefix("<with what follows: ").and_then(|s| s.strip_suffix('>')) {
            Some(pattern) => split(pattern, "MergedWithNext"),
            // Real line ends in a pattern, as DeepSeek's files have them, mean the same.
            None => split(&other.replace(r"\r", "\r").replace(r"\n", "\n"), "Isolated"),
        },
    }
}
