//! What is asked of every clock domain, what came of it, and what may be asked.

use crate::core::catalog::{Board, Domain, DomainId, Unit, UnitId, UnitKind};
use crate::core::event::{Applied, ApplyReport, ClockBounds, ClockState, DomainBounds, Setpoints};
use crate::core::snapshot::Snapshot;
use crate::time::Timestamp;
use crate::units::{Kilohertz, Nanos};
use serde::{Deserialize, Serialize};
use smallvec::smallvec;

/// Refusals in a row after which a domain is left alone for a while.
const MAX_REFUSALS: u32 = 3;
/// When a domain that refused is tried again; twice as long after each time in vain, so many times. What fails for a moment
/// must not be out of use for long, and what never obeys must not be counted on time and again.
const RETRY: Nanos = Nanos::from_millis(500);
const RETRY_DOUBLINGS: u32 = 4;
/// A cap that was not seen again for so long is tried.
const CAP_MEMORY: Nanos = Nanos::from_secs(1);
/// A sweep may have read the bounds this long before it is handled: bounds asked since then say nothing.
const SWEEP_AGE: Nanos = Nanos::from_millis(50);

/// Settling times for which holding the clock of an idle domain costs as much as letting it down: the next run
/// begins slow for one settling time, which it makes up for at a higher clock. On the TX2's GPU at 625 MHz that is 4.2
/// of 5 ms at 2.1 mJ for each of 109 ms saved (VGG19), and holding the clock takes 0.63 W: 14 ms.
const HOLDING: u64 = 3;
/// The same where a clock settles faster than an idle processor falls asleep.
const LEAST_HOLDING: Nanos = Nanos::from_millis(3);

/// Between the requests of one stream a domain rests at its lowest clock, which a governor would take its time for;
/// after so long without any it is given back.
const RELEASE: Nanos = Nanos::from_secs(1);
/// The same for memory, whose governor may hold it high though nothing runs.
const MEMORY_RELEASE: Nanos = Nanos::from_secs(10);

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct DomainClock {
    asked: Option<ClockBounds>,
    asked_at: Timestamp,
    /// What it ran at when the last change was asked for, if that was one clock.
    from: Option<Kilohertz>,
    /// How long a change takes by the board file, and as learned.
    told: Nanos,
    settle: Nanos,
    /// Upper bound that the kernel or firmware enforces below what was asked, and when it was seen last.
    cap: Option<(Kilohertz, Timestamp)>,
    refusals: u32,
    retry_at: Option<Timestamp>,
    /// Times that it was tried again since it last obeyed.
    retries: u32,
    idle_since: Option<Timestamp>,
    /// Mean time that the domain stays idle, where that was seen.
    usual_gap: Option<Nanos>,
    /// The lowest clock that it may rest at.
    floor: Option<Kilohertz>,
    /// Where the profiler wants the domain while it is idle.
    held: Option<Kilohertz>,
    /// Whether a domain gets its whole range back when it has been idle for long: the governors of processors and
    /// memory know best what else runs on them.
    free_range: bool,
    /// Whether it is memory.
    is_memory: bool,
}

/// The clock domains.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Clocks {
    domains: Vec<DomainClock>,
    pending: DomainBounds,
}

impl Clocks {
    /// Nothing asked yet.
    #[must_use]
    pub fn new(board: &Board) -> Self {
        let mut domains = vec![DomainClock::default(); board.domains.len()];
        for (index, domain) in domains.iter_mut().enumerate() {
            let own = |unit: &&Unit| unit.domain == Some(DomainId::at(index));
            domain.told = board.domains[index].settle;
            domain.settle = domain.told;
            domain.is_memory = board.units.iter().any(|unit| unit.memory_domain == Some(DomainId::at(index)));
            domain.free_range = board.units.iter().filter(own).all(|unit| unit.kind == UnitKind::Cpu);
        }
        Self { pending: smallvec![None; domains.len()], domains }
    }

    /// Whether the domain does what it is told.
    #[must_use]
    pub fn controllable(&self, domain: DomainId) -> bool {
        self.domains[domain.index()].retry_at.is_none()
    }

    /// Indices of the operating points that may be chosen now: below the cap; where the domain is not
    /// controllable, only the one nearest to its present clock.
    #[must_use]
    pub fn choices(&self, board: &Board, domain: DomainId, snapshot: &Snapshot) -> std::ops::Range<usize> {
        let opps = &board.domains[domain.index()].opps;
        if opps.is_empty() {
            return 0..0;
        }
        if !self.controllable(domain) {
            let present = snapshot.domains[domain.index()].value.map_or(opps[0], |state| state.current);
            let nearest = opps.iter().rposition(|&opp| opp <= present).unwrap_or(0);
            return nearest..nearest + 1;
        }
        let cap = self.domains[domain.index()].cap();
        let end = opps.iter().rposition(|&opp| opp <= cap).map_or(1, |last| last + 1);
        0..end
    }

    /// The clock that the domain runs at under load, as far as known: what was asked, below the cap.
    #[must_use]
    pub fn present(&self, domain: DomainId, snapshot: &Snapshot) -> Option<Kilohertz> {
        let clock = &self.domains[domain.index()];
        match clock.asked {
            // Within a range the governor chooses: only the sensor tells.
            Some(bounds) if self.controllable(domain) && bounds.min == bounds.max => {
                Some(bounds.max.min(clock.cap()))
            }
            _ => snapshot.domains[domain.index()].value.map(|state| state.current),
        }
    }

    /// How long a change of a domain's clock takes, as far as known.
    #[must_use]
    pub fn settle(&self, domain: DomainId) -> Nanos {
        self.domains[domain.index()].settle
    }

    /// A change takes so many times what the board file says.
    pub fn learn_settle(&mut self, domain: DomainId, factor: f64) {
        let clock = &mut self.domains[domain.index()];
        clock.settle = Nanos::from_f64(clock.told.as_f64() * factor);
    }

    /// The clock before the last change from one clock to another, and when that was asked for.
    #[must_use]
    pub fn last_change(&self, domain: DomainId) -> Option<(Kilohertz, Timestamp)> {
        let clock = &self.domains[domain.index()];
        let asked = clock.asked.filter(|asked| asked.min == asked.max)?;
        Some((clock.from.filter(|from| *from != asked.max)?, clock.asked_at))
    }

    /// At which clock, and for how long, the domain still runs if `to` is asked for now; `None` if it runs at that.
    #[must_use]
    pub fn way_to(
        &self,
        domain: DomainId,
        to: Kilohertz,
        snapshot: &Snapshot,
        now: Timestamp,
    ) -> Option<(Kilohertz, Nanos)> {
        let (clock, present) = (&self.domains[domain.index()], self.present(domain, snapshot)?);
        let left = clock.asked_at.after(clock.settle).since(now);
        let current = || snapshot.domains[domain.index()].value.map(|state| state.current);
        let in_force =
            if left > Nanos::ZERO { clock.from.or_else(current).unwrap_or(present) } else { present };
        let way = if present == to { left } else { clock.settle };
        (way > Nanos::ZERO && (present != to || in_force != to)).then_some((in_force, way))
    }

    /// Asks for bounds; false if they are asked already or the domain refuses, and nothing happens.
    pub fn ask(&mut self, domain: DomainId, bounds: ClockBounds, now: Timestamp) -> bool {
        let clock = &mut self.domains[domain.index()];
        let news = clock.asked != Some(bounds) && clock.retry_at.is_none();
        if news {
            if now >= clock.asked_at.after(clock.settle) {
                let pinned = clock.asked.filter(|asked| asked.min == asked.max);
                clock.from = pinned.map(|asked| asked.max.min(clock.cap()));
            }
            clock.asked = Some(bounds);
            clock.asked_at = now;
            self.pending[domain.index()] = Some(bounds);
        }
        news
    }

    /// Keeps an idle domain at a clock instead of letting it down; `None` ends that.
    pub fn hold(&mut self, domain: DomainId, clock: Option<Kilohertz>, now: Timestamp) {
        self.domains[domain.index()].held = clock;
        if let Some(clock) = clock {
            self.ask(domain, ClockBounds { min: clock, max: clock }, now);
        }
    }

    /// The setpoints asked since the last call.
    pub fn take_pending(&mut self) -> Option<Setpoints> {
        if self.pending.iter().all(Option::is_none) {
            return None;
        }
        let empty = smallvec![None; self.domains.len()];
        Some(Setpoints { domains: std::mem::replace(&mut self.pending, empty) })
    }

    /// Takes in what the actuator did; returns the domains whose controllability changed.
    pub fn applied(&mut self, report: &ApplyReport, now: Timestamp) -> Vec<(DomainId, bool)> {
        let mut changed = Vec::new();
        for (index, result) in report.domains.iter().enumerate().take(self.domains.len()) {
            let clock = &mut self.domains[index];
            match result {
                None => {}
                Some(Applied::Bounds(bounds)) => {
                    (clock.refusals, clock.retries) = (0, 0);
                    clock.read_back(bounds.max, now);
                }
                Some(Applied::Refused(_)) => {
                    clock.refusals += 1;
                    clock.asked = None;
                    if clock.refusals >= MAX_REFUSALS && clock.retry_at.is_none() {
                        changed.push((DomainId::at(index), false));
                    }
                    if clock.refusals >= MAX_REFUSALS {
                        clock.retry_at =
                            Some(now.after(Nanos(RETRY.0 << clock.retries.min(RETRY_DOUBLINGS))));
                    }
                }
            }
        }
        changed
    }

    /// Takes in what the sensors say: a maximum below what was asked is a cap of the kernel or firmware.
    pub fn sampled(&mut self, snapshot: &Snapshot, now: Timestamp) {
        for (clock, aged) in self.domains.iter_mut().zip(&snapshot.domains) {
            clock.cap = clock.cap.filter(|(_, seen)| now.since(*seen) <= CAP_MEMORY);
            if let (Some(ClockState { max, .. }), None) = (aged.value, aged.fault)
                && now.since(clock.asked_at) > SWEEP_AGE
            {
                clock.read_back(max, now);
            }
        }
    }

    /// Domains that refused long enough ago to be tried again; they count as controllable from here on.
    pub fn retry(&mut self, now: Timestamp) -> Vec<(DomainId, bool)> {
        let mut back = Vec::new();
        for (index, clock) in self.domains.iter_mut().enumerate() {
            if clock.retry_at.is_some_and(|at| at <= now) {
                clock.retry_at = None;
                // One more refusal and it is out again.
                clock.refusals = MAX_REFUSALS - 1;
                clock.retries = clock.retries.saturating_add(1);
                back.push((DomainId::at(index), true));
            }
        }
        back
    }

    /// The lowest clock that a domain may rest at now.
    #[must_use]
    pub fn floor(&self, domain: DomainId) -> Option<Kilohertz> {
        self.domains[domain.index()].floor
    }

    /// Lets idle domains down to their lowest point, or that of `floors` by domain, at once or when it shows that the next batch does not come soon;
    /// governors of processors and memory get their range back when none comes for longer.
    pub fn relax(
        &mut self,
        board: &Board,
        floors: &[Option<Kilohertz>],
        busy: impl Fn(UnitId) -> bool,
        now: Timestamp,
    ) {
        for index in 0..self.domains.len() {
            let domain = DomainId::at(index);
            let spec = &board.domains[index];
            let in_use = board.units.iter().enumerate().any(|(unit, spec)| {
                [spec.domain, spec.memory_domain].contains(&Some(domain)) && busy(UnitId::at(unit))
            });
            let clock = &mut self.domains[index];
            clock.floor = floors.get(index).copied().flatten();
            if in_use || !clock.is_set() {
                clock.idle_since.take().into_iter().for_each(|since| clock.saw_gap(now.since(since)));
                continue;
            }
            let since = *clock.idle_since.get_or_insert(now);
            if let Some((_, rest)) =
                clock.rests(spec, since).into_iter().flatten().rfind(|(at, _)| *at <= now)
            {
                self.ask(domain, rest, now);
            }
        }
    }

    /// When an idle domain is due to be let down.
    #[must_use]
    pub fn next_relax(&self, board: &Board) -> Option<Timestamp> {
        let due = self.domains.iter().zip(&board.domains).filter_map(|(clock, spec)| {
            let since = clock.idle_since.filter(|_| clock.retry_at.is_none() && clock.is_set())?;
            let rests = clock.rests(spec, since);
            let is_asked = |rest: &Option<(Timestamp, ClockBounds)>| {
                rest.is_some_and(|(_, rest)| clock.asked == Some(rest))
            };
            let to_come = rests.iter().rposition(is_asked).map_or(0, |at| at + 1);
            rests[to_come..].iter().flatten().next().map(|(at, _)| *at)
        });
        due.min()
    }

    /// When a domain that refused is tried again.
    #[must_use]
    pub fn next_retry(&self) -> Option<Timestamp> {
        self.domains.iter().filter_map(|clock| clock.retry_at).min()
    }
}

impl DomainClock {
    /// Whether it is not the governor's alone.
    fn is_set(&self) -> bool {
        self.asked.is_some() || self.floor.is_some()
    }

    fn cap(&self) -> Kilohertz {
        self.cap.map_or(Kilohertz::MAX, |(cap, _)| cap)
    }

    /// An upper bound was read back. Below what was asked it is a cap; at or above the cap it is none any
    /// more; and what was asked at or below the cap says nothing of it.
    fn read_back(&mut self, max: Kilohertz, now: Timestamp) {
        let Some(asked) = self.asked else { return };
        if max < asked.max {
            self.cap = Some((max, now));
        } else if asked.max > self.cap() {
            self.cap = None;
        }
    }

    fn saw_gap(&mut self, gap: Nanos) {
        let mean = self.usual_gap.map_or(gap.0, |mean| mean.0 - mean.0 / 8 + gap.0 / 8);
        self.usual_gap = Some(Nanos(mean));
    }

    /// How long the domain keeps its clock when it falls idle: not at all if it usually stays idle for longer than
    /// holding the clock is worth.
    fn linger(&self) -> Nanos {
        let worth = Nanos(self.settle.0.saturating_mul(HOLDING)).max(LEAST_HOLDING);
        if self.usual_gap.is_some_and(|gap| gap > worth) { Nanos::ZERO } else { worth }
    }

    /// The bounds of a domain that has been idle since then, and when they are due.
    fn rests(&self, spec: &Domain, since: Timestamp) -> [Option<(Timestamp, ClockBounds)>; 2] {
        let soon = since.after(self.linger());
        if let Some(clock) = self.held {
            return [Some((soon, ClockBounds { min: clock, max: clock })), None];
        }
        let (Some(&low), Some(&high)) = (spec.opps.first(), spec.opps.last()) else { return [None; 2] };
        let low = self.floor.map_or(low, |floor| floor.min(self.cap()).max(low));
        let later = since.after(if self.is_memory { MEMORY_RELEASE } else { RELEASE }).max(soon);
        [
            Some((soon, ClockBounds { min: low, max: low })),
            self.free_range.then_some((later, ClockBounds { min: low, max: high })),
        ]
    }
}
