//! One application behind one gateway, under load from the first chapter to the last.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use ground::eventually;
use kube::Client;
use serde_json::Value;

use crate::Lab;
use crate::bench::RATE;
use crate::bench::figures::{self, Report};
use crate::load::{Load, Plan};
use crate::sample::{Sample, Traffic};
use crate::weights::Weights;

/// How long a chapter may take.
const PATIENCE: Duration = Duration::from_secs(180);
/// How long all chapters may take.
const ALL: Duration = Duration::from_secs(900);

/// A release or more, from the first write to the end.
#[derive(Debug)]
pub(super) struct Chapter {
    pub(super) name: &'static str,
    /// The versions that were applied, in their order.
    pub(super) versions: Vec<String>,
    pub(super) begun: Instant,
    /// When the Canary had said how it ended.
    pub(super) ended: Instant,
}

/// An application, and what is known of it.
pub(super) struct Side<'a> {
    pub(super) sample: Sample,
    lab: &'a Lab,
    client: Client,
    load: Load,
    weights: Weights,
    played: Vec<Chapter>,
}

impl<'a> Side<'a> {
    /// Makes the application at v1, and starts the load.
    pub(super) async fn start(lab: &'a Lab, traffic: Traffic) -> Result<Self> {
        let name = match traffic {
            Traffic::Istio => "bench-istio",
            Traffic::Gateway => "bench-gateway",
            Traffic::Traefik => "bench-traefik",
        };
        let mut sample = Sample::new(name, traffic);
        // With every core busy a gateway was seen to hear of an end after 1.1 s.
        sample.linger = 5;
        let client = lab.cp.client_as("person");
        for object in sample.objects("v1") {
            lab.cp.apply(object).await?;
        }
        phase(&client, &sample, "Initialized").await?;
        let plan = Plan {
            to: traffic.address().parse()?,
            host: sample.host(),
            rate: RATE,
            count: u64::from(RATE) * ALL.as_secs(),
            time: ALL,
        };
        eventually("the gateway answers", PATIENCE, async || {
            let load = Load::start(Plan { count: 1, ..plan.clone() })?;
            Ok(load.stop().await.iter().any(|sample| sample.status == Some(200)).then_some(()))
        })
        .await?;
        let weights = Weights::watch(client.clone(), &sample);
        Ok(Self { sample, lab, client, load: Load::start(plan)?, weights, played: Vec::new() })
    }

    /// Applies a version, with more variables.
    pub(super) async fn deploy(
        &self,
        chapter: &mut Chapter,
        version: &str,
        env: &[(&str, &str)],
    ) -> Result<()> {
        let with = |sample: Sample, (name, value): &(&str, &str)| sample.env(name, value);
        let sample = env.iter().fold(self.sample.clone(), with);
        chapter.versions.push(version.to_owned());
        self.lab.cp.apply(sample.deployment(version)).await.map(drop)
    }

    /// Begins a chapter: this analysis, and the write of a version.
    pub(super) async fn begin(
        &self,
        name: &'static str,
        version: &str,
        env: &[(&str, &str)],
        analysis: Value,
    ) -> Result<Chapter> {
        let mut canary = self.sample.canary();
        if let Some(spec) = canary.get_mut("spec").and_then(Value::as_object_mut) {
            spec.insert("analysis".to_owned(), analysis);
        }
        self.lab.cp.apply(canary).await?;
        let now = Instant::now();
        let mut chapter = Chapter { name, versions: Vec::new(), begun: now, ended: now };
        self.deploy(&mut chapter, version, env).await?;
        Ok(chapter)
    }

    /// Waits until the canary has a weight, or more.
    pub(super) async fn weight(&self, least: i64) -> Result<()> {
        let what = format!("{} has weight {least}", self.sample.namespace);
        let there = async || {
            Ok(self.weights.so_far().last().is_some_and(|(_, weight)| *weight >= least).then_some(()))
        };
        eventually(&what, PATIENCE, there).await
    }

    /// Waits until the chapter's last version is promoted.
    pub(super) async fn promoted(&mut self, mut chapter: Chapter) -> Result<()> {
        let wanted = chapter.versions.last().map(|version| format!("app:{version}"));
        eventually(&format!("{wanted:?} is the primary"), PATIENCE, async || {
            let path = format!("/apis/apps/v1/namespaces/{}/deployments/app-primary", self.sample.namespace);
            let primary: Value = self.client.request(http::Request::get(path).body(Vec::new())?).await?;
            let image = primary.pointer("/spec/template/spec/containers/0/image").and_then(Value::as_str);
            Ok((image == wanted.as_deref()).then_some(()))
        })
        .await?;
        phase(&self.client, &self.sample, "Succeeded").await?;
        chapter.ended = Instant::now();
        self.played.push(chapter);
        Ok(())
    }

    /// Waits until the chapter's last version is rejected.
    pub(super) async fn rejected(&mut self, mut chapter: Chapter) -> Result<()> {
        phase(&self.client, &self.sample, "Failed").await?;
        chapter.ended = Instant::now();
        self.played.push(chapter);
        Ok(())
    }

    /// Ends the load, and reports.
    pub(super) async fn report(self, report: &mut Report) -> Result<()> {
        let requests = self.load.stop().await;
        ensure!(!requests.is_empty(), "nobody asked");
        let weights = self.weights.so_far();
        let gateway = match self.sample.traffic {
            Traffic::Istio => "Envoy",
            Traffic::Gateway => "Traefik",
            Traffic::Traefik => "Traefik, by TraefikService",
        };
        figures::of_requests(
            report,
            gateway,
            &self.played,
            &requests,
            &weights,
            &self.weights.windows(&requests),
        );
        Ok(())
    }
}

async fn phase(client: &Client, sample: &Sample, wanted: &str) -> Result<()> {
    let path = format!("/apis/flagger.app/v1beta1/namespaces/{}/canaries/app", sample.namespace);
    eventually(&format!("Canary {}/app is {wanted}", sample.namespace), PATIENCE, async || {
        let canary: Value = client.request(http::Request::get(&path).body(Vec::new())?).await?;
        let phase = canary.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
        if wanted == "Succeeded" && phase == "Failed" {
            bail!("the release was rejected: {}", canary.pointer("/status").unwrap_or(&Value::Null));
        }
        Ok((phase == wanted).then_some(()))
    })
    .await
}
