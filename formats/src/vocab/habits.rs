//! What llama.cpp's converter does for some model classes beyond what their files say.

use super::files::Files;
use crate::gguf::Metadata;

/// A habit and the classes (`architectures` of `config.json`) that have it.
struct Habit {
    classes: &'static [&'static str],
    apply: fn(&Files, usize, &mut Metadata),
}

/// Every habit.
const ALL: &[Habit] = &[
    Habit {
        classes: &["LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM", "MixtralForCausalLM", "LlamaModel"],
        apply: llama,
    },
    Habit {
        classes: &[
            "GemmaForCausalLM",
            "Gemma2ForCausalLM",
            "Gemma3ForCausalLM",
            "Gemma3ForConditionalGeneration",
            "Gemma3TextModel",
        ],
        apply: gemma,
    },
];

/// Applies the habits of the folder's class, after everything else is written.
pub fn apply(files: &Files, vocab_size: usize, out: &mut Metadata) {
    let class = files.config["architectures"][0].as_str().unwrap_or_default();
    ALL.iter().filter(|h| h.classes.contains(&class)).for_each(|h| (h.apply)(files, vocab_size, out));
}

/// The configured space prefix comes first, whatever the tokenizer; two vocabularies are known by their size.
fn llama(files: &Files, vocab_size: usize, out: &mut Metadata) {
    if let Some(prefix) = files.tokenizer_config["add_prefix_space"].as_bool() {
        let mut first = Metadata::new();
        first.set("tokenizer.ggml.add_space_prefix", prefix);
        out.remove("tokenizer.ggml.add_space_prefix");
        out.iter().for_each(|(key, value)| first.set(key, value.clone()));
        *out = first;
    }
    match vocab_size {
        32_016 => out.set("tokenizer.ggml.eot_token_id", 32_010u32), // CodeLlama
        49_152 => out.set("tokenizer.ggml.add_bos_token", false),    // Granite, SmolLM
        _ => {}
    }
}

/// No space goes before texts.
fn gemma(_: &Files, _: usize, out: &mut Metadata) {
    if out.str("tokenizer.ggml.model") == Some("llama") {
        out.remove("tokenizer.ggml.add_space_prefix");
        out.set("tokenizer.ggml.add_space_prefix", false);
    }
}
