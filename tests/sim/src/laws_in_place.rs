//! The same invariants where the applied Deployment is the primary and the canary is generated.

use crate::laws::{annotation, held};
use crate::traffic;
use crate::world::World;
use serde_json::Value;
use sidetrack::api::keys;
use sidetrack::api::revision::Revision;
use sidetrack::rollout::objects::{Label, target_template};
use std::collections::BTreeSet;

fn revision_of(object: &Value) -> Revision {
    object.pointer("/spec/template").map(Revision::of).unwrap()
}

fn replicas(object: &Value) -> i64 {
    object["spec"]["replicas"].as_i64().unwrap_or(1)
}

impl World {
    /// A generated template, as it stood in the target.
    pub(super) fn back(&self, template: &Value) -> Option<Revision> {
        let (key, value) = self.laws.selector.clone()?;
        let shaped = serde_json::json!({"spec": {"template": template}});
        Some(Revision::of(&target_template(&shaped, &Label { key, value, pods: None }, &self.names)))
    }

    /// Revisions of the canary's pods.
    pub(super) fn canary_revisions(&self) -> Vec<Revision> {
        if !self.names.in_place() {
            return self.canary_pods().revisions().into_iter().cloned().collect();
        }
        let sets = self.canary_pods().sets.iter().filter(|s| !s.pods.is_empty());
        sets.filter_map(|s| self.back(&s.template)).collect()
    }

    /// A write to the applied Deployment: the primary.
    pub(super) fn judge_applied(&mut self, before: Option<&Value>, after: &Value, ours: bool) {
        let (was, is) = (before.and_then(held), held(after));
        let revision = revision_of(after);
        if is.is_some() && is != was {
            self.note_hold(is.clone());
        }
        let enrolled =
            |o: &Value| o.pointer("/metadata/labels").is_some_and(|l| l.get(keys::CANARY).is_some());
        if before.is_some_and(|b| !enrolled(b)) && enrolled(after) {
            self.laws.good.extend(is.is_none().then(|| revision.clone()));
        }
        if !ours {
            return;
        }
        if before.is_some_and(|b| replicas(b) != replicas(after)) {
            self.law("I4", false, "the applied Deployment is scaled");
        }
        if before.is_some_and(|b| revision_of(b) != revision) {
            let held_again = is.as_ref() == Some(&revision);
            let back = held_again || annotation(after, keys::PROMOTED).is_none_or(|p| p == revision.as_str());
            self.law(
                "I2",
                back,
                "another template than the promoted one is written to the applied Deployment",
            );
        }
        let promotes = |o: &Value| annotation(o, keys::PROMOTED) == Some(revision.as_str());
        if is.is_some() && promotes(after) && !before.is_some_and(promotes) {
            let never =
                self.status().revisions.primary.is_none() && self.primary_pods().ready(self.cluster.now) == 0;
            self.law("I2", never, "what is held is called promoted, and something has served before");
            self.laws.good.insert(revision.clone());
        }
        if !enrolled(after) {
            // It has left: what it runs is its owner's.
            self.laws.good.insert(revision.clone());
        }
        let runs = after["spec"]["paused"] != true && enrolled(after);
        if was.is_some()
            && is.is_none()
            && runs
            && annotation(after, keys::PROMOTED) != Some(revision.as_str())
        {
            self.law("I1", was.as_ref() == Some(&revision), "a release of what the hold does not name");
            if !self.laws.good.contains(&revision) {
                self.judge_promotion(&revision, after);
            }
            self.laws.good.insert(revision.clone());
            self.laws.promotions.push(revision);
        }
    }

    /// A write to the generated canary.
    pub(super) fn judge_generated(&mut self, before: Option<&Value>, after: Option<&Value>, ours: bool) {
        if !ours {
            return;
        }
        let empty = self.canary_pods().sets.iter().all(|s| s.pods.is_empty());
        let drained = self.laws.canary_zero.is_some_and(|at| at + self.drain() <= self.cluster.now) || empty;
        match (before, after) {
            (None, Some(made)) => {
                let revision = Revision::from_key(annotation(made, keys::REVISION).unwrap_or_default());
                let shaped = made.pointer("/spec/template").and_then(|t| self.back(t));
                self.law("I1", shaped.as_ref() == Some(&revision), "the canary is not made of what it says");
                self.law("I4", self.shares().is_none_or(|s| s.canary == 0), "a canary is made at weight");
                self.judge_gates(&revision);
                self.laws.made_for = Some(revision);
                let app = made.pointer("/spec/template/metadata/labels/app");
                self.law("I1", app.is_some_and(|app| app == "app-canary"), "a canary is made with requests");
            }
            (Some(was), Some(is)) if self.by_replicas => self.judge_count(was, is),
            (Some(was), Some(is)) => {
                self.law("I4", revision_of(was) == revision_of(is), "the template of a canary is changed");
                if replicas(was) > 0 && replicas(is) == 0 {
                    self.law(
                        "I4",
                        drained,
                        "the canary is scaled down before its traffic has left and drained",
                    );
                }
            }
            // There the end of the pods is how their traffic leaves.
            (Some(_), None) if self.by_replicas => {}
            (Some(_), None) => self.law("I4", drained, "the canary is deleted before its traffic has left"),
            (None, None) => {}
        }
    }

    /// A write to a canary whose number of pods is its share.
    fn judge_count(&mut self, was: &Value, is: &Value) {
        let back = |world: &Self, of: &Value| of.pointer("/spec/template").and_then(|t| world.back(t));
        self.law("I4", back(self, was) == back(self, is), "a canary gets another revision");
        if revision_of(was) != revision_of(is) {
            let (before, now) = (traffic::set(was), traffic::set(is));
            let first = before.is_none() && now.is_some_and(|(weight, _)| weight > 0);
            self.law("I4", first, "pods are replaced although they have requests");
            for index in self.hooks("pre-rollout") {
                let yes = self.laws.answers.get(&format!("hook {index}")).is_some_and(|(passed, _)| *passed);
                self.law("I1", yes, "requests come before a pre-rollout hook has passed");
            }
        }
        let Some((weight, count)) = traffic::set(is) else { return };
        if replicas(is) <= replicas(was) && traffic::set(was).is_some_and(|(w, _)| w == weight) {
            return; // pods that were there before the primary had fewer
        }
        let primary = self.primary().map_or(0, replicas);
        let allowed = match weight {
            0 => 0,
            1..50 => (weight * primary / (100 - weight)).max(1),
            _ => primary.max(1),
        };
        self.law("I3", count <= allowed && replicas(is) <= allowed, "more pods than the weight allows");
    }

    /// The pods that are there now.
    pub(super) fn judge_pods_in_place(&mut self) {
        let Some(target) = self.target() else { return };
        let enrolled = target.pointer("/metadata/labels").is_some_and(|l| l.get(keys::CANARY).is_some());
        let primary: Vec<Revision> = self.primary_pods().revisions().into_iter().cloned().collect();
        if enrolled {
            for revision in primary {
                let laws = &self.laws;
                let may = laws.good.contains(&revision)
                    || laws.glassed.contains(&revision)
                    || laws.unheld.contains(&revision);
                self.law("I2", may, &format!("a pod of the primary runs {revision}, which did not pass"));
            }
        }
        let canary: BTreeSet<Revision> = self.canary_revisions().into_iter().collect();
        let one = canary.iter().all(|r| Some(r) == self.laws.made_for.as_ref());
        self.law("I1", one, "a pod of the canary runs another revision than it was made for");
    }
}
