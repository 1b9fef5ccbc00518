//! Sweeps on threads of their own: a sensor that hangs (a power monitor on a bus that is stuck, a file system that does
//! not answer) delays neither the control cycle nor the other sensors.
//!
//! ```text
//!  control cycle ── order ──► reader on duty ── slot by slot ──► done
//!        │                          │ hangs in a slot
//!        │ PATIENCE later           ▼
//!        └── a new reader goes on   keeps that slot, reads it by itself once a second,
//!            with the next slot     and gives it back when it answers quickly again
//! ```
//!
//! While a slot is kept its readings are those that come, each told once, and none in between.

use super::bank::Bank;
use super::root::{Page, page};
use super::telemetry::SysfsTelemetry;
use crate::board::Telemetry;
use crate::core::event::Readings;
use crate::units::Nanos;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long the control cycle waits for one sensor. Where all CPUs are busy a thread may wait for one as long as a slow
/// sensor takes.
const PATIENCE: Duration = Duration::from_millis(50);
/// How often it waits so long for a reader to get a CPU at all.
const MAX_WAITS: u32 = 20;
/// In place of a slot: the reader has not begun.
const NOT_BEGUN: usize = usize::MAX;
/// Readers that may hang at once. Beyond that sensors stay unread, and the board counts as hot.
const MAX_KEPT: usize = 8;
/// How often a reader that keeps a slot reads it.
const KEPT_EVERY: Duration = Duration::from_secs(1);
/// Quick readings in a row after which a slot is given back, and what is quick.
const QUICK_READINGS: u32 = 3;
const QUICK: Nanos = Nanos::from_millis(5);

/// [`SysfsTelemetry`] whose sensors are read by other threads.
#[derive(Debug)]
pub struct Sampler {
    telemetry: SysfsTelemetry,
    shared: Arc<Shared>,
}

struct Shared {
    bank: Arc<Bank>,
    duty: Mutex<Duty>,
    /// There is an order, a new reader on duty, or an end.
    ordered: Condvar,
    /// An order is carried out.
    done: Condvar,
    /// The slot that is being read.
    at: AtomicUsize,
}

#[derive(Debug, Default)]
struct Duty {
    /// Sweeps asked for, and carried out.
    ordered: u64,
    done: u64,
    /// Which reader is on duty; the others keep slots.
    reader: u64,
    kept: usize,
    ending: bool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("at", &self.at).finish_non_exhaustive()
    }
}

impl Sampler {
    /// Starts the first reader.
    ///
    /// # Errors
    /// If there can be no more threads.
    pub fn start(telemetry: SysfsTelemetry) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            bank: Arc::clone(&telemetry.bank),
            duty: Mutex::default(),
            ordered: Condvar::new(),
            done: Condvar::new(),
            at: AtomicUsize::new(0),
        });
        spawn(&shared, 0, 0)?;
        Ok(Self { telemetry, shared })
    }
}

fn spawn(shared: &Arc<Shared>, reader: u64, from: usize) -> std::io::Result<()> {
    let shared = Arc::clone(shared);
    let name = format!("wattd-reader-{reader}");
    std::thread::Builder::new().name(name).spawn(move || shared.work(reader, from)).map(drop)
}

impl Telemetry for Sampler {
    fn sample(&mut self) -> Readings {
        self.shared.sweep();
        self.telemetry.readings()
    }
}

impl Drop for Sampler {
    /// Readers end by themselves: one that hangs cannot be waited for.
    fn drop(&mut self) {
        self.shared.lock().ending = true;
        self.shared.ordered.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Duty> {
        // Counts, each of which stands for itself.
        self.duty.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has every sensor read that answers in time.
    fn sweep(self: &Arc<Self>) {
        let mut duty = self.lock();
        let order = duty.ordered.max(duty.done) + 1;
        duty.ordered = order;
        let mut waits = 0;
        self.at.store(NOT_BEGUN, Ordering::Release);
        self.ordered.notify_all();
        while duty.done < order {
            let (reader, at) = (duty.reader, self.at.load(Ordering::Acquire));
            let waited = self.done.wait_timeout(duty, PATIENCE).unwrap_or_else(PoisonError::into_inner);
            duty = waited.0;
            let stuck = duty.done < order
                && duty.reader == reader
                && waited.1.timed_out()
                && self.at.load(Ordering::Acquire) == at;
            if stuck && at == NOT_BEGUN {
                waits += 1;
            }
            if stuck && (waits > MAX_WAITS || at != NOT_BEGUN && !self.relieve(&mut duty, at)) {
                return;
            }
        }
    }

    /// Leaves the slot to the reader that hangs in it and puts another on duty; false if that cannot be.
    fn relieve(self: &Arc<Self>, duty: &mut Duty, at: usize) -> bool {
        if duty.kept == MAX_KEPT {
            return false;
        }
        let slot = self.bank.slots.get(at);
        let (next, from) = (duty.reader + 1, slot.map_or(0, |_| at + 1));
        if let Err(error) = spawn(self, next, from) {
            tracing::warn!(%error, "no thread to read the sensors behind one that hangs");
            return false;
        }
        if let Some(slot) = slot {
            slot.set_slow(true);
        }
        self.at.store(from, Ordering::Release);
        duty.reader = next;
        duty.kept += 1;
        true
    }

    /// The life of a reader: on duty, sweep by sweep, beginning with slot `from`; then, if it was relieved, with the
    /// slot in which it hung.
    fn work(&self, reader: u64, from: usize) {
        let mut buffer = Box::new(page());
        // One that takes over does not look for what is lost: that is where the one before may hang.
        let (mut from, mut look) = (from, reader == 0);
        while self.await_order() {
            if look {
                self.at.store(self.bank.slots.len(), Ordering::Release);
                self.bank.look_for_lost();
                if self.lock().reader != reader {
                    self.lock().kept -= 1;
                    return;
                }
            }
            for (index, slot) in self.bank.slots.iter().enumerate().skip(from) {
                self.at.store(index, Ordering::Release);
                if !slot.is_slow() {
                    slot.read(&*self.bank.clock, &mut buffer);
                }
                if self.lock().reader != reader {
                    return self.keep(index, &mut buffer);
                }
            }
            (from, look) = (0, true);
            let mut duty = self.lock();
            duty.done = duty.ordered;
            self.done.notify_one();
        }
    }

    /// False at the end.
    fn await_order(&self) -> bool {
        let idle = |duty: &mut Duty| duty.done == duty.ordered && !duty.ending;
        let duty = self.ordered.wait_while(self.lock(), idle);
        !duty.unwrap_or_else(PoisonError::into_inner).ending
    }

    /// Reads one slot by itself until it answers quickly again: at once if it was this thread that got no time, else
    /// after a while.
    fn keep(&self, index: usize, buffer: &mut Page) {
        let (slot, clock) = (&self.bank.slots[index], &*self.bank.clock);
        let mut quick = 0;
        while quick < QUICK_READINGS {
            let began = clock.now();
            let read = slot.read(clock, buffer);
            if read && clock.now().since(began) < QUICK {
                quick += 1;
                continue;
            }
            quick = if read { 0 } else { quick };
            let pause = self.ordered.wait_timeout_while(self.lock(), KEPT_EVERY, |duty| !duty.ending);
            if pause.unwrap_or_else(PoisonError::into_inner).0.ending {
                return;
            }
        }
        slot.set_slow(false);
        self.lock().kept -= 1;
    }
}
