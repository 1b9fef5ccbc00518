//! The imitations of boards against a real kernel. scripts/vm-check boots one with devices of tests/vm, runs [`record`]
//! there, and so makes `tests/data/sysfs/linux-vm.tree` and what lies in `tests/data/kernel`; the other tests here hold a
//! board of text and a simulated board against that.

mod drive;
mod probe;
mod record;
mod target;

use std::path::Path;
use target::{Kernel, Plant, Target as _, Text};

const ANSWERS: &str = include_str!("../../data/kernel/answers");
const DRIVEN: &str = include_str!("../../data/kernel/driven");

/// Complains of all lines that differ, with the last `at` before them.
fn compare(kernel: &[&str], ours: &[String], whose: &str) {
    let mut at = "";
    let mut differences = Vec::new();
    for (index, line) in kernel.iter().enumerate() {
        if line.starts_with("at ") {
            at = line;
        }
        let own = ours.get(index).map_or("(nothing)", String::as_str);
        if own != *line {
            differences.push(format!("{at}\n  a kernel: {line}\n  {whose}: {own}"));
        }
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
    assert_eq!(ours.len(), kernel.len(), "{whose}: lines");
}

#[test]
#[ignore = "on the kernel that scripts/vm-check boots"]
fn record() {
    let folder = std::env::var("WATTD_KERNEL_RECORD").expect("the folder to write to");
    let lines = |found: Vec<String>| found.join("\n") + "\n";
    let write = |name: &str, text: String| std::fs::write(Path::new(&folder).join(name), text).unwrap();
    write("linux-vm.tree", record::tree(Path::new("/")));
    write("driven", lines(drive::drive(Path::new("/"))));
    write("answers", lines(probe::answers(&Kernel)));
}

#[test]
fn a_board_of_text_answers_as_the_kernel_that_it_was_taken_from() {
    let Some(board) = Text::mount(&crate::tree::fixture("linux-vm")) else { return };
    compare(&ANSWERS.lines().collect::<Vec<_>>(), &probe::answers(&board), "a board of text");
}

#[test]
fn the_daemon_sees_and_sets_on_a_board_of_text_what_it_does_on_the_kernel() {
    let Some(board) = Text::mount(&crate::tree::fixture("linux-vm")) else { return };
    compare(&DRIVEN.lines().collect::<Vec<_>>(), &drive::drive(&board.root()), "a board of text");
}

#[test]
fn a_simulated_board_answers_as_a_kernel() {
    let Some(board) = Plant::start() else { return };
    let ours = probe::answers(&board);
    // It has no such battery, and fewer nodes; but what it has is as the kernel has it.
    let battery = "at class/power_supply type Battery";
    let kernel: Vec<&str> = ANSWERS.lines().take_while(|line| *line != battery).collect();
    let ours: Vec<String> = ours.into_iter().take_while(|line| !line.starts_with(battery)).collect();
    let mut position = 0;
    let shown = |line: &&str| {
        let same = ours.get(position).is_some_and(|own| own == *line);
        let lacks = line.starts_with("mode ") && !same;
        position += usize::from(!lacks);
        !lacks
    };
    let kernel: Vec<&str> = kernel.into_iter().filter(shown).collect();
    compare(&kernel, &ours, "a simulated board");
    assert!(board.sys().is_dir());
}
