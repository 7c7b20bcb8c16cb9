//! What the controller may do: one table, from which the roles are made and by which `sidetrack check` asks.

use super::{SERVICE_ACCOUNT, labels};
use crate::admission::policy_webhooks;
use crate::admission::{configuration, policy_lock};
use crate::api::keys;
use crate::router;
use serde_json::{Value, json};

/// Name of the Secret that keeps the self-managed certificates.
pub const CERTIFICATE_SECRET: &str = "sidetrack-webhook-tls";
/// Name of the Lease by which replicas elect the one that writes.
pub const LEASE: &str = "sidetrack";
/// Name of the Role, one a namespace, that lets Canaries use Secrets.
pub const SECRETS_ROLE: &str = "sidetrack-secrets";
/// Name of the Role that lets Sidetrack read the kubeconfigs of other clusters.
pub const PEERS_ROLE: &str = "sidetrack-peers";
/// Name of the account, and of its ClusterRole, as which Sidetrack of another cluster reads Canaries.
pub const PEER_READER: &str = "sidetrack-peer";

/// Where a right counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In every namespace, or on objects without one.
    Cluster,
    /// In Sidetrack's own namespace, for what every replica does there.
    Own,
    /// In Sidetrack's own namespace, and only where certificates are self-managed.
    Certificates,
}

/// What may be done to one resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Right {
    /// The API group; empty for the core group.
    pub group: &'static str,
    /// The resource, with its subresource after a slash.
    pub resource: &'static str,
    /// The only object it is for.
    pub name: Option<&'static str>,
    /// The verbs.
    pub verbs: &'static [&'static str],
    /// Where it counts.
    pub scope: Scope,
}

impl Right {
    const fn new(group: &'static str, resource: &'static str, verbs: &'static [&'static str]) -> Self {
        Self { group, resource, name: None, verbs, scope: Scope::Cluster }
    }

    const fn named(self, name: &'static str) -> Self {
        Self { name: Some(name), ..self }
    }

    const fn within(self, scope: Scope) -> Self {
        Self { scope, ..self }
    }

    fn rule(&self) -> Value {
        let mut rule = json!({"apiGroups": [self.group], "resources": [self.resource], "verbs": self.verbs});
        if let (Some(name), Some(rule)) = (self.name, rule.as_object_mut()) {
            rule.insert("resourceNames".to_owned(), json!([name]));
        }
        rule
    }
}

const LIST: &[&str] = &["list"];
const READ: &[&str] = &["get", "list", "watch"];
const READ_PATCH: &[&str] = &["get", "list", "watch", "patch"];
const MAKE: &[&str] = &["get", "list", "watch", "create", "patch"];
/// What is made for a Canary, and goes when the Canary takes over something else.
const OWN: &[&str] = &["get", "list", "watch", "create", "patch", "delete"];

/// Every right of the controller, those on the objects of traffic routers among them. Secrets of applications are not: see
/// [`secrets_role`].
#[must_use]
pub fn rights() -> Vec<Right> {
    let mut all = OTHERS.to_vec();
    for kind in router::kinds() {
        let (group, _, _, plural) = kind.names();
        if !all.iter().any(|right| (right.group, right.resource) == (group, plural)) {
            all.push(Right::new(group, plural, OWN));
        }
    }
    all
}

const OTHERS: [Right; 30] = [
    Right::new("flagger.app", "canaries", OWN),
    Right::new("flagger.app", "canaries/status", &["update"]),
    // What a Canary owns names it with blockOwnerDeletion, which admission plugin
    // OwnerReferencesPermissionEnforcement lets only those do who may write the owner's finalizers.
    Right::new("flagger.app", "canaries/finalizers", &["update"]),
    Right::new("flagger.app", "metrictemplates", READ),
    Right::new("flagger.app", "alertproviders", READ),
    Right::new("sidetrack.dev", "canarypolicies", READ_PATCH),
    Right::new("sidetrack.dev", "canarypolicies/status", &["update"]),
    Right::new("", "namespaces", READ),
    Right::new("apps", "deployments", OWN),
    Right::new("apps", "deployments/status", &["patch"]),
    Right::new("apps", "replicasets", &["list", "create", "patch", "delete"]),
    // The restart of a held primary, pod by pod.
    Right::new("", "pods", &["list"]),
    Right::new("", "pods/eviction", &["create"]),
    Right::new("apps", "controllerrevisions", &["get", "list", "watch", "create", "delete"]),
    Right::new("", "services", OWN),
    Right::new("autoscaling", "horizontalpodautoscalers", OWN),
    // Who else lives on the pods of a Deployment that is to be adopted.
    Right::new("apps", "statefulsets", LIST),
    Right::new("apps", "daemonsets", LIST),
    Right::new("keda.sh", "scaledobjects", LIST),
    Right::new("policy", "poddisruptionbudgets", LIST),
    Right::new("networking.k8s.io", "networkpolicies", LIST),
    Right::new("monitoring.coreos.com", "servicemonitors", LIST),
    Right::new("monitoring.coreos.com", "podmonitors", LIST),
    // Events are core ones; one that exists is read for its count.
    Right::new("", "events", &["get", "create", "patch"]),
    Right::new("admissionregistration.k8s.io", "mutatingwebhookconfigurations", READ_PATCH)
        .named(configuration::NAME),
    // Made again when it was deleted: an apply asks for `create` too, by name.
    Right::new("admissionregistration.k8s.io", "mutatingwebhookconfigurations", MAKE)
        .named(policy_webhooks::NAME),
    // A right to create cannot be limited to a name.
    Right::new("coordination.k8s.io", "leases", &["create"]).within(Scope::Own),
    Right::new("coordination.k8s.io", "leases", &["get", "update"]).named(LEASE).within(Scope::Own),
    Right::new("", "secrets", &["create"]).within(Scope::Certificates),
    Right::new("", "secrets", &["get", "list", "watch", "update"])
        .named(CERTIFICATE_SECRET)
        .within(Scope::Certificates),
];

/// Builds ServiceAccount, roles and bindings.
#[must_use]
pub fn objects() -> Vec<Value> {
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": SERVICE_ACCOUNT, "namespace": keys::NAMESPACE, "labels": labels()},
    });
    let cluster = role_and_binding("ClusterRole", "sidetrack", None, &rules(Scope::Cluster));
    let own = role_and_binding("Role", "sidetrack", Some(keys::NAMESPACE), &rules(Scope::Own));
    let certificates = role_and_binding(
        "Role",
        "sidetrack-certificates",
        Some(keys::NAMESPACE),
        &rules(Scope::Certificates),
    );
    [account].into_iter().chain(cluster).chain(own).chain(certificates).chain(people()).collect()
}

/// Builds the roles of people: who may look, who may steer a release, who may let one through, who may pass a policy, and who
/// may write Canaries. Kubernetes adds all but the last to its own roles; bind them by themselves where these are too wide.
/// What a Canary says the controller does, with more rights than most people have in a namespace: that is handed out by hand.
fn people() -> [Value; 5] {
    use crate::api::request::Verb;
    let asking = |verbs: &[Verb]| {
        // The request is an annotation.
        let rights =
            ["get", "list", "watch", "patch"].into_iter().chain(verbs.iter().map(|verb| verb.right()));
        let rights: Vec<&str> = rights.collect();
        [json!({"apiGroups": ["flagger.app"], "resources": ["canaries"], "verbs": rights})]
    };
    let looking = [
        json!({
            "apiGroups": ["flagger.app"], "resources": ["canaries", "metrictemplates", "alertproviders"],
            "verbs": READ,
        }),
        json!({"apiGroups": ["sidetrack.dev"], "resources": ["canarypolicies"], "verbs": READ}),
        json!({"apiGroups": ["apps"], "resources": ["controllerrevisions"], "verbs": READ}),
        json!({"apiGroups": ["networking.istio.io"], "resources": ["virtualservices", "destinationrules"], "verbs": READ}),
        json!({"apiGroups": ["split.smi-spec.io"], "resources": ["trafficsplits"], "verbs": READ}),
        json!({"apiGroups": ["gateway.networking.k8s.io"], "resources": ["httproutes"], "verbs": READ}),
    ];
    [
        role_of_people("sidetrack-view", &["view", "edit", "admin"], &looking),
        role_of_people(
            "sidetrack-operate",
            &["edit", "admin"],
            &asking(&[Verb::Abort, Verb::Retry, Verb::Pause, Verb::Restart]),
        ),
        role_of_people(
            "sidetrack-break-glass",
            &["admin"],
            &[
                json!({"apiGroups": ["flagger.app"], "resources": ["canaries"], "verbs": [policy_lock::RIGHT]}),
            ],
        ),
        role_of_people("sidetrack-approve", &["admin"], &asking(&[Verb::Approve, Verb::Skip, Verb::Promote])),
        role_of_people(
            "sidetrack-edit",
            &[],
            &[json!({
                "apiGroups": ["flagger.app"], "resources": ["canaries", "metrictemplates", "alertproviders"],
                "verbs": ["get", "list", "watch", "create", "update", "patch", "delete"],
            })],
        ),
    ]
}

fn role_of_people(name: &str, within: &[&str], rules: &[Value]) -> Value {
    let mut labels = labels();
    for role in within {
        json_patch::merge(
            &mut labels,
            &json!({format!("rbac.authorization.k8s.io/aggregate-to-{role}"): "true"}),
        );
    }
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": name, "labels": labels}, "rules": rules,
    })
}

/// Builds the Role and RoleBinding for a namespace whose Secrets Canaries, MetricTemplates and AlertProviders may use.
/// They name no namespace: who applies them does.
#[must_use]
pub fn secrets_role() -> [Value; 2] {
    let rules = [json!({"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]})];
    role_and_binding("Role", SECRETS_ROLE, None, &rules)
}

/// Builds the Role and RoleBinding that let Sidetrack read the kubeconfigs of other clusters: Secrets of its own namespace,
/// each watched by its name, so that who applies them can limit the Role to names.
#[must_use]
pub fn peers_role() -> [Value; 2] {
    let rules = [json!({"apiGroups": [""], "resources": ["secrets"], "verbs": ["list", "watch"]})];
    role_and_binding("Role", PEERS_ROLE, Some(keys::NAMESPACE), &rules)
}

/// Builds the account in another cluster as which its Canaries are read, and nothing else.
#[must_use]
pub fn peer_reader() -> [Value; 3] {
    let metadata = json!({"name": PEER_READER, "labels": labels()});
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": PEER_READER, "namespace": keys::NAMESPACE, "labels": labels()},
    });
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": metadata,
        "rules": [{"apiGroups": ["flagger.app"], "resources": ["canaries"], "verbs": READ}],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": metadata,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": PEER_READER},
        "subjects": [{"kind": "ServiceAccount", "name": PEER_READER, "namespace": keys::NAMESPACE}],
    });
    [account, role, binding]
}

fn rules(scope: Scope) -> Vec<Value> {
    rights().iter().filter(|right| right.scope == scope).map(Right::rule).collect()
}

fn role_and_binding(kind: &str, name: &str, namespace: Option<&str>, rules: &[Value]) -> [Value; 2] {
    let mut metadata = json!({"name": name, "labels": labels()});
    if let (Some(namespace), Some(metadata)) = (namespace, metadata.as_object_mut()) {
        metadata.insert("namespace".to_owned(), namespace.into());
    }
    [
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind,
            "metadata": metadata, "rules": rules,
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": format!("{kind}Binding"),
            "metadata": metadata,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": SERVICE_ACCOUNT, "namespace": keys::NAMESPACE}],
        }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Kind;

    #[test]
    fn every_kind_that_is_followed_can_be_watched_in_the_whole_cluster() {
        // ReplicaSets and Pods are looked at when they are needed.
        let followed = |kind: &Kind| !matches!(kind, Kind::Secret | Kind::ReplicaSet | Kind::Pod);
        let rights = rights();
        for kind in Kind::OWN.into_iter().chain(router::kinds()).filter(followed) {
            let (group, _, _, plural) = kind.names();
            let right =
                rights.iter().find(|r| (r.group, r.resource, r.scope) == (group, plural, Scope::Cluster));
            let verbs = right.unwrap_or_else(|| panic!("no right on {plural}")).verbs;
            assert!(READ.iter().all(|verb| verbs.contains(verb)), "{plural}: {verbs:?}");
        }
    }

    #[test]
    fn no_right_is_wider_than_a_name_and_a_verb() {
        for right in rights() {
            assert!(!right.resource.contains('*') && !right.group.contains('*'));
            assert!(right.verbs.iter().all(|verb| !["*", "escalate", "bind", "impersonate"].contains(verb)));
            if right.resource == "secrets" {
                assert_eq!(right.scope, Scope::Certificates);
                assert!(right.name.is_some() || right.verbs == ["create"]);
            }
        }
    }

    #[test]
    fn every_verb_is_in_one_role_of_people() {
        let roles = people();
        for verb in crate::api::request::Verb::ALL {
            let with =
                roles.iter().filter(|r| r["rules"].to_string().contains(&format!("{:?}", verb.right())));
            assert_eq!(with.count(), 1, "{verb}");
        }
    }

    #[test]
    fn controller_user_is_the_bound_service_account() {
        assert_eq!(
            keys::CONTROLLER_USER,
            format!("system:serviceaccount:{}:{SERVICE_ACCOUNT}", keys::NAMESPACE)
        );
    }
}
