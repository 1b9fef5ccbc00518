//! A backend for tests: real arithmetic, scripted moods, and a memory of what it was asked.
#![allow(dead_code, reason = "each test program uses its own part")]

use bytes::Bytes;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::oneshot;
use wattd::api::backend::{
    Accepted, Answer, Backend, CancelGuard, Journal, ModelCounters, ModelView, Order, Pending, Submission,
    SubmitError,
};
use wattd::core::catalog::{Provenance, UnitId, VariantId};
use wattd::core::event::{Outcome, Rejection, Served};
use wattd::exec::{DataType, Tensor, TensorSpec};
use wattd::units::{Kilohertz, Microjoules, Nanos, Ppm};

pub(crate) const ADD: usize = 0;
pub(crate) const BIG: usize = 1;
pub(crate) const HOLD: usize = 2;
pub(crate) const ECHO: usize = 3;

/// Stands in for the daemon.
#[derive(Default)]
pub(crate) struct Double {
    models: Arc<Vec<ModelView>>,
    served: AtomicU64,
    failed: AtomicU64,
    requests: AtomicU64,
    pub(crate) cancelled: Arc<AtomicU64>,
    pub(crate) last: Mutex<Option<Seen>>,
    pub(crate) retained: Mutex<Vec<(usize, bool)>>,
    pub(crate) profiled: Mutex<Vec<Option<usize>>>,
    held: Mutex<Vec<oneshot::Sender<Answer>>>,
}

/// What was submitted last, without its tensors.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) wishes: wattd::api::backend::Wishes,
    pub(crate) peer: wattd::api::backend::Peer,
    pub(crate) items: u32,
}

fn spec(name: &str, dtype: DataType, item_shape: &[Option<usize>]) -> TensorSpec {
    TensorSpec { name: name.into(), dtype, item_shape: item_shape.to_vec() }
}

fn view(name: &str, inputs: Vec<TensorSpec>, outputs: Vec<TensorSpec>) -> ModelView {
    ModelView {
        name: name.into(),
        version: "1".into(),
        inputs: inputs.into(),
        outputs: outputs.into(),
        max_batch: 8,
        variants: vec!["small".into(), "large".into()],
        unavailable: None,
    }
}

impl Double {
    pub(crate) fn new() -> Arc<Self> {
        use DataType::{Fp32, Int8};
        let four = [Some(4)];
        let add = view(
            "add",
            vec![spec("a", Fp32, &four), spec("b", Fp32, &four)],
            vec![spec("sum", Fp32, &four), spec("difference", Fp32, &four)],
        );
        let image = [Some(3), Some(640), Some(640)];
        let big = view("big", vec![spec("image", Fp32, &image)], vec![spec("total", Fp32, &[Some(1)])]);
        let hold = view("hold", vec![spec("a", Fp32, &four)], vec![spec("y", Fp32, &four)]);
        let echo = view("echo", vec![spec("x", Int8, &[None])], vec![spec("y", Int8, &[None])]);
        let mut broken = view("broken", vec![spec("x", Fp32, &four)], vec![spec("y", Fp32, &four)]);
        broken.unavailable = Some("large.onnx: hash differs from the manifest".into());
        Arc::new(Self { models: Arc::new(vec![add, big, hold, echo, broken]), ..Self::default() })
    }

    fn compute(submission: &Submission) -> Vec<Tensor> {
        let floats = |tensor: &Tensor| -> Vec<f32> {
            let bytes = tensor.data.chunks_exact(4);
            bytes.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        };
        let tensor = |shape: &[usize], values: Vec<f32>| {
            let data: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
            Tensor { dtype: DataType::Fp32, shape: shape.to_vec(), data: data.into() }
        };
        match submission.model {
            ADD => {
                let (a, b) = (floats(&submission.inputs[0]), floats(&submission.inputs[1]));
                let shape = &submission.inputs[0].shape;
                let both = |f: fn(f32, f32) -> f32| a.iter().zip(&b).map(|(&a, &b)| f(a, b)).collect();
                vec![tensor(shape, both(|a, b| a + b)), tensor(shape, both(|a, b| a - b))]
            }
            BIG => {
                // The first element tells whether the right bytes came; summing all would drown the timing.
                let data = &submission.inputs[0].data;
                let first = f32::from_le_bytes([data[0], data[1], data[2], data[3]]);
                vec![tensor(&[1, 1], vec![first])]
            }
            _ => submission.inputs.clone(),
        }
    }

    fn rejection(submission: &Submission) -> Option<Rejection> {
        let class = submission.wishes.class.as_deref()?;
        Rejection::ALL.into_iter().find(|rejection| rejection.name() == class)
    }

    pub(crate) fn cancellations(&self) -> u64 {
        self.cancelled.load(Relaxed)
    }

    pub(crate) fn submissions(&self) -> u64 {
        self.requests.load(Relaxed)
    }
}

const SERVED: Served = Served {
    variant: VariantId(0),
    unit: UnitId(0),
    clock: Kilohertz(1_200_000),
    batch_items: 1,
    queue: Nanos(12_000),
    compute: Nanos(345_000),
    energy: Microjoules(678),
    energy_source: Provenance::Modelled,
    accuracy: Ppm(912_000),
    missed: false,
    rescued: false,
};

impl Backend for Double {
    fn submit(&self, submission: Submission) -> Result<Pending, SubmitError> {
        let request = self.requests.fetch_add(1, Relaxed) + 1;
        let (sender, answer) = oneshot::channel();
        let cancelled = Arc::clone(&self.cancelled);
        let cancel = move || {
            cancelled.fetch_add(1, Relaxed);
        };
        let Submission { peer, items, wishes, .. } = &submission;
        *self.last.lock().unwrap() = Some(Seen { wishes: wishes.clone(), peer: peer.clone(), items: *items });
        if submission.model == HOLD {
            self.held.lock().unwrap().push(sender);
            return Ok(Pending { answer, guard: CancelGuard(Some(Box::new(cancel))) });
        }
        let rejected = Self::rejection(&submission);
        let outcome = match rejected {
            Some(reason) => Outcome::Rejected { reason, retry_after: Some(Nanos::from_millis(25)) },
            None => Outcome::Served(SERVED),
        };
        let outputs = if rejected.is_some() { Vec::new() } else { Self::compute(&submission) };
        if rejected.is_some() { &self.failed } else { &self.served }.fetch_add(1, Relaxed);
        let _ =
            sender.send(Answer { request, outcome, outputs, variant: "small".into(), unit: "cpu".into() });
        Ok(Pending { answer, guard: CancelGuard(Some(Box::new(cancel))) })
    }

    fn models(&self) -> Arc<Vec<ModelView>> {
        Arc::clone(&self.models)
    }

    fn model_ready(&self, model: usize) -> bool {
        self.models[model].unavailable.is_none()
    }

    fn ready(&self) -> bool {
        true
    }

    fn retain(&self, model: usize, resident: bool) {
        self.retained.lock().unwrap().push((model, resident));
    }

    fn counters(&self, model: usize) -> ModelCounters {
        if model != ADD {
            return ModelCounters::default();
        }
        let (served, failed) = (self.served.load(Relaxed), self.failed.load(Relaxed));
        ModelCounters {
            served,
            failed,
            executions: served,
            inferences: served,
            queue: Nanos(12_000 * served),
            compute: Nanos(345_000 * served),
            success: Nanos(400_000 * served),
            last_inference_ms: 1_700_000_000_000,
        }
    }

    fn models_status(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    fn status(&self) -> serde_json::Value {
        serde_json::json!({ "served": self.served.load(Relaxed), "cancelled": self.cancellations() })
    }

    fn metrics(&self) -> String {
        format!("# TYPE wattd_requests_total counter\nwattd_requests_total {}\n", self.requests.load(Relaxed))
    }

    fn journal(&self) -> Option<Journal> {
        None
    }

    fn deploy(&self, order: Order) -> oneshot::Receiver<Result<Accepted, String>> {
        let (reply, answer) = oneshot::channel();
        let _ = reply.send(Err(format!("{order:?}")));
        answer
    }

    fn rollouts(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    fn profile(&self, model: Option<usize>, _anew: bool) {
        self.profiled.lock().unwrap().push(model);
    }
}

/// Bytes of singles.
pub(crate) fn singles(values: &[f32]) -> Bytes {
    values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into()
}

/// Waits for something that another task will do; a test that waits in vain fails after `limit`.
pub(crate) async fn eventually(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let step = Duration::from_millis(5);
    let mut waited = Duration::ZERO;
    while !holds() {
        assert!(waited < limit, "{what}: not within {limit:?}");
        tokio::time::sleep(step).await;
        waited += step;
    }
}
