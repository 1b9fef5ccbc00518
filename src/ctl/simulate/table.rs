//! One table per board, workload and disturbance; one row per policy.

use super::summary::{Estimate, Group, PolicyRow};
use crate::ctl::report::table::{right, table};
use comfy_table::Cell;

/// A table before it is known how it is shown. The first column is text, the others are numbers.
pub(super) struct Sheet {
    pub(super) heads: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

/// The groups as text.
#[must_use]
pub fn tables(groups: &[Group]) -> String {
    let one = |group: &Group| format!("{}\n{}\n", title(group), text(&sheet(group)));
    groups.iter().map(one).collect::<Vec<_>>().join("\n")
}

fn text(sheet: &Sheet) -> comfy_table::Table {
    let heads: Vec<&str> = sheet.heads.iter().map(String::as_str).collect();
    let mut table = table(&heads);
    for row in &sheet.rows {
        let cells = row.iter().enumerate();
        table.add_row(cells.map(|(column, cell)| if column == 0 { Cell::new(cell) } else { right(cell) }));
    }
    table
}

/// What a group is, in words.
pub(super) fn title(group: &Group) -> String {
    let disturbance = group.disturbance.as_deref().unwrap_or("undisturbed");
    let runs = group.rows.iter().map(|row| row.runs).max().unwrap_or(0);
    let each =
        if runs == 1 { "1 run".to_owned() } else { format!("{runs} runs each, ± is 95 % confidence") };
    format!("{}, {}, {disturbance}: {each}", group.board, group.workload)
}

/// The columns of a group: those without any value are left out.
pub(super) fn sheet(group: &Group) -> Sheet {
    type Column<'a> = (String, Box<dyn Fn(&PolicyRow) -> Option<String> + 'a>);
    let over = group.reference.as_deref().unwrap_or_default();
    let column =
        |head: &str, of: fn(&PolicyRow) -> Option<String>| -> Column<'_> { (head.to_owned(), Box::new(of)) };
    let columns: Vec<Column<'_>> = vec![
        column("policy", |row| Some(row.policy.clone())),
        column("requests", |row| Some(row.requests.to_string())),
        column("served %", |row| Some(percent(row.served, 2))),
        column("missed %", |row| estimate(row.missed, 100.0, 2)),
        column("after a miss %", |row| row.missed_after_miss.map(|share| percent(share, 1))),
        column("refused %", |row| Some(percent(row.rejected, 2))),
        column("energy J", |row| estimate(row.energy_j, 1.0, 2)),
        column(&format!("vs {over} %"), |row| estimate(row.over_reference, 100.0, 1)),
        column("over bound %", |row| estimate(row.over_bound, 100.0, 2)),
        column("over O3 %", |row| estimate(row.over_o3, 100.0, 2)),
        column("accuracy", |row| estimate(row.accuracy, 1.0, 4)),
        column("above trip s", |row| Some(format!("{:.2}", row.above_trip_s))),
        column("peak °C", |row| Some(format!("{:.1}", row.peak_c))),
        column("decision µs p50", |row| row.decision_ns_p50.map(micros)),
        column("p99", |row| row.decision_ns_p99.map(micros)),
    ];
    let filled = columns.iter().filter(|(_, of)| group.rows.iter().any(|row| of(row).is_some()));
    let filled: Vec<&Column<'_>> = filled.collect();
    let cell =
        |row: &PolicyRow, of: &dyn Fn(&PolicyRow) -> Option<String>| of(row).unwrap_or_else(|| "-".into());
    Sheet {
        heads: filled.iter().map(|(head, _)| head.clone()).collect(),
        rows: group.rows.iter().map(|row| filled.iter().map(|(_, of)| cell(row, of)).collect()).collect(),
    }
}

fn percent(share: f64, digits: usize) -> String {
    format!("{:.digits$}", share * 100.0)
}

/// `mean ± half`.
fn estimate(value: Option<Estimate>, scale: f64, digits: usize) -> Option<String> {
    let Estimate { mean, half } = value?;
    let mean = format!("{:.digits$}", mean * scale);
    Some(half.map_or(mean.clone(), |half| format!("{mean} ± {:.digits$}", half * scale)))
}

fn micros(ns: u64) -> String {
    format!("{:.1}", crate::units::Nanos(ns).as_f64() / 1e3)
}
