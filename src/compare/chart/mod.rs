//! Charts as SVG, drawn with plotters.
//!
//! Every colour stands for a role, and each role has a colour that nothing else has, so that a page's style sheet can give all
//! of them other values (`[fill="#1B1B1B"] { fill: ... }`): dark mode costs no second drawing. Alone, a chart reads on white.
//! Series differ in shape as well as in colour (Okabe and Ito's palette).

mod axis;
mod bars;
mod labels;
mod scatter;

pub use axis::{Axis, Scale};
pub use bars::{Bars, Group, bars};
pub use scatter::{Point, Scatter, scatter};

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

/// A place to draw, in pixels.
type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Text.
pub const INK: RGBColor = RGBColor(0x1B, 0x1B, 0x1B);
/// Axes and what explains.
pub const SOFT: RGBColor = RGBColor(0x5F, 0x5F, 0x5F);
/// Grid lines.
pub const GRID: RGBColor = RGBColor(0xDD, 0xDD, 0xDD);
/// One after the other, and from the beginning again.
pub const SERIES: [RGBColor; 6] = [
    RGBColor(0x00, 0x72, 0xB2),
    RGBColor(0xD5, 0x5E, 0x00),
    RGBColor(0x00, 0x9E, 0x73),
    RGBColor(0xCC, 0x79, 0xA7),
    RGBColor(0xE6, 0x9F, 0x00),
    RGBColor(0x56, 0xB4, 0xE9),
];

/// As SVG writes it.
pub fn hex(c: RGBColor) -> String {
    format!("#{:02X}{:02X}{:02X}", c.0, c.1, c.2)
}

// plotters writes sizes as points of 1/1.24 pixels.
const TITLE: i32 = 22;
const TEXT: i32 = 16;

/// Pixels that a text takes, on the safe side: browsers choose the font.
fn text_width(text: &str, size: i32) -> i32 {
    let wide = |c: char| if c.is_uppercase() || c.is_ascii_digit() || c == '_' { 0.68 } else { 0.56 };
    (text.chars().map(wide).sum::<f64>() * f64::from(size) / 1.24).ceil() as i32
}

/// Draws on a new SVG of a size, with a title for eyes and screen readers.
fn draw(title: &str, size: (i32, i32), work: impl FnOnce(&Canvas) -> Result<()>) -> Result<String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (size.0 as u32, size.1 as u32)).into_drawing_area();
        text(&root, title, (14, 12), TITLE, INK)?;
        work(&root)?;
        root.present().map_err(fault)?;
    }
    let title = super::page::escaped(title);
    Ok(svg.replacen("<svg ", &format!("<svg role=\"img\" aria-label=\"{title}\" "), 1))
}

/// A text whose upper left corner lies at a point.
fn text(root: &Canvas, what: &str, at: (i32, i32), size: i32, color: RGBColor) -> Result<()> {
    let style = ("sans-serif", size).into_font().color(&color);
    root.draw(&Text::new(what.to_owned(), at, style)).map_err(fault)
}

/// The mark of a series: another shape for each of the first four.
fn mark(root: &Canvas, series: usize, at: (i32, i32)) -> Result<()> {
    let (x, y) = at;
    let style = SERIES[series % SERIES.len()].filled();
    match series % 4 {
        0 => root.draw(&Circle::new(at, 5, style)),
        1 => root.draw(&Rectangle::new([(x - 5, y - 5), (x + 5, y + 5)], style)),
        2 => root.draw(&Polygon::new([(x, y - 6), (x + 6, y + 5), (x - 6, y + 5)], style)),
        _ => root.draw(&Polygon::new([(x, y - 7), (x + 7, y), (x, y + 7), (x - 7, y)], style)),
    }
    .map_err(fault)
}

/// A dashed line.
fn dashes(root: &Canvas, from: (i32, i32), to: (i32, i32), color: RGBColor) -> Result<()> {
    const STEP: f64 = 9.0;
    let (dx, dy) = (f64::from(to.0 - from.0), f64::from(to.1 - from.1));
    let length = dx.hypot(dy);
    let at = |t: f64| (from.0 + (dx * t).round() as i32, from.1 + (dy * t).round() as i32);
    for i in 0..(length / STEP) as i32 {
        let (a, b) = (f64::from(i) * STEP / length, (f64::from(i) * STEP + 5.0) / length);
        root.draw(&PathElement::new([at(a), at(b.min(1.0))], color.stroke_width(1))).map_err(fault)?;
    }
    Ok(())
}

/// Drawing into a string fails only where plotters is asked for nonsense.
fn fault(e: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("drawing a chart: {e} (a fault of qconv)")
}
