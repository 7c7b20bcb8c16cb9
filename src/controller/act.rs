//! One look at one Canary: observe, decide, act, and again until there is nothing to do.

use super::cache::{Cache, CanaryKey};
use super::outbound::Sender;
use super::record;
use super::survey::Surveyor;
use super::watch::{Change, Shared, lock};
use crate::api::Canary;
use crate::api::names::label_value;
use crate::api::revision::Revision;
use crate::api::status::Phase;
use crate::clock;
use crate::foreign;
use crate::kubernetes::election::Leadership;
use crate::kubernetes::writer::{WriteError, Writer};
use crate::object::{Kind, ObjectRef, Write};
use crate::rollout::model::neighbours::Neighbours;
use crate::rollout::model::plan::{About, Level, Message, Plan, Step};
use crate::rollout::subject::{Config, Impossible, Subject, logged};
use crate::rollout::{Memory, Refused, advance, objects};
use crate::telemetry::log::chain;
use crate::telemetry::metrics::Metrics;
use futures::future::join_all;
use jiff::Timestamp;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// Decisions in one look; a Canary that needs more is looked at again after a pause, so that no defect spins.
const MAX_DECISIONS: usize = 64;

/// How often in one look a write may be refused because something had changed: it is decided again at once, on what is
/// there now, where a pause would cost more than the decision.
const MAX_CONFLICTS: usize = 5;

/// Pause before it is asked again whether a lapsed right to write has come back.
pub(super) const LAPSE: Duration = Duration::from_millis(250);

/// How often in one look the same thing is repaired.
const MAX_REPAIRS: usize = 2;

/// Whether a step makes objects what they should be, and so is taken again for as long as they differ.
const fn is_repair(step: &Step) -> bool {
    matches!(step, Step::EnsureRoutes | Step::EnsureServices { .. } | Step::SyncAutoscaler)
}

/// Why a look ended before there was nothing left to do.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// A request failed.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// What the step needs has changed.
    #[error(transparent)]
    Impossible(#[from] Impossible),
    /// It is not known what else there is in the namespace.
    #[error("the namespace cannot be looked at")]
    Survey(#[from] kube::Error),
    /// A stored template is gone or is not what its name says.
    #[error("the stored template {0} is gone or does not match its hash")]
    Snapshot(String),
    /// The Canary cannot be read.
    #[error("the Canary cannot be read")]
    Unreadable(#[source] serde_json::Error),
    /// What is to be made is there, and is somebody else's.
    #[error("{0} exists and was not made for this Canary")]
    Taken(ObjectRef),
    /// Decisions did not come to rest.
    #[error("{MAX_DECISIONS} decisions in a row did not come to rest")]
    Restless,
}

impl ActError {
    /// Whether something had changed since it was observed. What the write was for has been read again.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Write(error) if matches!(error.code(), Some(404 | 409 | 422)) && !error.is_refusal())
    }
}

/// What the core is told of a write that the API server refused as such: trying it again at once would not change the answer.
fn refusal(step: &Step, error: &ActError) -> Option<Refused> {
    let refused = |what: String, why: String| {
        Some(Refused { step: step.clone(), what, why, at: clock::now(), told: false })
    };
    if let ActError::Taken(at) = error {
        return refused(
            format!("create {at}"),
            "it exists and was not made for this Canary; rename or delete it".into(),
        );
    }
    // A status that tells of a refused status could not be written either.
    let ActError::Write(error) = error else { return None };
    if matches!(step, Step::Status(_)) || !error.is_refusal() {
        return None;
    }
    let (_, words) = error.answer()?;
    refused(error.attempt(), foreign::cut(words))
}

/// Whether an object is controlled by the owner that was to control the one which was to be made.
fn same_owner(write: &Write, found: &Value) -> bool {
    let Write::Create { object, .. } = write else { return false };
    let uid = |object: &Value| object.pointer("/metadata/ownerReferences/0/uid").cloned();
    uid(object).is_some() && uid(object) == uid(found)
}

/// What is remembered of a Canary between two looks.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Name of the target, which the metrics are labelled with.
    target: String,
    pub(super) memory: Memory,
    templates: BTreeMap<Revision, Value>,
    /// What the API server did not keep of the last repair.
    unkept: Option<String>,
    /// Questions that are on their way, each with the tick that asked: what is over is not asked any longer.
    pub(super) asked: Vec<(Option<Timestamp>, AbortOnDropHandle<()>)>,
    /// What else there is in its namespace, while that matters.
    pub(super) neighbours: Option<Arc<Neighbours>>,
}

/// Takes the steps.
#[derive(Clone)]
pub struct Actor {
    /// Writes to the API server.
    pub writer: Writer,
    /// Sends questions.
    pub sender: Sender,
    /// Sends Events.
    pub events: mpsc::Sender<(Box<Canary>, Message)>,
    /// What is known of the cluster.
    pub cache: Shared,
    /// Tells the loop that an answer is here.
    pub changes: mpsc::Sender<Change>,
    /// Settings.
    pub config: Arc<Config>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Whether this process may write now: asked before every step.
    pub leadership: Leadership,
    states: Arc<Mutex<HashMap<CanaryKey, State>>>,
    surveyor: Arc<Surveyor>,
}

impl std::fmt::Debug for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Actor").finish_non_exhaustive()
    }
}

/// How a look ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Looked {
    /// When to look again, if nothing changes before.
    pub wake: Option<Timestamp>,
    /// A release goes on.
    pub runs: bool,
}

impl Actor {
    /// Puts an actor together.
    #[expect(clippy::too_many_arguments, reason = "the composition root hands over each part once")]
    pub fn new(
        writer: Writer,
        sender: Sender,
        events: mpsc::Sender<(Box<Canary>, Message)>,
        cache: Shared,
        changes: mpsc::Sender<Change>,
        config: Arc<Config>,
        metrics: Arc<Metrics>,
        leadership: Leadership,
    ) -> Self {
        Self {
            writer,
            sender,
            events,
            cache,
            changes,
            config,
            metrics,
            leadership,
            states: Arc::default(),
            surveyor: Arc::default(),
        }
    }

    pub(super) fn states(&self) -> MutexGuard<'_, HashMap<CanaryKey, State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at a Canary until there is nothing to do, and says when to look again, and whether a release goes on.
    ///
    /// # Errors
    ///
    /// When a step fails; the Canary is to be looked at again after a pause.
    pub async fn look(&self, key: &CanaryKey) -> Result<Looked, ActError> {
        let (mut conflicts, mut repairs) = (0, Vec::new());
        'decisions: for _ in 0..MAX_DECISIONS {
            if !self.leadership.may_write() {
                return Ok(Looked { wake: self.lapsed(), runs: false });
            }
            self.read_unknown(key).await?;
            let templates = self.states().entry(key.clone()).or_default().templates.clone();
            let Some(subject) = self.subject(key, &templates)? else {
                self.forget(key);
                return Ok(Looked::default());
            };
            let observed = subject.observe();
            let (plan, analysed) = {
                let mut states = self.states();
                let state = states.entry(key.clone()).or_default();
                let plan = advance(&observed, &mut state.memory, clock::now());
                state.asked.retain(|(tick, task)| *tick == state.memory.tick && !task.is_finished());
                if plan.steps.is_empty() && observed.status.run.is_none() {
                    state.templates.clear();
                    state.memory.loaded.clear();
                    if observed.refusals.is_empty() && observed.status.phase != Phase::Initializing {
                        (state.neighbours, state.memory.surveyed) = (None, None);
                    }
                }
                (plan, state.memory.analysed)
            };
            record::observed(&self.metrics, &observed);
            self.note_target(key, &subject.names.target);
            let Plan { steps, wake } = plan;
            if steps.is_empty() {
                return Ok(Looked { wake, runs: observed.status.run.is_some_and(|run| !run.paused) });
            }
            if let Some(step) =
                steps.iter().find(|step| repairs.iter().filter(|done| done == step).count() >= MAX_REPAIRS)
            {
                // Twice is enough: what is written is taken and not kept.
                let mut states = self.states();
                let state = states.entry(key.clone()).or_default();
                let what = state.unkept.clone().unwrap_or_else(|| "it differs again at once".to_owned());
                state.memory.unkept.push((step.clone(), foreign::cut(&what)));
                repairs.clear();
                continue 'decisions;
            }
            repairs.extend(steps.iter().filter(|step| is_repair(step)).cloned());
            for steps in steps.chunk_by(|one, next| one.side_by_side() && next.side_by_side()) {
                if !self.leadership.may_write() {
                    return Ok(Looked { wake: self.lapsed(), runs: false });
                }
                let taken = join_all(steps.iter().map(|step| self.take(key, &subject, step.clone()))).await;
                let refused =
                    steps.iter().zip(&taken).find_map(|(step, taken)| refusal(step, taken.as_ref().err()?));
                if let Some(refused) = refused {
                    tracing::warn!(
                        canary = %format_args!("{}.{}", key.1, key.0),
                        "the API server refuses to {}: {}", refused.what, refused.why
                    );
                    self.states().entry(key.clone()).or_default().memory.refused = Some(refused);
                    continue 'decisions;
                }
                match taken.into_iter().collect::<Result<(), ActError>>() {
                    Err(error) if error.is_conflict() && conflicts < MAX_CONFLICTS => {
                        conflicts += 1;
                        tracing::debug!(canary = %format_args!("{}.{}", key.1, key.0), "decides again: {}", chain(&error));
                        continue 'decisions;
                    }
                    taken => taken?,
                }
            }
            if let Some(began) = analysed {
                record::tick(&self.metrics, &subject, began, clock::now());
            }
        }
        Err(ActError::Restless)
    }

    /// When to look again where only the right to write has lapsed: it comes back without a word when it is renewed.
    fn lapsed(&self) -> Option<Timestamp> {
        self.leadership
            .has_lapsed()
            .then(|| clock::now().saturating_add(LAPSE).unwrap_or_else(|_| clock::now()))
    }

    fn note_target(&self, key: &CanaryKey, target: &str) {
        let mut states = self.states();
        if let Some(state) = states.get_mut(key)
            && state.target != target
        {
            target.clone_into(&mut state.target);
            record::totals(&self.metrics, states.keys());
        }
    }

    fn forget(&self, key: &CanaryKey) {
        lock(&self.cache).refer(key, Vec::new());
        let mut states = self.states();
        if let Some(state) = states.remove(key) {
            self.metrics.forget(&state.target, &key.0);
            record::totals(&self.metrics, states.keys());
        }
    }

    /// Reads what has been neither seen nor found missing.
    async fn read_unknown(&self, key: &CanaryKey) -> Result<(), WriteError> {
        let unknown = lock(&self.cache).unknown(key);
        let reads = join_all(unknown.iter().map(|at| self.refresh(key, at))).await;
        reads.into_iter().collect()
    }

    async fn refresh(&self, key: &CanaryKey, at: &ObjectRef) -> Result<(), WriteError> {
        let read = self.writer.read(at).await?;
        self.take_in(key, |cache| match read {
            Some(object) => cache.upsert(at.kind, object),
            None => cache.forget(at),
        })
        .await;
        Ok(())
    }

    /// Takes in what the API server has answered, and tells the loop whom else that concerns: what the watch says of it
    /// later is no news any more.
    async fn take_in(&self, key: &CanaryKey, change: impl FnOnce(&mut Cache) -> Vec<CanaryKey>) {
        let (mut others, of_policies) = {
            let mut cache = lock(&self.cache);
            let before = cache.roster.changes;
            let dirty = change(&mut cache);
            (dirty, cache.roster.changes != before)
        };
        others.retain(|other| other != key);
        if of_policies || !others.is_empty() {
            let _ = self.changes.send(Change::Dirty(others)).await;
        }
    }

    fn subject<'t>(
        &'t self,
        key: &CanaryKey,
        templates: &'t BTreeMap<Revision, Value>,
    ) -> Result<Option<Subject<'t>>, ActError> {
        let mut cache = lock(&self.cache);
        let (namespace, name) = key;
        let Some(object) = cache.get(&ObjectRef::new(Kind::Canary, namespace, name)) else { return Ok(None) };
        let mut subject = Subject::new(
            object,
            cache.objects_of(key),
            cache.snapshots_of(namespace, &label_value(name)),
            templates,
            &self.config,
        )
        .map_err(ActError::Unreadable)?;
        let held = || subject.held_revision();
        subject.guard = cache.roster.guard(key, &subject.names.target, clock::now(), held);
        subject.neighbours = self.states().get(key).and_then(|state| state.neighbours.clone());
        Ok(Some(subject))
    }

    async fn take(&self, key: &CanaryKey, subject: &Subject<'_>, step: Step) -> Result<(), ActError> {
        match &step {
            Step::Say(message) => {
                self.say(subject, message);
                return Ok(());
            }
            Step::Ask(check) => {
                self.ask(key, subject, check.clone());
                return Ok(());
            }
            Step::LoadSnapshot(revision) => return self.load(key, subject, revision).await,
            Step::Redefault { revision, live } => return self.redefault(key, subject, revision, live).await,
            Step::Survey => return self.survey(key, subject).await,
            Step::GiveBackPods(promoted) => return self.give_back_pods(key, subject, promoted).await,
            Step::EmptyHistory => return self.empty_history(key, subject).await,
            Step::StoreRunning(revision) => return self.store_running(key, subject, revision).await,
            Step::AskPods { deployment, revision } => {
                self.ask_pods(key, subject, deployment, revision).await;
                return Ok(());
            }
            Step::EvictOlder(than) => return self.evict_older(key, subject, *than).await,
            // Kubernetes has copied what stood on the target to its ReplicaSets; that goes with all else of ours.
            Step::DeleteGenerated => self.unmark_history(key, subject).await?,
            _ => {}
        }
        for write in subject.writes(&step)? {
            let answer = self.write(key, &write).await?;
            if is_repair(&step)
                && let Some(what) = answer.as_ref().and_then(|answer| subject.unkept(&write, answer))
            {
                self.states().entry(key.clone()).or_default().unkept = Some(what);
            }
            if let Some(correction) = answer.and_then(|answer| subject.as_kept(&write, &answer)) {
                self.write(key, &correction).await?;
            }
            if let Some(message) = logged(&step, &write) {
                self.say(subject, &message);
            }
        }
        match &step {
            Step::Status(status) => {
                record::outcome(&self.metrics, subject, status);
                Ok(())
            }
            Step::StoreSnapshot(revision) | Step::StorePrimarySnapshot(revision) => {
                self.load_stored(key, subject, &step, revision).await
            }
            _ => Ok(()),
        }
    }

    /// Executes a write and takes its answer into the cache. A write that was refused because something changed makes
    /// the object be read again, so that the next decision sees what changed.
    pub(super) async fn write(&self, key: &CanaryKey, write: &Write) -> Result<Option<Value>, ActError> {
        match self.writer.write(write).await {
            Ok(answer) => {
                if let Write::Delete { target, .. } = write {
                    lock(&self.cache).stored_no_more(target);
                }
                if let (Some(object), Some(at)) = (answer.clone(), write.target()) {
                    self.take_in(key, |cache| cache.upsert(at.kind, object)).await;
                }
                Ok(answer)
            }
            Err(error) => {
                let code = error.code();
                let exists = code == Some(409) && matches!(write, Write::Create { .. });
                let gone = code == Some(404) && matches!(write, Write::Delete { .. });
                if gone {
                    if let Some(at) = write.target() {
                        lock(&self.cache).stored_no_more(&at);
                    }
                    return Ok(None);
                }
                // Its name is its content: one that was made for this Canary is the same.
                if exists && let Some(at) = write.target().filter(|at| at.kind == Kind::ControllerRevision) {
                    let found = self.writer.read(&at).await?;
                    return match found {
                        Some(found) if !same_owner(write, &found) => Err(ActError::Taken(at)),
                        found => Ok(found),
                    };
                }
                if matches!(code, Some(404 | 409 | 422))
                    && let Some(at) = write.target()
                {
                    self.refresh(key, &at).await?;
                }
                Err(error.into())
            }
        }
    }

    /// What was just stored is at hand already, unless another one had stored it before: then it is read and checked.
    async fn load_stored(
        &self,
        key: &CanaryKey,
        subject: &Subject<'_>,
        step: &Step,
        revision: &Revision,
    ) -> Result<(), ActError> {
        if let Step::StoreSnapshot(_) = step
            && let Some(template) =
                subject.target_template().filter(|template| Revision::of(template) == *revision)
        {
            self.keep(key, revision, template.clone());
            return Ok(());
        }
        self.load(key, subject, revision).await
    }

    async fn load(
        &self,
        key: &CanaryKey,
        subject: &Subject<'_>,
        revision: &Revision,
    ) -> Result<(), ActError> {
        let name = subject.names.snapshot(revision);
        let at = ObjectRef::new(Kind::ControllerRevision, &subject.names.namespace, &name);
        let stored = self.writer.read(&at).await?;
        let template = stored
            .and_then(|s| objects::template_of(&s, revision))
            .or_else(|| subject.target_template().filter(|t| Revision::of(t) == *revision).cloned())
            .ok_or(ActError::Snapshot(name))?;
        self.keep(key, revision, template);
        Ok(())
    }

    /// Looks at what else there is in the namespace.
    async fn survey(&self, key: &CanaryKey, subject: &Subject<'_>) -> Result<(), ActError> {
        let found = self.surveyor.look(self.writer.client(), &subject.names.namespace).await?;
        let mut states = self.states();
        let state = states.entry(key.clone()).or_default();
        (state.neighbours, state.memory.surveyed) = (Some(found), Some(clock::now()));
        Ok(())
    }

    /// Shows a stored template to the API server, and notes what it makes of it today. A template that is refused, or
    /// is not there, stays what it is: then what is live is somebody's.
    async fn redefault(
        &self,
        key: &CanaryKey,
        subject: &Subject<'_>,
        revision: &Revision,
        live: &Revision,
    ) -> Result<(), ActError> {
        let at = ObjectRef::new(
            Kind::ControllerRevision,
            &subject.names.namespace,
            subject.names.snapshot(revision),
        );
        let stored = self.writer.read(&at).await?.and_then(|s| objects::template_of(&s, revision));
        let today = match stored.and_then(|template| subject.redefault(&template)) {
            None => None,
            Some(write) => match self.writer.try_out(&write).await {
                Ok(tried) => tried.and_then(|o| o.pointer("/spec/template").cloned()),
                Err(error) if matches!(error.code(), Some(400 | 403)) => None,
                Err(error) if error.code() == Some(422) => {
                    let at = objects::deployment(&subject.names, &subject.names.target);
                    let seen = self.writer.read(&at).await?;
                    if !subject.shows_same_template(seen.as_ref()) {
                        if let Some(object) = seen {
                            self.take_in(key, |cache| cache.upsert(at.kind, object)).await;
                        }
                        return Err(error.into());
                    }
                    None
                }
                Err(error) => return Err(error.into()),
            },
        };
        let now = today.as_ref().map_or_else(|| revision.clone(), Revision::of);
        if let Some(template) = today {
            self.keep(key, &now, template);
        }
        let mut states = self.states();
        let memory = &mut states.entry(key.clone()).or_default().memory;
        memory.today.insert((revision.clone(), live.clone()), now);
        Ok(())
    }

    pub(super) fn keep(&self, key: &CanaryKey, revision: &Revision, template: Value) {
        let mut states = self.states();
        let state = states.entry(key.clone()).or_default();
        state.templates.insert(revision.clone(), template);
        if !state.memory.loaded.contains(revision) {
            state.memory.loaded.push(revision.clone());
        }
    }

    pub(super) fn say(&self, subject: &Subject<'_>, message: &Message) {
        let canary = format!("{}.{}", subject.names.canary, subject.names.namespace);
        if message.level == Level::Error {
            tracing::error!(canary, "{}", message.text);
        } else {
            tracing::info!(canary, "{}", message.text);
        }
        if message.about == About::Bypass {
            self.metrics.count_bypass(&subject.names.target, &subject.names.namespace);
        }
        if message.level != Level::Log
            && self.events.try_send((Box::new(subject.canary.clone()), message.clone())).is_err()
        {
            tracing::warn!(canary, "an Event was dropped: too many are waiting to be sent");
        }
    }
}
