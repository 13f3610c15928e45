//! `convert --target-size`, `--target-bpw`, `--target-kld`, `--target-tokens-per-second`: formats that are decided here, and then given like any others.

use super::pace::Pacer;
use super::{Choices, parse_format, tensor_rules as rules};
use crate::allocate::knapsack::{self, Found};
use crate::allocate::{self, Item, Meter, Pace, Problem};
use crate::backend::BackendArgs;
use crate::calibrate::Calibration;
use crate::convert::{Edits, Importance, Plan};
use crate::error::caller;
use crate::model::{Model, ModelTensor};
use crate::recipe::{self, Mix};
use crate::ui::{self, Ui};
use anyhow::Result;
use qconv_formats::block::{self, BlockFormat};
use qconv_formats::gguf::DEFAULT_ALIGNMENT;
use std::collections::BTreeMap;

/// Arguments that ask for a size, a quality or a speed instead of a type.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(group = clap::ArgGroup::new("decided").multiple(true)
    .args(["target_size", "target_bpw", "target_kld", "target_tokens_per_second"]))]
pub struct TargetArgs {
    /// Find the best formats for files of at most this size, such as 700MB
    #[arg(long, value_name = "SIZE", value_parser = ui::parse_bytes, group = "budget", help_heading = "Budget")]
    target_size: Option<u64>,

    /// Find the best formats for at most so many bits per weight, such as 4.25
    #[arg(long, value_name = "BITS", group = "budget", help_heading = "Budget")]
    target_bpw: Option<f64>,

    /// Find the smallest formats whose divergence from the original, in nats, is at most this, such as 0.02 (with --measure)
    #[arg(long, value_name = "NATS", group = "budget", requires = "measure", help_heading = "Budget")]
    target_kld: Option<f64>,

    /// Find formats with which this machine generates at least so many tokens per second, by the speed of every format as it is
    /// measured now: alone, or beside a size. `qconv bench` tells afterwards what came of it
    #[arg(long, value_name = "RATE", conflicts_with = "target_kld", help_heading = "Budget")]
    target_tokens_per_second: Option<f64>,

    /// Measure what each tensor does to the model's predictions on the calibration text, instead of guessing from its error
    #[arg(long, requires_all = ["decided", "calibration"], help_heading = "Budget")]
    measure: bool,

    /// At most N chunks of the text are used to measure
    #[arg(long, value_name = "N", default_value_t = 8, requires = "measure", help_heading = "Budget")]
    measure_chunks: usize,

    /// Formats that may be used [default: all that suit]
    #[arg(long, value_name = "FORMAT,...", value_delimiter = ',', value_parser = parse_format, requires = "decided",
          help_heading = "Budget")]
    candidates: Vec<&'static BlockFormat>,
}

/// What is decided about, and by what.
pub struct Case<'a> {
    pub model: &'a Model,
    pub edits: &'a Edits,
    pub importance: Option<&'a Importance>,
    pub text: Option<&'a Calibration>,
    /// Where speeds are measured.
    pub computing: BackendArgs,
    /// Bytes of all files that choices give.
    pub size: &'a dyn Fn(&Choices) -> Result<u64>,
    pub ui: &'a Ui,
}

/// What was decided, beside the formats.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Decided {
    /// Bytes of all files.
    pub bytes: u64,
    /// The sum of what tensors cause alone; nats if it was measured, relative errors otherwise.
    pub predicted: f64,
    /// No allocation within the budget has a smaller sum.
    pub bound: f64,
    /// The divergence on the calibration text, in nats, of the plan with codes rounded to nearest.
    pub measured: Option<f64>,
    /// Tokens per second that a model of these formats and shapes generates on this machine; where a speed was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_tokens_per_second: Option<Pace>,
}

impl TargetArgs {
    /// There is a budget.
    pub fn is_given(&self) -> bool {
        let figures = [self.target_bpw, self.target_kld, self.target_tokens_per_second];
        self.target_size.is_some() || figures.iter().any(Option::is_some)
    }

    /// Decides, and puts the answer into the choices: rules by tensor name, and a type to call it.
    ///
    /// Errors, the caller's: a budget that nothing meets or that everything does, choices that leave nothing to decide.
    pub fn decide(&self, choices: &mut Choices, case: &Case) -> Result<Decided> {
        let muted = Ui::muted();
        // Which tensors are quantized at all is the same for every type that quantizes.
        let quantizes = |mix: &&Mix| BlockFormat::by_name(mix.default).is_some_and(|f| f.is_quantized());
        let start = recipe::ALL.iter().find(quantizes).ok_or_else(|| caller("no type quantizes"))?;
        let given = Choices { mix: Some(start), ..choices.clone() };
        let mut options = given.options()?;
        options.has_imatrix = case.importance.is_some();
        let plan = Plan::new(case.model, start, &options, case.edits, choices.allow_requantize, &muted)?;
        let mut names = BTreeMap::new();
        let mut items = Vec::new();
        for planned in plan.tensors.iter().filter(|p| !p.kept && !is_given(&options, &p.name, &plan)) {
            let formats = self.candidates_for(planned.tensor, choices, case.importance);
            names.insert(planned.tensor.name.as_str(), planned.name.as_str());
            items.push(Item { tensor: planned.tensor, formats });
        }
        if items.is_empty() {
            return Err(caller("there is nothing left to decide: every tensor's format is given or never changes"));
        }
        let wanted: Vec<_> = items.iter().map(|item| (item.tensor, &item.formats[..])).collect();
        let errors = allocate::errors(case.model, &wanted, case.importance)?;
        let meter = case.text.filter(|_| self.measure).map(|text| Meter {
            model: case.model,
            text,
            chunks: self.measure_chunks,
            importance: case.importance,
            ui: case.ui,
        });
        // Files hold tensors at aligned places; bits per weight count their data alone.
        let align = if self.target_size.is_some() { DEFAULT_ALIGNMENT as u64 } else { 1 };
        let size = move |t: &ModelTensor, f: &BlockFormat| {
            let bytes = f.row_bytes(t.shape.cols()).unwrap_or(0) as u64 * t.shape.rows() as u64;
            bytes.next_multiple_of(align)
        };
        let starting: u64 = items.iter().map(|item| size(item.tensor, format_in(&plan, item.tensor))).sum();
        let problem = Problem::new(items, &errors, meter.as_ref(), size)?;
        let choose = |choices: &mut Choices, found: &Found| -> Result<()> {
            let formats = problem.formats(found);
            choices.tensor_type.extend(rules::rules(formats.iter().map(|(t, f)| (names[t.name.as_str()], *f)))?);
            if choices.mix.is_none() {
                choices.mix = Some(rules::nearest_mix(case, choices, options.has_imatrix, &formats)?);
            }
            Ok(())
        };

        let find = |pacer: Option<&Pacer>| -> Result<Found> {
            let solve = |room: u64| match pacer {
                Some(pacer) => pacer.least_cost(room),
                None => Ok(knapsack::least_cost(&problem.choices, room)),
            };
            if let Some(most) = self.target_size {
                let rest = (case.size)(&given)?.saturating_sub(starting);
                return self.within_size(&problem, most, rest, &solve, |found| {
                    let mut choices = choices.clone();
                    choose(&mut choices, found)?;
                    (case.size)(&choices)
                });
            }
            if let Some(bits) = self.target_bpw {
                let weights: u64 = plan.tensors.iter().map(|p| p.tensor.shape.len() as u64).sum();
                let rest = plan.bytes() - starting;
                let bpw = |bytes: u64| (bytes + rest) as f64 * 8.0 / weights as f64;
                let room = ((bits * weights as f64 / 8.0) as u64).checked_sub(rest);
                let (least, most) = (bpw(problem.smallest()), bpw(problem.largest()));
                self.refuse_extremes(&format!("--target-bpw {bits}"), bits, least, most, |x| {
                    format!("{x:.3} bits per weight")
                })?;
                return solve(room.unwrap_or(0))?.ok_or_else(|| caller("no plan is that small"));
            }
            if pacer.is_some() && self.target_kld.is_none() {
                return solve(problem.largest())?.ok_or_else(|| caller("no plan is that fast"));
            }
            let (most, meter) = (self.target_kld.unwrap_or(0.0), meter.as_ref());
            within_divergence(&problem, most, meter.ok_or_else(|| caller("--target-kld needs --measure"))?)
        };
        let (found, pace) = match self.target_tokens_per_second {
            Some(asked) => {
                let (found, pace) = Pacer::new(case, asked, &plan, &problem)?.settle(|pacer| find(Some(pacer)))?;
                (found, Some(pace))
            }
            None => (find(None)?, None),
        };
        choose(choices, &found)?;
        let measured = match &meter {
            Some(meter) => Some(meter.divergences(&[problem.formats(&found)])?[0]),
            None => None,
        };
        let bytes = (case.size)(choices)?;
        Ok(Decided { bytes, predicted: found.cost, bound: found.bound, measured, predicted_tokens_per_second: pace })
    }

    /// Errors, the caller's: impossible figures, choices that do not go with a budget.
    pub fn check(&self, choices: &Choices) -> Result<()> {
        let positive = |flag: &str, x: Option<f64>| match x.filter(|x| !(x.is_finite() && *x > 0.0)) {
            Some(x) => Err(caller(format!("{flag} {x}: has to be more than 0"))),
            None => Ok(()),
        };
        positive("--target-bpw", self.target_bpw)?;
        positive("--target-kld", self.target_kld)?;
        positive("--target-tokens-per-second", self.target_tokens_per_second)?;
        if self.measure_chunks == 0 {
            return Err(caller("--measure-chunks 0: nothing would be seen"));
        }
        if choices.pure {
            return Err(caller("--pure asks for one format, and a budget is met by many: leave one of them out"));
        }
        if !choices.method.transforms().is_empty() {
            let name = choices.method.name();
            let hint = "transform and decide apart: a budget goes with quantizers alone";
            return Err(caller(format!("--method {name} changes the tensors that a budget is divided among; {hint}")));
        }
        Ok(())
    }

    /// What a tensor may become: of the candidates those that fit its rows, the method and the importance at hand; and as it is.
    fn candidates_for(
        &self,
        tensor: &ModelTensor,
        choices: &Choices,
        importance: Option<&Importance>,
    ) -> Vec<&'static BlockFormat> {
        let weighed = importance.is_some_and(|all| all.of(&tensor.name, &tensor.shape).is_some());
        let fits = |f: &BlockFormat| {
            f.quantize.is_some()
                && f.dequantize.is_some()
                && f.row_bytes(tensor.shape.cols()).is_some()
                && choices.method.suits(f).is_ok()
                && (weighed || f.importance != block::Importance::Required)
        };
        let all = if self.candidates.is_empty() { block::ALL } else { &self.candidates[..] };
        let quantized = |f: &BlockFormat| !self.candidates.is_empty() || f.is_quantized();
        let mut formats: Vec<&'static BlockFormat> = all.iter().copied().filter(|f| quantized(f) && fits(f)).collect();
        if self.candidates.is_empty() || formats.is_empty() {
            let half = &block::F16;
            formats.push(if tensor.format.is_quantized() { half } else { tensor.format });
            if *tensor.format == block::F32 {
                formats.push(half);
            }
        }
        formats
    }

    /// The best plan whose files have at most `most` bytes; `rest` is what they hold beside the tensors, about: it varies with the
    /// recipe's length, so that files are laid out to see.
    fn within_size(
        &self,
        problem: &Problem,
        most: u64,
        rest: u64,
        solve: &dyn Fn(u64) -> Result<Option<Found>>,
        size: impl Fn(&Found) -> Result<u64>,
    ) -> Result<Found> {
        let exact = |room: u64| solve(room)?.map(|f| size(&f).map(|s| (f, s))).transpose();
        let bytes = |x: f64| format!("{} ({} bytes)", ui::bytes(x as u64), x as u64);
        let asked = format!("--target-size {}", ui::bytes(most));
        let (smallest, largest) = (problem.smallest() + rest, problem.largest() + rest);
        let mut room = most.saturating_sub(rest).max(problem.smallest());
        for _ in 0..8 {
            let Some((found, bytes)) = exact(room)? else { break };
            if bytes <= most && (found.size < problem.largest() || most < largest) {
                return Ok(found);
            }
            let Some(less) = room.checked_sub((bytes.max(most + 1) - most).max(1)) else { break };
            if less < problem.smallest() {
                break;
            }
            room = less;
        }
        self.refuse_extremes(&asked, most as f64, smallest as f64, largest as f64, bytes)?;
        let least = exact(problem.smallest())?.map_or(smallest, |(_, size)| size);
        Err(caller(format!("{asked}: the smallest plan of these candidates has {}", bytes(least as f64))))
    }

    fn refuse_extremes(
        &self,
        asked: &str,
        most: f64,
        smallest: f64,
        largest: f64,
        show: impl Fn(f64) -> String,
    ) -> Result<()> {
        if most < smallest {
            let hint = "ask for more, or for other --candidates";
            return Err(caller(format!(
                "{asked}: the smallest plan of these candidates has {}; {hint}",
                show(smallest)
            )));
        }
        if most >= largest {
            let hint = "there is nothing to decide: take a --type";
            return Err(caller(format!("{asked}: the largest plan of these candidates has {}; {hint}", show(largest))));
        }
        Ok(())
    }
}

/// The smallest plan that diverges by at most `most` when it is measured. What tensors cause together is not quite the sum of
/// what they cause alone, so that the sum that is aimed at follows the measurements.
fn within_divergence(problem: &Problem, most: f64, meter: &Meter) -> Result<Found> {
    let (mut aim, mut best): (f64, Option<Found>) = (most, None);
    for _ in 0..8 {
        let Some(found) = knapsack::least_size(&problem.choices, aim) else { break };
        let measured = meter.divergences(&[problem.formats(&found)])?[0];
        let good = measured <= most;
        if good && best.as_ref().is_none_or(|b| found.size < b.size) {
            best = Some(found);
        }
        if good && (measured > 0.95 * most || found_smallest(problem, best.as_ref())) {
            break;
        }
        aim *= (0.98 * most / measured.max(1e-12)).clamp(0.25, 4.0);
    }
    let found = best.ok_or_else(|| {
        caller(format!("--target-kld {most}: no plan of these candidates comes that near to the original"))
    })?;
    if problem.formats(&found).iter().all(|(_, format)| !format.is_quantized()) {
        let hint = "there is nothing to decide: ask for less, or take a --type of floats";
        return Err(caller(format!("--target-kld {most}: only a plan that quantizes nothing comes that near; {hint}")));
    }
    Ok(found)
}

fn found_smallest(problem: &Problem, found: Option<&Found>) -> bool {
    found.is_some_and(|f| f.size == problem.smallest())
}

/// The caller decided already.
fn is_given(options: &recipe::Options, name: &str, plan: &Plan) -> bool {
    let tied = !plan.tensors.iter().any(|p| p.name == "output.weight");
    match name {
        "token_embd.weight" if options.token_embedding.is_some() || tied && options.output_tensor.is_some() => true,
        "output.weight" if options.output_tensor.is_some() => true,
        _ => options.overrides.iter().any(|rule| rule.fits(name).unwrap_or(false)),
    }
}

fn format_in(plan: &Plan, tensor: &ModelTensor) -> &'static BlockFormat {
    plan.tensors.iter().find(|p| p.tensor.name == tensor.name).map_or(tensor.format, |p| p.format)
}
