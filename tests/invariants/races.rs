//! The race suite: what must hold in each scenario, beside the invariants that hold everywhere.

use serde_json::json;
use sidetrack::api::keys;
use sidetrack::api::status::Phase;
use sidetrack::object::{Kind, ObjectRef};
use sim::World;
use sim::manifests::{canary, deployment, template};

fn steps(world: &mut World, step: i64, max: i64) {
    world.edit_canary("/spec/analysis/stepWeight", json!(step));
    world.edit_canary("/spec/analysis/maxWeight", json!(max));
}

#[test]
fn r1_update_while_progressing_starts_over_with_the_newer_revision() {
    let mut world = World::initialised(canary(&[]));
    world.update("v2");
    world.until_weight(40);
    world.run(1);
    world.update("v3");
    world.until_weight(0);
    assert!(
        world.target_pods().revisions().iter().all(|r| **r == sim::world::revision("v2")),
        "v3 ran at weight"
    );
    world.until_over(Phase::Succeeded);
    assert_eq!((world.image("app-primary").as_str(), world.laws.promotions.len()), ("v3", 2));
}

#[test]
fn r1b_update_while_a_rollout_hook_is_asked_does_not_advance() {
    let mut world = World::initialised(canary(&[("load", "rollout")]));
    world.update("v2");
    world.until_weight(20);
    world.answers.hook("load", 200);
    world.answers.hooks.get_mut("load").unwrap().delay = jiff::SignedDuration::from_secs(8);
    let calls = world.answers.calls.len();
    world.until("the hook's call", |w| w.answers.calls.len() > calls);
    world.run(1);
    world.update("v3");
    assert!(!world.run_until(9, |w| w.weight() > 20), "the weight rose for v3");
    world.answers.hook("load", 200);
    world.until_over(Phase::Succeeded);
    assert_eq!(world.image("app-primary"), "v3");
}

#[test]
fn r2_update_while_promoting_waits_for_its_own_run() {
    let mut world = World::initialised(canary(&[]));
    steps(&mut world, 50, 100);
    world.update_with("v2", Some("slow")).unwrap();
    world.until_phase(Phase::Promoting);
    world.update("v3");
    world.until_phase(Phase::Succeeded);
    assert_eq!((world.image("app-primary").as_str(), world.image("app").as_str()), ("v2", "v3"));
    let pending = format!("revision {} is held", sim::world::revision("v3"));
    let succeeded = world.statuses.iter().rfind(|s| s.phase == Phase::Succeeded).unwrap();
    assert!(succeeded.conditions.iter().any(|c| c.message.contains(&pending)), "{:?}", succeeded.conditions);
    world.until("v3", |w| w.image("app-primary") == "v3" && w.status().phase == Phase::Succeeded);
}

#[test]
fn r3_update_while_confirm_promotion_is_asked_is_never_promoted_unanalysed() {
    let mut world = World::initialised(canary(&[("sign", "confirm-promotion")]));
    world.update("v2");
    world.until_weight(60);
    world.answers.hook("sign", 200);
    world.answers.hooks.get_mut("sign").unwrap().delay = jiff::SignedDuration::from_secs(8);
    let calls = world.answers.calls.len();
    world.until("the gate's call", |w| w.answers.calls.len() > calls);
    world.run(1);
    world.update("v3");
    world.run(10);
    assert_eq!(world.image("app-primary"), "v1");
    world.answers.hook("sign", 200);
    world.until_over(Phase::Succeeded);
    assert_eq!(world.image("app-primary"), "v3");
}

#[test]
fn r4_update_during_initialisation_gets_its_run() {
    let mut world = World::applied(deployment("v1", Some("slow"), Some(2)), canary(&[]));
    world.until("the primary", |w| w.primary().is_some());
    world.run(2);
    world.update("v2");
    world.until_phase(Phase::Initialized);
    assert_eq!(world.image("app-primary"), "v1");
    world.until_over(Phase::Succeeded);
    assert_eq!(world.image("app-primary"), "v2");
}

#[test]
fn r5_update_while_failed_and_the_primary_rolls_gets_its_run() {
    let mut world = World::applied(deployment("v1", Some("slow"), Some(2)), canary(&[("load", "rollout")]));
    world.until_phase(Phase::Initialized);
    world.answers.hook("load", 500);
    world.update("v2");
    world.until_over(Phase::Failed);
    world.answers.hook("load", 200);
    world.run(3);
    world.restart("app-primary").unwrap();
    world.run(1);
    world.update("v3");
    world.until_over(Phase::Succeeded);
    assert_eq!(world.image("app-primary"), "v3");
}

/// Also A.1: a failed promotion has a way out.
#[test]
fn r6_a_fix_after_a_failed_promotion_is_analysed_and_traffic_stays_on_ready_pods() {
    for strategy in ["Recreate", "RollingUpdate"] {
        let mut object = deployment("v1", None, Some(1));
        object["spec"]["strategy"] = json!({"type": strategy});
        object["spec"]["progressDeadlineSeconds"] = json!(20);
        let mut world = World::applied(object, canary(&[]));
        world.until_phase(Phase::Initialized);
        steps(&mut world, 50, 100);
        world.update_with("v2", Some("canaryonly")).unwrap();
        world.until_phase(Phase::Promoting);
        world.run(5);
        world.update("v3");
        world.until_phase(Phase::Failed);
        assert_eq!(world.image("app-primary"), "v1", "the revision before is back");
        world.until_over(Phase::Succeeded);
        assert_eq!(world.image("app-primary"), "v3");
    }
}

/// Also A.3 and A.13: the promoted revision's template is stored, and nobody is left without pods who need not be.
#[test]
fn r7_a_deleted_primary_is_made_again_from_the_promoted_revision() {
    let mut world = World::initialised(canary(&[("load", "rollout")]));
    let at = world.deployment("app-primary");
    let serving = |w: &World| {
        let (canary, primary) = (w.target_pods().ready(w.cluster.now), w.primary_pods().ready(w.cluster.now));
        (w.weight() == 100 && canary > 0) || (w.weight() == 0 && primary > 0)
    };
    world.delete(&at);
    let anew = |w: &World| w.primary().is_some_and(|p| p["metadata"].get("deletionTimestamp").is_none());
    world.until("a new primary, without a gap", |w| {
        assert!(serving(w), "{}", w.tail());
        w.at_rest() && anew(w)
    });
    assert_eq!(
        (world.image("app-primary").as_str(), world.replicas("app-primary"), world.replicas("app")),
        ("v1", 2, 0)
    );
    world.answers.hook("load", 500);
    world.update("v2");
    world.until_over(Phase::Failed);
    world.delete(&at);
    world.until("a new primary", anew);
    world.until_over(Phase::Failed);
    assert_eq!((world.image("app-primary").as_str(), world.replicas("app-primary")), ("v1", 2));
    assert_eq!(world.image("app"), "v2");
}

/// I9: a Canary whose target is gone does not go on saying that it is ready; it does again when the target is back.
#[test]
fn r7_a_canary_says_that_its_target_is_gone_until_it_is_back() {
    let mut world = World::initialised(canary(&[]));
    let at = world.deployment("app");
    let stalled = |w: &World| {
        w.status()
            .conditions
            .iter()
            .any(|c| c.type_ == "Stalled" && c.status == "True" && c.reason == "TargetMissing")
    };
    world.delete(&at);
    world.until("the status says so", stalled);
    assert!(world.ready_message().contains("Deployment app does not exist"), "{}", world.ready_message());
    assert!(world.fresh_process_has_nothing_to_do(), "said once");
    world.apply(deployment("v2", None, Some(2)));
    world.until_over(Phase::Succeeded);
    assert!(!stalled(&world));
    assert_eq!(world.image("app-primary"), "v2");
}

#[test]
fn r7_a_primary_deleted_during_a_run_is_made_again_and_the_run_ends() {
    for (weight, phase) in [(40, Phase::Progressing), (60, Phase::Promoting)] {
        let mut world = World::initialised(canary(&[]));
        world.update("v2");
        world.until_weight(weight);
        world.until_phase(phase);
        let at = world.deployment("app-primary");
        world.delete(&at);
        world.until_over(Phase::Succeeded);
        assert_eq!((world.image("app-primary").as_str(), world.replicas("app-primary")), ("v2", 2));
    }
}

#[test]
fn r9_replicas_from_git_start_no_pod_of_an_unapproved_revision() {
    let mut world = World::initialised(canary(&[("gate", "confirm-rollout")]));
    world.answers.hook("gate", 500);
    world.update("v2");
    world.until_phase(Phase::Waiting);
    world.apply(deployment("v2", None, Some(3)));
    world.run(12);
    assert!(world.target_pods().revisions().is_empty());
    let before = world.answers.calls.len();
    world.update("v3");
    world.run(1);
    world.answers.hook("gate", 200);
    world.until_over(Phase::Succeeded);
    assert_eq!((world.image("app-primary").as_str(), world.replicas("app-primary")), ("v3", 3));
    let checksums: Vec<_> =
        world.answers.calls[before..].iter().map(|c| c.body["checksum"].clone()).collect();
    assert!(checksums.iter().all(|c| *c == sim::world::revision("v3").short()), "{checksums:?}");
}

#[test]
fn r9b_a_revert_while_waiting_ends_the_wait() {
    let mut world = World::initialised(canary(&[("gate", "confirm-rollout")]));
    world.answers.hook("gate", 403);
    world.update("v2");
    world.until_phase(Phase::Waiting);
    world.update("v1");
    world.until("the end of the wait", |w| w.status().phase == Phase::Succeeded && w.at_rest());
    assert_eq!((world.key(keys::HOLD), world.laws.promotions.len()), (None, 1));
    world.answers.hook("gate", 200);
    world.run(60);
    assert_eq!(world.laws.promotions.len(), 1);
}

#[test]
fn r11_a_re_applied_replicas_field_leaves_no_idle_pods_and_no_write_war() {
    for healthy in [true, false] {
        let mut world = World::initialised(canary(&[]));
        if !healthy {
            world.answers.success_rate("1");
        }
        world.update("v2");
        let end = if healthy { Phase::Succeeded } else { Phase::Failed };
        world.until_over(end);
        world.run(3);
        let writes = world.writes;
        world.apply(deployment("v2", None, Some(2)));
        world.run(45);
        assert!(world.target_pods().revisions().is_empty());
        assert!(world.writes <= writes + 1, "{}", world.tail());
        // A /scale does not pass admission: one correction, and the wish is the primary's from then on.
        world.scale("app", 3).unwrap();
        world.run(45);
        assert_eq!(world.replicas("app"), 0);
        if healthy {
            assert_eq!(world.replicas("app-primary"), 3);
        }
        let writes = world.writes;
        world.run(60);
        assert_eq!(world.writes, writes);
    }
}

#[test]
fn r12_foreign_weights_are_put_right_and_the_run_goes_on() {
    let mut world = World::initialised(canary(&[("accept", "pre-rollout")]));
    world.update("v2");
    world.until_weight(40);
    world.run(1);
    world.set_route(0);
    world.run(1);
    assert_eq!(world.weight(), 40);
    assert!(world.has_said("were changed"));
    world.until_over(Phase::Succeeded);
    assert_eq!(world.answers.calls.iter().filter(|c| c.to == "accept").count(), 1);
    assert_eq!(world.times_said("Starting canary analysis"), 1);
}

#[test]
fn r13b_update_while_down_in_promoting_waits_for_its_own_run() {
    let mut world = World::initialised(canary(&[]));
    world.update_with("v2", Some("slow")).unwrap();
    world.until_phase(Phase::Promoting);
    world.kill();
    world.run(20);
    world.update("v3");
    world.run(5);
    world.start();
    world.until_phase(Phase::Succeeded);
    assert_eq!(world.image("app-primary"), "v2");
    world.until("v3", |w| w.image("app-primary") == "v3" && w.status().phase == Phase::Succeeded);
}

#[test]
fn r14_a_primary_edited_by_hand_is_refused_or_reported() {
    let mut world = World::initialised(canary(&[]));
    let at = world.deployment("app-primary");
    let hack = |d: &mut serde_json::Value| {
        d["spec"]["template"]["spec"]["containers"][0]["image"] = json!("app:hack")
    };
    assert!(world.edit(&at, hack).is_err());
    world.webhook = sim::writers::Webhook::Gone;
    world.edit(&at, hack).unwrap();
    world.run(5);
    assert!(world.has_said("was changed by hand"));
}

#[test]
fn r14b_a_primary_scaled_to_nothing_is_repaired_and_no_run_starts_meanwhile() {
    let mut world = World::initialised(canary(&[]));
    world.scale("app-primary", 0).unwrap();
    world.update("v2");
    world.until_over(Phase::Succeeded);
    assert_eq!((world.image("app-primary").as_str(), world.replicas("app-primary")), ("v2", 2));
}

#[test]
fn r15_a_revert_cancels_the_run() {
    let mut world = World::initialised(canary(&[]));
    world.update("v2");
    world.until_weight(40);
    world.run(1);
    world.update("v1");
    assert!(
        !world.run_until(600, |w| w.weight() > 40 || (w.at_rest() && w.status().run.is_none()))
            || world.weight() == 0
    );
    world.until_over(Phase::Succeeded);
    assert_eq!((world.image("app-primary").as_str(), world.laws.promotions.len()), ("v1", 1));
    assert_eq!((world.key(keys::HOLD), world.replicas("app")), (None, 0));
    // R15b: the very same revision again.
    world.update("v2");
    world.until_over(Phase::Succeeded);
    assert_eq!(world.image("app-primary"), "v2");
}

#[test]
fn r17_a_deleted_canary_leaves_the_application_serving() {
    for stage in ["idle", "analysing", "failed", "waiting"] {
        let hooks: &[(&str, &str)] = &[("gate", "confirm-rollout"), ("load", "rollout")];
        let mut world = World::initialised(canary(hooks));
        match stage {
            "analysing" => {
                world.update("v2");
                world.until_weight(40);
            }
            "failed" => {
                world.answers.hook("load", 500);
                world.update("v2");
                world.until_over(Phase::Failed);
            }
            "waiting" => {
                world.answers.hook("gate", 403);
                world.update("v2");
                world.until_phase(Phase::Waiting);
            }
            _ => {}
        }
        let at = world.canary.clone();
        world.delete(&at);
        world.until("the Canary to go", |w| w.cluster.get(&w.canary).is_none());
        world.run(5);
        assert!(world.primary().is_none(), "{stage}");
        assert_eq!(
            (world.image("app").as_str(), world.target_pods().ready(world.cluster.now)),
            ("v1", 2),
            "{stage}"
        );
        let apex = world.cluster.get(&ObjectRef::new(Kind::Service, "test", "app"));
        if let Some(apex) = apex {
            assert_eq!(apex["spec"]["selector"]["app"], "app", "{stage}");
        }
        let target = world.target().unwrap();
        assert_eq!(target["spec"].get("paused"), None);
        assert!(!target["metadata"].to_string().contains("sidetrack.dev/hold"), "{stage}");
        // A new revision rolls natively now.
        world.laws.off = true;
        world.update("v3");
        world.run(5);
        assert_eq!(world.target_pods().revisions(), [&sim::world::revision("v3")]);
    }
}

#[test]
fn r18_skipped_analysis_succeeds_only_with_a_ready_primary() {
    let mut world = World::initialised(canary(&[]));
    world.edit_canary("/spec/skipAnalysis", json!(true));
    world.update_with("v2", Some("canaryonly")).unwrap();
    world.until("an end", |w| matches!(w.status().phase, Phase::Succeeded | Phase::Failed));
    assert_eq!((world.status().phase, world.image("app-primary").as_str()), (Phase::Failed, "v1"));
}

#[test]
fn r25_a_deleted_target_gets_no_traffic() {
    for finalizer in [true, false] {
        let mut world = World::initialised(canary(&[]));
        world.update("v2");
        world.until_weight(40);
        world.run(1);
        let at = world.deployment("app");
        if !finalizer {
            world.webhook = sim::writers::Webhook::Gone;
            world.edit(&at, |d| d["metadata"]["finalizers"] = json!([])).unwrap();
            world.webhook = sim::writers::Webhook::Up;
        }
        world.delete(&at);
        if finalizer {
            world.run(3);
            assert_eq!((world.weight(), world.target_pods().ready(world.cluster.now)), (0, 2), "drained");
        }
        assert!(world.run_until(5, |w| w.weight() == 0 && w.target().is_none()), "{}", world.tail());
        assert_eq!(world.primary_pods().ready(world.cluster.now), 2);
        assert_eq!(world.image("app-primary"), "v1");
        // Made again at another revision: a run of its own, and nothing un-analysed before.
        let mut again = deployment("v3", None, Some(2));
        again["spec"]["template"] = template("v3", None);
        world.apply(again);
        world.until_over(Phase::Succeeded);
        assert_eq!(world.image("app-primary"), "v3");
    }
}

#[test]
fn r26_a_canary_without_ready_pods_gets_no_traffic() {
    let mut world = World::initialised(canary(&[]));
    world.update("v2");
    world.until_weight(40);
    world.run(1);
    world.set_ready("app", false, 2);
    world.run(1);
    assert_eq!((world.weight(), world.status().failed_checks), (0, 1));
    world.run(5);
    world.set_ready("app", true, 2);
    world.until_over(Phase::Succeeded);
    assert_eq!(world.image("app-primary"), "v2");
}
