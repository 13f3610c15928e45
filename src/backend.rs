//! The one place where a backend is chosen.

use crate::error::caller;
use crate::model::Model;
use crate::recipe::layer_of;
use crate::ui::{self, Ui};
use qconv_kernels::cpu::{self, Activations, Kv, Weights};
use qconv_kernels::split::Split;
use qconv_kernels::{Backend, cuda};

/// `--backend`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Choice {
    /// This machine's processor
    #[default]
    Cpu,
    /// An NVIDIA card if there is one that can do it, else the processor
    Auto,
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

    /// Put only the last N layers on the card, for models that it does not hold, and compute the others, embeddings and output on the
    /// processor; more than there are: everything (llama.cpp's -ngl)
    #[arg(long, visible_alias = "n-gpu-layers", value_name = "N", help_heading = "Computing")]
    pub gpu_layers: Option<u32>,

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
        if let Some(n) = self.gpu_layers {
            args.extend(["--gpu-layers".to_owned(), n.to_string()]);
        }
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

/// Bytes of the weights that a task will load.
#[derive(Debug, Clone, Default)]
pub struct Sizes {
    /// All.
    pub total: u64,
    /// Those of each layer.
    pub layers: Vec<u64>,
}

impl Sizes {
    /// Of a model.
    pub fn of(model: &Model) -> Self {
        let mut sizes = Sizes::default();
        for tensor in model.tensors() {
            // No model has as many layers as tensors: a number beyond is a name that means something else.
            if let Some(layer) = layer_of(&tensor.name).filter(|&layer| layer < model.tensors().len()) {
                let layers = sizes.layers.len().max(layer + 1);
                sizes.layers.resize(layers, 0);
                sizes.layers[layer] += tensor.stored_bytes();
            }
            sizes.total += tensor.stored_bytes();
        }
        sizes
    }

    /// Of two models that are loaded at once.
    pub fn and(mut self, other: &Sizes) -> Self {
        self.total += other.total;
        self.layers.resize(self.layers.len().max(other.layers.len()), 0);
        self.layers.iter_mut().zip(&other.layers).for_each(|(a, b)| *a += b);
        self
    }

    /// Of the last `n` layers.
    fn last(&self, n: usize) -> u64 {
        self.layers.iter().rev().take(n).sum()
    }
}

/// Where the layers go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The processor.
    Cpu,
    /// A card.
    Card,
    /// The last so many on a card, everything else on the processor.
    Split(usize),
}

/// Makes the chosen backend and gives it the task, whose models have these sizes. Errors: the backend cannot be used here (the
/// caller's fault, who may choose another), or the task's own.
pub fn with<T: Task>(args: BackendArgs, sizes: &Sizes, ui: &Ui, task: T) -> anyhow::Result<T::Output> {
    if let Some(n) = args.threads.map(usize::from) {
        // Statistics run on rayon's threads. Fails only if the pool is there already, from an earlier task: then it stays.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(n).build_global();
    }
    let mut place = match args.gpu_layers {
        None => Place::Card,
        Some(0) => Place::Cpu,
        Some(n) if n as usize > sizes.layers.len() => Place::Card,
        Some(n) => Place::Split(n as usize),
    };
    let unable = only_on_the_cpu(&args);
    match (args.backend, unable) {
        (Choice::Cpu, _) if args.gpu_layers.is_some_and(|n| n > 0) => {
            return Err(caller("--gpu-layers puts layers on a card; use --backend cuda (or auto) with it"));
        }
        (Choice::Cuda, Some(why)) => return Err(caller(why)),
        // Asked for by an option: no need to tell why.
        (Choice::Cpu, _) | (Choice::Auto, Some(_)) => place = Place::Cpu,
        _ => {}
    }
    let card = match place {
        Place::Cpu => None,
        _ => match (open_cuda(place, sizes), args.backend) {
            (Ok(card), _) => Some(card),
            (Err(why), Choice::Auto) => {
                ui.note_once(format!("computing on the CPU: {}", why.to_string().replace("; use --backend cpu", "")));
                None
            }
            (Err(why), _) => return Err(unusable(why)),
        },
    };
    let Some(card) = card else { return task.run(&open_cpu(&args)?) };
    tell_memory(&card, place, sizes, ui);
    match place {
        Place::Split(n) => task.run(&Split::new(open_cpu(&args)?, card, sizes.layers.len() - n)),
        _ => task.run(&card),
    }
}

fn open_cpu(args: &BackendArgs) -> anyhow::Result<cpu::Cpu> {
    let options = cpu::Options {
        threads: args.threads.map(usize::from),
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
    cpu::Cpu::new(options).map_err(unusable)
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

/// Share of the free memory that is left to the cache, activations and the driver when a number of layers is proposed.
const SPARE: u64 = 8;

/// Opens the first card. Errors: there is none that can be used, or its memory does not hold the weights that are to go there.
fn open_cuda(place: Place, sizes: &Sizes) -> qconv_kernels::Result<cuda::Cuda> {
    let cuda = cuda::Cuda::new(cuda::Options::default())?;
    let (free, _) = cuda.memory()?;
    let (what, needed) = match place {
        Place::Split(n) => (format!("the weights of {n} layers take"), sizes.last(n)),
        _ => ("the weights take".to_owned(), sizes.total),
    };
    if needed <= free {
        return Ok(cuda);
    }
    let count = sizes.layers.len();
    let hint = match (1..=count).rev().find(|&n| sizes.last(n) <= free - free / SPARE) {
        Some(n) => format!("; --gpu-layers {n} would put so many of the {count} layers there"),
        None => String::new(),
    };
    Err(qconv_kernels::Error::Unavailable(format!(
        "{what} {}, and {} has {} free{hint}; use --backend cpu",
        ui::bytes(needed),
        cuda.name(),
        ui::bytes(free)
    )))
}

/// The plan for weights, before anything is taken; the engine tells of the cache.
fn tell_memory(cuda: &cuda::Cuda, place: Place, sizes: &Sizes, ui: &Ui) {
    let Ok((free, total)) = cuda.memory() else { return };
    let [free, all] = [free, total].map(ui::bytes);
    let count = sizes.layers.len();
    match place {
        Place::Split(n) => {
            let [there, here] = [sizes.last(n), sizes.total - sizes.last(n)].map(ui::bytes);
            ui.note(format!(
                "{}: the last {n} of {count} layers, {there} of weights for {free} free of {all}",
                cuda.name()
            ));
            ui.note(format!("cpu: the first {} layers, embeddings and output, {here} of weights", count - n));
        }
        _ if sizes.total > 0 => {
            ui.note(format!("{}: {} of weights for {free} free of {all}", cuda.name(), ui::bytes(sizes.total)));
        }
        _ => {}
    }
}

/// A backend that is not to be had is the caller's to change; anything else is the system's.
fn unusable(error: qconv_kernels::Error) -> anyhow::Error {
    match error {
        qconv_kernels::Error::Unavailable(sentence) => caller(sentence),
        other => other.into(),
    }
}
