//! `Canary`: what is released, behind which traffic router, and how it is analysed.

use super::analysis::Analysis;
use super::lenient::{default_when_absent, optional_whole};
use super::service::CanaryService;
use super::status::CanaryStatus;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

const PROGRESS_DEADLINE_SECONDS: i32 = 600;

/// What the controller shall do with one workload.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "flagger.app",
    version = "v1beta1",
    kind = "Canary",
    plural = "canaries",
    singular = "canary",
    namespaced,
    status = "CanaryStatus",
    category = "all",
    derive = "Default",
    derive = "PartialEq",
    doc = "Progressive delivery of one workload: each new revision takes traffic step by step while it is analysed, and is promoted or rolled back.",
    printcolumn = r#"{"name": "Status", "type": "string", "jsonPath": ".status.phase"}"#,
    printcolumn = r#"{"name": "Weight", "type": "string", "jsonPath": ".status.canaryWeight"}"#,
    printcolumn = r#"{"name": "Suspended", "type": "boolean", "jsonPath": ".spec.suspend", "priority": 1}"#,
    printcolumn = r#"{"name": "FailedChecks", "type": "string", "jsonPath": ".status.failedChecks", "priority": 1}"#,
    printcolumn = r#"{"name": "Interval", "type": "string", "jsonPath": ".spec.analysis.interval", "priority": 1}"#,
    printcolumn = r#"{"name": "Mirror", "type": "boolean", "jsonPath": ".spec.analysis.mirror", "priority": 1}"#,
    printcolumn = r#"{"name": "StepWeight", "type": "string", "jsonPath": ".spec.analysis.stepWeight", "priority": 1}"#,
    printcolumn = r#"{"name": "StepWeights", "type": "string", "jsonPath": ".spec.analysis.stepWeights", "priority": 1}"#,
    printcolumn = r#"{"name": "MaxWeight", "type": "string", "jsonPath": ".spec.analysis.maxWeight", "priority": 1}"#,
    printcolumn = r#"{"name": "LastTransitionTime", "type": "string", "jsonPath": ".status.lastTransitionTime"}"#,
    // Flagger's columns end here; ours follow, so that a script finds its own where they were.
    printcolumn = r#"{"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name": "Message", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].message"}"#
)]
#[serde(rename_all = "camelCase", default, remote = "Self")]
pub struct CanarySpec {
    /// Who routes the traffic, such as `istio` or `gatewayapi:v1`; the controller's `--mesh-provider` where empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// URL of the Prometheus that answers built-in checks and inline queries; the controller's
    /// `--metrics-server` where empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics_server: Option<String>,
    /// The workload whose pod template is released.
    pub target_ref: TargetRef,
    /// The autoscaler of the target; the primary gets a copy of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoscaler_ref: Option<AutoscalerRef>,
    /// The Ingress that leads to the apex Service (providers nginx and skipper).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_ref: Option<ObjectRef>,
    /// The ApisixRoute that leads to the apex Service (provider apisix).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route_ref: Option<ObjectRef>,
    /// The Upstream whose configuration the generated ones take over (provider gloo).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_ref: Option<UpstreamRef>,
    /// The Services and routes to make for the workload.
    #[serde(skip_serializing_if = "CanaryService::is_unset")]
    pub service: CanaryService,
    /// How a new revision is judged.
    pub analysis: Analysis,
    /// Seconds that a rollout of the canary or the primary may take before it counts as failed; 600 where empty.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "optional_whole")]
    #[schemars(with = "Option<f64>")]
    pub progress_deadline_seconds: Option<i32>,
    /// Promote each new revision without analysing it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub skip_analysis: bool,
    /// Give the workload its pods and its traffic back when this object is deleted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub revert_on_deletion: bool,
    /// Do nothing for as long as this is set.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
}

default_when_absent!(CanarySpec);

/// The workload that is released.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TargetRef {
    /// API version of the workload, such as `apps/v1`.
    pub api_version: String,
    /// Kind of the workload, such as `Deployment`.
    pub kind: String,
    /// Name of the workload, in the namespace of this object.
    pub name: String,
}

/// The autoscaler of the target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AutoscalerRef {
    /// API version of the autoscaler, such as `autoscaling/v2`.
    pub api_version: String,
    /// Kind of the autoscaler: `HorizontalPodAutoscaler` or KEDA's `ScaledObject`.
    pub kind: String,
    /// Name of the autoscaler, in the namespace of this object.
    pub name: String,
    /// Queries of the primary's ScaledObject by trigger name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub primary_scaler_queries: BTreeMap<String, String>,
    /// Limits of the primary's autoscaler that differ from those of the target's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary_scaler_replicas: Option<ScalerReplicas>,
}

/// Limits of an autoscaler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ScalerReplicas {
    /// The fewest pods; at least 1.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "optional_whole")]
    pub min_replicas: Option<i32>,
    /// The most pods; at least 1.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "optional_whole")]
    pub max_replicas: Option<i32>,
}

/// An object in the namespace of the Canary.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectRef {
    /// API version of the object.
    pub api_version: String,
    /// Kind of the object.
    pub kind: String,
    /// Name of the object.
    pub name: String,
}

/// A Gloo Upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct UpstreamRef {
    /// API version of the Upstream.
    pub api_version: String,
    /// Kind of the object: `Upstream`.
    pub kind: String,
    /// Name of the Upstream.
    pub name: String,
    /// Namespace of the Upstream; that of this object where empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

impl CanarySpec {
    /// Returns the traffic router that this Canary asks for, else `default`.
    #[must_use]
    pub fn provider<'a>(&'a self, default: &'a str) -> &'a str {
        self.provider.as_deref().filter(|provider| !provider.is_empty()).unwrap_or(default)
    }

    /// Returns the name of the apex Service: `service.name`, else the target's name.
    ///
    /// The primary's and canary's Services are named after it; the primary's Deployment after the target.
    #[must_use]
    pub fn apex_name(&self) -> &str {
        self.service.name.as_deref().filter(|name| !name.is_empty()).unwrap_or(&self.target_ref.name)
    }

    /// Returns how long a rollout may take: `progressDeadlineSeconds`, 600 s where absent, never negative.
    #[must_use]
    pub fn progress_deadline(&self) -> Duration {
        let seconds = self.progress_deadline_seconds.unwrap_or(PROGRESS_DEADLINE_SECONDS);
        Duration::from_secs(seconds.max(0).unsigned_abs().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_are_flaggers() {
        let spec: CanarySpec = serde_json::from_value(
            json!({"targetRef": {"name": "app"}, "service": {"name": "", "port": 80}}),
        )
        .unwrap();
        assert_eq!(spec.provider("istio"), "istio");
        assert_eq!(spec.apex_name(), "app");
        assert_eq!(spec.progress_deadline(), Duration::from_secs(600));
    }

    #[test]
    fn what_is_written_wins_over_the_defaults() {
        let spec: CanarySpec = serde_json::from_value(json!({
            "provider": "gatewayapi:v1", "progressDeadlineSeconds": 60,
            "targetRef": {"name": "app"}, "service": {"name": "front", "port": 80},
        }))
        .unwrap();
        assert_eq!(spec.provider("istio"), "gatewayapi:v1");
        assert_eq!(spec.apex_name(), "front");
        assert_eq!(spec.progress_deadline(), Duration::from_secs(60));
    }

    #[test]
    fn reads_objects_that_the_schema_lets_through() {
        for object in [
            json!({"metadata": {"name": "no-spec"}}),
            json!({"metadata": {"name": "null-spec"}, "spec": null}),
            json!({"metadata": {"name": "null-fields"}, "spec": {
                "service": null, "skipAnalysis": null, "analysis": {"metrics": null, "webhooks": [{"name": null}]},
            }}),
            json!({"metadata": {"name": "unknown"}, "spec": {"canaryAnalysis": {"x": 1}, "targetRef": {"more": []}}}),
            json!({"metadata": {"name": "fractions"}, "spec": {
                "progressDeadlineSeconds": 60.5,
                "service": {"port": 80.7, "targetPort": 99_999_999_999_u64},
                "analysis": {"stepWeights": [1.5, 1e30], "threshold": -0.5, "maxWeight": null},
            }}),
        ] {
            let read: Result<Canary, _> = serde_json::from_value(object.clone());
            assert!(read.is_ok(), "{object}: {read:?}");
        }
    }

    #[test]
    fn a_fraction_is_cut_off_and_a_large_number_clamped() {
        let spec: CanarySpec = serde_json::from_value(json!({
            "service": {"port": 80.7}, "analysis": {"stepWeights": [1.5, 1e30]},
        }))
        .unwrap();
        assert_eq!(spec.service.port, 80);
        assert_eq!(spec.analysis.step_weights, [1, i32::MAX]);
    }
}
