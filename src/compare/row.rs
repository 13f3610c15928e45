//! One line of a study, and what is derived from its figures.

use crate::eval;
use crate::method::Methods;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Percent of perplexity above the original's beyond which a variant is flagged as degraded.
pub const DEGRADED: f64 = 15.0;

/// One line of the comparison. What was not measured, or has no meaning for the original, is `None`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The mix; the original's own precision for the first row.
    #[serde(rename = "type")]
    pub mix: String,
    /// How its codes were picked; `None` for the original.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The file, or the original.
    pub file: PathBuf,
    /// Why there are no figures, or not all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// What a reader should look at before he takes this variant: one phrase each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
    /// Tensor data per weight.
    pub bits_per_weight: Option<f64>,
    /// Bytes of the file (of the tensors, for the original).
    pub bytes: Option<u64>,
    /// Wall time of the conversion, with the calibration and the searches of its methods; importance that variants share is made before.
    pub convert_seconds: Option<f64>,
    /// Highest resident memory of the process that converted. Bytes.
    pub convert_peak_memory: Option<u64>,
    /// The file's structure and every tensor against the source were found right. `None` too where transforms made other
    /// tensors, of which only the structure was found right.
    pub verified: Option<bool>,
    /// Tensors that could not take the wanted type.
    pub fallbacks: Option<usize>,
    /// Perplexity and everything against the original.
    #[serde(flatten)]
    pub quality: Option<eval::Perplexity>,
    /// Percent by which the perplexity is higher than the original's.
    pub perplexity_change: Option<f64>,
    /// Prompt tokens per second.
    pub prompt_tokens_per_second: Option<f64>,
    /// Generated tokens per second.
    pub generation_tokens_per_second: Option<f64>,
    /// The slowest and the fastest repetition of the prompt test.
    #[serde(default)]
    pub prompt_range: Option<(f64, f64)>,
    /// Those of the generation test.
    #[serde(default)]
    pub generation_range: Option<(f64, f64)>,
    /// Highest resident memory of a process that runs it. Bytes.
    pub peak_memory: Option<u64>,
    /// Change of file size against the original, in percent.
    pub bytes_change: Option<f64>,
    /// Change of prompt speed, in percent.
    pub prompt_change: Option<f64>,
    /// Change of generation speed, in percent.
    pub generation_change: Option<f64>,
    /// Change of the memory of a run, in percent.
    pub memory_change: Option<f64>,
    /// Where it ran.
    pub backend: String,
    /// Warnings of the conversion.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl Row {
    /// The type, with the method where that is not the default.
    pub fn label(&self) -> String {
        match &self.method {
            Some(method) if *method != Methods::default().name() => format!("{} {method}", self.mix),
            _ => self.mix.clone(),
        }
    }

    /// Mean divergence from the original, in nats.
    pub fn divergence(&self) -> Option<f64> {
        Some(self.quality.as_ref()?.divergence.as_ref()?.kl_divergence)
    }

    /// Milliseconds between two generated tokens.
    pub fn token_milliseconds(&self) -> Option<f64> {
        self.generation_tokens_per_second.map(|rate| 1e3 / rate)
    }

    /// Fit to be recommended: measured, proved right, not degraded.
    pub fn is_sound(&self) -> bool {
        self.failure.is_none()
            && self.verified != Some(false)
            && self.perplexity_change.is_some_and(|change| change <= DEGRADED)
    }

    /// Widens the ranges of speeds by those of another measurement of the same.
    pub(super) fn widen(&mut self, again: &Row) {
        let wider = |a: Option<(f64, f64)>, b: Option<(f64, f64)>| match (a, b) {
            (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
            (a, b) => a.or(b),
        };
        self.prompt_range = wider(self.prompt_range, again.prompt_range);
        self.generation_range = wider(self.generation_range, again.generation_range);
    }

    /// Fills in changes and flags from the first row's figures.
    pub(super) fn judge(&mut self, original: &Row) {
        let percent = |now: Option<f64>, then: Option<f64>| {
            now.zip(then).filter(|(_, then)| *then > 0.0).map(|(now, then)| (now / then - 1.0) * 100.0)
        };
        let size = |n: Option<u64>| n.map(|n| n as f64);
        self.bytes_change = percent(size(self.bytes), size(original.bytes));
        self.prompt_change = percent(self.prompt_tokens_per_second, original.prompt_tokens_per_second);
        self.generation_change = percent(self.generation_tokens_per_second, original.generation_tokens_per_second);
        self.memory_change = percent(size(self.peak_memory), size(original.peak_memory));
        self.flags.clear();
        if let Some(why) = &self.failure {
            self.flags.push(format!("failed: {why}"));
        }
        if self.verified == Some(false) {
            self.flags.push("the file is not what the source should have become; run qconv verify on it".into());
        }
        if let Some(change) = self.perplexity_change.filter(|change| *change > DEGRADED) {
            self.flags.push(format!("degraded: perplexity {change:+.1}%, more than {DEGRADED}%"));
        }
        let speeds = [
            (self.prompt_change, self.prompt_range.zip(original.prompt_range), "prompt evaluation"),
            (self.generation_change, self.generation_range.zip(original.generation_range), "generation"),
        ];
        // Where the repetitions of both overlap, the difference may be noise.
        let apart = |ranges: Option<((f64, f64), (f64, f64))>| ranges.is_none_or(|(now, then)| now.1 < then.0);
        let slower = speeds.into_iter().filter(|(_, ranges, _)| apart(*ranges));
        let slower = slower.filter_map(|(change, _, what)| Some((change.filter(|c| *c < 0.0)?, what)));
        let slower: Vec<String> = slower.map(|(change, what)| format!("{what} {change:+.1}%")).collect();
        if !slower.is_empty() {
            self.flags.push(format!("slower than the original: {}", slower.join(", ")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_worse_than_it_seems_is_flagged() {
        let rate = |prompt: f64, generation: f64| Row {
            bytes: Some(100),
            prompt_tokens_per_second: Some(prompt),
            generation_tokens_per_second: Some(generation),
            ..Row::default()
        };
        let original = rate(10.0, 5.0);
        let mut row = Row { bytes: Some(25), perplexity_change: Some(3.0), ..rate(20.0, 5.0) };
        row.judge(&original);
        assert_eq!((row.bytes_change, row.prompt_change), (Some(-75.0), Some(100.0)));
        assert!(row.flags.is_empty() && row.is_sound());
        let mut row = Row { perplexity_change: Some(15.5), verified: Some(false), ..rate(20.0, 4.0) };
        row.judge(&original);
        assert_eq!(row.flags.len(), 3, "{:?}", row.flags);
        assert!(row.flags[2].contains("generation -20.0%"), "{:?}", row.flags);
        row.judge(&original);
        assert_eq!(row.flags.len(), 3, "judged again, nothing is said twice");
        // Repetitions that overlap tell no difference; a second measurement of the original widens its range.
        let ranged = |row: Row, low: f64, high: f64| Row { generation_range: Some((low, high)), ..row };
        let mut original = ranged(original, 4.9, 5.2);
        let mut row = ranged(Row { perplexity_change: Some(1.0), ..rate(10.0, 4.5) }, 4.0, 4.8);
        row.judge(&original);
        assert_eq!(row.flags, ["slower than the original: generation -10.0%"]);
        original.widen(&ranged(rate(10.0, 5.0), 4.7, 5.0));
        assert_eq!(original.generation_range, Some((4.7, 5.2)));
        row.judge(&original);
        assert!(row.flags.is_empty(), "{:?}", row.flags);
        let mut row = Row { failure: Some("no".into()), ..Row::default() };
        row.judge(&original);
        assert_eq!(row.flags, ["failed: no"]);
        assert!(!row.is_sound() && row.memory_change.is_none());
    }

    #[test]
    fn rows_survive_their_file() {
        let row = Row { mix: "Q4_0".into(), method: Some("rtn".into()), bytes: Some(7), ..Row::default() };
        let text = serde_json::to_string(&row).unwrap();
        assert_eq!(serde_json::from_str::<Row>(&text).unwrap(), row);
    }
}
