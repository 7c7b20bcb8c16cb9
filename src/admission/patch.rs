//! From decided changes to JSON Patch, on raw JSON: a typed round trip would drop fields that our
//! library does not know.

use super::Error;
use super::outcome::{Change, Verdict};
use super::rules::deployment::ANNOTATION_LIMIT;
use super::view::View;
use crate::api::keys;
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation};
use serde_json::{Value, json};

/// Builds the patch of a verdict and proves it on a copy of the object. Empty for no change.
///
/// `add` sets a field whether or not it is there; no `test` is used, because the API server answers a failed
/// one with 500. The same changes give the same bytes.
///
/// # Errors
/// The patch does not do what was decided. The API server would answer a bad patch with 500 under
/// any failure policy, so nothing is lost by saying it first.
pub fn build(object: &Value, verdict: &Verdict) -> Result<Patch, Error> {
    let Verdict::Mutate(changes) = verdict else { return Ok(Patch(Vec::new())) };
    let mut builder = Builder { object, operations: Vec::new() };
    for change in changes {
        builder.push(change);
    }
    let patch = Patch(builder.operations);
    prove(object, changes, &patch)?;
    Ok(patch)
}

struct Builder<'a> {
    object: &'a Value,
    operations: Vec<PatchOperation>,
}

impl Builder<'_> {
    fn push(&mut self, change: &Change) {
        match change {
            Change::Label(key, text) => self.entry("labels", key, text.as_deref()),
            Change::Annotation(key, text) => self.entry("annotations", key, text.as_deref()),
            Change::AddFinalizer(position) => {
                self.parent("finalizers", json!([]));
                let position = position.to_string();
                self.add(&["metadata", "finalizers", &position], keys::TRAFFIC_FINALIZER.into());
            }
            Change::RemoveFinalizer => {
                let finalizers = View::of(self.object).map_or(&[][..], View::finalizers);
                // From the end, so that an index still holds when its turn comes.
                for (position, finalizer) in finalizers.iter().enumerate().rev() {
                    if finalizer == keys::TRAFFIC_FINALIZER {
                        self.remove(&["metadata", "finalizers", &position.to_string()]);
                    }
                }
            }
            Change::Paused(true) => self.add(&["spec", "paused"], true.into()),
            Change::Paused(false) => self.remove(&["spec", "paused"]),
            Change::Replicas(replicas) => self.add(&["spec", "replicas"], replicas.clone()),
            Change::Selector(Some(selector)) => self.add(&["spec", "selector"], selector.clone()),
            Change::Selector(None) => self.remove(&["spec", "selector"]),
            Change::Ports(ports) => self.add(&["spec", "ports"], ports.clone().into()),
        }
    }

    fn entry(&mut self, map: &'static str, key: &str, text: Option<&str>) {
        match text {
            Some(text) => {
                self.parent(map, json!({}));
                self.add(&["metadata", map, key], text.into());
            }
            None => self.remove(&["metadata", map, key]),
        }
    }

    /// Makes sure that `/metadata/<field>` is there: an `add` below a missing parent fails.
    fn parent(&mut self, field: &str, empty: Value) {
        let path = PointerBuf::from_tokens(["metadata", field]);
        let made = self.operations.iter().any(|operation| *operation.path() == path);
        let present = self.object.get("metadata").and_then(|m| m.get(field)).is_some_and(|v| !v.is_null());
        if !present && !made {
            self.operations.push(PatchOperation::Add(AddOperation { path, value: empty }));
        }
    }

    fn add(&mut self, path: &[&str], value: Value) {
        let path = PointerBuf::from_tokens(path.iter().copied());
        self.operations.push(PatchOperation::Add(AddOperation { path, value }));
    }

    fn remove(&mut self, path: &[&str]) {
        let path = PointerBuf::from_tokens(path.iter().copied());
        self.operations.push(PatchOperation::Remove(RemoveOperation { path }));
    }
}

/// Applies the patch to a copy and looks whether the copy is as decided.
fn prove(object: &Value, changes: &[Change], patch: &Patch) -> Result<(), Error> {
    let mut patched = object.clone();
    json_patch::patch(&mut patched, patch)?;
    if patched.pointer("/spec/template") != object.pointer("/spec/template") {
        return Err(Error::Untouchable("spec.template"));
    }
    let view = View::of(&patched).ok_or(Error::Undone("the object"))?;
    if view.annotation_bytes() > ANNOTATION_LIMIT {
        return Err(Error::Undone("the size of annotations"));
    }
    for change in changes {
        let (what, done) = match change {
            Change::Label(key, text) => ("a label", view.label(key) == text.as_deref()),
            Change::Annotation(key, text) => ("an annotation", view.annotation(key) == text.as_deref()),
            Change::AddFinalizer(_) => ("the finalizer", view.traffic_finalizer().is_some()),
            Change::RemoveFinalizer => ("the finalizer", view.traffic_finalizer().is_none()),
            Change::Paused(paused) => ("spec.paused", view.paused() == *paused),
            Change::Replicas(replicas) => ("spec.replicas", view.spec("replicas") == Some(replicas)),
            Change::Selector(selector) => ("spec.selector", view.spec("selector") == selector.as_ref()),
            Change::Ports(ports) => ("spec.ports", view.ports() == ports.as_slice()),
        };
        if !done {
            return Err(Error::Undone(what));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ops(object: Value, changes: Vec<Change>) -> Value {
        serde_json::to_value(build(&object, &Verdict::Mutate(changes)).unwrap()).unwrap()
    }

    #[test]
    fn missing_parents_are_made_once() {
        let changes = vec![
            Change::Annotation(keys::HOLD, Some("a".to_owned())),
            Change::Annotation(keys::FAILED, Some("b".to_owned())),
            Change::AddFinalizer(0),
        ];
        assert_eq!(
            ops(json!({"metadata": {"annotations": null}, "spec": {}}), changes),
            json!([
                {"op": "add", "path": "/metadata/annotations", "value": {}},
                {"op": "add", "path": "/metadata/annotations/sidetrack.dev~1hold", "value": "a"},
                {"op": "add", "path": "/metadata/annotations/sidetrack.dev~1failed", "value": "b"},
                {"op": "add", "path": "/metadata/finalizers", "value": []},
                {"op": "add", "path": "/metadata/finalizers/0", "value": keys::TRAFFIC_FINALIZER},
            ])
        );
    }

    #[test]
    fn every_copy_of_our_finalizer_is_removed() {
        let finalizers = [keys::TRAFFIC_FINALIZER, "other", keys::TRAFFIC_FINALIZER];
        let patch = ops(json!({"metadata": {"finalizers": finalizers}}), vec![Change::RemoveFinalizer]);
        assert_eq!(
            patch,
            json!([{"op": "remove", "path": "/metadata/finalizers/2"}, {"op": "remove", "path": "/metadata/finalizers/0"}])
        );
    }

    #[test]
    fn no_change_is_no_patch() {
        assert!(build(&json!({}), &Verdict::Pass).unwrap().is_empty());
    }

    #[test]
    fn a_patch_that_does_not_apply_is_an_error() {
        let error = build(&json!({"spec": {}}), &Verdict::Mutate(vec![Change::Paused(false)])).unwrap_err();
        assert!(matches!(error, Error::Patch(_)));
    }

    #[test]
    fn a_patch_that_leaves_too_many_annotation_bytes_is_an_error() {
        let object = json!({"metadata": {"annotations": {"x": "y".repeat(ANNOTATION_LIMIT)}}, "spec": {}});
        let error = build(&object, &Verdict::Mutate(vec![Change::Paused(true)])).unwrap_err();
        assert!(matches!(error, Error::Undone(_)));
    }

    #[test]
    fn a_patch_that_reaches_the_template_is_an_error() {
        let object = json!({"metadata": {}, "spec": {"template": {"a": 1}}});
        let patch: Patch =
            serde_json::from_value(json!([{"op": "remove", "path": "/spec/template/a"}])).unwrap();
        assert!(matches!(prove(&object, &[], &patch), Err(Error::Untouchable(_))));
    }
}
