//! A Canary as people want to see it: one line of the list, and what it waits for. Pure.

use super::screen::{Cell, Colour, age};
use crate::api::canary_policy::{CanaryPolicy, Mode};
use crate::api::names::Layout;
use crate::api::revision::Revision;
use crate::api::status::{CanaryStatus, Condition, Phase, Run, Share, Stage};
use crate::api::{Canary, keys};
use crate::rollout::status::TARGET_MISSING;
use jiff::Timestamp;
use std::collections::BTreeSet;

/// Shows the first digits of a revision; `-` for none.
#[must_use]
pub fn short(revision: Option<&str>) -> String {
    revision.map_or_else(|| "-".into(), |r| Revision::from_key(r).short().to_owned())
}

/// Namespace of a Canary.
#[must_use]
pub fn namespace(canary: &Canary) -> &str {
    canary.metadata.namespace.as_deref().unwrap_or_default()
}

/// Name of a Canary.
#[must_use]
pub fn name(canary: &Canary) -> &str {
    canary.metadata.name.as_deref().unwrap_or_default()
}

/// Status of a Canary; the empty one where it has none yet.
#[must_use]
pub fn status(canary: &Canary) -> CanaryStatus {
    canary.status.clone().unwrap_or_default()
}

/// The phase in a word, and what else decides how a Canary stands.
#[must_use]
pub fn phase(canary: &Canary) -> Cell {
    let status = status(canary);
    let word = match (status.phase, canary.metadata.deletion_timestamp.is_some()) {
        (_, true) => "Terminating",
        (Phase::None, _) => "New",
        (phase, _) => phase.as_str(),
    };
    let colour = match status.phase {
        Phase::Initialized | Phase::Succeeded => Colour::Good,
        Phase::Failed => Colour::Bad,
        _ => Colour::Busy,
    };
    if canary.spec.suspend {
        return Cell::painted(format!("{word} (suspended)"), Colour::Busy);
    }
    match condition(&status, "Stalled") {
        Some(stalled) if status.phase != Phase::Failed => {
            Cell::painted(format!("{word} ({})", stalled.reason), Colour::Bad)
        }
        _ if status.run.as_ref().is_some_and(|run| run.paused) => {
            Cell::painted(format!("{word} (paused)"), Colour::Busy)
        }
        _ => Cell::painted(word, colour),
    }
}

fn condition<'a>(status: &'a CanaryStatus, kind: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|c| c.type_ == kind && c.status == "True")
}

/// The sentence in which status says why it is as it is.
#[must_use]
pub fn message(status: &CanaryStatus) -> &str {
    let ready = status.conditions.iter().find(|c| c.type_ == "Ready");
    ready.map(|c| c.message.as_str()).unwrap_or_default()
}

/// What a person could type to get on; empty when nothing but time is needed.
#[must_use]
pub fn advice(canary: &Canary) -> Vec<String> {
    let (status, name) = (status(canary), pasted(name(canary), canary));
    let target = pasted(&canary.spec.target_ref.name, canary);
    let say = |text: String| vec![text];
    if canary.spec.suspend {
        return say("set spec.suspend to false".into());
    }
    // Nothing can be retried or put back where there is no Deployment.
    if condition(&status, "Stalled").is_some_and(|stalled| stalled.reason == TARGET_MISSING) {
        return say(format!("apply Deployment {} again", canary.spec.target_ref.name));
    }
    match &status.run {
        Some(run) if run.paused => say(format!("kubectl sidetrack resume {name}")),
        Some(Run { stage: Stage::Gated, .. }) => {
            held_by_policy(message(&status), &name).unwrap_or_else(|| gate(canary, "confirm-rollout"))
        }
        Some(_) if status.phase == Phase::WaitingPromotion => gate(canary, "confirm-promotion"),
        None if status.phase == Phase::Failed => {
            let undo = match &status.revisions.mixed {
                Some(_) => {
                    format!("kubectl sidetrack undo {name}    (all pods of the promoted revision again)")
                }
                None => format!("kubectl sidetrack undo {name}"),
            };
            vec!["apply another revision".into(), format!("kubectl sidetrack retry {name}"), undo]
        }
        None if message(&status).contains("until its owner resumes") => {
            say(format!("kubectl rollout resume deployment {target}"))
        }
        None if message(&status).contains("scaled to 0") => {
            if in_place(canary) {
                say(format!("kubectl scale deployment {target} --replicas=2"))
            } else {
                say(format!(
                    "kubectl annotate deployment {target} --overwrite {}=2",
                    keys::REQUESTED_REPLICAS
                ))
            }
        }
        _ => Vec::new(),
    }
}

/// The revision that begins with these digits.
///
/// # Errors
///
/// When there are fewer than four of them, as where a variable is empty, or when several revisions begin so.
pub(super) fn one_of<'a>(all: impl Iterator<Item = &'a str>, asked: &str) -> Result<Option<&'a str>, String> {
    const FEWEST: usize = 4;
    if asked.len() < FEWEST {
        return Err(format!("{asked:?} names no revision: give at least {FEWEST} of its first digits"));
    }
    let found: BTreeSet<&str> = all.filter(|revision| revision.starts_with(asked)).collect();
    match found.len() {
        0 | 1 => Ok(found.first().copied()),
        _ => {
            let names: Vec<String> = found.iter().map(|revision| short(Some(revision))).collect();
            Err(format!("{asked} may be any of {}: give more digits", names.join(", ")))
        }
    }
}

/// A name as a command has it that works wherever it is pasted.
pub(super) fn pasted(name: &str, canary: &Canary) -> String {
    format!("{name} -n {}", namespace(canary))
}

/// Whether it asks for the layout in which the target is the primary.
fn in_place(canary: &Canary) -> bool {
    let asked = canary.metadata.annotations.as_ref().and_then(|a| a.get(keys::LAYOUT));
    asked.is_some_and(|layout| layout == Layout::InPlace.as_str())
}

/// What frees a release that a policy holds.
fn held_by_policy(message: &str, name: &str) -> Option<Vec<String>> {
    if message.contains("waits for an approval") {
        return Some(vec![format!("kubectl sidetrack approve {name}")]);
    }
    let by_itself = |when: &str| Some(vec![format!("nothing to do: it starts when {when}")]);
    if message.starts_with("Frozen") {
        return by_itself("the freeze ends");
    }
    if message.starts_with("It waits for its turn") {
        return by_itself("the releases before it have ended");
    }
    if message.contains("its wave") || message.contains("soak") {
        return by_itself("the clusters before this one have promoted it");
    }
    None
}

fn gate(canary: &Canary, kind: &str) -> Vec<String> {
    let hooks = canary.spec.analysis.webhooks.iter().filter(|hook| hook.type_.as_deref() == Some(kind));
    hooks
        .map(|hook| format!("{kind} hook {} answers 200: {}", hook.name, hook.url))
        .chain([format!("kubectl sidetrack approve {}", pasted(name(canary), canary))])
        .collect()
}

/// A policy: how it stands, and whom it selects and does not release.
#[must_use]
pub fn policy(policy: &CanaryPolicy) -> Vec<String> {
    let status = policy.status.clone().unwrap_or_default();
    let mode = match policy.spec.mode {
        Mode::Enforce => "enforce",
        Mode::Audit => "audit",
    };
    let name = policy.metadata.name.as_deref().unwrap_or_default();
    let ready = status.conditions.iter().find(|c| c.type_ == "Ready");
    let ready = ready.map_or("The controller has not looked at it yet.", |c| c.message.as_str());
    let mut lines = vec![format!("CanaryPolicy {name}, mode {mode}: {ready}")];
    if policy.spec.mode == Mode::Audit {
        return lines;
    }
    lines.push(format!(
        "  Releases: {} running, {} waiting",
        status.releases.running, status.releases.waiting
    ));
    lines.extend(status.releases.queue.iter().map(|waits| format!("  {waits} waits for its turn")));
    lines.extend(status.others.iter().map(|other| format!("  {}: {}", other.deployment, other.reason)));
    lines
}

/// The revision that a release is about: the one that runs, else the one that was rejected.
#[must_use]
pub fn revision_of_release(status: &CanaryStatus) -> Option<&str> {
    let run = status.run.as_ref().map(|run| run.revision.as_str());
    run.or_else(|| status.revisions.failed.as_deref().filter(|_| status.phase == Phase::Failed))
}

/// The headings of the list of Canaries.
#[must_use]
pub fn headings(with_namespace: bool, wide: bool) -> Vec<Cell> {
    let mut headings = vec!["NAME", "PHASE", "WEIGHT", "PRIMARY", "CANARY", "FAILED", "AGE"];
    if with_namespace {
        headings.insert(0, "NAMESPACE");
    }
    if wide {
        headings.extend(["TARGET", "PROVIDER", "SINCE", "LAST REQUEST"]);
    }
    headings.push("MESSAGE");
    headings.into_iter().map(Cell::new).collect()
}

/// The canary's share of the traffic, in the wide list with the pods that make it.
fn weight(status: &CanaryStatus, wide: bool) -> String {
    match status.share.filter(|_| wide) {
        Some(Share { canary, primary, step, .. }) => {
            let all = canary.saturating_add(primary);
            format!("{} ({canary} of {all} pods, step {step})", status.canary_weight)
        }
        None => status.canary_weight.to_string(),
    }
}

/// The row of a Canary in the list.
#[must_use]
pub fn row(canary: &Canary, with_namespace: bool, wide: bool, now: Timestamp) -> Vec<Cell> {
    let status = status(canary);
    let threshold = canary.spec.analysis.threshold();
    let mut cells = Vec::new();
    if with_namespace {
        cells.push(Cell::new(namespace(canary)));
    }
    let failed = Cell::painted(
        format!("{}/{threshold}", status.failed_checks),
        if status.failed_checks > 0 { Colour::Busy } else { Colour::Plain },
    );
    cells.extend([
        Cell::new(name(canary)),
        phase(canary),
        Cell::new(weight(&status, wide)),
        Cell::new(short(status.revisions.primary.as_deref())),
        Cell::new(short(revision_of_release(&status))),
        failed,
        Cell::new(age(canary.metadata.creation_timestamp.as_ref().map(|t| t.0), now)),
    ]);
    if wide {
        let asked = status.request.as_ref().map_or_else(
            || "-".into(),
            |request| {
                let verb = request.text.split_whitespace().next().unwrap_or_default();
                format!("{verb} {:?} ({})", request.outcome, request.by).to_lowercase()
            },
        );
        cells.extend([
            Cell::new(canary.spec.target_ref.name.clone()),
            Cell::new(canary.spec.provider.clone().unwrap_or_else(|| "-".into())),
            Cell::new(age(status.last_transition_time, now)),
            Cell::new(asked),
        ]);
    }
    cells.push(Cell::painted(message(&status), Colour::Faint));
    cells
}
