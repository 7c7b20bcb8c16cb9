//! docs/reference.md is made of the definitions and of what the shipped review says of each field.
//! `SIDETRACK_UPDATE=1 cargo test --test reference` writes it anew.
#![expect(clippy::indexing_slicing, reason = "helpers of tests, which Clippy does not take for such")]

use serde_json::{Map, Value, json};
use sidetrack::api::crd::crds;
use sidetrack::api::names::Layout;
use sidetrack::review::{Review, review};
use std::path::Path;
use std::time::Duration;

const HEADER: &str = "# Reference

Every field of every kind, made from the definitions (`manifests/crds.yaml`). Objects that Flagger 1.44 accepts are accepted; what is only doubtful is told in `status.warnings`.

`yet` says where a field of a Canary does not do yet what it does in Flagger: **refused** (`Stalled`, reason `Refused`, and nothing is touched) or *warned* (the rest of the Canary is
served). Values that make no sense are refused or warned of as well: the message names field, value and remedy. `kubectl explain canary.spec.analysis` prints the same texts.
";

/// How far down fields are listed.
const DEEPEST: usize = 4;

/// A Canary of which nothing is to be said.
fn sound() -> Value {
    json!({
        "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "app"},
        "service": {"port": 80},
        "analysis": {
            "interval": "30s", "threshold": 3, "stepWeight": 10, "maxWeight": 50,
            "metrics": [{"name": "request-success-rate", "thresholdRange": {"min": 99}}],
        },
    })
}

/// A value that a schema lets through.
fn sample(schema: &Value) -> Value {
    if let Some(first) = schema["enum"].as_array().and_then(|all| all.first()) {
        return first.clone();
    }
    match schema["type"].as_str() {
        Some("boolean") => true.into(),
        Some("integer" | "number") => 1.into(),
        Some("array") => json!([sample(&schema["items"])]),
        Some("object") => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            required
                .map(|name| (name.to_owned(), sample(&schema["properties"][name])))
                .collect::<Map<_, _>>()
                .into()
        }
        _ if schema["pattern"].is_string() => "1m".into(),
        _ => "x".into(),
    }
}

/// The review in the layout that serves more of it.
fn reviewed(spec: Value) -> Option<Review> {
    let spec = serde_json::from_value(spec).ok()?;
    let of = |layout| review(&spec, layout, "istio", Duration::from_secs(10));
    [Layout::PrimaryCopy, Layout::InPlace].map(of).into_iter().min_by_key(|review| review.refusals.len())
}

/// What is not served yet of a field: of one that takes certain values, which of them.
fn yet(path: &[String], schema: &Value) -> String {
    let Some(values) = schema["enum"].as_array() else { return told(path, sample(schema)).to_owned() };
    let mut found = Vec::new();
    for value in values {
        match (value.as_str(), told(path, value.clone())) {
            (_, "") | (None, _) => {}
            (Some(name), told) => found.push(format!("`{name}`: {told}")),
        }
    }
    found.join(", ")
}

/// What the review says of a Canary that has this value there.
fn told(path: &[String], value: Value) -> &'static str {
    let mut spec = sound();
    let mut value = value;
    for part in path.iter().rev() {
        value = match part.strip_suffix("[]") {
            Some(name) => json!({name: [value]}),
            None => json!({part: value}),
        };
    }
    // An item of a list is nothing by itself.
    if path.iter().any(|part| part == "webhooks[]") {
        json_patch::merge(
            &mut value["analysis"]["webhooks"][0],
            &json!({"name": "hook", "url": "http://hook"}),
        );
    }
    json_patch::merge(&mut spec, &value);
    let Some(review) = reviewed(spec) else { return "" };
    let named = path
        .iter()
        .map(|part| part.strip_suffix("[]").map_or_else(|| part.clone(), |name| format!("{name}[0]")));
    let named = format!("spec.{}", named.collect::<Vec<_>>().join("."));
    let about = |said: &&String| {
        let rest = said.strip_prefix(&named).and_then(|rest| rest.chars().next());
        rest.is_some_and(|next| !next.is_alphanumeric() && next != '.')
    };
    let yet = |sentences: &[String]| {
        sentences
            .iter()
            .filter(about)
            .any(|said| [" yet", "no effect", "serves only"].iter().any(|part| said.contains(part)))
    };
    match (yet(&review.refusals), yet(&review.warnings)) {
        (true, _) => "**refused**",
        (_, true) => "*warned*",
        _ => "",
    }
}

fn type_of(schema: &Value) -> String {
    match schema["type"].as_str() {
        Some("array") => format!("list of {}", type_of(&schema["items"])),
        Some("object") if schema["additionalProperties"].is_object() => {
            format!("map of {}", type_of(&schema["additionalProperties"]))
        }
        Some(simple) => simple.to_owned(),
        None => "any".to_owned(),
    }
}

/// The fields below one, each with what it means.
fn rows(schema: &Value, (root, path): (&str, &[String]), judged: bool, page: &mut String) {
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let (item, suffix) = if field["type"] == "array" { (&field["items"], "[]") } else { (field, "") };
        let here = [path, std::slice::from_ref(name)].concat();
        let text = field["description"].as_str().unwrap_or_default().replace('\n', " ").replace('|', "\\|");
        let must = if required.contains(&name.as_str()) { ", required" } else { "" };
        let yet = if judged { yet(&here, field) } else { String::new() };
        let (type_, field) = (type_of(field), here.join("."));
        page.push_str(&format!("| `{root}.{field}` | {type_}{must} | {text} | {yet} |\n"));
        // What only passes through to a router is described there; a policy's Canary is a Canary.
        if here.len() < DEEPEST && !(name == "canary" && path.is_empty()) {
            let below = [path, &[format!("{name}{suffix}")]].concat();
            rows(item, (root, &below), judged, page);
        }
    }
}

#[test]
fn the_reference_is_what_the_definitions_and_the_review_say() {
    assert_eq!(reviewed(sound()), Some(Review::default()));
    let mut page = HEADER.to_owned();
    for crd in crds() {
        let crd = serde_json::to_value(crd).unwrap();
        let version = &crd["spec"]["versions"][0];
        let schema = &version["schema"]["openAPIV3Schema"];
        let kind = crd["spec"]["names"]["kind"].as_str().unwrap();
        let group = crd["spec"]["group"].as_str().unwrap();
        page.push_str(&format!(
            "\n## {kind}\n\n`{group}/{}`. {}\n",
            version["name"].as_str().unwrap(),
            schema["description"].as_str().unwrap_or_default()
        ));
        page.push_str("\n| field | type | meaning | yet |\n|---|---|---|---|\n");
        for root in ["spec", "status"] {
            rows(&schema["properties"][root], (root, &[]), (kind, root) == ("Canary", "spec"), &mut page);
        }
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference.md");
    if std::env::var_os("SIDETRACK_UPDATE").is_some() {
        std::fs::write(&file, &page).unwrap();
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        committed == page,
        "docs/reference.md is out of date: SIDETRACK_UPDATE=1 cargo test --test reference"
    );
}

/// What is refused or warned of, and what is served, is told apart.
#[test]
fn fields_that_are_not_served_yet_are_found_by_the_review() {
    let path = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
    let boolean = json!({"type": "boolean"});
    assert_eq!(yet(&path("analysis.mirror"), &boolean), "**refused**");
    assert_eq!(yet(&path("analysis.iterations"), &json!({"type": "integer"})), "**refused**");
    let alerts = json!({"type": "array", "items": {"type": "object"}});
    assert_eq!(yet(&path("analysis.alerts"), &alerts), "*warned*");
    assert_eq!(yet(&path("skipAnalysis"), &boolean), "");
    let kinds = json!({"enum": ["Deployment", "DaemonSet"]});
    assert_eq!(yet(&path("targetRef.kind"), &kinds), "`DaemonSet`: **refused**");
}
