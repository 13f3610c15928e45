//! A model in two places: its first layers on one backend, the rest on another, for cards whose memory does not hold all of it.
//!
//! Weights and layers of the cache are on one side, and an operation runs where they are; operations without either run where
//! their numbers are. A buffer exists on both sides and knows on which its floats count. Where an operation needs them on the
//! other side they are copied through the host: once behind the first side's last layer, and once behind the second's.
//!
//! What belongs to no layer (embeddings, the output) is on the first side.
//!
//! Of a token that is repeated ([`Backend::repeat`]) the second side's layers are its step: they come last, and all of them are
//! called one after the other. The step begins with the first of their operations, behind the copy of what it needs, and ends
//! with the token. Where the second side replays it, the first one computes as ever, and the second one's operations are only
//! told which floats count where.

mod operations;
mod sides;

pub use sides::{Buffer, Cache, Mixture, Weight};

use crate::{Backend, Error, Result};
use std::cell::RefCell;

/// Two backends as one.
pub struct Split<A, B: Backend> {
    first: A,
    second: B,
    /// Layers on the first side.
    layers: usize,
    /// What is being computed, if it is a token that is repeated, or one of each of several sequences.
    step: RefCell<Option<Step<B>>>,
}

/// The second side's part of a token.
struct Step<B: Backend> {
    recording: B::Recording,
    tokens: Vec<u32>,
    start: usize,
    /// Whether it is replayed. `None`: none of its operations has come yet.
    replayed: Option<bool>,
}

impl<A: Backend, B: Backend> Split<A, B> {
    /// The first `layers` layers on `first`, with all that belongs to no layer, and the others on `second`.
    pub fn new(first: A, second: B, layers: usize) -> Self {
        Split { first, second, layers, step: RefCell::new(None) }
    }

    /// The side of a layer.
    fn side_of(&self, layer: usize) -> Side {
        if layer < self.layers { Side::First } else { Side::Second }
    }

    /// Whether an operation of the second side, whose floats are there, is part of what was replayed. The first one of a step asks
    /// for that.
    fn replays(&self) -> Result<bool> {
        let mut step = self.step.borrow_mut();
        let Some(step) = &mut *step else { return Ok(false) };
        let replayed = match step.replayed {
            Some(replayed) => replayed,
            None => self.second.begin_step(&mut step.recording, Some((&step.tokens, step.start)))?,
        };
        step.replayed = Some(replayed);
        Ok(replayed)
    }

    /// Errors: the second side has replayed its operations already, and gets floats for one of them only now. What was recorded
    /// had them before, so that this is the program's fault.
    fn refuse_to_be_late(&self) -> Result<()> {
        match &*self.step.borrow() {
            Some(Step { replayed: Some(true), .. }) => {
                Err(Error::Device("layers of the second side were replayed before their activations were there".into()))
            }
            _ => Ok(()),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    First,
    Second,
}
