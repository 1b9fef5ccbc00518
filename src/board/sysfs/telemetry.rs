//! One sweep over all sensors: a result per sensor, whatever the others do.

use super::bank::{Bank, Find, Probe, Slot, Value};
use super::battery::BatterySensor;
use super::clock::{ClockSensor, PolicySensor};
use super::drm::OwnGpuTime;
use super::load::LoadSensor;
use super::memory::MemorySensor;
use super::nvpmodel::PowerMode;
use super::online::OnlineCpus;
use super::overcurrent::OverCurrentSensor;
use super::probes::RailSensor;
use super::psi::PressureSensor;
use super::raspberry::{PmicSensor, ThrottledSensor, VoltageAlarm, throttled};
use super::root::{Page, SysfsRoot, page};
use super::thermal::{self, ThermalSensor};
use super::{find_nodes, highest, members};
use crate::board::Telemetry;
use crate::board::panel::{Alarm, Panel};
use crate::board::spec::{BoardSpec, DomainSpec};
use crate::core::catalog::UnitKind;
use crate::core::event::{Reading, Readings, SensorFault};
use crate::time::Clock;
use crate::units::{MilliCelsius, Nanos};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Battery, memory and pressure change slowly and cost more to read; so does what only operators look at.
const SLOW_EVERY: Nanos = Nanos::from_secs(1);

/// What a sweep needs to know about the slots.
#[derive(Debug)]
struct Layout {
    zones: Range<usize>,
    rails: Range<usize>,
    domains: Range<usize>,
    battery: Option<usize>,
    pressure: Option<usize>,
    memory: usize,
    /// By zone: the trip from which the kernel takes hard measures.
    hot: Vec<Option<MilliCelsius>>,
}

/// Reads the board through the sysfs tree, on the thread that asks. [`super::Sampler`] does the same on threads of
/// its own.
pub struct SysfsTelemetry {
    pub(super) bank: Arc<Bank>,
    layout: Layout,
    panel: Arc<Panel>,
    events: Option<u64>,
    mode: Option<u32>,
    buffer: Box<Page>,
}

impl std::fmt::Debug for SysfsTelemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SysfsTelemetry").field("layout", &self.layout).finish_non_exhaustive()
    }
}

/// Where things are found.
pub(super) struct Where<'a> {
    pub(super) root: &'a SysfsRoot,
    pub(super) proc: &'a SysfsRoot,
    pub(super) machine: Option<&'a SysfsRoot>,
}

fn boxed<S: Probe + 'static>(sensor: S) -> Box<dyn Probe> {
    Box::new(sensor)
}

fn find_clock(root: &SysfsRoot, domain: &DomainSpec) -> Result<ClockSensor, String> {
    let mut policies = Vec::new();
    for member in members(root, domain) {
        let nodes = find_nodes(root, &member)?;
        let points = nodes.operating_points(&domain.opps_khz);
        policies.push(PolicySensor::new(root, &nodes, highest(&nodes, &points)));
    }
    Ok(ClockSensor::new(policies))
}

/// The sensors that the board file names.
fn named(spec: &BoardSpec, root: &SysfsRoot, missing: &mut Vec<String>) -> Vec<Slot> {
    let mut slots = Vec::new();
    let mut add = |name: String, find: Find| {
        slots.push(Slot::new(name, Nanos::ZERO, root, missing, find));
    };
    for zone in &spec.zones {
        let name = zone.name.clone();
        let find = Box::new(move |root: &SysfsRoot| ThermalSensor::find(root, &name).map(boxed));
        add(format!("zone {}", zone.name), find);
    }
    for rail in &spec.rails {
        let name = format!("rail {}", rail.name);
        let rail = rail.clone();
        add(name, Box::new(move |root: &SysfsRoot| RailSensor::find(root, &rail).map(boxed)));
    }
    for domain in &spec.domains {
        let name = format!("domain {}", domain.name);
        let domain = domain.clone();
        add(name, Box::new(move |root: &SysfsRoot| find_clock(root, &domain).map(boxed)));
    }
    let domains = spec.zones.len() + spec.rails.len();
    slots.into_iter().enumerate().map(|(at, slot)| if at < domains { slot } else { slot.of_cpus() }).collect()
}

/// What the board shows of itself and no board file needs to name. Where it is not there at the start it is not looked for
/// again.
fn found(spec: &BoardSpec, at: &Where<'_>) -> Vec<Slot> {
    let mut slots = Vec::new();
    let mut add = |name: &str, find: Find| {
        let slot = Slot::new(name.to_owned(), SLOW_EVERY, at.root, &mut Vec::new(), find);
        let there = !slot.is_lost();
        slots.extend(Some(slot).filter(|_| there));
        there
    };
    let mut gpu = None;
    for domain in &spec.domains {
        let unit = spec.units.iter().find(|unit| unit.domain.as_ref() == Some(&domain.name));
        let (kind, name) = (unit.map(|unit| unit.kind), format!("load {}", domain.name));
        let domain = domain.clone();
        let load = move |root: &SysfsRoot| {
            let nodes = find_nodes(root, &domain)?;
            LoadSensor::find(root, &nodes.directory).map(boxed).ok_or_else(String::new)
        };
        let there = add(&name, Box::new(load));
        if kind == Some(UnitKind::Gpu) {
            gpu = Some(there);
        }
    }
    add("over-current", Box::new(|root| OverCurrentSensor::find(root).map(boxed).ok_or_else(String::new)));
    add("throttled", Box::new(|root| ThrottledSensor::find(root).map(boxed).ok_or_else(String::new)));
    add("under-voltage", Box::new(|root| VoltageAlarm::find(root).map(boxed).ok_or_else(String::new)));
    if let Some(machine) = at.machine.cloned() {
        let find = move |_: &SysfsRoot| PmicSensor::find(&machine).map(boxed).ok_or_else(String::new);
        let name = "rails of the PMIC".to_owned();
        let slot = Slot::new(name, SLOW_EVERY, at.root, &mut Vec::new(), Box::new(find));
        let slot = slot.partial("loads on the 5 V input are not seen");
        slots.extend(Some(slot).filter(|slot| !slot.is_lost()));
    }
    if let Some((machine, (_, modes))) =
        at.machine.and_then(|machine| Some((machine, PowerMode::find(machine)?)))
    {
        let machine = machine.clone();
        let find = move |_: &SysfsRoot| {
            PowerMode::find(&machine).map(|(sensor, _)| boxed(sensor)).ok_or_else(String::new)
        };
        let slot = Slot::new("nvpmodel".to_owned(), SLOW_EVERY, at.root, &mut Vec::new(), Box::new(find));
        slots.push(slot.noted(modes));
    }
    if gpu == Some(false)
        && let Some(sensor) = OwnGpuTime::find(at.proc)
    {
        let slot = Slot::of("load gpu", SLOW_EVERY, boxed(sensor));
        slots.push(slot.partial("only this process's work is seen"));
    }
    slots
}

impl SysfsTelemetry {
    /// Finds what is there; adds a sentence to `missing` for what is not.
    pub(super) fn open(
        spec: &BoardSpec,
        at: &Where<'_>,
        clock: Arc<dyn Clock>,
        panel: Arc<Panel>,
        missing: &mut Vec<String>,
    ) -> Self {
        let mut slots = named(spec, at.root, missing);
        let rails = spec.zones.len()..spec.zones.len() + spec.rails.len();
        let domains = rails.end..slots.len();
        let mut place = |slot: Slot| {
            slots.push(slot);
            slots.len() - 1
        };
        // Where there is no battery at the start there will be none: it is not looked for again.
        let battery = spec.battery.then(|| {
            let find: Find = Box::new(|root| BatterySensor::find(root).map(boxed));
            Slot::new("battery".to_owned(), SLOW_EVERY, at.root, missing, find)
        });
        let battery = battery.filter(|slot| !slot.is_lost()).map(&mut place);
        let proc = at.proc.clone();
        let find: Find = Box::new(move |_| PressureSensor::find(&proc).map(boxed));
        let pressure = Slot::new("pressure".to_owned(), SLOW_EVERY, at.root, missing, find);
        let pressure = Some(pressure).filter(|slot| !slot.is_lost()).map(&mut place);
        let memory = place(Slot::of("memory", SLOW_EVERY, boxed(MemorySensor::new())));
        slots.extend(found(spec, at));
        let cpus_changed = Arc::new(AtomicBool::new(false));
        let changed = Arc::clone(&cpus_changed);
        let find: Find = Box::new(move |root| OnlineCpus::find(root, Arc::clone(&changed)).map(boxed));
        let online = Slot::new("CPUs online".to_owned(), SLOW_EVERY, at.root, &mut Vec::new(), find);
        slots.extend(Some(online).filter(|slot| !slot.is_lost()));
        let hot = spec.zones.iter().map(|zone| thermal::hot_trip(at.root, &zone.name)).collect();
        let layout = Layout { zones: 0..spec.zones.len(), rails, domains, battery, pressure, memory, hot };
        let bank = Arc::new(Bank::new(at.root.clone(), clock, slots, cpus_changed));
        panel.attach(bank.clone());
        Self { bank, layout, panel, events: None, mode: None, buffer: Box::new(page()) }
    }

    /// Sensors that are there but cannot be read, with the reason.
    pub(super) fn unreadable(&self) -> Vec<String> {
        self.bank.complaints()
    }

    /// What the slots show now, in the order of the board's tables.
    pub(super) fn readings(&mut self) -> Readings {
        let (slots, now) = (&self.bank.slots, self.bank.clock.now());
        let take = |index: usize| slots[index].take(now);
        // The value if it is of the kind that the slot was made for, which it is.
        macro_rules! of {
            ($kind:ident) => {
                |reading: Reading<Value>| match reading {
                    Ok(Value::$kind(value)) => Ok(value),
                    Ok(_) => Err(SensorFault::Garbled),
                    Err(fault) => Err(fault),
                }
            };
        }
        let layout = &self.layout;
        let readings = Readings {
            zones: layout.zones.clone().map(take).map(of!(Temperature)).collect(),
            rails: layout.rails.clone().map(take).map(of!(Power)).collect(),
            domains: layout.domains.clone().map(take).map(of!(Clock)).collect(),
            battery: layout.battery.map(take).map(of!(Battery)),
            memory: of!(Memory)(take(layout.memory)),
            pressure: layout.pressure.map(take).map(of!(Pressure)),
        };
        self.watch(&readings);
        readings
    }

    /// Raises and ends alarms.
    fn watch(&mut self, readings: &Readings) {
        let hot = readings
            .zones
            .iter()
            .zip(&self.layout.hot)
            .filter_map(|(reading, hot)| Some((*reading).ok()? >= (*hot)?));
        let hot = hot.reduce(|one, other| one || other);
        self.panel.alarm(Alarm::OverTemperature, hot, 0);
        let (mut low, mut bits, mut events, mut mode) = (None, None, None, None);
        let now = self.bank.clock.now();
        for slot in &self.bank.slots[self.layout.memory + 1..] {
            match slot.take(now) {
                Ok(Value::Throttled(now)) => bits = Some(now),
                Ok(Value::UnderVoltage(now)) => low = Some(now),
                Ok(Value::OverCurrent(count)) => events = Some(count),
                Ok(Value::Mode(number)) => mode = Some(number),
                _ => {}
            }
        }
        let bit = |mask: u32| bits.map(|bits| bits & mask != 0);
        for (alarm, on) in [
            (Alarm::UnderVoltage, bit(throttled::UNDER_VOLTAGE).or(low)),
            (Alarm::ClockCapped, bit(throttled::CAPPED)),
            (Alarm::Throttled, bit(throttled::THROTTLED)),
            (Alarm::SoftTemperature, bit(throttled::SOFT_LIMIT)),
        ] {
            self.panel.alarm(alarm, on, 0);
        }
        if let Some(count) = events {
            // A counter that fell has started anew.
            let more = self.events.map_or(0, |before| count.checked_sub(before).unwrap_or(count));
            self.panel.alarm(Alarm::OverCurrent, Some(more > 0), more);
            self.events = Some(count);
        }
        if mode.is_some() && mode != self.mode {
            if let Some(before) = self.mode {
                tracing::warn!(before, now = mode, "someone changed the power mode of nvpmodel");
            }
            self.mode = mode;
        }
    }
}

impl Telemetry for SysfsTelemetry {
    fn sample(&mut self) -> Readings {
        self.bank.look_for_lost();
        for slot in &self.bank.slots {
            slot.read(&*self.bank.clock, &mut self.buffer);
        }
        self.readings()
    }
}
