//! The controller: watches fill the cache, a change marks its Canary, and each marked Canary is decided and acted on.
//!
//! Every replica watches; only the leader acts, and it asks before each write whether it still leads.
pub mod act;
mod ask;
pub mod cache;
pub mod events;
pub mod limits;
pub mod outbound;
pub mod peers;
mod pods;
pub mod policies;
pub mod queue;
pub mod reach;
mod record;
mod survey;
pub mod watch;

use crate::api::Canary;
use crate::kubernetes::election::Leadership;
use crate::object::Kind;
use crate::rollout::subject::{Config, Subject};
use crate::telemetry::log::chain;
use crate::telemetry::metrics::Metrics;
use act::Actor;
use cache::CanaryKey;
use kube::Client;
use queue::Queue;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use watch::{Change, Shared, lock};

/// Canaries that are looked at at once.
const CONCURRENCY: usize = 32;
/// What policies look at.
const POLICY_KINDS: [Kind; 5] =
    [Kind::CanaryPolicy, Kind::Namespace, Kind::Deployment, Kind::Service, Kind::Canary];
/// Changes that may wait to be taken in.
const CHANGES: usize = 1024;
/// Pause before a kind that the cluster does not serve is looked for again.
const UNSERVED_RETRY: Duration = Duration::from_secs(30);

/// What the controller is made of.
#[derive(Clone)]
pub struct Setup {
    /// The API client.
    pub client: Client,
    /// The namespace to which it is restricted; all if `None`.
    pub namespace: Option<String>,
    /// Settings.
    pub config: Arc<Config>,
    /// Where the questions of Canaries may go.
    pub reach: reach::Reach,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Whether this process is the one that writes.
    pub leadership: Leadership,
    /// The controller's user name, whose writes no policy holds.
    pub controller_user: String,
    /// The namespace that it runs in, where the Secrets of other clusters are.
    pub home: String,
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setup").finish_non_exhaustive()
    }
}

/// Why the controller ended.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// A watch ended, which none does by itself.
    #[error("the watch of {0} ended")]
    WatchEnded(&'static str),
    /// The platform's TLS roots cannot be read.
    #[error("no HTTP client can be made")]
    Sender(#[source] reqwest::Error),
    /// A look, or a task beside them, panicked.
    #[error("a task of the controller panicked")]
    Panicked(#[source] tokio::task::JoinError),
}

/// Runs for ever.
///
/// # Errors
///
/// When a part of it ends; the process is to end with it.
pub async fn run(setup: Setup) -> Result<(), ControllerError> {
    let (changes, mut inbox) = mpsc::channel(CHANGES);
    let (events, outbox) = mpsc::channel(CHANGES);
    let cache = Shared::default();
    {
        let roster = &mut lock(&cache).roster;
        roster.default_provider.clone_from(&setup.config.mesh_provider);
        roster.max_releases = setup.config.max_releases;
    }
    let (policies_synced, synced) = tokio::sync::watch::channel(false);
    let (clusters, named) = tokio::sync::watch::channel(BTreeSet::new());
    let changed = Arc::new(Notify::new());
    let mut controller = Controller {
        actor: Actor::new(
            crate::kubernetes::writer::Writer::new(setup.client.clone(), setup.leadership.clone()),
            outbound::Sender::new(setup.metrics.outbound_waiting(), setup.reach.clone())
                .map_err(ControllerError::Sender)?,
            events,
            cache,
            changes,
            setup.config.clone(),
            setup.metrics.clone(),
            setup.leadership.clone(),
        ),
        watched: HashSet::new(),
        synced: HashSet::new(),
        queue: Queue::default(),
        looks: JoinSet::new(),
        unwoken: HashSet::new(),
        tasks: JoinSet::new(),
        policies_synced,
        policies_changed: changed.clone(),
        policy_changes: 0,
        clusters,
        setup,
    };
    controller.tasks.spawn(events::publish(controller.setup.client.clone(), outbox));
    controller.watch(Kind::Canary);
    controller.watch(Kind::ControllerRevision);
    // A controller of one namespace has no say in the whole cluster.
    if controller.setup.namespace.is_none() {
        controller.watch(Kind::CanaryPolicy);
        let policies = policies::Policies {
            writer: controller.actor.writer.clone(),
            client: controller.setup.client.clone(),
            cache: controller.actor.cache.clone(),
            changes: controller.actor.changes.clone(),
            leadership: controller.setup.leadership.clone(),
            controller_user: controller.setup.controller_user.clone(),
            changed,
            synced,
        };
        controller.tasks.spawn(policies.run());
        let peers = peers::Following {
            client: controller.setup.client.clone(),
            home: controller.setup.home.clone(),
            cache: controller.actor.cache.clone(),
            changes: controller.actor.changes.clone(),
        };
        controller.tasks.spawn(peers.run(named));
    }
    let (mut leadership, mut leads) = (controller.setup.leadership.clone(), false);
    loop {
        controller.start_looks();
        let next = controller.queue.next().unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        tokio::select! {
            change = inbox.recv() => match change {
                Some(change) => controller.take_in(change)?,
                None => return Ok(()),
            },
            Some(ended) = controller.looks.join_next(), if !controller.looks.is_empty() => {
                controller.ended(ended.map_err(ControllerError::Panicked)?);
            }
            () = tokio::time::sleep_until(next.into()) => {}
            Some(ended) = controller.tasks.join_next(), if !controller.tasks.is_empty() => {
                ended.map_err(ControllerError::Panicked)?;
            }
            now_leads = leadership.turned(leads) => {
                leads = now_leads;
                if leads {
                    controller.mark_all();
                }
            }
        }
    }
}

struct Controller {
    setup: Setup,
    actor: Actor,
    watched: HashSet<Kind>,
    synced: HashSet<Kind>,
    queue: Queue,
    looks: JoinSet<(CanaryKey, Result<act::Looked, act::ActError>)>,
    /// Releases that only a change would take up again.
    unwoken: HashSet<CanaryKey>,
    tasks: JoinSet<()>,
    /// Whether everything that policies look at has been listed.
    policies_synced: tokio::sync::watch::Sender<bool>,
    policies_changed: Arc<Notify>,
    policy_changes: u64,
    /// The clusters that policies wait for.
    clusters: tokio::sync::watch::Sender<BTreeSet<String>>,
}

impl Controller {
    fn take_in(&mut self, change: Change) -> Result<(), ControllerError> {
        match change {
            Change::Dirty(keys) => keys.into_iter().for_each(|key| self.queue.mark(key)),
            Change::Synced(kind) => {
                self.synced.insert(kind);
                self.mark_all();
            }
            Change::Interrupted(kind) => {
                self.synced.remove(&kind);
            }
            Change::Ended(kind) => return Err(ControllerError::WatchEnded(kind.as_str())),
        }
        self.wake_policies();
        Ok(())
    }

    /// Tells the policies what has changed for them, and has watched what they look at once there is one.
    fn wake_policies(&mut self) {
        let (any, changes) = {
            let roster = &lock(&self.actor.cache).roster;
            (!roster.policies.is_empty(), roster.changes)
        };
        if any {
            POLICY_KINDS.into_iter().for_each(|kind| self.watch(kind));
        }
        // Without a policy there may still be something of one that is gone.
        let needed: &[Kind] = if any { &POLICY_KINDS } else { &[Kind::CanaryPolicy, Kind::Canary] };
        let synced = needed.iter().all(|kind| self.synced.contains(kind));
        self.policies_synced.send_if_modified(|known| std::mem::replace(known, synced) != synced);
        if std::mem::replace(&mut self.policy_changes, changes) != changes {
            let clusters = lock(&self.actor.cache).roster.clusters();
            self.clusters.send_if_modified(|known| {
                let new = *known != clusters;
                *known = clusters;
                new
            });
            self.policies_changed.notify_one();
        }
    }

    fn mark_all(&mut self) {
        let all = lock(&self.actor.cache).canaries();
        all.into_iter().for_each(|key| self.queue.mark(key));
    }

    /// Starts the watch of a kind, once.
    fn watch(&mut self, kind: Kind) {
        if !self.watched.insert(kind) {
            return;
        }
        let (client, namespace) = (self.setup.client.clone(), self.setup.namespace.clone());
        let (cache, changes) = (self.actor.cache.clone(), self.actor.changes.clone());
        self.tasks.spawn(async move {
            if kind == Kind::ControllerRevision {
                return watch::follow_snapshots(client, namespace, cache, changes).await;
            }
            loop {
                match watch::served(&client, kind).await {
                    Ok(true) => break,
                    Ok(false) => {
                        tracing::warn!(
                            "{} {} is not served by this cluster: install its CRD",
                            kind.api_version(),
                            kind.as_str()
                        );
                        let dirty = lock(&cache).unserved(kind);
                        let _ = changes.send(Change::Dirty(dirty)).await;
                        let _ = changes.send(Change::Synced(kind)).await;
                    }
                    Err(error) => tracing::warn!("cannot ask for {}: {}", kind.as_str(), chain(&error)),
                }
                tokio::time::sleep(UNSERVED_RETRY).await;
            }
            watch::follow(client, kind, namespace, cache, changes).await;
        });
    }

    /// Starts looking at Canaries that are due, as many as may be looked at at once.
    fn start_looks(&mut self) {
        while self.looks.len() < CONCURRENCY {
            let Some(key) = self.queue.take(Instant::now()) else { return };
            if !self.prepare(&key) {
                // A lapse ends without a word; everything else that is missing marks its Canaries when it is there.
                let lapsed = self.setup.leadership.has_lapsed().then(|| Instant::now() + act::LAPSE);
                self.queue.done(&key, lapsed);
                continue;
            }
            let actor = self.actor.clone();
            self.looks.spawn(async move {
                let ended = actor.look(&key).await;
                (key, ended)
            });
        }
    }

    /// Notes what a Canary refers to and starts the watches that it needs. `false` while one has not listed yet, or on a
    /// standby.
    fn prepare(&mut self, key: &CanaryKey) -> bool {
        let at = crate::object::ObjectRef::new(Kind::Canary, &key.0, &key.1);
        let object = lock(&self.actor.cache).get(&at);
        let Some(canary) = object.and_then(|o| serde_json::from_value::<Canary>(o).ok()) else {
            return self.synced.contains(&Kind::Canary);
        };
        let references = Subject::references(&canary, &self.setup.config);
        let kinds: HashSet<Kind> = references.iter().map(|r| r.kind).collect();
        lock(&self.actor.cache).refer(key, references);
        for kind in &kinds {
            self.watch(*kind);
        }
        self.synced.contains(&Kind::Canary)
            && self.synced.contains(&Kind::ControllerRevision)
            && kinds.iter().all(|kind| self.synced.contains(kind))
            && self.policies_listed()
            && self.setup.leadership.may_write()
    }

    /// Whether it is known which policies there are, and what they select: before that nothing is released.
    fn policies_listed(&self) -> bool {
        self.setup.namespace.is_some()
            || self.synced.contains(&Kind::CanaryPolicy)
                && (lock(&self.actor.cache).roster.policies.is_empty()
                    || POLICY_KINDS.iter().all(|kind| self.synced.contains(kind)))
    }

    fn ended(&mut self, (key, ended): (CanaryKey, Result<act::Looked, act::ActError>)) {
        let stands = ended.as_ref().is_ok_and(|looked| looked.runs && looked.wake.is_none());
        let changed = if stands { self.unwoken.insert(key.clone()) } else { self.unwoken.remove(&key) };
        if changed {
            self.setup.metrics.set_runs_without_wake(self.unwoken.len());
        }
        match ended {
            Ok(looked) => {
                let wake = looked.wake.map(|at| {
                    let wait = at.duration_since(crate::clock::now());
                    Instant::now() + Duration::try_from(wait).unwrap_or(Duration::ZERO)
                });
                self.queue.done(&key, wake);
            }
            Err(error) => {
                let canary = format!("{}.{}", key.1, key.0);
                if error.is_conflict() {
                    tracing::debug!(canary, "decides again: {}", chain(&error));
                } else {
                    tracing::warn!(canary, "{}", chain(&error));
                }
                self.queue.failed(&key, Instant::now());
            }
        }
    }
}
