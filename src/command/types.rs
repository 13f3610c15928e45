//! `qconv types`

use super::Run;
use crate::outln;
use crate::recipe;
use crate::report::{self, Table};
use crate::ui::Ui;
use qconv_formats::block::{self, Importance};

/// Arguments of `qconv types`.
#[derive(clap::Args)]
pub struct Types {
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

impl Run for Types {
    fn run(self, _ui: &Ui) -> anyhow::Result<()> {
        if self.json {
            let mixes =
                recipe::ALL.iter().map(|m| serde_json::json!({"name": m.name, "default": m.default, "help": m.help}));
            let formats = block::ALL.iter().map(|f| {
                serde_json::json!({
                    "name": f.name, "ggml_id": f.ggml_id, "block_weights": f.block_weights, "block_bytes": f.block_bytes,
                    "bits_per_weight": f.bits_per_weight(), "quantizable": f.quantize.is_some(),
                })
            });
            return report::print_json(&serde_json::json!({
                "types": mixes.collect::<Vec<_>>(), "formats": formats.collect::<Vec<_>>(),
            }));
        }
        outln!("Types of files (--type), as llama.cpp names them:\n");
        let mut table = Table::new(&["type", "mostly", "what it is"]);
        for mix in recipe::ALL {
            table.row([mix.name, mix.default, mix.help]);
        }
        table.print();
        outln!(
            "\nBlock formats of tensors (--tensor-type REGEX=FORMAT, --output-tensor-type, --token-embedding-type):\n"
        );
        let mut table = Table::new(&["format", "bits/weight", "block", "importance", "relative error"]);
        for f in block::ALL.iter().filter(|f| f.quantize.is_some()) {
            let importance = match f.importance {
                Importance::Unused => "not used",
                Importance::Used => "used",
                Importance::Required => "needed",
            };
            table.row([
                f.name.to_owned(),
                format!("{:.4}", f.bits_per_weight()),
                format!("{} weights in {} bytes", f.block_weights, f.block_bytes),
                importance.to_owned(),
                format!("{:.2e}", f.expected_error),
            ]);
        }
        table.print();
        outln!("\nThe relative error is the RMS error of normally distributed weights, divided by their RMS.");
        Ok(())
    }
}
