//! Writes to the Deployment that users apply.

use super::Subject;
use super::writes::{Impossible, missing, one};
use crate::api::keys;
use crate::api::names::label_value;
use crate::api::revision::Revision;
use crate::object::Write;
use crate::rollout::model::plan::Step;
use crate::rollout::model::workload::Workload;
use crate::rollout::objects;
use crate::rollout::objects::patch::Edit;
use serde_json::Value;

impl Subject<'_> {
    /// Steps that are one patch on the target, each guarded by its uid and generation.
    pub(super) fn target_write(&self, step: &Step) -> Result<Vec<Write>, Impossible> {
        let target = self.target().ok_or_else(|| missing("the target"))?;
        let guarded = || Edit::new(self.at(&self.names.target), target).same_generation();
        let held = format!("/metadata/annotations/{}", crate::object::escape(keys::HOLD));
        let edit = match step {
            Step::Adopt { promoted, hold, replicas } => {
                // What the webhook has noted of a template that it holds for a policy is still true.
                let noted =
                    target.pointer("/metadata/annotations").is_some_and(|a| a.get(keys::POLICY).is_some());
                let edit = guarded();
                let edit = if noted { edit.without_annotation(keys::POLICY) } else { edit.without_keys() };
                let mut edit = edit.without_finalizer(keys::TRAFFIC_FINALIZER);
                if hold.is_none() && target.pointer(&held).is_some() {
                    if noted {
                        for key in [keys::HOLD, keys::APPLIED_BY, keys::PAUSED_BEFORE] {
                            edit = edit.without_annotation(key);
                        }
                    }
                    edit = edit.remove("/spec/paused");
                }
                for (key, value) in objects::labels(&self.names, keys::ROLE_TARGET) {
                    edit = edit.label(key, &value);
                }
                if label_value(&self.names.canary) != self.names.canary {
                    edit = edit.annotation(keys::CANARY_NAME, &self.names.canary);
                }
                edit = edit.annotation(keys::PROMOTED, promoted.as_str());
                if let Some(replicas) = replicas {
                    edit = edit.annotation(keys::REQUESTED_REPLICAS, &replicas.to_string());
                }
                if let Some(hold) = hold {
                    edit = edit.annotation(keys::HOLD, hold.as_str()).set("/spec/paused", true.into());
                }
                edit
            }
            Step::Release(revision) => {
                if target.pointer("/spec/template").map(Revision::of).as_ref() != Some(revision) {
                    return Err(Impossible(format!("the template is not revision {revision} any more")));
                }
                // A retry lets run what had failed.
                let edit = guarded().unchanged(&held).remove(&held).without_annotation(keys::FAILED);
                let edit = edit.remove("/spec/paused");
                // In place no traffic leaves with the target: it is the primary.
                if self.names.in_place() { edit } else { edit.with_finalizer(keys::TRAFFIC_FINALIZER) }
            }
            Step::Hold { revision, failed } => {
                let edit = guarded()
                    .annotation(keys::HOLD, revision.as_str())
                    .set("/spec/paused", true.into())
                    .without_finalizer(keys::TRAFFIC_FINALIZER);
                if *failed { edit.annotation(keys::FAILED, revision.as_str()) } else { edit }
            }
            Step::Glass { revision, hold } => {
                let edit =
                    guarded().annotation(keys::GLASSED, revision.as_str()).without_annotation(keys::FAILED);
                if *hold {
                    edit.annotation(keys::HOLD, revision.as_str())
                        .set("/spec/paused", true.into())
                        .without_finalizer(keys::TRAFFIC_FINALIZER)
                } else {
                    edit
                }
            }
            Step::ClearHold(_) => guarded()
                .unchanged(&held)
                .remove(&held)
                .without_annotation(keys::FAILED)
                .remove("/spec/paused")
                .without_finalizer(keys::TRAFFIC_FINALIZER),
            Step::CorrectHold(revision) => guarded()
                .annotation(keys::HOLD, revision.as_str())
                .without_annotation(keys::FAILED)
                .set("/spec/paused", true.into()),
            Step::RecordReplicas(n) => guarded().annotation(keys::REQUESTED_REPLICAS, &n.to_string()),
            Step::MarkPromoted(revision) => guarded().annotation(keys::PROMOTED, revision.as_str()),
            // What would be the next write goes along.
            Step::UnguardTarget => Self::disown(
                Edit::new(self.at(&self.names.target), target).without_finalizer(keys::TRAFFIC_FINALIZER),
                target,
            ),
            Step::HoldAgain(revision) => guarded()
                .set("/spec/template", self.template(revision)?.clone())
                .annotation(keys::HOLD, revision.as_str())
                .without_annotation(keys::FAILED)
                .set("/spec/paused", true.into()),
            Step::RestoreTarget(revision) => guarded()
                .set("/spec/template", self.template(revision)?.clone())
                .without_annotation(keys::HOLD)
                .without_annotation(keys::FAILED)
                .remove("/spec/paused"),
            Step::Unenrol => {
                let mut edit = guarded().without_keys().without_finalizer(keys::TRAFFIC_FINALIZER);
                for key in keys::LABELS {
                    edit = edit.remove(&format!("/metadata/labels/{}", crate::object::escape(key)));
                }
                if target.pointer(&held).is_some() { edit.remove("/spec/paused") } else { edit }
            }
            _ => Self::disown(Edit::new(self.at(&self.names.target), target), target),
        };
        Ok(one(edit))
    }

    /// Takes `spec` out of our managedFields entries: owning `f:replicas` or `f:paused` would lock out every unforced
    /// server-side apply (interlock §5.3).
    fn disown<'e>(mut edit: Edit<'e>, target: &'e Value) -> Edit<'e> {
        let Some(workload) = Workload::parse(target) else { return edit };
        for owned in workload.owned.iter().rev() {
            let entry = format!("/metadata/managedFields/{}", owned.index);
            edit = edit.unchanged(&format!("{entry}/manager")).unchanged(&format!("{entry}/time"));
            edit = edit.remove(&if owned.whole { entry } else { format!("{entry}/fieldsV1/f:spec") });
        }
        edit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{Kind, ObjectRef, Objects};
    use crate::rollout::subject::Config;
    use crate::rollout::subject::testing::target;
    use serde_json::json;
    use std::collections::BTreeMap;

    /// What a label cannot hold is said whole in an annotation: the webhook's messages name the Canary by it.
    #[test]
    fn a_name_too_long_for_a_label_stands_in_an_annotation() {
        let adopted = |name: &str| {
            let deployment = target(&json!({"metadata": {"labels": {"app": "app"}}, "spec": {}}));
            let objects =
                Objects::from([(ObjectRef::new(Kind::Deployment, "test", "app"), deployment.clone().into())]);
            let canary = json!({
                "apiVersion": "flagger.app/v1beta1", "kind": "Canary",
                "metadata": {"name": name, "namespace": "test", "uid": "c"},
                "spec": {"targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "app"},
                    "service": {"port": 80}, "analysis": {}},
            });
            let (templates, config) = (BTreeMap::new(), Config::default());
            let subject = Subject::new(canary, objects, BTreeMap::new(), &templates, &config).unwrap();
            let promoted = Revision::of(&json!({}));
            let writes = subject.target_write(&Step::Adopt { promoted, hold: None, replicas: None });
            let Write::Patch { patch, .. } = writes.unwrap().remove(0) else { panic!() };
            let mut adopted = deployment;
            json_patch::patch(&mut adopted, &patch.0).unwrap();
            adopted["metadata"].clone()
        };
        let long = "a".repeat(70);
        let metadata = adopted(&long);
        assert_eq!(metadata["labels"][keys::CANARY].as_str().map(str::len), Some(63));
        assert_eq!(metadata["annotations"][keys::CANARY_NAME], long.as_str());
        assert!(adopted("app")["annotations"].get(keys::CANARY_NAME).is_none());
    }
}
