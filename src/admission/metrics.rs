//! What the webhook counts.

use super::outcome::Outcome;
use super::review::Request;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::time::Duration;

/// From a tenth of a millisecond, what a small review takes, to a tenth of a second, above which the
/// API server's own timeout is near.
const BUCKETS: [f64; 9] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    operation: &'static str,
    decision: &'static str,
    dry_run: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
    reason: &'static str,
}

/// The webhook's metrics; a clone counts into the same ones.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    errors: Family<ErrorLabels, Counter>,
    duration: Histogram,
    in_flight: Gauge,
}

impl Metrics {
    /// Makes the metrics and registers them: `admission_requests_total`, `admission_errors_total`,
    /// `admission_duration_seconds` and `admission_in_flight`.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            errors: Family::default(),
            duration: Histogram::new(BUCKETS),
            in_flight: Gauge::default(),
        };
        registry.register(
            "admission_requests",
            "Reviews answered, by operation and decision",
            metrics.requests.clone(),
        );
        registry.register(
            "admission_errors",
            "Reviews answered with an HTTP error, by reason",
            metrics.errors.clone(),
        );
        registry.register_with_unit(
            "admission_duration",
            "Time to read and answer a review",
            Unit::Seconds,
            metrics.duration.clone(),
        );
        registry.register("admission_in_flight", "Reviews being answered", metrics.in_flight.clone());
        metrics
    }

    /// Counts an answered review and how long that took.
    pub(super) fn answered(&self, request: &Request, outcome: &Outcome, took: Duration) {
        let labels = RequestLabels {
            operation: request.operation.as_str(),
            decision: outcome.decision(),
            dry_run: if request.is_dry_run() { "true" } else { "false" },
        };
        self.requests.get_or_create(&labels).inc();
        self.duration.observe(took.as_secs_f64());
    }

    /// Counts a review that was answered with an HTTP error.
    pub(super) fn failed(&self, reason: &'static str) {
        self.errors.get_or_create(&ErrorLabels { reason }).inc();
    }

    /// Counts a review as in flight until the guard is dropped.
    pub(super) fn enter(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }
}

/// One review in flight.
pub(super) struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}
