//! A unit's operating points: pairs of its own clock and of the memory clock that feeds it.
//!
//! A memory clock costs power for being held, whoever runs, and bounds what is bound by memory. A unit whose board
//! has no memory clock to set has one operating point per clock.

use crate::core::catalog::{Board, DomainId, UnitId};
use crate::units::Kilohertz;
use serde::{Deserialize, Serialize};

/// The clocks of a unit and of its memory; zero where there is none to set or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct OperatingPoint {
    /// The unit's own.
    pub clock: Kilohertz,
    /// The memory's.
    #[serde(default)]
    pub memory: Kilohertz,
}

impl OperatingPoint {
    /// With no memory clock.
    #[must_use]
    pub const fn of_clock(clock: Kilohertz) -> Self {
        Self { clock, memory: Kilohertz::ZERO }
    }

    /// The clocks of two domains of a unit, in the order of [`domains_of`].
    #[must_use]
    pub fn clocks(self) -> [Kilohertz; 2] {
        [self.clock, self.memory]
    }
}

/// A unit's own clock domain and that of its memory.
#[must_use]
pub fn domains_of(board: &Board, unit: UnitId) -> [Option<DomainId>; 2] {
    let unit = &board.units[unit.index()];
    [unit.domain, unit.memory_domain]
}

/// All operating points of a unit, by index: clocks ascending, and for each of them the memory clocks ascending.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Points {
    /// At least one: a zero where there is no clock.
    clocks: Box<[Kilohertz]>,
    /// At least one: a zero where there is no memory clock.
    memories: Box<[Kilohertz]>,
    /// Positions of the two clocks, by index: asked for too often to divide each time.
    parts: Box<[[usize; 2]]>,
}

impl Points {
    /// Those of a unit.
    #[must_use]
    pub fn of(board: &Board, unit: UnitId) -> Self {
        let opps = |domain: Option<DomainId>| {
            let opps = domain.map_or(&[][..], |domain| &board.domains[domain.index()].opps[..]);
            Box::from(if opps.is_empty() { &[Kilohertz::ZERO][..] } else { opps })
        };
        let [clocks, memories] = domains_of(board, unit).map(opps);
        Self::with(clocks, memories)
    }

    fn with(clocks: Box<[Kilohertz]>, memories: Box<[Kilohertz]>) -> Self {
        let of_clock = |clock: usize| (0..memories.len()).map(move |memory| [clock, memory]);
        Self { parts: (0..clocks.len()).flat_map(of_clock).collect(), clocks, memories }
    }

    /// How many; at least one.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.parts.len()
    }

    /// Index of the highest clock with the highest memory clock.
    #[must_use]
    pub fn top(&self) -> usize {
        self.len() - 1
    }

    /// The unit's own clocks, and those of its memory.
    #[must_use]
    pub fn each(&self) -> [&[Kilohertz]; 2] {
        [&self.clocks, &self.memories]
    }

    /// The point at an index.
    #[must_use]
    pub fn at(&self, index: usize) -> OperatingPoint {
        let [clock, memory] = self.parts(index);
        OperatingPoint { clock: self.clocks[clock], memory: self.memories[memory] }
    }

    /// All of them, by index.
    pub fn iter(&self) -> impl Iterator<Item = OperatingPoint> + '_ {
        (0..self.len()).map(|index| self.at(index))
    }

    /// Positions of the point's two clocks.
    #[must_use]
    pub fn parts(&self, index: usize) -> [usize; 2] {
        self.parts[index]
    }

    /// Index of the point with the clocks at these positions.
    #[must_use]
    pub fn index(&self, [clock, memory]: [usize; 2]) -> usize {
        clock * self.memories.len() + memory
    }

    /// Index of the point nearest below: of each clock the highest that is not above.
    #[must_use]
    pub fn nearest_below(&self, point: OperatingPoint) -> usize {
        self.index([position_below(&self.clocks, point.clock), position_below(&self.memories, point.memory)])
    }

    /// The memory clock at a point as a share of the highest.
    #[must_use]
    pub fn memory_share(&self, index: usize) -> f64 {
        let [_, memory] = self.parts(index);
        let (present, highest) = (self.memories[memory], self.memories[self.memories.len() - 1]);
        if highest > Kilohertz::ZERO { present.as_f64() / highest.as_f64() } else { 1.0 }
    }
}

/// Position of the highest clock that is not above `clock`; the lowest if all are.
#[must_use]
pub fn position_below(ascending: &[Kilohertz], clock: Kilohertz) -> usize {
    ascending.partition_point(|&opp| opp <= clock).max(1) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(clocks: &[u32], memories: &[u32]) -> Points {
        let khz = |clocks: &[u32]| clocks.iter().map(|&clock| Kilohertz(clock)).collect();
        Points::with(khz(clocks), khz(memories))
    }

    #[test]
    fn every_index_is_one_point_and_back() {
        let points = points(&[100, 200, 300], &[10, 20]);
        assert_eq!((points.len(), points.top()), (6, 5));
        for (index, point) in points.iter().enumerate() {
            assert_eq!(points.nearest_below(point), index);
            assert_eq!(points.index(points.parts(index)), index);
        }
        assert_eq!(points.at(3), OperatingPoint { clock: Kilohertz(200), memory: Kilohertz(20) });
        assert!((points.memory_share(2) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn clocks_between_points_count_as_the_point_below_and_unknown_ones_as_the_lowest() {
        let points = points(&[100, 200], &[10, 20]);
        let between = OperatingPoint { clock: Kilohertz(199), memory: Kilohertz(25) };
        assert_eq!(points.nearest_below(between), 1);
        assert_eq!(points.nearest_below(OperatingPoint::default()), 0);
    }

    #[test]
    fn a_unit_without_a_memory_clock_has_a_point_per_clock() {
        let points = points(&[100, 200], &[0]);
        assert_eq!(points.len(), 2);
        assert!((points.memory_share(0) - 1.0).abs() < 1e-12);
    }
}
