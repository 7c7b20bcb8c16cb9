//! From a passed analysis to a primary that runs the revision, and back to the primary with the traffic.

use crate::api::revision::Revision;
use crate::api::status::{Phase, Run, Stage};
use crate::rollout::case::Case;
use crate::rollout::interrupts::gates;
use crate::rollout::model::plan::{Message, Plan, Step};
use crate::rollout::model::settings::HookKind;
use crate::rollout::model::workload::{NotReady, Workload};
use crate::rollout::stages::{analysis, idle, in_place, release, rollback};
use crate::rollout::status::Draft;

/// The analysis passed, or is skipped: the primary is written, from the snapshot, to exactly what was analysed.
pub(in crate::rollout) fn begin(case: &mut Case<'_>, target: &Workload, run: &Run) -> Plan {
    let o = case.o;
    let revision = Revision::from_key(&run.revision);
    if let Err(error) = case.canary_ready(target, run) {
        let text = case.canary_not_ready(&error);
        return case.repeating(Message::warning(text));
    }
    if !o.names.in_place()
        && let Err(plan) = case.loaded(&revision)
    {
        return plan;
    }
    let mut next = run.clone();
    next.skip |= o.policy.skip_analysis || target.glassed(&run.revision) || run.shortcut.is_some();
    if target.recreate && o.routes.weight != Some(100) && !o.policy.by_replicas {
        // Recreate takes every pod of the primary away at once: its traffic leaves first (interlock I4).
        next = case.enter(&next, Stage::Clearing);
        return Draft::from(o)
            .weight(100)
            .run(Some(next))
            .finish(Phase::Progressing, "Traffic leaves the primary, whose strategy is Recreate.", case.now)
            .into();
    }
    next = case.enter(&next, Stage::Promoting);
    next.weight = o.routes.weight.unwrap_or(run.weight);
    if o.names.in_place() {
        return in_place::promote(case, target, next);
    }
    Plan::default()
        .say(Message::normal(format!("Copying {} template spec to {}", case.target(), case.primary())))
        .then(Draft::from(o).run(Some(next)).finish(
            Phase::Promoting,
            "The primary rolls to the analysed revision.",
            case.now,
        ))
        .then(Step::WritePrimary { revision, replicas: replicas(case, target) })
}

/// Pods for the primary: the applier's wish, when it changed.
fn replicas(case: &Case<'_>, target: &Workload) -> Option<i32> {
    let wanted = target.keys.requested_replicas.filter(|_| case.o.policy.autoscaler.is_none())?;
    (case.o.status.requested_replicas != Some(wanted)).then_some(wanted)
}

/// All traffic on the canary, seen and drained; then the primary.
pub(in crate::rollout) fn clearing(case: &mut Case<'_>, target: &Workload, run: &Run) -> Plan {
    if let Some(plan) = rollback::cut_short(case, target, run) {
        return plan;
    }
    if !case.canary_serves() {
        return rollback::begin(case, run, None);
    }
    let end = target.late_at(run.since, case.o.policy.deadline, case.now);
    if let Err(error) = case.canary_ready(target, run)
        && case.now >= end
    {
        let text = case.canary_not_ready(&error);
        return rollback::begin_unready(case, run, &text, Some(vec![Message::warning(text.clone())]));
    }
    if let Some(why) = case.o.routes.unsettled.clone().filter(|_| case.unsettled_for_long()) {
        return rollback::begin(
            case,
            &analysis::because(run, why.clone()),
            Some(vec![Message::warning(why)]),
        );
    }
    match case.primary_drained() {
        Err(plan) => plan,
        Ok(()) => begin(case, target, run),
    }
}

/// Waits for the primary, within a deadline of its own.
pub(in crate::rollout) fn promoting(case: &mut Case<'_>, target: &Workload, run: &Run) -> Plan {
    let o = case.o;
    if let Some(plan) = glassed(case, target, run) {
        return plan;
    }
    let revision = Revision::from_key(&run.revision);
    if !case.primary_runs(&revision) {
        if let Some(plan) = failed_since(case, run) {
            return plan;
        }
        if let Err(plan) = case.loaded(&revision) {
            return plan;
        }
        return Step::WritePrimary { revision, replicas: replicas(case, target) }.into();
    }
    if o.policy.autoscaler.is_some() && o.autoscaler_stale {
        return Step::SyncAutoscaler.into();
    }
    match case.primary_ready() {
        Ok(()) => {
            let mut plan = Plan::default();
            if target.keys.promoted.as_ref() != Some(&revision) {
                plan = plan.then(Step::MarkPromoted(revision));
            }
            let next = case.enter(run, Stage::Returning);
            returning_from(case, plan, target, &next)
        }
        Err(error) => unready(case, run, &error),
    }
}

/// A process died before it had written what passed, and its pods have failed since: they are waited for again, and the
/// analysis starts over.
pub(in crate::rollout) fn failed_since(case: &mut Case<'_>, run: &Run) -> Option<Plan> {
    let fails = !run.skip && !case.canary_serves() && case.primary_serves();
    fails.then(|| {
        let text = format!(
            "Halt {} promotion no ready pods of {} before {} was written",
            case.canary(),
            case.canary_deployment(),
            case.primary()
        );
        analysis::start_over(case, run, text)
    })
}

/// A break-glass does not wait for a primary that is not ready: it is what is to mend it.
pub(in crate::rollout) fn glassed(case: &mut Case<'_>, target: &Workload, run: &Run) -> Option<Plan> {
    let hold = target.keys.hold.clone().filter(|hold| target.held() && target.glassed(hold.as_str()))?;
    if hold.as_str() == run.revision || case.primary_ready().is_ok() {
        return None;
    }
    Some(if case.primary_serves() {
        release::supersede(case, target, &hold)
    } else {
        straight(case, target, &hold)
    })
}

/// The glass was broken, and the primary has no pod that serves: it is written from what is held at once. No pods of the target
/// are asked for, and traffic stays where it is until the primary is ready.
pub(in crate::rollout) fn straight(case: &mut Case<'_>, target: &Workload, hold: &Revision) -> Plan {
    let o = case.o;
    let mut run = idle::begin(case, target, hold, Stage::Promoting);
    run.skip = true;
    run.weight = o.routes.weight.unwrap_or(0);
    case.end_tick();
    case.m.said_at = None;
    let mut plan = Plan::default();
    if !o.snapshots.contains(&o.names.snapshot(hold)) {
        plan = plan.then(Step::StoreSnapshot(hold.clone()));
    }
    let said = gates::passed_by_glass(case, target, &run);
    let text =
        format!("Copying {} template spec to {}, which has no ready pods", case.target(), case.primary());
    let plan = said.into_iter().chain([Message::warning(text)]).fold(plan, Plan::say);
    plan.then(Draft::from(o).analysed(hold.as_str()).run(Some(run)).finish(
        Phase::Promoting,
        "Break-glass: the primary rolls to the revision unanalysed.",
        case.now,
    ))
}

/// The primary is not ready on the revision: it is waited for within a deadline of each stage, then the promotion
/// has failed.
fn unready(case: &mut Case<'_>, run: &Run, error: &NotReady) -> Plan {
    let o = case.o;
    if o.names.in_place() {
        return in_place::rolling(case, run, error);
    }
    let text = case.primary_not_ready(error);
    let deadline = case.primary_late_at(run.since);
    if error.deadline || case.now >= deadline {
        let mut next = case.enter(run, Stage::Restoring);
        next.reason = match case.with_pods(&o.names.primary, run, &text) {
            Err(plan) => return plan,
            Ok(why) => Some(why),
        };
        return Plan::default()
            .say(Message::warning(format!(
                "Promotion of {} failed, primary not ready: {text}",
                case.target()
            )))
            .then(Draft::from(o).run(Some(next)).finish(
                Phase::Promoting,
                "The primary did not become ready; the revision before is written back.",
                case.now,
            ));
    }
    case.overdue(run.since, Message::warning(text)).wake(deadline)
}

/// Traffic returns to the primary, in steps of `stepWeightPromotion` or at once.
pub(in crate::rollout) fn returning(case: &mut Case<'_>, target: &Workload, run: &Run) -> Plan {
    if let Err(error) = case.primary_ready() {
        return unready(case, run, &error);
    }
    if let Some(due) = run.last_step.and_then(|at| at.saturating_add(case.o.policy.interval).ok())
        && case.now < due
    {
        return Plan::default().wake(due);
    }
    returning_from(case, Plan::default(), target, run)
}

pub(in crate::rollout) fn returning_from(
    case: &mut Case<'_>,
    plan: Plan,
    _target: &Workload,
    run: &Run,
) -> Plan {
    let o = case.o;
    let live = o.routes.weight.unwrap_or(0);
    let weight = if run.skip { 0 } else { o.policy.steps.back(live) };
    let mut next = run.clone();
    next.weight = weight;
    next.last_step = Some(case.now);
    let message = if run.skip {
        None
    } else if o.policy.steps.promotion > 0 {
        Some(format!("Advance {} primary weight {}", case.canary(), 100 - weight))
    } else {
        Some("Routing all traffic to primary".to_owned())
    };
    let (phase, waits_for) = if weight == 0 {
        next = case.enter(&next, Stage::Finalising);
        (Phase::Finalising, "The canary is drained and scaled down.")
    } else {
        (Phase::Promoting, "Traffic returns to the primary.")
    };
    let status = Draft::from(o).weight(weight).run(Some(next)).finish(phase, waits_for, case.now);
    let plan = plan.then(status).then(Step::SetWeight(weight));
    message
        .into_iter()
        .fold(plan, |plan, text| plan.say(Message::normal(text)))
        .wake(case.after(o.policy.interval))
}

/// The canary is drained and scaled down; then, and only then, the run has succeeded.
pub(in crate::rollout) fn finalising(case: &mut Case<'_>, target: &Workload, run: &Run) -> Plan {
    let o = case.o;
    if let Err(error) = case.primary_ready() {
        return unready(case, run, &error);
    }
    if let Err(plan) = case.drained() {
        return plan;
    }
    if let Some(plan) = rollback::clear(case, target) {
        return plan;
    }
    if target.finalizer {
        return Step::UnguardTarget.into();
    }
    let revision = Revision::from_key(&run.revision);
    let target_name = case.canary_deployment();
    let done = if run.skip {
        format!("Promotion completed! Canary analysis was skipped for {target_name}")
    } else {
        format!("Promotion completed! Scaling down {target_name}")
    };
    let pending = target.keys.hold.as_ref().filter(|h| h.as_str() != run.revision);
    let waits_for = pending.map_or_else(String::new, |h| {
        format!("The primary runs revision {revision}; revision {h} is held and comes next.")
    });
    // The failed checks that the run survived stay to be read, as in Flagger; the next run starts from zero.
    let draft = Draft::from(o).weight(0).promoted(&revision).requested(target.keys.requested_replicas);
    if o.policy.hooks_of(HookKind::PostRollout).next().is_some() {
        let mut next = case.enter(run, Stage::Closing);
        next.reason = Some(done);
        case.m.begin_tick(case.now);
        return draft.run(Some(next)).finish(Phase::Succeeded, &waits_for, case.now).into();
    }
    Plan::default()
        .then(draft.run(None).finish(Phase::Succeeded, &waits_for, case.now))
        .say(Message::normal(done))
}

/// A failed promotion (interlock §5.7): the revision before is written back, traffic stays where ready pods are,
/// and when the primary is ready the run is rolled back like any other.
pub(in crate::rollout) fn restoring(case: &mut Case<'_>, target: &Workload, run: &Run) -> Plan {
    let o = case.o;
    if let Some(plan) = glassed(case, target, run) {
        return plan;
    }
    let Some(previous) = run.previous.as_deref().map(Revision::from_key) else {
        return rollback::begin(case, run, None);
    };
    if !case.primary_runs(&previous) {
        if let Err(plan) = case.loaded(&previous) {
            return plan;
        }
        return Step::WritePrimary { revision: previous, replicas: None }.into();
    }
    match case.primary_ready() {
        Ok(()) => {
            let mut plan = Plan::default();
            if target.keys.promoted.as_ref() != Some(&previous) {
                plan = plan.then(Step::MarkPromoted(previous));
            }
            let next = rollback::begin(case, run, Some(Vec::new()));
            Plan { steps: plan.steps.into_iter().chain(next.steps).collect(), wake: next.wake }
        }
        Err(error) => {
            let text = case.primary_not_ready(&error);
            let said = case.repeating(Message::warning(text.clone()));
            let waits = case.waits(Phase::Promoting, &format!("The revision before is written back: {text}"));
            let wake = said.wake.unwrap_or_else(|| case.after(o.policy.interval));
            Plan { steps: said.steps.into_iter().chain(waits.steps).collect(), wake: None }.wake(wake)
        }
    }
}
