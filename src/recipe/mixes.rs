//! llama.cpp's file types as data.
//!
//! Facts are those of `llama-quantize` (llama.cpp as in llama-cpp-python 0.3.36); `fixtures/recipe` holds its answers.

use super::rule::{ANY, ATTENTION_OUT, DOWN, EMBEDDING, GATE, KEY, QUERY, Rule, UP, VALUE, When::*, rule};

/// A named file type of llama.cpp (`LLAMA_FTYPE_...`): which tensor gets which block format.
#[derive(Debug)]
pub struct Mix {
    /// `Q4_K_M`, `IQ4_XS`, `F16`, ...
    pub name: &'static str,
    /// Other names under which [`Mix::by_name`] finds it.
    pub aliases: &'static [&'static str],
    /// `general.file_type` of its files.
    pub file_type: u32,
    /// The block format of most tensors, and of all with `--pure`.
    pub default: &'static str,
    /// One line for `--help`.
    pub help: &'static str,
    /// The output matrix, and the embeddings where they serve as output. Only for quantized defaults.
    pub(super) output: &'static str,
    /// Tables of exceptions to the default, searched in order.
    pub(super) rules: &'static [&'static [Rule]],
    /// Formats to which tensors are raised in 70B models.
    pub(super) raises: &'static [Raise],
    /// Formats that need importance in this mix, beyond those that need it everywhere.
    pub(super) needs_importance: &'static [&'static str],
}

/// In models of the 70B size, value matrices that would get `from` get `to`: there they are an eighth of the query matrix,
/// so more bits cost next to nothing.
#[derive(Debug)]
pub(super) struct Raise {
    pub from: &'static str,
    pub to: &'static str,
}

const RAISES: &[Raise] = &[Raise { from: "Q3_K", to: "Q5_K" }, Raise { from: "Q4_K", to: "Q5_K" }];

/// With eight experts (Mixtral) the keys and values are so small a part that every mix keeps them at eight bits.
const EIGHT: &[Rule] = &[rule(VALUE, &[EightExperts(true)], "Q8_0"), rule(KEY, &[EightExperts(true)], "Q8_0")];

/// The attention output of eight-expert models, in most mixes below five bits.
const EIGHT_OUT: &[Rule] = &[rule(ATTENTION_OUT, &[ArchIsNot("falcon"), EightExperts(true)], "Q5_K")];

/// What the types of one to two and a half bits share.
const LOW: &[Rule] = &[
    rule(VALUE, &[SharedHeads], "Q4_K"),
    rule(VALUE, &[ExpertsAtLeast(4)], "Q4_K"),
    rule(KEY, &[EightExperts(true)], "Q4_K"),
    rule(ATTENTION_OUT, &[EightExperts(true)], "Q5_K"),
];

/// Their exceptions at about two bits ...
const LOW_2: &[Rule] =
    &[rule(EMBEDDING, &[], "Q2_K"), rule(VALUE, &[], "Q2_K"), rule(DOWN, &[CountedFirstPart(8)], "Q2_K")];

/// ... and at two and a half.
const LOW_3: &[Rule] = &[
    rule(EMBEDDING, &[], "IQ3_S"),
    rule(VALUE, &[], "IQ3_S"),
    rule(DOWN, &[CountedFirstPart(8)], "IQ3_S"),
    rule(ATTENTION_OUT, &[], "IQ3_S"),
];

const LOW_1: &[Rule] = &[rule(ATTENTION_OUT, &[], "IQ2_XXS")];

/// Four-bit codebooks.
const IQ4: &[Rule] = &[rule(VALUE, &[SharedHeads], "Q5_K"), rule(DOWN, &[FirstPart(8), Importance(false)], "Q5_K")];

const fn mix(name: &'static str, file_type: u32, default: &'static str, help: &'static str) -> Mix {
    Mix {
        name,
        aliases: &[],
        file_type,
        default,
        help,
        output: "Q6_K",
        rules: &[EIGHT],
        raises: RAISES,
        needs_importance: &[],
    }
}

impl Mix {
    const fn aliases(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }

    const fn output(mut self, format: &'static str) -> Self {
        self.output = format;
        self
    }

    const fn rules(mut self, rules: &'static [&'static [Rule]]) -> Self {
        self.rules = rules;
        self
    }

    /// One of the types of one to two and a half bits: they go their own way throughout.
    const fn low(mut self, rules: &'static [&'static [Rule]]) -> Self {
        self.output = "Q5_K";
        self.rules = rules;
        self.raises = &[];
        self
    }
}

/// Every type that llama-quantize offers, finest first. (Its `COPY` is no type of file.)
pub static ALL: &[Mix] = &[
    mix("F32", 0, "F32", "32-bit floats"),
    mix("F16", 1, "F16", "16-bit floats, 11 bits of precision").aliases(&["FP16"]),
    mix("BF16", 32, "BF16", "16-bit floats with the range of 32-bit ones, 8 bits of precision"),
    mix("Q8_0", 7, "Q8_0", "8 bits, nearly lossless").output("Q8_0"),
    mix("Q6_K", 18, "Q6_K", "6 bits"),
    mix("Q5_K_M", 17, "Q5_K", "5 bits, 6 for half of the sensitive matrices")
        .aliases(&["Q5_K"])
        .rules(&[EIGHT, &[rule(VALUE, &[MoreBits], "Q6_K"), rule(DOWN, &[MoreBits], "Q6_K")]]),
    mix("Q5_K_S", 16, "Q5_K", "5 bits"),
    mix("Q5_1", 9, "Q5_1", "5 bits, legacy: scale and minimum per 32 weights"),
    mix("Q5_0", 8, "Q5_0", "5 bits, legacy: scale per 32 weights")
        .rules(&[EIGHT, &[rule(DOWN, &[Importance(true), FirstPart(8)], "Q5_1")]]),
    mix("Q4_K_M", 15, "Q4_K", "4 bits, 6 for half of the sensitive matrices: the usual choice")
        .aliases(&["Q4_K"])
        .rules(&[
            EIGHT,
            EIGHT_OUT,
            &[
                rule(VALUE, &[MoreBits], "Q6_K"),
                rule(DOWN, &[Arch("falcon"), FirstPart(16)], "Q6_K"),
                rule(DOWN, &[Arch("falcon"), MoreBits], "Q5_K"),
                rule(DOWN, &[ArchIsNot("falcon"), MoreBits], "Q6_K"),
            ],
        ]),
    mix("Q4_K_S", 14, "Q4_K", "4 bits, 5 for a few sensitive matrices").rules(&[
        EIGHT,
        EIGHT_OUT,
        &[rule(VALUE, &[FirstOf(4)], "Q5_K"), rule(DOWN, &[ArchIsNot("falcon"), FirstPart(8)], "Q5_K")],
    ]),
    mix("Q4_1", 3, "Q4_1", "4 bits, legacy: scale and minimum per 32 weights"),
    mix("Q4_0", 2, "Q4_0", "4 bits, legacy: scale per 32 weights")
        .rules(&[EIGHT, &[rule(DOWN, &[Importance(true), FirstPart(8)], "Q4_1")]]),
    mix("IQ4_NL", 25, "IQ4_NL", "4 bits with uneven steps, blocks of 32").rules(&[EIGHT, EIGHT_OUT, IQ4]),
    mix("IQ4_XS", 30, "IQ4_XS", "4 bits with uneven steps, blocks of 256").rules(&[EIGHT, EIGHT_OUT, IQ4]),
    mix("MXFP4_MOE", 38, "MXFP4", "4-bit floats for experts, 8 bits for the rest").output("Q8_0").rules(&[&[
        rule(UP, &[Stack], "MXFP4"),
        rule(GATE, &[Stack], "MXFP4"),
        rule(DOWN, &[Stack], "MXFP4"),
        rule(ANY, &[Stack, ArchIsNot("bailingmoe3")], "MXFP4"),
        rule(ANY, &[], "Q8_0"),
    ]]),
    mix("Q3_K_L", 13, "Q3_K", "3 bits, 5 for sensitive matrices").rules(&[
        EIGHT,
        &[
            rule(VALUE, &[], "Q5_K"),
            rule(DOWN, &[Arch("falcon")], "Q4_K"),
            rule(DOWN, &[], "Q5_K"),
            rule(ATTENTION_OUT, &[Arch("falcon")], "Q4_K"),
            rule(ATTENTION_OUT, &[EightExperts(false)], "Q5_K"),
        ],
    ]),
    mix("Q3_K_M", 12, "Q3_K", "3 bits, 4 and 5 for sensitive matrices").aliases(&["Q3_K"]).rules(&[
        EIGHT,
        EIGHT_OUT,
        &[
            rule(VALUE, &[FirstOf(2)], "Q5_K"),
            rule(VALUE, &[], "Q4_K"),
            rule(DOWN, &[FirstPart(16)], "Q5_K"),
            rule(DOWN, &[ArchIsNot("falcon")], "Q4_K"),
            rule(DOWN, &[MoreBits], "Q4_K"),
            rule(ATTENTION_OUT, &[ArchIsNot("falcon")], "Q4_K"),
        ],
    ]),
    mix("IQ3_M", 27, "IQ3_S", "3 bits by codebook, 4 for sensitive matrices").rules(&[
        EIGHT,
        EIGHT_OUT,
        &[
            rule(VALUE, &[], "Q4_K"),
            rule(DOWN, &[FirstPart(8)], "Q4_K"),
            rule(DOWN, &[EightExperts(true), MoreBits], "Q4_K"),
            rule(ATTENTION_OUT, &[ArchIsNot("falcon")], "Q4_K"),
        ],
    ]),
    mix("Q3_K_S", 11, "Q3_K", "3 bits").rules(&[EIGHT, EIGHT_OUT]),
    mix("IQ3_S", 26, "IQ3_S", "3 bits by codebook").rules(&[EIGHT, EIGHT_OUT, &[rule(VALUE, &[SharedHeads], "Q4_K")]]),
    mix("IQ3_XS", 22, "IQ3_S", "3 bits by codebook, coarser in the middle layers").rules(&[
        EIGHT,
        EIGHT_OUT,
        &[
            rule(VALUE, &[SharedHeads], "Q4_K"),
            rule(KEY, &[], "IQ3_XXS"),
            rule(QUERY, &[], "IQ3_XXS"),
            rule(GATE, &[Middle], "IQ3_XXS"),
            rule(UP, &[Middle], "IQ3_XXS"),
        ],
    ]),
    mix("IQ3_XXS", 23, "IQ3_XXS", "just above 3 bits by codebook").output("Q5_K").rules(&[
        EIGHT,
        EIGHT_OUT,
        &[
            rule(EMBEDDING, &[], "IQ3_S"),
            rule(VALUE, &[SharedHeads], "Q4_K"),
            rule(VALUE, &[Importance(false)], "IQ3_S"),
            rule(KEY, &[], "IQ2_S"),
            rule(QUERY, &[], "IQ2_S"),
            rule(DOWN, &[Importance(false), FirstPart(8)], "Q4_K"),
            rule(DOWN, &[Importance(false)], "Q3_K"),
            rule(ATTENTION_OUT, &[ArchIsNot("falcon")], "IQ3_S"),
        ],
    ]),
    mix("Q2_K", 10, "Q2_K", "2 bits, 3 and 4 for sensitive matrices").rules(&[
        EIGHT,
        EIGHT_OUT,
        &[
            rule(VALUE, &[SharedHeads], "Q4_K"),
            rule(VALUE, &[], "Q3_K"),
            rule(DOWN, &[], "Q3_K"),
            rule(ATTENTION_OUT, &[ArchIsNot("falcon")], "Q3_K"),
        ],
    ]),
    Mix {
        needs_importance: &["Q2_K"],
        ..mix("Q2_K_S", 21, "Q2_K", "2 bits")
            .rules(&[EIGHT, &[rule(VALUE, &[SharedHeads], "Q4_K"), rule(DOWN, &[FirstPart(8)], "Q4_K")]])
    },
    mix("IQ2_M", 29, "IQ2_S", "two and a half bits by codebook, 3 for sensitive matrices").low(&[LOW, LOW_3]),
    mix("IQ2_S", 28, "IQ2_XS", "about two and a half bits by codebook").low(&[LOW, LOW_3]),
    mix("IQ2_XS", 20, "IQ2_XS", "2.3 bits by codebook").low(&[LOW, LOW_2]),
    mix("IQ2_XXS", 19, "IQ2_XXS", "2.1 bits by codebook").low(&[LOW, LOW_2]),
    mix("IQ1_M", 31, "IQ1_M", "one and three quarters of a bit by codebook").low(&[LOW, LOW_2, LOW_1]),
    mix("IQ1_S", 24, "IQ1_S", "one and a half bits by codebook").low(&[LOW, LOW_2, LOW_1]),
    mix("TQ2_0", 37, "TQ2_0", "ternary, 2.1 bits: for models trained that way").rules(&[EIGHT, TERNARY]),
    mix("TQ1_0", 36, "TQ1_0", "ternary, 1.7 bits: for models trained that way").rules(&[EIGHT, TERNARY]),
    mix("Q2_0", 41, "Q2_0", "2.25 bits, blocks of 64").rules(&[EIGHT, TERNARY]),
    mix("Q1_0", 40, "Q1_0", "1.125 bits, blocks of 128: for models trained that way"),
];

/// Embeddings of models whose other weights have two or three values.
const TERNARY: &[Rule] = &[rule(EMBEDDING, &[], "Q4_K")];

impl Mix {
    /// By name or alias, case-insensitive: `q4_k_m`, `Q4_K`.
    pub fn by_name(name: &str) -> Option<&'static Mix> {
        let is = |known: &&str| known.eq_ignore_ascii_case(name);
        ALL.iter().find(|m| is(&m.name) || m.aliases.iter().any(&is))
    }

    /// By `general.file_type`.
    pub fn by_file_type(number: u32) -> Option<&'static Mix> {
        ALL.iter().find(|m| m.file_type == number)
    }
}
