//! Which products a weight takes.

#[cfg(target_arch = "x86_64")]
use super::{Amx, amx};
use super::{Cpu, Weight, float};

/// How products are computed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    #[cfg(target_arch = "x86_64")]
    Matrices(Amx),
    Floats,
    Packed,
}

impl Way {
    /// Of `n` tokens with this weight.
    pub(super) fn of(cpu: &Cpu, n: usize, weight: &Weight) -> Way {
        #[cfg(target_arch = "x86_64")]
        if let Some(amx) = amx::proof(cpu)
            && amx::takes(weight, n)
        {
            return Way::Matrices(amx);
        }
        let _ = (cpu, n);
        if float::takes(weight) { Way::Floats } else { Way::Packed }
    }
}
