//! The share of the traffic where nothing routes: from the number of the canary's pods, and to it.
//!
//! The canary is made *detached*: its pods have labels that the application's Service does not select. The first weight
//! *attaches* it, in the same write that sets the number of pods: from then on they have the target's labels, and what
//! [`keys::SHARE`] says is what was meant.

use super::Subject;
use super::observe::annotation;
use super::writes::{Impossible, missing, one};
use crate::api::keys;
use crate::api::revision::Revision;
use crate::object::{Kind, Write};
use crate::rollout::model::observed::{Pods, Routes};
use crate::rollout::model::workload::Workload;
use crate::rollout::objects;
use crate::router::replicas::{Set, count, percent};
use serde_json::Value;

impl Subject<'_> {
    /// What takes the place of routes. A number of pods that somebody else has set is the share that it makes.
    pub(super) fn observed_share(&self) -> Routes {
        let none = Routes { weight: Some(0), ..Routes::default() };
        let canary = self.generated().and_then(|c| Some((Set::of(c)?, Workload::parse(c)?)));
        let Some((set, canary)) = canary else { return none };
        let primary = self.primary().and_then(Workload::parse);
        let (wanted, available) = primary.map_or((0, 0), |p| (p.replicas, p.rollout.available));
        if canary.replicas != set.count {
            let weight = percent(canary.replicas, wanted);
            return Routes { weight: Some(weight), stale: weight == set.weight, ..none };
        }
        // Of a terminating Deployment the pods stay until its finalizer goes.
        let left = canary.rollout.replicas;
        let leaving = set.count == 0 && left > 0 && !canary.terminating;
        Routes {
            weight: Some(set.weight),
            unsettled: leaving
                .then(|| format!("{left} pods of {} are on their way out", self.names.canary_deployment)),
            stale: !canary.terminating && set.weight > 0 && set.is_outdated(wanted, available),
            ..none
        }
    }

    /// Counts the pods that are ready in the application's Service; nobody knows as long as the canary's status speaks of
    /// what was written before.
    pub(super) fn counted(&self) -> Option<Pods> {
        if !self.by_replicas() {
            return None;
        }
        let primary = self.primary().and_then(Workload::parse).map_or(0, |p| p.rollout.available);
        let attached = self.generated().filter(|c| Set::of(c).is_some()).and_then(Workload::parse);
        let Some(canary) = attached else { return Some(Pods { canary: 0, primary }) };
        let r = &canary.rollout;
        // Pods of the detached template may still count: as many as that could be are left out.
        let detached = (r.replicas - r.updated).max(0);
        (r.observed_generation >= canary.generation)
            .then(|| Pods { canary: (r.available - detached).max(0), primary })
    }

    /// The number of pods for a weight; the first one attaches them.
    pub(super) fn set_share(&self, weight: i32) -> Result<Vec<Write>, Impossible> {
        let Some(canary) = self.generated() else {
            return if weight == 0 { Ok(Vec::new()) } else { Err(missing("the canary")) };
        };
        let attached = Set::of(canary).is_some();
        if weight == 0 && !attached {
            return Ok(Vec::new());
        }
        // More than are ready would exceed the weight until the others are; where none is, the canary's serve alone.
        let pods = self.primary().and_then(Workload::parse).map_or(0, |p| match p.rollout.available {
            0 => p.replicas,
            available => available.min(p.replicas),
        });
        let set = Set { weight, count: count(weight, pods) };
        let mut edit = self
            .generated_edit()?
            .same_generation()
            .set("/spec/replicas", set.count.into())
            .annotation(keys::SHARE, &set.text());
        if !attached {
            let revision = annotation(canary, keys::REVISION).map(Revision::from_key);
            let (revision, label) = revision.zip(self.label()).ok_or_else(|| missing("the target"))?;
            let template = objects::attached_template(self.template(&revision)?, &label);
            edit = edit
                .annotation(keys::TEMPLATE, Revision::of(&template).as_str())
                .set("/spec/template", template);
        }
        Ok(one(edit))
    }

    /// Brings the number of pods in line with the weight that is set and the pods that the primary has now.
    pub(super) fn correct_count(&self) -> Result<Vec<Write>, Impossible> {
        let set = self.generated().and_then(Set::of).ok_or_else(|| missing("the canary"))?;
        self.set_share(set.weight)
    }

    /// The canary's pods have to come into the owner's Service.
    pub(super) fn apex_lacks_canary(&self) -> Option<String> {
        if !self.by_replicas() {
            return None;
        }
        let (label, template) = self.label().zip(self.target_template())?;
        let Some(apex) = self.get(Kind::Service, &self.names.apex) else {
            return Some(format!(
                "Service {} does not exist: with provider \"kubernetes\" the canary gets its share of the traffic \
                 as pods of it; apply it, or name another one in spec.service.name.",
                self.names.apex
            ));
        };
        let attached = objects::attached_template(template, &label);
        let labels = attached.pointer("/metadata/labels");
        let selector = apex.pointer("/spec/selector").and_then(Value::as_object).filter(|s| !s.is_empty());
        let selects = selector
            .is_some_and(|s| s.iter().all(|(key, value)| labels.and_then(|l| l.get(key)) == Some(value)));
        (!selects).then(|| {
            format!(
                "Service {} does not select the pods of {}, so that the canary's would get no traffic either: \
                 correct its selector, or name another one in spec.service.name.",
                self.names.apex, self.names.target
            )
        })
    }

    /// What makes the share another one than the ratio of pods.
    pub(super) fn share_warnings(&self) -> Vec<String> {
        if !self.by_replicas() {
            return Vec::new();
        }
        let mut warnings = Vec::new();
        if let Some(apex) = self.get(Kind::Service, &self.names.apex) {
            let text = |pointer: &str| apex.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            let doubts = [
                (text("/spec/sessionAffinity") == "ClientIP", "sessionAffinity", "clients stay with one pod"),
                (
                    text("/spec/externalTrafficPolicy") == "Local",
                    "externalTrafficPolicy",
                    "each node has a share of its own",
                ),
                (
                    text("/spec/internalTrafficPolicy") == "Local",
                    "internalTrafficPolicy",
                    "each node has a share of its own",
                ),
                (
                    !text("/spec/trafficDistribution").is_empty(),
                    "trafficDistribution",
                    "near pods come first",
                ),
                (text("/spec/clusterIP") == "None", "clusterIP: None", "each client chooses by itself"),
                (
                    apex.pointer("/spec/publishNotReadyAddresses").is_some_and(|p| p == true),
                    "publishNotReadyAddresses",
                    "pods get requests before they are ready",
                ),
            ];
            warnings.extend(doubts.into_iter().filter(|(is, ..)| *is).map(|(_, field, so)| {
                format!(
                    "Service {} has {field}: {so}, and the canary's share is not its part of the pods.",
                    self.names.apex
                )
            }));
        }
        let primary = self.primary().and_then(Workload::parse);
        let first = self.policy().steps.next(0).unwrap_or(0);
        if let Some(primary) = primary {
            if first > 0 && percent(1, primary.replicas) > first && primary.replicas > 0 {
                warnings.push(format!(
                    "spec.analysis begins with {first} %: one pod beside those of {} is more, and status states it.",
                    self.names.target
                ));
            }
            if primary.recreate {
                warnings.push(format!(
                    "Deployment {} has strategy Recreate: while it is replaced, the canary's pods are all that serve.",
                    self.names.target
                ));
            }
        }
        warnings
    }
}
