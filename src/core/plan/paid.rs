//! When the energy budgets pay for a run, and what they keep for others.

use super::View;
use crate::core::energy::Objective;
use crate::core::event::ClassId;
use crate::core::queue::Waiting;
use crate::time::Timestamp;
use crate::units::Microjoules;

/// Share of a full budget that is kept for those who would be late without it. So accuracy falls before anybody is late,
/// and what is late anyhow makes nobody else late.
const RESERVE: f64 = 0.1;

/// When budgets pay for a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paid {
    pub(super) at_all: Timestamp,
    /// With their reserve left.
    pub(super) beside_reserve: Timestamp,
    /// With that left, and what is [`owed`].
    pub(super) beside_all: Timestamp,
}

impl Paid {
    /// `None` if they never do, as things are.
    pub(super) fn find(
        view: &View<'_>,
        class: ClassId,
        energy: Microjoules,
        owed: Microjoules,
    ) -> Option<Self> {
        let (ledger, now) = (view.ledger, view.now);
        let beside_all = match view.budgets.objective {
            Objective::Performance => now,
            Objective::LeastEnergy => {
                ledger.available_at(class, energy.saturating_add(owed), RESERVE, now)?
            }
        };
        if beside_all <= now {
            return Some(Self { at_all: now, beside_reserve: now, beside_all: now });
        }
        let beside = |reserve| ledger.available_at(class, energy, reserve, now);
        Some(Self { at_all: beside(0.0)?, beside_reserve: beside(RESERVE)?, beside_all })
    }
}

/// What those who wait behind the head for other models take at least.
pub(super) fn owed(view: &View<'_>, head: &Waiting) -> Microjoules {
    let others = view.behind.iter().filter(|other| other.request.model != head.request.model);
    others.fold(Microjoules::ZERO, |sum, other| sum.saturating_add(other.least))
}
