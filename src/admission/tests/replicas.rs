//! Rule 9.

use crate::admission::outcome::Rule;
use crate::admission::testing::{Write, owner};
use crate::api::keys;
use serde_json::json;

#[test]
fn primary_copy_keeps_replicas_and_records_the_request_f1() {
    let write = Write::primary_copy().stored(json!({"spec": {"replicas": 0}}));
    let answer = write.clone().asks(json!({"spec": {"replicas": 3}})).run();
    assert_eq!(answer.object["spec"]["replicas"], 0);
    assert_eq!(answer.annotation(keys::REQUESTED_REPLICAS), Some("3"));
    assert!(answer.warned_of("replicas: 3 was recorded"));
    let stored = Write::update(answer.object);
    let again = stored.clone().asks(json!({"spec": {"replicas": 3}})).run();
    assert_eq!(again.object["spec"]["replicas"], 0);
    assert!(again.outcome.warnings.is_empty(), "nothing new to say");
    let zero_live =
        stored.stored(json!({"spec": {"replicas": 1}})).asks(json!({"spec": {"replicas": 0}})).run();
    assert_eq!(zero_live.annotation(keys::REQUESTED_REPLICAS), Some("0"));
}

#[test]
fn replicas_compose_with_a_hold() {
    let answer = Write::primary_copy().template("v2").asks(json!({"spec": {"replicas": 5}})).run();
    assert_eq!(answer.object["spec"]["replicas"], 2);
    assert_eq!(answer.annotation(keys::REQUESTED_REPLICAS), Some("5"));
    assert_eq!(answer.outcome.rules, [Rule::Hold, Rule::Replicas]);
}

#[test]
fn a_pruned_default_is_no_request_f1() {
    for owned in
        [vec![], vec![owner(keys::FIELD_MANAGER, &["f:replicas"])], vec![owner("kubectl", &["f:template"])]]
    {
        let answer = Write::primary_copy()
            .with(json!({keys::REQUESTED_REPLICAS: "3"}))
            .asks(json!({"metadata": {"managedFields": owned}, "spec": {"replicas": 1}}))
            .run();
        assert_eq!(answer.object["spec"]["replicas"], 2);
        assert_eq!(answer.annotation(keys::REQUESTED_REPLICAS), Some("3"));
    }
}

#[test]
fn other_deployments_take_replicas_as_asked() {
    for write in [Write::in_place(), Write::generated(), Write::generated_canary()] {
        assert!(write.asks(json!({"spec": {"replicas": 7}})).run().passes_untouched());
    }
}

#[test]
fn people_may_say_requested_replicas_f_correction_5() {
    for (asked, expected) in [
        (json!("5"), Some("5")),
        (json!("0"), Some("0")),
        (json!("999999999"), Some("999999999")),
        (json!("1000000000"), Some("3")),
        (json!("-1"), Some("3")),
        (json!("abc"), Some("3")),
        (json!(""), Some("3")),
        (json!(null), Some("3")),
    ] {
        let answer = Write::primary_copy()
            .with(json!({keys::REQUESTED_REPLICAS: "3"}))
            .annotates(json!({keys::REQUESTED_REPLICAS: asked}))
            .run();
        assert_eq!(answer.annotation(keys::REQUESTED_REPLICAS), expected, "{asked}");
    }
    let in_place = Write::in_place().annotates(json!({keys::REQUESTED_REPLICAS: "5"})).run();
    assert_eq!(in_place.annotation(keys::REQUESTED_REPLICAS), None);
}

/// `kubectl rollout undo` writes the annotations that the Deployment had when the template was new.
#[test]
fn an_undo_brings_back_no_request_of_then() {
    for then in [json!("1"), json!("0"), json!(null)] {
        let answer = Write::primary_copy()
            .with(json!({keys::REQUESTED_REPLICAS: "6"}))
            .template("v0")
            .annotates(json!({keys::REQUESTED_REPLICAS: then, keys::HOLD: null}))
            .run();
        assert_eq!(answer.annotation(keys::REQUESTED_REPLICAS), Some("6"), "{then}");
    }
}
