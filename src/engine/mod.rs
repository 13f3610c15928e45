//! Running models: weights by GGUF names, the forward pass as [`crate::arch::Plan`] describes it, sampling, chat templates.
//!
//! Everything here is generic over [`qconv_kernels::Backend`]; only [`crate::backend`] picks one. Activations are f32.
//! An [`Engine`] holds a model's weights; a [`Session`] holds one sequence's keys and values and the scratch memory of a
//! batch, so that feeding tokens allocates nothing.

mod blockwise;
mod bounds;
pub mod chat;
mod feed;
mod forward;
mod load;
pub mod memory;
mod observe;
mod rng;
mod rope;
mod sample;
mod session;
mod speed;
mod weights;

pub use blockwise::{Blockwise, Half};
pub use bounds::{Cached, cached, share_read};
pub use load::Replaced;
pub use memory::MemoryPlan;
pub use observe::{Inputs, Observer};
pub use rng::Rng;
pub use sample::{Sampler, Sampling};
pub use session::{Session, SessionOptions};
pub use speed::{Rate, Speed, Tests, speed};
pub use weights::Engine;
