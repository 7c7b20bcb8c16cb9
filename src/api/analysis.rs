//! `Canary.spec.analysis`: the steps, the checks and the hooks of a run.

use super::lenient::{optional_whole, whole_list};
use crate::go;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

const INTERVAL: Duration = Duration::from_secs(60);
const HOOK_TIMEOUT: Duration = Duration::from_secs(10);
const COOKIE_MAX_AGE_SECONDS: i32 = 86_400;
const ALL: i32 = 100;

/// How a new revision is judged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Analysis {
    /// Time from one step to the next, such as `30s` or `1m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
    /// Steps of an analysis that does not shift weight: A/B testing with `match`, else blue/green.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "optional_whole")]
    #[schemars(with = "Option<f64>")]
    pub iterations: Option<i32>,
    /// Failed checks, counted over the whole run, at which the revision is rolled back.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "optional_whole")]
    #[schemars(with = "Option<f64>")]
    pub threshold: Option<i32>,
    /// Share of traffic, in percent, at which the revision is promoted; 100 where empty. With `stepWeights`
    /// the last of them counts instead.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "optional_whole")]
    #[schemars(with = "Option<f64>")]
    pub max_weight: Option<i32>,
    /// Share of traffic, in percent, by which the canary's grows at each step.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "optional_whole")]
    #[schemars(with = "Option<f64>")]
    pub step_weight: Option<i32>,
    /// The canary's share of traffic, in percent, at each step.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "whole_list")]
    #[schemars(with = "Vec<f64>")]
    pub step_weights: Vec<i32>,
    /// Share of traffic, in percent, by which the primary's grows at each step after promotion; all at once
    /// where empty.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "optional_whole")]
    #[schemars(with = "Option<f64>")]
    pub step_weight_promotion: Option<i32>,
    /// Send a copy of each request to the canary before it gets any traffic of its own.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub mirror: bool,
    /// Share of requests, in percent, that are copied; all where empty (Istio).
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "optional_whole")]
    #[schemars(with = "Option<f64>")]
    pub mirror_weight: Option<i32>,
    /// Share of the primary's pods, in percent, that must be available; 100 where empty.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "optional_whole")]
    #[schemars(with = "Option<f64>")]
    pub primary_ready_threshold: Option<i32>,
    /// Share of the canary's pods, in percent, that must be available; 100 where empty.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "optional_whole")]
    #[schemars(with = "Option<f64>")]
    pub canary_ready_threshold: Option<i32>,
    /// Requests that go to the canary in an A/B test.
    #[serde(rename = "match", skip_serializing_if = "Vec::is_empty")]
    pub match_: Vec<Value>,
    /// Checks of metrics, made at each step in this order until one fails.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<Metric>,
    /// Who is told of the run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alerts: Vec<Alert>,
    /// Hooks called in the course of the run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub webhooks: Vec<Webhook>,
    /// Keep a user who has met the canary on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_affinity: Option<SessionAffinity>,
}

/// A check of one metric.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Metric {
    /// Name of the check; `request-success-rate` and `request-duration` are built in.
    pub name: String,
    /// Window of the query, such as `1m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
    /// The bound where `thresholdRange` is empty: the least for `request-success-rate`, else the most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// The bounds between which the value passes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold_range: Option<ThresholdRange>,
    /// A query of its own for the metrics server; a template.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// The MetricTemplate that holds the query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template_ref: Option<NamespacedName>,
    /// Values for `{{ variables.KEY }}` in the query.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub template_variables: BTreeMap<String, String>,
}

/// Bounds of a metric, inclusive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ThresholdRange {
    /// The least value that passes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// The greatest value that passes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
}

/// An object by name, in the namespace of the Canary unless it says another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NamespacedName {
    /// Name of the object.
    pub name: String,
    /// Namespace of the object; that of this object where empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// Someone to tell of the run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Alert {
    /// Name of the alert.
    pub name: String,
    /// Least severity that is sent: `info`, `warn` or `error`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub severity: Option<String>,
    /// The AlertProvider that sends it.
    pub provider_ref: NamespacedName,
}

/// A hook: an HTTP POST whose answer may hold or fail the run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Webhook {
    /// Name of the hook.
    pub name: String,
    /// When the hook is called and what its answer decides; `rollout` where empty.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub type_: Option<String>,
    /// Send no alert when this hook holds the run.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub mute_alert: bool,
    /// URL that is called.
    pub url: String,
    /// Time allowed for one attempt, such as `30s`; 10 s where empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Further attempts after a connection error or a 5xx answer.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "optional_whole")]
    #[schemars(with = "Option<f64>")]
    pub retries: Option<i32>,
    /// Do not check the certificate of the hook's server.
    #[serde(rename = "disableTLS", skip_serializing_if = "std::ops::Not::not")]
    pub disable_tls: bool,
    /// Further values for the hook, sent as they stand.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// A cookie that keeps a user on the side that first answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionAffinity {
    /// Name of the cookie set by the canary.
    pub cookie_name: String,
    /// Name of the cookie set by the primary; no such cookie where empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary_cookie_name: Option<String>,
    /// `Domain` of the cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Set `HttpOnly` on the cookie.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub http_only: bool,
    /// `Max-Age` of the cookie, in seconds; one day where empty.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "optional_whole")]
    #[schemars(with = "Option<f64>")]
    pub max_age: Option<i32>,
    /// Set `Partitioned` on the cookie.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub partitioned: bool,
    /// `Path` of the cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `SameSite` of the cookie: `Strict`, `Lax` or `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub same_site: Option<String>,
    /// Set `Secure` on the cookie.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub secure: bool,
}

/// The strategy that an analysis describes (Flagger's `DeploymentStrategy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Weight is shifted step by step.
    Canary,
    /// The canary is analysed without weight, then all traffic is switched.
    BlueGreen,
    /// Requests that match go to the canary.
    AbTesting,
}

/// When a hook is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HookType {
    /// Before a new revision is released; a refusal holds it.
    ConfirmRollout,
    /// Before the canary gets traffic; a refusal is a failed check.
    PreRollout,
    /// At each step, before the metrics; a refusal is a failed check.
    Rollout,
    /// Before each increase of weight; a refusal holds the weight.
    ConfirmTrafficIncrease,
    /// Before the promotion; a refusal holds it.
    ConfirmPromotion,
    /// After the run; its answer decides nothing.
    PostRollout,
    /// At each step; consent rolls back.
    Rollback,
    /// At each event; its answer decides nothing.
    Event,
}

impl Analysis {
    /// Returns the time from one step to the next: 60 s where `interval` is absent or no duration (Flagger),
    /// at least `floor`.
    #[must_use]
    pub fn interval(&self, floor: Duration) -> Duration {
        self.interval.as_deref().and_then(|text| go::parse_duration(text).ok()).unwrap_or(INTERVAL).max(floor)
    }

    /// Returns how many failed checks roll the run back: 1 where absent or not positive (Flagger).
    #[must_use]
    pub fn threshold(&self) -> i32 {
        self.threshold.unwrap_or_default().max(1)
    }

    /// Returns the share of traffic, in percent, at which the revision is promoted: the last of `stepWeights`,
    /// else `maxWeight`, else 100, and never more than 100.
    ///
    /// Flagger caps the last of `stepWeights` only; a `maxWeight` over 100 is never reached there.
    #[must_use]
    pub fn max_weight(&self) -> i32 {
        let last = self.step_weights.last().copied();
        last.or(self.max_weight.filter(|weight| *weight > 0)).unwrap_or(ALL).min(ALL)
    }

    /// Returns the linear step in percent; 0 where there is none.
    #[must_use]
    pub fn step_weight(&self) -> i32 {
        self.step_weight.unwrap_or_default().max(0)
    }

    /// Returns the step of the primary's weight after promotion, in percent; 0 for all at once.
    #[must_use]
    pub fn step_weight_promotion(&self) -> i32 {
        self.step_weight_promotion.unwrap_or_default().max(0)
    }

    /// Returns the number of iterations; 0 for an analysis that shifts weight.
    #[must_use]
    pub fn iterations(&self) -> i32 {
        self.iterations.unwrap_or_default().max(0)
    }

    /// Returns the share of the primary's pods, in percent, that must be available; 100 where absent.
    #[must_use]
    pub fn primary_ready_threshold(&self) -> i32 {
        self.primary_ready_threshold.unwrap_or(ALL)
    }

    /// Returns the share of the canary's pods, in percent, that must be available; 100 where absent.
    #[must_use]
    pub fn canary_ready_threshold(&self) -> i32 {
        self.canary_ready_threshold.unwrap_or(ALL)
    }

    /// Returns the strategy: A/B with `match` and iterations, blue/green with iterations, else canary.
    #[must_use]
    pub fn strategy(&self) -> Strategy {
        match (self.iterations() > 0, self.match_.is_empty()) {
            (true, false) => Strategy::AbTesting,
            (true, true) => Strategy::BlueGreen,
            (false, _) => Strategy::Canary,
        }
    }
}

impl Metric {
    /// Returns the window of a built-in or inline query: `interval`, else `1m`.
    ///
    /// Flagger leaves the interval of a query from a MetricTemplate empty where it is absent: read the field there.
    #[must_use]
    pub fn interval_or_default(&self) -> &str {
        self.interval.as_deref().filter(|interval| !interval.is_empty()).unwrap_or("1m")
    }
}

impl Webhook {
    /// Returns when the hook is called: `rollout` where the type is absent, `None` where it is unknown.
    #[must_use]
    pub fn hook_type(&self) -> Option<HookType> {
        Some(match self.type_.as_deref().unwrap_or_default() {
            "confirm-rollout" => HookType::ConfirmRollout,
            "pre-rollout" => HookType::PreRollout,
            "" | "rollout" => HookType::Rollout,
            "confirm-traffic-increase" => HookType::ConfirmTrafficIncrease,
            "confirm-promotion" => HookType::ConfirmPromotion,
            "post-rollout" => HookType::PostRollout,
            "rollback" => HookType::Rollback,
            "event" => HookType::Event,
            _ => return None,
        })
    }

    /// Returns the time for one attempt: 10 s where absent, no duration or zero.
    ///
    /// Zero means no limit to Flagger, whose run then hangs with the hook.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        let timeout = self.timeout.as_deref().and_then(|text| go::parse_duration(text).ok());
        timeout.filter(|timeout| !timeout.is_zero()).unwrap_or(HOOK_TIMEOUT)
    }

    /// Returns the number of further attempts; 0 where absent or negative.
    #[must_use]
    pub fn retries(&self) -> u32 {
        self.retries.unwrap_or_default().max(0).unsigned_abs()
    }
}

impl SessionAffinity {
    /// Returns the `Max-Age` of the cookie in seconds: one day where absent or 0.
    #[must_use]
    pub fn max_age(&self) -> i32 {
        self.max_age.filter(|seconds| *seconds != 0).unwrap_or(COOKIE_MAX_AGE_SECONDS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const FLOOR: Duration = Duration::from_secs(10);

    fn analysis(value: Value) -> Analysis {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn interval_defaults_to_a_minute_and_is_raised_to_the_floor() {
        for (written, seconds) in [
            (json!({}), 60),
            (json!({"interval": ""}), 60),
            (json!({"interval": "10sx"}), 60),
            (json!({"interval": "30s"}), 30),
            (json!({"interval": "2m"}), 120),
            (json!({"interval": "1s"}), 10),
            (json!({"interval": "0s"}), 10),
        ] {
            assert_eq!(analysis(written.clone()).interval(FLOOR), Duration::from_secs(seconds), "{written}");
        }
        assert_eq!(analysis(json!({"interval": "1s"})).interval(Duration::ZERO), Duration::from_secs(1));
    }

    #[test]
    fn threshold_is_at_least_one() {
        for (written, threshold) in
            [(json!({}), 1), (json!({"threshold": 0}), 1), (json!({"threshold": -3}), 1)]
        {
            assert_eq!(analysis(written).threshold(), threshold);
        }
        assert_eq!(analysis(json!({"threshold": 5})).threshold(), 5);
    }

    #[test]
    fn max_weight_is_the_last_step_weight_capped_at_100() {
        for (written, weight) in [
            (json!({}), 100),
            (json!({"maxWeight": 50}), 50),
            (json!({"maxWeight": 0}), 100),
            (json!({"maxWeight": 150}), 100),
            (json!({"stepWeights": [10, 40], "maxWeight": 80}), 40),
            (json!({"stepWeights": [10, 120]}), 100),
        ] {
            assert_eq!(analysis(written.clone()).max_weight(), weight, "{written}");
        }
    }

    #[test]
    fn ready_thresholds_default_to_all_pods() {
        let analysis = analysis(json!({"canaryReadyThreshold": 50}));
        assert_eq!((analysis.primary_ready_threshold(), analysis.canary_ready_threshold()), (100, 50));
    }

    #[test]
    fn strategy_follows_iterations_then_match() {
        for (written, strategy) in [
            (json!({"stepWeight": 10}), Strategy::Canary),
            (json!({"stepWeight": 10, "match": [{}]}), Strategy::Canary),
            (json!({"iterations": 5}), Strategy::BlueGreen),
            (json!({"iterations": 5, "match": [{}]}), Strategy::AbTesting),
        ] {
            assert_eq!(analysis(written.clone()).strategy(), strategy, "{written}");
        }
    }

    #[test]
    fn hook_defaults_are_rollout_ten_seconds_no_retry() {
        let hook = Webhook::default();
        assert_eq!(hook.hook_type(), Some(HookType::Rollout));
        assert_eq!((hook.timeout(), hook.retries()), (Duration::from_secs(10), 0));
        let empty = Webhook { type_: Some(String::new()), timeout: Some("0s".into()), ..Webhook::default() };
        assert_eq!(empty.hook_type(), Some(HookType::Rollout));
        assert_eq!(empty.timeout(), Duration::from_secs(10));
        let written = Webhook { timeout: Some("1m".into()), retries: Some(3), ..Webhook::default() };
        assert_eq!((written.timeout(), written.retries()), (Duration::from_secs(60), 3));
    }

    #[test]
    fn unknown_hook_type_is_readable_and_none() {
        let hook: Webhook = serde_json::from_value(json!({"name": "x", "type": "later"})).unwrap();
        assert_eq!(hook.hook_type(), None);
    }

    #[test]
    fn metric_interval_defaults_to_one_minute() {
        assert_eq!(Metric::default().interval_or_default(), "1m");
        let metric = Metric { interval: Some("30s".into()), ..Metric::default() };
        assert_eq!(metric.interval_or_default(), "30s");
    }
}
