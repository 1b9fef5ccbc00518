//! From a board file and models to what a scheduler is told and what the plant runs.

use crate::board::BoardSpec;
use crate::board::sim::{Plant, PlantSpec, PlantSpecError, Precision, Work};
use crate::core::catalog::{
    Board, Catalog, Model, ModelId, Profile, Provenance, Unit, UnitId, UnitKind, Variant, VariantId,
};
use crate::core::event::ClockBounds;
use crate::core::fit::{Probe, fit_roofline};
use crate::core::points::{OperatingPoint, Points, domains_of};
use crate::model::manifest::Manifest;
use crate::time::Timestamp;
use crate::units::{Bytes, Kilohertz, Nanos, Ppm};
use std::sync::Arc;

/// Timed runs per operating point and batch size, with and without a memory clock to try: at most 12 per variant and unit,
/// as the daemon's profiler takes.
const PROBES: [[(u32, usize); 2]; 2] = [[(1, 3), (4, 1)], [(1, 2), (4, 1)]];
/// Longest that one probe may take on the plant.
const LONGEST_PROBE: Nanos = Nanos::from_secs(3600);

/// A variant by its size.
#[derive(Debug, Clone, PartialEq)]
pub struct SimVariant {
    /// Name.
    pub name: String,
    /// Accuracy.
    pub accuracy: Ppm,
    /// Work of one item.
    pub work: Work,
    /// Memory of the loaded session.
    pub footprint: Bytes,
    /// Where it may run.
    pub kinds: Vec<UnitKind>,
}

/// A model by the sizes of its variants.
#[derive(Debug, Clone, PartialEq)]
pub struct SimModel {
    /// Name.
    pub name: String,
    /// Most items in a run.
    pub max_batch: u32,
    /// The variants, the reference first.
    pub variants: Vec<SimVariant>,
}

impl SimModel {
    /// The model of a manifest.
    #[must_use]
    pub fn of(manifest: &Manifest) -> Self {
        let variants = manifest.variants.iter().map(|spec| SimVariant {
            name: spec.name.clone(),
            accuracy: spec.accuracy,
            work: Work::of_size(spec.macs, spec.traffic_bytes, Precision::from_manifest(&spec.precision), 1),
            // Sessions of ONNX Runtime took 2.1 to 2.7 times their file.
            footprint: Bytes(spec.bytes.0.saturating_mul(5) / 2),
            kinds: spec.units.clone(),
        });
        Self { name: manifest.name.clone(), max_batch: manifest.max_batch, variants: variants.collect() }
    }
}

/// A simulated machine: what the scheduler knows, and what is true.
#[derive(Debug, Clone)]
pub struct Machine {
    /// What the scheduler is told: profiles are measured on the plant, by a few noisy probes.
    pub catalog: Catalog,
    /// The truth.
    pub plant: Arc<PlantSpec>,
    /// Work of one item and true footprint by variant.
    pub variants: Vec<SimVariant>,
}

impl Machine {
    /// The machine of a board file with these models, probed with noise from `seed`.
    ///
    /// # Errors
    /// If the board file has no plant.
    pub fn new(spec: &BoardSpec, models: &[SimModel], seed: u64) -> Result<Self, PlantSpecError> {
        Ok(Self::of_plant(spec.board(), Arc::new(PlantSpec::from_board(spec)?), models, seed))
    }

    /// The same with a plant of one's own.
    #[must_use]
    pub fn of_plant(mut board: Board, plant: Arc<PlantSpec>, models: &[SimModel], seed: u64) -> Self {
        plant.complete(&mut board);
        let mut catalog = Catalog { board, models: Vec::new(), variants: Vec::new() };
        let mut variants = Vec::new();
        for (index, model) in models.iter().enumerate() {
            let model_id = ModelId::at(index);
            let mut ids = Vec::new();
            for variant in &model.variants {
                ids.push(VariantId::at(variants.len()));
                let units = catalog.board.units.iter().enumerate();
                let profiles = units
                    .map(|(unit, spec)| {
                        let fits = variant.kinds.contains(&spec.kind);
                        let work = (UnitId::at(unit), model.max_batch);
                        fits.then(|| measure(&catalog.board, spec, &plant, work, variant, seed)).flatten()
                    })
                    .collect();
                let (name, accuracy) = (variant.name.clone(), variant.accuracy);
                catalog.variants.push(Variant { name, model: model_id, accuracy, profiles });
                variants.push(variant.clone());
            }
            let (name, max_batch) = (model.name.clone(), model.max_batch);
            catalog.models.push(Model { name, variants: ids, max_batch });
        }
        Self { catalog, plant, variants }
    }
}

/// Times a variant on a unit of the cold, idle plant, at three clocks of its domain, and with slow memory.
fn measure(
    board: &Board,
    unit: &Unit,
    plant: &Arc<PlantSpec>,
    (id, max_batch): (UnitId, u32),
    variant: &SimVariant,
    seed: u64,
) -> Option<Profile> {
    let mut plant = Plant::new(Arc::clone(plant), seed ^ u64::from(id.0));
    let points = Points::of(board, id);
    let [clocks, memories] = points.each().map(<[Kilohertz]>::len);
    let mut probed =
        vec![points.top(), points.index([clocks / 2, memories - 1]), points.index([0, memories - 1])];
    probed.dedup();
    probed.extend((memories > 1).then(|| points.index([clocks - 1, 0])));
    let (mut probes, mut scales) = (Vec::new(), Vec::new());
    for index in probed {
        let point = points.at(index);
        set_clocks(&mut plant, board, id, point)?;
        for (items, runs) in PROBES[usize::from(memories > 1)] {
            for _ in 0..runs {
                let items = items.min(max_batch);
                let (latency, joules) = run_once(&mut plant, id, Work { items, ..variant.work })?;
                let (clock, memory_share) = (point.clock, points.memory_share(index));
                probes.push(Probe { clock, memory_share, items, latency });
                let modelled = unit.busy_power.at(clock).as_watts() * latency.as_secs_f64();
                if modelled > 0.0 {
                    scales.push(joules / modelled);
                }
            }
        }
    }
    let fit = fit_roofline(&probes, None).ok()?;
    scales.sort_unstable_by(f64::total_cmp);
    let (power_scale, power_source) = match scales.get(scales.len() / 2) {
        Some(&scale) => (scale.clamp(0.05, 20.0), Provenance::Measured),
        None => (1.0, Provenance::Modelled),
    };
    Some(Profile {
        latency: fit.roofline,
        spread: fit.spread,
        latency_source: Provenance::Measured,
        power_scale,
        power_source,
        footprint: variant.footprint,
    })
}

/// Sets the clocks of a unit and of its memory, and waits for them. `None` if the plant refuses.
fn set_clocks(plant: &mut Plant, board: &Board, unit: UnitId, point: OperatingPoint) -> Option<()> {
    for (domain, clock) in domains_of(board, unit).into_iter().zip(point.clocks()) {
        let Some(domain) = domain.filter(|_| clock > Kilohertz::ZERO) else { continue };
        plant.set_bounds(plant.now(), domain, ClockBounds { min: clock, max: clock }).ok()?;
        // Two changes may follow each other: one under way, and this one.
        plant.advance(plant.now().after(Nanos(board.domains[domain.index()].settle.0.saturating_mul(3))));
    }
    Some(())
}

fn run_once(plant: &mut Plant, unit: UnitId, work: Work) -> Option<(Nanos, f64)> {
    plant.begin(plant.now(), unit, work).ok()?;
    let limit: Timestamp = plant.now().after(LONGEST_PROBE);
    while plant.running() > 0 && plant.now() < limit {
        plant.advance(plant.next_event()?.min(limit));
    }
    let finished = plant.take_finished().pop()?;
    Some((finished.latency(), finished.energy.as_f64() / 1e6))
}
