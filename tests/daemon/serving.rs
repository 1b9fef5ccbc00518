//! Requests are answered, wishes are kept, refusals say why, and all counts agree.

use crate::harness::{Daemon, Setup, eventually, inputs, nothing_but, run_well, wait_for};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use wattd::api::client;
use wattd::api::proto::infer_parameter::ParameterChoice;
use wattd::api::proto::{self, ModelInferRequest, ModelStatisticsRequest};
use wattd::core::catalog::Provenance;
use wattd::ctl::load::target::{Ask, Reply};

const MODELS: &str = "config/models";

fn refused(daemon: &Daemon<'_>, ask: Ask) -> (String, String, bool) {
    match daemon.ask(ask) {
        Err(Reply::Rejected { reason, message, retry_after, .. }) => (reason, message, retry_after.is_some()),
        other => panic!("not refused: {other:?}\n{}", daemon.log()),
    }
}

#[test]
fn every_model_answers_by_grpc_with_the_truth_about_how() {
    let setup = Setup::new();
    let daemon = setup.start();
    let status = daemon.status();
    assert!(!status.draining && status.board.simulated);
    assert_eq!(status.problems, Vec::<String>::new());
    let units: Vec<&str> = status.units.iter().map(|unit| unit.name.as_str()).collect();
    for (name, least_right) in [("fashion", 21), ("crepe", 20)] {
        let model = daemon.model(name);
        let inputs = inputs(MODELS, name);
        let mut right = 0;
        for first in 0..24 {
            let answer = daemon.infer(inputs.ask(first, 1));
            right += inputs.right(&answer, first, 1);
            let keys: Vec<&str> = answer.parameters.keys().map(String::as_str).collect();
            assert_eq!(
                keys,
                [
                    "accuracy_ppm",
                    "clock_khz",
                    "compute_us",
                    "deadline_missed",
                    "energy_source",
                    "energy_uj",
                    "queue_us",
                    "request_id",
                    "rescued",
                    "unit",
                    "variant"
                ]
            );
            let variant = model.variants.iter().find(|variant| variant.name == answer.served.variant);
            let ppm: f64 = answer.parameters["accuracy_ppm"].parse().unwrap();
            assert!((variant.expect("a variant of the model").accuracy * 1e6 - ppm).abs() < 1.0);
            assert!(units.contains(&answer.served.unit.as_str()), "{answer:?}");
            assert!(answer.served.clock_khz > 0 && answer.served.compute_us > 0, "{answer:?}");
            assert!(answer.served.energy_uj > 0, "{answer:?}");
            let source = answer.served.energy_source;
            assert!(matches!(source, Some(Provenance::Measured | Provenance::Modelled)), "{answer:?}");
        }
        assert!(right >= least_right, "{name}: {right} of 24 right");
    }
    daemon.stop();
}

#[test]
fn rest_and_grpc_and_a_batch_give_the_same_numbers() {
    let setup = Setup::new();
    let daemon = setup.start();
    for (name, variant, input, shape) in [
        ("fashion", "student-fp32", "image", vec![1, 28, 28]),
        ("crepe", "tiny-fp32", "frames", vec![1, 1024]),
    ] {
        let inputs = inputs(MODELS, name);
        let mut batch = inputs.ask(0, 3);
        batch.variant = Some(variant.to_owned());
        let batch = wattd::model::score::numbers(&daemon.infer(batch).outputs[0].tensor).unwrap();
        let ask = nothing_but(&inputs, &[("variant", variant)]);
        let (given, dtype) = (&ask.inputs[0].tensor, ask.inputs[0].tensor.dtype);
        let data = wattd::model::score::numbers(given).unwrap();
        // An integer has no point in JSON.
        let whole = |value: &f64| serde_json::from_str(&format!("{value}")).unwrap();
        let data: Vec<serde_json::Value> = data.iter().map(whole).collect();
        let body = serde_json::json!({
            "id": "seven",
            "inputs": [{"name": input, "datatype": dtype.wire_name(), "shape": shape, "data": data}],
            "parameters": {"variant": variant, "deadline_us": 5_000_000, "binary_data_output": false},
        });
        let by_grpc = wattd::model::score::numbers(&daemon.infer(ask).outputs[0].tensor).unwrap();
        let answer = daemon.post(&format!("/v2/models/{name}/infer"), &body).unwrap();
        assert_eq!(answer["id"], "seven");
        assert_eq!(answer["model_name"], name);
        assert_eq!(answer["parameters"]["variant"], variant);
        assert!(answer["parameters"]["request_id"].as_u64().unwrap() > 0, "{answer}");
        assert!(answer["parameters"]["energy_uj"].as_u64().unwrap() > 0, "{answer}");
        let by_rest: Vec<f64> = serde_json::from_value(answer["outputs"][0]["data"].clone()).unwrap();
        assert_eq!(by_rest.len(), by_grpc.len());
        for (index, value) in by_grpc.iter().enumerate() {
            assert!((by_rest[index] - value).abs() < 1e-4, "{name}: {} {value}", by_rest[index]);
            assert!((batch[index] - value).abs() < 1e-3, "{name}: {} {value}", batch[index]);
        }
    }
    daemon.stop();
}

#[test]
fn wishes_are_kept_or_refused_with_the_reason() {
    let mut setup = Setup::new();
    setup.set("models.load", vec!["fashion"]);
    setup.class("other-users", &[("apps", vec![65_432i64].into())]);
    let daemon = setup.start();
    let fashion = inputs(MODELS, "fashion");
    let model = daemon.model("fashion");
    eventually("all variants loaded", || {
        let loaded = daemon.status().units.iter().map(|unit| unit.variants.len()).min();
        (loaded >= Some(model.variants.len())).then_some(())
    });
    for variant in &model.variants {
        let answer = daemon.infer(nothing_but(&fashion, &[("variant", &variant.name)]));
        assert_eq!(answer.served.variant, variant.name);
    }
    for least in [899_000, 925_000, 934_000] {
        let answer = daemon.infer(nothing_but(&fashion, &[("min_accuracy_ppm", &least.to_string())]));
        let given: u32 = answer.parameters["accuracy_ppm"].parse().unwrap();
        assert!(given >= least, "{given} for {least}");
    }
    // Twice what the smallest took: it, or something near it, has to do, whatever the class's target says.
    let smallest = daemon.infer(nothing_but(&fashion, &[("variant", "student-int8")]));
    let limit = smallest.served.energy_uj * 2;
    let answer = daemon.infer(nothing_but(&fashion, &[("max_energy_uj", &limit.to_string())]));
    // What it took is metered, with the noise of a meter; what was planned is below the limit.
    assert!(answer.served.energy_uj <= limit + limit / 4, "{answer:?} took more than {limit}");
    let answer = daemon.infer(nothing_but(&fashion, &[("class", "interactive")]));
    assert!(answer.parameters["accuracy_ppm"].parse::<u32>().unwrap() >= 900_000);

    for (wishes, reason) in [
        (("min_accuracy_ppm", "990000"), "accuracy_unreachable"),
        (("max_energy_uj", "1"), "energy_unreachable"),
        (("deadline_us", "1"), "deadline_unreachable"),
    ] {
        let (found, message, _) = refused(&daemon, nothing_but(&fashion, &[wishes]));
        assert_eq!(found, reason, "{message}");
    }
    let contradiction = [("variant", "student-int8"), ("min_accuracy_ppm", "930000")];
    assert_eq!(refused(&daemon, nothing_but(&fashion, &contradiction)).0, "accuracy_unreachable");
    for (wish, words) in [
        (("class", "no-such"), "default, interactive, other-users"),
        (("class", "other-users"), "not for this app"),
        (("variant", "no-such"), "student-int8"),
    ] {
        let (reason, message, _) = refused(&daemon, nothing_but(&fashion, &[wish]));
        assert!(reason == "invalid_parameter" && message.contains(words), "{reason}: {message}");
    }
    daemon.stop();
}

/// A raw request, whose status a client sees.
fn raw(model: &str, choices: &[(&str, ParameterChoice)]) -> ModelInferRequest {
    let ask = inputs(MODELS, model).ask(0, 1);
    let tensor = &ask.inputs[0].tensor;
    let shape = tensor.shape.iter().map(|side| i64::try_from(*side).unwrap()).collect();
    let parameters = choices.iter().map(|(name, choice)| {
        ((*name).to_owned(), proto::InferParameter { parameter_choice: Some(choice.clone()) })
    });
    ModelInferRequest {
        model_name: model.to_owned(),
        inputs: vec![proto::model_infer_request::InferInputTensor {
            name: ask.inputs[0].name.clone(),
            datatype: tensor.dtype.wire_name().to_owned(),
            shape,
            ..Default::default()
        }],
        raw_input_contents: vec![tensor.data.clone()],
        parameters: parameters.collect(),
        ..Default::default()
    }
}

#[test]
fn refusals_have_a_code_a_reason_and_a_time() {
    let mut setup = Setup::new();
    setup.set("budget.queue_limit", 3);
    let daemon = setup.start();
    let send = |request: ModelInferRequest| {
        wait_for(async {
            let mut client = client::connect(&daemon.socket).await.unwrap();
            client.model_infer(request).await
        })
    };
    let int = ParameterChoice::Int64Param;
    let text = |text: &str| ParameterChoice::StringParam(text.to_owned());
    for (choice, code, reason) in [
        (("class", text("nobody")), tonic::Code::InvalidArgument, "invalid_parameter"),
        (("deadline_us", int(-3)), tonic::Code::InvalidArgument, "invalid_parameter"),
        (("deadline_us", int(1)), tonic::Code::DeadlineExceeded, "deadline_unreachable"),
        (("min_accuracy_ppm", int(999_999)), tonic::Code::FailedPrecondition, "accuracy_unreachable"),
        (("max_energy_uj", int(1)), tonic::Code::FailedPrecondition, "energy_unreachable"),
    ] {
        let status = send(raw("fashion", std::slice::from_ref(&choice))).unwrap_err();
        assert_eq!(status.code(), code, "{choice:?}: {status:?}");
        assert_eq!(status.metadata().get("wattd-reason").unwrap(), reason);
    }
    // More at once than may wait: some are served, the others are told when to come back.
    let outcomes = wait_for(async {
        let client = client::connect(&daemon.socket).await.unwrap();
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..40 {
            let mut client = client.clone();
            let request = raw("fashion", &[("variant", text("mnv2-fp32"))]);
            calls.spawn(async move { client.model_infer(request).await });
        }
        calls.join_all().await
    });
    let (served, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert!(!served.is_empty() && !refused.is_empty(), "{} served", served.len());
    for status in refused.into_iter().map(Result::unwrap_err) {
        assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status:?}");
        assert_eq!(status.metadata().get("wattd-reason").unwrap(), "queue_full");
        let retry: u64 = status.metadata().get("retry-after-us").unwrap().to_str().unwrap().parse().unwrap();
        assert!(retry > 0);
    }
    // The same by HTTP.
    let body = r#"{"inputs":[],"parameters":{"class":"nobody"}}"#;
    let answer = run_well(
        "curl",
        &[
            "-sS",
            "-D",
            "-",
            "--unix-socket",
            daemon.socket.to_str().unwrap(),
            "-d",
            body,
            "http://localhost/v2/models/fashion/infer",
        ],
    );
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("\"error\""), "{answer}");
    daemon.stop();
}

#[test]
fn a_spent_energy_budget_is_a_refusal_with_a_time() {
    let mut setup = Setup::new();
    // The idle board alone takes more: nothing is left for requests.
    setup.set("budget.energy.joules", 3).set("budget.energy.lasting", "1h");
    let daemon = setup.start();
    let fashion = inputs(MODELS, "fashion");
    let reason = eventually("the budget to be spent", || match daemon.ask(fashion.ask(0, 1)) {
        Err(Reply::Rejected { reason, .. }) => Some(reason),
        _ => None,
    });
    assert_eq!(reason, "energy_exhausted");
    let status = daemon.status();
    let energy = status.budgets.iter().find(|budget| budget.name == "energy rate");
    assert!(energy.is_some_and(|energy| !energy.ok), "{:?}", status.budgets);
    assert_eq!(status.counters.rejected["energy_exhausted"], status.counters.rejected.values().sum::<u64>());
    daemon.stop();
}

#[test]
fn all_counts_agree() {
    let mut setup = Setup::new();
    let address = crate::harness::free_address();
    setup.set("metrics.listen", address.clone());
    let daemon = setup.start();
    let fashion = inputs(MODELS, "fashion");
    for first in 0..5 {
        daemon.infer(fashion.ask(first, 1));
    }
    daemon.infer(fashion.ask(0, 4));
    for _ in 0..3 {
        refused(&daemon, nothing_but(&fashion, &[("min_accuracy_ppm", "999999")]));
    }
    // Never reaches the core: no request of the model.
    assert!(daemon.ask(Ask { model: "nothing".into(), ..Ask::default() }).is_err());

    let counters = daemon.status().counters;
    assert_eq!(
        (counters.served, counters.rejected.clone()),
        (6, BTreeMap::from([("accuracy_unreachable".into(), 3)]))
    );
    let series =
        |name: &str| daemon.metric(name).unwrap_or_else(|| panic!("{name}\n{}", daemon.get("/metrics")));
    let request = |outcome| {
        series(&format!(r#"wattd_requests_total{{model="fashion",class="default",outcome="{outcome}"}}"#))
    };
    assert_eq!(request("in_time") + request("late"), 6.0);
    assert_eq!(request("late"), counters.missed as f64);
    assert_eq!(request("rejected"), 3.0);
    assert_eq!(series(r#"wattd_rejections_total{model="fashion",reason="accuracy_unreachable"}"#), 3.0);
    assert_eq!(series(r#"nv_inference_request_success{model="fashion",version="1"}"#), 6.0);
    assert_eq!(series(r#"nv_inference_request_failure{model="fashion",version="1"}"#), 3.0);
    assert_eq!(series(r#"nv_inference_count{model="fashion",version="1"}"#), 9.0);
    let executions = series(r#"nv_inference_exec_count{model="fashion",version="1"}"#);
    let uid = nix::unistd::Uid::effective();
    assert_eq!(series(&format!(r#"wattd_app_requests_total{{app="{uid}"}}"#)), 9.0);
    let page = daemon.get("/metrics");
    let total = |prefix: &str| -> f64 {
        let lines = page.lines().filter(|line| line.starts_with(prefix));
        lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
    };
    assert_eq!(total("wattd_energy_microjoules_total{"), total("wattd_app_energy_microjoules_total{"));
    assert_eq!(total("wattd_items_total{"), 9.0);
    assert_eq!(total("wattd_batches_total{"), executions);
    assert!(total("wattd_power_watts{rail=\"VDD_IN\"}") > 1.0 && total("wattd_temperature_celsius{") > 10.0);
    assert_eq!(total("wattd_thermal_regime{regime=\"nominal\"}"), 1.0);
    assert!(total("wattd_compute_duration_seconds_count{") >= 6.0, "{page}");
    // Prometheus finds the same page on its port, and nothing else there.
    let elsewhere = run_well("curl", &["-sS", &format!("http://{address}/metrics")]);
    assert!(elsewhere.contains("wattd_requests_total{model=\"fashion\""));

    let statistics = wait_for(async {
        let mut client = client::connect(&daemon.socket).await.unwrap();
        let request = ModelStatisticsRequest { name: "fashion".into(), ..Default::default() };
        client.model_statistics(request).await.unwrap().into_inner()
    });
    let model = &statistics.model_stats[0];
    let inference = model.inference_stats.as_ref().unwrap();
    let count = |part: &Option<proto::StatisticDuration>| part.as_ref().unwrap().count;
    assert_eq!(count(&inference.success), 6);
    assert_eq!(count(&inference.fail), 3);
    for part in
        [&inference.queue, &inference.compute_input, &inference.compute_infer, &inference.compute_output]
    {
        assert_eq!(count(part), 6);
    }
    assert_eq!((model.inference_count, model.execution_count as f64), (9, executions));
    daemon.stop();
}

#[test]
fn what_runs_at_a_stop_is_finished_and_what_comes_after_is_turned_away() {
    let mut setup = Setup::new();
    setup.set("models.load", vec!["fashion"]);
    let daemon = setup.start();
    let fashion = inputs(MODELS, "fashion");
    // Loaded, so that the request below runs at once.
    daemon.infer(nothing_but(&fashion, &[("variant", "mnv2-fp32")]));
    let ask = Ask { variant: Some("mnv2-fp32".into()), ..fashion.ask(0, 24) };
    let answer = std::thread::scope(|scope| {
        let answer = scope.spawn(|| daemon.ask(ask));
        eventually("the run", || {
            (daemon.status().units.iter().any(|unit| unit.busy) || answer.is_finished()).then_some(())
        });
        daemon.signal(Signal::SIGTERM);
        answer.join().unwrap()
    });
    assert!(answer.is_ok(), "{answer:?}\n{}", daemon.log());
    daemon.stop_has_begun();
}

/// How many predictions of latency were judged, over all units.
fn judged(status: &wattd::ctl::status::Status) -> u64 {
    let latency = status.estimators.iter().filter(|estimator| estimator.name == "latency");
    latency.map(|estimator| estimator.observations).sum()
}

#[test]
fn what_was_learned_is_shown_and_outlives_the_daemon() {
    let setup = Setup::new();
    let daemon = setup.start();
    let inputs = inputs(MODELS, "fashion");
    // The first run of a variant corrects its profile; those after it are judged.
    for first in 0..40 {
        daemon.infer(inputs.ask(first, 1));
    }
    let learned = judged(&daemon.status());
    assert!(learned > 0, "{:?}", daemon.status().estimators);
    let shown = daemon.ctl(&["status", "--estimators"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    for word in ["latency", "board_power", "heat", "judged"] {
        assert!(shown.contains(word), "no {word} in\n{shown}");
    }
    daemon.stop();
    assert!(setup.state_dir().join("learned.json").is_file());
    let daemon = setup.start();
    assert!(judged(&daemon.status()) >= learned, "{:?}", daemon.status().estimators);
}
