//! UPDATE of an adopted apex Service by anyone but the controller.
//!
//! Its manifest points at the target, which has no pods between releases: a plain re-apply would
//! send all traffic there.

use crate::admission::outcome::{Change, Outcome, Rule};
use crate::admission::review::Request;
use crate::admission::view::View;
use crate::api::keys;
use serde_json::{Map, Value};

/// Decides about the write: selector, our keys and the Canary's ports stay, the rest passes.
pub(in crate::admission) fn update(request: &Request, old: View<'_>, new: View<'_>) -> Outcome {
    let mut outcome = Outcome::pass();
    let mut changes = Vec::new();
    let (name, canary) = (&request.name, old.canary().unwrap_or_default());
    for key in keys::LABELS {
        if old.label(key) != new.label(key) {
            changes.push(Change::Label(key, old.label(key).map(str::to_owned)));
        }
    }
    if !changes.is_empty() {
        outcome.warn(format!("labels put back: to leave Sidetrack delete Canary {canary}"));
    }
    for key in keys::ANNOTATIONS.into_iter().chain([keys::PORTS]) {
        if old.annotation(key) != new.annotation(key) {
            changes.push(Change::Annotation(key, old.annotation(key).map(str::to_owned)));
        }
    }
    if new.annotation(keys::ORIGINAL).is_none() && old.annotation(keys::ORIGINAL).is_some() {
        changes.push(Change::Annotation(keys::ORIGINAL, old.annotation(keys::ORIGINAL).map(str::to_owned)));
    }
    if !changes.is_empty() {
        outcome.note(Rule::Restore);
    }
    if old.spec("selector") != new.spec("selector") {
        if let Some(record) = wish(old, new).filter(|record| new.annotation(keys::ORIGINAL) != Some(record)) {
            changes.retain(|change| !matches!(change, Change::Annotation(keys::ORIGINAL, _)));
            changes.push(Change::Annotation(keys::ORIGINAL, Some(record)));
        }
        changes.push(Change::Selector(old.spec("selector").cloned()));
        outcome.note(Rule::Service);
        outcome.warn(format!("the selector of Service {name} was kept: it is Canary {canary}'s"));
    }
    if let Some(ports) = merged_ports(old, new) {
        changes.push(Change::Ports(ports));
        outcome.note(Rule::Service);
        outcome.warn(format!("ports of Service {name} that Canary {canary} defines were kept"));
    }
    outcome.with_changes(changes)
}

/// The record of what the Service goes back to when its Canary leaves, with the selector that its owner asks for now.
fn wish(old: View<'_>, new: View<'_>) -> Option<String> {
    let asked = new.spec("selector").filter(|selector| Some(*selector) != old.spec("selector"))?;
    let record = old.annotation(keys::ORIGINAL).and_then(|text| serde_json::from_str::<Value>(text).ok());
    let mut record = record.filter(Value::is_object).unwrap_or_else(|| Value::Object(Map::new()));
    record.as_object_mut()?.insert("selector".into(), asked.clone());
    Some(record.to_string())
}

/// Returns the ports as they shall be, where they differ from those asked for: the Canary's as they
/// are stored, then those of the request that collide with none of them. Replacing the Canary's by
/// name instead would leave two ports of one name after a server-side apply that changed a number.
fn merged_ports(old: View<'_>, new: View<'_>) -> Option<Vec<Value>> {
    let names = old.annotation(keys::PORTS)?;
    let ours =
        |port: &&Value| names.split(',').map(str::trim).any(|ours| !ours.is_empty() && ours == name(port));
    let mut ports: Vec<Value> = old.ports().iter().filter(ours).cloned().collect();
    let count = ports.len();
    for port in new.ports() {
        let collides = ports.iter().take(count).any(|o| name(o) == name(port) || address(o) == address(port));
        if !collides {
            ports.push(renamed(old, port));
        }
    }
    let as_asked = ports.len() == new.ports().len() && ports.iter().all(|port| new.ports().contains(port));
    (!as_asked).then_some(ports)
}

/// A port of the owner's own, under the name that it has on the adopted Service: nothing else of it is the Canary's.
fn renamed(old: View<'_>, port: &Value) -> Value {
    let record = old.annotation(keys::ORIGINAL).and_then(|text| serde_json::from_str::<Value>(text).ok());
    let (number, protocol) = address(port);
    let key = number.map(|number| format!("{protocol}/{number}")).unwrap_or_default();
    let is_renamed =
        record.is_some_and(|record| record.pointer("/ports").is_some_and(|ports| ports.get(&key).is_some()));
    let before = old.ports().iter().find(|before| address(before) == address(port));
    let mut port = port.clone();
    if let Some(name) = before.filter(|_| is_renamed).and_then(|before| before.get("name"))
        && let Some(port) = port.as_object_mut()
    {
        port.insert("name".into(), name.clone());
    }
    port
}

fn name(port: &Value) -> &str {
    port.get("name").and_then(Value::as_str).unwrap_or_default()
}

fn address(port: &Value) -> (Option<&Value>, &str) {
    (port.get("port"), port.get("protocol").and_then(Value::as_str).unwrap_or("TCP"))
}
