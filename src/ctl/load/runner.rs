//! Running a scenario.
//!
//! Open loop: arrival k has an intended moment that does not depend on how earlier requests fare, and
//! its latency counts from there. So a server that stalls is charged for every request that would have
//! arrived meanwhile (no coordinated omission). At most `outstanding` requests of an application are
//! unanswered at a time; further arrivals wait, their latency running. Whatever still waits when the run
//! is over is recorded as unsent: no arrival is dropped silently.
//! Closed loop: each client sends as soon as it has its answer.

use crate::ctl::load::arrivals::Arrivals;
use crate::ctl::load::scenario::{App, Arrival, Scenario};
use crate::ctl::load::target::{Ask, Inputs, Picked, Reply, Target};
use crate::ctl::load::timebase::Timebase;
use crate::ctl::record::{EndLine, Line, NoteLine, Outcome, RequestLine, ServedLine, StatusLine};
use crate::time::Timestamp;
use crate::units::Nanos;
use rand::SeedableRng as _;
use rand::rngs::ChaCha8Rng;
use std::num::NonZeroU64;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Time between two looks at the daemon's state.
const STATUS_EVERY: Nanos = Nanos::from_millis(500);
/// Lines on their way to the record.
const LINES: usize = 1024;
/// Shortest and longest pause of a closed-loop client that was turned away.
const PAUSE: (Nanos, Nanos) = (Nanos::from_millis(1), Nanos::from_secs(1));
/// Pause of a closed-loop client after a failure: a dead server is not hammered.
const FAILURE_PAUSE: Nanos = Nanos::from_millis(100);
/// Least time that an answer is waited for.
const PATIENCE: Nanos = Nanos::from_secs(10);

/// A run in progress.
#[derive(Debug)]
pub struct Running {
    /// Everything that happens, ended by [`Line::End`].
    pub lines: mpsc::Receiver<Line>,
    /// Ends the run early: nothing new is sent, and what is outstanding is waited for.
    pub stop: CancellationToken,
}

/// An application with all it needs.
struct Client<T, B> {
    app: App,
    /// Deadline that misses are judged by: the application's own, or else its class's.
    judged: Option<Nanos>,
    inputs: Arc<dyn Inputs>,
    target: Arc<T>,
    base: Arc<B>,
    origin: Timestamp,
    lines: mpsc::Sender<Line>,
    stop: CancellationToken,
}

/// What an application of the scenario gets its inputs from, and its class's latency objective.
#[derive(Clone)]
pub struct Supply {
    /// Inputs.
    pub inputs: Arc<dyn Inputs>,
    /// Deadline where the application names none.
    pub class_latency: Option<Nanos>,
}

/// Starts a scenario; `supplies` are in the order of its applications.
pub fn start<T: Target, B: Timebase>(
    scenario: &Scenario,
    supplies: &[Supply],
    target: &Arc<T>,
    base: &Arc<B>,
    seed: u64,
) -> Running {
    let (lines, received) = mpsc::channel(LINES);
    let stop = CancellationToken::new();
    let origin = base.now();
    let mut tasks = JoinSet::new();
    for ((app, supply), stream) in scenario.apps.iter().zip(supplies).zip(0_u64..) {
        let client = Arc::new(Client {
            app: app.clone(),
            judged: app.deadline.or(supply.class_latency),
            inputs: Arc::clone(&supply.inputs),
            target: Arc::clone(target),
            base: Arc::clone(base),
            origin,
            lines: lines.clone(),
            stop: stop.clone(),
        });
        match app.arrival {
            Arrival::Closed(clients) => {
                for index in 0..u64::from(clients) {
                    tasks.spawn(Arc::clone(&client).closed(rng(seed, (stream << 32) + index)));
                }
            }
            Arrival::Periodic(_) | Arrival::Poisson(_) => {
                let arrivals = Arrivals::new(app.arrival, seed, stream << 32);
                // The choice of inputs must not change with the kind of arrival.
                tasks.spawn(client.open(arrivals, rng(seed, (stream << 32) + 1)));
            }
        }
    }
    let supervisor =
        Supervisor { target: Arc::clone(target), base: Arc::clone(base), origin, lines, stop: stop.clone() };
    tokio::spawn(supervisor.watch(tasks, scenario.notes.clone()));
    Running { lines: received, stop }
}

fn rng(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng
}

/// Watches the daemon and the clients.
struct Supervisor<T, B> {
    target: Arc<T>,
    base: Arc<B>,
    origin: Timestamp,
    lines: mpsc::Sender<Line>,
    stop: CancellationToken,
}

impl<T: Target, B: Timebase> Supervisor<T, B> {
    /// Looks at the daemon's state and writes down happenings until all clients are done.
    async fn watch(self, mut tasks: JoinSet<()>, notes: Vec<crate::ctl::load::scenario::Note>) {
        let mut notes: Vec<_> = notes.into_iter().rev().collect();
        notes.sort_by_key(|note| std::cmp::Reverse(note.at));
        let mut due = Nanos::ZERO;
        let mut states_missed = 0;
        loop {
            tokio::select! {
                joined = tasks.join_next() => if joined.is_none() { break },
                () = self.base.until(self.origin.after(due)) => {
                    states_missed += u32::from(!self.look().await);
                    due = due.saturating_add(STATUS_EVERY).max(self.base.now().since(self.origin));
                }
            }
            let now = self.base.now().since(self.origin);
            while let Some(note) = notes.pop_if(|note| note.at <= now) {
                self.send(Line::Note(NoteLine { t_us: note.at.as_micros(), text: note.text })).await;
            }
        }
        states_missed += u32::from(!self.look().await);
        let t_us = self.base.now().since(self.origin).as_micros();
        self.send(Line::End(EndLine { t_us, interrupted: self.stop.is_cancelled(), states_missed })).await;
    }

    /// Records the daemon's state; whether it could be had.
    async fn look(&self) -> bool {
        let Ok(status) = self.target.status().await else { return false };
        let t_us = self.base.now().since(self.origin).as_micros();
        self.send(Line::Status(StatusLine { t_us, status: Box::new(status) })).await;
        true
    }

    async fn send(&self, line: Line) {
        // The receiver is gone only when the whole run was given up.
        let _ = self.lines.send(line).await;
    }
}

impl<T: Target, B: Timebase> Client<T, B> {
    async fn open(self: Arc<Self>, arrivals: Arrivals, mut rng: ChaCha8Rng) {
        let permits = Arc::new(Semaphore::new(self.app.outstanding as usize));
        let mut sent = JoinSet::new();
        let give_up = self.origin.after(self.app.end).after(self.patience());
        for moment in arrivals {
            let at = self.app.start.saturating_add(moment);
            if at >= self.app.end || self.wait(at).await.is_break() {
                break;
            }
            while sent.try_join_next().is_some() {}
            let picked = self.inputs.pick(&mut rng, self.app.batch);
            let permit = tokio::select! {
                permit = Arc::clone(&permits).acquire_owned() => permit.ok(),
                () = self.base.until(give_up) => None,
            };
            if let Some(permit) = permit {
                let client = Arc::clone(&self);
                sent.spawn(async move {
                    client.request(at, picked).await;
                    drop(permit);
                });
            } else {
                self.record(at, Nanos::ZERO, None, Outcome::Unsent).await;
            }
        }
        while sent.join_next().await.is_some() {}
    }

    async fn closed(self: Arc<Self>, mut rng: ChaCha8Rng) {
        if self.wait(self.app.start).await.is_break() {
            return;
        }
        loop {
            let at = self.base.now().since(self.origin);
            if at >= self.app.end || self.stop.is_cancelled() {
                return;
            }
            let picked = self.inputs.pick(&mut rng, self.app.batch);
            let pause = self.request(at, picked).await;
            if pause > Nanos::ZERO
                && self.wait(self.base.now().since(self.origin).saturating_add(pause)).await.is_break()
            {
                return;
            }
        }
    }

    /// Waits until `at` of the run; breaks if the run is stopped before.
    async fn wait(&self, at: Nanos) -> std::ops::ControlFlow<()> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => std::ops::ControlFlow::Break(()),
            () = self.base.until(self.origin.after(at)) => std::ops::ControlFlow::Continue(()),
        }
    }

    /// Sends a request, waits for its end and records it. Returns how long a closed-loop client should
    /// pause before the next.
    async fn request(&self, at: Nanos, picked: Picked) -> Nanos {
        let delay = self.base.now().since(self.origin.after(at));
        let ask = Ask {
            model: self.app.model.clone(),
            inputs: picked.inputs,
            // What is left of it: the time spent waiting here is gone.
            deadline: self
                .app
                .deadline
                .map(|deadline| deadline.saturating_sub(delay).max(Nanos::from_micros(1))),
            min_accuracy: self.app.min_accuracy,
            max_energy_uj: self.app.max_energy_uj,
            variant: self.app.variant.clone(),
            class: self.app.class.clone(),
        };
        let give_up = self.base.now().after(self.patience());
        let reply = tokio::select! {
            reply = self.target.infer(ask) => reply,
            () = self.base.until(give_up) => {
                Reply::Failed(format!("no answer within {:.1} s", self.patience().as_secs_f64()))
            }
        };
        let request = match &reply {
            Reply::Answer { request, .. } | Reply::Rejected { request, .. } => request.map(NonZeroU64::get),
            Reply::Failed(_) => None,
        };
        let (outcome, pause) = match reply {
            Reply::Answer { outputs, served, .. } => {
                let (scored, correct) = self.inputs.score(&outputs, &picked.labels);
                (Outcome::Served(ServedLine { scored, correct, ..served }), Nanos::ZERO)
            }
            Reply::Rejected { reason, retry_after, .. } => {
                (Outcome::Rejected { reason }, retry_after.unwrap_or(PAUSE.0).clamp(PAUSE.0, PAUSE.1))
            }
            Reply::Failed(message) => (Outcome::Failed { message }, FAILURE_PAUSE),
        };
        self.record(at, delay, request, outcome).await;
        pause
    }

    async fn record(&self, at: Nanos, delay: Nanos, request_id: Option<u64>, outcome: Outcome) {
        let latency = self.base.now().since(self.origin.after(at));
        let late = self.judged.is_some_and(|deadline| latency > deadline);
        let line = RequestLine {
            t_us: at.as_micros(),
            delay_us: delay.as_micros(),
            latency_us: latency.as_micros(),
            app: self.app.name.clone(),
            items: self.app.batch,
            missed: late && matches!(outcome, Outcome::Served(_)),
            request_id,
            outcome,
        };
        let _ = self.lines.send(Line::Request(line)).await;
    }

    /// How long an answer is waited for: long after it is of use.
    fn patience(&self) -> Nanos {
        PATIENCE.max(Nanos(self.judged.unwrap_or(Nanos::ZERO).0.saturating_mul(4)))
    }
}

#[cfg(test)]
mod tests;
