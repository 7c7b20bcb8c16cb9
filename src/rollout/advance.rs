//! The decision: from what is observed to the next steps.
//!
//! [`advance`] is total and level-triggered: it looks at the state as it is, finds the first thing that is not as
//! it should be, and returns the steps that mend it. It is called again after every change, so a plan is short.

use crate::api::status::{Phase, Run, Stage};
use crate::rollout::observed::{Backend, Memory, Observed};
use crate::rollout::plan::{Message, Plan, Step};
use crate::rollout::revision::Revision;
use crate::rollout::status::{Draft, REFUSED, TARGET_MISSING, if_new, pending};
use crate::rollout::workload::{NotReady, Workload};
use crate::rollout::{
    analysis, bypass, checked, contest, in_place, initialise, leave, promotion, rebaseline, refused, release,
    repair, rest, rollback, share, taken, verbs,
};
use jiff::{SignedDuration, Timestamp};

/// Decides what to do about one Canary now.
#[must_use]
pub fn advance(observed: &Observed, memory: &mut Memory, now: Timestamp) -> Plan {
    memory.note(observed, now);
    let kept = (!memory.unkept.is_empty()).then(|| observed.but_for(&memory.unkept));
    let observed = kept.as_ref().unwrap_or(observed);
    let ticks = memory.tick.is_some();
    let mut case = Case { o: observed, m: memory, now };
    let plan = case.decide();
    let plan = refused::heard(&mut case, plan);
    let plan = refused::over(&case, plan);
    // A share that was stated a moment ago and has changed is stated again in time.
    let due = share::due(&case).into_iter().chain(repair::replicas_due(&case));
    let mut plan = due.fold(plan, Plan::wake);
    // A run is looked at once an interval whatever else may happen: no watch is trusted to bring every change.
    let goes_on = observed.status.run.as_ref().is_some_and(|run| !run.paused);
    if goes_on && plan.steps.is_empty() && plan.wake.is_none() {
        plan = plan.wake(now.saturating_add(observed.policy.interval).unwrap_or(now));
    }
    checked::note(&mut plan, observed, memory, ticks, now);
    plan
}

/// One decision in the making.
pub(super) struct Case<'a> {
    pub(super) o: &'a Observed,
    pub(super) m: &'a mut Memory,
    pub(super) now: Timestamp,
}

impl Case<'_> {
    fn decide(&mut self) -> Plan {
        let o = self.o;
        if let Some(plan) = taken::advance(self) {
            return plan;
        }
        if o.deleting {
            if let Some(plan) = verbs::refuse(self, "the Canary is being deleted") {
                return plan;
            }
            return rebaseline::advance(self).unwrap_or_else(|| leave::advance(self));
        }
        if (!o.refusals.is_empty() || o.policy.suspend)
            && let Some(plan) = self.served()
        {
            return plan;
        }
        if !o.refusals.is_empty() {
            let why = o.refusals.join(" ");
            if let Some(plan) = verbs::refuse(self, &format!("its spec is not served: {why}")) {
                return plan;
            }
            let refused = Draft::from(o).stall(REFUSED, &why, self.now);
            let plan = refused
                .map_or_else(Plan::default, |status| Plan::default().say(Message::warning(why)).then(status));
            // What others have in the namespace changes without a word to us.
            return match self.surveyed() {
                Some(looks) if o.surveyed && plan.steps.is_empty() => looks,
                _ => self.m.survey_due(o.policy.interval).into_iter().fold(plan, Plan::wake),
            };
        }
        if !o.guarded {
            return Step::GuardCanary.into();
        }
        match verbs::advance(self) {
            None => self.go_on(),
            Some(plan) if !plan.steps.is_empty() => plan,
            Some(Plan { wake, .. }) => wake.into_iter().fold(self.go_on(), Plan::wake),
        }
    }

    /// Whatever the spec says, and whoever suspended it: the weight of a run does not stay with pods that are gone.
    fn served(&mut self) -> Option<Plan> {
        let run = self.o.status.run.as_ref()?;
        let weight = self.o.routes.weight?;
        let plan = repair::serving(self, run).or_else(|| {
            let all = run.stage == Stage::Analysing && weight == 100 && run.weight < 100;
            (all && self.primary_serves()).then(|| Step::SetWeight(run.weight).into())
        })?;
        self.m.confirmed_weight = None;
        let (canary, primary) = (self.canary_deployment(), self.primary());
        let is = |serves: bool| if serves { "has ready pods" } else { "has none" };
        let text = format!(
            "Traffic follows the pods that are ready: {canary} {}, {primary} {}",
            is(self.canary_serves()),
            is(self.primary_serves())
        );
        Some(plan.say(Message::warning(text)))
    }

    /// What there is to do unasked.
    fn go_on(&mut self) -> Plan {
        let o = self.o;
        if o.policy.suspend {
            return self.suspended();
        }
        if o.status.phase == Phase::None {
            return Draft::from(o)
                .zeroed()
                .finish(Phase::Initializing, "The primary is being made.", self.now)
                .into();
        }
        if let Some(plan) = leave::moves(self) {
            return plan;
        }
        let Some(target) = &o.target else { return self.without_target() };
        if o.names.in_place() && target.terminating {
            return in_place::without_primary(self).unwrap_or_default();
        }
        if target.terminating {
            return self.terminating(target);
        }
        if o.status.phase == Phase::Initializing
            && o.status.run.is_none()
            && let Some(plan) = self.surveyed()
        {
            return plan;
        }
        // Flagger's is met at any phase. Whatever it runs is asked for only when nobody can change it any more.
        if o.primary_unguarded {
            return Step::GuardPrimary.into();
        }
        if target.canary.is_none() || target.keys.policy.is_some() {
            return initialise::adopt(self, target);
        }
        if let Some(plan) = rebaseline::advance(self) {
            return plan;
        }
        if o.names.in_place()
            && o.status.phase != Phase::Initializing
            && let Some(plan) = in_place::first(self, target)
        {
            return plan;
        }
        match (&o.status.run, o.status.phase) {
            (Some(run), _) => self.run(target, run),
            (None, Phase::Initializing) => initialise::advance(self, target),
            (None, _) => rest::advance(self, target),
        }
    }

    /// Nothing is begun; what is held because of that is named, and who waits for it is not told that it is promoted.
    fn suspended(&mut self) -> Plan {
        const WHY: &str = "is held: spec.suspend is true";
        let o = self.o;
        let said = self.lasting(Message::normal("skipping canary run as object is suspended"));
        let held = o.target.as_ref().filter(|target| o.status.run.is_none() && pending(target));
        let named = match held.and_then(|target| target.keys.hold.as_ref()) {
            Some(hold) => format!("Revision {hold} {WHY}."),
            None if o.status.conditions.iter().any(|c| c.message.contains(WHY)) => String::new(),
            None => return said,
        };
        let mut plan = self.waits(o.status.phase, &named);
        plan.steps.extend(said.steps);
        plan
    }

    /// Before a Deployment is adopted and its traffic is moved, it is looked at who else lives on its pods.
    fn surveyed(&self) -> Option<Plan> {
        let due = self.m.survey_due(self.o.policy.interval);
        (!self.o.surveyed || due.is_none_or(|due| self.now >= due)).then(|| Step::Survey.into())
    }

    fn run(&mut self, target: &Workload, run: &Run) -> Plan {
        if let Some(step) = self.by_this_clock(run) {
            return step.into();
        }
        if let Some(plan) = self.routes(run) {
            return plan;
        }
        if let Some(plan) = share::restated(self, target, run) {
            return plan;
        }
        if let Some(plan) = bypass::target(self, target, Some(run)) {
            return plan;
        }
        if !self.o.names.in_place()
            && let Some(plan) = repair::primary(self, target, Some(run))
        {
            return plan;
        }
        // The analysis says so, and counts it.
        if run.stage != Stage::Analysing
            && let Some(plan) = repair::serving(self, run)
        {
            return plan;
        }
        if let Some(plan) = contest::ends(self, target, run) {
            return plan;
        }
        let plan = self.stage(target, run);
        match Draft::from(self.o).next_named() {
            Some(named) if plan.steps.is_empty() => plan.then(named),
            _ => plan,
        }
    }

    fn stage(&mut self, target: &Workload, run: &Run) -> Plan {
        if self.o.names.in_place() {
            match run.stage {
                Stage::Releasing => return in_place::releasing(self, target, run),
                Stage::Promoting | Stage::Restoring => return in_place::promoting(self, target, run),
                _ => {}
            }
        }
        match run.stage {
            Stage::Gated => release::gated(self, target, run),
            Stage::Releasing => release::releasing(self, target, run),
            Stage::Analysing => analysis::advance(self, target, run),
            Stage::Clearing => promotion::clearing(self, target, run),
            Stage::Promoting => promotion::promoting(self, target, run),
            Stage::Returning => promotion::returning(self, target, run),
            Stage::Finalising => promotion::finalising(self, target, run),
            Stage::Restoring => promotion::restoring(self, target, run),
            Stage::RollingBack => rollback::rolling_back(self, target, run),
            Stage::Cancelling => rollback::cancelling(self, target, run),
            Stage::Closing => rollback::closing(self, run),
            Stage::Unknown => release::anew(self, run),
        }
    }

    /// A time that is still to come was written by a process whose clock is ahead, or the clock was set back: what is
    /// counted from it is counted from now, else the run would stand still until then.
    fn by_this_clock(&self, run: &Run) -> Option<Step> {
        let past = |at: Timestamp| at.min(self.now);
        let next = Run {
            since: past(run.since),
            last_step: run.last_step.map(past),
            awaits: run.awaits.map(past),
            ..run.clone()
        };
        (next != *run).then(|| Draft::from(self.o).run(Some(next)).as_it_is())
    }

    /// Keeps routing objects and Services in being while a run goes on.
    fn routes(&mut self, run: &Run) -> Option<Plan> {
        if self.o.routes.stale {
            // Where the pods are the share, there may be more of them to be awaited.
            let awaiting =
                if self.o.policy.by_replicas { analysis::awaiting(self, run) } else { Plan::default() };
            return Some(awaiting.then(Step::EnsureRoutes));
        }
        if self.o.services.stale || self.o.services.apex_stale {
            return Some(Step::EnsureServices { apex: Backend::Primary }.into());
        }
        let error = self.o.routes.error.clone()?;
        Some(self.lasting(Message::warning(error)))
    }

    /// The target is gone: no backend may be left without pods, and the run is over.
    fn without_target(&mut self) -> Plan {
        let o = self.o;
        let n = &o.names;
        let said = self.lasting(Message::warning(format!(
            "deployment {}.{} get query error: deployments.apps {:?} not found",
            n.target, n.namespace, n.target
        )));
        if o.names.in_place() {
            if let Some(plan) = in_place::without_primary(self) {
                return Plan { steps: said.steps.into_iter().chain(plan.steps).collect(), wake: plan.wake };
            }
        } else if o.routes.weight.is_some_and(|w| w != 0) {
            return said.then(Step::SetWeight(0));
        }
        if let Some(run) = &o.status.run {
            let draft = Draft::from(o).zeroed().rejected(&run.revision).run(None);
            return said.then(draft.finish(Phase::Failed, "", self.now));
        }
        // A Canary that waits for its first Deployment is not stalled: they are applied in any order.
        if !matches!(o.status.phase, Phase::Initialized | Phase::Succeeded | Phase::Failed) {
            let waits = format!("Deployment {} does not exist yet.", n.target);
            let mut plan = self.waits(o.status.phase, &waits);
            plan.steps.extend(said.steps);
            return plan;
        }
        let serves = match &o.primary {
            Some(_) if !o.names.in_place() => {
                format!(" Until then {} serves; deleting the Canary deletes that too.", n.primary)
            }
            _ => String::new(),
        };
        let why = format!("Deployment {} does not exist. Apply it again.{serves}", n.target);
        match Draft::from(o).stall(TARGET_MISSING, &why, self.now) {
            Some(step) => said.then(step),
            None => said,
        }
    }

    /// Interlock §5.12: the Deployment controller ignores scale and template of a terminating Deployment.
    fn terminating(&mut self, target: &Workload) -> Plan {
        if self.o.routes.weight.is_some_and(|w| w != 0) {
            return Step::SetWeight(0).into();
        }
        if target.finalizer {
            return match self.drained() {
                Ok(()) => Step::UnguardTarget.into(),
                Err(plan) => plan,
            };
        }
        Plan::default()
    }

    /// Says something that lasts: once, and again only when it changes.
    pub(super) fn lasting(&mut self, message: Message) -> Plan {
        if self.m.said.as_ref() == Some(&message) {
            return Plan::default();
        }
        self.m.said = Some(message.clone());
        Plan::default().say(message)
    }

    /// Says something that lasts: when it changes, and once an interval, as Flagger does at each tick.
    pub(super) fn repeating(&mut self, message: Message) -> Plan {
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
    pub(super) fn overdue(&mut self, since: Timestamp, message: Message) -> Plan {
        match self.after_interval(since) {
            Some(due) => Plan::default().wake(due),
            None => self.repeating(message),
        }
    }

    /// The end of an interval that began at `since`, if it is still to come.
    pub(super) fn after_interval(&self, since: Timestamp) -> Option<Timestamp> {
        let due = since.saturating_add(self.o.policy.interval).unwrap_or(self.now);
        (self.now < due).then_some(due)
    }

    /// `canary.namespace`, as most messages have it.
    pub(super) fn canary(&self) -> String {
        format!("{}.{}", self.o.names.canary, self.o.names.namespace)
    }

    /// `target.namespace`.
    pub(super) fn target(&self) -> String {
        format!("{}.{}", self.o.names.target, self.o.names.namespace)
    }

    /// The Deployment of the canary's pods, `name.namespace`.
    pub(super) fn canary_deployment(&self) -> String {
        format!("{}.{}", self.o.names.canary_deployment, self.o.names.namespace)
    }

    /// The Deployment of the primary's pods, `name.namespace`.
    pub(super) fn primary(&self) -> String {
        format!("{}.{}", self.o.names.primary, self.o.names.namespace)
    }

    pub(super) fn canary_not_ready(&self, error: &NotReady) -> String {
        format!("canary deployment {} not ready: {}", self.canary_deployment(), error.message)
    }

    pub(super) fn primary_not_ready(&self, error: &NotReady) -> String {
        format!("{} not ready: {}", self.primary(), error.message)
    }

    /// Adds to a reason what pods that are not ready say of it themselves: status tells it when they are long gone.
    pub(super) fn with_pods(&self, deployment: &str, run: &Run, text: &str) -> Result<String, Plan> {
        let revision = &run.revision;
        match &self.m.pods {
            Some((of, seen, why)) if of == deployment && seen == revision => {
                Ok(why.as_ref().map_or_else(|| text.to_owned(), |why| format!("{text}; {why}")))
            }
            _ => Err(Step::AskPods { deployment: deployment.to_owned(), revision: revision.clone() }.into()),
        }
    }

    /// The same of the canary's pods.
    pub(super) fn with_canarys_pods(&self, run: &Run, text: &str) -> Result<String, Plan> {
        self.with_pods(&self.o.names.canary_deployment, run, text)
    }

    /// Judges the canary: the pods of the run's snapshot, all of them, and ready (interlock §5.4).
    pub(super) fn canary_ready(&self, target: &Workload, run: &Run) -> Result<(), NotReady> {
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
    pub(super) fn primary_ready(&self) -> Result<(), NotReady> {
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
    pub(super) fn primary_late_at(&self, since: Timestamp) -> Timestamp {
        let deadline = self.o.policy.deadline;
        match &self.o.primary {
            Some(primary) => primary.late_at(since, deadline, self.now),
            None => since.saturating_add(deadline).unwrap_or(self.now),
        }
    }

    /// Whether pods of the canary can take traffic at all.
    pub(super) fn canary_serves(&self) -> bool {
        self.o.canary.as_ref().is_some_and(|c| c.rollout.available > 0)
    }

    /// Whether pods of the primary can take traffic at all.
    pub(super) fn primary_serves(&self) -> bool {
        self.o.primary.as_ref().is_some_and(|p| p.rollout.available > 0)
    }

    /// `Ok` when the live route has had the canary at zero, seen by the data plane where it says so, for the
    /// drain delay; else the plan that gets there. Without canary pods there is nothing to drain.
    pub(super) fn drained(&self) -> Result<(), Plan> {
        let weight = self.o.routes.weight.unwrap_or(0);
        if weight > 0 && self.canary_serves() && self.o.primary.is_some() && !self.primary_serves() {
            // Traffic stays where ready pods are; the primary's are watched.
            return Err(Plan::default());
        }
        let pods = self.o.canary.as_ref().is_some_and(|c| c.rollout.replicas > 0);
        self.drained_since(self.o.routes.weight == Some(0), self.m.zero_since, pods, 0)
    }

    /// The same for the primary's side: the canary at 100.
    pub(super) fn primary_drained(&self) -> Result<(), Plan> {
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
    pub(super) fn unsettled_for_long(&self) -> bool {
        self.unsettled_until().is_some_and(|end| self.now >= end)
    }

    /// Writes status with a sentence that says what is waited for, when it says something new.
    pub(super) fn waits(&self, phase: Phase, waits_for: &str) -> Plan {
        if_new(self.o, Draft::from(self.o).finish(phase, waits_for, self.now))
    }

    /// As [`Self::waits`], and says why once an interval.
    pub(super) fn waits_saying(&mut self, phase: Phase, waits_for: &str, message: Message) -> Plan {
        let mut plan = self.waits(phase, waits_for);
        let said = self.repeating(message);
        plan.steps.extend(said.steps);
        Plan { wake: said.wake, ..plan }
    }

    /// The stage after this one, in status.
    pub(super) fn enter(&self, run: &Run, stage: Stage) -> Run {
        Run { stage, since: self.now, awaits: None, ..run.clone() }
    }

    /// The same for the promoted revision, which something else has where its stored template was lost.
    pub(super) fn promoted_loaded(&self, revision: &Revision) -> Result<(), Plan> {
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
    pub(super) fn loaded(&self, revision: &Revision) -> Result<(), Plan> {
        if self.m.loaded.contains(revision) {
            Ok(())
        } else {
            Err(Step::LoadSnapshot(revision.clone()).into())
        }
    }

    /// Whether the primary's live template is the promoted snapshot: what a revert must be measured against.
    pub(super) fn primary_runs(&self, revision: &Revision) -> bool {
        self.o.primary_revision.as_ref() == Some(revision)
    }

    /// What a new hold on the target means for a run on `revision`.
    pub(super) fn newer(&self, target: &Workload, revision: &str) -> Option<Newer> {
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

    /// Time from now.
    pub(super) fn after(&self, delay: SignedDuration) -> Timestamp {
        self.now.saturating_add(delay).unwrap_or(self.now)
    }
}

/// A hold that arrived.
pub(super) enum Newer {
    /// It is the promoted revision: the run is cancelled.
    Reverted,
    /// It is another revision: the run starts over with it.
    Superseded(Revision),
}
