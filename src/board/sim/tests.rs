//! Tests of the plant on the board files.

mod boards;
mod fit;
mod physics;
mod properties;
mod scripts;

use super::*;
use crate::board::BoardSpec;
use crate::core::catalog::{DomainId, UnitId};
use crate::core::event::ClockBounds;
use crate::time::Timestamp;
use crate::units::{Kilohertz, Nanos};
use std::sync::Arc;

pub(super) const BOARDS: [(&str, &str); 7] = [
    ("jetson-tx2", include_str!("../../../config/boards/jetson-tx2.toml")),
    ("jetson-orin-nano", include_str!("../../../config/boards/jetson-orin-nano.toml")),
    ("jetson-nano", include_str!("../../../config/boards/jetson-nano.toml")),
    ("raspberry-pi-4", include_str!("../../../config/boards/raspberry-pi-4.toml")),
    ("raspberry-pi-5", include_str!("../../../config/boards/raspberry-pi-5.toml")),
    ("rk3588", include_str!("../../../config/boards/rk3588.toml")),
    ("desktop", include_str!("../../../config/boards/desktop.toml")),
];

pub(super) fn board(name: &str) -> BoardSpec {
    let (_, text) = BOARDS.iter().find(|(known, _)| *known == name).unwrap();
    toml::from_str(text).unwrap()
}

/// The TX2 with a change to its table, such as no noise.
pub(super) fn tx2(change: impl FnOnce(&mut PlantSpec)) -> Arc<PlantSpec> {
    let mut spec = PlantSpec::from_board(&board("jetson-tx2")).unwrap();
    change(&mut spec);
    Arc::new(spec)
}

pub(super) fn quiet(spec: &mut PlantSpec) {
    spec.noise = Noise { sigma: 0.0, tail_probability: 0.0, tail_min: 1.0, tail_max: 1.0 };
    spec.rail_noise = 0.0;
}

pub(super) fn at_s(s: f64) -> Timestamp {
    Timestamp::ZERO.after(Nanos::from_secs_f64(s))
}

pub(super) fn pin(plant: &mut Plant, now: Timestamp, domain: &str, khz: u32) -> DomainId {
    let id = plant.spec().domain_named(domain).unwrap();
    let clock = Kilohertz(khz);
    plant.set_bounds(now, id, ClockBounds { min: clock, max: clock }).unwrap();
    id
}

pub(super) fn unit(plant: &Plant, name: &str) -> UnitId {
    plant.spec().unit_named(name).unwrap()
}
