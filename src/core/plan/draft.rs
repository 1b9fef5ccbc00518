//! A program for a run, and what it costs and risks.
//!
//! A run at clock `f1` may be raised to `f2` once it has gone on for long. The later, the cheaper: only the odds
//! that it is still running then pay for the higher clock. So the moment is the latest at which the work `r` that
//! all but the allowed odds of the runs need is done by the end `e` of the time there is,
//! `w1(a) + (e - a)/L2 = r`, where `w1` is the course at `f1` and `a` the moment at which `f2` is in force. The
//! end is the deadline, or the last moment at which a rescue still fits; the allowed odds are those to miss, or
//! those at which what rescues lose of the accuracy is tolerable. Of the clocks that hold without a boost, the
//! first that does is the cheapest, since points above which another costs less are left out.

use super::place::{Fallback, Pair};
use super::prefix::Prefix;
use super::search::seconds_until;
use super::{Boost, Candidate, Rescue, View};
use crate::time::Timestamp;
use crate::units::{Microjoules, Nanos, Ppm};

/// By how much rescues may push the expected accuracy below the target, a share: two thirds of what is aimed at
/// against an oracle at equal energy.
pub(super) const ACCURACY_SLACK: f64 = 0.002;
/// Most of the runs of a configuration that may be expected to be rescued.
pub(super) const MOST_RESCUED: f64 = 0.05;

/// A program for a run: its clock, the raised one and when it is asked for, and whether it is rescued.
#[derive(Debug, Clone, Copy)]
pub(super) struct Draft<'a, 'p> {
    pub(super) opp: usize,
    pub(super) boost: Option<(f64, usize)>,
    /// What rescues it, and how slow a run that must be rescued has shown itself to be.
    pub(super) fallback: Option<(Fallback<'a, 'p>, f64)>,
    /// Seconds that it may take for the sake of those behind it.
    pub(super) share_s: f64,
    /// Seconds after which those behind it are late even at their fastest.
    pub(super) spare_s: f64,
    /// Whether it is done when it must be for the sake of those to come, too; others are only looked at.
    pub(super) held: bool,
}

/// A draft with its price.
#[derive(Debug, Clone, Copy)]
pub(super) struct Priced {
    pub(super) candidate: Candidate,
    pub(super) miss: f64,
    pub(super) accuracy: f64,
    pub(super) rescued: f64,
    pub(super) per_item: f64,
}

impl Draft<'_, '_> {
    /// What a draft costs and risks if it starts at `start`.
    pub(super) fn price(
        &self,
        view: &View<'_>,
        prefix: &Prefix,
        pair: &Pair<'_, '_>,
        start: Timestamp,
    ) -> Priced {
        let place = pair.place;
        let time_s = seconds_until(prefix.deadline, start);
        let mut course = pair.course(self.opp);
        let (mut last, mut settled_s) = (self.opp, place.change_s(self.opp));
        if let Some((asked_s, raised)) = self.boost {
            settled_s = asked_s + place.between_s(self.opp, raised);
            course.change(settled_s, pair.seconds(raised), pair.watts(raised));
            last = raised;
        }
        let survival = |ratio| view.estimates.survival(pair.variant, place.unit, ratio);
        let mean_excess = |ratio| view.estimates.mean_excess(place.unit, ratio);
        let mut late = survival(course.work(time_s.max(0.0)));
        let rescue = self.fallback.and_then(|(fallback, ratio)| {
            let (opp, lead_s) = fallback.lead(last, ratio, time_s, settled_s);
            let at_s = time_s - lead_s;
            (at_s > 0.0).then(|| (fallback, opp, at_s, survival(course.work(at_s))))
        });
        let cut_s = match rescue {
            Some((fallback, _, at_s, _)) if fallback.cancels => at_s,
            _ => f64::INFINITY,
        };
        let (mut seconds, mut joules) = course.expect(cut_s, mean_excess);
        let (mut accuracy, mut rescued) = (pair.accuracy, 0.0);
        if let Some((fallback, opp, _, odds)) = rescue {
            let more_s = fallback.pair.seconds(opp);
            joules += odds * more_s * fallback.pair.watts(opp);
            seconds += if fallback.cancels { odds * more_s } else { 0.0 };
            late = fallback.fails.min(if fallback.cancels { odds } else { late });
            accuracy -= odds * (pair.accuracy - fallback.pair.accuracy);
            rescued = odds;
        }
        let candidate = Candidate {
            variant: pair.variant,
            unit: place.unit,
            point: place.at(self.opp),
            items: prefix.items,
            latency: Nanos::from_secs_f64(seconds),
            energy: Microjoules::from_f64(joules * 1e6),
            accuracy: view.catalog.variants[pair.variant.index()].accuracy,
            miss: Ppm::from_fraction(late.clamp(0.0, 1.0)),
            boost: self.boost.map(|(asked_s, raised)| Boost {
                after: Nanos::from_secs_f64(asked_s),
                point: place.at(raised),
            }),
            rescue: rescue.map(|(fallback, opp, at_s, odds)| Rescue {
                after: Nanos::from_secs_f64(at_s),
                variant: fallback.pair.variant,
                unit: fallback.pair.place.unit,
                point: fallback.pair.place.at(opp),
                odds: Ppm::from_fraction(odds.clamp(0.0, 1.0)),
            }),
        };
        let per_item = joules * 1e6 / f64::from(prefix.items.max(1));
        Priced { candidate, miss: late, accuracy, rescued, per_item }
    }
}

/// How a run at the first of some operating points does `need` in its time: without a boost, `Some(None)`, or with
/// the cheapest of some boosts to others as late as possible. `None` if it does not.
pub(super) fn hold(
    view: &View<'_>,
    pair: &Pair<'_, '_>,
    ladder: &[usize],
    time_s: f64,
    fallback: Option<Fallback<'_, '_>>,
    need: f64,
) -> Option<Option<(f64, usize)>> {
    let (&opp, last) = (ladder.first()?, ladder.len() - 1);
    let place = pair.place;
    let end_s = |opp: usize, settled_s: f64| {
        time_s - fallback.map_or(0.0, |fallback| fallback.lead(opp, need, time_s, settled_s).1)
    };
    let course = pair.course(opp);
    let plain_end_s = end_s(opp, place.change_s(opp));
    if plain_end_s > 0.0 && course.work(plain_end_s) >= need {
        return Some(None);
    }
    if last == 0 || !view.tuning.hedging || place.between_s(opp, ladder[last]) <= 0.0 {
        return None;
    }
    let (begun_s, slow) = (place.change_s(opp), pair.seconds(opp).recip());
    let done = course.work(begun_s) - begun_s * slow;
    let mut cheapest: Option<(f64, (f64, usize))> = None;
    let mut seen = 0;
    for position in [1, last.div_ceil(2), last] {
        if position <= seen {
            continue;
        }
        seen = position;
        let raised = ladder[position];
        let fast = pair.seconds(raised).recip();
        // It is in force before a rescue begins.
        let end_s = end_s(raised, 0.0);
        let at_s = ((end_s * fast + done - need) / (fast - slow)).min(end_s);
        let asked_s = at_s - place.between_s(opp, raised);
        // What profiles as faster may not be now; one change at a time; a moment that is no number is none.
        if fast <= slow || asked_s.is_nan() || asked_s < begun_s {
            continue;
        }
        let work = course.work(at_s);
        let excess = |ratio| view.estimates.mean_excess(place.unit, ratio);
        let left = excess(work);
        let joules = (excess(0.0) - left) * pair.watts(opp) / slow + left * pair.watts(raised) / fast;
        if cheapest.is_none_or(|(least, _)| joules < least) {
            cheapest = Some((joules, (asked_s, raised)));
        }
    }
    cheapest.map(|(_, boost)| Some(boost))
}

/// The share of the runs that may be rescued: what their smaller variant loses of the accuracy must be tolerable.
pub(super) fn allowed_rescues(prefix: &Prefix, pair: &Pair<'_, '_>, fallback: &Fallback<'_, '_>) -> f64 {
    let lost = pair.accuracy - fallback.pair.accuracy;
    let slack = pair.accuracy - (prefix.target.as_fraction() - ACCURACY_SLACK);
    if lost <= 0.0 || slack < 0.0 {
        return MOST_RESCUED;
    }
    (slack / lost).min(MOST_RESCUED)
}
