use super::*;
use crate::core::event::{BatchFailure, BatchId};
use crate::exec::DataType;
use crate::time::MonotonicClock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// What a test sees of a lane.
#[derive(Debug, PartialEq)]
enum Seen {
    Loaded(u16),
    LoadFailed(u16, String),
    Unloaded(u16),
    Completed(u64, Result<(), BatchFailure>, Option<String>),
    Probed(u64, Result<Vec<u32>, String>),
}

struct Events(SyncSender<Seen>);

impl Events {
    fn tell(&self, seen: Seen) {
        self.0.send(seen).unwrap();
    }
}

impl LaneEvents for Events {
    fn loaded(&self, _: UnitId, variant: VariantId, _: Bytes) {
        self.tell(Seen::Loaded(variant.0));
    }
    fn load_failed(&self, _: UnitId, variant: VariantId, error: &ExecError) {
        self.tell(Seen::LoadFailed(variant.0, error.to_string()));
    }
    fn unloaded(&self, _: UnitId, variant: VariantId) {
        self.tell(Seen::Unloaded(variant.0));
    }
    fn completed(&self, completion: Completion, result: Result<Output, ExecError>) {
        assert!(completion.started <= completion.finished);
        let message = result.err().map(|error| error.to_string());
        self.tell(Seen::Completed(completion.batch.0, completion.result, message));
    }
    fn probed(&self, _: UnitId, report: ProbeReport) {
        let runs = report.result.map(|runs| runs.iter().map(|run| run.items).collect());
        self.tell(Seen::Probed(report.id, runs.map_err(|error| error.to_string())));
    }
}

/// Waits in each run until the test lets it go on, and says that it began.
struct Gate {
    began: SyncSender<BatchId>,
    go: Receiver<()>,
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Cancel for Flag {
    fn cancel(&self, _: BatchId) {
        self.0.store(true, Ordering::SeqCst);
    }
}

struct Fake {
    gate: Option<Gate>,
    loader: Arc<FakeLoader>,
    cancelled: Arc<Flag>,
    is_thread_bound: bool,
    /// Names of the threads that ran batches.
    ran_on: Arc<Mutex<Vec<String>>>,
}

struct FakeLoader {
    loaded: Mutex<Vec<VariantId>>,
    /// The load of variant 50 waits for it.
    let_in: Mutex<Receiver<()>>,
}

impl Loader for FakeLoader {
    fn load(&self, variant: &VariantFile) -> Result<Bytes, ExecError> {
        assert!(variant.id.0 != 13, "unlucky");
        match variant.id.0 {
            50 => self.let_in.lock().unwrap().recv().unwrap(),
            99 => {
                return Err(ExecError::Provider { variant: variant.name.clone(), message: "no".to_owned() });
            }
            _ => {}
        }
        self.loaded.lock().unwrap().push(variant.id);
        Ok(Bytes(1))
    }
    fn unload(&self, variant: VariantId) {
        self.loaded.lock().unwrap().retain(|id| *id != variant);
    }
}

impl Executor for Fake {
    fn loader(&self) -> Arc<dyn Loader> {
        Arc::clone(&self.loader) as Arc<dyn Loader>
    }
    fn run(&mut self, batch: &Batch) -> Result<Output, ExecError> {
        self.ran_on.lock().unwrap().push(std::thread::current().name().unwrap_or_default().to_owned());
        if !self.loader.loaded.lock().unwrap().contains(&batch.variant) {
            return Err(ExecError::NotLoaded(batch.variant));
        }
        assert!(batch.id.0 != 13, "unlucky");
        if let Some(gate) = &self.gate {
            gate.began.send(batch.id).unwrap();
            while gate.go.recv_timeout(Duration::from_millis(1)).is_err() {
                if self.cancelled.0.swap(false, Ordering::SeqCst) {
                    return Err(ExecError::Cancelled);
                }
            }
        }
        Ok(Output { requests: batch.requests.clone(), energy: None })
    }
    fn canceller(&self) -> Arc<dyn Cancel> {
        Arc::clone(&self.cancelled) as Arc<dyn Cancel>
    }
    fn is_thread_bound(&self) -> bool {
        self.is_thread_bound
    }
}

struct Fixture {
    lane: Lane,
    seen: Receiver<Seen>,
    began: Receiver<BatchId>,
    go: SyncSender<()>,
    let_in: SyncSender<()>,
    ran_on: Arc<Mutex<Vec<String>>>,
}

fn fixture(gated: bool) -> Fixture {
    fixture_of(gated, true)
}

fn fixture_of(gated: bool, is_thread_bound: bool) -> Fixture {
    let (tell, seen) = sync_channel(100);
    let (tell_began, began) = sync_channel(100);
    let (go, wait_go) = sync_channel(100);
    let (let_in, wait_in) = sync_channel(100);
    let gate = gated.then_some(Gate { began: tell_began, go: wait_go });
    let ran_on = Arc::new(Mutex::new(Vec::new()));
    let names = Arc::clone(&ran_on);
    let make = move || {
        let cancelled = Arc::default();
        let loader = Arc::new(FakeLoader { loaded: Mutex::default(), let_in: Mutex::new(wait_in) });
        let fake = Fake { gate, loader, cancelled, is_thread_bound, ran_on: names };
        Ok(Box::new(fake) as Box<dyn Executor>)
    };
    let lane =
        Lane::spawn("fake", UnitId(3), make, Arc::new(Events(tell)), MonotonicClock::shared()).unwrap();
    Fixture { lane, seen, began, go, let_in, ran_on }
}

fn variant(id: u16) -> VariantFile {
    VariantFile {
        id: VariantId(id),
        name: format!("m/{id}"),
        path: "unused".into(),
        sha256: String::new(),
        inputs: Arc::new([]),
        outputs: Arc::new([]),
        macs: 0,
        traffic_bytes: 0,
        precision: String::new(),
    }
}

fn request(items: usize) -> Vec<Tensor> {
    vec![Tensor { dtype: DataType::Uint8, shape: vec![items], data: vec![0; items].into() }]
}

fn batch(id: u64, variant: u16) -> Batch {
    Batch { id: BatchId(id), variant: VariantId(variant), requests: vec![request(1)] }
}

fn done(id: u64) -> Seen {
    Seen::Completed(id, Ok(()), None)
}

fn cancelled(id: u64) -> Seen {
    Seen::Completed(id, Err(BatchFailure::Cancelled), Some("cancelled".to_owned()))
}

#[test]
fn orders_are_carried_out_in_order() {
    let Fixture { lane, seen, .. } = fixture(false);
    lane.load(variant(1)).unwrap();
    lane.load(variant(99)).unwrap();
    assert_eq!(seen.recv().unwrap(), Seen::Loaded(1));
    assert_eq!(seen.recv().unwrap(), Seen::LoadFailed(99, "m/99: no".to_owned()));
    lane.run(batch(1, 1)).unwrap();
    assert_eq!(seen.recv().unwrap(), done(1));
    lane.unload(VariantId(1)).unwrap();
    assert_eq!(seen.recv().unwrap(), Seen::Unloaded(1));
    lane.run(batch(2, 1)).unwrap();
    let Seen::Completed(2, Err(BatchFailure::NotLoaded), _) = seen.recv().unwrap() else { panic!() };
}

#[test]
fn batches_run_on_the_lanes_thread() {
    let Fixture { lane, seen, ran_on, .. } = fixture_of(false, false);
    lane.load(variant(1)).unwrap();
    assert_eq!(seen.recv().unwrap(), Seen::Loaded(1));
    lane.run(batch(1, 1)).unwrap();
    assert_eq!(seen.recv().unwrap(), done(1));
    assert_eq!(*ran_on.lock().unwrap(), ["lane-fake"]);
}

#[test]
fn a_load_does_not_hold_up_the_lane() {
    let Fixture { lane, seen, let_in, .. } = fixture(false);
    lane.load(variant(1)).unwrap();
    assert_eq!(seen.recv().unwrap(), Seen::Loaded(1));
    lane.load(variant(50)).unwrap();
    lane.unload(VariantId(1)).unwrap();
    for id in 1..=3 {
        lane.run(batch(id, 1)).unwrap();
        assert_eq!(
            seen.recv().unwrap(),
            done(id),
            "the load has not ended, and what waits behind it not begun"
        );
    }
    // So does a probe that is being loaded for.
    lane.probe(ProbeRequest { id: 7, variant: variant(50), runs: vec![vec![request(1)]], warm_ups: 0 })
        .unwrap();
    lane.run(batch(4, 1)).unwrap();
    assert_eq!(seen.recv().unwrap(), done(4));
    for _ in 0..2 {
        let_in.send(()).unwrap();
    }
    assert_eq!([seen.recv().unwrap(), seen.recv().unwrap()], [Seen::Loaded(50), Seen::Unloaded(1)]);
    assert_eq!(seen.recv().unwrap(), Seen::Probed(7, Ok(vec![1])));
}

#[test]
fn one_batch_waits_and_a_second_is_refused() {
    let Fixture { lane, seen, began, go, .. } = fixture(true);
    lane.load(variant(1)).unwrap();
    assert_eq!(seen.recv().unwrap(), Seen::Loaded(1));
    lane.run(batch(1, 1)).unwrap();
    assert_eq!(began.recv().unwrap(), BatchId(1));
    lane.run(batch(2, 1)).unwrap();
    assert_eq!(lane.run(batch(3, 1)), Err(Refused::Full));
    // Other orders still pass.
    lane.unload(VariantId(5)).unwrap();
    assert_eq!(seen.recv().unwrap(), Seen::Unloaded(5));
    go.send(()).unwrap();
    assert_eq!(began.recv().unwrap(), BatchId(2));
    lane.run(batch(4, 1)).unwrap();
    go.send(()).unwrap();
    go.send(()).unwrap();
    let order: Vec<Seen> = (0..3).map(|_| seen.recv().unwrap()).collect();
    assert_eq!(order, [done(1), done(2), done(4)]);
}

#[test]
fn what_waits_for_a_load_is_bounded() {
    let Fixture { lane, seen, let_in, .. } = fixture(false);
    lane.load(variant(50)).unwrap();
    // The first leaves the queue once its load begins.
    let ordered = (0..=QUEUE_LIMIT + 1).take_while(|_| lane.unload(VariantId(5)).is_ok()).count();
    assert!((QUEUE_LIMIT - 1..=QUEUE_LIMIT).contains(&ordered), "{ordered}");
    let_in.send(()).unwrap();
    assert_eq!(seen.recv().unwrap(), Seen::Loaded(50));
    (0..ordered).for_each(|_| assert_eq!(seen.recv().unwrap(), Seen::Unloaded(5)));
}

#[test]
fn a_waiting_batch_is_cancelled_in_the_queue_and_a_running_one_in_the_executor() {
    let Fixture { lane, seen, began, go, .. } = fixture(true);
    lane.load(variant(1)).unwrap();
    assert_eq!(seen.recv().unwrap(), Seen::Loaded(1));
    lane.run(batch(1, 1)).unwrap();
    began.recv().unwrap();
    lane.run(batch(2, 1)).unwrap();
    lane.cancel(BatchId(2));
    // Its place is free at once.
    lane.run(batch(3, 1)).unwrap();
    go.send(()).unwrap();
    assert_eq!(seen.recv().unwrap(), done(1));
    assert_eq!(seen.recv().unwrap(), cancelled(2));
    assert_eq!(began.recv().unwrap(), BatchId(3), "2 never ran");
    lane.cancel(BatchId(3));
    assert_eq!(seen.recv().unwrap(), cancelled(3));
}

#[test]
fn dropping_answers_everything_and_ends_the_thread() {
    let Fixture { lane, seen, began, go, .. } = fixture(true);
    lane.load(variant(1)).unwrap();
    assert_eq!(seen.recv().unwrap(), Seen::Loaded(1));
    lane.run(batch(1, 1)).unwrap();
    began.recv().unwrap();
    lane.run(batch(2, 1)).unwrap();
    let probe = ProbeRequest { id: 7, variant: variant(1), runs: vec![vec![request(1)]], warm_ups: 0 };
    lane.probe(probe).unwrap();
    drop(lane);
    let (probes, batches): (Vec<Seen>, Vec<Seen>) =
        seen.into_iter().partition(|seen| matches!(seen, Seen::Probed(..)));
    assert_eq!(batches, [cancelled(1), cancelled(2)]);
    assert_eq!(probes, [Seen::Probed(7, Err("cancelled".to_owned()))]);
    drop(go);
}

#[test]
fn a_panic_of_the_executor_costs_its_batch_only() {
    let Fixture { lane, seen, .. } = fixture(false);
    lane.load(variant(1)).unwrap();
    lane.load(variant(13)).unwrap();
    assert_eq!(seen.recv().unwrap(), Seen::Loaded(1));
    assert_eq!(seen.recv().unwrap(), Seen::LoadFailed(13, "m/13: panicked: unlucky".to_owned()));
    lane.run(batch(13, 1)).unwrap();
    let Seen::Completed(13, Err(BatchFailure::Provider), Some(message)) = seen.recv().unwrap() else {
        panic!()
    };
    assert!(message.contains("unlucky"), "{message}");
    lane.run(batch(14, 1)).unwrap();
    assert_eq!(seen.recv().unwrap(), done(14));
}

#[test]
fn an_executor_that_cannot_be_made_is_no_lane() {
    let (tell, _seen) = sync_channel(1);
    let events: Arc<dyn LaneEvents> = Arc::new(Events(tell));
    let spawn = |make: fn() -> Result<Box<dyn Executor>, BoxError>| {
        Lane::spawn("bad", UnitId(0), make, Arc::clone(&events), MonotonicClock::shared())
            .unwrap_err()
            .to_string()
    };
    assert_eq!(spawn(|| Err("no such provider".into())), "lane bad: no such provider");
    assert!(spawn(|| panic!("boom")).contains("boom"));
}

#[test]
fn a_probe_gives_way_between_its_runs() {
    let Fixture { lane, seen, began, go, .. } = fixture(true);
    let runs = vec![vec![request(1)], vec![request(1)], vec![request(2), request(3)]];
    lane.probe(ProbeRequest { id: 5, variant: variant(1), runs, warm_ups: 1 }).unwrap();
    assert_eq!(began.recv().unwrap(), PROBE_BATCH, "the warm-up");
    lane.load(variant(2)).unwrap();
    assert_eq!(seen.recv().unwrap(), Seen::Loaded(2));
    lane.run(batch(1, 2)).unwrap();
    go.send(()).unwrap();
    // The batch that came during the warm-up goes before the first run.
    assert_eq!(began.recv().unwrap(), BatchId(1));
    go.send(()).unwrap();
    assert_eq!(seen.recv().unwrap(), done(1));
    for _ in 0..3 {
        assert_eq!(began.recv().unwrap(), PROBE_BATCH);
        go.send(()).unwrap();
    }
    assert_eq!(seen.recv().unwrap(), Seen::Probed(5, Ok(vec![1, 1, 5])));
    // It was loaded for the probe alone: what is ordered next finds it gone.
    lane.unload(VariantId(9)).unwrap();
    assert_eq!(seen.recv().unwrap(), Seen::Unloaded(9));
    lane.run(batch(2, 1)).unwrap();
    let Seen::Completed(2, Err(BatchFailure::NotLoaded), _) = seen.recv().unwrap() else { panic!() };
}

#[test]
fn a_probe_leaves_loaded_what_the_core_ordered() {
    let Fixture { lane, seen, .. } = fixture(false);
    lane.load(variant(1)).unwrap();
    assert_eq!(seen.recv().unwrap(), Seen::Loaded(1));
    lane.probe(ProbeRequest { id: 6, variant: variant(1), runs: vec![vec![request(1)]], warm_ups: 2 })
        .unwrap();
    assert_eq!(seen.recv().unwrap(), Seen::Probed(6, Ok(vec![1])));
    lane.run(batch(1, 1)).unwrap();
    assert_eq!(seen.recv().unwrap(), done(1));
}

#[test]
fn a_failing_probe_is_reported_and_a_second_one_waits_its_turn() {
    let Fixture { lane, seen, .. } = fixture(false);
    lane.probe(ProbeRequest { id: 1, variant: variant(99), runs: vec![vec![request(1)]], warm_ups: 0 })
        .unwrap();
    assert_eq!(seen.recv().unwrap(), Seen::Probed(1, Err("m/99: no".to_owned())));
    lane.probe(ProbeRequest { id: 2, variant: variant(1), runs: Vec::new(), warm_ups: 0 }).unwrap();
    assert_eq!(seen.recv().unwrap(), Seen::Probed(2, Ok(Vec::new())));
}

/// Waits until the lane's thread sleeps, so that an order asks for somebody to be called.
fn enqueue_for_sleeper(lane: &Lane, batch: &Batch) {
    while lane.shared.queue().hands != Hands::Nobody {
        std::thread::yield_now();
    }
    assert_eq!(lane.enqueue(batch.clone()), Ok(true));
}

#[test]
fn a_caller_runs_a_batch_itself_while_the_thread_sleeps() {
    let Fixture { lane, seen, ran_on, .. } = fixture_of(false, false);
    lane.load(variant(1)).unwrap();
    assert_eq!(seen.recv().unwrap(), Seen::Loaded(1));
    for id in 1..=2 {
        enqueue_for_sleeper(&lane, &batch(id, 1));
        lane.run_here();
        assert_eq!(seen.try_recv(), Ok(done(id)), "done when the call returns");
    }
    // The thread is none the worse.
    lane.run(batch(3, 1)).unwrap();
    assert_eq!(seen.recv().unwrap(), done(3));
    let here = std::thread::current().name().unwrap().to_owned();
    assert_eq!(*ran_on.lock().unwrap(), [&here, &here, "lane-fake"]);
}

#[test]
fn a_thread_bound_executor_runs_on_its_thread_alone() {
    let Fixture { lane, seen, ran_on, .. } = fixture_of(false, true);
    lane.load(variant(1)).unwrap();
    assert_eq!(seen.recv().unwrap(), Seen::Loaded(1));
    enqueue_for_sleeper(&lane, &batch(1, 1));
    lane.run_here();
    assert_eq!(seen.recv().unwrap(), done(1));
    assert_eq!(*ran_on.lock().unwrap(), ["lane-fake"]);
}

#[test]
fn what_comes_before_the_batch_is_left_to_the_thread() {
    let Fixture { lane, seen, ran_on, .. } = fixture_of(false, false);
    lane.load(variant(1)).unwrap();
    assert_eq!(seen.recv().unwrap(), Seen::Loaded(1));
    enqueue_for_sleeper(&lane, &batch(1, 1));
    lane.cancel(BatchId(1));
    assert_eq!(lane.enqueue(batch(2, 1)), Ok(false), "somebody is called already");
    lane.run_here();
    assert_eq!([seen.recv().unwrap(), seen.recv().unwrap()], [cancelled(1), done(2)]);
    assert_eq!(*ran_on.lock().unwrap(), ["lane-fake"]);
}

#[test]
fn what_comes_while_a_caller_runs_waits_for_the_thread() {
    let Fixture { lane, seen, began, go, ran_on, .. } = fixture_of(true, false);
    lane.load(variant(1)).unwrap();
    assert_eq!(seen.recv().unwrap(), Seen::Loaded(1));
    enqueue_for_sleeper(&lane, &batch(1, 1));
    std::thread::scope(|scope| {
        let caller = std::thread::Builder::new().name("caller".to_owned());
        caller.spawn_scoped(scope, || lane.run_here()).unwrap();
        assert_eq!(began.recv().unwrap(), BatchId(1));
        lane.run(batch(2, 1)).unwrap();
        lane.probe(ProbeRequest { id: 7, variant: variant(1), runs: vec![vec![request(1)]], warm_ups: 0 })
            .unwrap();
        // Even if it is woken for no reason.
        lane.wake();
        lane.cancel(BatchId(1));
        assert_eq!(seen.recv().unwrap(), cancelled(1));
        for _ in 0..2 {
            go.send(()).unwrap();
        }
        assert_eq!([seen.recv().unwrap(), seen.recv().unwrap()], [done(2), Seen::Probed(7, Ok(vec![1]))]);
    });
    assert_eq!(*ran_on.lock().unwrap(), ["caller", "lane-fake", "lane-fake"]);
}

#[test]
fn a_lane_that_ends_waits_for_the_caller_that_runs() {
    let Fixture { lane, seen, began, go, .. } = fixture_of(true, false);
    lane.load(variant(1)).unwrap();
    assert_eq!(seen.recv().unwrap(), Seen::Loaded(1));
    enqueue_for_sleeper(&lane, &batch(1, 1));
    std::thread::scope(|scope| {
        scope.spawn(|| lane.run_here());
        assert_eq!(began.recv().unwrap(), BatchId(1));
        lane.run(batch(2, 1)).unwrap();
        lane.end();
        assert_eq!([seen.recv().unwrap(), seen.recv().unwrap()], [cancelled(1), cancelled(2)]);
    });
    assert_eq!(lane.run(batch(3, 1)), Err(Refused::Ending));
    drop(go);
}

#[test]
fn a_panic_in_a_callers_run_costs_its_batch_only() {
    let Fixture { lane, seen, .. } = fixture_of(false, false);
    lane.load(variant(1)).unwrap();
    assert_eq!(seen.recv().unwrap(), Seen::Loaded(1));
    enqueue_for_sleeper(&lane, &batch(13, 1));
    lane.run_here();
    let Seen::Completed(13, Err(BatchFailure::Provider), _) = seen.recv().unwrap() else { panic!() };
    enqueue_for_sleeper(&lane, &batch(14, 1));
    lane.run_here();
    assert_eq!(seen.recv().unwrap(), done(14));
}
