//! Fitting a [`Roofline`] to a handful of timed runs, and the wide guess that stands in until there are some.
//!
//! The model is `t(f, n) = o + s(n) * g(f)` with `s(n) = 1 + m*(n-1)` and the p-norm roofline
//! `g(f) = ((a/f)^p + b^p)^(1/p)`. How it is fitted:
//!
//! 1. Runs of one clock and batch size are reduced to their median: one stray context switch does not count.
//! 2. For given `p`, `o` and `m`, `((t-o)/s)^p = a^p * f^-p + b^p` is linear in `a^p` and `b^p`: a least
//!    squares problem of two unknowns, both kept at or above zero, with relative weights. So the fit is
//!    monotone in the clock whatever the data say.
//! 3. A simplex search (Nelder and Mead 1965) over those of `p`, `o` and `m` that the data can tell apart.
//!    The rest come from the prior, or from defaults:
//!    - `p` needs three clocks (default 2.5, the middle of the range measured on the TX2),
//!    - `o` needs two clocks and two batch sizes, or four clocks (default: a twentieth of the smallest
//!      latency, at most 100 µs),
//!    - `m` needs two batch sizes (default 1: no gain from batching),
//!    - the split between `a` and `b` needs two clocks (default: 4 to 1 for compute, in `g^p` at that clock, so
//!      that a lower clock is expected to be slower).
//! 4. How `b` moves with the memory clock, `b ~ (1/share)^e`, comes last, from runs at a lower one: of each, `b` is
//!    what the rest of the model leaves, and `e` the median (default: in proportion, `e = 1`).

use crate::core::catalog::{PowerModel, Profile, Provenance, Roofline, Unit, UnitKind};
use crate::units::{Bytes, Kilohertz, Nanos};

/// Bounds of the corner's sharpness.
const P_RANGE: (f64, f64) = (1.5, 4.0);
const P_DEFAULT: f64 = 2.5;
/// Largest cost of a further item, as a share of the first.
const MARGINAL_MAX: f64 = 2.0;
const MARGINAL_DEFAULT: f64 = 1.0;
const OVERHEAD_SHARE_DEFAULT: f64 = 0.05;
const OVERHEAD_DEFAULT_MAX_S: f64 = 100e-6;
/// Most of the smallest latency that may be overhead.
const OVERHEAD_SHARE_MAX: f64 = 0.95;
/// Bounds of the memory roof's elasticity, its default, and the least share of `g^p` that must be memory for a run to
/// tell.
const ELASTICITY_RANGE: (f64, f64) = (0.0, 2.0);
const ELASTICITY_DEFAULT: f64 = 1.0;
const TELLING_MEMORY: f64 = 0.1;
/// Share of `g^p` that is compute, where one clock cannot tell.
const COMPUTE_SHARE_DEFAULT: f64 = 0.8;
/// Pulls what the data leave open towards the prior, and nothing else.
const PULL: f64 = 1e-8;
/// No measurement is better than this.
const SPREAD_MIN: f64 = 0.01;

/// A timed run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Probe {
    /// The unit's clock; zero if unknown.
    pub clock: Kilohertz,
    /// The memory clock as a share of its highest; one if there is none to set.
    pub memory_share: f64,
    /// Items in the batch.
    pub items: u32,
    /// How long it took.
    pub latency: Nanos,
}

/// A fitted model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fit {
    /// The model.
    pub roofline: Roofline,
    /// Relative spread of the runs about it: the larger of 1.4826 times the median absolute residual (the
    /// standard deviation, were they normal) and the root mean square residual of the medians.
    pub spread: f64,
    /// Different clocks in the data; with one, other clocks are extrapolated.
    pub clocks: usize,
    /// Different batch sizes in the data.
    pub batch_sizes: usize,
}

/// Why there is no fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FitError {
    /// Nothing to fit.
    #[error("no timed run with at least one item and a latency above zero")]
    NoProbes,
}

/// The median of the runs of one clock and batch size.
#[derive(Debug, Clone, Copy)]
struct Group {
    clock: Kilohertz,
    /// The clock in GHz, 1 if unknown, as [`Roofline::latency`] takes it.
    f: f64,
    items: u32,
    /// Seconds.
    t: f64,
}

/// What is searched, and what is held.
#[derive(Debug, Clone, Copy)]
struct Search {
    /// Start and prior of `p`, `o` as a share of the smallest latency, `m`.
    prior: [f64; 3],
    /// Which of them the data determine.
    free: [bool; 3],
    low: [f64; 3],
    high: [f64; 3],
    /// Share of compute where there is one clock.
    compute_share: f64,
    one_clock: bool,
    smallest: f64,
}

/// Fits the model. Runs at an unknown clock are left out if others know theirs.
///
/// # Errors
/// If there is no usable run.
pub fn fit_roofline(probes: &[Probe], prior: Option<Roofline>) -> Result<Fit, FitError> {
    let known = probes.iter().any(|probe| probe.clock != Kilohertz::ZERO);
    let usable = |probe: &&Probe| {
        probe.items > 0 && probe.latency > Nanos::ZERO && (!known || probe.clock != Kilohertz::ZERO)
    };
    let probes: Vec<Probe> = probes.iter().filter(usable).copied().collect();
    let share = |probe: &Probe| probe.memory_share.clamp(0.01, 1.0);
    let highest = probes.iter().map(share).fold(0.01, f64::max);
    let (probes, slower): (Vec<Probe>, Vec<Probe>) =
        probes.into_iter().partition(|probe| share(probe) >= highest);
    let groups = medians(&probes);
    let smallest = groups.iter().map(|group| group.t).reduce(f64::min).ok_or(FitError::NoProbes)?;
    let clocks = distinct(groups.iter().map(|group| group.clock.0));
    let batch_sizes = distinct(groups.iter().map(|group| group.items));
    let prior = prior.filter(sound);
    let search = Search::new(&groups, prior, smallest, clocks, batch_sizes);
    let best = search.best(&groups);
    let mut roofline = search.roofline(best, &groups).ok_or(FitError::NoProbes)?;
    let spread = spread(&roofline, &probes, &groups);
    let groups =
        slower.chunk_by(|a, b| share(a) == share(b)).map(|runs| (share(&runs[0]) / highest, medians(runs)));
    let found = elasticity(&roofline, groups);
    roofline.memory_elasticity =
        found.or(prior.map(|prior| prior.memory_elasticity)).unwrap_or(ELASTICITY_DEFAULT);
    roofline.memory_s *= highest.powf(roofline.memory_elasticity);
    Ok(Fit { roofline, spread, clocks, batch_sizes })
}

/// How the memory roof moves with the memory clock, from runs at lower ones, each with its share of the one that the
/// model was fitted at. `None` if they do not tell.
fn elasticity(model: &Roofline, slower: impl Iterator<Item = (f64, Vec<Group>)>) -> Option<f64> {
    let Roofline { compute_s_ghz, memory_s, p, overhead_s, marginal, .. } = *model;
    let one = |share: f64, group: &Group| {
        let scale = 1.0 + marginal * f64::from(group.items - 1);
        let whole = ((group.t - overhead_s) / scale).max(0.0).powf(p);
        let memory = whole - (compute_s_ghz / group.f).powf(p);
        let found = (memory.max(0.0).powf(1.0 / p) / memory_s).ln() / share.recip().ln();
        (found.is_finite() && memory > TELLING_MEMORY * whole)
            .then_some(found.clamp(ELASTICITY_RANGE.0, ELASTICITY_RANGE.1))
    };
    let mut found: Vec<f64> = slower
        .flat_map(|(share, groups)| groups.into_iter().filter_map(move |group| one(share, &group)))
        .collect();
    found.sort_by(f64::total_cmp);
    (!found.is_empty()).then(|| median_of_sorted(&found))
}

fn sound(prior: &Roofline) -> bool {
    let Roofline { compute_s_ghz, memory_s, p, overhead_s, marginal, memory_elasticity } = *prior;
    let parts = [compute_s_ghz, memory_s, overhead_s, marginal, memory_elasticity];
    parts.iter().all(|part| part.is_finite() && *part >= 0.0) && compute_s_ghz + memory_s > 0.0 && p >= 1.0
}

fn medians(probes: &[Probe]) -> Vec<Group> {
    let mut sorted: Vec<Probe> = probes.to_vec();
    sorted.sort_by_key(|probe| (probe.clock, probe.items, probe.latency));
    let runs = sorted.chunk_by(|a, b| (a.clock, a.items) == (b.clock, b.items));
    let group = |runs: &[Probe]| {
        let Probe { clock, items, .. } = runs[0];
        let t: Vec<f64> = runs.iter().map(|run| run.latency.as_secs_f64()).collect();
        Group { clock, f: ghz(clock), items, t: median_of_sorted(&t) }
    };
    runs.map(group).collect()
}

/// The middle, or the mean of the two middles; zero of nothing.
fn median_of_sorted(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[half],
        _ => f64::midpoint(sorted[half - 1], sorted[half]),
    }
}

fn ghz(clock: Kilohertz) -> f64 {
    if clock == Kilohertz::ZERO { 1.0 } else { clock.as_ghz() }
}

fn distinct(values: impl Iterator<Item = u32>) -> usize {
    values.collect::<std::collections::BTreeSet<u32>>().len()
}

impl Search {
    fn new(
        groups: &[Group],
        prior: Option<Roofline>,
        smallest: f64,
        clocks: usize,
        batch_sizes: usize,
    ) -> Self {
        let overhead = prior.map_or_else(
            || (OVERHEAD_SHARE_DEFAULT * smallest).min(OVERHEAD_DEFAULT_MAX_S),
            |p| p.overhead_s,
        );
        let p = prior.map_or(P_DEFAULT, |prior| prior.p).clamp(P_RANGE.0, P_RANGE.1);
        let compute_share = prior.map_or(COMPUTE_SHARE_DEFAULT, |prior| {
            let f = groups.first().map_or(1.0, |group| group.f);
            let (compute, memory) = ((prior.compute_s_ghz / f).powf(p), prior.memory_s.powf(p));
            let share = compute / (compute + memory);
            if share.is_finite() { share } else { COMPUTE_SHARE_DEFAULT }
        });
        let low = [P_RANGE.0, 0.0, 0.0];
        let high = [P_RANGE.1, OVERHEAD_SHARE_MAX, MARGINAL_MAX];
        let mut start = [p, overhead / smallest, prior.map_or(MARGINAL_DEFAULT, |prior| prior.marginal)];
        for (value, (low, high)) in start.iter_mut().zip(low.iter().zip(high)) {
            *value = value.clamp(*low, high);
        }
        let free = [clocks >= 3, (clocks >= 2 && batch_sizes >= 2) || clocks >= 4, batch_sizes >= 2];
        Self { prior: start, free, low, high, compute_share, one_clock: clocks == 1, smallest }
    }

    /// `a` and `b` for given `p`, overhead share and marginal; `None` where the overhead leaves nothing.
    fn roofline(&self, [p, share, marginal]: [f64; 3], groups: &[Group]) -> Option<Roofline> {
        let overhead_s = share * self.smallest;
        // Sums of the normal equations of min Σ ((A u + B v) - 1)², u = f^-p / y^p, v = 1 / y^p.
        let (mut uu, mut uv, mut vv, mut u1, mut v1) = (0.0, 0.0, 0.0, 0.0, 0.0);
        let mut log_y = 0.0;
        for group in groups {
            let y = (group.t - overhead_s) / (1.0 + marginal * f64::from(group.items - 1)) / self.smallest;
            if y.is_nan() || y <= 0.0 {
                return None;
            }
            let v = y.powf(-p);
            let u = group.f.powf(-p) * v;
            (uu, uv, vv) = (uu + u * u, uv + u * v, vv + v * v);
            (u1, v1, log_y) = (u1 + u, v1 + v, log_y + y.ln());
        }
        let (a, b) = if self.one_clock {
            // The mean in the logarithm, split as the prior says.
            let count: f64 = groups.iter().map(|_| 1.0).sum();
            let g = (log_y / count).exp();
            let f = groups.first()?.f;
            (f * g * self.compute_share.powf(1.0 / p), g * (1.0 - self.compute_share).powf(1.0 / p))
        } else {
            let (a, b) = non_negative(uu, uv, vv, u1, v1);
            (a.powf(1.0 / p), b.powf(1.0 / p))
        };
        let (compute_s_ghz, memory_s) = (a * self.smallest, b * self.smallest);
        let memory_elasticity = ELASTICITY_DEFAULT;
        let found = Roofline { compute_s_ghz, memory_s, p, overhead_s, marginal, memory_elasticity };
        (compute_s_ghz + memory_s > 0.0 && sound(&found)).then_some(found)
    }

    /// Sum of squared relative errors, and the pull towards the prior.
    fn cost(&self, point: [f64; 3], groups: &[Group]) -> f64 {
        let Some(roofline) = self.roofline(point, groups) else { return f64::INFINITY };
        let errors =
            groups.iter().map(|group| (predict(&roofline, group.f, group.items) / group.t).ln().powi(2));
        let pull = point.iter().zip(self.prior).map(|(value, prior)| (value - prior).powi(2));
        errors.sum::<f64>() + PULL * pull.sum::<f64>()
    }

    /// The best point of searches from several starts.
    fn best(&self, groups: &[Group]) -> [f64; 3] {
        let starts = |index: usize, values: [f64; 3]| {
            let held = [self.prior[index]; 3];
            let list = if self.free[index] { values } else { held };
            list.into_iter().take(if self.free[index] { 3 } else { 1 })
        };
        let mut best = (self.cost(self.prior, groups), self.prior);
        for p in starts(0, [1.6, 2.5, 3.7]) {
            for share in starts(1, [0.02, 0.2, 0.6]) {
                for marginal in starts(2, [0.1, 0.6, 1.1]) {
                    let found = self.descend([p, share, marginal], groups);
                    if found.0 < best.0 {
                        best = found;
                    }
                }
            }
        }
        best.1
    }

    /// One simplex search over the free coordinates.
    fn descend(&self, start: [f64; 3], groups: &[Group]) -> (f64, [f64; 3]) {
        let at = |point: [f64; 3]| {
            let point = self.inside(point);
            (self.cost(point, groups), point)
        };
        let mut simplex = vec![at(start)];
        for index in (0..3).filter(|&index| self.free[index]) {
            let mut corner = start;
            corner[index] += 0.2 * (self.high[index] - self.low[index]);
            if corner[index] > self.high[index] {
                corner[index] = start[index] - 0.2 * (self.high[index] - self.low[index]);
            }
            simplex.push(at(corner));
        }
        let last = simplex.len() - 1;
        if last == 0 {
            return simplex[0];
        }
        for _ in 0..250 {
            simplex.sort_by(|x, y| x.0.total_cmp(&y.0));
            let (best, worst) = (simplex[0], simplex[last]);
            if worst.0 - best.0 <= 1e-16 {
                break;
            }
            let centre = centre(&simplex[..last]);
            let reflected = at(along(centre, worst.1, -1.0));
            simplex[last] = if reflected.0 < best.0 {
                let expanded = at(along(centre, worst.1, -2.0));
                if expanded.0 < reflected.0 { expanded } else { reflected }
            } else if reflected.0 < simplex[last - 1].0 {
                reflected
            } else {
                let contracted = at(along(centre, worst.1, 0.5));
                if contracted.0 < worst.0 {
                    contracted
                } else {
                    simplex.iter_mut().skip(1).for_each(|corner| *corner = at(along(best.1, corner.1, 0.5)));
                    continue;
                }
            };
        }
        simplex.into_iter().min_by(|x, y| x.0.total_cmp(&y.0)).unwrap_or((f64::INFINITY, start))
    }

    fn inside(&self, mut point: [f64; 3]) -> [f64; 3] {
        for (index, value) in point.iter_mut().enumerate() {
            *value = value.clamp(self.low[index], self.high[index]);
        }
        point
    }
}

fn centre(corners: &[(f64, [f64; 3])]) -> [f64; 3] {
    let count: f64 = corners.iter().map(|_| 1.0).sum();
    std::array::from_fn(|index| corners.iter().map(|corner| corner.1[index]).sum::<f64>() / count)
}

/// `from + factor * (towards - from)`.
fn along(from: [f64; 3], towards: [f64; 3], factor: f64) -> [f64; 3] {
    std::array::from_fn(|index| from[index] + factor * (towards[index] - from[index]))
}

/// The least squares solution with both unknowns at or above zero.
fn non_negative(uu: f64, uv: f64, vv: f64, u1: f64, v1: f64) -> (f64, f64) {
    let determinant = uu * vv - uv * uv;
    if determinant > 1e-12 * uu * vv {
        let (a, b) = ((u1 * vv - v1 * uv) / determinant, (v1 * uu - u1 * uv) / determinant);
        if a >= 0.0 && b >= 0.0 {
            return (a, b);
        }
    }
    // On an edge: the better of the two. Explained part of the sum of squares is (Σ target)² / Σ squares.
    if u1 * u1 / uu >= v1 * v1 / vv { (u1 / uu, 0.0) } else { (0.0, v1 / vv) }
}

/// [`Roofline::latency`] in seconds, without rounding.
fn predict(roofline: &Roofline, f: f64, items: u32) -> f64 {
    let Roofline { compute_s_ghz, memory_s, p, overhead_s, marginal, .. } = *roofline;
    let scale = 1.0 + marginal * f64::from(items - 1);
    overhead_s + scale * ((compute_s_ghz / f).powf(p) + memory_s.powf(p)).powf(1.0 / p)
}

fn spread(roofline: &Roofline, probes: &[Probe], groups: &[Group]) -> f64 {
    let error = |f: f64, items: u32, t: f64| t / predict(roofline, f, items) - 1.0;
    let single =
        probes.iter().map(|probe| error(ghz(probe.clock), probe.items, probe.latency.as_secs_f64()).abs());
    let mut single: Vec<f64> = single.collect();
    single.sort_by(f64::total_cmp);
    let squares = groups.iter().map(|group| error(group.f, group.items, group.t).powi(2));
    let count: f64 = groups.iter().map(|_| 1.0).sum();
    let systematic = (squares.sum::<f64>() / count).sqrt();
    (1.4826 * median_of_sorted(&single)).max(systematic).max(SPREAD_MIN)
}

/// What a unit of a kind can be trusted to do, to the slow side: multiply-accumulates per cycle, bytes per
/// second, overhead per run in seconds. A Cortex-A76 does 8 a cycle at its peak, about half in practice; the
/// smallest GPU of a Jetson 128; an NPU hundreds. Measured profiles are up to ten times faster.
const fn trusted(kind: UnitKind) -> (f64, f64, f64) {
    match kind {
        UnitKind::Cpu => (2.0, 1.5e9, 0.2e-3),
        UnitKind::Gpu => (16.0, 4e9, 3e-3),
        UnitKind::Npu => (32.0, 2e9, 3e-3),
    }
}

/// The wide guess for a variant (multiply-accumulates and bytes of traffic per item, size of its file) on a
/// unit, used until a profile exists: rather too slow than too fast, no gain from batching, half of it spread.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "a guess")]
pub fn conservative(unit: &Unit, macs: u64, traffic_bytes: u64, file: Bytes) -> Profile {
    let (macs_per_cycle, bytes_per_s, overhead_s) = trusted(unit.kind);
    let latency = Roofline {
        // A model without figures is taken for a small one.
        compute_s_ghz: macs.max(1_000_000) as f64 / (macs_per_cycle * 1e9),
        memory_s: traffic_bytes as f64 / bytes_per_s,
        p: P_RANGE.0,
        overhead_s,
        marginal: MARGINAL_DEFAULT,
        memory_elasticity: ELASTICITY_DEFAULT,
    };
    Profile {
        latency,
        spread: 0.5,
        latency_source: Provenance::Conservative,
        power_scale: 1.0,
        power_source: if unit.busy_power == PowerModel::default() {
            Provenance::Conservative
        } else {
            Provenance::Modelled
        },
        // Weights may be stored at half the width they are computed in, and packed once more by the provider:
        // sessions of ONNX Runtime took 2.1 to 2.7 times their file. Besides, activations and arenas.
        footprint: Bytes(file.0.saturating_mul(4).saturating_add(8 << 20)),
    }
}

#[cfg(test)]
#[path = "fit_tests.rs"]
mod tests;
