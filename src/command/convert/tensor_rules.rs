//! What was decided, put into rules by tensor name and the name of a type.

use super::Choices;
use super::target::Case;
use crate::convert::{Edits, Plan};
use crate::error::caller;
use crate::model::ModelTensor;
use crate::recipe::{self, Mix, Override};
use crate::ui::Ui;
use anyhow::Result;
use qconv_formats::block::BlockFormat;
use std::collections::BTreeMap;

/// Rules that give tensors their formats, layers of a kind together: `^blk\.(0|3)\.attn_v\.weight$=Q6_K`.
pub(super) fn rules<'a>(formats: impl Iterator<Item = (&'a str, &'static BlockFormat)>) -> Result<Vec<Override>> {
    let mut groups: BTreeMap<(String, &str), Vec<String>> = BTreeMap::new();
    for (name, format) in formats {
        let (layer, kind) = match recipe::layer_of(name) {
            Some(layer) => (layer.to_string(), name.splitn(3, '.').nth(2).unwrap_or("").to_owned()),
            None => (String::new(), name.to_owned()),
        };
        groups.entry((kind, format.name)).or_default().push(layer);
    }
    let escaped = |text: &str| text.replace('.', "\\.");
    let rule = |((kind, format), layers): (&(String, &str), &Vec<String>)| {
        let pattern = match layers.as_slice() {
            [none] if none.is_empty() => escaped(kind),
            [one] => format!("blk\\.{one}\\.{}", escaped(kind)),
            all => format!("blk\\.({})\\.{}", all.join("|"), escaped(kind)),
        };
        Override::parse(&format!("^{pattern}$={format}"))
    };
    groups.iter().map(rule).collect()
}

/// The type whose own plan has the size nearest to these formats: what the file says it is, and what it is called after.
pub(super) fn nearest_mix(
    case: &Case,
    choices: &Choices,
    has_imatrix: bool,
    formats: &[(&ModelTensor, &'static BlockFormat)],
) -> Result<&'static Mix> {
    let bytes = |t: &ModelTensor, f: &BlockFormat| f.bits_per_weight() * t.shape.len() as f64;
    let wanted: f64 = formats.iter().map(|(t, f)| bytes(t, f)).sum();
    let mut near: Vec<(f64, &'static Mix)> = Vec::new();
    let plain = recipe::Options { has_imatrix, ..recipe::Options::default() };
    for mix in recipe::ALL.iter().filter(|m| BlockFormat::by_name(m.default).is_some_and(BlockFormat::is_quantized)) {
        let Ok(theirs) = Plan::formats(case.model, mix, &plain, &Edits::default()) else { continue };
        let size: f64 = formats.iter().map(|(t, f)| bytes(t, theirs.get(&t.name).unwrap_or(f))).sum();
        near.push(((size - wanted).abs(), mix));
    }
    near.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut options = choices.options()?;
    options.has_imatrix = has_imatrix;
    let muted = Ui::muted();
    let works =
        |mix: &'static Mix| Plan::new(case.model, mix, &options, case.edits, choices.allow_requantize, &muted).is_ok();
    let mix = near.into_iter().map(|(_, mix)| mix).find(|mix| works(mix));
    mix.ok_or_else(|| caller("no type can hold this plan; name one by --type"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_name_each_tensor_once() {
        let q4 = BlockFormat::by_name("Q4_K").unwrap();
        let q6 = BlockFormat::by_name("Q6_K").unwrap();
        let names = ["blk.0.attn_v.weight", "blk.1.attn_v.weight", "blk.10.attn_v.weight", "token_embd.weight"];
        let all = rules(names.into_iter().zip([q4, q6, q4, q6])).unwrap();
        let texts: Vec<&str> = all.iter().map(|r| r.pattern.as_str()).collect();
        assert_eq!(texts, [r"^blk\.(0|10)\.attn_v\.weight$", r"^blk\.1\.attn_v\.weight$", r"^token_embd\.weight$"]);
        for (name, format) in names.into_iter().zip([q4, q6, q4, q6]) {
            let fits: Vec<_> = all.iter().filter(|r| r.fits(name).unwrap()).collect();
            assert_eq!((fits.len(), fits[0].format), (1, format), "{name}");
        }
    }
}
