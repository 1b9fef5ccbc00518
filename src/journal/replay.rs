//! Replaying: the recorded events through a core, with a look at what comes of them.

use super::{Digest, Header, JournalError, Line, Lines, Opened, State};
use crate::core::Core;
use crate::core::event::{Effect, Event, RequestId};
use crate::core::explain::Sight;
use crate::time::Timestamp;
use serde::Serialize;
use std::path::Path;

/// What a replay found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Replayed {
    /// Events handled.
    pub events: u64,
    /// Effects that came of them.
    pub effects: u64,
    /// Checks that agreed.
    pub checks: u64,
    /// The last line was cut off, as after a power loss; everything before it was replayed.
    pub torn: bool,
}

/// A journal that is replayed through a core of its own, an event at a time, with the effects compared with those
/// recorded.
#[derive(Debug)]
pub struct Replay {
    lines: Lines,
    /// The file that goes on where this one ends.
    next: Option<Opened>,
    core: Core,
    /// Of this file.
    digest: Digest,
    /// Of this file.
    events: u64,
    replayed: Replayed,
    started_unix_s: u64,
    start: Timestamp,
}

impl Replay {
    /// Reads the header.
    ///
    /// # Errors
    /// If the file cannot be read or is no journal of this version.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let (header, lines) = Lines::open(path)?;
        Self::begin(header, lines, None)
    }

    /// Reads the header, and replays the file before this one first, where it is kept and this one goes on with it.
    ///
    /// # Errors
    /// As [`Replay::open`].
    pub fn open_with_previous(path: &Path) -> Result<Self, JournalError> {
        let ((header, lines), next) = super::open_with_previous(path)?;
        Self::begin(header, lines, next)
    }

    fn begin(header: Header, lines: Lines, next: Option<Opened>) -> Result<Self, JournalError> {
        let core = match &header.state {
            Some(state) => state.core().map_err(|message| lines.malformed(message))?,
            None => Core::tuned(header.catalog, header.budgets, header.tuning, header.start),
        };
        Ok(Self {
            core,
            lines,
            next,
            digest: Digest::default(),
            events: 0,
            replayed: Replayed::default(),
            started_unix_s: header.started_unix_s,
            start: header.start,
        })
    }

    /// The next event, to be given to [`Replay::handle`]; `None` at the end. Checks on the way are made.
    ///
    /// # Errors
    /// If a line cannot be read, or the effects so far differ from those recorded.
    pub fn event(&mut self) -> Result<Option<(Timestamp, Event)>, JournalError> {
        loop {
            match self.lines.next()? {
                Some(Line::Event { at, event }) => return Ok(Some((at, event))),
                Some(Line::Check { events, digest }) => self.check(events, digest)?,
                None => {
                    self.replayed.torn |= self.lines.torn;
                    let Some((header, lines)) = self.next.take() else { return Ok(None) };
                    self.go_on(&header, lines)?;
                }
            }
        }
    }

    /// In the next file, which holds the state that the core must have by now.
    fn go_on(&mut self, header: &Header, lines: Lines) -> Result<(), JournalError> {
        self.lines = lines;
        let reached = State::of(&self.core).map_err(|error| self.lines.malformed(error.to_string()))?;
        if header.state.as_ref() != Some(&reached) {
            return Err(self.diverged());
        }
        (self.events, self.digest) = (0, Digest::default());
        self.replayed.checks += 1;
        Ok(())
    }

    fn diverged(&self) -> JournalError {
        let (path, line) = (self.lines.path.clone(), self.lines.number);
        JournalError::Diverged { path, line, events: self.events }
    }

    fn check(&mut self, events: u64, digest: u64) -> Result<(), JournalError> {
        if events != self.events || digest != self.digest.value() {
            return Err(self.diverged());
        }
        self.replayed.checks += 1;
        Ok(())
    }

    /// Lets the core handle an event; `see` is shown what comes of it.
    pub fn handle(&mut self, at: Timestamp, event: Event, mut see: impl FnMut(&Effect)) {
        self.replayed.events += 1;
        self.events += 1;
        self.core.handle(at, event);
        while let Some(effect) = self.core.poll_effect() {
            self.replayed.effects += 1;
            self.digest.add(&effect);
            see(&effect);
        }
    }

    /// The core as it is now.
    #[must_use]
    pub const fn core(&self) -> &Core {
        &self.core
    }

    /// Has the core watch a request: see [`Core::watch`].
    pub fn watch(&mut self, request: RequestId) {
        self.core.watch(request);
    }

    /// See [`Core::take_sights`].
    pub fn take_sights(&mut self) -> Vec<Sight> {
        self.core.take_sights()
    }

    /// What was found so far.
    #[must_use]
    pub const fn replayed(&self) -> Replayed {
        self.replayed
    }

    /// Seconds since the Unix epoch at a moment, as good as the second at which the first file was begun is known.
    #[must_use]
    pub const fn unix_s(&self, at: Timestamp) -> u64 {
        self.started_unix_s.saturating_add(at.since(self.start).as_micros() / 1_000_000)
    }
}

/// Replays a whole journal.
///
/// # Errors
/// If the file cannot be read, is no journal, or the effects differ.
pub fn replay(path: &Path, mut see: impl FnMut(Timestamp, &Effect)) -> Result<Replayed, JournalError> {
    let mut replay = Replay::open(path)?;
    while let Some((at, event)) = replay.event()? {
        replay.handle(at, event, |effect| see(at, effect));
    }
    Ok(replay.replayed())
}
