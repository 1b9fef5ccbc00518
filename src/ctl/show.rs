//! The daemon's state, the models and an answer, as tables and lines for people.

use crate::board::panel::Instrument;
use crate::core::catalog::Provenance;
use crate::ctl::load::target::NamedTensor;
use crate::ctl::report::table::{right, table};
use crate::ctl::status::{
    CheckStatus, MemoryStatus, ModelStatus, Models, Status, VariantOnUnit, VariantStatus,
};
use crate::model::score;
use crate::units::Kilohertz;
use comfy_table::{Cell, Table};
use std::fmt::{Display, Write as _};

/// Elements of an output that are shown.
const ELEMENTS: usize = 8;

/// What `wattctl status` prints.
#[must_use]
pub fn status(status: &Status) -> String {
    let mut text = String::new();
    heading(&mut text, status);
    let mut sections = vec![board(status), units(status)];
    if !status.instruments.iter().all(is_shown_above) {
        sections.push(others(status));
    }
    if !status.classes.is_empty() {
        sections.push(classes(status));
    }
    if !status.budgets.is_empty() {
        sections.push(budgets(status));
    }
    for section in sections {
        let _ = writeln!(text, "{section}");
    }
    footing(&mut text, status);
    text
}

fn heading(text: &mut String, status: &Status) {
    let board = &status.board;
    let kind = match (board.simulated, board.synthetic) {
        (true, _) => " (simulated)",
        (false, true) => " (some figures of its file are assumed)",
        (false, false) => "",
    };
    let state = if status.draining { "draining" } else { "ready" };
    let _ = writeln!(
        text,
        "wattd {} on {}{kind}: {state}, regime {}, objective {}, up {}",
        status.version,
        board.name,
        wire(status.regime),
        wire(status.objective),
        span(status.uptime_s),
    );
    let _ = writeln!(
        text,
        "power {}, energy {} ({}), queue {} of {}",
        known(status.power_w.map(|w| format!("{w:.2} W"))),
        known(status.counters.energy_j.map(|j| format!("{j:.1} J"))),
        status.energy_source.map_or("no source", provenance),
        status.queue.requests,
        status.queue.limit,
    );
    let rejected: Vec<String> =
        status.counters.rejected.iter().map(|(reason, number)| format!("{reason} {number}")).collect();
    let total: u64 = status.counters.rejected.values().sum();
    let reasons = if rejected.is_empty() { String::new() } else { format!(" ({})", rejected.join(", ")) };
    let _ = writeln!(
        text,
        "requests: {} served, {} of them late, {total} refused{reasons}",
        status.counters.served, status.counters.missed
    );
}

fn board(status: &Status) -> Table {
    let mut table = table(&["sensor", "name", "now", "bounds"]);
    for zone in &status.zones {
        let bounds = format!(
            "limit {:.0}, trip {:.0}, critical {:.0} °C",
            zone.limit_c, zone.passive_c, zone.critical_c
        );
        table.add_row(vec![
            Cell::new("zone"),
            Cell::new(&zone.name),
            right(or_fault(zone.c.map(|c| format!("{c:.1} °C")), zone.fault)),
            Cell::new(bounds),
        ]);
    }
    for rail in &status.rails {
        table.add_row(vec![
            Cell::new("rail"),
            Cell::new(&rail.name),
            right(or_fault(rail.w.map(|w| format!("{w:.2} W")), rail.fault)),
            Cell::new(""),
        ]);
    }
    for domain in &status.domains {
        let mut bounds = match (domain.min_khz, domain.max_khz) {
            (Some(min), Some(max)) => format!("{} to {}", mhz(min), mhz(max)),
            _ => String::new(),
        };
        if !domain.controllable {
            bounds.push_str(", does not follow");
        }
        table.add_row(vec![
            Cell::new("clock"),
            Cell::new(&domain.name),
            right(or_fault(domain.khz.map(mhz), domain.fault)),
            Cell::new(bounds.trim_start_matches(", ")),
        ]);
    }
    if let Some(battery) = &status.battery {
        table.add_row(vec![
            Cell::new("battery"),
            Cell::new(""),
            right(format!("{:.0} J", battery.remaining_j)),
            Cell::new(format!("of {:.0} J, drawing {:.2} W", battery.full_j, battery.draw_w)),
        ]);
    }
    if let Some(memory) = &status.memory {
        table.add_row(vec![
            Cell::new("memory"),
            Cell::new("available"),
            right(bytes(memory.available)),
            Cell::new(memory_bounds(memory)),
        ]);
    }
    if let Some(pressure) = &status.pressure {
        let parts = [("cpu", pressure.cpu), ("memory", pressure.memory), ("io", pressure.io)];
        for (name, share) in parts {
            let now = right(format!("{:.1} %", share * 100.0));
            table.add_row(vec![Cell::new("pressure"), Cell::new(name), now, Cell::new("of the last 10 s")]);
        }
    }
    table
}

/// What is held in memory, and what bounds it.
fn memory_bounds(memory: &MemoryStatus) -> String {
    let mut bounds = format!(
        "models {} of {}; daemon {}; machine {}",
        bytes(memory.loaded),
        bytes(memory.cap),
        bytes(memory.resident),
        bytes(memory.total)
    );
    if let Some(limit) = memory.limit {
        let _ = write!(bounds, "; control group {}", bytes(limit));
    }
    if memory.pressed {
        bounds.push_str("; short: only what is in use stays loaded");
    } else if memory.cap_now < memory.cap {
        let _ = write!(bounds, "; short: models may hold {} now", bytes(memory.cap_now));
    }
    bounds
}

fn units(status: &Status) -> Table {
    let mut table = table(&["unit", "kind", "now", "clock", "loaded"]);
    for unit in &status.units {
        table.add_row(vec![
            Cell::new(&unit.name),
            Cell::new(wire(unit.kind)),
            Cell::new(if unit.busy { "busy" } else { "idle" }),
            right(known(unit.clock_khz.map(mhz))),
            Cell::new(unit.variants.join("\n")),
        ]);
    }
    table
}

fn classes(status: &Status) -> Table {
    let mut table = table(&["class", "latency", "least accuracy"]);
    for class in &status.classes {
        table.add_row(vec![
            Cell::new(&class.name),
            right(format!("{} ms", class.latency_ms)),
            right(percent(class.min_accuracy)),
        ]);
    }
    table
}

fn budgets(status: &Status) -> Table {
    let mut table = table(&["budget", "left", ""]);
    for budget in &status.budgets {
        table.add_row(vec![
            Cell::new(&budget.name),
            right(format!("{:.1} {}", budget.left, budget.unit)),
            Cell::new(if budget.ok { "" } else { "spent" }),
        ]);
    }
    table
}

/// What `wattctl status --estimators` prints.
#[must_use]
pub fn estimators(status: &Status) -> String {
    let mut table = table(&["estimator", "of", "mean error", "judged", "state", "now"]);
    for estimator in &status.estimators {
        let values = estimator.values.iter().map(|(name, value)| format!("{name} {value:.3}"));
        table.add_row(vec![
            Cell::new(&estimator.name),
            Cell::new(estimator.unit.as_deref().unwrap_or("board")),
            right(known(estimator.error.map(percent))),
            right(estimator.observations.to_string()),
            Cell::new(wire(estimator.state)),
            Cell::new(values.collect::<Vec<_>>().join("\n")),
        ]);
    }
    format!("{table}\n")
}

/// Sensors that the table above does not have already.
fn others(status: &Status) -> Table {
    let mut table = table(&["also measured", "now", "unit", "quality", "note"]);
    for instrument in status.instruments.iter().filter(|instrument| !is_shown_above(instrument)) {
        table.add_row(vec![
            Cell::new(&instrument.name),
            right(or_fault(instrument.value.map(|value| format!("{value:.2}")), instrument.fault)),
            Cell::new(&instrument.unit),
            Cell::new(wire(instrument.quality)),
            Cell::new(instrument.note.as_deref().unwrap_or_default()),
        ]);
    }
    table
}

fn is_shown_above(instrument: &Instrument) -> bool {
    let kind = instrument.name.split(' ').next().unwrap_or_default();
    ["zone", "rail", "domain", "battery", "pressure", "memory"].contains(&kind)
}

fn footing(text: &mut String, status: &Status) {
    for alarm in status.alarms.iter().filter(|alarm| alarm.on == Some(true) || alarm.events > 0) {
        let now = if alarm.on == Some(true) { "on now" } else { "over" };
        let _ = writeln!(text, "alarm: {} went off {} times, {now}", alarm.alarm.name(), alarm.events);
    }
    for foreign in &status.foreign {
        let bound = |khz: Option<Kilohertz>| khz.map_or_else(|| "open".to_owned(), |khz| mhz(khz.0));
        let _ = writeln!(
            text,
            "clock {}: someone else set bounds that are kept to: at least {}, at most {}",
            foreign.domain,
            bound(foreign.min_khz),
            bound(foreign.max_khz)
        );
    }
    for sentence in &status.missing {
        let _ = writeln!(text, "missing: {sentence}");
    }
    for sentence in &status.problems {
        let _ = writeln!(text, "problem: {sentence}");
    }
}

/// What `wattctl models` prints, at every clock or only at the highest.
#[must_use]
pub fn models(models: &Models, clocks: bool) -> String {
    let mut text = String::new();
    if models.models.is_empty() {
        text.push_str("no models: put model folders where `models` of the configuration says\n");
    }
    for model in &models.models {
        let _ = writeln!(text, "{} {}: {}", model.name, model.version, model.description);
        if let Some(problem) = &model.problem {
            let _ = writeln!(text, "problem: {problem}");
        }
        let _ = writeln!(text, "{}", ladder(model, clocks));
        for variant in &model.variants {
            reasons(&mut text, variant);
        }
    }
    text
}

fn ladder(model: &ModelStatus, clocks: bool) -> Table {
    let checked = "checked here";
    let mut table = table(&[
        "variant",
        "precision",
        &model.metric,
        checked,
        "size",
        "unit",
        "state",
        "clock",
        "latency",
        "energy",
        "dominated by",
    ]);
    for variant in &model.variants {
        let mut first = true;
        for unit in &variant.units {
            // What holds for the variant is written once.
            let once = |text: String| if first { text } else { String::new() };
            table.add_row(vec![
                Cell::new(once(variant.name.clone())),
                Cell::new(once(variant.precision.clone())),
                right(once(percent(variant.accuracy))),
                right(unit.check.as_ref().map(check).unwrap_or_default()),
                right(once(bytes(variant.bytes))),
                Cell::new(&unit.unit),
                Cell::new(wire(unit.state)),
                right(unit.clock_khz.map(mhz).unwrap_or_default()),
                right(latency(unit)),
                right(energy(unit)),
                Cell::new(unit.dominated_by.as_deref().unwrap_or_default()),
            ]);
            first = false;
            let slower = unit.clocks.iter().rev().skip(1).filter(|_| clocks);
            for at in slower {
                let mut row = vec![Cell::new(""); 7];
                row.push(right(mhz(at.clock_khz)));
                row.push(right(format!("{:.3} ms", at.latency_us / 1e3)));
                row.push(right(format!("{:.2} mJ", at.energy_uj / 1e3)));
                table.add_row(row);
            }
        }
    }
    table
}

/// Such as `93.8 % (92.1 to 95.1) of 1000`.
fn check(check: &CheckStatus) -> String {
    let share = f64::from(check.right) / f64::from(check.items.max(1));
    let (low, high) = (check.low * 100.0, check.high * 100.0);
    format!("{:.1} % ({low:.1} to {high:.1}) of {}", share * 100.0, check.items)
}

fn reasons(text: &mut String, variant: &VariantStatus) {
    if let Some(problem) = &variant.problem {
        let _ = writeln!(text, "{}: {problem}", variant.name);
    }
    for unit in &variant.units {
        if let Some(reason) = &unit.reason {
            let state = wire(unit.state).replace('-', " ");
            let _ = writeln!(text, "{} on {}: {state}: {reason}", variant.name, unit.unit);
        }
    }
}

fn latency(unit: &VariantOnUnit) -> String {
    let source = unit.latency_source.map_or("", provenance);
    known(unit.latency_us.map(|us| format!("{:.3} ms {source}", us / 1e3)))
}

fn energy(unit: &VariantOnUnit) -> String {
    let source = unit.energy_source.map_or("", provenance);
    known(unit.energy_uj.map(|uj| format!("{:.2} mJ {source}", uj / 1e3)))
}

/// An output in short: its first elements, and per item the position of the highest.
#[must_use]
pub fn output(output: &NamedTensor) -> String {
    let NamedTensor { name, tensor } = output;
    let head = format!("{name} {} {:?}", tensor.dtype.wire_name(), tensor.shape);
    let Ok(values) = score::numbers(tensor) else { return head };
    let mut parts: Vec<String> = values.iter().take(ELEMENTS).map(|value| format!("{value:.4}")).collect();
    if values.len() > ELEMENTS {
        parts.push("...".to_owned());
    }
    let items = tensor.shape.first().copied().unwrap_or(1).max(1);
    let width = values.len() / items;
    let highest: Vec<String> = match width {
        0 => Vec::new(),
        width => values.chunks_exact(width).take(ELEMENTS).filter_map(highest).collect(),
    };
    format!("{head}: {}\n{name} highest: {}", parts.join(" "), highest.join(" "))
}

fn highest(item: &[f64]) -> Option<String> {
    let (position, value) = item.iter().enumerate().max_by(|(_, left), (_, right)| left.total_cmp(right))?;
    Some(format!("{position} ({value:.4})"))
}

fn or_fault(value: Option<String>, fault: Option<crate::core::event::SensorFault>) -> String {
    value.unwrap_or_else(|| fault.map_or_else(|| "unknown".to_owned(), |fault| wire(fault).replace('_', " ")))
}

fn known(value: Option<String>) -> String {
    value.unwrap_or_else(|| "-".to_owned())
}

const fn provenance(source: Provenance) -> &'static str {
    match source {
        Provenance::Conservative => "guessed",
        Provenance::Modelled => "modelled",
        Provenance::Measured => "measured",
    }
}

/// The name of a unit variant, as the wire has it.
fn wire(value: impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        other => other.map_or_else(|_| String::new(), |value| value.to_string()),
    }
}

fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

fn mhz(khz: u32) -> String {
    format!("{} MHz", khz / 1000)
}

fn bytes(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

fn span(seconds: f64) -> impl Display {
    humantime::format_duration(std::time::Duration::from_secs(crate::units::Bytes::from_f64(seconds).0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::event::SensorFault;
    use crate::ctl::status::{
        AtClock, DomainStatus, EstimatorState, EstimatorStatus, VariantState, ZoneStatus,
    };
    use crate::exec::{DataType, Tensor};

    #[test]
    fn a_sensor_without_a_value_says_why() {
        let state = Status {
            zones: vec![
                ZoneStatus { name: "gpu".into(), c: Some(71.25), ..ZoneStatus::default() },
                ZoneStatus { name: "pmic".into(), fault: Some(SensorFault::NoData), ..ZoneStatus::default() },
            ],
            domains: vec![DomainStatus {
                name: "emc".into(),
                khz: Some(1_600_000),
                ..DomainStatus::default()
            }],
            problems: vec!["crepe/tiny-fp16: hash differs".into()],
            uptime_s: 3_661.0,
            ..Status::default()
        };
        let text = status(&state);
        for expected in
            ["71.2 °C", "no data", "1600 MHz", "does not follow", "1h 1m 1s", "problem: crepe/tiny-fp16"]
        {
            assert!(text.contains(expected), "{expected} in\n{text}");
        }
    }

    #[test]
    fn an_estimator_says_how_far_off_it_was() {
        let values = [("p99_ratio".to_owned(), 1.0875)].into();
        let latency = EstimatorStatus {
            name: "latency".into(),
            unit: Some("gpu".into()),
            error: Some(0.0213),
            observations: 40,
            state: EstimatorState::Known,
            values,
        };
        let heat = EstimatorStatus { name: "heat".into(), ..EstimatorStatus::default() };
        let text = estimators(&Status { estimators: vec![latency, heat], ..Status::default() });
        for expected in ["latency", "gpu", "2.13 %", "40", "known", "p99_ratio 1.08", "board", "guess"] {
            assert!(text.contains(expected), "{expected} in\n{text}");
        }
    }

    #[test]
    fn a_ladder_shows_what_was_measured_here_and_why_a_variant_is_kept_off() {
        let unit = |unit: &str, state, reason: Option<&str>| VariantOnUnit {
            unit: unit.into(),
            state,
            reason: reason.map(str::to_owned),
            check: Some(CheckStatus { right: 240, items: 256, low: 0.901, high: 0.961 }),
            dominated_by: Some("pruned".into()),
            latency_us: Some(1_234.5),
            latency_source: Some(Provenance::Measured),
            energy_uj: None,
            energy_source: None,
            clock_khz: Some(2_000_000),
            footprint: None,
            clocks: vec![
                AtClock { clock_khz: 1_000_000, latency_us: 2_400.0, energy_uj: 700.0 },
                AtClock { clock_khz: 2_000_000, latency_us: 1_234.5, energy_uj: 900.0 },
            ],
        };
        let variant = VariantStatus {
            name: "int8".into(),
            accuracy: 0.934,
            units: vec![
                unit("cpu", VariantState::Loaded, None),
                unit("npu", VariantState::Quarantined, Some("NaN in logits")),
            ],
            ..VariantStatus::default()
        };
        let model = ModelStatus { name: "fashion".into(), variants: vec![variant], ..ModelStatus::default() };
        let all = Models { models: vec![model] };
        let (text, by_clock) = (models(&all, false), models(&all, true));
        for expected in [
            "93.40 %",
            "93.8 % (90.1 to 96.1) of 256",
            "1.234 ms measured",
            "2000 MHz",
            "loaded",
            "pruned",
            "int8 on npu: quarantined: NaN in logits",
        ] {
            assert!(text.contains(expected), "{expected} in\n{text}");
        }
        assert!(!text.contains("1000 MHz") && by_clock.contains("1000 MHz"), "{by_clock}");
        assert!(by_clock.contains("2.400 ms") && by_clock.contains("0.70 mJ"), "{by_clock}");
        assert_eq!(text.matches("93.40 %").count(), 1, "once for a variant, not for a unit:\n{text}");
    }

    #[test]
    fn an_output_names_the_highest_of_each_item() {
        let data: Vec<u8> = [1.0_f32, 9.0, 3.0, 4.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let tensor = Tensor { dtype: DataType::Fp32, shape: vec![2, 2], data: data.into() };
        let text = output(&NamedTensor { name: "logits".into(), tensor });
        assert!(text.ends_with("logits highest: 1 (9.0000) 1 (4.0000)"), "{text}");
    }
}
