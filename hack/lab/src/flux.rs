//! Flux: its kustomize-controller, unmodified, and a source to commit to.
//!
//! The source stands in for Git and source-controller. A commit is an archive served over HTTP, and a suspended GitRepository whose
//! status names it: that status is all that kustomize-controller knows of Git.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::extract::{Path as UrlPath, State};
use axum::routing::get;
use ground::{ControlPlane, Launch, Server};
use http::StatusCode;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::clock::now;
use crate::parts::kustomize_controller;

/// The namespace of Flux and its objects.
pub const NAMESPACE: &str = "flux-system";
/// The user that Flux writes as.
pub const USER: &str = "system:serviceaccount:flux-system:kustomize-controller";

/// Where the source's archives are served.
const ARTIFACTS: &str = "10.244.0.5:80";
/// Where kustomize-controller says that it runs.
pub(crate) const HEALTH: &str = "10.244.0.5:9440";

/// The running controller and source.
#[derive(Debug)]
pub struct Flux {
    /// kustomize-controller; none while it is stopped.
    controller: Option<Server>,
    launch: Launch,
    source: JoinHandle<()>,
}

impl Flux {
    pub(crate) async fn start(cp: &ControlPlane, dir: &Path, logs: &Path) -> Result<Self> {
        cp.apply(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } }))
            .await?;
        // As Flux is installed: it may do everything.
        cp.apply(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": { "name": "cluster-reconciler-flux-system" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
            "subjects": [{ "kind": "ServiceAccount", "name": "kustomize-controller", "namespace": NAMESPACE }],
        }))
        .await?;
        let archives = dir.join("artifacts");
        std::fs::create_dir_all(&archives)?;
        let tmp = dir.join("flux-tmp");
        std::fs::create_dir_all(&tmp)?;
        let listener = TcpListener::bind(ARTIFACTS).await.context("serving archives")?;
        let app = Router::new().route("/{name}", get(archive)).with_state(archives);
        let source = tokio::spawn(async move {
            // Ends with the lab only.
            let _ = axum::serve(listener, app).await;
        });
        let args = [
            "--watch-all-namespaces=true",
            "--metrics-addr=10.244.0.5:8080",
            "--health-addr=10.244.0.5:9440",
            "--interval-jitter-percentage=0",
            "--concurrent=20",
            "--log-level=info",
        ];
        let env = [
            ("KUBECONFIG", cp.kubeconfig(USER).display().to_string()),
            ("RUNTIME_NAMESPACE", NAMESPACE.to_owned()),
            ("TMPDIR", tmp.display().to_string()),
            ("HOME", tmp.display().to_string()),
        ];
        let launch = Launch {
            name: "kustomize-controller".to_owned(),
            program: kustomize_controller().path()?,
            args: args.map(str::to_owned).to_vec(),
            env: Some(env.map(|(key, value)| (key.to_owned(), value)).to_vec()),
            dir: dir.to_owned(),
            log: logs.join("kustomize-controller.log"),
        };
        Ok(Self { controller: Some(Server::start(&launch)?), launch, source })
    }

    /// Kills kustomize-controller and starts it again.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart(&mut self) -> Result<()> {
        self.controller = None;
        self.controller = Some(Server::start(&self.launch)?);
        Ok(())
    }

    /// Returns its process, if it runs.
    #[must_use]
    pub fn controller(&self) -> Option<&Server> {
        self.controller.as_ref()
    }
}

impl Drop for Flux {
    fn drop(&mut self) {
        self.source.abort();
    }
}

async fn archive(
    State(archives): State<PathBuf>,
    UrlPath(name): UrlPath<String>,
) -> Result<Vec<u8>, StatusCode> {
    if name.contains('/') {
        return Err(StatusCode::NOT_FOUND);
    }
    tokio::fs::read(archives.join(name)).await.map_err(|_| StatusCode::NOT_FOUND)
}

/// One source and the Kustomization that applies it; both have the same name, in [`NAMESPACE`].
#[derive(Clone, Debug)]
pub struct Repository {
    /// The name.
    pub name: String,
    /// Kustomization's `spec` beyond source, path and the defaults here.
    pub settings: Value,
}

impl Repository {
    /// Returns a repository that Flux looks at every five seconds, with prune on.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), settings: json!({}) }
    }

    /// Sets fields of the Kustomization's `spec`, such as `wait`.
    #[must_use]
    pub fn with(mut self, settings: Value) -> Self {
        self.settings = settings;
        self
    }

    /// Returns both objects.
    #[must_use]
    pub fn objects(&self) -> [Value; 2] {
        let mut spec = json!({
            "interval": "5s", "retryInterval": "5s", "timeout": "5m", "prune": true, "force": true, "path": "./",
            "sourceRef": { "kind": "GitRepository", "name": self.name },
        });
        if let (Some(spec), Value::Object(settings)) = (spec.as_object_mut(), self.settings.clone()) {
            spec.extend(settings);
        }
        let metadata = json!({ "name": self.name, "namespace": NAMESPACE });
        [
            json!({
                "apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "GitRepository", "metadata": metadata,
                // Nobody but `commit` is to look after it.
                "spec": { "interval": "1h", "suspend": true, "url": "https://git.invalid/lab.git" },
            }),
            json!({
                "apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization",
                "metadata": metadata, "spec": spec,
            }),
        ]
    }

    /// Makes both objects, or changes them to what they are here.
    ///
    /// # Errors
    /// When the API server refuses one.
    pub async fn create(&self, client: &Client) -> Result<()> {
        let [source, kustomization] = self.objects();
        let params = PatchParams::apply("lab").force();
        api(client, "source.toolkit.fluxcd.io", "GitRepository", "gitrepositories")
            .patch(&self.name, &params, &Patch::Apply(source))
            .await?;
        api(client, "kustomize.toolkit.fluxcd.io", "Kustomization", "kustomizations")
            .patch(&self.name, &params, &Patch::Apply(kustomization))
            .await?;
        Ok(())
    }

    /// Publishes a tree of files, by their names, as the newest commit; returns the revision as Flux writes it. `dir` is the
    /// lab's directory.
    ///
    /// # Errors
    /// When the source does not exist or `tar` fails.
    pub async fn commit(
        &self,
        client: &Client,
        dir: &Path,
        files: &BTreeMap<String, String>,
    ) -> Result<String> {
        // As in Git, where a revert is a commit of its own.
        let mut hasher = Sha256::new_with_prefix(now().to_string());
        for (name, text) in files {
            hasher.update(name.as_bytes());
            hasher.update([0]);
            hasher.update(text.as_bytes());
            hasher.update([0]);
        }
        let commit = hex(&hasher.finalize()).chars().take(40).collect::<String>();
        let archives = dir.join("artifacts");
        let tree = archives.join(format!("{}-{commit}", self.name));
        std::fs::create_dir_all(&tree)?;
        for (name, text) in files {
            std::fs::write(tree.join(name), text)?;
        }
        let file = format!("{}-{commit}.tar.gz", self.name);
        let status = Command::new("tar")
            .args(["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "-czf"])
            .arg(archives.join(&file))
            .arg("-C")
            .arg(&tree)
            .arg(".")
            .status()
            .context("running tar")?;
        ensure!(status.success(), "tar failed");
        std::fs::remove_dir_all(&tree)?;
        let bytes = std::fs::read(archives.join(&file))?;
        let revision = format!("main@sha1:{commit}");
        let at = now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let status = json!({ "status": {
            "artifact": {
                "path": file, "url": format!("http://{ARTIFACTS}/{file}"), "revision": revision,
                "digest": format!("sha256:{}", hex(&Sha256::digest(&bytes))), "size": bytes.len(), "lastUpdateTime": at,
            },
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "Succeeded", "message": format!("stored artifact for {revision}"),
                "lastTransitionTime": at, "observedGeneration": 1,
            }],
            "observedGeneration": 1,
        } });
        api(client, "source.toolkit.fluxcd.io", "GitRepository", "gitrepositories")
            .patch_status(&self.name, &PatchParams::default(), &Patch::Merge(&status))
            .await
            .with_context(|| format!("committing to GitRepository {}", self.name))?;
        Ok(revision)
    }
}

fn api(client: &Client, group: &str, kind: &str, plural: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk(group, "v1", kind);
    Api::namespaced_with(client.clone(), NAMESPACE, &ApiResource::from_gvk_with_plural(&kind, plural))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
