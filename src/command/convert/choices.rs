//! What the new file is to be: everything on which its bytes depend but the source.

use super::naming::Naming;
use crate::convert::ImportanceArgs;
use crate::convert::{Edits, Layers, Setting};
use crate::error::caller;
use crate::method::{self, Methods};
use crate::recipe::{self, Mix, Options, Override};
use anyhow::Result;
use qconv_formats::Error;
use qconv_formats::block::BlockFormat;
use std::path::PathBuf;

/// Rule files beyond this size are a mistake.
const MOST: u64 = 1 << 20;

/// Options that decide about bytes.
#[derive(clap::Args, Clone)]
pub struct Choices {
    /// Type of the new file: q4_k_m, q8_0, iq4_xs, bf16, ... (see `qconv types`)
    #[arg(short = 't', long = "type", value_name = "TYPE", value_parser = parse_mix)]
    pub mix: Option<&'static Mix>,

    /// How weights are quantized: transforms and then a quantizer, with + between them
    #[arg(long, value_name = "M[+M...]", default_value = "rtn", value_parser = Methods::parse, long_help = methods_help())]
    pub method: Methods,

    /// One block format for all matrices, without the mix's exceptions
    #[arg(long)]
    pub pure: bool,

    /// Format of tensors whose name matches: 'REGEX=FORMAT' (repeatable, the first match counts)
    #[arg(long, value_name = "REGEX=FORMAT", value_parser = Override::parse)]
    pub tensor_type: Vec<Override>,

    /// A file of REGEX=FORMAT, one a line or between spaces; # begins a comment (they count behind --tensor-type)
    #[arg(long, value_name = "FILE")]
    pub tensor_type_file: Vec<PathBuf>,

    /// Format of output.weight, and of embeddings that serve as output
    #[arg(long, value_name = "FORMAT", value_parser = parse_format)]
    pub output_tensor_type: Option<&'static BlockFormat>,

    /// Format of token_embd.weight
    #[arg(long, value_name = "FORMAT", value_parser = parse_format)]
    pub token_embedding_type: Option<&'static BlockFormat>,

    /// Leave output.weight as it is stored
    #[arg(long)]
    pub leave_output_tensor: bool,

    /// Leave layers out, such as 3,5-7 (from 0); those behind them move up
    #[arg(long, value_name = "LAYERS")]
    pub prune_layers: Option<Layers>,

    /// The importance matrix.
    #[command(flatten)]
    pub importance: ImportanceArgs,

    /// Quantize tensors that are already quantized (loses quality)
    #[arg(long)]
    pub allow_requantize: bool,

    /// Keys that are set without being an option.
    #[arg(skip)]
    pub also_set: Vec<Setting>,

    /// Names, authors, other keys.
    #[command(flatten)]
    pub naming: Naming,
}

impl Choices {
    /// What the caller wants otherwise than the mix.
    pub fn options(&self) -> Result<Options> {
        let mut overrides = self.tensor_type.clone();
        for path in &self.tensor_type_file {
            let size = std::fs::metadata(path).map_err(Error::io(path))?.len();
            if size > MOST {
                return Err(caller(format!("--tensor-type-file {}: has {size} bytes", path.display())));
            }
            let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
            for (i, line) in text.lines().enumerate() {
                let rules = line.split_whitespace().take_while(|word| !word.starts_with('#'));
                for rule in rules {
                    let place = || format!("--tensor-type-file {}, line {}", path.display(), i + 1);
                    overrides.push(Override::parse(rule).map_err(|e| e.context(place()))?);
                }
            }
        }
        Ok(Options {
            pure: self.pure,
            output_tensor: self.output_tensor_type,
            token_embedding: self.token_embedding_type,
            leave_output: self.leave_output_tensor,
            has_imatrix: false,
            overrides,
        })
    }

    /// What is changed in the model.
    pub fn edits(&self, folder: Option<String>) -> Edits {
        let prune = self.prune_layers.clone().unwrap_or_default();
        let mut settings = self.naming.settings();
        settings.extend(self.also_set.iter().cloned());
        Edits { settings, prune, folder }
    }

    /// Files that these choices are read from.
    pub fn files(&self) -> Vec<PathBuf> {
        let own = self.tensor_type_file.iter().chain(self.importance.data()).cloned();
        own.chain(self.naming.file()).collect()
    }

    /// The type, which is no option.
    pub fn mix(&self) -> Result<&'static Mix> {
        self.mix.ok_or_else(|| caller("--type TYPE is needed, such as --type q4_k_m (see `qconv types`)"))
    }

    /// These choices as arguments that give them again, without a look at other files but the importance matrix.
    pub fn recipe(&self) -> Result<Vec<String>> {
        let mut args = Vec::new();
        let mut option = |flag: &str, value: String| args.extend([flag.to_owned(), value]);
        self.mix.iter().for_each(|mix| option("--type", mix.name.to_owned()));
        option("--method", self.method.name());
        for rule in self.options()?.overrides {
            option("--tensor-type", format!("{}={}", rule.pattern.as_str(), rule.format.name));
        }
        for (flag, format) in
            [("--output-tensor-type", self.output_tensor_type), ("--token-embedding-type", self.token_embedding_type)]
        {
            format.into_iter().for_each(|f| option(flag, f.name.to_owned()));
        }
        self.prune_layers.iter().for_each(|layers| option("--prune-layers", layers.to_string()));
        args.extend(self.naming.recipe());
        args.extend(self.importance.recipe());
        for (flag, given) in [
            ("--pure", self.pure),
            ("--leave-output-tensor", self.leave_output_tensor),
            ("--allow-requantize", self.allow_requantize),
        ] {
            args.extend(given.then(|| flag.to_owned()));
        }
        Ok(args)
    }
}

/// A type by its name, with a hint where there is none.
pub fn parse_mix(name: &str) -> Result<&'static Mix, String> {
    Mix::by_name(name).ok_or_else(|| {
        let names: Vec<&str> = recipe::ALL.iter().map(|m| m.name).collect();
        format!("there is no type {name}; the types are {}", names.join(", "))
    })
}

/// The list of methods, for help.
fn methods_help() -> String {
    let mut help =
        "How weights are quantized: any number of transforms, then a quantizer, with + between them".to_owned();
    for method in method::ALL {
        let kind = if method.is_transform() { "transform: " } else { "" };
        help += &format!("\n- {}: {kind}{}", method.name, method.help);
        if let Some(setting) = method.setting() {
            let (name, setting, what, default) = (method.name, setting.name, setting.help, setting.default);
            help += &format!("; {name}:{setting}=... sets {what} [default: {default}]");
        }
    }
    help
}

/// A block format by name.
pub fn parse_format(name: &str) -> Result<&'static BlockFormat, String> {
    BlockFormat::by_name(name).ok_or_else(|| format!("there is no block format {name}"))
}
