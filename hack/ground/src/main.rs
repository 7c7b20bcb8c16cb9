//! `ground`: a real Kubernetes control plane, for as long as a command runs or until Ctrl-C.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::{env, fs};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use ground::{ControlPlane, Options, Part, RouterCrds, SIDETRACK};
use tokio::signal::unix::{SignalKind, signal};

mod hook;

#[derive(Parser)]
#[command(about = "A real Kubernetes control plane on loopback, with fake pods", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build etcd, the API server, the controller manager, kubectl and KWOK, and fetch the routers' CRDs; what is there stays
    Build,
    /// Start a control plane and keep it until Ctrl-C
    Up(Ground),
    /// Answer HTTP on loopback with 200, or with 403 while a file exists: a hook for demos
    Hook {
        /// Port to listen on
        #[arg(long)]
        port: u16,
        /// The file
        #[arg(long, value_name = "FILE")]
        deny_while: PathBuf,
    },
    /// Print a free port of loopback
    Port,
    /// Start a control plane, run a command with KUBECONFIG and PATH set, then end everything
    Exec {
        #[command(flatten)]
        ground: Ground,
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
}

#[derive(Args)]
struct Ground {
    /// Install Istio's VirtualService and DestinationRule
    #[arg(long)]
    istio: bool,
    /// Install the Gateway API, standard channel
    #[arg(long)]
    gateway_api: bool,
    /// Install SMI's TrafficSplit
    #[arg(long)]
    smi: bool,
    /// Install the CustomResourceDefinitions of a YAML file; may be given several times
    #[arg(long, value_name = "FILE")]
    crds: Vec<PathBuf>,
    /// Do without the fake node: pods stay Pending
    #[arg(long)]
    no_pods: bool,
    /// Turn the ServiceAccount admission plugin on
    #[arg(long)]
    service_account_admission: bool,
    /// Write the servers' logs here and leave them, rather than with the data
    #[arg(long, value_name = "DIR")]
    log_dir: Option<PathBuf>,
}

impl Ground {
    fn options(self) -> Result<Options> {
        let chosen = [
            (self.istio, RouterCrds::Istio),
            (self.gateway_api, RouterCrds::GatewayApi),
            (self.smi, RouterCrds::Smi),
        ];
        let mut crds = Vec::new();
        for file in &self.crds {
            let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
            crds.extend(ground::parse_yaml(&text).with_context(|| format!("parsing {}", file.display()))?);
        }
        Ok(Options {
            crds,
            router_crds: chosen.into_iter().filter_map(|(wanted, crds)| wanted.then_some(crds)).collect(),
            kwok: !self.no_pods,
            service_account_admission: self.service_account_admission,
            log_dir: self.log_dir.map(std::path::absolute).transpose()?,
            ..Options::default()
        })
    }
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    match Cli::parse().command {
        Command::Build => {
            tokio::task::spawn_blocking(ground::build_all).await??;
            for part in Part::ALL {
                println!("{}", part.path()?.display());
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Hook { port, deny_while } => {
            tokio::task::spawn_blocking(move || hook::serve(port, &deny_while)).await??;
            Ok(ExitCode::SUCCESS)
        }
        Command::Port => {
            println!("{}", std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port());
            Ok(ExitCode::SUCCESS)
        }
        Command::Up(ground) => up(ground.options()?).await,
        Command::Exec { ground, command } => exec(ground.options()?, &command).await,
    }
}

async fn up(options: Options) -> Result<ExitCode> {
    let mut end = EndSignals::new()?;
    let Some(control_plane) = start(options, &mut end).await? else { return Ok(ExitCode::SUCCESS) };
    let kubectl = Part::Kubectl.path()?;
    println!("export KUBECONFIG={}", control_plane.kubeconfig("admin").display());
    println!("export PATH={}:$PATH", kubectl.parent().unwrap_or(&kubectl).display());
    println!(
        "# The API server is {}, its logs are in {}.",
        control_plane.url(),
        control_plane.logs().display()
    );
    println!("# Sidetrack's own rights: KUBECONFIG={}", control_plane.kubeconfig(SIDETRACK).display());
    println!("# Ctrl-C ends it and removes its data.");
    end.wait().await;
    control_plane.stop().await;
    Ok(ExitCode::SUCCESS)
}

async fn exec(options: Options, command: &[OsString]) -> Result<ExitCode> {
    let mut end = EndSignals::new()?;
    let Some(control_plane) = start(options, &mut end).await? else { return Ok(ExitCode::FAILURE) };
    let (program, args) = command.split_first().context("no command")?;
    let kubectl = Part::Kubectl.path()?;
    let kubectl_dir = kubectl.parent().map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(kubectl_dir.into_iter().chain(env::split_paths(&path)))?;
    let mut child = tokio::process::Command::new(program)
        .args(args)
        .env("KUBECONFIG", control_plane.kubeconfig("admin"))
        .env("SIDETRACK_KUBECONFIG", control_plane.kubeconfig(SIDETRACK))
        .env("PATH", path)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("running {}", program.display()))?;
    let status = tokio::select! {
        status = child.wait() => Some(status?),
        () = end.wait() => None,
    };
    control_plane.stop().await;
    let code = status.and_then(|status| status.code()).and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Starts a control plane, or returns none when told to end meanwhile.
async fn start(options: Options, end: &mut EndSignals) -> Result<Option<ControlPlane>> {
    tokio::select! {
        result = ControlPlane::start(options) => result.map(Some),
        () = end.wait() => Ok(None),
    }
}

/// Ctrl-C, or a polite request to end.
struct EndSignals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl EndSignals {
    fn new() -> Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
