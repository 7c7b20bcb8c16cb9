//! What differs where the applied Deployment is the primary (interlock §2, `in-place`).
//!
//! The held template waits in the Deployment while its pods stay as they are. A canary is made for the time of a release
//! only, and the release of the hold is the promotion: the native rolling update, watched to its end.

use crate::api::revision::Revision;
use crate::api::status::{Phase, Run, Stage};
use crate::rollout::case::{Case, Newer};
use crate::rollout::interrupts::unreleased;
use crate::rollout::model::plan::{Message, Plan, Step};
use crate::rollout::model::workload::{NotReady, Workload};
use crate::rollout::stages::{analysis, idle, promotion, release, rollback};
use crate::rollout::status::Draft;
use crate::router::replicas::count;

/// What comes before anything else of a Canary that is not leaving.
pub(in crate::rollout) fn first(case: &mut Case<'_>, target: &Workload) -> Option<Plan> {
    if target.held() && target.replicas == 0 && case.m.emptied != Some(target.generation) {
        // Scaled up now, Kubernetes would start the held template, or whichever ran last (F-7).
        case.m.emptied = Some(target.generation);
        return Some(Step::EmptyHistory.into());
    }
    let fresh = target.rollout.replicas == 0 && target.rollout.observed_generation < target.generation;
    if target.held() && target.replicas > 0 && fresh {
        return Some(Plan::default()); // whose pods come up is not known yet; its status says so
    }
    if let Some(plan) = unreleased::begin(case, target).or_else(|| given_back(case, target)) {
        return Some(plan);
    }
    if target.held() && target.keys.hold.as_ref() != Some(&target.revision) {
        // Written while the webhook was gone: what is analysed is not what would be released.
        return Some(Step::CorrectHold(target.revision.clone()).into());
    }
    let glassed = target.glassed(target.revision.as_str());
    if glassed && !case.o.snapshots.contains(&case.o.names.snapshot(&target.revision)) {
        // No analysis has stored it: under other defaults nobody could tell what the primary runs from a bypass.
        return Some(Step::StoreSnapshot(target.revision.clone()).into());
    }
    if glassed && let Some(hold) = target.keys.hold.as_ref().filter(|_| target.held()) {
        return Some(Step::ClearHold(hold.clone()).into());
    }
    let known = |run: &Run| run.revision == target.revision.as_str() && released(run);
    if !glassed
        || case.o.status.run.as_ref().is_some_and(known)
        || target.keys.promoted.as_ref() == Some(&target.revision)
    {
        return None;
    }
    // A person let it run: it rolls already, and what was analysed meanwhile is of no use.
    let mut run = idle::begin(case, target, &target.revision, Stage::Promoting);
    run.skip = true;
    case.end_tick();
    let mut plan = Plan::default();
    if case.o.routes.weight.is_some_and(|w| w != 0) && case.primary_serves() {
        plan = plan.then(Step::SetWeight(0));
    }
    let status = Draft::from(case.o).zeroed().analysed(target.revision.as_str()).run(Some(run));
    Some(plan.then(status.finish(
        Phase::Promoting,
        "Break-glass: the primary rolls to the revision unanalysed.",
        case.now,
    )))
}

/// Pods that are asked for while a revision is held are the promoted one's, also where Kubernetes keeps no ReplicaSet of it.
pub(in crate::rollout) fn given_back(case: &mut Case<'_>, target: &Workload) -> Option<Plan> {
    let bare = target.held()
        && target.replicas > 0
        && target.rollout.replicas == 0
        && target.rollout.observed_generation >= target.generation;
    let promoted =
        target.keys.promoted.clone().filter(|_| bare && case.m.given_back != Some(target.generation))?;
    if let Err(plan) = case.promoted_loaded(&promoted) {
        return Some(plan);
    }
    case.m.given_back = Some(target.generation);
    Some(Step::GiveBackPods(promoted).into())
}

/// Whether a run has come to where its revision is let run.
pub(in crate::rollout) const fn released(run: &Run) -> bool {
    matches!(run.stage, Stage::Promoting | Stage::Returning | Stage::Finalising | Stage::Closing)
}

/// Routes at 100/0, then a canary of the held template, its pods ready at weight zero.
pub(in crate::rollout) fn releasing(case: &mut Case<'_>, target: &Workload, run: &Run) -> Plan {
    let o = case.o;
    if let Some(plan) = rollback::cut_short(case, target, run) {
        return plan;
    }
    if let Err(plan) = case.drained() {
        return plan;
    }
    if !target.owned.is_empty() {
        return Step::Disown.into();
    }
    let other = o.canary_revision.as_ref().is_none_or(|r| r.as_str() != run.revision);
    // Pods that have had requests are not begun with again.
    let used = |canary: &Workload| o.policy.by_replicas && canary.replicas == 0;
    if o.canary.as_ref().is_some_and(|canary| other || canary.terminating || used(canary)) {
        return remove(case).unwrap_or_default();
    }
    if o.canary.is_none() {
        let revision = Revision::from_key(&run.revision);
        if !o.snapshots.contains(&o.names.snapshot(&revision)) {
            return Step::StoreSnapshot(revision).into();
        }
        if let Err(plan) = case.loaded(&revision) {
            return plan;
        }
        return Step::CreateCanary { revision, replicas: replicas(case) }.into();
    }
    if let Some(plan) = follow(case, run) {
        return plan;
    }
    match case.canary_ready(target, run) {
        Ok(()) => {
            case.m.said_at = None;
            analysis::advance(case, target, &case.enter(run, Stage::Analysing))
        }
        Err(error) => {
            let text = case.canary_not_ready(&error);
            if error.deadline {
                return rollback::begin_unready(case, run, &text, None);
            }
            case.canary_awaited(run, text)
        }
    }
}

/// How many pods a canary begins with: as many as the primary has; where their number is the share, those of the first step.
fn replicas(case: &Case<'_>) -> i32 {
    let (policy, primary) = (&case.o.policy, case.o.primary.as_ref().map_or(1, |p| p.replicas));
    if !policy.by_replicas {
        return primary.max(1);
    }
    count(policy.steps.next(0).unwrap_or(0), primary).max(1)
}

/// The canary of a route gets more pods when the primary does: no autoscaler knows it, and its weight is of the same traffic.
/// It keeps them when the primary has fewer again.
pub(in crate::rollout) fn follow(case: &Case<'_>, run: &Run) -> Option<Plan> {
    let (canary, primary) = case.o.canary.as_ref().zip(case.o.primary.as_ref())?;
    if case.o.policy.by_replicas || canary.terminating || canary.replicas >= primary.replicas {
        return None;
    }
    Some(analysis::awaiting(case, run).then(Step::ScaleCanary(primary.replicas)))
}

/// The analysis passed: the hold is released, and the primary rolls by itself.
pub(in crate::rollout) fn promote(case: &Case<'_>, target: &Workload, next: Run) -> Plan {
    let (o, run) = (case.o, next.revision.clone());
    if let Err(plan) = case.owner_resumed(target) {
        return plan;
    }
    Plan::default()
        .say(Message::normal(format!("Releasing revision {} of {}", target.revision, case.target())))
        .then(Draft::from(o).run(Some(next)).finish(
            Phase::Promoting,
            "The primary rolls to the analysed revision.",
            case.now,
        ))
        .then(Step::Release(Revision::from_key(&run)))
}

/// Waits for the end of the roll. A revert lets the old revision roll back, a newer hold stops the roll where it is.
pub(in crate::rollout) fn promoting(case: &mut Case<'_>, target: &Workload, run: &Run) -> Plan {
    match case.newer(target, &run.revision) {
        Some(Newer::Reverted) => return rollback::cancel(case, run),
        Some(Newer::Superseded(hold)) => {
            // A roll that is late does not get there any more: it is what the newer revision may be to mend.
            let late = case.now >= case.primary_late_at(run.since);
            if let Err(error) = case.primary_ready()
                && !(late && case.primary_serves())
            {
                return rolling(case, run, &error);
            }
            let mut plan = release::supersede(case, target, &hold);
            for step in &mut plan.steps {
                if let Step::Status(status) = step {
                    status.revisions.mixed = Some(run.revision.clone());
                }
            }
            return plan;
        }
        None => {}
    }
    if target.held() {
        return promotion::failed_since(case, run)
            .unwrap_or_else(|| Step::Release(Revision::from_key(&run.revision)).into());
    }
    match case.primary_ready() {
        Ok(()) => {
            let revision = Revision::from_key(&run.revision);
            let mut plan = Plan::default();
            if target.keys.promoted.as_ref() != Some(&revision) {
                plan = plan.then(Step::MarkPromoted(revision));
            }
            let next = case.enter(run, Stage::Returning);
            promotion::returning_from(case, plan, target, &next)
        }
        Err(error) => rolling(case, run, &error),
    }
}

/// A roll that takes too long is stated, and goes on: what ran before comes back when its owner reverts.
pub(in crate::rollout) fn rolling(case: &mut Case<'_>, run: &Run, error: &NotReady) -> Plan {
    let o = case.o;
    let text = case.primary_not_ready(error);
    let deadline = case.primary_late_at(run.since);
    if !error.deadline && case.now < deadline {
        return case.overdue(run.since, Message::warning(text)).wake(deadline);
    }
    let waits =
        format!("The roll to the analysed revision is late: {text}. Revert it, or push another revision.");
    let said = case.lasting(Message::warning(format!("Promotion of {} is late, {text}", case.target())));
    let stated = case.waits(o.status.phase, &waits);
    Plan { steps: said.steps.into_iter().chain(stated.steps).collect(), wake: None }
}

/// Takes the canary away: its pods first, so that none of them meets the weight of a later one. `None` when it is gone.
pub(in crate::rollout) fn remove(case: &Case<'_>) -> Option<Plan> {
    let canary = case.o.canary.as_ref()?;
    if let Err(plan) = case.drained() {
        return Some(plan);
    }
    if canary.terminating {
        // Without its finalizer it goes by itself, pods and all.
        return Some(if canary.finalizer { Step::DeleteCanary.into() } else { Plan::default() });
    }
    if canary.replicas != 0 {
        return Some(Step::ScaleCanary(0).into());
    }
    Some(if canary.rollout.replicas > 0 { Plan::default() } else { Step::DeleteCanary.into() })
}

/// The target is gone or going, and its run with it: what is applied next begins anew. A canary with weight keeps it for
/// as long as it has pods and the primary none.
pub(in crate::rollout) fn without_primary(case: &mut Case<'_>) -> Option<Plan> {
    let o = case.o;
    let weight = o.routes.weight.unwrap_or(0);
    let needed = weight > 0 && case.canary_serves() && !case.primary_serves();
    if needed && weight < 100 && !o.policy.by_replicas {
        return Some(Step::SetWeight(100).into());
    }
    if let Some(run) = &o.status.run {
        let draft = Draft::from(o).zeroed().rejected(&run.revision).run(None);
        return Some(draft.finish(Phase::Failed, "", case.now).into());
    }
    if needed { Some(Plan::default()) } else { remove(case) }
}

/// Ends everything where it is: no canary, no weight, the target unpaused on what it was let run.
pub(in crate::rollout) fn leave(case: &mut Case<'_>, target: &Workload) -> Plan {
    let o = case.o;
    if o.routes.weight.is_some_and(|w| w > 0)
        && let Err(plan) = case.drained()
    {
        return plan;
    }
    if let Some(plan) = remove(case) {
        return plan;
    }
    // What has never served gives way to what its owner wants now.
    let serves = case.primary_serves() || o.status.revisions.primary.is_some();
    let promoted = target.keys.promoted.clone().filter(|p| serves && target.held() && *p != target.revision);
    if let Some(promoted) = promoted {
        if let Err(plan) = case.promoted_loaded(&promoted) {
            return plan;
        }
        let text = format!(
            "{} goes back to the promoted revision {promoted}; {} differs and rolls out natively when it is applied again",
            case.target(),
            target.revision
        );
        return Plan::default().say(Message::warning(text)).then(Step::RestoreTarget(promoted));
    }
    if !target.owned.is_empty() {
        return Step::Disown.into();
    }
    Plan::default()
        .then(Step::Unenrol)
        .then(Step::DeleteGenerated)
        .say(Message::normal(format!("Terminated canary {}", case.canary())))
        .then(Step::ReleaseCanary)
}
