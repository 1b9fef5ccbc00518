//! Thermal regimes and the power that the heat allows.
//!
//! ```text
//!            first complete sweep                T > limit - margin
//!   Boot ───────────────────────────▶ Nominal ◀────────────────────▶ Throttled
//!                                        ▲     T < limit - 2 margin      │
//!                 all zones fresh again  │                               │ T > critical - margin
//!   Uncontrollable ──────────────────────┘        T < limit - margin     ▼
//!     ▲ a zone went blind, from any regime    ◀─────────────────────  Critical
//! ```
//!
//! The allowance looks ahead by three of the die's time constants: the heatsink's temperature follows from the
//! die's by the power of the last few seconds, `T_sink = T - R_fast * P`; from there the learned air and
//! resistance say with which power the die ends at the limit less the margin (see `estimate/heat.rs`). As the
//! sink warms the allowance shrinks towards the power that can be drawn for ever, and the board settles at the
//! margin instead of swinging across the trip point.

use crate::core::catalog::{Board, ThermalModel, ZoneId};
use crate::core::energy::Budgets;
use crate::core::estimate::Estimates;
use crate::core::snapshot::Snapshot;
use crate::time::Timestamp;
use crate::units::{Microwatts, MilliCelsius, Nanos};
use serde::{Deserialize, Serialize};

/// Nothing is allowed in the last third of the margin.
const STOP_SHARE: f64 = 3.0;
/// How far to look ahead, in time constants of the die: 95 % of what it will do is done by then.
const HORIZON: f64 = 3.0;

/// How hot the board is, and how far the core trusts that it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Regime {
    /// No complete reading yet: act as if hot.
    #[default]
    Boot,
    /// Below the limit by the margin.
    Nominal,
    /// Near or above the limit: power is held back.
    Throttled,
    /// At the critical trip: lowest clocks, nothing new is started.
    Critical,
    /// Readings are missing: act as if hot.
    Uncontrollable,
}

impl Regime {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Boot, Self::Nominal, Self::Throttled, Self::Critical, Self::Uncontrollable];

    /// The name in metrics and the status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Nominal => "nominal",
            Self::Throttled => "throttled",
            Self::Critical => "critical",
            Self::Uncontrollable => "uncontrollable",
        }
    }

    /// Whether the core does not know how hot the board is.
    #[must_use]
    pub const fn is_blind(self) -> bool {
        matches!(self, Self::Boot | Self::Uncontrollable)
    }
}

/// A change of regime with what caused it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Transition {
    /// Before.
    pub from: Regime,
    /// After.
    pub to: Regime,
    /// The zone that decided, if one did.
    pub zone: Option<ZoneId>,
    /// Its temperature.
    pub temperature: Option<MilliCelsius>,
    /// Age of that reading.
    pub age: Nanos,
}

/// The zone nearest to its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Hottest {
    zone: ZoneId,
    temperature: MilliCelsius,
    /// Limit less temperature.
    headroom: MilliCelsius,
    /// Critical trip less temperature.
    to_critical: MilliCelsius,
    age: Nanos,
}

/// What the zones amount to.
enum Heat {
    /// The board has no zones.
    Unknown,
    /// No zone ever gave a value.
    Silent,
    /// A zone that used to give values has none now.
    Blind(Hottest),
    /// All zones that ever spoke are fresh.
    Seen(Hottest),
}

/// The regime, and the smoothed power that the allowance is computed from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Thermal {
    regime: Regime,
    model: ThermalModel,
    die_power_w: f64,
    updated_at: Option<Timestamp>,
}

/// The temperature that this zone must not pass.
#[must_use]
pub fn limit(board: &Board, budgets: &Budgets, zone: usize) -> MilliCelsius {
    let passive = board.zones[zone].passive;
    budgets.max_temperature.map_or(passive, |limit| limit.min(passive))
}

impl Thermal {
    /// In regime [`Regime::Boot`].
    #[must_use]
    pub fn new(board: &Board) -> Self {
        Self {
            regime: Regime::Boot,
            model: board.thermal,
            die_power_w: board.idle_power.as_watts(),
            updated_at: None,
        }
    }

    /// The present regime.
    #[must_use]
    pub fn regime(&self) -> Regime {
        self.regime
    }

    /// Takes in a new snapshot, or the mere passing of time. `power` is the board's present power.
    pub fn update(
        &mut self,
        now: Timestamp,
        snapshot: &Snapshot,
        budgets: &Budgets,
        board: &Board,
        power: Microwatts,
    ) -> Option<Transition> {
        let elapsed = self.updated_at.map_or(0.0, |at| now.since(at).as_secs_f64());
        let gain = 1.0 - (-elapsed / self.model.fast_tau_s.max(0.1)).exp();
        self.die_power_w += gain * (power.as_watts() - self.die_power_w);
        self.updated_at = Some(now);
        let heat = heat(now, snapshot, budgets, board);
        let to = self.next(&heat, budgets.temperature_margin);
        if to == self.regime {
            return None;
        }
        let cause = match heat {
            Heat::Blind(hottest) | Heat::Seen(hottest) => Some(hottest),
            Heat::Unknown | Heat::Silent => None,
        };
        let from = std::mem::replace(&mut self.regime, to);
        Some(Transition {
            from,
            to,
            zone: cause.map(|hottest| hottest.zone),
            temperature: cause.map(|hottest| hottest.temperature),
            age: cause.map_or(Nanos::ZERO, |hottest| hottest.age),
        })
    }

    fn next(&self, heat: &Heat, margin: MilliCelsius) -> Regime {
        let hottest = match heat {
            Heat::Unknown => return Regime::Nominal,
            Heat::Silent if self.regime == Regime::Boot => return Regime::Boot,
            Heat::Silent | Heat::Blind(_) => return Regime::Uncontrollable,
            Heat::Seen(hottest) => hottest,
        };
        if hottest.to_critical < margin || (self.regime == Regime::Critical && hottest.headroom < margin) {
            Regime::Critical
        } else if hottest.headroom < margin
            || (self.regime == Regime::Throttled && hottest.headroom.0 < margin.0.saturating_mul(2))
        {
            Regime::Throttled
        } else {
            Regime::Nominal
        }
    }

    /// Power of the whole board that keeps every zone below its limit less the margin; `None` if the
    /// board has no zones. Inside the margin some of `frugal` is still allowed above `idle`: all of it at its
    /// edge, and less towards the limit, so that cheaper variants take over before anybody is turned away.
    /// Just below the limit, where a coarse sensor may already hide that it is passed, and on a critical
    /// board, nothing is. A blind board is allowed all of it: somebody must notice that it is blind.
    #[must_use]
    pub fn allowance(
        &self,
        now: Timestamp,
        snapshot: &Snapshot,
        budgets: &Budgets,
        board: &Board,
        estimates: &Estimates,
        frugal: Microwatts,
    ) -> Option<Microwatts> {
        let idle = estimates.idle_power();
        let hottest = match heat(now, snapshot, budgets, board) {
            Heat::Unknown => return None,
            Heat::Silent | Heat::Blind(_) => return Some(idle.saturating_add(frugal)),
            Heat::Seen(hottest) => hottest,
        };
        let margin_k = budgets.temperature_margin.as_celsius();
        let stop_k = margin_k / STOP_SHARE;
        let headroom_k = hottest.headroom.as_celsius();
        if self.regime == Regime::Critical || headroom_k <= stop_k {
            return Some(Microwatts::ZERO);
        }
        let share = ((headroom_k - stop_k) / (margin_k - stop_k).max(1e-3)).min(1.0);
        let floor_w = idle.as_watts() + frugal.as_watts() * share;
        if !estimates.tuning().thermal_horizon {
            return (headroom_k < margin_k).then(|| Microwatts::from_watts(floor_w));
        }
        let sink_c = hottest.temperature.as_celsius() - self.model.fast_k_per_w.max(1e-3) * self.die_power_w;
        let limit_c = hottest.temperature.as_celsius() + headroom_k - margin_k;
        let horizon = Nanos::from_secs_f64(HORIZON * self.model.fast_tau_s);
        let allowed_w = estimates.watts_within(sink_c, limit_c, horizon);
        Some(Microwatts::from_watts(allowed_w.max(floor_w)))
    }
}

fn heat(now: Timestamp, snapshot: &Snapshot, budgets: &Budgets, board: &Board) -> Heat {
    let mut hottest: Option<Hottest> = None;
    let mut blind: Option<Hottest> = None;
    for (zone, aged) in snapshot.zones.iter().enumerate() {
        let Some(temperature) = aged.value else { continue };
        let seen = Hottest {
            zone: ZoneId::at(zone),
            temperature,
            headroom: limit(board, budgets, zone).saturating_sub(temperature),
            to_critical: board.zones[zone].critical.saturating_sub(temperature),
            age: now.since(aged.at),
        };
        let slot = if seen.age > budgets.stale_after { &mut blind } else { &mut hottest };
        if slot.is_none_or(|known| seen.headroom < known.headroom) {
            *slot = Some(seen);
        }
    }
    match (blind, hottest) {
        _ if snapshot.zones.is_empty() => Heat::Unknown,
        (Some(blind), _) => Heat::Blind(blind),
        (None, Some(hottest)) => Heat::Seen(hottest),
        (None, None) => Heat::Silent,
    }
}
