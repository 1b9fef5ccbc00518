//! One clock domain: requested bounds, firmware cap, governor, and the clock that follows late.
//!
//! ```text
//! bounds requested ──► bounds in force ──► governor's target ──► (actuation delay) ──► clock
//!                          ▲                      ▲
//!                    firmware cap             busy or idle
//! ```

use super::fault::ActuatorFault;
use super::spec::PlantDomain;
use crate::board::spec::DomainInterface;
use crate::core::event::{ClockBounds, ClockState};
use crate::time::Timestamp;
use crate::units::{Kilohertz, Nanos};

/// Which bound is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// The lower bound.
    Min,
    /// The upper bound.
    Max,
}

/// Why a bound or governor could not be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// EINVAL.
    #[error("invalid argument (EINVAL)")]
    Invalid,
    /// EIO: what an actuator that refuses answers.
    #[error("input/output error (EIO)")]
    Refused,
}

/// How a domain chooses between its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    Highest,
    Lowest,
    /// What the governor `userspace` was told, if it was, and else where the clock was when it started.
    Set {
        asked: Option<Kilohertz>,
        before: Kilohertz,
    },
    /// Highest while a unit of the domain is busy, lowest when it has been idle for a while.
    Dynamic,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Pending {
    clock: Kilohertz,
    at: Timestamp,
}

/// State of a clock domain.
#[derive(Debug, Clone)]
pub(super) struct Domain {
    interface: DomainInterface,
    opps: Vec<Kilohertz>,
    settle: Nanos,
    throttled: bool,
    governor: String,
    rule: Rule,
    request: ClockBounds,
    /// Index into `opps` that the firmware allows at most.
    cap: usize,
    current: Kilohertz,
    pending: Option<Pending>,
    busy: bool,
    idle_since: Timestamp,
    governor_idle: Nanos,
    pub(super) delay_factor: f64,
    pub(super) fault: Option<ActuatorFault>,
}

impl Domain {
    pub(super) fn new(spec: &PlantDomain, governor_idle: Nanos) -> Self {
        let (low, high) = (spec.opps[0], spec.opps[spec.opps.len() - 1]);
        let mut domain = Self {
            interface: spec.interface,
            opps: spec.opps.clone(),
            settle: spec.settle,
            throttled: spec.throttled,
            governor: String::new(),
            rule: Rule::Dynamic,
            request: ClockBounds { min: low, max: high },
            cap: spec.opps.len() - 1,
            current: low,
            pending: None,
            busy: false,
            idle_since: Timestamp::ZERO,
            governor_idle,
            delay_factor: 1.0,
            fault: None,
        };
        domain.enter_governor(&spec.governor);
        // At power-on the clock is where the governor wants it: nothing to wait for.
        domain.current = domain.target(Timestamp::MAX);
        domain
    }

    pub(super) fn current(&self) -> Kilohertz {
        self.current
    }

    pub(super) fn lowest(&self) -> Kilohertz {
        self.opps[0]
    }

    pub(super) fn highest(&self) -> Kilohertz {
        self.opps[self.opps.len() - 1]
    }

    pub(super) fn governor(&self) -> &str {
        &self.governor
    }

    /// What was asked of the governor `userspace` since it started.
    pub(super) fn speed(&self) -> Option<Kilohertz> {
        match self.rule {
            Rule::Set { asked, .. } => asked,
            _ => None,
        }
    }

    pub(super) fn capped(&self) -> bool {
        self.cap + 1 < self.opps.len()
    }

    /// What `cur`, `min` and `max` read back.
    pub(super) fn state(&self) -> ClockState {
        let bounds = self.bounds();
        ClockState { current: self.current, min: bounds.min, max: bounds.max }
    }

    /// The bounds in force: the request, the firmware's cap, and an actuator fault that clamps.
    fn bounds(&self) -> ClockBounds {
        let mut cap = self.opps[self.cap];
        if let Some(ActuatorFault::Clamp(limit)) = self.fault {
            cap = cap.min(limit.max(self.lowest()));
        }
        let (min, max) = match self.interface {
            // cpufreq resolves both to operating points of its table.
            DomainInterface::Cpufreq => {
                (self.at_least(self.request.min.min(self.highest())), self.at_most(self.request.max.min(cap)))
            }
            // devfreq shows what was asked, within its operating points' range.
            DomainInterface::Devfreq => (self.request.min.max(self.lowest()), self.request.max.min(cap)),
        };
        // Both interfaces let the upper bound win.
        ClockBounds { min: min.min(max), max }
    }

    /// Highest operating point not above `clock`, or the lowest.
    fn at_most(&self, clock: Kilohertz) -> Kilohertz {
        let above = self.opps.partition_point(|opp| *opp <= clock);
        self.opps[above.saturating_sub(1)]
    }

    /// Lowest operating point not below `clock`, or the highest.
    fn at_least(&self, clock: Kilohertz) -> Kilohertz {
        let below = self.opps.partition_point(|opp| *opp < clock);
        self.opps[below.min(self.opps.len() - 1)]
    }

    fn target(&self, now: Timestamp) -> Kilohertz {
        let bounds = self.bounds();
        let wanted = match self.rule {
            Rule::Highest => bounds.max,
            Rule::Lowest => bounds.min,
            Rule::Set { asked, before } => {
                let wanted = asked.unwrap_or(before);
                let above = self.at_least(Kilohertz(wanted.0.clamp(bounds.min.0, bounds.max.0)));
                above.min(bounds.max)
            }
            Rule::Dynamic if self.busy => bounds.max,
            Rule::Dynamic if now.since(self.idle_since) >= self.governor_idle => bounds.min,
            // Just fallen idle: stays where it is heading, within the bounds.
            Rule::Dynamic => {
                let heading = self.pending.map_or(self.current, |pending| pending.clock);
                Kilohertz(heading.0.clamp(bounds.min.0, bounds.max.0))
            }
        };
        let down = self.at_most(wanted);
        // A clock below the lower bound is raised to the next operating point, if the upper bound allows.
        if down < bounds.min && self.at_least(wanted) <= bounds.max { self.at_least(wanted) } else { down }
    }

    /// Chooses the target anew; starts a change if the clock is not there nor heading there.
    pub(super) fn retarget(&mut self, now: Timestamp) {
        let target = self.target(now);
        match &mut self.pending {
            // A change under way is not taken back: the next one starts when it is done.
            Some(_) => {}
            None if target == self.current => {}
            None => {
                self.pending = Some(Pending { clock: target, at: now.after(self.settle_time()) });
            }
        }
    }

    /// Time that a change takes now.
    pub(super) fn settle_time(&self) -> Nanos {
        Nanos::from_secs_f64(self.settle.as_secs_f64() * self.delay_factor)
    }

    /// When something will happen here by itself.
    pub(super) fn next_event(&self) -> Option<Timestamp> {
        let idle = (self.rule == Rule::Dynamic && !self.busy)
            .then(|| self.idle_since.after(self.governor_idle))
            .filter(|_| self.pending.is_none() && self.current > self.target(Timestamp::MAX));
        let change = self.pending.map(|pending| pending.at);
        [idle, change].into_iter().flatten().min()
    }

    /// Does what is due at `now`. True if the clock changed.
    pub(super) fn advance(&mut self, now: Timestamp) -> bool {
        let before = self.current;
        if let Some(pending) = self.pending.filter(|pending| pending.at <= now) {
            self.current = pending.clock;
            self.pending = None;
        }
        self.retarget(now);
        before != self.current
    }

    pub(super) fn set_busy(&mut self, now: Timestamp, busy: bool) {
        if self.busy && !busy {
            self.idle_since = now;
        }
        self.busy = busy;
        self.retarget(now);
    }

    /// Writes a bound as the kernel would take it. In kHz; for devfreq zero means no limit.
    pub(super) fn write(&mut self, now: Timestamp, bound: Bound, clock: Kilohertz) -> Result<(), WriteError> {
        if matches!(self.fault, Some(ActuatorFault::Refuse)) {
            return Err(WriteError::Refused);
        }
        let no_limit = self.interface == DomainInterface::Devfreq && clock == Kilohertz::ZERO;
        match bound {
            Bound::Min => self.request.min = clock,
            Bound::Max if no_limit => self.request.max = Kilohertz::MAX,
            Bound::Max => self.request.max = clock,
        }
        self.retarget(now);
        Ok(())
    }

    /// Writes `scaling_governor` or `governor`; the name must be one that is offered.
    pub(super) fn set_governor(&mut self, now: Timestamp, name: &str) -> Result<(), WriteError> {
        if matches!(self.fault, Some(ActuatorFault::Refuse)) {
            return Err(WriteError::Refused);
        }
        self.enter_governor(name);
        self.retarget(now);
        Ok(())
    }

    fn enter_governor(&mut self, name: &str) {
        self.rule = match name {
            "performance" => Rule::Highest,
            "powersave" => Rule::Lowest,
            "userspace" => Rule::Set { asked: None, before: self.current },
            _ => Rule::Dynamic,
        };
        name.clone_into(&mut self.governor);
    }

    /// Writes `scaling_setspeed` or `userspace/set_freq`.
    pub(super) fn set_speed(&mut self, now: Timestamp, clock: Kilohertz) -> Result<(), WriteError> {
        let Rule::Set { asked, .. } = &mut self.rule else { return Err(WriteError::Invalid) };
        *asked = Some(clock);
        self.retarget(now);
        Ok(())
    }

    /// The firmware lowers its cap by one operating point.
    pub(super) fn throttle(&mut self, now: Timestamp) {
        if self.throttled {
            self.cap = self.cap.saturating_sub(1);
            self.retarget(now);
        }
    }

    /// The firmware raises its cap by one operating point.
    pub(super) fn release(&mut self, now: Timestamp) {
        self.cap = (self.cap + 1).min(self.opps.len() - 1);
        self.retarget(now);
    }

    /// The firmware allows only the lowest operating point.
    pub(super) fn slam(&mut self, now: Timestamp) {
        if self.throttled {
            self.cap = 0;
            self.retarget(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(interface: DomainInterface, governor: &str) -> Domain {
        let spec = PlantDomain {
            name: "gpu".to_owned(),
            interface,
            opps: [100, 200, 300, 400].map(Kilohertz).to_vec(),
            settle: Nanos::from_millis(5),
            governor: governor.to_owned(),
            governors: Vec::new(),
            throttled: true,
            device: String::new(),
            cpus: String::new(),
        };
        Domain::new(&spec, Nanos::from_millis(50))
    }

    fn at_ms(ms: u64) -> Timestamp {
        Timestamp::ZERO.after(Nanos::from_millis(ms))
    }

    fn read(domain: &Domain) -> (u32, u32, u32) {
        let state = domain.state();
        (state.current.0, state.min.0, state.max.0)
    }

    #[test]
    fn cpufreq_clamps_to_its_table() {
        let mut cpu = domain(DomainInterface::Cpufreq, "performance");
        cpu.write(at_ms(0), Bound::Max, Kilohertz(250)).unwrap();
        cpu.write(at_ms(0), Bound::Min, Kilohertz(150)).unwrap();
        assert_eq!(read(&cpu), (400, 200, 200));
        cpu.write(at_ms(0), Bound::Max, Kilohertz(99_999)).unwrap();
        cpu.write(at_ms(0), Bound::Min, Kilohertz(0)).unwrap();
        assert_eq!(read(&cpu), (400, 100, 400));
    }

    #[test]
    fn devfreq_shows_what_was_asked_and_runs_at_the_operating_point_below() {
        let mut gpu = domain(DomainInterface::Devfreq, "performance");
        gpu.write(at_ms(0), Bound::Max, Kilohertz(250)).unwrap();
        gpu.advance(at_ms(5));
        assert_eq!(read(&gpu), (200, 100, 250));
        gpu.write(at_ms(5), Bound::Max, Kilohertz(0)).unwrap();
        gpu.advance(at_ms(10));
        assert_eq!(read(&gpu), (400, 100, 400), "zero is no limit");
    }

    #[test]
    fn a_lower_bound_above_the_upper_one_gives_way() {
        for interface in [DomainInterface::Cpufreq, DomainInterface::Devfreq] {
            let mut domain = domain(interface, "performance");
            domain.write(at_ms(0), Bound::Min, Kilohertz(400)).unwrap();
            domain.write(at_ms(0), Bound::Max, Kilohertz(200)).unwrap();
            domain.advance(at_ms(5));
            assert_eq!(read(&domain), (200, 200, 200));
        }
    }

    #[test]
    fn a_new_clock_is_in_force_only_after_the_delay() {
        let mut gpu = domain(DomainInterface::Devfreq, "performance");
        gpu.write(at_ms(0), Bound::Max, Kilohertz(100)).unwrap();
        assert!(!gpu.advance(at_ms(4)));
        assert_eq!(gpu.current(), Kilohertz(400));
        assert_eq!(gpu.next_event(), Some(at_ms(5)));
        assert!(gpu.advance(at_ms(5)));
        assert_eq!(gpu.current(), Kilohertz(100));
    }

    #[test]
    fn a_second_change_waits_for_the_first() {
        let mut gpu = domain(DomainInterface::Devfreq, "performance");
        gpu.write(at_ms(0), Bound::Max, Kilohertz(100)).unwrap();
        gpu.write(at_ms(3), Bound::Max, Kilohertz(300)).unwrap();
        gpu.advance(at_ms(5));
        assert_eq!(gpu.current(), Kilohertz(100));
        gpu.advance(at_ms(10));
        assert_eq!(gpu.current(), Kilohertz(300));
    }

    #[test]
    fn a_dynamic_governor_rises_with_work_and_falls_after_idling() {
        let mut gpu = domain(DomainInterface::Devfreq, "simple_ondemand");
        assert_eq!(gpu.current(), Kilohertz(100));
        gpu.set_busy(at_ms(0), true);
        gpu.advance(at_ms(5));
        assert_eq!(gpu.current(), Kilohertz(400));
        gpu.set_busy(at_ms(10), false);
        assert_eq!(gpu.next_event(), Some(at_ms(60)));
        gpu.advance(at_ms(60));
        gpu.advance(at_ms(65));
        assert_eq!(gpu.current(), Kilohertz(100));
        assert_eq!(gpu.next_event(), None);
    }

    #[test]
    fn throttling_reads_back_as_a_lower_upper_bound() {
        let mut gpu = domain(DomainInterface::Devfreq, "performance");
        gpu.throttle(at_ms(0));
        assert_eq!(read(&gpu).2, 300);
        gpu.slam(at_ms(0));
        assert_eq!(read(&gpu).2, 100);
        for _ in 0..9 {
            gpu.release(at_ms(0));
        }
        assert_eq!(read(&gpu).2, 400);
        assert!(!gpu.capped());
    }

    #[test]
    fn setspeed_needs_the_userspace_governor() {
        let mut cpu = domain(DomainInterface::Cpufreq, "performance");
        assert_eq!(cpu.set_speed(at_ms(0), Kilohertz(200)), Err(WriteError::Invalid));
        cpu.set_governor(at_ms(0), "userspace").unwrap();
        cpu.set_speed(at_ms(0), Kilohertz(200)).unwrap();
        cpu.advance(at_ms(5));
        assert_eq!(cpu.current(), Kilohertz(200));
    }

    #[test]
    fn an_actuator_that_refuses_or_clamps() {
        let mut gpu = domain(DomainInterface::Devfreq, "performance");
        gpu.fault = Some(ActuatorFault::Refuse);
        assert_eq!(gpu.write(at_ms(0), Bound::Max, Kilohertz(200)), Err(WriteError::Refused));
        gpu.fault = Some(ActuatorFault::Clamp(Kilohertz(300)));
        gpu.write(at_ms(0), Bound::Max, Kilohertz(400)).unwrap();
        assert_eq!(read(&gpu).2, 300);
    }
}
