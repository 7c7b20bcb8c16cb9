//! The applied Deployment stays the primary.

use serde_json::json;
use sidetrack::api::keys;
use sidetrack::api::status::Phase;
use sidetrack::object::{Kind, ObjectRef};
use sim::World;
use sim::cluster::Defaults;
use sim::manifests::{deployment, in_place};
use sim::world::revision;
use sim::writers::Webhook;

fn made(world: &World) -> bool {
    world.cluster.get(&world.deployment("app-canary")).is_some()
}

fn service_of_the_owner() -> serde_json::Value {
    sim::manifests::service(&json!({"app": "app"}))
}

#[test]
fn adopting_restarts_nothing_and_writes_no_service_of_the_owner() {
    let world = World::initialised(in_place(&[]));
    assert_eq!((world.replicas("app"), world.image("app").as_str(), made(&world)), (2, "v1", false));
    let at = |kind, name: &str| ObjectRef::new(kind, "test", name);
    let service = world.cluster.get(&at(Kind::Service, "app")).unwrap();
    assert_eq!(
        (&service["spec"], &service["metadata"]["resourceVersion"]),
        (&service_of_the_owner()["spec"], &json!("1"))
    );
    assert!(world.cluster.get(&at(Kind::Deployment, "app-primary")).is_none());
    for (name, label) in [("app-primary", "app"), ("app-canary", "app-canary")] {
        assert_eq!(world.cluster.get(&at(Kind::Service, name)).unwrap()["spec"]["selector"]["app"], label);
    }
    assert_eq!(world.key(keys::PROMOTED), Some(revision("v1").as_str()));
}

#[test]
fn a_healthy_revision_is_analysed_beside_the_primary_and_then_rolls() {
    let mut world = World::initialised(in_place(&[("load", "rollout"), ("gate", "confirm-rollout")]));
    world.update("v2");
    world.until_weight(20);
    assert_eq!(world.primary_pods().revisions(), [&revision("v1")], "the primary's pods stay");
    assert!(made(&world) && world.canary_pods().ready(world.cluster.now) == 2);
    world.until_over(Phase::Succeeded);
    assert_eq!((world.weight(), world.replicas("app"), made(&world)), (0, 2, false));
    assert_eq!(world.primary_pods().revisions(), [&revision("v2")]);
    assert_eq!(world.key(keys::PROMOTED), Some(revision("v2").as_str()));
    assert!(world.target().unwrap()["spec"].get("paused").is_none());
    for law in ["I1", "I2", "I3", "I4", "I8", "I9"] {
        assert!(world.laws.applied.get(law).is_some_and(|n| *n > 0), "{law} was never applied");
    }
}

#[test]
fn a_rejected_revision_stays_held_and_the_next_one_is_tried() {
    let mut world = World::initialised(in_place(&[]));
    world.answers.success_rate("50");
    world.update("v2");
    world.until_over(Phase::Failed);
    assert_eq!((world.key(keys::FAILED), made(&world)), (Some(revision("v2").as_str()), false));
    assert_eq!(world.primary_pods().revisions(), [&revision("v1")]);
    let writes = world.writes;
    world.run(120);
    assert_eq!(world.writes, writes, "a failed revision is tried again unasked");
    world.answers.success_rate("100");
    world.update("v3");
    world.until_over(Phase::Succeeded);
    assert_eq!(world.primary_pods().revisions(), [&revision("v3")]);
}

#[test]
fn a_rejected_revision_is_tried_again_when_a_person_asks() {
    let mut world = World::initialised(in_place(&[]));
    world.answers.success_rate("50");
    world.update("v2");
    world.until_over(Phase::Failed);
    world.answers.success_rate("100");
    world.retry().unwrap();
    world.until_over(Phase::Succeeded);
    assert_eq!(world.primary_pods().revisions(), [&revision("v2")]);
}

#[test]
fn a_newer_revision_gets_a_canary_of_its_own() {
    let mut world = World::initialised(in_place(&[]));
    world.update("v2");
    world.until_weight(40);
    world.update("v3");
    world.until_weight(20);
    assert_eq!(world.image("app-canary"), "v3");
    world.until_over(Phase::Succeeded);
    assert_eq!(world.laws.promotions, [revision("v3")]);
}

/// Interlock §4, rule 5: the webhook lets a revert run, and needs no controller for it.
#[test]
fn a_revert_ends_the_release_also_while_nobody_is_there() {
    for dead in [false, true] {
        let mut world = World::initialised(in_place(&[]));
        world.update("v2");
        world.until_weight(40);
        if dead {
            world.kill();
        }
        world.update("v1");
        assert!(world.key(keys::HOLD).is_none() && world.target().unwrap()["spec"].get("paused").is_none());
        if dead {
            world.run(60);
            assert_eq!(world.primary_pods().revisions(), [&revision("v1")]);
            world.start();
        }
        world.until_over(Phase::Succeeded);
        assert_eq!((world.weight(), made(&world)), (0, false));
        assert_eq!(world.status().revisions.primary.as_deref(), Some(revision("v1").as_str()));
    }
}

#[test]
fn a_revert_while_the_primary_rolls_lets_it_roll_back() {
    let mut world = World::initialised(in_place(&[]));
    world.update_with("v2", Some("generatedonly")).unwrap();
    world.until_phase(Phase::Promoting);
    world.until("the deadline", |w| w.ready_message().contains("is late"));
    assert!(world.primary_pods().ready(world.cluster.now) >= 1, "the old pods serve");
    world.update("v1");
    world.until_over(Phase::Succeeded);
    assert_eq!(world.primary_pods().revisions(), [&revision("v1")]);
    assert!(!made(&world));
}

/// Interlock §5.6: the primary stays mixed while the newer revision is analysed against it.
#[test]
fn a_newer_revision_stops_a_roll_and_status_says_so() {
    let mut world = World::initialised(in_place(&[]));
    world.update_with("v2", Some("generatedonly")).unwrap();
    world.until_phase(Phase::Promoting);
    world.until("the deadline", |w| w.ready_message().contains("is late"));
    world.answers.success_rate("50");
    world.update("v3");
    world.until_over(Phase::Failed);
    let mixed = world.status().revisions.mixed;
    assert!(mixed.is_some() && world.ready_message().contains("mixed"), "{}", world.ready_message());
    world.answers.success_rate("100");
    let mut undone = world.fork();
    undone.update("v1");
    undone.until_over(Phase::Succeeded);
    let status = undone.status();
    assert_eq!((status.revisions.mixed, status.revisions.failed), (None, None));
    assert_eq!(undone.primary_pods().revisions(), [&revision("v1")]);
    world.update("v4");
    world.until_over(Phase::Succeeded);
    assert_eq!((world.status().revisions.mixed, world.primary_pods().revisions().len()), (None, 1));
}

/// I9: what was rejected is not told for ever of an application that runs what Git says.
#[test]
fn a_revert_of_a_rejected_revision_is_a_success() {
    let mut world = World::initialised(in_place(&[]));
    world.answers.success_rate("50");
    world.update("v2");
    world.until_over(Phase::Failed);
    world.update("v1");
    world.until_over(Phase::Succeeded);
    assert_eq!(world.ready_message(), format!("The primary runs revision {}.", revision("v1")));
    let writes = world.writes;
    world.run(600);
    assert_eq!((world.writes, world.has_said("Scaling up app-canary.test")), (writes, true));
}

#[test]
fn the_owner_scales_as_ever_while_a_revision_is_held() {
    let mut world = World::initialised(in_place(&[]));
    world.answers.success_rate("50");
    world.update("v2");
    world.until_over(Phase::Failed);
    for pods in [5, 1, 3] {
        world.scale("app", pods).unwrap();
        world.run(20);
        let ready = world.primary_pods().ready(world.cluster.now);
        assert_eq!(
            (i64::try_from(ready).unwrap(), world.primary_pods().revisions()),
            (i64::from(pods), vec![&revision("v1")])
        );
    }
}

/// F-7: a paused Deployment without pods would start the held template, or the revision that ran last.
#[test]
fn scaling_up_from_nothing_starts_the_promoted_revision() {
    for (first, held) in [("v2", "v3"), ("v2", "v2")] {
        let mut world = World::initialised(in_place(&[]));
        world.update(first);
        world.until_over(Phase::Succeeded);
        world.update("v1");
        world.until_over(Phase::Succeeded);
        world.answers.success_rate("50");
        world.update(held);
        world.until_over(Phase::Failed);
        world.scale("app", 0).unwrap();
        world.run(20);
        assert!(world.primary_pods().revisions().is_empty());
        world.scale("app", 2).unwrap();
        world.run(20);
        assert_eq!(world.primary_pods().revisions(), [&revision("v1")], "{}", world.tail());
    }
}

#[test]
fn a_release_waits_until_the_application_has_pods() {
    let mut world = World::initialised(in_place(&[]));
    world.scale("app", 0).unwrap();
    world.run(20);
    world.update("v2");
    world.run(60);
    assert!(world.ready_message().contains("scaled to 0") && !made(&world), "{}", world.ready_message());
    world.scale("app", 2).unwrap();
    world.until_over(Phase::Succeeded);
    assert_eq!(world.primary_pods().revisions(), [&revision("v2")]);
}

#[test]
fn break_glass_rolls_at_once_and_is_noted_when_it_is_complete() {
    for weight in [None, Some(40)] {
        let mut world = World::initialised(in_place(&[]));
        if let Some(weight) = weight {
            world.update("v2");
            world.until_weight(weight);
        }
        world.break_glass("v3").unwrap();
        assert!(world.key(keys::HOLD).is_none());
        world.until_over(Phase::Succeeded);
        assert_eq!((world.primary_pods().revisions(), made(&world)), (vec![&revision("v3")], false));
        assert_eq!(world.key(keys::PROMOTED), Some(revision("v3").as_str()));
        assert_eq!(world.times_said("was promoted without analysis: outage"), 1, "{}", world.tail());
    }
}

#[test]
fn what_came_in_past_the_webhook_is_held_and_analysed() {
    for weight in [None, Some(40)] {
        let mut world = World::initialised(in_place(&[]));
        if let Some(weight) = weight {
            world.update("v2");
            world.until_weight(weight);
        }
        world.webhook = Webhook::Gone;
        world.update("v3");
        world.webhook = Webhook::Up;
        if weight.is_none() {
            world.until("a report", |w| w.has_said("InterlockBypassed"));
        }
        world.until_over(Phase::Succeeded);
        assert_eq!((world.primary_pods().revisions(), made(&world)), (vec![&revision("v3")], false));
    }
}

/// Interlock §5.13: whenever its Canary goes, the application is a plain Deployment on the right revision.
#[test]
fn leaving_at_any_moment_leaves_a_plain_deployment() {
    type Moment = (&'static str, fn(&mut World));
    let moments: [Moment; 7] = [
        ("v1", |_| {}),
        ("v1", |w| w.update("v2")),
        ("v1", |w| {
            w.update("v2");
            w.until_weight(40);
        }),
        ("v2", |w| {
            w.update("v2");
            w.until_phase(Phase::Promoting);
        }),
        ("v1", |w| {
            w.answers.success_rate("50");
            w.update("v2");
            w.until_over(Phase::Failed);
        }),
        ("v1", |w| {
            w.update("v2");
            w.until_weight(20);
            w.update("v3");
        }),
        ("v2", |w| {
            w.update("v2");
            w.until_phase(Phase::Finalising);
        }),
    ];
    for (i, (image, moment)) in moments.into_iter().enumerate() {
        let mut world = World::initialised(in_place(&[]));
        moment(&mut world);
        let canary = world.canary.clone();
        world.delete(&canary);
        world.until("the Canary to go", |w| w.cluster.get(&w.canary).is_none());
        world.run(30);
        let target = world.target().unwrap();
        let left = target["metadata"].to_string();
        let ours =
            keys::ANNOTATIONS.iter().chain(&keys::LABELS).find(|key| left.contains(&format!("\"{key}\"")));
        assert_eq!((i, ours, target["spec"].get("paused")), (i, None, None), "{}", world.tail());
        assert_eq!((i, world.primary_pods().revisions(), made(&world)), (i, vec![&revision(image)], false));
        assert_eq!(world.primary_pods().ready(world.cluster.now), 2);
    }
}

#[test]
fn a_canary_that_somebody_deletes_is_left_and_made_again() {
    let mut world = World::initialised(in_place(&[]));
    world.update("v2");
    world.until_weight(40);
    let at = world.deployment("app-canary");
    world.delete(&at);
    world.until("weight 0", |w| w.weight() == 0);
    world.until_over(Phase::Succeeded);
    assert_eq!(world.primary_pods().revisions(), [&revision("v2")]);
}

/// The owner deletes the Deployment, or Flux re-creates it by force, while a revision is analysed.
#[test]
fn a_deployment_that_is_made_again_goes_on_from_what_was_promoted() {
    let mut world = World::initialised(in_place(&[]));
    world.update("v2");
    world.until_weight(40);
    let at = world.deployment("app");
    world.delete(&at);
    world.run(5);
    world.apply(deployment("v2", None, Some(2)));
    world.until_weight(20);
    assert_eq!(world.primary_pods().revisions(), [&revision("v1")]);
    world.until_over(Phase::Succeeded);
    assert_eq!((world.weight(), made(&world)), (0, false), "{}", world.tail());
    assert_eq!(world.key(keys::PROMOTED), Some(revision("v2").as_str()));
    world.update("v3");
    world.until_over(Phase::Succeeded);
    assert_eq!(world.primary_pods().revisions(), [&revision("v3")]);
}

#[test]
fn re_applying_changes_nothing() {
    let mut world = World::initialised(in_place(&[]));
    world.update("v2");
    world.until_over(Phase::Succeeded);
    let manifest = deployment("v2", None, Some(2));
    world.apply(manifest.clone());
    world.run(60);
    let writes = world.writes;
    for _ in 0..5 {
        world.apply(manifest.clone());
        world.run(60);
    }
    assert_eq!(world.writes, writes);
    assert!(world.fresh_process_has_nothing_to_do());
}

#[test]
fn a_service_that_would_select_the_canary_is_refused() {
    let service = |selector: serde_json::Value| {
        serde_json::json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "test", "name": "app"},
            "spec": {"selector": selector, "ports": [{"port": 80}]}})
    };
    let mut target = deployment("v1", None, Some(2));
    target["spec"]["template"]["metadata"]["labels"]["tier"] = "web".into();
    let mut world = World::applied(target, in_place(&[]));
    world.apply(service(serde_json::json!({"tier": "web"})));
    world.run(10);
    assert!(world.ready_message().contains("add app: app to its selector"), "{}", world.ready_message());
    assert!(world.key(keys::PROMOTED).is_none(), "nothing is touched");
    world.apply(service(serde_json::json!({"tier": "web", "app": "app"})));
    world.until_phase(Phase::Initialized);
}

/// Interlock §5.1: only what is unpaused and has pods of one revision is adopted.
#[test]
fn adopting_waits_for_a_roll_and_for_a_pause_and_not_for_pods() {
    let begin = |edit: fn(&mut serde_json::Value)| {
        let mut target = deployment("v1", None, Some(2));
        edit(&mut target);
        World::applied(target, in_place(&[]))
    };
    let mut paused = begin(|target| target["spec"]["paused"] = true.into());
    paused.run(30);
    assert!(paused.ready_message().contains("is paused by its owner"), "{}", paused.ready_message());
    paused.pause(false).unwrap();
    paused.until_phase(Phase::Initialized);

    let mut rolling =
        begin(|target| target["spec"]["template"]["metadata"]["labels"]["ready"] = "slow".into());
    rolling.until("its pods", |w| w.primary_pods().ready(w.cluster.now) == 2);
    rolling.until_phase(Phase::Initialized);
    assert_eq!(rolling.replicas("app"), 2);

    let mut empty = begin(|target| target["spec"]["replicas"] = 0.into());
    empty.until_phase(Phase::Initialized);
    assert_eq!((empty.replicas("app"), empty.key(keys::PROMOTED)), (0, Some(revision("v1").as_str())));
}

#[test]
fn a_restart_is_no_release_and_one_that_is_held_waits_with_its_template() {
    let mut world = World::initialised(in_place(&[]));
    world.restart("app").unwrap();
    world.run(30);
    assert!(world.key(keys::HOLD).is_none() && !world.has_said("New revision detected!"));
    world.answers.success_rate("50");
    world.update("v2");
    world.until_over(Phase::Failed);
    world.restart("app").unwrap();
    world.run(30);
    assert_eq!(world.primary_pods().revisions(), [&revision("v1")], "what is held stays held");
}

#[test]
fn with_other_defaults_the_promoted_revision_still_comes_back_from_nothing() {
    let mut world = World::initialised(in_place(&[("gate", "confirm-rollout")]));
    world.answers.hook("gate", 403);
    world.upgrade(Defaults::Newer);
    world.update("v2");
    world.run(5);
    world.scale("app", 0).unwrap();
    world.run(20);
    world.scale("app", 2).unwrap();
    world.run(20);
    assert_eq!(world.primary_pods().ready(world.cluster.now), 2, "{}", world.tail());
}

/// Half of the pods are of a revision that does not work here: the fix does not wait for them.
#[test]
fn a_fix_is_analysed_against_a_primary_that_its_roll_has_broken() {
    for late in [false, true] {
        let mut world = World::initialised(in_place(&[]));
        world.update_with("v2", Some("generatedonly")).unwrap();
        world.until_phase(Phase::Promoting);
        if late {
            world.until("the deadline", |w| w.ready_message().contains("is late"));
        }
        world.scale("app", 3).unwrap();
        world.run(5);
        world.update("v3");
        world.until_over(Phase::Succeeded);
        assert_eq!(world.primary_pods().revisions(), [&revision("v3")]);
    }
}

#[test]
fn the_promoted_revision_is_let_run_whoever_put_it_back() {
    let mut world = World::initialised(in_place(&[]));
    world.answers.success_rate("50");
    world.update("v2");
    world.until_over(Phase::Failed);
    world.webhook = Webhook::Gone;
    world.update("v1");
    world.webhook = Webhook::Up;
    world.until_over(Phase::Succeeded);
    assert!(world.key(keys::HOLD).is_none() && world.target().unwrap()["spec"].get("paused").is_none());
}

/// An autoscaler knows the primary only: what it adds there during a release, the canary gets as well.
#[test]
fn a_canary_begins_with_the_pods_of_the_primary_and_follows_it() {
    let mut canary = in_place(&[]);
    canary["spec"]["autoscalerRef"] = serde_json::json!({"kind": "HorizontalPodAutoscaler", "name": "app"});
    let mut world = World::applied(deployment("v1", None, Some(5)), canary);
    world.apply(serde_json::json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"namespace": "test", "name": "app"},
        "spec": {"minReplicas": 2, "maxReplicas": 20, "scaleTargetRef": {"kind": "Deployment", "name": "app"}},
    }));
    world.until_phase(Phase::Initialized);
    world.update("v2");
    world.until_weight(40);
    assert_eq!(world.replicas("app-canary"), 5);
    world.scale("app", 8).unwrap();
    world.until("as many pods", |w| w.canary_pods().ready(w.cluster.now) == 8);
    world.scale("app", 3).unwrap();
    world.run(3);
    assert_eq!(world.replicas("app-canary"), 8, "what has weight is not taken away");
    world.until_over(Phase::Succeeded);
    assert_eq!((world.status().failed_checks, world.replicas("app")), (0, 3));
}

/// A Deployment is made again (a restore, `kubectl replace --force`, a deletion and Git): what runs is what was promoted, and
/// what it says now is analysed as any other revision.
#[test]
fn a_target_made_again_with_another_template_runs_the_promoted_one() {
    for (rate, phase, runs) in [("100", Phase::Succeeded, "v2"), ("50", Phase::Failed, "v1")] {
        for late in [0, 30] {
            let mut world = World::initialised(in_place(&[]));
            world.answers.success_rate(rate);
            let at = world.deployment("app");
            world.delete(&at);
            world.run(5);
            // Our process is down while it comes up, or not.
            if late > 0 {
                world.kill();
            }
            world.apply(deployment("v2", None, Some(2)));
            world.run(late);
            if late > 0 {
                assert_eq!(world.primary_pods().revisions(), [&revision("v2")], "nobody could hold it");
                world.start();
            }
            world.until("v2 is analysed beside v1", |w| w.weight() > 0 || w.status().phase == Phase::Failed);
            assert_eq!(world.primary_pods().revisions(), [&revision("v1")]);
            world.until_over(phase);
            assert_eq!(world.primary_pods().revisions(), [&revision(runs)]);
            assert_eq!(world.status().revisions.taken_back, None);
        }
    }
}

/// What is saved while a revision is held says that it is held: made again from that it does not run for a moment.
#[test]
fn a_rejected_revision_that_is_restored_stays_out() {
    let mut world = World::initialised(in_place(&[]));
    world.answers.success_rate("50");
    world.update("v2");
    world.until_over(Phase::Failed);
    let mut saved = world.target().unwrap().clone();
    let at = world.deployment("app");
    world.delete(&at);
    world.run(5);
    for field in ["uid", "resourceVersion", "generation", "creationTimestamp", "managedFields"] {
        saved["metadata"].as_object_mut().unwrap().remove(field);
    }
    saved.as_object_mut().unwrap().remove("status");
    world.apply(saved);
    for _ in 0..60 {
        world.run(1);
        assert!(!world.primary_pods().revisions().contains(&&revision("v2")));
    }
    world.until_over(Phase::Failed);
    assert_eq!(world.primary_pods().revisions(), [&revision("v1")]);
    assert_eq!(world.key(keys::HOLD), Some(revision("v2").as_str()));
}

/// A backup has the Deployment, the stored templates and the Canary, whose status is not restored.
#[test]
fn a_backup_without_status_brings_the_promoted_revision_back() {
    let mut world = World::initialised(in_place(&[]));
    world.answers.success_rate("50");
    world.update("v2");
    world.until_over(Phase::Failed);
    let mut saved = world.target().unwrap().clone();
    let (at, canary) = (world.deployment("app"), world.canary.clone());
    world.kill();
    world.delete(&at);
    let mut bare = world.cluster.get(&canary).unwrap().clone();
    bare.as_object_mut().unwrap().remove("status");
    world.cluster.store(&canary, bare, None);
    for field in ["uid", "resourceVersion", "generation", "creationTimestamp", "managedFields"] {
        saved["metadata"].as_object_mut().unwrap().remove(field);
    }
    saved.as_object_mut().unwrap().remove("status");
    world.apply(saved);
    world.start();
    for _ in 0..60 {
        world.run(1);
        assert!(!world.primary_pods().revisions().contains(&&revision("v2")), "{}", world.tail());
    }
    assert_eq!(world.primary_pods().revisions(), [&revision("v1")]);
    world.until_over(Phase::Failed);
}
