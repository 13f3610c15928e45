//! How a model is split, as options of several commands.

use crate::convert::{Extent, Split};
use clap::ArgGroup;
use std::num::NonZero;

/// Options that say where a model is cut; at most one.
#[derive(clap::Args, Debug, Clone, Default)]
#[command(group = ArgGroup::new("splitting").multiple(false))]
pub struct Splitting {
    /// Files NAME-00001-of-0000N.gguf of at most this size of tensors, such as 2G or 500M (decimal, as llama.cpp counts)
    #[arg(long, help_heading = "Several files", value_name = "SIZE", value_parser = parse_size, group = "splitting")]
    split_max_size: Option<u64>,

    /// Files of so many tensors
    #[arg(long, help_heading = "Several files", value_name = "N", group = "splitting")]
    split_max_tensors: Option<NonZero<usize>>,

    /// N files of about the same size
    #[arg(long, help_heading = "Several files", value_name = "N", group = "splitting")]
    split_parts: Option<NonZero<u16>>,
}

impl Splitting {
    /// These options as arguments; `part` is one of so many.
    pub fn recipe(&self, part: Option<(usize, usize)>) -> Vec<String> {
        let parts = part.map(|(_, n)| n).or(self.split_parts.map(|n| n.get().into()));
        let options = [
            ("--split-max-size", self.split_max_size.map(|n| n.to_string())),
            ("--split-max-tensors", self.split_max_tensors.map(|n| n.to_string())),
            ("--split-parts", parts.map(|n| n.to_string())),
        ];
        options.into_iter().filter_map(|(flag, n)| Some([flag.to_owned(), n?])).flatten().collect()
    }

    /// What is written: all in one file, several files, or one of several.
    pub fn extent(&self, part: Option<(usize, usize)>) -> Extent {
        match (part, self.split()) {
            (Some((no, count)), _) => Extent::Part { no, count },
            (None, Some(split)) => Extent::Split(split),
            (None, None) => Extent::Whole,
        }
    }

    /// What was chosen.
    pub fn split(&self) -> Option<Split> {
        let size = self.split_max_size.map(Split::MaxSize);
        let tensors = self.split_max_tensors.map(|n| Split::MaxTensors(n.get()));
        let parts = self.split_parts.map(|n| Split::Parts(n.get().into()));
        size.or(tensors).or(parts)
    }
}

/// `2G`, `500M`, `64k`, `1000000`.
fn parse_size(text: &str) -> Result<u64, String> {
    let units = [("G", 1_000_000_000), ("M", 1_000_000), ("k", 1_000), ("K", 1_000)];
    let unit = units.iter().find_map(|(name, n)| Some((text.strip_suffix(name)?, *n)));
    let (number, unit) = unit.unwrap_or((text, 1));
    let bytes = number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).filter(|&n| n > 0);
    bytes.ok_or_else(|| format!("{text:?} is no size, such as 2G or 500M"))
}

/// `2/4`: the second of four, as (1, 4).
pub fn parse_part(text: &str) -> Result<(usize, usize), String> {
    let parts = text.split_once('/').and_then(|(k, n)| Some((k.parse::<u16>().ok()?, n.parse::<u16>().ok()?)));
    match parts {
        Some((k, n)) if k >= 1 && k <= n => Ok((usize::from(k) - 1, n.into())),
        _ => Err(format!("{text:?} is no part, such as 2/4: the second of four")),
    }
}
