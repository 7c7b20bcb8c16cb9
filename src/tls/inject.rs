//! Tells the API server whom to trust: writes caBundle into the webhook configuration.
//!
//! The write is a server-side apply of nothing but that one field of each entry: it takes the field from whoever owns
//! it, and the same body on a missing object or entry is refused by validation, so that no half configuration is ever
//! made. Afterwards the ownership is given up. The bundle still survives a manifest applied again without it
//! (kubectl, Flux), because an applier removes only what it owned; but an entry that a new manifest no longer has can
//! go. As long as we owned a field of it, the API server would keep that field as the rest of an entry, and refuse
//! the manifest (422). A PUT wipes the bundle, and it is put back.

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

/// Returns the patch that gives up our ownership of fields; `None` when there is none to give up.
#[must_use]
pub fn disowning(configuration: &MutatingWebhookConfiguration) -> Option<json_patch::Patch> {
    let owners = configuration.metadata.managed_fields.as_deref().unwrap_or_default();
    let ours = owners.iter().position(|o| o.manager.as_deref() == Some(FIELD_MANAGER))?;
    // The API server takes an empty list for a client that knows nothing of owners, and keeps all of them.
    if owners.len() == 1 {
        return None;
    }
    let at = format!("/metadata/managedFields/{ours}");
    let patch = json!([
        {"op": "test", "path": format!("{at}/manager"), "value": FIELD_MANAGER},
        {"op": "remove", "path": at},
    ]);
    serde_json::from_value(patch).ok()
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

/// Gives up our ownership of fields, if there is any. Returns the configuration as it is then.
///
/// # Errors
/// As the API server answers; 422 when the owners have changed meanwhile.
pub async fn disown(
    api: &Api<MutatingWebhookConfiguration>,
    configuration: &MutatingWebhookConfiguration,
) -> kube::Result<Option<MutatingWebhookConfiguration>> {
    let Some(patch) = disowning(configuration) else { return Ok(None) };
    let name = configuration.metadata.name.as_deref().unwrap_or_default();
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    api.patch(name, &params, &Patch::<()>::Json(patch)).await.map(Some)
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
    fn our_ownership_is_given_up_and_nobody_elses() {
        let owned = |managers: &[&str]| {
            let mut owned = configuration(&[]);
            let fields = managers.iter().map(|m| serde_json::from_value(json!({"manager": m})).unwrap());
            owned.metadata.managed_fields = Some(fields.collect());
            owned
        };
        assert_eq!(disowning(&owned(&["kubectl", "flux"])), None);
        assert_eq!(disowning(&owned(&[FIELD_MANAGER])), None, "an empty list is no list");
        let configuration = owned(&["kubectl", FIELD_MANAGER, "flux"]);
        let mut object = serde_json::to_value(&configuration).unwrap();
        json_patch::patch(&mut object, &disowning(&configuration).unwrap()).unwrap();
        assert_eq!(object["metadata"]["managedFields"], json!([{"manager": "kubectl"}, {"manager": "flux"}]));
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
