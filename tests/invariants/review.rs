//! Attacks on the interlock from its review: what must come out, beside the invariants that hold everywhere.
//! A.1 is R6, A.3 is R7, A.13 is R7 and R25, A.14 is R17; A.2, A.11 and A.16 are of the other layout.

use serde_json::json;
use sidetrack::api::keys;
use sidetrack::api::status::Phase;
use sidetrack::object::ObjectRef;
use sim::World;
use sim::cluster::Manager;
use sim::manifests::{canary, deployment, template};
use sim::world::revision;
use sim::writers::Webhook;

/// A.3 (b): adoption, a crash, a held v2 before the primary exists.
#[test]
fn a3_the_primary_is_made_from_the_revision_that_was_adopted() {
    for write in 1..8 {
        let mut world = World::applied(deployment("v1", None, Some(2)), canary(&[]));
        world.after_write(write, |w| {
            w.kill();
            if w.target().is_some_and(|t| t["metadata"]["labels"].get(keys::CANARY).is_some()) {
                w.update("v2");
            }
            w.after(3, World::start);
        });
        world.until("a primary", |w| w.primary().is_some());
        assert_eq!(world.image("app-primary"), "v1");
        world.until("the end", |w| w.at_rest() && w.image("app-primary") == w.image("app"));
    }
}

/// A.4 (a), (c): an owner's pause never lets older pods be analysed.
#[test]
fn a4_an_owners_pause_keeps_the_revision_held_with_that_reason() {
    let mut world = World::initialised(canary(&[]));
    world.answers.success_rate("1");
    world.update("vx");
    world.until_over(Phase::Failed);
    world.answers.success_rate("100");
    world.update("v1");
    world.until_over(Phase::Succeeded);
    world.pause(true).unwrap();
    world.update("v2");
    world.run(60);
    assert_eq!(
        (world.key(keys::HOLD), world.target_pods().revisions().len()),
        (Some(revision("v2").as_str()), 0)
    );
    assert!(world.ready_message().contains("until its owner resumes"), "{}", world.ready_message());
    world.pause(false).unwrap();
    world.until_over(Phase::Succeeded);
    assert_eq!(world.image("app-primary"), "v2");
}

/// A revision that its owner pauses takes the place of the one that is analysed, and waits like any other.
#[test]
fn a4_an_owners_pause_holds_what_takes_the_place_of_another_too() {
    let mut world = World::initialised(canary(&[]));
    world.update("v2");
    world.until("weight on the canary", |w| w.shares().is_some_and(|shares| shares.canary > 0));
    world.pause(true).unwrap();
    world.update("v3");
    assert!(world.key(keys::PAUSED_BEFORE).is_some());
    world.until("it waits", |w| w.ready_message().contains("until its owner resumes"));
    world.run(60);
    assert_eq!(world.key(keys::HOLD), Some(revision("v3").as_str()), "{}", world.ready_message());
    assert!(world.key(keys::PAUSED_BEFORE).is_some() && world.target_pods().revisions().is_empty());
    world.pause(false).unwrap();
    world.until_over(Phase::Succeeded);
    assert_eq!((world.image("app-primary").as_str(), world.key(keys::PAUSED_BEFORE)), ("v3", None));
}

/// A.4 (b): a newer hold lands at any moment of a release.
#[test]
fn a4_a_hold_that_lands_in_a_release_is_analysed_in_its_place() {
    let mut ready = World::initialised(canary(&[]));
    ready.answers.success_rate("1");
    ready.update("vx");
    ready.until_over(Phase::Failed);
    ready.answers.success_rate("100");
    for write in 1..12 {
        let mut world = ready.fork();
        world.update("v2");
        world.after_write(write, |w| w.update("v3"));
        world.until_over(Phase::Succeeded);
        assert_eq!(world.image("app-primary"), "v3", "after write {write}");
    }
}

/// A.4 (c): the owner pauses between release and analysis.
#[test]
fn a4_a_pause_in_a_release_starts_no_older_pod_and_takes_no_step() {
    let mut ready = World::initialised(canary(&[]));
    ready.answers.success_rate("1");
    ready.update("vx");
    ready.until_over(Phase::Failed);
    ready.answers.success_rate("100");
    for write in 1..8 {
        let mut world = ready.fork();
        world.update("v2");
        world.after_write(write, |w| w.pause(true).unwrap());
        world.run(120);
        if write == 3 {
            assert!(world.target_pods().revisions().is_empty(), "right after the release nothing is scaled");
        }
        world.pause(false).unwrap();
        world.until("the end", |w| w.at_rest() && w.image("app-primary") == "v2");
    }
}

/// A.5: the scale of a release never reaches a stranger.
#[test]
fn a5_a_target_made_anew_between_release_and_scale_is_not_scaled() {
    for write in 1..6 {
        let mut world = World::initialised(canary(&[]));
        world.update("v2");
        world.after_write(write, |w| {
            let at = w.deployment("app");
            w.cluster.objects.remove(&at);
            w.apply(deployment("v9", None, Some(1)));
        });
        world.until("an end", |w| w.at_rest() && w.image("app-primary") == w.image("app"));
        assert_eq!(world.image("app-primary"), "v9");
    }
}

/// A.6: an unforced apply of other replicas meets no owner among us, at any moment of a run.
#[test]
fn a6_no_look_ends_with_a_field_of_the_targets_spec_in_our_name() {
    let mut world = World::initialised(canary(&[]));
    let check = |world: &World| {
        let entries =
            world.target().unwrap()["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
        let ours = |e: &serde_json::Value| {
            e["manager"] == keys::FIELD_MANAGER && e["fieldsV1"].get("f:spec").is_some()
        };
        assert!(!entries.iter().any(ours), "{}", world.tail());
    };
    for (image, end) in [("v2", Phase::Succeeded), ("v3", Phase::Failed)] {
        if end == Phase::Failed {
            world.answers.success_rate("1");
        }
        world.update(image);
        world.until("the end", |w| {
            check(w);
            w.at_rest() && w.status().phase == end
        });
    }
}

/// A.7: hold, then scale; at no moment is a failed revision unheld without pods.
#[test]
fn a7_a_rolled_back_revision_is_held_before_it_is_scaled_down() {
    let mut world = World::initialised(canary(&[]));
    world.answers.success_rate("1");
    world.update("v2");
    world.until_weight(20);
    world.until("the scale-down", |w| w.replicas("app") == 0 || w.key(keys::HOLD).is_some());
    assert_eq!(world.key(keys::FAILED), Some(revision("v2").as_str()));
    world.until_over(Phase::Failed);
    assert_eq!(world.target().unwrap()["spec"]["paused"], true);
}

/// A.8: the usual retry by Git, while nobody looks.
#[test]
fn a8_a_failed_revision_that_is_applied_anew_is_tried_anew() {
    let mut world = World::initialised(canary(&[]));
    world.answers.success_rate("1");
    world.update("v2");
    world.until_over(Phase::Failed);
    world.answers.success_rate("100");
    world.kill();
    world.update("v1");
    world.update("v2");
    world.start();
    world.until_over(Phase::Succeeded);
    assert_eq!(world.image("app-primary"), "v2");
    assert!(world.has_said("New revision detected!"));
}

/// A.9: the primary is written, the process dies, a revert lands before `promoted` moves.
#[test]
fn a9_a_revert_at_any_moment_of_a_promotion_is_no_cancellation() {
    let mut ready = World::initialised(canary(&[]));
    ready.update("v2");
    ready.until_weight(60);
    for write in 1..8 {
        let mut world = ready.fork();
        world.after_write(write, |w| {
            w.kill();
            w.update("v1");
            w.after(3, World::start);
        });
        world.until("the end", |w| {
            w.at_rest() && w.image("app-primary") == "v1" && w.key(keys::HOLD).is_none()
        });
        assert_eq!(world.key(keys::PROMOTED), Some(revision("v1").as_str()), "after write {write}");
    }
}

/// A.10: a hold, and a revert, while the target's pods are the only ones that serve.
#[test]
fn a10_a_revert_during_initialisation_takes_no_serving_pod() {
    let mut world = World::empty("test", "app", "app", None);
    world.apply(deployment("v1", Some("slow"), Some(2)));
    world.run(20);
    world.apply(canary(&[]));
    world.until("the primary", |w| w.primary().is_some());
    world.update("v2");
    world.run(2);
    world.update_with("v1", Some("slow")).unwrap();
    world.until("a ready primary", |w| {
        assert!(w.replicas("app") > 0 || w.primary_pods().ready(w.cluster.now) > 0, "{}", w.tail());
        w.at_rest() && w.status().run.is_none()
    });
    assert_eq!((world.replicas("app"), world.key(keys::HOLD)), (0, None));
}

/// A.12 (b), (c): break-glass at weight, and what it leaves behind.
#[test]
fn a12_break_glass_at_weight_rolls_no_pod_behind_it_and_opens_the_gate_once() {
    let mut world = World::initialised(canary(&[]));
    world.update("v2");
    world.until_weight(40);
    world.break_glass("v3").unwrap();
    world.until_over(Phase::Succeeded);
    assert_eq!(world.image("app-primary"), "v3");
    world.webhook = Webhook::Gone;
    world.update("v4");
    world.webhook = Webhook::Up;
    world.run(1);
    assert!(world.has_said("InterlockBypassed"));
    world.until_over(Phase::Succeeded);
    assert_eq!(world.image("app-primary"), "v4");
}

/// §5.10: a template that came in unheld, between runs and at weight.
#[test]
fn a_bypass_is_held_and_analysed_like_any_other() {
    for weight in [0, 40] {
        let mut world = World::initialised(canary(&[]));
        if weight > 0 {
            world.update("v2");
            world.until_weight(weight);
        }
        world.webhook = Webhook::Gone;
        world.update("v3");
        world.webhook = Webhook::Up;
        world.run(1);
        assert!(weight == 0 || world.weight() == 0, "{}", world.tail());
        assert!(world.has_said("InterlockBypassed"));
        world.until_over(Phase::Succeeded);
        assert_eq!(world.image("app-primary"), "v3");
    }
}

/// A.15: an autoscaler that wakes the target is answered once, not fought.
#[test]
fn a15_pods_scaled_up_beside_a_run_are_put_back_once_and_never_get_traffic() {
    let mut world = World::initialised(canary(&[]));
    world.answers.success_rate("1");
    world.update("v2");
    world.until_over(Phase::Failed);
    world.scale("app", 1).unwrap();
    let writes = world.writes;
    world.run(120);
    assert!(world.writes <= writes + 3 && world.replicas("app") == 0, "{}", world.tail());
}

/// §5.8: an autoscaler leaves a Deployment at 0 alone, and its pods are not ours to count: it is said, once.
#[test]
fn a_primary_at_0_beside_an_autoscaler_is_reported() {
    let scaler = |min: i64| {
        json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "app"},
            "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "app"},
                "minReplicas": min, "maxReplicas": 4}})
    };
    for (min, is_a_fault) in [(2, true), (0, false)] {
        let mut object = canary(&[]);
        object["spec"]["autoscalerRef"] =
            json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "name": "app"});
        let mut world = World::empty("test", "app", "app", None);
        world.apply(scaler(min));
        world.apply(deployment("v1", None, Some(2)));
        world.apply(object);
        world.until_phase(Phase::Initialized);
        let said = "app-primary.test is scaled to 0: an autoscaler";
        world.scale("app-primary", 0).unwrap();
        world.run(120);
        assert_eq!(world.times_said(said), usize::from(is_a_fault), "{}", world.tail());
        assert_eq!(world.ready_message().starts_with(said), is_a_fault, "{}", world.ready_message());
        assert_eq!((world.replicas("app-primary"), world.at_rest()), (0, true));
        world.scale("app-primary", 2).unwrap();
        world.run(5);
        assert!(world.ready_message().starts_with("The primary runs revision"), "{}", world.ready_message());
        world.update("v2");
        world.until_over(Phase::Succeeded);
        assert_eq!(world.times_said(said), usize::from(is_a_fault));
    }
}

/// B.20: a primary that somebody else made, and a target made anew.
#[test]
fn b20_a_target_beside_a_living_primary_is_a_revision_to_analyse() {
    let mut world = World::initialised(canary(&[]));
    let at = world.deployment("app");
    world.delete(&at);
    world.until("the target gone", |w| w.target().is_none());
    world.apply(deployment("v2", None, Some(2)));
    world.run(1);
    assert_eq!(world.image("app-primary"), "v1");
    world.until_over(Phase::Succeeded);
    assert_eq!(world.image("app-primary"), "v2");
}

/// B.20: adoption waits for an owner's pause and for a rollout.
#[test]
fn b20_only_a_settled_target_is_adopted() {
    let mut world = World::empty("test", "app", "app", None);
    world.apply(deployment("v1", Some("slow"), Some(2)));
    world.run(20);
    world.apply(deployment("v2", Some("slow"), Some(2)));
    world.run(1);
    world.apply(canary(&[]));
    world.run(5);
    assert!(world.primary().is_none());
    world.pause(true).unwrap();
    world.run(60);
    assert!(world.primary().is_none() && world.ready_message().contains("is paused by its owner"));
    world.pause(false).unwrap();
    world.until_over(Phase::Initialized);
    assert_eq!(world.image("app-primary"), "v2");
}

/// B.26: what a promotion copies beside the template.
#[test]
fn b26_rollout_settings_are_promoted_with_the_template() {
    let mut world = World::initialised(canary(&[]));
    let mut object = deployment("v2", None, Some(2));
    object["spec"]["minReadySeconds"] = json!(7);
    object["spec"]["strategy"] =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    world.apply(object);
    world.until_over(Phase::Succeeded);
    let spec = &world.primary().unwrap()["spec"];
    assert_eq!(
        (&spec["minReadySeconds"], &spec["strategy"]["rollingUpdate"]["maxSurge"]),
        (&json!(7), &json!(1))
    );
}

/// §5.11: a restart of the target restarts the primary, with the same revision.
#[test]
fn a_restart_of_the_target_restarts_the_primary() {
    let mut world = World::initialised(canary(&[]));
    world.restart("app").unwrap();
    world.run(5);
    let annotation = "/spec/template/metadata/annotations/kubectl.kubernetes.io~1restartedAt";
    assert!(world.primary().unwrap().pointer(annotation).is_some());
    assert_eq!(world.status().run, None);
}

/// §5.11: stopping an application from Git.
#[test]
fn zero_replicas_asked_for_stop_the_application_and_no_run_starts_meanwhile() {
    let mut world = World::initialised(canary(&[]));
    let at = world.deployment("app");
    world.edit(&at, |d| d["metadata"]["annotations"][keys::REQUESTED_REPLICAS] = json!("0")).unwrap();
    world.run(5);
    assert_eq!(world.replicas("app-primary"), 0);
    world.update("v2");
    world.run(60);
    assert!(world.ready_message().contains("scaled to 0"), "{}", world.ready_message());
    world.apply(deployment("v2", None, Some(2)));
    world.until_over(Phase::Succeeded);
    assert_eq!((world.image("app-primary").as_str(), world.replicas("app-primary")), ("v2", 2));
}

/// §5.2, B-11: a forged hold is corrected, never released.
#[test]
fn a_hold_that_names_another_revision_is_corrected_before_anything_is_released() {
    let mut world = World::initialised(canary(&[]));
    world.webhook = Webhook::Gone;
    let at = world.deployment("app");
    world
        .edit_as(&at, Manager::update("evil"), |d| {
            d["spec"]["template"] = template("v2", None);
            d["spec"]["paused"] = json!(true);
            d["metadata"]["annotations"][keys::HOLD] = json!("forged");
        })
        .unwrap();
    world.webhook = Webhook::Up;
    world.until_over(Phase::Succeeded);
    assert_eq!(world.image("app-primary"), "v2");
    assert!(world.laws.applied.contains_key("I2"));
}

/// Objects that routing consists of come back, and the run's weight with them.
#[test]
fn a_deleted_route_is_made_again_and_the_run_goes_on() {
    let mut world = World::initialised(canary(&[]));
    world.update("v2");
    world.until_weight(40);
    let at = ObjectRef::new(sidetrack::router::VIRTUAL_SERVICE, "test", "app");
    world.delete(&at);
    world.run(1);
    assert_eq!(world.weight(), 40);
    world.until_over(Phase::Succeeded);
    assert_eq!(world.times_said("Starting canary analysis"), 1);
}

/// A Canary that is suspended mid-run goes on where it was.
#[test]
fn a_suspended_run_stands_still_and_goes_on() {
    let mut world = World::initialised(canary(&[]));
    world.update("v2");
    world.until_weight(40);
    world.edit_canary("/spec/suspend", json!(true));
    world.run(120);
    assert_eq!(world.weight(), 40);
    world.edit_canary("/spec/suspend", json!(false));
    world.until_over(Phase::Succeeded);
}
