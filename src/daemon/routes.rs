//! Which version of a model a request is for.
//!
//! Clients know models by name; each name leads to the version that serves, and a share of its requests to one on trial.
//! Every so many-th request is taken, not a random one, so that a trial is over in a foreseeable number of requests.

use crate::core::catalog::{ModelId, VariantId};
use crate::core::event::{ClassId, Outcome, Rejection, Served};
use crate::core::rollout::{Side, Stage};
use crate::exec::Tensor;
use crate::units::{Nanos, Ppm};

/// Whom a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A client, from the version that serves.
    Serve,
    /// A client, from the version on trial.
    Try,
    /// Nobody: outputs of the version on trial are compared.
    Compare,
}

/// A request that was answered, to be run again on the version on trial.
#[derive(Debug)]
pub(super) struct Specimen {
    pub(super) class: ClassId,
    pub(super) items: u32,
    /// What was asked for, so that a variant of that kind is compared.
    pub(super) min_accuracy: Option<Ppm>,
    pub(super) inputs: Vec<Tensor>,
    /// What the version that serves answered.
    pub(super) outputs: Vec<Tensor>,
    /// With which variant.
    pub(super) variant: VariantId,
}

/// A version on trial, from its shadow stage on.
#[derive(Debug)]
pub(super) struct OnTrial {
    pub(super) version: ModelId,
    pub(super) stage: Stage,
    /// Share of the requests that are run again, or that it answers, percent.
    percent: u32,
    /// Classes whose requests it may answer; empty: all.
    classes: Vec<ClassId>,
    due: u32,
    /// Requests that it failed on in this stage.
    pub(super) failed: u32,
    pub(super) trial: Side,
    pub(super) serving: Side,
    pub(super) specimen: Option<Specimen>,
}

impl OnTrial {
    pub(super) fn new(version: ModelId, stage: Stage, percent: u32, classes: Vec<ClassId>) -> Self {
        Self {
            version,
            stage,
            percent,
            classes,
            due: 0,
            failed: 0,
            trial: Side::default(),
            serving: Side::default(),
            specimen: None,
        }
    }

    /// Whether this one is taken: as many of a hundred as the share says, evenly.
    fn takes(&mut self) -> bool {
        self.due += self.percent;
        let taken = self.due >= 100;
        self.due -= if taken { 100 } else { 0 };
        taken
    }
}

/// Where requests for a name go.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) serving: ModelId,
    pub(super) trial: Option<OnTrial>,
}

impl Route {
    pub(super) const fn to(serving: ModelId) -> Self {
        Self { serving, trial: None }
    }

    /// The version for a request. `ready`: whether a version has a variant in memory; one on trial that has none would
    /// make its requests wait.
    pub(super) fn choose(&mut self, class: ClassId, ready: impl Fn(ModelId) -> bool) -> (ModelId, Purpose) {
        let trial = self.trial.as_mut().filter(|trial| {
            trial.stage == Stage::Canary && (trial.classes.is_empty() || trial.classes.contains(&class))
        });
        if let Some(trial) = trial
            && ready(trial.version)
            && trial.takes()
        {
            return (trial.version, Purpose::Try);
        }
        (self.serving, Purpose::Serve)
    }

    /// Notes how a request ended. `took`: from its arrival.
    pub(super) fn ended(&mut self, purpose: Purpose, items: u32, outcome: &Outcome, took: Nanos) {
        let Some(trial) = &mut self.trial else { return };
        match (outcome, purpose) {
            (Outcome::Served(served), Purpose::Serve) => note(&mut trial.serving, served, items, took),
            (Outcome::Served(served), Purpose::Try) => note(&mut trial.trial, served, items, took),
            (Outcome::Rejected { reason, .. }, Purpose::Try | Purpose::Compare) => {
                trial.failed += u32::from(is_its_fault(*reason));
            }
            (Outcome::Served(_), Purpose::Compare) | (Outcome::Rejected { .. }, Purpose::Serve) => {}
        }
    }

    /// Whether an answer of the version that serves is to be run again.
    pub(super) fn wants_specimen(&mut self) -> bool {
        let free = |trial: &&mut OnTrial| trial.stage == Stage::Shadow && trial.specimen.is_none();
        self.trial.as_mut().filter(free).is_some_and(OnTrial::takes)
    }
}

fn note(side: &mut Side, served: &Served, items: u32, took: Nanos) {
    side.answers = side.answers.saturating_add(1);
    side.late = side.late.saturating_add(u32::from(served.missed));
    side.latency_us.add(took.as_f64() / 1e3);
    side.energy_uj.add(served.energy.as_f64() / f64::from(items.max(1)));
}

/// Whether another version of the model might have served the request.
pub(super) const fn is_its_fault(reason: Rejection) -> bool {
    matches!(
        reason,
        Rejection::ExecutionFailed
            | Rejection::NotResident
            | Rejection::NoCandidate
            | Rejection::AccuracyUnreachable
            | Rejection::EnergyUnreachable
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::catalog::{Provenance, UnitId};
    use crate::units::{Kilohertz, Microjoules};

    fn served(missed: bool) -> Outcome {
        Outcome::Served(Served {
            variant: VariantId(0),
            unit: UnitId(0),
            clock: Kilohertz::ZERO,
            batch_items: 1,
            queue: Nanos::ZERO,
            compute: Nanos::ZERO,
            energy: Microjoules(40),
            energy_source: Provenance::Modelled,
            accuracy: Ppm::ZERO,
            missed,
            rescued: false,
        })
    }

    fn on_trial(stage: Stage, percent: u32, classes: Vec<ClassId>) -> Route {
        let trial = Some(OnTrial::new(ModelId(1), stage, percent, classes));
        Route { serving: ModelId(0), trial }
    }

    #[test]
    fn the_share_is_kept_evenly() {
        for (percent, of_hundred) in [(1, 1), (7, 7), (10, 10), (33, 33), (50, 50)] {
            let mut route = on_trial(Stage::Canary, percent, vec![]);
            let tries: Vec<bool> =
                (0..1000).map(|_| route.choose(ClassId(0), |_| true).1 == Purpose::Try).collect();
            let count = |part: &[bool]| part.iter().filter(|tried| **tried).count();
            assert_eq!(count(&tries), of_hundred * 10);
            // In any hundred in a row, too, by one at most.
            assert!(tries.windows(100).all(|part| count(part) <= of_hundred + 1), "{percent}");
        }
    }

    #[test]
    fn nobody_is_tried_on_but_in_the_canary_stage_with_something_loaded_and_in_its_classes() {
        let mut shadow = on_trial(Stage::Shadow, 50, vec![]);
        let mut absent = on_trial(Stage::Canary, 50, vec![]);
        let mut only_one = on_trial(Stage::Canary, 50, vec![ClassId(1)]);
        let mut tried = [0; 4];
        for _ in 0..100 {
            tried[0] += usize::from(shadow.choose(ClassId(0), |_| true).1 == Purpose::Try);
            tried[1] += usize::from(absent.choose(ClassId(0), |model| model == ModelId(0)).1 == Purpose::Try);
            tried[2] += usize::from(only_one.choose(ClassId(0), |_| true).1 == Purpose::Try);
            tried[3] += usize::from(only_one.choose(ClassId(1), |_| true).1 == Purpose::Try);
        }
        assert_eq!(tried, [0, 0, 0, 50]);
    }

    #[test]
    fn what_happened_is_counted_where_it_belongs() {
        let mut route = on_trial(Stage::Canary, 50, vec![]);
        let rejected = |reason| Outcome::Rejected { reason, retry_after: None };
        let ms = Nanos::from_millis(2);
        route.ended(Purpose::Serve, 1, &served(false), ms);
        route.ended(Purpose::Try, 4, &served(true), ms);
        route.ended(Purpose::Try, 1, &rejected(Rejection::ExecutionFailed), ms);
        route.ended(Purpose::Compare, 1, &rejected(Rejection::Cancelled), ms);
        // Of what the other version did wrong, and of full queues, nobody on trial is guilty.
        route.ended(Purpose::Serve, 1, &rejected(Rejection::ExecutionFailed), ms);
        route.ended(Purpose::Try, 1, &rejected(Rejection::QueueFull), ms);
        let trial = route.trial.unwrap();
        assert_eq!(
            (trial.failed, trial.trial.answers, trial.trial.late, trial.serving.answers),
            (1, 1, 1, 1)
        );
        assert!((trial.trial.energy_uj.mean() - 10.0).abs() < 1e-9, "40 uJ for 4 items");
        assert!((trial.serving.latency_us.mean() - 2000.0).abs() < 1e-9);
    }

    #[test]
    fn one_specimen_at_a_time() {
        let mut route = on_trial(Stage::Shadow, 50, vec![]);
        assert_eq!((0..4).filter(|_| route.wants_specimen()).count(), 2);
        route.trial.as_mut().unwrap().specimen = Some(Specimen {
            class: ClassId(0),
            items: 1,
            min_accuracy: None,
            inputs: vec![],
            outputs: vec![],
            variant: VariantId(0),
        });
        assert_eq!((0..4).filter(|_| route.wants_specimen()).count(), 0);
        assert!(!Route::to(ModelId(0)).wants_specimen());
    }
}
