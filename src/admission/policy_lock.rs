//! The second lock for what policies select: admission policies whose parameters are the CanaryPolicies themselves, so
//! that a policy is locked as soon as it acts, and nothing has to be written for it.
//!
//! Without the webhook a new template of a selected Deployment that is not enrolled yet is refused, and a break-glass takes
//! a right of its own.
//!
//! It fails open, unlike the other locks: while the API server cannot read the kind of the parameters, which is so for half a
//! minute after some of its starts and for as long as the CustomResourceDefinition is missing, it answers every write to every
//! Deployment with this failure, before any condition is looked at (kube-apiserver 1.36.3). What is enrolled has the second lock
//! all the same, and the webhook's entry of the policy fails closed.

use super::configuration::{literal, not_controller};
use super::second_lock::{Rules, may, policy_on, template_changed};
use crate::api::keys;
use crate::object::Kind;
use crate::policy::selection::{NAMESPACE_NAME, PROTECTED};
use serde_json::{Value, json};

/// Name of the policy and of its binding.
pub const NAME: &str = "sidetrack-policies";
/// Verb on `canaries.flagger.app` that a break-glass takes.
pub const RIGHT: &str = "break-glass";

/// Builds the policy and its binding, in the order in which to create them.
#[must_use]
pub fn policies(controller_user: &str) -> [Value; 2] {
    let [canary, hold, promoted, glass] =
        [keys::CANARY, keys::HOLD, keys::PROMOTED, keys::BREAK_GLASS].map(literal);
    let protected: Vec<String> = PROTECTED.iter().map(|name| literal(name)).collect();
    let may = may(&literal(RIGHT), "object");
    let number = |field: &str| format!("oldObject.?status.?{field}.orValue(0)");
    let rules = Rules::default()
        .variable("a", "object.metadata.?annotations.orValue({})")
        .variable("o", "oldObject.metadata.?annotations.orValue({})")
        .variable("l", "object.metadata.?labels.orValue({})")
        .variable("ol", "oldObject.metadata.?labels.orValue({})")
        .variable("nl", "namespaceObject.metadata.?labels.orValue({})")
        .variable(
            "who",
            "'Deployment ' + object.metadata.name + ' is selected by CanaryPolicy ' + params.metadata.name + ': '",
        )
        .variable(
            "selected",
            format!(
                "params.?spec.?mode.orValue('enforce') == 'enforce' && \
                 params.?status.?conditions.orValue([]).exists(c, c.type == 'Ready' && c.reason == 'Enforced') && \
                 !([{}].exists(n, n == object.metadata.namespace)) && \
                 !params.?status.?leftAlone.orValue([]).exists(n, n == object.metadata.namespace + '/' + object.metadata.name) && \
                 {} && ({} || {})",
                protected.join(", "),
                selects("params.?spec.?namespaceSelector", "variables.nl"),
                // Taking the label off in the write itself is no way out.
                selects("params.?spec.?selector", "variables.l"),
                selects("params.?spec.?selector", "variables.ol"),
            ),
        )
        .variable("glass", format!("{glass} in variables.a && variables.a[?{glass}] != variables.o[?{glass}]"))
        .variable(
            "atRest",
            format!(
                "!oldObject.spec.?paused.orValue(false) && \
                 oldObject.spec.?replicas.orValue(1) > 0 && {} >= oldObject.metadata.?generation.orValue(0) && \
                 {replicas} == oldObject.spec.?replicas.orValue(1) && {} == {replicas}",
                number("observedGeneration"),
                number("updatedReplicas"),
                replicas = number("replicas"),
            ),
        )
        .demand(
            format!(
                "!variables.selected || {canary} in variables.ol || variables.glass || !({}) || \
                 ({canary} in variables.l && {hold} in variables.a && {promoted} in variables.a && \
                 object.spec.?paused.orValue(false)) || !variables.atRest",
                template_changed(),
            ),
            "its new template was not held, because the sidetrack webhook did not see it; restore its \
             MutatingWebhookConfiguration sidetrack-policies",
        )
        .demand(
            format!("!variables.selected || !variables.glass || {may}"),
            "a break-glass takes the verb break-glass on canaries.flagger.app (ClusterRole sidetrack-break-glass)",
        );
    let resources = json!({"group": "apps", "names": ["deployments"]});
    let mut policy =
        policy_on(NAME, &resources, "UPDATE", json!({}), &json!([not_controller(controller_user)]), rules);
    json_patch::merge(
        &mut policy,
        &json!({"spec": {
            "failurePolicy": "Ignore",
            // Whatever is wrong with the definition of CanaryPolicy, what keeps a cluster alive is not asked about.
            "matchConstraints": {"namespaceSelector": {"matchExpressions": [
                {"key": NAMESPACE_NAME, "operator": "NotIn", "values": PROTECTED},
            ]}},
            "paramKind": {"apiVersion": Kind::CanaryPolicy.api_version(), "kind": Kind::CanaryPolicy.as_str()}}}),
    );
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": NAME, "labels": {"app.kubernetes.io/name": "sidetrack"}},
        "spec": {
            "policyName": NAME, "validationActions": ["Deny"],
            "paramRef": {"selector": {}, "parameterNotFoundAction": "Allow"},
        },
    });
    [policy, binding]
}

/// "This selector selects these labels", as [`crate::policy::selection::matches`].
fn selects(selector: &str, labels: &str) -> String {
    format!(
        "{selector}.?matchLabels.orValue({{}}).all(k, {labels}[?k].orValue('') == {selector}.matchLabels[?k].orValue('') && k in {labels}) && \
         {selector}.?matchExpressions.orValue([]).all(e, \
         e.operator == 'In' ? e.key in {labels} && e.?values.orValue([]).exists(v, v == {labels}[?e.key].orValue('')) : \
         e.operator == 'NotIn' ? !(e.key in {labels} && e.?values.orValue([]).exists(v, v == {labels}[?e.key].orValue(''))) : \
         e.operator == 'Exists' ? e.key in {labels} : !(e.key in {labels}))"
    )
}
