//! The analysis: one tick an interval, each judging the weight that is set before the next one is.

use crate::api::revision::Revision;
use crate::api::status::{Phase, Run, Shortcut, Stage};
use crate::rollout::case::Case;
use crate::rollout::interrupts::requests;
use crate::rollout::model::plan::{Check, Message, Plan, Step};
use crate::rollout::model::settings::HookKind;
use crate::rollout::model::workload::{Workload, least};
use crate::rollout::stages::checks::{Asked, Round};
use crate::rollout::stages::{in_place, promotion, rollback};
use crate::rollout::status::Draft;

/// Decides within [`Stage::Analysing`].
pub(in crate::rollout) fn advance(case: &mut Case<'_>, target: &Workload, run: &Run) -> Plan {
    let o = case.o;
    if let Some(plan) = rollback::cut_short(case, target, run) {
        return plan;
    }
    if !run.paused && (o.policy.skip_analysis || target.glassed(&run.revision)) {
        return promotion::begin(case, target, run);
    }
    if let Some(plan) = backends(case, run) {
        return plan;
    }
    if let Some(plan) = foreign_weight(case, target, run) {
        return plan;
    }
    if o.names.in_place()
        && let Some(plan) = in_place::follow(case, run)
    {
        return plan;
    }
    if let Some(plan) = awaited(case, target, run) {
        return plan;
    }
    // On request the run stays, or is cut short; pods that are not ready count as ever.
    if case.canary_ready(target, run).is_ok() {
        case.m.ready_with = o.canary.as_ref().map(|canary| canary.replicas);
        match run.shortcut {
            _ if run.paused => return requests::paused(case),
            Some(Shortcut::Promote) => return promotion::begin(case, target, run),
            Some(Shortcut::Skip) => {
                return match case.tick(run.last_step) {
                    Err(plan) => plan,
                    Ok(()) => confirmed(case, target, run, Vec::new()),
                };
            }
            Some(Shortcut::Unknown) | None => {}
        }
    }
    if let Err(plan) = case.tick(run.last_step) {
        return plan;
    }
    if let Err(error) = case.canary_ready(target, run) {
        let text = case.canary_not_ready(&error);
        let counts = !grows(case, run);
        if !(error.deadline || counts) {
            return halted(case, run, vec![Message::warning(text)], counts);
        }
        if error.deadline {
            return rollback::begin_unready(case, run, &text, None);
        }
        let why = match case.with_canarys_pods(run, &text) {
            Err(plan) => return plan,
            Ok(why) => why,
        };
        return halted_because(case, run, vec![Message::warning(text)], counts, why);
    }
    // One that has no pod at all is not waited for: the revision may be what mends it.
    if (case.primary_serves() || o.policy.by_replicas)
        && let Err(error) = case.primary_ready()
    {
        let text = case.primary_not_ready(&error);
        return halted(case, run, vec![Message::warning(text)], false);
    }
    if let Some(why) = o.routes.unsettled.clone() {
        let counts = case.unsettled_for_long();
        return halted(case, run, vec![Message::warning(why)], counts);
    }
    tick(case, target, run)
}

/// Whether the canary is merely being given more pods, by its autoscaler for one: those that it had are there, and the new ones
/// are in time.
fn grows(case: &Case<'_>, run: &Run) -> bool {
    let Some((canary, before)) = case.o.canary.as_ref().zip(case.m.ready_with) else { return false };
    let late = canary.late_at(run.last_step.unwrap_or(run.since), case.o.policy.deadline, case.now);
    canary.replicas > before
        && canary.rollout.available >= least(before, case.o.policy.canary_ready)
        && case.now < late
}

/// A backend without any ready pod is left at once, if the other one has some (interlock §5.8).
fn backends(case: &mut Case<'_>, run: &Run) -> Option<Plan> {
    let o = case.o;
    let weight = o.routes.weight?;
    let canary = case.canary_serves();
    if o.names.in_place() && case.primary_serves() && o.canary.as_ref().is_none_or(|c| c.terminating) {
        let text = format!("Halt {} advancement {} was deleted", case.canary(), case.canary_deployment());
        return Some(start_over(case, run, text));
    }
    let primary = case.primary_serves();
    // Pods that have just been put into the application's Service get no requests before they are ready.
    let awaited = o.policy.by_replicas && run.awaits.is_some();
    if weight > 0 && !canary && primary && !awaited {
        let text = format!(
            "Halt {} advancement no ready pods of {} at weight {weight}, routing all traffic to primary",
            case.canary(),
            case.canary_deployment()
        );
        return Some(start_over(case, run, text));
    }
    let routed = !o.policy.by_replicas;
    if routed && weight < 100 && run.weight > 0 && canary && !primary && o.primary.is_some() {
        let text =
            format!("{} has no ready pods, routing all traffic to the canary until it has", case.primary());
        let mut plan = Plan::default();
        if weight < run.weight {
            // Its step is taken only now.
            plan = plan.then(analysed(case, Run { last_step: Some(case.now), ..run.clone() }));
        }
        return Some(plan.then(Step::SetWeight(100)).say(Message::warning(text)));
    }
    None
}

/// Pods that the canary was given (for a step where their number is the share, or because the primary got more) are awaited
/// within the deadline: no check is made of what is not there yet, and none fails.
fn awaited(case: &mut Case<'_>, target: &Workload, run: &Run) -> Option<Plan> {
    let (o, since) = (case.o, run.awaits?);
    match case.canary_ready(target, run) {
        Ok(()) => {
            // A step lasts an interval from when its pods are there.
            let of_step = run.last_step == run.awaits;
            let last_step = if of_step { Some(case.now) } else { run.last_step };
            let next = Run { awaits: None, last_step, ..run.clone() };
            Some(analysed(case, next).into())
        }
        Err(error) => {
            let text = case.canary_not_ready(&error);
            let end =
                o.canary.as_ref().map_or(since, |canary| canary.late_at(since, o.policy.deadline, case.now));
            if error.deadline || case.now >= end {
                return Some(rollback::begin_unready(case, run, &text, None));
            }
            Some(case.overdue(since, Message::warning(text)).wake(end))
        }
    }
}

/// The run as it goes on, in status.
fn analysed(case: &Case<'_>, run: Run) -> Step {
    let waits_for = waits_for(&run);
    Draft::from(case.o).run(Some(run)).finish(case.o.status.phase, waits_for, case.now)
}

const fn waits_for(run: &Run) -> &'static str {
    if run.awaits.is_some() { "Pods of the canary are awaited." } else { "The canary is being analysed." }
}

/// Notes that pods are awaited which the canary is about to be given.
pub(in crate::rollout) fn awaiting(case: &Case<'_>, run: &Run) -> Plan {
    if run.stage != Stage::Analysing || run.awaits.is_some() {
        return Plan::default();
    }
    analysed(case, Run { awaits: Some(case.now), ..run.clone() }).into()
}

/// Takes all traffic from the canary, counts that, and waits for its pods again.
pub(in crate::rollout) fn start_over(case: &mut Case<'_>, run: &Run, text: String) -> Plan {
    let mut next = case.enter(run, Stage::Releasing);
    next.weight = 0;
    next.last_step = None;
    // Were this not to be stated, nobody else would have changed the routes.
    case.m.confirmed_weight = None;
    case.end_tick();
    let status = Draft::from(case.o).weight(0).failed_check().run(Some(next)).finish(
        Phase::Progressing,
        "The canary has no ready pods; the run starts over when it has.",
        case.now,
    );
    Plan::default().then(Step::SetWeight(0)).say(Message::warning(text)).then(status)
}

/// Weights that somebody else wrote are put right and reported.
fn foreign_weight(case: &mut Case<'_>, target: &Workload, run: &Run) -> Option<Plan> {
    let weight = case.o.routes.weight?;
    if weight == run.weight {
        case.m.confirmed_weight = Some(weight);
        return None;
    }
    if weight == 100 && !case.primary_serves() {
        return None;
    }
    // Up only with the ready threshold, whoever took it down; the tick says what is waited for.
    if weight < run.weight && case.canary_ready(target, run).is_err() {
        return None;
    }
    let mut plan = Plan::default();
    let mut next = run.clone();
    if case.m.confirmed_weight == Some(run.weight) {
        let what = if case.o.policy.by_replicas {
            format!("Pods of {}", case.canary_deployment())
        } else {
            format!("Routes of {}", case.canary())
        };
        let text = format!("{what} were changed to canary weight {weight}, restoring weight {}", run.weight);
        plan = plan.say(Message::warning(text));
    }
    // It is judged by the interval from now on: also where a process died between intent and effect.
    if weight < run.weight && run.last_step.is_some_and(|at| at < case.now) {
        next.last_step = Some(case.now);
        next.awaits = run.awaits.and(next.last_step);
    }
    if case.o.policy.by_replicas && weight < run.weight {
        next.awaits = next.awaits.or(Some(case.now));
    }
    if next != *run {
        plan = plan.then(analysed(case, next));
    }
    Some(plan.then(Step::SetWeight(run.weight)))
}

/// One tick, asked question by question; what is to be said is said when its outcome is known.
fn tick(case: &mut Case<'_>, target: &Workload, run: &Run) -> Plan {
    let o = case.o;
    let phase = if o.status.phase == Phase::WaitingPromotion { o.status.phase } else { Phase::Progressing };
    let mut said = Vec::new();
    let rollbacks: Vec<_> = o.policy.hooks_of(HookKind::Rollback).map(|(i, _)| i).collect();
    for index in rollbacks {
        match case.ask(Check::Hook { index, phase: phase.as_str() }) {
            Asked::Pending(plan) => return plan,
            Asked::Here(answer) => {
                said.extend(answer.messages);
                if answer.passed {
                    let text = format!("Rolling back {} manual webhook invoked", case.canary());
                    said.push(Message::warning(text.clone()));
                    return rollback::begin(case, &because(run, text), Some(said));
                }
            }
        }
    }
    let began = case.m.tick;
    let plan = checks(case, target, run, said);
    case.m.analysed = began.filter(|_| case.m.tick.is_none());
    plan
}

/// The checks of one tick, and what they lead to.
fn checks(case: &mut Case<'_>, target: &Workload, run: &Run, mut said: Vec<Message>) -> Plan {
    let o = case.o;
    let first = run.weight == 0;
    if first {
        said.push(Message::normal(format!("Starting canary analysis for {}", case.target())));
    }
    match case.hooks(if first { HookKind::PreRollout } else { HookKind::Rollout }, Phase::Progressing) {
        Err(plan) => return plan,
        Ok(Round::Refused { answer, .. }) => {
            said.extend(answer.messages);
            return halted(case, run, said, true);
        }
        Ok(Round::Passed(passed)) if first => said.extend(passed),
        Ok(Round::Passed(_)) => {
            for (index, name) in o.policy.metrics.iter().enumerate() {
                match case.ask(Check::Metric { index }) {
                    Asked::Pending(plan) => return plan,
                    Asked::Here(answer) => {
                        let text = answer.messages.last().map_or("failed", |m| &m.text);
                        let why = format!("Metric {name}: {text}");
                        said.extend(answer.messages);
                        if !answer.passed {
                            return halted_because(case, run, said, true, why);
                        }
                    }
                }
            }
        }
    }
    step(case, target, run, said)
}

/// The tick passed: the next weight, or the end of the analysis.
fn step(case: &mut Case<'_>, target: &Workload, run: &Run, mut said: Vec<Message>) -> Plan {
    let o = case.o;
    if let Some(weight) = o.policy.steps.next(run.weight) {
        case.end_tick();
        case.m.confirmed_weight = None;
        let mut next = run.clone();
        next.weight = weight;
        next.last_step = Some(case.now);
        next.awaits = next.last_step.filter(|_| o.policy.by_replicas);
        said.push(Message::normal(format!("Advance {} canary weight {weight}", case.canary())));
        let waits_for = waits_for(&next);
        // All of the traffic stays with the canary as long as the primary has no pod for its share.
        let all = o.routes.weight == Some(100) && !case.primary_serves() && !o.policy.by_replicas;
        let set = if all { 100 } else { weight };
        let status =
            Draft::from(o).weight(set).run(Some(next)).finish(Phase::Progressing, waits_for, case.now);
        // Intent, effect, and only then the words.
        let plan = Plan::default().then(status);
        let plan = if all { plan } else { plan.then(Step::SetWeight(weight)) };
        return said.into_iter().fold(plan, Plan::say).wake(case.after(o.policy.interval));
    }
    if run.weight == 0 {
        // Neither stepWeight nor stepWeights: Flagger does nothing for ever; so do we, and status says so.
        return case.waits(Phase::Progressing, "spec.analysis has no steps: set stepWeight or stepWeights.");
    }
    confirmed(case, target, run, said)
}

/// Nothing is left but the gates of the promotion, unless somebody approved it.
fn confirmed(case: &mut Case<'_>, target: &Workload, run: &Run, mut said: Vec<Message>) -> Plan {
    let o = case.o;
    let round = if run.approved {
        Ok(Round::Passed(Vec::new()))
    } else {
        case.hooks(HookKind::ConfirmPromotion, Phase::Progressing)
    };
    match round {
        Err(plan) => plan,
        Ok(Round::Refused { name, answer }) => {
            case.end_tick();
            let mut next = run.clone();
            next.last_step = Some(case.now);
            if o.status.phase != Phase::WaitingPromotion {
                said.extend(answer.messages);
            }
            let text = format!("Confirm-promotion check {name} has not passed: {}", answer.error);
            let status = Draft::from(o).run(Some(next)).finish(Phase::WaitingPromotion, &text, case.now);
            said.into_iter().fold(Plan::default(), Plan::say).then(status).wake(case.after(o.policy.interval))
        }
        Ok(Round::Passed(passed)) => {
            // Within the tick, so that reading the snapshot does not ask everything a second time.
            if let Err(plan) = case.loaded(&Revision::from_key(&run.revision)) {
                return plan;
            }
            said.extend(passed);
            case.end_tick();
            let plan = promotion::begin(case, target, run);
            Plan { steps: said.into_iter().map(Step::Say).chain(plan.steps).collect(), wake: plan.wake }
        }
    }
}

/// The run, with why it is, or may come to be, rejected.
pub(in crate::rollout) fn because(run: &Run, why: String) -> Run {
    Run { reason: Some(why), ..run.clone() }
}

/// The tick did not pass, as was said last.
fn halted(case: &mut Case<'_>, run: &Run, said: Vec<Message>, counts: bool) -> Plan {
    let why = said.last().map_or_else(String::new, |m| m.text.clone());
    halted_because(case, run, said, counts, why)
}

/// The tick did not pass.
fn halted_because(case: &mut Case<'_>, run: &Run, said: Vec<Message>, counts: bool, why: String) -> Plan {
    let o = case.o;
    case.end_tick();
    let mut next = if counts { because(run, why.clone()) } else { run.clone() };
    next.last_step = Some(case.now);
    let mut draft = Draft::from(o).run(Some(next));
    if counts {
        draft = draft.failed_check();
    }
    let phase = if o.status.phase == Phase::WaitingPromotion { o.status.phase } else { Phase::Progressing };
    said.into_iter()
        .fold(Plan::default(), Plan::say)
        .then(draft.finish(phase, &why, case.now))
        .wake(case.after(o.policy.interval))
}
