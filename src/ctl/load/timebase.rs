//! Waiting for a moment, more exactly than the runtime's timer, which counts whole milliseconds.

use crate::time::{Clock, MonotonicClock, Timestamp};
use crate::units::Nanos;
use std::future::Future;
use std::time::Duration;

/// The runtime's timer may be late by a millisecond and a bit: the last part of a wait is left to the kernel.
const COARSE: Nanos = Nanos::from_millis(2);

/// A clock that can be waited for.
pub trait Timebase: Send + Sync + 'static {
    /// The present moment.
    fn now(&self) -> Timestamp;
    /// Waits until `at`; returns at once if that has passed.
    fn until(&self, at: Timestamp) -> impl Future<Output = ()> + Send;
}

/// The kernel's monotonic clock, and a thread that sleeps for the last part of a wait: without it the generator itself would add up
/// to a millisecond to every latency that is measured from the intended arrival.
#[derive(Debug, Clone, Copy)]
pub struct KernelTime(MonotonicClock);

impl KernelTime {
    /// A time that starts now.
    #[must_use]
    pub fn start() -> Self {
        Self(MonotonicClock::start())
    }
}

impl Timebase for KernelTime {
    fn now(&self) -> Timestamp {
        self.0.now()
    }

    async fn until(&self, at: Timestamp) {
        let coarse = at.since(self.now()).saturating_sub(COARSE);
        if coarse > Nanos::ZERO {
            tokio::time::sleep(Duration::from(coarse)).await;
        }
        let rest = at.since(self.now());
        if rest > Nanos::ZERO {
            // The only way that the thread is not there is a runtime that stops.
            let _ = tokio::task::spawn_blocking(move || std::thread::sleep(Duration::from(rest))).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_moment_has_come_when_the_wait_is_over() {
        let time = KernelTime::start();
        let at = time.now().after(Nanos::from_millis(3));
        time.until(at).await;
        assert!(time.now() >= at);
        time.until(Timestamp::ZERO).await;
    }
}
