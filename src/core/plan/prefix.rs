//! Batches: prefixes of the queue.

use crate::core::catalog::VariantId;
use crate::core::queue::Waiting;
use crate::time::Timestamp;
use crate::units::Ppm;
use smallvec::SmallVec;

/// The first `count` requests taken as one batch: the strictest of their constraints.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prefix {
    pub(super) count: usize,
    pub(super) items: u32,
    pub(super) deadline: Timestamp,
    pub(super) hard: bool,
    /// Whether its first cannot be in time.
    late: bool,
    pub(super) floor: Ppm,
    pub(super) target: Ppm,
    pub(super) variant: Option<VariantId>,
    /// Most energy per item, microjoules; infinite if nobody names a limit.
    pub(super) energy_per_item: f64,
}

impl Prefix {
    fn of(waiting: &Waiting) -> Self {
        let request = &waiting.request;
        let share = |energy: crate::units::Microjoules| energy.as_f64() / f64::from(request.items.max(1));
        Self {
            count: 1,
            items: request.items,
            deadline: waiting.deadline,
            hard: waiting.hard,
            late: waiting.late,
            floor: waiting.floor,
            target: waiting.target,
            variant: request.variant,
            energy_per_item: waiting.max_energy.map_or(f64::INFINITY, share),
        }
    }

    /// With one more request.
    fn join(self, next: Self) -> Self {
        // Who is late anyhow and fills up a batch hurries nobody.
        let rides = next.late && !self.late;
        Self {
            count: self.count + 1,
            items: self.items.saturating_add(next.items),
            deadline: if rides { self.deadline } else { self.deadline.min(next.deadline) },
            hard: self.hard && (rides || next.hard),
            late: self.late,
            floor: self.floor.max(next.floor),
            target: self.target.max(next.target),
            variant: self.variant,
            energy_per_item: self.energy_per_item.min(next.energy_per_item),
        }
    }
}

/// Batches to consider: powers of two and the longest prefix whose requests agree.
pub(super) fn prefixes(batch: &[&Waiting], max_batch: u32) -> SmallVec<[Prefix; 8]> {
    let mut all = SmallVec::new();
    let mut grown: Option<Prefix> = None;
    for waiting in batch {
        let own = Prefix::of(waiting);
        let same_class = waiting.request.class == batch[0].request.class;
        let next = match grown {
            None => own,
            Some(prefix) => {
                let joined = prefix.join(own);
                if prefix.variant != own.variant || !same_class || joined.items > max_batch {
                    break;
                }
                joined
            }
        };
        grown = Some(next);
        if next.count.is_power_of_two() {
            all.push(next);
        }
    }
    all.extend(grown.filter(|last| !last.count.is_power_of_two()));
    all
}
