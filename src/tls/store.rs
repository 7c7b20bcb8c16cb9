//! Keeps the certificates in one Secret that all replicas share.
//!
//! Every write names the resourceVersion that it is based on, or creates: of two replicas that write at once one
//! is refused (409) and reads what the other one wrote.

use super::issue::Material;
use crate::kubernetes::client::{Failure, classify};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, PostParams};
use std::collections::BTreeMap;

const BUNDLE: &str = "ca.crt";
const ISSUER_KEY: &str = "ca.key";
const NEXT_KEY: &str = "next.key";
const LEAF: &str = "tls.crt";
const LEAF_KEY: &str = "tls.key";

/// Why the Secret could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Someone else wrote first: read again.
    #[error("Secret {0} was written by someone else")]
    Conflict(String),
    /// The API server refused, or did not answer.
    #[error("cannot {verb} Secret {name}")]
    Api {
        /// What was tried.
        verb: &'static str,
        /// The Secret.
        name: String,
        /// The cause.
        #[source]
        source: Box<kube::Error>,
    },
}

/// Reads and writes the Secret.
#[derive(Clone, Debug)]
pub struct Store {
    api: Api<Secret>,
    name: String,
}

impl Store {
    /// Names the Secret.
    pub fn new(api: Api<Secret>, name: impl Into<String>) -> Self {
        Self { api, name: name.into() }
    }

    /// Reads the Secret as it is now; `None` when there is none.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn read(&self) -> Result<Option<Secret>, StoreError> {
        self.api.get_opt(&self.name).await.map_err(|e| self.error("read", e))
    }

    /// Writes the material into the Secret as it was read, or creates it. Returns the Secret as written.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the Secret is no longer as it was read.
    pub async fn write(&self, before: Option<&Secret>, material: &Material) -> Result<Secret, StoreError> {
        let secret = with(before, &self.name, material);
        let post = PostParams::default();
        match before {
            None => self.api.create(&post, &secret).await.map_err(|e| self.error("create", e)),
            Some(_) => {
                self.api.replace(&self.name, &post, &secret).await.map_err(|e| self.error("replace", e))
            }
        }
    }

    fn error(&self, verb: &'static str, source: kube::Error) -> StoreError {
        match classify(&source) {
            // A replace of what was deleted in between.
            Failure::Conflict | Failure::Gone => StoreError::Conflict(self.name.clone()),
            _ => StoreError::Api { verb, name: self.name.clone(), source: Box::new(source) },
        }
    }
}

/// Returns what a Secret holds; `None` when a part is missing or no text.
#[must_use]
pub fn material(secret: &Secret) -> Option<Material> {
    let data = secret.data.as_ref()?;
    let text = |key| data.get(key).and_then(|bytes| String::from_utf8(bytes.0.clone()).ok());
    Some(Material {
        bundle: text(BUNDLE)?,
        issuer_key: text(ISSUER_KEY)?,
        next_key: text(NEXT_KEY),
        leaf: text(LEAF)?,
        leaf_key: text(LEAF_KEY)?,
    })
}

/// Puts the material into a Secret, whose other fields stay.
fn with(before: Option<&Secret>, name: &str, material: &Material) -> Secret {
    let mut secret = before.cloned().unwrap_or_default();
    secret.metadata.name = Some(name.to_owned());
    // The type of an existing Secret cannot be changed.
    secret.type_.get_or_insert_with(|| "kubernetes.io/tls".to_owned());
    let bytes = |text: &String| ByteString(text.clone().into_bytes());
    let data = secret.data.get_or_insert_with(BTreeMap::new);
    for (key, text) in [
        (BUNDLE, Some(&material.bundle)),
        (ISSUER_KEY, Some(&material.issuer_key)),
        (NEXT_KEY, material.next_key.as_ref()),
        (LEAF, Some(&material.leaf)),
        (LEAF_KEY, Some(&material.leaf_key)),
    ] {
        match text {
            Some(text) => data.insert(key.to_owned(), bytes(text)),
            None => data.remove(key),
        };
    }
    secret
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(next: Option<&str>) -> Material {
        let text = str::to_owned;
        let (bundle, issuer_key) = (text("b"), text("i"));
        Material { bundle, issuer_key, next_key: next.map(text), leaf: text("l"), leaf_key: text("k") }
    }

    #[test]
    fn what_is_put_in_is_read_back() {
        for made in [sample(None), sample(Some("n"))] {
            assert_eq!(material(&with(None, "tls", &made)), Some(made));
        }
    }

    #[test]
    fn foreign_fields_and_the_resource_version_stay_and_a_used_next_key_goes() {
        let mut before = with(None, "tls", &sample(Some("n")));
        before.metadata.resource_version = Some("7".to_owned());
        before.data.as_mut().unwrap().insert("note".to_owned(), ByteString(vec![1]));
        let after = with(Some(&before), "tls", &sample(None));
        assert_eq!(after.metadata.resource_version.as_deref(), Some("7"));
        assert!(after.data.as_ref().unwrap().contains_key("note"));
        assert_eq!(material(&after), Some(sample(None)));
    }

    #[test]
    fn incomplete_secret_holds_nothing() {
        let mut secret = with(None, "tls", &sample(None));
        secret.data.as_mut().unwrap().remove(LEAF_KEY);
        assert_eq!(material(&secret), None);
        assert_eq!(material(&Secret::default()), None);
    }
}
