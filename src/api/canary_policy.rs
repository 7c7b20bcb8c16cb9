//! `CanaryPolicy`: which Deployments are protected without a Canary of their own, how they are released, and when.

use super::analysis::Analysis;
use super::lenient::optional_whole;
use super::service::CanaryService;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Deployments that a policy may select where it does not say.
const MAX_TARGETS: i32 = 500;

/// Which Deployments are protected, how they are released, and when.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "sidetrack.dev",
    version = "v1alpha1",
    kind = "CanaryPolicy",
    plural = "canarypolicies",
    singular = "canarypolicy",
    shortname = "cpol",
    status = "CanaryPolicyStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "Protects every Deployment that it selects from its first write, and says when their releases may begin.",
    printcolumn = r#"{"name": "Mode", "type": "string", "jsonPath": ".spec.mode"}"#,
    printcolumn = r#"{"name": "Priority", "type": "integer", "jsonPath": ".spec.priority"}"#,
    printcolumn = r#"{"name": "Selected", "type": "integer", "jsonPath": ".status.selected"}"#,
    printcolumn = r#"{"name": "Enrolled", "type": "integer", "jsonPath": ".status.enrolled"}"#,
    printcolumn = r#"{"name": "Running", "type": "integer", "jsonPath": ".status.releases.running"}"#,
    printcolumn = r#"{"name": "Waiting", "type": "integer", "jsonPath": ".status.releases.waiting"}"#,
    printcolumn = r#"{"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name": "Message", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].message", "priority": 1}"#
)]
#[serde(rename_all = "camelCase", default)]
pub struct CanaryPolicySpec {
    /// Namespaces, by their labels; all where empty. `kube-system`, the other namespaces of Kubernetes itself and
    /// Sidetrack's own are never selected.
    pub namespace_selector: LabelSelector,
    /// Deployments, by their labels; all of the namespaces where empty.
    pub selector: LabelSelector,
    /// `enforce`, or `audit`: say what would be held, and hold nothing.
    pub mode: Mode,
    /// Of two policies that select one Deployment the one with the higher number counts; of equal ones the one whose
    /// name comes first.
    pub priority: i32,
    /// Most Deployments that it may select. A policy that selects more does nothing and says how many.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "optional_whole")]
    pub max_targets: Option<i32>,
    /// Layout of the Canaries that are made: `in-place` (the Deployments stay the primaries, no pod restarts) or
    /// `primary-copy` (Flagger's).
    pub layout: PolicyLayout,
    /// What the Canaries that are made say: the fields of a Canary's spec but for `targetRef`.
    pub canary: CanaryTemplate,
    /// Releases that may run at once among the Deployments that it selects; the others wait, the one that has waited
    /// longest goes first.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "optional_whole")]
    pub max_concurrent_releases: Option<i32>,
    /// Times in which no release begins: what is applied is held, and goes when they end.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub freeze: Vec<FreezeWindow>,
    /// A revision that was rejected is tried again as soon as it is applied again.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub retry_rejected: bool,
    /// A person lets each revision through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
    /// Clusters in which a revision must have been promoted before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wave: Option<Wave>,
}

/// Whether a policy acts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// What it selects is enrolled.
    #[default]
    Enforce,
    /// It says what it would hold.
    Audit,
}

/// The layout of Canaries that a policy makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyLayout {
    /// The Deployment that is applied stays the primary.
    #[default]
    InPlace,
    /// The Deployment that is applied is the canary, a primary is made.
    PrimaryCopy,
}

impl PolicyLayout {
    /// Returns the layout as labels and annotations name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InPlace => super::keys::LAYOUT_IN_PLACE,
            Self::PrimaryCopy => super::keys::LAYOUT_PRIMARY_COPY,
        }
    }
}

/// The spec of a Canary, without its target.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CanaryTemplate {
    /// Who routes the traffic, such as `istio` or `gatewayapi:v1`; the controller's `--mesh-provider` where empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// URL of the Prometheus that answers built-in checks and inline queries; the controller's `--metrics-server` where
    /// empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics_server: Option<String>,
    /// The Services and routes to make. Without a port, it is that of the Service of the Deployment's name, else the first
    /// port of its containers.
    #[serde(skip_serializing_if = "CanaryService::is_unset")]
    pub service: CanaryService,
    /// How a new revision is judged.
    pub analysis: Analysis,
    /// Seconds that a rollout may take before it counts as failed; 600 where empty.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "optional_whole")]
    #[schemars(with = "Option<f64>")]
    pub progress_deadline_seconds: Option<i32>,
    /// Promote each new revision without analysing it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub skip_analysis: bool,
}

/// A time in which no release begins, again and again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct FreezeWindow {
    /// When it begins, as in crontab: minute, hour, day of month, month, day of week.
    pub schedule: String,
    /// Time zone of the schedule, such as `Europe/Berlin`; UTC where empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// How long it lasts, such as `62h` or `30m`.
    pub duration: String,
    /// Why, for whoever waits.
    pub reason: String,
}

/// How a revision is let through by a person: the verb `approve` on its Canary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Approval {
    /// Each revision waits for an approval.
    pub required: bool,
    /// Nobody lets through what they have applied themselves: neither by approving nor by promoting or skipping.
    pub four_eyes: bool,
}

/// Clusters that come before this one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Wave {
    /// Names of the clusters that come directly before: of each there is a Secret of that name with a kubeconfig (key
    /// `kubeconfig`) and label `sidetrack.dev/peer: "true"` in Sidetrack's namespace.
    pub after: Vec<String>,
    /// How many of them must have promoted the revision; all where empty.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "optional_whole")]
    pub passed: Option<i32>,
    /// Time since the last promotion that counts, such as `1h`; none where empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soak: Option<String>,
}

/// Status of a policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CanaryPolicyStatus {
    /// The `metadata.generation` that this status speaks of.
    pub observed_generation: i64,
    /// Deployments that it selects, those of another policy or with a Canary of their own included.
    pub selected: i32,
    /// Namespaces in which it selects some.
    pub namespaces: i32,
    /// Deployments with a Canary that was made for it.
    pub enrolled: i32,
    /// Deployments that it leaves alone because something is in the way, such as an object of a name that it would need, as
    /// `namespace/name`: nothing is held on them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_alone: Vec<String>,
    /// Releases of the Deployments that it governs.
    pub releases: Releases,
    /// Deployments that it selects and does not release, with the reason; the first ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Other>,
    /// Since when and until when no release begins, if that is now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frozen: Option<Frozen>,
    /// Digest of the selectors by which it was last enforced: as long as these stay, more Deployments than `maxTargets` end the
    /// enrolment of what is there already, and no guard.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub enforced: String,
    /// `Ready`, with a sentence.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<super::status::Condition>,
}

/// Releases under one policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Releases {
    /// How many run.
    pub running: i32,
    /// How many wait for their turn.
    pub waiting: i32,
    /// The first of those that wait, in the order in which they go, as `namespace/name`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub queue: Vec<String>,
}

/// A Deployment that a policy selects and does not release itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Other {
    /// `namespace/name`.
    pub deployment: String,
    /// Why.
    pub reason: String,
}

/// A time in which no release begins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Frozen {
    /// When releases go again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Why they do not.
    pub reason: String,
}

impl CanaryPolicySpec {
    /// Returns how many Deployments it may select.
    #[must_use]
    pub fn max_targets(&self) -> usize {
        usize::try_from(self.max_targets.unwrap_or(MAX_TARGETS)).unwrap_or(0)
    }

    /// Returns how many releases may run at once, if that is limited; never less than one.
    #[must_use]
    pub fn max_concurrent_releases(&self) -> Option<usize> {
        self.max_concurrent_releases.map(|n| usize::try_from(n).unwrap_or(0).max(1))
    }
}
