//! Two pictures of many runs: energy against missed deadlines, and the gap to what could have been.

use super::summary::{Estimate, Group};
use crate::ctl::report::DrawError;
use crate::ctl::report::canvas::{Anchor, Canvas, Frame, Text};
use crate::ctl::report::series::ticks;
use crate::ctl::report::style::{EMPTY, GRID, INK, PAPER, RUNS, SOFT};
use plotters::style::RGBColor;

type Drawn = Result<(), DrawError>;

const WIDTH: u32 = 760;
const HEIGHT: u32 = 400;
const FIELD: Frame = Frame { left: 70.0, top: 46.0, right: 590.0, bottom: 340.0 };
/// Distance of two names.
const NAME_STEP: f64 = 14.0;

/// A policy in the picture: position in per cent and joules.
struct Spot<'a> {
    name: &'a str,
    missed: Estimate,
    energy: Estimate,
    color: RGBColor,
}

fn color(position: usize) -> RGBColor {
    *RUNS.get(position).unwrap_or(&SOFT)
}

/// Energy of the board against missed deadlines, a spot per policy, with their confidence intervals.
///
/// # Errors
/// If the backend fails.
pub(super) fn energy_against_misses(group: &Group) -> Result<String, DrawError> {
    let spots = group.rows.iter().enumerate().filter_map(|(position, row)| {
        let missed = row.missed?;
        let percent = Estimate { mean: missed.mean * 100.0, half: missed.half.map(|half| half * 100.0) };
        Some(Spot { name: &row.policy, missed: percent, energy: row.energy_j?, color: color(position) })
    });
    let spots: Vec<Spot<'_>> = spots.collect();
    Canvas::draw(WIDTH, HEIGHT, |canvas| {
        background(canvas, HEIGHT)?;
        let right = spots.iter().map(|spot| spot.missed.mean + spot.missed.half.unwrap_or(0.0));
        let x = Axis { low: 0.0, high: right.fold(0.1, f64::max) * 1.08, from: FIELD.left, to: FIELD.right };
        let lows = spots.iter().map(|spot| spot.energy.mean - spot.energy.half.unwrap_or(0.0));
        let highs = spots.iter().map(|spot| spot.energy.mean + spot.energy.half.unwrap_or(0.0));
        let (low, high) = (lows.fold(f64::INFINITY, f64::min), highs.fold(f64::NEG_INFINITY, f64::max));
        let air = if high > low { (high - low) * 0.1 } else { 1.0 };
        let y = Axis { low: low - air, high: high + air, from: FIELD.bottom, to: FIELD.top };
        axes(canvas, &x, &y, "deadlines missed, %", "energy of the board, J")?;
        spots_and_names(canvas, &spots, &x, &y)
    })
}

fn spots_and_names(canvas: &Canvas<'_>, spots: &[Spot<'_>], x: &Axis, y: &Axis) -> Drawn {
    let mut names: Vec<(f64, f64, &str, RGBColor)> = Vec::new();
    for spot in spots {
        let at = (x.place(spot.missed.mean), y.place(spot.energy.mean));
        if let Some(half) = spot.missed.half {
            let ends =
                [spot.missed.mean - half, spot.missed.mean + half].map(|value| x.place(value.max(0.0)));
            canvas.line(&[(ends[0], at.1), (ends[1], at.1)], spot.color, 0.5, 1.5)?;
        }
        if let Some(half) = spot.energy.half {
            let ends = [spot.energy.mean - half, spot.energy.mean + half].map(|value| y.place(value));
            canvas.line(&[(at.0, ends[0]), (at.0, ends[1])], spot.color, 0.5, 1.5)?;
        }
        canvas.shape(&circle(at, 4.0), spot.color, 1.0)?;
        names.push((at.0, at.1, spot.name, spot.color));
    }
    names.sort_by(|a, b| a.1.total_cmp(&b.1));
    let mut least = FIELD.top;
    for (spot_x, spot_y, name, color) in names {
        let at = spot_y.max(least);
        least = at + NAME_STEP;
        let edge = FIELD.right + 8.0;
        canvas.line(&[(spot_x + 5.0, spot_y), (edge - 2.0, at)], color, 0.25, 1.0)?;
        canvas.text((edge + 2.0, at), name, Text::new(12.0, color))?;
    }
    Ok(())
}

/// Energy above the certified bound, a bar per policy, and above the best causal planner, a line in it; `None`
/// where the oracles were not asked.
///
/// # Errors
/// If the backend fails.
pub(super) fn gap_to_the_bound(group: &Group) -> Result<Option<String>, DrawError> {
    let bars: Vec<(&str, f64, Option<f64>)> = group
        .rows
        .iter()
        .filter_map(|row| {
            let o3 = row.over_o3.map(|gap| gap.mean * 100.0);
            Some((row.policy.as_str(), row.over_bound?.mean * 100.0, o3))
        })
        .collect();
    if bars.is_empty() {
        return Ok(None);
    }
    let height = 70 + 26 * u32::try_from(bars.len()).unwrap_or(40).min(100);
    let highest = bars.iter().map(|(_, gap, _)| *gap).fold(1.0, f64::max);
    let axis = Axis { low: 0.0, high: highest * 1.05, from: 150.0, to: 640.0 };
    let svg = Canvas::draw(WIDTH, height, |canvas| {
        background(canvas, height)?;
        let title = "Energy above the certified bound, % (and above the best causal planner)";
        canvas.text((16.0, 20.0), title, Text::new(13.5, INK).bold())?;
        for (position, (name, gap, o3)) in bars.iter().enumerate() {
            let top = 40.0 + 26.0 * f64::from(u32::try_from(position).unwrap_or(u32::MAX));
            let field = Frame { left: axis.from, right: axis.to, top, bottom: top + 18.0 };
            canvas.fill(field, EMPTY, 1.0)?;
            canvas.fill(Frame { right: axis.place(gap.max(0.0)), ..field }, color(position), 1.0)?;
            let look = Text::new(12.0, color(position));
            canvas.text((axis.from - 8.0, top + 9.0), name, look.anchored(Anchor::End))?;
            let o3 = o3.map_or(String::new(), |gap| format!(" ({gap:.1})"));
            canvas.text((axis.to + 8.0, top + 9.0), &format!("{gap:.1}{o3}"), look)?;
        }
        Ok(())
    })?;
    Ok(Some(svg))
}

fn background(canvas: &Canvas<'_>, height: u32) -> Drawn {
    let frame = Frame { left: 0.0, top: 0.0, right: f64::from(WIDTH), bottom: f64::from(height) };
    canvas.fill(frame, PAPER, 1.0)
}

/// Values from `low` to `high` along pixels `from` to `to`.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn place(&self, value: f64) -> f64 {
        let share = (value - self.low) / (self.high - self.low);
        self.from + (self.to - self.from) * share
    }
}

fn axes(canvas: &Canvas<'_>, x: &Axis, y: &Axis, below: &str, above: &str) -> Drawn {
    for tick in ticks(y.low, y.high, 6.0) {
        let at = y.place(tick);
        canvas.line(&[(FIELD.left, at), (FIELD.right, at)], GRID, 1.0, 1.0)?;
        canvas.text((FIELD.left - 8.0, at), &number(tick), Text::new(12.0, SOFT).anchored(Anchor::End))?;
    }
    for tick in ticks(x.low, x.high, 6.0) {
        let at = x.place(tick);
        canvas.line(&[(at, FIELD.top), (at, FIELD.bottom)], GRID, 1.0, 1.0)?;
        let look = Text::new(12.0, SOFT).anchored(Anchor::Middle);
        canvas.text((at, FIELD.bottom + 16.0), &number(tick), look)?;
    }
    canvas.text((FIELD.left, FIELD.top - 18.0), above, Text::new(13.5, INK).bold())?;
    let look = Text::new(13.5, INK).bold().anchored(Anchor::End);
    canvas.text((FIELD.right, FIELD.bottom + 38.0), below, look)
}

fn circle((x, y): (f64, f64), radius: f64) -> Vec<(f64, f64)> {
    let corner = |k: u32| {
        let angle = std::f64::consts::TAU * f64::from(k) / 20.0;
        (x + radius * angle.cos(), y + radius * angle.sin())
    };
    (0..20).map(corner).collect()
}

fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
