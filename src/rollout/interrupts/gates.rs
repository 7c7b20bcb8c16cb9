//! What keeps a held revision from being released besides the Canary's own gates: the policy that governs its target.
//!
//! A release is held, never denied: each reason is a wait in stage Gated that names what it waits for. Break-glass passes
//! all of them, with a word about it.

use crate::api::revision::Revision;
use crate::api::status::{Outcome, Phase, Run, Stage};
use crate::rollout::case::Case;
use crate::rollout::model::gates::Gate;
use crate::rollout::model::plan::{Message, Plan};
use crate::rollout::model::workload::Workload;
use crate::rollout::stages::{idle, rollback};
use crate::rollout::status::{Draft, if_new};
use jiff::Timestamp;

/// Why a release does not begin now.
pub(in crate::rollout) struct Stop {
    pub(in crate::rollout) why: String,
    wake: Option<Timestamp>,
}

/// What a run waits for before its own gates are asked.
pub(in crate::rollout) fn stop(case: &Case<'_>, run: &Run) -> Option<Stop> {
    let guard = &case.o.guard;
    if let Some(frozen) = &guard.frozen {
        let end = frozen.until.map_or_else(String::new, |until| format!(" until {until}"));
        return Some(Stop { why: format!("Frozen{end}: {}.", frozen.reason), wake: frozen.until });
    }
    if let Gate::Closed { why, until } = &guard.wave
        && !run.retried
    {
        return Some(Stop { why: why.clone(), wake: *until });
    }
    if guard.approval && !run.approved {
        let why = format!(
            "Revision {} waits for an approval{}.",
            Revision::from_key(&run.revision),
            if guard.four_eyes { " by somebody other than who applied it" } else { "" },
        );
        return Some(Stop { why, wake: None });
    }
    None
}

/// Whether the run has to stand in line although nothing else keeps it.
pub(in crate::rollout) fn in_line(case: &Case<'_>) -> Option<Stop> {
    let turn = case.o.guard.turn.as_ref().filter(|turn| !turn.granted)?;
    Some(Stop { why: format!("It waits for its turn: {}.", turn.limit), wake: None })
}

impl Stop {
    /// Waits, in stage Gated. Whoever stands in line keeps the place.
    pub(in crate::rollout) fn wait(self, case: &Case<'_>, run: &Run, lines_up: bool) -> Plan {
        let queued = lines_up.then(|| case.o.status.queued.unwrap_or(case.now));
        let status =
            Draft::from(case.o).zeroed().analysed(&run.revision).run(Some(run.clone())).queued(queued);
        let mut plan = Plan::default();
        let written = if_new(case.o, status.finish(Phase::Waiting, &self.why, case.now));
        if !written.steps.is_empty() {
            plan = plan.say(Message::normal(format!("{} is held. {}", case.target(), self.why)));
        }
        let plan = written.steps.into_iter().fold(plan, Plan::then);
        self.wake.into_iter().fold(plan, Plan::wake)
    }
}

/// Whether a revision that is about to be taken up is not to be tried: it ends as rejected, without having run.
pub(in crate::rollout) fn rejects(case: &mut Case<'_>, target: &Workload, hold: &Revision) -> Option<Plan> {
    let guard = &case.o.guard;
    let last = case.o.status.history.iter().rev().find(|past| past.revision == hold.as_str());
    let why = match &guard.wave {
        _ if target.keys.glassed.as_ref() == Some(hold) => return None,
        _ if guard.quarantine && last.is_some_and(|past| past.outcome == Outcome::Rejected) => {
            "it was rejected before, and is not tried again until somebody asks for a retry".to_owned()
        }
        Gate::Rejected(why) => why.clone(),
        _ => return None,
    };
    let mut run = idle::begin(case, target, hold, Stage::RollingBack);
    run.reason = Some(why.clone());
    let text = format!("Revision {hold} of {} stays held: {why}", case.target());
    Some(rollback::begin(case, &run, Some(vec![Message::warning(text)])))
}

/// The same for a run that waits already.
pub(in crate::rollout) fn rejects_waiting(case: &mut Case<'_>, target: &Workload, run: &Run) -> Option<Plan> {
    let Gate::Rejected(_) = &case.o.guard.wave else { return None };
    if run.retried { None } else { rejects(case, target, &Revision::from_key(&run.revision)) }
}

/// What a break-glass passes, for the record.
pub(in crate::rollout) fn passed_by_glass(case: &Case<'_>, target: &Workload, run: &Run) -> Option<Message> {
    let stop = stop(case, run).or_else(|| in_line(case))?;
    let who = target.keys.applied_by.as_deref().unwrap_or("somebody");
    let revision = Revision::from_key(&run.revision);
    Some(Message::warning(format!(
        "Break-glass by {who}: revision {revision} of {} passes what would hold it. {}",
        case.target(),
        stop.why
    )))
}

/// Why this user may not let the revision through.
pub(in crate::rollout) fn same_eyes(case: &Case<'_>, target: &Workload, by: &str) -> Option<String> {
    if !case.o.guard.four_eyes {
        return None;
    }
    let Some(applier) = target.keys.applier.as_deref() else {
        return Some("nobody knows who applied this revision, and the policy asks for somebody else: apply a changed template".into());
    };
    (applier == by).then(|| format!("{by} applied this revision, and the policy asks for somebody else"))
}
