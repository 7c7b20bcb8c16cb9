//! Routes that cannot be adopted as they are, and what of a Canary an adopted route does not get, in words.

use super::adopted::{Leads, Shape};
use super::object::without_toolkit;
use super::{Live, Router};
use crate::object::{ObjectRef, Write};
use serde_json::{Value, json};

/// Says of each object that exists and is not the Canary's why it cannot be used.
pub(super) fn refusals(router: &Router, live: &Live<'_>) -> Vec<String> {
    let at_route = router.route();
    let theirs = |at: &ObjectRef| {
        let object = live(at).filter(|o| !router.owner.owns(o));
        match object {
            None => Vec::new(),
            Some(object) if *at == at_route => route(router, at, object),
            Some(object) => vec![taken(router, at, object)],
        }
    };
    router.objects().iter().flat_map(theirs).collect()
}

/// What to do about an object that is not to be touched.
fn way_out(name: &str) -> String {
    format!("Delete it or give it another name, or choose a spec.service.name other than {name}.")
}

fn named(at: &ObjectRef) -> String {
    format!("{} {}.{}", at.kind.as_str(), at.name, at.namespace)
}

/// Another object under a name that the Canary needs for its own.
fn taken(router: &Router, at: &ObjectRef, object: &Value) -> String {
    let whose = router.owner.foreign_controller(object).map_or_else(
        || "exists and was not made for this Canary".to_owned(),
        |other| format!("belongs to {other}"),
    );
    format!("{} {whose}; it is not overwritten. {}", named(at), way_out(&router.names.apex))
}

/// Says why a route that is not the Canary's cannot be edited; nothing when it can.
pub(super) fn route(router: &Router, at: &ObjectRef, object: &Value) -> Vec<String> {
    let shape = router.shape();
    let Some(shape) = shape.filter(|_| router.owner.foreign_controller(object).is_none()) else {
        return vec![taken(router, at, object)];
    };
    let apex = &router.names.apex;
    let route = named(at);
    let instead = format!("or choose a spec.service.name other than {apex}");
    let mut said = Vec::new();
    if !router.analysis_match.is_empty() {
        said.push(format!(
            "{route} is its owner's, and spec.analysis.match needs a rule of its own in it. \
             Take the conditions out, {instead}."
        ));
    }
    let spec = object.get("spec").unwrap_or(&Value::Null);
    if shape.rules.is_none() {
        said.extend(split(router, &shape, &route, spec, &instead));
        return said;
    }
    let rules = shape.rules(spec);
    for (i, rule) in rules.iter().enumerate() {
        let leads = shape.leads(&router.names, rule);
        let rule_name = rule.get("name").and_then(Value::as_str).filter(|n| !n.is_empty());
        let rule_name = rule_name.map_or_else(|| format!("{}[{i}]", shape.key()), |n| format!("{n:?}"));
        if leads == Leads::Mixed {
            said.push(format!(
                "Rule {rule_name} of {route} splits the traffic between {}: there is no telling the canary's share of it. \
                 Make {apex} its only destination, {instead}.",
                hosts(router, &shape, rule)
            ));
        }
        for entry in shape.entries(rule).iter().filter(|e| shape.side(&router.names, e).is_some()) {
            if let Some(subset) = entry.pointer("/destination/subset").and_then(Value::as_str) {
                said.push(format!(
                    "Rule {rule_name} of {route} leads to subset {subset:?} of {}; the Services that the traffic is split \
                     between have no subsets. Take the subset out, {instead}.",
                    (shape.host)(&router.names, entry).unwrap_or(apex)
                ));
            }
        }
    }
    if !(shape.is_empty)(spec) && rules.iter().all(|r| shape.leads(&router.names, r) == Leads::Elsewhere) {
        said.push(format!(
            "{route} has no rule under {} that leads to Service {apex}, so that none of its traffic can be led to the canary. \
             Let a rule lead to {apex}, {instead}.",
            shape.key()
        ));
    }
    said
}

/// A TrafficSplit of another Service, or between other backends.
fn split(router: &Router, shape: &Shape, route: &str, spec: &Value, instead: &str) -> Option<String> {
    let apex = &router.names.apex;
    let service = spec.get("service").and_then(Value::as_str).unwrap_or_default();
    let leads = shape.leads(&router.names, spec);
    let is_ours = service == apex || router.service.hosts.first().is_some_and(|h| h == service);
    let fits = is_ours && (matches!(leads, Leads::Apex | Leads::Pair) || (shape.is_empty)(spec));
    (!fits).then(|| {
        format!(
            "{route} splits the traffic of {service:?} between {}, not that of {apex} between {apex}, {} and {}. \
             Change or delete it, {instead}.",
            hosts(router, shape, spec),
            router.names.apex_primary,
            router.names.apex_canary,
        )
    })
}

/// The destinations of a rule, in words.
fn hosts(router: &Router, shape: &Shape, rule: &Value) -> String {
    let name = |entry: &Value| {
        let host = (shape.host)(&router.names, entry);
        let host = host.or_else(|| entry.pointer(shape.host_at).and_then(Value::as_str));
        host.unwrap_or("a destination without a name").to_owned()
    };
    let all: Vec<String> = shape.entries(rule).iter().map(name).collect();
    listed(&all)
}

/// Joins words: `a`, `a and b`, `a, b and c`.
fn listed<T: AsRef<str>>(all: &[T]) -> String {
    match all {
        [] => "nothing".to_owned(),
        [one] => one.as_ref().to_owned(),
        [first @ .., last] => {
            let first: Vec<&str> = first.iter().map(AsRef::as_ref).collect();
            format!("{} and {}", first.join(", "), last.as_ref())
        }
    }
}

/// Names the fields of `spec.service` that an adopted route does not get and says otherwise of.
pub(super) fn warnings(router: &Router, live: &Live<'_>) -> Vec<String> {
    let at = router.route();
    let Some(object) = live(&at).filter(|o| !router.owner.owns(o)) else { return Vec::new() };
    if !route(router, &at, object).is_empty() {
        return Vec::new();
    }
    // What is about to be written counts as written.
    let written = match router
        .reconcile(live)
        .unwrap_or_default()
        .into_iter()
        .find(|w| w.target().as_ref() == Some(&at))
    {
        Some(Write::Patch { patch, .. }) => {
            let mut next = object.clone();
            if json_patch::patch(&mut next, &patch.0).is_ok() { next } else { object.clone() }
        }
        _ => object.clone(),
    };
    let fields = unwritten(router, &written);
    if fields.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "{} is its owner's and is edited only where it leads to {}; it differs from spec.service in {}, which {} not written to it.",
        named(&at),
        router.names.apex,
        listed(&fields),
        if fields.len() == 1 { "is" } else { "are" },
    )]
}

fn unwritten(router: &Router, object: &Value) -> Vec<&'static str> {
    let service = &router.service;
    let Some(shape) = router.shape() else { return Vec::new() };
    let spec = object.get("spec").unwrap_or(&Value::Null);
    let rules: Vec<&Value> = shape.rules(spec).iter().filter(|r| shape.is_edited(&router.names, r)).collect();
    let mut fields = router.provider.routing.unwritten(router, spec, &rules);
    let apex = service.apex.clone().unwrap_or_default();
    let has = |at: &str, stated: &std::collections::BTreeMap<String, String>| {
        stated.iter().all(|(key, value)| object.pointer(at).and_then(|m| m.get(key)) == Some(&json!(value)))
    };
    let annotations = without_toolkit(&apex.annotations);
    let marked = has("/metadata/labels", &apex.labels) && has("/metadata/annotations", &annotations);
    fields.extend((!marked).then_some("apex"));
    fields
}
