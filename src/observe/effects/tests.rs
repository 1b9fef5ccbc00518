use super::*;
use crate::core::catalog::{DomainId, ModelId, ZoneId};
use crate::core::event::{ApplyReport, BatchRequests, ClockBounds, ClockState, MemoryState};
use crate::core::points::OperatingPoint;
use crate::core::thermal::Transition;
use crate::units::{Kilohertz, Microwatts, MilliCelsius, Ppm};

fn names() -> Names {
    let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    Names {
        models: vec![("fashion".into(), "1".into()), ("crepe".into(), "2".into())],
        variants: vec![("big".into(), 0), ("small".into(), 0), ("tiny".into(), 1)],
        units: list(&["cpu", "gpu"]),
        domains: list(&["cpu"]),
        zones: list(&["cpu-thermal"]),
        rails: list(&["VDD_IN"]),
        classes: list(&["default", "camera"]),
        board: "bench".into(),
    }
}

fn ms(ms: u64) -> Timestamp {
    Timestamp::ZERO.after(Nanos::from_millis(ms))
}

fn submit(id: u64, app: u32, model: u16, class: u16) -> Event {
    Event::Submit(Request {
        id: RequestId(id),
        app: AppId(app),
        class: ClassId(class),
        model: ModelId(model),
        items: 2,
        input_bytes: Bytes(784),
        deadline: None,
        min_accuracy: None,
        max_energy: None,
        variant: None,
        priority: None,
    })
}

fn served(id: u64, variant: u16, unit: u8, missed: bool) -> Effect {
    Effect::Reply {
        request: RequestId(id),
        outcome: Outcome::Served(Served {
            variant: VariantId(variant),
            unit: UnitId(unit),
            clock: Kilohertz(1_000_000),
            batch_items: 2,
            queue: Nanos::from_millis(3),
            compute: Nanos::from_millis(7),
            energy: Microjoules(1_500),
            energy_source: Provenance::Modelled,
            accuracy: Ppm(900_000),
            missed,
            rescued: missed,
        }),
    }
}

fn rejected(id: u64, reason: Rejection) -> Effect {
    Effect::Reply { request: RequestId(id), outcome: Outcome::Rejected { reason, retry_after: None } }
}

fn expect(observer: &Observer, lines: &[&str]) {
    let page = observer.page().render();
    for line in lines {
        assert!(page.lines().any(|l| l == *line), "no `{line}` in\n{page}");
    }
}

#[test]
fn a_served_request_shows_everywhere() {
    let mut observer = Observer::new(names());
    observer.event(ms(0), &submit(1, 1000, 0, 1));
    expect(&observer, &["wattd_requests_in_flight 1"]);
    let dispatch = Dispatch {
        batch: BatchId(1),
        unit: UnitId(1),
        variant: VariantId(1),
        requests: BatchRequests::from_slice(&[RequestId(1)]),
        items: 2,
        point: OperatingPoint::default(),
        expected: Nanos::ZERO,
        reserved: Microjoules::ZERO,
    };
    observer.effect(ms(3), &Effect::Dispatch(dispatch));
    observer.effect(ms(10), &served(1, 1, 1, false));
    let run = "model=\"fashion\",variant=\"small\",unit=\"gpu\"";
    expect(
        &observer,
        &[
            "wattd_requests_in_flight 0",
            "wattd_requests_total{model=\"fashion\",class=\"camera\",outcome=\"in_time\"} 1",
            "wattd_deadline_misses_total{model=\"fashion\",class=\"camera\"} 0",
            "wattd_request_duration_seconds_sum{model=\"fashion\",class=\"camera\"} 0.01",
            &format!("wattd_queue_duration_seconds_sum{{{run}}} 0.003"),
            &format!("wattd_compute_duration_seconds_sum{{{run}}} 0.007"),
            &format!("wattd_energy_microjoules_total{{{run},source=\"modelled\"}} 1500"),
            &format!("wattd_batches_total{{{run}}} 1"),
            &format!("wattd_items_total{{{run}}} 2"),
            "wattd_app_energy_microjoules_total{app=\"1000\"} 1500",
            "nv_inference_request_success{model=\"fashion\",version=\"1\"} 1",
            "nv_inference_count{model=\"fashion\",version=\"1\"} 2",
            "nv_inference_exec_count{model=\"fashion\",version=\"1\"} 1",
            "nv_inference_request_duration_us{model=\"fashion\",version=\"1\"} 10000",
            "nv_inference_queue_duration_us{model=\"fashion\",version=\"1\"} 3000",
            "nv_inference_compute_infer_duration_us{model=\"fashion\",version=\"1\"} 7000",
        ],
    );
    assert_eq!(observer.requests_in_flight(), 0);
}

#[test]
fn late_and_rejected_requests_are_counted_by_reason() {
    let mut observer = Observer::new(names());
    for (id, effect) in [
        (1, served(1, 0, 0, true)),
        (2, rejected(2, Rejection::TooHot)),
        (3, rejected(3, Rejection::QueueFull)),
        (4, rejected(4, Rejection::TooHot)),
    ] {
        observer.event(ms(0), &submit(id, TCP, u16::from(id == 3), 0));
        observer.effect(ms(1), &effect);
    }
    expect(
        &observer,
        &[
            "wattd_requests_total{model=\"fashion\",class=\"default\",outcome=\"late\"} 1",
            "wattd_deadline_misses_total{model=\"fashion\",class=\"default\"} 1",
            "wattd_requests_total{model=\"fashion\",class=\"default\",outcome=\"rejected\"} 2",
            "wattd_rejections_total{model=\"fashion\",reason=\"too_hot\"} 2",
            "wattd_rejections_total{model=\"crepe\",reason=\"queue_full\"} 1",
            "nv_inference_request_failure{model=\"crepe\",version=\"2\"} 1",
            "wattd_app_requests_total{app=\"tcp\"} 4",
        ],
    );
}

const TCP: u32 = crate::api::backend::Peer::TCP.0;

/// 64 apps have series of their own; what 36 more do is counted together, and nothing is lost.
#[test]
fn many_apps_do_not_make_many_series() {
    let mut observer = Observer::new(names());
    for app in 0..100 {
        observer.event(ms(0), &submit(u64::from(app), app, 0, 0));
        observer.effect(ms(1), &rejected(u64::from(app), Rejection::QueueFull));
    }
    expect(
        &observer,
        &["wattd_app_requests_total{app=\"63\"} 1", "wattd_app_requests_total{app=\"other\"} 36"],
    );
    let page = observer.page().render();
    assert_eq!(page.lines().filter(|line| line.starts_with("wattd_app_requests_total{")).count(), 65);
}

fn readings(temperature: Result<MilliCelsius, SensorFault>) -> Event {
    Event::Sampled(Readings {
        zones: vec![temperature],
        rails: vec![Ok(Microwatts(-5_000))],
        domains: vec![Ok(ClockState {
            current: Kilohertz(345_600),
            min: Kilohertz(0),
            max: Kilohertz(2_035_200),
        })],
        battery: None,
        memory: Ok(MemoryState {
            available: Bytes(5),
            total: Bytes(9),
            resident: Bytes(3),
            limit: None,
            headroom: None,
        }),
        pressure: Some(Err(SensorFault::Denied)),
    })
}

#[test]
fn sensors_show_their_values_and_faults() {
    let mut observer = Observer::new(names());
    observer.event(ms(0), &readings(Ok(MilliCelsius(41_500))));
    expect(
        &observer,
        &[
            "wattd_temperature_celsius{zone=\"cpu-thermal\"} 41.5",
            "wattd_power_watts{rail=\"VDD_IN\"} -0.005",
            "wattd_clock_hertz{domain=\"cpu\"} 345600000",
            "wattd_clock_bound_hertz{domain=\"cpu\",bound=\"max\"} 2035200000",
            "wattd_memory_available_bytes 5",
            "wattd_sensor_faults_total{sensor=\"pressure\",fault=\"denied\"} 1",
        ],
    );
    observer.event(ms(100), &readings(Err(SensorFault::NoData)));
    expect(
        &observer,
        &[
            "wattd_temperature_celsius{zone=\"cpu-thermal\"} NaN",
            "wattd_sensor_faults_total{sensor=\"zone:cpu-thermal\",fault=\"no_data\"} 1",
            "wattd_sensor_faults_total{sensor=\"pressure\",fault=\"denied\"} 2",
        ],
    );
}

#[test]
fn regime_residency_and_clocks_follow_the_notes() {
    let mut observer = Observer::new(names());
    expect(
        &observer,
        &["wattd_thermal_regime{regime=\"boot\"} 1", "wattd_thermal_regime{regime=\"nominal\"} 0"],
    );
    let transition = Transition {
        from: Regime::Boot,
        to: Regime::Throttled,
        zone: Some(ZoneId(0)),
        temperature: Some(MilliCelsius(90_000)),
        age: Nanos::ZERO,
    };
    observer.effect(ms(0), &Effect::Note(Note::Regime(transition)));
    observer.effect(ms(0), &Effect::Note(Note::Controllable { domain: DomainId(0), yes: false }));
    let (variant, unit) = (VariantId(0), UnitId(0));
    observer.event(ms(0), &Event::Loaded { variant, unit, footprint: Bytes(100) });
    observer.event(ms(0), &Event::Loaded { variant: VariantId(1), unit, footprint: Bytes(11) });
    observer.event(ms(0), &Event::Unloaded { variant, unit });
    observer.effect(ms(0), &Effect::Note(Note::GaveWay { variant, unit, request: RequestId(1) }));
    let bounds = ClockBounds { min: Kilohertz(1), max: Kilohertz(2) };
    for applied in [Applied::Refused(SensorFault::Denied), Applied::Bounds(bounds)] {
        observer.event(ms(0), &Event::Applied(ApplyReport { domains: vec![Some(applied)] }));
    }
    expect(
        &observer,
        &[
            "wattd_thermal_regime{regime=\"boot\"} 0",
            "wattd_thermal_regime{regime=\"throttled\"} 1",
            "wattd_thermal_regime_changes_total{regime=\"throttled\"} 1",
            "wattd_clock_controllable{domain=\"cpu\"} 0",
            "wattd_variant_resident{model=\"fashion\",variant=\"big\",unit=\"cpu\"} 0",
            "wattd_variant_resident{model=\"fashion\",variant=\"small\",unit=\"cpu\"} 1",
            "wattd_variants_resident_bytes 11",
            "wattd_preemptions_total{model=\"fashion\",variant=\"big\",unit=\"cpu\"} 1",
            "wattd_clock_refusals_total{domain=\"cpu\",fault=\"denied\"} 1",
        ],
    );
}

#[test]
fn a_failed_batch_is_counted_where_it_ran() {
    let mut observer = Observer::new(names());
    observer.effect(
        ms(0),
        &Effect::Dispatch(Dispatch {
            batch: BatchId(9),
            unit: UnitId(1),
            variant: VariantId(0),
            requests: BatchRequests::new(),
            items: 1,
            point: OperatingPoint::default(),
            expected: Nanos::ZERO,
            reserved: Microjoules::ZERO,
        }),
    );
    let completion = Completion {
        batch: BatchId(9),
        started: ms(0),
        finished: ms(1),
        energy: None,
        result: Err(BatchFailure::Provider),
    };
    observer.event(ms(1), &Event::Completed(completion));
    expect(&observer, &["wattd_batch_failures_total{unit=\"gpu\",reason=\"provider\"} 1"]);
}

/// Ids that the catalogue does not know must not bring the daemon down: they are a bug elsewhere.
#[test]
fn unknown_ids_do_no_harm() {
    let mut observer = Observer::new(names());
    observer.event(ms(0), &submit(1, 1, 77, 99));
    observer.effect(ms(1), &served(1, 500, 200, false));
    observer.effect(ms(1), &served(1, 0, 0, false));
    observer.event(
        ms(1),
        &Event::LoadFailed { variant: VariantId(500), unit: UnitId(200), short_of_memory: false },
    );
    expect(&observer, &["wattd_requests_total{model=\"unknown\",class=\"unknown\",outcome=\"in_time\"} 1"]);
}

/// No name without a use.
#[test]
fn no_metric_is_without_use() {
    let source =
        concat!(include_str!("../effects.rs"), include_str!("../board.rs"), include_str!("../ladder.rs"));
    for metric in Metric::ALL {
        let used = format!("Metric::{metric:?}");
        let uses = source
            .match_indices(&used)
            .filter(|(at, _)| !source[at + used.len()..].starts_with(|c: char| c.is_ascii_alphanumeric()));
        assert!(uses.count() > 0, "{used} is never recorded");
    }
}
