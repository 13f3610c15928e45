//! The scalar twin: arrays and loops, on any machine. The oracle of the other instances.

use super::books::Books;
use super::permutes::Permutes;
use super::simd::{Kernel, Registers, Simd};
use super::tile::{Tile, Work, many};

mod books;
mod bytes;
mod floats;
mod sums;

/// Plain Rust.
#[derive(Clone, Copy)]
pub(super) struct Scalar;

impl Registers for Scalar {
    type Bytes = [u8; 64];
    type Ints = [i32; 16];
    type Floats = [f32; 16];
    type Scales = [f32; 16];
    type Signs = [u64; 4];
}

impl Simd for Scalar {
    const WHOLE_BYTES: bool = true;

    fn enter<K: Kernel>(self, kernel: K) {
        kernel.run(self);
    }

    fn tile<const GROUP: usize, const PLUS: bool, const BITS: u32>(self, tile: &Tile, work: Work<'_>) {
        many::<Self, GROUP, PLUS, BITS, 1, 2>(self, tile, work);
    }

    fn transpose(self, from: &[[u32; 16]; 16], to: &mut [[u32; 32]], places: [usize; 4], half: usize) {
        for (r, from) in from.iter().enumerate() {
            for (j, number) in from.iter().enumerate() {
                if let Some(to) = to.get_mut(places[j / 4] + j % 4) {
                    to[16 * half + r] = *number;
                }
            }
        }
    }
}

impl Permutes for Scalar {
    fn to_array(self, b: [u8; 64]) -> [u8; 64] {
        b
    }

    fn of_array(self, bytes: &[u8; 64]) -> [u8; 64] {
        *bytes
    }

    fn signs_of_two(self, b: [u8; 64]) -> [[u64; 4]; 2] {
        [self.signs(&b, 0), self.signs(&b, 32)]
    }
}
