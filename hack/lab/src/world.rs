//! The whole of it: started together, ended together.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ground::{ControlPlane, DataDir, Options, Server, User, say};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::flux::{self, Flux};
use crate::kubelet::{Image, Kubelet};
use crate::namespace::Namespace;
use crate::parts::Part;
use crate::{gateway, istio, prometheus, sidetrack};

/// How long a part may take to come up; ten times what it takes on a busy machine with two cores.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a lab is made of.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The parts beside control plane, pods and Sidetrack.
    pub parts: Vec<Part>,
    /// Time between a route that leaves pods and their end.
    pub drain: Duration,
    /// The `lab` program, which is also the sample application.
    pub lab: PathBuf,
    /// The `sidetrack` program.
    pub sidetrack: PathBuf,
}

impl Wanted {
    /// Returns a lab whose programs are those of a cargo build: `sidetrack` is looked for beside `lab`.
    ///
    /// # Errors
    /// When there is no `sidetrack`.
    pub fn new(parts: &[Part], lab: &Path) -> Result<Self> {
        let sidetrack = lab.with_file_name("sidetrack");
        if !sidetrack.exists() {
            bail!("there is no {}: run `cargo build --package sidetrack`", sidetrack.display());
        }
        Ok(Self { parts: parts.to_vec(), drain: Duration::from_secs(1), lab: lab.to_owned(), sidetrack })
    }

    /// Builds or fetches what is missing; to be done before the namespace is entered, which no network reaches.
    ///
    /// # Errors
    /// When a build or download fails.
    pub fn prepare(&self) -> Result<()> {
        use ground::Part as Ground;
        ground::build(&[Ground::Etcd, Ground::ApiServer, Ground::ControllerManager, Ground::Kubectl])?;
        self.parts.iter().try_for_each(|part| part.prepare())
    }
}

/// A running lab. Everything in it ends with this value.
pub struct Lab {
    // In this order they are dropped: who writes goes before who stores, the namespace last.
    kubelet: Option<Kubelet>,
    flux: Option<tokio::sync::Mutex<Flux>>,
    servers: Vec<Server>,
    /// The control plane.
    pub cp: ControlPlane,
    /// What is in it.
    pub parts: Vec<Part>,
    dir: DataDir,
    sidetrack: PathBuf,
    _namespace: Namespace,
}

impl Lab {
    /// Starts everything, and waits until it works.
    ///
    /// # Errors
    /// When a part does not come up; the message names the logs, which are kept.
    pub async fn start(wanted: Wanted, namespace: Namespace) -> Result<Self> {
        let dir = DataDir::create()?;
        let logs = dir.path.join("logs");
        let mut crds = sidetrack::crds()?;
        for part in &wanted.parts {
            crds.extend(part.crds()?);
        }
        let masters = ["kubelet", "istiod", "traefik"].map(User::master);
        let cp = ControlPlane::start(Options {
            crds,
            kwok: false,
            users: masters
                .into_iter()
                .chain([User::service_account(flux::NAMESPACE, "kustomize-controller")])
                .collect(),
            log_dir: Some(logs.clone()),
            // Webhooks are called at the pods' addresses: there is no kube-proxy to serve a Service's.
            api_server_args: vec!["--enable-aggregator-routing=true".to_owned()],
            ..Options::default()
        })
        .await?;
        let mut lab = Self {
            kubelet: None,
            flux: None,
            servers: Vec::new(),
            cp,
            parts: wanted.parts.clone(),
            dir,
            sidetrack: wanted.sidetrack.clone(),
            _namespace: namespace,
        };
        if let Err(error) = lab.complete(&wanted, &logs).await {
            lab.keep_logs();
            return Err(error)
                .with_context(|| format!("the lab did not come up; its logs are in {}", logs.display()));
        }
        Ok(lab)
    }

    async fn complete(&mut self, wanted: &Wanted, logs: &Path) -> Result<()> {
        let dir = self.dir.path.clone();
        let cp = &self.cp;
        let client = cp.client_as("kubelet");
        self.kubelet =
            Some(Kubelet::start(client, cp.url(), cp.ca_pem(), images(wanted), logs.join("pods")).await?);
        sidetrack::install(cp, wanted.drain).await?;
        let mut addresses = Vec::new();
        for part in &wanted.parts {
            match part {
                Part::Istio => {
                    self.servers.extend(istio::start(cp, &dir, logs).await?);
                    addresses.extend([istio::ADDRESS, istio::ADMIN]);
                }
                Part::Gateway => {
                    self.servers.extend(gateway::start(cp, &dir, logs).await?);
                    for template in gateway::metric_templates() {
                        cp.apply(template).await?;
                    }
                    addresses.extend([gateway::ADDRESS, gateway::ADMIN]);
                }
                Part::Prometheus => {
                    self.servers.extend(prometheus::start(&dir, logs)?);
                    addresses.push(prometheus::ADDRESS);
                }
                Part::Flux => {
                    self.flux = Some(Flux::start(cp, &dir, logs).await?.into());
                    addresses.push(flux::HEALTH);
                }
                Part::Helm => {}
            }
        }
        sidetrack::wait(cp).await?;
        for address in addresses {
            self.listens(address).await?;
        }
        Ok(())
    }

    /// Waits until somebody listens at an address of ours.
    async fn listens(&mut self, address: &str) -> Result<()> {
        let (start, to) = (Instant::now(), address.parse()?);
        while TcpStream::connect_timeout(&to, Duration::from_secs(1)).is_err() {
            for server in &mut self.servers {
                if let Some(status) = server.ended() {
                    bail!("{} ended ({status}); its last words:\n{}", server.name, server.last_words());
                }
            }
            if start.elapsed() > PATIENCE {
                bail!("nobody listens at {address}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Returns the directory of the lab's files: `logs`, with `pods` in it, and what is committed.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir.path
    }

    /// Returns Flux.
    ///
    /// # Errors
    /// When it is no part of this lab.
    pub fn flux(&self) -> Result<&tokio::sync::Mutex<Flux>> {
        self.flux.as_ref().context("this lab has no Flux")
    }

    /// Kills each process of Sidetrack in this lab with SIGKILL; its kubelet starts them again.
    ///
    /// # Errors
    /// When there is none, or one cannot be killed.
    pub fn kill_sidetrack(&self) -> Result<()> {
        let own = std::fs::read_link("/proc/thread-self/ns/net")?;
        let is_one = |process: &Path| {
            std::fs::read_link(process.join("exe")).is_ok_and(|program| program == self.sidetrack)
                && std::fs::read_link(process.join("ns/net")).is_ok_and(|namespace| namespace == own)
        };
        let all = std::fs::read_dir("/proc")?.flatten().map(|entry| entry.path());
        let pids: Vec<i32> = all
            .filter(|process| is_one(process))
            .filter_map(|process| process.file_name()?.to_str()?.parse().ok())
            .collect();
        if pids.is_empty() {
            bail!("no process runs {}", self.sidetrack.display());
        }
        for pid in pids {
            kill(Pid::from_raw(pid), Signal::SIGKILL).with_context(|| format!("killing {pid}"))?;
        }
        Ok(())
    }

    /// Leaves the logs when the lab ends.
    pub fn keep_logs(&mut self) {
        self.dir.keep();
        say(&format!("lab: logs are in {}", self.dir.path.join("logs").display()));
    }

    /// Returns each server's name and process id, for measuring what it takes.
    #[must_use]
    pub fn processes(&self) -> Vec<(String, u32)> {
        let own = self.servers.iter().map(|server| (server.name.clone(), server.pid()));
        self.cp.processes().into_iter().chain(own).collect()
    }
}

/// What runs in place of the images that manifests here name.
fn images(wanted: &Wanted) -> Vec<Image> {
    vec![
        Image {
            name: "sidetrack",
            program: wanted.sidetrack.clone(),
            before: Vec::new(),
            after: vec!["--webhook-bind=$(POD_IP):9443".to_owned(), "--address=$(POD_IP)".to_owned()],
            api: true,
        },
        Image {
            name: "app",
            program: wanted.lab.clone(),
            before: vec!["app".to_owned()],
            after: Vec::new(),
            api: false,
        },
    ]
}
