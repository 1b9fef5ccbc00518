//! A board file to start from: what was found, with figures from the board file that fits where there is one.
//! What nobody measured on this board says so.

use super::{ClockKind, Found, FoundClock, FoundRail, FoundZone, Nearest, shown};
use crate::board::check::{MAX_ENTRIES, is_name};
use crate::board::cpus::spans;
use crate::board::spec::{BoardSpec, DomainInterface, DomainSpec, RailInterface, SpecError, UnitSpec};
use crate::core::catalog::{PowerModel, UnitKind};
use std::borrow::Cow;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// A processor that an execution provider was found for.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Accelerator {
    /// The provider.
    pub provider: String,
    /// Kind of the processor.
    pub kind: UnitKind,
    /// The plug-in library that brings the provider, where the runtime has it not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub library: Option<PathBuf>,
}

/// Providers in the order of preference; any other comes after these.
const PREFERRED: [&str; 4] = [
    "TensorrtExecutionProvider",
    "NvTensorRTRTXExecutionProvider",
    "CUDAExecutionProvider",
    "OpenVINOExecutionProvider",
];
const CPU_PROVIDER: &str = "CPUExecutionProvider";
/// Most clusters that get a unit for one thread too.
const MAX_CLUSTERS: usize = 8;
/// Most threads of a unit.
const MAX_THREADS: u16 = 64;
/// Assumed where the kernel shows no trip, in degrees Celsius: most silicon stands more.
const PASSIVE_C: f64 = 80.0;
const CRITICAL_C: f64 = 95.0;
/// Kelvins between the two trips where the kernel shows only one.
const BETWEEN_K: f64 = 10.0;
/// Words in the `type` of zones that processors heat.
const HOT_WORDS: [&str; 11] =
    ["cpu", "gpu", "soc", "tj", "pkg", "core", "npu", "acpitz", "pll", "package", "center"];

/// Policies of one CPU each are set alike where the highest clocks differ by no more than this share: an efficient core
/// is no fast one, but a favoured core is one of many.
const ALIKE: f64 = 0.8;

/// A clock domain of the draft.
struct Domain<'a> {
    name: String,
    clock: Cow<'a, FoundClock>,
    known: Option<&'a DomainSpec>,
}

struct Drafter<'a> {
    found: &'a Found,
    nearest: Option<&'a Nearest>,
    accelerators: &'a [Accelerator],
    domains: Vec<Domain<'a>>,
    rails: Vec<&'a FoundRail>,
    text: String,
}

/// The text of a board file called `name`.
///
/// # Errors
/// If the name, or anything else in it, is nothing that a board file may say.
pub fn draft(
    name: &str,
    found: &Found,
    nearest: Option<&Nearest>,
    accelerators: &[Accelerator],
) -> Result<String, SpecError> {
    let domains = domains(found, nearest);
    let rails = rails(found);
    let mut drafter = Drafter { found, nearest, accelerators, domains, rails, text: String::new() };
    drafter.head(name);
    drafter.units();
    drafter.clocks();
    drafter.zones();
    drafter.heat();
    drafter.power();
    BoardSpec::parse(&drafter.text, Path::new(name))?;
    Ok(drafter.text)
}

/// Clocks worth an entry.
fn domains<'a>(found: &'a Found, nearest: Option<&'a Nearest>) -> Vec<Domain<'a>> {
    let policies = policies(found);
    let alone = policies.len() == 1;
    let policies = policies.into_iter().take(MAX_ENTRIES / 2);
    let others = [ClockKind::Gpu, ClockKind::Npu, ClockKind::Memory];
    let others = others.into_iter().flat_map(|kind| of_kind(found, kind)).map(Cow::Borrowed);
    let mut domains: Vec<Domain<'a>> = Vec::new();
    for clock in policies.chain(others).filter(|clock| !clock.opps_khz.is_empty()).take(MAX_ENTRIES) {
        let known = nearest.and_then(|nearest| nearest.domain(&clock));
        let plain = match clock.kind {
            ClockKind::Cpu if alone => "cpu".to_owned(),
            ClockKind::Cpu => format!("cpu{}", clock.cpus.first().copied().unwrap_or_default()),
            ClockKind::Gpu => "gpu".to_owned(),
            ClockKind::Npu => "npu".to_owned(),
            ClockKind::Memory | ClockKind::Other => "memory".to_owned(),
        };
        let taken = |name: &str| domains.iter().any(|domain| domain.name == name);
        let wanted = known.map_or(plain, |known| known.name.clone());
        let name = if taken(&wanted) { clock.node.clone() } else { wanted };
        if is_name(&name) && is_name(&clock.select) && !taken(&name) {
            domains.push(Domain { name, clock, known });
        }
    }
    domains
}

fn of_kind(found: &Found, kind: ClockKind) -> impl Iterator<Item = &FoundClock> {
    found.clocks.iter().filter(move |clock| clock.kind == kind)
}

/// The policies; those of one CPU each, in groups whose clocks are alike.
fn policies(found: &Found) -> Vec<Cow<'_, FoundClock>> {
    let all = of_kind(found, ClockKind::Cpu);
    if !has_clock_per_cpu(found) {
        return all.map(Cow::Borrowed).collect();
    }
    let top = |clock: &FoundClock| f64::from(clock.opps_khz.last().copied().unwrap_or_default());
    let mut groups: Vec<Vec<&FoundClock>> = Vec::new();
    for policy in all {
        let alike = |group: &&mut Vec<&FoundClock>| {
            let (one, other) = (top(group[0]), top(policy));
            one.min(other) >= ALIKE * one.max(other)
        };
        match groups.iter_mut().find(alike) {
            Some(group) => group.push(policy),
            None => groups.push(vec![policy]),
        }
    }
    let alone = groups.len() == 1;
    let one = |group: Vec<&FoundClock>| {
        // The one that goes highest stands for them, and each goes as high as it can.
        let highest = group.iter().copied().max_by(|a, b| top(a).total_cmp(&top(b))).unwrap_or(group[0]);
        let mut cpus: Vec<u16> = group.iter().flat_map(|policy| policy.cpus.iter().copied()).collect();
        cpus.sort_unstable();
        let select = if alone { "all".to_owned() } else { spans(&cpus) };
        let node = format!("{} and {} more", group[0].node, group.len() - 1);
        let directory = group[0].directory.clone();
        Cow::Owned(FoundClock { cpus, select, node, directory, ..highest.clone() })
    };
    groups.into_iter().map(one).collect()
}

/// Whether every CPU has a policy of its own, as on most x86.
fn has_clock_per_cpu(found: &Found) -> bool {
    let mut policies = of_kind(found, ClockKind::Cpu);
    of_kind(found, ClockKind::Cpu).count() > 1 && policies.all(|policy| policy.cpus.len() <= 1)
}

/// Numbers of threads worth a unit: one, half of the CPUs, all.
fn rungs(cpus: &[u16]) -> Vec<u16> {
    let all = u16::try_from(cpus.len()).unwrap_or(u16::MAX).clamp(1, MAX_THREADS);
    let mut rungs = vec![1, all / 2, all];
    rungs.retain(|threads| *threads > 0);
    rungs.dedup();
    rungs
}

/// A unit of which nothing else is known.
fn plain_unit(kind: UnitKind, provider: &str) -> UnitSpec {
    UnitSpec {
        name: String::new(),
        kind,
        provider: provider.to_owned(),
        provider_library: None,
        provider_options: std::collections::BTreeMap::new(),
        threads: 1,
        cpus: Vec::new(),
        shares: None,
        domain: None,
        memory_domain: None,
        preemptible: None,
        busy_power: PowerModel::default(),
        rail: None,
    }
}

/// Rails whose sum, where none carries the board's input, counts nothing twice.
fn rails(found: &Found) -> Vec<&FoundRail> {
    found.rails.iter().filter(|rail| rail.usable && rail.part_of.is_none()).collect()
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

impl<'a> Drafter<'a> {
    fn line(&mut self, text: impl AsRef<str>) {
        self.text.push_str(text.as_ref());
        self.text.push('\n');
    }

    /// `key = value`, and behind it where the value is from.
    fn figure(&mut self, key: &str, value: impl std::fmt::Display, from: &str) {
        let _ = writeln!(self.text, "{key} = {value} # {from}");
    }

    /// Where the figures are from that were not found here.
    fn source(&self) -> String {
        match self.nearest {
            Some(nearest) if nearest.synthetic => format!("assumed, as in {}.toml", nearest.board),
            Some(nearest) => format!("as in {}.toml, not measured here", nearest.board),
            None => "assumed".to_owned(),
        }
    }

    fn head(&mut self, name: &str) {
        let identity = &self.found.identity;
        let board = shown(identity.name());
        self.line(format!("# {board}: written by `wattctl board` from what its kernel shows."));
        self.line("#");
        self.line("# Found: clocks with their operating points, zones with their trips, rails. Everything that says");
        self.line("# \"assumed\" was not: measure it, or take it from a data sheet. wattd learns how far off it is.");
        self.line("# Whether other programs wait (PSI) is read without an entry.");
        for gap in self.found.gaps(None) {
            self.line(format!("# {}: {}.", gap.lacks, gap.costs));
        }
        self.line(format!("name = {}", quoted(name)));
        self.line(format!("description = {}", quoted(&format!("{board}; power and heat assumed"))));
        self.line("synthetic = true");
        let fits = |name: &&String| name.contains(',') && name.chars().all(|c| c.is_ascii_graphic());
        if let Some(compatible) = identity.compatible.first().filter(fits).filter(|name| name.len() <= 128) {
            self.line(format!("compatible = [{}]", quoted(compatible)));
        }
        let idle = self.nearest.map_or(if identity.compatible.is_empty() { 10.0 } else { 3.0 }, |nearest| {
            nearest.spec.idle_power_w
        });
        let source = self.source();
        self.figure("idle_power_w", idle, &format!("{source}: what the board draws when nothing runs"));
        let battery = self.found.battery.as_ref().is_some_and(|battery| battery.problem.is_none());
        self.line(format!("battery = {battery}"));
    }

    fn units(&mut self) {
        self.line("\n# --- Processors: units with the same `shares` are one processor, used one at a time");
        let known = self.known_cpu_units();
        if known.is_empty() {
            self.plain_cpu_units();
        }
        let source = self.source();
        for unit in known {
            let domain = unit.domain.clone();
            self.unit(unit, domain.as_deref(), &source);
        }
        for (kind, clock) in [(UnitKind::Gpu, ClockKind::Gpu), (UnitKind::Npu, ClockKind::Npu)] {
            self.accelerator(kind, clock);
        }
    }

    /// The CPU units of the board file that fits, as far as their clocks and CPUs are here.
    fn known_cpu_units(&self) -> Vec<&'a UnitSpec> {
        let Some(nearest) = self.nearest else { return Vec::new() };
        let online = &self.found.cpus;
        let here = |unit: &&UnitSpec| {
            let clock =
                unit.domain.as_ref().map(|name| self.domains.iter().find(|domain| domain.name == *name));
            let cpus = match clock {
                Some(None) => return false,
                Some(Some(domain)) if !domain.clock.cpus.is_empty() => domain.clock.cpus.len(),
                _ => online.len(),
            };
            unit.kind == UnitKind::Cpu
                && usize::from(unit.threads) <= cpus.max(1)
                && unit.cpus.iter().all(|cpu| online.contains(cpu))
        };
        nearest.spec.units.iter().filter(here).collect()
    }

    /// Per policy a unit with one thread, one with all, and one between them.
    fn plain_cpu_units(&mut self) {
        let online = self.found.cpus.clone();
        let policies: Vec<(String, Vec<u16>)> = self
            .domains
            .iter()
            .filter(|domain| domain.clock.kind == ClockKind::Cpu)
            .map(|domain| (domain.name.clone(), domain.clock.cpus.clone()))
            .collect();
        match policies.as_slice() {
            [] => rungs(&online).into_iter().for_each(|threads| self.cpu_unit("cpu", threads, None, &[])),
            [(name, cpus)] => {
                rungs(cpus).into_iter().for_each(|threads| self.cpu_unit(name, threads, Some(name), &[]));
            }
            several => {
                // Of many clusters only units of all their CPUs: a board file holds so many.
                for (name, cpus) in several {
                    let rungs = rungs(cpus);
                    let first = if several.len() > MAX_CLUSTERS { rungs.len() - 1 } else { 0 };
                    rungs[first..].iter().for_each(|n| self.cpu_unit(name, *n, Some(name), cpus));
                }
            }
        }
    }

    fn cpu_unit(&mut self, name: &str, threads: u16, domain: Option<&str>, cpus: &[u16]) {
        let share = f64::from(threads);
        // Without a clock the power over the clock is unknown too.
        let busy_power = if domain.is_some() {
            PowerModel { constant_w: 0.0, linear_w_per_ghz: 0.4 * share, cubic_w_per_ghz3: 0.075 * share }
        } else {
            PowerModel { constant_w: 2.0 * share, linear_w_per_ghz: 0.0, cubic_w_per_ghz3: 0.0 }
        };
        let unit = UnitSpec {
            name: if threads == 1 { name.to_owned() } else { format!("{name}-{threads}t") },
            threads,
            cpus: cpus.to_vec(),
            shares: (threads > 1).then(|| name.to_owned()),
            busy_power,
            rail: Some("package-0".to_owned()),
            ..plain_unit(UnitKind::Cpu, CPU_PROVIDER)
        };
        self.unit(&unit, domain, "assumed");
    }

    /// A unit that names only what is here.
    fn unit(&mut self, unit: &UnitSpec, domain: Option<&str>, source: &str) {
        self.line("\n[[unit]]");
        self.line(format!("name = {}", quoted(&unit.name)));
        self.line(format!("kind = \"{}\"", word(unit.kind)));
        if unit.provider != CPU_PROVIDER {
            self.line(format!("provider = {}", quoted(&unit.provider)));
        }
        if let Some(library) = &unit.provider_library {
            self.line(format!("provider_library = {}", quoted(&library.display().to_string())));
        }
        if unit.kind == UnitKind::Cpu {
            self.line(format!("threads = {}", unit.threads));
        }
        if !unit.cpus.is_empty() {
            self.line(format!("cpus = {:?}", unit.cpus));
        }
        if let Some(shares) = &unit.shares {
            self.line(format!("shares = {}", quoted(shares)));
        }
        let has = |name: &str| self.domains.iter().any(|known| known.name == name);
        let memory = unit.memory_domain.clone().filter(|name| has(name));
        if let Some(domain) = domain {
            self.line(format!("domain = {}", quoted(domain)));
        }
        if let Some(memory) = memory {
            self.line(format!("memory_domain = {}", quoted(&memory)));
        }
        let rail = unit.rail.clone().filter(|name| self.rails.iter().any(|rail| rail.name == *name));
        if let Some(rail) = rail {
            self.line(format!("rail = {}", quoted(&rail)));
        }
        let PowerModel { constant_w, linear_w_per_ghz, cubic_w_per_ghz3 } = unit.busy_power;
        let power = format!(
            "{{ constant_w = {constant_w:?}, linear_w_per_ghz = {linear_w_per_ghz:.3}, cubic_w_per_ghz3 = {cubic_w_per_ghz3:.3} }}"
        );
        self.figure("busy_power", power, &format!("{source}: above idle"));
    }

    /// The GPU or NPU: a unit where a provider was found for it, else a hint.
    fn accelerator(&mut self, kind: UnitKind, clock: ClockKind) {
        let offers: Vec<&Accelerator> = self.accelerators.iter().filter(|one| one.kind == kind).collect();
        let rank =
            |offer: &&&Accelerator| PREFERRED.iter().position(|name| *name == offer.provider).unwrap_or(9);
        let offer = offers.iter().min_by_key(rank).copied();
        let domain =
            self.domains.iter().find(|domain| domain.clock.kind == clock).map(|one| one.name.clone());
        if domain.is_none() && offer.is_none() {
            return;
        }
        let known = self.nearest.and_then(|nearest| nearest.spec.units.iter().find(|unit| unit.kind == kind));
        let busy_power = match (known, domain.is_some()) {
            (Some(unit), true) => unit.busy_power,
            (_, true) => PowerModel { constant_w: 0.0, linear_w_per_ghz: 3.0, cubic_w_per_ghz3: 2.0 },
            (_, false) => PowerModel { constant_w: 10.0, linear_w_per_ghz: 0.0, cubic_w_per_ghz3: 0.0 },
        };
        let unit = UnitSpec {
            name: known.map_or(word(kind), |unit| &unit.name).to_owned(),
            memory_domain: known.and_then(|unit| unit.memory_domain.clone()),
            busy_power,
            rail: known.and_then(|unit| unit.rail.clone()),
            provider_library: offer.and_then(|offer| offer.library.clone()),
            ..plain_unit(kind, offer.map_or("NAME", |offer| offer.provider.as_str()))
        };
        let source = if known.is_some() && domain.is_some() { self.source() } else { "assumed".to_owned() };
        if offer.is_some() {
            self.unit(&unit, domain.as_deref(), &source);
            return;
        }
        let before = self.text.len();
        self.unit(&unit, domain.as_deref(), &source);
        let live = self.text.split_off(before);
        let name = word(kind).to_uppercase();
        self.line(format!(
            "\n# No execution provider for the {name} was found. Name one, or its plug-in (provider_library):"
        ));
        for line in live.lines().filter(|line| !line.is_empty()) {
            self.line(format!("#{line}"));
        }
    }

    fn clocks(&mut self) {
        self.line("\n# --- Clock domains: operating points as the kernel shows them");
        let source = self.source();
        for index in 0..self.domains.len() {
            let Domain { name, clock, known } = &self.domains[index];
            let interface = if clock.interface == DomainInterface::Cpufreq { "cpufreq" } else { "devfreq" };
            let settle = known
                .map_or(if clock.kind == ClockKind::Cpu { 1_000 } else { 5_000 }, |known| known.settle_us);
            let held = known.map(|known| known.held_power).filter(|held| *held != PowerModel::default());
            let (name, select, node) = (quoted(name), quoted(&clock.select), shown(&clock.node));
            let device = clock.device.clone().map_or_else(String::new, |device| format!(" ({device})"));
            let points = format!("{:?}", clock.opps_khz);
            let memory = clock.kind == ClockKind::Memory;
            let table = clock.table;
            let from = if known.is_some() { source.clone() } else { "assumed".to_owned() };
            self.line("\n[[domain]]");
            self.line(format!("name = {name}"));
            self.line(format!("interface = \"{interface}\""));
            self.line(format!("select = {select} # {node}{device}"));
            if table {
                self.line(format!("opps_khz = {points}"));
            } else {
                self.figure(
                    "opps_khz",
                    points,
                    "assumed: evenly spaced, as the driver takes any clock of its range",
                );
            }
            self.figure("settle_us", settle, &format!("{from}: until a new clock is in force"));
            if let Some(PowerModel { constant_w, linear_w_per_ghz, cubic_w_per_ghz3 }) = held {
                let power = format!(
                    "{{ constant_w = {constant_w:?}, linear_w_per_ghz = {linear_w_per_ghz:?}, cubic_w_per_ghz3 = {cubic_w_per_ghz3:?} }}"
                );
                self.figure("held_power", power, &source);
            } else if memory {
                self.line("# wattd sets it for units that name it as `memory_domain`, by its `held_power`.");
            }
        }
        let left: Vec<String> = self
            .found
            .clocks
            .iter()
            .filter(|clock| !self.is_domain(clock))
            .map(|clock| shown(&clock.node))
            .collect();
        if !left.is_empty() {
            self.line(format!("\n# Left out: {}.", left.join(", ")));
        }
        self.caps();
    }

    /// Hints: a firmware may not raise again what was lowered.
    fn caps(&mut self) {
        if self.found.caps.is_empty() {
            return;
        }
        self.line("\n# Caps of clocks that are not chosen, as they are now. One that is named here is held while wattd runs.");
        self.line("# Try by hand first whether the board raises it again: not every firmware does before the next start.");
        for cap in &self.found.caps {
            self.line("#[[hold.cap]]");
            self.line(format!("#node = {}", quoted(&cap.node)));
            self.line(cap.khz.map_or("#khz = 0 # there is none".to_owned(), |khz| format!("#khz = {khz}")));
        }
    }

    fn is_domain(&self, clock: &FoundClock) -> bool {
        self.domains.iter().any(|domain| match clock.kind {
            ClockKind::Cpu => clock.cpus.iter().all(|cpu| domain.clock.cpus.contains(cpu)),
            _ => domain.clock.directory == clock.directory,
        })
    }

    fn zones(&mut self) {
        self.line("\n# --- Heat: zones by `type`; trips of the kernel count before these");
        for zone in &self.found.zones {
            let heated = HOT_WORDS.iter().any(|word| zone.name.to_lowercase().contains(word));
            let told = zone.passive_c.is_some() || zone.critical_c.is_some();
            if let Some(problem) = &zone.problem {
                self.line(format!("\n# Left out: zone {}: {problem}", quoted(&zone.name)));
            } else if !told && zone.c.is_some_and(|c| c >= PASSIVE_C) {
                // Some show a constant, and the daemon would take it for a board on fire.
                let why =
                    format!("it shows no trip, and more than the {PASSIVE_C} degrees that would be assumed");
                self.line(format!("\n# Left out: zone {}: {why}", quoted(&zone.name)));
            } else if told || heated {
                self.zone(zone);
            } else {
                self.line(format!("\n# Left out: zone {}, which shows no trip.", quoted(&zone.name)));
            }
        }
    }

    fn zone(&mut self, zone: &FoundZone) {
        let known =
            self.nearest.and_then(|nearest| nearest.spec.zones.iter().find(|one| one.name == zone.name));
        let of_file = known.map(|known| (known.passive_c, known.critical_c));
        let source = if of_file.is_some() { self.source() } else { "assumed".to_owned() };
        let critical = zone.critical_c.or(of_file.map(|(_, critical)| critical));
        let assumed = of_file.map_or(PASSIVE_C, |(passive, _)| passive);
        let passive = zone.passive_c.unwrap_or_else(|| {
            critical.map_or(assumed, |critical| assumed.min(critical - BETWEEN_K)).max(1.0)
        });
        let critical = critical.unwrap_or_else(|| CRITICAL_C.max(passive + BETWEEN_K)).min(150.0);
        // A kernel may show both at the same temperature; the file wants the one below the other.
        let passive = if passive < critical { passive } else { (critical - 1.0).max(0.5) };
        let kernel = "the kernel's";
        self.line("\n[[zone]]");
        self.line(format!("name = {}", quoted(&zone.name)));
        self.figure(
            "passive_c",
            format!("{passive:?}"),
            if zone.passive_c.is_some() { kernel } else { &source },
        );
        self.figure(
            "critical_c",
            format!("{critical:?}"),
            if zone.critical_c.is_some() { kernel } else { &source },
        );
    }

    fn heat(&mut self) {
        let source = self.source();
        let thermal = self.nearest.map(|nearest| nearest.spec.thermal);
        let figures = thermal.map_or([1.0, 3.0, 5.0, 200.0], |thermal| {
            [thermal.fast_k_per_w, thermal.fast_tau_s, thermal.slow_k_per_w, thermal.slow_tau_s]
        });
        self.line("\n[thermal]");
        let keys = ["fast_k_per_w", "fast_tau_s", "slow_k_per_w", "slow_tau_s"];
        let meanings = ["die to heatsink", "seconds", "heatsink to ambient", "seconds"];
        for ((key, value), meaning) in keys.into_iter().zip(figures).zip(meanings) {
            self.figure(key, format!("{value:?}"), &format!("{source}: {meaning}"));
        }
    }

    fn power(&mut self) {
        self.line("\n# --- Rails: `input` carries the whole board; without one, the sum of all counts");
        for rail in self.rails.clone() {
            let interface = match rail.interface {
                RailInterface::Hwmon => "hwmon",
                RailInterface::Iio => "iio",
                RailInterface::Powercap => "powercap",
            };
            self.line("\n[[rail]]");
            self.line(format!("name = {}", quoted(&rail.name)));
            self.line(format!("interface = \"{interface}\""));
            if rail.interface != RailInterface::Powercap {
                self.line(format!("chip = {}", quoted(&rail.chip)));
            }
            if rail.input {
                self.figure("input", true, "assumed from its name");
            }
            if let Some(problem) = &rail.problem {
                self.line(format!("# Not for every user: {problem}"));
            }
        }
        for rail in self.found.rails.iter().filter(|rail| !rail.usable || rail.part_of.is_some()) {
            let why = match (&rail.problem, &rail.part_of) {
                (_, Some(whole)) => format!("counted in {}", shown(whole)),
                (Some(problem), None) => problem.clone(),
                (None, None) => String::new(),
            };
            self.line(format!("\n# Left out: rail {}: {why}", quoted(&rail.name)));
        }
    }
}

const fn word(kind: UnitKind) -> &'static str {
    match kind {
        UnitKind::Cpu => "cpu",
        UnitKind::Gpu => "gpu",
        UnitKind::Npu => "npu",
    }
}
