//! Waits that must end, and traffic that must not wait.

use jiff::SignedDuration;
use serde_json::{Value, json};
use sidetrack::api::revision::Revision;
use sidetrack::api::status::{Phase, Stage};
use sidetrack::object::ObjectRef;
use sim::World;
use sim::manifests::{canary, in_place, template};

/// Whoever suspended the Canary, and whatever is wrong with its spec: pods that die lose their weight, and a run goes on from
/// there when it may.
#[test]
fn pods_that_die_lose_their_weight_also_while_nothing_else_goes_on() {
    for (pointer, stops, goes_on) in
        [("/spec/suspend", json!(true), json!(false)), ("/spec/analysis/mirror", json!(true), json!(false))]
    {
        for canary in [canary(&[]), in_place(&[])] {
            let mut world = World::initialised(canary);
            let (pods, primary) = (world.names.canary_deployment.clone(), world.names.primary.clone());
            world.update("v2");
            world.until_weight(20);
            world.edit_canary(pointer, stops.clone());
            world.run(15);
            assert_eq!(world.weight(), 20, "it stays as it is");
            world.set_ready(&pods, false, 2);
            world.until("the traffic leaves them", |w| w.weight() == 0);
            world.set_ready(&pods, true, 2);
            world.run(15);
            assert_eq!(world.weight(), 0, "nothing goes on");
            world.edit_canary(pointer, goes_on.clone());
            world.until_weight(40);
            // The other side.
            world.edit_canary(pointer, stops.clone());
            world.run(5);
            world.set_ready(&primary, false, 2);
            world.until("all goes to the canary", |w| w.weight() == 100);
            world.set_ready(&primary, true, 2);
            world.until("the primary has its share again", |w| w.weight() == 40);
            world.edit_canary(pointer, goes_on.clone());
            world.until_over(Phase::Succeeded);
        }
    }
}

fn gateway() -> Value {
    let mut object = canary(&[]);
    object["spec"]["provider"] = json!("gatewayapi:v1");
    object["spec"]["service"]["gatewayRefs"] = json!([{"name": "gateway", "namespace": "edge"}]);
    object["spec"]["progressDeadlineSeconds"] = json!(60);
    object
}

/// What the gateway's controller says of the route as it is now.
fn report(world: &mut World, conditions: &Value) {
    let at = ObjectRef::new(sidetrack::router::HTTP_ROUTE, "test", "app");
    let mut route = world.cluster.get(&at).cloned().unwrap();
    let mut conditions = conditions.clone();
    for condition in conditions.as_array_mut().unwrap() {
        condition["observedGeneration"] = route["metadata"]["generation"].clone();
    }
    route["status"]["parents"] =
        json!([{"parentRef": {"name": "gateway", "namespace": "edge"}, "conditions": conditions}]);
    world.cluster.store(&at, route, None);
}

fn analysed_at_a_gateway() -> World {
    let mut world = World::initialised(gateway());
    world.answers.metrics = vec![("histogram_quantile".into(), json!("0.05")), (String::new(), json!("100"))];
    world.update("v2");
    world.until_weight(20);
    report(&mut world, &json!([{"type": "Accepted", "status": "True"}]));
    world
}

/// A gateway whose controller is gone never takes up another weight: the revision is rejected, and status says what is missing.
#[test]
fn a_route_that_is_never_taken_up_ends_the_run() {
    let mut world = analysed_at_a_gateway();
    world.until_weight(40);
    world.until_over(Phase::Failed);
    assert_eq!((world.image("app-primary").as_str(), world.weight()), ("v1", 0));
    assert!(world.ready_message().contains("parent gateway is not ready"), "{}", world.ready_message());
}

/// And it does not keep a Canary from leaving.
#[test]
fn a_route_that_is_never_taken_up_does_not_keep_a_canary_from_leaving() {
    let mut world = analysed_at_a_gateway();
    world.until_weight(40);
    let at = world.canary.clone();
    world.delete(&at);
    world.until("status says why it waits", |w| w.ready_message().contains("not taken up yet"));
    world.until("the Canary to go", |w| w.cluster.get(&at).is_none());
    assert_eq!(world.image("app"), "v1");
}

/// A route whose Services are not found answers with errors: that is no weight to judge by.
#[test]
fn a_route_that_finds_no_backend_halts_the_analysis() {
    let mut world = analysed_at_a_gateway();
    let unresolved = json!({"type": "ResolvedRefs", "status": "False", "reason": "BackendNotFound",
        "message": "Service app-canary not found"});
    report(&mut world, &json!([{"type": "Accepted", "status": "True"}, unresolved]));
    world.run(25);
    assert_eq!((world.weight(), world.status().failed_checks), (20, 0));
    let said = "parent gateway does not find what it leads to: BackendNotFound Service app-canary not found";
    assert!(world.has_said(said), "{}", world.tail());
    report(
        &mut world,
        &json!([{"type": "Accepted", "status": "True"}, {"type": "ResolvedRefs", "status": "True"}]),
    );
    world.until_weight(40);
}

/// The clock that wrote the last step was ahead, or it was set back: the next one is an interval away, not a day.
#[test]
fn a_run_does_not_wait_for_a_clock_that_was_ahead() {
    for canary in [canary(&[]), in_place(&[])] {
        let mut world = World::initialised(canary);
        world.update("v2");
        world.until_weight(20);
        let ahead = world.cluster.now.checked_add(SignedDuration::from_hours(24)).unwrap().to_string();
        let at = world.canary.clone();
        let mut stored = world.cluster.get(&at).cloned().unwrap();
        for time in ["since", "lastStep"] {
            assert!(stored["status"]["run"][time].is_string(), "{:#}", stored["status"]["run"]);
            stored["status"]["run"][time] = ahead.clone().into();
        }
        world.cluster.store(&at, stored, None);
        world.kill();
        world.start();
        assert!(world.run_until(30, |w| w.weight() == 40), "{}", world.tail());
        world.until_over(Phase::Succeeded);
    }
}

/// What is held because the Canary is suspended is not called promoted, and whoever waits for it reads why it waits.
#[test]
fn a_revision_that_a_suspended_canary_holds_is_named() {
    for canary in [canary(&[]), in_place(&[])] {
        let mut world = World::initialised(canary);
        world.edit_canary("/spec/suspend", json!(true));
        world.update("v2");
        world.run(1);
        let v2 = Revision::of(&template("v2", None));
        let promoted =
            |w: &World| w.status().conditions.iter().find(|c| c.type_ == "Promoted").unwrap().status.clone();
        assert_eq!(world.ready_message(), format!("Revision {v2} is held: spec.suspend is true."));
        assert_eq!(promoted(&world), "Unknown");
        world.update("v1");
        world.run(1);
        assert_eq!(promoted(&world), "True", "{}", world.tail());
        world.update("v2");
        world.run(1);
        world.edit_canary("/spec/suspend", json!(false));
        world.until_over(Phase::Succeeded);
    }
}

/// Whoever applies v3 while v2 is on its way to the primary reads in status what becomes of it.
#[test]
fn a_revision_that_comes_in_during_a_promotion_is_named_until_its_own_run_begins() {
    let mut world = World::initialised(canary(&[]));
    world.update_with("v2", Some("slow")).unwrap();
    world.until("promoting", |w| w.status().run.is_some_and(|run| run.stage == Stage::Promoting));
    world.update_with("v3", Some("slow")).unwrap();
    world.run(1);
    let v3 = Revision::of(&template("v3", Some("slow")));
    let named = format!("The primary rolls to the analysed revision. Revision {v3} is held and comes next.");
    assert_eq!(world.ready_message(), named);
    world.update_with("v2", Some("slow")).unwrap();
    world.run(1);
    assert_eq!(world.ready_message(), "The primary rolls to the analysed revision.", "{}", world.tail());
}

/// Why pods were not ready is told by the status of the rejection, when they are long gone.
#[test]
fn a_rejection_says_what_its_pods_have_said() {
    for canary in [canary(&[]), in_place(&[])] {
        let mut world = World::initialised(canary);
        world.update_with("v2", Some("never")).unwrap();
        // Long before the deadline it is said why it takes so long.
        world.run(25);
        let started = "The canary is being started: canary deployment";
        let message = world.ready_message();
        assert!(message.starts_with(started) && message.contains("see its readiness probe"), "{message}");
        world.until_over(Phase::Failed);
        let message = world.ready_message();
        assert!(
            message.contains("container app runs and is not ready: see its readiness probe"),
            "{message}"
        );
    }
}
