//! Rules 1, 2, 5, 6, 7 and 8.

use crate::admission::outcome::Rule;
use crate::admission::testing::{Write, hash, template};
use crate::api::keys;
use crate::api::revision::RESTARTED_AT;
use serde_json::json;

#[test]
fn rule_1_the_controller_passes_untouched() {
    for write in Write::targets().into_iter().chain([Write::generated()]) {
        let all = write.template("v2").puts_plain().by(keys::CONTROLLER_USER);
        assert!(all.run().passes_untouched());
        let near = all.by("system:serviceaccount:sidetrack-system:sidetrack2");
        assert!(!near.run().passes_untouched());
    }
}

#[test]
fn rule_2_selector_change_is_403_f9() {
    for write in Write::targets().into_iter().chain([Write::generated()]) {
        let name = write.new["metadata"]["name"].as_str().unwrap().to_owned();
        let answer = write
            .asks(json!({"spec": {"selector": {"matchLabels": {"app": "b"}}}}))
            .annotates(json!({keys::BREAK_GLASS: "17 fire"}))
            .run();
        let message = answer.denied();
        assert!(
            message.contains(&name) && message.contains("Canary app") && message.contains("delete"),
            "{message}"
        );
        assert_eq!(answer.outcome.rules, [Rule::Selector]);
    }
}

#[test]
fn rule_5_revert_in_place_runs_without_the_controller_f1() {
    let answer = Write::in_place()
        .held("v2")
        .with(json!({keys::FAILED: hash("v2"), keys::GLASSED: hash("v2")}))
        .template("v1")
        .run();
    assert!(!answer.paused());
    assert_eq!(answer.annotation(keys::HOLD), None);
    assert_eq!(answer.annotation(keys::FAILED), None);
    assert_eq!(answer.annotation(keys::GLASSED), None);
    assert_eq!(answer.annotation(keys::REVERTED), Some(hash("v1").as_str()));
    assert_eq!(answer.outcome.rules.first(), Some(&Rule::Revert));
    assert!(answer.warned_of("back on promoted"));
}

#[test]
fn rule_5_revert_of_an_unheld_released_revision_passes_mid_roll_r11() {
    let answer = Write::in_place().stored(json!({"spec": {"template": template("v2")}})).template("v1").run();
    assert!(!answer.paused());
    assert_eq!(answer.annotation(keys::REVERTED), Some(hash("v1").as_str()));
}

#[test]
fn rule_5_revert_restores_the_owners_pause_f_correction_3() {
    let held = Write::in_place().held("v2").with(json!({keys::PAUSED_BEFORE: "true"}));
    let answer = held.clone().template("v1").run();
    assert!(answer.paused());
    assert_eq!((answer.annotation(keys::HOLD), answer.annotation(keys::PAUSED_BEFORE)), (None, None));
    let unpaused = held.template("v1").asks(json!({"spec": {"paused": false}})).run();
    assert!(!unpaused.paused());
}

#[test]
fn rule_6_holds_a_new_template() {
    for write in Write::targets() {
        let answer = write.template("v2").run();
        assert!(answer.paused());
        assert_eq!(answer.annotation(keys::HOLD), Some(hash("v2").as_str()));
        assert_eq!(answer.annotation(keys::APPLIED_BY), Some("kustomize-controller flux"));
        assert_eq!(answer.annotation(keys::PROMOTED), Some(hash("v1").as_str()));
        assert_eq!(answer.annotation(keys::PAUSED_BEFORE), None);
        assert_eq!(answer.object["spec"]["template"], template("v2"));
        assert_eq!(answer.outcome.rules, [Rule::Hold]);
        assert_eq!(answer.outcome.revision.as_ref().map(|r| r.as_str()), Some(hash("v2").as_str()));
        assert!(answer.warned_of("held until Canary app releases it"));
    }
}

#[test]
fn rule_6_no_manager_is_a_dash_f2() {
    let answer = Write::in_place().template("v2").by("admin").without_manager().run();
    assert_eq!(answer.annotation(keys::APPLIED_BY), Some("- admin"));
}

#[test]
fn rule_6_newer_template_supersedes_the_hold_f1() {
    for write in Write::targets() {
        let answer = write.held("v2").template("v3").run();
        assert!(answer.paused());
        assert_eq!(answer.annotation(keys::HOLD), Some(hash("v3").as_str()));
        assert_eq!(answer.annotation(keys::APPLIED_BY), Some("kustomize-controller flux"));
    }
}

#[test]
fn rule_6_holds_whatever_else_the_write_says_f2() {
    for write in Write::targets() {
        for asked in [
            json!({"spec": {"paused": false}}),
            json!({"spec": {"paused": null}}),
            json!({"metadata": {"annotations": {keys::HOLD: null}}, "spec": {"paused": false}}),
            json!({"metadata": {"annotations": {keys::HOLD: "forged"}}}),
            json!({"metadata": {"annotations": {keys::HOLD: hash("v1"), keys::PROMOTED: hash("v3")}}}),
            json!({"metadata": {"annotations": {keys::REVERTED: hash("v3"), keys::GLASSED: hash("v3")}}}),
            json!({"metadata": {"labels": null, "annotations": null}, "spec": {"paused": null}}),
        ] {
            let answer = write.clone().held("v2").template("v3").asks(asked.clone()).run();
            assert!(answer.paused(), "{asked}");
            assert_eq!(answer.annotation(keys::HOLD), Some(hash("v3").as_str()), "{asked}");
            assert_eq!(answer.annotation(keys::PROMOTED), Some(hash("v1").as_str()), "{asked}");
            assert_eq!(answer.annotation(keys::REVERTED), None, "{asked}");
            assert_eq!(answer.annotation(keys::GLASSED), None, "{asked}");
        }
    }
}

#[test]
fn rule_6_ends_reverted_failed_and_glassed_r8() {
    for write in Write::targets() {
        let before = json!({keys::REVERTED: hash("v1"), keys::FAILED: hash("v0"), keys::GLASSED: hash("v1")});
        let answer = write.with(before).template("v2").run();
        for key in [keys::REVERTED, keys::FAILED, keys::GLASSED] {
            assert_eq!(answer.annotation(key), None, "{key}");
        }
    }
}

#[test]
fn rule_6_primary_copy_holds_a_revert_too_f1() {
    for held in [Write::primary_copy().held("v2"), released(Write::primary_copy(), "v2")] {
        let answer = held.template("v1").run();
        assert!(answer.paused());
        assert_eq!(answer.annotation(keys::HOLD), Some(hash("v1").as_str()));
        assert_eq!(answer.annotation(keys::REVERTED), None);
    }
}

#[test]
fn rule_6_retry_of_a_failed_revision_by_git_is_new_r8() {
    let failed = Write::in_place().held("v2").with(json!({keys::FAILED: hash("v2")}));
    let reverted = failed.template("v1").run();
    let again = Write::update(reverted.object).template("v2").run();
    assert_eq!(again.annotation(keys::HOLD), Some(hash("v2").as_str()));
    assert_eq!((again.annotation(keys::FAILED), again.annotation(keys::REVERTED)), (None, None));
}

#[test]
fn rule_6_a_key_of_ours_in_the_template_is_a_new_revision_f_correction_14() {
    let answer = Write::in_place()
        .asks(json!({"spec": {"template": {"metadata": {"annotations": {keys::HOLD: "x"}}}}}))
        .run();
    assert!(answer.paused());
}

#[test]
fn rule_7_a_restart_is_no_release() {
    let restart = json!({"spec": {"template": {"metadata": {"annotations": {RESTARTED_AT: "now"}}}}});
    for write in Write::targets().into_iter().chain([Write::generated(), Write::generated_canary()]) {
        assert!(write.asks(restart.clone()).run().passes_untouched());
    }
    for write in Write::targets() {
        let raw = write.held("v2").asks(restart.clone()).asks(json!({"spec": {"paused": false}})).run();
        assert!(raw.paused(), "rules 7 and 8 compose (F-2)");
        assert_eq!(raw.annotation(keys::HOLD), Some(hash("v2").as_str()));
    }
}

#[test]
fn rule_8_held_stays_held_f2() {
    for write in Write::targets() {
        for asked in [
            json!({"spec": {"paused": false}}),
            json!({"spec": {"paused": null}}),
            json!({"metadata": {"annotations": {keys::HOLD: null}}, "spec": {"paused": null}}),
            json!({"metadata": {"annotations": {keys::HOLD: hash("v9")}}, "spec": {"paused": false}}),
            json!({"metadata": {"annotations": null}, "spec": {"paused": false}}),
        ] {
            let answer = write.clone().held("v2").asks(asked.clone()).run();
            assert!(answer.paused(), "{asked}");
            assert_eq!(answer.annotation(keys::HOLD), Some(hash("v2").as_str()), "{asked}");
            assert_eq!(answer.annotation(keys::APPLIED_BY), Some("before flux"), "{asked}");
            assert!(answer.warned_of("stays paused: revision"), "{asked}");
        }
        let plain = write.held("v2").puts_plain().run();
        assert!(plain.paused());
        assert_eq!(plain.annotation(keys::HOLD), Some(hash("v2").as_str()));
        assert_eq!(plain.object["metadata"]["labels"][keys::CANARY], "app");
    }
}

#[test]
fn rule_8_a_hold_without_its_annotation_keeps_the_pause_and_gets_it_back() {
    for write in Write::targets() {
        let answer = write.held("v2").annotates(json!({keys::HOLD: null})).run();
        assert!(answer.paused());
        assert_eq!(answer.annotation(keys::HOLD), Some(hash("v2").as_str()));
    }
}

#[test]
fn rule_8_says_how_to_retry_a_failed_revision() {
    let failed = Write::in_place().held("v2").with(json!({keys::FAILED: hash("v2")}));
    let answer = failed.asks(json!({"spec": {"paused": false}})).run();
    assert!(answer.warned_of("to retry it remove annotation sidetrack.dev/failed"));
}

#[test]
fn re_applying_the_same_changes_nothing_i6() {
    for write in Write::targets() {
        let v2 = write.template("v2");
        let held = v2.run();
        let stored = Write::update(held.object);
        assert!(stored.run().passes_untouched());
        assert!(stored.clone().template("v2").run().passes_untouched());
        assert!(released(stored, "v2").template("v2").run().passes_untouched());
    }
}

#[test]
fn a_pause_or_foreign_change_while_nothing_is_held_passes_f2() {
    for write in Write::targets().into_iter().chain([Write::generated()]) {
        for asked in [
            json!({"spec": {"paused": true}}),
            json!({"metadata": {"annotations": {"foo": "bar"}, "labels": {"foo": "bar"}}}),
            json!({"metadata": {"finalizers": ["foregroundDeletion"]}}),
            json!({"spec": {"strategy": {"type": "Recreate"}, "minReadySeconds": 5}}),
        ] {
            assert!(write.clone().asks(asked.clone()).run().passes_untouched(), "{asked}");
        }
        let paused = write.stored(json!({"spec": {"paused": true}}));
        assert!(paused.asks(json!({"spec": {"paused": null}})).run().passes_untouched());
    }
}

/// The controller's release of what is held.
fn released(write: Write, image: &str) -> Write {
    write.stored(json!({
        "metadata": {"annotations": {keys::HOLD: null, keys::APPLIED_BY: null}},
        "spec": {"paused": null, "template": template(image)},
    }))
}
