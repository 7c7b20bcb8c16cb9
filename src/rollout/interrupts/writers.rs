//! Two owners of one target: two writers that apply two revisions in turns.
//!
//! Each turn is a new template. Analysed quickly enough each would be promoted, else each would end the run of the one before; either way
//! for ever. Once both have had two turns, nothing is released while they go on, the primary serves, and status names them.

use crate::api::status::{Phase, Run, Stage};
use crate::rollout::case::Case;
use crate::rollout::model::plan::{Message, Plan, Step};
use crate::rollout::model::turns::Turns;
use crate::rollout::model::workload::Workload;
use crate::rollout::stages::rollback;
use crate::rollout::status::Draft;
use jiff::Timestamp;

/// Says that two owners take turns, if they do: what is held now is not released before they are calm.
pub(in crate::rollout) fn stands(case: &mut Case<'_>, target: &Workload) -> Option<Plan> {
    let (why, calm) = contested(case, target)?;
    let stalled = Draft::from(case.o).stall("Contested", &why, case.now);
    let plan = case.lasting(Message::warning(why)).wake(calm);
    Some(stalled.into_iter().fold(plan, Plan::then))
}

fn contested(case: &mut Case<'_>, target: &Workload) -> Option<(String, Timestamp)> {
    if case.o.names.in_place() {
        // There a revert is nobody's turn: the webhook lets it run.
        return None;
    }
    let hold = target.keys.hold.as_ref().filter(|_| target.held())?;
    let (owners, calm) = case.m.turns.contest()?;
    // Who breaks the glass has seen it.
    if target.glassed(hold.as_str()) || case.now >= calm {
        case.m.turns = Turns::default();
        return None;
    }
    let [one, other] = owners.map(|turn| format!("{} (revision {})", turn.by, turn.revision));
    let why = format!(
        "Deployment {} is applied in turns by {one} and {other}. Nothing is released while they go on: let one of them own it.",
        case.o.names.target
    );
    Some((why, calm))
}

/// Ends a run whose revision was replaced by a turn of the other owner: routes 100/0, seen and drained, and the pods away.
/// What is held stays so.
pub(in crate::rollout) fn ends(case: &mut Case<'_>, target: &Workload, run: &Run) -> Option<Plan> {
    let replaced = target.keys.hold.as_ref().is_some_and(|hold| hold.as_str() != run.revision);
    let ends = matches!(run.stage, Stage::Gated | Stage::Releasing | Stage::Analysing | Stage::Cancelling);
    if !(replaced && ends) || case.primary_ready().is_err() {
        return None;
    }
    let promoted = target.keys.promoted.clone()?;
    let (why, _) = contested(case, target)?;
    case.end_tick();
    if let Err(plan) = case.drained() {
        return Some(plan);
    }
    if let Some(plan) = rollback::clear(case, target) {
        return Some(plan);
    }
    Some(if !target.owned.is_empty() {
        Step::Disown.into()
    } else if target.finalizer {
        Step::UnguardTarget.into()
    } else {
        Draft::from(case.o)
            .zeroed()
            .promoted(&promoted)
            .run(None)
            .finish(Phase::Succeeded, &why, case.now)
            .into()
    })
}
