//! From a step to the API writes that take it.

use super::Subject;
use super::kept::keep_unknown;
use crate::api::keys;
use crate::api::revision::{RESTARTED_AT, Revision};
use crate::object::{Kind, ObjectRef, Write};
use crate::rollout::model::observed::Backend;
use crate::rollout::model::plan::{Message, Step};
use crate::rollout::model::workload::Workload;
use crate::rollout::objects;
use crate::rollout::objects::carried::Carried;
use crate::rollout::objects::patch::Edit;
use crate::router::services::ApexSelects;
use serde_json::{Value, json};

/// Why a step cannot be taken on what is observed; the state is observed again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Impossible(pub String);

pub(super) fn missing(what: &str) -> Impossible {
    Impossible(format!("{what} is not there any more"))
}

type Writes = Result<Vec<Write>, Impossible>;

impl Subject<'_> {
    /// Returns the writes of one step, in order. Steps that write nothing (words, questions, reads) return none.
    ///
    /// # Errors
    ///
    /// When an object that the step needs is gone.
    pub fn writes(&self, step: &Step) -> Writes {
        let none = Ok(Vec::new());
        match step {
            Step::Say(_)
            | Step::Ask(_)
            | Step::LoadSnapshot(_)
            | Step::EmptyHistory
            | Step::GiveBackPods(_)
            | Step::StoreRunning(_)
            | Step::EvictOlder(_)
            | Step::AskPods { .. }
            | Step::Survey
            | Step::Redefault { .. } => none,
            Step::Status(status) => {
                let mut object = json!({
                    "apiVersion": Kind::Canary.api_version(), "kind": Kind::Canary.as_str(),
                    "metadata": self.object.get("metadata"), "spec": self.object.get("spec"),
                });
                if let Some(object) = object.as_object_mut() {
                    let json = |status| serde_json::to_value(status).map_err(|e| Impossible(e.to_string()));
                    let mut status = json(Some(status.as_ref()))?;
                    if let Some(raw) = self.object.get("status") {
                        status = keep_unknown(raw, &json(self.canary.status.as_ref())?, status);
                    }
                    object.insert("status".into(), status);
                }
                Ok(vec![Write::ReplaceStatus { object }])
            }
            Step::GuardCanary => Ok(one(self.canary_edit().with_finalizer(keys::CANARY_FINALIZER))),
            Step::ReleaseCanary => Ok(one(self.canary_edit().without_finalizer(keys::CANARY_FINALIZER))),
            Step::StoreSnapshot(revision) => self.store(self.template(revision)?, revision),
            Step::Rebaseline { from, to } => self.rebaseline(from, to),
            Step::GlassPrimary(revision) => {
                Ok(one(self.primary_edit()?.same_generation().annotation(keys::GLASSED, revision.as_str())))
            }
            Step::StorePrimarySnapshot(revision) => {
                let (primary, label) =
                    self.primary().zip(self.label()).ok_or_else(|| missing("the primary"))?;
                self.store(&objects::target_template(primary, &label, &self.names), revision)
            }
            Step::PruneSnapshots(names) => Ok(names
                .iter()
                .filter_map(|name| {
                    let uid = self.snapshots.get(name)?.uid.clone();
                    let target = ObjectRef::new(Kind::ControllerRevision, &self.names.namespace, name);
                    Some(Write::Delete { target, uid })
                })
                .collect()),
            Step::CreatePrimary { revision, replicas } | Step::CreateCanary { revision, replicas } => {
                let (target, label) = self.target().zip(self.label()).ok_or_else(|| missing("the target"))?;
                let template = self.template(revision)?;
                let object = objects::generated(
                    target,
                    template,
                    revision,
                    &self.names,
                    self.uid(),
                    &label,
                    Carried::of(target, &self.config.label_prefixes, &label),
                    *replicas,
                );
                Ok(vec![Write::create(Kind::Deployment, object)])
            }
            Step::ScaleCanary(replicas) => scale(self.generated_edit()?, *replicas),
            Step::DeleteCanary => Ok(self.delete_generated_deployment()),
            Step::WritePrimary { revision, replicas } => self.write_primary(revision, *replicas),
            Step::RestartPrimary(at) => Ok(one(self
                .primary_edit()?
                .same_generation()
                .set("/spec/template/metadata/annotations", self.restarted(at)))),
            Step::GuardPrimary => {
                let primary = self.primary().ok_or_else(|| missing("the primary"))?;
                let revision = Workload::parse(primary).map(|p| p.keys.promoted);
                let mut edit = self.primary_edit()?.with_finalizer(keys::TRAFFIC_FINALIZER);
                for (key, value) in objects::labels(&self.names, keys::ROLE_GENERATED) {
                    edit = edit.label(key, &value);
                }
                if revision.flatten().is_none()
                    && let Some(label) = self.label()
                {
                    let template = objects::target_template(primary, &label, &self.names);
                    let live = primary.pointer("/spec/template").map(Revision::of);
                    edit = edit.annotation(keys::PROMOTED, Revision::of(&template).as_str());
                    if let Some(live) = live {
                        edit = edit.annotation(keys::TEMPLATE, live.as_str());
                    }
                }
                Ok(one(edit))
            }
            Step::UnguardPrimary => Ok(one(self.primary_edit()?.without_finalizer(keys::TRAFFIC_FINALIZER))),
            Step::SyncAutoscaler => {
                Ok(self.autoscaler_left().into_iter().chain(self.autoscaler_write()).collect())
            }
            Step::EnsureServices { .. } if self.names.in_place() => {
                Ok(self.service_writes(ApexSelects::Target))
            }
            Step::EnsureServices { apex } => Ok(self.service_writes(match apex {
                Backend::Primary => ApexSelects::Primary,
                Backend::Target => ApexSelects::Target,
            })),
            Step::EnsureRoutes if self.by_replicas() => self.correct_count(),
            Step::SetWeight(weight) if self.by_replicas() => self.set_share(*weight),
            Step::EnsureRoutes => {
                let live = |at: &ObjectRef| self.live(at);
                let router = self.router().ok_or_else(|| missing("the router"))?;
                router.reconcile(&live).map_err(|e| Impossible(e.to_string()))
            }
            Step::SetWeight(weight) => {
                let live = |at: &ObjectRef| self.live(at);
                let router = self.router().ok_or_else(|| missing("the router"))?;
                router.set_weights(&live, *weight).map_err(|e| Impossible(e.to_string()))
            }
            Step::PointAtTarget => Ok(self.point_at_target()),
            Step::DeleteGenerated => Ok(self.delete_generated()),
            Step::Announce(at) => {
                let target = self.target().ok_or_else(|| missing("the target"))?;
                let edit = self.target_edit()?;
                let at = at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
                let condition = json!({
                    "type": keys::RECONCILING, "status": "True", "reason": "Progressing",
                    "message": format!("Canary {} analyses a revision; its status tells more.", self.names.canary),
                    "lastUpdateTime": at, "lastTransitionTime": at,
                });
                let edit = match target.pointer("/status/conditions") {
                    Some(_) => edit.set("/status/conditions/-", condition),
                    None => edit.set("/status/conditions", json!([condition])),
                };
                Ok(edit.write_status().into_iter().collect())
            }
            Step::Retract(at) => {
                let condition = format!("/status/conditions/{at}");
                let edit = self.target_edit()?.unchanged(&format!("{condition}/type")).remove(&condition);
                Ok(edit.write_status().into_iter().collect())
            }
            Step::ScaleTarget(replicas) => scale(self.target_edit()?, *replicas),
            Step::ScalePrimary(replicas) => scale(self.primary_edit()?, *replicas),
            Step::Adopt { .. }
            | Step::Release(_)
            | Step::Hold { .. }
            | Step::Glass { .. }
            | Step::ClearHold(_)
            | Step::CorrectHold(_)
            | Step::RecordReplicas(_)
            | Step::MarkPromoted(_)
            | Step::UnguardTarget
            | Step::Disown
            | Step::RestoreTarget(_)
            | Step::HoldAgain(_)
            | Step::Unenrol => self.target_write(step),
        }
    }

    pub(super) fn at(&self, name: &str) -> ObjectRef {
        objects::deployment(&self.names, name)
    }

    fn canary_edit(&self) -> Edit<'_> {
        Edit::new(ObjectRef::new(Kind::Canary, &self.names.namespace, &self.names.canary), &self.object)
    }

    fn target_edit(&self) -> Result<Edit<'_>, Impossible> {
        let target = self.target().ok_or_else(|| missing("the target"))?;
        Ok(Edit::new(self.at(&self.names.target), target))
    }

    pub(super) fn generated_edit(&self) -> Result<Edit<'_>, Impossible> {
        let generated = self.generated().ok_or_else(|| missing("the generated Deployment"))?;
        Ok(Edit::new(self.at(self.names.generated()), generated))
    }

    fn primary_edit(&self) -> Result<Edit<'_>, Impossible> {
        let primary = self.primary().ok_or_else(|| missing("the primary"))?;
        Ok(Edit::new(self.at(&self.names.primary), primary))
    }

    pub(crate) fn template(&self, revision: &Revision) -> Result<&Value, Impossible> {
        let live = self.target().and_then(|t| t.pointer("/spec/template"));
        self.templates
            .get(revision)
            .or_else(|| live.filter(|t| Revision::of(t) == *revision))
            .ok_or_else(|| Impossible(format!("the template of revision {revision} is not at hand")))
    }

    /// Returns the write that stores a template under a revision's name.
    ///
    /// # Errors
    ///
    /// Never; the other writes of a step may be impossible.
    pub fn store(&self, template: &Value, revision: &Revision) -> Writes {
        let number = i64::try_from(self.snapshots.len()).unwrap_or(i64::MAX).saturating_add(1);
        let object = objects::snapshot(template, revision, &self.names, self.uid(), number);
        Ok(vec![Write::create(Kind::ControllerRevision, object)])
    }

    fn write_primary(&self, revision: &Revision, replicas: Option<i32>) -> Writes {
        let (target, label) = self.target().zip(self.label()).ok_or_else(|| missing("the target"))?;
        let template = self.template(revision)?;
        let mut edit = self
            .primary_edit()?
            .same_generation()
            .remove("/spec/paused")
            .annotation(keys::PROMOTED, revision.as_str())
            .without_annotation(keys::GLASSED);
        edit = self.carry(edit, &Carried::of(target, &self.config.label_prefixes, &label));
        for (key, value) in objects::promoted_spec(target, template, &label, &self.names) {
            if let Some(template) = value.as_ref().filter(|_| key == "template") {
                edit = edit.annotation(keys::TEMPLATE, Revision::of(template).as_str());
            }
            let pointer = format!("/spec/{key}");
            edit = match value {
                Some(value) => edit.set(&pointer, value),
                None => edit.remove(&pointer),
            };
        }
        if let Some(replicas) = replicas {
            edit = edit.set("/spec/replicas", replicas.into());
        }
        Ok(one(edit))
    }

    fn restarted(&self, at: &str) -> Value {
        let mut annotations = self
            .primary()
            .and_then(|p| p.pointer("/spec/template/metadata/annotations").cloned())
            .unwrap_or_else(|| json!({}));
        if let Some(map) = annotations.as_object_mut() {
            map.insert(RESTARTED_AT.into(), at.into());
        }
        annotations
    }

    pub(super) fn service_writes(&self, apex: ApexSelects) -> Vec<Write> {
        let Some(services) = self.services(apex) else { return Vec::new() };
        let live = |at: &ObjectRef| self.live(at);
        let writes = services.reconcile(&live);
        // While the apex selects the target it is not made: clients must not meet a Service that leads to the canary.
        writes
            .into_iter()
            .filter(|w| apex == ApexSelects::Primary || w.target().is_none_or(|t| t.name != self.names.apex))
            .collect()
    }

    pub(super) fn autoscaler_write(&self) -> Option<Write> {
        if self.names.in_place() {
            return None; // it scales the primary already
        }
        let reference = self.spec().autoscaler_ref.as_ref()?;
        let source = self.get(Kind::HorizontalPodAutoscaler, &reference.name)?;
        let limits = reference.primary_scaler_replicas;
        let desired = objects::autoscaler(
            source,
            &self.names,
            self.uid(),
            limits.and_then(|l| l.min_replicas),
            limits.and_then(|l| l.max_replicas),
        )?;
        let name = format!("{}-primary", reference.name);
        match self.get(Kind::HorizontalPodAutoscaler, &name) {
            None => Some(Write::create(Kind::HorizontalPodAutoscaler, desired)),
            Some(live) if !self.owner().owns(live) => None,
            Some(live) => {
                let at = ObjectRef::new(Kind::HorizontalPodAutoscaler, &self.names.namespace, name);
                let spec = desired.pointer("/spec").cloned().unwrap_or_default();
                let mut edit = Edit::new(at, live).set("/spec", spec);
                for (key, value) in texts(&desired, "/metadata/labels") {
                    edit = edit.label(key, value);
                }
                for (key, value) in texts(&desired, "/metadata/annotations") {
                    edit = edit.annotation(key, value);
                }
                edit.write()
            }
        }
    }

    /// The autoscaler that the Canary has taken over, where its spec names another one, or none.
    pub(super) fn autoscaler_before(&self) -> Option<&str> {
        let had = self.canary.status.as_ref()?.adopted.as_ref()?.autoscaler.as_deref()?;
        let now = self.spec().autoscaler_ref.as_ref().map(|scaler| scaler.name.as_str());
        (now != Some(had)).then_some(had)
    }

    /// The copy that was made of it would go on scaling the primary.
    pub(super) fn autoscaler_left(&self) -> Option<Write> {
        let name = format!("{}-primary", self.autoscaler_before()?);
        let copy = self.own(Kind::HorizontalPodAutoscaler, &name)?;
        delete(ObjectRef::new(Kind::HorizontalPodAutoscaler, &self.names.namespace, name), copy)
    }

    /// The apex Service outlives the Canary: it leads to the target again, and is no longer ours.
    fn point_at_target(&self) -> Vec<Write> {
        let live = |at: &ObjectRef| self.live(at);
        self.services(ApexSelects::Target).and_then(|services| services.let_go(&live)).into_iter().collect()
    }

    /// Lets a generated Deployment go, and deletes it.
    fn delete_generated_deployment(&self) -> Vec<Write> {
        let Some(generated) = self.generated() else { return Vec::new() };
        let at = self.at(self.names.generated());
        let edit = Edit::new(at.clone(), generated).without_finalizer(keys::TRAFFIC_FINALIZER);
        edit.write().into_iter().chain(delete(at, generated)).collect()
    }

    /// The generated Deployment is let go. Everything else that was made is owned by the Canary and goes with it; where that
    /// stays, to take over something else, it is deleted.
    fn delete_generated(&self) -> Vec<Write> {
        let live = |at: &ObjectRef| self.live(at);
        let mut writes = self.router().map(|r| r.restore(&live)).unwrap_or_default();
        // One that was made goes with the Canary where it has no target any more.
        let apex = self.get(Kind::Service, &self.names.apex);
        if self.target().is_none_or(|target| target.pointer("/metadata/deletionTimestamp").is_some())
            && apex.is_some_and(|apex| !self.owner().owns(apex))
        {
            writes.extend(self.services_alone().let_go(&live));
        }
        writes.extend(self.delete_generated_deployment());
        if self.canary.metadata.deletion_timestamp.is_none() {
            let (owner, generated) = (self.owner(), self.at(self.names.generated()));
            let made = self.objects.iter().filter(|(at, object)| **at != generated && owner.owns(object));
            writes.extend(made.filter_map(|(at, object)| delete(at.clone(), object)));
        }
        writes
    }
}

fn delete(target: ObjectRef, object: &Value) -> Option<Write> {
    let uid = object.pointer("/metadata/uid")?.as_str()?.to_owned();
    Some(Write::Delete { target, uid })
}

/// What is logged of a write that was done: what is made, and what is repaired (Flagger's words). Weights, templates
/// and status are spoken of by the plan.
#[must_use]
pub fn logged(step: &Step, write: &Write) -> Option<Message> {
    let at = write.target()?;
    let kind = match at.kind {
        Kind::HorizontalPodAutoscaler => "HorizontalPodAutoscaler v2",
        kind => kind.as_str(),
    };
    let name = format!("{}.{}", at.name, at.namespace);
    let text = match (write, step) {
        (Write::Create { .. }, _) if at.kind != Kind::ControllerRevision => format!("{kind} {name} created"),
        (Write::Patch { .. }, Step::EnsureServices { .. } | Step::PointAtTarget) => {
            format!("{kind} {} updated", at.name)
        }
        (Write::Patch { .. }, Step::EnsureRoutes | Step::SyncAutoscaler) => format!("{kind} {name} updated"),
        _ => return None,
    };
    Some(Message::log(text))
}

fn texts<'v>(object: &'v Value, map: &str) -> impl Iterator<Item = (&'v str, &'v str)> {
    let map = object.pointer(map).and_then(Value::as_object);
    map.into_iter().flatten().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
}

pub(super) fn one(edit: Edit<'_>) -> Vec<Write> {
    edit.write().into_iter().collect()
}

/// A patch rather than `/scale`: that one tests the resourceVersion, which the Deployment controller moves with each
/// status write, and just then, right after a release, it writes.
fn scale(edit: Edit<'_>, replicas: i32) -> Writes {
    Ok(one(edit.same_generation().set("/spec/replicas", replicas.into())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::subject::testing::{subject, target};

    #[test]
    fn what_is_made_or_repaired_is_logged_and_weights_are_not() {
        let at = |kind| ObjectRef::new(kind, "test", "app");
        let patch = |kind| Write::Patch { target: at(kind), patch: json_patch::Patch(Vec::new()) };
        let made = |kind: Kind| {
            let metadata = json!({"namespace": "test", "name": "app"});
            Write::create(
                kind,
                json!({"apiVersion": kind.api_version(), "kind": kind.as_str(), "metadata": metadata}),
            )
        };
        let services = Step::EnsureServices { apex: Backend::Primary };
        for (step, write, text) in [
            (&services, made(Kind::Service), Some("Service app.test created")),
            (&services, patch(Kind::Service), Some("Service app updated")),
            (
                &Step::EnsureRoutes,
                patch(crate::router::VIRTUAL_SERVICE),
                Some("VirtualService app.test updated"),
            ),
            (
                &Step::SyncAutoscaler,
                made(Kind::HorizontalPodAutoscaler),
                Some("HorizontalPodAutoscaler v2 app.test created"),
            ),
            (&Step::SetWeight(10), patch(crate::router::VIRTUAL_SERVICE), None),
            (&Step::Disown, patch(Kind::Deployment), None),
            (&Step::StoreSnapshot(Revision::from_key("a")), made(Kind::ControllerRevision), None),
        ] {
            assert_eq!(logged(step, &write).map(|m| m.text).as_deref(), text, "{step:?}");
        }
    }

    #[test]
    fn no_other_template_is_written_in_the_name_of_a_revision() {
        let [live, other] = ["v1", "v2"].map(|image| json!({"spec": {"image": image}}));
        let subject = subject(&live);
        let make =
            |template| subject.writes(&Step::CreatePrimary { revision: Revision::of(template), replicas: 1 });
        assert!(make(&live).is_ok());
        assert!(make(&other).is_err());
        assert!(subject.writes(&Step::StoreSnapshot(Revision::of(&other))).is_err());
    }

    /// Interlock §5.2: a newer write, or another object of the name, refuses the release.
    #[test]
    fn a_release_is_for_the_very_object_that_was_seen() {
        let template = json!({"spec": {"image": "v1"}});
        let mut held = target(&template);
        json_patch::merge(
            &mut held,
            &json!({"metadata": {"annotations": {keys::HOLD: "h"}}, "spec": {"paused": true}}),
        );
        let mut subject = subject(&template);
        let at = subject.at(&subject.names.target);
        subject.objects.insert(at, held.clone().into());
        let writes = subject.writes(&Step::Release(Revision::of(&template))).unwrap();
        let [Write::Patch { patch, .. }] = writes.as_slice() else { panic!("{writes:?}") };
        let refused = |change: &Value| {
            let mut live = held.clone();
            json_patch::merge(&mut live, change);
            json_patch::patch(&mut live, patch).is_err()
        };
        assert!(!refused(&json!({"status": {"replicas": 1}, "metadata": {"resourceVersion": "2"}})));
        for change in [
            json!({"metadata": {"uid": "other"}}),
            json!({"metadata": {"generation": 4}}),
            json!({"metadata": {"annotations": {keys::HOLD: "newer"}}}),
        ] {
            assert!(refused(&change), "{change}");
        }
    }

    /// Positions in `managedFields` move when somebody else writes: another entry is not touched.
    #[test]
    fn fields_are_disowned_in_the_very_entry_that_was_seen() {
        let mut owned = target(&json!({}));
        let ours = json!({"manager": keys::FIELD_MANAGER, "time": "t1", "fieldsV1": {"f:spec": {}}});
        json_patch::merge(&mut owned, &json!({"metadata": {"managedFields": [ours.clone()]}}));
        let mut subject = subject(&json!({}));
        let at = subject.at(&subject.names.target);
        subject.objects.insert(at, owned.clone().into());
        let writes = subject.writes(&Step::Disown).unwrap();
        let [Write::Patch { patch, .. }] = writes.as_slice() else { panic!("{writes:?}") };
        let passes = |entry: Value| {
            let mut live = owned.clone();
            json_patch::merge(&mut live, &json!({"metadata": {"managedFields": [entry]}}));
            json_patch::patch(&mut live, patch).is_ok()
        };
        assert!(passes(ours.clone()));
        assert!(!passes(json!({"manager": "flux", "time": "t1", "fieldsV1": {"f:spec": {}}})));
        assert!(!passes(json!({"manager": keys::FIELD_MANAGER, "time": "t2", "fieldsV1": {"f:spec": {}}})));
    }
}
