//! From a record to what the picture's panels draw: time series, shares and counts per bin.

use crate::ctl::record::{Outcome, Run, seconds};
use crate::ctl::status::ZoneStatus;
use std::collections::BTreeMap;

/// A point of a time series: seconds and value.
pub(super) type Point = (f64, f64);

/// Highest temperature of all zones over time.
pub(super) fn temperature(run: &Run) -> Vec<Point> {
    points(run, |status| status.hottest().map(|(_, c)| c))
}

/// Power of the board over time, in watts.
pub(super) fn power(run: &Run) -> Vec<Point> {
    points(run, |status| status.power_w)
}

/// Clock of a domain over time, in GHz.
pub(super) fn clock(run: &Run, domain: &str) -> Vec<Point> {
    points(run, |status| {
        let domain = status.domains.iter().find(|entry| entry.name == domain)?;
        domain.khz.map(|khz| f64::from(khz) / 1e6)
    })
}

fn points(run: &Run, value: impl Fn(&crate::ctl::status::Status) -> Option<f64>) -> Vec<Point> {
    run.statuses
        .iter()
        .filter_map(|line| Some((seconds(line.t_us), value(&line.status)?)))
        .filter(|(_, value)| value.is_finite())
        .collect()
}

/// The zone that was the hottest of all, whose trip points the picture shows.
pub(super) fn leading_zone(runs: &[&Run]) -> Option<ZoneStatus> {
    runs.iter()
        .flat_map(|run| &run.statuses)
        .filter_map(|line| line.status.hottest())
        .max_by(|(_, left), (_, right)| left.total_cmp(right))
        .map(|(zone, _)| zone.clone())
}

/// The clock domains that tell most: at most `most` of those whose clock changed, or differed between
/// the runs, the widest relative range first.
pub(super) fn lively_domains(runs: &[&Run], most: usize) -> Vec<String> {
    let mut ranges: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    for domain in runs.iter().flat_map(|run| &run.statuses).flat_map(|line| &line.status.domains) {
        if let Some(khz) = domain.khz {
            let range = ranges.entry(&domain.name).or_insert((khz, khz));
            *range = (range.0.min(khz), range.1.max(khz));
        }
    }
    let mut lively: Vec<(f64, &str)> = ranges
        .into_iter()
        .filter(|(_, (low, high))| high > low)
        .map(|(name, (low, high))| (f64::from(high - low) / f64::from(high), name))
        .collect();
    lively.sort_by(|left, right| right.0.total_cmp(&left.0).then(left.1.cmp(right.1)));
    lively.into_iter().take(most).map(|(_, name)| name.to_owned()).collect()
}

/// Equal spans of time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bins {
    pub(super) width_s: f64,
    pub(super) number: usize,
}

impl Bins {
    /// About sixty bins of a round width.
    pub(super) fn over(length_s: f64) -> Self {
        let ideal = (length_s / 60.0).max(0.05);
        let magnitude = 10_f64.powf(ideal.log10().floor());
        let width_s = [1.0, 2.0, 5.0, 10.0]
            .into_iter()
            .map(|step| step * magnitude)
            .find(|width| *width >= ideal * 0.999)
            .unwrap_or(ideal);
        Self { width_s, number: index(length_s / width_s * 0.999_999) + 1 }
    }

    /// The bin of a moment; moments past the end fall into the last.
    pub(super) fn of(&self, t_us: u64) -> usize {
        index(seconds(t_us) / self.width_s).min(self.number - 1)
    }

    /// Start and end of a bin in seconds.
    #[allow(clippy::cast_precision_loss, reason = "a few dozen bins")]
    pub(super) fn span(&self, bin: usize) -> (f64, f64) {
        (bin as f64 * self.width_s, (bin + 1) as f64 * self.width_s)
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates, then bounded")]
fn index(value: f64) -> usize {
    (value.floor() as usize).min(100_000)
}

/// Per bin: answers of an application by position of the variant in `variants`.
pub(super) fn variant_counts(run: &Run, app: &str, variants: &[String], bins: Bins) -> Vec<Vec<u32>> {
    let mut counts = vec![vec![0; variants.len()]; bins.number];
    for request in run.requests.iter().filter(|request| request.app == app) {
        if let Outcome::Served(served) = &request.outcome
            && let Some(position) = variants.iter().position(|variant| *variant == served.variant)
        {
            counts[bins.of(request.t_us)][position] += 1;
        }
    }
    counts
}

/// The variants of an application's answers over all runs, in the order of the ladder, then by name.
pub(super) fn variants_seen(runs: &[&Run], app: &str, model: &str) -> Vec<String> {
    let ladder = runs
        .iter()
        .flat_map(|run| &run.header.ladders)
        .find(|ladder| ladder.model == model)
        .map(|ladder| ladder.variants.clone())
        .unwrap_or_default();
    let mut seen: Vec<String> = Vec::new();
    for request in runs.iter().flat_map(|run| &run.requests).filter(|request| request.app == app) {
        if let Outcome::Served(served) = &request.outcome
            && !seen.contains(&served.variant)
            && seen.len() < 64
        {
            seen.push(served.variant.clone());
        }
    }
    let rank = |name: &String| ladder.iter().position(|rung| rung == name).unwrap_or(usize::MAX);
    seen.sort_by(|left, right| rank(left).cmp(&rank(right)).then(left.cmp(right)));
    seen
}

/// Per bin: requests that got no answer in time (late, turned away, failed, never sent), and all.
pub(super) fn shortfalls(run: &Run, bins: Bins) -> Vec<(u32, u32)> {
    let mut counts = vec![(0, 0); bins.number];
    for request in &run.requests {
        let entry = &mut counts[bins.of(request.t_us)];
        let answered = matches!(request.outcome, Outcome::Served(_)) && !request.missed;
        entry.0 += u32::from(!answered);
        entry.1 += 1;
    }
    counts
}

/// Happenings of the runs and starts of applications, in time order; one of each text.
pub(super) fn happenings(runs: &[&Run]) -> Vec<(f64, String)> {
    let mut list: Vec<(f64, String)> = Vec::new();
    let notes = runs.iter().flat_map(|run| &run.notes).map(|note| (seconds(note.t_us), note.text.clone()));
    let starts = runs
        .iter()
        .flat_map(|run| &run.header.apps)
        .filter(|app| app.start_s > 0.0)
        .map(|app| (app.start_s, format!("{} starts", app.name)));
    for (at, text) in starts.chain(notes) {
        if !list.iter().any(|(_, known)| *known == text) {
            list.push((at, text));
        }
    }
    list.sort_by(|left, right| left.0.total_cmp(&right.0));
    list
}

/// Round values for an axis: about `number` of them within `low..=high`.
pub(in crate::ctl) fn ticks(low: f64, high: f64, number: f64) -> Vec<f64> {
    let ideal = (high - low) / number;
    if !(ideal > 0.0 && ideal.is_finite()) {
        return Vec::new();
    }
    let magnitude = 10_f64.powf(ideal.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|step| step * magnitude)
        .min_by(|left, right| (left / ideal).ln().abs().total_cmp(&(right / ideal).ln().abs()))
        .unwrap_or(ideal);
    let first = (low / step - 1e-9).ceil();
    (0..200).map(|k| (first + f64::from(k)) * step).take_while(|tick| *tick <= high + step * 1e-9).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_ticks() {
        assert_eq!(ticks(0.0, 10.0, 5.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(ticks(38.0, 91.0, 4.0), [40.0, 50.0, 60.0, 70.0, 80.0, 90.0]);
        assert!(ticks(1.0, 1.0, 4.0).is_empty() && ticks(0.0, f64::NAN, 4.0).is_empty());
    }

    #[test]
    fn bins_are_round_and_cover_the_run() {
        let bins = Bins::over(55.0);
        assert_eq!((bins.width_s, bins.number), (1.0, 55));
        assert_eq!((bins.of(0), bins.of(54_999_999), bins.of(99_000_000)), (0, 54, 54));
        assert_eq!(Bins::over(3600.0).width_s, 100.0);
        assert!(Bins::over(0.0).number >= 1);
    }
}
