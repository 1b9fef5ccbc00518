//! The core on simulated boards: scenarios, and random worlds under the checkers.

mod estimators;
mod hedging;
pub(super) mod random;
mod rogue;
mod scenarios;
mod sensors;

use super::*;
use crate::board::BoardSpec;
use crate::core::Core;
use crate::core::energy::{Budgets, ClassBudget, Objective};
use crate::model::manifest;
use crate::time::Timestamp;
use crate::units::{Bytes, MilliCelsius, Nanos, Ppm};
use std::path::Path;

pub(super) const BOARDS: [(&str, &str); 5] = [
    ("jetson-tx2", include_str!("../../../config/boards/jetson-tx2.toml")),
    ("jetson-orin-nano", include_str!("../../../config/boards/jetson-orin-nano.toml")),
    ("raspberry-pi-5", include_str!("../../../config/boards/raspberry-pi-5.toml")),
    ("rk3588", include_str!("../../../config/boards/rk3588.toml")),
    ("desktop", include_str!("../../../config/boards/desktop.toml")),
];

pub(super) fn board(name: &str) -> BoardSpec {
    let (_, text) = BOARDS.iter().find(|(known, _)| *known == name).unwrap();
    BoardSpec::parse(text, Path::new(name)).unwrap()
}

pub(super) fn fashion() -> SimModel {
    let text = include_str!("../../../config/models/fashion/model.toml");
    SimModel::of(&manifest::parse(Path::new("model.toml"), text).manifest.unwrap())
}

pub(super) fn crepe() -> SimModel {
    let text = include_str!("../../../config/models/crepe/model.toml");
    SimModel::of(&manifest::parse(Path::new("model.toml"), text).manifest.unwrap())
}

pub(super) fn budgets(objective: Objective) -> Budgets {
    Budgets {
        objective,
        power_cap: None,
        power_window: Nanos::from_secs(10),
        energy: None,
        battery: None,
        max_temperature: None,
        temperature_margin: MilliCelsius(3_000),
        memory_cap: Bytes(512 << 20),
        queue_limit: 256,
        app_limit: 64,
        unload_after: None,
        stale_after: Nanos::from_secs(1),
        classes: vec![ClassBudget {
            name: "camera".into(),
            latency: Nanos::from_millis(60),
            min_accuracy: Ppm::from_fraction(0.85),
            accuracy_target: None,
            priority: 10,
            energy_per_request: None,
            power: None,
            rescue: true,
        }],
    }
}

/// 15 requests a second for so many seconds.
pub(super) fn camera(seconds: u64) -> Stream {
    let period = Nanos::from_secs_f64(1.0 / 15.0);
    Stream::plain(Arrivals::Periodic { period, jitter: Nanos::from_millis(2) }, Nanos::from_secs(seconds))
}

pub(super) fn world(machine: &Machine, budgets: &Budgets, streams: Vec<Stream>, seed: u64) -> World<Core> {
    let core = Core::new(machine.catalog.clone(), budgets.clone(), Timestamp::ZERO);
    let options = WorldOptions { seed, rows: true, ..WorldOptions::default() };
    World::new(core, machine, budgets, Workload::new(streams, seed), options)
}

pub(super) fn at_s(s: f64) -> Timestamp {
    Timestamp::ZERO.after(Nanos::from_secs_f64(s))
}
