//! What holds for every write: recorded reviews, enrolled and bent at random.
//!
//! [`answer`] asserts for each that the patch applies, that asking again changes nothing, that dry-run
//! gets the same bytes and that the template stays as written.

use crate::admission::outcome::{Rule, Verdict};
use crate::admission::review::{Operation, Request};
use crate::admission::testing::{Answered, answer, owner, recorded};
use crate::api::keys;
use crate::api::revision::{RESTARTED_AT, Revision};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

/// A value for one key: nothing, or something that may mean something.
#[derive(Clone, Copy, Debug)]
enum Text {
    Absent,
    OldHash,
    NewHash,
    Literal(&'static str),
}

fn text() -> impl Strategy<Value = Text> {
    let literals =
        ["true", "3", "0", "-1", "", "5 fire", "4 old", "6 early", "fire", "other"].map(Text::Literal);
    prop_oneof![4 => Just(Text::Absent), 2 => Just(Text::OldHash), 2 => Just(Text::NewHash), 3 => select(literals.to_vec())]
}

/// How a stored object and a write to it are made from a recorded review.
#[derive(Clone, Debug)]
struct Bend {
    seed: usize,
    template: usize,
    restart: bool,
    labels: (bool, bool),
    asked_labels: Option<Value>,
    stored: Vec<Text>,
    /// `None` leaves a key as it is stored.
    asked: Vec<Option<Text>>,
    paused: (Option<bool>, Option<bool>),
    replicas: (u8, Option<u8>),
    finalizers: (Value, Value),
    owner: (&'static str, Vec<&'static str>),
}

fn finalizers() -> impl Strategy<Value = Value> {
    let ours = keys::TRAFFIC_FINALIZER;
    select(vec![
        json!(null),
        json!([]),
        json!([ours]),
        json!(["a", ours]),
        json!([ours, "a"]),
        json!(["a"]),
        json!([ours, "a", ours]),
    ])
}

fn bend() -> impl Strategy<Value = Bend> {
    let labels = select(vec![
        json!(null),
        json!({}),
        json!({keys::CANARY: null}),
        json!({keys::CANARY: "other"}),
        json!({keys::ROLE: "generated", keys::LAYOUT: "in-place"}),
    ]);
    let count = keys::ANNOTATIONS.len();
    (
        (0..40usize, 0..60usize, any::<bool>(), any::<(bool, bool)>()),
        prop::option::weighted(0.2, labels),
        prop::collection::vec(text(), count),
        prop::collection::vec(prop::option::weighted(0.3, text()), count),
        any::<(Option<bool>, Option<bool>)>(),
        (0..4u8, prop::option::of(0..4u8)),
        (finalizers(), finalizers()),
        (
            select(vec!["kubectl", keys::FIELD_MANAGER]),
            prop::sample::subsequence(vec!["f:paused", "f:replicas"], 0..=2),
        ),
    )
        .prop_map(
            |(
                (seed, template, restart, labels),
                asked_labels,
                stored,
                asked,
                paused,
                replicas,
                finalizers,
                owner,
            )| Bend {
                seed,
                template,
                restart,
                labels,
                asked_labels,
                stored,
                asked,
                paused,
                replicas,
                finalizers,
                owner,
            },
        )
}

fn revision(object: &Value) -> String {
    Revision::of(&object["spec"]["template"]).as_str().to_owned()
}

impl Bend {
    fn request(&self) -> Request {
        let recorded = recorded();
        let other = recorded.get(self.template).map(|r| r.object["spec"]["template"].clone());
        let mut request = recorded[self.seed].clone();
        if request.operation == Operation::Create {
            request.operation = Operation::Update;
            request.old_object = request.object.clone();
        }
        let (old, new) = (&mut request.old_object, &mut request.object);
        if let Some(template) = other {
            new["spec"]["template"] = template;
        }
        if self.restart {
            json_patch::merge(
                &mut new["spec"]["template"],
                &json!({"metadata": {"annotations": {RESTARTED_AT: "now"}}}),
            );
        }
        let (in_place, generated) = self.labels;
        let labels = json!({
            keys::CANARY: "app",
            keys::LAYOUT: if in_place { keys::LAYOUT_IN_PLACE } else { keys::LAYOUT_PRIMARY_COPY },
            keys::ROLE: if generated { keys::ROLE_GENERATED } else { keys::ROLE_TARGET },
        });
        let hashes = (revision(old), revision(new));
        let write = |text: Text| match text {
            Text::Absent => Value::Null,
            Text::OldHash => json!(hashes.0),
            Text::NewHash => json!(hashes.1),
            Text::Literal(text) => json!(text),
        };
        let common = json!({
            "metadata": {"generation": 5, "labels": labels},
            "spec": {"replicas": self.replicas.0, "paused": self.paused.0},
        });
        for object in [&mut *old, &mut *new] {
            json_patch::merge(object, &common);
            for (key, &stored) in keys::ANNOTATIONS.into_iter().zip(&self.stored) {
                json_patch::merge(object, &json!({"metadata": {"annotations": {key: write(stored)}}}));
            }
        }
        for (key, asked) in keys::ANNOTATIONS.into_iter().zip(&self.asked) {
            if let Some(asked) = *asked {
                json_patch::merge(new, &json!({"metadata": {"annotations": {key: write(asked)}}}));
            }
        }
        json_patch::merge(old, &json!({"metadata": {"finalizers": self.finalizers.0}}));
        json_patch::merge(
            new,
            &json!({
                "metadata": {"finalizers": self.finalizers.1},
                "spec": {"paused": self.paused.1, "replicas": self.replicas.1.unwrap_or(self.replicas.0)},
            }),
        );
        if let Some(labels) = &self.asked_labels {
            json_patch::merge(new, &json!({"metadata": {"labels": labels}}));
        }
        let entries = new["metadata"]["managedFields"].as_array_mut().unwrap();
        entries.push(owner(self.owner.0, &self.owner.1));
        request
    }
}

fn has_finalizer(object: &Value) -> bool {
    object["metadata"]["finalizers"]
        .as_array()
        .is_some_and(|f| f.iter().any(|f| f == keys::TRAFFIC_FINALIZER))
}

/// The object without anything that the webhook may change.
fn foreign(mut object: Value) -> Value {
    let metadata = object["metadata"].as_object_mut().unwrap();
    for map in ["labels", "annotations"] {
        let entries = metadata.remove(map).and_then(|map| map.as_object().cloned()).unwrap_or_default();
        let kept: serde_json::Map<_, _> =
            entries.into_iter().filter(|(key, _)| !key.starts_with("sidetrack.dev/")).collect();
        metadata.insert(map.to_owned(), kept.into());
    }
    let finalizers = metadata.remove("finalizers").and_then(|f| f.as_array().cloned()).unwrap_or_default();
    let kept: Vec<_> = finalizers.into_iter().filter(|f| f != keys::TRAFFIC_FINALIZER).collect();
    metadata.insert("finalizers".to_owned(), kept.into());
    let spec = object["spec"].as_object_mut().unwrap();
    spec.remove("paused");
    spec.remove("replicas");
    object
}

/// Asserts the interlock's promises on one answered write to an enrolled Deployment.
fn check(request: &Request, answered: &Answered) {
    let (old, asked, stored) = (&request.old_object, &request.object, &answered.object);
    let annotation =
        |object: &Value, key: &str| object["metadata"]["annotations"][key].as_str().map(str::to_owned);
    let label = |object: &Value, key: &str| object["metadata"]["labels"][key].as_str().map(str::to_owned);
    let in_place = label(old, keys::LAYOUT).as_deref() == Some(keys::LAYOUT_IN_PLACE);
    let generated = label(old, keys::ROLE).as_deref() == Some(keys::ROLE_GENERATED);
    let new_glass = annotation(asked, keys::BREAK_GLASS) != annotation(old, keys::BREAK_GLASS);
    let glass = new_glass && annotation(asked, keys::BREAK_GLASS).as_deref() == Some("5 fire");
    let (before, after) = (revision(old), revision(asked));
    assert_eq!(foreign(asked.clone()), foreign(stored.clone()), "something foreign was changed");
    if let Verdict::Deny(_) = &answered.outcome.verdict {
        assert!(
            [Rule::BreakGlass, Rule::Generated, Rule::Selector].contains(&answered.outcome.rules[0]),
            "{:?}",
            answered.outcome
        );
        return;
    }
    assert!(!generated || glass || before == after, "a generated template was changed");
    if glass && label(asked, keys::CANARY).is_none() {
        assert!(in_place && !generated && label(stored, keys::CANARY).is_none());
        assert!(!has_finalizer(stored) && annotation(stored, keys::HOLD).is_none());
        return;
    }
    for key in keys::LABELS {
        assert_eq!(label(stored, key), label(old, key));
    }
    assert_eq!(annotation(stored, keys::PROMOTED), annotation(old, keys::PROMOTED));
    assert_eq!(has_finalizer(stored), has_finalizer(old));
    let glassed = annotation(stored, keys::GLASSED);
    assert!(glassed.is_none() || glass || glassed == annotation(old, keys::GLASSED));
    if !in_place && !generated {
        assert_eq!(stored["spec"]["replicas"], old["spec"]["replicas"]);
    }

    let hold = annotation(stored, keys::HOLD);
    let runs_by_glass = glass && (in_place || generated);
    let reverts = in_place && annotation(old, keys::PROMOTED).as_deref() == Some(after.as_str());
    if runs_by_glass || (before != after && reverts) {
        assert_eq!(hold, None);
    } else if before != after {
        assert_eq!((hold.as_deref(), &stored["spec"]["paused"]), (Some(after.as_str()), &json!(true)));
    } else {
        assert_eq!(hold, annotation(old, keys::HOLD), "a hold came or went without a template");
        assert!(hold.is_none() || stored["spec"]["paused"] == true);
    }
    if hold.is_none() && stored["spec"]["paused"] == true {
        let owners = if annotation(old, keys::HOLD).is_some() {
            annotation(old, keys::PAUSED_BEFORE).is_some()
        } else {
            old["spec"]["paused"] == true || annotation(asked, keys::HOLD).is_none()
        };
        assert!(owners, "a pause without an owner stays");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_write_to_an_enrolled_deployment_keeps_the_promises(bend in bend()) {
        let request = bend.request();
        check(&request, &answer(&request));
    }

    #[test]
    fn every_write_to_a_deployment_that_is_not_enrolled_leaves_without_our_keys(bend in bend(), create in any::<bool>()) {
        let mut request = bend.request();
        if create {
            request.operation = Operation::Create;
            request.old_object = Value::Null;
        } else {
            json_patch::merge(&mut request.old_object, &json!({"metadata": {"labels": {keys::CANARY: null}}}));
        }
        let answered = answer(&request);
        prop_assert_eq!(foreign(request.object.clone()), foreign(answered.object.clone()));
        if request.object["metadata"]["labels"][keys::CANARY].is_string() {
            let mut left = answered.object["metadata"]["annotations"].clone();
            // What was held when it was saved stays so: paused, on the template that it has.
            let revision = Revision::of(&answered.object["spec"]["template"]);
            let saved = create && answered.object["spec"]["paused"] == true;
            if saved && left[keys::HOLD] == revision.as_str() && let Some(left) = left.as_object_mut() {
                left.retain(|key, _| key != keys::HOLD && key != keys::PROMOTED);
            }
            prop_assert!(!left.to_string().contains("sidetrack.dev/"), "{left}");
            prop_assert!(!has_finalizer(&answered.object));
        }
    }

    #[test]
    fn every_write_of_the_controller_passes(bend in bend()) {
        let mut request = bend.request();
        request.user_info.username = keys::CONTROLLER_USER.to_owned();
        prop_assert!(answer(&request).passes_untouched());
    }
}
