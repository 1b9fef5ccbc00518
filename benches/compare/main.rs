//! wattd beside what does the same work with less, or with more, in one run: `scripts/bench` runs it.
//!
//! The rounds alternate between the servers and the table has the median round, so that what else the machine
//! does falls on all of them. Every server is a process of its own; its processor time is that of its threads
//! and children, without the client's. One client program loads them all.
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

mod bare;
mod client;
mod report;
mod servers;

#[allow(dead_code, reason = "a part of it is used here")]
#[path = "../../tests/harness/mod.rs"]
mod harness;
#[allow(dead_code, reason = "a part of it is used here")]
#[path = "../../tests/support/mod.rs"]
mod support;

use client::{Figures, Load};
use report::Cell;
use servers::Server;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Rounds of each server and load.
const ROUNDS: usize = 7;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let after = |flag: &str| -> Vec<&str> {
        let at = arguments.iter().enumerate().filter(|(_, argument)| *argument == flag);
        at.filter_map(|(at, _)| arguments.get(at + 1)).map(String::as_str).collect()
    };
    let models = PathBuf::from(after("--models").first().unwrap_or(&"target/bench-models"));
    if let Some(socket) = after("--serve-bare").first() {
        return bare::serve(Path::new(socket), &models);
    }
    if arguments.iter().any(|argument| argument == "--test") || !models.join("mlp/model.toml").exists() {
        return println!("nothing compared: scripts/bench makes the models and runs this");
    }
    let only = after("--only");
    let rounds = after("--rounds").first().map_or(ROUNDS, |text| text.parse().unwrap());
    let mut setups = servers::setups(&models, &after("--binary"));
    let mut servers = vec![Server::in_process(&models), Server::bare(&models)];
    servers.extend(setups.iter().map(Server::wattd));
    servers.extend(after("--peer").into_iter().map(Server::peer));

    println!("| work | server | median us | p99 us | requests/s | server CPU us/request |");
    println!("|---|---|---|---|---|---|");
    for load in Load::all().into_iter().filter(|load| only.is_empty() || only.contains(&load.key)) {
        compare(&load, &servers, rounds);
    }
    drop(servers);
    if only.is_empty() || only.contains(&"idle") {
        setups.iter_mut().for_each(|(name, setup)| report::idle(name, setup));
    }
}

/// Alternates the rounds of a load between the servers that can do it, and prints their medians.
fn compare(load: &Load, servers: &[Server], rounds: usize) {
    let able: Vec<&Server> = servers.iter().filter(|server| server.can(load)).collect();
    let mut all: Vec<Vec<Figures>> = able.iter().map(|_| Vec::new()).collect();
    // The first round warms up and is not counted.
    for round in 0..=rounds {
        for (server, figures) in able.iter().zip(&mut all) {
            let measured = server.run(load);
            figures.extend((round > 0).then_some(measured));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    for (server, figures) in able.iter().zip(all) {
        println!("| {} | {} | {} |", load.name, server.name, Cell::row(&figures));
    }
}
