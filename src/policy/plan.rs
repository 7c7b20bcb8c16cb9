//! What has to be written for the policies to be as they say: Canaries made, mended and taken away, and each policy's
//! status.

use super::freeze;
use super::generate::{self, Maker};
use super::roster::{Facts, Held, Key, NO_PORT, Roster, Selection};
use super::turns::Waiting;
use crate::api::canary_policy::{CanaryPolicySpec, CanaryPolicyStatus, Frozen, Mode, Other, Releases};
use crate::api::status::Condition;
use crate::api::{CanarySpec, keys};
use crate::object::{Kind, ObjectRef, Write};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// How many Deployments a status names.
const NAMED: usize = 20;

/// How long a Deployment may be gone and still be the same application.
const ABSENCE: SignedDuration = SignedDuration::from_mins(15);

/// What has to be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Work {
    /// Writes, in any order.
    pub writes: Vec<Write>,
    /// Canaries that have to be made to say what their policy says, or let go of: they are read first.
    pub mends: Vec<(Key, Mend)>,
    /// Deployments that the webhook enrolled for a policy which does not want them any more.
    pub orphans: Vec<Key>,
    /// Deployments that the webhook enrolled for a policy whose Canary leaves them alone.
    pub refused: Vec<Key>,
    /// When something changes by itself.
    pub wake: Option<Timestamp>,
}

/// How a Canary that a policy made is changed.
#[derive(Clone, Debug, PartialEq)]
pub enum Mend {
    /// It gets this spec, and this policy for an owner.
    Write(Value),
    /// A team has made it its own: it is no policy's any more.
    LetGo,
}

/// What a policy means for one Deployment.
enum Verdict {
    /// It has the Canary that the policy made.
    Enrolled,
    /// It is not released by this policy, for this reason.
    Other(String),
}

/// Decides what to write.
#[must_use]
pub fn plan(roster: &Roster, now: Timestamp) -> Work {
    let mut work = Work::default();
    let (selections, governed) = (roster.selections(), roster.governed());
    let left_alone = roster.left_alone();
    let by_target = by_target(roster);
    let none = Selection::default();
    let mut wanted = BTreeSet::new();
    let mut statuses: BTreeMap<&String, CanaryPolicyStatus> = BTreeMap::new();
    let mut others: BTreeMap<&String, Vec<Other>> = BTreeMap::new();
    for (name, held) in &roster.policies {
        let selection = selections.get(name).unwrap_or(&none);
        let mut enrolled = 0;
        let alone = left_alone.get(name);
        let mut named = Vec::new();
        for key in &selection.targets {
            let reason = match governed.get(key) {
                Some(governor) if governor == name && selection.full && !has_begun(roster, key) => {
                    format!(
                        "more than {} are selected: it is enrolled at its next new template",
                        held.policy.spec.max_targets()
                    )
                }
                Some(governor) if governor == name => {
                    let why = alone.and_then(|alone| alone.get(key));
                    match deployment(roster, key, (held, why), &by_target, &mut wanted, &mut work) {
                        Verdict::Enrolled => {
                            enrolled += 1;
                            continue;
                        }
                        Verdict::Other(reason) => reason,
                    }
                }
                Some(governor) if held.policy.spec.mode == Mode::Enforce => {
                    format!("policy {governor} comes first")
                }
                _ => continue,
            };
            if named.len() < NAMED {
                named.push(Other { deployment: shown(key), reason });
            }
        }
        let namespaces: BTreeSet<&String> =
            selection.targets.iter().map(|(namespace, _)| namespace).collect();
        let status = CanaryPolicyStatus {
            observed_generation: held.policy.metadata.generation.unwrap_or(0),
            selected: count(selection.targets.len()),
            namespaces: count(namespaces.len()),
            enrolled,
            left_alone: alone.into_iter().flat_map(BTreeMap::keys).map(shown).collect(),
            ..CanaryPolicyStatus::default()
        };
        statuses.insert(name, status);
        others.insert(name, named);
    }
    unwanted(roster, &wanted, now, &mut work);
    let alone = |key: &&Key| left_alone.values().any(|alone| alone.contains_key(*key));
    let enrolled = roster.deployments.iter().filter(|(_, candidate)| candidate.enrolled_by.is_some());
    work.refused.extend(enrolled.map(|(key, _)| key).filter(alone).cloned());
    for (name, held) in &roster.policies {
        let Some(mut status) = statuses.remove(name) else { continue };
        status.others = others.remove(name).unwrap_or_default();
        let selection = selections.get(name).unwrap_or(&none);
        finish(roster, (name, held), status, selection, now, &mut work);
    }
    work
}

/// Whether the policy has taken a Deployment up: it has a Canary, or the webhook has enrolled it.
fn has_begun(roster: &Roster, key: &Key) -> bool {
    roster.canaries.contains_key(key) || roster.deployments.get(key).is_some_and(|c| c.enrolled_by.is_some())
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn shown((namespace, name): &Key) -> String {
    format!("{namespace}/{name}")
}

/// The Canaries of each target.
fn by_target(roster: &Roster) -> BTreeMap<Key, Vec<(&String, &Facts)>> {
    let mut all: BTreeMap<Key, Vec<(&String, &Facts)>> = BTreeMap::new();
    for ((namespace, name), facts) in &roster.canaries {
        all.entry((namespace.clone(), facts.target.clone())).or_default().push((name, facts));
    }
    all
}

/// What a policy makes of a Deployment that it governs.
fn deployment(
    roster: &Roster,
    key: &Key,
    (held, left_alone): (&Held, Option<&String>),
    by_target: &BTreeMap<Key, Vec<(&String, &Facts)>>,
    wanted: &mut BTreeSet<Key>,
    work: &mut Work,
) -> Verdict {
    let (namespace, name) = key;
    let canaries = by_target.get(key).map(Vec::as_slice).unwrap_or_default();
    if let Some((own, _)) =
        canaries.iter().find(|(own, facts)| facts.policy.is_none() || facts.taken_over && *own == name)
    {
        if let Some(facts) = roster.canaries.get(key).filter(|f| f.policy.is_some() && f.taken_over) {
            wanted.insert(key.clone());
            if !facts.terminating {
                work.mends.push((key.clone(), Mend::LetGo));
            }
        }
        return Verdict::Other(format!("it has a Canary of its own, {own}"));
    }
    if roster.deployments.get(key).is_none_or(|candidate| candidate.terminating) {
        return Verdict::Other("it is being deleted".into());
    }
    let spec = generate::spec(&held.policy.spec, name, roster.port(key));
    if spec.service.port == 0 && held.counts() {
        return Verdict::Other(NO_PORT.into());
    }
    wanted.insert(key.clone());
    // What a policy that went wrong has made stays as it is.
    if !held.counts() {
        return Verdict::Enrolled;
    }
    let uid = held.policy.metadata.uid.as_deref().unwrap_or_default();
    let policy = held.policy.metadata.name.as_deref().unwrap_or_default();
    let maker = Maker { name: policy, uid, layout: held.policy.spec.layout.as_str() };
    match roster.canaries.get(key) {
        None => {
            work.writes.push(Write::create(Kind::Canary, generate::canary(maker, namespace, name, &spec)))
        }
        // It is made anew when it is gone.
        Some(facts) if facts.terminating => {}
        Some(facts) if facts.target != *name => {
            return Verdict::Other(format!("a Canary of its name releases {}", facts.target));
        }
        Some(facts) if differs(facts, policy, &spec) => {
            work.mends.push((key.clone(), Mend::Write(generate::canary(maker, namespace, name, &spec))));
        }
        Some(_) => {}
    }
    left_alone.map_or(Verdict::Enrolled, |why| Verdict::Other(why.clone()))
}

fn differs(facts: &Facts, policy: &str, spec: &CanarySpec) -> bool {
    facts.policy.as_deref() != Some(policy)
        || facts.digest.as_deref() != Some(generate::digest(spec).as_str())
}

/// Until when a policy's Canary stays whose Deployment is gone, if it does: made again meanwhile, that is no new application
/// which may run whatever it says. Where it is not known yet since when, there is no end yet.
fn stays_until(roster: &Roster, key: &Key, facts: &Facts) -> Option<Timestamp> {
    let target = roster.deployments.get(&(key.0.clone(), facts.target.clone()));
    let selected = facts.policy.as_ref().is_some_and(|policy| roster.selects_namespace(policy, &key.0));
    let stays = target.is_none_or(|target| target.terminating) && selected && facts.promoted;
    let end = |since: Timestamp| since.saturating_add(ABSENCE).unwrap_or(since);
    stays.then(|| facts.missing.map_or(Timestamp::MAX, end))
}

/// What policies made and none wants any more goes: the Canary leaves as any other.
fn unwanted(roster: &Roster, wanted: &BTreeSet<Key>, now: Timestamp, work: &mut Work) {
    for (key, facts) in &roster.canaries {
        if !wanted.contains(key)
            && let Some(end) = stays_until(roster, key, facts).filter(|end| now < *end)
        {
            work.wake = earlier(work.wake, Some(end));
            continue;
        }
        if facts.policy.is_some() && !facts.terminating && !wanted.contains(key) {
            let write = if facts.taken_over {
                work.mends.push((key.clone(), Mend::LetGo));
                continue;
            } else {
                Write::Delete { target: ObjectRef::new(Kind::Canary, &key.0, &key.1), uid: facts.uid.clone() }
            };
            work.writes.push(write);
        }
    }
    let targets: BTreeSet<Key> = roster
        .canaries
        .iter()
        .map(|((namespace, _), facts)| (namespace.clone(), facts.target.clone()))
        .collect();
    let orphan = |key: &Key| !targets.contains(key) && !wanted.contains(key);
    let enrolled = roster.deployments.iter().filter(|(_, candidate)| candidate.enrolled_by.is_some());
    work.orphans.extend(enrolled.map(|(key, _)| key).filter(|key| orphan(key)).cloned());
}

/// Completes a policy's status, guards it, and lets a deleted one go when nothing of it is left.
fn finish(
    roster: &Roster,
    (name, held): (&String, &Held),
    mut status: CanaryPolicyStatus,
    selection: &Selection,
    now: Timestamp,
    work: &mut Work,
) {
    let at = ObjectRef::new(Kind::CanaryPolicy, "", name);
    let guarded = held.guarded();
    let edit = || crate::rollout::objects::patch::Edit::new(at.clone(), &held.object);
    let left = roster.canaries.values().filter(|facts| facts.policy.as_ref() == Some(name)).count()
        + roster.deployments.values().filter(|c| c.enrolled_by.as_ref() == Some(name)).count();
    if held.policy.metadata.deletion_timestamp.is_some() {
        if left == 0 && guarded {
            work.writes.extend(edit().without_finalizer(keys::POLICY_FINALIZER).write());
        }
    } else if !guarded {
        work.writes.extend(edit().with_finalizer(keys::POLICY_FINALIZER).write());
        return; // its status is written when that is stored
    }
    let (line, _) = roster.line();
    let ours = |waiting: &&Waiting<Key>| waiting.policy.as_ref() == Some(name);
    let queue: Vec<String> = line.iter().filter(ours).map(|waiting| shown(&waiting.key)).collect();
    status.releases = Releases {
        running: running(roster, name),
        waiting: count(queue.len()),
        queue: queue.into_iter().take(NAMED).collect(),
    };
    let spec = &held.policy.spec;
    if let Some(frozen) = freeze::frozen(&spec.freeze, now) {
        work.wake = earlier(work.wake, frozen.until);
        status.frozen = Some(Frozen { until: frozen.until, reason: frozen.reason });
    } else {
        work.wake = earlier(work.wake, freeze::next(&spec.freeze, now));
    }
    let (ready, reason, mut message) = sentence(held, spec, &status, selection, left);
    if held.counts() && spec.mode == Mode::Enforce {
        let amiss: Vec<String> = spec.wave.iter().flat_map(|wave| roster.peers.amiss(wave)).collect();
        if !amiss.is_empty() {
            message = format!("{message} Wave: {}.", amiss.join("; "));
        }
    }
    let before = held.policy.status.clone().unwrap_or_default();
    status.enforced = match reason {
        "Enforced" => held.selectors(),
        "Audit" => String::new(),
        _ => before.enforced.clone(),
    };
    let old = before.conditions.iter().find(|c| c.type_ == "Ready");
    let transition = old.filter(|c| c.status == ready).and_then(|c| c.last_transition_time);
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let same = old.filter(|c| c.status == ready && c.reason == reason && c.message == message);
    status.conditions = vec![same.cloned().unwrap_or(Condition {
        type_: "Ready".into(),
        status: ready.into(),
        reason: reason.into(),
        message,
        last_update_time: Some(now),
        last_transition_time: transition.or(Some(now)),
    })];
    if status != before {
        let mut object = held.object.clone();
        if let Some(object) = object.as_object_mut() {
            object.insert("status".into(), json!(status));
        }
        work.writes.push(Write::ReplaceStatus { object });
    }
}

fn earlier(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    [one, other].into_iter().flatten().min()
}

fn running(roster: &Roster, policy: &str) -> i32 {
    let (_, room) = roster.line();
    count(room.running.get(&Some(policy.to_owned())).copied().unwrap_or(0))
}

/// What condition `Ready` says.
fn sentence(
    held: &Held,
    spec: &CanaryPolicySpec,
    status: &CanaryPolicyStatus,
    selection: &Selection,
    left: usize,
) -> (&'static str, &'static str, String) {
    let many = |n: i32, what: &str| if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") };
    let selects =
        format!("{} in {}", many(status.selected, "Deployment"), many(status.namespaces, "namespace"));
    if held.policy.metadata.deletion_timestamp.is_some() {
        return ("False", "Deleting", format!("{} still to become plain.", many(count(left), "Deployment")));
    }
    if !held.problems.is_empty() {
        return ("False", "Invalid", held.problems.join("; "));
    }
    if selection.too_many {
        let limit = spec.max_targets();
        return (
            "False",
            "TooMany",
            format!(
                "It would select {selects}, more than the {limit} of spec.maxTargets: none is enrolled until that is raised or the selection is narrower."
            ),
        );
    }
    if spec.mode == Mode::Audit {
        return ("True", "Audit", format!("It selects {selects} and holds nothing."));
    }
    let mut text = format!("It selects {selects}, {} enrolled.", status.enrolled);
    if selection.full {
        let limit = spec.max_targets();
        text = format!(
            "{text} These are more than the {limit} of spec.maxTargets: what is not enrolled yet is at its next new template only."
        );
    }
    if !status.left_alone.is_empty() {
        text = format!("{text} {} left alone, because something is in the way.", status.left_alone.len());
    }
    if !status.others.is_empty() {
        text = format!("{text} Of the others status.others names the first.");
    }
    if let Some(frozen) = &status.frozen {
        let until = frozen.until.map_or_else(String::new, |until| format!(" until {until}"));
        text = format!("{text} Frozen{until}: {}.", frozen.reason);
    }
    ("True", "Enforced", text)
}
