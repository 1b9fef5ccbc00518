//! Making a session: from the model file, checked against its hash, or from the cache of optimised graphs.

use super::{ExecUnit, OrtRuntime, OrtSettings, placement};
use crate::exec::VariantFile;
use crate::exec::cache::{CacheKey, GraphCache};
use crate::units::Bytes;
use ort::logging::LogLevel;
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use sha2::{Digest, Sha256};
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

/// Weights outside the model file are not covered by its hash, and could name any file of the machine:
/// ONNX Runtime is told to look for them where nothing is.
const NO_EXTERNAL_WEIGHTS: &str = "/proc/self/fdinfo/none";

/// The whole file, if it is a regular one, not too large, and the one that the manifest means.
fn read_model(variant: &VariantFile, max: u64) -> Result<Vec<u8>, String> {
    let VariantFile { path, sha256, .. } = variant;
    let about = |problem: String| format!("{}: {problem}", path.display());
    // Opening a named pipe would wait for ever.
    let mut open = OpenOptions::new();
    let file = open.read(true).custom_flags(nix::libc::O_NONBLOCK).open(path);
    let file = file.map_err(|error| about(error.to_string()))?;
    let metadata = file.metadata().map_err(|error| about(error.to_string()))?;
    if !metadata.is_file() {
        return Err(about("is not a regular file".to_owned()));
    }
    if metadata.len() > max {
        return Err(about(format!("has {} bytes; at most {max}", metadata.len())));
    }
    let mut model = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    // It may have grown since.
    let read = file.take(max.saturating_add(1)).read_to_end(&mut model);
    read.map_err(|error| about(error.to_string()))?;
    if model.len() as u64 > max {
        return Err(about(format!("has more than {max} bytes")));
    }
    let found = hex::encode(Sha256::digest(&model));
    if !found.eq_ignore_ascii_case(sha256) {
        return Err(about(format!("its SHA-256 is {found}, but the manifest says {sha256}")));
    }
    Ok(model)
}

/// A session.
#[derive(Debug)]
pub(super) struct Resident {
    pub(super) session: Session,
    /// Bytes of the graph, or of the model it was made of.
    pub(super) size: Bytes,
}

impl Resident {
    /// From the cache of optimised graphs if it is there, else from the model, which then goes into the cache
    /// and comes from there. A sound cached graph was made of the file that the manifest means, so that file is
    /// not even read.
    pub(super) fn open(
        runtime: &OrtRuntime,
        unit: &ExecUnit,
        settings: &OrtSettings,
        variant: &VariantFile,
    ) -> Result<Self, String> {
        // Graphs with nodes compiled for another provider cannot be saved.
        let cache = settings.cache.as_deref().filter(|_| unit.is_cpu_provider());
        // Session options can change what the optimiser does.
        let provider = format!("{} {:?}", unit.provider, unit.provider_options);
        let sha256 = variant.sha256.to_ascii_lowercase();
        let key = cache.map(|cache| (cache, cache.key(&sha256, runtime.build(), &provider)));
        if let Some((cache, key)) = &key
            && let Some(made) = from_cache(runtime, unit, variant, cache, key)
        {
            return Ok(made);
        }
        let model = read_model(variant, settings.max_file)?;
        if let Some((cache, key)) = &key
            && let Some(draft) = cache.draft(key)
        {
            let saving = builder(runtime, unit)?.with_optimized_model_path(draft.path());
            match saving.map_err(ort::Error::from).and_then(|mut builder| builder.commit_from_memory(&model))
            {
                Ok(session) if cache.publish(key, draft) => {
                    drop(session);
                    if let Some(made) = from_cache(runtime, unit, variant, cache, key) {
                        return Ok(made);
                    }
                }
                Ok(session) => return Ok(Self { session, size: Bytes(model.len() as u64) }),
                // The model, or the saving: without saving it shows which.
                Err(error) => tracing::debug!(variant = %variant.name, %error, "not cached"),
            }
        }
        let session =
            builder(runtime, unit)?.commit_from_memory(&model).map_err(|error| error.to_string())?;
        Ok(Self { session, size: Bytes(model.len() as u64) })
    }
}

/// A session on a cached graph. It could leave the weights where they are, at half of the memory, but they lie there
/// across the lines of the processor's cache, and with vectors as wide as a line a run takes 2 to 7 % longer.
fn from_cache(
    runtime: &OrtRuntime,
    unit: &ExecUnit,
    variant: &VariantFile,
    cache: &GraphCache,
    key: &CacheKey,
) -> Option<Resident> {
    let graph = cache.get(key)?;
    let session = builder(runtime, unit)
        .and_then(|mut builder| builder.commit_from_memory(&graph).map_err(|error| error.to_string()));
    match session {
        Ok(session) => Some(Resident { session, size: Bytes(graph.len() as u64) }),
        Err(error) => {
            tracing::warn!(variant = %variant.name, %error, "cached graph refused; building it anew");
            cache.remove(key);
            None
        }
    }
}

fn builder(runtime: &OrtRuntime, unit: &ExecUnit) -> Result<SessionBuilder, String> {
    let device = runtime.device(unit).map_err(|error| error.to_string())?;
    let options = unit.device_options();
    let build = || -> ort::Result<SessionBuilder> {
        let mut builder = SessionBuilder::new(runtime.environment())?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(usize::from(unit.threads))?
            .with_inter_threads(1)?
            .with_log_level(LogLevel::Warning)?
            // Spinning threads burn four times the energy at a moderate rate of requests, for no latency.
            .with_config_entry("session.force_spinning_stop", "1")?
            .with_config_entry("session.model_external_initializers_file_folder_path", NO_EXTERNAL_WEIGHTS)?;
        if !unit.is_cpu_provider() {
            builder = builder.with_config_entry(placement::RECORD_OPTION, "1")?;
        }
        for (key, value) in unit.session_options() {
            builder = builder.with_config_entry(key, value)?;
        }
        // Always an explicit device: without one every session moves to the first plug-in provider that
        // is registered, whoever asked for it.
        Ok(builder.with_devices([device], Some(&options))?)
    };
    build().map_err(|error| error.to_string())
}

/// Refuses a session that runs elsewhere than its unit says.
pub(super) fn check_placement(session: &Session, unit: &ExecUnit) -> Result<(), String> {
    let nodes = placement::nodes_by_provider(session)
        .map_err(|error| format!("cannot tell where the graph runs: {error}"))?;
    let here = nodes.get(&unit.provider).copied().unwrap_or(0);
    let all: usize = nodes.values().sum();
    if here == 0 {
        return Err(format!(
            "`{}` takes none of the graph's nodes: they would run on {nodes:?}",
            unit.provider
        ));
    }
    if here < all {
        tracing::warn!(unit = %unit.name, ?nodes, "part of the graph runs outside the unit's provider");
    }
    Ok(())
}
