//! Asks the API server, and nobody else. Nothing is changed: the only writes are dry runs and access reviews.

use super::facts::{
    Adoption, Answer, Asked, Facts, Installed, MetricsServer, Probe, Refusal, Reply, SecretUse,
};
use super::metrics_servers;
use super::pre;
use crate::api::{Canary, keys};
use crate::check::adoption::{Looks, is_adopted};
use crate::controller::watch::served;
use crate::install::rights::{LEASE, Scope, rights};
use crate::install::{IMAGE, SERVICE_ACCOUNT, installation};
use crate::kubernetes::path;
use crate::object::{Key, key, text};
use crate::object::{Kind, ObjectRef};
use crate::rollout::subject::{Config, Subject};
use crate::telemetry::log::chain;
use anyhow::Context as _;
use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use kube::Client;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use url::Url;

/// Time allowed for one request.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Requests at once.
const CONCURRENCY: usize = 8;
/// Objects in a page of a list.
const PAGE: u32 = 250;
/// How Flagger's own manifests label its Deployment: kustomize and Helm.
const FLAGGER_LABELS: [&str; 2] = ["app=flagger", "app.kubernetes.io/name=flagger"];

/// Gathers everything.
///
/// # Errors
/// When the API server cannot be reached at all.
pub async fn gather(client: Client, now: Timestamp) -> anyhow::Result<Facts> {
    let api = Reader { client };
    let version = api.get("/version").await.context("the API server cannot be reached")?;
    let user = api.user().await;
    let wanted: Vec<Value> =
        installation(IMAGE)?.into_iter().flat_map(|(_, o)| o).filter(|o| !is_rbac(o)).collect();
    let installed =
        all(wanted, async |wanted| Installed { live: api.read(&path::of_manifest(&wanted)).await, wanted })
            .await;
    let verbs = rights().into_iter().flat_map(|right| right.verbs.iter().map(move |verb| (right, *verb)));
    let rights = all(verbs.collect(), async |(right, verb)| {
        let namespace = if right.scope == Scope::Cluster { "" } else { keys::NAMESPACE };
        let allowed = api.allowed(namespace, right.group, right.resource, verb, right.name).await;
        Asked { right, verb, allowed }
    })
    .await;
    let mut facts = Facts {
        now,
        version,
        user,
        installed,
        rights,
        lease: api
            .read(&format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases/{LEASE}", keys::NAMESPACE))
            .await,
        probes: vec![
            api.probe("deployments.sidetrack.dev", "apis/apps/v1", "deployments", deployment_probe()).await,
            api.probe("services.sidetrack.dev", "api/v1", "services", service_probe()).await,
            api.probe("canaries.sidetrack.dev", "apis/flagger.app/v1beta1", "canaries", canary_probe()).await,
        ],
        canaries: api.list("/apis/flagger.app/v1beta1/canaries", "").await,
        served: BTreeMap::new(),
        deployments: BTreeMap::new(),
        autoscalers: BTreeMap::new(),
        flaggers: Ok(Vec::new()),
        secrets: Vec::new(),
        templates: api.list("/apis/flagger.app/v1beta1/metrictemplates", "").await,
        metrics_servers: Vec::new(),
        adoptions: Vec::new(),
    };
    api.applications(&mut facts).await;
    Ok(facts)
}

/// Asks whether who looks may make and change each kind of object of an installation.
///
/// # Errors
/// When the manifests cannot be made.
pub(super) async fn rights_to_install(client: Client) -> anyhow::Result<pre::Rights> {
    let api = Reader { client };
    let objects: Vec<Value> = installation(IMAGE)?.into_iter().flat_map(|(_, objects)| objects).collect();
    let mut kinds: BTreeMap<String, (String, String, String)> = BTreeMap::new();
    for object in &objects {
        let group = text(object, "/apiVersion").split_once('/').map_or("", |(group, _)| group).to_owned();
        let path = path::of_manifest(object);
        let plural = path.rsplit('/').nth(1).unwrap_or_default().to_owned();
        kinds.insert(text(object, "/kind").to_owned(), (group, plural, key(object).0));
    }
    Ok(all(kinds.into_iter().collect(), async |(kind, (group, resource, namespace))| {
        let may = async |verb| api.i_may(&namespace, &group, &resource, verb).await;
        // Objects are applied: made where they are missing, else changed.
        let both = match may("create").await {
            Ok(true) => may("patch").await,
            answer => answer,
        };
        (kind, both)
    })
    .await)
}

fn is_rbac(object: &Value) -> bool {
    text(object, "/apiVersion").starts_with("rbac.")
}

/// Does something for each of several things, a few at once, in their order.
async fn all<T, R>(things: Vec<T>, ask: impl AsyncFn(T) -> R) -> Vec<R> {
    stream::iter(things).map(|thing| ask(thing)).buffered(CONCURRENCY).collect().await
}

fn probe_metadata() -> Value {
    json!({"name": "sidetrack-check", "namespace": keys::NAMESPACE, "labels": {keys::CANARY: "sidetrack-check"}})
}

fn deployment_probe() -> Value {
    let labels = json!({"app": "sidetrack-check"});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": probe_metadata(),
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
                    "containers": [{
                        "name": "none", "image": IMAGE,
                        "securityContext": {
                            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
                        },
                    }],
                },
            },
        },
    })
}

fn service_probe() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": probe_metadata(),
        "spec": {"selector": {"app": "sidetrack-check"}, "ports": [{"port": 80}]},
    })
}

fn canary_probe() -> Value {
    json!({
        "apiVersion": Kind::Canary.api_version(), "kind": Kind::Canary.as_str(),
        "metadata": {
            "name": "sidetrack-check", "namespace": keys::NAMESPACE,
            "annotations": {keys::REQUEST: "restart 0000000 check"},
        },
        "spec": {
            "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "none"},
            "service": {"port": 80},
            "analysis": {"interval": "1m", "threshold": 1, "stepWeight": 10},
        },
    })
}

struct Reader {
    client: Client,
}

impl Reader {
    async fn send(&self, method: http::Method, uri: &str, body: Option<&Value>) -> Answer<Value> {
        let failed = |code, message| Refusal { code, message };
        let body = body.map(serde_json::to_vec).transpose().map_err(|e| failed(0, e.to_string()))?;
        let request = http::Request::builder()
            .method(method)
            .uri(uri)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body.unwrap_or_default())
            .map_err(|e| failed(0, e.to_string()))?;
        match tokio::time::timeout(TIMEOUT, self.client.request(request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(kube::Error::Api(status))) => Err(failed(status.code, status.message.clone())),
            Ok(Err(error)) => Err(failed(0, chain(&error))),
            Err(_) => Err(failed(0, format!("no answer within {} s", TIMEOUT.as_secs()))),
        }
    }

    async fn get(&self, uri: &str) -> Answer<Value> {
        self.send(http::Method::GET, uri, None).await
    }

    async fn read(&self, uri: &str) -> Answer<Option<Value>> {
        match self.get(uri).await {
            Err(refusal) if refusal.code == 404 => Ok(None),
            answer => answer.map(Some),
        }
    }

    /// Lists objects, none where their kind is not served.
    async fn list(&self, uri: &str, selector: &str) -> Answer<Vec<Value>> {
        let mut items = Vec::new();
        let mut next = String::new();
        loop {
            let query = url::form_urlencoded::Serializer::new(String::new())
                .append_pair("limit", &PAGE.to_string())
                .append_pair("labelSelector", selector)
                .append_pair("continue", &next)
                .finish();
            let Some(mut page) = self.read(&format!("{uri}?{query}")).await? else { return Ok(items) };
            next = text(&page, "/metadata/continue").to_owned();
            if let Some(Value::Array(more)) = page.get_mut("items").map(Value::take) {
                items.extend(more);
            }
            if next.is_empty() {
                return Ok(items);
            }
        }
    }

    async fn user(&self) -> Answer<String> {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
        let uri = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
        let answer = self.send(http::Method::POST, uri, Some(&review)).await?;
        Ok(text(&answer, "/status/userInfo/username").to_owned())
    }

    /// Asks whether the controller's ServiceAccount may do something; without a namespace, in all of them.
    async fn allowed(
        &self,
        namespace: &str,
        group: &str,
        resource: &str,
        verb: &str,
        name: Option<&str>,
    ) -> Answer<bool> {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {
                "user": format!("system:serviceaccount:{}:{SERVICE_ACCOUNT}", keys::NAMESPACE),
                "groups": [
                    "system:serviceaccounts",
                    format!("system:serviceaccounts:{}", keys::NAMESPACE),
                    "system:authenticated",
                ],
                "resourceAttributes": {
                    "namespace": namespace, "group": group, "resource": resource, "subresource": subresource,
                    "verb": verb, "name": name.unwrap_or_default(),
                },
            },
        });
        let uri = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        let answer = self.send(http::Method::POST, uri, Some(&review)).await?;
        Ok(answer.pointer("/status/allowed").and_then(Value::as_bool).unwrap_or(false))
    }

    /// Asks whether who looks may do something.
    async fn i_may(&self, namespace: &str, group: &str, resource: &str, verb: &str) -> Answer<bool> {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {
                "namespace": namespace, "group": group, "resource": resource, "verb": verb,
            }},
        });
        let uri = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let answer = self.send(http::Method::POST, uri, Some(&review)).await?;
        Ok(answer.pointer("/status/allowed").and_then(Value::as_bool).unwrap_or(false))
    }

    async fn probe(&self, webhook: &'static str, root: &str, plural: &str, object: Value) -> Probe {
        let uri = format!(
            "/{root}/namespaces/{}/{plural}?dryRun=All&fieldManager=sidetrack-check",
            keys::NAMESPACE
        );
        Probe { webhook, answer: self.send(http::Method::POST, &uri, Some(&object)).await }
    }

    /// Asks for what belongs to Canaries.
    async fn applications(&self, facts: &mut Facts) {
        let mut flaggers = BTreeMap::new();
        for selector in FLAGGER_LABELS {
            match self.list("/apis/apps/v1/deployments", selector).await {
                Ok(found) => flaggers.extend(found.into_iter().map(|d| (key(&d), d))),
                Err(refusal) => facts.flaggers = Err(refusal),
            }
        }
        if let Ok(all) = &mut facts.flaggers {
            all.extend(flaggers.into_values());
        }
        let needs = Needs::of(facts.canaries.as_deref().unwrap_or_default(), &facts.config());
        facts.served = all(needs.kinds.into_iter().collect(), async |kind| {
            let answer = served(&self.client, kind).await;
            (kind, answer.map_err(|e| Refusal { code: 0, message: chain(&e) }))
        })
        .await
        .into_iter()
        .collect();
        facts.deployments = all(needs.deployments.into_iter().collect(), async |(namespace, name): Key| {
            let uri = format!("/apis/apps/v1/namespaces/{namespace}/deployments/{name}");
            ((namespace, name), self.read(&uri).await)
        })
        .await
        .into_iter()
        .collect();
        facts.autoscalers = all(needs.namespaces.into_iter().collect(), async |namespace: String| {
            let uri = format!("/apis/autoscaling/v2/namespaces/{namespace}/horizontalpodautoscalers");
            let found = self.list(&uri, "").await;
            (namespace, found)
        })
        .await
        .into_iter()
        .collect();
        facts.secrets = self.secrets().await;
        facts.metrics_servers =
            all(metrics_servers::asked(facts).into_iter().collect(), async |(address, users)| {
                let reply = self.metrics_server(&address).await;
                MetricsServer { address, users, reply }
            })
            .await;
        facts.adoptions = self.adoptions(facts).await;
    }

    /// Looks at what is not adopted yet: Canaries of which nothing is done, and what policies select that only look.
    async fn adoptions(&self, facts: &Facts) -> Vec<Adoption> {
        let mut looks = Looks::new(self.client.clone(), facts.config());
        let canaries =
            facts.canaries.as_deref().unwrap_or_default().iter().filter(|canary| !is_adopted(canary));
        let mut wanted: Vec<(Option<String>, Value)> =
            canaries.map(|canary| (None, canary.clone())).collect();
        // Who cannot list policies is told so elsewhere.
        for policy in looks.audits().await.unwrap_or_default() {
            let selected = looks.of_policy(&policy).await.unwrap_or_default();
            wanted.extend(selected.canaries.into_iter().map(|canary| (Some(policy.clone()), canary)));
        }
        let mut found = Vec::new();
        for (policy, canary) in wanted {
            let preview = looks.at(&canary).await.map_err(|e| Refusal { code: 0, message: format!("{e:#}") });
            let (namespace, name) = key(&canary);
            found.push(Adoption { policy, canary: format!("{namespace}/{name}"), preview });
        }
        found
    }

    /// Asks a metrics server, where that is a Service of the cluster.
    async fn metrics_server(&self, address: &str) -> Reply {
        let Ok(url) = Url::parse(address) else { return Reply::Strange("this is no URL".to_owned()) };
        let Some((namespace, name, port)) = metrics_servers::service(&url) else { return Reply::Elsewhere };
        let service = format!("/api/v1/namespaces/{namespace}/services");
        match self.read(&format!("{service}/{name}")).await {
            Ok(None) => return Reply::Missing(format!("{namespace}/{name}")),
            Err(refusal) => return metrics_servers::reply(Err(refusal)),
            Ok(Some(_)) => {}
        }
        let (scheme, path) = (url.scheme(), url.path().trim_end_matches('/'));
        let proxied = format!("{service}/{scheme}:{name}:{port}/proxy{path}/{}", metrics_servers::QUERY);
        metrics_servers::reply(self.get(&proxied).await)
    }

    async fn secrets(&self) -> Vec<SecretUse> {
        let mut users = Vec::new();
        for (kind, pointer) in [
            (Kind::MetricTemplate, "/spec/provider/secretRef/name"),
            (Kind::AlertProvider, "/spec/secretRef/name"),
        ] {
            let uri = format!("/apis/{}/{}", kind.api_version(), kind.names().3);
            // Who cannot list these cannot list Canaries either, which is said there.
            for object in self.list(&uri, "").await.unwrap_or_default() {
                let secret = text(&object, pointer).to_owned();
                if !secret.is_empty() {
                    let (namespace, name) = key(&object);
                    users.push((format!("{} {namespace}/{name}", kind.as_str()), namespace, secret));
                }
            }
        }
        all(users, async |(user, namespace, secret)| {
            let allowed = self.allowed(&namespace, "", "secrets", "get", Some(&secret)).await;
            SecretUse { user, namespace, secret, allowed }
        })
        .await
    }
}

/// What Canaries refer to.
#[derive(Default)]
struct Needs {
    kinds: BTreeSet<Kind>,
    deployments: BTreeSet<Key>,
    namespaces: BTreeSet<String>,
}

impl Needs {
    fn of(canaries: &[Value], config: &Config) -> Self {
        let mut needs = Self::default();
        for canary in canaries.iter().filter_map(|c| serde_json::from_value::<Canary>(c.clone()).ok()) {
            for ObjectRef { kind, namespace, name } in Subject::references(&canary, config) {
                match kind {
                    Kind::Deployment => {
                        needs.namespaces.insert(namespace.clone());
                        needs.deployments.insert((namespace, name));
                    }
                    Kind::Route(_) => {
                        needs.kinds.insert(kind);
                    }
                    _ => {}
                }
            }
        }
        needs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_object_of_an_installation_has_its_path() {
        let paths: Vec<String> = installation(IMAGE)
            .unwrap()
            .iter()
            .flat_map(|(_, objects)| objects)
            .map(path::of_manifest)
            .collect();
        for expected in [
            "/api/v1/namespaces/sidetrack-system",
            "/api/v1/namespaces/sidetrack-system/services/sidetrack",
            "/apis/apps/v1/namespaces/sidetrack-system/deployments/sidetrack",
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/canaries.flagger.app",
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/sidetrack",
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/sidetrack",
        ] {
            assert!(paths.iter().any(|path| path == expected), "{expected}: {paths:#?}");
        }
    }
}
