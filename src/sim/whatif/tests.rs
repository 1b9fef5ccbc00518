//! Days that plainly hold, days that plainly break, and what is suggested for them.

use super::*;
use crate::board::shipped;
use crate::core::event::{AppId, ClassId, Event, Request, RequestId};
use crate::journal::{self, Recorder};
use crate::sim::Arrivals;
use crate::time::Timestamp;
use crate::units::{Bytes, Nanos};
use std::path::{Path, PathBuf};

/// A day to be asked about: files in a folder of its own.
struct Case {
    folder: tempfile::TempDir,
    hours: f64,
    ambient_c: Option<f64>,
    battery_wh: Option<f64>,
    board: &'static str,
    disturb: Option<PathBuf>,
    demand: Source,
}

impl Case {
    /// A camera at 15 requests a second for half a minute. `more` is the class's and the budgets' part of the
    /// configuration, without the class's name.
    fn camera(more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/models");
        let config =
            format!("[models]\ndir = [\"{}\"]\n[[class]]\nname = \"camera\"\n{more}", models.display());
        std::fs::write(folder.path().join("wattd.toml"), config).unwrap();
        let workload = folder.path().join("day.toml");
        let stream =
            "[[stream]]\nmodel = \"fashion\"\narrival = \"periodic\"\nrate_hz = 15.0\njitter_ms = 3.0\n";
        std::fs::write(&workload, format!("[workload]\nseconds = 10.0\n{stream}")).unwrap();
        let demand = Source::Workload(workload);
        Self {
            folder,
            hours: 1.0 / 120.0,
            ambient_c: None,
            battery_wh: None,
            board: "jetson-tx2",
            disturb: None,
            demand,
        }
    }

    fn disturbed(mut self, script: &str) -> Self {
        let file = self.folder.path().join("script.toml");
        std::fs::write(&file, script).unwrap();
        self.disturb = Some(file);
        self
    }

    fn load(&self) -> Result<Day, WhatIfError> {
        let start = jiff::civil::time(8, 0, 0, 0);
        Day::load(&Asked {
            config: read_config(&self.folder.path().join("wattd.toml"), start)?,
            board: shipped::named(self.board).unwrap().unwrap(),
            hours: self.hours,
            ambient_c: self.ambient_c,
            battery_wh: self.battery_wh,
            work_scale: None,
            demand: self.demand.clone(),
            disturb: self.disturb.clone(),
            allowance: 0.001,
        })
    }

    fn day(&self) -> Day {
        self.load().unwrap_or_else(|error| panic!("{error}"))
    }

    fn complaint(&self) -> String {
        self.load().map_or_else(|error| error.to_string(), |_| String::new())
    }
}

fn answer(day: &Day, search: bool) -> Answer {
    ask(day, &[1, 2], search, 0, &|_| ()).unwrap()
}

fn row(answer: &Answer, limit: Limit) -> RowOf {
    *answer.rows.iter().find(|row| row.worst.limit == limit).unwrap()
}

const EASY: &str = "latency_ms = 500.0\nmin_accuracy = 0.89\n";

#[test]
fn what_plainly_holds_holds() {
    let day = Case::camera(&format!("{EASY}accuracy_target = 0.92\n[budget]\npower_cap_w = 60.0\n")).day();
    assert_eq!(day.limits().len(), 5);
    let answer = answer(&day, true);
    assert!(answer.holds(), "{:?}", answer.rows);
    assert!(answer.first_broken().is_none() && answer.suggestions.is_empty());
    assert_eq!(answer.runs, 2);
    // 10 s played three times; each time the last period may begin a rounding before the end.
    for run in &answer.outcomes {
        assert!((450..=453).contains(&run.classes[0].requests), "{:?}", run.classes);
        assert_eq!((run.classes[0].answered, run.classes[0].late), (run.classes[0].requests, 0));
        assert!(run.classes[0].accuracy.unwrap() >= 0.92);
        // The board takes 2 to 20 W.
        assert!((60.0..650.0).contains(&run.energy_j), "{}", run.energy_j);
    }
}

/// Another program takes nearly all of the processors from 15 s on: what is left is too slow at any clock.
#[test]
fn what_plainly_breaks_breaks_when_it_does() {
    let script = "[[event]]\nat_s = 15.0\nset = \"contention_compute\"\nto = 100\n\
                  [[event]]\nat_s = 15.0\nset = \"contention_memory\"\nto = 100\n";
    let day = Case::camera("latency_ms = 20.0\nmin_accuracy = 0.89\n").disturbed(script).day();
    let answer = answer(&day, false);
    let late = row(&answer, Limit::Latency(0));
    assert!(!answer.holds() && !late.worst.holds && late.held == 0, "{:?}", answer.rows);
    let at = late.worst.broken_at.unwrap().as_secs_f64();
    // None of 450 may fail; the first that is late is due within 60 ms of its arrival, and they come every 67 ms.
    assert!((15.0..15.4).contains(&at), "{at}");
    assert!((0.3..0.6).contains(&late.worst.got), "half of the day: {:?}", late.worst);
    assert_eq!(answer.first_broken().unwrap().limit, Limit::Latency(0));
    assert!(answer.suggestions.is_empty(), "none was asked for");
    assert!(row(&answer, Limit::Floor(0)).worst.holds, "the floor is not to blame");
}

/// What is suggested holds when it is asked about, and the value beside it does not.
#[test]
fn what_is_suggested_holds_when_fed_back() {
    let case = Case::camera("latency_ms = 8.0\nmin_accuracy = 0.93\n");
    let day = case.day();
    let found = answer(&day, true);
    assert!(!found.holds());
    let latency = found.suggestions.iter().find(|s| s.knob == Knob::Latency(0)).unwrap();
    let to = latency.to.unwrap_or_else(|| panic!("{:?}", found.suggestions));
    assert!(latency.all && latency.from < latency.breaks && latency.breaks < to, "{latency:?}");
    // Seven halvings of a factor of thirty.
    assert!(to / latency.breaks < 1.04, "{latency:?}");
    for (latency_ms, holds) in [(to, true), (latency.breaks, false)] {
        let config = std::fs::read_to_string(case.folder.path().join("wattd.toml")).unwrap();
        let other = config.replace("latency_ms = 8.0", &format!("latency_ms = {latency_ms:?}"));
        assert_ne!(config, other);
        std::fs::write(case.folder.path().join("wattd.toml"), other).unwrap();
        assert_eq!(answer(&case.day(), false).holds(), holds, "{latency_ms} ms");
        std::fs::write(case.folder.path().join("wattd.toml"), config).unwrap();
    }
}

#[test]
fn accuracy_above_the_best_variant_is_brought_down_to_it() {
    let day = Case::camera("latency_ms = 500.0\nmin_accuracy = 0.99\n").day();
    let answer = answer(&day, true);
    let floor = row(&answer, Limit::Floor(0)).worst;
    assert!(!floor.holds && floor.got == 1.0, "{floor:?}");
    assert_eq!(floor.broken_at.map(|at| at.as_secs_f64().floor()), Some(0.0), "from the start");
    let best = day.scenario.machine.catalog.variants.iter().map(|variant| variant.accuracy.as_fraction());
    let best = best.fold(0.0, f64::max);
    let to = answer.suggestions.iter().find(|s| s.knob == Knob::Floor(0)).unwrap().to.unwrap();
    assert!(to <= best && best - to < 0.002, "{to}, the best variant has {best}");
    // More time would help none of them: it is not even tried.
    assert!(answer.suggestions.iter().all(|s| s.knob != Knob::Latency(0)), "{:?}", answer.suggestions);
}

/// The idle board alone takes more than 1 W: no half a minute of it for 10 J.
#[test]
fn energy_that_is_too_little_breaks_and_more_is_suggested() {
    let day = Case::camera(&format!("{EASY}[budget.energy]\njoules = 10.0\nlasting = \"30s\"\n")).day();
    let answer = answer(&day, true);
    let energy = row(&answer, Limit::Energy).worst;
    assert!(!energy.holds && energy.broken_at.unwrap() < Nanos::from_secs(10), "{energy:?}");
    let more = answer.suggestions.iter().find(|s| s.knob == Knob::Energy).unwrap();
    let to = more.to.unwrap_or_else(|| panic!("{:?}", answer.suggestions));
    assert!(more.all && to > 30.0, "{more:?}");
    let again = self::answer(&Knob::Energy.turned(&day, to), false);
    assert!(again.holds() && row(&again, Limit::Energy).worst.got <= to * 1.01, "{:?}", again.rows);
}

/// 5 Wh at 100 % are 18 kJ: half a minute leaves nearly all of it, two days projected from it do not.
#[test]
fn a_battery_is_projected_to_its_time() {
    let budget =
        |lasting| format!("{EASY}[budget.battery]\nreserve_percent = 20.0\nlasting = \"{lasting}\"\n");
    let mut case = Case::camera(&budget("20s"));
    case.board = "desktop";
    case.battery_wh = Some(5.0);
    let left = row(&answer(&case.day(), false), Limit::Battery).worst;
    assert!(left.holds && !left.projected && (0.5..1.0).contains(&left.got), "{left:?}");
    let mut long = Case::camera(&budget("48h"));
    (long.board, long.battery_wh) = ("desktop", Some(5.0));
    let gone = row(&answer(&long.day(), false), Limit::Battery).worst;
    assert!(!gone.holds && gone.projected && gone.got == 0.0, "{gone:?}");
    assert!(gone.broken_at.unwrap() > Nanos::from_secs(60), "beyond the day: {gone:?}");
    long.battery_wh = None;
    long.board = "jetson-tx2";
    assert!(long.complaint().contains("[budget.battery] needs a battery, and board jetson-tx2 has none"));
}

/// A box at 80 °C around a board that must stay below 75 °C: only cooler air helps.
#[test]
fn heat_breaks_at_once_and_cooler_air_is_suggested() {
    let mut case = Case::camera(&format!("{EASY}[budget]\nmax_temperature_c = 75.0\n"));
    case.ambient_c = Some(80.0);
    let day = case.day();
    let answer = answer(&day, true);
    let heat = row(&answer, Limit::Temperature).worst;
    assert!(!heat.holds && heat.broken_at.unwrap() < Nanos::from_secs(1), "{heat:?}");
    let cooler = answer.suggestions.iter().find(|s| s.knob == Knob::Ambient).unwrap();
    let to = cooler.to.unwrap();
    assert!(to < 75.0 && cooler.breaks > to, "{cooler:?}");
    case.ambient_c = Some(to);
    assert!(self::answer(&case.day(), false).holds());
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let mut case = Case::camera("latency_ms = 4.0\nmin_accuracy = 0.93\n");
    case.hours = 1.0 / 360.0;
    let day = case.day();
    let with = |threads| ask(&day, &[3, 4], true, threads, &|_| ()).unwrap();
    assert_eq!(with(1), with(3));
}

#[test]
fn progress_adds_up() {
    let day = Case::camera("latency_ms = 2.0\nmin_accuracy = 0.93\n").day();
    let (planned, played) = (std::sync::atomic::AtomicU64::new(0), std::sync::atomic::AtomicU64::new(0));
    let count = |progress| {
        let (sum, span) = match progress {
            Progress::Planned(span) => (&planned, span),
            Progress::Played(span) => (&played, span),
        };
        sum.fetch_add(span.0, std::sync::atomic::Ordering::Relaxed);
    };
    ask(&day, &[1, 2], true, 0, &count).unwrap();
    let (planned, played) = (planned.into_inner(), played.into_inner());
    // Runs with another longest deadline are longer by up to that.
    assert!(planned > 0 && played.abs_diff(planned) < planned / 50, "{planned} {played}");
}

#[test]
fn bad_numbers_are_named() {
    for (hours, wanted) in
        [(0.0, "--hours = 0:"), (f64::NAN, "--hours = NaN:"), (1e9, "--hours = 1000000000:")]
    {
        let mut case = Case::camera(EASY);
        case.hours = hours;
        assert!(case.complaint().starts_with(wanted), "{}", case.complaint());
    }
    for (ambient, wanted) in [(300.0, "--ambient = 300: a number from -40"), (f64::NAN, "--ambient = NaN:")] {
        let mut case = Case::camera(EASY);
        case.ambient_c = Some(ambient);
        assert!(case.complaint().starts_with(wanted), "{}", case.complaint());
    }
    let mut case = Case::camera(EASY);
    case.battery_wh = Some(-1.0);
    assert!(case.complaint().starts_with("--battery = -1:"), "{}", case.complaint());
    let contradiction = Case::camera(&format!("{EASY}[budget.energy]\njoules = 1.0\nwatt_hours = 1.0\n"));
    assert!(contradiction.complaint().contains("budget.energy: needs either `joules` or `watt_hours`"));
}

#[test]
fn a_workload_may_only_name_what_the_configuration_has() {
    let case = Case::camera(EASY);
    let file = case.folder.path().join("day.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}class = \"audio\"\n")).unwrap();
    let found = case.complaint();
    assert!(found.contains("day.toml:") && found.contains("wattd.toml; there are: camera"), "{found}");
    std::fs::write(&file, text.replace("fashion", "vision")).unwrap();
    let found = case.complaint();
    assert!(found.contains("no such model; there are: crepe, fashion"), "{found}");
}

/// As the daemon does it: the first class that lists the model.
#[test]
fn a_stream_that_names_no_class_has_the_one_that_the_daemon_would_give_it() {
    let more = "[[class]]\nname = \"pictures\"\nlatency_ms = 90.0\nmodels = [\"fashion\"]\n";
    let day = Case::camera(&format!("{EASY}{more}")).day();
    assert_eq!(day.scenario.streams[0].class, ClassId(1));
    assert_eq!(day.limits(), [Limit::Latency(1), Limit::Temperature], "nobody asks for the other class");
    let models: Vec<&str> = day.scenario.machine.catalog.models.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(models, ["fashion"], "what nobody asks for is not loaded");
}

fn request(id: u64, model: u16, at: Timestamp) -> Event {
    Event::Submit(Request {
        id: RequestId(id),
        app: AppId(7),
        class: ClassId(0),
        model: crate::core::catalog::ModelId(model),
        items: 1,
        input_bytes: Bytes(0),
        // As a client's 80 ms look after the way through the socket.
        deadline: Some(at.after(Nanos::from_micros(80_000 - id))),
        min_accuracy: None,
        max_energy: None,
        variant: None,
        priority: None,
    })
}

/// Records requests at these milliseconds, for the models of the shipped folders.
fn journal(case: &Case, moments_ms: &[u64]) -> PathBuf {
    let day = case.day();
    let file = case.folder.path().join("events.jsonl");
    let start = Timestamp(5_000_000_000);
    let catalog = day.scenario.machine.catalog.clone();
    let header = journal::header(start, catalog, day.scenario.budgets.clone());
    let mut recorder = Recorder::create(&file, 1 << 20, &header).unwrap();
    for (id, ms) in (1..).zip(moments_ms) {
        let at = start.after(Nanos::from_millis(*ms));
        recorder.event(at, &request(id, 0, at));
    }
    recorder.event(start.after(Nanos::from_secs(10)), &Event::Wake);
    drop(recorder);
    file
}

#[test]
fn a_record_is_played_again_and_again() {
    let mut case = Case::camera(EASY);
    let file = journal(&case, &[0, 250, 4000]);
    case.demand = Source::Journal(file);
    let day = case.day();
    assert_eq!(day.scenario.streams.len(), 1, "one kind of request: deadlines differ by microseconds only");
    let stream = &day.scenario.streams[0];
    assert_eq!((stream.app, stream.deadline), (AppId(7), Some(Nanos::from_millis(80))));
    assert_eq!(stream.arrivals, Arrivals::Trace([0, 250, 4000].map(Nanos::from_millis).into()));
    // Ten seconds and a nanosecond, in half a minute: three times but for three nanoseconds.
    assert_eq!(day.requests(1), [9]);
    assert!((day.demand.times - 3.0).abs() < 1e-6, "{:?}", day.demand);
    assert!(answer(&day, false).holds());
}

#[test]
fn a_record_that_cannot_be_played_is_named() {
    let mut case = Case::camera(EASY);
    let record = std::fs::read_to_string(journal(&case, &[5])).unwrap();
    let empty = std::fs::read_to_string(journal(&case, &[])).unwrap();
    // A class that the configuration does not have any more.
    let renamed = record.replacen("\"name\":\"camera\"", "\"name\":\"microphone\"", 1);
    assert_ne!(record, renamed);
    let file = case.folder.path().join("record.jsonl");
    for (text, wanted) in [
        (empty.as_str(), "record.jsonl: holds no request"),
        ("{\"format\": 99}\n", "record.jsonl, line 1:"),
        (&renamed, "has requests of class `microphone`, which"),
        (
            &record.replace("fashion", "vision"),
            "has requests to model `vision`, which the folders of models.dir",
        ),
    ] {
        std::fs::write(&file, text).unwrap();
        case.demand = Source::Journal(file.clone());
        assert!(case.complaint().contains(wanted), "{}", case.complaint());
    }
    case.demand = Source::Journal(case.folder.path().join("nowhere.jsonl"));
    assert!(case.complaint().contains("nowhere.jsonl: No such file"), "{}", case.complaint());
}
