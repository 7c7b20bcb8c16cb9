//! Who may ask what of a release: an admission policy, in which the API server asks its own authorizer.
//!
//! A right is an RBAC verb on the Canary, so that who may deploy and who may approve can be two people. Without the
//! webhook the policy lets no request through either: nobody would have stamped who asks.

use super::configuration::{list, literal, not_controller};
use super::second_lock::{Rules, bound, may, policy_on};
use crate::api::keys;
use crate::api::request::Verb;
use serde_json::{Value, json};

/// Name of the policy and of its binding.
const NAME: &str = "sidetrack-requests";
/// Names of the policies, and of their bindings.
pub const NAMES: [&str; 2] = [NAME, SPEC];
/// The only ones that this policy is about; a CREATE carries a request only when the webhook is not asked.
const OPERATIONS: [&str; 2] = ["CREATE", "UPDATE"];

/// Name of the policy on what else a Canary says, and of its binding.
const SPEC: &str = "sidetrack-canaries";

/// Builds the policies and their bindings, in the order in which to create them.
#[must_use]
pub fn policies(controller_user: &str) -> Vec<Value> {
    bound([asking(controller_user), changing(controller_user)])
}

/// Who may ask for something may patch the Canary, since a request is an annotation. All else that it says takes verb `update`:
/// the controller does it, with more rights than most people have in a namespace.
fn changing(controller_user: &str) -> Value {
    let ours = list(&[keys::REQUEST, keys::REQUESTED_BY]);
    let covers = |one: &str, other: &str| {
        format!("variables.{one}.all(k, k in {ours} || variables.{one}[?k] == variables.{other}[?k])")
    };
    let same = ["labels", "finalizers", "ownerReferences"]
        .map(|field| format!("object.metadata.?{field} == oldObject.metadata.?{field}"))
        .join(" && ");
    let rules = Rules::default()
        .variable("a", "object.metadata.?annotations.orValue({})")
        .variable("o", "oldObject.metadata.?annotations.orValue({})")
        .variable(
            "who",
            "'user ' + request.userInfo.username + ' may not change Canary ' + object.metadata.name + ': '",
        )
        .demand(
            format!(
                "(object.?spec == oldObject.?spec && {same} && {} && {}) || {}",
                covers("a", "o"),
                covers("o", "a"),
                may(&literal("update"), "object"),
            ),
            "all but a request takes the verb update on canaries.flagger.app (ClusterRole sidetrack-edit)",
        );
    let resources = json!({"group": "flagger.app", "version": "v1beta1", "names": ["canaries"]});
    policy_on(SPEC, &resources, "UPDATE", json!({}), &json!([not_controller(controller_user)]), rules)
}

fn asking(controller_user: &str) -> Value {
    let metadata = json!({"name": NAME, "labels": {"app.kubernetes.io/name": "sidetrack"}});
    let (request, stamp) = (literal(keys::REQUEST), literal(keys::REQUESTED_BY));
    let verbs: Vec<String> =
        Verb::ALL.iter().map(|v| format!("{}: {}", literal(v.as_str()), literal(v.right()))).collect();
    let variable = |name: &str, expression: String| json!({"name": name, "expression": expression});
    let demand = |expression: String, message: String| json!({"expression": expression, "messageExpression": message, "reason": "Forbidden"});
    let may = may("variables.right", "object");
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": metadata,
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {
                "matchPolicy": "Equivalent",
                "namespaceSelector": {},
                "objectSelector": {},
                "resourceRules": [{
                    "apiGroups": ["flagger.app"],
                    "apiVersions": ["v1beta1"],
                    "operations": OPERATIONS,
                    "resources": ["canaries"],
                    "scope": "Namespaced",
                }],
            },
            "matchConditions": [
                not_controller(controller_user),
                {"name": "asks", "expression": asks()},
            ],
            "variables": [
                variable("a", "object.metadata.?annotations.orValue({})".into()),
                variable("o", "oldObject != null ? oldObject.metadata.?annotations.orValue({}) : {}".into()),
                variable("verb", format!("variables.a[?{request}].orValue('').split(' ')[0]")),
                variable("right", format!("{{{}}}[?variables.verb].orValue('')", verbs.join(", "))),
                variable("new", format!("{request} in variables.a && variables.a[?{request}] != variables.o[?{request}]")),
            ],
            "validations": [
                // What no verb begins asks for nothing that has a right.
                demand(
                    format!("!variables.new || (variables.right != '' && {may})"),
                    "variables.right == '' ? 'the request to Canary ' + object.metadata.name + ' does not begin with a verb and a \
                     space: write VERB REVISION ID REASON' : \
                     'user ' + request.userInfo.username + ' may not ' + variables.verb + ' releases of Canary ' + \
                     object.metadata.name + ': that takes the verb ' + variables.right + \
                     ' on canaries.flagger.app in namespace ' + object.metadata.namespace + \
                     ' (ClusterRole sidetrack-' + (variables.right in ['approve', 'skip', 'promote'] ? 'approve' : 'operate') + ')'"
                        .into(),
                ),
                demand(
                    format!(
                        "variables.new ? variables.a[?{stamp}].orValue('') == request.userInfo.username : \
                         variables.a[?{stamp}] == variables.o[?{stamp}] || \
                         !({request} in variables.a || {stamp} in variables.a)"
                    ),
                    "'Canary ' + object.metadata.name + ': who asks is stamped by the sidetrack webhook, which did not see \
                     this write; restore its MutatingWebhookConfiguration'"
                        .into(),
                ),
            ],
        },
    })
}

/// "The request, or who made it, is another one": all that webhook and policy are asked about.
pub(super) fn asks() -> String {
    let [request, stamp] = [keys::REQUEST, keys::REQUESTED_BY].map(literal);
    format!(
        "[{request}, {stamp}].exists(k, object.metadata.?annotations[?k] != \
         (oldObject != null ? oldObject.metadata.?annotations[?k] : optional.none()))"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_a_right() {
        let text = policies("me")[0].to_string();
        for verb in Verb::ALL {
            assert!(text.contains(&format!("'{verb}': '{}'", verb.right())), "{verb}");
        }
    }
}
