//! Policies at work: makes, mends and takes away their Canaries, tells the API server what to ask about, and writes their
//! status. What is to be done is decided by [`crate::policy::plan`].

use super::watch::{Change, Shared, lock};
use crate::admission::policy_webhooks;
use crate::api::keys;
use crate::clock;
use crate::kubernetes::election::Leadership;
use crate::kubernetes::writer::{WriteError, Writer};
use crate::object::{Kind, ObjectRef, Write, escape};
use crate::policy::plan::{Mend, Work, plan};
use crate::policy::roster::Key;
use crate::rollout::objects::patch::Edit;
use crate::telemetry::log::chain;
use futures::StreamExt as _;
use futures::stream;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::Value;
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};

/// Writes that are under way at once.
const CONCURRENCY: usize = 16;
/// Time in which changes are gathered before they are looked at: a policy may concern hundreds of objects.
const GATHER: Duration = Duration::from_millis(50);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(2);
/// The longest sleep.
const LONGEST: Duration = Duration::from_secs(3600);

/// What the loop of the policies is made of.
pub struct Policies {
    /// Writes to the API server.
    pub writer: Writer,
    /// The API client.
    pub client: Client,
    /// What is known of the cluster.
    pub cache: Shared,
    /// Tells the loop of the Canaries which to look at.
    pub changes: mpsc::Sender<Change>,
    /// Whether this process is the one that writes.
    pub leadership: Leadership,
    /// The controller's user name, whose writes no policy holds.
    pub controller_user: String,
    /// Something that policies look at has changed.
    pub changed: Arc<Notify>,
    /// Everything that policies look at has been listed.
    pub synced: watch::Receiver<bool>,
}

impl std::fmt::Debug for Policies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Policies").finish_non_exhaustive()
    }
}

/// The two webhook configurations as the API server has them.
#[derive(Default)]
struct Configurations(BTreeMap<&'static str, Option<Value>>);

impl Policies {
    /// Runs for ever.
    pub async fn run(mut self) {
        let (sender, mut seen) = watch::channel(Configurations::default());
        let sender = Arc::new(sender);
        for name in [crate::admission::configuration::NAME, policy_webhooks::NAME] {
            tokio::spawn(follow(self.client.clone(), name, sender.clone(), self.changed.clone()));
        }
        let mut governed = BTreeMap::new();
        loop {
            if self.synced.wait_for(|synced| *synced).await.is_err() {
                return;
            }
            if !self.leadership.may_write() {
                self.leadership.turned(false).await;
                continue;
            }
            let (work, configuration) = self.decide(&mut seen);
            let concerned = {
                let roster = &lock(&self.cache).roster;
                let concerned = roster.concerned(&governed);
                governed = roster.versions();
                concerned
            };
            if !concerned.is_empty() {
                let _ = self.changes.send(Change::Dirty(concerned)).await;
            }
            let idle = work.writes.is_empty()
                && work.mends.is_empty()
                && work.orphans.is_empty()
                && work.refused.is_empty();
            let wake = work.wake;
            // What asks the webhook goes before what it asks about: nothing new is enrolled for a policy that leaves.
            let mut fine = match configuration {
                Some(configuration) => report(self.configure(&configuration).await, policy_webhooks::NAME),
                None => true,
            };
            fine &= self.act(work).await;
            let pause = if fine { LONGEST } else { RETRY };
            let until = wake.map_or(pause, |wake| {
                let wait = Duration::try_from(wake.duration_since(clock::now())).unwrap_or(Duration::ZERO);
                wait.saturating_add(GATHER).min(pause)
            });
            tokio::select! {
                () = self.changed.notified() => tokio::time::sleep(GATHER).await,
                () = tokio::time::sleep(until) => {}
                _ = self.synced.changed() => {}
            }
            if !fine && idle {
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// What is to be done now: writes, and the webhook configuration if it differs.
    fn decide(&self, seen: &mut watch::Receiver<Configurations>) -> (Work, Option<Value>) {
        let configurations = seen.borrow_and_update();
        let live = |name| configurations.0.get(name).and_then(Option::as_ref);
        let mut cache = lock(&self.cache);
        cache.roster.refresh();
        let roster = &cache.roster;
        let work = plan(roster, clock::now());
        // How the API server reaches us, and whom it trusts, is what it says for the installation's own entries.
        let client = live(crate::admission::configuration::NAME)
            .and_then(|own| own.pointer("/webhooks/0/clientConfig"))
            .filter(|client| client.get("caBundle").is_some());
        let wanted =
            client.map(|client| policy_webhooks::configuration(roster, client, &self.controller_user));
        let configuration = wanted.filter(|wanted| {
            let entries = |of: Option<&Value>| {
                of.and_then(|of| of.get("webhooks")).cloned().unwrap_or(Value::Array(Vec::new()))
            };
            entries(Some(wanted)) != entries(live(policy_webhooks::NAME))
        });
        (work, configuration)
    }

    /// Writes the configuration as a whole.
    async fn configure(&self, configuration: &Value) -> Result<(), WriteError> {
        let api: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let params = PatchParams::apply(keys::FIELD_MANAGER).force();
        let count = configuration.get("webhooks").and_then(Value::as_array).map_or(0, Vec::len);
        let written = api.patch(policy_webhooks::NAME, &params, &Patch::Apply(configuration)).await;
        written.map_err(|source| WriteError::Request {
            verb: "apply",
            object: format!("MutatingWebhookConfiguration {}", policy_webhooks::NAME),
            source: Box::new(source),
        })?;
        tracing::info!(policies = count, "Wrote the webhook configuration of the policies");
        Ok(())
    }

    /// Takes every step; `false` when one failed and is to be tried again.
    async fn act(&self, work: Work) -> bool {
        let writes = work.writes.into_iter().map(Task::Write);
        let mends = work.mends.into_iter().map(|(key, mend)| Task::Mend(key, mend));
        let orphans = work.orphans.into_iter().map(Task::LetGo);
        let refused = work.refused.into_iter().map(Task::LeaveAlone);
        let tasks: Vec<Task> = writes.chain(mends).chain(orphans).chain(refused).collect();
        stream::iter(tasks)
            .map(|task| async {
                let what = task.to_string();
                report(self.take(task).await, &what)
            })
            .buffer_unordered(CONCURRENCY)
            .fold(true, |all, fine| async move { all && fine })
            .await
    }

    /// Whether the policy that a Deployment was enrolled for selects it: watches of different kinds are not in step.
    fn selected(&self, namespace: Option<&Value>, deployment: &Value) -> bool {
        let by = deployment.pointer("/metadata/annotations").and_then(|a| a.get(keys::POLICY)?.as_str());
        by.zip(namespace).is_some_and(|(by, of)| lock(&self.cache).roster.selects(by, of, deployment))
    }

    async fn take(&self, task: Task) -> Result<(), WriteError> {
        if !self.leadership.may_write() {
            return Ok(());
        }
        let write = match task {
            Task::Write(write) => Some(write),
            Task::Mend((namespace, name), mend) => {
                let at = ObjectRef::new(Kind::Canary, namespace, name);
                self.writer.read(&at).await?.and_then(|live| mended(at, &live, &mend))
            }
            Task::LetGo((namespace, name)) => {
                let of = ObjectRef::new(Kind::Namespace, "", &namespace);
                let at = ObjectRef::new(Kind::Deployment, namespace, name);
                let (of, live) = (self.writer.read(&of).await?, self.writer.read(&at).await?);
                live.filter(|live| !self.selected(of.as_ref(), live)).and_then(|live| let_go(at, &live))
            }
            Task::LeaveAlone((namespace, name)) => {
                let at = ObjectRef::new(Kind::Deployment, namespace, name);
                self.writer.read(&at).await?.and_then(|live| let_go(at, &live))
            }
        };
        let Some(write) = write else { return Ok(()) };
        if let Write::Create { .. } = &write
            && let Some(at) = write.target()
        {
            tracing::info!(canary = %format_args!("{}.{}", at.name, at.namespace), "{} made for a policy", at.kind.as_str());
        }
        let answer = match self.writer.write(&write).await {
            // Somebody was quicker; the watch tells what there is.
            Err(error) if matches!(error.code(), Some(404 | 409 | 422)) => {
                tracing::debug!("decides again: {}", chain(&error));
                if let Some(at) = write.target()
                    && let Some(object) = self.writer.read(&at).await?
                {
                    let dirty = lock(&self.cache).upsert(at.kind, object);
                    let _ = self.changes.send(Change::Dirty(dirty)).await;
                }
                self.changed.notify_one();
                return Ok(());
            }
            answer => answer?,
        };
        let answer = answer.filter(|_| !matches!(write, Write::Delete { .. }));
        if let (Some(object), Some(at)) = (answer, write.target()) {
            let dirty = lock(&self.cache).upsert(at.kind, object);
            let _ = self.changes.send(Change::Dirty(dirty)).await;
        }
        Ok(())
    }
}

/// One thing to do.
enum Task {
    Write(Write),
    Mend(Key, Mend),
    LetGo(Key),
    LeaveAlone(Key),
}

impl std::fmt::Display for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Write(write) => match write.target() {
                Some(at) => at.fmt(f),
                None => f.write_str("a write"),
            },
            Self::Mend((namespace, name), _) => write!(f, "Canary {namespace}/{name}"),
            Self::LetGo((namespace, name)) | Self::LeaveAlone((namespace, name)) => {
                write!(f, "Deployment {namespace}/{name}")
            }
        }
    }
}

fn report(result: Result<(), WriteError>, what: &str) -> bool {
    if let Err(error) = &result {
        tracing::warn!(object = what, "{}", chain(error));
    }
    result.is_ok()
}

/// The patch that makes a Canary what its policy says, or no policy's any more.
fn mended(at: ObjectRef, live: &Value, mend: &Mend) -> Option<Write> {
    let edit = Edit::new(at, live).unchanged("/metadata/resourceVersion");
    let label = format!("/metadata/labels/{}", escape(keys::POLICY));
    match mend {
        Mend::LetGo => edit
            .remove(&label)
            .without_annotation(keys::SPEC_DIGEST)
            .remove("/metadata/ownerReferences")
            .write(),
        Mend::Write(wanted) => {
            let text = |pointer: &str| wanted.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            let annotation = |key: &str| text(&format!("/metadata/annotations/{}", escape(key))).to_owned();
            edit.set("/spec", wanted.get("spec")?.clone())
                .label(keys::POLICY, text(&label))
                .annotation(keys::SPEC_DIGEST, &annotation(keys::SPEC_DIGEST))
                .annotation(keys::LAYOUT, &annotation(keys::LAYOUT))
                .set("/metadata/ownerReferences", wanted.pointer("/metadata/ownerReferences")?.clone())
                .write()
        }
    }
}

/// The patch that makes a Deployment a plain one, which the webhook has enrolled and no Canary has taken up.
fn let_go(at: ObjectRef, live: &Value) -> Option<Write> {
    live.pointer("/metadata/annotations")?.get(keys::POLICY)?;
    // A pause of the owner's own stays.
    let held = live
        .pointer("/metadata/annotations")
        .is_some_and(|a| a.get(keys::HOLD).is_some() && a.get(keys::PAUSED_BEFORE).is_none());
    let edit =
        Edit::new(at, live).same_generation().without_keys().without_finalizer(keys::TRAFFIC_FINALIZER);
    let edit =
        keys::LABELS.iter().fold(edit, |edit, key| edit.remove(&format!("/metadata/labels/{}", escape(key))));
    if held { edit.remove("/spec/paused").write() } else { edit.write() }
}

/// Follows one webhook configuration for ever.
async fn follow(
    client: Client,
    name: &'static str,
    seen: Arc<watch::Sender<Configurations>>,
    changed: Arc<Notify>,
) {
    let api: Api<MutatingWebhookConfiguration> = Api::all(client);
    let mut stream = pin!(watcher(api, watcher::Config::default().fields(&format!("metadata.name={name}"))));
    let mut listed = None;
    while let Some(event) = stream.next().await {
        let now = match event {
            Ok(Event::Init) => {
                listed = None;
                continue;
            }
            Ok(Event::InitApply(object)) => {
                listed = serde_json::to_value(object).ok();
                continue;
            }
            Ok(Event::InitDone) => listed.take(),
            Ok(Event::Apply(object)) => serde_json::to_value(object).ok(),
            Ok(Event::Delete(_)) => None,
            Err(error) => {
                tracing::debug!(configuration = name, "watch interrupted: {}", chain(&error));
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        seen.send_modify(|all| {
            all.0.insert(name, now);
        });
        changed.notify_one();
    }
}
