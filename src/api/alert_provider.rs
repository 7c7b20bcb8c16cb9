//! `AlertProvider`: a chat channel that alerts of Canaries are sent to.

use super::lenient::default_when_absent;
use super::metric_template::SecretRef;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A chat channel and how to reach it.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "flagger.app",
    version = "v1beta1",
    kind = "AlertProvider",
    plural = "alertproviders",
    singular = "alertprovider",
    namespaced,
    category = "all",
    derive = "Default",
    derive = "PartialEq",
    doc = "A chat channel that the alerts of Canaries are sent to.",
    printcolumn = r#"{"name": "Type", "type": "string", "jsonPath": ".spec.type"}"#
)]
#[serde(rename_all = "camelCase", default, remote = "Self")]
pub struct AlertProviderSpec {
    /// Kind of chat, such as `slack`.
    #[serde(rename = "type")]
    pub type_: String,
    /// Channel; `general` where empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// Name of the sender; `flagger` where empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// URL that alerts are posted to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// URL of an HTTP proxy to use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// Secret with the key `address` and, for slack, `token`, in the namespace of this object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
}

default_when_absent!(AlertProviderSpec);

impl AlertProviderSpec {
    /// Returns the channel: `general` where absent.
    #[must_use]
    pub fn channel(&self) -> &str {
        self.channel.as_deref().filter(|channel| !channel.is_empty()).unwrap_or("general")
    }

    /// Returns the name of the sender: `flagger` where absent.
    #[must_use]
    pub fn username(&self) -> &str {
        self.username.as_deref().filter(|name| !name.is_empty()).unwrap_or("flagger")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channel_and_sender_default_to_flaggers() {
        let spec: AlertProviderSpec =
            serde_json::from_value(serde_json::json!({"type": "slack", "channel": ""})).unwrap();
        assert_eq!((spec.channel(), spec.username()), ("general", "flagger"));
    }
}
