//! The commands: one file each, one line each in the list below.

use crate::ui::Ui;

/// What every command is: arguments (clap) that can be run.
pub trait Run {
    /// Does the work; results go to standard output.
    fn run(self, ui: &Ui) -> anyhow::Result<()>;
}

mod splitting;

macro_rules! commands {
    ($($(#[doc = $doc:literal])* $module:ident :: $name:ident),* $(,)?) => {
        $( pub mod $module; )*

        /// Every command.
        #[derive(clap::Subcommand)]
        #[allow(clippy::large_enum_variant)] // parsed once
        pub enum Command {
            $( $(#[doc = $doc])* $name($module::$name), )*
        }

        impl Run for Command {
            fn run(self, ui: &Ui) -> anyhow::Result<()> {
                match self {
                    $( Command::$name(args) => args.run(ui), )*
                }
            }
        }
    };
}

commands! {
    /// Convert a Hugging Face folder (or a GGUF file) to a quantized GGUF file
    convert::Convert,
    /// Collect an importance matrix: run a text through a model and sum up what each weight sees
    calibrate::Calibrate,
    /// Show the statistics of importance matrices, add them up, change their form
    imatrix::Imatrix,
    /// Split a GGUF file into several
    split::Split,
    /// Put the parts of a split GGUF file together again
    merge::Merge,
    /// Check that a GGUF file is sound, and what its source says
    verify::Verify,
    /// Print the SHA-256 of files, of tensors, or of what a file was made from
    hash::Hash,
    /// Show what is in a GGUF file, a safetensors file or a Hugging Face folder
    inspect::Inspect,
    /// Generate text, hold a conversation, or write raw logits
    run::Run,
    /// Measure perplexity, and with --against the divergence from an original
    perplexity::Perplexity,
    /// Measure the speed of prompt evaluation and generation
    bench::Bench,
    /// Convert to several types, verify, run and measure each, and print one table
    compare::Compare,
    /// Show the tokens of a text
    tokenize::Tokenize,
    /// List the types that files and tensors can have
    types::Types,
    /// Print a shell completion script
    completions::Completions,
}
