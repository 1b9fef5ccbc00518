//! The daemon: wiring, shutdown, reload.
//!
//! ```text
//!  clients ── api ──┐ submit            ┌── lane-<unit> (one per unit) ── exec
//!                   ▼                   ▼
//!  sensors ───▶ Engine { lock: Core } ◀─── completions
//!                   │  ▲
//!                   ▼  └── timer
//!                clocks (actuator)
//! ```

mod backend;
mod engine;
mod learned;
mod profiling;
mod rollout;
mod routes;
mod setup;
mod shelf;
mod trials;
mod view;
mod workers;

use crate::api;
use crate::config::Config;
use crate::core::Core;
use crate::core::catalog::{ModelId, Provenance};
use crate::core::event::Event;
use crate::journal::{self, Recorder};
use crate::model::ModelStore;
use crate::model::catalog::Tables;
use crate::model::store::LoadedModel;
use crate::model::versions::{Home, Versions};
use crate::observe::logging::LogHandle;
use crate::observe::{Names, Observer};
use crate::time::MonotonicClock;
use crate::units::Nanos;
use arc_swap::ArcSwap;
use backend::Daemon;
use engine::{Engine, Shown};
use learned::LearnedStore;
use rollout::Desk;
use shelf::{LaidOut, Shelf};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

pub use engine::Engine as DaemonEngine;
pub use setup::StartError;

/// How often what was learned is written down.
const SAVE_EVERY: Duration = Duration::from_secs(300);
/// Longest wait for running requests at the end.
const DRAIN: Duration = Duration::from_secs(10);

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// If it cannot start. Once it serves, trouble is logged and lived with.
pub fn run(config: Config, log: &LogHandle) -> Result<(), StartError> {
    let clock = MonotonicClock::shared();
    make_folder(&config.state_dir)?;
    // From here on a signal means a good end: clocks may be changed soon.
    let api = start_api()?;
    let signals = api.block_on(async { Signals::new() }).map_err(io("signals"))?;
    let board = setup::open_board(&config, &clock)?;
    let runtime = setup::open_runtime(&config)?;
    let shelf = Shelf::open(&config, &board, runtime)?;
    let models = Collection::open(&config, &shelf);
    report_problems(&board, &models, &config);
    let engine = Arc::new(make_engine(&config, &models, &clock)?);
    for (variant, unit, reason) in &models.laid_out.refused {
        engine.probes.refuse(*variant, *unit, reason.clone());
    }
    let events: Arc<dyn crate::exec::lane::LaneEvents> = engine.clone();
    let lanes =
        setup::start_lanes(&config, &board, &models.laid_out.tables.catalog, runtime, &events, &clock)?;
    engine.attach_lanes(lanes);
    let learned = Arc::new(learned_store(&config, &board));
    if let Some(learned) = learned.load(&engine.hashes()) {
        engine.feed(Event::Restored(Box::new(learned)));
    }

    let daemon = Arc::new(Daemon {
        engine: Arc::clone(&engine),
        page: engine.state().observer.page(),
        fixed: fixed(&board, &models),
        rollouts: Arc::new(Desk::new(models.versions.clone())),
        config: Arc::new(ArcSwap::from_pointee(config.clone())),
    });
    let stop = Arc::new(AtomicBool::new(false));
    let workers = start_workers(&config, &daemon, board, (models, shelf), &stop)?;
    order_models(&config, &engine);
    keep_learned(&api, &engine, &learned);
    let served = serve(&config, &daemon, log, &api, signals);
    shut_down(&daemon, &stop, workers);
    save(&engine, &learned);
    served
}

/// The models, and where their versions are.
struct Collection {
    installed: Vec<LoadedModel>,
    /// Those that serve, and where each is.
    loaded: Vec<LoadedModel>,
    homes: Vec<Home>,
    laid_out: LaidOut,
    versions: Versions,
    problems: Vec<String>,
}

impl Collection {
    fn open(config: &Config, shelf: &Shelf) -> Self {
        let store = ModelStore::new(config.models.rules.clone());
        let (installed, found) = store.open(&config.models.dirs);
        let (versions, left) = Versions::open(&config.state_dir.join("versions"), store);
        let (loaded, homes, failed) = rollout::in_force(&installed, &versions);
        let problems = found.iter().map(ToString::to_string).chain(left).chain(failed).collect();
        let laid_out = shelf.lay_out(&loaded, (0, 0));
        Self { installed, loaded, homes, laid_out, versions, problems }
    }
}

fn learned_store(config: &Config, board: &setup::OpenBoard) -> LearnedStore {
    let units = board.board.units.iter().map(|unit| unit.name.clone()).collect();
    LearnedStore::new(&config.state_dir, board.identity(), units)
}

/// Writes down from time to time what was learned: a power loss must not cost days of it.
fn keep_learned(runtime: &tokio::runtime::Runtime, engine: &Arc<Engine>, store: &Arc<LearnedStore>) {
    let (engine, store) = (Arc::clone(engine), Arc::clone(store));
    runtime.spawn(async move {
        loop {
            tokio::time::sleep(SAVE_EVERY).await;
            let (engine, store) = (Arc::clone(&engine), Arc::clone(&store));
            let _ = tokio::task::spawn_blocking(move || save(&engine, &store)).await;
        }
    });
}

fn save(engine: &Engine, store: &LearnedStore) {
    let learned = engine.state().core.estimates().learned();
    if let Err(error) = store.save(learned, &engine.hashes()) {
        tracing::warn!(%error, "what was learned is not stored");
    }
}

fn make_folder(path: &Path) -> Result<(), StartError> {
    let failed = |source| StartError::Io { what: format!("[state] dir {}", path.display()), source };
    std::fs::create_dir_all(path).map_err(failed)
}

fn make_engine(
    config: &Config,
    models: &Collection,
    clock: &Arc<dyn crate::time::Clock>,
) -> Result<Engine, StartError> {
    let Tables { catalog, files, views } = models.laid_out.tables.clone();
    let now = clock.now();
    let versions: Vec<String> = views.iter().map(|view| view.version.clone()).collect();
    let classes: Vec<String> = config.budgets.classes.iter().map(|class| class.name.clone()).collect();
    let observer = Observer::new(Names::new(&catalog, &versions, &classes));
    let recorder = match &config.journal {
        None => None,
        Some(journal) => {
            make_folder(&journal.dir)?;
            let header = journal::header(now, catalog.clone(), config.budgets.clone());
            // Two files are kept, this run's and the one before.
            Some(Recorder::create(&journal.dir.join("events.jsonl"), journal.limit.0 / 2, &header)?)
        }
    };
    let core = Core::new(catalog, config.budgets.clone(), now);
    let loaded = models.loaded.iter().cloned().map(Arc::new).collect();
    let shown = Shown { views: Arc::new(views), loaded };
    Ok(Engine::new(core, observer, recorder, files, shown, Arc::clone(clock)))
}

fn fixed(board: &setup::OpenBoard, models: &Collection) -> view::Fixed {
    view::Fixed {
        board: board.status.clone(),
        missing: board.missing.clone(),
        problems: models.problems.clone(),
        panel: Arc::clone(&board.panel),
    }
}

fn report_problems(board: &setup::OpenBoard, models: &Collection, config: &Config) {
    tracing::info!(
        board = board.spec.name,
        simulated = board.status.simulated,
        synthetic = board.status.synthetic,
        "board"
    );
    board.missing.iter().for_each(|missing| tracing::warn!("board: {missing}"));
    models.problems.iter().for_each(|problem| tracing::error!("{problem}"));
    let known: Vec<&str> = models.loaded.iter().map(|model| model.name.as_str()).collect();
    config.check_model_names(&known).iter().for_each(|problem| tracing::warn!("{problem}"));
    if models.loaded.is_empty() {
        tracing::warn!(dirs = ?config.models.dirs, "no models: [models] dir holds no folder with a model.toml");
    }
}

/// The daemon's threads, in the order in which they are to be joined.
struct Workers {
    rollouts: JoinHandle<()>,
    profiler: JoinHandle<()>,
    sensors: JoinHandle<()>,
    timer: JoinHandle<()>,
    clocks: JoinHandle<()>,
    /// Released after the last of them.
    state: Option<crate::board::restore::journal::StateLock>,
}

fn start_workers(
    config: &Config,
    daemon: &Daemon,
    board: setup::OpenBoard,
    (models, shelf): (Collection, Shelf),
    stop: &Arc<AtomicBool>,
) -> Result<Workers, StartError> {
    let engine = &daemon.engine;
    let failed = |source| StartError::Io { what: "starting a thread".to_owned(), source };
    let setup::OpenBoard { mut telemetry, actuator, state, panel, .. } = board;
    // One sweep before the first request: the core begins with knowledge.
    engine.feed(Event::Sampled(telemetry.sample()));
    let background = profiling::Background {
        samples: models.laid_out.samples,
        store: shelf.profiles.clone(),
        keys: models.laid_out.keys,
        next_probe: 0,
    };
    let named = models.loaded.iter().zip(models.homes).enumerate();
    let rollouts = rollout::Rollouts {
        engine: Arc::clone(engine),
        desk: Arc::clone(&daemon.rollouts),
        config: Arc::clone(&daemon.config),
        versions: models.versions,
        shelf,
        known: named.map(|(i, (model, home))| ((model.name.clone(), home), ModelId::at(i))).collect(),
        installed: models.installed,
        trials: Vec::new(),
    };
    let (period, stop) = (config.board.sample_period, Arc::clone(stop));
    let of = |_: ()| Arc::clone(engine);
    let (a, b, c, d) = (of(()), of(()), of(()), of(()));
    Ok(Workers {
        state,
        clocks: workers::spawn("wattd-clocks", move || workers::actuate(&a, actuator)).map_err(failed)?,
        timer: workers::spawn("wattd-timer", move || workers::time(&b)).map_err(failed)?,
        sensors: workers::spawn("wattd-sensors", move || {
            workers::sense(&c, &mut *telemetry, &panel, period, &stop);
        })
        .map_err(failed)?,
        profiler: workers::spawn("wattd-profiler", move || background.run(&d)).map_err(failed)?,
        rollouts: workers::spawn("wattd-rollouts", move || rollouts.run()).map_err(failed)?,
    })
}

/// Brings in the models that are to be resident from the start, and profiles what has no profile.
fn order_models(config: &Config, engine: &Engine) {
    let wanted = |name: &String| config.models.load.contains(name);
    let views = Arc::clone(&engine.shown.load().views);
    for (index, view) in views.iter().enumerate() {
        if wanted(&view.name) {
            engine.feed(Event::Retain { model: ModelId::at(index), resident: true });
        }
    }
    if !config.profile.on_start {
        return;
    }
    for model in 0..views.len() {
        let unmeasured = {
            let state = engine.state();
            let catalog = state.core.catalog();
            catalog.models[model].variants.iter().any(|variant| {
                let profiles = catalog.variants[variant.index()].profiles.iter().flatten();
                profiles.into_iter().any(|profile| profile.latency_source == Provenance::Conservative)
            })
        };
        if unmeasured {
            engine.probes.order(ModelId::at(model), false);
        }
    }
}

/// Says what was tried when the system refused.
fn io(what: &str) -> impl FnOnce(std::io::Error) -> StartError {
    let what = what.to_owned();
    move |source| StartError::Io { what, source }
}

/// One worker: it only decodes, copies and writes. A second one wakes up beside it for every request, which costs a
/// tenth of the processor time of a small one and gains nothing.
fn start_api() -> Result<tokio::runtime::Runtime, StartError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("wattd-api")
        .enable_all()
        .build()
        .map_err(io("starting the API's threads"))
}

fn serve(
    config: &Config,
    daemon: &Arc<Daemon>,
    log: &LogHandle,
    runtime: &tokio::runtime::Runtime,
    mut signals: Signals,
) -> Result<(), StartError> {
    runtime.block_on(async {
        let mut options = options(config);
        let inherited = api::listener::inherited().map_err(io("the sockets that systemd passed"))?;
        options.inherited = inherited.unix;
        let bound = api::bind_all(&mut options)
            .map_err(|error| io(&error.to_string())(std::io::Error::other("not serving")))?;
        let (tell, stopped) = tokio::sync::watch::channel(false);
        let until = |mut stopped: tokio::sync::watch::Receiver<bool>| async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        if let Some(address) = config.metrics {
            let (backend, until) = (Arc::clone(daemon), until(stopped.clone()));
            tokio::spawn(async move {
                if let Err(error) = api::serve_metrics(inherited.metrics, address, backend, until).await {
                    tracing::error!(%error, "[metrics] listen: no metrics over TCP");
                }
            });
        } else if inherited.metrics.is_some() {
            tracing::warn!(
                "[metrics] listen is off, but systemd listens: systemctl mask wattd-metrics.socket"
            );
        }
        let backend: Arc<dyn api::backend::Backend> = Arc::clone(daemon) as _;
        let tcp = bound.tcp_address().map(|address| address.to_string());
        let server = tokio::spawn(api::serve_bound(bound, options, backend, until(stopped)));
        let socket = config.socket.path.display();
        tracing::info!(%socket, tcp, models = daemon.engine.shown.load().views.len(), "serving");
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        signals.handle(daemon, log).await;
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        daemon.engine.feed(Event::Drain);
        drain(&daemon.engine).await;
        let _ = tell.send(true);
        let _ = tokio::time::timeout(DRAIN, server).await;
        Ok(())
    })
}

fn options(config: &Config) -> api::Options {
    let socket = &config.socket;
    let whole = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    api::Options {
        socket: Some(socket.path.clone()),
        mode: socket.mode,
        group: socket.group.as_ref().map(|group| group.name.clone()),
        inherited: None,
        tcp: socket.tcp,
        operator_gids: socket.operators.iter().map(|group| group.gid).collect(),
        limits: api::Limits {
            connections: socket.max_connections as usize,
            connections_per_uid: socket.max_connections_per_app as usize,
            message_bytes: whole(socket.max_message.0),
            app_bytes: socket.max_in_flight_per_app.0,
            ..api::Limits::default()
        },
    }
}

/// What an operator or the service manager tells the daemon. Caught from the moment it is made.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Reloads on SIGHUP; returns on SIGTERM or SIGINT.
    async fn handle(&mut self, daemon: &Daemon, log: &LogHandle) {
        loop {
            tokio::select! {
                _ = self.hangup.recv() => reload(daemon, log),
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
            }
        }
    }
}

/// Takes over what may change while serving, and says what may not.
fn reload(daemon: &Daemon, log: &LogHandle) {
    let old = daemon.config.load_full();
    let new = match Config::load(&old.file) {
        Ok(new) => new,
        Err(problems) => {
            tracing::error!("the configuration is not reloaded:\n{problems}");
            return;
        }
    };
    let changes = old.changes(&new);
    let adopted = old.adopt(&new);
    if changes.budgets_changed() {
        daemon.engine.feed(Event::Reconfigured(Box::new(adopted.budgets.clone())));
    }
    if let Err(error) = log.set_filter(&adopted.log.filter) {
        tracing::error!(%error, "the log level is not changed");
    }
    daemon.config.store(Arc::new(adopted));
    tracing::info!(changed = ?changes.live, "configuration reloaded");
    if !changes.restart.is_empty() {
        tracing::warn!(keys = ?changes.restart, "these keys need a restart to take effect");
    }
}

/// Waits until nothing waits or runs any more, but not for ever.
async fn drain(engine: &Engine) {
    let idle = async {
        while !engine.state().core.is_idle() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(DRAIN, idle).await.is_err() {
        tracing::warn!("requests are still running; they are given up");
    }
}

fn shut_down(daemon: &Daemon, stop: &AtomicBool, workers: Workers) {
    let engine = &daemon.engine;
    stop.store(true, Ordering::Relaxed);
    daemon.rollouts.end();
    engine.probes.end();
    engine.end_lanes();
    engine.end();
    let Workers { rollouts, profiler, sensors, timer, clocks, state: _state } = workers;
    let all = [
        ("rollouts", rollouts),
        ("clocks", clocks),
        ("timer", timer),
        ("sensors", sensors),
        ("profiler", profiler),
    ];
    for (name, worker) in all {
        if worker.join().is_err() {
            tracing::error!(name, "a thread ended in a panic");
        }
    }
    // Ends the journal with its last check.
    engine.state().recorder = None;
    tracing::info!(uptime = ?Duration::from(Nanos(engine.now().0)), "stopped");
}
