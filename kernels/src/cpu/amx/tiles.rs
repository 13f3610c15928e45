//! The registers: eight matrices of 16 rows of 64 bytes. Rust has no intrinsics for them outside of its nightly versions, so the instructions
//! stand here as assembly.
//!
//! Sums of 32 tokens and 32 rows of weights stay in four registers for a unit of 256 columns, in eight steps of 32: two registers of
//! activations and two of weights are loaded and multiplied with each other, 4 KiB for 64 cycles of products.

use super::super::products::{ROWS, UNIT};
use crate::cpu::Amx;
use std::arch::asm;

/// Tokens of a register.
pub(super) const TOKENS: usize = 16;

/// Columns of a register: pairs of brain floats in 64 bytes.
pub(super) const STEP: usize = 32;

/// 32-bit numbers of a register.
const REGISTER: usize = 256;

/// Numbers of a block of activations: `(UNIT / 32, TOKENS, 16)` pairs of neighbouring columns.
pub(super) const BLOCK: usize = UNIT / STEP * REGISTER;

/// Numbers of a panel of weights: `(UNIT / 32, 2, 16, 16)`: of each step, of both halves of the rows, for each pair of columns those of 16 rows.
pub(super) const PANEL: usize = 2 * BLOCK;

/// What `ldtilecfg` reads: which palette, and how large each register is.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    _reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

const ALL_WHOLE: Configuration = {
    let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
    let mut i = 0;
    while i < 8 {
        (row_bytes[i], rows[i]) = (64, 16);
        i += 1;
    }
    Configuration { palette: 1, start_row: 0, _reserved: [0; 14], row_bytes, rows }
};

/// This thread's registers, configured as long as this lives. (Not `Send`: they are this thread's.)
pub(super) struct Tiles(std::marker::PhantomData<*const ()>);

impl Tiles {
    pub(super) fn new(_: Amx) -> Self {
        static WHOLE: Configuration = ALL_WHOLE;
        // SAFETY: there is a proof; 64 bytes are read. Nothing else in the program uses these registers.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const WHOLE, options(readonly, nostack, preserves_flags)) };
        Tiles(std::marker::PhantomData)
    }

    /// `sums += x * panel`. `x`: blocks; `sums`: `(tokens of the blocks, ROWS)`. All are best on cache lines: a load of 64 bytes that reaches into
    /// two takes twice as long.
    pub(super) fn multiply(&self, x: &[f32], panel: &[f32], sums: &mut [f32]) {
        assert!(panel.len() == PANEL, "a panel is whole");
        assert!(
            x.len().is_multiple_of(BLOCK) && sums.len() == x.len() / BLOCK * TOKENS * ROWS,
            "as many sums as tokens"
        );
        let (pairs, rest) = x.as_chunks::<{ 2 * BLOCK }>();
        let (sums, sums_rest) = sums.split_at_mut(pairs.len() * 2 * TOKENS * ROWS);
        for (x, sums) in pairs.iter().zip(sums.chunks_exact_mut(2 * TOKENS * ROWS)) {
            // SAFETY: a value proves the instructions and the configuration; each register that is loaded lies inside of what was just measured.
            unsafe {
                asm!(
                    "tileloadd tmm0, [{sums} + {row}*1]",
                    "tileloadd tmm1, [{sums} + {row}*1 + 64]",
                    "tileloadd tmm2, [{more} + {row}*1]",
                    "tileloadd tmm3, [{more} + {row}*1 + 64]",
                    "2:",
                    "tileloadd tmm4, [{x} + {line}*1]",
                    "tileloadd tmm6, [{w} + {line}*1]",
                    "tileloadd tmm7, [{w} + {line}*1 + 1024]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tileloadd tmm5, [{y} + {line}*1]",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "prefetcht0 [{next}]",
                    "prefetcht0 [{next} + 64]",
                    "prefetcht0 [{next} + 128]",
                    "prefetcht0 [{next} + 192]",
                    "prefetcht0 [{next} + 256]",
                    "prefetcht0 [{next} + 320]",
                    "prefetcht0 [{next} + 384]",
                    "prefetcht0 [{next} + 448]",
                    "add {next}, 512",
                    "add {x}, 1024",
                    "add {y}, 1024",
                    "add {w}, 2048",
                    "dec {steps}",
                    "jnz 2b",
                    "tilestored [{sums} + {row}*1], tmm0",
                    "tilestored [{sums} + {row}*1 + 64], tmm1",
                    "tilestored [{more} + {row}*1], tmm2",
                    "tilestored [{more} + {row}*1 + 64], tmm3",
                    sums = in(reg) sums.as_mut_ptr(),
                    more = in(reg) sums[TOKENS * ROWS..].as_mut_ptr(),
                    next = inout(reg) sums.as_ptr().wrapping_add(2 * TOKENS * ROWS) => _,
                    row = in(reg) 4 * ROWS,
                    line = in(reg) 64usize,
                    x = inout(reg) x.as_ptr() => _,
                    y = inout(reg) x[BLOCK..].as_ptr() => _,
                    w = inout(reg) panel.as_ptr() => _,
                    steps = inout(reg) UNIT / STEP => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
        if !rest.is_empty() {
            // SAFETY: as above, with one block.
            unsafe {
                asm!(
                    "tileloadd tmm0, [{sums} + {row}*1]",
                    "tileloadd tmm1, [{sums} + {row}*1 + 64]",
                    "2:",
                    "tileloadd tmm4, [{x} + {line}*1]",
                    "tileloadd tmm6, [{w} + {line}*1]",
                    "tileloadd tmm7, [{w} + {line}*1 + 1024]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "add {x}, 1024",
                    "add {w}, 2048",
                    "dec {steps}",
                    "jnz 2b",
                    "tilestored [{sums} + {row}*1], tmm0",
                    "tilestored [{sums} + {row}*1 + 64], tmm1",
                    sums = in(reg) sums_rest.as_mut_ptr(),
                    row = in(reg) 4 * ROWS,
                    line = in(reg) 64usize,
                    x = inout(reg) rest.as_ptr() => _,
                    w = inout(reg) panel.as_ptr() => _,
                    steps = inout(reg) UNIT / STEP => _,
                    out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    }

    /// So many rounds of four products and nothing else.
    pub(super) fn products(&self, rounds: usize) {
        // SAFETY: as above; only registers are touched, whose numbers do not matter.
        unsafe {
            asm!(
                "tilezero tmm4",
                "tilezero tmm5",
                "tilezero tmm6",
                "tilezero tmm7",
                "2:",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "dec {rounds}",
                "jnz 2b",
                rounds = inout(reg) rounds.max(1) => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nomem, nostack),
            );
        }
    }
}

impl Drop for Tiles {
    /// Otherwise the system goes on to save them whenever it takes the processor away.
    fn drop(&mut self) {
        // SAFETY: registers that only this value used.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}

/// Multiply-adds of a round of [`Tiles::products`].
pub(in crate::cpu) const ROUND: usize = 4 * TOKENS * TOKENS * STEP;
