//! What an API server makes of a stored template today, and the records that move with it.

use super::Subject;
use super::writes::Impossible;
use crate::api::keys;
use crate::api::revision::Revision;
use crate::object::Write;
use crate::rollout::objects;
use crate::rollout::objects::patch::Edit;
use crate::router::replicas::Set;
use serde_json::Value;

/// Records of a revision on a target.
const RECORDS: [&str; 5] = [keys::HOLD, keys::FAILED, keys::PROMOTED, keys::REVERTED, keys::GLASSED];

impl Subject<'_> {
    /// Returns a write of a stored template to the target, to be tried without being stored. It is refused by an API
    /// server that shows the live template otherwise than it was observed (two versions side by side).
    #[must_use]
    pub fn redefault(&self, template: &Value) -> Option<Write> {
        let target = self.target()?;
        Edit::new(objects::deployment(&self.names, &self.names.target), target)
            .same_generation()
            .unchanged("/spec/template")
            .set("/spec/template", template.clone())
            .write()
    }

    /// Whether an object shows the target's live template as it was observed.
    #[must_use]
    pub fn shows_same_template(&self, object: Option<&Value>) -> bool {
        object.and_then(|o| o.pointer("/spec/template")) == self.target_template()
    }

    /// What raised the question is last: as long as its record is not moved, it is asked again.
    pub(super) fn rebaseline(&self, from: &Revision, to: &Revision) -> Result<Vec<Write>, Impossible> {
        let records = |object: &Value, mut edit: Edit<'_>| {
            let noted = object.pointer("/metadata/annotations");
            for key in RECORDS {
                if noted.and_then(|a| a.get(key)).is_some_and(|value| value == from.as_str()) {
                    edit = edit.annotation(key, to.as_str());
                }
            }
            edit.write()
        };
        let mut writes = Vec::new();
        if self.names.in_place()
            && let Some((canary, label)) = self.generated().zip(self.label())
        {
            let written = match Set::of(canary) {
                Some(_) => objects::attached_template(self.template(to)?, &label),
                None => objects::generated_template(self.template(to)?, &label, &self.names),
            };
            let made_of = canary.pointer("/metadata/annotations").and_then(|a| a.get(keys::REVISION));
            let live = canary.pointer("/spec/template").map(Revision::of);
            if made_of.is_some_and(|r| r == from.as_str()) && live == Some(Revision::of(&written)) {
                let at = objects::deployment(&self.names, self.names.generated());
                let edit = Edit::new(at, canary).same_generation().annotation(keys::REVISION, to.as_str());
                writes.extend(edit.annotation(keys::TEMPLATE, Revision::of(&written).as_str()).write());
            }
        }
        if let Some(target) = self.target() {
            let at = objects::deployment(&self.names, &self.names.target);
            writes.extend(records(target, Edit::new(at, target).same_generation()));
        }
        if !self.names.in_place()
            && let Some((primary, label)) = self.primary().zip(self.label())
        {
            let at = objects::deployment(&self.names, &self.names.primary);
            let mut edit = Edit::new(at, primary).same_generation();
            let written = objects::generated_template(self.template(to)?, &label, &self.names);
            let promoted = primary.pointer("/metadata/annotations").and_then(|a| a.get(keys::PROMOTED));
            let live = primary.pointer("/spec/template").map(Revision::of);
            if promoted.is_some_and(|p| p == from.as_str()) && live == Some(Revision::of(&written)) {
                edit = edit.annotation(keys::TEMPLATE, Revision::of(&written).as_str());
            }
            writes.extend(records(primary, edit));
        }
        Ok(writes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::subject::testing::{subject, target};
    use serde_json::json;

    /// Tries what is stored against a server that shows the target with one template, observed with another.
    fn tried(observed: &Value, shown: &Value) -> Option<Value> {
        let stored = json!({"spec": {"image": "v1"}});
        let Some(Write::Patch { patch, .. }) = subject(observed).redefault(&stored) else {
            panic!("no patch")
        };
        let mut object = target(shown);
        json_patch::patch(&mut object, &patch).ok()?;
        assert_eq!(object.pointer("/spec/template"), Some(&stored));
        Some(object)
    }

    #[test]
    fn a_server_that_shows_the_target_otherwise_is_no_judge() {
        let [older, newer] =
            [json!({"spec": {"image": "v2"}}), json!({"spec": {"image": "v2", "new": true}})];
        assert!(tried(&newer, &newer).is_some());
        assert!(tried(&newer, &older).is_none());
    }
}
