//! The three Services: the apex that clients use, the primary's and the canary's.
//!
//! A Service that was made for the Canary is kept as the Canary says. An apex Service that was there before
//! is adopted:
//! its selector and the Canary's ports are ours, the rest (type, further ports, metadata) stays its owner's,
//! and Flux
//! may go on applying it, since the admission webhook keeps those parts.

use super::Live;
use super::object::{self, Owner, set};
use super::service::{Metadata, ServiceSpec};
use crate::api::keys;
use crate::object::{Kind, ObjectRef, Write};
use crate::rollout::naming::{Layout, Names, label_value};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Containers whose ports are not the application's (Flagger's list).
const SIDECARS: [&str; 2] = ["istio-proxy", "envoy"];

/// The label by which the target selects its pods; those of the generated Deployment have the same key, and the value with
/// the layout's suffix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    /// The key, such as `app`.
    pub key: String,
    /// The value in the target's `matchLabels`.
    pub value: String,
    /// Where the canary's pods have the target's labels, what [`keys::PODS`] is on them; then there is no Service that selects
    /// the primary's pods alone, and none is made.
    pub pods: Option<String>,
}

impl Selector {
    fn target(&self) -> Value {
        json!({ &self.key: self.value })
    }

    fn generated(&self, layout: Layout) -> Value {
        if let Some(pods) = &self.pods {
            return json!({ keys::PODS: pods });
        }
        json!({ &self.key: format!("{}{}", self.value, layout.suffix()) })
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

/// A port of a container to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveredPort {
    /// Its name.
    pub name: String,
    /// Its number.
    pub port: i32,
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
    /// Further ports, from [`discovered_ports`]; empty without `portDiscovery`.
    pub discovered: Vec<DiscoveredPort>,
    /// Whose pods the apex selects.
    pub apex_selects: ApexSelects,
}

/// Lists the containers' ports beside the Service's own (Flagger, `portDiscovery`), named as in the template,
/// else
/// `tcp-<container>-<index>`. Empty when the Canary does not ask for them.
#[must_use]
pub fn discovered_ports(template: &Value, service: &ServiceSpec) -> Vec<DiscoveredPort> {
    if !service.port_discovery {
        return Vec::new();
    }
    let list = |v: Option<&Value>| v.and_then(Value::as_array).cloned().unwrap_or_default();
    let own = service.target_port();
    let mut ports = Vec::new();
    let mut seen = BTreeSet::new();
    for container in list(template.pointer("/spec/containers")) {
        let container_name = container.get("name").and_then(Value::as_str).unwrap_or_default();
        if SIDECARS.contains(&container_name) {
            continue;
        }
        for (i, port) in list(container.get("ports")).iter().enumerate() {
            let name = port.get("name").and_then(Value::as_str).filter(|n| !n.is_empty());
            let Some(number) =
                port.get("containerPort").and_then(Value::as_i64).and_then(|n| i32::try_from(n).ok())
            else {
                continue;
            };
            if own == json!(number) || (name.is_some() && own.as_str() == name) {
                continue;
            }
            let name = name.map_or_else(|| format!("tcp-{container_name}-{i}"), str::to_owned);
            if seen.insert(name.clone()) {
                ports.push(DiscoveredPort { name, port: number });
            }
        }
    }
    ports
}

impl Services {
    /// Names the Services: apex, primary, canary.
    #[must_use]
    pub fn objects(&self) -> [ObjectRef; 3] {
        [&self.names.apex, &self.names.apex_primary, &self.names.apex_canary]
            .map(|name| ObjectRef::new(Kind::Service, &self.names.namespace, name))
    }

    /// Builds the Services as they are made: apex, primary, canary.
    #[must_use]
    pub fn desired(&self) -> [Value; 3] {
        let [apex, primary, canary] = self.objects();
        let service = &self.service;
        let (target, generated) = (self.selector.target(), self.selector.generated(self.names.layout));
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
            self.build(&apex, &apex_metadata, apex_selector),
            self.build(&primary, &self.metadata(&primary, service.primary.as_ref()), primary_selector),
            self.build(&canary, &self.metadata(&canary, service.canary.as_ref()), canary_selector),
        ]
    }

    /// Makes what is missing and repairs the rest; empty when nothing differs.
    #[must_use]
    pub fn reconcile(&self, live: &Live<'_>) -> Vec<Write> {
        let [apex, primary, canary] = self.objects();
        let [desired_apex, desired_primary, desired_canary] = self.desired();
        // Flagger's order: the apex last, when both sides are there.
        [(canary, desired_canary), (primary, desired_primary), (apex, desired_apex)]
            .into_iter()
            .filter(|(at, _)| self.selector.pods.is_none() || at.name != self.names.apex_primary)
            .filter_map(|(at, desired)| match live(&at) {
                None => Some(Write::Create { object: desired }),
                Some(found) => object::update(&at, found, &self.repaired(&at, found, &desired)),
            })
            .collect()
    }

    /// The marks by which the admission webhook knows an apex Service and the ports it keeps.
    fn apex_marks(&self) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
        let names: Vec<&str> = std::iter::once(self.service.port_name())
            .chain(self.discovered.iter().map(|p| p.name.as_str()))
            .collect();
        (
            BTreeMap::from([(keys::CANARY.to_owned(), label_value(&self.names.canary))]),
            BTreeMap::from([(keys::PORTS.to_owned(), names.join(","))]),
        )
    }

    fn metadata(&self, at: &ObjectRef, given: Option<&Metadata>) -> Metadata {
        let mut metadata = given.cloned().unwrap_or_default();
        metadata.labels.insert(self.selector.key.clone(), at.name.clone());
        metadata.annotations = object::with_opt_out(&metadata.annotations);
        metadata
    }

    fn build(&self, at: &ObjectRef, metadata: &Metadata, selector: Value) -> Value {
        let mut spec = json!({ "type": "ClusterIP", "selector": selector, "ports": self.ports() });
        if self.service.headless {
            set(&mut spec, "clusterIP", "None".into());
        }
        if let Some(distribution) = self.service.traffic_distribution.clone().filter(|d| !d.is_empty()) {
            set(&mut spec, "trafficDistribution", distribution.into());
        }
        object::create(at, metadata, &self.owner, spec)
    }

    fn ports(&self) -> Vec<Value> {
        let mut first = json!({
            "name": self.service.port_name(),
            "protocol": "TCP",
            "port": self.service.port,
            "targetPort": self.service.target_port(),
        });
        if let Some(protocol) = self.service.app_protocol.clone().filter(|p| !p.is_empty()) {
            set(&mut first, "appProtocol", protocol.into());
        }
        let further = self
            .discovered
            .iter()
            .map(|p| json!({ "name": p.name, "protocol": "TCP", "port": p.port, "targetPort": p.port }));
        std::iter::once(first).chain(further).collect()
    }

    /// Returns a live Service with what the Canary decides put right. Fields that are not named here stay.
    fn repaired(&self, at: &ObjectRef, live: &Value, desired: &Value) -> Value {
        let owned = self.owner.owns(live);
        let is_apex = at.name == self.names.apex;
        let mut next = live.clone();
        if owned {
            self.reset_metadata(&mut next, desired);
        } else if is_apex {
            let (labels, annotations) = self.apex_marks();
            object::add_metadata(&mut next, &Metadata { labels, annotations });
        }
        let former = live
            .pointer("/metadata/annotations")
            .and_then(|a| a.get(keys::PORTS)?.as_str())
            .unwrap_or_default();
        let ports = merged_ports(
            live.pointer("/spec/ports"),
            desired.pointer("/spec/ports"),
            (!owned).then_some(former),
        );
        let spec = object::child(&mut next, "spec");
        set(spec, "ports", Value::Array(ports));
        let left_alone = is_apex
            && !owned
            && self.apex_selects == ApexSelects::Target
            && spec.get("selector") != Some(&self.selector.generated(Layout::PrimaryCopy));
        if !left_alone && let Some(selector) = desired.pointer("/spec/selector") {
            set(spec, "selector", selector.clone());
        }
        next
    }

    /// Sets labels and annotations of a Service that was made for the Canary, its unmanaged keys kept
    /// (Flagger).
    fn reset_metadata(&self, next: &mut Value, desired: &Value) {
        let unmanaged = self.service.unmanaged_metadata.clone().unwrap_or_default();
        for (field, kept) in [("labels", &unmanaged.labels), ("annotations", &unmanaged.annotations)] {
            let mut wanted = desired.pointer(&format!("/metadata/{field}")).cloned().unwrap_or(json!({}));
            for key in kept {
                if let Some(value) = next.pointer(&format!("/metadata/{field}")).and_then(|m| m.get(key)) {
                    set(&mut wanted, key, value.clone());
                }
            }
            set(object::child(next, "metadata"), field, wanted);
        }
    }
}

/// Brings the Canary's ports into a live list: in their places where they are there by name, else at the end;
/// their node
/// ports stay. `former` names the ports that the Canary had defined before on an adopted Service, whose other
/// ports stay
/// unless they share a name or a number with one of the Canary's; on an owned Service (`None`) other ports
/// go.
fn merged_ports(live: Option<&Value>, desired: Option<&Value>, former: Option<&str>) -> Vec<Value> {
    let list = |v: Option<&Value>| v.and_then(Value::as_array).cloned().unwrap_or_default();
    let (live, desired) = (list(live), list(desired));
    let name = |p: &Value| p.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let number = |p: &Value| {
        let protocol = p.get("protocol").and_then(Value::as_str).unwrap_or("TCP").to_owned();
        (protocol, p.get("port").and_then(Value::as_i64))
    };
    let mut merged = Vec::new();
    for port in &live {
        if let Some(ours) = desired.iter().find(|d| name(d) == name(port)) {
            let mut ours = ours.clone();
            if let Some(node_port) = port.get("nodePort").filter(|n| n.as_i64() != Some(0)) {
                set(&mut ours, "nodePort", node_port.clone());
            }
            merged.push(ours);
        } else if former.is_some_and(|f| !f.split(',').any(|f| !f.is_empty() && f == name(port)))
            && !desired.iter().any(|d| number(d) == number(port))
        {
            let mut port = port.clone();
            // Beside another port each must have a name.
            if name(&port).is_empty() {
                let (protocol, number) = number(&port);
                let made = format!("{}-{}", protocol.to_lowercase(), number.unwrap_or_default());
                set(&mut port, "name", made.into());
            }
            merged.push(port);
        }
    }
    for port in desired {
        if !live.iter().any(|l| name(l) == name(&port)) {
            merged.push(port);
        }
    }
    merged
}
