use super::*;
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::ChaCha8Rng;

const POLICY: Policy = Policy {
    shadow_requests: 50,
    canary_requests: 100,
    max_failures: 1,
    max_latency_ratio: 1.5,
    max_energy_ratio: 1.5,
};

/// Answers whose latency and energy are spread evenly by 40 % about means, a share of them late.
fn side(rng: &mut ChaCha8Rng, answers: u32, latency_us: f64, energy_uj: f64, late: f64) -> Side {
    let mut side = Side { answers, ..Side::default() };
    for _ in 0..answers {
        side.latency_us.add(latency_us * rng.random_range(0.6..1.4));
        side.energy_uj.add(energy_uj * rng.random_range(0.6..1.4));
        side.late += u32::from(rng.random_bool(late));
    }
    side
}

fn canary(trial: Side, serving: Side) -> Evidence {
    Evidence { loaded: true, runnable: true, trial, serving, ..Evidence::default() }
}

proptest! {
    /// Even if nothing worse is allowed, a version that is as good goes on. The rules are looked at once for each of 100
    /// answers here; three standard errors on each side leave less than one in a thousand for each.
    #[test]
    fn what_is_as_good_goes_on(seed: u64, late in 0.0..0.2_f64) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let equal = Policy { max_latency_ratio: 1.2, max_energy_ratio: 1.2, ..POLICY };
        let serving = side(&mut rng, 900, 1000.0, 50.0, late);
        let trial = side(&mut rng, 100, 1000.0, 50.0, late * 0.5);
        prop_assert_eq!(judge(Stage::Canary, &canary(trial, serving), &equal), Verdict::Advance);
    }

    /// 40 % about a mean is a deviation of 0.8/sqrt(12) = 23 %; of 100 answers the mean is off by 2.3 %. Twice as slow is
    /// 2 - 3 * 0.046 = 1.86 at least, and 1.5 * (1 + 3 * 0.008) = 1.54 is allowed.
    #[test]
    fn what_is_twice_as_slow_or_hungry_is_taken_back(seed: u64, factor in 2.0..9.0_f64, slow: bool) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let serving = side(&mut rng, 900, 1000.0, 50.0, 0.0);
        let (latency, energy) = if slow { (1000.0 * factor, 50.0) } else { (1000.0, 50.0 * factor) };
        let trial = side(&mut rng, 100, latency, energy, 0.0);
        let verdict = judge(Stage::Canary, &canary(trial, serving), &POLICY);
        let right = match verdict {
            Verdict::RollBack(Cause::Slower { mean, serving }) => slow && mean > serving,
            Verdict::RollBack(Cause::Hungrier { mean, serving }) => !slow && mean > serving,
            _ => false,
        };
        prop_assert!(right, "{:?}", verdict);
    }

    /// No evidence whatever takes a version on that failed too often, and it is failing that is named.
    #[test]
    fn failures_stop_it_whatever_else(
        failed in 2..1000_u32, answers: u32, compared: u32, numbers in proptest::array::uniform4(any::<f64>()),
    ) {
        let mut trial = Side { answers, late: answers / 2, ..Side::default() };
        numbers.into_iter().for_each(|number| trial.latency_us.add(number));
        let evidence = Evidence { failed, compared, far_off: true, ..canary(trial, trial) };
        for stage in [Stage::Shadow, Stage::Canary] {
            let verdict = judge(stage, &evidence, &POLICY);
            let right = matches!(verdict, Verdict::RollBack(Cause::Errors { failed: f, .. }) if f == failed);
            prop_assert!(right, "{:?}", verdict);
        }
    }

    /// Whatever the numbers, there is an answer, and each stage but the last two ends one day.
    #[test]
    fn no_number_is_too_strange(
        answers in 0..500_u32, late: u32, numbers in proptest::collection::vec(any::<f64>(), 0..50),
    ) {
        let mut trial = Side { answers, late: late.min(answers), ..Side::default() };
        for number in numbers {
            trial.latency_us.add(number);
            trial.energy_uj.add(number);
        }
        for stage in Stage::ALL {
            let _ = judge(stage, &canary(trial, Side::default()), &POLICY);
            let _ = judge(stage, &canary(Side::default(), trial), &POLICY);
        }
    }
}

/// 30 of 100 late against 1 of 1000: the difference is 0.29, three deviations of it are
/// 3 * sqrt(0.028 * 0.972 * (1/100 + 1/1000)) = 0.052.
#[test]
fn more_late_answers_are_a_reason() {
    let side = |answers, late| Side { answers, late, ..Side::default() };
    let verdict = judge(Stage::Canary, &canary(side(100, 30), side(1000, 1)), &POLICY);
    assert_eq!(verdict, Verdict::RollBack(Cause::Late { ppm: 300_000, serving_ppm: 1_000 }));
    // With as few answers nothing is said yet.
    let verdict = judge(Stage::Canary, &canary(side(19, 19), side(1000, 1)), &POLICY);
    assert_eq!(verdict, Verdict::Stay);
}

#[test]
fn each_stage_waits_for_its_own() {
    let loaded = Evidence { loaded: true, runnable: true, ..Evidence::default() };
    let not = Cause::NotLoaded;
    for (stage, evidence, verdict) in [
        (Stage::Load, Evidence::default(), Verdict::Stay),
        (Stage::Load, loaded, Verdict::Advance),
        (Stage::Load, Evidence { not_loadable: Some(not), ..Evidence::default() }, Verdict::RollBack(not)),
        (Stage::Profile, Evidence { profiling: true, ..loaded }, Verdict::Stay),
        (Stage::Profile, loaded, Verdict::Advance),
        (Stage::Profile, Evidence { runnable: false, ..loaded }, Verdict::RollBack(Cause::Unfit)),
        (Stage::Shadow, Evidence { compared: 49, ..loaded }, Verdict::Stay),
        (Stage::Shadow, Evidence { compared: 50, failed: 1, ..loaded }, Verdict::Advance),
        (
            Stage::Shadow,
            Evidence { compared: 9, far_off: true, ..loaded },
            Verdict::RollBack(Cause::Drift { compared: 9 }),
        ),
        (Stage::Canary, loaded, Verdict::Stay),
        (Stage::Full, loaded, Verdict::Stay),
        (Stage::RolledBack, loaded, Verdict::Stay),
    ] {
        assert_eq!(judge(stage, &evidence, &POLICY), verdict, "{stage:?} {evidence:?}");
    }
}

#[test]
fn stages_follow_each_other_to_the_end() {
    let way = |direct| {
        let mut stages = vec![Stage::Verify];
        while !stages[stages.len() - 1].is_end() {
            stages.push(stages[stages.len() - 1].next(direct));
        }
        stages
    };
    assert_eq!(way(false), Stage::ALL[..6]);
    assert_eq!(way(true), [Stage::Verify, Stage::Load, Stage::Profile, Stage::Full]);
}
