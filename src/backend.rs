//! The one place where a backend is chosen.

use crate::error::caller;
use qconv_kernels::cpu::{self, Activations, Kv, Weights};
use qconv_kernels::{Backend, cuda};

/// `--backend`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Choice {
    /// The best that is there; the report tells which
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
        args
    }

    /// With an f32 cache (unless asked otherwise) and f32 activations: for parity checks.
    pub fn precise(self) -> Self {
        BackendArgs { kv: self.kv.or(Some(CacheFormat::F32)), exact: true, ..self }
    }
}

/// Work that any backend can do: a closure that is generic over it.
pub trait Task {
    /// What comes out.
    type Output;
    /// Does it.
    fn run<B: Backend>(self, backend: &B) -> anyhow::Result<Self::Output>;
}

/// Makes the chosen backend and gives it the task. Errors: the backend cannot be used here (the caller's fault, who may
/// choose another), or the task's own.
pub fn with<T: Task>(args: BackendArgs, task: T) -> anyhow::Result<T::Output> {
    let threads = args.threads.map(usize::from);
    if let Some(n) = threads {
        // Statistics run on rayon's threads. Fails only if the pool is there already, from an earlier task: then it stays.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(n).build_global();
    }
    let options = cpu::Options {
        threads,
        activations: if args.exact { Activations::Exact } else { Activations::Int8 },
        kv: if args.kv == Some(CacheFormat::F32) { Kv::F32 } else { Kv::F16 },
        weights: match args.weights {
            Some(WeightMemory::Copied) => Weights::Copied,
            Some(WeightMemory::Mapped) | None => Weights::Mapped,
        },
        ..cpu::Options::default()
    };
    match args.backend {
        Choice::Auto | Choice::Cpu => task.run(&cpu::Cpu::new(options).map_err(unusable)?),
        Choice::Cuda => task.run(&cuda::Cuda::new(cuda::Options::default()).map_err(unusable)?),
    }
}

/// A backend that is not to be had is the caller's to change; anything else is the system's.
fn unusable(error: qconv_kernels::Error) -> anyhow::Error {
    match error {
        qconv_kernels::Error::Unavailable(sentence) => caller(sentence),
        other => other.into(),
    }
}
