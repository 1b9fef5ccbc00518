//! The demand of a recorded day: who asked for what and when, from a journal.
//!
//! Only requests are taken over. What the daemon did about them, the board it ran on and the budgets it had then
//! are not: these are what is asked about.

use super::day::WhatIfError;
use crate::core::event::{AppId, Event, Request, RequestId};
use crate::core::rollout::SHADOW;
use crate::journal::{self, Header};
use crate::time::Timestamp;
use crate::units::{Nanos, Ppm};
use std::collections::BTreeMap;
use std::path::Path;

/// Most requests of a record.
const MAX_REQUESTS: u64 = 20_000_000;
/// Most kinds of requests.
const MAX_KINDS: usize = 256;
/// Shortest record that is played again and again.
const SHORTEST: Nanos = Nanos::from_secs(1);

/// Requests that differ in nothing but their time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind {
    /// Name of its class.
    pub(super) class: String,
    /// Name of its model.
    pub(super) model: String,
    pub(super) app: AppId,
    pub(super) items: u32,
    /// From its arrival to its deadline, to three digits.
    pub(super) deadline: Option<Nanos>,
    pub(super) min_accuracy: Option<Ppm>,
}

/// A recorded demand. Times from the start of the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Recorded {
    pub(super) kinds: BTreeMap<Kind, Vec<Nanos>>,
    pub(super) lasting: Nanos,
    pub(super) requests: u64,
    /// The board that it was recorded on.
    pub(super) board: String,
    /// Those that named a variant, an energy or a priority of their own.
    pub(super) wishes: u64,
    /// Those whose clients hung up.
    pub(super) cancelled: u64,
    /// Those that named a model or class that the daemon did not have.
    pub(super) strange: u64,
}

impl Recorded {
    /// Reads a journal.
    ///
    /// # Errors
    /// If it is none, or holds no request or too many.
    pub(super) fn read(path: &Path) -> Result<Self, WhatIfError> {
        let mut gatherer = Gatherer::default();
        let header = journal::read(path, |header, at, event| gatherer.take(header, at, &event))?;
        let bad = |problem: String| WhatIfError::Journal { file: path.to_owned(), problem };
        if gatherer.requests == 0 {
            return Err(bad(
                "holds no request, so there is no day to play; wanted one recorded while apps asked, \
                            or --workload FILE"
                    .to_owned(),
            ));
        }
        if gatherer.requests > MAX_REQUESTS {
            return Err(bad(format!("{} requests; at most {MAX_REQUESTS} are taken", gatherer.requests)));
        }
        if gatherer.kinds.len() > MAX_KINDS {
            let kinds = gatherer.kinds.len();
            return Err(bad(format!(
                "{kinds} kinds of requests (class, model, app, items, deadline, accuracy); at most {MAX_KINDS} are taken"
            )));
        }
        Ok(gatherer.recorded(&header))
    }
}

#[derive(Debug, Default)]
struct Gatherer {
    kinds: BTreeMap<Kind, Vec<Nanos>>,
    /// Names of the classes since the last reload; empty: those of the header.
    classes: Vec<String>,
    /// Names of the models that came since.
    added: Vec<String>,
    /// The last request that was run again for nobody.
    shadow: Option<RequestId>,
    last: Nanos,
    requests: u64,
    wishes: u64,
    cancelled: u64,
    strange: u64,
}

impl Gatherer {
    fn take(&mut self, header: &Header, at: Timestamp, event: &Event) {
        // A journal is in order; whatever else it is, time must not go backwards.
        self.last = self.last.max(at.since(header.start));
        match event {
            Event::Submit(request) if request.app == SHADOW => self.shadow = Some(request.id),
            Event::Submit(request) => self.submit(header, at, request),
            Event::Cancel(id) => self.cancelled += u64::from(self.shadow != Some(*id)),
            Event::Extended(addition) => self.added.push(addition.model.name.clone()),
            Event::Reconfigured(budgets) => {
                self.classes = budgets.classes.iter().map(|class| class.name.clone()).collect();
            }
            _ => {}
        }
    }

    fn submit(&mut self, header: &Header, at: Timestamp, request: &Request) {
        if self.classes.is_empty() {
            self.classes = header.budgets.classes.iter().map(|class| class.name.clone()).collect();
        }
        let class = self.classes.get(usize::from(request.class.0));
        let known = header.catalog.models.iter().map(|model| &model.name).chain(&self.added);
        let model = known.cloned().nth(request.model.index());
        let (Some(class), Some(model), true) = (class, model, request.items > 0) else {
            self.strange += 1;
            return;
        };
        self.requests += 1;
        if self.requests > MAX_REQUESTS {
            return;
        }
        let own = request.variant.is_some() || request.max_energy.is_some() || request.priority.is_some();
        self.wishes += u64::from(own);
        let kind = Kind {
            class: class.clone(),
            model,
            app: request.app,
            items: request.items,
            deadline: request.deadline.map(|deadline| three_digits(deadline.since(at))),
            min_accuracy: request.min_accuracy,
        };
        // Beyond the limit the journal is refused in the end.
        if self.kinds.len() <= MAX_KINDS || self.kinds.contains_key(&kind) {
            self.kinds.entry(kind).or_default().push(self.last);
        }
    }

    fn recorded(self, header: &Header) -> Recorded {
        Recorded {
            // The end of a record is the first moment without requests.
            lasting: self.last.saturating_add(Nanos(1)).max(SHORTEST),
            kinds: self.kinds,
            requests: self.requests,
            board: header.catalog.board.name.clone(),
            wishes: self.wishes,
            cancelled: self.cancelled,
            strange: self.strange,
        }
    }
}

/// Rounded to three digits, and to at least 10 µs: deadlines that clients mean to be the same differ by the time that
/// the request took to the core.
fn three_digits(span: Nanos) -> Nanos {
    let mut unit = 1_u64;
    while span.0 / unit >= 1000 {
        unit *= 10;
    }
    Nanos((span.0 + unit / 2) / unit * unit).max(Nanos::from_micros(10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_that_are_meant_to_be_the_same_are() {
        for (ns, wanted) in
            [(49_962_117, 50_000_000), (50_004_000, 50_000_000), (66_666_667, 66_700_000), (3, 10_000)]
        {
            assert_eq!(three_digits(Nanos(ns)), Nanos(wanted));
        }
        assert_eq!(three_digits(Nanos(999_600)), Nanos(1_000_000));
    }
}
