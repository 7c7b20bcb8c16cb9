//! `sidetrack run`: the composition root. It makes the parts, connects them, and ends when one of them does.

use crate::admission;
use crate::api::keys;
use crate::controller::reach::Reach;
use crate::controller::{self, Setup};
use crate::kubernetes::client;
use crate::kubernetes::election::{Election, Leadership, identity};
use crate::kubernetes::lease;
use crate::kubernetes::serve::{Limits, Shutdown, serve_plain, serve_tls};
use crate::rollout::subject::Config;
use crate::router::served;
use crate::telemetry::health::{self, Readiness, Signal};
use crate::telemetry::log::{self, Format};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::supervise::{Delays, Supervisor, termination};
use crate::tls::{self, files, issue, keep, resolver};
use anyhow::Context as _;
use clap::Args;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Pause between two readings of certificate files.
const FILES_INTERVAL: Duration = Duration::from_secs(30);
/// Pause between two looks for the first certificate.
const CERTIFICATE_AWAITED: Duration = Duration::from_millis(50);
/// Pause between two looks at whether it is valid.
const CERTIFICATE_WATCHED: Duration = Duration::from_secs(1);
/// Time that requests under way have after the drain.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// Flags of `sidetrack run`. Those that Flagger has mean the same; of a flag given twice the last counts, as in Go.
#[derive(Args, Debug)]
#[command(args_override_self = true)]
pub struct RunArgs {
    /// Path of a kubeconfig; without it `$KUBECONFIG`, then the pod's ServiceAccount.
    #[arg(long, env = "SIDETRACK_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig.
    #[arg(long)]
    pub context: Option<String>,
    /// Restrict the controller to one namespace.
    #[arg(long, default_value = "")]
    pub namespace: String,
    /// Traffic provider of Canaries that name none.
    #[arg(long, default_value = "istio", help = format!("Traffic provider of Canaries that name none: {} or kubernetes", served()))]
    pub mesh_provider: String,
    /// URL of the Prometheus that answers built-in checks and inline queries.
    #[arg(long, default_value = "http://prometheus:9090")]
    pub metrics_server: String,
    /// Further metrics servers that Canaries and MetricTemplates may name, as HOST or HOST:PORT, comma-separated; without it they may
    /// name any.
    #[arg(long, value_delimiter = ',')]
    pub metrics_servers: Vec<String>,
    /// Networks, such as 127.0.0.0/8, that hooks and metrics servers may be in although they are of the controller itself, of its node
    /// or of the API server; comma-separated.
    #[arg(long, value_delimiter = ',')]
    pub allow_network: Vec<ipnet::IpNet>,
    /// Refuse Canaries that name a MetricTemplate or an AlertProvider of another namespace.
    #[arg(long, action = clap::ArgAction::Set, num_args = 0..=1, default_value_t = false, default_missing_value = "true")]
    pub no_cross_namespace_refs: bool,
    /// Least severity that is logged: debug, info, warn or error.
    #[arg(long, default_value = "info")]
    pub log_level: String,
    /// Form of log lines: json, or text for people.
    #[arg(long, default_value = "json", value_parser = ["json", "text"])]
    pub log_format: String,
    /// Port of /metrics, /healthz and /readyz.
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// Address of /metrics, /healthz and /readyz.
    #[arg(long, default_value = "0.0.0.0")]
    pub address: std::net::IpAddr,
    /// Let one of several replicas lead; all of them serve the webhook. `false` for a single process only.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub enable_leader_election: bool,
    /// Namespace of the Lease, of the certificate Secret and of the Secrets of other clusters.
    #[arg(long, default_value = keys::NAMESPACE)]
    pub leader_election_namespace: String,
    /// Seconds for which a lease is valid; its holder stops writing after two thirds of them.
    #[arg(long, default_value = "15s", value_parser = super::duration)]
    pub lease_duration: Duration,
    /// Shortest analysis interval; a Canary that asks for less gets this.
    #[arg(long, default_value = "10s", value_parser = super::duration)]
    pub min_interval: Duration,
    /// Time between a route that leaves a backend and the backend's end.
    #[arg(long, default_value = "5s", value_parser = super::duration)]
    pub drain_delay: Duration,
    /// Prefixes of labels of a Deployment that its generated Deployment gets too, comma-separated; `*` for every label.
    #[arg(long, value_delimiter = ',')]
    pub include_label_prefix: Vec<String>,
    /// Releases that may run at once in the whole cluster; 0 for no limit.
    #[arg(long, default_value_t = 0)]
    pub max_concurrent_releases: usize,
    /// Time between a request to end (SIGTERM) and the end, in which the webhook goes on serving.
    #[arg(long, default_value = "5s", value_parser = super::duration)]
    pub shutdown_delay: Duration,
    /// Where the webhook listens.
    #[arg(long, default_value = "0.0.0.0:9443")]
    pub webhook_bind: SocketAddr,
    /// Further names or addresses by which the API server calls the webhook, for its certificate.
    #[arg(long)]
    pub webhook_name: Vec<String>,
    /// Reviews that may be worked on at once; more are answered with 503.
    #[arg(long, default_value_t = admission::server::DEFAULT_LIMIT)]
    pub webhook_limit: usize,
    /// Certificate file (PEM) of the webhook, such as cert-manager's; without it certificates are made and kept in a Secret.
    #[arg(long, requires = "tls_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    /// Key file (PEM) of that certificate.
    #[arg(long, requires = "tls_cert_file")]
    pub tls_key_file: Option<PathBuf>,
    /// User name of the controller, whose writes the webhook lets pass.
    #[arg(long, default_value = keys::CONTROLLER_USER)]
    pub controller_user: String,
}

/// Runs until asked to end.
///
/// # Errors
///
/// When a part cannot be started, or ends by itself.
pub async fn run(args: RunArgs) -> anyhow::Result<()> {
    log::init(if args.log_format == "text" { Format::Text } else { Format::Json }, &args.log_level)?;
    tracing::info!(
        "Starting sidetrack version {} mesh provider {}",
        env!("CARGO_PKG_VERSION"),
        args.mesh_provider
    );
    let settings = client::Settings {
        kubeconfig: args.kubeconfig.clone(),
        context: args.context.clone(),
        ..client::Settings::default()
    };
    let client = client::connect(&settings).await?;
    let api_server = client::addresses(&settings).await?;
    let version = client.apiserver_version().await.context("the API server cannot be reached")?;
    tracing::info!("Connected to Kubernetes API {}", version.git_version);

    let mut metrics = Metrics::new(env!("CARGO_PKG_VERSION"), &args.mesh_provider);
    let admission_metrics = admission::metrics::Metrics::register(metrics.registry());
    let metrics = Arc::new(metrics);
    let mut supervisor = Supervisor::new();
    let mut readiness = Readiness::new(supervisor.drain());
    let served = readiness.signal("webhook certificate");
    let shutdown = Shutdown { drain: supervisor.drain(), stop: supervisor.stop(), deadline: STOP_DEADLINE };

    let leadership = lead(&args, &settings, &metrics, &mut supervisor).await?;
    let resolver = certificates(&args, &client, &leadership, &metrics, &mut supervisor);
    let state = admission::server::AdmissionState::new(
        admission::decide::Settings {
            controller_user: args.controller_user.clone(),
            mesh_provider: args.mesh_provider.clone(),
        },
        admission_metrics,
        args.webhook_limit,
    );
    let webhook = TcpListener::bind(args.webhook_bind)
        .await
        .with_context(|| format!("the webhook cannot listen on {}", args.webhook_bind))?;
    let tls = Arc::new(resolver::server_config(resolver.clone())?);
    let app = admission::server::router(state);
    let webhook_shutdown = shutdown.clone();
    let limits = Limits { shed: metrics.connections_shed(), ..Limits::default() };
    supervisor.spawn("webhook", async move {
        serve_tls(webhook, tls, app, limits, webhook_shutdown).await;
        Ok::<(), Infallible>(())
    });

    let address = SocketAddr::new(args.address, args.port);
    let admin = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    tracing::info!("Starting HTTP server on port {}", args.port);
    let admin_app = health::router(metrics.clone(), readiness);
    supervisor.spawn("metrics", async move {
        serve_plain(admin, admin_app, Limits::default(), shutdown).await;
        Ok::<(), Infallible>(())
    });

    let ready = ready_when_served(resolver, metrics.clone(), served, supervisor.stop());
    supervisor.spawn("readiness", ready);
    let setup = Setup {
        client,
        namespace: Some(args.namespace.clone()).filter(|n| !n.is_empty()),
        config: Arc::new(Config {
            mesh_provider: args.mesh_provider.clone(),
            metrics_server: args.metrics_server.clone(),
            min_interval: args.min_interval,
            drain_delay: args.drain_delay,
            label_prefixes: args.include_label_prefix.clone(),
            max_releases: Some(args.max_concurrent_releases).filter(|n| *n > 0),
            metrics_servers: args.metrics_servers.clone(),
            no_cross_namespace_refs: args.no_cross_namespace_refs,
        }),
        reach: Reach {
            allowed: args.allow_network.clone(),
            api_server,
            metrics_server: args.metrics_server.parse().ok(),
        },
        metrics,
        leadership,
        controller_user: args.controller_user.clone(),
        home: args.leader_election_namespace.clone(),
    };
    let stop = supervisor.stop();
    supervisor.spawn("controller", async move {
        stop.run_until_cancelled(controller::run(setup)).await.unwrap_or(Ok(()))
    });
    let delays = Delays { drain: args.shutdown_delay, ..Delays::default() };
    Ok(supervisor.run(termination()?, delays).await?)
}

/// Contends for the lease, on a connection of its own.
async fn lead(
    args: &RunArgs,
    settings: &client::Settings,
    metrics: &Arc<Metrics>,
    supervisor: &mut Supervisor,
) -> anyhow::Result<Leadership> {
    if !args.enable_leader_election {
        return Ok(Leadership::unchallenged());
    }
    let name = std::env::var("POD_NAME").or_else(|_| std::env::var("HOSTNAME")).unwrap_or("sidetrack".into());
    let lease = lease::Settings {
        lease: args.lease_duration,
        renew_deadline: args.lease_duration * 2 / 3,
        retry: args.lease_duration * 2 / 15,
        ..lease::Settings::new(identity(&name))
    };
    tracing::info!(
        "Starting leader election id: {} lease: sidetrack namespace: {}",
        lease.identity,
        args.leader_election_namespace
    );
    let own = client::connect(settings).await?;
    let election = Election::new(own, &args.leader_election_namespace, "sidetrack", lease)?;
    let leadership = election.leadership();
    let (mut turns, metrics, stop) = (leadership.clone(), metrics.clone(), supervisor.stop());
    supervisor.spawn("leader metric", async move {
        let mut leads = false;
        while let Some(turned) = stop.run_until_cancelled(turns.turned(leads)).await {
            leads = turned;
            metrics.set_leader(leads);
        }
        Ok::<(), Infallible>(())
    });
    let last = supervisor.last();
    supervisor.spawn_last("leader election", election.run(last));
    Ok(leadership)
}

/// Certificates from files, or made here and shared through a Secret.
fn certificates(
    args: &RunArgs,
    client: &kube::Client,
    leadership: &Leadership,
    metrics: &Arc<Metrics>,
    supervisor: &mut Supervisor,
) -> Arc<resolver::Resolver> {
    let resolver = Arc::new(resolver::Resolver::default());
    let (stop, metrics) = (supervisor.stop(), metrics.clone());
    if let (Some(certificate), Some(key)) = (&args.tls_cert_file, &args.tls_key_file) {
        let paths = files::Paths { certificate: certificate.clone(), key: key.clone() };
        let files = files::Files::new(paths, resolver.clone());
        let expires = move |leaf| metrics.set_certificate_expiry(leaf, None);
        supervisor.spawn("certificate files", files.run(FILES_INTERVAL, expires, stop));
        return resolver;
    }
    let settings = keep::Settings {
        namespace: args.leader_election_namespace.clone(),
        secret: "sidetrack-webhook-tls".into(),
        configuration: admission::configuration::NAME.into(),
        names: issue::names("sidetrack", keys::NAMESPACE, &args.webhook_name),
        policy: tls::plan::Policy::default(),
    };
    let expiry = move |expiry: tls::Expiry| metrics.set_certificate_expiry(expiry.leaf, expiry.authority);
    let keeper = keep::Keeper::new(client.clone(), settings, resolver.clone(), leadership.clone(), expiry);
    supervisor.spawn("certificates", keeper.run(stop));
    resolver
}

/// Ready as long as there is a certificate to serve that is valid: without one the API server ends each handshake.
async fn ready_when_served(
    resolver: Arc<resolver::Resolver>,
    metrics: Arc<Metrics>,
    served: Signal,
    stop: CancellationToken,
) -> Result<(), Infallible> {
    let mut was = None;
    loop {
        // The first certificate is awaited; after that only the clock can change what is so.
        let pause = if was.is_none() { CERTIFICATE_AWAITED } else { CERTIFICATE_WATCHED };
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return Ok(());
        }
        let holds = resolver.holds(crate::clock::now());
        if resolver.is_set() && was != Some(holds) {
            was = Some(holds);
            served.set(holds);
            metrics.set_certificate_valid(holds);
            if !holds {
                tracing::error!(
                    "The certificate of the webhook is not valid now: by this clock it is over, or to come"
                );
            }
        }
    }
}
