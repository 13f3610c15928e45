//! What the card did during a run, for reports.

use crate::ui;
use qconv_kernels::{Backend, DeviceUse};
use serde::Serialize;

/// Memory, power and utilization of the whole card, other programs on it included.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Card {
    /// Most bytes of its memory that were in use.
    pub peak_memory_bytes: Option<u64>,
    /// Mean power in watts.
    pub mean_watts: Option<f64>,
    /// Highest power in watts.
    pub peak_watts: Option<f64>,
    /// Mean share of the time in which it computed.
    pub busy: Option<f64>,
    /// Why nothing is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_available: Option<String>,
}

impl Card {
    /// Since the backend was told to watch it. `None`: the processor computes.
    pub fn of<B: Backend>(backend: &B) -> Option<Self> {
        let nothing =
            Card { peak_memory_bytes: None, mean_watts: None, peak_watts: None, busy: None, not_available: None };
        Some(match backend.device_use()? {
            DeviceUse::Unknown(why) => Card { not_available: Some(why), ..nothing },
            DeviceUse::Seen { peak_memory, watts, busy } => Card {
                peak_memory_bytes: Some(peak_memory),
                mean_watts: watts.map(|w| w.0),
                peak_watts: watts.map(|w| w.1),
                busy,
                not_available: None,
            },
        })
    }
}

impl std::fmt::Display for Card {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(why) = &self.not_available {
            return write!(f, "memory, power and utilization not available: {why}");
        }
        let memory = self.peak_memory_bytes.map_or("memory not told".into(), |b| format!("{} at most", ui::bytes(b)));
        let power = match (self.mean_watts, self.peak_watts) {
            (Some(mean), Some(peak)) => format!("{mean:.0} W on average, {peak:.0} W at most"),
            _ => "power not told".into(),
        };
        let busy = self.busy.map_or("utilization not told".into(), |b| format!("busy {:.0}%", b * 100.0));
        write!(f, "{memory}, {power}, {busy} (with all that runs on it)")
    }
}
