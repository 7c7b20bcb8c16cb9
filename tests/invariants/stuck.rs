//! Nothing gets stuck: fixes get through, waits end, and what is deleted together leaves nothing behind.

use serde_json::json;
use sidetrack::api::keys;
use sidetrack::api::status::{Phase, Stage};
use sim::World;
use sim::faults::Fault;
use sim::manifests::{canary, deployment, in_place};
use sim::world::{Fuse, revision};

fn conditions(world: &World) -> Vec<String> {
    world.status().conditions.iter().map(|c| format!("{}={}", c.type_, c.status)).collect()
}

fn stage(world: &World) -> Option<Stage> {
    world.status().run.map(|run| run.stage)
}

/// With no pod of the primary ready, a person breaks the glass over the fix: it is what the primary is written to.
#[test]
fn a_break_glass_gets_through_while_the_primary_is_down() {
    let mut world = World::initialised(canary(&[]));
    world.set_ready("app-primary", false, 2);
    world.run(30);
    world.break_glass("v2").unwrap();
    world.until("the primary is written", |w| w.image("app-primary") == "v2");
    world.set_ready("app-primary", true, 2);
    world.until_over(Phase::Succeeded);
    assert_eq!((world.image("app-primary").as_str(), world.weight()), ("v2", 0));
    assert_eq!(world.key(keys::HOLD), None);
}

/// The same while a promotion does not come to its end.
#[test]
fn a_break_glass_gets_through_a_promotion_that_hangs() {
    let mut world = World::initialised(canary(&[]));
    world.update("v2");
    world.until("the promotion", |w| stage(w) == Some(Stage::Promoting));
    world.set_ready("app-primary", false, 2);
    world.run(5);
    world.break_glass("v3").unwrap();
    world.until("the primary is written", |w| w.image("app-primary") == "v3");
    world.set_ready("app-primary", true, 2);
    world.until("v3 serves", |w| {
        w.status().phase == Phase::Succeeded
            && w.status().revisions.primary.as_deref() == Some(revision("v3").as_str())
    });
}

/// A revision that is held while the primary has no pod may be its fix: it is analysed, and named meanwhile.
#[test]
fn a_fix_is_analysed_while_the_primary_is_down() {
    for canary in [canary(&[]), in_place(&[])] {
        let mut world = World::initialised(canary);
        let primary = world.names.primary.clone();
        world.set_ready(&primary, false, 2);
        world.run(30);
        world.update("v2");
        let canary_pods = world.names.canary_deployment.clone();
        world.until("its pods", |w| {
            w.canary_pods().ready(w.cluster.now) == 2 && w.replicas(&canary_pods) == 2
        });
        world.until("the promotion", |w| w.image(&primary) == "v2" && stage(w) == Some(Stage::Promoting));
        world.set_ready(&primary, true, 2);
        world.until_over(Phase::Succeeded);
    }
}

/// While some of the primary's pods serve, the held revision waits, and status names it.
#[test]
fn what_is_held_is_named_while_the_primary_is_mended() {
    let mut world = World::initialised(canary(&[]));
    world.set_ready("app-primary", false, 1);
    world.update("v2");
    world.run(30);
    let said = world.ready_message();
    assert!(said.contains(&format!("Revision {} is held", revision("v2"))), "{said}");
    // Neither Flux nor Helm nor `kubectl wait` takes that for done.
    assert_eq!(conditions(&world), ["Promoted=Unknown", "Ready=Unknown", "Reconciling=True"]);
    world.set_ready("app-primary", true, 2);
    world.until_over(Phase::Succeeded);
}

/// `helm uninstall`, `kubectl delete -f`, a namespace: Deployment and Canary in either order, at any stage.
#[test]
fn what_is_deleted_together_leaves_nothing_behind() {
    for canary in [canary(&[("gate", "confirm-promotion")]), in_place(&[("gate", "confirm-promotion")])] {
        for target_first in [true, false] {
            for seconds in [0, 1, 3, 8, 14, 31, 60] {
                let mut world = World::initialised(canary.clone());
                world.answers.hook("gate", 403);
                world.update("v2");
                world.run(seconds);
                let both = [world.deployment("app"), world.canary.clone()];
                let (first, second) = if target_first { (0, 1) } else { (1, 0) };
                world.delete(&both[first]);
                world.delete(&both[second]);
                let gone = |w: &World| both.iter().all(|at| w.cluster.get(at).is_none());
                world.until("both to go", gone);
                world.run(30);
                let left: Vec<String> = world
                    .cluster
                    .objects
                    .iter()
                    .filter(|(_, object)| {
                        object["metadata"]["finalizers"].to_string().contains("sidetrack.dev")
                    })
                    .map(|(at, _)| at.to_string())
                    .collect();
                assert!(left.is_empty(), "after {seconds} s: {left:?}\n{}", world.tail());
            }
        }
    }
}

fn recreated() -> World {
    let mut target = deployment("v1", None, Some(2));
    target["spec"]["strategy"] = json!({"type": "Recreate"});
    let mut world = World::applied(target, canary(&[]));
    world.until_phase(Phase::Initialized);
    world
}

fn strategy(world: &mut World, image: &str) {
    let mut target = deployment(image, None, None);
    target["spec"]["strategy"] = json!({"type": "Recreate"});
    world.apply(target);
}

/// A newer revision, or a revert, that comes while the primary's traffic has left it (strategy Recreate).
#[test]
fn what_comes_while_the_primary_is_cleared_ends_that() {
    for next in ["v3", "v1"] {
        let mut world = recreated();
        strategy(&mut world, "v2");
        world.until("the clearing", |w| stage(w) == Some(Stage::Clearing));
        strategy(&mut world, next);
        world.until_over(Phase::Succeeded);
        assert_eq!((world.image("app-primary").as_str(), world.weight()), (next, 0));
    }
}

/// A first revision that never becomes ready is replaced by the next one.
#[test]
fn a_first_revision_that_never_becomes_ready_is_replaced() {
    for canary in [canary(&[]), in_place(&[])] {
        let mut world = World::applied(deployment("v1", Some("never"), Some(2)), canary);
        world.run(90);
        assert_eq!(world.status().phase, Phase::Initializing);
        world.update("v2");
        world.until_phase(Phase::Initialized);
        world.until("rest", World::at_rest);
        assert_eq!(
            world.status().revisions.primary.as_deref(),
            Some(revision("v2").as_str()),
            "{}",
            world.tail()
        );
        assert_eq!(world.image(&world.names.primary.clone()), "v2");
        world.update("v3");
        world.until_over(Phase::Succeeded);
    }
}

/// Leaving before anything has served keeps what its owner wants now.
#[test]
fn leaving_never_writes_a_broken_template_over_the_users() {
    for canary in [canary(&[]), in_place(&[])] {
        for seconds in [0, 1, 30] {
            let mut world = World::applied(deployment("v1", Some("never"), Some(2)), canary.clone());
            world.run(40);
            world.update("v2");
            world.run(seconds);
            let at = world.canary.clone();
            world.delete(&at);
            world.until("the Canary to go", |w| w.cluster.get(&at).is_none());
            assert_eq!(world.image("app"), "v2", "{}", world.tail());
            assert!(world.target().unwrap()["spec"].get("paused").is_none_or(|paused| *paused == false));
        }
    }
}

/// A gate that is asked is the one that answers: an edit of the Canary in between makes everything be asked anew.
#[test]
fn an_edit_of_the_canary_ends_the_tick() {
    let hooks = [("load", "rollout"), ("slow", "rollout"), ("gate", "confirm-promotion")];
    let mut world = World::initialised(canary(&hooks));
    world.answers.hook("gate", 403);
    world.answers.hook("slow", 200);
    world.answers.hooks.get_mut("slow").unwrap().delay = jiff::SignedDuration::from_secs(8);
    world.update("v2");
    world.until_weight(60);
    world.until("slow is asked", |w| w.answers.calls.iter().filter(|c| c.to.contains("slow")).count() >= 3);
    let mut edited = canary(&[("slow", "rollout"), ("gate", "confirm-promotion")]);
    edited["metadata"].as_object_mut().unwrap().remove("annotations");
    world.apply(edited);
    world.run(60);
    let asked = world.answers.calls.iter().any(|c| c.to.contains("gate"));
    assert!(asked && world.image("app-primary") == "v1", "the gate was passed unasked\n{}", world.tail());
}

/// One pod and any threshold below 100: nobody is not enough.
#[test]
fn a_threshold_is_never_of_nobody() {
    let mut canary = canary(&[]);
    canary["spec"]["analysis"]["canaryReadyThreshold"] = 50.into();
    let mut world = World::applied(deployment("v1", None, Some(1)), canary);
    world.until_phase(Phase::Initialized);
    world.update_with("v2", Some("slow")).unwrap();
    world.run(14);
    assert_eq!((world.weight(), world.status().failed_checks), (0, 0), "{}", world.tail());
}

/// The stored template of the promoted revision is what a failed promotion writes back: a lost one is stored again at rest.
#[test]
fn a_lost_stored_template_is_stored_again() {
    for canary in [canary(&[]), in_place(&[])] {
        let mut world = World::initialised(canary);
        world.update("v2");
        world.until_over(Phase::Succeeded);
        let name = format!("app-{}", revision("v2").short());
        let at = sidetrack::object::ObjectRef::new(sidetrack::object::Kind::ControllerRevision, "test", name);
        world.delete(&at);
        world.until("it is stored again", |w| w.cluster.get(&at).is_some());
    }
}

/// A hook that cannot be read is no hook that has passed.
#[test]
fn a_canary_that_cannot_be_read_whole_is_refused() {
    let mut odd = canary(&[("gate", "confirm-rollout")]);
    odd["spec"]["analysis"]["webhooks"][0]["type"] = "confirm-everything".into();
    let mut world = World::with(odd);
    world.run(30);
    let stalled = world.status().conditions.into_iter().find(|c| c.type_ == "Stalled");
    assert!(stalled.is_some_and(|c| c.message.contains("spec.analysis.webhooks[0]")));
    let mut lenient = canary(&[("gate", "confirm-rollout")]);
    lenient["spec"]["analysis"]["webhooks"][0]["retries"] = json!(1.5);
    let mut world = World::initialised(lenient);
    world.answers.hook("gate", 403);
    world.update("v2");
    world.until_phase(Phase::Waiting);
    world.run(60);
    assert_eq!(world.image("app-primary"), "v1");
}

/// The owner's Service is his again also where its target is gone by the time the Canary goes.
#[test]
fn an_adopted_service_is_given_back_without_its_target_too() {
    for target_first in [true, false] {
        let mut world = World::empty("test", "app", "app", None);
        world.apply(deployment("v1", None, Some(2)));
        world.apply(sim::manifests::service(&json!({"app": "app"})));
        world.run(5);
        world.note_others();
        world.apply(canary(&[]));
        world.until_phase(Phase::Initialized);
        world.update("v2");
        world.until_weight(20);
        let both = [world.deployment("app"), world.canary.clone()];
        world.delete(&both[usize::from(!target_first)]);
        world.delete(&both[usize::from(target_first)]);
        world.until("both to go", |w| both.iter().all(|at| w.cluster.get(at).is_none()));
        world.run(30);
        world.all_is_given_back();
    }
}

/// Leaving does not hang on a stored template that somebody deleted: the primary, or a ReplicaSet, has it as well.
#[test]
fn leaving_gets_by_without_a_stored_template() {
    for canary in [canary(&[]), in_place(&[])] {
        let mut world = World::initialised(canary);
        world.update("v2");
        world.until_weight(20);
        let stored: Vec<_> = world
            .cluster
            .objects
            .keys()
            .filter(|at| at.kind == sidetrack::object::Kind::ControllerRevision)
            .cloned()
            .collect();
        world.kill();
        stored.iter().for_each(|at| world.delete(at));
        world.start();
        let at = world.canary.clone();
        world.delete(&at);
        world.until("the Canary to go", |w| w.cluster.get(&at).is_none());
        assert_eq!(world.image("app"), "v1", "{}", world.tail());
    }
}

/// Whoever waits for `Promoted` waits from the first moment on, also for a gate that has not answered yet; and what has no
/// target any more is not vouched for.
#[test]
fn promoted_is_never_ahead_of_the_truth() {
    for canary in [canary(&[("gate", "confirm-rollout")]), in_place(&[("gate", "confirm-rollout")])] {
        let mut world = World::initialised(canary);
        assert_eq!(conditions(&world)[..2], ["Promoted=True", "Ready=True"]);
        world.answers.hook("gate", 403);
        world.answers.hooks.get_mut("gate").unwrap().delay = jiff::SignedDuration::from_secs(8);
        world.update("v2");
        world.until("the gate is asked", |w| stage(w) == Some(Stage::Gated));
        assert_eq!(conditions(&world), ["Promoted=Unknown", "Ready=Unknown", "Reconciling=True"]);
        let target = world.deployment("app");
        world.delete(&target);
        world.until("it says so", |w| w.ready_message().contains("Deployment app does not exist"));
        assert!(!conditions(&world).contains(&"Promoted=True".to_owned()), "{:?}", conditions(&world));
    }
}

/// They are applied in any order: a Canary that waits for its Deployment says so.
#[test]
fn a_canary_without_a_target_says_what_it_waits_for() {
    let mut world = World::empty("test", "app", "app", None);
    world.apply(canary(&[]));
    world.until("it says so", |w| w.ready_message() == "Deployment app does not exist yet.");
    world.apply(deployment("v1", None, Some(2)));
    world.until_phase(Phase::Initialized);
}

/// A break-glass cuts a promotion short, and is replaced before it has passed: the primary is not left half-way.
#[test]
fn a_promotion_that_a_break_glass_cut_short_leaves_no_half_written_primary() {
    let mut world = World::initialised(canary(&[("gate", "confirm-rollout")]));
    world.update_with("v3", Some("canaryonly")).unwrap();
    world.until("the promotion", |w| stage(w) == Some(Stage::Promoting));
    world.break_glass("v2").unwrap();
    world.until("the break-glass is taken up", |w| {
        w.status().run.is_some_and(|run| run.revision == revision("v2").as_str())
    });
    world.update_with("v4", Some("canaryonly")).unwrap();
    world.until_over(Phase::Failed);
    assert_eq!(world.image("app-primary"), "v1");
    world.update("v5");
    world.until_over(Phase::Succeeded);
}

/// What is stated of the weight at rest is the route's, whatever was refused on the way.
#[test]
fn a_write_that_was_refused_leaves_no_weight_in_status() {
    let mut world = World::initialised(canary(&[]));
    world.meets(3, Fault::Refused, 1);
    let primary = world.deployment("app-primary");
    world.delete(&primary);
    world.until("it is made again", |w| w.times_said("is gone, it is made again") == 1);
    world.until("rest", World::at_rest);
    assert_eq!((world.weight(), world.status().canary_weight), (0, 0));
}

/// The status of a run that starts over is refused: its weight comes back, and is looked at for a whole interval.
#[test]
fn a_weight_that_comes_back_is_judged_by_a_whole_interval() {
    let mut world = World::initialised(canary(&[]));
    world.update("v2");
    world.until_weight(60);
    world.run(8);
    world.meets(2, Fault::Refused, 1);
    world.set_ready("app", false, 2);
    world.run_until(1, |w| w.weight() == 0);
    world.set_ready("app", true, 2);
    world.until_weight(60);
    let back = world.cluster.now;
    assert!(!world.has_said("were changed to canary weight 0"), "nobody else did");
    world.until("the promotion", |w| stage(w) == Some(Stage::Promoting));
    assert!(world.cluster.now.duration_since(back) >= jiff::SignedDuration::from_secs(10));
}

/// The process died before it had written what passed, and its pods failed meanwhile: that is not promoted.
#[test]
fn what_fails_before_the_primary_is_written_is_not_promoted() {
    for canary in [canary(&[]), in_place(&[])] {
        let mut world = World::initialised(canary);
        let (pods, primary) = (world.names.canary_deployment.clone(), world.names.primary.clone());
        world.update("v2");
        world.until_weight(60);
        world.run(8);
        world.arm(Fuse { write: 1, after: true });
        world.until("it dies", |w| w.process.is_none());
        // In place what is held stands in the very Deployment.
        let written = if world.names.in_place() {
            world.key(keys::HOLD).is_none()
        } else {
            world.image(&primary) == "v2"
        };
        assert_eq!((stage(&world), written), (Some(Stage::Promoting), false));
        world.set_ready(&pods, false, 2);
        world.until("the analysis starts over", |w| stage(w) == Some(Stage::Releasing));
        world.set_ready(&pods, true, 2);
        world.until_over(Phase::Succeeded);
        assert_eq!(world.image(&primary), "v2");
    }
}
