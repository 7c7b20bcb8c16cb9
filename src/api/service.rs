//! `Canary.spec.service`: the Services and routes that lead to the workload.
//!
//! What only passes through to the objects of Istio or Gateway API is kept as plain JSON; its schema is in
//! [`super::passthrough`].

use super::lenient::{int_or_string, optional_whole, whole};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// The Services and routes to make for a workload.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CanaryService {
    /// Name of the apex Service; the target's name where empty. `NAME-primary` and `NAME-canary` derive from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Port of the Services.
    #[serde(deserialize_with = "whole")]
    #[schemars(with = "f64")]
    pub port: i32,
    /// Name of that port; `http` where empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_name: Option<String>,
    /// Port of the container, by number or name; `port` where empty or 0.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "int_or_string")]
    pub target_port: Option<IntOrString>,
    /// Application protocol of the port; with provider istio, `tcp` makes TCP routes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
    /// How a client's topology is respected: `PreferClose`, `PreferSameZone` or `PreferSameNode`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic_distribution: Option<String>,
    /// Serve the other ports of the target's containers too.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub port_discovery: bool,
    /// Make the Services headless.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub headless: bool,
    /// Time that a request may take in all, such as `15s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Time that one attempt at the backend may take, such as `5s` (Gateway API).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_timeout: Option<String>,
    /// Name of the App Mesh mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mesh_name: Option<String>,
    /// Backends of the App Mesh virtual node.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<String>,
    /// Host names that lead to the workload, beside the apex Service's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Istio Gateways that the VirtualService is bound to; `mesh` where empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<String>,
    /// Parents of the HTTPRoute (Gateway API).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gateway_refs: Vec<ParentRef>,
    /// Make the VirtualService one that another delegates to: without hosts and gateways (Istio).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub delegation: bool,
    /// Requests that the route takes: all of them where empty.
    #[serde(rename = "match", skip_serializing_if = "Vec::is_empty")]
    pub match_: Vec<Value>,
    /// How the path and the host of a request are rewritten.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<Rewrite>,
    /// How failed requests are tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<Value>,
    /// Headers added to, set on and removed from requests and answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<Value>,
    /// Backends that get a copy of each request (Gateway API).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mirror: Vec<Value>,
    /// Cross-origin resource sharing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cors_policy: Option<Value>,
    /// The traffic policy of both DestinationRules (Istio).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic_policy: Option<Value>,
    /// Labels and annotations of the apex Service and of the route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apex: Option<Metadata>,
    /// Labels and annotations of the primary's Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary: Option<Metadata>,
    /// Labels and annotations of the canary's Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<Metadata>,
    /// Labels and annotations of the Services that others write and the controller leaves alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unmanaged_metadata: Option<UnmanagedMetadata>,
}

/// A parent of an HTTPRoute. The API server fills in the defaults of `group` and `kind`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ParentRef {
    /// API group of the parent; empty for the core group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Kind of the parent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Name of the parent.
    pub name: String,
    /// Namespace of the parent; that of the Canary where empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Listener of the parent; all of them where empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    /// Port of the parent.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "optional_whole")]
    pub port: Option<i32>,
}

/// How a request is rewritten before it is forwarded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Rewrite {
    /// The new path, or the new prefix of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// The new host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// `ReplacePrefixMatch`; anything else replaces the full path (Gateway API).
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub type_: Option<String>,
}

/// Labels and annotations of a generated object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// Labels to set.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations to set.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Keys of labels and annotations that belong to others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct UnmanagedMetadata {
    /// Keys of labels.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Keys of annotations.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub annotations: Vec<String>,
}

impl CanaryService {
    /// Returns the name of the Service port: `portName`, else `http`.
    #[must_use]
    pub fn port_name(&self) -> &str {
        self.port_name.as_deref().filter(|name| !name.is_empty()).unwrap_or("http")
    }

    /// Returns the port of the container: `targetPort`, and `port` where that is absent, empty or 0.
    #[must_use]
    pub fn target_port(&self) -> IntOrString {
        match &self.target_port {
            Some(IntOrString::Int(number)) if *number != 0 => IntOrString::Int(*number),
            Some(IntOrString::String(name)) if !name.is_empty() && name != "0" => {
                IntOrString::String(name.clone())
            }
            _ => IntOrString::Int(self.port),
        }
    }

    /// Returns whether the Canary has no `service` at all, which the schema allows.
    #[must_use]
    pub fn is_unset(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(value: Value) -> CanaryService {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn port_name_defaults_to_http() {
        assert_eq!(service(json!({"port": 80})).port_name(), "http");
        assert_eq!(service(json!({"port": 80, "portName": "grpc"})).port_name(), "grpc");
    }

    #[test]
    fn target_port_defaults_to_port_where_absent_or_zero() {
        for target_port in [json!(null), json!(0), json!("0"), json!("")] {
            let service = service(json!({"port": 80, "targetPort": target_port}));
            assert_eq!(service.target_port(), IntOrString::Int(80), "{target_port}");
        }
        assert_eq!(service(json!({"port": 80, "targetPort": 9898})).target_port(), IntOrString::Int(9898));
        let by_name = service(json!({"port": 80, "targetPort": "http-metrics"}));
        assert_eq!(by_name.target_port(), IntOrString::String("http-metrics".into()));
    }

    #[test]
    fn passed_through_content_is_kept_as_written() {
        let written = json!({
            "port": 80,
            "match": [{"uri": {"prefix": "/"}, "port": 1.0}],
            "trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}, "later": {"field": [1, 2]}},
            "retries": {"attempts": 3},
        });
        assert_eq!(serde_json::to_value(service(written.clone())).unwrap(), written);
    }
}
