//! What a person asks of a running release: answered once, in the same status write that changes the run.
//!
//! A request that status has answered already is nothing to do, whatever crashed in between; one that makes no sense now
//! is refused with a reason and changes nothing.

use crate::api::request::{Request, Verb};
use crate::api::revision::Revision;
use crate::api::status::{Answered, Phase, RequestOutcome, Run, Shortcut, Stage};
use crate::rollout::case::Case;
use crate::rollout::interrupts::{gates, restart};
use crate::rollout::model::observed::Asked;
use crate::rollout::model::plan::{Message, Plan, Step};
use crate::rollout::model::settings::HookKind;
use crate::rollout::model::workload::Workload;
use crate::rollout::stages::analysis::because;
use crate::rollout::stages::{idle, rollback};
use crate::rollout::status::{Draft, whole_seconds};

/// Answers a request that has no answer yet, or goes on with one that is being carried out. A plan without steps says when
/// to look at that again, and leaves everything else to others.
pub(in crate::rollout) fn advance(case: &mut Case<'_>) -> Option<Plan> {
    let o = case.o;
    let accepted = o.status.request.as_ref().filter(|a| a.outcome == RequestOutcome::Accepted);
    let goes_on = accepted.map(|answer| restart::advance(case, answer));
    if goes_on.as_ref().is_some_and(|plan| !plan.steps.is_empty()) {
        return goes_on;
    }
    let Some(asked) = o.request.as_ref() else { return goes_on };
    let answered = o.status.request.as_ref().is_some_and(|answer| answer.text == asked.text);
    // The outcome of a run is stated, only its last words are missing: they come first.
    if answered || o.status.run.as_ref().is_some_and(|run| run.stage == Stage::Closing) {
        return goes_on;
    }
    // There is one answer at a time: whoever asks for something else gives the restart up.
    answer(case, asked).or(goes_on)
}

/// `None` when the answer has to wait.
fn answer(case: &mut Case<'_>, asked: &Asked) -> Option<Plan> {
    let by = asked.by.clone().unwrap_or_default();
    let request = Request::parse(&asked.text);
    let taken = match (&request, &asked.by) {
        (Err(why), _) => Err(why.clone()),
        (Ok(_), None) => {
            Err("nobody knows who asks: the webhook did not see the request, make it again".to_owned())
        }
        (Ok(request), Some(_)) => take(case, request),
    };
    Some(match (taken, request) {
        (Ok(None), _) | (Ok(_), Err(_)) => return None,
        (Ok(Some(Taken { outcome, message, plan })), Ok(request)) => {
            case.m.said_at = None;
            let mut text = format!("{by} asked to {}", what(case, &request));
            if !request.reason.is_empty() {
                text = format!("{text}: {}", request.reason);
            }
            let (asked, at) = (asked.text.clone(), whole_seconds(case.now));
            let answer = Answered { text: asked, by, outcome, message, at };
            let mut said = Plan::default().say(Message::normal(text));
            said.wake = plan.wake;
            plan.steps.into_iter().fold(said, |all, step| {
                all.then(match step {
                    Step::Status(mut status) => {
                        status.request = Some(answer.clone());
                        Step::Status(status)
                    }
                    other => other,
                })
            })
        }
        (Err(why), _) => refused(case, asked, &why),
    })
}

/// Refuses what has no answer yet, whatever it is.
pub(in crate::rollout) fn refuse(case: &Case<'_>, why: &str) -> Option<Plan> {
    let asked = case.o.request.as_ref()?;
    let given = |answer: &Answered| answer.text == asked.text && answer.outcome != RequestOutcome::Accepted;
    let answered = case.o.status.request.as_ref().is_some_and(given);
    (!answered).then(|| refused(case, asked, why))
}

fn refused(case: &Case<'_>, asked: &Asked, why: &str) -> Plan {
    let request = Request::parse(&asked.text);
    let what = request.map_or_else(|_| "what cannot be read".into(), |r| what(case, &r));
    let who = asked.by.as_deref().unwrap_or("Somebody");
    let answer = Answered {
        text: asked.text.clone(),
        by: asked.by.clone().unwrap_or_default(),
        outcome: RequestOutcome::Refused,
        message: why.to_owned(),
        at: whole_seconds(case.now),
    };
    Plan::default()
        .say(Message::warning(format!("{who} asked to {what}, refused: {why}")))
        .then(Draft::from(case.o).answered(answer))
}

/// `promote revision 4f1c2a9b3d of app.test`.
fn what(case: &Case<'_>, request: &Request) -> String {
    let revision = Revision::from_key(request.revision.clone());
    match request.verb {
        Verb::Restart => format!("restart {}, revision {revision}", case.primary()),
        Verb::Approve => format!("approve revision {revision} of {}", case.target()),
        verb => format!("{verb} revision {revision} of {}", case.target()),
    }
}

/// A request that makes sense: its answer, and the plan whose status write carries it.
pub(in crate::rollout) struct Taken {
    pub(in crate::rollout) outcome: RequestOutcome,
    pub(in crate::rollout) message: String,
    pub(in crate::rollout) plan: Plan,
}

/// `None` when it is to be asked again as soon as something has changed.
fn take(case: &mut Case<'_>, request: &Request) -> Result<Option<Taken>, String> {
    let o = case.o;
    let Some(target) = o.target.as_ref().filter(|t| t.canary.is_some() && !t.terminating) else {
        return Err(format!("{} is not there, or not initialised yet", case.target()));
    };
    if o.policy.suspend {
        return Err("spec.suspend is true: nothing is done until it is false".into());
    }
    if request.verb == Verb::Restart {
        return restart::begin(case, request).map(Some);
    }
    match o.status.run.as_ref() {
        Some(run) => {
            named(request, &run.revision, "is what is being released")?;
            during(case, target, run, request).map(Some)
        }
        None if request.verb == Verb::Retry => retry(case, target, request),
        None => {
            let why = "nothing is being released";
            Err(match target.keys.failed.as_ref().filter(|f| target.keys.hold.as_ref() == Some(f)) {
                Some(failed) => format!("{why}: revision {failed} was rejected; retry it"),
                None => why.to_owned(),
            })
        }
    }
}

/// Refuses a request that is meant for another revision.
pub(in crate::rollout) fn named(request: &Request, live: &str, is: &str) -> Result<(), String> {
    if request.names(live) {
        return Ok(());
    }
    Err(format!("revision {} {is}", Revision::from_key(live)))
}

/// A request while a run goes on.
fn during(case: &mut Case<'_>, target: &Workload, run: &Run, request: &Request) -> Result<Taken, String> {
    let verb = request.verb;
    let by = case.o.request.as_ref().and_then(|asked| asked.by.as_deref()).unwrap_or_default();
    if matches!(verb, Verb::Promote | Verb::Skip | Verb::Approve)
        && let Some(why) = gates::same_eyes(case, target, by)
    {
        return Err(why);
    }
    match run.stage {
        Stage::RollingBack | Stage::Restoring => return Err("it is being rolled back".into()),
        Stage::Cancelling => {
            return Err("it is being cancelled: the template went back to the promoted revision".into());
        }
        Stage::Promoting | Stage::Returning if verb == Verb::Abort && case.o.names.in_place() => {
            return Err("the primary rolls to it; apply the revision before it, which passes at once".into());
        }
        Stage::Clearing | Stage::Promoting | Stage::Returning if verb == Verb::Abort => {}
        Stage::Finalising if verb == Verb::Abort => {
            return Err("the primary runs it already; apply the revision before it".into());
        }
        Stage::Clearing | Stage::Promoting | Stage::Returning | Stage::Finalising => {
            return Err("it is being promoted".into());
        }
        Stage::Gated | Stage::Releasing | Stage::Analysing | Stage::Closing | Stage::Unknown => {}
    }
    let mut next = run.clone();
    let message = match verb {
        Verb::Promote | Verb::Skip => {
            let wanted = if verb == Verb::Promote { Shortcut::Promote } else { Shortcut::Skip };
            if run.shortcut == Some(Shortcut::Promote) || run.shortcut == Some(wanted) {
                return Err("that was asked for already".into());
            }
            next.shortcut = Some(wanted);
            next.paused = false;
            // Gates are asked at once; no step is taken any more that an interval would have to pass before.
            next.last_step = None;
            if verb == Verb::Promote {
                "It is promoted as soon as its pods are ready."
            } else {
                "It is promoted as soon as its pods are ready and its gates are open."
            }
        }
        Verb::Abort => {
            let why = if request.reason.is_empty() { String::new() } else { format!(": {}", request.reason) };
            return Ok(abort(case, &because(run, format!("aborted by {by}{why}"))));
        }
        Verb::Retry => return Err("it is being released already".into()),
        Verb::Pause if run.paused => return Err("it is paused already".into()),
        Verb::Pause => {
            next.paused = true;
            "The run stays where it is until it is resumed."
        }
        Verb::Resume if !run.paused => return Err("it is not paused".into()),
        Verb::Resume => {
            next.paused = false;
            "The run goes on."
        }
        Verb::Approve if run.stage == Stage::Gated && !run.approved && gated(case) => {
            "The gate is open; the revision is released as soon as nothing else holds it."
        }
        Verb::Approve if case.o.status.phase == Phase::WaitingPromotion && !run.approved => {
            next.approved = true;
            next.last_step = None;
            "The gate is open; the revision is promoted if it passes once more."
        }
        Verb::Approve => return Err("no gate waits for an approval".into()),
        Verb::Restart => return Err("it is asked for otherwise".into()),
    };
    let opens = matches!(verb, Verb::Promote | Verb::Approve) && run.stage == Stage::Gated;
    case.end_tick();
    next.approved |= opens;
    let holds = gates::stop(case, &next).or_else(|| gates::in_line(case));
    let message = match &holds {
        // The policy is not passed by asking: whoever asks is told what comes first.
        Some(stop) if run.stage == Stage::Gated && verb != Verb::Pause => {
            format!("{message} Before that: {}", stop.why)
        }
        _ => message.to_owned(),
    };
    let plan = if opens && holds.is_none() {
        idle::released(case, Plan::default(), next)
    } else {
        let status = Draft::from(case.o).run(Some(next)).finish(case.o.status.phase, &message, case.now);
        status.into()
    };
    Ok(Taken { outcome: RequestOutcome::Taken, message, plan })
}

/// Whether there is something that a person's approval opens.
fn gated(case: &Case<'_>) -> bool {
    case.o.guard.approval || case.o.policy.hooks_of(HookKind::ConfirmRollout).next().is_some()
}

/// Rolls back; what the primary was written to already is written back first.
fn abort(case: &mut Case<'_>, run: &Run) -> Taken {
    let plan = if matches!(run.stage, Stage::Promoting | Stage::Returning) {
        case.end_tick();
        let next = case.enter(run, Stage::Restoring);
        let waits_for = "The promotion was aborted; the revision before is written back.";
        Draft::from(case.o).run(Some(next)).finish(Phase::Promoting, waits_for, case.now).into()
    } else {
        rollback::begin(case, run, None)
    };
    Taken { outcome: RequestOutcome::Taken, message: "It is rolled back.".into(), plan }
}

/// Takes a rejected revision up again. The mark goes with the release, so that until then nothing but this run lets it.
fn retry(case: &mut Case<'_>, target: &Workload, request: &Request) -> Result<Option<Taken>, String> {
    let failed = target.keys.failed.as_ref();
    let hold = target.keys.hold.as_ref().filter(|hold| target.held() && failed == Some(*hold));
    let Some(hold) = hold.filter(|hold| **hold == target.revision) else {
        return Err("no revision was rejected".into());
    };
    named(request, hold.as_str(), "is what was rejected")?;
    if target.keys.paused_before {
        return Err(format!("its owner paused {}; resume that first", case.target()));
    }
    if case.o.primary.as_ref().is_some_and(|p| p.replicas == 0) {
        return Err("the application is scaled to 0".into());
    }
    if case.primary_ready().is_err() {
        return Ok(None); // no run starts meanwhile
    }
    let plan = idle::start(case, target, hold, true);
    Ok(Some(Taken { outcome: RequestOutcome::Taken, message: "It is released again.".into(), plan }))
}

/// A paused run with ready pods: it stays.
pub(in crate::rollout) fn paused(case: &Case<'_>) -> Plan {
    let request = case.o.status.request.as_ref();
    let by = request.filter(|r| Request::parse(&r.text).is_ok_and(|r| r.verb == Verb::Pause));
    let by = by.map_or_else(String::new, |r| format!(" by {}", r.by));
    case.waits(case.o.status.phase, &format!("The run is paused{by}; resume it to go on."))
}
