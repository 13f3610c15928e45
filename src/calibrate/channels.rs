//! What goes into some matrices, channel by channel: for methods that scale channels.

use super::{Calibration, Follower, Hessian, Passage, not_finite};
use crate::backend::{self, Sizes, Task};
use crate::engine::{Inputs, Observer, Replaced};
use crate::error::malformed;
use crate::model::Model;
use crate::ui::Ui;
use anyhow::Result;
use qconv_kernels::Backend;
use std::collections::BTreeMap;

/// Sums over the inputs of one matrix.
#[derive(Debug, Clone)]
pub struct ChannelSums {
    inputs: u64,
    absolute: Vec<f64>,
    largest: Vec<f32>,
    /// Products of the inputs, where they were asked for.
    pub hessian: Option<Hessian>,
}

impl ChannelSums {
    /// Of no inputs yet.
    pub fn new(cols: usize, hessian: bool) -> Self {
        let hessian = hessian.then(|| Hessian::new(cols));
        ChannelSums { inputs: 0, absolute: vec![0.0; cols], largest: vec![0.0; cols], hessian }
    }

    /// Adds inputs: `rows` is `(n, cols)`.
    pub fn add(&mut self, rows: &[f32]) {
        for row in rows.chunks_exact(self.absolute.len()) {
            self.inputs += 1;
            for ((sum, largest), x) in self.absolute.iter_mut().zip(&mut self.largest).zip(row) {
                *sum += f64::from(x.abs());
                *largest = largest.max(x.abs());
            }
        }
        if let Some(hessian) = &mut self.hessian {
            hessian.add(rows);
        }
    }

    /// Mean of the absolute value, per channel.
    pub fn mean_absolute(&self) -> Vec<f32> {
        self.absolute.iter().map(|x| (x / self.inputs.max(1) as f64) as f32).collect()
    }

    /// Largest absolute value, per channel.
    pub fn largest(&self) -> &[f32] {
        &self.largest
    }

    fn is_finite(&self) -> bool {
        self.absolute.iter().all(|x| x.is_finite())
    }
}

/// What [`channel_sums`] shall sum up.
pub struct Wanted<'a, const N: usize> {
    /// Matrices, by name.
    pub names: &'a [&'a str],
    /// Products of their inputs too.
    pub hessians: bool,
    /// To which parts of the text a chunk belongs, by its number.
    pub parts: &'a dyn Fn(usize) -> [bool; N],
}

/// Receives the sums of a matrix's inputs, by its name: one of each part of the text.
pub type Receive<'a, const N: usize> = &'a mut dyn FnMut(&str, [ChannelSums; N]) -> Result<()>;

/// Runs a text through a model, block by block, and sums up what goes into some matrices. `receive` is given the sums as soon as they
/// are whole, so that no more than those of half a block are held, beside the weights of one block and the text's hidden states. Errors:
/// activations that are not finite, for which the model is to blame; a matrix that saw nothing in some part; those of `receive`.
pub fn channel_sums<const N: usize>(
    model: &Model,
    text: &Calibration,
    wanted: &Wanted<'_, N>,
    ui: &Ui,
    receive: Receive<'_, N>,
) -> Result<()> {
    backend::with(text.computing, &Sizes::of(model), ui, Job { model, text, wanted, ui, receive })
}

struct Job<'a, const N: usize> {
    model: &'a Model,
    text: &'a Calibration,
    wanted: &'a Wanted<'a, N>,
    ui: &'a Ui,
    receive: Receive<'a, N>,
}

impl<const N: usize> Task for Job<'_, N> {
    type Output = ();

    fn run<B: Backend>(self, backend: &B) -> Result<()> {
        let Job { model, text, wanted, ui, receive } = self;
        let missing = wanted.names.to_vec();
        let mut watching = Watching { model, wanted, now: [false; N], sums: BTreeMap::new(), missing, receive };
        Passage::new(backend, model, text, &Replaced::new())?.run(&mut watching, ui)?;
        match watching.missing.first() {
            Some(name) => {
                let what = "never came: nothing was multiplied with it";
                Err(malformed(model.path(), format!("inputs of {name}"), what))
            }
            None => Ok(()),
        }
    }
}

struct Watching<'a, const N: usize> {
    model: &'a Model,
    wanted: &'a Wanted<'a, N>,
    /// The parts that the chunk belongs to.
    now: [bool; N],
    /// Of the half of a block that the text is in.
    sums: BTreeMap<String, [Option<ChannelSums>; N]>,
    missing: Vec<&'a str>,
    receive: Receive<'a, N>,
}

impl<const N: usize> Observer for Watching<'_, N> {
    fn wants(&self, weight: &str) -> bool {
        self.wanted.names.contains(&weight)
    }

    fn inputs(&mut self, inputs: &Inputs<'_>) {
        for name in inputs.weights {
            if !self.wants(name) {
                continue;
            }
            let parts = self.sums.entry((*name).to_owned()).or_insert([const { None }; N]);
            for (sums, _) in parts.iter_mut().zip(self.now).filter(|(_, now)| *now) {
                sums.get_or_insert_with(|| ChannelSums::new(inputs.cols, self.wanted.hessians)).add(inputs.rows);
            }
        }
    }
}

impl<const N: usize> Follower for Watching<'_, N> {
    fn chunk(&mut self, number: usize) {
        self.now = (self.wanted.parts)(number);
    }

    fn behind_half(&mut self) -> Result<()> {
        for name in self.wanted.names {
            let Some(sums) = self.sums.remove(*name).and_then(every) else { continue };
            if !sums.iter().all(ChannelSums::is_finite) {
                return Err(not_finite(self.model, name));
            }
            self.missing.retain(|missing| missing != name);
            (self.receive)(name, sums)?;
        }
        self.sums.clear();
        Ok(())
    }
}

/// All of them, if they are all there.
fn every<T, const N: usize>(all: [Option<T>; N]) -> Option<[T; N]> {
    let all: Vec<T> = all.into_iter().flatten().collect();
    all.try_into().ok()
}
