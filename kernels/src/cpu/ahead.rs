//! How far in advance memory is asked for while few tokens meet weights, and into which cache.
//!
//! Zen 5: into the first-level cache, 6 KiB ahead; into the second-level cache is 10 to 25% slower.
//!
//! Intel (a server with AMX at 2.6 GHz, 128 MiB of weights, one thread): a request for the first-level cache holds one of its 16 line buffers until
//! memory answers, which bounds a thread to 9 GB/s wherever the hardware's own prefetcher has not been before. Requests for the second-level
//! cache do not. GB/s from pages of 4 KiB, and from huge ones:
//!
//! | | Q8_0 | Q4_K |
//! |---|---|---|
//! | first-level cache, 6 KiB | 8.7, 9.2 | 8.6, 9.1 |
//! | first-level cache, 2 KiB | 8.9, 12.7 | 8.9, 13.7 |
//! | second-level cache, 4 KiB | 10.0 to 10.8, 12.8 to 13.5 | 9.2 to 10.0, 12.6 to 13.2 |
//! | second-level cache, 3 KiB | 10.0 to 10.7, 12.4 to 13.2 | 10.3 to 10.5, 13.6 to 14.0 |
//! | not at all | 8.1, 8.6 to 9.6 | 8.2, 8.5 to 11.5 |
//! | a plain sum, 2 KiB, second-level cache | 16.8, 18.6 | |
//!
//! Each page of 4 KiB has its address translated anew, which takes longer than to read it where the tables of pages are not in the cache
//! either. So one line of what lies [`LATER`] is asked for as well, which has that done in time. As shares of what a plain sum reads from pages of 4 KiB in the same
//! moment (13 to 15.5 GB/s), 256 MiB, one thread, without and with that line, from pages of 4 KiB, and from huge ones, which gain too:
//!
//! | | 4 KiB | huge |
//! |---|---|---|
//! | Q8_0 | 84, 90% | 89, 93% |
//! | Q4_K | 78, 91% | 85, 96% |
//! | Q6_K | 88, 97% | 100, 102% |
//! | IQ4_XS | 78, 91% | 85, 96% |
//! | Q4_0 | 82, 94% | 92, 101% |
//! | F16 | 97, 101% | 108, 106% |
//!
//! 16, 32 and 64 KiB do the same as 8. Tried with it and without, at best the same: the first-level cache asked in turn, 256 bytes to 2 KiB ahead;
//! every second line; only the first 8 or 16 lines of a page; two rows at a time (half as fast: sums no longer fit the registers).
//!
//! Other Intel processors get the same unmeasured, and other vendors' what Zen 5 gets.

use super::vendor::intel;

/// What suits this CPU.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ahead {
    /// Bytes.
    pub(super) by: usize,
    /// Into the second-level cache instead of the first.
    second: bool,
}

/// How far behind what is asked for lies the line that has addresses translated, where the second-level cache is asked.
const LATER: usize = 8192;

/// Bytes of a cache line.
const LINE: usize = 64;

impl Ahead {
    pub(super) fn here() -> Ahead {
        if intel() { Ahead { by: 4096, second: true } } else { Ahead { by: 6144, second: false } }
    }

    /// Asks for the lines of `len` bytes from `at` on. They need not exist.
    #[inline(always)]
    pub(super) fn ask(self, at: *const u8, len: usize) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: hints, which never fault.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
            // Hidden from the compiler, which would make two loops of the one that this is part of.
            let mut second = u32::from(self.second);
            std::arch::asm!("/* {0:e} */", inout(reg) second, options(nomem, nostack, preserves_flags));
            if second == 1 {
                // Not where little is asked for at a time: it would be one line in two or three.
                if len >= 2 * LINE {
                    _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(LATER).cast());
                }
                for line in (0..len).step_by(LINE) {
                    _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(line).cast());
                }
            } else {
                for line in (0..len).step_by(LINE) {
                    _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(line).cast());
                }
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (at, len, self);
    }
}
