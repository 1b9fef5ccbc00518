//! The time that a run may take for the sake of those to come. They may ask for a higher clock, not for more than
//! there is: what they ask for is no promise to them.

use super::View;
use super::place::{Pair, Place};
use super::search::seconds_until;
use crate::core::catalog::ModelId;
use crate::core::queue::Waiting;
use crate::time::Timestamp;
use crate::units::Nanos;

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

/// Until when a unit must be free so that what other models will ask for is in time at the unit's fastest, in seconds
/// from when it is free; what another processor will serve in time is not counted. Where a model is asked for with a
/// beat, its next requests are taken to come then, else the next one at once.
pub(super) fn free_s(view: &View<'_>, place: &Place<'_>, model: ModelId) -> f64 {
    // Where a budget runs dry it is energy that those to come will lack, not time.
    if view.ledger.device_fill() < SHORT {
        return f64::INFINITY;
    }
    let others = (0..view.catalog.models.len()).map(ModelId::at).filter(|other| *other != model);
    others.map(|other| free_for_s(view, place, other)).fold(f64::INFINITY, f64::min)
}

fn free_for_s(view: &View<'_>, place: &Place<'_>, model: ModelId) -> f64 {
    let Some(rhythm) = view.estimates.rhythm(model) else { return f64::INFINITY };
    let own = rhythm.usual.get(place.unit.index()).copied().unwrap_or(Nanos::MAX);
    let ended = view.now.since(rhythm.last).0 / ENDED > rhythm.gap.0;
    if ended || own == Nanos::MAX {
        return f64::INFINITY;
    }
    let arrival = rhythm.next(EARLY).max(view.now);
    let deadline = arrival.after(rhythm.span);
    if goes_elsewhere(view, place, &rhythm.usual, (arrival, deadline)) {
        return f64::INFINITY;
    }
    let raise_s = place.between_s(0, place.top());
    seconds_until(deadline, place.free_at) - raise_s - own.as_secs_f64() * LUCK
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
