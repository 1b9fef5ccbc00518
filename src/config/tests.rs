use super::*;
use crate::units::{Microjoules, Microwatts, MilliCelsius, Ppm};
use proptest::prelude::*;
use std::collections::BTreeSet;

const INSTALLED: &str = include_str!("../../config/wattd.toml");
const DESKTOP: &str = include_str!("../../config/desktop.toml");
const REFERENCE: &str = include_str!("../../config/README.md");

/// 16:30 on a day without a change to or from summer time, two hours east of Greenwich.
fn context() -> Context<'static> {
    let zone = jiff::tz::TimeZone::fixed(jiff::tz::Offset::from_hours(2).unwrap());
    Context {
        now: jiff::civil::date(2026, 7, 1).at(16, 30, 0, 0).to_zoned_datetime(zone).unwrap(),
        user_id: &|name| (name == "camera").then_some(1001),
        group_id: &|name| (name == "wattd-clients").then_some(990),
    }
}

fn parse(text: &str) -> Result<Config, Problems> {
    Config::parse(Path::new("/etc/wattd/wattd.toml"), text, &context())
}

fn good(text: &str) -> Config {
    parse(text).unwrap_or_else(|problems| panic!("{problems}"))
}

fn complaints(text: &str) -> Vec<String> {
    parse(text).map_or_else(|p| p.0.iter().map(ToString::to_string).collect(), |_| Vec::new())
}

/// Turns `#key = value` and `#[table]` into live lines; prose has a space after its `#`.
fn uncommented(text: &str) -> String {
    let live = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => rest.to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(live).collect::<Vec<_>>().join("\n")
}

/// Paths of all keys, and those of keys without a value.
fn leaves(path: &str, value: &serde_json::Value, all: &mut BTreeSet<String>, unset: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Object(table) => {
            for (key, value) in table {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                leaves(&path, value, all, unset);
            }
        }
        serde_json::Value::Array(list) if list.iter().any(serde_json::Value::is_object) => {
            list.iter().for_each(|value| leaves(&format!("{path}[]"), value, all, unset));
        }
        _ => {
            if value.is_null() {
                unset.insert(path.to_owned());
            }
            all.insert(path.to_owned());
        }
    }
}

fn keys_of(text: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let raw: RawConfig = toml::from_str(&uncommented(text)).unwrap();
    let (mut all, mut unset) = (BTreeSet::new(), BTreeSet::new());
    leaves("", &serde_json::to_value(raw).unwrap(), &mut all, &mut unset);
    (all, unset)
}

/// Paths of the keys that a text sets, default or not.
fn keys_written(text: &str) -> BTreeSet<String> {
    let table: toml::Table = toml::from_str(&uncommented(text)).unwrap();
    let (mut all, mut unset) = (BTreeSet::new(), BTreeSet::new());
    leaves("", &serde_json::to_value(table).unwrap(), &mut all, &mut unset);
    all
}

#[test]
fn the_installed_file_is_valid_and_says_the_defaults() {
    let config = good(INSTALLED);
    let mut raw = config.raw().clone();
    let defaults = RawConfig::default();
    assert_eq!(raw.class, [raw::RawClass::fallback()]);
    raw.class.clear();
    // Three keys differ from the defaults on purpose: a path that is relative to the file, the models and the group
    // that the package brings.
    assert_eq!(config.board.file, defaults.board.file);
    raw.board.file = defaults.board.file.clone();
    assert_eq!(raw.models.dir.pop(), Some("/usr/share/wattd/models".into()));
    assert_eq!(raw.socket.group.take().as_deref(), Some("wattd-clients"));
    assert_eq!(raw, defaults);
    assert_eq!(config.socket.group, Some(Group { name: "wattd-clients".into(), gid: 990 }));
    assert_eq!(config.socket.mode, 0o660);
}

#[test]
fn the_desktop_file_is_valid_and_stays_in_the_checkout() {
    let config = Config::parse(Path::new("config/desktop.toml"), DESKTOP, &context()).unwrap();
    assert_eq!(config.simulation, Simulation::InProcess { seed: 1, script: None });
    assert_eq!(config.board.file, Path::new("config/boards/jetson-tx2.toml"));
    assert_eq!(config.socket.path, Path::new("config/../.wattd/wattd.sock"));
    let paths = [&config.state_dir, &config.runtime.cache_dir, &config.models.dirs[0]];
    assert!(paths.iter().all(|path| path.is_relative()), "{paths:?}");
}

/// An empty file has the defaults; every key of the raw shape appears in both shipped files.
#[test]
fn every_key_is_in_both_shipped_files() {
    for (name, text) in [("wattd.toml", INSTALLED), ("desktop.toml", DESKTOP)] {
        let (all, unset) = keys_of(text);
        assert!(unset.is_empty(), "config/{name} lacks, even commented: {unset:?}");
        let written = keys_written(text);
        let lacking: Vec<_> = all.difference(&written).collect();
        assert!(lacking.is_empty(), "config/{name} lacks, even commented: {lacking:?}");
    }
}

/// Every key has a row in the reference, with its default and whether a reload changes it; and no row is
/// for a key that does not exist.
#[test]
fn every_key_is_in_the_reference() {
    let (all, _) = keys_of(INSTALLED);
    // The tables of experiments are of other files.
    let of_the_daemon = REFERENCE.split("\n## Experiments").next().unwrap();
    let rows: std::collections::BTreeMap<&str, &str> = of_the_daemon
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
        .filter(|(key, _)| !key.starts_with("wattd_") && !key.starts_with("nv_"))
        .collect();
    let documented: BTreeSet<String> = rows.keys().map(|key| (*key).to_owned()).collect();
    assert_eq!(all, documented, "keys of src/config/raw.rs (left), rows of config/README.md (right)");
    let mut defaults = RawConfig { class: vec![raw::RawClass::fallback()], ..RawConfig::default() };
    defaults.budget.energy = Some(raw::RawEnergy::default());
    defaults.budget.battery = Some(raw::RawBattery::default());
    let defaults = serde_json::to_value(defaults).unwrap();
    for (key, row) in rows {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let live = if diff::is_live(&key.replace("[]", "[0]")) { "yes" } else { "restart" };
        assert!(cells[3].starts_with(live), "`{key}`: reload column is `{}`, must be {live}", cells[3]);
        let pointer = format!("/{}", key.replace("[]", ".0").replace('.', "/"));
        let expected = match defaults.pointer(&pointer) {
            _ if key == "class[].name" => continue,
            Some(serde_json::Value::Null) | None => "none".to_owned(),
            Some(value) => format!("`{value}`"),
        };
        assert_eq!(cells[1], expected, "`{key}`: default column");
    }
}

#[test]
fn many_mistakes_are_reported_in_one_go_with_what_would_be_right() {
    let text = "\
[board]
sample_period_ms = 0
[budget]
power_cap_w = nan
max_temperature_c = 400
[socket]
mode = \"999\"
tcp = \"0.0.0.0:80\"
group = \"nobody-here\"
max_message_mb = 200
[[class]]
name = \"a b\"
latency_ms = -1
min_accuracy = 92
apps = [\"ghost\", 7]
[log]
level = \"loud\"
";
    let found = complaints(text);
    let expected = [
        ":2: board.sample_period_ms = 0: must be from 10 to 10000 ms",
        ":4: budget.power_cap_w = nan: must be from 0.1 to 10000 W",
        ":5: budget.max_temperature_c = 400: must be from 20 to 150 °C",
        ":7: socket.mode = \"999\": must be an octal mode",
        ":8: socket.tcp = \"0.0.0.0:80\": must be a loopback address",
        ":9: socket.group = \"nobody-here\": no such group",
        ":6: socket.max_in_flight_mb_per_app: must be at least socket.max_message_mb (200)",
        ":12: class[0].name = \"a b\": must be 1 to 64 letters",
        ":13: class[0].latency_ms = -1: must be from 0.01 to 3600000 ms",
        ":14: class[0].min_accuracy = 92: must be from 0 to 1 as a fraction",
        ":15: class[0].apps[0] = \"ghost\": no such user",
        ":17: log.level = \"loud\": must be off, error, warn, info, debug or trace",
    ];
    for text in expected {
        assert!(found.iter().any(|f| f.contains(text)), "no `{text}` in {found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    assert!(found.iter().all(|f| f.starts_with("/etc/wattd/wattd.toml:")), "{found:#?}");
}

#[test]
fn unknown_keys_and_wrong_types_name_what_is_known() {
    let found = complaints(
        "[budgets]\n[budget]\npower_cap = 5\nobjective = \"fast\"\n[[class]]\nname = \"x\"\napps = [1.5]\n",
    );
    assert!(
        found.iter().any(|f| f.contains(":1: budgets: unknown field `budgets`, expected one of")),
        "{found:#?}"
    );
    assert!(found.iter().any(|f| f.contains(":3: budget.power_cap = 5: unknown field")), "{found:#?}");
    assert!(found.iter().any(|f| f.contains(":4:") && f.contains("`least-energy`")), "{found:#?}");
    assert!(found.iter().any(|f| f.contains(":7:") && f.contains("a user id")), "{found:#?}");
}

#[test]
fn budgets_come_in_the_core_s_units() {
    let config = good(
        "[budget]\npower_cap_w = 7.5\nmax_temperature_c = 80\n[memory]\ncap_mb = 3\nunload_after_s = 0\n\
         [budget.battery]\nreserve_percent = 20\nlasting = \"1h 30m\"\n\
         [[class]]\nname = \"x\"\nlatency_ms = 0.5\nmin_accuracy = 0.925\nenergy_per_request_mj = 12.5\npower_w = 2",
    );
    let budgets = &config.budgets;
    assert_eq!(budgets.power_cap, Some(Microwatts(7_500_000)));
    assert_eq!(budgets.max_temperature, Some(MilliCelsius(80_000)));
    assert_eq!(budgets.memory_cap, Bytes(3_000_000));
    assert_eq!(budgets.unload_after, None);
    let battery = budgets.battery.unwrap();
    assert_eq!((battery.reserve, battery.lasting), (Ppm(200_000), Nanos::from_secs(5_400)));
    let class = &budgets.classes[0];
    assert_eq!((class.latency, class.min_accuracy), (Nanos(500_000), Ppm(925_000)));
    assert_eq!(class.energy_per_request, Some(Microjoules(12_500)));
    assert_eq!(class.power, Some(Microwatts(2_000_000)));
}

/// It is 16:30: 18:00 is 1.5 h away, 06:15 of the next day 13.75 h, and 16:30 itself a whole day.
#[test]
fn until_is_the_next_such_time_of_day() {
    let lasting = |until: &str| {
        let text = format!("[budget.energy]\nwatt_hours = 2\nuntil = \"{until}\"");
        let energy = good(&text).budgets.energy.unwrap();
        assert_eq!(energy.total, Microjoules(7_200_000_000), "2 Wh = 7200 J");
        energy.lasting
    };
    assert_eq!(lasting("18:00"), Nanos::from_secs(5_400));
    assert_eq!(lasting("06:15"), Nanos::from_secs(49_500));
    assert_eq!(lasting("16:30"), Nanos::from_secs(86_400));
}

#[test]
fn an_allowance_needs_one_amount_and_one_span() {
    let faulty = [
        ("[budget.energy]\nuntil = \"18:00\"", "either `joules` or `watt_hours`"),
        ("[budget.energy]\njoules = 1\nwatt_hours = 1\nuntil = \"18:00\"", "either `joules` or `watt_hours`"),
        ("[budget.energy]\njoules = 1", "either `until"),
        ("[budget.energy]\njoules = 1\nuntil = \"25:00\"", "time of day"),
        ("[budget.energy]\njoules = inf\nlasting = \"1h\"", "must be from 0.001"),
        ("[budget.battery]\nreserve_percent = 100\nlasting = \"1h\"", "must be from 0 to 99 %"),
        ("[budget.battery]\nlasting = \"soon\"", "a span of time"),
        ("[budget.battery]\nlasting = \"0s\"", "a span of time"),
    ];
    for (text, rule) in faulty {
        let found = complaints(text);
        assert!(found.len() == 1 && found[0].contains(rule), "{text}: {found:#?}");
    }
}

#[test]
fn a_simulated_board_in_a_process_needs_its_socket() {
    let found = complaints("[simulation]\nmode = \"process\"");
    assert!(found[0].contains("accelerator_socket: must be there"), "{found:#?}");
    let found = complaints("[simulation]\nscript = \"x.toml\"");
    assert!(found[0].contains("simulation.script = \"x.toml\": needs simulation.mode"), "{found:#?}");
    let config = good("[simulation]\nmode = \"process\"\naccelerator_socket = \"a.sock\"");
    let expected = Simulation::Process { accelerator_socket: "/etc/wattd/a.sock".into() };
    assert_eq!(config.simulation, expected);
}

#[test]
fn apps_and_models_find_their_class() {
    let config = good(
        "[[class]]\nname = \"default\"\n[[class]]\nname = \"camera\"\napps = [\"camera\"]\nmodels = [\"fashion\"]\n\
         [[class]]\nname = \"sound\"\nmodels = [\"crepe\"]\n[[class]]\nname = \"batch\"\n",
    );
    let (camera, other) = (AppId(1001), AppId(7));
    assert_eq!(config.class_of(camera, "fashion"), ClassId(1));
    assert_eq!(config.class_of(other, "fashion"), ClassId(0));
    assert_eq!(config.class_of(camera, "crepe"), ClassId(2));
    assert_eq!(config.class_of(other, "unheard-of"), ClassId(0), "an empty rule claims nothing");
    assert_eq!(config.class_named("batch", other), Ok(ClassId(3)));
    assert_eq!(config.class_named("camera", other), Err(ClassError::NotAllowed("camera".into())));
    assert!(
        config.class_named("x", other).unwrap_err().to_string().contains("default, camera, sound, batch")
    );
}

#[test]
fn names_of_models_that_do_not_exist_are_found_with_their_lines() {
    let config =
        good("[models]\nload = [\"fashion\", \"fashoin\"]\n[[class]]\nname = \"a\"\nmodels = [\"crape\"]");
    let found: Vec<String> =
        config.check_model_names(&["fashion", "crepe"]).iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "/etc/wattd/wattd.toml:2: models.load[1] = \"fashoin\": no such model; there are: fashion, crepe",
            "/etc/wattd/wattd.toml:5: class[0].models[0] = \"crape\": no such model; there are: fashion, crepe",
        ]
    );
}

#[test]
fn a_reload_says_what_changes_now_and_what_waits() {
    let old = good(
        "[budget]\npower_cap_w = 5\n[log]\nlevel = \"info\"\nformat = \"json\"\n[socket]\npath = \"a\"\n",
    );
    let new = good(
        "[budget]\npower_cap_w = 7\n[log]\nlevel = \"debug\"\nformat = \"text\"\n[socket]\npath = \"b\"\n\
         [[class]]\nname = \"x\"\n",
    );
    let changes = old.changes(&new);
    let live: Vec<&str> = changes.live.iter().map(|change| change.key.as_str()).collect();
    assert!(live.contains(&"budget.power_cap_w") && live.contains(&"log.level"), "{live:?}");
    assert!(live.contains(&"class[0]"), "{live:?}");
    let restart: Vec<String> = changes.restart.iter().map(ToString::to_string).collect();
    assert_eq!(restart, ["log.format: \"json\" -> \"text\"", "socket.path: \"a\" -> \"b\""]);
    assert!(changes.budgets_changed());
    let adopted = old.adopt(&new);
    assert_eq!(adopted.budgets, new.budgets);
    assert_eq!(adopted.log.filter, "debug");
    assert_eq!(adopted.socket, old.socket);
    assert_eq!(adopted.changes(&new).restart, changes.restart, "what waits is still said at the next reload");
    assert!(adopted.changes(&new).live.is_empty());
    assert_eq!(old.changes(&old), Changes::default());
}

/// The allowance counts from the load. Reloading an hour later for another reason must not grant it anew.
#[test]
fn a_reload_keeps_an_allowance_whose_keys_are_unchanged() {
    let text = "[budget.energy]\njoules = 10\nuntil = \"18:00\"\n";
    let old = good(text);
    let mut later = context();
    later.now = later.now.checked_add(jiff::SignedDuration::from_hours(1)).unwrap();
    let new = Config::parse(Path::new("x"), &format!("{text}[budget]\npower_cap_w = 5"), &later).unwrap();
    assert_eq!(new.budgets.energy.unwrap().lasting, Nanos::from_secs(1_800));
    let adopted = old.adopt(&new);
    assert_eq!(adopted.budgets.energy, old.budgets.energy);
    assert_eq!(adopted.budgets.power_cap, Some(Microwatts(5_000_000)));
    let more = Config::parse(Path::new("x"), &text.replace("10", "11"), &later).unwrap();
    assert_eq!(old.adopt(&more).budgets.energy, more.budgets.energy);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,200}") {
        let _ = parse(&text);
    }

    /// Near misses of a real file: a line is cut, doubled, or has its value replaced.
    #[test]
    fn a_damaged_file_never_panics(line in 0_usize..150, with in "[\\[\\]{}=.\"'#a-z0-9_eE+-]{0,12}", way in 0..4) {
        let damaged: String = uncommented(INSTALLED).lines().enumerate().map(|(i, text)| match way {
            _ if i != line => format!("{text}\n"),
            0 => String::new(),
            1 => format!("{text}\n{text}\n"),
            2 => format!("{} = {with}\n", text.split('=').next().unwrap_or_default()),
            _ => format!("{text}{with}"),
        }).collect();
        let _ = parse(&damaged);
    }

    /// Whatever number stands there, the budgets that come out are sane.
    #[test]
    fn numbers_are_refused_or_sane(watts in any::<f64>(), accuracy in any::<f64>()) {
        let text = format!("[budget]\npower_cap_w = {watts:?}\n[[class]]\nname = \"x\"\nmin_accuracy = {accuracy:?}");
        if let Ok(config) = parse(&text) {
            prop_assert!(config.budgets.power_cap.unwrap() > Microwatts::ZERO);
            prop_assert!(config.budgets.classes[0].min_accuracy <= Ppm::ONE);
        }
    }
}
