//! Rule 3.

use crate::admission::outcome::Rule;
use crate::admission::testing::{Write, hash};
use crate::api::keys;
use serde_json::json;

const FIRE: &str = "17 fire";

fn glass(write: Write) -> Write {
    write.annotates(json!({keys::BREAK_GLASS: FIRE}))
}

#[test]
fn in_place_template_runs_at_once() {
    let before = json!({keys::REVERTED: hash("v1"), keys::FAILED: hash("v0"), keys::REQUESTED_REPLICAS: "3"});
    let answer = glass(Write::in_place().with(before).template("v2"))
        .annotates(json!({keys::PROMOTED: "forged", keys::REQUESTED_REPLICAS: "9", keys::APPLIED_BY: "x"}))
        .run();
    assert!(!answer.paused());
    assert_eq!(answer.annotation(keys::HOLD), None);
    assert_eq!(answer.annotation(keys::GLASSED), Some(hash("v2").as_str()));
    assert_eq!(
        (answer.annotation(keys::REVERTED), answer.annotation(keys::FAILED)),
        (None, None),
        "B-2, B-3"
    );
    assert_eq!(answer.annotation(keys::PROMOTED), Some(hash("v1").as_str()));
    assert_eq!(answer.annotation(keys::REQUESTED_REPLICAS), Some("3"));
    assert_eq!(answer.annotation(keys::APPLIED_BY), None);
    assert_eq!(answer.annotation(keys::BREAK_GLASS), Some(FIRE));
    assert!(answer.warned_of("break-glass: revision"));
    assert_eq!(answer.outcome.rules.first(), Some(&Rule::BreakGlass));
}

#[test]
fn alone_it_lifts_an_in_place_hold_f9() {
    let answer = glass(Write::in_place().held("v2")).run();
    assert!(!answer.paused());
    assert_eq!(answer.annotation(keys::HOLD), None);
    assert_eq!(answer.annotation(keys::GLASSED), Some(hash("v2").as_str()));
    let owner = glass(Write::in_place().held("v2").with(json!({keys::PAUSED_BEFORE: "true"}))).run();
    assert!(owner.paused(), "the owner's own pause is not the hold's");
    assert_eq!((owner.annotation(keys::HOLD), owner.annotation(keys::PAUSED_BEFORE)), (None, None));
}

#[test]
fn primary_copy_target_stays_held_and_is_glassed_r12() {
    let answer =
        glass(Write::primary_copy().held("v2").with(json!({keys::FAILED: hash("v2")})).template("v3"))
            .asks(json!({"spec": {"paused": false}}))
            .run();
    assert!(answer.paused());
    assert_eq!(answer.annotation(keys::HOLD), Some(hash("v3").as_str()));
    assert_eq!(answer.annotation(keys::GLASSED), Some(hash("v3").as_str()));
    assert_eq!(answer.annotation(keys::FAILED), None);
    let alone = glass(Write::primary_copy().held("v2").with(json!({keys::FAILED: hash("v2")}))).run();
    assert!(alone.paused());
    assert_eq!(alone.annotation(keys::HOLD), Some(hash("v2").as_str()));
    assert_eq!(alone.annotation(keys::GLASSED), Some(hash("v2").as_str()));
    assert_eq!(alone.annotation(keys::FAILED), None, "B-3");
    let unheld = glass(Write::primary_copy()).run();
    assert!(!unheld.paused());
    assert_eq!(
        (unheld.annotation(keys::HOLD), unheld.annotation(keys::GLASSED)),
        (None, Some(hash("v1").as_str()))
    );
}

#[test]
fn the_next_template_ends_it() {
    for write in Write::targets() {
        let glassed = Write::update(glass(write.template("v2")).run().object);
        let answer = glassed.template("v3").run();
        assert!(answer.paused(), "the old one does not count again");
        assert_eq!(answer.annotation(keys::GLASSED), None);
        assert_eq!(answer.annotation(keys::HOLD), Some(hash("v3").as_str()));
    }
}

#[test]
fn after_it_a_revert_is_new_again_b2() {
    let reverted = Write::in_place().held("v2").template("v1").run();
    let glassed = glass(Write::update(reverted.object).template("v3")).run();
    assert_eq!(glassed.annotation(keys::REVERTED), None);
    let back = Write::update(glassed.object).template("v1").run();
    assert!(!back.paused());
    assert_eq!(back.annotation(keys::REVERTED), Some(hash("v1").as_str()));
    assert_eq!(back.annotation(keys::GLASSED), None);
}

#[test]
fn generated_deployments_pass_by_it_r12() {
    for write in [Write::generated(), Write::generated_canary()] {
        let answer = glass(write.template("v9")).run();
        assert!(!answer.paused());
        assert_eq!(answer.annotation(keys::GLASSED), Some(hash("v9").as_str()));
        let later = Write::update(answer.object).template("v10").run();
        assert!(later.denied().contains("change Deployment app instead"));
    }
}

#[test]
fn a_wrong_number_is_403_with_the_right_one() {
    for wrong in ["fire", "18 too early", "17", ""] {
        for write in Write::targets().into_iter().chain([Write::generated()]) {
            let answer = write.template("v2").annotates(json!({keys::BREAK_GLASS: wrong})).run();
            assert!(answer.denied().contains("\"17 REASON\""), "{wrong}: {}", answer.denied());
            assert_eq!(answer.outcome.rules, [Rule::BreakGlass]);
        }
    }
}

#[test]
fn a_copy_that_undo_brings_back_is_dropped_and_the_rest_goes_on_b4() {
    for write in Write::targets() {
        for before in [json!({}), json!({keys::BREAK_GLASS: "15 newer"})] {
            let stored = write.clone().with(before.clone());
            let answer =
                stored.clone().template("v2").annotates(json!({keys::BREAK_GLASS: "12 older"})).run();
            assert!(answer.paused());
            assert_eq!(answer.annotation(keys::HOLD), Some(hash("v2").as_str()));
            assert_eq!(answer.annotation(keys::BREAK_GLASS), before[keys::BREAK_GLASS].as_str());
            assert!(answer.warned_of("outdated break-glass"));
        }
    }
    let generated = Write::generated().annotates(json!({keys::BREAK_GLASS: "12 older"})).run();
    assert_eq!(generated.annotation(keys::BREAK_GLASS), None);
}

#[test]
fn a_used_one_may_be_removed_b4() {
    for write in Write::targets().into_iter().chain([Write::generated()]) {
        let used = write.with(json!({keys::BREAK_GLASS: "16 used"}));
        assert!(used.annotates(json!({keys::BREAK_GLASS: null})).run().passes_untouched());
    }
}

#[test]
fn the_owners_way_out_of_in_place_b6() {
    let stored = Write::in_place()
        .held("v2")
        .with(json!({keys::FAILED: hash("v2"), keys::BREAK_GLASS: "16 used"}))
        .stored(json!({"metadata": {"finalizers": [keys::TRAFFIC_FINALIZER, "other"]}}));
    for labels in [json!({keys::CANARY: null}), json!(null)] {
        let answer = glass(stored.clone()).asks(json!({"metadata": {"labels": labels}})).run();
        assert!(!answer.paused());
        for key in keys::ANNOTATIONS {
            // The admission policy needs to see it; on an object that is not enrolled it means nothing.
            let expected = (key == keys::BREAK_GLASS).then_some(FIRE);
            assert_eq!(answer.annotation(key), expected, "{key}");
        }
        for key in keys::LABELS {
            assert!(answer.object["metadata"]["labels"][key].is_null(), "{key}");
        }
        assert_eq!(answer.object["metadata"]["finalizers"], json!(["other"]));
        assert!(answer.warned_of("left Canary app"));
    }
}

#[test]
fn no_way_out_by_it_elsewhere_b6() {
    for write in [Write::primary_copy().held("v2"), Write::generated(), Write::generated_canary()] {
        let answer = glass(write).asks(json!({"metadata": {"labels": {keys::CANARY: null}}})).run();
        assert!(answer.denied().contains("delete Canary app"), "{}", answer.denied());
    }
}

#[test]
fn without_leaving_labels_and_finalizer_stay() {
    let write = Write::in_place().stored(json!({"metadata": {"finalizers": [keys::TRAFFIC_FINALIZER]}}));
    let asked = json!({"metadata": {"labels": {keys::ROLE: "generated"}, "finalizers": null}});
    let answer = glass(write.template("v2")).asks(asked).run();
    assert_eq!(answer.object["metadata"]["labels"][keys::ROLE], "target");
    assert_eq!(answer.object["metadata"]["finalizers"], json!([keys::TRAFFIC_FINALIZER]));
}
