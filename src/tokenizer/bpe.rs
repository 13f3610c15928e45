//! Byte-pair encoding with a list of merges (`tokenizer.ggml.model` = `gpt2`, and `gemma4` with its own words).
//!
//! Words are cut by the pre-tokenizer; within a word, neighbours join in the order of the merges, the leftmost of equals
//! first. What is left and is no token is lost if it is outside the byte alphabet, as in llama.cpp.

use super::cut::Cutter;
use super::special::Defaults;
use super::table::Table;
use super::{Algorithm, Family, Loaded, Source, each_word};
use qconv_formats::vocab::byte_level;
use qconv_formats::vocab::pre::{AddBos, Pre};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

pub(super) static FAMILY: Family = Family { models: &["gpt2", "gemma4"], load };

/// Stands for a space inside tokens of rows with `escape_spaces`.
const SPACE: &str = "\u{2581}";
const MERGES: &str = "tokenizer.ggml.merges";
const PRE: &str = "tokenizer.ggml.pre";

/// A token's id, or a number beyond the vocabulary for texts that only merges know.
type Symbol = u32;

struct Bpe {
    pre: &'static Pre,
    cutter: Cutter,
    /// (left, right) -> (rank, joined).
    merges: HashMap<(Symbol, Symbol), (u32, Symbol)>,
    /// Symbols of single bytes in the byte alphabet.
    bytes: Vec<Symbol>,
    /// Symbols of single characters; empty for byte-level rows.
    chars: HashMap<char, Symbol>,
    /// Number of tokens: symbols from here on are no tokens.
    tokens: u32,
    /// What becomes of a byte that no token covers.
    fallback: Vec<Option<u32>>,
    /// Tokens by what they stand for, for words that are taken as a whole. Empty where they are not.
    whole: HashMap<Vec<u8>, u32>,
}

/// A symbol that takes part in no merge and is no token.
const UNKNOWN: Symbol = Symbol::MAX;

fn load(source: &Source, table: &mut Table) -> anyhow::Result<Loaded> {
    let gemma = source.metadata.str("tokenizer.ggml.model") == Some("gemma4");
    let pre = if gemma { Pre::by_name("gemma4") } else { pre(source, table)? };
    let pre = pre.ok_or_else(|| source.error(PRE, "has no row"))?;
    let cutter = Cutter::new(pre)?;

    // Texts that merges name and no token has get numbers behind the vocabulary.
    let tokens = table.len() as u32;
    let mut extra: HashMap<String, Symbol> = HashMap::new();
    let intern = |text: &str, extra: &mut HashMap<String, Symbol>| {
        table.id(text).unwrap_or_else(|| {
            let next = tokens.saturating_add(extra.len() as u32);
            *extra.entry(text.to_owned()).or_insert(next)
        })
    };
    let list = source.strings(MERGES)?;
    if list.is_none() && !pre.merges_optional {
        return Err(source.error(MERGES, "is missing"));
    }
    let list = list.unwrap_or_default();
    let mut merges = HashMap::with_capacity(list.len());
    for (rank, merge) in list.iter().enumerate() {
        // A space can be the first character of a merge, so the separator is searched behind it.
        let second = merge.chars().next().map_or(0, char::len_utf8);
        let gap = merge[second..].find(' ').map(|at| at + second).filter(|at| at + 1 < merge.len());
        let gap = gap.ok_or_else(|| source.error(&format!("{MERGES}[{rank}]"), format!("{merge:?} is no pair")))?;
        let (left, right) = (&merge[..gap], &merge[gap + 1..]);
        let pair = (intern(left, &mut extra), intern(right, &mut extra));
        let joined = intern(&format!("{left}{right}"), &mut extra);
        merges.entry(pair).or_insert((rank as u32, joined));
    }
    let bytes = (0..=255u8).map(|b| intern(byte_level::to_char(b).encode_utf8(&mut [0; 4]), &mut extra)).collect();
    let chars = if pre.byte_level { HashMap::new() } else { single_chars(table, &extra) };
    let fallback: Vec<Option<u32>> = (0..=255u8)
        .map(|b| match pre.byte_level {
            // llama.cpp looks the bytes of the alphabet's characters up one by one: only ASCII can be found.
            true if byte_level::to_char(b).is_ascii() => table.id(byte_level::to_char(b).encode_utf8(&mut [0; 4])),
            true => None,
            false => table.byte(b),
        })
        .collect();
    warn_lost(pre, table);
    let whole = whole_words(pre, table);
    let bpe = Bpe { pre, cutter, merges, bytes, chars, tokens, fallback, whole };
    let defaults = Defaults {
        // llama.cpp's own default (11, Falcon's end of text) would be an arbitrary token of other vocabularies.
        bos: None,
        eos: None,
        add_bos: pre.add_bos != AddBos::No,
        always_bos: pre.add_bos == AddBos::Always,
    };
    Ok(Loaded { algorithm: Box::new(bpe), defaults, space_prefix: false })
}

/// The row that the file names. llama.cpp's default where it names none is kept, but said.
fn pre(source: &Source, table: &mut Table) -> anyhow::Result<Option<&'static Pre>> {
    let name = match source.metadata.get(PRE) {
        None => "",
        Some(v) => v.as_str().ok_or_else(|| source.error(PRE, "is no string"))?,
    };
    if name.is_empty() {
        table.warnings.push(format!(
            "key {PRE} is missing: words are cut by llama.cpp's default, which few models were trained with; convert the model again"
        ));
        return Ok(Pre::by_name("default"));
    }
    match Pre::by_name(name) {
        Some(pre) => Ok(Some(pre)),
        None => {
            let all: Vec<&str> = qconv_formats::vocab::pre::ALL.iter().flat_map(|p| p.names).copied().collect();
            Err(source.error(
                PRE,
                format!("is {name:?}, a way of cutting words that qconv does not know; it knows {}", all.join(", ")),
            ))
        }
    }
}

/// Symbols of texts of one character.
fn single_chars(table: &Table, extra: &HashMap<String, Symbol>) -> HashMap<char, Symbol> {
    let known = table.texts().iter().zip(0..).chain(extra.iter().map(|(text, &symbol)| (text, symbol)));
    known
        .filter_map(|(text, symbol)| {
            let mut chars = text.chars();
            Some((chars.next().filter(|_| chars.as_str().is_empty())?, symbol))
        })
        .collect()
}

/// Bytes without a token are lost in encoding; that is said once.
fn warn_lost(pre: &Pre, table: &mut Table) {
    let has = |b: u8| match pre.byte_level {
        true => table.id(byte_level::to_char(b).encode_utf8(&mut [0; 4])).is_some(),
        false => table.byte(b).is_some(),
    };
    // Bytes that occur in no UTF-8 text need no token.
    let missing = (0..=255u8).filter(|&b| !matches!(b, 0xC0 | 0xC1 | 0xF5..) && !has(b)).count();
    if missing > 0 {
        table.warnings.push(format!("{missing} bytes have no token: characters with them are lost in encoding"));
    }
}

/// Tokens that can be a word as a whole, by the word's bytes.
fn whole_words(pre: &Pre, table: &Table) -> HashMap<Vec<u8>, u32> {
    let plain = |text: &str| if pre.byte_level { byte_level::decode(text) } else { Some(text.as_bytes().to_vec()) };
    let newlines = |bytes: &[u8]| bytes.iter().all(|&b| b == b'\n');
    if !pre.ignore_merges && !pre.newline_tokens {
        return HashMap::new();
    }
    let all = table.texts().iter().zip(0..).filter_map(|(text, id)| Some((plain(text)?, id)));
    all.filter(|(bytes, _)| pre.ignore_merges || newlines(bytes)).collect()
}

/// A run of bytes that has not joined further yet; symbols form a list by index.
#[derive(Clone, Copy)]
struct Node {
    symbol: Symbol,
    start: usize,
    /// 0: it joined its left neighbour.
    len: usize,
    prev: usize,
    next: usize,
}

const NONE: usize = usize::MAX;

/// (rank, left, right, their symbols when they were looked at); the least comes first.
type Pair = Reverse<(u32, usize, usize, Symbol, Symbol)>;

/// Buffers that are used again for every word.
#[derive(Default)]
struct Scratch {
    nodes: Vec<Node>,
    heap: BinaryHeap<Pair>,
}

impl Algorithm for Bpe {
    fn encode(&self, _table: &Table, text: &str, _after_special: bool, ids: &mut Vec<u32>) {
        let escaped;
        let text = match self.pre.escape_spaces {
            true => {
                escaped = text.replace(' ', SPACE);
                &escaped
            }
            false => text,
        };
        let words = self.cutter.words(text);
        let mut scratch = Scratch::default();
        each_word(words.into_iter().map(|word| &text[word]), ids, |word, ids| self.word(word, &mut scratch, ids));
    }

    fn piece(&self, text: &str) -> Vec<u8> {
        if self.pre.byte_level {
            return byte_level::decode(text).unwrap_or_else(|| text.as_bytes().to_vec());
        }
        if self.pre.escape_spaces { text.replace(SPACE, " ").into_bytes() } else { text.as_bytes().to_vec() }
    }
}

impl Bpe {
    fn word(&self, word: &str, scratch: &mut Scratch, ids: &mut Vec<u32>) {
        if let Some(&id) = self.whole.get(word.as_bytes()) {
            ids.push(id);
            return;
        }
        let Scratch { nodes, heap } = scratch;
        nodes.clear();
        let add = |nodes: &mut Vec<Node>, symbol: Symbol, start: usize, len: usize| {
            let at = nodes.len();
            nodes.push(Node { symbol, start, len, prev: at.wrapping_sub(1), next: at + 1 });
        };
        match self.pre.byte_level {
            true => word.bytes().enumerate().for_each(|(at, b)| add(nodes, self.bytes[usize::from(b)], at, 1)),
            false => word.char_indices().for_each(|(at, c)| {
                add(nodes, self.chars.get(&c).copied().unwrap_or(UNKNOWN), at, c.len_utf8());
            }),
        }
        if let Some(last) = nodes.last_mut() {
            last.next = NONE;
        }
        heap.clear();
        for right in 1..nodes.len() {
            self.look(nodes, right - 1, right, heap);
        }
        while let Some(Reverse((_, left, right, was_left, was_right))) = heap.pop() {
            let (l, r) = (nodes[left], nodes[right]);
            if l.len == 0 || r.len == 0 || l.symbol != was_left || r.symbol != was_right || l.next != right {
                continue;
            }
            let Some(&(_, joined)) = self.merges.get(&(l.symbol, r.symbol)) else { continue };
            nodes[left] = Node { symbol: joined, len: l.len + r.len, next: r.next, ..l };
            nodes[right].len = 0;
            if r.next != NONE {
                nodes[r.next].prev = left;
            }
            self.look(nodes, l.prev, left, heap);
            self.look(nodes, left, r.next, heap);
        }
        for node in nodes.iter().filter(|n| n.len > 0) {
            if node.symbol < self.tokens {
                ids.push(node.symbol);
            } else {
                let bytes = &word.as_bytes()[node.start..node.start + node.len];
                ids.extend(bytes.iter().filter_map(|&b| self.fallback[usize::from(b)]));
            }
        }
    }

    fn look(&self, nodes: &[Node], left: usize, right: usize, heap: &mut BinaryHeap<Pair>) {
        if left == NONE || right == NONE {
            return;
        }
        let pair = (nodes[left].symbol, nodes[right].symbol);
        if let Some(&(rank, _)) = self.merges.get(&pair) {
            heap.push(Reverse((rank, left, right, pair.0, pair.1)));
        }
    }
}
