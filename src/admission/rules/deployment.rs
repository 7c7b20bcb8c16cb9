//! UPDATE of an enrolled Deployment by anyone but the controller.
//!
//! Labels are read from the stored object only: what the request says about them counts for nothing.

use super::applier;
use super::break_glass::BreakGlass;
use super::keyset::KeySet;
use crate::admission::outcome::{Change, Outcome, Rule};
use crate::admission::review::Request;
use crate::admission::view::View;
use crate::api::keys;
use crate::api::revision::Revision;
use serde_json::Value;
use std::borrow::Cow;

/// The API server's limit on the bytes of all annotations together.
pub(in crate::admission) const ANNOTATION_LIMIT: usize = 256 * 1024;

/// Keys that people may take away: to retry, to let go of their own pause, to tidy up.
const REMOVABLE: [&str; 3] = [keys::FAILED, keys::PAUSED_BEFORE, keys::BREAK_GLASS];

/// Decides about the write.
pub(in crate::admission) fn update(request: &Request, old: View<'_>, new: View<'_>) -> Outcome {
    let break_glass = BreakGlass::read(old, new);
    let mut write = Write {
        request,
        old,
        new,
        canary: old.canary().unwrap_or_default(),
        in_place: old.label(keys::LAYOUT) == Some(keys::LAYOUT_IN_PLACE),
        generated: old.label(keys::ROLE) == Some(keys::ROLE_GENERATED),
        glass: break_glass == BreakGlass::Counts,
        new_revision: new_revision(old, new),
        keys: KeySet::of(old),
        paused: new.paused(),
        replicas: new.spec("replicas"),
        outcome: Outcome::pass(),
    };
    if let Some(denied) = write.refuse(break_glass) {
        return denied;
    }
    write.take_what_people_may_write();
    if write.glass && new.label(keys::CANARY).is_none() {
        return write.leave();
    }
    if break_glass == BreakGlass::Outdated {
        write.drop_outdated_break_glass();
    }
    if write.glass {
        write.count_break_glass();
    }
    write.hold_or_not();
    write.keep_replicas();
    write.finish()
}

/// Returns the revision that the write brings, if it is another one than before.
fn new_revision(old: View<'_>, new: View<'_>) -> Option<Revision> {
    let (before, after) = (old.spec("template")?, new.spec("template")?);
    // Comparing is much cheaper than hashing, and nearly every write leaves the template alone.
    if before == after {
        return None;
    }
    let revision = Revision::of(after);
    (revision != Revision::of(before)).then_some(revision)
}

/// The state of one decision.
struct Write<'a> {
    request: &'a Request,
    old: View<'a>,
    new: View<'a>,
    canary: &'a str,
    in_place: bool,
    generated: bool,
    /// A break-glass counts.
    glass: bool,
    new_revision: Option<Revision>,
    /// Our annotations as they shall be.
    keys: KeySet<'a>,
    /// `spec.paused` as it shall be.
    paused: bool,
    /// `spec.replicas` as it shall be.
    replicas: Option<&'a Value>,
    outcome: Outcome,
}

impl<'a> Write<'a> {
    fn name(&self) -> &'a str {
        &self.request.name
    }

    /// Returns whether the canary's pods are this Deployment's own: it then never runs a template unreleased.
    const fn is_primary_copy_target(&self) -> bool {
        !self.in_place && !self.generated
    }

    fn was_held(&self) -> bool {
        self.old.annotation(keys::HOLD).is_some()
    }

    /// Returns the denial, where there is one.
    fn refuse(&self, break_glass: BreakGlass) -> Option<Outcome> {
        let (name, canary) = (self.name(), self.canary);
        if self.old.spec("selector") != self.new.spec("selector") {
            return Some(Outcome::forbid(
                Rule::Selector,
                format!(
                    "the selector of Deployment {name} cannot be changed while Canary {canary} manages it, \
                     because its pods would be replaced at once: delete Canary {canary} first, then re-create the Deployment"
                ),
            ));
        }
        if break_glass == BreakGlass::Wrong {
            let generation = self.old.generation();
            return Some(Outcome::forbid(
                Rule::BreakGlass,
                format!(
                    "the break-glass of Deployment {name} (Canary {canary}) does not name the generation it was written against: \
                     set annotation {} to \"{generation} REASON\"",
                    keys::BREAK_GLASS
                ),
            ));
        }
        let leaves = self.glass && self.new.label(keys::CANARY).is_none();
        if leaves && (self.generated || !self.in_place) {
            return Some(Outcome::forbid(
                Rule::BreakGlass,
                format!(
                    "Deployment {name} cannot leave Canary {canary} by break-glass, because traffic and pods would part: \
                     delete Canary {canary}, which hands both back first"
                ),
            ));
        }
        if self.generated && !self.glass && (self.new_revision.is_some() || self.touches_keys(break_glass)) {
            let suffix = if self.in_place { "-canary" } else { "-primary" };
            let target = name.strip_suffix(suffix).unwrap_or("that Canary targets");
            return Some(Outcome::forbid(
                Rule::Generated,
                format!(
                    "Deployment {name} is generated for Canary {canary} and its pod template and sidetrack.dev keys \
                     belong to the controller: change Deployment {target} instead"
                ),
            ));
        }
        None
    }

    /// Returns whether the write changes keys of ours in a way that is not mended silently.
    fn touches_keys(&self, break_glass: BreakGlass) -> bool {
        let (old, new) = (self.old, self.new);
        keys::LABELS.iter().any(|key| old.label(key) != new.label(key))
            || old.traffic_finalizer().is_some() != new.traffic_finalizer().is_some()
            || keys::ANNOTATIONS.iter().any(|&key| {
                let removed = REMOVABLE.contains(&key) && new.annotation(key).is_none();
                let mended = key == keys::BREAK_GLASS && break_glass == BreakGlass::Outdated;
                !removed && !mended && old.annotation(key) != new.annotation(key)
            })
    }

    /// Takes the few things that people say through our annotations; all others stay as stored.
    fn take_what_people_may_write(&mut self) {
        for key in REMOVABLE {
            if self.new.annotation(key).is_none() {
                self.keys.remove(key);
            }
        }
        if self.glass {
            self.keys.set(keys::BREAK_GLASS, self.new.annotation(keys::BREAK_GLASS).map(Cow::Borrowed));
        }
        // `kubectl rollout undo` brings back the annotations of then with the template of then, what was asked for once among
        // them. With another template it is ours where the hold on that is, too: we are asked again after another webhook.
        let is_meant = |revision: &Revision| self.new.annotation(keys::HOLD) == Some(revision.as_str());
        if self.is_primary_copy_target()
            && self.new_revision.as_ref().is_none_or(is_meant)
            && let Some(number) = self.new.annotation(keys::REQUESTED_REPLICAS)
            && is_replica_count(number)
        {
            self.keys.set(keys::REQUESTED_REPLICAS, Cow::Borrowed(number));
        }
    }

    /// The owner takes an `in-place` target out: everything of ours goes.
    ///
    /// But for the break-glass itself: the admission policy runs after us and must see why.
    fn leave(mut self) -> Outcome {
        self.outcome.note(Rule::BreakGlass);
        self.outcome.warn(format!("{} left Canary {}: its pod template runs now", self.name(), self.canary));
        self.outcome.revision = self.new.spec("template").map(Revision::of);
        self.lift_hold();
        let mut changes = Vec::new();
        for key in keys::LABELS {
            if self.new.label(key).is_some() {
                changes.push(Change::Label(key, None));
            }
        }
        for key in keys::ANNOTATIONS {
            if key != keys::BREAK_GLASS && self.new.annotation(key).is_some() {
                changes.push(Change::Annotation(key, None));
            }
        }
        if self.new.traffic_finalizer().is_some() {
            changes.push(Change::RemoveFinalizer);
        }
        if self.paused != self.new.paused() {
            changes.push(Change::Paused(self.paused));
        }
        self.outcome.with_changes(changes)
    }

    fn drop_outdated_break_glass(&mut self) {
        self.keys.set(keys::BREAK_GLASS, self.old.annotation(keys::BREAK_GLASS).map(Cow::Borrowed));
        self.outcome.note(Rule::BreakGlass);
        let generation = self.old.generation();
        self.outcome.warn(format!(
            "an outdated break-glass was dropped: it must begin with {generation}, the generation"
        ));
    }

    fn count_break_glass(&mut self) {
        let revision = self.new_revision.clone().or_else(|| self.new.spec("template").map(Revision::of));
        self.keys.set(keys::GLASSED, revision.as_ref().map(|r| Cow::Owned(r.as_str().to_owned())));
        self.keys.remove(keys::REVERTED);
        self.keys.remove(keys::FAILED);
        let shown = revision.as_ref().map(ToString::to_string).unwrap_or_default();
        self.outcome.note(Rule::BreakGlass);
        self.outcome.warn(if self.is_primary_copy_target() {
            format!("break-glass: revision {shown} is promoted without analysis by Canary {}", self.canary)
        } else {
            format!("break-glass: revision {shown} of {} runs now, without analysis", self.name())
        });
        self.outcome.revision = revision;
    }

    /// Holds a new template, keeps a held one held, lets a revert or a break-glass run.
    fn hold_or_not(&mut self) {
        let runs_by_glass = self.glass && !self.is_primary_copy_target();
        match self.new_revision.clone() {
            _ if runs_by_glass => self.lift_hold(),
            Some(revision) if self.is_revert(&revision) => self.revert(&revision),
            Some(revision) => self.hold(&revision),
            None if self.was_held() => self.stay_held(),
            // A hold from nowhere (an old export that is put back) is dropped, and its pause with it.
            None => self.lift_hold(),
        }
    }

    fn is_revert(&self, revision: &Revision) -> bool {
        self.in_place && !self.generated && self.old.annotation(keys::PROMOTED) == Some(revision.as_str())
    }

    /// Takes hold and pause away; a pause of the owner's own stays.
    fn lift_hold(&mut self) {
        let owners_pause = if self.was_held() {
            self.old.annotation(keys::PAUSED_BEFORE).is_some()
        } else {
            self.old.paused() || self.new.annotation(keys::HOLD).is_none()
        };
        self.paused = self.new.paused() && owners_pause;
        self.keys.remove(keys::HOLD);
        self.keys.remove(keys::PAUSED_BEFORE);
    }

    fn revert(&mut self, revision: &Revision) {
        self.lift_hold();
        self.keys.remove(keys::FAILED);
        self.keys.remove(keys::GLASSED);
        self.keys.set(keys::REVERTED, Cow::Owned(revision.as_str().to_owned()));
        self.outcome.note(Rule::Revert);
        self.outcome
            .warn(format!("{} is back on promoted revision {revision}, which runs unheld", self.name()));
        self.outcome.revision = Some(revision.clone());
    }

    fn hold(&mut self, revision: &Revision) {
        let paused_before = self.paused_before(revision).then_some(Cow::Borrowed("true"));
        self.keys.set(keys::PAUSED_BEFORE, paused_before);
        self.keys.set(keys::HOLD, Cow::Owned(revision.as_str().to_owned()));
        let manager = applier(self.request);
        let user = &self.request.user_info.username;
        self.keys.set(keys::APPLIED_BY, Cow::Owned(format!("{manager} {user}")));
        self.keys.remove(keys::REVERTED);
        self.keys.remove(keys::FAILED);
        if !self.glass {
            self.keys.remove(keys::GLASSED);
        }
        self.paused = true;
        self.outcome.note(Rule::Hold);
        let (canary, namespace) = (self.canary, &self.request.namespace);
        self.outcome.warn(format!(
            "revision {revision} is held until Canary {canary} releases it: kubectl get canary {canary} -n {namespace}"
        ));
        self.outcome.revision = Some(revision.clone());
    }

    /// Returns whether the release of a newly held template has to wait for the owner.
    fn paused_before(&self, revision: &Revision) -> bool {
        let (old, new) = (self.old, self.new);
        let recorded = new.annotation(keys::PAUSED_BEFORE).is_some();
        let hold = |object: View<'_>| object.annotation(keys::HOLD) == Some(revision.as_str());
        if new.paused() && hold(new) && !hold(old) {
            // The right hold is there already: we are asked again about our own answer, and the pause is ours.
            return recorded;
        }
        if !new.paused() {
            return false;
        }
        if self.was_held() {
            let carried = recorded && old.annotation(keys::PAUSED_BEFORE).is_some();
            // Only the writer's own entry speaks of this write: a manager that applied `paused: false`
            // before owns the field too, and our hold has made it true since.
            let asked_for =
                self.request.field_manager().is_some_and(|manager| new.is_owner("f:paused", manager));
            carried || (asked_for && !hold(old))
        } else {
            // A hold from nowhere brought its own pause.
            old.paused() || (new.foreign_owner("f:paused") && new.annotation(keys::HOLD).is_none())
        }
    }

    fn stay_held(&mut self) {
        let held = Revision::from_key(self.old.annotation(keys::HOLD).unwrap_or_default());
        self.paused = true;
        if self.new.paused() {
            return;
        }
        // Whoever unpauses means the owner's pause; the hold is not theirs to lift.
        self.keys.remove(keys::PAUSED_BEFORE);
        self.outcome.note(Rule::StayHeld);
        let failed = self.old.annotation(keys::FAILED) == Some(held.as_str());
        self.outcome.warn(if failed && self.new.annotation(keys::FAILED).is_some() {
            format!("stays paused: revision {held} failed; to retry it remove annotation {}", keys::FAILED)
        } else {
            format!("stays paused: revision {held} is held until Canary {} releases it", self.canary)
        });
        self.outcome.revision = Some(held);
    }

    /// The pods of a `primary-copy` target are the canary's: how many is not the applier's to say.
    fn keep_replicas(&mut self) {
        let (before, asked) = (self.old.spec("replicas"), self.new.spec("replicas"));
        if !self.is_primary_copy_target() || before == asked {
            return;
        }
        self.replicas = before;
        self.outcome.note(Rule::Replicas);
        // A default that comes back when an applier drops the field was asked for by nobody.
        let Some(number) = asked.and_then(Value::as_i64) else { return };
        let number = number.to_string();
        if !self.new.foreign_owner("f:replicas") || !is_replica_count(&number) {
            return;
        }
        if self.old.annotation(keys::REQUESTED_REPLICAS) != Some(number.as_str()) {
            self.outcome.warn(format!(
                "replicas: {number} was recorded for the primary; Canary {} sizes {}",
                self.canary,
                self.name()
            ));
        }
        self.keys.set(keys::REQUESTED_REPLICAS, Cow::Owned(number));
    }

    /// Compares what shall be with what was asked for.
    fn finish(mut self) -> Outcome {
        let (old, new) = (self.old, self.new);
        let mut changes = Vec::new();
        let mut restores = false;
        for key in keys::LABELS {
            let label = old.label(key);
            if label != new.label(key) {
                changes.push(Change::Label(key, label.map(str::to_owned)));
                restores = true;
            }
        }
        if restores {
            self.outcome.warn(format!("labels put back: to leave Sidetrack delete Canary {}", self.canary));
        }
        let mut bytes = new.annotation_bytes();
        for (key, value) in self.keys.iter() {
            let asked = new.annotation(key);
            if value != asked {
                bytes = bytes.saturating_sub(asked.map_or(0, |text| key.len() + text.len()));
                bytes += value.map_or(0, |text| key.len() + text.len());
                changes.push(Change::Annotation(key, value.map(str::to_owned)));
                restores |= value == old.annotation(key);
            }
        }
        match (old.traffic_finalizer(), new.traffic_finalizer()) {
            (Some(position), None) => {
                changes.push(Change::AddFinalizer(position.min(new.finalizers().len())));
                restores = true;
            }
            (None, Some(_)) => {
                changes.push(Change::RemoveFinalizer);
                restores = true;
            }
            _ => {}
        }
        if self.paused != new.paused() {
            changes.push(Change::Paused(self.paused));
        }
        if let Some(replicas) = self.replicas
            && Some(replicas) != new.spec("replicas")
        {
            changes.push(Change::Replicas(replicas.clone()));
        }
        if restores {
            self.outcome.note(Rule::Restore);
        }
        if bytes > ANNOTATION_LIMIT {
            return Outcome::forbid(
                Rule::AnnotationLimit,
                format!(
                    "the annotations of Deployment {} would have {bytes} bytes with those of Canary {}, more than the \
                     {ANNOTATION_LIMIT} that Kubernetes stores: shorten its annotations ({} bytes as requested)",
                    self.name(),
                    self.canary,
                    new.annotation_bytes()
                ),
            );
        }
        self.outcome.with_changes(changes)
    }
}

/// Returns whether a text is a replica count as the admission policy knows it too: up to nine digits.
fn is_replica_count(text: &str) -> bool {
    (1..=9).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}
