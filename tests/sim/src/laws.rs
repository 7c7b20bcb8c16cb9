//! The invariants of the interlock (its §6), judged from outside after every write, pod change and moment.
//!
//! Nothing here trusts what Sidetrack says of itself: releases, steps and promotions are read from the objects as
//! they change, and answers from what was answered.

use crate::cluster::text;
use crate::laws_of_life::Life;
use crate::laws_of_others::Others;
use crate::traffic::Shares;
use crate::world::World;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use sidetrack::api::names::Names;
use sidetrack::api::revision::{RESTARTED_AT, Revision};
use sidetrack::api::status::{CanaryStatus, Phase, Run, Stage};
use sidetrack::api::{Verb, keys};
use sidetrack::object::{Kind, ObjectRef};
use sidetrack::rollout::model::plan::{Answer, Check};
use sidetrack::rollout::objects::{Label, target_template};
use std::collections::{BTreeMap, BTreeSet};

/// How long a backend without ready pods may keep its weight (I3).
pub(super) const PATIENCE: SignedDuration = SignedDuration::from_secs(1);

/// What has been seen so far.
#[derive(Clone, Debug, Default)]
pub struct Laws {
    /// The target's selector label and value.
    pub selector: Option<(String, String)>,
    pub(super) released: Option<Revision>,
    /// What the generated canary was made for.
    pub(super) made_for: Option<Revision>,
    /// Revisions released since the target last had no pods: their pods are on the way out.
    pub(super) leaving: BTreeSet<Revision>,
    /// Revisions that came in while the webhook was gone.
    pub(super) unheld: BTreeSet<Revision>,
    /// Revisions that the primary may run.
    pub(super) good: BTreeSet<Revision>,
    pub(super) glassed: BTreeSet<Revision>,
    /// What people asked of releases.
    pub asked: BTreeSet<(Revision, Verb)>,
    /// Somebody edited the primary's template by hand.
    pub(super) primary_edited: bool,
    /// Somebody else set the weight that is there.
    pub(super) foreign_weight: bool,
    /// Pods of the target that somebody scaled up.
    pub(super) by_hand: bool,
    /// When each revision was held last; again by the one that is being released does not count.
    pub(super) held_at: BTreeMap<Revision, Timestamp>,
    /// Last answer by check, and when it came.
    pub(super) answers: BTreeMap<String, (bool, Timestamp)>,
    /// The last step of the run: its revision, when, and its weight.
    pub(super) step: Option<(Revision, Timestamp, i64)>,
    pub(super) canary_zero: Option<Timestamp>,
    pub(super) primary_zero: Option<Timestamp>,
    pub(super) stranded: Option<Timestamp>,
    pub alive_since: Option<Timestamp>,
    pub(super) dead: bool,
    /// What the API server said no to, until it takes a write of it.
    pub(super) denied: Option<ObjectRef>,
    /// Switched off for replays of what is known to break them.
    pub off: bool,
    /// How often a law was applied, by law.
    pub applied: BTreeMap<&'static str, usize>,
    /// Revisions that the primary has run, in order.
    pub promotions: Vec<Revision>,
    /// What is not Sidetrack's.
    pub(super) others: Others,
    pub(super) life: Life,
}

impl Laws {
    pub fn process(&mut self, alive: bool, now: Timestamp) {
        self.dead = !alive;
        self.alive_since = Some(now);
        self.stranded = None;
    }

    pub fn asked(&mut self, check: &Check, answer: &Answer, at: Timestamp) {
        let name = match check {
            Check::Hook { index, .. } => format!("hook {index}"),
            other => format!("{other:?}"),
        };
        self.answers.insert(name, (answer.passed, at));
    }

    pub fn created(&mut self, at: &ObjectRef, object: &Value) {
        if at.kind == Kind::Deployment && self.selector.is_none() {
            self.selector = Label::of(object).map(|l| (l.key, l.value));
        }
        if at.kind == Kind::Deployment {
            self.good.extend(object.pointer("/spec/template").map(Revision::of));
        }
    }

    pub fn foreign(&mut self, at: &ObjectRef, old: &Value, new: Option<&Value>, unheld: bool) {
        let Some(new) = new.filter(|_| at.kind == Kind::Deployment) else { return };
        let template = |o: &Value| o.pointer("/spec/template").map(Revision::of);
        let generated = text(old, "/metadata/labels/sidetrack.dev~1role") == Some(keys::ROLE_GENERATED);
        if template(old) != template(new) {
            if generated {
                self.primary_edited = true;
            } else if unheld {
                self.unheld.extend(template(new));
            }
        }
        let broken =
            annotation(new, keys::BREAK_GLASS).filter(|b| annotation(old, keys::BREAK_GLASS) != Some(b));
        if broken.is_some_and(|b| b.starts_with(&format!("{} ", old["metadata"]["generation"]))) {
            self.glassed.extend(template(new));
        }
        let glassed = |o: &Value| annotation(o, keys::GLASSED).map(Revision::from_key);
        if glassed(new) != glassed(old) {
            self.glassed.extend(glassed(new));
        }
        // A paused Deployment that is scaled starts pods of whatever ReplicaSet it has; they get no weight.
        let pauses = new["spec"]["paused"] == true && annotation(new, keys::HOLD).is_none();
        if !generated && (pauses || new["spec"]["replicas"] != old["spec"]["replicas"]) {
            self.by_hand = true;
        }
        if unheld && !generated && annotation(new, keys::HOLD).is_none() {
            self.released = None;
        }
    }

    /// The API server shows templates otherwise: the same revisions have other hashes.
    pub fn renamed(&mut self, moved: &BTreeMap<Revision, Revision>) {
        let name = |r: &Revision| moved.get(r).unwrap_or(r).clone();
        for set in [&mut self.leaving, &mut self.unheld, &mut self.good, &mut self.glassed] {
            *set = set.iter().map(name).collect();
        }
        self.promotions = self.promotions.iter().map(name).collect();
        self.held_at = self.held_at.iter().map(|(r, at)| (name(r), *at)).collect();
        self.released = self.released.as_ref().map(name);
        self.made_for = self.made_for.as_ref().map(name);
        self.step = self.step.clone().map(|(r, at, weight)| (name(&r), at, weight));
    }

    fn apply(&mut self, law: &'static str) {
        *self.applied.entry(law).or_default() += 1;
    }
}

pub(super) fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.pointer("/metadata/annotations")?.get(key)?.as_str()
}

pub(super) fn held(target: &Value) -> Option<Revision> {
    let paused = target["spec"]["paused"].as_bool().unwrap_or(false);
    annotation(target, keys::HOLD).filter(|_| paused).map(Revision::from_key)
}

pub(super) fn primary_revision(
    primary: &Value,
    names: &Names,
    selector: Option<&(String, String)>,
) -> Option<Revision> {
    let (key, value) = selector?.clone();
    Some(Revision::of(&target_template(primary, &Label { key, value, pods: None }, names)))
}

impl World {
    pub(super) fn law(&mut self, law: &'static str, holds: bool, what: &str) {
        self.laws.apply(law);
        if !holds && !self.laws.off {
            self.fail(&format!("{law} is broken: {what}"));
        }
    }

    /// Whether pods of a Deployment have the ready threshold (or, `whole`, just one is ready).
    fn has_threshold(&self, name: &str, field: &str) -> bool {
        self.cluster.get(&self.deployment(name)).is_some_and(|object| self.had_threshold(name, object, field))
    }

    /// The same as the Deployment stood before a write.
    fn had_threshold(&self, name: &str, object: &Value, field: &str) -> bool {
        let pods = self.workloads.of(&self.cluster, &self.deployment(name));
        let new = pods.sets.iter().find(|s| Some(&s.template) == object.pointer("/spec/template"));
        let updated = new.map_or(0, |s| s.pods.len());
        let spec =
            self.cluster.get(&self.canary).map(|c| c["spec"]["analysis"][field].as_u64().unwrap_or(100));
        let threshold = usize::try_from(spec.unwrap_or(100)).unwrap();
        let replicas = usize::try_from(object["spec"]["replicas"].as_i64().unwrap_or(1)).unwrap();
        let total: usize = pods.sets.iter().map(|s| s.pods.len()).sum();
        if self.names.in_place() && held(object).is_some() {
            return pods.ready(self.cluster.now) >= replicas * threshold / 100;
        }
        updated >= replicas && total == updated && pods.ready(self.cluster.now) >= updated * threshold / 100
    }

    /// Judges a write that was stored, by Sidetrack or by somebody else.
    pub fn judge_write(&mut self, at: &ObjectRef, before: Option<&Value>, ours: bool) {
        let now = self.cluster.now;
        if ours {
            self.judge_others(at, before);
        }
        let after = self.cluster.get(at).filter(|_| at.kind == Kind::Deployment).cloned();
        if *at == self.canary
            && let Some(adopted) = self.status().adopted
        {
            // It may have taken over something else.
            let names = Names::new(&at.namespace, &at.name, adopted.target, Some(&adopted.service));
            self.names = names.in_layout(self.names.layout);
        }
        let is_target = *at == self.deployment(&self.names.target);
        let is_primary = *at == self.deployment(&self.names.primary);
        if self.names.in_place() {
            if is_target && let Some(after) = &after {
                self.judge_applied(before, after, ours);
            }
            if *at == self.deployment(&self.names.canary_deployment) {
                self.judge_generated(before, after.as_ref(), ours);
            }
        } else if is_target && let Some(after) = &after {
            self.judge_target(before, after, ours);
        }
        if is_primary
            && !is_target
            && let Some(after) = &after
        {
            self.judge_primary(before, after, ours);
        }
        if *at == self.canary && ours {
            self.judge_status();
        }
        let shares = self.shares();
        if let Some((route, shares)) = self.route()
            && route == *at
            && let Some(was) = before.and_then(|b| self.weights_of(b))
            && was != shares
        {
            self.laws.foreign_weight = !ours;
            if ours {
                let ready = match before.filter(|_| self.by_replicas) {
                    // There the write that raises the weight asks for the pods as well.
                    Some(before) => self.had_threshold(&at.name, before, "canaryReadyThreshold"),
                    None => self.has_threshold(&self.names.canary_deployment.clone(), "canaryReadyThreshold"),
                };
                self.judge_weight(was, shares, ready);
            }
        }
        let zero =
            |is: Option<bool>, since: Option<Timestamp>| is.unwrap_or(false).then(|| since.unwrap_or(now));
        self.laws.canary_zero = zero(shares.map(|s| s.canary == 0), self.laws.canary_zero);
        self.laws.primary_zero = zero(shares.map(|s| s.primary == 0), self.laws.primary_zero);
    }

    fn judge_target(&mut self, before: Option<&Value>, after: &Value, ours: bool) {
        let (was, is) = (before.and_then(held), held(after));
        let revision = after.pointer("/spec/template").map(Revision::of).unwrap();
        if is.is_some() && is != was {
            self.note_hold(is.clone());
            self.laws.released = self.laws.released.clone().filter(|_| !ours);
        }
        if ours && was.is_some() && is.is_none() && after["spec"]["paused"] != true {
            let promoted = annotation(after, keys::PROMOTED) == Some(revision.as_str());
            if !promoted {
                self.law("I1", was.as_ref() == Some(&revision), "a release of what the hold does not name");
                let paused = before.is_some_and(|b| annotation(b, keys::PAUSED_BEFORE).is_some());
                self.law("I1", !paused, "a release of what its owner has paused");
                self.law("I4", self.shares().is_none_or(|s| s.canary == 0), "a release at weight");
                self.judge_gates(&revision);
            }
            // What ran before, by hand for one, is on its way out.
            let running: Vec<Revision> = self.target_pods().revisions().into_iter().cloned().collect();
            self.laws.leaving.extend(running);
            self.laws.leaving.insert(revision.clone());
            self.laws.released = Some(revision.clone());
            self.laws.by_hand = false;
        }
        let enrolled =
            |o: &Value| o.pointer("/metadata/labels").is_some_and(|l| l.get(keys::CANARY).is_some());
        if before.is_some_and(|b| !enrolled(b)) && enrolled(after) {
            self.laws.good.extend(is.is_none().then(|| revision.clone()));
            // What ran before it was ours is the owner's; it has no weight.
            let running: Vec<Revision> = self.target_pods().revisions().into_iter().cloned().collect();
            self.laws.leaving.extend(running);
        }
        let replicas = |o: &Value| o["spec"]["replicas"].as_i64().unwrap_or(1);
        let scaled = before.filter(|b| replicas(b) != replicas(after)).map(replicas);
        if ours && scaled == Some(0) && is.is_none() && self.laws.good.contains(&revision) {
            // It stands in for the primary, and is on its way out when something newer comes.
            self.laws.leaving.insert(revision.clone());
        }
        if ours && scaled.is_some() && replicas(after) == 0 {
            let drained = self.laws.canary_zero.is_some_and(|at| at + self.drain() <= self.cluster.now);
            let empty = self.target_pods().sets.iter().all(|s| s.pods.is_empty());
            self.law(
                "I4",
                // What somebody else has just set is not seen yet.
                drained || empty || self.lag.is_some() && self.laws.foreign_weight,
                "the target is scaled down before its traffic has left and drained",
            );
            let shares = self.shares();
            let serves = self.primary_pods().ready(self.cluster.now) > 0
                || self.primary().is_none_or(|p| replicas(p) == 0);
            let status = self.status();
            let back = |r: &Run| matches!(r.stage, Stage::Cancelling | Stage::Finalising);
            let served = status.run.as_ref().is_some_and(back) || status.phase == Phase::Initializing;
            self.law(
                "I4",
                empty || serves || shares.is_none() || !served || self.lag.is_some(),
                "the last ready pods are taken away",
            );
        }
        if ours && replicas(after) == 0 && scaled.is_some() {
            self.laws.by_hand = false;
        }
    }

    pub(super) fn drain(&self) -> SignedDuration {
        SignedDuration::try_from(self.config.drain_delay).unwrap()
    }

    pub(super) fn note_hold(&mut self, hold: Option<Revision>) {
        let run = self.cluster.get(&self.canary).and_then(|c| text(c, "/status/run/revision"));
        if let Some(hold) = hold.filter(|hold| run != Some(hold.as_str())) {
            self.laws.held_at.insert(hold, self.cluster.now);
        }
    }

    /// Every confirm-rollout hook has said yes to this very revision.
    pub(super) fn judge_gates(&mut self, revision: &Revision) {
        let opened = [Verb::Approve, Verb::Promote].iter().any(|verb| self.was_asked(revision, *verb));
        if self.laws.glassed.contains(revision) || opened {
            return;
        }
        for index in self.hooks("confirm-rollout") {
            let said = self.laws.answers.get(&format!("hook {index}")).copied();
            let yes = said.is_some_and(|(passed, at)| passed && Some(&at) >= self.laws.held_at.get(revision));
            self.law("I1", yes, &format!("{revision} is released although its gate has not passed"));
        }
    }

    fn was_asked(&self, revision: &Revision, verb: Verb) -> bool {
        self.laws.asked.contains(&(revision.clone(), verb))
    }

    pub(super) fn hooks(&self, kind: &str) -> Vec<usize> {
        let canary = self.cluster.get(&self.canary);
        let all =
            canary.and_then(|c| c["spec"]["analysis"]["webhooks"].as_array()).cloned().unwrap_or_default();
        let is = |h: &Value| h["type"] == kind || (kind == "rollout" && h.get("type").is_none());
        all.iter().enumerate().filter(|(_, h)| is(h)).map(|(i, _)| i).collect()
    }

    fn judge_primary(&mut self, before: Option<&Value>, after: &Value, ours: bool) {
        let selector = self.laws.selector.clone();
        let of = |o: &Value| primary_revision(o, &self.names, selector.as_ref());
        let (was, is) = (before.and_then(of), of(after));
        if !ours || is.is_none() {
            return;
        }
        let is = is.unwrap();
        let template = |o: &Value| o.pointer("/spec/template").cloned();
        if before.and_then(template) != template(after) {
            let at_restart = |o: &Value| {
                o.pointer("/spec/template/metadata/annotations").and_then(|a| a.get(RESTARTED_AT)).cloned()
            };
            if was.as_ref() == Some(&is) {
                let restarted = before.and_then(at_restart) != at_restart(after);
                self.law("I8", restarted, "the primary is rolled although its revision stays");
            } else {
                if !self.laws.good.contains(&is) {
                    self.judge_promotion(&is, after);
                }
                self.laws.good.insert(is.clone());
                self.laws.promotions.push(is);
                self.laws.primary_edited = false;
            }
        }
        let replicas = |o: &Value| o["spec"]["replicas"].as_i64().unwrap_or(1);
        if before.is_some_and(|b| replicas(b) > 0) && replicas(after) == 0 {
            let asked = self.target().and_then(|t| annotation(t, keys::REQUESTED_REPLICAS)) == Some("0");
            self.law("I4", asked, "the primary is scaled to nothing unasked");
        }
    }

    /// A revision reaches the primary: it must have passed, or been let through on purpose.
    pub(super) fn judge_promotion(&mut self, revision: &Revision, primary: &Value) {
        let now = self.cluster.now;
        let recreate = primary.pointer("/spec/strategy/type").is_some_and(|t| t == "Recreate");
        if recreate && !self.by_replicas {
            let away = self.laws.primary_zero.is_some_and(|at| at + self.drain() <= now);
            self.law("I4", away, "a Recreate primary is written while it has traffic");
        }
        // What was first has never had a ready pod: what takes its place is the first one.
        if self.status().revisions.primary.is_none() && self.primary_pods().ready(now) == 0 {
            self.laws.good.insert(revision.clone());
            return;
        }
        let spec = self.cluster.get(&self.canary).map(|c| c["spec"].clone()).unwrap_or_default();
        if spec["skipAnalysis"] == true
            || self.laws.glassed.contains(revision)
            || self.was_asked(revision, Verb::Promote)
        {
            return;
        }
        if self.was_asked(revision, Verb::Skip) {
            let open = self
                .hooks("confirm-promotion")
                .iter()
                .all(|i| self.laws.answers.get(&format!("hook {i}")).is_some_and(|(passed, _)| *passed));
            return self.law("I2", open, &format!("{revision} is promoted although its gate is shut"));
        }
        let analysis = &spec["analysis"];
        let last = match analysis["stepWeights"].as_array().and_then(|w| w.last()) {
            Some(last) if analysis["stepWeight"].as_i64().unwrap_or(0) == 0 => last.as_i64().unwrap(),
            _ => analysis["maxWeight"].as_i64().unwrap_or(100),
        };
        let step = self.laws.step.clone();
        let there = step.as_ref().is_some_and(|(r, _, w)| r == revision && *w >= last);
        self.law("I2", there, &format!("{revision} is promoted without its last step: {step:?}"));
        let Some((_, at, _)) = step else { return };
        let mut asked: Vec<String> = self.hooks("rollout").iter().map(|i| format!("hook {i}")).collect();
        if !self.was_asked(revision, Verb::Approve) {
            asked.extend(self.hooks("confirm-promotion").iter().map(|i| format!("hook {i}")));
        }
        let metrics = analysis["metrics"].as_array().map_or(0, Vec::len);
        asked.extend((0..metrics).map(|index| format!("{:?}", Check::Metric { index })));
        for check in asked {
            let yes = self.laws.answers.get(&check).is_some_and(|(passed, t)| *passed && *t > at);
            self.law(
                "I2",
                yes,
                &format!("{revision} is promoted although {check} did not pass at its last step"),
            );
        }
        self.law("I8", now >= at + self.interval(), "the last step was not looked at for an interval");
    }

    pub(super) fn interval(&self) -> SignedDuration {
        let spec = self.cluster.get(&self.canary).and_then(|c| text(c, "/spec/analysis/interval"));
        let seconds = spec.and_then(|s| s.strip_suffix('s')?.parse().ok()).unwrap_or(60);
        SignedDuration::from_secs(seconds).max(SignedDuration::try_from(self.config.min_interval).unwrap())
    }

    fn judge_weight(&mut self, was: Shares, is: Shares, canary_ready: bool) {
        let now = self.cluster.now;
        let (canary, primary) = (self.canary_pods().ready(now), self.primary_pods().ready(now));
        let status = self.status();
        let stage = status.run.as_ref().map(|r| r.stage);
        let leaving = status.phase == Phase::Terminating;
        if is.canary > was.canary {
            let evacuates = primary == 0 && canary > 0;
            let live = self.target().and_then(|t| t.pointer("/spec/template")).map(Revision::of);
            // The pods count, not the template: a newer one may have been held on top a moment ago.
            let revision =
                status.run.as_ref().map(|r| Revision::from_key(&r.revision)).or_else(|| live.clone());
            let Some(revision) = revision else { return };
            let ready = live.as_ref() != Some(&revision) && self.canary_pods().revisions() == [&revision]
                || canary_ready;
            self.law(
                "I3",
                // Pods are not ready that the process was shown as ready.
                evacuates || self.lag.is_some() || (ready && canary > 0),
                "the canary's weight rises below its ready threshold",
            );
            if evacuates {
                self.judge_steps_in_status(&status);
            }
            if stage == Some(Stage::Analysing) && !evacuates {
                let repeats =
                    self.laws.step.as_ref().is_some_and(|(r, _, w)| *r == revision && *w == is.canary);
                if let Some((_, at, _)) = self.laws.step.clone().filter(|(r, ..)| *r == revision && !repeats)
                {
                    self.law("I8", now >= at + self.interval(), "two steps within an interval");
                }
                if !repeats {
                    self.laws.step = Some((revision, now, is.canary));
                }
            } else if !evacuates {
                // The target may stand in for the primary with the very same revision.
                let same = self.laws.promotions.last() == Some(&revision);
                let may = leaving || same || stage == Some(Stage::Clearing);
                self.law("I3", may, "the canary's weight rises outside an analysis");
            }
        }
        if is.primary > was.primary {
            self.law("I3", primary > 0 || canary == 0, "traffic goes to a primary without ready pods");
            if matches!(stage, Some(Stage::Returning | Stage::Finalising)) {
                let ready = self.has_threshold(&self.names.primary.clone(), "primaryReadyThreshold");
                self.law("I3", ready, "traffic returns to a primary below its ready threshold");
            }
        }
        if is.canary == 0 && !matches!(stage, Some(Stage::Returning | Stage::Finalising)) {
            self.laws.step = None;
        }
    }

    /// With no pod of the primary the canary has all of the traffic; its steps are then those that status takes.
    fn judge_steps_in_status(&mut self, status: &CanaryStatus) {
        let now = self.cluster.now;
        let alone = self.shares().is_some_and(|s| s.canary > 0) && self.primary_pods().ready(now) == 0;
        let Some(run) = status.run.as_ref().filter(|run| alone && run.stage == Stage::Analysing) else {
            return;
        };
        let (revision, weight) = (Revision::from_key(&run.revision), i64::from(run.weight));
        let before = self.laws.step.clone().filter(|(r, ..)| *r == revision);
        if before.as_ref().is_none_or(|(_, _, w)| weight > *w) && weight > 0 {
            let apart = before.is_none_or(|(_, at, _)| now >= at + self.interval());
            self.law("I8", apart, "two steps within an interval");
            self.laws.step = Some((revision, now, weight));
        }
    }

    fn judge_status(&mut self) {
        let status = self.status();
        let stated = self.cluster.get(&self.canary).is_some_and(|c| c.get("status").is_some());
        if stated && self.statuses.last() != Some(&status) {
            self.statuses.push(status.clone());
        }
        let counted = status.share.is_none_or(|share| share.percent == status.canary_weight);
        self.law("I9", counted, "the weight that is stated is not the share of the pods");
        self.judge_steps_in_status(&status);
        let run_closes = status.run.as_ref().is_none_or(|r| r.stage == Stage::Closing);
        if status.phase != Phase::Succeeded || !run_closes {
            return;
        }
        let (Some(target), Some(primary)) = (self.target().cloned(), self.primary().cloned()) else { return };
        if self.laws.primary_edited
            || self.statuses.iter().rev().nth(1).is_some_and(|s| s.phase == Phase::Succeeded)
        {
            return;
        }
        let named = status.revisions.primary.clone().unwrap_or_default();
        let runs = if self.names.in_place() {
            let pods = self.primary_pods().revisions();
            pods.first().map_or_else(|| Revision::from_key(&named), |r| (*r).clone())
        } else {
            primary_revision(&primary, &self.names, self.laws.selector.as_ref()).unwrap()
        };
        self.law("I9", runs.as_str() == named, "Succeeded names another revision than the primary runs");
        let ready = self.has_threshold(&self.names.primary.clone(), "primaryReadyThreshold");
        // What nobody is shown, nobody can state.
        self.law("I9", ready || self.lag.is_some(), "Succeeded although the primary is not ready");
        let live = target.pointer("/spec/template").map(Revision::of).unwrap();
        let pending = self.ready_message().contains(live.short());
        self.law(
            "I9",
            live.as_str() == named || pending,
            "Succeeded does not name the revision that is pending",
        );
    }
}
