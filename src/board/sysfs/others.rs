//! Other masters of the clocks: nvpmodel, power-profiles-daemon, TuneD, thermald, a person. What they set is kept to.

use super::control::Raw;

/// Bounds that someone else has set on a domain, raw; `None` where they leave all open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Others {
    pub(super) min: Option<u64>,
    pub(super) max: Option<u64>,
}

impl Others {
    /// The bounds within them that come nearest to `wanted`, on operating points (ascending) as far as there are any
    /// below the others' upper bound.
    pub(super) fn keep(self, wanted: Raw, points: &[u64]) -> Raw {
        let most = self.max.unwrap_or(u64::MAX);
        let max = wanted.max.max(self.min.unwrap_or(0)).min(most);
        let max = if max == wanted.max {
            max
        } else {
            points.iter().copied().rfind(|point| *point <= max).unwrap_or(max)
        };
        Raw { min: wanted.min.max(self.min.unwrap_or(0)).min(max), max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_set_is_never_passed() {
        let points = [100, 200, 300, 400];
        let keep = |min, max, wanted: (u64, u64)| {
            let kept = Others { min, max }.keep(Raw { min: wanted.0, max: wanted.1 }, &points);
            (kept.min, kept.max)
        };
        assert_eq!(keep(None, None, (200, 400)), (200, 400));
        assert_eq!(keep(None, Some(300), (400, 400)), (300, 300));
        assert_eq!(keep(None, Some(350), (100, 400)), (100, 300), "on an operating point");
        assert_eq!(keep(None, Some(50), (100, 400)), (50, 50), "there is none so low");
        assert_eq!(keep(Some(300), None, (100, 100)), (300, 300));
        assert_eq!(keep(Some(200), Some(300), (100, 400)), (200, 300));
    }
}
