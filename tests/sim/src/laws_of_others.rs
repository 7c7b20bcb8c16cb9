//! I10: nothing that Sidetrack did not make is taken, rewritten or deleted but for what adoption states, and leaving gives that
//! back. Judged after each of its writes, whatever the story is about.

use crate::world::World;
use serde_json::{Map, Value, json};
use sidetrack::object::{Kind, ObjectRef};
use std::collections::BTreeMap;

/// What somebody else made, as it was when a story began.
#[derive(Clone, Debug, Default)]
pub struct Others {
    /// Objects that nobody but their owners writes.
    foreign: BTreeMap<ObjectRef, Value>,
    /// The Service and the routes that may be adopted.
    adopted: BTreeMap<ObjectRef, Value>,
}

/// An object without what every write, and the Deployment controller, changes.
pub fn bare(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(map) = object.as_object_mut() {
        map.remove("status");
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for field in ["resourceVersion", "generation", "managedFields"] {
            metadata.remove(field);
        }
        for field in ["labels", "annotations"] {
            if metadata.get(field).is_some_and(|map| map.as_object().is_some_and(Map::is_empty)) {
                metadata.remove(field);
            }
        }
    }
    object
}

fn owned(object: &Value, uid: &Value) -> bool {
    object
        .pointer("/metadata/ownerReferences")
        .and_then(Value::as_array)
        .is_some_and(|owners| owners.iter().any(|owner| owner["controller"] == true && owner["uid"] == *uid))
}

fn address(port: &Value) -> (Value, Value) {
    (port["port"].clone(), port["protocol"].clone())
}

/// A route without where it leads, and a Service without what adoption may change: its selector, ports that are added, and a
/// name for the only port that had none beside another one.
fn kept(at: &ObjectRef, object: &Value, was: &Value) -> Value {
    let mut kept = bare(object);
    let metadata = &mut kept["metadata"];
    for field in ["labels", "annotations"] {
        if let Some(map) = metadata[field].as_object_mut() {
            map.retain(|key, _| !key.starts_with("sidetrack.dev/") && !key.contains("toolkit.fluxcd.io"));
        }
        if metadata[field].as_object().is_none_or(Map::is_empty) {
            metadata.as_object_mut().unwrap().remove(field);
        }
    }
    if at.kind == Kind::Service {
        kept["spec"].as_object_mut().unwrap().remove("selector");
        let ports = kept["spec"]["ports"].as_array_mut().unwrap();
        let before = was["spec"]["ports"].as_array().unwrap();
        ports.retain(|port| before.iter().any(|b| address(b) == address(port)));
        for port in ports {
            let unnamed = before.iter().any(|b| address(b) == address(port) && b.get("name").is_none());
            if unnamed && object["spec"]["ports"].as_array().unwrap().len() > 1 {
                port.as_object_mut().unwrap().remove("name");
            }
        }
        return kept;
    }
    for (list, destinations) in [("http", "route"), ("tcp", "route"), ("rules", "backendRefs")] {
        for rule in kept["spec"][list].as_array_mut().into_iter().flatten() {
            if rule.to_string().contains("\"app") {
                rule.as_object_mut().unwrap().remove(destinations);
            }
        }
    }
    let empty = ["http", "tcp", "rules"].map(|list| kept["spec"][list].is_null());
    for (list, empty) in ["http", "tcp", "rules"].into_iter().zip(empty) {
        if empty && let Some(spec) = kept["spec"].as_object_mut() {
            spec.remove(list);
        }
    }
    if kept["spec"].get("backends").is_some() {
        kept["spec"]["backends"] = json!([]);
    }
    kept
}

impl World {
    /// Notes whose everything is that is there now: the target and the Canary aside, it is somebody else's.
    pub fn note_others(&mut self) {
        let adopted = |at: &ObjectRef| {
            at.name == self.names.apex && (at.kind == Kind::Service || matches!(at.kind, Kind::Route(_)))
        };
        let target = self.deployment(&self.names.target);
        let mut others = Others::default();
        for (at, object) in
            self.cluster.objects.iter().filter(|(at, _)| **at != target && **at != self.canary)
        {
            let place = if adopted(at) { &mut others.adopted } else { &mut others.foreign };
            place.insert(at.clone(), (**object).clone());
        }
        self.laws.others = others;
    }

    /// Judges one of Sidetrack's own writes.
    pub(super) fn judge_others(&mut self, at: &ObjectRef, before: Option<&Value>) {
        let uid = self.cluster.get(&self.canary).map_or(Value::Null, |c| c["metadata"]["uid"].clone());
        let after = self.cluster.get(at).cloned();
        let target = self.deployment(&self.names.target);
        let free = *at == self.canary || *at == target;
        let apex =
            at.name == self.names.apex && (at.kind == Kind::Service || matches!(at.kind, Kind::Route(_)));
        let mine = |object: Option<&Value>| object.is_none_or(|object| owned(object, &uid));
        // An apex Service that was made for the Canary outlives it.
        let may = free || apex || mine(before) && (mine(after.as_ref()) || before.is_some());
        self.law("I10", may, &format!("{at} is written, and somebody else's"));
        let others = self.laws.others.clone();
        for (at, was) in &others.foreign {
            let is = self.cluster.get(at).map(bare);
            self.law(
                "I10",
                is.as_ref() == Some(&bare(was)),
                &format!("{at} is not what its owner made: {is:?}"),
            );
        }
        if let Some(was) = others.adopted.get(at) {
            let Some(is) = after else {
                return self.law("I10", false, &format!("{at} was adopted and is gone"));
            };
            let (is, was) = (kept(at, &is, was), kept(at, was, was));
            self.law(
                "I10",
                is == was,
                &format!("adoption changed more of {at} than it may: {is:#} was {was:#}"),
            );
        }
    }

    /// What was adopted is as its owner had it.
    pub fn all_is_given_back(&mut self) {
        let others = self.laws.others.clone();
        for (at, was) in others.adopted.iter().chain(&others.foreign) {
            let is = self.cluster.get(at).map(bare);
            self.law(
                "I10",
                is.as_ref() == Some(&bare(was)),
                &format!("{at} was not given back: {is:#?} was {:#?}", bare(was)),
            );
        }
    }
}
