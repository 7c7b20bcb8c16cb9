//! What must hold at each write, whatever a scenario is about (the invariants of the interlock, seen from outside).

use crate::objects::{Cluster, State, pod_image, pods_of};
use crate::oracle::{BEHIND, Terms, is_glassed, whole, written};
use crate::{at, image, weight};
use serde_json::Value;
use sidetrack::api::keys;
use sidetrack::api::revision::{RESTARTED_AT, Revision};
use std::collections::BTreeSet;
use std::time::Instant;

/// What has been seen so far.
#[derive(Debug, Default)]
pub struct Laws {
    /// Images whose pods the target may have: let go since it last had none.
    let_go: BTreeSet<String>,
    /// When the live hold arrived.
    held: Option<(Revision, Instant)>,
    /// When the target last had all its pods ready, and the primary last none.
    ready: Option<Instant>,
    alone: Option<Instant>,
    /// When the target's template last changed.
    changed: Option<Instant>,
    phase: String,
}

impl Laws {
    /// Judges one write; `before` is what the object was. Returns what is broken.
    pub fn read(
        &mut self,
        cluster: &Cluster,
        before: Option<&Value>,
        state: &State,
        terms: &Terms,
    ) -> Vec<String> {
        let foreign = terms.foreign.contains(&state.version);
        let mut broken = Vec::new();
        let Some(primary) = cluster.get(&("deploy", "app-primary".to_owned())) else { return broken };
        match (state.kind, state.name.as_str(), &state.object) {
            ("deploy", "app", Some(target)) => {
                broken.extend(self.target(cluster, before, target, state, terms))
            }
            ("deploy", "app-primary", Some(now)) if !foreign => {
                broken.extend(before.and_then(|before| primary_law(before, now, cluster, terms)));
            }
            ("pod", _, Some(pod)) if before.is_none() && at(pod, "/metadata/labels/app") == "app" => {
                let image_ = pod_image(pod);
                if !self.let_go.contains(image_) && image(primary) != image_ {
                    broken.push(format!("I1: a pod of the target runs {image_}, which was not released"));
                }
            }
            ("vs", "app", Some(now)) if !foreign => {
                let was = before.and_then(weight).unwrap_or(0);
                if weight(now).is_some_and(|now| now > was) && !self.may_rise(cluster, state.seen) {
                    broken.push(format!("I3: weight rises from {was} without a ready canary"));
                }
            }
            ("canary", "app", Some(now)) => broken.extend(self.status(cluster, now, state.seen)),
            _ => {}
        }
        if whole(cluster, "app") {
            self.ready = Some(state.seen);
        }
        if at(primary, "/status/availableReplicas").as_i64().unwrap_or(0) == 0 {
            self.alone = Some(state.seen);
        }
        let routes = cluster.get(&("vs", "app".to_owned()));
        let foreign = routes.is_some_and(|vs| terms.foreign.contains(&written(vs)));
        let images: BTreeSet<&str> = pods_of(cluster, "app").into_iter().map(pod_image).collect();
        if state.kind == "pod" && routes.and_then(weight) > Some(0) && images.len() > 1 && !foreign {
            broken.push(format!("I4: pods behind the canary's weight change revision: {images:?}"));
        }
        broken
    }

    fn may_rise(&self, cluster: &Cluster, now: Instant) -> bool {
        let lately = |at: Option<Instant>| at.is_some_and(|at| now.saturating_duration_since(at) <= BEHIND);
        whole(cluster, "app") || lately(self.ready) || lately(self.alone)
    }

    fn target(
        &mut self,
        cluster: &Cluster,
        before: Option<&Value>,
        target: &Value,
        state: &State,
        terms: &Terms,
    ) -> Vec<String> {
        let mut broken = Vec::new();
        let live = Revision::of(at(target, "/spec/template"));
        if before.is_none_or(|b| Revision::of(at(b, "/spec/template")) != live) {
            self.changed = Some(state.seen);
        }
        let held = hold(target);
        let nothing =
            before.is_none_or(|b| at(b, "/spec/replicas") == 0) && pods_of(cluster, "app").is_empty();
        if nothing {
            self.let_go.clear();
        }
        if held.is_none() {
            self.let_go.insert(image(target).to_owned());
        }
        let was = before.and_then(hold);
        if held.is_some() && held != was {
            self.held = held.clone().map(|held| (held, state.seen));
        }
        let promoted = at(target, "/metadata/annotations").get(keys::PROMOTED).and_then(Value::as_str);
        if let Some(was) = was.filter(|was| held.is_none() && *was == live)
            && promoted != Some(live.as_str())
            && !is_glassed(before, target, &live)
        {
            let since = self.held.as_ref().map(|(_, at)| *at);
            let canary = cluster.get(&("canary", "app".to_owned()));
            if canary.is_some_and(|c| asks(c, "confirm-rollout"))
                && !terms.heard.iter().any(|heard| {
                    heard.address.starts_with("/confirm-rollout")
                        && at(&heard.body, "/checksum") == was.short()
                        && heard.passes
                        && since.is_none_or(|since| heard.at + BEHIND >= since)
                        && heard.at <= state.seen
                })
            {
                broken.push(format!("I1: {} is released although its gate did not pass", image(target)));
            }
        }
        let empties =
            before.is_some_and(|b| at(b, "/spec/replicas") != 0) && at(target, "/spec/replicas") == 0;
        let routes = cluster.get(&("vs", "app".to_owned()));
        let ours = routes.is_some_and(|vs| !terms.foreign.contains(&written(vs)));
        if empties && ours && !terms.foreign.contains(&state.version) && routes.and_then(weight) > Some(0) {
            broken.push("I4: the target is scaled down while it has weight".into());
        }
        broken
    }

    /// What status says first of a success.
    fn status(&mut self, cluster: &Cluster, canary: &Value, now: Instant) -> Option<String> {
        let phase = at(canary, "/status/phase").as_str().unwrap_or_default().to_owned();
        let first = phase == "Succeeded" && self.phase != phase;
        self.phase = phase;
        let target = cluster.get(&("deploy", "app".to_owned())).filter(|_| first)?;
        let live = Revision::of(at(target, "/spec/template"));
        let lately = self.changed.is_some_and(|at| now.saturating_duration_since(at) <= BEHIND);
        let named = at(canary, "/status/revisions/primary") == live.as_str();
        let pending = ready_message(canary).contains(live.short());
        (!named && !pending && !lately).then(|| {
            format!("I9: Succeeded does not name {} as pending: {}", image(target), ready_message(canary))
        })
    }
}

/// What condition `Ready` says.
pub fn ready_message(canary: &Value) -> &str {
    let all = at(canary, "/status/conditions").as_array();
    let ready = all.into_iter().flatten().find(|c| at(c, "/type") == "Ready");
    ready.and_then(|c| at(c, "/message").as_str()).unwrap_or_default()
}

fn hold(target: &Value) -> Option<Revision> {
    let paused = at(target, "/spec/paused") == true;
    let hold = at(target, "/metadata/annotations").get(keys::HOLD).and_then(Value::as_str);
    hold.filter(|_| paused).map(Revision::from_key)
}

fn asks(canary: &Value, kind: &str) -> bool {
    at(canary, "/spec/analysis/webhooks")
        .as_array()
        .into_iter()
        .flatten()
        .any(|hook| at(hook, "/type") == kind)
}

fn primary_law(before: &Value, now: &Value, cluster: &Cluster, terms: &Terms) -> Option<String> {
    let template = |d: &Value| at(d, "/spec/template").clone();
    let restarted = |d: &Value| at(d, "/spec/template/metadata/annotations").get(RESTARTED_AT).cloned();
    if template(before) != template(now) && image(before) == image(now) && restarted(before) == restarted(now)
    {
        return Some("I8: the primary is rolled although its revision stays".into());
    }
    let asked = cluster
        .get(&("deploy", "app".to_owned()))
        .and_then(|t| at(t, "/metadata/annotations").get(keys::REQUESTED_REPLICAS))
        .is_some_and(|n| n == "0");
    if at(before, "/spec/replicas") != 0 && at(now, "/spec/replicas") == 0 && !asked {
        return Some("I4: the primary is scaled to nothing".into());
    }
    if image(before) == image(now) {
        return None;
    }
    let canary = cluster.get(&("canary", "app".to_owned()))?;
    let run = at(canary, "/status/run");
    let revision = Revision::from_key(at(run, "/revision").as_str()?);
    let restores = at(run, "/stage") != "Promoting";
    let skips = at(run, "/skip") == true || at(canary, "/spec/skipAnalysis") == true;
    if restores || skips || !asks(canary, "rollout") {
        return None;
    }
    let last = terms
        .heard
        .iter()
        .rfind(|h| h.address.starts_with("/rollout") && at(&h.body, "/checksum") == revision.short());
    (!last.is_some_and(|heard| heard.passes))
        .then(|| format!("I2: {} is promoted although its last check did not pass", image(now)))
}
