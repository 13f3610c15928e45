//! What was odd about the inputs of matrices.

use crate::ui::Ui;
use std::collections::BTreeMap;

/// What was odd.
#[derive(Default)]
pub(super) struct Oddities {
    pub(super) dead: BTreeMap<String, usize>,
    pub(super) unseen: BTreeMap<String, usize>,
    pub(super) silent: BTreeMap<String, usize>,
    pub(super) few: BTreeMap<String, (u64, usize)>,
}

impl Oddities {
    pub(super) fn warn(&self, text: &str, ui: &Ui) {
        let list = |all: Vec<String>| {
            let more = if all.len() > 4 { ", ..." } else { "" };
            format!("{}{more}", all.into_iter().take(4).collect::<Vec<_>>().join(", "))
        };
        if !self.dead.is_empty() {
            let n: usize = self.dead.values().sum();
            let all = list(self.dead.iter().map(|(name, n)| format!("{name} {n}")).collect());
            ui.warn(format!("{text}: {n} columns were never active, their weights are rounded: {all}"));
        }
        if !self.unseen.is_empty() {
            let n: usize = self.unseen.values().sum();
            let all = list(self.unseen.iter().map(|(name, n)| format!("{name} {n}")).collect());
            ui.warn(format!("{text}: {n} matrices were never used, they are rounded; use a longer text: {all}"));
        }
        if !self.silent.is_empty() {
            let n: usize = self.silent.values().sum();
            let all = list(self.silent.iter().map(|(name, n)| format!("{name} {n}")).collect());
            ui.warn(format!(
                "{text}: {n} matrices had nothing but zeros as inputs, they are rounded; the model or the text is odd: {all}"
            ));
        }
        if !self.few.is_empty() {
            let all = list(self.few.iter().map(|(name, (n, cols))| format!("{name} {n} of {cols}")).collect());
            ui.warn(format!(
                "{text}: fewer inputs than columns in {} tensors, which nothing but damping makes definite; use a longer text: {all}",
                self.few.len()
            ));
        }
    }
}
