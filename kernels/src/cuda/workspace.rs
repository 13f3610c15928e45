//! Memory for what lives no longer than one operation: activations as products want them, parts of attention.

use super::device::Device;
use super::memory::Memory;
use crate::Result;
use std::sync::{Mutex, PoisonError};

/// Workspaces that were handed out. Only the last is used; smaller ones stay, since recorded launches may still name them. Each is
/// at least twice as large as the one before, so that together they are less than twice the last.
#[derive(Default)]
pub(super) struct Workspace(Mutex<Vec<Memory>>);

impl Workspace {
    /// Gives `with` at least `bytes` bytes. What they hold is undefined, and gone with the next call: operations follow each
    /// other on one stream.
    pub fn with(&self, device: &Device, bytes: usize, with: impl FnOnce(&mut Memory) -> Result<()>) -> Result<()> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let largest = all.last().map_or(0, Memory::len);
        if all.is_empty() || largest < bytes {
            let room = bytes.max(2 * largest).max(1).next_multiple_of(1 << 16);
            all.push(Memory::zeroed(device, room, "a workspace")?);
        }
        with(all.last_mut().expect("there is one by now"))
    }
}
