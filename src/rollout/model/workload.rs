//! What the core sees of a Deployment: identity, our keys, and how far its rollout is.

use crate::api::keys;
use crate::api::revision::{RESTARTED_AT, Revision};
use crate::foreign;
use crate::rollout::model::writer::writer;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// A view of one Deployment, read from its raw JSON.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// A deletion has begun.
    pub terminating: bool,
    /// Our traffic finalizer is set.
    pub finalizer: bool,
    /// The `sidetrack.dev/canary` label.
    pub canary: Option<String>,
    /// Hash of the live template.
    pub revision: Revision,
    /// The template's `restartedAt` annotation.
    pub restarted_at: Option<String>,
    /// `spec.replicas`.
    pub replicas: i32,
    /// `spec.paused`.
    pub paused: bool,
    /// `spec.strategy.type` is Recreate.
    pub recreate: bool,
    /// `spec.progressDeadlineSeconds`.
    pub progress_deadline: SignedDuration,
    /// Our annotations.
    pub keys: Keys,
    /// Position in `status.conditions` of the one that says that a release goes on.
    pub announced: Option<usize>,
    /// What the Deployment controller says.
    pub rollout: Rollout,
    /// JSON Pointers below which one of our managedFields entries owns fields of `spec`.
    pub owned: Vec<Owned>,
}

/// Our annotations on a Deployment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// `hold`.
    pub hold: Option<Revision>,
    /// `failed`.
    pub failed: Option<Revision>,
    /// `promoted`.
    pub promoted: Option<Revision>,
    /// `glassed`.
    pub glassed: Option<Revision>,
    /// The generation that `break-glass` names.
    pub break_glass: Option<i64>,
    /// Why, in the words of whoever wrote `break-glass`.
    pub break_glass_reason: Option<String>,
    /// `paused-before` is present.
    pub paused_before: bool,
    /// `requested-replicas`, when it is a number.
    pub requested_replicas: Option<i32>,
    /// Who asked for the held template, from `applied-by`.
    pub applied_by: Option<String>,
    /// The user in `applied-by`.
    pub applier: Option<String>,
    /// The policy by which it was enrolled at admission; until its Canary takes it up.
    pub policy: Option<String>,
}

/// The parts of `status` that readiness depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rollout {
    /// `observedGeneration`.
    pub observed_generation: i64,
    /// `replicas`.
    pub replicas: i32,
    /// `updatedReplicas`.
    pub updated: i32,
    /// `readyReplicas`.
    pub ready: i32,
    /// `availableReplicas`.
    pub available: i32,
    /// Since when the Progressing condition says ProgressDeadlineExceeded. It goes on saying so of the next template
    /// until that one makes progress.
    pub exceeded_at: Option<Timestamp>,
    /// The Progressing condition says NewReplicaSetAvailable: to the Deployment controller the rollout is over, and
    /// it holds no pod to the deadline any more. So it is when it has seen a release before its pods were asked for.
    pub settled: bool,
    /// Why pods cannot be made (a quota, an admission policy), in the words of condition ReplicaFailure.
    pub failure: Option<String>,
    /// When the rollout last made progress: `lastUpdateTime` of a Progressing condition that is True.
    pub progressed_at: Option<Timestamp>,
    /// `lastUpdateTime` of an Available condition that is False for want of replicas.
    pub unavailable_since: Option<Timestamp>,
}

/// A managedFields entry of ours that owns fields of `spec`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    /// Position in `metadata.managedFields`.
    pub index: usize,
    /// The entry's `time`, which tells it from one that took its place.
    pub time: Option<String>,
    /// Nothing but `spec` is in it, so that the whole entry can go.
    pub whole: bool,
}

/// Why a Deployment does not have its ready threshold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotReady {
    /// Flagger's words.
    pub message: String,
    /// Waiting is of no use: the progress deadline has passed.
    pub deadline: bool,
}

/// How many of so many pods a threshold in percent asks for: rounded up, and never none of some.
pub(in crate::rollout) fn least(pods: i32, threshold: i32) -> i32 {
    let of = i64::from(pods).saturating_mul(threshold.max(0).into()).saturating_add(99) / 100;
    i32::try_from(of).unwrap_or(i32::MAX).max(pods.min(1))
}

fn text(object: &Value, pointer: &str) -> Option<String> {
    object.pointer(pointer).and_then(Value::as_str).map(str::to_owned)
}

fn number(object: &Value, pointer: &str) -> i32 {
    object.pointer(pointer).and_then(Value::as_i64).and_then(|n| i32::try_from(n).ok()).unwrap_or(0)
}

impl Workload {
    /// Reads a Deployment; `None` when it lacks a uid or a template, which no stored one does.
    #[must_use]
    pub fn parse(object: &Value) -> Option<Self> {
        let annotation = |key: &str| {
            object.pointer("/metadata/annotations").and_then(|a| a.get(key)).and_then(Value::as_str)
        };
        let revision = |key: &str| annotation(key).map(Revision::from_key);
        let template = object.pointer("/spec/template")?;
        Some(Self {
            uid: text(object, "/metadata/uid")?,
            generation: object.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0),
            terminating: object.pointer("/metadata/deletionTimestamp").is_some(),
            finalizer: object
                .pointer("/metadata/finalizers")
                .and_then(Value::as_array)
                .is_some_and(|f| f.iter().any(|f| f == keys::TRAFFIC_FINALIZER)),
            canary: object
                .pointer("/metadata/labels")
                .and_then(|l| l.get(keys::CANARY))
                .and_then(Value::as_str)
                .map(str::to_owned),
            revision: Revision::of(template),
            restarted_at: template
                .pointer("/metadata/annotations")
                .and_then(|a| a.get(RESTARTED_AT))
                .and_then(Value::as_str)
                .map(str::to_owned),
            replicas: object
                .pointer("/spec/replicas")
                .and_then(Value::as_i64)
                .and_then(|n| i32::try_from(n).ok())
                .unwrap_or(1),
            paused: object.pointer("/spec/paused").and_then(Value::as_bool).unwrap_or(false),
            recreate: object.pointer("/spec/strategy/type").is_some_and(|t| t == "Recreate"),
            progress_deadline: SignedDuration::from_secs(
                object.pointer("/spec/progressDeadlineSeconds").and_then(Value::as_i64).unwrap_or(600),
            ),
            keys: Keys {
                hold: revision(keys::HOLD),
                failed: revision(keys::FAILED),
                promoted: revision(keys::PROMOTED),
                glassed: revision(keys::GLASSED),
                break_glass: annotation(keys::BREAK_GLASS)
                    .and_then(|text| text.split_once(' ')?.0.parse().ok()),
                break_glass_reason: annotation(keys::BREAK_GLASS)
                    .and_then(|text| Some(foreign::cut(text.split_once(' ')?.1))),
                paused_before: annotation(keys::PAUSED_BEFORE).is_some(),
                requested_replicas: annotation(keys::REQUESTED_REPLICAS).and_then(|n| n.parse().ok()),
                applied_by: annotation(keys::APPLIED_BY).map(|by| writer(object, by)),
                applier: annotation(keys::APPLIED_BY).and_then(|by| Some(by.split_once(' ')?.1.to_owned())),
                policy: annotation(keys::POLICY).map(str::to_owned),
            },
            announced: object.pointer("/status/conditions").and_then(Value::as_array).and_then(|all| {
                all.iter().position(|c| c.get("type").is_some_and(|t| t == keys::RECONCILING))
            }),
            rollout: Rollout::parse(object),
            owned: owned(object),
        })
    }

    /// Returns whether a person broke the glass over this revision.
    #[must_use]
    pub fn glassed(&self, revision: &str) -> bool {
        self.keys.glassed.as_ref().is_some_and(|glassed| glassed.as_str() == revision)
    }

    /// Whether a break-glass counts although the webhook has not noted it: the last write brought it, or it names the
    /// last generation that was seen before (interlock §5.10).
    #[must_use]
    pub fn glass_counts(&self, seen: Option<i64>) -> bool {
        self.keys
            .break_glass
            .is_some_and(|named| named.saturating_add(1) == self.generation || Some(named) == seen)
    }

    /// When a rollout that began at `since` will have made no progress for as long as the deadline. Kubernetes, too, counts
    /// from the last progress, not from the begin.
    #[must_use]
    pub fn late_at(&self, since: Timestamp, deadline: SignedDuration, now: Timestamp) -> Timestamp {
        let progress = self.rollout.progressed_at.unwrap_or(since).min(now).max(since);
        progress.saturating_add(deadline).unwrap_or(now)
    }

    /// Returns whether it was scaled to nothing and its pods still count. Scaled up again now, those that are on their
    /// way out would be taken for ready ones: a Deployment's status sums up what its ReplicaSets said last.
    #[must_use]
    pub const fn ebbing(&self) -> bool {
        self.replicas == 0 && self.rollout.replicas > 0
    }

    /// Whether the template is held: it may not run until the hold is released.
    #[must_use]
    pub fn held(&self) -> bool {
        self.keys.hold.is_some() && self.paused
    }

    /// Whether a revision is held that has not been rejected.
    #[must_use]
    pub fn undecided(&self) -> bool {
        self.held() && self.keys.hold != self.keys.failed
    }

    /// Judges readiness in Flagger's order and words (docs.flagger.app, "Canary stages"): the pods counted are
    /// those of the live template's ReplicaSet. `threshold` is in percent of the updated replicas, `since` when the
    /// rollout that is judged began.
    ///
    /// # Errors
    ///
    /// Says what it waits for, and whether the deadline has passed.
    pub fn ready(
        &self,
        name: &str,
        threshold: i32,
        deadline: SignedDuration,
        since: Timestamp,
        now: Timestamp,
    ) -> Result<(), NotReady> {
        let r = &self.rollout;
        let waiting = |message: String| NotReady { message, deadline: false };
        if r.observed_generation < self.generation {
            return Err(waiting(
                "waiting for rollout to finish: observed deployment generation less than desired generation"
                    .into(),
            ));
        }
        // Times of the API are whole seconds, and so is the shortest deadline: one that passed in the second in which
        // the rollout began is an older rollout's.
        if r.exceeded_at.is_some_and(|at| at.as_second() > since.as_second()) {
            return Err(NotReady {
                message: format!("deployment {name:?} exceeded its progress deadline"),
                deadline: true,
            });
        }
        // A roll that goes on pod by pod is not late, however long it takes.
        let late = r.unavailable_since.is_some_and(|since| {
            since.max(r.progressed_at.unwrap_or(since)).saturating_add(deadline).is_ok_and(|t| t < now)
        });
        let judged = |message: String| NotReady { message, deadline: late };
        if r.updated < self.replicas {
            let why = r.failure.as_ref().map_or_else(String::new, |why| format!(": {why}"));
            return Err(judged(format!(
                "waiting for rollout to finish: {} out of {} new replicas have been updated{why}",
                r.updated, self.replicas
            )));
        }
        if r.replicas > r.updated {
            return Err(judged(format!(
                "waiting for rollout to finish: {} old replicas are pending termination",
                r.replicas - r.updated
            )));
        }
        if r.available < least(r.updated, threshold) {
            return Err(judged(format!(
                "waiting for rollout to finish: {} of {} (readyThreshold {threshold}%) updated replicas are available",
                r.available, r.updated
            )));
        }
        Ok(())
    }

    /// Judges a Deployment whose template is held: as many pods as the threshold asks for, of whatever revisions it had
    /// been rolled to before, and at least one. A status from before the hold tells as much. `threshold` is in percent.
    ///
    /// # Errors
    ///
    /// Says what it waits for.
    pub fn serves(&self, threshold: i32) -> Result<(), NotReady> {
        let r = &self.rollout;
        if r.available >= least(self.replicas, threshold) {
            return Ok(());
        }
        let text = format!(
            "waiting for {} of {} (readyThreshold {threshold}%) replicas to be available",
            r.available, self.replicas
        );
        Err(NotReady { message: text, deadline: false })
    }

    /// Whether pods of one ReplicaSet only exist, those of the live template.
    #[must_use]
    pub const fn uniform(&self) -> bool {
        self.rollout.observed_generation >= self.generation && self.rollout.replicas == self.rollout.updated
    }
}

impl Rollout {
    fn parse(object: &Value) -> Self {
        let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
        let condition = |type_: &str, reason: &str| {
            conditions?.iter().find(|c| {
                c.get("type").is_some_and(|t| t == type_) && c.get("reason").is_some_and(|r| r == reason)
            })
        };
        let holds = |type_: &str| {
            conditions?.iter().find(|c| {
                c.get("type").is_some_and(|t| t == type_) && c.get("status").is_some_and(|s| s == "True")
            })
        };
        Self {
            observed_generation: object
                .pointer("/status/observedGeneration")
                .and_then(Value::as_i64)
                .unwrap_or(0),
            replicas: number(object, "/status/replicas"),
            updated: number(object, "/status/updatedReplicas"),
            ready: number(object, "/status/readyReplicas"),
            available: number(object, "/status/availableReplicas"),
            exceeded_at: condition("Progressing", "ProgressDeadlineExceeded")
                .map(|c| updated(c).unwrap_or(Timestamp::MAX)),
            settled: condition("Progressing", "NewReplicaSetAvailable").is_some(),
            failure: holds("ReplicaFailure")
                .and_then(|c| Some(crate::foreign::cut(c.get("message")?.as_str()?))),
            progressed_at: holds("Progressing").and_then(updated),
            unavailable_since: condition("Available", "MinimumReplicasUnavailable")
                .filter(|c| c.get("status").is_some_and(|s| s == "False"))
                .and_then(updated),
        }
    }
}

fn updated(condition: &Value) -> Option<Timestamp> {
    condition.get("lastUpdateTime")?.as_str()?.parse().ok()
}

fn owned(object: &Value) -> Vec<Owned> {
    let entries = object.pointer("/metadata/managedFields").and_then(Value::as_array);
    entries
        .into_iter()
        .flatten()
        .enumerate()
        .filter(|(_, e)| e.get("manager").is_some_and(|m| m == keys::FIELD_MANAGER))
        .filter(|(_, e)| e.pointer("/fieldsV1/f:spec").is_some())
        .map(|(index, e)| Owned {
            index,
            time: text(e, "/time"),
            whole: e.get("fieldsV1").and_then(Value::as_object).is_some_and(|f| f.len() == 1),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn deployment(status: &Value) -> Workload {
        Workload::parse(&json!({
            "metadata": {"uid": "u", "resourceVersion": "1", "generation": 2},
            "spec": {"replicas": 2, "template": {}},
            "status": status,
        }))
        .unwrap()
    }

    fn verdict(status: &Value) -> Result<(), NotReady> {
        deployment(status).ready("app", 100, SignedDuration::from_secs(60), NOW, NOW)
    }

    #[test]
    fn readiness_is_judged_in_order() {
        let cases = [
            (json!({"observedGeneration": 1}), "observed deployment generation"),
            (json!({"observedGeneration": 2, "updatedReplicas": 1}), "1 out of 2 new replicas"),
            (
                json!({"observedGeneration": 2, "updatedReplicas": 2, "replicas": 3}),
                "1 old replicas are pending",
            ),
            (
                json!({"observedGeneration": 2, "updatedReplicas": 2, "replicas": 2, "availableReplicas": 1}),
                "1 of 2 (readyThreshold 100%)",
            ),
        ];
        for (status, part) in cases {
            let error = verdict(&status).unwrap_err();
            assert!(error.message.contains(part), "{}", error.message);
            assert!(!error.deadline);
        }
        let ready =
            json!({"observedGeneration": 2, "updatedReplicas": 2, "replicas": 2, "availableReplicas": 2});
        assert_eq!(verdict(&ready), Ok(()));
    }

    #[test]
    fn a_passed_deadline_is_final() {
        let exceeded = |at: &str| {
            json!({"observedGeneration": 2, "conditions": [{"type": "Progressing", "status": "False",
                "reason": "ProgressDeadlineExceeded", "lastUpdateTime": at}]})
        };
        assert!(verdict(&exceeded("1970-01-01T00:00:01Z")).unwrap_err().deadline);
        assert!(!verdict(&exceeded("1970-01-01T00:00:00Z")).unwrap_err().deadline, "an older rollout's");
        let unavailable = json!({"observedGeneration": 2, "updatedReplicas": 2, "replicas": 2,
            "conditions": [{"type": "Available", "status": "False", "reason": "MinimumReplicasUnavailable",
                "lastUpdateTime": "1969-12-31T23:58:00Z"}]});
        assert!(verdict(&unavailable).unwrap_err().deadline);
    }

    #[test]
    fn break_glass_counts_by_the_generation_that_it_names() {
        let counts = |text: &str, seen| {
            Workload::parse(&json!({
                "metadata": {"uid": "u", "resourceVersion": "1", "generation": 18,
                    "annotations": {keys::BREAK_GLASS: text}},
                "spec": {"template": {}},
            }))
            .unwrap()
            .glass_counts(seen)
        };
        // It came with the last write, or with one right after what was seen.
        assert!(counts("17 fire", None) && counts("15 fire", Some(15)));
        for (text, seen) in
            [("16 fire", None), ("16 fire", Some(15)), ("18 fire", Some(17)), ("fire", None), ("17", None)]
        {
            assert!(!counts(text, seen), "{text} {seen:?}");
        }
    }

    #[test]
    fn entries_of_ours_that_own_spec_are_found() {
        let object = json!({"metadata": {"managedFields": [
            {"manager": "kustomize-controller", "fieldsV1": {"f:spec": {}}},
            {"manager": "sidetrack", "time": "t", "fieldsV1": {"f:spec": {}}},
            {"manager": "sidetrack", "fieldsV1": {"f:metadata": {}}},
            {"manager": "sidetrack", "fieldsV1": {"f:metadata": {}, "f:spec": {}}},
        ]}});
        assert_eq!(
            owned(&object),
            vec![
                Owned { index: 1, time: Some("t".into()), whole: true },
                Owned { index: 3, time: None, whole: false },
            ]
        );
    }
}
