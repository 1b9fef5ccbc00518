//! Integer newtypes for every physical quantity that crosses a module boundary.
//!
//! Floating point stays inside the models and estimators; what is stored, sent or compared for
//! equality is an integer with its unit in the type.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident($inner:ty), $suffix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The zero quantity.
            pub const ZERO: Self = Self(0);
            /// The largest quantity that can be represented.
            pub const MAX: Self = Self(<$inner>::MAX);

            /// Sum, clamped at the ends of the range.
            #[must_use]
            pub const fn saturating_add(self, other: Self) -> Self {
                Self(self.0.saturating_add(other.0))
            }

            /// Difference, clamped at the ends of the range.
            #[must_use]
            pub const fn saturating_sub(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }

            /// The number as floating point, in the unit of the type.
            #[must_use]
            #[allow(clippy::cast_precision_loss, reason = "models work in f64; 53 bits are enough")]
            pub const fn as_f64(self) -> f64 {
                self.0 as f64
            }

            /// The nearest representable quantity, halves away from zero; NaN becomes zero.
            #[must_use]
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "`as` saturates, which is what is wanted"
            )]
            pub const fn from_f64(value: f64) -> Self {
                // `f64::round` is a call where the processor may lack SSE4.1. What is left over is exact: where there is
                // a fraction, 53 bits hold the whole number.
                let whole = value as $inner;
                let rest = value - whole as f64;
                Self(whole.saturating_add((rest >= 0.5) as $inner).saturating_sub((rest <= -0.5) as $inner))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{} ", $suffix), self.0)
            }
        }
    };
}

quantity!(
    /// Temperature in thousandths of a degree Celsius, as the kernel's thermal zones report it.
    MilliCelsius(i32), "m°C");
quantity!(
    /// Clock rate in kilohertz, as cpufreq reports it (devfreq's hertz are converted at the edge).
    Kilohertz(u32), "kHz");
quantity!(
    /// Power in microwatts. Signed: some rails idle slightly negative.
    Microwatts(i64), "µW");
quantity!(
    /// Energy in microjoules.
    Microjoules(u64), "µJ");
quantity!(
    /// A share or accuracy in parts per million: 1 000 000 is all of it.
    Ppm(u32), "ppm");
quantity!(
    /// An amount of memory in bytes.
    Bytes(u64), "B");
quantity!(
    /// A span of time in nanoseconds.
    Nanos(u64), "ns");

impl Nanos {
    /// A span of whole microseconds.
    #[must_use]
    pub const fn from_micros(us: u64) -> Self {
        Self(us.saturating_mul(1_000))
    }

    /// A span of whole milliseconds.
    #[must_use]
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms.saturating_mul(1_000_000))
    }

    /// A span of whole seconds.
    #[must_use]
    pub const fn from_secs(s: u64) -> Self {
        Self(s.saturating_mul(1_000_000_000))
    }

    /// Whole microseconds, rounded down.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0 / 1_000
    }

    /// Seconds as floating point.
    #[must_use]
    pub const fn as_secs_f64(self) -> f64 {
        self.as_f64() / 1e9
    }

    /// The nearest span to a number of seconds; negative and NaN become zero.
    #[must_use]
    pub const fn from_secs_f64(s: f64) -> Self {
        Self::from_f64(s * 1e9)
    }
}

impl From<Nanos> for std::time::Duration {
    fn from(span: Nanos) -> Self {
        Self::from_nanos(span.0)
    }
}

impl From<std::time::Duration> for Nanos {
    fn from(span: std::time::Duration) -> Self {
        Self(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl Kilohertz {
    /// Gigahertz as floating point: the unit of the power and latency models.
    #[must_use]
    pub const fn as_ghz(self) -> f64 {
        self.as_f64() / 1e6
    }
}

impl Microwatts {
    /// Energy of this power held for `span`; a negative power yields none.
    #[must_use]
    pub const fn over(self, span: Nanos) -> Microjoules {
        Microjoules::from_f64(self.as_f64() * span.as_secs_f64())
    }

    /// Watts as floating point.
    #[must_use]
    pub const fn as_watts(self) -> f64 {
        self.as_f64() / 1e6
    }

    /// The nearest power to a number of watts.
    #[must_use]
    pub const fn from_watts(w: f64) -> Self {
        Self::from_f64(w * 1e6)
    }
}

impl MilliCelsius {
    /// Degrees Celsius as floating point.
    #[must_use]
    pub const fn as_celsius(self) -> f64 {
        self.as_f64() / 1e3
    }

    /// The nearest temperature to a number of degrees Celsius.
    #[must_use]
    pub const fn from_celsius(c: f64) -> Self {
        Self::from_f64(c * 1e3)
    }
}

impl Ppm {
    /// All of it: one, as a share.
    pub const ONE: Self = Self(1_000_000);

    /// The share as a fraction of one.
    #[must_use]
    pub const fn as_fraction(self) -> f64 {
        self.as_f64() / 1e6
    }

    /// The nearest share to a fraction of one.
    #[must_use]
    pub const fn from_fraction(fraction: f64) -> Self {
        Self::from_f64(fraction * 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_watts_for_half_a_second_are_one_joule() {
        assert_eq!(Microwatts(2_000_000).over(Nanos::from_millis(500)), Microjoules(1_000_000));
    }

    #[test]
    fn a_negative_rail_costs_nothing() {
        assert_eq!(Microwatts(-5_000).over(Nanos::from_secs(10)), Microjoules::ZERO);
    }

    /// The nearest integer, as the standard library finds it.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
    fn agrees(value: f64) {
        assert_eq!(Nanos::from_f64(value).0, value.round() as u64, "{value:e}");
        assert_eq!(Microwatts::from_f64(value).0, value.round() as i64, "{value:e}");
        assert_eq!(MilliCelsius::from_f64(value).0, value.round() as i32, "{value:e}");
        assert_eq!(Ppm::from_f64(value).0, value.round() as u32, "{value:e}");
    }

    #[test]
    fn the_nearest_is_found_at_every_edge() {
        let ends = [31, 32, 51, 52, 53, 62, 63, 64, 65, 127].map(|power| 2f64.powi(power));
        let edges =
            [0.0, 0.25, 0.5, 1.0, 1.5, 2.5, 1e-300, 1e300, f64::MIN_POSITIVE, f64::MAX, f64::INFINITY];
        for edge in edges.into_iter().chain(ends).chain(ends.map(|end| end - 0.5)) {
            for value in [edge, edge.next_up(), edge.next_down()] {
                agrees(value);
                agrees(-value);
            }
        }
        agrees(f64::NAN);
    }

    proptest::proptest! {
        #[test]
        fn the_nearest_is_found(bits in proptest::prelude::any::<u64>(), small in -1e7f64..1e7) {
            agrees(f64::from_bits(bits));
            agrees(small);
            agrees((small * 2.0).round() / 2.0);
        }
    }

    #[test]
    fn not_a_number_becomes_zero() {
        assert_eq!(Microwatts::from_watts(f64::NAN), Microwatts::ZERO);
        assert_eq!(Nanos::from_secs_f64(-1.0), Nanos::ZERO);
    }
}
