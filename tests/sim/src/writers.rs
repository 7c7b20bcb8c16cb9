//! Everybody else: what people, Flux, kubectl and autoscalers write, through the shipped admission decision.

use crate::cluster::{Manager, Refused, own};
use crate::manifests;
use crate::world::World;
use serde_json::{Map, Value, json};
use sidetrack::admission::decide::{Settings, decide};
use sidetrack::admission::outcome::Verdict;
use sidetrack::admission::patch;
use sidetrack::admission::review::Request;
use sidetrack::api::revision::Revision;
use sidetrack::api::status::Answered;
use sidetrack::api::{Verb, keys};
use sidetrack::object::{Kind, ObjectRef};

/// The state of the admission webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Webhook {
    Up,
    /// It does not answer: failurePolicy Fail.
    Down,
    /// Its configuration is deleted, and so is the policy: everything passes.
    Gone,
}

const FLUX: &str = "kustomize-controller";
const KUBECTL: &str = "kubectl";

impl World {
    /// What admission makes of a write.
    fn admit(&self, at: &ObjectRef, manager: &str, old: &Value, new: Value) -> Result<Value, Refused> {
        let mut new = new;
        if at.kind == Kind::Deployment {
            self.cluster.defaults.show(&mut new["spec"]["template"]);
        }
        if !matches!(at.kind, Kind::Deployment | Kind::Service | Kind::Canary) {
            return Ok(new);
        }
        match self.webhook {
            Webhook::Gone => return Ok(new),
            Webhook::Down => return Err(Refused(500)),
            Webhook::Up => {}
        }
        let (group, version, kind, resource) = at.kind.names();
        let request: Request = serde_json::from_value(json!({
            "uid": "review", "operation": if old.is_null() { "CREATE" } else { "UPDATE" },
            "kind": {"group": group, "version": version, "kind": kind},
            "resource": {"group": group, "version": version, "resource": resource},
            "name": at.name, "namespace": at.namespace, "object": new, "oldObject": old,
            "userInfo": {"username": "admin"}, "options": {"fieldManager": manager},
        }))
        .unwrap();
        let outcome = decide(&request, &Settings::default());
        if let Verdict::Deny(denial) = &outcome.verdict {
            return Err(Refused(denial.reason.code()));
        }
        json_patch::patch(&mut new, &patch::build(&request.object, &outcome.verdict).unwrap()).unwrap();
        Ok(new)
    }

    /// Changes an object as some manager: a server-side apply of `applies`, else an update.
    pub fn edit_as(
        &mut self,
        at: &ObjectRef,
        manager: Manager<'_>,
        edit: impl FnOnce(&mut Value),
    ) -> Result<(), Refused> {
        let old = self.cluster.get(at).cloned().ok_or(Refused(404))?;
        let mut new = old.clone();
        edit(&mut new);
        own(&old, &mut new, manager, self.cluster.now);
        let result =
            if manager.subresource.is_some() { Ok(new) } else { self.admit(at, manager.name, &old, new) };
        let verdict = result.as_ref().err().map_or_else(|| "accepted".to_owned(), |r| format!("{r:?}"));
        self.note(format!("{} writes {at}: {verdict}", manager.name));
        let unheld = self.webhook == Webhook::Gone;
        self.laws.foreign(at, &old, result.as_ref().ok(), unheld);
        self.cluster.store(at, result?, None);
        self.judge_write(at, Some(&old), false);
        Ok(())
    }

    pub fn edit(&mut self, at: &ObjectRef, edit: impl FnOnce(&mut Value)) -> Result<(), Refused> {
        self.edit_as(at, Manager::update(KUBECTL), edit)
    }

    /// A forced server-side apply of a manifest, as Flux does it.
    pub fn apply(&mut self, manifest: Value) {
        self.try_apply(manifest).unwrap();
    }

    pub fn try_apply(&mut self, mut manifest: Value) -> Result<(), Refused> {
        if manifest["metadata"].get("namespace").is_none() {
            manifest["metadata"]["namespace"] = self.names.namespace.clone().into();
        }
        let at = sidetrack::router::address(&manifest).unwrap();
        let stated: Vec<String> =
            manifest["spec"].as_object().map_or_else(Vec::new, |s| s.keys().cloned().collect());
        let manager = Manager { name: FLUX, applies: Some(&stated), subresource: None };
        if self.cluster.get(&at).is_none() {
            if at.kind == Kind::Deployment && manifest["spec"].get("replicas").is_none() {
                manifest["spec"]["replicas"] = 1.into();
            }
            let object = self.admit(&at, FLUX, &Value::Null, manifest)?;
            self.note(format!("{FLUX} creates {at}"));
            let object = self.cluster.create(object, manager)?;
            self.laws.created(&at, &object);
            return Ok(());
        }
        let before = self.stated_by_flux(&at);
        self.edit_as(&at, manager, |live| {
            for field in ["labels", "annotations"] {
                for (key, value) in manifest["metadata"][field].as_object().into_iter().flatten() {
                    live["metadata"][field][key] = value.clone();
                }
            }
            let spec = live["spec"].as_object_mut().unwrap();
            for key in before.iter().filter(|k| !stated.contains(k)) {
                spec.remove(key);
            }
            for (key, value) in manifest["spec"].as_object().into_iter().flatten() {
                spec.insert(key.clone(), value.clone());
            }
            if at.kind == Kind::Deployment {
                spec.entry("replicas").or_insert_with(|| 1.into());
            }
        })
    }

    fn stated_by_flux(&self, at: &ObjectRef) -> Vec<String> {
        let entries = self.cluster.get(at).and_then(|o| o["metadata"]["managedFields"].as_array());
        let mine = entries.into_iter().flatten().find(|e| e["manager"] == FLUX && e["operation"] == "Apply");
        let fields = mine.and_then(|e| e["fieldsV1"]["f:spec"].as_object());
        fields.into_iter().flat_map(Map::keys).map(|k| k.trim_start_matches("f:").to_owned()).collect()
    }

    /// Gives the target another template (`kubectl set image` and a label).
    pub fn update(&mut self, image: &str) {
        self.update_with(image, None).unwrap();
    }

    pub fn update_with(&mut self, image: &str, ready: Option<&str>) -> Result<(), Refused> {
        let (at, template) = (self.deployment(&self.names.target), manifests::template(image, ready));
        self.edit(&at, |d| d["spec"]["template"] = template)
    }

    /// PUT /scale of a Deployment.
    pub fn scale(&mut self, name: &str, replicas: i32) -> Result<(), Refused> {
        let manager = Manager { name: KUBECTL, applies: None, subresource: Some("scale") };
        self.edit_as(&self.deployment(name), manager, |d| d["spec"]["replicas"] = replicas.into())
    }

    /// `kubectl rollout pause` and `resume` of the target.
    pub fn pause(&mut self, paused: bool) -> Result<(), Refused> {
        self.edit(&self.deployment(&self.names.target), |d| {
            let spec = d["spec"].as_object_mut().unwrap();
            if paused {
                spec.insert("paused".into(), true.into())
            } else {
                spec.remove("paused")
            };
        })
    }

    /// What `kubectl rollout restart` writes.
    pub fn restart(&mut self, name: &str) -> Result<(), Refused> {
        let now = self.cluster.now.to_string();
        self.edit(&self.deployment(name), |d| {
            d["spec"]["template"]["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"] =
                now.into();
        })
    }

    /// Lets the failed revision be tried again.
    pub fn retry(&mut self) -> Result<(), Refused> {
        self.edit(&self.deployment(&self.names.target), |d| {
            if let Some(annotations) = d["metadata"]["annotations"].as_object_mut() {
                annotations.remove(keys::FAILED);
            }
        })
    }

    /// Somebody asks something of a release.
    pub fn request(&mut self, verb: Verb, revision: &Revision, id: &str) {
        let text = format!("{verb} {revision} {id} for a reason");
        self.laws.asked.insert((revision.clone(), verb));
        let at = self.canary.clone();
        self.edit(&at, |canary| canary["metadata"]["annotations"][keys::REQUEST] = text.into()).unwrap();
    }

    /// The answer to the request that stands.
    pub fn answered(&self) -> Option<Answered> {
        let asked = self.cluster.get(&self.canary)?.pointer("/metadata/annotations")?.get(keys::REQUEST)?;
        self.status().request.filter(|answer| *asked == answer.text)
    }

    /// Puts a new template in with a counting break-glass.
    pub fn break_glass(&mut self, image: &str) -> Result<(), Refused> {
        let template = manifests::template(image, None);
        self.edit(&self.deployment(&self.names.target), |d| {
            let generation = d["metadata"]["generation"].clone();
            d["metadata"]["annotations"][keys::BREAK_GLASS] = format!("{generation} outage").into();
            d["spec"]["template"] = template;
        })
    }

    pub fn edit_canary(&mut self, pointer: &str, value: Value) {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        self.edit(&self.canary.clone(), |c| c.pointer_mut(parent).unwrap()[field] = value).unwrap();
    }

    /// DELETE with background propagation.
    pub fn delete(&mut self, at: &ObjectRef) {
        self.note(format!("somebody deletes {at}"));
        let before = self.cluster.get(at).cloned();
        let _ = self.cluster.delete(at);
        if before.is_some() {
            self.judge_write(at, before.as_ref(), false);
        }
    }

    /// Somebody sets the weights of an Istio route.
    pub fn set_route(&mut self, canary: i64) {
        let at = ObjectRef::new(sidetrack::router::VIRTUAL_SERVICE, &self.names.namespace, &self.names.apex);
        let name = self.names.apex_canary.clone();
        let _ = self.edit(&at, |v| {
            for entry in v["spec"]["http"][0]["route"].as_array_mut().into_iter().flatten() {
                let is_canary = entry["destination"]["host"] == name.as_str();
                entry["weight"] = if is_canary { canary } else { 100 - canary }.into();
            }
        });
    }

    pub fn set_ready(&mut self, name: &str, ready: bool, count: usize) {
        self.note(format!("{count} pods of {name} ready: {ready}"));
        self.stir();
        self.workloads.set_broken(&self.cluster, &self.deployment(name), !ready, count);
    }
}
