//! Who made the CPU, for what takes each of them another time.

/// Whether this is an Intel CPU. The processor is asked once: in a virtual machine that takes tens of microseconds.
pub(super) fn intel() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        static INTEL: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| {
            let said = std::arch::x86_64::__cpuid(0);
            [said.ebx, said.edx, said.ecx].map(u32::to_le_bytes).as_flattened() == b"GenuineIntel"
        });
        *INTEL
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}
