use super::*;
use crate::board::sim::accelerator::{Accelerator, SimError};
use crate::board::sim::work::{Precision, Work};
use crate::core::catalog::UnitId;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

const SHORT: Work = Work::of_size(1000, 1000, Precision::Fp32, 1);
/// Work of centuries: only a cancel can end it.
const ENDLESS: Work = Work::of_size(u64::MAX, 1, Precision::Fp32, 1);

fn served() -> Served {
    Served::start("jetson-tx2", true, |_| {})
}

fn running(served: &Served) -> usize {
    served.process.board().with(|plant, now| {
        plant.advance(now);
        plant.running()
    })
}

/// Waits for another thread or process to have done something; the test's own time limit bounds it.
fn until(what: impl Fn() -> bool) {
    while !what() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

#[test]
fn a_run_over_the_socket_gives_the_boards_latency_and_energy() {
    let served = served();
    let remote = served.remote();
    let gpu = UnitId(2);
    let result = remote.begin(gpu, SHORT).unwrap().wait().unwrap();
    // The launch overhead of 800 us, and next to nothing beside it.
    assert!((800..900).contains(&result.latency.as_micros()), "{result:?}");
    assert!(result.energy.0 > 0);
    // The connection serves again.
    for _ in 0..3 {
        remote.begin(gpu, SHORT).unwrap().wait().unwrap();
    }
    let stats = remote.stats().unwrap();
    assert_eq!(stats.finished, 4);
    assert!(stats.input_j > 0.0);
}

#[test]
fn two_lanes_run_at_once_and_one_processor_only_once() {
    let served = served();
    let remote = served.remote();
    let gpu = remote.begin(UnitId(2), ENDLESS).unwrap();
    let cpu = remote.begin(UnitId(0), ENDLESS).unwrap();
    assert_eq!(running(&served), 2);
    let refused = remote.begin(UnitId(1), SHORT).err().unwrap();
    assert!(matches!(&refused, SimError::Refused(reason) if reason.contains("busy")), "{refused}");
    assert!(matches!(remote.begin(UnitId(7), SHORT).err().unwrap(), SimError::Refused(_)));
    gpu.canceller().cancel();
    assert_eq!(gpu.wait(), Err(SimError::Cancelled));
    drop(cpu);
    until(|| running(&served) == 0);
}

#[test]
fn a_cancel_ends_a_wait_that_another_thread_is_in() {
    let served = served();
    let remote = served.remote();
    let run = remote.begin(UnitId(2), ENDLESS).unwrap();
    let cancel = run.canceller();
    let waiter = std::thread::spawn(move || run.wait());
    cancel.cancel();
    assert_eq!(waiter.join().unwrap(), Err(SimError::Cancelled));
    assert_eq!(running(&served), 0);
}

#[test]
fn a_cancel_that_comes_too_late_hits_no_other_run() {
    let served = served();
    let remote = served.remote();
    let first = remote.begin(UnitId(2), SHORT).unwrap();
    let late = first.canceller();
    until(|| first.finished());
    first.wait().unwrap();
    let second = remote.begin(UnitId(2), SHORT).unwrap();
    late.cancel();
    second.wait().unwrap();
}

#[test]
fn the_run_of_a_client_that_vanishes_is_aborted_and_its_clocks_stay_as_they_were() {
    let served = served();
    let gpu = crate::core::catalog::DomainId(1);
    served.process.board().with(|plant, now| {
        let clock = crate::units::Kilohertz(522_750);
        plant.set_bounds(now, gpu, crate::core::event::ClockBounds { min: clock, max: clock }).unwrap();
    });
    let remote = served.remote();
    let run = remote.begin(UnitId(2), ENDLESS).unwrap();
    assert_eq!(running(&served), 1);
    // As when the process is killed: the socket closes without a word.
    drop(run);
    drop(remote);
    until(|| running(&served) == 0);
    assert_eq!(served.process.board().stats().aborted, 1);
    assert_eq!(served.process.board().with(|plant, _| plant.clock(gpu).max.0), 522_750);
    // The next daemon finds the processor free.
    served.remote().begin(UnitId(2), SHORT).unwrap().wait().unwrap();
}

#[test]
fn a_board_that_vanishes_is_a_loss_and_one_that_returns_is_found_again() {
    let served = served();
    let remote = served.remote();
    let run = remote.begin(UnitId(2), ENDLESS).unwrap();
    let Served { process, directory } = served;
    let options = process.options.clone();
    let spec = process.board().spec();
    process.run(&AtomicBool::new(true)).unwrap();
    assert!(matches!(run.wait(), Err(SimError::Lost(_) | SimError::Cancelled)));
    assert!(matches!(remote.begin(UnitId(2), SHORT).err().unwrap(), SimError::Lost(_)));
    let again = Served { process: BoardProcess::start(spec, options).unwrap(), directory };
    remote.begin(UnitId(2), SHORT).unwrap().wait().unwrap();
    assert_eq!(again.process.board().stats().finished, 1);
}

#[test]
fn another_board_or_a_living_one_on_the_socket_is_refused() {
    let served = served();
    let error = RemoteAccelerator::connect(served.socket(), "rk3588", &served.units()).err().unwrap();
    assert!(error.to_string().contains("is board jetson-tx2"), "{error}");
    let options =
        ServeOptions { mount: served.directory.path().join("other"), ..served.process.options.clone() };
    let error = BoardProcess::start(served.process.board().spec(), options).err().unwrap();
    assert!(error.to_string().contains("served by another process"), "{error}");
}

#[test]
fn scripts_can_be_played_over_the_socket() {
    let served = served();
    let remote = served.remote();
    let error = remote.play("[[event]]\nat_s = 0\nset = \"rain\"\nto = 1").unwrap_err();
    assert!(error.to_string().contains("`rain`"), "{error}");
    remote.play("[[event]]\nat_s = 0\nset = \"extra_power_w\"\nto = 500").unwrap();
    let input = || {
        served.process.board().with(|plant, now| {
            plant.advance(now);
            plant.input_watts()
        })
    };
    assert!(input() > 500.0);
}

#[test]
fn clients_that_speak_nonsense_are_answered_or_cut_off() {
    let served = served();
    for (line, answer) in [
        ("{\"hello\":{\"version\":99}}\n", Some("version 99")),
        ("\"stats\"\n", Some("hello must come first")),
        ("what?\n", None),
    ] {
        let mut stream = UnixStream::connect(served.socket()).unwrap();
        stream.write_all(line.as_bytes()).unwrap();
        let mut reply = String::new();
        let length = BufReader::new(stream).read_line(&mut reply).unwrap_or(0);
        match answer {
            Some(text) => assert!(reply.contains(text), "{line}: {reply}"),
            None => assert_eq!(length, 0, "{reply}"),
        }
    }
    // Too many connections.
    let crowd: Vec<UnixStream> = (0..40).filter_map(|_| UnixStream::connect(served.socket()).ok()).collect();
    let mut reply = String::new();
    BufReader::new(crowd.last().unwrap()).read_line(&mut reply).unwrap();
    assert!(reply.contains("connections are open already"), "{reply}");
    drop(crowd);
    until(|| RemoteAccelerator::connect(served.socket(), "jetson-tx2", &served.units()).is_ok());
}

#[test]
fn a_socket_left_by_a_killed_board_is_replaced_and_a_file_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let spec = Arc::new(PlantSpec::from_board(&board("desktop")).unwrap());
    let board = SimBoard::new(spec, 1, MonotonicClock::shared());
    drop(Server::start(board.clone(), &path).unwrap());
    std::fs::write(&path, "x").unwrap();
    let error = Server::start(board, &path).err().unwrap();
    assert!(error.to_string().contains("not a socket"), "{error}");
}
