//! Instruction sets, picked at run time.
//!
//! A value of a proof type ([`Avx2`], [`AvxVnni`], [`Avx512`], [`Avx512Vbmi`], [`Avx512Bf16`], [`Amx`]) can only be made where the CPU has the
//! instructions, so whoever holds one may use them. `cargo build` with no flags gives the fast binary.

use crate::{Error, Result};

/// The instruction sets that kernels are written for, slowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust: what the compiler makes of it on any machine.
    Scalar,
    /// AVX2, FMA and F16C (Haswell, Zen and later).
    Avx2,
    /// AVX-VNNI besides AVX2 (client CPUs from Alder Lake on, Zen 5): dot products of bytes in one instruction.
    AvxVnni,
    /// AVX-512 F, BW, VL, DQ and VNNI (Cascade Lake and later) besides AVX2. The BF16 dot product is used where the
    /// CPU has that as well.
    Avx512,
    /// Permutations of bytes (VBMI: Ice Lake, Zen 4 and later) besides: codebooks are looked up with them.
    Avx512Vbmi,
    /// Products of matrices (AMX with BF16: Sapphire Rapids and later, on Linux) besides: prompts are computed with them.
    Amx,
}

impl Isa {
    /// Every instruction set with its name, slowest first.
    pub const ALL: &[(Isa, &str)] = &[
        (Isa::Scalar, "scalar"),
        (Isa::Avx2, "avx2"),
        (Isa::AvxVnni, "avxvnni"),
        (Isa::Avx512, "avx512"),
        (Isa::Avx512Vbmi, "avx512vbmi"),
        (Isa::Amx, "amx"),
    ];

    /// The name used in reports and in `QCONV_ISA`.
    pub fn name(self) -> &'static str {
        Isa::ALL.iter().find(|(isa, _)| *isa == self).map_or("unknown", |(_, name)| name)
    }

    /// By name, case-insensitive.
    pub fn by_name(name: &str) -> Option<Isa> {
        Isa::ALL.iter().find(|(_, n)| n.eq_ignore_ascii_case(name)).map(|(isa, _)| *isa)
    }

    /// Whether this CPU has the instructions.
    pub fn is_here(self) -> bool {
        match self {
            Isa::Scalar => true,
            Isa::Avx2 => Avx2::new().is_some(),
            Isa::AvxVnni => AvxVnni::new().is_some(),
            Isa::Avx512 => Avx512::new().is_some(),
            Isa::Avx512Vbmi => Avx512Vbmi::new().is_some(),
            Isa::Amx => Amx::new().is_some(),
        }
    }

    /// The best instruction set of this CPU that `asked` and the environment variable `QCONV_ISA` allow.
    ///
    /// Errors: `asked` is not to be had here, or `QCONV_ISA` names nothing known.
    pub fn pick(asked: Option<Isa>) -> Result<Isa> {
        if let Some(isa) = asked.filter(|isa| !isa.is_here()) {
            let here = Cpu::isa_names().join(", ");
            return Err(Error::Unavailable(format!("this CPU has no {}; it has {here}", isa.name())));
        }
        let cap = match std::env::var("QCONV_ISA") {
            Err(_) => Isa::ALL[Isa::ALL.len() - 1].0,
            Ok(name) => Isa::by_name(&name).ok_or_else(|| {
                let known: Vec<_> = Isa::ALL.iter().map(|(_, n)| *n).collect();
                Error::Unavailable(format!("QCONV_ISA is {name:?}, which is none of {}", known.join(", ")))
            })?,
        };
        Ok(Isa::best(asked.map_or(cap, |isa| isa.min(cap))))
    }

    /// The best instruction set of this CPU up to `cap`.
    pub fn best(cap: Isa) -> Isa {
        Isa::ALL.iter().map(|(isa, _)| *isa).filter(|isa| *isa <= cap && isa.is_here()).max().unwrap_or(Isa::Scalar)
    }
}

/// Proof that this CPU has AVX2, FMA and F16C, and that the system saves their registers.
#[derive(Debug, Clone, Copy)]
pub struct Avx2(());

impl Avx2 {
    /// `None` on CPUs without.
    #[inline]
    pub fn new() -> Option<Avx2> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
            return Some(Avx2(()));
        }
        None
    }
}

/// Proof that this CPU has AVX-VNNI, and what [`Avx2`] proves.
#[derive(Debug, Clone, Copy)]
pub struct AvxVnni(());

impl AvxVnni {
    /// `None` on CPUs without.
    #[inline]
    pub fn new() -> Option<AvxVnni> {
        #[cfg(target_arch = "x86_64")]
        if Avx2::new().is_some() && is_x86_feature_detected!("avxvnni") {
            return Some(AvxVnni(()));
        }
        None
    }
}

/// Proof that this CPU has AVX-512 F, BW, VL, DQ and VNNI, and what [`Avx2`] proves.
#[derive(Debug, Clone, Copy)]
pub struct Avx512(());

impl Avx512 {
    /// `None` on CPUs without.
    #[inline]
    pub fn new() -> Option<Avx512> {
        #[cfg(target_arch = "x86_64")]
        if Avx2::new().is_some()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vnni")
        {
            return Some(Avx512(()));
        }
        None
    }
}

/// Proof that this CPU has AVX-512 VBMI, and what [`Avx512`] proves.
#[derive(Debug, Clone, Copy)]
pub struct Avx512Vbmi(());

impl Avx512Vbmi {
    /// `None` on CPUs without.
    #[inline]
    pub fn new() -> Option<Avx512Vbmi> {
        #[cfg(target_arch = "x86_64")]
        if Avx512::new().is_some() && is_x86_feature_detected!("avx512vbmi") {
            return Some(Avx512Vbmi(()));
        }
        None
    }
}

/// Proof that this CPU has the BF16 dot product of AVX-512, and what [`Avx512`] proves.
#[derive(Debug, Clone, Copy)]
pub struct Avx512Bf16(());

impl Avx512Bf16 {
    /// `None` on CPUs without.
    #[inline]
    pub fn new() -> Option<Avx512Bf16> {
        #[cfg(target_arch = "x86_64")]
        if Avx512::new().is_some() && is_x86_feature_detected!("avx512bf16") {
            return Some(Avx512Bf16(()));
        }
        None
    }
}

/// Proof that this CPU has AMX tiles and their product of brain floats, that the system lets this process use them, and what [`Avx512Vbmi`]
/// and [`Avx512Bf16`] prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amx(());

impl Amx {
    /// `None` on CPUs without, and on systems other than Linux.
    #[inline]
    pub fn new() -> Option<Amx> {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        {
            static HERE: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
            if *HERE.get_or_init(Amx::ask) {
                return Some(Amx(()));
            }
        }
        None
    }

    /// Whether the CPU has the instructions and the system saves their registers: it does only for processes that asked for it, because
    /// these take 8 KiB of every thread's state. (The standard library does not detect AMX yet.)
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    fn ask() -> bool {
        use std::arch::x86_64::{__cpuid_count, _xgetbv};
        const TILES: u32 = 1 << 24;
        const BRAIN_FLOATS: u32 = 1 << 22;
        const CONFIGURATION_AND_DATA: u64 = 3 << 17;
        const ASK_FOR_STATE: libc::c_long = 0x1023; // ARCH_REQ_XCOMP_PERM
        const TILE_DATA: libc::c_long = 18;
        if Avx512Vbmi::new().is_none() || Avx512Bf16::new().is_none() {
            return false;
        }
        let has = __cpuid_count(7, 0).edx;
        // SAFETY: where there is AVX-512, the system saves registers with XSAVE, and has the instruction readable.
        let saved = unsafe { _xgetbv(0) };
        if has & (TILES | BRAIN_FLOATS) != TILES | BRAIN_FLOATS
            || saved & CONFIGURATION_AND_DATA != CONFIGURATION_AND_DATA
        {
            return false;
        }
        // SAFETY: allows this process to use more registers, and does nothing else.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ASK_FOR_STATE, TILE_DATA) == 0 }
    }
}

use super::Cpu;

impl Cpu {
    /// Names of the instruction sets that this CPU has, slowest first; tests and benches loop over them.
    pub fn isa_names() -> Vec<&'static str> {
        Isa::ALL.iter().filter(|(isa, _)| isa.is_here()).map(|(_, name)| *name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_again() {
        for (isa, name) in Isa::ALL {
            assert_eq!(Isa::by_name(&name.to_uppercase()), Some(*isa));
            assert_eq!(isa.name(), *name);
        }
        assert_eq!(Isa::by_name("avx1024"), None);
    }

    #[test]
    fn scalar_can_always_be_asked_for() {
        assert_eq!(Isa::pick(Some(Isa::Scalar)).unwrap(), Isa::Scalar);
    }
}
