//! `MetricTemplate`: a query and the server that answers it, for checks to refer to.

use super::lenient::default_when_absent;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A query and the server that answers it.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "flagger.app",
    version = "v1beta1",
    kind = "MetricTemplate",
    plural = "metrictemplates",
    singular = "metrictemplate",
    namespaced,
    category = "all",
    derive = "Default",
    derive = "PartialEq",
    doc = "A query of a metrics provider that the checks of Canaries refer to.",
    printcolumn = r#"{"name": "Provider", "type": "string", "jsonPath": ".spec.provider.type"}"#
)]
#[serde(rename_all = "camelCase", default, remote = "Self")]
pub struct MetricTemplateSpec {
    /// The server that answers the query.
    pub provider: MetricProvider,
    /// The query; a template with `name`, `namespace`, `target`, `service`, `ingress`, `route`, `interval` and
    /// `variables`.
    pub query: String,
}

default_when_absent!(MetricTemplateSpec);

/// A server of metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MetricProvider {
    /// Kind of server, such as `prometheus`.
    #[serde(rename = "type")]
    pub type_: String,
    /// URL of the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Headers sent with each query, each with its values (prometheus).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Vec<String>>,
    /// Secret with the credentials, in the namespace of this object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
    /// Region of the provider (cloudwatch).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Do not check the certificate of the server.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub insecure_skip_verify: bool,
}

/// A Secret in the namespace of the object that names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SecretRef {
    /// Name of the Secret.
    pub name: String,
}
