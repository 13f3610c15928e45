//! How rows are shared among threads where tokens are few.
//!
//! Memory is read best in long streams, and threads should end at the same time: so items are large at first and small at
//! the end, each about a part of what is left (guided self-scheduling, Polychronopoulos and Kuck 1987). With items of 256 KiB
//! throughout, threads end up to 15 microseconds apart (a computation, not a measurement), in each of the hundred products of a
//! token.

use std::ops::Range;

/// Bytes of the smallest items: a microsecond of work, a few times what taking the next one costs.
const SMALLEST: usize = 32 * 1024;

/// Bytes of the largest, so that a thread that the system has put aside does not hold too much.
const LARGEST: usize = 512 * 1024;

/// Some rows of one of several weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Share {
    /// Which weight.
    pub weight: usize,
    pub rows: Range<usize>,
}

/// All rows of weights, given as their numbers of rows and bytes of a row; multiples of `step` rows but for the ends.
pub(super) fn cut(weights: impl Iterator<Item = (usize, usize)> + Clone, threads: usize, step: usize) -> Vec<Share> {
    let mut left: usize = weights.clone().map(|(rows, bytes)| rows * bytes).sum();
    let mut shares = Vec::new();
    for (weight, (rows, row_bytes)) in weights.enumerate() {
        let mut first = 0;
        while first < rows {
            let bytes = if threads == 1 { left } else { (left / (2 * threads)).clamp(SMALLEST, LARGEST) };
            let end = rows.min(first + (bytes / row_bytes.max(1)).next_multiple_of(step).max(step));
            shares.push(Share { weight, rows: first..end });
            left -= (end - first) * row_bytes;
            first = end;
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_one_share_and_the_last_ones_are_small() {
        for threads in [1, 2, 7, 64] {
            for weights in
                [vec![], vec![(1, 34)], vec![(2048, 2176), (512, 2176), (513, 2176)], vec![(128_257, 0), (3, 9)]]
            {
                let shares = cut(weights.iter().copied(), threads, 2);
                for (weight, (rows, _)) in weights.iter().enumerate() {
                    let mut next = 0;
                    for share in shares.iter().filter(|s| s.weight == weight) {
                        assert!(share.rows.start == next && share.rows.end > next, "{share:?}");
                        next = share.rows.end;
                    }
                    assert_eq!(next, *rows);
                }
                let bytes = |s: &Share| s.rows.len() * weights[s.weight].1;
                if let (Some(first), Some(last)) = (shares.first(), shares.last()) {
                    assert!(threads == 1 || bytes(last) <= SMALLEST + 2 * 2176, "{shares:?}");
                    assert!(bytes(first) <= LARGEST + 2 * 2176 || threads == 1);
                }
            }
        }
    }
}
