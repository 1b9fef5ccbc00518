//! The picture's measures and colours: few, light, and told apart without red and green.

use plotters::style::RGBColor;

pub(in crate::ctl) const WIDTH: f64 = 1200.0;
pub(in crate::ctl) const LEFT: f64 = 100.0;
pub(in crate::ctl) const RIGHT: f64 = 1052.0;

pub(in crate::ctl) const PAPER: RGBColor = RGBColor(255, 255, 255);
pub(in crate::ctl) const INK: RGBColor = RGBColor(31, 41, 51);
pub(in crate::ctl) const SOFT: RGBColor = RGBColor(107, 117, 128);
pub(in crate::ctl) const GRID: RGBColor = RGBColor(234, 236, 239);
pub(in crate::ctl) const EMPTY: RGBColor = RGBColor(244, 245, 247);
pub(in crate::ctl) const EVENT: RGBColor = RGBColor(163, 170, 178);
pub(in crate::ctl) const LIMIT: RGBColor = RGBColor(178, 58, 72);

/// The run that is reported, and the one it is compared with.
pub(in crate::ctl) const RUNS: [RGBColor; 2] = [RGBColor(11, 114, 133), RGBColor(208, 122, 45)];

/// The ends and knots of the ladder's colours, from the most accurate variant (dark) to the lightest.
const LADDER: [RGBColor; 5] = [
    RGBColor(37, 52, 108),
    RGBColor(44, 112, 166),
    RGBColor(67, 171, 181),
    RGBColor(158, 212, 175),
    RGBColor(235, 224, 150),
];

/// Colour of variant `position` of `number`.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a few colours, channels within 0..=255"
)]
pub(in crate::ctl) fn ladder(position: usize, number: usize) -> RGBColor {
    let along = position as f64 / number.saturating_sub(1).max(1) as f64 * (LADDER.len() - 1) as f64;
    let knot = (along.floor() as usize).min(LADDER.len() - 2);
    let share = along - knot as f64;
    let mix = |from: u8, to: u8| (f64::from(from) + (f64::from(to) - f64::from(from)) * share).round() as u8;
    let (from, to) = (LADDER[knot], LADDER[knot + 1]);
    RGBColor(mix(from.0, to.0), mix(from.1, to.1), mix(from.2, to.2))
}
