//! What the causal oracle asks of the clock domains. A domain that nothing runs on rests at its lowest clock; where it
//! pays, it is brought up before a request is due.

use super::program::{Drift, Drifts};
use super::{Causal, Clocks};
use crate::core::catalog::{DomainId, UnitId};
use crate::core::event::{ClockBounds, Effect, Setpoints};
use crate::time::Timestamp;
use crate::units::{Kilohertz, Nanos};

/// A clock domain.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lever {
    /// Clock now.
    pub(super) now: Kilohertz,
    /// Time that a change takes.
    settle: Nanos,
    /// Clock asked for last, and when it will be there.
    asked: Option<(Kilohertz, Timestamp)>,
    /// Whether that has not been passed on yet.
    fresh: bool,
}

impl Lever {
    pub(super) fn observe(&mut self, now: Kilohertz, settle: Nanos) {
        (self.now, self.settle) = (now, settle);
    }
}

impl Causal {
    fn delay(&self, domain: DomainId) -> Nanos {
        self.write_delay.saturating_add(self.levers[domain.index()].settle)
    }

    /// The longest time that a change of a unit's clocks takes.
    pub(super) fn slowest_delay(&self, unit: UnitId) -> Nanos {
        let delays = self.domains(unit).into_iter().flatten().map(|domain| self.delay(domain));
        delays.max().unwrap_or_default()
    }

    fn ask(&mut self, now: Timestamp, domain: DomainId, clock: Kilohertz) {
        let delay = self.delay(domain);
        let lever = &mut self.levers[domain.index()];
        if lever.asked.is_none_or(|(asked, _)| asked != clock) {
            let free = lever.asked.map_or(now, |(_, due)| due.max(now));
            lever.asked = Some((clock, free.after(delay)));
            lever.fresh = true;
        }
    }

    /// Brings a unit's domains to clocks.
    pub(super) fn shift(&mut self, now: Timestamp, unit: UnitId, clocks: Clocks) {
        for (domain, clock) in self.domains(unit).into_iter().zip(clocks) {
            if let (Some(domain), Some(clock)) = (domain, clock) {
                self.ask(now, domain, clock);
            }
        }
    }

    pub(super) fn domains(&self, unit: UnitId) -> [Option<DomainId>; 2] {
        let unit = &self.machine.plant.units[unit.index()];
        [unit.domain, unit.memory_domain]
    }

    /// What the domains of a unit are doing.
    pub(super) fn drifts(&self, now: Timestamp, unit: UnitId) -> Drifts {
        self.domains(unit).map(|domain| {
            let Some(domain) = domain else { return Drift::default() };
            let lever = &self.levers[domain.index()];
            let next = lever.asked.filter(|(clock, due)| *clock != lever.now && *due > now);
            Drift {
                now: Some(lever.now),
                next: next.map(|(clock, due)| (clock, due.since(now).as_secs_f64())),
                delay_s: self.delay(domain).as_secs_f64(),
            }
        })
    }

    /// The domains of a unit standing still at clocks; `None` = at rest.
    pub(super) fn standing(&self, unit: UnitId, clocks: Option<Clocks>) -> Drifts {
        let domains = self.domains(unit);
        let drift = |index: usize| {
            let Some(domain) = domains[index] else { return Drift::default() };
            let rest = Some(self.machine.plant.domains[domain.index()].opps[0]);
            let now = clocks.map_or(rest, |clocks| clocks[index]);
            Drift { now, next: None, delay_s: self.delay(domain).as_secs_f64() }
        };
        [drift(0), drift(1)]
    }

    /// The clock of a domain that a run on another processor than `group` depends on.
    pub(super) fn held(&self, domain: DomainId, group: u8) -> Option<Kilohertz> {
        let others = self.running.iter().filter(|(other, _)| **other != group);
        let mut uses = others.filter(|(_, run)| self.domains(run.unit).contains(&Some(domain)));
        let lever = &self.levers[domain.index()];
        uses.next().map(|_| lever.asked.map_or(lever.now, |(clock, _)| clock))
    }

    /// Lets domains rest on which nothing runs, or brings them up for what is due; when to look again.
    pub(super) fn rest(&mut self, now: Timestamp) -> Vec<Timestamp> {
        let due = self.outlook.due(now).into_iter().filter(|due| due.sure).min_by_key(|due| due.from);
        let ready = due.and_then(|due| Some((due.from, self.preparation(&due)?)));
        let mut looks = Vec::new();
        for domain in (0..self.levers.len()).map(DomainId::at) {
            if self.running.values().any(|run| self.domains(run.unit).contains(&Some(domain))) {
                continue;
            }
            let lowest = self.machine.plant.domains[domain.index()].opps[0];
            let wanted = ready.and_then(|(from, (unit, clocks))| {
                let position = self.domains(unit).iter().position(|known| *known == Some(domain))?;
                Some((from, clocks[position]?))
            });
            let delay = self.delay(domain);
            match wanted {
                Some((from, clock)) if from.before(delay) <= now => self.ask(now, domain, clock),
                Some((from, _)) => {
                    looks.push(from.before(delay));
                    // Down and up again takes two changes.
                    if from.before(Nanos(delay.0 * 2)) > now {
                        self.ask(now, domain, lowest);
                    }
                }
                // Not worth a way down and up again.
                None if due.is_some_and(|due| due.from.before(Nanos(delay.0 * 2)) <= now) => {}
                None => self.ask(now, domain, lowest),
            }
        }
        looks
    }

    /// Passes on what has been asked.
    pub(super) fn flush(&mut self) {
        if !self.levers.iter().any(|lever| lever.fresh) {
            return;
        }
        let domains = self.levers.iter_mut().map(|lever| {
            let (clock, _) = lever.asked.filter(|_| std::mem::take(&mut lever.fresh))?;
            Some(ClockBounds { min: clock, max: clock })
        });
        let setpoints = Setpoints { domains: domains.collect() };
        self.effects.push_back(Effect::Set(setpoints));
    }
}
