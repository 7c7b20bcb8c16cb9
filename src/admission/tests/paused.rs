//! The owner's own pause, and pauses that nobody meant.

use crate::admission::testing::{Write, hash, owner};
use crate::api::keys;
use serde_json::json;

fn pauses(manager: &str) -> serde_json::Value {
    json!({"metadata": {"managedFields": [owner(manager, &["f:paused"])]}, "spec": {"paused": true}})
}

#[test]
fn a_pause_before_the_hold_is_recorded_f_correction_3() {
    for write in Write::targets() {
        let answer = write.stored(json!({"spec": {"paused": true}})).template("v2").run();
        assert_eq!(answer.annotation(keys::PAUSED_BEFORE), Some("true"));
        assert_eq!(answer.annotation(keys::HOLD), Some(hash("v2").as_str()));
    }
}

#[test]
fn a_pause_that_ends_in_the_write_that_is_held_is_not_recorded() {
    for write in Write::targets() {
        let paused = write.stored(json!({"spec": {"paused": true}}));
        let answer = paused.template("v2").asks(json!({"spec": {"paused": false}})).run();
        assert_eq!(answer.annotation(keys::PAUSED_BEFORE), None);
        assert!(answer.paused());
    }
}

#[test]
fn a_pause_in_the_write_that_is_held_is_recorded_r23() {
    for write in Write::targets() {
        let answer = write.template("v2").asks(pauses("kubectl")).run();
        assert_eq!(answer.annotation(keys::PAUSED_BEFORE), Some("true"));
    }
}

#[test]
fn a_pause_over_an_older_hold_is_recorded_b7() {
    for write in Write::targets() {
        let answer = write.held("v3").template("v4").asks(pauses("kustomize-controller")).run();
        assert_eq!(answer.annotation(keys::PAUSED_BEFORE), Some("true"));
    }
}

#[test]
fn an_explicit_unpaused_applied_before_is_not_taken_for_a_pause() {
    for write in Write::targets() {
        // kubectl applied `paused: false` over the hold and owns the field; now Flux brings v4.
        let owned = json!({"metadata": {"managedFields": [owner("kubectl", &["f:paused"])]}});
        let answer = write.held("v3").stored(owned).template("v4").run();
        assert_eq!(answer.annotation(keys::PAUSED_BEFORE), None);
    }
}

#[test]
fn our_own_pause_is_never_the_owners_b7() {
    for write in Write::targets() {
        let nobody = write.clone().held("v3").template("v4").run();
        assert_eq!(nobody.annotation(keys::PAUSED_BEFORE), None);
        let ours = write.template("v4").asks(pauses(keys::FIELD_MANAGER)).run();
        assert_eq!(ours.annotation(keys::PAUSED_BEFORE), None);
    }
}

#[test]
fn an_explicit_unpaused_in_an_apply_is_not_taken_for_a_pause_when_asked_again() {
    for write in [Write::in_place(), Write::primary_copy().held("v3")] {
        let owned = json!({"metadata": {"managedFields": [owner("kubectl", &["f:paused"])]}, "spec": {"paused": false}});
        // Idempotence is checked by `run`: the second time the pause is there and kubectl owns the field.
        let answer = write.template("v4").asks(owned).run();
        assert_eq!(answer.annotation(keys::PAUSED_BEFORE), None);
    }
}

#[test]
fn the_owners_pause_survives_a_newer_template() {
    for write in Write::targets() {
        let held = write.held("v2").with(json!({keys::PAUSED_BEFORE: "true"}));
        let answer = held.clone().template("v3").run();
        assert_eq!(answer.annotation(keys::PAUSED_BEFORE), Some("true"));
        let resumed = held.template("v3").asks(json!({"spec": {"paused": false}})).run();
        assert_eq!(resumed.annotation(keys::PAUSED_BEFORE), None);
        assert!(resumed.paused());
    }
}

#[test]
fn unpausing_a_held_target_ends_the_owners_pause_only_b1() {
    for write in Write::targets() {
        let held = write.held("v2").with(json!({keys::PAUSED_BEFORE: "true"}));
        let answer = held.clone().asks(json!({"spec": {"paused": false}})).run();
        assert_eq!(answer.annotation(keys::PAUSED_BEFORE), None);
        assert_eq!(answer.annotation(keys::HOLD), Some(hash("v2").as_str()));
        assert!(answer.paused());
        let removed = held.clone().annotates(json!({keys::PAUSED_BEFORE: null})).run();
        assert!(removed.passes_untouched(), "the removal is taken");
        let untouched = held.annotates(json!({"foo": "bar"})).run();
        assert_eq!(untouched.annotation(keys::PAUSED_BEFORE), Some("true"));
    }
}

#[test]
fn a_hold_from_nowhere_takes_its_pause_with_it_f9() {
    for write in Write::targets() {
        let export = json!({"metadata": {"annotations": {keys::HOLD: hash("v2")}}, "spec": {"paused": true}});
        let answer = write.clone().asks(export.clone()).run();
        assert!(!answer.paused());
        assert_eq!(answer.annotation(keys::HOLD), None);
        let paused = write.clone().stored(json!({"spec": {"paused": true}})).asks(export.clone()).run();
        assert!(paused.paused(), "a pause that was there is the owner's");
        let with_template = write.template("v3").asks(export).asks(pauses("kubectl")).run();
        assert_eq!(with_template.annotation(keys::HOLD), Some(hash("v3").as_str()));
        assert_eq!(with_template.annotation(keys::PAUSED_BEFORE), None, "the pause was the old hold's");
    }
}

#[test]
fn a_revert_with_a_stale_hold_is_not_paused() {
    let stale = json!({"metadata": {"annotations": {keys::HOLD: hash("v3")}}, "spec": {"paused": true}});
    let released =
        Write::in_place().stored(json!({"spec": {"template": crate::admission::testing::template("v2")}}));
    let answer = released.template("v1").asks(stale).run();
    assert!(!answer.paused());
    assert_eq!(answer.annotation(keys::HOLD), None);
}

#[test]
fn forged_paused_before_is_dropped_r23() {
    for write in Write::targets() {
        let answer = write.held("v2").annotates(json!({keys::PAUSED_BEFORE: "true"})).run();
        assert_eq!(answer.annotation(keys::PAUSED_BEFORE), None);
    }
}
