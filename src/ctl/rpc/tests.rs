//! Against real messages, and a real service on a real socket.

use super::*;
use crate::api::backend::{
    Accepted, Answer, Backend, CancelGuard, Journal, ModelCounters, ModelView, Order, Pending, Submission,
    SubmitError,
};
use crate::api::proto::model_infer_response::InferOutputTensor;
use crate::api::{Options, bind_all, serve_bound};
use crate::core::catalog::{UnitId, VariantId};
use crate::core::event::{Outcome as CoreOutcome, Rejection, Served};
use crate::exec::TensorSpec;
use crate::units::{Kilohertz, Microjoules, Ppm};
use bytes::Bytes;
use std::num::NonZeroU64;
use std::sync::Arc;
use tokio::sync::oneshot;

fn response(shape: Vec<i64>, data: &'static [u8]) -> ModelInferResponse {
    let text = |value: &str| ParameterChoice::StringParam(value.to_owned());
    let parameters = [
        ("variant", text("int8")),
        ("unit", text("gpu")),
        ("energy_source", text("modelled")),
        ("energy_uj", ParameterChoice::Int64Param(1_500)),
        ("compute_us", ParameterChoice::Uint64Param(900)),
        ("clock_khz", ParameterChoice::Int64Param(-4)),
    ];
    ModelInferResponse {
        parameters: parameters
            .into_iter()
            .map(|(name, choice)| (name.to_owned(), InferParameter { parameter_choice: Some(choice) }))
            .collect(),
        outputs: vec![InferOutputTensor {
            name: "logits".into(),
            datatype: "FP32".into(),
            shape,
            ..InferOutputTensor::default()
        }],
        raw_output_contents: vec![Bytes::from_static(data)],
        ..ModelInferResponse::default()
    }
}

#[test]
fn an_answer_is_taken_apart() {
    let Ok(Reply::Answer { outputs, served, .. }) = answer(response(vec![1, 2], &[0; 8])) else { panic!() };
    assert_eq!(outputs[0].tensor.shape, [1, 2]);
    assert_eq!((served.variant.as_str(), served.unit.as_str()), ("int8", "gpu"));
    assert_eq!((served.energy_uj, served.compute_us, served.clock_khz), (1_500, 900, 0));
    assert_eq!(served.energy_source, Some(Provenance::Modelled));
}

#[test]
fn an_answer_that_does_not_add_up_is_a_failure() {
    for (shape, data, expected) in [
        (vec![1, 2], [0_u8; 7].as_slice(), "output logits: 7 bytes for shape [1, 2]"),
        (vec![-1, 2], &[], "output logits: shape [-1, 2]"),
        (vec![i64::MAX, i64::MAX], &[], "output logits: 0 bytes for shape"),
    ] {
        let mut response = response(shape, &[]);
        response.raw_output_contents = vec![Bytes::copy_from_slice(data)];
        let error = answer(response).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }
    let mut none = response(vec![1, 2], &[]);
    none.raw_output_contents.clear();
    assert!(answer(none).unwrap_err().contains("describes 1 outputs and holds 0"));
}

#[test]
fn wishes_become_parameters_that_all_clients_could_send() {
    let ask = Ask {
        model: "fashion".into(),
        inputs: vec![NamedTensor {
            name: "image".into(),
            tensor: Tensor { dtype: DataType::Uint8, shape: vec![1, 3], data: Bytes::from_static(b"abc") },
        }],
        deadline: Some(Nanos(1_500)),
        min_accuracy: Some(Ppm(920_000)),
        class: Some("camera".into()),
        ..Ask::default()
    };
    let request = request(ask);
    let words: Vec<_> =
        request.parameters.iter().map(|(name, value)| format!("{name}={}", word(value))).collect();
    assert_eq!(words, ["class=camera", "deadline_us=1", "min_accuracy_ppm=920000"]);
    assert_eq!(request.inputs[0].datatype, "UINT8");
    assert_eq!(request.raw_input_contents, [Bytes::from_static(b"abc")]);
}

#[test]
fn only_a_reason_makes_a_rejection() {
    let mut status = tonic::Status::resource_exhausted("the queue is full");
    assert_eq!(refusal(&status), Reply::Failed("ResourceExhausted: the queue is full".into()));
    status.metadata_mut().insert(REASON, "queue_full".parse().unwrap());
    status.metadata_mut().insert(RETRY, "1500".parse().unwrap());
    status.metadata_mut().insert(REQUEST, "12".parse().unwrap());
    let expected = Reply::Rejected {
        reason: "queue_full".into(),
        message: "the queue is full".into(),
        retry_after: Some(Nanos::from_micros(1_500)),
        request: NonZeroU64::new(12),
    };
    assert_eq!(refusal(&status), expected);
}

#[tokio::test]
async fn a_missing_daemon_is_named_with_what_to_do() {
    let error = Rpc::connect(Path::new("/nonexistent/wattd.sock"), 1).await.unwrap_err().to_string();
    assert!(error.starts_with("/nonexistent/wattd.sock: no such socket: is wattd running"), "{error}");
}

/// A daemon that serves or refuses by the model's index.
struct Daemon;

impl Backend for Daemon {
    fn submit(&self, submission: Submission) -> Result<Pending, SubmitError> {
        let (answer, received) = oneshot::channel();
        let first = submission.inputs[0].data.first().copied().unwrap_or(0);
        let outcome = if submission.wishes.class.as_deref() == Some("hot") {
            CoreOutcome::Rejected { reason: Rejection::TooHot, retry_after: Some(Nanos::from_millis(20)) }
        } else {
            CoreOutcome::Served(Served {
                variant: VariantId(0),
                unit: UnitId(0),
                clock: Kilohertz(1_300_500),
                batch_items: 1,
                queue: Nanos::from_micros(30),
                compute: Nanos::from_micros(400),
                energy: Microjoules(2_500),
                energy_source: Provenance::Measured,
                accuracy: Ppm(930_000),
                missed: false,
                rescued: true,
            })
        };
        let data: Vec<u8> =
            [0.0, f32::from(first), 1.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let outputs = vec![Tensor { dtype: DataType::Fp32, shape: vec![1, 3], data: data.into() }];
        let (variant, unit) = ("int8".into(), "gpu".into());
        let _ = answer.send(Answer { request: 1, outcome, outputs, variant, unit });
        Ok(Pending { answer: received, guard: CancelGuard(None) })
    }

    fn models(&self) -> Arc<Vec<ModelView>> {
        let spec = |name: &str, dtype, side| {
            vec![TensorSpec { name: name.to_owned(), dtype, item_shape: vec![Some(side)] }].into()
        };
        Arc::new(vec![ModelView {
            name: "tiny".into(),
            version: "1".into(),
            inputs: spec("x", DataType::Uint8, 2),
            outputs: spec("y", DataType::Fp32, 3),
            max_batch: 4,
            variants: vec!["int8".into()],
            unavailable: None,
        }])
    }

    fn model_ready(&self, _: usize) -> bool {
        true
    }

    fn ready(&self) -> bool {
        true
    }

    fn retain(&self, _: usize, _: bool) {}

    fn counters(&self, _: usize) -> ModelCounters {
        ModelCounters::default()
    }

    fn models_status(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    fn status(&self) -> serde_json::Value {
        serde_json::to_value(Status { version: "7".into(), power_w: Some(4.5), ..Status::default() }).unwrap()
    }

    fn metrics(&self) -> String {
        String::new()
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

    fn profile(&self, _: Option<usize>, _: bool) {}
}

fn ask(class: Option<&str>) -> Ask {
    let tensor = Tensor { dtype: DataType::Uint8, shape: vec![1, 2], data: Bytes::from_static(&[7, 8]) };
    Ask {
        model: "tiny".into(),
        inputs: vec![NamedTensor { name: "x".into(), tensor }],
        class: class.map(str::to_owned),
        ..Ask::default()
    }
}

#[tokio::test]
async fn the_services_answers_and_refusals_are_understood_over_its_socket() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("wattd.sock");
    let mut options = Options { socket: Some(socket.clone()), ..Options::default() };
    let bound = bind_all(&mut options).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(serve_bound(bound, options, Arc::new(Daemon), async {
        let _ = stopped.await;
    }));

    let rpc = Rpc::connect(&socket, 2).await.unwrap();
    let (reply, parameters) = rpc.infer_in_full(ask(None)).await.unwrap();
    let Reply::Answer { outputs, served, request } = reply else { panic!("{reply:?}") };
    assert_eq!(crate::model::score::numbers(&outputs[0].tensor).unwrap(), [0.0, 7.0, 1.0]);
    let expected = ServedLine {
        variant: "int8".into(),
        unit: "gpu".into(),
        clock_khz: 1_300_500,
        queue_us: 30,
        compute_us: 400,
        energy_uj: 2_500,
        energy_source: Some(Provenance::Measured),
        rescued: true,
        scored: 0,
        correct: 0,
    };
    assert_eq!((served, request), (expected, NonZeroU64::new(1)));
    assert!(parameters.iter().any(|(name, _)| name == "request_id"), "{parameters:?}");

    let refused = rpc.infer(ask(Some("hot"))).await;
    let Reply::Rejected { reason, retry_after, request, .. } = refused else { panic!("{refused:?}") };
    assert_eq!((reason.as_str(), retry_after), ("too_hot", Some(Nanos::from_millis(20))));
    assert_eq!(request, NonZeroU64::new(1), "its id comes with the refusal");
    let unknown = rpc.infer(Ask { model: "none".into(), ..ask(None) }).await;
    assert!(!matches!(unknown, Reply::Answer { .. }), "{unknown:?}");
    assert_eq!(rpc.status().await.unwrap().power_w, Some(4.5));

    drop(rpc);
    stop.send(()).unwrap();
    server.await.unwrap();
}
