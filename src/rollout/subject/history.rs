//! The ReplicaSets that a target keeps of earlier revisions.

use super::Subject;
use crate::api::keys;
use crate::api::revision::Revision;
use crate::object::{Kind, ObjectRef, Write};
use crate::rollout::objects::patch::Edit;
use crate::rollout::objects::{POD_TEMPLATE_HASH, replica_set_template};
use serde_json::{Value, json};

impl Subject<'_> {
    /// Returns the template of a revision as one of the target's ReplicaSets has it.
    #[must_use]
    pub fn template_among(&self, sets: &[Value], revision: &Revision) -> Option<Value> {
        let uid = self.target()?.pointer("/metadata/uid")?;
        sets.iter()
            .filter(|set| owned_by(set, uid))
            .filter_map(replica_set_template)
            .find(|t| Revision::of(t) == *revision)
    }

    /// Returns the patches that take our marks off the target's ReplicaSets, where Kubernetes has copied them from the target.
    #[must_use]
    pub fn unmarked_history(&self, sets: &[Value]) -> Vec<Write> {
        let Some(uid) = self.target().and_then(|target| target.pointer("/metadata/uid")) else {
            return Vec::new();
        };
        let write = |set: &Value| {
            let name = set.pointer("/metadata/name").and_then(Value::as_str)?;
            let at = ObjectRef::new(Kind::ReplicaSet, &self.names.namespace, name);
            Edit::new(at, set).unchanged("/metadata/resourceVersion").without_keys().write()
        };
        sets.iter().filter(|set| owned_by(set, uid)).filter_map(write).collect()
    }

    /// Returns the deletions of the target's ReplicaSets that have no pods and are not the promoted revision's.
    ///
    /// A paused Deployment without pods that is scaled up gets pods of the live template's ReplicaSet, else of the newest
    /// one (kubernetes pkg/controller/deployment, `scale`): of a held revision, or of one that was left long ago.
    #[must_use]
    pub fn idle_history(&self, sets: &[Value]) -> Vec<Write> {
        let Some(target) = self.target() else { return Vec::new() };
        let promoted = target.pointer("/metadata/annotations").and_then(|a| a.get(keys::PROMOTED));
        let Some(promoted) = promoted.and_then(Value::as_str) else { return Vec::new() };
        let number = |set: &Value, field: &str| set.pointer(field).and_then(Value::as_i64).unwrap_or(0);
        let Some(uid) = target.pointer("/metadata/uid") else { return Vec::new() };
        let is_promoted =
            |set: &Value| replica_set_template(set).is_some_and(|t| Revision::of(&t).as_str() == promoted);
        let owned: Vec<&Value> = sets.iter().filter(|set| owned_by(set, uid)).collect();
        if !owned.iter().any(|set| is_promoted(set)) {
            // An API server with other defaults shows it by another hash: it may be any of them.
            return Vec::new();
        }
        owned
            .into_iter()
            .filter(|set| number(set, "/spec/replicas") == 0 && number(set, "/status/replicas") == 0)
            .filter(|set| !is_promoted(set))
            .filter_map(|set| self.deletion(set))
            .collect()
    }

    /// Returns the writes that give a target without pods those of the promoted revision: its ReplicaSet, where there is none any
    /// more. The Deployment controller takes it for its own, by its owner and template, and scales it from here on. One of another
    /// revision that is about to make its first pods goes before: the Deployment was paused a moment too late for it.
    #[must_use]
    pub fn given_back(&self, sets: &[Value], promoted: &Revision, template: &Value) -> Vec<Write> {
        let is_promoted =
            |set: &Value| replica_set_template(set).is_some_and(|t| Revision::of(&t) == *promoted);
        let number = |set: &Value, field: &str| set.pointer(field).and_then(Value::as_i64).unwrap_or(0);
        let uid = self.target().and_then(|target| target.pointer("/metadata/uid"));
        let Some(uid) = uid.filter(|_| self.target().is_some_and(|t| number(t, "/spec/replicas") > 0)) else {
            return Vec::new();
        };
        let owned: Vec<&Value> = sets.iter().filter(|set| owned_by(set, uid)).collect();
        let begins =
            |set: &&&Value| number(set, "/spec/replicas") > 0 && number(set, "/status/replicas") == 0;
        let mut writes: Vec<Write> = owned
            .iter()
            .filter(begins)
            .filter(|set| !is_promoted(set))
            .filter_map(|set| self.deletion(set))
            .collect();
        if !owned.iter().any(|set| is_promoted(set)) {
            writes.extend(self.replica_set(promoted, template));
        }
        writes
    }

    fn deletion(&self, set: &Value) -> Option<Write> {
        let text = |field: &str| set.pointer(field).and_then(Value::as_str);
        let target = ObjectRef::new(Kind::ReplicaSet, &self.names.namespace, text("/metadata/name")?);
        Some(Write::Delete { target, uid: text("/metadata/uid")?.to_owned() })
    }

    /// A ReplicaSet of a revision for the target, with all of its pods.
    fn replica_set(&self, promoted: &Revision, template: &Value) -> Option<Write> {
        let target = self.target()?;
        let (uid, replicas) = (target.pointer("/metadata/uid")?, target.pointer("/spec/replicas")?);
        let hash = promoted.short();
        let mut template = template.clone();
        let mut selector = target.pointer("/spec/selector")?.clone();
        for labels in [template.pointer_mut("/metadata/labels")?, label_map(&mut selector)?] {
            labels.as_object_mut()?.insert(POD_TEMPLATE_HASH.into(), hash.into());
        }
        let owner = json!({
            "apiVersion": Kind::Deployment.api_version(), "kind": Kind::Deployment.as_str(),
            "name": self.names.target, "uid": uid, "controller": true, "blockOwnerDeletion": true,
        });
        Some(Write::create(
            Kind::ReplicaSet,
            json!({
                "apiVersion": Kind::ReplicaSet.api_version(), "kind": Kind::ReplicaSet.as_str(),
                "metadata": {
                    "name": format!("{}-{hash}", self.names.target), "namespace": self.names.namespace,
                    "labels": template.pointer("/metadata/labels"), "ownerReferences": [owner],
                },
                "spec": {"replicas": replicas, "selector": selector, "template": template},
            }),
        ))
    }
}

fn label_map(selector: &mut Value) -> Option<&mut Value> {
    let selector = selector.as_object_mut()?;
    Some(selector.entry("matchLabels").or_insert_with(|| json!({})))
}

fn owned_by(set: &Value, uid: &Value) -> bool {
    let owners = set.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    owners.is_some_and(|owners| owners.iter().any(|owner| owner.get("uid") == Some(uid)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::subject::testing::{subject, target};

    #[test]
    fn only_idle_replica_sets_of_other_revisions_go() {
        let of = |image: &str| json!({"metadata": {"labels": {"app": "app"}}, "spec": {"image": image}});
        let mut live = target(&of("v3"));
        let promoted = Revision::of(&of("v1"));
        json_patch::merge(
            &mut live,
            &json!({"metadata": {"annotations": {keys::PROMOTED: promoted.as_str()}}}),
        );
        let mut subject = subject(&json!({}));
        subject.objects.insert(ObjectRef::new(Kind::Deployment, "test", "app"), live.into());
        let set = |name: &str, image: &str, owner: &str, spec: i64, status: i64| {
            let mut template = of(image);
            template["metadata"]["labels"][POD_TEMPLATE_HASH] = name.into();
            json!({
                "metadata": {"name": name, "uid": name, "ownerReferences": [{"uid": owner}]},
                "spec": {"replicas": spec, "template": template}, "status": {"replicas": status},
            })
        };
        let sets = [
            set("promoted", "v1", "u", 0, 0),
            set("older", "v0", "u", 0, 0),
            set("held", "v3", "u", 0, 0),
            set("running", "v2", "u", 1, 1),
            set("ending", "v2", "u", 0, 1),
            set("foreign", "v0", "other", 0, 0),
        ];
        let gone: Vec<String> =
            subject.idle_history(&sets).iter().filter_map(|w| Some(w.target()?.name)).collect();
        assert_eq!(gone, ["older", "held"]);
        assert!(subject.idle_history(&sets[1..]).is_empty(), "the promoted one is not known among them");
    }

    /// The Deployment controller has made a ReplicaSet of what is held now, and that has no pod yet.
    #[test]
    fn a_replica_set_that_was_made_a_moment_too_soon_goes() {
        let of = |image: &str| json!({"metadata": {"labels": {"app": "app"}}, "spec": {"image": image}});
        let mut live = target(&of("v9"));
        live["spec"]["replicas"] = 2.into();
        let mut subject = subject(&json!({}));
        subject.objects.insert(ObjectRef::new(Kind::Deployment, "test", "app"), live.into());
        let set = |name: &str, image: &str, spec: i64, status: i64| {
            json!({
                "metadata": {"name": name, "uid": name, "ownerReferences": [{"uid": "u"}]},
                "spec": {"replicas": spec, "template": of(image)}, "status": {"replicas": status},
            })
        };
        let template = of("v1");
        let promoted = Revision::of(&template);
        let writes = |sets: &[Value]| {
            let all = subject.given_back(sets, &promoted, &template);
            all.iter()
                .map(|w| (w.target().unwrap().name, matches!(w, Write::Create { .. })))
                .collect::<Vec<_>>()
        };
        let made = (format!("app-{}", promoted.short()), true);
        assert_eq!(writes(&[]), std::slice::from_ref(&made));
        assert_eq!(writes(&[set("held", "v9", 2, 0)]), [("held".to_owned(), false), made.clone()]);
        assert_eq!(writes(&[set("held", "v9", 2, 1), set("idle", "v0", 0, 0)]), [made]);
        assert_eq!(writes(&[set("held", "v9", 2, 0), set("own", "v1", 0, 0)]), [("held".to_owned(), false)]);
    }
}
