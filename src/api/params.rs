//! Parameters of requests and responses, common to gRPC and REST.

use super::backend::{Answer, Wishes};
use super::status::ApiError;
use crate::core::catalog::Provenance;
use crate::core::event::Served;
use crate::units::{Microjoules, Nanos, Ppm};
use std::borrow::Cow;

/// Longest deadline that a request may ask for. Anything longer is a mistake of units.
const LONGEST_DEADLINE: Nanos = Nanos::from_secs(24 * 3600);
/// Longest name of a variant or class.
const LONGEST_NAME: usize = 128;

/// Value of a parameter.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value<'a> {
    /// True or false.
    Bool(bool),
    /// Any integer of up to 64 bits, signed or not.
    Int(i128),
    /// A floating-point number; some clients send accuracies so.
    Float(f64),
    /// Text.
    Text(Cow<'a, str>),
}

impl Value<'_> {
    fn describe(&self) -> String {
        match self {
            Self::Bool(value) => format!("the bool {value}"),
            Self::Int(value) => format!("{value}"),
            Self::Float(value) => format!("{value}"),
            Self::Text(value) => format!("{:?}", clip(value)),
        }
    }

    /// An integer, also if it came as text.
    fn integer(&self) -> Option<i128> {
        match self {
            Self::Int(value) => Some(*value),
            Self::Text(text) => text.trim().parse().ok(),
            Self::Bool(_) | Self::Float(_) => None,
        }
    }

    /// An integer from `least` to `most`.
    fn within(&self, key: &str, least: u64, most: u64) -> Result<u64, ApiError> {
        let fits = |value: &i128| (i128::from(least)..=i128::from(most)).contains(value);
        self.integer().filter(fits).and_then(|value| u64::try_from(value).ok()).ok_or_else(|| {
            let found = self.describe();
            ApiError::parameter(format!("parameter {key}: {found} is not an integer from {least} to {most}"))
        })
    }

    fn name(&self, key: &str) -> Result<String, ApiError> {
        match self {
            Self::Text(text) if !text.is_empty() && text.len() <= LONGEST_NAME => Ok(text.to_string()),
            other => {
                let found = other.describe();
                let message = format!("parameter {key}: {found} is not a name of 1 to {LONGEST_NAME} bytes");
                Err(ApiError::parameter(message))
            }
        }
    }

    pub(super) fn flag(&self, key: &str) -> Result<bool, ApiError> {
        match self {
            Self::Bool(value) => Ok(*value),
            Self::Int(0) => Ok(false),
            Self::Int(1) => Ok(true),
            Self::Text(text) if text == "true" => Ok(true),
            Self::Text(text) if text == "false" => Ok(false),
            other => Err(ApiError::parameter(format!(
                "parameter {key}: {} is neither true nor false",
                other.describe()
            ))),
        }
    }

    /// A number of bytes, or an offset.
    pub(super) fn size(&self, key: &str) -> Result<u64, ApiError> {
        self.within(key, 0, i64::MAX.unsigned_abs())
    }

    pub(super) fn text(&self, key: &str) -> Result<&str, ApiError> {
        match self {
            Self::Text(text) => Ok(text),
            other => Err(ApiError::parameter(format!("parameter {key}: {} is not text", other.describe()))),
        }
    }
}

/// The head of a text that came from outside, short enough for a message.
pub(super) fn clip(text: &str) -> &str {
    let end = text.char_indices().map(|(at, _)| at).take_while(|&at| at <= 64).last().unwrap_or(0);
    if text.len() <= 64 { text } else { &text[..end] }
}

/// Collects the wishes of a request, parameter by parameter.
///
/// Unknown parameters are none of our business: clients send them to every server they know.
#[derive(Debug, Default)]
pub(super) struct Collector {
    wishes: Wishes,
    /// REST: outputs travel as binary data unless the output says otherwise.
    pub(super) binary_outputs: bool,
}

impl Collector {
    /// Takes one parameter of the request.
    pub(super) fn take(&mut self, key: &str, value: &Value<'_>) -> Result<(), ApiError> {
        let longest = LONGEST_DEADLINE.as_micros();
        match key {
            // Zero is how clients say "none".
            "timeout" => match value.within(key, 0, longest)? {
                0 => {}
                us => self.deadline(Nanos::from_micros(us)),
            },
            "deadline_us" => self.deadline(Nanos::from_micros(value.within(key, 1, longest)?)),
            "priority" => {
                let level = value.within(key, 0, u64::from(u32::MAX))?;
                self.wishes.priority = u32::try_from(level).ok().filter(|&level| level != 0);
            }
            "min_accuracy" | "min_accuracy_ppm" => self.wishes.min_accuracy = Some(accuracy(key, value)?),
            "max_energy_uj" => {
                self.wishes.max_energy = Some(Microjoules(value.within(key, 1, i64::MAX.unsigned_abs())?));
            }
            "variant" => self.wishes.variant = Some(value.name(key)?),
            "class" => self.wishes.class = Some(value.name(key)?),
            "binary_data_output" => self.binary_outputs = value.flag(key)?,
            _ => {}
        }
        Ok(())
    }

    /// Takes a deadline; the earliest of several holds.
    pub(super) fn deadline(&mut self, span: Nanos) {
        self.wishes.deadline = Some(self.wishes.deadline.map_or(span, |known| known.min(span)));
    }

    /// What was asked for. A variant must be one of `variants`.
    pub(super) fn wishes(self, model: &str, variants: &[String]) -> Result<Wishes, ApiError> {
        match &self.wishes.variant {
            Some(variant) if !variants.contains(variant) => {
                let known = variants.join(", ");
                let message =
                    format!("parameter variant: model {model} has no variant {variant:?}; it has {known}");
                Err(ApiError::parameter(message))
            }
            _ => Ok(self.wishes),
        }
    }
}

/// Parts per million as an integer, or a fraction as text or floating point.
fn accuracy(key: &str, value: &Value<'_>) -> Result<Ppm, ApiError> {
    let fraction = match value {
        Value::Float(fraction) => Some(*fraction),
        Value::Text(text) if text.contains('.') => text.trim().parse().ok(),
        // "min_accuracy" = 1 is all of it, not one part in a million.
        other if key == "min_accuracy" => {
            other.integer().filter(|&n| n == 0 || n == 1).map(|n| f64::from(n == 1))
        }
        other => {
            let ppm = other.within(key, 0, u64::from(Ppm::ONE.0))?;
            return Ok(Ppm(u32::try_from(ppm).unwrap_or(Ppm::ONE.0)));
        }
    };
    fraction.filter(|fraction| (0.0..=1.0).contains(fraction)).map(Ppm::from_fraction).ok_or_else(|| {
        let found = value.describe();
        ApiError::parameter(format!(
            "parameter {key}: {found} is not a fraction from 0 to 1, such as \"0.92\""
        ))
    })
}

/// The value of a `grpc-timeout` header: up to 8 digits and a unit.
pub(super) fn grpc_timeout(text: &str) -> Option<Nanos> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    let nanos = match unit {
        "H" => 3_600_000_000_000,
        "M" => 60_000_000_000,
        "S" => 1_000_000_000,
        "m" => 1_000_000,
        "u" => 1_000,
        "n" => 1,
        _ => return None,
    };
    Some(Nanos(amount.saturating_mul(nanos)))
}

/// What a response says about how it came to be, in the order of their names.
pub(super) fn of_answer<'a>(answer: &'a Answer, served: &Served) -> [(&'static str, Value<'a>); 11] {
    let int = |value: u64| Value::Int(i128::from(value));
    let text = |value: &'a str| Value::Text(Cow::Borrowed(value));
    let source = match served.energy_source {
        Provenance::Measured => "measured",
        _ => "modelled",
    };
    [
        ("accuracy_ppm", int(u64::from(served.accuracy.0))),
        ("clock_khz", int(u64::from(served.clock.0))),
        ("compute_us", int(served.compute.as_micros())),
        ("deadline_missed", Value::Bool(served.missed)),
        ("energy_source", text(source)),
        ("energy_uj", int(served.energy.0)),
        ("queue_us", int(served.queue.as_micros())),
        ("request_id", int(answer.request)),
        ("rescued", Value::Bool(served.rescued)),
        ("unit", text(&answer.unit)),
        ("variant", text(&answer.variant)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(value: &str) -> Value<'_> {
        Value::Text(value.into())
    }

    fn wishes(parameters: &[(&str, Value<'_>)]) -> Result<Wishes, ApiError> {
        let mut collector = Collector::default();
        for (key, value) in parameters {
            collector.take(key, value)?;
        }
        collector.wishes("m", &["small".into(), "large".into()])
    }

    #[test]
    fn every_wish_is_understood_in_every_spelling() {
        let wanted = Wishes {
            class: Some("camera".into()),
            deadline: Some(Nanos::from_micros(1500)),
            min_accuracy: Some(Ppm(920_000)),
            max_energy: Some(Microjoules(70)),
            variant: Some("small".into()),
            priority: Some(2),
        };
        let common = |accuracy: (&'static str, Value<'static>), number: fn(i128) -> Value<'static>| {
            wishes(&[
                ("class", text("camera")),
                ("timeout", number(9000)),
                ("deadline_us", number(1500)),
                accuracy,
                ("max_energy_uj", number(70)),
                ("variant", text("small")),
                ("priority", number(2)),
                ("sequence_id", number(7)),
            ])
        };
        let as_text = |value: i128| Value::Text(value.to_string().into());
        assert_eq!(common(("min_accuracy_ppm", Value::Int(920_000)), Value::Int), Ok(wanted.clone()));
        assert_eq!(common(("min_accuracy_ppm", text("0.92")), as_text), Ok(wanted.clone()));
        assert_eq!(common(("min_accuracy", text("0.92")), as_text), Ok(wanted.clone()));
        assert_eq!(common(("min_accuracy", Value::Float(0.92)), Value::Int), Ok(wanted));
        assert_eq!(wishes(&[("min_accuracy", Value::Int(1))]).unwrap().min_accuracy, Some(Ppm::ONE));
    }

    #[test]
    fn zero_is_how_clients_say_none() {
        assert_eq!(wishes(&[("timeout", Value::Int(0)), ("priority", Value::Int(0))]), Ok(Wishes::default()));
    }

    #[test]
    fn absurd_parameters_are_named() {
        let cases = [
            ("timeout", Value::Int(-1)),
            ("deadline_us", Value::Int(0)),
            ("deadline_us", Value::Int(i128::from(u64::MAX))),
            ("deadline_us", Value::Bool(true)),
            ("deadline_us", Value::Float(1.5)),
            ("priority", Value::Int(1 << 32)),
            ("min_accuracy_ppm", Value::Int(1_000_001)),
            ("min_accuracy_ppm", text("1.01")),
            ("min_accuracy", Value::Float(f64::NAN)),
            ("min_accuracy", text("high")),
            ("max_energy_uj", Value::Int(0)),
            ("variant", text("")),
            ("variant", text("huge")),
            ("class", Value::Int(3)),
            ("binary_data_output", text("perhaps")),
        ];
        let refusals = cases.map(|case| wishes(&[case]).expect_err("must be refused").message);
        insta::assert_snapshot!(refusals.join("\n"));
    }

    #[test]
    fn long_text_from_outside_is_clipped_between_characters() {
        let long = "ä".repeat(100);
        assert!(clip(&long).len() <= 66 && long.starts_with(clip(&long)));
        assert_eq!(clip("short"), "short");
    }

    #[test]
    fn grpc_timeouts_have_up_to_eight_digits_and_a_unit() {
        assert_eq!(grpc_timeout("100m"), Some(Nanos::from_millis(100)));
        assert_eq!(grpc_timeout("99999999H"), Some(Nanos::MAX));
        assert_eq!(grpc_timeout("7n"), Some(Nanos(7)));
        for wrong in ["", "m", "100", "-1m", "1.5S", "123456789n", "1x", "1ü"] {
            assert_eq!(grpc_timeout(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_timeout_or_none(any in ".*") {
            let _ = grpc_timeout(&any);
            let _ = clip(&any);
        }
    }
}
