//! What goes into the core and what comes out. The daemon, the simulator, the journal and the fuzzer
//! speak these two enums and nothing else.

use crate::core::catalog::{Catalog, DomainId, ModelId, Profile, Provenance, UnitId, VariantId};
use crate::core::estimate::Learned;
use crate::core::points::OperatingPoint;
use crate::core::rollout::{Addition, Step};
use crate::time::Timestamp;
use crate::units::{Bytes, Kilohertz, Microjoules, Microwatts, MilliCelsius, Nanos, Ppm};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

macro_rules! serial {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);
    };
}

serial!(
    /// A request; given out by the daemon, never reused.
    RequestId(u64));
serial!(
    /// A dispatched batch; given out by the core, never reused.
    BatchId(u64));
serial!(
    /// A client application, as its peer credentials identify it.
    AppId(u32));
serial!(
    /// Index of a class in the budgets; class 0 is the default.
    ClassId(u16));

/// A request as the core sees it: sizes and wishes, no tensors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Its id.
    pub id: RequestId,
    /// Who asks.
    pub app: AppId,
    /// The class whose objective applies.
    pub class: ClassId,
    /// The model asked for.
    pub model: ModelId,
    /// Items along the batch dimension, at least 1.
    pub items: u32,
    /// Bytes of its input tensors.
    pub input_bytes: Bytes,
    /// When the answer must be there; `None` takes the class's latency objective.
    pub deadline: Option<Timestamp>,
    /// Least accuracy; `None` takes the class's.
    pub min_accuracy: Option<Ppm>,
    /// Most energy for this request; `None` takes the class's.
    pub max_energy: Option<Microjoules>,
    /// Only this variant will do.
    pub variant: Option<VariantId>,
    /// Lower is more urgent; `None` takes the class's.
    pub priority: Option<u32>,
}

/// Why a sensor gave no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SensorFault {
    /// The node is not there (any more).
    Missing,
    /// The kernel has no reading (ENODATA, EAGAIN).
    NoData,
    /// The device is busy or asleep (EBUSY).
    Busy,
    /// The node cannot be read by this process.
    Denied,
    /// The text is not a number.
    Garbled,
    /// A number that the quantity cannot have.
    Implausible,
    /// Any other error of the kernel.
    Io,
}

/// A reading, or why there is none.
pub type Reading<T> = Result<T, SensorFault>;

/// The state of a clock domain as read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockState {
    /// The present clock.
    pub current: Kilohertz,
    /// Lower bound in force.
    pub min: Kilohertz,
    /// Upper bound in force; below what was asked when the kernel or firmware throttles.
    pub max: Kilohertz,
}

/// The battery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatteryState {
    /// Energy left.
    pub remaining: Microjoules,
    /// Energy when full.
    pub full: Microjoules,
    /// Power drawn from it; negative while charging.
    pub draw: Microwatts,
}

/// Memory of the machine and of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryState {
    /// Memory available to new work.
    pub available: Bytes,
    /// All memory.
    pub total: Bytes,
    /// Resident set of this process.
    pub resident: Bytes,
}

/// Share of the last 10 s in which some task waited (PSI `some avg10`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Pressure {
    /// Waiting for a CPU.
    pub cpu: Ppm,
    /// Waiting for memory.
    pub memory: Ppm,
    /// Waiting for I/O.
    pub io: Ppm,
}

/// One sweep over all sensors, in the order of the board's tables. A result per sensor, never all or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readings {
    /// Temperatures by [`crate::core::catalog::ZoneId`].
    pub zones: Vec<Reading<MilliCelsius>>,
    /// Powers by [`crate::core::catalog::RailId`].
    pub rails: Vec<Reading<Microwatts>>,
    /// Clocks by [`DomainId`].
    pub domains: Vec<Reading<ClockState>>,
    /// The battery, where there is one.
    pub battery: Option<Reading<BatteryState>>,
    /// Memory.
    pub memory: Reading<MemoryState>,
    /// Pressure stall information, where the kernel has it.
    pub pressure: Option<Reading<Pressure>>,
}

/// Bounds to set on one clock domain. Both are operating points of the domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ClockBounds {
    /// Lower bound.
    pub min: Kilohertz,
    /// Upper bound.
    pub max: Kilohertz,
}

/// Bounds by [`DomainId`]; boards have a handful of clock domains.
pub type DomainBounds = SmallVec<[Option<ClockBounds>; 8]>;

/// What the actuator is to set: one entry per [`DomainId`], `None` = leave alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Setpoints {
    /// Bounds by domain.
    pub domains: DomainBounds,
}

/// What became of one setpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Applied {
    /// Read back as asked, or lower by a cap of the kernel or firmware.
    Bounds(ClockBounds),
    /// Could not be written or read back.
    Refused(SensorFault),
}

/// What became of all setpoints, by [`DomainId`]; `None` where nothing was asked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ApplyReport {
    /// Results by domain.
    pub domains: Vec<Option<Applied>>,
}

/// Why a batch gave no output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchFailure {
    /// Ended by [`Effect::Abort`].
    Cancelled,
    /// The variant was not loaded on the lane.
    NotLoaded,
    /// The execution provider failed.
    Provider,
    /// The lane itself is gone.
    LaneLost,
}

/// A lane's report on a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completion {
    /// The batch.
    pub batch: BatchId,
    /// When the lane began to run it.
    pub started: Timestamp,
    /// When the output was there, or the failure known.
    pub finished: Timestamp,
    /// Energy metered for this very run, where the unit has a meter fast enough.
    pub energy: Option<Microjoules>,
    /// Whether it succeeded.
    pub result: Result<(), BatchFailure>,
}

/// What happens to the core.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A client wants an inference.
    Submit(Request),
    /// A client left.
    Cancel(RequestId),
    /// A lane finished a batch.
    Completed(Completion),
    /// A lane holds a variant now.
    Loaded {
        /// The variant.
        variant: VariantId,
        /// The lane.
        unit: UnitId,
        /// Memory that the session took.
        footprint: Bytes,
    },
    /// A lane could not load a variant.
    LoadFailed {
        /// The variant.
        variant: VariantId,
        /// The lane.
        unit: UnitId,
    },
    /// A lane let go of a variant.
    Unloaded {
        /// The variant.
        variant: VariantId,
        /// The lane.
        unit: UnitId,
    },
    /// An operator or client wants a model in memory, or out of it.
    Retain {
        /// The model.
        model: ModelId,
        /// In memory (true) or out of it.
        resident: bool,
    },
    /// The sensors were read.
    Sampled(Readings),
    /// The actuator did what it could.
    Applied(ApplyReport),
    /// The profiler wants a domain held at a clock while nothing else runs on it; `None` lets go.
    Hold {
        /// The domain.
        domain: DomainId,
        /// The clock, one of its operating points.
        clock: Option<Kilohertz>,
    },
    /// The profiler occupies a unit's processor (`Some`): the units that share it wait, the unit itself serves
    /// between the probe's runs. `None` ends that.
    Probing(Option<UnitId>),
    /// A profile was measured, or found unfit (`None`: the variant must not run there).
    Profiled {
        /// The variant.
        variant: VariantId,
        /// The unit.
        unit: UnitId,
        /// What was found.
        profile: Option<Profile>,
    },
    /// A model comes into the catalogue, as the last one.
    Extended(Box<Addition>),
    /// A version of a model moved on.
    Rollout(Step),
    /// What an earlier life learned.
    Restored(Box<Learned>),
    /// The operator changed budgets or classes.
    Reconfigured(Box<crate::core::energy::Budgets>),
    /// No new requests from now on; what is queued is finished.
    Drain,
    /// The time of [`crate::core::Core::next_wakeup`] has come.
    Wake,
}

impl Event {
    /// Whether what it names exists in a catalogue: a journal may hold anything. Requests, which must be
    /// answered, are judged at admission.
    #[must_use]
    pub fn fits(&self, catalog: &Catalog) -> bool {
        let Catalog { board, models, variants } = catalog;
        match self {
            Self::Loaded { variant, unit, .. }
            | Self::LoadFailed { variant, unit }
            | Self::Unloaded { variant, unit }
            | Self::Profiled { variant, unit, .. } => {
                variant.index() < variants.len() && unit.index() < board.units.len()
            }
            Self::Retain { model, .. } => model.index() < models.len(),
            Self::Extended(addition) => addition.fits(catalog),
            Self::Rollout(step) => {
                let known = |model: &ModelId| model.index() < models.len();
                known(&step.version) && step.serving.as_ref().is_none_or(known)
            }
            Self::Hold { domain, .. } => domain.index() < board.domains.len(),
            Self::Probing(unit) => unit.is_none_or(|unit| unit.index() < board.units.len()),
            _ => true,
        }
    }
}

/// Why a request is turned away. Each has one gRPC status and one HTTP status (see `api`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rejection {
    /// The queue is full.
    QueueFull,
    /// The app has too many requests in flight.
    AppLimit,
    /// No configuration can meet the deadline with what is queued.
    DeadlineUnreachable,
    /// The deadline passed while it waited or ran.
    DeadlinePassed,
    /// No variant is accurate enough.
    AccuracyUnreachable,
    /// The cheapest acceptable configuration costs more energy than the request allows.
    EnergyUnreachable,
    /// An energy budget is spent.
    EnergyExhausted,
    /// The device power budget leaves no room.
    PowerBudget,
    /// The board is too hot to take work.
    TooHot,
    /// No variant that would do is loaded, and none can be (memory, failures).
    NotResident,
    /// No variant of the model may run on any unit, or the one asked for may not.
    NoCandidate,
    /// The execution provider failed and a retry would not help.
    ExecutionFailed,
    /// The client left.
    Cancelled,
    /// The daemon is stopping.
    Draining,
}

impl Rejection {
    /// All of them, for tables and tests.
    pub const ALL: [Self; 14] = [
        Self::QueueFull,
        Self::AppLimit,
        Self::DeadlineUnreachable,
        Self::DeadlinePassed,
        Self::AccuracyUnreachable,
        Self::EnergyUnreachable,
        Self::EnergyExhausted,
        Self::PowerBudget,
        Self::TooHot,
        Self::NotResident,
        Self::NoCandidate,
        Self::ExecutionFailed,
        Self::Cancelled,
        Self::Draining,
    ];

    /// The machine-readable name, as in metrics and responses.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::AppLimit => "app_limit",
            Self::DeadlineUnreachable => "deadline_unreachable",
            Self::DeadlinePassed => "deadline_passed",
            Self::AccuracyUnreachable => "accuracy_unreachable",
            Self::EnergyUnreachable => "energy_unreachable",
            Self::EnergyExhausted => "energy_exhausted",
            Self::PowerBudget => "power_budget",
            Self::TooHot => "too_hot",
            Self::NotResident => "not_resident",
            Self::NoCandidate => "no_candidate",
            Self::ExecutionFailed => "execution_failed",
            Self::Cancelled => "cancelled",
            Self::Draining => "draining",
        }
    }
}

/// How a request was served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Served {
    /// The variant that ran.
    pub variant: VariantId,
    /// The unit it ran on.
    pub unit: UnitId,
    /// The unit's clock when it ran; zero if unknown.
    pub clock: Kilohertz,
    /// Items in the batch it shared.
    pub batch_items: u32,
    /// Waiting before the run; before the first one, if the request was rescued.
    pub queue: Nanos,
    /// The run itself; all its time on lanes, if the request was rescued.
    pub compute: Nanos,
    /// This request's share of the batch's energy.
    pub energy: Microjoules,
    /// Whether that energy was measured or modelled.
    pub energy_source: Provenance,
    /// Accuracy of the variant, from the manifest.
    pub accuracy: Ppm,
    /// Whether the answer came after its deadline.
    pub missed: bool,
    /// Whether a smaller variant answered because the one chosen first took too long.
    pub rescued: bool,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// With an output.
    Served(Served),
    /// Without one.
    Rejected {
        /// Why.
        reason: Rejection,
        /// When trying again may help; `None`: it will not, as things are.
        retry_after: Option<Nanos>,
    },
}

/// Requests of one batch.
pub type BatchRequests = SmallVec<[RequestId; 8]>;

/// An order to a lane.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Dispatch {
    /// Its id.
    pub batch: BatchId,
    /// The lane.
    pub unit: UnitId,
    /// The variant to run.
    pub variant: VariantId,
    /// The requests whose tensors make up the batch, in this order.
    pub requests: BatchRequests,
    /// Items over all requests.
    pub items: u32,
    /// The clocks that were planned; zero if unknown.
    #[serde(flatten)]
    pub point: OperatingPoint,
    /// The latency that was planned.
    pub expected: Nanos,
    /// The energy that was reserved.
    pub reserved: Microjoules,
}

/// What the core wants done.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Run a batch.
    Dispatch(Dispatch),
    /// Stop a running batch if the provider can; a completion follows in any case.
    Abort(BatchId),
    /// Answer a request. Exactly one for every submit.
    Reply {
        /// The request.
        request: RequestId,
        /// How it ended.
        outcome: Outcome,
    },
    /// Load a variant on a lane.
    Load {
        /// The variant.
        variant: VariantId,
        /// The lane.
        unit: UnitId,
    },
    /// Unload a variant from a lane.
    Unload {
        /// The variant.
        variant: VariantId,
        /// The lane.
        unit: UnitId,
    },
    /// Set clock bounds.
    Set(Setpoints),
    /// Something an operator may want to see.
    Note(Note),
}

/// A change of state, with its cause.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Note {
    /// The thermal regime changed.
    Regime(crate::core::thermal::Transition),
    /// A clock domain no longer follows, or follows again.
    Controllable {
        /// The domain.
        domain: DomainId,
        /// Whether it follows.
        yes: bool,
    },
    /// A decision and its reasons.
    Decision(crate::core::plan::Explanation),
    /// A run is stopped for a request that would be late behind it, and begins anew.
    GaveWay {
        /// What ran.
        variant: VariantId,
        /// Where.
        unit: UnitId,
        /// What it gave way to.
        request: RequestId,
    },
    /// A version of a model moved on, or was taken back.
    Rollout(Step),
    /// A variant will not be loaded again on this unit for a while.
    Quarantined {
        /// The variant.
        variant: VariantId,
        /// The unit.
        unit: UnitId,
    },
}
