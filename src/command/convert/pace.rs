//! A speed that has to be kept.

use super::target::Case;
use crate::allocate::knapsack::{self, Found};
use crate::allocate::{Problem, Speeds};
use crate::convert::Plan;
use crate::error::caller;
use anyhow::Result;
use qconv_formats::block::BlockFormat;
use std::collections::BTreeSet;

/// How long tensors take, and how long they may.
pub(super) struct Pace {
    speeds: Speeds,
    /// Seconds per token of every choice of every item.
    times: Vec<Vec<f64>>,
    /// Of all tensors that nothing is decided about.
    fixed: f64,
    /// Tokens per second that were asked for.
    asked: f64,
}

impl Pace {
    /// Measures every format that a plan may have. `plan`: what tensors become that nothing is decided about.
    pub fn measure(case: &Case, asked: f64, plan: &Plan, problem: &Problem) -> Result<Self> {
        let decided: BTreeSet<&str> = problem.items.iter().map(|item| item.tensor.name.as_str()).collect();
        let others = || plan.tensors.iter().filter(|p| !decided.contains(p.tensor.name.as_str()));
        let mut formats: Vec<&'static BlockFormat> =
            problem.items.iter().flat_map(|item| item.formats.clone()).collect();
        formats.extend(others().map(|p| p.format));
        let speeds = Speeds::measure(case.model, &formats, case.computing, case.ui)?;
        let fixed = others().map(|p| speeds.seconds(p.tensor, p.format)).sum();
        Ok(Pace { times: problem.times(&speeds), fixed, asked, speeds })
    }

    /// As [`knapsack::least_cost`], of the plans that are fast enough. An error, the caller's: there is none.
    pub fn least_cost(&self, problem: &Problem, room: u64) -> Result<Option<Found>> {
        let seconds = self.speeds.room(self.asked) - self.fixed;
        match knapsack::least_cost_in_time(&problem.choices, &self.times, room, seconds).transpose() {
            Ok(found) => Ok(found),
            Err(least) => Err(caller(format!(
                "--target-tokens-per-second {}: the fastest plan of these candidates{} is expected to generate {:.1} on {}; ask for \
                 less, or for other --candidates",
                self.asked,
                if room < problem.largest() { " at that size" } else { "" },
                self.speeds.rate(self.fixed + least),
                self.speeds.backend,
            ))),
        }
    }

    /// Tokens per second that are expected of a plan.
    pub fn rate(&self, found: &Found) -> f64 {
        let times = self.times.iter().zip(&found.picks).map(|(times, &pick)| times[pick]);
        self.speeds.rate(self.fixed + times.sum::<f64>())
    }
}
