//! The selection of the policies as a webhook configuration: the API server itself selects, one entry a policy.
//!
//! The configuration is one object and written as a whole, so it is never half of what it should be.

use crate::admission::configuration::{enrolment, entrance};
use crate::api::canary_policy::Mode;
use crate::policy::roster::Roster;
use crate::policy::selection::{NAMESPACE_NAME, PROTECTED};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Name of the configuration.
pub const NAME: &str = "sidetrack-policies";

/// Returns the configuration as it is installed: who owns its entries is the controller alone, so that the manifests can be
/// applied again.
#[must_use]
pub fn empty() -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": NAME, "labels": {"app.kubernetes.io/name": "sidetrack"}},
    })
}

/// The selector as the API server stores it in a configuration: without what is empty.
fn normal(selector: &LabelSelector) -> LabelSelector {
    let mut selector = selector.clone();
    selector.match_labels.take_if(|labels| labels.is_empty());
    selector.match_expressions.take_if(|expressions| expressions.is_empty());
    for requirement in selector.match_expressions.iter_mut().flatten() {
        requirement.values.take_if(|values| values.is_empty());
    }
    selector
}

/// Builds the configuration. `client` is the `clientConfig` of the installation's own entries: how the API server reaches
/// the webhook, with the authority that it trusts.
#[must_use]
pub fn configuration(roster: &Roster, client: &Value, controller_user: &str) -> Value {
    let (selections, left_alone) = (roster.selections(), roster.left_alone());
    let entries: Vec<Value> = roster
        .ranked()
        .iter()
        .filter_map(|name| {
            let held = roster.policies.get(name).filter(|held| held.counts() && held.guarded())?;
            let spec = &held.policy.spec;
            if selections.get(name).is_some_and(|s| s.too_many) {
                return None;
            }
            let layout = (spec.mode == Mode::Enforce).then(|| spec.layout.as_str());
            let mut namespaces = json!(normal(&spec.namespace_selector));
            let protected = json!({"key": NAMESPACE_NAME, "operator": "NotIn", "values": PROTECTED});
            match namespaces.get_mut("matchExpressions").and_then(Value::as_array_mut) {
                Some(all) => all.push(protected),
                None => json_patch::merge(&mut namespaces, &json!({"matchExpressions": [protected]})),
            }
            let client = entrance(client, name, layout);
            Some(enrolment(
                name,
                &client,
                &namespaces,
                &json!(normal(&spec.selector)),
                layout.is_some(),
                controller_user,
                &left_alone.get(name).into_iter().flat_map(BTreeMap::keys).cloned().collect::<Vec<_>>(),
            ))
        })
        .collect();
    let mut configuration = empty();
    json_patch::merge(&mut configuration, &json!({"webhooks": entries}));
    configuration
}
