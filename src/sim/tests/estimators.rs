//! The estimators on plants whose physics they do not know. Figures are printed with `--nocapture`.

use super::*;
use crate::board::sim::{Change, Plant, Work};
use crate::core::catalog::{DomainId, UnitId, UnitKind, VariantId};
use crate::core::estimate::Estimates;
use crate::core::event::ClockBounds;
use crate::core::points::{OperatingPoint, Points};
use crate::core::tuning::Tuning;
use crate::units::Kilohertz;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

/// The four networks that were measured on the board, as models of one variant each.
fn measured(spec: &BoardSpec) -> Vec<SimModel> {
    let plant = crate::board::sim::PlantSpec::from_board(spec).unwrap();
    ["vgg19", "resnet", "inception_v4", "tiny-yolov3"]
        .map(|name| SimModel {
            name: name.to_owned(),
            max_batch: 4,
            variants: vec![SimVariant {
                name: name.to_owned(),
                accuracy: Ppm::from_fraction(0.9),
                work: Work::measured(plant.grid_named(name).unwrap(), 1),
                footprint: Bytes(1 << 20),
                kinds: vec![UnitKind::Gpu],
            }],
        })
        .to_vec()
}

struct Bench {
    machine: Machine,
    plant: Plant,
    unit: UnitId,
    domain: DomainId,
    opps: Vec<Kilohertz>,
}

impl Bench {
    fn tx2(seed: u64) -> Self {
        let spec = board("jetson-tx2");
        let machine = Machine::new(&spec, &measured(&spec), seed).unwrap();
        let unit = machine.plant.unit_named("gpu").unwrap();
        let domain = machine.plant.domain_named("gpu").unwrap();
        let opps = machine.catalog.board.domains[domain.index()].opps.clone();
        let plant = Plant::new(machine.plant.clone(), seed ^ 0xbeef);
        Self { machine, plant, unit, domain, opps }
    }

    /// An operating point by its clock; the memory's stays at its highest.
    fn at(&self, point: usize) -> OperatingPoint {
        let [_, memories] =
            Points::of(&self.machine.catalog.board, self.unit).each().map(|clocks| clocks[clocks.len() - 1]);
        OperatingPoint { clock: self.opps[point], memory: memories }
    }

    /// Runs a variant once at an operating point: what the profile says, what it took, joules above idle.
    fn run(&mut self, variant: VariantId, point: usize) -> (Nanos, Nanos, f64) {
        let clock = self.opps[point];
        let bounds = ClockBounds { min: clock, max: clock };
        self.plant.set_bounds(self.plant.now(), self.domain, bounds).unwrap();
        self.plant.advance(self.plant.now().after(Nanos::from_millis(30)));
        let work = self.machine.variants[variant.index()].work;
        self.plant.begin(self.plant.now(), self.unit, work).unwrap();
        while self.plant.running() > 0 {
            self.plant.advance(self.plant.next_event().unwrap());
        }
        let finished = self.plant.take_finished().pop().unwrap();
        let profile = self.machine.catalog.variants[variant.index()].profiles[self.unit.index()].unwrap();
        (profile.latency.latency(clock, 1), finished.latency(), finished.energy.as_f64() / 1e6)
    }

    /// Runs a variant once and lets the estimators learn from it; their error before, relative to this run.
    fn learn(&mut self, estimates: &mut Estimates, variant: VariantId, point: usize) -> f64 {
        let clock = self.at(point);
        let expected = estimates.slowdown_at(variant, self.unit, clock);
        let (profiled, took, joules) = self.run(variant, point);
        estimates.observe_energy(variant, self.unit, clock, took, joules);
        estimates.observe_latency(variant, self.unit, clock, profiled, took);
        expected * profiled.as_f64() / took.as_f64() - 1.0
    }

    /// Mean absolute error of latency, of power above idle and of the board's power, over all clocks and
    /// variants, against runs without noise.
    fn errors(&self, estimates: &Estimates) -> [f64; 3] {
        let mut bench = self.quiet();
        let (mut sums, mut count) = ([0.0; 3], 0.0);
        for variant in (0..self.machine.variants.len()).map(VariantId::at) {
            for point in 0..self.opps.len() {
                let (profiled, took, joules) = bench.run(variant, point);
                let clock = self.at(point);
                let latency = profiled.as_f64() * estimates.slowdown_at(variant, self.unit, clock);
                let own = estimates.busy_watts(variant, self.unit, clock)
                    - estimates.memory_watts(self.unit, clock);
                let (power, truth) = (own, joules / took.as_secs_f64());
                let idle = estimates.idle_power().as_watts();
                let errors =
                    [latency / took.as_f64() - 1.0, power / truth - 1.0, (power - truth) / (truth + idle)];
                sums.iter_mut().zip(errors).for_each(|(sum, error)| *sum += error.abs());
                count += 1.0;
            }
        }
        sums.map(|sum| sum / count)
    }

    /// The same board without noise.
    fn quiet(&self) -> Self {
        let mut spec = (*self.machine.plant).clone();
        spec.noise.sigma = 0.0;
        spec.noise.tail_probability = 0.0;
        Self {
            plant: Plant::new(std::sync::Arc::new(spec), 1),
            machine: self.machine.clone(),
            opps: self.opps.clone(),
            ..*self
        }
    }
}

/// A profile of at most 12 runs, made in noise of 3 % with late runs, and nothing else: and then the first 40
/// requests.
#[test]
fn twelve_probes_and_a_few_requests_tell_latency_and_power() {
    let mut means = [[0.0; 3]; 2];
    for seed in 1..=5 {
        let mut bench = Bench::tx2(seed);
        let mut estimates = Estimates::new(&bench.machine.catalog);
        let cold = bench.errors(&estimates);
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        for _ in 0..160 {
            let (variant, point) = (rng.random_range(0..4), rng.random_range(0..13));
            bench.learn(&mut estimates, VariantId(variant), point);
        }
        let warm = bench.errors(&estimates);
        println!(
            "seed {seed}: latency, power above idle, board power: {cold:.4?} cold, {warm:.4?} after 40 requests each"
        );
        for (mean, errors) in means.iter_mut().zip([cold, warm]) {
            mean.iter_mut().zip(errors).for_each(|(mean, error)| *mean += error / 5.0);
        }
    }
    println!("means: {means:.4?}");
    assert!(means[0][0] <= 0.02 && means[0][2] <= 0.03, "cold {:?}", means[0]);
    assert!(means[1][0] <= 0.02 && means[1][1] <= 0.08 && means[1][2] <= 0.01, "warm {:?}", means[1]);
}

/// Requests after a step until the expectation is within 5 % of what is true at that very clock.
fn requests_to_absorb(seed: u64, change: &Change, tuning: Tuning) -> usize {
    let mut bench = Bench::tx2(seed);
    let mut estimates = Estimates::tuned(&bench.machine.catalog, tuning);
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut next = move || (VariantId(rng.random_range(0..4)), rng.random_range(0..13usize));
    for _ in 0..80 {
        let (variant, point) = next();
        bench.learn(&mut estimates, variant, point);
    }
    bench.plant.disturb(bench.plant.now(), change);
    let mut quiet = bench.quiet();
    quiet.plant.disturb(Timestamp::ZERO, change);
    for request in 0..40 {
        let (variant, point) = next();
        let (profiled, truth, _) = quiet.run(variant, point);
        let expected = profiled.as_f64() * estimates.slowdown_at(variant, bench.unit, bench.at(point));
        if (expected / truth.as_f64() - 1.0).abs() < 0.05 {
            return request;
        }
        bench.learn(&mut estimates, variant, point);
    }
    40
}

#[test]
fn a_step_is_absorbed_in_a_few_requests_whatever_they_are() {
    // Where memory is crowded, requests at low clocks neither feel nor show it: it takes a few more of them.
    for (name, change, most) in [
        ("compute x1.5", Change::ContentionCompute(1.5), 3),
        ("compute x2.5", Change::ContentionCompute(2.5), 3),
        ("memory x2", Change::ContentionMemory(2.0), 3),
        ("memory x3", Change::ContentionMemory(3.0), 6),
    ] {
        let median = |tuning| {
            let mut requests: Vec<usize> =
                (0..15).map(|seed| requests_to_absorb(seed, &change, tuning)).collect();
            requests.sort_unstable();
            (requests[7], requests[14])
        };
        let own = median(Tuning::default());
        let one = median(Tuning { one_slowdown: true, ..Tuning::default() });
        println!("{name}: median and most {own:?} requests; with one slowdown {one:?}");
        assert!(own.0 <= most, "{name}: {own:?}");
    }
}
