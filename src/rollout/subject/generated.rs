//! The generated Deployment as it follows its target, and as the API server keeps it.

use super::Subject;
use super::observe::annotation;
use crate::api::carried;
use crate::api::keys;
use crate::api::revision::Revision;
use crate::object::{Write, escape};
use crate::rollout::objects::carried::Carried;
use crate::rollout::objects::patch::Edit;
use json_patch::PatchOperation;
use serde_json::Value;

impl Subject<'_> {
    /// Gives the primary what the target has of metadata, and takes from it what it had and the target has no more.
    pub(super) fn carry<'e>(&'e self, mut edit: Edit<'e>, carried: &Carried) -> Edit<'e> {
        for (field, now) in [("labels", &carried.labels), ("annotations", &carried.annotations)] {
            let before = self.generated().map(|primary| carried::before(primary, field));
            for key in before.into_iter().flatten().filter(|key| !now.contains_key(key)) {
                edit = edit.remove(&format!("/metadata/{field}/{}", escape(&key)));
            }
            for (key, value) in now.iter().filter_map(|(key, value)| Some((key, value.as_str()?))) {
                edit = if field == "labels" { edit.label(key, value) } else { edit.annotation(key, value) };
            }
        }
        if carried.is_empty() {
            return edit.without_annotation(keys::CARRIED);
        }
        edit.annotation(keys::CARRIED, &carried.record())
    }

    /// Names what the API server has stored otherwise than it was sent, as paths: pruned by a schema, or changed by a policy.
    /// Defaults that it adds to what is made are no such thing.
    #[must_use]
    pub fn unkept(&self, write: &Write, answer: &Value) -> Option<String> {
        let at = write.target()?;
        let (sent, made) = match write {
            Write::Create { object, .. } => (object.clone(), true),
            Write::Patch { patch, .. } => {
                let mut next = self.live(&at)?.clone();
                json_patch::patch(&mut next, patch).ok()?;
                (next, false)
            }
            _ => return None,
        };
        let part = |object: &Value| {
            serde_json::json!({"spec": object.get("spec"), "labels": object.pointer("/metadata/labels"),
                "annotations": object.pointer("/metadata/annotations")})
        };
        let lost = json_patch::diff(&part(&sent), &part(answer)).0.into_iter();
        let lost = lost.filter(|operation| !(made && matches!(operation, PatchOperation::Add(_))));
        let paths: Vec<String> = lost.map(|operation| operation.path().to_string()).collect();
        (!paths.is_empty()).then(|| format!("{} {}, at {}", at.kind.as_str(), at.name, paths.join(", ")))
    }

    /// What the API server made of our own write of the generated Deployment is what we wrote: an admission policy may have
    /// changed its template. Else it would be taken for somebody's edit by hand. Returns the correction of the record.
    #[must_use]
    pub fn as_kept(&self, write: &Write, answer: &Value) -> Option<Write> {
        let at = write.target().filter(|at| *at == self.at(self.names.generated()))?;
        let noted = match write {
            Write::Create { object, .. } => annotation(object, keys::TEMPLATE)?.to_owned(),
            Write::Patch { patch, .. } => {
                let path = format!("/metadata/annotations/{}", escape(keys::TEMPLATE));
                patch.0.iter().find_map(|operation| match operation {
                    PatchOperation::Add(add) if add.path.as_str() == path => {
                        add.value.as_str().map(str::to_owned)
                    }
                    _ => None,
                })?
            }
            _ => return None,
        };
        let kept = Revision::of(answer.pointer("/spec/template")?);
        if kept.as_str() == noted || annotation(answer, keys::TEMPLATE) != Some(noted.as_str()) {
            return None;
        }
        Edit::new(at, answer).same_generation().annotation(keys::TEMPLATE, kept.as_str()).write()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{Kind, ObjectRef};
    use crate::rollout::model::plan::Step;
    use crate::rollout::subject::testing::subject;
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn what_a_policy_makes_of_our_write_is_what_we_wrote() {
        let template = json!({"metadata": {"labels": {"app": "app"}}, "spec": {"image": "v1"}});
        let subject = subject(&template);
        let step = Step::CreatePrimary { revision: Revision::of(&template), replicas: 1 };
        let [write @ Write::Create { object, .. }] = &subject.writes(&step).unwrap()[..] else { panic!() };
        let mut kept = object.clone();
        json_patch::merge(&mut kept, &json!({"metadata": {"uid": "u", "generation": 1}}));
        assert_eq!(subject.as_kept(write, &kept), None);
        json_patch::merge(
            &mut kept,
            &json!({"spec": {"template": {"metadata": {"labels": {"by": "policy"}}}}}),
        );
        let Some(Write::Patch { patch, .. }) = subject.as_kept(write, &kept) else { panic!("no correction") };
        json_patch::patch(&mut kept, &patch).unwrap();
        let live = Revision::of(kept.pointer("/spec/template").unwrap());
        assert_eq!(annotation(&kept, keys::TEMPLATE), Some(live.as_str()));
    }

    #[test]
    fn what_is_pruned_is_named() {
        let subject = subject(&json!({"metadata": {"labels": {"app": "app"}}, "spec": {}}));
        let sent = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "test", "name": "app"},
            "spec": {"ports": [{"port": 80, "new": true}]}});
        let write = Write::create(Kind::Service, sent.clone());
        let mut kept = sent;
        kept["spec"]["clusterIP"] = "10.0.0.1".into();
        assert_eq!(subject.unkept(&write, &kept), None);
        kept["spec"]["ports"][0].as_object_mut().unwrap().remove("new");
        assert_eq!(subject.unkept(&write, &kept).unwrap(), "Service app, at /spec/ports/0/new");
    }

    #[test]
    fn metadata_that_its_owner_takes_out_goes_from_the_primary_too() {
        let template = json!({"metadata": {"labels": {"app": "app"}}, "spec": {"image": "v1"}});
        let mut subject = subject(&template);
        let at = ObjectRef::new(Kind::Deployment, "test", "app");
        let made = |subject: &Subject<'_>| {
            let step = Step::CreatePrimary { revision: Revision::of(&template), replicas: 1 };
            match subject.writes(&step).unwrap().remove(0) {
                Write::Create { object, .. } => object,
                other => panic!("{other:?}"),
            }
        };
        let target = Arc::make_mut(subject.objects.get_mut(&at).unwrap());
        json_patch::merge(
            target,
            &json!({"metadata": {"annotations": {"owner": "a", "gone": "x"}}, "spec": {"minReadySeconds": 5}}),
        );
        let mut primary = made(&subject);
        json_patch::merge(
            &mut primary,
            &json!({"metadata": {"uid": "p", "generation": 1, "annotations": {"tool": "kept"}}}),
        );
        assert_eq!(primary["spec"]["minReadySeconds"], 5);
        subject
            .objects
            .insert(ObjectRef::new(Kind::Deployment, "test", "app-primary"), primary.clone().into());
        let target = Arc::make_mut(subject.objects.get_mut(&at).unwrap());
        json_patch::merge(
            target,
            &json!({"metadata": {"annotations": {"owner": "b", "gone": null}}, "spec": {"minReadySeconds": null}}),
        );
        let step = Step::WritePrimary { revision: Revision::of(&template), replicas: None };
        let [Write::Patch { patch, .. }] = &subject.writes(&step).unwrap()[..] else { panic!() };
        json_patch::patch(&mut primary, patch).unwrap();
        assert_eq!(primary["spec"].get("minReadySeconds"), None);
        let annotations = &primary["metadata"]["annotations"];
        assert_eq!(
            (&annotations["owner"], &annotations["tool"], annotations.get("gone")),
            (&json!("b"), &json!("kept"), None)
        );
    }
}
