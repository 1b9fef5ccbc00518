//! Figures for people.

use crate::units::Nanos;

/// A span as milliseconds.
pub(super) fn millis(span: Nanos) -> String {
    micros(i64::try_from(span.as_micros()).unwrap_or(i64::MAX))
}

/// Microseconds as milliseconds, or as seconds from ten of them on.
#[allow(clippy::cast_precision_loss, reason = "for people")]
pub(super) fn micros(us: i64) -> String {
    let ms = us as f64 / 1e3;
    if ms.abs() >= 10_000.0 { format!("{:.1} s", ms / 1e3) } else { format!("{ms:.2} ms") }
}

/// Microjoules as millijoules; as joules from one on, as they are up to ten.
pub(super) fn millijoules(uj: f64) -> String {
    if uj >= 1e6 {
        format!("{:.2} J", uj / 1e6)
    } else if uj < 10.0 {
        format!("{uj:.0} µJ")
    } else {
        format!("{:.2} mJ", uj / 1e3)
    }
}

/// A share as per cent; what would round to nothing is said to be below what is shown.
pub(super) fn share(share: f64) -> String {
    let percent = share * 100.0;
    if percent > 0.0 && percent < 0.01 { "< 0.01 %".to_owned() } else { format!("{percent:.2} %") }
}

/// A clock; nothing where the unit has none.
pub(super) fn clock(khz: u32) -> String {
    if khz == 0 { String::new() } else { format!("{} MHz", khz / 1000) }
}

/// The clocks of a unit and of its memory.
pub(super) fn clocks(khz: u32, memory_khz: Option<u32>) -> String {
    let memory = memory_khz.map(|khz| format!("memory {}", clock(khz)));
    let own = Some(clock(khz)).filter(|clock| !clock.is_empty());
    own.into_iter().chain(memory).collect::<Vec<_>>().join(", ")
}

/// Microseconds as seconds.
#[allow(clippy::cast_precision_loss, reason = "for people")]
pub(super) fn seconds(us: u64) -> String {
    format!("{:.3} s", us as f64 / 1e6)
}
