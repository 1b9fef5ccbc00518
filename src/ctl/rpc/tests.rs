//! Against real messages, and a real service on a real socket.

use super::*;
use crate::api::proto::model_infer_response::InferOutputTensor;
use crate::units::Ppm;
use bytes::Bytes;

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
    let Ok(Reply::Answer { outputs, served }) = answer(response(vec![1, 2], &[0; 8])) else { panic!() };
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
    let expected = Reply::Rejected {
        reason: "queue_full".into(),
        message: "the queue is full".into(),
        retry_after: Some(Nanos::from_micros(1_500)),
    };
    assert_eq!(refusal(&status), expected);
}

#[tokio::test]
async fn a_missing_daemon_is_named_with_what_to_do() {
    let error = Rpc::connect(Path::new("/nonexistent/wattd.sock"), 1).await.unwrap_err().to_string();
    assert!(error.starts_with("/nonexistent/wattd.sock: no such socket: is wattd running"), "{error}");
}
