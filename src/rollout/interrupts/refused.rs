//! Writes that the API server refuses: by a schema, a quota, an admission policy, another webhook, or for want of a right.
//!
//! Trying again at once changes nothing, and silence would leave status promising what cannot happen. So a refusal is a fact
//! like any other: it is stated in the API server's words, counts as a failed check while a run depends on the write, and the
//! write is tried again once an interval.

use crate::api::status::{Run, Stage};
use crate::rollout::case::Case;
use crate::rollout::model::plan::{Message, Plan, Step};
use crate::rollout::model::refused::Refused;
use crate::rollout::stages::{analysis, rollback};
use crate::rollout::status::{Draft, WRITE_REFUSED, states_refusal};

/// What becomes of a plan in the light of what was refused: a step that was is not taken again within the interval.
pub(in crate::rollout) fn heard(case: &mut Case<'_>, plan: Plan) -> Plan {
    let Some(refused) = case.m.refused.clone() else { return plan };
    if !plan.steps.contains(&refused.step) {
        if plan.steps.iter().all(|step| matches!(step, Step::Ask(_) | Step::Say(_) | Step::LoadSnapshot(_))) {
            return plan; // nothing that shows whether it would still be
        }
        case.m.refused = None;
        return plan;
    }
    let due = refused.at.saturating_add(case.o.policy.interval).unwrap_or(case.now);
    if case.now >= due && refused.told {
        case.m.refused = None;
        return plan;
    }
    if refused.told {
        return Plan::default().wake(due);
    }
    if let Some(known) = &mut case.m.refused {
        known.told = true;
    }
    let run = case.o.status.run.clone().filter(|_| !case.o.deleting);
    state(case, &refused, run.as_ref()).wake(due)
}

/// States it, and counts it where a run depends on it.
fn state(case: &mut Case<'_>, refused: &Refused, run: Option<&Run>) -> Plan {
    let o = case.o;
    let text = format!("The API server refuses to {}: {}", refused.what, refused.why);
    let said = Message::warning(text.clone());
    let mut draft = Draft::from(o).routed(o.routes.weight.filter(|_| o.status.run.is_some()));
    let counts = |run: &&Run| {
        matches!(run.stage, Stage::Releasing | Stage::Analysing | Stage::Clearing | Stage::Promoting)
    };
    if let Some(run) = run.filter(counts) {
        let failed = o.status.failed_checks.saturating_add(1);
        if failed >= o.policy.threshold {
            case.m.refused = None;
            let rejected = analysis::because(run, text);
            // A primary that was to be written is seen to run what it did.
            let stage = if run.stage == Stage::Promoting && !o.names.in_place() {
                Stage::Restoring
            } else {
                Stage::RollingBack
            };
            return rollback::begin_at(case, &rejected, Some(vec![said]), stage);
        }
        draft = draft.failed_check().run(Some(analysis::because(run, text.clone())));
    }
    let hold = o.target.as_ref().filter(|target| target.undecided());
    let hold = hold.and_then(|target| target.keys.hold.as_ref());
    let why = hold.map_or_else(|| text.clone(), |hold| format!("Revision {hold} is held. {text}"));
    if hold.is_some() || run.is_some() {
        draft = draft.pending(&why, case.now);
    }
    let stalled = draft.stall(WRITE_REFUSED, &why, case.now);
    stalled.into_iter().fold(case.lasting(said), Plan::then)
}

/// What was refused is done: status no longer says that it is in the way.
pub(in crate::rollout) fn over(case: &Case<'_>, plan: Plan) -> Plan {
    let stands = case.m.refused.is_none() && states_refusal(&case.o.status);
    let states = plan.steps.iter().any(|step| matches!(step, Step::Status(_)));
    // Between releases the quiet state says so; what is about to be tried again is not done yet.
    if !stands || states || case.o.status.run.is_none() || !plan.steps.is_empty() {
        return plan;
    }
    let status = Draft::from(case.o).finish(case.o.status.phase, "What was refused is done.", case.now);
    plan.then(status)
}
