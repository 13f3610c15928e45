//! The one place where a backend is chosen.

use crate::error::caller;
use crate::ui::{self, Ui};
use qconv_kernels::cpu::{self, Activations, Kv, Weights};
use qconv_kernels::{Backend, cuda};

/// `--backend`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Choice {
    /// An NVIDIA card if there is one that can do it, else the processor
    #[default]
    Auto,
    /// This machine's processor
    Cpu,
    /// An NVIDIA card
    Cuda,
}

/// `--kv`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum CacheFormat {
    /// Half precision
    F16,
    /// 8 bits, and a scale for 32 neighbours: half the memory
    #[value(name = "q8_0")]
    Q8,
    /// Single precision
    F32,
}

/// `--weights`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum WeightMemory {
    /// The mapped file: no load time, memory that other processes share
    Mapped,
    /// A copy in huge pages: as much memory again and some load time, for faster generation
    Copied,
    /// A copy if measuring shows that it is read faster and there is memory enough
    Auto,
}

/// Arguments of every command that computes.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct BackendArgs {
    /// Where to compute
    #[arg(long, value_enum, default_value_t, help_heading = "Computing")]
    pub backend: Choice,

    /// Threads; by default one per physical core
    #[arg(short = 't', long, value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "Computing")]
    pub threads: Option<u16>,

    /// Precision of the key-value cache; f16 by default, as in llama.cpp
    #[arg(long, value_enum, value_name = "TYPE", help_heading = "Computing")]
    pub kv: Option<CacheFormat>,

    /// Where the processor reads weights from; mapped by default
    #[arg(long, value_enum, value_name = "WHERE", help_heading = "Computing")]
    pub weights: Option<WeightMemory>,

    /// Never round activations: by default to 8 bits for products with quantized weights, and to BF16 for prompts and
    /// BF16 weights where the CPU multiplies such; slower
    #[arg(long, help_heading = "Computing")]
    pub exact: bool,

    /// How activations are rounded before they are multiplied; --exact is the same as exact
    #[arg(long, value_enum, value_name = "HOW", conflicts_with = "exact", help_heading = "Computing")]
    pub activations: Option<Rounding>,
}

/// `--activations`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Rounding {
    /// To 8 bits, one scale for 32 neighbours, with quantized weights (the default)
    Int8Block,
    /// To 8 bits, one scale for a token, with all weights: simulated, to see what it costs
    Int8Token,
    /// To 8 bits, one scale for all tokens of a batch, with all weights: simulated
    Int8Tensor,
    /// As int8-token, and columns with outliers of 6 and above stay as they are, as in LLM.int8: simulated
    LlmInt8,
    /// Not at all
    Exact,
}

impl BackendArgs {
    /// The same choices as arguments for another qconv process.
    pub fn to_args(self) -> Vec<String> {
        use clap::ValueEnum;
        let name = |v: Option<clap::builder::PossibleValue>| v.map_or(String::new(), |v| v.get_name().to_owned());
        let mut args = vec!["--backend".to_owned(), name(self.backend.to_possible_value())];
        if let Some(n) = self.threads {
            args.extend(["--threads".to_owned(), n.to_string()]);
        }
        if let Some(kv) = self.kv {
            args.extend(["--kv".to_owned(), name(kv.to_possible_value())]);
        }
        if let Some(weights) = self.weights {
            args.extend(["--weights".to_owned(), name(weights.to_possible_value())]);
        }
        if self.exact {
            args.push("--exact".to_owned());
        }
        if let Some(how) = self.activations {
            args.extend(["--activations".to_owned(), name(how.to_possible_value())]);
        }
        args
    }

    /// With an f32 cache (unless asked otherwise) and f32 activations: for parity checks.
    pub fn precise(self) -> Self {
        BackendArgs { kv: self.kv.or(Some(CacheFormat::F32)), exact: true, activations: None, ..self }
    }
}

/// Work that any backend can do: a closure that is generic over it.
pub trait Task {
    /// What comes out.
    type Output;
    /// Does it.
    fn run<B: Backend>(self, backend: &B) -> anyhow::Result<Self::Output>;
}

/// Makes the chosen backend and gives it the task, whose model has `weight_bytes` of weights (0 if that is not known yet: then
/// a card that turns out to be too small is an error). Errors: the backend cannot be used here (the caller's fault, who may choose
/// another), or the task's own.
pub fn with<T: Task>(args: BackendArgs, weight_bytes: u64, ui: &Ui, task: T) -> anyhow::Result<T::Output> {
    let threads = args.threads.map(usize::from);
    if let Some(n) = threads {
        // Statistics run on rayon's threads. Fails only if the pool is there already, from an earlier task: then it stays.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(n).build_global();
    }
    match args.backend {
        Choice::Cpu => {}
        Choice::Cuda => {
            if let Some(why) = only_on_the_cpu(&args) {
                return Err(caller(why));
            }
            let cuda = open_cuda(weight_bytes).map_err(unusable)?;
            tell_memory(&cuda, weight_bytes, ui);
            return task.run(&cuda);
        }
        // Asked for by an option: no need to tell why.
        Choice::Auto if only_on_the_cpu(&args).is_some() => {}
        Choice::Auto => match open_cuda(weight_bytes) {
            Ok(cuda) => {
                tell_memory(&cuda, weight_bytes, ui);
                return task.run(&cuda);
            }
            Err(why) => {
                ui.note_once(format!("computing on the CPU: {}", why.to_string().replace("; use --backend cpu", "")))
            }
        },
    }
    let options = cpu::Options {
        threads,
        activations: match args.activations {
            _ if args.exact => Activations::Exact,
            Some(Rounding::Exact) => Activations::Exact,
            Some(Rounding::Int8Token) => Activations::Int8Token,
            Some(Rounding::Int8Tensor) => Activations::Int8Tensor,
            Some(Rounding::LlmInt8) => Activations::LlmInt8,
            Some(Rounding::Int8Block) | None => Activations::Int8,
        },
        kv: match args.kv {
            Some(CacheFormat::F32) => Kv::F32,
            Some(CacheFormat::Q8) => Kv::Q8,
            Some(CacheFormat::F16) | None => Kv::F16,
        },
        weights: match args.weights {
            Some(WeightMemory::Copied) => Weights::Copied,
            Some(WeightMemory::Auto) => Weights::Auto,
            Some(WeightMemory::Mapped) | None => Weights::Mapped,
        },
        ..cpu::Options::default()
    };
    task.run(&cpu::Cpu::new(options).map_err(unusable)?)
}

/// What was asked for that only the CPU backend does, as a sentence.
fn only_on_the_cpu(args: &BackendArgs) -> Option<String> {
    let option = if args.kv == Some(CacheFormat::F32) {
        "--kv f32"
    } else if args.kv == Some(CacheFormat::Q8) {
        "--kv q8_0"
    } else if args.exact {
        "--exact"
    } else if args.activations.is_some() {
        "--activations"
    } else if args.weights.is_some() {
        "--weights"
    } else {
        return None;
    };
    Some(format!("{option} is not for --backend cuda; use --backend cpu with it"))
}

/// Opens the first card. Errors: there is none that can be used, or its memory does not hold the weights.
fn open_cuda(weight_bytes: u64) -> qconv_kernels::Result<cuda::Cuda> {
    let cuda = cuda::Cuda::new(cuda::Options::default())?;
    let (free, _) = cuda.memory()?;
    if weight_bytes > free {
        return Err(qconv_kernels::Error::Unavailable(format!(
            "the weights take {}, and {} has {} free; use --backend cpu",
            ui::bytes(weight_bytes),
            cuda.name(),
            ui::bytes(free)
        )));
    }
    Ok(cuda)
}

/// The plan, before anything is taken.
fn tell_memory(cuda: &cuda::Cuda, weight_bytes: u64, ui: &Ui) {
    if let Ok((free, total)) = cuda.memory()
        && weight_bytes > 0
    {
        let [weights, free, total] = [weight_bytes, free, total].map(ui::bytes);
        ui.note(format!("{}: {weights} of weights for {free} free of {total}", cuda.name()));
    }
}

/// A backend that is not to be had is the caller's to change; anything else is the system's.
fn unusable(error: qconv_kernels::Error) -> anyhow::Error {
    match error {
        qconv_kernels::Error::Unavailable(sentence) => caller(sentence),
        other => other.into(),
    }
}
