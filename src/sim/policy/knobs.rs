//! The clock domains as a policy sets them.

use crate::core::catalog::{Board, DomainId};
use crate::core::event::{Applied, ApplyReport, ClockBounds, DomainBounds, Readings, Setpoints};
use crate::time::Timestamp;
use crate::units::{Kilohertz, Nanos};

/// A domain that refused is asked again after this long.
const RETRY: Nanos = Nanos::from_secs(1);

#[derive(Debug, Clone, Default)]
struct Knob {
    opps: Vec<Kilohertz>,
    settle: Nanos,
    /// What the policy wants, before the cap.
    wanted: Option<Kilohertz>,
    /// Highest clock that a thermal governor allows.
    cap: Option<Kilohertz>,
    asked: Option<Kilohertz>,
    /// Upper bound that was read back, where it was below what was asked.
    held: Option<Kilohertz>,
    retry_at: Option<Timestamp>,
}

/// One knob per clock domain: the clock it is pinned to.
#[derive(Debug, Clone, Default)]
pub struct Knobs {
    knobs: Vec<Knob>,
}

impl Knobs {
    /// Nothing asked yet.
    #[must_use]
    pub fn new(board: &Board) -> Self {
        let knob = |domain: &crate::core::catalog::Domain| Knob {
            opps: domain.opps.clone(),
            settle: domain.settle,
            ..Knob::default()
        };
        Self { knobs: board.domains.iter().map(knob).collect() }
    }

    /// The operating points of a domain, ascending.
    #[must_use]
    pub fn points(&self, domain: DomainId) -> &[Kilohertz] {
        &self.knobs[domain.index()].opps
    }

    /// Time from writing a clock until it is in force.
    #[must_use]
    pub fn settle(&self, domain: DomainId) -> Nanos {
        self.knobs[domain.index()].settle
    }

    /// Pins a domain to the lowest operating point that is at least `clock` (the highest if none is), as far
    /// as the cap allows. A domain without operating points is left alone.
    pub fn pin(&mut self, domain: DomainId, clock: Kilohertz) {
        let knob = &mut self.knobs[domain.index()];
        let point = knob.opps.iter().find(|&&point| point >= clock).or(knob.opps.last()).copied();
        knob.wanted = point.or(knob.wanted);
    }

    /// The highest clock that the domain may have from now on; `None` lifts the cap.
    pub fn cap(&mut self, domain: DomainId, cap: Option<Kilohertz>) {
        self.knobs[domain.index()].cap = cap;
    }

    /// The clock that the domain was pinned to last, as far as the board followed.
    #[must_use]
    pub fn present(&self, domain: DomainId) -> Option<Kilohertz> {
        let knob = &self.knobs[domain.index()];
        knob.asked.map(|asked| knob.held.map_or(asked, |held| held.min(asked)))
    }

    /// What has to be written: every domain whose wish, below its cap, is not what was asked last.
    pub(super) fn take_pending(&mut self, now: Timestamp) -> Option<Setpoints> {
        let domains: DomainBounds = self.knobs.iter_mut().map(|knob| knob.pending(now)).collect();
        domains.iter().any(Option::is_some).then_some(Setpoints { domains })
    }

    /// Takes in what the actuator did.
    pub(super) fn applied(&mut self, report: &ApplyReport, now: Timestamp) {
        for (knob, result) in self.knobs.iter_mut().zip(&report.domains) {
            match result {
                None => {}
                Some(Applied::Bounds(bounds)) => {
                    knob.held = knob.asked.filter(|asked| bounds.max < *asked).map(|_| bounds.max);
                    knob.retry_at = None;
                }
                Some(Applied::Refused(_)) => {
                    knob.asked = None;
                    knob.retry_at = Some(now.after(RETRY));
                }
            }
        }
    }

    /// Takes in the bounds in force: the firmware may hold a clock down, or let go of it.
    pub(super) fn sampled(&mut self, readings: &Readings) {
        for (knob, reading) in self.knobs.iter_mut().zip(&readings.domains) {
            if let Ok(state) = reading {
                knob.held = knob.asked.filter(|asked| state.max < *asked).map(|_| state.max);
            }
        }
    }

    /// When a domain that refused is asked again.
    pub(super) fn next_retry(&self) -> Option<Timestamp> {
        self.knobs.iter().filter_map(|knob| knob.retry_at).min()
    }
}

impl Knob {
    fn pending(&mut self, now: Timestamp) -> Option<ClockBounds> {
        if self.retry_at.is_some_and(|at| at > now) {
            return None;
        }
        self.retry_at = None;
        let wanted = self.wanted?;
        let clock = match self.cap {
            Some(cap) if cap < wanted => {
                *self.opps.iter().rev().find(|&&point| point <= cap).or(self.opps.first())?
            }
            _ => wanted,
        };
        if self.asked == Some(clock) {
            return None;
        }
        self.asked = Some(clock);
        Some(ClockBounds { min: clock, max: clock })
    }
}
