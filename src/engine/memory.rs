//! What a run will need, before it starts, and what it needed.

use qconv_kernels::CacheShape;

/// Memory that a session needs, known before anything is allocated. Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// All weights as stored; a mapped file counts, though the system may drop its pages.
    pub weights: u64,
    /// Keys and values of all positions.
    pub cache: u64,
    /// Activations of one batch, and logits.
    pub scratch: u64,
}

impl MemoryPlan {
    /// Everything.
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.cache).saturating_add(self.scratch)
    }
}

impl std::fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use crate::ui::bytes;
        write!(
            f,
            "memory: {} weights + {} cache + {} scratch = {}",
            bytes(self.weights),
            bytes(self.cache),
            bytes(self.scratch),
            bytes(self.total())
        )
    }
}

/// Bytes of a cache that keeps numbers of `size` bytes; `None` if the number overflows.
pub(super) fn cache_bytes(shape: &CacheShape, size: usize) -> Option<u64> {
    let width = (shape.key_width as u64).checked_add(shape.value_width as u64)?;
    (shape.layers as u64).checked_mul(shape.positions as u64)?.checked_mul(width)?.checked_mul(size as u64)
}

/// The most memory that this process has had resident, in bytes (`VmHWM`; mapped files count as far as they were read).
/// `None` where the system does not tell.
pub fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Begins a new measurement: [`peak`] tells what came after. False where the system does not allow it.
pub fn reset_peak() -> bool {
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_size_is_checked_arithmetic() {
        let shape = CacheShape { layers: 2, positions: 10, kv_heads: 1, key_width: 3, value_width: 5 };
        assert_eq!(cache_bytes(&shape, 2), Some(2 * 10 * 8 * 2));
        let shape = CacheShape { layers: usize::MAX, ..shape };
        assert_eq!(cache_bytes(&shape, 4), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn peak_memory_is_told() {
        assert!(peak().unwrap() > 1 << 20);
    }
}
