//! The decision: from what is observed to the next steps.
//!
//! [`advance`] is total and level-triggered: it looks at the state as it is, finds the first thing that is not as
//! it should be, and returns the steps that mend it. It is called again after every change, so a plan is short.

use crate::api::revision::Revision;
use crate::api::status::{Outcome, Phase, Run, Stage};
use crate::rollout::case::Case;
use crate::rollout::interrupts::{bypass, ownership, rebaseline, refused, repair, requests, writers};
use crate::rollout::model::observed::{Backend, Memory, Observed};
use crate::rollout::model::plan::{Message, Plan, Step};
use crate::rollout::model::workload::Workload;
use crate::rollout::stages::{
    analysis, idle, in_place, initialise, leave, promotion, release, rollback, share,
};
use crate::rollout::status::checked;
use crate::rollout::status::{Draft, REFUSED, TARGET_MISSING, pending};
use jiff::Timestamp;

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
    match glass(observed, &plan) {
        Some(said) => plan.say(said),
        None => plan,
    }
}

/// What went past its analysis is told when it is promoted, with the reason that was written down.
fn glass(observed: &Observed, plan: &Plan) -> Option<Message> {
    let ended = plan.steps.iter().find_map(|step| match step {
        Step::Status(status) => {
            status.history.last().filter(|last| Some(*last) != observed.status.history.last())
        }
        _ => None,
    })?;
    if ended.outcome != Outcome::BreakGlass {
        return None;
    }
    let reason = observed.target.as_ref().and_then(|target| target.keys.break_glass_reason.as_deref());
    let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
    let (revision, names) = (Revision::from_key(&ended.revision), &observed.names);
    Some(Message::warning(format!(
        "Break-glass: revision {revision} of {}.{} was promoted without analysis{reason}",
        names.target, names.namespace
    )))
}

impl Case<'_> {
    fn decide(&mut self) -> Plan {
        let o = self.o;
        if let Some(plan) = ownership::advance(self) {
            return plan;
        }
        if o.deleting {
            if let Some(plan) = requests::refuse(self, "the Canary is being deleted") {
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
            if let Some(plan) = requests::refuse(self, &format!("its spec is not served: {why}")) {
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
        match requests::advance(self) {
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
            (None, _) => idle::advance(self, target),
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
        if let Some(plan) = writers::ends(self, target, run) {
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
}
