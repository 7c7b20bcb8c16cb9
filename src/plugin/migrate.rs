//! Moving over from Flagger.

use super::connection::{Connection, FIELD_MANAGER};
use super::{DONE, Out, duration, view};
use crate::admission::configuration;
use crate::api::status::Phase;
use crate::cli::check::facts::{Facts, key, text};
use crate::cli::check::gather::{gather, path};
use crate::cli::check::settings;
use crate::cli::manifests::installation;
use crate::controller::clock;
use crate::rollout::subject::Subject;
use anyhow::bail;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Time between two looks at Flagger's pods.
const PAUSE: Duration = Duration::from_millis(500);

/// Moves over from Flagger.
///
/// Flagger is scaled to 0 first, as two controllers would move the same routes; then Sidetrack's manifests are applied, whose
/// definitions take the place of Flagger's and accept the same objects. Nothing else is touched: each Canary goes on with the
/// primary that Flagger made.
///
/// With --namespace the Canaries of that namespace are looked at, and nothing is done: Flagger serves all of them, or none.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Migrate {
    /// Do it.
    #[arg(long)]
    yes: bool,
    /// The image to install; without it, nothing is installed.
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// How long to wait for Flagger's pods to end.
    #[arg(long, default_value = "2m", value_parser = duration, value_name = "TIME")]
    timeout: Duration,
}

/// What a move consists of.
#[derive(Debug, Default)]
struct Move {
    /// Flagger's Deployments that run, by namespace and name.
    flaggers: Vec<(String, String)>,
    /// Objects of the installation that are missing.
    missing: usize,
    /// Canaries that are served, and how they stand.
    served: Vec<String>,
    /// Canaries that will be left alone, and why.
    refused: Vec<String>,
    /// Canaries that Flagger is releasing.
    busy: Vec<String>,
}

impl Move {
    fn of(facts: &Facts) -> anyhow::Result<Self> {
        let mut plan = Self::default();
        let replicas = |d: &Value| d.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
        plan.flaggers = facts.flaggers.clone()?.iter().filter(|d| replicas(d) > 0).map(key).collect();
        plan.missing = facts.installed.iter().filter(|i| matches!(i.live, Ok(None))).count();
        let config = settings::config(facts);
        for object in facts.canaries.clone()? {
            let (namespace, name) = key(&object);
            let at = format!("{namespace}/{name}");
            let (objects, snapshots, templates) = Default::default();
            let Ok(subject) = Subject::new(object, objects, snapshots, &templates, &config) else {
                plan.refused.push(format!("{at}: it cannot be read"));
                continue;
            };
            let phase = view::status(&subject.canary).phase;
            if !subject.review.refusals.is_empty() {
                plan.refused.push(format!("{at}: {}", subject.review.refusals.join(" ")));
                continue;
            }
            if !matches!(phase, Phase::None | Phase::Initialized | Phase::Succeeded | Phase::Failed) {
                plan.busy.push(format!("{at}: {}", phase.as_str()));
            }
            plan.served.push(at);
        }
        Ok(plan)
    }

    fn print(&self, image: Option<&str>) -> String {
        let mut lines = Vec::new();
        for (namespace, name) in &self.flaggers {
            lines.push(format!(
                "scale deployment {name} in {namespace} (Flagger) to 0 and wait until its pods are gone"
            ));
        }
        match (self.missing, image) {
            (0, _) => {}
            (missing, Some(image)) => lines.push(format!("apply Sidetrack's manifests with image {image} ({missing} objects are missing)")),
            (missing, None) => lines.push(format!(
                "not installed: {missing} objects are missing; name an image with --image, or apply them yourself: \
                 sidetrack manifests --image IMAGE | kubectl apply -f -"
            )),
        }
        if lines.is_empty() {
            lines.push("nothing to do: no Flagger runs, and Sidetrack is installed".into());
        }
        let listed = |lines: &mut Vec<String>, heading: &str, items: &[String]| {
            if !items.is_empty() {
                lines.push(heading.to_owned());
                lines.extend(items.iter().map(|item| format!("  {item}")));
            }
        };
        listed(&mut lines, "Canaries that go on:", &self.served);
        listed(
            &mut lines,
            "Canaries that this version leaves alone, their workloads untouched:",
            &self.refused,
        );
        listed(&mut lines, "Releases that Flagger is in the middle of; let them end first:", &self.busy);
        lines.push(String::new());
        lines.join("\n")
    }
}

impl Migrate {
    pub(crate) async fn run(self, at: &Connection, out: &mut Out<'_>) -> anyhow::Result<u8> {
        let mut facts = gather(at.client.clone(), clock::now()).await?;
        if let Some(namespace) = at.only() {
            if self.yes {
                bail!(
                    "Flagger serves the whole cluster: look at one namespace with --namespace, and move over without it"
                );
            }
            facts.keep_namespace(namespace);
        }
        let plan = Move::of(&facts)?;
        out.text(&plan.print(self.image.as_deref()))?;
        if !self.yes {
            out.line("Nothing was changed; do it with --yes.")?;
            return Ok(DONE);
        }
        if !plan.busy.is_empty() && !plan.flaggers.is_empty() {
            bail!("Flagger is in the middle of a release: {}; let it end first", plan.busy.join(", "));
        }
        let installed = facts.live("MutatingWebhookConfiguration", configuration::NAME).is_some();
        if !installed && self.image.is_none() {
            bail!(
                "Sidetrack is not installed, and without Flagger nobody would finish a release: name an image with --image"
            );
        }
        for (namespace, name) in &plan.flaggers {
            self.stop(at, out, namespace, name).await?;
        }
        if let (Some(image), true) = (&self.image, plan.missing > 0) {
            for object in installation(image)?.iter().flat_map(|(_, objects)| objects) {
                let uri = format!("{}?fieldManager={FIELD_MANAGER}&force=true", path(object));
                at.send(http::Method::PATCH, &uri, "application/apply-patch+yaml", object).await?;
                out.line(&format!("applied {} {}", text(object, "/kind"), text(object, "/metadata/name")))?;
            }
        }
        out.line("Done; now: kubectl sidetrack check")?;
        Ok(DONE)
    }

    async fn stop(
        &self,
        at: &Connection,
        out: &mut Out<'_>,
        namespace: &str,
        name: &str,
    ) -> anyhow::Result<()> {
        let uri = format!("/apis/apps/v1/namespaces/{namespace}/deployments/{name}");
        let scale = format!("{uri}/scale?fieldManager={FIELD_MANAGER}");
        at.send(
            http::Method::PATCH,
            &scale,
            "application/merge-patch+json",
            &json!({"spec": {"replicas": 0}}),
        )
        .await?;
        let end = Instant::now().checked_add(self.timeout);
        loop {
            let live = at.read(&uri).await?.unwrap_or_default();
            let left = live.pointer("/status/replicas").and_then(Value::as_i64).unwrap_or(0);
            let seen = live.pointer("/status/observedGeneration") == live.pointer("/metadata/generation");
            if left == 0 && seen {
                return out.line(&format!("scaled deployment {name} in {namespace} to 0"));
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                bail!(
                    "{left} pods of {namespace}/{name} are still there after {:?}: see why, then go on",
                    self.timeout
                );
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
