//! Nobody enrols by hand: on objects that are not ours yet, no key of ours may stand.
//!
//! A key written in advance would count from the moment of enrolment; a forged `promoted`, for
//! example, would let a template through unheld.

use crate::admission::outcome::{Change, Outcome, Rule};
use crate::admission::view::View;
use crate::api::keys;
use crate::api::revision::Revision;

/// What a Deployment that was held when it was saved keeps: what it was held on, and what ran instead.
const SAVED: [&str; 2] = [keys::HOLD, keys::PROMOTED];

/// Strips every label, annotation and finalizer of ours, and a pause that came with a hold: nobody
/// would ever lift it. `old` is the stored object, if there is one.
///
/// One that was held when it was saved, in layout `in-place`, and is made again (a restore, `kubectl replace --force`) keeps its
/// hold: its Canary knows what is to run instead, and lifts it where it does not.
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
    let kept = old.is_none().then(|| held_as_saved(new)).flatten();
    for key in keys::ANNOTATIONS.into_iter().chain([keys::PORTS]) {
        if new.annotation(key).is_some() && !(kept.is_some() && SAVED.contains(&key)) {
            changes.push(Change::Annotation(key, None));
        }
    }
    if new.traffic_finalizer().is_some() {
        changes.push(Change::RemoveFinalizer);
    }
    let pause_is_new = new.paused() && !old.is_some_and(View::paused);
    if let Some(hold) = kept {
        outcome
            .warn(format!("revision {hold} stays held as it was saved, until its Canary decides about it"));
    } else if new.annotation(keys::HOLD).is_some() && pause_is_new {
        changes.push(Change::Paused(false));
    }
    if !changes.is_empty() {
        outcome.note(Rule::Strip);
    }
    outcome.with_changes(changes)
}

/// The revision that a Deployment was held on when it was saved, if that is what it says still.
pub(super) fn held_as_saved(new: View<'_>) -> Option<Revision> {
    let revision = Revision::of(new.spec("template")?);
    let in_place = new.label(keys::LAYOUT) == Some(keys::LAYOUT_IN_PLACE)
        && new.label(keys::ROLE) == Some(keys::ROLE_TARGET);
    (in_place && new.paused() && new.annotation(keys::HOLD) == Some(revision.as_str())).then_some(revision)
}
