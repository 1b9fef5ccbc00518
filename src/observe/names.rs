//! The names of all metrics, in one place. `config/README.md` has the same table for operators; a test
//! holds the two together.

/// Kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// The present value.
    Gauge,
    /// A distribution in fixed buckets.
    Histogram,
}

impl Kind {
    /// As Prometheus calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

macro_rules! metrics {
    ($($(#[doc = $help:literal])+ $variant:ident = $name:literal $kind:ident [$($label:literal),*];)+) => {
        /// A metric. The unit is the end of its name; labels come in the order of [`Metric::labels`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Metric {
            $($(#[doc = $help])+ $variant,)+
        }

        impl Metric {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Name on the Prometheus page.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What it counts.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => concat!($($help),+),)+ }
            }

            /// Its kind.
            #[must_use]
            pub const fn kind(self) -> Kind {
                match self { $(Self::$variant => Kind::$kind,)+ }
            }

            /// Names of its labels.
            #[must_use]
            pub const fn labels(self) -> &'static [&'static str] {
                match self { $(Self::$variant => &[$($label),*],)+ }
            }
        }
    };
}

metrics! {
    /// The daemon's version; always 1.
    Info = "wattd_info" Gauge ["version", "board"];
    /// Requests that ended, by outcome: in_time, late, rejected.
    Requests = "wattd_requests_total" Counter ["model", "class", "outcome"];
    /// Requests that ended without an output, by reason.
    Rejections = "wattd_rejections_total" Counter ["model", "reason"];
    /// Answers that came after their deadline.
    DeadlineMisses = "wattd_deadline_misses_total" Counter ["model", "class"];
    /// Answers by a smaller variant because the one chosen first took too long.
    Rescues = "wattd_rescues_total" Counter ["model", "class"];
    /// Runs that were stopped for a request that would have been late behind them, and began anew.
    Preemptions = "wattd_preemptions_total" Counter ["model", "variant", "unit"];
    /// Time from arrival to answer of served requests.
    RequestDuration = "wattd_request_duration_seconds" Histogram ["model", "class"];
    /// Time that served requests waited for their run.
    QueueDuration = "wattd_queue_duration_seconds" Histogram ["model", "variant", "unit"];
    /// Time of the run that served requests shared.
    ComputeDuration = "wattd_compute_duration_seconds" Histogram ["model", "variant", "unit"];
    /// Requests in the queue or running.
    InFlight = "wattd_requests_in_flight" Gauge [];
    /// Batches handed to a lane.
    Batches = "wattd_batches_total" Counter ["model", "variant", "unit"];
    /// Items in these batches.
    Items = "wattd_items_total" Counter ["model", "variant", "unit"];
    /// Batches that gave no output, by reason.
    BatchFailures = "wattd_batch_failures_total" Counter ["unit", "reason"];
    /// Energy of served requests, by source: measured, modelled, conservative.
    Energy = "wattd_energy_microjoules_total" Counter ["model", "variant", "unit", "source"];
    /// Energy of served requests by app: a user id, tcp, shadow (new versions on trial), or other (beyond the first 64 apps).
    AppEnergy = "wattd_app_energy_microjoules_total" Counter ["app"];
    /// Requests that ended, by app.
    AppRequests = "wattd_app_requests_total" Counter ["app"];
    /// Power of a rail; NaN while its sensor gives none.
    Power = "wattd_power_watts" Gauge ["rail"];
    /// Temperature of a zone; NaN while its sensor gives none.
    Temperature = "wattd_temperature_celsius" Gauge ["zone"];
    /// Present clock of a domain; NaN while it cannot be read.
    Clock = "wattd_clock_hertz" Gauge ["domain"];
    /// Bounds in force of a domain's clock: min, max.
    ClockBound = "wattd_clock_bound_hertz" Gauge ["domain", "bound"];
    /// Whether a domain's clock follows what is set: 1 or 0.
    ClockControllable = "wattd_clock_controllable" Gauge ["domain"];
    /// Clock bounds that could not be set, by fault.
    ClockRefusals = "wattd_clock_refusals_total" Counter ["domain", "fault"];
    /// Readings that failed, by fault.
    SensorFaults = "wattd_sensor_faults_total" Counter ["sensor", "fault"];
    /// Clock bounds that someone else set while the daemon ran, and that it keeps to.
    ForeignBounds = "wattd_foreign_bounds_total" Counter ["domain"];
    /// Share of time in which a processor was busy, by its driver; NaN while it does not say.
    Load = "wattd_load_ratio" Gauge ["processor"];
    /// Power measured at a part of what its name says only, and no rail of the board file.
    PartialPower = "wattd_partial_power_watts" Gauge ["source"];
    /// Whether the board complains of something: under_voltage, throttled, over_current and others; 1 or 0.
    Alarm = "wattd_alarm" Gauge ["alarm"];
    /// How often it went off.
    Alarms = "wattd_alarms_total" Counter ["alarm"];
    /// 1 for the present thermal regime, 0 for the others.
    Regime = "wattd_thermal_regime" Gauge ["regime"];
    /// Changes of the thermal regime, by the new one.
    RegimeChanges = "wattd_thermal_regime_changes_total" Counter ["regime"];
    /// 1 while a variant is loaded on a unit.
    Resident = "wattd_variant_resident" Gauge ["model", "variant", "unit"];
    /// Memory that all loaded variants hold.
    ResidentBytes = "wattd_variants_resident_bytes" Gauge [];
    /// Loads and unloads, by result: loaded, failed, unloaded.
    Loads = "wattd_variant_loads_total" Counter ["model", "variant", "unit", "result"];
    /// 1 for the stage of the last new version of a model, 0 for the others.
    RolloutStage = "wattd_rollout_stage" Gauge ["model", "stage"];
    /// Stages that new versions came to: load, profile, shadow, canary, full, rolled_back.
    RolloutSteps = "wattd_rollout_steps_total" Counter ["model", "version", "stage"];
    /// Memory available to new work.
    MemoryAvailable = "wattd_memory_available_bytes" Gauge [];
    /// Resident set of the daemon.
    ProcessResident = "wattd_process_resident_bytes" Gauge [];
    /// Share of the last 10 s in which some task waited for cpu, memory or io.
    Pressure = "wattd_pressure_ratio" Gauge ["resource"];
    /// Energy left in the battery; NaN while unknown.
    Battery = "wattd_battery_joules" Gauge [];
    /// Power drawn from the battery; negative while charging, NaN while unknown.
    BatteryPower = "wattd_battery_power_watts" Gauge [];
    /// Energy left of a budget: energy, battery, power, or class:NAME.
    BudgetLeft = "wattd_budget_left_joules" Gauge ["budget"];
    /// Mean absolute relative error of an estimator: latency, board_power, run_power, heat; of a unit or the board.
    EstimatorError = "wattd_estimator_error_ratio" Gauge ["estimator", "of"];
    /// Predictions of an estimator that were judged, those before the last start included.
    EstimatorObservations = "wattd_estimator_observations" Gauge ["estimator", "of"];
    /// What an estimator says now; the value's name ends in its unit.
    Estimate = "wattd_estimate" Gauge ["estimator", "of", "value"];
    /// Decisions of the planner.
    Decisions = "wattd_decisions_total" Counter [];
    /// Time that the core took for one event, planning included.
    DecisionDuration = "wattd_decision_duration_seconds" Histogram [];
    /// Requests served, as Triton names it.
    NvSuccess = "nv_inference_request_success" Counter ["model", "version"];
    /// Requests not served, as Triton names it.
    NvFailure = "nv_inference_request_failure" Counter ["model", "version"];
    /// Items inferred, as Triton names it.
    NvCount = "nv_inference_count" Counter ["model", "version"];
    /// Batches run, as Triton names it.
    NvExecCount = "nv_inference_exec_count" Counter ["model", "version"];
    /// Sum of times from arrival to answer of served requests, as Triton names it.
    NvRequestDuration = "nv_inference_request_duration_us" Counter ["model", "version"];
    /// Sum of queue times of served requests, as Triton names it.
    NvQueueDuration = "nv_inference_queue_duration_us" Counter ["model", "version"];
    /// Sum of run times of served requests, as Triton names it.
    NvComputeDuration = "nv_inference_compute_infer_duration_us" Counter ["model", "version"];
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const REFERENCE: &str = include_str!("../../config/README.md");

    /// Every metric has a row in the reference with its kind and labels, and no row is for another.
    #[test]
    fn the_reference_has_every_metric() {
        let rows: BTreeMap<&str, &str> = REFERENCE
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
            .filter(|(name, _)| name.starts_with("wattd_") || name.starts_with("nv_"))
            .collect();
        for metric in Metric::ALL {
            let labels = metric.labels().join(", ");
            let help = metric.help().trim();
            let expected = format!(" {} | {labels} | {help} |", metric.kind().name());
            let found = rows.get(metric.name()).copied().unwrap_or("nothing");
            assert_eq!(expected, found, "row of `{}` in config/README.md", metric.name());
        }
        assert_eq!(rows.len(), Metric::ALL.len(), "a row for a metric that does not exist");
    }

    #[test]
    fn names_follow_the_conventions_of_prometheus() {
        for metric in Metric::ALL.iter().filter(|metric| metric.name().starts_with("wattd_")) {
            let total = metric.name().ends_with("_total");
            assert_eq!(total, metric.kind() == Kind::Counter, "{}", metric.name());
        }
        let mut names: Vec<&str> = Metric::ALL.iter().map(|metric| metric.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Metric::ALL.len(), "a name is there twice");
    }
}
