//! A simulated run as a record, so that the timeline picture of real runs draws it too.

use crate::core::catalog::Provenance;
use crate::ctl::record::{
    AppHeader, EndLine, FORMAT, Header, Ladder, Outcome, RequestLine, Run, ServedLine, StatusLine,
};
use crate::ctl::report::{self, Compared};
use crate::ctl::status::{BoardStatus, Counters, DomainStatus, Status, ZoneStatus};
use crate::sim::experiment::{Finished, Moment, RunError, Scenario, ScheduleRow, watch};
use crate::units::Nanos;
use std::collections::BTreeMap;

/// Looks at the board per run.
const MOMENTS: u32 = 1200;

/// The timeline of a scenario and seed under one policy, or two against each other.
///
/// # Errors
/// If there is no such policy, or the picture cannot be drawn.
pub fn picture(scenario: &Scenario, policies: &[&str], seed: u64) -> Result<String, PictureError> {
    let one = |policy: &&str| {
        let (finished, moments) = watch(scenario, policy, seed, MOMENTS)?;
        Ok(Compared::new(record(scenario, &finished, &moments)))
    };
    let compared = policies.iter().take(2).map(one).collect::<Result<Vec<_>, PictureError>>()?;
    Ok(report::svg(&compared)?)
}

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// The run failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The drawing failed.
    #[error(transparent)]
    Draw(#[from] report::DrawError),
}

fn record(scenario: &Scenario, finished: &Finished, moments: &[Moment]) -> Run {
    let length = scenario.duration.saturating_sub(scenario.warmup);
    Run {
        header: header(scenario, finished, length),
        requests: finished.schedule.iter().map(request).collect(),
        statuses: moments.iter().map(|moment| status(scenario, moment)).collect(),
        notes: Vec::new(),
        end: Some(EndLine { t_us: length.as_micros(), interrupted: false, states_missed: 0 }),
    }
}

fn header(scenario: &Scenario, finished: &Finished, length: Nanos) -> Header {
    let catalog = &scenario.machine.catalog;
    // One application per class that is asked for, with the first model that it asks.
    let mut apps: BTreeMap<u16, AppHeader> = BTreeMap::new();
    for stream in &scenario.streams {
        let Some(class) = scenario.budgets.classes.get(usize::from(stream.class.0)) else { continue };
        apps.entry(stream.class.0).or_insert_with(|| AppHeader {
            name: class.name.clone(),
            model: catalog.models[stream.model.index()].name.clone(),
            class: Some(class.name.clone()),
            start_s: 0.0,
            end_s: length.as_secs_f64(),
            deadline_ms: Some(class.latency.as_secs_f64() * 1e3),
        });
    }
    let ladder = |model: &crate::core::catalog::Model| {
        let mut variants: Vec<_> = model.variants.iter().map(|id| &catalog.variants[id.index()]).collect();
        variants.sort_by_key(|variant| std::cmp::Reverse(variant.accuracy));
        let variants = variants.into_iter().map(|variant| variant.name.clone()).collect();
        Ladder { model: model.name.clone(), variants }
    };
    let disturbance = scenario.disturbance.as_deref().unwrap_or("undisturbed");
    Header {
        format: FORMAT,
        started_unix_s: 0,
        scenario: format!("{}, {disturbance}", scenario.workload),
        seed: finished.record.seed,
        duration_s: length.as_secs_f64(),
        apps: apps.into_values().collect(),
        ladders: catalog.models.iter().map(ladder).collect(),
        policy: Some(finished.record.policy.clone()),
    }
}

fn request(row: &ScheduleRow) -> RequestLine {
    let rejected = |reason: &str| Outcome::Rejected { reason: reason.to_owned() };
    let (missed, outcome) = match (row.outcome.as_ref(), row.finish_us, &row.variant, &row.unit) {
        ("served" | "missed", Some(_), Some(variant), Some(unit)) => {
            let start = row.start_us.unwrap_or(row.arrival_us);
            let served = ServedLine {
                variant: variant.clone(),
                unit: unit.clone(),
                clock_khz: row.clock_khz.unwrap_or(0),
                queue_us: start.saturating_sub(row.arrival_us),
                compute_us: row.finish_us.unwrap_or(start).saturating_sub(start),
                energy_uj: row.energy_uj,
                energy_source: Some(Provenance::Measured),
                scored: 0,
                correct: 0,
                rescued: false,
            };
            (row.outcome == "missed", Outcome::Served(served))
        }
        (other, ..) => (false, rejected(other.strip_prefix("rejected:").unwrap_or("deadline_passed"))),
    };
    RequestLine {
        t_us: row.arrival_us,
        delay_us: 0,
        latency_us: row.finish_us.unwrap_or(row.deadline_us).saturating_sub(row.arrival_us),
        app: row.class.clone(),
        items: 1,
        missed,
        request_id: None,
        outcome,
    }
}

fn status(scenario: &Scenario, moment: &Moment) -> StatusLine {
    let (board, plant) = (&scenario.machine.catalog.board, &scenario.machine.plant);
    let limit = scenario.budgets.max_temperature.map(|limit| limit.as_celsius());
    let margin = scenario.budgets.temperature_margin.as_celsius();
    let zones = plant.zones.iter().zip(&moment.zones_c).map(|(zone, c)| ZoneStatus {
        name: zone.name.clone(),
        c: Some(*c),
        passive_c: zone.passive.as_celsius(),
        critical_c: zone.critical.as_celsius(),
        limit_c: limit.unwrap_or(zone.passive.as_celsius()).min(zone.passive.as_celsius()) - margin,
        fault: None,
    });
    let domains = board.domains.iter().zip(&moment.clocks).map(|(domain, clock)| DomainStatus {
        name: domain.name.clone(),
        khz: Some(clock.0),
        controllable: true,
        ..DomainStatus::default()
    });
    let status = Status {
        board: BoardStatus { name: board.name.clone(), simulated: true, ..BoardStatus::default() },
        energy_source: Some(Provenance::Measured),
        power_w: Some(moment.watts),
        zones: zones.collect(),
        domains: domains.collect(),
        counters: Counters { energy_j: Some(moment.energy_j), ..Counters::default() },
        ..Status::default()
    };
    StatusLine { t_us: moment.at.as_micros(), status: Box::new(status) }
}
