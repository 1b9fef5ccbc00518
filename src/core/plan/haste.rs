//! The speed of a run under way, for the sake of those who came after it began.
//!
//! With each arrival the speed that is best for what is known changes: it is the highest of `sum w_j / (d_k - now)`,
//! the work that is left of the run itself first (*Optimal Available*: Yao, Demers and Shenker, FOCS'95, see [`crowd`]).
//!
//! [`crowd`]: super::crowd

use super::View;
use super::crowd::Crowd;
use super::foreseen::SHORT;
use super::place::{Pair, Place};
use crate::core::catalog::{UnitId, VariantId};
use crate::core::points::OperatingPoint;
use crate::time::Timestamp;
use crate::units::Nanos;

/// By how much a run may exceed its share of the time before it is sped up: what is left of it is not known so well.
const OVERDRAFT: f64 = 1.05;

/// A run under way.
#[derive(Debug, Clone, Copy)]
pub(in crate::core) struct Underway {
    pub(in crate::core) unit: UnitId,
    pub(in crate::core) variant: VariantId,
    pub(in crate::core) items: u32,
    /// The share of it that is left.
    pub(in crate::core) left: f64,
}

/// The lowest operating point at which a run leaves the time to those who wait that they need, or the highest that there
/// is, and when it is then expected to end. Where it ends before the clock has risen it is the one that those who wait
/// need to find risen. `None` if it is fast enough as it is.
pub(in crate::core) fn hasten(view: &View<'_>, run: Underway) -> Option<(OperatingPoint, Nanos)> {
    // Where a budget runs dry it is energy that they will lack, not time.
    if view.ledger.device_fill() < SHORT {
        return None;
    }
    let place = Place::at_time(view, run.unit, view.now);
    let pair = Pair::new(view, run.variant, &place, run.items)?;
    let (crowd, top) = (Crowd::behind(view, &place), place.top());
    let share_s = crowd.share_s(run.left * pair.seconds(top), 0.0);
    let asked = place.asked();
    let usual_s = pair.rest_s(run.left, asked);
    if usual_s <= share_s * OVERDRAFT {
        return None;
    }
    let ladder = pair.ladder();
    let point = ladder.iter().copied().find(|&point| pair.rest_s(run.left, point) <= share_s);
    let point = point.unwrap_or(top);
    let rest_s = pair.rest_s(run.left, point);
    if rest_s < usual_s {
        return Some((place.at(point), Nanos::from_secs_f64(rest_s)));
    }
    let slower = |point: usize| pair.seconds(point) / pair.seconds(top);
    let present = slower(place.present());
    if crowd.is_in_time(usual_s, place.change_s(top), (present, 1.0)) {
        return None;
    }
    let in_time = |point: usize| {
        crowd.is_in_time(usual_s, (place.change_s(point) - usual_s).max(0.0), (present, slower(point)))
    };
    let point = ladder.iter().copied().find(|&point| in_time(point)).unwrap_or(top);
    (pair.seconds(point) < pair.seconds(asked)).then(|| (place.at(point), Nanos::from_secs_f64(usual_s)))
}

/// When a run would end at the highest operating point; `None` if it may not be sped up.
pub(in crate::core) fn soonest(view: &View<'_>, run: Underway) -> Option<Timestamp> {
    if view.ledger.device_fill() < SHORT {
        return None;
    }
    let place = Place::at_time(view, run.unit, view.now);
    let pair = Pair::new(view, run.variant, &place, run.items)?;
    Some(view.now.after(Nanos::from_secs_f64(pair.rest_s(run.left, place.top()))))
}
