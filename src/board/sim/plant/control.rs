//! Clock domains of the plant, with the kernel's semantics.

use super::Plant;
use crate::board::sim::clock::{Bound, WriteError};
use crate::core::catalog::DomainId;
use crate::core::event::{ClockBounds, ClockState};
use crate::time::Timestamp;
use crate::units::{Kilohertz, Nanos};

impl Plant {
    /// State of a clock domain: the clock and the bounds in force, as the kernel shows them.
    ///
    /// # Panics
    /// If the board has no such domain.
    #[must_use]
    pub fn clock(&self, domain: DomainId) -> ClockState {
        self.domains[domain.index()].state()
    }

    /// Time that a change of a domain's clock takes now.
    ///
    /// # Panics
    /// If the board has no such domain.
    #[must_use]
    pub fn settle_time(&self, domain: DomainId) -> Nanos {
        self.domains[domain.index()].settle_time()
    }

    /// Writes one bound with the kernel's semantics: cpufreq clamps to its table, devfreq takes any value
    /// (0 = no limit) and runs at the operating point below.
    ///
    /// # Errors
    /// As the kernel answers.
    ///
    /// # Panics
    /// If the board has no such domain.
    pub fn write_bound(
        &mut self,
        now: Timestamp,
        domain: DomainId,
        bound: Bound,
        clock: Kilohertz,
    ) -> Result<(), WriteError> {
        self.advance(now);
        self.domains[domain.index()].write(now.max(self.now), bound, clock)
    }

    /// Writes both bounds and returns those in force, as an actuator would read them back.
    ///
    /// # Errors
    /// As [`Plant::write_bound`].
    ///
    /// # Panics
    /// If the board has no such domain.
    pub fn set_bounds(
        &mut self,
        now: Timestamp,
        domain: DomainId,
        bounds: ClockBounds,
    ) -> Result<ClockBounds, WriteError> {
        self.write_bound(now, domain, Bound::Max, bounds.max)?;
        self.write_bound(now, domain, Bound::Min, bounds.min)?;
        let state = self.clock(domain);
        Ok(ClockBounds { min: state.min, max: state.max })
    }

    /// The governor of a domain.
    ///
    /// # Panics
    /// If the board has no such domain.
    #[must_use]
    pub fn governor(&self, domain: DomainId) -> &str {
        self.domains[domain.index()].governor()
    }

    /// What was asked of a domain's governor `userspace` since it started.
    ///
    /// # Panics
    /// If the board has no such domain.
    #[must_use]
    pub fn speed(&self, domain: DomainId) -> Option<Kilohertz> {
        self.domains[domain.index()].speed()
    }

    /// Sets the governor of a domain.
    ///
    /// # Errors
    /// [`WriteError::Invalid`] if the kernel does not offer it; as the kernel answers otherwise.
    ///
    /// # Panics
    /// If the board has no such domain.
    pub fn set_governor(&mut self, now: Timestamp, domain: DomainId, name: &str) -> Result<(), WriteError> {
        self.advance(now);
        if !self.spec.domains[domain.index()].governors.iter().any(|offered| offered == name) {
            return Err(WriteError::Invalid);
        }
        self.domains[domain.index()].set_governor(self.now, name)
    }

    /// Writes the speed that the `userspace` governor is to hold.
    ///
    /// # Errors
    /// [`WriteError::Invalid`] under any other governor.
    ///
    /// # Panics
    /// If the board has no such domain.
    pub fn set_speed(
        &mut self,
        now: Timestamp,
        domain: DomainId,
        clock: Kilohertz,
    ) -> Result<(), WriteError> {
        self.advance(now);
        self.domains[domain.index()].set_speed(self.now, clock)
    }
}
