//! Starting and stopping a control plane.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use kube::api::DeleteParams;
use kube::{Api, Client, Config};
use serde_json::json;

use crate::audit::POLICY;
use crate::binder::{Binder, NODE};
use crate::crds::install;
use crate::data::DataDir;
use crate::go::{build, say};
use crate::options::Options;
use crate::parts::Part;
use crate::server::{Launch, Server};
use crate::users::{ADMIN, BINDER, CONTROLLER_MANAGER, KWOK, Users};
use crate::{FIELD_MANAGER, certificates};

const STAGES: &str = include_str!("../../kwok/stages.yaml");

/// How long a step of the start may take; ten times what it takes on a busy machine with two cores.
const STEP: Duration = Duration::from_secs(60);

/// How often a start is tried when another process takes the port between choosing and using it.
const TRIES: u32 = 5;

/// A running control plane: etcd, kube-apiserver and kube-controller-manager on loopback, with KWOK as the kubelet of
/// one fake node. Everything ends with this value, or with the process that has it, however that ends.
pub struct ControlPlane {
    // In this order they are dropped: who writes goes before who stores, the directory last.
    _binder: Option<Binder>,
    servers: Mutex<Vec<Server>>,
    pub(crate) users: Users,
    pub(crate) config: Config,
    pub(crate) url: String,
    pub(crate) ca_pem: String,
    pub(crate) audited: bool,
    pub(crate) service_account_admission: bool,
    pub(crate) kubectl: PathBuf,
    pub(crate) logs: PathBuf,
    pub(crate) dir: DataDir,
}

impl ControlPlane {
    /// Starts a control plane, building the parts first when they are missing (minutes, once; see [`crate::build`]).
    /// When it returns, every CustomResourceDefinition is served, controllers run, and pods become ready.
    ///
    /// # Errors
    /// When a part cannot be built or does not come up; the message names the logs, which are kept.
    pub async fn start(options: Options) -> Result<Self> {
        let mut parts = vec![Part::Etcd, Part::ApiServer, Part::ControllerManager, Part::Kubectl];
        if options.kwok {
            parts.push(Part::Kwok);
        }
        let crds = options.crds.clone();
        let routers = options.router_crds.clone();
        let crds = tokio::task::spawn_blocking(move || {
            build(&parts)?;
            routers.into_iter().try_fold(crds, |mut all, router| {
                all.extend(router.load()?);
                anyhow::Ok(all)
            })
        })
        .await??;
        let mut tried = 1;
        let mut control_plane = loop {
            match Self::serve(&options).await {
                Err(error) if tried < TRIES && error.is::<PortTaken>() => tried += 1,
                result => break result?,
            }
        };
        if let Err(error) = control_plane.complete(&options, crds).await {
            control_plane.dir.keep();
            let logs = control_plane.logs.display();
            return Err(error)
                .with_context(|| format!("the control plane did not come up; its logs are in {logs}"));
        }
        Ok(control_plane)
    }

    /// Starts etcd and the API server and waits until it is ready.
    async fn serve(options: &Options) -> Result<Self> {
        let dir = DataDir::create()?;
        let logs = options.log_dir.clone().unwrap_or_else(|| dir.path.join("logs"));
        fs::create_dir_all(&logs).with_context(|| format!("creating {}", logs.display()))?;
        let (ca_pem, ca_der) = certificates::write(&dir.path)?;
        let users = Users::new(&options.users);
        fs::write(dir.path.join("users.csv"), users.token_file())?;
        fs::write(dir.path.join("audit-policy.json"), POLICY)?;

        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let url = format!("https://127.0.0.1:{port}");
        let mut config = Config::new(url.parse()?);
        config.root_cert = Some(vec![ca_der]);
        // An answer of "too many requests" is the test's to see, and its retry may take minutes.
        config.default_retry = false;
        config.headers.push((http::header::USER_AGENT, http::HeaderValue::from_static(FIELD_MANAGER)));

        let mut control_plane = Self {
            _binder: None,
            servers: Mutex::default(),
            users,
            config,
            url,
            ca_pem,
            audited: options.audit,
            service_account_admission: options.service_account_admission,
            kubectl: Part::Kubectl.path()?,
            logs,
            dir,
        };
        let result = control_plane.start_store_and_api(options, port).await;
        if let Err(error) = result {
            if error.is::<PortTaken>() {
                return Err(error);
            }
            control_plane.dir.keep();
            let logs = control_plane.logs.display();
            return Err(error)
                .with_context(|| format!("the API server did not come up; its logs are in {logs}"));
        }
        Ok(control_plane)
    }

    async fn start_store_and_api(&mut self, options: &Options, port: u16) -> Result<()> {
        self.spawn(Part::Etcd, etcd_args())?;
        let socket = self.dir.path.join("etcd.sock");
        self.until("etcd listens", async || Ok(socket.exists())).await?;
        let audit_log = options.audit.then(|| self.audit_log());
        self.spawn(Part::ApiServer, api_server_args(&self.dir.path, port, options, audit_log.as_deref()))?;
        self.until_served().await
    }

    async fn until_served(&self) -> Result<()> {
        let client = self.client();
        self.until("the API server is ready", async || {
            let request = http::Request::get("/readyz").body(Vec::new())?;
            Ok(client.request_text(request).await.is_ok())
        })
        .await
    }

    /// Ends the API server as a crash would: its clients find nobody, what is stored stays.
    pub fn crash_api_server(&self) {
        let mut servers = self.servers();
        servers.iter_mut().filter(|s| s.name == Part::ApiServer.binary()).for_each(Server::kill);
    }

    /// Starts the API server again at the same address, after [`Self::crash_api_server`], and waits until it is ready.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn restart_api_server(&self) -> Result<()> {
        for server in self.servers().iter_mut().filter(|s| s.name == Part::ApiServer.binary()) {
            server.restart()?;
        }
        self.until_served().await
    }

    fn servers(&self) -> MutexGuard<'_, Vec<Server>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts everything that is a client of the API server and waits until it works.
    async fn complete(&mut self, options: &Options, crds: Vec<serde_json::Value>) -> Result<()> {
        let kubeconfig = self.write_kubeconfig(CONTROLLER_MANAGER)?;
        let args = controller_manager_args(&self.dir.path, &kubeconfig, options);
        self.spawn(Part::ControllerManager, args)?;
        if options.kwok {
            fs::write(self.dir.path.join("stages.yaml"), STAGES)?;
            let kubeconfig = self.write_kubeconfig(KWOK)?;
            self.spawn(Part::Kwok, kwok_args(&self.dir.path, &kubeconfig))?;
            let node = json!({
                "apiVersion": "v1", "kind": "Node",
                "metadata": { "name": NODE, "labels": { "kubernetes.io/hostname": NODE } },
            });
            self.apply(node).await.context("creating the node")?;
            self._binder = Some(Binder::start(self.config_as(BINDER)?)?);
        }
        let client = self.client();
        install(&client, crds).await?;
        // What the controller manager and KWOK make first shows that they watch.
        let accounts: Api<ServiceAccount> = Api::default_namespaced(client.clone());
        self.until("the controller manager runs", async || Ok(accounts.get_opt("default").await?.is_some()))
            .await?;
        if options.kwok {
            let nodes: Api<Node> = Api::all(client.clone());
            self.until("the node is ready", async || {
                Ok(nodes.get(NODE).await.is_ok_and(|node| is_ready(&node)))
            })
            .await?;
            self.give_first_address(client).await?;
        }
        Ok(())
    }

    /// Runs one pod alone, then removes it.
    ///
    /// KWOK 0.8 makes its pool of addresses for the first pod, and when several are first at once, several pools, of which
    /// one remains: pods get the same address, then and later.
    async fn give_first_address(&self, client: Client) -> Result<()> {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "first-address", "namespace": "default" },
            "spec": { "nodeName": NODE, "containers": [{ "name": "none", "image": "none" }] },
        });
        self.apply(pod).await.context("creating the first pod")?;
        let pods: Api<Pod> = Api::default_namespaced(client);
        self.until("the first pod has an address", async || {
            let status = pods.get("first-address").await?.status;
            Ok(status.is_some_and(|status| status.pod_ip.is_some()))
        })
        .await?;
        pods.delete("first-address", &DeleteParams::default().grace_period(0)).await?;
        Ok(())
    }

    fn spawn(&mut self, part: Part, args: Vec<String>) -> Result<()> {
        let launch = Launch {
            name: part.binary().to_owned(),
            program: part.path()?,
            args,
            env: None,
            dir: self.dir.path.clone(),
            log: self.logs.join(format!("{}.log", part.binary())),
        };
        self.servers().insert(0, Server::start(&launch)?);
        Ok(())
    }

    /// Waits until `done`, or fails when a server ends meanwhile.
    async fn until(&self, what: &str, mut done: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
        let start = Instant::now();
        loop {
            for server in self.servers().iter_mut() {
                if let Some(status) = server.ended() {
                    let words = server.last_words();
                    if words.contains("address already in use") {
                        return Err(PortTaken.into());
                    }
                    bail!("{} ended ({status}); {} ends in:\n{words}", server.name, server.log.display());
                }
            }
            if done().await? {
                return Ok(());
            }
            if start.elapsed() > STEP {
                bail!("waited {} s in vain until {what}", STEP.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Returns the processes by name, for measuring what they take.
    #[must_use]
    pub fn processes(&self) -> Vec<(String, u32)> {
        self.servers().iter().rev().map(|server| (server.name.clone(), server.pid())).collect()
    }

    /// Returns the directory of the servers' logs.
    #[must_use]
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    pub(crate) fn audit_log(&self) -> PathBuf {
        self.logs.join("audit.log")
    }

    /// Stops everything and removes the data. Dropping the value does the same.
    #[expect(clippy::unused_async, reason = "callers await it, as they do start")]
    pub async fn stop(self) {
        drop(self);
    }

    /// Returns a client of the admin.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client_as(ADMIN)
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.dir.keep();
            say(&format!("ground: the control plane's logs are in {}", self.logs.display()));
        }
    }
}

/// Another process took the port between our choosing it and the API server's using it.
#[derive(Debug)]
struct PortTaken;

impl std::fmt::Display for PortTaken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the chosen port was taken meanwhile, several times in a row")
    }
}

impl std::error::Error for PortTaken {}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// A socket in the data directory rather than a port: nobody else can take it.
fn etcd_args() -> Vec<String> {
    strings(&[
        "--data-dir=etcd",
        "--unsafe-no-fsync",
        "--listen-client-urls=unix://etcd.sock",
        "--advertise-client-urls=unix://etcd.sock",
        "--listen-peer-urls=unix://peer.sock",
        "--initial-advertise-peer-urls=unix://peer.sock",
        "--initial-cluster=default=unix://peer.sock",
        "--log-level=warn",
    ])
}

fn api_server_args(dir: &Path, port: u16, options: &Options, audit_log: Option<&Path>) -> Vec<String> {
    let mut args = strings(&[
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        "--endpoint-reconciler-type=none",
        "--service-cluster-ip-range=10.0.0.0/16",
        "--authorization-mode=RBAC",
        "--token-auth-file=users.csv",
        "--tls-cert-file=server.crt",
        "--tls-private-key-file=server.key",
        "--service-account-key-file=tokens.pub",
        "--service-account-signing-key-file=tokens.key",
        "--service-account-issuer=https://kubernetes.default.svc",
    ]);
    args.push(format!("--secure-port={port}"));
    args.push(format!("--etcd-servers=unix://{}", dir.join("etcd.sock").display()));
    args.push(format!("--cert-dir={}", dir.join("generated").display()));
    if !options.service_account_admission {
        args.push("--disable-admission-plugins=ServiceAccount".to_owned());
    }
    if let Some(log) = audit_log {
        args.extend(strings(&["--audit-policy-file=audit-policy.json", "--audit-log-maxsize=100000"]));
        args.push(format!("--audit-log-path={}", log.display()));
    }
    args.extend(options.api_server_args.iter().cloned());
    args
}

fn controller_manager_args(dir: &Path, kubeconfig: &Path, options: &Options) -> Vec<String> {
    let mut args = strings(&[
        "--controllers=*,-nodeipam,-node-lifecycle-controller",
        "--leader-elect=false",
        "--use-service-account-credentials=false",
        "--secure-port=0",
        "--kube-api-qps=400",
        "--kube-api-burst=800",
    ]);
    args.push(format!("--kubeconfig={}", kubeconfig.display()));
    args.push(format!("--root-ca-file={}", dir.join("ca.crt").display()));
    args.push(format!("--service-account-private-key-file={}", dir.join("tokens.key").display()));
    args.extend(options.controller_manager_args.iter().cloned());
    args
}

fn kwok_args(dir: &Path, kubeconfig: &Path) -> Vec<String> {
    let mut args = strings(&[
        "--manage-all-nodes",
        "--node-ip=10.244.0.1",
        "--cidr=10.244.0.1/16",
        "--node-lease-duration-seconds=0",
    ]);
    args.push(format!("--kubeconfig={}", kubeconfig.display()));
    args.push(format!("--config={}", dir.join("stages.yaml").display()));
    args
}

fn strings(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| (*arg).to_owned()).collect()
}
