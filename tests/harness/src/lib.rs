//! Sidetrack as its users run it: the binary, under its own ServiceAccount's rights, on a real control plane, with its
//! webhook and admission policies installed. Shared by the scenarios and the benchmark.
pub mod docs;
pub mod flux;
pub mod laws;
pub mod objects;
pub mod oracle;
pub mod outside;
pub mod plugin;
pub mod stage;

use anyhow::{Context, Result, bail, ensure};
use ground::{ControlPlane, Options, RouterCrds, SIDETRACK};
use serde_json::{Value, json};
use sidetrack::admission::configuration::{Endpoint, webhook_configuration};
use sidetrack::admission::{policy_lock, requests, second_lock};
use std::io::Read as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{OnceCell, Semaphore};

/// How long a condition is waited for.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A control plane with Sidetrack installed on it.
pub struct World {
    /// The control plane.
    pub cp: ControlPlane,
    /// Host and port at which the API server asks the webhook.
    pub webhook: String,
}

/// A running `sidetrack run`. It ends with this value, and with the process that holds it, however that ends.
pub struct Sidetrack {
    child: Child,
    pid: PathBuf,
    /// Where its log goes.
    pub log: PathBuf,
    /// Port of metrics and health.
    pub port: u16,
}

/// The checkout.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// Where Cargo built a binary of the project for the test or the benchmark that it runs; its name alone where Cargo does not.
pub fn binary(name: &str) -> PathBuf {
    std::env::var_os(format!("CARGO_BIN_EXE_{name}")).map_or_else(|| name.into(), Into::into)
}

/// A free port of loopback; another process may take it before it is used.
pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).and_then(|l| l.local_addr()).map(|a| a.port()).unwrap_or(0)
}

impl World {
    /// Starts a control plane and installs everything but the process.
    pub async fn start(audit: bool) -> Result<Self> {
        // To start one is work for a processor, what follows is mostly waiting: a dozen at once would time each other out.
        static STARTS: Semaphore = Semaphore::const_new(3);
        let _start = STARTS.acquire().await?;
        let crds = sidetrack::api::crds().iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?;
        let cp = ControlPlane::start(Options {
            crds,
            router_crds: RouterCrds::ALL.to_vec(),
            log_dir: std::env::var_os("SIDETRACK_TEST_LOGS").map(Into::into),
            audit,
            // Autoscalers look each 15 s otherwise.
            controller_manager_args: vec!["--horizontal-pod-autoscaler-sync-period=1s".into()],
            ..Options::default()
        })
        .await?;
        let webhook = format!("127.0.0.1:{}", free_port());
        let world = Self { cp, webhook };
        world.install().await?;
        Ok(world)
    }

    /// Applies manifests/ but for what needs a node, with the webhook reached by URL.
    pub async fn install(&self) -> Result<()> {
        let root = root();
        for file in ["namespace.yaml", "rbac.yaml"] {
            let text = std::fs::read_to_string(root.join("manifests").join(file))?;
            self.cp.apply(text.as_str()).await?;
        }
        self.install_webhook().await?;
        let policies = second_lock::policies(SIDETRACK).into_iter().chain(requests::policies(SIDETRACK));
        for policy in policies.chain(policy_lock::policies(SIDETRACK)) {
            self.cp.apply(policy).await?;
        }
        self.cp.apply(sidetrack::admission::policy_webhooks::empty()).await?;
        Ok(())
    }

    /// Applies the webhook configuration.
    pub async fn install_webhook(&self) -> Result<()> {
        let endpoint = Endpoint::Url { authority: self.webhook.clone() };
        self.cp.apply(webhook_configuration(SIDETRACK, &endpoint, None)).await?;
        Ok(())
    }

    /// Starts `sidetrack run` with quick settings; `more` flags take their place.
    pub fn run(&self, more: &[&str]) -> Result<Sidetrack> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let log = self.cp.logs().join(format!("sidetrack-{n}.log"));
        let pid = self.cp.logs().join(format!("sidetrack-{n}.pid"));
        let port = free_port();
        let file = std::fs::File::create(&log)?;
        // The shell kills what it started when the pipe from here closes, whatever closes it.
        let guard =
            r#"pid=$1; shift; "$@" <&- & echo $! >"$pid"; read -r _; kill -9 $! 2>/dev/null; wait $!"#;
        let quick = [
            "--log-format=text".to_owned(),
            "--min-interval=1s".to_owned(),
            "--drain-delay=200ms".to_owned(),
            format!("--kubeconfig={}", self.cp.kubeconfig(SIDETRACK).display()),
            format!("--webhook-bind={}", self.webhook),
            "--webhook-name=127.0.0.1".to_owned(),
            // Hooks and metrics servers of the tests are beside them.
            "--allow-network=127.0.0.0/8".to_owned(),
            format!("--port={port}"),
        ];
        let name = |flag: &str| flag.split('=').next().unwrap_or_default().to_owned();
        let replaced = |flag: &String| more.iter().any(|m| name(m) == name(flag));
        let child = Command::new("sh")
            .args(["-c", guard, "sh"])
            .arg(&pid)
            .arg(binary("sidetrack"))
            .arg("run")
            .args(quick.iter().filter(|flag| !replaced(flag)))
            .args(more)
            .stdin(Stdio::piped())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .context("cannot start sidetrack")?;
        Ok(Sidetrack { child, pid, log, port })
    }

    /// Waits until the API server reaches the webhook: a Deployment with our label can be created (dry run).
    pub async fn wait_for_webhook(&self) -> Result<()> {
        let mut probe = deployment("default", "v1", 1);
        json_patch::merge(&mut probe, &json!({"metadata": {"labels": {"sidetrack.dev/canary": "probe"}}}));
        let file = self.cp.logs().join("probe.json");
        std::fs::write(&file, probe.to_string())?;
        let file = file.display().to_string();
        eventually("the webhook answers", async || {
            Ok(self.kubectl(&["create", "--dry-run=server", "-f", &file]).await.is_ok().then_some(()))
        })
        .await
    }

    /// Runs kubectl as an administrator and returns what it prints; an error carries what it complains of.
    pub async fn kubectl(&self, args: &[&str]) -> Result<String> {
        let output = self.cp.run_kubectl(args).await?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "kubectl {}: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(text)
    }

    /// Runs kubectl and returns standard output and standard error together, whatever the exit code.
    pub async fn kubectl_says(&self, args: &[&str]) -> Result<String> {
        let output = self.cp.run_kubectl(args).await?;
        Ok(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
    }

    /// Applies as Flux does: a dry run, then server-side apply, both forced, under its field manager.
    pub async fn flux(&self, object: Value) -> Result<()> {
        self.cp.apply_as("flux", "kustomize-controller", object).await?;
        Ok(())
    }

    /// Waits for a phase of Canary `app`.
    pub async fn phase(&self, namespace: &str, phase: &str) -> Result<Value> {
        self.until(namespace, "canary", "app", &format!("phase {phase}"), |c| {
            c.pointer("/status/phase").is_some_and(|p| p == phase)
        })
        .await
    }
}

impl Sidetrack {
    /// The process id of `sidetrack` itself.
    pub fn pid(&self) -> Result<u32> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Ok(text) = std::fs::read_to_string(&self.pid)
                && let Ok(pid) = text.trim().parse()
            {
                return Ok(pid);
            }
            if Instant::now() > end {
                bail!("sidetrack did not start");
            }
            std::thread::yield_now();
        }
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&self) -> bool {
        let Ok(pid) = self.pid() else { return true };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(')').next().is_none_or(|rest| rest.is_empty() || rest.trim_start().starts_with('Z'))
    }

    /// Resident memory now and at its highest, in bytes.
    pub fn memory(&self) -> Result<(u64, u64)> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let kib = |key: &str| {
            status
                .lines()
                .find_map(|l| l.strip_prefix(key)?.split_whitespace().next()?.parse::<u64>().ok())
                .unwrap_or(0)
        };
        Ok((kib("VmRSS:") * 1024, kib("VmHWM:") * 1024))
    }

    /// Ends it as a crash would: SIGKILL.
    pub fn kill(mut self) {
        self.end();
    }

    /// Asks it to end: SIGTERM.
    pub fn terminate(&self) -> Result<()> {
        let status = Command::new("kill").arg("-TERM").arg(self.pid()?.to_string()).status()?;
        ensure!(status.success(), "kill failed");
        Ok(())
    }

    /// Everything that it has logged.
    pub fn logged(&self) -> Result<String> {
        let mut text = String::new();
        std::fs::File::open(&self.log)?.read_to_string(&mut text)?;
        Ok(text)
    }

    fn end(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

impl Drop for Sidetrack {
    fn drop(&mut self) {
        self.end();
    }
}

/// Waits until a condition yields something.
pub async fn eventually<T>(what: &str, condition: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    ground::eventually(what, PATIENCE, condition).await
}

/// A world with one Sidetrack on it, shared by all scenarios of a binary.
#[expect(clippy::panic, reason = "no scenario can go on without it")]
pub async fn shared() -> &'static (World, Sidetrack) {
    static SHARED: OnceCell<(World, Sidetrack)> = OnceCell::const_new();
    let made = SHARED
        .get_or_try_init(|| async {
            let world = World::start(true).await?;
            let sidetrack = world.run(&[])?;
            world.wait_for_webhook().await.with_context(|| sidetrack.logged().unwrap_or_default())?;
            anyhow::Ok((world, sidetrack))
        })
        .await;
    match made {
        Ok(shared) => shared,
        Err(error) => panic!("{error:?}"),
    }
}

/// A Deployment `app`.
pub fn deployment(namespace: &str, version: &str, replicas: i32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "app", "namespace": namespace, "labels": {"app": "app"}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "app"}},
            "template": {
                "metadata": {"labels": {"app": "app"}},
                "spec": {"terminationGracePeriodSeconds": 0, "containers": [
                    {"name": "app", "image": format!("app:{version}"), "ports": [{"containerPort": 8080}]}]},
            },
        },
    })
}

/// Service `app` of its owner: in place requests come by it, and there is no adoption without one.
pub fn service(namespace: &str) -> Value {
    service_of(namespace, "app")
}

/// The same for a Deployment of another name.
pub fn service_of(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]},
    })
}

/// A Canary `app` for it; `spec` is merged over the defaults.
pub fn canary(namespace: &str, spec: &Value) -> Value {
    let mut canary = json!({
        "apiVersion": "flagger.app/v1beta1", "kind": "Canary",
        "metadata": {"name": "app", "namespace": namespace},
        "spec": {
            "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "app"},
            "service": {"port": 80, "targetPort": 8080},
            "progressDeadlineSeconds": 60,
            "analysis": {"interval": "1s", "threshold": 2, "stepWeight": 25, "maxWeight": 50},
        },
    });
    if let Some(target) = canary.get_mut("spec") {
        json_patch::merge(target, spec);
    }
    canary
}

/// The same in the layout `in-place`.
pub fn in_place(namespace: &str, spec: &Value) -> Value {
    let mut canary = canary(namespace, spec);
    let layout = json!({"metadata": {"annotations": {"sidetrack.dev/layout": "in-place"}}});
    json_patch::merge(&mut canary, &layout);
    canary
}

/// The image of a Deployment's first container.
pub fn image(deployment: &Value) -> &str {
    deployment.pointer("/spec/template/spec/containers/0/image").and_then(Value::as_str).unwrap_or_default()
}

/// The canary's weight in VirtualService `app`.
pub fn weight(virtual_service: &Value) -> Option<i64> {
    virtual_service.pointer("/spec/http/0/route/1/weight").and_then(Value::as_i64)
}

/// A value in an object; `Null` when it is not there.
pub fn at<'a>(object: &'a Value, pointer: &str) -> &'a Value {
    object.pointer(pointer).unwrap_or(&Value::Null)
}

/// Makes a namespace with v1 and its Canary, and waits for `Initialized`.
pub async fn initialized(name: &str, spec: &Value) -> Result<String> {
    let (world, _) = shared().await;
    let ns = world.cp.namespace(name).await?;
    world.flux(deployment(&ns, "v1", 2)).await?;
    world.cp.apply(canary(&ns, spec)).await?;
    world.phase(&ns, "Initialized").await?;
    Ok(ns)
}
