//! In place and without a router: the share of the traffic is the ratio of pods in the owner's Service.

use serde_json::json;
use sidetrack::api::keys;
use sidetrack::api::status::{Phase, Share, ShareBy};
use sidetrack::object::{Kind, ObjectRef};
use sim::World;
use sim::cluster::text;
use sim::manifests::{by_replicas, deployment, service};
use sim::world::revision;

/// The application with this many pods.
fn of(pods: i32, hooks: &[(&str, &str)]) -> World {
    let mut world = World::applied(deployment("v1", None, Some(pods)), by_replicas(hooks));
    world.until_phase(Phase::Initialized);
    world
}

fn made(world: &World) -> bool {
    world.cluster.get(&world.deployment("app-canary")).is_some()
}

fn at(kind: Kind, name: &str) -> ObjectRef {
    ObjectRef::new(kind, "test", name)
}

/// The ready pods of the owner's Service: the canary's share of them.
fn share(world: &World) -> i64 {
    world.shares().unwrap().canary
}

#[test]
fn a_healthy_revision_gets_its_share_by_the_number_of_its_pods() {
    let mut world = of(6, &[("smoke", "pre-rollout"), ("gate", "confirm-rollout")]);
    let theirs = world.cluster.get(&at(Kind::Service, "app")).cloned();
    assert!(world.cluster.get(&at(Kind::Service, "app-primary")).is_none());
    let own = world.cluster.get(&at(Kind::Service, "app-canary")).unwrap();
    assert_eq!(own["spec"]["selector"], json!({keys::PODS: "app"}));

    world.update("v2");
    world.until("a canary", |w| w.canary_pods().ready(w.cluster.now) == 1);
    assert_eq!((share(&world), world.weight()), (0, 0), "without requests so far");
    // 20 and 40 % of seven and ten pods, and then half of all.
    for (step, pods, percent) in [(20, 1, 14), (40, 4, 40), (60, 6, 50)] {
        world.until_weight(step);
        world.until("its pods", |w| share(w) == percent && w.status().run.unwrap().awaits.is_none());
        assert_eq!(world.canary_pods().ready(world.cluster.now), pods);
        let status = world.status();
        let step = i32::try_from(step).unwrap();
        let percent = i32::try_from(percent).unwrap();
        let canary = i32::try_from(pods).unwrap();
        assert_eq!(
            (status.share, status.canary_weight, status.run.as_ref().unwrap().weight),
            (Some(Share { by: ShareBy::Replicas, step, percent, canary, primary: 6 }), percent, step)
        );
        let said =
            format!("{canary} of {} ready pods are the canary's: {percent} % (step {step}).", 6 + canary);
        assert!(world.ready_message().ends_with(&said), "{}", world.ready_message());
    }
    assert_eq!(world.primary_pods().revisions(), [&revision("v1")], "the primary's pods stay");
    world.until_over(Phase::Succeeded);
    assert_eq!((world.status().share, world.status().canary_weight, made(&world)), (None, 0, false));
    assert_eq!((world.primary_pods().revisions(), world.replicas("app")), (vec![&revision("v2")], 6));
    assert_eq!(world.status().failed_checks, 0);
    assert_eq!(world.cluster.get(&at(Kind::Service, "app")).cloned(), theirs);
    for law in ["I1", "I2", "I3", "I4", "I8", "I9"] {
        assert!(world.laws.applied.get(law).is_some_and(|n| *n > 0), "{law} was never applied");
    }
}

#[test]
fn a_revision_that_no_hook_has_passed_gets_no_request() {
    let mut world = of(2, &[("smoke", "pre-rollout")]);
    world.answers.hook("smoke", 500);
    world.update("v2");
    while world.status().phase != Phase::Failed {
        assert_eq!(share(&world), 0);
        world.step(world.cluster.now + jiff::SignedDuration::from_secs(1));
    }
    world.until_over(Phase::Failed);
    assert!(!made(&world));
}

#[test]
fn a_rejected_revision_leaves_the_service_and_the_next_is_tried() {
    let mut world = of(2, &[]);
    world.answers.success_rate("50");
    world.update("v2");
    world.until_over(Phase::Failed);
    assert_eq!(
        (world.key(keys::FAILED), made(&world), share(&world)),
        (Some(revision("v2").as_str()), false, 0)
    );
    assert_eq!((world.status().share, world.status().canary_weight), (None, 0));
    world.answers.success_rate("100");
    world.update("v3");
    world.until_over(Phase::Succeeded);
    assert_eq!(world.primary_pods().revisions(), [&revision("v3")]);
}

#[test]
fn a_newer_revision_and_a_revert_end_the_release() {
    let mut world = of(4, &[]);
    world.update("v2");
    world.until_weight(40);
    world.update("v3");
    world.until_weight(20);
    assert_eq!(world.image("app-canary"), "v3");
    world.update("v1");
    world.until_over(Phase::Succeeded);
    assert_eq!((share(&world), made(&world)), (0, false));
    assert_eq!(world.primary_pods().revisions(), [&revision("v1")]);
}

/// Pods take their time at each step: that is no failed check, and a step lasts an interval from when they are there.
#[test]
fn pods_of_a_step_are_awaited() {
    let mut world = of(6, &[]);
    world.update_with("v2", Some("slow")).unwrap();
    let mut steps = Vec::new();
    for weight in [20, 40, 60] {
        world.until_weight(weight);
        steps.push(world.cluster.now);
        assert!(
            world.ready_message().contains("Pods of the canary are awaited."),
            "{}",
            world.ready_message()
        );
    }
    let apart = steps.windows(2).map(|pair| pair[1].duration_since(pair[0]).as_secs());
    assert!(apart.clone().all(|seconds| seconds >= 25), "{:?}", apart.collect::<Vec<_>>());
    world.until_over(Phase::Succeeded);
    assert_eq!(world.status().failed_checks, 0);
}

/// Half of one pod is none: a threshold does not let a canary on that nobody has seen ready.
#[test]
fn one_pod_at_least_must_be_ready() {
    let mut canary = by_replicas(&[("smoke", "pre-rollout")]);
    canary["spec"]["analysis"]["canaryReadyThreshold"] = json!(50);
    let mut world = World::applied(deployment("v1", None, Some(2)), canary);
    world.until_phase(Phase::Initialized);
    world.update_with("v2", Some("slow")).unwrap();
    world.until_weight(20);
    assert!(world.canary_pods().ready(world.cluster.now) == 1, "{}", world.tail());
    world.until_over(Phase::Succeeded);
    assert_eq!(world.status().failed_checks, 0);
}

#[test]
fn pods_that_do_not_come_are_given_up_at_the_deadline() {
    let mut world = of(2, &[]);
    world.update_with("v2", Some("detachedonly")).unwrap();
    world.until_weight(20);
    let begun = world.cluster.now;
    world.until_over(Phase::Failed);
    let took = world.status().last_transition_time.unwrap().duration_since(begun).as_secs();
    assert!((59..70).contains(&took) && world.status().failed_checks == 0, "{took} s");
    assert_eq!((made(&world), share(&world)), (false, 0));
}

#[test]
fn the_number_of_pods_follows_the_primary_and_not_somebody_else() {
    let mut world = of(4, &[]);
    world.update("v2");
    world.until_weight(20);
    world.until("its pod", |w| share(w) == 20);
    // An autoscaler: more pods of the primary count when they are ready.
    world.scale("app", 12).unwrap();
    world.until("the canary's", |w| w.replicas("app-canary") == 3);
    world.scale("app", 4).unwrap();
    world.until("fewer", |w| w.replicas("app-canary") == 1);
    world.scale("app-canary", 4).unwrap();
    world.until("what was set", |w| w.replicas("app-canary") == 1);
    assert!(world.has_said("Pods of app-canary.test were changed to canary weight 50, restoring weight 20"));
    world.scale("app-canary", 0).unwrap();
    world.until("what was set", |w| w.replicas("app-canary") == 1);
    world.until_over(Phase::Succeeded);
    assert_eq!((world.status().failed_checks, world.replicas("app")), (0, 4));
}

/// Requests go where ready pods are by themselves: nobody scales anything.
#[test]
fn without_ready_pods_of_the_primary_the_canary_stays_as_it_is() {
    let mut world = of(2, &[]);
    world.update("v2");
    world.until_weight(40);
    world.until("its pod", |w| share(w) == 33);
    world.set_ready("app", false, 2);
    world.run(15);
    assert_eq!((share(&world), world.replicas("app-canary"), world.weight()), (100, 1, 40));
    assert_eq!(world.status().canary_weight, 100, "{}", world.ready_message());
    world.set_ready("app", true, 2);
    world.until_over(Phase::Succeeded);
}

#[test]
fn a_canary_without_ready_pods_starts_over() {
    let mut world = of(2, &[]);
    world.update("v2");
    world.until_weight(40);
    world.until("its pod", |w| share(w) == 33);
    world.run(1);
    world.set_ready("app-canary", false, 2);
    world.until("weight 0", |w| w.weight() == 0);
    world.until_over(Phase::Succeeded);
    assert_eq!(world.status().failed_checks, 1);
}

#[test]
fn a_canary_that_somebody_deletes_is_made_again() {
    let mut world = of(2, &[]);
    world.update("v2");
    world.until_weight(40);
    let at = world.deployment("app-canary");
    world.delete(&at);
    world.until("weight 0", |w| w.weight() == 0);
    world.until_over(Phase::Succeeded);
    assert_eq!(world.primary_pods().revisions(), [&revision("v2")]);
}

#[test]
fn skipping_the_analysis_gives_no_share() {
    let mut world = of(2, &[]);
    world.edit_canary("/spec/skipAnalysis", json!(true));
    world.update("v2");
    world.until_over(Phase::Succeeded);
    assert!(world.statuses.iter().all(|s| s.canary_weight == 0 && s.share.is_none()));
    assert_eq!(world.primary_pods().revisions(), [&revision("v2")]);
}

#[test]
fn traffic_returns_in_steps_where_that_is_asked_for() {
    let mut canary = by_replicas(&[]);
    canary["spec"]["analysis"]["stepWeightPromotion"] = json!(30);
    let mut world = World::applied(deployment("v1", None, Some(4)), canary);
    world.until_phase(Phase::Initialized);
    world.update("v2");
    world.until_phase(Phase::Promoting);
    world.until_weight(30);
    world.until("fewer pods", |w| share(w) == 20);
    world.until_over(Phase::Succeeded);
}

#[test]
fn leaving_at_any_moment_leaves_the_owners_pods_alone() {
    for weight in [None, Some(0), Some(20), Some(60)] {
        let mut world = of(3, &[]);
        if let Some(weight) = weight {
            world.update("v2");
            world.until("a canary", made);
            world.until_weight(weight);
        }
        let canary = world.canary.clone();
        world.delete(&canary);
        world.until("the Canary to go", |w| w.cluster.get(&w.canary).is_none());
        world.run(30);
        let left = world.target().unwrap()["metadata"].to_string();
        assert!(!left.contains("sidetrack.dev"), "{left}");
        assert_eq!((made(&world), share(&world)), (false, 0));
        assert_eq!(world.primary_pods().revisions(), [&revision("v1")]);
        assert!(world.cluster.get(&at(Kind::Service, "app-canary")).is_none());
    }
}

#[test]
fn a_service_without_the_pods_or_with_them_too_early_is_refused() {
    let mut target = deployment("v1", None, Some(2));
    target["spec"]["template"]["metadata"]["labels"]["tier"] = "web".into();
    let mut world = World::applied(target, by_replicas(&[]));
    let own = at(Kind::Service, "app");
    for (selector, why) in [
        (None, "does not exist"),
        (Some(json!({"app": "other"})), "does not select"),
        (Some(json!({"tier": "web"})), "add app: app to its selector"),
    ] {
        world.delete(&own);
        if let Some(selector) = selector {
            world.apply(service(&selector));
        }
        world.run(10);
        assert!(world.ready_message().contains(why), "{}", world.ready_message());
        assert!(world.key(keys::PROMOTED).is_none(), "nothing is touched");
    }
    world.delete(&own);
    world.apply(service(&json!({"tier": "web", "app": "app"})));
    world.until_phase(Phase::Initialized);
}

#[test]
fn a_service_that_does_not_spread_its_requests_is_warned_of() {
    let mut world = of(2, &[]);
    world.edit(&at(Kind::Service, "app"), |s| s["spec"]["sessionAffinity"] = "ClientIP".into()).unwrap();
    world.run(10);
    let warnings = world.status().warnings.join("\n");
    for part in ["sessionAffinity", "goes up to 60 %", "begins with 20 %"] {
        assert!(warnings.contains(part), "{part}: {warnings}");
    }
    assert_eq!(text(world.target().unwrap(), "/metadata/labels/sidetrack.dev~1role"), Some("target"));
}
