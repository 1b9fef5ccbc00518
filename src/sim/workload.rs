//! Who asks for what, and when: streams of requests from a seed.

use crate::core::catalog::ModelId;
use crate::core::event::{AppId, ClassId};
use crate::time::Timestamp;
use crate::units::{Nanos, Ppm};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

/// How the requests of a stream are spaced.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arrivals {
    /// One every `period`, each up to `jitter` late: a camera.
    Periodic {
        /// Between two requests.
        period: Nanos,
        /// Most that one is late, evenly distributed.
        jitter: Nanos,
    },
    /// Independent of each other, so many a second on average.
    Poisson {
        /// Requests per second; above zero.
        per_s: f64,
    },
    /// `size` at the same moment, the bursts themselves Poisson, `every` apart on average.
    Bursts {
        /// Mean time between two bursts.
        every: Nanos,
        /// Requests in one.
        size: u32,
    },
}

/// Requests of one kind from one app.
#[derive(Debug, Clone, PartialEq)]
pub struct Stream {
    /// Who asks.
    pub app: AppId,
    /// The class.
    pub class: ClassId,
    /// The model.
    pub model: ModelId,
    /// Items in each request.
    pub items: u32,
    /// Time until a hard deadline; `None` leaves it to the class's soft objective.
    pub deadline: Option<Nanos>,
    /// Least accuracy, where the request names one.
    pub min_accuracy: Option<Ppm>,
    /// Share of the clients that hang up, at an even time within `patience`.
    pub quitters: f64,
    /// See `quitters`.
    pub patience: Nanos,
    /// When the stream begins and ends.
    pub from: Timestamp,
    /// First moment without requests.
    pub until: Timestamp,
    /// Spacing.
    pub arrivals: Arrivals,
}

impl Stream {
    /// One item at a time of model 0 in class 0 from one app, without hard deadlines, for `lasting`.
    #[must_use]
    pub fn plain(arrivals: Arrivals, lasting: Nanos) -> Self {
        Self {
            app: AppId(1),
            class: ClassId(0),
            model: ModelId(0),
            items: 1,
            deadline: None,
            min_accuracy: None,
            quitters: 0.0,
            patience: Nanos::from_secs(1),
            from: Timestamp::ZERO,
            until: Timestamp::ZERO.after(lasting),
            arrivals,
        }
    }
}

/// A request to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// When.
    pub at: Timestamp,
    /// Index of its stream.
    pub stream: usize,
    /// When its client hangs up.
    pub quits_at: Option<Timestamp>,
}

#[derive(Debug, Clone)]
struct Source {
    rng: Xoshiro256PlusPlus,
    /// Start of the next period, or the next moment.
    next: Timestamp,
    /// Requests left of the burst at `next`.
    left: u32,
    pending: Option<Timestamp>,
}

/// Streams merged in time. Each draws from a generator of its own, so that a change of one moves no other.
#[derive(Debug, Clone)]
pub struct Workload {
    streams: Vec<Stream>,
    sources: Vec<Source>,
}

impl Workload {
    /// These streams, from a seed.
    #[must_use]
    pub fn new(streams: Vec<Stream>, seed: u64) -> Self {
        let source = |(index, stream): (usize, &Stream)| {
            let salt = (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let rng = Xoshiro256PlusPlus::seed_from_u64(seed ^ salt);
            let mut source = Source { rng, next: stream.from, left: 0, pending: None };
            if !matches!(stream.arrivals, Arrivals::Periodic { .. }) {
                source.next = source.next.after(source.gap(stream));
            }
            source.advance(stream);
            source
        };
        Self { sources: streams.iter().enumerate().map(source).collect(), streams }
    }

    /// The streams.
    #[must_use]
    pub fn streams(&self) -> &[Stream] {
        &self.streams
    }

    /// When the next request comes; `None` after the last.
    #[must_use]
    pub fn next_at(&self) -> Option<Timestamp> {
        self.sources.iter().filter_map(|source| source.pending).min()
    }

    /// Takes the next request; of two at the same moment that of the first stream.
    pub fn take(&mut self) -> Option<Arrival> {
        let at = self.next_at()?;
        let stream = self.sources.iter().position(|source| source.pending == Some(at))?;
        let (source, spec) = (&mut self.sources[stream], &self.streams[stream]);
        // Always two draws, so that a change of the share moves no other request.
        let (odds, share): (f64, f64) = (source.rng.random(), source.rng.random());
        let patience = Nanos::from_secs_f64(spec.patience.as_secs_f64() * share);
        let quits_at = (odds < spec.quitters).then(|| at.after(patience));
        source.advance(spec);
        Some(Arrival { at, stream, quits_at })
    }
}

impl Source {
    /// Time to the next period, request or burst; at least a nanosecond, so that time passes.
    fn gap(&mut self, stream: &Stream) -> Nanos {
        let mean_s = match stream.arrivals {
            Arrivals::Periodic { period, .. } => return period.max(Nanos(1)),
            Arrivals::Poisson { per_s } => 1.0 / per_s.max(1e-9),
            Arrivals::Bursts { every, .. } => every.as_secs_f64(),
        };
        let odds: f64 = self.rng.random();
        Nanos::from_secs_f64(-mean_s * (1.0 - odds).ln()).max(Nanos(1))
    }

    fn advance(&mut self, stream: &Stream) {
        let at = match stream.arrivals {
            Arrivals::Periodic { jitter, .. } => {
                let share: f64 = self.rng.random();
                let at = self.next.after(Nanos::from_secs_f64(jitter.as_secs_f64() * share));
                self.next = self.next.after(self.gap(stream));
                at
            }
            Arrivals::Poisson { .. } => {
                let at = self.next;
                self.next = at.after(self.gap(stream));
                at
            }
            Arrivals::Bursts { size, .. } => {
                if self.left == 0 {
                    self.left = size.max(1);
                }
                let at = self.next;
                self.left -= 1;
                if self.left == 0 {
                    self.next = at.after(self.gap(stream));
                }
                at
            }
        };
        // Jitter above the period must not send time backwards.
        let at = self.pending.map_or(at, |before| at.max(before));
        self.pending = (at < stream.until).then_some(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(arrivals: Arrivals, seconds: u64) -> Vec<Timestamp> {
        let mut workload = Workload::new(vec![Stream::plain(arrivals, Nanos::from_secs(seconds))], 7);
        std::iter::from_fn(|| workload.take()).map(|arrival| arrival.at).collect()
    }

    #[test]
    fn a_camera_at_15_fps_gives_150_frames_in_10_s() {
        let period = Nanos::from_secs_f64(1.0 / 15.0);
        let all = times(Arrivals::Periodic { period, jitter: Nanos::from_millis(3) }, 10);
        // 150 periods of a fifteenth, the 151st begins at the end or a rounding before it.
        assert!((150..=151).contains(&all.len()), "{}", all.len());
        assert!(all.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn poisson_arrivals_have_the_mean_and_the_spread() {
        let all = times(Arrivals::Poisson { per_s: 50.0 }, 100);
        // 5000 expected, standard deviation 71: four of them.
        assert!((4716..5284).contains(&all.len()), "{}", all.len());
    }

    #[test]
    fn bursts_come_whole() {
        let all = times(Arrivals::Bursts { every: Nanos::from_millis(500), size: 4 }, 60);
        assert!(all.len().is_multiple_of(4) && all.len() > 200, "{}", all.len());
        assert!(all.chunks(4).all(|burst| burst.iter().all(|at| *at == burst[0])));
    }

    #[test]
    fn the_same_seed_gives_the_same_requests() {
        let arrivals = Arrivals::Poisson { per_s: 20.0 };
        assert_eq!(times(arrivals, 20), times(arrivals, 20));
    }
}
