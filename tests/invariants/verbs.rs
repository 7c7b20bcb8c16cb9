//! What people ask of a release: each verb in each situation, and what becomes of it.

use serde_json::json;
use sidetrack::api::Verb::{self, Abort, Approve, Pause, Promote, Restart, Resume, Retry, Skip};
use sidetrack::api::keys;
use sidetrack::api::status::{Phase, RequestOutcome, Stage};
use sim::World;
use sim::manifests::{canary, deployment, in_place};
use sim::world::revision;
use sim::writers::Webhook;

const RESTARTED: &str = "/spec/template/metadata/annotations/kubectl.kubernetes.io~1restartedAt";

fn stage(world: &World) -> Option<Stage> {
    world.status().run.map(|run| run.stage)
}

fn until_stage(world: &mut World, wanted: Stage) {
    world.until(&format!("{wanted:?}"), |w| stage(w) == Some(wanted));
}

/// Asks and waits for the answer.
fn ask(world: &mut World, verb: Verb, image: &str) -> (RequestOutcome, String) {
    world.request(verb, &revision(image), "1");
    world.until("an answer", |w| w.answered().is_some_and(|a| a.outcome != RequestOutcome::Accepted));
    let answer = world.answered().unwrap();
    (answer.outcome, answer.message)
}

#[track_caller]
fn taken(world: &mut World, verb: Verb, image: &str) {
    let (outcome, message) = ask(world, verb, image);
    assert_eq!(outcome, RequestOutcome::Taken, "{verb}: {message}");
}

/// A situation that v2 (v1 where nothing is released) is in.
fn situations() -> Vec<(&'static str, World)> {
    let hooks = [("gate", "confirm-rollout"), ("door", "confirm-promotion")];
    let initialised = World::initialised(canary(&hooks));
    let reached = |make: &dyn Fn(&mut World)| {
        let mut world = initialised.fork();
        make(&mut world);
        world
    };
    let slow = |world: &mut World| world.update_with("v2", Some("slow")).unwrap();
    let weighted = |world: &mut World| {
        world.update("v2");
        world.until_weight(40);
        world.run(1);
    };
    vec![
        ("at rest", initialised.fork()),
        (
            "failed",
            reached(&|w| {
                w.answers.success_rate("1");
                w.update("v2");
                w.until_over(Phase::Failed);
                w.answers.success_rate("100");
            }),
        ),
        (
            "gated",
            reached(&|w| {
                w.answers.hook("gate", 403);
                w.update("v2");
                w.until_phase(Phase::Waiting);
            }),
        ),
        (
            "releasing",
            reached(&|w| {
                slow(w);
                until_stage(w, Stage::Releasing);
            }),
        ),
        ("analysing", reached(&weighted)),
        (
            "paused",
            reached(&|w| {
                weighted(w);
                taken(w, Pause, "v2");
            }),
        ),
        (
            "at the door",
            reached(&|w| {
                w.answers.hook("door", 403);
                w.update("v2");
                w.until_phase(Phase::WaitingPromotion);
            }),
        ),
        (
            "promoting",
            reached(&|w| {
                w.update_with("v2", Some("canaryonly")).unwrap();
                until_stage(w, Stage::Promoting);
            }),
        ),
        (
            "finalising",
            reached(&|w| {
                w.update("v2");
                until_stage(w, Stage::Finalising);
            }),
        ),
        (
            "rolling back",
            reached(&|w| {
                weighted(w);
                taken(w, Abort, "v2");
                until_stage(w, Stage::RollingBack);
            }),
        ),
        (
            "cancelling",
            reached(&|w| {
                weighted(w);
                w.update("v1");
                until_stage(w, Stage::Cancelling);
            }),
        ),
    ]
}

/// What is said to a verb: `Ok`, or a part of the refusal.
fn said(situation: &str, verb: Verb) -> Result<(), &'static str> {
    match (situation, verb) {
        ("at rest" | "failed" | "gated" | "releasing" | "analysing" | "paused" | "at the door", Restart) => {
            Ok(())
        }
        (_, Restart) => Err("part of a promotion or a rollback"),
        ("failed", Retry) => Ok(()),
        ("at rest", Retry) => Err("no revision was rejected"),
        ("failed", _) => Err("was rejected; retry it"),
        ("at rest", _) => Err("nothing is being released"),
        ("rolling back", _) => Err("being rolled back"),
        ("cancelling", _) => Err("being cancelled"),
        ("promoting", Abort) => Ok(()),
        ("finalising", Abort) => Err("the primary runs it already"),
        ("promoting" | "finalising", _) => Err("it is being promoted"),
        (_, Retry) => Err("it is being released already"),
        ("gated" | "at the door", Approve) => Ok(()),
        (_, Approve) => Err("no gate waits"),
        ("paused", Pause) => Err("it is paused already"),
        ("paused", Resume) => Ok(()),
        (_, Resume) => Err("it is not paused"),
        (_, Promote | Skip | Abort | Pause) => Ok(()),
    }
}

#[test]
fn each_verb_in_each_situation_is_taken_or_refused_with_a_reason() {
    for (situation, begin) in situations() {
        for verb in Verb::ALL {
            let mut world = begin.fork();
            let slow = matches!(situation, "releasing" | "promoting");
            // The primary's revision is what is restarted; at rest there is no other.
            let of = match verb {
                Restart => world.key(keys::PROMOTED).unwrap().to_owned(),
                _ if situation == "at rest" => revision("v1").as_str().to_owned(),
                _ if slow => world.status().run.unwrap().revision,
                _ => revision("v2").as_str().to_owned(),
            };
            let before = world.status();
            world.request(verb, &sidetrack::api::revision::Revision::from_key(of), "2");
            world.until("an answer", |w| w.answered().is_some_and(|a| a.outcome != RequestOutcome::Accepted));
            let answer = world.answered().unwrap();
            assert_eq!(answer.by, "admin");
            let what = format!("{verb} {situation}: {answer:?}");
            match said(situation, verb) {
                Ok(()) => {
                    assert_eq!(answer.outcome, RequestOutcome::Taken, "{what}");
                    assert!(world.has_said("admin asked to "), "{what}");
                }
                Err(why) => {
                    assert_eq!(answer.outcome, RequestOutcome::Refused, "{what}");
                    assert!(answer.message.contains(why), "{what}");
                    assert!(world.has_said(&format!("refused: {}", answer.message)), "{what}");
                    let after = world.status();
                    if !matches!(situation, "promoting" | "finalising" | "rolling back" | "cancelling") {
                        assert_eq!((after.run, after.phase), (before.run, before.phase), "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_request_for_another_revision_is_refused() {
    for (situation, mut world) in situations() {
        for verb in Verb::ALL {
            world.request(verb, &revision("v9"), situation);
            world.until("an answer", |w| w.answered().is_some());
            assert_eq!(world.answered().unwrap().outcome, RequestOutcome::Refused, "{verb} {situation}");
        }
    }
}

#[test]
fn a_request_is_carried_out_once_whatever_is_applied_or_started_again() {
    let mut world = World::initialised(canary(&[]));
    world.update("v2");
    world.until_weight(20);
    taken(&mut world, Abort, "v2");
    world.until_over(Phase::Failed);
    let why = "was rejected (aborted by admin: for a reason)";
    assert!(world.ready_message().contains(why), "{}", world.ready_message());
    // What is asked and refused later does not make anybody forget it.
    world.request(Pause, &revision("v2"), "later");
    world.until("an answer", |w| w.answered().is_some());
    world.run(30);
    assert!(world.ready_message().contains(why), "{}", world.ready_message());
    world.retry().unwrap();
    world.apply(canary(&[]));
    world.kill();
    world.start();
    world.until_over(Phase::Succeeded);
    assert_eq!((world.image("app-primary").as_str(), world.times_said("asked to abort")), ("v2", 1));
}

#[test]
fn what_nobody_stamped_is_refused() {
    let mut world = World::initialised(canary(&[]));
    world.update("v2");
    world.until_weight(20);
    world.webhook = Webhook::Gone;
    let (outcome, message) = ask(&mut world, Promote, "v2");
    assert_eq!(outcome, RequestOutcome::Refused);
    assert!(message.contains("the webhook did not see"), "{message}");
}

#[test]
fn promote_passes_gates_and_steps_but_not_readiness() {
    let mut world = World::initialised(canary(&[("gate", "confirm-rollout"), ("door", "confirm-promotion")]));
    world.answers.hook("gate", 403);
    world.answers.hook("door", 403);
    world.update("v2");
    world.until_phase(Phase::Waiting);
    world.set_ready("app", false, 1);
    taken(&mut world, Promote, "v2");
    world.until_over(Phase::Succeeded);
    assert_eq!(world.image("app-primary"), "v2");

    let mut world = World::initialised(canary(&[]));
    world.update("v2");
    world.until_weight(20);
    world.set_ready("app", false, 1);
    taken(&mut world, Promote, "v2");
    world.run(5);
    assert_eq!(world.image("app-primary"), "v1", "{}", world.tail());
    world.until_over(Phase::Failed);
    assert_eq!(world.image("app-primary"), "v1");
}

#[test]
fn skip_leaves_out_the_judging_and_asks_the_gates() {
    let mut world = World::initialised(canary(&[("door", "confirm-promotion")]));
    world.answers.hook("door", 403);
    world.update("v2");
    world.until_weight(20);
    world.answers.success_rate("1");
    taken(&mut world, Skip, "v2");
    world.run(60);
    let status = world.status();
    assert_eq!((status.phase, world.weight(), status.failed_checks), (Phase::WaitingPromotion, 20, 0));
    world.answers.hook("door", 200);
    world.until_over(Phase::Succeeded);
    assert_eq!(world.image("app-primary"), "v2");
    assert!(world.has_said("Canary analysis was skipped"));
}

#[test]
fn a_paused_run_keeps_its_weight_and_costs_nothing_until_it_is_resumed() {
    let mut world = World::initialised(canary(&[]));
    world.update("v2");
    world.until_weight(40);
    taken(&mut world, Pause, "v2");
    world.run(1);
    assert!(world.ready_message().contains("paused by admin"), "{}", world.ready_message());
    world.answers.success_rate("1");
    let (writes, looks) = (world.writes, world.looks);
    world.run(600);
    assert_eq!((world.weight(), world.writes, world.looks), (40, writes, looks), "{}", world.tail());
    world.answers.success_rate("100");
    taken(&mut world, Resume, "v2");
    world.until_over(Phase::Succeeded);
}

#[test]
fn a_paused_run_whose_pods_fail_is_rolled_back() {
    let mut world = World::initialised(canary(&[]));
    world.update("v2");
    world.until_weight(40);
    taken(&mut world, Pause, "v2");
    world.set_ready("app", false, 1);
    world.until_over(Phase::Failed);
    assert_eq!(world.image("app-primary"), "v1");
}

#[test]
fn a_pause_ends_with_the_revision_that_it_was_for() {
    let mut world = World::initialised(canary(&[]));
    world.update("v2");
    world.until_weight(40);
    taken(&mut world, Pause, "v2");
    world.update("v3");
    world.until_over(Phase::Succeeded);
    assert_eq!(world.image("app-primary"), "v3");
}

#[test]
fn approving_opens_the_gate_that_waits_and_no_later_one() {
    let mut world = World::initialised(canary(&[("gate", "confirm-rollout"), ("door", "confirm-promotion")]));
    world.answers.hook("gate", 403);
    world.answers.hook("door", 403);
    world.update("v2");
    world.until_phase(Phase::Waiting);
    taken(&mut world, Approve, "v2");
    world.until_phase(Phase::WaitingPromotion);
    world.run(60);
    assert_eq!(world.image("app-primary"), "v1");
    world.request(Approve, &revision("v2"), "2");
    world.until_over(Phase::Succeeded);
    assert_eq!(world.image("app-primary"), "v2");
}

#[test]
fn an_aborted_promotion_brings_the_revision_before_back() {
    for image in ["slow", "canaryonly"] {
        let mut world = World::initialised(canary(&[]));
        world.update_with("v2", Some(image)).unwrap();
        until_stage(&mut world, Stage::Promoting);
        let run = world.status().run.unwrap().revision;
        world.request(Abort, &sidetrack::api::revision::Revision::from_key(run), "1");
        world.until_over(Phase::Failed);
        assert_eq!((world.image("app-primary").as_str(), world.weight()), ("v1", 0));
    }
}

#[test]
fn a_promotion_in_steps_is_aborted_on_its_way_back() {
    let mut object = canary(&[]);
    object["spec"]["analysis"]["stepWeightPromotion"] = json!(30);
    let mut world = World::initialised(object);
    world.update("v2");
    until_stage(&mut world, Stage::Returning);
    taken(&mut world, Abort, "v2");
    world.until_over(Phase::Failed);
    assert_eq!((world.image("app-primary").as_str(), world.weight()), ("v1", 0));
}

#[test]
fn a_rejected_revision_is_retried_past_its_gate_only() {
    let mut world = World::initialised(canary(&[("gate", "confirm-rollout")]));
    world.answers.success_rate("1");
    world.update("v2");
    world.until_over(Phase::Failed);
    world.answers.success_rate("100");
    world.answers.hook("gate", 403);
    taken(&mut world, Retry, "v2");
    world.until_phase(Phase::Waiting);
    world.run(60);
    assert_eq!(world.replicas("app"), 0);
    world.answers.hook("gate", 200);
    world.until_over(Phase::Succeeded);
    assert_eq!((world.image("app-primary").as_str(), world.key(keys::FAILED)), ("v2", None));
}

#[test]
fn a_retry_that_is_aborted_is_rejected_as_before() {
    let mut world = World::initialised(canary(&[("gate", "confirm-rollout")]));
    world.answers.success_rate("1");
    world.update("v2");
    world.until_over(Phase::Failed);
    world.answers.hook("gate", 403);
    taken(&mut world, Retry, "v2");
    world.until_phase(Phase::Waiting);
    taken(&mut world, Abort, "v2");
    world.until_over(Phase::Failed);
    assert_eq!(world.key(keys::FAILED), world.key(keys::HOLD));
}

#[test]
fn a_held_primary_is_restarted_once_with_the_same_revision() {
    let mut world = World::initialised(canary(&[]));
    world.answers.success_rate("1");
    world.update("v2");
    world.until_over(Phase::Failed);
    taken(&mut world, Restart, "v1");
    let restarted = world.primary().unwrap().pointer(RESTARTED).cloned();
    assert!(restarted.is_some());
    assert_eq!((world.image("app-primary").as_str(), world.status().phase), ("v1", Phase::Failed));
    world.kill();
    world.start();
    world.run(60);
    assert_eq!(world.primary().unwrap().pointer(RESTARTED), restarted.as_ref());
}

#[test]
fn a_suspended_canary_refuses_whatever_is_asked() {
    let mut world = World::initialised(canary(&[]));
    world.update("v2");
    world.until_weight(40);
    world.edit_canary("/spec/suspend", json!(true));
    let (outcome, message) = ask(&mut world, Promote, "v2");
    assert_eq!(outcome, RequestOutcome::Refused);
    assert!(message.contains("spec.suspend"), "{message}");
}

#[test]
fn re_applying_the_canary_leaves_a_request_alone() {
    let mut world = World::initialised(canary(&[]));
    world.update("v2");
    world.until_weight(40);
    taken(&mut world, Pause, "v2");
    world.apply(deployment("v2", None, Some(2)));
    world.apply(canary(&[]));
    world.run(60);
    assert_eq!((world.weight(), world.answered().map(|a| a.outcome)), (40, Some(RequestOutcome::Taken)));
}

#[test]
fn in_place_the_verbs_steer_the_roll_of_the_target_itself() {
    let ready = World::initialised(in_place(&[("door", "confirm-promotion")]));
    let released = |verb: Verb| {
        let mut world = ready.fork();
        world.answers.hook("door", 403);
        world.update("v2");
        world.until_weight(40);
        taken(&mut world, verb, "v2");
        world
    };
    let mut promoted = released(Promote);
    promoted.until_over(Phase::Succeeded);
    assert_eq!(promoted.key(keys::HOLD), None);

    let mut paused = released(Pause);
    paused.run(60);
    assert_eq!(paused.weight(), 40);

    let mut aborted = released(Abort);
    aborted.until_over(Phase::Failed);
    assert_eq!((aborted.key(keys::FAILED), aborted.weight()), (aborted.key(keys::HOLD), 0));
    taken(&mut aborted, Restart, "v1");
    assert!(aborted.target().unwrap().pointer(RESTARTED).is_none(), "the held template is as it was applied");
    aborted.answers.hook("door", 200);
    taken(&mut aborted, Retry, "v2");
    aborted.until_over(Phase::Succeeded);
    assert_eq!((aborted.key(keys::HOLD), aborted.key(keys::FAILED)), (None, None));
    taken(&mut aborted, Restart, "v2");
    assert!(aborted.target().unwrap().pointer(RESTARTED).is_some());

    let mut rolling = ready.fork();
    rolling.update_with("v2", Some("slow")).unwrap();
    until_stage(&mut rolling, Stage::Promoting);
    let run = rolling.status().run.unwrap().revision;
    rolling.request(Abort, &sidetrack::api::revision::Revision::from_key(run), "1");
    rolling.until("an answer", |w| w.answered().is_some());
    assert!(rolling.answered().unwrap().message.contains("apply the revision before it"));
    rolling.update("v1");
    rolling.until("v1 again", |w| w.at_rest() && w.image("app") == "v1" && w.status().run.is_none());
}
