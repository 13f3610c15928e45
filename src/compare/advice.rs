//! Which variant for which use, with the figures that say so.

use super::Row;
use crate::ui;
use serde::Serialize;

/// What "as good as the original" means here: percent of perplexity.
const SAME: f64 = 1.0;
/// Files up to so many times as large are of the same size: those of one type differ by what their recipes take.
const SAME_SIZE: f64 = 1.005;

/// A recommendation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// The use: "smallest within 1% of the original's perplexity".
    pub purpose: String,
    /// The variant; `None` if there is none.
    pub variant: Option<String>,
    /// Why, in figures.
    pub reason: String,
}

/// Tokens per second, if they were measured.
type Rate = fn(&Row) -> Option<f64>;
/// The slowest and the fastest repetition.
type Range = fn(&Row) -> Option<(f64, f64)>;

/// The advice that rows give; the first is the original. `sizes`: bytes for which the best variant is asked; the quarter, third
/// and half of the original's where that is empty.
pub fn advice(rows: &[Row], sizes: &[u64]) -> Vec<Advice> {
    let Some((original, variants)) = rows.split_first() else { return Vec::new() };
    let sound: Vec<&Row> = variants.iter().filter(|r| r.is_sound()).collect();
    let least = |key: &dyn Fn(&Row) -> Option<f64>, among: &dyn Fn(&Row) -> bool| {
        let keyed = sound.iter().filter(|r| among(r)).filter_map(|r| Some((key(r)?, *r)));
        keyed.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, r)| r)
    };
    let size = |r: &Row| r.bytes.map(|n| n as f64);
    let mut out = Vec::new();
    let mut say = |purpose: String, found: Option<&Row>, reason: &dyn Fn(&Row) -> String, none: &str| {
        let (variant, reason) = match found {
            Some(row) => (Some(row.label()), reason(row)),
            None => (None, none.to_owned()),
        };
        out.push(Advice { purpose, variant, reason });
    };

    let good = |r: &Row| r.perplexity_change.is_some_and(|c| c <= SAME);
    let smallest = least(&size, &good).and_then(size).unwrap_or(0.0);
    let small = least(&Row::divergence, &|r| good(r) && size(r).is_some_and(|n| n <= SAME_SIZE * smallest));
    let purpose = format!("smallest within {SAME}% of the original's perplexity");
    say(purpose, small, &|r| format!("{}, {}", size_of(r), quality_of(r)), "no variant is that good");
    let speeds: [(&str, Rate, Range); 2] = [
        ("generation", |r| r.generation_tokens_per_second, |r| r.generation_range),
        ("prompts", |r| r.prompt_tokens_per_second, |r| r.prompt_range),
    ];
    for (what, rate, range) in speeds {
        // What the repetitions do not tell apart from the fastest is as fast, as far as anybody knows.
        let top = least(&|r| rate(r).map(|x| -x), &|_| true);
        let floor = top.and_then(|r| Some(range(r).map_or(rate(r)?, |(low, _)| low))).unwrap_or(0.0);
        let as_fast = |r: &Row| range(r).map(|(_, high)| high).or(rate(r)).is_some_and(|high| high >= floor);
        let rivals = sound.iter().filter(|r| as_fast(r)).count();
        let fastest = least(&Row::divergence, &as_fast);
        let reason = |r: &Row| {
            let gain = rate(r)
                .zip(rate(original))
                .map_or(String::new(), |(a, b)| format!(" ({:.2} times the original)", a / b));
            let rivals = match rivals {
                0 | 1 => String::new(),
                n => format!("; the best of {n} whose repetitions overlap with the fastest's"),
            };
            format!("{:.0} tokens/s{gain}, {}{rivals}", rate(r).unwrap_or(0.0), quality_of(r))
        };
        if original.failure.is_none() && rate(original).is_some() {
            say(format!("fastest {what}"), fastest, &reason, "no variant is sound");
        }
    }
    let defaults = [4, 3, 2].map(|part| original.bytes.unwrap_or(0) / part);
    for &most in if sizes.is_empty() { &defaults } else { sizes } {
        let best = least(&|r| r.divergence(), &|r| r.bytes.is_some_and(|n| n <= most));
        let purpose = format!("best within {}", ui::bytes(most));
        say(purpose, best, &|r| format!("{}, {}", quality_of(r), size_of(r)), "no sound variant is that small");
    }
    out
}

fn size_of(r: &Row) -> String {
    let change = r.bytes_change.map_or(String::new(), |c| format!(" ({c:+.0}%)"));
    format!("{}{change}", ui::bytes(r.bytes.unwrap_or(0)))
}

fn quality_of(r: &Row) -> String {
    let error =
        r.quality.as_ref().and_then(|q| q.divergence.as_ref()).map_or(0.0, |d| d.perplexity_ratio_error * 100.0);
    let change = r.perplexity_change.map_or("unknown".into(), |c| format!("{c:+.2} ± {error:.2}%"));
    format!("perplexity {change}, divergence {:.5}", r.divergence().unwrap_or(f64::NAN))
}

/// The variants that no other beats in both figures (smaller is better), by their number, in the order of `x`.
pub fn front(points: &[(f64, f64)]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by(|&a, &b| points[a].0.total_cmp(&points[b].0).then(points[a].1.total_cmp(&points[b].1)));
    let mut best = f64::INFINITY;
    order.retain(|&i| {
        let better = points[i].1 < best;
        best = best.min(points[i].1);
        better
    });
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::{Divergence, Perplexity};

    fn row(mix: &str, bytes: u64, change: f64, kl: f64, rate: f64) -> Row {
        let text = r#"{"base_perplexity":2,"base_perplexity_error":0,"perplexity_ratio":1,"perplexity_ratio_error":0.001,
            "kl_divergence":0,"kl_divergence_error":0,"kl_divergence_median":0,"kl_divergence_99":0,"kl_divergence_max":0,
            "top1_agreement":1,"top1_agreement_error":0,"mean_probability_change":0,"mean_probability_change_error":0,
            "rms_probability_change":0,"rms_probability_change_error":0}"#;
        let divergence = Divergence { kl_divergence: kl, ..serde_json::from_str(text).unwrap() };
        let quality = Perplexity {
            perplexity: 2.0,
            perplexity_error: 0.1,
            tokens: 9,
            chunks: 1,
            ctx: 18,
            stride: None,
            divergence: Some(divergence),
            seconds: 1.0,
            tokens_per_second: 18.0,
        };
        Row {
            mix: mix.into(),
            bytes: Some(bytes),
            perplexity_change: Some(change),
            generation_tokens_per_second: Some(rate),
            quality: Some(quality),
            ..Row::default()
        }
    }

    #[test]
    fn advice_follows_from_the_figures() {
        let mut rows = vec![
            row("F16", 1000, 0.0, 0.0, 10.0),
            row("good", 500, 0.1, 0.001, 15.0),
            row("small", 300, 0.9, 0.010, 20.0),
            row("tiny", 200, 9.0, 0.100, 30.0),
            row("broken", 100, 90.0, 1.0, 90.0),
        ];
        let all = advice(&rows, &[]);
        let of = |all: &[Advice], i: usize| (all[i].purpose.clone(), all[i].variant.clone().unwrap_or("none".into()));
        assert_eq!(of(&all, 0).1, "small");
        assert!(all[0].reason.contains("300 B") && all[0].reason.contains("+0.90 ± 0.10%"), "{}", all[0].reason);
        assert_eq!(of(&all, 1), ("fastest generation".into(), "tiny".into()), "what is degraded is no advice");
        assert!(all[1].reason.contains("3.00 times"), "{}", all[1].reason);
        let sizes: Vec<String> = (2..5).map(|i| of(&all, i).1).collect();
        assert_eq!(sizes, ["tiny", "small", "good"]);
        // Repetitions that overlap do not tell which is the fastest: the best of them is advised. So with sizes.
        rows[2].generation_range = Some((18.0, 29.5));
        rows[3].generation_range = Some((29.0, 31.0));
        rows.push(row("larger by its recipe", 301, 0.8, 0.009, 10.0));
        let overlapping = advice(&rows, &[]);
        assert_eq!(of(&overlapping, 0).1, "larger by its recipe");
        assert_eq!(of(&overlapping, 1).1, "small");
        assert!(overlapping[1].reason.contains("the best of 2 whose"), "{}", overlapping[1].reason);
        rows.pop();
        rows[1].verified = Some(false);
        assert_eq!(of(&advice(&rows, &[600]), 2), ("best within 600 B".into(), "small".into()));
        assert_eq!(of(&advice(&rows, &[150]), 2).1, "none");
        assert_eq!(of(&advice(&rows[..1], &[]), 0).1, "none");
    }

    #[test]
    fn the_front_holds_what_nothing_beats() {
        let points = [(4.0, 1.0), (2.0, 3.0), (3.0, 3.0), (1.0, 9.0), (4.0, 2.0)];
        assert_eq!(front(&points), [3, 1, 0]);
        assert!(front(&[]).is_empty());
    }
}
