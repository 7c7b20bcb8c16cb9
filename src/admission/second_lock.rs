//! The second lock: admission policies that the API server evaluates itself.
//!
//! With the webhook configuration deleted or failing open they still let no unreleased template run.
//! CEL cannot hash, so they check shape: a new template comes with a new hold and a pause. What the
//! hold says is the webhook's to write and the controller's to check.

use super::configuration::{enrolled, list, literal, not_controller};
use super::policy_lock;
use crate::api::keys;
use crate::api::revision::RESTARTED_AT;
use serde_json::{Value, json};

/// Who writes ReplicaSets: the Deployment controller, by its own account or by that of the controller manager.
const DEPLOYMENT_CONTROLLER: [&str; 2] =
    ["system:serviceaccount:kube-system:deployment-controller", "system:kube-controller-manager"];
/// Name of the policy on writes to Deployments; the others append what they guard.
const NAME: &str = "sidetrack";

/// Builds the policies and their bindings, in the order in which to create them.
#[must_use]
pub fn policies(controller_user: &str) -> Vec<Value> {
    bound([
        deployments(controller_user),
        deletion(),
        services(controller_user),
        replica_sets(controller_user),
    ])
}

/// Each policy with its binding after it.
pub(super) fn bound<const N: usize>(policies: [Value; N]) -> Vec<Value> {
    policies
        .into_iter()
        .flat_map(|policy| {
            let binding = binding(&policy);
            [policy, binding]
        })
        .collect()
}

fn policy(name: &str, resources: &Value, operation: &str, conditions: &Value, rules: Rules) -> Value {
    policy_on(name, resources, operation, enrolled(), conditions, rules)
}

/// Builds a policy on the objects that a selector selects.
pub(super) fn policy_on(
    name: &str,
    resources: &Value,
    operation: &str,
    selector: Value,
    conditions: &Value,
    rules: Rules,
) -> Value {
    let (group, names) = (resources.get("group"), resources.get("names"));
    let version = resources.get("version").and_then(Value::as_str).unwrap_or("v1");
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "sidetrack"}},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {
                "matchPolicy": "Equivalent",
                "namespaceSelector": {},
                "objectSelector": selector,
                "resourceRules": [{
                    "apiGroups": [group],
                    "apiVersions": [version],
                    "operations": [operation],
                    "resources": names,
                    "scope": "Namespaced",
                }],
            },
            "matchConditions": conditions,
            "variables": rules.variables,
            "validations": rules.validations,
        },
    })
}

fn binding(policy: &Value) -> Value {
    let name = policy.pointer("/metadata/name");
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "sidetrack"}},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    })
}

/// Variables and validations of one policy, in order: a variable sees those before it.
#[derive(Default)]
pub(super) struct Rules {
    variables: Vec<Value>,
    validations: Vec<Value>,
}

impl Rules {
    pub(super) fn variable(mut self, name: &str, expression: impl Into<String>) -> Self {
        self.variables.push(json!({"name": name, "expression": expression.into()}));
        self
    }

    /// Demands that `expression` holds; else the write is refused, `why` following on the object's name.
    pub(super) fn demand(mut self, expression: impl Into<String>, why: &str) -> Self {
        self.validations.push(json!({
            "expression": expression.into(),
            "messageExpression": format!("variables.who + {}", literal(why)),
            "reason": "Forbidden",
        }));
        self
    }
}

/// The metadata of both objects under short names, and how a message begins.
fn metadata(kind: &str) -> Rules {
    Rules::default()
        .variable("a", "object.metadata.?annotations.orValue({})")
        .variable("o", "oldObject.metadata.?annotations.orValue({})")
        .variable("l", "object.metadata.?labels.orValue({})")
        .variable("ol", "oldObject.metadata.?labels.orValue({})")
        .variable(
            "who",
            format!(
                "'{kind} ' + oldObject.metadata.name + ' belongs to Canary ' + \
                 variables.o[?{name}].orValue(variables.ol[?{canary}].orValue('')) + ': '",
                name = literal(keys::CANARY_NAME),
                canary = literal(keys::CANARY),
            ),
        )
}

/// Condition: the stored object is enrolled.
fn was_enrolled() -> Value {
    let canary = literal(keys::CANARY);
    json!({"name": "enrolled", "expression": format!("{canary} in oldObject.metadata.?labels.orValue({{}})")})
}

/// "The annotation is as before."
fn same(key: &str) -> String {
    let key = literal(key);
    format!("variables.a[?{key}] == variables.o[?{key}]")
}

/// "The annotation is as before, or gone."
fn same_or_gone(key: &str) -> String {
    format!("({} || !({} in variables.a))", same(key), literal(key))
}

/// "The label of the stored object is this."
fn label_is(key: &str, value: &str) -> String {
    format!("variables.ol[?{}].orValue('') == {}", literal(key), literal(value))
}

fn deployments(controller_user: &str) -> Value {
    let [hold, reverted, promoted] = [keys::HOLD, keys::REVERTED, keys::PROMOTED].map(literal);
    let finalizer = literal(keys::TRAFFIC_FINALIZER);
    let rules = metadata("Deployment")
        .variable("generated", label_is(keys::ROLE, keys::ROLE_GENERATED))
        .variable("inPlace", label_is(keys::LAYOUT, keys::LAYOUT_IN_PLACE))
        .variable("changed", template_changed())
        // A write to the status may change annotations, and the webhook is not asked about it: nobody says anything by it.
        .variable("status", "request.?subResource.orValue('') == 'status'")
        .variable(
            "glass",
            format!(
                "!variables.status && \
                 variables.a[?{key}].orValue('').startsWith(string(oldObject.metadata.?generation.orValue(0)) + ' ') && \
                 variables.a[?{key}] != variables.o[?{key}]",
                key = literal(keys::BREAK_GLASS)
            ),
        )
        .variable(
            "leaves",
            format!(
                "variables.glass && variables.inPlace && !variables.generated && !({} in variables.l)",
                literal(keys::CANARY)
            ),
        )
        .variable("held", format!("object.spec.?paused.orValue(false) && {hold} in variables.a"))
        .variable(
            "reverted",
            format!(
                "variables.changed && variables.inPlace && !variables.generated && {reverted} in variables.a && \
                 variables.a[?{reverted}] == variables.o[?{promoted}] && \
                 variables.a[?{reverted}] != variables.o[?{reverted}]"
            ),
        )
        .variable("finalized", format!("oldObject.metadata.?finalizers.orValue([]).exists(f, f == {finalizer})"))
        .demand(
            format!(
                "!variables.changed || variables.glass || (!variables.generated && (variables.reverted || \
                 (variables.held && variables.a[?{hold}] != variables.o[?{hold}])))"
            ),
            "a new pod template must be held by the sidetrack webhook, which did not change this write; \
             restore its MutatingWebhookConfiguration, or, where that is there, give a webhook that changes pod templates \
             after it a name that sorts before; on a generated Deployment change the target instead",
        )
        .demand(
            format!("!({hold} in variables.o) || variables.held || variables.reverted || variables.glass"),
            "its held pod template stays paused until the Canary releases it",
        )
        .demand(
            format!("variables.leaves || {}.all(k, variables.l[?k] == variables.ol[?k])", list(&keys::LABELS)),
            "its sidetrack.dev labels cannot be changed; delete the Canary to leave Sidetrack",
        )
        .demand(
            annotations_allowed(),
            "its sidetrack.dev annotations are written by sidetrack alone; \
             people may remove failed, paused-before and a used break-glass, and set requested-replicas",
        )
        .demand(
            format!(
                "variables.leaves || \
                 object.metadata.?finalizers.orValue([]).exists(f, f == {finalizer}) == variables.finalized"
            ),
            "its sidetrack.dev finalizer stays until traffic has left",
        );
    let resources = json!({"group": "apps", "names": ["deployments", "deployments/status"]});
    policy(NAME, &resources, "UPDATE", &json!([not_controller(controller_user), was_enrolled()]), rules)
}

/// "The template is another one": what [`crate::api::revision::Revision`] would hash differently.
pub(super) fn template_changed() -> String {
    let restarted = literal(RESTARTED_AT);
    let metadata = ["name", "generateName", "namespace", "labels", "finalizers", "ownerReferences"]
        .map(|field| {
            format!("object.spec.template.metadata.?{field} == oldObject.spec.template.metadata.?{field}")
        })
        .join(" && ");
    let covers = |one: &str, other: &str| {
        format!(
            "{one}.spec.template.metadata.?annotations.orValue({{}}).all(k, k == {restarted} || \
             {one}.spec.template.metadata.?annotations[?k] == {other}.spec.template.metadata.?annotations[?k])"
        )
    };
    format!(
        "object.spec.template != oldObject.spec.template && !(object.spec.template.spec == oldObject.spec.template.spec \
         && {metadata} && {} && {})",
        covers("object", "oldObject"),
        covers("oldObject", "object"),
    )
}

/// "No key of ours changes but as the webhook or a person may change it."
fn annotations_allowed() -> String {
    let requested = literal(keys::REQUESTED_REPLICAS);
    let with_template = [
        same(keys::HOLD),
        same(keys::REVERTED),
        same(keys::APPLIED_BY),
        same(keys::GLASSED),
        same_or_gone(keys::PAUSED_BEFORE),
    ]
    .join(" && ");
    let as_stored = keys::ANNOTATIONS.map(same).join(" && ");
    let as_may_be = [
        "variables.leaves".to_owned(),
        [
            same(keys::PROMOTED),
            same(keys::CANARY_NAME),
            same(keys::REVISION),
            same(keys::TEMPLATE),
            same(keys::POLICY),
            same(keys::SHARE),
            same(keys::CARRIED),
            same_or_gone(keys::FAILED),
            format!("({} || variables.glass)", same_or_gone(keys::BREAK_GLASS)),
            format!("({} || variables.glass)", same_or_gone(keys::GLASSED)),
            format!(
                "({} || (!variables.generated && !variables.inPlace && \
                 variables.a[?{requested}].orValue('').matches('^[0-9]{{1,9}}$')))",
                same(keys::REQUESTED_REPLICAS)
            ),
            format!("(variables.changed || variables.glass || ({with_template}))"),
        ]
        .join(" && "),
    ]
    .join(" || ");
    format!("variables.status ? {as_stored} : {as_may_be}")
}

/// Foreground deletion removes the pods at once, before any finalizer of the Deployment counts. A Deployment that is made
/// again over its orphaned pods runs whatever it says, unanalysed: that is a break-glass, and takes its right.
fn deletion() -> Value {
    let finalizer = literal(keys::TRAFFIC_FINALIZER);
    let rules = metadata_of_deleted()
        .variable("finalizers", "oldObject.metadata.?finalizers.orValue([])")
        .variable(
            "way",
            // Without a policy in the request the API server deletes in the way that a finalizer of
            // an earlier request or patch asks for.
            "request.options.?orphanDependents.orValue(false) ? 'Orphan' : \
             request.options.?propagationPolicy.orValue('orphan' in variables.finalizers ? 'Orphan' : \
             'foregroundDeletion' in variables.finalizers ? 'Foreground' : 'Background')",
        )
        .demand(
            format!("!({finalizer} in variables.finalizers) || variables.way != 'Foreground'"),
            "its pods carry traffic, which foreground deletion would cut off; delete it with background propagation",
        )
        .demand(
            format!(
                "variables.way != 'Orphan' || oldObject.metadata.?labels[?{}].orValue('') != {} || \
                 oldObject.metadata.?labels[?{}].orValue('') != {} || {}",
                literal(keys::LAYOUT),
                literal(keys::LAYOUT_IN_PLACE),
                literal(keys::ROLE),
                literal(keys::ROLE_TARGET),
                may(&literal(policy_lock::RIGHT), "oldObject"),
            ),
            "a Deployment made anew over its orphaned pods would run its template unanalysed; delete it with background \
             propagation, or ask for the verb break-glass on canaries.flagger.app (ClusterRole sidetrack-break-glass)",
        );
    let resources = json!({"group": "apps", "names": ["deployments"]});
    policy(&format!("{NAME}-deletion"), &resources, "DELETE", &json!([was_enrolled()]), rules)
}

/// "The user has this verb (an expression) on the Canary that has the name of this object."
pub(super) fn may(right: &str, object: &str) -> String {
    format!(
        "authorizer.group('flagger.app').resource('canaries').namespace({object}.metadata.namespace)\
         .name({object}.metadata.name).check({right}).allowed()"
    )
}

/// The template of a ReplicaSet is copied from its Deployment, and nobody but the Deployment controller writes it: whatever
/// else stands there runs unseen as soon as a pod is replaced, for as long as the Deployment is held. The Deployment controller
/// copies our annotations too, and by these it is told which are ours.
fn replica_sets(controller_user: &str) -> Value {
    let marked =
        |object: &str| format!("{} in {object}.metadata.?annotations.orValue({{}})", literal(keys::PROMOTED));
    let conditions = json!([
        not_controller(controller_user),
        {"name": "not-kubernetes", "expression": format!("!(request.userInfo.username in {})", list(&DEPLOYMENT_CONTROLLER))},
        {"name": "ours", "expression": marked("oldObject")},
    ]);
    let rules = Rules::default()
        .variable("who", "'ReplicaSet ' + oldObject.metadata.name + ' belongs to a Deployment with a Canary: '")
        .demand(
            "object.spec.template == oldObject.spec.template",
            "its pod template cannot be changed, because pods of it would run unanalysed; change the Deployment instead",
        )
        .demand(
            marked("object"),
            "its sidetrack.dev annotations cannot be changed; delete the Canary to leave Sidetrack",
        );
    let resources = json!({"group": "apps", "names": ["replicasets"]});
    policy_on(&format!("{NAME}-replicasets"), &resources, "UPDATE", json!({}), &conditions, rules)
}

/// As [`metadata`], where there is no new object.
fn metadata_of_deleted() -> Rules {
    Rules::default().variable(
        "who",
        format!(
            "'Deployment ' + oldObject.metadata.name + ' belongs to Canary ' + \
             oldObject.metadata.?annotations[?{name}].orValue(oldObject.metadata.?labels[?{canary}].orValue('')) + ': '",
            name = literal(keys::CANARY_NAME),
            canary = literal(keys::CANARY),
        ),
    )
}

fn services(controller_user: &str) -> Value {
    let annotations: Vec<_> = keys::ANNOTATIONS.into_iter().chain([keys::PORTS]).collect();
    let ports = literal(keys::PORTS);
    let rules = metadata("Service")
        .variable("names", format!("{ports} in variables.o ? variables.o[{ports}].split(',') : []"))
        .demand(
            "object.spec.?selector == oldObject.spec.?selector",
            "its selector decides where traffic goes and cannot be changed; the sidetrack webhook keeps it silently",
        )
        .demand(
            format!(
                "{}.all(k, variables.l[?k] == variables.ol[?k]) && {}.all(k, variables.a[?k] == variables.o[?k])",
                list(&keys::LABELS),
                list(&annotations)
            ),
            "its sidetrack.dev labels and annotations cannot be changed; delete the Canary to leave Sidetrack",
        )
        // The webhook keeps it current, so its value may change.
        .demand(
            format!("!({original} in variables.o) || {original} in variables.a", original = literal(keys::ORIGINAL)),
            "the record of what it was before its adoption cannot be removed; delete the Canary to leave Sidetrack",
        )
        .demand(
            "oldObject.spec.?ports.orValue([]).all(p, !variables.names.exists(n, n.trim() != '' && n.trim() == p.?name.orValue('')) || \
             object.spec.?ports.orValue([]).exists(q, q == p))",
            "the ports that the Canary defines cannot be changed; change the Canary instead",
        );
    let resources = json!({"group": "", "names": ["services", "services/status"]});
    let conditions = json!([not_controller(controller_user), was_enrolled()]);
    policy(&format!("{NAME}-services"), &resources, "UPDATE", &conditions, rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_is_bound_to_deny() {
        let objects = policies("me");
        assert_eq!(objects.len(), 8);
        for pair in objects.chunks(2) {
            assert_eq!(pair[1]["spec"]["policyName"], pair[0]["metadata"]["name"]);
            assert_eq!(pair[1]["spec"]["validationActions"], json!(["Deny"]));
            assert_eq!(pair[0]["spec"]["failurePolicy"], "Fail");
        }
    }

    #[test]
    fn every_key_of_ours_is_guarded() {
        let [deployments, _, _, _, services, ..] = <[Value; 8]>::try_from(policies("me")).unwrap();
        let guards = |policy: &Value, key: &str| {
            policy["spec"]["validations"].to_string().contains(&format!("'{key}'"))
        };
        for key in keys::ANNOTATIONS.into_iter().chain(keys::LABELS) {
            assert!(guards(&deployments, key), "{key}");
        }
        assert!([keys::PORTS, keys::CANARY, keys::ORIGINAL].into_iter().all(|key| guards(&services, key)));
    }
}
