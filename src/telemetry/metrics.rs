//! Metrics: Flagger's, with its names, types and labels (docs.flagger.app, "Monitoring"), and our own.

use super::exposition;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The default buckets of Prometheus's Go client, which Flagger's histogram has.
const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// `flagger_canary_status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CanaryState {
    /// Progressing, or another phase of a run.
    Running = 0,
    /// Everything that is neither running nor failed.
    Successful = 1,
    /// Failed.
    Failed = 2,
}

/// `deployment_strategy` of the outcome counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Traffic is shifted by weight.
    Canary,
    /// Iterations without a match.
    BlueGreen,
    /// Iterations with a match.
    AbTesting,
}

impl Strategy {
    const ALL: [Self; 3] = [Self::Canary, Self::BlueGreen, Self::AbTesting];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Canary => "canary",
            Self::BlueGreen => "blue-green",
            Self::AbTesting => "ab-testing",
        }
    }
}

/// `analysis_status` of the outcome counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Analysis {
    /// The analysis ran.
    Completed,
    /// It was skipped.
    Skipped,
}

impl Analysis {
    const ALL: [Self; 2] = [Self::Completed, Self::Skipped];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Skipped => "skipped",
        }
    }
}

// Labels stand in the order of their names, as Prometheus's Go client writes them.

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Info {
    mesh_provider: String,
    version: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Namespace {
    namespace: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, EncodeLabelSet)]
struct Target {
    name: String,
    namespace: String,
}

impl Target {
    fn new(name: &str, namespace: &str) -> Self {
        Self { name: name.to_owned(), namespace: namespace.to_owned() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Workload {
    namespace: String,
    workload: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MetricOf {
    metric: String,
    name: String,
    namespace: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConditionOf {
    condition: String,
    name: String,
    namespace: String,
    reason: String,
    status: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    analysis_status: &'static str,
    deployment_strategy: &'static str,
    name: String,
    namespace: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CertificateKind {
    kind: &'static str,
}

type Value = Gauge<f64, AtomicU64>;

/// All metrics of the process. `name` is the name of the *target*, as with Flagger.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    total: Family<Namespace, Gauge>,
    status: Family<Target, Gauge>,
    weight: Family<Workload, Gauge>,
    conditions: Family<ConditionOf, Gauge>,
    duration: Family<Target, Histogram, fn() -> Histogram>,
    analysis: Family<MetricOf, Value>,
    successes: Family<Outcome, Counter>,
    failures: Family<Outcome, Counter>,
    bypassed: Family<Target, Counter>,
    leader: Gauge,
    outbound_waiting: Gauge,
    runs_without_wake: Gauge,
    certificate_expiry: Family<CertificateKind, Gauge>,
    certificate_valid: Gauge,
    connections_shed: Counter,
    known: Mutex<Known>,
}

/// Series whose labels are not a closed set, to be able to delete them.
#[derive(Debug, Default)]
struct Known {
    namespaces: BTreeSet<String>,
    metrics: BTreeMap<Target, BTreeSet<String>>,
    conditions: BTreeMap<Target, Vec<ConditionOf>>,
}

impl Metrics {
    /// Registers all of them. `version` and `mesh_provider` are the labels of `flagger_info`.
    #[must_use]
    pub fn new(version: &str, mesh_provider: &str) -> Self {
        let metrics = Self {
            registry: Registry::default(),
            total: Family::default(),
            status: Family::default(),
            weight: Family::default(),
            conditions: Family::default(),
            duration: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            analysis: Family::default(),
            successes: Family::default(),
            failures: Family::default(),
            bypassed: Family::default(),
            leader: Gauge::default(),
            outbound_waiting: Gauge::default(),
            runs_without_wake: Gauge::default(),
            certificate_expiry: Family::default(),
            certificate_valid: Gauge::default(),
            connections_shed: Counter::default(),
            known: Mutex::default(),
        };
        let info = Family::<Info, Gauge>::default();
        let labels = Info { mesh_provider: mesh_provider.to_owned(), version: version.to_owned() };
        info.get_or_create(&labels).set(1);
        let mut registry = Registry::default();
        registry.register("flagger_info", "Version and mesh provider in use", info);
        registry.register("flagger_canary_total", "Number of Canaries", metrics.total.clone());
        registry.register(
            "flagger_canary_status",
            "State of the last analysis: 0 running, 1 successful, 2 failed",
            metrics.status.clone(),
        );
        registry.register(
            "flagger_canary_weight",
            "Share of traffic of a workload, in percent",
            metrics.weight.clone(),
        );
        registry.register(
            "sidetrack_canary_condition",
            "Conditions of a Canary as they stand, each with its status and its reason; always 1",
            metrics.conditions.clone(),
        );
        registry.register(
            "flagger_canary_duration_seconds",
            "Time that one step of the analysis took, in seconds",
            metrics.duration.clone(),
        );
        registry.register(
            "flagger_canary_metric_analysis",
            "Last value of a metric of the analysis",
            metrics.analysis.clone(),
        );
        registry.register("flagger_canary_successes", "Revisions promoted", metrics.successes.clone());
        registry.register("flagger_canary_failures", "Revisions rolled back", metrics.failures.clone());
        registry.register(
            "sidetrack_interlock_bypassed",
            "Templates that reached a target without being held",
            metrics.bypassed.clone(),
        );
        registry.register("sidetrack_leader", "Whether this replica is the leader", metrics.leader.clone());
        registry.register(
            "sidetrack_outbound_waiting",
            "Requests to hooks and metrics servers that wait for others to end",
            metrics.outbound_waiting.clone(),
        );
        registry.register(
            "sidetrack_runs_without_wake",
            "Releases that only a change would take up again; always 0",
            metrics.runs_without_wake.clone(),
        );
        registry.register(
            "sidetrack_certificate_expiry_timestamp_seconds",
            "End of validity of the webhook's certificates, in seconds since 1970",
            metrics.certificate_expiry.clone(),
        );
        registry.register(
            "sidetrack_certificate_valid",
            "Whether the webhook's certificate is valid now",
            metrics.certificate_valid.clone(),
        );
        registry.register(
            "sidetrack_connections_shed",
            "Connections to the webhook that were ended because all were taken",
            metrics.connections_shed.clone(),
        );
        Self { registry, ..metrics }
    }

    /// Returns the registry, for metrics that other modules keep. A counter is registered without `_total`.
    pub const fn registry(&mut self) -> &mut Registry {
        &mut self.registry
    }

    /// Sets the number of Canaries of every namespace that has some; the others' series go (Flagger keeps them).
    pub fn set_totals(&self, totals: &BTreeMap<String, usize>) {
        let mut known = self.known();
        for (namespace, total) in totals {
            let labels = Namespace { namespace: namespace.clone() };
            self.total.get_or_create(&labels).set(i64::try_from(*total).unwrap_or(i64::MAX));
        }
        for namespace in known.namespaces.iter().filter(|n| !totals.contains_key(*n)) {
            self.total.remove(&Namespace { namespace: namespace.clone() });
        }
        known.namespaces = totals.keys().cloned().collect();
    }

    /// Sets the state of a target's analysis.
    pub fn set_status(&self, name: &str, namespace: &str, state: CanaryState) {
        self.status.get_or_create(&Target::new(name, namespace)).set(state as i64);
    }

    /// Sets the weights, in percent, of `<name>-primary` and `<name>`.
    pub fn set_weight(&self, name: &str, namespace: &str, primary: i32, canary: i32) {
        let [of_primary, of_canary] = workloads(name, namespace);
        self.weight.get_or_create(&of_primary).set(i64::from(primary));
        self.weight.get_or_create(&of_canary).set(i64::from(canary));
    }

    /// Sets the conditions that a target's Canary has: type, status and reason of each. Those that it had go.
    pub fn set_conditions<'a>(
        &self,
        name: &str,
        namespace: &str,
        conditions: impl Iterator<Item = (&'a str, &'a str, &'a str)>,
    ) {
        let labels = |(condition, status, reason): (&str, &str, &str)| ConditionOf {
            condition: condition.to_owned(),
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            reason: reason.to_owned(),
            status: status.to_owned(),
        };
        let is: Vec<ConditionOf> = conditions.map(labels).collect();
        let mut known = self.known();
        let was = known.conditions.entry(Target::new(name, namespace)).or_default();
        for gone in was.iter().filter(|labels| !is.contains(labels)) {
            self.conditions.remove(gone);
        }
        for labels in &is {
            self.conditions.get_or_create(labels).set(1);
        }
        *was = is;
    }

    /// Notes how long one step of a target's analysis took.
    pub fn observe_step(&self, name: &str, namespace: &str, took: Duration) {
        self.duration.get_or_create(&Target::new(name, namespace)).observe(took.as_secs_f64());
    }

    /// Sets the last value of a metric of a target's analysis.
    pub fn set_metric(&self, name: &str, namespace: &str, metric: &str, value: f64) {
        let target = Target::new(name, namespace);
        let labels = metric_of(&target, metric);
        self.analysis.get_or_create(&labels).set(value);
        self.known().metrics.entry(target).or_default().insert(metric.to_owned());
    }

    /// Deletes the values of a target's metrics that its analysis has no more.
    pub fn keep_metrics(&self, name: &str, namespace: &str, named: &BTreeSet<&str>) {
        let target = Target::new(name, namespace);
        let mut known = self.known();
        let Some(metrics) = known.metrics.get_mut(&target) else { return };
        for metric in metrics.iter().filter(|metric| !named.contains(metric.as_str())) {
            self.analysis.remove(&metric_of(&target, metric));
        }
        metrics.retain(|metric| named.contains(metric.as_str()));
    }

    /// Counts a promoted revision.
    pub fn count_success(&self, name: &str, namespace: &str, strategy: Strategy, analysis: Analysis) {
        self.successes.get_or_create(&outcome(name, namespace, strategy, analysis)).inc();
    }

    /// Counts a revision rolled back.
    pub fn count_failure(&self, name: &str, namespace: &str, strategy: Strategy, analysis: Analysis) {
        self.failures.get_or_create(&outcome(name, namespace, strategy, analysis)).inc();
    }

    /// Counts a template that reached a target unheld.
    pub fn count_bypass(&self, name: &str, namespace: &str) {
        self.bypassed.get_or_create(&Target::new(name, namespace)).inc();
    }

    /// Returns the number of requests to hooks and metrics servers that wait for others to end.
    #[must_use]
    pub fn outbound_waiting(&self) -> Gauge {
        self.outbound_waiting.clone()
    }

    /// Sets how many releases only a change would take up again.
    pub fn set_runs_without_wake(&self, runs: usize) {
        self.runs_without_wake.set(i64::try_from(runs).unwrap_or(i64::MAX));
    }

    /// Sets whether this replica leads.
    pub fn set_leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// Sets until when the certificate that is served is valid, and the authority that signed it where it is ours.
    pub fn set_certificate_expiry(&self, leaf: jiff::Timestamp, authority: Option<jiff::Timestamp>) {
        let set = |kind, at: jiff::Timestamp| {
            self.certificate_expiry.get_or_create(&CertificateKind { kind }).set(at.as_second());
        };
        set("leaf", leaf);
        if let Some(authority) = authority {
            set("authority", authority);
        }
    }

    /// Says whether the certificate that is served is valid now.
    pub fn set_certificate_valid(&self, valid: bool) {
        self.certificate_valid.set(i64::from(valid));
    }

    /// Counts connections that were ended in favour of others.
    #[must_use]
    pub fn connections_shed(&self) -> Counter {
        self.connections_shed.clone()
    }

    /// Deletes every series of a target whose Canary is gone (Flagger keeps them: fluxcd/flagger#1029).
    pub fn forget(&self, name: &str, namespace: &str) {
        let target = Target::new(name, namespace);
        self.status.remove(&target);
        self.duration.remove(&target);
        self.bypassed.remove(&target);
        for workload in workloads(name, namespace) {
            self.weight.remove(&workload);
        }
        for strategy in Strategy::ALL {
            for analysis in Analysis::ALL {
                let labels = outcome(name, namespace, strategy, analysis);
                self.successes.remove(&labels);
                self.failures.remove(&labels);
            }
        }
        let mut known = self.known();
        for metric in known.metrics.remove(&target).unwrap_or_default() {
            self.analysis.remove(&metric_of(&target, &metric));
        }
        for labels in known.conditions.remove(&target).unwrap_or_default() {
            self.conditions.remove(&labels);
        }
    }

    /// Returns all of them in Prometheus's text format, see [`exposition`].
    ///
    /// # Errors
    /// When a metric cannot be encoded.
    pub fn render(&self) -> Result<String, std::fmt::Error> {
        let mut open_metrics = String::new();
        text::encode(&mut open_metrics, &self.registry)?;
        Ok(exposition::classic(&open_metrics))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // What was in it when a thread panicked is still what is known.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn workloads(name: &str, namespace: &str) -> [Workload; 2] {
    [format!("{name}-primary"), name.to_owned()]
        .map(|workload| Workload { namespace: namespace.to_owned(), workload })
}

fn metric_of(target: &Target, metric: &str) -> MetricOf {
    let Target { name, namespace } = target.clone();
    MetricOf { metric: metric.to_owned(), name, namespace }
}

fn outcome(name: &str, namespace: &str, strategy: Strategy, analysis: Analysis) -> Outcome {
    Outcome {
        analysis_status: analysis.as_str(),
        deployment_strategy: strategy.as_str(),
        name: name.to_owned(),
        namespace: namespace.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(metrics: &Metrics) -> BTreeSet<String> {
        metrics.render().unwrap().lines().filter(|l| !l.starts_with("# HELP")).map(str::to_owned).collect()
    }

    /// The lines that Flagger 1.44.0 gave at the end of a successful release, recorded on a real control plane.
    const FLAGGER: &str = r#"# TYPE flagger_canary_duration_seconds histogram
flagger_canary_duration_seconds_bucket{name="podinfo",namespace="test",le="0.005"} 0
flagger_canary_duration_seconds_bucket{name="podinfo",namespace="test",le="0.01"} 0
flagger_canary_duration_seconds_bucket{name="podinfo",namespace="test",le="0.025"} 0
flagger_canary_duration_seconds_bucket{name="podinfo",namespace="test",le="0.05"} 0
flagger_canary_duration_seconds_bucket{name="podinfo",namespace="test",le="0.1"} 2
flagger_canary_duration_seconds_bucket{name="podinfo",namespace="test",le="0.25"} 2
flagger_canary_duration_seconds_bucket{name="podinfo",namespace="test",le="0.5"} 2
flagger_canary_duration_seconds_bucket{name="podinfo",namespace="test",le="1"} 2
flagger_canary_duration_seconds_bucket{name="podinfo",namespace="test",le="2.5"} 2
flagger_canary_duration_seconds_bucket{name="podinfo",namespace="test",le="5"} 2
flagger_canary_duration_seconds_bucket{name="podinfo",namespace="test",le="10"} 2
flagger_canary_duration_seconds_bucket{name="podinfo",namespace="test",le="+Inf"} 2
flagger_canary_duration_seconds_sum{name="podinfo",namespace="test"} 0.125
flagger_canary_duration_seconds_count{name="podinfo",namespace="test"} 2
# TYPE flagger_canary_metric_analysis gauge
flagger_canary_metric_analysis{metric="request-duration",name="podinfo",namespace="test"} 0.05
flagger_canary_metric_analysis{metric="request-success-rate",name="podinfo",namespace="test"} 100
# TYPE flagger_canary_status gauge
flagger_canary_status{name="podinfo",namespace="test"} 1
# TYPE flagger_canary_successes_total counter
flagger_canary_successes_total{analysis_status="completed",deployment_strategy="canary",name="podinfo",namespace="test"} 1
# TYPE flagger_canary_total gauge
flagger_canary_total{namespace="test"} 1
# TYPE flagger_canary_weight gauge
flagger_canary_weight{namespace="test",workload="podinfo"} 0
flagger_canary_weight{namespace="test",workload="podinfo-primary"} 100
# TYPE flagger_info gauge
flagger_info{mesh_provider="istio",version="1.44.0"} 1"#;

    fn after_a_release() -> Metrics {
        let metrics = Metrics::new("1.44.0", "istio");
        metrics.set_totals(&BTreeMap::from([("test".to_owned(), 1)]));
        metrics.set_status("podinfo", "test", CanaryState::Successful);
        metrics.set_weight("podinfo", "test", 100, 0);
        metrics.observe_step("podinfo", "test", Duration::from_micros(62_500));
        metrics.observe_step("podinfo", "test", Duration::from_micros(62_500));
        metrics.set_metric("podinfo", "test", "request-duration", 0.05);
        metrics.set_metric("podinfo", "test", "request-success-rate", 100.0);
        metrics.count_success("podinfo", "test", Strategy::Canary, Analysis::Completed);
        metrics
    }

    #[test]
    fn scrape_reads_as_flaggers_after_a_release() {
        let expected: BTreeSet<String> = FLAGGER.lines().map(str::to_owned).collect();
        let ours = lines(&after_a_release());
        let missing: Vec<_> = expected.difference(&ours).collect();
        assert!(missing.is_empty(), "{missing:#?}\nof\n{ours:#?}");
        let more = ours.difference(&expected).filter(|l| l.starts_with("flagger_"));
        assert_eq!(more.count(), 0, "{ours:#?}");
    }

    #[test]
    fn forgotten_target_leaves_no_series() {
        let metrics = after_a_release();
        metrics.count_failure("podinfo", "test", Strategy::AbTesting, Analysis::Skipped);
        metrics.count_bypass("podinfo", "test");
        metrics.set_status("other", "test", CanaryState::Failed);
        metrics.forget("podinfo", "test");
        metrics.set_totals(&BTreeMap::new());
        let left = lines(&metrics);
        assert!(!left.iter().any(|l| l.contains("podinfo") || l.contains("canary_total{")), "{left:#?}");
        assert!(left.contains(r#"flagger_canary_status{name="other",namespace="test"} 2"#));
    }

    #[test]
    fn a_metric_that_was_renamed_leaves_no_series() {
        let metrics = Metrics::new("1", "istio");
        for metric in ["errors", "latency"] {
            metrics.set_metric("app", "test", metric, 1.0);
        }
        metrics.keep_metrics("app", "test", &BTreeSet::from(["latency"]));
        let left = lines(&metrics);
        assert!(
            left.iter().any(|l| l.contains("latency")) && !left.iter().any(|l| l.contains("errors")),
            "{left:#?}"
        );
    }

    /// A condition that has another status or reason, or is gone, leaves no series behind.
    #[test]
    fn conditions_are_those_that_stand() {
        let metrics = Metrics::new("1", "istio");
        let set = |conditions: &[(&'static str, &'static str, &'static str)]| {
            metrics.set_conditions("app", "test", conditions.iter().copied());
            let text = metrics.render().unwrap();
            text.lines()
                .filter(|l| l.starts_with("sidetrack_canary_condition{"))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let series = |condition: &str, status: &str, reason: &str| {
            format!(
                r#"sidetrack_canary_condition{{condition="{condition}",name="app",namespace="test",reason="{reason}",status="{status}"}} 1"#
            )
        };
        let mut both = set(&[("Ready", "False", "Failed"), ("Stalled", "True", "Failed")]);
        both.sort();
        assert_eq!(both, [series("Ready", "False", "Failed"), series("Stalled", "True", "Failed")]);
        assert_eq!(set(&[("Ready", "True", "Succeeded")]), [series("Ready", "True", "Succeeded")]);
        metrics.forget("app", "test");
        assert!(!metrics.render().unwrap().contains("sidetrack_canary_condition{"));
    }

    #[test]
    fn counters_count_and_gauges_follow() {
        let metrics = after_a_release();
        metrics.count_success("podinfo", "test", Strategy::Canary, Analysis::Completed);
        metrics.count_failure("podinfo", "test", Strategy::BlueGreen, Analysis::Completed);
        metrics.set_status("podinfo", "test", CanaryState::Running);
        metrics.set_leader(true);
        let at = jiff::Timestamp::from_second(1_800_000_000).unwrap();
        metrics.set_certificate_expiry(at, None);
        let text = metrics.render().unwrap();
        for line in [
            r#"flagger_canary_successes_total{analysis_status="completed",deployment_strategy="canary",name="podinfo",namespace="test"} 2"#,
            r#"flagger_canary_failures_total{analysis_status="completed",deployment_strategy="blue-green",name="podinfo",namespace="test"} 1"#,
            r#"flagger_canary_status{name="podinfo",namespace="test"} 0"#,
            "sidetrack_leader 1",
            "sidetrack_outbound_waiting 0",
            "sidetrack_runs_without_wake 0",
            r#"sidetrack_certificate_expiry_timestamp_seconds{kind="leaf"} 1800000000"#,
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }
}
