use super::*;
use proptest::prelude::*;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, StandardNormal};

const NOISE: f64 = 1e-3;
const COMPUTE: Point = Point { share: 0.9, p: 2.5 };
const MEMORY: Point = Point { share: 0.2, p: 2.5 };
const MIDDLE: Point = Point { share: 0.5, p: 2.5 };

/// The truth: logarithm of the slowdown of a run.
fn truth(at: Point, compute: f64, memory: f64) -> f64 {
    (at.share * compute.powf(at.p) + (1.0 - at.share) * memory.powf(at.p)).ln() / at.p
}

fn noise(rng: &mut Xoshiro256PlusPlus) -> f64 {
    let z: f64 = StandardNormal.sample(rng);
    0.03 * z + if rng.random_bool(0.02) { rng.random_range(1.15f64..1.5).ln() } else { 0.0 }
}

/// Runs after a step until the expectation is within 5 % of the truth.
fn runs_to_absorb(seed: u64, (compute, memory): (f64, f64), points: &[Point]) -> usize {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut filter = Filter::default();
    for run in 0..100 {
        let at = points[run % points.len()];
        filter.observe(at, noise(&mut rng), 0.0, NOISE);
    }
    for run in 0..50 {
        let at = points[run % points.len()];
        if (filter.ln_factor(at).0 - truth(at, compute, memory)).abs() < 0.05 {
            return run;
        }
        filter.observe(at, truth(at, compute, memory) + noise(&mut rng), 0.0, NOISE);
    }
    50
}

#[test]
fn steps_are_absorbed_in_three_runs() {
    for (compute, memory) in [(1.5, 1.0), (2.0, 2.0), (1.0, 3.0), (0.6, 0.6), (1.2, 1.2)] {
        for points in [&[MIDDLE][..], &[COMPUTE][..], &[MEMORY, COMPUTE][..]] {
            let mut runs: Vec<usize> =
                (0..300).map(|seed| runs_to_absorb(seed, (compute, memory), points)).collect();
            runs.sort_unstable();
            let (median, p99) = (runs[150], runs[297]);
            println!(
                "compute x{compute}, memory x{memory}, {} points: median {median}, p99 {p99}",
                points.len()
            );
            assert!(median <= 3 && p99 <= 10, "compute x{compute}, memory x{memory}: {median}, {p99}");
        }
    }
}

#[test]
fn a_run_tells_of_what_it_feels() {
    let filter = Filter::default();
    assert!(filter.told(MEMORY, MEMORY, NOISE) > 0.8, "{}", filter.told(MEMORY, MEMORY, NOISE));
    assert!(filter.told(MEMORY, COMPUTE, NOISE) < 0.2, "{}", filter.told(MEMORY, COMPUTE, NOISE));
}

#[test]
fn one_hiccup_moves_little_and_a_second_is_believed() {
    let mut filter = Filter::default();
    (0..100).for_each(|_| {
        filter.observe(MIDDLE, 0.0, 0.0, NOISE);
    });
    assert!(!filter.observe(MIDDLE, 0.7, 0.0, NOISE).stepped);
    assert!(filter.ln_factor(MIDDLE).0 < 0.03, "{:?}", filter.state());
    assert!(filter.observe(MIDDLE, 0.7, 0.0, NOISE).stepped);
    assert!((filter.ln_factor(MIDDLE).0 - 0.7).abs() < 0.02, "{:?}", filter.state());
    // It was two hiccups: the next run takes it back.
    filter.observe(MIDDLE, 0.0, 0.0, NOISE);
    assert!(filter.ln_factor(MIDDLE).0.abs() < 0.02, "{:?}", filter.state());
}

#[test]
fn noise_alone_seldom_raises_the_alarm() {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(11);
    let mut filter = Filter::default();
    let runs = 20_000;
    let alarms = (0..runs).filter(|_| filter.observe(MIDDLE, noise(&mut rng), 0.0, NOISE).stepped).count();
    println!("{alarms} alarms in {runs} runs");
    assert!(alarms < runs / 200, "{alarms}");
    // And the estimate stays put: the noise's mean is 0.02 x 0.28 = 0.006.
    assert!((filter.ln_factor(MIDDLE).0 - 0.006).abs() < 0.05);
}

/// Others that crowd the memory are told from others that take the processor's time.
#[test]
fn the_two_factors_are_told_apart() {
    for (compute, memory) in [(1.0, 2.0), (1.6, 1.0)] {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(5);
        let mut filter = Filter::default();
        for run in 0..60 {
            let at = if run % 2 == 0 { COMPUTE } else { MEMORY };
            let z: f64 = StandardNormal.sample(&mut rng);
            filter.observe(at, truth(at, compute, memory) + 0.03 * z, 0.0, NOISE);
        }
        for at in [COMPUTE, MIDDLE, MEMORY, Point { share: 0.02, p: 2.5 }] {
            let off = filter.ln_factor(at).0 - truth(at, compute, memory);
            println!("x{compute} x{memory} at share {}: off by {:+.1} %", at.share, 100.0 * off);
            assert!(off.abs() < 0.06, "share {}: {off}", at.share);
        }
    }
}

#[test]
fn a_first_run_is_split_by_what_is_doubted_more() {
    // The unit is known to 1 %, the variant's profile to 200 %: the variant takes it.
    let mut filter = Filter::default();
    (0..200).for_each(|_| {
        filter.observe(MIDDLE, 0.0, 0.0, NOISE);
    });
    let update = filter.observe(MIDDLE, -1.5, 4.0, NOISE);
    assert!((update.bias + 1.5).abs() < 0.01, "{update:?}");
    assert!(filter.ln_factor(MIDDLE).0.abs() < 0.01);
}

proptest! {
    #[test]
    fn nothing_makes_it_unsound(
        runs in proptest::collection::vec((0.0f64..=1.0, 1.0f64..10.0, -800.0f64..800.0, 0.0f64..5.0, 2e-5f64..1e-2), 0..200),
    ) {
        let mut filter = Filter::default();
        for (share, p, observed, bias_variance, noise) in runs {
            let at = Point { share, p };
            let update = filter.observe(at, observed, bias_variance, noise);
            let [cc, cm, mm] = filter.covariance;
            prop_assert!(filter.state.iter().all(|ln| ln.abs() <= LN_MAX), "{filter:?}");
            prop_assert!(cc >= 0.0 && mm >= 0.0 && cm.is_finite() && cc.is_finite() && mm.is_finite(), "{filter:?}");
            prop_assert!(cm * cm <= cc * mm * (1.0 + 1e-6) + 1e-12, "{filter:?}");
            prop_assert!(update.bias.is_finite() && (0.0..=1.0).contains(&update.bias_gain));
            let (ln, slope) = filter.ln_factor(at);
            prop_assert!(ln.is_finite() && (0.0..=1.0).contains(&slope));
        }
    }
}
