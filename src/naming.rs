//! Names of models: their parts, the size label, the name of a file.
//!
//! The rules are those of gguf-py (`gguf.Metadata`, `gguf.size_label`, `gguf.naming_convention`), so that the same model gets the
//! same name as from llama.cpp's converter; `fixtures/naming` holds its answers.

use crate::recipe::Mix;
use fancy_regex::Regex;
use qconv_formats::Shape;
use qconv_formats::gguf::Metadata;
use std::path::Path;
use std::sync::LazyLock;

/// Numbers of weights, for the size label.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ParameterCounts {
    /// All weights.
    pub total: u64,
    /// Weights outside the experts.
    pub shared: u64,
    /// Weights of one expert over all layers.
    pub expert: u64,
    /// Experts; their mean where layers differ. 0 in dense models.
    pub experts: u64,
}

impl ParameterCounts {
    /// Counts tensors by GGUF name and logical shape; `_exps.` marks stacks of experts.
    pub fn of<'a>(tensors: impl IntoIterator<Item = (&'a str, &'a Shape)>) -> Self {
        let mut counts = Self::default();
        let (mut stacks, mut experts) = (0, 0);
        for (name, shape) in tensors {
            let (size, dims) = (shape.len() as u64, shape.dims());
            counts.total += size;
            if name.contains("_exps.") && dims.len() >= 3 {
                let matrix_dims = if name.contains(".bias") { 1 } else { 2 };
                let stack = dims[dims.len() - 1 - matrix_dims] as u64;
                counts.expert += size / stack;
                experts += stack;
                stacks += 1;
            } else {
                counts.shared += size;
            }
        }
        counts.experts = experts.checked_div(stacks).unwrap_or(0);
        counts
    }

    /// `7B`, `124M`, `8x7B`: at least two digits.
    pub fn size_label(&self) -> String {
        if self.experts > 0 {
            format!("{}x{}", self.experts, rounded(self.shared + self.expert))
        } else {
            rounded(self.total)
        }
    }
}

/// A count with K, M, B or T and at least two digits: `4.2M`, `42M`, `420M`.
fn rounded(count: u64) -> String {
    let n = count as f64;
    let (scale, unit) = match count {
        1_000_000_000_001.. => (1e-12, 'T'),
        1_000_000_001.. => (1e-9, 'B'),
        1_000_001.. => (1e-6, 'M'),
        _ => (1e-3, 'K'),
    };
    let scaled = n * scale;
    let whole = match scaled.round_ties_even() as u64 {
        0 => 0,
        digits => digits.ilog10() + 1,
    };
    let decimals = 2u32.saturating_sub(whole) as usize;
    format!("{scaled:.decimals$}{unit}")
}

/// What a model's name tells, as far as it can be told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NameParts {
    /// All of the name without the organization.
    pub full: Option<String>,
    pub organization: Option<String>,
    pub basename: Option<String>,
    pub finetune: Option<String>,
    pub version: Option<String>,
    pub size_label: Option<String>,
}

/// Matches whole strings, case-insensitive.
fn whole(pattern: &str) -> Regex {
    Regex::new(&format!(r"(?i)\A(?:{pattern})\z")).expect("the patterns below are regular expressions")
}

/// `v1.0`, `3.1`, `iter2`.
static VERSION: LazyLock<Regex> = LazyLock::new(|| whole(r"(v|iter)?\d+([.]\d+)*"));
/// `Q4_K_M`, `fp16`: left behind by earlier conversions.
static TYPE: LazyLock<Regex> = LazyLock::new(|| whole(r"i?q\d(_\w)*|b?fp?(16|32)"));
/// `7B`, `1.5b`, `8x7B`, `7b1`, `A3B`, `small`.
static SIZE: LazyLock<Regex> = LazyLock::new(|| whole(r"(A|\d+x)?\d+([._]\d+)?[KMBT]\d?|small|mini|medium|large|x?xl"));
/// Finetunes that are easy to recognise.
static FINETUNE: LazyLock<Regex> = LazyLock::new(|| whole("chat|instruct|vision|lora"));
/// Words that are no words: versions and numbers.
static NO_WORD: LazyLock<Regex> = LazyLock::new(|| whole(r"v\d+(\.\d+)*|\d.*"));

fn is(pattern: &Regex, part: &str) -> bool {
    // these patterns do not backtrack, so matching cannot run out of steps
    pattern.is_match(part).unwrap_or(false)
}

/// What a part of a name may be; several at once.
#[derive(Default, Clone, Copy)]
struct Kinds {
    basename: bool,
    size: bool,
    finetune: bool,
    version: bool,
    kind: bool,
}

impl Kinds {
    fn count(self) -> usize {
        [self.basename, self.size, self.finetune, self.version, self.kind].into_iter().filter(|k| *k).count()
    }
}

impl NameParts {
    /// Splits a Hugging Face id (`org/Name-7B-Chat-v1`), a folder's name or a plain name.
    ///
    /// `total` is the number of weights (0: unknown): a size that is far from it (`128k`) is a context length.
    pub(crate) fn of(id: &str, total: u64) -> Self {
        if id.contains(' ') {
            return NameParts { full: Some(id.to_owned()), ..Self::default() };
        }
        let (organization, full) = match id.split_once('/') {
            Some((org, full)) => (Some(org).filter(|o| !o.starts_with('.')), full),
            None => (None, id),
        };
        let mut parts: Vec<(String, Kinds)> =
            full.split('-').filter(|p| !p.is_empty()).map(|p| (p.to_owned(), Kinds::default())).collect();
        for (i, (part, kinds)) in parts.iter_mut().enumerate() {
            annotate(i == 0, part, kinds, total);
        }
        // a size in words counts only without one in numbers
        let digits = |s: &str| s.contains(|c: char| c.is_ascii_digit());
        if parts.iter().any(|(part, kinds)| kinds.size && digits(part)) {
            for (part, kinds) in &mut parts {
                kinds.size &= !part.chars().all(char::is_alphabetic);
            }
        }
        // the base name is what comes before anything recognised, versions in between included
        let mut at_start = true;
        for (part, kinds) in &mut parts {
            let word = kinds.count() == 0 && part.starts_with(char::is_alphabetic);
            if at_start && (word || kinds.version) {
                kinds.basename = true;
            } else {
                at_start = false;
                kinds.finetune |= kinds.count() == 0;
            }
        }
        for (_, kinds) in parts.iter_mut().rev() {
            if !kinds.basename || kinds.count() < 2 {
                break;
            }
            kinds.basename = false;
        }
        let join = |which: fn(&Kinds) -> bool| {
            let chosen: Vec<&str> = parts.iter().filter(|(_, k)| which(k)).map(|(part, _)| part.as_str()).collect();
            Some(chosen.join("-")).filter(|s| !s.is_empty())
        };
        let mut sizes: Vec<&str> = Vec::new();
        for (part, kinds) in &parts {
            if kinds.size && !sizes.contains(&part.as_str()) {
                sizes.push(part);
            }
        }
        let size_label = Some(sizes.join("-")).filter(|s| !s.is_empty());
        let finetune = join(|k| k.finetune);
        let version = join(|k| k.version && !k.basename);
        // a single word could be anything
        let ambiguous = size_label.is_none() && finetune.is_none() && version.is_none();
        NameParts {
            full: Some(full.to_owned()),
            organization: organization.map(str::to_owned),
            basename: join(|k| k.basename).filter(|_| !ambiguous),
            finetune,
            version,
            size_label,
        }
    }
}

/// Recognises one part, and normalizes how it is written.
fn annotate(first: bool, part: &mut String, kinds: &mut Kinds, total: u64) {
    if is(&VERSION, part) {
        kinds.version = true;
    } else if is(&TYPE, part) {
        kinds.kind = true;
        *part = part.to_uppercase();
    } else if !first && is(&SIZE, part) {
        let (size, far) = size(part, total);
        *part = size;
        kinds.size = !far;
        kinds.finetune = far;
    } else if !first && is(&FINETUNE, part) {
        kinds.finetune = true;
    }
}

/// A size as it is usually written (`1_5b` -> `1.5B`, `7b1` -> `7.1B`); true if it is too far from `total` to be one (`128k`).
fn size(part: &str, total: u64) -> (String, bool) {
    let mut chars: Vec<char> = part.replace('_', ".").chars().collect();
    if let [.., unit, digit] = chars[..]
        && digit.is_ascii_digit()
    {
        chars.truncate(chars.len() - 2);
        chars.extend(['.', digit, unit]);
    }
    if let [.., digit, unit] = &mut chars[..]
        && digit.is_ascii_digit()
    {
        *unit = unit.to_ascii_uppercase();
    }
    let Some((unit, number)) = chars.split_last() else { return (part.to_owned(), false) };
    let number: String = number.iter().collect();
    let thousands = ['K', 'M', 'B', 'T'].iter().position(|u| u == unit);
    if let (Some(thousands), Ok(n), 1..) = (thousands, number.parse::<f64>(), total) {
        let said = n * 1000f64.powi(thousands as i32 + 1);
        let most = 7u128 * u128::from(total) / 8;
        if (said - total as f64).abs() > most as f64 {
            return (format!("{number}{}", unit.to_ascii_lowercase()), true);
        }
    }
    (format!("{number}{unit}"), false)
}

/// A name for people: `tiny-llama-v1.0` -> `Tiny Llama v1.0`. Words with capitals of their own stay.
pub(crate) fn title(name: &str) -> String {
    let words = name.replace('-', " ");
    let words = words.split_whitespace().map(|word| {
        let lower = word.contains(char::is_lowercase) && !word.contains(char::is_uppercase);
        if lower && !is(&NO_WORD, word) { capitalized(word) } else { word.to_owned() }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Every run of letters with a capital first.
fn capitalized(word: &str) -> String {
    let mut out = String::with_capacity(word.len());
    let mut inside = false;
    for c in word.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            let mut upper = c.to_uppercase();
            out.extend(upper.next());
            out.extend(upper.flat_map(char::to_lowercase)); // ß becomes Ss
        }
        inside = c.is_lowercase() || c.is_uppercase();
    }
    out
}

/// `BaseName-SizeLabel-FineTune-Version-TYPE.gguf` from the `general.*` keys, by the GGUF naming convention.
///
/// Characters that cannot be in a file's name become `-`.
pub fn default_name(meta: &Metadata, mix: &Mix) -> String {
    let key = |key: &str| meta.str(&format!("general.{key}")).map(|v| v.trim().replace([' ', '/'], "-"));
    let mut name = key("basename").or_else(|| key("name")).unwrap_or_else(|| "ggml-model".into());
    for part in ["size_label", "finetune", "version"].into_iter().filter_map(key) {
        name.push('-');
        name.push_str(&part);
    }
    let name = name.replace(|c: char| c == '\\' || c.is_control(), "-");
    format!("{name}-{}.gguf", mix.name)
}

/// The name for a GGUF file made from another: from its `general.*` keys where it has a name, else its file name with the type
/// replaced (`model.F16.gguf` -> `model.Q4_K_M.gguf`), else appended.
pub fn default_name_from_gguf(source: &Path, meta: &Metadata, mix: &Mix) -> String {
    if ["general.basename", "general.name"].iter().any(|key| meta.str(key).is_some_and(|v| !v.trim().is_empty())) {
        return default_name(meta, mix);
    }
    let stem = source.file_stem().unwrap_or_default().to_string_lossy();
    let stem = without_shard(&stem);
    let start = stem.rfind(['-', '.']).map_or(0, |at| at + 1);
    let (head, last) = stem.split_at(start);
    match Mix::by_name(last) {
        Some(_) => format!("{head}{}.gguf", mix.name),
        None => format!("{stem}-{}.gguf", mix.name),
    }
}

/// A name without `-00001-of-00003`.
fn without_shard(stem: &str) -> &str {
    static SHARD: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"-\d{5}-of-\d{5}\z").expect("this is a regular expression"));
    match SHARD.find(stem) {
        Ok(Some(found)) => &stem[..found.start()],
        _ => stem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mix() -> &'static Mix {
        Mix::by_name("Q4_K_M").unwrap()
    }

    #[test]
    fn a_gguf_without_a_name_lends_its_files() {
        let none = Metadata::new();
        for (file, want) in [
            ("models/llama.F16.gguf", "llama.Q4_K_M.gguf"),
            ("stories-f32.gguf", "stories-Q4_K_M.gguf"),
            ("a-BF16-00001-of-00002.gguf", "a-Q4_K_M.gguf"),
            ("plain.gguf", "plain-Q4_K_M.gguf"),
            ("q8_0.gguf", "Q4_K_M.gguf"),
        ] {
            assert_eq!(default_name_from_gguf(Path::new(file), &none, mix()), want);
        }
        let mut named = Metadata::new();
        named.set("general.name", "Some Model");
        named.set("general.size_label", "7B");
        assert_eq!(default_name_from_gguf(Path::new("x.gguf"), &named, mix()), "Some-Model-7B-Q4_K_M.gguf");
    }

    #[test]
    fn a_name_cannot_leave_the_folder() {
        let mut meta = Metadata::new();
        meta.set("general.basename", "../../etc/x");
        meta.set("general.version", "a/b\\c\0d");
        assert_eq!(default_name(&meta, mix()), "..-..-etc-x-a-b-c-d-Q4_K_M.gguf");
    }
}
