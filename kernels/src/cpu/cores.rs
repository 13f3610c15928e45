//! How many threads pay: the physical cores that this process may use.

/// Physical cores among the logical ones that the process may run on, at least 1.
///
/// On Linux the process's affinity mask is intersected with the topology in `/sys`: two logical CPUs with the same
/// package and core number are one core. Where that cannot be read, every logical CPU counts as a core.
pub fn physical_cores() -> usize {
    #[cfg(target_os = "linux")]
    if let Some(n) = linux::physical_cores() {
        return n;
    }
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::HashSet;

    pub(super) fn physical_cores() -> Option<usize> {
        let mut cores = HashSet::new();
        for cpu in allowed()? {
            let read = |what: &str| -> Option<i64> {
                let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/{what}");
                std::fs::read_to_string(path).ok()?.trim().parse().ok()
            };
            cores.insert((read("physical_package_id")?, read("die_id").unwrap_or(0), read("core_id")?));
        }
        // A container's CPU quota is known to the standard library; it may be less than the cores of the mask.
        let quota = std::thread::available_parallelism().map_or(usize::MAX, usize::from);
        (!cores.is_empty()).then(|| cores.len().min(quota))
    }

    /// Numbers of the logical CPUs in the affinity mask.
    fn allowed() -> Option<Vec<usize>> {
        // SAFETY: an all-zero `cpu_set_t` is a valid empty set, and the call writes at most `size_of` bytes into it.
        let set = unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) != 0 {
                return None;
            }
            set
        };
        // SAFETY: CPU_ISSET reads the bit `cpu` of the set, which is inside for every number below CPU_SETSIZE.
        Some((0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn there_is_a_core_and_no_more_than_logical_ones() {
        let n = super::physical_cores();
        assert!(n >= 1 && n <= std::thread::available_parallelism().unwrap().get());
    }
}
