//! CREATE and rule 0.

use crate::admission::outcome::{Rule, Verdict};
use crate::admission::testing::{Write, answer, hash, recorded};
use crate::api::keys;
use serde_json::json;

fn forged() -> Write {
    let all: serde_json::Map<_, _> = keys::ANNOTATIONS
        .into_iter()
        .chain([keys::PORTS])
        .map(|key| (key.to_owned(), json!(hash("v9"))))
        .collect();
    Write::in_place().stored(json!({
        "metadata": {"annotations": all, "finalizers": ["other", keys::TRAFFIC_FINALIZER]},
        "spec": {"paused": true},
    }))
}

fn assert_stripped(object: &serde_json::Value) {
    let text = object["metadata"].to_string();
    assert!(!text.contains("sidetrack.dev/"), "{text}");
    assert!(object["spec"].get("paused").is_none());
    assert_eq!(object["metadata"]["finalizers"], json!(["other"]));
    assert_eq!(object["metadata"]["labels"]["app"], "app");
}

#[test]
fn create_strips_forged_keys_f9() {
    let answer = forged().create().run();
    assert_stripped(&answer.object);
    assert_eq!(answer.outcome.rules, [Rule::Strip]);
    assert!(answer.warned_of("only a Canary"));
    assert!(forged().create().by(keys::CONTROLLER_USER).run().passes_untouched());
}

#[test]
fn create_keeps_a_pause_of_the_owners_r21() {
    let answer = Write::in_place().stored(json!({"spec": {"paused": true}})).create().run();
    assert!(answer.paused());
    let without_hold = Write::in_place().with(json!({keys::PROMOTED: hash("v9")})).create().run();
    assert_eq!(without_hold.annotation(keys::PROMOTED), None);
}

/// Saved while it was held, and made again from that: it stays held, and says what ran. Of another template, or in the layout whose
/// primary is a Deployment of its own, it is stripped as anything else.
#[test]
fn create_of_what_was_held_when_it_was_saved_stays_held() {
    let saved = |held: &str| {
        let keys = json!({keys::HOLD: hash(held), keys::PROMOTED: hash("v0"), keys::FAILED: hash(held)});
        json!({"metadata": {"annotations": keys}, "spec": {"paused": true}})
    };
    let answer = Write::in_place().stored(saved("v1")).create().run();
    assert!(answer.paused() && answer.warned_of("stays held as it was saved"));
    assert_eq!(answer.annotation(keys::HOLD), Some(hash("v1").as_str()));
    assert_eq!(answer.annotation(keys::PROMOTED), Some(hash("v0").as_str()));
    assert_eq!(answer.annotation(keys::FAILED), None);
    assert!(!answer.object["metadata"]["labels"].to_string().contains("sidetrack.dev/"));
    for other in [Write::in_place().stored(saved("v2")), Write::primary_copy().stored(saved("v1"))] {
        let answer = other.create().run();
        assert!(!answer.paused() && answer.annotation(keys::HOLD).is_none(), "{}", answer.object);
    }
}

#[test]
fn create_without_our_label_passes() {
    let answer =
        Write::in_place().stored(json!({"metadata": {"labels": {keys::CANARY: null}}})).create().run();
    assert!(answer.passes_untouched());
}

#[test]
fn create_of_a_service_with_our_label_is_stripped() {
    let answer = Write::service().create().run();
    assert_eq!(answer.object["metadata"]["labels"], json!({}));
    assert_eq!(answer.annotation(keys::PORTS), None);
}

#[test]
fn rule_0_nobody_enrols_by_hand_r21() {
    let mut write = forged();
    write.old = json!({"metadata": {"name": "app", "labels": {"app": "app"}}, "spec": write.old["spec"]});
    write.old["spec"]["paused"] = json!(false);
    let answer = write.run();
    assert_stripped(&answer.object);
    assert_eq!(answer.outcome.rules, [Rule::Strip]);
}

#[test]
fn rule_0_strips_what_was_planted_before_r20() {
    let planted = Write::in_place()
        .stored(json!({"metadata": {"labels": {keys::CANARY: null}}}))
        .with(json!({keys::HOLD: hash("v9")}))
        .asks(json!({"metadata": {"labels": {keys::CANARY: "app"}}}))
        .run();
    assert_eq!((planted.annotation(keys::HOLD), planted.annotation(keys::PROMOTED)), (None, None));
}

#[test]
fn rule_0_keeps_a_pause_that_was_there() {
    let write = Write::in_place()
        .stored(json!({"metadata": {"labels": {keys::CANARY: null}}, "spec": {"paused": true}}))
        .annotates(json!({keys::HOLD: hash("v9")}));
    assert!(write.run().paused());
}

#[test]
fn rule_0_holds_nothing() {
    let write = Write::in_place().stored(json!({"metadata": {
        "labels": {keys::CANARY: null, keys::LAYOUT: null, keys::ROLE: null}, "annotations": {keys::PROMOTED: null},
    }}));
    assert!(write.template("v2").run().passes_untouched());
}

#[test]
fn recorded_reviews_of_objects_that_are_not_ours_pass() {
    for request in recorded() {
        assert!(answer(request).passes_untouched());
    }
}

#[test]
fn an_update_without_objects_is_400() {
    let mut request = recorded()[39].clone();
    request.old_object = serde_json::Value::Null;
    let Verdict::Deny(denial) = answer(&request).outcome.verdict else { panic!("not denied") };
    assert_eq!(denial.reason.code(), 400);
}

#[test]
fn subresources_and_other_kinds_pass() {
    let held = || {
        crate::admission::review::parse(Write::in_place().template("v2").review().to_string().as_bytes())
            .unwrap()
    };
    for change in [
        |r: &mut crate::admission::review::Request| r.sub_resource = "status".to_owned(),
        |r: &mut crate::admission::review::Request| r.resource.resource = "statefulsets".to_owned(),
        |r: &mut crate::admission::review::Request| r.resource.group = "extensions".to_owned(),
        |r: &mut crate::admission::review::Request| r.operation = crate::admission::review::Operation::Delete,
    ] {
        let mut request = held();
        change(&mut request);
        assert!(answer(&request).passes_untouched());
    }
}
