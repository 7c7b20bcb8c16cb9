//! Enrolment at admission: what a policy selects is protected from its first write, before a Canary of it exists.
//!
//! At CREATE the template is the first revision, which runs as it is. At the first UPDATE that brings another one the one
//! before is what runs, and the new one is held. A Deployment whose own roll-out is under way is left to it: the
//! controller takes it over when that is complete.

use super::applier;
use super::break_glass::BreakGlass;
use super::keyset::KeySet;
use crate::admission::decide::Entrance;
use crate::admission::outcome::{Change, Outcome, Rule};
use crate::admission::review::{Operation, Request};
use crate::admission::view::View;
use crate::api::keys;
use crate::api::names::label_value;
use crate::api::revision::Revision;
use serde_json::Value;
use std::borrow::Cow;

/// Decides about a write that one of the policies selects.
pub(in crate::admission) fn enrol(
    request: &Request,
    entrance: &Entrance,
    old: Option<View<'_>>,
    new: View<'_>,
) -> Outcome {
    let policy = match entrance {
        Entrance::Enrolled => return Outcome::pass(),
        Entrance::Policy { name, .. } | Entrance::Audit { name } => name,
    };
    let enrolled_by_another =
        new.label(keys::CANARY).is_some() && new.annotation(keys::POLICY).is_some_and(|by| by != policy);
    let was_enrolled = old.is_some_and(|old| old.label(keys::CANARY).is_some());
    if was_enrolled || enrolled_by_another || request.name.is_empty() {
        return Outcome::pass();
    }
    let Some(template) = new.spec("template").map(Revision::of) else { return Outcome::pass() };
    let first = match (request.operation, old) {
        (Operation::Create, _) => Some((template.clone(), None)),
        (Operation::Update, Some(old)) => match old.spec("template").map(Revision::of) {
            Some(before) if before != template => Some((before, Some(template))),
            _ => None,
        },
        _ => None,
    };
    let Some((promoted, hold)) = first else { return Outcome::pass() };
    let mut outcome = Outcome::pass();
    outcome.revision = Some(hold.clone().unwrap_or_else(|| promoted.clone()));
    if let Some(old) = old {
        if !at_rest(old) {
            outcome.note(Rule::Enrol);
            outcome.warn(format!("policy {policy} takes it over when its rollout is complete"));
            return outcome;
        }
        if BreakGlass::read(old, new) == BreakGlass::Counts {
            outcome.note(Rule::BreakGlass);
            outcome.warn(format!("break-glass: this revision passes policy {policy}, without analysis"));
            return outcome;
        }
    }
    match entrance {
        Entrance::Policy { layout, .. } => {
            put_on(request, (policy, layout), new, &promoted, hold.as_ref(), outcome)
        }
        _ => {
            outcome.note(Rule::Audit);
            if let Some(hold) = hold {
                outcome.warn(format!("policy {policy} would hold revision {hold}; it only audits"));
            }
            outcome
        }
    }
}

/// Whether it is unpaused and all its pods are of the template that it has.
fn at_rest(old: View<'_>) -> bool {
    let number = |field: &str| old.status(field).and_then(Value::as_i64).unwrap_or(0);
    let replicas = old.spec("replicas").and_then(Value::as_i64).unwrap_or(1);
    !old.paused()
        && replicas > 0
        && number("observedGeneration") >= old.generation()
        && number("replicas") == replicas
        && number("updatedReplicas") == replicas
}

/// Puts on the labels and keys that the controller puts on when it adopts; what stood there of ours before goes.
fn put_on(
    request: &Request,
    (policy, layout): (&str, &str),
    new: View<'_>,
    promoted: &Revision,
    hold: Option<&Revision>,
    mut outcome: Outcome,
) -> Outcome {
    let name = request.name.as_str();
    let mut changes = Vec::new();
    let labels = [
        (keys::CANARY, label_value(name)),
        (keys::LAYOUT, layout.to_owned()),
        (keys::ROLE, keys::ROLE_TARGET.to_owned()),
    ];
    for (key, value) in labels {
        if new.label(key) != Some(value.as_str()) {
            changes.push(Change::Label(key, Some(value)));
        }
    }
    // We are asked again when somebody has changed the object after us.
    let again = new.annotation(keys::POLICY) == Some(policy) && new.label(keys::CANARY).is_some();
    let paused_before = new.paused()
        && if again && new.annotation(keys::HOLD).is_some() {
            new.annotation(keys::PAUSED_BEFORE).is_some()
        } else {
            new.foreign_owner("f:paused")
        };
    let mut wanted = KeySet::default();
    wanted.set(keys::PROMOTED, Cow::Borrowed(promoted.as_str()));
    wanted.set(keys::POLICY, Cow::Borrowed(policy));
    // Made again as it was saved, held: its Canary knows what is to run instead, and lets it go where it does not.
    if request.operation == Operation::Create
        && new.paused()
        && new.annotation(keys::HOLD) == Some(promoted.as_str())
    {
        wanted.set(keys::HOLD, Cow::Borrowed(promoted.as_str()));
        if let Some(ran) = new.annotation(keys::PROMOTED) {
            wanted.set(keys::PROMOTED, Cow::Borrowed(ran));
        }
    }
    if let Some(hold) = hold {
        wanted.set(keys::HOLD, Cow::Borrowed(hold.as_str()));
        wanted.set(keys::PAUSED_BEFORE, paused_before.then_some(Cow::Borrowed("true")));
    }
    // Also of what is not held now: made anew, it may be held later, and nobody approves what they have applied themselves.
    if hold.is_some() || request.operation == Operation::Create {
        let manager = applier(request);
        wanted.set(keys::APPLIED_BY, Cow::Owned(format!("{manager} {}", request.user_info.username)));
    }
    for (key, value) in wanted.iter() {
        if new.annotation(key) != value {
            changes.push(Change::Annotation(key, value.map(str::to_owned)));
        }
    }
    if new.traffic_finalizer().is_some() {
        changes.push(Change::RemoveFinalizer);
    }
    if hold.is_some() && !new.paused() {
        changes.push(Change::Paused(true));
    }
    outcome.note(Rule::Enrol);
    if let Some(hold) = hold {
        outcome.note(Rule::Hold);
        outcome.warn(format!(
            "revision {hold} is held by policy {policy}: kubectl get canary {name} -n {}",
            request.namespace
        ));
    }
    outcome.with_changes(changes)
}
