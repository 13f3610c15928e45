//! One choice per item, the least cost within a size: the multiple-choice knapsack.
//!
//! Solved by dynamic programming over sizes, counted in the largest unit that divides all of them: then it is exact. Where that
//! would take too many steps the unit is coarser and sizes are rounded up, so that what is found still fits; how far it can
//! be from the best is told by the Lagrangian bound (Everett 1963), which needs no unit.

/// What an item may become.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// Bytes.
    pub size: u64,
    /// Not negative, finite.
    pub cost: f64,
}

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Number of the choice for each item.
    pub picks: Vec<usize>,
    /// Sum of sizes.
    pub size: u64,
    /// Sum of costs.
    pub cost: f64,
    /// No choice within the size costs less than this.
    pub bound: f64,
}

/// Steps of the dynamic programming at most.
const STEPS: u64 = 400_000_000;
/// Bytes of its table at most.
const TABLE: u64 = 256 << 20;

/// The least cost within `most` bytes; `None` if even the smallest choices are larger. Items have at least one choice.
pub fn least_cost(items: &[Vec<Choice>], most: u64) -> Option<Found> {
    let table = Table::new(items, most)?;
    let last = table.cost.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1).then(a.0.cmp(&b.0)))?.0;
    Some(table.found(items, last, lagrangian_bound(items, most)))
}

/// The least size that costs `most` at most; `None` if there is none. Its `bound` is that cost.
pub fn least_size(items: &[Vec<Choice>], most: f64) -> Option<Found> {
    let largest = items.iter().map(|item| item.iter().map(|c| c.size).max().unwrap_or(0)).sum();
    let table = Table::new(items, largest)?;
    let first = table.cost.iter().position(|cost| *cost <= most)?;
    let found = table.found(items, first, 0.0);
    Some(Found { bound: lagrangian_bound(items, found.size), ..found })
}

/// Steps of the search for the price of time.
const PRICES: usize = 14;

/// The least cost within `most` bytes and `seconds`, where choice `c` of item `i` takes `times[i][c]`. The error is the least time
/// within that size; `None` if nothing is that small.
///
/// Time has a price (Everett 1963), the lowest at which what is best keeps the budget: near the best, and [`Found::bound`] tells
/// how near.
pub fn least_cost_in_time(
    items: &[Vec<Choice>],
    times: &[Vec<f64>],
    most: u64,
    seconds: f64,
) -> Option<Result<Found, f64>> {
    let priced = |price: f64, weight: f64| -> Vec<Vec<Choice>> {
        let of = |(item, times): (&Vec<Choice>, &Vec<f64>)| {
            item.iter().zip(times).map(|(c, t)| Choice { cost: weight * c.cost + price * t, ..*c }).collect()
        };
        items.iter().zip(times).map(of).collect()
    };
    let time = |found: &Found| -> f64 { times.iter().zip(&found.picks).map(|(t, &p)| t[p]).sum() };
    let plain = least_cost(items, most)?;
    if time(&plain) <= seconds {
        return Some(Ok(plain));
    }
    let mut best = least_cost(&priced(1.0, 0.0), most)?;
    if time(&best) > seconds {
        return Some(Err(time(&best)));
    }
    let cost = |found: &Found| -> f64 { items.iter().zip(&found.picks).map(|(item, &p)| item[p].cost).sum() };
    best.cost = cost(&best);
    let mut bound = plain.bound;
    // What the fastest plan costs more for each second that it saves is about the price in question.
    let middle = ((best.cost - plain.cost) / (time(&plain) - time(&best))).max(f64::MIN_POSITIVE).ln();
    let (mut low, mut high) = (middle - 12.0, middle + 12.0);
    for _ in 0..PRICES {
        let price = ((low + high) / 2.0).exp();
        let found = least_cost(&priced(price, 1.0), most)?;
        bound = bound.max(found.bound - price * seconds);
        if time(&found) <= seconds {
            high = price.ln();
            let cost = cost(&found);
            if cost < best.cost {
                best = Found { cost, ..found };
            }
        } else {
            low = price.ln();
        }
    }
    Some(Ok(Found { bound: bound.min(best.cost), ..best }))
}

/// Smallest size that items can have.
pub fn smallest(items: &[Vec<Choice>]) -> u64 {
    items.iter().map(|item| item.iter().map(|c| c.size).min().unwrap_or(0)).sum()
}

/// Least cost by size, and how it came about.
struct Table {
    /// What every item takes at least.
    least: Vec<u64>,
    unit: u64,
    /// By units beyond the least: the least cost within that size.
    cost: Vec<f64>,
    /// `(items, units)`: the choice that gives it.
    pick: Vec<u8>,
}

impl Table {
    fn new(items: &[Vec<Choice>], most: u64) -> Option<Self> {
        assert!(items.iter().all(|item| (1..256).contains(&item.len())), "one to 255 choices per item");
        let least: Vec<u64> = items.iter().map(|item| item.iter().map(|c| c.size).min().unwrap_or(0)).collect();
        let room = most.checked_sub(least.iter().sum())?;
        let above = |i: usize, c: &Choice| c.size - least[i];
        let largest: u64 =
            items.iter().zip(&least).map(|(item, l)| item.iter().map(|c| c.size - l).max().unwrap_or(0)).sum();
        let room = room.min(largest);
        let all = items.iter().enumerate().flat_map(|(i, item)| item.iter().map(move |c| (i, c)));
        let divisor = all.map(|(i, c)| above(i, c)).fold(0, gcd).max(1);
        let choices: u64 = items.iter().map(|item| item.len() as u64).sum();
        let states = (STEPS / choices.max(1)).min(TABLE / items.len().max(1) as u64).max(2);
        let unit = divisor * (room / divisor).div_ceil(states).max(1);

        let units = (room / unit) as usize + 1;
        let mut table = Table { least, unit, cost: vec![0.0; units], pick: vec![0; units * items.len()] };
        let mut next = vec![0.0; units];
        for (i, item) in items.iter().enumerate() {
            next.fill(f64::INFINITY);
            let picks = &mut table.pick[i * units..(i + 1) * units];
            for (number, choice) in item.iter().enumerate() {
                let step = (choice.size - table.least[i]).div_ceil(unit) as usize;
                if step >= units {
                    continue;
                }
                for at in step..units {
                    let cost = table.cost[at - step] + choice.cost;
                    if cost < next[at] {
                        next[at] = cost;
                        picks[at] = number as u8;
                    }
                }
            }
            std::mem::swap(&mut table.cost, &mut next);
        }
        Some(table)
    }

    /// The choices behind a cell.
    fn found(&self, items: &[Vec<Choice>], mut at: usize, bound: f64) -> Found {
        let units = self.cost.len();
        let mut picks = vec![0; items.len()];
        for i in (0..items.len()).rev() {
            picks[i] = usize::from(self.pick[i * units + at]);
            at -= (items[i][picks[i]].size - self.least[i]).div_ceil(self.unit) as usize;
        }
        let chosen = || items.iter().zip(&picks).map(|(item, &p)| item[p]);
        let (size, cost) = (chosen().map(|c| c.size).sum(), chosen().map(|c| c.cost).sum::<f64>());
        Found { picks, size, cost, bound: bound.min(cost) }
    }
}

/// Whatever the price of a byte, items that each take what is best at that price cost no more, together with the bytes, than any
/// choice that fits: the best of such bounds.
fn lagrangian_bound(items: &[Vec<Choice>], most: u64) -> f64 {
    let at = |price: f64| {
        let best =
            |item: &Vec<Choice>| item.iter().map(|c| c.cost + price * c.size as f64).fold(f64::INFINITY, f64::min);
        items.iter().map(best).sum::<f64>() - price * most as f64
    };
    // Concave in the price; searched by its logarithm.
    let (mut low, mut high) = (-60f64, 20f64);
    for _ in 0..120 {
        let (a, b) = (low + (high - low) / 3.0, high - (high - low) / 3.0);
        if at(a.exp()) < at(b.exp()) { low = a } else { high = b }
    }
    at(low.exp()).max(at(0.0))
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reproducible items.
    fn items(n: usize, unit: u64, seed: u64) -> Vec<Vec<Choice>> {
        let mut state = seed;
        let mut next = move |most: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % most
        };
        let mut item = || (0..4).map(|_| Choice { size: (next(9) + 1) * unit, cost: next(1000) as f64 }).collect();
        (0..n).map(|_| item()).collect()
    }

    /// All combinations.
    fn naive(items: &[Vec<Choice>], most: u64) -> Option<f64> {
        let combos = 4usize.pow(items.len() as u32);
        let of = |mut combo: usize| {
            let mut all = (0, 0.0);
            for item in items {
                all = (all.0 + item[combo % 4].size, all.1 + item[combo % 4].cost);
                combo /= 4;
            }
            all
        };
        (0..combos).map(of).filter(|all| all.0 <= most).map(|all| all.1).min_by(f64::total_cmp)
    }

    #[test]
    fn nothing_better_fits() {
        for seed in 0..30 {
            let items = items(5, 32, seed);
            for most in [0, 200, 400, 640, 1000, 5000] {
                let found = least_cost(&items, most);
                let best = naive(&items, most);
                assert_eq!(found.as_ref().map(|f| f.cost), best, "seed {seed}, most {most}");
                let Some(found) = found else { continue };
                assert!(found.size <= most && found.bound <= found.cost + 1e-9, "{found:?}");
                let smaller = least_size(&items, found.cost).unwrap();
                assert!(smaller.size <= found.size && smaller.cost <= found.cost, "{smaller:?} {found:?}");
                assert!(naive(&items, smaller.size - 1).is_none_or(|cost| cost > found.cost));
            }
            assert!(least_size(&items, -1.0).is_none());
            assert_eq!(least_cost(&items, smallest(&items)).unwrap().size, smallest(&items));
        }
    }

    #[test]
    fn both_budgets_are_kept() {
        for seed in 0..10 {
            let items = items(6, 32, seed);
            // What is small is not always fast.
            let time = |c: &Choice| (c.size as f64 * if c.size.is_multiple_of(64) { 3.0 } else { 1.0 }) / 1e6;
            let times: Vec<Vec<f64>> = items.iter().map(|item| item.iter().map(time).collect()).collect();
            let most = smallest(&items) + 300;
            let plain = least_cost(&items, most).unwrap();
            let of = |found: &Found| -> f64 { times.iter().zip(&found.picks).map(|(t, &p)| t[p]).sum() };
            let same = least_cost_in_time(&items, &times, most, of(&plain)).unwrap().unwrap();
            assert_eq!(same, plain);
            let fastest = least_cost_in_time(&items, &times, most, 0.0).unwrap().unwrap_err();
            let seconds = (fastest + of(&plain)) / 2.0;
            let found = least_cost_in_time(&items, &times, most, seconds).unwrap().unwrap();
            assert!(found.size <= most && of(&found) <= seconds && found.cost >= plain.cost);
            // All combinations.
            let mut least = f64::INFINITY;
            for combo in 0..4usize.pow(6) {
                let picks: Vec<usize> = (0..6).map(|i| combo / 4usize.pow(i) % 4).collect();
                let sum =
                    |f: &dyn Fn(usize, usize) -> f64| picks.iter().enumerate().map(|(i, &p)| f(i, p)).sum::<f64>();
                if sum(&|i, p| items[i][p].size as f64) <= most as f64 && sum(&|i, p| times[i][p]) <= seconds {
                    least = least.min(sum(&|i, p| items[i][p].cost));
                }
            }
            assert!(found.bound <= least + 1e-9 && least <= found.cost, "{seed}: {found:?} {least}");
            assert!(least_cost_in_time(&items, &times, 0, 1.0).is_none());
        }
    }

    #[test]
    fn coarse_units_still_fit_and_tell_the_gap() {
        // Sizes without a common divisor, and far too many of them for one cell per byte.
        let items: Vec<Vec<Choice>> = (0..200u64)
            .map(|i| {
                (1..5u64)
                    .map(|b| Choice {
                        size: b * 1_000_003 + i * 17,
                        cost: (1000 * (i % 7 + 1)) as f64 / (b * b) as f64,
                    })
                    .collect()
            })
            .collect();
        let most = 500_000_000;
        let found = least_cost(&items, most).unwrap();
        assert!(found.size <= most && found.cost < found.bound * 1.02, "{} {} {}", found.size, found.cost, found.bound);
    }
}
