//! The command line as a whole.

use crate::command::{Command, Run};
use crate::{error, ui::Ui};
use clap::Parser;
use std::process::ExitCode;

/// qconv turns Hugging Face safetensors checkpoints into quantized GGUF files, proves that they are right, and runs them.
#[derive(Parser)]
#[command(name = "qconv", version, max_term_width = 120, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Only results and warnings
    #[arg(short, long, global = true)]
    quiet: bool,

    /// Refuse whatever would only be warned about (fallbacks, unknown tensors, ...)
    #[arg(long, global = true)]
    strict: bool,
}

/// Parses the arguments, runs the command, reports the error. Exit codes: 0, 1 (a file's or the system's fault), 2 (the caller's).
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let ui = Ui::new(cli.quiet, cli.strict);
    match cli.command.run(&ui) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{}error: {e:#}", ui.prefix());
            ExitCode::from(error::exit_code(&e))
        }
    }
}
