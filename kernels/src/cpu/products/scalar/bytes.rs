//! [`ByteLanes`] of the scalar twin.

use super::super::simd::{ByteLanes, array};
use super::Scalar;

impl ByteLanes for Scalar {
    fn load(self, bytes: &[u8], at: usize) -> [u8; 64] {
        *array(bytes, at)
    }

    fn pair(self, bytes: &[u8], a: usize, b: usize) -> [u8; 64] {
        let (a, b): (&[u8; 32], &[u8; 32]) = (array(bytes, a), array(bytes, b));
        std::array::from_fn(|i| if i < 32 { a[i] } else { b[i - 32] })
    }

    fn heads(self, a: &[u8], b: &[u8]) -> [u8; 64] {
        std::array::from_fn(|i| if i < 32 { a[i % 16] } else { b[i % 16] })
    }

    fn pick(self, b: [u8; 64], table: &[u8; 64]) -> [u8; 64] {
        std::array::from_fn(|i| if table[i] < 16 { b[i / 16 * 16 + usize::from(table[i])] } else { 0 })
    }

    fn and_quarters(self, b: [u8; 64], masks: [u8; 4]) -> [u8; 64] {
        std::array::from_fn(|i| b[i] & masks[i / 16])
    }

    fn and_all(self, b: [u8; 64], mask: &[u8; 64]) -> [u8; 64] {
        std::array::from_fn(|i| b[i] & mask[i])
    }

    fn words(self, words: [u64; 8]) -> [u8; 64] {
        std::array::from_fn(|i| (words[i / 8] >> (8 * (i % 8))) as u8)
    }

    fn quarters(self, bytes: &[u8], at: [usize; 4]) -> [u8; 64] {
        std::array::from_fn(|i| bytes[at[i / 16] + i % 16])
    }

    fn widen(self, bytes: &[u8], at: usize) -> [u8; 64] {
        std::array::from_fn(|i| if i % 2 == 0 { bytes[at + i / 2] } else { 0 })
    }

    fn multiply_bytes(self, a: [u8; 64], b: &[u8; 64]) -> [u8; 64] {
        std::array::from_fn(|i| a[i].wrapping_mul(b[i]))
    }

    fn reached(self, b: [u8; 64], low: u8, high: u8) -> [u8; 64] {
        b.map(|b| u8::from(b >= low) + u8::from(b >= high))
    }

    fn xor_all(self, a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        std::array::from_fn(|i| a[i] ^ b[i])
    }

    fn and_words(self, b: [u8; 64], mask: u32) -> [u8; 64] {
        std::array::from_fn(|i| b[i] & mask.to_le_bytes()[i % 4])
    }

    fn bits_to(self, from: [u32; 4], to: u32, b: [u8; 64]) -> [u8; 64] {
        std::array::from_fn(|i| (b[i] >> from[i / 16] & 1) << to)
    }

    fn words_left<const N: u32>(self, mut b: [u8; 64]) -> [u8; 64] {
        b.as_chunks_mut().0.iter_mut().for_each(|word| *word = (u32::from_le_bytes(*word) << N).to_le_bytes());
        b
    }

    fn words_right<const N: u32>(self, b: [u8; 64]) -> [u8; 64] {
        self.shift([N; 4], b)
    }

    fn where_set(self, mask: u64, value: u8) -> [u8; 64] {
        std::array::from_fn(|i| if mask >> i & 1 == 1 { value } else { 0 })
    }

    fn shift(self, counts: [u32; 4], mut b: [u8; 64]) -> [u8; 64] {
        for (quarter, count) in b.as_chunks_mut::<16>().0.iter_mut().zip(counts) {
            for word in quarter.as_chunks_mut::<4>().0 {
                *word = (u32::from_le_bytes(*word) >> count).to_le_bytes();
            }
        }
        b
    }

    fn shift_up(self, counts: [u32; 4], mut b: [u8; 64]) -> [u8; 64] {
        for (quarter, count) in b.as_chunks_mut::<16>().0.iter_mut().zip(counts) {
            for word in quarter.as_chunks_mut::<4>().0 {
                *word = (u32::from_le_bytes(*word) << count).to_le_bytes();
            }
        }
        b
    }

    fn nibbles_of_longs(self, bytes: &[u8], at: usize) -> [u8; 64] {
        std::array::from_fn(|i| bytes[at + i / 16 * 8 + i % 8] >> (i / 8 % 2 * 4) & 15)
    }

    fn and(self, b: [u8; 64], mask: u8) -> [u8; 64] {
        b.map(|b| b & mask)
    }

    fn xor(self, b: [u8; 64], mask: u8) -> [u8; 64] {
        b.map(|b| b ^ mask)
    }

    fn add(self, b: [u8; 64], value: u8) -> [u8; 64] {
        b.map(|b| b.wrapping_add(value))
    }

    fn add_all(self, a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        std::array::from_fn(|i| a[i].wrapping_add(b[i]))
    }

    fn or(self, a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        std::array::from_fn(|i| a[i] | b[i])
    }

    fn lookup(self, table: &[u8; 16], b: [u8; 64]) -> [u8; 64] {
        b.map(|b| table[(b & 15) as usize])
    }

    fn load_words(self, from: &[u32; 16]) -> [u8; 64] {
        std::array::from_fn(|i| from[i / 4].to_le_bytes()[i % 4])
    }

    fn store(self, b: [u8; 64], to: &mut [u32; 16]) {
        for (to, b) in to.iter_mut().zip(b.as_chunks().0) {
            *to = u32::from_le_bytes(*b);
        }
    }
}
