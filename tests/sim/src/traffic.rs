//! Where the traffic of an application goes, read from the objects that a data plane reads.

use crate::cluster::{Cluster, text};
use serde_json::Value;
use sidetrack::object::{Kind, ObjectRef};
use sidetrack::router;

/// Shares of the traffic in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    pub primary: i64,
    pub canary: i64,
}

/// The route, if there is one.
pub fn route(cluster: &Cluster, namespace: &str, apex: &str) -> Option<(ObjectRef, Shares)> {
    router::kinds().find_map(|kind| {
        let at = ObjectRef::new(kind, namespace, apex);
        let found = cluster.get(&at)?;
        of(found, apex).map(|shares| (at, shares))
    })
}

pub fn of(route: &Value, apex: &str) -> Option<Shares> {
    let share = |name: &str| backends(route, &format!("{apex}-{name}"));
    // A TrafficSplit or a rule names both; a TraefikService the canary only while it gets some.
    let none = route.pointer("/spec/weighted").map(|_| 0);
    Some(Shares { primary: share("primary")?, canary: share("canary").or(none)? })
}

/// What Sidetrack says that it has set on a canary whose pods stand in the owner's Service.
pub fn set(canary: &Value) -> Option<(i64, i64)> {
    let (weight, count) = text(canary, "/metadata/annotations/sidetrack.dev~1share")?.split_once(' ')?;
    Some((weight.parse().ok()?, count.parse().ok()?))
}

fn backends(route: &Value, service: &str) -> Option<i64> {
    let rules = route
        .pointer("/spec/http")
        .or_else(|| route.pointer("/spec/tcp"))
        .or_else(|| route.pointer("/spec/rules"));
    let lists: Vec<&Value> = match rules.and_then(Value::as_array) {
        Some(rules) => rules.iter().filter_map(|r| r.get("route").or_else(|| r.get("backendRefs"))).collect(),
        None => {
            ["/spec/backends", "/spec/weighted/services"].iter().filter_map(|p| route.pointer(p)).collect()
        }
    };
    lists.into_iter().filter_map(Value::as_array).flatten().find_map(|backend| {
        let named =
            ["/destination/host", "/name", "/service"].iter().any(|p| text(backend, p) == Some(service));
        let weight = backend.get("weight")?;
        named.then(|| weight.as_i64().or_else(|| weight.as_str()?.parse().ok()))?
    })
}

/// The shares: the route's; without one, whom the apex Service selects.
pub fn shares(cluster: &Cluster, namespace: &str, apex: &str, selector: (&str, &str)) -> Option<Shares> {
    if let Some((_, shares)) = route(cluster, namespace, apex) {
        return Some(shares);
    }
    let service = cluster.get(&ObjectRef::new(Kind::Service, namespace, apex))?;
    let selected = service.pointer("/spec/selector")?.get(selector.0)?.as_str()?;
    let canary = if selected == selector.1 { 100 } else { 0 };
    Some(Shares { primary: 100 - canary, canary })
}
