//! What was found out about a cluster, as plain data.

use crate::install::rights::Right;
use crate::install::{settings, workload};
use crate::object::{Key, Kind, ObjectRef, Objects, key, text};
use crate::rollout::preview::Preview;
use crate::rollout::subject::Config;
use jiff::Timestamp;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the API server answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// HTTP status code; 0 when there was no answer.
    pub code: u16,
    /// Its words.
    pub message: String,
}

/// An answer, or why there is none.
pub type Answer<T> = Result<T, Refusal>;

/// One object of an installation.
#[derive(Clone, Debug)]
pub struct Installed {
    /// As this binary would install it.
    pub wanted: Value,
    /// As it is; `None` when it is not there.
    pub live: Answer<Option<Value>>,
}

/// One verb of one right of the controller.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The right.
    pub right: Right,
    /// The verb.
    pub verb: &'static str,
    /// Whether the controller's ServiceAccount has it.
    pub allowed: Answer<bool>,
}

/// A write that changes nothing (`dryRun=All`) and that the API server has to show to a webhook: the creation of an
/// object with our label, or of a Canary with a request, which the webhook takes off.
#[derive(Clone, Debug)]
pub struct Probe {
    /// The webhook, by its name in the configuration.
    pub webhook: &'static str,
    /// The object as it would have been stored.
    pub answer: Answer<Value>,
}

/// A Secret that some object names.
#[derive(Clone, Debug)]
pub struct SecretUse {
    /// `MetricTemplate namespace/name`.
    pub user: String,
    /// Namespace of both.
    pub namespace: String,
    /// The Secret.
    pub secret: String,
    /// Whether the controller's ServiceAccount may read it.
    pub allowed: Answer<bool>,
}

/// Everything that the findings are made of.
#[derive(Clone, Debug)]
pub struct Facts {
    /// When it was gathered.
    pub now: Timestamp,
    /// The answer to `/version`.
    pub version: Value,
    /// Who asks.
    pub user: Answer<String>,
    /// The objects of an installation.
    pub installed: Vec<Installed>,
    /// The rights of the controller.
    pub rights: Vec<Asked>,
    /// The Lease by which replicas elect the one that writes.
    pub lease: Answer<Option<Value>>,
    /// What became of the dry-run writes.
    pub probes: Vec<Probe>,
    /// Every Canary.
    pub canaries: Answer<Vec<Value>>,
    /// Whether the cluster serves the kinds that Canaries route with.
    pub served: BTreeMap<Kind, Answer<bool>>,
    /// The targets of Canaries and their primaries.
    pub deployments: BTreeMap<Key, Answer<Option<Value>>>,
    /// The autoscalers of the namespaces that have Canaries.
    pub autoscalers: BTreeMap<String, Answer<Vec<Value>>>,
    /// Deployments that look like Flagger's.
    pub flaggers: Answer<Vec<Value>>,
    /// Secrets that are named.
    pub secrets: Vec<SecretUse>,
    /// Every MetricTemplate.
    pub templates: Answer<Vec<Value>>,
    /// The metrics servers that Canaries ask.
    pub metrics_servers: Vec<MetricsServer>,
    /// What is not adopted yet, and what adopting it would do.
    pub adoptions: Vec<Adoption>,
}

/// A metrics server that Canaries ask.
#[derive(Clone, Debug)]
pub struct MetricsServer {
    /// Its address, as they have it.
    pub address: String,
    /// `namespace/name` of those Canaries.
    pub users: Vec<String>,
    /// What became of a query.
    pub reply: Reply,
}

/// What a metrics server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The query.
    Answers,
    /// It is no Service of the cluster, and is not asked from here.
    Elsewhere,
    /// The address names this Service, `namespace/name`, which does not exist.
    Missing(String),
    /// Something else.
    Strange(String),
    /// Who looks may not ask it.
    Unknown(String),
}

/// What adopting an application would do.
#[derive(Clone, Debug)]
pub struct Adoption {
    /// Name of the policy in mode Audit that selects it; none where it has a Canary of its own.
    pub policy: Option<String>,
    /// `namespace/name` of the Canary.
    pub canary: String,
    /// The answer.
    pub preview: Answer<Preview>,
}

impl Facts {
    /// Leaves out the Canaries of other namespaces.
    pub fn keep_namespace(&mut self, namespace: &str) {
        if let Ok(canaries) = &mut self.canaries {
            canaries.retain(|canary| key(canary).0 == namespace);
        }
        let within = format!("{namespace}/");
        self.adoptions.retain(|adoption| adoption.canary.starts_with(&within));
        self.secrets.retain(|secret| secret.namespace == namespace);
        for server in &mut self.metrics_servers {
            server.users.retain(|user| user.starts_with(&within));
        }
        self.metrics_servers.retain(|server| !server.users.is_empty());
    }

    /// Returns the MetricTemplates as Canaries refer to them; none where they could not be listed.
    #[must_use]
    pub fn templates(&self) -> Objects {
        let of = |template: &Value| {
            let (namespace, name) = key(template);
            (ObjectRef::new(Kind::MetricTemplate, namespace, name), Arc::new(template.clone()))
        };
        self.templates.iter().flatten().map(of).collect()
    }

    /// Returns an object of the installation by kind and name.
    #[must_use]
    pub fn installed(&self, kind: &str, name: &str) -> Option<&Installed> {
        self.installed
            .iter()
            .find(|i| text(&i.wanted, "/kind") == kind && text(&i.wanted, "/metadata/name") == name)
    }

    /// Returns the settings by which the installed controller judges Canaries; defaults where it is not installed.
    #[must_use]
    pub fn config(&self) -> Config {
        self.live("Deployment", workload::NAME).map_or_else(Config::default, settings::of)
    }

    /// Returns an object of the installation as it is, where it is known.
    #[must_use]
    pub fn live(&self, kind: &str, name: &str) -> Option<&Value> {
        self.installed(kind, name)?.live.as_ref().ok()?.as_ref()
    }
}
