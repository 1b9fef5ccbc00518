//! ALERT (Wan et al., "ALERT: Accurate Learning for Energy and Timeliness", USENIX ATC 2020, arXiv 1911.00119).
//!
//! One global slowdown `xi` relates every measured latency to its profile; a Kalman filter estimates its mean and
//! variance, so that one observation updates the forecast of all configurations (section 3.2.1 there):
//!
//! ```text
//! Q(n)  = max(Q0, alpha Q(n-1) + (1 - alpha) (K(n-1) y(n-1))^2)
//! K(n)  = ((1 - K(n-1)) s2(n-1) + Q(n)) / ((1 - K(n-1)) s2(n-1) + Q(n) + R)
//! y(n)  = t(n) / t_prof(n) - mu(n-1)
//! mu(n) = mu(n-1) + K(n) y(n)
//! s2(n) = (1 - K(n-1)) s2(n-1) + Q(n)
//! ```
//!
//! with `K0 = 0.5, R = 0.001, Q0 = 0.1, mu0 = 1, s2_0 = 0.1` and the forgetting factor `alpha = 0.3`. A
//! configuration meets a deadline `T` with probability `Pr = Phi((T / t_prof - mu) / s)`; its expected accuracy
//! is `q Pr + q_fail (1 - Pr)`, where a late answer is worth nothing here (`q_fail = 0`); its expected energy
//! is `p mu t_prof + phi p (T - mu t_prof)`, `phi` being the ratio of the idle to the busy power, from a filter of
//! its own. Chosen is the least energy whose expected accuracy reaches the goal, or the highest expected accuracy
//! whose energy stays within the goal; where nothing does, latency comes before accuracy and accuracy
//! before power, that is, the highest expected accuracy.
//!
//! A knob of the paper is a power cap; here it is the clock. The paper leaves a further threshold on `Pr` to the
//! user: there is none here, as `Q >= 0.1` keeps the standard deviation above 0.31 of the profiled latency,
//! which is a margin of its own. Idle domains rest at their lowest clock.

use super::knobs::Knobs;
use super::pace::Pins;
use super::queue::Waiting;
use super::view::{Configuration, View};
use super::{Policy, Run};
use crate::core::catalog::VariantId;
use crate::core::event::Readings;
use crate::time::Timestamp;
use crate::units::Nanos;

const R: f64 = 0.001;
const Q0: f64 = 0.1;
const K0: f64 = 0.5;
const ALPHA: f64 = 0.3;
const MU0: f64 = 1.0;
const VARIANCE0: f64 = 0.1;
/// Process and measurement noise, and first variance, of the filter of the idle power ratio.
const S: f64 = 1e-4;
const V: f64 = 1e-3;
const M0: f64 = 0.01;

/// The filter of the global slowdown.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slowdown {
    /// Mean of actual over profiled latency.
    pub mean: f64,
    /// Its variance.
    pub variance: f64,
    gain: f64,
    noise: f64,
    innovation: f64,
}

impl Default for Slowdown {
    fn default() -> Self {
        Self { mean: MU0, variance: VARIANCE0, gain: K0, noise: Q0, innovation: 0.0 }
    }
}

impl Slowdown {
    /// A run took `ratio` times its profiled latency.
    pub fn observe(&mut self, ratio: f64) {
        let moved = self.gain * self.innovation;
        self.noise = Q0.max(ALPHA * self.noise + (1.0 - ALPHA) * moved * moved);
        let predicted = (1.0 - self.gain) * self.variance + self.noise;
        self.gain = predicted / (predicted + R);
        self.innovation = ratio - self.mean;
        self.mean += self.gain * self.innovation;
        self.variance = predicted;
    }

    /// Probability that a run of a profiled latency ends within `slack_s`.
    #[must_use]
    pub fn meets(&self, slack_s: f64, profiled_s: f64) -> f64 {
        if slack_s <= 0.0 {
            return 0.0;
        }
        let deviations = (slack_s / profiled_s.max(1e-12) - self.mean) / self.variance.sqrt();
        0.5 * libm::erfc(-deviations / std::f64::consts::SQRT_2)
    }
}

/// The filter of the ratio of idle to busy power.
#[derive(Debug, Clone, Copy, PartialEq)]
struct IdleRatio {
    ratio: Option<f64>,
    variance: f64,
}

impl IdleRatio {
    fn observe(&mut self, ratio: f64) {
        let gain = (self.variance + S) / (self.variance + S + V);
        self.variance = (1.0 - gain) * (self.variance + S);
        let known = self.ratio.unwrap_or(ratio);
        self.ratio = Some(known + gain * (ratio - known));
    }
}

/// Which of the paper's schemes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Least energy at the accuracy goal: the class's target (or floor) of each request.
    MinEnergy,
    /// Highest accuracy at the energy goal: the energy that the request or its class may cost above idle, or the
    /// board's power cap over the time to the deadline; without either there is no goal to keep to.
    MaxAccuracy,
    /// Adapts the variant only, at the default power setting: the highest clock.
    AppOnly,
    /// Adapts the clock only, of the fastest variant that is accurate enough.
    SysOnly,
    /// Both of these at once, neither knowing of the other.
    NoCoord,
}

/// ALERT, or one of the schemes that its paper compares it with.
#[derive(Debug, Clone)]
pub struct Alert {
    scheme: Scheme,
    slowdown: Slowdown,
    /// What the system's half of [`Scheme::NoCoord`] believes; it takes the fastest variant to run.
    system: Slowdown,
    /// The variant that it took to run.
    assumed: Option<VariantId>,
    idle: IdleRatio,
    /// Power of the board in the last run, by its profile, W.
    last_w: f64,
    pins: Pins,
}

impl Alert {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(scheme: Scheme) -> Self {
        Self {
            scheme,
            slowdown: Slowdown::default(),
            system: Slowdown::default(),
            assumed: None,
            idle: IdleRatio { ratio: None, variance: M0 },
            last_w: 0.0,
            pins: Pins::default(),
        }
    }

    /// The filter.
    #[must_use]
    pub const fn filter(&self) -> &Slowdown {
        &self.slowdown
    }

    /// The best of some configurations by the paper's rule for `scheme`, under a filter.
    fn best(
        &self,
        view: &View<'_>,
        head: &Waiting,
        filter: &Slowdown,
        among: impl Iterator<Item = Configuration>,
    ) -> Option<Configuration> {
        let maximise = self.scheme == Scheme::MaxAccuracy;
        let goal = head.target.as_fraction();
        let ranked = among.map(|choice| {
            let slack = view.slack_s(head, choice.unit);
            let profiled =
                view.state.costs.seconds(choice.variant, choice.unit, choice.point, head.request.items);
            let accuracy = view.accuracy(choice.variant) * filter.meets(slack, profiled);
            let joules = self.joules(view, choice, slack, profiled * filter.mean);
            let meets = match maximise {
                true => joules <= self.energy_goal(view, head, slack),
                false => accuracy >= goal,
            };
            // Where the goal is kept, energy (or accuracy) decides; where it is not, accuracy does.
            let keys = match (meets, maximise) {
                (true, false) => (0, joules, -accuracy),
                (true, true) => (0, -accuracy, joules),
                (false, _) => (1, -accuracy, joules),
            };
            (keys, choice)
        });
        let order = |a: &(u8, f64, f64), b: &(u8, f64, f64)| {
            a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.total_cmp(&b.2))
        };
        ranked.min_by(|a, b| order(&a.0, &b.0)).map(|(_, choice)| choice)
    }

    /// Expected energy of the board until the deadline, J.
    fn joules(&self, view: &View<'_>, choice: Configuration, slack_s: f64, expected_s: f64) -> f64 {
        let watts = board_watts(view, choice);
        let ratio = self.idle.ratio.unwrap_or(idle_watts(view) / watts);
        watts * expected_s + ratio * watts * (slack_s - expected_s).max(0.0)
    }

    /// What the board may take until the deadline, J.
    fn energy_goal(&self, view: &View<'_>, head: &Waiting, slack_s: f64) -> f64 {
        let request =
            head.max_energy.map(|energy| energy.as_f64() / 1e6 + idle_watts(view) * slack_s.max(0.0));
        let cap = view.state.budgets.power_cap.map(|cap| cap.as_watts() * slack_s.max(0.0));
        request.unwrap_or(f64::INFINITY).min(cap.unwrap_or(f64::INFINITY))
    }

    /// The fastest variant that is accurate enough, with its unit.
    fn fastest(view: &View<'_>, head: &Waiting) -> Option<Configuration> {
        super::Pick::Smallest.choose(view, head)
    }

    fn app(&self, view: &View<'_>, head: &Waiting) -> Option<Configuration> {
        let costs = &view.state.costs;
        let top = |(variant, unit)| Configuration { variant, unit, point: costs.top(unit) };
        self.best(view, head, &self.slowdown, view.choices(head).map(top))
    }

    fn system(&self, view: &View<'_>, head: &Waiting, filter: &Slowdown) -> Option<Configuration> {
        let fastest = Self::fastest(view, head)?;
        let points =
            (0..view.state.costs.clocks(fastest.unit).len()).map(|point| Configuration { point, ..fastest });
        self.best(view, head, filter, points)
    }
}

fn idle_watts(view: &View<'_>) -> f64 {
    view.state.catalog.board.idle_power.as_watts()
}

/// Power of the board in a run, by its profile, W.
fn board_watts(view: &View<'_>, choice: Configuration) -> f64 {
    idle_watts(view) + view.state.costs.watts(choice.variant, choice.unit, choice.point)
}

impl Policy for Alert {
    fn choose(&mut self, view: &View<'_>, head: &Waiting) -> Option<Configuration> {
        match self.scheme {
            Scheme::MinEnergy | Scheme::MaxAccuracy => {
                self.best(view, head, &self.slowdown, view.configurations(head))
            }
            Scheme::AppOnly => self.app(view, head),
            Scheme::SysOnly => self.system(view, head, &self.slowdown),
            Scheme::NoCoord => {
                let app = self.app(view, head)?;
                let system = self.system(view, head, &self.system)?;
                self.assumed = Some(system.variant);
                let point = view.state.costs.point_at(app.unit, view.clock(system));
                Some(Configuration {
                    point: if system.unit == app.unit { system.point } else { point },
                    ..app
                })
            }
        }
    }

    fn set_clocks(&mut self, view: &View<'_>, knobs: &mut Knobs) -> Option<Timestamp> {
        self.pins.set(view, knobs);
        None
    }

    fn slowdown(&self) -> f64 {
        self.slowdown.mean.max(0.01)
    }

    fn started(&mut self, view: &View<'_>, run: &Run) -> Nanos {
        self.last_w = board_watts(view, run.choice);
        self.pins.started(view, run.choice);
        view.profiled(run, self.slowdown())
    }

    fn completed(&mut self, view: &View<'_>, run: &Run, compute: Nanos) {
        let costs = &view.state.costs;
        let ratio = |variant, point| {
            compute.as_secs_f64() / costs.seconds(variant, run.choice.unit, point, run.items).max(1e-12)
        };
        let Configuration { variant, unit, point } = run.choice;
        if self.scheme != Scheme::NoCoord {
            return self.slowdown.observe(ratio(variant, point));
        }
        // Each half measures against what it believes the other half does by default.
        self.slowdown.observe(ratio(variant, costs.top(unit)));
        let assumed = self.assumed.filter(|&assumed| costs.may_run(assumed, unit)).unwrap_or(variant);
        self.system.observe(ratio(assumed, point));
    }

    fn sampled(&mut self, view: &View<'_>, readings: &Readings) {
        let idle = view.state.units.iter().all(|unit| unit.running.is_none() && unit.loading.is_none());
        let rails = view.state.catalog.board.rails.iter().zip(&readings.rails);
        let input = rails.filter(|(rail, _)| rail.is_input).find_map(|(_, reading)| reading.as_ref().ok());
        if let (true, Some(watts), true) = (idle, input, self.last_w > 0.0) {
            self.idle.observe((watts.as_watts() / self.last_w).clamp(0.0, 1.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The recursion by hand. First sample: Q = 0.1, predicted 0.5 * 0.1 + 0.1 = 0.15, K = 0.15 / 0.151. A step
    /// from 1 to 2 moves the mean by K: 0.7 % of the step is left after one sample. Second: Q = max(0.1, 0.03 +
    /// 0.7 * K^2), predicted (1 - K) * 0.15 + Q, and 0.14 % of that rest is left.
    #[test]
    fn a_step_is_absorbed_as_the_recursion_says() {
        let mut filter = Slowdown::default();
        filter.observe(2.0);
        let first = 0.15 / 0.151;
        assert!((filter.mean - (1.0 + first)).abs() < 1e-12);
        assert!((filter.variance - 0.15).abs() < 1e-12);
        filter.observe(2.0);
        let noise = 0.3 * 0.1 + 0.7 * first * first;
        let predicted = (1.0 - first) * 0.15 + noise;
        let second = predicted / (predicted + 0.001);
        assert!((filter.variance - predicted).abs() < 1e-12);
        assert!((filter.mean - 2.0).abs() - (1.0 - first) * (1.0 - second) < 1e-12);
        assert!((filter.mean - 2.0).abs() < 1e-5, "{}", filter.mean);
    }

    /// In the steady state Q = Q0 and p = (1 - K) p + Q0 with K = p / (p + R): p^2 - Q0 p - Q0 R = 0, so that
    /// p = 0.10099 and K = 0.990195.
    #[test]
    fn the_filter_settles_where_its_constants_put_it() {
        let mut filter = Slowdown::default();
        (0..200).for_each(|_| filter.observe(1.3));
        let steady = (Q0 + (Q0 * Q0 + 4.0 * Q0 * R).sqrt()) / 2.0;
        assert!((filter.variance - steady).abs() < 1e-9, "{}", filter.variance);
        assert!((filter.gain - 0.990_195).abs() < 1e-6, "{}", filter.gain);
        assert!((filter.mean - 1.3).abs() < 1e-12);
    }

    /// Phi at -1.96, 0 and 1.96 standard deviations.
    #[test]
    fn the_probability_is_the_normal_distribution_s() {
        let filter = Slowdown { mean: 1.2, variance: 0.04, ..Slowdown::default() };
        for (deviations, probability) in [(-1.959_964, 0.025), (0.0, 0.5), (1.959_964, 0.975)] {
            let slack = (1.2 + 0.2 * deviations) * 0.05;
            let found = filter.meets(slack, 0.05);
            assert!((found - probability).abs() < 1e-6, "{deviations}: {found}");
        }
        assert_eq!(filter.meets(-1.0, 0.05), 0.0);
    }

    #[test]
    fn the_idle_ratio_converges() {
        let mut idle = IdleRatio { ratio: None, variance: M0 };
        idle.observe(0.9);
        (0..100).for_each(|_| idle.observe(0.5));
        assert!((idle.ratio.unwrap() - 0.5).abs() < 1e-3, "{idle:?}");
        // The steady gain of S = 1e-4 and V = 1e-3 is 0.27: one sample in four counts.
        let before = idle.ratio.unwrap();
        idle.observe(1.5);
        let gain = idle.ratio.unwrap() - before;
        assert!((gain - 0.27).abs() < 0.01, "{gain}");
    }
}
