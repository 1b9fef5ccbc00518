//! When the next request of a stream will come.
//!
//! A stream is what one app asks of one model in one class. Cameras and sensors come at a period, each arrival
//! jittered about its own time rather than about the last arrival. So the phase is tracked, not the gaps: an alpha-beta
//! filter follows the next expected arrival and the period. An arrival that is later than one and a half periods
//! came after others that were dropped: it is judged by the nearest of the times at which it could have come.
//! Streams without a period give themselves away by a spread as large as their mean gap.

use crate::core::catalog::ModelId;
use crate::core::event::{AppId, ClassId, Request};
use crate::time::Timestamp;
use crate::units::Nanos;

/// Streams remembered; the one that was quiet longest gives way.
const STREAMS: usize = 64;
/// Share of a surprise that the phase and the period take, once the stream is known.
const PHASE_GAIN: f64 = 0.25;
const PERIOD_GAIN: f64 = 0.04;
const SPREAD_GAIN: f64 = 0.1;
/// Arrivals before anything is said.
const KNOWN: u32 = 4;
/// A stream that is overdue by so many periods has ended.
const ENDED: f64 = 3.0;
/// Periods that an arrival may have skipped.
const SKIPPED_MAX: f64 = 100.0;

/// Who asks for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamKey {
    /// The class.
    pub class: ClassId,
    /// The app.
    pub app: AppId,
    /// The model.
    pub model: ModelId,
}

impl StreamKey {
    /// The stream that a request belongs to.
    #[must_use]
    pub const fn of(request: &Request) -> Self {
        Self { class: request.class, app: request.app, model: request.model }
    }
}

#[derive(Debug, Clone, Copy)]
struct Stream {
    key: StreamKey,
    last: Timestamp,
    arrivals: u32,
    /// From `last` to the next expected arrival, ns; may be more or less than a period.
    ahead: f64,
    period: f64,
    /// Mean absolute surprise, ns.
    spread: f64,
}

/// All streams.
#[derive(Debug, Clone, Default)]
pub(super) struct Arrivals {
    streams: Vec<Stream>,
}

impl Arrivals {
    pub(super) fn new() -> Self {
        Self { streams: Vec::with_capacity(STREAMS) }
    }

    /// A request of the stream came.
    pub(super) fn observe(&mut self, key: StreamKey, now: Timestamp) {
        if let Some(stream) = self.streams.iter_mut().find(|stream| stream.key == key) {
            return stream.observe(now);
        }
        let fresh = Stream { key, last: now, arrivals: 1, ahead: 0.0, period: 0.0, spread: 0.0 };
        if self.streams.len() < STREAMS {
            self.streams.push(fresh);
        } else if let Some(oldest) = self.streams.iter_mut().min_by_key(|stream| stream.last) {
            *oldest = fresh;
        }
    }

    /// When the stream's next request is expected, not before `now`, and the mean distance of arrivals from their
    /// expected time. `None` if too little is known or the stream has ended.
    pub(super) fn next(&self, key: StreamKey, now: Timestamp) -> Option<(Timestamp, Nanos)> {
        self.streams.iter().find(|stream| stream.key == key).and_then(|stream| stream.next(now))
    }

    /// The next request of any stream, as [`Arrivals::next`].
    pub(super) fn next_of_all(&self, now: Timestamp) -> Option<(Timestamp, Nanos)> {
        self.streams.iter().filter_map(|stream| stream.next(now)).min()
    }
}

impl Stream {
    fn observe(&mut self, now: Timestamp) {
        let gap = now.since(self.last).as_f64();
        self.last = self.last.max(now);
        self.arrivals = self.arrivals.saturating_add(1);
        if self.arrivals == 2 {
            (self.ahead, self.period, self.spread) = (gap, gap, gap / 2.0);
            return;
        }
        let mut surprise = gap - self.ahead;
        if self.period > 0.0 && surprise > self.period / 2.0 {
            let skipped = (surprise / self.period).round();
            // After a long silence the phase is anybody's.
            surprise = if skipped <= SKIPPED_MAX { surprise - skipped * self.period } else { 0.0 };
        }
        let early = 1.0 / f64::from(self.arrivals);
        self.period = (self.period + PERIOD_GAIN.max(early * 0.8) * surprise).max(0.0);
        // Expected next: this arrival's own time, a period on. The arrival itself was `surprise` off that.
        self.ahead = (self.period - (1.0 - PHASE_GAIN.max(early)) * surprise).max(0.0);
        self.spread += SPREAD_GAIN.max(early) * (surprise.abs() - self.spread);
    }

    fn next(&self, now: Timestamp) -> Option<(Timestamp, Nanos)> {
        let expected = self.last.after(Nanos::from_f64(self.ahead));
        let overdue = now.since(expected).as_f64();
        let patience = ENDED * self.period.max(self.spread);
        (self.arrivals >= KNOWN && overdue <= patience)
            .then(|| (expected.max(now), Nanos::from_f64(self.spread)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: StreamKey = StreamKey { class: ClassId(0), app: AppId(1), model: ModelId(0) };
    const MS: f64 = 1e6;

    fn at(ms: f64) -> Timestamp {
        Timestamp(Nanos::from_f64(ms * MS).0)
    }

    /// Error of the prediction of the next arrival, ms.
    fn error(arrivals: &Arrivals, last_ms: f64, next_ms: f64) -> f64 {
        let (expected, _) = arrivals.next(KEY, at(last_ms)).unwrap();
        (Nanos(expected.0).as_f64() / MS - next_ms).abs()
    }

    #[test]
    fn a_camera_is_found_in_a_few_frames() {
        let mut arrivals = Arrivals::new();
        for frame in 0..KNOWN {
            assert_eq!(arrivals.next(KEY, at(33.0 * f64::from(frame))), None);
            arrivals.observe(KEY, at(33.0 * f64::from(frame)));
        }
        assert!(error(&arrivals, 99.0, 132.0) < 0.01);
    }

    #[test]
    fn jitter_about_the_grid_does_not_add_up() {
        let mut arrivals = Arrivals::new();
        // +-4 ms in turns about a grid of 40 ms: gaps of 32 and 48 ms. Following the gaps errs by 12 ms.
        let time = |frame: u32| f64::from(frame) * 40.0 + if frame.is_multiple_of(2) { 4.0 } else { -4.0 };
        let mut worst = 0.0f64;
        for frame in 0..200 {
            if frame > 100 {
                worst = worst.max(error(&arrivals, time(frame - 1), time(frame)));
            }
            arrivals.observe(KEY, at(time(frame)));
        }
        assert!(worst < 7.0, "{worst} ms");
        let (_, spread) = arrivals.next(KEY, at(time(199))).unwrap();
        assert!((3.0..7.0).contains(&(spread.as_f64() / MS)), "{spread}");
    }

    #[test]
    fn dropped_frames_do_not_stretch_the_period() {
        let mut arrivals = Arrivals::new();
        let times: Vec<f64> =
            (0..60).filter(|frame| frame % 5 != 3).map(|frame| 20.0 * f64::from(frame)).collect();
        times.iter().for_each(|&ms| arrivals.observe(KEY, at(ms)));
        let last = times[times.len() - 1];
        assert!(error(&arrivals, last, last + 20.0) < 1.0);
    }

    #[test]
    fn a_stream_that_ended_is_not_expected() {
        let mut arrivals = Arrivals::new();
        (0..10).for_each(|frame| arrivals.observe(KEY, at(50.0 * f64::from(frame))));
        assert!(arrivals.next(KEY, at(550.0)).is_some());
        assert_eq!(arrivals.next(KEY, at(1000.0)), None);
    }

    proptest! {
        #[test]
        fn any_arrivals_are_taken(gaps in proptest::collection::vec((0u64..u64::MAX / 64, 0u32..100), 0..200)) {
            let mut arrivals = Arrivals::new();
            let mut now = Timestamp::ZERO;
            for (gap, app) in gaps {
                now = now.after(Nanos(gap >> (app % 50)));
                let key = StreamKey { app: AppId(app), ..KEY };
                arrivals.observe(key, now);
                if let Some((expected, _)) = arrivals.next(key, now) {
                    prop_assert!(expected >= now);
                }
                prop_assert!(arrivals.streams.len() <= STREAMS);
                prop_assert!(arrivals.streams.iter().all(|s| s.period.is_finite() && s.spread.is_finite() && s.ahead.is_finite()));
            }
        }
    }
}
