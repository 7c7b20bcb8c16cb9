//! What all written objects have in common: metadata, comparison, and the guarded patch.

use super::service::Metadata;
use crate::object::{ObjectRef, Write};
use json_patch::jsonptr::PointerBuf;
use json_patch::{Patch, PatchOperation, TestOperation};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Annotations that keep Flux from undoing what the controller writes, with their values.
pub(crate) const FLUX_OPT_OUT: [(&str, &str); 2] = [
    ("kustomize.toolkit.fluxcd.io/reconcile", "disabled"),
    ("helm.toolkit.fluxcd.io/driftDetection", "disabled"),
];
/// Flagger's annotation with the `spec` of a route that it adopted, as its owner wrote it. Ours is [`keys::ORIGINAL`].
///
/// [`keys::ORIGINAL`]: crate::api::keys::ORIGINAL
pub(crate) const FLAGGERS_ORIGINAL: &str = "flagger.kubernetes.io/original-configuration";
/// kubectl's record of what was applied; Flagger takes it in place of [`FLAGGERS_ORIGINAL`].
pub(crate) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The Canary as owner of what is made for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its name.
    pub name: String,
    /// Its `metadata.uid`.
    pub uid: String,
}

impl Owner {
    /// Returns the controller reference.
    #[must_use]
    pub fn reference(&self) -> Value {
        json!({
            "apiVersion": "flagger.app/v1beta1",
            "kind": "Canary",
            "name": self.name,
            "uid": self.uid,
            "controller": true,
            "blockOwnerDeletion": true,
        })
    }

    /// Returns whether an object was made for this Canary: its controller reference has this very uid. A Canary of
    /// the same name that was deleted and made again owns nothing of the former one's.
    #[must_use]
    pub fn owns(&self, object: &Value) -> bool {
        !self.uid.is_empty()
            && controller(object).is_some_and(|r| r.get("uid").and_then(Value::as_str) == Some(&self.uid))
    }

    /// Returns kind and name of what else controls an object, such as `Canary shop`.
    #[must_use]
    pub fn foreign_controller(&self, object: &Value) -> Option<String> {
        let reference = controller(object)?;
        let text = |key: &str| reference.get(key).and_then(Value::as_str).unwrap_or_default();
        (!self.owns(object)).then(|| format!("{} {}", text("kind"), text("name")))
    }
}

/// The owner reference of an object's controller. The API server allows one.
fn controller(object: &Value) -> Option<&Value> {
    let references = object.pointer("/metadata/ownerReferences")?.as_array()?;
    references.iter().find(|r| r.get("controller") == Some(&Value::Bool(true)))
}

/// Returns annotations without Flux's own, with the opt-out marks added (Flagger, all written objects).
pub(crate) fn with_opt_out(annotations: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut all = without_toolkit(annotations);
    all.extend(FLUX_OPT_OUT.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
    all
}

/// Returns annotations or labels without those of Flux, which would claim the object for it.
pub(crate) fn without_toolkit(metadata: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    metadata
        .iter()
        .filter(|(key, _)| !key.contains("toolkit.fluxcd.io"))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}

/// Builds a new object; empty metadata is left out.
pub(crate) fn create(at: &ObjectRef, metadata: &Metadata, owner: &Owner, spec: Value) -> Value {
    let mut meta = Map::new();
    meta.insert("name".into(), at.name.clone().into());
    meta.insert("namespace".into(), at.namespace.clone().into());
    if !metadata.labels.is_empty() {
        meta.insert("labels".into(), json!(metadata.labels));
    }
    if !metadata.annotations.is_empty() {
        meta.insert("annotations".into(), json!(metadata.annotations));
    }
    meta.insert("ownerReferences".into(), json!([owner.reference()]));
    json!({
        "apiVersion": at.kind.api_version(),
        "kind": at.kind.as_str(),
        "metadata": meta,
        "spec": spec,
    })
}

/// Adds labels and annotations to an object, and leaves its others alone.
pub(crate) fn add_metadata(object: &mut Value, metadata: &Metadata) {
    for (field, wanted) in [("labels", &metadata.labels), ("annotations", &metadata.annotations)] {
        if wanted.is_empty() {
            continue;
        }
        let map = child(child(object, "metadata"), field);
        for (key, value) in wanted {
            set(map, key, value.clone().into());
        }
    }
}

/// Returns the object at a key, made when it is missing or is no object.
pub(crate) fn child<'a>(parent: &'a mut Value, key: &str) -> &'a mut Value {
    if !parent.is_object() {
        *parent = Value::Object(Map::new());
    }
    match parent {
        Value::Object(map) => {
            let entry = map.entry(key).or_insert_with(|| Value::Object(Map::new()));
            if !entry.is_object() {
                *entry = Value::Object(Map::new());
            }
            entry
        }
        other => other,
    }
}

/// Sets a key of a JSON object.
pub(crate) fn set(object: &mut Value, key: &str, value: Value) {
    if let Some(map) = object.as_object_mut() {
        map.insert(key.to_owned(), value);
    }
}

/// Removes a key of a JSON object.
pub(crate) fn unset(object: &mut Value, key: &str) {
    if let Some(map) = object.as_object_mut() {
        map.remove(key);
    }
}

/// Sets a key to what is wanted, or removes it, unless it means that already.
pub(crate) fn settle(object: &mut Value, key: &str, wanted: Option<&Value>) {
    if same(object.get(key), wanted) {
        return;
    }
    match wanted {
        Some(value) => set(object, key, value.clone()),
        None => unset(object, key),
    }
}

/// The same, where zero says something: what is wanted is written also where nothing is there (`retries: {attempts: 0}`
/// switches Istio's own retries off).
pub(crate) fn settle_stated(object: &mut Value, key: &str, wanted: Option<&Value>) {
    match wanted {
        Some(value) if object.get(key).is_none() && !value.is_null() => set(object, key, value.clone()),
        wanted => settle(object, key, wanted),
    }
}

/// Compares two values as the protobuf-backed APIs do: a field that is absent, null, false, zero or empty is
/// one and the same.
pub(crate) fn same(a: Option<&Value>, b: Option<&Value>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(x), None) | (None, Some(x)) => is_zero(x),
        (Some(Value::Object(x)), Some(Value::Object(y))) => {
            x.keys().chain(y.keys()).all(|key| same(x.get(key), y.get(key)))
        }
        (Some(Value::Array(x)), Some(Value::Array(y))) => {
            x.len() == y.len() && x.iter().zip(y).all(|(x, y)| same(Some(x), Some(y)))
        }
        (Some(x), Some(y)) => x == y || (is_zero(x) && is_zero(y)),
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.values().all(is_zero),
    }
}

/// Returns the patch that turns `live` into `next`, or nothing when they are equal.
pub(crate) fn update(target: &ObjectRef, live: &Value, next: &Value) -> Option<Write> {
    if live == next {
        return None; // nearly always so, and a comparison costs a fraction of a diff
    }
    let Patch(changes) = json_patch::diff(live, next);
    guarded(target, live, changes)
}

/// Puts the guard before the changes: the object must be the one that was read.
pub(crate) fn guarded(target: &ObjectRef, live: &Value, changes: Vec<PatchOperation>) -> Option<Write> {
    if changes.is_empty() {
        return None;
    }
    let version = live.pointer("/metadata/resourceVersion").cloned().unwrap_or(Value::Null);
    let mut operations = vec![PatchOperation::Test(TestOperation {
        path: PointerBuf::from_tokens(["metadata", "resourceVersion"]),
        value: version,
    })];
    operations.extend(changes);
    Some(Write::Patch { target: target.clone(), patch: Patch(operations) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_and_zero_values_are_the_same() {
        let a = json!({"allowCredentials": false, "allowOrigin": ["a"], "x": {}, "n": 0, "l": []});
        assert!(same(Some(&a), Some(&json!({"allowOrigin": ["a"]}))));
        assert!(!same(Some(&a), Some(&json!({"allowOrigin": ["b"]}))));
        assert!(!same(Some(&json!({"allowCredentials": true})), Some(&json!({}))));
        assert!(!same(Some(&json!([{}, {}])), Some(&json!([{}]))));
    }

    #[test]
    fn an_object_is_owned_by_uid() {
        let owner = |name: &str, uid: &str| Owner { name: name.into(), uid: uid.into() };
        let mine = json!({"metadata": {"ownerReferences": [{"kind": "Node", "uid": "9"}, owner("app", "1").reference()]}});
        let table = [
            (owner("app", "1"), &mine, true, None),
            // Made again under the same name.
            (owner("app", "2"), &mine, false, Some("Canary app".to_owned())),
            (owner("app", ""), &mine, false, Some("Canary app".to_owned())),
            (owner("app", "9"), &mine, false, Some("Canary app".to_owned())),
            (
                owner("app", ""),
                &json!({"metadata": {"ownerReferences": [{"uid": "", "controller": true}]}}),
                false,
                Some(" ".to_owned()),
            ),
            (
                owner("app", "1"),
                &json!({"metadata": {"ownerReferences": [{"kind": "Canary", "uid": "1"}]}}),
                false,
                None,
            ),
            (owner("app", "1"), &json!({"metadata": {}}), false, None),
        ];
        for (owner, object, owned, foreign) in table {
            assert_eq!((owner.owns(object), owner.foreign_controller(object)), (owned, foreign), "{owner:?}");
        }
    }

    #[test]
    fn equal_objects_need_no_write() {
        let at = ObjectRef::new(crate::object::Kind::Service, "a", "b");
        let object = json!({"metadata": {"resourceVersion": "1"}, "spec": {}});
        assert_eq!(update(&at, &object, &object), None);
    }

    #[test]
    fn patch_fails_on_an_object_that_changed_since() {
        let at = ObjectRef::new(crate::object::Kind::Service, "a", "b");
        let live = json!({"metadata": {"resourceVersion": "1"}, "spec": {"a": 1}});
        let mut next = live.clone();
        set(child(&mut next, "spec"), "a", json!(2));
        let Some(Write::Patch { patch, .. }) = update(&at, &live, &next) else { panic!("no patch") };
        let mut newer = live.clone();
        set(child(&mut newer, "metadata"), "resourceVersion", json!("2"));
        assert!(json_patch::patch(&mut newer, &patch.0).is_err());
        let mut same = live;
        json_patch::patch(&mut same, &patch.0).unwrap();
        assert_eq!(same, next);
    }
}
