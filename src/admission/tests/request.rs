//! Requests on a Canary, and who made them.

use crate::admission::testing::Write;
use crate::api::keys;
use serde_json::{Value, json};

const ASKED: &str = "promote 4f1c2a9b3d 1 urgent";

fn canary() -> Write {
    Write::update(json!({
        "apiVersion": "flagger.app/v1beta1", "kind": "Canary",
        "metadata": {"name": "app", "namespace": "test", "annotations": {"team": "a"}},
        "spec": {"analysis": {}},
    }))
    .by("alice")
}

fn asked() -> Write {
    canary().with(json!({keys::REQUEST: ASKED, keys::REQUESTED_BY: "bob"}))
}

#[test]
fn a_new_request_is_stamped_with_who_makes_it() {
    for forged in [Value::Null, "root".into(), "alice".into()] {
        let answered = canary().annotates(json!({keys::REQUEST: ASKED, keys::REQUESTED_BY: forged})).run();
        assert_eq!(answered.annotation(keys::REQUESTED_BY), Some("alice"), "{forged}");
        assert_eq!(answered.annotation(keys::REQUEST), Some(ASKED));
    }
    let another = asked().annotates(json!({keys::REQUEST: "abort 4f1c2a9b3d 2"})).run();
    assert_eq!(another.annotation(keys::REQUESTED_BY), Some("alice"));
}

#[test]
fn the_stamp_of_a_request_that_stands_stays() {
    for forged in [Value::Null, "root".into()] {
        let answered = asked().annotates(json!({keys::REQUESTED_BY: forged})).run();
        assert_eq!(answered.annotation(keys::REQUESTED_BY), Some("bob"), "{forged}");
    }
    assert!(asked().asks(json!({"spec": {"suspend": true}})).run().passes_untouched());
}

#[test]
fn no_stamp_stands_without_a_request() {
    assert_eq!(
        canary().annotates(json!({keys::REQUESTED_BY: "root"})).run().annotation(keys::REQUESTED_BY),
        None
    );
    assert_eq!(asked().annotates(json!({keys::REQUEST: null})).run().annotation(keys::REQUESTED_BY), None);
}

#[test]
fn a_new_canary_has_nothing_to_ask_for() {
    let answered = asked().create().run();
    assert_eq!((answered.annotation(keys::REQUEST), answered.annotation(keys::REQUESTED_BY)), (None, None));
    assert!(answered.warned_of("a new Canary"));
    assert!(canary().create().run().passes_untouched());
}

#[test]
fn what_cannot_be_read_is_refused_at_once_and_not_when_it_stands() {
    let refused = canary().annotates(json!({keys::REQUEST: "promote"})).run();
    assert!(
        refused.denied().contains("annotation sidetrack.dev/request: a request has at least three words")
    );
    let stands = canary().with(json!({keys::REQUEST: "promote", keys::REQUESTED_BY: "bob"}));
    assert!(stands.asks(json!({"spec": {"suspend": true}})).run().passes_untouched());
}
