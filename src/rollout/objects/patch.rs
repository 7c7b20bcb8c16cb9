//! JSON Patches on Deployments, built against the object as it was observed and guarded by what must still hold.

use crate::api::keys;
use crate::object::{ObjectRef, Write, escape};
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation, TestOperation};
use serde_json::{Value, json};

/// A patch in the making.
#[derive(Debug)]
pub struct Edit<'a> {
    target: ObjectRef,
    live: &'a Value,
    operations: Vec<PatchOperation>,
    maps: Vec<&'static str>,
}

impl<'a> Edit<'a> {
    /// Begins a patch that fails unless the object is still the same one.
    #[must_use]
    pub fn new(target: ObjectRef, live: &'a Value) -> Self {
        Self { target, live, operations: Vec::new(), maps: Vec::new() }.unchanged("/metadata/uid")
    }

    /// Fails unless the value at the pointer is what was observed.
    #[must_use]
    pub fn unchanged(mut self, pointer: &str) -> Self {
        if let Some(value) = self.live.pointer(pointer).cloned() {
            self.push(pointer, |path| PatchOperation::Test(TestOperation { path, value }));
        }
        self
    }

    /// Fails unless `spec` and annotations are what was observed: both move the generation of a Deployment, status
    /// writes do not (interlock §5.2).
    #[must_use]
    pub fn same_generation(self) -> Self {
        self.unchanged("/metadata/generation")
    }

    /// Adds or replaces a value. One that is there stays, although it was to be removed.
    #[must_use]
    pub fn set(mut self, pointer: &str, value: Value) -> Self {
        if self.live.pointer(pointer) == Some(&value) {
            let removes = |operation: &PatchOperation| matches!(operation, PatchOperation::Remove(r) if r.path.as_str() == pointer);
            self.operations.retain(|operation| !removes(operation));
        } else {
            self.push(pointer, |path| PatchOperation::Add(AddOperation { path, value }));
        }
        self
    }

    /// Removes a value, if it is there.
    #[must_use]
    pub fn remove(mut self, pointer: &str) -> Self {
        if self.live.pointer(pointer).is_some() {
            self.push(pointer, |path| PatchOperation::Remove(RemoveOperation { path }));
        }
        self
    }

    /// Sets a label.
    #[must_use]
    pub fn label(self, key: &str, value: &str) -> Self {
        self.entry("/metadata/labels", key, value)
    }

    /// Sets an annotation.
    #[must_use]
    pub fn annotation(self, key: &str, value: &str) -> Self {
        self.entry("/metadata/annotations", key, value)
    }

    /// Removes an annotation.
    #[must_use]
    pub fn without_annotation(self, key: &str) -> Self {
        self.remove(&format!("/metadata/annotations/{}", escape(key)))
    }

    /// Adds our traffic finalizer.
    #[must_use]
    pub fn with_finalizer(mut self, finalizer: &str) -> Self {
        let list = self.live.pointer("/metadata/finalizers").and_then(Value::as_array);
        match list {
            Some(list) if list.iter().any(|f| f == finalizer) => self,
            Some(_) => {
                self.push("/metadata/finalizers/-", |path| {
                    PatchOperation::Add(AddOperation { path, value: finalizer.into() })
                });
                self
            }
            None => self.set("/metadata/finalizers", json!([finalizer])),
        }
    }

    /// Removes a finalizer of ours.
    #[must_use]
    pub fn without_finalizer(self, finalizer: &str) -> Self {
        let list = self.live.pointer("/metadata/finalizers").and_then(Value::as_array);
        match list.and_then(|l| l.iter().position(|f| f == finalizer)) {
            Some(at) => {
                let pointer = format!("/metadata/finalizers/{at}");
                self.unchanged(&pointer).remove(&pointer)
            }
            None => self,
        }
    }

    /// Removes every annotation of ours.
    #[must_use]
    pub fn without_keys(self) -> Self {
        keys::ANNOTATIONS.iter().fold(self, |edit, key| edit.without_annotation(key))
    }

    /// Returns the write to the status; nothing when that is as it should be.
    #[must_use]
    pub fn write_status(self) -> Option<Write> {
        match self.write()? {
            Write::Patch { target, patch } => Some(Write::PatchStatus { target, patch }),
            other => Some(other),
        }
    }

    /// Returns the write; nothing when the object is as it should be.
    #[must_use]
    pub fn write(self) -> Option<Write> {
        let changes = self.operations.iter().any(|op| !matches!(op, PatchOperation::Test(_)));
        changes.then_some(Write::Patch { target: self.target, patch: Patch(self.operations) })
    }

    fn entry(mut self, map: &'static str, key: &str, value: &str) -> Self {
        if self.live.pointer(map).is_none() && !self.maps.contains(&map) {
            self.maps.push(map);
            self.push(map, |path| PatchOperation::Add(AddOperation { path, value: json!({}) }));
        }
        self.set(&format!("{map}/{}", escape(key)), value.into())
    }

    fn push(&mut self, pointer: &str, operation: impl FnOnce(PointerBuf) -> PatchOperation) {
        // Pointers are ours or escaped: one that does not parse would be a defect here, and is left out.
        if let Ok(path) = PointerBuf::parse(pointer) {
            self.operations.push(operation(path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Kind;

    fn at() -> ObjectRef {
        ObjectRef::new(Kind::Deployment, "test", "app")
    }

    fn apply(live: &Value, write: Option<Write>) -> Value {
        let Some(Write::Patch { patch, .. }) = write else { panic!("no patch") };
        let mut next = live.clone();
        json_patch::patch(&mut next, &patch).unwrap();
        next
    }

    #[test]
    fn missing_maps_are_made_once() {
        let live = json!({"metadata": {"uid": "u", "generation": 1}});
        let write = Edit::new(at(), &live).annotation("a/b", "1").annotation("c", "2").write();
        assert_eq!(
            apply(&live, write),
            json!({"metadata": {"uid": "u", "generation": 1, "annotations": {"a/b": "1", "c": "2"}}})
        );
    }

    #[test]
    fn what_is_removed_and_set_again_is_there() {
        let live = json!({"metadata": {"uid": "u", "annotations": {keys::HOLD: "h", keys::PROMOTED: "p", "own": "1"}}});
        let edit = Edit::new(at(), &live).without_keys().annotation(keys::PROMOTED, "p");
        assert_eq!(
            apply(&live, edit.write()),
            json!({"metadata": {"uid": "u", "annotations": {keys::PROMOTED: "p", "own": "1"}}})
        );
    }

    #[test]
    fn a_newer_object_refuses_the_patch() {
        let live = json!({"metadata": {"uid": "u", "generation": 1}, "spec": {"paused": true}});
        let Some(Write::Patch { patch, .. }) =
            Edit::new(at(), &live).same_generation().remove("/spec/paused").write()
        else {
            panic!("no patch")
        };
        let mut newer = json!({"metadata": {"uid": "u", "generation": 2}, "spec": {"paused": true}});
        assert!(json_patch::patch(&mut newer, &patch).is_err());
    }

    #[test]
    fn finalizers_of_others_stay() {
        let live = json!({"metadata": {"uid": "u", "finalizers": ["x", "sidetrack.dev/traffic", "y"]}});
        let next = apply(&live, Edit::new(at(), &live).without_finalizer("sidetrack.dev/traffic").write());
        assert_eq!(next.pointer("/metadata/finalizers"), Some(&json!(["x", "y"])));
        let back = apply(&next, Edit::new(at(), &next).with_finalizer("sidetrack.dev/traffic").write());
        assert_eq!(back.pointer("/metadata/finalizers"), Some(&json!(["x", "y", "sidetrack.dev/traffic"])));
    }

    #[test]
    fn nothing_to_change_is_no_write() {
        let live = json!({"metadata": {"uid": "u", "annotations": {"a": "1"}}});
        assert_eq!(Edit::new(at(), &live).annotation("a", "1").without_annotation("b").write(), None);
    }
}
