//! `Canary.status`: Flagger's fields, what kstatus understands, and the run as the controller resumes it.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where a Canary stands (Flagger's phases).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum Phase {
    /// Nothing has been done yet.
    #[default]
    #[serde(rename = "")]
    None,
    /// The primary and the routes are being made.
    Initializing,
    /// The primary serves; no revision has been released yet.
    Initialized,
    /// A new revision waits for a confirm-rollout hook.
    Waiting,
    /// The canary is being started or analysed.
    Progressing,
    /// The analysis passed; a confirm-promotion hook has not.
    WaitingPromotion,
    /// The primary rolls to the analysed revision.
    Promoting,
    /// Traffic is back on the primary, the canary is being scaled down.
    Finalising,
    /// The primary runs the revision named in `revisions.primary`.
    Succeeded,
    /// The revision named in `revisions.failed` was rejected.
    Failed,
    /// The Canary is being deleted.
    Terminating,
    /// The Canary was deleted.
    Terminated,
}

impl Phase {
    /// Reads a phase. One that this version does not know is none: what is missing is made, and what there is goes on.
    fn known<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = serde_json::Value::deserialize(deserializer)?;
        Ok(serde_json::from_value(text).unwrap_or_default())
    }

    /// Returns the phase as it stands in `status.phase`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Initializing => "Initializing",
            Self::Initialized => "Initialized",
            Self::Waiting => "Waiting",
            Self::Progressing => "Progressing",
            Self::WaitingPromotion => "WaitingPromotion",
            Self::Promoting => "Promoting",
            Self::Finalising => "Finalising",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Terminating => "Terminating",
            Self::Terminated => "Terminated",
        }
    }
}

/// Status of a Canary.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CanaryStatus {
    /// Where the Canary stands.
    #[serde(default, deserialize_with = "Phase::known")]
    pub phase: Phase,
    /// Failed checks of the current run; never goes down within a run.
    #[serde(default)]
    pub failed_checks: i32,
    /// Share of traffic on the canary, in percent.
    #[serde(default)]
    pub canary_weight: i32,
    /// What the share is counted by where nothing routes (`provider: kubernetes`), while the canary has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<Share>,
    /// Iterations done, for strategies that count iterations.
    #[serde(default)]
    pub iterations: i32,
    /// Checksums of the ConfigMaps and Secrets that the template refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracked_configs: Option<BTreeMap<String, String>>,
    /// Hash of the revision last taken up; opaque.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_applied_spec: Option<String>,
    /// Hash of the revision last promoted; opaque.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_promoted_spec: Option<String>,
    /// When the phase, the weight or a counter last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Timestamp>,
    /// Value of the cookie that keeps a user on the canary of this run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_affinity_cookie: Option<String>,
    /// Value of the cookie that keeps a user on the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary_session_affinity_cookie: Option<String>,
    /// Value of the cookie of the run before, which browsers are told to drop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_session_affinity_cookie: Option<String>,
    /// `Promoted` (Flagger's) and `Ready`, `Reconciling`, `Stalled` (kstatus).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The `metadata.generation` that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Revisions by name: hashes of pod templates.
    #[serde(default, skip_serializing_if = "Revisions::is_empty")]
    pub revisions: Revisions,
    /// What the Canary has taken over. It goes on serving this whatever its spec says meanwhile, until it has given it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted: Option<Adopted>,
    /// The run that is going on, as the controller resumes it after a crash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Run>,
    /// Since when the revision stands in line for its turn, where a policy limits how many releases run at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued: Option<Timestamp>,
    /// The number of pods last given to the primary on the applier's request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_replicas: Option<i32>,
    /// What is doubtful in the spec, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// What else depends on the pods of the target and does not follow by itself, a sentence each, as it was when the target
    /// was adopted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dependants: Vec<String>,
    /// What became of revisions, the latest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Past>,
    /// What the checks and hooks of the last release said last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Checked>,
    /// The last request that was answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Answered>,
}

/// What a Canary has taken over, by the names that everything else is named after.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Adopted {
    /// The Deployment that is applied.
    pub target: String,
    /// The apex Service.
    pub service: String,
    /// Who routes the traffic.
    pub provider: String,
    /// The target's autoscaler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoscaler: Option<String>,
}

/// What a check or a hook said last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Checked {
    /// Its name.
    pub name: String,
    /// `metric`, or the type of the hook.
    #[serde(rename = "type")]
    pub type_: String,
    /// Whether it passed.
    pub passed: bool,
    /// The value of a metric, in the unit of its bounds; none where there was no value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// When.
    pub at: Timestamp,
}

/// The canary's share of the traffic as its part of the pods that are ready in the application's Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Share {
    /// What decides on it.
    #[schemars(with = "String")]
    pub by: ShareBy,
    /// The weight of the analysis that the number of pods was chosen for, in percent.
    pub step: i32,
    /// The share that the ready pods make, in percent, rounded down.
    pub percent: i32,
    /// The canary's ready pods.
    pub canary: i32,
    /// The primary's ready pods.
    pub primary: i32,
}

/// What decides on a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ShareBy {
    /// The number of pods.
    #[serde(other)]
    Replicas,
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { step, percent, canary, .. } = self;
        let all = canary.saturating_add(self.primary);
        write!(f, "{canary} of {all} ready pods are the canary's: {percent} % (step {step})")
    }
}

/// What became of a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Past {
    /// Its hash.
    pub revision: String,
    /// What became of it.
    #[schemars(with = "String")]
    pub outcome: Outcome,
    /// Field manager and user of who applied it, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
}

/// How a release ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Outcome {
    /// The primary runs it, or did.
    Promoted,
    /// The same, let through unanalysed by a break-glass.
    BreakGlass,
    /// It was rolled back.
    Rejected,
    /// What this version does not know: a newer one wrote it.
    #[serde(other)]
    Unknown,
}

/// The answer to a request. A request is the same one as long as its annotation reads the same: this is what makes sure
/// that it is carried out once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Answered {
    /// The annotation as it was written: verb, revision, id and reason.
    pub text: String,
    /// The user who asked.
    #[serde(default)]
    pub by: String,
    /// What became of it.
    #[schemars(with = "String")]
    pub outcome: RequestOutcome,
    /// One sentence.
    #[serde(default)]
    pub message: String,
    /// When it was answered.
    pub at: Timestamp,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RequestOutcome {
    /// It makes sense and is being carried out.
    Accepted,
    /// It was carried out, or is part of the run from here on.
    Taken,
    /// It makes no sense now; nothing was done.
    #[serde(other)]
    Refused,
}

/// Revisions by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Revisions {
    /// The revision that the primary runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,
    /// The revision that is, or was last, analysed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub analysed: Option<String>,
    /// The revision that was last rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// The revision that some of the primary's pods run beside `primary`, because its roll was stopped by a newer
    /// revision (layout `in-place`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mixed: Option<String>,
    /// The revision that ran without having been released, and that is held again when the primary runs `primary` (layout
    /// `in-place`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_back: Option<String>,
}

impl Revisions {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What the controller is about to do, written before it does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Stage {
    /// Waits for its confirm-rollout gates.
    Gated,
    /// Routes go to 100/0, then the held template is released and scaled up.
    Releasing,
    /// The analysis steps through the weights.
    Analysing,
    /// All traffic is on the canary because the primary's strategy is Recreate; the primary is next.
    Clearing,
    /// The primary is written to the analysed revision and rolls.
    Promoting,
    /// Traffic returns to the promoted primary.
    Returning,
    /// Traffic is back; the canary is being scaled down.
    Finalising,
    /// The primary did not become ready: the revision before it is written back.
    Restoring,
    /// Routes go to 100/0, then the template is held again and scaled down.
    RollingBack,
    /// The template went back to the promoted one: routes go to 100/0 and the target to 0.
    Cancelling,
    /// The outcome is known and stated; post-rollout hooks are being called.
    Closing,
    /// One that this version does not know: a newer one has left it there.
    #[serde(other)]
    Unknown,
}

/// One run: the analysis of one revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// Hash of the revision that is analysed.
    pub revision: String,
    /// What is being done.
    #[schemars(with = "String")]
    pub stage: Stage,
    /// When the stage was entered.
    pub since: Timestamp,
    /// When the last analysis step was taken or failed; the next is at least one interval later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_step: Option<Timestamp>,
    /// Share of traffic, in percent, that this run has set last.
    #[serde(default)]
    pub weight: i32,
    /// Since when pods that the canary was given are awaited; no check is made meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub awaits: Option<Timestamp>,
    /// Hash of the revision that the primary ran when the run began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// The analysis is skipped, on request or by break-glass.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skip: bool,
    /// Why the last check failed or the run is rolled back; at its end, what the events still have to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Somebody asked for the promotion before the analysis is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub shortcut: Option<Shortcut>,
    /// Somebody opened the gate that waits, of the release or of the promotion: it is not asked about it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub approved: bool,
    /// Somebody asked for it again after it had been rejected, here or in a cluster before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retried: bool,
    /// Somebody paused the run: it stays at the weight that is set.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
}

/// How the rest of an analysis is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Shortcut {
    /// Gates are still asked.
    Skip,
    /// Nothing is asked any more.
    Promote,
    /// What this version does not know: nothing is left out.
    #[serde(other)]
    Unknown,
}

/// A condition of a Canary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// `Promoted`, `Ready`, `Reconciling` or `Stalled`.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// One word.
    pub reason: String,
    /// One sentence.
    #[serde(default)]
    pub message: String,
    /// When the condition was last written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_update_time: Option<Timestamp>,
    /// When the condition's status last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Timestamp>,
}
