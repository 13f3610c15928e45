//! Axes: ranges with some air, and round numbers to mark them.

/// How figures become positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Evenly.
    Linear,
    /// By the logarithm; figures have to be positive.
    Log,
}

/// An axis.
#[derive(Debug, Clone)]
pub struct Axis {
    /// What it shows, with the unit.
    pub name: String,
    /// How.
    pub scale: Scale,
}

impl Axis {
    /// An axis by name.
    pub fn new(name: impl Into<String>, scale: Scale) -> Self {
        Axis { name: name.into(), scale }
    }

    /// The position of a figure on it.
    pub fn position(&self, figure: f64) -> f64 {
        match self.scale {
            Scale::Linear => figure,
            Scale::Log => figure.log10(),
        }
    }

    /// The first and last position for these figures, with some air on both sides.
    pub fn range(&self, figures: impl Iterator<Item = f64>) -> (f64, f64) {
        let positions = figures.map(|f| self.position(f)).filter(|p| p.is_finite());
        let (low, high) = positions.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), p| (l.min(p), h.max(p)));
        if low > high {
            return (0.0, 1.0);
        }
        let least = if self.scale == Scale::Log { 0.3 } else { low.abs().max(1e-9) * 0.1 };
        let air = ((high - low) * 0.09).max(least / 2.0);
        (low - air, high + air)
    }

    /// Positions with their texts: round numbers in a range, some six of them.
    pub fn marks(&self, (low, high): (f64, f64)) -> Vec<(f64, String)> {
        match self.scale {
            Scale::Linear => {
                let step = round_step((high - low) / 6.0);
                let digits = (-step.log10().floor()).max(0.0) as usize;
                let first = (low / step).ceil() as i64;
                let last = (high / step).floor() as i64;
                (first..=last).map(|i| i as f64 * step).map(|x| (x, format!("{x:.digits$}"))).collect()
            }
            Scale::Log => {
                let digits: &[f64] = match high - low {
                    width if width > 4.5 => &[1.0],
                    width if width > 1.8 => &[1.0, 3.0],
                    width if width > 0.6 => &[1.0, 2.0, 5.0],
                    _ => &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0],
                };
                let decades = low.floor() as i32..=high.ceil() as i32;
                let all = decades.flat_map(|d| digits.iter().map(move |m| m * 10f64.powi(d)));
                let inside = all.filter(|x| (low..=high).contains(&x.log10()));
                inside.map(|x| (x.log10(), plain(x))).collect()
            }
        }
    }
}

/// 1, 2 or 5 times a power of ten, next above.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= least * 0.999).unwrap_or(power * 10.0)
}

/// Two significant digits at most, without an exponent where that reads better.
fn plain(x: f64) -> String {
    if !(1e-5..1e6).contains(&x) {
        return format!("{x:.0e}");
    }
    let digits = (1.0 - x.log10().floor()).max(0.0) as usize;
    let text = format!("{x:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_round_and_inside() {
        let axis = Axis::new("x", Scale::Linear);
        let texts = |axis: &Axis, range| axis.marks(range).into_iter().map(|m| m.1).collect::<Vec<_>>();
        assert_eq!(texts(&axis, (0.3, 3.1)), ["0.5", "1.0", "1.5", "2.0", "2.5", "3.0"]);
        assert_eq!(texts(&axis, (-5.0, 130.0)), ["0", "50", "100"]);
        let log = Axis::new("x", Scale::Log);
        assert_eq!(texts(&log, (-3.2, -1.0)), ["0.001", "0.003", "0.01", "0.03", "0.1"]);
        assert_eq!(texts(&log, (0.0, 1.0)), ["1", "2", "5", "10"]);
        assert!(texts(&log, (-1.1, -0.9)).contains(&"0.1".to_owned()));
        let (low, high) = log.range([0.001, 0.1].into_iter());
        assert!(low < -3.0 && high > -1.0 && low > -3.5);
        assert_eq!(axis.range(std::iter::empty()), (0.0, 1.0));
        let (low, high) = axis.range([5.0].into_iter());
        assert!(low < 5.0 && high > 5.0);
        for x in [1e-7, 0.00021, 15.0, 1500.0, 2e7] {
            assert!((plain(x).parse::<f64>().unwrap() / x - 1.0).abs() < 0.06, "{}", plain(x));
        }
    }
}
