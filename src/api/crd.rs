//! The CustomResourceDefinitions: generated from the types, then narrowed to what Flagger's refuse.
//!
//! Every object that Flagger's CRDs (1.44) accept is accepted and pruned alike, and what they refuse is refused;
//! only the wording differs. What is merely doubtful is accepted and named in status ([`super::validate`]).

use super::passthrough::{self, requires, strings};
use super::{AlertProvider, Canary, CanaryPolicy, MetricTemplate};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceSubresourceStatus, CustomResourceSubresources, JSON,
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;
use serde_json::json;

/// A duration of whole minutes or seconds. Without an end, so that `1m30s` and `500ms` pass too.
const DURATION: &str = "^[0-9]+(m|s)";

/// Returns the definitions of all kinds, ready to be applied.
#[must_use]
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![
        narrowed(Canary::crd(), canary),
        narrowed(MetricTemplate::crd(), metric_template),
        narrowed(AlertProvider::crd(), alert_provider),
        narrowed(CanaryPolicy::crd(), canary_policy),
    ]
}

fn narrowed(mut crd: CustomResourceDefinition, rules: fn(&mut Editor)) -> CustomResourceDefinition {
    // Helm must not delete the definitions, and with them every Canary, when a chart is uninstalled.
    crd.metadata.annotations.get_or_insert_default().insert("helm.sh/resource-policy".into(), "keep".into());
    for version in &mut crd.spec.versions {
        // As Flagger's do, also for kinds whose status is not in the schema.
        version.subresources = Some(CustomResourceSubresources {
            status: Some(CustomResourceSubresourceStatus(json!({}))),
            ..CustomResourceSubresources::default()
        });
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            plain(schema);
            schema.required = None;
            schema.title = None;
            rules(&mut Editor { schema, missed: Vec::new() });
        }
    }
    crd
}

fn canary(edit: &mut Editor) {
    let reference = ["apiVersion", "kind", "name"];
    edit.required("spec", &["targetRef", "analysis"]);
    edit.one_of("spec.provider", &PROVIDERS);
    for (path, kinds) in [
        ("spec.targetRef", &["DaemonSet", "Deployment", "Service"][..]),
        ("spec.autoscalerRef", &["HorizontalPodAutoscaler", "ScaledObject"]),
        ("spec.ingressRef", &["Ingress"]),
        ("spec.routeRef", &["ApisixRoute"]),
        ("spec.upstreamRef", &["Upstream"]),
    ] {
        edit.required(path, &reference);
        edit.one_of(&format!("{path}.kind"), kinds);
    }
    for limit in ["minReplicas", "maxReplicas"] {
        edit.at(&format!("spec.autoscalerRef.primaryScalerReplicas.{limit}"), |schema| {
            schema.format = None;
            schema.minimum = Some(1.0);
        });
    }
    edit.required("spec.service", &["port"]);
    service(edit, "spec.service");
    analysis(edit, "spec.analysis");
    // A Canary that nobody has looked at is not current, to kstatus (Flux, Helm); Argo CD's script needs the other fields.
    edit.at("status", |schema| {
        schema.default =
            Some(JSON(json!({"observedGeneration": -1, "canaryWeight": 0, "conditions": [], "phase": ""})));
    });
}

fn service(edit: &mut Editor, at: &str) {
    edit.one_of(&format!("{at}.trafficDistribution"), &["PreferClose", "PreferSameZone", "PreferSameNode"]);
    edit.at(&format!("{at}.gatewayRefs"), |schema| schema.max_items = Some(32));
    for (path, schema) in [
        (&format!("{at}.gatewayRefs[]"), passthrough::gateway_ref()),
        (&format!("{at}.match[]"), passthrough::route_match()),
        (&format!("{at}.mirror[]"), passthrough::mirror()),
        (&format!("{at}.retries"), passthrough::retries()),
        (&format!("{at}.headers"), passthrough::headers()),
        (&format!("{at}.corsPolicy"), passthrough::cors_policy()),
        (&format!("{at}.trafficPolicy"), passthrough::traffic_policy()),
    ] {
        edit.replace(path, schema);
    }
}

fn analysis(edit: &mut Editor, at: &str) {
    edit.at(at, |schema| {
        let steps = ["iterations", "stepWeight", "stepWeights"];
        schema.one_of = Some(steps.iter().map(|step| requires(&["interval", "threshold", step])).collect());
    });
    for path in
        [&format!("{at}.interval"), &format!("{at}.metrics[].interval"), &format!("{at}.webhooks[].timeout")]
    {
        edit.at(path, |schema| schema.pattern = Some(DURATION.into()));
    }
    edit.required(&format!("{at}.metrics[]"), &["name"]);
    edit.required(&format!("{at}.metrics[].templateRef"), &["name"]);
    edit.required(&format!("{at}.alerts[]"), &["providerRef", "name"]);
    edit.required(&format!("{at}.alerts[].providerRef"), &["name"]);
    edit.one_of(&format!("{at}.alerts[].severity"), &["", "info", "warn", "error"]);
    edit.required(&format!("{at}.webhooks[]"), &["name", "url"]);
    edit.one_of(&format!("{at}.webhooks[].type"), &HOOK_TYPES);
    edit.required(&format!("{at}.sessionAffinity"), &["cookieName"]);
    edit.one_of(&format!("{at}.sessionAffinity.sameSite"), &["Strict", "Lax", "None"]);
    edit.at(&format!("{at}.sessionAffinity.maxAge"), |schema| schema.default = Some(JSON(json!(86400))));
    edit.replace(&format!("{at}.match[]"), passthrough::analysis_match());
}

fn canary_policy(edit: &mut Editor) {
    edit.at("status", |schema| schema.default = Some(JSON(json!({"observedGeneration": -1}))));
    edit.required("spec", &["canary"]);
    edit.required("spec.canary", &["analysis"]);
    edit.one_of("spec.canary.provider", &PROVIDERS);
    service(edit, "spec.canary.service");
    analysis(edit, "spec.canary.analysis");
    edit.required("spec.freeze[]", &["schedule", "duration", "reason"]);
    edit.required("spec.wave", &["after"]);
    for (path, default) in
        [("spec.mode", json!("enforce")), ("spec.priority", json!(0)), ("spec.layout", json!("in-place"))]
    {
        edit.at(path, |schema| schema.default = Some(JSON(default)));
    }
    // Counted in whole numbers; what is out of range is said by the webhook.
    for path in ["spec.maxTargets", "spec.maxConcurrentReleases", "spec.wave.passed", "spec.priority"] {
        edit.at(path, |schema| schema.type_ = Some("integer".into()));
    }
}

fn metric_template(edit: &mut Editor) {
    edit.required("spec", &["provider", "query"]);
    edit.required("spec.provider", &["type"]);
    edit.one_of("spec.provider.type", &METRIC_PROVIDERS);
    edit.required("spec.provider.secretRef", &["name"]);
}

fn alert_provider(edit: &mut Editor) {
    edit.at("spec", |schema| {
        schema.one_of = Some(vec![requires(&["type", "address"]), requires(&["type", "secretRef"])]);
    });
    edit.one_of("spec.type", &["slack", "msteams", "discord", "rocket", "gchat"]);
    edit.required("spec.secretRef", &["name"]);
}

/// The values of `spec.provider` that Flagger knows.
pub const PROVIDERS: [&str; 19] = [
    "apisix",
    "appmesh",
    "appmesh:v1beta2",
    "contour",
    "gatewayapi:v1",
    "gatewayapi:v1beta1",
    "gloo",
    "istio",
    "knative",
    "kubernetes",
    "kuma",
    "linkerd",
    "nginx",
    "osm",
    "skipper",
    "smi:v1alpha1",
    "smi:v1alpha2",
    "smi:v1alpha3",
    "traefik",
];

const HOOK_TYPES: [&str; 9] = [
    "",
    "confirm-rollout",
    "pre-rollout",
    "rollout",
    "confirm-promotion",
    "post-rollout",
    "event",
    "rollback",
    "confirm-traffic-increase",
];

const METRIC_PROVIDERS: [&str; 11] = [
    "prometheus",
    "influxdb",
    "datadog",
    "externalmetrics",
    "stackdriver",
    "cloudwatch",
    "newrelic",
    "graphite",
    "dynatrace",
    "keptn",
    "splunk",
];

/// Takes out of a generated schema what Rust types say and Flagger's schema does not.
///
/// Defaults would be written into every stored object, `nullable` would keep nulls that are otherwise dropped,
/// and `double` is how schemars says `number`.
fn plain(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    schema.default = None;
    schema.format.take_if(|format| format == "double");
    for property in schema.properties.iter_mut().flat_map(|properties| properties.values_mut()) {
        plain(property);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        plain(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        plain(values);
    }
}

/// Changes a schema at paths such as `spec.analysis.metrics[].name`.
struct Editor<'a> {
    schema: &'a mut JSONSchemaProps,
    /// Paths that led nowhere: a rule that does not count.
    missed: Vec<String>,
}

impl Editor<'_> {
    fn at(&mut self, path: &str, change: impl FnOnce(&mut JSONSchemaProps)) {
        match find(self.schema, path) {
            Some(schema) => change(schema),
            None => self.missed.push(path.to_owned()),
        }
    }

    fn required(&mut self, path: &str, names: &[&str]) {
        self.at(path, |schema| schema.required = strings(names));
    }

    fn one_of(&mut self, path: &str, values: &[&str]) {
        let values = values.iter().map(|value| JSON((*value).into())).collect();
        self.at(path, |schema| schema.enum_ = Some(values));
    }

    /// Replaces a schema; its description stays where the new one has none.
    fn replace(&mut self, path: &str, new: JSONSchemaProps) {
        self.at(path, |schema| {
            let description = new.description.clone().or_else(|| schema.description.take());
            *schema = JSONSchemaProps { description, ..new };
        });
    }
}

fn find<'a>(root: &'a mut JSONSchemaProps, path: &str) -> Option<&'a mut JSONSchemaProps> {
    path.split('.').try_fold(root, |schema, segment| {
        let name = segment.trim_end_matches("[]");
        let property = schema.properties.as_mut()?.get_mut(name)?;
        if name == segment {
            return Some(property);
        }
        match property.items.as_mut()? {
            JSONSchemaPropsOrArray::Schema(items) => Some(items.as_mut()),
            JSONSchemaPropsOrArray::Schemas(_) => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::collections::BTreeMap;

    /// Every path of a kind's schema and what the schema says there, in JSON.
    fn paths(crd: &CustomResourceDefinition) -> BTreeMap<String, Value> {
        fn walk(schema: &Value, path: &str, found: &mut BTreeMap<String, Value>) {
            found.insert(path.to_owned(), schema.clone());
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                walk(property, &format!("{path}.{name}"), found);
            }
            for (key, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
                if schema[key].is_object() {
                    walk(&schema[key], &format!("{path}{mark}"), found);
                }
            }
        }
        let json = serde_json::to_value(crd).unwrap();
        let mut found = BTreeMap::new();
        walk(&json["spec"]["versions"][0]["schema"]["openAPIV3Schema"], "", &mut found);
        found
    }

    #[test]
    fn every_rule_meets_a_field() {
        for (mut crd, rules) in [
            (Canary::crd(), canary as fn(&mut Editor)),
            (MetricTemplate::crd(), metric_template),
            (AlertProvider::crd(), alert_provider),
            (CanaryPolicy::crd(), canary_policy),
        ] {
            let schema = crd.spec.versions[0].schema.as_mut().unwrap().open_api_v3_schema.as_mut().unwrap();
            let mut editor = Editor { schema, missed: Vec::new() };
            rules(&mut editor);
            assert_eq!(editor.missed, [""; 0], "{}", crd.spec.names.kind);
        }
    }

    #[test]
    fn every_user_facing_field_is_described() {
        for crd in crds() {
            for (path, schema) in paths(&crd) {
                let described = schema["description"].as_str().is_some_and(|text| !text.is_empty());
                let element = path.ends_with("[]") || path.ends_with("{}");
                assert!(described || element, "{}{path}", crd.spec.names.kind);
            }
        }
    }

    #[test]
    fn only_flaggers_defaults_are_written_into_objects() {
        let crds: Vec<_> = crds().into_iter().filter(|crd| crd.spec.group == "flagger.app").collect();
        let defaults = crds.iter().flat_map(paths).filter(|(_, schema)| !schema["default"].is_null());
        let defaults: BTreeMap<_, _> =
            defaults.map(|(path, schema)| (path, schema["default"].clone())).collect();
        let expected = [
            (".spec.analysis.sessionAffinity.maxAge", json!(86400)),
            (".spec.service.gatewayRefs[].group", json!("gateway.networking.k8s.io")),
            (".spec.service.gatewayRefs[].kind", json!("Gateway")),
            (".spec.service.mirror[].backendRef.group", json!("")),
            (".spec.service.mirror[].backendRef.kind", json!("Service")),
            // What makes kstatus wait for the controller's first look.
            (".status", json!({"observedGeneration": -1, "canaryWeight": 0, "conditions": [], "phase": ""})),
        ];
        assert_eq!(defaults, expected.map(|(path, value)| (path.to_owned(), value)).into());
    }

    #[test]
    fn schemas_are_structural_and_free_of_unknown_formats() {
        for crd in crds() {
            for (path, schema) in paths(&crd) {
                let typed = schema["type"].is_string() || schema["x-kubernetes-int-or-string"] == true;
                assert!(typed, "{path} has no type");
                assert!(schema["nullable"].is_null(), "{path} is nullable");
                let known = matches!(schema["format"].as_str(), None | Some("int32" | "int64" | "date-time"));
                assert!(known, "{path} has format {}", schema["format"]);
            }
        }
    }

    #[test]
    fn names_subresource_and_annotation_are_flaggers() {
        let flaggers = || crds().into_iter().filter(|crd| crd.spec.group == "flagger.app");
        let names: Vec<_> = flaggers().map(|crd| crd.metadata.name.clone().unwrap()).collect();
        assert_eq!(
            names,
            ["canaries.flagger.app", "metrictemplates.flagger.app", "alertproviders.flagger.app"]
        );
        for crd in flaggers() {
            assert_eq!(crd.metadata.annotations.unwrap()["helm.sh/resource-policy"], "keep");
            assert_eq!(crd.spec.names.categories.unwrap(), ["all"]);
            assert_eq!((crd.spec.scope.as_str(), crd.spec.versions.len()), ("Namespaced", 1));
            assert!(crd.spec.versions[0].subresources.as_ref().unwrap().status.is_some());
            assert!(crd.spec.conversion.is_none());
        }
    }

    #[test]
    fn a_canary_prints_flaggers_columns_and_after_them_why() {
        let columns = Canary::crd().spec.versions[0].additional_printer_columns.clone().unwrap();
        let columns: Vec<_> = columns.iter().map(|c| (c.name.as_str(), c.priority.unwrap_or(0))).collect();
        let expected = [
            ("Status", 0),
            ("Weight", 0),
            ("Suspended", 1),
            ("FailedChecks", 1),
            ("Interval", 1),
            ("Mirror", 1),
            ("StepWeight", 1),
            ("StepWeights", 1),
            ("MaxWeight", 1),
            ("LastTransitionTime", 0),
            ("Ready", 0),
            ("Message", 0),
        ];
        assert_eq!(columns, expected);
    }
}
