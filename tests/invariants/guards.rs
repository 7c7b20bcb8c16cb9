//! One guard each: what would happen if the line that keeps it were not there.

use sidetrack::api::keys;
use sidetrack::api::status::{Phase, Stage};
use sidetrack::object::{Kind, ObjectRef, Write};
use sim::World;
use sim::manifests::{canary, deployment, template};
use sim::process::scaled_to;
use sim::world::{Fuse, revision};
use sim::writers::Webhook;

fn stage(world: &World) -> Option<Stage> {
    world.status().run.map(|run| run.stage)
}

/// I3: one of two canary pods is not enough for a step; it counts as a failed check.
#[test]
fn no_step_is_taken_below_the_canarys_ready_threshold() {
    let mut world = World::initialised(canary(&[]));
    world.update("v2");
    world.until_weight(20);
    world.set_ready("app", false, 1);
    world.run(15);
    assert_eq!((world.weight(), world.status().failed_checks), (20, 1), "{}", world.tail());
    world.set_ready("app", true, 1);
    world.until_over(Phase::Succeeded);
}

/// I3: nor below the primary's, which is not the canary's fault.
#[test]
fn no_step_is_taken_below_the_primarys_ready_threshold() {
    let mut world = World::initialised(canary(&[]));
    world.update("v2");
    world.until_weight(20);
    world.set_ready("app-primary", false, 1);
    world.run(60);
    assert_eq!((world.weight(), world.status().failed_checks), (20, 0), "{}", world.tail());
    world.set_ready("app-primary", true, 1);
    world.until_over(Phase::Succeeded);
}

/// I3, while the primary rolls to what passed: each side is left when it has no ready pods.
#[test]
fn a_side_without_ready_pods_is_left_during_a_promotion() {
    let mut ready = World::initialised(canary(&[]));
    ready.update_with("v2", Some("slow")).unwrap();
    ready.until("promoting", |w| stage(w) == Some(Stage::Promoting));
    for (name, weight) in [("app", 0), ("app-primary", 100)] {
        let mut world = ready.fork();
        world.set_ready(name, false, 2);
        world.run(1);
        assert_eq!((stage(&world), world.weight()), (Some(Stage::Promoting), weight), "{}", world.tail());
    }
}

/// I3: a weight that somebody took down comes back with the ready threshold only.
#[test]
fn a_weight_taken_down_by_hand_stays_down_below_the_ready_threshold() {
    let mut world = World::initialised(canary(&[]));
    world.update("v2");
    world.until_weight(20);
    world.run(1);
    world.set_ready("app", false, 1);
    world.set_route(0);
    world.run(3);
    assert_eq!(world.weight(), 0, "{}", world.tail());
    world.set_ready("app", true, 1);
    world.run(1);
    assert_eq!(world.weight(), 20, "{}", world.tail());
}

#[test]
fn a_weight_set_by_hand_between_runs_is_taken_back() {
    let mut world = World::initialised(canary(&[]));
    world.set_route(50);
    world.run(1);
    assert_eq!(world.weight(), 0);
    assert!(world.has_said("outside of a run"));
}

/// §5.6 and §5.8: what is superseded keeps its traffic for want of another backend, and no longer.
#[test]
fn a_superseded_canary_keeps_its_traffic_until_the_primary_is_back() {
    for gate in [403, 200] {
        let mut world = World::initialised(canary(&[("gate", "confirm-rollout")]));
        world.update("v2");
        world.until_weight(40);
        world.run(1);
        world.answers.hook("gate", gate);
        world.set_ready("app-primary", false, 2);
        world.run(1);
        world.update("v3");
        world.run(30);
        assert_eq!(
            (world.weight(), world.target_pods().revisions()),
            (100, vec![&revision("v2")]),
            "{}",
            world.tail()
        );
        world.set_ready("app-primary", true, 2);
        world.run(1);
        assert_eq!(world.weight(), 0, "gate {gate}\n{}", world.tail());
        if gate == 200 {
            world.until_over(Phase::Succeeded);
            assert_eq!(world.image("app-primary"), "v3");
        }
    }
}

/// §5.13 over §5.8: leaving, too, takes no traffic from the only pods that can serve it.
#[test]
fn a_rollback_waits_until_the_primary_can_serve() {
    let mut world = World::initialised(canary(&[]));
    world.update("v2");
    world.until_weight(40);
    world.run(1);
    world.set_ready("app-primary", false, 2);
    world.run(1);
    let at = world.canary.clone();
    world.delete(&at);
    world.run(30);
    assert_eq!((world.weight(), stage(&world)), (100, Some(Stage::RollingBack)), "{}", world.tail());
    assert!(world.has_said("traffic stays on the canary until it has"));
    world.set_ready("app-primary", true, 2);
    world.until("the Canary to go", |w| w.cluster.get(&w.canary).is_none());
    assert_eq!(world.image("app"), "v1");
}

/// §5.6: the weight of the older revision goes before anything is said of the newer one.
#[test]
fn a_superseded_revision_loses_its_weight_first() {
    let mut world = World::initialised(canary(&[]));
    world.update("v2");
    world.until_weight(40);
    world.update("v3");
    world.after_write(1, |w| {
        assert_eq!(w.weight(), 0, "{}", w.tail());
        assert_eq!(w.status().run.unwrap().revision, revision("v2").as_str());
    });
    world.until_over(Phase::Succeeded);
}

/// I4: whatever the routes say when the target's first pods are to go.
#[test]
fn the_first_pods_go_only_when_the_routes_have_left_them() {
    let mut world = World::with(canary(&[]));
    let route = ObjectRef::new(sidetrack::router::VIRTUAL_SERVICE, "test", "app");
    world.until("a route", |w| w.cluster.get(&route).is_some());
    world.run(3);
    world.set_route(50);
    world.run(3);
    assert_eq!((world.weight(), world.replicas("app")), (0, 2), "{}", world.tail());
    world.until_phase(Phase::Initialized);
}

/// The same for clients of the apex Service: they are given their time as well.
#[test]
fn the_first_pods_go_only_when_clients_of_the_apex_have_left_them() {
    let mut world = World::with(canary(&[]));
    let apex = ObjectRef::new(Kind::Service, "test", "app");
    world.until("an apex", |w| w.cluster.get(&apex).is_some());
    world.run(4);
    world.webhook = Webhook::Gone;
    world.edit(&apex, |s| s["spec"]["selector"]["app"] = "app".into()).unwrap();
    world.run(3);
    let selected = &world.cluster.get(&apex).unwrap()["spec"]["selector"]["app"];
    assert_eq!((selected, world.replicas("app")), (&"app-primary".into(), 2), "{}", world.tail());
    world.until_phase(Phase::Initialized);
}

/// §5.10: the traffic leaves at once, before anything is said or held.
#[test]
fn a_bypass_loses_its_weight_first() {
    let mut world = World::initialised(canary(&[]));
    world.update("v2");
    world.until_weight(40);
    world.webhook = Webhook::Gone;
    world.update("v3");
    world.after_write(1, |w| assert_eq!((w.weight(), w.key(keys::HOLD)), (0, None), "{}", w.tail()));
    world.run(5);
    assert!(world.has_said("InterlockBypassed"));
}

/// §5.5: what the primary is made from stays, however many revisions fail after it; what nobody needs goes.
#[test]
fn the_promoted_template_stays_until_another_one_is_promoted() {
    let of = |image: &str| {
        let mut object = deployment(image, None, Some(2));
        object["spec"]["revisionHistoryLimit"] = 1.into();
        object
    };
    let mut world = World::applied(of("v1"), canary(&[]));
    world.until_phase(Phase::Initialized);
    world.answers.success_rate("1");
    for image in ["v2", "v3", "v4"] {
        world.apply(of(image));
        world.until("its failure", |w| w.key(keys::FAILED) == Some(revision(image).as_str()) && w.at_rest());
    }
    let stored = |world: &World, image: &str| {
        let name = world.names.snapshot(&revision(image));
        world.cluster.get(&ObjectRef::new(Kind::ControllerRevision, "test", name)).is_some()
    };
    assert_eq!(["v1", "v2", "v4"].map(|v| stored(&world, v)), [true, false, true], "{}", world.tail());
    world.answers.success_rate("100");
    world.apply(of("v5"));
    world.until_over(Phase::Succeeded);
    assert_eq!(["v1", "v2", "v5"].map(|v| stored(&world, v)), [false, false, true], "{}", world.tail());
}

/// §5.6: the pods of what is reverted stay until a primary that has its threshold has taken over.
#[test]
fn a_revert_waits_for_the_primary() {
    let mut world = World::initialised(canary(&[]));
    world.update("v2");
    world.until_weight(40);
    world.set_ready("app-primary", false, 1);
    world.update("v1");
    world.run(30);
    assert_eq!((world.replicas("app"), stage(&world)), (2, Some(Stage::Cancelling)), "{}", world.tail());
    world.set_ready("app-primary", true, 1);
    world.until_over(Phase::Succeeded);
    assert_eq!(world.image("app-primary"), "v1");
}

/// §5.7: what is written back is what `promoted` says again, before the rollback begins.
#[test]
fn a_promotion_that_fails_late_takes_its_mark_back() {
    let mut object = canary(&[]);
    object["spec"]["analysis"]["stepWeightPromotion"] = 30.into();
    let mut world = World::initialised(object);
    world.update("v2");
    world.until("returning", |w| stage(w) == Some(Stage::Returning));
    assert_eq!(world.key(keys::PROMOTED), Some(revision("v2").as_str()));
    world.set_ready("app-primary", false, 2);
    world.until("rolling back", |w| stage(w) == Some(Stage::RollingBack));
    assert_eq!(world.key(keys::PROMOTED), Some(revision("v1").as_str()), "{}", world.tail());
    world.until_over(Phase::Failed);
    assert_eq!(world.image("app-primary"), "v1");
}

/// Somebody writes another template under the hold that is there, while nobody answers for the webhook.
fn forge(world: &mut World, image: &str) {
    let (at, template) = (world.deployment("app"), template(image, None));
    world.webhook = Webhook::Gone;
    world.edit(&at, |d| d["spec"]["template"] = template).unwrap();
    world.webhook = Webhook::Up;
}

/// B-11 while a gate is asked: it is asked about what is there.
#[test]
fn a_hold_is_put_right_while_its_gate_is_closed() {
    let mut world = World::initialised(canary(&[("gate", "confirm-rollout")]));
    world.answers.hook("gate", 403);
    world.update("v2");
    world.until_phase(Phase::Waiting);
    forge(&mut world, "v9");
    world.run(1);
    assert_eq!(world.key(keys::HOLD), Some(revision("v9").as_str()), "{}", world.tail());
    assert_eq!(world.status().run.unwrap().revision, revision("v9").as_str());
}

/// B-11 between the gate and the release: law I1 sees a release of what the hold does not name.
#[test]
fn a_hold_is_put_right_before_the_release() {
    let mut world = World::initialised(canary(&[]));
    world.update("v2");
    world.until_weight(40);
    world.update("v3");
    world.until("releasing", |w| stage(w) == Some(Stage::Releasing));
    forge(&mut world, "v9");
    world.until_over(Phase::Succeeded);
    assert_eq!((world.image("app-primary").as_str(), world.has_said("InterlockBypassed")), ("v9", false));
}

/// B-11 at rest: another template under the hold of a failed one is not that one.
#[test]
fn a_template_under_the_hold_of_a_failed_one_is_analysed() {
    let mut world = World::initialised(canary(&[]));
    world.answers.success_rate("1");
    world.update("v2");
    world.until_over(Phase::Failed);
    world.answers.success_rate("100");
    forge(&mut world, "v9");
    world.until_over(Phase::Succeeded);
    assert_eq!(world.image("app-primary"), "v9");
}

/// I3 and I9: a primary that loses a pod gets no more traffic back, and nothing has succeeded.
#[test]
fn nothing_goes_on_while_the_promoted_primary_lacks_a_pod() {
    for (at, before) in [(Stage::Returning, Phase::Promoting), (Stage::Finalising, Phase::Finalising)] {
        let mut object = canary(&[]);
        object["spec"]["analysis"]["stepWeightPromotion"] = 30.into();
        let mut world = World::initialised(object);
        world.update("v2");
        world.until("the stage", |w| stage(w) == Some(at));
        let weight = world.weight();
        world.set_ready("app-primary", false, 1);
        world.run(30);
        assert_eq!((world.status().phase, world.weight()), (before, weight), "{}", world.tail());
        world.set_ready("app-primary", true, 1);
        world.until_over(Phase::Succeeded);
    }
}

/// §5.13: the primary goes when routes and apex Service have led to the target for the drain delay, whoever writes into
/// the routes meanwhile.
#[test]
fn leaving_drains_the_primary_before_it_goes() {
    for disturbed in [false, true] {
        let mut world = World::initialised(canary(&[]));
        let at = world.canary.clone();
        let apex = ObjectRef::new(Kind::Service, "test", "app");
        let at_target = |w: &World| w.cluster.get(&apex).unwrap()["spec"]["selector"]["app"] == "app";
        world.delete(&at);
        let gone = |w: &World| w.primary().is_none_or(|p| p["metadata"].get("deletionTimestamp").is_some());
        world.until("the traffic on the target", |w| w.weight() == 100 && at_target(w));
        assert!(world.target_pods().ready(world.cluster.now) == 2 && !gone(&world));
        world.run(3);
        if disturbed {
            world.set_route(0);
            world.run(3);
            assert_eq!(world.weight(), 100);
        }
        assert!(!gone(&world), "{}", world.tail());
        world.until("the Canary to go", |w| w.cluster.get(&w.canary).is_none());
        assert!(gone(&world) && at_target(&world) && world.target_pods().ready(world.cluster.now) == 2);
    }
}

/// The same for clients of the apex Service alone.
#[test]
fn leaving_gives_clients_of_the_apex_their_time() {
    let mut world = World::initialised(canary(&[]));
    let (at, apex) = (world.canary.clone(), ObjectRef::new(Kind::Service, "test", "app"));
    world.delete(&at);
    world.until("weight 100", |w| w.weight() == 100);
    world.run(4);
    world.webhook = Webhook::Gone;
    let label = keys::CANARY;
    world
        .edit(&apex, |s| {
            s["spec"]["selector"]["app"] = "app-primary".into();
            s["metadata"]["labels"][label] = "app".into();
        })
        .unwrap();
    world.run(3);
    assert_eq!(world.cluster.get(&apex).unwrap()["spec"]["selector"]["app"], "app");
    assert_eq!(world.primary_pods().ready(world.cluster.now), 2, "{}", world.tail());
    world.until("the Canary to go", |w| w.cluster.get(&w.canary).is_none());
}

/// I9: an outcome is stated when its pods are on their way out, not before.
#[test]
fn an_outcome_is_stated_after_the_scale_down() {
    for (rate, image, phase) in [("1", "v2", Phase::Failed), ("100", "v1", Phase::Succeeded)] {
        let mut world = World::initialised(canary(&[]));
        world.update("v2");
        world.until_weight(20);
        world.answers.success_rate(rate);
        world.update(image);
        world.until_over(phase);
        let scaled = world.written.iter().rposition(|(w, _)| scaled_to(w) == Some(0));
        let stated = world.written.iter().position(
            |(w, _)| matches!(w, Write::ReplaceStatus { object } if object["status"]["phase"] == phase.as_str()),
        );
        assert!(scaled.is_some() && scaled < stated, "{scaled:?} {stated:?}\n{}", world.tail());
    }
}

/// §5.8: the checks that failed count together, also where the run starts over.
#[test]
fn a_canary_that_loses_its_pods_again_is_rolled_back() {
    let mut world = World::initialised(canary(&[]));
    world.update("v2");
    world.until_weight(40);
    world.set_ready("app", false, 2);
    world.run(1);
    world.set_ready("app", true, 2);
    world.until_weight(20);
    world.set_ready("app", false, 2);
    world.run(20);
    assert_eq!(world.status().phase, Phase::Failed, "{}", world.tail());
}

/// §5.5: kubectl can pause a generated Deployment; a promotion is not stopped by that.
#[test]
fn a_paused_primary_is_promoted_all_the_same() {
    let mut world = World::initialised(canary(&[]));
    let at = world.deployment("app-primary");
    world.edit(&at, |d| d["spec"]["paused"] = true.into()).unwrap();
    world.update("v2");
    world.until_over(Phase::Succeeded);
    assert_eq!(world.primary_pods().revisions().len(), 1);
}

/// §5.1: keys that somebody planted before the adoption mean nothing after it.
#[test]
fn adoption_takes_planted_keys_off() {
    let mut object = deployment("v1", None, Some(2));
    for key in [keys::HOLD, keys::FAILED, keys::GLASSED, keys::PAUSED_BEFORE] {
        object["metadata"]["annotations"][key] = "planted".into();
    }
    object["metadata"]["finalizers"] = serde_json::json!([keys::TRAFFIC_FINALIZER]);
    let mut world = World::applied(object, canary(&[]));
    world.until_over(Phase::Initialized);
    let found = keys::ANNOTATIONS.map(|key| world.key(key).is_some());
    assert_eq!(found.into_iter().filter(|is| *is).count(), 2, "promoted and requested-replicas");
    assert_eq!(world.target().unwrap()["metadata"]["finalizers"], serde_json::json!([]));
}

/// §5.6: back to the promoted revision from a failed one is no run.
#[test]
fn a_revert_at_rest_starts_no_run() {
    let mut world = World::initialised(canary(&[]));
    world.answers.success_rate("1");
    world.update("v2");
    world.until_over(Phase::Failed);
    world.update("v1");
    world.until_over(Phase::Succeeded);
    assert_eq!(world.times_said("New revision"), 1);
}

/// §5.6: what arrives while a revert is cleared up is analysed, not cleared with it.
#[test]
fn a_revision_that_arrives_during_a_cancellation_is_analysed() {
    let mut world = World::initialised(canary(&[]));
    world.update("v2");
    world.until_weight(40);
    world.update("v1");
    world.until("cancelling", |w| stage(w) == Some(Stage::Cancelling));
    world.update("v3");
    world.until_over(Phase::Succeeded);
    assert_eq!((world.image("app-primary").as_str(), world.has_said("InterlockBypassed")), ("v3", false));
}

/// I3: a canary that has had no weight yet gets none for want of a primary.
#[test]
fn an_untried_canary_does_not_stand_in_for_the_primary() {
    let mut world = World::initialised(canary(&[("accept", "pre-rollout")]));
    world.answers.hook("accept", 403);
    world.update("v2");
    world.until("analysing", |w| stage(w) == Some(Stage::Analysing));
    world.set_ready("app-primary", false, 2);
    world.run(5);
    assert_eq!(world.weight(), 0, "{}", world.tail());
}

/// §5.7: the Deployment's own progress deadline is heard, where it is the shorter one.
#[test]
fn a_promotion_ends_with_the_progress_deadline_of_the_deployment() {
    let of = |image: &str, ready| {
        let mut object = deployment(image, ready, Some(2));
        object["spec"]["progressDeadlineSeconds"] = 20.into();
        object
    };
    let mut world = World::applied(of("v1", None), canary(&[]));
    world.until_phase(Phase::Initialized);
    world.apply(of("v2", Some("canaryonly")));
    world.until("promoting", |w| stage(w) == Some(Stage::Promoting));
    world.run(30);
    assert_ne!(stage(&world), Some(Stage::Promoting), "{}", world.tail());
    world.until_over(Phase::Failed);
}

/// I8: steps back, too, are an interval apart, whenever the process dies.
#[test]
fn steps_back_are_an_interval_apart_whenever_the_process_dies() {
    let mut object = canary(&[]);
    object["spec"]["analysis"]["stepWeightPromotion"] = 20.into();
    let mut ready = World::initialised(object);
    ready.update("v2");
    ready.until_weight(60);
    for (write, after) in (1..9).flat_map(|n| [(n, false), (n, true)]) {
        let mut world = ready.fork();
        world.arm(Fuse { write, after });
        let (mut weight, mut fell) = (60, Vec::new());
        world.until("the end", |w| {
            if w.weight() < weight {
                fell.push(w.cluster.now);
            }
            weight = w.weight();
            w.status().phase == Phase::Succeeded
        });
        let close = fell.windows(2).any(|f| f[1].duration_since(f[0]) < jiff::SignedDuration::from_secs(10));
        assert!(fell.len() == 3 && !close, "write {write}: {fell:?}\n{}", world.tail());
    }
}
