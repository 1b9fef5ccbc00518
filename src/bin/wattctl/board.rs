//! `board`: from arguments to a look over the board, and a board file.

use crate::args::BoardArgs;
use crate::terminal::{print, print_json};
use crate::{Done, Failure};
use anyhow::{Context as _, anyhow};
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use wattd::board::detect::{Accelerator, Places, draft};
use wattd::board::sysfs::Roots;
use wattd::ctl::board::{Look, Providers};
use wattd::exec::ort::{LibraryCandidates, OrtRuntime, disable_telemetry};

/// Shows what the board has, and writes a board file if asked to.
pub(crate) fn board(args: &BoardArgs) -> Done {
    let places = match (&args.root, &args.sysfs_root) {
        (Some(root), _) => Places::below(root),
        (None, Some(sys)) => Places { roots: Roots::with_sys(sys.clone()), ..Places::default() },
        (None, None) => Places::default(),
    };
    // The libraries of another root are not for this machine.
    let asked = args.root.is_none() || args.library.is_some() || !args.provider_library.is_empty();
    let providers = asked.then(|| providers(args.library.as_deref(), &args.provider_library)).transpose()?;
    let look = Look::over(&places, providers).map_err(|error| Failure::Input(error.into()))?;
    if args.json {
        print_json(&look)?;
    } else {
        print(&look.text())?;
    }
    match &args.write {
        Some(file) => write(file, &look, args.json),
        None => Ok(()),
    }
}

/// What the runtime offers by itself, and with plug-ins. That there is no runtime is shown, and no failure.
fn providers(library: Option<&Path>, plug_ins: &[PathBuf]) -> Result<Providers, Failure> {
    let none = |problem: String| Providers { problem: Some(problem), ..Providers::default() };
    // Before the library makes threads.
    if let Err(error) = disable_telemetry() {
        return Ok(none(error.to_string()));
    }
    let runtime = match OrtRuntime::init(&LibraryCandidates::installed(library.map(Path::to_owned))) {
        Ok(runtime) => runtime,
        Err(error) => return Ok(none(error.to_string())),
    };
    let mut devices: Vec<Accelerator> = Vec::new();
    let mut add = |library: Option<PathBuf>| {
        for (provider, kind) in runtime.offers() {
            if !devices.iter().any(|known| known.provider == provider && known.kind == kind) {
                devices.push(Accelerator { provider, kind, library: library.clone() });
            }
        }
    };
    add(None);
    for plug_in in plug_ins {
        runtime.register_provider_library(plug_in).map_err(|error| Failure::Input(error.into()))?;
        add(Some(plug_in.canonicalize().unwrap_or_else(|_| plug_in.clone())));
    }
    let (library, version) = (Some(runtime.library().to_owned()), Some(runtime.version().to_owned()));
    Ok(Providers { library, version, devices, problem: None })
}

fn write(file: &Path, look: &Look, quietly: bool) -> Done {
    let name = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let devices = look.providers.as_ref().map_or(&[][..], |providers| &providers.devices);
    let text = draft(name, &look.found, look.nearest.as_ref(), devices)
        .map_err(|error| Failure::Input(error.into()))?;
    // What stands there may hold somebody's measurements.
    let made = OpenOptions::new().write(true).create_new(true).open(file);
    let mut out = made.map_err(|error| {
        let hint =
            if error.kind() == ErrorKind::AlreadyExists { ": name a file that is not there" } else { "" };
        Failure::Input(anyhow!("--write {}: {error}{hint}", file.display()))
    })?;
    out.write_all(text.as_bytes()).with_context(|| format!("--write {}", file.display()))?;
    if !quietly {
        print(&format!("written to {}: name it in [board] of the configuration\n", file.display()))?;
    }
    Ok(())
}
