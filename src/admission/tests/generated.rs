//! Rule 4.

use crate::admission::outcome::Rule;
use crate::admission::testing::{Write, hash};
use crate::api::keys;
use serde_json::json;

#[test]
fn template_and_keys_are_403_and_name_the_deployment_to_change_f2() {
    let finalizer = json!({"metadata": {"finalizers": [keys::TRAFFIC_FINALIZER]}});
    for write in [Write::generated(), Write::generated_canary()] {
        let write = write.stored(finalizer.clone()).with(json!({keys::REQUESTED_REPLICAS: "3"}));
        for asked in [
            json!({"spec": {"template": {"spec": {"containers": []}}}}),
            json!({"metadata": {"labels": {keys::CANARY: null}}}),
            json!({"metadata": {"labels": {keys::ROLE: "target"}}}),
            json!({"metadata": {"annotations": {keys::HOLD: hash("v9")}}}),
            json!({"metadata": {"annotations": {keys::PROMOTED: null}}}),
            json!({"metadata": {"annotations": {keys::REQUESTED_REPLICAS: "4"}}}),
            json!({"metadata": {"finalizers": null}}),
            json!({"metadata": {"labels": {"app": "app"}, "annotations": null, "finalizers": null}}),
        ] {
            let answer = write.clone().asks(asked.clone()).run();
            let name = write.new["metadata"]["name"].as_str().unwrap();
            let message = answer.denied();
            assert!(message.contains(&format!("Deployment {name} ")), "{message}");
            assert!(
                message.contains("Canary app") && message.contains("change Deployment app instead"),
                "{message}"
            );
            assert_eq!(answer.outcome.rules, [Rule::Generated], "{asked}");
        }
    }
}

#[test]
fn a_forged_hold_with_the_template_is_403_f3() {
    let evil = json!({"metadata": {"annotations": {keys::HOLD: hash("evil")}}, "spec": {"paused": true}});
    assert!(Write::generated().template("evil").asks(evil).run().denied().contains("change Deployment app"));
}

#[test]
fn restart_scale_pause_and_foreign_metadata_pass_f2() {
    for write in [Write::generated(), Write::generated_canary()] {
        for asked in [
            json!({"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}}}}),
            json!({"spec": {"replicas": 9}}),
            json!({"spec": {"paused": true}}),
            json!({"metadata": {"annotations": {"foo": "bar"}, "labels": {"foo": "bar"}}}),
        ] {
            assert!(write.clone().asks(asked.clone()).run().passes_untouched(), "{asked}");
        }
    }
}
