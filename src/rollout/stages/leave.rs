//! Leaving: the Canary is deleted, and its application must stand on its own before it goes (interlock §5.13).

use crate::api::status::{Phase, Stage};
use crate::rollout::case::Case;
use crate::rollout::model::observed::Backend;
use crate::rollout::model::plan::{Message, Plan, Step};
use crate::rollout::model::workload::Workload;
use crate::rollout::stages::{in_place, rollback};
use crate::rollout::status::Draft;

/// The spec names another target, Service or provider than the Canary has taken over: as it leaves one that is deleted, it
/// leaves what it has, and begins anew. Not before what is on its way is decided, and then to the end.
pub(in crate::rollout) fn moves(case: &mut Case<'_>) -> Option<Plan> {
    let o = case.o;
    let begun = o.status.phase == Phase::Terminating;
    let pending = o.target.as_ref().is_some_and(Workload::undecided);
    if !begun && (o.moves.is_none() || o.status.run.is_some() || pending) {
        return None;
    }
    let mut plan = advance(case);
    for step in plan.steps.iter_mut().filter(|step| **step == Step::ReleaseCanary) {
        *step = Draft::from(o).anew();
    }
    Some(plan)
}

/// What status says meanwhile.
fn leaves(case: &Case<'_>) -> String {
    let change = case.o.moves.as_ref().filter(|_| !case.o.deleting);
    change.cloned().unwrap_or_else(|| "The target takes its traffic back before the Canary goes.".into())
}

/// Ends the run, gives the target back the promoted revision and its pods, hands the traffic over, and goes.
pub(in crate::rollout) fn advance(case: &mut Case<'_>) -> Plan {
    let o = case.o;
    if !o.guarded {
        return Plan::default();
    }
    let Some(target) = o.target.as_ref().filter(|t| !t.terminating && t.canary.is_some()) else {
        // Deleted together with its target, in whatever order: nobody is left who would take the finalizer off it.
        let guarded = o.target.as_ref().is_some_and(|target| target.finalizer);
        let plan = if guarded { Step::UnguardTarget.into() } else { Plan::default() };
        return plan.then(Step::DeleteGenerated).then(Step::ReleaseCanary);
    };
    if o.status.phase != Phase::Terminating {
        let run = o.status.run.as_ref().map(|run| case.enter(run, Stage::RollingBack));
        return Plan::default()
            .say(Message::normal(format!("Terminating canary {}", case.canary())))
            .then(Draft::from(o).run(run).finish(Phase::Terminating, &leaves(case), case.now));
    }
    if o.names.in_place() {
        return in_place::leave(case, target);
    }
    // Before it was initialised the target has never lost its traffic: what its owner wants now is what it keeps.
    let serves_itself = o.status.revisions.primary.is_none()
        && o.services.apex != Some(Backend::Primary)
        && target.replicas > 0;
    let Some(promoted) = target.keys.promoted.clone().filter(|_| o.primary.is_some() && !serves_itself)
    else {
        // Nothing was promoted or no primary serves: the target is what there is.
        return Plan::default().then(Step::Unenrol).then(Step::DeleteGenerated).then(Step::ReleaseCanary);
    };
    if let Some(run) = &o.status.run {
        let plan = rollback::rolling_back(case, target, run);
        if !ends_run(&plan) {
            return plan;
        }
        // Stated, so that the weight which the target gets from here on is not the run's.
        return Draft::from(o).zeroed().run(None).finish(Phase::Terminating, &leaves(case), case.now).into();
    }
    if let Err(plan) = case.drained()
        && o.routes.weight.is_some()
        && target.revision != promoted
    {
        return plan;
    }
    if target.revision != promoted || target.held() || target.paused {
        if target.replicas != 0 && target.revision != promoted {
            return Step::ScaleTarget(0).into();
        }
        if let Err(plan) = case.promoted_loaded(&promoted) {
            return plan;
        }
        let mut plan = Plan::default();
        if target.revision != promoted {
            plan = plan.say(Message::warning(format!(
                "{} goes back to the promoted revision {promoted}; {} differs and rolls out natively when it is applied again",
                case.target(),
                target.revision
            )));
        }
        return plan.then(Step::RestoreTarget(promoted));
    }
    let primary = o.primary.as_ref().map_or(1, |p| p.replicas);
    let wanted = target.keys.requested_replicas.filter(|_| o.policy.autoscaler.is_none()).unwrap_or(primary);
    if target.ebbing() {
        return Plan::default();
    }
    if target.replicas < wanted {
        return Step::ScaleTarget(wanted).into();
    }
    if !target.owned.is_empty() {
        return Step::Disown.into();
    }
    // What has taken the traffic over and has no pod any more gives it back.
    if target.rollout.available == 0 && case.primary_serves() && o.routes.weight.is_some_and(|w| w > 0) {
        return Step::SetWeight(0).into();
    }
    if let Err(error) = target.ready(&o.names.target, 100, o.policy.deadline, case.now, case.now) {
        let since = o.status.last_transition_time.unwrap_or(case.now).min(case.now);
        let late = case.now >= target.late_at(since, o.policy.deadline, case.now);
        if !(late && (target.rollout.available > 0 || !case.primary_serves())) {
            let text = format!("Checking if canary is ready {}: {}", case.target(), error.message);
            if !late {
                return case.overdue(since, Message::log(text));
            }
            let waits = format!("The primary serves until pods of {} can: {}", case.target(), error.message);
            return case.waits_saying(o.status.phase, &waits, Message::warning(waits.clone()));
        }
    }
    // The target runs what the primary runs: weight on it is safe.
    if o.routes.weight.is_some_and(|w| w != 100) {
        return Step::SetWeight(100).into();
    }
    if o.services.apex == Some(Backend::Primary) {
        return Step::PointAtTarget.into();
    }
    if o.routes.weight.is_some()
        && let Err(plan) = case.primary_drained()
    {
        return plan;
    }
    if let Some((Backend::Target, since)) = case.m.apex_since {
        let end = since.saturating_add(o.settings.drain).unwrap_or(since);
        if case.now < end {
            return Plan::default().wake(end);
        }
    }
    if let Some(at) = target.announced {
        return Step::Retract(at).into();
    }
    Plan::default()
        .then(Step::Unenrol)
        .then(Step::DeleteGenerated)
        .say(Message::normal(format!("Terminated canary {}", case.canary())))
        .then(Step::ReleaseCanary)
}

/// Whether a rollback has nothing left to do but its verdict.
fn ends_run(plan: &Plan) -> bool {
    !plan.steps.is_empty() && plan.steps.iter().all(|s| matches!(s, Step::Status(_)))
}
