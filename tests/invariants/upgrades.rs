//! An API server that is replaced by one with other defaults: hashes change although nobody writes. And a
//! break-glass that only the admission policy saw (B-5).

use serde_json::json;
use sidetrack::api::keys;
use sidetrack::api::revision::Revision;
use sidetrack::api::status::Phase;
use sidetrack::object::{Kind, ObjectRef};
use sim::World;
use sim::cluster::Defaults;
use sim::manifests::{canary, deployment, in_place};
use sim::world::{Fuse, revision};
use sim::writers::Webhook;

fn live(world: &World) -> String {
    Revision::of(&world.target().unwrap()["spec"]["template"]).as_str().to_owned()
}

/// Nobody was suspected, and every record names what is live.
fn undisturbed(world: &World) {
    assert!(!world.has_said("InterlockBypassed"), "{}", world.tail());
    assert!(world.dry_runs > 0 && world.has_said("since its defaults changed"));
    let status = world.status();
    let known = [&status.revisions.primary, &status.revisions.failed].map(Clone::clone);
    assert!(known.contains(&Some(live(world))), "{status:#?}\n{}", world.tail());
    assert_eq!(world.key(keys::PROMOTED).map(str::to_owned), status.revisions.primary);
    let on_primary = &world.primary().unwrap()["metadata"]["annotations"];
    assert_eq!(on_primary[keys::PROMOTED].as_str().map(str::to_owned), status.revisions.primary);
    let stored = world.names.snapshot(&Revision::from_key(world.key(keys::PROMOTED).unwrap()));
    let stored = ObjectRef::new(Kind::ControllerRevision, "test", stored);
    assert!(world.cluster.get(&stored).is_some(), "{stored}\n{}", world.tail());
    if !world.names.in_place() {
        let runs = Revision::of(&world.primary().unwrap()["spec"]["template"]);
        assert_eq!(on_primary[keys::TEMPLATE], runs.as_str(), "{}", world.tail());
    }
}

#[test]
fn other_defaults_are_no_new_revision() {
    let mut world = World::initialised(canary(&[]));
    let promotions = world.laws.promotions.clone();
    world.upgrade(Defaults::Newer);
    world.until_over(Phase::Initialized);
    undisturbed(&world);
    assert_eq!((world.replicas("app"), world.times_said("New revision")), (0, 0));
    assert_eq!(world.laws.promotions.len(), promotions.len());
    let (writes, dry_runs) = (world.writes, world.dry_runs);
    world.kill();
    world.start();
    world.apply(deployment("v1", None, Some(2)));
    world.run(120);
    world.apply(deployment("v1", None, Some(2)));
    world.run(120);
    assert_eq!(world.times_said("New revision"), 0);
    assert!(world.writes <= writes + 1 && world.dry_runs == dry_runs, "{}", world.tail());
    // A revert is one again.
    world.update("v2");
    world.until_weight(40);
    world.update("v1");
    world.until_over(Phase::Succeeded);
    assert!(world.has_said("Cancelling analysis"), "{}", world.tail());
    assert_eq!(world.image("app-primary"), "v1");
}

#[test]
fn a_pruned_field_is_no_new_revision() {
    let mut object = deployment("v1", None, Some(2));
    object["spec"]["template"]["spec"]["serviceAccount"] = json!("old");
    let mut world = World::applied(object, canary(&[]));
    world.until_phase(Phase::Initialized);
    world.upgrade(Defaults::Newer);
    world.until_over(Phase::Initialized);
    undisturbed(&world);
    assert_eq!(world.times_said("New revision"), 0);
}

#[test]
fn a_failed_revision_stays_failed_under_other_defaults() {
    let mut world = World::initialised(canary(&[]));
    world.answers.success_rate("1");
    world.update("v2");
    world.until_over(Phase::Failed);
    world.answers.success_rate("100");
    world.upgrade(Defaults::Newer);
    world.run(300);
    undisturbed(&world);
    assert_eq!(world.key(keys::FAILED), Some(live(&world).as_str()));
    assert_eq!(world.key(keys::HOLD), world.key(keys::FAILED));
    assert_eq!((world.status().phase, world.image("app-primary").as_str()), (Phase::Failed, "v1"));
    world.retry().unwrap();
    world.until_over(Phase::Succeeded);
    assert_eq!(world.image("app-primary"), "v2");
}

/// At any moment of a run, also twice, also back and forth.
#[test]
fn other_defaults_disturb_no_run() {
    use Defaults::{Newer, Older};
    let ready = World::initialised(canary(&[("gate", "confirm-rollout")]));
    let mut undone = ready.fork();
    undone.update("v2");
    undone.until_over(Phase::Succeeded);
    let writes = undone.writes - ready.writes;
    assert!(writes > 12, "{writes}");
    for write in 1..=writes {
        for all in [vec![Newer], vec![Newer, Older, Newer]] {
            let mut world = ready.fork();
            world.update("v2");
            world.after_write(write, move |w| {
                for (at, defaults) in (0_i64..).zip(all) {
                    w.after(at * 3, move |w| w.upgrade(defaults));
                }
            });
            let (mut top, mut fell) = (0, false);
            world.until("the end", |w| {
                fell |= w.weight() < top && w.status().phase == Phase::Progressing;
                top = top.max(w.weight());
                w.status().phase == Phase::Succeeded && w.at_rest() && w.status().run.is_none()
            });
            assert!(!fell, "the weight fell after write {write}\n{}", world.tail());
            undisturbed(&world);
            assert_eq!(world.image("app-primary"), "v2");
            // Until the first release nothing is stored to compare with: the gate is asked once more.
            let again = usize::from(write < 4);
            let started = world.times_said("New revision");
            assert!(started <= 1 + again, "{started} runs after write {write}\n{}", world.tail());
        }
    }
}

#[test]
fn a_write_past_the_webhook_is_found_under_other_defaults() {
    for weight in [0, 40] {
        let mut world = World::initialised(canary(&[]));
        if weight > 0 {
            world.update("v2");
            world.until_weight(weight);
        }
        world.upgrade(Defaults::Newer);
        world.webhook = Webhook::Gone;
        world.update("v3");
        world.webhook = Webhook::Up;
        world.run(1);
        assert!(world.has_said("InterlockBypassed"), "{}", world.tail());
        world.until_over(Phase::Succeeded);
        assert_eq!((world.image("app-primary").as_str(), world.times_said("InterlockBypassed")), ("v3", 1));
    }
}

#[test]
fn leaving_ends_under_other_defaults() {
    for weight in [0, 40] {
        let mut world = World::initialised(canary(&[]));
        world.update("v2");
        world.until_weight(40);
        if weight == 0 {
            world.until_over(Phase::Succeeded);
        }
        let at = world.canary.clone();
        world.delete(&at);
        world.after_write(2, |w| w.upgrade(Defaults::Newer));
        world.until("the Canary to go", |w| w.cluster.get(&w.canary).is_none());
        assert_eq!(world.image("app"), if weight == 0 { "v2" } else { "v1" });
        assert_eq!((world.replicas("app"), world.key(keys::PROMOTED)), (2, None));
    }
}

/// B-5, at rest and over a run: the policy let it pass, nobody noted that it counts.
#[test]
fn a_break_glass_counts_that_only_the_policy_saw() {
    for weight in [0, 40] {
        let mut world = World::initialised(canary(&[("gate", "confirm-rollout")]));
        if weight > 0 {
            world.update("v2");
            world.until_weight(weight);
        }
        world.answers.hook("gate", 403);
        let queries = world.answers.queries.len();
        world.webhook = Webhook::Gone;
        world.break_glass("v3").unwrap();
        world.run(1);
        assert_eq!(world.weight(), 0, "the rolling pods keep no weight\n{}", world.tail());
        world.until_over(Phase::Succeeded);
        assert_eq!(world.image("app-primary"), "v3");
        assert_eq!(world.answers.queries.len(), queries, "it is not analysed");
        assert!(!world.has_said("InterlockBypassed") && world.has_said("Break-glass counts"));
        // A used one lets nothing else through.
        world.update("v4");
        world.run(1);
        assert!(world.has_said("InterlockBypassed"), "{}", world.tail());
        world.webhook = Webhook::Up;
        world.run(60);
        assert_eq!((world.image("app-primary").as_str(), world.status().phase), ("v3", Phase::Waiting));
    }
}

/// The number is the last generation that was seen before, although other writes followed.
#[test]
fn a_break_glass_counts_although_other_writes_followed() {
    for dead in [false, true] {
        let mut world = World::initialised(canary(&[("gate", "confirm-rollout")]));
        world.answers.hook("gate", 403);
        world.webhook = Webhook::Gone;
        if dead {
            world.kill();
        }
        world.break_glass("v3").unwrap();
        let at = world.deployment("app");
        world.edit(&at, |d| d["metadata"]["annotations"]["example.com/a"] = json!("b")).unwrap();
        if dead {
            world.start();
        }
        world.run(60);
        // A process that was not there has not seen which generation came before: safe is to analyse.
        let image = if dead { "v1" } else { "v3" };
        assert_eq!(world.image("app-primary"), image, "{}", world.tail());
        assert_eq!(world.has_said("InterlockBypassed"), dead);
    }
}

/// Over the held revision itself: it goes on at once, and what runs at weight is not rolled.
#[test]
fn a_break_glass_over_the_revision_that_is_there_skips_its_gates() {
    let note = |world: &mut World| {
        let at = world.deployment("app");
        world
            .edit(&at, |d| {
                let generation = d["metadata"]["generation"].clone();
                d["metadata"]["annotations"][keys::BREAK_GLASS] = format!("{generation} outage").into();
            })
            .unwrap();
    };
    let mut world = World::initialised(canary(&[("gate", "confirm-rollout")]));
    world.answers.hook("gate", 403);
    world.update("v2");
    world.until_phase(Phase::Waiting);
    world.webhook = Webhook::Gone;
    note(&mut world);
    world.until_over(Phase::Succeeded);
    assert_eq!(world.image("app-primary"), "v2");

    let mut world = World::initialised(canary(&[]));
    world.update("v2");
    world.until_weight(20);
    world.webhook = Webhook::Gone;
    note(&mut world);
    let started = world.cluster.now;
    world.until("the primary", |w| w.image("app-primary") == "v2");
    assert!(world.cluster.now.duration_since(started) < jiff::SignedDuration::from_secs(5));
    assert!(!world.has_said("InterlockBypassed"));
    assert_eq!(world.times_said("New revision"), 1);
}

/// B-5 on the generated Deployment: it is the owner's doing, not a bypass.
#[test]
fn a_break_glass_on_the_primary_is_noted_when_only_the_policy_saw_it() {
    for glass in [true, false] {
        let mut world = World::initialised(canary(&[]));
        world.webhook = Webhook::Gone;
        let at = world.deployment("app-primary");
        world
            .edit(&at, |d| {
                let generation = d["metadata"]["generation"].clone();
                if glass {
                    d["metadata"]["annotations"][keys::BREAK_GLASS] = format!("{generation} outage").into();
                }
                d["spec"]["template"]["spec"]["containers"][0]["image"] = json!("app:v9");
            })
            .unwrap();
        world.run(30);
        world.scale("app-primary", 3).unwrap();
        world.run(30);
        assert_eq!(world.has_said("InterlockBypassed"), !glass, "{}", world.tail());
        let noted = world.primary().unwrap()["metadata"]["annotations"].get(keys::GLASSED).is_some();
        assert_eq!((noted, world.image("app-primary").as_str()), (glass, "v9"));
    }
}

/// In place no analysis stores what a break-glass lets run. Until the first writes (that it counts, and the snapshot) there
/// is nothing to compare with.
#[test]
fn a_break_glass_in_place_is_known_under_other_defaults() {
    let ready = World::initialised(in_place(&[("gate", "confirm-rollout")]));
    for webhook in [Webhook::Up, Webhook::Gone] {
        let broken = || {
            let mut world = ready.fork();
            world.webhook = webhook;
            world.break_glass("v2").unwrap();
            world.webhook = Webhook::Up;
            world
        };
        let mut undone = broken();
        undone.until_over(Phase::Succeeded);
        let writes = undone.writes - ready.writes;
        let first = if webhook == Webhook::Up { 1 } else { 2 };
        assert!(writes > first + 2, "{writes}");
        for write in first..=writes {
            let mut world = broken();
            world.arm(Fuse { write, after: true });
            world.until("the crash", |w| w.process.is_none());
            world.upgrade(Defaults::Newer);
            world.until_over(Phase::Succeeded);
            undisturbed(&world);
            assert_eq!((world.image("app").as_str(), world.times_said("New revision")), ("v2", 0));
            assert_eq!(world.key(keys::HOLD), None, "{}", world.tail());
        }
    }
}

/// Sidetrack is taken back a version in the middle of a release: what the newer one has written stays, the traffic is safe, and
/// the analysis begins anew.
#[test]
fn a_stage_of_a_newer_version_strands_no_run_and_loses_no_field() {
    for canary in [canary(&[]), in_place(&[])] {
        for moment in [Phase::Progressing, Phase::Promoting] {
            let mut world = World::initialised(canary.clone());
            world.update("v2");
            if moment == Phase::Progressing {
                world.until_weight(40);
            } else {
                world.until_phase(moment);
            }
            world.kill();
            let at = world.canary.clone();
            let mut newer = world.cluster.get(&at).unwrap().clone();
            json_patch::merge(
                &mut newer,
                &json!({"status": {"phase": "Comparing", "score": {"p": 0.04}, "run": {"stage": "Comparing", "arm": "b"}}}),
            );
            world.cluster.store(&at, newer, None);
            world.start();
            world.until("it is said", |w| {
                w.has_said("at a stage that this version of Sidetrack does not know")
            });
            let stored = |world: &World| world.cluster.get(&at).unwrap()["status"].clone();
            assert_eq!(stored(&world)["run"]["arm"], "b", "{moment:?}");
            world.until_over(Phase::Succeeded);
            let v2 = Some(revision("v2").as_str().to_owned());
            assert_eq!(world.status().revisions.primary, v2);
            let status = stored(&world);
            assert_eq!((&status["score"]["p"], status.get("run")), (&json!(0.04), None), "{moment:?}");
        }
    }
}
