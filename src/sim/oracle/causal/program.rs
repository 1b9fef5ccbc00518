//! Programs for one run: at which clocks it begins, and when it is sped up, or given up for a smaller variant.
//! Their cost is an exact expectation over the distribution of luck.
//!
//! *Timeline.* From the clocks as they are and the orders of the program follow phases of constant clocks: an order
//! takes effect after the actuator's delay and the domain's, and not before a change under way is over. In phase `k` a
//! run of luck `R` makes `1/T_k` of a usual run's work a second, so it ends in the phase in which the work done
//! passes `R`. With `r_k` the work done at the phase's beginning, the phase costs
//! `P_k T_k (E min(R, r_{k+1}) - E min(R, r_k))`, and the run is late with probability `P(R > r(deadline))`.

use super::gears::{Gear, Gears};
use super::spread::Spread;
use crate::units::Kilohertz;
use smallvec::SmallVec;
use std::sync::Arc;

/// Share of the answers that may fall below the target of accuracy, to be in time.
const RESCUED: f64 = 0.02;

/// What a clock domain does: its clock, and the change under way.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Drift {
    /// Clock now.
    pub(super) now: Option<Kilohertz>,
    /// Clock to come, and in how many seconds.
    pub(super) next: Option<(Kilohertz, f64)>,
    /// Seconds from an order until the actuator has written it and the clock has followed.
    pub(super) delay_s: f64,
}

/// The unit's clock domain and its memory domain.
pub(super) type Drifts = [Drift; 2];

/// A phase of constant clocks.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Phase {
    /// Its beginning, seconds from the start of the run.
    from_s: f64,
    /// Seconds of a whole run in it, at a luck of 1.
    run_s: f64,
    watts: f64,
}

type Phases = SmallVec<[Phase; 8]>;

/// What a run is to do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Program {
    /// Gear asked for at the start.
    pub(super) first: Gear,
    /// Gear asked for later, and after how many seconds.
    pub(super) boost: Option<(Gear, f64)>,
    /// Index into [`Task::smaller`] of the variant that the run is given up for, and after how many seconds.
    pub(super) rescue: Option<(usize, f64)>,
}

/// What is to be expected of a program.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Expected {
    /// Energy above the idle board, J.
    pub(super) joules: f64,
    /// Seconds.
    pub(super) seconds: f64,
    /// Probability to be late for those behind it.
    pub(super) miss: f64,
    /// Probability to be late itself.
    pub(super) own_miss: f64,
    /// Probability to be answered by a smaller variant.
    pub(super) rescued: f64,
}

/// What a run must keep.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Limits {
    /// Seconds until it must have ended, for itself and for those behind it.
    pub(super) latest_s: f64,
    /// Seconds until it must have ended for itself.
    pub(super) own_s: f64,
    /// Seconds that it should take on average, so that those behind it have theirs.
    pub(super) mean_s: f64,
    /// Probability that it may be late.
    pub(super) miss: f64,
}

/// A run to be planned.
pub(super) struct Task<'a> {
    pub(super) gears: &'a Gears,
    /// Gears that may be chosen, the fastest first.
    pub(super) rim: &'a [Gear],
    pub(super) items: u32,
    pub(super) drifts: Drifts,
    pub(super) spread: &'a Spread,
    /// Variants that the run may be given up for, on the same unit.
    pub(super) smaller: &'a [Arc<Gears>],
    /// Whether the domains come to rest afterwards: until they have, they still draw.
    pub(super) rests: bool,
}

impl Task<'_> {
    /// The changes of one domain under a program's orders: when, and to which clock.
    fn changes(&self, domain: usize, program: &Program) -> SmallVec<[(f64, Option<Kilohertz>); 4]> {
        let drift = &self.drifts[domain];
        let mut changes = SmallVec::new();
        changes.push((0.0, drift.now));
        let (mut clock, mut busy_until) = (drift.now, 0.0);
        if let Some((next, in_s)) = drift.next {
            changes.push((in_s.max(0.0), Some(next)));
            (clock, busy_until) = (Some(next), in_s);
        }
        let orders = [Some((program.first, 0.0)), program.boost];
        for (gear, at_s) in orders.into_iter().flatten() {
            let wanted = self.gears.khz(gear)[domain];
            if wanted.is_some() && wanted != clock {
                busy_until = f64::max(busy_until, at_s) + drift.delay_s;
                changes.push((busy_until, wanted));
                clock = wanted;
            }
        }
        changes
    }

    fn phases(&self, program: &Program) -> Phases {
        let changes = [self.changes(0, program), self.changes(1, program)];
        let mut moments: SmallVec<[f64; 8]> = changes.iter().flatten().map(|(at, _)| *at).collect();
        moments.sort_by(f64::total_cmp);
        moments.dedup();
        let phase = |from_s: f64| {
            let clock = |domain: usize| {
                changes[domain].iter().rev().find(|(at, _)| *at <= from_s).and_then(|(_, clock)| *clock)
            };
            let rate = self.gears.rate(self.gears.nearest([clock(0), clock(1)]));
            Phase { from_s, run_s: rate.seconds(self.items), watts: rate.watts }
        };
        moments.into_iter().map(phase).collect()
    }

    /// What is to be expected under limits.
    pub(super) fn expect(&self, program: &Program, limits: &Limits) -> Expected {
        let (latest_s, own_s) = (limits.latest_s.max(0.0), limits.own_s.max(0.0));
        let phases = self.phases(program);
        let stop_s = program.rescue.map_or(f64::INFINITY, |(_, at_s)| at_s);
        let mut expected = Expected { joules: 0.0, seconds: 0.0, miss: 0.0, own_miss: 0.0, rescued: 0.0 };
        let (mut done, mut least) = (0.0, 0.0);
        for (index, phase) in phases.iter().enumerate().take_while(|(_, phase)| phase.from_s < stop_s) {
            let until_s = phases.get(index + 1).map_or(f64::INFINITY, |next| next.from_s).min(stop_s);
            let late = |end_s: f64| self.spread.above(done + (end_s - phase.from_s) / phase.run_s);
            let within = phase.from_s..until_s;
            if within.contains(&latest_s) {
                expected.miss = late(latest_s);
            }
            if within.contains(&own_s) {
                expected.own_miss = late(own_s);
            }
            done += (until_s - phase.from_s) / phase.run_s;
            let reached = self.spread.least(done);
            expected.seconds += phase.run_s * (reached - least);
            expected.joules += phase.watts * phase.run_s * (reached - least);
            least = reached;
        }
        if let Some((small, at_s)) = program.rescue {
            // The same request has the same luck again: it is its input's, or that of its moment.
            let rate = self.smaller[small].rate(program.first);
            let (run_s, part) = (rate.seconds(self.items), self.spread.mean_above(done));
            expected.seconds += run_s * part;
            expected.joules += run_s * part * rate.watts;
            let late = |end_s: f64| self.spread.above(done.max((end_s - at_s) / run_s));
            (expected.miss, expected.own_miss) = (late(latest_s), late(own_s));
            expected.rescued = self.spread.above(done);
        }
        if self.rests {
            expected.joules += self.afterwards(program, &phases);
        }
        expected
    }

    /// Energy until the clocks have come to rest, J.
    fn afterwards(&self, program: &Program, phases: &Phases) -> f64 {
        let first = self.hold_joules(program.first);
        let Some((then, at_s)) = program.boost else { return first };
        let mut done = 0.0;
        for (index, phase) in phases.iter().enumerate().take_while(|(_, phase)| phase.from_s < at_s) {
            let until_s = phases.get(index + 1).map_or(f64::INFINITY, |next| next.from_s).min(at_s);
            done += (until_s - phase.from_s) / phase.run_s;
        }
        let boosted = self.spread.above(done);
        first * (1.0 - boosted) + self.hold_joules(then) * boosted
    }

    /// Energy of holding the clocks of a gear for the time that a change takes, J.
    pub(super) fn hold_joules(&self, gear: Gear) -> f64 {
        let watts = self.gears.held_watts(gear);
        watts.iter().zip(&self.drifts).map(|(watts, drift)| watts * drift.delay_s).sum()
    }

    /// When a run of a certain luck ends.
    pub(super) fn end_s(&self, program: &Program, luck: f64) -> f64 {
        if let Some((small, at_s)) = program.rescue {
            let end_s = self.end_s(&Program { rescue: None, ..*program }, luck);
            let rescued_s = at_s + luck * self.smaller[small].rate(program.first).seconds(self.items);
            return if end_s > at_s { rescued_s } else { end_s };
        }
        let phases = self.phases(program);
        let mut left = luck;
        for (index, phase) in phases.iter().enumerate() {
            let span = phases.get(index + 1).map_or(f64::INFINITY, |next| next.from_s) - phase.from_s;
            if left * phase.run_s <= span {
                return phase.from_s + left * phase.run_s;
            }
            left -= span / phase.run_s;
        }
        f64::INFINITY
    }

    /// What is to be expected at the very least, without any clock to change or deadline to meet.
    pub(super) fn least(&self) -> Expected {
        let cost = |gear: &Gear| {
            let rate = self.gears.rate(*gear);
            rate.seconds(self.items) * rate.watts
        };
        let least = self.rim.iter().map(cost).fold(f64::INFINITY, f64::min);
        let joules = least * self.spread.least(f64::INFINITY);
        Expected { joules, seconds: 0.0, miss: 0.0, own_miss: 0.0, rescued: 0.0 }
    }

    /// The best program, plain or hedged (sped up or given up later), if it beats `floor`.
    pub(super) fn best(
        &self,
        limits: &Limits,
        hedged: bool,
        floor: Option<Rank>,
        rank: impl Fn(&Expected) -> Rank,
    ) -> Option<(Program, Expected, Rank)> {
        let mut best: Option<(Program, Expected, Rank)> = None;
        let mut offer = |program: Program| {
            let expected = self.expect(&program, limits);
            let rank = rank(&expected);
            let bar = best.map(|(_, _, rank)| rank).or(floor);
            if bar.is_none_or(|bar| rank < bar) {
                best = Some((program, expected, rank));
            }
        };
        if !hedged {
            self.rim.iter().for_each(|&first| offer(Program { first, boost: None, rescue: None }));
            return best;
        }
        let (worst, mean) = (self.spread.quantile(limits.miss), self.spread.least(f64::INFINITY));
        for (small, gears) in self.smaller.iter().enumerate() {
            for &first in self.rim {
                // As late as a run of luck `worst` allows.
                let at_s = limits.latest_s - worst * gears.rate(first).seconds(self.items);
                if at_s > 0.0 {
                    offer(Program { first, boost: None, rescue: Some((small, at_s)) });
                }
            }
        }
        for (slower, &first) in self.rim.iter().enumerate().skip(1) {
            // A run that is sped up costs more than one that stays.
            let rate = self.gears.rate(first);
            let joules = rate.seconds(self.items) * rate.watts * mean;
            let least = Expected { joules, seconds: 0.0, miss: 0.0, own_miss: 0.0, rescued: 0.0 };
            if floor.is_some_and(|floor| rank(&least) >= floor) {
                continue;
            }
            for &then in &self.rim[..slower] {
                self.boosted(first, then, worst, limits).into_iter().for_each(&mut offer);
            }
        }
        best
    }

    /// The program that begins in one gear and goes to a faster one as late as a run of luck `worst` allows. Later is
    /// cheaper, as the slower gear does the same work for less.
    fn boosted(&self, first: Gear, then: Gear, worst: f64, limits: &Limits) -> Option<Program> {
        let at = |at_s: f64| Program { first, boost: Some((then, at_s)), rescue: None };
        if self.end_s(&at(0.0), worst) > limits.latest_s {
            return None;
        }
        if self.end_s(&at(limits.latest_s), worst) <= limits.latest_s {
            // It is never needed: the plain program does.
            return None;
        }
        let (mut early, mut late) = (0.0, limits.latest_s);
        while late - early > 1e-3 * limits.latest_s {
            let middle = f64::midpoint(early, late);
            if self.end_s(&at(middle), worst) <= limits.latest_s { early = middle } else { late = middle }
        }
        Some(at(early))
    }
}

impl Limits {
    /// Orders expectations: within the limits by accuracy and then energy; else, as long as the run itself is in time, by
    /// how soon it makes room for others; else by the chance to be late.
    /// `share` of the run is one request's.
    pub(super) fn rank(&self, expected: &Expected, on_target: bool, share: f64) -> Rank {
        let on_target = on_target && expected.rescued <= RESCUED;
        let (late, slow) = (expected.miss > self.miss, expected.seconds > self.mean_s);
        match (late, slow) {
            (false, false) if on_target => Rank(0, expected.joules * share, expected.seconds),
            (false, false) => Rank(1, expected.joules * share, expected.seconds),
            (false, true) => Rank(2, expected.seconds * share, expected.joules * share),
            (true, _) if expected.own_miss <= self.miss => Rank(3, expected.seconds * share, expected.joules),
            (true, _) => Rank(4, expected.own_miss, expected.seconds * share),
        }
    }
}

/// A place in the order of programs; less is better.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub(super) struct Rank(u8, f64, f64);

impl Rank {
    /// The rank if the run cost so many joules more.
    pub(super) fn dearer(self, joules: f64) -> Self {
        let Self(class, cost, then) = self;
        if class < 2 { Self(class, cost + joules, then) } else { self }
    }

    /// Whether this is better by so much that it is worth a wait: at most a share of the cost, in the same class.
    pub(super) fn beats(&self, other: &Self, share: f64) -> bool {
        self.0 < other.0 || self.0 == other.0 && self.1 < share * other.1
    }
}
