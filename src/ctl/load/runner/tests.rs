//! In virtual time: the runtime's clock jumps to the next timer, so nothing here takes real time.

use super::*;
use crate::ctl::status::Status;
use std::num::NonZeroU64;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::time::{Duration, Instant, sleep};

struct PausedTime(Instant);

impl Timebase for PausedTime {
    fn now(&self) -> Timestamp {
        Timestamp(Nanos::from(self.0.elapsed()).0)
    }

    async fn until(&self, at: Timestamp) {
        tokio::time::sleep_until(self.0 + Duration::from_nanos(at.0)).await;
    }
}

/// A server that works on one request at a time and stalls once.
struct Server {
    service: Duration,
    stall: Option<(Duration, Duration)>,
    started: Instant,
    busy: tokio::sync::Mutex<()>,
    open: AtomicU32,
    most_open: AtomicU32,
    deadlines: Mutex<Vec<Option<Nanos>>>,
    reply: fn(u32) -> Reply,
    count: AtomicU32,
}

fn answer(_: u32) -> Reply {
    let served = ServedLine { variant: "v".into(), ..ServedLine::default() };
    Reply::Answer { outputs: Vec::new(), served, request: NonZeroU64::new(4) }
}

impl Server {
    fn new(service_ms: u64) -> Self {
        Self {
            service: Duration::from_millis(service_ms),
            stall: None,
            started: Instant::now(),
            busy: tokio::sync::Mutex::new(()),
            open: AtomicU32::new(0),
            most_open: AtomicU32::new(0),
            deadlines: Mutex::new(Vec::new()),
            reply: answer,
            count: AtomicU32::new(0),
        }
    }
}

impl Target for Server {
    async fn infer(&self, ask: Ask) -> Reply {
        self.deadlines.lock().unwrap().push(ask.deadline);
        let open = self.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_open.fetch_max(open, Ordering::SeqCst);
        let turn = self.busy.lock().await;
        if let Some((at, length)) = self.stall {
            let elapsed = self.started.elapsed();
            if elapsed >= at && elapsed < at + length {
                sleep(at + length - elapsed).await;
            }
        }
        sleep(self.service).await;
        drop(turn);
        self.open.fetch_sub(1, Ordering::SeqCst);
        (self.reply)(self.count.fetch_add(1, Ordering::SeqCst))
    }

    async fn status(&self) -> Result<Status, String> {
        Ok(Status::default())
    }
}

/// Every item's label is 1; the first of each request is right.
struct Labels;

impl Inputs for Labels {
    fn pick(&self, _: &mut ChaCha8Rng, items: u32) -> Picked {
        Picked { inputs: Vec::new(), labels: vec![1.0; items as usize] }
    }

    fn score(&self, _: &[crate::ctl::load::target::NamedTensor], labels: &[f64]) -> (u32, u32) {
        (u32::try_from(labels.len()).unwrap(), 1)
    }
}

fn scenario(app: &str) -> Scenario {
    Scenario::parse(&format!("title = \"t\"\n[[app]]\nname = \"a\"\nmodel = \"m\"\n{app}"), "x").unwrap()
}

async fn run(app: &str, server: Server) -> (Vec<RequestLine>, Vec<Line>, Arc<Server>) {
    run_until(&scenario(app), server, None).await
}

async fn run_until(
    scenario: &Scenario,
    server: Server,
    stop_at: Option<Duration>,
) -> (Vec<RequestLine>, Vec<Line>, Arc<Server>) {
    let (server, base) = (Arc::new(server), Arc::new(PausedTime(Instant::now())));
    let supply = Supply { inputs: Arc::new(Labels), class_latency: Some(Nanos::from_millis(50)) };
    let supplies = vec![supply; scenario.apps.len()];
    let mut running = start(scenario, &supplies, &server, &base, 7);
    if let Some(at) = stop_at {
        let stop = running.stop.clone();
        tokio::spawn(async move {
            sleep(at).await;
            stop.cancel();
        });
    }
    let (mut requests, mut others) = (Vec::new(), Vec::new());
    while let Some(line) = running.lines.recv().await {
        match line {
            Line::Request(request) => requests.push(request),
            other => others.push(other),
        }
    }
    requests.sort_by_key(|request| request.t_us);
    (requests, others, server)
}

#[tokio::test(start_paused = true)]
async fn a_stall_is_charged_to_every_request_that_arrived_meanwhile() {
    // 100 a second for 2 s, 1 ms each; the server stands still from 0.5 s to 1.0 s.
    let stall = Some((Duration::from_millis(500), Duration::from_millis(500)));
    let server = Server { stall, ..Server::new(1) };
    let app = "end_s = 2\narrival = \"periodic\"\nrate_hz = 100\noutstanding = 10";
    let (requests, _, server) = run(app, server).await;
    assert_eq!(requests.len(), 200);
    // Arrival k in the stall waits until 1.0 s: all of the about 45 that arrived more than 50 ms before
    // its end are late, and the first of them by the whole stall. A generator that waits for answers
    // would have seen one.
    let late = requests.iter().filter(|request| request.missed).count();
    assert!((44..=52).contains(&late), "{late} late");
    let longest = requests.iter().map(|request| request.latency_us).max().unwrap();
    assert!((495_000..=505_000).contains(&longest), "{longest} us");
    assert_eq!(server.most_open.load(Ordering::SeqCst), 10, "outstanding requests are bounded");
    assert!(requests.iter().any(|request| request.delay_us > 300_000), "waiting here counts as delay");
}

#[tokio::test(start_paused = true)]
async fn a_closed_loop_sends_when_answered() {
    let (requests, _, server) = run("end_s = 1\narrival = \"closed\"\nclients = 2", Server::new(10)).await;
    // One server, 10 ms each, for 1 s; both clients have one open at the end.
    assert!((100..=102).contains(&requests.len()), "{}", requests.len());
    assert_eq!(server.most_open.load(Ordering::SeqCst), 2);
    assert!(requests[4..].iter().all(|request| (19_000..=22_000).contains(&request.latency_us)));
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_sent_is_recorded() {
    // The server never answers within reason: 2 outstanding fail after the client's patience of 10 s.
    let server = Server::new(3_600_000);
    let (requests, others, _) =
        run("end_s = 1\narrival = \"periodic\"\nrate_hz = 10\noutstanding = 2", server).await;
    assert_eq!(requests.len(), 10);
    let count = |wanted: fn(&Outcome) -> bool| requests.iter().filter(|line| wanted(&line.outcome)).count();
    let failed = count(|outcome| matches!(outcome, Outcome::Failed { .. }));
    let unsent = count(|outcome| matches!(outcome, Outcome::Unsent));
    assert_eq!(failed + unsent, 10);
    assert!(failed >= 2 && unsent >= 4, "{failed} failed, {unsent} unsent");
    assert!(matches!(others.last(), Some(Line::End(EndLine { interrupted: false, .. }))));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_sent_is_what_is_left_of_it() {
    let app = "end_s = 0.1\narrival = \"periodic\"\nrate_hz = 100\noutstanding = 1\ndeadline_ms = 40";
    let (requests, _, server) = run(app, Server::new(20)).await;
    let deadlines = server.deadlines.lock().unwrap().clone();
    for (request, deadline) in requests.iter().zip(&deadlines) {
        let left = deadline.unwrap().as_micros();
        let expected = 40_000_u64.saturating_sub(request.delay_us).max(1);
        assert!(left.abs_diff(expected) <= 1, "{left} sent, {expected} left");
    }
    assert_eq!(deadlines.last(), Some(&Some(Nanos::from_micros(1))), "the last were long past it");
}

#[tokio::test(start_paused = true)]
async fn answers_are_scored_and_refusals_keep_their_reason() {
    let server = Server {
        reply: |index| match index % 3 {
            0 => answer(index),
            1 => Reply::Rejected {
                reason: "too_hot".into(),
                message: String::new(),
                retry_after: None,
                request: NonZeroU64::new(7),
            },
            _ => Reply::Failed("gone".into()),
        },
        ..Server::new(1)
    };
    let (requests, _, _) = run("end_s = 0.3\narrival = \"periodic\"\nrate_hz = 100\nbatch = 4", server).await;
    let served = requests.iter().filter_map(|line| match &line.outcome {
        Outcome::Served(served) => Some((served.scored, served.correct)),
        _ => None,
    });
    assert_eq!(served.collect::<Vec<_>>(), vec![(4, 1); 10]);
    let reason = Outcome::Rejected { reason: "too_hot".into() };
    assert_eq!(requests.iter().filter(|line| line.outcome == reason).count(), 10);
    let ids = |wanted| requests.iter().filter(|line| line.request_id == wanted).count();
    assert_eq!((ids(Some(4)), ids(Some(7)), ids(None)), (10, 10, 10), "the daemon's ids are kept");
}

#[tokio::test(start_paused = true)]
async fn states_come_twice_a_second_and_notes_in_time() {
    let text = "title = \"t\"\n[[app]]\nname = \"a\"\nmodel = \"m\"\nend_s = 5\narrival = \"closed\"\n\
                [[note]]\nat_s = 2\ntext = \"fan fails\"\n[[note]]\nat_s = 1\ntext = \"warm\"";
    let (_, others, _) = run_until(&Scenario::parse(text, "x").unwrap(), Server::new(10), None).await;
    let states = others.iter().filter(|line| matches!(line, Line::Status(_))).count();
    assert!((10..=12).contains(&states), "{states} states in 5 s");
    let notes: Vec<_> = others
        .iter()
        .filter_map(|line| match line {
            Line::Note(note) => Some((note.t_us, note.text.as_str())),
            _ => None,
        })
        .collect();
    assert_eq!(notes, [(1_000_000, "warm"), (2_000_000, "fan fails")]);
}

#[tokio::test(start_paused = true)]
async fn a_stopped_run_sends_no_more_and_says_so() {
    let scenario = scenario("end_s = 3600\narrival = \"poisson\"\nrate_hz = 50");
    let (requests, others, _) = run_until(&scenario, Server::new(1), Some(Duration::from_secs(2))).await;
    assert!((60..=140).contains(&requests.len()), "{} requests (seed 7)", requests.len());
    assert!(matches!(others.last(), Some(Line::End(EndLine { interrupted: true, .. }))));
}
