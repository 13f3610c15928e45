//! What the products need of 16 sums of small integers.

use super::Registers;

/// Products of bytes, summed up in integers.
pub(in crate::cpu::products) trait IntegerSums: Registers {
    /// What a sum of `(code - offset) * x` starts with so that codes need not be shifted: `offset`, a power of two or 0 for
    /// each quarter of the register, times minus the sums of four neighbours of `x`.
    fn start(self, eight: bool, offset: [u8; 4], minus_fours: &[i32; 16]) -> Self::Ints;
    /// `sum + codes . x` in groups of four neighbours. With `eight`, codes have eight bits and stand for `code - 128`;
    /// whether that is taken care of here or in [`IntegerSums::start`] is the instance's choice. Otherwise codes are below 128.
    fn dot(self, eight: bool, sum: Self::Ints, codes: Self::Bytes, x: Self::Bytes) -> Self::Ints;
    /// Products of codes of at most 64 with activations from -127 to 127, summed up as far as suits [`IntegerSums::sixteens`].
    fn products(self, codes: Self::Bytes, x: Self::Bytes) -> Self::Ints;
    /// The same for two parts of neighbours from their [`IntegerSums::products`].
    fn of_two_parts(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// Sums of 16 neighbours from [`IntegerSums::of_two_parts`] of the first two parts and the others.
    fn sixteens(self, first: Self::Ints, second: Self::Ints) -> Self::Ints;
    /// Tells the compiler to work these sums out before what is read later.
    #[inline(always)]
    fn in_turn(self, _: Self::Ints) {}
    /// As [`IntegerSums::start`] for one token and 16 rows, from minus the sum of a group of activations. 32 stands for no offset.
    fn start_group(self, eight: bool, offset_log2: u32, minus_sum: i32) -> Self::Ints;
    /// As [`IntegerSums::dot`] for codes as [`IntegerSums::stored`] left them and the same four activations in all lanes.
    fn dot_four(self, eight: bool, sum: Self::Ints, codes: Self::Bytes, x: [u8; 4]) -> Self::Ints;
    /// Codes as [`IntegerSums::dot_four`] wants them.
    fn stored(self, eight: bool, codes: Self::Bytes) -> Self::Bytes;
    /// As floats.
    fn to_floats(self, i: Self::Ints) -> Self::Floats;
    /// To memory.
    fn store_ints(self, i: Self::Ints, to: &mut [i32; 16]);
}
