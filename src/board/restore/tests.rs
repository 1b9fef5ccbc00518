//! Whatever happens between the first write and the restore, the clocks come back; what others set stays.

use super::journal::{Contents, Journal, Node, Role, StateLock, file};
use super::{JournalFate, NodeOutcome, RestoreError, RestoreReport, restore};
use crate::board::Actuator;
use crate::board::sysfs::kill::on::{after, cap, dead, fail, fail_write, revive, writes};
use crate::board::sysfs::tests::tree::{Tree, bounds, jetson};
use nix::errno::Errno;
use proptest::prelude::*;

const CPU_MIN: &str = "devices/system/cpu/cpufreq/policy0/scaling_min_freq";
const CPU_MAX: &str = "devices/system/cpu/cpufreq/policy0/scaling_max_freq";
const GPU_MIN: &str = "class/devfreq/17000000.ga10b/min_freq";
const GPU_MAX: &str = "class/devfreq/17000000.ga10b/max_freq";
const GOVERNOR: &str = "class/devfreq/17000000.ga10b/governor";
const CPU_POINTS: [u32; 3] = [115_200, 729_600, 1_510_400];
const GPU_POINTS: [u32; 3] = [306_000, 612_000, 1_020_000];

fn all(tree: &Tree) -> [String; 4] {
    [CPU_MIN, CPU_MAX, GPU_MIN, GPU_MAX].map(|node| tree.get(node))
}

/// The process is gone without having had a chance to do anything.
fn crash(actuator: crate::board::sysfs::SysfsActuator) {
    after(0);
    drop(actuator);
    revive();
}

fn restored(tree: &Tree) -> RestoreReport {
    restore(&tree.state(), &tree.roots()).unwrap()
}

fn outcome<'a>(report: &'a RestoreReport, node: &str) -> &'a NodeOutcome {
    &report.nodes.iter().find(|entry| entry.path.to_str() == Some(node)).unwrap().outcome
}

/// A Jetson whose daemon crashed with both domains pinned to the middle.
fn crashed() -> Tree {
    let tree = jetson();
    let mut actuator = tree.actuator();
    actuator.apply(&bounds(0, 2, 729_600, 729_600));
    actuator.apply(&bounds(1, 2, 612_000, 612_000));
    crash(actuator);
    assert_eq!(all(&tree), ["729600", "729600", "612000000", "612000000"]);
    tree
}

#[test]
fn a_crash_is_undone_once_and_a_second_restore_finds_nothing() {
    let tree = crashed();
    let report = restored(&tree);
    assert_eq!(all(&tree), ["115200", "1510400", "306000000", "1020000000"]);
    assert!(report.is_complete() && report.journal == JournalFate::Removed, "{report}");
    assert_eq!(*outcome(&report, GPU_MAX), NodeOutcome::Restored);
    assert_eq!(*outcome(&report, GOVERNOR), NodeOutcome::AsFound);
    let again = restored(&tree);
    assert!(again.is_empty() && again.nodes.is_empty(), "{again}");
}

#[test]
fn the_next_start_restores_before_anything_else() {
    let tree = crashed();
    let mut actuator = tree.actuator();
    assert_eq!(all(&tree), ["115200", "1510400", "306000000", "1020000000"]);
    assert_eq!(actuator.left_over().journal, JournalFate::Removed);
    actuator.apply(&bounds(1, 2, 306_000, 306_000));
    actuator.restore();
    assert_eq!(tree.get(GPU_MAX), "1020000000");
}

#[test]
fn a_running_daemon_is_not_disturbed() {
    let tree = jetson();
    let mut actuator = tree.actuator();
    actuator.apply(&bounds(1, 2, 612_000, 612_000));
    let error = restore(&tree.state(), &tree.roots()).unwrap_err();
    assert!(matches!(error, RestoreError::Held { .. }), "{error}");
    assert_eq!(tree.get(GPU_MAX), "612000000");
    let second = tree.board().into_parts(&tree.state()).map(|_| ()).unwrap_err();
    assert!(matches!(second, RestoreError::Held { .. }), "{second}");
}

#[test]
fn what_someone_else_set_is_left_and_named() {
    let tree = crashed();
    tree.put(GPU_MIN, "307000000");
    tree.put(GOVERNOR, "performance");
    let report = restored(&tree);
    assert_eq!(*outcome(&report, GPU_MIN), NodeOutcome::LeftAlone(Some("307000000".to_owned())));
    assert_eq!(*outcome(&report, GOVERNOR), NodeOutcome::LeftAlone(Some("performance".to_owned())));
    assert_eq!(all(&tree), ["115200", "1510400", "307000000", "1020000000"]);
    assert_eq!(tree.get(GOVERNOR), "performance");
    assert!(
        report.to_string().contains("set to 307000000 by someone else (originally 306000000)"),
        "{report}"
    );
    assert!(report.is_complete());
}

#[test]
fn a_lower_upper_bound_of_a_person_is_told_from_a_cap_by_writing_the_original() {
    let tree = crashed();
    // Plain files show what is written: no cap can be in force, so 500 MHz was a person.
    tree.put(GPU_MAX, "500000000");
    let report = restored(&tree);
    assert_eq!(*outcome(&report, GPU_MAX), NodeOutcome::LeftAlone(Some("500000000".to_owned())));
    assert_eq!(tree.get(GPU_MAX), "500000000");
    assert_eq!(tree.get(GPU_MIN), "306000000");
}

#[test]
fn a_cap_in_force_does_not_keep_the_original_from_being_written() {
    let tree = crashed();
    // Both bounds are pressed down to a cap below what was written: what the nodes hold is restored.
    for node in [GPU_MIN, GPU_MAX] {
        cap(tree.path(node), Some(500_000_000));
    }
    let report = restored(&tree);
    assert_eq!(*outcome(&report, GPU_MAX), NodeOutcome::Limited("500000000".to_owned()));
    assert_eq!(*outcome(&report, GPU_MIN), NodeOutcome::Restored);
    assert_eq!(report.journal, JournalFate::Removed);
    for node in [GPU_MIN, GPU_MAX] {
        cap(tree.path(node), None);
    }
    assert_eq!(all(&tree), ["115200", "1510400", "306000000", "1020000000"]);
}

#[test]
fn a_cap_that_makes_a_raised_bound_read_like_the_original_hides_nothing() {
    let tree = jetson();
    tree.put(GPU_MAX, "612000000");
    let mut actuator = tree.actuator();
    actuator.apply(&bounds(1, 2, 306_000, 1_020_000));
    crash(actuator);
    cap(tree.path(GPU_MAX), Some(612_000_000));
    restored(&tree);
    cap(tree.path(GPU_MAX), None);
    assert_eq!(tree.get(GPU_MAX), "612000000", "not the daemon's 1020 MHz");
}

#[test]
fn an_original_never_passes_a_bound_that_someone_else_set() {
    let tree = jetson();
    tree.put(GPU_MIN, "1020000000");
    let mut actuator = tree.actuator();
    actuator.apply(&bounds(1, 2, 306_000, 612_000));
    crash(actuator);
    // Someone lowers the upper bound below the original lower bound.
    tree.put(GPU_MAX, "500000000");
    let report = restored(&tree);
    assert_eq!((tree.get(GPU_MIN), tree.get(GPU_MAX)), ("500000000".to_owned(), "500000000".to_owned()));
    assert_eq!(*outcome(&report, GPU_MIN), NodeOutcome::Limited("500000000".to_owned()));
}

#[test]
fn a_node_that_refuses_keeps_the_journal_and_its_true_original() {
    let tree = crashed();
    fail_write(tree.path(GPU_MAX), Errno::EBUSY as i32);
    let report = restored(&tree);
    assert!(!report.is_complete() && report.journal == JournalFate::Kept, "{report}");
    assert!(
        matches!(outcome(&report, GPU_MAX), NodeOutcome::Failed(why) if why.contains("1020000000")),
        "{report}"
    );
    assert_eq!(tree.get(CPU_MAX), "1510400", "the others are back");
    // A start in this state must not take 612 MHz for the original.
    let mut actuator = tree.actuator();
    assert_eq!(actuator.left_over().journal, JournalFate::Kept);
    fail_write(tree.path(GPU_MAX), 0);
    actuator.apply(&bounds(1, 2, 306_000, 306_000));
    actuator.apply(&bounds(0, 2, 115_200, 115_200));
    actuator.restore();
    assert_eq!(all(&tree), ["115200", "1510400", "306000000", "1020000000"]);
    assert!(!file(&tree.state()).exists());
}

#[test]
fn a_node_that_cannot_be_read_or_is_gone_is_tried_again() {
    let tree = crashed();
    fail(tree.path(CPU_MAX), Errno::EBUSY as i32);
    let saved = tree.path("saved");
    std::fs::rename(tree.path("class/devfreq/17000000.ga10b"), &saved).unwrap();
    let report = restored(&tree);
    assert_eq!(report.journal, JournalFate::Kept);
    assert!(matches!(outcome(&report, CPU_MAX), NodeOutcome::Failed(_)));
    assert!(matches!(outcome(&report, GPU_MAX), NodeOutcome::Failed(_)));
    fail(tree.path(CPU_MAX), 0);
    std::fs::rename(&saved, tree.path("class/devfreq/17000000.ga10b")).unwrap();
    assert_eq!(restored(&tree).journal, JournalFate::Removed);
    assert_eq!(all(&tree), ["115200", "1510400", "306000000", "1020000000"]);
}

#[test]
fn after_a_reboot_the_journal_is_dropped_and_nothing_written() {
    let tree = crashed();
    tree.boot("99999999-2222-3333-4444-555555555555");
    writes();
    let report = restored(&tree);
    assert_eq!(report.journal, JournalFate::OtherBoot);
    assert_eq!(writes(), []);
    assert!(!file(&tree.state()).exists());
}

#[test]
fn a_refused_write_does_not_hide_the_one_before_it() {
    let tree = jetson();
    let mut actuator = tree.actuator();
    actuator.apply(&bounds(1, 2, 306_000, 612_000));
    fail_write(tree.path(GPU_MAX), Errno::EBUSY as i32);
    actuator.apply(&bounds(1, 2, 306_000, 306_000));
    actuator.apply(&bounds(1, 2, 306_000, 1_020_000));
    actuator.apply(&bounds(1, 2, 306_000, 306_000));
    fail_write(tree.path(GPU_MAX), 0);
    crash(actuator);
    assert_eq!(tree.get(GPU_MAX), "612000000");
    restored(&tree);
    assert_eq!(tree.get(GPU_MAX), "1020000000");
}

#[test]
fn two_kills_while_the_node_refuses_do_not_hide_what_it_holds() {
    let tree = jetson();
    let mut actuator = tree.actuator();
    actuator.apply(&bounds(1, 2, 306_000, 612_000));
    fail_write(tree.path(GPU_MAX), Errno::EBUSY as i32);
    for life in 0..3 {
        // The next two steps are the announcement and the write, which is refused; noting that is the
        // third and does not happen.
        after(2);
        actuator.apply(&bounds(1, 2, 306_000, 306_000));
        assert!(dead(), "life {life}");
        crash(actuator);
        actuator = tree.actuator();
    }
    fail_write(tree.path(GPU_MAX), 0);
    crash(actuator);
    assert_eq!(tree.get(GPU_MAX), "612000000");
    restored(&tree);
    assert_eq!(tree.get(GPU_MAX), "1020000000");
}

#[test]
fn a_journal_cut_at_any_byte_restores_what_it_still_names() {
    let tree = crashed();
    let whole = std::fs::read(file(&tree.state())).unwrap();
    let held = all(&tree);
    for length in 0..whole.len() {
        for (node, value) in [CPU_MIN, CPU_MAX, GPU_MIN, GPU_MAX].iter().zip(&held) {
            tree.put(node, value);
        }
        std::fs::write(file(&tree.state()), &whole[..length]).unwrap();
        let contents = Contents::parse(&whole[..length]);
        let report = restored(&tree);
        if contents.nodes.len() < 6 {
            assert!(!report.is_complete(), "{length}: {report}");
            assert!(matches!(report.journal, JournalFate::SetAside(_)), "{length}: {report}");
        }
        for node in &report.nodes {
            if node.outcome == NodeOutcome::Restored {
                assert_eq!(tree.get(node.path.to_str().unwrap()), node.original, "cut at {length}");
            }
        }
    }
    for (node, value) in [CPU_MIN, CPU_MAX, GPU_MIN, GPU_MAX].iter().zip(&held) {
        tree.put(node, value);
    }
    std::fs::write(file(&tree.state()), &whole).unwrap();
    assert!(restored(&tree).is_complete());
}

/// A power failure may leave anything behind the last byte that was written.
#[test]
fn garbage_from_any_byte_on_never_changes_an_original_and_is_told() {
    let tree = crashed();
    let whole = std::fs::read(file(&tree.state())).unwrap();
    let originals = Contents::parse(&whole).nodes;
    for length in 0..whole.len() {
        let rest = whole.len() - length;
        for garbage in [vec![0; rest], vec![0xff; rest], b"{}\n\n".repeat(rest), whole[..length].to_vec()] {
            let found = Contents::parse(&[&whole[..length], &garbage].concat());
            for node in &found.nodes {
                let same = |known: &&Node| known.path == node.path && known.original == node.original;
                assert!(originals.iter().any(|known| same(&known)), "from byte {length}: {node:?}");
            }
            assert!(
                found.nodes.len() == 6 || !found.damage.is_empty(),
                "from byte {length}: nothing is told"
            );
        }
    }
}

#[test]
fn a_journal_that_points_elsewhere_writes_nothing() {
    let tree = jetson();
    tree.put("class/hwmon/hwmon2/curr1_crit", "32760");
    let lock = StateLock::acquire(&tree.state()).unwrap();
    let node = |path: &str, original: &str| Node::new("gpu", Role::Max, path.as_ref(), original.to_owned());
    let nodes = vec![
        node("class/hwmon/hwmon2/curr1_crit", "1"),
        node("../outside/max_freq", "1"),
        node("/etc/max_freq", "1"),
        node(GPU_MAX, "1; reboot"),
    ];
    Journal::create(&lock, None, nodes).unwrap();
    drop(lock);
    writes();
    let report = restored(&tree);
    assert_eq!(writes(), []);
    assert_eq!(report.nodes, []);
    assert!(
        report.damage.iter().filter(|damage| damage.contains("not a clock node")).count() == 4,
        "{report}"
    );
}

#[test]
fn a_long_run_keeps_the_journal_short() {
    let tree = jetson();
    let lock = StateLock::acquire(&tree.state()).unwrap();
    let node = Node::new("gpu", Role::Max, GPU_MAX.as_ref(), "1020000000".to_owned());
    let mut journal = Journal::create(&lock, None, vec![node]).unwrap();
    for turn in 0..20_000_u32 {
        journal.announce(&lock, 0, &(306_000_000 + turn).to_string()).unwrap();
    }
    let bytes = std::fs::read(file(&tree.state())).unwrap();
    assert!(bytes.len() < 300 << 10, "{} bytes", bytes.len());
    let contents = Contents::parse(&bytes);
    assert_eq!(contents.damage, [] as [String; 0]);
    assert_eq!(contents.nodes[0].last(), journal.nodes()[0].last());
    assert!(contents.nodes[0].wrote("306019998") && !contents.nodes[0].wrote("306019997"));
}

/// What may happen to a daemon and its board.
#[derive(Debug, Clone)]
enum Step {
    Apply { gpu: bool, min: usize, max: usize },
    Refuse { max: bool, yes: bool },
    Restore,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (any::<bool>(), 0..3_usize, 0..3_usize).prop_map(|(gpu, a, b)| Step::Apply { gpu, min: a.min(b), max: a.max(b) }),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(max, yes)| Step::Refuse { max, yes }),
        1 => Just(Step::Restore),
        1 => Just(Step::Restart),
    ]
}

/// One life of the daemon: dies somewhere in it, or at its end.
fn live(tree: &Tree, steps: &[Step]) {
    let mut actuator = None;
    for step in steps {
        if dead() {
            break;
        }
        if actuator.is_none() {
            let opened = tree.board().into_parts(&tree.state());
            actuator = opened.ok().map(|(_, actuator)| actuator);
        }
        let Some(running) = &mut actuator else { continue };
        match step {
            Step::Apply { gpu: true, min, max } => {
                running.apply(&bounds(1, 2, GPU_POINTS[*min], GPU_POINTS[*max]));
            }
            Step::Apply { gpu: false, min, max } => {
                running.apply(&bounds(0, 2, CPU_POINTS[*min], CPU_POINTS[*max]));
            }
            Step::Refuse { max, yes } => {
                let errno = if *yes { Errno::EBUSY as i32 } else { 0 };
                fail_write(tree.path(if *max { GPU_MAX } else { CPU_MIN }), errno);
            }
            Step::Restore => {
                running.restore();
            }
            Step::Restart => actuator = None,
        }
    }
    after(0);
    drop(actuator);
    revive();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_written_and_whenever_it_dies_the_originals_come_back(
        original in (0..3_usize, 0..3_usize),
        lives in prop::collection::vec((prop::collection::vec(step(), 1..8), 0..80_u32), 1..4),
        killed_while_restoring in prop::collection::vec(0..30_u32, 0..3),
    ) {
        let tree = jetson();
        let (low, high) = (original.0.min(original.1), original.0.max(original.1));
        tree.put(GPU_MIN, &format!("{}000", GPU_POINTS[low]));
        tree.put(GPU_MAX, &format!("{}000", GPU_POINTS[high]));
        let before = all(&tree);
        for (steps, steps_to_death) in &lives {
            after(*steps_to_death);
            live(&tree, steps);
        }
        for node in [GPU_MAX, CPU_MIN] {
            fail_write(tree.path(node), 0);
        }
        for steps_to_death in killed_while_restoring {
            after(steps_to_death);
            let _ = restore(&tree.state(), &tree.roots());
            revive();
        }
        let report = restored(&tree);
        prop_assert!(report.is_complete(), "{report}");
        prop_assert_eq!(all(&tree), before, "{}", report);
        prop_assert!(!file(&tree.state()).exists());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_a_journal_or_damage(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let contents = Contents::parse(&bytes);
        prop_assert!(contents.nodes.is_empty() && !contents.damage.is_empty());
    }

    #[test]
    fn a_flipped_bit_never_changes_an_original(position in any::<prop::sample::Index>(), bit in 0..8_u32) {
        let tree = crashed();
        let mut bytes = std::fs::read(file(&tree.state())).unwrap();
        let whole = Contents::parse(&bytes);
        let at = position.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let flipped = Contents::parse(&bytes);
        for node in &flipped.nodes {
            let same = whole.nodes.iter().any(|n| n.path == node.path && n.original == node.original);
            prop_assert!(same, "{node:?}");
        }
        prop_assert!(flipped.nodes.len() == 6 || !flipped.damage.is_empty());
    }
}
