//! In which order few activations meet the weights of a unit.
//!
//! A register holds 64 weights (a part of a unit), and a product leaves the sum of four in each lane. Where weights of one group lie in
//! the same lanes of two registers, integer sums are added up before they become floats: half as many conversions and multiplications with
//! scales. Which weights those are is up to how a format packs its codes; activations are put into its order ([`View`](super::view::View)).
//!
//! On Zen 5, with weights in the cache and AVX-512, Q4_K, Q4_0, IQ4_XS, IQ4_NL and Q5_K took 17 to 27% less time in rows of 8192; with
//! AVX2 Q4_0 15%, IQ4 4 to 9%, and Q4_K 5% more. Q8_0 stays as it lies: by halves it took 6 to 9% longer with AVX-512, perhaps because its
//! blocks of 34 bytes need eight loads for a unit then instead of five.

/// An order of a unit's weights.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// As they lie.
    Neighbours,
    /// First halves of four neighbouring groups of 32, then their second halves.
    Halves,
    /// First halves of every other group of 32, then their second halves; then those of the groups between.
    Alternate,
    /// Every fourth weight; see [`super::books`].
    Fourths,
}

impl Order {
    /// Which 16 neighbours of the unit a quarter of a part holds.
    pub(super) const fn piece(self, part: usize, quarter: usize) -> usize {
        match self {
            Order::Neighbours => 4 * part + quarter,
            Order::Halves => 2 * (4 * (part / 2) + quarter) + part % 2,
            Order::Alternate => 2 * (2 * quarter + part / 2) + part % 2,
            Order::Fourths => panic!("a register of every fourth weight has no neighbours"),
        }
    }

    /// How many parts share their lanes.
    pub(super) const fn together(self) -> usize {
        match self {
            Order::Neighbours => 1,
            Order::Halves | Order::Alternate => 2,
            Order::Fourths => 4,
        }
    }

    /// Which groups of `group` weights the quarters of a part belong to, counted from `first`.
    pub(super) const fn groups(self, group: usize, part: usize, first: usize) -> [usize; 4] {
        let mut groups = [0; 4];
        let mut quarter = 0;
        while quarter < 4 {
            groups[quarter] = first + 16 * self.piece(part, quarter) / group;
            quarter += 1;
        }
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_has_one_place_and_parts_together_share_their_groups() {
        for order in [Order::Neighbours, Order::Halves, Order::Alternate] {
            let mut pieces: Vec<usize> = (0..16).map(|i| order.piece(i / 4, i % 4)).collect();
            pieces.sort_unstable();
            assert_eq!(pieces, (0..16).collect::<Vec<_>>());
            for part in (0..4).step_by(order.together()) {
                for other in part..part + order.together() {
                    assert_eq!(order.groups(32, part, 8), order.groups(32, other, 8));
                }
            }
        }
    }
}
