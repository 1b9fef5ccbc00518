//! What the board draws: its idle power, and the power of every unit above that.
//!
//! A unit that runs a variant draws `s (1 + c) (a + b f + d f^3 + e T)` above the idle board: `f` in GHz, `T` in
//! tens of kelvin above 50 degrees (leakage grows with heat), `s` the variant's power beside others', `c` what
//! the form leaves at this operating point. The four coefficients start from the board file, stay above a tenth
//! of it and never below zero, and are learned by recursive least squares with forgetting (0.995 per observation, so a
//! few hundred count), from two kinds of observation:
//!
//! - a run that was metered: its energy over its time. `s`, `c` and the form multiply, so that each takes a share of
//!   the logarithm of what was drawn over what was expected; shares of the difference would overshoot where one of the
//!   three is far off;
//! - a sweep of the rails: the board's power less its idle power, against what all units should have drawn in the
//!   interval. Sensors average over less than a sweep, so that a unit which was busy for a part `d` of it shows
//!   all or nothing: the variance of the observation grows with `d (1 - d)`.
//!
//! Units are taken as independent: each gets the share of the surprise that its variance has in the whole. A unit
//! with a meter of its own learns from that alone. The idle power is `i + j T`, learned from sweeps in which nothing
//! ran but what is metered, so that it follows within seconds what else draws from the same supply.

use super::meter::Meter;
use crate::core::catalog::{Board, UnitId};
use crate::core::plan::memory_watts;
use crate::core::points::{OperatingPoint, Points};
use crate::time::Timestamp;
use crate::units::Nanos;
use serde::{Deserialize, Serialize};

/// Of what was known, so much is left after an observation.
const FORGETTING: f64 = 0.995;
/// How far the board file may be off, as a share.
const FILE_DEVIATION: f64 = 0.3;
/// Least power that a unit is taken to draw when it is doubted, W.
const LEAST_W: f64 = 0.2;
/// A run is not taken to draw more than so many times what was expected, nor less than that part of it.
const SURPRISE_MAX: f64 = 20.0;
/// Below this much a run's power is an error of rounding, W; a relative variance below this moves nothing.
const MENTIONABLE_W: f64 = 1e-6;
const NEGLIGIBLE: f64 = 1e-12;
/// Temperature at which the first coefficients hold, and kelvin per unit of the last.
const REFERENCE_C: f64 = 50.0;
const KELVIN: f64 = 10.0;
/// Relative deviation of a metered run, and of a rail; the deviation of both at no power, W.
const METER_DEVIATION: f64 = 0.02;
const RAIL_DEVIATION: f64 = 0.01;
const FLOOR_W: f64 = 0.05;
/// Deviation of an operating point from the form, at first and at least.
const POINT_DEVIATION: (f64, f64) = (0.3, 0.01);
const POINT_RANGE: (f64, f64) = (-0.8, 4.0);
/// Deviation of a variant's power beside others', when nothing was measured, when something was, and at least.
const SCALE_DEVIATION: (f64, f64, f64) = (0.3, 0.05, 0.005);
const SCALE_RANGE: (f64, f64) = (0.02, 50.0);
/// Process noise of the idle power per sweep, W^2: a gain of about a twentieth.
const IDLE_NOISE: f64 = 1.5e-5;
/// Deviation of the idle power's change per ten kelvin, W.
const IDLE_SLOPE: f64 = 0.1;
/// Bounds of the idle power relative to the board file's.
const IDLE_RANGE: (f64, f64) = (0.2, 5.0);
/// Busy power below this share of the board's cannot be told from its noise.
const SIGNAL: f64 = 0.1;
/// A unit at one operating point for this share of an interval shows what it draws there.
const STEADY: f64 = 0.9;
/// Sweeps after a metered run in which the board's surprises are not put down to its unit.
const METERED_SWEEPS: u32 = 50;
/// How far sensors may lead away from the board file's power of a unit: one that shows nothing at all must not
/// make work free.
const UNIT_RANGE: (f64, f64) = (0.1, 10.0);
/// No reading is worth more than this, W.
const WATTS_MAX: f64 = 1e5;
/// No board is colder or hotter than this.
const CELSIUS_RANGE: (f64, f64) = (-60.0, 200.0);

/// A variant's power beside others' on the same unit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Scale {
    pub(super) value: f64,
    /// Relative variance.
    variance: f64,
}

impl Scale {
    /// From the profile's figure; `measured` if it was.
    pub(super) fn new(value: f64, measured: bool) -> Self {
        let value = if value.is_nan() { 1.0 } else { value.clamp(SCALE_RANGE.0, SCALE_RANGE.1) };
        let deviation = if measured { SCALE_DEVIATION.1 } else { SCALE_DEVIATION.0 };
        Self { value, variance: deviation * deviation }
    }
}

/// What a unit did within an interval.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Exposure {
    /// Time busy, s.
    busy_s: f64,
    /// Expected energy of the unit, and of its memory's clock, J.
    joules: f64,
    memory_j: f64,
    /// Time times scale and operating point's factor, per function of the basis.
    basis: [f64; 4],
    /// The operating point, if it was but one.
    point: Option<usize>,
    mixed: bool,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Active {
    since: Timestamp,
    scale: f64,
    point: usize,
}

/// One unit.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct UnitPower {
    /// The unit's own clock in GHz, by operating point.
    clocks: Box<[f64]>,
    /// Power of the memory for its clock, by operating point.
    memory_w: Box<[f64]>,
    coefficients: [f64; 4],
    /// Below which no coefficient falls: a unit whose form is nothing anywhere could not be scaled up again.
    floor: [f64; 4],
    covariance: [[f64; 4]; 4],
    doubt: [f64; 4],
    /// Factor beyond the form, and its variance, by operating point.
    points: Box<[(f64, f64)]>,
    /// Power by the board file, by operating point.
    file_w: Box<[f64]>,
    /// Power at a scale of one and the present temperature, by operating point.
    watts: Box<[f64]>,
    active: Option<Active>,
    open: Exposure,
    closed: Exposure,
    /// Sweeps for which its own meter is still taken to tell better than the board's rails.
    metered: u32,
}

/// The board.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Power {
    units: Vec<UnitPower>,
    idle: [f64; 2],
    idle_covariance: [f64; 3],
    file_idle_w: f64,
    warmth: f64,
    /// Whether the temperature at which the board file's figures are taken to hold is known.
    anchored: bool,
    closed_at: Timestamp,
    span_s: f64,
    confirmed_at: Option<Timestamp>,
    /// Error of the predicted board power.
    pub(super) board_error: Meter,
    /// Error of the predicted power of metered runs.
    pub(super) run_error: Meter,
}

impl UnitPower {
    fn new(board: &Board, id: UnitId, points: &Points) -> Self {
        let model = &board.units[id.index()].busy_power;
        let memory_w = points.iter().map(|point| memory_watts(board, id, point).min(WATTS_MAX)).collect();
        let ghz = |point: OperatingPoint| point.clock.as_ghz();
        let clocks: Box<[f64]> = points.iter().map(ghz).collect();
        let coefficients = [model.constant_w, model.linear_w_per_ghz, model.cubic_w_per_ghz3, 0.0];
        let coefficients = coefficients.map(|value| if value > 0.0 { value.min(WATTS_MAX) } else { 0.0 });
        let highest = clocks.iter().copied().fold(0.0, f64::max);
        let full: f64 = coefficients.iter().zip(basis(highest, 0.0)).map(|(a, b)| a * b).sum();
        let off = FILE_DEVIATION * full.max(LEAST_W);
        let reach = highest.max(0.1);
        // Each of the three may be what is wrong at the highest clock; heat adds a tenth of it in ten kelvin.
        let doubt =
            [off * 0.5, off / reach, off / reach.powi(3), off * 0.3].map(|deviation| deviation * deviation);
        let mut covariance = [[0.0; 4]; 4];
        (0..4).for_each(|index| covariance[index][index] = doubt[index]);
        let points = vec![(0.0, POINT_DEVIATION.0 * POINT_DEVIATION.0); clocks.len()].into();
        let mut unit = Self {
            watts: vec![0.0; clocks.len()].into(),
            file_w: vec![0.0; clocks.len()].into(),
            clocks,
            memory_w,
            coefficients,
            floor: coefficients.map(|coefficient| coefficient * UNIT_RANGE.0),
            covariance,
            doubt,
            points,
            active: None,
            open: Exposure::default(),
            closed: Exposure::default(),
            metered: 0,
        };
        unit.tabulate(0.0);
        unit.file_w.clone_from(&unit.watts);
        unit
    }

    /// Power above idle at a scale of one, W.
    pub(super) fn watts(&self, point: usize) -> f64 {
        self.watts[point]
    }

    /// Power of the memory for its clock, above that at its lowest, W.
    pub(super) fn memory_w(&self, point: usize) -> f64 {
        self.memory_w[point]
    }

    fn tabulate(&mut self, warmth: f64) {
        for point in 0..self.watts.len() {
            let functions = basis(self.clocks[point], warmth);
            let form: f64 = self.coefficients.iter().zip(functions).map(|(a, b)| a * b).sum();
            let (file, watts) = (self.file_w[point], form.max(0.0) * (1.0 + self.points[point].0));
            self.watts[point] =
                if file > 0.0 { watts.clamp(file * UNIT_RANGE.0, file * UNIT_RANGE.1) } else { watts };
        }
    }

    /// Adds the time since the running batch was looked at last.
    fn expose(&mut self, now: Timestamp, warmth: f64) {
        let Some(active) = &mut self.active else { return };
        let seconds = now.since(active.since).as_secs_f64();
        active.since = active.since.max(now);
        let weight = seconds * active.scale;
        let (ghz, factor) = (self.clocks[active.point], 1.0 + self.points[active.point].0);
        for (sum, function) in self.open.basis.iter_mut().zip(basis(ghz, warmth)) {
            *sum += weight * factor * function;
        }
        self.open.busy_s += seconds;
        self.open.joules += weight * self.watts[active.point];
        self.open.memory_j += seconds * self.memory_w[active.point];
        self.open.mixed |= self.open.point.is_some_and(|point| point != active.point);
        self.open.point = Some(active.point);
    }

    /// Variance of the power that a row of the basis stands for, and the covariance times it.
    fn variance(&self, row: &[f64; 4]) -> ([f64; 4], f64) {
        let gains: [f64; 4] = std::array::from_fn(|i| (0..4).map(|j| self.covariance[i][j] * row[j]).sum());
        let variance = gains.iter().zip(row).map(|(a, b)| a * b).sum::<f64>().max(0.0);
        (gains, variance)
    }

    /// Takes a surprise of so many watts, of which the whole variance is `variance`.
    fn correct(&mut self, gains: &[f64; 4], surprise: f64, variance: f64) {
        for (coefficient, gain) in self.coefficients.iter_mut().zip(gains) {
            *coefficient += gain / variance * surprise;
        }
        for (i, gain) in gains.iter().enumerate() {
            for (j, other) in gains.iter().enumerate() {
                self.covariance[i][j] = (self.covariance[i][j] - gain * other / variance) / FORGETTING;
            }
        }
        for index in 0..4 {
            let scale = (self.doubt[index] / self.covariance[index][index].max(1e-12)).min(1.0).sqrt();
            if scale < 1.0 {
                (0..4).for_each(|other| {
                    self.covariance[index][other] *= scale;
                    self.covariance[other][index] *= scale;
                });
            }
            self.covariance[index][index] = self.covariance[index][index].max(1e-12);
        }
        self.keep_above_floor();
    }

    /// Puts coefficients that came out too low at their floor, and the others where they are likeliest then: cutting
    /// them off alone would leave what the others moved for their sake.
    fn keep_above_floor(&mut self) {
        for _ in 0..self.coefficients.len() {
            let short = |index: usize| self.coefficients[index] - self.floor[index];
            let lowest = (0..4).min_by(|&a, &b| short(a).total_cmp(&short(b)));
            let Some(index) = lowest.filter(|&index| short(index) < 0.0) else { break };
            let over = short(index) / self.covariance[index][index];
            for other in 0..4 {
                self.coefficients[other] -= self.covariance[other][index] * over;
            }
            self.coefficients[index] = self.floor[index];
        }
        for (coefficient, floor) in self.coefficients.iter_mut().zip(self.floor) {
            *coefficient = coefficient.clamp(floor, WATTS_MAX);
        }
    }

    /// Takes in that a run drew `actual` watts where `expected` were: form, point and scale each move by their share, by
    /// variance, of the logarithm of the quotient.
    fn learn(&mut self, point: usize, scale: &mut Scale, warmth: f64, expected: f64, actual: f64) {
        let weight = scale.value * (1.0 + self.points[point].0);
        let row = basis(self.clocks[point], warmth).map(|function| function * weight);
        let (gains, of_form) = self.variance(&row);
        let drawn = actual.max(expected);
        let noise = (METER_DEVIATION * drawn).powi(2) + (0.2 * FLOOR_W).powi(2);
        if expected < MENTIONABLE_W {
            // Nothing to scale yet.
            return self.correct(&gains, actual - expected, of_form + noise);
        }
        let noise = noise / (drawn * drawn);
        let (factor, of_point) = self.points[point];
        let of_point = of_point / (1.0 + factor).powi(2);
        let form = of_form / (expected * expected);
        let whole = form + of_point + scale.variance + noise;
        let off = (actual / expected).max(1.0 / SURPRISE_MAX).ln();
        let grown = |share: f64| (off * share / whole).exp();
        if form > NEGLIGIBLE {
            let variance = whole * expected * expected;
            // What moves the form's own power by its share.
            self.correct(&gains, expected * (grown(form) - 1.0) * variance / of_form, variance);
        }
        let left = |share: f64| 1.0 - share / whole;
        let moved = ((1.0 + factor) * grown(of_point) - 1.0).clamp(POINT_RANGE.0, POINT_RANGE.1);
        self.points[point] =
            (moved, (self.points[point].1 * left(of_point)).max(POINT_DEVIATION.1 * POINT_DEVIATION.1));
        let of_scale = scale.variance;
        scale.value = (scale.value * grown(of_scale)).clamp(SCALE_RANGE.0, SCALE_RANGE.1);
        scale.variance = (of_scale * left(of_scale)).max(SCALE_DEVIATION.2 * SCALE_DEVIATION.2);
    }

    fn correct_point(&mut self, point: usize, form_w: f64, surprise: f64, variance: f64) {
        let (factor, own) = self.points[point];
        let gain = own * form_w / variance;
        let moved = (factor + gain * surprise).clamp(POINT_RANGE.0, POINT_RANGE.1);
        let left = (own * (1.0 - gain * form_w)).max(POINT_DEVIATION.1 * POINT_DEVIATION.1);
        self.points[point] = (moved, left);
    }
}

fn basis(ghz: f64, warmth: f64) -> [f64; 4] {
    [1.0, ghz, ghz * ghz * ghz, warmth]
}

impl Power {
    /// As the board file says, for the operating points by unit.
    pub(super) fn new(board: &Board, points: &[Points]) -> Self {
        let idle_w = board.idle_power.as_watts().clamp(0.0, WATTS_MAX);
        let unit = |(unit, points)| UnitPower::new(board, UnitId::at(unit), points);
        Self {
            units: points.iter().enumerate().map(unit).collect(),
            idle: [idle_w, 0.0],
            idle_covariance: [(0.05 * idle_w).powi(2), 0.0, IDLE_SLOPE * IDLE_SLOPE],
            file_idle_w: idle_w,
            warmth: 0.0,
            anchored: false,
            closed_at: Timestamp::ZERO,
            span_s: 0.0,
            confirmed_at: None,
            board_error: Meter::default(),
            run_error: Meter::default(),
        }
    }

    /// Power of the board with nothing running, W.
    pub(super) fn idle_w(&self) -> f64 {
        let (low, high) = (self.file_idle_w * IDLE_RANGE.0, self.file_idle_w * IDLE_RANGE.1);
        (self.idle[0] + self.idle[1] * self.warmth).clamp(low, high.max(low))
    }

    /// What a unit draws.
    pub(super) fn unit(&self, unit: usize) -> &UnitPower {
        &self.units[unit]
    }

    /// When rails last confirmed the busy power.
    pub(super) fn confirmed_at(&self) -> Option<Timestamp> {
        self.confirmed_at
    }

    /// The coefficients of a unit and of the idle power.
    pub(super) fn coefficients(&self) -> (Vec<[f64; 4]>, [f64; 2]) {
        (self.units.iter().map(|unit| unit.coefficients).collect(), self.idle)
    }

    /// The factors beyond the form of a unit, by operating point.
    pub(super) fn factors(&self, unit: usize) -> impl Iterator<Item = f64> + '_ {
        self.units[unit].points.iter().map(|(factor, _)| *factor)
    }

    /// Takes over what was learned in an earlier life; sizes that do not fit and what is not finite is left out.
    pub(super) fn restore(&mut self, unit: usize, coefficients: [f64; 4], factors: &[f64]) {
        let Some(unit) = self.units.get_mut(unit) else { return };
        if coefficients.iter().all(|value| (0.0..=WATTS_MAX).contains(value)) {
            unit.coefficients = coefficients;
            unit.keep_above_floor();
        }
        if factors.len() == unit.points.len() {
            for (point, factor) in unit.points.iter_mut().zip(factors) {
                if (POINT_RANGE.0..=POINT_RANGE.1).contains(factor) {
                    point.0 = *factor;
                }
            }
        }
        unit.tabulate(self.warmth);
    }

    /// Takes over the idle power of an earlier life.
    pub(super) fn restore_idle(&mut self, idle: [f64; 2]) {
        if idle[0] > 0.0 && idle[0] <= self.file_idle_w * IDLE_RANGE.1 && idle[1].abs() <= 10.0 * IDLE_SLOPE {
            self.idle = idle;
        }
    }

    /// A run begins.
    pub(super) fn begin(&mut self, unit: usize, point: usize, scale: f64, now: Timestamp) {
        self.end(unit, now);
        self.units[unit].active = Some(Active { since: now, scale, point });
    }

    /// The clock of a running batch changes.
    pub(super) fn reclock(&mut self, unit: usize, point: usize, now: Timestamp) {
        let warmth = self.warmth;
        self.units[unit].expose(now, warmth);
        if let Some(active) = &mut self.units[unit].active {
            active.point = point;
        }
    }

    /// A run ends.
    pub(super) fn end(&mut self, unit: usize, now: Timestamp) {
        let warmth = self.warmth;
        self.units[unit].expose(now, warmth);
        self.units[unit].active = None;
    }

    /// Ends an interval: the mean power above idle that the units should have drawn in it, W.
    pub(super) fn close(&mut self, now: Timestamp, celsius: Option<f64>) -> f64 {
        self.span_s = now.since(self.closed_at).as_secs_f64();
        self.closed_at = self.closed_at.max(now);
        let mut joules = 0.0;
        for unit in &mut self.units {
            unit.expose(now, self.warmth);
            unit.closed = std::mem::take(&mut unit.open);
            joules += unit.closed.joules + unit.closed.memory_j;
        }
        if let Some(celsius) = celsius.filter(|c| (CELSIUS_RANGE.0..=CELSIUS_RANGE.1).contains(c)) {
            self.warmth = (celsius - REFERENCE_C) / KELVIN;
            if !std::mem::replace(&mut self.anchored, true) {
                self.anchor();
            }
            self.units.iter_mut().for_each(|unit| unit.tabulate(self.warmth));
        }
        if self.span_s > 0.0 { (joules / self.span_s).max(0.0) } else { 0.0 }
    }

    /// The board file's figures hold at the first temperature that was seen, whatever the slopes turn out to be: a
    /// constant that holds at 50 degrees is doubted together with the slope that leads there.
    fn anchor(&mut self) {
        let warmth = self.warmth;
        self.idle_covariance[0] += warmth * warmth * self.idle_covariance[2];
        self.idle_covariance[1] = -warmth * self.idle_covariance[2];
        for unit in &mut self.units {
            let slope = unit.covariance[3][3];
            unit.covariance[0][0] += warmth * warmth * slope;
            unit.covariance[0][3] = -warmth * slope;
            unit.covariance[3][0] = -warmth * slope;
            unit.doubt[0] += warmth * warmth * slope;
        }
    }

    /// The board's rails show so much over the interval that was closed last.
    pub(super) fn observe_board(&mut self, measured_w: f64, busy_w: f64, now: Timestamp) {
        if !(self.span_s > 0.0 && measured_w.abs() <= WATTS_MAX) {
            return;
        }
        let idle_w = self.idle_w();
        self.board_error.observe(idle_w + busy_w, measured_w);
        let mut variance = FLOOR_W * FLOOR_W + (RAIL_DEVIATION * measured_w).powi(2);
        for unit in &self.units {
            let duty = (unit.closed.busy_s / self.span_s).clamp(0.0, 1.0);
            let while_busy = unit.closed.joules / self.span_s / duty.max(1e-3);
            variance += while_busy * while_busy * duty * (1.0 - duty);
        }
        let idle_row = [1.0, self.warmth];
        self.idle_covariance[0] += IDLE_NOISE;
        let [a, b, c] = self.idle_covariance;
        let idle_gains = [a + b * idle_row[1], b + c * idle_row[1]];
        variance += (idle_gains[0] + idle_gains[1] * idle_row[1]).max(0.0);
        for unit in &self.units {
            variance += unit.variance(&unit.row(self.span_s)).1;
        }
        let surprise = measured_w - idle_w - busy_w;
        if self.units.iter().all(|unit| unit.closed.busy_s <= 0.0 || unit.metered > 0) {
            self.correct_idle(idle_gains, surprise, variance);
        }
        let (span_s, warmth) = (self.span_s, self.warmth);
        for unit in self.units.iter_mut().filter(|unit| unit.closed.busy_s > 0.0) {
            if unit.metered > 0 {
                unit.metered -= 1;
                continue;
            }
            let gains = unit.variance(&unit.row(span_s)).0;
            unit.correct(&gains, surprise, variance);
            if let (false, Some(point)) = (unit.closed.mixed, unit.closed.point)
                && unit.closed.busy_s > STEADY * span_s
            {
                let form_w = unit.closed.joules / span_s / (1.0 + unit.points[point].0);
                unit.correct_point(point, form_w, surprise, variance + form_w.powi(2) * unit.points[point].1);
            }
            unit.tabulate(warmth);
        }
        if busy_w >= SIGNAL * idle_w {
            self.confirmed_at = Some(now);
        }
    }

    fn correct_idle(&mut self, gains: [f64; 2], surprise: f64, variance: f64) {
        let (low, high) = (self.file_idle_w * IDLE_RANGE.0, self.file_idle_w * IDLE_RANGE.1);
        self.idle[0] = (self.idle[0] + gains[0] / variance * surprise).clamp(low, high.max(low));
        self.idle[1] =
            (self.idle[1] + gains[1] / variance * surprise).clamp(-2.0 * IDLE_SLOPE, 10.0 * IDLE_SLOPE);
        self.idle_covariance[0] = (self.idle_covariance[0] - gains[0] * gains[0] / variance).max(1e-9);
        self.idle_covariance[1] -= gains[0] * gains[1] / variance;
        self.idle_covariance[2] = (self.idle_covariance[2] - gains[1] * gains[1] / variance).max(1e-9);
    }

    /// A meter saw a run of `seconds` draw `joules` above idle.
    pub(super) fn observe_run(
        &mut self,
        unit: usize,
        point: usize,
        scale: &mut Scale,
        seconds: f64,
        joules: f64,
    ) {
        if !(seconds > 0.0 && joules >= 0.0) {
            return;
        }
        let warmth = self.warmth;
        let unit = &mut self.units[unit];
        unit.metered = METERED_SWEEPS;
        let expected = scale.value * unit.watts[point];
        let actual = (joules / seconds).min(WATTS_MAX);
        self.run_error.observe(expected, actual);
        // What a meter says is bounded, too: a run of a moment may round to anything.
        let actual = actual.min(SURPRISE_MAX * expected.max(LEAST_W));
        unit.learn(point, scale, warmth, expected, actual);
        unit.tabulate(warmth);
    }

    /// Whether rails confirmed the busy power within `memory`.
    pub(super) fn is_confirmed(&self, now: Timestamp, memory: Nanos) -> bool {
        self.confirmed_at().is_some_and(|at| now.since(at) <= memory)
    }
}

impl UnitPower {
    /// The interval's mean of every function of the basis.
    fn row(&self, span_s: f64) -> [f64; 4] {
        self.closed.basis.map(|sum| sum / span_s)
    }
}

#[cfg(test)]
#[path = "tests/power.rs"]
mod tests;
