//! What bringing models in and out of memory costs those who are served meanwhile, and who asks for one that is not
//! there: `scripts/bench --residency` makes the models and runs this.
//!
//! One daemon on the machine as it is. Requests come at a fixed rate over one connection, in quiet and while 100 MB are
//! loaded and let go of over and over; the phases alternate, so that what else the machine does falls on both. A latency
//! counts from when the request was due.
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

#[path = "../tests/harness/mod.rs"]
mod harness;

use harness::{Daemon, Inputs, Setup, eventually, inputs_of};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use wattd::ctl::load::target::{Ask, Target};
use wattd::ctl::rpc::Rpc;
use wattd::time::{Clock, MonotonicClock, Timestamp};
use wattd::units::Nanos;

const HEAVY: &str = "heavy";
/// Models that are served meanwhile, with the time between two requests.
const SERVED: [(&str, Nanos); 2] = [("mlp", Nanos::from_millis(5)), ("mobile5ms", Nanos::from_millis(40))];
/// Pairs of phases, quiet and loading, and the length of a phase.
const ROUNDS: usize = 8;
const PHASE: Nanos = Nanos::from_secs(4);
/// Requests of each kind in the table of switches.
const SWITCHES: usize = 15;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let after = |flag: &str| arguments.iter().skip_while(|word| *word != flag).nth(1);
    let models = PathBuf::from(after("--models").map_or("target/residency-models", String::as_str));
    if arguments.iter().any(|argument| argument == "--test") || !models.join(HEAVY).exists() {
        return println!("nothing measured: scripts/bench --residency makes the models and runs this");
    }
    let rounds = after("--rounds").map_or(ROUNDS, |text| text.parse().unwrap());
    let mut setup = Setup::bare(&models);
    let graphs = setup.path("graphs");
    setup.set("runtime.cache_dir", graphs.display().to_string());
    setup.set("models.load", SERVED.map(|(name, _)| name.to_owned()).to_vec());
    setup.set("memory.cap_mb", 2_000);
    let daemon = setup.start();
    eventually("profiles", || daemon.models().models.iter().all(|model| !model.profiling).then_some(()));

    println!(
        "| served | every | loaded meanwhile | loads | one takes | quiet p50, p99 | meanwhile p50, p99 | p99 ratio |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (name, period) in SERVED {
        for cached in [true, false] {
            serve_while_loading(&daemon, &models, (name, period), (!cached).then_some(&graphs), rounds);
        }
    }
    switches(&daemon, &models);
    memory(&daemon);
    daemon.stop();
}

/// A row of the first table. `forget`: the optimised graphs, which are deleted before every load.
fn serve_while_loading(
    daemon: &Daemon<'_>,
    models: &Path,
    (name, period): (&str, Nanos),
    forget: Option<&PathBuf>,
    rounds: usize,
) {
    let inputs = inputs_of(models, name);
    let (mut quiet, mut busy, mut loads) = (Vec::new(), Vec::new(), Vec::new());
    // The first round warms up and is not counted.
    for round in 0..=rounds {
        let calm = serve(daemon, &inputs, period, PHASE);
        let stop = AtomicBool::new(false);
        let (meanwhile, took) = std::thread::scope(|scope| {
            let loader = scope.spawn(|| load_over_and_over(daemon, forget, &stop));
            let meanwhile = serve(daemon, &inputs, period, PHASE);
            stop.store(true, Ordering::Relaxed);
            (meanwhile, loader.join().unwrap())
        });
        if round > 0 {
            quiet.extend(calm);
            busy.extend(meanwhile);
            loads.extend(took);
        }
    }
    let ratio = quantile(&mut busy, 0.99) / quantile(&mut quiet, 0.99);
    let kind = if forget.is_some() { "100 MB, graph optimised" } else { "100 MB, graph from the cache" };
    println!(
        "| {name} | {} ms | {kind} | {} | {:.0} ms | {:.2}, {:.2} ms | {:.2}, {:.2} ms | {ratio:.2} |",
        period.as_micros() / 1000,
        loads.len(),
        quantile(&mut loads, 0.5),
        quantile(&mut quiet, 0.5),
        quantile(&mut quiet, 0.99),
        quantile(&mut busy, 0.5),
        quantile(&mut busy, 0.99),
    );
}

/// Latencies, ms, of requests at a fixed rate.
fn serve(daemon: &Daemon<'_>, inputs: &Inputs, period: Nanos, span: Nanos) -> Vec<f64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let rpc = Rpc::connect(&daemon.socket, 1).await.unwrap();
        let clock = MonotonicClock::start();
        let (mut latencies, mut due) = (Vec::new(), Timestamp::ZERO);
        while due < Timestamp::ZERO.after(span) {
            tokio::time::sleep(due.since(clock.now()).into()).await;
            rpc.infer_in_full(inputs.ask(0, 1)).await.unwrap();
            latencies.push(milliseconds(clock.now().since(due)));
            due = due.after(period);
        }
        latencies
    })
}

/// Loads the heavy model and lets go of it until told to stop; how long each load took, ms.
fn load_over_and_over(daemon: &Daemon<'_>, forget: Option<&PathBuf>, stop: &AtomicBool) -> Vec<f64> {
    let clock = MonotonicClock::start();
    let mut took = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        if let Some(folder) = forget {
            std::fs::read_dir(folder)
                .unwrap()
                .for_each(|entry| std::fs::remove_file(entry.unwrap().path()).unwrap());
        }
        let before = clock.now();
        bring(daemon, HEAVY, true);
        took.push(milliseconds(clock.now().since(before)));
        bring(daemon, HEAVY, false);
    }
    took
}

/// Has a model loaded or let go of, and waits for it.
fn bring(daemon: &Daemon<'_>, name: &str, resident: bool) {
    let action = if resident { "load" } else { "unload" };
    daemon.post(&format!("/v2/repository/models/{name}/{action}"), &serde_json::json!({})).unwrap();
    let path = format!("/v2/models/{name}/ready");
    // Rarely: asking takes processor time from those who are served.
    for _ in 0..3_000 {
        if daemon.try_get(&path).is_ok() == resident {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{name} is not {action}ed:\n{}", daemon.log());
}

/// The second table: what it costs to be the first to ask for another variant.
fn switches(daemon: &Daemon<'_>, models: &Path) {
    println!("\n| a request for | p50 | highest |\n|---|---|---|");
    let (mlp, mobile, heavy) = ("mlp", "mobile5ms", HEAVY);
    let of = |name: &str| inputs_of(models, name).ask(0, 1);
    for (what, before, ask) in [
        ("mlp after mlp", mlp, of(mlp)),
        ("mlp after mobile5ms, both in memory", mobile, of(mlp)),
        ("mobile5ms after mobile5ms", mobile, of(mobile)),
        ("mobile5ms after mlp, both in memory", mlp, of(mobile)),
    ] {
        let other = of(before);
        row(what, || {
            daemon.infer(other.clone());
            timed(daemon, ask.clone())
        });
    }
    for (what, name) in [
        ("mlp, out of memory", mlp),
        ("mobile5ms, out of memory", mobile),
        ("heavy (100 MB), out of memory", heavy),
    ] {
        row(what, || {
            bring(daemon, name, false);
            timed(daemon, of(name))
        });
    }
    row("heavy (100 MB), in memory", || timed(daemon, of(heavy)));
}

fn row(what: &str, once: impl FnMut() -> f64) {
    let mut all: Vec<f64> = std::iter::repeat_with(once).take(SWITCHES).collect();
    println!("| {what} | {:.2} ms | {:.2} ms |", quantile(&mut all, 0.5), quantile(&mut all, 1.0));
}

/// Milliseconds of a request over a connection that is there.
fn timed(daemon: &Daemon<'_>, ask: Ask) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let rpc = Rpc::connect(&daemon.socket, 1).await.unwrap();
        rpc.status().await.unwrap();
        let clock = MonotonicClock::start();
        rpc.infer_in_full(ask).await.unwrap();
        milliseconds(clock.now().since(Timestamp::ZERO))
    })
}

/// What stays behind in memory when the heavy model is let go of.
fn memory(daemon: &Daemon<'_>) {
    bring(daemon, HEAVY, false);
    let before = resident_mb(daemon);
    let (mut with, mut after) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        bring(daemon, HEAVY, true);
        with.push(resident_mb(daemon));
        bring(daemon, HEAVY, false);
        after.push(resident_mb(daemon));
    }
    let shown = |all: &[f64]| all.iter().map(|mb| format!("{mb:.0}")).collect::<Vec<_>>().join(", ");
    println!(
        "\nresident memory of the daemon, MB: {before:.0} before; with heavy {}; after it {}",
        shown(&with),
        shown(&after)
    );
}

fn resident_mb(daemon: &Daemon<'_>) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0 / 1e6
}

fn milliseconds(span: Nanos) -> f64 {
    span.as_f64() / 1e6
}

/// The value below which that share of them lies.
fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index"
    )]
    let at = (values.len() as f64 * share).ceil() as usize;
    values[at.clamp(1, values.len()) - 1]
}
