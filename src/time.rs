//! Time as an argument. This is the only module that reads a clock.

use crate::units::Nanos;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A moment: nanoseconds of monotonic time since an arbitrary origin (the start of the daemon, or of
/// a simulated world).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The origin.
    pub const ZERO: Self = Self(0);
    /// Later than every real moment.
    pub const MAX: Self = Self(u64::MAX);

    /// The moment `span` later, clamped at the end of time.
    #[must_use]
    pub const fn after(self, span: Nanos) -> Self {
        Self(self.0.saturating_add(span.0))
    }

    /// The moment `span` earlier, clamped at the origin.
    #[must_use]
    pub const fn before(self, span: Nanos) -> Self {
        Self(self.0.saturating_sub(span.0))
    }

    /// Time passed since `earlier`; zero if that lies in the future.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Nanos {
        Nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Where the mechanism gets its time from. The core never sees one: it is handed timestamps.
pub trait Clock: Send + Sync {
    /// The present moment.
    fn now(&self) -> Timestamp;
}

/// `CLOCK_MONOTONIC`, counted from the clock's creation.
#[derive(Debug, Clone, Copy)]
pub struct MonotonicClock {
    origin: std::time::Instant,
}

impl MonotonicClock {
    /// A clock whose origin is now.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "the one place that reads a clock")]
    pub fn start() -> Self {
        Self { origin: std::time::Instant::now() }
    }

    /// The same as a shared trait object.
    #[must_use]
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(Self::start())
    }
}

impl Clock for MonotonicClock {
    fn now(&self) -> Timestamp {
        Timestamp(Nanos::from(self.origin.elapsed()).0)
    }
}

/// Milliseconds since the Unix epoch, for clients that count that way.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "the one place that reads a clock")]
pub fn unix_millis() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}

/// Seconds since the Unix epoch, for records that outlive the process.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "the one place that reads a clock")]
pub fn unix_seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |span| span.as_secs())
}
