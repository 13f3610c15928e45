//! Special tokens: begin and end of text, and everything that ends generation.
//!
//! Files name some of them; llama.cpp finds others by their text, and so do we (its `llama_vocab::impl::load`).

use super::Source;
use super::table::{Kind, Table};
use qconv_formats::gguf::Value;
use std::collections::BTreeSet;

/// What a family assumes where the file is silent.
pub(super) struct Defaults {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub add_bos: bool,
    /// BOS is added even where the file says no.
    pub always_bos: bool,
}

/// The special tokens of a file.
pub(super) struct Special {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub add_bos: bool,
    pub add_eos: bool,
    /// Tokens that end generation.
    pub ends: BTreeSet<u32>,
}

/// A role that tokens play by their text, where no key names one.
struct Role {
    /// The key that names it (`tokenizer.ggml.KEY_token_id`); the first that is there counts.
    keys: &'static [&'static str],
    /// Texts of which the first that exists is taken.
    texts: &'static [&'static str],
    /// Such a token ends generation.
    ends: bool,
}

/// Roles whose tokens become control tokens.
const ROLES: &[Role] = &[
    Role {
        keys: &["prefix", "fim_pre"],
        texts: &[
            "<|fim_prefix|>",
            "<fim-prefix>",
            "<fim_prefix>",
            "<｜fim▁begin｜>",
            "<PRE>",
            "▁<PRE>",
            "<|code_prefix|>",
            "<|prefix|>",
        ],
        ends: false,
    },
    Role {
        keys: &["suffix", "fim_suf"],
        texts: &[
            "<|fim_suffix|>",
            "<fim-suffix>",
            "<fim_suffix>",
            "<｜fim▁hole｜>",
            "<SUF>",
            "▁<SUF>",
            "<|code_suffix|>",
            "<|suffix|>",
        ],
        ends: false,
    },
    Role {
        keys: &["middle", "fim_mid"],
        texts: &[
            "<|fim_middle|>",
            "<fim-middle>",
            "<fim_middle>",
            "<｜fim▁end｜>",
            "<MID>",
            "▁<MID>",
            "<|code_middle|>",
            "<|middle|>",
        ],
        ends: false,
    },
    Role { keys: &["fim_pad"], texts: &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"], ends: true },
    Role {
        keys: &["fim_rep"],
        texts: &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"],
        ends: true,
    },
    Role { keys: &["fim_sep"], texts: &["<|file_sep|>"], ends: true },
];

/// Texts that end generation in whatever model has them.
const ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// Marks of gpt-oss's message format: always shown, never hidden.
const SHOWN: &[&str] = &["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

impl Special {
    /// Reads the ids and marks control tokens in the table. Ids beyond the vocabulary are warned about and not used.
    pub fn read(source: &Source, table: &mut Table, defaults: &Defaults) -> anyhow::Result<Special> {
        let bos = named(source, table, "bos")?.or(defaults.bos.filter(|&id| (id as usize) < table.len()));
        let eos = named(source, table, "eos")?.or(defaults.eos.filter(|&id| (id as usize) < table.len()));
        let mut ends = BTreeSet::new();

        for role in ROLES {
            let mut id = None;
            for key in role.keys {
                id = id.or(named(source, table, key)?);
            }
            if id.is_none() {
                id = role.texts.iter().find_map(|text| table.id(text));
                if let Some(id) = id {
                    table.set_kind(id, table.kind(id).or(Kind::CONTROL));
                }
            }
            ends.extend(id.filter(|_| role.ends));
        }
        for id in ENDS.iter().filter_map(|text| table.id(text)).collect::<Vec<_>>() {
            table.set_kind(id, table.kind(id).or(Kind::CONTROL));
            ends.insert(id);
        }
        for id in SHOWN.iter().filter_map(|text| table.id(text)).collect::<Vec<_>>() {
            table.set_kind(id, Kind::USER_DEFINED);
        }
        ends.extend(eos);
        ends.extend(named(source, table, "eot")?);
        ends.extend(named(source, table, "eom")?);
        not_ends(table, &mut ends);

        let add_bos = source.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(defaults.add_bos) || defaults.always_bos;
        let add_eos = source.flag("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
        for (add, id, name) in [(add_bos, bos, "BOS"), (add_eos, eos, "EOS")] {
            if add && id.is_none() {
                table.warnings.push(format!("the file wants a {name} token added but names none: none is added"));
            }
        }
        Ok(Special { bos, eos, add_bos, add_eos, ends })
    }
}

/// The token that a key names.
fn named(source: &Source, table: &mut Table, what: &str) -> anyhow::Result<Option<u32>> {
    let key = format!("tokenizer.ggml.{what}_token_id");
    match source.metadata.get(&key) {
        None => Ok(None),
        Some(value) => match value.as_u64() {
            Some(id) if id < table.len() as u64 => Ok(Some(id as u32)),
            // Some writers say "none" with -1, signed or not.
            None if matches!(value, Value::I32(-1) | Value::I64(-1)) => Ok(None),
            Some(id) if id == u64::from(u32::MAX) => Ok(None),
            Some(id) => {
                let size = table.len();
                table.warnings.push(format!("key {key} is {id}, beyond the vocabulary of {size}: it is not used"));
                Ok(None)
            }
            None => Err(source.error(&key, format!("holds {value:?} where a token id is needed"))),
        },
    }
}

/// Tokens that end generation in one family and are ordinary in another.
fn not_ends(table: &mut Table, ends: &mut BTreeSet<u32>) {
    let has = |ends: &BTreeSet<u32>, text: &str| table.id(text).filter(|id| ends.contains(id));
    // Harmony and Solar: messages end with <|return|>, <|call|>, <|calls|> or <|flush|>; <|end|> only ends a part.
    let call = has(ends, "<|call|>").or(has(ends, "<|calls|>"));
    let other = has(ends, "<|return|>").or(has(ends, "<|flush|>"));
    let part = has(ends, "<|end|>").filter(|_| call.is_some() && other.is_some());
    // Gemma 4 and PLaMo have an ordinary </s>.
    let marker = has(ends, "<|tool_response>").or(has(ends, "<|plamo:eos|>"));
    let tag = has(ends, "</s>").filter(|_| marker.is_some());
    for (id, kind) in [(part, Kind::USER_DEFINED), (tag, Kind::NORMAL)] {
        if let Some(id) = id {
            ends.remove(&id);
            table.set_kind(id, kind);
        }
    }
}
