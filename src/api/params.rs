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
pub(super) fn of_answer<'a>(answer: &'a Answer, served: &Served) -> [(&'static str, Value<'a>); 10] {
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
        ("unit", text(&answer.unit)),
        ("variant", text(&answer.variant)),
    ]
}
