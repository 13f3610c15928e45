//! What the products need of 16 sums of small integers.

use super::super::panel::UNIT;
use super::Registers;

/// Products of bytes, summed up in integers.
pub(in crate::cpu::products) trait IntegerSums: Registers {
    /// What a sum of `(code - 128) * x` starts with so that codes need not be shifted, or zeros where [`IntegerSums::dot`] takes care of it.
    fn start(self, minus_128: &[i32; 16]) -> Self::Ints;
    /// `sum + codes . x` in groups of four neighbours. With `eight`, codes have eight bits and stand for `code - 128`;
    /// whether that is taken care of here or in [`IntegerSums::start`] is the instance's choice. Otherwise codes are below 128.
    fn dot(self, eight: bool, sum: Self::Ints, codes: Self::Bytes, x: Self::Bytes) -> Self::Ints;
    /// What few activations are stored as once more: in fourths (all `4 i`, then all `4 i + 1` and so on; see
    /// [`books`](super::super::books)) where the instance has no other use for it.
    #[inline(always)]
    fn once_more(self, x: &[u8; UNIT], to: &mut [u8; UNIT]) {
        for (p, fourth) in to.as_chunks_mut::<{ UNIT / 4 }>().0.iter_mut().enumerate() {
            for (to, from) in fourth.iter_mut().zip(x.as_chunks::<4>().0) {
                *to = from[p];
            }
        }
    }
    /// As [`IntegerSums::dot`] with `eight` for codes that are never 0, with activations and what they are stored as once more.
    #[inline(always)]
    fn dot_levels(self, sum: Self::Ints, codes: Self::Bytes, x: Self::Bytes, _more: Self::Bytes) -> Self::Ints {
        self.dot(true, sum, codes, x)
    }
    /// Products of codes of at most 64 with activations from -127 to 127, summed up as far as suits [`IntegerSums::sixteens`].
    fn products(self, codes: Self::Bytes, x: Self::Bytes) -> Self::Ints;
    /// The same for two parts of neighbours from their [`IntegerSums::products`].
    fn of_two_parts(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// Sums of 16 neighbours from [`IntegerSums::of_two_parts`] of the first two parts and the others.
    fn sixteens(self, first: Self::Ints, second: Self::Ints) -> Self::Ints;
    /// Tells the compiler to work these sums out before what is read later.
    #[inline(always)]
    fn in_turn(self, _: Self::Ints) {}
    /// `sum + codes . x + more . y`, without `eight`; codes are at most 64.
    fn dot_two(self, sum: Self::Ints, both: [[Self::Bytes; 2]; 2]) -> Self::Ints;
    /// As [`IntegerSums::start`] for one token and 16 rows, from minus the sum of a group of activations. 32 stands for no offset.
    fn start_group(self, eight: bool, offset_log2: u32, minus_sum: i32) -> Self::Ints;
    /// As [`IntegerSums::dot`] for codes as [`IntegerSums::stored`] left them and the same four activations in all lanes.
    fn dot_four(self, eight: bool, sum: Self::Ints, codes: Self::Bytes, x: [u8; 4]) -> Self::Ints;
    /// Of codes below 32 four [`IntegerSums::dot_small`] may be summed up, between this and [`IntegerSums::end_small`].
    #[inline(always)]
    fn begin_small(self, sum: Self::Ints) -> Self::Ints {
        sum
    }
    /// As [`IntegerSums::dot_four`].
    #[inline(always)]
    fn dot_small(self, sum: Self::Ints, codes: Self::Bytes, x: [u8; 4]) -> Self::Ints {
        self.dot_four(false, sum, codes, x)
    }
    /// The sum from what [`IntegerSums::begin_small`] was given.
    #[inline(always)]
    fn end_small(self, _sum: Self::Ints, small: Self::Ints) -> Self::Ints {
        small
    }
    /// Codes as [`IntegerSums::dot_four`] wants them.
    fn stored(self, eight: bool, codes: Self::Bytes) -> Self::Bytes;
    /// As floats.
    fn to_floats(self, i: Self::Ints) -> Self::Floats;
    /// To memory.
    fn store_ints(self, i: Self::Ints, to: &mut [i32; 16]);
}
