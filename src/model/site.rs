//! A family's folds ([`crate::arch::Folds`]) in one model: whose channels can be scaled, and how.

use super::edit::RowChange;
use super::{Axis, Edit, EditChange, Model};
use crate::arch::{Channels, Plan};
use anyhow::Result;

/// Channels of a model that can be scaled or rotated: who makes them and who reads them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// What they are.
    pub channels: Channels,
    /// How many.
    pub count: usize,
    /// The layer; none for what stands behind the last.
    pub layer: Option<usize>,
    /// The norm or linear that makes them, without `.weight`.
    pub from: String,
    /// The weights that read them, at least one, in the order of the family's list.
    pub to: Vec<String>,
    /// Of values: channels of a head, and how many query heads read it.
    head: (usize, usize),
}

impl Site {
    /// One number per channel as one per column of the readers.
    pub fn spread(&self, channels: &[f32]) -> Vec<f32> {
        let (width, readers) = self.head;
        channels.chunks(width).flat_map(|head| std::iter::repeat_n(head, readers)).flatten().copied().collect()
    }

    /// One number per column of the readers as one per channel: `join` of those that read the same.
    pub fn gather(&self, columns: &[f32], join: impl Fn(&mut dyn Iterator<Item = f32>) -> f32) -> Vec<f32> {
        let (width, readers) = self.head;
        let channel = |c: usize| {
            let first = c / width * width * readers + c % width;
            join(&mut (0..readers).map(|r| columns[first + r * width]))
        };
        (0..self.count).map(channel).collect()
    }
}

impl Model {
    /// Where channels can be scaled, layer by layer. Errors: those of [`Model::plan`].
    pub fn sites(&self) -> Result<Vec<Site>> {
        let plan = self.plan()?;
        let Some(folds) = self.architecture().map(|a| a.folds) else { return Ok(Vec::new()) };
        let has = |name: &String| self.tensor(&format!("{name}.weight")).is_some();
        let mut sites = Vec::new();
        for layer in (0..plan.layers).map(Some).chain([None]) {
            for place in folds.places {
                let named = |list: &[&str]| -> Vec<String> {
                    let of_layer = list.iter().filter(|name| name.contains("{i}") == layer.is_some());
                    let name = |n: &&str| n.replace("{i}", &layer.unwrap_or(0).to_string());
                    of_layer.map(name).filter(&has).collect()
                };
                let (Some(from), to) = (named(place.from).into_iter().next(), named(place.to)) else { continue };
                let to: Vec<String> = to.into_iter().map(|name| name + ".weight").collect();
                let Some(first) = to.first().and_then(|name| self.tensor(name)) else { continue };
                let (count, head) = match place.channels {
                    Channels::Stream | Channels::Hidden => (first.shape.cols(), (first.shape.cols(), 1)),
                    Channels::Values => (plan.kv_heads * plan.value_dim, (plan.value_dim, plan.heads / plan.kv_heads)),
                };
                sites.push(Site { channels: place.channels, count, layer, from, to, head });
            }
        }
        Ok(sites)
    }

    /// Scales channels where they are read, and the other way where they are made: the model computes what it did before.
    /// `factors`: one finite, positive number per channel.
    pub fn scale(&mut self, site: &Site, factors: &[f32]) -> Result<()> {
        let inverse: Vec<f32> = factors.iter().map(|f| 1.0 / f).collect();
        self.edit_outputs(&site.from, site.count, EditChange::Scale(inverse.into()))?;
        self.scale_readers(site, factors)
    }

    /// Moves a norm's weights into those who read what it gives.
    pub fn unload_norm(&mut self, site: &Site) -> Result<()> {
        let name = format!("{}.weight", site.from);
        let mut weights = vec![0f32; site.count];
        if let Some(norm) = self.tensor(&name) {
            self.rows(norm, 0, &mut weights)?;
        }
        self.scale_readers(site, &weights)?;
        self.edit(&name, Edit { axis: Axis::Outputs(0), change: EditChange::Ones })
    }

    fn scale_readers(&mut self, site: &Site, factors: &[f32]) -> Result<()> {
        let columns: std::sync::Arc<[f32]> = site.spread(factors).into();
        for name in &site.to {
            self.edit(name, Edit { axis: Axis::Inputs, change: EditChange::Scale(columns.clone()) })?;
        }
        Ok(())
    }

    /// Changes every row of a matrix by itself.
    pub fn edit_rows(&mut self, name: &str, change: RowChange) -> Result<()> {
        self.edit(name, Edit { axis: Axis::Inputs, change: EditChange::Rows(change) })
    }

    /// Changes the last `count` outputs of a linear or a norm, its bias too.
    pub fn edit_outputs(&mut self, name: &str, count: usize, change: EditChange) -> Result<()> {
        for name in [format!("{name}.weight"), format!("{name}.bias")] {
            let Some(tensor) = self.tensor(&name) else { continue };
            let dims = tensor.shape.dims();
            let outputs = if dims.len() > 1 { dims[dims.len() - 2] } else { dims[0] };
            let axis = Axis::Outputs(outputs - count);
            self.edit(&name, Edit { axis, change: change.clone() })?;
        }
        Ok(())
    }
}

/// The names of a list in every layer, as far as the model has them.
pub fn everywhere(model: &Model, plan: &Plan, names: &[&str]) -> Vec<String> {
    let layers = |name: &&str| if name.contains("{i}") { plan.layers } else { 1 };
    let all = names.iter().flat_map(|name| (0..layers(name)).map(move |i| name.replace("{i}", &i.to_string())));
    all.filter(|name| model.tensor(&format!("{name}.weight")).is_some()).collect()
}
