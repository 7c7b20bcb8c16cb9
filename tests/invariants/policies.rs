//! What a policy holds, in both layouts: nothing of it runs before its time, and nothing of it is lost.

use sidetrack::api::status::{Outcome, Phase, RequestOutcome, Stage};
use sidetrack::api::{Verb, keys};
use sidetrack::rollout::model::gates::{Frozen, Gate, Guard, Turn};
use sim::World;
use sim::manifests::{canary, in_place};
use sim::world::revision;

fn layouts() -> [World; 2] {
    [World::initialised(canary(&[])), World::initialised(in_place(&[]))]
}

fn frozen(until: Option<&str>) -> Guard {
    let until = until.map(|at| at.parse().unwrap());
    Guard { frozen: Some(Frozen { until, reason: "inventory".into() }), ..Guard::default() }
}

fn in_line(granted: bool) -> Guard {
    Guard { turn: Some(Turn { granted, limit: "one at a time".into() }), ..Guard::default() }
}

fn closed(why: &str) -> Guard {
    Guard { wave: Gate::Closed { why: why.into(), until: None }, ..Guard::default() }
}

/// No pod of this version, wherever it would run.
fn nothing_runs(world: &mut World, seconds: i64, image: &str) {
    let run = |world: &World| {
        [&world.names.primary, &world.names.canary_deployment].into_iter().any(|name| {
            world.image(name) == image && world.replicas(name) > 0 && world.key(keys::HOLD).is_none()
        })
    };
    for _ in 0..seconds {
        world.run(1);
        assert!(!run(world), "{image} runs");
        assert_eq!(world.weight(), 0);
    }
}

fn says(world: &World, text: &str) {
    let status = world.status();
    let ready = status.conditions.iter().find(|c| c.type_ == "Ready").unwrap();
    assert!(ready.message.contains(text), "{}", ready.message);
}

#[test]
fn a_freeze_holds_a_release_and_a_newer_one_until_it_ends() {
    for mut world in layouts() {
        world.guarded(frozen(Some("2026-01-01T02:00:00Z")));
        world.update("v2");
        world.until_phase(Phase::Waiting);
        says(&world, "Frozen until 2026-01-01T02:00:00Z: inventory.");
        nothing_runs(&mut world, 60, "v2");
        world.update("v3");
        nothing_runs(&mut world, 60, "v3");
        assert_eq!(world.status().run.unwrap().revision, revision("v3").as_str());
        world.guarded(Guard::default());
        world.until_over(Phase::Succeeded);
        assert_eq!(world.image(&world.names.primary), "v3");
    }
}

#[test]
fn a_freeze_that_begins_lets_a_release_go_on_and_holds_what_takes_its_place() {
    for mut world in layouts() {
        world.update("v2");
        world.until_weight(40);
        world.guarded(frozen(None));
        let mut other = world.fork();
        world.until_over(Phase::Succeeded);
        other.update("v3");
        other.until("the newer one to wait", |w| w.status().phase == Phase::Waiting);
        nothing_runs(&mut other, 60, "v3");
        other.guarded(Guard::default());
        other.until_over(Phase::Succeeded);
        assert_eq!(other.image(&other.names.primary), "v3");
    }
}

#[test]
fn a_revert_ends_the_wait() {
    for guard in
        [frozen(None), in_line(false), closed("not yet"), Guard { approval: true, ..Guard::default() }]
    {
        for mut world in layouts() {
            world.guarded(guard.clone());
            world.update("v2");
            world.until_phase(Phase::Waiting);
            world.update("v1");
            world.until("the end", |w| w.status().run.is_none());
            world.run(30);
            assert_eq!(
                (world.status().phase, world.image(&world.names.primary)),
                (Phase::Succeeded, "v1".into())
            );
            assert_eq!(world.status().queued, None);
        }
    }
}

#[test]
fn a_place_in_line_is_kept_until_it_is_its_turn() {
    for mut world in layouts() {
        world.guarded(in_line(false));
        world.update("v2");
        world.until("a place", |w| w.status().queued.is_some());
        let place = world.status().queued;
        says(&world, "It waits for its turn: one at a time.");
        nothing_runs(&mut world, 60, "v2");
        assert_eq!(world.status().queued, place);
        world.guarded(in_line(true));
        world.until_over(Phase::Succeeded);
        assert_eq!((world.status().queued, world.image(&world.names.primary)), (None, "v2".into()));
    }
}

/// Whoever stands in line has passed the gates of the revision that stands there, and of no other.
#[test]
fn gates_are_asked_before_the_line_and_again_for_a_newer_revision() {
    for canary in [canary(&[("gate", "confirm-rollout")]), in_place(&[("gate", "confirm-rollout")])] {
        let mut world = World::initialised(canary);
        world.guarded(in_line(false));
        world.answers.hook("gate", 403);
        world.update("v2");
        world.until_phase(Phase::Waiting);
        world.run(30);
        assert_eq!(world.status().queued, None);
        world.answers.hook("gate", 200);
        world.until("a place", |w| w.status().queued.is_some());
        world.answers.hook("gate", 403);
        world.update("v3");
        world.guarded(in_line(true));
        nothing_runs(&mut world, 60, "v3");
        world.answers.hook("gate", 200);
        world.until_over(Phase::Succeeded);
        assert_eq!(world.image(&world.names.primary), "v3");
    }
}

#[test]
fn an_approval_is_for_one_revision_and_opens_nothing_else() {
    for mut world in layouts() {
        world.guarded(Guard { approval: true, ..frozen(None) });
        world.update("v2");
        world.until_phase(Phase::Waiting);
        world.request(Verb::Approve, &revision("v2"), "1");
        world.until("an answer", |w| w.answered().is_some_and(|a| a.outcome == RequestOutcome::Taken));
        nothing_runs(&mut world, 60, "v2");
        let mut other = world.fork();
        world.guarded(Guard { approval: true, ..Guard::default() });
        world.until_over(Phase::Succeeded);
        other.update("v3");
        other.guarded(Guard { approval: true, ..Guard::default() });
        other.until("the wait", |w| w.status().run.is_some_and(|r| r.revision == revision("v3").as_str()));
        nothing_runs(&mut other, 60, "v3");
        says(&other, "waits for an approval");
    }
}

#[test]
fn a_break_glass_passes_everything_and_says_so() {
    for guard in
        [frozen(None), in_line(false), closed("not yet"), Guard { approval: true, ..Guard::default() }]
    {
        let mut world = World::initialised(canary(&[]));
        world.guarded(guard);
        world.break_glass("v2").unwrap();
        world.until_over(Phase::Succeeded);
        assert_eq!(world.image("app-primary"), "v2");
        assert!(world.said.iter().any(|m| m.text.starts_with("Break-glass by ")), "{:?}", world.said);
        let last = world.status().history.pop().map(|past| past.outcome);
        assert_eq!(last, Some(Outcome::BreakGlass), "it was not analysed, and nobody may think so");
    }
}

/// A request does not pass what the policy says, and its answer does not promise that.
#[test]
fn an_answer_names_what_comes_before_it() {
    let mut world = World::initialised(canary(&[]));
    world.guarded(frozen(None));
    world.update("v2");
    world.until_phase(Phase::Waiting);
    let mut ask = |verb, id: &str| {
        world.request(verb, &revision("v2"), id);
        world.until("the answer", |w| w.answered().is_some_and(|answer| answer.text.contains(id)));
        let answer = world.answered().unwrap();
        (answer.outcome, answer.message)
    };
    let (outcome, message) = ask(Verb::Approve, "approve-it");
    assert_eq!((outcome, message.as_str()), (RequestOutcome::Refused, "no gate waits for an approval"));
    let (outcome, message) = ask(Verb::Promote, "promote-it");
    assert_eq!(outcome, RequestOutcome::Taken);
    assert!(message.ends_with("Before that: Frozen: inventory."), "{message}");
}

#[test]
fn a_rejected_revision_stays_held_until_it_is_asked_for() {
    for mut world in layouts() {
        world.guarded(Guard { quarantine: true, ..Guard::default() });
        world.answers.success_rate("1");
        world.update("v2");
        world.until_over(Phase::Failed);
        world.answers.success_rate("100");
        world.update("v1");
        world.until("the revert", |w| w.status().run.is_none() && w.key(keys::HOLD).is_none());
        world.update("v2");
        world.until("the rejection", |w| w.status().run.is_none() && w.key(keys::FAILED).is_some());
        nothing_runs(&mut world, 60, "v2");
        let history: Vec<Outcome> = world.status().history.iter().map(|past| past.outcome).collect();
        assert_eq!(history.last(), Some(&Outcome::Rejected));
        world.request(Verb::Retry, &revision("v2"), "1");
        world.until("the retry", |w| w.status().run.is_some());
        world.until_over(Phase::Succeeded);
        assert_eq!(world.image(&world.names.primary), "v2");
        // Promoted now, it is in no quarantine any more.
        world.update("v3");
        world.until("v3", |w| w.image(&w.names.primary) == "v3" && w.status().run.is_none());
        world.update("v2");
        world.until("v2", |w| w.image(&w.names.primary) == "v2" && w.status().run.is_none());
    }
}

#[test]
fn what_an_earlier_cluster_rejects_ends_the_wait_as_rejected() {
    for mut world in layouts() {
        world.guarded(closed("cluster one runs v1"));
        world.update("v2");
        world.until_phase(Phase::Waiting);
        says(&world, "cluster one runs v1");
        world.guarded(Guard {
            wave: Gate::Rejected("it was rejected in cluster one".into()),
            ..Guard::default()
        });
        world.until_over(Phase::Failed);
        nothing_runs(&mut world, 60, "v2");
        let stalled = world.status().conditions.into_iter().find(|c| c.type_ == "Stalled").unwrap();
        assert!(stalled.message.contains("it was rejected in cluster one"), "{}", stalled.message);
        // Somebody here knows better.
        world.request(Verb::Retry, &revision("v2"), "1");
        world.until("the retry", |w| w.status().run.is_some_and(|run| run.stage != Stage::Gated));
        world.until_over(Phase::Succeeded);
        assert_eq!(world.image(&world.names.primary), "v2");
    }
}
