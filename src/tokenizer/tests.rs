//! Small vocabularies by hand; whole files of llama.cpp's are too large for the repository (see `fixtures/tokenizers`).

use super::*;
use qconv_formats::gguf::{Array, Value};
use qconv_formats::vocab::byte_level;

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };
const PARSE: EncodeOptions = EncodeOptions { add_special: false, parse_special: true };
const FULL: EncodeOptions = EncodeOptions { add_special: true, parse_special: true };

fn strings(list: &[&str]) -> Value {
    Array::String(list.iter().map(|s| s.to_string()).collect()).into()
}

fn load(metadata: &Metadata) -> anyhow::Result<Tokenizer> {
    Tokenizer::from_metadata(metadata, Path::new("x.gguf"))
}

/// The message of a metadata that must be refused.
fn refused(metadata: &Metadata) -> String {
    format!("{:#}", load(metadata).expect_err("must be refused"))
}

/// 0 unk, 1 BOS, 2 EOS, 3..259 bytes, then words with falling scores.
fn spm(words: &[&str]) -> Metadata {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    let mut types = vec![2, 3, 3];
    let mut scores = vec![0.0f32; 3];
    for byte in 0..256 {
        tokens.push(format!("<0x{byte:02X}>"));
        types.push(6);
        scores.push(0.0);
    }
    for (i, word) in words.iter().enumerate() {
        tokens.push(word.to_string());
        types.push(1);
        scores.push(-(i as f32));
    }
    let mut metadata = Metadata::new();
    metadata.set("tokenizer.ggml.model", "llama");
    metadata.set("tokenizer.ggml.tokens", Array::String(tokens));
    metadata.set("tokenizer.ggml.scores", Array::F32(scores));
    metadata.set("tokenizer.ggml.token_type", Array::I32(types));
    metadata
}

/// 0..256 the byte alphabet, then what the merges make, then `added` as control tokens.
fn bpe(pre: &str, merges: &[&str], added: &[&str]) -> Metadata {
    let mut tokens: Vec<String> = (0..=255u8).map(|b| byte_level::to_char(b).to_string()).collect();
    tokens.extend(merges.iter().map(|m| m.replace(' ', "")));
    let mut types = vec![1; tokens.len()];
    tokens.extend(added.iter().map(|s| s.to_string()));
    types.extend(added.iter().map(|_| 3));
    let mut metadata = Metadata::new();
    metadata.set("tokenizer.ggml.model", "gpt2");
    metadata.set("tokenizer.ggml.pre", pre);
    metadata.set("tokenizer.ggml.tokens", Array::String(tokens));
    metadata.set("tokenizer.ggml.token_type", Array::I32(types));
    metadata.set("tokenizer.ggml.merges", strings(merges));
    metadata
}

#[test]
fn spm_joins_the_best_neighbours_first() {
    let t = load(&spm(&["bc", "ab", "▁a", "a", "b", "c", "▁", "▁ab", "abc"])).unwrap();
    let id = |w: &str| t.table.id(w).unwrap();
    // "bc" has the higher score, so "abc" is made of a + bc; "▁a" comes before "abc" then.
    assert_eq!(t.encode("abc", PLAIN), [id("▁a"), id("bc")]);
    // Equal pairs: the leftmost first.
    assert_eq!(t.encode("abab", PLAIN), [id("▁ab"), id("ab")]);
    assert_eq!(t.encode("", FULL), [1]);
    assert_eq!(t.encode("a", FULL), [1, id("▁a")]);
    assert_eq!(t.decode(&[1, id("▁a"), id("bc")]).unwrap(), "<s>abc");
}

#[test]
fn spm_falls_back_to_bytes() {
    let t = load(&spm(&["▁", "a"])).unwrap();
    let id = |w: &str| t.table.id(w).unwrap();
    let euro = [0xE2, 0x82, 0xAC].map(|b| b + 3);
    assert_eq!(t.encode("a€", PLAIN), [&[id("▁"), id("a")], &euro[..]].concat());
    assert_eq!(t.piece(euro[0]).unwrap(), [0xE2]);
    assert_eq!(t.decode(&t.encode("a €\n", PLAIN)).unwrap(), "a €\n");
}

#[test]
fn spm_without_byte_tokens_gives_the_unknown_token() {
    let mut metadata = spm(&["▁", "a"]);
    metadata.set("tokenizer.ggml.tokens", strings(&["<unk>", "<s>", "</s>", "▁", "a"]));
    metadata.set("tokenizer.ggml.token_type", Array::I32(vec![2, 3, 3, 1, 1]));
    let t = load(&metadata).unwrap();
    assert_eq!(t.encode("aé", PLAIN), [3, 4, 0, 0]);
    assert!(t.warnings().iter().any(|w| w.contains("bytes have no token")), "{:?}", t.warnings());
}

#[test]
fn spm_tokens_across_words_are_found() {
    // A vocabulary whose tokens reach over spaces cannot be encoded word by word.
    let t = load(&spm(&["b▁", "b", "a", "▁", "ab▁c", "▁c", "c", "ab▁", "▁ab▁c"])).unwrap();
    let id = |w: &str| t.table.id(w).unwrap();
    assert_eq!(t.encode("ab c", PLAIN), [id("▁ab▁c")]);
}

#[test]
fn a_space_goes_in_front_of_what_follows_a_special_token() {
    let mut metadata = spm(&["▁", "a", "▁a"]);
    let t = load(&metadata).unwrap();
    let id = |w: &str| t.table.id(w).unwrap();
    assert_eq!(t.encode("a</s>a", PARSE), [id("▁a"), 2, id("▁a")]);
    assert_eq!(t.encode("</s>", PLAIN).len(), 5); // ▁ < / s >
    metadata.set("tokenizer.ggml.add_space_prefix", false);
    let t = load(&metadata).unwrap();
    assert_eq!(t.encode("a</s> a", PARSE), [id("a"), 2, id("▁a")]);
    assert_eq!(t.decode(&[id("▁a")]).unwrap(), " a");
}

#[test]
fn bpe_follows_the_order_of_merges() {
    let t = load(&bpe("gpt-2", &["h e", "l l", "he ll", "Ġ w", "o r"], &[])).unwrap();
    let text = "hell wor";
    let ids = t.encode(text, PLAIN);
    let pieces: Vec<&[u8]> = ids.iter().map(|&id| t.piece(id).unwrap()).collect();
    assert_eq!(pieces, [&b"hell"[..], b" w", b"or"]);
    assert_eq!(t.decode(&ids).unwrap(), text);
    // A merge that comes first wins over one that stands further left.
    let t = load(&bpe("gpt-2", &["b c", "a b", "a bc"], &[])).unwrap();
    assert_eq!(t.encode("abc ab", PLAIN), [258, 32, 257]);
}

#[test]
fn bpe_takes_whole_words_where_the_row_says_so() {
    // "abc" is a token that no merges lead to.
    let merges = ["a b"];
    for (pre, expected) in [("gpt-2", vec![256, 99]), ("llama-bpe", vec![257])] {
        let t = load(&bpe(pre, &merges, &["abc"])).unwrap();
        assert_eq!(t.encode("abc", PLAIN), expected, "{pre}");
    }
}

#[test]
fn bpe_merges_may_lead_through_texts_that_are_no_tokens() {
    let mut metadata = bpe("gpt-2", &["a b", "ab c"], &[]);
    let mut tokens: Vec<String> = (0..=255u8).map(|b| byte_level::to_char(b).to_string()).collect();
    tokens.push("abc".into());
    metadata.set("tokenizer.ggml.tokens", Array::String(tokens));
    metadata.set("tokenizer.ggml.token_type", Array::I32(vec![1; 257]));
    let t = load(&metadata).unwrap();
    assert_eq!(t.encode("abc", PLAIN), [256]);
    // "ab" stays a symbol without a token: its bytes are given.
    assert_eq!(t.encode("ab", PLAIN), [97, 98]);
}

#[test]
fn gemma_words_are_utf8_with_byte_fallback() {
    let mut metadata = spm(&["▁a", "a", "▁", "\n\n"]);
    metadata.set("tokenizer.ggml.model", "gemma4");
    metadata.set("tokenizer.ggml.merges", strings(&["▁ a"]));
    metadata.set("tokenizer.ggml.bos_token_id", 1u32);
    let t = load(&metadata).unwrap();
    let id = |w: &str| t.table.id(w).unwrap();
    assert_eq!(t.encode("a a\n\né", FULL), [1, id("a"), id("▁a"), id("\n\n"), 3 + 0xC3, 3 + 0xA9]);
}

#[test]
fn control_tokens_are_text_unless_asked_for() {
    let metadata = bpe("gpt-2", &[], &["<|im_end|>", "<|im_end|>!"]);
    let t = load(&metadata).unwrap();
    assert_eq!(t.encode("a<|im_end|>b", PARSE), [97, 256, 98]);
    assert_eq!(t.encode("a<|im_end|>!", PARSE), [97, 257]);
    assert_eq!(t.encode("<|im_end|>", PLAIN).len(), 10);
    assert!(t.is_end(256) && !t.is_end(257) && !t.is_end(97));
    // User-defined tokens are always themselves.
    let mut types = vec![1; 256];
    types.extend([4, 4]);
    let mut metadata = bpe("gpt-2", &[], &["   ", "<x>"]);
    metadata.set("tokenizer.ggml.token_type", Array::I32(types));
    let t = load(&metadata).unwrap();
    assert_eq!(t.encode("a    <x>", PLAIN), [97, 256, 32, 257]);
}

#[test]
fn phi_3_tokens_swallow_the_space_behind_them() {
    let mut metadata = bpe("gpt-2", &[], &["<|user|>", "<s>"]);
    let t = load(&metadata).unwrap();
    assert_eq!(t.encode("<|user|>\n a", PARSE), [256, 10, 32, 97]);
    metadata.set("general.name", "Phi-3 mini");
    let t = load(&metadata).unwrap();
    assert_eq!(t.encode("<|user|>\n a<s> a", PARSE), [256, 97, 257, 32, 97]);
}

#[test]
fn begin_and_end_are_added_as_the_file_says() {
    let mut metadata = bpe("llama-bpe", &[], &["<b>", "<e>"]);
    metadata.set("tokenizer.ggml.bos_token_id", 256u32);
    metadata.set("tokenizer.ggml.eos_token_id", 257u32);
    let t = load(&metadata).unwrap();
    assert_eq!((t.bos(), t.eos(), t.adds_bos(), t.adds_eos()), (Some(256), Some(257), true, false));
    assert_eq!(t.encode("a", FULL), [256, 97]);
    metadata.set("tokenizer.ggml.add_bos_token", false);
    metadata.set("tokenizer.ggml.add_eos_token", true);
    assert_eq!(load(&metadata).unwrap().encode("a", FULL), [97, 257]);
    metadata.set("tokenizer.ggml.eos_token_id", 999u32);
    let t = load(&metadata).unwrap();
    assert_eq!((t.eos(), t.encode("a", FULL)), (None, vec![97]));
    assert_eq!(t.warnings().len(), 2, "{:?}", t.warnings());
}

#[test]
fn ends_are_found_by_text_and_key() {
    let added = ["<|end|>", "<|return|>", "<|call|>", "<stop>", "<|fim_pad|>", "</s>", "<|channel|>"];
    let mut metadata = bpe("gpt-4o", &[], &added);
    metadata.set("tokenizer.ggml.eot_token_id", 259u32);
    let t = load(&metadata).unwrap();
    // <|end|> ends only a part of a message where <|return|> and <|call|> exist.
    assert_eq!(t.ends().collect::<Vec<_>>(), [257, 258, 259, 260, 261]);
    assert_eq!(t.encode("<|end|><|channel|>", PLAIN), [256, 262]);
}

#[test]
fn ids_outside_the_vocabulary_are_refused() {
    let t = load(&bpe("gpt-2", &[], &[])).unwrap();
    assert_eq!(t.piece(256), None);
    assert_eq!(t.piece(u32::MAX), None);
    let error = t.decode(&[97, 256]).unwrap_err();
    assert!(error.to_string().contains("256, at position 1"), "{error}");
    assert_eq!(crate::error::exit_code(&error), 2);
    assert!(!t.is_end(u32::MAX));
}

#[test]
fn broken_files_are_refused() {
    let good = bpe("gpt-2", &["a b"], &[]);
    let with = |key: &str, value: Value| {
        let mut metadata = good.clone();
        metadata.set(key, value);
        refused(&metadata)
    };
    let without = |key: &str| {
        let mut metadata = good.clone();
        metadata.remove(key);
        refused(&metadata)
    };
    assert!(without("tokenizer.ggml.model").contains("no tokenizer"));
    assert!(without("tokenizer.ggml.tokens").contains("is missing"));
    assert!(without("tokenizer.ggml.merges").contains("is missing"));
    assert!(with("tokenizer.ggml.model", "rwkv".into()).contains("\"rwkv\"; qconv runs llama, gpt2"));
    assert!(with("tokenizer.ggml.model", 1u32.into()).contains("no string"));
    assert!(with("tokenizer.ggml.pre", "novel".into()).contains("\"novel\""));
    assert!(with("tokenizer.ggml.pre", true.into()).contains("no string"));
    assert!(with("tokenizer.ggml.tokens", Array::I32(vec![1]).into()).contains("no array of strings"));
    assert!(with("tokenizer.ggml.tokens", strings(&[])).contains("0 tokens"));
    assert!(with("tokenizer.ggml.tokens", strings(&["a", "b", "a"])).contains("tokens 0 and 2 are both \"a\""));
    assert!(with("tokenizer.ggml.token_type", Array::I32(vec![1]).into()).contains("1 types for 257 tokens"));
    assert!(with("tokenizer.ggml.token_type", strings(&["a"])).contains("no array of integers"));
    assert!(with("tokenizer.ggml.scores", Array::F32(vec![0.0]).into()).contains("1 scores for 257 tokens"));
    assert!(with("tokenizer.ggml.scores", Array::F32(vec![f32::NAN; 257]).into()).contains("token 0 is no number"));
    assert!(with("tokenizer.ggml.merges", strings(&["a b", "ab"])).contains("merges[1]: \"ab\" is no pair"));
    assert!(with("tokenizer.ggml.merges", strings(&[""])).contains("is no pair"));
    assert!(with("tokenizer.ggml.bos_token_id", "x".into()).contains("token id is needed"));
    assert!(with("tokenizer.ggml.add_bos_token", 1u32.into()).contains("no boolean"));
}

#[test]
fn empty_texts_and_odd_types_are_survivable() {
    let mut metadata = bpe("gpt-2", &[], &["", "x y"]);
    let mut types = vec![1; 256];
    types.extend([77, 5]);
    metadata.set("tokenizer.ggml.token_type", Array::I32(types));
    let t = load(&metadata).unwrap();
    assert_eq!((t.piece(256).unwrap(), t.piece(257).unwrap()), (&b""[..], &b""[..]));
    assert_eq!(t.warnings().len(), 1);
    let mut metadata = bpe("gpt-2", &[], &[]);
    metadata.remove("tokenizer.ggml.pre");
    metadata.remove("tokenizer.ggml.token_type");
    let t = load(&metadata).unwrap();
    assert!(t.warnings()[0].contains("tokenizer.ggml.pre is missing"));
}

#[test]
fn streams_give_whole_characters() {
    let text = "aé€😀b";
    for size in 1..=text.len() {
        let mut stream = StreamDecoder::new();
        let mut out: String = text.as_bytes().chunks(size).map(|chunk| stream.push(chunk)).collect();
        out += &stream.finish();
        assert_eq!(out, text, "in chunks of {size}");
    }
    let mut stream = StreamDecoder::new();
    assert_eq!(stream.push(b"\xE2\x82"), "");
    assert_eq!(stream.push(b"x\xFF\xE2"), "\u{FFFD}x\u{FFFD}");
    assert_eq!(stream.finish(), "\u{FFFD}");
    assert_eq!(stream.finish(), "");
}
