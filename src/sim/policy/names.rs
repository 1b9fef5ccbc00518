//! Policies by name.

use super::Policy;
use super::alert::{Alert, Scheme};
use super::governor::{Governed, Governor};
use super::pace::SlowestFeasible;
use super::poet::Poet;
use super::server::Server;
use super::thermal::Thermal;
use super::variant::Pick;
use super::view::Only;
use crate::core::Core;
use crate::core::catalog::Catalog;
use crate::core::energy::Budgets;
use crate::core::tuning::Tuning;
use crate::sim::{Machine, Scheduler};
use crate::time::Timestamp;

/// The policies. Those that do not choose a variant also exist with `-smallest` and `-fixed:NAME`.
pub const NAMES: [&str; 20] = [
    "wattd",
    "wattd-no-hedging",
    "wattd-gaussian-tail",
    "wattd-one-slowdown",
    "wattd-no-thermal-horizon",
    "performance",
    "powersave",
    "ondemand",
    "schedutil",
    "race-to-idle",
    "slowest-feasible",
    "static-best",
    "alert",
    "alert-max-accuracy",
    "alert-app-only",
    "alert-sys-only",
    "alert-no-coord",
    "poet",
    "ipa",
    "step-wise",
];

/// Why there is no policy of a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnknownPolicy {
    /// No policy is called that.
    #[error(
        "`{name}` is no policy; there are: {}; those that do not choose a variant also with -smallest and -fixed:NAME",
        NAMES.join(", ")
    )]
    Name {
        /// The name asked for.
        name: String,
    },
    /// It is chosen by trial on training traces, which only [`super::Training`] has.
    #[error("`{0}` must be trained on the traces of a scenario first")]
    Untrained(String),
    /// No model has a variant of the name after `-fixed:`.
    #[error("`{policy}`: no model has a variant `{variant}`; there are: {}", known.join(", "))]
    Variant {
        /// The policy's name.
        policy: String,
        /// The variant's.
        variant: String,
        /// What could be named.
        known: Vec<String>,
    },
}

/// The policy of a name, before its first event.
///
/// # Errors
/// If there is none; the error says which there are. `static-best` is built by [`super::Training::build`].
pub fn build(
    name: &str,
    machine: &Machine,
    budgets: &Budgets,
) -> Result<Box<dyn Scheduler + Send>, UnknownPolicy> {
    let (catalog, budgets) = (machine.catalog.clone(), budgets.clone());
    if let Some(policy) = chooser(name) {
        return Ok(policy(catalog, budgets));
    }
    if name == super::static_best::NAME {
        return Err(UnknownPolicy::Untrained(name.to_owned()));
    }
    let (base, pick, fixed) = match name.split_once("-fixed:") {
        Some((base, variant)) => (base, Pick::Largest, Some(variant)),
        None => match name.strip_suffix("-smallest") {
            Some(base) => (base, Pick::Smallest, None),
            None => (name, Pick::Largest, None),
        },
    };
    let Some((governor, thermal)) = governor(base) else {
        return Err(UnknownPolicy::Name { name: name.to_owned() });
    };
    let only = fixed.map_or(Ok(Only::new()), |variant| deployed(&catalog, name, variant))?;
    Ok(Box::new(Server::new(catalog, budgets, only, Governed::new(governor, pick, thermal))))
}

type Build = fn(Catalog, Budgets) -> Box<dyn Scheduler + Send>;

/// Policies that choose the variant themselves.
fn chooser(name: &str) -> Option<Build> {
    Some(match name {
        "wattd" => |catalog, budgets| core(catalog, budgets, Tuning::default()),
        "wattd-no-hedging" => {
            |catalog, budgets| core(catalog, budgets, Tuning { hedging: false, ..Tuning::default() })
        }
        "wattd-gaussian-tail" => {
            |catalog, budgets| core(catalog, budgets, Tuning { gaussian_tail: true, ..Tuning::default() })
        }
        "wattd-one-slowdown" => {
            |catalog, budgets| core(catalog, budgets, Tuning { one_slowdown: true, ..Tuning::default() })
        }
        "wattd-no-thermal-horizon" => {
            |catalog, budgets| core(catalog, budgets, Tuning { thermal_horizon: false, ..Tuning::default() })
        }
        "slowest-feasible" => |catalog, budgets| serve(catalog, budgets, SlowestFeasible::default()),
        "alert" => |catalog, budgets| serve(catalog, budgets, Alert::new(Scheme::MinEnergy)),
        "alert-max-accuracy" => |catalog, budgets| serve(catalog, budgets, Alert::new(Scheme::MaxAccuracy)),
        "alert-app-only" => |catalog, budgets| serve(catalog, budgets, Alert::new(Scheme::AppOnly)),
        "alert-sys-only" => |catalog, budgets| serve(catalog, budgets, Alert::new(Scheme::SysOnly)),
        "alert-no-coord" => |catalog, budgets| serve(catalog, budgets, Alert::new(Scheme::NoCoord)),
        "poet" => |catalog, budgets| serve(catalog, budgets, Poet::default()),
        _ => return None,
    })
}

fn core(catalog: Catalog, budgets: Budgets, tuning: Tuning) -> Box<dyn Scheduler + Send> {
    Box::new(Core::tuned(catalog, budgets, tuning, Timestamp::ZERO))
}

fn serve(
    catalog: Catalog,
    budgets: Budgets,
    policy: impl Policy + Send + 'static,
) -> Box<dyn Scheduler + Send> {
    Box::new(Server::new(catalog, budgets, Only::new(), policy))
}

fn governor(name: &str) -> Option<(Governor, Option<Thermal>)> {
    Some(match name {
        "performance" => (Governor::Performance, None),
        "powersave" => (Governor::Powersave, None),
        "ondemand" => (Governor::Ondemand, None),
        "schedutil" => (Governor::Schedutil, None),
        "race-to-idle" => (Governor::RaceToIdle, None),
        "ipa" => (Governor::Schedutil, Some(Thermal::power_allocator())),
        "step-wise" => (Governor::Schedutil, Some(Thermal::step_wise())),
        _ => return None,
    })
}

/// The variant of a name in each model that has one.
fn deployed(catalog: &Catalog, policy: &str, variant: &str) -> Result<Only, UnknownPolicy> {
    let named = |model: &crate::core::catalog::Model| {
        let mut ids = model.variants.iter().copied();
        ids.find(|id| catalog.variants[id.index()].name == variant)
    };
    let only: Only = catalog.models.iter().map(named).collect();
    if only.iter().any(Option::is_some) {
        return Ok(only);
    }
    let known = catalog.variants.iter().map(|variant| variant.name.clone()).collect();
    Err(UnknownPolicy::Variant { policy: policy.to_owned(), variant: variant.to_owned(), known })
}
