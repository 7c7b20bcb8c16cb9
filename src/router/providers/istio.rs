//! Istio: a VirtualService that splits, and a DestinationRule for each side.

use crate::object::{Kind, ObjectRef, RouteKind, Write};
use crate::router::adopted::{self, Shape, elements, lacks};
use crate::router::object::{self, same, set, settle, settle_stated, unset};
use crate::router::routing::Routing;
use crate::router::service::ServiceSpec;
use crate::router::{Backends, Live, Metadata, RouteError, Router, Weights};
use serde_json::{Map, Value, json};

/// Fields of an HTTP or TCP rule that the Canary decides. Others (fault, name, …) are left as they are.
const RULE_FIELDS: [&str; 7] = ["match", "rewrite", "timeout", "retries", "corsPolicy", "headers", "route"];

/// The VirtualService.
pub const VIRTUAL_SERVICE: Kind = Kind::Route(&RouteKind {
    group: "networking.istio.io",
    version: "v1beta1",
    kind: "VirtualService",
    plural: "virtualservices",
});
/// The DestinationRule.
pub const DESTINATION_RULE: Kind = Kind::Route(&RouteKind {
    group: "networking.istio.io",
    version: "v1beta1",
    kind: "DestinationRule",
    plural: "destinationrules",
});

pub(super) struct Istio;

impl Routing for Istio {
    fn names(&self) -> &'static [&'static str] {
        &["istio"]
    }

    fn kinds(&self) -> &'static [Kind] {
        &[VIRTUAL_SERVICE, DESTINATION_RULE]
    }

    fn objects(&self, router: &Router) -> Vec<ObjectRef> {
        let [primary, canary] = destination_rules(router);
        vec![self.route(router), primary, canary]
    }

    fn reconcile(&self, router: &Router, live: &Live<'_>) -> Result<Vec<Write>, RouteError> {
        let at = self.route(router);
        let service = &router.service;
        if service.delegation && !(service.hosts.is_empty() && service.gateways.is_empty()) {
            return Err(RouteError::Delegation { name: at.name, namespace: at.namespace });
        }
        let mut writes = Vec::new();
        for rule in destination_rules(router).iter().rev() {
            writes.extend(destination_rule(router, rule, live(rule)));
        }
        let metadata = router.route_metadata();
        writes.extend(match live(&at) {
            None => {
                let object = object::create(&at, &metadata, &router.owner, spec(router, Weights::INITIAL));
                Some(Write::Create { target: at, object })
            }
            Some(found) if router.owner.owns(found) => {
                let mut next = repaired(router, found);
                object::add_metadata(&mut next, &metadata);
                object::update(&at, found, &next)
            }
            Some(found) => adopted::reconcile(router, &at, found)?,
        });
        Ok(writes)
    }

    fn pairs(&self, router: &Router, route: &Value) -> Vec<Backends> {
        crate::router::weighted_rules(&router.names, route, &["spec", protocol(router)], "route", host)
    }

    fn shape(&self, router: &Router) -> Option<Shape> {
        Some(shape(router.service.is_tcp()))
    }

    fn former_shape(&self, router: &Router) -> Option<Shape> {
        Some(shape(!router.service.is_tcp()))
    }

    fn spec(&self, router: &Router, weights: Weights) -> Result<Value, RouteError> {
        Ok(spec(router, weights))
    }

    fn merged_rule(&self, router: &Router, live: Value, wanted: Value) -> Value {
        merged_rule(router, live, wanted)
    }

    fn without_leftovers(&self, router: &Router, rule: &mut Value) {
        without_mirror(router, rule);
    }

    fn unwritten(&self, router: &Router, spec: &Value, rules: &[&Value]) -> Vec<&'static str> {
        let mut fields = Vec::new();
        fields.extend(lacks(spec, "hosts", &router.service.hosts).then_some("hosts"));
        fields.extend(lacks(spec, "gateways", &router.service.gateways).then_some("gateways"));
        let wanted = self::spec(router, Weights::INITIAL);
        let wanted = shape(router.service.is_tcp()).rules(&wanted).first().cloned().unwrap_or_default();
        for field in ["match", "rewrite", "timeout", "retries", "corsPolicy", "headers"] {
            let stated = wanted.get(field).filter(|v| !same(Some(v), None));
            let differs = stated.is_some() && rules.iter().any(|r| !same(r.get(field), stated));
            fields.extend(differs.then_some(field));
        }
        fields
    }

    fn called_by_service(&self, apex: &str, service: &ServiceSpec) -> bool {
        !service.delegation && !service.hosts.iter().any(|host| host != apex)
    }
}

fn destination_rules(router: &Router) -> [ObjectRef; 2] {
    [&router.names.apex_primary, &router.names.apex_canary]
        .map(|host| ObjectRef::new(DESTINATION_RULE, &router.names.namespace, host))
}

/// Where the rules stand: `http`, or `tcp` for an application that speaks TCP.
fn protocol(router: &Router) -> &'static str {
    if router.service.is_tcp() { "tcp" } else { "http" }
}

fn host(entry: &Value) -> Option<&str> {
    entry.pointer("/destination/host").and_then(Value::as_str)
}

/// The list of rules that is split, or the other one.
fn shape(tcp: bool) -> Shape {
    Shape {
        rules: Some(if tcp { "tcp" } else { "http" }),
        list: "route",
        host_at: "/destination/host",
        host: |_, entry| host(entry),
        is_empty: |spec| ["http", "tls", "tcp"].iter().all(|list| elements(spec.get(*list)).is_empty()),
        weightless: true,
    }
}

fn destination_rule(router: &Router, at: &ObjectRef, live: Option<&Value>) -> Option<Write> {
    let policy = router.service.traffic_policy.as_ref();
    let host: Value = at.name.clone().into();
    let Some(found) = live else {
        let mut spec = json!({ "host": host });
        settle(&mut spec, "trafficPolicy", policy);
        let object = object::create(at, &Metadata::default(), &router.owner, spec);
        return Some(Write::Create { target: at.clone(), object });
    };
    // One that was there before has settings of its owner's.
    if !router.owner.owns(found) {
        return None;
    }
    let mut next = found.clone();
    let spec = object::child(&mut next, "spec");
    settle(spec, "host", Some(&host));
    settle(spec, "trafficPolicy", policy);
    object::update(at, found, &next)
}

/// Returns the live VirtualService with what the Canary decides put right, its weights kept.
fn repaired(router: &Router, live: &Value) -> Value {
    let wanted = spec(router, router.backends(live).weights().unwrap_or(Weights::INITIAL));
    let mut next = live.clone();
    let spec = object::child(&mut next, "spec");
    settle(spec, "hosts", wanted.get("hosts"));
    settle(spec, "gateways", wanted.get("gateways"));
    let kind = protocol(router);
    // The other list is left when it is the user's; a former appProtocol's of ours would go on routing.
    let other = if kind == "tcp" { "http" } else { "tcp" };
    if spec.get(other).and_then(Value::as_array).is_some_and(|rules| rules.iter().any(|r| is_ours(router, r)))
    {
        unset(spec, other);
    }
    let rules = merged_rules(router, spec.get(kind), wanted.get(kind));
    // What means the same was taken from the live rules as it is.
    set(spec, kind, rules);
    next
}

fn is_ours(router: &Router, rule: &Value) -> bool {
    let names = &router.names;
    rule.get("route").and_then(Value::as_array).is_some_and(|entries| {
        entries.iter().any(|e| host(e).is_some_and(|h| h == names.apex_primary || h == names.apex_canary))
    })
}

/// Lays the wanted rules over the live ones.
fn merged_rules(router: &Router, live: Option<&Value>, wanted: Option<&Value>) -> Value {
    let list = |v: Option<&Value>| v.and_then(Value::as_array).cloned().unwrap_or_default();
    let (live, wanted) = (list(live), list(wanted));
    if live.len() != wanted.len() {
        return Value::Array(wanted);
    }
    live.into_iter().zip(wanted).map(|(live, wanted)| merged_rule(router, live, wanted)).collect()
}

/// Lays a wanted rule over a live one. One that somebody led elsewhere is replaced as a whole.
fn merged_rule(router: &Router, live: Value, wanted: Value) -> Value {
    if !is_ours(router, &live) {
        return wanted;
    }
    let mut rule = live;
    for field in RULE_FIELDS {
        if field == "route" {
            let routes = merged_routes(rule.get(field), wanted.get(field));
            settle(&mut rule, field, Some(&routes));
        } else {
            settle_stated(&mut rule, field, wanted.get(field));
        }
    }
    without_mirror(router, &mut rule);
    rule
}

/// Removes a mirror to the canary: Sidetrack never mirrors, it is what an interrupted run of Flagger left.
fn without_mirror(router: &Router, rule: &mut Value) {
    if rule.pointer("/mirror/host").and_then(Value::as_str) == Some(&router.names.apex_canary) {
        unset(rule, "mirror");
        unset(rule, "mirrorPercentage");
    }
}

/// Lays the wanted destinations over the live ones of the same host, so that their other fields stay.
fn merged_routes(live: Option<&Value>, wanted: Option<&Value>) -> Value {
    let list = |v: Option<&Value>| v.and_then(Value::as_array).cloned().unwrap_or_default();
    let (live, wanted) = (list(live), list(wanted));
    let alone = wanted.len() == 1;
    let entry = |wanted: Value| match live.iter().find(|e| host(e) == host(&wanted)) {
        None => wanted,
        Some(found) => {
            let mut entry = found.clone();
            settle(&mut entry, "destination", wanted.get("destination"));
            // The weight of a rule's only destination means nothing; Flagger writes the primary's share there.
            if !alone {
                settle(&mut entry, "weight", wanted.get("weight"));
            }
            entry
        }
    };
    wanted.into_iter().map(entry).collect()
}

/// Builds the whole `spec`.
fn spec(router: &Router, weights: Weights) -> Value {
    let service = &router.service;
    let mut spec = json!({ "hosts": hosts(router) });
    if !service.delegation {
        let gateways = if service.gateways.is_empty() { json!(["mesh"]) } else { json!(service.gateways) };
        set(&mut spec, "gateways", gateways);
    }
    let both = json!([
        destination(router, &router.names.apex_primary, weights.primary),
        destination(router, &router.names.apex_canary, weights.canary),
    ]);
    let rules = if service.is_tcp() {
        let ports: Vec<Value> = service
            .r#match
            .iter()
            .map(|m| m.get("port").filter(|p| p.as_i64() != Some(0)))
            .map(|port| port.map_or_else(|| json!({}), |port| json!({ "port": port })))
            .collect();
        let mut rule = json!({ "route": both });
        settle(&mut rule, "match", Some(&Value::Array(ports)));
        json!([rule])
    } else if router.analysis_match.is_empty() {
        json!([http_rule(router, &service.r#match, both)])
    } else {
        let primary = json!([destination(router, &router.names.apex_primary, 100)]);
        json!([
            http_rule(router, &merged_match(&router.analysis_match, &service.r#match), both),
            http_rule(router, &service.r#match, primary),
        ])
    };
    set(&mut spec, protocol(router), rules);
    spec
}

/// The hosts, with the apex Service among them; a delegate has none.
fn hosts(router: &Router) -> Vec<String> {
    if router.service.delegation {
        return Vec::new();
    }
    let mut hosts = router.service.hosts.clone();
    if !hosts.iter().any(|h| *h == router.names.apex || h == "*") {
        hosts.push(router.names.apex.clone());
    }
    hosts
}

fn http_rule(router: &Router, conditions: &[Value], route: Value) -> Value {
    let service = &router.service;
    let mut rule = json!({ "route": route });
    let rewrite = service.rewrite.as_ref().map(|r| {
        let mut rewrite = json!({});
        settle(&mut rewrite, "uri", r.uri.clone().map(Value::from).as_ref());
        settle(&mut rewrite, "authority", r.authority.clone().map(Value::from).as_ref());
        rewrite
    });
    for (field, value) in [
        ("match", (!conditions.is_empty()).then(|| json!(conditions))),
        ("rewrite", rewrite),
        ("timeout", service.timeout.clone().map(Value::from)),
        ("retries", service.retries.clone()),
        ("corsPolicy", service.cors_policy.clone()),
        ("headers", service.headers.clone()),
    ] {
        settle_stated(&mut rule, field, value.as_ref());
    }
    rule
}

/// One destination. Its port is named only where Istio cannot know it: several ports, and a gateway in front.
fn destination(router: &Router, host: &str, weight: i32) -> Value {
    let service = &router.service;
    let mut destination = Map::new();
    destination.insert("host".into(), host.into());
    let behind_gateway = service.gateways.first().is_some_and(|g| g != "mesh");
    if service.port_discovery && (behind_gateway || service.delegation) {
        destination.insert("port".into(), json!({ "number": service.port }));
    }
    json!({ "destination": destination, "weight": weight })
}

/// Joins the conditions of the analysis with those of the Service: each with each, the analysis' headers,
/// query parameters and source labels first.
fn merged_match(analysis: &[Value], service: &[Value]) -> Vec<Value> {
    if service.is_empty() {
        return analysis.to_vec();
    }
    let join = |a: &Value, s: &Value| {
        let mut merged = s.clone();
        for field in ["headers", "queryParams", "sourceLabels"] {
            if let Some(value) = a.get(field).filter(|v| !same(Some(v), None)) {
                set(&mut merged, field, value.clone());
            }
        }
        merged
    };
    analysis.iter().flat_map(|a| service.iter().map(move |s| join(a, s))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::names::Names;
    use crate::router::{Owner, Provider};

    /// Istio retries by itself unless it is told not to: what says zero is written as it stands.
    #[test]
    fn zero_is_written_where_it_is_stated() {
        let router = |retries: Value| Router {
            provider: Provider::parse("istio").unwrap(),
            names: Names::new("test", "app", "app", None),
            owner: Owner { name: "app".into(), uid: "1".into() },
            service: serde_json::from_value(json!({"port": 80, "retries": retries})).unwrap(),
            analysis_match: Vec::new(),
            selector_label: "app".into(),
        };
        let off = json!({"attempts": 0});
        let made = spec(&router(off.clone()), Weights::INITIAL);
        assert_eq!(made["http"][0]["retries"], off);
        let mut live = object::create(
            &router(Value::Null).route(),
            &Metadata::default(),
            &router(Value::Null).owner,
            spec(&router(Value::Null), Weights::INITIAL),
        );
        assert!(live["spec"]["http"][0].get("retries").is_none());
        live["metadata"]["resourceVersion"] = "1".into();
        let next = repaired(&router(off.clone()), &live);
        assert_eq!(next["spec"]["http"][0]["retries"], off);
        assert_eq!(repaired(&router(off), &next), next, "and no more than once");
    }
}
