//! Every request gets an answer, also of a Canary that is not served or is on its way out; status tells what is so.

use serde_json::json;
use sidetrack::api::Verb::{Abort, Promote};
use sidetrack::api::keys;
use sidetrack::api::status::{Phase, RequestOutcome};
use sim::World;
use sim::manifests::{canary, in_place};
use sim::world::revision;

#[test]
fn a_canary_that_is_being_deleted_refuses_and_goes() {
    let mut world = World::initialised(canary(&[]));
    world.update("v2");
    world.until_weight(40);
    let object = world.canary.clone();
    world.delete(&object);
    world.request(Promote, &revision("v2"), "1");
    world.until("an answer", |w| w.answered().is_some());
    let answer = world.answered().unwrap();
    assert_eq!(
        (answer.outcome, answer.message.as_str()),
        (RequestOutcome::Refused, "the Canary is being deleted")
    );
    assert!(world.has_said("refused: the Canary is being deleted"));
    world.until("the Canary to go", |w| w.cluster.get(&w.canary).is_none());
    assert_eq!(world.image("app"), "v1");
}

#[test]
fn a_spec_that_is_not_served_refuses_and_stays_refused() {
    let mut world = World::initialised(canary(&[]));
    world.update("v2");
    world.until_weight(40);
    world.edit_canary("/spec/analysis/mirror", json!(true));
    world.request(Abort, &revision("v2"), "1");
    world.until("an answer", |w| w.answered().is_some());
    let answer = world.answered().unwrap();
    assert_eq!(answer.outcome, RequestOutcome::Refused);
    assert!(answer.message.starts_with("its spec is not served: "), "{}", answer.message);
    world.run(60);
    let (writes, said) = (world.writes, world.times_said("asked to abort"));
    world.run(60);
    assert_eq!((world.writes, said), (writes, 1));
}

#[test]
fn the_condition_of_a_rejection_speaks_of_what_was_done() {
    for (object, words) in [(canary(&[]), "Deployment scaled to zero."), (in_place(&[]), "canary deleted.")] {
        let mut world = World::initialised(object);
        world.answers.success_rate("50");
        world.update("v2");
        world.until_over(Phase::Failed);
        let promoted = world.status().conditions.into_iter().find(|c| c.type_ == "Promoted").unwrap();
        assert_eq!(promoted.message, format!("Canary analysis failed, {words}"));
    }
}

#[test]
fn status_names_what_each_check_and_gate_said_last_and_forgets_it_with_the_next_run() {
    let hooks = [("gate", "confirm-rollout"), ("door", "confirm-promotion")];
    let mut world = World::initialised(canary(&hooks));
    let last = |world: &World, name: &str| {
        let found = world.status().checks.into_iter().find(|check| check.name == name)?;
        Some((found.type_, found.passed, found.value))
    };
    world.answers.hook("gate", 403);
    world.update("v2");
    world.until_phase(Phase::Waiting);
    assert_eq!(last(&world, "gate"), Some(("confirm-rollout".into(), false, None)));
    assert_eq!(last(&world, "request-success-rate"), None);
    world.answers.hook("gate", 200);
    world.until_weight(40);
    assert_eq!(last(&world, "gate"), Some(("confirm-rollout".into(), true, None)));
    let rate = |passed, value: &str| Some(("metric".to_owned(), passed, Some(value.to_owned())));
    assert_eq!(last(&world, "request-success-rate"), rate(true, "100.00%"));
    world.answers.success_rate("50");
    world.until_over(Phase::Failed);
    assert_eq!(last(&world, "request-success-rate"), rate(false, "50.00%"));
    assert_eq!(last(&world, "door"), None);
    // It costs no write: at rest there is none.
    let writes = world.writes;
    world.run(600);
    assert_eq!(world.writes, writes);
    world.answers.hook("gate", 403);
    world.update("v3");
    world.until_phase(Phase::Waiting);
    assert_eq!(last(&world, "request-success-rate"), None);
    assert!(world.key(keys::HOLD).is_some());
}
