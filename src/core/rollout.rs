//! New versions of a model that come while it serves: when one goes on, and when it is taken back.
//!
//! ```text
//! Verify ─▶ Load ─▶ Profile ─▶ Shadow ─▶ Canary ─▶ Full
//!              └───────┴─────────┴─────────┴─▶ RolledBack
//! ```
//!
//! *Verify*: its files are copied and checked; the core knows nothing of it yet. *Load*: it is a model of the catalogue of
//! its own that no request is for; its smallest variant comes in. *Profile*: its variants are measured. *Shadow*: requests
//! that were answered are run on it again in spare time, and the outputs compared. *Canary*: it answers a share of the
//! requests. *Full*: it answers all. A version of a model that is new has nothing to be compared with and goes from
//! Profile to Full.
//!
//! **It is taken back** for failures, which are counted, and for what is worse by more than chance:
//!
//! - a mean (latency, energy) is worse if `m - 3 s > ratio * (n + 3 t)`, where `m`, `n` are the means of the version on
//!   trial and of the one that serves and `s`, `t` their standard errors: for means of equal distributions that is less
//!   likely than one in a thousand, even with `ratio = 1`;
//! - the share of late answers is worse if it is higher by one in a hundred, and by three standard deviations of the
//!   difference of two shares of what both have in common: `p - q > 3 sqrt(r (1 - r) (1/a + 1/b))` for shares `p`, `q`
//!   of `a`, `b` answers, `r` of all.
//!
//! Both need at least [`LEAST_ANSWERS`] on either side. Who is on trial gets requests in turn with who serves, so that
//! both see the same hours.

use super::Core;
use crate::core::catalog::{Catalog, Model, ModelId, Variant};
use crate::core::event::{AppId, Effect, Note};
use crate::units::{Bytes, Microjoules, Nanos, Ppm};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Who asks where a request is run again on a version on trial.
pub const SHADOW: AppId = AppId(u32::MAX - 1);
/// Fewer answers say nothing of a mean or a share.
pub const LEAST_ANSWERS: u32 = 20;
/// Standard errors beyond which a difference is no chance.
const SIGMAS: f64 = 3.0;
/// A share of late answers that is higher by less is no reason.
const LATE_SLACK: f64 = 0.01;
/// Most models of a catalogue, those that were taken back included: they keep their ids.
const MAX_MODELS: usize = 1_024;
/// Most variants of a catalogue.
const MAX_VARIANTS: usize = 16_384;

/// Where a version stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// It is copied and checked.
    Verify,
    /// Its smallest variant comes in.
    Load,
    /// Its variants are measured.
    Profile,
    /// It runs beside, for nobody.
    Shadow,
    /// It answers a share of the requests.
    Canary,
    /// It answers all.
    Full,
    /// It was taken back.
    RolledBack,
}

impl Stage {
    /// All of them, in order.
    pub const ALL: [Self; 7] =
        [Self::Verify, Self::Load, Self::Profile, Self::Shadow, Self::Canary, Self::Full, Self::RolledBack];

    /// As in documents and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Load => "load",
            Self::Profile => "profile",
            Self::Shadow => "shadow",
            Self::Canary => "canary",
            Self::Full => "full",
            Self::RolledBack => "rolled_back",
        }
    }

    /// The stage after this one. `direct`: there is nothing to compare it with, or nobody wants to.
    #[must_use]
    pub const fn next(self, direct: bool) -> Self {
        match self {
            Self::Verify => Self::Load,
            Self::Load => Self::Profile,
            Self::Profile if !direct => Self::Shadow,
            Self::Shadow => Self::Canary,
            Self::Profile | Self::Canary | Self::Full => Self::Full,
            Self::RolledBack => Self::RolledBack,
        }
    }

    /// Whether nothing comes after it.
    #[must_use]
    pub const fn is_end(self) -> bool {
        matches!(self, Self::Full | Self::RolledBack)
    }
}

/// Why a version was taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// An operator wanted it.
    Operator,
    /// The daemon ended without being told to, in this stage.
    Died(Stage),
    /// None of its variants could be loaded.
    NotLoaded,
    /// Its smallest variant needs more memory than all may have.
    NoRoom {
        /// What it needs.
        needs: Bytes,
        /// The cap.
        cap: Bytes,
    },
    /// No variant passed the profiler on any unit.
    Unfit,
    /// Its outputs are not those of the version that serves.
    Drift {
        /// Requests compared.
        compared: u32,
    },
    /// It failed on requests.
    Errors {
        /// How many.
        failed: u32,
        /// Of how many.
        of: u32,
    },
    /// More of its answers were late.
    Late {
        /// Its late answers, per million.
        ppm: u32,
        /// Those of the version that serves.
        serving_ppm: u32,
    },
    /// It took longer.
    Slower {
        /// Mean time from arrival to answer.
        mean: Nanos,
        /// That of the version that serves.
        serving: Nanos,
    },
    /// It took more energy.
    Hungrier {
        /// Mean energy of an item.
        mean: Microjoules,
        /// That of the version that serves.
        serving: Microjoules,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator => write!(f, "an operator took it back"),
            Self::Died(stage) => {
                write!(f, "the daemon ended unexpectedly in stage {}: it may crash it", stage.name())
            }
            Self::NotLoaded => write!(f, "none of its variants could be loaded"),
            Self::NoRoom { needs, cap } => write!(
                f,
                "its smallest variant needs {} bytes of memory, and [memory] cap_mb allows {} for all",
                needs.0, cap.0
            ),
            Self::Unfit => write!(f, "no variant may run on any unit: the profiler refused them"),
            Self::Drift { compared } => {
                write!(f, "outputs differ from those of the serving version over {compared} requests")
            }
            Self::Errors { failed, of } => write!(f, "failed on {failed} of {of} requests"),
            Self::Late { ppm, serving_ppm } => write!(
                f,
                "{:.1} % of its answers were late, {:.1} % of the serving version's",
                f64::from(*ppm) / 1e4,
                f64::from(*serving_ppm) / 1e4
            ),
            Self::Slower { mean, serving } => write!(
                f,
                "answers took {} us on average, those of the serving version {} us",
                mean.as_micros(),
                serving.as_micros()
            ),
            Self::Hungrier { mean, serving } => {
                write!(f, "an item took {} uJ on average, with the serving version {} uJ", mean.0, serving.0)
            }
        }
    }
}

/// A version moved on. The daemon tells the core, so that it is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Step {
    /// The version's model in the catalogue.
    pub version: ModelId,
    /// That of the version that served until then, if there was one.
    pub serving: Option<ModelId>,
    /// Where it stands now.
    pub stage: Stage,
    /// Why, where it was taken back.
    pub cause: Option<Cause>,
}

/// A model that comes while the core runs. Its ids follow those that the catalogue has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Addition {
    /// The model.
    pub model: Model,
    /// Its version, for people.
    pub version: String,
    /// Its variants.
    pub variants: Vec<Variant>,
}

impl Addition {
    /// Whether its ids are the next ones, and the catalogue may grow by it.
    #[must_use]
    pub fn fits(&self, catalog: &Catalog) -> bool {
        let (models, first) = (catalog.models.len(), catalog.variants.len());
        let last = first + self.variants.len();
        let in_turn = self.model.variants.iter().map(|id| id.index()).eq(first..last);
        let whole = |variant: &Variant| {
            variant.model.index() == models && variant.profiles.len() == catalog.board.units.len()
        };
        models < MAX_MODELS && last <= MAX_VARIANTS && in_turn && self.variants.iter().all(whole)
    }
}

/// Sums that give a mean and its standard error.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Moments {
    count: f64,
    sum: f64,
    squares: f64,
}

impl Moments {
    /// Takes in a value; one that is no number is left out.
    pub fn add(&mut self, value: f64) {
        if value.is_finite() {
            self.count += 1.0;
            self.sum += value;
            self.squares += value * value;
        }
    }

    /// The mean; 0 of nothing.
    #[must_use]
    pub fn mean(&self) -> f64 {
        if self.count > 0.0 { self.sum / self.count } else { 0.0 }
    }

    /// Standard error of the mean; infinite for fewer than two values.
    #[must_use]
    pub fn error(&self) -> f64 {
        if self.count < 2.0 {
            return f64::INFINITY;
        }
        let variance = (self.squares - self.sum * self.sum / self.count) / (self.count - 1.0);
        (variance.max(0.0) / self.count).sqrt()
    }
}

/// What one version did with requests.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Side {
    /// Answers with an output.
    pub answers: u32,
    /// Those after their deadline.
    pub late: u32,
    /// Time from arrival to answer, microseconds.
    pub latency_us: Moments,
    /// Energy of an item, microjoules.
    pub energy_uj: Moments,
}

/// What is known of a version in its stage.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Evidence {
    /// Some variant is in memory.
    pub loaded: bool,
    /// Why none ever will be.
    pub not_loadable: Option<Cause>,
    /// It is being measured, or waits for it.
    pub profiling: bool,
    /// Some variant may run on some unit.
    pub runnable: bool,
    /// Requests whose outputs were compared.
    pub compared: u32,
    /// The outputs are far off.
    pub far_off: bool,
    /// Requests that it failed on.
    pub failed: u32,
    /// What it did.
    pub trial: Side,
    /// What the version that serves did meanwhile.
    pub serving: Side,
}

/// How much is asked of a version.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// Requests to compare before it answers any.
    pub shadow_requests: u32,
    /// Answers to give before it gives all.
    pub canary_requests: u32,
    /// Requests that it may fail on.
    pub max_failures: u32,
    /// How much longer its answers may take.
    pub max_latency_ratio: f64,
    /// How much more energy an item may take.
    pub max_energy_ratio: f64,
}

/// What is to be done with a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It stays where it is.
    Stay,
    /// On to the next stage.
    Advance,
    /// Back to the one that served before.
    RollBack(Cause),
}

/// Looks at a version in its stage.
#[must_use]
pub fn judge(stage: Stage, evidence: &Evidence, policy: &Policy) -> Verdict {
    if let Some(cause) = against(stage, evidence, policy) {
        return Verdict::RollBack(cause);
    }
    let done = match stage {
        Stage::Load => evidence.loaded,
        Stage::Profile => !evidence.profiling,
        Stage::Shadow => evidence.compared >= policy.shadow_requests,
        Stage::Canary => evidence.trial.answers >= policy.canary_requests,
        Stage::Verify | Stage::Full | Stage::RolledBack => false,
    };
    if done { Verdict::Advance } else { Verdict::Stay }
}

/// What speaks against going on.
fn against(stage: Stage, evidence: &Evidence, policy: &Policy) -> Option<Cause> {
    let Evidence { failed, compared, trial, serving, .. } = *evidence;
    match stage {
        Stage::Load => evidence.not_loadable.filter(|_| !evidence.loaded),
        Stage::Profile => (!evidence.profiling && !evidence.runnable).then_some(Cause::Unfit),
        Stage::Shadow | Stage::Canary if failed > policy.max_failures => {
            let of = failed.saturating_add(if stage == Stage::Shadow { compared } else { trial.answers });
            Some(Cause::Errors { failed, of })
        }
        Stage::Shadow => evidence.far_off.then_some(Cause::Drift { compared }),
        Stage::Canary => worse(&trial, &serving, policy),
        Stage::Verify | Stage::Full | Stage::RolledBack => None,
    }
}

fn worse(trial: &Side, serving: &Side, policy: &Policy) -> Option<Cause> {
    if trial.answers < LEAST_ANSWERS || serving.answers < LEAST_ANSWERS {
        return None;
    }
    let exceeds = |trial: &Moments, serving: &Moments, ratio: f64| {
        trial.mean() - SIGMAS * trial.error() > ratio * (serving.mean() + SIGMAS * serving.error())
    };
    let (a, b) = (f64::from(trial.answers), f64::from(serving.answers));
    let (p, q) = (f64::from(trial.late) / a, f64::from(serving.late) / b);
    let r = (f64::from(trial.late) + f64::from(serving.late)) / (a + b);
    if p - q > LATE_SLACK && p - q > SIGMAS * (r * (1.0 - r) * (1.0 / a + 1.0 / b)).sqrt() {
        let ppm = |share| Ppm::from_fraction(share).0;
        return Some(Cause::Late { ppm: ppm(p), serving_ppm: ppm(q) });
    }
    if exceeds(&trial.latency_us, &serving.latency_us, policy.max_latency_ratio) {
        let span = |moments: &Moments| Nanos::from_f64(moments.mean() * 1e3);
        return Some(Cause::Slower { mean: span(&trial.latency_us), serving: span(&serving.latency_us) });
    }
    exceeds(&trial.energy_uj, &serving.energy_uj, policy.max_energy_ratio).then(|| Cause::Hungrier {
        mean: Microjoules::from_f64(trial.energy_uj.mean()),
        serving: Microjoules::from_f64(serving.energy_uj.mean()),
    })
}

impl Core {
    /// Takes a model into the catalogue. What has ids keeps them.
    pub(super) fn extend(&mut self, addition: Addition) {
        self.catalog.models.push(addition.model);
        self.catalog.variants.extend(addition.variants);
        self.costs.extend(&self.catalog);
        self.estimates.extend(&self.catalog);
        self.residency.extend(&self.catalog);
        self.ready.resize(self.catalog.models.len(), None);
    }

    /// A version moved on: it is kept in memory from its loading on, and whoever does not serve any more is let go of.
    pub(super) fn rolled(&mut self, step: Step) {
        match step.stage {
            Stage::Load => self.residency.retain(step.version, true),
            Stage::Full => {
                self.residency.retain(step.version, true);
                if let Some(serving) = step.serving.filter(|serving| *serving != step.version) {
                    self.residency.retain(serving, false);
                }
            }
            Stage::RolledBack => self.residency.retain(step.version, false),
            Stage::Verify | Stage::Profile | Stage::Shadow | Stage::Canary => {}
        }
        self.effects.push_back(Effect::Note(Note::Rollout(step)));
    }
}

#[cfg(test)]
#[path = "tests/rollout.rs"]
mod tests;
