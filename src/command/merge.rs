//! `qconv merge`

use super::Run;
use crate::convert::{self, Extent};
use crate::error::caller;
use crate::ui::{self, Ui};
use crate::{outln, output, report};
use anyhow::Result;
use qconv_formats::gguf::{Gguf, split};
use std::path::PathBuf;

/// Arguments of `qconv merge`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  qconv merge model-00001-of-00004.gguf -o model.gguf

The parts are found by their names, beside the first. The file is what it was before `qconv split`, byte for byte.
JSON: files, bytes, tensors.")]
pub struct Merge {
    /// The first part: NAME-00001-of-0000N.gguf
    first: PathBuf,

    /// The whole file, or a folder for it
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,

    /// Replace an existing file
    #[arg(short, long)]
    force: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Run for Merge {
    fn run(self, ui: &Ui) -> Result<()> {
        let source = Gguf::open(&self.first)?;
        let name = self.first.file_name().and_then(|n| n.to_str()).unwrap_or("model.gguf");
        if source.metadata().get(split::COUNT).is_none() {
            return Err(caller(format!("{}: is no part of a split model", self.first.display())));
        }
        let whole = split::prefix(name, 0, source.files().len()).map(|prefix| format!("{prefix}.gguf"));
        let path = output::or_in_folder(&self.output, whole.as_deref().unwrap_or(name));
        let done = convert::copy(&source, Extent::Whole, &path, self.force, ui)?;
        if self.json {
            return report::print_json(&serde_json::to_value(&done)?);
        }
        outln!("{}: {} of {} parts", path.display(), ui::bytes(done.bytes), source.files().len());
        Ok(())
    }
}
