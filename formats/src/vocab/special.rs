//! Special tokens, and whether they are added to texts.
//!
//! Follows `SpecialVocab` of gguf-py key for key and in its order: what the post-processor of `tokenizer.json` does counts
//! more than the flags of `tokenizer_config.json`, and names count more than the ids of `config.json`.

use super::files::Files;
use crate::gguf::Metadata;
use serde_json::Value as Json;

/// Kinds of special tokens that configurations name. `cls` has no key: it stands in for a missing `bos`.
const KINDS: [&str; 7] = ["bos", "eos", "unk", "sep", "pad", "cls", "mask"];

/// The key of a kind's id.
fn key(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "bos" => "tokenizer.ggml.bos_token_id",
        "eos" => "tokenizer.ggml.eos_token_id",
        "unk" => "tokenizer.ggml.unknown_token_id",
        "sep" => "tokenizer.ggml.seperator_token_id", // the format's own spelling
        "pad" => "tokenizer.ggml.padding_token_id",
        "mask" => "tokenizer.ggml.mask_token_id",
        "eot" => "tokenizer.ggml.eot_token_id",
        "eom" => "tokenizer.ggml.eom_token_id",
        _ => return None,
    })
}

/// The key of a kind's flag.
fn flag_key(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "bos" => "tokenizer.ggml.add_bos_token",
        "eos" => "tokenizer.ggml.add_eos_token",
        "sep" => "tokenizer.ggml.add_sep_token",
        _ => return None,
    })
}

/// Writes ids and flags.
pub fn write(files: &Files, vocab_size: usize, out: &mut Metadata, warnings: &mut Vec<String>) {
    let mut special = Special {
        config: files.tokenizer_config.clone(),
        kinds: KINDS.to_vec(),
        adds: Vec::new(),
        ids: Vec::new(),
        vocab_size,
        warnings,
    };
    if let Some(tokenizer) = &files.tokenizer {
        special.post_processor(&tokenizer["post_processor"]);
        special.nothing_added(&files.tokenizer_config);
    }
    special.flags();
    special.ids_by_name(files);
    special.ids_of_config(files);
    for (kind, id) in special.ids {
        if let Some(key) = key(kind) {
            out.set(key, id);
        }
    }
    for (kind, add) in special.adds {
        if let Some(key) = flag_key(kind) {
            out.set(key, add);
        }
    }
}

/// What is known so far.
struct Special<'a> {
    /// `tokenizer_config.json`, completed by what the post-processor reveals; null where there is none.
    config: Json,
    kinds: Vec<&'static str>,
    adds: Vec<(&'static str, bool)>,
    ids: Vec<(&'static str, u32)>,
    vocab_size: usize,
    warnings: &'a mut Vec<String>,
}

/// Python's truth.
fn says_something(v: &Json) -> bool {
    !matches!(v, Json::Null | Json::Bool(false)) && v.as_str() != Some("")
}

/// A special token at one end of a template.
fn special_at(part: Option<&Json>) -> Option<&str> {
    part?["SpecialToken"]["id"].as_str().filter(|s| !s.is_empty())
}

impl Special<'_> {
    fn named(&self, kind: &str) -> &Json {
        &self.config[format!("{kind}_token")]
    }

    fn text(&self, kind: &str) -> Option<&str> {
        let token = self.named(kind);
        token.as_str().or_else(|| token["content"].as_str()).filter(|text| !text.is_empty())
    }

    /// A token's name in the configuration; nothing is kept where there is no configuration.
    fn name(&mut self, kind: &str, token: Json) {
        if let Some(config) = self.config.as_object_mut() {
            config.insert(format!("{kind}_token"), token);
        }
    }

    fn add(&mut self, kind: &'static str, value: bool) {
        match self.adds.iter_mut().find(|(k, _)| *k == kind) {
            Some(entry) => entry.1 = value,
            None => self.adds.push((kind, value)),
        }
    }

    /// A tokenizer that is nothing but its `tokenizer.json` adds what the post-processor adds; of the other classes some add a BOS by
    /// themselves, and readers of GGUF do so by default.
    fn nothing_added(&mut self, config: &Json) {
        let plain = match config["tokenizer_class"].as_str() {
            None => config.is_null(),
            Some(class) => matches!(class, "PreTrainedTokenizerFast" | "TokenizersBackend"),
        };
        for kind in ["bos", "eos"] {
            if plain && config[format!("add_{kind}_token")].is_null() && !self.adds.iter().any(|(k, _)| *k == kind) {
                self.add(kind, false);
            }
        }
    }

    fn post_processor(&mut self, processor: &Json) {
        for (kind, stand_in) in [("bos", "cls"), ("eos", "sep")] {
            let other = self.named(stand_in).clone();
            if !says_something(self.named(kind)) && says_something(&other) {
                self.name(kind, other);
            }
        }
        let list = match &processor["processors"] {
            Json::Array(list) => list.iter().collect(),
            _ => vec![processor],
        };
        for step in list {
            match step["type"].as_str() {
                Some("ByteLevel") => {
                    for kind in ["bos", "eos"] {
                        if !self.adds.iter().any(|(k, _)| *k == kind) {
                            self.add(kind, false);
                        }
                    }
                }
                Some("RobertaProcessing") => {
                    ["bos", "eos", "sep"].into_iter().for_each(|kind| self.add(kind, true));
                    for (kind, like) in [("cls", "bos"), ("sep", "eos")] {
                        if !says_something(self.named(kind)) {
                            let given = step[kind][0].clone();
                            let token = if given.is_null() { self.named(like).clone() } else { given };
                            self.name(kind, token);
                        }
                    }
                }
                Some("TemplateProcessing") => self.template(step),
                _ => {}
            }
        }
    }

    /// What a template puts before and behind a text. Only plain ones are understood: one token at either end.
    fn template(&mut self, step: &Json) {
        let part = |list: &Json| list.as_array().cloned().unwrap_or_default();
        let (single, pair) = (part(&step["single"]), part(&step["pair"]));
        let (mut first, mut last) = (None, None);
        if single.len() > 1 {
            first = special_at(single.first());
            last = special_at(single.last());
        }
        let inner = &single[usize::from(first.is_some())..single.len() - usize::from(last.is_some())];
        let left_out: Vec<&str> = inner.iter().filter_map(|part| special_at(Some(part))).collect();
        if !left_out.is_empty() {
            self.warnings.push(format!(
                "tokenizer.json puts more than one token at an end of texts; GGUF has room for one: left out are {}",
                left_out.join(", ")
            ));
        }
        if first.is_some() || last.is_some() {
            // Without tokenizer_config.json the template is the only one to name them.
            if self.config.is_null() {
                self.config = Json::Object(Default::default());
            }
        }
        if let Some(first) = first {
            if self.text("bos") != Some(first) {
                if self.text("bos").is_some() {
                    self.warnings.push(format!(
                        "tokenizer.json puts {first:?} before texts, and tokenizer_config.json names another BOS: the former is written"
                    ));
                }
                self.name("bos", first.into());
            }
            self.add("bos", true);
        }
        if let Some(last) = last {
            if self.text("eos") != Some(last) {
                // The configured end of text becomes the end of a turn, or of a message.
                let before = self.named("eos").clone();
                let free = ["eot", "eom"].into_iter().find(|kind| !self.kinds.contains(kind));
                if let Some(kind) = free {
                    self.kinds.push(kind);
                    self.name(kind, before);
                }
                self.name("eos", last.into());
            }
            self.add("eos", true);
        }
        self.separator(&pair, first, last);
    }

    /// Whether a separator goes between two texts.
    fn separator(&mut self, pair: &[Json], first: Option<&str>, last: Option<&str>) {
        let mut inner = pair;
        if first.is_some() && special_at(inner.first()) == first {
            inner = &inner[1..];
        }
        if last.is_some() && special_at(inner.last()) == last {
            inner = &inner[..inner.len().saturating_sub(1)];
        }
        let [a, between @ .., b] = inner else { return };
        if a["Sequence"]["id"] != "A" || b["Sequence"]["id"] != "B" || between.is_empty() {
            return;
        }
        let separates = |part: &Json| {
            let token = &part["SpecialToken"]["id"];
            token.is_string() && (token == self.named("sep") || token == self.named("eos"))
        };
        let add = separates(&between[0]) && last.is_none() || between.len() == 2 && separates(&between[1]);
        self.add("sep", add);
        if add && !says_something(self.named("sep")) {
            let eos = self.named("eos").clone();
            self.name("sep", eos);
        }
    }

    /// The flags of the configuration, where the post-processor decides nothing.
    fn flags(&mut self) {
        for kind in self.kinds.clone() {
            let Some(flag) = self.config[format!("add_{kind}_token")].as_bool() else { continue };
            match self.adds.iter().find(|(k, _)| *k == kind) {
                None => self.adds.push((kind, flag)),
                Some(&(_, template)) if template != flag => self.warnings.push(format!(
                    "tokenizer_config.json says add_{kind}_token is {flag}, tokenizer.json's post-processor says {template}: the latter is taken"
                )),
                Some(_) => {}
            }
        }
    }

    fn ids_by_name(&mut self, files: &Files) {
        for kind in self.kinds.clone() {
            let name = self.named(kind);
            let Some(text) = name.as_str().or_else(|| name["content"].as_str()) else { continue };
            let id = files.added_in_tokenizer().into_iter().find(|t| t.text == text).map(|t| t.id as u64);
            self.id(kind, id);
        }
    }

    /// Ids in `config.json`; for begin and end of text, what else the folder says where that is silent.
    fn ids_of_config(&mut self, files: &Files) {
        for kind in self.kinds.clone() {
            let key = format!("{kind}_token_id");
            let of = |config: &Json| config[&key].as_u64().or_else(|| config["text_config"][&key].as_u64());
            let id = of(&files.config);
            self.id(kind, id);
        }
        for kind in ["bos", "eos"] {
            let key = format!("{kind}_token_id");
            let listed = |config: &Json| config[&key].as_u64().or_else(|| config[&key][0].as_u64());
            let by_name = files.special(kind).and_then(|text| files.id_of(text));
            let id = by_name.or_else(|| listed(&files.config)).or_else(|| listed(&files.generation_config));
            self.id(kind, id);
        }
    }

    /// Keeps the first id of a kind that the model has.
    fn id(&mut self, kind: &'static str, id: Option<u64>) {
        let Some(id) = id.filter(|_| !self.ids.iter().any(|(k, _)| *k == kind)) else { return };
        match u32::try_from(id).ok().filter(|&id| (id as usize) < self.vocab_size) {
            Some(id) => self.ids.push((kind, id)),
            None if key(kind).is_some() => self.warnings.push(format!(
                "the {kind} token {id} is beyond the model's {} embeddings: it is left out",
                self.vocab_size
            )),
            None => {}
        }
    }
}
