//! What a sweep over the sensors costs on a board such as a Jetson Orin: zones, rails, clock domains, and what is
//! read once a second.
//!
//! `cargo bench --bench telemetry`. The target is 0.3 % of a core at ten sweeps a second: 300 us of processor time a
//! sweep, of all threads that take part. The tree is served over FUSE, so that descriptors are kept and values come from
//! elsewhere, as from a kernel; the time of the process that serves it is not counted, that of the kernel in between is.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

#[path = "../tests/detect/tree.rs"]
#[allow(dead_code, reason = "what measures it needs less than all")]
mod tree;

use nix::sys::resource::{UsageWho, getrusage};
use std::sync::Arc;
use wattd::board::Telemetry;
use wattd::board::sim::process::FixtureBoard;
use wattd::board::sysfs::{Roots, Sampler, SysfsBoard};
use wattd::time::{Clock as _, MonotonicClock};

/// Sweeps a second.
const RATE: f64 = 10.0;
/// Sweeps measured.
const SWEEPS: u32 = 2_000;

fn main() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let at = directory.path().join("board");
    // The board is served by a process of its own, whose time does not count.
    if let Some(mount) = std::env::args().nth(1).filter(|argument| argument.starts_with('/')) {
        return serve(std::path::Path::new(&mount));
    }
    let own = std::env::current_exe().expect("this program");
    let mut server = std::process::Command::new(own).arg(&at).spawn().expect("the board's process");
    let served = at.join("sys/class/hwmon/hwmon1/curr1_input");
    let mut patience = 500;
    while !served.exists() && patience > 0 {
        patience -= 1;
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    if served.exists() {
        let (inline, threaded) = (measure(&at, false), measure(&at, true));
        for (what, (cpu_us, wall_us)) in [("on one thread", inline), ("by a reader", threaded)] {
            println!(
                "a sweep {what}: {cpu_us:.1} us of processor time, {wall_us:.1} us in all, {:.3} % of a core at {RATE} Hz",
                cpu_us * RATE / 1e4
            );
        }
    } else {
        println!("skipped: no FUSE here");
    }
    let _ = server.kill();
    let _ = server.wait();
    let _ = nix::mount::umount2(&at, nix::mount::MntFlags::MNT_DETACH);
}

fn serve(at: &std::path::Path) {
    let board = FixtureBoard::mount(&tree::fixture("jetson-orin-nano"), at);
    if board.is_ok() {
        std::thread::sleep(std::time::Duration::from_secs(600));
    }
}

/// Processor and wall time of a sweep, in microseconds.
fn measure(at: &std::path::Path, threaded: bool) -> (f64, f64) {
    let spec = wattd::board::shipped::named("jetson-orin-nano").expect("shipped").expect("valid");
    let clock = Arc::new(MonotonicClock::start());
    let board = SysfsBoard::open(&spec, &Roots::below(at), clock.clone()).expect("opens");
    let telemetry = board.into_telemetry();
    let mut telemetry: Box<dyn Telemetry> =
        if threaded { Box::new(Sampler::start(telemetry).expect("a thread")) } else { Box::new(telemetry) };
    (0..20).for_each(|_| drop(telemetry.sample()));
    let (cpu, wall) = (processor_us(), clock.now());
    (0..SWEEPS).for_each(|_| drop(telemetry.sample()));
    let (cpu, wall) = (processor_us() - cpu, clock.now().since(wall));
    (cpu / f64::from(SWEEPS), wall.as_secs_f64() * 1e6 / f64::from(SWEEPS))
}

/// User and system time of this process.
fn processor_us() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("own usage");
    [usage.user_time(), usage.system_time()]
        .into_iter()
        .map(|time| time.tv_sec() as f64 * 1e6 + time.tv_usec() as f64)
        .sum()
}
