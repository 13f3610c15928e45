//! Bars: one line per name, one bar per group.

use super::axis::{Axis, Scale};
use super::{GRID, INK, SERIES, SOFT, TEXT, TITLE, dashes, draw, fault, text, text_width};
use anyhow::Result;
use plotters::prelude::*;

/// One kind of figures.
pub struct Group<'a> {
    /// What it is called.
    pub name: &'a str,
    /// One per name; `None` where there is none.
    pub figures: Vec<Option<f64>>,
}

/// A chart of bars. A dashed line goes down from the first bar, for all others to be measured by.
pub struct Bars<'a> {
    /// What it says.
    pub title: &'a str,
    /// What the bars show, with the unit.
    pub unit: &'a str,
    /// Names, from the top.
    pub names: &'a [String],
    /// Groups.
    pub groups: &'a [Group<'a>],
    /// A figure as text.
    pub show: fn(f64) -> String,
}

const WIDTH: i32 = 780;
const BAR: i32 = 17;

/// Draws it.
pub fn bars(chart: &Bars) -> Result<String> {
    let each = BAR * chart.groups.len() as i32 + 10;
    let (top, bottom) = (78, 58);
    let height = top + each * chart.names.len() as i32 + bottom;
    draw(chart.title, (WIDTH, height), |root| {
        let longest = chart.names.iter().map(|n| text_width(n, TEXT)).max().unwrap_or(0);
        let all = || chart.groups.iter().flat_map(|g| g.figures.iter().flatten().copied());
        let largest = all().fold(0.0, f64::max).max(1e-9);
        let room = all().map(|f| text_width(&(chart.show)(f), TEXT)).max().unwrap_or(0) + 14;
        let (left, right) = (longest + 28, WIDTH - 16 - room);
        let at = |figure: f64| left + (figure / largest * f64::from(right - left)).round() as i32;
        let axis = Axis::new(chart.unit, Scale::Linear);
        let end = height - bottom;
        for (figure, name) in axis.marks((0.0, largest)) {
            let x = at(figure);
            root.draw(&PathElement::new([(x, top - 4), (x, end)], GRID)).map_err(fault)?;
            text(root, &name, (x - text_width(&name, TEXT) / 2, end + 6), TEXT, SOFT)?;
        }
        text(root, chart.unit, ((left + right - text_width(chart.unit, TEXT)) / 2, end + 30), TEXT, SOFT)?;
        for (i, name) in chart.names.iter().enumerate() {
            let line = top + i as i32 * each;
            let middle = line + each / 2 - 5;
            text(root, name, (left - 8 - text_width(name, TEXT), middle - TEXT / 2 + 1), TEXT, INK)?;
            for (g, group) in chart.groups.iter().enumerate() {
                let Some(figure) = group.figures[i] else { continue };
                let y = line + g as i32 * BAR;
                let corners = [(left, y), (at(figure).max(left + 1), y + BAR - 3)];
                root.draw(&Rectangle::new(corners, SERIES[g % SERIES.len()].filled())).map_err(fault)?;
                text(root, &(chart.show)(figure), (corners[1].0 + 6, y), TEXT, INK)?;
            }
        }
        root.draw(&PathElement::new([(left, top - 4), (left, end)], SOFT)).map_err(fault)?;
        if let Some(first) = chart.groups.first().and_then(|g| g.figures.first().copied().flatten()) {
            dashes(root, (at(first), top), (at(first), end), SOFT)?;
        }
        let (mut x, y) = (18, 12 + TITLE + 12);
        for (g, group) in chart.groups.iter().enumerate() {
            root.draw(&Rectangle::new([(x, y), (x + 12, y + 12)], SERIES[g % SERIES.len()].filled())).map_err(fault)?;
            text(root, group.name, (x + 18, y), TEXT, INK)?;
            x += 42 + text_width(group.name, TEXT);
        }
        Ok(())
    })
}
