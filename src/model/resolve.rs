//! A family's rules ([`crate::arch`]) against a checkpoint: which stored tensors become which of GGUF's.

use super::part::{Change, Part};
use super::{Model, ModelTensor, Origin, Source};
use crate::arch::{Architecture, Config, Fix, Required};
use crate::error::malformed;
use anyhow::Result;
use qconv_formats::block;
use qconv_formats::checkpoint::Checkpoint;
use qconv_formats::gguf::Metadata;
use qconv_formats::packed::Packed;
use qconv_formats::{Shape, vocab};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The output matrix, where it is not the embeddings.
const OUTPUT: &str = "output.weight";

/// Stands before the language model's names in older checkpoints of models that also see.
const WRAPPED: &str = "language_model.";

/// Resolves a family's rules against a checkpoint.
pub(super) fn from_checkpoint(checkpoint: Checkpoint, warnings: &mut Vec<String>) -> Result<Model> {
    let mut config = Config::new(&checkpoint);
    let class = config.class()?.to_owned();
    let arch = Architecture::by_hf_class(&class).ok_or_else(|| {
        let known: Vec<&str> = crate::arch::ALL.iter().flat_map(|a| a.hf_classes).copied().collect();
        config.error("architectures", format!("is {class:?}, which qconv does not know; it knows {}", known.join(", ")))
    })?;
    config.fill(&(arch.defaults)(&class));
    let settings = config.get("quantization_config").or_else(|| config.get("compression_config"));
    let packed = settings.map(|settings| Packed::open(&checkpoint, settings)).transpose()?;
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", arch.name);
    (arch.metadata)(&config, &mut metadata)?;

    let mut resolver = Resolver {
        arch,
        config: &config,
        checkpoint: &checkpoint,
        packed: packed.as_ref(),
        used: BTreeSet::new(),
        tensors: Vec::new(),
    };
    resolver.resolve(&metadata, warnings)?;
    let quantized = resolver.tensors.iter().filter(|t| t.is_packed()).count();
    if let Some(packed) = packed.as_ref().filter(|_| quantized > 0) {
        warnings.push(format!(
            "the checkpoint is already quantized ({}): {quantized} tensors are decoded to F32 first, and what that lost stays lost",
            packed.describe()
        ));
    }
    let mut tensors = resolver.tensors;
    for (name, values) in (arch.computed)(&config)? {
        let shape = Shape::new(&[values.len()])
            .map_err(|what| malformed(checkpoint.folder(), format!("tensor {name}"), what))?;
        tensors.push(ModelTensor {
            name,
            shape,
            format: &block::F32,
            source_bytes: 0,
            source: Arc::new(Source::Computed(values)),
            edits: Default::default(),
        });
    }
    let embeddings = tensors.iter().find(|t| t.name == "token_embd.weight").map_or(0, |t| t.shape.rows());
    let tokenizer_problem = match vocab::from_checkpoint(&checkpoint, embeddings, warnings) {
        Ok(tokenizer) => {
            tokenizer.iter().for_each(|(k, v)| metadata.set(k, v.clone()));
            None
        }
        Err(e) => Some(e.to_string()),
    };
    let path = checkpoint.folder().to_owned();
    Ok(Model {
        path,
        origin: Origin::Checkpoint(checkpoint),
        architecture: Some(arch),
        metadata,
        tensors,
        tokenizer_problem,
    })
}

/// Finds the stored tensors that a family's rules name.
struct Resolver<'a> {
    arch: &'static Architecture,
    config: &'a Config,
    checkpoint: &'a Checkpoint,
    packed: Option<&'a Packed>,
    used: BTreeSet<String>,
    tensors: Vec<ModelTensor>,
}

impl Resolver<'_> {
    fn resolve(&mut self, metadata: &Metadata, warnings: &mut Vec<String>) -> Result<()> {
        let number = |key: &str| metadata.u64(&format!("{}.{key}", self.arch.name)).map(|n| n as usize);
        let layers = self.config.layers()?;
        let heads = number("attention.head_count").unwrap_or(1);
        let kv_heads = number("attention.head_count_kv").unwrap_or(heads);
        let experts = number("expert_count");
        for rule in self.arch.tensors {
            let blocks = if rule.gguf.contains("{i}") { layers } else { 1 };
            for i in 0..blocks {
                let hf = rule.hf.replace("{i}", &i.to_string());
                let parts = self.find(&hf, experts)?;
                let required = match rule.required {
                    Required::Yes => true,
                    Required::UnlessExperts => experts.is_none(),
                    Required::No => false,
                };
                if parts.is_empty() && required {
                    return Err(malformed(
                        self.checkpoint.folder(),
                        format!("tensor {hf}"),
                        "is missing from the checkpoint",
                    ));
                }
                if parts.is_empty() || (rule.gguf == OUTPUT && self.is_tied(&parts[0], warnings)?) {
                    continue;
                }
                let change = match rule.fix {
                    Fix::None => Change::None,
                    Fix::RopeQuery => Change::RopeHeads(heads),
                    Fix::RopeKey => Change::RopeHeads(kv_heads),
                    // Libraries that quantize a Conv1D store it as a linear layer.
                    Fix::Transpose if matches!(parts[0], Part::Packed(_)) => Change::None,
                    Fix::Transpose => Change::Transpose,
                    Fix::AddOne => Change::AddOne,
                    Fix::FirstHalf => Change::Half(0),
                    Fix::SecondHalf => Change::Half(1),
                };
                self.push(rule.gguf.replace("{i}", &i.to_string()), parts, change)?;
            }
        }
        if self.config.get("tie_word_embeddings").and_then(|v| v.as_bool()) == Some(false)
            && self.arch.tensors.iter().any(|r| r.gguf == OUTPUT)
            && !self.tensors.iter().any(|t| t.name == OUTPUT)
        {
            return Err(malformed(
                self.checkpoint.folder(),
                "tensor lm_head.weight",
                "is missing, and config.json says that it is not tied to the embeddings (tie_word_embeddings is false)",
            ));
        }
        self.report_unused(warnings)
    }

    /// The stored tensor of a name under any of the family's prefixes, or all experts of a pattern with `{e}`.
    fn find(&mut self, hf: &str, experts: Option<usize>) -> Result<Vec<Part>> {
        if !hf.contains("{e}") {
            return Ok(self.find_one(hf)?.into_iter().collect());
        }
        let count = experts.unwrap_or(0);
        let parts = (0..count).map_while(|e| self.find_one(&hf.replace("{e}", &e.to_string())).transpose());
        let parts = parts.collect::<Result<Vec<Part>>>()?;
        if !parts.is_empty() && parts.len() != count {
            let missing = hf.replace("{e}", &parts.len().to_string());
            return Err(malformed(
                self.checkpoint.folder(),
                format!("tensor {missing}"),
                "is missing from the checkpoint",
            ));
        }
        Ok(parts)
    }

    fn find_one(&mut self, hf: &str) -> Result<Option<Part>> {
        let names: Vec<String> = match hf.strip_prefix(self.arch.prefixes[0]) {
            Some(rest) => self.arch.prefixes.iter().map(|p| format!("{p}{rest}")).collect(),
            None => vec![hf.to_owned(), format!("{WRAPPED}{hf}")],
        };
        for name in names {
            if let Some(matrix) = self.packed.map(|p| p.find(self.checkpoint, &name)).transpose()?.flatten() {
                self.used.extend(matrix.fields().iter().map(|f| f.name().to_owned()));
                return Ok(Some(Part::Packed(matrix)));
            }
            if let Some((file, tensor)) = self.checkpoint.tensor(&name) {
                self.used.insert(name);
                return Part::plain(file.map().clone(), tensor.clone()).map(Some);
            }
        }
        Ok(None)
    }

    /// Whether a stored output matrix is only the embeddings again: transformers ties them and ignores the file's.
    fn is_tied(&self, output: &Part, warnings: &mut Vec<String>) -> Result<bool> {
        let tie = self.config.get("tie_word_embeddings").and_then(|v| v.as_bool());
        if tie == Some(false) {
            return Ok(false);
        }
        let table = self.tensors.iter().find(|t| t.name == "token_embd.weight");
        let Some(Source::Stored { parts, .. }) = table.map(|t| &*t.source) else { return Ok(false) };
        let same = output.is_same(&parts[0]);
        if tie == Some(true) && !same {
            warnings.push(
                "lm_head.weight differs from the embeddings although config.json ties them; it is left out, as transformers does".into(),
            );
        }
        Ok(same || tie == Some(true))
    }

    fn push(&mut self, name: String, parts: Vec<Part>, change: Change) -> Result<()> {
        let fail = |problem: String| malformed(parts[0].path(), format!("tensor {}", parts[0].name()), problem);
        if self.tensors.iter().any(|t| t.name == name) {
            return Err(fail(format!("and another tensor both become {name}")));
        }
        let (format, stored) = (parts[0].format(), parts[0].shape().clone());
        if let Some(odd) = parts.iter().find(|p| *p.shape() != stored || p.format() != format) {
            let what = format!("is {} of {}, unlike the first expert", odd.shape(), odd.format().name);
            return Err(malformed(odd.path(), format!("tensor {}", odd.name()), what));
        }
        let mut dims = stored.dims().to_vec();
        let n = dims.len();
        match change {
            Change::Transpose if n == 2 => dims.swap(0, 1),
            Change::Transpose => return Err(fail(format!("has the shape {stored} where a matrix is expected"))),
            Change::Half(_) if n >= 2 && dims[n - 2].is_multiple_of(2) => dims[n - 2] /= 2,
            Change::Half(_) => return Err(fail(format!("has the shape {stored}, which has no two halves"))),
            Change::RopeHeads(heads) if !dims[0].is_multiple_of(2 * heads) || n > 2 => {
                return Err(fail(format!("has the shape {stored}, which is not {heads} heads of an even width")));
            }
            _ => {}
        }
        if parts.len() > 1 {
            dims.insert(0, parts.len());
        }
        let shape = Shape::new(&dims).map_err(&fail)?;
        let always_f32 = dims.len() == 1
            || name.ends_with("_norm.weight")
            || name.ends_with(".ffn_gate_inp.weight")
            || name == "position_embd.weight"
            || !name.ends_with(".weight");
        let source_bytes = parts.iter().map(Part::bytes).sum();
        let format = if always_f32 { &block::F32 } else { format };
        let source = Arc::new(Source::Stored { parts, change });
        self.tensors.push(ModelTensor { name, shape, format, source_bytes, source, edits: Default::default() });
        Ok(())
    }

    /// A tensor that belongs to one of the model's own blocks, or stands beside its output's weights.
    fn is_inner(&self, name: &str) -> bool {
        let layers = self.config.layers().unwrap_or(0);
        let output = self.arch.tensors.iter().filter(|rule| rule.gguf == OUTPUT);
        let mut output = output.filter_map(|rule| rule.hf.strip_suffix("weight"));
        let heads = self.arch.tensors.iter().filter_map(|rule| Some(rule.hf.split_once("{i}")?.0));
        let inner = |head: &str| {
            let rest = head.strip_prefix(self.arch.prefixes[0]).unwrap_or(head);
            let index =
                self.arch.prefixes.iter().find_map(|p| name.strip_prefix(p)?.strip_prefix(rest)?.split('.').next());
            index.and_then(|i| i.parse::<usize>().ok()).is_some_and(|i| i < layers)
        };
        let outer = name.strip_prefix(WRAPPED).unwrap_or(name);
        output.any(|stem| outer.starts_with(stem)) || heads.into_iter().any(inner)
    }

    /// Tensors that no rule names: a warning, since a model for images or speech has such beside the language model. In a block
    /// they would have changed what the model computes: an error, unless all their numbers are 0 (biases that some libraries
    /// store for every layer).
    fn report_unused(&self, warnings: &mut Vec<String>) -> Result<()> {
        let unused: Vec<&str> = self
            .checkpoint
            .names()
            .filter(|n| !self.used.contains(*n) && !self.arch.ignore.iter().any(|end| n.ends_with(end)))
            .collect();
        // Libraries that quantize store scales of activations and caches beside the weights.
        let foreign = unused.iter().copied().filter(|name| self.packed.is_none() && self.is_inner(name));
        for name in foreign {
            let Some((file, tensor)) = self.checkpoint.tensor(name) else { continue };
            if file.bytes(tensor).iter().any(|&byte| byte != 0) {
                let what = format!(
                    "is part of the model, but unknown to the family {} as qconv knows it: without it the model would compute something else",
                    self.arch.name
                );
                return Err(malformed(file.map().path(), format!("tensor {name}"), what));
            }
        }
        if !unused.is_empty() {
            const SHOWN: usize = 4;
            let more = if unused.len() > SHOWN { ", ..." } else { "" };
            let list = unused[..unused.len().min(SHOWN)].join(", ");
            let plural = if unused.len() == 1 { "tensor is" } else { "tensors are" };
            warnings.push(format!(
                "{} {plural} unknown to the family {} and left out: {list}{more}",
                unused.len(),
                self.arch.name
            ));
        }
        Ok(())
    }
}
