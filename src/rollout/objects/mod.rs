//! The objects that Sidetrack makes beside Services and routes: the primary, its autoscaler, and snapshots.
//!
//! They have the names, labels and contents of Flagger's (docs.flagger.app, "How it works"), so that either can take
//! over from the other.

pub mod carried;
pub mod patch;

use crate::api::keys;
use crate::api::names::{Names, label_value};
use crate::api::revision::Revision;
use crate::object::{Kind, ObjectRef};
use crate::rollout::objects::carried::Carried;
use serde_json::{Map, Value, json};

/// Annotation that Flagger puts on the primary's template; ours does not need it.
const FLAGGER_ID: &str = "flagger-id";
/// Labels that select pods, in the order in which they are looked for (Flagger's `-selector-labels`).
pub const SELECTOR_LABELS: [&str; 3] = ["app", "name", "app.kubernetes.io/name"];
/// The label that the Deployment controller adds to a ReplicaSet's template.
pub const POD_TEMPLATE_HASH: &str = "pod-template-hash";
/// Rollout settings that a promotion copies beside the template.
const SETTINGS: [&str; 4] =
    ["strategy", "minReadySeconds", "progressDeadlineSeconds", "revisionHistoryLimit"];

/// The label by which the target's pods are selected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Its key.
    pub key: String,
    /// Its value on the target's pods; the generated Deployment's have it with the layout's suffix.
    pub value: String,
    /// Where the canary's pods come to have the target's labels, what [`keys::PODS`] is on them.
    pub pods: Option<String>,
}

impl Label {
    /// Finds the label among a Deployment's `spec.selector.matchLabels`.
    #[must_use]
    pub fn of(target: &Value) -> Option<Self> {
        let labels = target.pointer("/spec/selector/matchLabels")?;
        SELECTOR_LABELS.iter().find_map(|key| {
            let value = labels.get(*key)?.as_str()?;
            Some(Self { key: (*key).to_owned(), value: value.to_owned(), pods: None })
        })
    }

    /// Returns its value on the generated Deployment's pods.
    #[must_use]
    pub fn generated(&self, names: &Names) -> String {
        format!("{}{}", self.value, names.layout.suffix())
    }
}

/// A Canary as owner of the objects that it makes.
#[must_use]
pub fn owner_reference(canary: &str, uid: &str) -> Value {
    json!({
        "apiVersion": Kind::Canary.api_version(),
        "kind": Kind::Canary.as_str(),
        "name": canary,
        "uid": uid,
        "controller": true,
        "blockOwnerDeletion": true,
    })
}

/// Labels of ours on a Deployment.
#[must_use]
pub fn labels(names: &Names, role: &str) -> [(&'static str, String); 3] {
    [
        (keys::CANARY, label_value(&names.canary)),
        (keys::LAYOUT, names.layout.as_str().to_owned()),
        (keys::ROLE, role.to_owned()),
    ]
}

pub(in crate::rollout) fn text_map(value: Option<&Value>) -> Map<String, Value> {
    value.and_then(Value::as_object).cloned().unwrap_or_default()
}

/// Returns the selector of the generated Deployment: the target's whole one, the telling label with its suffix, so that it
/// selects no pods of another component or release which shares that label. Where the canary's pods come to have the
/// target's labels, it is the one label that only they have.
#[must_use]
pub fn generated_selector(target: &Value, label: &Label, names: &Names) -> Value {
    if let Some(pods) = &label.pods {
        return json!({"matchLabels": {keys::PODS: pods}});
    }
    let mut selector = target.pointer("/spec/selector").cloned().unwrap_or_else(|| json!({}));
    respell_selector(&mut selector, &label.key, (&label.value, &label.generated(names)));
    selector
}

/// Returns the labels by which Services select the pods of the target, and those of the generated Deployment: the target's
/// `matchLabels`, and the same with the telling label's suffix.
#[must_use]
pub fn pod_labels(target: &Value, label: &Label, names: &Names) -> [Map<String, Value>; 2] {
    let own = text_map(target.pointer("/spec/selector/matchLabels"));
    let mut generated = own.clone();
    generated.insert(label.key.clone(), label.generated(names).into());
    [own, generated]
}

/// Turns the target's template into the generated Deployment's: the selector label, and what refers to it, gets the
/// layout's suffix.
#[must_use]
pub fn generated_template(template: &Value, label: &Label, names: &Names) -> Value {
    let mut template = template.clone();
    if let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) {
        let mut labels = text_map(metadata.get("labels"));
        labels.insert(label.key.clone(), label.generated(names).into());
        labels.extend(label.pods.clone().map(|pods| (keys::PODS.to_owned(), pods.into())));
        metadata.insert("labels".into(), Value::Object(labels));
        let mut annotations = text_map(metadata.get("annotations"));
        annotations.retain(|key, _| !key.contains("toolkit.fluxcd.io"));
        if annotations.is_empty() {
            metadata.remove("annotations");
        } else {
            metadata.insert("annotations".into(), Value::Object(annotations));
        }
    }
    respell(&mut template, &label.key, (&label.value, &label.generated(names)));
    template
}

/// The generated Deployment's template once its pods are in the application's Service: as the target's, and the label by which
/// they are told apart.
#[must_use]
pub fn attached_template(template: &Value, label: &Label) -> Value {
    let mut template = template.clone();
    if let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) {
        let mut labels = text_map(metadata.get("labels"));
        labels.extend(label.pods.clone().map(|pods| (keys::PODS.to_owned(), pods.into())));
        metadata.insert("labels".into(), Value::Object(labels));
    }
    template
}

/// The reverse of [`generated_template`], for a primary that somebody else has made.
#[must_use]
pub fn target_template(primary: &Value, label: &Label, names: &Names) -> Value {
    let mut template = primary.pointer("/spec/template").cloned().unwrap_or_default();
    if let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) {
        let mut labels = text_map(metadata.get("labels"));
        labels.insert(label.key.clone(), label.value.clone().into());
        labels.remove(keys::PODS);
        metadata.insert("labels".into(), Value::Object(labels));
        let mut annotations = text_map(metadata.get("annotations"));
        annotations.remove(FLAGGER_ID);
        if annotations.is_empty() {
            metadata.remove("annotations");
        } else {
            metadata.insert("annotations".into(), Value::Object(annotations));
        }
    }
    respell(&mut template, &label.key, (&label.generated(names), &label.value));
    template
}

/// Rewrites the rules by which pods of a template stay apart, or near each other, so that they go on meaning the pods of
/// their own Deployment: where a rule names the telling label's value, it gets the one that these pods have. (Flagger does
/// so for anti-affinity and spread constraints, by the Deployment's name.)
fn respell(template: &mut Value, key: &str, (from, to): (&str, &str)) {
    let Some(spec) = template.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let mut rules: Vec<&mut Value> = Vec::new();
    for (field, value) in spec.iter_mut() {
        match (field.as_str(), value) {
            ("affinity", Value::Object(affinity)) => {
                let of_pods = affinity.iter_mut().filter(|(kind, _)| *kind != "nodeAffinity");
                let terms = of_pods.filter_map(|(_, kind)| kind.as_object_mut()).flatten();
                rules.extend(terms.filter_map(|(_, terms)| terms.as_array_mut()).flatten());
            }
            ("topologySpreadConstraints", Value::Array(constraints)) => rules.extend(constraints),
            _ => {}
        }
    }
    for rule in rules {
        let preferred = rule.get("podAffinityTerm").is_some();
        let pointer = if preferred { "/podAffinityTerm/labelSelector" } else { "/labelSelector" };
        if let Some(selector) = rule.pointer_mut(pointer) {
            respell_selector(selector, key, (from, to));
        }
    }
}

/// Replaces the value of one label in a label selector.
fn respell_selector(selector: &mut Value, key: &str, (from, to): (&str, &str)) {
    if let Some(value) = selector.get_mut("matchLabels").and_then(|labels| labels.get_mut(key))
        && *value == from
    {
        *value = to.into();
    }
    for expression in selector.get_mut("matchExpressions").and_then(Value::as_array_mut).into_iter().flatten()
    {
        if expression.get("key").and_then(Value::as_str) != Some(key) {
            continue;
        }
        for value in expression.get_mut("values").and_then(Value::as_array_mut).into_iter().flatten() {
            if value == from {
                *value = to.into();
            }
        }
    }
}

/// Builds the generated Deployment from the target and a stored template.
#[must_use]
#[expect(clippy::too_many_arguments, reason = "each is a fact of its own, and there is one caller")]
pub fn generated(
    target: &Value,
    template: &Value,
    revision: &Revision,
    names: &Names,
    uid: &str,
    label: &Label,
    carried: Carried,
    replicas: i32,
) -> Value {
    let record = (!carried.is_empty()).then(|| carried.record());
    let Carried { labels: mut metadata_labels, mut annotations } = carried;
    annotations.extend(record.map(|record| (keys::CARRIED.to_owned(), record.into())));
    let own_template = generated_template(template, label, names);
    let runs = if names.in_place() { keys::REVISION } else { keys::PROMOTED };
    annotations.insert(runs.into(), revision.as_str().into());
    annotations.insert(keys::TEMPLATE.into(), Revision::of(&own_template).as_str().into());
    let own_label = label.generated(names);
    metadata_labels.insert(label.key.clone(), own_label.into());
    metadata_labels
        .extend(labels(names, keys::ROLE_GENERATED).map(|(key, value)| (key.to_owned(), value.into())));
    let mut spec = Map::from_iter([
        ("replicas".to_owned(), json!(replicas)),
        ("selector".to_owned(), generated_selector(target, label, names)),
        ("template".to_owned(), own_template),
    ]);
    for key in SETTINGS {
        if let Some(value) = target.pointer("/spec").and_then(|s| s.get(key)) {
            spec.insert(key.to_owned(), value.clone());
        }
    }
    json!({
        "apiVersion": Kind::Deployment.api_version(),
        "kind": Kind::Deployment.as_str(),
        "metadata": {
            "name": names.generated(),
            "namespace": names.namespace,
            "labels": metadata_labels,
            "annotations": annotations,
            "finalizers": [keys::TRAFFIC_FINALIZER],
            "ownerReferences": [owner_reference(&names.canary, uid)],
        },
        "spec": spec,
    })
}

/// Returns the fields of `spec` that a promotion writes: the template, and the target's rollout settings. One that the target
/// does not have (as the API shows a `minReadySeconds` of 0) is one that the primary is not to have either.
#[must_use]
pub fn promoted_spec(
    target: &Value,
    template: &Value,
    label: &Label,
    names: &Names,
) -> Vec<(&'static str, Option<Value>)> {
    let settings =
        SETTINGS.into_iter().map(|key| (key, target.pointer("/spec").and_then(|s| s.get(key)).cloned()));
    [("template", Some(generated_template(template, label, names)))].into_iter().chain(settings).collect()
}

/// Builds the snapshot of a template: a ControllerRevision, owned by the Canary.
#[must_use]
pub fn snapshot(template: &Value, revision: &Revision, names: &Names, uid: &str, number: i64) -> Value {
    json!({
        "apiVersion": Kind::ControllerRevision.api_version(),
        "kind": Kind::ControllerRevision.as_str(),
        "metadata": {
            "name": names.snapshot(revision),
            "namespace": names.namespace,
            "labels": {keys::CANARY: label_value(&names.canary)},
            "ownerReferences": [owner_reference(&names.canary, uid)],
        },
        "revision": number,
        "data": {"spec": {"template": template}},
    })
}

/// Reads a snapshot, if it is the revision that it is named after: what passed is what is promoted.
#[must_use]
pub fn template_of(snapshot: &Value, revision: &Revision) -> Option<Value> {
    snapshot.pointer("/data/spec/template").filter(|t| Revision::of(t) == *revision).cloned()
}

/// Builds the primary's HorizontalPodAutoscaler from the target's, with the Canary's own limits where it has some.
#[must_use]
pub fn autoscaler(
    source: &Value,
    names: &Names,
    uid: &str,
    min: Option<i32>,
    max: Option<i32>,
) -> Option<Value> {
    let name = source.pointer("/metadata/name")?.as_str()?;
    let mut spec = source.get("spec")?.as_object()?.clone();
    spec.insert(
        "scaleTargetRef".into(),
        json!({"apiVersion": Kind::Deployment.api_version(), "kind": Kind::Deployment.as_str(), "name": names.primary}),
    );
    for (key, value) in [("minReplicas", min), ("maxReplicas", max)] {
        if let Some(value) = value {
            spec.insert(key.into(), value.into());
        }
    }
    let mut labels = text_map(source.pointer("/metadata/labels"));
    labels.retain(|key, _| !key.contains("toolkit.fluxcd.io"));
    let mut metadata = json!({
        "name": format!("{name}-primary"),
        "namespace": names.namespace,
        "ownerReferences": [owner_reference(&names.canary, uid)],
    });
    let mut annotations = text_map(source.pointer("/metadata/annotations"));
    annotations
        .retain(|key, _| !key.contains("toolkit.fluxcd.io") && !key.starts_with("kubectl.kubernetes.io/"));
    if let Some(metadata) = metadata.as_object_mut() {
        let maps = [("labels", labels), ("annotations", annotations)];
        metadata.extend(
            maps.into_iter()
                .filter(|(_, map)| !map.is_empty())
                .map(|(key, map)| (key.to_owned(), map.into())),
        );
    }
    Some(json!({
        "apiVersion": Kind::HorizontalPodAutoscaler.api_version(),
        "kind": Kind::HorizontalPodAutoscaler.as_str(),
        "metadata": metadata,
        "spec": spec,
    }))
}

/// Returns a ReplicaSet's template as it stood in its Deployment.
#[must_use]
pub fn replica_set_template(set: &Value) -> Option<Value> {
    let mut template = set.pointer("/spec/template")?.clone();
    if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove(POD_TEMPLATE_HASH);
    }
    Some(template)
}

/// Returns the address of a Deployment.
#[must_use]
pub fn deployment(names: &Names, name: &str) -> ObjectRef {
    ObjectRef::new(Kind::Deployment, &names.namespace, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Value {
        json!({
            "metadata": {"name": "podinfo", "namespace": "test", "annotations": {
                "a": "b", keys::HOLD: "x", "kustomize.toolkit.fluxcd.io/name": "x", "deployment.kubernetes.io/revision": "1"}},
            "spec": {
                "replicas": 2, "minReadySeconds": 1, "paused": true,
                "selector": {"matchLabels": {"app": "podinfo"}},
                "template": {
                    "metadata": {"labels": {"app": "podinfo", "x": "y"}, "annotations": {"p": "q"}},
                    "spec": {
                        "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                            {"labelSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["podinfo", "z"]}]}}]}},
                        "topologySpreadConstraints": [{"labelSelector": {"matchLabels": {"app": "podinfo"}}}],
                    },
                },
            },
        })
    }

    fn names() -> Names {
        Names::new("test", "podinfo", "podinfo", None)
    }

    #[test]
    fn primary_is_a_copy_with_its_own_selector_label() {
        let target = target();
        let label = Label::of(&target).unwrap();
        let template = target.pointer("/spec/template").unwrap();
        let revision = Revision::of(template);
        let made = generated(
            &target,
            template,
            &revision,
            &names(),
            "uid",
            &label,
            Carried::of(&target, &[], &label),
            2,
        );
        assert_eq!(made.pointer("/spec/selector/matchLabels"), Some(&json!({"app": "podinfo-primary"})));
        assert_eq!(
            made.pointer("/spec/template/metadata/labels"),
            Some(&json!({"app": "podinfo-primary", "x": "y"}))
        );
        assert_eq!(made.pointer("/spec/minReadySeconds"), Some(&json!(1)));
        assert_eq!(made.pointer("/spec/paused"), None);
        let annotations = made.pointer("/metadata/annotations").unwrap();
        let written = Revision::of(made.pointer("/spec/template").unwrap());
        assert_eq!(
            annotations,
            &json!({"a": "b", keys::PROMOTED: revision.as_str(), keys::TEMPLATE: written.as_str(),
                keys::CARRIED: r#"{"annotations":["a"],"labels":[]}"#})
        );
        let affinity = "/spec/template/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution/0/labelSelector/matchExpressions/0/values";
        assert_eq!(made.pointer(affinity), Some(&json!(["podinfo-primary", "z"])));
        let spread = "/spec/template/spec/topologySpreadConstraints/0/labelSelector/matchLabels/app";
        assert_eq!(made.pointer(spread), Some(&json!("podinfo-primary")));
    }

    #[test]
    fn a_primary_turned_back_is_the_targets_template() {
        let target = target();
        let label = Label::of(&target).unwrap();
        let template = target.pointer("/spec/template").unwrap();
        let made = generated(
            &target,
            template,
            &Revision::of(template),
            &names(),
            "uid",
            &label,
            Carried::of(&target, &[], &label),
            2,
        );
        assert_eq!(&target_template(&made, &label, &names()), template);
    }

    /// A selector is immutable: it must select the pods before and after they come into the application's Service.
    #[test]
    fn a_canary_of_the_same_service_is_selected_by_a_label_of_its_own() {
        let target = target();
        let names = names().in_layout(crate::api::names::Layout::InPlace);
        let label = Label { pods: Some("podinfo".into()), ..Label::of(&target).unwrap() };
        let template = target.pointer("/spec/template").unwrap();
        let made = generated(
            &target,
            template,
            &Revision::of(template),
            &names,
            "uid",
            &label,
            Carried::of(&target, &[], &label),
            1,
        );
        assert_eq!(made.pointer("/spec/selector/matchLabels"), Some(&json!({keys::PODS: "podinfo"})));
        let labels = |app: &str| json!({"app": app, "x": "y", keys::PODS: "podinfo"});
        assert_eq!(made.pointer("/spec/template/metadata/labels"), Some(&labels("podinfo-canary")));
        let attached = attached_template(template, &label);
        assert_eq!(attached.pointer("/metadata/labels"), Some(&labels("podinfo")));
        let shaped = json!({"spec": {"template": attached}});
        for form in [&made, &shaped] {
            assert_eq!(&target_template(form, &label, &names), template);
        }
    }

    #[test]
    fn a_snapshot_gives_back_only_what_it_is_named_after() {
        let target = target();
        let template = target.pointer("/spec/template").unwrap();
        let revision = Revision::of(template);
        let mut stored = snapshot(template, &revision, &names(), "uid", 1);
        assert_eq!(template_of(&stored, &revision).as_ref(), Some(template));
        *stored.pointer_mut("/data/spec/template/metadata/labels/x").unwrap() = json!("forged");
        assert_eq!(template_of(&stored, &revision), None);
    }

    #[test]
    fn autoscaler_points_at_the_primary() {
        let source = json!({"metadata": {"name": "podinfo", "labels": {"kustomize.toolkit.fluxcd.io/name": "x"}},
            "spec": {"minReplicas": 2, "maxReplicas": 4, "scaleTargetRef": {"name": "podinfo"}}});
        let made = autoscaler(&source, &names(), "uid", None, Some(6)).unwrap();
        assert_eq!(made.pointer("/metadata/name"), Some(&json!("podinfo-primary")));
        assert_eq!(made.pointer("/metadata/labels"), None);
        assert_eq!(made.pointer("/spec/scaleTargetRef/name"), Some(&json!("podinfo-primary")));
        assert_eq!(
            (made.pointer("/spec/minReplicas"), made.pointer("/spec/maxReplicas")),
            (Some(&json!(2)), Some(&json!(6)))
        );
    }
}
