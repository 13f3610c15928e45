//! `qconv bench`

use super::Run;
use crate::backend::{self, BackendArgs, Sizes, Task};
use crate::card::Card;
use crate::engine::{self, Cached, Engine, MemoryPlan, Rate, Tests};
use crate::error::caller;
use crate::model::{Model, ModelTensor};
use crate::report::{self, Style, Table};
use crate::ui::{self, Ui};
use anyhow::Result;
use qconv_kernels::{Backend, cuda};
use serde::Serialize;
use std::path::PathBuf;

/// Arguments of `qconv bench`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  qconv bench model-Q4_K_M.gguf
  qconv bench model-Q4_K_M.gguf model-Q8_0.gguf -p 256 -n 64 -r 3 --markdown

  qconv bench model-Q4_K_M.gguf -p 0 --depth 0,8192 --parallel 1,4,16

A test pp512 evaluates a prompt of 512 random tokens in batches, tg128 generates 128 tokens one by one; both begin with
an empty cache, \"@ d8192\" behind 8192 tokens (--depth), and \"x 4\" generates for 4 sequences side by side, counting the tokens
of all (--parallel). GB/s counts the bytes of weights that one token needs (the tables of embeddings are not read whole), and
the first share is that of the machine's read bandwidth, measured in the same run. \"Of arithmetic\" is the share of the speed that
the same products have with weights in the cache: where that speed is below the bandwidth, arithmetic is the bound and not memory,
and all of it cannot be reached where both are close. For prompts of models with block-quantized layers the share is that
of the multiply-adds that the processor's instruction for them does when it does nothing else (VNNI with AVX-512: dot products of 8-bit
integers; AMX: products of matrices of brain floats).

On a card (--backend cuda) times are those of its own clock, the bandwidth is that of a copy within its memory (bytes read and
written), and --kernels tells the time of each kernel.")]
pub struct Bench {
    /// GGUF files or Hugging Face folders
    #[arg(required = true)]
    models: Vec<PathBuf>,

    /// Tokens of the prompt (0: no prompt test)
    #[arg(short = 'p', long, value_name = "N", default_value_t = 512)]
    prompt: usize,

    /// Tokens to generate (0: no generation test)
    #[arg(short = 'n', long, value_name = "N", default_value_t = 128)]
    generate: usize,

    /// Tokens that are in the cache before each test begins; several numbers make several tests
    #[arg(short = 'd', long, value_name = "N,...", default_value = "0", value_delimiter = ',')]
    depth: Vec<usize>,

    /// Sequences that generate side by side, each with a cache of its own; several numbers make several tests
    #[arg(long, value_name = "N,...", default_value = "1", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=4096))]
    parallel: Vec<u32>,

    /// Repetitions
    #[arg(short = 'r', long, value_name = "N", default_value_t = 5)]
    repetitions: usize,

    /// Tell where the time goes, by operation (on CUDA: by kernel), in one more run of each test
    #[arg(long)]
    kernels: bool,

    #[command(flatten)]
    computing: BackendArgs,

    #[command(flatten)]
    style: StyleArgs,
}

/// How a report is printed.
#[derive(clap::Args)]
pub struct StyleArgs {
    /// Print as JSON
    #[arg(long, conflicts_with_all = ["csv", "markdown"])]
    pub json: bool,

    /// Print as comma-separated values
    #[arg(long, conflicts_with = "markdown")]
    pub csv: bool,

    /// Print as a Markdown table
    #[arg(long)]
    pub markdown: bool,
}

impl StyleArgs {
    /// The table's style; JSON is up to the caller.
    pub fn table(&self) -> Style {
        match (self.csv, self.markdown) {
            (true, _) => Style::Csv,
            (_, true) => Style::Markdown,
            _ => Style::Plain,
        }
    }
}

/// One model's figures.
#[derive(Debug, Clone, Serialize)]
pub struct Record {
    /// The model's name.
    pub name: String,
    /// Where it lies.
    pub model: PathBuf,
    /// Weights.
    pub parameters: u64,
    /// Bytes of all tensors.
    pub bytes: u64,
    /// Bytes of weights that generating a token reads.
    pub bytes_per_token: u64,
    /// Where it ran.
    pub backend: String,
    /// The tests.
    pub tests: Vec<Test>,
    /// Read bandwidth of the machine in GB/s, measured in this run; `None` where the backend cannot tell.
    pub read_bandwidth: Option<f64>,
    /// The same products with weights in the cache: what arithmetic allows.
    pub cached: Option<Cached>,
    /// Billions of multiply-adds per second of the instruction for prompts of quantized weights, measured in this run.
    pub product_peak: Option<f64>,
    /// Seconds from opening the file to a model that is ready.
    pub load_seconds: f64,
    /// Highest resident memory of the process, in bytes, mapped file pages included.
    pub peak_memory: Option<u64>,
    /// What the card did from loading to the last test.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub card: Option<Card>,
    /// The figures are of the stand-in for a driver that tests run on: they tell nothing of any card.
    pub stand_in: bool,
}

/// One test of a model.
#[derive(Debug, Clone, Serialize)]
pub struct Test {
    /// `pp512`, `tg128 @ d8192 x 4`.
    pub test: String,
    /// Tokens in the cache before it begins.
    pub depth: usize,
    /// Sequences side by side.
    pub parallel: usize,
    /// Mean tokens per second.
    pub tokens_per_second: f64,
    /// Standard deviation over the repetitions.
    pub deviation: f64,
    /// All repetitions.
    pub samples: Vec<f64>,
    /// Weights read in GB/s (generation only).
    pub gigabytes_per_second: Option<f64>,
    /// Share of the read bandwidth (generation only).
    pub bandwidth_share: Option<f64>,
    /// Share of [`Cached::rate`] (generation of one sequence only).
    pub arithmetic_share: Option<f64>,
    /// Share of [`Record::product_peak`] (prompts of models with block-quantized layers only).
    pub peak_share: Option<f64>,
    /// The time of every kernel, longest first (`--kernels`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kernels: Vec<Kernel>,
}

/// One kernel in a test.
#[derive(Debug, Clone, Serialize)]
pub struct Kernel {
    /// Its name.
    pub kernel: String,
    /// How often it ran.
    pub launches: usize,
    /// Seconds, all launches together.
    pub seconds: f64,
}

impl Run for Bench {
    fn run(self, ui: &Ui) -> Result<()> {
        if self.prompt == 0 && self.generate == 0 {
            return Err(caller("-p 0 -n 0: nothing to measure"));
        }
        let mut records = Vec::new();
        for path in &self.models {
            let task = Measure { bench: &self, path, ui };
            let sizes = Sizes::of(&Model::open(path, &mut Vec::new())?);
            records.push(backend::with(self.computing, &sizes, ui, task)?);
        }
        if self.style.json {
            return report::print_json(&serde_json::to_value(&records)?);
        }
        table(&records).print_as(self.style.table());
        if self.kernels {
            kernel_table(&records).print_as(self.style.table());
        }
        for r in records.iter().filter(|r| r.stand_in) {
            ui.note(format!(
                "{}: these are times of the stand-in for a card's driver; they tell nothing of any card",
                r.name
            ));
        }
        if self.style.table() == Style::Plain {
            for r in &records {
                let bandwidth = r.read_bandwidth.map_or("unknown".into(), |b| format!("{b:.1} GB/s"));
                let cached = r.cached.as_ref().map_or(String::new(), in_the_cache);
                let peak = r.product_peak.map_or(String::new(), |p| format!(", products {p:.0} G multiply-adds/s"));
                ui.note(format!(
                    "{}: loaded in {}, peak memory {}, read bandwidth {bandwidth}{cached}{peak}, {}",
                    r.name,
                    ui::seconds(r.load_seconds),
                    r.peak_memory.map_or("unknown".into(), ui::bytes),
                    r.backend
                ));
                if let Some(card) = &r.card {
                    ui.note(format!("{}: the card: {card}", r.name));
                }
            }
        }
        Ok(())
    }
}

/// `, with weights in the cache 71.0 GB/s (Q4_K 69.8, Q6_K 80.1)`
fn in_the_cache(cached: &Cached) -> String {
    let each: Vec<_> = cached.formats.iter().map(|f| format!("{} {:.1}", f.format, f.rate)).collect();
    format!(", with weights in the cache {:.1} GB/s ({})", cached.rate, each.join(", "))
}

fn table(records: &[Record]) -> Table {
    let mut table = Table::new(&[
        "model",
        "size",
        "params",
        "backend",
        "test",
        "tokens/s",
        "GB/s",
        "of bandwidth",
        "of arithmetic",
        "of peak",
    ]);
    for r in records {
        for t in &r.tests {
            table.row([
                r.name.clone(),
                ui::bytes(r.bytes),
                ui::count(r.parameters),
                r.backend.clone(),
                t.test.clone(),
                format!("{:.1} ± {:.1}", t.tokens_per_second, t.deviation),
                t.gigabytes_per_second.map_or(String::new(), |x| format!("{x:.1}")),
                t.bandwidth_share.map_or(String::new(), |x| format!("{:.0}%", x * 100.0)),
                t.arithmetic_share.map_or(String::new(), |x| format!("{:.0}%", x * 100.0)),
                t.peak_share.map_or(String::new(), |x| format!("{:.0}%", x * 100.0)),
            ]);
        }
    }
    table
}

fn kernel_table(records: &[Record]) -> Table {
    let mut table = Table::new(&["model", "test", "kernel", "launches", "total", "each", "share"]);
    for r in records {
        for t in &r.tests {
            let all: f64 = t.kernels.iter().map(|k| k.seconds).sum();
            for k in &t.kernels {
                table.row([
                    r.name.clone(),
                    t.test.clone(),
                    k.kernel.clone(),
                    k.launches.to_string(),
                    format!("{:.3} ms", k.seconds * 1e3),
                    format!("{:.2} us", k.seconds * 1e6 / k.launches as f64),
                    format!("{:.1}%", k.seconds * 100.0 / all),
                ]);
            }
        }
    }
    table
}

impl Measure<'_> {
    /// What is measured, in the order of the table: prompts first, one at each depth, then generation.
    fn tests(&self) -> Vec<Tests> {
        let Bench { prompt, generate, repetitions, .. } = *self.bench;
        let none = Tests { repetitions, ..Tests::default() };
        let depths = || self.bench.depth.iter().copied();
        let prompts = depths().filter(|_| prompt > 0).map(|depth| Tests { prompt, depth, sequences: 1, ..none });
        let generations = depths().filter(|_| generate > 0).flat_map(|depth| {
            let one = move |&n: &u32| Tests { generate, depth, sequences: n as usize, ..none };
            self.bench.parallel.iter().map(one)
        });
        prompts.chain(generations).collect()
    }
}

struct Measure<'a> {
    bench: &'a Bench,
    path: &'a PathBuf,
    ui: &'a Ui,
}

impl Task for Measure<'_> {
    type Output = Record;

    fn run<B: Backend>(self, backend: &B) -> Result<Record> {
        engine::memory::reset_peak();
        backend.watch_device();
        let started = std::time::Instant::now();
        let mut warnings = Vec::new();
        let model = Model::open(self.path, &mut warnings)?;
        let loaded = Engine::load(backend, &model, &mut warnings)?;
        let load_seconds = started.elapsed().as_secs_f64();
        warnings.into_iter().for_each(|w| self.ui.warn(w));
        self.ui.refuse_warnings()?;

        let bytes_per_token = bytes_per_token(&model, loaded.plan());
        let tests = self.tests();
        let largest = |plans: Vec<MemoryPlan>| plans.into_iter().max_by_key(MemoryPlan::total);
        let plans = tests.iter().flat_map(Tests::sessions).map(|options| loaded.memory(options));
        if let Some(plan) = largest(plans.collect::<Result<_>>()?) {
            self.ui.note(plan.to_string());
        }
        let speeds = tests.iter().map(|t| Ok((t, engine::speed(&loaded, t)?))).collect::<Result<Vec<_>>>()?;
        let (peak_memory, card) = (engine::memory::peak(), Card::of(backend));
        let read_bandwidth = backend.read_bandwidth();
        // Bounds of the processor; a card's products would have to be waited for.
        let product_peak = backend.product_peak();
        let cached = if product_peak.is_some() { engine::cached(backend, &model, loaded.plan())? } else { None };
        let product_peak = product_peak.filter(|_| mostly_quantized(&model));
        let products = products_per_token(&model, loaded.plan());
        let test = |tests: &Tests, kind: &str, rate: &Rate, bytes: Option<u64>| -> Result<Test> {
            let kernels = if self.bench.kernels { kernels(&loaded, tests)? } else { Vec::new() };
            let gigabytes = bytes.map(|b| b as f64 * rate.mean() / tests.sequences as f64 / 1e9);
            let depth = if tests.depth > 0 { format!(" @ d{}", tests.depth) } else { String::new() };
            let parallel = if tests.sequences > 1 { format!(" x {}", tests.sequences) } else { String::new() };
            Ok(Test {
                test: format!("{kind}{}{depth}{parallel}", rate.tokens),
                depth: tests.depth,
                parallel: tests.sequences,
                tokens_per_second: rate.mean(),
                deviation: rate.deviation(),
                samples: rate.samples.clone(),
                gigabytes_per_second: gigabytes,
                bandwidth_share: gigabytes.zip(read_bandwidth).map(|(g, b)| g / b),
                arithmetic_share: gigabytes
                    .filter(|_| tests.sequences == 1)
                    .zip(cached.as_ref())
                    .map(|(g, c)| g / c.rate),
                peak_share: product_peak.filter(|_| bytes.is_none()).map(|p| products * rate.mean() / p / 1e9),
                kernels,
            })
        };
        let measured = speeds.iter().flat_map(|(tests, speed)| {
            let prompt = speed.prompt.iter().map(|rate| test(tests, "pp", rate, None));
            prompt.chain(speed.generation.iter().map(|rate| test(tests, "tg", rate, Some(bytes_per_token))))
        });
        Ok(Record {
            name: model.name(),
            model: self.path.clone(),
            parameters: model.parameters(),
            bytes: loaded.weight_bytes(),
            bytes_per_token,
            backend: backend.name(),
            tests: measured.collect::<Result<_>>()?,
            read_bandwidth,
            cached,
            product_peak,
            load_seconds,
            peak_memory,
            card,
            stand_in: backend.name().contains(cuda::STAND_IN),
        })
    }
}

/// Where the time of a test goes. Errors are the session's.
fn kernels<B: Backend>(engine: &Engine<'_, B>, tests: &Tests) -> Result<Vec<Kernel>> {
    engine.backend().start_profile();
    engine::speed(engine, &Tests { repetitions: 1, ..*tests })?;
    let times = engine.backend().kernel_times()?;
    Ok(times.into_iter().map(|t| Kernel { kernel: t.kernel, launches: t.launches, seconds: t.seconds }).collect())
}

/// Whether most bytes of the layers are in block-quantized formats.
fn mostly_quantized(model: &Model) -> bool {
    let bytes = |quantized: bool| -> u64 {
        let these = model.layer_matrices().filter(|t| t.format.is_quantized() == quantized);
        these.map(|t| t.stored_bytes()).sum()
    };
    bytes(true) > bytes(false)
}

/// Bytes of weights that one generated token reads.
fn bytes_per_token(model: &Model, plan: &crate::arch::Plan) -> u64 {
    let bytes = |t| engine::share_read(model, plan, t) * t.stored_bytes() as f64;
    model.tensors().iter().map(bytes).sum::<f64>() as u64
}

/// Multiply-adds with weights of the layers that a token of a prompt needs (the output matrix only meets the last one).
fn products_per_token(model: &Model, plan: &crate::arch::Plan) -> f64 {
    let share = plan.feed.experts.map_or(1.0, |e| e.used as f64 / e.count as f64);
    let read = |t: &ModelTensor| t.shape.len() as f64 * if t.name.contains("_exps.") { share } else { 1.0 };
    model.layer_matrices().map(read).sum()
}
