//! Adding up a run: line by line, so that the load generator and the report count alike, and a run of
//! any length needs the same memory.

use crate::core::catalog::Provenance;
use crate::core::energy::Objective;
use crate::ctl::record::{Header, Line, Outcome, RequestLine, Run, ServedLine, StatusLine, seconds};
use crate::ctl::status::Status;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;

/// A request that was sent later than this after its intended arrival counts as delayed.
const DELAYED_US: u64 = 1_000;
/// Longest latency that the histograms tell apart: an hour.
const LONGEST_US: u64 = 3_600_000_000;
/// Most names of variants, units and reasons that are counted one by one.
const NAMES_LIMIT: usize = 256;

/// Sums over a run or a phase of it.
#[derive(Debug, Clone)]
pub struct Totals {
    /// By application, in the order of the scenario.
    pub apps: Vec<AppTotals>,
    /// The board.
    pub board: BoardTotals,
}

/// Sums over the requests of an application.
#[derive(Debug, Clone)]
pub struct AppTotals {
    /// Name of the application.
    pub name: String,
    /// The model that it asks.
    pub model: String,
    /// Requests that ended, however.
    pub requests: u64,
    /// With an answer.
    pub served: u64,
    /// With an answer after the deadline.
    pub missed: u64,
    /// Turned away, by reason.
    pub rejected: BTreeMap<String, u64>,
    /// Without a valid answer.
    pub failed: u64,
    /// What went wrong the first time.
    pub first_failure: Option<String>,
    /// Never sent.
    pub unsent: u64,
    /// Sent more than a millisecond after the intended arrival.
    pub delayed: u64,
    /// Answered items that were compared with a label.
    pub scored: u64,
    /// Of these, the right ones.
    pub correct: u64,
    /// Energy attributed to the answers.
    pub energy_uj: u64,
    /// The least trusted source among these energies.
    pub energy_source: Option<Provenance>,
    /// Answers by variant.
    pub variants: BTreeMap<String, u64>,
    /// Answers by unit.
    pub units: BTreeMap<String, u64>,
    /// Latency of the answers from the intended arrival, in microseconds.
    pub latency: Histogram<u64>,
}

/// Sums over the daemon's states.
#[derive(Debug, Clone, Default)]
pub struct BoardTotals {
    /// Seconds over which states were seen.
    pub seen_s: f64,
    /// Highest temperature, with its zone.
    pub hottest: Option<(String, f64)>,
    /// Seconds with a zone above its passive trip.
    pub above_trip_s: f64,
    /// Seconds in which power was held back because of heat.
    pub throttled_s: f64,
    /// Energy by the daemon's counter, in joules.
    counter_j: Option<f64>,
    /// Latest power integrated over time, in joules.
    integral_j: Option<f64>,
    last: Option<(f64, Status)>,
}

/// A whole run with its phases.
#[derive(Debug, Clone)]
pub struct Tally {
    /// The whole run.
    pub whole: Totals,
    /// Its phases: between one start or end of an application and the next.
    pub phases: Vec<Phase>,
    /// What ran.
    pub label: RunLabel,
    /// The phase of the latest state.
    latest_phase: Option<usize>,
}

/// What a run was, for headings.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct RunLabel {
    /// The board.
    pub board: String,
    /// The board is simulated.
    pub simulated: bool,
    /// The daemon's decision rule.
    pub objective: Objective,
    /// Where power figures come from.
    pub energy_source: Option<Provenance>,
    /// Name of the policy of a simulated run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A phase.
#[derive(Debug, Clone)]
pub struct Phase {
    /// Its start in seconds.
    pub from_s: f64,
    /// Its end in seconds.
    pub to_s: f64,
    /// Its sums.
    pub totals: Totals,
}

impl RunLabel {
    /// A short name: what chose variants and clocks.
    #[must_use]
    pub fn policy(&self) -> &str {
        self.name.as_deref().unwrap_or(match self.objective {
            Objective::LeastEnergy => "wattd",
            Objective::Performance => "performance",
        })
    }

    /// How far the power and energy figures are to be trusted.
    #[must_use]
    pub const fn energy_words(&self) -> &'static str {
        match (self.energy_source, self.simulated) {
            (None, _) => "unknown",
            (Some(Provenance::Measured), true) => "simulated sensor",
            (Some(Provenance::Measured), false) => "measured",
            (Some(Provenance::Modelled), true) => "modelled, simulated board",
            (Some(Provenance::Modelled), false) => "modelled",
            (Some(Provenance::Conservative), _) => "guessed",
        }
    }
}

impl Tally {
    /// Empty sums for a run.
    #[must_use]
    pub fn new(header: &Header) -> Self {
        let mut edges: Vec<f64> = header.apps.iter().flat_map(|app| [app.start_s, app.end_s]).collect();
        edges.sort_by(f64::total_cmp);
        edges.dedup();
        let phases = edges
            .windows(2)
            .map(|edge| Phase { from_s: edge[0], to_s: edge[1], totals: Totals::new(header) })
            .collect();
        let label = RunLabel { name: header.policy.clone(), ..RunLabel::default() };
        Self { whole: Totals::new(header), phases, label, latest_phase: None }
    }

    /// Adds up a whole record.
    #[must_use]
    pub fn of(run: &Run) -> Self {
        let mut tally = Self::new(&run.header);
        run.requests.iter().for_each(|request| tally.add_request(request));
        run.statuses.iter().for_each(|status| tally.add_status(status));
        tally
    }

    /// Adds a line; other lines than requests and states change nothing.
    pub fn add(&mut self, line: &Line) {
        match line {
            Line::Request(request) => self.add_request(request),
            Line::Status(status) => self.add_status(status),
            Line::Header(_) | Line::Note(_) | Line::End(_) => {}
        }
    }

    fn add_request(&mut self, request: &RequestLine) {
        self.whole.add_request(request);
        if let Some(phase) = self.phase_at(seconds(request.t_us)) {
            self.phases[phase].totals.add_request(request);
        }
    }

    fn add_status(&mut self, line: &StatusLine) {
        let at_s = seconds(line.t_us);
        self.label = RunLabel {
            board: line.status.board.name.clone(),
            simulated: line.status.board.simulated,
            objective: line.status.objective,
            energy_source: line.status.energy_source,
            name: self.label.name.take(),
        };
        self.whole.board.add(at_s, &line.status);
        // A state closes the span before it too, so that the phases add up to the whole.
        let phase = self.phase_at(at_s);
        if let Some(before) = self.latest_phase.filter(|before| Some(*before) != phase) {
            self.phases[before].totals.board.add(at_s, &line.status);
        }
        if let Some(phase) = phase {
            self.phases[phase].totals.board.add(at_s, &line.status);
        }
        self.latest_phase = phase;
    }

    fn phase_at(&self, at_s: f64) -> Option<usize> {
        self.phases.iter().position(|phase| at_s >= phase.from_s && at_s < phase.to_s)
    }
}

impl Totals {
    fn new(header: &Header) -> Self {
        let apps = header.apps.iter().map(|app| AppTotals::new(&app.name, &app.model)).collect();
        Self { apps, board: BoardTotals::default() }
    }

    fn add_request(&mut self, request: &RequestLine) {
        if let Some(app) = self.apps.iter_mut().find(|app| app.name == request.app) {
            app.add(request);
        }
    }

    /// A sum over all applications.
    #[must_use]
    pub fn sum(&self, figure: impl Fn(&AppTotals) -> u64) -> u64 {
        self.apps.iter().map(figure).sum()
    }

    /// Share of answers that were right, over all applications with labels.
    #[must_use]
    pub fn accuracy(&self) -> Option<f64> {
        share(self.sum(|app| app.correct), self.sum(|app| app.scored))
    }

    /// Energy of the whole board per answer, in joules.
    #[must_use]
    pub fn joules_per_answer(&self) -> Option<f64> {
        per(self.board.energy_j()?, self.sum(|app| app.served))
    }

    /// Energy of the whole board per answer in time, in joules: late answers count for nothing.
    #[must_use]
    pub fn joules_per_timely_answer(&self) -> Option<f64> {
        per(self.board.energy_j()?, self.sum(|app| app.served - app.missed))
    }
}

/// `part / whole` of two counts.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "counts far below 2^53")]
pub fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// An amount per count.
#[allow(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn per(amount: f64, count: u64) -> Option<f64> {
    (count > 0).then(|| amount / count as f64)
}

impl AppTotals {
    fn new(name: &str, model: &str) -> Self {
        let latency = Histogram::new_with_bounds(1, LONGEST_US, 3)
            .unwrap_or_else(|_| unreachable!("the bounds are constants, tested below"));
        Self {
            name: name.to_owned(),
            model: model.to_owned(),
            requests: 0,
            served: 0,
            missed: 0,
            rejected: BTreeMap::new(),
            failed: 0,
            first_failure: None,
            unsent: 0,
            delayed: 0,
            scored: 0,
            correct: 0,
            energy_uj: 0,
            energy_source: None,
            variants: BTreeMap::new(),
            units: BTreeMap::new(),
            latency,
        }
    }

    fn add(&mut self, request: &RequestLine) {
        self.requests += 1;
        self.delayed += u64::from(request.delay_us > DELAYED_US);
        match &request.outcome {
            Outcome::Served(served) => self.add_served(request, served),
            Outcome::Rejected { reason } => count(&mut self.rejected, reason),
            Outcome::Failed { message } => {
                self.failed += 1;
                self.first_failure.get_or_insert_with(|| message.clone());
            }
            Outcome::Unsent => self.unsent += 1,
        }
    }

    fn add_served(&mut self, request: &RequestLine, served: &ServedLine) {
        self.served += 1;
        self.missed += u64::from(request.missed);
        self.scored += u64::from(served.scored);
        self.correct += u64::from(served.correct);
        self.energy_uj = self.energy_uj.saturating_add(served.energy_uj);
        self.energy_source = match (self.energy_source, served.energy_source) {
            (Some(left), Some(right)) => Some(left.min(right)),
            (known, None) | (None, known) => known,
        };
        count(&mut self.variants, &served.variant);
        count(&mut self.units, &served.unit);
        self.latency.saturating_record(request.latency_us.clamp(1, LONGEST_US));
    }

    /// All rejections.
    #[must_use]
    pub fn all_rejected(&self) -> u64 {
        self.rejected.values().sum()
    }

    /// A quantile of the latency in milliseconds.
    #[must_use]
    pub fn latency_ms(&self, quantile: f64) -> Option<f64> {
        (self.served > 0).then(|| seconds(self.latency.value_at_quantile(quantile)) * 1e3)
    }
}

fn count(names: &mut BTreeMap<String, u64>, name: &str) {
    if let Some(number) = names.get_mut(name) {
        *number += 1;
    } else {
        let name = if names.len() < NAMES_LIMIT { name } else { "(others)" };
        *names.entry(name.to_owned()).or_default() += 1;
    }
}

impl BoardTotals {
    /// Adds a state. The time since the one before counts as spent in that one's regime, at the mean
    /// of both powers.
    fn add(&mut self, at_s: f64, status: &Status) {
        if let Some((zone, c)) = status.hottest()
            && self.hottest.as_ref().is_none_or(|(_, before)| c > *before)
        {
            self.hottest = Some((zone.name.clone(), c));
        }
        if let Some((last_s, last)) = &self.last {
            let span_s = (at_s - last_s).max(0.0);
            self.seen_s += span_s;
            self.above_trip_s += if last.above_trip() { span_s } else { 0.0 };
            self.throttled_s += if last.throttled() { span_s } else { 0.0 };
            if let (Some(before), Some(after)) = (last.power_w, status.power_w) {
                *self.integral_j.get_or_insert(0.0) += (before + after) / 2.0 * span_s;
            }
            if let (Some(before), Some(after)) = (last.counters.energy_j, status.counters.energy_j) {
                *self.counter_j.get_or_insert(0.0) += (after - before).max(0.0);
            }
        }
        self.last = Some((at_s, status.clone()));
    }

    /// Energy of the whole board in joules: by the daemon's counter, which sees every sample, or else by
    /// integrating the power of the states seen.
    #[must_use]
    pub const fn energy_j(&self) -> Option<f64> {
        match self.counter_j {
            Some(counter) => Some(counter),
            None => self.integral_j,
        }
    }

    /// Mean power in watts.
    #[must_use]
    pub fn mean_w(&self) -> Option<f64> {
        self.energy_j().filter(|_| self.seen_s > 0.0).map(|energy| energy / self.seen_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::thermal::Regime;
    use crate::ctl::record::AppHeader;
    use crate::ctl::status::{Counters, ZoneStatus};

    fn header() -> Header {
        let app = |name: &str, start_s, end_s| AppHeader {
            name: name.into(),
            model: "m".into(),
            start_s,
            end_s,
            ..AppHeader::default()
        };
        Header { apps: vec![app("a", 0.0, 10.0), app("b", 4.0, 10.0)], ..Header::default() }
    }

    fn request(app: &str, t_s: u64, outcome: Outcome) -> Line {
        let missed = matches!(&outcome, Outcome::Served(served) if served.clock_khz == 1);
        Line::Request(RequestLine {
            t_us: t_s * 1_000_000,
            delay_us: if t_s == 5 { 1_001 } else { 0 },
            latency_us: 1_000 * (t_s + 1),
            app: app.into(),
            items: 1,
            missed,
            request_id: None,
            outcome,
        })
    }

    fn served(correct: u32, clock_khz: u32, source: Provenance) -> Outcome {
        Outcome::Served(ServedLine {
            variant: "v".into(),
            unit: "cpu".into(),
            clock_khz,
            energy_uj: 10,
            energy_source: Some(source),
            scored: 1,
            correct,
            ..ServedLine::default()
        })
    }

    #[test]
    fn every_request_is_counted_once_in_the_run_and_in_its_phase() {
        let mut tally = Tally::new(&header());
        for line in [
            request("a", 1, served(1, 0, Provenance::Measured)),
            request("a", 5, served(0, 1, Provenance::Modelled)),
            request("b", 5, Outcome::Rejected { reason: "too_hot".into() }),
            request("b", 6, Outcome::Failed { message: "gone".into() }),
            request("b", 9, Outcome::Unsent),
        ] {
            tally.add(&line);
        }
        let a = &tally.whole.apps[0];
        assert_eq!((a.requests, a.served, a.missed, a.delayed), (2, 2, 1, 1));
        assert_eq!(a.energy_source, Some(Provenance::Modelled), "the least trusted source counts");
        let b = &tally.whole.apps[1];
        assert_eq!((b.requests, b.served, b.all_rejected(), b.failed, b.unsent), (3, 0, 1, 1, 1));
        assert_eq!(b.first_failure.as_deref(), Some("gone"));
        assert_eq!(b.latency_ms(0.5), None);
        assert_eq!(tally.whole.accuracy(), Some(0.5));
        let spans: Vec<_> = tally.phases.iter().map(|phase| (phase.from_s, phase.to_s)).collect();
        assert_eq!(spans, [(0.0, 4.0), (4.0, 10.0)]);
        let counts: Vec<_> = tally.phases.iter().map(|phase| phase.totals.sum(|app| app.requests)).collect();
        assert_eq!(counts, [1, 4]);
    }

    fn status(t_s: u64, power_w: f64, energy_j: Option<f64>, c: f64, regime: Regime) -> Line {
        Line::Status(StatusLine {
            t_us: t_s * 1_000_000,
            status: Box::new(Status {
                power_w: Some(power_w),
                regime,
                zones: vec![ZoneStatus { c: Some(c), passive_c: 80.0, ..ZoneStatus::default() }],
                counters: Counters { energy_j, ..Counters::default() },
                ..Status::default()
            }),
        })
    }

    #[test]
    fn time_counts_in_the_state_that_it_began_in() {
        let mut tally = Tally::new(&header());
        for line in [
            status(0, 4.0, None, 70.0, Regime::Nominal),
            status(2, 6.0, None, 81.0, Regime::Throttled),
            status(5, 2.0, None, 79.0, Regime::Nominal),
            status(6, 2.0, None, 79.0, Regime::Nominal),
        ] {
            tally.add(&line);
        }
        let board = &tally.whole.board;
        // (4+6)/2 * 2 s + (6+2)/2 * 3 s + 2 * 1 s = 10 + 12 + 2.
        assert_eq!(board.energy_j(), Some(24.0));
        assert_eq!(board.mean_w(), Some(4.0));
        assert_eq!((board.above_trip_s, board.throttled_s, board.seen_s), (3.0, 3.0, 6.0));
        assert_eq!(board.hottest.as_ref().map(|(_, c)| *c), Some(81.0));
        // The phases part at 4 s; the span from 2 s to 5 s counts where it began: 10 + 12 and 2.
        let phases: Vec<_> = tally.phases.iter().map(|phase| phase.totals.board.energy_j()).collect();
        assert_eq!(phases, [Some(22.0), Some(2.0)]);
    }

    #[test]
    fn the_daemons_energy_counter_goes_before_sampled_power() {
        let mut tally = Tally::new(&header());
        tally.add(&status(0, 4.0, Some(100.0), 70.0, Regime::Nominal));
        tally.add(&status(2, 4.0, Some(109.0), 70.0, Regime::Nominal));
        assert_eq!(tally.whole.board.energy_j(), Some(9.0));
    }

    #[test]
    fn names_without_end_stay_bounded() {
        let mut names = BTreeMap::new();
        (0..10_000).for_each(|index| count(&mut names, &format!("v{index}")));
        assert!(names.len() <= NAMES_LIMIT + 1);
        assert_eq!(names.values().sum::<u64>(), 10_000);
    }
}
