//! The types against recorded objects of Flagger users, and against the table of variants.
use super::*;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Reads an object into its type and writes it back.
fn round_trip(object: &Value) -> Value {
    fn through<T: DeserializeOwned + Serialize>(object: &Value) -> Value {
        serde_json::to_value(serde_json::from_value::<T>(object.clone()).unwrap()).unwrap()
    }
    match object["kind"].as_str().unwrap() {
        "Canary" => through::<Canary>(object),
        "MetricTemplate" => through::<MetricTemplate>(object),
        "AlertProvider" => through::<AlertProvider>(object),
        other => panic!("{other} is no kind of ours"),
    }
}

fn schema(crds: &[CustomResourceDefinition], kind: &Value) -> Option<Value> {
    let crd = crds.iter().find(|crd| *kind == crd.spec.names.kind)?;
    let mut json = serde_json::to_value(crd).unwrap();
    Some(json["spec"]["versions"][0]["schema"]["openAPIV3Schema"].take())
}

/// Names what the schema has and the written object has not, or has otherwise. `false` and null count as absent.
fn lost(schema: &Value, read: &Value, written: &Value, path: &str) -> Vec<String> {
    match read {
        Value::Object(fields) => fields
            .iter()
            .filter(|(_, value)| !matches!(value, Value::Bool(false) | Value::Null))
            .flat_map(|(name, value)| {
                let known = schema["properties"].get(name).or_else(|| schema.get("additionalProperties"));
                let path = format!("{path}.{name}");
                known.map_or_else(Vec::new, |schema| lost(schema, value, &written[name], &path))
            })
            .collect(),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .flat_map(|(i, value)| lost(&schema["items"], value, &written[i], &format!("{path}[{i}]")))
            .collect(),
        Value::Number(number) if written.as_f64() == number.as_f64() => Vec::new(),
        value if value == written => Vec::new(),
        value => vec![format!("{path}: {value} became {written}")],
    }
}

#[test]
fn recorded_objects_are_read_and_written_back_whole() {
    let crds = crds();
    let mut seen = BTreeMap::new();
    for run in recordings::all() {
        for action in run.actions() {
            let object = &action["object"];
            let Some(schema) = schema(&crds, &object["kind"]) else { continue };
            if action["do"] != "apply" {
                continue;
            }
            let lost = lost(&schema, object, &round_trip(object), "");
            assert_eq!(lost, [""; 0], "{}", run.name());
            *seen.entry(object["kind"].as_str().unwrap().to_owned()).or_insert(0) += 1;
        }
    }
    let kinds: Vec<_> = seen.keys().map(String::as_str).collect();
    assert_eq!(kinds, ["AlertProvider", "Canary", "MetricTemplate"], "{seen:?}");
}

/// One row of `tests/data/canary-variants.yaml`.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Variant {
    name: String,
    expect: Expectation,
    /// What the API server's refusal must contain.
    names: Option<String>,
    object: Value,
}

#[derive(Debug, PartialEq, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
enum Expectation {
    Accepted,
    Refused,
}

fn variants() -> Vec<Variant> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/canary-variants.yaml");
    serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn every_variant_has_its_own_name_and_each_refusal_names_something() {
    let variants = variants();
    let names: BTreeSet<_> = variants.iter().map(|variant| variant.name.as_str()).collect();
    assert_eq!(names.len(), variants.len());
    for variant in &variants {
        assert_eq!(variant.names.is_some(), variant.expect == Expectation::Refused, "{}", variant.name);
    }
}

#[test]
fn what_the_schema_accepts_is_readable() {
    let crds = crds();
    for variant in variants().iter().filter(|variant| variant.expect == Expectation::Accepted) {
        let written = round_trip(&variant.object);
        // A number that is no 32-bit integer is readable, but not kept.
        if !variant.name.contains("clamped") {
            let schema = schema(&crds, &variant.object["kind"]).unwrap();
            assert_eq!(lost(&schema, &variant.object, &written, ""), [""; 0], "{}", variant.name);
        }
    }
}
