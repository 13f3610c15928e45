//! Model cards: the YAML front matter of a checkpoint's `README.md`.
//!
//! All scalars are kept as the text that is written, so `version: 1.10` is `1.10` and `language: no` is Norwegian.

use saphyr_parser::{Event, Parser, ScalarStyle};
use std::collections::HashMap;

/// Nesting beyond this is no model card.
const MAX_DEPTH: usize = 32;
/// Values beyond this, aliases written out, are no model card.
const MAX_VALUES: usize = 100_000;

/// A YAML value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Yaml {
    Null,
    Text(String),
    List(Vec<Yaml>),
    Map(Card),
}

/// A YAML mapping. Of a key that is there twice the last value counts.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Card {
    entries: Vec<(String, Yaml)>,
}

impl Card {
    pub(super) fn get(&self, key: &str) -> Option<&Yaml> {
        self.entries.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    /// Parses the front matter of a README, if it has one. The error is a phrase.
    pub(super) fn parse(readme: &str) -> Result<Self, String> {
        let Some(text) = front_matter(readme) else { return Ok(Self::default()) };
        match yaml(&text)? {
            Yaml::Map(card) => Ok(card),
            Yaml::Null => Ok(Self::default()),
            _ => Err("is no mapping of keys to values".into()),
        }
    }
}

/// The lines between the first, `---`, and the next such line. Tabs, which YAML forbids, become two spaces.
fn front_matter(readme: &str) -> Option<String> {
    let readme = readme.replace("\r\n", "\n");
    let body = readme.strip_prefix("---\n")?;
    let lines = body.lines().take_while(|line| *line != "---");
    Some(lines.flat_map(|line| [line, "\n"]).collect::<String>().replace('\t', "  "))
}

/// A list or mapping whose end has not come yet.
enum Open {
    List(Vec<Yaml>),
    Map(Card, Option<String>),
}

impl Open {
    fn push(&mut self, value: Yaml) {
        match self {
            Open::List(items) => items.push(value),
            Open::Map(card, key) => match key.take() {
                Some(key) => card.entries.push((key, value)),
                // keys that are no text have no meaning in a model card, but their place must be kept
                None => *key = Some(if let Yaml::Text(text) = value { text } else { String::new() }),
            },
        }
    }
}

/// Parses one YAML document.
fn yaml(text: &str) -> Result<Yaml, String> {
    let mut anchors: HashMap<usize, Yaml> = HashMap::new();
    let mut open: Vec<(Open, usize)> = Vec::new();
    let mut values = 0;
    for event in Parser::new_from_str(text) {
        let (event, _) = event.map_err(|e| format!("is no YAML: {e}"))?;
        values += 1;
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, _) => {
                let null = style == ScalarStyle::Plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                (if null { Yaml::Null } else { Yaml::Text(text.into_owned()) }, anchor)
            }
            Event::Alias(anchor) => {
                let value = anchors.get(&anchor).ok_or("uses an alias before its anchor ends")?;
                values += size(value);
                (value.clone(), 0)
            }
            Event::SequenceStart(anchor, _) => {
                open.push((Open::List(Vec::new()), anchor));
                continue;
            }
            Event::MappingStart(anchor, _) => {
                open.push((Open::Map(Card::default(), None), anchor));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop().ok_or("ends what did not begin")? {
                (Open::List(items), anchor) => (Yaml::List(items), anchor),
                (Open::Map(card, _), anchor) => (Yaml::Map(card), anchor),
            },
            Event::DocumentEnd => break,
            _ => continue,
        };
        if open.len() > MAX_DEPTH || values > MAX_VALUES {
            return Err(format!("has over {MAX_DEPTH} levels or {MAX_VALUES} values"));
        }
        if anchor > 0 {
            anchors.insert(anchor, value.clone());
        }
        match open.last_mut() {
            Some((inner, _)) => inner.push(value),
            None => return Ok(value),
        }
    }
    Ok(Yaml::Null)
}

/// Number of values in a value.
fn size(value: &Yaml) -> usize {
    match value {
        Yaml::Null | Yaml::Text(_) => 1,
        Yaml::List(items) => 1 + items.iter().map(size).sum::<usize>(),
        Yaml::Map(card) => 1 + card.entries.iter().map(|(_, v)| size(v)).sum::<usize>(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(s: &str) -> Yaml {
        Yaml::Text(s.into())
    }

    #[test]
    fn scalars_are_what_is_written() {
        let card = Card::parse("---\nversion: 1.10\nlanguage:\n- no\n- \"en\"\ndate: 2024-01-01\nnothing: ~\nempty:\ntab:\t'x'\nversion: 2\n---\nText: no\n").unwrap();
        assert_eq!(card.get("version"), Some(&text("2")), "the last counts");
        assert_eq!(card.get("language"), Some(&Yaml::List(vec![text("no"), text("en")])));
        assert_eq!(card.get("date"), Some(&text("2024-01-01")));
        assert_eq!(card.get("nothing"), Some(&Yaml::Null));
        assert_eq!(card.get("empty"), Some(&Yaml::Null));
        assert_eq!(card.get("tab"), Some(&text("x")));
        assert_eq!(card.get("Text"), None);
    }

    #[test]
    fn a_readme_without_front_matter_is_empty() {
        for readme in ["", "# Title\n---\na: b\n---\n", " ---\na: b\n---\n", "---\n---\n", "---\r\n\r\n---\r\n"] {
            assert_eq!(Card::parse(readme).unwrap(), Card::default(), "{readme:?}");
        }
    }

    #[test]
    fn malformed_cards_are_errors_not_panics() {
        let deep = format!("a: {}1{}", "[".repeat(1000), "]".repeat(1000));
        let bomb = (1..30).fold("x0: &x0 [1,2]".to_owned(), |s, i| format!("{s}\nx{i}: &x{i} [*x{0},*x{0}]", i - 1));
        for yaml in
            ["a: [1, 2", "a: *unknown", "- just\n- a list", "a: 'b", "{", "a: b: c", "a: &x [*x]", "@", &deep, &bomb]
        {
            let e = Card::parse(&format!("---\n{yaml}\n---\n")).unwrap_err();
            assert!(!e.is_empty());
        }
        // no end: the text of the README is read as YAML
        assert!(Card::parse("---\nlicense: mit\n# Model\nIt is: good: very\n").is_err());
    }
}
