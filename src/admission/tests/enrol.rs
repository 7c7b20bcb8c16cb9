//! Enrolment at the entrance of a policy.

use crate::admission::decide::Entrance;
use crate::admission::testing::{Write, hash, owner, template};
use crate::api::keys;
use serde_json::{Value, json};

fn entrance(layout: &str) -> Entrance {
    Entrance::Policy { name: "shop".into(), layout: layout.into() }
}

/// A Deployment at rest that nobody has enrolled, generation 17.
fn plain() -> Write {
    Write::update(json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "app", "namespace": "test", "uid": "d-1", "generation": 17, "labels": {"app": "app"}},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "app"}}, "template": template("v1")},
        "status": {"observedGeneration": 17, "replicas": 2, "updatedReplicas": 2},
    }))
}

fn labels(object: &Value) -> [&str; 3] {
    keys::LABELS.map(|key| object["metadata"]["labels"][key].as_str().unwrap_or_default())
}

#[test]
fn a_deployment_is_enrolled_as_it_is_made() {
    for layout in ["in-place", "primary-copy"] {
        let made = plain().create().run_at(&entrance(layout));
        assert_eq!(labels(&made.object), ["app", layout, "target"]);
        assert_eq!(made.annotation(keys::PROMOTED), Some(hash("v1").as_str()));
        assert_eq!(made.annotation(keys::POLICY), Some("shop"));
        assert!(!made.paused() && made.annotation(keys::HOLD).is_none());
        assert_eq!(made.outcome.decision(), "enrol");
    }
}

#[test]
fn keys_that_were_written_in_advance_do_not_count() {
    let forged = plain().create().annotates(json!({
        keys::PROMOTED: hash("v9"), keys::GLASSED: hash("v2"), keys::FAILED: "x", keys::POLICY: "shop",
    }));
    let made = forged
        .asks(json!({"metadata": {"finalizers": [keys::TRAFFIC_FINALIZER]}}))
        .run_at(&entrance("in-place"));
    assert_eq!(made.annotation(keys::PROMOTED), Some(hash("v1").as_str()));
    assert_eq!((made.annotation(keys::GLASSED), made.annotation(keys::FAILED)), (None, None));
    assert_eq!(made.object["metadata"]["finalizers"], json!([]));
}

#[test]
fn the_first_new_template_is_held_and_the_one_before_is_what_runs() {
    let held = plain().template("v2").run_at(&entrance("in-place"));
    assert_eq!(labels(&held.object), ["app", "in-place", "target"]);
    assert_eq!(held.annotation(keys::HOLD), Some(hash("v2").as_str()));
    assert_eq!(held.annotation(keys::PROMOTED), Some(hash("v1").as_str()));
    assert_eq!(held.annotation(keys::APPLIED_BY), Some("kustomize-controller flux"));
    assert!(held.paused() && held.annotation(keys::PAUSED_BEFORE).is_none());
    assert!(held.warned_of("is held by policy shop"));
}

/// Who applied it is told from who approves it by the user alone.
#[test]
fn a_field_manager_of_several_words_does_not_pass_for_a_user() {
    for write in
        [plain().template("v2").managed_by("x y"), Write::in_place().template("v2").managed_by("x y")]
    {
        let at = if write.old["metadata"]["labels"].get(keys::CANARY).is_some() {
            Entrance::Enrolled
        } else {
            entrance("in-place")
        };
        assert_eq!(write.run_at(&at).annotation(keys::APPLIED_BY), Some("x_y flux"));
    }
}

#[test]
fn a_pause_in_the_write_that_is_held_is_the_owners() {
    let fields = json!({"metadata": {"managedFields": [owner("kustomize-controller", &["f:paused"])]}, "spec": {"paused": true}});
    let held = plain().template("v2").asks(fields).run_at(&entrance("in-place"));
    assert_eq!(held.annotation(keys::PAUSED_BEFORE), Some("true"));
}

#[test]
fn a_rollout_under_way_is_left_to_itself() {
    for (state, what) in [
        (json!({"status": {"updatedReplicas": 1}}), "mid-roll"),
        (json!({"status": {"replicas": 3}}), "surging"),
        (json!({"status": {"observedGeneration": 16}}), "not seen yet"),
        (json!({"spec": {"paused": true}}), "paused"),
        (json!({"spec": {"replicas": 0}, "status": {"replicas": 0, "updatedReplicas": 0}}), "without pods"),
    ] {
        let passed = plain().stored(state).template("v2").run_at(&entrance("in-place"));
        assert_eq!(labels(&passed.object), [""; 3], "{what}");
        assert!(passed.warned_of("takes it over when its rollout is complete"), "{what}");
    }
}

#[test]
fn what_is_no_new_revision_of_a_deployment_is_not_looked_at() {
    let at = entrance("in-place");
    let restarted = json!({"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}}}});
    for write in [
        plain().asks(restarted),
        plain().asks(json!({"spec": {"replicas": 5}})),
        Write::in_place().template("v2"),
        Write::service().asks(json!({"spec": {"selector": {"app": "other"}}})),
        plain().template("v2").by(keys::CONTROLLER_USER),
    ] {
        assert!(write.run_at(&at).passes_untouched());
    }
}

/// Two policies select it: the one that is asked first has it.
#[test]
fn a_second_policy_does_not_take_it_over() {
    let first = plain().template("v2").run_at(&entrance("in-place"));
    let mut second = plain();
    second.new = first.object;
    let other = Entrance::Policy { name: "other".into(), layout: "primary-copy".into() };
    assert!(second.run_at(&other).passes_untouched());
}

#[test]
fn a_break_glass_passes_unenrolled() {
    let passed =
        plain().template("v2").annotates(json!({keys::BREAK_GLASS: "17 fire"})).run_at(&entrance("in-place"));
    assert_eq!(labels(&passed.object), [""; 3]);
    assert!(passed.warned_of("passes policy shop"));
}

#[test]
fn an_audit_changes_nothing_and_says_what_it_would_hold() {
    let at = Entrance::Audit { name: "shop".into() };
    let write = plain().template("v2");
    let told = write.run_at(&at);
    assert_eq!(told.object, write.new);
    assert!(told.warned_of("policy shop would hold revision"));
    assert_eq!(told.outcome.decision(), "audit");
}

#[test]
fn a_policy_that_makes_no_sense_is_refused() {
    let policy = |interval: &str| {
        Write::update(json!({
            "apiVersion": "sidetrack.dev/v1alpha1", "kind": "CanaryPolicy", "metadata": {"name": "shop"},
            "spec": {"canary": {"analysis": {"interval": interval, "threshold": 1, "stepWeight": 10}}},
        }))
    };
    assert!(policy("1m").run().passes_untouched());
    let refused = policy("soon").run();
    assert!(refused.denied().starts_with("CanaryPolicy shop is refused: spec.canary.analysis.interval"));
    let leaving = policy("soon").asks(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    assert!(leaving.run().passes_untouched(), "its finalizer has to come off");
}
