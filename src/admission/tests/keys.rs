//! Rule 10 and the limit on annotations.

use crate::admission::outcome::Rule;
use crate::admission::testing::{Write, hash};
use crate::api::keys;
use serde_json::{Value, json};

const LIMIT: usize = 262_144;

#[test]
fn labels_are_put_back_with_a_warning_f2() {
    for write in Write::targets() {
        let before = write.new["metadata"]["labels"].clone();
        for asked in [
            json!({keys::CANARY: null}),
            json!({keys::CANARY: "other"}),
            json!({keys::LAYOUT: "in-place", keys::ROLE: "generated", keys::CANARY: null}),
            json!({keys::ROLE: null}),
            json!(null),
        ] {
            let answer = write.clone().asks(json!({"metadata": {"labels": asked}})).run();
            for key in keys::LABELS {
                assert_eq!(answer.object["metadata"]["labels"][key], before[key], "{asked}");
            }
            assert!(answer.warned_of("labels put back"), "{asked}");
            assert_eq!(answer.outcome.rules, [Rule::Restore]);
        }
    }
}

#[test]
fn annotations_are_put_back() {
    let before = json!({
        keys::APPLIED_BY: "a b", keys::REVERTED: hash("v1"), keys::REQUESTED_REPLICAS: "3",
        keys::GLASSED: hash("v1"), keys::CANARY_NAME: "app",
    });
    for write in Write::targets() {
        let write = write.with(before.clone());
        for key in [
            keys::PROMOTED,
            keys::REVERTED,
            keys::REQUESTED_REPLICAS,
            keys::APPLIED_BY,
            keys::GLASSED,
            keys::CANARY_NAME,
        ] {
            for asked in [Value::Null, json!("forged")] {
                let answer = write.clone().annotates(json!({key: asked})).run();
                assert_eq!(
                    answer.annotation(key),
                    write.old["metadata"]["annotations"][key].as_str(),
                    "{key}"
                );
            }
        }
    }
}

#[test]
fn keys_from_nowhere_are_dropped() {
    for write in Write::targets() {
        for key in [
            keys::HOLD,
            keys::FAILED,
            keys::PAUSED_BEFORE,
            keys::REVERTED,
            keys::APPLIED_BY,
            keys::GLASSED,
            keys::CANARY_NAME,
        ] {
            let answer = write.clone().annotates(json!({key: hash("v1")})).run();
            assert_eq!(answer.annotation(key), None, "{key}");
            assert_eq!(answer.outcome.decision(), "restore", "{key}");
        }
    }
}

#[test]
fn failed_may_be_removed_but_not_written_r8() {
    for write in Write::targets() {
        let failed = write.held("v2").with(json!({keys::FAILED: hash("v2")}));
        let removed = failed.clone().annotates(json!({keys::FAILED: null})).run();
        assert!(removed.passes_untouched());
        let forged = failed.annotates(json!({keys::FAILED: "other"})).run();
        assert_eq!(forged.annotation(keys::FAILED), Some(hash("v2").as_str()));
    }
}

#[test]
fn the_finalizer_stays_where_it_was_r13() {
    let finalizers = json!({"metadata": {"finalizers": ["a", keys::TRAFFIC_FINALIZER, "b"], "deletionTimestamp": "2026-11-23T00:00:00Z"}});
    for write in Write::targets() {
        let write = write.stored(finalizers.clone());
        for (asked, expected) in [
            (json!(null), json!([keys::TRAFFIC_FINALIZER])),
            (json!([]), json!([keys::TRAFFIC_FINALIZER])),
            (json!(["a", "b"]), json!(["a", keys::TRAFFIC_FINALIZER, "b"])),
            (json!(["b", keys::TRAFFIC_FINALIZER]), json!(["b", keys::TRAFFIC_FINALIZER])),
        ] {
            let answer = write.clone().asks(json!({"metadata": {"finalizers": asked}})).run();
            assert_eq!(answer.object["metadata"]["finalizers"], expected);
        }
    }
    let forged =
        Write::in_place().asks(json!({"metadata": {"finalizers": ["a", keys::TRAFFIC_FINALIZER]}})).run();
    assert_eq!(forged.object["metadata"]["finalizers"], json!(["a"]));
}

#[test]
fn annotations_beyond_the_limit_are_403_with_the_counts_f9() {
    let own = |write: &Write| {
        let annotations = write.run().object["metadata"]["annotations"].as_object().unwrap().clone();
        annotations.iter().map(|(k, v)| k.len() + v.as_str().unwrap().len()).sum::<usize>()
    };
    for write in Write::targets() {
        let filled = write.template("v2").annotates(json!({"fill": ""}));
        let room = LIMIT - own(&filled);
        let fits = filled.clone().annotates(json!({"fill": "x".repeat(room)}));
        assert_eq!(own(&fits), LIMIT);
        assert!(fits.run().paused());
        let answer = filled.annotates(json!({"fill": "x".repeat(room + 1)})).run();
        let message = answer.denied();
        assert!(message.contains("262145 bytes") && message.contains("262144"), "{message}");
        assert!(message.contains("Deployment app") && message.contains("Canary app"), "{message}");
        assert_eq!(answer.outcome.decision(), "deny");
    }
}

#[test]
fn a_request_that_is_too_big_by_itself_is_403_too_f9() {
    let answer = Write::in_place().annotates(json!({"fill": "x".repeat(LIMIT)})).run();
    assert!(answer.denied().contains("bytes"));
}
