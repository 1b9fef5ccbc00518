//! What the daemon shows of itself: status, models, budgets.

use super::engine::{Engine, Shown, State};
use crate::board::panel::Panel;
use crate::core::catalog::{Catalog, DomainId, Provenance, UnitId, VariantId};
use crate::core::estimate::Report;
use crate::core::points::Points;
use crate::core::residency::Residence;
use crate::core::snapshot::Aged;
use crate::core::thermal;
use crate::ctl::status::{
    BatteryStatus, BoardStatus, BudgetStatus, ClassStatus, Counters, DomainStatus, EstimatorState,
    EstimatorStatus, MemoryStatus, ModelStatus, Models, PressureStatus, QueueStatus, RailStatus, Status,
    UnitStatus, VariantOnUnit, VariantState, VariantStatus, ZoneStatus,
};
use crate::units::{Kilohertz, Microjoules};
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
            missing: fixed.missing.clone(),
            instruments: fixed.panel.instruments(now),
            alarms: fixed.panel.alarms().into_iter().filter(|alarm| alarm.on.is_some()).collect(),
            foreign: fixed.panel.foreign(),
            problems: problems(
                fixed,
                catalog,
                core.denied.map(|(variant, need)| (variant, need.0)),
                budgets.memory_cap.0,
            ),
        }
    }

    /// The models document.
    pub(super) fn models_document(&self) -> Models {
        let state = self.state();
        let shown = self.shown.load();
        let Shown { views, loaded } = &**shown;
        let models = loaded.iter().enumerate().map(|(index, model)| {
            let catalog = state.core.catalog();
            let serving = state.routes[index].serving;
            let ids = &catalog.models[serving.index()].variants;
            let manifest = model.manifest.as_ref();
            ModelStatus {
                name: model.name.clone(),
                version: views[index].version.clone(),
                description: manifest.map(|manifest| manifest.description.clone()).unwrap_or_default(),
                folder: Some(model.folder.clone()),
                max_batch: views[index].max_batch,
                metric: manifest.map(|manifest| manifest.accuracy_metric.clone()).unwrap_or_default(),
                inputs: views[index].inputs.to_vec(),
                outputs: views[index].outputs.to_vec(),
                variants: model
                    .variants()
                    .iter()
                    .zip(ids)
                    .map(|(spec, &id)| VariantStatus {
                        name: spec.name.clone(),
                        precision: spec.precision.clone(),
                        accuracy: spec.accuracy.as_fraction(),
                        bytes: spec.bytes.0,
                        parent: spec.parent.clone(),
                        problem: None,
                        units: (0..catalog.board.units.len())
                            .map(|unit| self.on_unit(&state, spec, id, UnitId::at(unit)))
                            .collect(),
                    })
                    .collect(),
                problem: views[index].unavailable.clone(),
                profiling: self.probes.is_busy(serving),
            }
        });
        Models { models: models.collect() }
    }

    fn on_unit(
        &self,
        state: &State,
        spec: &crate::model::manifest::VariantSpec,
        variant: VariantId,
        unit: UnitId,
    ) -> VariantOnUnit {
        let board = &state.core.catalog().board;
        let kind = board.units[unit.index()].kind;
        let profile = state.core.catalog().variants[variant.index()].profiles[unit.index()];
        let refusal = self.probes.reason(variant, unit);
        let residence = state.core.residence(variant, unit);
        let (state_now, reason) = match (profile, residence) {
            (None, _) if !spec.units.contains(&kind) => (VariantState::NotAllowed, None),
            (None, _) => (VariantState::Refused, refusal),
            (Some(_), Residence::Loaded { .. }) => (VariantState::Loaded, None),
            (Some(_), Residence::Failed { tries, .. }) => {
                (VariantState::Quarantined, Some(format!("could not be loaded, {tries} tries")))
            }
            (Some(_), _) => (VariantState::Available, None),
        };
        let points = Points::of(board, unit);
        let top = points.at(points.top());
        let latency = profile.map(|profile| profile.latency.latency(top.clock, 1));
        let watts = state.core.estimates().busy_watts(variant, unit, top);
        let energy = latency.map(|latency| watts * latency.as_secs_f64() * 1e6);
        VariantOnUnit {
            unit: board.units[unit.index()].name.clone(),
            state: state_now,
            reason,
            latency_us: latency.map(|latency| latency.as_f64() / 1e3),
            latency_source: profile.map(|profile| profile.latency_source),
            energy_uj: energy,
            energy_source: profile.map(|profile| profile.power_source),
            clock_khz: (top.clock > Kilohertz::ZERO).then_some(top.clock.0),
            footprint: profile.map(|profile| profile.footprint.0),
        }
    }
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

fn problems(fixed: &Fixed, catalog: &Catalog, denied: Option<(VariantId, u64)>, cap: u64) -> Vec<String> {
    let kept_out = denied.map(|(variant, need)| {
        let variant = &catalog.variants[variant.index()];
        let model = &catalog.models[variant.model.index()].name;
        format!(
            "{model}/{}: needs {need} bytes, which [memory] cap_mb ({cap} bytes) has no room for",
            variant.name
        )
    });
    fixed.problems.iter().cloned().chain(kept_out).collect()
}
