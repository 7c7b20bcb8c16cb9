//! Who asked for which revision lately: two writers that undo each other are found out by it.

use crate::api::revision::Revision;
use crate::rollout::model::workload::Workload;
use jiff::{SignedDuration, Timestamp};

/// Turns that are no accident: one writer's revision, the other's, and both again.
const TURNS: usize = 4;
/// Turns further apart than this are changes of mind.
const APART: SignedDuration = SignedDuration::from_hours(1);

/// A revision that was held, and who had asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::rollout) struct Turn {
    /// What was held.
    pub(in crate::rollout) revision: Revision,
    /// Who had asked for it.
    pub(in crate::rollout) by: String,
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
    pub(in crate::rollout) fn contest(&self) -> Option<([&Turn; 2], Timestamp)> {
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
}
