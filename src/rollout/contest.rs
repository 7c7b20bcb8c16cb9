//! Two owners of one target: two writers that apply two revisions in turns.
//!
//! Each turn is a new template. Analysed quickly enough each would be promoted, else each would end the run of the one before; either way
//! for ever. Once both have had two turns, nothing is released while they go on, the primary serves, and status names them.

use crate::api::status::{Phase, Run, Stage};
use crate::rollout::case::Case;
use crate::rollout::plan::{Message, Plan, Step};
use crate::rollout::revision::Revision;
use crate::rollout::rollback;
use crate::rollout::status::Draft;
use crate::rollout::workload::Workload;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// Turns that are no accident: one writer's revision, the other's, and both again.
const TURNS: usize = 4;
/// Turns further apart than this are changes of mind.
const APART: SignedDuration = SignedDuration::from_hours(1);

/// A revision that was held, and who had asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Turn {
    revision: Revision,
    by: String,
    at: Timestamp,
}

impl Turn {
    fn is_again(&self, other: &Self) -> bool {
        self.revision == other.revision && self.by == other.by
    }
}

/// The last turns, the oldest first. Lost in a crash: two owners are then found out anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turns(Vec<Turn>);

impl Turns {
    /// Notes what is held now.
    pub fn note(&mut self, target: &Workload, now: Timestamp) {
        let Some(hold) = target.keys.hold.clone().filter(|_| target.held()) else { return };
        let turn = Turn { revision: hold, by: target.keys.applied_by.clone().unwrap_or_default(), at: now };
        if let Some(last) = self.0.last() {
            if last.is_again(&turn) {
                return;
            }
            if now.duration_since(last.at) > APART {
                self.0.clear();
            }
        }
        self.0.push(turn);
        if self.0.len() > TURNS {
            self.0.remove(0);
        }
    }

    /// Returns the two that take turns, and when they will have been calm for twice as long as these turns took.
    fn contest(&self) -> Option<([&Turn; 2], Timestamp)> {
        let [one, other, one_again, other_again] = self.0.as_slice() else { return None };
        let two = one.revision != other.revision && one.by != other.by;
        if !(two && one_again.is_again(one) && other_again.is_again(other)) {
            return None;
        }
        let calm = other_again.at.duration_since(one.at).saturating_mul(2);
        // In an order that is the same at each turn.
        let owners = if one.by < other.by { [one, other] } else { [other, one] };
        Some((owners, other_again.at.saturating_add(calm).ok()?))
    }
}

/// Says that two owners take turns, if they do: what is held now is not released before they are calm.
pub(super) fn stands(case: &mut Case<'_>, target: &Workload) -> Option<Plan> {
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
pub(super) fn ends(case: &mut Case<'_>, target: &Workload, run: &Run) -> Option<Plan> {
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

/// Names who asked for a template, from `applied-by`: Flux's controllers by the object that they act for.
pub(super) fn writer(object: &Value, applied_by: &str) -> String {
    let label = |group: &str, key: &str| {
        object.pointer("/metadata/labels")?.get(format!("{group}.toolkit.fluxcd.io/{key}"))?.as_str()
    };
    for (manager, group, kind) in
        [("kustomize-controller ", "kustomize", "Kustomization"), ("helm-controller ", "helm", "HelmRelease")]
    {
        if let (true, Some(name), Some(namespace)) =
            (applied_by.starts_with(manager), label(group, "name"), label(group, "namespace"))
        {
            return format!("{kind} {namespace}/{name}");
        }
    }
    applied_by.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Turns at these seconds, by these writers, of these revisions.
    fn turns(all: &[(i64, &str, &str)]) -> Turns {
        let mut turns = Turns::default();
        for (second, by, revision) in all {
            let target = Workload::parse(&json!({
                "metadata": {"uid": "u", "resourceVersion": "1", "annotations": {
                    "sidetrack.dev/hold": revision.repeat(64), "sidetrack.dev/applied-by": by,
                }},
                "spec": {"paused": true, "template": {}},
            }));
            turns.note(&target.unwrap(), Timestamp::from_second(*second).unwrap());
        }
        turns
    }

    #[test]
    fn two_writers_with_two_turns_each_are_two_owners() {
        let turns = turns(&[(0, "b", "2"), (2, "a", "1"), (5, "b", "2"), (7, "a", "1")]);
        let (owners, calm) = turns.contest().unwrap();
        assert_eq!(owners.map(|turn| turn.by.as_str()), ["a", "b"]);
        assert_eq!(calm, Timestamp::from_second(7 + 14).unwrap());
    }

    #[test]
    fn anything_less_is_a_change_of_mind() {
        for (what, all) in [
            ("one return", vec![(0, "b", "2"), (2, "a", "1"), (5, "b", "2")]),
            ("one writer", vec![(0, "a", "2"), (2, "a", "1"), (5, "a", "2"), (7, "a", "1")]),
            ("a third revision", vec![(0, "b", "2"), (2, "a", "1"), (5, "b", "3"), (7, "a", "1")]),
            ("a third writer", vec![(0, "b", "2"), (2, "a", "1"), (5, "c", "2"), (7, "a", "1")]),
            ("a pause of hours", vec![(0, "b", "2"), (2, "a", "1"), (7205, "b", "2"), (7207, "a", "1")]),
            ("seen again", vec![(0, "b", "2"), (1, "b", "2"), (2, "a", "1"), (3, "a", "1"), (4, "b", "2")]),
        ] {
            assert_eq!(turns(&all).contest(), None, "{what}");
        }
    }

    #[test]
    fn later_turns_take_the_place_of_the_first() {
        let mut all = vec![(0, "b", "3")];
        all.extend([(10, "a", "1"), (12, "b", "2"), (15, "a", "1"), (17, "b", "2"), (20, "a", "1")]);
        assert_eq!(turns(&all).contest().unwrap().1, Timestamp::from_second(20 + 16).unwrap());
    }

    #[test]
    fn flux_is_named_by_the_object_that_it_acts_for() {
        let object = json!({"metadata": {"labels": {
            "kustomize.toolkit.fluxcd.io/name": "apps", "kustomize.toolkit.fluxcd.io/namespace": "flux-system",
        }}});
        assert_eq!(writer(&object, "kustomize-controller flux"), "Kustomization flux-system/apps");
        assert_eq!(writer(&object, "kubectl-set admin"), "kubectl-set admin");
        assert_eq!(writer(&json!({}), "kustomize-controller flux"), "kustomize-controller flux");
    }
}
