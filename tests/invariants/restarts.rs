//! The restart of a primary that is held in place: pod by pod, as its template is the held one.

use jiff::SignedDuration;
use sidetrack::api::Verb::{Abort, Restart};
use sidetrack::api::status::{Phase, RequestOutcome};
use sim::World;
use sim::manifests::in_place;
use sim::world::{Fuse, revision};

/// v1 runs, v2 was rejected and is held; all pods are of before the restart.
fn rejected(pods: i32) -> World {
    let mut world = World::initialised(in_place(&[]));
    world.answers.success_rate("50");
    world.update("v2");
    world.until_over(Phase::Failed);
    world.scale("app", pods).unwrap();
    world.run(20);
    world
}

fn done(world: &World) -> bool {
    world.answered().is_some_and(|a| a.outcome != RequestOutcome::Accepted)
}

fn answer(world: &mut World) -> (RequestOutcome, String) {
    world.until("an answer", done);
    let answer = world.answered().unwrap();
    (answer.outcome, answer.message)
}

#[test]
fn each_pod_is_made_again_once_one_at_a_time_with_the_same_revision() {
    let mut world = rejected(3);
    world.request(Restart, &revision("v1"), "1");
    let asked = world.cluster.now;
    let mut least = 3;
    world.until("an answer", |w| {
        least = least.min(w.primary_pods().ready(w.cluster.now));
        done(w)
    });
    assert_eq!((least, world.evicted), (2, 3));
    assert_eq!(answer(&mut world), (RequestOutcome::Taken, "The primary was restarted, pod by pod.".into()));
    assert!(world.cluster.now < asked + SignedDuration::from_secs(30), "it goes on as pods get ready");
    assert_eq!(world.primary_pods().revisions(), [&revision("v1")]);
    world.until("its pods", |w| w.primary_pods().ready(w.cluster.now) == 3);
    assert_eq!((world.status().phase, world.image("app").as_str()), (Phase::Failed, "v2"));
    world.kill();
    world.start();
    world.run(60);
    assert_eq!(world.evicted, 3);
}

#[test]
fn it_goes_on_whenever_the_process_is_killed() {
    let mut begin = rejected(3);
    begin.request(Restart, &revision("v1"), "1");
    for write in 0..12 {
        for after in [false, true] {
            let mut world = begin.fork();
            world.arm(Fuse { write, after });
            assert_eq!(answer(&mut world).0, RequestOutcome::Taken);
            assert_eq!((world.evicted, world.primary_pods().revisions()), (3, vec![&revision("v1")]));
        }
    }
}

#[test]
fn a_budget_that_lets_no_pod_go_is_told_and_holds_up_nothing_else() {
    let mut world = World::initialised(in_place(&[]));
    world.update("v2");
    world.until_weight(20);
    world.workloads.budget = true;
    world.request(Restart, &revision("v1"), "1");
    world.until("the reason", |w| {
        w.status().request.is_some_and(|r| r.message.contains("violate the budget"))
    });
    world.until_weight(40);
    // Whoever asks for something else does not wait for it.
    world.request(Abort, &revision("v2"), "2");
    assert_eq!(answer(&mut world).0, RequestOutcome::Taken);
    world.until_over(Phase::Failed);
    assert_eq!(world.evicted, 0);

    world.request(Restart, &revision("v1"), "3");
    world.run(60);
    assert!(!done(&world));
    world.workloads.budget = false;
    assert_eq!(answer(&mut world).0, RequestOutcome::Taken);
    assert_eq!(world.evicted, 2);
}

#[test]
fn the_only_pod_is_not_taken_away() {
    let mut world = rejected(1);
    world.request(Restart, &revision("v1"), "1");
    let (outcome, message) = answer(&mut world);
    assert_eq!(outcome, RequestOutcome::Refused);
    assert!(message.contains("its only pod would be evicted"), "{message}");
}

#[test]
fn a_promotion_that_replaces_the_pods_is_a_restart() {
    let mut world = World::initialised(in_place(&[]));
    world.update("v2");
    world.until_weight(40);
    world.workloads.budget = true;
    world.request(Restart, &revision("v1"), "1");
    world.until_over(Phase::Succeeded);
    assert_eq!(answer(&mut world).0, RequestOutcome::Taken);
    assert_eq!((world.evicted, world.primary_pods().revisions()), (0, vec![&revision("v2")]));
}
