//! The restart of the primary, which `kubectl rollout restart` of a held target cannot.
//!
//! Where the primary has a template of its own, or is not held, the restart is a mark in that template. In place a held
//! primary has the held template: its pods are evicted instead, one by one, and their ReplicaSet makes them again.

use crate::api::request::Request;
use crate::api::status::{Answered, RequestOutcome, Stage};
use crate::rollout::case::Case;
use crate::rollout::interrupts::requests::{Taken, named};
use crate::rollout::model::observed::{Evicted, Renewal};
use crate::rollout::model::plan::{Plan, Step};
use crate::rollout::model::workload::Workload;
use crate::rollout::status::Draft;
use jiff::SignedDuration;

/// Time between two looks at the pods while the Deployment tells nothing new.
const PAUSE: SignedDuration = SignedDuration::from_secs(5);

/// Accepts a restart, or says why it makes no sense.
pub(in crate::rollout) fn begin(case: &Case<'_>, request: &Request) -> Result<Taken, String> {
    let o = case.o;
    let running = o.primary.as_ref().filter(|p| !p.terminating).zip(o.primary_revision.as_ref());
    let Some((primary, revision)) = running else { return Err(format!("{} is not there", case.primary())) };
    match o.status.run.as_ref().map(|run| run.stage) {
        None | Some(Stage::Gated | Stage::Releasing | Stage::Analysing) => {}
        Some(_) => return Err("the primary is part of a promotion or a rollback now".into()),
    }
    if primary.held() && primary.replicas == 1 && primary.rollout.available > 0 {
        return Err(format!(
            "its only pod would be evicted before another one is there; scale {} to 2, or delete the pod",
            case.primary()
        ));
    }
    named(request, revision.as_str(), "is what the primary runs")?;
    let plan = Step::Status(Box::new(o.status.clone())).into();
    let message = "The primary is being restarted.".into();
    Ok(Taken { outcome: RequestOutcome::Accepted, message, plan })
}

/// Goes on with a restart that was accepted. A plan without steps holds up nothing else.
pub(in crate::rollout) fn advance(case: &mut Case<'_>, answer: &Answered) -> Plan {
    let o = case.o;
    let at = answer.at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let rolls = o.status.run.as_ref().is_some_and(|run| {
        matches!(run.stage, Stage::Promoting | Stage::Returning | Stage::Finalising | Stage::Closing)
    });
    match o.primary.as_ref().filter(|p| !p.terminating) {
        None => answered(case, answer, RequestOutcome::Refused, "the primary is gone"),
        Some(primary) if primary.held() => evict(case, primary, answer),
        Some(primary) if primary.restarted_at.as_ref() == Some(&at) => {
            answered(case, answer, RequestOutcome::Taken, "The primary was restarted.")
        }
        Some(_) if o.names.in_place() && rolls => {
            let message = "The primary rolls to another revision, which replaces its pods.";
            answered(case, answer, RequestOutcome::Taken, message)
        }
        Some(_) => Step::RestartPrimary(at).into(),
    }
}

/// Has the pods evicted that are older than the request, and looks whether there are any whenever something changed.
fn evict(case: &mut Case<'_>, primary: &Workload, answer: &Answered) -> Plan {
    let before = case.m.renewal.as_ref().filter(|renewal| renewal.at == answer.at);
    if let Some(renewal) = before {
        match &renewal.found {
            Evicted::All => {
                let message = "The primary was restarted, pod by pod.";
                return answered(case, answer, RequestOutcome::Taken, message);
            }
            Evicted::Refused(why) if !answer.message.ends_with(why.as_str()) => {
                let message = format!("The primary is being restarted; its next pod waits: {why}");
                return answered(case, answer, RequestOutcome::Accepted, &message);
            }
            Evicted::Refused(_) | Evicted::Some => {}
        }
        let due = renewal.looked.saturating_add(PAUSE).unwrap_or(case.now);
        if renewal.seen == primary.rollout && case.now < due {
            return Plan::default().wake(due);
        }
    }
    case.m.renewal = Some(Renewal {
        at: answer.at,
        looked: case.now,
        seen: primary.rollout.clone(),
        found: Evicted::Some,
    });
    Step::EvictOlder(answer.at).into()
}

fn answered(case: &Case<'_>, answer: &Answered, outcome: RequestOutcome, message: &str) -> Plan {
    let answer = Answered { outcome, message: message.to_owned(), ..answer.clone() };
    Draft::from(case.o).answered(answer).into()
}
