//! What time buys: the least energy of a run as a function of its time.
//!
//! A run whose clocks change on the way spends shares of its work at several operating points; its time and its energy
//! are the same mixture of theirs. So all that a variant can do on a unit is the convex hull of its operating points
//! in the plane of time and energy, and what matters of it is the lower left rim.

/// A run of a certain length and energy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Point {
    /// Seconds.
    pub(super) seconds: f64,
    /// Joules.
    pub(super) joules: f64,
}

/// The lower left rim of the convex hull: seconds ascend, joules descend, ever more slowly.
#[must_use]
pub(super) fn lower_left(mut points: Vec<Point>) -> Vec<Point> {
    points.sort_by(|a, b| a.seconds.total_cmp(&b.seconds).then(a.joules.total_cmp(&b.joules)));
    let mut rim: Vec<Point> = Vec::new();
    for point in points {
        // Longer and not cheaper is of no use.
        if rim.last().is_some_and(|last| point.joules >= last.joules) {
            continue;
        }
        while let [.., before, last] = rim[..] {
            let rise = (point.joules - before.joules) * (last.seconds - before.seconds);
            if (last.joules - before.joules) * (point.seconds - before.seconds) < rise {
                break;
            }
            rim.pop();
        }
        rim.push(point);
    }
    rim
}

/// The part of a rim that takes at most `limit` seconds; its end is a mixture of the points on both sides. Empty if
/// even the fastest takes longer.
pub(super) fn within(rim: &[Point], limit: f64) -> impl Iterator<Item = Point> + '_ {
    let fast = rim.partition_point(|point| point.seconds <= limit);
    let edge = (fast > 0 && fast < rim.len()).then(|| {
        let (a, b) = (rim[fast - 1], rim[fast]);
        let share = (limit - a.seconds) / (b.seconds - a.seconds);
        Point { seconds: limit, joules: a.joules + (b.joules - a.joules) * share }
    });
    rim[..fast].iter().copied().chain(edge)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(all: &[(f64, f64)]) -> Vec<Point> {
        all.iter().map(|&(seconds, joules)| Point { seconds, joules }).collect()
    }

    #[test]
    fn only_what_no_mixture_beats_is_on_the_rim() {
        // (2, 6) lies above the chord from (1, 8) to (3, 2), which is at 5 there; (4, 3) is slower and dearer.
        let rim = lower_left(points(&[(3.0, 2.0), (2.0, 6.0), (1.0, 8.0), (4.0, 3.0), (1.0, 9.0)]));
        assert_eq!(rim, points(&[(1.0, 8.0), (3.0, 2.0)]));
        let rim = lower_left(points(&[(1.0, 8.0), (2.0, 4.0), (3.0, 2.0)]));
        assert_eq!(rim.len(), 3, "the middle one lies below the chord");
    }

    #[test]
    fn a_limit_cuts_a_rim_at_a_mixture() {
        let rim = points(&[(1.0, 8.0), (3.0, 2.0)]);
        assert_eq!(within(&rim, 2.0).collect::<Vec<_>>(), points(&[(1.0, 8.0), (2.0, 5.0)]));
        assert_eq!(within(&rim, 5.0).count(), 2);
        assert_eq!(within(&rim, 0.5).count(), 0);
    }
}
