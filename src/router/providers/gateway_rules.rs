//! Conditions and filters of an HTTPRoute rule, from what the Canary states in Istio's form; and the defaults
//! that the
//! API server fills in, so that they do not look like a difference.

use crate::go::parse_duration;
use crate::router::RouteError;
use crate::router::object::{set, settle};
use crate::router::service::ServiceSpec;
use serde_json::{Value, json};

/// Translates request conditions.
///
/// # Errors
///
/// When a condition has no counterpart: a prefix of a header, say.
pub(super) fn conditions(requests: &[Value]) -> Result<Vec<Value>, RouteError> {
    let translated = requests.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
    Ok(translated.into_iter().filter(|c| c.as_object().is_some_and(|c| !c.is_empty())).collect())
}

fn condition(request: &Value) -> Result<Value, RouteError> {
    let mut condition = json!({});
    if let Some(uri) = request.get("uri") {
        let (type_, value) = text(uri, "regex")
            .map(|v| ("RegularExpression", v))
            .or_else(|| text(uri, "exact").map(|v| ("Exact", v)))
            .or_else(|| text(uri, "prefix").map(|v| ("PathPrefix", v)))
            .ok_or_else(|| unsupported("path", uri))?;
        set(&mut condition, "path", json!({ "type": type_, "value": value }));
    }
    if let Some(method) = request.get("method") {
        let exact = text(method, "exact").ok_or_else(|| unsupported("method", method))?;
        set(&mut condition, "method", exact.into());
    }
    for (from, what) in [("headers", "header"), ("queryParams", "query")] {
        let Some(named) = request.get(from).and_then(Value::as_object) else { continue };
        let mut matches = Vec::new();
        for (name, selector) in named {
            let (type_, value) = text(selector, "exact")
                .map(|v| ("Exact", v))
                .or_else(|| text(selector, "regex").map(|v| ("RegularExpression", v)))
                .ok_or_else(|| unsupported(what, &json!({ name: selector })))?;
            matches.push(json!({ "name": name, "type": type_, "value": value }));
        }
        sort_by_name(&mut matches);
        settle(&mut condition, from, Some(&Value::Array(matches)));
    }
    Ok(condition)
}

fn text<'a>(selector: &'a Value, key: &str) -> Option<&'a str> {
    selector.get(key).and_then(Value::as_str).filter(|t| !t.is_empty())
}

fn unsupported(what: &'static str, selector: &Value) -> RouteError {
    RouteError::Match { what, selector: selector.to_string() }
}

fn sort_by_name(list: &mut [Value]) {
    list.sort_by_key(|e| e.get("name").and_then(Value::as_str).unwrap_or_default().to_owned());
}

/// Builds a rule's filters, in Flagger's order.
pub(super) fn filters(service: &ServiceSpec) -> Vec<Value> {
    let mut filters = Vec::new();
    let headers = service.headers.as_ref();
    for (side, type_, field) in [
        ("request", "RequestHeaderModifier", "requestHeaderModifier"),
        ("response", "ResponseHeaderModifier", "responseHeaderModifier"),
    ] {
        if let Some(changes) = headers.and_then(|h| h.get(side)).filter(|c| !c.is_null()) {
            filters.push(json!({ "type": type_, field: header_modifier(changes) }));
        }
    }
    if let Some(rewrite) = &service.rewrite {
        let mut url = json!({});
        settle(&mut url, "hostname", rewrite.authority.clone().map(Value::from).as_ref());
        if let Some(uri) = rewrite.uri.as_ref().filter(|u| !u.is_empty()) {
            let path = if rewrite.type_.as_deref() == Some("ReplacePrefixMatch") {
                json!({ "type": "ReplacePrefixMatch", "replacePrefixMatch": uri })
            } else {
                json!({ "type": "ReplaceFullPath", "replaceFullPath": uri })
            };
            set(&mut url, "path", path);
        }
        filters.push(json!({ "type": "URLRewrite", "urlRewrite": url }));
    }
    for mirror in &service.mirror {
        let mut mirror = mirror.clone();
        fill_backend(&mut mirror);
        filters.push(json!({ "type": "RequestMirror", "requestMirror": mirror }));
    }
    if let Some(policy) = &service.cors_policy {
        filters.push(json!({ "type": "CORS", "cors": cors(policy) }));
    }
    filters
}

fn header_modifier(changes: &Value) -> Value {
    let mut modifier = json!({});
    for field in ["add", "set"] {
        let Some(pairs) = changes.get(field).and_then(Value::as_object) else { continue };
        let mut list: Vec<Value> =
            pairs.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
        sort_by_name(&mut list);
        settle(&mut modifier, field, Some(&Value::Array(list)));
    }
    settle(&mut modifier, "remove", changes.get("remove"));
    modifier
}

/// Translates a CORS policy. Only exact origins have a counterpart; Istio's `allowOrigins` (with prefixes and
/// regular
/// expressions) is left out, as in Flagger.
fn cors(policy: &Value) -> Value {
    let mut cors = json!({});
    for (from, to) in [
        ("allowOrigin", "allowOrigins"),
        ("allowMethods", "allowMethods"),
        ("allowHeaders", "allowHeaders"),
        ("exposeHeaders", "exposeHeaders"),
        ("allowCredentials", "allowCredentials"),
    ] {
        settle(&mut cors, to, policy.get(from));
    }
    let age = policy.get("maxAge").and_then(Value::as_str).and_then(|a| parse_duration(a).ok());
    settle(&mut cors, "maxAge", age.map(|a| a.as_secs().into()).as_ref());
    cors
}

fn default(object: &mut Value, field: &str, value: Value) {
    if object.get(field).is_none() {
        set(object, field, value);
    }
}

fn fill_backend(holder: &mut Value) {
    if let Some(backend) = holder.get_mut("backendRef") {
        default(backend, "group", "".into());
        default(backend, "kind", "Service".into());
    }
}

/// Returns a parent reference with every default stated; its namespace defaults to the route's.
pub(super) fn filled_parent(reference: &Value, namespace: &str) -> Value {
    let mut parent = reference.clone();
    default(&mut parent, "group", "gateway.networking.k8s.io".into());
    default(&mut parent, "kind", "Gateway".into());
    default(&mut parent, "namespace", namespace.into());
    parent
}

/// Returns a rule with the API server's defaults stated (Gateway API v1, HTTPRouteRule), lists of named
/// things sorted.
pub(super) fn filled(rule: &Value) -> Value {
    let mut rule = rule.clone();
    let slash = || json!({ "type": "PathPrefix", "value": "/" });
    default(&mut rule, "matches", json!([{ "path": slash() }]));
    for condition in elements(&mut rule, "matches") {
        default(condition, "path", slash());
        if let Some(path) = condition.get_mut("path") {
            default(path, "type", "PathPrefix".into());
            default(path, "value", "/".into());
        }
        for field in ["headers", "queryParams"] {
            for named in elements(condition, field) {
                default(named, "type", "Exact".into());
            }
            sort_by_name(elements(condition, field));
        }
    }
    for filter in elements(&mut rule, "filters") {
        if let Some(mirror) = filter.get_mut("requestMirror") {
            fill_backend(mirror);
        }
        if let Some(cors) = filter.get_mut("cors") {
            default(cors, "maxAge", 5.into());
        }
    }
    for backend in elements(&mut rule, "backendRefs") {
        default(backend, "group", "".into());
        default(backend, "kind", "Service".into());
        default(backend, "weight", 1.into());
    }
    rule
}

fn elements<'a>(object: &'a mut Value, field: &str) -> &'a mut [Value] {
    object.get_mut(field).and_then(Value::as_array_mut).map_or(&mut [], Vec::as_mut_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_of_a_header_has_no_counterpart() {
        let error = conditions(&[json!({"headers": {"x-user": {"prefix": "test-"}}})]).unwrap_err();
        assert!(error.to_string().starts_with(
            "Invalid request matching selectors: Gateway API doesn't support the specified header matching selector"
        ));
    }

    #[test]
    fn cors_policy_becomes_a_filter() {
        let service: ServiceSpec = serde_json::from_value(json!({"port": 80, "corsPolicy": {
            "allowOrigin": ["https://a.example"], "allowMethods": ["GET"], "allowCredentials": true,
            "exposeHeaders": ["x-e"], "maxAge": "24h"}}))
        .unwrap();
        assert_eq!(
            filters(&service),
            [json!({"type": "CORS", "cors": {"allowOrigins": ["https://a.example"], "allowMethods": ["GET"],
                "allowCredentials": true, "exposeHeaders": ["x-e"], "maxAge": 86400}})]
        );
    }

    #[test]
    fn prefix_rewrite_is_told_by_its_type() {
        let service: ServiceSpec =
            serde_json::from_value(json!({"rewrite": {"uri": "/v2", "type": "ReplacePrefixMatch"}})).unwrap();
        assert_eq!(
            filters(&service),
            [json!({"type": "URLRewrite", "urlRewrite": {
                "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/v2"}}})]
        );
    }
}
