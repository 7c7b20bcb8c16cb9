//! Adoption, and the way to the first `Initialized`.

use crate::api::revision::Revision;
use crate::api::status::Phase;
use crate::rollout::case::Case;
use crate::rollout::interrupts::unreleased;
use crate::rollout::model::observed::Backend;
use crate::rollout::model::plan::{Check, Message, Plan, Step};
use crate::rollout::model::workload::Workload;
use crate::rollout::stages::checks::Asked;
use crate::rollout::stages::in_place;
use crate::rollout::status::Draft;
use jiff::SignedDuration;

/// How long a first revision may take to serve, or as long as its deadline says, before a newer one takes its place.
const PATIENCE: SignedDuration = SignedDuration::from_mins(1);

/// Adopts a Deployment that is unpaused, observed and has pods of one ReplicaSet only (interlock §5.1). The
/// snapshot is stored before the labels are set, so that a template which the labels protect can always be found.
///
/// One that the webhook has enrolled for a policy is taken up as it is, a newer template held on it included.
pub(in crate::rollout) fn adopt(case: &mut Case<'_>, target: &Workload) -> Plan {
    let o = case.o;
    let before = unreleased::promoted_before(case, target);
    // Its hold came with it from where it was held before: nothing else that is ours stands on it.
    let held = target.held();
    let wait = if held || before.is_some() {
        None
    } else if target.paused {
        Some("is paused by its owner: resume it to have it adopted")
    } else if !target.uniform() {
        Some("has pods of more than one revision: it is adopted when its rollout is complete")
    } else {
        None
    };
    if let Some(wait) = wait {
        let text = format!("deployment {} {wait}", case.target());
        let phase = if o.status.phase == Phase::None { Phase::Initializing } else { o.status.phase };
        return case.waits(phase, &text);
    }
    let rests = o.status.run.is_none() && o.status.phase != Phase::Initializing;
    if o.primary.is_none() && rests {
        // Its traffic is handed over as at the first time: nothing else can take it.
        return Draft::from(o)
            .zeroed()
            .finish(Phase::Initializing, "The primary is being made.", case.now)
            .into();
    }
    let known = |name: String| o.snapshots.contains(&name);
    let noted = target.keys.promoted.clone().filter(|_| target.keys.policy.is_some());
    let running = before.or_else(|| o.primary_revision.clone()).or(noted);
    let running = running.unwrap_or_else(|| target.revision.clone());
    // Held before it had a single pod: what is held is the first revision.
    let running = if case.m.lost.as_ref() == Some(&running) { target.revision.clone() } else { running };
    let mut plan = Plan::default();
    if !known(o.names.snapshot(&target.revision)) {
        plan = plan.then(Step::StoreSnapshot(target.revision.clone()));
    }
    if running != target.revision && !known(o.names.snapshot(&running)) {
        plan = plan.then(match &o.primary {
            Some(_) if !o.names.in_place() => Step::StorePrimarySnapshot(running.clone()),
            _ => Step::StoreRunning(running.clone()),
        });
    }
    let replicas =
        o.primary.as_ref().filter(|_| target.replicas == 0).map_or(target.replicas, |p| p.replicas);
    plan.then(Step::Adopt {
        hold: (running != target.revision).then(|| target.revision.clone()),
        promoted: running,
        replicas: (o.policy.autoscaler.is_none() && !o.names.in_place()).then_some(replicas),
    })
}

/// Makes the primary and the routes, and hands the traffic over before the target's pods go.
pub(in crate::rollout) fn advance(case: &mut Case<'_>, target: &Workload) -> Plan {
    let o = case.o;
    if o.services.stale {
        return Step::EnsureServices { apex: Backend::Target }.into();
    }
    let Some(promoted) = &target.keys.promoted else {
        // The keys were lost; adoption is not repeated on a labelled object, the primary says what it runs.
        return match &o.primary_revision {
            Some(running) => Step::MarkPromoted(running.clone()).into(),
            None => Step::MarkPromoted(target.revision.clone()).into(),
        };
    };
    // What ran where the Deployment was saved has no pods here yet.
    let stored = o.names.in_place() && o.snapshots.contains(&o.names.snapshot(promoted));
    if stored && let Some(plan) = in_place::given_back(case, target) {
        return plan;
    }
    if let Some(plan) = replaced(case, target, promoted) {
        return plan;
    }
    if !o.names.in_place() && o.primary.is_some() && !case.primary_runs(promoted) {
        if let Err(plan) = case.loaded(promoted) {
            return plan;
        }
        return Step::WritePrimary { revision: promoted.clone(), replicas: None }.into();
    }
    if o.primary.is_none() {
        if let Err(plan) = case.loaded(promoted) {
            return plan;
        }
        let wanted = target.keys.requested_replicas.unwrap_or(target.replicas);
        return Step::CreatePrimary { revision: promoted.clone(), replicas: wanted.max(1) }.into();
    }
    if let Some(error) = o.autoscaler_missing.as_ref().filter(|_| !o.names.in_place()) {
        let message = Message::warning(error.clone());
        return case.repeating(message);
    }
    if o.autoscaler_stale {
        return Step::SyncAutoscaler.into();
    }
    if let Some(plan) = ask_providers(case) {
        return plan;
    }
    if let Err(error) = case.primary_ready() {
        let text = case.primary_not_ready(&error);
        let since = o.status.last_transition_time.unwrap_or(case.now).min(case.now);
        let hold = target.keys.hold.as_ref().filter(|_| target.held());
        let waits = hold.map_or_else(
            || text.clone(),
            |hold| format!("Revision {hold} is held until the first one serves: {text}"),
        );
        return match case.after_interval(since) {
            Some(due) => Plan::default().wake(due),
            None => case.waits_saying(Phase::Initializing, &waits, Message::warning(text)),
        };
    }
    hand_over(case, target)
}

/// A first revision that has never had a ready pod protects nothing: the next one takes its place as the first, unanalysed,
/// as there is nothing to compare it with.
fn replaced(case: &mut Case<'_>, target: &Workload, promoted: &Revision) -> Option<Plan> {
    let o = case.o;
    let hold = target.keys.hold.clone().filter(|hold| target.held() && *hold == target.revision)?;
    if hold == *promoted {
        return Some(Step::ClearHold(hold).into());
    }
    let never =
        o.status.revisions.primary.is_none() && !case.primary_serves() && target.rollout.available == 0;
    let since = o.status.last_transition_time.unwrap_or(case.now).min(case.now);
    let end = since.saturating_add(PATIENCE.min(o.policy.deadline)).unwrap_or(case.now);
    if !never || case.now < end {
        return None;
    }
    if !o.snapshots.contains(&o.names.snapshot(&hold)) {
        return Some(Step::StoreSnapshot(hold).into());
    }
    let text = format!(
        "Revision {promoted} of {} never became ready: {hold} takes its place as the first one",
        case.target()
    );
    Some(Plan::default().say(Message::warning(text)).then(Step::MarkPromoted(hold)))
}

/// Asks once whether the metrics server answers, where a metric needs it; the answer is said and holds nothing up.
fn ask_providers(case: &mut Case<'_>) -> Option<Plan> {
    if case.o.policy.metrics.is_empty() || case.o.policy.skip_analysis {
        return None;
    }
    let answer = match case.ask(Check::Providers) {
        Asked::Pending(plan) => return Some(plan),
        Asked::Here(answer) => answer,
    };
    let message = answer.messages.into_iter().next()?;
    if case.m.said.as_ref() == Some(&message) {
        return None;
    }
    case.m.said = Some(message.clone());
    Some(Plan::default().say(message))
}

fn hand_over(case: &mut Case<'_>, target: &Workload) -> Plan {
    let o = case.o;
    if o.routes.stale {
        return Step::EnsureRoutes.into();
    }
    if let Some(error) = &o.routes.error {
        let message = Message::warning(error.clone());
        return case.repeating(message);
    }
    if o.services.apex_stale || o.services.apex != Some(Backend::Primary) {
        return Step::EnsureServices { apex: Backend::Primary }.into();
    }
    if !o.names.in_place() && target.replicas != 0 {
        if let Err(plan) = case.drained() {
            return plan;
        }
        // Clients of the apex Service leave the target's pods as well.
        let since = case.m.apex_since.map_or(case.now, |(_, since)| since);
        let end = since.saturating_add(o.settings.drain).unwrap_or(since);
        if case.now < end {
            return Plan::default().wake(end);
        }
        return Plan::default()
            .say(Message::log(format!("Scaling down Deployment {}", case.target())))
            .then(Step::ScaleTarget(0));
    }
    if !target.owned.is_empty() {
        return Step::Disown.into();
    }
    case.end_tick();
    let promoted = target.keys.promoted.clone().unwrap_or_else(|| target.revision.clone());
    Plan::default()
        .then(Draft::from(o).zeroed().promoted(&promoted).requested(target.keys.requested_replicas).finish(
            Phase::Initialized,
            "",
            case.now,
        ))
        .say(Message::normal(format!("Initialization done! {}", case.canary())))
}
