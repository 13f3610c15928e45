//! What lies on one side or on both, and a side's view of it.

use super::{Side, Split};
use crate::{Backend, CacheShape, ExpertWeights, Mixing, Result};
use std::cell::{Ref, RefCell};

/// A weight on its side.
pub struct Weight<A: Backend, B: Backend> {
    pub(super) place: Placed<A, B>,
    pub(super) rows: usize,
    pub(super) cols: usize,
}

pub(super) enum Placed<A: Backend, B: Backend> {
    First(A::Weight),
    Second(B::Weight),
}

impl<A: Backend, B: Backend> Weight<A, B> {
    pub(super) fn side(&self) -> Side {
        match self.place {
            Placed::First(_) => Side::First,
            Placed::Second(_) => Side::Second,
        }
    }
}

/// Activations: floats on both sides.
pub struct Buffer<A: Backend, B: Backend>(pub(super) RefCell<Floats<A, B>>);

pub(super) struct Floats<A: Backend, B: Backend> {
    pub first: A::Buffer,
    pub second: B::Buffer,
    /// Where they count; `None`: on both sides, which agree.
    pub side: Option<Side>,
    /// How many of them count: as far as they were written last.
    pub len: usize,
}

impl<A: Backend, B: Backend> Floats<A, B> {
    /// Sees to it that the first `len` floats, and all that count, are on a side.
    fn bring(&mut self, split: &Split<A, B>, side: Side, len: usize) -> Result<()> {
        let Some(from) = self.side.filter(|from| *from != side) else { return Ok(()) };
        let mut host = vec![0.0; self.len.max(len)];
        match from {
            Side::First => {
                split.refuse_to_be_late()?;
                split.first.read(&self.first, &mut host)?;
                split.second.write(&host, &mut self.second)?;
            }
            Side::Second => {
                split.second.read(&self.second, &mut host)?;
                split.first.write(&host, &mut self.first)?;
            }
        }
        self.side = None;
        Ok(())
    }
}

impl<A: Backend, B: Backend> Buffer<A, B> {
    /// Where its floats can be had for nothing; the first side if on both.
    pub(super) fn side(&self) -> Side {
        self.0.borrow().side.unwrap_or(Side::First)
    }
}

/// A layer's experts on their side, and how many there are, and how wide.
pub struct Mixture<A: Backend, B: Backend> {
    pub(super) place: Mixed<A, B>,
    pub(super) used: usize,
    pub(super) hidden: usize,
    pub(super) width: usize,
}

pub(super) enum Mixed<A: Backend, B: Backend> {
    First(A::Mixture),
    Second(B::Mixture),
}

impl<A: Backend, B: Backend> Mixture<A, B> {
    pub(super) fn side(&self) -> Side {
        match self.place {
            Mixed::First(_) => Side::First,
            Mixed::Second(_) => Side::Second,
        }
    }
}

/// Keys and values: each layer's on its side.
pub struct Cache<A: Backend, B: Backend> {
    pub(super) first: A::Cache,
    pub(super) second: B::Cache,
    pub(super) shape: CacheShape,
}

/// The two sides, each with the same functions.
macro_rules! half {
    ($half:ident, $backend:ident, $field:ident, $variant:ident, $layer:expr, $replays:expr) => {
        pub(super) struct $half<'s, A: Backend, B: Backend>(pub &'s Split<A, B>);

        impl<A: Backend, B: Backend> $half<'_, A, B> {
            pub fn backend(&self) -> &$backend {
                &self.0.$field
            }

            /// Runs an operation of the forward pass, unless it was replayed. What it reads and writes is told before, by the functions
            /// below, in either case.
            pub fn run(&self, operation: impl FnOnce(&$backend) -> Result<()>) -> Result<()> {
                let replays: fn(&Split<A, B>) -> Result<bool> = $replays;
                if replays(self.0)? { Ok(()) } else { operation(self.backend()) }
            }

            /// A weight of this side.
            pub fn weight<'w>(&self, weight: &'w Weight<A, B>) -> &'w $backend::Weight {
                match &weight.place {
                    Placed::$variant(weight) => weight,
                    _ => panic!("weights that are used together belong to one layer"),
                }
            }

            pub fn weights<'w>(&self, weights: &[&'w Weight<A, B>]) -> Vec<&'w $backend::Weight> {
                weights.iter().map(|weight| self.weight(weight)).collect()
            }

            /// The first `len` floats of a buffer, to be read.
            pub fn floats<'b>(&self, buffer: &'b Buffer<A, B>, len: usize) -> Result<Ref<'b, $backend::Buffer>> {
                buffer.0.borrow_mut().bring(self.0, Side::$variant, len)?;
                Ok(Ref::map(buffer.0.borrow(), |floats| &floats.$field))
            }

            /// The first `len` floats, all of which will be written.
            pub fn write<'b>(&self, buffer: &'b mut Buffer<A, B>, len: usize) -> &'b mut $backend::Buffer {
                let floats = buffer.0.get_mut();
                (floats.side, floats.len) = (Some(Side::$variant), len);
                &mut floats.$field
            }

            /// The first `len` floats, which will be changed.
            pub fn change<'b>(&self, buffer: &'b mut Buffer<A, B>, len: usize) -> Result<&'b mut $backend::Buffer> {
                let floats = buffer.0.get_mut();
                floats.bring(self.0, Side::$variant, len)?;
                (floats.side, floats.len) = (Some(Side::$variant), floats.len.max(len));
                Ok(&mut floats.$field)
            }

            pub fn cache<'c>(&self, cache: &'c Cache<A, B>) -> &'c $backend::Cache {
                &cache.$field
            }

            pub fn cache_mut<'c>(&self, cache: &'c mut Cache<A, B>) -> &'c mut $backend::Cache {
                &mut cache.$field
            }

            pub fn mixture<'m>(&self, mixture: &'m Mixture<A, B>) -> &'m $backend::Mixture {
                match &mixture.place {
                    Mixed::$variant(mixture) => mixture,
                    _ => unreachable!("it was asked for its side"),
                }
            }

            /// A layer's experts, if this side picks them itself.
            pub fn new_mixture(
                &self,
                mixing: Mixing,
                experts: &ExpertWeights<'_, Split<A, B>>,
            ) -> Result<Option<Mixed<A, B>>> {
                let ExpertWeights { gate, up, down } = experts;
                let experts = ExpertWeights {
                    gate: gate.as_deref().map(|gate| self.weights(gate)),
                    up: self.weights(up),
                    down: self.weights(down),
                };
                Ok(self.backend().mixture(mixing, &experts)?.map(Mixed::$variant))
            }

            /// The number of a layer in this side's cache.
            pub fn layer(&self, layer: usize) -> usize {
                let before: fn(usize) -> usize = $layer;
                layer - before(self.0.layers)
            }
        }
    };
}
half!(First, A, first, First, |_| 0, |_| Ok(false));
half!(Second, B, second, Second, |layers| layers, Split::replays);

/// The same for either side.
macro_rules! on {
    ($split:expr, $side:expr, |$half:ident| $body:expr) => {
        match $side {
            Side::First => {
                let $half = First($split);
                $body
            }
            Side::Second => {
                let $half = Second($split);
                $body
            }
        }
    };
}
pub(super) use on;
