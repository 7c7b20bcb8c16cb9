//! One guard each: what would happen if the line that keeps it were not there.

use crate::sim::World;
use crate::sim::manifests::{canary, deployment};
use crate::sim::world::revision;
use crate::sim::writers::Webhook;
use sidetrack::api::keys;
use sidetrack::api::status::{Phase, Stage};
use sidetrack::object::{Kind, ObjectRef};

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
    let route = ObjectRef::new(Kind::VirtualService, "test", "app");
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

/// §5.5: what the primary is made from stays, however many revisions fail after it.
#[test]
fn the_promoted_template_is_never_pruned() {
    let mut world = World::empty("test", "app", "app", None);
    let of = |image: &str| {
        let mut object = deployment(image, None, Some(2));
        object["spec"]["revisionHistoryLimit"] = 1.into();
        object
    };
    world.apply(of("v1"));
    world.apply(canary(&[]));
    world.until_phase(Phase::Initialized);
    world.answers.success_rate("1");
    for image in ["v2", "v3", "v4"] {
        world.apply(of(image));
        world.until("its failure", |w| w.key(keys::FAILED) == Some(revision(image).as_str()) && w.at_rest());
    }
    let stored = |image: &str| {
        let at = ObjectRef::new(Kind::ControllerRevision, "test", world.names.snapshot(&revision(image)));
        world.cluster.get(&at).is_some()
    };
    assert_eq!(["v1", "v2", "v4"].map(stored), [true, false, true], "{}", world.tail());
}
