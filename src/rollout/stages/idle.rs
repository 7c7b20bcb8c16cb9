//! Between releases: everything is kept as it should be, and a hold starts a run.

use crate::api::revision::Revision;
use crate::api::status::{Phase, Run, Stage};
use crate::rollout::case::Case;
use crate::rollout::interrupts::{bypass, gates, repair, unreleased, writers};
use crate::rollout::model::observed::Backend;
use crate::rollout::model::plan::{Message, Plan, Step};
use crate::rollout::model::settings::HookKind;
use crate::rollout::model::workload::Workload;
use crate::rollout::stages::{in_place, promotion, release};
use crate::rollout::status::{Draft, if_new, misses_primary, outlived};

/// Decides for a Canary that has no run.
pub(in crate::rollout) fn advance(case: &mut Case<'_>, target: &Workload) -> Plan {
    let copied = !case.o.names.in_place();
    if copied && let Some(plan) = repair::primary(case, target, None) {
        return plan;
    }
    if let Some(plan) = traffic(case) {
        return plan;
    }
    if copied && let Some(plan) = primary(case, target) {
        return plan;
    }
    if let Some(plan) = bypass::target(case, target, None) {
        return plan;
    }
    if let Some(plan) = unreleased::end(case, target) {
        return plan;
    }
    if let Some(hold) = target.keys.hold.as_ref().filter(|_| target.held()) {
        return held(case, target, hold);
    }
    if !copied
        && case.o.status.phase == Phase::Failed
        && target.keys.promoted.as_ref() == Some(&target.revision)
    {
        // The webhook has let the promoted revision run (interlock §4, rule 5): what was rejected is not there any more.
        return back(case, target, &target.revision);
    }
    quiet(case, target)
}

/// Ends what is left of a release whose template went back to the promoted revision.
fn back(case: &Case<'_>, target: &Workload, promoted: &Revision) -> Plan {
    let run = begin(case, target, promoted, Stage::Cancelling);
    let waits_for = "The template went back to the promoted revision.";
    Draft::from(case.o).run(Some(run)).finish(case.o.status.phase, waits_for, case.now).into()
}

/// Traffic belongs to the primary, whatever somebody else wrote into the routes.
fn traffic(case: &mut Case<'_>) -> Option<Plan> {
    let o = case.o;
    let weight = o.routes.weight.filter(|w| *w != 0);
    if let Some(weight) = weight.filter(|_| case.primary_serves()) {
        let text = format!(
            "Routes of {} have canary weight {weight} outside of a run, routing all traffic to primary",
            case.canary()
        );
        return Some(Plan::default().say(Message::warning(text)).then(Step::SetWeight(0)));
    }
    if o.services.stale || o.services.apex_stale || o.services.apex != Some(Backend::Primary) {
        return Some(Step::EnsureServices { apex: Backend::Primary }.into());
    }
    (weight.is_none() && o.routes.stale).then(|| Step::EnsureRoutes.into())
}

/// The primary exists, runs what it should and has the pods it should have.
fn primary(case: &mut Case<'_>, target: &Workload) -> Option<Plan> {
    let o = case.o;
    let promoted = target.keys.promoted.as_ref()?;
    let primary = o.primary.as_ref()?;
    if let Some(running) = o.primary_revision.as_ref().filter(|r| *r != promoted) {
        // Re-derived from the primary (interlock §3), e.g. after break-glass on it.
        return Some(Step::MarkPromoted(running.clone()).into());
    }
    if o.status.revisions.primary.is_none() {
        // Flagger's status names it by a hash that nobody else can compute.
        let status = Draft::from(o).promoted(promoted).finish(o.status.phase, "", case.now);
        return Some(status.into());
    }
    if let Some(plan) = bypass::primary(case, primary) {
        return Some(plan);
    }
    if target.restarted_at.is_some()
        && later(target.restarted_at.as_deref(), primary.restarted_at.as_deref())
        && target.keys.hold.is_none()
        && let Some(at) = &target.restarted_at
    {
        return Some(Step::RestartPrimary(at.clone()).into());
    }
    // A change of the target's autoscaler is taken up at the next promotion, as in Flagger.
    if o.autoscaler_gone {
        return Some(Step::SyncAutoscaler.into());
    }
    if o.policy.autoscaler.is_none() {
        return replicas(case, target, primary);
    }
    None
}

/// Whether one time is later than the other, wherever it was written; texts that are no times are compared as they are.
fn later(one: Option<&str>, other: Option<&str>) -> bool {
    let time = |text: Option<&str>| text.and_then(|text| text.parse::<jiff::Timestamp>().ok());
    match (time(one), time(other)) {
        (Some(one), Some(other)) => one > other,
        _ => one > other,
    }
}

/// What the applier asks for is given to the primary once; below that it is repaired.
fn replicas(case: &mut Case<'_>, target: &Workload, primary: &Workload) -> Option<Plan> {
    let o = case.o;
    let wanted = target.keys.requested_replicas?;
    if o.status.requested_replicas != Some(wanted) {
        let status = Draft::from(o).requested(Some(wanted)).finish(o.status.phase, "", case.now);
        let mut plan = Plan::default();
        if primary.replicas != wanted {
            plan = plan.then(Step::ScalePrimary(wanted));
        }
        return Some(plan.then(status));
    }
    repair::replicas(case, primary)
}

fn held(case: &mut Case<'_>, target: &Workload, hold: &Revision) -> Plan {
    let o = case.o;
    if *hold != target.revision {
        return Step::CorrectHold(target.revision.clone()).into();
    }
    if target.keys.failed.as_ref() == Some(hold) {
        return quiet(case, target);
    }
    if let Err(plan) = case.owner_resumed(target) {
        return plan;
    }
    if let Some(plan) = writers::stands(case, target) {
        let idle = plan.steps.is_empty();
        return if idle { plan.wake.into_iter().fold(quiet(case, target), Plan::wake) } else { plan };
    }
    if target.keys.promoted.as_ref() == Some(hold) && case.primary_runs(hold) {
        return back(case, target, hold);
    }
    let stopped = o.names.in_place() || target.keys.requested_replicas == Some(0);
    if o.primary.as_ref().is_some_and(|p| p.replicas == 0) && stopped {
        let text = format!(
            "Revision {hold} is held: {} is scaled to 0, a release waits until it has pods.",
            case.primary()
        );
        return case.waits(o.status.phase, &text);
    }
    // A primary that has lost some pods is mended first; for one that has none, what is held may be the fix.
    let passes = target.keys.glassed.as_ref() == Some(hold) || o.policy.skip_analysis;
    if !passes
        && case.primary_serves()
        && let Err(error) = case.primary_ready()
    {
        let text = case.primary_not_ready(&error);
        let waits = format!("Revision {hold} is held: {text}.");
        return case.waits_saying(o.status.phase, &waits, Message::warning(text));
    }
    start(case, target, hold, false)
}

/// Begins the run of a held revision; `retried` when somebody asked for one that had been rejected.
pub(in crate::rollout) fn start(
    case: &mut Case<'_>,
    target: &Workload,
    hold: &Revision,
    retried: bool,
) -> Plan {
    if !retried && let Some(plan) = gates::rejects(case, target, hold) {
        return plan;
    }
    let o = case.o;
    let mut run = begin(case, target, hold, Stage::Gated);
    run.retried = retried;
    let glassed = target.keys.glassed.as_ref() == Some(hold);
    case.m.said_at = None;
    case.m.tick = None;
    if glassed && !o.names.in_place() && !case.primary_serves() {
        return promotion::straight(case, target, hold);
    }
    if glassed {
        let said = gates::passed_by_glass(case, target, &run).into_iter().fold(Plan::default(), Plan::say);
        return released(case, said, run);
    }
    if let Some(stop) = gates::stop(case, &run) {
        return stop.wait(case, &run, false);
    }
    if o.policy.hooks_of(HookKind::ConfirmRollout).next().is_some() {
        return Draft::from(o)
            .run(Some(run))
            .queued(None)
            .finish(o.status.phase, "A confirm-rollout check must pass.", case.now)
            .into();
    }
    if let Some(stop) = gates::in_line(case) {
        return stop.wait(case, &run, true);
    }
    released(case, Plan::default(), run)
}

/// Says that the run starts, and writes it.
pub(in crate::rollout) fn released(case: &Case<'_>, plan: Plan, run: Run) -> Plan {
    // What was approved so far is the release.
    let run = Run { last_step: None, approved: false, ..case.enter(&run, Stage::Releasing) };
    let revision = run.revision.clone();
    let text = format!("New revision detected! Scaling up {}", case.canary_deployment());
    let status = Draft::from(case.o).zeroed().analysed(&revision).run(Some(run)).finish(
        Phase::Progressing,
        "The canary is being started.",
        case.now,
    );
    let plan = plan.say(Message::normal(text)).then(status);
    let held = case.o.target.as_ref().filter(|target| target.held() && target.revision.as_str() == revision);
    held.map_or_else(Plan::default, |target| release::prepared(case, target))
        .steps
        .into_iter()
        .fold(plan, Plan::then)
}

/// A run on `hold`.
pub(in crate::rollout) fn begin(case: &Case<'_>, target: &Workload, hold: &Revision, stage: Stage) -> Run {
    Run {
        revision: hold.as_str().to_owned(),
        stage,
        since: case.now,
        last_step: None,
        weight: 0,
        awaits: None,
        previous: target.keys.promoted.as_ref().map(|r| r.as_str().to_owned()),
        skip: false,
        reason: None,
        shortcut: None,
        approved: false,
        retried: false,
        paused: false,
    }
}

fn quiet(case: &mut Case<'_>, target: &Workload) -> Plan {
    let o = case.o;
    if let Some(at) = target.announced {
        return Step::Retract(at).into();
    }
    if let Some(plan) = Some(idle_pods(case, target)).filter(|p| *p != Plan::default()) {
        return plan;
    }
    if target.finalizer {
        return match case.drained() {
            Ok(()) => Step::UnguardTarget.into(),
            Err(plan) => plan,
        };
    }
    if let Some(step) = stored_again(case, target) {
        return step.into();
    }
    let stale: Vec<String> = stale_snapshots(case, target);
    if !stale.is_empty() {
        return Step::PruneSnapshots(stale).into();
    }
    let changed = o.status.observed_generation != Some(o.generation)
        || o.status.warnings != o.warnings
        || o.status.adopted.as_ref() != Some(&o.adopted)
        || o.status.canary_weight != 0;
    let (asleep, told) = asleep(case, target);
    if changed || outlived(&o.status) || misses_primary(o) || asleep.is_some() != told {
        let said = asleep.clone().filter(|_| !told).map(|text| Step::Say(Message::warning(text)));
        // What was set outside of a run, as while a primary is made again, is over.
        let status =
            Draft::from(o).weight(0).finish(o.status.phase, asleep.as_deref().unwrap_or_default(), case.now);
        let Plan { steps, wake } = if_new(o, status);
        return Plan { steps: said.into_iter().chain(steps).collect(), wake };
    }
    Plan::default()
}

/// What is wrong with a primary at 0 whose pods an autoscaler is to count: it does not, and neither do we (interlock §5.8).
/// And whether status says so. One that waits for a release is spoken of there, and a rejection has its own words.
fn asleep(case: &Case<'_>, target: &Workload) -> (Option<String>, bool) {
    let o = case.o;
    let text = format!(
        "{} is scaled to 0: an autoscaler leaves a Deployment without pods alone, and nothing serves until somebody scales it up.",
        case.primary()
    );
    let told = o.status.conditions.iter().any(|c| c.type_ == "Ready" && c.message == text);
    let counted = o.policy.autoscaler.as_ref().is_some_and(|scaler| scaler.min != Some(0));
    let is = counted
        && !o.names.in_place()
        && o.primary.as_ref().is_some_and(|primary| primary.replicas == 0)
        && target.keys.hold.is_none()
        && o.status.phase != Phase::Failed;
    (is.then_some(text), told)
}

/// Outside a run the target has no pods; what somebody asked for by /scale becomes `requested-replicas`, once.
fn idle_pods(case: &mut Case<'_>, target: &Workload) -> Plan {
    if case.o.names.in_place() {
        return match in_place::remove(case) {
            Some(plan) => plan,
            None if target.owned.is_empty() => Plan::default(),
            None => Step::Disown.into(),
        };
    }
    if target.replicas > 0 {
        // Traffic that the target has leaves first; while the primary has no ready pods, the target keeps it.
        if case.o.routes.weight.is_some_and(|w| w > 0) && !case.primary_serves() {
            return case.repeating(Message::warning(format!("{} has no ready pods", case.primary())));
        }
        if let Err(plan) = case.drained() {
            return plan;
        }
        if case.o.policy.autoscaler.is_none()
            && target.keys.hold.is_none()
            && target.keys.requested_replicas != Some(target.replicas)
        {
            return Step::RecordReplicas(target.replicas).into();
        }
        return Step::ScaleTarget(0).into();
    }
    if !target.owned.is_empty() { Step::Disown.into() } else { Plan::default() }
}

/// The stored template of the promoted revision is what a failed promotion, and leaving, write back: one that was lost is stored
/// again as long as something else has it.
fn stored_again(case: &Case<'_>, target: &Workload) -> Option<Step> {
    let o = case.o;
    let promoted = target.keys.promoted.clone().filter(|p| !o.snapshots.contains(&o.names.snapshot(p)))?;
    if target.revision == promoted {
        return Some(Step::StoreSnapshot(promoted));
    }
    let copied = !o.names.in_place() && o.primary_restorable;
    copied.then_some(Step::StorePrimarySnapshot(promoted))
}

fn stale_snapshots(case: &Case<'_>, target: &Workload) -> Vec<String> {
    let o = case.o;
    let taken_back = o.status.revisions.taken_back.as_ref().map(Revision::from_key);
    let keep: Vec<String> = [
        target.keys.promoted.as_ref(),
        target.keys.hold.as_ref(),
        Some(&target.revision),
        taken_back.as_ref(),
    ]
    .into_iter()
    .flatten()
    .map(|r| o.names.snapshot(r))
    .collect();
    let others: Vec<&String> = o.snapshots.iter().filter(|s| !keep.contains(s)).collect();
    let excess = (others.len() + keep.len()).saturating_sub(o.history.max(keep.len()));
    others.into_iter().take(excess).cloned().collect()
}
