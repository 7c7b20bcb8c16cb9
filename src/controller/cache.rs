//! What the controller knows of the cluster: raw JSON text of the objects that Canaries refer to, and nothing else.
//!
//! Watches and the answers to our own writes both come in here, and the newer resourceVersion wins, so a decision
//! never rests on a state older than our last write. Text is kept instead of trees because it is a tenth of their size,
//! and a Canary is looked at seldom: an idle one never.

use crate::api::keys;
use crate::object::{Kind, ObjectRef, Objects};
use crate::policy::roster::Roster;
use crate::rollout::subject::Snapshot;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// The address of a Canary: namespace and name.
pub type CanaryKey = (String, String);

/// The cache.
#[derive(Debug, Default)]
pub struct Cache {
    /// What policies look at.
    pub roster: Roster,
    objects: HashMap<ObjectRef, Entry>,
    /// Who wants to hear of an object.
    interest: HashMap<ObjectRef, BTreeSet<CanaryKey>>,
    /// What a Canary refers to.
    references: HashMap<CanaryKey, Vec<ObjectRef>>,
    /// Objects that are known not to exist, with the version at which they went: the answer to the write that let one go
    /// may come after the news that it is gone.
    absent: HashMap<ObjectRef, u64>,
    /// Kinds whose watch has listed everything.
    synced: HashSet<Kind>,
    /// Stored templates by namespace and Canary label.
    snapshots: HashMap<(String, String), BTreeMap<String, Snapshot>>,
}

#[derive(Debug)]
struct Entry {
    version: u64,
    json: Box<str>,
}

fn version(object: &Value) -> u64 {
    object
        .pointer("/metadata/resourceVersion")
        .and_then(Value::as_str)
        .and_then(|v| v.parse().ok())
        .unwrap_or(0)
}

impl Cache {
    /// Takes in an object of this kind that exists. Returns the Canaries to look at.
    pub fn upsert(&mut self, kind: Kind, mut object: Value) -> Vec<CanaryKey> {
        let Some(at) = ObjectRef::of_kind(kind, &object) else { return Vec::new() };
        if at.kind == Kind::ControllerRevision {
            // Of these the metadata is followed; this is one that we have just stored.
            let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            let labels = object.pointer("/metadata/labels");
            let label = labels.and_then(|l| l.get(keys::CANARY)).and_then(Value::as_str).unwrap_or_default();
            let (uid, created) = (text("/metadata/uid").into(), text("/metadata/creationTimestamp").into());
            self.snapshot(&at.namespace, label, &at.name, Snapshot { uid, created });
            return Vec::new();
        }
        if is_gone(&object) {
            return self.remove(kind, &object);
        }
        let version = version(&object);
        let newest = self.objects.get(&at).map(|known| known.version);
        let absent = self.absent.get(&at).copied().filter(|_| newest.is_none());
        if newest.is_some_and(|newest| newest > version) || absent.is_some_and(|gone| gone >= version) {
            return Vec::new();
        }
        let mut dirty = self.roster.see(at.kind, &object);
        if !self.interest.contains_key(&at) && at.kind != Kind::Canary {
            return dirty;
        }
        prune(at.kind, &mut object);
        let json = object.to_string().into_boxed_str();
        // An API server of another version shows the same stored object otherwise.
        if self.objects.get(&at).is_some_and(|known| known.version == version && known.json == json) {
            return dirty;
        }
        self.absent.remove(&at);
        self.objects.insert(at.clone(), Entry { version, json });
        dirty.extend(self.interested(&at));
        dirty
    }

    /// Takes in that an object of this version is gone; an object that was made anew since stays.
    pub fn remove(&mut self, kind: Kind, object: &Value) -> Vec<CanaryKey> {
        let Some(at) = ObjectRef::of_kind(kind, object) else { return Vec::new() };
        if self.objects.get(&at).is_some_and(|known| known.version > version(object)) {
            return Vec::new();
        }
        let dirty = self.forget(&at);
        if let Some(gone) = self.absent.get_mut(&at) {
            *gone = version(object);
        }
        dirty
    }

    /// Takes in that an object does not exist, by a read that did not find it.
    pub fn forget(&mut self, at: &ObjectRef) -> Vec<CanaryKey> {
        let mut dirty = self.roster.lose(at);
        self.objects.remove(at);
        if self.interest.contains_key(at) {
            self.absent.insert(at.clone(), 0);
        }
        dirty.extend(self.interested(at));
        dirty
    }

    fn interested(&self, at: &ObjectRef) -> Vec<CanaryKey> {
        if at.kind == Kind::Canary {
            return vec![(at.namespace.clone(), at.name.clone())];
        }
        self.interest.get(at).into_iter().flatten().cloned().collect()
    }

    /// Marks a kind as listed: what has not been seen by now does not exist. `seen` names what the list had; the rest
    /// is forgotten, as after an interrupted watch. What was known and is not in the list may have been made since it was
    /// drawn up, by ourselves for one: it is read anew.
    pub fn synced(&mut self, kind: Kind, seen: &HashSet<ObjectRef>) -> Vec<CanaryKey> {
        self.synced.insert(kind);
        let gone: Vec<ObjectRef> =
            self.objects.keys().filter(|at| at.kind == kind && !seen.contains(at)).cloned().collect();
        let mut dirty: Vec<CanaryKey> = gone.iter().flat_map(|at| self.forget(at)).collect();
        let known: HashSet<&ObjectRef> = gone.iter().collect();
        for at in self.roster.known(kind).into_iter().filter(|at| !seen.contains(at)) {
            dirty.extend(self.roster.lose(&at));
        }
        let missing: Vec<ObjectRef> = self
            .interest
            .keys()
            .filter(|at| at.kind == kind && !self.objects.contains_key(at))
            .cloned()
            .collect();
        for at in missing {
            dirty.extend(self.interested(&at));
            if known.contains(&at) {
                self.absent.remove(&at);
            } else {
                self.absent.insert(at, 0);
            }
        }
        dirty
    }

    /// Marks a kind as one that this cluster does not serve: none of its objects exists.
    pub fn unserved(&mut self, kind: Kind) -> Vec<CanaryKey> {
        self.objects.retain(|at, _| at.kind != kind);
        self.synced(kind, &HashSet::new())
    }

    /// Sets what a Canary refers to; nothing, when it is gone.
    pub fn refer(&mut self, canary: &CanaryKey, references: Vec<ObjectRef>) {
        for old in self.references.remove(canary).unwrap_or_default() {
            if let Some(set) = self.interest.get_mut(&old) {
                set.remove(canary);
                if set.is_empty() && !references.contains(&old) {
                    self.interest.remove(&old);
                    self.objects.remove(&old);
                    self.absent.remove(&old);
                }
            }
        }
        for new in &references {
            self.interest.entry(new.clone()).or_default().insert(canary.clone());
        }
        if !references.is_empty() {
            self.references.insert(canary.clone(), references);
        }
    }

    /// Names what is not known of a Canary's objects: neither present nor absent. It must be read first.
    #[must_use]
    pub fn unknown(&self, canary: &CanaryKey) -> Vec<ObjectRef> {
        self.references
            .get(canary)
            .into_iter()
            .flatten()
            .filter(|at| !self.objects.contains_key(at) && !self.absent.contains_key(at))
            .cloned()
            .collect()
    }

    /// Returns an object as last seen.
    #[must_use]
    pub fn get(&self, at: &ObjectRef) -> Option<Value> {
        serde_json::from_str(&self.objects.get(at)?.json).ok()
    }

    /// Returns the objects that a Canary refers to.
    #[must_use]
    pub fn objects_of(&self, canary: &CanaryKey) -> Objects {
        self.references
            .get(canary)
            .into_iter()
            .flatten()
            .filter_map(|at| Some((at.clone(), Arc::new(self.get(at)?))))
            .collect()
    }

    /// Returns all Canaries.
    #[must_use]
    pub fn canaries(&self) -> Vec<CanaryKey> {
        self.objects
            .keys()
            .filter(|at| at.kind == Kind::Canary)
            .map(|at| (at.namespace.clone(), at.name.clone()))
            .collect()
    }

    /// Notes a stored template.
    pub fn snapshot(&mut self, namespace: &str, label: &str, name: &str, snapshot: Snapshot) {
        let key = (namespace.to_owned(), label.to_owned());
        self.snapshots.entry(key).or_default().insert(name.to_owned(), snapshot);
    }

    /// Forgets a stored template.
    pub fn no_snapshot(&mut self, namespace: &str, label: &str, name: &str) {
        let key = (namespace.to_owned(), label.to_owned());
        if let Some(all) = self.snapshots.get_mut(&key) {
            all.remove(name);
            if all.is_empty() {
                self.snapshots.remove(&key);
            }
        }
    }

    /// Forgets a stored template that was deleted, whosever it was.
    pub fn stored_no_more(&mut self, at: &ObjectRef) {
        if at.kind == Kind::ControllerRevision {
            self.snapshots.retain(|(namespace, _), all| {
                if *namespace == at.namespace {
                    all.remove(&at.name);
                }
                !all.is_empty()
            });
        }
    }

    /// Forgets the stored templates that a complete list lacks; `seen` has namespace, label and name. Returns the labels of
    /// those that had some of them.
    pub fn snapshots_listed(&mut self, seen: &HashSet<(String, String, String)>) -> Vec<CanaryKey> {
        let mut dirty = Vec::new();
        self.snapshots.retain(|(namespace, label), all| {
            let before = all.len();
            all.retain(|name, _| seen.contains(&(namespace.clone(), label.clone(), name.clone())));
            if all.len() != before {
                dirty.push((namespace.clone(), label.clone()));
            }
            !all.is_empty()
        });
        dirty
    }

    /// Returns the stored templates of a Canary.
    #[must_use]
    pub fn snapshots_of(&self, namespace: &str, label: &str) -> BTreeMap<String, Snapshot> {
        self.snapshots.get(&(namespace.to_owned(), label.to_owned())).cloned().unwrap_or_default()
    }
}

/// Drops what no decision reads. Positions in `managedFields` are kept: our own entries are addressed by them.
fn prune(kind: Kind, object: &mut Value) {
    if let Some(entries) = object.pointer_mut("/metadata/managedFields").and_then(Value::as_array_mut) {
        for entry in entries {
            let ours =
                kind == Kind::Deployment && entry.get("manager").is_some_and(|m| m == keys::FIELD_MANAGER);
            *entry = if ours {
                let fields: serde_json::Map<String, Value> = entry
                    .get("fieldsV1")
                    .and_then(Value::as_object)
                    .into_iter()
                    .flatten()
                    .map(|(key, _)| (key.clone(), json!({})))
                    .collect();
                json!({"manager": entry.get("manager"), "time": entry.get("time"), "fieldsV1": fields})
            } else {
                Value::Null
            };
        }
    }
    if kind != Kind::Deployment
        && let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut)
    {
        metadata.remove("managedFields");
    }
    if kind == Kind::Deployment
        && let Some(annotations) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut)
    {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}

/// Whether nothing keeps an object any more: so the answer shows it to the write that took its last finalizer off, and it
/// may come after the watch has told of the end.
fn is_gone(object: &Value) -> bool {
    let kept =
        object.pointer("/metadata/finalizers").and_then(Value::as_array).is_some_and(|f| !f.is_empty());
    object.pointer("/metadata/deletionTimestamp").is_some() && !kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(name: &str, version: u64) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"namespace": "a", "name": name, "resourceVersion": version.to_string()}})
    }

    fn at(name: &str) -> ObjectRef {
        ObjectRef::new(Kind::Deployment, "a", name)
    }

    fn key(name: &str) -> CanaryKey {
        ("a".into(), name.into())
    }

    #[test]
    fn a_template_that_was_just_stored_is_known_at_once() {
        let mut cache = Cache::default();
        cache.upsert(Kind::ControllerRevision, json!({
            "apiVersion": "apps/v1", "kind": "ControllerRevision",
            "metadata": {"namespace": "test", "name": "app-1", "uid": "u", "labels": {keys::CANARY: "app"},
                "creationTimestamp": "2026-01-01T00:00:00Z"},
        }));
        let stored = cache.snapshots_of("test", "app");
        assert_eq!(
            stored.get("app-1").map(|s| (s.uid.as_str(), s.created.as_str())),
            Some(("u", "2026-01-01T00:00:00Z"))
        );
    }

    /// A watch that was interrupted has missed deletions.
    #[test]
    fn what_a_list_lacks_is_not_stored_any_more() {
        let mut cache = Cache::default();
        let stored = || Snapshot { uid: "u".into(), created: String::new() };
        for name in ["app-1", "app-2"] {
            cache.snapshot("a", "app", name, stored());
        }
        let seen = HashSet::from([("a".to_owned(), "app".to_owned(), "app-2".to_owned())]);
        assert_eq!(cache.snapshots_listed(&seen), [key("app")]);
        assert_eq!(cache.snapshots_of("a", "app").into_keys().collect::<Vec<_>>(), ["app-2"]);
        cache.stored_no_more(&ObjectRef::new(Kind::ControllerRevision, "a", "app-2"));
        assert!(cache.snapshots_of("a", "app").is_empty());
    }

    #[test]
    fn objects_that_no_canary_refers_to_are_not_kept() {
        let mut cache = Cache::default();
        assert!(cache.upsert(Kind::Deployment, deployment("x", 1)).is_empty());
        cache.refer(&key("c"), vec![at("x")]);
        assert_eq!(cache.unknown(&key("c")), [at("x")]);
        assert_eq!(cache.upsert(Kind::Deployment, deployment("x", 1)), [key("c")]);
        assert!(cache.unknown(&key("c")).is_empty());
    }

    #[test]
    fn an_older_state_never_replaces_a_newer_one() {
        let mut cache = Cache::default();
        cache.refer(&key("c"), vec![at("x")]);
        cache.upsert(Kind::Deployment, deployment("x", 5));
        assert!(cache.upsert(Kind::Deployment, deployment("x", 4)).is_empty());
        assert!(cache.upsert(Kind::Deployment, deployment("x", 5)).is_empty());
        assert!(cache.remove(Kind::Deployment, &deployment("x", 4)).is_empty());
        assert!(cache.get(&at("x")).is_some());
        assert_eq!(cache.remove(Kind::Deployment, &deployment("x", 6)), [key("c")]);
        assert!(cache.get(&at("x")).is_none());
    }

    #[test]
    fn the_same_version_is_taken_where_it_is_shown_otherwise() {
        let mut cache = Cache::default();
        cache.refer(&key("c"), vec![at("x")]);
        cache.upsert(Kind::Deployment, deployment("x", 5));
        let mut shown = deployment("x", 5);
        json_patch::merge(&mut shown, &json!({"spec": {"template": {"spec": {"aNewDefault": true}}}}));
        assert_eq!(cache.upsert(Kind::Deployment, shown.clone()), [key("c")]);
        assert!(cache.upsert(Kind::Deployment, shown.clone()).is_empty());
        assert_eq!(cache.get(&at("x")), Some(shown));
    }

    #[test]
    fn a_late_answer_does_not_bring_back_what_is_gone() {
        let mut cache = Cache::default();
        cache.refer(&key("c"), vec![at("x")]);
        cache.upsert(Kind::Deployment, deployment("x", 5));
        cache.remove(Kind::Deployment, &deployment("x", 7));
        assert!(cache.upsert(Kind::Deployment, deployment("x", 6)).is_empty());
        assert!(cache.get(&at("x")).is_none());
        assert_eq!(cache.upsert(Kind::Deployment, deployment("x", 9)), [key("c")], "made anew");
    }

    /// Whichever of the answer to the last write and the watch comes first.
    #[test]
    fn the_answer_that_shows_the_end_of_a_canary_does_not_bring_it_back() {
        let canary = |version: u64, more: Value| {
            let mut object = json!({"apiVersion": "flagger.app/v1beta1", "kind": "Canary", "metadata":
                {"namespace": "a", "name": "c", "resourceVersion": version.to_string(), "finalizers": ["f"]}});
            json_patch::merge(&mut object, &json!({"metadata": more}));
            object
        };
        let ends = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        let last = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": null});
        for watch_first in [true, false] {
            let mut cache = Cache::default();
            cache.upsert(Kind::Canary, canary(1, json!({})));
            cache.upsert(Kind::Canary, canary(2, ends.clone()));
            assert_eq!(cache.canaries(), [key("c")], "its finalizer keeps it");
            if watch_first {
                cache.remove(Kind::Canary, &canary(3, last.clone()));
            }
            assert_eq!(cache.upsert(Kind::Canary, canary(3, last.clone())), [key("c")]);
            assert!(cache.canaries().is_empty());
            cache.upsert(Kind::Canary, canary(4, json!({})));
            cache.upsert(Kind::Canary, canary(3, last.clone()));
            assert_eq!(cache.canaries(), [key("c")], "made anew");
        }
    }

    #[test]
    fn what_a_complete_list_lacks_does_not_exist() {
        let mut cache = Cache::default();
        cache.refer(&key("c"), vec![at("x"), at("y")]);
        cache.upsert(Kind::Deployment, deployment("x", 1));
        let dirty = cache.synced(Kind::Deployment, &HashSet::from([at("z")]));
        assert!(dirty.contains(&key("c")));
        assert!(cache.get(&at("x")).is_none());
        assert_eq!(cache.unknown(&key("c")), [at("x")], "it may have been made since: it is read");
        cache.forget(&at("x"));
        assert!(cache.unknown(&key("c")).is_empty());
        cache.upsert(Kind::Deployment, deployment("y", 3));
        cache.unserved(Kind::Deployment);
        assert!(cache.unknown(&key("c")).is_empty() && cache.get(&at("y")).is_none());
    }

    #[test]
    fn what_nobody_refers_to_any_more_is_dropped() {
        let mut cache = Cache::default();
        cache.refer(&key("c"), vec![at("x"), at("y")]);
        cache.refer(&key("d"), vec![at("y")]);
        cache.upsert(Kind::Deployment, deployment("x", 1));
        cache.upsert(Kind::Deployment, deployment("y", 1));
        cache.refer(&key("c"), Vec::new());
        assert!(cache.get(&at("x")).is_none());
        assert!(cache.get(&at("y")).is_some());
    }

    #[test]
    fn positions_of_managed_fields_survive_pruning() {
        let mut object = json!({"metadata": {"managedFields": [
            {"manager": "flux", "fieldsV1": {"f:spec": {"f:x": {}}}},
            {"manager": "sidetrack", "time": "t", "fieldsV1": {"f:spec": {"f:replicas": {}}, "f:metadata": {"f:a": {}}}},
        ]}});
        prune(Kind::Deployment, &mut object);
        assert_eq!(
            object.pointer("/metadata/managedFields"),
            Some(
                &json!([null, {"manager": "sidetrack", "time": "t", "fieldsV1": {"f:spec": {}, "f:metadata": {}}}])
            )
        );
    }
}
