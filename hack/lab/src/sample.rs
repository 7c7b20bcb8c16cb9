//! The sample application's manifests, as a team would have them in Git.

use std::time::Duration;

use serde_json::{Value, json};

use crate::app::PORT;
use crate::{gateway, istio};

/// How far back the Canary's queries look.
pub const WINDOW: Duration = Duration::from_secs(10);

/// Time between two steps of a release that is judged.
pub const INTERVAL: Duration = Duration::from_secs(5);

/// Through what requests reach the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Traffic {
    /// Envoy, told by an Istio VirtualService.
    Istio,
    /// Traefik, told by an HTTPRoute.
    Gateway,
    /// Traefik, told by a TraefikService to which an IngressRoute leads.
    Traefik,
}

impl Traffic {
    /// Returns where its gateway listens.
    #[must_use]
    pub const fn address(self) -> &'static str {
        match self {
            Self::Istio => istio::ADDRESS,
            Self::Gateway | Self::Traefik => gateway::ADDRESS,
        }
    }
}

/// One application: Deployment, Canary, and where the owner has one its Service, all called `app`, in a namespace of their own.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The namespace.
    pub namespace: String,
    /// Through what requests reach it.
    pub traffic: Traffic,
    /// Number of pods.
    pub replicas: Option<u32>,
    /// Whether requests judge a release. Without it each step passes after two seconds, with no load.
    pub judged: bool,
    /// Seconds that a pod goes on answering once it is to end: gateways hear of it later than the pod does.
    pub linger: u32,
    /// Seconds that a canary has to become ready.
    pub progress_deadline: u32,
    /// More variables for the container, such as `FAIL_PERCENT`; see [`crate::app::App`].
    pub env: Vec<(String, String)>,
}

impl Sample {
    /// Returns an application of two pods.
    #[must_use]
    pub fn new(namespace: &str, traffic: Traffic) -> Self {
        Self {
            namespace: namespace.to_owned(),
            traffic,
            replicas: Some(2),
            judged: true,
            linger: 1,
            progress_deadline: 60,
            env: Vec::new(),
        }
    }

    /// Adds a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.env.push((name.to_owned(), value.to_string()));
        self
    }

    /// Returns the host that requests are for.
    #[must_use]
    pub fn host(&self) -> String {
        format!("app.{}.lab", self.namespace)
    }

    /// Returns the namespace's manifest.
    #[must_use]
    pub fn namespace(&self) -> Value {
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": self.namespace } })
    }

    /// Returns the Deployment with image `app:VERSION`.
    #[must_use]
    pub fn deployment(&self, version: &str) -> Value {
        let env: Vec<Value> =
            self.env.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
        let mut deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "name": "app", "namespace": self.namespace },
            "spec": {
                "selector": { "matchLabels": { "app": "app" } },
                "template": {
                    "metadata": { "labels": { "app": "app" } },
                    "spec": { "containers": [{
                        "name": "app", "image": format!("app:{version}"), "env": env,
                        "ports": [{ "name": "http", "containerPort": PORT }],
                        "readinessProbe": { "httpGet": { "path": "/readyz", "port": "http" }, "periodSeconds": 1 },
                        "lifecycle": { "preStop": { "sleep": { "seconds": self.linger } } },
                    }] },
                },
            },
        });
        if let (Some(replicas), Some(spec)) =
            (self.replicas, deployment.get_mut("spec").and_then(Value::as_object_mut))
        {
            spec.insert("replicas".to_owned(), json!(replicas));
        }
        deployment
    }

    /// Returns the Service that selects the Deployment's pods.
    #[must_use]
    pub fn service(&self) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "app", "namespace": self.namespace },
            "spec": { "selector": { "app": "app" }, "ports": [{ "name": "http", "port": 80, "targetPort": "http" }] },
        })
    }

    /// Returns all that a team has in Git: Namespace, Deployment, Canary, and what leads requests to them.
    #[must_use]
    pub fn objects(&self, version: &str) -> Vec<Value> {
        [self.namespace(), self.deployment(version), self.canary()]
            .into_iter()
            .chain(self.ingress())
            .collect()
    }

    /// Returns what leads requests to the application where Sidetrack does not make it: an IngressRoute of Traefik's.
    #[must_use]
    fn ingress(&self) -> Option<Value> {
        (self.traffic == Traffic::Traefik).then(|| {
            json!({
                "apiVersion": "traefik.io/v1alpha1", "kind": "IngressRoute",
                "metadata": { "name": "app", "namespace": self.namespace },
                "spec": { "entryPoints": ["web"], "routes": [{
                    "kind": "Rule", "match": format!("Host(`{}`)", self.host()),
                    "services": [{ "kind": "TraefikService", "name": "app", "port": 80 }],
                }] },
            })
        })
    }

    /// Returns the Canary: steps of 20 to 60, judged by the real success rate and duration of requests.
    #[must_use]
    pub fn canary(&self) -> Value {
        let window = format!("{}s", WINDOW.as_secs());
        let mut service = json!({ "port": 80, "targetPort": PORT, "hosts": [self.host()] });
        let built_in = json!([
            { "name": "request-success-rate", "interval": window, "thresholdRange": { "min": 99 } },
            { "name": "request-duration", "interval": window, "thresholdRange": { "max": 500 } },
        ]);
        let (provider, metrics, more) = match self.traffic {
            Traffic::Traefik => ("traefik", built_in, json!({})),
            Traffic::Istio => (
                "istio",
                built_in,
                // Without retries, so that each failure is seen.
                json!({ "gateways": [istio::GATEWAY], "retries": { "attempts": 0 } }),
            ),
            Traffic::Gateway => (
                "gatewayapi:v1",
                json!([
                    { "name": "success-rate", "interval": window, "thresholdRange": { "min": 99 },
                      "templateRef": { "name": "success-rate", "namespace": gateway::NAMESPACE } },
                    { "name": "duration", "interval": window, "thresholdRange": { "max": 500 },
                      "templateRef": { "name": "duration", "namespace": gateway::NAMESPACE } },
                ]),
                json!({ "gatewayRefs": [{ "name": gateway::NAME, "namespace": gateway::NAMESPACE }] }),
            ),
        };
        if let (Some(service), Value::Object(more)) = (service.as_object_mut(), more) {
            service.extend(more);
        }
        json!({
            "apiVersion": "flagger.app/v1beta1", "kind": "Canary",
            "metadata": { "name": "app", "namespace": self.namespace },
            "spec": {
                "provider": provider,
                "targetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "app" },
                "progressDeadlineSeconds": self.progress_deadline,
                "service": service,
                "analysis": {
                    "interval": if self.judged { format!("{}s", INTERVAL.as_secs()) } else { "2s".to_owned() },
                    "threshold": 2,
                    "stepWeight": 20, "maxWeight": 60, "metrics": if self.judged { metrics } else { json!([]) },
                },
            },
        })
    }
}
