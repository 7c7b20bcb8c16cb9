//! The conditions: Flagger's `Promoted`, and kstatus' `Ready`, `Reconciling` and `Stalled` beside it.

use crate::api::revision::Revision;
use crate::api::status::{CanaryStatus, Condition, Phase, Stage};
use crate::foreign::cut_to;
use crate::rollout::status::Shape;
use jiff::Timestamp;

/// Kind of target that the messages name.
const TARGET_KIND: &str = "Deployment";
/// The longest message of a condition, in bytes.
pub(in crate::rollout) const LONGEST_MESSAGE: usize = 4096;
/// Reason of a condition Ready that is False: no pod of the primary is available.
pub(in crate::rollout) const PRIMARY_UNAVAILABLE: &str = "PrimaryUnavailable";

pub(in crate::rollout) fn short(revision: &str) -> String {
    Revision::from_key(revision).short().to_owned()
}

pub(in crate::rollout) fn reason(phase: Phase) -> String {
    if phase == Phase::None { Phase::Initializing.as_str().to_owned() } else { phase.as_str().to_owned() }
}

/// Returns status and message of Flagger's condition `Promoted` (Flagger v1beta1 API, canary status).
pub(in crate::rollout) fn promoted_condition(phase: Phase, in_place: bool) -> (&'static str, String) {
    let text = |s: &str| s.to_owned();
    match phase {
        Phase::Initialized => ("True", format!("{TARGET_KIND} initialization completed.")),
        Phase::Waiting | Phase::WaitingPromotion => ("Unknown", text("Waiting for approval.")),
        Phase::Progressing => ("Unknown", text("New revision detected, progressing canary analysis.")),
        Phase::Promoting => ("Unknown", text("Canary analysis completed, starting primary rolling update.")),
        Phase::Finalising => ("Unknown", text("Canary analysis completed, routing all traffic to primary.")),
        Phase::Succeeded => ("True", text("Canary analysis completed successfully, promotion finished.")),
        // Flagger's words speak of the target: in place it keeps its pods, and what ends is the canary.
        Phase::Failed if in_place => ("False", text("Canary analysis failed, canary deleted.")),
        Phase::Failed => ("False", format!("Canary analysis failed, {TARGET_KIND} scaled to zero.")),
        Phase::Terminating | Phase::Terminated => {
            ("Unknown", format!("Traffic returns to the {TARGET_KIND}."))
        }
        Phase::None | Phase::Initializing => {
            ("Unknown", format!("New {TARGET_KIND} detected, starting initialization."))
        }
    }
}

pub(in crate::rollout) fn kstatus(
    status: &CanaryStatus,
    phase: Phase,
    waits_for: &str,
    shape: &Shape,
    now: Timestamp,
) -> Vec<Condition> {
    let old = &status.conditions;
    let named = |revision: &Option<String>| revision.as_deref().map_or_else(|| "?".to_owned(), short);
    match (phase, status.run.as_ref().map(|r| r.stage)) {
        (Phase::Initialized | Phase::Succeeded, None | Some(Stage::Closing)) => {
            let message = if waits_for.is_empty() {
                format!("The primary runs revision {}.", named(&status.revisions.primary))
            } else {
                waits_for.to_owned()
            };
            if shape.held && !waits_for.is_empty() && status.run.is_none() {
                return progressing(old, waits_for, now);
            }
            if shape.down {
                let message = format!("{message} None of its pods is available.");
                return vec![next(old, ("Ready", "False", PRIMARY_UNAVAILABLE), &message, now)];
            }
            vec![next(old, ("Ready", "True", phase.as_str()), &message, now)]
        }
        (Phase::Failed, None | Some(Stage::Closing)) => {
            let mixed = status.revisions.mixed.as_deref().map(short);
            let mixed = mixed.map_or_else(String::new, |m| format!(" and, mixed, {m}: its roll was stopped"));
            let primary = format!("{}{mixed}", named(&status.revisions.primary));
            let message = rejection(old, &named(&status.revisions.failed), &primary, waits_for);
            vec![
                next(old, ("Ready", "False", "Failed"), &message, now),
                next(old, ("Stalled", "True", "Failed"), &message, now),
            ]
        }
        _ => progressing(old, waits_for, now),
    }
}

fn progressing(old: &[Condition], waits_for: &str, now: Timestamp) -> Vec<Condition> {
    vec![
        next(old, ("Ready", "Unknown", "Progressing"), waits_for, now),
        next(old, ("Reconciling", "True", "Progressing"), waits_for, now),
    ]
}

/// Says that a revision was rejected and why; where that is not told again, as it was said before.
fn rejection(old: &[Condition], failed: &str, primary: &str, why: &str) -> String {
    let (start, end) = (
        format!("Revision {failed} was rejected"),
        format!(
            "the primary runs {primary}. Apply another revision, or remove annotation {} from the target to try it again.",
            crate::api::keys::FAILED
        ),
    );
    if !why.is_empty() {
        return format!("{start} ({why}), {end}");
    }
    let said =
        |c: &&Condition| c.type_ == "Stalled" && c.message.starts_with(&start) && c.message.ends_with(&end);
    old.iter().find(said).map_or_else(|| format!("{start}, {end}"), |c| c.message.clone())
}

/// Keeps a condition that did not change, and the transition time of one whose status did not.
pub(in crate::rollout) fn next(
    old: &[Condition],
    (type_, status, reason): (&str, &str, &str),
    message: &str,
    now: Timestamp,
) -> Condition {
    let before = old.iter().find(|c| c.type_ == type_);
    let message = &cut_to(message, LONGEST_MESSAGE);
    if let Some(same) = before.filter(|c| c.status == status && c.reason == reason && c.message == *message) {
        return same.clone();
    }
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.clone(),
        last_update_time: Some(now),
        last_transition_time: before
            .filter(|c| c.status == status)
            .and_then(|c| c.last_transition_time)
            .or(Some(now)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejection_names_its_reason_as_long_as_it_lasts() {
        let condition =
            |message: &str| next(&[], ("Stalled", "True", "Failed"), message, Timestamp::UNIX_EPOCH);
        let why = "Metric latency: Halt app.test advancement latency 9 > 5";
        let first = rejection(&[], "b", "a", why);
        assert!(
            first.starts_with(&format!("Revision b was rejected ({why}), the primary runs a. ")),
            "{first}"
        );
        let old = [condition(&first)];
        assert_eq!(rejection(&old, "b", "a", ""), first);
        for (failed, primary) in [("c", "a"), ("b", "c")] {
            assert!(!rejection(&old, failed, primary, "").contains("latency"), "{failed} {primary}");
        }
    }
}
