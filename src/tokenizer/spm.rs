//! Sentencepiece's byte-pair encoding as llama.cpp runs it (`tokenizer.ggml.model` = `llama`).
//!
//! Text becomes characters; of all neighbours that make a token together, those with the highest score join first, the
//! leftmost of equals. Characters that are no token fall apart into bytes.

use super::special::Defaults;
use super::table::Table;
use super::{Algorithm, Family, Loaded, Source, each_word};
use std::cmp::Ordering;
use std::collections::BinaryHeap;

pub(super) static FAMILY: Family = Family { models: &["llama"], load };

/// Stands for a space inside tokens.
const SPACE: &str = "\u{2581}";

struct Spm {
    space_prefix: bool,
    /// The token of each byte; the unknown token where there is none.
    bytes: Vec<Option<u32>>,
    /// No token goes on behind the end of a word, so that words can be encoded one by one.
    by_words: bool,
}

/// Where a word ends: something else than a space, then a space.
fn word_end(before: char, c: char) -> bool {
    before != '\u{2581}' && c == '\u{2581}'
}

/// Positions behind which a word begins, the end of the text included.
fn word_ends(text: &str) -> impl Iterator<Item = usize> {
    let mut before = '\u{2581}';
    let ends = text.char_indices().filter_map(move |(at, c)| {
        let is_end = word_end(before, c);
        before = c;
        is_end.then_some(at)
    });
    ends.chain([text.len()])
}

fn load(source: &Source, table: &mut Table) -> anyhow::Result<Loaded> {
    let space_prefix = source.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let unknown = match source.metadata.get("tokenizer.ggml.unknown_token_id") {
        None => Some(0),
        Some(v) => v.as_u64().and_then(|id| u32::try_from(id).ok()),
    };
    let unknown = unknown.filter(|&id| (id as usize) < table.len());
    let alone = |byte: u8| if byte.is_ascii() { table.id(char::from(byte).encode_utf8(&mut [0; 4])) } else { None };
    let bytes: Vec<Option<u32>> = (0..=255).map(|b| table.byte(b).or_else(|| alone(b)).or(unknown)).collect();
    let missing = (0..=255u8).filter(|&b| table.byte(b).is_none() && alone(b).is_none()).count();
    if missing > 0 {
        table.warnings.push(format!("{missing} of 256 bytes have no token: text with them becomes the unknown token"));
    }
    let by_words = table.texts().iter().all(|text| word_ends(text).count() == 1);
    Ok(Loaded {
        algorithm: Box::new(Spm { space_prefix, bytes, by_words }),
        defaults: Defaults { bos: Some(1), eos: Some(2), add_bos: true, always_bos: false },
        space_prefix,
    })
}

/// A run of characters that has not joined further yet. Symbols form a list by index; [`NONE`] ends it.
#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    /// 0: it joined its left neighbour.
    len: usize,
    prev: usize,
    next: usize,
}

const NONE: usize = usize::MAX;

/// Two neighbours that would make a token, as they were when they were looked at.
#[derive(PartialEq)]
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    /// Bytes of both: a pair whose symbols have changed since is stale.
    len: usize,
}

impl Eq for Pair {}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        // Scores are no NaN; -0 and 0 are equal, so that the leftmost wins there, too.
        let scores = self.score.partial_cmp(&other.score).unwrap_or(Ordering::Equal);
        scores.then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Algorithm for Spm {
    fn encode(&self, table: &Table, text: &str, after_special: bool, ids: &mut Vec<u32>) {
        let mut escaped = String::with_capacity(text.len() + text.len() / 2 + SPACE.len());
        if self.space_prefix && after_special {
            escaped.push_str(SPACE);
        }
        for (i, part) in text.split(' ').enumerate() {
            if i > 0 {
                escaped.push_str(SPACE);
            }
            escaped.push_str(part);
        }
        if !self.by_words {
            return self.merge(table, &escaped, ids);
        }
        let mut start = 0;
        let words = word_ends(&escaped).map(|end| &escaped[std::mem::replace(&mut start, end)..end]);
        each_word(words, ids, |word, ids| self.merge(table, word, ids));
    }

    fn piece(&self, text: &str) -> Vec<u8> {
        text.replace(SPACE, " ").into_bytes()
    }
}

impl Spm {
    fn merge(&self, table: &Table, text: &str, ids: &mut Vec<u32>) {
        let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
        for (start, c) in text.char_indices() {
            let at = symbols.len();
            symbols.push(Symbol { start, len: c.len_utf8(), prev: at.wrapping_sub(1), next: at + 1 });
        }
        let Some(last) = symbols.last_mut() else { return };
        last.next = NONE;

        let mut heap = BinaryHeap::new();
        let look = |symbols: &[Symbol], left: usize, right: usize, heap: &mut BinaryHeap<Pair>| {
            if left == NONE || right == NONE {
                return;
            }
            let (start, len) = (symbols[left].start, symbols[left].len + symbols[right].len);
            if let Some(id) = table.id(&text[start..start + len]) {
                heap.push(Pair { score: table.score(id), left, right, len });
            }
        };
        for right in 1..symbols.len() {
            look(&symbols, right - 1, right, &mut heap);
        }
        while let Some(pair) = heap.pop() {
            let (left, right) = (symbols[pair.left], symbols[pair.right]);
            if left.len == 0 || right.len == 0 || left.len + right.len != pair.len {
                continue;
            }
            symbols[pair.left].len = pair.len;
            symbols[pair.left].next = right.next;
            symbols[pair.right].len = 0;
            if right.next != NONE {
                symbols[right.next].prev = pair.left;
            }
            look(&symbols, left.prev, pair.left, &mut heap);
            look(&symbols, pair.left, right.next, &mut heap);
        }

        let mut at = 0;
        while at != NONE {
            let Symbol { start, len, next, .. } = symbols[at];
            let word = &text[start..start + len];
            match table.id(word) {
                Some(id) => ids.push(id),
                None => ids.extend(word.bytes().filter_map(|b| self.bytes[usize::from(b)])),
            }
            at = next;
        }
    }
}
