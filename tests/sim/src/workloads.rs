//! The Deployment controller, the ReplicaSet controller and the kubelets: Deployments get pods, pods get ready.
//!
//! A Deployment moves one small step a round, so that half-finished rollouts are seen. Pods are ready 300 ms after they
//! are made, or as the template's label `ready` says: `slow` (15 s), `never`, `canaryonly` (never as a
//! generated primary's pod), `generatedonly` (as a generated canary's pod only),
//! `detachedonly` (as one that the application's Service does not select).

use crate::cluster::{Cluster, Manager, text};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sidetrack::api::keys;
use sidetrack::api::revision::Revision;
use sidetrack::object::{Kind, ObjectRef};
use std::collections::BTreeMap;

const QUICK: SignedDuration = SignedDuration::from_millis(300);
const SLOW: SignedDuration = SignedDuration::from_secs(15);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pod {
    ready_at: Option<Timestamp>,
    made: Timestamp,
    /// Somebody made it unready.
    pub broken: bool,
}

impl Pod {
    fn ready(self, now: Timestamp) -> bool {
        !self.broken && self.ready_at.is_some_and(|at| at <= now)
    }
}

#[derive(Clone, Debug)]
pub struct ReplicaSet {
    pub template: Value,
    pub revision: Revision,
    pub pods: Vec<Pod>,
    made: u64,
}

/// The pods of one Deployment.
#[derive(Clone, Debug, Default)]
pub struct Pods {
    pub sets: Vec<ReplicaSet>,
    reason: &'static str,
    since: Timestamp,
    counts: (i32, i32, i32),
}

/// All pods, by the uid of their Deployment.
#[derive(Clone, Debug, Default)]
pub struct Workloads {
    pub pods: BTreeMap<String, Pods>,
    /// Nothing happens for now.
    pub asleep: bool,
    /// A disruption budget lets no pod go.
    pub budget: bool,
    made: u64,
    /// When the controllers last looked.
    rounded: Timestamp,
}

/// One Deployment's wishes.
struct Wish<'a> {
    template: &'a Value,
    replicas: usize,
    paused: bool,
    recreate: bool,
    surge: usize,
    unavailable: usize,
    deadline: SignedDuration,
}

impl<'a> Wish<'a> {
    fn of(object: &'a Value) -> Self {
        let replicas = usize::try_from(object["spec"]["replicas"].as_i64().unwrap_or(1)).unwrap_or(0);
        let part = |field: &str, round_up: bool| match object
            .pointer(&format!("/spec/strategy/rollingUpdate/{field}"))
        {
            Some(Value::Number(n)) => usize::try_from(n.as_i64().unwrap()).unwrap(),
            _ if round_up => replicas.div_ceil(4),
            _ => replicas / 4,
        };
        let (surge, unavailable) = (part("maxSurge", true), part("maxUnavailable", false));
        let deadline = object["spec"]["progressDeadlineSeconds"].as_i64().unwrap_or(600);
        Self {
            template: &object["spec"]["template"],
            replicas,
            paused: object["spec"]["paused"].as_bool().unwrap_or(false),
            recreate: object.pointer("/spec/strategy/type").is_some_and(|t| t == "Recreate"),
            surge: if unavailable == 0 { surge.max(1) } else { surge },
            unavailable,
            deadline: SignedDuration::from_secs(deadline),
        }
    }
}

impl Pods {
    fn total(&self) -> usize {
        self.sets.iter().map(|s| s.pods.len()).sum()
    }

    /// The live template's ReplicaSet.
    fn new_set(&self, template: &Value) -> Option<usize> {
        self.sets.iter().position(|s| s.template == *template)
    }

    pub fn ready(&self, now: Timestamp) -> usize {
        self.sets.iter().flat_map(|s| &s.pods).filter(|p| p.ready(now)).count()
    }

    /// Ready pods that a Service with this selector leads to.
    pub fn ready_behind(&self, selector: &Value, now: Timestamp) -> usize {
        let labels = |set: &ReplicaSet| set.template.pointer("/metadata/labels").cloned().unwrap_or_default();
        let selects = |set: &&ReplicaSet| {
            let labels = labels(set);
            selector.as_object().is_some_and(|s| s.iter().all(|(key, value)| labels.get(key) == Some(value)))
        };
        self.sets.iter().filter(selects).flat_map(|s| &s.pods).filter(|p| p.ready(now)).count()
    }

    /// Revisions of the pods that exist.
    pub fn revisions(&self) -> Vec<&Revision> {
        self.sets.iter().filter(|s| !s.pods.is_empty()).map(|s| &s.revision).collect()
    }
}

impl Workloads {
    /// Writes down what matters of the pods.
    pub fn sketch(&self, out: &mut String) {
        use std::fmt::Write as _;
        for (uid, pods) in self.pods.iter().filter(|(_, pods)| pods.total() > 0) {
            let _ = write!(out, "{uid}{}{}{:?}", pods.reason, pods.since, pods.counts);
            for set in &pods.sets {
                let _ = write!(out, "{}", set.revision);
                set.pods.iter().for_each(|pod| {
                    let _ = write!(out, "{:?}{}", pod.ready_at, pod.broken);
                });
            }
        }
    }

    pub fn of(&self, cluster: &Cluster, at: &ObjectRef) -> &Pods {
        static NONE: Pods =
            Pods { sets: Vec::new(), reason: "", since: Timestamp::UNIX_EPOCH, counts: (0, 0, 0) };
        let uid = cluster.get(at).and_then(|d| text(d, "/metadata/uid"));
        uid.and_then(|uid| self.pods.get(uid)).unwrap_or(&NONE)
    }

    /// Makes pods of a Deployment unready, or ready again; `count` of them, or all.
    pub fn set_broken(&mut self, cluster: &Cluster, at: &ObjectRef, broken: bool, count: usize) {
        let Some(uid) = cluster.get(at).and_then(|d| text(d, "/metadata/uid")) else { return };
        let pods = self.pods.get_mut(uid).into_iter().flat_map(|p| &mut p.sets).flat_map(|s| &mut s.pods);
        pods.take(count).for_each(|p| p.broken = broken);
    }

    /// Deletes the ReplicaSets that have no pods and are not the promoted revision's.
    pub fn forget(&mut self, cluster: &Cluster, at: &ObjectRef) {
        let Some(object) = cluster.get(at) else { return };
        let promoted = object["metadata"]["annotations"][keys::PROMOTED].as_str();
        let uid = text(object, "/metadata/uid").unwrap();
        if let Some(pods) = self.pods.get_mut(uid) {
            if !pods.sets.iter().any(|s| Some(s.revision.as_str()) == promoted) {
                return; // other defaults: it may be any of them
            }
            pods.sets.retain(|s| !s.pods.is_empty() || Some(s.revision.as_str()) == promoted);
        }
    }

    /// Somebody makes a ReplicaSet for a Deployment, with its number of pods.
    pub fn give(&mut self, cluster: &Cluster, at: &ObjectRef, template: Value) {
        let Some(object) = cluster.get(at) else { return };
        let replicas = Wish::of(object).replicas;
        self.made += 1;
        let revision = Revision::of(&template);
        let mut set = ReplicaSet { template, revision, pods: Vec::new(), made: self.made };
        resize(&mut set, replicas, cluster.now);
        self.pods.entry(text(object, "/metadata/uid").unwrap().to_owned()).or_default().sets.push(set);
    }

    /// A Deployment's ReplicaSets and pods as the API server would list them. A pod's name says where it is.
    pub fn shown(&self, cluster: &Cluster, at: &ObjectRef) -> (Vec<Value>, Vec<Value>) {
        let owner = |uid: &Value| json!([{"uid": uid}]);
        let uid = &cluster.get(at).unwrap()["metadata"]["uid"];
        let (mut sets, mut pods) = (Vec::new(), Vec::new());
        for (i, set) in self.of(cluster, at).sets.iter().enumerate() {
            let set_uid = json!(format!("set-{}", set.made));
            sets.push(
                json!({"metadata": {"uid": set_uid, "ownerReferences": owner(uid)}, "spec": {"template": set.template}}),
            );
            pods.extend(set.pods.iter().enumerate().map(|(j, pod)| {
                let ready = if pod.ready(cluster.now) { "True" } else { "False" };
                let name = format!("{i}-{j}");
                // The API server's times have whole seconds.
                let made = Timestamp::from_second(pod.made.as_second()).unwrap().to_string();
                json!({
                    "metadata": {"name": name, "uid": name, "creationTimestamp": made,
                        "ownerReferences": owner(&set_uid)},
                    "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}],
                        "containerStatuses": [{"name": "app", "ready": ready == "True", "state": {"running": {}}}]},
                })
            }));
        }
        (sets, pods)
    }

    /// Evicts a pod; its ReplicaSet makes another one.
    pub fn evict(&mut self, cluster: &Cluster, at: &ObjectRef, name: &str) {
        let uid = text(cluster.get(at).unwrap(), "/metadata/uid").unwrap();
        let (set, pod) = name.split_once('-').unwrap();
        let set = &mut self.pods.get_mut(uid).unwrap().sets[set.parse::<usize>().unwrap()];
        let size = set.pods.len();
        set.pods.remove(pod.parse().unwrap());
        resize(set, size, cluster.now);
    }

    /// When something happens next by itself.
    pub fn next(&self, cluster: &Cluster) -> Option<Timestamp> {
        let pods = self.pods.values().flat_map(|p| &p.sets).flat_map(|s| &s.pods).filter_map(|p| p.ready_at);
        let deadlines =
            cluster.objects.iter().filter(|(at, _)| at.kind == Kind::Deployment).filter_map(|(_, d)| {
                let pods = self.pods.get(text(d, "/metadata/uid")?)?;
                let waits = !["NewReplicaSetAvailable", "DeploymentPaused", "ProgressDeadlineExceeded"]
                    .contains(&pods.reason);
                let at = pods.since + Wish::of(d).deadline + SignedDuration::from_millis(1);
                waits.then_some(at)
            });
        pods.chain(deadlines).filter(|at| *at > self.rounded).min()
    }

    /// One round of all controllers. `true` when something changed.
    pub fn round(&mut self, cluster: &mut Cluster) -> bool {
        if self.asleep {
            return false;
        }
        self.rounded = cluster.now;
        let before = cluster.version();
        let deployments: Vec<ObjectRef> =
            cluster.objects.keys().filter(|at| at.kind == Kind::Deployment).cloned().collect();
        let uids: Vec<&str> =
            deployments.iter().filter_map(|at| text(cluster.get(at)?, "/metadata/uid")).collect();
        self.pods.retain(|uid, _| uids.contains(&uid.as_str()));
        let mut changed = false;
        for at in deployments {
            changed |= self.sync(cluster, &at);
        }
        autoscale(cluster);
        changed || cluster.version() != before
    }

    fn sync(&mut self, cluster: &mut Cluster, at: &ObjectRef) -> bool {
        let object = cluster.get(at).cloned().unwrap();
        let wish = Wish::of(&object);
        let uid = text(&object, "/metadata/uid").unwrap().to_owned();
        let terminating = object.pointer("/metadata/deletionTimestamp").is_some();
        let pods = self.pods.entry(uid).or_default();
        let before: Vec<usize> = pods.sets.iter().map(|s| s.pods.len()).collect();
        if !terminating {
            if wish.paused {
                scale(pods, &wish, cluster.now);
                if pods.reason != "ProgressDeadlineExceeded" {
                    pods.reason = "DeploymentPaused";
                }
            } else {
                if pods.new_set(wish.template).is_none() {
                    self.made += 1;
                    let (template, revision) = (wish.template.clone(), Revision::of(wish.template));
                    pods.sets.push(ReplicaSet { template, revision, pods: Vec::new(), made: self.made });
                    // The write that says so may be lost to a conflict: then an old verdict stays until progress.
                    if pods.reason != "ProgressDeadlineExceeded" {
                        (pods.reason, pods.since) = ("NewReplicaSetCreated", cluster.now);
                    }
                }
                if pods.reason == "DeploymentPaused" {
                    (pods.reason, pods.since) = ("DeploymentResumed", cluster.now);
                }
                roll(pods, &wish, cluster.now);
            }
        }
        let status = status(pods, &wish, &object, cluster.now);
        let changed = before != pods.sets.iter().map(|s| s.pods.len()).collect::<Vec<_>>();
        let mut new = object;
        new["status"] = status;
        cluster.store(at, new, None);
        changed
    }
}

fn resize(set: &mut ReplicaSet, size: usize, now: Timestamp) {
    while set.pods.len() > size {
        let unready = set.pods.iter().position(|p| !p.ready(now));
        set.pods.remove(unready.unwrap_or(set.pods.len() - 1));
    }
    let label = |key: &str| set.template.pointer("/metadata/labels")?.get(key)?.as_str();
    let ends = |suffix: &str| {
        let mut names = ["app", "name", "app.kubernetes.io/name"].iter().filter_map(|k| label(k));
        names.any(|v| v.ends_with(suffix))
    };
    let (primary, generated) = (ends("-primary"), ends("-canary") || label(keys::PODS).is_some());
    let ready_at = match label("ready") {
        None => Some(now + QUICK),
        Some("slow") => Some(now + SLOW),
        Some("canaryonly") if !primary => Some(now + QUICK),
        Some("generatedonly") if generated => Some(now + QUICK),
        Some("detachedonly") if ends("-canary") => Some(now + QUICK),
        Some(_) => None,
    };
    while set.pods.len() < size {
        set.pods.push(Pod { ready_at, made: now, broken: false });
    }
}

/// Scaling of a paused Deployment: its active ReplicaSet, else the live template's, else the newest, whatever runs in it.
fn scale(pods: &mut Pods, wish: &Wish<'_>, now: Timestamp) {
    let total = pods.total();
    let active: Vec<usize> = (0..pods.sets.len()).filter(|i| !pods.sets[*i].pods.is_empty()).collect();
    if total == wish.replicas {
        return;
    }
    if let [] | [_] = active[..] {
        let newest = || (0..pods.sets.len()).max_by_key(|i| pods.sets[*i].made);
        let chosen = active.first().copied().or_else(|| pods.new_set(wish.template)).or_else(newest);
        if let Some(chosen) = chosen {
            resize(&mut pods.sets[chosen], wish.replicas, now);
        }
        return;
    }
    if wish.replicas == 0 {
        pods.sets.iter_mut().for_each(|s| resize(s, 0, now));
        return;
    }
    let largest = *active.iter().max_by_key(|i| pods.sets[**i].pods.len()).unwrap();
    let size = (pods.sets[largest].pods.len() + wish.replicas + wish.surge).saturating_sub(total);
    resize(&mut pods.sets[largest], size, now);
}

/// One step of a rollout.
fn roll(pods: &mut Pods, wish: &Wish<'_>, now: Timestamp) {
    let new = pods.new_set(wish.template).unwrap();
    let old_total = pods.total() - pods.sets[new].pods.len();
    if wish.recreate && old_total > 0 {
        let each = |(i, s): (usize, &mut ReplicaSet)| {
            if i != new {
                resize(s, 0, now)
            }
        };
        pods.sets.iter_mut().enumerate().for_each(each);
        return;
    }
    let size = pods.sets[new].pods.len();
    let room = (wish.replicas + if old_total > 0 { wish.surge } else { 0 }).saturating_sub(old_total);
    let grown = wish.replicas.min(room.max(size)).min(wish.replicas);
    if grown != size {
        resize(&mut pods.sets[new], grown, now);
        return;
    }
    let keep = wish.replicas.saturating_sub(wish.unavailable);
    let mut spare = pods.ready(now).saturating_sub(keep);
    for i in (0..pods.sets.len()).filter(|i| *i != new) {
        let set = &mut pods.sets[i];
        let unready = set.pods.iter().filter(|p| !p.ready(now)).count();
        let away = unready + spare.min(set.pods.len() - unready);
        spare -= away - unready;
        let size = set.pods.len() - away;
        resize(set, size, now);
    }
}

fn status(pods: &mut Pods, wish: &Wish<'_>, object: &Value, now: Timestamp) -> Value {
    let count = |n: usize| i32::try_from(n).unwrap();
    let updated = pods.new_set(wish.template).map_or(0, |i| pods.sets[i].pods.len());
    let (total, ready) = (pods.total(), pods.ready(now));
    let counts = (count(updated), count(ready), -count(total - updated));
    let complete = pods.reason == "NewReplicaSetAvailable" && total == updated;
    if !(wish.paused || complete) {
        let progressed = counts > pods.counts || counts.1 > pods.counts.1 || counts.2 > pods.counts.2;
        if updated == wish.replicas && total == updated && ready >= updated {
            pods.reason = "NewReplicaSetAvailable";
        } else if progressed {
            (pods.reason, pods.since) = ("ReplicaSetUpdated", now);
        } else if pods.reason != "NewReplicaSetAvailable" && now > pods.since + wish.deadline {
            pods.reason = "ProgressDeadlineExceeded";
        }
    }
    pods.counts = counts;
    let progressing = match pods.reason {
        "ProgressDeadlineExceeded" => "False",
        "DeploymentPaused" | "DeploymentResumed" => "Unknown",
        _ => "True",
    };
    let available = ready + wish.unavailable >= wish.replicas;
    let (is, why) = if available {
        ("True", "MinimumReplicasAvailable")
    } else {
        ("False", "MinimumReplicasUnavailable")
    };
    let old = object.pointer("/status/conditions").and_then(Value::as_array);
    let condition = |type_: &str, status: &str, reason: &str| {
        let same = old.and_then(|c| c.iter().find(|c| c["type"] == type_ && c["reason"] == reason));
        same.cloned().unwrap_or_else(
            || json!({"type": type_, "status": status, "reason": reason, "lastUpdateTime": now.to_string()}),
        )
    };
    let mut conditions =
        vec![condition("Available", is, why), condition("Progressing", progressing, pods.reason)];
    let others = |c: &&Value| c["type"] != "Available" && c["type"] != "Progressing";
    conditions.extend(old.into_iter().flatten().filter(others).cloned());
    let terminating = object.pointer("/metadata/deletionTimestamp").is_some();
    let observed =
        if terminating { &object["status"]["observedGeneration"] } else { &object["metadata"]["generation"] };
    json!({
        "observedGeneration": observed, "replicas": total, "updatedReplicas": updated,
        "readyReplicas": ready, "availableReplicas": ready,
        "conditions": conditions,
    })
}

/// Autoscalers without metrics: they enforce their limits on what runs at all.
fn autoscale(cluster: &mut Cluster) {
    let scalers: Vec<Value> = cluster
        .objects
        .iter()
        .filter(|(at, _)| at.kind == Kind::HorizontalPodAutoscaler)
        .map(|(_, o)| (**o).clone())
        .collect();
    for scaler in scalers {
        let namespace = text(&scaler, "/metadata/namespace").unwrap();
        let name = text(&scaler, "/spec/scaleTargetRef/name").unwrap();
        let at = ObjectRef::new(Kind::Deployment, namespace, name);
        let Some(mut object) = cluster.get(&at).cloned() else { continue };
        let replicas = object["spec"]["replicas"].as_i64().unwrap_or(1);
        let limit = |field: &str, or: i64| scaler["spec"][field].as_i64().unwrap_or(or);
        let wanted =
            replicas.clamp(limit("minReplicas", 1), limit("maxReplicas", 1).max(limit("minReplicas", 1)));
        if replicas > 0 && wanted != replicas {
            object["spec"]["replicas"] = wanted.into();
            let manager =
                Manager { name: "kube-controller-manager", applies: None, subresource: Some("scale") };
            cluster.store(&at, object, Some(manager));
        }
    }
}
