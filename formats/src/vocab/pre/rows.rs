//! The rows. Patterns are Perl-like with Unicode classes; `|` tries its sides in order.

use super::{AddBos, Cut, Pre, Sign};
use Cut::{DigitGroups, Pattern, Thousands};

/// English contractions in either case, as llama.cpp spells them.
macro_rules! contractions {
    () => {
        r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
    };
}

/// The same as Hugging Face files spell them.
macro_rules! any_case {
    () => {
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    };
}

/// White space: up to the last line end; then all but one character before a word; then the rest.
macro_rules! spaces {
    () => {
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    };
}

/// Words, numbers of one `$digits`, punctuation with the line ends behind it, white space.
macro_rules! words {
    ($contractions:expr, $digits:literal) => {
        concat!($contractions, r"|[^\r\n\p{L}\p{N}]?\p{L}+|", $digits, r"| ?[^\s\p{L}\p{N}]+[\r\n]*", spaces!())
    };
}

/// Words that end where upper case begins again, with `$tail` behind them, by classes of upper and lower case.
macro_rules! cased_words {
    ($upper:literal, $lower:literal, $tail:expr, $digits:literal) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?",
            $upper,
            "*",
            $lower,
            "+",
            $tail,
            r"|[^\r\n\p{L}\p{N}]?",
            $upper,
            "+",
            $lower,
            "*",
            $tail,
            "|",
            $digits,
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]*",
            spaces!()
        )
    };
}

/// The classes of [`cased_words`] in Hugging Face files.
macro_rules! hf_cased_words {
    ($tail:expr, $digits:literal) => {
        cased_words!(r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", $tail, $digits)
    };
}

/// GPT-2's words.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const DIGIT: &str = r"\p{N}";
const UP_TO_3: &str = r"\p{N}{1,3}";
const LLAMA3: &str = words!(contractions!(), r"\p{N}{1,3}");
const QWEN2: &str = words!(contractions!(), r"\p{N}");
const HF_LLAMA3: &str = words!(any_case!(), r"\p{N}{1,3}");
const HF_QWEN2: &str = words!(any_case!(), r"\p{N}");
const LINE_ENDS: &str = r"[\r\n]";
const LINES: &str = r"[^\n]+|[\n]+";

/// The range from U+0800 holds white space, which llama.cpp does not match.
const CJK: &str = r"[\u{4e00}-\u{9fa5}\u{800}-\u{4e00}\u{ac00}-\u{d7ff}--\s]+";
const HF_CJK: &str = "[\u{4e00}-\u{9fa5}\u{800}-\u{4e00}\u{ac00}-\u{d7ff}]+";
const CJK_KANA: &str = "[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+";
const DEEPSEEK3: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"##,
    spaces!()
);

/// Everything but white space and the punctuation of the languages it was made for.
const BLOOM: &str = " ?[^(\\s|.,!?\u{2026}\u{3002}\u{ff0c}\u{3001}\u{964}\u{6d4}\u{60c})]+";
/// The same in the models' own files, where the inner bracket opens a nested class.
const HF_BLOOM: &str = " ?[^(\\s|[.,!?\u{2026}\u{3002}\u{ff0c}\u{3001}\u{964}\u{6d4}\u{60c}])]+";

/// Letters of scripts with upper and lower case.
macro_rules! cased_letters {
    () => {
        "A-Za-z\u{b5}\u{c0}-\u{d6}\u{d8}-\u{f6}\u{f8}-\u{1ba}\u{1bc}-\u{1bf}\u{1c4}-\u{293}\u{295}-\u{2af}\
         \u{370}-\u{373}\u{376}\u{377}\u{37b}-\u{37d}\u{37f}\u{386}\u{388}-\u{38a}\u{38c}\u{38e}-\u{3a1}\
         \u{3a3}-\u{3f5}\u{3f7}-\u{481}\u{48a}-\u{52f}\u{531}-\u{556}\u{10a0}-\u{10c5}\u{13a0}-\u{13f5}\
         \u{13f8}-\u{13fd}\u{1c90}-\u{1cba}\u{1cbd}-\u{1cbf}\u{1d00}-\u{1d2b}\u{1d6b}-\u{1d77}\
         \u{1d79}-\u{1d9a}\u{1e00}-\u{1f15}\u{1f18}-\u{1f1d}\u{1f20}-\u{1f45}\u{1f48}-\u{1f4d}\
         \u{1f50}-\u{1f57}\u{1f59}\u{1f5b}\u{1f5d}\u{1f5f}-\u{1f7d}\u{1f80}-\u{1fb4}\u{1fb6}-\u{1fbc}\u{1fbe}\
         \u{1fc2}-\u{1fc4}\u{1fc6}-\u{1fcc}\u{1fd0}-\u{1fd3}\u{1fd6}-\u{1fdb}\u{1fe0}-\u{1fec}\
         \u{1ff2}-\u{1ff4}\u{1ff6}-\u{1ffc}\u{2102}\u{2107}\u{210a}-\u{2113}\u{2115}\u{2119}-\u{211d}\u{2124}\
         \u{2126}\u{2128}\u{212a}-\u{212d}\u{212f}-\u{2134}\u{2139}\u{213c}-\u{213f}\u{2145}-\u{2149}\u{214e}\
         \u{2183}\u{2184}\u{2c00}-\u{2c7b}\u{2c7e}-\u{2ce4}\u{2ceb}-\u{2cee}\u{2cf2}\u{2cf3}\u{a640}-\u{a66d}\
         \u{a680}-\u{a69b}\u{a722}-\u{a76f}\u{a771}-\u{a787}\u{a78b}-\u{a78e}\u{ab70}-\u{abbf}\
         \u{fb00}-\u{fb06}\u{fb13}-\u{fb17}\u{ff21}-\u{ff3a}\u{ff41}-\u{ff5a}\u{10400}-\u{1044f}\
         \u{104b0}-\u{104d3}\u{104d8}-\u{104fb}\u{10c80}-\u{10cb2}\u{10cc0}-\u{10cf2}\u{118a0}-\u{118df}\
         \u{1e900}-\u{1e943}"
    };
}

/// Steps of tokenizer classes of transformers whose files may be `vocab.json` and `merges.txt` alone.
pub static CLASSES: &[(&str, &[&str])] = &[
    ("GPT2Tokenizer", &["<gpt-2>"]),
    ("CodeGenTokenizer", &["<gpt-2>"]),
    ("RobertaTokenizer", &["<gpt-2>"]),
    ("Qwen2Tokenizer", &[HF_QWEN2, "<bytes>"]),
];

/// Every pre-tokenizer.
pub static ALL: &[&Pre] = &[
    &DEFAULT,
    &LLAMA_BPE,
    &DBRX,
    &CHATGLM,
    &GLM4,
    &MINICPM5,
    &JAIS2,
    &DEEPSEEK_LLM,
    &DEEPSEEK_CODER,
    &DEEPSEEK_V3,
    &SPARK,
    &YOUTU,
    &FALCON,
    &STARCODER,
    &GPT_2,
    &QWEN_2,
    &QWEN_35,
    &BLOOMS,
    &VIKING,
    &TEKKEN,
    &CHAMELEON,
    &GPT_4O,
    &GRANITE_MULTI,
    &TINY_AYA,
    &KIMI_K2,
    &SUPERBPE,
    &BAILINGMOE,
    &SEED_CODER,
    &UFAKZEKA,
    &AFMOE,
    &LAGUNA,
    &EXAONE_MOE,
    &GEMMA4,
    &SARVAM,
];

/// What llama.cpp does where a file does not name its pre-tokenizer.
static DEFAULT: Pre = Pre::new(
    &["default"],
    &[Pattern(r"[\p{P}\$\+<=>\^~\|]+"), Pattern(GPT2), Pattern(r"\p{N}+"), Pattern("[0-9][0-9][0-9]")],
);

static LLAMA_BPE: Pre = Pre::new(
    &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"],
    &[Pattern(LLAMA3)],
)
.ignore_merges()
.add_bos(AddBos::Yes)
.signs(&[
    Sign::new("llama-bpe", &[HF_LLAMA3, "<bytes>"]).ignore_merges(true),
    Sign::new("falcon3", &[HF_LLAMA3, "<bytes>"]).tokens(&[">>TITLE<<", ">>ABSTRACT<<"]),
    Sign::new("pixtral", &[HF_LLAMA3, "<bytes>"]).ignore_merges(true).tokens(&["[IMG_BREAK]"]),
    Sign::new("lfm2", &[HF_LLAMA3, "<bytes>"]).ignore_merges(true).tokens(&["<|startoftext|>", "<|im_start|>"]),
]);

/// cl100k (DBRX, Phi-4, OLMo 2), and Llama 3 files from before `ignore_merges` (Smaug).
static DBRX: Pre = Pre::new(&["dbrx", "smaug-bpe"], &[Pattern(LLAMA3)]).signs(&[
    Sign::new("dbrx", &[HF_LLAMA3, "<bytes>"]).ignore_merges(false),
    Sign::new("smaug-bpe", &[HF_LLAMA3, "<bytes>"]).ignore_merges(false).tokens(&["<|begin_of_text|>"]),
]);

static CHATGLM: Pre =
    Pre::new(&["chatglm-bpe"], &[Pattern(LLAMA3)])
        .no_bos()
        .signs(&[Sign::new("chatglm-bpe", &[HF_LLAMA3, "<bytes>"]).ignore_merges(false).tokens(&["[gMASK]", "<sop>"])]);

static GLM4: Pre = Pre::new(&["glm4", "glm5"], &[Pattern(LLAMA3)]).no_bos().ignore_merges().signs(&[Sign::new(
    "glm4",
    &[HF_LLAMA3, "<bytes>"],
)
.ignore_merges(true)
.tokens(&["[gMASK]", "<sop>"])]);

static MINICPM5: Pre = Pre::new(&["minicpm5"], &[Pattern(UP_TO_3), Pattern(words!(contractions!(), r"\p{N}+"))])
    .ignore_merges()
    .signs(&[Sign::new("minicpm5", &[])]);

static JAIS2: Pre = Pre::new(
    &["jais-2"],
    &[Pattern(concat!(
        contractions!(),
        r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
        r"|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)",
        r"|\s{1,2}(?!\S)|\s{1}"
    ))],
)
.signs(&[Sign::new("jais-2", &[])]);

/// U+3000 stands in the model's own third class; llama.cpp sees white space there and does not match it.
static DEEPSEEK_LLM: Pre = Pre::new(
    &["deepseek-llm"],
    &[
        Pattern(LINE_ENDS),
        Pattern(concat!("\\s?[", cased_letters!(), "]+")),
        Pattern("\\s?[!-/:-~\u{ff01}-\u{ff0f}\u{ff1a}-\u{ff5e}\u{2018}-\u{201f}\u{3001}-\u{3002}]+"),
        Pattern(r"\s+$"),
        Pattern(CJK),
        Pattern(r"\p{N}+"),
    ],
)
.signs(&[Sign::new(
    "deepseek-llm",
    &[
        LINE_ENDS,
        concat!("\\s?[", cased_letters!(), "]+"),
        "\\s?[!-/:-~\u{ff01}-\u{ff0f}\u{ff1a}-\u{ff5e}\u{2018}-\u{201f}\u{3000}-\u{3002}]+",
        r"\s+$",
        HF_CJK,
        "<digits>",
        "<bytes>",
    ],
)]);

static DEEPSEEK_CODER: Pre = Pre::new(
    &["deepseek-coder"],
    &[Pattern(LINE_ENDS), Pattern(r"\s?\p{L}+"), Pattern(r"\s?\p{P}+"), Pattern(CJK), Pattern(DIGIT)],
)
.signs(&[Sign::new("deepseek-coder", &[LINE_ENDS, r"\s?\p{L}+", r"\s?\p{P}+", HF_CJK, "<digits>", "<bytes>"])]);

static DEEPSEEK_V3: Pre = Pre::new(
    &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
    &[Pattern(UP_TO_3), Pattern(CJK_KANA), Pattern(DEEPSEEK3)],
)
.signs(&[Sign::new("deepseek-v3", &[])]);

static SPARK: Pre = Pre::new(
    &["spark2_5"],
    &[
        Pattern(UP_TO_3),
        Pattern(CJK_KANA),
        Pattern(
            r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+"##,
        ),
        Pattern(DIGIT),
    ],
)
.signs(&[Sign::new("spark2_5", &[])]);

const YOUTU_CJK: &str = "[\u{ac00}-\u{d7a3}\u{3131}-\u{318e}]+\
     |[\u{ff01}\u{2026}\u{201c}\u{201d}\u{2018}\u{2019}\u{2014}\u{ff1a}\u{ff1b}\u{ff0c}\u{3001}-\u{303f}\u{fe30}-\u{fe4f}]+\
     |[\u{3105}-\u{312f}]+|[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+";
static YOUTU: Pre = Pre::new(
    &["youtu"],
    &[
        Pattern(YOUTU_CJK),
        Pattern(cased_words!(r"[\p{L}\p{M}]", r"[\p{L}\p{M}]", concat!(contractions!(), "?"), r"\p{N}")),
    ],
)
.ignore_merges()
.signs(&[Sign::new("youtu", &[YOUTU_CJK, hf_cased_words!(concat!(any_case!(), "?"), r"\p{N}"), "<bytes>"])]);

static FALCON: Pre =
    Pre::new(&["falcon"], &[Pattern(r"[\p{P}\$\+<=>\^~\|`]+"), Pattern(GPT2), Pattern("[0-9][0-9][0-9]")])
        .signs(&[Sign::new("falcon", &["<punctuation runs>", "<gpt-2>", "<digit runs>", "[0-9][0-9][0-9]"])]);

static STARCODER: Pre = Pre::new(
    &["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"],
    &[Pattern(DIGIT), Pattern(GPT2)],
)
.signs(&[
    Sign::new("starcoder", &["<digits>", "<gpt-2>"]),
    Sign::new("refact", &["<digits>", "<gpt-2>"]).tokens(&["<fim_prefix>", "<gh_stars>"]),
    Sign::new("smollm", &["<digits>", "<gpt-2>"]).tokens(&["<|im_start|>", "<gh_stars>"]),
    Sign::new("command-r", &["<digits>", "<gpt-2>"]).tokens(&["<BOS_TOKEN>"]),
    Sign::new("exaone", &["<digits>", "<gpt-2>"]).tokens(&["[|endofturn|]"]),
]);

static GPT_2: Pre = Pre::new(
    &[
        "gpt-2",
        "phi-2",
        "mpt",
        "olmo",
        "jais",
        "gigachat",
        "a.x-4.0",
        "mellum",
        "modern-bert",
        "roberta-bpe",
        "jina-es",
        "jina-de",
        "jina-v1-en",
        "jina-v2-es",
        "jina-v2-de",
        "jina-v2-code",
        "exaone4",
        "trillion",
        "granite-docling",
    ],
    &[Pattern(GPT2)],
)
.signs(&[
    Sign::new("gpt-2", &["<gpt-2>"]),
    // GPT-NeoX's vocabulary: OLMo, MPT and Pythia share it.
    Sign::new("olmo", &["<gpt-2>"]).tokens(&["<|padding|>"]),
    // CodeGen's vocabulary: GPT-2's and runs of 2 to 31 spaces.
    Sign::new("phi-2", &["<gpt-2>"]).tokens(&["                               "]),
    Sign::new("exaone4", &["<gpt-2>"]).tokens(&["[|endofturn|]"]),
]);

static QWEN_2: Pre = Pre::new(
    &["qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2"],
    &[Pattern(QWEN2)],
)
.signs(&[
    Sign::new("qwen2", &[HF_QWEN2, "<bytes>"]),
    Sign::new("deepseek-r1-qwen", &[HF_QWEN2, "<bytes>"]).tokens(&["<｜begin▁of▁sentence｜>"]),
]);

static QWEN_35: Pre = Pre::new(
    &["qwen35"],
    &[Pattern(concat!(
        contractions!(),
        r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
        spaces!()
    ))],
)
.signs(&[Sign::new("qwen35", &[])]);

static BLOOMS: Pre = Pre::new(&["bloom", "poro-chat", "gpt3-finnish"], &[Pattern(BLOOM)])
    .signs(&[Sign::new("bloom", &[]), Sign::new("bloom", &[HF_BLOOM, "<bytes>"])]);

static VIKING: Pre = Pre::new(&["viking"], &[Pattern(BLOOM), Pattern(DIGIT)])
    .signs(&[Sign::new("viking", &[]), Sign::new("viking", &[HF_BLOOM, "<digits>", "<bytes>"])]);

static TEKKEN: Pre =
    Pre::new(&["tekken"], &[Pattern(cased_words!(r"[\p{L}--[a-z]]", r"[\p{L}--[A-Z]]", "", r"\p{N}"))])
        .ignore_merges()
        .add_bos(AddBos::Yes)
        .signs(&[Sign::new("tekken", &[hf_cased_words!("", r"\p{N}"), "<bytes>"])]);

const CHAMELEON_SPACES: &str = r"([\t\n]|    |  )";
const CHAMELEON_IMAGES: &str = "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z";
static CHAMELEON: Pre = Pre::new(
    &["chameleon"],
    &[
        Pattern("<sentinel:[0-9]+>"),
        Pattern(CHAMELEON_IMAGES),
        Pattern(CHAMELEON_SPACES),
        Pattern(DIGIT),
        Pattern(r"[\p{P}!-/:-@\[-`{-~]"),
        Pattern(GPT2),
    ],
)
.add_bos(AddBos::Yes)
.signs(&[Sign::new(
    "chameleon",
    &["<sentinel:[0-9]+>", CHAMELEON_IMAGES, CHAMELEON_SPACES, "<digits>", "<punctuation>", "<gpt-2>"],
)]);

/// o200k.
const HF_GPT_4O: &str = hf_cased_words!(concat!(any_case!(), "?"), r"\p{N}{1,3}");
static GPT_4O: Pre = Pre::new(
    &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
    &[Pattern(cased_words!(r"[\p{L}--[a-z]]", r"[\p{L}--[A-Z]]", concat!(contractions!(), "?"), r"\p{N}{1,3}"))],
)
.signs(&[
    Sign::new("gpt-4o", &[HF_GPT_4O, "<bytes>"]),
    Sign::new("llama4", &[HF_GPT_4O, "<bytes>"]).tokens(&["<|header_start|>"]),
    Sign::new("minimax-m2", &[HF_GPT_4O, "<bytes>"]).tokens(&["[e~["]),
]);

/// Shares its structure with `gpt-4o`; only its name tells it.
static GRANITE_MULTI: Pre = Pre::new(
    &["granite-embed-multi-97m"],
    &[Pattern(cased_words!(
        r"[\p{L}\p{M}--[a-z]]",
        r"[\p{L}\p{M}--[A-Z]]",
        concat!(contractions!(), "?"),
        r"\p{N}{1,3}"
    ))],
)
.ignore_merges();

static TINY_AYA: Pre = Pre::new(
    &["tiny_aya", "cohere2moe"],
    &[
        DigitGroups,
        Pattern(cased_words!(r"[\p{L}\p{M}]", r"[\p{L}\p{M}]", concat!(contractions!(), "?"), r"\p{N}{1,3}")),
    ],
)
.signs(&[Sign::new("tiny_aya", &[r"\d{1,3}(?=(?:\d{3})*\b)", HF_GPT_4O, "<bytes>"])]);

/// Han characters by block.
macro_rules! han {
    () => {
        "\u{4e00}-\u{9fff}\u{3400}-\u{4dbf}\u{20000}-\u{2a6df}\u{2a700}-\u{2b73f}\u{2b740}-\u{2b81f}\
         \u{2b820}-\u{2ceaf}\u{2ceb0}-\u{2ebef}\u{f900}-\u{faff}\u{2f800}-\u{2fa1f}"
    };
}

/// Its own files are tiktoken's, which no structure describes.
static KIMI_K2: Pre = Pre::new(
    &["kimi-k2"],
    &[Pattern(concat!(
        "[",
        han!(),
        r"]+|[^\r\n\p{L}\p{N}]?[\p{L}--[",
        han!(),
        "]]+",
        contractions!(),
        r"?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*",
        spaces!()
    ))],
)
.merges_optional();

static SUPERBPE: Pre = Pre::new(&["superbpe"], &[Pattern(r"\p{N}+"), Thousands])
    .signs(&[Sign::new("superbpe", &[r"\p{N}+", r"(?=(\d{3})+(?!\d))", "<bytes>"])]);

static BAILINGMOE: Pre = Pre::new(
    &["bailingmoe", "bailingmoe2", "llada-moe"],
    &[Pattern(
        r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    )],
)
.signs(&[Sign::new(
    "bailingmoe",
    &[
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        "<bytes>",
    ],
)]);

static SEED_CODER: Pre = Pre::new(
    &["seed-coder"],
    &[Pattern(concat!(contractions!(), r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+", spaces!()))],
)
.signs(&[Sign::new("seed-coder", &[])]);

static UFAKZEKA: Pre = Pre::new(
    &["ufakzeka"],
    &[Pattern(concat!(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*", spaces!()))],
)
.signs(&[Sign::new("ufakzeka", &[])]);

static AFMOE: Pre = Pre::new(
    &["afmoe"],
    &[
        DigitGroups,
        Pattern(
            "[\u{4e00}-\u{9fff}\u{3400}-\u{4dbf}\u{8c48}-\u{faff}\u{3040}-\u{309f}\u{30a0}-\u{30ff}\u{ff65}-\u{ff9f}\
             \u{2f00}-\u{2fdf}\u{e40}-\u{e7f}\u{e80}-\u{eff}\u{1780}-\u{17ff}\u{1000}-\u{109f}\u{aa60}-\u{aa7f}\
             \u{a9e0}-\u{a9ff}\u{ac00}-\u{d7af}\u{1100}-\u{11ff}]+",
        ),
        Pattern(DEEPSEEK3),
    ],
);

static LAGUNA: Pre = Pre::new(&["laguna"], &[Pattern(LINES), Pattern(QWEN2)])
    .signs(&[Sign::new("laguna", &["<with what follows: (?:\\r?\\n)+(?!\\r?\\n)>", HF_QWEN2, "<bytes>"])]);

static EXAONE_MOE: Pre = Pre::new(
    &["exaone-moe"],
    &[Pattern(concat!(
        contractions!(),
        r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
    ))],
)
.signs(&[Sign::new("exaone-moe", &[])]);

static GEMMA4: Pre = Pre::new(&["gemma4", "granite-embed-multi-311m"], &[Pattern(LINES)])
    .add_bos(AddBos::Always)
    .utf8()
    .escape_spaces()
    .newline_tokens();

static SARVAM: Pre = Pre::new(&["sarvam-moe"], &[Pattern(LINES)]).utf8().escape_spaces();
