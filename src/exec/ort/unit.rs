//! Which execution provider runs a unit, and how.

use crate::board::cpus::{MAX_CPUS, spans};
use crate::board::spec::UnitSpec;
use crate::core::catalog::UnitKind;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The provider that every build of ONNX Runtime has.
pub(super) const CPU_PROVIDER: &str = "CPUExecutionProvider";

/// A unit as the executor needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecUnit {
    /// Name of the unit, for messages.
    pub name: String,
    /// Kind of processor: picks the provider's device where it has several.
    pub kind: UnitKind,
    /// Execution provider, such as `CPUExecutionProvider`.
    pub provider: String,
    /// Plug-in library that brings the provider; registered once per process.
    pub provider_library: Option<PathBuf>,
    /// Options of the provider, as they are. Keys that begin with `session.` or `ep.` go to the session.
    pub provider_options: BTreeMap<String, String>,
    /// Intra-op threads; the lane's own thread is one of them.
    pub threads: u16,
    /// CPUs that the lane may run on; empty = any.
    pub cpus: Vec<u16>,
}

/// Why a unit cannot run here.
#[derive(Debug, thiserror::Error)]
pub enum UnitError {
    /// No CPU that is there.
    #[error(
        "unit {unit}: each of `cpus` {cpus:?} is offline, absent or not allowed to this process; allowed: {allowed}"
    )]
    NoCpu {
        /// The unit.
        unit: String,
        /// The CPUs.
        cpus: Vec<u16>,
        /// What there is.
        allowed: String,
    },
    /// The kernel refused the affinity.
    #[error("unit {unit}: setting the affinity to CPUs {cpus:?}: {source}")]
    Affinity {
        /// The unit.
        unit: String,
        /// The CPUs.
        cpus: Vec<u16>,
        /// The kernel's answer.
        source: nix::Error,
    },
    /// The provider's library could not be registered.
    #[error("unit {unit}: {source}")]
    Library {
        /// The unit.
        unit: String,
        /// What happened.
        source: super::RuntimeError,
    },
    /// No such provider, or none for this kind of processor.
    #[error(
        "unit {unit}: provider `{provider}` has no {kind} device in this ONNX Runtime; there is: {available}. \
         A plug-in provider needs `provider_library`"
    )]
    NoDevice {
        /// The unit.
        unit: String,
        /// The provider.
        provider: String,
        /// Kind of processor.
        kind: &'static str,
        /// What there is.
        available: String,
    },
    /// Zero threads.
    #[error("unit {unit}: `threads` is 0; at least 1")]
    NoThreads {
        /// The unit.
        unit: String,
    },
}

impl From<&UnitSpec> for ExecUnit {
    fn from(spec: &UnitSpec) -> Self {
        Self {
            name: spec.name.clone(),
            kind: spec.kind,
            provider: spec.provider.clone(),
            provider_library: spec.provider_library.clone(),
            provider_options: spec.provider_options.clone(),
            threads: spec.threads,
            cpus: spec.cpus.clone(),
        }
    }
}

impl ExecUnit {
    /// A unit of the CPU provider.
    #[must_use]
    pub fn cpu(name: &str, threads: u16) -> Self {
        Self {
            name: name.to_owned(),
            kind: UnitKind::Cpu,
            provider: CPU_PROVIDER.to_owned(),
            provider_library: None,
            provider_options: BTreeMap::new(),
            threads,
            cpus: Vec::new(),
        }
    }

    /// Whether it runs on ONNX Runtime's own CPU kernels.
    #[must_use]
    pub fn is_cpu_provider(&self) -> bool {
        self.provider == CPU_PROVIDER
    }

    /// Options for `SessionBuilder::with_devices`, which wants them prefixed with the provider's name.
    pub(super) fn device_options(&self) -> Vec<(String, String)> {
        let prefix = format!("{}.", self.provider);
        let for_provider = self.provider_options.iter().filter(|(key, _)| !is_session_key(key));
        for_provider
            .map(|(key, value)| {
                let key = if key.starts_with(&prefix) { key.clone() } else { format!("{prefix}{key}") };
                (key, value.clone())
            })
            .collect()
    }

    /// Options that are session configuration entries.
    pub(super) fn session_options(&self) -> impl Iterator<Item = (&str, &str)> {
        let entries = self.provider_options.iter().filter(|(key, _)| is_session_key(key));
        entries.map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Binds the calling thread, and the threads it makes from now on, to those of the unit's CPUs that are there. ONNX
    /// Runtime accepts bogus CPUs silently, so they are checked here.
    ///
    /// # Errors
    /// If none is online and allowed to this process, or the kernel refuses.
    pub fn pin_current_thread(&self) -> Result<(), UnitError> {
        if self.cpus.is_empty() {
            return Ok(());
        }
        let refused =
            |source| UnitError::Affinity { unit: self.name.clone(), cpus: self.cpus.clone(), source };
        let allowed = allowed_cpus().map_err(refused)?;
        let mut wanted = CpuSet::new();
        let mut any = false;
        for cpu in self.cpus.iter().filter(|cpu| allowed.contains(cpu)) {
            wanted.set(usize::from(*cpu)).map_err(refused)?;
            any = true;
        }
        if !any {
            let (unit, cpus, allowed) = (self.name.clone(), self.cpus.clone(), spans(&allowed));
            return Err(UnitError::NoCpu { unit, cpus, allowed });
        }
        sched_setaffinity(Pid::from_raw(0), &wanted).map_err(refused)
    }
}

/// CPUs that are online and that the operator, the cpuset and the kernel leave to this process: those of its main
/// thread, which is bound to none of its own accord. Ascending.
///
/// # Errors
/// The kernel's.
pub fn allowed_cpus() -> nix::Result<Vec<u16>> {
    let allowed = sched_getaffinity(Pid::this())?;
    let all = (0..MAX_CPUS).filter(|cpu| allowed.is_set(usize::from(*cpu)).unwrap_or(false));
    Ok(all.collect())
}

fn is_session_key(key: &str) -> bool {
    key.starts_with("session.") || key.starts_with("ep.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_split_and_prefixed_once() {
        let mut unit = ExecUnit::cpu("npu", 1);
        unit.provider = "XExecutionProvider".to_owned();
        for (key, value) in [("a", "1"), ("XExecutionProvider.b", "2"), ("session.c", "3"), ("ep.d", "4")] {
            unit.provider_options.insert(key.to_owned(), value.to_owned());
        }
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let device = vec![pair("XExecutionProvider.b", "2"), pair("XExecutionProvider.a", "1")];
        assert_eq!(unit.device_options(), device);
        assert_eq!(unit.session_options().collect::<Vec<_>>(), [("ep.d", "4"), ("session.c", "3")]);
    }

    #[test]
    fn a_unit_without_a_cpu_is_refused_by_name_and_the_mask_stays() {
        let unit = ExecUnit { cpus: vec![1000], ..ExecUnit::cpu("little", 1) };
        std::thread::spawn(move || {
            let before = sched_getaffinity(Pid::from_raw(0)).unwrap();
            let error = unit.pin_current_thread().unwrap_err().to_string();
            assert!(error.contains("little") && error.contains("[1000]"), "{error}");
            assert_eq!(sched_getaffinity(Pid::from_raw(0)).unwrap(), before);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn the_calling_thread_is_bound_to_those_of_the_unit_s_cpus_that_are_there() {
        let first = allowed_cpus().unwrap()[0];
        let unit = ExecUnit { cpus: vec![1000, first], ..ExecUnit::cpu("one", 1) };
        std::thread::spawn(move || {
            unit.pin_current_thread().unwrap();
            let bound = sched_getaffinity(Pid::from_raw(0)).unwrap();
            let bound: Vec<usize> = (0..CpuSet::count()).filter(|&cpu| bound.is_set(cpu).unwrap()).collect();
            assert_eq!(bound, [usize::from(first)]);
        })
        .join()
        .unwrap();
    }
}
