//! Two Kustomizations that both own the target: reported, and no release after the other for ever.

use sidetrack::api::status::Phase;
use sim::World;
use sim::manifests::{canary, deployment};

/// A Kustomization applies its revision.
fn turn(world: &mut World, of: &str, image: &str) {
    let mut manifest = deployment(image, None, None);
    for (key, value) in [("name", of), ("namespace", "flux-system")] {
        manifest["metadata"]["labels"][format!("kustomize.toolkit.fluxcd.io/{key}")] = value.into();
    }
    world.apply(manifest);
}

fn sentence(world: &World) -> String {
    let status = world.status();
    let stalled = status.conditions.iter().find(|c| c.type_ == "Stalled" && c.reason == "Contested");
    stalled.map(|c| c.message.clone()).unwrap_or_default()
}

/// How long they stay calm until the revision that is left is taken up.
const CALM: i64 = 600;

/// What is so while they go on, whatever they did before: both named, no run, no pods, no release any more.
fn stands_still(world: &mut World, every: i64, promotions: usize) {
    let primary = world.image("app-primary");
    for (of, image) in [("a", "v1"), ("b", "v2"), ("a", "v1"), ("b", "v2"), ("a", "v1"), ("b", "v2")] {
        turn(world, of, image);
        let moved = world.run_until(every, |w| w.replicas("app") > 0 || w.weight() > 0);
        assert!(!moved, "{of} was released: {}", world.tail());
        let said = sentence(world);
        for owner in ["Kustomization flux-system/a (revision", "Kustomization flux-system/b (revision"] {
            assert!(said.contains(owner), "{said:?} {}", world.tail());
        }
        assert_eq!((world.status().run, world.image("app-primary")), (None, primary.clone()));
    }
    assert_eq!(world.laws.promotions.len(), promotions, "{}", world.tail());
    assert_eq!(world.times_said("is applied in turns by"), 1, "said once: {}", world.tail());
}

#[test]
fn two_owners_with_a_short_interval_end_no_run_after_the_other() {
    let mut world = World::initialised(canary(&[]));
    let promotions = world.laws.promotions.len();
    for (of, image) in [("b", "v2"), ("a", "v1"), ("b", "v2"), ("a", "v1")] {
        turn(&mut world, of, image);
        world.run(15);
    }
    stands_still(&mut world, 15, promotions);
    // One of them lets go: the other's revision is analysed as any other.
    assert!(world.run_until(CALM, |w| w.image("app-primary") == "v2"), "{}", world.tail());
    world.until_over(Phase::Succeeded);
    assert_eq!(sentence(&world), "");
}

#[test]
fn two_owners_with_a_long_interval_are_not_promoted_in_turn() {
    let mut world = World::initialised(canary(&[]));
    let before = world.laws.promotions.len();
    for (of, image) in [("b", "v2"), ("a", "v1"), ("b", "v2")] {
        turn(&mut world, of, image);
        world.run(200);
        assert_eq!(world.image("app-primary"), image, "{}", world.tail());
    }
    turn(&mut world, "a", "v1");
    world.run(200);
    stands_still(&mut world, 200, before + 3);
}

/// Neither is what the primary runs: the run of the one ends with the other's turn.
#[test]
fn two_owners_of_new_revisions_leave_no_canary() {
    let mut world = World::initialised(canary(&[]));
    let promotions = world.laws.promotions.len();
    let turns = [("a", "v3"), ("b", "v2"), ("a", "v3"), ("b", "v2")];
    for (of, image) in turns {
        turn(&mut world, of, image);
        world.run(25);
    }
    assert!(sentence(&world).contains("flux-system/a"), "{}", world.tail());
    assert_eq!((world.status().run, world.replicas("app"), world.weight()), (None, 0, 0), "{}", world.tail());
    assert_eq!((world.laws.promotions.len(), world.image("app-primary")), (promotions, "v1".to_owned()));
    assert!(world.run_until(CALM, |w| w.image("app-primary") == "v2"), "{}", world.tail());
}

/// One who changes their mind is no two.
#[test]
fn one_writer_may_go_back_and_forth() {
    let mut world = World::initialised(canary(&[]));
    for image in ["v2", "v1", "v2", "v1", "v2"] {
        turn(&mut world, "a", image);
        world.run(15);
    }
    world.until_over(Phase::Succeeded);
    assert_eq!(world.image("app-primary"), "v2");
}

/// Who breaks the glass has seen it.
#[test]
fn break_glass_ends_a_contest() {
    let mut world = World::initialised(canary(&[]));
    for (of, image) in [("b", "v2"), ("a", "v1"), ("b", "v2"), ("a", "v1")] {
        turn(&mut world, of, image);
        world.run(15);
    }
    assert_ne!(sentence(&world), "");
    world.break_glass("v3").unwrap();
    world.until_over(Phase::Succeeded);
    assert_eq!(world.image("app-primary"), "v3");
}
