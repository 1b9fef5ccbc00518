//! What a reload changes: which keys differ, which of them can change while the daemon runs, and the
//! configuration that results.

use super::{Config, RawConfig};
use serde_json::Value;
use std::fmt;

/// Keys that take effect on SIGHUP; a key ending in `.` or `[` stands for all below it. All others need a
/// restart: they name files, sockets and sessions that are open already.
const LIVE: [&str; 6] = ["budget.", "memory.", "class[", "log.level", "profile.", "deploy."];

/// Whether the key at `path` (such as `budget.power_cap_w` or `class[0].name`) can change while running.
#[must_use]
pub fn is_live(path: &str) -> bool {
    LIVE.iter().any(|live| if live.ends_with(['.', '[']) { path.starts_with(live) } else { path == *live })
}

/// One key that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Path of the key.
    pub key: String,
    /// The value before, as JSON; `null` if there was none.
    pub before: String,
    /// The value now.
    pub after: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.key, self.before, self.after)
    }
}

/// What differs between two configurations.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Takes effect at once.
    pub live: Vec<Change>,
    /// Takes effect at the next start.
    pub restart: Vec<Change>,
}

impl Changes {
    /// Whether a key below `prefix` changed live.
    #[must_use]
    pub fn touches(&self, prefix: &str) -> bool {
        self.live.iter().any(|change| change.key.starts_with(prefix))
    }

    /// Whether the core must be told ([`crate::core::event::Event::Reconfigured`]).
    #[must_use]
    pub fn budgets_changed(&self) -> bool {
        ["budget.", "memory.", "class["].iter().any(|prefix| self.touches(prefix))
    }
}

impl Config {
    /// What a reload of `new` changes, key by key.
    #[must_use]
    pub fn changes(&self, new: &Self) -> Changes {
        let mut changes = Changes::default();
        compare("", &json(&self.raw), &json(&new.raw), &mut |change| {
            if is_live(&change.key) { changes.live.push(change) } else { changes.restart.push(change) }
        });
        // A user or group can change behind an unchanged name.
        if changes.live.is_empty() && self.class_rules != new.class_rules {
            let (before, after) = (format!("{:?}", self.class_rules), format!("{:?}", new.class_rules));
            changes.live.push(Change { key: "class[].apps".to_owned(), before, after });
        }
        changes
    }

    /// The configuration in force after a reload: from `new` what can change live, the rest as it was.
    ///
    /// An energy or battery allowance whose keys are unchanged is kept as it was, time left included, so
    /// that a reload for another reason does not fill it up again: the core starts it anew only if it differs.
    #[must_use]
    pub fn adopt(&self, new: &Self) -> Self {
        let mut adopted = self.clone();
        adopted.budgets = new.budgets.clone();
        if self.raw.budget.energy == new.raw.budget.energy {
            adopted.budgets.energy = self.budgets.energy;
        }
        if self.raw.budget.battery == new.raw.budget.battery {
            adopted.budgets.battery = self.budgets.battery;
        }
        adopted.class_rules.clone_from(&new.class_rules);
        adopted.log.filter.clone_from(&new.log.filter);
        adopted.profile = new.profile;
        adopted.raw.budget = new.raw.budget.clone();
        adopted.raw.memory = new.raw.memory.clone();
        adopted.raw.class.clone_from(&new.raw.class);
        adopted.raw.log.level.clone_from(&new.raw.log.level);
        adopted.raw.profile = new.raw.profile.clone();
        adopted.deploy = new.deploy.clone();
        adopted.raw.deploy = new.raw.deploy.clone();
        adopted
    }
}

/// The raw shape is plain data; what cannot be shown as JSON (a path that is not UTF-8) compares as null.
fn json(raw: &RawConfig) -> Value {
    serde_json::to_value(raw).unwrap_or(Value::Null)
}

fn compare(path: &str, before: &Value, after: &Value, report: &mut dyn FnMut(Change)) {
    match (before, after) {
        (Value::Object(old), Value::Object(new)) => {
            for key in old.keys().chain(new.keys().filter(|key| !old.contains_key(*key))) {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                compare(&path, &before[key.as_str()], &after[key.as_str()], report);
            }
        }
        (Value::Array(old), Value::Array(new)) if old.iter().chain(new).all(Value::is_object) => {
            for index in 0..old.len().max(new.len()) {
                compare(&format!("{path}[{index}]"), &before[index], &after[index], report);
            }
        }
        _ if before == after => {}
        _ => {
            let key = path.to_owned();
            report(Change { key, before: before.to_string(), after: after.to_string() });
        }
    }
}
