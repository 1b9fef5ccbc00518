//! The time that a run may take for the sake of those to come. They may ask for a higher clock, not for more than
//! there is: what they ask for is no promise to them.

use super::View;
use super::place::{Pair, Place};
use super::search::seconds_until;
use crate::core::catalog::ModelId;
use crate::core::queue::Waiting;
use crate::time::Timestamp;
use crate::units::Nanos;
use smallvec::SmallVec;

/// Requests for the same model that are reckoned with.
const FORESEEN: u32 = 8;
/// A stream that was silent for so many mean gaps has ended.
const ENDED: u64 = 4;
/// Mean deviations by which the next request may come before its beat.
const EARLY: u64 = 2;
/// Share of the device's bucket below which a budget is short.
pub(in crate::core) const SHORT: f64 = 0.9;
/// How much longer than usual a request may take for which a unit is kept free.
const LUCK: f64 = 1.5;

/// Seconds that a run of the first `count` requests may take so that those to come, as often as so far and each like the
/// head, may go at the same speed: of `n` of them the last is due `n` gaps after the last arrival, and its own time
/// later. They share runs, as many as come within that time.
pub(super) fn foreseen_s(view: &View<'_>, pair: &Pair<'_, '_>, head: &Waiting, count: usize) -> f64 {
    let Some(rhythm) = view.estimates.rhythm(head.request.model) else { return f64::INFINITY };
    let span = head.deadline.since(head.arrival);
    let first_s = seconds_until(rhythm.last.after(span), pair.place.free_at);
    let most = view.catalog.models[head.request.model.index()].max_batch / head.request.items.max(1);
    let together = u32::try_from(span.0 / rhythm.gap.0.max(1)).unwrap_or(u32::MAX).clamp(1, most.max(1));
    let each_s = pair.fastest_s(head.request.items.saturating_mul(together)) / f64::from(together);
    let behind = u32::try_from((view.followers + 1).saturating_sub(count)).unwrap_or(u32::MAX);
    let own_s = pair.seconds(pair.place.top());
    let all_s = own_s + each_s * f64::from(behind.saturating_add(FORESEEN));
    (first_s + rhythm.gap.as_secs_f64() * f64::from(FORESEEN)) * own_s / all_s
}

/// What another model may ask for while a run goes on, in seconds from when the unit is free.
#[derive(Debug, Clone, Copy)]
pub(super) struct Newcomer {
    /// When it comes at the earliest.
    pub(super) arrival_s: f64,
    /// When its own run must begin at the unit's fastest to be in time.
    pub(super) due_s: f64,
    /// The same where the clocks have come to rest before.
    pub(super) free_s: f64,
    /// How long its own run takes at the unit's fastest, and the mean time between two like it.
    pub(super) own_s: f64,
    pub(super) gap_s: f64,
}

pub(super) type Newcomers = SmallVec<[Newcomer; 2]>;

/// What other models will ask a unit for, as far as another processor will not serve it in time. Where a model is asked
/// for with a beat, its next request is taken to come then, else at once.
pub(super) fn newcomers(view: &View<'_>, place: &Place<'_>, model: ModelId) -> Newcomers {
    // Where a budget runs dry it is energy that those to come will lack, not time.
    if view.ledger.device_fill() < SHORT {
        return Newcomers::new();
    }
    let others = (0..view.catalog.models.len()).map(ModelId::at).filter(|other| *other != model);
    others.filter_map(|other| newcomer(view, place, other)).collect()
}

fn newcomer(view: &View<'_>, place: &Place<'_>, model: ModelId) -> Option<Newcomer> {
    let rhythm = view.estimates.rhythm(model)?;
    let own = rhythm.usual.get(place.unit.index()).copied().unwrap_or(Nanos::MAX);
    let ended = view.now.since(rhythm.last).0 / ENDED > rhythm.gap.0;
    if ended || own == Nanos::MAX {
        return None;
    }
    let arrival = rhythm.next(EARLY).max(view.now);
    let deadline = arrival.after(rhythm.span);
    if goes_elsewhere(view, place, &rhythm.usual, (arrival, deadline)) {
        return None;
    }
    let own_s = own.as_secs_f64() * LUCK;
    let due_s = seconds_until(deadline, place.free_at) - own_s;
    let free_s = due_s - place.between_s(0, place.top());
    let (arrival_s, gap_s) = (seconds_until(arrival, place.free_at), rhythm.gap.as_secs_f64());
    Some(Newcomer { arrival_s, due_s, free_s, own_s, gap_s })
}

/// Whether another processor could serve a request that comes and is due then.
fn goes_elsewhere(
    view: &View<'_>,
    place: &Place<'_>,
    usual: &[Nanos],
    (arrival, deadline): (Timestamp, Timestamp),
) -> bool {
    let units = &view.catalog.board.units;
    let mut others = units.iter().zip(usual).zip(view.free_at);
    let group = units[place.unit.index()].group;
    others.any(|((unit, &latency), &free_at)| {
        unit.group != group && latency < Nanos::MAX && free_at.max(arrival).after(latency) <= deadline
    })
}
