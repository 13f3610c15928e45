//! The words in which [`super::mixes`] is written: kinds of tensors, conditions, rules.

use super::ModelFacts;

/// What a tensor does, as far as mixes care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Category {
    Output,
    Embedding,
    Query,
    Key,
    /// Values, alone or fused with queries and keys: the part of attention that suffers most from coarse codes.
    Value,
    AttentionOutput,
    Up,
    Gate,
    Down,
    Other,
}

use Category::*;

/// Whole names.
const NAMES: &[(&str, Category)] =
    &[("output.weight", Output), ("token_embd.weight", Embedding), ("per_layer_token_embd.weight", Embedding)];

/// Parts of names; the first that occurs decides.
const PARTS: &[(&str, Category)] = &[
    ("attn_qkv.weight", Value),
    ("attn_kv_b.weight", Value),
    ("attn_v.weight", Value),
    ("attn_k.weight", Key),
    ("attn_q.weight", Query),
    ("attn_output.weight", AttentionOutput),
    ("ffn_up", Up),
    ("ffn_gate", Gate),
    ("ffn_down", Down),
];

impl Category {
    /// How many there are.
    pub(super) const COUNT: usize = Other as usize + 1;

    /// By GGUF name.
    pub(super) fn of(name: &str) -> Self {
        let whole = NAMES.iter().find(|(n, _)| *n == name);
        let part = || PARTS.iter().find(|(p, _)| name.contains(p));
        whole.or_else(part).map_or(Other, |(_, c)| *c)
    }
}

pub(super) const EMBEDDING: &[Category] = &[Embedding];
pub(super) const QUERY: &[Category] = &[Query];
pub(super) const KEY: &[Category] = &[Key];
pub(super) const VALUE: &[Category] = &[Value];
pub(super) const ATTENTION_OUT: &[Category] = &[AttentionOutput];
pub(super) const UP: &[Category] = &[Up];
pub(super) const GATE: &[Category] = &[Gate];
pub(super) const DOWN: &[Category] = &[Down];
/// Every category.
pub(super) const ANY: &[Category] = &[Output, Embedding, Query, Key, Value, AttentionOutput, Up, Gate, Down, Other];

/// A condition of a rule. Divisions are of integers: an eighth of 7 layers is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// Four or more query heads share a key-value head.
    SharedHeads,
    /// The model has at least so many experts.
    ExpertsAtLeast(usize),
    /// The model has exactly eight experts, or not.
    EightExperts(bool),
    /// The architecture, or any other.
    Arch(&'static str),
    ArchIsNot(&'static str),
    /// An importance matrix is at hand, or not.
    Importance(bool),
    /// One of the first n of its category.
    FirstOf(usize),
    /// In the first n-th part of the layers.
    FirstPart(usize),
    /// Likewise, but by how many of its category came before; differs from [`When::FirstPart`] in a mixture of experts only.
    CountedFirstPart(usize),
    /// Neither in the first nor in the last eighth of the layers.
    Middle,
    /// In the first or last eighth of the layers, or every third in between.
    MoreBits,
    /// A stack of matrices (experts).
    Stack,
}

/// What conditions look at.
pub(super) struct Case<'a> {
    pub facts: &'a ModelFacts,
    pub importance: bool,
    /// How many of this category were chosen for before.
    pub count: usize,
    /// Layer of the tensor; the count where the model is no mixture of experts. `None` if a mixture's tensor is in no layer.
    pub layer: Option<usize>,
    /// Layers of the model, or for values the number of tensors with values.
    pub layers: usize,
    pub stack: bool,
}

impl When {
    /// `None` if it depends on the layer, and the tensor is in none.
    pub(super) fn holds(self, case: &Case) -> Option<bool> {
        let facts = case.facts;
        let n = case.layers;
        Some(match self {
            When::SharedHeads => facts.queries_per_key() >= 4,
            When::ExpertsAtLeast(experts) => facts.experts >= experts,
            When::EightExperts(yes) => (facts.experts == 8) == yes,
            When::Arch(name) => facts.arch == name,
            When::ArchIsNot(name) => facts.arch != name,
            When::Importance(yes) => case.importance == yes,
            When::FirstOf(most) => case.count < most,
            When::FirstPart(part) => case.layer? < n / part,
            When::CountedFirstPart(part) => case.count < n / part,
            When::Middle => (n / 8..7 * n / 8).contains(&case.layer?),
            When::MoreBits => {
                let i = case.layer?;
                i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2
            }
            When::Stack => case.stack,
        })
    }
}

/// The format for tensors of some categories under conditions that must all hold. The first rule that fits decides.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rule {
    pub on: &'static [Category],
    pub when: &'static [When],
    /// Name of a block format.
    pub format: &'static str,
}

/// A rule in one line.
pub(super) const fn rule(on: &'static [Category], when: &'static [When], format: &'static str) -> Rule {
    Rule { on, when, format }
}

impl Rule {
    /// `None` if a condition depends on the layer, and the tensor is in none.
    pub(super) fn fits(&self, category: Category, case: &Case) -> Option<bool> {
        if !self.on.contains(&category) {
            return Some(false);
        }
        for condition in self.when {
            if !condition.holds(case)? {
                return Some(false);
            }
        }
        Some(true)
    }
}
