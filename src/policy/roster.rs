//! The facts about the cluster that policies need: who there is, what it is labelled with, and which releases run.
//!
//! The cache feeds it with every object that its watches see. Status writes of Deployments, which are nearly all of them,
//! change none of these facts and cost a comparison.

use super::freeze;
use super::generate::{Port, digest};
use super::selection::{self, Labels, PROTECTED};
use super::turns::{self, Room, Waiting};
use super::wave::{self, Peers};
use crate::api::canary_policy::{CanaryPolicy, Mode};
use crate::api::revision::Revision;
use crate::api::status::Stage;
use crate::api::{Canary, keys};
use crate::object::{Kind, ObjectRef};
use crate::rollout::model::gates::{Guard, Turn};
use jiff::Timestamp;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Namespace and name.
pub type Key = (String, String);

/// Why a Deployment without a port cannot be released.
pub(super) const NO_PORT: &str =
    "no port is known: give its containers a port, or the policy spec.canary.service.port";

/// A Deployment that a policy may select.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidate {
    /// Its labels.
    pub labels: Labels,
    /// The first port of its containers.
    pub port: Option<Value>,
    /// It was made by us.
    pub generated: bool,
    /// The policy by which the webhook has enrolled it, as long as no Canary has taken it up.
    pub enrolled_by: Option<String>,
    /// Its deletion has begun.
    pub terminating: bool,
}

/// A Canary, as far as policies look at it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Name of its target.
    pub target: String,
    /// The policy that made it.
    pub policy: Option<String>,
    /// Digest of the spec that the policy wrote.
    pub digest: Option<String>,
    /// Somebody else has written to its spec.
    pub taken_over: bool,
    /// Its deletion has begun.
    pub terminating: bool,
    /// Its `metadata.uid`.
    pub uid: String,
    /// Stage of its run.
    pub stage: Option<Stage>,
    /// Since when it stands in line.
    pub queued: Option<Timestamp>,
    /// It could not go although it were its turn: paused, suspended or leaving.
    pub stays: bool,
    /// Why it touches nothing, where it does not.
    pub refused: Option<String>,
    /// It has promoted a revision, which is to run when its target is made again.
    pub promoted: bool,
    /// Since when its target is known to be missing.
    pub missing: Option<Timestamp>,
}

/// A policy with what was found wrong in it.
#[derive(Clone, Debug)]
pub struct Held {
    /// The policy.
    pub policy: CanaryPolicy,
    /// As it is stored.
    pub object: Value,
    /// What is wrong with it.
    pub problems: Vec<String>,
}

impl Held {
    /// Whether what it selects is to be released by it: it is not leaving, and no audit.
    #[must_use]
    pub fn enforces(&self) -> bool {
        self.policy.metadata.deletion_timestamp.is_none() && self.policy.spec.mode == Mode::Enforce
    }

    /// Whether our finalizer is on it: before that nothing is done for it that would have to be undone.
    #[must_use]
    pub fn guarded(&self) -> bool {
        let finalizers = self.policy.metadata.finalizers.as_deref().unwrap_or_default();
        finalizers.iter().any(|finalizer| finalizer == keys::POLICY_FINALIZER)
    }

    /// Digest of what it selects by.
    #[must_use]
    pub fn selectors(&self) -> String {
        digest(&(&self.policy.spec.namespace_selector, &self.policy.spec.selector))
    }

    /// Whether it is to be acted on.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.problems.is_empty() && self.policy.metadata.deletion_timestamp.is_none()
    }
}

/// What a policy selects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// The Deployments.
    pub targets: BTreeSet<Key>,
    /// There are more of them than the policy allows, and it has not acted on such a selection yet: it does nothing.
    pub too_many: bool,
    /// There are more of them than the policy allows, and it acts on them: none is adopted any more that is there already. Anybody
    /// may make Deployments; that ends no guard.
    pub full: bool,
}

/// The facts.
#[derive(Debug, Default)]
pub struct Roster {
    /// Provider of a Canary that names none, by which policies are reviewed.
    pub default_provider: String,
    /// Releases that may run at once in the whole cluster.
    pub max_releases: Option<usize>,
    /// Policies by name.
    pub policies: BTreeMap<String, Held>,
    /// Labels of namespaces.
    pub namespaces: BTreeMap<String, Labels>,
    /// Deployments.
    pub deployments: BTreeMap<Key, Candidate>,
    /// Canaries.
    pub canaries: BTreeMap<Key, Facts>,
    /// The first port of Services.
    pub services: BTreeMap<Key, Port>,
    /// Other clusters, as far as a policy's wave names them.
    pub peers: Peers,
    /// The MutatingWebhookConfiguration of the installation, as it is; policies are called the same way.
    index: Option<Index>,
    /// Counts the changes that [`super::plan`] depends on.
    pub changes: u64,
}

/// Who selects and governs what; built when it is asked for.
#[derive(Clone, Debug, Default)]
struct Index {
    selections: BTreeMap<String, Selection>,
    governed: BTreeMap<Key, String>,
}

impl Roster {
    /// Takes in an object that exists. Returns the Canaries whose turn may have come.
    pub fn see(&mut self, kind: Kind, object: &Value) -> Vec<Key> {
        let Some(at) = ObjectRef::of(object) else { return Vec::new() };
        let key = (at.namespace, at.name);
        match kind {
            Kind::CanaryPolicy => self.see_policy(key.1, object),
            Kind::Namespace => {
                let labels = labels(object);
                self.note(|roster| put(&mut roster.namespaces, key.1, labels));
            }
            Kind::Deployment => {
                let candidate = candidate(object);
                self.note(|roster| put(&mut roster.deployments, key, candidate));
            }
            Kind::Service => {
                let port = service_port(object);
                if self.services.get(&key) != Some(&port) {
                    self.services.insert(key, port);
                    self.changes += 1;
                }
            }
            Kind::Canary => return self.see_canary(key, object),
            _ => {}
        }
        Vec::new()
    }

    /// Takes in that an object is gone.
    pub fn lose(&mut self, at: &ObjectRef) -> Vec<Key> {
        let key = (at.namespace.clone(), at.name.clone());
        match at.kind {
            Kind::CanaryPolicy => self.note(|roster| roster.policies.remove(&key.1).is_some()),
            Kind::Namespace => self.note(|roster| roster.namespaces.remove(&key.1).is_some()),
            Kind::Deployment => self.note(|roster| roster.deployments.remove(&key).is_some()),
            Kind::Canary if self.canaries.remove(&key).is_some() => {
                self.index = None;
                self.changes += 1;
                return self.granted();
            }
            Kind::Service if self.services.remove(&key).is_some() => self.changes += 1,
            _ => {}
        }
        Vec::new()
    }

    /// Names what is known of a kind, so that what a complete list lacks can be lost.
    #[must_use]
    pub fn known(&self, kind: Kind) -> Vec<ObjectRef> {
        let cluster =
            |names: Vec<&String>| names.into_iter().map(|name| ObjectRef::new(kind, "", name)).collect();
        let namespaced = |keys: Vec<&Key>| {
            keys.into_iter().map(|(namespace, name)| ObjectRef::new(kind, namespace, name)).collect()
        };
        match kind {
            Kind::CanaryPolicy => cluster(self.policies.keys().collect()),
            Kind::Namespace => cluster(self.namespaces.keys().collect()),
            Kind::Deployment => namespaced(self.deployments.keys().collect()),
            Kind::Service => namespaced(self.services.keys().collect()),
            Kind::Canary => namespaced(self.canaries.keys().collect()),
            _ => Vec::new(),
        }
    }

    fn note(&mut self, change: impl FnOnce(&mut Self) -> bool) {
        if change(self) {
            self.index = None;
            self.changes += 1;
        }
    }

    fn see_policy(&mut self, name: String, object: &Value) {
        let held = match serde_json::from_value::<CanaryPolicy>(object.clone()) {
            Ok(policy) => {
                let problems = super::review::review(&name, &policy.spec, &self.default_provider);
                Held { policy, object: object.clone(), problems }
            }
            Err(error) => {
                let mut policy = CanaryPolicy::default();
                policy.metadata.name = Some(name.clone());
                Held { policy, object: object.clone(), problems: vec![format!("it cannot be read: {error}")] }
            }
        };
        self.policies.insert(name, held);
        self.index = None;
        self.changes += 1;
    }

    fn see_canary(&mut self, key: Key, object: &Value) -> Vec<Key> {
        let Ok(canary) = serde_json::from_value::<Canary>(object.clone()) else { return Vec::new() };
        let facts = facts(&canary, object);
        let before = self.canaries.get(&key);
        if before == Some(&facts) {
            return Vec::new();
        }
        let place = |facts: &Facts| (facts.stage, facts.queued, facts.stays, facts.terminating);
        let (line, room) = (before.map(place), Some(place(&facts)));
        if before.map(|b| &b.policy) != Some(&facts.policy) {
            self.index = None;
        }
        self.canaries.insert(key, facts);
        self.changes += 1;
        if line == room { Vec::new() } else { self.granted() }
    }

    fn index(&self) -> Index {
        self.index.clone().unwrap_or_else(|| self.build())
    }

    /// Builds the index, if something has changed.
    pub fn refresh(&mut self) {
        if self.index.is_none() {
            self.index = Some(self.build());
        }
    }

    fn build(&self) -> Index {
        let mut selections = BTreeMap::new();
        for (name, held) in &self.policies {
            let spec = &held.policy.spec;
            let selected = |key: &Key, candidate: &Candidate| {
                !candidate.generated
                    && !PROTECTED.contains(&key.0.as_str())
                    && self
                        .namespaces
                        .get(&key.0)
                        .is_some_and(|l| selection::matches(&spec.namespace_selector, l))
                    && selection::matches(&spec.selector, &candidate.labels)
            };
            let targets: BTreeSet<Key> =
                self.deployments.iter().filter(|(k, c)| selected(k, c)).map(|(k, _)| k.clone()).collect();
            let over = targets.len() > spec.max_targets();
            let acts = held.policy.status.as_ref().is_some_and(|s| s.enforced == held.selectors());
            selections
                .insert(name.clone(), Selection { targets, too_many: over && !acts, full: over && acts });
        }
        let mut governed = BTreeMap::new();
        for name in self.ranked() {
            let Some(held) = self.policies.get(&name).filter(|held| held.enforces()) else { continue };
            let Some(selection) = selections.get(&name) else { continue };
            // A policy that went wrong enrols nobody any more; what it has enrolled stays under its guard.
            let whole = held.counts() && !selection.too_many;
            let enrolled = |key: &&Key| {
                self.canaries.get(*key).is_some_and(|facts| facts.policy.as_ref() == Some(&name))
            };
            for key in selection.targets.iter().filter(|key| whole || enrolled(key)) {
                governed.entry(key.clone()).or_insert_with(|| name.clone());
            }
        }
        Index { selections, governed }
    }

    /// Returns what is known of the port of a Deployment: that of the Service of its name, else that of its containers.
    #[must_use]
    pub fn port(&self, key: &Key) -> Option<Port> {
        let of_service = self.services.get(key).cloned().filter(|port| port.port.is_some());
        let of_pods = || {
            self.deployments.get(key)?.port.clone().map(|target| Port { port: None, target: Some(target) })
        };
        of_service.or_else(of_pods)
    }

    /// Returns, by policy, the Deployments that it governs and cannot release, with the reason: nothing is held on them.
    #[must_use]
    pub fn left_alone(&self) -> BTreeMap<String, BTreeMap<Key, String>> {
        let mut all: BTreeMap<String, BTreeMap<Key, String>> = BTreeMap::new();
        for (key, policy) in self.governed() {
            let Some(held) = self.policies.get(&policy).filter(|held| held.counts()) else { continue };
            let portless = || held.policy.spec.canary.service.port == 0 && self.port(&key).is_none();
            let why = match self.canaries.get(&key) {
                Some(canary) if canary.policy.as_ref() == Some(&policy) => canary.refused.clone(),
                None if portless() => Some(NO_PORT.to_owned()),
                _ => None,
            };
            if let Some(why) = why {
                all.entry(policy).or_default().insert(key, why);
            }
        }
        all
    }

    /// Whether a policy that acts selects a Deployment with these labels, in a namespace with those.
    #[must_use]
    pub fn selects(&self, policy: &str, namespace: &Value, deployment: &Value) -> bool {
        self.policies.get(policy).filter(|held| held.counts() && held.enforces()).is_some_and(|held| {
            let spec = &held.policy.spec;
            selection::matches(&spec.namespace_selector, &labels(namespace))
                && selection::matches(&spec.selector, &labels(deployment))
        })
    }

    /// Whether a policy that acts selects a namespace.
    #[must_use]
    pub fn selects_namespace(&self, policy: &str, namespace: &str) -> bool {
        let held = self.policies.get(policy).filter(|held| held.counts() && held.enforces());
        held.zip(self.namespaces.get(namespace))
            .is_some_and(|(held, labels)| selection::matches(&held.policy.spec.namespace_selector, labels))
    }

    /// Returns the names of all policies, the one that counts first of two before the other.
    #[must_use]
    pub fn ranked(&self) -> Vec<String> {
        let mut names: Vec<(i32, &String)> =
            self.policies.iter().map(|(name, held)| (-held.policy.spec.priority, name)).collect();
        names.sort();
        names.into_iter().map(|(_, name)| name.clone()).collect()
    }

    /// Returns what each policy selects.
    #[must_use]
    pub fn selections(&self) -> BTreeMap<String, Selection> {
        self.index().selections
    }

    /// Returns which policy governs each Deployment that one does.
    #[must_use]
    pub fn governed(&self) -> BTreeMap<Key, String> {
        self.index().governed
    }

    fn governor(&self, key: &Key) -> Option<&String> {
        self.index.as_ref()?.governed.get(key)
    }

    /// Returns those that stand in line, in order, and the room that there is.
    #[must_use]
    pub fn line(&self) -> (Vec<Waiting<Key>>, Room) {
        let mut room = Room { cluster: self.max_releases, ..Room::default() };
        for (name, held) in &self.policies {
            if let Some(limit) = held.policy.spec.max_concurrent_releases() {
                room.policies.insert(name.clone(), limit);
            }
        }
        let mut line = Vec::new();
        for ((namespace, name), facts) in &self.canaries {
            let policy = self.governor(&(namespace.clone(), facts.target.clone())).cloned();
            match facts.stage {
                None | Some(Stage::Closing | Stage::Cancelling) => {}
                Some(Stage::Gated) => {
                    if let Some(since) = facts.queued.filter(|_| !facts.stays && !facts.terminating) {
                        line.push(Waiting { key: (namespace.clone(), name.clone()), since, policy });
                    }
                }
                Some(_) => *room.running.entry(policy).or_default() += 1,
            }
        }
        turns::order(&mut line);
        (line, room)
    }

    fn granted(&mut self) -> Vec<Key> {
        self.refresh();
        let (line, room) = self.line();
        turns::granted(&line, &room).into_iter().cloned().collect()
    }

    /// Returns what the core is told about one Canary: `target` is its target's name, `revision` the one that would be
    /// released.
    pub fn guard(
        &mut self,
        canary: &Key,
        target: &str,
        now: Timestamp,
        revision: impl FnOnce() -> Option<Revision>,
    ) -> Guard {
        self.refresh();
        let governor = self.governor(&(canary.0.clone(), target.to_owned())).cloned();
        let held = governor.as_ref().and_then(|name| self.policies.get(name));
        let mut limits = Vec::new();
        let mut guard = Guard::default();
        if let Some((name, held)) = governor.as_ref().zip(held) {
            let spec = &held.policy.spec;
            if let Some(mut frozen) = freeze::frozen(&spec.freeze, now) {
                frozen.reason = format!("{} (policy {name})", frozen.reason);
                guard.frozen = Some(frozen);
            }
            guard.quarantine = !spec.retry_rejected;
            guard.approval = spec.approval.is_some_and(|a| a.required);
            guard.four_eyes = spec.approval.is_some_and(|a| a.four_eyes);
            if let Some((wave, revision)) = spec.wave.as_ref().and_then(|wave| Some((wave, revision()?))) {
                guard.wave = wave::gate(wave, &self.peers, canary, &revision, now);
            }
            limits.extend(
                spec.max_concurrent_releases().map(|n| format!("policy {name} lets {n} run at once")),
            );
        }
        limits.extend(self.max_releases.map(|n| format!("the cluster lets {n} run at once")));
        if !limits.is_empty() {
            let (line, room) = self.line();
            let granted = turns::granted(&line, &room).contains(&canary);
            let limit = format!("{}; who has waited longest goes first", limits.join(", "));
            guard.turn = Some(Turn { granted, limit });
        }
        guard
    }

    /// Returns the clusters that a policy waits for.
    #[must_use]
    pub fn clusters(&self) -> BTreeSet<String> {
        let acts = |held: &&Held| held.counts() && held.policy.spec.mode == Mode::Enforce;
        let waves = self.policies.values().filter(acts).filter_map(|held| held.policy.spec.wave.as_ref());
        waves.flat_map(|wave| &wave.after).cloned().collect()
    }

    /// Returns which policy, in which version, governs each Deployment.
    #[must_use]
    pub fn versions(&self) -> BTreeMap<Key, (String, Option<i64>)> {
        let version =
            |name: &String| self.policies.get(name).and_then(|held| held.policy.metadata.generation);
        self.governed().into_iter().map(|(key, name)| (key, (name.clone(), version(&name)))).collect()
    }

    /// Returns the Canaries whose revisions come after a cluster.
    #[must_use]
    pub fn after(&self, cluster: &str) -> Vec<Key> {
        let governed = self.governed();
        self.those(|target| {
            let held = governed.get(target).and_then(|name| self.policies.get(name));
            let wave = held.and_then(|held| held.policy.spec.wave.as_ref());
            wave.is_some_and(|wave| wave.after.iter().any(|name| name == cluster))
        })
    }

    /// Returns the Canaries of some targets.
    fn those(&self, target: impl Fn(&Key) -> bool) -> Vec<Key> {
        let of =
            |((namespace, _), facts): &(&Key, &Facts)| target(&(namespace.clone(), facts.target.clone()));
        self.canaries.iter().filter(of).map(|(key, _)| key.clone()).collect()
    }

    /// Returns the Canaries of targets that another policy governs than before, another version of it, or none any more.
    #[must_use]
    pub fn concerned(&self, before: &BTreeMap<Key, (String, Option<i64>)>) -> Vec<Key> {
        let now = self.versions();
        self.those(|target| before.get(target) != now.get(target))
    }
}

fn put<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, V>, key: K, value: V) -> bool {
    if map.get(&key) == Some(&value) {
        return false;
    }
    map.insert(key, value);
    true
}

fn labels(object: &Value) -> Labels {
    let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
    let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
    labels.into_iter().flatten().filter_map(text).collect()
}

fn annotation(object: &Value, key: &str) -> Option<String> {
    Some(object.pointer("/metadata/annotations")?.get(key)?.as_str()?.to_owned())
}

fn candidate(object: &Value) -> Candidate {
    let mut labels = labels(object);
    let generated = labels.get(keys::ROLE).is_some_and(|role| role == keys::ROLE_GENERATED);
    // Ours come and go with enrolment, which is no change of what is selected.
    labels.retain(|key, _| !keys::LABELS.contains(&key.as_str()));
    let containers = object.pointer("/spec/template/spec/containers").and_then(Value::as_array);
    let ports = containers.into_iter().flatten().filter_map(|c| c.get("ports")?.as_array()).flatten();
    Candidate {
        labels,
        port: ports.filter_map(|port| port.get("containerPort")).next().cloned(),
        generated,
        enrolled_by: annotation(object, keys::POLICY),
        terminating: object.pointer("/metadata/deletionTimestamp").is_some(),
    }
}

fn service_port(object: &Value) -> Port {
    let first = object.pointer("/spec/ports/0");
    Port {
        port: first.and_then(|p| p.get("port")?.as_i64()).and_then(|n| i32::try_from(n).ok()),
        target: first.and_then(|p| p.get("targetPort")).cloned(),
    }
}

fn facts(canary: &Canary, object: &Value) -> Facts {
    let status = canary.status.as_ref();
    Facts {
        target: canary.spec.target_ref.name.clone(),
        policy: labels(object).remove(keys::POLICY),
        digest: annotation(object, keys::SPEC_DIGEST),
        taken_over: taken_over(object),
        terminating: canary.metadata.deletion_timestamp.is_some(),
        uid: canary.metadata.uid.clone().unwrap_or_default(),
        stage: status.and_then(|s| Some(s.run.as_ref()?.stage)),
        queued: status.and_then(|s| s.queued),
        refused: status.and_then(crate::rollout::leaves_alone).map(str::to_owned),
        promoted: status.is_some_and(|s| s.revisions.primary.is_some()),
        missing: status.and_then(crate::rollout::misses_target),
        stays: canary.spec.suspend || status.is_some_and(|s| s.run.as_ref().is_some_and(|run| run.paused)),
    }
}

/// Whether a manager other than us owns fields of the spec: a team has made it its own.
fn taken_over(object: &Value) -> bool {
    let entries = object.pointer("/metadata/managedFields").and_then(Value::as_array);
    entries.into_iter().flatten().any(|entry| {
        entry.get("manager").is_none_or(|manager| manager != keys::FIELD_MANAGER)
            && entry.pointer("/fieldsV1/f:spec").is_some()
    })
}
