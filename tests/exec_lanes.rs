//! Lanes over the real ONNX Runtime: several at once, and profiling through one.

#![allow(clippy::unwrap_used, reason = "a failure here is the test's own")]

mod support;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use support::{batch, floats, fp32, mlp, slow, x8};
use wattd::core::catalog::{PowerModel, Provenance, UnitId, VariantId};
use wattd::core::event::{BatchFailure, BatchId, Completion};
use wattd::core::points::OperatingPoint;
use wattd::exec::lane::{BoxError, Lane, LaneEvents, ProbeReport};
use wattd::exec::ort::{ExecUnit, OrtExecutor, OrtSettings};
use wattd::exec::profile::{
    Expectation, ExpectationSource, MAX_SAMPLES, Outcome, PowerDelta, ProfileError, Profiler, Subject, Unfit,
    profile_with,
};
use wattd::exec::{ExecError, Executor, Output, Tensor, VariantFile};
use wattd::time::MonotonicClock;
use wattd::units::{Bytes, Kilohertz, Microwatts, Nanos, Ppm};

enum Seen {
    Loaded(Bytes),
    LoadFailed(String),
    Unloaded,
    Completed(Completion, Result<Output, ExecError>),
    Probed(ProbeReport),
}

struct Events(SyncSender<Seen>);

impl LaneEvents for Events {
    fn loaded(&self, _: UnitId, _: VariantId, footprint: Bytes) {
        self.0.send(Seen::Loaded(footprint)).unwrap();
    }
    fn load_failed(&self, _: UnitId, _: VariantId, error: &ExecError) {
        self.0.send(Seen::LoadFailed(error.to_string())).unwrap();
    }
    fn unloaded(&self, _: UnitId, _: VariantId) {
        self.0.send(Seen::Unloaded).unwrap();
    }
    fn completed(&self, completion: Completion, result: Result<Output, ExecError>) {
        self.0.send(Seen::Completed(completion, result)).unwrap();
    }
    fn probed(&self, _: UnitId, report: ProbeReport) {
        self.0.send(Seen::Probed(report)).unwrap();
    }
}

fn lane(unit: ExecUnit) -> (Lane, Receiver<Seen>) {
    let (tell, seen) = sync_channel(16);
    let runtime = support::runtime();
    let name = unit.name.clone();
    let make = move || {
        let executor = OrtExecutor::new(runtime, unit, OrtSettings::default())?;
        Ok::<_, BoxError>(Box::new(executor) as Box<dyn Executor>)
    };
    let lane = Lane::spawn(&name, UnitId(0), make, Arc::new(Events(tell)), MonotonicClock::shared()).unwrap();
    (lane, seen)
}

fn completed(seen: &Receiver<Seen>) -> (Completion, Result<Output, ExecError>) {
    match seen.recv().unwrap() {
        Seen::Completed(completion, result) => (completion, result),
        Seen::LoadFailed(error) => panic!("{error}"),
        _ => panic!("another event"),
    }
}

#[test]
fn lanes_run_side_by_side_while_variants_come_and_go() {
    let expected: Vec<f32> = {
        let mut executor = support::cpu(1);
        executor.load(&mlp(0, "mlp.onnx")).unwrap();
        floats(&executor.run(&batch(1, 0, vec![x8(3, 1)])).unwrap().requests[0][0])
    };
    let work = |threads: u16| {
        let expected = expected.clone();
        move || {
            let (lane, seen) = lane(ExecUnit::cpu(&format!("{threads}t"), threads));
            for round in 0..20 {
                lane.load(mlp(0, "mlp.onnx")).unwrap();
                let Seen::Loaded(footprint) = seen.recv().unwrap() else { panic!() };
                assert!(footprint > Bytes::ZERO);
                for id in 0..10 {
                    lane.run(batch(100 * round + id, 0, vec![x8(3, 1)])).unwrap();
                    let (completion, result) = completed(&seen);
                    assert_eq!(completion.batch, BatchId(100 * round + id));
                    let outputs = floats(&result.unwrap().requests[0][0]);
                    assert!(outputs.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-4));
                }
                lane.unload(VariantId(0)).unwrap();
                assert!(matches!(seen.recv().unwrap(), Seen::Unloaded));
            }
        }
    };
    let workers = [1, 2, 1].map(|threads| std::thread::spawn(work(threads)));
    for worker in workers {
        worker.join().unwrap();
    }
}

#[test]
fn cancelling_through_the_lane_ends_the_run_and_the_next_one_is_served() {
    let (lane, seen) = lane(ExecUnit::cpu("cancel", 1));
    lane.load(slow(0)).unwrap();
    assert!(matches!(seen.recv().unwrap(), Seen::Loaded(_)));
    let long = |id| batch(id, 0, vec![vec![fp32(&[1, 4], &[1e9; 4])]]);
    // Cancelled at once, before, while or after it leaves the queue: it ends in every case.
    for id in 0..20 {
        lane.run(long(id)).unwrap();
        lane.cancel(BatchId(id));
        let (completion, _) = completed(&seen);
        assert_eq!((completion.batch, completion.result), (BatchId(id), Err(BatchFailure::Cancelled)));
    }
    lane.run(batch(50, 0, vec![vec![fp32(&[1, 4], &[2.0; 4])]])).unwrap();
    assert_eq!(floats(&completed(&seen).1.unwrap().requests[0][0]), [2.0; 4]);
    // Ending the lane ends an hour's work.
    lane.run(long(60)).unwrap();
    drop(lane);
    assert_eq!(completed(&seen).0.result, Err(BatchFailure::Cancelled));
}

fn samples() -> Vec<Vec<Tensor>> {
    (0..12).map(|n| x8(1, 1000 * n)).collect()
}

fn subject(variant: VariantFile) -> Subject {
    let busy_power = PowerModel { constant_w: 1.0, linear_w_per_ghz: 1.0, cubic_w_per_ghz3: 0.0 };
    Subject { variant, max_batch: 4, busy_power, prior: None }
}

fn reference(outputs: &[Vec<Tensor>]) -> Expectation {
    let (reference_accuracy, accuracy) = (Ppm::from_fraction(0.95), Ppm::from_fraction(0.95));
    Expectation {
        outputs: outputs.to_vec(),
        source: ExpectationSource::Reference { reference_accuracy, accuracy },
    }
}

#[test]
fn a_profile_is_measured_and_unfit_variants_are_found() {
    let (lane, seen) = lane(ExecUnit::cpu("profile", 1));
    let mut most = 0;
    let mut probe = |request: wattd::exec::lane::ProbeRequest| {
        most = most.max(request.runs.len() + request.warm_ups as usize);
        lane.probe(request).unwrap();
        match seen.recv().unwrap() {
            Seen::Probed(report) => report,
            _ => panic!("another event"),
        }
    };
    let clock = Kilohertz(2_000_000);
    let first = profile_with(subject(mlp(0, "mlp.onnx")), &samples(), None, clock, &mut probe).unwrap();
    let Outcome::Fit { profile, outputs } = first else { panic!("{first:?}") };
    assert_eq!(profile.latency_source, Provenance::Measured);
    assert_eq!((profile.power_scale, profile.power_source), (1.0, Provenance::Modelled));
    assert!(profile.latency.latency(clock, 1) > Nanos::ZERO && profile.footprint > Bytes::ZERO);
    assert!(outputs.iter().all(|output| output.len() == 1), "every sample was run");

    let mut judge = |file: &str, expected: Expectation| {
        let variant = mlp(1, file);
        profile_with(subject(variant), &samples(), Some(expected), clock, &mut probe).unwrap()
    };
    let near = judge("mlp_near.onnx", reference(&outputs));
    assert!(matches!(near, Outcome::Fit { .. }), "{near:?}");
    let same =
        Expectation { source: ExpectationSource::SameFile { full_precision: true }, ..reference(&outputs) };
    let same = judge("mlp.onnx", same);
    assert!(matches!(same, Outcome::Fit { .. }), "{same:?}");
    let far = judge("mlp_far.onnx", reference(&outputs));
    assert!(matches!(far, Outcome::Unfit(Unfit::FarOff { .. })), "{far:?}");
    let nan = judge("mlp_nan.onnx", reference(&outputs));
    assert!(matches!(nan, Outcome::Unfit(Unfit::NotFinite { .. })), "{nan:?}");
    let broken = judge("truncated.onnx", reference(&outputs));
    assert!(matches!(broken, Outcome::Unfit(Unfit::Failed(_))), "{broken:?}");
    assert_eq!(most, 14, "12 timed runs and 2 warm-ups");
}

#[test]
fn probes_are_spread_over_clocks_and_power_is_taken_where_it_makes_sense() {
    let (lane, seen) = lane(ExecUnit::cpu("clocks", 1));
    let clocks = [400_000, 800_000, 1_200_000, 1_600_000, 2_000_000].map(Kilohertz);
    let memories = [800_000, 1_600_000].map(Kilohertz);
    let mut profiler =
        Profiler::new(subject(mlp(0, "mlp.onnx")), &samples(), None, [&clocks, &memories], 9).unwrap();
    let mut set = Vec::new();
    let mut runs = 0;
    while let Some(next) = profiler.next_probe() {
        let point = next.point;
        set.push((point.clock.0, point.memory.0));
        runs += next.request.runs.len();
        lane.probe(next.request).unwrap();
        let Seen::Probed(report) = seen.recv().unwrap() else { panic!() };
        assert_eq!(report.id, 9);
        // The model says 1 W + 1 W per GHz; the rail shows one and a half times that over 3 W at idle.
        let busy = Microwatts::from_watts(3.0 + 1.5 * (1.0 + point.clock.as_ghz()));
        profiler.absorb(
            point,
            report,
            Some(PowerDelta { before: Microwatts::from_watts(3.0), during: busy }),
        );
    }
    let high = |clock| (clock, 1_600_000);
    let fastest_first = [high(2_000_000), high(1_200_000), high(400_000), (2_000_000, 800_000)];
    assert_eq!(set, fastest_first, "then one with slow memory");
    assert_eq!(runs, 12);
    let Outcome::Fit { profile, .. } = profiler.finish() else { panic!() };
    assert_eq!(profile.power_source, Provenance::Measured);
    assert!((profile.power_scale - 1.5).abs() < 1e-3, "{}", profile.power_scale);
}

#[test]
fn a_stopped_probe_says_nothing_about_the_variant() {
    let mut profiler = Profiler::new(subject(mlp(0, "mlp.onnx")), &samples(), None, [&[], &[]], 0).unwrap();
    let request = profiler.next_probe().unwrap().request;
    let result = Err(ExecError::Cancelled);
    let report = ProbeReport { id: request.id, variant: request.variant.id, footprint: Bytes::ZERO, result };
    profiler.absorb(OperatingPoint::default(), report, None);
    assert!(profiler.next_probe().is_none());
    assert!(matches!(profiler.finish(), Outcome::Interrupted));
}

#[test]
fn samples_that_cannot_be_used_are_refused() {
    let new =
        |samples: &[Vec<Tensor>]| Profiler::new(subject(mlp(0, "mlp.onnx")), samples, None, [&[], &[]], 0);
    assert!(matches!(new(&[]), Err(ProfileError::NoSamples(_))));
    let error = new(&[x8(1, 0), x8(2, 0)]).unwrap_err();
    assert!(matches!(error, ProfileError::NotOneItem { index: 1, items: 2, .. }), "{error}");
    let many: Vec<Vec<Tensor>> = (0..100).map(|n| x8(1, n)).collect();
    let mut profiler = new(&many).unwrap();
    let request = profiler.next_probe().unwrap().request;
    let distinct: std::collections::HashSet<_> =
        request.runs.iter().flatten().map(|request| request[0].data.clone()).collect();
    assert!(distinct.len() <= MAX_SAMPLES);
}
