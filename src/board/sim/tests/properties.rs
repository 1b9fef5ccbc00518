//! Random plays on the plant. proptest prints the failing case and keeps its seed.

use super::*;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Act {
    Pass(u32),
    Begin(u8, u64),
    Abort,
    Bounds(u8, u32, u32),
    Ambient(f64),
    Fan(bool),
    Contend(f64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (0_u32..3_000_000).prop_map(Act::Pass),
        (0_u8..4, 0_u64..1_000_000_000).prop_map(|(unit, macs)| Act::Begin(unit, macs)),
        Just(Act::Abort),
        (0_u8..3, 0_u32..3_000_000, 0_u32..3_000_000).prop_map(|(d, min, max)| Act::Bounds(d, min, max)),
        (-20.0..70.0).prop_map(Act::Ambient),
        any::<bool>().prop_map(Act::Fan),
        (1.0..3.0).prop_map(Act::Contend),
    ]
}

fn perform(plant: &mut Plant, act: &Act, last: &mut Option<RunId>) {
    let now = plant.now();
    match act {
        Act::Pass(us) => plant.advance(now.after(Nanos::from_micros(u64::from(*us)))),
        Act::Begin(unit, macs) => {
            let work = Work::of_size(*macs, macs / 10, Precision::Int8, 1);
            if let Ok(run) = plant.begin(now, UnitId(*unit), work) {
                *last = Some(run);
            }
        }
        Act::Abort => {
            if let Some(run) = last.take() {
                plant.abort(now, run);
            }
        }
        Act::Bounds(domain, min, max) => {
            let bounds = ClockBounds { min: Kilohertz(*min), max: Kilohertz(*max) };
            plant.set_bounds(now, DomainId(*domain), bounds).unwrap();
        }
        Act::Ambient(celsius) => plant.disturb(now, &Change::AmbientC(*celsius)),
        Act::Fan(failed) => plant.disturb(now, &Change::FanFailed(*failed)),
        Act::Contend(factor) => plant.disturb(now, &Change::ContentionMemory(*factor)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_books_balance(seed in any::<u64>(), acts in prop::collection::vec(act(), 1..60)) {
        let spec = tx2(|_| {});
        let mut plant = Plant::new(Arc::clone(&spec), seed);
        let mut last = None;
        let mut begun = 0;
        let mut ended = 0;
        for act in &acts {
            let (before, running) = (*plant.stats(), plant.running());
            perform(&mut plant, act, &mut last);
            begun += usize::from(plant.running() > running);
            ended += plant.take_finished().len();
            let stats = plant.stats();
            prop_assert!(stats.input_j >= before.input_j, "energy never comes back");
            let expected = stats.rails_j * (1.0 + spec.conversion_loss);
            prop_assert!((stats.input_j - expected).abs() <= 1e-6 * expected.max(1.0));
            prop_assert!(plant.heat().die_c.is_finite() && plant.heat().die_c > -40.0);
            for domain in 0..3 {
                let state = plant.clock(DomainId(domain));
                prop_assert!(spec.domains[usize::from(domain)].opps.contains(&state.current));
                prop_assert!(state.min <= state.max, "{state:?}");
            }
        }
        let aborted = usize::try_from(plant.stats().aborted).unwrap();
        prop_assert_eq!(begun, ended + aborted + plant.running());
    }

    #[test]
    fn a_faster_clock_never_makes_a_run_slower(macs in 1_u64..1_000_000_000, low in 0_usize..12, seed in any::<u64>()) {
        let spec = tx2(|_| {});
        let latency = |index: usize| {
            let mut plant = Plant::new(Arc::clone(&spec), seed);
            pin(&mut plant, Timestamp::ZERO, "gpu", spec.domains[1].opps[index].0);
            plant.advance(at_s(0.1));
            let gpu = unit(&plant, "gpu");
            plant.begin(at_s(0.1), gpu, Work::of_size(macs, macs / 4, Precision::Fp16, 3)).unwrap();
            while plant.running() > 0 {
                let next = plant.next_event().unwrap();
                plant.advance(next);
            }
            plant.take_finished()[0].latency()
        };
        prop_assert!(latency(low + 1) <= latency(low));
    }

    #[test]
    fn no_text_breaks_the_script_parser(text in ".{0,200}") {
        let _ = Script::parse(&text, "random", &tx2(quiet));
    }
}
