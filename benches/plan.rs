//! What one decision costs: 64 requests queued, 8 variants, 3 units, 12 clocks.
//!
//! `cargo bench --bench plan`. The first line printed is the distribution over 20,000 decisions; the target is a
//! 99th percentile of at most 50 us.

use wattd::core::Core;
use wattd::core::catalog::*;
use wattd::core::energy::*;
use wattd::core::estimate::Estimates;
use wattd::core::event::*;
use wattd::core::points::OperatingPoint;
use wattd::time::{Clock, MonotonicClock, Timestamp};
use wattd::units::*;

fn main() {
    let clock = MonotonicClock::start();
    let mut spans = Vec::new();
    for round in 0..300 {
        let mut core = full_core(round);
        for _ in 0..64 {
            let before = clock.now();
            let more = decide(&mut core);
            spans.push(clock.now().since(before).0);
            if !more {
                break;
            }
        }
    }
    spans.sort_unstable();
    let at = |share: usize| spans[(spans.len() * share / 1000).min(spans.len() - 1)];
    println!(
        "decisions {}: p50 {} ns, p99 {} ns, p99.9 {} ns, most {} ns",
        spans.len(),
        at(500),
        at(990),
        at(999),
        at(1000)
    );
    divan::main();
}

#[divan::bench]
fn decision_with_a_full_queue(bencher: divan::Bencher<'_, '_>) {
    bencher.with_inputs(|| full_core(1)).bench_local_refs(decide);
}

#[divan::bench]
fn decision_with_one_request(bencher: divan::Bencher<'_, '_>) {
    let mut core = idle_core();
    let mut id = 1_000;
    bencher.bench_local(|| {
        id += 1;
        core.handle(Timestamp(1_000_000 + id), Event::Submit(request(id, 0)));
        finish(&mut core, Timestamp(1_000_500 + id))
    });
}

/// A run's latency and energy, learned.
#[divan::bench]
fn estimators_observe_a_run(bencher: divan::Bencher<'_, '_>) {
    let (mut estimates, mut round) = (learned(), 0);
    bencher.bench_local(|| {
        round += 1;
        observe(&mut estimates, round);
    });
}

/// What the planner asks of one configuration.
#[divan::bench]
fn estimators_price_a_configuration(bencher: divan::Bencher<'_, '_>) {
    let (estimates, mut point) = (learned(), 0);
    bencher.bench_local(|| {
        point = (point + 1) % 4;
        let (variant, unit) = (VariantId(0), UnitId(0));
        let slowdown = estimates.slowdown_at_point(variant, unit, point);
        (
            slowdown * estimates.busy_watts_at_point(variant, unit, point),
            estimates.survival(variant, unit, 1.1),
        )
    });
}

fn learned() -> Estimates {
    let mut estimates = Estimates::new(idle_core().catalog());
    (0..1000).for_each(|round| observe(&mut estimates, round));
    estimates
}

fn observe(estimates: &mut Estimates, round: u64) {
    let (variant, unit, clock) = (VariantId(0), UnitId(0), Kilohertz(1_000_000));
    // Between 9.5 and 10.5 ms, and one of 97 half as long again.
    let actual =
        Nanos(9_500_000 + round * 7_919 % 1_000_000 + if round.is_multiple_of(97) { 5_000_000 } else { 0 });
    estimates.observe_latency(variant, unit, OperatingPoint::of_clock(clock), Nanos::from_millis(10), actual);
    estimates.observe_energy(
        variant,
        unit,
        OperatingPoint::of_clock(clock),
        actual,
        actual.as_secs_f64() * 2.0,
    );
}

/// Ends the batch that runs, if one does: the core settles, learns, and decides on the next.
fn decide(core: &mut Core) -> bool {
    finish(core, Timestamp(2_000_000_000))
}

fn finish(core: &mut Core, now: Timestamp) -> bool {
    let mut batch = None;
    while let Some(effect) = core.poll_effect() {
        if let Effect::Dispatch(dispatch) = effect {
            batch = Some(dispatch.batch);
        }
    }
    let Some(batch) = batch else { return false };
    let started = now.before(Nanos::from_millis(5));
    core.handle(
        now,
        Event::Completed(Completion { batch, started, finished: now, energy: None, result: Ok(()) }),
    );
    true
}

fn request(id: u64, deadline_ms: u64) -> Request {
    Request {
        id: RequestId(id),
        app: AppId(1),
        class: ClassId(0),
        model: ModelId(0),
        items: 1,
        input_bytes: Bytes(784),
        deadline: (deadline_ms > 0).then_some(Timestamp(3_000_000_000 + deadline_ms * 1_000_000)),
        min_accuracy: None,
        max_energy: None,
        variant: None,
        priority: None,
    }
}

fn full_core(seed: u64) -> Core {
    let mut core = idle_core();
    for id in 0..70 {
        core.handle(Timestamp(1_000_000), Event::Submit(request(id, 1_000 + (id * 37 + seed * 11) % 500)));
    }
    core
}

fn idle_core() -> Core {
    let mut core = Core::new(catalog(), budgets(), Timestamp::ZERO);
    let reading =
        Ok(ClockState { current: Kilohertz(1_000_000), min: Kilohertz(0), max: Kilohertz(9_000_000) });
    core.handle(
        Timestamp::ZERO,
        Event::Sampled(Readings {
            zones: vec![Ok(MilliCelsius(40_000))],
            rails: vec![],
            domains: vec![reading; 3],
            battery: None,
            memory: Err(SensorFault::Missing),
            pressure: None,
        }),
    );
    core.handle(Timestamp::ZERO, Event::Retain { model: ModelId(0), resident: true });
    for _ in 0..8 {
        let mut loads = Vec::new();
        while let Some(effect) = core.poll_effect() {
            if let Effect::Load { variant, unit } = effect {
                loads.push((variant, unit));
            }
        }
        for (variant, unit) in loads {
            core.handle(Timestamp::ZERO, Event::Loaded { variant, unit, footprint: Bytes(1 << 20) });
        }
    }
    core
}

fn catalog() -> Catalog {
    let opps: Vec<Kilohertz> = (1..=12).map(|step| Kilohertz(step * 150_000)).collect();
    let units = ["cpu", "gpu", "npu"].iter().enumerate().map(|(index, name)| Unit {
        name: (*name).to_owned(),
        kind: [UnitKind::Cpu, UnitKind::Gpu, UnitKind::Npu][index],
        group: u8::try_from(index).unwrap_or(0),
        domain: Some(DomainId::at(index)),
        memory_domain: None,
        preemptible: index == 0,
        busy_power: PowerModel { constant_w: 0.5, linear_w_per_ghz: 1.0, cubic_w_per_ghz3: 1.0 },
        rail: None,
    });
    let domain = |name: &str| Domain {
        name: name.to_owned(),
        opps: opps.clone(),
        settle: Nanos::from_millis(1),
        held_power: PowerModel::default(),
    };
    let profile = |scale: f64| Profile {
        latency: Roofline {
            compute_s_ghz: 0.01 * scale,
            memory_s: 0.002 * scale,
            p: 2.0,
            overhead_s: 1e-4,
            marginal: 0.7,
            memory_elasticity: 1.0,
        },
        spread: 0.02,
        latency_source: Provenance::Measured,
        power_scale: 1.0,
        power_source: Provenance::Modelled,
        footprint: Bytes(1 << 20),
    };
    Catalog {
        board: Board {
            name: "bench".to_owned(),
            units: units.collect(),
            domains: vec![domain("cpu"), domain("gpu"), domain("npu")],
            zones: vec![Zone {
                name: "soc".to_owned(),
                passive: MilliCelsius(90_000),
                critical: MilliCelsius(100_000),
            }],
            rails: vec![],
            idle_power: Microwatts(2_000_000),
            thermal: ThermalModel { fast_k_per_w: 1.0, fast_tau_s: 2.0, slow_k_per_w: 3.0, slow_tau_s: 60.0 },
        },
        models: vec![Model { name: "m".to_owned(), variants: (0..8).map(VariantId).collect(), max_batch: 8 }],
        variants: (0..8u16)
            .map(|step| Variant {
                name: format!("v{step}"),
                model: ModelId(0),
                accuracy: Ppm(950_000 - u32::from(step) * 10_000),
                profiles: vec![Some(profile(1.0 / f64::from(step + 1))); 3],
            })
            .collect(),
    }
}

fn budgets() -> Budgets {
    Budgets {
        objective: Objective::LeastEnergy,
        power_cap: Some(Microwatts(8_000_000)),
        power_window: Nanos::from_secs(1),
        energy: None,
        battery: None,
        max_temperature: None,
        temperature_margin: MilliCelsius(3_000),
        memory_cap: Bytes(1 << 30),
        queue_limit: 128,
        app_limit: 128,
        unload_after: None,
        stale_after: Nanos::from_secs(60),
        classes: vec![ClassBudget {
            name: "default".to_owned(),
            latency: Nanos::from_millis(100),
            min_accuracy: Ppm(800_000),
            accuracy_target: Some(Ppm(900_000)),
            priority: 10,
            energy_per_request: None,
            power: None,
            rescue: true,
        }],
    }
}
