//! Whether what is installed is what this binary would install.

use serde_json::Value;

/// Returns the path of the first thing that `wanted` states and `live` does not; fields that only `live` has do not
/// count, as the API server adds some.
#[must_use]
pub fn difference(wanted: &Value, live: &Value) -> Option<String> {
    first(wanted, live, "")
}

fn first(wanted: &Value, live: &Value, path: &str) -> Option<String> {
    match (wanted, live) {
        (Value::Object(wanted), Value::Object(live)) => wanted.iter().find_map(|(key, value)| {
            // The API server leaves out what is empty.
            let other = live.get(key).unwrap_or(&Value::Null);
            first(value, other, &format!("{path}.{key}"))
        }),
        (Value::Array(wanted), Value::Array(live)) if wanted.len() == live.len() => {
            let pairs = wanted.iter().zip(live).enumerate();
            pairs
                .into_iter()
                .find_map(|(index, (wanted, live))| first(wanted, live, &format!("{path}[{index}]")))
        }
        (wanted, live) if equal(wanted, live) || (live.is_null() && is_empty(wanted)) => None,
        _ => Some(path.trim_start_matches('.').to_owned()),
    }
}

/// `1.0` and `1` are one number, whichever of them was written.
fn equal(wanted: &Value, live: &Value) -> bool {
    match (wanted.as_f64(), live.as_f64()) {
        (Some(wanted), Some(live)) => wanted.total_cmp(&live).is_eq(),
        _ => wanted == live,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// Returns the fields that an object of schema `wanted` may have and that `live` would drop when it is stored.
#[must_use]
pub fn dropped_fields(wanted: &Value, live: &Value) -> Vec<String> {
    let mut fields = Vec::new();
    collect(wanted, live, "", &mut fields);
    fields
}

fn collect(wanted: &Value, live: &Value, path: &str, fields: &mut Vec<String>) {
    if live.get("x-kubernetes-preserve-unknown-fields").and_then(Value::as_bool) == Some(true) {
        return;
    }
    let properties = wanted.get("properties").and_then(Value::as_object);
    for (name, schema) in properties.into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match live.get("properties").and_then(|properties| properties.get(name)) {
            Some(live) => collect(schema, live, &path, fields),
            None if live.get("additionalProperties").is_some() => {}
            None => fields.push(path),
        }
    }
    for inner in ["items", "additionalProperties"] {
        if let (Some(wanted), Some(live)) = (wanted.get(inner), live.get(inner)) {
            collect(wanted, live, &format!("{path}[]"), fields);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn first_stated_field_that_differs_is_named() {
        for (wanted, live, found) in [
            (json!({"a": 1}), json!({"a": 1, "b": 2}), None),
            (json!({"a": 1.0}), json!({"a": 1}), None),
            (json!({"a": {}}), json!({}), None),
            (json!({"a": {"b": [1, {"c": 2}]}}), json!({"a": {"b": [1, {"c": 3}]}}), Some("a.b[1].c")),
            (json!({"a": [1]}), json!({"a": [1, 2]}), Some("a")),
            (json!({"a": false}), json!({}), Some("a")),
        ] {
            assert_eq!(difference(&wanted, &live).as_deref(), found, "{wanted} {live}");
        }
    }

    #[test]
    fn fields_are_dropped_where_the_schema_does_not_know_them() {
        let wanted = json!({"properties": {
            "a": {"type": "string"},
            "list": {"items": {"properties": {"x": {}, "y": {}}}},
            "free": {"properties": {"z": {}}},
        }});
        let live = json!({"properties": {
            "list": {"items": {"properties": {"x": {}}}},
            "free": {"x-kubernetes-preserve-unknown-fields": true},
        }});
        assert_eq!(dropped_fields(&wanted, &live), ["a", "list[].y"]);
        assert!(dropped_fields(&wanted, &wanted).is_empty());
    }
}
