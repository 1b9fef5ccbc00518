use super::*;
use crate::board::BoardSpec;
use crate::board::sim::{PlantSpec, SimBoard};
use crate::exec::{DataType, Tensor};
use crate::time::{Clock, MonotonicClock, Timestamp};
use crate::units::Nanos;
use std::path::PathBuf;
use std::sync::mpsc;

/// Answers with its input after a signal, or at once; refuses variant 9.
struct Echo {
    gate: Option<mpsc::Receiver<()>>,
    cancelled: Arc<Flag>,
}

#[derive(Default)]
struct Flag(Mutex<Option<BatchId>>);

impl Cancel for Flag {
    fn cancel(&self, batch: BatchId) {
        *self.0.lock().unwrap() = Some(batch);
    }
}

struct Anything;

impl Loader for Anything {
    fn load(&self, variant: &VariantFile) -> Result<Bytes, ExecError> {
        if variant.id == VariantId(9) {
            return Err(ExecError::Provider { variant: variant.name.clone(), message: "no".to_owned() });
        }
        Ok(Bytes(1234))
    }
    fn unload(&self, _: VariantId) {}
}

impl Executor for Echo {
    fn loader(&self) -> Arc<dyn Loader> {
        Arc::new(Anything)
    }
    fn run(&mut self, batch: &Batch) -> Result<Output, ExecError> {
        if let Some(gate) = &self.gate {
            gate.recv().unwrap();
        }
        if batch.requests.is_empty() {
            return Err(ExecError::Provider { variant: "v".to_owned(), message: "empty".to_owned() });
        }
        Ok(Output { requests: batch.requests.clone(), energy: None })
    }
    fn canceller(&self) -> Arc<dyn Cancel> {
        Arc::clone(&self.cancelled) as Arc<dyn Cancel>
    }
}

/// Time that passes `factor` times as fast.
struct Fast(MonotonicClock, u64);

impl Clock for Fast {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.now().0.saturating_mul(self.1))
    }
}

fn board() -> SimBoard {
    let spec: BoardSpec = toml::from_str(include_str!("../../../config/boards/jetson-tx2.toml")).unwrap();
    let clock = Arc::new(Fast(MonotonicClock::start(), 100));
    SimBoard::new(Arc::new(PlantSpec::from_board(&spec).unwrap()), 7, clock)
}

fn variant(id: u16, macs: u64) -> VariantFile {
    VariantFile {
        id: VariantId(id),
        name: format!("model/v{id}"),
        path: PathBuf::from("/nonexistent"),
        sha256: String::new(),
        inputs: Arc::from([]),
        outputs: Arc::from([]),
        macs,
        traffic_bytes: 1,
        precision: "fp32".to_owned(),
    }
}

fn batch(id: u64, variant: u16, items: usize) -> Batch {
    let tensor =
        Tensor { dtype: DataType::Uint8, shape: vec![items], data: bytes::Bytes::from(vec![1_u8; items]) };
    Batch { id: BatchId(id), variant: VariantId(variant), requests: vec![vec![tensor]] }
}

fn echo() -> Echo {
    Echo { gate: None, cancelled: Arc::default() }
}

#[test]
fn outputs_are_the_real_ones_and_energy_is_the_simulated_boards() {
    let board = board();
    let gpu = board.spec().unit_named("gpu").unwrap();
    let mut lane = SimExecutor::new(echo(), Arc::new(board.clone()), gpu);
    assert_eq!(lane.load(&variant(1, 1_000_000)).unwrap(), Bytes(1234));
    let sent = batch(1, 1, 2);
    let output = lane.run(&sent).unwrap();
    assert_eq!(output.requests, sent.requests);
    assert!(output.energy.unwrap().0 > 0);
    assert_eq!(board.stats().finished, 1);
}

#[test]
fn what_is_not_loaded_does_not_run() {
    let board = board();
    let mut lane = SimExecutor::new(echo(), Arc::new(board), UnitId(0));
    assert!(matches!(lane.run(&batch(1, 1, 1)), Err(ExecError::NotLoaded(VariantId(1)))));
    assert!(lane.load(&variant(9, 1)).is_err());
    assert!(matches!(lane.run(&batch(1, 9, 1)), Err(ExecError::NotLoaded(VariantId(9)))));
    lane.load(&variant(1, 1)).unwrap();
    lane.unload(VariantId(1));
    assert!(matches!(lane.run(&batch(1, 1, 1)), Err(ExecError::NotLoaded(VariantId(1)))));
}

#[test]
fn a_real_failure_frees_the_simulated_processor() {
    let board = board();
    let mut lane = SimExecutor::new(echo(), Arc::new(board.clone()), UnitId(0));
    lane.load(&variant(1, u64::MAX)).unwrap();
    let empty = Batch { id: BatchId(1), variant: VariantId(1), requests: Vec::new() };
    assert!(matches!(lane.run(&empty), Err(ExecError::Provider { .. })));
    assert_eq!(board.stats().aborted, 1);
    lane.load(&variant(2, 1)).unwrap();
    lane.run(&batch(2, 2, 1)).unwrap();
}

#[test]
fn a_run_that_waits_for_the_simulated_board_can_be_cancelled() {
    let board = board();
    let inner = echo();
    let seen = Arc::clone(&inner.cancelled);
    let mut lane = SimExecutor::new(inner, Arc::new(board.clone()), UnitId(0));
    // Work of centuries: only the cancel can end it.
    lane.load(&variant(1, u64::MAX)).unwrap();
    let canceller = lane.canceller();
    let runner = std::thread::spawn(move || lane.run(&batch(5, 1, 1)));
    while runner_is_not_in(&board) {
        std::thread::yield_now();
    }
    canceller.cancel(BatchId(4));
    assert!(!runner_is_not_in(&board), "another batch's cancel is a no-op");
    canceller.cancel(BatchId(5));
    assert!(matches!(runner.join().unwrap(), Err(ExecError::Cancelled)));
    assert_eq!(*seen.0.lock().unwrap(), Some(BatchId(5)));
    assert_eq!(board.stats().aborted, 1);
}

fn runner_is_not_in(board: &SimBoard) -> bool {
    board.with(|plant, now| {
        plant.advance(now);
        plant.running() == 0
    })
}

#[test]
fn a_real_run_slower_than_the_simulated_one_is_counted() {
    let board = board();
    let (open, gate) = mpsc::sync_channel(1);
    let inner = Echo { gate: Some(gate), cancelled: Arc::default() };
    let mut lane = SimExecutor::new(inner, Arc::new(board.clone()), UnitId(0));
    lane.load(&variant(1, 1)).unwrap();
    let overruns = lane.overruns();
    let runner = std::thread::spawn(move || lane.run(&batch(1, 1, 1)).map(|_| ()));
    while board.stats().finished == 0 {
        std::thread::sleep(Nanos::from_millis(1).into());
    }
    open.send(()).unwrap();
    runner.join().unwrap().unwrap();
    assert_eq!(overruns.load(Ordering::Relaxed), 1);
}
