//! Who asks for what, and when: streams of requests from a seed.

use crate::core::catalog::ModelId;
use crate::core::event::{AppId, ClassId};
use crate::time::Timestamp;
use crate::units::{Nanos, Ppm};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;

/// How the requests of a stream are spaced.
#[derive(Debug, Clone, PartialEq)]
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
    /// At recorded moments, ascending, counted from the start of the stream.
    Trace(Arc<[Nanos]>),
}

/// A window in which the requests of a stream come faster, or slower. A trace is as it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spike {
    /// Its start.
    pub from: Timestamp,
    /// Its end.
    pub until: Timestamp,
    /// How many times as fast; above zero.
    pub factor: f64,
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
    /// Windows of another rate; where they overlap their factors multiply.
    pub spikes: Vec<Spike>,
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
            spikes: Vec::new(),
        }
    }

    /// The moment at which `span` of the stream's usual time has passed since `from`: inside a spike its time runs
    /// `factor` times as fast, so that the mean rate changes at the very edges, in the middle of a gap too.
    fn onward(&self, from: Timestamp, span: Nanos) -> Timestamp {
        let (mut now, mut left) = (from, span);
        // Every round passes an edge.
        for _ in 0..=2 * self.spikes.len() {
            let inside = |spike: &&Spike| spike.from <= now && now < spike.until;
            let pace: f64 = self.spikes.iter().filter(inside).map(|spike| spike.factor).product();
            let edges = self.spikes.iter().flat_map(|spike| [spike.from, spike.until]);
            let edge = edges.filter(|edge| *edge > now).min();
            let there = Nanos::from_f64(left.as_f64() / pace);
            match edge {
                Some(edge) if now.after(there) > edge => {
                    left = left.saturating_sub(Nanos::from_f64(edge.since(now).as_f64() * pace));
                    now = edge;
                }
                _ => return now.after(there),
            }
        }
        now
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
    /// Position in a trace.
    taken: usize,
}

/// Streams that begin anew, until a day is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeat {
    /// From one beginning to the next; above zero.
    pub every: Nanos,
    /// First moment without requests.
    pub until: Timestamp,
}

/// Streams merged in time. Each draws from a generator of its own, so that a change of one moves no other.
#[derive(Debug, Clone)]
pub struct Workload {
    streams: Vec<Stream>,
    sources: Vec<Source>,
    seed: u64,
    repeat: Option<Repeat>,
    /// Times that the streams have begun anew.
    round: u64,
}

impl Workload {
    /// These streams, from a seed.
    #[must_use]
    pub fn new(streams: Vec<Stream>, seed: u64) -> Self {
        Self { sources: sources(&streams, seed), streams, seed, repeat: None, round: 0 }
    }

    /// These streams again and again, each time with other luck. They must end before they begin anew: what would
    /// come later is left out.
    #[must_use]
    pub fn repeated(mut streams: Vec<Stream>, seed: u64, repeat: Repeat) -> Self {
        for stream in &mut streams {
            stream.until = stream.until.min(repeat.until);
        }
        let mut workload = Self { repeat: Some(repeat), ..Self::new(streams, seed) };
        workload.begin_anew();
        workload
    }

    /// Begins the streams anew when all that they had has come, as often as it takes until one has something.
    fn begin_anew(&mut self) {
        let Some(Repeat { every, until }) = self.repeat else { return };
        while self.next_at().is_none() && self.streams.iter().any(|stream| stream.from.after(every) < until) {
            self.round += 1;
            for stream in &mut self.streams {
                stream.from = stream.from.after(every);
                stream.until = stream.until.after(every).min(until);
                for spike in &mut stream.spikes {
                    (spike.from, spike.until) = (spike.from.after(every), spike.until.after(every));
                }
            }
            let luck = self.seed ^ self.round.wrapping_mul(0xd1b5_4a32_d192_ed03);
            self.sources = sources(&self.streams, luck);
        }
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
        self.begin_anew();
        Some(Arrival { at, stream, quits_at })
    }
}

/// Where each stream stands before its first request.
fn sources(streams: &[Stream], seed: u64) -> Vec<Source> {
    let source = |(index, stream): (usize, &Stream)| {
        let salt = (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let rng = Xoshiro256PlusPlus::seed_from_u64(seed ^ salt);
        let mut source = Source { rng, next: stream.from, left: 0, pending: None, taken: 0 };
        if matches!(stream.arrivals, Arrivals::Poisson { .. } | Arrivals::Bursts { .. }) {
            source.next = source.following(stream);
        }
        source.advance(stream);
        source
    };
    streams.iter().enumerate().map(source).collect()
}

impl Source {
    /// When the next period, request or burst comes after `self.next`; at least a nanosecond later, so that time
    /// passes.
    fn following(&mut self, stream: &Stream) -> Timestamp {
        let mean_s = match &stream.arrivals {
            Arrivals::Periodic { period, .. } => return self.later(stream, *period),
            Arrivals::Poisson { per_s } => 1.0 / per_s.max(1e-9),
            Arrivals::Bursts { every, .. } => every.as_secs_f64(),
            Arrivals::Trace(_) => return self.next,
        };
        let odds: f64 = self.rng.random();
        self.later(stream, Nanos::from_secs_f64(-mean_s * (1.0 - odds).ln()))
    }

    fn later(&self, stream: &Stream, gap: Nanos) -> Timestamp {
        let next =
            if stream.spikes.is_empty() { self.next.after(gap) } else { stream.onward(self.next, gap) };
        next.max(self.next.after(Nanos(1)))
    }

    fn advance(&mut self, stream: &Stream) {
        let at = match &stream.arrivals {
            Arrivals::Periodic { jitter, .. } => {
                let share: f64 = self.rng.random();
                let at = self.next.after(Nanos::from_secs_f64(jitter.as_secs_f64() * share));
                self.next = self.following(stream);
                Some(at)
            }
            Arrivals::Poisson { .. } => {
                let at = self.next;
                self.next = self.following(stream);
                Some(at)
            }
            Arrivals::Bursts { size, .. } => {
                if self.left == 0 {
                    self.left = (*size).max(1);
                }
                let at = self.next;
                self.left -= 1;
                if self.left == 0 {
                    self.next = self.following(stream);
                }
                Some(at)
            }
            Arrivals::Trace(moments) => {
                let at = moments.get(self.taken).map(|moment| stream.from.after(*moment));
                self.taken += 1;
                at
            }
        };
        // Jitter above the period must not send time backwards.
        let at = at.map(|at| self.pending.map_or(at, |before| at.max(before)));
        self.pending = at.filter(|at| *at < stream.until);
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
        assert_eq!(times(arrivals.clone(), 20), times(arrivals, 20));
    }

    #[test]
    fn a_trace_comes_as_recorded() {
        let recorded: Arc<[Nanos]> = [5, 5, 70, 2000].map(Nanos::from_millis).into();
        let at = |ms| Timestamp::ZERO.after(Nanos::from_millis(ms));
        // The last is after the end of the stream.
        assert_eq!(times(Arrivals::Trace(recorded), 1), [at(5), at(5), at(70)]);
    }

    /// Two recorded requests and a camera for 1 s, begun anew every 2 s until 5 s: what comes in the fifth second
    /// is cut off.
    #[test]
    fn streams_begin_anew_until_the_day_is_full() {
        let ms = Nanos::from_millis;
        let trace = Stream::plain(Arrivals::Trace([ms(100), ms(1900)].into()), Nanos::from_secs(2));
        let camera = Arrivals::Periodic { period: ms(500), jitter: Nanos::ZERO };
        let streams = vec![trace, Stream::plain(camera, Nanos::from_secs(1))];
        let at = |ms| Timestamp::ZERO.after(Nanos::from_millis(ms));
        let repeat = Repeat { every: Nanos::from_secs(2), until: at(5000) };
        let mut workload = Workload::repeated(streams, 7, repeat);
        let all: Vec<Timestamp> = std::iter::from_fn(|| workload.take()).map(|arrival| arrival.at).collect();
        assert_eq!(
            all,
            [0, 100, 500, 1900, 2000, 2100, 2500, 3900, 4000, 4100, 4500].map(at),
            "the last at 5900 is after the end"
        );
    }

    #[test]
    fn each_round_has_luck_of_its_own() {
        let stream = Stream::plain(Arrivals::Poisson { per_s: 20.0 }, Nanos::from_secs(10));
        let until = Timestamp::ZERO.after(Nanos::from_secs(20));
        let mut workload = Workload::repeated(vec![stream], 3, Repeat { every: Nanos::from_secs(10), until });
        let all: Vec<Nanos> =
            std::iter::from_fn(|| workload.take()).map(|a| a.at.since(Timestamp::ZERO)).collect();
        let (first, second): (Vec<_>, Vec<_>) = all.into_iter().partition(|at| *at < Nanos::from_secs(10));
        let second: Vec<Nanos> = second.iter().map(|at| at.saturating_sub(Nanos::from_secs(10))).collect();
        assert!(first.len() > 100 && second.len() > 100 && first != second);
    }

    /// Four times as fast from 2 s to 3 s, half as fast from 4 s on.
    #[test]
    fn spikes_multiply_the_rate_from_edge_to_edge() {
        let at = |s: f64| Timestamp::ZERO.after(Nanos::from_secs_f64(s));
        let spike = |from, until, factor| Spike { from: at(from), until: at(until), factor };
        let camera = Arrivals::Periodic { period: Nanos::from_millis(300), jitter: Nanos::ZERO };
        let spikes = vec![spike(2.0, 3.0, 4.0), spike(4.0, 9.0, 0.5)];
        let stream =
            |arrivals| Stream { spikes: spikes.clone(), ..Stream::plain(arrivals, Nanos::from_secs(6)) };
        let count = |arrivals, from: f64, until: f64| {
            let mut workload = Workload::new(vec![stream(arrivals)], 7);
            let all = std::iter::from_fn(|| workload.take()).map(|arrival| arrival.at);
            all.filter(|moment| (at(from)..at(until)).contains(moment)).count()
        };
        // The period that 2 s cuts: from 1.8 s on 0.2 s at the usual pace, then 0.1 s at four times it.
        let mut workload = Workload::new(vec![stream(camera.clone())], 7);
        let all: Vec<Timestamp> = std::iter::from_fn(|| workload.take()).map(|arrival| arrival.at).collect();
        assert_eq!(all[7], at(2.025), "{all:?}");
        // 1 s at a fourth of 300 ms.
        assert_eq!(count(camera, 2.0, 3.0), 13);
        // 4000 and 1000 expected: within four standard deviations of 63 and 32.
        let (fast, usual) = (
            count(Arrivals::Poisson { per_s: 1000.0 }, 2.0, 3.0),
            count(Arrivals::Poisson { per_s: 1000.0 }, 3.0, 4.0),
        );
        assert!((3747..4253).contains(&fast) && (873..1127).contains(&usual), "{fast} {usual}");
    }
}
