//! A mix applied to a model.

use super::rule::{Case, Category};
use super::{Choice, Mix, ModelFacts, Options, TensorDesc, canonical_order, kept, layer_of};
use crate::error;
use qconv_formats::block::{BlockFormat, Importance};

/// What a format becomes where rows are no multiple of its block: of about the same size, in smaller blocks.
/// Where that does not fit either, and for formats in blocks of 32, it is [`LAST`].
#[rustfmt::skip]
const FALLBACKS: &[(&str, &str)] = &[
    ("IQ1_S", "IQ4_NL"), ("IQ1_M", "IQ4_NL"), ("IQ2_XXS", "IQ4_NL"), ("IQ2_XS", "IQ4_NL"), ("IQ2_S", "IQ4_NL"),
    ("IQ3_XXS", "IQ4_NL"), ("IQ3_S", "IQ4_NL"), ("IQ4_XS", "IQ4_NL"),
    ("Q2_0", "Q4_0"), ("Q2_K", "Q4_0"), ("Q3_K", "Q4_0"), ("TQ1_0", "Q4_0"), ("TQ2_0", "Q4_0"),
    ("Q4_K", "Q5_0"), ("Q5_K", "Q5_1"), ("Q6_K", "Q8_0"),
];

/// Fits every row.
const LAST: &str = "F16";

/// Blocks up to this size have no smaller ones to go to.
const SMALL_BLOCK: usize = 32;

/// The output matrix where rows do not fit the default's block, and in Falcon models.
const PLAIN_OUTPUT: &str = "Q8_0";

/// Parts of names in one architecture that no mix makes coarser than this.
const FLOORS: &[(&str, &[&str], &str)] = &[("glm5-next", &["attn_q_a", "attn_q_b", "nextn.eh_proj"], "Q8_0")];

/// Chooses for all tensors of a model; the answers stand in the order of `tensors`, which may be any.
///
/// Errors: a format that this build lacks, rows that do not fit a format that the caller asked for, overrides with a float
/// type (which llama-quantize would ignore), a mixture of experts with feed-forward tensors outside its layers.
pub fn choose(mix: &Mix, facts: &ModelFacts, tensors: &[TensorDesc], options: &Options) -> anyhow::Result<Vec<Choice>> {
    let mut state = State {
        mix,
        default: format(mix, mix.default)?,
        facts,
        options,
        tied: !tensors.iter().any(|t| Category::of(t.name) == Category::Output),
        values: tensors.iter().filter(|t| Category::of(t.name) == Category::Value).count(),
        seen: [0; Category::COUNT],
    };
    if !options.overrides.is_empty() && !state.default.is_quantized() {
        return Err(error::caller(format!("formats by tensor name go with quantized types, not with {}", mix.name)));
    }
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by(|&a, &b| canonical_order(tensors[a].name, tensors[b].name));
    let mut choices = vec![None; tensors.len()];
    for at in order {
        choices[at] = Some(state.choose(&tensors[at])?);
    }
    Ok(choices.into_iter().flatten().collect())
}

/// A format that a mix names.
fn format(mix: &Mix, name: &str) -> anyhow::Result<&'static BlockFormat> {
    BlockFormat::by_name(name).ok_or_else(|| {
        error::caller(format!("type {} needs the block format {name}, which this build lacks", mix.name))
    })
}

/// What the choice for one tensor knows of the others.
struct State<'a> {
    mix: &'a Mix,
    default: &'static BlockFormat,
    facts: &'a ModelFacts,
    options: &'a Options,
    /// The embeddings serve as output matrix.
    tied: bool,
    /// Number of tensors with values.
    values: usize,
    /// How many of each category the mix has chosen for so far.
    seen: [usize; Category::COUNT],
}

impl State<'_> {
    fn choose(&mut self, tensor: &TensorDesc) -> anyhow::Result<Choice> {
        let (name, options) = (tensor.name, self.options);
        if kept::is_kept(&self.facts.arch, name, tensor.shape, options.leave_output) {
            let (format, wanted) = (tensor.format, tensor.format);
            return Ok(Choice { format, wanted, fallback: false, requires_importance: false, kept: true });
        }
        let category = Category::of(name);
        let named = self.named(name)?;
        // `per_layer_token_embd.weight` is large and has its own mind if named
        let asked = match category {
            Category::Embedding if named.is_none() || name == "token_embd.weight" => options.token_embedding,
            Category::Output => options.output_tensor,
            _ => None,
        };
        let (wanted, format) = if let Some(asked) = asked {
            fits_rows(asked, tensor)?;
            (asked, asked)
        } else if !self.default.is_quantized() {
            (self.default, self.default)
        } else {
            let wanted = match named {
                Some(format) => format,
                None if options.pure => self.default,
                None => self.mixed(tensor, category)?,
            };
            (wanted, self.fitting(wanted, tensor)?)
        };
        // the two large tables have no importance to go by, so none is asked for
        let table = matches!(category, Category::Output | Category::Embedding);
        let needs = format.importance == Importance::Required || self.mix.needs_importance.contains(&format.name);
        let requires_importance = needs && !table;
        Ok(Choice { format, wanted, fallback: format != wanted, requires_importance, kept: false })
    }

    /// The first override that fits.
    fn named(&self, name: &str) -> anyhow::Result<Option<&'static BlockFormat>> {
        for o in &self.options.overrides {
            if o.fits(name)? {
                return Ok(Some(o.format));
            }
        }
        Ok(None)
    }

    /// What the mix says, before rows are looked at.
    fn mixed(&mut self, tensor: &TensorDesc, category: Category) -> anyhow::Result<&'static BlockFormat> {
        let (mix, facts) = (self.mix, self.facts);
        let floor = FLOORS.iter().find(|f| f.0 == facts.arch && f.1.iter().any(|part| tensor.name.contains(part)));
        if let Some((_, _, name)) = floor {
            return format(mix, name);
        }
        if category == Category::Output || self.tied && category == Category::Embedding {
            return match self.options.output_tensor {
                Some(asked) => Ok(asked),
                None => format(mix, self.output(tensor)),
            };
        }
        let chosen = self.by_rules(tensor, category)?;
        self.seen[category as usize] += 1;
        let raise = mix.raises.iter().find(|r| r.from == chosen && category == Category::Value && facts.is_70b());
        format(mix, raise.map_or(chosen, |r| r.to))
    }

    fn output(&self, tensor: &TensorDesc) -> &'static str {
        let whole = tensor.shape.cols().is_multiple_of(self.default.block_weights);
        if whole && self.facts.arch != "falcon" { self.mix.output } else { PLAIN_OUTPUT }
    }

    fn by_rules(&self, tensor: &TensorDesc, category: Category) -> anyhow::Result<&'static str> {
        let facts = self.facts;
        let count = self.seen[category as usize];
        let values = category == Category::Value;
        let layer = layer_of(tensor.name).filter(|&layer| layer < facts.layers);
        let dims = tensor.shape.dims();
        let case = Case {
            facts,
            importance: self.options.has_imatrix,
            count,
            // experts of one layer may be tensors of their own, so counting does not give the layer
            layer: if values || facts.experts <= 1 { Some(count) } else { layer },
            layers: if values { self.values } else { facts.layers },
            stack: dims.len() > 2 && dims[dims.len() - 3] > 1,
        };
        for rule in self.mix.rules.iter().copied().flatten() {
            match rule.fits(category, &case) {
                Some(true) => return Ok(rule.format),
                Some(false) => {}
                None => return Err(self.lost(tensor)),
            }
        }
        Ok(self.mix.default)
    }

    fn lost(&self, tensor: &TensorDesc) -> anyhow::Error {
        error::caller(format!(
            "tensor {}: type {} goes by layers, and this is in none of the model's {}; --pure does without",
            tensor.name, self.mix.name, self.facts.layers
        ))
    }

    /// `wanted`, or what stands in for it.
    fn fitting(&self, wanted: &'static BlockFormat, tensor: &TensorDesc) -> anyhow::Result<&'static BlockFormat> {
        let cols = tensor.shape.cols();
        if cols.is_multiple_of(wanted.block_weights) {
            return Ok(wanted);
        }
        let second = match FALLBACKS.iter().find(|(from, _)| *from == wanted.name) {
            Some((_, to)) => format(self.mix, to)?,
            None if wanted.block_weights <= SMALL_BLOCK => wanted,
            None => {
                fits_rows(wanted, tensor)?;
                wanted
            }
        };
        if cols.is_multiple_of(second.block_weights) { Ok(second) } else { format(self.mix, LAST) }
    }
}

/// An error if rows are no whole blocks of a format that has no stand-in.
fn fits_rows(format: &BlockFormat, tensor: &TensorDesc) -> anyhow::Result<()> {
    let cols = tensor.shape.cols();
    if cols.is_multiple_of(format.block_weights) {
        return Ok(());
    }
    Err(error::caller(format!(
        "tensor {}: rows of {cols} weights are no multiple of {}'s block of {}; choose another format for it",
        tensor.name, format.name, format.block_weights
    )))
}
