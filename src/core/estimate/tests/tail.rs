use super::*;
use proptest::prelude::*;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, StandardNormal};

/// The noise of a busy board: 3 % lognormal, and one run of a hundred 15 to 50 % late.
fn noise(rng: &mut Xoshiro256PlusPlus) -> f64 {
    let z: f64 = StandardNormal.sample(rng);
    let late = if rng.random_bool(0.01) { rng.random_range(1.15..1.5) } else { 1.0 };
    (0.03 * z).exp() * late
}

fn filled(seed: u64, runs: usize, gaussian: bool) -> (Tail, Xoshiro256PlusPlus) {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut tail = Tail::new(gaussian);
    (0..runs).for_each(|_| tail.observe(noise(&mut rng), false));
    (tail, rng)
}

/// Share of runs that were later than the quantile promised before each of them, and the promised mean excess
/// against the real one.
fn coverage(seed: u64, gaussian: bool, p: f64) -> f64 {
    let (mut tail, mut rng) = filled(seed, WINDOW, gaussian);
    let runs = 20_000;
    let mut late = 0.0;
    for _ in 0..runs {
        let ratio = noise(&mut rng);
        late += if ratio > tail.quantile(p) { 1.0 } else { 0.0 };
        tail.observe(ratio, false);
    }
    late / f64::from(runs)
}

#[test]
fn promised_quantiles_are_kept_under_a_heavy_tail() {
    for seed in 1..=3 {
        for (p, most) in [(0.9, 0.115), (0.95, 0.06), (0.99, 0.013), (0.999, 0.002)] {
            let late = coverage(seed, false, p);
            println!("seed {seed}: {p} leaves {late:.5}");
            assert!(late <= most && late >= (1.0 - p) / 5.0, "seed {seed}: {p} leaves {late}");
        }
    }
}

#[test]
fn a_normal_distribution_promises_what_it_does_not_keep() {
    let (own, normal) = (coverage(7, false, 0.999), coverage(7, true, 0.999));
    println!("one of 1000: {own:.5} by residuals, {normal:.5} by mean and deviation");
    assert!(normal > 3.0 * own, "{own} {normal}");
}

#[test]
fn the_cold_tail_is_wide_and_gives_way_to_what_was_seen() {
    let mut tail = Tail::new(false);
    // e^(-x/0.03) + 4 e^(-x/0.1) = 0.05 at x = 0.4382.
    assert!((tail.quantile(0.99) - 1.3382).abs() < 1e-3, "{}", tail.quantile(0.99));
    // A fifth of 0.93 and four fifths of 1.
    assert!((tail.mean_excess(0.0) - 0.986).abs() < 1e-12, "{}", tail.mean_excess(0.0));
    for run in 0..60 {
        tail.observe(if run % 2 == 0 { 1.01 } else { 0.99 }, false);
    }
    let early = tail.quantile(0.99);
    assert!((1.05..1.2).contains(&early), "{early}");
    (0..540).for_each(|_| tail.observe(1.0, false));
    assert!(tail.quantile(0.99) < 1.02, "{}", tail.quantile(0.99));
}

#[test]
fn ranks_give_the_probabilities() {
    // 1024 residuals, the i-th smallest 1 + i/1000, the next, and 4 of the prior, e^(-(r - 0.9)/0.1) of them above r.
    let mut tail = Tail::new(false);
    let mut residuals: Vec<f64> = (1..=WINDOW).map(|i| 1.0 + count(i) / 1000.0).collect();
    residuals.reverse();
    tail.restore(&residuals);
    assert_eq!(tail.sorted.len(), WINDOW);
    for i in [1, 100, 512, 1024] {
        let ratio = 1.0 + count(i) / 1000.0;
        let expected = (1025.0 - count(i) + 4.0 * (-(ratio - 0.9) / 0.1).exp()) / 1029.0;
        assert!((tail.survival(ratio) - expected).abs() < 1e-9, "{i}");
    }
    // The mean of 1.001 .. 2.024 is 1.5125, that of the next, if it is beyond, 2.054, and that of the prior 1.
    let mean = (1024.0 * 1.5125 + 2.054 + 4.0) / 1029.0;
    assert!((tail.mean_excess(0.0) - mean).abs() < 1e-9, "{} {mean}", tail.mean_excess(0.0));
    // One in a thousand of 1029 is the next.
    assert!((tail.quantile(0.999) - 2.024).abs() < 1e-9, "{}", tail.quantile(0.999));
}

#[test]
fn late_runs_that_cluster_are_expected_to() {
    // Runs are 3 % off; a tenth of the time everything is 40 % late for five runs.
    let run = |burst: bool, seed: u64| {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut tail = Tail::new(false);
        let (mut left, mut late_after, mut after) = (0, 0.0f64, 0.0f64);
        for index in 0..4000 {
            if left == 0 && rng.random_bool(if burst { 0.01 } else { 0.05 }) {
                left = if burst { 5 } else { 1 };
            }
            let z: f64 = StandardNormal.sample(&mut rng);
            let ratio = (0.03 * z).exp() * if left > 0 { 1.4 } else { 1.0 };
            left = (left - 1i32).max(0);
            if index > 1000 && tail.was_late {
                after += 1.0;
                late_after += if ratio > tail.quantile(0.95) { 1.0 } else { 0.0 };
            }
            tail.observe(ratio, false);
        }
        let calm = {
            let mut calm = tail.clone();
            calm.observe(1.0, false);
            calm.odds
        };
        tail.observe(1.4, false);
        (tail.odds / calm, late_after / after)
    };
    let ((clustered, misses), (single, _)) = (run(true, 5), run(false, 5));
    println!(
        "odds after a late run: {clustered:.1} times in bursts ({misses:.2} missed again), {single:.1} without"
    );
    assert!(clustered > 5.0, "{clustered}");
    assert!(single < 3.0, "{single}");
    assert!(misses < 0.35, "{misses}");
}

#[test]
fn doubt_widens_and_fades() {
    let (mut tail, _) = filled(3, WINDOW, false);
    let calm = tail.survival(1.1);
    tail.doubt();
    assert!(tail.survival(1.1) > 3.0 * calm);
    (0..8).for_each(|_| tail.observe(1.0, false));
    assert!(tail.survival(1.1) < 1.2 * calm);
}

#[test]
fn what_is_restored_promises_the_same() {
    let (tail, _) = filled(9, 700, false);
    let mut other = Tail::new(false);
    other.restore(&tail.residuals().collect::<Vec<_>>());
    assert_eq!(other.sorted, tail.sorted);
    assert_eq!(other.residuals().collect::<Vec<_>>(), tail.residuals().collect::<Vec<_>>());
}

fn anything() -> impl Strategy<Value = f64> {
    prop_oneof![
        10 => 0.5f64..2.0,
        2 => Just(1.0),
        1 => prop_oneof![Just(0.0), Just(f64::NAN), Just(f64::INFINITY), Just(1e-300), Just(-5.0), Just(1e300)],
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn whatever_was_seen_it_is_a_distribution(
        seen in proptest::collection::vec((anything(), 0u8..40), 0..900),
        gaussian in any::<bool>(),
    ) {
        let mut tail = Tail::new(gaussian);
        for (ratio, doubt) in seen {
            tail.observe(ratio, false);
            if doubt == 0 { tail.doubt(); }
        }
        let mut ratios: Vec<f64> = (0..200).map(|i| f64::from(i) / 50.0).collect();
        ratios.extend([10.0, 1e3, 1e9, f64::MAX]);
        let mut last = (1.0 + 1e-12, f64::INFINITY);
        for &ratio in &ratios {
            let (survival, excess) = (tail.survival(ratio), tail.mean_excess(ratio));
            prop_assert!(survival > 0.0 && survival <= last.0, "{ratio}: {survival} after {}", last.0);
            prop_assert!(excess >= 0.0 && excess <= last.1 + 1e-9, "{ratio}: {excess} after {}", last.1);
            last = (survival, excess);
        }
        let mut before = 0.0f64;
        for p in [0.0, 0.01, 0.3, 0.5, 0.9, 0.99, 0.999, 0.999_99] {
            let quantile = tail.quantile(p);
            prop_assert!(quantile.is_finite() && quantile >= before - 1e-12);
            before = quantile;
            // At a heap of equal residuals the survival function leaps: just below, it is above 1 - p, just above, below.
            prop_assert!(tail.survival(quantile * (1.0 + 1e-9) + 1e-9) <= 1.0 - p + 1e-6);
            if quantile > 0.0 && p > 0.0 {
                prop_assert!(tail.survival(quantile * (1.0 - 1e-9) - 1e-9) >= 1.0 - p - 1e-6);
            }
        }
        prop_assert!(tail.sorted.windows(2).all(|pair| pair[0] <= pair[1]));
        prop_assert!(tail.sorted.len() <= WINDOW);
    }

    /// The slope of the mean excess is the survival function over all runs.
    #[test]
    fn the_mean_excess_is_the_integral(seed in 0u64..1000, ratio in 0.3f64..2.0) {
        let (tail, _) = filled(seed, 300, false);
        let step = 1e-5;
        let slope = (tail.mean_excess(ratio - step) - tail.mean_excess(ratio + step)) / (2.0 * step);
        prop_assert!((slope - tail.seen(ratio)).abs() < 0.005, "{slope} {}", tail.seen(ratio));
    }
}
