//! What the product promises, on plants whose physics the core does not know.

use super::*;

/// A camera on each board: the least energy costs less than the usual way at no more misses.
#[test]
fn least_energy_beats_performance_on_every_board() {
    for (name, _) in BOARDS {
        let machine = Machine::new(&board(name), &[fashion()], 11).unwrap();
        let mut results = Vec::new();
        for objective in [Objective::LeastEnergy, Objective::Performance] {
            let budgets = budgets(objective);
            let mut world = world(&machine, &budgets, vec![camera(20)], 3);
            world.run_until(at_s(20.0));
            assert!(world.drain(Nanos::from_secs(5)));
            println!("{name} {objective:?}: {}", world.summary());
            assert_eq!(world.checkers().violations(), []);
            results.push(world.summary());
        }
        assert!(results[0].energy_j < results[1].energy_j);
    }
}
