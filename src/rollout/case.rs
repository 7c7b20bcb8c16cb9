//! What is decided on, and what every stage asks of it: whether pods are ready, whether traffic has left, what to say when.

use crate::api::revision::Revision;
use crate::api::status::{Phase, Run, Stage};
use crate::rollout::model::observed::{Memory, Observed, PodsSaid};
use crate::rollout::model::plan::{Message, Plan, Step};
use crate::rollout::model::workload::{NotReady, Workload};
use crate::rollout::status::{Draft, if_new};
use jiff::{SignedDuration, Timestamp};

/// One decision in the making.
pub(in crate::rollout) struct Case<'a> {
    pub(in crate::rollout) o: &'a Observed,
    pub(in crate::rollout) m: &'a mut Memory,
    pub(in crate::rollout) now: Timestamp,
}

impl Case<'_> {
    /// Says something that lasts: once, and again only when it changes.
    pub(in crate::rollout) fn lasting(&mut self, message: Message) -> Plan {
        if self.m.said.as_ref() == Some(&message) {
            return Plan::default();
        }
        self.m.said = Some(message.clone());
        Plan::default().say(message)
    }

    /// Says something that lasts: when it changes, and once an interval, as Flagger does at each tick.
    pub(in crate::rollout) fn repeating(&mut self, message: Message) -> Plan {
        let due = self.m.said_at.and_then(|at| at.saturating_add(self.o.policy.interval).ok());
        let at = self.now.saturating_add(self.o.policy.interval).unwrap_or(self.now);
        if due.is_some_and(|due| self.now < due) {
            return Plan::default().wake(due.unwrap_or(at));
        }
        self.m.said_at = Some(self.now);
        Plan::default().say(message).wake(at)
    }

    /// Says why something that began at `since` is not done: what is merely under way is not news, what takes longer
    /// than an interval is.
    pub(in crate::rollout) fn overdue(&mut self, since: Timestamp, message: Message) -> Plan {
        match self.after_interval(since) {
            Some(due) => Plan::default().wake(due),
            None => self.repeating(message),
        }
    }

    /// The end of an interval that began at `since`, if it is still to come.
    pub(in crate::rollout) fn after_interval(&self, since: Timestamp) -> Option<Timestamp> {
        let due = since.saturating_add(self.o.policy.interval).unwrap_or(self.now);
        (self.now < due).then_some(due)
    }

    /// `canary.namespace`, as most messages have it.
    pub(in crate::rollout) fn canary(&self) -> String {
        format!("{}.{}", self.o.names.canary, self.o.names.namespace)
    }

    /// `target.namespace`.
    pub(in crate::rollout) fn target(&self) -> String {
        format!("{}.{}", self.o.names.target, self.o.names.namespace)
    }

    /// The Deployment of the canary's pods, `name.namespace`.
    pub(in crate::rollout) fn canary_deployment(&self) -> String {
        format!("{}.{}", self.o.names.canary_deployment, self.o.names.namespace)
    }

    /// The Deployment of the primary's pods, `name.namespace`.
    pub(in crate::rollout) fn primary(&self) -> String {
        format!("{}.{}", self.o.names.primary, self.o.names.namespace)
    }

    pub(in crate::rollout) fn canary_not_ready(&self, error: &NotReady) -> String {
        format!("canary deployment {} not ready: {}", self.canary_deployment(), error.message)
    }

    pub(in crate::rollout) fn primary_not_ready(&self, error: &NotReady) -> String {
        format!("{} not ready: {}", self.primary(), error.message)
    }

    /// Adds to a reason what pods that are not ready say of it themselves: status tells it when they are long gone.
    pub(in crate::rollout) fn with_pods(
        &self,
        deployment: &str,
        run: &Run,
        text: &str,
    ) -> Result<String, Plan> {
        let revision = &run.revision;
        let of_these = |said: &&PodsSaid| said.deployment == deployment && said.revision == *revision;
        let said = self.m.pods.as_ref().filter(of_these);
        match said.filter(|said| self.after_interval(said.at).is_some()) {
            Some(said) => {
                Ok(said.why.as_ref().map_or_else(|| text.to_owned(), |why| format!("{text}; {why}")))
            }
            None => {
                Err(Step::AskPods { deployment: deployment.to_owned(), revision: revision.clone() }.into())
            }
        }
    }

    /// The same of the canary's pods.
    pub(in crate::rollout) fn with_canarys_pods(&self, run: &Run, text: &str) -> Result<String, Plan> {
        self.with_pods(&self.o.names.canary_deployment, run, text)
    }

    /// The canary's pods are awaited: what takes longer than an interval is said once an interval, and stated with their words.
    pub(in crate::rollout) fn canary_awaited(&mut self, run: &Run, text: String) -> Plan {
        if self.after_interval(run.since).is_some() {
            return self.overdue(run.since, Message::warning(text));
        }
        let why = match self.with_canarys_pods(run, &text) {
            Err(plan) => return plan,
            Ok(why) => why,
        };
        let said = self.overdue(run.since, Message::warning(text));
        if said.steps.is_empty() {
            return said;
        }
        let stated = self.waits(self.o.status.phase, &format!("The canary is being started: {why}."));
        Plan { steps: said.steps.into_iter().chain(stated.steps).collect(), wake: said.wake }
    }

    /// Judges the canary: the pods of the run's snapshot, all of them, and ready (interlock §5.4).
    pub(in crate::rollout) fn canary_ready(&self, target: &Workload, run: &Run) -> Result<(), NotReady> {
        let o = self.o;
        let Some(canary) = &o.canary else {
            return Err(NotReady { message: "deployment not found".into(), deadline: false });
        };
        // Of a target that a newer revision was held on the pods count, not the template.
        let own = o.names.in_place() || target.keys.hold.is_none();
        if own && o.canary_revision.as_ref().is_none_or(|r| r.as_str() != run.revision) {
            return Err(NotReady {
                message: format!("the template is {}, not the analysed one", canary.revision),
                deadline: false,
            });
        }
        let policy = &o.policy;
        canary.ready(
            &o.names.canary_deployment,
            policy.canary_ready,
            policy.deadline,
            run.since,
            self.now,
        )?;
        if policy.by_replicas && canary.replicas > 0 && canary.rollout.available == 0 {
            // Of the few that make a share, a threshold below 100 would ask for none.
            return Err(NotReady { message: "no updated replica is available".into(), deadline: false });
        }
        Ok(())
    }

    /// Judges the primary.
    pub(in crate::rollout) fn primary_ready(&self) -> Result<(), NotReady> {
        let Some(primary) = &self.o.primary else {
            return Err(NotReady { message: "deployment not found".into(), deadline: false });
        };
        let since = self.o.status.run.as_ref().map_or(Timestamp::UNIX_EPOCH, |run| run.since);
        let policy = &self.o.policy;
        if self.o.names.in_place() && primary.held() {
            // Its status counts pods of the held template, which there are none of. A roll that was stopped half-way is
            // mended by what is analysed now: that does not wait for the pods which it is to replace.
            let mixed = self.o.status.revisions.mixed.is_some();
            primary.serves(if mixed { 0 } else { policy.primary_ready })?;
        } else {
            primary.ready(&self.o.names.primary, policy.primary_ready, policy.deadline, since, self.now)?;
        }
        let stopped = self.o.target.as_ref().is_some_and(|t| t.keys.requested_replicas == Some(0))
            || self.o.names.in_place() && self.o.status.phase == Phase::Initializing;
        if primary.replicas == 0 && !stopped {
            return Err(NotReady { message: "it is scaled to 0".into(), deadline: false });
        }
        Ok(())
    }

    /// When the roll of the primary that goes on since then is late.
    pub(in crate::rollout) fn primary_late_at(&self, since: Timestamp) -> Timestamp {
        let deadline = self.o.policy.deadline;
        match &self.o.primary {
            Some(primary) => primary.late_at(since, deadline, self.now),
            None => since.saturating_add(deadline).unwrap_or(self.now),
        }
    }

    /// Whether pods of the canary can take traffic at all.
    pub(in crate::rollout) fn canary_serves(&self) -> bool {
        self.o.canary.as_ref().is_some_and(|c| c.rollout.available > 0)
    }

    /// Whether pods of the primary can take traffic at all.
    pub(in crate::rollout) fn primary_serves(&self) -> bool {
        self.o.primary.as_ref().is_some_and(|p| p.rollout.available > 0)
    }

    /// `Ok` when the live route has had the canary at zero, seen by the data plane where it says so, for the
    /// drain delay; else the plan that gets there. Without canary pods there is nothing to drain.
    pub(in crate::rollout) fn drained(&self) -> Result<(), Plan> {
        let weight = self.o.routes.weight.unwrap_or(0);
        if weight > 0 && self.canary_serves() && self.o.primary.is_some() && !self.primary_serves() {
            // Traffic stays where ready pods are; the primary's are watched.
            return Err(Plan::default());
        }
        let pods = self.o.canary.as_ref().is_some_and(|c| c.rollout.replicas > 0);
        self.drained_since(self.o.routes.weight == Some(0), self.m.zero_since, pods, 0)
    }

    /// The same for the primary's side: the canary at 100.
    pub(in crate::rollout) fn primary_drained(&self) -> Result<(), Plan> {
        self.drained_since(self.o.routes.weight == Some(100), self.m.full_since, true, 100)
    }

    fn drained_since(
        &self,
        there: bool,
        since: Option<Timestamp>,
        pods: bool,
        weight: i32,
    ) -> Result<(), Plan> {
        if !there {
            return Err(if self.o.routes.weight.is_some() {
                Step::SetWeight(weight).into()
            } else {
                Plan::default()
            });
        }
        match since {
            None => self.taken_up(weight),
            Some(_) if !pods => Ok(()),
            Some(since) => {
                let end = since.saturating_add(self.o.settings.drain).unwrap_or(since);
                if self.now >= end { Ok(()) } else { Err(Plan::default().wake(end)) }
            }
        }
    }

    /// The data plane has not taken up the route yet; its status is watched. What it does not do within the deadline it may
    /// never do: a canary's weight of zero, and a Canary that leaves, are not kept back by that.
    fn taken_up(&self, weight: i32) -> Result<(), Plan> {
        let Some((why, (_, since))) = self.o.routes.unsettled.as_ref().zip(self.m.unsettled) else {
            return Err(Plan::default());
        };
        if let Some(due) = self.after_interval(since) {
            return Err(Plan::default().wake(due));
        }
        let late = self.unsettled_for_long();
        if late && (weight == 0 || self.o.status.phase == Phase::Terminating) {
            return Ok(());
        }
        let plan = self.waits(self.o.status.phase, &format!("The route is not taken up yet: {why}."));
        Err(self.unsettled_until().filter(|_| !late).into_iter().fold(plan, Plan::wake))
    }

    /// When the data plane has had the whole deadline for the route as it is.
    fn unsettled_until(&self) -> Option<Timestamp> {
        let (_, since) = self.m.unsettled?;
        Some(since.saturating_add(self.o.policy.deadline).unwrap_or(self.now))
    }

    /// Whether it has.
    pub(in crate::rollout) fn unsettled_for_long(&self) -> bool {
        self.unsettled_until().is_some_and(|end| self.now >= end)
    }

    /// Writes status with a sentence that says what is waited for, when it says something new.
    pub(in crate::rollout) fn waits(&self, phase: Phase, waits_for: &str) -> Plan {
        if_new(self.o, Draft::from(self.o).finish(phase, waits_for, self.now))
    }

    /// As [`Self::waits`], and says why once an interval.
    pub(in crate::rollout) fn waits_saying(
        &mut self,
        phase: Phase,
        waits_for: &str,
        message: Message,
    ) -> Plan {
        let mut plan = self.waits(phase, waits_for);
        let said = self.repeating(message);
        plan.steps.extend(said.steps);
        Plan { wake: said.wake, ..plan }
    }

    /// The stage after this one, in status.
    pub(in crate::rollout) fn enter(&self, run: &Run, stage: Stage) -> Run {
        Run { stage, since: self.now, awaits: None, ..run.clone() }
    }

    /// The same for the promoted revision, which something else has where its stored template was lost.
    pub(in crate::rollout) fn promoted_loaded(&self, revision: &Revision) -> Result<(), Plan> {
        let known =
            self.m.loaded.contains(revision) || self.o.snapshots.contains(&self.o.names.snapshot(revision));
        if known || self.m.lost.as_ref() == Some(revision) {
            return self.loaded(revision);
        }
        Err(if self.o.names.in_place() {
            Step::StoreRunning(revision.clone()).into()
        } else if self.o.primary_restorable {
            Step::StorePrimarySnapshot(revision.clone()).into()
        } else {
            return self.loaded(revision);
        })
    }

    /// The template of a revision must be at hand before it is written anywhere.
    pub(in crate::rollout) fn loaded(&self, revision: &Revision) -> Result<(), Plan> {
        if self.m.loaded.contains(revision) {
            Ok(())
        } else {
            Err(Step::LoadSnapshot(revision.clone()).into())
        }
    }

    /// Whether the primary's live template is the promoted snapshot: what a revert must be measured against.
    pub(in crate::rollout) fn primary_runs(&self, revision: &Revision) -> bool {
        self.o.primary_revision.as_ref() == Some(revision)
    }

    /// What a new hold on the target means for a run on `revision`.
    pub(in crate::rollout) fn newer(&self, target: &Workload, revision: &str) -> Option<Newer> {
        if self.o.names.in_place()
            && target.keys.hold.is_none()
            && target.keys.promoted.as_ref() == Some(&target.revision)
            && target.revision.as_str() != revision
        {
            return Some(Newer::Reverted); // the webhook has let it run (interlock §4, rule 5)
        }
        let hold = target.keys.hold.as_ref().filter(|_| target.held())?;
        if target.keys.promoted.as_ref() == Some(hold) && self.primary_runs(hold) {
            return Some(Newer::Reverted);
        }
        (hold.as_str() != revision).then(|| Newer::Superseded(hold.clone()))
    }

    /// Waits where the Deployment's owner has paused it: nothing is released until they resume it.
    pub(in crate::rollout) fn owner_resumed(&self, target: &Workload) -> Result<(), Plan> {
        if !target.keys.paused_before {
            return Ok(());
        }
        let text = format!("Revision {} is held until its owner resumes {}.", target.revision, self.target());
        Err(self.waits(self.o.status.phase, &text))
    }

    /// Time from now.
    pub(in crate::rollout) fn after(&self, delay: SignedDuration) -> Timestamp {
        self.now.saturating_add(delay).unwrap_or(self.now)
    }
}

/// A hold that arrived.
pub(in crate::rollout) enum Newer {
    /// It is the promoted revision: the run is cancelled.
    Reverted,
    /// It is another revision: the run starts over with it.
    Superseded(Revision),
}
