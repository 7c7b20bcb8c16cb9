//! Two Canaries on one target.

use serde_json::Value;
use sidetrack::api::Verb;
use sidetrack::api::names::{Layout, Names};
use sidetrack::api::status::Phase;
use sidetrack::object::{Kind, ObjectRef};
use sim::World;
use sim::manifests::{NAMESPACE, canary, deployment, in_place};
use sim::process::Process;
use sim::world::revision;
use std::collections::BTreeMap;

/// Longer than a label value can be.
const LONG: &str = "another-canary-with-a-name-that-goes-on-and-on-so-that-no-label-value-can-hold-all-of-it";

/// From now on this Canary is the one that is looked at, by a process that has not seen it before.
fn turn_to(world: &mut World, name: &str, layout: Layout) {
    world.canary = ObjectRef::new(Kind::Canary, NAMESPACE, name);
    world.names = Names::new(NAMESPACE, name, "app", None).in_layout(layout);
    world.process = Some(Process::default());
    world.statuses.clear();
}

/// The Canary of `app`, by another name.
fn named(name: &str, mut canary: Value) -> Value {
    canary["metadata"]["name"] = name.into();
    canary
}

/// Everything but one Canary.
fn others(world: &World, canary: &ObjectRef) -> BTreeMap<ObjectRef, Value> {
    let all = world.cluster.objects.iter().filter(|(at, _)| *at != canary);
    all.map(|(at, object)| (at.clone(), (**object).clone())).collect()
}

fn stalled(world: &World) -> Option<(String, String)> {
    let status = world.status();
    let condition = status.conditions.iter().find(|c| c.type_ == "Stalled")?;
    Some((condition.reason.clone(), condition.message.clone()))
}

#[test]
fn the_second_canary_of_a_target_touches_nothing() {
    for (layout, made) in [(Layout::PrimaryCopy, canary(&[])), (Layout::InPlace, in_place(&[]))] {
        for name in ["other", LONG] {
            let mut world = World::initialised(made.clone());
            world.update("v2");
            world.until_weight(20);
            world.apply(named(name, made.clone()));
            turn_to(&mut world, name, layout);
            let at = world.canary.clone();
            // Pods take their time still.
            let process = world.process.take();
            world.run(5);
            world.process = process;
            let before = others(&world, &at);
            world.run(120);
            assert_eq!(others(&world, &at), before, "{}", world.tail());
            let (reason, why) = stalled(&world).unwrap();
            assert_eq!(reason, "TargetTaken");
            assert!(why.starts_with("Deployment app belongs to Canary app, "), "{why}");
            assert_eq!((world.times_said(&why), world.at_rest()), (1, true));

            // Nor does what is asked of it, nor its end.
            for verb in [Verb::Promote, Verb::Abort, Verb::Retry] {
                world.request(verb, &revision("v2"), "id");
                world.run(10);
                assert_eq!(others(&world, &at), before, "{verb}\n{}", world.tail());
            }
            world.delete(&at);
            world.run(60);
            assert!(world.cluster.get(&at).is_none(), "{}", world.tail());
            assert_eq!(others(&world, &at), before);
            turn_to(&mut world, "app", layout);
            world.until_over(Phase::Succeeded);
        }
    }
}

/// A Canary that has been something before, too: its application serves throughout.
#[test]
fn the_second_canary_adopts_when_the_owner_has_gone() {
    for phase in [None, Some(Phase::Succeeded)] {
        let mut world = World::initialised(canary(&[]));
        let second = named(LONG, canary(&[]));
        world.apply(second);
        turn_to(&mut world, LONG, Layout::PrimaryCopy);
        let at = world.canary.clone();
        if let Some(phase) = phase {
            let mut object = world.cluster.get(&at).unwrap().clone();
            object["status"] = serde_json::json!({"phase": phase, "canaryWeight": 0, "failedChecks": 0});
            world.cluster.store(&at, object, None);
            world.statuses = vec![world.status(); 2];
        }
        world.run(30);
        assert_eq!(stalled(&world).unwrap().0, "TargetTaken");
        turn_to(&mut world, "app", Layout::PrimaryCopy);
        let owner = world.canary.clone();
        world.delete(&owner);
        world.until("the owner to go", |w| w.cluster.get(&owner).is_none());
        turn_to(&mut world, LONG, Layout::PrimaryCopy);
        world.until_phase(Phase::Initialized);
        world.until("rest", World::at_rest);
        assert_eq!(stalled(&world), None);
        world.update("v2");
        world.until_over(Phase::Succeeded);
        assert_eq!(world.image("app-primary"), "v2");
    }
}

/// The same for the other reasons that end by themselves.
#[test]
fn a_stall_ends_with_its_cause() {
    let mut world = World::initialised(canary(&[]));
    let at = world.deployment("app");
    world.delete(&at);
    world.run(30);
    assert_eq!(stalled(&world).unwrap().0, "TargetMissing");
    world.apply(deployment("v1", None, Some(2)));
    world.until("rest", World::at_rest);
    assert_eq!((stalled(&world), world.status().phase), (None, Phase::Initialized), "{}", world.tail());
    assert_eq!(world.replicas("app"), 0);
}
