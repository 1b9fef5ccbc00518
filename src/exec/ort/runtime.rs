//! The ONNX Runtime library and its one environment per process.

use super::guarded;
use super::unit::{ExecUnit, UnitError};
use crate::core::catalog::UnitKind;
use ort::device::Device;
use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::memory::DeviceType;
use std::collections::BTreeMap;
use std::ffi::{CStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

/// The oldest ONNX Runtime whose API is enough (major, minor).
pub const MINIMUM_VERSION: (u32, u32) = (1, 24);

/// From this version on the Linux wheels carry telemetry that is on by default.
const TELEMETRY_VERSION: (u32, u32) = (1, 29);

const TELEMETRY_VARIABLE: &str = "ORT_DISABLE_TELEMETRY";
const LIBRARY_VARIABLE: &str = "ORT_DYLIB_PATH";

/// A library that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Who named it.
    pub origin: &'static str,
    /// Its path, or its name for the system's search path.
    pub path: PathBuf,
    /// Why it would not do.
    pub problem: String,
}

/// Why there is no runtime.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// No library would do.
    #[error(
        "no usable ONNX Runtime library (1.{} or newer is needed). Tried:\n{}\
         Run scripts/setup, or install ONNX Runtime and set `library` in [runtime] to its libonnxruntime.so",
        MINIMUM_VERSION.1, list(.tried)
    )]
    NoLibrary {
        /// What was tried, in order.
        tried: Vec<Attempt>,
    },
    /// The library loaded, but gave no environment.
    #[error("ONNX Runtime {library}: {message}")]
    Environment {
        /// The library.
        library: String,
        /// The library's words.
        message: String,
    },
    /// A provider's library could not be registered.
    #[error("provider library {path}: {message}")]
    ProviderLibrary {
        /// The library.
        path: PathBuf,
        /// The runtime's words.
        message: String,
    },
}

fn list(tried: &[Attempt]) -> String {
    if tried.is_empty() {
        return "  nothing: no path was given\n".to_owned();
    }
    let lines = tried.iter().map(|a| format!("  {} ({}): {}\n", a.path.display(), a.origin, a.problem));
    lines.collect()
}

/// Why the telemetry of ONNX Runtime could not be switched off.
#[derive(Debug, thiserror::Error)]
#[error("{TELEMETRY_VARIABLE} must be set before other threads run; this process has {threads}")]
pub struct TelemetryError {
    /// Threads of the process.
    pub threads: usize,
}

/// Switches the telemetry of ONNX Runtime off for this process and its children. The first thing in `main`.
///
/// # Errors
/// If the variable is not set yet and other threads run already: then setting it would be a data race.
#[allow(unsafe_code, reason = "set_var is unsafe in edition 2024")]
pub fn disable_telemetry() -> Result<(), TelemetryError> {
    if std::env::var_os(TELEMETRY_VARIABLE).is_some_and(|value| value == "1") {
        return Ok(());
    }
    // Without /proc nothing is proven: count as many.
    let threads = std::fs::read_dir("/proc/self/task").map_or(usize::MAX, Iterator::count);
    if threads != 1 {
        return Err(TelemetryError { threads });
    }
    // SAFETY: set_var is unsound only while another thread may read or write the environment. This is the
    // only thread of the process, as the kernel just said, and it makes none before the call returns.
    unsafe {
        std::env::set_var(TELEMETRY_VARIABLE, "1");
    }
    Ok(())
}

/// The runtime of the checkout that a program was built in.
fn of_checkout(program: &Path) -> Option<PathBuf> {
    let target = program.ancestors().find(|folder| folder.ends_with("target"))?;
    Some(target.parent()?.join(".wattd/onnxruntime"))
}

/// Where to look for the library.
#[derive(Debug, Clone, Default)]
pub struct LibraryCandidates {
    /// What the operator configured. If set, nothing else is tried: falling back to another build would
    /// silently lose the board's providers.
    pub configured: Option<PathBuf>,
    /// Value of `ORT_DYLIB_PATH`. If set and not empty, only this is tried after `configured`.
    pub environment: Option<OsString>,
    /// Folders to search for `libonnxruntime.so*`, and their `lib` subfolders.
    pub folders: Vec<PathBuf>,
}

impl LibraryCandidates {
    /// The operator's choice, this process's environment, then folders such as the one that set-up fills.
    #[must_use]
    pub fn from_environment(configured: Option<PathBuf>, folders: Vec<PathBuf>) -> Self {
        Self { configured, environment: std::env::var_os(LIBRARY_VARIABLE), folders }
    }

    /// The same with the folders of an installed daemon; for a program that was built in a checkout, what `scripts/setup`
    /// put there first.
    #[must_use]
    pub fn installed(configured: Option<PathBuf>) -> Self {
        let installed = ["/usr/lib/wattd", "/usr/local/lib/wattd"].map(PathBuf::from);
        let program = std::env::current_exe().unwrap_or_default();
        let folders = of_checkout(&program).into_iter().chain(installed).collect();
        Self::from_environment(configured, folders)
    }

    /// The libraries to try, in order, each with who named it.
    fn paths(&self) -> Vec<(&'static str, PathBuf)> {
        if let Some(path) = &self.configured {
            return vec![("[runtime] library", path.clone())];
        }
        if let Some(path) = self.environment.as_ref().filter(|path| !path.is_empty()) {
            return vec![(LIBRARY_VARIABLE, PathBuf::from(path))];
        }
        let mut paths = Vec::new();
        for folder in &self.folders {
            let found = libraries_in(folder).into_iter().chain(libraries_in(&folder.join("lib")));
            let before = paths.len();
            paths.extend(found.map(|path| ("set-up folder", path)));
            if paths.len() == before {
                // Nothing there: keep the path, so that the message says where one was expected.
                paths.push(("set-up folder", folder.join("lib").join("libonnxruntime.so")));
            }
        }
        paths.push(("system library path", PathBuf::from("libonnxruntime.so.1")));
        paths.push(("system library path", PathBuf::from("libonnxruntime.so")));
        paths
    }
}

/// `libonnxruntime.so*` in a folder, the plain name first, then by name.
fn libraries_in(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with("libonnxruntime.so"))
        })
        .collect();
    paths.sort();
    paths
}

/// Loads a library for a look at its version.
#[allow(unsafe_code, reason = "loading a library and calling its entry point")]
fn probe(path: &Path) -> Result<String, String> {
    // SAFETY: loading runs the library's initialisers. The path comes from the operator (configuration,
    // environment, set-up, system), who thereby trusts it with the process, as with any shared library.
    let library = unsafe { libloading::Library::new(path) }.map_err(|error| chain(&error))?;
    // SAFETY: `OrtGetApiBase` has had this signature in every ONNX Runtime.
    let entry =
        unsafe { library.get::<unsafe extern "C" fn() -> *const ort::sys::OrtApiBase>(b"OrtGetApiBase\0") }
            .map_err(|_| "is a library, but not ONNX Runtime: it has no OrtGetApiBase".to_owned())?;
    // SAFETY: the entry point takes nothing and returns a pointer to static data, or null.
    let base = unsafe { entry().as_ref() }.ok_or("OrtGetApiBase returned null")?;
    // SAFETY: per its documentation a null-terminated UTF-8 string that lives as long as the library.
    let version = unsafe { CStr::from_ptr((base.GetVersionString)()) }.to_string_lossy().into_owned();
    if parse_version(&version).is_none_or(|found| found < MINIMUM_VERSION) {
        let (major, minor) = MINIMUM_VERSION;
        return Err(format!("is ONNX Runtime {version}; {major}.{minor} or newer is needed"));
    }
    // Never unloaded: `ort` opens it again, and ONNX Runtime does not survive being unloaded.
    std::mem::forget(library);
    Ok(version)
}

fn chain(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| source.to_string())
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// ONNX Runtime: the library and the process's one environment. Lives as long as the process.
#[derive(Debug)]
pub struct OrtRuntime {
    environment: Environment,
    version: String,
    build: String,
    library: PathBuf,
    /// Registered provider libraries.
    providers: Mutex<BTreeMap<PathBuf, String>>,
}

static RUNTIME: OnceLock<OrtRuntime> = OnceLock::new();

impl OrtRuntime {
    /// Loads the first library that will do and makes the environment. Only the first call of a process
    /// loads one: a later call returns the same runtime whatever its candidates are.
    ///
    /// # Errors
    /// If no candidate will do (the error lists them and says how to get one), or the library that will
    /// do gives no environment.
    pub fn init(candidates: &LibraryCandidates) -> Result<&'static Self, RuntimeError> {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = RUNTIME.get() {
            return Ok(runtime);
        }
        let runtime = Self::load(candidates)?;
        Ok(RUNTIME.get_or_init(|| runtime))
    }

    fn load(candidates: &LibraryCandidates) -> Result<Self, RuntimeError> {
        let mut tried = Vec::new();
        for (origin, path) in candidates.paths() {
            match probe(&path) {
                Ok(version) => return Self::with_library(path, version),
                Err(problem) => tried.push(Attempt { origin, path, problem }),
            }
        }
        Err(RuntimeError::NoLibrary { tried })
    }

    fn with_library(library: PathBuf, version: String) -> Result<Self, RuntimeError> {
        let quiet = std::env::var_os(TELEMETRY_VARIABLE).is_some_and(|value| value == "1");
        if !quiet && parse_version(&version) >= Some(TELEMETRY_VERSION) {
            tracing::warn!(%version, "ONNX Runtime collects telemetry unless {TELEMETRY_VARIABLE}=1 is set");
        }
        let made = guarded(|| {
            let builder = ort::init_from(&library).map_err(|error| error.to_string())?;
            let builder = builder.with_name("wattd").with_telemetry(false);
            builder.build().map_err(|error| error.to_string())
        });
        let environment = made.map_err(|message| RuntimeError::Environment {
            library: format!("{version} at {}", library.display()),
            message,
        })?;
        // `ort` asks for everything and filters afterwards; the formatting alone costs more than a small run.
        environment.set_log_level(LogLevel::Warning);
        let build = guarded(|| Ok(ort::info().to_owned())).unwrap_or_default();
        tracing::info!(%version, library = %library.display(), "ONNX Runtime loaded");
        Ok(Self { environment, version, build, library, providers: Mutex::default() })
    }

    /// Version of the library, such as `1.28.0`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Version and build of the library: what an optimised graph depends on.
    #[must_use]
    pub fn build(&self) -> &str {
        &self.build
    }

    /// Where the library was found.
    #[must_use]
    pub fn library(&self) -> &Path {
        &self.library
    }

    /// The process's one environment, for tools that need a session of their own.
    #[must_use]
    pub const fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Registers a plug-in provider library; a second time for the same file is a no-op.
    ///
    /// # Errors
    /// If the file is missing or the runtime refuses it.
    pub fn register_provider_library(&self, path: &Path) -> Result<(), RuntimeError> {
        let refused = |message| RuntimeError::ProviderLibrary { path: path.to_owned(), message };
        let real = path.canonicalize().map_err(|error| refused(error.to_string()))?;
        let mut providers = self.providers.lock().unwrap_or_else(PoisonError::into_inner);
        if providers.contains_key(&real) {
            return Ok(());
        }
        let name = format!("wattd-{}", providers.len());
        let registered = guarded(|| {
            self.environment.register_ep_library(name.as_str(), &real).map_err(|error| error.to_string())
        });
        registered.map_err(refused)?;
        tracing::info!(library = %real.display(), devices = %self.available(), "provider library registered");
        providers.insert(real, name);
        Ok(())
    }

    /// What there is, such as `CPUExecutionProvider on cpu`.
    #[must_use]
    pub fn available(&self) -> String {
        let devices = self.environment.devices();
        let names = devices.map(|device| {
            format!("{} on {}", device.ep().unwrap_or("?"), device_name(device.hardware_device().ty()))
        });
        names.collect::<Vec<_>>().join(", ")
    }

    /// Execution providers, each with a kind of processor that it runs on.
    #[must_use]
    pub fn offers(&self) -> Vec<(String, UnitKind)> {
        let mut offers = Vec::new();
        for device in self.environment.devices() {
            let kind = match device.hardware_device().ty() {
                DeviceType::CPU => UnitKind::Cpu,
                DeviceType::GPU => UnitKind::Gpu,
                DeviceType::NPU => UnitKind::Npu,
                _ => continue,
            };
            let offer = (device.ep().unwrap_or("?").to_owned(), kind);
            if !offers.contains(&offer) {
                offers.push(offer);
            }
        }
        offers
    }

    /// The device that runs a unit: the provider's first one of the unit's kind.
    pub(super) fn device(&self, unit: &ExecUnit) -> Result<Device<'_>, UnitError> {
        let wanted = match unit.kind {
            UnitKind::Cpu => DeviceType::CPU,
            UnitKind::Gpu => DeviceType::GPU,
            UnitKind::Npu => DeviceType::NPU,
        };
        let mut devices = self.environment.devices();
        let found = devices.find(|device| {
            device.ep().is_ok_and(|ep| ep == unit.provider) && device.hardware_device().ty() == wanted
        });
        found.ok_or_else(|| UnitError::NoDevice {
            unit: unit.name.clone(),
            provider: unit.provider.clone(),
            kind: device_name(wanted),
            available: self.available(),
        })
    }
}

fn device_name(kind: DeviceType) -> &'static str {
    match kind {
        DeviceType::CPU => "cpu",
        DeviceType::GPU => "gpu",
        DeviceType::NPU => "npu",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configured(path: &Path) -> LibraryCandidates {
        LibraryCandidates { configured: Some(path.to_owned()), ..LibraryCandidates::default() }
    }

    #[test]
    fn what_was_tried_and_what_to_do_is_in_the_message() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("libonnxruntime.so.9"), "not a library").unwrap();
        let empty = folder.path().join("empty");
        let candidates = LibraryCandidates {
            folders: vec![folder.path().to_owned(), empty],
            ..LibraryCandidates::default()
        };
        let paths: Vec<PathBuf> = candidates.paths().into_iter().map(|(_, path)| path).collect();
        let expected =
            ["libonnxruntime.so.9", "empty/lib/libonnxruntime.so"].map(|name| folder.path().join(name));
        assert_eq!(paths[..2], expected);
        assert_eq!(paths[2..], ["libonnxruntime.so.1", "libonnxruntime.so"].map(PathBuf::from));
        let tried: Vec<Attempt> = candidates.paths()[..2]
            .iter()
            .map(|(origin, path)| Attempt { origin, path: path.clone(), problem: probe(path).unwrap_err() })
            .collect();
        let text = RuntimeError::NoLibrary { tried }.to_string();
        for part in ["libonnxruntime.so.9", "empty/lib", "scripts/setup", "[runtime]", "1.24"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn the_operator_s_choice_stands_alone() {
        let mut candidates = LibraryCandidates {
            configured: Some(PathBuf::from("/a")),
            environment: Some("/b".into()),
            folders: vec![PathBuf::from("/c")],
        };
        assert_eq!(candidates.paths(), [("[runtime] library", PathBuf::from("/a"))]);
        candidates.configured = None;
        assert_eq!(candidates.paths(), [("ORT_DYLIB_PATH", PathBuf::from("/b"))]);
        candidates.environment = Some("".into());
        assert_eq!(candidates.paths()[0].1, PathBuf::from("/c/lib/libonnxruntime.so"));
    }

    #[test]
    fn another_library_is_told_apart_and_a_missing_one_named() {
        let other =
            ["/lib/x86_64-linux-gnu/libm.so.6", "/lib/aarch64-linux-gnu/libm.so.6", "/lib64/libm.so.6"];
        if let Some(path) = other.iter().map(Path::new).find(|path| path.exists()) {
            let error = OrtRuntime::load(&configured(path)).unwrap_err().to_string();
            assert!(error.contains("not ONNX Runtime"), "{error}");
        }
        let error = OrtRuntime::load(&configured(Path::new("/no/such/lib.so"))).unwrap_err().to_string();
        assert!(error.contains("/no/such/lib.so ([runtime] library): "), "{error}");
    }

    #[test]
    fn a_program_of_a_checkout_has_its_runtime_there() {
        let at = |program: &str| of_checkout(Path::new(program));
        assert_eq!(at("/src/wattd/target/debug/wattctl"), Some("/src/wattd/.wattd/onnxruntime".into()));
        assert_eq!(at("/usr/bin/wattctl"), None);
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(parse_version("1.9.2") < Some(MINIMUM_VERSION));
        assert!(parse_version("1.24.1") >= Some(MINIMUM_VERSION));
        assert!(parse_version("2.0.0") >= Some(MINIMUM_VERSION));
        assert_eq!(parse_version("dev"), None);
    }
}
