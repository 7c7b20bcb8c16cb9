//! The story with real traffic: Flux applies, requests are counted by the version that answered, metrics decide.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kube::Client;
use serde_json::Value;

use crate::Lab;
use crate::flux::Repository;
use crate::load::{Counts, Load, Plan};
use crate::parts::Part;
use crate::sample::{Sample, Traffic, WINDOW};

/// The namespace that it plays in.
const NAMESPACE: &str = "test";
/// Requests a second.
const RATE: u32 = 100;
/// How long each chapter may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Width of the bar.
const BAR: usize = 40;

/// Returns the parts that the story needs.
#[must_use]
pub const fn parts(traffic: Traffic) -> [Part; 3] {
    let router = match traffic {
        Traffic::Istio => Part::Istio,
        Traffic::Gateway | Traffic::Traefik => Part::Gateway,
    };
    [router, Part::Prometheus, Part::Flux]
}

/// Plays it on a lab.
///
/// # Errors
/// When a release does not end as it should.
pub async fn play(lab: &Lab, traffic: Traffic) -> Result<()> {
    let story = Story {
        client: lab.cp.client_as("person"),
        lab,
        repository: Repository::new("app"),
        good: Sample::new(NAMESPACE, traffic),
        colour: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
    };
    let router = match traffic {
        Traffic::Istio => "Envoy, which istiod tells what Sidetrack writes into a VirtualService",
        Traffic::Gateway => "Traefik, which reads what Sidetrack writes into an HTTPRoute",
        Traffic::Traefik => "Traefik, which reads what Sidetrack writes into a TraefikService",
    };
    story.say(
        "1. Git has v1 and a Canary for it; Flux applies both, Sidetrack makes the primary and the routes",
    );
    println!("   {} through {router}", story.good.host());
    story.repository.create(&story.client).await?;
    story.commit(&story.good, "v1").await?;
    story.until("Initialized", None).await?;
    story.events().await?;

    let load = Load::start(Plan {
        to: traffic.address().parse()?,
        host: story.good.host(),
        rate: RATE,
        count: 100_000,
        time: 4 * PATIENCE,
    })?;
    story.say("2. v2 is good: its weight rises while success rate and duration of its requests are right");
    story.commit(&story.good, "v2").await?;
    story.until("Succeeded", Some((&load, "v2"))).await?;

    story.calm(&load, "v2").await?;
    story.say("3. v3 fails 10 % of its requests: their success rate says so");
    story.commit(&story.good.clone().env("FAIL_PERCENT", 10), "v3").await?;
    story.until("Failed", Some((&load, "v3"))).await?;
    story.halts().await?;

    story.calm(&load, "v2").await?;
    story.say("4. v4 takes a second longer: the duration of its requests says so");
    story.commit(&story.good.clone().env("DELAY_MS", 1000), "v4").await?;
    story.until("Failed", Some((&load, "v4"))).await?;
    story.halts().await?;

    let requests = load.stop().await;
    story.say("What the requests say");
    for version in Counts::of(&requests).by_version.keys() {
        // Those that nobody answered have no version.
        let of_version =
            Counts::of(requests.iter().filter(|r| r.version == version.trim_start_matches("none")));
        println!(
            "   {version} answered {:>5} of {} requests, {:>3} failed",
            of_version.total,
            requests.len(),
            of_version.failed
        );
    }
    Ok(())
}

struct Story<'a> {
    lab: &'a Lab,
    client: Client,
    repository: Repository,
    good: Sample,
    colour: bool,
}

impl Story<'_> {
    fn say(&self, text: &str) {
        if self.colour { println!("\n\x1b[1m{text}\x1b[0m") } else { println!("\n{text}") }
    }

    async fn commit(&self, sample: &Sample, version: &str) -> Result<()> {
        let mut tree = BTreeMap::new();
        for object in sample.objects(version) {
            let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
            tree.insert(format!("{kind}.yaml"), object.to_string());
        }
        self.repository.commit(&self.client, self.lab.dir(), &tree).await?;
        Ok(())
    }

    async fn get(&self, path: &str) -> Result<Value> {
        let request = http::Request::get(path).body(Vec::new())?;
        match self.client.request(request).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(Value::Null),
            answer => answer.with_context(|| format!("reading {path}")),
        }
    }

    /// Waits until the release of `version` has ended with a phase, a line each second.
    async fn until(&self, phase: &str, release: Option<(&Load, &str)>) -> Result<()> {
        let start = Instant::now();
        let mut told = release.map_or(0, |(load, _)| load.so_far().len());
        let mut begun = release.is_none();
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let path = format!("/apis/flagger.app/v1beta1/namespaces/{NAMESPACE}/canaries/app");
            let canary = self.get(&path).await?;
            let now = canary.pointer("/status/phase").and_then(Value::as_str).unwrap_or("-");
            begun |= now == "Progressing";
            if let Some((load, version)) = release {
                let samples = load.so_far();
                let counts = Counts::of(samples.get(told..).unwrap_or_default());
                told = samples.len();
                let weight = canary.pointer("/status/canaryWeight").and_then(Value::as_i64).unwrap_or(0);
                self.line(start.elapsed().as_secs(), weight, &counts, version, now);
            }
            if begun && now == phase {
                return Ok(());
            }
            if start.elapsed() > PATIENCE {
                bail!("the Canary did not become {phase}: {canary:#}");
            }
        }
    }

    /// Lets the primary answer alone for as long as the queries look back: they know workloads, not revisions.
    async fn calm(&self, load: &Load, version: &str) -> Result<()> {
        let told = load.so_far().len();
        println!("   ({} s of traffic on the primary alone)", WINDOW.as_secs());
        tokio::time::sleep(WINDOW).await;
        let samples = load.so_far();
        let counts = Counts::of(samples.get(told..).unwrap_or_default());
        self.line(WINDOW.as_secs(), 0, &counts, version, "");
        Ok(())
    }

    fn line(&self, second: u64, weight: i64, counts: &Counts, version: &str, phase: &str) {
        let new = counts.version(version);
        let full = (new * BAR).checked_div(counts.total).unwrap_or(0);
        let bar = format!("{}{}", "█".repeat(full), "░".repeat(BAR - full.min(BAR)));
        let bar = if self.colour { format!("\x1b[32m{bar}\x1b[0m") } else { bar };
        let versions: Vec<String> =
            counts.by_version.iter().map(|(version, count)| format!("{version} {count}")).collect();
        println!(
            "  {second:>3} s  weight {weight:>3}  {bar}  {:<18} failed {:>2}  {phase}",
            versions.join("  "),
            counts.failed
        );
        // Somebody who pipes it wants to see it live as well.
        let _ = std::io::stdout().flush();
    }

    async fn messages(&self) -> Result<Vec<String>> {
        let path =
            format!("/api/v1/namespaces/{NAMESPACE}/events?fieldSelector=involvedObject.kind%3DCanary");
        let events = self.get(&path).await?;
        let mut items: Vec<&Value> =
            events.pointer("/items").and_then(Value::as_array).into_iter().flatten().collect();
        items.sort_by_key(|event| event.get("lastTimestamp").and_then(Value::as_str));
        Ok(items.iter().filter_map(|event| event.get("message")?.as_str()).map(str::to_owned).collect())
    }

    async fn events(&self) -> Result<()> {
        for message in self.messages().await? {
            println!("   {message}");
        }
        Ok(())
    }

    /// Prints why the last release was halted.
    async fn halts(&self) -> Result<()> {
        let messages = self.messages().await?;
        for message in messages.iter().rev().filter(|message| message.starts_with("Halt")).take(1) {
            println!("   {message}");
        }
        Ok(())
    }
}
