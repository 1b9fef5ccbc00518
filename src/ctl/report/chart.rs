//! The timeline picture: panels over one time axis, the run in one colour and what it is compared with
//! in another, labelled where the eye is.

use crate::ctl::record::Run;
use crate::ctl::report::canvas::{Anchor, Canvas, DrawError, Frame, Text};
use crate::ctl::report::series::{self, Bins, Point};
use crate::ctl::report::style::{
    self, EMPTY, EVENT, GRID, INK, LEFT, LIMIT, PAPER, RIGHT, RUNS, SOFT, WIDTH,
};
use crate::ctl::report::{Compared, headline};
use plotters::style::RGBColor;

type Drawn = Result<(), DrawError>;

/// Clock domains that get a panel.
const CLOCKS: usize = 2;
const HEAD: f64 = 224.0;
const GAP: f64 = 37.0;
/// Height of the figures of each run in the heading.
const FIGURES: [f64; 2] = [122.0, 147.0];
const TEMPERATURE_HIGH: f64 = 150.0;
const POWER_HIGH: f64 = 92.0;
const CLOCK_HIGH: f64 = 56.0;
const SHORTFALL_HIGH: f64 = 52.0;
const STRIP_HIGH: f64 = 28.0;
const STRIP_GAP: f64 = 4.0;
const LEGEND_ROW: f64 = 15.0;
const FOOT: f64 = 66.0;

/// An application's strips of variants, one per run.
struct Strip {
    app: String,
    model: String,
    variants: Vec<String>,
}

impl Strip {
    fn high(&self, runs: usize) -> f64 {
        let strips = count(runs) * (STRIP_HIGH + STRIP_GAP) - STRIP_GAP;
        strips.max(count(self.variants.len()) * LEGEND_ROW)
    }
}

/// What is drawn, before it is known where.
struct Picture<'a> {
    compared: &'a [Compared],
    runs: Vec<&'a Run>,
    length_s: f64,
    bins: Bins,
    domains: Vec<String>,
    strips: Vec<Strip>,
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

/// Draws the runs, the first in the leading colour; at most two are drawn.
///
/// # Errors
/// If the backend fails.
pub fn svg(compared: &[Compared]) -> Result<String, DrawError> {
    let compared = &compared[..compared.len().min(RUNS.len())];
    let runs: Vec<&Run> = compared.iter().map(|one| &one.run).collect();
    let length_s = runs.iter().map(|run| run.length_s().max(run.header.duration_s)).fold(0.1, f64::max);
    let mut strips: Vec<Strip> = Vec::new();
    for app in runs.iter().flat_map(|run| &run.header.apps) {
        if !strips.iter().any(|strip| strip.app == app.name) && strips.len() < 6 {
            let variants = series::variants_seen(&runs, &app.name, &app.model);
            strips.push(Strip { app: app.name.clone(), model: app.model.clone(), variants });
        }
    }
    let picture = Picture {
        compared,
        length_s,
        bins: Bins::over(length_s),
        domains: series::lively_domains(&runs, CLOCKS),
        strips,
        runs,
    };
    let height = picture.height().ceil();
    let size = |value: f64| crate::units::Kilohertz::from_f64(value).0;
    Canvas::draw(size(WIDTH), size(height), |canvas| picture.paint(canvas, height))
}

impl Picture<'_> {
    fn x(&self, t_s: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * (t_s / self.length_s).clamp(0.0, 1.0)
    }

    fn height(&self) -> f64 {
        let strips: f64 = self.strips.iter().map(|strip| strip.high(self.runs.len()) + GAP).sum();
        let clocks = count(self.domains.len()) * (CLOCK_HIGH + GAP);
        HEAD + TEMPERATURE_HIGH + GAP + POWER_HIGH + GAP + clocks + strips + SHORTFALL_HIGH + FOOT
    }

    fn paint(&self, canvas: &Canvas<'_>, height: f64) -> Drawn {
        let frame = Frame { left: 0.0, top: 0.0, right: WIDTH, bottom: height };
        canvas.fill(frame, PAPER, 1.0)?;
        self.heading(canvas)?;
        let bottom = height - FOOT;
        self.events(canvas, HEAD, bottom)?;

        let mut top = HEAD;
        let panel = |top: f64, high: f64| Frame { left: LEFT, top, right: RIGHT, bottom: top + high };
        self.temperature(canvas, panel(top, TEMPERATURE_HIGH))?;
        top += TEMPERATURE_HIGH + GAP;
        let powers = self.lines(series::power);
        Panel::new(panel(top, POWER_HIGH), "Power of the board", "W", &powers, 0.0).draw(self, canvas)?;
        top += POWER_HIGH + GAP;
        for domain in &self.domains {
            let clocks: Vec<_> = self.runs.iter().map(|run| steps(&series::clock(run, domain))).collect();
            let title = format!("Clock of {domain}");
            Panel::new(panel(top, CLOCK_HIGH), &title, "GHz", &clocks, 0.0).draw(self, canvas)?;
            top += CLOCK_HIGH + GAP;
        }
        for strip in &self.strips {
            let high = strip.high(self.runs.len());
            self.variants(canvas, panel(top, high), strip)?;
            top += high + GAP;
        }
        self.shortfalls(canvas, panel(top, SHORTFALL_HIGH))?;
        self.time_axis(canvas, bottom)?;
        let words = headline::footnote(self.compared);
        canvas.text((LEFT, height - 16.0), &words, Text::new(11.5, SOFT))
    }

    fn lines(&self, of: impl Fn(&Run) -> Vec<Point>) -> Vec<Vec<Point>> {
        self.runs.iter().map(|run| of(run)).collect()
    }

    /// Title, key and the figures that matter.
    fn heading(&self, canvas: &Canvas<'_>) -> Drawn {
        let Some(first) = self.compared.first() else { return Ok(()) };
        canvas.text((LEFT, 34.0), &headline::title(first), Text::new(23.0, INK).bold())?;
        canvas.text((LEFT, 62.0), &headline::subtitle(self.compared), Text::new(13.5, SOFT))?;
        for (row, one) in self.compared.iter().enumerate() {
            let look = Text::new(12.5, RUNS[row]).anchored(Anchor::End);
            canvas.text((LEFT - 8.0, FIGURES[row]), one.tally.label.policy(), look)?;
        }
        let figures = headline::figures(self.compared);
        let step = (RIGHT - LEFT + 100.0) / count(figures.len().max(1));
        for (position, figure) in figures.iter().enumerate() {
            let x = LEFT + count(position) * step;
            canvas.text((x, 96.0), figure.name, Text::new(12.5, SOFT))?;
            for (row, (value, size)) in figure.values.iter().zip([21.0, 14.0]).enumerate() {
                canvas.text((x, FIGURES[row]), value, Text::new(size, RUNS[row]).bold())?;
            }
        }
        Ok(())
    }

    /// Vertical lines through all panels, named above the first; names that would touch take a second row.
    fn events(&self, canvas: &Canvas<'_>, top: f64, bottom: f64) -> Drawn {
        let mut ends = [f64::MIN; 2];
        for (at_s, words) in series::happenings(&self.runs).iter().take(12) {
            let x = self.x(*at_s);
            let half = count(words.chars().count()) * 3.3 + 6.0;
            let row = usize::from(ends[0] > x - half);
            if ends[row] > x - half {
                continue;
            }
            ends[row] = x + half;
            let y = top - 30.0 - 15.0 * count(row);
            canvas.text((x, y), words, Text::new(12.5, INK).anchored(Anchor::Middle))?;
            canvas.dashed((x, y + 9.0), (x, bottom), EVENT, 2.5)?;
        }
        Ok(())
    }

    fn temperature(&self, canvas: &Canvas<'_>, frame: Frame) -> Drawn {
        let lines = self.lines(series::temperature);
        let mut panel = Panel::new(frame, "Hottest zone", "°C", &lines, f64::INFINITY);
        let Some(zone) = series::leading_zone(&self.runs) else {
            panel.draw(self, canvas)?;
            return canvas.text(
                (LEFT + 8.0, frame.top + 20.0),
                "no readable thermal zone",
                Text::new(12.0, SOFT),
            );
        };
        panel.include(zone.passive_c);
        panel.limits.push((zone.passive_c, format!("trip {:.0} °C", zone.passive_c), LIMIT));
        if zone.limit_c > 0.0 && (zone.limit_c - zone.passive_c).abs() > 0.5 {
            panel.limits.push((zone.limit_c, format!("limit {:.0} °C", zone.limit_c), SOFT));
        }
        let trip = panel.y(zone.passive_c);
        for (line, color) in lines.iter().zip(RUNS) {
            let points = line.iter().map(|(t, c)| (self.x(*t), panel.y(*c)));
            for part in above(points, trip) {
                canvas.shape(&part, color, 0.22)?;
            }
        }
        panel.draw(self, canvas)
    }

    /// One strip per run: in each bin, the variants' shares of the answers, the most accurate at the bottom.
    fn variants(&self, canvas: &Canvas<'_>, frame: Frame, strip: &Strip) -> Drawn {
        let title = format!("Variants of {} for the {}", strip.model, strip.app);
        title_above(canvas, frame, &title, "share of answers")?;
        for (row, one) in self.compared.iter().enumerate() {
            let top = frame.top + count(row) * (STRIP_HIGH + STRIP_GAP);
            let field = Frame { top, bottom: top + STRIP_HIGH, ..frame };
            canvas.fill(field, EMPTY, 1.0)?;
            let look = Text::new(12.0, RUNS[row]).anchored(Anchor::End);
            canvas.text((LEFT - 8.0, top + STRIP_HIGH / 2.0), one.tally.label.policy(), look)?;
            let counts = series::variant_counts(&one.run, &strip.app, &strip.variants, self.bins);
            for (bin, counts) in counts.iter().enumerate() {
                self.share_bar(canvas, field, bin, counts)?;
            }
        }
        for (position, variant) in strip.variants.iter().enumerate() {
            let y = frame.top + LEGEND_ROW * (count(position) + 0.5);
            let color = style::ladder(position, strip.variants.len());
            let square = Frame { left: RIGHT + 12.0, right: RIGHT + 22.0, top: y - 5.0, bottom: y + 5.0 };
            canvas.fill(square, color, 1.0)?;
            canvas.text((RIGHT + 28.0, y), variant, Text::new(12.0, INK))?;
        }
        Ok(())
    }

    fn share_bar(&self, canvas: &Canvas<'_>, field: Frame, bin: usize, counts: &[u32]) -> Drawn {
        let total: u32 = counts.iter().sum();
        let (from, to) = self.bins.span(bin);
        let mut bottom = field.bottom;
        for (position, number) in counts.iter().enumerate().filter(|(_, number)| **number > 0) {
            let top = bottom - (field.bottom - field.top) * f64::from(*number) / f64::from(total);
            // Neighbours overlap a little, or antialiasing would draw seams.
            let right = (self.x(to) + 0.5).min(field.right);
            let bar = Frame { left: self.x(from), right, top, bottom };
            canvas.fill(bar, style::ladder(position, counts.len()), 1.0)?;
            bottom = top;
        }
        Ok(())
    }

    /// Requests without an answer in time, as a share of those that arrived in the bin: the reported run
    /// upwards, the other downwards from the middle.
    fn shortfalls(&self, canvas: &Canvas<'_>, frame: Frame) -> Drawn {
        title_above(canvas, frame, "Late or refused", "% of requests")?;
        let rows = count(self.compared.len().max(1));
        let high = (frame.bottom - frame.top) / rows;
        for (row, one) in self.compared.iter().enumerate() {
            let bottom = frame.top + high * (count(row) + 1.0);
            let field = Frame { top: bottom - high + 2.0, bottom, ..frame };
            canvas.fill(field, EMPTY, 1.0)?;
            let look = Text::new(12.0, RUNS[row]).anchored(Anchor::End);
            canvas.text((LEFT - 8.0, (field.top + bottom) / 2.0), one.tally.label.policy(), look)?;
            let counts = series::shortfalls(&one.run, self.bins);
            for (bin, (short, all)) in counts.iter().enumerate().filter(|(_, (short, _))| *short > 0) {
                let (from, to) = self.bins.span(bin);
                let top = bottom - (bottom - field.top) * f64::from(*short) / f64::from(*all);
                let bar = Frame { left: self.x(from) + 0.5, right: self.x(to) - 0.5, top, bottom };
                canvas.fill(bar, RUNS[row], 1.0)?;
            }
            let short: u32 = counts.iter().map(|(short, _)| short).sum();
            let all: u32 = counts.iter().map(|(_, all)| all).sum();
            let words = format!("{short} of {all}");
            canvas.text((RIGHT + 12.0, (field.top + bottom) / 2.0), &words, Text::new(12.0, RUNS[row]))?;
        }
        Ok(())
    }

    fn time_axis(&self, canvas: &Canvas<'_>, bottom: f64) -> Drawn {
        for tick in series::ticks(0.0, self.length_s, 11.0) {
            let x = self.x(tick);
            canvas.line(&[(x, bottom + 3.0), (x, bottom + 7.0)], EVENT, 1.0, 1.0)?;
            let look = Text::new(12.0, SOFT).anchored(Anchor::Middle);
            canvas.text((x, bottom + 18.0), &number(tick), look)?;
        }
        canvas.text((RIGHT + 12.0, bottom + 18.0), "seconds", Text::new(12.0, SOFT))
    }
}

/// A panel of lines over time.
struct Panel<'a> {
    frame: Frame,
    title: &'a str,
    unit: &'a str,
    lines: &'a [Vec<Point>],
    low: f64,
    high: f64,
    limits: Vec<(f64, String, RGBColor)>,
}

impl<'a> Panel<'a> {
    /// A panel whose axis covers all points, and reaches down to `floor` (infinity: as far as needed).
    fn new(frame: Frame, title: &'a str, unit: &'a str, lines: &'a [Vec<Point>], floor: f64) -> Self {
        let mut panel = Self { frame, title, unit, lines, low: floor, high: f64::MIN, limits: Vec::new() };
        for (_, value) in lines.iter().flatten() {
            panel.include(*value);
        }
        panel
    }

    fn include(&mut self, value: f64) {
        self.low = self.low.min(value);
        self.high = self.high.max(value);
    }

    /// The axis with some air, from a flat or empty one to one unit.
    fn axis(&self) -> (f64, f64) {
        let (low, high) = if self.high >= self.low { (self.low, self.high) } else { (0.0, 1.0) };
        let air = if high > low { (high - low) * 0.06 } else { 0.5 };
        (if low == 0.0 { 0.0 } else { low - air }, high + air)
    }

    fn y(&self, value: f64) -> f64 {
        let (low, high) = self.axis();
        self.frame.bottom - (self.frame.bottom - self.frame.top) * (value - low) / (high - low)
    }

    fn draw(&self, picture: &Picture<'_>, canvas: &Canvas<'_>) -> Drawn {
        title_above(canvas, self.frame, self.title, self.unit)?;
        let (low, high) = self.axis();
        for tick in series::ticks(low, high, ((self.frame.bottom - self.frame.top) / 34.0).max(2.0)) {
            let y = self.y(tick);
            canvas.line(&[(LEFT, y), (RIGHT, y)], GRID, 1.0, 1.0)?;
            let look = Text::new(12.0, SOFT).anchored(Anchor::End);
            canvas.text((LEFT - 8.0, y), &number(tick), look)?;
        }
        let mut labels: Vec<(f64, &str, RGBColor)> = Vec::new();
        for (value, words, color) in &self.limits {
            let y = self.y(*value);
            canvas.dashed((LEFT, y), (RIGHT, y), *color, 5.0)?;
            labels.push((y, words, *color));
        }
        for (row, line) in self.lines.iter().enumerate().rev() {
            let points: Vec<_> = line.iter().map(|(t, v)| (picture.x(*t), self.y(*v))).collect();
            canvas.line(&points, RUNS[row], 1.0, if row == 0 { 2.2 } else { 1.8 })?;
            if let Some((_, y)) = points.last() {
                labels.push((*y, picture.compared[row].tally.label.policy(), RUNS[row]));
            }
        }
        spread(&mut labels, 14.0, self.frame.top, self.frame.bottom);
        for (y, words, color) in labels {
            canvas.text((RIGHT + 12.0, y), words, Text::new(12.5, color))?;
        }
        Ok(())
    }
}

fn title_above(canvas: &Canvas<'_>, frame: Frame, title: &str, unit: &str) -> Drawn {
    canvas.text((LEFT, frame.top - 13.0), title, Text::new(13.5, INK).bold())?;
    let look = Text::new(12.0, SOFT).anchored(Anchor::End);
    canvas.text((RIGHT, frame.top - 13.0), unit, look)
}

/// Moves labels apart so that each is `distance` below the one above, within the frame if they fit.
fn spread(labels: &mut [(f64, &str, RGBColor)], distance: f64, top: f64, bottom: f64) {
    labels.sort_by(|left, right| left.0.total_cmp(&right.0));
    let mut least = top;
    for label in labels.iter_mut() {
        label.0 = label.0.max(least);
        least = label.0 + distance;
    }
    let mut most = bottom;
    for label in labels.iter_mut().rev() {
        label.0 = label.0.min(most);
        most = label.0 - distance;
    }
}

/// A line that holds each value until the next.
fn steps(points: &[Point]) -> Vec<Point> {
    let mut steps = Vec::with_capacity(points.len() * 2);
    for (position, (t, value)) in points.iter().enumerate() {
        if let Some((_, before)) = position.checked_sub(1).and_then(|before| points.get(before)) {
            steps.push((*t, *before));
        }
        steps.push((*t, *value));
    }
    steps
}

/// The areas between a line and a horizontal at `edge`, where the line is above it (smaller y).
fn above(points: impl Iterator<Item = Point>, edge: f64) -> Vec<Vec<Point>> {
    let mut areas = Vec::new();
    let mut area: Vec<Point> = Vec::new();
    let mut before: Option<Point> = None;
    for (x, y) in points {
        if let Some((x0, y0)) = before
            && (y0 < edge) != (y < edge)
        {
            area.push((x0 + (x - x0) * (edge - y0) / (y - y0), edge));
            if y >= edge {
                areas.push(std::mem::take(&mut area));
            }
        } else if before.is_none() && y < edge {
            area.push((x, edge));
        }
        if y < edge {
            area.push((x, y));
        }
        before = Some((x, y));
    }
    if let (false, Some((x, _))) = (area.is_empty(), before) {
        area.push((x, edge));
        areas.push(area);
    }
    areas.retain(|area| area.len() > 2);
    areas
}

/// A tick's number without needless digits.
fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_area_above_the_trip_begins_and_ends_on_it() {
        // y grows downwards: the trip is at 10, the line dips above it between x = 1 and x = 3.
        let line = [(0.0, 20.0), (2.0, 0.0), (4.0, 20.0)];
        assert_eq!(above(line.into_iter(), 10.0), [vec![(1.0, 10.0), (2.0, 0.0), (3.0, 10.0)]]);
        let open = [(0.0, 5.0), (4.0, 5.0)];
        assert_eq!(above(open.into_iter(), 10.0), [vec![(0.0, 10.0), (0.0, 5.0), (4.0, 5.0), (4.0, 10.0)]]);
        assert!(above([(0.0, 11.0)].into_iter(), 10.0).is_empty());
    }

    #[test]
    fn labels_do_not_touch() {
        let mut labels = [(50.0, "a", INK), (51.0, "b", INK), (52.0, "c", INK)];
        spread(&mut labels, 14.0, 0.0, 60.0);
        let places: Vec<f64> = labels.iter().map(|label| label.0).collect();
        assert_eq!(places, [32.0, 46.0, 60.0]);
    }

    #[test]
    fn ticks_have_no_needless_digits() {
        assert_eq!([number(40.0), number(0.5), number(1.25)], ["40", "0.5", "1.25"]);
    }
}
