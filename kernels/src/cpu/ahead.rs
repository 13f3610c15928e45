//! How far in advance memory is asked for while few tokens meet weights, and into which cache.
//!
//! Zen 5: into the first-level cache, 6 KiB ahead; into the second-level cache is 10 to 25% slower. Intel (a server core with AMX, 2.6 GHz): each request
//! for the first-level cache holds one of its 16 line buffers until memory answers, which bounds a thread to 9 GB/s wherever the hardware's own
//! prefetcher has not been before. Requests for the second-level cache do not: 128 MiB of Q8_0, one thread, 8.7 GB/s before and 11.0 to 12.3 after from
//! pages of 4 KiB, 9.2 and 12.4 to 13.2 from huge ones; Q4_K 8.6 and 10.3 to 11.6, 9.1 and 12.0 to 12.3. (2 to 16 KiB ahead do much the same there; into
//! the first-level cache, 1 to 2 KiB are best, 10 and 13 GB/s.)

use std::sync::LazyLock;

/// What suits this CPU.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ahead {
    /// Bytes.
    pub(super) by: usize,
    /// Into the second-level cache instead of the first.
    second: bool,
}

/// Bytes of a cache line.
const LINE: usize = 64;

impl Ahead {
    pub(super) fn here() -> Ahead {
        static HERE: LazyLock<Ahead> = LazyLock::new(Ahead::of_this_cpu);
        *HERE
    }

    fn of_this_cpu() -> Ahead {
        #[cfg(target_arch = "x86_64")]
        {
            let vendor = std::arch::x86_64::__cpuid(0);
            if [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).as_flattened() == b"GenuineIntel" {
                return Ahead { by: 4096, second: true };
            }
        }
        Ahead { by: 6144, second: false }
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
