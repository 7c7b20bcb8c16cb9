//! Each law of the simulated cluster sees what it is for: the fault is put in by hand, as a write of Sidetrack's.

use serde_json::{Value, json};
use sidetrack::api::keys;
use sidetrack::api::status::{Phase, Stage};
use sidetrack::object::ObjectRef;
use sim::World;
use sim::manifests::{canary, in_place, template};
use sim::world::revision;

/// Sidetrack changes an object to what it must not be.
fn writes(world: &mut World, at: &ObjectRef, edit: impl FnOnce(&mut Value)) {
    let before = world.cluster.get(at).cloned();
    let mut object = before.clone().unwrap();
    edit(&mut object);
    world.cluster.store(at, object, None);
    world.judge_write(at, before.as_ref(), true);
}

fn app(world: &World) -> ObjectRef {
    world.deployment("app")
}

fn route(world: &World) -> ObjectRef {
    world.route().unwrap().0
}

fn weight(object: &mut Value, canary: i64) {
    object["spec"]["http"][0]["route"][0]["weight"] = (100 - canary).into();
    object["spec"]["http"][0]["route"][1]["weight"] = canary.into();
}

/// A release at weight 20.
fn released(object: fn(&[(&str, &str)]) -> Value) -> World {
    let mut world = World::initialised(object(&[]));
    world.update("v2");
    world.until_weight(20);
    world
}

fn held() -> World {
    let mut world = World::initialised(canary(&[("gate", "confirm-rollout")]));
    world.answers.hook("gate", 500);
    world.update("v2");
    world.run(15);
    world
}

/// What the fault is, where it is put, and which law sees it.
type Story = (&'static str, fn() -> World, fn(&mut World));

const STORIES: &[Story] = &[
    ("I1", held, |world| {
        let at = app(world);
        writes(world, &at, |target| {
            target["metadata"]["annotations"].as_object_mut().unwrap().remove(keys::HOLD);
            target["spec"].as_object_mut().unwrap().remove("paused");
        });
    }),
    ("I1", held, |world| {
        let at = app(world);
        // Nobody has judged this one: its pods tell.
        let mut target = world.target().cloned().unwrap();
        target["spec"] =
            json!({"replicas": 2, "selector": target["spec"]["selector"], "template": template("v9", None)});
        world.cluster.store(&at, target, None);
        world.run(5);
    }),
    (
        "I2",
        || released(canary),
        |world| {
            let at = world.deployment("app-primary");
            writes(world, &at, |primary| {
                primary["spec"]["template"]["spec"]["containers"][0]["image"] = "app:v2".into();
            });
        },
    ),
    (
        "I2",
        || released(in_place),
        |world| {
            let at = app(world);
            writes(world, &at, |target| {
                let promoted = revision("v2").as_str().to_owned();
                target["metadata"]["annotations"][keys::PROMOTED] = promoted.into();
            });
        },
    ),
    ("I3", held, |world| {
        let at = route(world);
        writes(world, &at, |route| weight(route, 10));
    }),
    (
        "I3",
        || released(canary),
        |world| {
            world.process = None; // it sleeps, and nobody has killed it
            world.set_ready("app", false, 2);
            (0..10).for_each(|_| world.run(1));
        },
    ),
    (
        "I4",
        || released(canary),
        |world| {
            let at = app(world);
            writes(world, &at, |target| target["spec"]["replicas"] = 0.into());
        },
    ),
    (
        "I4",
        || released(in_place),
        |world| {
            let at = world.deployment("app-canary");
            writes(world, &at, |generated| {
                generated["spec"]["template"]["spec"]["containers"][0]["image"] = "app:v9".into();
            });
        },
    ),
    (
        "I8",
        || released(canary),
        |world| {
            let at = route(world);
            writes(world, &at, |route| weight(route, 40));
            writes(world, &at, |route| weight(route, 60));
        },
    ),
    (
        "I9",
        || released(canary),
        |world| {
            let at = world.canary.clone();
            writes(world, &at, |canary| {
                canary["status"]["phase"] = "Succeeded".into();
                canary["status"]["run"] = Value::Null;
                canary["status"]["revisions"]["primary"] = revision("v2").as_str().into();
            });
        },
    ),
    (
        "L1",
        || released(canary),
        |world| {
            world.until("no answer is on its way", |w| w.process.as_ref().unwrap().next_answer().is_none());
            world.process.as_mut().unwrap().wake = None;
            world.judge_look(0);
        },
    ),
    ("L2", || released(canary), |world| world.judge_look(100)),
    ("L4", held, |world| {
        world.process = None;
        let at = world.canary.clone();
        writes(world, &at, |canary| {
            canary["status"]["run"] = Value::Null;
            canary["status"]["conditions"] = json!([]);
        });
        (0..60).for_each(|_| world.run(1));
    }),
];

#[test]
fn each_law_sees_what_it_is_for() {
    for (nth, (law, before, fault)) in STORIES.iter().enumerate() {
        let mut world = before();
        let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| fault(&mut world)));
        let why = seen.expect_err(&format!("{nth}: {law} does not see it"));
        let why = why.downcast_ref::<String>().cloned().unwrap_or_default();
        assert!(why.starts_with(&format!("{law} is broken")), "{nth}: {law} does not see it: {why}");
    }
}

/// Where no fault is put in, nothing is seen.
#[test]
fn the_same_releases_come_to_their_end() {
    for object in [canary, in_place] {
        let mut world = released(object);
        world.until_over(Phase::Succeeded);
        assert_eq!(world.status().run.map(|run| run.stage), None::<Stage>);
    }
}
