//! Everything together, and time.

use crate::answers::Answers;
use crate::cluster::{Cluster, Defaults};
use crate::faults::{Faults, Lag};
use crate::laws::Laws;
use crate::process::Process;
use crate::traffic::{self, Shares};
use crate::workloads::{Pods, Workloads};
use crate::writers::Webhook;
use crate::{manifests, process};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize as _;
use serde_json::{Value, json};
use sidetrack::api::CanaryStatus;
use sidetrack::api::keys;
use sidetrack::api::names::{Layout, Names};
use sidetrack::api::revision::Revision;
use sidetrack::api::status::Phase;
use sidetrack::object::{Kind, ObjectRef, Write};
use sidetrack::rollout::model::gates::Guard;
use sidetrack::rollout::model::plan::{Message, Step};
use sidetrack::rollout::objects::{Label, target_template};
use sidetrack::rollout::subject::Config;
use std::collections::BTreeMap;

/// Time that passes while anything goes on.
const TICK: SignedDuration = SignedDuration::from_millis(10);
/// Lines of the log that a failure shows.
const TAIL: usize = 70;

/// Looks within one wait that can only be a loop.
const LOOKS: usize = 2_000;

type Action = Box<dyn FnOnce(&mut World) + Send>;

/// When a process is killed: before or after its n-th write from now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fuse {
    pub write: usize,
    pub after: bool,
}

pub struct World {
    pub cluster: Cluster,
    pub workloads: Workloads,
    pub answers: Answers,
    pub process: Option<Process>,
    pub config: Config,
    pub canary: ObjectRef,
    pub names: Names,
    pub webhook: Webhook,
    /// What the policy says that governs the target.
    pub guard: Guard,
    /// Nothing routes: the share of the traffic is the ratio of pods.
    pub by_replicas: bool,
    pub laws: Laws,
    pub said: Vec<Message>,
    /// Sidetrack's writes that were accepted, and the object after each.
    pub written: Vec<(Write, Option<Value>)>,
    /// Its writes that were sent.
    pub writes: usize,
    /// Pods that it evicted.
    pub evicted: usize,
    pub looks: usize,
    /// Writes that were tried without being stored.
    pub dry_runs: usize,
    /// Nothing happened in the last step.
    quiet: bool,
    /// Distinct statuses, in order.
    pub statuses: Vec<CanaryStatus>,
    log: Vec<String>,
    pub(super) fuse: Option<Fuse>,
    /// When a process that the fuse has ended is started again.
    pub(super) restart: Option<Timestamp>,
    pub(super) faults: Faults,
    pub(super) lag: Option<Lag>,
    /// What happened is not written down.
    pub silent: bool,
    between: Option<(usize, Action)>,
    later: Vec<(Timestamp, Action)>,
}

impl World {
    /// An empty cluster with Sidetrack in it, which will see this Canary.
    pub fn empty(namespace: &str, canary: &str, target: &str, apex: Option<&str>) -> Self {
        Self {
            cluster: Cluster { now: "2026-01-01T00:00:00Z".parse().unwrap(), ..Cluster::default() },
            workloads: Workloads::default(),
            answers: Answers::healthy(),
            process: Some(Process::default()),
            config: Config::default(),
            canary: ObjectRef::new(Kind::Canary, namespace, canary),
            names: Names::new(namespace, canary, target, apex),
            webhook: Webhook::Up,
            guard: Guard::default(),
            by_replicas: false,
            laws: Laws::default(),
            said: Vec::new(),
            written: Vec::new(),
            writes: 0,
            evicted: 0,
            looks: 0,
            dry_runs: 0,
            quiet: false,
            statuses: Vec::new(),
            log: Vec::new(),
            fuse: None,
            restart: None,
            faults: Faults::default(),
            lag: None,
            silent: false,
            between: None,
            later: Vec::new(),
        }
    }

    /// A copy of everything; what is to happen later is not in it.
    pub fn fork(&self) -> Self {
        assert!(self.later.is_empty() && self.between.is_none());
        Self {
            cluster: self.cluster.clone(),
            workloads: self.workloads.clone(),
            answers: self.answers.clone(),
            process: self.process.clone(),
            config: self.config.clone(),
            canary: self.canary.clone(),
            names: self.names.clone(),
            webhook: self.webhook,
            guard: self.guard.clone(),
            by_replicas: self.by_replicas,
            laws: self.laws.clone(),
            said: self.said.clone(),
            written: self.written.clone(),
            writes: self.writes,
            evicted: self.evicted,
            looks: self.looks,
            dry_runs: self.dry_runs,
            quiet: false,
            statuses: self.statuses.clone(),
            log: self.log.clone(),
            fuse: self.fuse,
            restart: self.restart,
            faults: self.faults.clone(),
            lag: self.lag.clone(),
            silent: self.silent,
            between: None,
            later: Vec::new(),
        }
    }

    /// The policy says something else from now on.
    pub fn guarded(&mut self, guard: Guard) {
        self.guard = guard;
        if let Some(process) = &mut self.process {
            process.seen = None;
        }
    }

    /// Deployment `app` at v1 with two pods, and a Canary.
    pub fn with(canary: Value) -> Self {
        Self::applied(manifests::deployment("v1", None, Some(2)), canary)
    }

    /// Another Deployment `app`, and a Canary.
    pub fn applied(target: Value, canary: Value) -> Self {
        let mut world = Self::empty(manifests::NAMESPACE, "app", "app", None);
        let layout = canary.pointer("/metadata/annotations").and_then(|a| a.get(keys::LAYOUT)?.as_str());
        world.names = world.names.in_layout(layout.and_then(Layout::parse).unwrap_or_default());
        world.by_replicas = canary["spec"]["provider"] == "kubernetes";
        if world.names.in_place() {
            world.apply(manifests::service(&json!({"app": "app"})));
        }
        world.apply(target);
        world.apply(canary);
        world
    }

    /// The same, initialised.
    pub fn initialised(canary: Value) -> Self {
        let mut world = Self::with(canary);
        world.until_phase(Phase::Initialized);
        world
    }

    pub fn note(&mut self, line: String) {
        if self.silent {
            return;
        }
        self.log.push(format!("{} {line}", self.cluster.now));
    }

    /// The last lines of the log.
    pub fn tail(&self) -> String {
        self.log[self.log.len().saturating_sub(TAIL)..].join("\n")
    }

    pub fn fail(&self, why: &str) -> ! {
        panic!("{why}\n{}\n{why}", self.tail());
    }

    // Time.

    /// Lets something happen, or time pass up to the next thing that can.
    pub fn step(&mut self, until: Timestamp) {
        let due: Vec<Action> = {
            let now = self.cluster.now;
            let (due, later) = std::mem::take(&mut self.later).into_iter().partition(|(at, _)| *at <= now);
            self.later = later;
            let due: Vec<(Timestamp, Action)> = due;
            due.into_iter().map(|(_, action)| action).collect()
        };
        let mut busy = !due.is_empty();
        if self.lag.as_ref().is_some_and(|lag| lag.until <= self.cluster.now) {
            self.catch_up();
        }
        if self.restart.is_some_and(|at| at <= self.cluster.now) {
            self.restart = None;
            self.start();
            busy = true;
        }
        due.into_iter().for_each(|action| action(self));
        let round = self.workloads.round(&mut self.cluster);
        busy |= round;
        if round {
            self.judge_pods();
        }
        let (now, version) = (self.cluster.now, self.cluster.version());
        if let Some(process) = &mut self.process {
            process.deliver(now);
            let news = process.seen != Some(version) && (self.lag.is_none() || process.seen.is_none());
            if news || process.wake.is_some_and(|at| at <= now) {
                self.look();
                busy = true;
                let wake = self.process.as_ref().and_then(|p| p.wake);
                if wake.is_some_and(|at| at <= now) {
                    self.fail("a look asks to be woken in the past: the loop would spin");
                }
            }
        }
        self.judge_time();
        self.judge_names();
        self.quiet = !busy;
        let next = self
            .later
            .iter()
            .map(|(at, _)| *at)
            .chain(self.restart)
            .chain(self.lag.as_ref().map(|lag| lag.until))
            .chain(self.process.iter().flat_map(|p| [p.wake, p.next_answer()]).flatten())
            .chain(self.workloads.next(&self.cluster))
            .filter(|at| *at > now)
            .min()
            .map_or(until, |at| at.min(until));
        self.cluster.now = if busy { now + TICK } else { next.max(now + SignedDuration::from_millis(1)) };
    }

    /// Runs until something is so, at most this many seconds. Whether it came.
    pub fn run_until(&mut self, seconds: i64, mut so: impl FnMut(&Self) -> bool) -> bool {
        let end = self.cluster.now + SignedDuration::from_secs(seconds);
        let looks = self.looks;
        while !so(self) {
            if self.cluster.now >= end {
                return false;
            }
            if self.looks - looks > LOOKS {
                self.fail("it looks and looks, and never rests");
            }
            self.step(end);
        }
        true
    }

    pub fn run(&mut self, seconds: i64) {
        self.run_until(seconds, |_| false);
    }

    /// Runs until something is so; fails after ten minutes.
    pub fn until(&mut self, what: &str, so: impl FnMut(&Self) -> bool) {
        if !self.run_until(600, so) {
            let status = self.status();
            self.fail(&format!("never came: {what}; status {:?} run {:?}", status.phase, status.run));
        }
    }

    /// Runs until status has, or for a moment had, this phase.
    pub fn until_phase(&mut self, phase: Phase) {
        let seen = self.statuses.len();
        let had = |w: &Self| w.statuses.get(seen..).into_iter().flatten().any(|s| s.phase == phase);
        self.until(phase.as_str(), |w| w.is(phase) || had(w));
    }

    pub fn until_weight(&mut self, weight: i64) {
        self.until(&format!("weight {weight}"), |w| w.weight() == weight);
    }

    /// Runs until a new run of the live template has ended as this phase, and all is quiet.
    pub fn until_over(&mut self, phase: Phase) {
        self.until(phase.as_str(), |w| w.is(phase) && w.at_rest() && w.status().run.is_none());
    }

    /// Something was changed that no version tells of.
    pub const fn stir(&mut self) {
        self.quiet = false;
    }

    /// Whether nothing would happen any more.
    pub fn at_rest(&self) -> bool {
        // A run is looked at again and again, also where it waits for somebody.
        let idle = |p: &Process| {
            (p.wake.is_none() || p.idle > 3 && self.status().run.is_some())
                && p.seen == Some(self.cluster.version())
                && p.next_answer().is_none()
        };
        self.quiet
            && self.process.as_ref().is_some_and(idle)
            && self.workloads.next(&self.cluster).is_none()
            && self.later.is_empty()
            && self.restart.is_none()
            && self.lag.is_none()
    }

    /// Does something later.
    pub fn after(&mut self, seconds: i64, action: impl FnOnce(&mut Self) + Send + 'static) {
        self.later.push((self.cluster.now + SignedDuration::from_secs(seconds), Box::new(action)));
    }

    /// Does something right after Sidetrack's n-th write from now.
    pub fn after_write(&mut self, write: usize, action: impl FnOnce(&mut Self) + Send + 'static) {
        self.between = Some((self.writes + write, Box::new(action)));
    }

    pub fn interfere(&mut self) {
        if self.between.as_ref().is_some_and(|(write, _)| self.writes >= *write)
            && let Some((_, action)) = self.between.take()
        {
            action(self);
        }
    }

    /// The API server is replaced by one with other defaults, or by the one before; the list that follows shows the
    /// stored objects as it reads them.
    pub fn upgrade(&mut self, defaults: Defaults) {
        self.note(format!("API server with {defaults:?} defaults"));
        self.catch_up();
        let mut moved = BTreeMap::new();
        let mut show = |template: &mut Value, label: Option<&Label>, names: &Names| {
            let back =
                |t: &Value| label.map(|l| target_template(&json!({"spec": {"template": t}}), l, names));
            let (was, was_back) = (Revision::of(template), back(template).as_ref().map(Revision::of));
            defaults.show(template);
            moved.insert(was, Revision::of(template));
            moved.extend(was_back.zip(back(template).as_ref().map(Revision::of)));
        };
        let label = self.laws.selector.clone().map(|(key, value)| Label { key, value, pods: None });
        self.cluster.defaults = defaults;
        for (_, object) in self.cluster.objects.iter_mut().filter(|(at, _)| at.kind == Kind::Deployment) {
            show(&mut object["spec"]["template"], label.as_ref(), &self.names);
        }
        for set in self.workloads.pods.values_mut().flat_map(|pods| &mut pods.sets) {
            show(&mut set.template, label.as_ref(), &self.names);
            set.revision = Revision::of(&set.template);
        }
        self.laws.renamed(&moved);
        self.stir();
        if let Some(process) = &mut self.process {
            process.seen = None;
        }
    }

    // The process.

    pub fn kill(&mut self) {
        self.note("process killed".into());
        self.process = None;
        self.laws.process(false, self.cluster.now);
    }

    pub fn start(&mut self) {
        self.note("process started".into());
        self.lag = None;
        self.process = Some(Process::default());
        self.laws.process(true, self.cluster.now);
    }

    /// Arms the fuse, counted from now; three seconds after it blows a new process starts.
    pub fn arm(&mut self, fuse: Fuse) {
        self.fuse = Some(Fuse { write: self.writes + fuse.write, ..fuse });
    }

    pub fn fuse_blows(&mut self, after: bool) -> bool {
        let done = self.writes + usize::from(!after);
        let blows = self.fuse.is_some_and(|f| f.after == after && f.write == done);
        if blows {
            self.fuse = None;
            self.kill();
            self.restart = Some(self.cluster.now + SignedDuration::from_secs(3));
        }
        blows
    }

    // What is there.

    pub fn status(&self) -> CanaryStatus {
        let status = self.cluster.get(&self.canary).and_then(|c| c.get("status"));
        status.map(|status| CanaryStatus::deserialize(status).unwrap()).unwrap_or_default()
    }

    fn is(&self, phase: Phase) -> bool {
        let stated = self.cluster.get(&self.canary).and_then(|c| c.pointer("/status/phase")?.as_str());
        stated.unwrap_or_default() == phase.as_str()
    }

    pub fn deployment(&self, name: &str) -> ObjectRef {
        ObjectRef::new(Kind::Deployment, &self.names.namespace, name)
    }

    pub fn target(&self) -> Option<&Value> {
        self.cluster.get(&self.deployment(&self.names.target))
    }

    pub fn primary(&self) -> Option<&Value> {
        self.cluster.get(&self.role(&self.names.primary))
    }

    /// A Deployment of the Canary's: one of a generated name that somebody else has made is none, and no Deployment is called
    /// by nothing.
    fn role(&self, name: &str) -> ObjectRef {
        let at = self.deployment(name);
        let owner = self.cluster.get(&at).and_then(|d| d.pointer("/metadata/ownerReferences/0/kind"));
        let foreign = name == self.names.generated() && owner.is_none_or(|kind| kind != "Canary");
        if foreign { self.deployment("") } else { at }
    }

    pub fn target_pods(&self) -> &Pods {
        self.workloads.of(&self.cluster, &self.deployment(&self.names.target))
    }

    pub fn canary_pods(&self) -> &Pods {
        self.workloads.of(&self.cluster, &self.role(&self.names.canary_deployment))
    }

    pub fn primary_pods(&self) -> &Pods {
        self.workloads.of(&self.cluster, &self.role(&self.names.primary))
    }

    /// The image tag of a Deployment's template.
    pub fn image(&self, name: &str) -> String {
        let object = self.cluster.get(&self.deployment(name));
        let image = object.and_then(|d| d.pointer("/spec/template/spec/containers/0/image")?.as_str());
        image.unwrap_or_default().rsplit(':').next().unwrap_or_default().to_owned()
    }

    pub fn key(&self, key: &str) -> Option<&str> {
        self.target()?.pointer("/metadata/annotations")?.get(key)?.as_str()
    }

    pub fn replicas(&self, name: &str) -> i64 {
        self.cluster.get(&self.deployment(name)).and_then(|d| d["spec"]["replicas"].as_i64()).unwrap_or(-1)
    }

    pub fn shares(&self) -> Option<Shares> {
        if self.by_replicas {
            let at = ObjectRef::new(Kind::Service, &self.names.namespace, &self.names.apex);
            let selector = self.cluster.get(&at)?.pointer("/spec/selector")?;
            let ready = |pods: &Pods| i64::try_from(pods.ready_behind(selector, self.cluster.now)).unwrap();
            let (canary, primary) = (ready(self.canary_pods()), ready(self.primary_pods()));
            let share = |pods: i64| (pods * 100).checked_div(canary + primary).unwrap_or(0);
            return Some(Shares { primary: share(primary), canary: share(canary) });
        }
        if self.names.in_place() && self.route().is_none() {
            // The owner's Service leads to the target's pods.
            return Some(Shares { primary: 100, canary: 0 });
        }
        let selector = self.laws.selector.as_ref()?;
        traffic::shares(&self.cluster, &self.names.namespace, &self.names.apex, (&selector.0, &selector.1))
    }

    /// The canary's weight in the route, or what is set in its place.
    pub fn weight(&self) -> i64 {
        self.route().map_or(0, |(_, s)| s.canary)
    }

    /// What states the weights.
    pub fn route(&self) -> Option<(ObjectRef, Shares)> {
        if !self.by_replicas {
            return traffic::route(&self.cluster, &self.names.namespace, &self.names.apex);
        }
        let at = self.deployment(&self.names.canary_deployment);
        let shares = self.weights_of(self.cluster.get(&at)?)?;
        Some((at, shares))
    }

    /// The weights that such an object states.
    pub fn weights_of(&self, object: &Value) -> Option<Shares> {
        if !self.by_replicas {
            return traffic::of(object, &self.names.apex);
        }
        let canary = traffic::set(object).map_or(0, |(weight, _)| weight);
        Some(Shares { primary: 100 - canary, canary })
    }

    pub fn has_said(&self, part: &str) -> bool {
        self.said.iter().any(|m| m.text.contains(part))
    }

    pub fn times_said(&self, part: &str) -> usize {
        self.said.iter().filter(|m| m.text.contains(part)).count()
    }

    /// The sentence in which status says what it waits for.
    pub fn ready_message(&self) -> String {
        let status = self.status();
        status.conditions.iter().find(|c| c.type_ == "Ready").map(|c| c.message.clone()).unwrap_or_default()
    }

    /// What Sidetrack would do now, without doing it: `true` when that is nothing.
    pub fn fresh_process_has_nothing_to_do(&self) -> bool {
        let templates = BTreeMap::new();
        let Some(subject) = process::subject(&self.cluster, &self.canary, &templates, &self.config) else {
            return true;
        };
        let mut memory = sidetrack::rollout::Memory::default();
        let plan = sidetrack::rollout::advance(&subject.observe(), &mut memory, self.cluster.now);
        // Idle ReplicaSets are looked for once a process.
        plan.steps.iter().all(|s| matches!(s, Step::Say(_) | Step::EmptyHistory))
    }
}

/// The revision of one of our fixtures' templates.
pub fn revision(image: &str) -> Revision {
    Revision::of(&manifests::template(image, None))
}
