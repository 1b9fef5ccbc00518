use super::*;
use crate::core::catalog::{
    Board, Domain, DomainId, Model, ModelId, PowerModel, Roofline, ThermalModel, Unit, UnitKind, Variant,
};
use crate::units::{Bytes, Ppm};
use proptest::prelude::*;

/// Compute, memory, exponent and whether it was measured, as a random profile has them.
type Roof = (f64, f64, f64, bool);

/// What a catalogue is rolled from: per unit its clocks in MHz and power; per variant and unit a profile.
#[derive(Debug, Clone)]
struct Plan {
    units: Vec<(Vec<u32>, f64, f64)>,
    variants: Vec<Vec<Option<Roof>>>,
}

fn plan() -> impl Strategy<Value = Plan> {
    let clocks = prop_oneof![
        Just(vec![]),
        Just(vec![1000]),
        proptest::collection::btree_set(100u32..3000, 1..14).prop_map(|set| set.into_iter().collect()),
    ];
    let power = prop_oneof![Just(0.0), 0.1f64..20.0];
    let profile = (
        prop_oneof![Just(0.0), 1e-6f64..1.0],
        prop_oneof![Just(0.0), 1e-6f64..1.0],
        1.0f64..4.0,
        any::<bool>(),
    );
    (1usize..4, 1usize..5).prop_flat_map(move |(units, variants)| {
        let row = proptest::collection::vec(proptest::option::weighted(0.8, profile.clone()), units);
        (
            proptest::collection::vec((clocks.clone(), power.clone(), power.clone()), units),
            proptest::collection::vec(row, variants),
        )
            .prop_map(|(units, variants)| Plan { units, variants })
    })
}

fn catalog(plan: &Plan) -> Catalog {
    let mut board = Board {
        name: "rolled".into(),
        units: vec![],
        domains: vec![],
        zones: vec![],
        rails: vec![],
        idle_power: Microwatts::from_watts(plan.units[0].2),
        thermal: ThermalModel { fast_k_per_w: 1.0, fast_tau_s: 1.0, slow_k_per_w: 1.0, slow_tau_s: 10.0 },
    };
    for (index, (clocks, constant_w, linear)) in plan.units.iter().enumerate() {
        let opps = clocks.iter().map(|mhz| Kilohertz(mhz * 1000)).collect();
        board.domains.push(Domain {
            name: format!("d{index}"),
            opps,
            settle: Nanos::ZERO,
            held_power: PowerModel::default(),
        });
        board.units.push(Unit {
            name: format!("u{index}"),
            kind: UnitKind::Cpu,
            group: u8::try_from(index).unwrap(),
            domain: Some(DomainId::at(index)),
            memory_domain: None,
            preemptible: true,
            busy_power: PowerModel {
                constant_w: *constant_w,
                linear_w_per_ghz: *linear,
                cubic_w_per_ghz3: 0.0,
            },
            rail: None,
        });
    }
    let profile = |(compute_s_ghz, memory_s, p, measured): (f64, f64, f64, bool)| Profile {
        latency: Roofline {
            compute_s_ghz,
            memory_s,
            p,
            overhead_s: 0.0,
            marginal: 1.0,
            memory_elasticity: 1.0,
        },
        spread: 0.02,
        latency_source: if measured { Provenance::Measured } else { Provenance::Conservative },
        power_scale: 1.0,
        power_source: Provenance::Modelled,
        footprint: Bytes(1),
    };
    let variants: Vec<Variant> = plan
        .variants
        .iter()
        .map(|row| Variant {
            name: "v".into(),
            model: ModelId(0),
            accuracy: Ppm::ONE,
            profiles: row.iter().map(|cell| cell.map(profile)).collect(),
        })
        .collect();
    let ids = (0..variants.len()).map(VariantId::at).collect();
    Catalog { board, models: vec![Model { name: "m".into(), variants: ids, max_batch: 1 }], variants }
}

/// Everything that can be asked has a sound answer.
fn check(catalog: &Catalog, estimates: &Estimates) -> Result<(), TestCaseError> {
    prop_assert!(estimates.idle_power() >= Microwatts::ZERO);
    for unit in (0..catalog.board.units.len()).map(UnitId::at) {
        prop_assert!(estimates.mean_excess(unit, 0.0).is_finite());
        for variant in (0..catalog.variants.len()).map(VariantId::at) {
            for point in [0, 1, 500_000, 1_000_000, u32::MAX].map(Kilohertz).map(OperatingPoint::of_clock) {
                let slowdown = estimates.slowdown_at(variant, unit, point);
                prop_assert!(slowdown > 0.0 && slowdown.is_finite(), "{slowdown}");
                let watts = estimates.busy_watts(variant, unit, point);
                prop_assert!(watts >= 0.0 && watts.is_finite(), "{watts}");
            }
            prop_assert!(estimates.slowdown(variant, unit) > 0.0);
            let mut last = 1.0;
            for ratio in [0.0, 0.5, 0.99, 1.0, 1.01, 1.2, 2.0, 50.0] {
                let survival = estimates.survival(variant, unit, ratio);
                prop_assert!(survival > 0.0 && survival <= last, "{ratio}: {survival} after {last}");
                last = survival;
            }
            for p in [0.5, 0.9, 0.999] {
                let quantile = estimates.quantile(variant, unit, p);
                prop_assert!(
                    estimates.survival(variant, unit, quantile * (1.0 + 1e-9)) <= 1.0 - p + 1e-6,
                    "{p} {quantile} {} {:?}",
                    estimates.survival(variant, unit, quantile * (1.0 + 1e-9)),
                    estimates.tails[unit.index()]
                );
            }
        }
    }
    Ok(())
}

#[derive(Debug, Clone)]
enum Step {
    Run { variant: usize, unit: usize, mhz: u32, profiled: u64, actual: u64, joules: f64 },
    Fault(usize),
    Sweep { watts: i64, celsius: f64 },
    Forget { variant: usize, unit: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let time = prop_oneof![Just(0u64), Just(1), 1_000_000u64..50_000_000, Just(u64::MAX)];
    let joules = prop_oneof![0.0f64..1.0, Just(0.0), Just(f64::NAN), Just(-1.0), Just(1e30)];
    let celsius = prop_oneof![-40.0f64..120.0, Just(f64::NAN)];
    prop_oneof![
        8 => (0usize..8, 0usize..8, 0u32..3000, time.clone(), time, joules)
            .prop_map(|(variant, unit, mhz, profiled, actual, joules)| Step::Run { variant, unit, mhz, profiled, actual, joules }),
        1 => (0usize..8).prop_map(Step::Fault),
        3 => (prop_oneof![-1_000i64..30_000_000, Just(i64::MAX), Just(i64::MIN)], celsius).prop_map(|(watts, celsius)| Step::Sweep { watts, celsius }),
        1 => (0usize..8, 0usize..8).prop_map(|(variant, unit)| Step::Forget { variant, unit }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn any_catalogue_and_any_readings_leave_it_sound(
        plan in plan(),
        steps in proptest::collection::vec(step(), 0..60),
        tuning in (any::<bool>(), any::<bool>()),
    ) {
        let catalog = catalog(&plan);
        let tuning = Tuning { one_slowdown: tuning.0, gaussian_tail: tuning.1, ..Tuning::default() };
        let mut estimates = Estimates::tuned(&catalog, tuning);
        let (units, variants) = (catalog.board.units.len(), catalog.variants.len());
        check(&catalog, &estimates)?;
        let mut now = Timestamp::ZERO;
        for step in steps {
            now = now.after(Nanos::from_millis(20));
            match step {
                Step::Run { variant, unit, mhz, profiled, actual, joules } => {
                    let (variant, unit) = (VariantId::at(variant % variants), UnitId::at(unit % units));
                    let clock = OperatingPoint::of_clock(Kilohertz(mhz * 1000));
                    estimates.begin(variant, unit, clock, now);
                    now = now.after(Nanos(actual.min(1 << 40)));
                    estimates.end(unit, now);
                    estimates.observe_energy(variant, unit, clock, Nanos(actual), joules);
                    estimates.observe_latency(variant, unit, clock, Nanos(profiled), Nanos(actual));
                }
                Step::Fault(unit) => estimates.fault(UnitId::at(unit % units)),
                Step::Sweep { watts, celsius } => {
                    let busy = estimates.close_interval(now, Some(celsius));
                    estimates.observe_power(Microwatts(watts), busy, now);
                }
                Step::Forget { variant, unit } => estimates.forget(&catalog, VariantId::at(variant % variants), UnitId::at(unit % units)),
            }
        }
        check(&catalog, &estimates)?;
        // And so does the next life, which says the same of the power.
        let learned = estimates.learned();
        let text = serde_json::to_string(&learned).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Learned>(&text).unwrap(), &learned);
        let mut next = Estimates::tuned(&catalog, tuning);
        next.restore(&learned);
        check(&catalog, &next)?;
        prop_assert!(next.learned().units.iter().zip(&learned.units).all(|(a, b)| a.residuals == b.residuals && a.power == b.power));
    }
}

fn two_clocks() -> (Catalog, VariantId, UnitId) {
    let plan = Plan {
        units: vec![(vec![500, 2000], 1.0, 2.0)],
        variants: vec![vec![Some((0.02, 0.02, 2.0, true))], vec![Some((0.04, 0.001, 2.0, true))]],
    };
    (catalog(&plan), VariantId(0), UnitId(0))
}

const MS: Nanos = Nanos::from_millis(1);

#[test]
fn a_variant_that_is_off_does_not_slow_the_others() {
    let (catalog, first, unit) = two_clocks();
    let mut estimates = Estimates::new(&catalog);
    let clock = OperatingPoint::of_clock(Kilohertz(2_000_000));
    for _ in 0..40 {
        estimates.observe_latency(first, unit, clock, MS, MS);
    }
    for _ in 0..20 {
        estimates.observe_latency(VariantId(1), unit, clock, MS, Nanos::from_micros(1200));
        estimates.observe_latency(first, unit, clock, MS, MS);
    }
    assert!(
        (estimates.slowdown(VariantId(1), unit) - 1.2).abs() < 0.03,
        "{}",
        estimates.slowdown(VariantId(1), unit)
    );
    assert!((estimates.slowdown(first, unit) - 1.0).abs() < 0.03, "{}", estimates.slowdown(first, unit));
}

#[test]
fn crowded_memory_slows_fast_clocks_more() {
    // At 500 MHz compute takes 40 ms of (40, 20); at 2 GHz 10 of (10, 20): the memory's share is 1/5 and 4/5.
    let (catalog, variant, unit) = two_clocks();
    let mut estimates = Estimates::new(&catalog);
    let (slow, fast) =
        (OperatingPoint::of_clock(Kilohertz(500_000)), OperatingPoint::of_clock(Kilohertz(2_000_000)));
    let ms = |compute: f64, memory: f64| Nanos::from_secs_f64(compute.hypot(memory) / 1e3);
    for _ in 0..40 {
        estimates.observe_latency(variant, unit, slow, ms(40.0, 20.0), ms(40.0, 40.0));
        estimates.observe_latency(variant, unit, fast, ms(10.0, 20.0), ms(10.0, 40.0));
    }
    // sqrt(3200/2000) = 1.265, sqrt(1700/500) = 1.844; the other variant hardly feels it.
    assert!((estimates.slowdown_at(variant, unit, slow) - 1.265).abs() < 0.03);
    assert!((estimates.slowdown_at(variant, unit, fast) - 1.844).abs() < 0.03);
    assert!(estimates.slowdown_at(VariantId(1), unit, fast) < 1.1);
    // One slowdown for all says the same of every clock and variant.
    let mut one = Estimates::tuned(&catalog, Tuning { one_slowdown: true, ..Tuning::default() });
    (0..40).for_each(|_| one.observe_latency(variant, unit, fast, MS, MS));
    for _ in 0..40 {
        one.observe_latency(variant, unit, fast, ms(10.0, 20.0), ms(10.0, 40.0));
    }
    let difference = one.slowdown_at(variant, unit, slow) - one.slowdown_at(variant, unit, fast);
    assert!(difference.abs() < 1e-9 && one.slowdown_at(VariantId(1), unit, fast) > 1.3);
}

#[test]
fn a_new_variant_is_doubted_for_its_first_runs() {
    let (catalog, variant, unit) = two_clocks();
    let mut estimates = Estimates::new(&catalog);
    (0..80).for_each(|_| {
        estimates.observe_latency(variant, unit, OperatingPoint::of_clock(Kilohertz(2_000_000)), MS, MS)
    });
    assert!(estimates.survival(VariantId(1), unit, 1.02) > estimates.survival(variant, unit, 1.02));
    let wide = estimates.quantile(VariantId(1), unit, 0.999);
    assert!(wide > estimates.quantile(variant, unit, 0.999), "{wide}");
}

fn ms(ms: u64) -> Nanos {
    Nanos::from_millis(ms)
}

#[test]
fn units_of_one_processor_share_what_slows_it_down() {
    let plan = Plan {
        units: vec![(vec![500, 2000], 1.0, 2.0), (vec![500, 2000], 1.0, 2.0), (vec![500, 2000], 1.0, 2.0)],
        variants: vec![vec![Some((0.02, 0.0, 2.0, true)); 3]],
    };
    let mut catalog = catalog(&plan);
    for (unit, group) in catalog.board.units.iter_mut().zip([0, 0, 1]) {
        unit.group = group;
    }
    let mut estimates = Estimates::new(&catalog);
    let (variant, point) = (VariantId(0), OperatingPoint::of_clock(Kilohertz(2_000_000)));
    for unit in (0..3).map(UnitId) {
        (0..20).for_each(|_| estimates.observe_latency(variant, unit, point, ms(10), ms(10)));
    }
    // One thread feels it; it passes while only two threads run.
    (0..20).for_each(|_| estimates.observe_latency(variant, UnitId(0), point, ms(10), ms(16)));
    assert!(estimates.slowdown(variant, UnitId(1)) > 1.5, "{}", estimates.slowdown(variant, UnitId(1)));
    (0..20).for_each(|_| estimates.observe_latency(variant, UnitId(1), point, ms(10), ms(10)));
    assert!(estimates.slowdown(variant, UnitId(0)) < 1.05, "{}", estimates.slowdown(variant, UnitId(0)));
    assert!((estimates.slowdown(variant, UnitId(2)) - 1.0).abs() < 0.02, "another processor");
}

#[test]
fn a_slowdown_that_nothing_shows_any_more_is_doubted_ever_later() {
    let (catalog, variant, unit) = two_clocks();
    let mut estimates = Estimates::new(&catalog);
    let point = OperatingPoint::of_clock(Kilohertz(2_000_000));
    let at = |since: u64| Timestamp::ZERO.after(ms(since));
    let slow = |estimates: &mut Estimates, since: u64| {
        estimates.begin(variant, unit, point, at(since));
        (0..9).for_each(|_| estimates.observe_latency(variant, unit, point, ms(10), ms(20)));
    };
    // How far its profile is off is known before.
    (0..40).for_each(|_| estimates.observe_latency(variant, unit, point, ms(10), ms(10)));
    slow(&mut estimates, 0);
    assert!(!estimates.doubt(unit, at(400)), "it was seen just now");
    assert!(estimates.slowdown(variant, unit) > 1.8);
    assert!(estimates.doubt(unit, at(600)));
    assert!(estimates.slowdown(variant, unit) < 1.05);
    assert!(!estimates.doubt(unit, at(9000)), "there is nothing to doubt");
    estimates.begin(variant, unit, point, at(10_000));
    estimates.observe_latency(variant, unit, point, ms(10), ms(19));
    assert!(estimates.slowdown(variant, unit) > 1.8, "one run that is as slow brings it back");
    assert!(!estimates.doubt(unit, at(10_900)), "it proved true once");
    assert!(estimates.doubt(unit, at(11_100)));
    // A run that is not slow ends that.
    (0..9).for_each(|_| estimates.observe_latency(variant, unit, point, ms(10), ms(10)));
    slow(&mut estimates, 20_000);
    assert!(estimates.doubt(unit, at(20_600)));
}
