//! Permutations of bytes, for lookups of 64 numbers at once.
//!
//! What is provided here is the scalar twin; AVX-512 with VBMI has an instruction for each. Formats ask for them only where
//! [`Permutes::PERMUTES`] says that they are fast.

use super::simd::Registers;

/// A table of 16-bit numbers: their low bytes, then their high bytes.
pub(super) type Halves<const N: usize> = [[u8; N]; 2];

/// Permutations of bytes and of bits.
pub(super) trait Permutes: Registers {
    /// Whether the instruction set has them.
    const PERMUTES: bool = false;

    /// As an array.
    fn to_array(self, b: Self::Bytes) -> [u8; 64];
    /// From an array.
    fn of_array(self, bytes: &[u8; 64]) -> Self::Bytes;

    /// The 64 bytes from `at` of a unit, zeros behind its end.
    #[inline(always)]
    fn window(self, unit: &[u8], at: usize) -> Self::Bytes {
        self.of_array(&std::array::from_fn(|i| unit.get(at + i).copied().unwrap_or(0)))
    }

    /// Bytes of both, those of `b` being places 64 to 127.
    #[inline(always)]
    fn bytes_from(self, a: Self::Bytes, b: Self::Bytes, places: &[u8; 64]) -> Self::Bytes {
        let (a, b) = (self.to_array(a), self.to_array(b));
        self.of_array(&places.map(|place| if place < 64 { a[usize::from(place)] } else { b[usize::from(place) - 64] }))
    }

    /// For each byte eight bits of its 64-bit number, from the bit that `from` says.
    #[inline(always)]
    fn bits_from(self, b: Self::Bytes, from: &[u8; 64]) -> Self::Bytes {
        let b = self.to_array(b);
        let long = |i: usize| u64::from_le_bytes(std::array::from_fn(|j| b[i / 8 * 8 + j]));
        self.of_array(&std::array::from_fn(|i| long(i).rotate_right(from[i].into()) as u8))
    }

    /// `table[b & 127]`.
    #[inline(always)]
    fn by_seven_bits(self, table: &[u8; 128], b: Self::Bytes) -> Self::Bytes {
        self.of_array(&self.to_array(b).map(|b| table[usize::from(b & 127)]))
    }

    /// 64 entries of a table of 16-bit numbers: their low bytes, then their high bytes. `low` are the lower eight bits of their numbers, the
    /// others the low bits of `high`, of which bits that no number needs are ignored.
    #[inline(always)]
    fn entries<const N: usize>(self, table: &Halves<N>, low: Self::Bytes, high: Self::Bytes) -> [Self::Bytes; 2] {
        let (low, high) = (self.to_array(low), self.to_array(high));
        let number = |i: usize| (usize::from(low[i]) | usize::from(high[i]) << 8) % N;
        let entries = |half: usize| self.of_array(&std::array::from_fn(|i| table[half][number(i)]));
        [entries(0), entries(1)]
    }

    /// Each byte of the first register before the same of the second.
    #[inline(always)]
    fn zip(self, both: [Self::Bytes; 2]) -> [Self::Bytes; 2] {
        let both = both.map(|b| self.to_array(b));
        [0, 32].map(|first| self.of_array(&std::array::from_fn(|i| both[i % 2][first + i / 2])))
    }

    /// Bits of two units, 32 bytes of each.
    fn signs_of_two(self, b: Self::Bytes) -> [Self::Signs; 2];
}

#[cfg(test)]
mod tests {
    use super::super::scalar::Scalar;
    use super::super::simd::{Kernel, Lines, Simd};
    use super::super::{with_avx2, with_vbmi};
    use crate::cpu::Isa;
    use crate::cpu::tests::Random;

    /// What every function gives for some bytes.
    struct All<'a>(&'a [u8; 512], &'a mut Vec<[u8; 64]>);

    impl Kernel for All<'_> {
        #[inline(always)]
        fn run<V: Simd>(self, v: V) {
            let All(bytes, out) = self;
            let (tables, rest) = bytes.split_at(256);
            let (a, b) = (v.window(&rest[..70], 3), v.window(&rest[70..120], 0));
            let table: &Lines<[u8; 128]> = &Lines(std::array::from_fn(|i| tables[i]));
            let below_128 = std::array::from_fn(|i| tables[i] & 127);
            let below_64 = std::array::from_fn(|i| tables[i] & 63);
            let halves: [&[u8; 256]; 2] = [tables.first_chunk().expect("256"), rest.first_chunk().expect("256")];
            let both = v.bytes_from(a, b, &below_128);
            let entries = v.entries(&halves.map(|half| *half), a, b);
            for b in [a, b, both, v.bits_from(a, &below_64), v.by_seven_bits(table, b), entries[0], entries[1]] {
                out.push(v.to_array(b));
            }
            let large: [[u8; 2048]; 2] = [7, 11].map(|x| std::array::from_fn(|i| (i * x / 3) as u8));
            out.extend(v.entries(&large, a, b).map(|b| v.to_array(b)));
            let all: &[u8; 64] = tables.first_chunk().expect("64");
            out.extend(v.zip(entries).map(|b| v.to_array(b)));
            let [first, second] = v.signs_of_two(v.load(all, 0));
            for (signs, part) in [(first, 0), (first, 1), (first, 2), (first, 3), (second, 0), (second, 3)] {
                out.push(v.to_array(v.negate(signs, part, v.where_set(!0, 1))));
                out.push(v.to_array(v.negate_fourths(signs, part, both)));
            }
        }
    }

    #[test]
    fn instruction_sets_agree_with_the_scalar_twin() {
        let mut random = Random::new(17);
        for _ in 0..50 {
            let bytes = std::array::from_fn(|_| (random.next() >> 32) as u8);
            let mut want = Vec::new();
            Scalar.enter(All(&bytes, &mut want));
            assert_eq!(want.len(), 23);
            let mut got = Vec::new();
            if with_vbmi(Isa::Avx512Vbmi, All(&bytes, &mut got)).is_none() {
                assert_eq!(want, got);
            }
            let mut got = Vec::new();
            if with_avx2(Isa::Avx2, All(&bytes, &mut got)).is_none() {
                assert_eq!(want, got);
            }
        }
    }
}
