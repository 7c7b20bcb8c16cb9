//! Tells the API server whom to trust: writes caBundle into the webhook configuration.
//!
//! Server-side apply with a field manager of its own owns nothing but that one field of each entry. So the bundle
//! survives a manifest applied again without it (kubectl, Flux); a PUT of such a manifest wipes it, and it is put
//! back. The same body on a missing object or entry is refused by validation: no half configuration is ever made.

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

/// Owner of the caBundle fields. Not the manager of our other writes: applying one part would drop the others.
pub const FIELD_MANAGER: &str = "sidetrack-ca-bundle";

/// Returns whether every entry carries exactly the bundle; without entries there is nobody to carry it.
#[must_use]
pub fn carries(configuration: &MutatingWebhookConfiguration, bundle: &str) -> bool {
    let entries = configuration.webhooks.as_deref().unwrap_or_default();
    let same = |ca: &ByteString| ca.0 == bundle.as_bytes();
    !entries.is_empty() && entries.iter().all(|e| e.client_config.ca_bundle.as_ref().is_some_and(same))
}

/// Returns the apply body that gives the bundle to every entry.
#[must_use]
pub fn body(configuration: &MutatingWebhookConfiguration, bundle: &str) -> Value {
    let bundle = ByteString(bundle.as_bytes().to_vec());
    let entries = configuration.webhooks.as_deref().unwrap_or_default();
    let entries: Vec<Value> =
        entries.iter().map(|e| json!({"name": e.name, "clientConfig": {"caBundle": bundle}})).collect();
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": configuration.metadata.name},
        "webhooks": entries,
    })
}

/// Writes the bundle into a configuration. Returns the configuration as written.
///
/// # Errors
/// As the API server answers; 404 and 422 when the configuration or an entry is gone meanwhile.
pub async fn inject(
    api: &Api<MutatingWebhookConfiguration>,
    configuration: &MutatingWebhookConfiguration,
    bundle: &str,
) -> kube::Result<MutatingWebhookConfiguration> {
    let name = configuration.metadata.name.as_deref().unwrap_or_default();
    // Forced: a bundle that somebody else wrote is one that our server does not answer to.
    let params = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(name, &params, &Patch::Apply(body(configuration, bundle))).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(bundles: &[Option<&str>]) -> MutatingWebhookConfiguration {
        let entry = |(i, bundle): (usize, &Option<&str>)| {
            let bundle = bundle.map(|b| ByteString(b.as_bytes().to_vec()));
            json!({"name": format!("w{i}.sidetrack.dev"), "clientConfig": {"caBundle": bundle},
                   "sideEffects": "None", "admissionReviewVersions": ["v1"]})
        };
        let webhooks: Vec<Value> = bundles.iter().enumerate().map(entry).collect();
        serde_json::from_value(json!({"metadata": {"name": "sidetrack"}, "webhooks": webhooks})).unwrap()
    }

    #[test]
    fn bundle_counts_when_every_entry_carries_it() {
        assert!(carries(&configuration(&[Some("a"), Some("a")]), "a"));
        assert!(!carries(&configuration(&[Some("a"), None]), "a"));
        assert!(!carries(&configuration(&[Some("a"), Some("b")]), "a"));
        assert!(!carries(&configuration(&[]), "a"));
    }

    #[test]
    fn body_states_the_bundle_of_each_entry_and_nothing_else() {
        let expected = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": "sidetrack"},
            "webhooks": [
                {"name": "w0.sidetrack.dev", "clientConfig": {"caBundle": "YQ=="}},
                {"name": "w1.sidetrack.dev", "clientConfig": {"caBundle": "YQ=="}},
            ],
        });
        assert_eq!(body(&configuration(&[None, Some("b")]), "a"), expected);
    }
}
