//! All sensors of a board, each in a slot of its own with its latest reading. Whoever reads a slot holds it; what it
//! showed last can be had by anyone at any time, so that a sensor that hangs holds up nobody else.

use super::root::{Page, SysfsError, SysfsRoot, page};
use crate::board::panel::{Instrument, Instruments, Quality};
use crate::core::event::{BatteryState, ClockState, MemoryState, Pressure, Reading, SensorFault};
use crate::time::{Clock, Timestamp};
use crate::units::{Microwatts, MilliCelsius, Nanos, Ppm};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

/// Vanished sensors are looked for at most this often, and less and less while they stay away.
const LOOK_EVERY: Nanos = Nanos::from_secs(3);
/// The longest pause between looks.
const LOOK_AT_LEAST_EVERY: Nanos = Nanos::from_secs(48);
/// A reading that took longer than this to come is none of the present.
const GOOD_FOR: Nanos = Nanos::from_secs(1);
/// The same for what changes slowly.
const SLOWLY_GOOD_FOR: Nanos = Nanos::from_secs(10);

/// How long a sensor may take to answer when it is looked over for the first time, and how many may not answer.
const PATIENCE: Duration = Duration::from_millis(200);
const MAX_SILENT: usize = 4;

/// What a sensor gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value {
    Temperature(MilliCelsius),
    Power(Microwatts),
    Clock(ClockState),
    Battery(BatteryState),
    Memory(MemoryState),
    Pressure(Pressure),
    /// Share of time in which a processor was busy.
    Load(Ppm),
    /// Times that the hardware throttled for too much current, since power-on.
    OverCurrent(u64),
    /// Bits as the firmware of a Raspberry Pi gives them.
    Throttled(u32),
    UnderVoltage(bool),
    /// Number of the power mode.
    Mode(u32),
    /// CPUs that are online.
    Online(u16),
}

impl Value {
    /// The figure that stands for it, and its unit.
    fn figure(self) -> (f64, &'static str) {
        match self {
            Self::Temperature(value) => (value.as_celsius(), "°C"),
            Self::Power(value) => (value.as_watts(), "W"),
            Self::Clock(state) => (f64::from(state.current.0), "kHz"),
            Self::Battery(state) => (state.remaining.as_f64() / 1e6, "J"),
            Self::Memory(state) => (state.available.as_f64(), "B"),
            Self::Pressure(pressure) => (pressure.cpu.as_fraction(), "1"),
            Self::Load(share) => (share.as_fraction(), "1"),
            Self::OverCurrent(events) => (events as f64, "events"),
            Self::Throttled(bits) => (f64::from(bits), "bits"),
            Self::UnderVoltage(low) => (f64::from(u8::from(low)), "1"),
            Self::Mode(number) => (f64::from(number), "mode"),
            Self::Online(count) => (f64::from(count), "CPUs"),
        }
    }
}

/// A way to read something.
pub(crate) trait Probe: Send {
    /// The value now.
    fn sample(&mut self, now: Timestamp, buffer: &mut Page) -> Result<Value, SysfsError>;
    /// Where it is read.
    fn source(&self) -> &Path;
}

/// Looks for a sensor by name; why it is not there.
pub(crate) type Find = Box<dyn Fn(&SysfsRoot) -> Result<Box<dyn Probe>, String> + Send>;

/// A sensor that may vanish and come back.
struct Watched {
    find: Find,
    probe: Option<Box<dyn Probe>>,
    fault: Option<SensorFault>,
    /// When it is to be read again.
    due: Timestamp,
}

/// What a slot showed last.
#[derive(Debug, Clone, Copy, Default)]
struct Shown {
    /// The latest result, and when its reading began.
    latest: Option<(Reading<Value>, Timestamp)>,
    /// Whether nobody has taken it yet.
    news: bool,
    /// The latest good value.
    value: Option<(Value, Timestamp)>,
}

/// A sensor and its latest reading.
pub(crate) struct Slot {
    name: String,
    /// Pause between two readings; zero: in every sweep.
    every: Nanos,
    /// What is missing from what it measures.
    partial: Option<&'static str>,
    note: Option<String>,
    source: Mutex<String>,
    watched: Mutex<Watched>,
    shown: Mutex<Shown>,
    lost: AtomicBool,
    /// Looked for anew when CPUs come or go.
    of_cpus: bool,
    /// Read by a thread of its own, since it took too long.
    slow: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A reading either is there or is not.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Slot {
    /// A sensor that is looked for now. Where it is not there, `missing` gets a sentence.
    pub(crate) fn new(
        name: String,
        every: Nanos,
        root: &SysfsRoot,
        missing: &mut Vec<String>,
        find: Find,
    ) -> Self {
        let probe = find(root).map_err(|why| missing.push(format!("{name}: {why}"))).ok();
        let source = probe.as_ref().map(|probe| probe.source().display().to_string());
        let fault = probe.is_none().then_some(SensorFault::Missing);
        Self {
            name,
            every,
            partial: None,
            note: None,
            source: Mutex::new(source.unwrap_or_default()),
            lost: AtomicBool::new(probe.is_none()),
            of_cpus: false,
            watched: Mutex::new(Watched { find, probe, fault, due: Timestamp::ZERO }),
            shown: Mutex::default(),
            slow: AtomicBool::new(false),
        }
    }

    /// A sensor that is there, and of which no other is looked for.
    pub(crate) fn of(name: &str, every: Nanos, probe: Box<dyn Probe>) -> Self {
        let source = Mutex::new(probe.source().display().to_string());
        let find: Find = Box::new(|_| Err(String::new()));
        let watched = Watched { find, probe: Some(probe), fault: None, due: Timestamp::ZERO };
        Self {
            name: name.to_owned(),
            every,
            partial: None,
            note: None,
            source,
            watched: Mutex::new(watched),
            shown: Mutex::default(),
            lost: AtomicBool::new(false),
            of_cpus: false,
            slow: AtomicBool::new(false),
        }
    }

    /// Says what is missing from what it measures.
    pub(crate) fn partial(mut self, what: &'static str) -> Self {
        self.partial = Some(what);
        self
    }

    /// Says what should be known about it.
    pub(crate) fn noted(mut self, note: Option<String>) -> Self {
        self.note = note;
        self
    }

    /// What it reads depends on which CPUs are online.
    pub(crate) fn of_cpus(mut self) -> Self {
        self.of_cpus = true;
        self
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    pub(crate) fn is_slow(&self) -> bool {
        self.slow.load(Ordering::Relaxed)
    }

    pub(crate) fn set_slow(&self, slow: bool) {
        self.slow.store(slow, Ordering::Relaxed);
    }

    /// Reads the sensor if it is due; false if it is not, or another thread is still at it.
    pub(crate) fn read(&self, clock: &dyn Clock, buffer: &mut Page) -> bool {
        let Ok(mut watched) = self.watched.try_lock() else { return false };
        let began = clock.now();
        if began < watched.due {
            return false;
        }
        watched.due = began.after(self.every);
        let reading = self.sample(&mut watched, began, buffer);
        let mut shown = lock(&self.shown);
        if let Ok(value) = reading {
            shown.value = Some((value, began));
        }
        shown.latest = Some((reading, began));
        shown.news = true;
        true
    }

    /// A sensor that is gone is given up, so that it is looked for by name again: under its old number there may be
    /// another one by then.
    fn sample(&self, watched: &mut Watched, now: Timestamp, buffer: &mut Page) -> Reading<Value> {
        let Some(probe) = &mut watched.probe else { return Err(SensorFault::Missing) };
        let reading = probe.sample(now, buffer);
        let fault = reading.as_ref().err().map(SysfsError::fault);
        if fault != watched.fault {
            match &reading {
                Err(SysfsError::NotYet { .. }) => {}
                Err(error @ SysfsError::Asleep { .. }) => {
                    tracing::debug!(sensor = self.name, %error, "no reading");
                }
                Err(error) => tracing::warn!(sensor = self.name, %error, "no reading"),
                Ok(_) => tracing::debug!(sensor = self.name, "reads"),
            }
            watched.fault = fault;
        }
        if fault == Some(SensorFault::Missing) {
            watched.probe = None;
            self.lost.store(true, Ordering::Relaxed);
        }
        reading.map_err(|error| error.fault())
    }

    /// Why it cannot be read although it is there.
    fn complaint(&self, now: Timestamp, buffer: &mut Page) -> Option<String> {
        let mut watched = self.watched.try_lock().ok()?;
        match watched.probe.as_mut()?.sample(now, buffer) {
            Ok(_) | Err(SysfsError::NotYet { .. } | SysfsError::Asleep { .. }) => None,
            Err(error) => Some(format!("{}: {error}", self.name)),
        }
    }

    /// Looks for it; what is there now takes the place of what was.
    fn look(&self, root: &SysfsRoot) {
        let Ok(mut watched) = self.watched.try_lock() else { return };
        if let Ok(probe) = (watched.find)(root) {
            *lock(&self.source) = probe.source().display().to_string();
            watched.probe = Some(probe);
            self.lost.store(false, Ordering::Relaxed);
        }
    }

    /// The reading that counts for a sweep at `now`: of this sweep, or of the last second or so for what is read
    /// rarely. While a reader waits for the sensor there is none.
    pub(crate) fn take(&self, now: Timestamp) -> Reading<Value> {
        let mut shown = lock(&self.shown);
        let Some((reading, began)) = shown.latest else { return Err(SensorFault::Busy) };
        let age = now.since(began);
        let pause = Nanos(self.every.0.saturating_mul(3));
        if !shown.news && (self.every == Nanos::ZERO || age > pause) {
            return Err(SensorFault::Busy);
        }
        shown.news = false;
        let good_for = if self.every == Nanos::ZERO { GOOD_FOR } else { SLOWLY_GOOD_FOR };
        if reading.is_ok() && age > good_for { Err(SensorFault::Busy) } else { reading }
    }

    fn instrument(&self, now: Timestamp) -> Instrument {
        let Shown { latest, value, .. } = *lock(&self.shown);
        let age = value.map(|(_, at)| now.since(at));
        let good_for = if self.every == Nanos::ZERO { GOOD_FOR } else { SLOWLY_GOOD_FOR };
        let fault = latest.and_then(|(reading, _)| reading.err());
        let quality = match age {
            None => Quality::Missing,
            Some(age) if age > good_for || fault.is_some() => Quality::Stale,
            Some(_) if self.partial.is_some() => Quality::Partial,
            Some(_) => Quality::Measured,
        };
        let figure = value.map(|(value, _)| value.figure());
        Instrument {
            name: self.name.clone(),
            value: figure.map(|(number, _)| number),
            unit: figure.map(|(_, unit)| unit.to_owned()).unwrap_or_default(),
            age_s: age.map(Nanos::as_secs_f64),
            source: lock(&self.source).clone(),
            quality,
            fault,
            note: self.partial.map(str::to_owned).or_else(|| self.note.clone()),
        }
    }
}

/// All slots, in the order in which they are read.
pub(crate) struct Bank {
    root: SysfsRoot,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) slots: Vec<Slot>,
    looking: Mutex<Looking>,
    /// Whether CPUs came or went.
    cpus_changed: Arc<AtomicBool>,
}

/// When vanished sensors are looked for.
struct Looking {
    last: Timestamp,
    pause: Nanos,
    lost: usize,
}

impl Bank {
    /// `cpus_changed` is set by the slot that sees it.
    pub(crate) fn new(
        root: SysfsRoot,
        clock: Arc<dyn Clock>,
        slots: Vec<Slot>,
        cpus_changed: Arc<AtomicBool>,
    ) -> Self {
        let lost = slots.iter().filter(|slot| slot.is_lost()).count();
        let looking = Mutex::new(Looking { last: clock.now(), pause: LOOK_EVERY, lost });
        Self { root, clock, slots, looking, cpus_changed }
    }

    /// Sensors that are there but cannot be read, with the reason. One that does not answer is left to the thread that
    /// asked it, which holds nobody else up.
    pub(crate) fn complaints(self: &Arc<Self>) -> Vec<String> {
        let mut found = Vec::new();
        let (mut next, mut silent) = (0, 0);
        while next < self.slots.len() && silent < MAX_SILENT {
            let Some(answers) = self.ask(next) else { break };
            while let Ok(complaint) = answers.recv_timeout(PATIENCE) {
                found.extend(complaint);
                next += 1;
            }
            if let Some(slot) = self.slots.get(next) {
                found.push(format!("{}: does not answer", slot.name));
                (next, silent) = (next + 1, silent + 1);
            }
        }
        found
    }

    /// Has all sensors from one on asked for complaints, in their order.
    fn ask(self: &Arc<Self>, from: usize) -> Option<mpsc::Receiver<Option<String>>> {
        let (tell, answers) = mpsc::sync_channel(self.slots.len());
        let bank = Arc::clone(self);
        let ask = move || {
            let mut buffer = Box::new(page());
            for slot in bank.slots.iter().skip(from) {
                if tell.send(slot.complaint(bank.clock.now(), &mut buffer)).is_err() {
                    // Somebody else was asked in its place.
                    return;
                }
            }
        };
        let asked = std::thread::Builder::new().name("wattd-reader-first".to_owned()).spawn(ask);
        asked.inspect_err(|error| tracing::warn!(%error, "sensors are not looked over")).ok().map(|_| answers)
    }

    /// Looks for vanished sensors if it is time: soon after one vanished, then less and less often. What depends on which
    /// CPUs are online is looked for when those change.
    pub(crate) fn look_for_lost(&self) {
        if self.cpus_changed.swap(false, Ordering::Relaxed) {
            self.slots.iter().filter(|slot| slot.of_cpus).for_each(|slot| slot.look(&self.root));
        }
        let lost = || self.slots.iter().filter(|slot| slot.is_lost()).count();
        let (now, before) = (self.clock.now(), lost());
        {
            let mut looking = lock(&self.looking);
            if before > looking.lost {
                looking.pause = LOOK_EVERY;
            }
            looking.lost = before;
            if before == 0 || now.since(looking.last) < looking.pause {
                return;
            }
            looking.last = now;
        }
        self.slots.iter().filter(|slot| slot.is_lost()).for_each(|slot| slot.look(&self.root));
        let mut looking = lock(&self.looking);
        let longer = Nanos(looking.pause.0.saturating_mul(2)).min(LOOK_AT_LEAST_EVERY);
        looking.lost = lost();
        looking.pause = if looking.lost < before { LOOK_EVERY } else { longer };
    }
}

impl Instruments for Bank {
    fn instruments(&self, now: Timestamp) -> Vec<Instrument> {
        self.slots.iter().map(|slot| slot.instrument(now)).collect()
    }
}
