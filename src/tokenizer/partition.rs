//! Special tokens that stand in a text, cut out before anything else is done to it.

use super::table::{Kind, Table};
use std::collections::{BTreeSet, HashMap};

/// A piece of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fragment<'a> {
    Text(&'a str),
    Token(u32),
}

/// Finds special tokens in texts.
pub(super) struct Partition {
    /// Special tokens by their first byte; inside, by the first two where there are two.
    starts: HashMap<u8, Vec<u32>>,
    pairs: HashMap<[u8; 2], Vec<u32>>,
    /// Tokens that swallow the white space behind them.
    strip_right: BTreeSet<u32>,
}

/// ASCII white space as C's `isspace` has it.
const SPACES: [char; 6] = [' ', '\t', '\n', '\u{b}', '\u{c}', '\r'];

impl Partition {
    /// `name` is `general.name`: files keep no token attributes, so Phi-3's are known by it, as in llama.cpp.
    pub fn new(table: &Table, name: &str) -> Self {
        let wanted = Kind::CONTROL.or(Kind::USER_DEFINED).or(Kind::UNKNOWN);
        let special: Vec<u32> = (0..table.len() as u32).filter(|&id| table.kind(id).is(wanted)).collect();
        let mut starts: HashMap<u8, Vec<u32>> = HashMap::new();
        let mut pairs: HashMap<[u8; 2], Vec<u32>> = HashMap::new();
        for &id in &special {
            match *table.text(id).as_bytes() {
                [] => {}
                [a] => starts.entry(a).or_default().push(id),
                [a, b, ..] => {
                    starts.entry(a).or_default();
                    pairs.entry([a, b]).or_default().push(id);
                }
            }
        }
        let name = name.to_lowercase();
        let mut strip_right = BTreeSet::new();
        if name.contains("phi-3") || name.contains("phi3") {
            strip_right.extend(&special);
            strip_right.extend(table.id("</s>"));
            for text in ["<unk>", "<s>", "<|endoftext|>"] {
                table.id(text).map(|id| strip_right.remove(&id));
            }
        }
        Partition { starts, pairs, strip_right }
    }

    /// Cuts a text. Longer tokens go first, wherever they stand; then the next shorter ones, in what is left.
    pub fn split<'a>(&self, table: &Table, text: &'a str, parse_special: bool) -> Vec<Fragment<'a>> {
        if text.is_empty() {
            return Vec::new();
        }
        let mut fragments = vec![Fragment::Text(text)];
        for id in self.present(table, text, parse_special) {
            let token = table.text(id);
            let mut next = Vec::with_capacity(fragments.len());
            for fragment in fragments {
                let Fragment::Text(mut rest) = fragment else {
                    next.push(fragment);
                    continue;
                };
                while let Some(at) = rest.find(token) {
                    if at > 0 {
                        next.push(Fragment::Text(&rest[..at]));
                    }
                    next.push(Fragment::Token(id));
                    rest = &rest[at + token.len()..];
                    if self.strip_right.contains(&id) {
                        rest = rest.trim_start_matches(SPACES);
                    }
                }
                if !rest.is_empty() {
                    next.push(Fragment::Text(rest));
                }
            }
            fragments = next;
        }
        fragments
    }

    /// The special tokens that stand anywhere in the text, longest first.
    fn present(&self, table: &Table, text: &str, parse_special: bool) -> Vec<u32> {
        let bytes = text.as_bytes();
        let mut found = BTreeSet::new();
        let wanted = |id: u32| parse_special || !table.kind(id).is(Kind::CONTROL.or(Kind::UNKNOWN));
        let mut first = [false; 256];
        self.starts.keys().for_each(|&byte| first[usize::from(byte)] = true);
        for (at, &byte) in bytes.iter().enumerate() {
            if !first[usize::from(byte)] {
                continue;
            }
            found.extend(self.starts.get(&byte).into_iter().flatten().filter(|&&id| wanted(id)));
            let Some(&pair) = bytes[at..].first_chunk::<2>() else { continue };
            for &id in self.pairs.get(&pair).into_iter().flatten() {
                if bytes[at..].starts_with(table.text(id).as_bytes()) && wanted(id) {
                    found.insert(id);
                }
            }
        }
        let mut found: Vec<u32> = found.into_iter().collect();
        found.sort_by_key(|&id| std::cmp::Reverse(table.text(id).len()));
        found
    }
}
