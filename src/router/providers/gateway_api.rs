//! Gateway API: an HTTPRoute.

use super::gateway_rules::{conditions, filled, filled_parent, filters};
use crate::api::names::Names;
use crate::foreign::cut;
use crate::object::{Kind, RouteKind, Write};
use crate::router::adopted::{self, Shape, elements, lacks};
use crate::router::object::{self, same, set, settle, unset};
use crate::router::routing::Routing;
use crate::router::service::ServiceSpec;
use crate::router::{Backends, Live, RouteError, Router, Settled, Weights};
use serde_json::{Value, json};

/// Fields of a rule that the Canary decides. Others (name, retry, sessionPersistence, …) are left as they
/// are.
const RULE_FIELDS: [&str; 3] = ["matches", "filters", "timeouts"];

/// The HTTPRoute, always written as `v1`: one of `v1beta1` is the same stored object.
pub const HTTP_ROUTE: Kind = Kind::Route(&RouteKind {
    group: "gateway.networking.k8s.io",
    version: "v1",
    kind: "HTTPRoute",
    plural: "httproutes",
});

pub(super) struct GatewayApi;

impl Routing for GatewayApi {
    fn prefixes(&self) -> &'static [&'static str] {
        &["gatewayapi:v1", "gatewayapi:v1beta1"]
    }

    fn kinds(&self) -> &'static [Kind] {
        &[HTTP_ROUTE]
    }

    fn reconcile(&self, router: &Router, live: &Live<'_>) -> Result<Vec<Write>, RouteError> {
        let at = self.route(router);
        let live = live(&at);
        if let Some(theirs) = live.filter(|o| !router.owner.owns(o)) {
            return Ok(adopted::reconcile(router, &at, theirs)?.into_iter().collect());
        }
        if router.service.gateway_refs.is_empty() {
            return Err(RouteError::NoGateways);
        }
        let metadata = router.route_metadata();
        let write = match live {
            None => {
                let spec = spec(router, Weights::INITIAL)?;
                let object = object::create(&at, &metadata, &router.owner, spec);
                Some(Write::Create { target: at, object })
            }
            Some(found) => {
                let weights = router.backends(found).weights().unwrap_or(Weights::INITIAL);
                let mut next = repaired(router, found, &spec(router, weights)?);
                object::add_metadata(&mut next, &metadata);
                object::update(&at, found, &next)
            }
        };
        Ok(write.into_iter().collect())
    }

    fn pairs(&self, router: &Router, route: &Value) -> Vec<Backends> {
        crate::router::weighted_rules(&router.names, route, &["spec", "rules"], "backendRefs", host)
    }

    fn settled(&self, router: &Router, route: &Value) -> Settled {
        settled(&router.names.namespace, &router.names.apex, route)
    }

    fn shape(&self, _: &Router) -> Option<Shape> {
        Some(SHAPE)
    }

    fn spec(&self, router: &Router, weights: Weights) -> Result<Value, RouteError> {
        spec(router, weights)
    }

    fn merged_rule(&self, router: &Router, live: Value, wanted: Value) -> Value {
        merged_rule(router, live, wanted)
    }

    fn unwritten(&self, router: &Router, spec: &Value, rules: &[&Value]) -> Vec<&'static str> {
        let service = &router.service;
        let mut fields = Vec::new();
        fields.extend(lacks(spec, "hostnames", &service.hosts).then_some("hosts"));
        let filled = |p: &Value| filled_parent(p, &router.names.namespace);
        let parents: Vec<Value> = elements(spec.get("parentRefs")).iter().map(filled).collect();
        let stated = |p: &Value| parents.iter().any(|live| same(Some(live), Some(&filled(p))));
        fields.extend((!service.gateway_refs.iter().all(stated)).then_some("gatewayRefs"));
        fields.extend(unwritten_rule(service, rules));
        fields
    }

    /// A Service as parent: the mesh behind it splits what clients send to the Service.
    fn called_by_service(&self, _: &str, service: &ServiceSpec) -> bool {
        service.gateway_refs.iter().any(|parent| parent.get("kind").is_some_and(|kind| kind == "Service"))
    }
}

fn host(entry: &Value) -> Option<&str> {
    entry.get("name").and_then(Value::as_str)
}

const SHAPE: Shape = Shape {
    rules: Some("rules"),
    list: "backendRefs",
    host_at: "/name",
    host: service,
    // The API server gives a route without rules one that matches everything and leads nowhere.
    is_empty: |spec| {
        let does = |rule: &Value, what: &str| !elements(rule.get(what)).is_empty();
        !elements(spec.get("rules")).iter().any(|r| does(r, "backendRefs") || does(r, "filters"))
    },
    weightless: true,
};

/// The Service that a reference means, when it is one of the route's namespace.
fn service<'a>(names: &Names, entry: &'a Value) -> Option<&'a str> {
    let is = |field: &str, wanted: &str| entry.get(field).is_none_or(|v| v == wanted);
    let name = host(entry).filter(|name| !name.contains('.'));
    name.filter(|_| is("group", "") && is("kind", "Service") && is("namespace", &names.namespace))
}

/// Judges the route's status: each parent that reports must have accepted the present generation (Flagger,
/// `gatewayapi:v1`), and found the Services that it leads to; a parent that does not report passes, since not every
/// implementation does.
fn settled(namespace: &str, name: &str, object: &Value) -> Settled {
    let generation = object.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
    let list =
        |pointer: &str| object.pointer(pointer).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    for parent in list("/spec/parentRefs") {
        let wanted = filled_parent(parent, namespace);
        let reports = list("/status/parents").iter().filter(|report| {
            report.get("parentRef").is_some_and(|p| same(Some(&filled_parent(p, namespace)), Some(&wanted)))
        });
        for report in reports {
            let condition = |kind: &str| {
                let all = report.get("conditions").and_then(Value::as_array)?;
                all.iter().find(|c| c.get("type").and_then(Value::as_str) == Some(kind))
            };
            let accepted = condition("Accepted");
            let status = accepted.and_then(|c| c.get("status")?.as_str()).unwrap_or("Unknown");
            let observed = accepted.and_then(|c| c.get("observedGeneration")?.as_i64()).unwrap_or(0);
            if status != "True" || observed < generation {
                let parent = host(parent).unwrap_or_default();
                return Settled::No(format!(
                    "HTTPRoute {name}.{namespace} parent {parent} is not ready (status: {status}, observed generation: {observed}, current generation: {generation})",
                ));
            }
            // Requests to a backend that is not found are answered with an error (Gateway API, HTTPBackendRef).
            let unresolved =
                condition("ResolvedRefs").filter(|c| c.get("status").is_some_and(|s| s == "False"));
            if let Some(unresolved) = unresolved {
                let text = |field: &str| unresolved.get(field).and_then(Value::as_str).unwrap_or_default();
                return Settled::No(format!(
                    "HTTPRoute {name}.{namespace} parent {} does not find what it leads to: {} {}",
                    host(parent).unwrap_or_default(),
                    text("reason"),
                    cut(text("message")),
                ));
            }
        }
    }
    Settled::Yes
}

/// Returns the live HTTPRoute with what the Canary decides put right. `wanted` carries the live weights.
fn repaired(router: &Router, live: &Value, wanted: &Value) -> Value {
    let mut next = live.clone();
    let spec = object::child(&mut next, "spec");
    let parents = |v: Option<&Value>| -> Value {
        list(v).iter().map(|p| filled_parent(p, &router.names.namespace)).collect()
    };
    if parents(spec.get("parentRefs")) != parents(wanted.get("parentRefs")) {
        settle(spec, "parentRefs", wanted.get("parentRefs"));
    }
    settle(spec, "hostnames", wanted.get("hostnames"));
    let (old, new) = (list(spec.get("rules")), list(wanted.get("rules")));
    let rules: Vec<Value> = if old.len() == new.len() {
        old.into_iter().zip(new).map(|(old, new)| merged_rule(router, old, new)).collect()
    } else {
        new
    };
    settle(spec, "rules", Some(&Value::Array(rules)));
    next
}

fn list(value: Option<&Value>) -> Vec<Value> {
    value.and_then(Value::as_array).cloned().unwrap_or_default()
}

/// Lays a wanted rule over a live one; the API server's defaults are no difference. One that somebody led elsewhere is
/// replaced as a whole.
fn merged_rule(router: &Router, live: Value, wanted: Value) -> Value {
    let names = &router.names;
    let ours = list(live.get("backendRefs"))
        .iter()
        .any(|e| host(e).is_some_and(|h| h == names.apex_primary || h == names.apex_canary));
    if !ours {
        return wanted;
    }
    let (live_filled, wanted_filled) = (filled(&live), filled(&wanted));
    let mut rule = live;
    for field in RULE_FIELDS {
        if !same(live_filled.get(field), wanted_filled.get(field)) {
            match wanted.get(field) {
                Some(value) => set(&mut rule, field, value.clone()),
                None => unset(&mut rule, field),
            }
        }
    }
    let found = list(rule.get("backendRefs"));
    let filled_refs = list(live_filled.get("backendRefs"));
    let wanted_refs = list(wanted.get("backendRefs"));
    let alone = wanted_refs.len() == 1;
    let entry = |wanted: Value| {
        let live = found.iter().zip(&filled_refs).find(|(e, _)| host(e) == host(&wanted));
        let Some((entry, entry_filled)) = live else { return wanted };
        let mut entry = entry.clone();
        for field in ["group", "kind", "namespace", "port", "weight"] {
            if field == "weight" && alone {
                continue;
            }
            if !same(entry_filled.get(field), wanted.get(field)) {
                settle(&mut entry, field, wanted.get(field));
            }
        }
        entry
    };
    let entries: Vec<Value> = wanted_refs.into_iter().map(entry).collect();
    set(&mut rule, "backendRefs", Value::Array(entries));
    rule
}

/// Builds the whole `spec`.
fn spec(router: &Router, weights: Weights) -> Result<Value, RouteError> {
    let service = &router.service;
    let names = &router.names;
    let matches = conditions(&service.r#match)?;
    let matches = if matches.is_empty() {
        vec![json!({ "path": { "type": "PathPrefix", "value": "/" } })]
    } else {
        matches
    };
    let backend = |name: &str, weight: i32| json!({ "group": "", "kind": "Service", "name": name, "port": service.port, "weight": weight });
    let both =
        json!([backend(&names.apex_primary, weights.primary), backend(&names.apex_canary, weights.canary),]);
    let rules = if router.analysis_match.is_empty() {
        json!([rule(router, &matches, both)])
    } else {
        let analysis = conditions(&router.analysis_match)?;
        let primary = json!([backend(&names.apex_primary, 100)]);
        json!([rule(router, &merged_conditions(&analysis, &matches), both), rule(router, &matches, primary),])
    };
    let parents: Vec<Value> = service.gateway_refs.iter().map(parent).collect();
    let mut spec = json!({ "parentRefs": parents, "rules": rules });
    settle(&mut spec, "hostnames", Some(&json!(service.hosts)));
    Ok(spec)
}

/// Completes a `gatewayRef` as the Canary's own schema does.
fn parent(reference: &Value) -> Value {
    let mut parent = reference.clone();
    for (field, default) in [("group", "gateway.networking.k8s.io"), ("kind", "Gateway")] {
        if parent.get(field).is_none() {
            set(&mut parent, field, default.into());
        }
    }
    parent
}

fn rule(router: &Router, matches: &[Value], backends: Value) -> Value {
    let service = &router.service;
    let mut rule = json!({ "matches": matches, "backendRefs": backends });
    settle(&mut rule, "filters", Some(&Value::Array(filters(service))));
    let mut timeouts = json!({});
    let given = |t: &Option<String>| t.clone().filter(|t| !t.is_empty()).map(Value::from);
    settle(&mut timeouts, "request", given(&service.timeout).as_ref());
    settle(&mut timeouts, "backendRequest", given(&service.backend_timeout).as_ref());
    settle(&mut rule, "timeouts", Some(&timeouts));
    rule
}

/// Joins the conditions of the analysis with those of the Service: each with each, the analysis' headers and
/// query parameters first.
fn merged_conditions(analysis: &[Value], service: &[Value]) -> Vec<Value> {
    if analysis.is_empty() {
        return service.to_vec();
    }
    let join = |a: &Value, s: &Value| {
        let mut merged = s.clone();
        for field in ["headers", "queryParams"] {
            if let Some(value) = a.get(field) {
                set(&mut merged, field, value.clone());
            }
        }
        merged
    };
    analysis.iter().flat_map(|a| service.iter().map(move |s| join(a, s))).collect()
}

/// The fields behind an HTTPRoute's rule.
fn unwritten_rule(service: &ServiceSpec, rules: &[&Value]) -> Vec<&'static str> {
    let rules: Vec<Value> = rules.iter().map(|r| filled(r)).collect();
    let mut fields = Vec::new();
    let wanted = conditions(&service.r#match).map(|c| filled(&json!({ "matches": c })));
    let matches = |wanted: &Value| rules.iter().all(|r| same(r.get("matches"), wanted.get("matches")));
    if !service.r#match.is_empty() && !wanted.is_ok_and(|w| matches(&w)) {
        fields.push("match");
    }
    let none = ServiceSpec::default;
    for (field, only) in [
        ("rewrite", ServiceSpec { rewrite: service.rewrite.clone(), ..none() }),
        ("headers", ServiceSpec { headers: service.headers.clone(), ..none() }),
        ("corsPolicy", ServiceSpec { cors_policy: service.cors_policy.clone(), ..none() }),
        ("mirror", ServiceSpec { mirror: service.mirror.clone(), ..none() }),
    ] {
        let wanted = filled(&json!({ "filters": filters(&only) }));
        let has = |rule: &Value, filter: &Value| {
            elements(rule.get("filters")).iter().any(|f| same(Some(f), Some(filter)))
        };
        if !elements(wanted.get("filters")).iter().all(|filter| rules.iter().all(|r| has(r, filter))) {
            fields.push(field);
        }
    }
    for (field, stated, at) in [
        ("timeout", &service.timeout, "/timeouts/request"),
        ("backendTimeout", &service.backend_timeout, "/timeouts/backendRequest"),
    ] {
        let stated = stated.as_deref().filter(|t| !t.is_empty());
        let differs = |rule: &Value| rule.pointer(at).and_then(Value::as_str) != stated;
        if stated.is_some() && rules.iter().any(differs) {
            fields.push(field);
        }
    }
    fields
}
