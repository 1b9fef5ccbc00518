//! What the daemon shows of itself: status, models, budgets.

use super::engine::{Engine, State};
use crate::board::panel::Panel;
use crate::core::catalog::{Catalog, DomainId, Provenance, UnitId, VariantId};
use crate::core::estimate::Report;
use crate::core::points::{OperatingPoint, Points};
use crate::core::residency::Residence;
use crate::core::snapshot::Aged;
use crate::core::thermal;
use crate::ctl::status::{
    AtClock, BatteryStatus, BoardStatus, BudgetStatus, CheckStatus, ClassStatus, Counters, DomainStatus,
    EstimatorState, EstimatorStatus, MemoryStatus, ModelStatus, Models, PressureStatus, QueueStatus,
    RailStatus, Status, UnitStatus, VariantOnUnit, VariantState, VariantStatus, ZoneStatus,
};
use crate::model::store::LoadedModel;
use crate::time::Timestamp;
use crate::units::{Bytes, Kilohertz, Microjoules};
use std::sync::Arc;

/// What is fixed from the start and shown in the status.
#[derive(Debug, Clone, Default)]
pub(super) struct Fixed {
    pub(super) board: BoardStatus,
    pub(super) missing: Vec<String>,
    pub(super) problems: Vec<String>,
    pub(super) panel: Arc<Panel>,
}

impl Engine {
    /// Hands the budgets to the metrics.
    pub(super) fn show_budgets(&self) {
        let state = self.state();
        for budget in state.core.status(self.now()).budgets {
            let scale = if budget.unit == "J" { 1e6 } else { 1.0 };
            state.observer.budget_left(budget.name, Microjoules::from_f64(budget.left * scale));
        }
        state.observer.memory_cap(state.core.memory_limits(self.now()).cap);
    }

    /// Hands what the board shows besides its readings to the metrics.
    pub(super) fn show_board(&self, panel: &Panel) {
        let (instruments, alarms, foreign) = (panel.instruments(self.now()), panel.alarms(), panel.foreign());
        self.state().observer.board(&instruments, &alarms, &foreign);
    }

    /// Hands what is learned to the metrics.
    pub(super) fn show_estimates(&self) {
        let state = self.state();
        state.core.estimates().reports().iter().for_each(|report| state.observer.estimate(report));
    }

    /// The status document.
    pub(super) fn status(&self, fixed: &Fixed) -> Status {
        let now = self.now();
        let state = self.state();
        let core = state.core.status(now);
        let catalog = state.core.catalog();
        let budgets = state.core.budgets();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: now.0 as f64 / 1e9,
            board: fixed.board.clone(),
            objective: budgets.objective,
            regime: core.regime,
            draining: core.draining,
            energy_source: Some(if core.power_measured {
                Provenance::Measured
            } else {
                Provenance::Modelled
            }),
            power_w: Some(core.board_power.as_watts()),
            rails: rails(&state),
            zones: zones(&state),
            domains: domains(&state),
            battery: state.core.snapshot().battery.value.map(|battery| BatteryStatus {
                remaining_j: battery.remaining.as_f64() / 1e6,
                full_j: battery.full.as_f64() / 1e6,
                draw_w: battery.draw.as_watts(),
            }),
            memory: state.core.snapshot().memory.value.map(|memory| MemoryStatus {
                available: memory.available.0,
                total: memory.total.0,
                resident: memory.resident.0,
                cap: budgets.memory_cap.0,
                cap_now: core.limits.cap.0,
                limit: memory.limit.map(|limit| limit.0),
                pressed: core.limits.pressed,
                loaded: core.held.0,
            }),
            pressure: state.core.snapshot().pressure.value.map(|pressure| PressureStatus {
                cpu: pressure.cpu.as_fraction(),
                memory: pressure.memory.as_fraction(),
                io: pressure.io.as_fraction(),
            }),
            budgets: core.budgets.iter().map(budget).collect(),
            queue: QueueStatus {
                requests: u32::try_from(core.waiting).unwrap_or(u32::MAX),
                limit: budgets.queue_limit,
            },
            units: (0..catalog.board.units.len()).map(|unit| unit_status(&state, UnitId::at(unit))).collect(),
            classes: budgets.classes.iter().map(class).collect(),
            estimators: state
                .core
                .estimates()
                .reports()
                .iter()
                .map(|report| estimator(catalog, report))
                .collect(),
            counters: counters(&state, core.board_energy),
            missing: missing(fixed, &state),
            instruments: fixed.panel.instruments(now),
            alarms: fixed.panel.alarms().into_iter().filter(|alarm| alarm.on.is_some()).collect(),
            foreign: fixed.panel.foreign(),
            problems: self.problems(fixed, &state, core.denied, core.limits.cap),
        }
    }

    /// A sentence for each model or variant that is refused, kept off a unit, or kept out of memory.
    fn problems(
        &self,
        fixed: &Fixed,
        state: &State,
        denied: Option<(VariantId, Bytes)>,
        cap: Bytes,
    ) -> Vec<String> {
        let catalog = state.core.catalog();
        let name = |id: VariantId| {
            let variant = &catalog.variants[id.index()];
            format!("{}/{}", catalog.models[variant.model.index()].name, variant.name)
        };
        let quarantined = self.probes.quarantined().into_iter().map(|(variant, unit, reason)| {
            let unit = &catalog.board.units[unit.index()].name;
            format!("{} is quarantined on {unit}: {reason}", name(variant))
        });
        let kept_out = denied.map(|(variant, need)| {
            let configured = state.core.budgets().memory_cap;
            let why = if cap < configured {
                format!(
                    "the {} that are left of [memory] cap_mb ({}) have",
                    megabytes(cap),
                    megabytes(configured)
                )
            } else {
                format!("[memory] cap_mb ({}) has", megabytes(cap))
            };
            format!("{}: needs {}, for which {why} no room", name(variant), megabytes(need))
        });
        fixed.problems.iter().cloned().chain(quarantined).chain(kept_out).collect()
    }

    /// The models document.
    pub(super) fn models_document(&self, loaded: &[LoadedModel]) -> Models {
        let (state, now) = (self.state(), self.now());
        let models = loaded.iter().enumerate().map(|(index, model)| {
            let catalog = state.core.catalog();
            let ids = &catalog.models[index].variants;
            let manifest = model.manifest.as_ref();
            let units = || (0..catalog.board.units.len()).map(UnitId::at);
            let variants = model.variants().iter().zip(ids);
            let mut variants: Vec<VariantStatus> = variants
                .map(|(spec, &id)| VariantStatus {
                    name: spec.name.clone(),
                    precision: spec.precision.clone(),
                    accuracy: spec.accuracy.as_fraction(),
                    bytes: spec.bytes.0,
                    parent: spec.parent.clone(),
                    problem: None,
                    units: units().map(|unit| self.on_unit(&state, spec, (id, unit), now)).collect(),
                })
                .collect();
            compare(&mut variants);
            ModelStatus {
                name: model.name.clone(),
                version: self.views[index].version.clone(),
                description: manifest.map(|manifest| manifest.description.clone()).unwrap_or_default(),
                folder: Some(model.folder.clone()),
                max_batch: self.views[index].max_batch,
                metric: manifest.map(|manifest| manifest.accuracy_metric.clone()).unwrap_or_default(),
                inputs: self.views[index].inputs.to_vec(),
                outputs: self.views[index].outputs.to_vec(),
                variants,
                problem: self.views[index].unavailable.clone(),
                profiling: self.probes.is_busy(crate::core::catalog::ModelId::at(index)),
            }
        });
        Models { models: models.collect() }
    }

    fn on_unit(
        &self,
        state: &State,
        spec: &crate::model::manifest::VariantSpec,
        (variant, unit): (VariantId, UnitId),
        now: Timestamp,
    ) -> VariantOnUnit {
        let (catalog, finding) = (state.core.catalog(), self.probes.finding(variant, unit));
        let profile = catalog.variants[variant.index()].profiles[unit.index()];
        let room = state.core.memory_limits(now).room;
        let (state_now, reason) = match (profile, state.core.residence(variant, unit)) {
            (None, _) if !spec.units.contains(&catalog.board.units[unit.index()].kind) => {
                (VariantState::NotAllowed, None)
            }
            (None, _) => (VariantState::Quarantined, finding.wrong),
            (Some(_), Residence::Loaded { .. }) => (VariantState::Loaded, None),
            (Some(_), Residence::Failed { tries, until: Timestamp::MAX }) => {
                let reason = format!("could not be loaded or run, {tries} tries");
                (VariantState::Quarantined, Some(reason))
            }
            (Some(profile), _) if profile.footprint > room => {
                let (need, room) = (megabytes(profile.footprint), megabytes(room));
                (VariantState::TooLarge, Some(format!("it needs {need}, and variants may hold {room}")))
            }
            (Some(_), Residence::Failed { tries, .. }) => {
                (VariantState::Failed, Some(format!("it could not be loaded, {tries} tries so far")))
            }
            (Some(_), _) => (VariantState::Available, None),
        };
        // What is quarantined for its answers alone has been measured, too.
        let profile = profile.or(finding.profile);
        let points = Points::of(&catalog.board, unit);
        let at = |point: OperatingPoint| {
            let latency = profile?.latency.latency(point.clock, 1);
            let watts = state.core.estimates().busy_watts(variant, unit, point);
            let (latency_us, energy_uj) = (latency.as_f64() / 1e3, watts * latency.as_secs_f64() * 1e6);
            Some(AtClock { clock_khz: point.clock.0, latency_us, energy_uj })
        };
        let top = points.at(points.top());
        let clocks = points.each()[0].iter().map(|&clock| OperatingPoint { clock, ..top });
        VariantOnUnit {
            unit: catalog.board.units[unit.index()].name.clone(),
            state: state_now,
            reason,
            check: finding.checked.map(|checked| {
                let (low, high) = checked.interval();
                CheckStatus { right: checked.right, items: checked.items, low, high }
            }),
            dominated_by: None,
            latency_us: at(top).map(|at| at.latency_us),
            latency_source: profile.map(|profile| profile.latency_source),
            energy_uj: at(top).map(|at| at.energy_uj),
            energy_source: profile.map(|profile| profile.power_source),
            clock_khz: (top.clock > Kilohertz::ZERO).then_some(top.clock.0),
            footprint: profile.map(|profile| profile.footprint.0),
            clocks: clocks.filter(|point| point.clock > Kilohertz::ZERO).filter_map(at).collect(),
        }
    }
}

/// Says which variants are dominated on which units. What is not to be used dominates nothing.
fn compare(variants: &mut [VariantStatus]) {
    let units = variants.first().map_or(0, |variant| variant.units.len());
    for unit in 0..units {
        let worth = |variant: &VariantStatus| {
            let here = &variant.units[unit];
            let usable = matches!(here.state, VariantState::Loaded | VariantState::Available);
            Some((variant.accuracy, here.latency_us?, here.energy_uj?)).filter(|_| usable)
        };
        let worths: Vec<Option<(f64, f64, f64)>> = variants.iter().map(worth).collect();
        let dominates = |a: (f64, f64, f64), b: (f64, f64, f64)| {
            a.0 >= b.0 && a.1 <= b.1 && a.2 <= b.2 && (a.0 > b.0 || a.1 < b.1 || a.2 < b.2)
        };
        for index in 0..variants.len() {
            let Some(own) = worths[index] else { continue };
            let better = worths.iter().position(|other| other.is_some_and(|other| dominates(other, own)));
            variants[index].units[unit].dominated_by = better.map(|better| variants[better].name.clone());
        }
    }
}

pub(super) fn megabytes(bytes: Bytes) -> String {
    format!("{:.1} MB", bytes.as_f64() / 1e6)
}

fn budget(status: &crate::core::BudgetStatus) -> BudgetStatus {
    BudgetStatus {
        name: status.name.to_owned(),
        left: status.left,
        unit: status.unit.to_owned(),
        ok: status.ok,
    }
}

fn class(class: &crate::core::energy::ClassBudget) -> ClassStatus {
    ClassStatus {
        name: class.name.clone(),
        latency_ms: class.latency.as_f64() / 1e6,
        min_accuracy: class.min_accuracy.as_fraction(),
    }
}

fn estimator(catalog: &Catalog, report: &Report) -> EstimatorStatus {
    EstimatorStatus {
        name: report.estimator.to_owned(),
        unit: report.unit.map(|unit| catalog.board.units[unit.index()].name.clone()),
        error: (report.meter.observations > 0).then_some(report.meter.error),
        observations: report.meter.observations,
        state: if report.meter.is_known() { EstimatorState::Known } else { EstimatorState::Guess },
        values: report.values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
    }
}

fn counters(state: &State, energy: Microjoules) -> Counters {
    Counters {
        served: state.totals.served,
        missed: state.totals.missed,
        rejected: state
            .totals
            .rejected
            .iter()
            .map(|(reason, &count)| (reason.name().to_owned(), count))
            .collect(),
        energy_j: Some(energy.as_f64() / 1e6),
    }
}

fn good<T: Copy>(aged: &Aged<T>) -> Option<T> {
    aged.value.filter(|_| aged.fault.is_none())
}

fn rails(state: &State) -> Vec<RailStatus> {
    let rails = state.core.catalog().board.rails.iter().zip(&state.core.snapshot().rails);
    rails
        .map(|(rail, aged)| RailStatus {
            name: rail.name.clone(),
            w: good(aged).map(crate::units::Microwatts::as_watts),
            fault: aged.fault,
        })
        .collect()
}

fn zones(state: &State) -> Vec<ZoneStatus> {
    let board = &state.core.catalog().board;
    let zones = board.zones.iter().zip(&state.core.snapshot().zones).enumerate();
    zones
        .map(|(index, (zone, aged))| ZoneStatus {
            name: zone.name.clone(),
            c: good(aged).map(crate::units::MilliCelsius::as_celsius),
            passive_c: zone.passive.as_celsius(),
            critical_c: zone.critical.as_celsius(),
            limit_c: thermal::limit(board, state.core.budgets(), index).as_celsius(),
            fault: aged.fault,
        })
        .collect()
}

fn domains(state: &State) -> Vec<DomainStatus> {
    let board = &state.core.catalog().board;
    let domains = board.domains.iter().zip(&state.core.snapshot().domains).enumerate();
    domains
        .map(|(index, (domain, aged))| {
            let clock = good(aged);
            DomainStatus {
                name: domain.name.clone(),
                khz: clock.map(|clock| clock.current.0),
                min_khz: clock.map(|clock| clock.min.0),
                max_khz: clock.map(|clock| clock.max.0),
                controllable: state.core.controllable(DomainId::at(index)),
                fault: aged.fault,
            }
        })
        .collect()
}

fn unit_status(state: &State, unit: UnitId) -> UnitStatus {
    let catalog = state.core.catalog();
    let spec = &catalog.board.units[unit.index()];
    let loaded = catalog.variants.iter().enumerate().filter(|(index, _)| {
        matches!(state.core.residence(VariantId::at(*index), unit), Residence::Loaded { .. })
    });
    UnitStatus {
        name: spec.name.clone(),
        kind: spec.kind,
        busy: state.core.running(unit).is_some(),
        variants: loaded
            .map(|(_, variant)| format!("{}/{}", catalog.models[variant.model.index()].name, variant.name))
            .collect(),
        clock_khz: spec
            .domain
            .and_then(|domain| good(&state.core.snapshot().domains[domain.index()]))
            .map(|clock| clock.current.0),
    }
}

/// What the board lacks: that of the start, and units that are left out now.
fn missing(fixed: &Fixed, state: &State) -> Vec<String> {
    let units = state.core.catalog().board.units.iter().enumerate();
    let absent = units.filter(|(unit, _)| !state.core.is_present(UnitId::at(*unit)));
    let absent = absent.map(|(_, unit)| format!("unit {}: left out until its CPUs are online", unit.name));
    fixed.missing.iter().cloned().chain(absent).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variant(name: &str, accuracy: f64, units: &[(VariantState, f64, f64)]) -> VariantStatus {
        let on = |&(state, latency_us, energy_uj): &(VariantState, f64, f64)| {
            let text = serde_json::json!({
                "unit": "u", "state": state, "latency_us": latency_us, "energy_uj": energy_uj
            });
            serde_json::from_value(text).unwrap()
        };
        let units = units.iter().map(on).collect();
        VariantStatus { name: name.to_owned(), accuracy, units, ..VariantStatus::default() }
    }

    #[test]
    fn a_variant_is_dominated_where_another_is_no_worse_in_anything() {
        use VariantState::{Available, Loaded, Quarantined};
        let mut ladder = [
            variant("fp32", 0.94, &[(Loaded, 9.0, 9.0), (Available, 9.0, 9.0)]),
            variant("int8", 0.94, &[(Loaded, 4.0, 4.0), (Quarantined, 4.0, 4.0)]),
            variant("pruned", 0.93, &[(Available, 5.0, 3.0), (Available, 5.0, 3.0)]),
            variant("same", 0.93, &[(Available, 5.0, 3.0), (Available, 9.0, 9.5)]),
        ];
        compare(&mut ladder);
        let by = |unit: usize| ladder.each_ref().map(|variant| variant.units[unit].dominated_by.as_deref());
        assert_eq!(by(0), [Some("int8"), None, None, None]);
        assert_eq!(by(1), [None, None, None, Some("fp32")], "what is quarantined is no choice");
    }
}
