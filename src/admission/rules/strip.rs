//! Nobody enrols by hand: on objects that are not ours yet, no key of ours may stand.
//!
//! A key written in advance would count from the moment of enrolment; a forged `promoted`, for
//! example, would let a template through unheld.

use crate::admission::outcome::{Change, Outcome, Rule};
use crate::admission::view::View;
use crate::api::keys;

/// Strips every label, annotation and finalizer of ours, and a pause that came with a hold: nobody
/// would ever lift it. `old` is the stored object, if there is one.
pub(in crate::admission) fn strip(old: Option<View<'_>>, new: View<'_>) -> Outcome {
    let mut outcome = Outcome::pass();
    let mut changes = Vec::new();
    for key in keys::LABELS {
        if new.label(key).is_some() {
            changes.push(Change::Label(key, None));
        }
    }
    if !changes.is_empty() {
        outcome.warn(
            "the sidetrack.dev labels were left out: only a Canary that names an object enrols it".to_owned(),
        );
    }
    for key in keys::ANNOTATIONS.into_iter().chain([keys::PORTS]) {
        if new.annotation(key).is_some() {
            changes.push(Change::Annotation(key, None));
        }
    }
    if new.traffic_finalizer().is_some() {
        changes.push(Change::RemoveFinalizer);
    }
    let pause_is_new = new.paused() && !old.is_some_and(View::paused);
    if new.annotation(keys::HOLD).is_some() && pause_is_new {
        changes.push(Change::Paused(false));
    }
    if !changes.is_empty() {
        outcome.note(Rule::Strip);
    }
    outcome.with_changes(changes)
}
