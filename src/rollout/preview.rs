//! What adopting an application would do, without doing it: the decisions are those of [`advance`], played on copies of the
//! objects, with pods that are ready as soon as they are asked for.

use crate::api::revision::Revision;
use crate::api::status::Phase;
use crate::object::{Kind, ObjectRef, Objects, Write};
use crate::rollout::model::neighbours::Neighbours;
use crate::rollout::model::observed::PodsSaid;
use crate::rollout::model::plan::{Answer, Step};
use crate::rollout::subject::{Config, Snapshot, Subject};
use crate::rollout::{Memory, advance};
use crate::router::HTTP_ROUTE;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// Decisions; more would be a loop.
const MOST: usize = 200;

/// What would be done to one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It would be made, a Deployment with so many pods.
    Make(Option<i64>),
    /// Its number of pods would be another one: from, to.
    Scale(i64, i64),
    /// Its pods would be replaced.
    Restart,
    /// These fields would be others, as paths.
    Edit(Vec<String>),
    /// It would only get labels and annotations of ours.
    Mark,
    /// It would be deleted.
    Delete,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Make(None) => f.write_str("is made"),
            Self::Make(Some(pods)) => write!(f, "is made, with {pods} pods"),
            Self::Scale(from, to) => write!(f, "is scaled from {from} to {to} pods"),
            Self::Restart => f.write_str("has its pods replaced"),
            Self::Edit(paths) => write!(f, "is edited: {}", paths.join(", ")),
            Self::Mark => f.write_str("gets labels and annotations of sidetrack.dev, nothing else"),
            Self::Delete => f.write_str("is deleted"),
        }
    }
}

/// What adopting would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preview {
    /// Layout of the Canary.
    pub layout: &'static str,
    /// Objects with what would be done to them, in the order of their names; empty where it is refused.
    pub changes: Vec<(ObjectRef, Change)>,
    /// Why it would be refused, before anything is touched.
    pub refusals: Vec<String>,
    /// What is served otherwise than one might expect, and who does not follow by himself.
    pub warnings: Vec<String>,
    /// What it would wait for, where it would not come to its end by itself.
    pub waits_for: Option<String>,
}

struct World {
    canary: Arc<Value>,
    objects: Objects,
    snapshots: BTreeMap<String, Snapshot>,
    templates: BTreeMap<Revision, Value>,
}

/// Plays the adoption of a Canary on objects as they are. One that is adopted already changes nothing.
///
/// # Errors
///
/// When the Canary cannot be read, with serde's words.
pub fn preview(
    canary: Value,
    objects: Objects,
    neighbours: Arc<Neighbours>,
    config: &Config,
    mut now: Timestamp,
) -> Result<Preview, serde_json::Error> {
    let before = objects.clone();
    let mut world =
        World { canary: Arc::new(canary), objects, snapshots: BTreeMap::new(), templates: BTreeMap::new() };
    world.identify();
    let mut memory = Memory { surveyed: Some(now), ..Memory::default() };
    let mut seen = Preview::default();
    for _ in 0..MOST {
        let templates = world.templates.clone();
        let mut subject = Subject::new(
            world.canary.clone(),
            world.objects.clone(),
            world.snapshots.clone(),
            &templates,
            config,
        )?;
        subject.neighbours = Some(neighbours.clone());
        memory.surveyed = Some(now);
        let observed = subject.observe();
        seen.layout = subject.names.layout.as_str();
        seen.warnings =
            observed.warnings.iter().chain(observed.dependants.iter().flatten()).cloned().collect();
        seen.refusals.clone_from(&observed.refusals);
        let phase = observed.status.phase;
        if !seen.refusals.is_empty() || !matches!(phase, Phase::None | Phase::Initializing) {
            break;
        }
        let plan = advance(&observed, &mut memory, now);
        seen.waits_for =
            observed.status.conditions.iter().find(|c| c.type_ == "Ready").map(|c| c.message.clone());
        if plan.steps.is_empty() {
            match plan.wake.filter(|wake| *wake > now) {
                Some(wake) => now = wake,
                None => break,
            }
        }
        for step in &plan.steps {
            take(&mut world, &subject, &mut memory, step);
        }
        world.settle();
        now = now.saturating_add(SignedDuration::from_millis(1)).unwrap_or(now);
    }
    let adopted =
        world.canary.pointer("/status/phase").is_some_and(|phase| phase == Phase::Initialized.as_str());
    if adopted || !seen.refusals.is_empty() {
        seen.waits_for = None;
    }
    if seen.refusals.is_empty() {
        seen.changes = changes(&before, &world.objects);
    }
    Ok(seen)
}

fn take(world: &mut World, subject: &Subject<'_>, memory: &mut Memory, step: &Step) {
    let keep = |world: &mut World, memory: &mut Memory, revision: &Revision, template: Value| {
        world.templates.insert(revision.clone(), template);
        memory.loaded.push(revision.clone());
    };
    match step {
        Step::Status(status) => {
            if let (Some(canary), Ok(status)) =
                (Arc::make_mut(&mut world.canary).as_object_mut(), serde_json::to_value(status))
            {
                canary.insert("status".into(), status);
            }
        }
        Step::Ask(check) => {
            let yes = Answer { passed: true, messages: Vec::new(), error: String::new(), value: None };
            memory.answers.insert(check.clone(), yes);
        }
        Step::AskPods { deployment, revision } => {
            let at = memory.surveyed.unwrap_or_default();
            let (deployment, revision) = (deployment.clone(), revision.clone());
            memory.pods = Some(PodsSaid { deployment, revision, at, why: None });
        }
        Step::LoadSnapshot(revision) => {
            if let Some(template) = subject.target_template().cloned() {
                keep(world, memory, revision, template);
            }
        }
        Step::StoreSnapshot(revision)
        | Step::StorePrimarySnapshot(revision)
        | Step::StoreRunning(revision) => {
            let stored = Snapshot { uid: String::new(), created: String::new() };
            world.snapshots.insert(subject.names.snapshot(revision), stored);
            if let Some(template) = subject.target_template().cloned() {
                keep(world, memory, revision, template);
            }
        }
        step => subject.writes(step).unwrap_or_default().iter().for_each(|write| world.apply(write)),
    }
}

impl World {
    /// A Canary that is not stored yet owns what is made for it all the same.
    fn identify(&mut self) {
        if self.canary.pointer("/metadata/uid").is_none() {
            json_patch::merge(Arc::make_mut(&mut self.canary), &json!({"metadata": {"uid": "preview"}}));
        }
    }

    fn apply(&mut self, write: &Write) {
        let Some(at) = write.target() else { return };
        match write {
            Write::Create { object, .. } => {
                let mut object = object.clone();
                json_patch::merge(
                    &mut object,
                    &json!({"metadata": {"uid": at.to_string(), "generation": 1, "resourceVersion": "1"}}),
                );
                self.objects.insert(at, Arc::new(object));
            }
            Write::Patch { patch, .. } | Write::PatchStatus { patch, .. } => {
                let live =
                    if at.kind == Kind::Canary { Some(&mut self.canary) } else { self.objects.get_mut(&at) };
                if let Some(live) = live.map(Arc::make_mut) {
                    let generation =
                        live.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(1);
                    if json_patch::patch(live, patch).is_ok() && at.kind == Kind::Deployment {
                        json_patch::merge(live, &json!({"metadata": {"generation": generation + 1}}));
                    }
                }
            }
            Write::Delete { .. } => drop(self.objects.remove(&at)),
            Write::Replace { .. } | Write::ReplaceStatus { .. } | Write::Evict { .. } => {}
        }
    }

    /// All pods that are asked for are ready, and routes are taken up.
    fn settle(&mut self) {
        for (at, object) in &mut self.objects {
            let object = Arc::make_mut(object);
            let generation = object.pointer("/metadata/generation").cloned().unwrap_or_default();
            match at.kind {
                Kind::Deployment => {
                    let pods = object.pointer("/spec/replicas").cloned().unwrap_or_else(|| 1.into());
                    let status = json!({"observedGeneration": generation, "replicas": pods, "updatedReplicas": pods,
                        "readyReplicas": pods, "availableReplicas": pods, "conditions": null});
                    json_patch::merge(object, &json!({"status": status}));
                }
                HTTP_ROUTE => {
                    let parents = object.pointer_mut("/status/parents").and_then(Value::as_array_mut);
                    for condition in parents
                        .into_iter()
                        .flatten()
                        .filter_map(|p| p.get_mut("conditions")?.as_array_mut())
                        .flatten()
                    {
                        json_patch::merge(condition, &json!({"observedGeneration": generation}));
                    }
                }
                _ => {}
            }
        }
    }
}

/// What differs between two states, object by object.
fn changes(before: &Objects, after: &Objects) -> Vec<(ObjectRef, Change)> {
    let mut found = Vec::new();
    let all: BTreeSet<&ObjectRef> = before.keys().chain(after.keys()).collect();
    for at in all.into_iter().filter(|at| !matches!(at.kind, Kind::MetricTemplate | Kind::ControllerRevision))
    {
        let of = |change| (at.clone(), change);
        match (before.get(at), after.get(at)) {
            (None, Some(made)) => {
                found.push(of(Change::Make(made.pointer("/spec/replicas").and_then(Value::as_i64))))
            }
            (Some(_), None) => found.push(of(Change::Delete)),
            (Some(was), Some(is)) => found.extend(edits(was, is).into_iter().map(of)),
            (None, None) => {}
        }
    }
    found
}

fn edits(was: &Value, is: &Value) -> Vec<Change> {
    let (mut found, mut paths, mut marked) = (Vec::new(), Vec::new(), false);
    let pods = |object: &Value| object.pointer("/spec/replicas").and_then(Value::as_i64);
    for operation in json_patch::diff(was, is).0 {
        let path = operation.path().to_string();
        let ignored =
            ["/status", "/metadata/generation", "/metadata/resourceVersion", "/metadata/managedFields"];
        if ignored.iter().any(|ignored| path.starts_with(ignored)) {
            continue;
        }
        if path == "/spec/replicas"
            && let (Some(from), Some(to)) = (pods(was), pods(is))
        {
            found.push(Change::Scale(from, to));
        } else if path.starts_with("/spec/template") {
            if !found.contains(&Change::Restart) {
                found.push(Change::Restart);
            }
        } else if path.starts_with("/metadata/") {
            let ours = path.contains("sidetrack.dev") || path.starts_with("/metadata/finalizers");
            if ours || is_new_map(was, &path) {
                marked = true;
            } else {
                paths.push(shown(&path));
            }
        } else {
            paths.push(shown(&path));
        }
    }
    paths.sort();
    paths.dedup();
    if !paths.is_empty() {
        found.push(Change::Edit(paths));
    }
    if marked && found.is_empty() {
        found.push(Change::Mark);
    }
    found
}

/// Whether a path is that of all labels or annotations, which the object had none of.
fn is_new_map(was: &Value, path: &str) -> bool {
    ["/metadata/labels", "/metadata/annotations"].contains(&path) && was.pointer(path).is_none()
}

/// A JSON pointer as people write a path, down to the third field.
fn shown(path: &str) -> String {
    let tokens = path.split('/').skip(1).take(4).map(|token| token.replace("~1", "/").replace("~0", "~"));
    tokens.fold(String::new(), |path, token| match token.parse::<usize>() {
        Ok(index) => format!("{path}[{index}]"),
        Err(_) if path.is_empty() => token,
        Err(_) => format!("{path}.{token}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::model::neighbours::LISTED;

    fn object(api: &str, kind: &str, name: &str, spec: Value) -> Value {
        json!({"apiVersion": api, "kind": kind, "metadata": {"namespace": "test", "name": name, "uid": name,
            "generation": 1, "resourceVersion": "1"}, "spec": spec})
    }

    fn canary(layout: &str) -> Value {
        let mut canary = object(
            "flagger.app/v1beta1",
            "Canary",
            "app",
            json!({"provider": "istio", "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "app"},
                "service": {"port": 80}, "analysis": {"interval": "10s", "stepWeight": 10}}),
        );
        json_patch::merge(
            &mut canary,
            &json!({"metadata": {"annotations": {"sidetrack.dev/layout": layout}}}),
        );
        canary
    }

    fn shop() -> Vec<Value> {
        let mut app = object(
            "apps/v1",
            "Deployment",
            "app",
            json!({"replicas": 2, "selector": {"matchLabels": {"app": "app"}},
                "template": {"metadata": {"labels": {"app": "app"}}, "spec": {"containers": []}}}),
        );
        app["status"] =
            json!({"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2});
        let service = object(
            "v1",
            "Service",
            "app",
            json!({"selector": {"app": "app"}, "ports": [{"port": 80, "targetPort": 8080}]}),
        );
        vec![app, service]
    }

    fn played(layout: &str, objects: &[Value]) -> Preview {
        let mut around = Neighbours::default();
        for kind in LISTED {
            around.add(
                kind,
                objects.iter().filter(|object| object["kind"] == kind.kind).cloned().collect::<Vec<_>>(),
            );
        }
        let objects =
            objects.iter().map(|object| (ObjectRef::of(object).unwrap(), object.clone().into())).collect();
        preview(canary(layout), objects, Arc::new(around), &Config::default(), Timestamp::UNIX_EPOCH).unwrap()
    }

    fn lines(preview: &Preview) -> Vec<String> {
        preview
            .changes
            .iter()
            .map(|(at, change)| format!("{} {} {change}", at.kind.as_str(), at.name))
            .collect()
    }

    #[test]
    fn everything_that_would_be_done_is_listed() {
        let seen = played("primary-copy", &shop());
        assert_eq!((&seen.refusals, &seen.waits_for), (&vec![], &None), "{seen:#?}");
        assert_eq!(
            lines(&seen),
            [
                "Deployment app is scaled from 2 to 0 pods",
                "Deployment app-primary is made, with 2 pods",
                "Service app is edited: spec.selector.app",
                "Service app-canary is made",
                "Service app-primary is made",
                "DestinationRule app-canary is made",
                "DestinationRule app-primary is made",
                "VirtualService app is made",
            ]
        );
        let seen = played("in-place", &shop());
        assert_eq!(
            lines(&seen),
            [
                "Deployment app gets labels and annotations of sidetrack.dev, nothing else",
                "Service app-canary is made",
                "Service app-primary is made",
                "DestinationRule app-canary is made",
                "DestinationRule app-primary is made",
                "VirtualService app is made",
            ]
        );
    }

    #[test]
    fn what_is_refused_is_said_and_nothing_listed() {
        let mut objects = shop();
        objects.push(object("v1", "Service", "metrics", json!({"selector": {"app": "app"}})));
        let seen = played("primary-copy", &objects);
        assert!(seen.changes.is_empty() && seen.refusals[0].contains("Service metrics"), "{seen:#?}");
        assert!(played("in-place", &objects).refusals.is_empty());
    }
}
