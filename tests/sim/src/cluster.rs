//! The API server, as far as Sidetrack's writes depend on it: versions, generations, preconditions, finalizers,
//! garbage collection and field ownership.

use crate::stored::Stored;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use sidetrack::object::{Kind, ObjectRef, Write};
use std::collections::BTreeMap;

/// A refused request, by its HTTP code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(pub u16);

/// Who writes, for `managedFields`.
#[derive(Clone, Copy, Debug)]
pub struct Manager<'a> {
    pub name: &'a str,
    /// A server-side apply of these `spec` fields; else an update, which owns what it changes.
    pub applies: Option<&'a [String]>,
    pub subresource: Option<&'a str>,
}

impl<'a> Manager<'a> {
    pub const fn update(name: &'a str) -> Self {
        Self { name, applies: None, subresource: None }
    }
}

/// How an API server shows pod templates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Defaults {
    /// It knows `serviceAccount`, and nothing of `enableServiceLinks`.
    #[default]
    Older,
    /// The other way round, and it has a default for what it knows.
    Newer,
}

impl Defaults {
    pub fn show(self, template: &mut Value) {
        let Some(spec) = template.get_mut("spec").and_then(Value::as_object_mut) else { return };
        match self {
            Self::Older => drop(spec.remove("enableServiceLinks")),
            Self::Newer => {
                spec.remove("serviceAccount");
                spec.entry("enableServiceLinks").or_insert_with(|| true.into());
            }
        }
    }
}

/// All objects.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    pub objects: BTreeMap<ObjectRef, Stored>,
    pub now: Timestamp,
    pub version: u64,
    pub uids: u64,
    pub defaults: Defaults,
}

pub fn text<'a>(object: &'a Value, pointer: &str) -> Option<&'a str> {
    object.pointer(pointer)?.as_str()
}

fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    object["metadata"].as_object_mut().unwrap()
}

impl Cluster {
    pub fn get(&self, at: &ObjectRef) -> Option<&Value> {
        self.objects.get(at).map(|stored| &**stored)
    }

    /// Counts every change of any object.
    pub const fn version(&self) -> u64 {
        self.version
    }

    fn next_version(&mut self) -> Value {
        self.version += 1;
        self.version.to_string().into()
    }

    fn show(&self, at: &ObjectRef, object: &mut Value) {
        if at.kind == Kind::Deployment {
            self.defaults.show(&mut object["spec"]["template"]);
        }
    }

    /// POST.
    pub fn create(&mut self, mut object: Value, manager: Manager<'_>) -> Result<Value, Refused> {
        let at = sidetrack::router::address(&object).expect("a create names its object");
        if self.objects.contains_key(&at) {
            return Err(Refused(409));
        }
        self.uids += 1;
        let (uid, version, created) =
            (format!("uid-{}", self.uids), self.next_version(), self.now.to_string());
        let metadata = metadata(&mut object);
        metadata.insert("uid".into(), uid.into());
        metadata.insert("resourceVersion".into(), version);
        metadata.insert("generation".into(), 1.into());
        metadata.insert("creationTimestamp".into(), created.into());
        metadata.remove("deletionTimestamp");
        self.show(&at, &mut object);
        own(&Value::Null, &mut object, manager, self.now);
        self.objects.insert(at, object.clone().into());
        Ok(object)
    }

    /// Stores a changed object. Nothing happens when nothing differs.
    pub fn store(&mut self, at: &ObjectRef, mut new: Value, manager: Option<Manager<'_>>) -> Value {
        let old = self.get(at).cloned().expect("only what exists is changed");
        self.show(at, &mut new);
        if let Some(manager) = manager {
            own(&old, &mut new, manager, self.now);
        }
        if new == old {
            return new;
        }
        let annotations = |o: &Value| o.pointer("/metadata/annotations").cloned();
        let moved = new.get("spec") != old.get("spec")
            || (at.kind == Kind::Deployment && annotations(&new) != annotations(&old));
        let version = self.next_version();
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + i64::from(moved);
        let metadata = metadata(&mut new);
        metadata.insert("resourceVersion".into(), version);
        metadata.insert("generation".into(), generation.into());
        self.objects.insert(at.clone(), new.clone().into());
        self.finish_deletion(at);
        new
    }

    /// DELETE with background propagation.
    pub fn delete(&mut self, at: &ObjectRef) -> Result<(), Refused> {
        let Some(mut object) = self.get(at).cloned() else { return Err(Refused(404)) };
        if object.pointer("/metadata/deletionTimestamp").is_none() {
            let (now, version) = (self.now.to_string(), self.next_version());
            let generation = object["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
            let metadata = metadata(&mut object);
            metadata.insert("deletionTimestamp".into(), now.into());
            metadata.insert("resourceVersion".into(), version);
            metadata.insert("generation".into(), generation.into());
            self.objects.insert(at.clone(), object.into());
        }
        self.finish_deletion(at);
        Ok(())
    }

    fn finish_deletion(&mut self, at: &ObjectRef) {
        let Some(object) = self.objects.get(at) else { return };
        let held =
            object.pointer("/metadata/finalizers").and_then(Value::as_array).is_some_and(|f| !f.is_empty());
        if object.pointer("/metadata/deletionTimestamp").is_none() || held {
            return;
        }
        let uid = object["metadata"]["uid"].clone();
        self.objects.remove(at);
        self.version += 1;
        let orphans: Vec<ObjectRef> = self
            .objects
            .iter()
            .filter(|(_, o)| o.pointer("/metadata/ownerReferences/0/uid") == Some(&uid))
            .map(|(at, _)| at.clone())
            .collect();
        for orphan in orphans {
            let _ = self.delete(&orphan);
        }
    }

    /// Executes a write of Sidetrack's, as the API server would.
    pub fn write(&mut self, write: &Write, manager: &str) -> Result<Option<Value>, Refused> {
        let at = write.target().expect("a write names its object");
        let live = self.get(&at).cloned();
        let found = live.ok_or(Refused(404));
        match write {
            Write::Create { object, .. } => self.create(object.clone(), Manager::update(manager)).map(Some),
            Write::Patch { patch, .. } => {
                let old = found?;
                let mut new = old.clone();
                json_patch::patch(&mut new, patch).map_err(|_| Refused(422))?;
                let disowns =
                    new.pointer("/metadata/managedFields") != old.pointer("/metadata/managedFields");
                let manager = (!disowns).then(|| Manager::update(manager));
                Ok(Some(self.store(&at, new, manager)))
            }
            Write::PatchStatus { patch, .. } => {
                let mut new = found?;
                json_patch::patch(&mut new, patch).map_err(|_| Refused(422))?;
                Ok(Some(self.store(&at, new, None)))
            }
            Write::Replace { object } => {
                same_version(&found?, object)?;
                Ok(Some(self.store(&at, object.clone(), Some(Manager::update(manager)))))
            }
            Write::ReplaceStatus { object } => {
                let mut new = found?;
                same_version(&new, object)?;
                new["status"] = object["status"].clone();
                Ok(Some(self.store(&at, new, None)))
            }
            Write::Evict { .. } => unreachable!("pods are the workloads'"),
            Write::Delete { uid, .. } => {
                if text(&found?, "/metadata/uid") != Some(uid) {
                    return Err(Refused(409));
                }
                self.delete(&at).map(|()| None)
            }
        }
    }
}

fn same_version(live: &Value, sent: &Value) -> Result<(), Refused> {
    let version = |o: &Value| o.pointer("/metadata/resourceVersion").cloned();
    if version(live) == version(sent) { Ok(()) } else { Err(Refused(409)) }
}

/// Keeps `managedFields` by the top-level fields of `spec`; other fields count only as `f:metadata`.
pub fn own(old: &Value, new: &mut Value, manager: Manager<'_>, now: Timestamp) {
    if new["kind"] != "Deployment" {
        return;
    }
    let fields = |o: &Value| o.get("spec").and_then(Value::as_object).cloned().unwrap_or_default();
    let (before, after) = (fields(old), fields(new));
    let changed: Vec<&String> = after.keys().filter(|k| before.get(*k) != after.get(*k)).collect();
    let gone: Vec<&String> = before.keys().filter(|k| !after.contains_key(*k)).collect();
    let meta =
        ["labels", "annotations", "finalizers"].iter().any(|f| old["metadata"][f] != new["metadata"][f]);
    let operation = if manager.applies.is_some() { "Apply" } else { "Update" };
    let mine = |e: &Value| {
        e["manager"] == manager.name
            && e["operation"] == operation
            && e.get("subresource").and_then(Value::as_str) == manager.subresource
    };
    let mut entries: Vec<Value> = new["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    for entry in entries.iter_mut().filter(|e| !mine(e)) {
        if let Some(owned) = entry.pointer_mut("/fieldsV1/f:spec").and_then(Value::as_object_mut) {
            for key in changed.iter().chain(&gone) {
                owned.remove(&format!("f:{key}"));
            }
            if owned.is_empty() {
                entry["fieldsV1"].as_object_mut().unwrap().remove("f:spec");
            }
        }
    }
    let zero_scale = manager.subresource.is_some() && after.get("replicas") == Some(&json!(0));
    let owned: Vec<String> = match manager.applies {
        Some(stated) => stated.to_vec(),
        // A scale to zero leaves the field owned by nobody.
        None if zero_scale => Vec::new(),
        None => changed.into_iter().cloned().collect(),
    };
    let mut entry = match entries.iter().position(mine) {
        Some(at) => entries.remove(at),
        None => json!({"manager": manager.name, "operation": operation, "fieldsV1": {}}),
    };
    if let Some(subresource) = manager.subresource {
        entry["subresource"] = subresource.into();
    }
    let before_entry = entry.clone();
    if manager.applies.is_some() {
        entry["fieldsV1"]["f:spec"] = json!({});
    } else if let Some(spec) = entry.pointer_mut("/fieldsV1/f:spec").and_then(Value::as_object_mut) {
        spec.retain(|key, _| {
            after.contains_key(key.trim_start_matches("f:")) && !(zero_scale && key == "f:replicas")
        });
        if spec.is_empty() {
            entry["fieldsV1"].as_object_mut().unwrap().remove("f:spec");
        }
    }
    for key in owned {
        entry["fieldsV1"]["f:spec"][format!("f:{key}")] = json!({});
    }
    if meta {
        entry["fieldsV1"]["f:metadata"] = json!({});
    }
    if entry != before_entry || entry.get("time").is_none() {
        entry["time"] = now.to_string().into();
    }
    entries.push(entry);
    entries.retain(|e| e["fieldsV1"].as_object().is_some_and(|f| !f.is_empty()));
    new["metadata"]["managedFields"] = entries.into();
}
