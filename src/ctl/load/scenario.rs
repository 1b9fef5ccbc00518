//! Load scenarios: the TOML as written and its validation. `config/scenarios/` has commented examples.

use crate::units::{Nanos, Ppm};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Most applications in a scenario.
const APPS_LIMIT: usize = 32;
/// Highest arrival rate of an application.
const RATE_LIMIT_HZ: f64 = 1_000_000.0;
/// Most closed-loop clients, and most outstanding requests, of an application.
const CLIENTS_LIMIT: u32 = 4096;
/// Longest run.
const LENGTH_LIMIT_S: f64 = 7.0 * 24.0 * 3600.0;
/// Outstanding requests of an open-loop application that names no number.
const DEFAULT_OUTSTANDING: u32 = 64;

/// A scenario as written.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawScenario {
    title: String,
    #[serde(default, rename = "app")]
    apps: Vec<RawApp>,
    #[serde(default, rename = "note")]
    notes: Vec<RawNote>,
}

/// A happening as written.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNote {
    at_s: f64,
    text: String,
}

/// An application as written.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawApp {
    name: String,
    model: String,
    #[serde(default)]
    start_s: f64,
    end_s: f64,
    arrival: ArrivalKind,
    #[serde(default)]
    rate_hz: Option<f64>,
    #[serde(default)]
    clients: Option<u32>,
    #[serde(default)]
    outstanding: Option<u32>,
    #[serde(default)]
    deadline_ms: Option<f64>,
    #[serde(default)]
    min_accuracy: Option<f64>,
    #[serde(default)]
    max_energy_mj: Option<f64>,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default)]
    class: Option<String>,
    #[serde(default = "one")]
    batch: u32,
}

const fn one() -> u32 {
    1
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ArrivalKind {
    Periodic,
    Poisson,
    Closed,
}

/// How requests arrive.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arrival {
    /// Open loop, evenly spaced, this many a second: a camera.
    Periodic(f64),
    /// Open loop, independent of each other, this many a second on average: many users.
    Poisson(f64),
    /// Closed loop: this many clients, each of which sends as soon as it has its answer.
    Closed(u32),
}

/// An application.
#[derive(Debug, Clone, PartialEq)]
pub struct App {
    /// Name in reports.
    pub name: String,
    /// The model that it asks.
    pub model: String,
    /// When it starts, from the start of the run.
    pub start: Nanos,
    /// When it ends.
    pub end: Nanos,
    /// How its requests arrive.
    pub arrival: Arrival,
    /// Most requests that it has outstanding; further arrivals wait, and their latency runs.
    pub outstanding: u32,
    /// Time from arrival until the answer must be there; `None` = as the class says.
    pub deadline: Option<Nanos>,
    /// Least accuracy; `None` = as the class says.
    pub min_accuracy: Option<Ppm>,
    /// Most energy of a request in microjoules.
    pub max_energy_uj: Option<u64>,
    /// Only this variant.
    pub variant: Option<String>,
    /// Its class.
    pub class: Option<String>,
    /// Items in a request.
    pub batch: u32,
}

/// A happening that others bring about while the scenario runs; only for the picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    /// When, from the start of the run.
    pub at: Nanos,
    /// A few words.
    pub text: String,
}

/// A validated scenario.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// Title of the report.
    pub title: String,
    /// The applications; at least one.
    pub apps: Vec<App>,
    /// Happenings.
    pub notes: Vec<Note>,
}

/// One application as flags give it; the keys mean the same as in a scenario file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SimpleFlags {
    /// The model.
    pub model: String,
    /// Length of the run.
    pub seconds: f64,
    /// Requests a second; `None` = closed loop.
    pub rate_hz: Option<f64>,
    /// Open loop at random moments instead of evenly spaced ones.
    pub poisson: bool,
    /// Clients of the closed loop.
    pub clients: Option<u32>,
    /// Most unanswered requests of the open loop.
    pub outstanding: Option<u32>,
    /// Deadline.
    pub deadline_ms: Option<f64>,
    /// Least accuracy.
    pub min_accuracy: Option<f64>,
    /// Most energy of a request.
    pub max_energy_mj: Option<f64>,
    /// Only this variant.
    pub variant: Option<String>,
    /// Class.
    pub class: Option<String>,
    /// Items in a request.
    pub batch: u32,
}

/// Why a scenario cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file cannot be read.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The kernel's words.
        error: std::io::Error,
    },
    /// It is not TOML of the right shape.
    #[error("{origin}: {error}")]
    Toml {
        /// The file.
        origin: String,
        /// The parser's words, with line and key.
        error: Box<toml::de::Error>,
    },
    /// A value makes no sense.
    #[error("{origin}: {key}: {message}")]
    Value {
        /// The file.
        origin: String,
        /// The key, such as `app "camera".rate_hz`.
        key: String,
        /// What is wrong and what would be right.
        message: String,
    },
}

impl Scenario {
    /// Reads a scenario file.
    ///
    /// # Errors
    /// If it cannot be read, parsed, or makes no sense.
    pub fn read(path: &Path) -> Result<Self, ScenarioError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ScenarioError::Io { path: path.to_owned(), error })?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Parses a scenario; `origin` is for messages.
    ///
    /// # Errors
    /// If it cannot be parsed, or makes no sense.
    pub fn parse(text: &str, origin: &str) -> Result<Self, ScenarioError> {
        let raw: RawScenario = toml::from_str(text)
            .map_err(|error| ScenarioError::Toml { origin: origin.to_owned(), error: Box::new(error) })?;
        let fail = |key: &str, message: String| ScenarioError::Value {
            origin: origin.to_owned(),
            key: key.to_owned(),
            message,
        };
        if raw.apps.is_empty() || raw.apps.len() > APPS_LIMIT {
            return Err(fail("app", format!("{} applications; 1 to {APPS_LIMIT} are right", raw.apps.len())));
        }
        let mut apps: Vec<App> = Vec::with_capacity(raw.apps.len());
        for raw_app in raw.apps {
            let name = raw_app.name.clone();
            if apps.iter().any(|app| app.name == name) {
                return Err(fail("app.name", format!("{name:?} is used twice; names tell reports apart")));
            }
            let app =
                raw_app.validate().map_err(|(key, message)| fail(&format!("app {name:?}.{key}"), message))?;
            apps.push(app);
        }
        let mut notes = Vec::with_capacity(raw.notes.len());
        for note in raw.notes {
            let at = span(note.at_s, 0.0, LENGTH_LIMIT_S).map_err(|message| fail("note.at_s", message))?;
            notes.push(Note { at, text: note.text });
        }
        Ok(Self { title: raw.title, apps, notes })
    }

    /// A scenario of one application, from command-line flags.
    ///
    /// # Errors
    /// If the flags make no sense; named as in a scenario file.
    pub fn simple(flags: SimpleFlags) -> Result<Self, ScenarioError> {
        let raw = RawApp {
            name: flags.model.clone(),
            start_s: 0.0,
            end_s: flags.seconds,
            arrival: match (flags.rate_hz, flags.poisson) {
                (None, _) => ArrivalKind::Closed,
                (Some(_), true) => ArrivalKind::Poisson,
                (Some(_), false) => ArrivalKind::Periodic,
            },
            rate_hz: flags.rate_hz,
            clients: flags.clients,
            outstanding: flags.outstanding,
            deadline_ms: flags.deadline_ms,
            min_accuracy: flags.min_accuracy,
            max_energy_mj: flags.max_energy_mj,
            variant: flags.variant,
            class: flags.class,
            batch: flags.batch,
            model: flags.model,
        };
        let title = format!("Load on {}", raw.model);
        let app = raw.validate().map_err(|(key, message)| ScenarioError::Value {
            origin: "command line".to_owned(),
            key: key.to_owned(),
            message,
        })?;
        Ok(Self { title, apps: vec![app], notes: Vec::new() })
    }

    /// From the start to the end of the last application.
    #[must_use]
    pub fn length(&self) -> Nanos {
        self.apps.iter().map(|app| app.end).max().unwrap_or(Nanos::ZERO)
    }

    /// The same scenario with every time multiplied by `factor`, for quick trials. Rates and deadlines
    /// stay as they are.
    #[must_use]
    pub fn stretched(mut self, factor: f64) -> Self {
        let scale = |time: Nanos| Nanos::from_f64(time.as_f64() * factor);
        for app in &mut self.apps {
            (app.start, app.end) = (scale(app.start), scale(app.end));
        }
        for note in &mut self.notes {
            note.at = scale(note.at);
        }
        self
    }
}

/// A rate, checked. Written so that NaN fails.
///
/// # Errors
/// What would be right.
pub fn rate(value: f64) -> Result<f64, String> {
    if value > 0.0 && value <= RATE_LIMIT_HZ {
        Ok(value)
    } else {
        Err(format!("{value} is not above 0 and at most {RATE_LIMIT_HZ} requests a second"))
    }
}

/// A number of clients or outstanding requests, checked.
///
/// # Errors
/// What would be right.
pub fn clients(value: u32) -> Result<u32, String> {
    if (1..=CLIENTS_LIMIT).contains(&value) {
        Ok(value)
    } else {
        Err(format!("{value} is not within 1 to {CLIENTS_LIMIT}"))
    }
}

/// A time in seconds within bounds. Written so that NaN fails.
fn span(value: f64, least: f64, most: f64) -> Result<Nanos, String> {
    if value >= least && value <= most {
        Ok(Nanos::from_secs_f64(value))
    } else {
        Err(format!("{value} is not within {least} to {most} seconds"))
    }
}

/// An accuracy between 0 and 1. Written so that NaN fails.
///
/// # Errors
/// What would be right.
pub fn accuracy(value: f64) -> Result<Ppm, String> {
    if (0.0..=1.0).contains(&value) {
        Ok(Ppm::from_fraction(value))
    } else {
        Err(format!("{value} is not a share within 0 to 1, such as 0.92"))
    }
}

/// A positive number of milliseconds, at most a day. Written so that NaN fails.
///
/// # Errors
/// What would be right.
pub fn milliseconds(value: f64) -> Result<Nanos, String> {
    if value > 0.0 && value <= 86_400_000.0 {
        Ok(Nanos::from_f64(value * 1e6))
    } else {
        Err(format!("{value} is not above 0 and at most 86400000 milliseconds"))
    }
}

/// A positive energy in millijoules, as whole microjoules. Written so that NaN fails.
///
/// # Errors
/// What would be right.
pub fn millijoules(value: f64) -> Result<u64, String> {
    if value > 0.0 && value <= 1e9 {
        Ok(crate::units::Microjoules::from_f64(value * 1e3).0)
    } else {
        Err(format!("{value} is not above 0 and at most 1000000000 millijoules"))
    }
}

type Refusal = (&'static str, String);

impl RawApp {
    fn validate(self) -> Result<App, Refusal> {
        let named = |key: &'static str| move |message: String| (key, message);
        if self.name.is_empty() {
            return Err(("name", "empty; a short word is right".to_owned()));
        }
        let start = span(self.start_s, 0.0, LENGTH_LIMIT_S).map_err(named("start_s"))?;
        let end = span(self.end_s, 0.0, LENGTH_LIMIT_S).map_err(named("end_s"))?;
        if end <= start {
            let message = format!("{} is not after start_s = {}", self.end_s, self.start_s);
            return Err(("end_s", message));
        }
        let arrival = self.arrival()?;
        let outstanding = match (arrival, self.outstanding) {
            (Arrival::Closed(_), Some(_)) => {
                let message = "a closed loop has as many outstanding requests as clients".to_owned();
                return Err(("outstanding", message));
            }
            (Arrival::Closed(clients), None) => clients,
            (_, given) => clients(given.unwrap_or(DEFAULT_OUTSTANDING)).map_err(named("outstanding"))?,
        };
        if self.batch == 0 || self.batch > 1024 {
            return Err(("batch", format!("{} is not within 1 to 1024 items", self.batch)));
        }
        Ok(App {
            start,
            end,
            arrival,
            outstanding,
            deadline: self.deadline_ms.map(milliseconds).transpose().map_err(named("deadline_ms"))?,
            min_accuracy: self.min_accuracy.map(accuracy).transpose().map_err(named("min_accuracy"))?,
            max_energy_uj: self.max_energy_mj.map(millijoules).transpose().map_err(named("max_energy_mj"))?,
            name: self.name,
            model: self.model,
            variant: self.variant,
            class: self.class,
            batch: self.batch,
        })
    }

    fn arrival(&self) -> Result<Arrival, Refusal> {
        match (self.arrival, self.rate_hz, self.clients) {
            (ArrivalKind::Closed, None, number) => {
                clients(number.unwrap_or(1)).map(Arrival::Closed).map_err(|message| ("clients", message))
            }
            (ArrivalKind::Closed, Some(_), _) => {
                let message = "a closed loop has no rate: it sends when an answer came".to_owned();
                Err(("rate_hz", message))
            }
            (_, _, Some(_)) => {
                let message =
                    "only arrival = \"closed\" has clients; `outstanding` bounds the others".to_owned();
                Err(("clients", message))
            }
            (_, None, None) => Err(("rate_hz", "missing; requests a second, such as 15.0".to_owned())),
            (kind, Some(hz), None) => {
                let hz = rate(hz).map_err(|message| ("rate_hz", message))?;
                Ok(if kind == ArrivalKind::Poisson { Arrival::Poisson(hz) } else { Arrival::Periodic(hz) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(extra: &str) -> String {
        format!("title = \"t\"\n[[app]]\nname = \"a\"\nmodel = \"m\"\n{extra}")
    }

    #[test]
    fn a_camera_is_understood() {
        let text =
            app("end_s = 10\narrival = \"periodic\"\nrate_hz = 15\ndeadline_ms = 50\nmin_accuracy = 0.9");
        let scenario = Scenario::parse(&text, "x").unwrap();
        assert_eq!(scenario.apps[0].arrival, Arrival::Periodic(15.0));
        assert_eq!(scenario.apps[0].deadline, Some(Nanos::from_millis(50)));
        assert_eq!(scenario.apps[0].min_accuracy, Some(Ppm(900_000)));
        assert_eq!(scenario.apps[0].outstanding, DEFAULT_OUTSTANDING);
        assert_eq!(scenario.length(), Nanos::from_secs(10));
        assert_eq!(scenario.stretched(0.1).length(), Nanos::from_secs(1));
    }

    #[test]
    fn nonsense_is_refused_by_key() {
        let open = "arrival = \"periodic\"\nrate_hz = 1\n";
        for (extra, expected) in [
            ("end_s = 0\narrival = \"closed\"".to_owned(), "x: app \"a\".end_s: 0 is not after start_s = 0"),
            (format!("end_s = nan\n{open}"), "x: app \"a\".end_s: NaN is not within 0"),
            ("end_s = 1\narrival = \"periodic\"".to_owned(), "x: app \"a\".rate_hz: missing"),
            (
                "end_s = 1\narrival = \"poisson\"\nrate_hz = nan".to_owned(),
                "x: app \"a\".rate_hz: NaN is not",
            ),
            (
                "end_s = 1\narrival = \"closed\"\nrate_hz = 1".to_owned(),
                "x: app \"a\".rate_hz: a closed loop",
            ),
            ("end_s = 1\narrival = \"closed\"\nclients = 0".to_owned(), "x: app \"a\".clients: 0 is not"),
            (format!("end_s = 1\n{open}clients = 3"), "x: app \"a\".clients: only arrival"),
            (format!("end_s = 1\n{open}deadline_ms = -4"), "x: app \"a\".deadline_ms: -4 is not"),
            (format!("end_s = 1\n{open}min_accuracy = 92"), "x: app \"a\".min_accuracy: 92 is not a share"),
            (format!("end_s = 1\n{open}batch = 0"), "x: app \"a\".batch: 0 is not"),
            (format!("end_s = 1\n{open}outstanding = 0"), "x: app \"a\".outstanding: 0 is not"),
        ] {
            let error = Scenario::parse(&app(&extra), "x").unwrap_err().to_string();
            assert!(error.starts_with(expected), "{extra:?} gave {error:?}");
        }
        let error = Scenario::parse("title = \"t\"", "x").unwrap_err().to_string();
        assert!(error.starts_with("x: app: 0 applications"), "{error}");
        let error = Scenario::parse(&app("end_s = 1\narrival = \"closed\"\nrat = 1"), "x").unwrap_err();
        assert!(error.to_string().contains("unknown field `rat`"), "{error}");
        let one = "[[app]]\nname = \"a\"\nmodel = \"m\"\nend_s = 1\narrival = \"closed\"\n";
        let error = Scenario::parse(&format!("title = \"t\"\n{one}{one}"), "x").unwrap_err();
        assert!(error.to_string().contains("used twice"), "{error}");
    }

    #[test]
    fn flags_mean_what_the_keys_mean() {
        let flags = SimpleFlags { model: "m".into(), seconds: 30.0, batch: 1, ..SimpleFlags::default() };
        let closed = Scenario::simple(SimpleFlags { clients: Some(4), ..flags.clone() }).unwrap();
        assert_eq!((closed.apps[0].arrival, closed.apps[0].outstanding), (Arrival::Closed(4), 4));
        let open =
            Scenario::simple(SimpleFlags { rate_hz: Some(15.0), poisson: true, ..flags.clone() }).unwrap();
        assert_eq!(open.apps[0].arrival, Arrival::Poisson(15.0));
        let error = Scenario::simple(SimpleFlags { seconds: f64::NAN, ..flags }).unwrap_err().to_string();
        assert!(error.starts_with("command line: end_s: NaN is not within"), "{error}");
    }

    #[test]
    fn the_shipped_scenarios_are_valid() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/scenarios");
        let mut seen = 0;
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            Scenario::read(&path).unwrap();
            seen += 1;
        }
        assert!(seen > 0, "no scenario in {}", folder.display());
    }
}
