//! A process that dies at any write: the next one comes to the same end.

use serde_json::{Value, json};
use sidetrack::api::status::{Phase, RequestOutcome};
use sidetrack::api::{Verb, keys};
use sidetrack::rollout::model::gates::{Guard, Turn};
use sim::World;
use sim::cluster::Defaults;
use sim::manifests::{by_replicas, canary, deployment, in_place};
use sim::world::{Fuse, revision};

/// What is left when all is over.
fn end(world: &World) -> Value {
    let status = world.status();
    json!({
        "phase": status.phase.as_str(), "revisions": status.revisions, "run": status.run.is_some(),
        "weights": [world.weight(), status.canary_weight], "failedChecks": status.failed_checks,
        "images": [world.image("app"), world.image(world.names.generated())],
        "replicas": [world.replicas("app"), world.replicas(world.names.generated())],
        "keys": keys::ANNOTATIONS.map(|key| world.key(key).unwrap_or_default().to_owned()),
        "target": world.target().map(|t| [&t["metadata"]["finalizers"], &t["metadata"]["labels"], &t["spec"]["paused"]]),
        "objects": world.cluster.objects.keys().map(ToString::to_string).collect::<Vec<_>>(),
        "promotions": world.laws.promotions.len(),
    })
}

/// Kills the process before and after each write that `story` makes, and compares the ends.
fn survives(begin: impl Fn() -> World, story: impl Fn(&mut World)) {
    let ready = begin();
    let mut undisturbed = ready.fork();
    let before = undisturbed.writes;
    story(&mut undisturbed);
    let (writes, wanted) = (undisturbed.writes - before, end(&undisturbed));
    assert!(writes > 2, "{writes} writes");
    for write in 1..=writes {
        for after in [false, true] {
            let mut world = ready.fork();
            world.arm(Fuse { write, after });
            story(&mut world);
            let got = end(&world);
            if got != wanted {
                world.fail(&format!(
                    "killed {} write {write}:\n{got:#}\ninstead of\n{wanted:#}",
                    if after { "after" } else { "before" }
                ));
            }
        }
    }
}

fn ready() -> World {
    World::initialised(canary(&[("gate", "confirm-rollout"), ("report", "post-rollout")]))
}

fn ready_in_place() -> World {
    World::initialised(in_place(&[("gate", "confirm-rollout"), ("report", "post-rollout")]))
}

fn ready_by_replicas() -> World {
    World::initialised(by_replicas(&[("gate", "confirm-rollout"), ("smoke", "pre-rollout")]))
}

#[test]
fn stories_in_place_survive_a_crash_at_any_write() {
    for story in stories_in_place() {
        survives(ready_in_place, story);
    }
}

#[test]
fn stories_by_replicas_survive_a_crash_at_any_write() {
    for story in stories_in_place() {
        survives(ready_by_replicas, story);
    }
}

fn stories_in_place() -> [fn(&mut World); 6] {
    [
        |world| {
            world.update("v2");
            world.until_over(Phase::Succeeded);
        },
        |world| {
            world.answers.success_rate("1");
            world.update("v2");
            world.until_over(Phase::Failed);
        },
        |world| {
            world.update("v2");
            world.until_weight(40);
            world.update("v3");
            world.until_over(Phase::Succeeded);
        },
        |world| {
            world.update("v2");
            world.until_weight(40);
            world.update("v1");
            world.until_over(Phase::Succeeded);
        },
        |world| {
            world.break_glass("v2").unwrap();
            world.until_over(Phase::Succeeded);
        },
        |world| {
            world.update("v2");
            world.until_weight(40);
            let canary = world.canary.clone();
            world.delete(&canary);
            world.until("the Canary to go", |w| w.cluster.get(&w.canary).is_none());
            world.run(10);
        },
    ]
}

/// A place in line and an approval are kept through crashes, and spent once.
#[test]
fn what_a_policy_holds_survives_a_crash_at_any_write() {
    for ready in [ready as fn() -> World, ready_in_place] {
        let held = || {
            let mut world = ready();
            world.guarded(Guard { approval: true, turn: turn(false), ..Guard::default() });
            world
        };
        survives(held, |world| {
            world.update("v2");
            world.until_phase(Phase::Waiting);
            world.request(Verb::Approve, &revision("v2"), "1");
            world.until("a place in line", |w| w.status().queued.is_some());
            world.guarded(Guard { turn: turn(true), ..world.guard.clone() });
            world.until_over(Phase::Succeeded);
        });
    }
}

fn turn(granted: bool) -> Option<Turn> {
    Some(Turn { granted, limit: "one at a time".into() })
}

#[test]
fn initialisation_survives_a_crash_at_any_write() {
    survives(
        || World::empty("test", "app", "app", None),
        |world| {
            world.apply(deployment("v1", None, Some(2)));
            world.apply(canary(&[]));
            world.until_over(Phase::Initialized);
        },
    );
}

#[test]
fn success_survives_a_crash_at_any_write() {
    survives(ready, |world| {
        world.update("v2");
        world.until_over(Phase::Succeeded);
        assert!(world.has_said("Promotion completed!"));
    });
}

#[test]
fn a_promotion_in_steps_survives_a_crash_at_any_write() {
    let begin = || {
        let mut object = canary(&[]);
        object["spec"]["analysis"]["stepWeightPromotion"] = json!(30);
        World::initialised(object)
    };
    survives(begin, |world| {
        world.update("v2");
        world.until_over(Phase::Succeeded);
    });
}

#[test]
fn a_recreate_promotion_survives_a_crash_at_any_write() {
    let begin = || {
        let mut object = deployment("v1", None, Some(2));
        object["spec"]["strategy"] = json!({"type": "Recreate"});
        let mut world = World::applied(object, canary(&[]));
        world.until_phase(Phase::Initialized);
        world
    };
    survives(begin, |world| {
        world.update("v2");
        world.until_over(Phase::Succeeded);
    });
}

#[test]
fn a_rollback_survives_a_crash_at_any_write() {
    survives(ready, |world| {
        world.answers.success_rate("1");
        world.update("v2");
        world.until_over(Phase::Failed);
    });
}

#[test]
fn a_supersede_survives_a_crash_at_any_write() {
    survives(ready, |world| {
        world.update("v2");
        world.until("weight 40", |w| w.weight() == 40);
        world.update("v3");
        world.until_over(Phase::Succeeded);
    });
}

#[test]
fn a_revert_survives_a_crash_at_any_write() {
    survives(ready, |world| {
        world.update("v2");
        world.until_weight(40);
        world.update("v1");
        world.until_over(Phase::Succeeded);
    });
}

#[test]
fn a_failed_promotion_survives_a_crash_at_any_write() {
    survives(ready, |world| {
        world.update_with("v2", Some("canaryonly")).unwrap();
        world.until_over(Phase::Failed);
    });
}

#[test]
fn other_defaults_survive_a_crash_at_any_write() {
    let failed = || {
        let mut world = ready();
        world.answers.success_rate("1");
        world.update("v2");
        world.until_over(Phase::Failed);
        world
    };
    let story = |world: &mut World| {
        let phase = world.status().phase;
        world.upgrade(Defaults::Newer);
        world.until_over(phase);
        assert!(!world.has_said("InterlockBypassed"));
    };
    survives(ready, story);
    survives(failed, story);
}

#[test]
fn a_promotion_on_request_survives_a_crash_at_any_write() {
    survives(ready, |world| {
        world.answers.hook("gate", 403);
        world.update("v2");
        world.until_phase(Phase::Waiting);
        world.request(Verb::Promote, &revision("v2"), "1");
        world.until_over(Phase::Succeeded);
    });
}

#[test]
fn an_abort_survives_a_crash_at_any_write() {
    survives(ready, |world| {
        world.update("v2");
        world.until("weight 40", |w| w.weight() == 40);
        world.request(Verb::Abort, &revision("v2"), "1");
        world.until_over(Phase::Failed);
        assert!(world.has_said("asked to abort"));
    });
}

#[test]
fn a_retry_and_a_restart_survive_a_crash_at_any_write() {
    let failed = || {
        let mut world = ready();
        world.answers.success_rate("1");
        world.update("v2");
        world.until_over(Phase::Failed);
        world.answers.success_rate("100");
        world
    };
    survives(failed, |world| {
        world.request(Verb::Restart, &revision("v1"), "1");
        world.until("the restart", |w| w.answered().is_some_and(|a| a.outcome == RequestOutcome::Taken));
        world.request(Verb::Retry, &revision("v2"), "2");
        world.until_over(Phase::Succeeded);
    });
}

#[test]
fn leaving_survives_a_crash_at_any_write() {
    survives(ready, |world| {
        world.update("v2");
        world.until_weight(40);
        let at = world.canary.clone();
        world.delete(&at);
        world.until("the Canary to go", |w| w.cluster.get(&w.canary).is_none());
        world.run(10);
    });
}
