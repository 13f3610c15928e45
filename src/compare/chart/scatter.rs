//! Points by two figures, with their names.

use super::axis::Axis;
use super::labels::{Box, place};
use super::{Canvas, GRID, INK, SOFT, TEXT, TITLE, dashes, draw, fault, mark, text, text_width};
use anyhow::Result;
use plotters::prelude::*;

/// A named point.
#[derive(Debug, Clone)]
pub struct Point {
    /// What stands beside it.
    pub name: String,
    /// To the right.
    pub x: f64,
    /// Upwards.
    pub y: f64,
    /// Number of the series it belongs to.
    pub series: usize,
}

/// A chart of points.
pub struct Scatter<'a> {
    /// What it says.
    pub title: &'a str,
    /// To the right.
    pub x: Axis,
    /// Upwards.
    pub y: Axis,
    /// Names of the series.
    pub series: &'a [String],
    /// The points.
    pub points: &'a [Point],
    /// Numbers of the points that a line joins, in order, and what the line is called.
    pub line: Option<(&'a [usize], &'a str)>,
    /// A vertical line, and what it is called.
    pub limit: Option<(f64, &'a str)>,
}

const SIZE: (i32, i32) = (780, 500);
const RADIUS: i32 = 6;

/// Draws it.
pub fn scatter(chart: &Scatter) -> Result<String> {
    draw(chart.title, SIZE, |root| {
        let Scatter { x, y, points, .. } = chart;
        let limit = chart.limit.map(|(at, _)| at);
        let (xs, ys) = (x.range(points.iter().map(|p| p.x).chain(limit)), y.range(points.iter().map(|p| p.y)));
        let (x_marks, y_marks) = (x.marks(xs), y.marks(ys));
        let (left, right, top, bottom) = (96, SIZE.0 - 20, 80, SIZE.1 - 66);
        let share = |at: f64, (low, high): (f64, f64)| (at - low) / (high - low);
        let across = |at: f64| left + (share(at, xs) * f64::from(right - left)).round() as i32;
        let up = |at: f64| bottom - (share(at, ys) * f64::from(bottom - top)).round() as i32;
        let line = |from, to, color: RGBColor| root.draw(&PathElement::new([from, to], color)).map_err(fault);
        for (position, name) in &x_marks {
            let x = across(*position);
            line((x, top), (x, bottom), GRID)?;
            text(root, name, (x - text_width(name, TEXT) / 2, bottom + 8), TEXT, SOFT)?;
        }
        for (position, name) in &y_marks {
            let y = up(*position);
            line((left, y), (right, y), GRID)?;
            text(root, name, (left - 10 - text_width(name, TEXT), y - TEXT / 2), TEXT, SOFT)?;
        }
        line((left, top), (left, bottom), SOFT)?;
        line((left, bottom), (right, bottom), SOFT)?;
        text(root, &x.name, ((left + right - text_width(&x.name, TEXT)) / 2, bottom + 38), TEXT, SOFT)?;
        let upwards = ("sans-serif", TEXT).into_font().transform(FontTransform::Rotate270).color(&SOFT);
        let middle = (top + bottom + text_width(&y.name, TEXT)) / 2;
        root.draw(&Text::new(y.name.clone(), (12, middle), upwards)).map_err(fault)?;
        let at: Vec<(i32, i32)> = points.iter().map(|p| (across(x.position(p.x)), up(y.position(p.y)))).collect();

        let mut avoid = Vec::new();
        if let Some((order, _)) = chart.line {
            let path: Vec<(i32, i32)> = order.iter().map(|&i| at[i]).collect();
            path.windows(2).for_each(|ends| avoid.extend(along(ends[0], ends[1])));
            root.draw(&PathElement::new(path, SOFT.stroke_width(2))).map_err(fault)?;
        }
        if let Some((figure, name)) = chart.limit {
            let x = across(x.position(figure));
            dashes(root, (x, bottom), (x, top), SOFT)?;
            avoid.push(Box::new(x - 1, top, 2, bottom - top));
            let width = text_width(name, TEXT);
            let beside = if x + width + 8 < right { x + 6 } else { x - 6 - width };
            text(root, name, (beside, top + 4), TEXT, SOFT)?;
            avoid.push(Box::new(beside, top + 4, width, TEXT + 4));
        }
        for (point, at) in points.iter().zip(&at) {
            mark(root, point.series, *at)?;
        }
        let sizes: Vec<(i32, i32)> = points.iter().map(|p| (text_width(&p.name, TEXT), TEXT + 2)).collect();
        let frame = Box { left: left + 2, top: top + 2, right: right - 2, bottom: bottom - 2 };
        for (i, (corner, far)) in place(&at, &sizes, RADIUS, frame, &avoid).into_iter().enumerate() {
            if far {
                let (width, height) = sizes[i];
                let end = (at[i].0.clamp(corner.0, corner.0 + width), at[i].1.clamp(corner.1, corner.1 + height));
                root.draw(&PathElement::new([at[i], end], SOFT.stroke_width(1))).map_err(fault)?;
            }
            text(root, &points[i].name, corner, TEXT, INK)?;
        }
        legend(root, chart)
    })
}

/// Boxes along a line, for labels to keep away from.
fn along(from: (i32, i32), to: (i32, i32)) -> impl Iterator<Item = Box> {
    let steps = ((to.0 - from.0).abs().max((to.1 - from.1).abs()) / 6).max(1);
    (0..=steps).map(move |i| {
        let at = |a: i32, b: i32| a + (b - a) * i / steps;
        Box::new(at(from.0, to.0) - 3, at(from.1, to.1) - 3, 6, 6)
    })
}

/// Marks and names in one line under the title.
fn legend(root: &Canvas, chart: &Scatter) -> Result<()> {
    let (mut x, y) = (22, 12 + TITLE + 20);
    for (i, name) in chart.series.iter().enumerate() {
        mark(root, i, (x, y))?;
        text(root, name, (x + 12, y - TEXT / 2 + 1), TEXT, INK)?;
        x += 36 + text_width(name, TEXT);
    }
    if let Some((_, name)) = chart.line {
        root.draw(&PathElement::new([(x - 4, y), (x + 16, y)], SOFT.stroke_width(2))).map_err(fault)?;
        text(root, name, (x + 22, y - TEXT / 2 + 1), TEXT, INK)?;
    }
    Ok(())
}
