//! A Canary with a target, for tests of single steps.

use super::{Config, Subject};
use crate::api::revision::Revision;
use crate::object::{Kind, ObjectRef, Objects};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// Nothing is at hand.
static TEMPLATES: BTreeMap<Revision, Value> = BTreeMap::new();
static CONFIG: LazyLock<Config> = LazyLock::new(Config::default);

/// A target with this template.
pub(super) fn target(template: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "app", "namespace": "test", "uid": "u", "resourceVersion": "1", "generation": 3},
        "spec": {"selector": {"matchLabels": {"app": "app"}}, "template": template},
    })
}

/// A Canary, with this in its spec.
fn canary(spec: &Value) -> Value {
    let mut canary = json!({
        "apiVersion": "flagger.app/v1beta1", "kind": "Canary",
        "metadata": {"name": "app", "namespace": "test", "uid": "c"},
        "spec": {"targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "app"},
            "service": {"port": 80}, "analysis": {}},
    });
    json_patch::merge(&mut canary, &json!({"spec": spec}));
    canary
}

/// A Canary with this in its spec, without a target, under these settings.
pub(super) fn subject_of<'a>(spec: &Value, config: &'a Config) -> Subject<'a> {
    Subject::new(canary(spec), BTreeMap::new(), BTreeMap::new(), &TEMPLATES, config).unwrap()
}

/// A Canary for this target.
pub(super) fn subject_with(target: Value) -> Subject<'static> {
    let objects = Objects::from([(ObjectRef::new(Kind::Deployment, "test", "app"), target.into())]);
    Subject::new(canary(&json!({})), objects, BTreeMap::new(), &TEMPLATES, &CONFIG).unwrap()
}

/// A Canary for a target with this template.
pub(super) fn subject(template: &Value) -> Subject<'static> {
    subject_with(target(template))
}
