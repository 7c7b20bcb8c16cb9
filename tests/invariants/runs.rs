//! Runs that nobody disturbs, and the quiet between them.

use serde_json::json;
use sidetrack::api::keys;
use sidetrack::api::status::{Condition, Phase, Stage};
use sidetrack::object::ObjectRef;
use sim::World;
use sim::manifests::{canary, deployment};
use sim::world::revision;

#[test]
fn a_healthy_revision_is_promoted() {
    let mut world = World::initialised(canary(&[("load", "rollout")]));
    assert_eq!((world.replicas("app"), world.replicas("app-primary")), (0, 2));
    world.update("v2");
    world.until_over(Phase::Succeeded);
    assert_eq!(world.image("app-primary"), "v2");
    assert_eq!((world.replicas("app"), world.replicas("app-primary"), world.weight()), (0, 2, 0));
    let status = world.status();
    assert_eq!(status.revisions.primary.as_deref(), Some(revision("v2").as_str()));
    assert_eq!(world.key(keys::PROMOTED), Some(revision("v2").as_str()));
    for law in ["I1", "I2", "I3", "I4", "I8", "I9"] {
        assert!(world.laws.applied.get(law).is_some_and(|n| *n > 0), "{law} was never applied");
    }
}

#[test]
fn a_rejected_revision_stays_held_until_a_person_retries_it() {
    let mut world = World::initialised(canary(&[]));
    world.answers.success_rate("50");
    world.update("v2");
    world.until_over(Phase::Failed);
    assert_eq!((world.image("app-primary").as_str(), world.replicas("app"), world.weight()), ("v1", 0, 0));
    assert_eq!(world.key(keys::FAILED), world.key(keys::HOLD));
    world.answers.success_rate("100");
    let said = "was rejected (Metric request-success-rate: Halt app.test advancement success rate 50.00% < 99%), the primary";
    let stalled = |w: &World| w.status().conditions.into_iter().find(|c| c.type_ == "Stalled");
    assert!(stalled(&world).is_some_and(|c| c.message.contains(said)), "{:?}", stalled(&world));
    let writes = world.writes;
    world.run(120);
    assert_eq!(world.writes, writes, "a failed revision is tried again unasked");
    world.retry().unwrap();
    world.until_over(Phase::Succeeded);
    assert_eq!(world.image("app-primary"), "v2");
}

/// The sentence outlives what is done after the verdict, and what is written later.
#[test]
fn why_a_revision_was_rejected_stays_in_status() {
    let mut world = World::initialised(canary(&[("tell", "post-rollout")]));
    world.answers.success_rate("50");
    world.update("v2");
    world.until_over(Phase::Failed);
    world.edit_canary("/spec/analysis/threshold", json!(9));
    world.run(60);
    let named = |c: &Condition| c.type_ == "Stalled" && c.message.contains("Metric request-success-rate");
    let status = world.status();
    assert!(status.run.is_none() && status.conditions.iter().any(named), "{status:?}");
}

/// §5.4: a Deployment's status counts pods that are on their way out until their ReplicaSet has seen the scale-down.
#[test]
fn a_retry_waits_until_the_pods_of_the_run_before_are_gone() {
    let mut world = World::initialised(canary(&[]));
    world.answers.success_rate("50");
    world.update("v2");
    world.until("the rollback's hold", |w| w.key(keys::FAILED).is_some());
    world.workloads.asleep = true;
    world.until_over(Phase::Failed);
    world.answers.success_rate("100");
    world.retry().unwrap();
    world.run(30);
    assert!(world.key(keys::HOLD).is_some() && world.replicas("app") == 0, "{}", world.tail());
    world.workloads.asleep = false;
    world.until_over(Phase::Succeeded);
    assert_eq!(world.image("app-primary"), "v2");
}

/// v2 is promoted, and the target's pods, asked to go, are still counted.
fn losing_pods() -> World {
    let mut world = World::initialised(canary(&[]));
    world.update("v2");
    world.until("the scale-down", |w| w.status().run.is_some_and(|run| run.stage == Stage::Finalising));
    world.workloads.asleep = true;
    world.until("no pods asked for", |w| w.replicas("app") == 0);
    world
}

/// A new ReplicaSet starts from none, whatever is still counted of the one before.
#[test]
fn another_revision_does_not_wait_for_those_pods() {
    let mut world = losing_pods();
    world.until("the end of the run", |w| w.status().run.is_none());
    world.update("v3");
    world.until("pods asked for", |w| w.replicas("app") == 2);
    world.run(30);
    assert_eq!(world.weight(), 0, "nothing of v3 is ready yet");
    world.workloads.asleep = false;
    world.until_over(Phase::Succeeded);
    assert_eq!(world.image("app-primary"), "v3");
}

#[test]
fn a_target_that_is_just_losing_its_pods_does_not_take_the_traffic_over() {
    let mut world = losing_pods();
    let canary = world.canary.clone();
    world.delete(&canary);
    world.run(30);
    assert_eq!((world.replicas("app"), world.weight()), (0, 0), "{}", world.tail());
    world.workloads.asleep = false;
    world.until("the Canary to go", |w| w.cluster.get(&w.canary).is_none());
}

#[test]
fn steps_are_taken_an_interval_apart_from_listed_weights() {
    let mut object = canary(&[]);
    object["spec"]["analysis"].as_object_mut().unwrap().remove("stepWeight");
    object["spec"]["analysis"]["stepWeights"] = json!([1, 10, 80]);
    object["spec"]["analysis"]["stepWeightPromotion"] = json!(50);
    let mut world = World::initialised(object);
    world.update("v2");
    let mut seen = Vec::new();
    world.until("the end", |w| {
        if seen.last() != Some(&w.weight()) {
            seen.push(w.weight());
        }
        w.status().phase == Phase::Succeeded
    });
    assert_eq!(seen, [0, 1, 10, 80, 30, 0]);
}

#[test]
fn skipped_analysis_promotes_when_the_canary_is_ready() {
    let mut world = World::initialised(canary(&[]));
    world.edit_canary("/spec/skipAnalysis", json!(true));
    world.update("v2");
    world.until_over(Phase::Succeeded);
    assert_eq!((world.image("app-primary").as_str(), world.answers.queries.len()), ("v2", 1));
}

#[test]
fn break_glass_promotes_without_analysis_and_never_at_weight() {
    let mut world = World::initialised(canary(&[("gate", "confirm-rollout")]));
    world.answers.hook("gate", 403);
    world.update("v2");
    world.until_phase(Phase::Waiting);
    world.break_glass("v3").unwrap();
    world.until_over(Phase::Succeeded);
    assert_eq!(world.image("app-primary"), "v3");
    let told = format!("revision {} of app.test was promoted without analysis: outage", revision("v3"));
    assert_eq!(world.times_said(&told), 1, "{}", world.tail());
}

#[test]
fn recreate_is_promoted_with_its_traffic_on_the_canary() {
    let mut object = deployment("v1", None, Some(2));
    object["spec"]["strategy"] = json!({"type": "Recreate"});
    let mut world = World::applied(object, canary(&[]));
    world.until_phase(Phase::Initialized);
    world.update("v2");
    let mut full = false;
    world.until("the end", |w| {
        full |= w.weight() == 100;
        w.status().phase == Phase::Succeeded
    });
    assert!(full);
    assert_eq!(world.image("app-primary"), "v2");
}

/// I6, and "everything idle is free".
#[test]
fn re_applying_the_same_manifest_changes_nothing() {
    for replicas in [Some(2), None] {
        let mut world = World::applied(deployment("v1", None, replicas), canary(&[]));
        world.until_over(Phase::Initialized);
        for image in ["v1", "v2"] {
            world.apply(deployment(image, None, replicas));
            let phase = if image == "v1" { Phase::Initialized } else { Phase::Succeeded };
            world.until_over(phase);
            // The first re-apply takes back the fields that others came to own; from then on nothing moves.
            world.apply(deployment(image, None, replicas));
            world.until_over(phase);
            let (version, writes) = (world.cluster.version(), world.writes);
            for _ in 0..3 {
                world.apply(deployment(image, None, replicas));
                world.apply(canary(&[]));
                world.run(60);
            }
            assert_eq!((world.cluster.version(), world.writes), (version, writes), "{}", world.tail());
        }
    }
}

#[test]
fn a_process_that_starts_at_rest_has_nothing_to_do() {
    let mut world = World::initialised(canary(&[]));
    let check = |world: &mut World| {
        let writes = world.writes;
        world.kill();
        world.start();
        world.run(60);
        assert_eq!(world.writes, writes, "{}", world.tail());
    };
    check(&mut world);
    world.update("v2");
    world.until_over(Phase::Succeeded);
    check(&mut world);
    world.answers.success_rate("1");
    world.update("v3");
    world.until_over(Phase::Failed);
    check(&mut world);
}

/// an unforced server-side apply must not meet a field of ours.
#[test]
fn at_rest_no_field_of_the_targets_spec_is_ours() {
    let mut world = World::initialised(canary(&[]));
    let owns = |world: &World| {
        let entries = world.target().unwrap()["metadata"]["managedFields"].as_array().unwrap().clone();
        entries.iter().any(|e| e["manager"] == keys::FIELD_MANAGER && e["fieldsV1"].get("f:spec").is_some())
    };
    assert!(!owns(&world));
    world.update("v2");
    world.until_weight(40);
    assert!(!owns(&world), "while the canary runs");
    world.until_over(Phase::Succeeded);
    assert!(!owns(&world));
    world.answers.success_rate("1");
    world.update("v3");
    world.until_over(Phase::Failed);
    assert!(!owns(&world));
}

/// However soon the Deployment controller sees a release: once it has seen it without pods, to it the rollout is
/// over, and its own progress deadline never passes.
#[test]
fn a_revision_that_never_becomes_ready_is_rejected_within_its_deadline() {
    for write in 1..8 {
        let mut world = World::initialised(canary(&[]));
        let mut slow = deployment("v2", Some("never"), None);
        slow["spec"]["progressDeadlineSeconds"] = json!(30);
        world.after_write(write, |w| while w.workloads.round(&mut w.cluster) {});
        world.apply(slow);
        assert!(
            world.run_until(45, |w| w.status().phase == Phase::Failed),
            "write {write}: {}",
            world.tail()
        );
    }
}

/// The Deployment controller's verdict on the revision before lasts into the next one's release.
#[test]
fn a_deadline_that_the_revision_before_exceeded_is_not_the_next_ones() {
    let mut world = World::initialised(canary(&[]));
    let mut slow = deployment("v2", Some("never"), None);
    slow["spec"]["progressDeadlineSeconds"] = json!(30);
    world.apply(slow);
    world.until_over(Phase::Failed);
    world.apply(deployment("v3", None, None));
    world.until("the end of v3", |w| {
        w.at_rest() && w.status().last_applied_spec != w.status().last_promoted_spec
            || w.image("app-primary") == "v3"
    });
    assert_eq!(world.image("app-primary"), "v3", "{}", world.tail());
}

#[test]
fn an_analysis_that_is_wanted_again_while_the_gate_is_shut_takes_place() {
    let mut world = World::initialised(canary(&[("gate", "confirm-rollout")]));
    world.edit_canary("/spec/skipAnalysis", json!(true));
    world.answers.hook("gate", 403);
    world.update("v2");
    world.until_phase(Phase::Waiting);
    world.edit_canary("/spec/skipAnalysis", json!(false));
    world.answers.hook("gate", 200);
    world.until_weight(20);
}

#[test]
fn a_route_that_is_not_accepted_halts_the_analysis_and_counts_nothing() {
    let mut object = canary(&[]);
    object["spec"]["provider"] = json!("gatewayapi:v1");
    object["spec"]["service"]["gatewayRefs"] = json!([{"name": "gateway", "namespace": "edge"}]);
    let mut world = World::initialised(object);
    world.answers.metrics = vec![("histogram_quantile".into(), json!("0.05")), (String::new(), json!("100"))];
    world.update("v2");
    world.until_weight(20);
    let at = ObjectRef::new(sidetrack::router::HTTP_ROUTE, "test", "app");
    let accept = |world: &mut World, status: &str| {
        let mut route = world.cluster.get(&at).cloned().unwrap();
        route["status"]["parents"] = json!([{
            "parentRef": {"name": "gateway", "namespace": "edge"},
            "conditions": [{"type": "Accepted", "status": status, "observedGeneration": route["metadata"]["generation"]}],
        }]);
        world.cluster.store(&at, route, None);
    };
    accept(&mut world, "False");
    world.run(45);
    assert_eq!((world.weight(), world.status().failed_checks), (20, 0));
    assert!(world.has_said("HTTPRoute app.test parent gateway is not ready (status: False"));
    accept(&mut world, "True");
    world.until_weight(40);
}

#[test]
fn checks_that_failed_on_the_way_are_still_told_at_the_end() {
    let mut world = World::initialised(canary(&[]));
    world.update("v2");
    world.until_weight(20);
    world.answers.success_rate("50");
    world.until("a failed check", |w| w.status().failed_checks == 1);
    world.answers.success_rate("100");
    world.until_over(Phase::Succeeded);
    assert_eq!(world.status().failed_checks, 1);
    world.update("v3");
    world.until_phase(Phase::Progressing);
    assert_eq!(world.status().failed_checks, 0);
}

/// Whoever waits for the Deployment by kstatus waits for the release: from before the first pod to the last word.
#[test]
fn the_target_says_that_a_release_goes_on_for_as_long_as_one_does() {
    for (rate, end) in [("100", Phase::Succeeded), ("1", Phase::Failed)] {
        let mut world = World::initialised(canary(&[]));
        world.answers.success_rate(rate);
        world.update("v2");
        let announced = |w: &World| {
            let conditions = w.target().unwrap().pointer("/status/conditions").cloned();
            conditions
                .is_some_and(|all| all.as_array().unwrap().iter().any(|c| c["type"] == keys::RECONCILING))
        };
        world.until("the end", |w| {
            let (pods, over) = (!w.target_pods().revisions().is_empty(), w.status().run.is_none());
            assert!(announced(w) || !pods || over, "pods in a run, and nobody is told");
            assert!(!over || w.status().phase == end || !announced(w), "announced before its run");
            over && w.status().phase == end
        });
        world.until("rest", |w| w.at_rest() && !announced(w));
    }
}
