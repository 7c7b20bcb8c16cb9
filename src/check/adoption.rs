//! Looks at a cluster for what adopting applications would do ([`preview`]); nothing is changed.

use crate::api::canary_policy::{CanaryPolicy, Mode};
use crate::api::{Canary, keys};
use crate::clock;
use crate::kubernetes::election::Leadership;
use crate::kubernetes::path::resource;
use crate::kubernetes::survey::neighbours;
use crate::kubernetes::writer::Writer;
use crate::object::text;
use crate::object::{Kind, ObjectRef, Objects, Write};
use crate::policy::plan::plan;
use crate::policy::roster::Roster;
use crate::rollout::model::neighbours::Neighbours;
use crate::rollout::preview::{Preview, preview};
use crate::rollout::subject::{Config, Subject};
use anyhow::{Context as _, anyhow, bail};
use futures::future::join_all;
use kube::Client;
use kube::api::{Api, DynamicObject, ListParams};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Looks at applications, at each namespace once.
pub struct Looks {
    client: Client,
    config: Config,
    around: BTreeMap<String, Arc<Neighbours>>,
}

impl std::fmt::Debug for Looks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Looks").finish_non_exhaustive()
    }
}

/// What a policy selects.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selected {
    /// The Canaries that it has made or would make.
    pub canaries: Vec<Value>,
    /// Whom it selects and does not release, a line each.
    pub others: Vec<String>,
}

impl Looks {
    /// Begins with the settings of the installed controller.
    #[must_use]
    pub const fn new(client: Client, config: Config) -> Self {
        Self { client, config, around: BTreeMap::new() }
    }

    /// Says what adopting an application would do.
    ///
    /// # Errors
    ///
    /// When something of it cannot be read.
    pub async fn at(&mut self, canary: &Value) -> anyhow::Result<Preview> {
        let typed: Canary = serde_json::from_value(canary.clone()).context("the Canary cannot be read")?;
        let namespace = text(canary, "/metadata/namespace");
        let around = match self.around.get(namespace) {
            Some(around) => around.clone(),
            None => {
                let found = neighbours(&self.client, namespace).await;
                let found = found.with_context(|| format!("namespace {namespace} cannot be looked at"))?;
                self.around.entry(namespace.to_owned()).or_insert(Arc::new(found)).clone()
            }
        };
        let writer = Writer::new(self.client.clone(), Leadership::unchallenged());
        let references = Subject::references(&typed, &self.config);
        let mut objects = Objects::new();
        let read = join_all(references.iter().map(|at| writer.read(at))).await;
        for (reference, read) in references.iter().zip(read) {
            if let Some(object) = read.with_context(|| format!("{reference} cannot be read"))? {
                objects.insert(reference.clone(), Arc::new(object));
            }
        }
        preview(canary.clone(), objects, around, &self.config, clock::now())
            .context("the Canary cannot be read")
    }

    /// Says what a policy selects, as if it had `mode: enforce`.
    ///
    /// # Errors
    ///
    /// When there is no such policy, it could not be acted on, or something cannot be read.
    pub async fn of_policy(&self, name: &str) -> anyhow::Result<Selected> {
        let mut roster = Roster::default();
        roster.default_provider.clone_from(&self.config.mesh_provider);
        let by_it = |canary: &Value| {
            canary
                .pointer("/metadata/labels")
                .is_some_and(|labels| labels.get(keys::POLICY).is_some_and(|by| by == name))
        };
        let mut selected = Selected::default();
        for kind in [Kind::CanaryPolicy, Kind::Namespace, Kind::Deployment, Kind::Service, Kind::Canary] {
            for mut object in list(&self.client, kind).await? {
                if kind == Kind::CanaryPolicy && text(&object, "/metadata/name") == name {
                    let acts = json!({"metadata": {"finalizers": [keys::POLICY_FINALIZER]}, "spec": {"mode": Mode::Enforce}});
                    json_patch::merge(&mut object, &acts);
                }
                if kind == Kind::Canary && by_it(&object) {
                    selected.canaries.push(object.clone());
                }
                roster.see(kind, &object);
            }
        }
        let Some(policy) = roster.policies.get(name) else {
            return Err(missing(name, roster.policies.keys()));
        };
        if !policy.problems.is_empty() {
            bail!("CanaryPolicy {name} cannot be acted on: {}", policy.problems.join("; "));
        }
        roster.refresh();
        if roster.selections().get(name).is_some_and(|selection| selection.too_many) {
            bail!("CanaryPolicy {name} selects more Deployments than spec.maxTargets allows");
        }
        for write in plan(&roster, clock::now()).writes {
            match write {
                Write::Create { object, .. } if by_it(&object) => selected.canaries.push(object),
                Write::ReplaceStatus { object } if text(&object, "/metadata/name") == name => {
                    let others = object.pointer("/status/others").and_then(Value::as_array);
                    selected.others.extend(others.into_iter().flatten().map(|other| {
                        format!(
                            "{}: not by this policy, {}",
                            text(other, "/deployment"),
                            text(other, "/reason")
                        )
                    }));
                }
                _ => {}
            }
        }
        Ok(selected)
    }

    /// Reads a policy.
    ///
    /// # Errors
    ///
    /// When there is none of that name (the others are named), or they cannot be listed.
    pub async fn policy(&self, name: &str) -> anyhow::Result<CanaryPolicy> {
        let mut policies = self.policies().await?;
        match policies.iter().position(|policy| policy.metadata.name.as_deref() == Some(name)) {
            Some(at) => Ok(policies.swap_remove(at)),
            None => Err(missing(name, policies.iter().filter_map(|policy| policy.metadata.name.as_ref()))),
        }
    }

    /// Names the policies that only look.
    ///
    /// # Errors
    ///
    /// When they cannot be listed.
    pub async fn audits(&self) -> anyhow::Result<Vec<String>> {
        let policies = self.policies().await?.into_iter();
        let audits = policies.filter(|policy| policy.spec.mode == Mode::Audit);
        Ok(audits.filter_map(|policy| policy.metadata.name).collect())
    }

    async fn policies(&self) -> anyhow::Result<Vec<CanaryPolicy>> {
        let policies = list(&self.client, Kind::CanaryPolicy).await?;
        Ok(policies.into_iter().filter_map(|policy| serde_json::from_value(policy).ok()).collect())
    }
}

fn missing<'a>(name: &str, others: impl Iterator<Item = &'a String>) -> anyhow::Error {
    let others: Vec<&str> = others.map(String::as_str).collect();
    let there =
        if others.is_empty() { "there are none".into() } else { format!("there are {}", others.join(", ")) };
    anyhow!("there is no CanaryPolicy {name:?}; {there}")
}

/// Whether a Canary has taken its target over already.
#[must_use]
pub fn is_adopted(canary: &Value) -> bool {
    !matches!(text(canary, "/status/phase"), "" | "Initializing")
}

/// What would be done to an application, a line an object.
#[must_use]
pub fn changes(seen: &Preview) -> Vec<String> {
    let line = |(at, change): &(ObjectRef, _)| format!("{} {} {change}", at.kind.as_str(), at.name);
    let waits = seen.waits_for.iter().map(|why| format!("It would wait: {why}"));
    seen.changes.iter().map(line).chain(waits).collect()
}

async fn list(client: &Client, kind: Kind) -> anyhow::Result<Vec<Value>> {
    let (_, _, name, plural) = kind.names();
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource(kind));
    let mut params = ListParams::default().limit(500);
    let mut found = Vec::new();
    loop {
        let page = match api.list(&params).await {
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(found),
            Err(kube::Error::Api(status)) => bail!("{plural} cannot be listed: {}", status.message),
            page => page.with_context(|| format!("{plural} cannot be listed"))?,
        };
        for object in &page.items {
            let mut object = serde_json::to_value(object)?;
            json_patch::merge(&mut object, &json!({"apiVersion": kind.api_version(), "kind": name}));
            found.push(object);
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(found),
        }
    }
}
