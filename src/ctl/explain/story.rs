//! What happened to one request, told by a replay.
//!
//! Time in the queue is accounted for by what the request waited for: after each event the core says where it
//! stands, and until the next event that is what it waits for.

use super::ExplainError;
use crate::core::catalog::{Catalog, UnitId};
use crate::core::event::{
    BatchId, Completion, Dispatch, Effect, Event, Outcome, Request, RequestId, Setpoints,
};
use crate::core::explain::{Arrival, Look, Sight, Standing};
use crate::core::plan::{Awaits, Choice};
use crate::journal::Replay;
use crate::time::Timestamp;
use crate::units::{Kilohertz, Nanos};
use std::collections::BTreeMap;
use std::path::Path;

/// Decisions kept of a request that was decided about again and again, the last ones.
const MOST_DECISIONS: usize = 16;
/// Runs of others that are kept, the first ones.
const MOST_AHEAD: usize = 64;

/// What a request waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wait {
    /// All units are busy.
    AllBusy,
    /// A busy unit is better than those that are free.
    Unit,
    /// Its class's power budget.
    Class,
    /// The device's budget.
    Device,
    /// A variant that is to be loaded.
    Load,
    /// More urgent requests, which wait for one of these.
    Behind,
}

impl Wait {
    const fn for_what(awaits: Awaits) -> Self {
        match awaits {
            Awaits::Unit => Self::Unit,
            Awaits::Class => Self::Class,
            Awaits::Device => Self::Device,
        }
    }

    pub(super) fn of(choice: &Choice) -> Option<Self> {
        match choice {
            Choice::Hold { awaits, .. } => Some(Self::for_what(*awaits)),
            Choice::AwaitLoad => Some(Self::Load),
            Choice::Run { .. } | Choice::Reject(..) => None,
        }
    }
}

/// A decision with its moment.
#[derive(Debug)]
pub(super) struct Decided {
    pub(super) at: Timestamp,
    /// How often it was decided so; the rest is of the last time.
    pub(super) times: u64,
    pub(super) look: Look,
}

/// A batch that ran.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) at: Timestamp,
    pub(super) dispatch: Dispatch,
    /// When it was told to stop.
    pub(super) aborted: Option<Timestamp>,
    pub(super) completion: Option<Completion>,
    /// When a higher clock was asked for under way, and which.
    pub(super) raised: Option<(Timestamp, Kilohertz)>,
    /// Whether the profiler measured on the same unit.
    pub(super) probed: bool,
}

/// All that is known of a request.
#[derive(Debug)]
pub(super) struct Story {
    pub(super) request: Request,
    pub(super) came: Timestamp,
    pub(super) came_unix_s: u64,
    /// Models, variants and units as they were when it came.
    pub(super) catalog: Catalog,
    /// `None` where the model it asked for does not exist.
    pub(super) arrival: Option<Box<Arrival>>,
    pub(super) waits: BTreeMap<Wait, Nanos>,
    pub(super) holds: BTreeMap<Wait, Decided>,
    /// To run it or to turn it away.
    pub(super) decisions: Vec<Decided>,
    pub(super) runs: Vec<Run>,
    /// What ran for others while it waited.
    pub(super) ahead: Vec<Run>,
    /// How many more of those there were.
    pub(super) more_ahead: usize,
    pub(super) outcome: Option<(Timestamp, Outcome)>,
    /// Whether a check after its end agreed.
    pub(super) checked: bool,
    pub(super) torn: bool,
    class: String,
    waiting_for: Option<Wait>,
    /// The unit that the profiler measures on.
    probing: Option<UnitId>,
}

/// Requests of a journal.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    first: Option<RequestId>,
    last: Option<RequestId>,
    pub(super) answered: Option<RequestId>,
    pub(super) late: Option<RequestId>,
}

impl Seen {
    fn event(&mut self, event: &Event) {
        if let Event::Submit(request) = event {
            self.first = Some(self.first.map_or(request.id, |first| first.min(request.id)));
            self.last = self.last.max(Some(request.id));
        }
    }

    fn effect(&mut self, effect: &Effect) {
        if let Effect::Reply { request, outcome } = effect {
            self.answered = Some(*request);
            if !matches!(outcome, Outcome::Served(served) if !served.missed) {
                self.late = Some(*request);
            }
        }
    }

    /// The ids that there are, for people.
    pub(super) fn range(&self) -> String {
        match (self.first, self.last) {
            (Some(first), Some(last)) if first != last => {
                format!("it has requests {} to {}", first.0, last.0)
            }
            (Some(only), _) => format!("it has request {} only", only.0),
            _ => "it has no request".to_owned(),
        }
    }
}

/// Replays all of a journal to see what requests it has.
pub(super) fn survey(path: &Path) -> Result<Seen, ExplainError> {
    let (mut replay, mut seen) = (Replay::open_with_previous(path)?, Seen::default());
    while let Some((at, event)) = replay.event()? {
        seen.event(&event);
        replay.handle(at, event, |effect| seen.effect(effect));
    }
    Ok(seen)
}

/// Replays a journal until it has nothing more to tell of a request.
pub(super) fn follow(path: &Path, id: RequestId) -> Result<Story, ExplainError> {
    let mut replay = Replay::open_with_previous(path)?;
    replay.watch(id);
    let (mut seen, mut running) = (Seen::default(), BTreeMap::new());
    let mut story: Option<Story> = None;
    let (mut last, mut checks, mut probing) = (Timestamp::ZERO, None, None);
    while let Some((at, event)) = replay.event()? {
        seen.event(&event);
        if let (Event::Submit(request), None) = (&event, &story)
            && request.id == id
        {
            story = Some(Story::new(&replay, request.clone(), at, &running, probing));
        }
        if let Some(story) = &mut story {
            story.pass(last, at);
            story.event(&event);
        }
        match &event {
            Event::Completed(completion) => {
                running.remove(&completion.batch);
            }
            Event::Probing(unit) => probing = *unit,
            _ => {}
        }
        let mut effects = Vec::new();
        replay.handle(at, event, |effect| effects.push(effect.clone()));
        for sight in replay.take_sights() {
            if let Some(story) = &mut story {
                story.sight(at, sight);
            }
        }
        for effect in effects {
            if let Some(story) = &mut story {
                story.effect(at, &effect);
            }
            if let Effect::Dispatch(dispatch) = effect {
                running.insert(dispatch.batch, Run::new(at, dispatch));
            }
        }
        last = at;
        // What was told is only sure once a check after it agreed.
        if story.as_ref().is_some_and(Story::is_over) {
            let before = *checks.get_or_insert(replay.replayed().checks);
            if replay.replayed().checks > before {
                break;
            }
        }
    }
    let replayed = replay.replayed();
    let Some(mut story) = story else {
        let (path, range) = (path.to_owned(), seen.range());
        return Err(ExplainError::Unknown { path, id: id.0, range, torn: replayed.torn });
    };
    // The last check of a journal that was closed comes after its last event.
    story.checked = checks.is_some_and(|before| replayed.checks > before);
    story.torn = replayed.torn;
    Ok(story)
}

impl Run {
    const fn new(at: Timestamp, dispatch: Dispatch) -> Self {
        Self { at, dispatch, aborted: None, completion: None, raised: None, probed: false }
    }
}

impl Story {
    fn new(
        replay: &Replay,
        request: Request,
        came: Timestamp,
        running: &BTreeMap<BatchId, Run>,
        probing: Option<UnitId>,
    ) -> Self {
        let core = replay.core();
        Self {
            class: core.budgets().class(&request).name.clone(),
            came,
            came_unix_s: replay.unix_s(came),
            catalog: core.catalog().clone(),
            request,
            arrival: None,
            waits: BTreeMap::new(),
            holds: BTreeMap::new(),
            decisions: Vec::new(),
            runs: Vec::new(),
            ahead: running.values().cloned().collect(),
            more_ahead: 0,
            outcome: None,
            checked: false,
            torn: false,
            waiting_for: None,
            probing,
        }
    }

    /// The class whose objective applied.
    pub(super) fn class(&self) -> &str {
        &self.class
    }

    fn is_over(&self) -> bool {
        self.outcome.is_some() && self.runs.iter().all(|run| run.completion.is_some())
    }

    /// Time passes between two events.
    fn pass(&mut self, from: Timestamp, to: Timestamp) {
        if let Some(wait) = self.waiting_for {
            let total = self.waits.entry(wait).or_default();
            *total = total.saturating_add(to.since(from.max(self.came)));
        }
    }

    fn event(&mut self, event: &Event) {
        if let Event::Probing(unit) = event {
            self.probing = *unit;
        }
        let Event::Completed(completion) = event else { return };
        let mut runs = self.runs.iter_mut().chain(&mut self.ahead);
        if let Some(run) = runs.find(|run| run.dispatch.batch == completion.batch) {
            run.completion = Some(completion.clone());
        }
    }

    fn sight(&mut self, at: Timestamp, sight: Sight) {
        match sight {
            Sight::Arrival(arrival) => self.arrival = Some(arrival),
            Sight::Look(look) => self.look(at, *look),
            Sight::Waits(Standing::Held) => {}
            Sight::Waits(Standing::AllBusy) => self.waiting_for = Some(Wait::AllBusy),
            Sight::Waits(Standing::Behind(awaits)) => {
                self.waiting_for = Some(awaits.map_or(Wait::Behind, Wait::for_what));
            }
        }
    }

    fn look(&mut self, at: Timestamp, look: Look) {
        self.waiting_for = Wait::of(&look.choice);
        if let Some(wait) = self.waiting_for {
            let times = self.holds.get(&wait).map_or(0, |held| held.times) + 1;
            self.holds.insert(wait, Decided { at, times, look });
            return;
        }
        if self.decisions.len() == MOST_DECISIONS {
            self.decisions.remove(0);
        }
        self.decisions.push(Decided { at, times: 1, look });
    }

    /// Clocks are set; of a run under way that is a boost. One that was told to stop gets none.
    fn clocks(&mut self, at: Timestamp, setpoints: &Setpoints) {
        for run in &mut self.runs {
            let under_way = run.completion.is_none() && run.aborted.is_none();
            let unit = self.catalog.board.units.get(run.dispatch.unit.index());
            let domain = unit.and_then(|unit| unit.domain);
            let bounds = domain.and_then(|domain| *setpoints.domains.get(domain.index())?);
            if let Some(bounds) = bounds.filter(|bounds| under_way && bounds.min > run.dispatch.point.clock) {
                run.raised = Some((at, bounds.min));
            }
        }
    }

    fn effect(&mut self, at: Timestamp, effect: &Effect) {
        match effect {
            Effect::Dispatch(dispatch) if dispatch.requests.contains(&self.request.id) => {
                self.waiting_for = None;
                let probed = self.probing == Some(dispatch.unit);
                self.runs.push(Run { probed, ..Run::new(at, dispatch.clone()) });
            }
            Effect::Dispatch(dispatch) if self.waiting_for.is_some() || self.runs.is_empty() => {
                if self.outcome.is_none() && self.ahead.len() < MOST_AHEAD {
                    self.ahead.push(Run::new(at, dispatch.clone()));
                } else if self.outcome.is_none() {
                    self.more_ahead += 1;
                }
            }
            Effect::Set(setpoints) => self.clocks(at, setpoints),
            Effect::Abort(batch) => {
                if let Some(run) = self.runs.iter_mut().find(|run| run.dispatch.batch == *batch) {
                    run.aborted.get_or_insert(at);
                }
            }
            Effect::Reply { request, outcome } if *request == self.request.id => {
                self.waiting_for = None;
                self.outcome = Some((at, *outcome));
            }
            _ => {}
        }
    }
}
