//! A release as a tree: the Canary, its Deployments with their ReplicaSets and pods, its checks and gates, and what it
//! waits for. Pure.

use super::pace::pace;
use super::screen::{Colour, Screen, age};
use super::view::{advice, message, name, namespace, phase, revision_of_release, short, status};
use crate::api::Canary;
use crate::api::analysis::{Metric, ThresholdRange, Webhook};
use crate::api::keys;
use crate::api::request::Request;
use crate::api::revision::Revision;
use crate::api::status::{Answered, CanaryStatus, Checked, Phase, Stage};
use crate::rollout::model::weights::Steps;
use crate::rollout::objects::replica_set_template;
use crate::rollout::status::checked::METRIC;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use std::collections::BTreeSet;

/// So many pods of a ReplicaSet are shown one by one; of more, those that are not ready.
const FOLDED: usize = 3;

/// Everything that is shown.
#[derive(Clone, Debug)]
pub struct Tree {
    /// The Canary.
    pub canary: Canary,
    /// The canary's weight that the live route states; `None` when there is no route.
    pub weight: Option<i32>,
    /// The steps of the analysis.
    pub steps: Steps,
    /// The time between two of them.
    pub interval: SignedDuration,
    /// Kinds of objects that this person may not read.
    pub forbidden: BTreeSet<&'static str>,
    /// Why the spec is not served, and what is doubtful in it.
    pub remarks: Vec<String>,
    /// The Deployments that exist, the target first.
    pub deployments: Vec<Value>,
    /// ReplicaSets of the namespace.
    pub replica_sets: Vec<Value>,
    /// Pods of the namespace.
    pub pods: Vec<Value>,
}

/// A line of the tree and what hangs below it.
struct Node {
    text: String,
    colour: Colour,
    /// Where it is too long for the screen it goes on in the next line; others are cut.
    whole: bool,
    below: Vec<Self>,
}

impl Node {
    fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), colour: Colour::Plain, whole: false, below: Vec::new() }
    }

    fn painted(text: impl Into<String>, colour: Colour) -> Self {
        Self { colour, ..Self::new(text) }
    }

    fn whole(self) -> Self {
        Self { whole: true, ..self }
    }

    fn with(self, below: Vec<Self>) -> Self {
        Self { below, ..self }
    }
}

/// Draws the tree.
#[must_use]
pub fn draw(screen: Screen, tree: &Tree, now: Timestamp) -> String {
    let root = root(tree, now);
    let mut lines = Vec::new();
    lines.push(screen.paint(&screen.cut(&root.text), root.colour));
    branches(screen, &root.below, "", &mut lines);
    lines.push(String::new());
    lines.join("\n")
}

fn branches(screen: Screen, nodes: &[Node], before: &str, lines: &mut Vec<String>) {
    for (number, node) in nodes.iter().enumerate() {
        let last = number + 1 == nodes.len();
        let branch = format!("{before}{}", if last { "└─ " } else { "├─ " });
        let under = format!("{before}{}", if last { "   " } else { "│  " });
        let texts = if node.whole { screen.wrap(&node.text, &branch) } else { vec![node.text.clone()] };
        for (number, text) in texts.iter().enumerate() {
            let branch = if number == 0 { &branch } else { &under };
            let line = screen.cut(&format!("{branch}{text}"));
            // The branch itself keeps the colour of the terminal.
            lines.push(match line.strip_prefix(branch.as_str()) {
                Some(text) => format!("{branch}{}", screen.paint(text, node.colour)),
                None => line,
            });
        }
        branches(screen, &node.below, &under, lines);
    }
}

fn root(tree: &Tree, now: Timestamp) -> Node {
    let canary = &tree.canary;
    let status = status(canary);
    let phase = phase(canary);
    // What is read first stands first: a window may be too low for the pods.
    let mut below = Vec::new();
    let why = message(&status);
    if !why.is_empty() {
        let ways = advice(canary).into_iter().map(|way| Node::painted(way, Colour::Bold).whole()).collect();
        below.push(Node::painted(why, phase.colour).whole().with(ways));
    }
    let kinds: Vec<&str> = tree.forbidden.iter().copied().collect();
    let seen = match tree.weight {
        Some(weight) => format!("{weight} in the route"),
        None if kinds.is_empty() => "no route".into(),
        None => format!("the route is not shown: you may not read {}", kinds.join(", ")),
    };
    let weight = match &status.share {
        Some(share) => share.to_string(),
        None => format!("Weight {} set, {seen}", status.canary_weight),
    };
    // Between releases nothing is counted.
    let checks = match &status.run {
        Some(_) => {
            format!("; failed checks {} of {}", status.failed_checks, canary.spec.analysis.threshold())
        }
        None => String::new(),
    };
    below.push(Node::new(format!("{weight}{checks}")));
    below.extend(pace(&status, &tree.steps, tree.interval, now).map(Node::new));
    let metrics: Vec<Node> =
        canary.spec.analysis.metrics.iter().map(|m| metric(m, &status.checks, now)).collect();
    if !metrics.is_empty() {
        below.push(Node::new("Checks").with(metrics));
    }
    let hooks: Vec<Node> = canary.spec.analysis.webhooks.iter().map(|h| hook(h, &status, now)).collect();
    if !hooks.is_empty() {
        below.push(Node::new("Hooks").with(hooks));
    }
    // What was asked of a revision that is neither released nor running is history.
    let revisions = &status.revisions;
    let known =
        [status.run.as_ref().map(|run| &run.revision), revisions.primary.as_ref(), revisions.failed.as_ref()];
    let of_now = |asked: &&Answered| {
        Request::parse(&asked.text)
            .map_or(true, |request| known.iter().flatten().any(|revision| request.names(revision)))
    };
    below.extend(status.request.as_ref().filter(of_now).map(|asked| Node::new(request(asked, now)).whole()));
    below.extend(tree.remarks.iter().map(|remark| Node::painted(remark.clone(), Colour::Busy).whole()));
    below.extend(tree.deployments.iter().map(|d| deployment(tree, d, now)));
    let release = match revision_of_release(&status) {
        Some(revision) => {
            format!("{} beside {}", short(Some(revision)), short(status.revisions.primary.as_deref()))
        }
        None => short(status.revisions.primary.as_deref()),
    };
    let text = format!("Canary {}/{}  {}  {release}", namespace(canary), name(canary), phase.text);
    Node::painted(text, phase.colour).with(below)
}

fn request(request: &Answered, now: Timestamp) -> String {
    let asked = Request::parse(&request.text);
    let (what, why) = match &asked {
        Ok(asked) => (format!("{} {}", asked.verb, asked.revision), asked.reason.as_str()),
        Err(_) => (request.text.clone(), ""),
    };
    let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
    format!(
        "Request {what} by {}{why}: {} {} ago. {}",
        request.by,
        format!("{:?}", request.outcome).to_lowercase(),
        age(Some(request.at), now),
        request.message
    )
}

fn deployment(tree: &Tree, object: &Value, now: Timestamp) -> Node {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let count = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let key =
        |key: &str| object.pointer("/metadata/annotations").and_then(|a| a.get(key)).and_then(Value::as_str);
    let generated = object
        .pointer("/metadata/labels")
        .and_then(|l| l.get(keys::ROLE))
        .is_some_and(|r| r == keys::ROLE_GENERATED);
    let revision = match key(keys::REVISION).or(key(keys::PROMOTED)).filter(|_| generated) {
        Some(promoted) => short(Some(promoted)),
        None => object.pointer("/spec/template").map_or_else(|| "-".into(), |t| Revision::of(t).to_string()),
    };
    let template = format!("{revision}  {}", images(object));
    let sets: Vec<(&Value, String)> = owned(&tree.replica_sets, text("/metadata/uid"))
        .into_iter()
        .filter(|set| set.pointer("/spec/replicas").and_then(Value::as_i64) != Some(0))
        .map(|set| (set, runs(object, &revision, generated, set)))
        .collect();
    let others: Vec<&str> = sets.iter().map(|(_, runs)| runs.as_str()).filter(|r| *r != template).collect();
    let held = key(keys::HOLD).is_some();
    let rejected = held && key(keys::FAILED) == key(keys::HOLD);
    // Of a held template no pod may run: what is ready is of another one.
    let beside = held && !others.is_empty();
    let mut line = format!(
        "Deployment {}  {}  {}/{} ready",
        text("/metadata/name"),
        if beside { format!("runs {}", others.join(" and ")) } else { template.clone() },
        count("/status/readyReplicas"),
        count("/spec/replicas"),
    );
    line.push_str(&match (held, beside) {
        (false, _) => String::new(),
        (true, false) => "  held".into(),
        (true, true) => format!("  holds {template}"),
    });
    line.push_str(if rejected { ", rejected" } else { "" });
    let colour = match (held, rejected) {
        (false, _) => Colour::Plain,
        (true, false) => Colour::Busy,
        (true, true) => Colour::Bad,
    };
    if let Some(by) = key(keys::APPLIED_BY).filter(|_| !generated) {
        line = format!("{line}  applied by {by}");
    }
    let sets = sets.into_iter().map(|(set, runs)| replica_set(tree, set, &runs, now)).collect();
    Node::painted(line, colour).with(sets)
}

/// Revision and images of a ReplicaSet. Of what is generated only the template that stands there now has a known revision.
fn runs(deployment: &Value, revision: &str, generated: bool, set: &Value) -> String {
    let template = replica_set_template(set);
    let revision = match &template {
        Some(template) if deployment.pointer("/spec/template") == Some(template) => revision.to_owned(),
        Some(template) if !generated => Revision::of(template).to_string(),
        _ => "-".into(),
    };
    format!("{revision}  {}", images(set))
}

fn images(object: &Value) -> String {
    let containers = object.pointer("/spec/template/spec/containers").and_then(Value::as_array);
    let images = containers.into_iter().flatten().filter_map(|c| c.get("image")?.as_str());
    images.collect::<Vec<_>>().join(", ")
}

fn replica_set(tree: &Tree, object: &Value, runs: &str, now: Timestamp) -> Node {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let count = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let line = format!(
        "ReplicaSet {}  {runs}  {}/{} ready  {}",
        text("/metadata/name"),
        count("/status/readyReplicas"),
        count("/spec/replicas"),
        age(created(object), now)
    );
    let mut pods: Vec<Node> =
        owned(&tree.pods, text("/metadata/uid")).into_iter().map(|p| pod(p, now)).collect();
    // Of many pods those are looked for that are not well.
    if pods.len() > FOLDED {
        let all = pods.len();
        pods.retain(|pod| pod.colour != Colour::Good);
        let well = all.saturating_sub(pods.len());
        if well > 0 {
            let more = if pods.is_empty() { "" } else { " more" };
            let are = if well == 1 { "pod is" } else { "pods are" };
            pods.push(Node::painted(format!("{well}{more} {are} ready"), Colour::Good));
        }
    }
    Node::new(line).with(pods)
}

fn pod(object: &Value, now: Timestamp) -> Node {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let list =
        |pointer: &str| object.pointer(pointer).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let ready = list("/status/conditions")
        .iter()
        .any(|c| c.get("type").is_some_and(|t| t == "Ready") && c.get("status").is_some_and(|s| s == "True"));
    let containers = list("/status/containerStatuses");
    let waiting = containers.iter().find_map(|c| c.pointer("/state/waiting/reason")?.as_str());
    let restarts: i64 = containers.iter().filter_map(|c| c.get("restartCount")?.as_i64()).sum();
    let leaves = object.pointer("/metadata/deletionTimestamp").is_some();
    let state = if leaves { "Terminating" } else { waiting.unwrap_or_else(|| text("/status/phase")) };
    let mut line = format!(
        "Pod {}  {state}  {}  {}",
        text("/metadata/name"),
        if ready { "ready" } else { "not ready" },
        age(created(object), now)
    );
    if restarts > 0 {
        line = format!("{line}  {restarts} restarts");
    }
    Node::painted(line, if ready { Colour::Good } else { Colour::Busy })
}

fn created(object: &Value) -> Option<Timestamp> {
    object.pointer("/metadata/creationTimestamp")?.as_str()?.parse().ok()
}

fn owned<'a>(objects: &'a [Value], uid: &str) -> Vec<&'a Value> {
    let by = |object: &&Value| {
        let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
        owners.into_iter().flatten().any(|owner| owner.get("uid").is_some_and(|u| u == uid))
    };
    objects.iter().filter(by).collect()
}

fn last<'a>(checks: &'a [Checked], type_: &str, name: &str) -> Option<&'a Checked> {
    checks.iter().find(|check| check.type_ == type_ && check.name == name)
}

fn metric(metric: &Metric, checks: &[Checked], now: Timestamp) -> Node {
    let range = metric.threshold_range.as_ref();
    let bound = |of: fn(&ThresholdRange) -> Option<f64>, sign: &str| {
        range.and_then(of).map(|v| format!("{sign} {v}"))
    };
    let mut bounds: Vec<String> =
        [bound(|r| r.min, "at least"), bound(|r| r.max, "at most")].into_iter().flatten().collect();
    if bounds.is_empty()
        && let Some(threshold) = metric.threshold
    {
        bounds.push(format!("threshold {threshold}"));
    }
    let bounds = bounds.join(", ");
    match last(checks, METRIC, &metric.name) {
        None => Node::new(format!("{}  not asked  {bounds}", metric.name)),
        Some(last) => {
            let value = last.value.as_deref().unwrap_or("no value");
            let text = format!("{}  {value}  {bounds}  {} ago", metric.name, age(Some(last.at), now));
            Node::painted(text, if last.passed { Colour::Good } else { Colour::Bad })
        }
    }
}

fn hook(hook: &Webhook, status: &CanaryStatus, now: Timestamp) -> Node {
    let type_ = hook.type_.as_deref().filter(|t| !t.is_empty()).unwrap_or("rollout");
    let stage = status.run.as_ref().map(|run| run.stage);
    let promotes =
        matches!(stage, Some(Stage::Clearing | Stage::Promoting | Stage::Returning | Stage::Finalising));
    let (waits, opened) = match type_ {
        "confirm-rollout" => (
            stage == Some(Stage::Gated),
            promotes || matches!(stage, Some(Stage::Releasing | Stage::Analysing)),
        ),
        "confirm-promotion" => (status.phase == Phase::WaitingPromotion, promotes),
        _ => (false, false),
    };
    let last = last(&status.checks, type_, &hook.name);
    let (state, colour) = match last.map(|last| last.passed) {
        None if waits => ("waits", Colour::Busy),
        None => ("not asked", Colour::Plain),
        Some(true) if type_ == "rollback" => ("asks to roll back", Colour::Bad),
        Some(true) => ("passed", Colour::Good),
        Some(false) if waits => ("waits", Colour::Busy),
        Some(false) if type_ == "rollback" => ("does not ask to roll back", Colour::Plain),
        Some(false) if opened => ("passed on request", Colour::Good),
        Some(false) => ("did not pass", Colour::Bad),
    };
    let since = last.map_or_else(String::new, |last| format!("  {} ago", age(Some(last.at), now)));
    Node::painted(format!("{type_} {}  {state}{since}  {}", hook.name, hook.url), colour)
}
