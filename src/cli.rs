//! The command line as a whole.

use crate::command::{Command, Run};
use crate::error;
use crate::ui::{Ui, tell};
use clap::{CommandFactory, FromArgMatches, Parser};
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
    let mut command = reflowed(Cli::command());
    let matches = command.get_matches_mut();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|e| e.format(&mut command).exit());
    let ui = Ui::new(cli.quiet, cli.strict);
    match cli.command.run(&ui) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tell(format!("{}error: {e:#}\n", ui.prefix()));
            ExitCode::from(error::exit_code(&e))
        }
    }
}

/// The commands' closing texts as paragraphs, which clap then breaks where the terminal ends. In the sources they have lines of
/// their own, which would be broken a second time.
fn reflowed(command: clap::Command) -> clap::Command {
    command.mut_subcommands(|sub| match sub.get_after_help().map(ToString::to_string) {
        Some(text) => sub.after_help(paragraphs(&text)),
        None => sub,
    })
}

/// Joins lines, but for those that are indented (examples) and those behind the short last line of a paragraph.
fn paragraphs(text: &str) -> String {
    const SHORT: usize = 100;
    let mut out = String::with_capacity(text.len());
    let mut previous = "";
    for line in text.lines() {
        let verbatim = |line: &str| line.is_empty() || line.starts_with(' ');
        let ends = previous.len() < SHORT && previous.ends_with(['.', ':']);
        if !out.is_empty() {
            out.push(if verbatim(line) || verbatim(previous) || ends { '\n' } else { ' ' });
        }
        out += line;
        previous = line;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        reflowed(Cli::command()).debug_assert();
    }

    #[test]
    fn paragraphs_are_joined_and_examples_are_not() {
        let long = "word ".repeat(22);
        let text = format!("Examples:\n  a b\n  c\n\n{long}\nand on.\nNext: {long}\nend.");
        assert_eq!(paragraphs(&text), format!("Examples:\n  a b\n  c\n\n{long} and on.\nNext: {long} end."));
    }

    /// No line of prose is left that a terminal of any width would break twice.
    #[test]
    fn closing_texts_have_no_short_lines_within_a_sentence() {
        for sub in reflowed(Cli::command()).get_subcommands() {
            let text = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with(' ')) {
                assert!(line.ends_with(['.', ':', ')']) || line.starts_with("Example"), "{}: {line}", sub.get_name());
            }
        }
    }
}
