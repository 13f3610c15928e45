//! [`IntegerSums`] of the scalar twin.

use super::super::simd::IntegerSums;
use super::Scalar;

impl IntegerSums for Scalar {
    fn start(self, minus_128: &[i32; 16]) -> [i32; 16] {
        *minus_128
    }

    fn dot(self, _: bool, sum: [i32; 16], codes: [u8; 64], x: [u8; 64]) -> [i32; 16] {
        std::array::from_fn(|i| {
            sum[i] + (0..4).map(|j| i32::from(codes[4 * i + j]) * i32::from(x[4 * i + j] as i8)).sum::<i32>()
        })
    }

    fn products(self, codes: [u8; 64], x: [u8; 64]) -> [i32; 16] {
        self.dot(false, [0; 16], codes, x)
    }

    fn of_two_parts(self, a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        let parts = [a, b];
        std::array::from_fn(|i| parts.get(i / 4).map_or(0, |part| part[i % 4 * 4..][..4].iter().sum()))
    }

    fn sixteens(self, first: [i32; 16], second: [i32; 16]) -> [i32; 16] {
        std::array::from_fn(|i| if i < 8 { first[i] } else { second[i - 8] })
    }

    fn dot_two(self, sum: [i32; 16], [[codes, x], [more, y]]: [[[u8; 64]; 2]; 2]) -> [i32; 16] {
        self.dot(false, self.dot(false, sum, codes, x), more, y)
    }

    fn start_group(self, _: bool, offset_log2: u32, minus_sum: i32) -> [i32; 16] {
        [minus_sum.checked_shl(offset_log2).unwrap_or(0); 16]
    }

    fn dot_four(self, _: bool, sum: [i32; 16], codes: [u8; 64], x: [u8; 4]) -> [i32; 16] {
        std::array::from_fn(|i| {
            sum[i] + (0..4).map(|j| i32::from(codes[4 * i + j]) * i32::from(x[j] as i8)).sum::<i32>()
        })
    }

    fn stored(self, _: bool, codes: [u8; 64]) -> [u8; 64] {
        codes
    }

    fn to_floats(self, i: [i32; 16]) -> [f32; 16] {
        i.map(|i| i as f32)
    }

    fn store_ints(self, i: [i32; 16], to: &mut [i32; 16]) {
        *to = i;
    }
}
