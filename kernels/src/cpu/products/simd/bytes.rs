//! What the products need of 64 bytes.
//!
//! Slices are indexed by constants after inlining, so that the checks disappear.

use super::Registers;

/// Loads of codes, and what decodes them.
pub(in crate::cpu::products) trait ByteLanes: Registers {
    /// `bytes[at .. at + 64]`.
    fn load(self, bytes: &[u8], at: usize) -> Self::Bytes;
    /// `bytes[a .. a + 32]`, then `bytes[b .. b + 32]`.
    fn pair(self, bytes: &[u8], a: usize, b: usize) -> Self::Bytes;
    /// The 32 bytes at `at` of blocks `2 * part` and the next, of `block` bytes, which make up the unit; `block` and `at` are even.
    #[inline(always)]
    fn blocks(self, unit: &[u8], block: usize, at: usize, part: usize) -> Self::Bytes {
        self.pair(unit, 2 * part * block + at, (2 * part + 1) * block + at)
    }
    /// The same, each block by a load of its own.
    #[inline(always)]
    fn blocks_apart(self, unit: &[u8], block: usize, at: usize, part: usize) -> Self::Bytes {
        self.blocks(unit, block, at, part)
    }
    /// The first 16 bytes of `a` twice, then those of `b` twice.
    fn heads(self, a: &[u8], b: &[u8]) -> Self::Bytes;
    /// For each byte the one of its 16 that the table says, or 0 for 0x80.
    fn pick(self, b: Self::Bytes, table: &[u8; 64]) -> Self::Bytes;
    /// `b & mask` in each byte, with a mask for each quarter.
    fn and_quarters(self, b: Self::Bytes, masks: [u8; 4]) -> Self::Bytes;
    /// `b & mask`.
    fn and_all(self, b: Self::Bytes, mask: &[u8; 64]) -> Self::Bytes;
    /// Eight little-endian words.
    fn words(self, words: [u64; 8]) -> Self::Bytes;
    /// `bytes[at .. at + 16]` for four places, ascending or all the same.
    fn quarters(self, bytes: &[u8], at: [usize; 4]) -> Self::Bytes;
    /// 32 bytes from `at` on: of each eight the lower halves, then the upper ones.
    fn nibbles_of_longs(self, bytes: &[u8], at: usize) -> Self::Bytes;
    /// 32 bytes as 16-bit numbers.
    fn widen(self, bytes: &[u8], at: usize) -> Self::Bytes;
    /// `value` where the mask has a one, 0 elsewhere.
    fn where_set(self, mask: u64, value: u8) -> Self::Bytes;
    /// 16 bytes each shifted right by a count of their own, as 32-bit numbers: only bits that a mask then keeps count.
    fn shift(self, counts: [u32; 4], b: Self::Bytes) -> Self::Bytes;
    /// The same to the left.
    fn shift_up(self, counts: [u32; 4], b: Self::Bytes) -> Self::Bytes;
    /// Bit `from` of each byte of a quarter as bit `to`; the other bits may be anything.
    fn bits_to(self, from: [u32; 4], to: u32, b: Self::Bytes) -> Self::Bytes;
    /// Shifted left as 32-bit numbers.
    fn words_left<const N: u32>(self, b: Self::Bytes) -> Self::Bytes;
    /// Shifted right as 32-bit numbers.
    fn words_right<const N: u32>(self, b: Self::Bytes) -> Self::Bytes;
    /// `b & mask` in each 32-bit number.
    fn and_words(self, b: Self::Bytes, mask: u32) -> Self::Bytes;
    /// `a ^ b`.
    fn xor_all(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// `b & mask` in each byte.
    fn and(self, b: Self::Bytes, mask: u8) -> Self::Bytes;
    /// `b ^ mask` in each byte.
    fn xor(self, b: Self::Bytes, mask: u8) -> Self::Bytes;
    /// `b + value` in each byte, wrapping.
    fn add(self, b: Self::Bytes, value: u8) -> Self::Bytes;
    /// `a * b` in each byte, wrapping.
    fn multiply_bytes(self, a: Self::Bytes, b: &[u8; 64]) -> Self::Bytes;
    /// How many of both numbers each byte reaches.
    fn reached(self, b: Self::Bytes, low: u8, high: u8) -> Self::Bytes;
    /// `a + b` in each byte, wrapping.
    fn add_all(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// `a | b`.
    fn or(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// `table[b]` for each byte; bytes are below 16.
    fn lookup(self, table: &[u8; 16], b: Self::Bytes) -> Self::Bytes;
    /// From memory, as little-endian words.
    fn load_words(self, from: &[u32; 16]) -> Self::Bytes;
    /// To memory, as little-endian words.
    fn store(self, b: Self::Bytes, to: &mut [u32; 16]);
}
