//! Ways to the API server: clients, kubeconfigs, kubectl, server-side apply.

use std::fs;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::core::{DynamicObject, GroupVersionKind, TypeMeta};
use kube::discovery::{Scope, pinned_kind};
use kube::{Client, Config, ResourceExt};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::audit::Audit;
use crate::control_plane::ControlPlane;
use crate::crds::parse_yaml;
use crate::parts::Part;
use crate::users::{ADMIN, AUDITOR, token};
use crate::wait::eventually;
use crate::{FIELD_MANAGER, go};

impl ControlPlane {
    /// Returns a client of the user: one of [`Options::users`](crate::Options::users), a ServiceAccount by its user name
    /// (`system:serviceaccount:NAMESPACE:NAME`, with the rights that RBAC gives it), or any other name, which then has every
    /// right. Each call makes a client of its own, as a client works only while the runtime lives that it was made in.
    ///
    /// # Panics
    /// Outside a tokio runtime, or when the name cannot be in an HTTP header.
    #[must_use]
    #[expect(clippy::panic, reason = "a test that names no valid user cannot go on")]
    pub fn client_as(&self, user: &str) -> Client {
        match self.config_as(user).and_then(|config| Ok(Client::try_from(config)?)) {
            Ok(client) => client,
            Err(error) => panic!("no client for {user}: {error:#}"),
        }
    }

    /// Returns the client configuration of the user, to change before making a client of it.
    ///
    /// # Errors
    /// Never for a name of ours; the type leaves room for authentication data that cannot be read.
    pub fn config_as(&self, user: &str) -> Result<Config> {
        let mut config = self.config.clone();
        config.auth_info = serde_json::from_value(self.users.auth_info(user))?;
        Ok(config)
    }

    /// Returns the API server's address, `https://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the certificate that the API server's is signed by, as PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Writes a kubeconfig of the user, see [`client_as`](Self::client_as), and returns where it is.
    ///
    /// # Panics
    /// When the file cannot be written.
    #[must_use]
    #[expect(clippy::panic, reason = "a test whose data directory is gone cannot go on")]
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        match self.write_kubeconfig(user) {
            Ok(path) => path,
            Err(error) => panic!("no kubeconfig for {user}: {error:#}"),
        }
    }

    pub(crate) fn write_kubeconfig(&self, user: &str) -> Result<PathBuf> {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "ground",
            "clusters": [{ "name": "ground", "cluster": {
                "server": self.url, "certificate-authority": self.dir.path.join("ca.crt"),
            } }],
            "users": [{ "name": user, "user": self.users.auth_info(user) }],
            "contexts": [{ "name": "ground", "context": { "cluster": "ground", "user": user } }],
        });
        let name: String = user.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let path = self.dir.path.join(format!("kubeconfig-{name}"));
        // Renamed into place, so that nobody who was given the path before reads half a file.
        let partial = self.dir.path.join(format!("kubeconfig-{name}.{}", token()));
        fs::write(&partial, serde_json::to_vec_pretty(&config)?)?;
        fs::rename(&partial, &path).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// Returns a kubectl command of the admin, killed when its handle is dropped.
    ///
    /// # Panics
    /// As [`kubeconfig`](Self::kubeconfig).
    #[must_use]
    pub fn kubectl(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.args(args).env("KUBECONFIG", self.kubeconfig(ADMIN)).kill_on_drop(true);
        command
    }

    /// Runs kubectl as the admin and returns what it said, whether it succeeded or not.
    ///
    /// # Errors
    /// When it cannot be run.
    pub async fn run_kubectl(&self, args: &[&str]) -> Result<Output> {
        self.kubectl(args).output().await.context("running kubectl")
    }

    /// Creates a namespace, `prefix-` with a random end, and returns its name. With ServiceAccount admission it waits for
    /// the namespace's `default` ServiceAccount, without which no pod can be created.
    ///
    /// # Errors
    /// When the API server refuses, a name that is no DNS label for instance.
    pub async fn namespace(&self, prefix: &str) -> Result<String> {
        let client = self.client();
        let namespace =
            serde_json::from_value(json!({ "metadata": { "generateName": format!("{prefix}-") } }))?;
        let api: Api<Namespace> = Api::all(client.clone());
        let name =
            api.create(&PostParams::default(), &namespace).await.context("creating a namespace")?.name_any();
        let accounts: Api<ServiceAccount> = Api::namespaced(client, &name);
        if self.service_account_admission {
            let has_account = async || Ok(accounts.get_opt("default").await?);
            eventually("the namespace has its default ServiceAccount", Duration::from_secs(30), has_account)
                .await?;
        }
        Ok(name)
    }

    /// Returns a reader of the audit log. Bound to the present runtime, as a client is.
    #[must_use]
    pub fn audit(&self) -> Audit {
        Audit { log: self.audited.then(|| self.audit_log()), client: self.client_as(AUDITOR) }
    }

    /// Applies objects as the admin, with the field manager `ground`; see [`apply_as`](Self::apply_as).
    ///
    /// # Errors
    /// As [`apply_as`](Self::apply_as).
    pub async fn apply(&self, manifests: impl Into<Manifests>) -> Result<Vec<DynamicObject>> {
        self.apply_as(ADMIN, FIELD_MANAGER, manifests).await
    }

    /// Applies objects by forced server-side apply, in order, as `user` and with the field manager `manager`; returns them
    /// as the API server then has them. An object of a namespaced kind without a namespace goes to `default`.
    ///
    /// # Errors
    /// When a manifest cannot be read, its kind is not served, or the API server refuses it.
    pub async fn apply_as(
        &self,
        user: &str,
        manager: &str,
        manifests: impl Into<Manifests>,
    ) -> Result<Vec<DynamicObject>> {
        let objects = match manifests.into() {
            Manifests::Yaml(text) => parse_yaml(&text)?,
            Manifests::Object(object) => vec![object],
        };
        let client = self.client_as(user);
        let params = PatchParams::apply(manager).force();
        let mut applied = Vec::new();
        for object in objects {
            let types: TypeMeta = serde_json::from_value(object.clone()).context("an object without kind")?;
            let kind = GroupVersionKind::try_from(&types)?;
            let (resource, capabilities) = pinned_kind(&client, &kind)
                .await
                .with_context(|| format!("looking up {} {}", kind.version, kind.kind))?;
            let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
            let name = text("/metadata/name").context("an object without name")?.to_owned();
            let api: Api<DynamicObject> = if capabilities.scope == Scope::Namespaced {
                Api::namespaced_with(
                    client.clone(),
                    text("/metadata/namespace").unwrap_or("default"),
                    &resource,
                )
            } else {
                Api::all_with(client.clone(), &resource)
            };
            let result = api.patch(&name, &params, &Patch::Apply(&object)).await;
            applied.push(result.with_context(|| format!("applying {} {name}", kind.kind))?);
        }
        Ok(applied)
    }
}

/// Objects to apply: a YAML text of any number of documents, or one object.
#[derive(Clone, Debug)]
pub enum Manifests {
    /// YAML documents.
    Yaml(String),
    /// One object.
    Object(Value),
}

impl From<&str> for Manifests {
    fn from(text: &str) -> Self {
        Self::Yaml(text.to_owned())
    }
}

impl From<String> for Manifests {
    fn from(text: String) -> Self {
        Self::Yaml(text)
    }
}

impl From<Value> for Manifests {
    fn from(object: Value) -> Self {
        Self::Object(object)
    }
}

/// Builds what is missing of everything: each part and the CustomResourceDefinitions of each router.
///
/// # Errors
/// As [`crate::build`] and [`RouterCrds::load`](crate::RouterCrds::load).
pub fn build_all() -> Result<()> {
    go::build(&Part::ALL)?;
    for router in crate::RouterCrds::ALL {
        router.load()?;
    }
    Ok(())
}
