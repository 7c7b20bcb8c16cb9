//! A primary that is gone, or going: somebody deleted it.
//!
//! A Deployment that terminates cannot be brought back, and the Deployment controller ignores its scale and template;
//! our finalizer only keeps its pods until others can take its traffic.

use crate::api::revision::Revision;
use crate::api::status::{Run, Stage};
use crate::rollout::case::Case;
use crate::rollout::model::plan::{Message, Plan, Step};
use crate::rollout::model::workload::Workload;
use jiff::Timestamp;

/// Replaces a primary that is gone or terminating. `None` when it is there to stay.
pub(in crate::rollout) fn primary(case: &mut Case<'_>, target: &Workload, run: Option<&Run>) -> Option<Plan> {
    match &case.o.primary {
        None => Some(make_again(case, target, run)),
        Some(primary) if primary.terminating => Some(let_go(case, target, run, primary)),
        Some(primary) if run.is_some() => replicas(case, primary),
        Some(_) => None,
    }
}

/// Pods that the primary was given and somebody took away again. Whoever does so again at once, such as an autoscaler that the
/// Canary does not name, is answered once an interval.
pub(in crate::rollout) fn replicas(case: &mut Case<'_>, primary: &Workload) -> Option<Plan> {
    let given = taken_away(case, primary)?;
    if replicas_due(case).is_some() {
        return None;
    }
    let again = match case.m.scaled_back.replace(case.now) {
        Some(_) => ". It was not for the first time: an autoscaler belongs into spec.autoscalerRef",
        None => "",
    };
    let text = format!(
        "{} was scaled to {} by hand, {given} are asked for: repaired{again}",
        case.primary(),
        primary.replicas
    );
    Some(Plan::default().say(Message::warning(text)).then(Step::ScalePrimary(given)))
}

/// How many pods it is to have, where it has fewer.
fn taken_away(case: &Case<'_>, primary: &Workload) -> Option<i32> {
    let given = case.o.status.requested_replicas.filter(|_| case.o.policy.autoscaler.is_none())?;
    (primary.replicas < given).then_some(given)
}

/// When pods that were taken away are given back again.
pub(in crate::rollout) fn replicas_due(case: &Case<'_>) -> Option<Timestamp> {
    taken_away(case, case.o.primary.as_ref()?)?;
    case.after_interval(case.m.scaled_back?)
}

/// The revision that the primary runs, or is being written to.
fn wanted(target: &Workload, run: Option<&Run>) -> Option<Revision> {
    match run {
        Some(run) if matches!(run.stage, Stage::Promoting | Stage::Returning | Stage::Finalising) => {
            Some(Revision::from_key(&run.revision))
        }
        _ => target.keys.promoted.clone(),
    }
}

fn make_again(case: &Case<'_>, target: &Workload, run: Option<&Run>) -> Plan {
    let Some(revision) = wanted(target, run) else { return Plan::default() };
    // Meanwhile its traffic may go to pods that have weight already, or had it in this run: a revision that was
    // never judged does not get any because of the primary.
    let weight = case.o.routes.weight.unwrap_or(0);
    let of_run = run.is_some_and(|run| {
        weight > 0
            || (run.weight > 0
                && !target.held()
                && target.uniform()
                && run.revision == target.revision.as_str())
    });
    if of_run && target.rollout.available > 0 && (0..100).contains(&weight) && case.o.routes.weight.is_some()
    {
        return Step::SetWeight(100).into();
    }
    if let Err(plan) = case.loaded(&revision) {
        return plan;
    }
    let replicas = target.keys.requested_replicas.or(case.o.status.requested_replicas).unwrap_or(1).max(1);
    let text = format!("{} is gone, it is made again from revision {revision}", case.primary());
    Plan::default().say(Message::warning(text)).then(Step::CreatePrimary { revision, replicas })
}

/// Between runs the target stands in, if its template is the promoted one. Otherwise nothing can, and the gap is as
/// short as can be.
fn let_go(case: &mut Case<'_>, target: &Workload, run: Option<&Run>, primary: &Workload) -> Plan {
    if !primary.finalizer {
        return Plan::default();
    }
    let stands_in = run.is_none()
        && target.keys.hold.is_none()
        && target.keys.promoted.as_ref() == Some(&target.revision);
    if !stands_in {
        let text = format!("{} is being deleted, it is let go and made again", case.primary());
        return Plan::default().say(Message::warning(text)).then(Step::UnguardPrimary);
    }
    if target.ebbing() {
        return Plan::default();
    }
    if target.replicas < primary.replicas {
        let text = format!(
            "{} is being deleted, {} takes its traffic until it is made again",
            case.primary(),
            case.target()
        );
        return Plan::default().say(Message::warning(text)).then(Step::ScaleTarget(primary.replicas));
    }
    let weight = case.o.routes.weight.unwrap_or(0);
    if weight > 0 && target.rollout.available == 0 && primary.rollout.available > 0 {
        return Step::SetWeight(0).into();
    }
    if let Err(error) = target.ready(&case.o.names.target, 100, case.o.policy.deadline, case.now, case.now) {
        let text = format!("{} not ready: {}", case.target(), error.message);
        return case.repeating(Message::warning(text));
    }
    match case.primary_drained() {
        Err(plan) => plan,
        Ok(()) => Step::UnguardPrimary.into(),
    }
}

/// A side without ready pods carries no traffic while the other has some (interlock I3), whatever a run is about. Pods
/// that have weight may get all of it; without weight only those that passed.
pub(in crate::rollout) fn serving(case: &Case<'_>, run: &Run) -> Option<Plan> {
    let weight = case.o.routes.weight?;
    let canary = case.canary_serves();
    let primary = case.primary_serves();
    if weight > 0 && !canary && primary {
        return Some(Step::SetWeight(0).into());
    }
    if case.o.policy.by_replicas {
        return None; // pods that are not ready get no traffic in any case
    }
    // Of a target that a newer revision was held on the pods are still the run's.
    let held = !case.o.names.in_place() && case.o.target.as_ref().is_some_and(Workload::held);
    let passed =
        matches!(run.stage, Stage::Promoting | Stage::Returning | Stage::Finalising | Stage::Restoring)
            && (held || case.o.canary_revision.as_ref().is_some_and(|r| r.as_str() == run.revision));
    if weight < 100 && canary && !primary && (weight > 0 || passed) {
        return Some(Step::SetWeight(100).into());
    }
    None
}
