//! The three Services: the apex that clients use, the primary's and the canary's.
//!
//! A Service that was made for the Canary is kept as the Canary says; one that stands under a generated name and was not made
//! for it is not touched. An apex Service that was there before is adopted: its selector, and ports that the Canary adds, are
//! ours, the rest (type, its own ports, metadata) stays its owner's, and Flux may go on applying it, since the admission
//! webhook keeps those parts. What we changed of it is on record in [`keys::ORIGINAL`], and undone when the Canary leaves.

use super::Live;
use super::object::{self, Owner, set};
use super::ports::{self, DiscoveredPort};
use super::service::{Metadata, ServiceSpec};
use crate::api::carried;
use crate::api::keys;
use crate::api::names::{Layout, Names, label_value};
use crate::object::{Kind, ObjectRef, Write};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The labels by which Services select pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    /// The telling label, such as `app`: generated Services have it too, with their own name.
    pub key: String,
    /// Labels of the target's pods: its `matchLabels`.
    pub target: Map<String, Value>,
    /// Labels of the generated Deployment's pods: the same, the telling one with the layout's suffix.
    pub generated: Map<String, Value>,
    /// Where the canary's pods have the target's labels, what [`keys::PODS`] is on them; then there is no Service that selects
    /// the primary's pods alone, and none is made.
    pub pods: Option<String>,
}

impl Selector {
    /// One label, as Flagger has it.
    #[cfg(test)]
    pub(super) fn by(key: &str, value: &str) -> Self {
        let of = |value: String| Map::from_iter([(key.to_owned(), value.into())]);
        Self {
            key: key.into(),
            target: of(value.into()),
            generated: of(format!("{value}-primary")),
            pods: None,
        }
    }

    fn target(&self) -> Value {
        self.target.clone().into()
    }

    fn generated(&self) -> Value {
        if let Some(pods) = &self.pods {
            return json!({ keys::PODS: pods });
        }
        self.generated.clone().into()
    }
}

/// Whose pods the apex Service selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApexSelects {
    /// The primary's.
    Primary,
    /// The target's: until the primary is ready, and after leaving. An adopted Service's own selector is left
    /// as it is.
    Target,
}

/// What the Services of one Canary are made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Services {
    /// The names.
    pub names: Names,
    /// The owner of what is made.
    pub owner: Owner,
    /// `spec.service`.
    pub service: ServiceSpec,
    /// The target's selector label.
    pub selector: Selector,
    /// Further ports, from [`super::ports::discovered_ports`]; empty without `portDiscovery`.
    pub discovered: Vec<DiscoveredPort>,
    /// Whose pods the apex selects.
    pub apex_selects: ApexSelects,
}

impl Services {
    /// Names the Services: apex, primary, canary.
    #[must_use]
    pub fn objects(&self) -> [ObjectRef; 3] {
        [&self.names.apex, &self.names.apex_primary, &self.names.apex_canary]
            .map(|name| ObjectRef::new(Kind::Service, &self.names.namespace, name))
    }

    /// Builds the Services as they are made: apex, primary, canary. `owners` are the ports that an owner's apex Service has:
    /// where the Canary does not say how its port is to be reached, they say so, and further ones are those of the other two
    /// as well.
    #[must_use]
    pub fn desired(&self, owners: &[Value]) -> [Value; 3] {
        let [apex, primary, canary] = self.objects();
        let own = self.ports(owners);
        let further = ports::beside(owners, &own);
        let all: Vec<Value> = own.iter().chain(&further).cloned().collect();
        let service = &self.service;
        let (target, generated) = (self.selector.target(), self.selector.generated());
        let (primary_selector, canary_selector) = match self.names.layout {
            Layout::PrimaryCopy => (generated, target.clone()),
            Layout::InPlace => (target.clone(), generated),
        };
        let apex_selector = match self.apex_selects {
            ApexSelects::Primary => primary_selector.clone(),
            ApexSelects::Target => target,
        };
        let mut apex_metadata = self.metadata(&apex, service.apex.as_ref());
        let (labels, annotations) = self.apex_marks();
        apex_metadata.labels.extend(labels);
        apex_metadata.annotations.extend(annotations);
        [
            self.build(&apex, &apex_metadata, apex_selector, own),
            self.build(
                &primary,
                &self.metadata(&primary, service.primary.as_ref()),
                primary_selector,
                all.clone(),
            ),
            self.build(&canary, &self.metadata(&canary, service.canary.as_ref()), canary_selector, all),
        ]
    }

    /// Makes what is missing and repairs the rest; empty when nothing differs.
    #[must_use]
    pub fn reconcile(&self, live: &Live<'_>) -> Vec<Write> {
        let [apex, primary, canary] = self.objects();
        let owners = live(&apex).filter(|found| !self.owner.owns(found)).map(|found| {
            let (former, record) = record(found);
            ports::given_back(found.pointer("/spec/ports"), former, &record.ports)
        });
        let [desired_apex, desired_primary, desired_canary] = self.desired(&owners.unwrap_or_default());
        // Flagger's order: the apex last, when both sides are there.
        [(canary, desired_canary), (primary, desired_primary), (apex, desired_apex)]
            .into_iter()
            .filter(|(at, _)| self.selector.pods.is_none() || at.name != self.names.apex_primary)
            .filter_map(|(at, desired)| match live(&at) {
                None => Some(Write::Create { target: at, object: desired }),
                Some(found) if at.name != self.names.apex && !self.owner.owns(found) => None,
                Some(found) => object::update(&at, found, &self.repaired(&at, found, &desired)),
            })
            .collect()
    }

    /// The marks by which the admission webhook knows an apex Service and the ports it keeps.
    fn apex_marks(&self) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
        let names: Vec<&str> = std::iter::once(self.service.port_name())
            .chain(self.discovered.iter().map(|p| p.name.as_str()))
            .collect();
        (self.apex_label(), BTreeMap::from([(keys::PORTS.to_owned(), names.join(","))]))
    }

    fn apex_label(&self) -> BTreeMap<String, String> {
        BTreeMap::from([(keys::CANARY.to_owned(), label_value(&self.names.canary))])
    }

    fn metadata(&self, at: &ObjectRef, given: Option<&Metadata>) -> Metadata {
        let mut metadata = given.cloned().unwrap_or_default();
        if !(metadata.labels.is_empty() && metadata.annotations.is_empty()) {
            let stated = carried::record(metadata.labels.keys(), metadata.annotations.keys());
            metadata.annotations.insert(keys::CARRIED.into(), stated);
        }
        metadata.labels.insert(self.selector.key.clone(), at.name.clone());
        metadata.annotations = object::with_opt_out(&metadata.annotations);
        metadata
    }

    fn build(&self, at: &ObjectRef, metadata: &Metadata, selector: Value, ports: Vec<Value>) -> Value {
        let mut spec = json!({ "type": "ClusterIP", "selector": selector, "ports": ports });
        if self.service.headless {
            set(&mut spec, "clusterIP", "None".into());
        }
        if let Some(distribution) = self.service.traffic_distribution.clone().filter(|d| !d.is_empty()) {
            set(&mut spec, "trafficDistribution", distribution.into());
        }
        object::create(at, metadata, &self.owner, spec)
    }

    fn ports(&self, owners: &[Value]) -> Vec<Value> {
        let mut first = json!({
            "name": self.service.port_name(),
            "protocol": "TCP",
            "port": self.service.port,
            "targetPort": self.service.target_port(),
        });
        if let Some(protocol) = self.service.app_protocol.clone().filter(|p| !p.is_empty()) {
            set(&mut first, "appProtocol", protocol.into());
        }
        if let Some(port) =
            owners.iter().find(|port| ports::address(port) == (self.service.port.into(), "TCP".into()))
        {
            let silent = [
                ("targetPort", !self.service.states_target_port()),
                ("appProtocol", self.service.app_protocol.is_none()),
            ];
            for (field, _) in silent.into_iter().filter(|(_, silent)| *silent) {
                if let Some(value) = port.get(field) {
                    set(&mut first, field, value.clone());
                }
            }
        }
        let further = self
            .discovered
            .iter()
            .map(|p| json!({ "name": p.name, "protocol": p.protocol, "port": p.port, "targetPort": p.port }));
        std::iter::once(first).chain(further).collect()
    }

    /// Returns a live Service with what the Canary decides put right. Fields that are not named here stay.
    fn repaired(&self, at: &ObjectRef, live: &Value, desired: &Value) -> Value {
        if at.name == self.names.apex && !self.owner.owns(live) {
            return self.adopted(live, desired);
        }
        let mut next = live.clone();
        self.set_metadata(&mut next, desired);
        let wanted = desired.pointer("/spec/ports").and_then(Value::as_array).cloned().unwrap_or_default();
        let ports = ports::merged(live.pointer("/spec/ports"), &wanted);
        let spec = object::child(&mut next, "spec");
        set(spec, "ports", Value::Array(ports));
        if let Some(selector) = desired.pointer("/spec/selector") {
            set(spec, "selector", selector.clone());
        }
        next
    }

    /// Returns an owner's apex Service with the edits of its adoption: the selector, ports that are not there, our marks, and
    /// the record of what was there before.
    fn adopted(&self, live: &Value, desired: &Value) -> Value {
        let mut next = live.clone();
        let (former, mut record) = record(live);
        let wanted = desired.pointer("/spec/ports").and_then(Value::as_array).cloned().unwrap_or_default();
        let states = self.service.port_name.as_ref().is_some_and(|name| !name.is_empty());
        let ports = ports::adopted(live.pointer("/spec/ports"), &wanted, states, former, &record.ports);
        record.ports = ports.renamed;
        let selector = live.pointer("/spec/selector");
        let generated = self.selector.generated();
        let leads_to_us = selector == Some(&generated);
        if !leads_to_us {
            record.selector = selector.cloned();
        }
        let spec = object::child(&mut next, "spec");
        set(spec, "ports", Value::Array(ports.ports));
        if (self.apex_selects == ApexSelects::Primary || leads_to_us)
            && let Some(selector) = desired.pointer("/spec/selector")
        {
            set(spec, "selector", selector.clone());
        }
        let mut annotations = BTreeMap::from([(keys::PORTS.to_owned(), ports.defined.join(","))]);
        annotations.extend(record.text().map(|text| (keys::ORIGINAL.to_owned(), text)));
        object::add_metadata(&mut next, &Metadata { labels: self.apex_label(), annotations });
        next
    }

    /// Lets the apex Service go, which outlives the Canary: an owner's is as he has it again, one that was made selects the
    /// target's pods.
    #[must_use]
    pub fn let_go(&self, live: &Live<'_>) -> Option<Write> {
        let [apex, ..] = self.objects();
        let found = live(&apex)?;
        let (owned, (former, record)) = (self.owner.owns(found), record(found));
        let marked = found
            .pointer("/metadata/labels")
            .is_some_and(|labels| labels.get(keys::CANARY) == Some(&label_value(&self.names.canary).into()));
        if !(owned || marked) {
            return None;
        }
        let mut next = found.clone();
        let applied = found
            .pointer("/metadata/annotations")
            .and_then(|a| a.get(object::LAST_APPLIED)?.as_str())
            .and_then(|text| serde_json::from_str::<Value>(text).ok())
            .and_then(|applied| applied.pointer("/spec/selector").cloned());
        let selector =
            record.selector.or(applied).filter(|_| !owned).unwrap_or_else(|| self.selector.target());
        let spec = object::child(&mut next, "spec");
        set(spec, "selector", selector);
        if !owned {
            let ports = ports::given_back(found.pointer("/spec/ports"), former, &record.ports);
            set(spec, "ports", Value::Array(ports));
        }
        let metadata = object::child(&mut next, "metadata");
        for (field, keys) in
            [("labels", &[keys::CANARY][..]), ("annotations", &[keys::PORTS, keys::ORIGINAL, keys::CARRIED])]
        {
            if let Some(map) = metadata.get_mut(field) {
                keys.iter().for_each(|key| object::unset(map, key));
                if map.as_object().is_some_and(Map::is_empty) {
                    object::unset(metadata, field);
                }
            }
        }
        if owned {
            object::unset(metadata, "ownerReferences");
        }
        object::update(&apex, found, &next)
    }

    /// Sets the labels and annotations that the Canary states on a Service that was made for it, and takes out those that it
    /// stated before. Others are somebody else's: cloud controllers write there, and would do so again at once. (Flagger takes
    /// out all that it does not list as unmanaged.)
    fn set_metadata(&self, next: &mut Value, desired: &Value) {
        let unmanaged = self.service.unmanaged_metadata.clone().unwrap_or_default();
        let before = ["labels", "annotations"].map(|field| (field, carried::before(next, field)));
        let before = BTreeMap::from(before);
        object::unset(object::child(object::child(next, "metadata"), "annotations"), keys::CARRIED);
        for (field, others) in [("labels", &unmanaged.labels), ("annotations", &unmanaged.annotations)] {
            let wanted = desired.pointer(&format!("/metadata/{field}")).and_then(Value::as_object);
            let before = before.get(field).into_iter().flatten();
            let live = object::child(object::child(next, "metadata"), field);
            for key in before.filter(|key| !others.contains(*key)) {
                object::unset(live, key);
            }
            for (key, value) in wanted.into_iter().flatten() {
                if live.get(key).is_none() || !others.contains(key) {
                    set(live, key, value.clone());
                }
            }
        }
    }
}

/// What an adopted Service had before: the value of [`keys::ORIGINAL`].
#[derive(Clone, Debug, Default, serde::Deserialize, serde::Serialize)]
struct Record {
    /// Its selector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    selector: Option<Value>,
    /// Names of ports that have another one now.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    ports: Map<String, Value>,
}

impl Record {
    fn text(&self) -> Option<String> {
        let is_empty = self.selector.is_none() && self.ports.is_empty();
        serde_json::to_string(self).ok().filter(|_| !is_empty)
    }
}

/// Reads the names of the ports that the Canary defines on an adopted Service, and the record of what was there before.
fn record(live: &Value) -> (&str, Record) {
    let annotation = |key: &str| live.pointer("/metadata/annotations").and_then(|a| a.get(key)?.as_str());
    let record = annotation(keys::ORIGINAL).and_then(|text| serde_json::from_str(text).ok());
    (annotation(keys::PORTS).unwrap_or_default(), record.unwrap_or_default())
}
