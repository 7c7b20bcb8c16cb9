//! How status follows a decision: Flagger's phase and `Promoted` condition, and kstatus' conditions beside them.

pub mod checked;
mod conditions;

use crate::api::revision::Revision;
use crate::api::status::{
    Answered, CanaryStatus, Condition, Outcome, Past, Phase, Run, Share, ShareBy, Stage,
};
use crate::foreign::cut_to;
use crate::rollout::model::observed::{Observed, Pods};
use crate::rollout::model::plan::{Plan, Step};
use crate::rollout::model::workload::Workload;
use crate::rollout::status::conditions::{
    LONGEST_MESSAGE, PRIMARY_UNAVAILABLE, kstatus, next, promoted_condition, reason, short,
};
use crate::router::replicas::percent;
use jiff::Timestamp;

/// Ends of releases that status remembers.
const HISTORY: usize = 10;

/// Reason of a stall: what the spec asks for, or the target is, cannot be served.
pub(in crate::rollout) const REFUSED: &str = "Refused";
/// Reason of a stall: there is no target, where there was one.
pub const TARGET_MISSING: &str = "TargetMissing";
/// Reason of a stall: the API server refuses a write.
pub(in crate::rollout) const WRITE_REFUSED: &str = "WriteRefused";
/// Reason of a stall: the target is another Canary's.
pub(in crate::rollout) const TARGET_TAKEN: &str = "TargetTaken";

/// A status being drafted from the stored one.
#[derive(Clone, Debug)]
pub struct Draft(CanaryStatus, Applied, Shape, Box<CanaryStatus>);

/// The target's revision, and who applied it.
type Applied = Option<(String, String)>;

/// The layout; and whether the share of the traffic is what the pods make it, and these, where they are known.
#[derive(Clone, Debug, Default)]
pub(in crate::rollout) struct Shape {
    pub(in crate::rollout) in_place: bool,
    by_replicas: bool,
    pods: Option<Pods>,
    /// The primary is to have pods, and none of them is available.
    pub(in crate::rollout) down: bool,
    /// A revision is held that is neither promoted nor rejected.
    pub(in crate::rollout) held: bool,
    /// The revision over which a break-glass was written.
    glassed: Option<String>,
    /// The revision that the target holds, unless it is the one that the primary goes back to.
    next: Option<Revision>,
}

impl Draft {
    /// Starts from what is stored.
    #[must_use]
    pub fn from(observed: &Observed) -> Self {
        let mut status = observed.status.clone();
        status.observed_generation = Some(observed.generation);
        status.warnings.clone_from(&observed.warnings);
        if let Some(dependants) = &observed.dependants {
            status.dependants.clone_from(dependants);
        }
        status.adopted = Some(observed.adopted.clone());
        let target = observed.target.as_ref();
        let applied = target.and_then(|t| Some((t.revision.as_str().to_owned(), t.keys.applied_by.clone()?)));
        let shape = Shape {
            in_place: observed.names.in_place(),
            by_replicas: observed.policy.by_replicas,
            pods: observed.pods,
            down: primary_down(observed),
            held: target.is_some_and(pending),
            glassed: target.and_then(|t| Some(t.keys.glassed.as_ref()?.as_str().to_owned())),
            next: target.filter(|t| t.held()).and_then(|t| t.keys.hold.clone()).filter(|hold| {
                target.is_none_or(|t| t.keys.promoted.as_ref() != Some(hold))
                    || observed.primary_revision.as_ref() != Some(hold)
            }),
        };
        let mut draft = Self(status, applied, shape, Box::new(observed.status.clone()));
        draft.count(None);
        draft
    }

    /// States the share that the pods make at a weight, without one at the weight that is stated already.
    fn count(&mut self, weight: Option<i32>) {
        let stated = self.0.share;
        let Some(step) = weight.or_else(|| stated.map(|s| s.step)).filter(|_| self.2.by_replicas) else {
            return;
        };
        // As long as nobody knows, what was counted last stands.
        let before = stated.map(|s| Pods { canary: s.canary, primary: s.primary }).unwrap_or_default();
        let Pods { canary, primary } = self.2.pods.unwrap_or(before);
        let percent = percent(canary, primary);
        self.0.share = Some(Share { by: ShareBy::Replicas, step, percent, canary, primary });
        self.0.canary_weight = percent;
    }

    /// Sets weight and counters to zero.
    #[must_use]
    pub const fn zeroed(mut self) -> Self {
        self.0.share = None;
        self.0.canary_weight = 0;
        self.0.failed_checks = 0;
        self.0.iterations = 0;
        self
    }

    /// Sets the canary's weight in percent.
    #[must_use]
    pub fn weight(mut self, weight: i32) -> Self {
        self.0.canary_weight = weight;
        if weight > 0 {
            self.count(Some(weight));
        } else {
            self.0.share = None;
        }
        self
    }

    /// States the canary's weight as its route has it, where that is known.
    #[must_use]
    pub fn routed(mut self, live: Option<i32>) -> Self {
        if let Some(live) = live.filter(|_| !self.2.by_replicas) {
            self.0.canary_weight = live;
        }
        self
    }

    /// States that the revision which the target has is not promoted: `Promoted` may still say so of the one before.
    #[must_use]
    pub fn pending(mut self, why: &str, now: Timestamp) -> Self {
        let promoted = next(&self.0.conditions, ("Promoted", "Unknown", "Pending"), why, whole_seconds(now));
        self.0.conditions.retain(|c| c.type_ != "Promoted");
        self.0.conditions.insert(0, promoted);
        self
    }

    /// Completes a draft in which nothing but the share of the traffic is another one; `None` when it is not.
    #[must_use]
    pub fn recounted(mut self, observed: &Observed) -> Option<Step> {
        let (was, is) = (observed.status.share?, self.0.share?);
        if was == is {
            return None;
        }
        for condition in &mut self.0.conditions {
            condition.message = condition.message.replace(&was.to_string(), &is.to_string());
        }
        Some(Step::Status(Box::new(self.0)))
    }

    /// Counts one failed check.
    #[must_use]
    pub const fn failed_check(mut self) -> Self {
        self.0.failed_checks += 1;
        self
    }

    /// Notes the revision that is taken up.
    #[must_use]
    pub fn analysed(mut self, revision: &str) -> Self {
        self.0.last_applied_spec = Some(short(revision));
        self.0.revisions.analysed = Some(revision.to_owned());
        self
    }

    /// Notes the revision that the primary runs.
    #[must_use]
    pub fn promoted(mut self, revision: &Revision) -> Self {
        // One that was given back and taken over again was not promoted again.
        let known = self
            .0
            .history
            .last()
            .is_some_and(|past| past.outcome != Outcome::Rejected && past.revision == revision.as_str());
        if self.0.revisions.primary.as_deref() != Some(revision.as_str()) && !known {
            let glassed = self.2.glassed.as_deref() == Some(revision.as_str());
            let outcome = if glassed { Outcome::BreakGlass } else { Outcome::Promoted };
            self.remember(revision.as_str(), outcome);
        }
        self.0.last_applied_spec = Some(revision.short().to_owned());
        self.0.last_promoted_spec = Some(revision.short().to_owned());
        self.0.revisions.primary = Some(revision.as_str().to_owned());
        self.0.revisions.failed = None;
        self.0.revisions.mixed = None;
        self
    }

    /// Notes the revision that was rejected.
    #[must_use]
    pub fn rejected(mut self, revision: &str) -> Self {
        self.remember(revision, Outcome::Rejected);
        self.0.revisions.failed = Some(revision.to_owned());
        self
    }

    /// Notes which revision's pods are taken back.
    #[must_use]
    pub fn taken_back(mut self, revision: Option<&Revision>) -> Self {
        self.0.revisions.taken_back = revision.map(|revision| revision.as_str().to_owned());
        self
    }

    fn remember(&mut self, revision: &str, outcome: Outcome) {
        let by = self.1.as_ref().filter(|(live, _)| live == revision).map(|(_, by)| by.clone());
        let history = &mut self.0.history;
        history.push(Past { revision: revision.to_owned(), outcome, by, at: None });
        history.drain(..history.len().saturating_sub(HISTORY));
    }

    /// Notes the number of pods last given to the primary.
    #[must_use]
    pub const fn requested(mut self, replicas: Option<i32>) -> Self {
        self.0.requested_replicas = replicas;
        self
    }

    /// Completes a draft of a Canary that has given back what it had taken over and begins anew; what it remembers of
    /// releases stays.
    #[must_use]
    pub fn anew(self) -> Step {
        let CanaryStatus { history, request, observed_generation, .. } = self.0;
        Step::Status(Box::new(CanaryStatus {
            history,
            request,
            observed_generation,
            ..CanaryStatus::default()
        }))
    }

    /// Notes the answer to a request, and nothing else.
    #[must_use]
    pub fn answered(mut self, answer: Answered) -> Step {
        self.0.request = Some(answer);
        self.as_it_is()
    }

    /// Completes a draft that changes neither phase nor conditions.
    #[must_use]
    pub fn as_it_is(mut self) -> Step {
        self.nothing_yet();
        Step::Status(Box::new(self.0))
    }

    /// Nothing is taken over by a Canary that has not begun, such as one that is refused.
    fn nothing_yet(&mut self) {
        if self.0.phase == Phase::None {
            self.0.adopted = None;
        }
    }

    /// Sets since when it stands in line for its turn.
    #[must_use]
    pub const fn queued(mut self, since: Option<Timestamp>) -> Self {
        self.0.queued = since;
        self
    }

    /// Sets the run.
    #[must_use]
    pub fn run(mut self, run: Option<Run>) -> Self {
        self.0.queued = self.0.queued.filter(|_| run.as_ref().is_some_and(|run| run.stage == Stage::Gated));
        self.0.run = run;
        self
    }

    /// Completes the draft: phase, conditions, and the sentence that says what it waits for.
    #[must_use]
    pub fn finish(mut self, phase: Phase, waits_for: &str, now: Timestamp) -> Step {
        let now = whole_seconds(now);
        self.0.phase = phase;
        self.0.last_transition_time = Some(now);
        self.0.tracked_configs.get_or_insert_default();
        for past in self.0.history.iter_mut().filter(|past| past.at.is_none()) {
            past.at = Some(now);
        }
        // A revision that is on its way, or waits to be, is not what is promoted.
        let on_its_way = match &self.0.run {
            Some(run) => run.stage != Stage::Closing,
            None => self.2.held && !waits_for.is_empty(),
        };
        let promoted = match promoted_condition(phase, self.2.in_place) {
            ("True", _) if on_its_way => {
                ("Unknown", "Pending".to_owned(), cut_to(waits_for, LONGEST_MESSAGE))
            }
            (status, message) => (status, reason(phase), message),
        };
        let mut conditions =
            vec![next(&self.0.conditions, ("Promoted", promoted.0, &promoted.1), &promoted.2, now)];
        let waits_for = match &self.0.share {
            None => waits_for.to_owned(),
            Some(share) if waits_for.is_empty() || waits_for.ends_with('.') => {
                format!("{waits_for} {share}.").trim_start().to_owned()
            }
            Some(share) => format!("{waits_for}. {share}."),
        };
        let waits_for = self.naming_what_is_next(&waits_for);
        conditions.extend(kstatus(&self.0, phase, &waits_for, &self.2, now));
        self.0.conditions = conditions;
        Step::Status(Box::new(self.0))
    }

    /// Says that a revision which came in during a run on another one waits for its end, or no longer that one does.
    fn naming_what_is_next(&self, message: &str) -> String {
        const START: &str = " Revision ";
        const END: &str = " is held and comes next.";
        let said = message.strip_suffix(END).and_then(|rest| Some(rest.rsplit_once(START)?.0));
        let message = said.unwrap_or(message);
        let next = self.2.next.as_ref().zip(self.0.run.as_ref()).filter(|(next, run)| {
            run.stage != Stage::Closing && next.as_str() != run.revision && !message.contains(next.short())
        });
        let stop = if message.ends_with('.') { "" } else { "." };
        next.map_or_else(|| message.to_owned(), |(next, _)| format!("{message}{stop}{START}{next}{END}"))
    }

    /// Completes a draft in which nothing but the revision that comes next is another one; `None` when it is not.
    #[must_use]
    pub fn next_named(mut self) -> Option<Step> {
        let ready = self.0.conditions.iter().find(|c| c.type_ == "Ready")?.message.clone();
        let named = self.naming_what_is_next(&ready);
        if named == ready {
            return None;
        }
        for condition in self.0.conditions.iter_mut().filter(|c| c.message == ready) {
            condition.message.clone_from(&named);
        }
        Some(Step::Status(Box::new(self.0)))
    }

    /// Completes a draft in which one revision has another hash, and everything else is as it was.
    #[must_use]
    pub fn rebased(mut self, from: &Revision, to: &Revision) -> Step {
        let status = &mut self.0;
        let (run, revisions) = (status.run.as_mut(), &mut status.revisions);
        let hashes = [
            &mut revisions.primary,
            &mut revisions.analysed,
            &mut revisions.failed,
            &mut revisions.mixed,
            &mut revisions.taken_back,
        ];
        let past = status.history.iter_mut().map(|past| &mut past.revision);
        let of_run = run.into_iter().flat_map(|run| {
            run.revision =
                if run.revision == from.as_str() { to.as_str().into() } else { run.revision.clone() };
            run.previous.as_mut()
        });
        for hash in
            hashes.into_iter().flatten().chain(of_run).chain(past).filter(|hash| *hash == from.as_str())
        {
            to.as_str().clone_into(hash);
        }
        let shown = [&mut status.last_applied_spec, &mut status.last_promoted_spec];
        for hash in shown.into_iter().flatten().filter(|hash| *hash == from.short()) {
            to.short().clone_into(hash);
        }
        for condition in &mut status.conditions {
            condition.message = condition.message.replace(from.short(), to.short());
        }
        Step::Status(Box::new(self.0))
    }

    /// Completes a draft that states why nothing can go on until somebody changes something: Stalled, everything else as it
    /// was. None when that is stated already.
    #[must_use]
    pub fn stall(mut self, reason: &str, why: &str, now: Timestamp) -> Option<Step> {
        self.nothing_yet();
        let now = whole_seconds(now);
        // What was promoted is not vouched for while nothing is done about it.
        let mut conditions: Vec<Condition> =
            self.0.conditions.iter().filter(|c| c.type_ == "Promoted").cloned().collect();
        for promoted in conditions.iter_mut().filter(|promoted| promoted.status == "True") {
            *promoted = next(&self.0.conditions, ("Promoted", "Unknown", reason), why, now);
        }
        conditions.push(next(&self.0.conditions, ("Ready", "False", reason), why, now));
        conditions.push(next(&self.0.conditions, ("Stalled", "True", reason), why, now));
        self.0.conditions = conditions;
        (self.0 != *self.3).then(|| Step::Status(Box::new(self.0)))
    }
}

/// Times that people read have whole seconds, as everywhere in Kubernetes; those of the run keep their fractions, so that
/// two steps are never less than an interval apart.
pub(in crate::rollout) fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// Whether a revision is held that is neither promoted nor rejected.
pub(in crate::rollout) fn pending(target: &Workload) -> bool {
    target.undecided() && target.keys.hold != target.keys.promoted
}

/// Whether a stall is stated that ends without a change of the Canary; asked where nothing stalls it any more.
pub(in crate::rollout) fn outlived(status: &CanaryStatus) -> bool {
    stalled(status, &[REFUSED, TARGET_MISSING, TARGET_TAKEN, WRITE_REFUSED]).is_some()
}

/// Why the Canary touches nothing, where it is stated that it does not.
#[must_use]
pub fn leaves_alone(status: &CanaryStatus) -> Option<&str> {
    stalled(status, &[REFUSED, TARGET_TAKEN]).map(|condition| condition.message.as_str())
}

/// Since when it is stated that the target is missing, where it is.
#[must_use]
pub fn misses_target(status: &CanaryStatus) -> Option<Timestamp> {
    stalled(status, &[TARGET_MISSING])?.last_transition_time
}

/// The stall that is stated, if it has one of these reasons.
fn stalled<'s>(status: &'s CanaryStatus, reasons: &[&str]) -> Option<&'s Condition> {
    let stall = status.conditions.iter().find(|c| c.type_ == "Stalled" && c.status == "True")?;
    reasons.contains(&stall.reason.as_str()).then_some(stall)
}

/// Whether the primary is to have pods, and none of them is available.
pub(in crate::rollout) fn primary_down(observed: &Observed) -> bool {
    observed.primary.as_ref().is_some_and(|primary| primary.replicas > 0 && primary.rollout.available == 0)
}

/// Whether status speaks otherwise of the primary's pods than they are.
pub(in crate::rollout) fn misses_primary(observed: &Observed) -> bool {
    let told =
        observed.status.conditions.iter().any(|c| c.type_ == "Ready" && c.reason == PRIMARY_UNAVAILABLE);
    let speaks = matches!(observed.status.phase, Phase::Initialized | Phase::Succeeded);
    speaks && told != primary_down(observed)
}

/// Whether it is stated that the API server refuses a write.
pub(in crate::rollout) fn states_refusal(status: &CanaryStatus) -> bool {
    stalled(status, &[WRITE_REFUSED]).is_some()
}

/// Writes status only if it says something new (times aside).
#[must_use]
pub fn if_new(observed: &Observed, step: Step) -> Plan {
    match step {
        Step::Status(status) if *status == observed.status => Plan::default(),
        Step::Status(mut status) => {
            let written = status.last_transition_time;
            status.last_transition_time = observed.status.last_transition_time;
            let same = *status == observed.status;
            status.last_transition_time = written;
            if same { Plan::default() } else { Step::Status(status).into() }
        }
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::status::Revisions;

    /// Who meets one searches for it.
    #[test]
    fn each_reason_and_each_phase_has_its_heading_in_the_documentation() {
        let page = include_str!("../../../docs/troubleshooting.md");
        let reasons = [REFUSED, TARGET_MISSING, WRITE_REFUSED, TARGET_TAKEN, PRIMARY_UNAVAILABLE, "Pending"];
        let phases = [
            Phase::Initializing,
            Phase::Initialized,
            Phase::Waiting,
            Phase::Progressing,
            Phase::WaitingPromotion,
            Phase::Promoting,
            Phase::Finalising,
            Phase::Succeeded,
            Phase::Failed,
            Phase::Terminating,
        ];
        for heading in reasons.into_iter().chain(phases.iter().map(|phase| phase.as_str())) {
            assert!(page.lines().any(|line| line == format!("### {heading}")), "{heading}");
        }
    }

    #[test]
    fn another_hash_of_a_revision_moves_wherever_it_stands() {
        let [from, to, other] = ["a", "b", "c"].map(|c| Revision::from_key(c.repeat(64)));
        let status = |one: &Revision| {
            let hash = Some(one.as_str().to_owned());
            let of_status = CanaryStatus {
                last_applied_spec: Some(one.short().into()),
                last_promoted_spec: Some(other.short().into()),
                revisions: Revisions {
                    primary: Some(other.as_str().into()),
                    analysed: hash.clone(),
                    failed: hash,
                    mixed: None,
                    taken_back: None,
                },
                run: Some(Run {
                    revision: one.as_str().into(),
                    stage: Stage::Analysing,
                    since: Timestamp::UNIX_EPOCH,
                    last_step: None,
                    weight: 40,
                    awaits: None,
                    previous: Some(one.as_str().into()),
                    skip: false,
                    reason: None,
                    shortcut: None,
                    approved: false,
                    retried: false,
                    paused: false,
                }),
                history: vec![Past {
                    revision: one.as_str().into(),
                    outcome: Outcome::Rejected,
                    by: None,
                    at: None,
                }],
                ..CanaryStatus::default()
            };
            let mut draft = Draft(of_status, None, Shape::default(), Box::default());
            draft.0.conditions = vec![next(
                &[],
                ("Ready", "Unknown", "Progressing"),
                &format!("of {one}"),
                Timestamp::UNIX_EPOCH,
            )];
            draft
        };
        assert_eq!(status(&from).rebased(&from, &to), Step::Status(Box::new(status(&to).0)));
        assert_eq!(status(&from).rebased(&to, &from), Step::Status(Box::new(status(&from).0)));
    }
}
