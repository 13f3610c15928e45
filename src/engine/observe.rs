//! Watching what goes into the linears while a text runs through the model: for importance, Hessians, activations.

use super::weights::Linear;
use qconv_kernels::{Backend, Product, Result};

/// Rows of activations that are about to be multiplied.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// GGUF names of the weights that they are multiplied with, each once: queries, keys and values share theirs.
    pub weights: &'a [&'a str],
    /// Which matrix of the stack, where the weights are stacks of experts.
    pub expert: Option<usize>,
    /// `(rows, cols)`, in f32.
    pub rows: &'a [f32],
    /// Length of a row: the weight's columns.
    pub cols: usize,
}

/// Someone who watches.
pub trait Observer {
    /// Inputs of this weight are wanted. Others are not even copied from the backend.
    fn wants(&self, weight: &str) -> bool;

    /// The product with this weight leads to what will be wanted. If not, it is left out, and what follows from it means
    /// nothing.
    fn leads_on(&self, _weight: &str) -> bool {
        true
    }

    /// Sees the inputs of some weights, at least one of them wanted.
    fn inputs(&mut self, inputs: &Inputs<'_>);
}

/// An observer, or nobody: then nothing is copied, and a product costs one comparison more.
pub(super) struct Watch<'o>(Option<&'o mut dyn Observer>, Vec<f32>);

impl<'o> Watch<'o> {
    pub fn nobody() -> Self {
        Watch(None, Vec::new())
    }

    pub fn by(observer: &'o mut dyn Observer) -> Self {
        Watch(Some(observer), Vec::new())
    }

    /// Whether anybody watches.
    pub fn somebody(&self) -> bool {
        self.0.is_some()
    }

    /// Shows `n` rows to the observer.
    pub fn show<B: Backend, const N: usize>(
        &mut self,
        b: &B,
        x: &B::Buffer,
        n: usize,
        cols: usize,
        expert: Option<usize>,
        weights: [&str; N],
    ) -> Result<()> {
        let Watch(Some(observer), host) = self else { return Ok(()) };
        let (mut wanted, mut count) = ([""; N], 0);
        for name in weights {
            // Parts of a fused matrix have one name.
            if observer.wants(name) && !wanted[..count].contains(&name) {
                wanted[count] = name;
                count += 1;
            }
        }
        if count > 0 {
            host.resize(n * cols, 0.0);
            b.read(x, host)?;
            observer.inputs(&Inputs { weights: &wanted[..count], expert, rows: host, cols });
        }
        Ok(())
    }
}

/// Products of linears with the same `n` rows of activations, seen by whoever watches.
pub(super) fn products<B: Backend, const N: usize>(
    b: &B,
    watch: &mut Watch<'_>,
    x: &B::Buffer,
    n: usize,
    linears: [(&Linear<B>, &mut B::Buffer); N],
) -> Result<()> {
    let first = linears[0].0;
    watch.show(b, x, n, first.cols, first.expert, linears.each_ref().map(|(l, _)| &*l.name))?;
    if watch.0.as_ref().is_some_and(|o| linears.iter().all(|(l, _)| !o.leads_on(&l.name))) {
        return Ok(());
    }
    b.matmul(x, n, &mut linears.map(|(l, out)| Product { weight: &l.weight, bias: l.bias.as_ref(), out }))
}
