//! One Sidetrack process: the loop of the controller's actor, without its IO.

use crate::cluster::Refused;
use crate::faults::Fault;
use crate::world::World;
use jiff::Timestamp;
use serde::Deserialize as _;
use serde_json::Value;
use sidetrack::api::Canary;
use sidetrack::api::names::label_value;
use sidetrack::api::revision::Revision;
use sidetrack::api::status::Phase;
use sidetrack::object::{Kind, ObjectRef, Write};
use sidetrack::rollout::model::observed::{Evicted, PodsSaid};
use sidetrack::rollout::model::plan::{Answer, Check, Message, Plan, Step};
use sidetrack::rollout::subject::{Config, Older, Question, Snapshot, Subject, logged};
use sidetrack::rollout::{self, Memory, advance, objects};
use std::collections::BTreeMap;

/// Decisions in one look; more is a defect, whatever the shipped loop does about it.
const MAX_DECISIONS: usize = 64;

/// What a process holds, lost when it is killed.
#[derive(Clone, Debug, Default)]
pub struct Process {
    pub memory: Memory,
    templates: BTreeMap<Revision, Value>,
    pub neighbours: Option<std::sync::Arc<sidetrack::rollout::model::neighbours::Neighbours>>,
    pub wake: Option<Timestamp>,
    pub seen: Option<u64>,
    failures: u32,
    /// Looks in a row that wrote nothing.
    pub idle: u32,
    answers: Vec<(Timestamp, Option<Timestamp>, Check, Answer)>,
}

/// Why a look ended early.
#[derive(Debug)]
enum Ended {
    Killed,
    Again,
    /// The API server refused what the step was to write.
    Refused(String),
}

impl Process {
    /// Writes down what else decides how it goes on.
    pub fn sketch(&self) -> String {
        let loaded: Vec<&Revision> = self.templates.keys().collect();
        format!("{loaded:?}{}{:?}{}", self.failures, self.answers, self.neighbours.is_some())
    }

    /// The next answer to arrive.
    pub fn next_answer(&self) -> Option<Timestamp> {
        self.answers.iter().map(|(at, ..)| *at).min()
    }

    /// Takes in answers that have arrived. They count only in the tick that asked.
    pub fn deliver(&mut self, now: Timestamp) -> bool {
        let mut arrived = false;
        let (due, later) = std::mem::take(&mut self.answers).into_iter().partition(|(at, ..)| *at <= now);
        self.answers = later;
        let due: Vec<(Timestamp, Option<Timestamp>, Check, Answer)> = due;
        for (_, tick, check, answer) in due {
            if self.memory.tick == tick && self.memory.asked.contains(&check) {
                self.memory.answers.insert(check, answer);
                arrived = true;
            }
        }
        if arrived {
            self.seen = None;
        }
        arrived
    }
}

impl World {
    /// Looks at the Canary until there is nothing to do.
    pub fn look(&mut self) {
        self.looks += 1;
        let writes = self.writes;
        let ended = self.decide();
        let sent = self.writes - writes;
        let idle = sent == 0;
        let now = self.cluster.now;
        let version = self.cluster.version();
        let Some(process) = &mut self.process else { return };
        match ended {
            Ok(wake) => {
                (process.wake, process.failures) = (wake, 0);
                process.idle = if idle { process.idle + 1 } else { 0 };
                process.seen = Some(version);
            }
            Err(Ended::Killed) => {}
            Err(Ended::Again | Ended::Refused(_)) => {
                process.failures += 1;
                let pause = (50 << (process.failures - 1).min(10)).min(30_000);
                process.wake = Some(now + jiff::SignedDuration::from_millis(pause));
                process.seen = Some(version);
            }
        }
        self.judge_look(sent);
    }

    fn decide(&mut self) -> Result<Option<Timestamp>, Ended> {
        let config = self.config.clone();
        'decisions: for _ in 0..MAX_DECISIONS {
            let Some(process) = &self.process else { return Err(Ended::Killed) };
            let templates = process.templates.clone();
            let found = subject(&self.seen(), &self.canary, &templates, &config);
            let Some(process) = &mut self.process else { return Err(Ended::Killed) };
            let Some(mut subject) = found else {
                *process = Process::default();
                return Ok(None);
            };
            subject.guard = self.guard.clone();
            subject.neighbours.clone_from(&process.neighbours);
            let observed = subject.observe();
            let plan = advance(&observed, &mut process.memory, self.cluster.now);
            if plan.steps.is_empty() && observed.status.run.is_none() {
                process.templates.clear();
                process.memory.loaded.clear();
                if observed.refusals.is_empty() && observed.status.phase != Phase::Initializing {
                    (process.neighbours, process.memory.surveyed) = (None, None);
                }
            }
            let Plan { steps, wake } = plan;
            if steps.is_empty() {
                return Ok(wake);
            }
            for step in steps {
                match self.take(&subject, &step) {
                    // A status that tells of a refused status could not be written either.
                    Err(Ended::Refused(what)) if !matches!(step, Step::Status(_)) => {
                        let (why, at) = ("it is not allowed here".to_owned(), self.cluster.now);
                        if let Some(process) = &mut self.process {
                            process.memory.refused =
                                Some(rollout::Refused { step, what, why, at, told: false });
                        }
                        continue 'decisions;
                    }
                    taken => taken?,
                }
            }
        }
        panic!("{MAX_DECISIONS} decisions did not come to rest:\n{}", self.tail());
    }

    fn take(&mut self, subject: &Subject<'_>, step: &Step) -> Result<(), Ended> {
        match step {
            Step::Say(message) => {
                self.say(message);
                return Ok(());
            }
            Step::Ask(check) => {
                self.ask(subject, check);
                return Ok(());
            }
            Step::LoadSnapshot(revision) => return self.load(subject, revision),
            Step::Redefault { revision, live } => return self.redefault(subject, revision, live),
            Step::Survey => {
                let found = crate::neighbours::of(&self.cluster, &self.names.namespace);
                let now = self.cluster.now;
                if let Some(process) = &mut self.process {
                    process.memory.surveyed = Some(now);
                    process.neighbours = Some(std::sync::Arc::new(found));
                }
                return Ok(());
            }
            Step::EmptyHistory => {
                let at = self.deployment(&self.names.target);
                self.workloads.forget(&self.cluster, &at);
                return Ok(());
            }
            Step::StoreRunning(revision) => return self.store_running(subject, revision),
            Step::GiveBackPods(promoted) => {
                let at = self.deployment(&self.names.target);
                let (sets, _) = self.workloads.shown(&self.cluster, &at);
                let template = self.process.as_ref().and_then(|p| p.templates.get(promoted)).cloned();
                let Some(template) = template else { return Ok(()) };
                if !subject.given_back(&sets, promoted, &template).is_empty() {
                    self.workloads.give(&self.cluster, &at, template);
                    self.note(format!("gives {at} a ReplicaSet of {promoted}"));
                }
                return Ok(());
            }
            Step::AskPods { deployment, revision } => {
                let (sets, pods) = self.workloads.shown(&self.cluster, &self.deployment(deployment));
                let why = subject.why_not_ready(deployment, &sets, &pods);
                self.note(format!("asks the pods of {deployment}: {why:?}"));
                if let Some(process) = &mut self.process {
                    let (deployment, revision) = (deployment.clone(), revision.clone());
                    process.memory.pods = Some(PodsSaid { deployment, revision, at: self.cluster.now, why });
                }
                return Ok(());
            }
            Step::EvictOlder(than) => return self.evict_older(subject, *than),
            _ => {}
        }
        let Ok(writes) = subject.writes(step) else { return Err(Ended::Again) };
        for write in writes {
            self.our_write(&write)?;
            let answer = write.target().and_then(|at| self.cluster.get(&at).cloned());
            if let Some(correction) = answer.and_then(|answer| subject.as_kept(&write, &answer)) {
                self.our_write(&correction)?;
            }
            self.said.extend(logged(step, &write));
        }
        match step {
            Step::StoreSnapshot(revision) | Step::StorePrimarySnapshot(revision) => {
                let live = subject.target_template().filter(|t| Revision::of(t) == *revision).cloned();
                match (step, live) {
                    (Step::StoreSnapshot(_), Some(template)) => self.keep(revision, template),
                    _ => return self.load(subject, revision),
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn store_running(&mut self, subject: &Subject<'_>, revision: &Revision) -> Result<(), Ended> {
        let at = self.deployment(&self.names.target);
        let (sets, _) = self.workloads.shown(&self.cluster, &at);
        let Some(template) = subject.template_among(&sets, revision) else {
            if let Some(process) = &mut self.process {
                process.memory.lost = Some(revision.clone());
            }
            return Err(Ended::Again);
        };
        let Ok(writes) = subject.store(&template, revision) else { return Err(Ended::Again) };
        for write in writes {
            self.our_write(&write)?;
        }
        self.keep(revision, template);
        Ok(())
    }

    fn evict_older(&mut self, subject: &Subject<'_>, than: Timestamp) -> Result<(), Ended> {
        if self.fuse_blows(false) {
            return Err(Ended::Killed);
        }
        let at = self.deployment(&self.names.target);
        let (sets, pods) = self.workloads.shown(&self.cluster, &at);
        let found = match subject.older(&sets, &pods, than) {
            Older::None => Evicted::All,
            Older::Wait => Evicted::Some,
            Older::Stay(why) => Evicted::Refused(why),
            Older::Evict(_) if self.workloads.budget => {
                Evicted::Refused("it would violate the budget".into())
            }
            Older::Evict(write) => {
                let name = write.target().unwrap().name;
                let serving = self.primary_pods().ready(self.cluster.now);
                self.workloads.evict(&self.cluster, &at, &name);
                self.writes += 1;
                self.note(format!("evicts pod {name}"));
                let left = self.primary_pods().ready(self.cluster.now);
                self.law(
                    "I4",
                    left + 1 >= serving && (left > 0 || serving == 0),
                    "more than one pod is evicted at a time",
                );
                self.evicted += 1;
                Evicted::Some
            }
        };
        if let Some(renewal) = self.process.as_mut().and_then(|p| p.memory.renewal.as_mut()) {
            renewal.found = found;
        }
        if self.fuse_blows(true) {
            return Err(Ended::Killed);
        }
        Ok(())
    }

    fn say(&mut self, message: &Message) {
        self.note(format!("says: {}", message.text));
        self.said.push(message.clone());
    }

    fn our_write(&mut self, write: &Write) -> Result<(), Ended> {
        if self.fuse_blows(false) {
            return Err(Ended::Killed);
        }
        let at = write.target().unwrap();
        let before = self.cluster.get(&at).cloned();
        let fault = self.fault();
        let result = match fault {
            Some(Fault::Refused) => Err(Refused(403)),
            Some(Fault::Conflict) => Err(Refused(409)),
            Some(Fault::Busy) => Err(Refused(500)),
            Some(Fault::AnswerLost) | None => self.cluster.write(write, sidetrack::api::keys::FIELD_MANAGER),
        };
        self.writes += 1;
        if fault.is_some_and(|fault| fault != Fault::AnswerLost) {
            self.laws.denied = Some(at.clone());
        } else if self.laws.denied.as_ref() == Some(&at) {
            self.laws.denied = None;
        }
        self.note(format!(
            "writes {at}: {} -> {result:?}",
            brief(write),
            result = result.as_ref().map(|_| ())
        ));
        // An answer shows the object; what was refused because something had changed is read anew.
        if !matches!(write, Write::Delete { .. }) || result.is_err() {
            self.sees(&at);
        }
        let outcome = match result {
            Ok(_) => {
                self.written.push((write.clone(), self.cluster.get(&at).cloned()));
                let changed = before.as_ref() != self.cluster.get(&at);
                self.judge_effort(write, changed);
                self.judge_write(&at, before.as_ref(), true);
                if fault == Some(Fault::AnswerLost) { Err(Ended::Again) } else { Ok(()) }
            }
            Err(Refused(403)) => Err(Ended::Refused(format!("write {at}"))),
            Err(Refused(409))
                if fault.is_none()
                    && at.kind == Kind::ControllerRevision
                    && matches!(write, Write::Create { .. }) =>
            {
                Ok(())
            }
            Err(Refused(404)) if matches!(write, Write::Delete { .. }) => Ok(()),
            Err(Refused(_)) => Err(Ended::Again),
        };
        if self.fuse_blows(true) {
            return Err(Ended::Killed);
        }
        self.interfere();
        outcome
    }

    fn load(&mut self, subject: &Subject<'_>, revision: &Revision) -> Result<(), Ended> {
        let at = ObjectRef::new(
            Kind::ControllerRevision,
            &subject.names.namespace,
            subject.names.snapshot(revision),
        );
        let stored = self.cluster.get(&at).and_then(|s| objects::template_of(s, revision));
        let live = || subject.target_template().filter(|t| Revision::of(t) == *revision).cloned();
        let Some(template) = stored.or_else(live) else { return Err(Ended::Again) };
        self.keep(revision, template);
        Ok(())
    }

    fn redefault(
        &mut self,
        subject: &Subject<'_>,
        revision: &Revision,
        live: &Revision,
    ) -> Result<(), Ended> {
        self.dry_runs += 1;
        let at = ObjectRef::new(
            Kind::ControllerRevision,
            &subject.names.namespace,
            subject.names.snapshot(revision),
        );
        let stored = self.cluster.get(&at).and_then(|s| objects::template_of(s, revision));
        let today = match stored.and_then(|template| subject.redefault(&template)) {
            None => None,
            Some(write) => match self.cluster.clone().write(&write, sidetrack::api::keys::FIELD_MANAGER) {
                Ok(tried) => Some(tried.unwrap()["spec"]["template"].clone()),
                Err(_) => return Err(Ended::Again),
            },
        };
        let now = today.as_ref().map_or_else(|| revision.clone(), Revision::of);
        self.note(format!("tries {revision} where {live} is live: {now}"));
        if let Some(template) = today {
            self.keep(&now, template);
        }
        let Some(process) = &mut self.process else { return Ok(()) };
        process.memory.today.insert((revision.clone(), live.clone()), now);
        Ok(())
    }

    fn keep(&mut self, revision: &Revision, template: Value) {
        let Some(process) = &mut self.process else { return };
        process.templates.insert(revision.clone(), template);
        if !process.memory.loaded.contains(revision) {
            process.memory.loaded.push(revision.clone());
        }
    }

    fn ask(&mut self, subject: &Subject<'_>, check: &Check) {
        let now = self.cluster.now;
        let secret = subject.secret_of(check).map(|at| {
            self.cluster.get(&at).cloned().ok_or_else(|| format!("secrets {:?} not found", at.name))
        });
        let (answer, delay) = match subject.question(check, secret) {
            Question::Settled(answer) => (answer, jiff::SignedDuration::ZERO),
            Question::Send(request) => {
                let (exchange, delay) = self.answers.exchange(&request, now);
                (subject.judge(check, &exchange).answer, delay)
            }
        };
        self.note(format!("asks {check:?}: {}", if answer.passed { "yes" } else { "no" }));
        self.laws.asked(check, &answer, now + delay);
        let Some(process) = &mut self.process else { return };
        process.answers.push((now + delay, process.memory.tick, check.clone(), answer));
    }
}

/// The number of pods that a write asks for, when it asks for nothing else.
pub fn scaled_to(write: &Write) -> Option<i64> {
    let Write::Patch { patch, .. } = write else { return None };
    let mut changes = patch.0.iter().filter(|op| !matches!(op, json_patch::PatchOperation::Test(_)));
    match (changes.next()?, changes.next()) {
        (json_patch::PatchOperation::Add(add), None) if add.path.as_str() == "/spec/replicas" => {
            add.value.as_i64()
        }
        _ => None,
    }
}

/// What Sidetrack's cache would show of a Canary.
pub fn subject<'a>(
    cluster: &crate::cluster::Cluster,
    canary: &ObjectRef,
    templates: &'a BTreeMap<Revision, Value>,
    config: &'a Config,
) -> Option<Subject<'a>> {
    let object = cluster.objects.get(canary)?.shared();
    let typed = Canary::deserialize(&*object).unwrap();
    let objects = Subject::references(&typed, config)
        .into_iter()
        .filter_map(|at| Some((at.clone(), cluster.objects.get(&at)?.shared())))
        .collect();
    let label = label_value(&canary.name);
    let snapshots = cluster
        .objects
        .iter()
        .filter(|(at, o)| {
            at.kind == Kind::ControllerRevision
                && o["metadata"]["labels"][sidetrack::api::keys::CANARY] == label.as_str()
        })
        .map(|(at, o)| {
            let text = |field: &str| o["metadata"][field].as_str().unwrap().to_owned();
            (at.name.clone(), Snapshot { uid: text("uid"), created: text("creationTimestamp") })
        })
        .collect();
    Some(Subject::new(object, objects, snapshots, templates, config).unwrap())
}

fn brief(write: &Write) -> String {
    match write {
        Write::Create { .. } => "create".into(),
        Write::Replace { .. } => "replace".into(),
        Write::ReplaceStatus { object } => {
            let status = &object["status"];
            format!(
                "status {} weight {} failed {} run {}",
                status["phase"], status["canaryWeight"], status["failedChecks"], status["run"]
            )
        }
        Write::Evict { .. } => "evict".into(),
        Write::Delete { .. } => "delete".into(),
        Write::Patch { patch, .. } | Write::PatchStatus { patch, .. } => {
            let changes = patch.0.iter().filter(|op| !matches!(op, json_patch::PatchOperation::Test(_)));
            let paths: Vec<String> = changes
                .map(|op| match op {
                    json_patch::PatchOperation::Add(add) => {
                        let value = add.value.to_string();
                        format!("{}={}", add.path, value.chars().take(60).collect::<String>())
                    }
                    other => format!("-{}", other.path()),
                })
                .collect();
            format!("patch {}", paths.join(" "))
        }
    }
}
