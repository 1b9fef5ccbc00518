use super::*;
use crate::core::catalog::ZoneId;
use crate::core::event::SensorFault;
use crate::units::MilliCelsius;

fn parse(text: &str) -> Result<Script, ScriptError> {
    Script::parse(text, "test.toml", &tx2(quiet))
}

#[test]
fn a_script_happens_at_its_times() {
    let script = parse(
        r#"
        [[event]]
        at_s = 20
        set = "actuator"
        target = "gpu"
        to = "refuse"
        [[event]]
        at_s = 10
        set = "sensor"
        target = "zone:GPU-therm"
        to = "enodata"
        [[event]]
        at_s = 12
        set = "sensor"
        target = "zone:GPU-therm"
        to = "ok"
        [[event]]
        at_s = 5
        set = "fan"
        to = "failed"
        "#,
    )
    .unwrap();
    let mut plant = Plant::new(tx2(quiet), 1);
    plant.play(&script);
    assert_eq!(plant.next_event(), Some(at_s(5.0)));
    assert!(plant.readings().zones[0].is_ok());
    plant.advance(at_s(11.0));
    assert_eq!(plant.readings().zones[0], Err(SensorFault::NoData));
    assert!(plant.readings().zones[1].is_ok(), "one sensor's fault is no other's");
    plant.advance(at_s(13.0));
    assert!(plant.readings().zones[0].is_ok());
    plant.advance(at_s(21.0));
    let gpu = plant.spec().domain_named("gpu").unwrap();
    let bounds = ClockBounds { min: Kilohertz(114_750), max: Kilohertz(522_750) };
    assert_eq!(plant.set_bounds(at_s(21.0), gpu, bounds), Err(WriteError::Refused));
}

#[test]
fn a_ramp_goes_from_the_last_value_to_the_new_one() {
    let script = parse(
        "[[event]]\nat_s = 1\nset = \"ambient_c\"\nto = 35\n\
         [[event]]\nat_s = 10\nset = \"ambient_c\"\nto = 45\nover_s = 10\n",
    )
    .unwrap();
    let values: Vec<(f64, f64)> = script
        .steps()
        .iter()
        .map(|(at, change)| match change {
            Change::AmbientC(celsius) => (at.as_secs_f64(), *celsius),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(values[0], (1.0, 35.0));
    assert_eq!(*values.last().unwrap(), (20.0, 45.0));
    // Half-way in time is half-way in temperature.
    assert!(values.iter().any(|(at, c)| (at - 15.0).abs() < 1e-9 && (c - 40.0).abs() < 1e-9));
}

#[test]
fn every_kind_of_sensor_fault_reads_as_what_it_is() {
    let zone = Sensor::Zone(ZoneId(0));
    let read = |failure: SensorFailure| {
        let mut plant = Plant::new(tx2(quiet), 1);
        plant.disturb(at_s(1.0), &Change::Sensor { sensor: zone, failure: Some(failure) });
        let first = plant.readings().zones[0];
        plant.preheat(Heat::uniform(80.0));
        plant.advance(at_s(2.0));
        (first, plant.readings().zones[0])
    };
    for (failure, fault) in [
        (SensorFailure::Missing, SensorFault::Missing),
        (SensorFailure::NoData, SensorFault::NoData),
        (SensorFailure::Busy, SensorFault::Busy),
        (SensorFailure::Io, SensorFault::Io),
        (SensorFailure::Text("n/a".to_owned()), SensorFault::Garbled),
        (SensorFailure::Value(-40.0), SensorFault::Implausible),
    ] {
        assert_eq!(read(failure), (Err(fault), Err(fault)));
    }
    let (before, after) = read(SensorFailure::Stuck);
    assert!(before.is_ok());
    assert_eq!(before, after, "stuck while the board heats");
    assert_eq!(read(SensorFailure::Value(33.0)).0, Ok(MilliCelsius(33_000)));
}

#[test]
fn scripts_that_cannot_be_are_refused_with_their_place() {
    let event = |rest: &str| format!("[[event]]\nat_s = 1\n{rest}\n");
    for (text, expected) in [
        ("[[event]]\nat_s = -1\nset = \"fan\"\nto = \"ok\"".to_owned(), "event 1: at_s: -1; wanted 0 to"),
        ("[[event]]\nat_s = nan\nset = \"fan\"\nto = \"ok\"".to_owned(), "at_s: NaN"),
        (event("set = \"fan\"\nto = \"broken\""), "to: \"broken\"; wanted \"failed\" or \"ok\""),
        (event("set = \"rain\"\nto = 1"), "set: `rain`; wanted ambient_c"),
        (event("set = \"ambient_c\"\nto = 900"), "to: 900; wanted a number from -40 to 85"),
        (event("set = \"ambient_c\"\nto = nan"), "wanted a number"),
        (event("set = \"sensor\"\nto = \"eio\""), "target: missing"),
        (event("set = \"sensor\"\ntarget = \"zone:x\"\nto = \"eio\""), "the board has zone:GPU-therm"),
        (event("set = \"sensor\"\ntarget = \"battery\"\nto = \"eio\""), "target: `battery`"),
        (event("set = \"sensor\"\ntarget = \"zone:GPU-therm\"\nto = \"bad\""), "wanted missing, enodata"),
        (event("set = \"actuator\"\ntarget = \"npu\"\nto = \"ok\""), "`npu`; the board has cpu, gpu, emc"),
        (event("set = \"actuator\"\ntarget = \"gpu\"\nto = -3"), "wanted \"refuse\""),
        (event("set = \"fan\"\nto = \"ok\"\nover_s = 3"), "over_s: `fan` cannot be ramped"),
        (event("set = \"fan\"\nto = \"ok\"\nfoo = 3"), "foo"),
        ("x = 1".to_owned(), "test.toml"),
    ] {
        let error = parse(&text).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("test.toml"), "{error}");
    }
    let long = event("set = \"fan\"\nto = \"ok\"").repeat(1001);
    assert!(parse(&long).unwrap_err().to_string().contains("at most 1000"));
}

#[test]
fn an_event_ends_and_comes_again() {
    let script = parse(
        "[[event]]\nat_s = 1\nset = \"contention_compute\"\nto = 2\nfor_s = 0.5\ntimes = 2\nevery_s = 3\n\
         [[event]]\nat_s = 9\nset = \"sensor\"\ntarget = \"zone:*\"\nto = 130\nfor_s = 1\n",
    )
    .unwrap();
    let seconds: Vec<f64> = script.steps().iter().map(|(at, _)| at.as_secs_f64()).collect();
    assert_eq!(seconds, [1.0, 1.5, 4.0, 4.5, 9.0, 9.0, 9.0, 10.0, 10.0, 10.0]);
    let factor = |index: usize| match script.steps()[index].1 {
        Change::ContentionCompute(factor) => factor,
        ref other => panic!("{other:?}"),
    };
    assert_eq!([0, 1, 2, 3].map(factor), [2.0, 1.0, 2.0, 1.0]);
    // Three zones fail, and work again.
    assert!(matches!(script.steps()[4].1, Change::Sensor { failure: Some(_), .. }));
    assert!(matches!(script.steps()[9].1, Change::Sensor { failure: None, .. }));
}

#[test]
fn clocks_of_the_memory_are_held_down_to_a_share() {
    let script =
        parse("[[event]]\nat_s = 1\nset = \"actuator\"\ntarget = \"memory\"\nto = \"60%\"\n").unwrap();
    let emc = tx2(quiet).domain_named("emc").unwrap();
    // 60 % of 1866 MHz.
    let fault = Some(ActuatorFault::Clamp(Kilohertz(1_119_600)));
    assert_eq!(script.steps(), [(Nanos::from_secs(1), Change::Actuator { domain: emc, fault })]);
}

#[test]
fn repetitions_that_cannot_be_are_refused() {
    let base = "[[event]]\nat_s = 1\nset = \"contention_compute\"\nto = 2\n";
    for (more, wanted) in [
        ("times = 3\nevery_s = 5\n", "event 1: for_s: missing"),
        ("times = 3\nfor_s = 2\nevery_s = 1\n", "event 1: every_s: 1"),
        ("times = 0\nfor_s = 2\n", "event 1: times: 0"),
        ("for_s = 1\nover_s = 2\n", "event 1: for_s: 1"),
        ("for_s = nan\n", "event 1: for_s: NaN"),
        ("for_s = 0.1\nover_s = 0.05\ntimes = 10000\nevery_s = 1\n", "steps of the script"),
        ("target = \"gpu\"\n", "event 1: target: `contention_compute` has none"),
        ("[profile]\nerror = 1.5\n", "profile.error = 1.5"),
    ] {
        let error = parse(&format!("{base}{more}")).unwrap_err().to_string();
        assert!(error.contains(wanted), "{more:?}: {error}");
    }
}
