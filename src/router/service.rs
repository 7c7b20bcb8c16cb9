//! `spec.service` of a Canary, as the routers and the Services need it.

use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// `spec.service`. Parts that go unchanged into a route are raw JSON, so that no field is lost.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// The port of the Services.
    pub port: i32,
    /// Its name; `http` if not given.
    pub port_name: Option<String>,
    /// The port of the pods, a number or a name; [`Self::port`] if not given, `0` or `"0"`.
    pub target_port: Option<Value>,
    /// `appProtocol` of the port; `tcp` makes an Istio route a TCP route.
    pub app_protocol: Option<String>,
    /// `trafficDistribution` of the Services, set when they are made.
    pub traffic_distribution: Option<String>,
    /// Whether the containers' other ports are published too.
    pub port_discovery: bool,
    /// Whether the Services have no cluster IP.
    pub headless: bool,
    /// Time allowed for a request, such as `15s`.
    pub timeout: Option<String>,
    /// Time allowed for one attempt at a backend (Gateway API).
    pub backend_timeout: Option<String>,
    /// Istio gateways; `mesh` if there are none.
    pub gateways: Vec<String>,
    /// Gateway API parents.
    pub gateway_refs: Vec<Value>,
    /// Host names.
    pub hosts: Vec<String>,
    /// Whether the VirtualService is a delegate: no hosts and no gateways.
    pub delegation: bool,
    /// `trafficPolicy` of the DestinationRules.
    pub traffic_policy: Option<Value>,
    /// Request conditions, in Istio's form.
    pub r#match: Vec<Value>,
    /// URL rewrite.
    pub rewrite: Option<Rewrite>,
    /// Istio's retries.
    pub retries: Option<Value>,
    /// Header changes, in Istio's form.
    pub headers: Option<Value>,
    /// Static request mirrors (Gateway API), each with a `backendRef`.
    pub mirror: Vec<Value>,
    /// CORS policy, in Istio's form.
    pub cors_policy: Option<Value>,
    /// Metadata of the apex Service and of the route.
    pub apex: Option<Metadata>,
    /// Metadata of the primary's Service.
    pub primary: Option<Metadata>,
    /// Metadata of the canary's Service.
    pub canary: Option<Metadata>,
    /// Keys on Services that are left alone.
    pub unmanaged_metadata: Option<UnmanagedMetadata>,
}

/// A URL rewrite.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Rewrite {
    /// The new path or path prefix.
    pub uri: Option<String>,
    /// The new authority.
    pub authority: Option<String>,
    /// `ReplacePrefixMatch`, or anything else for the full path (Gateway API).
    #[serde(rename = "type")]
    pub type_: Option<String>,
}

/// Labels and annotations to set.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Metadata {
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

/// Keys of labels and annotations that others manage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct UnmanagedMetadata {
    /// Label keys.
    pub labels: Vec<String>,
    /// Annotation keys.
    pub annotations: Vec<String>,
}

impl ServiceSpec {
    /// Returns whether the application speaks TCP (Istio).
    #[must_use]
    pub fn is_tcp(&self) -> bool {
        self.app_protocol.as_deref().is_some_and(|p| p.eq_ignore_ascii_case("tcp"))
    }

    /// Returns whether the pods' port is stated.
    #[must_use]
    pub fn states_target_port(&self) -> bool {
        match &self.target_port {
            Some(Value::Number(n)) => n.as_i64() != Some(0),
            Some(Value::String(s)) => s != "0" && !s.is_empty(),
            _ => false,
        }
    }

    /// Returns the pods' port as a Service states it.
    #[must_use]
    pub fn target_port(&self) -> Value {
        self.target_port.clone().filter(|_| self.states_target_port()).unwrap_or_else(|| self.port.into())
    }

    /// Returns the name of the port.
    #[must_use]
    pub fn port_name(&self) -> &str {
        self.port_name.as_deref().filter(|n| !n.is_empty()).unwrap_or("http")
    }
}
