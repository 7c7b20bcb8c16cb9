//! Pods of a revision that nobody released, in the layout `in-place`: they are taken back.
//!
//! The applied Deployment is the primary there. Made again (a restore, `kubectl replace --force`), or changed past the
//! webhook, it rolls to whatever its template says until we see it. The promoted revision is then rolled back to, so that
//! something serves all the while, and the other one is held again when that is done.

use crate::api::revision::Revision;
use crate::rollout::case::Case;
use crate::rollout::model::plan::{Message, Plan, Step};
use crate::rollout::model::workload::Workload;
use crate::rollout::stages::in_place;
use crate::rollout::status::Draft;

/// What was promoted before a target came back with another template, as long as its template is stored: it is what runs, and
/// the other one is held. Not where a person lets it run, and not over a pause of the owner's own.
///
/// The Canary's status says so; where it came back without one, as from most backups, the Deployment that was saved while it was
/// held does.
pub(in crate::rollout) fn promoted_before(case: &Case<'_>, target: &Workload) -> Option<Revision> {
    let o = case.o;
    let stated = o.status.revisions.primary.as_deref().map(Revision::from_key);
    let promoted = stated.or_else(|| target.keys.promoted.clone().filter(|_| target.held()))?;
    let known = o.snapshots.contains(&o.names.snapshot(&promoted));
    let is = o.names.in_place()
        && known
        && promoted != target.revision
        && !target.glass_counts(None)
        && (!target.paused || target.held());
    is.then_some(promoted)
}

/// Begins to take back pods of the held template.
pub(in crate::rollout) fn begin(case: &mut Case<'_>, target: &Workload) -> Option<Plan> {
    let o = case.o;
    let hold = target.keys.hold.clone().filter(|hold| target.held() && *hold == target.revision)?;
    let promoted = target.keys.promoted.clone().filter(|promoted| *promoted != hold)?;
    let revisions = &o.status.revisions;
    // A roll that a newer revision has stopped was released; so was what a person lets run.
    let was_released = revisions.mixed.as_deref() == Some(hold.as_str())
        || target.glassed(hold.as_str())
        || o.status.run.as_ref().is_some_and(|run| run.revision == hold.as_str() && in_place::released(run));
    let runs = target.rollout.updated > 0 && target.rollout.observed_generation >= target.generation;
    if was_released || !runs {
        return None;
    }
    if !o.snapshots.contains(&o.names.snapshot(&hold)) {
        return Some(Step::StoreSnapshot(hold).into());
    }
    if let Err(plan) = case.promoted_loaded(&promoted) {
        return Some(plan);
    }
    let mut plan = Plan::default();
    if revisions.taken_back.as_deref() != Some(hold.as_str()) {
        plan = plan
            .say(Message::warning(format!(
                "Revision {hold} of {} runs although nobody has released it: {promoted} comes back, and {hold} is held",
                case.target()
            )))
            .then(Draft::from(o).taken_back(Some(&hold)).as_it_is());
    }
    Some(plan.then(Step::RestoreTarget(promoted)))
}

/// Holds what was taken back, as soon as the primary runs the promoted revision again.
pub(in crate::rollout) fn end(case: &mut Case<'_>, target: &Workload) -> Option<Plan> {
    let o = case.o;
    let taken_back = Revision::from_key(o.status.revisions.taken_back.as_deref()?);
    let forget = || Some(Draft::from(o).taken_back(None).as_it_is().into());
    // It is held again, or something newer is; or it cannot be: then its owner applies it again.
    if target.held()
        || target.keys.promoted.as_ref() != Some(&target.revision)
        || !o.snapshots.contains(&o.names.snapshot(&taken_back))
    {
        return forget();
    }
    if let Err(error) = case.primary_ready() {
        let text = case.primary_not_ready(&error);
        let waits = format!("Revision {taken_back} is held when the promoted one runs again: {text}.");
        return Some(case.waits_saying(o.status.phase, &waits, Message::warning(text)));
    }
    if let Err(plan) = case.loaded(&taken_back) {
        return Some(plan);
    }
    Some(Step::HoldAgain(taken_back).into())
}
