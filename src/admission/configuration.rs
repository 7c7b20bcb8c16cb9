//! The MutatingWebhookConfiguration: when the API server asks us.
//!
//! Every field that the API server would default is spelled out, so that a GitOps tool sees no difference.

use super::requests;
use crate::api::keys;
use serde_json::{Value, json};

/// Name of the configuration.
pub const NAME: &str = "sidetrack";
/// Name of the Service in front of the webhook.
const SERVICE: &str = "sidetrack";
/// Path that reviews are posted to.
pub const PATH: &str = "/mutate";

/// How the API server reaches the webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Through Service `sidetrack` in namespace `sidetrack-system`, port 443.
    Service,
    /// At `https://<authority>`: outside a cluster, on loopback.
    Url {
        /// Host and port.
        authority: String,
    },
}

/// Builds the configuration. `ca_bundle` is base64 of PEM; left out, whoever rotates the certificates fills it in.
#[must_use]
pub fn webhook_configuration(controller_user: &str, endpoint: &Endpoint, ca_bundle: Option<&str>) -> Value {
    let mut client = match endpoint {
        Endpoint::Service => {
            json!({"service": {"namespace": keys::NAMESPACE, "name": SERVICE, "path": PATH, "port": 443}})
        }
        Endpoint::Url { authority } => json!({"url": format!("https://{authority}{PATH}")}),
    };
    if let (Some(bundle), Some(client)) = (ca_bundle, client.as_object_mut()) {
        client.insert("caBundle".to_owned(), bundle.into());
    }
    let conditions = |changes: &str| {
        json!([
            not_controller(controller_user),
            // oldObject is null on CREATE, and an error in an expression would refuse the write.
            {"name": "relevant", "expression": format!("request.operation == 'CREATE' || {changes}")},
        ])
    };
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": NAME, "labels": {"app.kubernetes.io/name": "sidetrack"}},
        "webhooks": [
            webhook("deployments", "apps/v1", &client, enrolled(), &conditions(&deployment_changes())),
            webhook("services", "/v1", &client, enrolled(), &conditions(&service_changes())),
            // No label of ours is on a Canary; whoever asks nothing of a release never gets here.
            webhook("canaries", "flagger.app/v1beta1", &client, json!({}), &json!([
                not_controller(controller_user),
                {"name": "relevant", "expression": requests::asks()},
            ])),
            // A policy that makes no sense is refused.
            webhook("canarypolicies", "sidetrack.dev/v1alpha1", &client, json!({}), &json!([not_controller(controller_user)])),
        ],
    })
}

fn webhook(
    resource: &str,
    group_version: &str,
    client: &Value,
    selector: Value,
    conditions: &Value,
) -> Value {
    let (group, version) = group_version.split_once('/').unwrap_or_default();
    json!({
        "name": format!("{resource}.sidetrack.dev"),
        "admissionReviewVersions": ["v1"],
        "clientConfig": client,
        "failurePolicy": "Fail",
        "matchPolicy": "Equivalent",
        "namespaceSelector": {},
        "objectSelector": selector,
        "reinvocationPolicy": "IfNeeded",
        "sideEffects": "None",
        "timeoutSeconds": 2,
        "rules": [{
            "apiGroups": [group],
            "apiVersions": [version],
            "operations": ["CREATE", "UPDATE"],
            "resources": [resource],
            "scope": if resource == "canarypolicies" { "Cluster" } else { "Namespaced" },
        }],
        "matchConditions": conditions,
    })
}

/// Returns how the API server reaches the entrance of a policy; `layout` is that of what it enrols, none where it only
/// audits.
#[must_use]
pub fn entrance(client: &Value, policy: &str, layout: Option<&str>) -> Value {
    let path =
        layout.map_or_else(|| format!("/audit/{policy}"), |layout| format!("/enrol/{layout}/{policy}"));
    let mut client = client.clone();
    if let Some(Value::String(url)) = client.get_mut("url") {
        *url = format!("{}{path}", url.trim_end_matches(PATH));
    }
    if let Some(of_service) = client.pointer_mut("/service/path") {
        *of_service = path.into();
    }
    client
}

/// Builds the entry of a policy: the Deployments that it selects, at CREATE and when their template changes, as long as
/// they are not enrolled. An audit never stands in the way. Those `left_alone` (namespace and name) are not asked about: what
/// was held on them nobody would release.
#[must_use]
pub fn enrolment(
    policy: &str,
    client: &Value,
    namespaces: &Value,
    objects: &Value,
    enforced: bool,
    controller_user: &str,
    left_alone: &[(String, String)],
) -> Value {
    let enrolled = literal(keys::CANARY);
    let mut conditions = json!([
        not_controller(controller_user),
        {"name": "relevant", "expression": format!(
            "request.operation == 'CREATE' || (object.spec.template != oldObject.spec.template && \
             !({enrolled} in oldObject.metadata.?labels.orValue({{}})))"
        )},
    ]);
    if let Some(all) = conditions.as_array_mut().filter(|_| !left_alone.is_empty()) {
        let names: Vec<String> =
            left_alone.iter().map(|(namespace, name)| format!("{namespace}/{name}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let expression = format!("!((request.namespace + '/' + request.name) in {})", list(&names));
        all.push(json!({"name": "not-left-alone", "expression": expression}));
    }
    let mut entry = webhook("deployments", "apps/v1", client, objects.clone(), &conditions);
    json_patch::merge(
        &mut entry,
        &json!({
            "name": format!("{policy}.policies.sidetrack.dev"),
            "failurePolicy": if enforced { "Fail" } else { "Ignore" },
        }),
    );
    if let Some(entry) = entry.as_object_mut() {
        entry.insert("namespaceSelector".into(), namespaces.clone());
    }
    entry
}

/// Selects enrolled objects: the API server looks at the old and at the new labels, so that taking
/// the label off does not escape.
pub(super) fn enrolled() -> Value {
    json!({"matchExpressions": [{"key": keys::CANARY, "operator": "Exists"}]})
}

/// Returns the condition that skips the controller's own writes.
pub(super) fn not_controller(controller_user: &str) -> Value {
    json!({
        "name": "not-controller",
        "expression": format!("request.userInfo.username != {}", literal(controller_user)),
    })
}

/// Writes a CEL string literal.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// Writes a CEL list of strings.
pub(super) fn list(texts: &[&str]) -> String {
    let literals: Vec<_> = texts.iter().map(|text| literal(text)).collect();
    format!("[{}]", literals.join(", "))
}

/// Writes "one of these labels or annotations differs".
fn keys_differ(labels: &[&str], annotations: &[&str]) -> String {
    format!(
        "{}.exists(k, object.metadata.?labels[?k] != oldObject.metadata.?labels[?k]) || \
         {}.exists(k, object.metadata.?annotations[?k] != oldObject.metadata.?annotations[?k])",
        list(labels),
        list(annotations),
    )
}

fn deployment_changes() -> String {
    format!(
        "object.spec.template != oldObject.spec.template || object.spec.selector != oldObject.spec.selector || \
         object.spec.?replicas != oldObject.spec.?replicas || object.spec.?paused != oldObject.spec.?paused || \
         object.metadata.?finalizers != oldObject.metadata.?finalizers || {}",
        keys_differ(&keys::LABELS, &keys::ANNOTATIONS),
    )
}

fn service_changes() -> String {
    let annotations: Vec<_> = keys::ANNOTATIONS.into_iter().chain([keys::PORTS, keys::ORIGINAL]).collect();
    format!(
        "object.spec.?selector != oldObject.spec.?selector || object.spec.?ports != oldObject.spec.?ports || {}",
        keys_differ(&keys::LABELS, &annotations),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_ours_wakes_the_webhook() {
        let configuration =
            webhook_configuration(keys::CONTROLLER_USER, &Endpoint::Service, None).to_string();
        let of_canaries = [keys::PORTS, keys::REQUEST, keys::REQUESTED_BY];
        for key in keys::LABELS.into_iter().chain(keys::ANNOTATIONS).chain(of_canaries) {
            assert!(configuration.contains(&format!("'{key}'")), "{key}");
        }
    }

    #[test]
    fn literals_are_quoted_for_cel() {
        assert_eq!(literal(r"it's a \ user"), r"'it\'s a \\ user'");
    }

    #[test]
    fn the_endpoint_is_a_service_or_a_url_with_the_same_path() {
        let client = |endpoint, bundle| {
            webhook_configuration("me", &endpoint, bundle)["webhooks"][1]["clientConfig"].clone()
        };
        assert_eq!(
            client(Endpoint::Service, None),
            json!({"service": {"namespace": "sidetrack-system", "name": "sidetrack", "path": "/mutate", "port": 443}})
        );
        assert_eq!(
            client(Endpoint::Url { authority: "127.0.0.1:8443".to_owned() }, Some("QQ==")),
            json!({"url": "https://127.0.0.1:8443/mutate", "caBundle": "QQ=="})
        );
    }
}
