//! `lab`: the world that Sidetrack lives in, for as long as a command or a shell runs.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use lab::app::App;
use lab::flux::Repository;
use lab::load::{Counts, Load, Plan};
use lab::namespace::Namespace;
use lab::parts::{Helm, Part};
use lab::sample::{Sample, Traffic};
use lab::{Lab, Wanted, gateway, istio, prometheus};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(about = "Flux, meshes, metrics and real pods around Sidetrack, in a network namespace", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build or fetch every part that is missing
    Build,
    /// Start the lab and run a command in it, or a shell; everything ends with it
    Up {
        /// Parts to start beside control plane, pods and Sidetrack; all of them without this
        #[arg(long, value_delimiter = ',')]
        with: Option<Vec<Part>>,
        /// The command and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Play the story of a good release and two bad ones, with real requests and metrics
    Demo {
        /// Through which gateway
        #[arg(value_enum)]
        traffic: Traffic,
    },
    /// Measure what releases cost those who ask, through both gateways; takes minutes
    Bench {
        /// Where the figures are written to
        #[arg(long, default_value = "target/bench-traffic.json")]
        out: PathBuf,
    },
    /// Be the sample application
    App(App),
    /// Print the sample application's manifests: Namespace, Deployment and Canary
    Sample {
        #[command(flatten)]
        sample: SampleArgs,
    },
    /// Commit the sample application, or YAML files, to a source that Flux applies
    Commit {
        #[command(flatten)]
        sample: SampleArgs,
        /// Name of the source
        #[arg(long, default_value = "app")]
        repository: String,
        /// Files to commit instead of the sample
        files: Vec<PathBuf>,
    },
    /// Send requests to the sample application, and print who answered
    Load {
        /// Namespace of the application
        #[arg(long, default_value = "test")]
        namespace: String,
        /// Through which gateway
        #[arg(long, value_enum, default_value_t = Traffic::Istio)]
        traffic: Traffic,
        /// Requests a second
        #[arg(long, default_value_t = 100)]
        rate: u32,
        /// Most requests
        #[arg(long, default_value_t = 100_000)]
        count: u64,
        /// Longest time, in seconds
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
}

#[derive(clap::Args)]
struct SampleArgs {
    /// The version
    #[arg(default_value = "v1")]
    version: String,
    /// The namespace
    #[arg(long, default_value = "test")]
    namespace: String,
    /// Through which gateway it is reached
    #[arg(long, value_enum, default_value_t = Traffic::Istio)]
    traffic: Traffic,
    /// Number of pods
    #[arg(long, default_value_t = 2)]
    replicas: u32,
    /// A variable of its container, NAME=VALUE: FAIL_PERCENT, DELAY_MS, READY_AFTER, REFUSE_READINESS, CRASH_AFTER
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
}

impl SampleArgs {
    fn objects(&self) -> Result<Vec<serde_json::Value>> {
        let mut sample = Sample::new(&self.namespace, self.traffic);
        sample.replicas = Some(self.replicas);
        for variable in &self.env {
            let (name, value) = variable.split_once('=').context("--env takes NAME=VALUE")?;
            sample = sample.env(name, value);
        }
        Ok(sample.objects(&self.version))
    }
}

fn main() -> Result<ExitCode> {
    match Cli::parse().command {
        Command::Build => {
            ground::build_all()?;
            Part::ALL.into_iter().try_for_each(Part::prepare)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Up { with, command } => {
            let parts = with.unwrap_or_else(|| Part::ALL.to_vec());
            let wanted = Wanted::new(&parts, &env::current_exe()?)?;
            wanted.prepare()?;
            // Before there is a second thread.
            let namespace = Namespace::enter()?;
            runtime()?.block_on(up(wanted, namespace, &command))
        }
        Command::Demo { traffic } => {
            let wanted = Wanted::new(&lab::demo::parts(traffic), &env::current_exe()?)?;
            wanted.prepare()?;
            let namespace = Namespace::enter()?;
            runtime()?.block_on(play(wanted, namespace, async |lab| lab::demo::play(lab, traffic).await))
        }
        Command::Bench { out } => {
            let mut wanted = Wanted::new(&lab::bench::PARTS, &env::current_exe()?)?;
            wanted.drain = lab::bench::DRAIN;
            wanted.prepare()?;
            let namespace = Namespace::enter()?;
            runtime()?.block_on(play(wanted, namespace, async |lab| lab::bench::run(lab, &out).await))
        }
        Command::App(app) => runtime()?.block_on(lab::app::run(app)),
        Command::Sample { sample } => {
            for object in sample.objects()? {
                println!("---\n{}", serde_json::to_string_pretty(&object)?);
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Commit { sample, repository, files } => {
            runtime()?.block_on(commit(&sample, repository, &files))
        }
        Command::Load { namespace, traffic, rate, count, seconds } => {
            let plan = Plan {
                to: traffic.address().parse()?,
                host: Sample::new(&namespace, traffic).host(),
                rate,
                count,
                time: Duration::from_secs(seconds),
            };
            runtime()?.block_on(load(plan))
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

async fn up(wanted: Wanted, namespace: Namespace, command: &[OsString]) -> Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let start = Instant::now();
    let lab = tokio::select! {
        lab = Lab::start(wanted, namespace) => lab?,
        _ = terminate.recv() => return Ok(ExitCode::FAILURE),
        _ = interrupt.recv() => return Ok(ExitCode::FAILURE),
    };
    eprintln!("lab: up in {:.1} s", start.elapsed().as_secs_f64());
    let shell = env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
    let (program, args) = match command.split_first() {
        Some((program, args)) => (program, args),
        None => {
            tell(&lab);
            (&shell, &[][..])
        }
    };
    let path = env::var_os("PATH").unwrap_or_default();
    let kubectl = ground::Part::Kubectl.path()?;
    let own = env::current_exe()?;
    let mut programs = vec![kubectl, own];
    if lab.parts.contains(&Part::Helm) {
        for helm in Helm::ALL {
            programs.push(helm.program().path()?);
        }
    }
    let folders = programs.iter().filter_map(|file| file.parent().map(PathBuf::from));
    // In the terminal's foreground group, for a shell to have its keys; the namespace's guard ends it if we cannot.
    let mut child = tokio::process::Command::new(program)
        .args(args)
        .env("KUBECONFIG", lab.cp.kubeconfig("admin"))
        .env("LAB_DIR", lab.dir())
        .env("PATH", env::join_paths(folders.chain(env::split_paths(&path)))?)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("running {}", program.display()))?;
    let status = loop {
        tokio::select! {
            status = child.wait() => break Some(status?),
            _ = terminate.recv() => break None,
            // Ctrl-C is the shell's, and a command gets it from the terminal itself.
            _ = interrupt.recv() => {}
        }
    };
    drop(child);
    drop(lab);
    let code = status.and_then(|status| status.code()).and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

async fn play(
    wanted: Wanted,
    namespace: Namespace,
    story: impl AsyncFn(&Lab) -> Result<()>,
) -> Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let whole = async {
        let start = Instant::now();
        let mut lab = Lab::start(wanted, namespace).await?;
        eprintln!("lab: up in {:.1} s", start.elapsed().as_secs_f64());
        let played = story(&lab).await;
        if played.is_err() {
            lab.keep_logs();
        }
        played
    };
    tokio::select! {
        played = whole => played.map(|()| ExitCode::SUCCESS),
        _ = terminate.recv() => Ok(ExitCode::FAILURE),
        _ = interrupt.recv() => Ok(ExitCode::FAILURE),
    }
}

/// Says where everything is.
fn tell(lab: &Lab) {
    eprintln!("\nEverything below is reached from this shell only; it ends with the shell.\n");
    eprintln!("  API server     {}  (KUBECONFIG is set, kubectl is in PATH)", lab.cp.url());
    for part in &lab.parts {
        match part {
            Part::Istio => eprintln!(
                "  Istio gateway  http://{}  (Envoy's admin: http://{})",
                istio::ADDRESS,
                istio::ADMIN
            ),
            Part::Gateway => {
                eprintln!(
                    "  Gateway API    http://{}  (Traefik's API: http://{}/api)",
                    gateway::ADDRESS,
                    gateway::ADMIN
                );
            }
            Part::Prometheus => eprintln!("  Prometheus     {}/api/v1/query?query=up", prometheus::url()),
            Part::Flux => eprintln!("  Flux           kubectl -n flux-system get kustomizations"),
            Part::Helm => eprintln!("  Helm           helm3, helm4"),
        }
    }
    eprintln!("  Logs           {}", lab.dir().join("logs").display());
    eprintln!(
        "\n  lab commit v1                            Flux applies the sample application, its Canary with it"
    );
    eprintln!(
        "  lab load --seconds 600 &                 100 requests a second, by the version that answered"
    );
    eprintln!("  lab commit v2                            a good release");
    eprintln!("  lab commit v3 --env FAIL_PERCENT=10      a bad one");
    eprintln!("  kubectl -n test get canary app -w\n");
}

async fn commit(sample: &SampleArgs, name: String, files: &[PathBuf]) -> Result<ExitCode> {
    let dir = env::var_os("LAB_DIR").context("LAB_DIR is not set: commit from inside the lab (`lab up`)")?;
    let client = kube::Client::try_default().await?;
    let repository = Repository::new(&name);
    let mut tree = std::collections::BTreeMap::new();
    for file in files {
        let name = file.file_name().and_then(|name| name.to_str()).context("a file without name")?;
        tree.insert(name.to_owned(), fs::read_to_string(file).with_context(|| file.display().to_string())?);
    }
    if files.is_empty() {
        for object in sample.objects()? {
            let kind = object.get("kind").and_then(|kind| kind.as_str()).unwrap_or_default().to_lowercase();
            tree.insert(format!("{kind}.yaml"), serde_json::to_string_pretty(&object)?);
        }
    }
    repository.create(&client).await?;
    println!("{}", repository.commit(&client, dir.as_ref(), &tree).await?);
    Ok(ExitCode::SUCCESS)
}

async fn load(plan: Plan) -> Result<ExitCode> {
    let load = Load::start(plan)?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut told = 0;
    while !load.is_over() {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            _ = interrupt.recv() => break,
        }
        let samples = load.so_far();
        println!("{}", line(&Counts::of(samples.get(told..).unwrap_or_default())));
        told = samples.len();
    }
    println!("in all: {}", line(&Counts::of(&load.stop().await)));
    Ok(ExitCode::SUCCESS)
}

fn line(counts: &Counts) -> String {
    let versions: Vec<String> =
        counts.by_version.iter().map(|(version, count)| format!("{version} {count:>4}")).collect();
    format!("{}  failed {}", versions.join("  "), counts.failed)
}
