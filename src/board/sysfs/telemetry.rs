//! One sweep over all sensors: a result per sensor, whatever the others do.

use super::battery::BatterySensor;
use super::clock::ClockSensor;
use super::hwmon::HwmonRail;
use super::iio::IioRail;
use super::memory::MemorySensor;
use super::powercap::EnergyRate;
use super::psi::PressureSensor;
use super::root::{Page, SysfsError, SysfsRoot, page};
use super::thermal::ThermalSensor;
use super::{find_nodes, highest};
use crate::board::Telemetry;
use crate::board::spec::{BoardSpec, DomainSpec, RailInterface, RailSpec};
use crate::core::event::{BatteryState, MemoryState, Pressure, Reading, Readings, SensorFault};
use crate::time::{Clock, Timestamp};
use crate::units::{Microwatts, Nanos};
use std::sync::Arc;

/// Vanished sensors are looked for at most this often, and less and less while they stay away.
const LOOK_EVERY: Nanos = Nanos::from_secs(3);
/// The longest pause between looks.
const LOOK_AT_LEAST_EVERY: Nanos = Nanos::from_secs(48);
/// Battery, memory and pressure change slowly and cost more to read.
const SLOW_EVERY: Nanos = Nanos::from_secs(1);

type Find<S> = Box<dyn Fn(&SysfsRoot) -> Result<S, String> + Send>;

/// A sensor that may vanish and come back.
struct Watched<S> {
    name: String,
    find: Find<S>,
    sensor: Option<S>,
    fault: Option<SensorFault>,
}

impl<S> Watched<S> {
    fn new(name: String, root: &SysfsRoot, missing: &mut Vec<String>, find: Find<S>) -> Self {
        let sensor = find(root).map_err(|why| missing.push(format!("{name}: {why}"))).ok();
        let fault = sensor.is_none().then_some(SensorFault::Missing);
        Self { name, find, sensor, fault }
    }

    /// Reads it. A sensor that is gone is given up, so that it is looked for by name again: under its
    /// old number there may be another one by then.
    fn read<T>(&mut self, sample: impl FnOnce(&mut S) -> Result<T, SysfsError>) -> Reading<T> {
        let Some(sensor) = &mut self.sensor else { return Err(SensorFault::Missing) };
        let reading = sample(sensor);
        let fault = reading.as_ref().err().map(SysfsError::fault);
        if fault != self.fault {
            match &reading {
                Err(SysfsError::NotYet { .. }) => {}
                Err(error) => tracing::warn!(sensor = self.name, %error, "no reading"),
                Ok(_) => tracing::debug!(sensor = self.name, "reads"),
            }
            self.fault = fault;
        }
        if fault == Some(SensorFault::Missing) {
            self.sensor = None;
        }
        reading.map_err(|error| error.fault())
    }

    /// Looks for it if it is lost.
    fn look(&mut self, root: &SysfsRoot) {
        if self.sensor.is_none() {
            self.sensor = (self.find)(root).ok();
        }
    }
}

/// A rail, however it is read.
pub(crate) enum RailSensor {
    Hwmon(HwmonRail),
    Iio(IioRail),
    Powercap(EnergyRate),
}

impl RailSensor {
    /// The rail of a board file.
    pub(crate) fn find(root: &SysfsRoot, rail: &RailSpec) -> Result<Self, String> {
        match rail.interface {
            RailInterface::Hwmon => HwmonRail::find(root, &rail.chip, &rail.name).map(Self::Hwmon),
            RailInterface::Iio => IioRail::find(root, &rail.chip, &rail.name).map(Self::Iio),
            RailInterface::Powercap => EnergyRate::find(root, &rail.name).map(Self::Powercap),
        }
    }

    /// The power now.
    pub(crate) fn sample(&mut self, now: Timestamp, buffer: &mut Page) -> Result<Microwatts, SysfsError> {
        match self {
            Self::Hwmon(rail) => rail.sample(now, buffer),
            Self::Iio(rail) => rail.sample(buffer),
            Self::Powercap(rate) => rate.sample(now, buffer),
        }
    }
}

/// What is read once a second.
#[derive(Clone)]
struct Slow {
    battery: Option<Reading<BatteryState>>,
    memory: Reading<MemoryState>,
    pressure: Option<Reading<Pressure>>,
}

/// Reads the board through the sysfs tree.
pub struct SysfsTelemetry {
    root: SysfsRoot,
    clock: Arc<dyn Clock>,
    zones: Vec<Watched<ThermalSensor>>,
    rails: Vec<Watched<RailSensor>>,
    domains: Vec<Watched<ClockSensor>>,
    battery: Option<Watched<BatterySensor>>,
    pressure: Option<PressureSensor>,
    memory: MemorySensor,
    slow: Option<(Timestamp, Slow)>,
    looked: Timestamp,
    pause: Nanos,
    buffer: Box<Page>,
}

impl std::fmt::Debug for SysfsTelemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SysfsTelemetry").field("root", &self.root).finish_non_exhaustive()
    }
}

fn find_clock(root: &SysfsRoot, domain: &DomainSpec) -> Result<ClockSensor, String> {
    let nodes = find_nodes(root, domain)?;
    let points = nodes.operating_points(&domain.opps_khz);
    Ok(ClockSensor::new(root, &nodes, highest(&nodes, &points)))
}

impl SysfsTelemetry {
    /// Finds what is there; adds a sentence to `missing` for what is not.
    pub(crate) fn open(
        spec: &BoardSpec,
        root: SysfsRoot,
        proc: &SysfsRoot,
        clock: Arc<dyn Clock>,
        missing: &mut Vec<String>,
    ) -> Self {
        let mut zones = Vec::new();
        for zone in &spec.zones {
            let name = zone.name.clone();
            let find = Box::new(move |root: &SysfsRoot| ThermalSensor::find(root, &name));
            zones.push(Watched::new(format!("zone {}", zone.name), &root, missing, find));
        }
        let mut rails = Vec::new();
        for rail in &spec.rails {
            let name = format!("rail {}", rail.name);
            let rail = rail.clone();
            let find = Box::new(move |root: &SysfsRoot| RailSensor::find(root, &rail));
            rails.push(Watched::new(name, &root, missing, find));
        }
        let mut domains = Vec::new();
        for domain in &spec.domains {
            let name = format!("domain {}", domain.name);
            let domain = domain.clone();
            let find = Box::new(move |root: &SysfsRoot| find_clock(root, &domain));
            domains.push(Watched::new(name, &root, missing, find));
        }
        // Where there is no battery at the start there will be none: it is not looked for again.
        let battery = spec
            .battery
            .then(|| Watched::new("battery".to_owned(), &root, missing, Box::new(BatterySensor::find)))
            .filter(|battery| battery.sensor.is_some());
        let pressure = PressureSensor::find(proc).map_err(|why| missing.push(why)).ok();
        let looked = clock.now();
        let memory = MemorySensor::new();
        let (slow, pause, buffer) = (None, LOOK_EVERY, Box::new(page()));
        Self { root, clock, zones, rails, domains, battery, pressure, memory, slow, looked, pause, buffer }
    }

    /// Sensors that are there but cannot be read, with the reason.
    pub(crate) fn unreadable(&mut self) -> Vec<String> {
        fn complain<S, T>(
            found: &mut Vec<String>,
            sensor: &mut Watched<S>,
            sample: impl FnOnce(&mut S) -> Result<T, SysfsError>,
        ) {
            match sensor.sensor.as_mut().map(sample) {
                Some(Ok(_)) | Some(Err(SysfsError::NotYet { .. })) | None => {}
                Some(Err(error)) => found.push(format!("{}: {error}", sensor.name)),
            }
        }
        let (mut found, now) = (Vec::new(), self.clock.now());
        let buffer = &mut *self.buffer;
        self.zones.iter_mut().for_each(|zone| complain(&mut found, zone, |z| z.sample(buffer)));
        self.rails.iter_mut().for_each(|rail| complain(&mut found, rail, |r| r.sample(now, buffer)));
        self.domains.iter_mut().for_each(|domain| complain(&mut found, domain, |d| d.sample(buffer)));
        self.battery.iter_mut().for_each(|battery| complain(&mut found, battery, |b| b.sample(buffer)));
        found
    }

    fn lost(&self) -> usize {
        self.zones.iter().filter(|zone| zone.sensor.is_none()).count()
            + self.rails.iter().filter(|rail| rail.sensor.is_none()).count()
            + self.domains.iter().filter(|domain| domain.sensor.is_none()).count()
            + self.battery.iter().filter(|battery| battery.sensor.is_none()).count()
    }

    fn look_for_lost(&mut self, now: Timestamp) {
        if now.since(self.looked) < self.pause || self.lost() == 0 {
            return;
        }
        self.looked = now;
        let before = self.lost();
        let root = &self.root;
        self.zones.iter_mut().for_each(|zone| zone.look(root));
        self.rails.iter_mut().for_each(|rail| rail.look(root));
        self.domains.iter_mut().for_each(|domain| domain.look(root));
        self.battery.iter_mut().for_each(|battery| battery.look(root));
        let longer = Nanos(self.pause.0.saturating_mul(2)).min(LOOK_AT_LEAST_EVERY);
        self.pause = if self.lost() < before { LOOK_EVERY } else { longer };
    }

    fn slow(&mut self, now: Timestamp) -> Slow {
        if let Some((then, slow)) = &self.slow
            && now.since(*then) < SLOW_EVERY
        {
            return slow.clone();
        }
        let buffer = &mut *self.buffer;
        let slow = Slow {
            battery: self.battery.as_mut().map(|battery| battery.read(|sensor| sensor.sample(buffer))),
            memory: self.memory.sample(),
            pressure: self
                .pressure
                .as_mut()
                .map(|pressure| pressure.sample(buffer).map_err(|error| error.fault())),
        };
        self.slow = Some((now, slow.clone()));
        slow
    }
}

impl Telemetry for SysfsTelemetry {
    fn sample(&mut self) -> Readings {
        let now = self.clock.now();
        self.look_for_lost(now);
        let lost_before = self.lost();
        let Slow { battery, memory, pressure } = self.slow(now);
        let buffer = &mut *self.buffer;
        let zones = self.zones.iter_mut().map(|zone| zone.read(|sensor| sensor.sample(buffer))).collect();
        let mut rails = Vec::with_capacity(self.rails.len());
        for rail in &mut self.rails {
            // The rate of a counter needs the moment of its reading, not of the sweep's start.
            let now = self.clock.now();
            rails.push(rail.read(|sensor| sensor.sample(now, buffer)));
        }
        let domains =
            self.domains.iter_mut().map(|domain| domain.read(|sensor| sensor.sample(buffer))).collect();
        if self.lost() > lost_before {
            self.pause = LOOK_EVERY;
        }
        Readings { zones, rails, domains, battery, memory, pressure }
    }
}
