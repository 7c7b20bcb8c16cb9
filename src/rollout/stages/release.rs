//! From a held revision to canary pods that are ready: gates, then release, at weight zero throughout.

use crate::api::revision::Revision;
use crate::api::status::{Phase, Run, Stage};
use crate::rollout::case::{Case, Newer};
use crate::rollout::interrupts::{gates, requests};
use crate::rollout::model::plan::{Message, Plan, Step};
use crate::rollout::model::settings::HookKind;
use crate::rollout::model::workload::Workload;
use crate::rollout::stages::checks::Round;
use crate::rollout::stages::{analysis, idle, rollback};
use crate::rollout::status::Draft;

/// Waits for the confirm-rollout hooks, asked once an interval. The gate is asked about the revision that is held
/// now: a newer one takes the place of the older, a revert ends the wait.
pub(in crate::rollout) fn gated(case: &mut Case<'_>, target: &Workload, run: &Run) -> Plan {
    let o = case.o;
    if target.held() && target.keys.hold.as_ref() != Some(&target.revision) {
        // Written while the webhook was gone: the admission policy sees the shape of a hold only.
        return Step::CorrectHold(target.revision.clone()).into();
    }
    match case.newer(target, &run.revision) {
        Some(Newer::Reverted) => return rollback::cancel(case, run),
        Some(Newer::Superseded(hold)) => return idle::start(case, target, &hold, false),
        // The glass may be broken over the very revision that waits: its gates are not asked again.
        None => {
            if let Some(hold) = target.keys.hold.as_ref().filter(|_| target.glassed(&run.revision)) {
                return idle::start(case, target, hold, run.retried);
            }
        }
    }
    if let Err(plan) = case.drained() {
        return plan;
    }
    if let Some(plan) = gates::rejects_waiting(case, target, run) {
        return plan;
    }
    if run.paused {
        return requests::paused(case);
    }
    if let Some(stop) = gates::stop(case, run) {
        case.end_tick();
        return stop.wait(case, run, false);
    }
    // Who stands in line has passed its gates.
    if run.approved || o.status.queued.is_some() {
        return in_turn(case, Plan::default(), run);
    }
    if let Err(plan) = case.tick(run.last_step) {
        return plan;
    }
    match case.hooks(HookKind::ConfirmRollout, o.status.phase) {
        Err(plan) => plan,
        Ok(Round::Passed(said)) => {
            case.end_tick();
            in_turn(case, said.into_iter().fold(Plan::default(), Plan::say), run)
        }
        Ok(Round::Refused { name, answer }) => {
            case.end_tick();
            let said = if o.status.phase == Phase::Waiting { Vec::new() } else { answer.messages };
            let mut next = run.clone();
            next.last_step = Some(case.now);
            let text = format!("Confirm-rollout check {name} has not passed: {}", answer.error);
            let status = Draft::from(o).zeroed().analysed(&run.revision).run(Some(next)).finish(
                Phase::Waiting,
                &text,
                case.now,
            );
            said.into_iter().fold(Plan::default(), Plan::say).then(status).wake(case.after(o.policy.interval))
        }
    }
}

/// Releases when it is its turn.
fn in_turn(case: &Case<'_>, said: Plan, run: &Run) -> Plan {
    match gates::in_line(case) {
        Some(stop) => stop.wait(case, run, true).steps.into_iter().fold(said, Plan::then),
        None => idle::released(case, said, run.clone()),
    }
}

/// Routes at 100/0, snapshot stored, hold released, pods scaled up, all of them ready: each seen before the next.
pub(in crate::rollout) fn releasing(case: &mut Case<'_>, target: &Workload, run: &Run) -> Plan {
    let o = case.o;
    if let Some(plan) = rollback::cut_short(case, target, run) {
        return plan;
    }
    if let Err(plan) = case.drained() {
        return plan;
    }
    if target.held() {
        if target.keys.hold.as_ref() != Some(&target.revision) {
            return Step::CorrectHold(target.revision.clone()).into();
        }
        // Pods of another revision are told apart by their ReplicaSet.
        if target.ebbing() && case.m.ran.as_ref().is_none_or(|ran| *ran == target.revision) {
            return match case.after_interval(run.since) {
                Some(due) => Plan::default().wake(due),
                None => case.waits(o.status.phase, "Pods of the run before are still on their way out."),
            };
        }
        // It may have come in over an older one, past what is asked at rest; the pods of that one go.
        if let Err(waits) = case.owner_resumed(target) {
            return rollback::clear(case, target).unwrap_or(waits);
        }
        return prepared(case, target).then(Step::Release(target.revision.clone()));
    }
    if target.replicas == 0 {
        if target.paused {
            // Scaled while paused, it would start pods of an older ReplicaSet (interlock §5.3).
            let text =
                format!("Revision {} waits until its owner resumes {}.", target.revision, case.target());
            return case.waits(o.status.phase, &text);
        }
        let mut plan = Plan::default();
        if run.since.saturating_add(o.policy.interval).is_ok_and(|late| case.now >= late) {
            // Its owner had paused it: the time for becoming ready begins now.
            let status = Draft::from(o).run(Some(case.enter(run, Stage::Releasing)));
            plan = plan.then(status.finish(o.status.phase, "The canary is being started.", case.now));
        }
        return plan.then(Step::ScaleTarget(canary_replicas(case)));
    }
    if !target.owned.is_empty() {
        return Step::Disown.into();
    }
    match case.canary_ready(target, run) {
        Ok(()) => {
            case.m.said_at = None;
            // Analysis begins at once: the stage and the first step are written together.
            analysis::advance(case, target, &case.enter(run, Stage::Analysing))
        }
        Err(error) => {
            let text = case.canary_not_ready(&error);
            if error.deadline || overdue(case, target, run) {
                return rollback::begin_unready(case, run, &text, None);
            }
            case.canary_awaited(run, text)
        }
    }
}

/// What comes before a release, as far as it has not been done.
pub(in crate::rollout) fn prepared(case: &Case<'_>, target: &Workload) -> Plan {
    let o = case.o;
    let mut plan = Plan::default();
    if !o.snapshots.contains(&o.names.snapshot(&target.revision)) {
        plan = plan.then(Step::StoreSnapshot(target.revision.clone()));
    }
    // Before the pods: who waits for the Deployment (Flux) waits for the release from here on.
    if !o.names.in_place() && target.announced.is_none() {
        plan = plan.then(Step::Announce(case.now));
    }
    plan
}

/// The pods have had the time that Kubernetes would give them, and it does not judge them: to it their rollout is over
/// or, since an older template's, late.
fn overdue(case: &Case<'_>, target: &Workload, run: &Run) -> bool {
    let unjudged = target.rollout.settled || target.rollout.exceeded_at.is_some();
    let end = run.since.saturating_add(target.progress_deadline.min(case.o.policy.deadline));
    unjudged && !target.paused && end.is_ok_and(|end| case.now >= end)
}

/// A newer revision takes the place of the one that is analysed; its gates come first.
pub(in crate::rollout) fn supersede(case: &mut Case<'_>, target: &Workload, hold: &Revision) -> Plan {
    if let Some(plan) = gates::rejects(case, target, hold) {
        return plan;
    }
    let o = case.o;
    let mut next = idle::begin(case, target, hold, Stage::Gated);
    let glassed = target.keys.glassed.as_ref() == Some(hold);
    let gated = o.policy.hooks_of(HookKind::ConfirmRollout).next().is_some();
    let stopped = || gates::stop(case, &next).is_some() || gates::in_line(case).is_some();
    if glassed || !gated && !stopped() {
        next.stage = Stage::Releasing;
    }
    case.m.begin_tick(case.now);
    case.end_tick();
    case.m.said_at = None;
    let mut plan = Plan::default()
        .say(Message::normal(format!("New revision detected! Restarting analysis for {}", case.target())));
    // Weight first: nothing of the newer revision may meet the weight of the older.
    if o.routes.weight.is_some_and(|w| w != 0) && case.primary_serves() {
        plan = plan.then(Step::SetWeight(0));
    }
    plan.then(Draft::from(o).zeroed().analysed(hold.as_str()).run(Some(next)).queued(None).finish(
        Phase::Progressing,
        "A newer revision takes the place of the one that was analysed.",
        case.now,
    ))
}

/// How many canary pods a run starts with: what the primary has, or the autoscaler's minimum
/// (Flagger: deployment scaling from zero).
fn canary_replicas(case: &Case<'_>) -> i32 {
    let o = case.o;
    match &o.policy.autoscaler {
        Some(autoscaler) => autoscaler.min.unwrap_or(1).max(1),
        None => o.primary.as_ref().map_or(1, |p| p.replicas).max(1),
    }
}

/// A newer version of Sidetrack has left the release at a stage that this one does not know: it takes the traffic back and
/// begins anew, with what has failed so far.
pub(in crate::rollout) fn anew(case: &Case<'_>, run: &Run) -> Plan {
    let text = format!(
        "The release of {} stands at a stage that this version of Sidetrack does not know: its analysis begins anew",
        case.target()
    );
    let next = case.enter(run, Stage::Releasing);
    let status = Draft::from(case.o).run(Some(Run { last_step: None, weight: 0, ..next }));
    Plan::default().say(Message::warning(text.clone())).then(status.finish(
        Phase::Progressing,
        &format!("{text}."),
        case.now,
    ))
}
