//! What `wattctl board` shows: the board, what it lacks, and which board file fits.

use crate::board::cpus::spans;
use crate::board::detect::{Accelerator, Found, FoundClock, FoundRail, FoundZone, Gap, Nearest, nearest};
use crate::board::detect::{Places, look};
use crate::board::spec::RailInterface;
use crate::board::sysfs::BoardError;
use crate::core::catalog::UnitKind;
use crate::ctl::report::table::{right, table};
use comfy_table::{Cell, Table};
use serde::Serialize;
use std::fmt::Write as _;
use std::path::PathBuf;

/// What an ONNX Runtime offers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Providers {
    /// The library that was asked.
    pub library: Option<PathBuf>,
    /// Its version.
    pub version: Option<String>,
    /// What runs where.
    pub devices: Vec<Accelerator>,
    /// Why there is none.
    pub problem: Option<String>,
}

/// A board that was looked over.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Look {
    /// What there is.
    #[serde(flatten)]
    pub found: Found,
    /// Execution providers; `None` if nobody asked.
    pub providers: Option<Providers>,
    /// The board file that fits.
    pub nearest: Option<Nearest>,
    /// What is missing, and what that costs.
    pub missing: Vec<Gap>,
}

impl Look {
    /// Looks over the board at `places`.
    ///
    /// # Errors
    /// If there is no directory that stands for `/sys`.
    pub fn over(places: &Places, providers: Option<Providers>) -> Result<Self, BoardError> {
        let found = look(places)?;
        let nearest = nearest(places, &found);
        let kinds =
            |providers: &Providers| providers.devices.iter().map(|one| one.kind).collect::<Vec<UnitKind>>();
        let missing = found.gaps(providers.as_ref().map(kinds).as_deref());
        Ok(Self { found, providers, nearest, missing })
    }

    /// All that people want to know of it.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        self.heading(&mut text);
        if !self.found.clocks.is_empty() {
            let _ = writeln!(text, "{}", clocks(&self.found.clocks));
        }
        if !self.found.zones.is_empty() {
            let _ = writeln!(text, "{}", zones(&self.found.zones));
        }
        if !self.found.rails.is_empty() {
            let _ = writeln!(text, "{}", rails(&self.found.rails));
        }
        self.footing(&mut text);
        self.board_file(&mut text);
        text
    }

    fn heading(&self, text: &mut String) {
        let identity = &self.found.identity;
        let _ = writeln!(text, "{}", identity.name());
        let mut line = |name: &str, value: Option<String>| {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                let _ = writeln!(text, "{:<11} {value}", format!("{name}:"));
            }
        };
        line("compatible", Some(identity.compatible.join(" ")));
        line("machine", identity.machine.clone().filter(|machine| machine != identity.name()));
        line("firmware", identity.firmware.clone());
        line("kernel", identity.kernel.clone());
        line("system", identity.system.clone());
        line(
            "L4T",
            identity.l4t.as_ref().map(|l4t| match l4t.jetpack {
                Some(jetpack) => format!("{} (JetPack {jetpack})", l4t.release),
                None => l4t.release.clone(),
            }),
        );
        line("CPUs", Some(spans(&self.found.cpus)));
        line("offline", Some(spans(&self.found.offline)));
        let Some(providers) = &self.providers else { return };
        let devices: Vec<String> =
            providers.devices.iter().map(|one| format!("{} on {}", one.provider, word(one.kind))).collect();
        let of = providers.library.as_ref().zip(providers.version.as_ref());
        let of = of.map(|(library, version)| format!(" (ONNX Runtime {version} at {})", library.display()));
        line("providers", of.map(|of| devices.join(", ") + &of));
        line("providers", providers.problem.as_ref().map(|problem| format!("none: {problem}")));
    }

    fn footing(&self, text: &mut String) {
        if let Some(battery) = &self.found.battery {
            let names = battery.names.join(", ");
            let _ = match (battery.left_wh, battery.full_wh, battery.draw_w) {
                (Some(left), Some(full), Some(draw)) => {
                    writeln!(text, "battery {names}: {left:.1} of {full:.1} Wh, drawing {draw:.2} W")
                }
                _ => writeln!(text, "battery {names}: {}", battery.problem.as_deref().unwrap_or("unknown")),
            };
        }
        for cap in &self.found.caps {
            let khz = cap.khz.map_or("none".to_owned(), mhz);
            let _ = writeln!(text, "cap of {}: {khz} ({})", cap.name, cap.node);
        }
        let reasons = self.found.zones.iter().filter_map(|zone| Some((&zone.name, zone.problem.as_ref()?)));
        let reasons = reasons
            .chain(self.found.rails.iter().filter_map(|rail| Some((&rail.name, rail.problem.as_ref()?))));
        for (name, problem) in reasons {
            let _ = writeln!(text, "unreadable: {name}: {problem}");
        }
        for problem in &self.found.unreadable {
            let _ = writeln!(text, "unreadable: {problem}");
        }
        for Gap { lacks, costs } in &self.missing {
            let _ = writeln!(text, "missing: {lacks}: {costs}");
        }
    }

    fn board_file(&self, text: &mut String) {
        let Some(nearest) = &self.nearest else {
            let _ = writeln!(
                text,
                "board file: none that comes with wattd fits; --write FILE makes one to start from"
            );
            return;
        };
        let figures = if nearest.synthetic { "; some of its figures are assumed" } else { "" };
        let _ = writeln!(text, "board file: {}.toml fits: {}{figures}", nearest.board, nearest.because);
        for absent in &nearest.absent {
            let _ = writeln!(text, "  not here: {absent}");
        }
        if !nearest.unused.is_empty() {
            let _ = writeln!(text, "  here, but not in it: {}", nearest.unused.join(", "));
        }
        if nearest.absent.is_empty() && nearest.unused.is_empty() {
            let _ = writeln!(text, "  all that it names is here, and nothing else");
        }
    }
}

fn clocks(clocks: &[FoundClock]) -> Table {
    let mut table = table(&["clock", "node", "now", "bounds", "points", "governor"]);
    for clock in clocks {
        let device = clock.device.as_deref().unwrap_or_default();
        let node = match clock.cpus.is_empty() {
            true => format!("{} {device}", clock.node),
            false => {
                let cpus = if clock.cpus.len() == 1 { "CPU" } else { "CPUs" };
                format!("{} ({cpus} {}) {device}", clock.node, spans(&clock.cpus))
            }
        };
        let points = match (clock.opps_khz.as_slice(), clock.table) {
            ([], _) => "none shown".to_owned(),
            ([first, .., last], true) => {
                format!("{}: {} to {}", clock.opps_khz.len(), mhz(*first), mhz(*last))
            }
            ([first, .., last], false) => format!("any, {} to {}", mhz(*first), mhz(*last)),
            ([only], _) => mhz(*only),
        };
        // devfreq says 0 where nothing bounds a clock.
        let bound = |khz: u32| if khz == 0 { "none".to_owned() } else { mhz(khz) };
        table.add_row(vec![
            Cell::new(serde_word(clock.kind)),
            Cell::new(node.trim()),
            right(clock.khz.map(mhz).unwrap_or_else(|| "-".to_owned())),
            Cell::new(
                clock
                    .bounds_khz
                    .map_or("-".to_owned(), |(min, max)| format!("{} to {}", bound(min), bound(max))),
            ),
            Cell::new(points),
            Cell::new(clock.governor.as_deref().unwrap_or("-")),
        ]);
    }
    table
}

fn zones(zones: &[FoundZone]) -> Table {
    let mut table = table(&["zone", "now", "passive", "hot", "critical"]);
    for zone in zones {
        let cell = |value: Option<f64>| right(value.map_or("-".to_owned(), |c| format!("{c:.1} °C")));
        let name = if zone.nodes > 1 {
            format!("{} (hottest of {})", zone.name, zone.nodes)
        } else {
            zone.name.clone()
        };
        table.add_row(vec![
            Cell::new(name),
            cell(zone.c),
            cell(zone.passive_c),
            cell(zone.hot_c),
            cell(zone.critical_c),
        ]);
    }
    table
}

fn rails(rails: &[FoundRail]) -> Table {
    let mut table = table(&["rail", "of", "now", ""]);
    for rail in rails {
        let of = if rail.interface == RailInterface::Powercap { "powercap" } else { &rail.chip };
        let role = match &rail.part_of {
            Some(whole) => format!("counted in {whole}"),
            None if rail.input => "the whole board's input".to_owned(),
            None => String::new(),
        };
        let now = match (rail.watts, &rail.problem) {
            (Some(watts), _) => format!("{watts:.2} W"),
            (None, None) => "a counter".to_owned(),
            (None, Some(_)) => "-".to_owned(),
        };
        table.add_row(vec![Cell::new(&rail.name), Cell::new(of), right(now), Cell::new(role)]);
    }
    table
}

fn mhz(khz: u32) -> String {
    format!("{} MHz", khz / 1000)
}

const fn word(kind: UnitKind) -> &'static str {
    match kind {
        UnitKind::Cpu => "cpu",
        UnitKind::Gpu => "gpu",
        UnitKind::Npu => "npu",
    }
}

fn serde_word(value: impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
