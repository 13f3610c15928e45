//! Hidden states of a whole text.

use super::Calibration;

/// Hidden states between two blocks, chunk after chunk.
pub struct States {
    all: Vec<f32>, // (chunks, ctx, width)
    chunk: usize,
}

impl States {
    /// Room for those of a text.
    pub fn new(width: usize, text: &Calibration) -> Self {
        let chunk = text.ctx * width;
        States { all: vec![0.0; text.chunks.len() * chunk], chunk }
    }

    /// Chunk by chunk: `(ctx, width)` each.
    pub fn chunks(&mut self) -> impl Iterator<Item = &mut [f32]> {
        self.all.chunks_exact_mut(self.chunk)
    }
}
