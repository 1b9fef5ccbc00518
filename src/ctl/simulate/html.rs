//! The report as one page that needs nothing else: tables and pictures in it, no script, no network.

use super::chart;
use super::summary::Group;
use super::table::{Sheet, sheet, title};
use super::timeline::{self, PictureError};
use crate::sim::experiment::Experiment;
use std::fmt::Write as _;

/// Most groups with a timeline, which needs runs of its own.
const MOST_TIMELINES: usize = 12;

const STYLE: &str = "body{font:15px/1.5 Inter,Segoe UI,Roboto,Helvetica Neue,Arial,sans-serif;color:#1f2933;\
    max-width:1240px;margin:32px auto;padding:0 20px}\
    h1{font-size:26px}h2{font-size:19px;margin-top:44px}\
    table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:13.5px}\
    th,td{padding:4px 10px;border-bottom:1px solid #eaecef;text-align:right;white-space:nowrap}\
    th:first-child,td:first-child{text-align:left}th{border-bottom:2px solid #a3aab2}\
    svg{max-width:100%;height:auto;display:block;margin:18px 0}p{color:#6b7580}.wide{overflow-x:auto}";

/// The page.
///
/// # Errors
/// If a picture cannot be drawn.
pub fn page(experiment: &Experiment, groups: &[Group]) -> Result<String, PictureError> {
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <title>wattctl simulate</title><style>{STYLE}</style></head><body>\n\
         <h1>Policies on simulated boards</h1>\n<p>{}</p>\n",
        escape(&preface(experiment))
    );
    // Groups are in the order of the scenarios.
    for (index, group) in groups.iter().enumerate() {
        let _ = writeln!(page, "<h2>{}</h2>", escape(&title(group)));
        let _ = writeln!(page, "<div class=\"wide\">{}</div>", html_table(&sheet(group)));
        page.push_str(&inline(&chart::energy_against_misses(group)?));
        if let Some(svg) = chart::gap_to_the_bound(group)? {
            page.push_str(&inline(&svg));
        }
        let scenario = experiment.scenarios.get(index).filter(|_| index < MOST_TIMELINES);
        if let (Some(scenario), Some(seed)) = (scenario, experiment.seeds.first()) {
            let policies = timeline_policies(group);
            page.push_str(&inline(&timeline::picture(scenario, &policies, *seed)?));
        }
    }
    page.push_str("</body></html>\n");
    Ok(page)
}

/// The first policy, and what it is compared with.
fn timeline_policies(group: &Group) -> Vec<&str> {
    let names: Vec<&str> = group.rows.iter().map(|row| row.policy.as_str()).collect();
    let first = names.first().copied();
    let other = group.reference.as_deref().filter(|name| Some(*name) != first).or(names.get(1).copied());
    first.into_iter().chain(other).collect()
}

fn preface(experiment: &Experiment) -> String {
    let (first, last) = (experiment.seeds.first(), experiment.seeds.last());
    let seeds = match (first, last) {
        (Some(first), Some(last)) if first != last => format!("seeds {first} to {last}"),
        (Some(first), _) => format!("seed {first}"),
        _ => "no seeds".to_owned(),
    };
    format!(
        "wattd {}, {seeds}. Energy of the whole board over the whole run, idle and loading included. Every policy \
         meets the same requests and the same noise. Timelines are of the first seed.",
        env!("CARGO_PKG_VERSION")
    )
}

fn html_table(sheet: &Sheet) -> String {
    let row = |cells: &[String], tag: &str| {
        let cells = cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell)));
        format!("<tr>{}</tr>", cells.collect::<String>())
    };
    let body: String = sheet.rows.iter().map(|cells| row(cells, "td")).collect();
    format!("<table>{}{body}</table>", row(&sheet.heads, "th"))
}

/// An SVG document as a part of a page.
fn inline(svg: &str) -> String {
    let start = svg.find("<svg").unwrap_or(0);
    format!("{}\n", svg[start..].trim_end())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
