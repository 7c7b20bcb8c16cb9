//! Scenarios of the lab: real Flux, real gateways, requests counted where they are answered. All share one lab, each has a namespace
//! and a repository of its own; those that take something down run alone, at the end.
//!
//! A runner of its own, as everything has to be inside a namespace before there is a second thread. Arguments: names of scenarios, or
//! parts of them; all without any. Environment: `LAB_TABLE=FILE` writes what happened as a table.

mod flux;
mod helm;
mod kubectl;
mod life;
mod outages;
mod stage;
mod traffic;
mod waves;
mod writer;

use std::fmt::Write as _;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::StreamExt;
use lab::namespace::Namespace;
use lab::parts::Part;
use lab::{Lab, Wanted};

/// Scenarios that run side by side: they mostly wait, but load and pods take processor time.
const AT_ONCE: usize = 4;
/// No scenario takes half as long.
const LONGEST: Duration = Duration::from_secs(240);

type Run = fn(Arc<Lab>) -> Pin<Box<dyn Future<Output = Result<Rows>>>>;

/// What happened, and in which situation where a scenario plays several.
struct Rows(Vec<(Option<String>, String)>);

impl From<String> for Rows {
    fn from(happened: String) -> Self {
        Self(vec![(None, happened)])
    }
}

/// One scenario; its result is a sentence on what happened, or one a situation.
struct Scenario {
    name: &'static str,
    situation: &'static str,
    alone: bool,
    run: Run,
}

macro_rules! scenario {
    ($module:ident :: $name:ident, $situation:literal) => {
        scenario!($module::$name, $situation, false)
    };
    ($module:ident :: $name:ident, $situation:literal, alone) => {
        scenario!($module::$name, $situation, true)
    };
    ($module:ident :: $name:ident, $situation:literal, $alone:literal) => {
        Scenario {
            name: stringify!($name),
            situation: $situation,
            alone: $alone,
            run: |lab| Box::pin(async { $module::$name(lab).await.map(Rows::from) }),
        }
    };
}

fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(traffic::release_through_istio, "a good v2 at 100 requests/s through Istio"),
        scenario!(traffic::failing_release_through_istio, "a v2 that fails 10 % of requests"),
        scenario!(traffic::slow_release_through_istio, "a v2 that is a second slower"),
        scenario!(traffic::release_through_gateway_api, "a good v2 at 100 requests/s through Gateway API"),
        scenario!(traffic::failing_release_through_gateway_api, "a v2 that fails 10 %, through Gateway API"),
        scenario!(traffic::release_through_traefik, "a good v2 at 100 requests/s through a TraefikService"),
        scenario!(traffic::failing_release_through_traefik, "a v2 that fails 10 %, through a TraefikService"),
        scenario!(flux::same_revision_again, "the same revision, re-applied at each interval"),
        scenario!(flux::newer_revision_during_analysis, "v3 while v2 is analysed"),
        scenario!(flux::revert_during_analysis, "v2 reverted while it is analysed"),
        scenario!(flux::wait_true_succeeds, "`wait: true`, Canary in the same Kustomization, good v2"),
        scenario!(flux::wait_true_fails, "`wait: true`, v2 is never ready"),
        scenario!(flux::replicas_in_git, "`replicas` changed in Git"),
        scenario!(flux::replicas_and_autoscaler, "`replicas` and an HPA in Git"),
        scenario!(flux::deployment_deleted_in_git, "the Deployment deleted in Git, then put back as v2"),
        scenario!(flux::immutable_field_with_force, "a new selector, `force: true`"),
        scenario!(flux::two_kustomizations, "two Kustomizations that both own the Deployment"),
        scenario!(kubectl::as_typed, "kubectl"),
        scenario!(kubectl::owners_wishes, "kubectl, beside releases"),
        scenario!(helm::helm3_release, "Helm 3"),
        scenario!(helm::helm4_release, "Helm 4"),
        scenario!(helm::helm3_waits, "Helm 3 with `--wait`"),
        scenario!(helm::helm4_waits, "Helm 4 with `--wait`"),
        scenario!(helm::helm4_waits_for_the_canary, "Helm 4 with `--wait` and the Canary in the chart"),
        scenario!(outages::webhook_down, "webhook down while Flux applies v2", alone),
        scenario!(outages::flux_killed, "kustomize-controller killed while v2 is analysed", alone),
        scenario!(outages::sidetrack_killed, "both replicas of Sidetrack killed at weight", alone),
        scenario!(waves::one_source_three_clusters, "one commit, three clusters in waves", alone),
        scenario!(life::owner_killed, "the lab's own process killed with SIGKILL", alone),
    ]
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool> {
    let filters: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let mut chosen = scenarios();
    chosen.retain(|s| filters.is_empty() || filters.iter().any(|filter| s.name.contains(filter)));
    let wanted = Wanted::new(&Part::ALL, env!("CARGO_BIN_EXE_lab").as_ref())?;
    wanted.prepare()?;
    // For the clusters beside the lab's own.
    ground::build(&[ground::Part::Kwok])?;
    let namespace = Namespace::enter()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let start = Instant::now();
        let lab = Arc::new(Lab::start(wanted, namespace).await?);
        println!("lab: up in {:.1} s", start.elapsed().as_secs_f64());
        let (alone, together): (Vec<_>, Vec<_>) = chosen.into_iter().partition(|s| s.alone);
        let mut results: Vec<_> =
            futures::stream::iter(together).map(|s| play(s, lab.clone())).buffered(AT_ONCE).collect().await;
        for scenario in alone {
            results.push(play(scenario, lab.clone()).await);
        }
        let passed = results.iter().filter(|(_, result)| result.is_ok()).count();
        let failed = results.len() - passed;
        println!("memory: {}", stage::memory(&lab)?);
        println!(
            "test result: {}. {passed} passed; {failed} failed",
            if failed == 0 { "ok" } else { "FAILED" }
        );
        if let Some(file) = std::env::var_os("LAB_TABLE") {
            std::fs::write(&file, table(&results)).with_context(|| format!("writing {}", file.display()))?;
        }
        if failed > 0
            && let Ok(mut lab) = Arc::try_unwrap(lab)
        {
            lab.keep_logs();
        }
        Ok(failed == 0)
    })
}

async fn play(scenario: Scenario, lab: Arc<Lab>) -> (Scenario, Result<Rows>) {
    let start = Instant::now();
    let played = tokio::time::timeout(LONGEST, (scenario.run)(lab.clone())).await;
    let result = played.unwrap_or_else(|_| Err(anyhow::anyhow!("not over after {} s", LONGEST.as_secs())));
    let seconds = start.elapsed().as_secs_f64();
    // Repositories are called like their scenarios.
    let rests = stage::suspend(&lab, &scenario.name.replace('_', "-")).await;
    let result = result.and_then(|happened| rests.map(|()| happened));
    match &result {
        Ok(Rows(rows)) => {
            println!("test {} ... ok ({seconds:.0} s)", scenario.name);
            for (situation, happened) in rows {
                println!("    {}: {happened}", situation.as_deref().unwrap_or(scenario.situation));
            }
        }
        Err(error) => println!("test {} ... FAILED ({seconds:.0} s): {error:#}", scenario.name),
    }
    (scenario, result)
}

fn table(results: &[(Scenario, Result<Rows>)]) -> String {
    let mut text = "| situation | what happened |\n|---|---|\n".to_owned();
    for (scenario, result) in results {
        let failed = |error| Rows::from(format!("FAILED: {error:#}")).0;
        let rows = result.as_ref().map_or_else(failed, |Rows(rows)| rows.clone());
        for (situation, happened) in rows {
            // Writing to a String does not fail.
            let _ = writeln!(text, "| {} | {happened} |", situation.as_deref().unwrap_or(scenario.situation));
        }
    }
    text
}
