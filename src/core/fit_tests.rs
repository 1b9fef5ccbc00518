use super::*;
use proptest::prelude::*;

const CLOCKS: [u32; 6] = [345_600, 652_800, 960_000, 1_267_200, 1_574_400, 2_035_200];

fn probe(truth: &Roofline, clock: u32, items: u32) -> Probe {
    let clock = Kilohertz(clock);
    Probe { clock, memory_share: 1.0, items, latency: truth.latency(clock, items) }
}

fn grid(truth: &Roofline, clocks: &[u32], items: &[u32]) -> Vec<Probe> {
    clocks.iter().flat_map(|&clock| items.iter().map(move |&n| probe(truth, clock, n))).collect()
}

fn relative_error(found: &Roofline, truth: &Roofline, clock: u32, items: u32) -> f64 {
    let (found, truth) = (found.latency(Kilohertz(clock), items), truth.latency(Kilohertz(clock), items));
    (found.as_f64() / truth.as_f64() - 1.0).abs()
}

prop_compose! {
    fn rooflines()(
        total in 1e-4_f64..0.5, memory in 0.05_f64..0.95, p in 1.5_f64..4.0,
        overhead in 0.0_f64..0.3, marginal in 0.1_f64..1.1,
    ) -> Roofline {
        let overhead_s = overhead * total;
        Roofline { compute_s_ghz: total * (1.0 - memory), memory_s: total * memory, p, overhead_s, marginal, memory_elasticity: 1.0 }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn it_recovers_what_made_the_data(truth in rooflines()) {
        let fit = fit_roofline(&grid(&truth, &CLOCKS, &[1, 4, 8]), None).unwrap();
        for clock in [345_600, 500_000, 800_000, 1_100_000, 1_700_000, 2_035_200] {
            for items in [1, 2, 6, 8] {
                let error = relative_error(&fit.roofline, &truth, clock, items);
                prop_assert!(error < 0.01, "{error} at {clock} kHz, {items} items: {:?}", fit.roofline);
            }
        }
        prop_assert!(fit.spread < 0.011, "{}", fit.spread);
        prop_assert_eq!((fit.clocks, fit.batch_sizes), (6, 3));
    }

    #[test]
    fn it_is_sound_and_monotone_whatever_the_data(
        data in prop::collection::vec((prop::sample::select(&CLOCKS[..]), 1_u32..9, 1_u64..1_000_000_000), 1..13),
    ) {
        let probe = |(clock, items, ns)| Probe { clock: Kilohertz(clock), memory_share: 1.0, items, latency: Nanos(ns) };
        let probes: Vec<Probe> = data.into_iter().map(probe).collect();
        let Fit { roofline, spread, .. } = fit_roofline(&probes, None).unwrap();
        let Roofline { compute_s_ghz, memory_s, p, overhead_s, marginal, .. } = roofline;
        prop_assert!(compute_s_ghz >= 0.0 && memory_s >= 0.0 && overhead_s >= 0.0, "{roofline:?}");
        prop_assert!((1.5..=4.0).contains(&p) && (0.0..=2.0).contains(&marginal), "{roofline:?}");
        prop_assert!(spread.is_finite() && spread >= 0.01, "{spread}");
        for items in [1, 3, 8] {
            let latencies = CLOCKS.map(|clock| roofline.latency(Kilohertz(clock), items));
            prop_assert!(latencies.is_sorted_by(|slow, fast| slow >= fast), "{latencies:?}");
            prop_assert!(latencies[5] > Nanos::ZERO);
        }
        for clock in CLOCKS {
            prop_assert!(roofline.latency(Kilohertz(clock), 2) >= roofline.latency(Kilohertz(clock), 1));
        }
    }

    #[test]
    fn one_clock_meets_its_data_and_splits_as_the_prior_does(truth in rooflines(), clock in prop::sample::select(&CLOCKS[..])) {
        // Same shape, three times as slow: what a profile of another variant would say.
        let prior = Roofline {
            compute_s_ghz: truth.compute_s_ghz * 3.0, memory_s: truth.memory_s * 3.0, ..truth
        };
        let fit = fit_roofline(&grid(&truth, &[clock], &[1, 4]), Some(prior)).unwrap();
        for items in [1, 4] {
            prop_assert!(relative_error(&fit.roofline, &truth, clock, items) < 0.01, "{fit:?}");
        }
        let ratio = |roofline: &Roofline| roofline.compute_s_ghz / roofline.memory_s;
        prop_assert!((ratio(&fit.roofline) / ratio(&truth) - 1.0).abs() < 0.01, "{fit:?}");
    }
}

const TRUTH: Roofline = Roofline {
    compute_s_ghz: 8e-3,
    memory_s: 2e-3,
    p: 2.0,
    overhead_s: 5e-4,
    marginal: 0.8,
    memory_elasticity: 1.0,
};

#[test]
fn parameters_themselves_come_back_from_a_clean_grid() {
    let found = fit_roofline(&grid(&TRUTH, &CLOCKS, &[1, 2, 8]), None).unwrap().roofline;
    for (found, truth) in [
        (found.compute_s_ghz, TRUTH.compute_s_ghz),
        (found.memory_s, TRUTH.memory_s),
        (found.p, TRUTH.p),
        (found.overhead_s, TRUTH.overhead_s),
        (found.marginal, TRUTH.marginal),
    ] {
        assert!((found / truth - 1.0).abs() < 0.05, "{found} is not {truth}");
    }
}

#[test]
fn without_prior_one_clock_is_split_four_to_one() {
    // 10 ms at 1 GHz, overhead 0.1 ms (5 % is 0.5 ms, capped): g = 9.9 ms, a = g * 0.8^(1/2.5).
    let probes =
        [Probe { clock: Kilohertz(1_000_000), memory_share: 1.0, items: 1, latency: Nanos::from_millis(10) }];
    let Fit { roofline, clocks, .. } = fit_roofline(&probes, None).unwrap();
    assert_eq!(clocks, 1);
    assert!((roofline.overhead_s - 1e-4).abs() < 1e-9, "{roofline:?}");
    assert!((roofline.compute_s_ghz - 9.9e-3 * 0.8_f64.powf(0.4)).abs() < 1e-6, "{roofline:?}");
    assert!((roofline.memory_s - 9.9e-3 * 0.2_f64.powf(0.4)).abs() < 1e-6, "{roofline:?}");
    assert_eq!(roofline.latency(Kilohertz(1_000_000), 1).as_micros(), 10_000);
    let half = roofline.latency(Kilohertz(500_000), 1).as_micros();
    assert!((17_000..20_000).contains(&half), "{half}");
    assert!((roofline.marginal - 1.0).abs() < 1e-9, "no batch, no gain from batching");
}

#[test]
fn an_unknown_clock_is_fitted_as_it_will_be_asked_for() {
    let latency = |items| Nanos::from_micros(2_000 + 1_000 * u64::from(items));
    let probes = [1, 4].map(|items| Probe {
        clock: Kilohertz::ZERO,
        memory_share: 1.0,
        items,
        latency: latency(items),
    });
    let fit = fit_roofline(&probes, None).unwrap();
    for items in [1, 4] {
        let found = fit.roofline.latency(Kilohertz::ZERO, items).as_f64();
        assert!((found / latency(items).as_f64() - 1.0).abs() < 1e-3, "{found}");
    }
}

#[test]
fn an_outlier_moves_neither_the_median_nor_the_spread() {
    let mut probes = Vec::new();
    for jitter in [0, 10, 20, 30, 40] {
        let latency = Nanos::from_micros(5_000 + jitter);
        probes.push(Probe { clock: Kilohertz(1_000_000), memory_share: 1.0, items: 1, latency });
    }
    probes[4].latency = Nanos::from_millis(80);
    let fit = fit_roofline(&probes, None).unwrap();
    assert_eq!(fit.roofline.latency(Kilohertz(1_000_000), 1).as_micros() / 10, 502);
    assert!(fit.spread < 0.02, "{}", fit.spread);
}

#[test]
fn noise_shows_in_the_spread() {
    let noisy = |index: u64| if index.is_multiple_of(2) { 9_000 } else { 11_000 };
    let probes: Vec<Probe> = (0..8)
        .map(|index| Probe {
            clock: Kilohertz(1),
            memory_share: 1.0,
            items: 1,
            latency: Nanos::from_micros(noisy(index)),
        })
        .collect();
    let spread = fit_roofline(&probes, None).unwrap().spread;
    // All residuals are 10 % of the median 10 ms: 1.4826 times that.
    assert!((spread - 0.148).abs() < 0.01, "{spread}");
}

#[test]
fn nothing_usable_is_an_error() {
    let zero = Probe { clock: Kilohertz(1), memory_share: 1.0, items: 0, latency: Nanos(1) };
    assert_eq!(fit_roofline(&[], None), Err(FitError::NoProbes));
    assert_eq!(
        fit_roofline(&[zero, Probe { items: 1, latency: Nanos::ZERO, ..zero }], None),
        Err(FitError::NoProbes)
    );
}

#[test]
fn a_broken_prior_is_ignored() {
    let prior = Roofline { p: f64::NAN, memory_s: f64::INFINITY, ..TRUTH };
    let probes = grid(&TRUTH, &[1_000_000], &[1]);
    assert_eq!(fit_roofline(&probes, Some(prior)), fit_roofline(&probes, None));
}

#[test]
fn the_wide_guess_is_slower_than_what_was_measured() {
    let unit = |kind| Unit {
        name: "u".to_owned(),
        kind,
        group: 0,
        domain: None,
        memory_domain: None,
        preemptible: true,
        busy_power: PowerModel::default(),
        rail: None,
    };
    // MobileNetV2 at 224 px: 300 M multiply-accumulates, about 27 MB of weights and activations; measured
    // 5.1 ms on one x86 thread at about 2.5 GHz.
    let guess = conservative(&unit(UnitKind::Cpu), 300_000_000, 27_000_000, Bytes(14 << 20));
    let latency = guess.latency.latency(Kilohertz(2_500_000), 1);
    assert!(latency > Nanos::from_millis(20) && latency < Nanos::from_millis(200), "{latency}");
    assert_eq!(guess.latency_source, Provenance::Conservative);
    for kind in [UnitKind::Gpu, UnitKind::Npu] {
        let profile = conservative(&unit(kind), u64::MAX, u64::MAX, Bytes::MAX);
        assert!(
            profile.latency.latency(Kilohertz(1), 1) > Nanos::from_secs(3_600),
            "absurd sizes do not overflow"
        );
        assert!(
            conservative(&unit(kind), 0, 0, Bytes::ZERO).latency.latency(Kilohertz(1_000_000), 1)
                > Nanos::from_millis(3)
        );
    }
}

#[test]
fn slow_memory_shows_how_the_memory_roof_moves_and_only_where_it_is_felt() {
    let truth = Roofline { memory_elasticity: 0.85, ..TRUTH };
    let slower = |share: f64, clock: u32| {
        let at = truth.with_memory_at(share);
        Probe { memory_share: share, ..probe(&at, clock, 1) }
    };
    // At 1.27 GHz memory is 2 ms beside 6.3 ms of compute, and 3.2 ms at half its clock.
    let mut probes = grid(&truth, &CLOCKS, &[1, 4]);
    probes.push(slower(0.5, CLOCKS[5]));
    let found = fit_roofline(&probes, None).unwrap().roofline;
    assert!((found.memory_elasticity - 0.85).abs() < 0.05, "{found:?}");
    // All runs with slow memory: the roof is told for fast memory all the same, in proportion.
    let slow: Vec<Probe> = CLOCKS.iter().map(|&clock| slower(0.5, clock)).collect();
    let found = fit_roofline(&slow, None).unwrap().roofline;
    let expected = truth.with_memory_at(0.5).memory_s / 2.0;
    assert!((found.memory_s / expected - 1.0).abs() < 0.05, "{found:?}");
    // Where memory does not bound it, nothing is learned of it.
    let bound = Roofline { memory_s: 1e-6, ..TRUTH };
    let mut probes = grid(&bound, &CLOCKS, &[1, 4]);
    probes.push(Probe { memory_share: 0.5, ..probe(&bound, CLOCKS[5], 1) });
    let found = fit_roofline(&probes, None).unwrap().roofline;
    assert!((found.memory_elasticity - 1.0).abs() < 1e-9, "{found:?}");
}
