//! `qconv split`

use super::Run;
use super::splitting::Splitting;
use crate::convert::{self, Extent};
use crate::error::caller;
use crate::ui::{self, Ui};
use crate::{outln, output, report};
use anyhow::Result;
use qconv_formats::gguf::Gguf;
use std::path::PathBuf;

/// Arguments of `qconv split`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  qconv split model-Q4_K_M.gguf --split-max-size 2G         # -> model-Q4_K_M-00001-of-00003.gguf, ...
  qconv split model-Q4_K_M.gguf --split-parts 4 -o parts/
  qconv merge parts/model-Q4_K_M-00001-of-00004.gguf -o model-Q4_K_M.gguf

The files are those of llama.cpp's gguf-split, byte for byte where its options are used. The first file has all metadata; every
command of qconv, and llama.cpp, takes it for the whole model. The first file appears last: if it is there, all are.
JSON: files, bytes, tensors.")]
pub struct Split {
    /// The GGUF file
    file: PathBuf,

    /// What the files are called, or a folder for them [default: the file's name, in the current folder]
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,

    #[command(flatten)]
    splitting: Splitting,

    /// Replace existing files
    #[arg(short, long)]
    force: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Run for Split {
    fn run(self, ui: &Ui) -> Result<()> {
        let split = self.splitting.split().ok_or_else(|| {
            caller("where to split: --split-max-size SIZE, --split-max-tensors N or --split-parts N is needed")
        })?;
        let source = Gguf::open(&self.file)?;
        let name = self.file.file_name().unwrap_or_default();
        let path = output::or_in_folder(&self.output.unwrap_or_else(|| "./".into()), name);
        let done = convert::copy(&source, Extent::Split(split), &path, self.force, ui)?;
        if self.json {
            return report::print_json(&serde_json::to_value(&done)?);
        }
        for file in &done.files {
            outln!("{}", file.display());
        }
        ui.note(format!("  {} tensors, {}", done.tensors, ui::bytes(done.bytes)));
        Ok(())
    }
}
