//! Sockets that the service manager opened and passes on.

use crate::harness::{Setup, free_address};
use nix::sys::signal::Signal;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

/// Runs the daemon as systemd would: at the first client, with sockets that are open already.
fn activated(setup: &mut Setup, sockets: &[&str], names: &str) {
    let listen: String = sockets.iter().map(|socket| format!("-l {socket} ")).collect();
    let wattd = env!("CARGO_BIN_EXE_wattd");
    let script =
        format!("#!/bin/sh\nexec systemd-socket-activate {listen} --fdname={names} {wattd} \"$@\"\n");
    let path = setup.path("activate");
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    setup.binary(path);
}

fn can_activate() -> bool {
    let can = Command::new("systemd-socket-activate").arg("--version").output().is_ok();
    if !can {
        println!("skipped: systemd-socket-activate is not on this machine");
    }
    can
}

#[test]
fn clients_and_prometheus_come_by_sockets_that_are_open_already() {
    if !can_activate() {
        return;
    }
    let mut setup = Setup::new();
    let (address, other) = (free_address(), free_address());
    setup.models("tests/data/models").set("metrics.listen", other.as_str());
    let socket = setup.socket().display().to_string();
    activated(&mut setup, &[&socket, &address], "wattd.socket:metrics");
    let daemon = setup.start();
    assert_eq!(daemon.models().models.len(), 1);
    let mut stream = TcpStream::connect(&address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    assert!(page.contains("wattd_info{"), "{page}");
    TcpStream::connect(&other).expect_err("nothing listens at the configured address");
    daemon.signal(Signal::SIGTERM);
    let (code, log) = daemon.ends();
    assert_eq!(code, 0, "{log}");
    assert!(std::path::Path::new(&socket).exists(), "the socket is the service manager's");
}

#[test]
fn one_socket_too_many_is_refused() {
    if !can_activate() {
        return;
    }
    let mut setup = Setup::new();
    setup.models("tests/data/models");
    let (socket, second) = (setup.socket().display().to_string(), setup.path("second").display().to_string());
    activated(&mut setup, &[&socket, &second], "wattd.socket:other");
    setup.write();
    let daemon = setup.launch();
    crate::harness::eventually("the socket", || std::os::unix::net::UnixStream::connect(&socket).ok());
    let (code, log) = daemon.ends();
    assert_eq!(code, 1, "{log}");
    assert!(log.contains("socket 1 (\"other\")") && log.contains("\"metrics\""), "{log}");
}
