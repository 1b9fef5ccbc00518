//! The workload file as written; [`super::workload`] validates it, `config/README.md` explains every key.

use crate::board::sim::Precision;
use crate::config::raw::{RawBudget, RawClass, RawMemory};
use crate::core::catalog::UnitKind;
use serde::Deserialize;
use std::path::PathBuf;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFile {
    pub(super) workload: RawWorkload,
    #[serde(default)]
    pub(super) model: Vec<RawModel>,
    #[serde(default)]
    pub(super) class: Vec<RawClass>,
    #[serde(default)]
    pub(super) budget: RawBudget,
    #[serde(default)]
    pub(super) memory: RawMemory,
    #[serde(default)]
    pub(super) profile: RawProfile,
    #[serde(default)]
    pub(super) stream: Vec<RawStream>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWorkload {
    pub(super) name: Option<String>,
    #[serde(default)]
    #[allow(dead_code, reason = "for people who read the file")]
    pub(super) description: String,
    pub(super) seconds: Option<f64>,
    pub(super) warmup_s: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawModel {
    pub(super) name: Option<String>,
    pub(super) manifest: Option<PathBuf>,
    pub(super) max_batch: Option<u32>,
    pub(super) variant: Vec<RawVariant>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawVariant {
    pub(super) name: String,
    pub(super) accuracy: f64,
    pub(super) macs: Option<u64>,
    pub(super) traffic_bytes: Option<u64>,
    pub(super) precision: Option<Precision>,
    pub(super) grid: Option<String>,
    pub(super) footprint_mb: Option<f64>,
    pub(super) units: Option<Vec<UnitKind>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawProfile {
    pub(super) error: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawArrival {
    Periodic,
    Poisson,
    Bursts,
    Trace,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStream {
    pub(super) class: Option<String>,
    pub(super) model: Option<String>,
    #[serde(default = "one")]
    pub(super) app: u32,
    #[serde(default = "one")]
    pub(super) items: u32,
    pub(super) arrival: RawArrival,
    pub(super) rate_hz: Option<f64>,
    pub(super) jitter_ms: Option<f64>,
    pub(super) burst: Option<u32>,
    pub(super) trace: Option<PathBuf>,
    pub(super) deadline_ms: Option<f64>,
    pub(super) min_accuracy: Option<f64>,
    #[serde(default)]
    pub(super) from_s: f64,
    pub(super) until_s: Option<f64>,
    #[serde(default)]
    pub(super) spike: Vec<RawSpike>,
}

fn one() -> u32 {
    1
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSpike {
    pub(super) from_s: f64,
    pub(super) until_s: f64,
    pub(super) factor: f64,
}
