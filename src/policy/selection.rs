//! Label selectors, as the API server reads them in a webhook configuration.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use std::collections::BTreeMap;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Namespaces that no policy selects: Kubernetes' own and ours. A webhook that fails there could lock a cluster up.
pub const PROTECTED: [&str; 4] =
    ["kube-system", "kube-public", "kube-node-lease", crate::api::keys::NAMESPACE];

/// Label that every namespace has, with its name.
pub const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// Returns whether an object with these labels is selected. An empty selector selects everything; a requirement that
/// [`problems`] complains about selects nothing.
#[must_use]
pub fn matches(selector: &LabelSelector, labels: &Labels) -> bool {
    let exact = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    exact && selector.match_expressions.iter().flatten().all(|r| meets(r, labels))
}

fn meets(requirement: &LabelSelectorRequirement, labels: &Labels) -> bool {
    let value = labels.get(&requirement.key);
    let listed = || value.is_some_and(|v| requirement.values.iter().flatten().any(|listed| listed == v));
    match requirement.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

/// Says what the API server would refuse in a selector, with the path of the field below `field`.
#[must_use]
pub fn problems(field: &str, selector: &LabelSelector) -> Vec<String> {
    let mut found = Vec::new();
    for (key, value) in selector.match_labels.iter().flatten() {
        let at = format!("{field}.matchLabels");
        found.extend(bad_key(key).map(|why| format!("{at}: {key:?} is no label key: {why}")));
        found
            .extend(bad_value(value).map(|why| format!("{at}[{key:?}]: {value:?} is no label value: {why}")));
    }
    for (index, requirement) in selector.match_expressions.iter().flatten().enumerate() {
        let at = format!("{field}.matchExpressions[{index}]");
        found.extend(
            bad_key(&requirement.key)
                .map(|why| format!("{at}.key: {:?} is no label key: {why}", requirement.key)),
        );
        let values = requirement.values.as_deref().unwrap_or_default();
        let operator = requirement.operator.as_str();
        match operator {
            "In" | "NotIn" if values.is_empty() => {
                found.push(format!("{at}.values: {operator} takes at least one value"));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                found.push(format!("{at}.values: {operator} takes no values"));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => {
                found.push(format!("{at}.operator: {operator:?} is none of In, NotIn, Exists, DoesNotExist"))
            }
        }
        found.extend(values.iter().filter_map(|value| {
            bad_value(value).map(|why| format!("{at}.values: {value:?} is no label value: {why}"))
        }));
    }
    found
}

/// Why a text is no label key (Kubernetes: labels, syntax and character set).
fn bad_key(key: &str) -> Option<&'static str> {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    if name.is_empty() {
        return Some("its name is empty");
    }
    if prefix.is_some_and(|prefix| {
        prefix.is_empty()
            || prefix.len() > 253
            || !prefix.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
    }) {
        return Some("what stands before the slash must be a DNS name");
    }
    bad_value(name)
}

fn bad_value(value: &str) -> Option<&'static str> {
    if value.len() > 63 {
        return Some("it has more than 63 characters");
    }
    let ends = |byte: Option<u8>| byte.is_none_or(|b| b.is_ascii_alphanumeric());
    let inside = value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    (!inside || !ends(value.bytes().next()) || !ends(value.bytes().last()))
        .then_some("letters, digits, '-', '_' and '.', with a letter or digit at both ends")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn selector(value: serde_json::Value) -> LabelSelector {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_selector_selects_as_kubernetes_does() {
        let labels: Labels = [("app", "a"), ("tier", "web")].map(|(k, v)| (k.into(), v.into())).into();
        let one = |operator: &str, key: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        for (spec, selected) in [
            (json!({}), true),
            (json!({"matchLabels": {"app": "a"}}), true),
            (json!({"matchLabels": {"app": "b"}}), false),
            (one("In", "tier", &["web", "db"]), true),
            (one("In", "none", &["web"]), false),
            (one("NotIn", "tier", &["db"]), true),
            (one("NotIn", "none", &["db"]), true),
            (one("NotIn", "tier", &["web"]), false),
            (one("Exists", "tier", &[]), true),
            (one("Exists", "none", &[]), false),
            (one("DoesNotExist", "none", &[]), true),
            (one("DoesNotExist", "tier", &[]), false),
            (one("Near", "tier", &["web"]), false),
            (
                json!({"matchLabels": {"app": "a"}, "matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}),
                false,
            ),
        ] {
            assert_eq!(matches(&selector(spec.clone()), &labels), selected, "{spec}");
        }
    }

    #[test]
    fn what_the_api_server_refuses_is_named_with_its_field() {
        for (spec, said) in [
            (json!({"matchLabels": {"a b": "c"}}), "s.matchLabels: \"a b\" is no label key"),
            (json!({"matchLabels": {"a": "-c"}}), "s.matchLabels[\"a\"]: \"-c\" is no label value"),
            (json!({"matchLabels": {"/a": ""}}), "before the slash"),
            (
                json!({"matchExpressions": [{"key": "a", "operator": "In"}]}),
                "s.matchExpressions[0].values: In takes at least one",
            ),
            (
                json!({"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}),
                "Exists takes no values",
            ),
            (
                json!({"matchExpressions": [{"key": "a", "operator": "in", "values": ["b"]}]}),
                "none of In, NotIn",
            ),
            (json!({"matchExpressions": [{"key": "", "operator": "Exists"}]}), "its name is empty"),
        ] {
            let found = problems("s", &selector(spec.clone()));
            assert!(found.iter().any(|problem| problem.contains(said)), "{spec}: {found:?}");
        }
        let fine = json!({"matchLabels": {"team.example.com/x_y": ""}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]});
        assert_eq!(problems("s", &selector(fine)), [""; 0]);
    }
}
