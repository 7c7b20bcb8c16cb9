//! Two Canaries on one target: the one whose label stands on it owns it, the other touches nothing.

use crate::api::names::{Names, label_value};
use crate::rollout::case::Case;
use crate::rollout::model::plan::{Message, Plan, Step};
use crate::rollout::model::workload::Workload;
use crate::rollout::status::{Draft, TARGET_TAKEN};

/// Whether the target is enrolled for another Canary. What a policy's webhook has put on is taken up by whatever comes.
fn owned_by_another(target: &Workload, names: &Names) -> bool {
    target.keys.policy.is_none()
        && target.canary.as_ref().is_some_and(|owner| *owner != label_value(&names.canary))
}

/// Says so and does nothing else, as long as it is so. Whatever was made for the target is its owner's: a Canary that
/// leaves takes only itself away.
pub(in crate::rollout) fn advance(case: &mut Case<'_>) -> Option<Plan> {
    let o = case.o;
    let target = o.target.as_ref().filter(|target| owned_by_another(target, &o.names))?;
    if o.deleting {
        return Some(if o.guarded { Step::ReleaseCanary.into() } else { Plan::default() });
    }
    let owner = target.canary.as_deref().unwrap_or_default();
    let why = format!(
        "Deployment {} belongs to Canary {owner}, as its label {} says: nothing is done for this one. Delete one of the two, or let this one name another target.",
        o.names.target,
        crate::api::keys::CANARY
    );
    let stalled = Draft::from(o).stall(TARGET_TAKEN, &why, case.now);
    Some(stalled.map_or_else(Plan::default, |status| Plan::default().say(Message::warning(why)).then(status)))
}
