//! `qconv completions bash|zsh|fish|...`

use super::Run;
use crate::ui::Ui;
use clap::CommandFactory;

/// Arguments of `qconv completions`.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  qconv completions bash > ~/.local/share/bash-completion/completions/qconv")]
pub struct Completions {
    /// The shell
    shell: clap_complete::Shell,
}

impl Run for Completions {
    fn run(self, _ui: &Ui) -> anyhow::Result<()> {
        clap_complete::generate(self.shell, &mut crate::cli::Cli::command(), "qconv", &mut std::io::stdout());
        Ok(())
    }
}
