//! Units whose CPUs are switched off or on while the daemon runs, as power modes and people do. A unit without any of
//! its CPUs is left out. One whose CPUs become others is left out for a moment: the threads of its sessions were bound
//! when they were made, so that its variants are loaded anew.

use super::engine::Engine;
use crate::board::spec::UnitSpec;
use crate::core::catalog::{ModelId, UnitId};
use crate::core::event::Event;
use crate::exec::ort::allowed_cpus;
use crate::time::Timestamp;
use crate::units::Nanos;

/// How long CPUs must stay as they are: power modes switch several, one after another.
const SETTLED: Nanos = Nanos::from_secs(1);

/// A unit that is bound to CPUs.
#[derive(Debug)]
struct Bound {
    unit: UnitId,
    name: String,
    /// Those of the board file.
    cpus: Vec<u16>,
    /// Those of them that were there when the unit was last told to be used; none: it is left out.
    used: Vec<u16>,
    /// Those that are there, and since when.
    there: (Vec<u16>, Timestamp),
}

/// Looks after the units that are bound to CPUs.
#[derive(Debug)]
pub(super) struct Presence {
    bound: Vec<Bound>,
    /// Whether what has no profile is measured when a unit comes.
    profile: bool,
}

impl Presence {
    /// Of the units of a real board. Those that have none of their CPUs are left out by the first look.
    pub(super) fn new(units: &[UnitSpec], profile: bool) -> Self {
        let allowed = allowed_cpus().ok();
        let bound = units.iter().enumerate().filter(|(_, unit)| !unit.cpus.is_empty());
        let bound = bound.map(|(index, unit)| {
            let cpus = unit.cpus.clone();
            let there = |cpu: &u16| allowed.as_ref().is_none_or(|allowed| allowed.contains(cpu));
            let mut used: Vec<u16> = cpus.iter().copied().filter(there).collect();
            if used.is_empty() {
                used.clone_from(&cpus);
            } else if used.len() < cpus.len() {
                tracing::warn!(unit = unit.name, ?cpus, online = ?used, "some CPUs of a unit are offline");
            }
            let there = (used.clone(), Timestamp::ZERO);
            Bound { unit: UnitId::at(index), name: unit.name.clone(), cpus, used, there }
        });
        Self { bound: bound.collect(), profile }
    }

    /// Tells the core what changed since the last look.
    pub(super) fn look(&mut self, engine: &Engine) {
        if self.bound.is_empty() {
            return;
        }
        let allowed = match allowed_cpus() {
            Ok(allowed) => allowed,
            Err(error) => return tracing::debug!(%error, "whether CPUs are online is not known"),
        };
        let now = engine.now();
        for bound in &mut self.bound {
            let Some(yes) = bound.look(&allowed, now) else { continue };
            engine.feed(Event::Present { unit: bound.unit, yes });
            if yes && self.profile {
                (0..engine.views.len()).for_each(|model| engine.probes.order(ModelId::at(model), false));
            }
        }
    }
}

impl Bound {
    /// Whether the unit is to be used from now on, if that changed.
    fn look(&mut self, allowed: &[u16], now: Timestamp) -> Option<bool> {
        let there = || self.cpus.iter().copied().filter(|cpu| allowed.contains(cpu));
        if !there().eq(self.there.0.iter().copied()) {
            self.there = (there().collect(), now);
            tracing::warn!(unit = self.name, cpus = ?self.cpus, online = ?self.there.0, "CPUs of a unit were switched");
        }
        let (there, since) = &self.there;
        if *there == self.used || (self.used.is_empty() && now.since(*since) < SETTLED) {
            return None;
        }
        let yes = self.used.is_empty();
        self.used = if yes { there.clone() } else { Vec::new() };
        Some(yes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::ZERO.after(Nanos::from_millis(ms))
    }

    #[test]
    fn a_unit_is_left_out_without_its_cpus_and_used_again_when_they_have_settled() {
        let cpus = vec![4, 5];
        let there = (cpus.clone(), Timestamp::ZERO);
        let mut unit = Bound { unit: UnitId(1), name: "big".to_owned(), used: cpus.clone(), cpus, there };
        let all = [0, 1, 2, 3, 4, 5];
        assert_eq!(unit.look(&all, at(0)), None);
        assert_eq!(unit.look(&all[..4], at(100)), Some(false), "at once");
        assert_eq!(unit.look(&all[..4], at(5_000)), None, "said once");
        assert_eq!(unit.look(&all[..5], at(6_000)), None, "more may come");
        assert_eq!(unit.look(&all, at(6_900)), None);
        assert_eq!(unit.look(&all, at(7_800)), None, "one came 0.9 s ago");
        assert_eq!(unit.look(&all, at(7_900)), Some(true));
        assert_eq!(unit.look(&all, at(9_000)), None);
    }

    #[test]
    fn a_unit_whose_cpus_are_others_is_loaded_anew() {
        let cpus = vec![4, 5];
        let there = (cpus.clone(), Timestamp::ZERO);
        let mut unit = Bound { unit: UnitId(1), name: "big".to_owned(), used: cpus.clone(), cpus, there };
        assert_eq!(unit.look(&[4], at(0)), Some(false));
        assert_eq!(unit.look(&[4], at(500)), None);
        assert_eq!(unit.look(&[4], at(1_000)), Some(true), "on the one that is left");
        assert_eq!(unit.look(&[4, 5], at(2_000)), Some(false));
        assert_eq!(unit.look(&[4, 5], at(3_000)), Some(true));
    }
}
