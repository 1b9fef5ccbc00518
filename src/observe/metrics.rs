//! The recorder behind the Prometheus page: handles are registered once and then cost an atomic operation.
//!
//! It is nobody's global: the daemon owns one, so that two can live in one test.

use super::names::{Kind, Metric};
use metrics::{Counter, Gauge, Histogram, Key, Label, Metadata, Recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

/// Upper ends of the buckets of request, queue and compute times, seconds.
const LATENCY_BUCKETS_S: [f64; 18] = [
    50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 3e-3, 5e-3, 7.5e-3, 10e-3, 20e-3, 33e-3, 50e-3, 100e-3,
    200e-3, 500e-3, 1.0, 5.0,
];
/// Upper ends of the buckets of decision times, seconds.
const DECISION_BUCKETS_S: [f64; 10] = [1e-6, 2e-6, 5e-6, 10e-6, 20e-6, 50e-6, 100e-6, 200e-6, 1e-3, 10e-3];

/// Registers metrics and renders the page.
pub struct Registry {
    recorder: PrometheusRecorder,
}

/// Renders the page from any thread.
#[derive(Clone)]
pub struct Page(PrometheusHandle);

impl Page {
    /// The page, in Prometheus's text format.
    #[must_use]
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// Sorts what histograms have recorded into their buckets. To be called every few seconds, or their
    /// memory grows until the next [`Page::render`].
    pub fn upkeep(&self) {
        self.0.run_upkeep();
    }
}

impl std::fmt::Debug for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Page")
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Registry")
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl Registry {
    /// An empty page with all metrics described.
    #[must_use]
    pub fn new() -> Self {
        let decisions = Matcher::Full(Metric::DecisionDuration.name().to_owned());
        // The only error is an empty list of buckets; then there would be summaries instead of histograms.
        let builder = PrometheusBuilder::new().set_buckets(&LATENCY_BUCKETS_S);
        let builder = builder.and_then(|b| b.set_buckets_for_metric(decisions, &DECISION_BUCKETS_S));
        let recorder = builder.unwrap_or_default().build_recorder();
        for metric in Metric::ALL {
            let (name, help) = (metric.name().into(), metric.help().trim().into());
            match metric.kind() {
                Kind::Counter => recorder.describe_counter(name, None, help),
                Kind::Gauge => recorder.describe_gauge(name, None, help),
                Kind::Histogram => recorder.describe_histogram(name, None, help),
            }
        }
        Self { recorder }
    }

    /// The page of what is registered here.
    #[must_use]
    pub fn page(&self) -> Page {
        Page(self.recorder.handle())
    }

    /// A counter with the values of its labels.
    pub fn counter(&self, metric: Metric, values: &[&str]) -> Counter {
        debug_assert_eq!(metric.kind(), Kind::Counter);
        self.recorder.register_counter(&key(metric, values), &METADATA)
    }

    /// A gauge with the values of its labels.
    pub fn gauge(&self, metric: Metric, values: &[&str]) -> Gauge {
        debug_assert_eq!(metric.kind(), Kind::Gauge);
        self.recorder.register_gauge(&key(metric, values), &METADATA)
    }

    /// A histogram with the values of its labels.
    pub fn histogram(&self, metric: Metric, values: &[&str]) -> Histogram {
        debug_assert_eq!(metric.kind(), Kind::Histogram);
        self.recorder.register_histogram(&key(metric, values), &METADATA)
    }
}

static METADATA: Metadata<'static> = Metadata::new("wattd", metrics::Level::INFO, None);

fn key(metric: Metric, values: &[&str]) -> Key {
    debug_assert_eq!(metric.labels().len(), values.len(), "{}", metric.name());
    let labels = metric.labels().iter().zip(values);
    let labels: Vec<Label> = labels.map(|(name, value)| Label::new(*name, (*value).to_owned())).collect();
    Key::from_parts(metric.name(), labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_are_buckets_and_decisions_have_their_own() {
        let registry = Registry::new();
        registry.histogram(Metric::RequestDuration, &["m", "c"]).record(0.004);
        registry.histogram(Metric::DecisionDuration, &[]).record(3e-6);
        let page = registry.page().render();
        for line in [
            "# TYPE wattd_request_duration_seconds histogram",
            "wattd_request_duration_seconds_bucket{model=\"m\",class=\"c\",le=\"0.003\"} 0",
            "wattd_request_duration_seconds_bucket{model=\"m\",class=\"c\",le=\"0.005\"} 1",
            "wattd_decision_duration_seconds_bucket{le=\"0.000005\"} 1",
            "wattd_decision_duration_seconds_bucket{le=\"0.000002\"} 0",
        ] {
            assert!(page.lines().any(|l| l == line), "no `{line}` in\n{page}");
        }
    }

    #[test]
    fn hostile_label_values_stay_inside_their_quotes() {
        let registry = Registry::new();
        registry.gauge(Metric::Power, &["a\"} 1\nevil 2"]).set(5.0);
        let page = registry.page().render();
        assert!(!page.lines().any(|line| line.starts_with("evil")), "{page}");
    }
}
