//! A speed that has to be kept.

use super::target::Case;
use crate::allocate::knapsack::{self, Found};
use crate::allocate::{Formats, Pace, Problem, Speeds};
use crate::convert::Plan;
use crate::error::caller;
use crate::ui;
use anyhow::Result;
use qconv_formats::block::BlockFormat;
use std::collections::BTreeMap;

/// Plans that are measured at most, besides the fastest.
const ROUNDS: usize = 5;
/// Of the speed that was asked for, what a measurement has to reach: it does not come out twice the same.
const NEAR: f64 = 0.97;

/// How long tensors take, and how long they may.
pub(super) struct Pacer<'a> {
    case: &'a Case<'a>,
    problem: &'a Problem<'a>,
    speeds: Speeds,
    /// Seconds per token of every choice of every item.
    times: Vec<Vec<f64>>,
    /// What tensors become that nothing is decided about.
    others: Formats<'a>,
    /// Seconds of all of these.
    fixed: f64,
    /// Bytes of all of these.
    rest: u64,
    /// Tokens per second that were asked for.
    asked: f64,
    /// What the fastest plan was measured to generate.
    fastest: f64,
}

/// Of all choices of an item.
type Pick = fn(&[f64]) -> usize;

fn quickest(times: &[f64]) -> usize {
    (0..times.len()).min_by(|&a, &b| times[a].total_cmp(&times[b])).unwrap_or(0)
}

fn slowest(times: &[f64]) -> usize {
    (0..times.len()).max_by(|&a, &b| times[a].total_cmp(&times[b])).unwrap_or(0)
}

impl<'a> Pacer<'a> {
    /// Measures every format that a plan may have, and the fastest plan. An error, the caller's: it is too slow. `plan`: what tensors
    /// become that nothing is decided about.
    pub fn new(case: &'a Case, asked: f64, plan: &'a Plan, problem: &'a Problem) -> Result<Self> {
        let decided = |name: &str| problem.items.iter().any(|item| item.tensor.name == name);
        let others = plan.tensors.iter().filter(|p| !decided(&p.tensor.name));
        let rest = others.clone().map(crate::convert::Planned::bytes).sum();
        let others: Formats = others.map(|p| (p.tensor.name.as_str(), p.format)).collect();
        let mut formats: Vec<&'static BlockFormat> = problem.items.iter().flat_map(|i| i.formats.clone()).collect();
        formats.extend(others.values());
        let speeds = Speeds::measure(case.model, &formats, case.computing, case.ui)?;
        let seconds = |t: &crate::model::ModelTensor| Some(speeds.seconds(t, others.get(t.name.as_str())?));
        let fixed = case.model.tensors().iter().filter_map(seconds).sum();
        let times = problem.times(&speeds);
        let mut pacer = Pacer { case, problem, speeds, times, others, fixed, rest, asked, fastest: 0.0 };
        pacer.fastest = pacer.try_picks(&pacer.picks(quickest))?.median;
        if pacer.fastest < NEAR * asked {
            return Err(pacer.too_fast("the fastest plan of these candidates", pacer.fastest));
        }
        Ok(pacer)
    }

    /// As [`knapsack::least_cost`], of the plans that are fast enough. An error, the caller's: there is none.
    pub fn least_cost(&self, room: u64) -> Result<Option<Found>> {
        let seconds = self.speeds.room(self.asked) - self.fixed;
        match knapsack::least_cost_in_time(&self.problem.choices, &self.times, room, seconds).transpose() {
            Ok(found) => Ok(found),
            Err(least) => {
                let at_size = if room < self.problem.largest() { " at that size" } else { "" };
                let who = format!("the fastest plan of these candidates{at_size}");
                Err(self.too_fast(&who, self.speeds.rate(self.fixed + least)))
            }
        }
    }

    /// The plan that `find` finds, once it is measured to be fast enough: what each measurement says about everything but the
    /// formats goes into the next search.
    pub fn settle(mut self, find: impl Fn(&Self) -> Result<Found>) -> Result<(Found, Pace)> {
        let (mut best, mut fastest): (Option<(Found, Pace)>, f64) = (None, 0.0);
        for _ in 0..ROUNDS {
            let found = match find(&self) {
                Ok(found) => found,
                // The measurement before says that nothing is fast enough, after one that was.
                Err(_) if best.is_some() => break,
                Err(e) => return Err(e),
            };
            if best.as_ref().is_some_and(|(best, _)| best.cost <= found.cost) {
                break;
            }
            let pace = self.try_picks(&found.picks)?;
            fastest = pace.median.max(fastest);
            if pace.median >= NEAR * self.asked {
                best = Some((found, pace));
            }
        }
        best.ok_or_else(|| self.too_fast("the fastest of the plans that were tried", fastest))
    }

    /// Measures a plan.
    fn try_picks(&mut self, picks: &[usize]) -> Result<Pace> {
        let decided = self.problem.items.iter().zip(picks).map(|(i, &pick)| (i.tensor.name.as_str(), i.formats[pick]));
        let formats: BTreeMap<_, _> =
            self.others.iter().map(|(name, format)| (*name, *format)).chain(decided).collect();
        self.speeds.try_plan(self.case.model, &formats, self.case.computing, self.case.ui)
    }

    /// The same kind of choice for every item.
    fn picks(&self, pick: Pick) -> Vec<usize> {
        self.times.iter().map(|times| pick(times)).collect()
    }

    /// Bytes of weights of the plan of such choices, and what it generates by the rates of its formats.
    fn extreme(&self, pick: Pick) -> (u64, f64) {
        let picks = self.picks(pick);
        let bytes: u64 = self.problem.choices.iter().zip(&picks).map(|(item, &p)| item[p].size).sum();
        let seconds: f64 = self.times.iter().zip(&picks).map(|(times, &p)| times[p]).sum();
        (bytes + self.rest, self.speeds.rate(self.fixed + seconds))
    }

    /// What is out of reach, and what is within.
    fn too_fast(&self, who: &str, rate: f64) -> anyhow::Error {
        let (asked, backend, most) = (self.asked, &self.speeds.backend, self.fastest);
        let (fast, slow) = (self.extreme(quickest), self.extreme(slowest));
        let (small, large, least) = (ui::bytes(fast.0), ui::bytes(slow.0), slow.1.min(most));
        caller(format!(
            "--target-tokens-per-second {asked}: {who} is expected to generate {rate:.1} on {backend}. These candidates reach from about \
             {least:.1} tokens/s, with {large} of weights, to {most:.1}, with {small}: ask for less, or for other --candidates"
        ))
    }
}
