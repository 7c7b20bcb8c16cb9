//! The ways out of a run without a promotion: rollback and revert; and its last act, the post-rollout hooks.

use crate::api::revision::Revision;
use crate::api::status::{Phase, Run, Stage};
use crate::rollout::case::{Case, Newer};
use crate::rollout::model::plan::{Check, Message, Plan, Step};
use crate::rollout::model::settings::HookKind;
use crate::rollout::model::workload::Workload;
use crate::rollout::stages::analysis::because;
use crate::rollout::stages::checks::Asked;
use crate::rollout::stages::{in_place, promotion, release};
use crate::rollout::status::Draft;

/// What ends a run before its stage is looked at: a revert, a newer revision, or too many failed checks.
pub(in crate::rollout) fn cut_short(case: &mut Case<'_>, target: &Workload, run: &Run) -> Option<Plan> {
    match case.newer(target, &run.revision) {
        Some(Newer::Reverted) => Some(cancel(case, run)),
        Some(Newer::Superseded(hold)) if half_written(case, target) && !target.glassed(hold.as_str()) => {
            let text = format!("{} goes back to the promoted revision before anything else", case.primary());
            Some(begin_at(case, run, Some(vec![Message::warning(text)]), Stage::Restoring))
        }
        Some(Newer::Superseded(hold)) => Some(release::supersede(case, target, &hold)),
        None => (case.o.status.failed_checks >= case.o.policy.threshold).then(|| threshold(case, run)),
    }
}

/// A break-glass has cut a promotion short: the primary is written to a revision that was never promoted, and may never be
/// ready. Only what passes unanalysed goes on from there.
fn half_written(case: &Case<'_>, target: &Workload) -> bool {
    let promoted = target.keys.promoted.as_ref();
    !case.o.names.in_place()
        && promoted.is_some()
        && case.o.primary_revision.as_ref().is_some_and(|r| Some(r) != promoted)
}

/// Rolls back because of failed checks.
fn threshold(case: &mut Case<'_>, run: &Run) -> Plan {
    let text = format!(
        "Rolling back {} failed checks threshold reached {}",
        case.canary(),
        case.o.status.failed_checks
    );
    begin(case, run, Some(vec![Message::warning(text)]))
}

/// Rolls back: says why, states it, and takes the traffic away.
pub(in crate::rollout) fn begin(case: &mut Case<'_>, run: &Run, said: Option<Vec<Message>>) -> Plan {
    begin_at(case, run, said, Stage::RollingBack)
}

/// The same because the canary's pods are not ready, with what they say of that.
pub(in crate::rollout) fn begin_unready(
    case: &mut Case<'_>,
    run: &Run,
    text: &str,
    said: Option<Vec<Message>>,
) -> Plan {
    match case.with_canarys_pods(run, text) {
        Err(plan) => plan,
        Ok(why) => begin(case, &because(run, why), said),
    }
}

/// The same by way of a stage that comes before.
pub(in crate::rollout) fn begin_at(
    case: &mut Case<'_>,
    run: &Run,
    said: Option<Vec<Message>>,
    stage: Stage,
) -> Plan {
    case.end_tick();
    case.m.said_at = None;
    let next = case.enter(run, stage);
    let phase = if case.o.status.phase == Phase::None { Phase::Progressing } else { case.o.status.phase };
    let status = Draft::from(case.o).run(Some(next)).finish(
        phase,
        "The revision was rejected; traffic returns to the primary.",
        case.now,
    );
    said.unwrap_or_default().into_iter().fold(Plan::default(), Plan::say).then(status)
}

/// Routes 100/0, seen and drained; then the hold; then the scale-down; then the verdict.
pub(in crate::rollout) fn rolling_back(case: &mut Case<'_>, target: &Workload, run: &Run) -> Plan {
    let o = case.o;
    if !case.primary_serves() && o.routes.weight.is_some_and(|w| w > 0) && case.canary_serves() {
        let text = format!("{} has no ready pods: traffic stays on the canary until it has", case.primary());
        return case.repeating(Message::warning(text));
    }
    if let Err(plan) = case.drained() {
        return plan;
    }
    let revision = Revision::from_key(&run.revision);
    let replaced = target.revision != revision;
    let rejected = target.held() && target.keys.failed.as_ref() == Some(&revision);
    if !(replaced || rejected) {
        let mut plan = Plan::default();
        if !o.deleting {
            // In place the target of that name serves on: it is the canary's own Deployment that goes.
            let who = if o.names.in_place() { case.canary_deployment() } else { case.canary() };
            plan = plan.say(Message::warning(format!("Canary failed! Scaling down {who}")));
        }
        return plan.then(Step::Hold { revision, failed: true });
    }
    if let Some(plan) = clear(case, target) {
        return plan;
    }
    if !target.owned.is_empty() {
        return Step::Disown.into();
    }
    if target.finalizer {
        return Step::UnguardTarget.into();
    }
    let draft = Draft::from(o).zeroed().rejected(&run.revision);
    let why = run.reason.as_deref().unwrap_or_default();
    if o.policy.hooks_of(HookKind::PostRollout).next().is_some() {
        case.m.begin_tick(case.now);
        let mut next = case.enter(run, Stage::Closing);
        next.reason = None;
        return draft.run(Some(next)).finish(Phase::Failed, why, case.now).into();
    }
    draft.run(None).finish(Phase::Failed, why, case.now).into()
}

/// Takes the canary's pods away. `None` when that is done.
pub(in crate::rollout) fn clear(case: &Case<'_>, target: &Workload) -> Option<Plan> {
    if case.o.names.in_place() {
        return in_place::remove(case);
    }
    (target.replicas != 0).then(|| Step::ScaleTarget(0).into())
}

/// The template went back to the promoted one while a run was going on.
pub(in crate::rollout) fn cancel(case: &mut Case<'_>, run: &Run) -> Plan {
    case.end_tick();
    case.m.said_at = None;
    let next = case.enter(run, Stage::Cancelling);
    Plan::default()
        .say(Message::normal(format!(
            "Revision reverted to the promoted one! Cancelling analysis for {}",
            case.target()
        )))
        .then(Draft::from(case.o).run(Some(next)).finish(
            case.o.status.phase,
            "The template went back to the promoted revision; traffic returns to the primary.",
            case.now,
        ))
}

/// Routes 100/0, seen and drained; pods away; then the hold, which is on what the primary runs, is cleared.
pub(in crate::rollout) fn cancelling(case: &mut Case<'_>, target: &Workload, run: &Run) -> Plan {
    let o = case.o;
    if let Some(hold) = target.keys.hold.as_ref().filter(|_| target.held())
        && target.keys.promoted.as_ref() != Some(hold)
    {
        // Something newer arrived meanwhile: it is the next run.
        let hold = hold.clone();
        return release::supersede(case, target, &hold);
    }
    if let Err(error) = case.primary_ready() {
        if let Some(plan) = promotion::glassed(case, target, run) {
            return plan;
        }
        let text = case.primary_not_ready(&error);
        return case.overdue(run.since, Message::warning(text));
    }
    if let Err(plan) = case.drained() {
        return plan;
    }
    if let Some(plan) = clear(case, target) {
        return plan;
    }
    if let Some(hold) = target.keys.hold.clone() {
        if hold != target.revision {
            return Step::CorrectHold(target.revision.clone()).into();
        }
        return Step::ClearHold(hold).into();
    }
    if !target.owned.is_empty() {
        return Step::Disown.into();
    }
    if target.finalizer {
        return Step::UnguardTarget.into();
    }
    let promoted = target.keys.promoted.clone().unwrap_or_else(|| Revision::from_key(&run.revision));
    Draft::from(o).zeroed().promoted(&promoted).run(None).finish(Phase::Succeeded, "", case.now).into()
}

/// The outcome is written; the post-rollout hooks hear of it. Their answers change nothing.
pub(in crate::rollout) fn closing(case: &mut Case<'_>, run: &Run) -> Plan {
    let o = case.o;
    let phase = o.status.phase;
    let hooks: Vec<_> = o.policy.hooks_of(HookKind::PostRollout).map(|(i, _)| i).collect();
    let mut said = Vec::new();
    for index in hooks {
        match case.ask(Check::Hook { index, phase: phase.as_str() }) {
            Asked::Pending(plan) => return plan,
            Asked::Here(answer) => said.extend(answer.messages),
        }
    }
    case.end_tick();
    said.extend(run.reason.clone().map(Message::normal));
    let status = Draft::from(o).run(None).finish(phase, "", case.now);
    said.into_iter().fold(Plan::default(), Plan::say).then(status)
}
