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

    /// What both need together.
    pub fn and(&self, other: &MemoryPlan) -> MemoryPlan {
        MemoryPlan {
            weights: self.weights.saturating_add(other.weights),
            cache: self.cache.saturating_add(other.cache),
            scratch: self.scratch.saturating_add(other.scratch),
        }
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

/// Bytes of a cache in which a head's vector of some width takes `head_bytes` of it; `None` if the number overflows.
pub(super) fn cache_bytes(shape: &CacheShape, head_bytes: impl Fn(usize) -> usize) -> Option<u64> {
    let heads = shape.kv_heads.max(1);
    let of_head =
        (head_bytes(shape.key_width / heads) as u64).checked_add(head_bytes(shape.value_width / heads) as u64)?;
    (shape.layers as u64).checked_mul(shape.positions as u64)?.checked_mul(heads as u64)?.checked_mul(of_head)
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
        let shape = CacheShape { layers: 2, positions: 10, kv_heads: 3, key_width: 9, value_width: 15 };
        assert_eq!(cache_bytes(&shape, |dim| 2 * dim), Some(2 * 10 * 24 * 2));
        assert_eq!(cache_bytes(&shape, |dim| dim + 1), Some(2 * 10 * 3 * (4 + 6)));
        let shape = CacheShape { layers: usize::MAX, ..shape };
        assert_eq!(cache_bytes(&shape, |dim| 4 * dim), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn peak_memory_is_told() {
        assert!(peak().unwrap() > 1 << 20);
    }
}
