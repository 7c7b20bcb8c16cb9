//! Templates that came in past the webhook (interlock §5.10).

use crate::api::status::{Run, Stage};
use crate::rollout::case::Case;
use crate::rollout::model::plan::{Message, Plan, Step};
use crate::rollout::model::workload::Workload;
use crate::rollout::stages::in_place;

/// A template that nobody released: neither held, nor promoted, nor let through, nor the one of this run. Its pods may
/// be rolling already: the traffic leaves them at once, then it is held, and taken as any other revision.
pub(in crate::rollout) fn target(case: &Case<'_>, target: &Workload, run: Option<&Run>) -> Option<Plan> {
    let (keys, live) = (&target.keys, Some(&target.revision));
    let applied = case.o.names.in_place();
    let known = match run {
        Some(_) if applied && keys.promoted.as_ref() == live => true,
        // In place it is let run by the promotion only.
        Some(run) if target.revision.as_str() == run.revision => !applied || in_place::released(run),
        Some(run) => run.stage == Stage::Cancelling && keys.promoted.as_ref() == live,
        None => keys.promoted.as_ref() == live || keys.glassed.as_ref() == live,
    };
    let glass = glassed_meanwhile(case, target);
    if !glass && (known || target.held()) {
        return None;
    }
    let mut plan = Plan::default();
    // In place it is the primary that is tainted: traffic stays where it is.
    if !applied
        && !known
        && !target.held()
        && case.o.routes.weight.is_some_and(|w| w != 0)
        && case.primary_serves()
    {
        plan = plan.then(Step::SetWeight(0));
    }
    let (revision, name) = (target.revision.clone(), case.target());
    Some(if glass {
        plan.say(Message::warning(format!(
            "Break-glass counts for revision {revision} of {name} although the webhook did not see it: it is promoted without analysis"
        )))
        .then(Step::Glass { revision, hold: !applied && (!known || target.held()) })
    } else {
        plan.say(Message::bypassed(&format!(
            "revision {revision} of {name} was not held on its way in; it is held now and analysed as any other"
        )))
        .then(Step::Hold { revision, failed: false })
    })
}

/// While the webhook was gone the admission policy let only a break-glass through that was written against the
/// generation of that moment; nobody noted that it counted.
fn glassed_meanwhile(case: &Case<'_>, target: &Workload) -> bool {
    let seen = case.m.seen.as_ref().filter(|(uid, _)| *uid == target.uid).map(|(_, generation)| *generation);
    let live = Some(&target.revision);
    target.glass_counts(seen) && target.keys.glassed.as_ref() != live && target.keys.promoted.as_ref() != live
}

/// A primary whose template is another one than was written to it: break-glass is noted, anything else is reported.
pub(in crate::rollout) fn primary(case: &mut Case<'_>, primary: &Workload) -> Option<Plan> {
    if !case.o.primary_drifted || primary.keys.glassed.as_ref() == Some(&primary.revision) {
        return None;
    }
    if primary.glass_counts(None) {
        return Some(Step::GlassPrimary(primary.revision.clone()).into());
    }
    let text =
        format!("the template of {} was changed by hand; the next promotion replaces it", case.primary());
    let plan = case.lasting(Message::bypassed(&text));
    (!plan.steps.is_empty()).then_some(plan)
}
