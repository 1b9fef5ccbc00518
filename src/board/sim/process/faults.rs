//! Faults of single nodes of a board of text.

use super::fixture::errno;
use super::tree::NodeId;
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Longest pause that a script may ask for.
const MAX_PAUSE_MS: u64 = 60_000;
/// Reads after a write that a late node takes to show it.
const LATE_READS: u64 = 2;
/// How long the end of a board waits for the last reads, and for the last answer.
const PATIENCE: Duration = Duration::from_secs(5);
const LAST_ANSWER: Duration = Duration::from_millis(20);

/// What is wrong with a node.
#[derive(Debug, Clone, PartialEq)]
pub enum NodeFault {
    /// It is gone: ENOENT, and ENODEV for whoever has it open.
    Vanish,
    /// Every read fails so, and every write.
    Fail(Errno),
    /// It shows what it showed when the fault began.
    Stuck,
    /// Every second reading is so many times as high.
    Spike(i64),
    /// A read takes so long.
    Slow(Duration),
    /// A read does not return until the board is healed.
    Hang,
    /// It shows this text.
    Text(String),
    /// It shows a negative number.
    Negative,
    /// Every write fails so.
    Refuse(Errno),
    /// An upper bound shows at most so many percent of the highest operating point.
    Clamp(u64),
    /// The first reads after a write show what was there before.
    Late,
    /// Someone else writes this: no fault of the node.
    Becomes(String),
}

impl NodeFault {
    /// `vanish`, `eio` (any error's name), `stuck`, `spike N`, `slow MS`, `hang`, `text T`, `negative`,
    /// `refuse ERROR`, `clamp PERCENT`, `late` or `becomes T`.
    ///
    /// # Errors
    /// What is wrong and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, argument) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        let number =
            |what: &str| argument.parse::<u64>().map_err(|_| format!("{name} {argument:?}: expected {what}"));
        Ok(match name {
            "vanish" => Self::Vanish,
            "stuck" => Self::Stuck,
            "spike" => Self::Spike(i64::try_from(number("a factor")?).unwrap_or(i64::MAX)),
            "slow" => Self::Slow(Duration::from_millis(number("milliseconds")?.min(MAX_PAUSE_MS))),
            "hang" => Self::Hang,
            "text" => Self::Text(argument.to_owned()),
            "negative" => Self::Negative,
            "late" => Self::Late,
            "refuse" => Self::Refuse(errno(argument)?),
            "clamp" => Self::Clamp(number("percent")?),
            "becomes" => Self::Becomes(argument.to_owned()),
            other => Self::Fail(errno(other)?),
        })
    }
}

/// A fault in force.
#[derive(Debug)]
struct Active {
    fault: NodeFault,
    /// What it showed when the fault began.
    shown: Result<Vec<u8>, Errno>,
    reads: u64,
}

/// The faults of a board.
#[derive(Debug, Default)]
pub(super) struct Faults {
    active: Mutex<BTreeMap<NodeId, Active>>,
    waits: Arc<Waits>,
}

/// Reads that take their time or hang.
#[derive(Debug, Default)]
struct Waits {
    /// How often the board was healed, and how many reads wait for the next time.
    healed: Mutex<(u64, usize)>,
    changed: Condvar,
}

impl Waits {
    /// Waits until the board is healed, but not for longer than `pause`.
    fn wait(&self, before: u64, pause: Duration) {
        let healed = lock(&self.healed);
        let waited = self.changed.wait_timeout_while(healed, pause, |(times, _)| *times == before);
        waited.unwrap_or_else(PoisonError::into_inner).0.1 -= 1;
        self.changed.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Faults {
    /// Begins a fault on a node that shows `shown`, or ends the one it has.
    pub(super) fn set(
        &self,
        id: NodeId,
        fault: Option<NodeFault>,
        shown: impl FnOnce() -> Result<Vec<u8>, Errno>,
    ) {
        let mut active = lock(&self.active);
        match fault {
            Some(fault) => {
                // What was written before is settled.
                let reads = if fault == NodeFault::Late { LATE_READS } else { 0 };
                active.insert(id, Active { fault, shown: shown(), reads });
            }
            None => drop(active.remove(&id)),
        }
    }

    /// Ends all.
    pub(super) fn heal(&self) {
        lock(&self.active).clear();
        lock(&self.waits.healed).0 += 1;
        self.waits.changed.notify_all();
    }

    /// Waits until no read waits any more. A process that ends while one of its own threads waits for its own file
    /// system would wait for ever.
    pub(super) fn settle(&self) {
        let waiting = lock(&self.waits.healed);
        let settled = self.waits.changed.wait_timeout_while(waiting, PATIENCE, |(_, reads)| *reads > 0);
        drop(settled);
        // The last answer is on its way.
        std::thread::sleep(LAST_ANSWER);
    }

    fn of(&self, id: NodeId) -> Option<NodeFault> {
        lock(&self.active).get(&id).map(|active| active.fault.clone())
    }

    pub(super) fn vanished(&self, id: NodeId) -> bool {
        self.of(id) == Some(NodeFault::Vanish)
    }

    /// What a read shows of what the node would show.
    pub(super) fn read(&self, id: NodeId, shows: Result<Vec<u8>, Errno>) -> Result<Vec<u8>, Errno> {
        let mut active = lock(&self.active);
        let Some(Active { fault, shown, reads }) = active.get_mut(&id) else { return shows };
        *reads += 1;
        let number = |shows: &Result<Vec<u8>, Errno>| {
            let text = shows.as_ref().ok()?;
            String::from_utf8_lossy(text).trim().parse::<i64>().ok()
        };
        match fault {
            NodeFault::Vanish => Err(Errno::ENODEV),
            NodeFault::Fail(errno) => Err(*errno),
            NodeFault::Stuck => shown.clone(),
            NodeFault::Late if *reads <= LATE_READS => shown.clone(),
            NodeFault::Text(text) => Ok(format!("{text}\n").into_bytes()),
            NodeFault::Spike(factor) if reads.is_multiple_of(2) => {
                number(&shows).map_or(shows, |n| Ok(format!("{}\n", n.saturating_mul(*factor)).into_bytes()))
            }
            NodeFault::Negative => {
                number(&shows).map_or(shows, |n| Ok(format!("{}\n", -n.saturating_abs()).into_bytes()))
            }
            _ => shows,
        }
    }

    /// Whether the node takes a write.
    pub(super) fn write(&self, id: NodeId) -> Result<(), Errno> {
        match self.of(id) {
            Some(NodeFault::Refuse(errno) | NodeFault::Fail(errno)) => Err(errno),
            Some(NodeFault::Vanish) => Err(Errno::ENODEV),
            _ => Ok(()),
        }
    }

    /// A node was written that showed `before`.
    pub(super) fn written(&self, id: NodeId, before: Result<Vec<u8>, Errno>) {
        if let Some(active) = lock(&self.active).get_mut(&id).filter(|active| active.fault == NodeFault::Late)
        {
            (active.shown, active.reads) = (before, 0);
        }
    }

    /// The highest that an upper bound can show, of a clock that goes up to `high`.
    pub(super) fn cap(&self, id: NodeId, high: u64) -> u64 {
        match self.of(id) {
            Some(NodeFault::Clamp(percent)) => high.saturating_mul(percent) / 100,
            _ => high,
        }
    }

    /// What a read has to wait for.
    pub(super) fn delay(&self, id: NodeId) -> Option<Box<dyn FnOnce() + Send>> {
        // Before the fault is looked at, so that a heal in between is not missed.
        let before = lock(&self.waits.healed).0;
        let pause = match self.of(id)? {
            NodeFault::Slow(pause) => pause,
            NodeFault::Hang => Duration::MAX,
            _ => return None,
        };
        lock(&self.waits.healed).1 += 1;
        let waits = Arc::clone(&self.waits);
        Some(Box::new(move || waits.wait(before, pause)))
    }
}

/// Whether a text fits a pattern, in which `*` is any text.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let parts: Vec<&str> = rest.split('*').collect();
    let Some((last, between)) = parts.split_last() else { return true };
    for part in between {
        let Some((_, after)) = text.split_once(part) else { return false };
        text = after;
    }
    text.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_what_they_name() {
        assert!(matches("*/thermal_zone*/temp", "sys/class/thermal/thermal_zone0/temp"));
        assert!(!matches("*/thermal_zone*/temp", "sys/class/thermal/thermal_zone0/type"));
        assert!(matches("sys/a", "sys/a") && !matches("sys/a", "sys/ab") && matches("sys/*", "sys/"));
        assert!(!matches("a*b*b", "ab"), "each part has a place of its own");
        assert!(!matches("ab*ba", "aba"));
    }

    #[test]
    fn a_script_says_what_it_means_or_what_is_wrong() {
        assert_eq!(NodeFault::parse("eio").unwrap(), NodeFault::Fail(Errno::EIO));
        assert_eq!(NodeFault::parse("text very hot").unwrap(), NodeFault::Text("very hot".to_owned()));
        assert_eq!(NodeFault::parse("refuse EBUSY").unwrap(), NodeFault::Refuse(Errno::EBUSY));
        for (text, expected) in
            [("melt", "expected an error such as"), ("slow soon", "expected milliseconds")]
        {
            let error = NodeFault::parse(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
