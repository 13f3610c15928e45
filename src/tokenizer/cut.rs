//! Cuts text into words, as a row of [`qconv_formats::vocab::pre`] says.

use anyhow::Context;
use fancy_regex::Regex;
use qconv_formats::vocab::pre::{Cut, Pre};
use std::ops::Range;

/// A row, ready to run.
pub(super) struct Cutter {
    cuts: Vec<Compiled>,
}

enum Compiled {
    Pattern(Box<Regex>),
    /// Where runs of the digits that the function names are cut.
    Digits(fn(&str, &mut Vec<usize>)),
}

impl Cutter {
    /// Compiles the row's patterns. Errors: none for rows of [`qconv_formats::vocab::pre::ALL`], which a test compiles.
    pub fn new(pre: &Pre) -> anyhow::Result<Self> {
        let compile = |cut: &Cut| {
            Ok(match *cut {
                Cut::Pattern(pattern) => Compiled::Pattern(Box::new(
                    fancy_regex::RegexBuilder::new(pattern)
                        // The default is for hostile patterns; ours are constants whose backtracking is bounded by the
                        // length of a run of white space.
                        .backtrack_limit(usize::MAX)
                        .build()
                        .with_context(|| format!("pattern {pattern}"))?,
                )),
                Cut::DigitGroups => Compiled::Digits(digit_groups),
                Cut::Thousands => Compiled::Digits(thousands),
            })
        };
        Ok(Cutter { cuts: pre.cuts.iter().map(compile).collect::<anyhow::Result<_>>()? })
    }

    /// The words of a text, in order; together they are the text.
    pub fn words(&self, text: &str) -> Vec<Range<usize>> {
        let mut words = Vec::new();
        if !text.is_empty() {
            words.push(0..text.len());
        }
        let mut marks = Vec::new();
        for cut in &self.cuts {
            let mut next = Vec::with_capacity(words.len().max(text.len() / 6));
            for word in words {
                let piece = &text[word.clone()];
                marks.clear();
                match cut {
                    Compiled::Pattern(regex) => matches(regex, piece, &mut marks),
                    Compiled::Digits(cut) => cut(piece, &mut marks),
                }
                let mut start = 0;
                for &mark in marks.iter().chain(&[piece.len()]) {
                    if mark > start {
                        next.push(word.start + start..word.start + mark);
                        start = mark;
                    }
                }
            }
            words = next;
        }
        words
    }
}

/// Where matches begin and end, in ascending order.
fn matches(regex: &Regex, text: &str, marks: &mut Vec<usize>) {
    let mut at = 0;
    while at < text.len() {
        // An error could only be the backtracking limit, which is off; no match is the end.
        let Ok(Some(found)) = regex.find_from_pos(text, at) else { break };
        marks.extend([found.start(), found.end()]);
        // No pattern here matches nothing, but a loop must end even so.
        at = if found.end() > at { found.end() } else { at + text[at..].chars().next().map_or(1, char::len_utf8) };
    }
}

/// Runs of digits: where each begins, and where each of its characters ends.
fn digit_runs(text: &str, is_digit: fn(char) -> bool, mut run: impl FnMut(usize, &[usize])) {
    let mut ends = Vec::new();
    let mut start = 0;
    for (at, c) in text.char_indices() {
        if is_digit(c) {
            if ends.is_empty() {
                start = at;
            }
            ends.push(at + c.len_utf8());
        } else if !ends.is_empty() {
            run(start, &ends);
            ends.clear();
        }
    }
    if !ends.is_empty() {
        run(start, &ends);
    }
}

/// After the first one or two digits that are too many, then after every three; never before the first.
fn digit_groups(text: &str, marks: &mut Vec<usize>) {
    digit_runs(text, is_number, |_, ends| {
        let first = ends.len() % 3;
        marks.extend(ends.iter().enumerate().filter(|(i, _)| (i + 1) % 3 == first).map(|(_, &end)| end));
    });
}

/// Before every three digits that are followed by whole threes or nothing.
fn thousands(text: &str, marks: &mut Vec<usize>) {
    let run = |start: usize, ends: &[usize]| {
        let mut left = ends.len();
        for begin in [start].iter().chain(ends) {
            if left > 0 && left.is_multiple_of(3) {
                marks.push(*begin);
            }
            left = left.saturating_sub(1);
        }
    };
    digit_runs(text, |c| c.is_ascii_digit(), run);
}

/// `\p{N}`: Rust's `is_numeric` is defined as the same three categories.
fn is_number(c: char) -> bool {
    c.is_numeric()
}

#[cfg(test)]
mod tests {
    use super::*;
    use qconv_formats::vocab::pre::ALL;

    fn words<'a>(name: &str, text: &'a str) -> Vec<&'a str> {
        let cutter = Cutter::new(Pre::by_name(name).unwrap()).unwrap();
        cutter.words(text).into_iter().map(|w| &text[w]).collect()
    }

    /// One text per kind of pattern. (Every row gives llama.cpp's ids on thousands of random texts; that check is too
    /// large for the repository.)
    #[test]
    fn words_are_cut_as_each_row_says() {
        assert_eq!(words("gpt-2", "I'm  12345 naïve\n\nx"), ["I", "'m", " ", " 12345", " naïve", "\n", "\n", "x"]);
        assert_eq!(words("llama-bpe", "I'M  12345 x!\n\n y"), ["I", "'M", " ", " ", "123", "45", " x", "!\n\n", " y"]);
        assert_eq!(words("qwen2", "a 12\r\n  b"), ["a", " ", "1", "2", "\r\n", " ", " b"]);
        assert_eq!(words("smollm", "v12 ٣x"), ["v", "1", "2", " ", "٣", "x"]);
        assert_eq!(words("falcon", "a<=b 12345"), ["a", "<=", "b", " ", "123", "45"]);
        assert_eq!(words("tekken", "camelCase éCole"), ["camel", "Case", " éCole"]);
        assert_eq!(words("gpt-4o", "It's/\n 1234"), ["It's", "/\n", " ", "123", "4"]);
        assert_eq!(words("deepseek-coder", "a\nb 1.x"), ["a", "\n", "b", " ", "1", ".", "x"]);
        assert_eq!(words("deepseek-v3", "x12345我a我"), ["x", "123", "45", "我", "a", "我"]);
        assert_eq!(words("superbpe", "a1234567"), ["a", "1", "234", "567"]);
        assert_eq!(words("superbpe", "123456"), ["123", "456"]);
        assert_eq!(words("afmoe", "ab1234567 123"), ["ab", "1", "234", "567", " ", "123"]);
        assert_eq!(words("kimi-k2", "我们a汉don't"), ["我们", "a", "汉", "don't"]);
        assert_eq!(words("gemma4", "a b\n\nc"), ["a b", "\n\n", "c"]);
        assert_eq!(words("bloom", "a, b (c"), ["a", ",", " b", " (", "c"]);
        assert_eq!(words("default", "x123!"), ["x", "123", "!"]);
    }

    #[test]
    fn every_row_cuts_anything_and_loses_nothing() {
        let texts = [
            "",
            " ",
            "\n",
            "\u{0}\u{7f}\u{85}\u{a0}\u{3000}\u{2003} \u{200b}",
            "e\u{301}\u{301} \u{93f}क्षि កាន់តែ ไทย עִבְרִית 👨‍👩‍👧‍👦🏳️‍🌈",
            "\r\n \t\r\r\n   x   \n  ",
            "1234567890٣٤٥٦Ⅻ½ 𝟘𝟙 １２３",
            "<|im_end|>IMGIMGABZ<sentinel:12>``'s'LL''ſ",
            "我想在apple工作1314151天～ ------======= нещо на Български",
        ];
        for pre in ALL {
            let cutter = Cutter::new(pre).unwrap();
            for text in texts {
                let words = cutter.words(text);
                let mut at = 0;
                for word in words {
                    assert!(word.start == at && word.end > at, "{:?}: {text:?}", pre.names);
                    at = word.end;
                }
                assert_eq!(at, text.len(), "{:?}: {text:?}", pre.names);
            }
        }
    }

    #[test]
    fn long_runs_take_no_time() {
        let n = 100_000;
        let runs = [" ".repeat(n) + "x", "a".repeat(n), "1".repeat(n), "\n ".repeat(n / 2), "我".repeat(n / 3)];
        for pre in ALL {
            let cutter = Cutter::new(pre).unwrap();
            let start = std::time::Instant::now();
            runs.iter().for_each(|run| drop(cutter.words(run)));
            assert!(start.elapsed().as_secs() < 60, "{:?} takes {:?}", pre.names, start.elapsed());
        }
    }
}
